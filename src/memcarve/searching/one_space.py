"""The search of one address space, in the thread that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.searching.engines import PatternSearch
from memcarve.searching.matching import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.searching.engines import Pattern
    from memcarve.searching.matching import Match
    from memcarve.searching.memory import Memory
    from memcarve.segments import Segments


def matches_in(
    space: Memory,
    segments: Segments,
    patterns: Pattern | Sequence[Pattern],
    *,
    progress: Callable[[int, int], object],
    unreadable: Callable[[int, int, int], object],
    block: int,
) -> Iterator[Match]:
    """Yield the matches of patterns in segments of a space, in order of addresses; see `matching.matches`."""
    search = PatternSearch(patterns, segments.total)
    return matches([(space, segments)], search, progress=progress, unreadable=unreadable, threads=1, block=block)
