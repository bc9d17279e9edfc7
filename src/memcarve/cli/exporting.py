"""The command that writes one process's memory in another program's format."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    choose,
    complain,
    file_argument,
    input_options,
    process_options,
    quiet_options,
    say,
)
from memcarve.cli.progress import ProgressBar, amount, counted
from memcarve.errors import MemcarveError, NoSpaceError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.sinks.memmap import ExportResult


@click.command()
@file_argument
@click.option(
    "--to",
    "kind",
    type=click.Choice(["memmap"]),
    required=True,
    help="What to write. memmap: pid.N.map and pid.N.dmp as Volatility's windows.memmap --dump writes them.",
)
@click.option("-o", "--output", metavar="DIR", type=click.Path(), default=".", help="The folder to write them into.")
@click.option(
    "--format",
    "renderer",
    type=click.Choice(["quick", "csv", "json", "jsonl"]),
    default="quick",
    show_default=True,
    help="How the map is written.",
)
@click.option("--force", is_flag=True, help="Replace a map that memcarve wrote, and its dump.")
@process_options
@click.option("--all", "everything", is_flag=True, help="Every process.")
@click.option(
    "--range",
    "half",
    type=click.Choice(["user", "kernel", "all"]),
    default="all",
    show_default=True,
    help="Which half of the space.",
)
@input_options
@quiet_options
def export(
    file: str,
    kind: str,  # noqa: ARG001 - there is one so far
    output: str,
    renderer: str,
    pid: Sequence[int],
    name: str | None,
    half: str,
    opening: dict[str, Any],
    *,
    force: bool,
    everything: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write a process's memory in the format of another program."""
    from memcarve.sinks.memmap import export_memmap, stem_of  # noqa: PLC0415 - numpy is not needed for --help
    from memcarve.sources import open_container  # noqa: PLC0415

    with open_container(file, **opening) as container:
        indexes = choose(container, pid, name, everything=everything)
        statuses = []
        taken: Counter[str] = Counter()
        for index in indexes:
            try:
                process = container.open_process(index, half)
                say(process.notes, quiet=quiet)
                stem = stem_of(process)
                # of two processes with one number the second is called as Volatility does it
                again = f"-{taken[stem]}" if taken[stem] else ""
                taken[stem] += 1
                with ProgressBar("exporting", quiet=quiet) as progress:
                    result = export_memmap(
                        process,
                        output,
                        half=half,
                        renderer=renderer,
                        stem=stem + again,
                        force=force,
                        progress=progress,
                    )
            except NoSpaceError:
                raise
            except MemcarveError as error:
                if len(indexes) == 1:
                    raise
                complain(str(error))
                statuses.append(False)
            else:
                _report(result, quiet=quiet, verbose=verbose)
                statuses.append(result.complete)
    return COMPLETE if all(statuses) else INCOMPLETE


def _report(result: ExportResult, *, quiet: bool, verbose: bool) -> None:
    if quiet:
        return
    for left in result.left_out:
        click.echo(f"left out: {counted(left.bytes, 'byte')}: {left.reason}", err=True)
    for way, count in result.moved.items() if verbose else ():
        click.echo(f"moved: {counted(count, 'byte')} by {way}", err=True)
    rate = result.bytes / max(result.seconds, 1e-9)
    line = f"{counted(result.rows, 'row')}, {amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s)"
    click.echo(printable(f"{line}: {result.map}, {result.dump}"), err=True)
