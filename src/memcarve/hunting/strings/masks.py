"""Runs in arrays of truth values: where so many or more of them follow each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8


class Scratch(threading.local):
    """Arrays of bytes for a thread to work in, which are used again: new ones would be cleared by the system."""

    def __init__(self) -> None:
        self._arrays: dict[str, U8] = {}

    def __call__(self, name: str, size: int) -> U8:
        """Return an array (uint8) of this size, with anything in it; the one that had the name is lost."""
        found = self._arrays.get(name)
        if found is None or len(found) < size:
            found = self._arrays[name] = np.empty(size + (size >> 3), np.uint8)
        return found[:size]


def runs(mask: U8, least: int, scratch: Scratch) -> tuple[I64, I64]:
    """Return start and end (int64) of the runs of at least so many ones in a mask of zeros and ones (uint8).

    The first and last element must be zero; `mask` is lost.
    """
    here, there = mask, scratch("there", len(mask))
    width = 1
    while width < least:  # element i becomes: all from i to i + width are ones
        more = min(width, least - width)
        size = len(here) - more
        if size <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        np.bitwise_and(here[:size], here[more:], out=there[:size])
        here, there = there[:size], here
        width += more
    change = there[: len(here) - 1]
    np.bitwise_xor(here[1:], here[:-1], out=change)
    edges = np.flatnonzero(change.view(np.bool_))
    return edges[::2] + 1, edges[1::2] + least


def near_runs(mask: U8, width: int, scratch: Scratch) -> U8:
    """Return which elements (uint8) lie in a run of at least `width` ones in a mask of as many; `mask` is lost."""
    here, there = mask, scratch("near", len(mask))
    for narrow in (True, False):  # where so many ones begin, then what they reach
        done = 1
        while done < width:
            more = min(done, width - done)
            if narrow:
                np.bitwise_and(here[:-more], here[more:], out=there[:-more])
                there[-more:] = 0
            else:
                np.bitwise_or(here[:-more], here[more:], out=there[more:])
                there[:more] = here[:more]
            here, there = there, here
            done += more
    return here


def leading(mask: U8, most: int) -> int:
    """Return how many ones a mask (uint8) begins with, of the first `most`."""
    found = mask[:most].tobytes().find(b"\0")
    return min(most, len(mask)) if found < 0 else found


def trailing(mask: U8, most: int) -> int:
    """Return how many ones a mask (uint8) ends with, of the last `most`."""
    part = mask[max(len(mask) - most, 0) :].tobytes()
    return len(part) - 1 - part.rfind(b"\0")
