"""Where patterns lie in the memory of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.hunting.searches import EachOnce
from memcarve.searching.fixed import Plain, sought
from memcarve.space import Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.dtypes import I64
    from memcarve.hunting.searches import Searched
    from memcarve.searching.fixed import Pattern
    from memcarve.searching.window import Places
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


class PartHit(NamedTuple):
    """A `hit` in the part with a number: an address space, and segments of it."""

    part: int
    hit: Hit


def hits(
    parts: Sequence[tuple[AddressSpace, Segments]],
    patterns: Pattern | Sequence[Pattern],
    *,
    progress: Callable[[int, int], object] | None = None,
    unreadable: Callable[[int, int, int], object] | None = None,
    threads: int | None = None,
) -> Iterator[PartHit]:
    """Yield every match in segments of address spaces, part by part, in order of addresses, as they are found.

    What several spaces share is searched once. Matches may cross extents, but not gaps. `progress` is called with how
    many bytes were searched, and of how many. `unreadable` is called with the part, address and size of what cannot be
    read, which is passed over. Raises ValueError if a pattern is empty, TypeError if it is text.
    """
    wanted = sought(patterns)
    if not wanted:
        return
    running = EachOnce(parts, Plain(wanted), threads=threads)
    done = 0
    for each in running:
        for searched in _whole(running, each):
            if searched.found is not None and len(searched.found):
                yield from _hits(parts, searched, searched.found)
        for start, size in each.lost:
            if unreadable is not None:
                unreadable(each.part, start, size)
        done += each.end - each.start + sum(size for _, size in each.lost)
        if progress is not None:
            progress(done, running.total)


def _whole(running: EachOnce[Places], searched: Searched[Places]) -> Iterator[Searched[Places]]:
    """Yield what was found in a stretch, and what there was too much of to be told at once."""
    waiting = [searched]
    while waiting:
        each = waiting.pop()
        yield each
        if each.found is not None and each.found.until is not None:
            waiting += reversed(running.searched(each.part, each.row, each.start + each.found.until, each.end))


def _hits(
    parts: Sequence[tuple[AddressSpace, Segments]], searched: Searched[Places], found: Places
) -> Iterator[PartHit]:
    space, segments = parts[searched.part]
    address = np.uint64(searched.start) + found.place.astype(np.uint64)
    extent: I64 = np.searchsorted(space.start, address, "right") - 1
    offset = space.offset[extent] + (address - space.start[extent])
    segment = segments[searched.row]
    columns = (address.tolist(), found.pattern.tolist(), offset.tolist(), found.size.tolist())
    for row in zip(*columns, strict=True):
        yield PartHit(searched.part, Hit(*row[:3], segment, row[3]))
