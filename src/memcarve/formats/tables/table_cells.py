"""What tables that are written consist of: columns of a kind, and their cells as text, which programs read as CSV."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import printable
from memcarve.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: characters of an address
ADDRESS_WIDTH = len("0x0123456789abcdef")


_ADDRESSES = ("address", "end")
_AS_TEXT = (*_ADDRESSES, "time", "dump")  # in JSON
#: a spreadsheet takes text from evidence that begins like this for a formula; tabs and the like are escaped before
FORMULA = ("=", "+", "-", "@")


class Dump(NamedTuple):
    """Bytes and the address they lie at."""

    address: int
    data: bytes

    def __str__(self) -> str:
        return self.data.hex()


if TYPE_CHECKING:
    Cell = int | str | bool | float | dt.datetime | Dump | list[str] | list[dict[str, Any]] | dict[str, Any] | None


class Column(NamedTuple):
    """A column's name and kind, and how wide it is in a table if that is known: rows then need not wait for others.

    Kinds: ``address``, ``end`` (an address that may be 2**64), ``number``, ``real``, ``text``, ``words`` (several
    texts), ``flag``, ``time`` (UTC), ``record`` (in JSON alone), ``dump`` (a Dump: a hexdump below the row in a table,
    else in hexadecimal).
    """

    name: str
    kind: str
    width: int | None = None


def shown(column: Column, cell: Cell) -> str:
    """Return a cell as text that is safe to print; nothing for None."""
    if cell is None:
        return ""
    if column.kind in _ADDRESSES:
        return f"0x{cell:016x}"
    if isinstance(cell, dt.datetime):
        return rfc3339(cell, "microseconds")
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, list):
        return ",".join(printable(str(word)) for word in cell)
    return printable(cell) if isinstance(cell, str) else f"{cell:.2f}" if column.kind == "real" else str(cell)


def record(columns: Sequence[Column], row: Sequence[Cell]) -> dict[str, Cell]:
    """Return a row as it stands in JSON."""
    return {
        column.name: shown(column, cell) if column.kind in _AS_TEXT and cell is not None else cell
        for column, cell in zip(columns, row, strict=True)
    }


def csv_lines(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Yield a table as CSV, a line at a time; what a spreadsheet would take for a formula has a quote before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    writer.writerow([column.name for column in columns])
    yield buffer.getvalue()
    for row in rows:
        buffer.seek(0)
        buffer.truncate()
        cells = [shown(column, cell) for column, cell in zip(columns, row, strict=True)]
        writer.writerow(
            f"'{cell}" if column.kind in ("text", "words") and cell.startswith(FORMULA) else cell
            for column, cell in zip(columns, cells, strict=True)
        )
        yield buffer.getvalue()
