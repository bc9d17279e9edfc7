"""What is measured; README.md explains every line. Each benchmark yields rows of the table."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import batches
import compressed
import exports
import frugal
import images
import left_ram
import linux
import mounts
import reports
import rules
import searching
import stores
from measure import HASHED, Contender, UnavailableError, copy_and_hash, in_turn, run
from places import HERE, Place, make_process, make_rows, make_texts, mounted, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_RSS = Goal("rss", 150 * MIB)
_LARGE = 4 << 30


class Settings(NamedTuple):
    """What to measure with; `where` are names of places, `folders` where those are."""

    sizes: list[int]
    segments: int
    rows: int
    most_rows: int
    many: int
    pages: int
    processes: int
    gigabytes: int
    where: list[str]
    folders: dict[str, Path]
    runs: int
    warm_up: int

    def place(self, name: str) -> Path:
        """Return the folder of a place; tmpfs where it can be had, for what need not be on a disk."""
        return self.folders[name]

    @property
    def fast(self) -> str:
        """The place for what is to be measured without a disk."""
        return "tmpfs" if "tmpfs" in self.where else self.where[0]


def _command(*arguments: str | Path) -> list[str]:
    """Return the command line of memcarve as it is installed beside this interpreter."""
    script = Path(sys.executable).with_name("memcarve")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "memcarve"]
    return [*start, *map(str, arguments)]


def _child(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(HERE / "children.py"), *map(str, arguments)]


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size % (1 << 30) == 0 else f"{size >> 20} MiB"


def carve(settings: Settings) -> Iterator[Row]:
    """Map and dump in many segments against ``cp -r`` of the finished folder."""
    for name in settings.where:
        for size in settings.sizes:
            with place(name, settings.place(name)) as here:
                yield from _carve(settings, here, size)


def _carve(settings: Settings, here: Place, size: int) -> Iterator[Row]:
    label = f"{_size(size)} in {settings.segments}"
    here.need(3 * size, f"carve: {label}")
    dump = make_process(here.folder / "input", size, settings.segments)
    finished, target = here.folder / "finished", here.folder / "target"
    run(Contender(_command("carve", "-q", dump, "-o", finished, "--hash", "none")))

    def before() -> None:
        here.clear(target)
        if here.slow:
            for path in (dump, *finished.iterdir()):  # in the page cache, however much memory others have used
                _read(path)

    contenders = {
        "cp -r": Contender(["cp", "-r", str(finished), str(target)], before),
        "copying alone": Contender(_child("copying", dump, target), before, reports=True),
        "whole command": Contender(_command("carve", "-q", dump, "-o", target, "--hash", "none"), before),
        "SHA-256 and labels": Contender(_command("carve", "-q", dump, "-o", target), before),
    }
    contenders |= copy_and_hash(finished, target, before)
    runs = min(settings.runs, 5) if size >= _LARGE else settings.runs
    found = in_turn(contenders, runs, settings.warm_up)
    large = size >= _LARGE
    goals = {
        "copying alone": 1.0,
        "whole command": 0.35 if large else 1.2,
        "SHA-256 and labels": 0.6 if large else None,
    }
    for name, limit in goals.items():
        wanted = [_MOST_RSS] if limit is None else [Goal("ratio", limit), _MOST_RSS]
        yield Row(f"carve {label}: {name}", here.name, found[name], "cp -r", found["cp -r"], goals=wanted)
    default = f"carve {label}: SHA-256 and labels"
    ours = found["SHA-256 and labels"]
    if HASHED in found:
        yield Row(default, here.name, ours, f"cp -r, {HASHED}", found[HASHED], goals=[Goal("ratio", 0.8)])
    else:
        yield Row(default, here.name, note="not measured: openssl is not installed")
    cores = len(os.sched_getaffinity(0))
    busy = [each._replace(seconds=each.processors / cores) for each in ours]
    yield Row(default, here.name, ours, f"its processor time / {cores}", busy, goals=[Goal("ratio", 1.2)])


def _read(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 18)
        while file.readinto(buffer):
            pass


def labels(settings: Settings) -> Iterator[Row]:
    """Look at content beside SHA-256; join segments with regions."""
    size = settings.sizes[0]
    with place(settings.fast, settings.place(settings.fast)) as here:
        target = here.folder / "target"
        for count, kind in ((settings.segments, "segments"), (size // 4096, "segments of one page")):
            label = f"carve {_size(size)} in {count} {kind}, SHA-256"
            dump = make_process(here.folder / str(count), size, count)
            contenders = {
                level: Contender(
                    _command("carve", "-q", dump, "-o", target, "--content", level), lambda: here.clear(target)
                )
                for level in ("none", "headers", "full")
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            for level, goals in (("headers", [Goal("ratio", 1.3), _MOST_RSS]), ("full", [_MOST_RSS])):
                yield Row(f"{label}: --content {level}", here.name, found[level], "none", found["none"], goals=goals)
            here.clear(target)
            here.clear(dump.parent)
    found = in_turn(
        {"ours": Contender(_child("labels", "50000", "10000"), reports=True)}, settings.runs, settings.warm_up
    )
    yield Row("join 50,000 segments, 10,000 regions", "", found["ours"], goals=[Goal("seconds", 0.2)])


def parse(settings: Settings) -> Iterator[Row]:
    """Map parsing, whole processes, against the loop that scripts use; and memory for the largest maps."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        for how in ("joined", "apart"):
            path = make_rows(here.folder / "rows.map", settings.rows, how)
            loops = {"rows kept": "rows_kept", "rows dropped": "rows_dropped"}
            contenders = {name: Contender(_child(child, path)) for name, child in loops.items()}
            contenders["extents"] = Contender(_child("extents", path))
            if how == "joined":
                contenders["segments"] = Contender(_command("segments", "-q", path))
            found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
            for name, loop in itertools.product([name for name in contenders if name not in loops], loops):
                label = f"parse {settings.rows / 1e6:g} M rows, {how}: {name}"
                goals = [Goal("ratio", 15, at_least=True)] if loop == "rows kept" else []
                yield Row(label, here.name, found[name], f"loop, {loop}", found[loop], goals=goals, speedup=True)
        for how in ("joined", "apart"):
            path = make_rows(here.folder / "rows.map", settings.most_rows, how)
            found = in_turn({"ours": Contender(_child("extents", path))}, min(settings.runs, 3), warm_up=0)
            goals = [Goal("rss", 400 * MIB)]
            label = f"parse {settings.most_rows / 1e6:g} M rows, {how}: extents"
            yield Row(label, here.name, found["ours"], goals=goals)


def reflinks(settings: Settings) -> Iterator[Row]:
    """Carving by sharing blocks against creating as many empty files."""
    size = settings.sizes[0]
    for kind in ("xfs", "btrfs"):
        try:
            yield from _reflinks(settings, kind, size)
        except UnavailableError as reason:
            yield Row("reflinks", kind, note=f"not measured: {reason}")


def _reflinks(settings: Settings, kind: str, size: int) -> Iterator[Row]:
    label = f"reflinks, {_size(size)} in {settings.segments}"
    with (
        place(settings.fast, settings.place(settings.fast)) as outside,
        mounted(kind, max(2 * size, 1 << 30), outside.folder) as here,
    ):
        here.wait = 0.2
        dump = make_process(here.folder / "input", size, settings.segments)
        target = here.folder / "target"

        def before() -> None:
            here.clear(target)

        contenders = {
            "empty": Contender(_child("empty", target, str(settings.segments)), before, reports=True),
            "ours": Contender(_child("copying", dump, target), before, reports=True),
        }
        found = in_turn(contenders, settings.runs, settings.warm_up)
        goals = [Goal("ratio", 3.0), _MOST_RSS]
        yield Row(f"{label}: copying alone", kind, found["ours"], "empty files", found["empty"], goals=goals)
        blocks = {}
        for name, contender in contenders.items():
            before()
            used = here.used()
            run(contender._replace(before=lambda: None))
            blocks[name] = here.used() - used
        more = blocks["ours"] - blocks["empty"]
        share = Row(f"{label}: blocks used", kind, goals=[Goal("ratio", 0.01)], note=_blocks(blocks, more))
        share.baseline, share.ratios = "bytes carved", [more / size]
        yield share


def _blocks(blocks: dict[str, int], more: int) -> str:
    return f"{blocks['ours'] >> 10} KiB, {more >> 10} KiB more than as many empty files"


def many(settings: Settings) -> Iterator[Row]:
    """Cost per segment, for many segments against a tenth of them: a page each."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        few = settings.many // 10
        here.need(3 * 4096 * settings.many, "many segments")
        target = here.folder / "target"
        contenders = {}
        for count in (few, settings.many):
            dump = make_process(here.folder / str(count), count * 4096, count)
            for hashes in ("none", "sha256"):
                command = _command("carve", "-q", dump, "-o", target, "--hash", hashes)
                contenders[f"{count} {hashes}"] = Contender(command, lambda: here.clear(target))
        found = in_turn(contenders, min(settings.runs, 3), settings.warm_up)
        here.clear(target)
        for hashes in ("none", "sha256"):
            yield Row(
                f"{settings.many} segments, --hash {hashes}: cost per segment",
                here.name,
                found[f"{settings.many} {hashes}"],
                f"{few} segments",
                found[f"{few} {hashes}"],
                goals=[Goal("ratio", 1.15), _MOST_RSS],
                scale=0.1,
            )


def start(settings: Settings) -> Iterator[Row]:
    """How long the command takes to say anything, and to list the segments of a small dump."""
    contenders = {
        "python": Contender([sys.executable, "-c", "pass"]),
        "numpy": Contender([sys.executable, "-c", "import numpy"]),
        "--help": Contender(_command("--help")),
        "--version": Contender(_command("--version")),
        "segments": Contender(_command("segments", "-q", HERE.parent / "examples" / "pid.1624.dmp")),
    }
    found = in_turn(contenders, 3 * settings.runs, settings.warm_up)
    for name in ("--help", "--version"):
        goals = [Goal("seconds", 0.35)]
        yield Row(f"memcarve {name}", "", found[name], "python -c pass", found["python"], goals=goals)
    for name, goals in (("python -c 'import numpy'", []), ("memcarve segments of the example", [Goal("more", 0.12)])):
        ours = found["numpy" if "numpy" in name else "segments"]
        yield Row(name, "", ours, "python -c pass", found["python"], goals=goals)


def find(settings: Settings) -> Iterator[Row]:
    """Search a dump, against reading it."""
    size = settings.sizes[0]
    for name in settings.where:
        with place(name, settings.place(name)) as here:
            dump = make_process(here.folder / "input", size, settings.segments)
            here.rest()
            pattern = "a needle in the haystack"
            contenders = {
                "cat": Contender(["cat", str(dump)]),
                "find": Contender(_command("find", "-q", dump, pattern)),
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            label = f"find a text, {_size(size)}"
            yield Row(f"{label}: warm", name, found["find"], "cat > /dev/null", found["cat"], goals=[_MOST_RSS])
            if here.slow:
                drop = functools.partial(_drop, dump)
                cold = {key: contender._replace(before=drop) for key, contender in contenders.items()}
                found = in_turn(cold, settings.runs, settings.warm_up)
                goals = [Goal("ratio", 1.1), _MOST_RSS]
                yield Row(f"{label}: from disk", name, found["find"], "cat > /dev/null", found["cat"], goals=goals)


def strings(settings: Settings) -> Iterator[Row]:
    """List the strings of a dump, of noise and with texts, against binutils' strings."""
    size = settings.sizes[0]
    if shutil.which("strings") is None:
        raise UnavailableError("binutils' strings is not installed")
    with place(settings.fast, settings.place(settings.fast)) as here:
        dump = make_process(here.folder / "input", size, settings.segments)
        for content in ("noise", "noise and texts"):
            if content != "noise":
                make_texts(dump)
            least = ("--min-length", "8")
            contenders = {
                "theirs": Contender(["strings", "-a", "-n", "8", str(dump)]),
                "ascii": Contender(_command("strings", "-q", dump, *least, "--encoding", "ascii")),
                "all": Contender(_command("strings", "-q", dump, *least)),
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            for ours, words in (("ascii", "ASCII"), ("all", "ASCII, UTF-8, UTF-16")):
                label = f"strings, {_size(size)} of {content}: {words}"
                goals = [Goal("ratio", 1.5), Goal("rss", 300 * MIB)]
                yield Row(label, settings.fast, found[ours], "strings -a -n 8", found["theirs"], goals=goals)


def _drop(path: Path) -> None:
    """Have the system forget what it keeps of a file in memory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _commanded(benchmark: Callable[..., Iterator[Row]]) -> Callable[[Settings], Iterator[Row]]:
    return lambda settings: benchmark(settings, _command)


ALL: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "carve": carve,
    "parse": parse,
    "reflinks": reflinks,
    "many": many,
    "labels": labels,
    "start": start,
    "find": find,
    "searching": _commanded(searching.searching),
    "strings": strings,
    "scan": _commanded(rules.scan),
    "export": _commanded(exports.exports),
    "image": _commanded(images.image),
    "all": _commanded(images.everything),
    "owners": _commanded(images.owners),
    "hunt": _commanded(images.hunt),
    "sparse": _commanded(images.sparse),
    "listing": _commanded(images.listing),
    "linux": _commanded(linux.machines),
    "arm64": _commanded(linux.arm64),
    "frugal": _commanded(frugal.frugal),
    "stores": _commanded(stores.stores),
    "compressed": _commanded(compressed.compressed),
    "left-ram": _commanded(left_ram.left_ram),
    "report": reports.report,
    "mount": _commanded(mounts.mount),
    "batch": _commanded(batches.batch),
}

NEEDED = [program for program in ("cp", "rm", "cat", "sync", "find", "truncate") if shutil.which(program) is None]
