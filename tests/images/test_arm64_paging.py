"""Page tables of ARM64: what memcarve reads from them against a slow and obvious walker, and each rule by itself."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given, reject, settings, strategies as st

import arm64_walker
from arm64_walker import Once, Regime
from memcarve.errors import LimitError
from memcarve.images import paging
from memcarve.images.linux.absent_entries import KINDS
from memcarve.images.paging import claimed, translate, walk
from memcarve.images.paging_modes import ARM64, MODES, AddressTable
from memcarve.permissions import page_state, permissions
from memcarve.vocabulary import Paging
from sweeps import LONG
from walked_pages import assert_same, cut, physical_memory, reader
from walker import TooMuchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memcarve.images.physical import PhysicalMemory
    from walked_pages import Range
    from walker import Item

TOP, PAGE = 1 << 64, 4096
PXN, UXN, DBM, CONTIGUOUS = 1 << 53, 1 << 54, 1 << 51, 1 << 52
NO_PXN_TABLE, NO_UXN_TABLE, NO_USER_TABLE, NO_WRITE_TABLE = (1 << bit for bit in (59, 60, 61, 62))
REGIMES = {
    f"arm64-{granule}k-{bits}": Regime(granule, bits)
    for granule, bits in (
        (4, 39), (4, 48), (4, 52), (16, 36), (16, 47), (16, 48), (16, 52), (64, 42), (64, 48), (64, 52),
    )
}  # fmt: skip
SYSTEMS = ("linux", "none")
#: tables that random machines have, by the number of their page; then the roots' pages
TABLES, USER_ROOT, KERNEL_ROOT, PAGES = range(1, 5), 5, 6, 9


class Machine(NamedTuple):
    """Physical memory, its ranges in order, a reader of it for the walker, and both roots."""

    memory: PhysicalMemory
    ranges: list[Range]
    read: Callable[[int, int], bytes | None]
    user: int
    kernel: int | None


def descriptor(regime: Regime, physical: int) -> int:
    """Return an address as descriptors hold it."""
    if regime.granule == 64:
        return physical % (1 << 48) | physical >> 48 << 12
    if regime.ds:
        return physical % (1 << 50) | physical >> 50 << 8
    return physical % (1 << 48)


def regions(regime: Regime) -> list[tuple[int, int]]:
    """Return where random machines have memory: low, where a block begins, and as high as addresses go."""
    page, block = regime.granule << 10, 1 << regime.stages()[-2].shift
    high = (3 << 50) + block if regime.bits == 52 or regime.granule == 64 else 1 << 47
    return [(0, PAGES * page), (block, 3 * page), (high, 2 * page)]


@st.composite
def descriptors(draw: st.DrawFn, regime: Regime) -> int:
    """Draw a descriptor: where it leads, what kind it is, and what it says beside that."""
    page = regime.granule << 10
    places = [number * page for number in (*TABLES, *TABLES, 0, 7, 8, PAGES)]
    places += [start + number * page for start, _ in regions(regime)[1:] for number in (0, 1, 4)]
    kind = draw(st.sampled_from([3, 3, 3, 1, 1, 2, 2, 0, 0]))
    attributes = draw(st.sampled_from([0, 0x40, 0xC0, 0x80, 0x440, 0x800, 0xC80, 0x1C]))
    if not regime.ds:
        attributes |= draw(st.sampled_from([0, 0x300]))
    high = draw(st.sampled_from([0, 0, UXN, PXN, UXN | PXN, DBM, CONTIGUOUS, 1 << 58, 1 << 59, 1 << 55, 15 << 59]))
    return descriptor(regime, draw(st.sampled_from(places))) | kind | attributes | high


@st.composite
def machines(draw: st.DrawFn, regime: Regime, alike: int = 1) -> Machine:
    """Draw tables in a memory with holes, whose ranges lie in any order in the backing."""
    page, stages = regime.granule << 10, regime.stages()
    count = page // 8
    index = st.sampled_from([0, 1, count // 2, count - 2, count - 1])
    link = st.sampled_from([3, 3, 3, 3 | NO_PXN_TABLE, 3 | NO_USER_TABLE, 3 | 7 << 60, 1, 0])
    tables = {
        number * page: {
            **draw(st.dictionaries(index, descriptors(regime), max_size=3)),
            **dict.fromkeys([draw(index) for _ in range(alike)], descriptor(regime, (number + 1) * page) | draw(link)),
        }
        for number in TABLES
    }
    roots = []
    top = 1 << stages[0].bits
    size = 8 * top
    for number in (USER_ROOT, KERNEL_ROOT):
        at = number * page + draw(st.sampled_from([0, page // size - 1])) * size
        entry = st.sampled_from(sorted({0, 1 % top, top // 2, top - 1}))
        tables[at] = {
            **draw(st.dictionaries(entry, descriptors(regime), max_size=2)),
            **dict.fromkeys([draw(entry) for _ in range(alike)], page | draw(link)),
        }
        roots.append(at)
    low = written(tables, PAGES * page)
    places = regions(regime)
    spot = st.tuples(st.sampled_from(places), st.integers(0, 4 * PAGES), st.sampled_from([0, 0, 0, 1, 0x800, 0xFFF]))
    holes = [
        (region[0] + number * PAGE + byte, length)
        for (region, number, byte), length in draw(
            st.lists(st.tuples(spot, st.sampled_from([PAGE, PAGE, 1, 2 * page])), max_size=2)
        )
    ]
    seams = sorted(region[0] + number * PAGE for region, number, _ in draw(st.lists(spot, max_size=2)))
    data, ranges = b"", []
    for start, length in draw(st.permutations(cut(places, holes, seams))):
        data += b"\xcc" * draw(st.sampled_from([0, 0, 7]))
        ranges.append((start, length, len(data)))
        data += low[start : start + length] if start < len(low) else bytes(length)
    kernel = draw(st.sampled_from([roots[1], roots[1], roots[0], None]))
    return Machine(physical_memory(data, ranges), sorted(ranges), reader(data, sorted(ranges)), roots[0], kernel)


def written(tables: Mapping[int, Mapping[int, int]], size: int = 1 << 20) -> bytes:
    """Return physical memory that holds tables and else zeros."""
    data = bytearray(size)
    for table, entries in tables.items():
        for index, value in entries.items():
            struct.pack_into("<Q", data, table + index * 8, value)
    return bytes(data)


def table_of(machine: Machine, mode: str, system: str) -> AddressTable:
    """Return how to read a machine's tables."""
    return AddressTable(machine.user, MODES[mode], system, machine.kernel)


def roots_of(machine: Machine) -> tuple[int | None, int | None]:
    """Return the roots for the walker: if both are the same, nothing is mapped in the user half."""
    return (None if machine.user == machine.kernel else machine.user), machine.kernel


def walked(machine: Machine, mode: str, system: str, once: Once | None = None) -> list[Item]:
    """Return the walker's pages; random tables that lead to each other too often are another test's."""
    try:
        return arm64_walker.walk(machine.read, *roots_of(machine), REGIMES[mode], system, limit=60, once=once)
    except TooMuchError:
        reject()


def test_modes() -> None:
    """Every mode of ARM64 has its word, and the walker knows it; levels are those of the manual."""
    assert [mode.name for mode in ARM64] == list(REGIMES) == [word for word in Paging if word.startswith("arm64")]
    for mode in ARM64:
        stages = REGIMES[mode.name].stages()
        assert [level.shift for level in mode.levels] == [stage.shift for stage in stages]
        assert mode.top == 1 << stages[0].bits
        assert [level.large for level in mode.levels] == [REGIMES[mode.name].maps_blocks(s.number) for s in stages]


#: the slow walker takes a second for tables of 8192 entries: fewer examples of them, but in the long sweep
@pytest.mark.parametrize("mode", REGIMES)
@settings(max_examples=100 if LONG else 15)
@given(data=st.data())
def test_walk_as_the_slow_walker(mode: str, data: st.DataObject) -> None:
    """Random tables in random memory give what the walker finds, in all addresses and in any range of them."""
    machine, system = data.draw(machines(REGIMES[mode])), data.draw(st.sampled_from(SYSTEMS))
    items = walked(machine, mode, system)
    table = table_of(machine, mode, system)
    assert_same(walk(machine.memory, table, limit=TOP), items, machine.ranges)
    assert claimed(machine.memory, table)[0] == sum(item[1] for item in items)
    edges = sorted({0, 1, TOP - 1, TOP, *(edge for item in items for edge in (item[0], item[0] + item[1]))})
    edge, shift = st.sampled_from(edges), st.sampled_from([0, 0, -1, 1, -PAGE, 0x12345])
    start, end = sorted(min(max(data.draw(edge) + data.draw(shift), 0), TOP) for _ in range(2))
    if start < end:
        chosen = [item for item in items if item[0] < end and start < item[0] + item[1]]
        assert_same(walk(machine.memory, table, start, end, limit=TOP), chosen, machine.ranges)
    if start < TOP:
        here = [item[2] + start - item[0] for item in items if item[0] <= start < item[0] + item[1]]
        assert translate(machine.memory, table, start) == (here[0] if here and machine.read(here[0], 1) else None)


@pytest.mark.parametrize("mode", REGIMES)
@settings(max_examples=100 if LONG else 15)
@given(data=st.data())
def test_counts_as_the_slow_walker(mode: str, data: st.DataObject) -> None:
    """Random tables give as many tables, lost ones, lost and absent entries as the walker meets."""
    machine, system = data.draw(machines(REGIMES[mode])), data.draw(st.sampled_from(SYSTEMS))
    walked(machine, mode, system)
    asked: list[list[bool]] = []

    def read(physical: int, size: int) -> bytes | None:
        found = machine.read(physical, size)
        if size > 8:
            asked.append([found is not None])
        elif size == 8:
            asked[-1].append(found is not None)
        return found

    pages, lost = arm64_walker.absent(read, *roots_of(machine), REGIMES[mode], system)
    tables = [whole or sum(parts) * 2 > len(parts) for whole, *parts in asked]
    counts = walk(machine.memory, table_of(machine, mode, system), limit=TOP).counts
    assert counts["tables"] == tables.count(True)
    assert counts["lost_tables"] == tables.count(False)
    assert counts.get("lost_entries", 0) == lost
    assert sum(counts.get(kind, 0) for kind in (*KINDS, "not_present")) == pages


#: what is shared is told level by level, whatever the granule: a sample has fewest, usual and largest tables
@pytest.mark.parametrize("mode", REGIMES if LONG else ["arm64-4k-39", "arm64-16k-48", "arm64-64k-52"])
@settings(max_examples=100 if LONG else 12)
@given(data=st.data())
def test_shared_tables_of_the_kernel_half_are_walked_once(mode: str, data: st.DataObject) -> None:
    """Random tables that are shared in the kernel half count once a level."""
    machine, system = data.draw(machines(REGIMES[mode], alike=2)), data.draw(st.sampled_from(SYSTEMS))
    once = Once(2)
    walked(machine, mode, system, once)
    once.begin()
    items, table = walked(machine, mode, system, once), table_of(machine, mode, system)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "_SHARED", 2)
        pages = walk(machine.memory, table, limit=TOP)
        assert claimed(machine.memory, table)[0] == sum(item[1] for item in items)
    assert_same(pages, items, machine.ranges)
    columns = pages.repeats.start.tolist(), pages.repeats.size.tolist(), pages.repeats.target.tolist()
    assert list(zip(*columns, strict=True)) == sorted(once.repeats)


# each rule by itself


def chain(pte: int, pde: int = 0x4003, pude: int = 0x3003, pgde: int = 0x2003) -> dict[int, dict[int, int]]:
    """Return four tables of 4 KiB pages, the first entry of each leading to the next."""
    return {0x1000: {0: pgde}, 0x2000: {0: pude}, 0x3000: {0: pde}, 0x4000: {0: pte}}


def found(
    tables: Mapping[int, Mapping[int, int]], mode: str = "arm64-4k-48", system: str = "none", size: int = 1 << 20
) -> list[tuple[object, ...]]:
    """Return what is found through tables with a root in the second page: address, size, physical, permissions."""
    placed = walk(physical_memory(written(tables, size)), AddressTable(PAGE, MODES[mode], system)).placed
    return [
        (start, length, physical, permissions(flags) or page_state(flags))
        for start, length, physical, _, flags in zip(*(column.tolist() for column in placed.columns), strict=True)
    ]


USER_PAGE, USER_READ, KERNEL_PAGE = UXN | PXN | 0x443, PXN | 0x4C3, UXN | PXN | 0x403


@pytest.mark.parametrize(("entry", "allowed"), [
    (USER_PAGE, "urw-"), (USER_READ, "ur-x"), (USER_READ | UXN, "ur--"), (KERNEL_PAGE, "srw-"),
    (KERNEL_PAGE & ~PXN | 0x80, "sr-x"), (KERNEL_PAGE & ~PXN, "srwx"), (USER_PAGE & ~UXN, "urwx"),
    # what programs may write the kernel does not execute; what they may only read it may
    (USER_PAGE & ~PXN, "urw-"), (USER_PAGE & ~PXN | 0x80, "ur-x"),
    # only executed; written as the system knows, or the processor notes
    (PXN | 0x483, "ur-x"), (USER_PAGE | 0x80 | DBM, "urw-"), (USER_PAGE | CONTIGUOUS, "urw-"),
])  # fmt: skip
def test_permissions_of_a_page(entry: int, allowed: str) -> None:
    """A page's own permissions: AP, UXN, PXN, DBM."""
    assert found(chain(0x5000 | entry)) == [(0, PAGE, 0x5000, allowed)]


@pytest.mark.parametrize("level", ["pde", "pude", "pgde"])
@pytest.mark.parametrize(("said", "entry", "allowed"), [
    (0, USER_PAGE & ~UXN, "urwx"), (NO_WRITE_TABLE, USER_PAGE & ~UXN, "ur-x"), (NO_USER_TABLE, USER_PAGE, "srw-"),
    (NO_UXN_TABLE, USER_READ, "ur--"), (NO_PXN_TABLE, USER_READ, "ur-x"), (NO_PXN_TABLE, KERNEL_PAGE & ~PXN, "srw-"),
    (NO_UXN_TABLE, KERNEL_PAGE & ~PXN, "srwx"), (NO_WRITE_TABLE, USER_PAGE | DBM | 0x80, "ur--"),
])  # fmt: skip
def test_permissions_of_tables(level: str, said: int, entry: int, allowed: str) -> None:
    """What a table denies (APTable, UXNTable, PXNTable) is denied to all below it."""
    tables = {"pte": 0x5000 | entry, "pde": 0x4003, "pude": 0x3003, "pgde": 0x2003}
    tables[level] |= said
    assert found(chain(**tables)) == [(0, PAGE, 0x5000, allowed)]


def test_reserved_descriptors() -> None:
    """Bits 1:0 of 01 are no page at the last level, and no block at the first one; neither is followed."""
    assert found(chain(0x5001 | USER_PAGE & ~3)) == []
    assert found(chain(0x5000 | USER_PAGE, pgde=0x2001)) == []
    assert found(chain(0x5000 | USER_PAGE), system="linux") == [(0, PAGE, 0x5000, "urw-")]


@pytest.mark.parametrize(("mode", "depth", "size"), [
    ("arm64-4k-39", 0, 1 << 30), ("arm64-4k-39", 1, 1 << 21), ("arm64-4k-48", 1, 1 << 30), ("arm64-4k-52", 1, 1 << 39),
    ("arm64-16k-47", 1, 1 << 25), ("arm64-16k-52", 1, 1 << 36), ("arm64-64k-42", 0, 1 << 29),
    ("arm64-64k-52", 0, 1 << 42), ("arm64-64k-48", 1, 1 << 29),
])  # fmt: skip
def test_blocks(mode: str, depth: int, size: int) -> None:
    """Blocks of every size that the architecture has, and their addresses of 52 bits."""
    regime = REGIMES[mode]
    page = regime.granule << 10
    physical = (3 << 50 if regime.bits == 52 else 0) + 3 * size
    tables = {(number + 1) * page: {1: (number + 2) * page | 3} for number in range(depth)}
    tables[(depth + 1) * page] = {1: descriptor(regime, physical) | UXN | PXN | 0x401}
    data = written(tables, 4 * page)
    memory = physical_memory(data, [(0, len(data), 0), (physical, page, 0)])
    placed = walk(memory, AddressTable(page, MODES[mode], "none"), limit=1 << 50).placed
    address = sum(1 << stage.shift for stage in regime.stages()[: depth + 1])
    assert [column.tolist() for column in placed.columns[:3]] == [[address], [page], [physical]]


def test_two_roots() -> None:
    """The user half is that of one root, the kernel half that of the other; the same root twice has no user half."""
    tables = {**chain(0x5000 | USER_PAGE), 0x6000: {511: 0x2003}}
    memory = physical_memory(written(tables))
    mode = MODES["arm64-4k-48"]
    kernel = TOP - (1 << 39)
    for table, starts in (
        (AddressTable(0x1000, mode, "linux", 0x6000), [0, kernel]),
        (AddressTable(0x1000, mode, "linux"), [0]),
        (AddressTable(0x6000, mode, "linux"), [511 << 39]),
        (AddressTable(0x6000, mode, "linux", 0x6000), [kernel]),
        (AddressTable(0x7FFF000, mode, "linux", 0x6000), [kernel]),
    ):
        pages = walk(memory, table)
        assert pages.placed.start.tolist() == starts
        assert table.kernel_half == 1 << 63
        assert pages.counts["lost_tables"] == (table.root == 0x7FFF000)
        for start in starts:
            assert translate(memory, table, start + 7) == 0x5007
            assert walk(memory, table, start, start + 1).placed.start.tolist() == [start]
    # neither half reaches into what lies between them
    assert translate(memory, AddressTable(0x1000, mode, "linux", 0x6000), 1 << 48) is None
    assert translate(memory, AddressTable(0x1000, mode, "linux", 0x6000), (1 << 63) + (511 << 39)) is None


def test_roots_smaller_than_a_page() -> None:
    """With 52 bits a root of 16 entries lies among others in a page, and only its entries count."""
    mode = MODES["arm64-4k-52"]
    noise = dict.fromkeys(range(16), 0x7003)
    tables = {0x1000: noise, 0x1080: {1: 0x6003}, 0x1100: noise, 0x6000: {0: 0x2003}, **chain(0x5000 | USER_PAGE)}
    tables[0x1000] = noise
    memory = physical_memory(written(tables))
    assert walk(memory, AddressTable(0x1080, mode, "linux")).placed.start.tolist() == [1 << 48]
    assert mode.root_size == 128
    assert MODES["arm64-16k-52"].root_size == 256


@pytest.mark.parametrize(("none", "since"), [(1 << 58, "5.10"), (1 << 11, "6.11")])
def test_protected_pages(none: int, since: str) -> None:
    """A page or a block that may not be touched is there, by either of Linux's marks; an entry of the swap is not."""
    del since
    touched = USER_PAGE & ~1 & ~(1 << 11) | none
    assert found(chain(0x5000 | touched), system="linux") == [(0, PAGE, 0x5000, "prot_none")]
    assert found(chain(0x5000 | touched), system="none") == []
    block = chain(0, pde=(1 << 21) | UXN | PXN | 0x440 | none)
    assert found(block, system="linux", size=1 << 22) == [(0, 1 << 21, 1 << 21, "prot_none")]
    # of the swap, in all layouts: bits 0 and 1 are clear
    for entry in (0x800 << 8, 0x8F8, 9 << 12, 1 << 11, 31 << 6 | 4 << 12):
        assert found(chain(entry), system="linux") == []


def test_large_pages_of_the_machine_count_as_4_kib() -> None:
    """Counts are 4 KiB pages whatever the size of the machine's pages is."""
    page = 1 << 16
    tables = {page: {0: 2 * page | 3}, 2 * page: {0: 3 * page | 3}, 3 * page: {0: page | USER_PAGE, 1: 9 << 12}}
    memory = physical_memory(written(tables, 5 * page))
    counts = walk(memory, AddressTable(page, MODES["arm64-64k-52"], "linux")).counts
    assert {kind: count for kind, count in counts.items() if count} == {"present": 16, "swapped": 16, "tables": 3}


# tables made to deceive


@pytest.mark.parametrize("mode", REGIMES)
def test_loop_of_tables(mode: str) -> None:
    """A table of which every entry leads to itself is refused in bounded memory, but a small range of it is read."""
    page, top = MODES[mode].page, MODES[mode].top
    itself = dict.fromkeys(range(page // 8), page | 3)
    memory = physical_memory(written({page: itself}, 2 * page))
    table = AddressTable(page, MODES[mode], "linux", page)
    alone = table._replace(kernel_root=None)
    assert claimed(memory, alone)[0] == top << MODES[mode].levels[0].shift
    tracemalloc.start()
    with pytest.raises(LimitError):
        walk(memory, alone)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200 << 20
    assert walk(memory, alone, 0, 8 * page).placed.total == 8 * page
    # in the kernel half what is shared is walked once
    pages = walk(memory, table)
    assert pages.placed.total == page * (page // 8)


def test_many_small_pieces_of_large_tables() -> None:
    """Of a table of 64 KiB that is there in part, what is there counts; of one that is mostly not, nothing does."""
    page = 1 << 16
    last = dict.fromkeys(range(8192), 3 * page | USER_PAGE)
    data = written({page: {0: 2 * page | 3}, 2 * page: last}, 4 * page)
    mode = MODES["arm64-64k-42"]
    for lost, there in (([2], 8192 - 512), ([0, 3, 5], 8192 - 3 * 512), (range(8), 0), (range(1, 8), 8192 - 7 * 512)):
        gone = [2 * page + number * PAGE for number in lost]
        kept = [(at, PAGE, at) for at in range(0, len(data), PAGE) if at not in gone]
        pages = walk(physical_memory(data, kept), AddressTable(page, mode, "none"))
        assert pages.counts["present"] == there * 16
        assert pages.counts.get("lost_entries", 0) == (len(gone) * 512 if there else 0)
        assert pages.counts["lost_tables"] == (not there)
    assert isinstance(mode.page, int)
    assert np.uint64(page) == page
