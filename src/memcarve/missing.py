"""Memory that is mapped but missing, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import Intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import U8, U64


NOT_WRITTEN = "not written to the dump"
CUT_OFF = "the dump ends too early"
OUTSIDE = "outside the image"
IMAGE_CUT_OFF = "the image ends too early"
DEVICE = "a device's memory"
BEYOND_FILE = "beyond the end of the mapped file"
DENIED = "the system does not let it be read"
MISPLACED = "its place in the dump cannot be right"
LEFT_OUT = "left out of the image"
UNREADABLE = "unreadable"
BEYOND_PAGE_FILE = "the page file ends too early"
# why pages are not in memory that their system took out of it, or never put there
PAGED_OUT = "in a page file that was not given"
COMPRESSED = "compressed, or in a page file that was not given"
NOT_PROVEN = "paged out; how its entry is read is not proven"
IN_FILE = "in the mapped file"
DEMAND_ZERO = "zeros that nobody wrote yet"
UNKNOWN_PROTOTYPE = "its prototype is not in memory"
UNKNOWN_TABLE = "its page table is not in memory"
COMPRESSED_SWAP = "compressed in memory (zram, zswap), and not read"
ELSEWHERE = (
    PAGED_OUT, COMPRESSED, NOT_PROVEN, IN_FILE, DEMAND_ZERO, UNKNOWN_PROTOTYPE, UNKNOWN_TABLE, COMPRESSED_SWAP,
)  # fmt: skip
#: why memory that page tables map again is not in a segment; it is not missing
REPEATED = "mapped again by shared page tables"
#: cores that memcarve wrote hold places in this list: it only grows at its end
REASONS = (
    NOT_WRITTEN, CUT_OFF, OUTSIDE, IMAGE_CUT_OFF, DEVICE, BEYOND_FILE, DENIED, MISPLACED, LEFT_OUT, UNREADABLE,
    BEYOND_PAGE_FILE, *ELSEWHERE,
)  # fmt: skip


class Missing(NamedTuple):
    """`size` bytes at `start` are mapped but missing; `reason` is one of REASONS."""

    start: int
    size: int
    reason: str

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size


class MissingMemory(Intervals):
    """Missing ranges in columns: `start` and `size` (uint64), `reason` (uint8, an index into REASONS).

    Iterating yields Missing, in order of addresses.
    """

    def __init__(self, start: U64, size: U64, reason: U8) -> None:
        super().__init__(start, size)
        self.reason = reason

    @classmethod
    def of(cls, rows: Iterable[Missing]) -> MissingMemory:  # type: ignore[override]
        """Return ranges, in any order, as columns."""
        gaps = sorted(rows)
        columns = Intervals.of((gap.start, gap.size) for gap in gaps)
        return cls(columns.start, columns.size, np.array([REASONS.index(gap.reason) for gap in gaps], np.uint8))

    def __iter__(self) -> Iterator[Missing]:
        for start, size, reason in zip(self.start.tolist(), self.size.tolist(), self.reason.tolist(), strict=True):
            yield Missing(start, size, REASONS[reason])
