"""The commands that list segments and regions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from memcarve import linux_mappings
from memcarve.cli.frame import finish, one_process, selection
from memcarve.cli.label_columns import label_columns, shortened_path
from memcarve.cli.option_groups import MAPS
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.errors import UsageError, printable
from memcarve.labels import Labelling
from memcarve.labels.resident_regions import Residence
from memcarve.labels.segment_labels import permission_words
from memcarve.permissions import page_state, permissions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import (
        Extents,
        Input,
        Messages,
        OneProcess,
        Printing,
        RegionFilters,
        RegionPrinting,
        SegmentFilters,
        Segmenting,
    )
    from memcarve.cli.printed_tables import Cell
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments


def segments(
    file: str,
    process: OneProcess,
    filters: SegmentFilters,
    segmenting: Segmenting,
    listed: Extents,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each segment, or for each extent."""
    with one_process(file, process, source, messages, filters.half) as opened:
        wanted = selection(filters, opened)
        with ProgressBar("reading", messages) as progress:
            labelling = Labelling(segmenting.content or "none", read=True, progress=progress)
            memory, chosen = opened.past_unreadable(
                lambda there: (there, there.segments(wanted, segmenting.split, labelling)), wanted
            )
        if listed.extents:
            _print_extents(memory, chosen, printing.layout)
        else:
            _print_segments(memory, chosen, segmenting.split, printing.layout)
        summary = f"{counted(len(chosen), 'segment')}, {counted(chosen.total, 'byte')}"
        return finish(memory, messages, summary, chosen.labels.notes if chosen.labels is not None else ())


def _print_segments(process: ProcessMemory, chosen: Segments, split: str, layout: str) -> None:
    columns = [Column("start", "address"), Column("end", "end"), Column("size", "number")]
    columns += [Column("extents", "number"), Column("offset", "number")]
    whole = chosen.whole is not None
    columns += [Column("whole_start", "address"), Column("whole_end", "end")] if whole else []
    columns += [Column("permissions", "text"), Column("state", "text")] if split == "permissions" else []
    labels: Any = chosen.labels
    # what page tables allow stands there already where it is what segments were split by
    known = [column for column in label_columns(labels, short=layout == "table") if column.name not in _names(columns)]
    columns += [Column(column.name, column.kind) for column in known]
    whole_record = bool(known) and layout in ("json", "jsonl")
    columns += [Column("labels", "record")] if whole_record else []
    flags = process.space.flags if split == "permissions" else None

    def rows() -> Iterator[list[Cell]]:
        for index, segment in enumerate(chosen):
            row: list[Cell] = [segment.start, segment.end, segment.size, segment.extents, segment.offset]
            row += segment.whole or ()
            row += _allowed(int(flags[segment.first])) if flags is not None else ()
            cells = [column.cell(index) for column in known]
            yield [*row, *cells, *([labels.record(index)] if whole_record else [])]

    print_table(layout, "segments", columns, rows())


def _names(columns: Sequence[Column]) -> set[str]:
    return {column.name for column in columns}


def _print_extents(process: ProcessMemory, chosen: Segments, layout: str) -> None:
    columns = [Column("start", "address"), Column("end", "end"), Column("size", "number")]
    columns += [Column("offset", "number"), Column("segment", "address")]
    space = process.space
    if space.flags is not None:
        columns += [Column("physical", "address"), Column("permissions", "text"), Column("state", "text")]

    def rows() -> Iterator[list[Cell]]:
        for segment in chosen:
            for index, extent in enumerate(space.extents(segment), segment.first):
                row: list[Cell] = [extent.start, extent.end, extent.size, extent.offset, segment.start]
                if space.physical is not None and space.flags is not None:
                    within = extent.start - int(space.start[index])
                    row += [int(space.physical[index]) + within, *_allowed(int(space.flags[index]))]
                yield row

    print_table(layout, "extents", columns, rows())


def _allowed(flags: int) -> tuple[str | None, str]:
    return permissions(flags), page_state(flags)


def regions(
    file: str, process: OneProcess, filters: RegionFilters, source: Input, printing: RegionPrinting, messages: Messages
) -> int:
    """Print a row for each region."""
    with one_process(file, process, source, messages, filters.half) as memory:
        chosen = Residence(memory, selection(filters, memory))
        if printing.layout == MAPS:
            _print_maps(memory, chosen)
        else:
            _print_regions(memory, chosen, printing.layout)
        of = f" of {chosen.sources} sources" if chosen.sources > 1 else ""
        summary = f"{counted(chosen.count, 'region')}{of}, {counted(chosen.size, 'byte')}"
        return finish(memory, messages, f"{summary}, of which {chosen.resident} are there", memory.metadata.notes)


def _print_maps(process: ProcessMemory, chosen: Residence) -> None:
    """Print the regions of the first source as /proc/PID/maps has them; raise UsageError if it does not say enough.

    At a terminal, what in a name would steer it is escaped; elsewhere the bytes are the kernel's own.
    """
    first = process.metadata.regions[0].source
    rows = [found.region for found in chosen.rows() if found.source == first and found.conflicts is not None]
    poor = [(row, missing) for row in rows if (missing := linux_mappings.unsaid(row))]
    if poor:
        row, missing = poor[0]
        raise UsageError(
            f"{first} does not say all that /proc/PID/maps has: of {len(poor)} of {counted(len(rows), 'region')} some "
            f"is not known; of the first, at 0x{row.start:x}, {', '.join(missing)}",
            subject=str(process.entry),
            remedy="--format table prints what is known",
        )
    sys.stdout.flush()
    terminal, write = sys.stdout.isatty(), sys.stdout.buffer.write
    for row in rows:
        line = linux_mappings.line(row, process.address_bits)
        write((printable(line) if terminal else line).encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def _print_regions(process: ProcessMemory, chosen: Residence, layout: str) -> None:
    short, allowed = layout == "table", process.space.flags is not None
    of_linux = not short and any(row.inode is not None for each in process.metadata.regions for row in each.rows)
    columns = [Column("start", "address"), Column("end", "end"), Column("size", "number")]
    columns += [Column("resident", "number"), Column("protection", "text")]
    columns += [Column("permissions", "words")] if allowed else []
    columns += [Column("kind", "text"), Column("file", "text"), Column("file_offset", "number")]
    columns += [Column("device", "text"), Column("inode", "number")] if of_linux else []
    columns += [Column("tag", "text"), Column("private", "flag"), Column("source", "text")]
    columns += [Column("conflicts", "number")]

    def rows() -> Iterator[list[Cell]]:
        for found in chosen.rows():
            row = found.region
            yield [
                row.start,
                row.end,
                row.size,
                found.resident,
                (row.collapsed or row.protection) if short else row.protection,
                *([permission_words(found.permissions) or None] if allowed else []),
                found.kind,
                shortened_path(row.file) if short else row.file,
                row.offset,
                *([row.device_numbers, row.inode] if of_linux else []),
                row.tag,
                row.private,
                found.source,
                found.conflicts,
            ]

    print_table(layout, "regions", columns, rows())
