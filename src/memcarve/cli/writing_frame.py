"""What the commands have in common that write: names after the input, and a report of several processes."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import click

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.wording import complain
from memcarve.errors import printable
from memcarve.sinks.several import folder_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.cli.option_groups import Messages, SeveralProcesses
    from memcarve.process import Container, ProcessMemory
    from memcarve.sinks.several import Outcome
    from memcarve.sinks.severalmodules import Extracted

_Ended = TypeVar("_Ended", "Outcome", "Extracted")


def are_several(container: Container, wanted: SeveralProcesses, indexes: Sequence[int]) -> bool:
    """Return True if several outputs are to be written: one that was taken of all is one of several."""
    return len(indexes) > 1 or (wanted.everything and len(container.processes()) > 1)


def stem_of(path: str) -> str:
    """Return an input's name without folder and endings: what is written is named after it.

    A number is not an ending: ``core.1234`` is a process's.
    """
    base = os.path.basename(os.path.normpath(path))
    for ending in (".gz", ".zst", ".xz"):
        base = base.removesuffix(ending)
    stem, ending = os.path.splitext(base)
    return base if ending[1:].isdigit() else stem or base


def process_words(process: ProcessMemory, index: int) -> list[str]:
    """Return what is added to an image's name in what is written: ``4-System``, or the page tables' root."""
    if not process.is_image:
        return []
    if process.pid is None:
        return [str(process.inputs["image"]["root"])]
    return [folder_name(process.entry, index, Counter())]


def finish_several(out: str, outcomes: Sequence[_Ended], messages: Messages, report: Callable[[_Ended], None]) -> int:
    """Print how each of several processes ended, `report` what was written of one; return the exit status."""
    done = [outcome.result for outcome in outcomes if outcome.result is not None]
    for outcome in outcomes:
        if outcome.error is not None:
            complain(outcome.error, outcome.entry)
        elif not messages.quiet:
            click.echo(printable(f"{outcome.entry}:"), err=True)
            report(outcome)
    if not messages.quiet:
        click.echo(printable(f"{len(done)} of {len(outcomes)} processes: {out}"), err=True)
    return COMPLETE if len(done) == len(outcomes) and all(result.complete for result in done) else INCOMPLETE
