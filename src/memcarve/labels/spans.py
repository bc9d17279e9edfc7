"""Stretches of addresses in order, without overlap, and how segments and other stretches meet them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U64, Bools
    from memcarve.metadata import Regions
    from memcarve.segments import Segments


class Spans(NamedTuple):
    """Columns, one row a span: `start` and `last` address (uint64), `owner` (int64), the place of what it belongs to.

    Rows are in order of addresses and share none.
    """

    start: U64
    last: U64
    owner: I64

    def touched(self, segments: Segments) -> tuple[I64, I64]:
        """Return for each segment the first span that it touches and the one after the last; equal where none."""
        first = np.searchsorted(self.last, segments.start, "left")
        return first, np.maximum(np.searchsorted(self.start, segments.last, "right"), first)

    def begin(self, segments: Segments) -> tuple[Bools, U64]:
        """Say for each segment (bool) whether it touches a span, and where the first one begins in it (uint64)."""
        first, end = self.touched(segments)
        if not len(self.start):
            return end > first, segments.start
        return end > first, np.maximum(self.start[np.minimum(first, len(self.start) - 1)], segments.start)

    def where(self, keep: Bools) -> Spans:
        """Return the spans whose place in `keep` (bool, one a span) is true."""
        return Spans(self.start[keep], self.last[keep], self.owner[keep])

    def common(self, other: Spans) -> tuple[Spans, I64]:
        """Return the addresses that both have: as spans with this one's owners, and the other's owner of each."""
        first = np.searchsorted(other.last, self.start, "left")
        count = np.maximum(np.searchsorted(other.start, self.last, "right") - first, 0)
        mine = np.repeat(np.arange(len(self.start)), count)
        theirs = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count) + first[mine]
        start = np.maximum(self.start[mine], other.start[theirs])
        last = np.minimum(self.last[mine], other.last[theirs])
        return Spans(start, last, self.owner[mine]), other.owner[theirs]


class Join:
    """Which spans each of some segments touches: `first` and `end` (int64), one row a segment, `end` excluded."""

    def __init__(self, spans: Spans, segments: Segments) -> None:
        self.spans = spans
        self.first, self.end = spans.touched(segments)

    def changes(self) -> Bools:
        """Say for each segment (bool) whether it touches other spans than the one before it."""
        found = np.ones(len(self.first), np.bool_)
        nothing = self.first == self.end
        same = (self.first[1:] == self.first[:-1]) & (self.end[1:] == self.end[:-1])
        found[1:] = ~(same | (nothing[1:] & nothing[:-1]))
        return found

    def places(self, index: int) -> list[int]:
        """Return what the spans belong to that a segment touches, in order of addresses, each once."""
        return [*dict.fromkeys(self.spans.owner[self.first[index] : self.end[index]].tolist())]

    def any(self, wanted: Bools) -> Bools:
        """Say for each segment (bool) whether it touches a span whose place in `wanted` (bool, by owner) is true."""
        sums = np.concatenate([[0], np.cumsum(wanted[self.spans.owner])])
        found: Bools = sums[self.end] > sums[self.first]
        return found


def spans_of(regions: Regions) -> Spans:
    """Return the pieces of regions, which know what belongs to whom where several share an address."""
    return Spans(regions.start, regions.start + (regions.size - np.uint64(1)), regions.index)


def spans(start: U64, size: U64) -> Spans:
    """Return spans of columns that are in order already, as a space's extents are."""
    return Spans(start, start + (size - np.uint64(1)), np.arange(len(start)))


def union(parts: list[Spans]) -> Spans:
    """Return the addresses that any of the parts has, neighbours joined; `owner` counts the rows."""
    start = np.concatenate([part.start for part in parts] or [np.zeros(0, np.uint64)])
    last = np.concatenate([part.last for part in parts] or [np.zeros(0, np.uint64)])
    order = np.argsort(start, kind="stable")
    start, last = start[order], np.maximum.accumulate(last[order]) if len(last) else last
    begins = np.ones(len(start), np.bool_)
    # one more than 2**64 - 1 wraps, but nothing begins behind it
    begins[1:] = (start[1:] > last[:-1]) & (start[1:] != last[:-1] + np.uint64(1))
    first = np.flatnonzero(begins)
    ends = np.append(first[1:], len(start)) - 1 if len(first) else first
    return Spans(start[first], last[ends], np.arange(len(first)))
