"""Where patterns lie in the memory of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.searching.engines import PatternSearch
from memcarve.searching.matching import matches
from memcarve.space import Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.searching.engines import Pattern
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
    search = PatternSearch(patterns, sum(segments.total for _, segments in parts))
    found = matches(parts, search, progress=progress, unreadable=unreadable, threads=threads)
    for part, row, address, offset, pattern, size in found:
        yield PartHit(part, Hit(address, pattern, offset, parts[part][1][row], size))
