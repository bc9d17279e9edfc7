"""What the readers of all kinds of tables share: what was recognised, and what there is to say of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import MapError

if TYPE_CHECKING:
    from memcarve.formats.tables.text_file import TextFile

#: each is looked at by itself
MOST_OTHER_LINES = 1 << 20
#: a line or the end of one that Volatility or Python printed, not the table
MESSAGE = re.compile(
    rb"\s*(Progress: |Formatting\.\.\.|Traceback \(most recent|During handling of|The above exception|"
    rb"(WARNING|INFO|DEBUG|ERROR|CRITICAL|DETAIL \d|Level \d+)\b|Volatility (was|experienced|3)|Unable to |"
    rb"No further results|[\w.]*(Error|Exception|Interrupt|Exit|Warning)\b|Volatility Foundation)"
)


class PrintedTable:
    """A table that a program printed, read from a file.

    `kind` is the program and its renderer, `version` the banner's, `columns` are the names in the header or the first
    record. `notes` is what the user should know, and `cut_off` whether the table ends within a row; both are complete
    once the rows were read. Rows are counted by the lines of the file if `in_lines`, else by themselves, from 1.
    """

    in_lines = True

    def __init__(self, text: TextFile, kind: str, columns: list[str], version: str | None = None) -> None:
        self.text = text
        self.path = text.path
        self.kind = kind
        self.columns = columns
        self.version = version
        self.notes: list[str] = []
        self.cut_off = False
        self._passed = 0

    def passed_over(self, lines: int) -> None:
        """Count lines that are not rows; raise MapError for more than MOST_OTHER_LINES."""
        self._passed += lines
        if self._passed > MOST_OTHER_LINES:
            raise MapError(
                f"has more than {MOST_OTHER_LINES} lines that are not rows", subject=self.path, remedy="remove them"
            )

    def place(self, number: int) -> str:
        """Return the file and the line or row of that number, for a message."""
        return f"{self.path}: {'line' if self.in_lines else 'row'} {number}"

    def close(self) -> None:
        """Close what was opened besides the text."""

    def note_cut_off(self, line: bytes, number: int) -> None:
        """Note that the table ends within a row."""
        self.cut_off = True
        self.notes.append(f"{self.place(number)}: is cut off within {shown(line)}; the row is not used")


def shown(line: bytes, most: int = 60) -> str:
    """Return the beginning of a line for a message, in quotes."""
    return f"'{line[:most].decode('utf-8', 'backslashreplace').strip()}{'...' if len(line) > most else ''}'"
