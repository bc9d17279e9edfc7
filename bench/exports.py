"""What is measured on one file that holds a process; README.md explains every line."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from measure import HASHED, Contender, UnavailableError, copy_and_hash, in_turn, run
from places import make_process, mounted, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from benchmarks import Settings
    from places import Place

    Command = Callable[..., list[str]]

_KINDS = {"minidump": "mdmp", "elfcore": "core"}
_MOST_RSS = Goal("rss", 150 * MIB)
_MANY = 65_000
_LARGE = 4 << 30


def exports(settings: Settings, command: Command) -> Iterator[Row]:
    """Write one file of a process, against ``cp`` of its dump; open a core of many segments."""
    for name in settings.where:
        for size in settings.sizes:
            with place(name, settings.place(name)) as here:
                here.need(3 * size, "export")
                dump = make_process(here.folder / "input", size, settings.segments)
                yield from _written(settings, command, here, dump, Goal("ratio", 1.05 if size >= _LARGE else 1.25))
    size = settings.sizes[0]
    for kind in ("xfs", "btrfs"):
        try:
            yield from _shared(settings, command, kind, size)
        except UnavailableError as reason:
            yield Row("export, reflinks", kind, note=f"not measured: {reason}")
    yield from _opened(settings, command)


def _written(settings: Settings, command: Command, here: Place, dump: Path, goal: Goal) -> Iterator[Row]:
    targets = {kind: here.folder / f"target.{ending}" for kind, ending in {"cp": "dmp", **_KINDS}.items()}
    before = functools.partial(_before, here, dump, targets.values())
    contenders = {"cp": Contender(["cp", str(dump), str(targets["cp"])], before)}
    contenders |= copy_and_hash(dump, targets["cp"], before)
    for kind in _KINDS:
        ours = command("export", "-q", dump, "--to", kind, "-o", targets[kind])
        contenders[kind] = Contender(ours, before)
        contenders[f"{kind}, none"] = Contender([*ours, "--hash", "none"], before)
    size = dump.stat().st_size
    found = in_turn(contenders, min(settings.runs, 5) if size >= _LARGE else settings.runs, settings.warm_up)
    for kind in _KINDS:
        label = f"export --to {kind}, {_size(size)} in {settings.segments}"
        goals = [goal, _MOST_RSS]
        yield Row(f"{label}, --hash none", here.name, found[f"{kind}, none"], "cp", found["cp"], goals=goals)
        if HASHED in found:
            goals = [Goal("ratio", 0.8), _MOST_RSS]
            yield Row(label, here.name, found[kind], f"cp, {HASHED}", found[HASHED], goals=goals)
        else:
            yield Row(label, here.name, note="not measured: openssl is not installed")


def _before(here: Place, dump: Path, targets: Iterable[Path]) -> None:
    """Remove what was written; on a disk, let it come to rest, and read the input into the page cache."""
    for target in targets:
        target.unlink(missing_ok=True)
    if here.slow:
        here.rest()
        run(Contender(["cat", str(dump)]))  # however much memory others have used


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size % (1 << 30) == 0 else f"{size >> 20} MiB"


def _shared(settings: Settings, command: Command, kind: str, size: int) -> Iterator[Row]:
    with (
        place(settings.fast, settings.place(settings.fast)) as outside,
        mounted(kind, max(2 * size, 1 << 30), outside.folder) as here,
    ):
        here.wait = 0.2
        dump = make_process(here.folder / "input", size, settings.segments)
        label = f"reflinks, {size >> 20} MiB in {settings.segments}"
        targets = {export: here.folder / f"target.{ending}" for export, ending in {"cp": "dmp", **_KINDS}.items()}
        before = functools.partial(_before, here, dump, targets.values())
        contenders = {"cp": Contender(["cp", "--reflink=always", str(dump), str(targets["cp"])], before)}
        for export in _KINDS:
            ours = command("export", "-q", dump, "--to", export, "--hash", "none", "-o", targets[export])
            contenders[export] = Contender(ours, before)
        found = in_turn(contenders, settings.runs, settings.warm_up)
        for export in _KINDS:
            name, goals = f"export --to {export}, {label}, --hash none", [Goal("seconds", 0.5), _MOST_RSS]
            yield Row(name, here.name, found[export], "cp --reflink=always", found["cp"], goals=goals)
        used = here.used()
        for export, ending in _KINDS.items():
            run(Contender(command("export", "-q", dump, "--to", export, "-o", here.folder / f"blocks.{ending}")))
            more, used = here.used() - used, here.used()
            share = Row(f"export --to {export}, {label}: blocks used", kind, goals=[Goal("ratio", 0.01)])
            share.baseline, share.ratios, share.note = "bytes of memory", [more / size], f"{more >> 10} KiB"
            yield share


def _opened(settings: Settings, command: Command) -> Iterator[Row]:
    with place(settings.fast, settings.place(settings.fast)) as here:
        many = min(_MANY, settings.many)
        dump = make_process(here.folder / "input", many * 4096, many)
        files = {}
        for kind, ending in _KINDS.items():
            files[kind] = here.folder / f"many.{ending}"
            run(Contender(command("export", "-q", dump, "--to", kind, "-o", files[kind])))
        contenders = {}
        for kind, path in files.items():
            # where one byte lies: the file is opened and one line is printed
            contenders[f"open {kind}"] = Contender(command("locate", "-q", path, f"+0x{path.stat().st_size - 4096:x}"))
            contenders[f"list {kind}"] = Contender(command("segments", "-q", "--format", "csv", path))
        found = in_turn(contenders, settings.runs, settings.warm_up)
        for name, runs in found.items():
            goals = [Goal("seconds", 0.5), _MOST_RSS] if name.startswith("open") else [_MOST_RSS]
            yield Row(f"{name} of {many} segments", here.name, runs, goals=goals)
