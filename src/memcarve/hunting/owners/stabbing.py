"""Which of many ranges hold a number: ranges that may overlap and nest in any way, asked millions of times.

Ranges are put into classes by size: class c has those of ``2**c <= size < 2**(c + 1)`` bytes. Numbers are cut into
cells of ``2**c``, so that a range of the class touches three cells at most, and covers one of them whole at most. A
range holds a number q of a cell in one of three ways, and no other:

- it begins in the cell, at or before q: being as long as the cell, it cannot end before q;
- it begins in another cell and ends in this one, at or after q;
- it begins before the cell and ends behind it.

Sorted by first number, by last number and by the covered cell, each of these is a run of rows between two binary
searches. So the time is that of the searches and of the answers, however ranges are nested; how many hold a number
is known without looking at them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import chunks, expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U32, U64

_ONE = np.uint64(1)
_POINTS = 1 << 15  # numbers looked up in one go
_PAIRS = 1 << 20  # ranges that hold them, gathered in one go
_LONG = 16  # rows with one key from which on those of different kinds come first


class Held(NamedTuple):
    """Which ranges hold numbers.

    `counts` (int64, one per number): how many ranges hold it. A row for each range that is told: `point`, the place of
    the number among those asked (int64, ascending), and `row`, that of the range (int64, ascending for each number).
    """

    counts: I64
    point: I64
    row: I64


class _Sorted(NamedTuple):
    """Rows of a class sorted by a key; `way` says which of the three ways of the module's docstring it is for."""

    size_class: int
    way: int
    key: U64
    row: U32


class Stabbing:
    """Ranges in any order, overlapping or not: `start` and `size` (uint64, sizes not 0, none beyond 2**64).

    `kind` (integers, one per row) divides them: if not all that hold a number are told, some of every kind are told
    rather than many of one, as far as ranges with the same bounds go. Takes 12 to 36 bytes a row, and more while it is
    made.
    """

    def __init__(self, start: U64, size: U64, kind: np.ndarray | None = None) -> None:
        self.rows = len(start)
        self.kind = kind
        self._lists: list[_Sorted] = []
        classes = _classes(size)
        for number in np.flatnonzero(np.bincount(classes, minlength=1)).tolist():
            chosen = np.flatnonzero(classes == number).astype(np.uint32)
            self._add(number, 0, start[chosen], chosen)
            crossing: list[tuple[U32, U32]] = []  # few of most ranges are: pages begin cells
            for part in chunks(len(chosen)):
                first, last = _cells(start[chosen[part]], size[chosen[part]], number)
                crossing.append((chosen[part][last > first], chosen[part][last - first > _ONE]))
            ends, middles = (np.concatenate(each) for each in zip(*crossing, strict=True))
            self._add(number, 1, start[ends] + (size[ends] - _ONE), ends)
            self._add(number, 2, _cells(start[middles], size[middles], number)[0] + _ONE, middles)

    def __len__(self) -> int:
        return self.rows

    def _add(self, number: int, way: int, key: U64, rows: U32) -> None:
        if not len(rows):
            return
        order = np.argsort(key, kind="stable")
        key, rows = key[order], rows[order]
        if self.kind is not None:
            rows = _mixed(key, rows, self.kind)
        self._lists.append(_Sorted(number, way, key, rows))

    def holders(self, points: U64, most: int) -> Held:
        """Return which ranges hold numbers (uint64, in any order), at most `most` of them for each."""
        order = np.argsort(points, kind="stable")
        count = np.zeros(len(points), np.int64)
        pairs: list[tuple[I64, I64]] = []
        for part in chunks(len(points), _POINTS):
            chosen = order[part]
            unique, inverse = np.unique(points[chosen], return_inverse=True)
            numbers, found = self._chunk(unique, most)
            count[chosen] = numbers[inverse]
            # each number's rows lie together: they are given to all who asked for it
            kept = np.bincount(found[0], minlength=len(unique))
            begin = np.cumsum(kept) - kept
            own, step = expand(kept[inverse])
            pairs.append((chosen[own], found[1][begin[inverse][own] + step]))
        point, row = (np.concatenate([np.zeros(0, np.int64), *column]) for column in _columns(pairs))
        by_point = np.argsort(point, kind="stable")
        return Held(count, point[by_point], row[by_point])

    def _chunk(self, points: U64, most: int) -> tuple[I64, tuple[I64, I64]]:
        """Return how many ranges hold each of some sorted numbers, and which; sorted by number and row."""
        count = np.zeros(len(points), np.int64)
        runs: list[tuple[U32, I64, I64, I64]] = []  # rows of a list; number, first in the list, how many
        for each in self._lists:
            low, high = _run(each, points)
            length = high - low
            there = np.flatnonzero(length)
            if len(there):
                count[there] += length[there]
                runs.append((each.row, there, low[there], np.minimum(length[there], most)))
        pairs = [_least(*self._gathered(runs, low, end), most, self.kind) for low, end in _groups(len(points), runs)]
        point, row = (np.concatenate([np.zeros(0, np.int64), *column]) for column in _columns(pairs))
        return count, (point, row)

    def _gathered(self, runs: list[tuple[U32, I64, I64, I64]], low: int, end: int) -> tuple[I64, I64]:
        """Return the pairs of number and row of the runs for the numbers from `low` on, before `end`."""
        pairs: list[tuple[I64, I64]] = []
        for rows, there, first, length in runs:
            part = slice(*np.searchsorted(there, (low, end)).tolist())
            own, step = expand(length[part])
            pairs.append((there[part][own], rows[first[part][own] + step].astype(np.int64)))
        point, row = (np.concatenate([np.zeros(0, np.int64), *column]) for column in _columns(pairs))
        return point, row


def _columns(pairs: list[tuple[I64, I64]]) -> tuple[list[I64], list[I64]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def _classes(size: U64) -> np.ndarray:
    """Return the place of the highest bit of each size, which is not 0 (int8)."""
    found = np.empty(len(size), np.int8)
    for part in chunks(len(size)):
        about = np.minimum(np.frexp(size[part].astype(np.float64))[1] - 1, 63)  # rounded up near a power of two
        found[part] = about - ((_ONE << about.astype(np.uint64)) > size[part])
    return found


def _cells(start: U64, size: U64, number: int) -> tuple[U64, U64]:
    """Return in which cells of a class ranges begin and end."""
    shift = np.uint64(number)
    return start >> shift, (start + (size - _ONE)) >> shift


def _run(each: _Sorted, points: U64) -> tuple[I64, I64]:
    """Return for each number where in a list the rows begin and end that hold it."""
    shift = np.uint64(each.size_class)
    cell = points >> shift
    if each.way == 0:
        bounds = np.searchsorted(each.key, cell << shift), np.searchsorted(each.key, points, "right")
    elif each.way == 1:
        last = (cell << shift) + ((_ONE << shift) - _ONE)
        bounds = np.searchsorted(each.key, points), np.searchsorted(each.key, last, "right")
    else:
        bounds = np.searchsorted(each.key, cell), np.searchsorted(each.key, cell, "right")
    return bounds


def _groups(points: int, runs: list[tuple[U32, I64, I64, I64]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of numbers with about `_PAIRS` rows in all; one number may have more."""
    total = np.zeros(points, np.int64)
    for _, there, _, length in runs:
        total[there] += length
    sums = np.cumsum(total)
    low = 0
    while low < points:
        before = int(sums[low - 1]) if low else 0
        end = max(low + 1, int(np.searchsorted(sums, before + _PAIRS, "right")))
        yield low, end
        low = end


def _least(point: I64, row: I64, most: int, kind: np.ndarray | None) -> tuple[I64, I64]:
    """Return at most `most` pairs for each number, sorted: the first of each kind before the second of any."""
    order = np.lexsort((row, point))
    point, row = point[order], row[order]
    if not len(point) or int(np.bincount(point).max()) <= most:
        return point, row
    rank = np.zeros(len(point), np.int64) if kind is None else _again(point, kind[row])
    order = np.lexsort((row, rank, point))
    point, row = point[order], row[order]
    keep = _place_in_run(point) < most
    point, row = point[keep], row[keep]
    order = np.lexsort((row, point))
    return point[order], row[order]


def _place_in_run(sorted_keys: np.ndarray) -> I64:
    """Return for each row its place among the neighbours with the same key."""
    first = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1]))
    length = np.diff(np.append(first, len(sorted_keys)))
    return np.arange(len(sorted_keys)) - np.repeat(first, length)


def _again(key: np.ndarray, kind: np.ndarray) -> I64:
    """Return for each row how many with the same key and the same kind come before it."""
    order = np.lexsort((kind, key))
    same_key, same_kind = key[order], kind[order]
    new = np.append(True, (same_key[1:] != same_key[:-1]) | (same_kind[1:] != same_kind[:-1]))
    result = np.empty(len(key), np.int64)
    result[order] = _place_in_run(np.cumsum(new))
    return result


def _mixed(key: U64, rows: U32, kind: np.ndarray) -> U32:
    """Return rows, sorted by key, so that of many with one key the first of each kind come first."""
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    length = np.diff(np.append(first, len(key)))
    if int(length.max()) < _LONG:
        return rows
    long = np.flatnonzero(np.repeat(length >= _LONG, length))
    order = np.lexsort((rows[long], _again(key[long], kind[rows[long]]), key[long]))
    mixed = rows.copy()
    mixed[long] = rows[long][order]
    return mixed
