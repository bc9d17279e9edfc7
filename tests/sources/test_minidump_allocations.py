"""Rows of MemoryInfoList that are one allocation: what is judged, ends and is found for all of them together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import sinking
from headers import DATA, TEXT, dll_page
from memcarve.labels.metadata_index import Known
from memcarve.labels.modules import find_modules
from memcarve.metadata import Module, Region, Regions
from memcarve.process import Selection
from memory import PAGE
from minidumps import (
    AMD64,
    EXECUTE_READ,
    FREE,
    GUARD,
    IMAGE,
    LINUX,
    MAPPED,
    PRIVATE,
    READONLY,
    RESERVE,
    Dump,
    Info,
    Thread,
)
from sinking import export_elfcore, export_minidump

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memcarve.process import ProcessMemory


ONE, TWO = 0x140000000, 0x140000000 + 3 * PAGE  # two images, the one right behind the other
HEADER = dll_page([(1, 1, TEXT), (2, 1, DATA)], size=3)
PROGRAM = HEADER + b"\xcc" * PAGE + b"data" * (PAGE // 4)


def parts(base: int, allocation: int | None = None, kind: int = IMAGE) -> list[Info]:
    """Return the rows of an image of three pages, as VirtualQuery gives them: a row for each protection."""
    of = base if allocation is None else allocation
    return [
        Info(base, PAGE, of, READONLY, kind, began_with=0x80),
        Info(base + PAGE, PAGE, of, EXECUTE_READ, kind, began_with=0x80),
        Info(base + 2 * PAGE, PAGE, of, kind=kind, began_with=0x80),
    ]


def with_images(infos: Sequence[Info], modules: Sequence[tuple[int, int, str]], **other: Any) -> Dump:
    """Return a minidump of the two images."""
    return Dump([(ONE, PROGRAM + PROGRAM)], infos=infos, modules=modules, **other)


def findings(process: ProcessMemory, content: str = "headers") -> list[tuple[str, int]]:
    """Return all findings: flag and address."""
    labels = process.segments(Selection("all"), labeller=memcarve.Labelling(content, read=True)).labels
    assert labels is not None
    rows = [(row["flag"], int(row["address"], 16)) for row in labels.summary()["findings"]]
    flagged = {name for index in range(len(labels.segments)) for name in labels.flags(index)}  # type: ignore[attr-defined]
    assert flagged == {flag for flag, _ in rows}
    return rows


A, B = (ONE, 3 * PAGE, "C:\\a.exe"), (TWO, 3 * PAGE, "C:\\b.dll")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([A, B], []),
        ([A], [("module-unlisted", TWO)]),
        ([B], [("module-unlisted", ONE)]),
        ([], [("module-unlisted", ONE), ("module-unlisted", TWO)]),
    ],
)
def test_unlisted_images(opened: Any, modules: list[Any], expected: list[tuple[str, int]]) -> None:
    """An image is listed with all its rows, or is not, which is one finding; its header is looked for at its start."""
    assert findings(opened(with_images([*parts(ONE), *parts(TWO)], modules))) == expected


def test_order_of_rows(opened: Any) -> None:
    """The order in which rows are listed does not matter."""
    infos = [*parts(ONE), *parts(TWO)]
    random.Random(3).shuffle(infos)  # noqa: S311
    assert findings(opened(with_images(infos, [A]))) == [("module-unlisted", TWO)]


def test_flags_of_parts(opened: Any) -> None:
    """If segments end at regions, each part of an image that no list names has the flag, and none of a listed one."""
    process = opened(with_images([*parts(ONE), *parts(TWO)], [A]))
    segments = process.segments(Selection("all"), "region", memcarve.Labelling("none"))
    flags = {each.start: [*segments.labels.flags(index)] for index, each in enumerate(segments)}
    assert flags == {
        **{ONE + page * PAGE: [] for page in range(3)},
        **{TWO + page * PAGE: ["module-unlisted"] for page in range(3)},
    }


def test_wiped_header_of_an_image(opened: Any) -> None:
    """An image whose first page holds no header is told once, at that page."""
    dump = Dump([(ONE, bytes(PAGE) + PROGRAM[PAGE:])], infos=parts(ONE), modules=[A])
    assert findings(opened(dump)) == [("wiped-header", ONE)]


@pytest.mark.parametrize(
    "allocation",
    [
        0,  # not known
        ONE + PAGE,  # behind the first row
        TWO + (1 << 30),  # behind all
        0x10000,  # in what is listed as something else
        0x20000,  # in what is free
    ],
)
@pytest.mark.parametrize(("modules", "expected"), [([A], []), ([], [("module-unlisted", ONE)])])
def test_allocation_bases_that_cannot_be(
    opened: Any, allocation: int, modules: list[Any], expected: list[tuple[str, int]]
) -> None:
    """Images whose AllocationBase cannot be right are one where they touch each other; a note says so."""
    others = [Info(0x10000, 0x10000, 0x10000), Info(0x20000, 0x10000, 0, kind=0, state=FREE, protect=1)]
    dump = Dump([(ONE, PROGRAM)], infos=[*others, *parts(ONE, allocation)], modules=modules)
    process = opened(dump)
    assert findings(process) == expected
    assert any("the AllocationBase cannot be right" in note for note in process.metadata.notes)


def test_unknown_allocation_base_of_listed_modules(opened: Any) -> None:
    """Where no AllocationBase is known, an image is part of the module that is listed there, which may have gaps."""
    infos = [*parts(ONE, 0), *parts(TWO, 0)]
    process = opened(with_images(infos, [A, B]))
    assert findings(process) == []
    assert [row.allocation for row in process.metadata.regions[0]] == [ONE] * 3 + [TWO] * 3
    gap = [parts(ONE, 0)[0], parts(ONE, 0)[2]]
    assert findings(opened(with_images(gap, [A]))) == []


def test_first_row_is_not_listed(opened: Any) -> None:
    """An image whose first row is missing in the list is the module's at its AllocationBase all the same."""
    infos = parts(ONE)[1:]
    assert findings(opened(with_images(infos, [A]))) == []
    process = opened(with_images(infos, []))
    assert [row for row in findings(process) if row[0] == "module-unlisted"] == [("module-unlisted", ONE + PAGE)]
    assert process.metadata.regions[0].module_end(Module(ONE, 9 * PAGE)) == ONE + 3 * PAGE


def test_module_ends(opened: Any) -> None:
    """A module ends with its allocation, whatever it says, also if another image begins there, or memory of no kind."""
    for kind in (IMAGE, MAPPED, PRIVATE):
        infos = [*parts(ONE, kind=kind), *parts(TWO, kind=kind)]
        process = opened(with_images(infos, [(ONE, 5 * PAGE, "a.exe"), (TWO, 2 * PAGE, "b.dll")]))
        known = Known(process.metadata)
        assert [known.module_end(listed.module) for listed in known.modules] == [TWO, TWO + 2 * PAGE]


def test_found_modules(opened: Any) -> None:
    """Images are found where their allocations begin: each once, also if one begins where another one ends."""
    process = opened(with_images([*parts(ONE), *parts(TWO)], []))
    found = find_modules(process).modules
    assert [(module.start, module.end, module.loaded) for module in found] == [
        (ONE, TWO, True),
        (TWO, TWO + 3 * PAGE, True),
    ]


@pytest.mark.parametrize("rows_of_a", [True, False])
def test_an_image_that_pretends_to_be_part_of_a_listed_one(opened: Any, rows_of_a: bool) -> None:  # noqa: FBT001 - of pytest
    """Behind the end of a listed module an image is one of its own, whatever AllocationBase says; a note tells."""
    for base in (ONE + 0x10000, ONE + (1 << 24)):
        infos = [*(parts(ONE) if rows_of_a else ()), *parts(base, ONE)]
        process = opened(Dump([(ONE, PROGRAM), (base, bytes(PAGE) + PROGRAM[PAGE:])], infos=infos, modules=[A]))
        found = findings(process)
        assert ("module-unlisted", base) in found
        assert ("wiped-header", base) in found
        assert any("the AllocationBase cannot be right" in note for note in process.metadata.notes)
        assert process.metadata.regions[0].rows[-1].allocation == base
    # the list may give a size that is no whole page; and what is no image needs no list
    within = [Info(ONE + 2 * PAGE, PAGE, ONE, kind=IMAGE), Info(ONE + (1 << 24), PAGE, ONE)]
    process = opened(Dump([(ONE, PROGRAM)], infos=within, modules=[(ONE, 0x2001, "a.exe")]))
    assert [row.allocation for row in process.metadata.regions[0].rows] == [ONE, ONE]


def test_stack(opened: Any) -> None:
    """All rows of a stack are the stack: what is reserved, the guard page, what is in use; its neighbours are not."""
    infos = [
        Info(0xF000, PAGE, 0xF000),
        Info(0x10000, 0xD000, 0x10000, protect=0, state=RESERVE),
        Info(0x1D000, PAGE, 0x10000, protect=4 | GUARD),
        Info(0x1E000, 2 * PAGE, 0x10000),
        Info(0x20000, PAGE, 0x20000),
    ]
    dump = Dump([(0xF000, bytes(18 * PAGE))], infos=infos, threads=[Thread(4, 0, (0x1F000, PAGE))])
    known = Known(opened(dump).metadata)
    assert known.kinds == ["private", "stack", "stack", "stack", "private"]


def test_free_memory_between(opened: Any) -> None:
    """Rows with free memory between them are not one allocation, whatever they say."""
    infos = [parts(ONE)[0], Info(ONE + PAGE, PAGE, 0, kind=0, state=FREE, protect=1), parts(ONE)[2]]
    rows = opened(with_images(infos, [])).metadata.regions[0].rows
    assert [(row.start, row.allocation) for row in rows] == [(ONE, ONE), (ONE + 2 * PAGE, ONE + 2 * PAGE)]


def test_other_systems(opened: Any) -> None:
    """Of Linux a row is a mapping, and its type says whether it is shared: no module lies in memory of its own."""
    infos = [Info(row.base, PAGE, row.base, row.protect, PRIVATE) for row in parts(ONE)]
    dump = with_images(infos, [(ONE, 3 * PAGE, "/bin/a")], system=(AMD64, LINUX, 0, 0, 0))
    process = opened(dump)
    assert [(row.kind, row.private, row.allocation) for row in process.metadata.regions[0]] == [(None, None, None)] * 3
    assert findings(process) == []


def other_forms(process: ProcessMemory, folder: Path) -> list[Path]:
    """Return a process as other files that say what is known of its regions."""
    export_minidump(process, folder / "again.mdmp")
    export_elfcore(process, folder / "again.core")
    sinking.carve(process, folder / "again", labeller=memcarve.Labelling("headers"))
    return [folder / "again.mdmp", folder / "again.core", folder / "again"]


def test_round_trips(opened: Any, tmp_path: Path) -> None:
    """Minidumps, cores and folders that are made of a minidump say the same of its allocations, and flag the same."""
    process = opened(with_images([*parts(ONE), *parts(TWO)], [A]))
    assert [row.allocation for row in process.metadata.regions[0]] == [ONE] * 3 + [TWO] * 3
    for path in other_forms(process, tmp_path):
        with memcarve.open(path) as container:
            again = container.process()
            assert [row.allocation for row in again.metadata.regions[0]] == [ONE] * 3 + [TWO] * 3, path
            assert findings(again) == [("module-unlisted", TWO)], path


def test_what_is_shown(opened: Any) -> None:
    """A region's allocation is among what is said of it in JSON."""
    process = opened(with_images(parts(ONE), [A]))
    labels = process.segments(Selection("all"), labeller=memcarve.Labelling("none")).labels
    rows = labels.record(0)["regions"]
    assert [(row["start"], row["allocation"]) for row in rows] == [
        (f"0x{ONE + page * PAGE:x}", f"0x{ONE:x}") for page in range(3)
    ]


def test_allocations_of_regions() -> None:
    """Regions are one allocation if they follow each other and name one beginning that is not behind them."""
    rows = [
        Region(1, 1), Region(2, 1), Region(3, 1, allocation=3), Region(5, 2, allocation=3), Region(8, 1, allocation=7),
        Region(9, 1, allocation=10), Region(10, 1, allocation=10), Region(12, 1, allocation=3), Region(14, 1),
    ]  # fmt: skip
    found = [(row.start, row.end, parts.start, parts.stop) for row, parts in Regions("", rows).allocations]
    assert found == [
        (1, 2, 0, 1), (2, 3, 1, 2), (3, 7, 2, 4), (3, 7, 2, 4), (7, 9, 4, 5), (9, 10, 5, 6), (10, 11, 6, 7),
        (3, 13, 7, 8), (14, 15, 8, 9),
    ]  # fmt: skip
    assert Regions("", []).allocations == []


def model(infos: Sequence[Info]) -> dict[int, int]:
    """Return for each row, by its base, where its allocation begins, as docs/formats.md has it, row by row."""
    found: dict[int, int] = {}
    runs: list[list[Info]] = []
    for row in infos:  # they are in order of addresses
        same = runs and FREE not in (row.state, runs[-1][-1].state) and runs[-1][-1].allocation == row.allocation
        runs.append([*runs.pop(), row] if same else [row])
    end, unknown = 0, None  # of all rows before; and the image before whose allocation is not known
    for run in runs:
        base = run[0].allocation
        if base == run[0].base or (0 < base < run[0].base and base >= end):
            found |= dict.fromkeys([row.base for row in run], base)
            unknown = None
        else:
            for row in run:
                touches = unknown is not None and unknown.base + unknown.size == row.base and row.kind == IMAGE
                found[row.base] = found[unknown.base] if unknown is not None and touches else row.base
                unknown = row if row.kind == IMAGE and row.state != FREE else None
        end = run[-1].base + run[-1].size
    return {row.base: found[row.base] for row in infos if row.state != FREE}


def test_random_rows(opened: Any) -> None:
    """Whatever stands in AllocationBase, rows are put together as a slow reader puts them."""
    dice = random.Random(4)  # noqa: S311
    for _ in range(150):
        infos, at = [], 0x10000
        for _ in range(dice.randrange(1, 12)):
            at += PAGE * dice.choice([0, 0, 0, 1, 5])
            size = PAGE * dice.randrange(1, 4)
            near = dice.choice([at, at, *(row.base for row in infos[-3:]), at - PAGE, at + PAGE, 0])
            state = FREE if not dice.randrange(8) else 0x1000
            infos.append(
                Info(at, size, near, dice.choice([2, 4, 0x20]), dice.choice([IMAGE, IMAGE, PRIVATE]), state, 4)
            )
            at += size
        rows = opened(Dump([(ONE, b"x")], infos=infos)).metadata.regions[0].rows
        found = {
            row.base: next(region.allocation for region in rows if region.start <= row.base < region.end)
            for row in infos
            if row.state != FREE
        }
        assert found == model(infos)
