"""The kernel's half of an address space: looked up page by page, or walked whole, as it is needed.

A list of processes is on a few hundred pages. The page tables of the whole half are thousands, all over the memory:
what must fetch each of them from afar should not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import AddressError
from memcarve.images.paging import walk
from memcarve.images.physical import read_there
from memcarve.images.structure_reader import LookedUp
from memcarve.intervals import PAGE, TOP, Intervals, chunks, distinct, expand

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.space import AddressSpace

_PAGE = np.uint64(PAGE)
_LOW = np.uint64(PAGE - 1)
_BATCH = 1 << 12  # pages of which words are read in one go: 16 MiB
_MOST_LOOKED_UP = 1 << 14  # pages, one by one


class KernelHalf(LookedUp):
    """The kernel's half through some page tables; what is read is the same, walked or not.

    `limit` is how many bytes the tables may claim to map if they are walked whole, None the default.
    """

    def __init__(self, memory: PhysicalMemory, table: AddressTable, limit: int | None = None) -> None:
        super().__init__(memory, table)
        self.limit = limit

    @functools.cached_property
    def whole(self) -> AddressSpace:
        """All of it. Raises LimitError if the page tables claim too much."""
        return walk(self.memory, self.table, self.table.kernel_half, TOP, self.limit).space(self.memory)

    def part(self, start: int, end: int) -> AddressSpace:
        """Return what holds an address of ``start <= x < end``, and perhaps more."""
        if self.is_walked:
            return self.whole
        return walk(self.memory, self.table, start, end, self.limit).space(self.memory)

    def mapped(self, wanted: Intervals) -> tuple[Intervals, U64]:
        """Return what of some ranges is in memory, as sorted disjoint ranges, or more; and where each lies (uint64).

        All of the half is walked for that if reading all of the memory costs little, or many pages are asked for.
        """
        first = wanted.start // _PAGE
        last = (wanted.start + (wanted.size - np.uint64(1))) // _PAGE
        count = (last - first + np.uint64(1)).astype(np.int64)
        if self.is_walked or self.memory.searchable or int(count.sum()) > _MOST_LOOKED_UP:
            physical = self.whole.physical
            none = np.zeros(0, np.uint64)
            return (Intervals(none, none), none) if physical is None else (self.whole, physical)
        row, within = expand(count)
        numbers = distinct(first[row] + within.astype(np.uint64))
        places = [self.physical_of(number * PAGE) for number in numbers.tolist()]
        there = np.array([place is not None for place in places], np.bool_)
        start = numbers[there] * _PAGE
        return Intervals(start, np.full_like(start, PAGE)), np.array(
            [place for place in places if place is not None], np.uint64
        )

    def pages_at(self, addresses: U64) -> tuple[U64, Bools]:
        """Return pages at addresses (uint64): shape (n, 512); and which are in memory (bool)."""
        words = np.zeros((len(addresses), PAGE // 8), np.uint64)
        physical, there = self.places_of(addresses)
        there &= (addresses & _LOW == 0) & self.memory.holds(physical, PAGE)
        if there.any():
            words[there] = self.memory.pages(physical[there])
        return words, there

    def places_of(self, addresses: U64) -> tuple[U64, Bools]:
        """Return the physical addresses of bytes at addresses (uint64), and which of them are in memory (bool)."""
        wanted = distinct(addresses & ~_LOW)
        mapped, places = self.mapped(Intervals(wanted, np.full_like(wanted, PAGE)))
        if not len(mapped):
            return np.zeros(len(addresses), np.uint64), np.zeros(len(addresses), np.bool_)
        row = mapped.rows_of(addresses)
        there = np.asarray(row >= 0)
        row = np.maximum(row, 0)
        return places[row] + (addresses - mapped.start[row]), there

    def words_at(self, addresses: U64) -> tuple[U64, Bools]:
        """Return the words of 8 bytes at addresses (uint64), and which are in memory (bool).

        The addresses are multiples of 8, in any order.
        """
        pages, inverse = np.unique(addresses & ~_LOW, return_inverse=True)
        words, held = np.zeros(len(addresses), np.uint64), np.zeros(len(addresses), np.bool_)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(pages) + 1))
        for part in chunks(len(pages), _BATCH):
            data, there = self.pages_at(pages[part])
            mine = order[bounds[part.start] : bounds[part.stop]]
            row = inverse[mine] - part.start
            words[mine] = data[row, ((addresses[mine] & _LOW) >> np.uint64(3)).astype(np.int64)]
            held[mine] = there[row]
        return words, held

    def walked_as(self, other: KernelHalf) -> None:
        """Take over what is known of all of it from another reader of the same half."""
        self.__dict__["whole"] = other.whole

    @property
    def is_walked(self) -> bool:
        """Whether all of it is known."""
        return "whole" in self.__dict__

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at an address; raises AddressError, SourceReadError."""
        return self.whole.read(address, size) if self.is_walked else super().read(address, size)

    def place(self, address: int) -> int | None:
        """Return the physical address of a byte whose whole page is in the image; None if only a walk can tell."""
        return super().place(address) if self.table.kernel_half <= address < TOP else None

    def around(self, address: int) -> AddressSpace:
        """Return what is mapped around an address: all of the half if it was walked."""
        return self.whole if self.is_walked else super().around(min(max(address, self.table.kernel_half), TOP - 1))

    def padded(self, address: int, size: int) -> bytes:
        """Return `size` bytes at an address, zeros for those not in memory: only for structures, never for output."""
        try:
            return self.read(address, size)
        except AddressError:
            pass  # a part of it may be there
        parts, end = [], min(address + size, TOP)
        while address < end:
            count = min(PAGE - address % PAGE, end - address)
            parts.append(read_there(self.around(address), address, count)[0])
            address += count
        return b"".join(parts).ljust(size, b"\0")

    def physical_of(self, address: int) -> int | None:
        """Return the physical address of a byte; None if it is not in memory."""
        if not self.is_walked and (place := self.place(address)) is not None:
            return place
        space = self.around(address)
        row = space.at(address) if 0 <= address < TOP else None
        if row is None or space.physical is None:
            return None
        return int(space.physical[row]) + address - int(space.start[row])

    def offset_of(self, address: int) -> int:
        """Return the offset in the backing of the byte at an address, or raise AddressError with the reason."""
        if not self.is_walked and (place := self.place(address)) is not None:
            return int(self.memory.offsets_of(np.array([place], np.uint64))[0])
        return self.around(address).offset_of(address)
