"""Pages that are not where page tables point: shared ones, and those in page files, held against how they were planned.

Images have every state that an entry, or a prototype, can be in. What is to be found follows from the plan; MemProcFS,
which shares nothing with memcarve, reads the same images with the same page files.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import winimage
from cli import invoke
from memcarve.backing import Composite, FileBacking, Zeros, read_pieces
from memcarve.errors import AddressError, InputError, MemcarveError, SourceReadError, UsageError
from memcarve.images import page_decoding
from memcarve.images.nonresident import Gathered
from memcarve.images.page_files import PageFile, PageFiles
from memcarve.images.windows.resolving import compression_store, invalid_ptes, paged_tables
from memcarve.images.windows.resolving.compression_store import CompressionStore
from memcarve.missing import BEYOND_PAGE_FILE, DEMAND_ZERO, IN_FILE, REASONS
from memcarve.permissions import origin
from memcarve.sinks.extract import extract
from memcarve.sources.page_file_option import numbered
from memory import PAGE
from memprocfs_runs import run as run_memprocfs, skip_without, with_xpress
from processes import labels_of
from sweeps import some
from winimage import Plan, compression, kernel, left_ram, userland
from winimage.paging_files import PagingFiles

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import ProcessMemory
    from winimage import Truth
    from winimage.left_ram import LeftRam

    Capture = pytest.CaptureFixture[bytes]

PID = 5000
MASK = 1 << 45
USER_END = 1 << 47
POSSIBLE = np.uint64((1 << 40) - PAGE)


def seeded(seed: int) -> random.Random:
    """Return numbers that are the same each time."""
    return random.Random(seed)  # noqa: S311 - nothing is kept secret


def built(place: Path, left: LeftRam, layout: int = 8, *, beside: bool = False, **options: Any) -> Truth:
    """Write an image with one process of which much left memory; `beside` it, with one of which nothing did."""
    # MemProcFS wants more than ten processes
    others = [Plan(400 + 4 * number, b"w%d.exe" % number, 388, memory=()) for number in range(12)]
    plan = Plan(PID, b"left.exe", 388, memory=(), userland=userland.plain(PID), left=left)
    owner = Plan(900, b"MemCompression", 4, memory=())
    resident = [Plan(6000, b"resident.exe", 388, memory=(), userland=userland.plain(6000))] if beside else []
    processes = [Plan(388, b"smss.exe"), owner, *others, *resident, plan]
    options = {"megabytes": 48, "stub": True, "realistic": True, **options}
    return winimage.build(place / "mem.raw", layout=layout, processes=processes, **options)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image whose page tables are as they usually are."""
    return built(tmp_path_factory.mktemp("left"), left_ram.everything(), paging=PagingFiles(), pfn="right")


def files_of(truth: Truth) -> list[str]:
    """Return the page files as they are given."""
    return [f"{number}={path}" for number, path in truth.page_files.items()]


def assert_found(truth: Truth, memory: ProcessMemory) -> None:
    """Hold every page of the process against the plan: its bytes, how it was found, why it was not; and no other."""
    left = truth.left[PID]
    assert memory.space.flags is not None
    found = {}
    for address in left.found:
        flags = int(memory.space.flags[memory.space.index(address)])
        found[address] = (origin(flags), hashlib.sha256(memory.read(address, PAGE)).hexdigest())
    digests = left_ram.digests(left.found)
    assert found == {address: (one.origin, digests[address]) for address, one in left.found.items()}
    for address, reason in left.lost.items():
        with pytest.raises(AddressError, match=reason):
            memory.read(address, 1)
    planned = {*left.found, *truth.frames(PID, "user")[0].tolist()}
    there = {page for extent in memory.space.extents() for page in range(extent.start, extent.end, PAGE)}
    assert {page for page in there if page < USER_END} == planned


# what is found


@pytest.mark.parametrize(
    ("layout", "mask"), [(8, MASK), (8, 0), (9, MASK), *some([(n, 0) for n in (5, 6, 7, 10, 13, 20, 23, 24)], 3)]
)
def test_every_page_is_found(tmp_path: Path, layout: int, mask: int) -> None:
    """Whatever state an entry and its prototype are in, a page has its own bytes, or the reason why it has none."""
    truth = built(tmp_path, left_ram.everything(mask=mask), layout)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        assert_found(truth, container.process(PID))


def test_entries_of_windows_7(tmp_path: Path) -> None:
    """The older layout of entries, and of subsections, is read as well."""
    truth = built(tmp_path, left_ram.everything(new=False, mask=0), 0)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        assert_found(truth, container.process(PID))


def test_ram_is_what_page_tables_map(truth: Truth) -> None:
    """With pages from memory alone nothing else is found, and nothing is said of the rest."""
    with memcarve.open(truth.path, pages_from="ram") as container:
        memory = container.process(PID)
        left = {page for page, one in truth.left[PID].found.items() if one.origin in {"ram", "transition"}}
        planned = {*left, *truth.frames(PID, "user")[0].tolist()}
        there = {page for extent in memory.space.extents() for page in range(extent.start, extent.end, PAGE)}
        assert {page for page in there if page < USER_END} == planned
        assert not len(memory.space.elsewhere)
        assert "shared" not in (memory.pages or {})


def test_without_page_files(truth: Truth) -> None:
    """Without page files shared pages are found, the others are said to be in one, and nothing counts as missing."""
    with memcarve.open(truth.path) as container:
        memory = container.process(PID, half="user")
        assert not memory.incomplete
        assert not len(memory.space.missing)
        for page, one in truth.left[PID].found.items():
            if "pagefile" in one.origin:
                with pytest.raises(AddressError, match="in a page file that was not given"):
                    memory.read(page, 1)
            else:
                assert memory.read(page, PAGE) == one.data


def test_a_file_that_is_too_short(truth: Truth) -> None:
    """What a page file should hold and does not is missing, and the memory is not complete."""
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        beyond = [page for page, why in truth.left[PID].lost.items() if why == "the page file ends too early"]
        assert beyond
        assert memory.incomplete
        missing = {page for gap in memory.space.missing for page in range(gap.start, gap.end, PAGE)}
        assert missing == {*beyond}


def test_the_other_file(tmp_path: Path) -> None:
    """With files whose numbers are exchanged no byte is right by chance: numbers are what tells them apart."""
    private = left_ram.Private(0x30100000000, ("pagefile 0", "pagefile 1") * 200)
    truth = built(tmp_path, left_ram.LeftRam((), (left_ram.MOVED, private)))
    exchanged = [f"{1 - number}={path}" for number, path in truth.page_files.items()]
    with memcarve.open(truth.path, page_files=exchanged) as container:
        memory = container.process(PID)
        wrong = 0
        for page, one in truth.left[PID].found.items():
            if "pagefile" in one.origin and memory.space.at(page) is not None:
                wrong += memory.read(page, PAGE) != one.data
        assert wrong > 300


def test_demand_zero(truth: Truth) -> None:
    """Pages that nobody wrote are zeros if that is wanted, and are told from zeros that somebody wrote."""
    with memcarve.open(truth.path, demand_zero=True) as container:
        memory = container.process(PID)
        assert memory.space.flags is not None
        pages = [page for page, why in truth.left[PID].lost.items() if why == "zeros that nobody wrote yet"]
        assert pages
        for page in pages:
            assert memory.read(page, PAGE) == bytes(PAGE)
            assert origin(int(memory.space.flags[memory.space.index(page)])).endswith("demand_zero")


def test_a_span_is_as_the_whole(truth: Truth) -> None:
    """A page that is looked up by itself is as it is among all."""
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        index = next(number for number, entry in enumerate(container.processes()) if entry.pid == PID)
        for page, one in [*truth.left[PID].found.items()][::37]:
            memory = container.open_span(index, page + 1, page + 9)
            assert memory.read(page + 1, 8) == one.data[1:9]


def test_counts(truth: Truth) -> None:
    """Pages are counted by where they are."""
    left = truth.left[PID]
    origins = [one.origin for one in left.found.values()]
    reasons = [*left.lost.values()]
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        pages = container.process(PID, half="user").pages or {}
    assert pages["shared"] == origins.count("prototype")
    beyond = reasons.count("the page file ends too early")
    assert pages["in_pagefile"] == sum("pagefile" in word for word in origins) + beyond
    assert pages["in_file"] == reasons.count("in the mapped file")
    assert pages["never_touched"] >= reasons.count("zeros that nobody wrote yet")
    assert pages["compressed"] == 0


# page tables that left memory


@pytest.fixture(scope="module")
def left_tables(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of a process whose page tables left memory."""
    return built(tmp_path_factory.mktemp("tables"), left_ram.tables_left(), 9)


@pytest.mark.parametrize(("layout", "mask"), [(9, MASK), *some([(9, 0), (23, MASK)], 2)])
def test_tables_that_left_memory(left_tables: Truth, tmp_path: Path, layout: int, mask: int) -> None:
    """What tables in page files and in the store lead to is found; what cannot be a table of now leads nowhere."""
    usual = (layout, mask) == (9, MASK)
    truth = left_tables if usual else built(tmp_path, left_ram.tables_left(mask), layout)
    left = truth.left[PID]
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        assert_found(truth, container.process(PID))
        memory = container.process(PID, half="user")
        assert any("not followed" in note for note in memory.notes)
        # what is named twice, is not there, or names a page in memory
        assert (memory.pages or {})["paged_tables"] == 8
        index = next(number for number, entry in enumerate(container.processes()) if entry.pid == PID)
        for page, one in [*left.found.items()][::5]:
            assert container.open_span(index, page + 1, page + 9).read(page + 1, 8) == one.data[1:9]
    origins = {one.origin for one in left.found.values()}
    assert {"pagefile", "compressed", "prototype", "prototype+pagefile", "prototype+compressed"} < origins
    with memcarve.open(truth.path, pages_from="ram") as container:
        memory = container.process(PID)
        there = {page for extent in memory.space.extents() for page in range(extent.start, extent.end, PAGE)}
        moved = {page for page, one in left.found.items() if one.origin == "transition"}
        assert {page for page in there if page < USER_END} == {*moved, *truth.frames(PID, "user")[0].tolist()}
        assert (memory.pages or {})["paged_tables"] > 8


@pytest.mark.parametrize("seed", range(2))
def test_damaged_tables_in_page_files(
    left_tables: Truth, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever tables in page files say, they are bounded, and what is found can be read."""
    rng = seeded(seed)
    truth = left_tables
    paths = []
    places = [number << 32 for number in range(1, 64)]
    for number, path in truth.page_files.items():
        words = np.fromfile(path, np.uint64)
        tables = np.flatnonzero((words & np.uint64(0x801) == 0) & (words != 0) & (words >> np.uint64(52) == 0))
        for place in rng.choices(tables.tolist(), k=(20, 400)[seed]):
            words[place] = rng.choice((rng.getrandbits(64), rng.choice(places) | number << 12 | 0x84 | MASK, 0x84, 1))
        paths.append(f"{number}={tmp_path / str(number)}")
        words.tofile(tmp_path / str(number))
    monkeypatch.setattr(paged_tables, "_MOST_TABLES", 4)
    with memcarve.open(truth.path, page_files=paths) as container:
        memory = container.process(PID)
        assert any("more than 4 page tables are paged out" in note for note in memory.notes)
        for segment in memory.segments():
            memory.read(segment.start, min(segment.size, 1 << 16))


# the kernel's structures, and the process's own, that left memory

AWAY = ("pagefile 0", "compressed packed", "pagefile 1", "here", "compressed raw")


def known_of(memory: ProcessMemory) -> tuple[Any, ...]:
    """Return what is known of a process: regions, modules, threads, heaps, and what it was started with.

    Where the kernel keeps protections is learned from processes whose regions are in memory: of those nothing.
    """
    told = memory.metadata
    assert told.regions
    assert told.modules
    assert told.parameters
    regions = [row._replace(protection=None) for row in told.regions[0].rows]
    return regions, told.modules, told.threads, told.areas, told.parameters, told.unloaded


@pytest.fixture(scope="module")
def left_structures(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image in which VADs, sections, prototypes, and what the environment block leads to left memory."""
    plan = left_ram.everything(tables=True)._replace(kernel=AWAY, user=True)
    return built(tmp_path_factory.mktemp("structures"), plan, beside=True)


def test_structures_that_left_memory(left_structures: Truth, tmp_path: Path) -> None:
    """What structures lead to that left memory is found, and as much is known as if they were in memory."""
    here = built(tmp_path, left_ram.everything(tables=True), beside=True)
    with memcarve.open(here.path) as container:
        expected = known_of(container.process(PID))
    with memcarve.open(left_structures.path, page_files=files_of(left_structures)) as container:
        memory = container.process(PID)
        assert_found(left_structures, memory)
        assert known_of(memory) == expected
        index = next(number for number, entry in enumerate(container.processes()) if entry.pid == PID)
        assert container.start_of(index).parameters == memory.metadata.parameters
    with memcarve.open(left_structures.path, pages_from="ram") as container:
        memory = container.process(PID)
        assert any("its list of modules is not known" in note for note in memory.metadata.notes)
        assert not memory.metadata.parameters


@pytest.mark.parametrize("where", ["beyond 0", "pointer"])
def test_structures_that_are_nowhere(tmp_path: Path, where: str) -> None:
    """If the page file ends too early, or the kernel's entries name prototypes, themselves, nothing is invented."""
    truth = built(tmp_path, left_ram.everything()._replace(kernel=(where,)), 9)
    found = truth.left[PID].found
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        own = 0
        for page, one in found.items():
            if memory.space.at(page) is not None:
                own += 1
                assert memory.read(page, PAGE) == one.data
        assert 0 < own < len(found)


# how entries are read


def test_no_layout_no_pages(tmp_path: Path) -> None:
    """If kernels of a build have either layout and nothing tells which, no page file is read, and it is said why."""
    truth = unproven(tmp_path)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID)
        assert memory.incomplete
        assert any("have either layout" in note for note in memory.notes)
        for page, one in truth.left[PID].found.items():
            if "pagefile" in one.origin:
                with pytest.raises(AddressError, match="not proven"):
                    memory.read(page, 1)
            else:
                assert memory.read(page, PAGE) == one.data


def unproven(place: Path) -> Truth:
    """Write an image whose entries for page files can be read in either way."""
    private = left_ram.Private(0x30100000000, ("pagefile 0", "transition") * 30)
    return built(place, left_ram.LeftRam((), (private,), mask=0), 4, build=14393)


def test_a_file_of_no_use_is_not_all_well(tmp_path: Path, capfdbinary: Capture) -> None:
    """If a page file was given of which nothing is read, because that is not proven, no command says that all is well.

    Without the file it is as usual: what is in a page file that was not given is not missing.
    """
    truth = unproven(tmp_path)
    commands = (
        ("carve", "-o", tmp_path / "carved"),
        ("export", "--to", "elfcore", "-o", tmp_path / "core"),
        ("extract", "-o", tmp_path / "extracted"),
        *(("segments",), ("regions",), ("strings",)),
    )
    page = next(page for page, one in truth.left[PID].found.items() if one.origin == "pagefile")
    for given, code in ((["--pagefile", truth.page_files[0]], 3), ([], 0)):
        for command, *more in commands:
            force = ["--force"] if more else []
            ran = invoke(capfdbinary, command, truth.path, *more, *force, "--pid", str(PID), *given)
            assert ran.code == code, (command, ran.err)
        ran = invoke(capfdbinary, "read", truth.path, hex(page), "16", "--pid", str(PID), *given)
        assert ran.code == 1
        assert "not proven" in ran.err


def entries(count: int, mask: int, *, places: bool = True) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return entries in transition, and as many that name places in a page file, with a mask."""
    rng = seeded(5)
    plan = left_ram.LeftRam(mask=mask)
    moved = [plan.moved(rng.randrange(1 << 20)) for _ in range(count)]
    paged = [plan.entry(rng.randrange(3), rng.randrange(1 << 20)) for _ in range(count if places else 0)]
    return np.array(moved + paged, np.uint64)


@pytest.mark.parametrize(
    ("build", "mask", "new"), [(19041, MASK, True), (19041, 0, True), (14393, MASK, True), (7601, 0, False)]
)
def test_a_layout_is_proven(build: int, mask: int, new: bool) -> None:  # noqa: FBT001
    """The layout and the mask follow from the entries and the build."""
    layout, why = invalid_ptes.proven(build, entries(40, mask), POSSIBLE)
    assert layout is not None, why
    assert (layout.new, layout.mask) == (new, mask)


@pytest.mark.parametrize(
    ("build", "words", "why"),
    [
        (None, entries(40, MASK), "build"),
        (19041, entries(8, MASK), "must"),
        (19041, np.zeros(0, np.uint64), "must"),
        (14393, entries(40, 0), "either layout"),
        (7601, entries(40, MASK), "no Windows of build 7601"),
        (19041, np.concatenate([entries(40, MASK), entries(40, 0)]), "contradict"),
        (19041, np.concatenate([entries(40, MASK, places=False), entries(4, 0)[4:]]), "contradict"),
        (19041, entries(40, MASK | 1 << 43), "contradict"),
    ],
)
def test_a_layout_is_not_proven(build: int | None, words: Any, why: str) -> None:
    """Too few entries, and entries that contradict each other, prove nothing."""
    layout, said = invalid_ptes.proven(build, words, POSSIBLE)
    assert layout is None
    assert why in said


@pytest.mark.parametrize("mask", [MASK, 0])
def test_zeros_without_a_mask_change_nothing(mask: int) -> None:
    """However many entries say that nobody wrote a page, and have nothing above: they mean that with any mask."""
    words = np.concatenate([entries(40, mask), np.full(400, 4 << 5, np.uint64)])
    layout, why = invalid_ptes.proven(19041, words, POSSIBLE)
    assert layout is not None, why
    assert layout.mask == mask


def test_few_of_many_entries_tell() -> None:
    """If a process has more entries than are looked at, those in transition are, wherever they are among them."""
    words = np.concatenate([np.full(10_000, 7 << 32 | MASK, np.uint64), entries(20, MASK)])
    some = invalid_ptes.sample(words, 1000)
    assert 990 < len(some) <= 1000
    assert np.isin(words[10_000:][invalid_ptes.kinds(words[10_000:], POSSIBLE) == invalid_ptes.MOVED], some).all()
    layout, _ = invalid_ptes.proven(19041, some, POSSIBLE)
    assert layout is not None
    assert layout.mask == MASK
    assert len(invalid_ptes.sample(words[:1000], 1000)) == 1000


def test_few_forged_entries_change_nothing() -> None:
    """One entry in a hundred that lacks the mask does not decide what the mask is."""
    words = np.concatenate([entries(200, MASK), entries(2, 0)])
    layout, _ = invalid_ptes.proven(19041, words, POSSIBLE)
    assert layout is not None
    assert layout.mask == MASK


# page files


def test_numbers() -> None:
    """A number is said before the name, or is the lowest that is free; swapfile.sys is 1 by itself."""
    assert numbered(["a", "b"]) == [(0, "a", False), (1, "b", False)]
    assert numbered(["1=a", "b", "x=c"]) == [(1, "a", True), (0, "b", False), (2, "x=c", False)]
    assert numbered(["d/swapfile.sys"]) == [(1, "d/swapfile.sys", False)]
    assert numbered(["1=a", "swapfile.sys"]) == [(1, "a", True), (0, "swapfile.sys", False)]


@pytest.mark.parametrize("given", [["1=a", "1=b"], ["16=a"], ["a"] * 17])
def test_wrong_numbers(given: list[str]) -> None:
    """A number twice, one that no machine has, and too many files are refused."""
    with pytest.raises(UsageError, match="page file"):
        numbered(given)


def test_files_that_are_no_page_files(truth: Truth, tmp_path: Path) -> None:
    """The image itself, the same file twice, one that is compressed, empty or a folder are refused by name."""
    packed, empty = tmp_path / "packed.sys", tmp_path / "empty.sys"
    packed.write_bytes(gzip.compress(seeded(1).randbytes(3 * PAGE)))
    empty.write_bytes(b"")
    again = truth.page_files[0]
    for given in ([truth.path], [again, again], [str(packed)], [str(empty)], [str(tmp_path)], [str(tmp_path / "no")]):
        with pytest.raises(InputError) as caught:
            memcarve.open(truth.path, page_files=given)
        assert caught.value.subject == given[-1]


def test_files_and_ram_contradict(truth: Truth) -> None:
    """Page files mean nothing if only what page tables lead to is read: that is refused."""
    for options in ({"pages_from": "ram"}, {"dtb": 0x1AD000}):
        with pytest.raises(UsageError, match=f"only what page tables lead to is read.*leave {next(iter(options))}="):
            memcarve.open(truth.path, page_files=files_of(truth), **options)
        with pytest.raises(UsageError, match="only what page tables"):
            memcarve.open(truth.path, demand_zero=True, **options)
    with pytest.raises(UsageError, match="choice of pages"):
        memcarve.open(truth.path, pages_from="disk")
    with pytest.raises(UsageError, match="none was given"):
        memcarve.open(truth.path, trust="pagefile")


@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_cleared_and_encrypted_files(truth: Truth, tmp_path: Path, kind: str) -> None:
    """A file that is zeros, or noise, wherever entries lead is refused: it was cleared, or is encrypted.

    It is read if it is trusted: what speaks against it may be wrong. That is said, and nothing counts as whole.
    """
    size = 40 << 20
    path = tmp_path / "pagefile.sys"
    path.write_bytes(bytes(size) if kind == "zeros" else seeded(2).randbytes(size))
    with (
        memcarve.open(truth.path, page_files=[str(path)]) as container,
        pytest.raises(InputError, match="cleared" if kind == "zeros" else "encrypted"),
    ):
        container.process(PID)
    with memcarve.open(truth.path, page_files=[f"0={path}"], trust="pagefile") as container:
        memory = container.process(PID, half="user")
        (note,) = [note for note in memory.notes if f"{path}: " in note]
        assert ("cleared" if kind == "zeros" else "encrypted") in note
        assert "because it is trusted" in note
        assert memory.incomplete
        beside = container.process(400, half="user")  # nothing of it is in a page file
        assert not beside.incomplete


def test_a_bad_file_is_refused_for_all(tmp_path: Path) -> None:
    """Once a file was seen to be none, no process gets a page of it: nor those that have few there."""
    path = tmp_path / "pagefile.sys"
    path.write_bytes(bytes(100 * PAGE))
    pages = np.arange(100, dtype=np.uint64)
    with contextlib.closing(FileBacking(str(path))) as file:
        files = PageFiles(file, (PageFile(0, file, 0, said=False),))
        files.check(np.zeros(10, np.uint8), pages[:10])  # too few to tell
        for count in (100, 100, 1):
            with pytest.raises(InputError, match="cleared"):
                files.check(np.zeros(count, np.uint8), pages[:count])
        files.check(np.ones(100, np.uint8), pages)  # of another file


def test_a_composite(tmp_path: Path) -> None:
    """Several files are one offset space: each at its place, none reaching into another, zeros behind them."""
    data = [seeded(number).randbytes(PAGE * 2 + number) for number in range(3)]
    for number, each in enumerate(data):
        (tmp_path / str(number)).write_bytes(each)
    parts = [FileBacking(tmp_path / str(number)) for number in range(3)]
    whole = Composite(parts[0], [*parts[1:], Zeros("zeros", 1 << 40)])
    begins = [0, *whole.begins]
    assert all(begin % PAGE == 0 for begin in begins)
    for part, begin in zip(data, begins, strict=False):
        buffer = bytearray(len(part))
        whole.read_into(begin, memoryview(buffer))
        assert bytes(buffer) == part
        (span,) = whole.spans(begin + 5, 7) or []
        assert (span.offset, span.length, span.file.path[-1]) == (5, 7, str(begins.index(begin)))
        with pytest.raises(SourceReadError):
            whole.read_into(begin + len(part) - 1, memoryview(bytearray(2)))
        assert whole.spans(begin + len(part) - 1, 2) is None
    buffer = bytearray(b"x" * 99)
    whole.read_into(begins[3] + (1 << 39), memoryview(buffer))
    assert bytes(buffer) == bytes(99)
    assert whole.spans(begins[3], 1) is None
    pieces = [(begins[1] + 9, 100), (begins[1] + PAGE, 7), (5, PAGE), (begins[3] + 70, 10), (begins[2], 2 * PAGE)]
    wanted = [data[1][9:109], data[1][PAGE : PAGE + 7], data[0][5 : PAGE + 5], bytes(10), data[2][: 2 * PAGE]]
    assert read_together(whole, pieces) == b"".join(wanted)
    with pytest.raises(SourceReadError, match="1: ends at"):
        read_together(whole, [(0, 1), (begins[1] + 2 * PAGE, 2)])
    whole.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_not_found_is_gathered(seed: int) -> None:
    """Pages that are lost in any order, alone, in rows, or as stretches that overlap, are each there once."""
    draw, gathered, model = seeded(seed), Gathered(), dict[int, set[str]]()
    for _ in range(30):
        reason = draw.choice((IN_FILE, DEMAND_ZERO, BEYOND_PAGE_FILE))
        low = draw.randrange(400)
        pages = sorted({low, *(low + draw.randrange(12) for _ in range(draw.randrange(12)))})
        size = None
        if draw.random() < 0.3:
            pages = [low]
            size = np.array([draw.randrange(1, 9) * PAGE], np.uint64)
        gathered.lose(np.array(pages, np.uint64) * np.uint64(PAGE), reason, size)
        for page in pages if size is None else range(low, low + int(size[0]) // PAGE):
            model.setdefault(page, set()).add(reason)
    gathered.lose(np.zeros(0, np.uint64), IN_FILE)
    found = gathered.found((BEYOND_PAGE_FILE,), ())
    seen = {}
    for rows in (found.elsewhere, found.missing):
        for start, size, reason in zip(rows.start.tolist(), rows.size.tolist(), rows.reason.tolist(), strict=True):
            for page in range(start // PAGE, (start + size) // PAGE):
                assert page not in seen
                seen[page] = REASONS[reason]
    assert seen.keys() == model.keys()
    assert all(reason in model[page] for page, reason in seen.items())


def read_together(backing: Any, pieces: list[tuple[int, int]]) -> bytes:
    """Read pieces of a backing in one call."""
    buffer = bytearray(sum(length for _, length in pieces))
    read_pieces(backing, pieces, memoryview(buffer))
    return bytes(buffer)


# compressed memory


@pytest.mark.parametrize(
    ("layout", "mask", "method"),
    [(8, MASK, "Xpress"), (23, MASK, "LZ4"), *some([(4, MASK, ""), (20, MASK, ""), (9, 0, ""), (7, 0, "")], 2)],
)
def test_compressed_pages_are_found(tmp_path: Path, layout: int, mask: int, method: str) -> None:
    """Compressed pages, own and shared ones, are found: packed, as they are, zeros, by chains, in a page file.

    What has no record, or cannot be decoded, is said to be compressed.
    """
    del method  # says what the build has
    truth = built(tmp_path, left_ram.squeezed(mask), layout)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID)
        assert_found(truth, memory)
        origins = [one.origin for one in truth.left[PID].found.values()]
        assert origins.count("compressed") > 150
        assert origins.count("prototype+compressed") > 30


def test_compressed_pages_in_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever pieces it is read, and in several threads at once, compressed memory has the same bytes.

    Few decoded pages are kept, so that some are let go of while others read them; many are decoded to their places.
    """
    monkeypatch.setattr(page_decoding, "_BATCHES", 2)
    monkeypatch.setattr(page_decoding, "_TOGETHER", 4)
    truth = built(tmp_path, left_ram.squeezed(pages=1200))
    found = truth.left[PID].found
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        segments = [segment for segment in memory.segments() if segment.start in found]
        assert max(segment.size for segment in segments) > 3 * PAGE

        def read(segment: Any) -> bytes:
            return memory.read(segment.start, segment.size)

        with ThreadPoolExecutor(4) as pool:
            for segment, data in zip(segments, pool.map(read, segments), strict=True):
                pages = range(segment.start, segment.end, PAGE)
                assert data == b"".join(found[page].data for page in pages)
                assert memory.read(segment.start + 7, PAGE - 9) == data[7 : PAGE - 2]
        space = memory.space
        page, one = next((page, one) for page, one in found.items() if one.origin == "compressed")
        place = space.offset_of(page)
        assert read_together(space.backing, [(place, PAGE)] * 5) == 5 * one.data
        with pytest.raises(SourceReadError, match="key"):
            read_together(space.backing, [*[(place, PAGE)] * 5, (place ^ 0xFFFFF000, PAGE)])


def test_processes_opened_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned of compressed pages is learned by one thread at a time, and all threads read all pages."""
    truth = built(tmp_path, left_ram.squeezed())
    sound, both, together = CompressionStore.sound, threading.Barrier(2), list[int]()

    def alone(store: CompressionStore, keys: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.append(both.wait(timeout=0.5))
        return sound(store, keys)

    monkeypatch.setattr(CompressionStore, "sound", alone)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container, ThreadPoolExecutor(2) as pool:
        assert container.processes()
        for memory in pool.map(container.process, [PID, PID]):
            assert_found(truth, memory)
    assert (both.broken, together) == (True, [])


def test_the_store_has_a_number(tmp_path: Path) -> None:
    """A file that is given under the number of the store is refused: its pages would be others."""
    truth = built(tmp_path, left_ram.squeezed())
    with (
        memcarve.open(truth.path, page_files=[f"2={truth.page_files[0]}"]) as container,
        pytest.raises(UsageError, match="page file 2 is none"),
    ):
        container.process(PID)


def test_no_store(tmp_path: Path) -> None:
    """Without MemCompression, or with a build of which nothing is known, compressed pages are said to be so."""
    for name, build in ((b"MemCompress", 19041), (b"MemCompression", 10586)):
        plans = [
            Plan(388, b"smss.exe"),
            Plan(900, name, 4, memory=()),
            Plan(PID, b"left.exe", 388, memory=(), userland=userland.plain(PID), left=left_ram.squeezed()),
        ]
        truth = winimage.build(tmp_path / "mem.raw", layout=8, build=build, megabytes=48, processes=plans)
        with memcarve.open(truth.path) as container:
            memory = container.process(PID, half="user")
            pages = [page for page, one in truth.left[PID].found.items() if one.origin == "compressed"]
            for page in pages:
                with pytest.raises(AddressError, match="compressed"):
                    memory.read(page, 1)


@pytest.mark.parametrize("build", [14393, 15063, 16299, 19041, 26100])
def test_what_is_learned_of_a_store(tmp_path: Path, build: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a build keeps what differs is learned as the table has it, from its pages alone."""
    known = compression_store.offsets_of(build)
    assert known is not None
    monkeypatch.setitem(compression.OFFSETS, 23000, compression.OFFSETS[build])
    truth = built(tmp_path, left_ram.squeezed(), build=23000)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        resolver = container._resolver  # type: ignore[attr-defined]
        store = resolver.store
        assert store is not None
        assert store._offsets == known._replace(build=0, method=None)
        container.process(PID)
        assert store.numbers == {2}


@pytest.mark.parametrize("lz4", [False, True], ids=["Xpress", "LZ4"])
def test_a_build_that_nobody_knows(tmp_path: Path, lz4: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a case
    """Stores laid out as in no table are read; if two tables of regions could be right, none is."""
    offsets = compression.Offsets(None, 0x19E8, 0x1BD0, numbered=not lz4, lz4=lz4)
    monkeypatch.setitem(compression.OFFSETS, 23000, offsets)
    truth = built(tmp_path, left_ram.squeezed(), build=25398)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        assert_found(truth, container.process(PID))
    monkeypatch.setitem(compression.OFFSETS, 23000, offsets._replace(second=0x1C00))
    truth = built(tmp_path, left_ram.squeezed(), build=25398)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        found = [page for page, one in truth.left[PID].found.items() if one.origin == "compressed"]
        assert len(found) > 100
        assert all(memory.space.at(page) is None for page in found)
        said = "compressed pages are left out: no store was found that names MemCompression as its owner and proves"
        assert any(said in str(note) for note in memory.notes)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_stores(tmp_path: Path, seed: int) -> None:
    """Whatever a store's structures say, loops and wild pointers among them, a page is right or not there."""
    truth = built(tmp_path, left_ram.squeezed(), (8, 23)[seed % 2])
    words = np.fromfile(truth.path, np.uint64)
    rng = seeded(seed)
    kernel_pointers = words >> np.uint64(47) == np.uint64(0x1FFFF)
    tagged = np.flatnonzero(np.isin(words >> np.uint64(32), [int.from_bytes(tag, "little") for tag in TAGS]))
    pointers = words[kernel_pointers]
    for _ in range((20, 200)[seed % 2]):
        # in the page behind the header of one of the structures
        place = int(tagged[rng.randrange(len(tagged))]) + 2 + rng.randrange(80)
        if place < len(words):
            words[place] = rng.choice(
                (
                    int(words[place]) ^ 1 << rng.randrange(64),
                    rng.getrandbits(64),
                    int(pointers[rng.randrange(len(pointers))]),
                )
            )
    words.tofile(truth.path)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        for page in truth.left[PID].found:
            if memory.space.at(page) is not None:
                assert len(memory.read(page, PAGE)) == PAGE


#: the tags of the structures of a store
TAGS = (b"smSt", b"smNd", b"smBA", b"smRc", b"smRg")


# what is made of it


@pytest.mark.parametrize("bare", [False, True])
def test_carved_files(truth: Truth, tmp_path: Path, capfdbinary: Capture, *, bare: bool) -> None:
    """What is carved has the planned bytes, and says how its pages were found; verify reads all of it again."""
    # with their numbers or without: that is not recorded, and verify opens them all the same
    files = [word for file in files_of(truth) for word in ("--pagefile", file.partition("=")[2] if bare else file)]
    out = tmp_path / "out"
    ran = invoke(capfdbinary, "carve", truth.path, "--pid", str(PID), *files, "-o", out, "--hash", "sha256")
    assert ran.code == 3, ran.err  # a file should hold more than it does
    document = json.loads((out / "segments.json").read_text())
    found = truth.left[PID].found
    rows = [row for row in document["segments"] if int(row["start"], 16) in found]
    assert rows
    told: dict[str, int] = {}
    for row in rows:
        start, size = int(row["start"], 16), row["size"]
        data = b"".join(found[page].data for page in range(start, start + size, PAGE))
        assert (out / row["file"]).read_bytes() == data
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        for word, count in row.get("origins", {}).items():
            told[word] = told.get(word, 0) + count
    origins = [one.origin for one in found.values()]
    assert told["prototype"] == origins.count("prototype") * PAGE
    assert told["prototype+pagefile"] == origins.count("prototype+pagefile") * PAGE
    assert told["pagefile"] == origins.count("pagefile") * PAGE
    assert [row["number"] for row in document["inputs"]["page_files"]] == [0, 1]
    assert document["inputs"]["image"]["pages_from"] == "all"
    ran = invoke(capfdbinary, "verify", out, "--source", truth.path)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("kind", ["carve", "elfcore", "several"])
def test_page_files_are_hashed(tmp_path: Path, capfdbinary: Capture, kind: str) -> None:
    """With --hash-input the SHA-256 of page files is recorded, too; verify takes it again and finds a file changed."""
    private = left_ram.Private(0x30100000000, ("pagefile 0", "pagefile 1") * 20)
    truth = built(tmp_path, left_ram.LeftRam((), (left_ram.MOVED, private)))
    files = [word for file in files_of(truth) for word in ("--pagefile", file)]
    out = tmp_path / ("core" if kind == "elfcore" else "out")
    words: list[Any] = ["export", "--to", "elfcore", truth.path, "--pid", PID, "-o", out]
    if kind != "elfcore":
        words = ["carve", truth.path, "--pid", PID, "-o", out, *(["--pid", "388"] if kind == "several" else [])]
    ran = invoke(capfdbinary, *words, *files, "--hash-input")
    assert ran.code == 0, ran.err
    if kind != "elfcore":
        (listed,) = out.rglob(f"{PID}-*/segments.json" if kind == "several" else "segments.json")
        rows = json.loads(listed.read_text())["inputs"]["page_files"]
        for row in rows:
            with open(row["path"], "rb") as file:
                assert row["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
        assert len(rows) == 2
    assert invoke(capfdbinary, "verify", out, "--source", truth.path).code == 0
    with open(truth.page_files[1], "r+b") as file:
        file.write(b"a page that nobody reads")
    ran = invoke(capfdbinary, "verify", out, "--source", truth.path)
    assert ran.code == 1
    assert "sha256" in ran.err


def test_what_is_printed(truth: Truth, capfdbinary: Capture) -> None:
    """Extents, places and bytes say how they were found; the list of processes counts pages by where they are."""
    files = [word for file in files_of(truth) for word in ("--pagefile", file)]
    found = truth.left[PID].found
    ran = invoke(capfdbinary, "segments", truth.path, "--pid", str(PID), *files, "--extents", "--format", "jsonl")
    assert ran.code == 3
    rows = [json.loads(line) for line in ran.out.splitlines()]
    told = {page: row for row in rows for page in range(int(row["start"], 16), int(row["end"], 16), PAGE)}
    assert {page: told[page]["origin"] for page in found} == {page: one.origin for page, one in found.items()}
    for page, one in found.items():
        assert (told[page]["physical"] is None) == ("pagefile" in one.origin)
    page = next(page for page, one in found.items() if one.origin == "prototype+pagefile")
    ran = invoke(capfdbinary, "locate", truth.path, hex(page), "--pid", str(PID), *files, "--format", "jsonl")
    assert json.loads(ran.out)["origin"] == "prototype+pagefile"
    ran = invoke(capfdbinary, "read", truth.path, hex(page), "4096", "--pid", str(PID), *files, "--raw", "-v")
    assert ran.out == found[page].data
    assert f"0x{page:x}: 4096 bytes are from prototype+pagefile" in ran.err
    ran = invoke(capfdbinary, "processes", truth.path, "--pages", *files, "--format", "jsonl")
    row = next(row for row in map(json.loads, ran.out.splitlines()) if row["pid"] == PID)
    assert row["shared"] == sum(one.origin == "prototype" for one in found.values())


def test_a_module_is_whole(tmp_path: Path) -> None:
    """A module of which the process touched one page is extracted whole, but for a page that is in its file alone.

    Of that there are zeros, and it is said that it is not there.
    """
    start, pages = 0x7FF700000000, 16
    sections = (kernel.Section(b".text", PAGE, (pages - 1) * PAGE, 0x60000020),)
    prototypes = ("valid", *(("transition", "valid", "pagefile 0") * pages)[: pages - 2], "in-file")
    own = ("shared", *("zero",) * (pages - 1))
    head = kernel.header(start, pages * PAGE, sections)
    view = left_ram.View(start, prototypes, own, "image", header=head)
    truth = built(tmp_path, left_ram.LeftRam((view,), (left_ram.MOVED,)))
    for options, whole in ({"pages_from": "ram"}, False), ({"page_files": files_of(truth)}, True):
        with memcarve.open(truth.path, **options) as container:  # type: ignore[arg-type]
            memory = container.process(PID)
            held = memory.space.bytes_within(*(np.array([at], np.uint64) for at in (start, start + pages * PAGE - 1)))
            assert (int(held[0]) == (pages - 1) * PAGE) == whole
            modules = [module for module in memcarve.find_modules(memory).modules if module.start == start]
            extract(memory, modules, tmp_path / f"out-{whole}")
            (written,) = (tmp_path / f"out-{whole}").glob("*view-7ff700000000*")
            data = b"".join(truth.left[PID].found[start + page * PAGE].data for page in range(1, pages - 1))
            assert (data + bytes(PAGE) in written.read_bytes()) == whole
            (told,) = json.loads((tmp_path / f"out-{whole}" / "modules.json").read_text())["modules"]
            there = (pages - 1 if whole else 1) * PAGE
            assert (told["resident"], told["missing_bytes"]) == (there, pages * PAGE - there)


def test_changed_code_is_proven(tmp_path: Path) -> None:
    """Code that a process changed is held against what all share, wherever that is; no other process is needed.

    The second image could not be mapped where its section is: numbers that lead into it differ, and nothing else.
    """
    start, other = 0x7FF700000000, 0x7FF710000000
    patched = ("patched 0", "patched 1", "patched 5", "patched 2", "patched 3", "patched 4")
    away = ("transition", "pagefile 0", "compressed packed", "in-file")
    prototypes = (*("valid",) * 4, *away, "valid", "valid")
    size = len(prototypes) * PAGE
    header = kernel.header(start, size, (kernel.Section(b".text", PAGE, size - PAGE, 0x60000020),))
    views = [
        left_ram.View(at, prototypes, ("shared", "shared", *patched, "copy", last), "image", header=header)
        for at, last in ((start, "zero"), (other, f"rebased {other - start}"))
    ]
    plan = left_ram.LeftRam(tuple(views), (left_ram.MOVED,), kernel=("pagefile 0", "here"))
    truth = built(tmp_path, plan, 9)
    wanted = memcarve.Selection(flag=["text-differs"])
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID, half="user")
        asked: list[int] = []
        originals = memory.originals
        assert originals is not None
        memory.originals = lambda pages: asked.append(len(pages)) or originals(pages)  # type: ignore[func-returns-value]
        found = {row.address: row for row in labels_of(memory, wanted).flagged.findings if row.flag == "text-differs"}
        # none is told of a page that is the same, nor of one of which only its file has the original
        changed = {at + page * PAGE: count for at in (start, other) for page, count in {3: 1, 4: 5, 5: 2, 6: 3}.items()}
        assert {*found} == {*changed}
        for address, count in changed.items():
            words = "1 byte differs" if count == 1 else f"{count} bytes differ"
            assert f"{words}, the first at 0x{address + left_ram.PATCH:x}" in found[address].why
            assert ("relocation directory" in found[address].why) == (address >= other)
            assert found[address].severity == "high"
        assert len(asked) == 1
    with memcarve.open(truth.path, pages_from="ram") as container:
        memory = container.process(PID, half="user")
        assert memory.originals is None


# MemProcFS


@pytest.mark.parametrize("layout", [8, 9, None])
def test_memprocfs_finds_the_same(left_structures: Truth, tmp_path: Path, layout: int | None) -> None:
    """Page by page MemProcFS reads the same with the same page files, but for what is said here.

    So it does if the kernel's structures left memory, too (None). It takes pages that nobody wrote for zeros, does not
    follow a view beyond its first subsection, and reads what contradicts itself.
    """
    skip_without()
    truth = left_structures if layout is None else built(tmp_path, left_ram.everything(tables=True), layout)
    left = truth.left[PID]
    views = [(view, page) for view in left.plan.views for page in range(len(view.prototypes))]
    pages = sorted({*left.found, *left.lost, *(view.start + page * PAGE for view, page in views)})
    options = [word for number, path in truth.page_files.items() for word in (f"-pagefile{number}", path)]
    wanted = json.dumps({PID: [(page, 1) for page in pages]})
    package = with_xpress(tmp_path) if layout is None else None
    told = json.loads(run_memprocfs(truth.path, *options, stdin=wanted, package=package))
    theirs = next(one["pages"] for one in told if one["pid"] == PID)
    differing = {
        view.start + page * PAGE
        for view, page in views
        if view.wrong in {"last", "base"} or (view.parts and page >= view.parts[0])
    }
    zeros = hashlib.blake2b(bytes(PAGE), digest_size=8).hexdigest()
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID)
        same = 0
        for page in (page for page in pages if page not in differing):
            expected = zeros if left.lost.get(page) == "zeros that nobody wrote yet" else None
            if memory.space.at(page) is not None:
                expected = hashlib.blake2b(memory.read(page, PAGE), digest_size=8).hexdigest()
                same += 1
            assert theirs.get(str(page)) == expected, hex(page)
    assert same > 600


@pytest.mark.parametrize("layout", [9, 23])
def test_memprocfs_decompresses_the_same(tmp_path: Path, layout: int) -> None:
    """Page by page MemProcFS finds the same compressed pages, and none where memcarve finds none."""
    skip_without()
    truth = built(tmp_path, left_ram.squeezed(), layout)
    left = truth.left[PID]
    pages = sorted({*left.found, *left.lost})
    options = [word for number, path in truth.page_files.items() for word in (f"-pagefile{number}", path)]
    wanted = json.dumps({PID: [(page, 1) for page in pages]})
    told = json.loads(run_memprocfs(truth.path, *options, stdin=wanted, package=with_xpress(tmp_path)))
    theirs = next(one["pages"] for one in told if one["pid"] == PID)
    with memcarve.open(truth.path, page_files=files_of(truth)) as container:
        memory = container.process(PID)
        for page in pages:
            expected = None
            if memory.space.at(page) is not None:
                expected = hashlib.blake2b(memory.read(page, PAGE), digest_size=8).hexdigest()
            assert theirs.get(str(page)) == expected, hex(page)


def test_memprocfs_finds_the_same_with_tables_in_memory(left_tables: Truth, tmp_path: Path) -> None:
    """MemProcFS follows no table that left memory; if they are all in memory it reads what memcarve finds without."""
    skip_without()
    left = left_tables.left[PID]
    here = built(tmp_path, left_ram.tables_left()._replace(tables=()), 9)
    options = [word for number, path in here.page_files.items() for word in (f"-pagefile{number}", path)]
    # what is below the ring is no table's
    pages = [page for page in left.found if here.left[PID].found.get(page) == left.found[page]]
    wanted = json.dumps({PID: [(page, 1) for page in pages]})
    told = json.loads(run_memprocfs(here.path, *options, stdin=wanted, package=with_xpress(tmp_path)))
    theirs = next(one["pages"] for one in told if one["pid"] == PID)
    with memcarve.open(left_tables.path, page_files=files_of(left_tables)) as container:
        memory = container.process(PID)
        same = 0
        for page in pages:
            own = hashlib.blake2b(memory.read(page, PAGE), digest_size=8).hexdigest()
            # it reads nothing where a process has no page table
            same += theirs.get(str(page)) == own
            assert theirs.get(str(page)) == own or page >= 0x3A001000000, hex(page)
    assert same > 150


# hostile


def damaged(truth: Truth, path: Path, rng: random.Random) -> None:
    """Write a copy of an image in which some words of page tables, arrays, VADs and subsections are something else."""
    words = np.fromfile(truth.path, np.uint64)
    kinds = (words >> np.uint64(47) == np.uint64(0x1FFFF)) | (words & np.uint64(0x400) != 0) & (words < 1 << 63)
    places = np.flatnonzero(kinds & (words != 0))
    pointers = words[places[words[places] >> np.uint64(47) == np.uint64(0x1FFFF)]]
    for _ in range(rng.choice((30, 300, 3000))):
        place = int(places[rng.randrange(len(places))])
        word = int(words[place])
        words[place] = rng.choice(
            (
                word ^ 1 << rng.randrange(64),
                rng.getrandbits(64),
                int(pointers[rng.randrange(len(pointers))]) + rng.choice((0, 8, -8, 4096)) & (1 << 64) - 1,
                0xFFFFFFFF_00000400,
                0x400 | (int(pointers[rng.randrange(len(pointers))]) << 16 & (1 << 64) - 1),
            )
        )
    words.tofile(path)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_structures(truth: Truth, tmp_path: Path, seed: int) -> None:
    """Whatever page tables, arrays and subsections say, what is found can be read; errors are declared ones."""
    path = tmp_path / "damaged.raw"
    damaged(truth, path, seeded(seed))
    with memcarve.open(path, system="windows", page_files=files_of(truth)) as container:
        try:
            memory = container.process(PID)
        except MemcarveError:
            return
        for segment in [*memory.segments()][:200]:
            memory.read(segment.start, min(segment.size, 1 << 20))
