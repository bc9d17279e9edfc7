"""Text tables, line by line: rows, and the messages, empty lines and further headers that may stand around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import MapError
from memcarve.formats.tables.printed_table import MESSAGE, PrintedTable, shown

if TYPE_CHECKING:
    from memcarve.formats.tables.text_file import TextFile
    from memcarve.formats.tables.text_header import Header


class TextTable(PrintedTable):
    """A text table; what its cells mean is for the subclasses.

    `in_message`: the lines before belong to a message, which may have several.
    """

    def __init__(self, text: TextFile, header: Header) -> None:
        super().__init__(text, header.kind, header.columns, header.version)
        self.header = header
        self.in_message = False
        self._stray: tuple[int, bytes] | None = None  # a line that is not a row: fine as long as no row follows

    def row_follows(self) -> None:
        """Note that a row follows; raise MapError if a line before it was not a message's after all."""
        if self._stray:
            raise self.stray_error(*self._stray)
        self.in_message = False

    def pass_over(self, line: bytes, number: int) -> None:
        """Pass over a line of a message; raise MapError if it is something else."""
        if MESSAGE.match(line):
            self.in_message = True
        elif self.in_message:  # the rest of a message, if no row follows
            self._stray = self._stray or (number, line)
        else:
            raise self.stray_error(number, line)

    def stray_error(self, number: int, line: bytes, why: str = "", remedy: str = "") -> MapError:
        """Return the error for a line that is neither a row nor a message."""
        why = why or f"is neither a row of {len(self.columns)} cells nor a message of Volatility"
        return MapError(
            f"{shown(line)} {why}; remove it if it does not belong to the table{remedy}", subject=self.place(number)
        )


def parts(line: bytes) -> list[bytes]:
    """Return what stands in a line but progress messages, which begin and end with a carriage return."""
    if b"\r" not in line and not line.startswith(b"Progress:"):
        return [line] if line else []
    return [part for part in line.split(b"\r") if part and not part.startswith(b"Progress:")]
