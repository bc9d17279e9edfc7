"""Where patterns lie in the memory of processes, or of the whole machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.hunting.owners.image_ranges import image_ranges
from memcarve.hunting.searched_processes import SearchedProcesses
from memcarve.searching.engines import PatternSearch
from memcarve.searching.matching import matches
from memcarve.space import Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.errors import MemcarveError
    from memcarve.hunting.owners.asking import Answer, Owners
    from memcarve.hunting.searched_processes import ProcessHit, Where
    from memcarve.process import ProcessEntry, ProcessMemory, Progress, Selection
    from memcarve.searching.engines import Pattern
    from memcarve.searching.matching import Match
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

_BLOCK = 1 << 21  # bytes searched in one go
_AT_ONCE = 1 << 10  # hits whose owners are looked up together


class PartHit(NamedTuple):
    """A `hit` in the part with a number: an address space, and segments of it."""

    part: int
    hit: Hit


class PhysicalHit(NamedTuple):
    """A `hit` in a machine's physical memory (its `address` is physical), and who maps its first byte."""

    hit: Hit
    owners: list[Answer]


def hits(
    parts: Sequence[tuple[AddressSpace, Segments]],
    patterns: Pattern | Sequence[Pattern],
    *,
    progress: Progress | None = None,
    unreadable: Callable[[int, int, int], object] | None = None,
    threads: int | None = None,
) -> Iterator[PartHit]:
    """Return every match in segments of address spaces, part by part, in order of addresses, as they are found.

    What several spaces share is searched once. Matches may cross extents, but not gaps. `progress` is called with how
    many bytes were searched, and of how many. `unreadable` is called with the part, address and size of what cannot be
    read, which is passed over. Raises ValueError if a pattern is empty, TypeError if it is text, UsageError if an
    expression cannot be searched for in parts of memory.
    """
    search = PatternSearch(patterns, sum(segments.total for _, segments in parts))
    found = matches(parts, search, progress=progress, unreadable=unreadable, threads=threads, block=_BLOCK)
    return (PartHit(each.part, _hit(each, parts[each.part][1])) for each in found)


def _hit(match: Match, segments: Segments) -> Hit:
    return Hit(match.address, match.pattern, match.offset, segments[match.row], match.size)


def find(
    where: Where,
    patterns: Pattern | Sequence[Pattern],
    *,
    selection: Selection | None = None,
    segments: Segments | None = None,
    progress: Progress | None = None,
    failed: Callable[[ProcessEntry, MemcarveError], object] | None = None,
    unreadable: Callable[[ProcessMemory, int, int], object] | None = None,
) -> Iterator[ProcessHit[Hit]]:
    """Return every place where patterns lie in one process, several, or all of a container that are not doubtful.

    Patterns are bytes, or what `text_pattern`, `hex_pattern`, `expression` and `integer` make, or `Pointers`. Hits come
    process by process, in order of addresses, as they are found; what several processes share is searched once, on all
    processors. `selection` chooses their memory, None what is usual for the input; of one process `segments` may be
    given instead. Of several processes of an image the kernel's half comes once, last.

    `progress` is called with how many bytes were searched, and of how many, `failed` with a process that cannot be
    opened and its error, `unreadable` with the process, address and size of what cannot be read. Without `failed` and
    `unreadable` that raises the error, UnreadableError; with them the others are searched. Raises ValueError for an
    empty pattern, TypeError for text, UsageError for an expression that cannot be searched for, and what opening and
    reading raise.
    """
    searched = SearchedProcesses(where, selection, segments, failed=failed, unreadable=unreadable)
    return (
        searched.hit(part, hit)
        for part, hit in hits(searched.parts, patterns, progress=progress, unreadable=searched.lose)
    )


def find_physical(
    owners: Owners,
    patterns: Pattern | Sequence[Pattern],
    *,
    max_owners: int | None = None,
    progress: Progress | None = None,
    unreadable: Callable[[int, int], object] | None = None,
) -> Iterator[PhysicalHit]:
    """Return every place where patterns lie in the physical memory of an image, in order of addresses, with its owners.

    `owners` are ``memcarve.Owners`` of the image. Physical memory is searched as it is laid out: a match may cross
    pages that follow each other there. Of each at most `max_owners` mappings are told (64 by default); `more` of the
    last one counts the others. `progress` is called with how many bytes were searched, and of how many; `unreadable`
    with the physical address and size of what cannot be read, which is passed over. Raises UsageError if the input is
    not an image, and what `find` raises.
    """
    space = image_ranges(owners.container)
    due = False

    def advance(done: int, total: int) -> None:
        nonlocal due
        due = True
        if progress is not None:
            progress(done, total)

    def lost(_part: int, address: int, size: int) -> None:
        if unreadable is not None:
            unreadable(address, size)

    def owned() -> Iterator[PhysicalHit]:
        nonlocal due
        waiting: list[Hit] = []
        for _, hit in found:
            if waiting and (due or len(waiting) >= _AT_ONCE):
                yield from _owned(owners, waiting, max_owners)
                waiting = []
            due = False
            waiting.append(hit)
        yield from _owned(owners, waiting, max_owners)

    found = hits([(space, space.segments())], patterns, progress=advance, unreadable=lost)
    return owned()


def _owned(owners: Owners, several: Sequence[Hit], max_owners: int | None) -> Iterator[PhysicalHit]:
    answers: list[list[Answer]] = [[] for _ in several]
    asked = [hit.address for hit in several]
    for answer in owners.of_physical(asked) if max_owners is None else owners.of_physical(asked, max_owners):
        answers[answer.query].append(answer)
    return map(PhysicalHit, several, answers)
