"""What of the kernel's half left memory itself: arrays of prototypes, above all, lie in memory that can be paged out.

Only places that the kernel's own entries name in page files and in the store of compressed pages are followed: pages
that it shares by prototypes hold no such structures, so no prototype is looked up to find another. The store's own
structures are read from memory alone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import AddressError, LimitError
from memcarve.images.paging import default_limit, walk_invalid
from memcarve.images.windows.resolving import invalid_ptes as ptes
from memcarve.images.windows.resolving.paged_tables import tables_below
from memcarve.intervals import PAGE, TOP, Intervals, distinct

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver

_STRETCH = 21  # bits of an address within what one table maps
_MOST_STRETCHES = 1 << 10  # whose entries are looked at for one process; they are kept for others
_MOST_KEPT = 1 << 13  # of these when another process is looked for: 64 MiB
_LOW = np.uint64(PAGE - 1)


class PagedKernel:
    """Finds pages of the kernel that left memory, and reads the kernel's half with them.

    What is in memory is read from there. Used by one thread at a time, but for `read`, which takes the resolver's lock.
    """

    def __init__(self, resolver: WindowsResolver) -> None:
        self.resolver = resolver
        self.left = _MOST_STRETCHES
        #: by the number of a stretch: its pages that were found, and where in the backing they lie
        self._known: dict[int, tuple[U64, U64]] = {}

    def begin(self) -> None:
        """Look for another process."""
        self.left = _MOST_STRETCHES
        if len(self._known) > _MOST_KEPT:
            self._known.clear()

    def forget(self) -> None:
        """Look again at what was looked at: more can be found now."""
        self._known.clear()

    def held(self, ranges: Intervals) -> Intervals:
        """Return pages in ranges of the kernel, or near them, that are found elsewhere than in memory."""
        parts = []
        for start, last in zip(ranges.start.tolist(), ranges.last.tolist(), strict=True):
            for number in range(start >> _STRETCH, (last >> _STRETCH) + 1):
                found = self._stretch(number)
                if found is None:
                    break
                parts.append(found[0])
        pages = distinct(np.concatenate([np.zeros(0, np.uint64), *parts]))
        return Intervals(pages, np.full_like(pages, PAGE))

    def places(self, pages: U64) -> tuple[U64, Bools]:
        """Return where in the backing pages of the kernel lie (both uint64), and which are found (bool)."""
        offset, there = np.zeros(len(pages), np.uint64), np.zeros(len(pages), np.bool_)
        numbers = pages >> np.uint64(_STRETCH)
        for number in distinct(numbers).tolist():
            found = self._stretch(number)
            if found is None or not len(found[0]):
                continue
            rows = np.flatnonzero(numbers == np.uint64(number))
            at = np.minimum(np.searchsorted(found[0], pages[rows]), len(found[0]) - 1)
            same = found[0][at] == pages[rows]
            offset[rows[same]], there[rows[same]] = found[1][at[same]], True
        return offset, there

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at an address; raises AddressError, SourceReadError."""
        kernel = self.resolver.kernel
        try:
            return kernel.read(address, size)
        except AddressError:
            if not kernel.table.kernel_half <= address <= TOP - size:
                raise
        parts, end = [], address + size
        while address < end:
            count = min(PAGE - address % PAGE, end - address)
            parts.append(self._piece(address, count))
            address += count
        return b"".join(parts)

    def _piece(self, address: int, size: int) -> bytes:
        """Return bytes of one page."""
        try:
            return self.resolver.kernel.read(address, size)
        except AddressError:
            with self.resolver.lock:
                offset, there = self.places(np.array([address - address % PAGE], np.uint64))
            if not there[0]:
                raise
        data = bytearray(size)
        self.resolver.files.backing.read_into(int(offset[0]) + address % PAGE, memoryview(data))
        return bytes(data)

    def _stretch(self, number: int) -> tuple[U64, U64] | None:
        """Return the pages of a stretch that are found, and where; None if too many were looked at already."""
        if number not in self._known:
            if self.left <= 0:
                return None
            self.left -= 1
            none = np.zeros(0, np.uint64)
            self._known[number] = none, none  # what is looked up meanwhile finds nothing here
            with contextlib.suppress(LimitError):
                self._known[number] = self._look(number << _STRETCH)
        return self._known[number]

    def _look(self, start: int) -> tuple[U64, U64]:
        resolver = self.resolver
        table, end = resolver.kernel.table, start + (1 << _STRETCH)
        _, invalid = walk_invalid(resolver.memory, table, start, end)
        most = default_limit(resolver.memory) // PAGE
        invalid = tables_below(resolver, invalid, table.mode.levels, (start, end), most).invalid
        paged = np.flatnonzero(ptes.kinds(invalid.word, resolver.possible) == ptes.PAGED)
        if not len(paged):
            return invalid.address[paged], invalid.address[paged]
        found = resolver.stored(invalid.word[paged])
        held = found.flags != 0
        return invalid.address[paged[held]], found.offset[held]
