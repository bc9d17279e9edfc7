"""What memory maps say, whatever the format: the names of their columns, their rows, the cell "File output"."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MapError
from memcarve.formats.tables.printed_table import MESSAGE, shown
from memcarve.formats.tables.text_header import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.dtypes import I64, U64, Bools


#: which columns hold what, as the different programs call them
VIRTUAL = ("Virtual", "Virtual Addr")
SIZE = ("Size", "Length")
PRINTED = ("Offset in File", "DumpFileOffset", "File Address")
FILE = "File output"
#: release 1.0's position column, which repeats Virtual and says nothing
REPEATED = "Offset"
KNOWN = {*VIRTUAL, *SIZE, *PRINTED, FILE, REPEATED, "Physical", "PID", "Process", "TreeDepth", ""}

#: what "File output" says of a row: not written, no dump was asked for, written to a file
ERROR, DISABLED, WRITTEN = "error", "disabled", "written"


#: bytes that a line may have and still be a row
LONGEST_ROW = 4096
#: names of columns that hold more than one word stand before the single ones
_NAMES = (
    b"Virtual Addr", b"Virtual", b"Physical", b"Size", b"Offset in File", b"Offset", b"File output", b"File Address",
    b"DumpFileOffset", b"Length",
)  # fmt: skip
MEMORY_MAP = vocabulary(
    _NAMES, lambda kind, columns: {*VIRTUAL} & columns or (kind != "spaced" and "Size" in columns), LONGEST_ROW
)

_FILE = re.compile(rb"(Disabled|Error ?outputting ?to ?file|[\w.-]+?\.dmp(?![\w.-]))(.*)", re.DOTALL)
_FILE_AND_MESSAGE = re.compile(rb"([\w.-]+?\.dmp|Disabled)(Traceback|WARNING|ERROR|INFO|DEBUG|Volatility)")
_MOST_TEXTS = 1 << 16


class Mark(NamedTuple):
    """Before row `row` of a block, the map says that another process begins; what it does not say is None."""

    row: int
    pid: int | None
    name: str | None


class Rows(NamedTuple):
    """A block of rows in columns, as the map gives them.

    `virtual`, `size` and `printed` (the position the map prints; None without such a column) are uint64; `codes`
    (int64; None without the column) are indices into the map's `texts`. `lines` (int64) are the rows' line numbers, or
    their number within a JSON array, from 1.
    """

    virtual: U64
    size: U64
    printed: U64 | None
    codes: I64 | None
    lines: I64
    marks: Sequence[Mark]

    def where(self, keep: Bools) -> Rows:
        """Return some of the rows, in order; marks stay before the rows that follow them."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
        return Rows(
            self.virtual[keep],
            self.size[keep],
            None if self.printed is None else self.printed[keep],
            None if self.codes is None else self.codes[keep],
            self.lines[keep],
            [mark._replace(row=int(before[mark.row])) for mark in self.marks],
        )


class MapColumns:
    """Which columns of a map hold what; and `texts`, the different cells of "File output" so far.

    `numeric` are the places of the columns for address, size and, if there is one, position; `file` is that of "File
    output". `has_printed`: there is a column of positions that can be relied on. `narrow`: addresses are printed with
    32 bits.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.numeric = [names.index(name) for group in (VIRTUAL, SIZE, PRINTED) for name in group if name in names]
        self.file = names.index(FILE) if FILE in names else None
        self.has_printed = any(name in names for name in PRINTED)
        self.narrow = False
        self.texts: list[bytes] = []
        self._codes: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def code(self, cell: bytes, place: Callable[[int], str], row: int) -> tuple[int, bool]:
        """Return the index in `texts` of a cell of "File output", and whether a message is printed right behind it.

        Raises MapError, with the `place` of the row, for a cell that Volatility does not print.
        """
        both = _FILE_AND_MESSAGE.match(cell[:LONGEST_ROW])
        found = _FILE.match(both[1] if both else cell[:LONGEST_ROW])
        if found is None or (found[2] and not MESSAGE.match(found[2])):
            raise MapError(
                f"{shown(cell)} is not what the column File output holds (Disabled, Error outputting to file, or "
                "the name of a .dmp file)",
                subject=place(row),
            )
        code = self.intern(found[1])
        if code is None:
            raise MapError(f"more than {_MOST_TEXTS} different files are named", subject=place(row))
        return code, bool(found[2]) or both is not None

    def intern(self, text: bytes) -> int | None:
        """Return the index in `texts` of a clean cell, adding it; None for another, or if there are too many."""
        code = self._codes.get(text)
        if code is None and is_clean(text):
            with self._lock:  # several threads read blocks
                if text not in self._codes and len(self.texts) < _MOST_TEXTS:
                    self.texts.append(text)
                    self._codes[text] = len(self.texts) - 1
            code = self._codes.get(text)
        return code


class Builder:
    """Collects rows one at a time, for the careful readers."""

    def __init__(self, owner: tuple[int | None, str | None] = (None, None)) -> None:
        self.owner = owner
        self.numbers: list[list[int]] = []
        self.codes: list[int] = []
        self.lines: list[int] = []
        self.marks: list[Mark] = []

    def row(self, numbers: list[int], code: int | None, line: int) -> None:
        """Add a row: address, size and perhaps position; the file's index; the line."""
        self.numbers.append(numbers)
        self.lines.append(line)
        if code is not None:
            self.codes.append(code)

    def mark(self, pid: int | None, name: str | None) -> None:
        """Note that the rows from here on belong to another process."""
        self.owner = pid, name
        self.marks.append(Mark(len(self.lines), pid, name))

    def owned(self, pid: int, name: str) -> None:
        """Note to which process the next row belongs."""
        if self.owner != (pid, name):
            self.mark(pid, name)

    def rows(self, columns: MapColumns) -> Rows:
        """Return what was collected in columns."""
        table = np.array(self.numbers, np.uint64) if self.numbers else np.zeros((0, 3), np.uint64)
        return Rows(
            table[:, 0].copy(),
            table[:, 1].copy(),
            table[:, 2].copy() if columns.has_printed else None,
            None if columns.file is None else np.array(self.codes, np.int64),
            np.array(self.lines, np.int64),
            self.marks,
        )


def meaning(text: bytes) -> tuple[str, str | None]:
    """Return what a cell of "File output" says, ERROR, DISABLED or WRITTEN, and the file it names."""
    if text == b"Disabled":
        return DISABLED, None
    return (ERROR, None) if text.replace(b" ", b"") == b"Erroroutputtingtofile" else (WRITTEN, text.decode("ascii"))


def is_clean(text: bytes) -> bool:
    """Return True if a cell of "File output" is a known one, complete and with nothing behind it."""
    found = _FILE.fullmatch(text)
    return found is not None and not found[2]
