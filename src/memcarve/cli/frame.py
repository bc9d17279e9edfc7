"""What commands have in common: opening an input, choosing its processes, the end."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from memcarve import sources
from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.option_groups import SeveralProcesses
from memcarve.cli.printed_tables import Column
from memcarve.cli.progress_bar import OpeningBar
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import UsageError
from memcarve.formats.decoded_file import on_disk
from memcarve.hunting.chosen import opened
from memcarve.note import Note
from memcarve.process import Selection, listed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.cli.option_groups import Input, MemoryFilters, Messages, OneProcess
    from memcarve.cli.printed_tables import Cell
    from memcarve.errors import MemcarveError
    from memcarve.hunting.chosen import Part
    from memcarve.process import Container, ProcessEntry, ProcessMemory


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
    if output is not None and how.get("temp") is None:
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


class Chosen:
    """The processes that were chosen of an input, for commands that list what they find in each.

    `several`: rows say which process they are of. Iterating opens one after the other; one that cannot be opened is
    said on standard error, and does not stop the others, unless it is the only one.
    """

    def __init__(self, container: Container, wanted: SeveralProcesses, half: str | None) -> None:
        """Choose; raises UsageError, ProcessError. Without `half`, the input's default half is used."""
        self.container = container
        self.indexes = choose(container, wanted)
        self.several = wanted.everything or len(self.indexes) > 1
        self.failed = 0
        self.incomplete = container.unreadable
        self._half = half
        self._opened: list[ProcessMemory] = []

    def __iter__(self) -> Iterator[Part]:
        for part in opened(self.container, self.indexes, self._half):
            if part.error is not None and not self.several:
                raise part.error
            if part.error is None:
                self._opened.append(part.opened)
                yield part
            else:
                self.fail(part.entry, part.error)

    def fail(self, entry: ProcessEntry, error: MemcarveError) -> None:
        """Say that a process failed; raise its error if it is the only one."""
        if not self.several:
            raise error
        self.failed += 1
        complain(error, entry)

    @property
    def columns(self) -> list[Column]:
        """The columns that say which process a row is of; none if there is only one."""
        return [Column("pid", "number"), Column("process", "text")] if self.several else []

    def cells(self, entry: ProcessEntry) -> list[Cell]:
        """Return the cells of these columns."""
        return [entry.pid, entry.name] if self.several else []

    def finish(self, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
        """Print notes and the summary after the data; return the exit status."""
        sys.stdout.flush()
        incomplete = self.incomplete
        if self.several:
            say(dict.fromkeys(self.container.warnings), quiet=messages.quiet)
            if self.failed:
                tell(f"{counted(self.failed, 'process')} of {len(self.indexes)} failed", quiet=messages.quiet)
        for process in self._opened:
            incomplete |= process.incomplete
            if not self.several:
                say_notes(process, messages)
            else:
                run_log.record_inputs(process.used_inputs)
                own = process.notes if messages.verbose else process.warnings
                say([f"{process.entry}: {note}" for note in own], quiet=messages.quiet)
        say(notes, quiet=messages.quiet)
        tell(summary, quiet=messages.quiet)
        return INCOMPLETE if incomplete or self.failed else COMPLETE


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
