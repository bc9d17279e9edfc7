"""Page tables: what memcarve reads from them against a slow and obvious walker, and each mistake that others make.

Physical memory is random or made by hand; what is expected of it comes from `walker`, or is spelled out.
"""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given, reject, settings, strategies as st

import walker
import winimage
from memcarve.errors import LimitError
from memcarve.formats.images.machine import MachineMemory
from memcarve.images import paging
from memcarve.images.linux.absent_entries import KINDS
from memcarve.images.paging import default_limit, translate, walk
from memcarve.images.paging_modes import MODES, AddressTable
from memcarve.images.physical import PhysicalMemory
from memcarve.permissions import page_state, permissions
from memcarve.space import AddressSpace
from memory import Memory
from sweeps import LONG
from walked_pages import assert_same, cut, expected, outside_lists, physical_memory, reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memcarve.images.paging import Pages

    Range = tuple[int, int, int]  # physical start, size, offset in the backing
    Tables = Mapping[int, Mapping[int, int]]  # physical address of a table -> index -> entry

PAGE, LARGE, HUGE, TOP = 4096, 1 << 21, 1 << 30, 1 << 64
NX = 1 << 63
FRAME = (1 << 52) - PAGE
#: memcarve's modes and the walker's names of them; the address bits below an entry of the root; entries of the root
NAMES = {"x64": "x86-64", "x64-5": "x86-64-5", "pae": "pae", "x86": "x86"}
ROOT_SHIFT = {"x64": 39, "x64-5": 48, "pae": 30, "x86": 22}


def claimed(memory: PhysicalMemory, table: AddressTable, start: int = 0, end: int = TOP) -> int:
    """Return how many bytes the tables are said to map."""
    return paging.claimed(memory, table, start, end)[0]


def written(tables: Tables, size: int = 1 << 20, width: int = 8) -> bytes:
    """Return physical memory that holds tables and else zeros."""
    data = bytearray(size)
    for table, entries in tables.items():
        for index, value in entries.items():
            data[table + index * width : table + (index + 1) * width] = value.to_bytes(width, "little")
    return bytes(data)


def counted(pages: Pages) -> dict[str, int]:
    """Return the counts that are not 0."""
    return {kind: count for kind, count in pages.counts.items() if count}


def table_of(mode: str = "x64", system: str = "none", root: int = PAGE) -> AddressTable:
    """Return how to read tables whose root lies in the second page."""
    return AddressTable(root, MODES[mode], system)


def found(tables: Tables, mode: str = "x64", system: str = "none", size: int = 1 << 20) -> list[tuple[object, ...]]:
    """Return what is found through tables: address, size, physical address, permissions or else the state."""
    memory = physical_memory(written(tables, size, 4 if mode == "x86" else 8))
    placed = walk(memory, table_of(mode, system)).placed
    return [
        (start, length, physical, permissions(flags) or page_state(flags))
        for start, length, physical, _, flags in zip(*(column.tolist() for column in placed.columns), strict=True)
    ]


def chain(pte: int, pde: int = 0x4067, pdpte: int = 0x3067, pml4e: int = 0x2067) -> Tables:
    """Return four tables, the first entry of each leading to the next."""
    return {0x1000: {0: pml4e}, 0x2000: {0: pdpte}, 0x3000: {0: pde}, 0x4000: {0: pte}}


# random tables


class Machine(NamedTuple):
    """Physical memory, its ranges in order, and a reader of it for the walker."""

    memory: PhysicalMemory
    ranges: list[Range]
    read: Callable[[int, int], bytes | None]
    root: int


#: where random machines have memory: low, at the beginning of large pages, beyond 40 bits
REGIONS = ((0, 20 * PAGE), (LARGE, 6 * PAGE), (HUGE, 4 * PAGE), (1 << 41, 3 * PAGE))
TABLES = range(1, 7)
_TARGETS = st.one_of(
    st.sampled_from(TABLES),
    st.sampled_from(TABLES),
    st.sampled_from([0, *range(7, 22), *range(512, 519), *range(1 << 18, (1 << 18) + 5), 600, 1 << 19, (1 << 40) - 1]),
    st.sampled_from([1 << 29, (1 << 29) + 1, 1 << 28]),
)
_LOW = st.one_of(
    st.sampled_from([0x67, 0x63, 0x7, 0x5, 0x1]),
    st.sampled_from([0xE7, 0x87, 0x1E3, 0x800, 0x8E0, 0x880, 0x890, 0xC00, 0x400, 0x80, 0x100, 0x160, 0x180, 0x1E0]),
    st.integers(0, 0xFFF),
)
_HIGH = st.sampled_from([0, 0, 0, NX, 0x7FF << 52, 1 << 45, 7 << 45, 0xF << 48, 1 << 32, 0xFFFFF << 32])
#: what is said where one table leads to the next: mostly that it does
_LINKS = st.sampled_from([0x67, 0x63, 0x65, 0x1, 0x27, NX | 0x67, 0x860, 0x8E0 | 1 << 45])
_HALVES = st.sampled_from(["entry", "entry", "entry", "inverted"])


@st.composite
def entries(draw: st.DrawFn, width: int) -> int:
    """Draw an entry: where it leads, what it says, and sometimes its frame inverted."""
    frame, low = draw(_TARGETS) << 12, draw(_LOW)
    if draw(_HALVES) == "inverted":
        frame = ~frame & FRAME
    value = frame | low | (draw(_HIGH) if width == 8 else 0)
    return value & ((1 << 8 * width) - 1)


@st.composite
def machines(draw: st.DrawFn, mode: str, alike: int = 1) -> Machine:
    """Draw tables in a memory with holes, whose ranges lie in any order in the backing.

    So many links in one table are `alike`.
    """
    width, count = (4, 1024) if mode == "x86" else (8, 512)
    index = st.sampled_from([0, 1, 2, count // 2 - 1, count // 2, count - 2, count - 1])
    table = st.dictionaries(index, entries(width), max_size=3)
    links = {
        number * PAGE: dict.fromkeys(
            [draw(index) for _ in range(alike)], (number + 1) * PAGE | draw(_LINKS) & ((1 << 8 * width) - 1)
        )
        for number in TABLES
    }
    tables = {place: {**draw(table), **link} for place, link in links.items()}
    root = PAGE
    if mode == "pae":
        root += draw(st.sampled_from([0, 0x20, 0xFE0]))
        tables[root] = {**draw(st.dictionaries(st.integers(0, 3), entries(width))), draw(st.integers(0, 3)): 0x2001}
    low = written(tables, 20 * PAGE, width)
    spot = st.tuples(st.sampled_from(REGIONS), st.integers(0, 20), st.sampled_from([0, 0, 0, 1, 0x800, 0xFFF]))
    holes = [
        (region[0] + page * PAGE + byte, size)
        for (region, page, byte), size in draw(
            st.lists(st.tuples(spot, st.sampled_from([PAGE, PAGE, 1, 2 * PAGE])), max_size=3)
        )
    ]
    seams = sorted(region[0] + page * PAGE for region, page, _ in draw(st.lists(spot, max_size=3)))
    pieces = cut(REGIONS, holes, seams)
    data, ranges = b"", []
    for start, size in draw(st.permutations(pieces)):
        data += b"\xcc" * draw(st.sampled_from([0, 0, 7]))
        ranges.append((start, size, len(data)))
        data += (
            low[start : start + size] if start < 1 << 20 else struct.pack("<Q", start) * (size // 8) + b"." * (size % 8)
        )

    return Machine(physical_memory(data, ranges), sorted(ranges), reader(data, sorted(ranges)), root)


def walked(machine: Machine, mode: str, system: str, once: walker.Once | None = None) -> list[walker.Item]:
    """Return the walker's pages; random tables that lead to each other too often are another test's."""
    top = machine.memory.end - 1
    try:
        return walker.walk(machine.read, machine.root, NAMES[mode], system, limit=200, top=top, once=once)
    except walker.TooMuchError:
        reject()


@pytest.mark.parametrize("mode", NAMES)
@settings(max_examples=2000 if LONG else 40)
@given(data=st.data())
def test_walk_as_the_slow_walker(mode: str, data: st.DataObject) -> None:
    """Random tables in random memory give what the walker finds: where each byte lies, its flags, what is outside."""
    machine, system = data.draw(machines(mode)), data.draw(st.sampled_from(walker.SYSTEMS))
    items = walked(machine, mode, system)
    table = table_of(mode, system, machine.root)
    assert_same(walk(machine.memory, table, limit=TOP), items, machine.ranges)
    total = sum(item[1] for item in items)
    assert claimed(machine.memory, table) == total
    edges = sorted({0, 1, TOP - 1, TOP, *(edge for item in items for edge in (item[0], item[0] + item[1]))})
    edge, shift = st.sampled_from(edges), st.sampled_from([0, 0, -1, 1, -PAGE, 0x12345])
    start, end = sorted(min(max(data.draw(edge) + data.draw(shift), 0), TOP) for _ in range(2))
    if start < end:
        chosen = [item for item in items if item[0] < end and start < item[0] + item[1]]
        assert_same(walk(machine.memory, table, start, end, limit=TOP), chosen, machine.ranges)
        slot = ROOT_SHIFT[mode]
        touched = [item for item in items if start >> slot <= item[0] >> slot <= (end - 1) >> slot]
        assert claimed(machine.memory, table, start, end) == sum(item[1] for item in touched)
    if start < TOP:
        here = [item[2] + start - item[0] for item in items if item[0] <= start < item[0] + item[1]]
        assert translate(machine.memory, table, start) == (here[0] if here and machine.read(here[0], 1) else None)


@pytest.mark.parametrize("mode", NAMES)
@settings(max_examples=2000 if LONG else 30)
@given(data=st.data())
def test_shared_tables_of_the_kernel_half_are_walked_once(mode: str, data: st.DataObject) -> None:
    """Random tables that are shared in the kernel half count once a level; their repeats have the same bytes."""
    many = data.draw(st.sampled_from([2, 3]))
    machine, system = data.draw(machines(mode, alike=many)), data.draw(st.sampled_from(walker.SYSTEMS))
    once = walker.Once(NAMES[mode], system, many)
    everything = walked(machine, mode, system, once)
    once.begin()
    items, table = walked(machine, mode, system, once), table_of(mode, system, machine.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "_SHARED", many)
        pages = walk(machine.memory, table, limit=TOP)
        assert claimed(machine.memory, table) == sum(item[1] for item in items)
    assert_same(pages, items, machine.ranges)
    again = pages.repeats
    columns = again.start.tolist(), again.size.tolist(), again.target.tolist()
    assert list(zip(*columns, strict=True)) == sorted(once.repeats)
    start, size, physical, offset, flags = pages.placed.columns
    backing, repeats = machine.memory.backing, pages.repeats
    space = AddressSpace(start, size, offset, backing, physical=physical, flags=flags, repeats=repeats)
    inside = expected(everything, machine.ranges)[0]
    assert space.total + space.repeated == sum(row[1] for row in inside)
    for address, length, _, place, _ in inside:
        count = min(length, 4 * PAGE)
        wanted = bytearray(count)
        backing.read_into(place, memoryview(wanted))
        assert space.read(address, count) == wanted
        assert space.offset_of(address) == place
        segment, extent = space.locate(address)
        assert extent.start <= address < extent.end
        assert extent.offset + address - extent.start == place
        assert (segment is None) == any(begin <= address < begin + span for begin, span, _ in once.repeats)


@pytest.mark.parametrize("mode", NAMES)
@settings(max_examples=2000 if LONG else 40)
@given(data=st.data())
def test_a_range_of_shared_tables(mode: str, data: st.DataObject) -> None:
    """A large range that begins or ends anywhere in shared tables has, repeats included, what the walker finds."""
    many = data.draw(st.sampled_from([2, 3]))
    machine, system = data.draw(machines(mode, alike=many)), data.draw(st.sampled_from(walker.SYSTEMS))
    items = walked(machine, mode, system)
    edges = sorted({0, TOP, *(edge for item in items for edge in (item[0], item[0] + item[1]))})
    edge, shift = st.sampled_from(edges), st.sampled_from([0, 0, -1, 1, -PAGE, 5 * PAGE])
    first, end = sorted(min(max(data.draw(edge) + data.draw(shift), 0), TOP) for _ in range(2))
    if first == end:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "_SHARED", many)
        patch.setattr(paging, "default_limit", lambda _: 0)  # no range is small
        pages = walk(machine.memory, table_of(mode, system, machine.root), first, end, limit=TOP)
    start, size, physical, offset, flags = pages.placed.columns
    backing, repeats = machine.memory.backing, pages.repeats
    space = AddressSpace(start, size, offset, backing, physical=physical, flags=flags, repeats=repeats)
    for address, length, _, place, _ in expected(items, machine.ranges)[0]:
        for at in {max(address, first), min(address + length, end) - 1}:
            if address <= at < address + length and first <= at < end:
                assert space.offset_of(at) == place + at - address


@pytest.mark.parametrize("mode", NAMES)
@settings(max_examples=2000 if LONG else 40)
@given(data=st.data())
def test_counts_as_the_slow_walker(mode: str, data: st.DataObject) -> None:
    """Random tables give as many tables, lost tables and absent pages of each kind as the walker meets."""
    machine, system = data.draw(machines(mode)), data.draw(st.sampled_from(walker.SYSTEMS))
    walked(machine, mode, system)
    asked: list[list[bool]] = []

    def read(physical: int, size: int) -> bytes | None:
        data = machine.read(physical, size)
        width = 4 if mode == "x86" else 8
        if size > width:
            asked.append([data is not None])
        elif size == width:  # an entry of the table that was just asked for, and is not there whole
            asked[-1].append(data is not None)
        return data

    top = machine.memory.end - 1
    list(walker.entries(read, machine.root, NAMES[mode], system, top=top))
    absent = walker.absent(machine.read, machine.root, system, mode=NAMES[mode], half="both", top=top)
    tables = [whole or sum(parts) * 2 > len(parts) for whole, *parts in asked]
    counts = walk(machine.memory, table_of(mode, system, machine.root), limit=TOP).counts
    assert counts.get("tables", 0) == tables.count(True)
    assert counts.get("lost_entries", 0) == absent.pop("lost", 0)
    names = {"windows": ("demand-zero", "pagefile", "prototype")}.get(system)
    assert counts.get("lost_tables", 0) == tables.count(False)
    if names:
        assert {name: counts.get(name.replace("-", "_"), 0) for name in names} == {name: absent[name] for name in names}
    else:
        kinds = KINDS if system == "linux" else ("not_present",)
        assert sum(counts.get(kind, 0) for kind in kinds) == sum(absent.values()) - absent["zero"]


@pytest.mark.parametrize("mode", NAMES)
@settings(max_examples=2000 if LONG else 40)
@given(data=st.data())
def test_limit_on_random_tables(mode: str, data: st.DataObject) -> None:
    """What tables claim is within a limit of as much; a byte less is an error that says how much it was."""
    machine, system = data.draw(machines(mode)), data.draw(st.sampled_from(walker.SYSTEMS))
    items = walked(machine, mode, system)
    table, total = table_of(mode, system, machine.root), sum(item[1] for item in items)
    if total > 200 * PAGE:  # more than the tables themselves
        assert_same(walk(machine.memory, table, limit=total), items, machine.ranges)
        with pytest.raises(LimitError) as caught:
            walk(machine.memory, table, limit=total - 1)
        assert caught.value.claimed == total


# images of Windows


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> winimage.Truth:
    """Return an image with every edge case, and every kind of page."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw", top_page=True)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> winimage.Truth:
    """Return an image in which a few tables claim nearly all of the address space."""
    plan = winimage.Plan(1624, b"loop.exe", edges=(winimage.LOOP,))
    return winimage.build(tmp_path_factory.mktemp("loop") / "mem.raw", processes=[plan])


def memory_of(truth: winimage.Truth) -> PhysicalMemory:
    """Return the memory of an image."""
    with open(truth.path, "rb") as file:
        return physical_memory(file.read())


def test_image_as_planned(usual: winimage.Truth) -> None:
    """Every process of an image has the planned pages, and as many absent ones of each kind as planned."""
    memory = memory_of(usual)
    for process in usual.processes:
        table = table_of(system="windows", root=process.root)
        assert_same(walk(memory, table), process.pages().items(), [(0, usual.size, 0)])
        pages = walk(memory, table, 0, TOP >> 1)
        assert_same(pages, process.user.items(), [(0, usual.size, 0)])
        absent = {name: pages.counts.get(name.replace("-", "_"), 0) for name in process.absent if name != "zero"}
        assert absent == {name: count for name, count in process.absent.items() if name != "zero"}


def test_holes_in_an_image(usual: winimage.Truth) -> None:
    """Where the image goes into a container with holes, large pages lose just what lies in them."""
    edges = [0, *(edge for start, size in sorted(usual.holes) for edge in (start, start + size)), usual.size]
    ranges = [(low, high - low, low) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    assert len(ranges) == 3
    with open(usual.path, "rb") as file:
        memory = physical_memory(file.read(), ranges)
    process = usual.process(2448)
    assert_same(walk(memory, table_of(system="windows", root=process.root)), process.pages().items(), ranges)


# what a well-known walker gets wrong


@pytest.mark.parametrize("bits", [0x860, 0x8E0, 0x880])
def test_transition_directory_entry_is_no_large_page(bits: int) -> None:
    """A directory entry in transition leads to a page table, also where bit 7 is part of its protection."""
    assert found(chain(0x5067, pde=0x4000 | bits), system="windows") == [(0, PAGE, 0x5000, "transition")]


def test_identical_entries() -> None:
    """A page table of 512 identical entries maps the one page 512 times."""
    tables = {**chain(0), 0x4000: dict.fromkeys(range(512), 0x5025)}
    assert found(tables) == [(index * PAGE, PAGE, 0x5000, "ur-x") for index in range(512)]


def test_large_page_with_a_hole() -> None:
    """Of a large page with a missing 4 KiB page, what lies before and behind is there, and the page is outside."""
    data, hole = written(chain(0, pde=LARGE | 0xE7), 2 * LARGE), LARGE + 5 * PAGE
    memory = physical_memory(data, [(0, hole, 0), (hole + PAGE, LARGE - 6 * PAGE, hole + PAGE)])
    pages = walk(memory, table_of())
    assert pages.placed.start.tolist() == [0, 6 * PAGE]
    assert pages.placed.size.tolist() == [5 * PAGE, LARGE - 6 * PAGE]
    assert outside_lists(pages) == [[5 * PAGE], [PAGE], [hole]]
    assert pages.counts["outside"] == 1


def test_tables_outside_the_image() -> None:
    """Tables outside the image are counted, and cost nothing else: no page of what they could map is looked at."""
    outside = dict.fromkeys(range(512), 0x7FFFF067)
    reading = Counting(written({0x1000: {**outside, 0: 0x2067}, 0x2000: {**outside, 1: 0x3067}, 0x3000: outside}))
    columns = (np.array([number], np.uint64) for number in (0, len(reading.data), 0))
    memory = PhysicalMemory(MachineMemory("test", reading, *columns, [], declared=False))
    pages = walk(memory, table_of())
    assert len(pages.placed.start) == len(pages.outside.start) == 0
    assert counted(pages) == {"tables": 3, "lost_tables": 511 + 511 + 512}
    # each once: what few tables claim is known when they were walked
    assert reading.reads == 3


def test_slots_cost_nothing() -> None:
    """A thousand page tables are read each once and in long stretches, however many of their entries are used."""
    directory = {index: (0x5000 + index * PAGE) | 0x67 for index in range(512)}
    reading = Counting(written({**chain(0), 0x3000: directory, 0x5000: {511: 0x2067}}, 1 << 22))
    columns = (np.array([number], np.uint64) for number in (0, len(reading.data), 0))
    memory = PhysicalMemory(MachineMemory("test", reading, *columns, [], declared=False))
    pages = walk(memory, table_of(), 0, HUGE)
    assert counted(pages) == {"tables": 515, "present": 1}
    assert reading.reads == 4


class Counting(Memory):
    """A backing that counts how often it is read."""

    reads = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`."""
        self.reads += 1
        super().read_into(offset, buffer)


# entries that are not present


@pytest.mark.parametrize("level", ["pte", "pde", "pdpte", "pml4e"])
def test_transition_at_every_level(level: str) -> None:
    """Windows keeps what is in transition in memory, page or table: the page is found, and it is not present."""
    entries = {"pte": 0x5067, "pde": 0x4067, "pdpte": 0x3067, "pml4e": 0x2067}
    entries[level] = entries[level] & ~0xFFF | 0x880
    assert found(chain(**entries), system="windows") == [(0, PAGE, 0x5000, "transition")]
    assert found(chain(**entries), system="none") == found(chain(**entries), system="linux") == []


@pytest.mark.parametrize("level", ["pte", "pde", "pdpte", "pml4e"])
def test_masked_frames(level: str) -> None:
    """The mask of the L1TF fixes is dropped from a frame where SwizzleBit is clear, and no mask where it is set."""
    entries = {"pte": 0x5067, "pde": 0x4067, "pdpte": 0x3067, "pml4e": 0x2067}
    masked = entries[level] & ~0xFFF | 0x860 | 7 << 45
    assert found(chain(**{**entries, level: masked}), system="windows") == [(0, PAGE, 0x5000, "transition")]
    assert found(chain(**{**entries, level: masked | 0x10}), system="windows") == []


def test_mask_spares_addresses_of_the_image() -> None:
    """No bit is taken for a mask that a physical address of the image can have."""
    high = 1 << 46
    data = written(chain(high | 0x5000 | 0x860)) + bytes(PAGE)
    memory = physical_memory(data, [(0, 1 << 20, 0), (high | 0x5000, PAGE, 1 << 20)])
    assert walk(memory, table_of(system="windows")).placed.physical.tolist() == [high | 0x5000]


def test_prototype_and_pagefile() -> None:
    """A prototype, with or without the bit of transition, is no page, and no table; nor is what is in the pagefile."""
    table = {0: 0x5C60, 1: 0x5460, 2: 0x700000080, 3: 0x80}
    memory = physical_memory(written({**chain(0), 0x4000: table}))
    assert counted(walk(memory, table_of(system="windows"))) == {
        "tables": 4, "prototype": 2, "pagefile": 1, "demand_zero": 1,
    }  # fmt: skip
    assert found(chain(0x5067, pde=0x4C60), system="windows") == []


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_masked_demand_zero(mode: str) -> None:
    """Windows' mask on an entry makes no place in a pagefile; SwizzleBit set, or other bits, say that it is one."""
    mask = 0x2000_0000_0000
    zero = [0x80, mask | 0x80, 7 << 45 | 0x20, mask << 1 | 0x80, 1 << 40 | 0x80, 0x7FF << 41 | 0xC0]
    paged = [
        0x7_0000_0080, mask | 0x90, 0x90 | 7 << 45, mask | 0x7_0000_0080, mask | 0x12_0000_0080, 5 << 45 | 0x80,
        1 << 39 | 0x80, 0x3F << 39 | 0x80,
    ]  # fmt: skip
    chained = {"x64": chain(0), "pae": {0x1000: {0: 0x2001}, 0x2000: {0: 0x4067}}}[mode]
    memory = physical_memory(written({**chained, 0x4000: dict(enumerate(zero + paged))}))
    assert counted(walk(memory, table_of(mode, "windows"))) == {
        "tables": len(chained) + (mode == "pae"), "demand_zero": len(zero), "pagefile": len(paged),
    }  # fmt: skip


def test_mask_above_the_memory() -> None:
    """What bits a mask can have depends on how much memory there is: never those of a physical address."""
    high = 1 << 42
    memory = physical_memory(written({**chain(0), 0x4000: {0: high | 0x80, 1: high << 2 | 0x80}}))
    assert counted(walk(memory, table_of(system="windows"))) == {"tables": 4, "demand_zero": 2}
    larger = physical_memory(memory.backing.data, [(0, 1 << 20, 0), (high, PAGE, 0)])  # type: ignore[attr-defined]
    assert counted(walk(larger, table_of(system="windows"))) == {"tables": 4, "demand_zero": 1, "pagefile": 1}


# tables of which a part is there


def torn(tables: Tables, *lost: tuple[int, int], size: int = 1 << 20, width: int = 8) -> PhysicalMemory:
    """Return physical memory that holds tables, without the (start, size) that are lost."""
    data, ranges, done = written(tables, size, width), [], 0
    for start, length in sorted(lost):
        ranges.append((done, start - done, done))
        done = start + length
    return physical_memory(data, [*ranges, (done, size - done, done)])


@pytest.mark.parametrize("table", [0x1000, 0x2000, 0x3000, 0x4000])
def test_table_without_its_last_byte(table: int) -> None:
    """A table of any level that lacks its last byte has 511 good entries, and one of which nothing is known."""
    tables = {at: dict.fromkeys((0, 510), at + 0x1067) for at in (0x1000, 0x2000, 0x3000, 0x4000)}
    tables[table][511] = tables[table][0]
    last = [0x1000, 0x2000, 0x3000, 0x4000].index(table)
    whole, memory = torn(tables), torn(tables, (table + 0xFFF, 1))
    pages, all_pages = walk(memory, table_of()), walk(whole, table_of())
    known = [row for row in zip(*(part.tolist() for part in all_pages.placed.columns[:3]), strict=True)
             if row[0] >> 39 - 9 * last & 511 != 511]  # fmt: skip
    assert len(known) == 16
    assert list(zip(*(part.tolist() for part in pages.placed.columns[:3]), strict=True)) == known
    assert pages.counts["lost_entries"] == 2**last
    assert pages.counts["lost_tables"] == 0
    assert claimed(memory, table_of()) == 16 * PAGE
    assert claimed(whole, table_of()) == 24 * PAGE


@pytest.mark.parametrize(("entry", "lost"), [
    (0x6067, "all"), (0x6800, "windows"), (0x6160, "linux"), (0x6C00, ""), (0x7_0000_0080, ""), (0, ""),
    (0xE800 | 1 << 45, "windows"), (0x02, ""),
])  # fmt: skip
@pytest.mark.parametrize("system", walker.SYSTEMS)
def test_entry_without_its_last_byte(entry: int, lost: str, system: str) -> None:
    """An entry without its last byte is unknown, unless what is there of it says that it holds no page."""
    memory = torn({**chain(0), 0x4000: {0: 0x5067, 511: entry}}, (0x4FFF, 1))
    pages = walk(memory, table_of(system=system))
    assert pages.placed.start.tolist() == [0]
    assert pages.counts.get("lost_entries", 0) == (lost in {"all", system})
    # nor does it say anything without its second byte
    pages = walk(torn({**chain(0), 0x4000: {0: 0x5067, 511: entry}}, (0x4FF9, 1)), table_of(system=system))
    assert pages.counts["lost_entries"] == 1


def test_lost_entries_of_a_range() -> None:
    """An entry that is lost counts if what it would map is asked for, and whoever asks for others is not told of it."""
    memory = torn({**chain(0), 0x4000: {0: 0x5067, 511: 0x6067}}, (0x4FFF, 1))
    end = 512 * PAGE
    for start, stop in ((0, TOP), (end - 1, end), (end - PAGE, end - PAGE + 1), (0, end)):
        assert walk(memory, table_of(), start, stop).counts["lost_entries"] == 1
    for start, stop in ((0, end - PAGE), (end, TOP), (0, 1)):
        assert "lost_entries" not in walk(memory, table_of(), start, stop).counts
    assert translate(memory, table_of(), 5) == 0x5005
    assert translate(memory, table_of(), end - 1) is None
    # of the root, too
    memory = torn({**chain(0x5067), 0x1000: {0: 0x2067, 511: 0x2067}}, (0x1FFF, 1))
    assert walk(memory, table_of(), 1 << 63).counts["lost_entries"] == 1
    assert "lost_entries" not in walk(memory, table_of(), 0, 1 << 47).counts


def test_entries_of_four_bytes_in_part() -> None:
    """Of a table of 32-bit entries one is lost with its last byte, and the one before it is not."""
    tables = {0x1000: {0: 0x2067}, 0x2000: {1022: 0x5067, 1023: 0x6067}}
    pages = walk(torn(tables, (0x2FFF, 1), width=4), table_of("x86"))
    assert pages.placed.start.tolist() == [1022 * PAGE]
    assert counted(pages) == {"tables": 2, "present": 1, "lost_entries": 1}


def test_root_of_pae_in_part() -> None:
    """A root of PAE that lacks its last byte, at the end of its page, has three good entries."""
    tables = {0x1FE0: {0: 0x2001, 3: 0x2001}, 0x2000: {0: 0x3067}, 0x3000: {0: 0x5067}}
    pages = walk(torn(tables, (0x1FFF, 1)), table_of("pae", root=0x1FE0))
    assert pages.placed.start.tolist() == [0]
    assert counted(pages) == {"tables": 3, "present": 1, "lost_entries": 1}


def test_table_in_pieces() -> None:
    """Of a table every entry counts that is there whole, wherever bytes of it lack; less than half of one is lost."""
    tables = {**chain(0), 0x4000: dict.fromkeys(range(512), 0x5067)}
    pages = walk(torn(tables, (0x4000, 1), (0x4010, 16), (0x4805, 2)), table_of())
    gone = {0, 2, 3, 256}  # of the last one the first two bytes are there, and say that it is present
    assert pages.placed.start.tolist() == [number * PAGE for number in range(512) if number not in gone]
    assert pages.counts["lost_entries"] == 4
    assert counted(walk(torn(tables, (0x4000, 0x7F8)), table_of()))["present"] == 257
    assert counted(walk(torn(tables, (0x4000, 0x801)), table_of())) == {"tables": 3, "lost_tables": 1}


@pytest.mark.parametrize("inverted", [True, False], ids=["inverted", "plain"])
@pytest.mark.parametrize("level", ["pte", "pde", "pdpte"])
def test_protected_pages(level: str, inverted: bool) -> None:  # noqa: FBT001 - a parameter
    """A page of Linux that may not be touched is there, small or large, its frame inverted or as it was before 2018."""
    size = {"pte": PAGE, "pde": LARGE, "pdpte": HUGE}[level]
    physical = {"pte": 0x5000, "pde": LARGE, "pdpte": 0}[level]
    frame = ~physical & (FRAME & ~(size - 1)) if inverted else physical
    entry = frame | (0x160 if level == "pte" else 0x1E0)
    rows = found(chain(**{"pte": 0, level: entry}), system="linux", size=2 * LARGE)
    assert rows == [(0, min(size, 2 * LARGE), physical, "prot_none")]
    assert found(chain(**{"pte": 0, level: entry}), system="none", size=2 * LARGE) == []


def test_swapped_pages() -> None:
    """An entry without bits 0 and 8 is one of the swap, whatever else is set, and a table is never protected."""
    memory = physical_memory(written({**chain(0), 0x4000: {0: 0x5000 | 0xEFE, 1: 1 << 58 | 0x6002}}))
    assert counted(walk(memory, table_of(system="linux"))) == {"tables": 4, "swapped": 2}
    assert found(chain(0x5067, pde=0x4160), system="linux") == []


def test_protected_pages_of_two_levels() -> None:
    """Without PAE no frame is inverted: 4 KiB and 4 MiB pages that may not be touched lie where their entries say."""
    tables = {0x1000: {0: 0x2067, 1: 0x1E0}, 0x2000: {3: 0x5160}}
    assert found(tables, "x86", "linux") == [
        (0x3000, PAGE, 0x5000, "prot_none"), (1 << 22, 1 << 20, 0, "prot_none"),
    ]  # fmt: skip


# present entries


def test_attribute_bits() -> None:
    """Bit 12 of a large page and bit 7 of a small one choose how memory is cached, and nothing else."""
    tables = {**chain(0x50E7), 0x3000: {0: 0x4067, 1: LARGE | 0x10E7}}
    tables[0x2000] = {0: 0x3067, 1: 0x10E7}
    assert found(tables, size=2 * LARGE) == [
        (0, PAGE, 0x5000, "urwx"), (LARGE, LARGE, LARGE, "urwx"), (HUGE, 2 * LARGE, 0, "urwx"),
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["pte", "pde", "pdpte", "pml4e"])
@pytest.mark.parametrize(("lost", "gained", "rest"), [(4, 0, "srwx"), (2, 0, "ur-x"), (0, NX, "urw-"), (6, NX, "sr--")])
def test_permissions_of_all_levels(level: str, lost: int, gained: int, rest: str) -> None:
    """Whatever one level takes away is taken away: the user's access, writing, executing."""
    entries = {"pte": 0x5067, "pde": 0x4067, "pdpte": 0x3067, "pml4e": 0x2067}
    entries[level] = entries[level] & ~lost | gained
    assert found(chain(**entries)) == [(0, PAGE, 0x5000, rest)]


def test_permissions_split_stretches() -> None:
    """Pages that continue each other with other permissions, or in another state, are stretches of their own."""
    table = {0: 0x5067, 1: 0x6067, 2: 0x7065, 3: 0x8860, 4: 0x9860, 5: 0xA067}
    assert found({**chain(0), 0x4000: table}, system="windows") == [
        (0, 2 * PAGE, 0x5000, "urwx"), (0x2000, PAGE, 0x7000, "ur-x"),
        (0x3000, 2 * PAGE, 0x8000, "transition"), (0x5000, PAGE, 0xA000, "urwx"),
    ]  # fmt: skip


def test_pointers_of_pae_carry_no_permissions() -> None:
    """The four pointers of PAE say nothing of permissions; their directories and tables do, no-execute included."""
    tables = {0x1020: {0: 0x2001, 3: 0x2001}, 0x2000: {0: 0x3067, 1: NX | LARGE | 0xE5}, 0x3000: {1: 0x5067}}
    memory = physical_memory(written(tables, 2 * LARGE))
    placed = walk(memory, table_of("pae", root=0x1020)).placed
    assert placed.start.tolist() == [PAGE, LARGE, 0xC0001000, 0xC0200000]
    assert [permissions(flags) for flags in placed.flags.tolist()] == ["urwx", "ur--"] * 2


def test_no_large_pages_at_the_top() -> None:
    """Bit 7 in entries for more than 1 GiB does not make a page of them."""
    assert found(chain(0x5067, pml4e=0x20E7)) == [(0, PAGE, 0x5000, "urwx")]
    five = {**chain(0x5067), 0x1000: {0: 0x60E7}, 0x6000: {0: 0x20E7}}
    assert found(five, "x64-5") == [(0, PAGE, 0x5000, "urwx")]


def test_huge_page() -> None:
    """A page of 1 GiB is one stretch, as far as the image goes; with PAE there is none."""
    data = written({0x1000: {0: 0x2067}, 0x2000: {511: 0xE7}})
    pages = walk(physical_memory(data), table_of())
    assert [column.tolist() for column in pages.placed.columns[:3]] == [[511 * HUGE], [1 << 20], [0]]
    assert outside_lists(pages) == [
        [511 * HUGE + (1 << 20)],
        [HUGE - (1 << 20)],
        [1 << 20],
    ]
    assert found({0x1000: {0: 0x2081}, 0x2000: {0: 0x3067}, 0x3000: {0: 0x5067}}, "pae") == [(0, PAGE, 0x5000, "urwx")]


def test_pages_beyond_4_gib_in_32_bits() -> None:
    """Bits 13 to 20 of a 4 MiB page's entry are bits 32 to 39 of its physical address."""
    data = written({0x1000: {1023: 0x1240_E087}}, width=4)
    memory = physical_memory(data, [(0, 1 << 20, 0), (0x07_12500000, PAGE, 0x5000)])
    placed = walk(memory, table_of("x86")).placed
    assert [column.tolist() for column in placed.columns[:4]] == [[0xFFD00000], [PAGE], [0x07_12500000], [0x5000]]


def test_two_ranges_hold_one_page() -> None:
    """A large page whose halves are ranges of their own, anywhere in the file and not cut at pages, is there whole."""
    data, middle = written(chain(0, pde=LARGE | 0xE7), 2 * LARGE), LARGE + 0x12345
    memory = physical_memory(
        data[:LARGE] + data[middle:] + data[LARGE:middle],
        [(0, LARGE, 0), (middle, 2 * LARGE - middle, LARGE), (LARGE, 0x12345, 3 * LARGE - middle)],
    )
    pages = walk(memory, table_of())
    assert [column.tolist() for column in pages.placed.columns[:4]] == [
        [0, 0x12345], [0x12345, LARGE - 0x12345], [LARGE, middle], [3 * LARGE - middle, LARGE],
    ]  # fmt: skip
    assert len(pages.outside.start) == 0


def test_two_ranges_hold_one_table() -> None:
    """A page table of which each half is in a range of its own is read like any other."""
    data, middle = written(chain(0x5067)), 0x3800
    ranges = [(0, middle, 0), (middle, len(data) - middle, middle + 3)]
    memory = physical_memory(data[:middle] + b"..." + data[middle:], ranges)
    assert walk(memory, table_of()).placed.physical.tolist() == [0x5000]


def test_last_page() -> None:
    """The last page of the address space ends at 2**64, and is found and translated like any other."""
    last = {table: {511: table + 0x1067} for table in (0x1000, 0x2000, 0x3000, 0x4000)}
    memory = physical_memory(written(last))
    for start, end in ((0, TOP), (TOP - 1, TOP), (TOP >> 1, TOP), (TOP - PAGE, TOP - 1)):
        placed = walk(memory, table_of(), start, end).placed
        assert [column.tolist() for column in placed.columns[:3]] == [[TOP - PAGE], [PAGE], [0x5000]]
    assert translate(memory, table_of(), TOP - 1) == 0x5FFF
    assert translate(memory, table_of(), TOP - PAGE - 1) is None


def test_five_levels() -> None:
    """With five levels bit 56 is extended through the bits above, and no address in between is translated."""
    tables = {0x1000: {0: 0x6067, 255: 0x6067, 256: 0x6067}, 0x6000: {0: 0x2067}, **chain(0x5067)}
    tables[0x1000] = {0: 0x6067, 255: 0x6067, 256: 0x6067}
    starts = [0, 255 << 48, TOP - (1 << 56)]
    assert found(tables, "x64-5") == [(start, PAGE, 0x5000, "urwx") for start in starts]
    memory = physical_memory(written(tables))
    for start in starts:
        assert translate(memory, table_of("x64-5"), start + 5) == 0x5005
    for start in (256 << 48, 1 << 57, 511 << 48):
        assert translate(memory, table_of("x64-5"), start) is None


@pytest.mark.parametrize("mode", NAMES)
def test_root_outside_the_image(mode: str) -> None:
    """A root outside the image, or cut off, maps nothing and is a lost table."""
    memory = physical_memory(bytes(0x1010))
    for root in (0x1000, 0x5000, 1 << 51):
        pages = walk(memory, table_of(mode, root=root))
        assert len(pages.placed.start) == claimed(memory, table_of(mode, root=root)) == 0
        assert counted(pages) == {"lost_tables": 1}


# tables made to deceive


def peak(call: Callable[[], object]) -> int:
    """Return how many bytes were allocated at most during a call that ends in a LimitError."""
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_loop_of_tables(loop: winimage.Truth) -> None:
    """Tables that point to each other are refused with what they claim, in the memory of a few batches."""
    memory, process = memory_of(loop), loop.process(1624)
    table = table_of(system="windows", root=process.root)
    used = {address >> 39 for address in process.user.address.tolist()}
    total = int(process.user.size.sum()) + ((256 - len(used)) << 39)
    assert claimed(memory, table, 0, TOP >> 1) == total > 1 << 46
    with pytest.raises(LimitError, match=f"{total} bytes of virtual memory"):
        walk(memory, table, 0, TOP >> 1)
    assert peak(lambda: walk(memory, table)) < 100 << 20
    with pytest.raises(LimitError):
        walk(memory, table, 0, TOP >> 1, limit=total - 1)


def test_loop_in_the_kernel_half(loop: winimage.Truth) -> None:
    """In the kernel half tables that point to each other are walked once, and the rest of it is as planned."""
    memory, process = memory_of(loop), loop.process(1624)
    pages = walk(memory, table_of(system="windows", root=process.root), TOP >> 1)
    starts = set(pages.placed.start.tolist())
    assert {item[0] for item in expected(process.kernel.items(), [(0, loop.size, 0)])[0]} <= starts
    assert pages.repeats.size.max() == 1 << 39
    assert int(pages.placed.size.sum()) < loop.size


def test_loop_is_read_in_part(loop: winimage.Truth) -> None:
    """Of tables that claim too much, a range that is small enough is read, however many ways lead to its pages."""
    memory, process = memory_of(loop), loop.process(1624)
    used = {address >> 39 for address in process.user.address.tolist()}
    start = min(set(range(256)) - used) << 39
    pages = walk(memory, table_of(system="windows", root=process.root), start, start + 8 * LARGE)
    assert pages.placed.start.tolist() == list(range(start, start + 8 * LARGE, PAGE))
    assert len(set(pages.placed.physical.tolist())) == 1


def test_loop_without_pages() -> None:
    """Tables that lead to each other and to no page are refused by how many a walk of the lower half would visit."""
    tables = {number * PAGE: dict.fromkeys(range(512), (number + 1) * PAGE | 0x67) for number in (1, 2, 3)}
    memory = physical_memory(written(tables))
    assert claimed(memory, table_of()) == 0
    assert peak(lambda: walk(memory, table_of())) < 100 << 20
    itself = physical_memory(written({0x1000: dict.fromkeys(range(512), 0x1067)}))
    assert claimed(itself, table_of()) == (1 << 47) + LARGE
    assert peak(lambda: walk(itself, table_of())) < 100 << 20
    assert claimed(itself, table_of("x64-5")) == (1 << 56) + LARGE
    assert peak(lambda: walk(itself, table_of("x64-5"))) < 100 << 20


def test_many_ways_below_the_limit() -> None:
    """Tables to which many ways lead are walked way by way as long as it is within the limit, in bounded memory."""
    tables = {
        0x1000: {0: 0x2067}, 0x2000: dict.fromkeys(range(64), 0x3067),
        0x3000: dict.fromkeys(range(512), 0x4067), 0x4000: {7: 0x5067},
    }  # fmt: skip
    memory = physical_memory(written(tables))
    tracemalloc.start()
    pages = walk(memory, table_of())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted(pages) == {"tables": 2 + 64 + 64 * 512, "present": 64 * 512}
    assert pages.placed.start.tolist() == [index * LARGE + 7 * PAGE for index in range(64 * 512)]
    assert most < 200 << 20


def test_default_limit() -> None:
    """By default tables may claim four times the image, and at least 16 GiB."""
    assert default_limit(physical_memory(b"")) == 16 << 30
    memory = physical_memory(bytes(PAGE), [(0, PAGE, 0)])
    memory.size = memory.size * np.uint64(1 << 22)
    assert default_limit(memory) == 64 << 30
