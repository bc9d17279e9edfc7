"""The command that takes programs and libraries out of memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    address_range,
    file_argument,
    input_options,
    open_one,
    process_options,
    process_words,
    quiet_options,
    say,
    say_notes,
    size,
    stem_of,
)
from memcarve.cli.progress import ProgressBar, amount, counted
from memcarve.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.sinks.extract import ExtractResult


@click.command()
@file_argument
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(),
    help="The folder (archive) to write.  [default: STEM.modules]",
)
@click.option("--force", is_flag=True, help="Replace what memcarve extracted before, once the new one is whole.")
@click.option(
    "--layout",
    type=click.Choice(["file", "memory"]),
    default="file",
    show_default=True,
    help="As a file that tools parse: each section where its header says; or as it is mapped.",
)
@click.option("--zip", "archive", is_flag=True, help="Write one encrypted ZIP archive; its password is infected.")
@process_options
@click.option(
    "--range",
    "half",
    type=click.Choice(["user", "kernel", "all"]),
    help="Which half of the space.  [default: all of a dump, user of an image]",
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

    options = ExtractOptions(
        layout=layout, largest=largest, archive=archive, force=force, command=["memcarve", *sys.argv[1:]]
    )
    with open_one(file, pid, name, opening, half) as process:
        say_notes(process, quiet=quiet, verbose=verbose)
        stem = ".".join([stem_of(opening["dump"] or file), *process_words(process, 0)])
        out = output or (f"{stem}.modules.zip" if archive else f"{stem}.modules")
        with ProgressBar("looking for modules", quiet=quiet) as progress:
            found = find_modules(process, Selection(range=half, address=addresses, file=files), progress=progress)
        say(found.notes, quiet=quiet)
        with ProgressBar("extracting", quiet=quiet) as progress:
            result = extract(process, out, found.modules, options, progress=progress)
    if not quiet:
        _report(result)
    return COMPLETE if result.complete else INCOMPLETE


def _report(result: ExtractResult) -> None:
    say(result.notes, quiet=False)
    if not result.complete:
        click.echo(
            "incomplete: bytes are known to be missing, or modules were refused; modules.json says which", err=True
        )
    missing = f", {amount(result.missing_bytes)} of them not in memory" if result.missing_bytes else ""
    line = f"{counted(result.files, 'file')} of {counted(result.modules, 'module')}, {amount(result.bytes)}{missing}"
    click.echo(printable(f"{line}, in {result.seconds:.2f} s: {result.path}"), err=True)
