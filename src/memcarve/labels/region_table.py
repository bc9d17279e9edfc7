"""Regions as a table: its columns, and the cells of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column, csv_lines
from memcarve.labels.segment_labels import permission_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.formats.tables.table_cells import Cell
    from memcarve.labels.resident_regions import Residence, ResidentRegion

_SIZE = 12  # columns of a number, in a table whose rows are not known before


def region_columns(*, image: bool, of_linux: bool) -> list[Column]:
    """Return the columns; `image`: page tables say what they allow, `of_linux`: files have devices and inodes."""
    columns = [
        Column("start", "address", ADDRESS_WIDTH),
        Column("end", "end", ADDRESS_WIDTH),
        Column("size", "number", 15),
    ]
    columns += [Column("resident", "number", _SIZE), Column("protection", "text", 10)]
    columns += [Column("permissions", "words", 14)] if image else []
    columns += [Column("kind", "text", 11), Column("file", "text", 48), Column("file_offset", "number", 11)]
    columns += [Column("device", "text", 6), Column("inode", "number", _SIZE)] if of_linux else []
    columns += [Column("tag", "text", 4), Column("private", "flag", 7), Column("source", "text", 13)]
    columns += [Column("conflicts", "number", 9)]
    return columns


def region_cells(
    found: ResidentRegion, *, image: bool, of_linux: bool, short: Callable[[str | None], str | None] | None = None
) -> list[Cell]:
    """Return a region's cells in these columns; `short` shortens a path, and then protections are letters."""
    row = found.region
    return [
        row.start,
        row.end,
        row.size,
        found.resident,
        (row.collapsed or row.protection) if short else row.protection,
        *([permission_words(found.permissions) or None] if image else []),
        found.kind,
        short(row.file) if short else row.file,
        row.offset,
        *([row.device_numbers, row.inode] if of_linux else []),
        row.tag,
        row.private,
        found.source,
        found.conflicts,
    ]


def region_lines(residence: Residence) -> Iterator[str]:
    """Yield the lines of one process's regions as CSV."""
    process = residence.process
    of_linux = any(row.inode is not None for each in process.metadata.regions for row in each.rows)
    image = process.space.flags is not None
    rows = (region_cells(found, image=image, of_linux=of_linux) for found in residence.rows())
    yield from csv_lines(region_columns(image=image, of_linux=of_linux), rows)
