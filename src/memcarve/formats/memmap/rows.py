"""What every reader of a memory map shares: its rows in columns, the names of the columns, the cell "File output"."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MapError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import I64, U64
    from memcarve.formats.text import TextFile


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

#: a line or the end of one that Volatility or Python printed, not the table
MESSAGE = re.compile(
    rb"\s*(Progress: |Formatting\.\.\.|Traceback \(most recent|During handling of|The above exception|"
    rb"(WARNING|INFO|DEBUG|ERROR|CRITICAL|DETAIL \d|Level \d+)\b|Volatility (was|experienced|3)|Unable to |"
    rb"No further results|[\w.]*(Error|Exception|Interrupt|Exit|Warning)\b|Volatility Foundation)"
)
_FILE = re.compile(rb"(Disabled|Error ?outputting ?to ?file|[\w.-]+?\.dmp(?![\w.-]))(.*)", re.DOTALL)
_FILE_AND_MESSAGE = re.compile(rb"([\w.-]+?\.dmp|Disabled)(Traceback|WARNING|ERROR|INFO|DEBUG|Volatility)")
_MOST_TEXTS = 1 << 16
#: bytes that a line may have and still be a row
LONGEST_ROW = 4096


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


class Reader:
    """Reads the rows of one kind of map; what differs from kind to kind is in the subclasses.

    `kind` is the program and its renderer, `version` the banner's, `columns` the header's names; `texts` the different
    cells of "File output" so far; `notes` what the user should know; `cut_off` whether the map ends within a row;
    `narrow` whether addresses are printed with 32 bits.
    """

    def __init__(self, text: TextFile, kind: str, columns: list[str], version: str | None) -> None:
        self.text = text
        self.path = text.path
        self.kind = kind
        self.columns = columns
        self.version = version
        self.texts: list[bytes] = []
        self._codes: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self.notes: list[str] = []
        self.cut_off = False
        self.narrow = False
        self.in_message = False

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        raise NotImplementedError

    @property
    def has_file(self) -> bool:
        """Whether there is the column "File output"."""
        return FILE in self.columns

    @property
    def numeric(self) -> list[int]:
        """The places of the columns for address, size and, where there is one, position."""
        found = [name for group in (VIRTUAL, SIZE, PRINTED) for name in group if name in self.columns]
        return [self.columns.index(name) for name in found]

    @property
    def has_printed(self) -> bool:
        """Whether there is a column of positions that can be relied on."""
        return any(name in self.columns for name in PRINTED)

    def code(self, cell: bytes, line: int) -> int:
        """Return the index in `texts` of a cell of "File output", without a message printed right behind it."""
        both = _FILE_AND_MESSAGE.match(cell[:LONGEST_ROW])
        found = _FILE.match(both[1] if both else cell[:LONGEST_ROW])
        if found is None or (found[2] and not MESSAGE.match(found[2])):
            raise MapError(
                f"{self.path}: line {line}: {shown(cell)} is nothing that the column File output holds (Disabled, "
                "Error outputting to file, or the name of a .dmp file)"
            )
        self.in_message = self.in_message or bool(found[2]) or both is not None
        code = self.intern(found[1])
        if code is None:
            raise MapError(f"{self.path}: line {line}: more than {_MOST_TEXTS} different files are named")
        return code

    def intern(self, text: bytes) -> int | None:
        """Return the index in `texts` of a clean cell, adding it; None for another, or where there are too many."""
        code = self._codes.get(text)
        if code is None and is_clean(text):
            with self._lock:  # several threads read blocks
                if text not in self._codes and len(self.texts) < _MOST_TEXTS:
                    self.texts.append(text)
                    self._codes[text] = len(self.texts) - 1
            code = self._codes.get(text)
        return code

    def note_cut_off(self, line: bytes, number: int) -> None:
        """Note that the map ends within a row."""
        self.cut_off = True
        self.notes.append(f"{self.path}: line {number}: the map is cut off within {shown(line)}; the row is not used")


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

    def rows(self, *, has_printed: bool, has_file: bool) -> Rows:
        """Return what was collected in columns."""
        table = np.array(self.numbers, np.uint64) if self.numbers else np.zeros((0, 3), np.uint64)
        codes = np.array(self.codes, np.int64) if has_file else None
        lines = np.array(self.lines, np.int64)
        return Rows(
            table[:, 0].copy(),
            table[:, 1].copy(),
            table[:, 2].copy() if has_printed else None,
            codes,
            lines,
            self.marks,
        )


def meaning(text: bytes) -> tuple[str, str | None]:
    """Return what a cell of "File output" says, ERROR, DISABLED or WRITTEN, and the file it names."""
    if text == b"Disabled":
        return DISABLED, None
    return (ERROR, None) if text.replace(b" ", b"") == b"Erroroutputtingtofile" else (WRITTEN, text.decode("ascii"))


def is_clean(text: bytes) -> bool:
    """Say whether a cell of "File output" is one of the known ones, complete and with nothing behind it."""
    found = _FILE.fullmatch(text)
    return found is not None and not found[2]


def shown(line: bytes, most: int = 60) -> str:
    """Return the beginning of a line for a message, in quotes."""
    return f"'{line[:most].decode('utf-8', 'backslashreplace').strip()}{'...' if len(line) > most else ''}'"
