"""Very many patterns of a fixed size in a block of memory, by a few bytes of each: if there is no automaton of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.searching.plain_search import PlainSearch
from memcarve.searching.window import NOWHERE, Places, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.searching.plain_search import Sought
    from memcarve.searching.window import Window

_AT_ONCE = 1 << 16  # places looked at, at once
_TABLE = 24  # bits of a table of which bytes are worth a look
_FACTOR = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: Knuth, The Art of Computer Programming, 6.4
_WIDTHS = (8, 4, 2)  # of keys
#: what of a byte counts: all, or all but what tells small from capital letters
_WHOLE, _FOLDED = 0xFF, 0xDF


class _Key(NamedTuple):
    """Bytes of a pattern that are looked for, `value`, and how far from its start they lie."""

    value: int
    away: int


class ByKeys:
    """Looks for patterns by `width` bytes of each; `folded`: without what tells small from capital letters."""

    before = 0

    def __init__(
        self, wanted: Sequence[Sought], keys: Sequence[_Key], width: int, *, folded: bool, at_once: int = _AT_ONCE
    ) -> None:
        self._wanted = wanted
        self._dtype = np.dtype(f"<u{width}")
        self._fold = self._dtype.type(int.from_bytes(bytes([_FOLDED if folded else _WHOLE]) * width, "little"))
        self._at_once = at_once
        self._size = np.array([len(each.data) for each in wanted], np.int64)
        value = np.array([key.value for key in keys], np.uint64)
        order = np.argsort(value, kind="stable")
        self._value, self._first, self._count = np.unique(value[order], return_index=True, return_counts=True)
        self._pattern = order
        self._away = np.array([key.away for key in keys], np.int64)
        self._hashed = min(_TABLE, 8 * width)
        self._factor = self._dtype.type(_FACTOR >> (64 - 8 * width))
        self._table = np.zeros(1 << self._hashed, np.bool_)
        self._table[self._hash(self._value.astype(self._dtype))] = True
        self.after = int(self._size.max()) - 1
        self.in_zeros = any(each.is_zero for each in wanted)

    def _hash(self, values: np.ndarray) -> np.ndarray:
        bits = 8 * self._dtype.itemsize
        return values if bits == self._hashed else (values * self._factor) >> self._dtype.type(bits - self._hashed)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return every match that begins in the window."""
        size = min(window.end + self.after, window.size) - window.begin
        if size < self._dtype.itemsize:
            return NOWHERE
        place, key = self._possible(buffer, window.begin, size)
        until = window.end - window.begin
        if len(place) > self._at_once:  # a part of the window is enough for now
            until = max(int(place[self._at_once]) - self.after, 1)
            place, key = (column[: np.searchsorted(place, until + self.after + 1)] for column in (place, key))
        found = [self._right(buffer, window.begin, size, place[part], key[part]) for part in self._parts(key)]
        start = np.concatenate([np.zeros(0, np.int64), *(each[0] for each in found)])
        pattern = np.concatenate([np.zeros(0, np.int64), *(each[1] for each in found)])
        keep = start < until
        start, pattern = start[keep], pattern[keep]
        order = np.lexsort((pattern, start))
        pattern = pattern[order]
        return Places(start[order], pattern, self._size[pattern], until if until < window.end - window.begin else None)

    def _parts(self, key: I64) -> Iterator[slice]:
        """Yield as many rows at a time as have a bounded number of patterns, or one row."""
        total = np.cumsum(self._count[key])
        low = 0
        while low < len(key):
            before = int(total[low - 1]) if low else 0
            high = max(int(np.searchsorted(total, before + self._at_once, "right")), low + 1)
            yield slice(low, high)
            low = high

    def _right(self, buffer: bytearray, begin: int, size: int, place: I64, key: I64) -> tuple[I64, I64]:
        """Return the places of patterns, and which, that are there, given where keys lie."""
        count = self._count[key]
        row = np.repeat(self._first[key] - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        pattern = self._pattern[row]
        start = np.repeat(place, count) - self._away[pattern]
        keep = (start >= 0) & (start + self._size[pattern] <= size)
        start, pattern = start[keep], pattern[keep]
        rows = zip(start.tolist(), pattern.tolist(), strict=True)
        right: Bools = np.array([self._wanted[each].at(buffer, begin + at) for at, each in rows], np.bool_)
        return start[right], pattern[right]

    def _possible(self, buffer: bytearray, begin: int, size: int) -> tuple[I64, I64]:
        """Return where any of the keys lie, relative to `begin` and in order, and which (rows of `_value`)."""
        width = self._dtype.itemsize
        places, keys = [], []
        for away in range(min(width, size - width + 1)):
            words = np.frombuffer(buffer, self._dtype, (size - away) // width, begin + away) & self._fold
            at = np.flatnonzero(self._table[self._hash(words)])
            value: U64 = words[at].astype(np.uint64)
            key = np.minimum(np.searchsorted(self._value, value), len(self._value) - 1)
            same = self._value[key] == value
            places.append(at[same] * width + away)
            keys.append(key[same])
        place = np.concatenate(places)
        order = np.argsort(place, kind="stable")
        return place[order], np.concatenate(keys)[order]


class KeySearch:
    """Looks for many patterns: by eight bytes of each that has so many in a row, else by four, or two, else by none."""

    before = 0

    def __init__(self, wanted: Sequence[Sought]) -> None:
        groups: dict[tuple[int, bool], tuple[list[int], list[_Key]]] = {}
        for number, each in enumerate(wanted):
            width, folded, key = _key_of(each)
            numbers, keys = groups.setdefault((width, folded), ([], []))
            numbers.append(number)
            keys.append(key)
        self._parts: list[tuple[I64, ByKeys | PlainSearch]] = []
        for (width, folded), (numbers, keys) in groups.items():
            own = [wanted[number] for number in numbers]
            search = ByKeys(own, keys, width, folded=folded) if width else PlainSearch(own)
            self._parts.append((np.array(numbers, np.int64), search))
        self.after = max(search.after for _, search in self._parts)
        self.in_zeros = any(search.in_zeros for _, search in self._parts)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return every match that begins in the window."""
        return numbered([(numbers, search(buffer, window)) for numbers, search in self._parts])


def _key_of(wanted: Sought) -> tuple[int, bool, _Key]:
    """Return how many bytes of a pattern to look for, whether folded, and which: not zeros, if there are others."""
    if wanted.mask is None and len(wanted.data) >= _WIDTHS[0]:  # as most are
        away = (len(wanted.data) - _WIDTHS[0]) // 2
        return _WIDTHS[0], False, _Key(int.from_bytes(wanted.data[away : away + _WIDTHS[0]], "little"), away)
    mask = wanted.mask or bytes([_WHOLE]) * len(wanted.data)
    for width in _WIDTHS:
        for folded in (False, True):
            enough = _FOLDED if folded else _WHOLE
            places = [
                at
                for at in range(len(mask) - width + 1)
                if all(bits & enough == enough for bits in mask[at : at + width])
            ]
            if places:
                away = max(places, key=lambda at: len({*wanted.data[at : at + width]} - {0}))
                data = bytes(byte & enough for byte in wanted.data[away : away + width])
                return width, folded, _Key(int.from_bytes(data, "little"), away)
    return 0, False, _Key(0, 0)
