"""Base relocations of PE images: where the loader adds how far an image lies from the address that it was linked for.

Source: Microsoft, "PE Format", "The .reloc Section".
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.dtypes import I64

_HEAD = 8  # of a block: address of its page, and size
_LARGEST = 1 << 24  # bytes of a directory
_EVERYWHERE = 1 << 32
#: how many bytes are relocated, by the type of an entry: IMAGE_REL_BASED_HIGHLOW and IMAGE_REL_BASED_DIR64
_WIDTHS = {3: 4, 10: 8}


class Relocations:
    """What is relocated in each page of an image, by its number there, as far as its directory can be read."""

    def __init__(self, read: Callable[[int, int], bytes | None], directory: tuple[int, int]) -> None:
        """Read a directory, given by relative address and size; `read` returns bytes of the image, or None."""
        self._blocks: dict[int, I64] = {}
        #: pages below this one are known
        self._known = 0
        address, size = directory
        if not address or not _HEAD <= size <= _LARGEST:
            return
        at, end = address, address + size
        while at + _HEAD <= end and (head := read(at, _HEAD)) is not None:
            place, length = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
            # linkers write blocks in the order of their pages
            if place % PAGE or place // PAGE < self._known or not _HEAD <= length <= end - at or length % 2:
                return
            body = read(at + _HEAD, length - _HEAD)
            if body is None:
                return
            self._blocks[place // PAGE] = np.frombuffer(body, "<u2").astype(np.int64)
            self._known = place // PAGE + 1
            at += length
        if at >= end:
            self._known = _EVERYWHERE

    def of(self, page: int) -> Sequence[tuple[int, int]] | None:
        """Return place and width (4 or 8 bytes) of all that is relocated in a page; None if that is not known.

        A place may be negative, if what begins in the page before reaches into this one; or reach into the next. Places
        that overlap, or come twice, no linker makes: added together they would explain any change, so that nothing is
        known of such a page.
        """
        if page >= self._known:
            return None
        found = []
        for number, shift in ((page - 1, PAGE), (page, 0)):
            entries = self._blocks.get(number, _NOTHING)
            for kind, width in _WIDTHS.items():
                places = (entries[entries >> 12 == kind] & (PAGE - 1)) - shift
                found += [(place, width) for place in places[places > -width].tolist()]
        found.sort()
        overlap = any(place + width > after for (place, width), (after, _) in itertools.pairwise(found))
        return None if overlap else found


_NOTHING = np.zeros(0, np.int64)


def unrelocated(page: bytes, base: int, places: Sequence[tuple[int, int]]) -> bytes:
    """Return a page as it would be of an image at 0; what is only partly in the page becomes zeros."""
    found = bytearray(page)
    for place, width in places:
        low, high = max(place, 0), min(place + width, len(page))
        if high - low < width:
            found[low:high] = bytes(high - low)
        else:
            value = int.from_bytes(page[low:high], "little") - base
            found[low:high] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(found)


def differ_by_bases(one: bytes, other: bytes, one_base: int, other_base: int) -> bool:
    """Return True if two pages differ only in numbers that each differ by exactly what the bases do.

    That is for images whose relocations are not known. Numbers have 4 bytes if both images lie below 4 GiB, else 8. One
    that is cut by the page's beginning or end counts if its part fits.
    """
    width = 4 if max(one_base, other_base) < _EVERYWHERE else 8
    apart = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)).tolist()
    at, done = 0, -1
    while at < len(apart):
        place = apart[at]
        if place <= done:
            at += 1
            continue
        end = _explained(one, other, place, (one_base - other_base) % (1 << 8 * width), width)
        if end is None:
            return False
        done = end - 1
    return True


def _explained(one: bytes, other: bytes, place: int, wanted: int, width: int) -> int | None:
    """Return the end of the number that a differing byte begins the difference of; None if there is none."""
    # bases are multiples of 64 KiB: the two lowest bytes of a number are the same
    for low in range(place - 2, place - width, -1):
        high = low + width
        if low < 0:
            if _cut_front(one, other, low, high, wanted, width):
                return high
        elif high > len(one):
            if _cut_back(one, other, low, wanted):
                return len(one)
        else:
            values = (int.from_bytes(data[low:high], "little") for data in (one, other))
            if (next(values) - next(values)) % (1 << 8 * width) == wanted:
                return high
    return None


def _cut_front(one: bytes, other: bytes, low: int, high: int, wanted: int, width: int) -> bool:
    """Return True if the upper part of a number, whose lower part lies in the page before, may be relocated."""
    shift = -8 * low
    values = (int.from_bytes(data[:high], "little") for data in (one, other))
    apart = (next(values) - next(values)) % (1 << 8 * width - shift)
    return (apart - (wanted >> shift)) % (1 << 8 * width - shift) in (0, 1)


def _cut_back(one: bytes, other: bytes, low: int, wanted: int) -> bool:
    """Return True if the lower part of a number, whose upper part lies in the next page, may be relocated."""
    size = 1 << 8 * (len(one) - low)
    values = (int.from_bytes(data[low:], "little") for data in (one, other))
    return (next(values) - next(values)) % size == wanted % size
