"""A walker of x86 page tables that is slow and obvious: entry by entry, one level inside the other.

Written from the processor's manual (Intel SDM volume 3, chapter 4) and from what Windows and Linux keep in entries that
are not present; it shares nothing with memcarve.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int, int], bytes | None]
    #: address, size, physical address, user, writable, executable, state
    Item = tuple[int, int, int, bool | None, bool | None, bool | None, str]

MODES = ("x86-64", "x86-64-5", "pae", "x86")
SYSTEMS = ("windows", "linux", "none")
PAGE = 4096
_WIDEST = 8  # bytes of an entry


class Level(NamedTuple):
    """A level of tables: how many entries, which address bits choose one, whether a page can be mapped here."""

    entries: int
    shift: int
    leaf: bool = False


class Mode(NamedTuple):
    """A paging mode: its levels from the root down, bytes per entry, bits of an address, bits of a root."""

    levels: tuple[Level, ...]
    width: int
    bits: int
    root: int


_LOW = (Level(512, 30, leaf=True), Level(512, 21, leaf=True), Level(512, 12, leaf=True))
_FRAME64 = (1 << 52) - PAGE
_MODES = {
    "x86-64": Mode((Level(512, 39), *_LOW), 8, 48, _FRAME64),
    "x86-64-5": Mode((Level(512, 48), Level(512, 39), *_LOW), 8, 57, _FRAME64),
    "pae": Mode((Level(4, 30), *_LOW[1:]), 8, 32, (1 << 32) - 32),
    "x86": Mode((Level(1024, 22, leaf=True), Level(1024, 12, leaf=True)), 4, 32, (1 << 32) - PAGE),
}


class TooMuchError(Exception):
    """The tables map more pages than the limit."""


class Entry(NamedTuple):
    """An entry of a last-level table, a large page or a lost entry: what it holds, and what those above it say."""

    address: int
    size: int
    #: None if a byte of it is missing
    value: int | None
    level: int
    #: user, writable, executable by the levels above
    above: tuple[bool, bool, bool]
    #: a table above is in transition
    moving: bool


class Once:
    """What is passed over if shared tables of the kernel half are walked once a level.

    Shared is a table to which `many` entries of one directory lead, for these alone. A first walk with this learns
    which those are, each walk after `begin` passes them over.
    """

    def __init__(self, mode: str, os: str, many: int) -> None:
        self.bits = _MODES[mode].bits
        self.half = 1 << (self.bits - 1) if self.bits > 32 or os != "linux" else 3 << 30
        self.many = many
        #: level, directory, table
        self.shared: set[tuple[int, int, int]] = set()
        self.seen: dict[tuple[int, int], int] | None = None
        #: address, size, and the address at which the same was walked
        self.repeats: list[tuple[int, int, int]] = []

    def begin(self) -> None:
        """Pass over from now on what was learnt to be shared."""
        self.seen = {}

    def learn(self, level: int, directory: int, below: list[tuple[int, int]]) -> None:
        """Note to which tables of a level, at which addresses, the entries of a directory lead."""
        upper = [table for table, address in below if address >= self.half]
        self.shared |= {(level, directory, table) for table in upper if upper.count(table) >= self.many}

    def passes(self, level: int, directory: int, table: int, address: int, size: int) -> bool:
        """Note a table of a level that maps `size` bytes at an address; return whether it was walked before."""
        if self.seen is None or address < self.half or (level, directory, table) not in self.shared:
            return False
        if (level, table) not in self.seen:
            self.seen[level, table] = address
            return False
        upper = (1 << 64) - (1 << self.bits) if self.bits > 32 else 0
        self.repeats.append((address | upper, size, self.seen[level, table] | upper))
        return True


def walk(
    read: Read, root: int, mode: str, os: str, *, limit: int = 1 << 20, top: int = 0, once: Once | None = None
) -> list[Item]:
    """Return all mapped pages in the order of the tables, large ones whole, also those that `read` does not have.

    `read` returns bytes of physical memory, or None where any of them are missing; `top` is the highest physical
    address. The state is ``present``, ``transition`` (the page, or a table above it) or ``prot-none``; what the
    hardware allows is None unless it is present. More than `limit` pages, or reads of tables: TooMuchError.
    """
    items: list[Item] = []
    reads = 0

    def counted(physical: int, size: int) -> bytes | None:
        nonlocal reads
        reads += size > _WIDEST
        if reads > limit:
            raise TooMuchError
        return read(physical, size)

    for entry in entries(counted, root, mode, os, top=top, once=once):
        item = _item(entry, read, _MODES[mode], os, top)
        if item is not None:
            items.append(item)
        if len(items) > limit:
            raise TooMuchError
    return sorted(items)


def absent(
    read: Read,
    root: int,
    os: str = "windows",
    *,
    mode: str = "x86-64",
    half: str = "user",
    top: int = 0,
    once: Once | None = None,
) -> dict[str, int]:
    """Return how many entries of page tables map nothing, by kind as Windows has them, in the user half or in both.

    Of Linux's those that are not zero are one kind, counted in pages wherever a page may be mapped. Those of tables of
    any level of which a byte is missing are lost, if there are any.
    """
    counts = {"zero": 0, "demand-zero": 0, "pagefile": 0, "prototype": 0}
    for entry in entries(read, root, mode, os, top=top, once=once):
        if half == "user" and entry.address >> (_MODES[mode].bits - 1):
            # addresses ascend
            break
        if entry.value is None:
            counts["lost"] = counts.get("lost", 0) + 1
        elif os == "linux":
            # two bits are set in entries for nothing by a processor's mistake (Knights Landing)
            kind = "absent" if entry.value & ~0x60 else "zero"
            if _item(entry, read, _MODES[mode], os, 0) is None:
                counts[kind] = counts.get(kind, 0) + entry.size // PAGE
        elif entry.size == PAGE and _item(entry, read, _MODES[mode], os, 0) is None:
            counts[_kind(entry.value, _MODES[mode], top)] += 1
    return counts


def _kind(value: int, mode: Mode, top: int) -> str:
    if value == 0:
        return "zero"
    if value >> 10 & 1:
        return "prototype"
    # where in the page file: the upper half of an entry, or what is left above the flags
    if mode.width == 4:
        return "pagefile" if value >> 12 else "demand-zero"
    # the mask against L1TF is one run of bits that no physical address has, and SwizzleBit says that it is not there
    digits = f"{value:064b}"[:32].rstrip("0")
    masked = "0" not in digits.lstrip("0") and len(digits) <= 64 - max(40, top.bit_length()) and not value >> 4 & 1
    return "pagefile" if digits and not masked else "demand-zero"


def entries(read: Read, root: int, mode: str, os: str, *, top: int = 0, once: Once | None = None) -> Iterator[Entry]:
    """Yield all entries of page tables, mapped, absent or lost, and large pages; but what `once` passes over."""
    kind = _MODES[mode]
    first = Entry(0, 0, 0, 0, (True, True, True), moving=False)
    yield from _table(read, root & kind.root, kind, os, top, 0, first, once)


def _table(
    read: Read, table: int, mode: Mode, os: str, top: int, number: int, above: Entry, once: Once | None
) -> Iterator[Entry]:
    level = mode.levels[number]
    tables: list[tuple[int, int]] = []
    for index, value in enumerate(_values(read, table, level, mode.width, os)):
        address = above.address | index << level.shift
        here = Entry(address, 1 << level.shift, value, number, above.above, above.moving)
        if value is None:
            yield here
            continue
        present = bool(value & 1)
        large = level.leaf and value >> 7 & 1 and (present or _protected(value, level, os))
        if number == len(mode.levels) - 1 or large:
            yield here
            continue
        if present:
            below, under = here._replace(above=_allowed(here, mode)), value & _frame(mode)
        elif _moving(value, os):
            below, under = here._replace(moving=True), _moved(value, mode, top)
        else:
            if os == "linux" and level.leaf and not present:
                yield here
            continue
        if once and _values(read, under, mode.levels[number + 1], mode.width, os):
            tables.append((under, address))
            if once.passes(number + 1, table, under, address, here.size):
                continue
        yield from _table(read, under, mode, os, top, number + 1, below, once)
    if once:
        once.learn(number + 1, table, tables)


def _values(read: Read, table: int, level: Level, width: int, os: str) -> list[int | None]:
    """Return the entries of a table: None for those that are not there whole, and nothing where those are most.

    One of which what is there says that it maps nothing, whatever the rest of it is, is 0.
    """
    count = level.entries
    data = read(table, count * width)
    if data is not None:
        return list(struct.unpack(f"<{count}{'Q' if width == 8 else 'I'}", data))
    values: list[int | None] = []
    for place in range(table, table + count * width, width):
        whole, begin = read(place, width), read(place, 2)
        values.append(None if whole is None else int.from_bytes(whole, "little"))
        if whole is None and begin is not None:
            low = int.from_bytes(begin, "little")
            large_or_last = level.shift == 12 or bool(low >> 7 & 1)
            if not (low & 1 or _moving(low, os) or (_protected(low, level, os) and large_or_last)):
                values[-1] = 0
    if sum(read(place, width) is None for place in range(table, table + count * width, width)) * 2 >= count:
        return []
    return values


def _frame(mode: Mode) -> int:
    return _FRAME64 if mode.width == 8 else (1 << 32) - PAGE


def _allowed(entry: Entry, mode: Mode) -> tuple[bool, bool, bool]:
    """Return what an entry leaves of what is allowed above it."""
    assert entry.value is not None
    user, writable, executable = entry.above
    if mode.bits == 32 and mode.width == 8 and entry.level == 0:
        # the four pointers of PAE carry no permissions
        return entry.above
    no_execute = mode.width == 8 and entry.value >> 63 & 1
    return user and bool(entry.value >> 2 & 1), writable and bool(entry.value >> 1 & 1), executable and not no_execute


def _moving(value: int, os: str) -> bool:
    """Return whether an entry that is not present is in transition: bit 11 without bit 10."""
    return os == "windows" and value >> 10 & 3 == 2


def _moved(value: int, mode: Mode, top: int) -> int:
    """Return the physical address of an entry in transition, without bits that no address of the image can have.

    Bit 4 (SwizzleBit) says that no mask was put there.
    """
    if value >> 4 & 1:
        return value & _frame(mode)
    return value & _frame(mode) & ((1 << max(40, top.bit_length())) - 1)


def _protected(value: int, level: Level, os: str) -> bool:
    """Return whether an entry that is not present is a PROT_NONE page: bit 8, wherever there are pages.

    Above page tables that takes bit 7 as well; pages of 1 GiB, as hugetlbfs has them, are no exception.
    """
    return os == "linux" and level.leaf and bool(value >> 8 & 1)


def _plain(entry: Entry, mode: Mode) -> int:
    """Return the physical address of the page that an entry maps."""
    assert entry.value is not None
    physical = entry.value & _frame(mode) & ~(entry.size - 1)
    # PSE-36
    return physical | (entry.value >> 13 & 0xFF) << 32 if entry.size == 1 << 22 else physical


def _item(entry: Entry, read: Read, mode: Mode, os: str, top: int) -> Item | None:
    """Return the page that an entry maps, or None."""
    if entry.value is None:
        return None
    address = entry.address
    if mode.bits > 32 and address >> (mode.bits - 1):
        address |= (1 << 64) - (1 << mode.bits)
    if entry.value & 1:
        physical = _plain(entry, mode)
        if entry.moving:
            return address, entry.size, physical, None, None, None, "transition"
        return address, entry.size, physical, *_allowed(entry, mode), "present"
    if _moving(entry.value, os):
        return address, entry.size, _moved(entry.value, mode, top), None, None, None, "transition"
    if _protected(entry.value, mode.levels[entry.level], os) and (entry.size == PAGE or entry.value >> 7 & 1):
        physical = plain = _plain(entry, mode)
        # tables of two levels have no inverted ones
        if mode.width == 8:
            inverted = ~entry.value & _frame(mode) & ~(entry.size - 1)
            physical = plain if read(inverted, PAGE) is None and read(plain, PAGE) is not None else inverted
        return address, entry.size, physical, None, None, None, "prot-none"
    return None
