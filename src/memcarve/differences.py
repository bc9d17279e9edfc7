"""What became of segments that share addresses, in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.intervals import PAGE, total

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.segments import Segments


APPEARED, VANISHED, GROWN, SHRUNK, CHANGED, UNKNOWN, UNCHANGED = STATES = (
    "appeared", "vanished", "grown", "shrunk", "changed", "unknown", "unchanged",
)  # fmt: skip


class Stretches:
    """Stretches of whole pages in columns: `start` and `size` (uint64), sorted, none continues the one before it.

    They yield (start, end), half-open; an end may be 2**64.
    """

    def __init__(self, start: U64, size: U64) -> None:
        self.start = start
        self.size = size

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start, size in zip(self.start.tolist(), self.size.tolist(), strict=True):
            yield start, start + size

    @property
    def pages(self) -> int:
        """The number of pages."""
        return total(self.size) // PAGE


class Difference(NamedTuple):
    """What became of segments that share addresses.

    `was` are those of before, `now` those of after; either may be none, and more than one where segments were split or
    merged. `added` bytes are there now only, `removed` ones were there only before; of `unknown` ones one side is
    there, and the other is mapped but missing. `changed` are the pages in which common bytes differ, `first_changed`
    the address of the first such byte.
    """

    was: Segments
    now: Segments
    added: int
    removed: int
    unknown: int
    changed: Stretches
    first_changed: int | None

    @property
    def state(self) -> str:
        """What happened, in words of STATES with commas between: ``"grown, changed"``.

        ``"appeared"`` where bytes were added and nothing was there, else ``"grown"``; ``"vanished"`` where bytes were
        removed and nothing is there, else ``"shrunk"``; ``"unchanged"`` where none of the words fits.
        """
        found = (
            (GROWN if len(self.was) else APPEARED, self.added),
            (SHRUNK if len(self.now) else VANISHED, self.removed),
            (CHANGED, len(self.changed)),
            (UNKNOWN, self.unknown),
        )
        return ", ".join(word for word, count in found if count) or UNCHANGED
