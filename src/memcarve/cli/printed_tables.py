"""Tables on standard output: for a person, as CSV, JSON, JSON lines or Parquet, a row at a time."""

from __future__ import annotations

import datetime as dt
import importlib
import io
import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from memcarve.cli.hexdump import hexdump
from memcarve.errors import MissingExtraError, UsageError, encodable
from memcarve.formats.json_text import dumps
from memcarve.formats.tables.table_cells import Dump, csv_lines, record, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.formats.tables.table_cells import Cell, Column

SCHEMA = 1
_SAMPLE = 1000  # rows that set the widths of a table's columns
#: pandas' types of columns in which cells may be missing
_PANDAS = {**dict.fromkeys(("address", "end", "number"), "UInt64"), "flag": "boolean"}


def print_table(layout: str, title: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows in one of the formats; `title` is the name of the list in JSON."""
    if layout == "parquet":
        _parquet(columns, rows)
        return
    lines: Callable[[], Iterator[str]] = {
        "table": lambda: _table(columns, rows),
        "csv": lambda: csv_lines(columns, rows),
        "json": lambda: _json(title, columns, rows),
        "jsonl": lambda: (dumps(record(columns, row)) for row in rows),
    }[layout]
    take_all_characters()
    write = sys.stdout.write
    for line in lines():
        write(f"{line}\n")


def take_all_characters() -> None:
    """Have standard output write what its encoding has no characters for as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    below = [place for place, column in enumerate(columns) if column.kind == "dump"]
    beside = [place for place in range(len(columns)) if place not in below]

    def worded(row: Sequence[Cell]) -> tuple[list[str], list[Cell]]:
        cells = [
            f"{cell:%Y-%m-%d %H:%M:%S}" if isinstance(cell, dt.datetime) else shown(columns[place], cell) or "-"
            for place, cell in ((place, row[place]) for place in beside)
        ]
        return cells, [row[place] for place in below]

    iterator = iter(rows)
    known = [columns[place].width or 0 for place in beside]
    sample = [] if all(known) else [worded(row) for row in islice(iterator, _SAMPLE)]
    names = [columns[place].name for place in beside]
    cells_of = zip(names, *(cells for cells, _ in sample), strict=True)
    widths = [max(width, *map(len, cells)) for width, cells in zip(known, cells_of, strict=True)]
    right = [columns[place].kind in ("number", "real") for place in beside]
    nothing: list[Cell] = []
    for cells, dumps_of in chain([(names, nothing)], sample, map(worded, iterator)):
        aligned = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        )
        yield "  ".join(aligned).rstrip()
        for dump in dumps_of:
            if isinstance(dump, Dump):
                yield from (f"  {line}" for line in hexdump(dump.address, dump.data))
                yield ""


def _json(title: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    yield f'{{\n "schema": {SCHEMA},\n "{title}": ['
    before = None
    for row in rows:
        if before is not None:
            yield f"{before},"
        before = f"  {dumps(record(columns, row))}"
    if before is not None:
        yield before
    yield " ]\n}"


def _parquet(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtraError("Parquet needs another package", remedy="pip install 'memcarve[arrow]'") from None
    if sys.stdout.isatty():
        raise UsageError("Parquet is binary", remedy="redirect it to a file: --format parquet > segments.parquet")
    kinds = {"address": pa.uint64(), "end": pa.uint64(), "number": pa.uint64(), "text": pa.string(), "flag": pa.bool_()}
    kinds |= {
        "dump": pa.string(),
        "real": pa.float64(),
        "words": pa.list_(pa.string()),
        "time": pa.timestamp("us", "UTC"),
    }
    fields = [(column.name, kinds[column.kind]) for column in columns]
    schema = pa.schema(fields, {"pandas": dumps(_for_pandas(columns))})
    iterator = iter(rows)
    with parquet.ParquetWriter(sys.stdout.buffer, schema) as writer:
        while batch := list(islice(iterator, 1 << 16)):
            cells = zip(*batch, strict=True)
            arrays = [pa.array(map(_encodable, column), kind) for column, kind in zip(cells, schema.types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _for_pandas(columns: Sequence[Column]) -> dict[str, Any]:
    """Return what pandas reads beside the schema: without it, integers of which some are missing become floats.

    The format is described in pandas' developer documentation, "Storing pandas DataFrame objects in Apache Parquet".
    """
    return {
        "index_columns": [],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind.lower(), "numpy_type": kind, "metadata": None}
            for name, kind in ((column.name, _PANDAS.get(column.kind)) for column in columns)
            if kind is not None
        ],
    }


def _encodable(cell: Cell) -> Cell:
    """Return a cell as Parquet can hold it: halves of characters become escapes, an end of 2**64 is null."""
    if isinstance(cell, list):
        return [encodable(str(word)) for word in cell]
    if isinstance(cell, Dump):
        return str(cell)
    return encodable(cell) if isinstance(cell, str) else None if cell == 1 << 64 else cell
