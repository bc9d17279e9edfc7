"""Patterns in a block of memory by an automaton: of a fixed size exactly, expressions as far as to skip blocks."""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING

import numpy as np

from memcarve.searching.automaton import automaton
from memcarve.searching.expression_shape import byte_set
from memcarve.searching.window import NOWHERE, Places, numbered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import I64
    from memcarve.searching.automaton import Automaton
    from memcarve.searching.expression_search import ExpressionSearch
    from memcarve.searching.plain_search import Sought
    from memcarve.searching.window import Window

_AT_ONCE = 1 << 16  # matches told at once
_CORE = 256  # bytes of a long pattern that are looked for
_BLOCK = 1 << 16  # bytes that are skipped or looked at
_BITS = 20  # of a pattern's number
_NUMBERS = (1 << _BITS) - 1
_ALL_BITS = 0xFF


class FastFixed:
    """Looks for patterns of a fixed size all at once."""

    before = 0

    def __init__(self, wanted: Sequence[Sought], found: Automaton, at_once: int = _AT_ONCE) -> None:
        """Take patterns, and the automaton of their `cores`."""
        self._wanted = wanted
        self._automaton = found
        self._at_once = max(at_once, len(wanted) + 1)
        self._size = np.array([len(each.data) for each in wanted], np.int64)
        self._core_end = np.array([_core(each) + min(len(each.data), _CORE) for each in wanted], np.int64)
        self.after = int(self._size.max()) - 1
        self.in_zeros = any(each.is_zero for each in wanted)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return every match that begins in the window."""
        size = min(window.end + self.after, window.size) - window.begin
        view = memoryview(buffer)[window.begin : window.begin + size]
        at_once = self._at_once
        while True:
            core_end, pattern, whole = self._cores(view, at_once)
            if not len(pattern):
                return NOWHERE
            # all that ends before the last one was told
            until = window.end - window.begin if whole else int(core_end[-1]) - 1 - self.after
            if until > 0:
                break
            at_once *= 2
        place = core_end - self._core_end[pattern]
        keep = (place >= 0) & (place < until) & (place + self._size[pattern] <= size)
        place, pattern = place[keep], pattern[keep]
        long = np.flatnonzero(self._size[pattern] > _CORE)
        if len(long):
            rows = zip(place[long].tolist(), pattern[long].tolist(), strict=True)
            other = [not self._wanted[number].at(buffer, window.begin + at) for at, number in rows]
            place, pattern = np.delete(place, long[other]), np.delete(pattern, long[other])
        order = np.lexsort((pattern, place))
        pattern = pattern[order]
        return Places(place[order], pattern, self._size[pattern], None if whole else until)

    def _cores(self, view: memoryview, at_once: int) -> tuple[I64, I64, bool]:
        """Return where cores end and of which patterns they are, in order of ends, and whether these are all."""
        found = array("Q")

        def told(number: int, end: int) -> bool:
            found.append(end << _BITS | number)
            return len(found) > at_once

        whole = self._automaton.scan(view, told)
        if not found:  # as in most of memory
            return NOWHERE.place, NOWHERE.pattern, whole
        column = np.array(found, np.uint64)
        return (column >> np.uint64(_BITS)).astype(np.int64), (column & np.uint64(_NUMBERS)).astype(np.int64), whole


def fast_fixed(wanted: Sequence[Sought]) -> FastFixed | None:
    """Return a search for patterns all at once; None if there is no automaton for them."""
    found = automaton([core_expression(each) for each in wanted])
    return None if found is None else FastFixed(wanted, found)


def core_expression(wanted: Sought) -> bytes:
    """Return an expression for a pattern, or the part of it that is looked for."""
    low = _core(wanted)
    data = wanted.data[low : low + _CORE]
    mask = bytes(_ALL_BITS for _ in data) if wanted.mask is None else wanted.mask[low : low + _CORE]
    return b"".join(
        b"\\x%02x" % byte if bits == _ALL_BITS else byte_set(_bytes_like(byte, bits))
        for byte, bits in zip(data, mask, strict=True)
    )


@functools.cache
def _bytes_like(byte: int, bits: int) -> tuple[int, ...]:
    return tuple(each for each in range(256) if each & bits == byte)


def _core(wanted: Sought) -> int:
    """Return where the part of a pattern begins that says most: which has the most different bytes."""
    places = range(0, max(len(wanted.data) - _CORE, 0) + 1, _CORE // 4)
    return max(places, key=lambda low: len({*wanted.data[low : low + _CORE]}), default=0)


class FastExpressions:
    """Looks for expressions in those blocks alone that an automaton does not rule out."""

    def __init__(self, searches: Sequence[ExpressionSearch], found: Sequence[tuple[Sequence[int], Automaton]]) -> None:
        """Take searches, and automata of what is `loose` of them, each with the numbers of those it is of."""
        self._searches = searches
        self._found = found
        self._others = {*range(len(searches))} - {number for numbers, _ in found for number in numbers}
        self.before = max(each.before for each in searches)
        self.after = max(each.after for each in searches)
        self.in_zeros = any(each.in_zeros for each in searches)
        self._block = max(_BLOCK, 4 * self.after)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return the matches that begin in the window."""
        stretches = self._possible(buffer, window)
        whole = [(window.begin, window.end)]
        return numbered(
            [
                (number, search.among(buffer, window, whole if number in self._others else stretches[number]))
                for number, search in enumerate(self._searches)
                if number in self._others or number in stretches
            ]
        )

    def _possible(self, buffer: bytearray, window: Window) -> dict[int, list[tuple[int, int]]]:
        """Return where matches may begin, start and end in the buffer, by the expressions' numbers."""
        found: dict[int, list[tuple[int, int]]] = {}
        view = memoryview(buffer)
        for low in range(window.begin, window.end, self._block):
            high = min(low + self._block, window.end)
            block = view[low : min(high + self.after, window.size)]
            for numbers, each in self._found:

                def told(
                    row: int, end: int, numbers: Sequence[int] = numbers, low: int = low, high: int = high
                ) -> None:
                    # what begins earlier would have ended earlier
                    start = max(low, low + end - self._searches[numbers[row]].after - 1)
                    if start < high:
                        found.setdefault(numbers[row], []).append((start, high))

                each.scan(block, told)
        return found


def fast_expressions(searches: Sequence[ExpressionSearch]) -> FastExpressions | None:
    """Return a search for expressions all at once; None if there is no automaton for any."""
    able = [number for number, search in enumerate(searches) if search.loose is not None]
    found = _automata(able, [search.loose or b"" for search in searches])
    return FastExpressions(searches, found) if found else None


def _automata(numbers: Sequence[int], expressions: Sequence[bytes]) -> list[tuple[Sequence[int], Automaton]]:
    """Return automata for as many expressions as they can be made for, and the numbers of these."""
    if not numbers:
        return []
    one = automaton([expressions[number] for number in numbers], once=True)
    if one is not None:
        return [(numbers, one)]
    half = len(numbers) // 2
    return [*_automata(numbers[:half], expressions), *_automata(numbers[half:], expressions)] if half else []
