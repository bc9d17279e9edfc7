"""What became of a process since an earlier state of it: which addresses are new, gone, or hold other bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.comparing import compare
from memcarve.hunting.findings.hunt import every
from memcarve.hunting.process_pairs import paired
from memcarve.intervals import Intervals, union
from memcarve.labels import Labelling
from memcarve.labels.segment_labels import Words
from memcarve.process import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.labels.segment_labels import SegmentLabels
    from memcarve.process import Container, ProcessEntry, ProcessMemory, Progress
    from memcarve.segments import Segments

ADDED, REMOVED, CHANGED = "added", "removed", "changed"


class Changes(NamedTuple):
    """Addresses that are `added`, `changed` (whole pages) and no longer there; `removed` are segments of the past."""

    added: Intervals
    changed: Intervals
    removed: Segments

    def of(self, segments: Segments) -> Words:
        """Return what became of segments: added if nothing was at their addresses, changed if anything is different."""
        found = Words.empty(len(segments))
        there = np.zeros(len(segments), np.uint64)
        new, row = self.added.intersect(segments)
        np.add.at(there, row, new.size)
        low, end = self.changed.touched(segments)
        found.set_where((end > low) | (there > 0), CHANGED)
        found.set_where(there == segments.size, ADDED)
        return found

    @property
    def labels(self) -> SegmentLabels:
        """What was known of the segments that are gone."""
        found: SegmentLabels = self.removed.labels  # type: ignore[assignment]
        return found


def changes(was: ProcessMemory, now: ProcessMemory, half: str, progress: Progress | None = None) -> Changes:
    """Compare two states of a process byte by byte.

    Addresses that one side is known to lack are neither added nor removed. Raises SourceReadError.
    """
    return now.past_unreadable(
        lambda present: was.past_unreadable(lambda past: _changes(past, present, half, progress))
    )


def _changes(was: ProcessMemory, now: ProcessMemory, half: str, progress: Progress | None) -> Changes:
    changed = [each.changed for each in compare(was, now, Selection(half=half), progress=progress)]
    before, after = was.space.segments(), now.space.segments()
    gone = before.subtract(after).subtract(now.space.missing)
    borders = np.concatenate([gone.start, gone.last + np.uint64(1)])
    cut = was.space.cut(before, borders)
    removed = cut.where(gone.rows_of(cut.start) >= 0)
    removed = removed.where(removed.in_half(half, now.kernel_half))
    labels = Labelling()(was, removed, Selection())
    return Changes(
        after.subtract(before).subtract(was.space.missing),
        union(*changed) if changed else Intervals.of([]),
        removed.labelled(labels),
    )


def partners(was: Container, now: Container, indexes: Sequence[int]) -> tuple[dict[int, int], list[ProcessEntry]]:
    """Return which process of `was` each of those at `indexes` of `now` was, by place, and the ones that have ended.

    Of two inputs that hold one process each, one is the other.
    """
    before = every(was)
    if len(before) == 1 and len(now.processes()) == 1:
        return dict.fromkeys(indexes, before[0]), []
    pairs = paired(was.processes(), now.processes(), before, indexes)
    others = {pair.was for pair in paired(was.processes(), now.processes(), before, every(now)) if pair.now is None}
    found = {pair.now: pair.was for pair in pairs if pair.now is not None and pair.was is not None}
    return found, [was.entry(place) for place in sorted(place for place in others if place is not None)]
