"""The comparison of several processes of two inputs, and which of them began and ended in between."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from memcarve.cli.difference_rows import doubts
from memcarve.cli.frame import Outcome, process_columns, selection
from memcarve.cli.printed_tables import print_table
from memcarve.cli.wording import say, tell
from memcarve.errors import MemcarveError, UsageError
from memcarve.hunting.chosen_processes import KERNEL, kernel
from memcarve.labels import Labelling
from memcarve.process import listed_of
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.difference_rows import DifferenceRows
    from memcarve.cli.option_groups import Messages, SegmentFilters
    from memcarve.hunting.process_pairs import Pair
    from memcarve.process import Container, ProcessEntry, ProcessMemory
    from memcarve.segments import Segments

BEGAN, ENDED = "process began", "process ended"


def compare_several(
    was: Container,
    now: Container,
    pairs: Sequence[Pair],
    listed: DifferenceRows,
    filters: SegmentFilters,
    messages: Messages,
) -> int:
    """Print what became of several processes, and of the kernel's half once; return the exit status.

    One that fails does not stop the others.
    """
    several = _Several(was, now, listed, filters)
    entries = [each.entry(index) for pair in pairs for each, index in several.sides(pair)]
    print_table(listed.layout, listed.title, [*process_columns(entries), *listed.columns], several.rows(pairs))
    listed.clear()
    sys.stdout.flush()
    for each in (was, now):
        say(each.warnings, quiet=messages.quiet)
    for words, found in ((BEGAN, several.began), (ENDED, several.ended)):
        if found:
            tell(f"{words}: {listed_of(found)}", quiet=messages.quiet)
    gone = {entry.pid: entry for entry in several.ended if entry.pid is not None}
    reused = [
        f"{entry} is another process than {gone[entry.pid]} was: the number was used again"
        for entry in several.began
        if entry.pid in gone
    ]
    return several.end(messages, listed.summary, reused)


class _Several(Outcome):
    """Compares pairs of processes, and keeps which `began` and `ended`."""

    def __init__(self, was: Container, now: Container, listed: DifferenceRows, filters: SegmentFilters) -> None:
        super().__init__()
        self.began: list[ProcessEntry] = []
        self.ended: list[ProcessEntry] = []
        self.incomplete = was.unreadable or now.unreadable
        self._was = was
        self._now = now
        self._listed = listed
        self._filters = filters
        images = was.default_half == now.default_half == Half.USER
        # of two images the kernel's half is compared once, not with each process
        self._kernel = images and filters.half not in (None, Half.USER)
        self._half = Half.USER if self._kernel else filters.half

    def fail(self, entry: ProcessEntry, error: MemcarveError) -> None:
        """Say that a process failed."""
        self._listed.clear()
        super().fail(entry, error)

    def sides(self, pair: Pair) -> list[tuple[Container, int]]:
        """Return where the process of a pair is, and its place there."""
        both = (self._was, pair.was), (self._now, pair.now)
        return [(container, index) for container, index in both if index is not None]

    def rows(self, pairs: Sequence[Pair]) -> Iterator[list[Any]]:
        """Yield the rows of all: of the processes that were there before, of those that began, of the kernel."""
        for pair in pairs if self._filters.half != Half.KERNEL or not self._kernel else ():
            *_, (container, index) = self.sides(pair)
            entry = container.entry(index)
            try:
                for row in self._pair(pair):
                    yield [entry.pid, entry.name, *row]
            except MemcarveError as error:
                self.fail(entry, error)
            self.tried += 1
            sys.stdout.flush()  # whoever reads the rows need not wait for those of the next
        if self._kernel:
            try:
                for row in self._kernels(pairs):
                    yield [KERNEL.pid, KERNEL.name, *row]
            except MemcarveError as error:
                self.fail(KERNEL, error)
            self.tried += 1

    def _pair(self, pair: Pair) -> Iterator[list[Any]]:
        was = None if pair.was is None else self._was.entry(pair.was)
        now = None if pair.now is None else self._now.entry(pair.now)
        gone = was is not None and bool(was.ended)
        if pair.was is not None and (now is None or (now.ended and not gone)):
            if was is not None and not gone:
                self.ended.append(was)
                yield from self._one_sided(ENDED, self._was, pair.was)
        elif pair.now is not None and now is not None and was is None:
            self.began.append(now)
            yield from self._one_sided(BEGAN, self._now, pair.now)
        elif pair.was is not None and pair.now is not None:
            yield from self._compared(self._open(self._was, pair.was), self._open(self._now, pair.now))

    def _open(self, container: Container, index: int) -> ProcessMemory:
        return container.process(index=index, half=self._half or container.default_half)

    def _compared(
        self, was: ProcessMemory, now: ProcessMemory, entry: ProcessEntry | None = None
    ) -> Iterator[list[Any]]:
        try:
            compared = self._listed.compared(was, now)
        except UsageError:
            if len(was.space) or len(now.space):
                raise
            return  # nothing of it was or is in memory
        yield from self._listed.rows(compared)
        for container, process in ((self._was, compared.was), (self._now, compared.now)):
            self.note_process(entry or process.entry, process, container)
        if entry is None:
            self.note(compared.now.entry, doubts(compared.was, compared.now))

    def _kernels(self, pairs: Sequence[Pair]) -> Iterator[list[Any]]:
        places = (
            [pair.was for pair in pairs if pair.was is not None],
            [pair.now for pair in pairs if pair.now is not None],
        )
        sides = zip((self._was, self._now), places, strict=True)
        was, now = (kernel(container, found or container.certain()) for container, found in sides)
        yield from self._compared(was.opened, now.opened, KERNEL)

    def _one_sided(self, state: str, container: Container, index: int) -> Iterator[list[Any]]:
        """Yield the row of a process that is on one side only."""
        process = self._open(container, index)
        segments, nothing = self._segments(process), process.space.segments()[:0]
        self.note_process(process.entry, process, container)
        self._listed.listed[state] += 1
        if not self._listed.of_pages:
            yield self._listed.whole(state, *((nothing, segments) if state == BEGAN else (segments, nothing)))

    def _segments(self, process: ProcessMemory) -> Segments:
        try:
            chosen = selection(self._filters, process)
            return process.segments(chosen, labeller=Labelling() if chosen.by_labels else None)
        except UsageError:
            if len(process.space):
                raise
            return process.space.segments()
