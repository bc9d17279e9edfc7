"""The command that writes a process's memory as another program opens it."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from memcarve.cli import run_log
from memcarve.cli.frame import choose, open_input, selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import say
from memcarve.cli.writing_frame import are_several, chosen, past_unreadable, process_words, recorded, report, stem_of
from memcarve.errors import UsageError
from memcarve.labels import Labelling
from memcarve.process import Platform
from memcarve.sinks import export as write_output
from memcarve.sinks.memmap import dump_name
from memcarve.sinks.several import folder_name, write_several
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from memcarve.cli.option_groups import ExportOutput, Input, Messages, Record, SegmentFilters, SeveralProcesses
    from memcarve.process import ProcessEntry, ProcessMemory, Progress, Selection
    from memcarve.sinks.sink import Result

#: what can be written, and the ending of its default name
_ENDINGS = {"minidump": ".mdmp", "elfcore": ".core", "flat": ".bin", "scripts": ".scripts", "memmap": ""}
#: what also holds regions, modules or threads
_WITH_METADATA = ("minidump", "elfcore", "scripts")
#: what takes as much room as the memory that is in it
_OF_MEMORY = ("minidump", "elfcore", "memmap")


def export(
    file: str,
    processes: SeveralProcesses,
    filters: SegmentFilters,
    source: Input,
    write: ExportOutput,
    record: Record,
    messages: Messages,
) -> int:
    """Export one process, or several into a file each."""
    if write.kind == "memmap" and filters.replaced(given_half=None).is_given:
        raise UsageError("--to memmap takes --range alone: such maps are of a whole process")
    stem = stem_of(source.dump or file)
    if write.kind == "flat" and len(filters.address) > 1 and not all(written.is_single for written in filters.address):
        raise UsageError("--to flat writes one range", remedy="give one --address A-B")
    options = _options(write, record)
    dataclasses.replace(options, resume=False).check(write.kind)
    labelling = Labelling() if selection(filters).by_labels else None

    def one(process: ProcessMemory, out: str, options: SinkOptions, progress: Progress) -> Result:
        if write.os_version is not None and process.platform.system not in (None, "windows"):
            raise UsageError(
                f"--os-version is for Windows, and the process is of {process.platform.system}",
                remedy="leave it out",
            )
        wanted, options = _chosen(write, filters, process, options)

        def exported(process: ProcessMemory) -> Result:
            segments = process.segments(wanted, labeller=labelling)
            result = write_output(process, segments, out, write.kind, options, progress)
            more = process.metadata.notes if write.kind in _WITH_METADATA else ()
            return dataclasses.replace(result, notes=[*more, *result.notes])

        return past_unreadable(process, exported, wanted)

    def named(entry: ProcessEntry, index: int, taken: Counter[str]) -> str:
        if write.kind != "memmap":
            return f"{stem}.{folder_name(entry, index, taken)}{_ending(write.kind, filters)}"
        name = f"pid.{entry.pid}" if entry.pid is not None else f"process.{index + 1}"
        taken[name] += 1  # of two processes with one number the second is called as Volatility does it
        return f"{name}.dmp" if taken[name] == 1 else f"{name}-{taken[name] - 1}.dmp"

    with (
        open_input(file, {**vars(source), "hashed": True}, messages, write.output or stem) as container,
        ProgressBar("exporting", messages) as progress,
    ):
        indexes = choose(container, processes)
        half = filters.half or ("all" if write.kind == "memmap" else container.default_half)
        if are_several(container, processes, indexes):
            out = write.output or f"{stem}.{write.kind}"
            result = write_several(
                container,
                indexes,
                out,
                one,
                options,
                half=half,
                named=named,
                chosen=chosen(source, filters, write=write.kind),
                room=_room(write, filters, labelling),
                selected=processes.selected,
                progress=progress,
            )
        else:
            process = container.process(index=indexes[0], half=half)
            run_log.record_inputs(process.used_inputs)
            say(process.notes, quiet=messages.quiet)
            if write.kind == "memmap":
                out = os.path.join(write.output or "", dump_name(process))
            else:
                words = [stem, *process_words(process, indexes[0])]
                out = write.output or ".".join(words) + _ending(write.kind, filters)
            result = one(process, out, options, progress)
    return report(result, messages)


def _options(write: ExportOutput, record: Record) -> SinkOptions:
    given = {name: value for name, value in vars(write).items() if value is not None}
    for name in ("kind", "output", "os_version"):
        given.pop(name, None)
    if write.os_version is not None:
        given["platform"] = Platform("windows", *write.os_version)
    given["hashes"] = tuple({given.pop("checksum")} - {"none"})
    return SinkOptions(**recorded(record), **given)


def _chosen(
    write: ExportOutput, filters: SegmentFilters, process: ProcessMemory, options: SinkOptions
) -> tuple[Selection, SinkOptions]:
    """Return what is to be written of a process, and how."""
    chosen = selection(filters, process)
    if write.kind == "memmap" and chosen.half is None:
        chosen = chosen._replace(half="all")
    if write.kind == "flat" and not all(written.is_single for written in filters.address):
        options = dataclasses.replace(options, address=chosen.address[0])
        chosen = chosen._replace(address=())
    return chosen, options


def _room(
    write: ExportOutput, filters: SegmentFilters, labelling: Labelling | None
) -> Callable[[ProcessMemory], int] | None:
    """Return what says how many bytes a process takes; None if only writing it shows that."""
    if write.kind not in _OF_MEMORY or write.sparse:
        return None

    def room(process: ProcessMemory) -> int:
        return process.segments(_chosen(write, filters, process, SinkOptions())[0], labeller=labelling).total

    return room


def _ending(kind: str, filters: SegmentFilters) -> str:
    """Return how the name ends: of a flat file of one range with that."""
    if kind != "flat" or len(filters.address) != 1:
        return _ENDINGS[kind]
    written = filters.address[0]
    if written.first.module is not None:
        return f".{written}{_ENDINGS[kind]}"
    start, end = written.among(())
    return (f".0x{start:x}" if written.is_single else f".0x{start:x}-0x{end:x}") + _ENDINGS[kind]
