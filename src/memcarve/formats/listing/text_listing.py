"""Rows of text tables, one at a time, with all that may stand around them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import MapError
from memcarve.formats.listing import spaced_lines
from memcarve.formats.listing.listing_kinds import Cells, Kind, Value, unusable, value_of_text
from memcarve.formats.tables.printed_table import MESSAGE, shown
from memcarve.formats.tables.text_header import is_dashes
from memcarve.formats.tables.text_table import TextTable, parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.tables.text_file import TextFile
    from memcarve.formats.tables.text_header import Header

#: bytes that a line may have and still be a row: a path has at most 32,767 characters on Windows
LONGEST_ROW = 1 << 17
_GLUED = re.compile(r"(Disabled|\.dmp|file)(Traceback|WARNING|ERROR|INFO|DEBUG|Volatility)")
_BACKSLASHES = re.compile(r"\\+")


class TextListing(TextTable):
    """The rows of a text table of a known kind."""

    def __init__(self, text: TextFile, header: Header, kind: Kind) -> None:
        super().__init__(text, header)
        self._pretty = header.kind == "volatility3 pretty"
        self._csv = header.kind == "volatility3 csv"
        self._bars = _bars(header.text)
        self._used = [(name, header.columns.index(name)) for name in kind.used(header.columns)]

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield line number and cells of each row; raise MapError if a line is neither row nor message."""
        last = len(self.columns) - 1
        last_is_used = any(place == last for _, place in self._used)
        for number, raw, ended in self.text.lines(self.header.place):
            self.passed_over(1)
            for part in parts(raw):
                found = self._split(part, number)
                if not ended and part.strip() and (found is None or last_is_used):
                    if not MESSAGE.match(part) and not self.in_message:
                        self.note_cut_off(part, number)
                elif found is None:
                    self._no_row(part, number)
                else:
                    self.row_follows()
                    self.in_message = bool(_GLUED.search(found[-1]))
                    self.passed_over(-1)
                    yield number, {name: self._value(name, found[place], number) for name, place in self._used}

    def _value(self, column: str, cell: str, number: int) -> Value:
        if self._csv and "\\" in cell:
            cell = _halved(cell)
        try:
            return value_of_text(column, cell)
        except ValueError as error:
            raise unusable(self.place(number), column, cell, error) from None

    def _split(self, line: bytes, number: int) -> list[str] | None:
        if len(line) > LONGEST_ROW:
            raise MapError(f"is longer than {LONGEST_ROW >> 10} KiB; no row is", subject=self.place(number))
        if line[:4] == self.header.text[:4] and self.header.is_header(line):
            return None
        if self._pretty:
            return self._cells(line.decode("utf-8", "surrogateescape"))
        if self.header.delimiter:
            found = self.header.split(line)
            return None if found is None else [cell.decode("utf-8", "surrogateescape") for cell in found]
        try:
            return spaced_lines.split(line.decode("utf-8", "surrogateescape"), self.columns)
        except spaced_lines.AmbiguousError:
            raise MapError(
                f"{shown(line)} can be divided into cells in several ways, as its tabs became spaces",
                subject=self.place(number),
                remedy="write the table into a file (best with -r json) instead of copying it from a terminal",
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
        if self.header.is_header(line):  # another table was appended; its columns may be wider
            self._bars = _bars(line)
        else:
            self.pass_over(line, number)

    def stray_error(self, number: int, line: bytes, why: str = "", remedy: str = "") -> MapError:
        """Return the error for a line that is neither a row nor a message."""
        if (self._csv and line.count(b'"') % 2) or (self._pretty and line.startswith(b" ")):
            why = "belongs to a row of several lines, as the tables that can be used have none"
        return super().stray_error(number, line, why, remedy or ", or print the table with -r json")


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
