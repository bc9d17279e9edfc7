"""Rows of text tables, one at a time, with all that may stand around them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import MapError
from memcarve.formats.listing import spaces
from memcarve.formats.listing.known import Cells, Known, value_of_text
from memcarve.formats.memmap.rows import MESSAGE, shown
from memcarve.formats.tables import is_dashes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.tables import Table
    from memcarve.formats.text import TextFile

#: bytes that a line may have and still be a row: a path has at most 32,767 characters on Windows
LONGEST_ROW = 1 << 17
_GLUED = re.compile(r"(Disabled|\.dmp|file)(Traceback|WARNING|ERROR|INFO|DEBUG|Volatility)")
_BACKSLASHES = re.compile(r"\\+")


def lines(text: TextFile, after: int = 0) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the lines after the one of number `after`: number, line without its end, whether it has an end."""
    number = 0
    for block in text.blocks():
        pieces = bytes(block).split(b"\n")
        rest = pieces.pop()
        for line in pieces:
            number += 1
            if number > after:
                yield number, line, True
        if rest:
            yield number + 1, rest, False


class TextRows:
    """The rows of a text table of a known kind; `notes` is complete when they were read."""

    def __init__(self, text: TextFile, table: Table, kind: Known) -> None:
        self.path = text.path
        self.text = text
        self.table = table
        self.notes: list[str] = []
        self._pretty = table.kind == "volatility3 pretty"
        self._csv = table.kind == "volatility3 csv"
        self._bars = _bars(table.header)
        here = {name: place for place, name in enumerate(table.columns)}
        self._used = [(name, here[name]) for name in (*kind.needed, *kind.optional) if name in here]
        self._in_message = False
        self._stray: tuple[int, bytes] | None = None

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield line number and cells of each row; raise MapError where a line is neither row nor message."""
        for number, raw, ended in lines(self.text, self.table.line):
            for part in raw.split(b"\r") if b"\r" in raw else (raw,):
                if not part or part.startswith(b"Progress:"):
                    continue
                found = self._split(part, number)
                last = len(self.table.columns) - 1
                if not ended and part.strip() and (found is None or last in [place for _, place in self._used]):
                    if not MESSAGE.match(part) and not self._in_message:
                        self.notes.append(f"{self.path}: line {number}: is cut off: {shown(part)}; it is not used")
                elif found is None:
                    self._no_row(part, number)
                elif self._stray:
                    raise self._stray_error(*self._stray)
                else:
                    self._in_message = bool(_GLUED.search(found[-1]))
                    yield number, {name: self._value(name, found[place], number) for name, place in self._used}

    def _value(self, column: str, cell: str, number: int) -> str | int | None:
        if self._csv and "\\" in cell:
            cell = _halved(cell)
        try:
            return value_of_text(column, cell)
        except ValueError as error:
            raise MapError(
                f"{self.path}: line {number}: {shown(cell.encode('utf-8', 'surrogateescape'))} in the column {column} "
                f"is no {error}; the row cannot be used"
            ) from None

    def _split(self, line: bytes, number: int) -> list[str] | None:
        """Return the cells of a line, or None where it is no row."""
        if len(line) > LONGEST_ROW:
            raise MapError(f"{self.path}: line {number}: is longer than {LONGEST_ROW >> 10} KiB; no row is")
        if line[:4] == self.table.header[:4] and self.table.is_header(line):
            return None
        if self._pretty:
            return self._cells(line.decode("utf-8", "surrogateescape"))
        if self.table.delimiter:
            found = self.table.split(line)
            return None if found is None else [cell.decode("utf-8", "surrogateescape") for cell in found]
        try:
            return spaces.split(line.decode("utf-8", "surrogateescape"), self.table.columns)
        except spaces.AmbiguousError:
            raise MapError(
                f"{self.path}: line {number}: {shown(line)} can be divided into cells in several ways, as its tabs "
                "became spaces; write the table into a file (best with -r json) instead of copying it from a terminal"
            ) from None

    def _cells(self, line: str) -> list[str] | None:
        """Return the cells of a line of `-r pretty`, where the header has its bars; they are padded on their left."""
        bars = self._bars
        if not line.startswith("*") or any(line[bar - 1 : bar + 2].rstrip() != " |" for bar in bars):
            return None
        ends = [bar - 1 for bar in bars[1:]] + [len(line)]
        marker = line[: bars[0]].rstrip(" ")
        return [marker] + [line[bar + 2 : end].lstrip(" ") for bar, end in zip(bars, ends, strict=True)]

    def _no_row(self, line: bytes, number: int) -> None:
        """Pass over a message, or raise MapError."""
        if not line.strip() or is_dashes(line) or line.startswith(b"Volatility 3 Framework "):
            return
        if self.table.is_header(line):  # another table was appended; its columns may be wider
            self._bars = _bars(line)
        elif MESSAGE.match(line):
            self._in_message = True
        elif self._in_message:  # the rest of a message, if no row follows
            self._stray = self._stray or (number, line)
        else:
            raise self._stray_error(number, line)

    def _stray_error(self, number: int, line: bytes) -> MapError:
        why = f"is neither a row of {len(self.table.columns)} cells nor a message of Volatility"
        if (self._csv and line.count(b'"') % 2) or (self._pretty and line.startswith(b" ")):
            why = "belongs to a row of several lines, as the tables that can be used have none"
        return MapError(
            f"{self.path}: line {number}: {shown(line)} {why}; remove it if it does not belong to the table, or print "
            "the table with -r json"
        )


def _bars(header: bytes) -> list[int]:
    """Return where the header of a pretty table has its bars, in characters."""
    return [place for place, letter in enumerate(header.decode("utf-8", "surrogateescape")) if letter == "|"]


def _halved(cell: str) -> str:
    r"""Return a cell of a CSV table as it was before its backslashes were doubled, if they were.

    Python 3.10 and later double each when a cell is written, earlier ones do not; a path like ``C:\x`` has single ones
    only if none was doubled.
    """
    if any(len(found) % 2 for found in _BACKSLASHES.findall(cell)):
        return cell
    return cell.replace("\\\\", "\\")
