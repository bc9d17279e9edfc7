"""What commands have in common: opening an input, choosing its processes, the end."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from memcarve import sources
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.option_groups import SeveralProcesses
from memcarve.cli.wording import say
from memcarve.errors import UsageError
from memcarve.process import Selection, listed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.cli.option_groups import Input, MemoryFilters, Messages, OneProcess
    from memcarve.process import Container, ProcessMemory


def selection(filters: MemoryFilters) -> Selection:
    """Return what options choose as the library takes it."""
    return Selection(filters.half, **{name: value for name, value in vars(filters).items() if name != "given_half"})


@contextlib.contextmanager
def one_process(
    file: str, wanted: OneProcess, source: Input, half: str | None = "all", span: tuple[int, int] | None = None
) -> Iterator[ProcessMemory]:
    """Open an input and choose its one process; without `half`, the input's default half is used.

    With `span` (addresses, half-open), only that part is needed.
    """
    with sources.open(file, **vars(source)) as container:
        index = choose_one(container, wanted)
        if span is None:
            yield container.process(index=index, half=half or container.default_half)
        else:
            yield container.open_span(index, *span)


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
    """Print which files were used; all notes with --verbose, or if there is something to know about them."""
    everything = messages.verbose or process.incomplete or process.is_image or process.positions in {"printed", "sum"}
    say(process.notes if everything else process.notes[:1], quiet=messages.quiet)


def finish(process: ProcessMemory, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
    """Print notes and the summary after the data; return the exit status."""
    sys.stdout.flush()
    say_notes(process, messages)
    say(notes, quiet=messages.quiet)
    if not messages.quiet:
        click.echo(summary, err=True)
    return INCOMPLETE if process.incomplete else COMPLETE
