"""What is scanned in one go: a segment, a page, or all of a process; and which of them are the same."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import UnreadableError
from memcarve.intervals import PAGE, distinct, expand
from memcarve.searching.location_hashes import image_of, mixed, of_object
from memcarve.vocabulary import ScanUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import I64, U64
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

_PAGES = 1 << 18  # pages cut in one go
_ROWS = 1 << 16  # segments looked at in one go, and about as many extents


class Unit(NamedTuple):
    """`size` bytes from the address `start` in the segment at a `row`; or all segments one after another (row -1).

    Units with the same `key` have the same bytes.
    """

    row: int
    start: int
    size: int
    key: int


def units(space: AddressSpace, segments: Segments, by: str) -> Iterator[Unit]:
    """Yield what is scanned of segments in one go, in order; `by` is a vocabulary.ScanUnit.

    For regions, the segments must be split by them.
    """
    if by == ScanUnit.PROCESS:
        if len(segments):
            yield Unit(-1, int(segments.start[0]), segments.total, secrets.randbits(64))
        return
    for rows, each in _cut(space, segments, by == ScanUnit.PAGE):
        columns = rows, each.start, each.size, keys(space, each)
        yield from map(Unit, *(column.tolist() for column in columns))


def shared(parts: Iterable[tuple[AddressSpace, Segments]], by: str) -> U64:
    """Return the keys (uint64, sorted) of the units that several of some processes' memory have."""
    found = [np.zeros(0, np.uint64)]
    for space, segments in parts if by != ScanUnit.PROCESS else ():
        if space.physical is None:
            continue
        found += [keys(space, each) for _, each in _cut(space, segments, by == ScanUnit.PAGE)]
    both = np.concatenate(found)
    del found  # there may be many
    both.sort()
    return distinct(both[1:][both[1:] == both[:-1]])


def _cut(space: AddressSpace, segments: Segments, by_page: bool) -> Iterator[tuple[I64, Segments]]:  # noqa: FBT001
    """Yield segments some at a time, cut into pages or not, with the rows (int64) that they are of."""
    weight = segments.extents.astype(np.int64)
    if by_page:
        weight = np.maximum(weight, (segments.size >> np.uint64(12)).astype(np.int64))
    group = np.cumsum(weight) // (_PAGES if by_page else _ROWS)
    first = np.flatnonzero(group[1:] != group[:-1]) + 1
    for low, high in itertools.pairwise([0, *first.tolist(), len(segments)] if len(segments) else [0]):
        each = segments[low:high]
        if by_page:
            each = _pages(space, each)
        yield low + segments[low:high].rows_of(each.start) if by_page else np.arange(low, high), each


def _pages(space: AddressSpace, segments: Segments) -> Segments:
    """Return segments cut at every border of a page."""
    low = segments.start >> np.uint64(12)
    row, number = expand(((segments.last >> np.uint64(12)) - low).astype(np.int64))
    return space.cut(segments, (low[row] + np.uint64(1) + number.astype(np.uint64)) << np.uint64(12))


def keys(space: AddressSpace, segments: Segments) -> U64:
    """Return for each segment (uint64) what is the same for those that have the same bytes of the same image.

    If it is no image's memory, no two are the same.
    """
    if space.physical is None:
        return mixed(np.arange(len(segments), dtype=np.uint64) + np.uint64(secrets.randbits(64)))
    row, number = expand(segments.extents.astype(np.int64))
    held = segments.first[row].astype(np.int64) + number
    begin = np.maximum(space.start[held], segments.start[row])
    offset = space.offset[held] + (begin - space.start[held])
    away = begin - segments.start[row]
    numbers = mixed(mixed(away) + offset)
    # what only goes on where the extent before ended says nothing
    goes_on = np.zeros(len(held), np.bool_)
    goes_on[1:] = (number[1:] > 0) & (offset[1:] - offset[:-1] == begin[1:] - begin[:-1])
    numbers[goes_on] = 0
    sums = np.append(np.uint64(0), np.cumsum(numbers, dtype=np.uint64))
    ends = np.cumsum(segments.extents, dtype=np.int64)
    found: U64 = sums[ends] - sums[ends - segments.extents] + mixed(segments.size + of_object(image_of(space)))
    return found


class Laid:
    """A unit's bytes by their positions: from 0, one segment after the other."""

    def __init__(self, space: AddressSpace, segments: Segments, unit: Unit) -> None:
        self._space = space
        self._segments = segments
        self._unit = unit
        self._whole = unit.row < 0
        self._ends = np.cumsum(segments.size[: None if self._whole else 0], dtype=np.uint64)

    def at(self, position: int) -> tuple[int, int]:
        """Return the row of the segment, and the address, of the byte at a position."""
        if not self._whole:
            return self._unit.row, self._unit.start + position
        row = int(np.searchsorted(self._ends, np.uint64(position), "right"))
        return row, self._begin(row) + position

    def is_consecutive(self, position: int, size: int) -> bool:
        """Return True if so many bytes from a position on are consecutive in memory."""
        return not self._whole or self.at(position)[0] == self.at(position + max(size, 1) - 1)[0]

    def _begin(self, row: int) -> int:
        """Return the address minus the position of a segment's bytes."""
        return int(self._segments.start[row]) - (int(self._ends[row]) - int(self._segments.size[row]))

    def stretches(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Yield position, address and size of what is consecutive in memory between two positions."""
        if not self._whole:
            yield low, self._unit.start + low, high - low
            return
        row = int(np.searchsorted(self._ends, np.uint64(low), "right"))
        while low < high:
            end = min(int(self._ends[row]), high)
            yield low, self._begin(row) + low, end - low
            low, row = end, row + 1

    def read_into(self, low: int, view: memoryview) -> None:
        """Fill a view with the bytes from a position on; raises UnreadableError, SourceReadError."""
        for position, address, size in self.stretches(low, low + len(view)):
            self._space.read_into(address, view[position - low : position - low + size])

    def unreadable(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return positions, start and end, of what cannot be read, after reading has failed; never nothing."""
        lost: list[tuple[int, int]] = []
        for position, address, size in self.stretches(low, high):
            if not self._whole or self._fails(address, size):
                found = self._space.unreadable(address, address + size)
                lost += [(start - address + position, end - address + position) for start, end in found]
        return lost or [(low, high)]

    def _fails(self, address: int, size: int) -> bool:
        buffer = memoryview(bytearray(min(size, 256 * PAGE)))
        try:
            for begin in range(address, address + size, len(buffer)):
                self._space.read_into(begin, buffer[: min(len(buffer), address + size - begin)])
        except UnreadableError:
            return True
        return False
