"""Pages of an image in which no header begins: what several processes share is read once, whichever copy reads it."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE, Intervals, breaks, distinct, expand

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.labels.headers import Header
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

#: pages of a backing that are remembered (of the first 256 GiB): two bytes each, which take memory only if written
_MOST = 1 << 26
_MOST_AT_ONCE = 1 << 22  # pages of one process


class FramesSeen:
    """Which pages of one backing hold no header, shared with the copies of this program that are made later.

    A page is told by the offset of its first byte, which need not be a multiple of its size; in a damaged image pages
    may overlap. Two copies may read the same page in the same moment, and find the same.
    """

    def __init__(self) -> None:
        #: where the page begins in each stretch of the size of a page, from 1 on; 0 if none that was looked at does
        self._empty = np.frombuffer(mmap.mmap(-1, 2 * _MOST), np.uint16)

    def unseen(self, space: AddressSpace, segments: Segments) -> AddressSpace:
        """Return the address space without pages that are known to hold no header."""
        numbers, offsets = self._pages(space, segments)
        known = offsets[self._empty[numbers] == _begin(offsets)]
        if not len(known):
            return space
        size = np.full(len(known), PAGE, np.uint64)
        first = np.flatnonzero(breaks(size, known))
        return space.without(Intervals(known[first], np.add.reduceat(size, first)))

    def mark(self, space: AddressSpace, segments: Segments, headers: list[Header]) -> None:
        """Take note of pages that were looked at, and of all headers that are in them."""
        _, offsets = self._pages(space, segments)
        held = [space.offset_of(header.address) for header in headers]
        empty = offsets[~np.isin(offsets, np.array(held, np.uint64))]
        self._empty[empty // np.uint64(PAGE)] = _begin(empty)

    def _pages(self, space: AddressSpace, segments: Segments) -> tuple[U64, U64]:
        """Return the numbers and offsets (uint64, in order) of the whole pages of segments, of those that are kept."""
        stored = space.stored(segments)
        whole = stored.size % np.uint64(PAGE) == 0
        start, count = stored.start[whole], (stored.size[whole] // np.uint64(PAGE)).astype(np.int64)
        if not 0 < int(count.sum()) <= _MOST_AT_ONCE:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        row, step = expand(count)
        offsets = distinct(start[row] + step.astype(np.uint64) * np.uint64(PAGE))
        offsets = offsets[offsets < np.uint64(_MOST * PAGE)]
        if (offsets[1:] - offsets[:-1] < np.uint64(PAGE)).any():  # what is left of one may be part of another
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        return offsets // np.uint64(PAGE), offsets


def _begin(offsets: U64) -> np.ndarray:
    """Return where in stretches of the size of a page offsets are, from 1 on (uint16)."""
    return (offsets % np.uint64(PAGE)).astype(np.uint16) + np.uint16(1)
