"""Runs of UTF-16LE in a window's bytes, at even and at odd places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.hunting.strings.alphabets import ALPHABETS, PLAIN, WEAK, has_others, is_weak, units
from memcarve.hunting.strings.masks import leading, runs, trailing
from memcarve.hunting.strings.narrow import Runs

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, Bools
    from memcarve.hunting.strings.masks import Scratch

#: bytes of a unit
UNIT = 2


def wide_runs(data: U8, own: int, least: int, *, skip: int, scratch: Scratch) -> Runs:
    """Return the runs of code units that begin in the first `own` bytes, every other one from the one at `skip` on.

    They have at least `least` units (two or more), or touch one of the ends. Units side by side in a run share an
    alphabet.
    """
    count = max((min(own, len(data) - 1) - skip + 1) // UNIT, 0)
    if not count:
        nothing = np.zeros(0, np.int64)
        return Runs(nothing, nothing, *(nothing.astype(np.bool_) for _ in range(3)))
    kinds = scratch("kinds", count + 1)
    unit = data[skip : skip + UNIT * count].view("<u2")
    units().take(unit, mode="wrap", out=kinds[:count])
    kinds[count] = 0
    # whether a unit and the next one are of one text
    mask = scratch("mask", count + 1)
    together = mask[1:count]
    np.bitwise_and(kinds[: count - 1], kinds[1:count], out=together)
    np.bitwise_and(together, ALPHABETS, out=together)
    np.not_equal(together, 0, out=together.view(np.bool_))
    mask[0] = mask[count] = 0
    first = leading(together, least - 1) + 1 if kinds[0] & ALPHABETS else 0
    last = trailing(together, least - 1) + 1 if kinds[count - 1] & ALPHABETS else 0
    start, end = runs(mask, least - 1, scratch)
    start -= 1  # and the ends are a unit behind the last pair
    if 0 < first < least:
        start, end = np.append(0, start), np.append(first, end)
    if 0 < last < least and last < count:
        start, end = np.append(start, count - last), np.append(end, count)
    plain, good = np.ones(len(start), np.bool_), np.ones(len(start), np.bool_)
    if len(start):
        plain = np.bitwise_and.reduceat(kinds, np.stack([start, end], 1).ravel())[::2] & PLAIN != 0
    other = np.flatnonzero(~plain)
    if len(other):
        length = end[other] - start[other]
        good[other] = _look_like_text(kinds, start[other], length)
    return Runs(skip + UNIT * start, skip + UNIT * end, plain, (start > 0) & (end < count), good)


def _look_like_text(kinds: U8, start: I64, length: I64) -> Bools:
    """Return whether runs of units (int64) are not too weak (bool)."""
    first = np.cumsum(length) - length
    own = kinds[np.repeat(start - first, length) + np.arange(int(length.sum()))]
    weak, plain = (np.add.reduceat(own & bit != 0, first, dtype=np.int64) for bit in (WEAK, PLAIN))
    return ~is_weak(weak, length) | has_others(weak, plain, length)
