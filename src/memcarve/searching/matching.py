"""Every match of some patterns in segments of several address spaces, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import distinct
from memcarve.searching.each_once import BLOCK, EachOnce, Searched
from memcarve.searching.window import Places, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.dtypes import I64
    from memcarve.searching.engines import PatternSearch
    from memcarve.searching.memory import Memory
    from memcarve.segments import Segments

_PIECE = 1 << 16  # bytes looked at again in one go


class Match(NamedTuple):
    """`size` bytes at an `address` that match the pattern with the number, in the segment at a `row` of a part.

    `offset` is where the first of them is stored.
    """

    part: int
    row: int
    address: int
    offset: int
    pattern: int
    size: int


def matches(
    parts: Sequence[tuple[Memory, Segments]],
    search: PatternSearch,
    *,
    progress: Callable[[int, int], object] | None = None,
    unreadable: Callable[[int, int, int], object] | None = None,
    threads: int | None = None,
    block: int = BLOCK,
) -> Iterator[Match]:
    """Yield the matches in segments of address spaces, part by part, in order of addresses, as they are found.

    What several spaces share is searched once. Matches may cross extents, but not gaps; those of an expression do not
    overlap. `progress` is called with how many bytes were searched, and of how many; `unreadable` with the part, the
    address and the size of what cannot be read, which is like a gap. Memory is bounded however much matches. Raises
    what reading raises, except for UnreadableError.
    """
    if not search:
        return
    running = EachOnce(parts, search, threads=search.threads or threads, block=block)
    chains = _Chains(running, search)
    before, row, begun = 0, (0, 0), 0  # bytes of the segments before the one at hand
    for searched in running:
        if (searched.part, searched.row) != row:
            before += _between(parts, row, (searched.part, searched.row))
            row = searched.part, searched.row
        for each in _whole(running, searched):
            if each.found is not None and len(each.found):
                yield from _matches(parts, each, chains.kept(each, each.found))
        for start, size in searched.lost:
            if unreadable is not None:
                unreadable(searched.part, start, size)
        if progress is not None:
            begun = max(begun, before + searched.end - int(parts[row[0]][1].start[row[1]]))
            progress(begun, running.total)
    if progress is not None:
        progress(running.total, running.total)


def _between(parts: Sequence[tuple[Memory, Segments]], first: tuple[int, int], then: tuple[int, int]) -> int:
    """Return how many bytes there are from the begin of one segment to the begin of a later one."""
    count, (part, row) = 0, first
    while part < then[0]:
        count += int(parts[part][1].size[row:].sum())
        part, row = part + 1, 0
    return count + int(parts[part][1].size[row : then[1]].sum())


def _whole(running: EachOnce[Places], searched: Searched[Places]) -> Iterator[Searched[Places]]:
    """Yield what was found in a stretch, and piece by piece what there was too much of to be told at once."""
    waiting: list[Searched[Places] | tuple[int, int]] = [searched]  # the next one is the last
    while waiting:
        each = waiting.pop()
        if isinstance(each, Searched):
            yield each
            if each.found is not None and each.found.until is not None:
                waiting.append((each.start + each.found.until, each.end))
            continue
        low, end = each
        high = min(low + _PIECE, end)
        if high < end:
            waiting.append((high, end))
        waiting += reversed(running.searched(searched.part, searched.row, low, high))


class _Chains:
    """Tells which matches of expressions count: those that do not overlap one before, from the segment's start on."""

    def __init__(self, running: EachOnce[Places], search: PatternSearch) -> None:
        self._running = running
        self._chained = search.chained
        self._row = (-1, -1)
        self._ends: dict[int, int] = {}

    def kept(self, searched: Searched[Places], found: Places) -> Places:
        """Return what counts of what was found in the next stretch."""
        if not self._chained:
            return found
        if (searched.part, searched.row) != self._row:
            self._row, self._ends = (searched.part, searched.row), {}
        changed = []
        for number in distinct(found.pattern).tolist():
            if number not in self._chained:
                continue
            own = np.flatnonzero(found.pattern == number)
            start = found.place[own] + np.int64(0)
            begun = self._ends.get(number, 0) - searched.start
            if begun > int(start[0]):
                rows = self._chain(searched, found, number, own, begun)
                changed.append((number, own, rows))
            else:
                self._ends[number] = searched.start + int(start[-1]) + int(found.size[own[-1]])
        if not changed:
            return found
        others = np.ones(len(found), np.bool_)
        for _, own, _ in changed:
            others[own] = False
        rest = Places(found.place[others], found.pattern[others], found.size[others], found.until)
        several: list[tuple[I64, Places]] = [(np.arange(len(found.pattern) and int(found.pattern.max()) + 1), rest)]
        several += [(np.array([number]), _places(rows)) for number, _, rows in changed]
        return numbered(several)

    def _chain(
        self, searched: Searched[Places], found: Places, number: int, own: I64, place: int
    ) -> list[tuple[int, int]]:
        """Return start and size of the matches of an expression that count, if the last one ended at a `place`.

        In those that were found in the stretch, others may begin, which must be looked for; between them, none does.
        """
        last = searched.end - searched.start if found.until is None else found.until
        kept: list[tuple[int, int]] = []
        rows = zip(found.place[own].tolist(), found.size[own].tolist(), strict=True)
        for start, size in rows:
            if place <= start:
                kept.append((start, size))
                place = start + size
                continue
            end = min(start + size, last)
            if place < end:
                again = self._again(searched, number, place, end)
                kept += again
                place = max(end, sum(again[-1])) if again else end
        if kept:
            self._ends[number] = searched.start + sum(kept[-1])
        return kept

    def _again(self, searched: Searched[Places], number: int, low: int, high: int) -> list[tuple[int, int]]:
        """Return start and size of matches that begin in a part of a stretch, without those before."""
        search = self._chained[number]
        kept: list[tuple[int, int]] = []
        while low < high:
            place, low = low, high
            for each in self._running.searched(
                searched.part, searched.row, searched.start + place, searched.start + high, search
            ):
                if each.found is None:
                    continue
                away = each.start - searched.start
                rows = zip(each.found.place.tolist(), each.found.size.tolist(), strict=True)
                kept += [(away + start, size) for start, size in rows]
                if each.found.until is not None:  # it is where the last match that was told ends
                    low = away + each.found.until
                    break
        return kept


def _places(rows: list[tuple[int, int]]) -> Places:
    table = np.array(rows, np.int64).reshape(-1, 2)
    return Places(table[:, 0], np.zeros(len(rows), np.int64), table[:, 1])


def _matches(parts: Sequence[tuple[Memory, Segments]], searched: Searched[Places], found: Places) -> Iterator[Match]:
    space, _ = parts[searched.part]
    address = np.uint64(searched.start) + found.place.astype(np.uint64)
    extent = np.searchsorted(space.start, address, "right") - 1
    offset = space.offset[extent] + (address - space.start[extent])
    columns = (address.tolist(), offset.tolist(), found.pattern.tolist(), found.size.tolist())
    for row in zip(*columns, strict=True):
        yield Match(searched.part, searched.row, *row)
