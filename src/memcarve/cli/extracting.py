"""The command that takes programs and libraries out of memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, say_notes, selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import amount, counted, say
from memcarve.cli.writing_frame import are_several, finish_several, process_words, stem_of
from memcarve.errors import printable
from memcarve.labels.modules import find_modules
from memcarve.sinks.extract import ExtractOptions, extract as write_modules
from memcarve.sinks.severalmodules import extract_several
from memcarve.sources import open_container

if TYPE_CHECKING:
    from memcarve.cli.option_groups import ExtractOutput, Input, MemoryFilters, Messages, SeveralProcesses
    from memcarve.process import ProcessMemory
    from memcarve.sinks.extract import ExtractResult
    from memcarve.sinks.severalmodules import Extracted


def extract(
    file: str,
    processes: SeveralProcesses,
    filters: MemoryFilters,
    source: Input,
    write: ExtractOutput,
    messages: Messages,
) -> int:
    """Extract the modules of one process, or of several into a folder or archive each."""
    options = ExtractOptions(
        layout=write.layout,
        largest=write.largest,
        archive=write.archive,
        force=write.force,
        command=["memcarve", *sys.argv[1:]],
    )

    def one(process: ProcessMemory, out: str) -> ExtractResult:
        with ProgressBar("looking for modules", messages) as progress:
            found = find_modules(process, selection(filters), progress=progress)
        with ProgressBar("extracting", messages) as progress:
            result = write_modules(process, out, found.modules, options, progress=progress)
        return result._replace(notes=[*found.notes, *result.notes])

    with open_container(file, **vars(source)) as container:
        indexes = choose(container, processes)
        stem = stem_of(source.dump or file)
        if are_several(container, processes, indexes):
            out = write.output or f"{stem}.modules"
            several = extract_several(
                container, indexes, out, one, half=filters.half, packed=write.archive, force=write.force
            )
            say([*container.warnings, *several.notes], quiet=messages.quiet)

            def report(outcome: Extracted) -> None:
                if outcome.result is not None:
                    _report(outcome.result)

            return finish_several(out, several.outcomes, messages, report)
        process = container.open_process(indexes[0], filters.half or container.default_half)
        say_notes(process, messages)
        stem = ".".join([stem, *process_words(process, indexes[0])])
        result = one(process, write.output or (f"{stem}.modules.zip" if write.archive else f"{stem}.modules"))
    if not messages.quiet:
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
