"""A search for PE and ELF headers: short segments are looked at together, so that 500,000 take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import PAGE, expand, joined
from memcarve.labels.content import glance, observe
from memcarve.labels.headers import may_begin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.dtypes import I64
    from memcarve.labels.headers import Header
    from memcarve.segments import Segment, Segments
    from memcarve.space import AddressSpace


#: headers that are taken; memory may be full of them
MOST_HEADERS = 1 << 16
_SHORT = 16 * PAGE
_BLOCK = 1 << 20  # bytes of short segments that are looked at together
_ROWS = 1 << 12  # segments of any length between two calls of `told`


class Likely(NamedTuple):
    """A segment that may hold headers: at `places` of its pages, by a glance; None if nobody has looked yet."""

    segment: Segment
    places: int | None


def likely(space: AddressSpace, segments: Segments) -> Iterator[tuple[list[Likely], int]]:
    """Yield, some segments at a time and in order: those that may hold headers, and the bytes of all of them.

    Every segment in which `content.observe` finds a header is among them. `segments` are whole ones, not split. Memory
    is bounded, however many there are. Raises SourceReadError.
    """
    short = (segments.size <= np.uint64(_SHORT)) & (segments.start % np.uint64(PAGE) == 0)
    room = np.where(short, -(-segments.size.astype(np.int64) // PAGE) * PAGE, 0)
    ends = np.cumsum(room)
    buffer = memoryview(bytearray(_BLOCK))
    low = 0
    while low < len(segments):
        before = int(ends[low - 1]) if low else 0
        high = min(int(np.searchsorted(ends, before + _BLOCK, "right")), low + _ROWS)
        rows = np.arange(low, high)
        counts = np.where(short[low:high], 0, -1)
        if short[low:high].any():
            _read(space, segments, rows[short[low:high]], ends[low:high][short[low:high]] - before, buffer)
            for at in _places(buffer[: int(ends[high - 1]) - before]):
                counts[int(np.searchsorted(ends[low:high], before + at, "right"))] += 1
        likely_rows = zip(np.flatnonzero(counts).tolist(), counts[counts != 0].tolist(), strict=True)
        found = [Likely(segments[low + row], None if count < 0 else count) for row, count in likely_rows]
        yield found, int(segments.size[low:high].sum())
        low = high


def headers_in(
    space: AddressSpace,
    segments: Segments,
    most: int = MOST_HEADERS,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[Header], int]:
    """Return the headers in some segments, in order of their addresses, and about how many more than `most` there are.

    `segments` are whole ones, not split. `progress` is called with the bytes done and the total. Raises
    SourceReadError.
    """
    found: list[Header] = []
    more = done = 0
    for some, size in likely(space, segments):
        for segment, places in some:
            room = most - len(found)
            if not room and places is not None:
                more += places
                continue
            content = observe(space, segment, "headers")
            found += content.headers[:room]
            more += content.more_headers + len(content.headers[room:])
        done += size
        if progress is not None:
            progress(done, segments.total)
    return found, more


def _read(space: AddressSpace, segments: Segments, rows: I64, ends: I64, buffer: memoryview) -> None:
    """Put segments into the buffer, each in pages of its own of which the last ends at its place in `ends`."""
    count = segments.extents[rows].astype(np.int64)
    size = segments.size[rows].astype(np.int64)
    own, step = expand(count)
    extents = segments.first[rows].astype(np.int64)[own] + step
    begin = (ends - (-(-size // PAGE) * PAGE)).astype(np.uint64)
    place = begin[own] + (space.start[extents] - segments.start[rows][own])
    if (size % PAGE).any():
        buffer[:] = bytes(len(buffer))  # what is behind the end of one is zeros, as `observe` never sees it
    columns = joined(place, space.size[extents], space.offset[extents])
    for at, length, offset in zip(*(column.tolist() for column in columns), strict=True):
        space.backing.read_into(offset, buffer[at : at + length])


def _places(view: memoryview) -> Iterator[int]:
    """Yield where pages begin that may begin with a header."""
    return (at for at in glance(view)[1].tolist() if may_begin(view, at, at + PAGE))
