"""What is measured on images of a machine's memory; README.md explains every line."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from measure import HASHED, Contender, UnavailableError, anonymous, copy_and_hash, in_turn, run
from places import HERE, make_image, make_questions, place
from table import MIB, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks import Settings
    from places import Place

PID = 800  # the process of many pages
_MOST = Goal("rss", 250 * MIB)


def image(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """One process of scattered pages: the walk, its segments, carving and exporting it, finding it."""
    label = f"{settings.pages} scattered pages"
    for name in settings.where:
        with place(name, settings.place(name)) as here:
            here.need(5 * 4096 * settings.pages, label)
            path = make_image(here.folder / "mem.raw", "big", settings.pages)
            if name == settings.fast:
                yield from _walking(settings, command, path, name, label)
            yield from _writing(settings, command, path, here, label)


def _writing(
    settings: Settings, command: Callable[..., list[str]], path: Path, here: Place, label: str
) -> Iterator[Row]:
    finished, target = here.folder / "finished", here.folder / "target"

    def before() -> None:
        here.clear(target)

    run(Contender(command("carve", "-q", path, "--pid", str(PID), "-o", finished)))
    ours = command("carve", "-q", path, "--pid", str(PID), "-o", target)
    contenders = {
        "cp": Contender(["cp", "-r", str(finished), str(target)], before),
        "sha256": Contender(ours, before),
        "none": Contender([*ours, "--hash", "none"], before),
    }
    found = in_turn(contenders, settings.runs, settings.warm_up)
    for kind, most in (("none", 1.3), ("sha256", 1.6)):
        row = Row(f"carve {label}, --hash {kind}", here.name, found[kind], "cp -r", found["cp"])
        row.goals, row.rss = [Goal("ratio", most), _MOST], anonymous(contenders[kind])
        yield row
    yield from _pairs(settings, command, path, here, label)


def _pairs(settings: Settings, command: Callable[..., list[str]], path: Path, here: Place, label: str) -> Iterator[Row]:
    pair, target = here.folder / "pair", here.folder / "target"

    def before() -> None:
        here.clear(target)

    export = command("export", "-q", path, "--pid", str(PID), "--to", "memmap", "-o")
    run(Contender([*export, str(pair)]))
    contenders = {
        "cp": Contender(["cp", "-r", str(pair), str(target)], before),
        **copy_and_hash(pair, target, before),
        "sha256": Contender([*export, str(target)], before),
        "none": Contender([*export, str(target), "--hash", "none"], before),
    }
    found = in_turn(contenders, settings.runs, settings.warm_up)
    name = f"export --to memmap, {label}"
    row = Row(f"{name}, --hash none", here.name, found["none"], "cp -r", found["cp"])
    row.goals, row.rss = [Goal("ratio", 1.5), _MOST], anonymous(contenders["none"])
    yield row
    if HASHED in found:
        row = Row(name, here.name, found["sha256"], f"cp -r, {HASHED}", found[HASHED])
        row.goals, row.rss = [Goal("ratio", 0.8), _MOST], anonymous(contenders["sha256"])
        yield row
    else:
        yield Row(name, here.name, note="not measured: openssl is not installed")


def _walking(settings: Settings, command: Callable[..., list[str]], path: Path, name: str, label: str) -> Iterator[Row]:
    child = [sys.executable, str(HERE / "children.py")]
    contenders = {
        "slot by slot": Contender([*child, "walk_slowly", str(path), str(PID)], reports=True),
        "walk": Contender([*child, "walk", str(path), str(PID)], reports=True),
        "segments": Contender(command("segments", "-q", path, "--pid", str(PID))),
        "processes": Contender(command("processes", "-q", path)),
        "cat": Contender(["cat", str(path)]),
    }
    found = in_turn(contenders, settings.runs, settings.warm_up)
    slow = found["slot by slot"]
    yield Row(f"page walk, {label}", name, found["walk"], "a walk slot by slot", slow, speedup=True)
    yield Row(f"segments, {label}", name, found["segments"], "the walk alone, slot by slot", slow, speedup=True)
    goals = [Goal("seconds", 1.0)]
    yield Row(f"processes of {label}", name, found["processes"], "cat > /dev/null", found["cat"], goals=goals)


def everything(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Every process of a machine, with one processor and with all."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "many", settings.processes)
        target, finished = here.folder / "target", here.folder / "finished"

        def before() -> None:
            here.clear(target)

        ours = command("carve", "-q", path, "--all", "-o", target)
        run(Contender([*ours[:-1], str(finished)], exits=(0, 3)))
        contenders = {
            "cp": Contender(["cp", "-r", str(finished), str(target)], before),
            "one": Contender(["taskset", "-c", "0", *ours], before, exits=(0, 3)),
            "all": Contender(ours, before, exits=(0, 3)),
        }
        found = in_turn(contenders, settings.runs, settings.warm_up)
        label = f"carve --all, {settings.processes} processes"
        row = Row(label, here.name, found["all"], "cp -r", found["cp"], goals=[Goal("ratio", 2.0), _MOST])
        row.rss = anonymous(contenders["all"])
        yield row
        yield Row(f"{label}: all processors", here.name, found["all"], "one processor", found["one"], speedup=True)


def owners(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Tell the owners of many offsets of a large image of many processes."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "wide", settings.processes)
        lines = make_questions(here.folder / "strings.txt", path, settings.many * 2)
        contenders = {
            "owners": Contender(command("owners", "-q", path, "--offsets", lines, "--radix", "x", "--format", "csv")),
            "processes": Contender(command("processes", "-q", path)),
        }
        found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
        label = f"owners of {settings.many * 2} offsets, {settings.processes} processes"
        row = Row(label, here.name, found["owners"], "memcarve processes", found["processes"])
        row.goals, row.rss = [Goal("seconds", 5.0), Goal("rss", 300 * MIB)], anonymous(contenders["owners"])
        yield row


def hunt(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Look for everything that deserves a look in a large image of many processes."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "settled", settings.processes)
        contenders = {
            "hunt": Contender(command("hunt", "-q", path, "--format", "json")),
            "processes": Contender(command("processes", "-q", path)),
        }
        found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
        label = f"hunt, {settings.processes} processes"
        row = Row(label, here.name, found["hunt"], "memcarve processes", found["processes"])
        row.goals, row.rss = [Goal("seconds", 10.0), Goal("rss", 300 * MIB)], anonymous(contenders["hunt"])
        yield row


def sparse(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """Look into a large image of which little was ever touched."""
    with place(settings.fast, settings.place(settings.fast)) as here:
        path = make_image(here.folder / "mem.raw", "sparse", settings.gigabytes)
        contenders = {
            "processes": Contender(command("processes", "-q", path)),
            "segments": Contender(command("segments", "-q", path, "--name", "explorer.exe")),
            "cat": Contender(["cat", str(path)]),
        }
        found = in_turn(contenders, min(settings.runs, 5), settings.warm_up)
        for name in ("processes", "segments"):
            row = Row(f"{name}, sparse image of {settings.gigabytes} GiB", here.name, found[name])
            row = Row(row.name, here.name, found[name], "cat > /dev/null", found["cat"], goals=[_MOST])
            yield row


def listing(settings: Settings, command: Callable[..., list[str]]) -> Iterator[Row]:
    """List the processes of a large image of which little was ever touched, and of one that is full."""
    child = [sys.executable, str(HERE / "children.py"), "memprocfs"]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    if done.returncode:
        # the first error says what is missing, the last one that something is
        errors = [line for line in done.stderr.splitlines() if "Error: " in line]
        raise UnavailableError(f"MemProcFS cannot run: {errors[0] if errors else done.returncode}")
    for kind, count, label in (
        ("sparse", settings.gigabytes, f"sparse image of {settings.gigabytes} GiB"),
        ("dense", settings.gigabytes << 7, f"full image of {settings.gigabytes << 7} MiB"),
    ):
        with place(settings.fast, settings.place(settings.fast)) as here:
            path = make_image(here.folder / "mem.raw", kind, count)
            contenders = {
                "processes": Contender(command("processes", "-q", path)),
                "processes --listed": Contender(command("processes", "-q", "--listed", path)),
                "MemProcFS": Contender([*child, str(path)]),
            }
            found = in_turn(contenders, settings.runs, settings.warm_up)
            theirs = found.pop("MemProcFS")
            for name, ours in found.items():
                row = Row(f"{name}, {label}", here.name, ours, "MemProcFS", theirs)
                if name == "processes --listed":
                    row.goals = [Goal("ratio", 2.0), *([Goal("seconds", 0.5)] if kind == "sparse" else [])]
                yield row
