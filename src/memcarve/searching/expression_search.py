"""Regular expressions in a block of memory: where they match, as Python's `re` says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from memcarve.searching.expression_shape import Shape, byte_set
from memcarve.searching.window import NOWHERE, Places

if TYPE_CHECKING:
    from memcarve.patterns import Expression
    from memcarve.searching.window import Window

_AT_ONCE = 1 << 16  # matches told at once
_STRETCH = 16  # times the longest match is looked at in one go


class ExpressionSearch:
    """Looks for the matches of one expression that begin in a window, leftmost first and not overlapping.

    A match at a place is what ``match`` says of the bytes from there on, as many as a match may have and as many as it
    looks ahead; if that is too long, what it says of as many as a match may have. One that is empty is none. So it
    depends on `before` bytes before the place and `after` behind it, and on nothing else. Between two matches, and
    before the first, there is no place that matches; in a match there may be others. `ways` is about how often the
    engine may look at one place.
    """

    def __init__(self, wanted: Expression, at_once: int = _AT_ONCE) -> None:
        """Prepare a search; raises UsageError if the expression cannot be searched for in parts of memory."""
        shape = Shape(wanted.compiled)
        self._match = wanted.compiled.match
        self._most = wanted.most
        self._reach = wanted.most + shape.ahead
        self._at_once = at_once
        self._plain = shape.plain and not shape.empty
        self.before, self.after, self.in_zeros = shape.behind, self._reach - 1, shape.in_zeros
        self.ways = shape.ways
        self.loose = shape.loose
        if self._plain:
            self._search = wanted.compiled.search
        else:  # something easier, that matches wherever this one does
            easier = shape.loose or (byte_set(shape.starts) if shape.starts else b"(?!)")
            self._search = re.compile(easier, re.DOTALL).search

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return the matches that begin in the window; raises what `re` raises."""
        return self.among(buffer, window, [(window.begin, window.end)])

    def among(self, buffer: bytearray, window: Window, stretches: list[tuple[int, int]]) -> Places:
        """Return the matches in the window, given the stretches (start and end in the buffer) that they begin in."""
        found: list[tuple[int, int]] = []
        place = window.begin
        until = None
        for start, end in stretches:
            place = max(place, start)
            if place < end:
                place = self._chain(buffer, place, end, window.size, found)
            if len(found) > self._at_once:
                until = place - window.begin
                break
        if not found:
            return NOWHERE
        at, last = np.array(found, np.int64).T
        if until is not None and until >= window.end - window.begin:
            until = None
        return Places(at - window.begin, np.zeros(len(at), np.int64), last - at, until)

    def _chain(self, buffer: bytearray, place: int, end: int, size: int, found: list[tuple[int, int]]) -> int:
        """Add start and end of matches that begin from a place to an end, at most so many; return where it went on."""
        while place < end and len(found) <= self._at_once:
            limit = min(place + _STRETCH * self._most, end)
            next_one = self._search(buffer, place, min(limit + self._reach - 1, size))
            start = limit if next_one is None else next_one.start()
            if start >= limit:
                place = limit
                continue
            if next_one is not None and self._plain and next_one.end() - start <= self._most:
                last = next_one.end()
            else:
                last = self._end(buffer, start, size)
            if last > start:
                found.append((start, last))
                place = last
            else:
                place = start + 1
        return place

    def _end(self, buffer: bytearray, start: int, size: int) -> int:
        """Return the end of the match at a place; the place itself if there is none."""
        found = self._match(buffer, start, min(start + self._reach, size))
        if found is not None and found.end() - start > self._most:
            found = self._match(buffer, start, min(start + self._most, size))
        return start if found is None else found.end()
