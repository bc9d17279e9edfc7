"""The command that takes programs and libraries out of memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    address_range,
    choice,
    choose,
    file_argument,
    input_options,
    process_options,
    process_words,
    quiet_options,
    say,
    say_notes,
    size,
    stem_of,
)
from memcarve.cli.progress import ProgressBar, amount, counted
from memcarve.cli.wording import complain
from memcarve.errors import printable
from memcarve.vocabulary import Half, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import ProcessMemory
    from memcarve.sinks.extract import ExtractResult
    from memcarve.sinks.severalmodules import Extracted


@click.command()
@file_argument
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(),
    help="The folder (archive) to write; for several processes a folder with one of each.  [default: STEM.modules]",
)
@click.option("--force", is_flag=True, help="Replace what memcarve extracted before, once the new one is whole.")
@click.option(
    "--layout",
    type=choice(Layout),
    default="file",
    show_default=True,
    help="As a file that tools parse: each section where its header says; or as it is mapped.",
)
@click.option("--zip", "archive", is_flag=True, help="Write one encrypted ZIP archive; its password is infected.")
@process_options
@click.option(
    "--all", "everything", is_flag=True, help="Every process, a folder (archive) each; none that is doubtful."
)
@click.option(
    "--range",
    "half",
    type=choice(Half),
    help="Which half of the space.  [default: all of a dump, user of an image; with --address all]",
)
@click.option(
    "--address",
    "addresses",
    type=address_range,
    multiple=True,
    metavar="A[-B]",
    help="Modules that hold the address, or touch the range (B is the first address outside); may be repeated.",
)
@click.option("--file", "files", metavar="GLOB", multiple=True, help="Modules of such a name or path.")
@click.option(
    "--largest",
    type=size,
    default="1G",
    show_default=True,
    metavar="SIZE",
    help="Headers may claim anything: no file becomes larger than this.",
)
@input_options
@quiet_options
def extract(
    file: str,
    output: str | None,
    layout: str,
    pid: Sequence[int],
    name: str | None,
    half: str | None,
    addresses: Sequence[tuple[int, int]],
    files: Sequence[str],
    largest: int,
    opening: dict[str, Any],
    *,
    everything: bool,
    force: bool,
    archive: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write each program and library in memory, listed or found by its PE or ELF header, into a file.

    What is not in memory is zeros in the files; modules.json says of each section what that is. The files may be
    malware: their names end in .bin, and --zip puts them into an encrypted archive.
    """
    from memcarve.labels.modules import find_modules  # noqa: PLC0415 - numpy is not needed for --help
    from memcarve.process import Selection  # noqa: PLC0415
    from memcarve.sinks.extract import ExtractOptions, extract  # noqa: PLC0415
    from memcarve.sinks.severalmodules import extract_several  # noqa: PLC0415
    from memcarve.sources import open_container  # noqa: PLC0415

    options = ExtractOptions(
        layout=layout, largest=largest, archive=archive, force=force, command=["memcarve", *sys.argv[1:]]
    )
    half = half or ("all" if addresses else None)  # an address may lie in either

    def one(process: ProcessMemory, out: str) -> ExtractResult:
        with ProgressBar("looking for modules", quiet=quiet) as progress:
            found = find_modules(process, Selection(range=half, address=addresses, file=files), progress=progress)
        with ProgressBar("extracting", quiet=quiet) as progress:
            result = extract(process, out, found.modules, options, progress=progress)
        return result._replace(notes=[*found.notes, *result.notes])

    with open_container(file, **opening) as container:
        indexes = choose(container, pid, name, everything=everything)
        stem = stem_of(opening["dump"] or file)
        if len(indexes) > 1 or (everything and len(container.processes()) > 1):
            out = output or f"{stem}.modules"
            several = extract_several(container, indexes, out, one, half=half, packed=archive, force=force)
            say([*container.remarks, *several.notes], quiet=quiet)
            return _report_several(out, several.outcomes, quiet=quiet)
        process = container.open_process(indexes[0], half or container.default_range)
        say_notes(process, quiet=quiet, verbose=verbose)
        stem = ".".join([stem, *process_words(process, indexes[0])])
        result = one(process, output or (f"{stem}.modules.zip" if archive else f"{stem}.modules"))
    if not quiet:
        _report(result)
    return COMPLETE if result.complete else INCOMPLETE


def _report_several(out: str, outcomes: Sequence[Extracted], *, quiet: bool) -> int:
    done = [outcome.result for outcome in outcomes if outcome.result is not None]
    for outcome in outcomes:
        if outcome.error is not None:
            complain(outcome.error, outcome.entry)
        elif outcome.result is not None and not quiet:
            click.echo(printable(f"{outcome.entry}:"), err=True)
            _report(outcome.result)
    if not quiet:
        click.echo(printable(f"{len(done)} of {len(outcomes)} processes: {out}"), err=True)
    return COMPLETE if len(done) == len(outcomes) and all(result.complete for result in done) else INCOMPLETE


def _report(result: ExtractResult) -> None:
    say(result.notes, quiet=False)
    if not result.complete:
        click.echo(
            "incomplete: bytes are known to be missing, or modules were refused; modules.json says which", err=True
        )
    missing = f", {amount(result.missing_bytes)} of them not in memory" if result.missing_bytes else ""
    line = f"{counted(result.files, 'file')} of {counted(result.modules, 'module')}, {amount(result.bytes)}{missing}"
    click.echo(printable(f"{line}, in {result.seconds:.2f} s: {result.path}"), err=True)
