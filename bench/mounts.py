"""What is measured on a mounted folder; README.md explains every line."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Contender, Run, UnavailableError, in_turn, run
from places import HERE, make_image, make_process, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings

    Command = Callable[..., list[str]]

_MOST_RSS = Goal("rss", 200 * MIB)
_ZEROS = Path(__file__).with_name("zeros.py")
_RULE = "rule needle { strings: $a = { 5a 11 c0 de 77 ?? 01 } condition: $a }\n"


def mount(settings: Settings, command: Command) -> Iterator[Row]:
    """Read one large segment, list many small ones, and search a folder of them."""
    _need()
    with place(settings.fast, settings.place(settings.fast)) as here:
        size = settings.sizes[0]
        here.need(3 * size, "mount")
        dump = make_process(here.folder / "large", size, 1)
        where, zeros = here.folder / "mounted", here.folder / "zeros"
        with _served(command("mount", dump, where), where) as pid:
            segment = max(_segments(where), key=lambda path: path.stat().st_size)
            nothing, size = zeros / "zeros", segment.stat().st_size
            contenders = {
                "ours": Contender(["cat", str(segment)], lambda: _forget(segment)),
                "zeros": Contender(["cat", str(nothing)], lambda: _forget(nothing)),
            }
            with _served(_zeros(zeros, size), zeros):
                found = in_turn(contenders, settings.runs, settings.warm_up)
            ours = _with_memory(found["ours"], pid)
            goals = [Goal("ratio", 1 / 0.8), _MOST_RSS]
            label = f"mount: cat of a segment of {size >> 20} MiB"
            yield Row(label, here.name, ours, "zeros, served", found["zeros"], goals=goals)
        count = settings.many // 10
        dump = make_process(here.folder / "many", count * 4096, count)
        with _served(command("mount", dump, where), where) as pid:
            folder = _segments(where)[0].parent
            listed = in_turn({"ours": Contender(["ls", "-l", str(folder)])}, settings.runs, 0)["ours"]
            goals = [Goal("seconds", 1.0), _MOST_RSS]
            yield Row(f"mount: ls -l of {count} segments", here.name, _with_memory(listed, pid), goals=goals)
        yield from _searched(settings, command, here.folder, here.name)
        yield from _beside(settings, command, here.folder, here.name)


def _searched(settings: Settings, command: Command, folder: Path, name: str) -> Iterator[Row]:
    """Search segments with YARA, mounted and carved."""
    label = "mount: yara -r of segments"
    if shutil.which("yara") is None:
        yield Row(label, name, note="not measured: yara is not installed")
        return
    dump = make_process(folder / "searched", settings.sizes[0], settings.segments)
    carved, where, rules = folder / "carved", folder / "mounted", folder / "needle.yar"
    rules.write_text(_RULE)
    run(Contender(command("carve", "-q", dump, "-o", carved, "--hash", "none")))
    for extra in carved.glob("*.json"):
        extra.unlink()
    with _served(command("mount", dump, where), where) as pid:
        segments = _segments(where)
        contenders = {
            "mounted": Contender(
                ["yara", "-r", str(rules), str(segments[0].parent)],
                lambda: [_forget(each) for each in segments] and None,
            ),
            "carved": Contender(["yara", "-r", str(rules), str(carved)]),
        }
        found = in_turn(contenders, settings.runs, settings.warm_up)
        ours = _with_memory(found["mounted"], pid)
        yield Row(label, name, ours, "carved", found["carved"], goals=[Goal("ratio", 1.3), _MOST_RSS])


def _beside(settings: Settings, command: Command, folder: Path, name: str) -> Iterator[Row]:
    """Read a machine's memory, mounted and in the file system of MemProcFS's library, which needs no kernel."""
    label = f"mount: cat of image.raw of {settings.gigabytes << 6} MiB"
    child = [sys.executable, str(HERE / "children.py")]
    if subprocess.run([*child, "memprocfs"], capture_output=True, check=False).returncode:
        yield Row(label, name, note="not measured: MemProcFS (memprocfs) is not installed, or cannot run")
        return
    image, where = make_image(folder / "mem.raw", "dense", settings.gigabytes << 6), folder / "machine"
    with _served(command("mount", image, where), where) as pid:
        mounted = where / "image.raw"
        contenders = {
            "mounted": Contender(["cat", str(mounted)], lambda: _forget(mounted)),
            "MemProcFS": Contender([*child, "memprocfs_pages", str(image)], reports=True),
        }
        found = in_turn(contenders, settings.runs, settings.warm_up)
        yield Row(label, name, _with_memory(found["mounted"], pid), "MemProcFS", found["MemProcFS"], goals=[_MOST_RSS])


def _need() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UnavailableError("/dev/fuse is not there or not ours")
    if importlib.util.find_spec("mfusepy") is None:
        raise UnavailableError("mfusepy is not installed (memcarve[mount])")
    if shutil.which("fusermount3") is None:
        raise UnavailableError("fusermount3 is not installed (fuse3)")


def _zeros(where: Path, size: int) -> list[str]:
    return [sys.executable, str(_ZEROS), str(where), str(size)]


@contextlib.contextmanager
def _served(command: list[str], where: Path) -> Iterator[int]:
    """Run a program that mounts a folder, and says so; yield its number."""
    where.mkdir(exist_ok=True)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        said = threading.Timer(60, server.kill)
        said.start()
        while not os.path.ismount(where):
            if server.stderr is None or not server.stderr.readline():
                raise UnavailableError(f"{command[0]} did not mount")
        said.cancel()
        try:
            yield server.pid
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(where)], check=False, capture_output=True)
            server.communicate(timeout=30)


def _segments(where: Path) -> list[Path]:
    """Return the files of the one process's segments."""
    [process] = (where / "processes").iterdir()
    return sorted((process / "segments").iterdir())


def _forget(path: Path) -> None:
    """Have the system forget what it keeps of a file: else it is not asked for again."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _with_memory(runs: list[Run], pid: int) -> list[Run]:
    """Return runs with the peak of the server's memory instead of that of who reads."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        most = next((int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM")), 0)
    return [each._replace(rss=most) for each in runs]
