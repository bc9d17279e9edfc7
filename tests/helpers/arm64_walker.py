"""A walker of ARM64 page tables that is slow and obvious: descriptor by descriptor, one level inside the other.

Written from the processor's manual (Arm ARM, D8: VMSAv8-64 with FEAT_LPA and FEAT_LPA2) and from what Linux keeps in
descriptors that are not valid; it shares nothing with memcarve. Items are those of ``walker.py``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from walker import TooMuchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walker import Item, Read

WIDTH = 8


class Stage(NamedTuple):
    """A level of the walk: its number in the manual, the lowest bit it translates, and how many bits."""

    number: int
    shift: int
    bits: int


class Regime(NamedTuple):
    """A translation granule in KiB, and the bits of an address."""

    granule: int
    bits: int

    @property
    def ds(self) -> bool:
        """Whether descriptors are those of FEAT_LPA2 (TCR_EL1.DS), as 52 bits take with 4 and 16 KiB."""
        return self.bits == 52 and self.granule < 64

    def stages(self) -> list[Stage]:
        """Return the levels, from the first one: level 3 maps pages, and each level above resolves a table's index."""
        offset = {4: 12, 16: 14, 64: 16}[self.granule]
        index = {4: 9, 16: 11, 64: 13}[self.granule]
        found = []
        number, shift = 3, offset
        while shift < self.bits:
            found.append(Stage(number, shift, min(index, self.bits - shift)))
            number, shift = number - 1, shift + index
        return found[::-1]

    def maps_blocks(self, number: int) -> bool:
        """Return whether a block descriptor may stand at a level (D8.3.1)."""
        return (
            number in {4: (0, 1, 2) if self.ds else (1, 2), 16: (1, 2) if self.ds else (2,), 64: (1, 2)}[self.granule]
        )


class Entry(NamedTuple):
    """A descriptor of a last-level table, a block, one that is not valid or a lost one."""

    address: int
    size: int
    #: None if a byte of it is missing
    value: int | None
    stage: Stage
    #: what the tables above allow: EL0 data, writing, EL0 execution, EL1 execution
    above: tuple[bool, bool, bool, bool]


class Once:
    """What is passed over if shared tables of the kernel half are walked once a level; as ``walker.Once``."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.shared: set[tuple[int, int, int]] = set()
        self.seen: dict[tuple[int, int], int] | None = None
        self.repeats: list[tuple[int, int, int]] = []

    def begin(self) -> None:
        """Pass over from now on what was learnt to be shared."""
        self.seen = {}

    def learn(self, number: int, directory: int, below: list[tuple[int, int]]) -> None:
        """Note to which tables, at which addresses, the descriptors of a directory lead."""
        upper = [table for table, address in below if address >> 63]
        self.shared |= {(number, directory, table) for table in upper if upper.count(table) >= self.many}

    def passes(self, number: int, directory: int, table: int, address: int, size: int) -> bool:
        """Return whether a table was walked before; note it."""
        if self.seen is None or not address >> 63 or (number, directory, table) not in self.shared:
            return False
        if (number, table) not in self.seen:
            self.seen[number, table] = address
            return False
        self.repeats.append((address, size, self.seen[number, table]))
        return True


def walk(
    read: Read,
    user: int | None,
    kernel: int | None,
    regime: Regime,
    os: str,
    *,
    limit: int = 1 << 20,
    once: Once | None = None,
) -> list[Item]:
    """Return all mapped pages and blocks, by address; more than `limit`, or as many reads of tables: TooMuchError."""
    items: list[Item] = []
    reads = 0

    def counted(physical: int, size: int) -> bytes | None:
        nonlocal reads
        reads += size > WIDTH
        if reads > limit:
            raise TooMuchError
        return read(physical, size)

    for entry in entries(counted, user, kernel, regime, os, once=once):
        item = item_of(entry, regime, os)
        if item is not None:
            items.append(item)
        if len(items) > limit:
            raise TooMuchError
    return sorted(items)


def absent(read: Read, user: int | None, kernel: int | None, regime: Regime, os: str) -> tuple[int, int]:
    """Return how many 4 KiB pages descriptors stand for that map nothing and are not zero, and how many are lost."""
    pages = lost = 0
    for entry in entries(read, user, kernel, regime, os):
        if entry.value is None:
            lost += 1
        elif entry.value and item_of(entry, regime, os) is None:
            pages += entry.size // 4096
    return pages, lost


def entries(
    read: Read, user: int | None, kernel: int | None, regime: Regime, os: str, *, once: Once | None = None
) -> Iterator[Entry]:
    """Yield all descriptors but those for tables: of TTBR0's tables, then of TTBR1's."""
    allowed = (True, True, True, True)
    for root, base in ((user, 0), (kernel, (1 << 64) - (1 << regime.bits))):
        if root is not None:
            yield from _table(read, root, base, regime, os, regime.stages(), allowed, once)


def _table(
    read: Read,
    table: int,
    base: int,
    regime: Regime,
    os: str,
    stages: list[Stage],
    above: tuple[bool, bool, bool, bool],
    once: Once | None,
) -> Iterator[Entry]:
    stage, below = stages[0], stages[1:]
    tables: list[tuple[int, int]] = []
    for index, value in enumerate(_values(read, table, stage, regime, os)):
        here = Entry(base + (index << stage.shift), 1 << stage.shift, value, stage, above)
        blocks = regime.maps_blocks(stage.number)
        if value is None or not below:
            yield here
            continue
        if value & 3 != 3:
            # a block, or what Linux keeps where one may stand; others look at the last level alone for such
            if blocks and (value & 1 or os == "linux"):
                yield here
            continue
        under = _output(value, regime, 1 << regime.stages()[-1].shift)
        data, write, el0, el1 = above
        # hierarchical: APTable[0], APTable[1], UXNTable, PXNTable
        own = (
            data and not value >> 61 & 1,
            write and not value >> 62 & 1,
            el0 and not value >> 60 & 1,
            el1 and not value >> 59 & 1,
        )
        if once and _values(read, under, below[0], regime, os):
            tables.append((under, here.address))
            if once.passes(below[0].number, table, under, here.address, here.size):
                continue
        yield from _table(read, under, here.address, regime, os, below, own, once)
    if once and below:
        once.learn(below[0].number, table, tables)


def _values(read: Read, table: int, stage: Stage, regime: Regime, os: str) -> list[int | None]:
    """Return the descriptors of a table: None for those that are not there whole, and nothing if those are most.

    One of which what is there says that it maps nothing, whatever the rest of it is, is 0.
    """
    count = 1 << stage.bits
    data = read(table, count * WIDTH)
    if data is not None:
        return list(struct.unpack(f"<{count}Q", data))
    values: list[int | None] = []
    missing = 0
    for place in range(table, table + count * WIDTH, WIDTH):
        whole, begin = read(place, WIDTH), read(place, 2)
        values.append(None if whole is None else int.from_bytes(whole, "little"))
        missing += whole is None
        if whole is None and begin is not None and not _may_map(int.from_bytes(begin, "little"), stage, regime, os):
            values[-1] = 0
    return [] if missing * 2 >= count else values


def _may_map(low: int, stage: Stage, regime: Regime, os: str) -> bool:
    """Return whether a descriptor with these lowest 16 bits may map something or lead somewhere."""
    kind = low & 3
    if stage.number == 3:
        return kind == 3 or (kind == 2 and os == "linux")
    if kind == 3 or not regime.maps_blocks(stage.number):
        return kind == 3
    return kind == 1 or (kind == 0 and os == "linux")


def _output(value: int, regime: Regime, size: int) -> int:
    """Return the output address of a descriptor for `size` bytes, or for a table that begins at a multiple of them."""
    high = 0
    top = 48
    if regime.granule == 64:
        high = (value >> 12 & 0xF) << 48
    elif regime.ds:
        top = 50
        high = (value >> 8 & 3) << 50
    return high | value % (1 << top) // size * size


def _not_touched(value: int, stage: Stage) -> bool:
    """Return whether Linux keeps a page here that may not be touched: bit 58 (before 6.11) or bit 11 without bit 0."""
    if stage.number == 3:
        return value & 3 == 2 and bool(value >> 11 & 1 or value >> 58 & 1)
    return value & 3 == 0 and bool(value >> 11 & 1 or value >> 58 & 3)


def item_of(entry: Entry, regime: Regime, os: str) -> Item | None:
    """Return the page or block that a descriptor maps, or None."""
    value = entry.value
    if value is None:
        return None
    physical = _output(value, regime, entry.size)
    if value & 3 == (3 if entry.stage.number == 3 else 1):
        data, write, el0, el1 = entry.above
        el0_data = data and bool(value >> 6 & 1)
        writable = write and bool(not value >> 7 & 1 or value >> 51 & 1)
        el0_execute = el0 and not value >> 54 & 1
        el1_execute = el1 and not value >> 53 & 1 and not (el0_data and writable)
        user, executable = el0_data or el0_execute, el0_execute or el1_execute
        return entry.address, entry.size, physical, bool(user), bool(writable), bool(executable), "present"
    if os == "linux" and _not_touched(value, entry.stage):
        return entry.address, entry.size, physical, None, None, None, "prot-none"
    return None
