"""The command that writes carved folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.cli import run_log
from memcarve.cli.frame import choose, open_input, selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import say
from memcarve.cli.writing_frame import are_several, chosen, past_unreadable, process_words, recorded, report, stem_of
from memcarve.errors import UsageError
from memcarve.labels import Labelling
from memcarve.sinks import carved_folder
from memcarve.sinks.several import write_several
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from memcarve.cli.option_groups import (
        CarveOutput,
        Input,
        Messages,
        Record,
        SegmentFilters,
        Segmenting,
        SeveralProcesses,
    )
    from memcarve.process import ProcessMemory, Progress
    from memcarve.sinks.sink import Result


def carve(
    file: str,
    processes: SeveralProcesses,
    filters: SegmentFilters,
    segmenting: Segmenting,
    source: Input,
    write: CarveOutput,
    record: Record,
    messages: Messages,
) -> int:
    """Carve one process, or several into a folder each."""
    names = list(dict.fromkeys(name for group in write.hashes for name in group)) or ["sha256"]
    if "none" in names and len(names) > 1:
        raise UsageError("--hash none leaves no room for another hash")
    hashed = [name for name in names if name != "none"]
    labelling = Labelling(segmenting.content or ("headers" if hashed else "none"))
    options = SinkOptions(
        hashes=hashed,
        label_names=write.label_names,
        skip_zero=write.skip_zero,
        partial=write.partial,
        sparse=write.sparse,
        force=write.force,
        resume=write.resume,
        environment=write.environment,
        **recorded(record),
    )

    def one(process: ProcessMemory, out: str, options: SinkOptions, progress: Progress) -> Result:
        wanted = selection(filters, process)

        def carved(process: ProcessMemory) -> Result:
            segments = process.segments(wanted, segmenting.split, labelling)
            return carved_folder.carve(process, segments, out, options, progress)

        return past_unreadable(process, carved, wanted)

    def room(process: ProcessMemory) -> int:
        wanted = selection(filters, process)
        segments = process.segments(wanted, segmenting.split, labelling if wanted.by_labels else None)
        return carved_folder.room(segments)

    stem = stem_of(source.dump or file)
    with (
        open_input(file, {**vars(source), "hashed": True}, messages, write.output or stem) as container,
        ProgressBar("carving", messages) as progress,
    ):
        indexes = choose(container, processes)
        half = filters.half or container.default_half
        if are_several(container, processes, indexes):
            out = write.output or f"{stem}.segments"
            result = write_several(
                container,
                indexes,
                out,
                one,
                options,
                half=half,
                at_once=True,
                chosen=chosen(source, filters, segmenting, write="segments"),
                room=None if write.sparse else room,
                selected=processes.selected,
                progress=progress,
            )
        else:
            process = container.process(index=indexes[0], half=half)
            run_log.record_inputs(process.used_inputs)
            say(process.notes, quiet=messages.quiet)
            out = write.output or f"{'.'.join([stem, *process_words(process, indexes[0])])}.segments"
            result = one(process, out, options, progress)
    return report(result, messages)
