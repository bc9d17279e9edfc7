"""The commands that list segments and regions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from memcarve.cli.options import (
    COMPLETE,
    INCOMPLETE,
    choice,
    file_argument,
    filter_options,
    input_options,
    open_one,
    process_options,
    quiet_options,
    say,
    say_notes,
    selection,
    split_option,
)
from memcarve.cli.progress import ProgressBar, counted
from memcarve.cli.tables import Column, format_option, print_table
from memcarve.vocabulary import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.tables import Cell
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments


content_option = click.option(
    "--content",
    type=choice(Content),
    help="What to make of the bytes: zero pages and PE and ELF headers, or entropy and text, too.",
)


@click.command()
@file_argument
@click.option(
    "--extents", is_flag=True, help="List the extents beneath: each continues both in memory and in the dump."
)
@process_options
@filter_options
@split_option
@content_option
@format_option
@input_options
@quiet_options
def segments(
    file: str,
    pid: Sequence[int],
    name: str | None,
    wanted: dict[str, Any],
    split: str,
    content: str | None,
    layout: str,
    opening: dict[str, Any],
    *,
    extents: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """List the contiguous segments: start, end, size, extents, offset in the dump or image.

    Of a dump the map alone is enough. Where regions or modules are known, also what each segment is: protection, kind,
    file, flags. With --content (none unless given) every byte is read.
    """
    from memcarve.labels import Labelling  # noqa: PLC0415 - numpy is not needed for --help

    with open_one(file, pid, name, opening, wanted["half"]) as process:
        with ProgressBar("reading", quiet=quiet) as progress:
            labelling = Labelling(content or "none", read=True, progress=progress)
            chosen = process.segments(selection(wanted), split, labelling)
        if extents:
            _print_extents(process, chosen, layout)
        else:
            _print_segments(process, chosen, split, layout)
        sys.stdout.flush()
        say_notes(process, quiet=quiet, verbose=verbose)
        say(chosen.labels.notes if chosen.labels is not None else [], quiet=quiet)
        if not quiet:
            click.echo(f"{counted(len(chosen), 'segment')}, {counted(chosen.total, 'byte')}", err=True)
        return INCOMPLETE if process.incomplete else COMPLETE


def _print_segments(process: ProcessMemory, chosen: Segments, split: str, layout: str) -> None:
    from memcarve.labels.showing import columns as label_columns  # noqa: PLC0415

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
    from memcarve.permissions import page_state, permissions  # noqa: PLC0415

    return permissions(flags), page_state(flags)


@click.command()
@file_argument
@process_options
@filter_options
@format_option
@input_options
@quiet_options
def regions(
    file: str,
    pid: Sequence[int],
    name: str | None,
    wanted: dict[str, Any],
    layout: str,
    opening: dict[str, Any],
    *,
    quiet: bool,
    verbose: bool,
) -> int:
    """List what the operating system says of memory: regions, and how much of each is there.

    From an image of 64-bit Windows, or from what Volatility printed: beside the dump, or given with --regions.
    """
    from memcarve.errors import UsageError  # noqa: PLC0415
    from memcarve.labels.resident_regions import Residence  # noqa: PLC0415 - numpy is not needed for --help

    if wanted["min_size"] is not None or wanted["max_size"] is not None or wanted["flags"]:
        raise UsageError("--min-size, --max-size and --flag are about segments; regions are chosen by the others")
    with open_one(file, pid, name, opening, wanted["half"]) as process:
        chosen = Residence(process, selection(wanted))
        columns = [Column("start", "address"), Column("end", "end"), Column("size", "number")]
        columns += [Column("resident", "number"), Column("protection", "text")]
        columns += [Column("permissions", "words")] if process.space.flags is not None else []
        columns += [Column("kind", "text"), Column("file", "text"), Column("file_offset", "number")]
        columns += [Column("tag", "text"), Column("private", "flag"), Column("source", "text")]
        columns += [Column("conflicts", "number")]
        print_table(layout, "regions", columns, chosen.rows(short=layout == "table"))
        sys.stdout.flush()
        say_notes(process, quiet=quiet, verbose=verbose)
        say(process.metadata.notes, quiet=quiet)
        if not quiet:
            of = f" of {chosen.sources} sources" if chosen.sources > 1 else ""
            click.echo(
                f"{counted(chosen.count, 'region')}{of}, {counted(chosen.size, 'byte')}, of which "
                f"{chosen.resident} are there",
                err=True,
            )
        return INCOMPLETE if process.incomplete else COMPLETE
