"""The command that writes a process's memory as another program opens it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, selection
from memcarve.cli.option_values import OneAddress
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import amount, complain, counted, say
from memcarve.cli.writing_frame import are_several, process_words, stem_of
from memcarve.errors import MemcarveError, NoSpaceError, UsageError, printable
from memcarve.labels import Labelling
from memcarve.sinks import SINKS
from memcarve.sinks.memmap import stem_of as own_stem
from memcarve.sinks.several import folder_name
from memcarve.sinks.single_file import FileOptions
from memcarve.sources import open_container

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.cli.option_groups import ExportOutput, Input, Messages, SegmentFilters, SeveralProcesses
    from memcarve.process import Platform, ProcessMemory
    from memcarve.sinks.memmap import ExportResult
    from memcarve.sinks.segment_writer import Progress
    from memcarve.sinks.single_file import Written


class _Kind(NamedTuple):
    """What can be written: the ending of its default name, and which options are about it alone."""

    ending: str
    options: frozenset[str]


_KINDS = {
    "minidump": _Kind(
        "mdmp", frozenset({"--sparse", "--placeholder-thread", "--resident", "--architecture", "--os-version"})
    ),
    "elfcore": _Kind("core", frozenset({"--sparse", "--architecture"})),
    "flat": _Kind("bin", frozenset({"--sparse", "--fill"})),
    "scripts": _Kind("scripts", frozenset()),
    "memmap": _Kind("", frozenset({"--format"})),
}
#: what also holds regions, modules or threads
_WITH_METADATA = ("minidump", "elfcore", "scripts")


def export(
    file: str,
    processes: SeveralProcesses,
    filters: SegmentFilters,
    source: Input,
    write: ExportOutput,
    messages: Messages,
) -> int:
    """Export one process, or several into a file each."""
    _check(write, filters)
    with open_container(file, **vars(source)) as container:
        indexes = choose(container, processes)
        several = are_several(container, processes, indexes)
        stem = stem_of(source.dump or file)
        taken: Counter[str] = Counter()
        statuses = []
        half = filters.half or ("all" if write.kind == "memmap" else container.default_half)
        for index in indexes:
            try:
                process = container.open_process(index, half)
                say(process.notes, quiet=messages.quiet)
                words = process_words(process, index)
                if several and not words:
                    words = [folder_name(process.entry, index, taken)]
                out = _path(write, [stem, *words], filters, several=several)
                with ProgressBar("exporting", messages) as progress:
                    result = _write(process, out, write, filters, taken, progress)
                say(process.metadata.notes if write.kind in _WITH_METADATA else (), quiet=messages.quiet)
            except NoSpaceError:
                raise
            except MemcarveError as error:
                if not several:
                    raise
                complain(error, container.entry(index))
                statuses.append(False)
            else:
                _report(result, messages)
                statuses.append(result.complete)
    return COMPLETE if all(statuses) else INCOMPLETE


def _check(write: ExportOutput, filters: SegmentFilters) -> None:
    """Raise UsageError if an option was given that is not about what is written."""
    said = {
        "--format": write.renderer is not None,
        "--fill": write.fill is not None,
        "--sparse": write.sparse,
        "--placeholder-thread": write.placeholder_thread,
        "--resident": write.resident,
        "--architecture": write.architecture is not None,
        "--os-version": write.os_version is not None,
    }
    for option, is_said in said.items():
        if is_said and option not in _KINDS[write.kind].options:
            others = " and ".join(other for other, each in _KINDS.items() if option in each.options)
            raise UsageError(f"{option} is for --to {others}", remedy="leave it out")
    if write.kind == "memmap" and dataclasses.replace(filters, given_half=None).is_given:
        raise UsageError("--to memmap takes --range alone: such maps are of a whole process")


def _path(write: ExportOutput, words: Sequence[str], filters: SegmentFilters, *, several: bool) -> str:
    """Return where to write: what was named, or a name after the input's; of several, in the folder that was named."""
    if write.kind == "memmap":
        return write.output or "."
    if write.output is not None and not several:
        return write.output
    if write.kind == "flat" and len(filters.address) == 1:
        start, end = filters.address[0]
        single = isinstance(filters.address[0], OneAddress)
        words = [*words, f"0x{start:x}" if single else f"0x{start:x}-0x{end:x}"]
    return os.path.join(write.output or "", f"{'.'.join(words)}.{_KINDS[write.kind].ending}")


def _write(
    process: ProcessMemory,
    out: str,
    write: ExportOutput,
    filters: SegmentFilters,
    taken: Counter[str],
    progress: Progress,
) -> Written | ExportResult:
    sink: Any = SINKS[write.kind]
    if write.kind == "memmap":
        stem = own_stem(process)
        # of two processes with one number the second is called as Volatility does it
        again = f"-{taken[stem]}" if taken[stem] else ""
        taken[stem] += 1
        how = {"half": filters.half or "all", "renderer": write.renderer or "quick", "stem": stem + again}
        memmap: ExportResult = sink(process, out, **how, force=write.force, progress=progress)
        return memmap
    own: dict[str, Any] = {}
    chosen = selection(filters)
    if write.kind == "minidump":
        own = {"placeholder_thread": write.placeholder_thread, "resident": write.resident}
        own |= {"architecture": write.architecture, "platform": _platform(process, write.os_version)}
    elif write.kind == "elfcore":
        own = {"architecture": write.architecture}
    elif write.kind == "flat":
        address = next((bounds for bounds in chosen.address if not isinstance(bounds, OneAddress)), None)
        if address is not None:
            if len(chosen.address) > 1:
                raise UsageError("--to flat writes one range", remedy="give one --address A-B")
            chosen = chosen._replace(address=())
        own = {"address": address, "fill": write.fill or 0}
    options = FileOptions(
        chosen,
        Labelling() if selection(filters).by_labels else None,
        write.sparse,
        write.force,
        ["memcarve", *sys.argv[1:]],
    )
    written: Written = sink(process, out, options, **own, progress=progress)
    return written


def _platform(process: ProcessMemory, version: tuple[int, ...] | None) -> Platform | None:
    """Return the system with the version that was given; None if none was."""
    if version is None:
        return None
    if process.platform.system not in (None, "windows"):
        raise UsageError(
            f"--os-version is about Windows, and the process is of {process.platform.system}", remedy="leave it out"
        )
    major, minor, build = (*version, None)[:3]
    return process.platform._replace(system="windows", major=major, minor=minor, build=build)


def _report(result: Written | ExportResult, messages: Messages) -> None:
    if messages.quiet:
        return
    say(getattr(result, "notes", ()), quiet=False)
    for left in result.left_out:
        click.echo(f"left out: {counted(left.bytes, 'byte')}: {left.reason}", err=True)
    for way, count in result.moved.items() if messages.verbose else ():
        click.echo(f"moved: {counted(count, 'byte')} by {way}", err=True)
    if not result.complete:
        click.echo("incomplete: bytes are known to be missing", err=True)
    rows = getattr(result, "rows", None)
    if not (result.ranges if rows is None else rows):  # type: ignore[union-attr]
        say(["nothing is selected, or nothing is there: no memory is in what was written"], quiet=False)
    words = [counted(result.ranges, "range") if rows is None else counted(rows, "row")]  # type: ignore[union-attr]
    if result.moved:
        rate = result.bytes / max(result.seconds, 1e-9)
        words.append(f"{amount(result.bytes)} in {result.seconds:.2f} s ({amount(rate)}/s)")
    click.echo(printable(f"{', '.join(words)}: {', '.join(result.files)}"), err=True)
