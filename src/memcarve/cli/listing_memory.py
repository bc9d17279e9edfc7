"""The commands that list segments and regions."""

from __future__ import annotations

import collections
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from memcarve import linux_mappings
from memcarve.cli.frame import selection, several_processes
from memcarve.cli.label_columns import label_columns, possible_columns, shortened_path
from memcarve.cli.option_groups import MAPS
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.errors import UsageError, printable
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.labels import Labelling
from memcarve.labels.region_table import region_cells, region_columns
from memcarve.labels.resident_regions import Residence
from memcarve.permissions import is_in_memory, origin, page_state, permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.cli.option_groups import (
        Extents,
        Input,
        ListedProcesses,
        Messages,
        Printing,
        RegionFilters,
        RegionPrinting,
        SegmentFilters,
        Segmenting,
    )
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.chosen_processes import Part
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments

    _Rows = Callable[[ProcessMemory, Segments], Iterator[list[Cell]]]


#: how wide a table's columns are if rows are printed as they are found; what needs more room takes it
_SIZE, _COUNT = 12, 7


def segments(
    file: str,
    processes: ListedProcesses,
    filters: SegmentFilters,
    segmenting: Segmenting,
    listed: Extents,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each segment, or for each extent."""
    layout, split = printing.layout, segmenting.split
    if listed.draw and (layout != "table" or listed.extents):
        raise UsageError("--draw draws segments for people", remedy="leave --format and --extents out")
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        counts = Counter[str]()

        def found(part: Part) -> tuple[ProcessMemory, Segments]:
            memory = part.opened
            wanted = selection(filters, memory)
            # rows of other processes and a bar would clash at a terminal
            with ProgressBar("reading", messages, data=chosen.several) as progress:
                labelling = Labelling(segmenting.content or "none", read=True, progress=progress)
                memory, segments = memory.past_unreadable(
                    lambda there: (there, there.segments(wanted, split, labelling)), wanted
                )
            notes = segments.labels.notes if segments.labels is not None and not part.is_kernel else ()
            chosen.done(part, memory, notes)
            counts.update(segments=len(segments), bytes=segments.total)
            return memory, segments

        columns: list[Column] | None = None
        if listed.draw:
            from memcarve.cli.drawing_segments import draw  # seldom asked for

            def drawn(part: Part) -> Iterator[list[Cell]]:
                _, own = found(part)
                return draw(own, own.labels, part.entry if chosen.several else None)

            rows = chosen.rows(drawn, filters.given_half)
        elif chosen.several:
            content = Labelling(segmenting.content or "none").level(selection(filters))
            known = possible_columns(image=chosen.is_image, content=content, short=layout == "table")
            width = _SIZE if chosen.container.stored is None else len(str(chosen.container.stored.size))
            columns, rows_of = (
                _extent_rows(width, flags=chosen.is_image)
                if listed.extents
                else _segment_rows(known, split, layout, width, whole=split != "none")
            )
            rows = chosen.rows(lambda part: rows_of(*found(part)), filters.given_half)
        else:
            [part] = chosen
            memory, segments = found(part)
            labels: Any = segments.labels
            own = [Column(name, kind) for name, kind, _ in label_columns(labels, short=layout == "table")]
            columns, rows_of = (
                _extent_rows(None, flags=memory.space.flags is not None)
                if listed.extents
                else _segment_rows(own, split, layout, None, whole=segments.whole is not None)
            )
            rows = rows_of(memory, segments)
        if columns is None:
            collections.deque(rows, maxlen=0)
        else:
            print_table(layout, "extents" if listed.extents else "segments", [*chosen.columns, *columns], rows)
        summary = f"{counted(counts['segments'], 'segment')}, {counted(counts['bytes'], 'byte')}{chosen.words}"
        return chosen.finish(messages, summary)


def _segment_rows(
    known: Sequence[Column], split: str, layout: str, width: int | None, *, whole: bool
) -> tuple[list[Column], _Rows]:
    """Return the columns of a list of segments, and what makes a process's rows; `known` are the columns of labels.

    `width` is that of an offset if the widths of a table are to be known before its rows.
    """
    address, size, count = (None,) * 3 if width is None else (ADDRESS_WIDTH, _SIZE, _COUNT)
    columns = [Column("start", "address", address), Column("end", "end", address), Column("size", "number", size)]
    columns += [Column("extents", "number", count), Column("offset", "number", width)]
    columns += [Column("whole_start", "address", address), Column("whole_end", "end", address)] if whole else []
    allowed = split == "permissions"
    columns += _allowed_columns(width) if allowed else []
    # what page tables allow stands there already if it is what segments were split by
    known = [column for column in known if column.name not in {column.name for column in columns}]
    whole_record = bool(known) and layout in ("json", "jsonl")
    more = [Column("labels", "record")] if whole_record else []

    def rows(process: ProcessMemory, chosen: Segments) -> Iterator[list[Cell]]:
        labels: Any = chosen.labels
        cells = {column.name: column.cell for column in label_columns(labels, short=layout == "table")}
        found = [cells.get(column.name) for column in known]
        flags = process.space.flags if allowed else None
        for index, segment in enumerate(chosen):
            row: list[Cell] = [segment.start, segment.end, segment.size, segment.extents, segment.offset]
            row += segment.whole or (segment.start, segment.end) if whole else ()
            row += _allowed(int(flags[segment.first])) if flags is not None else ()
            row += [None if cell is None else cell(index) for cell in found]
            yield [*row, *([labels.record(index)] if whole_record else [])]

    return [*columns, *known, *more], rows


def _allowed_columns(width: int | None) -> list[Column]:
    known = width is not None
    return [Column("permissions", "text", 11 if known else None), Column("state", "text", 10 if known else None)]


def _extent_rows(width: int | None, *, flags: bool) -> tuple[list[Column], _Rows]:
    """Return the columns of a list of extents, and what makes a process's rows; `width` as for segments."""
    address, size = (None, None) if width is None else (ADDRESS_WIDTH, _SIZE)
    columns = [Column("start", "address", address), Column("end", "end", address), Column("size", "number", size)]
    columns += [Column("offset", "number", width), Column("segment", "address", address)]
    if flags:
        columns += [Column("physical", "address", address), *_allowed_columns(width)]
        columns += [Column("origin", "text", None if width is None else 20)]

    def rows(process: ProcessMemory, chosen: Segments) -> Iterator[list[Cell]]:
        space = process.space
        for segment in chosen:
            for index, extent in enumerate(space.extents(segment), segment.first):
                row: list[Cell] = [extent.start, extent.end, extent.size, extent.offset, segment.start]
                if space.physical is not None and space.flags is not None:
                    within = extent.start - int(space.start[index])
                    bits = int(space.flags[index])
                    row += [int(space.physical[index]) + within if is_in_memory(bits) else None, *_allowed(bits)]
                    row += [origin(bits)]
                yield row

    return columns, rows


def _allowed(flags: int) -> tuple[str | None, str]:
    return permissions(flags), page_state(flags)


def regions(
    file: str,
    processes: ListedProcesses,
    filters: RegionFilters,
    source: Input,
    printing: RegionPrinting,
    messages: Messages,
) -> int:
    """Print a row for each region."""
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        if printing.layout == MAPS and len(chosen.indexes) > 1:
            raise UsageError(
                "lines of /proc/PID/maps do not say of which process they are",
                subject=str(chosen.container),
                remedy="--format maps takes one process; --format table, csv, json, jsonl and parquet take several",
            )
        counts = Counter[str]()

        def found(part: Part) -> Residence:
            memory = part.opened
            residence = Residence(memory, selection(filters, memory))
            chosen.done(part, memory, () if part.is_kernel else memory.metadata.notes)
            counts.update(regions=residence.count, bytes=residence.size, resident=residence.resident)
            return residence

        of = ""
        if chosen.several and printing.layout != MAPS:
            unix = any(chosen.container.entry(index).unix is not None for index in chosen.indexes)
            columns, rows_of = _region_rows(
                printing.layout, image=chosen.is_image, unix=unix or not chosen.is_image, widths=True
            )
            rows = chosen.rows(lambda part: rows_of(found(part)), filters.given_half)
            print_table(printing.layout, "regions", [*chosen.columns, *columns], rows)
        else:
            [part] = chosen
            residence = found(part)
            of = f" of {residence.sources} sources" if residence.sources > 1 else ""
            if printing.layout == MAPS:
                _print_maps(part.opened, residence)
            else:
                unix = any(row.inode is not None for each in part.opened.metadata.regions for row in each.rows)
                image = part.opened.space.flags is not None
                columns, rows_of = _region_rows(printing.layout, image=image, unix=unix, widths=False)
                print_table(printing.layout, "regions", columns, rows_of(residence))
        summary = f"{counted(counts['regions'], 'region')}{of}, {counted(counts['bytes'], 'byte')}"
        return chosen.finish(messages, f"{summary}, of which {counts['resident']} are there{chosen.words}")


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


def _region_rows(
    layout: str, *, image: bool, unix: bool, widths: bool
) -> tuple[list[Column], Callable[[Residence], Iterator[list[Cell]]]]:
    """Return the columns of a list of regions, and what makes the rows of a process's.

    `image`: page tables say what they allow. `unix`: some may have files' devices and inodes. `widths`: those of a
    table are to be known before its rows.
    """
    short = shortened_path if layout == "table" else None
    of_linux = unix and short is None
    columns = region_columns(image=image, of_linux=of_linux)

    def rows(chosen: Residence) -> Iterator[list[Cell]]:
        for found in chosen.rows():
            yield region_cells(found, image=image, of_linux=of_linux, short=short)

    return [column if widths else column._replace(width=None) for column in columns], rows
