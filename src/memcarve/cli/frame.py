"""What commands have in common: open an input, choose its processes, say how it ended."""

from __future__ import annotations

import contextlib
import fnmatch
import sys
from typing import TYPE_CHECKING

import click

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.option_groups import SeveralProcesses
from memcarve.cli.wording import say
from memcarve.errors import ProcessError, UsageError
from memcarve.process import Selection
from memcarve.sources import open_container

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.cli.option_groups import Input, MemoryFilters, Messages, OneProcess
    from memcarve.process import Container, ProcessMemory


def selection(filters: MemoryFilters) -> Selection:
    """Return what options choose as the library takes it."""
    return Selection(filters.half, **{name: value for name, value in vars(filters).items() if name != "given_half"})


@contextlib.contextmanager
def one_process(
    file: str, wanted: OneProcess, source: Input, half: str | None = "all", span: tuple[int, int] | None = None
) -> Iterator[ProcessMemory]:
    """Open an input and choose its one process; None is the half that is the input's default.

    With `span` (addresses, half-open) no more of it than that is needed.
    """
    with open_container(file, **vars(source)) as container:
        index = choose_one(container, wanted)
        if span is None:
            yield container.open_process(index, half or container.default_range)
        else:
            yield container.open_span(index, *span)


def choose(container: Container, wanted: OneProcess) -> list[int]:
    """Return the places of the processes that were asked for; raises UsageError, ProcessError."""
    pids, name = wanted.pid, wanted.name
    several = isinstance(wanted, SeveralProcesses)
    everything = isinstance(wanted, SeveralProcesses) and wanted.everything
    entries = container.known(pids if name is None and not everything else [])
    if everything and (pids or name is not None):
        raise UsageError("--all takes every process; --pid and --name choose", remedy="give one or the other")
    certain = {index for index, entry in enumerate(entries) if not entry.doubts}
    if everything:
        return sorted(certain)
    if (pids or name is not None) and len(entries) == 1 and entries[0].pid is None and entries[0].root is not None:
        raise UsageError(
            "--dtb gives one address space by itself; --pid and --name choose processes", remedy="leave them out"
        )
    if not pids and name is None:
        if len(entries) > 1:
            raise container.choice(entries, f"choose with --pid or --name{', or take --all' if several else ''}")
        return [0]
    found = [index for pid in pids for index in container.matching(entries, pid)]
    if name is not None:
        pattern = name.lower()
        named = [place for place, each in enumerate(entries) if fnmatch.fnmatchcase((each.name or "").lower(), pattern)]
        found += [index for index in named if index in certain]
        if not found and named:
            raise ProcessError(
                f"only doubtful processes are named like {name!r} ({_listed(container, named)})",
                subject=str(container),
                remedy="take them with --pid, or with --dtb by their root",
            )
        if not found:
            raise ProcessError(f"no process is named like {name!r}", subject=str(container))
    return list(dict.fromkeys(found))


def choose_one(container: Container, wanted: OneProcess) -> int:
    """Return the place of the one process that was asked for."""
    found = choose(container, wanted)
    if len(found) > 1:
        raise UsageError(
            f"several processes match ({_listed(container, found)})",
            subject=str(container),
            remedy="this command takes one",
        )
    return found[0]


def _listed(container: Container, indexes: Sequence[int]) -> str:
    return ", ".join(str(container.entry(index)) for index in indexes[:40])


def say_notes(process: ProcessMemory, messages: Messages) -> None:
    """Print which files were taken; and the rest if something is wrong with them, or if it is asked for."""
    everything = messages.verbose or process.incomplete or process.is_image or process.positions in {"printed", "sum"}
    say(process.notes if everything else process.notes[:1], quiet=messages.quiet)


def finish(process: ProcessMemory, messages: Messages, summary: str, notes: Iterable[str] = ()) -> int:
    """Print what is to be said when all data is printed; return the exit status."""
    sys.stdout.flush()
    say_notes(process, messages)
    say(notes, quiet=messages.quiet)
    if not messages.quiet:
        click.echo(summary, err=True)
    return INCOMPLETE if process.incomplete else COMPLETE
