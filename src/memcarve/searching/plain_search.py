"""Patterns of a fixed size in a block of memory: bytes, and bytes of which only some bits count."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.searching.window import NOWHERE, Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.searching.window import Window

_AT_ONCE = 1 << 13  # matches told at once


class Sought(NamedTuple):
    """Bytes that are searched for; `mask` has the bits of them that count, the others are 0; None if all do."""

    data: bytes
    mask: bytes | None

    def at(self, buffer: bytearray, place: int) -> bool:
        """Return True if the pattern lies at a place of a buffer."""
        if self.mask is None:
            return buffer.startswith(self.data, place)
        found = int.from_bytes(buffer[place : place + len(self.data)], "big")
        return found & int.from_bytes(self.mask, "big") == int.from_bytes(self.data, "big")

    @property
    def is_zero(self) -> bool:
        """Whether zeros match."""
        return not any(self.data)


class PlainSearch:
    """Looks for patterns one after another."""

    before = 0

    def __init__(self, wanted: Sequence[Sought], at_once: int = _AT_ONCE) -> None:
        self.after = max(len(each.data) for each in wanted) - 1
        self.in_zeros = any(each.is_zero for each in wanted)
        self._wanted = wanted
        self._size = np.array([len(each.data) for each in wanted], np.int64)
        self._at_once = max(at_once, len(wanted) + 1)

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return every match that begins in the window."""
        first = matches(buffer, window.size, self._wanted, window.end, window.begin)
        rows = [*islice(first, self._at_once + 1)]
        if not rows:
            return NOWHERE
        place, pattern = np.array(rows, np.int64).T
        place -= window.begin
        until = None
        if len(rows) > self._at_once:  # there are more at the last place, perhaps
            until = int(place[-1])
            place, pattern = (column[: np.searchsorted(place, until)] for column in (place, pattern))
        return Places(place, pattern, self._size[pattern], until)


def matches(
    buffer: bytearray, length: int, wanted: Sequence[Sought], fresh: int, begin: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield (index in the buffer, pattern) for matches that begin at `begin` or later and before `fresh`, sorted.

    There may be as many as bytes. The first `length` bytes of the buffer count, and must not change meanwhile.
    """
    single = [_places(buffer, begin, length, each, fresh, number) for number, each in enumerate(wanted)]
    yield from single[0] if len(single) == 1 else heapq.merge(*single)


def _places(
    buffer: bytearray, begin: int, length: int, one: Sought, fresh: int, number: int
) -> Iterator[tuple[int, int]]:
    """Yield where one pattern matches, each with the pattern's number."""
    if one.mask is not None:
        places = _masked(np.frombuffer(buffer, np.uint8, length - begin, begin), one.data, one.mask) + begin
        yield from ((place, number) for place in places[places < fresh].tolist())
        return
    # the search skips ahead by a pattern's last byte, which must not be zero: memory is full of zeros
    core = one.data.rstrip(b"\0") or one.data
    last = max(length - len(one.data) + len(core), 0)
    index = buffer.find(core, begin, last)
    while 0 <= index < fresh:
        if core is one.data or buffer.startswith(one.data, index):
            yield index, number
        index = buffer.find(core, index + 1, last)


def _masked(block: np.ndarray[tuple[int], np.dtype[np.uint8]], data: bytes, mask: bytes) -> np.ndarray:
    """Return where the bits that count match (int64)."""
    count = len(block) - len(data) + 1
    if count <= 0:
        return np.zeros(0, np.int64)
    # what is rarest first: whole bytes that are not zero, then any that is not zero
    order = sorted((at for at in range(len(mask)) if mask[at]), key=lambda at: (not data[at], -mask[at].bit_count()))
    first, *others = order
    found = np.flatnonzero((block[first : first + count] & mask[first]) == data[first])
    for at in others:
        if not len(found):
            break
        found = found[(block[found + at] & mask[at]) == data[at]]
    return found
