"""Words in a block of memory whose value is in some ranges: pointers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.searching.window import NOWHERE, Places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.dtypes import I64, U64
    from memcarve.patterns import Pointers
    from memcarve.searching.window import Window

_AT_ONCE = 1 << 16  # matches told at once


class PointerSearch:
    """Looks for words of one width, little-endian, that are in one of the ranges of some patterns.

    They are looked for at addresses that are multiples of the width, or `anywhere`.
    """

    before = 0

    def __init__(self, wanted: Sequence[Pointers], width: int, *, anywhere: bool, at_once: int = _AT_ONCE) -> None:
        top = 1 << 8 * width
        self._width = width
        self._dtype = np.dtype(f"<u{width}")
        self._anywhere = anywhere
        self._at_once = at_once
        #: of each pattern, the first and the last values of its ranges
        self._ranges = [
            [(np.uint64(low), np.uint64(min(high, top) - 1)) for low, high in each.ranges if low < min(high, top)]
            for each in wanted
        ]
        bounds = [pair for each in self._ranges for pair in each]
        self._low = min((int(low) for low, _ in bounds), default=0)
        self._high = max((int(last) for _, last in bounds), default=-1)
        self.after = width - 1
        self.in_zeros = self._high >= 0 and self._low == 0

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return every word that begins in the window."""
        if self._high < 0:
            return NOWHERE
        size = min(window.end + self.after, window.size) - window.begin
        aligned = -window.phase % self._width
        several = [self._near(buffer, window.begin, away, size) for away in self._aways(aligned) if away < size]
        place = np.concatenate([np.zeros(0, np.int64), *(each[0] for each in several)])
        value = np.concatenate([np.zeros(0, np.uint64), *(each[1] for each in several)])
        places, patterns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, ranges in enumerate(self._ranges):
            inside = np.zeros(len(value), np.bool_)
            for low, last in ranges:
                inside |= value - low <= last - low
            places.append(place[inside])
            patterns.append(np.full(len(places[-1]), number))
        place, pattern = np.concatenate(places), np.concatenate(patterns)
        order = np.lexsort((pattern, place))
        place, pattern = place[order], pattern[order]
        until = None
        if len(place) > self._at_once:
            until = max(int(place[self._at_once]), 1)
            place, pattern = (column[: np.searchsorted(place, until)] for column in (place, pattern))
        return Places(place, pattern, np.full(len(place), self._width), until)

    def _aways(self, aligned: int) -> Iterable[int]:
        return range(self._width) if self._anywhere else (aligned,)

    def _near(self, buffer: bytearray, begin: int, away: int, size: int) -> tuple[I64, U64]:
        """Return where words are that lie between all ranges' lowest and highest value, and these words (uint64)."""
        words = np.frombuffer(buffer, self._dtype, (size - away) // self._width, begin + away)
        low, span = self._dtype.type(self._low), self._dtype.type(self._high - self._low)
        at = np.flatnonzero(words - low <= span)
        return at * self._width + away, words[at].astype(np.uint64)
