"""What is mapped and not to be had, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.dtypes import U8, U64


NOT_WRITTEN = "not written to the dump"
CUT_OFF = "the dump ends too early"
OUTSIDE = "outside the image"
IMAGE_CUT_OFF = "the image ends too early"
DEVICE = "a device's memory"
BEYOND_FILE = "beyond the end of the mapped file"
UNREADABLE = "the system does not let it be read"
MISPLACED = "its place in the dump cannot be right"
LEFT_OUT = "left out of the image"
#: why what page tables map again is in no segment: it is not missing
REPEATED = "mapped again by shared page tables"
REASONS = (NOT_WRITTEN, CUT_OFF, OUTSIDE, IMAGE_CUT_OFF, DEVICE, BEYOND_FILE, UNREADABLE, MISPLACED, LEFT_OUT)


class Missing(NamedTuple):
    """`size` bytes at `start` are mapped, but their bytes are not to be had; `reason` is one of REASONS."""

    start: int
    size: int
    reason: str

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size


class MissingColumns(NamedTuple):
    """Missing ranges in columns, sorted: `start` and `size` (uint64), `reason` (uint8, an index into REASONS)."""

    start: U64
    size: U64
    reason: U8

    @classmethod
    def of(cls, missing: Iterable[Missing]) -> MissingColumns:
        """Return ranges as columns."""
        gaps = sorted(missing)
        start, size = (np.array(column, np.uint64) for column in ([g.start for g in gaps], [g.size for g in gaps]))
        return cls(start, size, np.array([REASONS.index(gap.reason) for gap in gaps], np.uint8))
