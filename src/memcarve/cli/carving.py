"""The command that writes carved folders."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import amount, counted, say
from memcarve.cli.writing_frame import are_several, finish_several, process_words, stem_of
from memcarve.errors import UsageError, printable
from memcarve.labels import Labelling
from memcarve.sinks import carved_folder
from memcarve.sinks.several import carve_several
from memcarve.sources import open_container

if TYPE_CHECKING:
    from memcarve.cli.option_groups import CarveOutput, Input, Messages, SegmentFilters, Segmenting, SeveralProcesses
    from memcarve.sinks.carved_folder import CarveResult
    from memcarve.sinks.several import Outcome


def carve(
    file: str,
    processes: SeveralProcesses,
    filters: SegmentFilters,
    segmenting: Segmenting,
    source: Input,
    write: CarveOutput,
    messages: Messages,
) -> int:
    """Carve one process, or several into a folder each."""
    names = list(dict.fromkeys(name for group in write.hashes for name in group)) or ["sha256"]
    if "none" in names and len(names) > 1:
        raise UsageError("--hash none leaves no room for another hash")
    hashed = [name for name in names if name != "none"]
    options = carved_folder.Options(
        hashes=hashed,
        selection=selection(filters),
        split=segmenting.split,
        labeller=Labelling(segmenting.content or ("headers" if hashed else "none")),
        label_names=write.label_names,
        skip_zero=write.skip_zero,
        partial=write.partial,
        sparse=write.sparse,
        force=write.force,
        hash_input=write.hash_input,
        environment=write.environment,
        command=["memcarve", *sys.argv[1:]],
    )
    with open_container(file, hashed=True, **vars(source)) as container:
        indexes = choose(container, processes)
        stem = stem_of(source.dump or file)
        if are_several(container, processes, indexes):
            out = write.output or f"{stem}.segments"
            with ProgressBar("carving", messages) as progress:
                several = carve_several(container, indexes, out, options, progress=progress)
            say([*container.warnings, *several.notes], quiet=messages.quiet)

            def report(outcome: Outcome) -> None:
                if outcome.result is not None:
                    _report(outcome.result._replace(path=os.path.join(out, outcome.folder)), messages)

            return finish_several(out, several.outcomes, messages, report)
        process = container.open_process(indexes[0], filters.half or container.default_half)
        say(process.notes, quiet=messages.quiet)
        out = write.output or f"{'.'.join([stem, *process_words(process, indexes[0])])}.segments"
        with ProgressBar("carving", messages) as progress:
            result = carved_folder.carve(process, out, options, progress=progress)
    _report(result, messages)
    return COMPLETE if result.complete else INCOMPLETE


def _summary(result: CarveResult) -> str:
    if not result.bytes:
        return f"{counted(result.segments, 'segment')}, nothing to write: {result.path}"
    rate = result.bytes / max(result.seconds, 1e-9)
    how = " and ".join(sorted(result.moved, key=lambda way: -result.moved[way]))
    return (
        f"{counted(result.segments, 'segment')}, {amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s), "
        f"by {how}: {result.path}"
    )


def _report(result: CarveResult, messages: Messages) -> None:
    if messages.quiet:
        return
    say(result.notes, quiet=False)
    for left in result.left_out if messages.verbose else [left for left in result.left_out if left.bytes]:
        where = f" in {counted(left.segments, 'segment')}" if left.segments else ""
        click.echo(f"left out: {counted(left.bytes, 'byte')}{where}: {left.reason}", err=True)
    if not result.complete:
        click.echo("incomplete: bytes are known to be missing; segments.json lists them", err=True)
    for way, count in result.moved.items() if messages.verbose else ():
        click.echo(f"moved: {counted(count, 'byte')} by {way}", err=True)
    click.echo(printable(_summary(result)), err=True)
