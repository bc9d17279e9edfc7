"""What a search asks of the memory that it goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import U64
    from memcarve.segments import Segment


class Memory(Protocol):
    """A sparse address space: extents in columns (uint64), in order of addresses, and the bytes behind them.

    `physical` is None unless the extents are pages of an image that other address spaces may share.
    """

    start: U64
    size: U64
    offset: U64

    @property
    def backing(self) -> object:
        """What the bytes lie in; address spaces share pages if it is the same."""

    @property
    def physical(self) -> U64 | None:
        """Where the extents lie in a machine's memory."""

    def read_into(self, address: int, view: memoryview) -> None:
        """Fill `view`; raises UnreadableError if any of it cannot be read."""

    def unreadable(self, start: int, end: int) -> Sequence[tuple[int, int]]:
        """Return start and end of what cannot be read of a range."""

    def holes(self, segment: Segment, least: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is known to be zeros in a segment, if it is larger than `least`."""
