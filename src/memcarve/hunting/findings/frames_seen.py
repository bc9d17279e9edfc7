"""Pages of an image in which no header begins: what several processes share is read once, whichever copy reads it."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE, Intervals, breaks, expand

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.labels.headers import Header
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

#: pages of a backing that are remembered (of the first 256 GiB): a byte each, which takes memory only if it is written
_MOST = 1 << 26
_MOST_AT_ONCE = 1 << 22  # pages of one process


class FramesSeen:
    """Which pages of one backing hold no header, shared with the copies of this program that are made later.

    A page is told by the offset of its first byte. Two copies may read the same page in the same moment, and find the
    same.
    """

    def __init__(self) -> None:
        self._empty = np.frombuffer(mmap.mmap(-1, _MOST), np.uint8)

    def unseen(self, space: AddressSpace, segments: Segments) -> AddressSpace:
        """Return the address space without pages that are known to hold no header."""
        numbers, offsets = self._pages(space, segments)
        known = offsets[self._empty[numbers] != 0]
        if not len(known):
            return space
        size = np.full(len(known), PAGE, np.uint64)
        first = np.flatnonzero(breaks(size, known))
        return space.without(Intervals(known[first], np.add.reduceat(size, first)))

    def mark(self, space: AddressSpace, segments: Segments, headers: list[Header]) -> None:
        """Take note of pages that were looked at, and of all headers that are in them."""
        numbers, _ = self._pages(space, segments)
        held = [space.offset_of(header.address) // PAGE for header in headers]
        self._empty[np.setdiff1d(numbers, np.array(held, np.uint64))] = 1

    def _pages(self, space: AddressSpace, segments: Segments) -> tuple[U64, U64]:
        """Return the numbers and offsets (uint64, in order) of the whole pages of segments, of those that are kept."""
        stored = space.stored(segments)
        whole = stored.size % np.uint64(PAGE) == 0
        start, count = stored.start[whole], (stored.size[whole] // np.uint64(PAGE)).astype(np.int64)
        if not 0 < int(count.sum()) <= _MOST_AT_ONCE:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        row, step = expand(count)
        offsets = np.unique(start[row] + step.astype(np.uint64) * np.uint64(PAGE))
        offsets = offsets[offsets < np.uint64(_MOST * PAGE)]
        return offsets // np.uint64(PAGE), offsets
