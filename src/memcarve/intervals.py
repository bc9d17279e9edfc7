"""Intervals in columns, one per row, for anything with a start and a size; millions of rows are usual.

Intervals are half-open, and an end may be 2**64: addresses and offsets have 64 bits, and the last byte is as good as
any other. A uint64 column cannot hold that end. The rules:

- Columns hold `start` and `size`. A size is never 0, so the last address, ``start + (size - 1)``, exists and fits.
  Comparisons use that last address, or ``address - start < size``. ``start + size`` may wrap to 0; it is only compared
  with the start of another row, which comes after it and is therefore never 0.
- No column can hold the size of the whole address space (2**64 bytes): that one range is cut by a byte.
- An end is a Python int, computed one row at a time.

Temporary columns are made a chunk at a time, which bounds memory.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import MapError, OverlapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import I64, U64, ArrayOf, Bools, Whole


#: the end of the address space
TOP = 1 << 64
#: the smallest page of x86 processors, to which most sizes in memory are rounded
PAGE = 4096
CHUNK = 1 << 20
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


class Intervals:
    """Columns, one row per interval: `start`, `size` (uint64, never 0); `owner` (int64), what each row belongs to.

    An owner is usually an index into a list; by default each row is its own. Rows are in order of addresses and do not
    overlap, unless stated otherwise.
    """

    _owner: I64 | None = None

    def __init__(self, start: U64, size: U64, owner: I64 | None = None) -> None:
        self.start = start
        self.size = size
        self._owner = owner

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int]]) -> Intervals:
        """Return (start, size) pairs as columns, in the order given."""
        table = np.array([*rows], np.uint64).reshape(-1, 2)
        return Intervals(table[:, 0].copy(), table[:, 1].copy())

    def __len__(self) -> int:
        return len(self.start)

    @property
    def owner(self) -> I64:
        """What each row belongs to (int64)."""
        return np.arange(len(self)) if self._owner is None else self._owner

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of each row, as Python ints."""
        for part in chunks(len(self)):
            for start, size in zip(self.start[part].tolist(), self.size[part].tolist(), strict=True):
                yield start, start + size

    @property
    def last(self) -> U64:
        """The last address of each row (uint64)."""
        return self.start + (self.size - _ONE)

    @property
    def total(self) -> int:
        """The sum of the sizes, in bytes."""
        return total(self.size)

    def where(self, keep: Bools) -> Intervals:
        """Return the rows for which `keep` (bool, one per row) is true."""
        return Intervals(self.start[keep], self.size[keep], self.owner[keep])

    def at(self, address: int) -> int | None:
        """Return the row that holds an address, a Python int from 0 to 2**64 - 1; None if none does."""
        row = int(self.start.searchsorted(np.uint64(address), "right")) - 1
        return row if row >= 0 and address - int(self.start[row]) < int(self.size[row]) else None

    def rows_of(self, addresses: U64) -> I64:
        """Return the row that holds each address (int64), -1 if none does."""
        row = np.searchsorted(self.start, addresses, "right") - 1
        return np.where(self._holds(row, addresses), row, -1)

    def owners_of(self, addresses: U64) -> I64:
        """Return the owner of each address (int64), -1 if it lies in no row."""
        row = self.rows_of(addresses)
        return row if self._owner is None or not len(self) else np.where(row < 0, -1, self._owner[row])

    def touched(self, others: Intervals) -> tuple[I64, I64]:
        """Return for each of `others`, in any order, the first row that it touches and the one after the last (int64).

        The two are equal if it touches none.
        """
        begun = np.searchsorted(self.start, others.start, "right")
        return begun - self._holds(begun - 1, others.start), np.searchsorted(self.start, others.last, "right")

    def bytes_within(self, low: U64, last: U64) -> U64:
        """Return how many bytes of the rows lie in each of ``low <= x <= last`` (uint64)."""
        return self._below(last) - self._below(low) + (self.rows_of(last) >= 0)

    def intersect(self, other: Intervals, touched: tuple[I64, I64] | None = None) -> tuple[Intervals, I64]:
        """Return the addresses in both, with this one's owners, and for each the row of the other (int64).

        This one's rows may be in any order and overlap: the result follows their order, then the addresses. `touched`
        is ``other.touched(self)``, if known already.
        """
        first, end = touched or other.touched(self)
        mine, step = expand(end - first)
        theirs = first[mine] + step
        start = np.maximum(self.start[mine], other.start[theirs])
        size = np.minimum(self.last[mine], other.start[theirs] + (other.size[theirs] - _ONE)) - start + _ONE
        return Intervals(start, size, mine if self._owner is None else self._owner[mine]), theirs

    def subtract(self, other: Intervals) -> Intervals:
        """Return the addresses that are not in the other, with this one's owners; in the order of `intersect`.

        This one's rows may be in any order and overlap.
        """
        if not len(other):
            return Intervals(self.start, self.size, self.owner)
        # the gaps between the rows of the other, before the first and after the last
        low = np.concatenate([np.zeros(1, np.uint64), other.last + _ONE])
        size = np.append(other.start, np.uint64(0)) - low
        bare = size > 0
        return self.intersect(Intervals(low[bare], size[bare]))[0]

    @functools.cached_property
    def _sums(self) -> U64:
        """The bytes of the rows before each row, and of all rows, modulo 2**64: differences of two are exact."""
        sums = np.zeros(len(self) + 1, np.uint64)
        np.cumsum(self.size, out=sums[1:])
        return sums

    def _below(self, address: U64) -> U64:
        """Return how many bytes lie below each address."""
        begun = np.searchsorted(self.start, address, "left")
        if not len(self):
            return np.zeros(len(address), np.uint64)
        row = np.maximum(begun - 1, 0)
        inside = np.minimum(address - self.start[row], self.size[row])
        return self._sums[row] + np.where(begun > 0, inside, np.uint64(0))

    def _holds(self, row: I64, addresses: U64) -> Bools:
        """Return for each address (bool) whether `row`, the last one that begins at or before it, holds it."""
        if not len(self):
            return np.zeros(len(row), np.bool_)
        own = np.maximum(row, 0)
        return np.asarray((row >= 0) & (addresses - self.start[own] < self.size[own]))


def union(*parts: Intervals) -> Intervals:
    """Return the addresses in any of the rows, which may be in any order; touching rows are joined."""
    start, last = (
        np.concatenate([np.zeros(0, np.uint64), *columns])
        for columns in ([part.start for part in parts], [part.last for part in parts])
    )
    if not len(start):
        return Intervals(start, start)
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(last[order])
    first = np.ones(len(start), np.bool_)
    # a row that begins at 0 touches whatever comes before it
    first[1:] = (start[1:] > reach[:-1]) & (start[1:] - _ONE > reach[:-1])
    begins = np.flatnonzero(first)
    ends = np.append(begins[1:], len(start)) - 1
    longer = reach[ends] - start[begins]
    return Intervals(start[begins], longer + (longer < np.uint64(TOP - 1)))


def smallest_owner(start: U64, size: U64, rank: I64 | None = None) -> Intervals:
    """Divide ranges, in any order, so that none overlap: an address belongs to the smallest range that holds it.

    Given `rank`, it belongs to the range with the lowest rank instead; among equals to the first. `owner` is the row.
    """
    order = np.argsort(start, kind="stable")
    begin, last = start[order], (start + (size - _ONE))[order]
    if not (begin[1:] <= np.maximum.accumulate(last)[:-1]).any():
        return Intervals(begin, size[order], order)
    # rare: honest systems report no overlaps
    ends = [value + 1 for value in last.tolist()]
    ranks = (size if rank is None else rank)[order].tolist()
    waiting = [*zip(begin.tolist(), ranks, order.tolist(), ends, strict=True)][::-1]
    over: list[tuple[int, int, int]] = []  # rank, row and end of those that have begun
    pieces: list[tuple[int, int, int]] = []  # start, size and row
    for low, high in itertools.pairwise(sorted({*begin.tolist(), *ends})):
        while waiting and waiting[-1][0] == low:
            heapq.heappush(over, waiting.pop()[1:])
        while over and over[0][2] <= low:
            heapq.heappop(over)
        if over:
            row, before = over[0][1], pieces[-1] if pieces else (0, 0, -1)
            if before[2] == row and before[0] + before[1] == low:
                pieces[-1] = before[0], high - before[0], row
            else:
                pieces.append((low, high - low, row))
    table = Intervals.of((low, length) for low, length, _ in pieces)
    return Intervals(table.start, table.size, np.array([row for _, _, row in pieces], np.int64))


def distinct(column: ArrayOf[Whole]) -> ArrayOf[Whole]:
    """Return the different members of a column (or a table) of integers, in order, as `numpy.unique` does.

    That function imports `numpy.ma`, which takes longer than most of what a command does.
    """
    ordered = np.sort(column, axis=None)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def expand(count: I64) -> tuple[I64, I64]:
    """Return one row for each of ``count.sum()`` members: the index of its owner, and its number there (int64)."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)


def chunks(rows: int, size: int = CHUNK) -> Iterator[slice]:
    """Yield slices that cut a column of `rows` rows into chunks of `size`."""
    for low in range(0, rows, size):
        yield slice(low, min(low + size, rows))


def spread(rows: int, most: int) -> I64:
    """Return places among `rows` rows (int64), all if there are no more than `most`, else so many, evenly spread."""
    found: I64 = np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)
    return found


def neighbours(rows: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the rows from the second on, and of the rows right before them."""
    for low in range(1, rows, CHUNK):
        end = min(low + CHUNK, rows)
        yield slice(low, end), slice(low - 1, end - 1)


def total(sizes: U64) -> int:
    """Return the exact sum of a column as a Python int; the sum may exceed 64 bits."""
    if not len(sizes) or int(sizes.max()) < TOP // len(sizes):
        return int(sizes.sum())
    return (int((sizes >> np.uint64(32)).sum()) << 32) + int((sizes & _LOW).sum())


def furthest(start: U64, size: U64) -> int:
    """Return the largest end of any range, 0 if there are none; no range may reach beyond 2**64 - 1."""
    return max((int((start[part] + size[part]).max()) for part in chunks(len(start))), default=0)


def ascending(column: U64) -> bool:
    """Return True if no member is smaller than the one before it."""
    return all(bool((column[here] >= column[before]).all()) for here, before in neighbours(len(column)))


def breaks(size: U64, *columns: U64) -> Bools:
    """Return for each row (bool) whether it does not continue the row before it in all of `columns`, given `size`."""
    result = np.ones(len(size), np.bool_)
    for here, before in neighbours(len(size)):
        np.not_equal(columns[0][here], columns[0][before] + size[before], out=result[here])
        for column in columns[1:]:
            result[here] |= column[here] != column[before] + size[before]
    return result


def joined(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64]:
    """Join ranges that continue each other in both `start` and `offset`."""
    first = breaks(size, start, offset)
    if first.all():
        return start, size, offset
    index = np.flatnonzero(first)
    return start[index], np.add.reduceat(size, index), offset[index]


def by_start(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64]:
    """Sort ranges and their offsets by `start`; columns that are sorted already are returned as they are."""
    if ascending(start):
        return start, size, offset
    order = np.argsort(start, kind="stable")
    return start[order], size[order], offset[order]


def check_disjoint(start: U64, size: U64) -> None:
    """Raise OverlapError if two ranges, sorted by `start`, share an address, and MapError if one ends beyond 2**64."""
    for part in chunks(len(start)):
        if (start[part] + (size[part] - _ONE) < start[part]).any():
            raise MapError("a range reaches beyond the end of the address space")
    for here, before in neighbours(len(start)):
        bad = np.flatnonzero(start[here] <= start[before] + (size[before] - _ONE))
        if len(bad):
            first = before.start + int(bad[0])
            raise overlap(range_at(start, size, first), range_at(start, size, first + 1))


def range_at(start: U64, size: U64, index: int) -> tuple[int, int]:
    """Return start and end of one range as Python ints."""
    return int(start[index]), int(start[index]) + int(size[index])


def overlap(one: tuple[int, int], other: tuple[int, int]) -> OverlapError:
    """Return the error for two ranges, given as start and end, that share an address."""
    address = max(one[0], other[0])
    return OverlapError(
        f"two rows claim the address 0x{address:x}: 0x{one[0]:x}-0x{one[1]:x} and 0x{other[0]:x}-0x{other[1]:x}",
        address,
    )
