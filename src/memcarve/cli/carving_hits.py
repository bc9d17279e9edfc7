"""The segments in which rules matched, written as `carve` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.cli.exit_status import COMPLETE
from memcarve.cli.frame import selection
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.writing_frame import past_unreadable, report
from memcarve.intervals import distinct
from memcarve.labels import Labelling
from memcarve.sinks import carved_folder
from memcarve.sinks.several import write_several
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.cli.frame import Chosen
    from memcarve.cli.option_groups import Messages, SegmentFilters
    from memcarve.dtypes import U64
    from memcarve.process import ProcessEntry, ProcessMemory, Progress
    from memcarve.sinks.sink import Result


def carve_hits(
    chosen: Chosen,
    hits: Sequence[tuple[int, U64]],
    filters: SegmentFilters,
    split: str,
    out: str,
    messages: Messages,
) -> int:
    """Write segments into the new folder `out`, of several processes each into its own; return the exit status.

    `hits` are places of processes in the container, with where segments begin (uint64): those of the kernel's half have
    the place of the process by whose page tables they were read. Nothing is written if there are none.
    """
    starts: dict[ProcessEntry, list[U64]] = {}
    for place, begins in hits:
        starts.setdefault(chosen.container.entry(place), []).append(begins)
    places = [*dict.fromkeys(place for place, _ in hits)]
    if not places:
        return COMPLETE

    def one(process: ProcessMemory, out: str, options: SinkOptions, progress: Progress) -> Result:
        wanted = selection(filters, process)._replace(half="all")

        def carved(process: ProcessMemory) -> Result:
            segments = process.segments(wanted, split, Labelling("headers"))
            held = distinct(segments.rows_of(np.concatenate(starts[process.entry])))
            keep = np.zeros(len(segments), np.bool_)
            keep[held[held >= 0]] = True
            return carved_folder.carve(process, segments.where(keep), out, options, progress)

        return past_unreadable(process, carved, wanted)

    options = SinkOptions()
    with ProgressBar("carving", messages) as progress:
        if chosen.several:
            result = write_several(
                chosen.container, places, out, one, options, half="all", at_once=True, progress=progress
            )
        else:
            result = one(chosen.container.process(index=places[0]), out, options, progress)
    return report(result, messages)
