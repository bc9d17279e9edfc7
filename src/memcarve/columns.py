"""Arithmetic on columns of ranges: starts and sizes of dtype uint64, a row a range, millions of rows.

What needs a temporary column works through the rows a chunk at a time, so that it costs no memory worth the name. An
end may be 2**64, which no column can hold: ``start + size - 1`` is compared instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import MapError, OverlapError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U64, Bools


CHUNK = 1 << 20
_LOW = np.uint64(0xFFFFFFFF)


def chunks(rows: int, size: int = CHUNK) -> Iterator[slice]:
    """Yield slices that cut a column of `rows` rows into chunks of `size`."""
    for low in range(0, rows, size):
        yield slice(low, min(low + size, rows))


def neighbours(rows: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the rows from the second on, and of the rows right before them."""
    for low in range(1, rows, CHUNK):
        end = min(low + CHUNK, rows)
        yield slice(low, end), slice(low - 1, end - 1)


def total(sizes: U64) -> int:
    """Return the sum of a column as an exact Python int, however large its members claim to be."""
    if not len(sizes) or int(sizes.max()) < (1 << 64) // len(sizes):
        return int(sizes.sum())
    return (int((sizes >> np.uint64(32)).sum()) << 32) + int((sizes & _LOW).sum())


def furthest(start: U64, size: U64) -> int:
    """Return the largest end of any range, 0 where there are none; no range may reach beyond 2**64 - 1."""
    return max((int((start[part] + size[part]).max()) for part in chunks(len(start))), default=0)


def ascending(column: U64) -> bool:
    """Say whether no member is smaller than the one before it."""
    return all(bool((column[here] >= column[before]).all()) for here, before in neighbours(len(column)))


def breaks(start: U64, size: U64) -> Bools:
    """Say for each range whether it does not begin where the one before it ends."""
    result = np.ones(len(start), np.bool_)
    for here, before in neighbours(len(start)):
        np.not_equal(start[here], start[before] + size[before], out=result[here])
    return result


def by_start(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64]:
    """Sort ranges and their offsets by `start`; the columns themselves where they are in order already."""
    if ascending(start):
        return start, size, offset
    order = np.argsort(start, kind="stable")
    return start[order], size[order], offset[order]


def check_disjoint(start: U64, size: U64) -> None:
    """Raise OverlapError where two of the ranges, sorted by `start`, share an address; MapError beyond 2**64."""
    for part in chunks(len(start)):
        if (start[part] + (size[part] - np.uint64(1)) < start[part]).any():
            raise MapError("a range reaches beyond the end of the address space")
    for here, before in neighbours(len(start)):
        bad = np.flatnonzero(start[here] <= start[before] + (size[before] - np.uint64(1)))
        if len(bad):
            first = before.start + int(bad[0])
            raise overlap(range_at(start, size, first), range_at(start, size, first + 1))


def joined(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64]:
    """Join ranges that continue each other both in `start` and in `offset`."""
    first = breaks(start, size)
    first |= breaks(offset, size)
    if first.all():
        return start, size, offset
    index = np.flatnonzero(first)
    return start[index], np.add.reduceat(size, index), offset[index]


def bytes_within(start: U64, size: U64, low: U64, last: U64) -> U64:
    """Return how many bytes of ranges, sorted and disjoint, lie in each of ``low <= x <= last`` (uint64)."""
    if not len(start):
        return np.zeros(len(low), np.uint64)
    sums = np.zeros(len(start) + 1, np.uint64)
    np.cumsum(size, out=sums[1:])

    def below(address: U64) -> U64:
        index = np.searchsorted(start, address, "left")
        before = np.maximum(index - 1, 0)
        inside = np.minimum(address - start[before], size[before])
        return sums[before] + np.where(index > 0, inside, np.uint64(0))

    held = np.searchsorted(start, last, "right") - 1
    own = np.maximum(held, 0)
    last_too = (held >= 0) & (last - start[own] < size[own])
    return below(last) - below(low) + last_too.astype(np.uint64)


def range_at(start: U64, size: U64, index: int) -> tuple[int, int]:
    """Return start and end of one range as Python ints."""
    return int(start[index]), int(start[index]) + int(size[index])


def overlap(one: tuple[int, int], other: tuple[int, int]) -> OverlapError:
    """Return the error that names two ranges, given as start and end, which claim one address."""
    address = max(one[0], other[0])
    return OverlapError(
        f"two rows claim the address 0x{address:x}: 0x{one[0]:x}-0x{one[1]:x} and 0x{other[0]:x}-0x{other[1]:x}",
        address,
    )


def union(start: U64, size: U64) -> tuple[U64, U64]:
    """Return the ranges, in order and touching ones joined, that ranges cover together; none of these has size 0."""
    if not len(start):
        return start, size
    order = np.argsort(start, kind="stable")
    start, last = start[order], (start + (size - np.uint64(1)))[order]
    reach = np.maximum.accumulate(last)
    first = np.ones(len(start), np.bool_)
    # a range that begins at 0 touches whatever comes before it
    first[1:] = (start[1:] > reach[:-1]) & (start[1:] - np.uint64(1) > reach[:-1])
    begins = np.flatnonzero(first)
    ends = np.append(begins[1:], len(start)) - 1
    return start[begins], reach[ends] - start[begins] + np.uint64(1)


def uncovered(start: U64, size: U64, covers: tuple[U64, U64]) -> tuple[U64, U64, I64]:
    """Return what of ranges the ranges `covers` (start, size) leave bare, and which range each part belongs to (int64).

    Both must be sorted and disjoint, and none of size 0.
    """
    one, top = np.uint64(1), np.array([(1 << 64) - 1], np.uint64)
    inner, inner_last = covers[0], covers[0] + (covers[1] - one)
    low = np.concatenate([np.zeros(1, np.uint64), inner_last + one])  # what covers nothing: before, between, behind
    high = np.concatenate([inner - one, top])
    bare = low <= high
    if len(inner):
        bare[0], bare[-1] = inner[0] != 0, inner_last[-1] != top[0]
    low, high = low[bare], high[bare]
    last = start + (size - one)
    first = np.searchsorted(last, low)
    count = np.searchsorted(start, high, "right") - first
    gap = np.repeat(np.arange(len(low)), count)
    own = np.arange(len(gap)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    begin = np.maximum(low[gap], start[own])
    return begin, np.minimum(high[gap], last[own]) - begin + one, own
