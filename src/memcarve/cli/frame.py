"""What commands have in common: opening an input, choosing its processes, the end."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from memcarve import sources
from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, FAILED, INCOMPLETE, USAGE
from memcarve.cli.option_groups import SeveralProcesses
from memcarve.cli.progress_bar import OpeningBar
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import MemcarveError, UsageError, printable
from memcarve.file_systems import on_disk
from memcarve.formats.tables.table_cells import Column
from memcarve.hunting.chosen_processes import KERNEL, opened
from memcarve.labels import Labelling
from memcarve.note import Note
from memcarve.process import Selection, listed_of
from memcarve.remote.locations import is_location
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.cli.option_groups import Input, MemoryFilters, Messages, OneProcess, SegmentFilters
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.chosen_processes import Part
    from memcarve.process import Container, ProcessEntry, ProcessMemory
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


def selection(filters: MemoryFilters, *processes: ProcessMemory) -> Selection:
    """Return what options choose as the library takes it; addresses in modules are looked up in all the processes.

    Raises UsageError if a module is not known.
    """
    given = {name: value for name, value in vars(filters).items() if name not in ("given_half", "address")}
    bounds = dict.fromkeys(process.bounds_of(written) for written in filters.address for process in processes)
    return Selection(filters.half, tuple(bounds), **given)


@contextlib.contextmanager
def open_input(
    file: str, options: dict[str, Any], messages: Messages, output: str | None = None
) -> Iterator[Container]:
    """Open an input with the library's options, and show how far decoding or searching it is.

    A compressed one is decoded beside the `output`, if there is one.
    """
    how = dict(options)
    if output is not None and how.get("temp") is None and not is_location(output):
        how["temp"] = on_disk(os.path.dirname(os.path.abspath(output)))
    with OpeningBar(messages) as progress, sources.open(file, progress=progress, **how) as container:
        yield container


@contextlib.contextmanager
def one_process(
    file: str, wanted: OneProcess, source: Input, messages: Messages, half: str | None = "all"
) -> Iterator[ProcessMemory]:
    """Open an input and choose its one process; without `half`, the input's default half is used."""
    with open_input(file, vars(source), messages) as container:
        index = choose_one(container, wanted)
        yield container.process(index=index, half=half or container.default_half)


def choose(container: Container, wanted: OneProcess) -> list[int]:
    """Return the indices of the chosen processes; raises UsageError, ProcessError."""
    if isinstance(wanted, SeveralProcesses) and wanted.everything:
        if wanted.pid or wanted.name is not None:
            raise UsageError("--all takes every process; --pid and --name choose", remedy="give one or the other")
        return container.certain()
    try:
        return container.choose(wanted.pid, wanted.name)
    except UsageError as error:
        if isinstance(wanted, SeveralProcesses) and not wanted.pid and wanted.name is None:
            error.suggest("--all takes every one")
        raise


def choose_one(container: Container, wanted: OneProcess) -> int:
    """Return the index of the one chosen process; raises UsageError, ProcessError."""
    found = choose(container, wanted)
    if len(found) > 1:
        listed = listed_of(container.entry(index) for index in found)
        problem = f"several processes match ({listed})"
        raise UsageError(problem, subject=str(container), remedy="this command takes one")
    return found[0]


def process_columns(entries: Iterable[ProcessEntry]) -> list[Column]:
    """Return the columns that say which process a row is of, wide enough for some processes and for the kernel."""
    listed = list(entries)
    pids = [len(str(entry.pid)) for entry in listed if entry.pid is not None]
    names = [len(printable(entry.name)) for entry in [*listed, KERNEL] if entry.name is not None]
    return [Column("pid", "number", max(pids, default=1)), Column("process", "text", max(names))]


class Outcome:
    """How the work on several processes went: which failed, and what is to be said of each in the end."""

    def __init__(self) -> None:
        self.tried = self.failed = 0
        self.incomplete = False
        self._first: MemcarveError | None = None
        self._said: dict[str, bool] = {}  # what it is, and whether it must not be missed

    def fail(self, entry: ProcessEntry, error: MemcarveError) -> None:
        """Say that a process failed."""
        self.failed += 1
        self._first = self._first or error
        complain(error, None if error.subject == str(entry) else entry)

    def note(self, entry: ProcessEntry, notes: Iterable[str], *, must: bool = True) -> None:
        """Keep notes about a process for the end; others than those that `must` be are said if asked for."""
        for note in notes:
            more = note.more if isinstance(note, Note) else ""
            about = "" if note.startswith(f"{entry} ") else f"{entry}: "
            text = f"{about}{note}{more}"
            self._said[text] = must or self._said.get(text, False)

    def note_process(self, entry: ProcessEntry, process: ProcessMemory, container: Container) -> None:
        """Keep what is to be said of a process that was used, and whether bytes of it are missing."""
        run_log.record_inputs(process.used_inputs)
        self.incomplete |= process.incomplete
        of_all, warnings = container.warnings, process.warnings
        self.note(entry, warnings)
        self.note(entry, (note for note in process.notes if note not in (*of_all, *warnings)), must=False)

    def end(self, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
        """Print notes and the summary; return the exit status: if all failed, that of the first one's error."""
        say([*(text for text, must in self._said.items() if must or messages.verbose), *notes], quiet=messages.quiet)
        if self.failed:
            tell(f"{counted(self.failed, 'process')} of {self.tried} failed", quiet=messages.quiet)
        tell(summary, quiet=messages.quiet)
        if self._first is not None and self.failed == self.tried:
            return USAGE if isinstance(self._first, UsageError) else FAILED
        return INCOMPLETE if self.incomplete or self.failed else COMPLETE


class Chosen(Outcome):
    """The processes that were chosen of an input, for commands that list what they find in each.

    `several`: rows say which process they are of. Iterating opens one after the other; one that cannot be opened is
    said on standard error, and does not stop the others, unless it is the only one.
    """

    def __init__(self, container: Container, wanted: SeveralProcesses, half: str | None) -> None:
        """Choose; raises UsageError, ProcessError. Without `half`, the input's default half is used."""
        super().__init__()
        self.container = container
        self.indexes = choose(container, wanted)
        self.several = wanted.everything or len(self.indexes) > 1
        self.incomplete = self.several and container.unreadable
        self._half = half
        self._notes: list[str] = []
        self._opened: dict[tuple[int, bool], tuple[ProcessEntry, ProcessMemory]] = {}

    def __iter__(self) -> Iterator[Part]:
        for part in opened(self.container, self.indexes, self._half):
            self.tried += 1
            if part.error is not None and not self.several:
                raise part.error
            if part.error is None:
                self._opened[part.place, part.is_kernel] = part.entry, part.opened
                yield part
            else:
                self.fail(part.entry, part.error)
            del part  # its memory is not kept while the next one is opened

    @property
    def is_image(self) -> bool:
        """Whether they are an image's, in which page tables say what they allow."""
        return self.container.default_half == Half.USER

    def rows(self, work: Callable[[Part], Iterable[Sequence[Cell]]], asked: str | None = None) -> Iterator[list[Cell]]:
        """Yield the rows that `work` makes of each process, and before them the cells that say which it is.

        One that fails does not stop the others, and what was found of it stays. `asked` is the half that was asked for:
        if it is None the kernel's may be there although nobody wants it, and then it does not matter if it fails.
        """
        for part in self:
            cells = self.cells(part.entry)
            try:
                for row in work(part):
                    yield [*cells, *row]
            except MemcarveError as error:
                self.fail_with(part, error, asked)
            if self.several:
                sys.stdout.flush()  # whoever reads the rows need not wait for those of the next
            del part

    def fail_with(self, part: Part, error: MemcarveError, asked: str | None) -> None:
        """Say that the work on a process failed, unless it has nothing that could have been found."""
        nothing = isinstance(error, UsageError) and self.several and not len(part.opened.space)
        if not nothing and not (part.is_kernel and asked is None):
            self.fail(part.entry, error)
            return
        self.tried -= 1
        if nothing:
            self._opened.pop((part.place, part.is_kernel), None)
            self.note(part.entry, [f"nothing of it is in memory, and {error.problem}"])

    def done(self, part: Part, memory: ProcessMemory, notes: Iterable[str] = ()) -> None:
        """Take note of what is to be said of a process in the end: of several, its memory need not be kept for that.

        `memory` is what was used of it, `notes` are what else there is to say.
        """
        self._opened[part.place, part.is_kernel] = part.entry, memory
        if not self.several:
            self._notes += notes
            return
        self.note_process(*self._opened.pop((part.place, part.is_kernel)), self.container)
        self.note(part.entry, notes)

    def fail(self, entry: ProcessEntry, error: MemcarveError) -> None:
        """Say that a process failed; raise its error if it is the only one."""
        if not self.several:
            raise error
        super().fail(entry, error)

    @property
    def columns(self) -> list[Column]:
        """The columns that say which process a row is of; none if there is only one."""
        return process_columns(map(self.container.entry, self.indexes)) if self.several else []

    def cells(self, entry: ProcessEntry) -> list[Cell]:
        """Return the cells of these columns."""
        return [entry.pid, entry.name] if self.several else []

    @property
    def words(self) -> str:
        """What a summary adds: of how many processes; nothing if there is only one."""
        return f", in {counted(len(self.indexes), 'process')}" if self.several else ""

    def parts(self, filters: SegmentFilters) -> tuple[list[Part], list[tuple[AddressSpace, Segments]]]:
        """Open all of them; return those that can be searched, and the segments that are wanted of their memory."""
        able: list[Part] = []
        parts: list[tuple[AddressSpace, Segments]] = []
        for part in self:
            try:
                limits = selection(filters, part.opened)
                segments = part.opened.segments(limits, labeller=Labelling() if limits.by_labels else None)
            except MemcarveError as error:
                self.fail_with(part, error, filters.half)
                continue
            able.append(part)
            parts.append((part.opened.space, segments))
        return able, parts

    def finish(self, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
        """Print notes and the summary after the data; return the exit status.

        If all of several failed, it is that of the first one's error.
        """
        sys.stdout.flush()
        if self.several:
            say(dict.fromkeys(self.container.warnings), quiet=messages.quiet)
        for entry, process in self._opened.values():
            if self.several:
                self.note_process(entry, process, self.container)
            else:
                self.incomplete |= process.incomplete
                say_notes(process, messages)
        return self.end(messages, summary, [*self._notes, *notes])


@contextlib.contextmanager
def several_processes(
    file: str, wanted: SeveralProcesses, source: Input, messages: Messages, half: str | None = None
) -> Iterator[Chosen]:
    """Open an input and choose one of its processes, several or all."""
    with open_input(file, vars(source), messages) as container:
        yield Chosen(container, wanted, half)


def say_notes(process: ProcessMemory, messages: Messages) -> None:
    """Print which files were used and what must not be missed; all notes with --verbose, or if they matter."""
    run_log.record_inputs(process.used_inputs)
    everything = messages.verbose or process.incomplete or process.is_image or process.positions in {"printed", "sum"}
    notes = process.notes
    few = [*notes[:1], *(note for note in notes[1:] if isinstance(note, Note))]
    say(notes if everything else few, quiet=messages.quiet)


def finish(process: ProcessMemory, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
    """Print notes and the summary after the data; return the exit status."""
    sys.stdout.flush()
    say_notes(process, messages)
    say(notes, quiet=messages.quiet)
    tell(summary, quiet=messages.quiet)
    return INCOMPLETE if process.incomplete else COMPLETE
