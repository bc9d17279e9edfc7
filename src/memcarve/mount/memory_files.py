"""Files that consist of memory: of a stretch of it, of several one after another, of one with gaps that are zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memcarve.segments import Segments
    from memcarve.sinks.flat import Plan
    from memcarve.space import AddressSpace


class MemoryFile:
    """`size` bytes at the address `start`, all of which are there; they lie in one piece of the backing, or in several.

    `place` is the offset there if it is one, else None.
    """

    def __init__(self, space: AddressSpace, start: int, size: int, place: int | None = None) -> None:
        self.space = space
        self.start = start
        self.size = size
        self.place = place

    @property
    def stored(self) -> int:
        """All of them."""
        return self.size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`; raises SourceReadError."""
        if self.place is None:
            self.space.read_into(self.start + offset, view)
        else:  # the usual case of what is large, at the least cost
            self.space.backing.read_into(self.place + offset, view)


class FileOfProcess:
    """A file that holds a process: `head`, zeros up to `base`, and the bytes of segments one after another.

    So `sinks.single_file.write_file` writes it.
    """

    def __init__(self, head: bytes, base: int, space: AddressSpace, segments: Segments) -> None:
        self.head = head
        self.base = base
        self.space = space
        self.segments = segments
        self._ends = np.cumsum(segments.size, dtype=np.uint64)
        self.size = base + segments.total

    @property
    def stored(self) -> int:
        """All of them."""
        return self.size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`; raises SourceReadError."""
        done = 0
        if offset < self.base:
            done = min(self.base - offset, len(view))
            found = self.head[offset : offset + done]
            view[:done] = found + bytes(done - len(found))
        if done == len(view):
            return
        place = offset + done - self.base
        row = int(np.searchsorted(self._ends, np.uint64(place), "right"))
        while done < len(view):
            behind = int(self._ends[row]) - place
            length = min(behind, len(view) - done)
            address = int(self.segments.start[row]) + int(self.segments.size[row]) - behind
            self.space.read_into(address, view[done : done + length])
            done, place, row = done + length, place + length, row + 1


class FlatFile:
    """A range of addresses as it lies in memory: what is not there is zeros, as `sinks.flat` writes it."""

    def __init__(self, space: AddressSpace, plan: Plan) -> None:
        self.space = space
        self.parts = plan.parts
        self.start = plan.start
        self.size = plan.size

    @property
    def stored(self) -> int:
        """What is not in gaps."""
        return self.parts.total

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`; raises SourceReadError."""
        begin, last = self.start + offset, self.start + offset + len(view) - 1
        first, end = self._touched(begin, last)
        filled = 0
        for row in range(first, end):
            start = max(int(self.parts.start[row]), begin)
            length = min(int(self.parts.last[row]), last) + 1 - start
            _clear(view[filled : start - begin])
            self.space.read_into(start, view[start - begin : start - begin + length])
            filled = start - begin + length
        _clear(view[filled:])

    def next_data(self, offset: int) -> int | None:
        """Return the first offset from `offset` on that is in no gap; None if there is none."""
        row, _ = self._touched(self.start + offset, self.start + self.size - 1)
        if row == len(self.parts):
            return None
        return max(int(self.parts.start[row]) - self.start, offset)

    def next_hole(self, offset: int) -> int:
        """Return the first offset from `offset` on that is in a gap; the end is one."""
        address = self.start + offset
        row, _ = self._touched(address, self.start + self.size - 1)
        while row < len(self.parts) and int(self.parts.start[row]) <= address:
            address, row = int(self.parts.last[row]) + 1, row + 1
        return min(address - self.start, self.size)

    def _touched(self, begin: int, last: int) -> tuple[int, int]:
        """Return which parts have bytes in a range: the first, and the one behind the last."""
        first = int(np.searchsorted(self.parts.last, np.uint64(begin)))
        return first, int(np.searchsorted(self.parts.start, np.uint64(last), "right"))


def _clear(view: memoryview) -> None:
    if view:
        view[:] = bytes(len(view))
