"""Runs of ASCII and UTF-8 in a window's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.hunting.strings.alphabets import printable
from memcarve.hunting.strings.masks import leading, near_runs, runs, trailing

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, Bools
    from memcarve.hunting.strings.masks import Scratch

#: bytes of a character behind its first one
BEHIND = 3
#: what of a first byte belongs to the character, and the least character that needs so many bytes behind it
_FIRST = np.array([0x7F, 0x1F, 0x0F, 0x07], np.int64)
_LEAST = np.array([0, 0x80, 0x800, 0x10000], np.int64)
_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
#: first bytes: the least of all, how many there are from it on, and the least that has two or three bytes behind it
_LEAD, _LEADS, _OF_THREE, _OF_FOUR = 0xC2, 0x33, 0xE0, 0xF0
#: bytes behind the first: what tells them, which bits of it, the bits of the character, and how many
_MARK, _MARKED, _REST, _SHIFT = 0x80, 0xC0, 0x3F, 6
_NEAR = 8  # bytes that must be text around a character, at most
_PLANE = 16  # bits of a character in its plane
#: the printable bytes of ASCII: the first, how many there are, and the tab
_SPACE, _SIGNS, _TAB = 0x20, 0x5F, 0x09


class Runs(NamedTuple):
    """Runs in a window: `start` and `end` (int64) in bytes, and whether they are `plain` (bool), of ASCII alone.

    Those that are not `whole` (bool) touch what lies before or behind the window, and may be shorter than it is asked.
    Those that are not `good` (bool) look like something else.
    """

    start: I64
    end: I64
    plain: Bools
    whole: Bools
    good: Bools

    def spans(self, rows: I64) -> list[tuple[int, int]]:
        """Return start and end of some runs (int64)."""
        return [*zip(self.start[rows].tolist(), self.end[rows].tolist(), strict=True)]

    def without(self, rows: I64) -> Runs:
        """Return all runs but some (int64)."""
        keep = np.ones(len(self.start), np.bool_)
        keep[rows] = False
        start, end, plain, whole, good = self
        return Runs(start[keep], end[keep], plain[keep], whole[keep], good[keep])


def narrow_runs(data: U8, own: int, least: int, *, utf8: bool, scratch: Scratch) -> Runs:
    """Return the runs of ASCII, or of UTF-8, that are made of the characters beginning in the first `own` bytes.

    They have at least `least` characters, or touch one of the ends.
    """
    mask = scratch("mask", len(data) + 2)
    inner = mask[1:-1]
    np.subtract(data, _SPACE, out=inner)
    np.less(inner, _SIGNS, out=inner.view(np.bool_))
    tab = scratch("there", len(data))
    np.equal(data, _TAB, out=tab.view(np.bool_))
    np.bitwise_or(inner, tab, out=inner)
    places, behind = _beyond(data, inner, own, least, scratch) if utf8 else (np.zeros(0, np.int64),) * 2
    mask[0] = 0
    mask[own + 1 :] = 0
    for away in range(BEHIND + 1 if len(places) else 0):
        inner[places[behind >= away] + away] = 1
    border = BEHIND if utf8 else 0
    # the ends first: to find runs spoils the mask
    first, last = _first(inner, border, least), _last(inner, own, least)
    start, end = runs(mask, least, scratch)
    start, end = start - 1, end - 1
    if first is not None:
        start, end = np.append(first[0], start), np.append(first[1], end)
    if last is not None and last != first:
        start, end = np.append(start, last[0]), np.append(end, last[1])
    whole = (start > border) & (end < own)
    if not len(places):
        yes = np.ones(len(start), np.bool_)
        return Runs(start, end, yes, whole, yes)
    low, high = np.searchsorted(places, start), np.searchsorted(places, end)
    sums = np.append(0, np.cumsum(behind))
    keep = ~whole | (end - start - (sums[high] - sums[low]) >= least)
    start = start[keep]
    return Runs(start, end[keep], (low == high)[keep], whole[keep], np.ones(len(start), np.bool_))


def _first(inner: U8, border: int, least: int) -> tuple[int, int] | None:
    """Return start and end of a run that touches the beginning, if it is short."""
    start = inner[: border + 1].tobytes().find(b"\1")
    if start < 0:
        return None
    size = leading(inner[start:], least)
    return None if size >= least else (start, start + size)


def _last(inner: U8, own: int, least: int) -> tuple[int, int] | None:
    """Return start and end of a run that touches the end, if it is short."""
    if not own or not inner[own - 1]:
        return None
    end = own + leading(inner[own:], BEHIND)
    size = trailing(inner[:end], least)
    return None if size >= least else (end - size, end)


def _beyond(data: U8, plain: U8, own: int, least: int, scratch: Scratch) -> tuple[I64, I64]:
    """Return where printable characters beyond ASCII begin in the first `own` bytes, and how many bytes follow each.

    Both are int64. They are well-formed: Unicode 15, table 3-7. Some are left out that cannot be in a run of `least`
    characters. `plain` says which bytes are printable ASCII.
    """
    size = len(data)
    if min(own, size - 1) <= 0:
        return (np.zeros(0, np.int64),) * 2
    first, behind = scratch("first", size), scratch("second", size)
    np.subtract(data, _LEAD, out=first)
    np.less(first, _LEADS, out=first.view(np.bool_))
    np.bitwise_and(data, _MARKED, out=behind)
    np.equal(behind, _MARK, out=behind.view(np.bool_))
    # what may belong to a character: ASCII, a first byte, and one behind a first one or behind another
    width = min(least, _NEAR)
    around = scratch("around", size + 2 * width)
    around[:width] = around[size + width :] = 1  # a run may go on there
    may = around[width : size + width]
    np.bitwise_or(first[:-1], behind[:-1], out=may[1:])
    may[0] = 1
    np.bitwise_and(may, behind, out=may)
    np.bitwise_and(first[:-1], behind[1:], out=first[:-1])
    np.bitwise_or(may, first, out=may)
    np.bitwise_or(may, plain, out=may)
    first[min(own, size - 1) :] = 0
    near = near_runs(around, width, scratch)[width : size + width]
    np.bitwise_and(first, near, out=first)
    places = np.flatnonzero(first.view(np.bool_))
    lead = data[places]
    good = np.zeros(len(places), np.bool_)
    short = lead < _OF_THREE
    here = places[short]
    code = (lead[short] & np.uint8(_FIRST[1])).astype(np.uint16) << _SHIFT | (data[here + 1] & _REST)
    good[short] = printable(0)[code]
    count = np.ones(len(places), np.int64)
    longer = np.flatnonzero(~short)
    count[longer] += 1 + (lead[longer] >= _OF_FOUR)
    longer = longer[places[longer] + count[longer] < size]
    good[longer] = _are_printable(data, places[longer], count[longer])
    return places[good], count[good]


def _are_printable(data: U8, places: I64, behind: I64) -> Bools:
    """Return whether characters of three and four bytes begin at places (int64) that are printable (bool)."""
    code = data[places] & _FIRST[behind]
    good = np.ones(len(places), np.bool_)
    for away in range(1, BEHIND + 1):
        more = np.flatnonzero(behind >= away)
        byte = data[places[more] + away]
        good[more] &= (byte & _MARKED) == _MARK
        code[more] = code[more] << _SHIFT | (byte & _REST)
    good &= (code >= _LEAST[behind]) & (code <= _LAST)
    good &= (code < _SURROGATES.start) | (code >= _SURROGATES.stop)
    planes = code >> _PLANE
    for plane in range(int(planes[good].max(initial=-1)) + 1):
        here = np.flatnonzero(good & (planes == plane))
        if len(here):
            good[here] = printable(plane)[code[here] & ((1 << _PLANE) - 1)]
    return good
