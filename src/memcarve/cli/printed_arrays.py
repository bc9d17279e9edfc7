"""Tables on standard output whose rows come in arrays: millions of texts, at a fraction of a microsecond for each.

They look as `printed_tables` prints them. Addresses and numbers become characters in arrays, so that a row costs little
more than its text.
"""

from __future__ import annotations

import functools
import itertools
import sys
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.cli.printed_columns import csv_cell
from memcarve.cli.printed_tables import SCHEMA, print_table, take_all_characters
from memcarve.errors import printable
from memcarve.formats.json_text import dumps
from memcarve.formats.tables.table_cells import record, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.dtypes import U8, U16, U32, U64
    from memcarve.formats.tables.table_cells import Cell, Column

_GROUP = 4  # digits of a number that are looked up together
_POWERS = np.array([10**power for power in range(1, 20)], np.uint64)
# no cell has these: control characters are escaped
_END, _PAD = "\0", "\1"


class Coded(NamedTuple):
    """A column of texts, of which there are few: the index (uint8) of each row's among the `words`."""

    code: U8
    words: Sequence[str]


class Rows(NamedTuple):
    """Rows of a table: the last column, which is text, and all before it.

    A column is numbers (uint64), few different texts, or what is the same in all rows.
    """

    cells: Sequence[U64 | Coded | Cell]
    texts: list[str]


def print_arrays(layout: str, title: str, columns: Sequence[Column], batches: Iterable[Rows]) -> None:
    """Print what `print_table` prints of the same rows; the widths of all columns are known.

    Kinds of columns are ``address``, ``number`` and ``text``. Texts hold no halves of characters.
    """
    if layout == "parquet":
        print_table(layout, title, columns, _one_by_one(batches))
        return
    take_all_characters()
    if layout in ("table", "csv"):
        print_table(layout, title, columns, ())
    style = {"table": _Table, "csv": _Csv, "json": _Json, "jsonl": _JsonLines}[layout](columns)
    first, last = (f'{{\n "schema": {SCHEMA},\n "{title}": [\n', " ]\n}\n") if layout == "json" else ("", "")
    write = sys.stdout.write
    write(first)
    before = style.begin
    for batch in batches:
        if batch.texts:
            write(before)
            write(style.rows(batch))
            before = style.between
    write(style.end if before is style.between else "")
    write(last)


def _one_by_one(batches: Iterable[Rows]) -> Iterator[Sequence[Cell]]:
    for batch in batches:
        yield from zip(*map(_listed, batch.cells), batch.texts, strict=False)


def _listed(cells: U64 | Coded | Cell) -> Iterable[Cell]:
    if isinstance(cells, Coded):
        return [cells.words[code] for code in cells.code.tolist()]
    return cells.tolist() if isinstance(cells, np.ndarray) else itertools.repeat(cells)


class _Style:
    """How rows are written: what is before the first, between them and behind the last one, and their cells."""

    begin = ""
    between = "\n"
    end = "\n"
    quote = ""  # around an address
    pad = _PAD  # before a number

    def __init__(self, columns: Sequence[Column]) -> None:
        *self.columns, self.last = columns

    def before(self, column: Column) -> str:
        """Return what stands before a cell."""
        raise NotImplementedError

    def one(self, column: Column, cell: Cell) -> str:
        """Return a cell."""
        raise NotImplementedError

    def texts(self, texts: list[str]) -> list[str]:
        """Return the cells of the last column."""
        raise NotImplementedError

    def width(self, column: Column) -> int:
        """Return how wide a number is at least."""
        return 0 * len(column.name)

    def finish(self, rows: list[str]) -> None:
        """Change what belongs to a row as a whole: `rows` are in turn all that is before a text, and the text."""

    def rows(self, batch: Rows) -> str:
        """Return rows, without what is before and behind them."""
        count = len(batch.texts)
        parts: list[str | U8] = [self.between]
        for column, cells in zip(self.columns, batch.cells, strict=True):
            parts += [self.before(column), *self._cells(column, cells)]
        parts += [self.before(self.last), _END]
        made = [_repeated(part, count) if isinstance(part, str) else part for part in parts]
        beginnings = np.concatenate(made, 1).tobytes().decode().replace(_PAD, "").split(_END)
        rows = [""] * (2 * count)
        rows[::2] = beginnings[:-1]
        rows[1::2] = self.texts(batch.texts)
        self.finish(rows)
        rows[0] = rows[0][len(self.between) :]
        return "".join(rows)

    def _cells(self, column: Column, cells: U64 | Coded | Cell) -> list[str | U8]:
        """Return the cells of a column: what is the same in all rows, and characters of each."""
        if isinstance(cells, Coded):
            return [_looked_up(cells.code, [self.one(column, word) for word in cells.words])]
        if not isinstance(cells, np.ndarray):
            return [self.one(column, cells)]
        if column.kind == "address":
            return [self.quote, _hexadecimal(cells), self.quote]
        return [_decimal(cells, self.width(column), self.pad)]


class _Table(_Style):
    pad = " "

    def before(self, column: Column) -> str:
        return "  " if self.columns and column is not self.columns[0] else ""

    def one(self, column: Column, cell: Cell) -> str:
        text, width = shown(column, cell) or "-", self.width(column)
        return text.rjust(width) if column.kind == "number" else text.ljust(width)

    def texts(self, texts: list[str]) -> list[str]:
        # tabs are by far the most frequent of what must be escaped
        return [text if text.isprintable() else printable(text.replace("\t", "\\x09")) for text in texts]

    def width(self, column: Column) -> int:
        return max(column.width or 0, len(column.name))

    def finish(self, rows: list[str]) -> None:
        texts = rows[1::2]
        if "" in texts:
            texts = [text or "-" for text in texts]
        rows[1::2] = texts = [*map(str.rstrip, texts)]
        if "" in texts:  # there was nothing but spaces
            rows[::2] = [before if text else before.rstrip() for before, text in zip(rows[::2], texts, strict=True)]


class _Csv(_Style):
    def before(self, column: Column) -> str:
        return "," if self.columns and column is not self.columns[0] else ""

    def one(self, column: Column, cell: Cell) -> str:
        return csv_cell(cell) if isinstance(cell, str) else shown(column, cell)

    def texts(self, texts: list[str]) -> list[str]:
        return [text if text.isalnum() else csv_cell(text) for text in texts]


class _Json(_Style):
    begin = "  "
    between = "},\n  "
    end = "}\n"
    quote = '"'

    def before(self, column: Column) -> str:
        return f"{', ' if self.columns and column is not self.columns[0] else '{'}{dumps(column.name)}: "

    def one(self, column: Column, cell: Cell) -> str:
        return dumps(record([column], [cell])[column.name])

    def texts(self, texts: list[str]) -> list[str]:
        return [*map(encode_basestring_ascii, texts)]


class _JsonLines(_Json):
    begin = ""
    between = "}\n"


# cells as characters


def _repeated(text: str, count: int) -> U8:
    """Return a text's characters (uint8) in each of several rows."""
    data = text.encode()
    return np.broadcast_to(np.frombuffer(data, np.uint8), (count, len(data)))


def _looked_up(code: U8, words: list[str]) -> U8:
    """Return texts as characters that are filled up at the right: a row (uint8) for each."""
    encoded = [word.encode() for word in words]
    width = max(map(len, encoded))
    table = np.frombuffer(b"".join(word.ljust(width, _PAD.encode()) for word in encoded), np.uint8)
    return table.reshape(-1, width)[code]


@functools.cache
def _pairs() -> U16:
    """Return the two hexadecimal digits of each byte, as one number (uint16)."""
    return np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


@functools.cache
def _groups() -> U32:
    """Return the four decimal digits of each number below 10,000, as one number (uint32)."""
    return np.frombuffer(b"".join(b"%04d" % number for number in range(10**_GROUP)), np.uint32)


def _hexadecimal(values: U64) -> U8:
    """Return numbers as 0x and 16 digits: a row of characters (uint8) for each."""
    digits = _pairs().take(values.astype(">u8").view(np.uint8)).view(np.uint8).reshape(len(values), -1)
    return np.concatenate([_repeated("0x", len(values)), digits], 1)


def _decimal(values: U64, width: int, pad: str) -> U8:
    """Return numbers as at least so many characters, filled up at the left: a row of characters (uint8) for each."""
    digits = np.searchsorted(_POWERS, values, "right") + 1
    width = max(width, int(digits.max()))
    groups = -(-width // _GROUP)
    grouped = np.empty((len(values), groups), np.uint32)
    for group in range(groups, 0, -1):
        grouped[:, group - 1] = _groups().take(values % np.uint64(10**_GROUP))
        values = values // np.uint64(10**_GROUP)
    found = grouped.view(np.uint8)[:, -width:]
    found[np.arange(width) < (width - digits)[:, None]] = ord(pad)
    return found
