"""Memory maps in JSON, Arrow or Parquet: their records as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.errors import MapError
from memcarve.formats.memmap.map_columns import FILE, Builder, Rows
from memcarve.formats.tables.printed_table import shown
from memcarve.intervals import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.memmap.map_columns import MapColumns
    from memcarve.formats.tables.arrow_table import ArrowTable
    from memcarve.formats.tables.json_table import JsonTable


def json_rows(table: JsonTable, columns: MapColumns) -> Iterator[Rows]:
    """Yield the rows of a map in JSON in blocks; raise MapError if one is malformed."""
    owner: tuple[int | None, str | None] = (None, None)
    wanted = [columns.names[place] for place in columns.numeric]
    for lines, batch in table.batches():
        builder = Builder(owner)
        for line, found in zip(lines, batch, strict=True):
            record = dict(zip(columns.names, found, strict=False)) if isinstance(found, list) else found
            numbers: list[Any] = [record.get(name) for name in wanted] if isinstance(record, dict) else [None]
            if not all(type(value) is int and 0 <= value < TOP for value in numbers):
                raise MapError(
                    f"{shown(str(found).encode('utf-8', 'replace'))} lacks a whole number in {', '.join(wanted)}",
                    subject=table.place(line),
                )
            if "PID" in columns.names and type(record.get("PID")) is int:
                builder.owned(record["PID"], str(record.get("Process")))
            code = None
            if columns.file is not None:
                code, _ = columns.code(str(record.get(FILE)).encode("utf-8", "replace"), table.place, line)
            builder.row(numbers, code, line)
        owner = builder.owner
        yield builder.rows(columns)


def arrow_rows(table: ArrowTable, columns: MapColumns) -> Iterator[Rows]:
    """Yield the rows of a map in Arrow or Parquet in blocks; raise MapError if one is malformed."""
    from pyarrow import types, uint64  # an extra; there, if there is a table

    wanted = [columns.names[place] for place in columns.numeric]

    def converted(cells: list[Any], number: int) -> Rows:
        found = []
        for name, column in zip(wanted, cells, strict=False):
            if column.null_count or not types.is_integer(column.type):
                raise MapError(f"{table.place(number)} on: {name} does not hold a whole number")
            found.append(np.array(column.cast(uint64()).to_numpy(zero_copy_only=False), np.uint64))
        codes = None
        if columns.file is not None:
            texts = cells[-1].dictionary_encode()
            known = [
                columns.code(str(text.as_py()).encode("utf-8", "replace"), table.place, number)[0]
                for text in texts.dictionary  # one at a time: the first that is too long is refused
            ]
            if texts.null_count:
                raise MapError(f"{table.place(number)} on: {FILE} is empty")
            codes = np.array(known, np.int64)[texts.indices.to_numpy()]
        printed = found[2] if columns.has_printed else None
        return Rows(found[0], found[1], printed, codes, np.arange(number, number + len(found[0])), ())

    return table.converted(wanted + ([FILE] if columns.file is not None else []), converted)
