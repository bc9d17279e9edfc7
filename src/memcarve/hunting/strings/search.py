"""The search for strings in the memory of one process or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import UsageError
from memcarve.hunting.searched_processes import SearchedProcesses
from memcarve.hunting.strings.joining import Joining
from memcarve.hunting.strings.window_search import ENCODINGS, WindowSearch
from memcarve.intervals import distinct
from memcarve.searching.each_once import EachOnce
from memcarve.vocabulary import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from memcarve.dtypes import U64
    from memcarve.errors import MemcarveError
    from memcarve.hunting.searched_processes import ProcessHit, Where
    from memcarve.hunting.strings.joining import Batch
    from memcarve.process import ProcessEntry, ProcessMemory, Progress, Selection
    from memcarve.segments import Segment, Segments
    from memcarve.space import AddressSpace

#: how short a string may be, as in binutils' strings, and how long until it is cut
MIN_LENGTH, MAX_LENGTH = 4, 1 << 16
#: the limits of both: what is shorter is no text, and a string is held in memory
SHORTEST, LONGEST = 2, 1 << 24
BLOCK = 1 << 20  # bytes in one go: many, because each step of the search costs some microseconds
_KEPT = 1 << 19


class FoundString(NamedTuple):
    """A string in memory: its first byte is at `address`, and at `offset` in the input.

    `encoding` is a vocabulary.Encoding; `physical` is the address in the machine's memory, None if the input is not an
    image. `segment` is the one that holds it.
    """

    address: int
    text: str
    encoding: str
    offset: int
    physical: int | None
    segment: Segment


class StringSearch:
    """A search for strings in several processes' segments: `parts`. Iterating yields them in columns, in order.

    `cut` is how many were longer than `max_length` so far; `lost` has the part, address and size of what could not be
    read. Raises UsageError for limits that are out of range, and for unknown encodings; reading raises
    SourceReadError.
    """

    def __init__(
        self,
        parts: Sequence[tuple[AddressSpace, Segments]],
        encodings: Collection[str],
        min_length: int = MIN_LENGTH,
        max_length: int = MAX_LENGTH,
        progress: Progress | None = None,
        *,
        threads: int | None = None,
        block: int = BLOCK,
    ) -> None:
        """Prepare a search; `progress` is called with the bytes that are done and the total."""
        if not SHORTEST <= min_length <= max_length <= LONGEST:
            raise UsageError(
                f"strings cannot have from {min_length} to {max_length} characters",
                remedy=f"{{min_length}} is at least {SHORTEST}, {{max_length}} at most {LONGEST} and not less",
            )
        words = {Encoding(word) for word in encodings}
        if not words:
            raise UsageError("no encoding to look for strings in", remedy=f"choose from {', '.join(Encoding)}")
        search = WindowSearch(words, min_length, max_length)
        self._searching = EachOnce(parts, search, threads=threads, block=block, kept=_KEPT)
        self._joining = Joining(min_length, max_length)
        self._progress = progress
        self._done = 0
        self.total = self._searching.total
        self.lost: list[tuple[int, int, int]] = []

    @property
    def same(self) -> int:
        """How many bytes were not searched so far, because the same ones were."""
        return self._searching.same

    @property
    def cut(self) -> int:
        """How many strings were cut so far."""
        return self._joining.cut

    def __iter__(self) -> Iterator[Batch]:
        for found in self._searching:
            yield from self._joining.add(found)
            self.lost += [(found.part, start, size) for start, size in found.lost]
            self._done += found.end - found.start
            if self._progress is not None:
                self._progress(self._done, self.total)
        yield from self._joining.rest()


def places(space: AddressSpace, address: U64) -> tuple[U64, U64 | None]:
    """Return where addresses that are there (uint64) lie in the backing, and in a machine's memory (uint64).

    The second is None if the space is not of an image.
    """
    extent = np.searchsorted(space.start, address, "right") - 1
    away = address - space.start[extent]
    physical = None if space.physical is None else space.physical[extent] + away
    return space.offset[extent] + away, physical


def strings(
    where: Where,
    min_length: int = MIN_LENGTH,
    encodings: Collection[str] = (Encoding.UTF_8, Encoding.UTF_16_LE),
    *,
    max_length: int = MAX_LENGTH,
    selection: Selection | None = None,
    segments: Segments | None = None,
    progress: Progress | None = None,
    failed: Callable[[ProcessEntry, MemcarveError], object] | None = None,
    unreadable: Callable[[ProcessMemory, int, int], object] | None = None,
) -> Iterator[ProcessHit[FoundString]]:
    """Return the strings of at least `min_length` characters in one process, several, or all of a container.

    They come process by process, in order of addresses, as they are found; what several share is searched once.
    `encodings` are words of vocabulary.Encoding; ``docs/hunting.md`` says what a string is in each. A string that is
    longer than `max_length` comes in pieces. `where`, `selection`, `segments`, `progress`, `failed` and `unreadable`
    are as for ``memcarve.find``. Raises UsageError for an unknown encoding, and for lengths out of range, and what
    opening and reading raise.
    """
    searched = SearchedProcesses(where, selection, segments, failed=failed, unreadable=unreadable)
    return _strings(searched, StringSearch(searched.parts, encodings, min_length, max_length, progress))


def _strings(searched: SearchedProcesses, search: StringSearch) -> Iterator[ProcessHit[FoundString]]:
    told = 0
    for batch in search:
        for lost in search.lost[told:]:
            searched.lose(*lost)
        told = len(search.lost)
        space, segments = searched.parts[batch.part]
        offset, physical = places(space, batch.address)
        frames = [None] * len(offset) if physical is None else physical.tolist()
        of = {row: segments[row] for row in distinct(batch.row).tolist()}
        columns = batch.address.tolist(), batch.texts, batch.code.tolist(), offset.tolist(), frames, batch.row.tolist()
        for address, text, code, place, frame, row in zip(*columns, strict=True):
            yield searched.hit(batch.part, FoundString(address, text, ENCODINGS[code], place, frame, of[row]))
    for lost in search.lost[told:]:
        searched.lose(*lost)
