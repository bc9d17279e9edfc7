"""A search of several processes' memory, in which every stretch that several of them share is searched once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from memcarve.errors import UnreadableError
from memcarve.intervals import PAGE
from memcarve.searching.ordered_threads import in_order
from memcarve.searching.shared_units import can_be_shared, shared_keys, units
from memcarve.searching.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from memcarve.dtypes import U64, Bools
    from memcarve.searching.memory import Memory
    from memcarve.searching.shared_units import Units
    from memcarve.segments import Segment, Segments

_Found = TypeVar("_Found", bound="Sized")
_Answer_co = TypeVar("_Answer_co", bound="Sized", covariant=True)


BLOCK = 1 << 20  # bytes searched in one go
_TOGETHER = 512  # stretches that are one task
_KEPT = 1 << 20  # things found that are kept for the next process with the same memory
_HOLE = 1 << 16  # holes of sparse files that are larger are passed over


class Search(Protocol[_Answer_co]):
    """What looks for something in windows; called in several threads at once.

    It says what begins in a window's own bytes, by places relative to ``window.begin``, and must not keep the buffer.
    What it says may depend on `before` bytes before these and on `after` bytes behind, as far as there are any, and on
    nothing else. `in_zeros`: there may be something to find in zeros alone.
    """

    before: int
    after: int
    in_zeros: bool

    def __call__(self, buffer: bytearray, window: Window) -> _Answer_co:
        """Return what begins in the window's own bytes; its length is how much that is."""


class Searched(NamedTuple, Generic[_Found]):
    """What was `found` in a stretch ``start <= x < end`` of the segment at a `row` of a part, which has a number.

    A stretch of which some bytes cannot be read comes in several; after them comes one in which nothing was looked for
    (None), with the start and size of what cannot be read: `lost`.
    """

    part: int
    row: int
    start: int
    end: int
    found: _Found | None
    lost: tuple[tuple[int, int], ...] = ()


class _Stretch(NamedTuple):
    """Addresses to search, and those of all that is there around them as far as it is looked at.

    `shared` is the index of the key if others have the same, and `again` says that one came before.
    """

    part: int
    row: int
    start: int
    end: int
    bounds: tuple[int, int]
    shared: int | None = None
    again: bool = False


class EachOnce(Generic[_Found]):
    """Searches segments of several processes: `parts`, address spaces with the segments that are wanted of them.

    Iterating yields what was found in one stretch after the other, in the order of parts and of addresses. Stretches
    do not overlap, and hold all bytes of the segments but those of holes in sparse files, which are zeros. Memory is
    bounded by the number of threads, and by what was found in stretches that others share. Raises what reading raises,
    except for UnreadableError, which is told in `lost`.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Memory, Segments]],
        search: Search[_Found],
        *,
        threads: int | None = None,
        block: int = BLOCK,
        kept: int = _KEPT,
    ) -> None:
        """Prepare a search in `threads` (None: all processors), `block` bytes in one go.

        As many things as `kept` says are remembered for the next process that shares the memory they lie in; what is
        found beyond that is looked for again.
        """
        self._parts = parts
        self._search = search
        self._threads = threads
        self._block = block
        self._local = threading.local()
        self._shared: U64 = np.zeros(0, np.uint64)
        self._taken: Bools = np.zeros(0, np.bool_)
        self._kept: dict[int, _Found] = {}
        self._most_kept = self._room = kept
        #: bytes in all, and those of stretches that were not searched because earlier ones are the same
        self.total = sum(segments.total for _, segments in parts)
        self.same = 0

    def __iter__(self) -> Iterator[Searched[_Found]]:
        """Search, from the beginning."""
        self._kept, self._room, self.same = {}, self._most_kept, 0
        if any(can_be_shared(space, segments) for space, segments in self._parts):
            self._shared = shared_keys(self._parts, self._search.before, self._search.after)
            self._taken = np.zeros(len(self._shared), np.bool_)
        for batch, results in in_order(self._work, self._batches(), self._threads):
            for stretch, result in zip(batch, results, strict=True):
                yield from self._told(stretch, result)

    def _told(self, stretch: _Stretch, result: list[Searched[_Found]] | None) -> list[Searched[_Found]]:
        """Return what was found in a stretch, and keep it if it may be wanted again."""
        if stretch.shared is None:
            return result or []
        if stretch.again:
            kept = self._kept.get(stretch.shared)
            if kept is None:  # it was too much to be kept, or some bytes could not be read
                return self._one(stretch)
            self.same += stretch.end - stretch.start
            return [Searched(stretch.part, stretch.row, stretch.start, stretch.end, kept)]
        if result is not None and len(result) == 1 and result[0].found is not None:
            size = len(result[0].found) + 1
            if size <= self._room:
                self._room -= size
                self._kept[stretch.shared] = result[0].found
        return result or []

    def searched(
        self, part: int, row: int, start: int, end: int, search: Search[_Found] | None = None
    ) -> list[Searched[_Found]]:
        """Search addresses of a segment again: for what there was too much of to be kept, or told at once.

        Another `search` may be given, which must not look farther.
        """
        segments = self._parts[part][1]
        low = int(segments.start[row])
        return self._one(_Stretch(part, row, start, end, (low, low + int(segments.size[row]))), search)

    # what is to be done

    def _batches(self) -> Iterator[list[_Stretch]]:
        """Yield stretches, as many at a time as are worth a thread's while."""
        batch: list[_Stretch] = []
        size = 0
        for stretch in self._stretches():
            batch.append(stretch)
            size += 0 if stretch.again else stretch.end - stretch.start
            if size >= self._block or len(batch) >= _TOGETHER:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _stretches(self) -> Iterator[_Stretch]:
        for number, (space, segments) in enumerate(self._parts):
            if len(self._shared) and can_be_shared(space, segments):
                for found in units(space, segments, self._search.before, self._search.after):
                    yield from self._of_units(number, segments, found)
            else:
                yield from self._of_segments(number, space, segments)

    def _of_units(self, number: int, segments: Segments, found: Units) -> Iterator[_Stretch]:
        """Yield what others share unit by unit, and what nobody shares in blocks."""
        place = np.minimum(np.searchsorted(self._shared, found.key), len(self._shared) - 1)
        shared = self._shared[place] == found.key
        block = np.cumsum(found.size, dtype=np.uint64) // np.uint64(self._block)
        begins = shared.copy()
        begins[:1] = True
        begins[1:] |= shared[:-1] | (found.row[1:] != found.row[:-1]) | (block[1:] != block[:-1])
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(begins)) - 1
        row = found.row[first]
        size = found.start[last] - found.start[first] + found.size[last]
        columns = (row, found.start[first], size, segments.start[row], segments.size[row], place[first], shared[first])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for at, start, length, low, whole, key, is_shared in rows:
            again = is_shared and bool(self._taken[key])
            if is_shared:
                self._taken[key] = True
            bounds = (low, low + whole)
            yield _Stretch(number, at, start, start + length, bounds, key if is_shared else None, again)

    def _of_segments(self, number: int, space: Memory, segments: Segments) -> Iterator[_Stretch]:
        """Yield segments in blocks, without what is a hole of a sparse file."""
        # as much is left at the ends of a hole as what crosses them may have there
        margin = self._search.before + self._search.after
        for row, segment in enumerate(segments):
            start = segment.start
            for low, high in () if self._search.in_zeros else space.holes(segment, max(_HOLE, 2 * margin)):
                yield from self._blocks(number, row, segment, start, low + margin)
                start = high - margin
            yield from self._blocks(number, row, segment, start, segment.end)

    def _blocks(self, number: int, row: int, segment: Segment, start: int, end: int) -> Iterator[_Stretch]:
        for low in range(start, end, self._block):
            yield _Stretch(number, row, low, min(low + self._block, end), (segment.start, segment.end))

    # the work

    def _work(self, batch: list[_Stretch]) -> list[list[Searched[_Found]] | None]:
        """Search stretches, in one of the threads; None for one that was searched before."""
        return [None if stretch.again else self._one(stretch) for stretch in batch]

    def _one(self, stretch: _Stretch, search: Search[_Found] | None = None) -> list[Searched[_Found]]:
        """Search a stretch; what cannot be read is like a gap."""
        search = search or self._search
        low = max(stretch.start - search.before, stretch.bounds[0])
        high = min(stretch.end + search.after, stretch.bounds[1])
        space, _ = self._parts[stretch.part]
        buffer = self._buffer(high - low)
        try:
            space.read_into(low, memoryview(buffer)[: high - low])
        except UnreadableError:
            return self._around(stretch, space.unreadable(low, high), search)
        window = Window(
            stretch.start - low,
            stretch.end - low,
            high - low,
            search.before > 0 and low == stretch.bounds[0],
            search.after > 0 and high == stretch.bounds[1],
            stretch.start % PAGE,
        )
        return [Searched(stretch.part, stretch.row, stretch.start, stretch.end, search(buffer, window))]

    def _around(
        self, stretch: _Stretch, lost: Sequence[tuple[int, int]], search: Search[_Found]
    ) -> list[Searched[_Found]]:
        """Search what of a stretch can be read; `lost` are start and end of what cannot."""
        found: list[Searched[_Found]] = []
        begin = stretch.bounds[0]
        for low, high in (*lost, (stretch.bounds[1], stretch.bounds[1])):
            start, end = max(stretch.start, begin), min(stretch.end, low)
            if start < end:
                found += self._one(stretch._replace(start=start, end=end, bounds=(begin, low)), search)
            begin = high
        own = [(max(low, stretch.start), min(high, stretch.end)) for low, high in lost]
        sizes = tuple((low, high - low) for low, high in own if low < high)
        return [*found, Searched(stretch.part, stretch.row, stretch.end, stretch.end, None, sizes)]

    def _buffer(self, size: int) -> bytearray:
        """Return this thread's buffer, which has room for so many bytes."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = bytearray(max(size, self._block))
        return buffer
