"""What is measured on Linux: real machines' memory, and page tables of ARM64; README.md explains every line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from measure import Contender, UnavailableError, anonymous, in_turn
from places import HERE, make_image, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks import Settings
    from places import Place

_LARGE = 8 << 30
_MANY = 300  # processes
_ROOT = "0x1000"  # of the page tables that inputs.py makes


class _Machine(NamedTuple):
    """A real machine: where its files are, how many bytes of memory it has, and how many processes."""

    folder: Path
    memory: int
    processes: int
    largest: int = 1  # the process with the most regions

    def image(self, here: Place) -> Path:
        """Return its memory, as it lies there or decoded into a folder."""
        ready = self.folder / "memory.raw"
        if ready.is_file():
            return ready
        target = here.folder / f"{self.folder.name}.raw"
        if not target.exists():
            here.need(self.memory, self.folder.name)
            packed = self.folder / "memory.raw.zst"
            subprocess.run(["zstd", "-dqf", "--sparse", "--long=28", packed, "-o", target], check=True)
        return target


def usual_machines() -> list[_Machine]:
    """Return the machines of the folders that MEMCARVE_MACHINES names, or of the usual one."""
    if shutil.which("zstd") is None:
        raise UnavailableError("zstd is missing: real machines are packed with it")
    named = os.environ.get("MEMCARVE_MACHINES")
    folders = named.split(os.pathsep) if named else [str(HERE.parent.parent / "shared" / "machines")]
    found = []
    for folder in sorted(path for each in folders for path in Path(each).glob("linux-*")):
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            said = subprocess.run(["zstd", "-dcq", folder / "truth.json.zst"], check=True, capture_output=True).stdout
            ready = folder / "memory.raw"
            size = ready.stat().st_size if ready.exists() else _unpacked(folder / "memory.raw.zst")
            processes = [process for process in json.loads(said)["processes"] if process.get("vmas")]
            largest = max(processes, key=lambda process: len(process["vmas"]))
            found.append(_Machine(folder, size, len(processes), int(largest["pid"])))
    if not found:
        raise UnavailableError(f"no Linux machine is in {', '.join(folders)}; MEMCARVE_MACHINES names the folders")
    return found


def _unpacked(packed: Path) -> int:
    """Return the size of what a file of zstd holds."""
    listed = subprocess.run(["zstd", "-lv", packed], check=True, capture_output=True, text=True).stdout
    line = next(line for line in listed.splitlines() if line.startswith("Decompressed Size:"))
    return int(line.split("(")[-1].split()[0])


def machines(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Find the processes of the machine of most memory, and list regions and threads of that of most processes."""
    found = usual_machines()
    largest, busiest = max(found, key=lambda it: it.memory), max(found, key=lambda it: it.processes)
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = largest.image(here)
        contenders = {
            "processes": Contender(command("processes", "-q", path)),
            "processes --listed": Contender(command("processes", "-q", "--listed", path)),
            "cat": Contender(["cat", str(path)]),
        }
        results = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"{largest.folder.name}, {largest.memory / (1 << 30):.3g} GiB"
        for name, seconds in (("processes", 3.0), ("processes --listed", 0.8)):
            row = Row(f"{name}, {label}", here.name, results[name], "cat > /dev/null", results["cat"])
            row.rss = anonymous(contenders[name])
            row.goals = [Goal("seconds", seconds), Goal("rss", 300 * MIB)] if largest.memory >= _LARGE else []
            yield row
        path = busiest.image(here)
        child = Contender([sys.executable, str(HERE / "children.py"), "known", str(path)])
        goals = [Goal("seconds", 2.0 * busiest.processes / _MANY)]
        label = f"regions and threads of {busiest.processes} processes, {busiest.folder.name}"
        yield Row(label, here.name, in_turn({"known": child}, settings.runs, settings.warm_up)["known"], goals=goals)


def arm64(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Walk the same pages by page tables of ARM64 and of x86-64."""
    del command
    with place(settings.fast, settings.place(settings.fast)) as here:
        contenders = {}
        for kind in ("x64", "arm64-4k-48"):
            path = make_image(here.folder / f"{kind}.raw", kind, settings.pages)
            walk = ["walk_root", str(path), _ROOT, kind]
            contenders[kind] = Contender([sys.executable, str(HERE / "children.py"), *walk], reports=True)
        found = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"page walk of ARM64, {settings.pages} scattered pages"
        yield Row(
            label, here.name, found["arm64-4k-48"], "the same of x86-64", found["x64"], goals=[Goal("ratio", 1.1)]
        )
