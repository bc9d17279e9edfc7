"""The command that takes programs and libraries out of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcarve.cli.frame import choose, open_input, say_notes, selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.writing_frame import are_several, chosen, past_unreadable, process_words, recorded, report, stem_of
from memcarve.labels.modules import find_modules
from memcarve.sinks.extract import extract as write_modules
from memcarve.sinks.several import folder_name, write_several
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from memcarve.cli.option_groups import ExtractOutput, Input, MemoryFilters, Messages, Record, SeveralProcesses
    from memcarve.process import ProcessMemory, Progress
    from memcarve.sinks.sink import Result


def extract(
    file: str,
    processes: SeveralProcesses,
    filters: MemoryFilters,
    source: Input,
    write: ExtractOutput,
    record: Record,
    messages: Messages,
) -> int:
    """Extract the modules of one process, or of several into a folder or archive each."""
    options = SinkOptions(
        layout=write.layout,
        largest=write.largest,
        archive=write.archive,
        force=write.force,
        resume=write.resume,
        **recorded(record),
    )
    ending = ".zip" if write.archive else ""

    def one(process: ProcessMemory, out: str, options: SinkOptions, progress: Progress) -> Result:
        wanted = selection(filters, process)

        def extracted(process: ProcessMemory) -> Result:
            found = find_modules(process, wanted, progress=progress)
            result = write_modules(process, found.modules, out, options, progress, choice=wanted)
            return replace(result, notes=[*found.notes, *result.notes])

        return past_unreadable(process, extracted, wanted)

    stem = stem_of(source.dump or file)
    with (
        open_input(file, {**vars(source), "hashed": True}, messages, write.output or stem) as container,
        ProgressBar("extracting", messages) as progress,
    ):
        indexes = choose(container, processes)
        half = filters.half or container.default_half
        if are_several(container, processes, indexes):
            result = write_several(
                container,
                indexes,
                write.output or f"{stem}.modules",
                one,
                options,
                half=half,
                named=lambda *entry: folder_name(*entry) + ending,
                chosen=chosen(source, filters, write="modules"),
                selected=processes.selected,
                progress=progress,
            )
        else:
            process = container.process(index=indexes[0], half=half)
            say_notes(process, messages)
            stem = ".".join([stem, *process_words(process, indexes[0])])
            result = one(process, write.output or f"{stem}.modules{ending}", options, progress)
    return report(result, messages)
