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
from memcarve.cli.progress_bar import OpeningBar
from memcarve.cli.wording import say, tell
from memcarve.errors import UsageError
from memcarve.formats.decoded_file import on_disk
from memcarve.note import Note
from memcarve.process import Selection, listed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.cli.option_groups import Input, MemoryFilters, Messages, OneProcess
    from memcarve.process import Container, ProcessMemory


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
