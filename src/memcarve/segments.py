"""Segments in columns, and what they may carry: the segments they were split from, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import numpy as np

from memcarve.intervals import TOP, Intervals, chunks
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from memcarve.dtypes import U32, U64, Bools


#: the first byte of the kernel's half of a 64-bit address space
KERNEL_HALF = 1 << 63


class Labels(Protocol):
    """What is known about segments, one row per segment: made by labellers, written by sinks."""

    def where(self, keep: Bools) -> Self:
        """Return the labels of the segments for which `keep` (bool, one per segment) is true."""

    def matches(self, name: str, values: Sequence[str]) -> Bools:
        """Return for each segment (bool) whether its label `name` is any of `values`, as Selection describes them."""

    def observer(self, index: int) -> Callable[[memoryview], object] | None:
        """Return what must be called with every byte of a segment, in order; None if the content is not wanted."""

    def observed(self, index: int, observer: Any) -> None:  # noqa: ANN401 - what `observer` returned
        """Keep what the observer found, which was called with all of the segment."""

    def observe_together(self, first: int, count: int, view: memoryview) -> None:
        """Look at all bytes of `count` segments from the `first` on, which lie one behind the other in `view`."""

    def texts(self, first: int, end: int) -> Iterable[str]:
        """Return what is known about the segments from `first` to `end`, each as a JSON object."""

    def name(self, index: int) -> str:
        """Return words for the segment's file name, in plain characters and each after a dot, or nothing."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user about the sources, conflicts between them, and flags."""

    def summary(self) -> dict[str, Any]:
        """Return the labels' sources and the findings for the process as a whole, ready for JSON."""


class Segment(NamedTuple):
    """A maximal stretch of consecutive addresses whose bytes are there.

    `offset` is its start in the backing, `extents` the number of extents it touches, `first` the index of the first
    one. If the segment was split, `whole` is the start and end of the segment it is part of.
    """

    start: int
    size: int
    offset: int
    extents: int
    first: int
    whole: tuple[int, int] | None = None

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size

    @property
    def name(self) -> str:
        """The addresses as in file names, which sort by address and can be parsed back."""
        return f"0x{self.start:016x}-0x{self.end:016x}"


class LeftOut(NamedTuple):
    """`segments` of together `bytes` bytes were left out, and why; bytes of no address are no segments."""

    reason: str
    segments: int
    bytes: int


class Choice(NamedTuple):
    """How segments were chosen: of which vocabulary.Half, cut by which vocabulary.Split, and what was left out.

    `selection` says the same ready for JSON, so that it can be made again: `process.Selection.facts`; None if a program
    made the choice.
    """

    half: str = "all"
    split: str = "none"
    left_out: tuple[LeftOut, ...] = ()
    selection: Mapping[str, Any] | None = None


class Segments(Intervals, Sequence[Segment]):
    """Segments in columns: `start`, `size`, `offset` (uint64), `extents` and `first` (uint32), one row per segment.

    A sequence of Segment, in order of addresses; a slice of it is Segments again.

    If segments were split, `whole` holds start and size (uint64) of what each is part of; otherwise it is None.
    `labels` are those of the same rows, None if nobody asked for them. `choice` says how they were chosen.
    """

    def __init__(
        self,
        start: U64,
        size: U64,
        offset: U64,
        extents: U32,
        first: U32,
        whole: tuple[U64, U64] | None = None,
        labels: Labels | None = None,
        choice: Choice = Choice(),  # noqa: B008 - a tuple
    ) -> None:
        super().__init__(start, size)
        self.offset = offset
        self.extents = extents
        self.first = first
        self.whole = whole
        self.labels = labels
        self.choice = choice

    def __repr__(self) -> str:
        where = f", 0x{int(self.start[0]):x} to 0x{int(self.last[-1]) + 1:x}" if len(self) else ""
        return f"<Segments: {len(self)} of {self.total} bytes{where}>"

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Segments: ...

    def __getitem__(self, index: int | slice) -> Segment | Segments:
        if isinstance(index, slice):
            if (index.step or 1) < 0:
                raise ValueError("segments are in order of their addresses: a slice of them has no negative step")
            keep = np.zeros(len(self), np.bool_)
            keep[index] = True
            return self.where(keep)
        place = range(len(self))[index]  # raises IndexError
        return next(self._rows(slice(place, place + 1)))

    def __iter__(self) -> Iterator[Segment]:
        for part in chunks(len(self)):
            yield from self._rows(part)

    def _rows(self, part: slice) -> Iterator[Segment]:
        columns = (self.start, self.size, self.offset, self.extents, self.first)
        rows = map(Segment, *(column[part].tolist() for column in columns))
        if self.whole is None:
            yield from rows
        else:
            for row, start, size in zip(rows, self.whole[0][part].tolist(), self.whole[1][part].tolist(), strict=True):
                yield row._replace(whole=(start, start + size))

    def where(self, keep: Bools) -> Segments:
        """Return the segments for which `keep` (bool, one per segment) is true."""
        if keep.all():
            return self
        start, size, offset = (column[keep] for column in (self.start, self.size, self.offset))
        whole = None if self.whole is None else (self.whole[0][keep], self.whole[1][keep])
        labels = None if self.labels is None else self.labels.where(keep)
        return Segments(start, size, offset, self.extents[keep], self.first[keep], whole, labels, self.choice)

    def labelled(self, labels: Labels | None) -> Segments:
        """Return the same segments with labels."""
        columns = self.start, self.size, self.offset, self.extents, self.first
        return Segments(*columns, self.whole, labels, self.choice)

    def chosen(self, choice: Choice) -> Segments:
        """Return the same segments with what is said of how they were chosen."""
        columns = self.start, self.size, self.offset, self.extents, self.first
        return Segments(*columns, self.whole, self.labels, choice)

    def in_half(self, half: str, boundary: int = KERNEL_HALF) -> Bools:
        """Return for each segment (bool) whether it starts in a vocabulary.Half; raises UsageError for another word."""
        if Half(half) == Half.ALL:
            return np.ones(len(self), np.bool_)
        kernel = self.start >= np.uint64(boundary)
        return kernel if half == Half.KERNEL else ~kernel

    def at_least(self, size: int) -> Bools:
        """Return for each segment (bool) whether it has `size` bytes or more."""
        return self.size >= np.uint64(min(max(size, 0), TOP - 1))

    def at_most(self, size: int) -> Bools:
        """Return for each segment (bool) whether it has `size` bytes or fewer."""
        return self.size <= np.uint64(min(max(size, 0), TOP - 1))

    def touching(self, start: int, end: int) -> Bools:
        """Return for each segment (bool) whether it shares an address with ``start <= x < end``."""
        if start >= end or start >= TOP:
            return np.zeros(len(self), np.bool_)
        return (self.start <= np.uint64(min(end, TOP) - 1)) & (self.last >= np.uint64(start))
