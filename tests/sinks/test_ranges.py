"""Ranges and the files made of them, against models that go byte by byte and page by page."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
import sinking
from memcarve.errors import OutputError, TargetExistsError
from memcarve.formats.alignment import memory_begins
from memcarve.intervals import TOP
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows, Thread
from memcarve.process import ProcessMemory, Selection
from memcarve.sinks.final_name import NewFile
from memcarve.sinks.ranges import known_modules, pieces, ranges
from memcarve.space import AddressSpace
from memcarve.vocabulary import Kind
from memory import PAGE, Memory
from processes import process_of, process_with

_PAGES = 24


def space_of(pages: list[tuple[int, int]], flags: list[int] | None = None) -> AddressSpace:
    """Return a space of (page, place in the backing) and, as from an image, with flags."""
    start, offset = (np.array([each[place] for each in pages], np.uint64) * np.uint64(PAGE) for place in (0, 1))
    size = np.full(len(pages), PAGE, np.uint64)
    backing = Memory(b"".join(bytes([number]) * PAGE for number in range(64)))
    if flags is None:
        return AddressSpace(start, size, offset, backing)
    return AddressSpace(start, size, offset, backing, physical=offset, flags=np.array(flags, np.uint8))


_mapped = st.dictionaries(st.integers(0, _PAGES - 1), st.tuples(st.integers(0, 63), st.sampled_from([1, 3, 5])))
_bounds = st.lists(st.tuples(st.integers(0, _PAGES - 1), st.integers(1, 6)), max_size=5)


@given(_mapped, _bounds, _bounds, st.sampled_from([True, False]))
def test_ranges(
    mapped: dict[int, tuple[int, int]], regions: list[tuple[int, int]], modules: list[tuple[int, int]], flagged: object
) -> None:
    """A page begins a range behind a gap, and where a region, a module or other permissions begin or end."""
    numbers = sorted(mapped)
    flags = [mapped[number][1] for number in numbers] if flagged and numbers else None
    space = space_of([(number, mapped[number][0]) for number in numbers], flags)
    known = Regions("here", [Region(page * PAGE, count * PAGE, f"r{page}") for page, count in regions])
    listed = SourceRows("list", [Module(page * PAGE, count * PAGE) for page, count in modules])
    metadata = Metadata((known,) * bool(regions), (listed,) * bool(modules))
    process = ProcessMemory(space, metadata=lambda: metadata)
    found = ranges(process, process.segments())

    def owner(page: int) -> tuple[int, int, int] | None:
        here = [(row.size, row.start, row.end) for row in known.rows if row.start <= page * PAGE < row.end]
        return min(here) if here else None

    first = {row.start: row for row in reversed(listed.rows)}.values()
    ends = {bound // PAGE for row in first for bound in (row.start, row.start + known.module_end(row) - row.start)}
    begins = [
        number
        for number in numbers
        if number - 1 not in mapped
        or number in ends
        or owner(number) != owner(number - 1)
        or (flags is not None and mapped[number][1] != mapped[number - 1][1])
    ]
    # regions that overlap in the same bounds may cut where nothing changes: never where all are apart
    assert set(begins) <= {int(start) // PAGE for start in found.start}
    if known.overlapping == 0 and len(set(regions)) == len(regions):
        assert [int(start) // PAGE for start in found.start] == begins
    assert int(found.size.sum()) == found.total == len(numbers) * PAGE
    for start, region in zip(found.start.tolist(), found.region.tolist(), strict=True):
        held = owner(start // PAGE)
        assert (held is None) == (region == -1)
        if held is not None:
            row = found.regions[region]
            assert (row.size, row.start, row.end) == held
    if flags is not None:
        assert found.flags is not None
        assert [mapped[int(start) // PAGE][1] for start in found.start] == found.flags.tolist()
    else:
        assert found.flags is None


def test_ends_at_the_top() -> None:
    """A range, a region and a module that end with the address space are what they are."""
    start = TOP - 2 * PAGE
    backing = Memory(bytes(2 * PAGE))
    column = [np.array([value], np.uint64) for value in (start, 2 * PAGE, 0)]
    space = AddressSpace(*column, backing)
    metadata = Metadata(
        (Regions("here", [Region(TOP - PAGE, PAGE, "rw-p")]),), (SourceRows("list", [Module(start, 2 * PAGE)]),)
    )
    process = ProcessMemory(space, metadata=lambda: metadata)
    found = ranges(process, process.segments())
    assert found.start.tolist() == [start, TOP - PAGE]
    assert found.region.tolist() == [-1, 0]


def test_selected() -> None:
    """What is not selected is left out, and counted."""
    process = process_of([1, 2, 8, 9, 10])
    found = ranges(process, process.segments(Selection(min_size=3 * PAGE)))
    assert (found.start.tolist(), found.total) == ([8 * PAGE], 3 * PAGE)
    assert [(left.segments, left.bytes) for left in found.segments.choice.left_out] == [(1, 2 * PAGE)]


def test_modules_of_lists() -> None:
    """Of two lists the first counts at each address; a module ends with its mapping; unknown sizes stay unknown."""
    regions = Regions("here", [Region(0x1000, 0x2000, "PAGE_EXECUTE_WRITECOPY", Kind.IMAGE, "\\a.dll")])
    one = SourceRows("one", [Module(0x1000, 0x9000, "a.dll"), Module(0x8000, 0, "b.dll")])
    other = SourceRows("other", [Module(0x1000, 0x1000, "x.dll"), Module(0x9000, 0x1000, "c.dll")])
    metadata = Metadata((regions,), (one, other))
    found = known_modules(ProcessMemory(space_of([]), metadata=lambda: metadata), regions)
    assert found == [Module(0x1000, 0x2000, "a.dll"), Module(0x8000, None, "b.dll"), Module(0x9000, 0x1000, "c.dll")]


def test_modules_of_regions() -> None:
    """Without a list modules are mapped images: on Unix files that have an executable region, or a header."""
    rows = [
        Region(0x1000, 0x1000, "r--p", "mapped", "/lib/a.so", offset=0),
        Region(0x2000, 0x1000, "r-xp", "mapped", "/lib/a.so", offset=0x1000),
        Region(0x3000, 0x1000, "rw-p", "mapped", "/lib/a.so", offset=0x2000),
        Region(0x4000, 0x1000, "r--p", "mapped", "/etc/locale", offset=0),
        Region(0x6000, 0x3000, "PAGE_EXECUTE_WRITECOPY", Kind.IMAGE, "\\Windows\\b.dll"),
        Region(0xA000, 0x1000, "r--p", "mapped", "/lib/c.so", offset=0),
        Region(0xC000, 0x1000, None, "mapped", "/lib/c.so", offset=0x2000),
    ]
    regions = Regions("here", rows)
    process = process_of([10], Metadata((regions,)), {10: b"\x7fELF"})
    assert known_modules(process, regions) == [
        Module(0x1000, 0x3000, "a.so", "/lib/a.so"),
        Module(0x6000, 0x3000, "b.dll", "\\Windows\\b.dll"),
        Module(0xA000, 0x1000, "c.so", "/lib/c.so"),
    ]


@given(_mapped, st.integers(0, _PAGES * PAGE), st.integers(1, 6 * PAGE))
def test_pieces(mapped: dict[int, tuple[int, int]], place: int, size: int) -> None:
    """The pieces of segments, cut or not, are their bytes in order."""
    space = space_of([(number, mapped[number][0]) for number in sorted(mapped)])
    cut = space.cut(space.segments(), np.array([place, place + size], np.uint64))
    offset, length = pieces(space, cut)
    memory = b"".join(bytes([number]) * PAGE for number in range(64))
    data = b"".join(memory[at : at + count] for at, count in zip(offset.tolist(), length.tolist(), strict=True))
    assert data == b"".join(bytes([mapped[number][0]]) * PAGE for number in sorted(mapped))


#: what memcarve wrote
OWN = b"Volatility 3 Framework 2.28.2 (its layout, written by memcarve 0.1.0)\n"


def test_new_file(tmp_path: Path) -> None:
    """A file has its name when it is whole, nobody else may read it, and nothing else is left."""
    target = tmp_path / "new" / "file"
    with NewFile(str(target), force=False) as file:
        assert not target.exists()
        with open(file.path, "wb") as stream:
            stream.write(b"all of it")
    assert target.read_bytes() == b"all of it"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_new_file_failed(tmp_path: Path, error: BaseException) -> None:
    """Whatever goes wrong, nothing is left of the file."""
    with (
        pytest.raises((OutputError, KeyboardInterrupt, ValueError)),
        NewFile(str(tmp_path / "file"), force=False),
    ):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "force", "words"),
    [
        ("other", False, "exists; choose another with out="),
        ("other", True, "only what memcarve wrote"),
        ("own", False, "exists; force=True replaces it"),
        ("folder", True, "is a folder"),
        ("link", True, "only what memcarve wrote"),
        ("input", True, "is the input"),
        ("evidence/new", True, "lies in the input"),
    ],
)
def test_not_replaced(tmp_path: Path, name: str, words: str, *, force: bool) -> None:
    """What is somebody else's, a folder, a link or the input is never replaced, and what is there stays as it is."""
    (tmp_path / "other").write_bytes(b"other's")
    (tmp_path / "own").write_bytes(OWN)
    (tmp_path / "input").write_bytes(OWN)
    for folder in ("folder", "evidence"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("own")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    inputs = [str(tmp_path / "input"), str(tmp_path / "evidence")]
    with (
        pytest.raises(TargetExistsError, match=words),
        NewFile(str(tmp_path / name), force=force, inputs=inputs),
    ):
        pytest.fail("it was begun")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replaced(tmp_path: Path) -> None:
    """What memcarve wrote is replaced if that is asked for."""
    (tmp_path / "own").write_bytes(OWN)
    with NewFile(str(tmp_path / "own"), force=True) as file, open(file.path, "wb") as stream:
        stream.write(b"new")
    assert (tmp_path / "own").read_bytes() == b"new"


def test_threads_are_recorded(tmp_path: Path) -> None:
    """A carved folder keeps threads with their registers, whatever is unknown of them."""
    threads = [Thread(0, 0x1000, registers={"rip": 0, "gs_base": TOP - 1}), Thread(7, begin=0x2000)]
    process = process_of([1, 2])
    process = process_with(process.space, pid=4, metadata=lambda: Metadata(threads=(SourceRows("here", threads),)))
    sinking.carve(process, tmp_path / "out", labeller=memcarve.Labelling("none"))
    with memcarve.open(tmp_path / "out") as folder:
        assert folder.process().metadata.threads[0].rows == threads


def test_threads_of_several_lists() -> None:
    """A thread that two lists have is one: what the first does not say, the second may."""
    one = SourceRows("one", [Thread(1, teb=0x1000), Thread(0, begin=0)])
    other = SourceRows("other", [Thread(1, teb=0x2000, begin=5), Thread(2), Thread(0, begin=7)])
    found = Metadata(threads=(one, other)).all_threads()
    assert found == [Thread(1, teb=0x1000, begin=5), Thread(0, begin=0), Thread(2)]


def test_what_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody else gives the name at the last moment is not replaced."""
    target = tmp_path / "file"

    def late(_: str, other: str) -> None:
        Path(other).write_bytes(b"somebody else's")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(TargetExistsError), NewFile(str(target), force=False):
        pass
    assert target.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["file"]


def test_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system has no links, the file gets its name all the same."""

    def none(*_: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    with NewFile(str(tmp_path / "file"), force=False):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("end", "total", "begins"),
    [
        (0, 0, 0),
        (1, 1, PAGE),
        (PAGE, 1, PAGE),
        (PAGE + 1, (1 << 26) - 1, 2 * PAGE),
        (PAGE, 1 << 26, 1 << 21),
        (1 << 21, 1 << 26, 1 << 21),
        ((1 << 21) + 1, 1 << 40, 1 << 22),
    ],
)
def test_where_memory_begins(end: int, total: int, begins: int) -> None:
    """Memory begins at a page behind the header; much of it at 2 MiB, for the sake of speed."""
    assert memory_begins(end, total) == begins
