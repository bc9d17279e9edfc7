"""Tables on standard output whose rows come in columns, many at once: a million rows in a second or two.

They look as `printed_tables` prints them.
"""

from __future__ import annotations

import re
import sys
from itertools import repeat
from typing import TYPE_CHECKING, Any

from memcarve.cli.printed_tables import SCHEMA, print_table, take_all_characters
from memcarve.errors import printable
from memcarve.formats.json_text import dumps
from memcarve.formats.tables.table_cells import FORMULA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.formats.tables.table_cells import Cell, Column

    #: one list of cells for each column
    Batch = Sequence[Sequence[Cell]]

#: texts that need nothing done to them: in a table, in CSV, in JSON
_AS_IT_IS, _UNQUOTED, _NOTHING = (
    re.compile(text).fullmatch for text in (r"[ -~]+", r"(?![=+\-@])[ !#-+\--~]*", r"(?!)")
)
_FEW = 4  # times that a text comes on average from which on each is put into words once


def print_columns(layout: str, title: str, columns: Sequence[Column], batches: Iterable[Batch]) -> None:
    """Print batches of rows in one of the formats; kinds of columns are ``address``, ``number`` and ``text``.

    What is printed of each batch is there before the next one is asked for.
    """
    if layout == "parquet":
        print_table(layout, title, columns, (row for batch in batches for row in zip(*batch, strict=True)))
        return
    take_all_characters()
    write = sys.stdout.write
    for lines in _LAYOUTS[layout](title, columns, batches):
        write(lines)
        sys.stdout.flush()


def _table(_: str, columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[str]:
    """Yield a table for a person; the first batch says how wide columns are that do not say so themselves."""
    form = ""
    for batch in batches:
        shown = [
            _worded(column, cells, "-", _AS_IT_IS, lambda text: printable(text) or "-")
            for column, cells in zip(columns, batch, strict=True)
        ]
        if not form:
            widths = [
                column.width or max(len(column.name), *map(len, cells))
                for column, cells in zip(columns, shown, strict=True)
            ]
            form = _form(columns, widths)
            yield (form % tuple(column.name for column in columns)).rstrip() + "\n"
        yield "".join([f"{line.rstrip()}\n" for line in map(form.__mod__, zip(*shown, strict=True))])
    if not form:
        yield (_form(columns, [column.width or 0 for column in columns]) % tuple(c.name for c in columns)).rstrip()
        yield "\n"


def _form(columns: Sequence[Column], widths: Sequence[int]) -> str:
    return "  ".join(
        f"%{'' if column.kind == 'number' else '-'}{max(width, len(column.name))}s"
        for column, width in zip(columns, widths, strict=True)
    )


def _csv(_: str, columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[str]:
    yield ",".join(column.name for column in columns) + "\n"
    for batch in batches:
        shown = [_worded(column, cells, "", _UNQUOTED, csv_cell) for column, cells in zip(columns, batch, strict=True)]
        yield "".join([f"{line}\n" for line in map(",".join, zip(*shown, strict=True))])


def csv_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula; none of its characters ends a line."""
    shown = printable(text)
    if shown.startswith(FORMULA):
        shown = f"'{shown}"
    if '"' in shown:
        doubled = shown.replace('"', '""')
        return f'"{doubled}"'
    return f'"{shown}"' if "," in shown else shown


def _objects(columns: Sequence[Column], batch: Batch) -> Iterator[str]:
    """Return the rows as JSON."""
    shown = [
        _worded(column, cells, "null", _NOTHING, dumps, '"0x%016x"')
        for column, cells in zip(columns, batch, strict=True)
    ]
    form = "{" + ", ".join(f"{dumps(column.name)}: %s" for column in columns) + "}"
    return map(form.__mod__, zip(*shown, strict=True))


def _jsonl(_: str, columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[str]:
    for batch in batches:
        yield "".join([f"{line}\n" for line in _objects(columns, batch)])


def _json(title: str, columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[str]:
    yield f'{{\n "schema": {SCHEMA},\n "{title}": ['
    before = "\n"
    for batch in batches:
        for line in (lines := _objects(columns, batch)):
            yield f"{before}  {line}"
            yield "".join([f",\n  {line}" for line in lines])
            before = ",\n"
    yield "\n ]\n}\n"


def _worded(
    column: Column,
    cells: Sequence[Cell],
    absent: str,
    plain: Callable[[str], object],
    text: Callable[[str], str],
    address: str = "0x%016x",
) -> Sequence[str]:
    """Return cells as they are printed; a text for which `plain` is true stays as it is."""
    if column.kind == "text":
        return _texts(cells, absent, plain, text)
    form = address if column.kind == "address" else "%d"
    if None not in cells:
        return [*map(form.__mod__, cells)]
    if cells and all(cell is None for cell in cells):
        return [*repeat(absent, len(cells))]
    return [absent if cell is None else form % cell for cell in cells]


def _texts(cells: Sequence[Any], absent: str, plain: Callable[[str], object], text: Callable[[str], str]) -> list[str]:
    different = set(cells)
    if len(different) * _FEW > len(cells):
        return [absent if cell is None else cell if plain(cell) else text(cell) for cell in cells]
    words = {cell: absent if cell is None else text(cell) for cell in different}
    return [words[cell] for cell in cells]


_LAYOUTS = {"table": _table, "csv": _csv, "json": _json, "jsonl": _jsonl}
