"""What is measured on one file that holds a process; README.md explains every line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measure import Contender, UnavailableError, in_turn, run
from places import make_process, mounted, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks import Settings
    from places import Place

    Command = Callable[..., list[str]]

_KINDS = {"minidump": "mdmp", "elfcore": "core"}
_MOST_RSS = Goal("rss", 150 * MIB)
_MANY = 65_000


def exports(settings: Settings, command: Command) -> Iterator[Row]:
    """Write one file of a process, against ``cp`` of its dump; open a core of many segments."""
    size = settings.sizes[0]
    for name in settings.where:
        with place(name, settings.place(name)) as here:
            here.need(3 * size, "export")
            dump = make_process(here.folder / "input", size, settings.segments)
            label = f"{size >> 20} MiB in {settings.segments}"
            yield from _written(settings, command, here, dump, label, Goal("ratio", 1.1))
    for kind in ("xfs", "btrfs"):
        try:
            yield from _shared(settings, command, kind, size)
        except UnavailableError as reason:
            yield Row("export, reflinks", kind, note=f"not measured: {reason}")
    yield from _opened(settings, command)


def _written(
    settings: Settings, command: Command, here: Place, dump: Path, label: str, goal: Goal, *copy: str
) -> Iterator[Row]:
    targets = {kind: here.folder / f"target.{ending}" for kind, ending in {"cp": "dmp", **_KINDS}.items()}

    def before() -> None:
        for target in targets.values():
            target.unlink(missing_ok=True)
        if here.slow:
            here.rest()
            run(Contender(["cat", str(dump)]))  # into the page cache, however much memory others have used

    contenders = {"cp": Contender(["cp", *copy, str(dump), str(targets["cp"])], before)}
    for kind in _KINDS:
        contenders[kind] = Contender(command("export", "-q", dump, "--to", kind, "-o", targets[kind]), before)
    found = in_turn(contenders, settings.runs, settings.warm_up)
    against = " ".join(["cp", *copy])
    for kind in _KINDS:
        goals = [goal, _MOST_RSS]
        yield Row(f"export --to {kind}, {label}", here.name, found[kind], against, found["cp"], goals=goals)


def _shared(settings: Settings, command: Command, kind: str, size: int) -> Iterator[Row]:
    with (
        place(settings.fast, settings.place(settings.fast)) as outside,
        mounted(kind, max(2 * size, 1 << 30), outside.folder) as here,
    ):
        here.wait = 0.2
        dump = make_process(here.folder / "input", size, settings.segments)
        label = f"reflinks, {size >> 20} MiB in {settings.segments}"
        yield from _written(settings, command, here, dump, label, Goal("seconds", 0.5), "--reflink=always")
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
