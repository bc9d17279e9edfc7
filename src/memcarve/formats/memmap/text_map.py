"""Memory maps that are text tables: regular blocks the fast way, everything else line by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcarve.errors import MapError
from memcarve.formats.memmap import fast_rows
from memcarve.formats.memmap.map_columns import FILE, LONGEST_ROW, PRINTED, Builder, Mark, Rows, is_clean
from memcarve.formats.tables.printed_table import MESSAGE, shown
from memcarve.formats.tables.text_header import is_dashes
from memcarve.formats.tables.text_table import TextTable, parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.memmap.map_columns import MapColumns
    from memcarve.formats.tables.text_file import TextFile
    from memcarve.formats.tables.text_header import Header

_NUMBER = re.compile(rb"0[xX][0-9a-fA-F]{1,16}")
_SHORTENED = re.compile(rb"\.\.|\xe2\x80\xa6|<|\[")
_EXCERPT = re.compile(
    rb"\W*(snip\w*|cut|truncated|etc)\W*|[\s\[(<{*|-]*(\.\.+|\xe2\x80\xa6)[\s\])>}*|.-]*", re.IGNORECASE
)
_PROCESS = re.compile(rb"\s*(?:Process: '(?P<quoted>.*)'|(?P<name>.*?)) pid:\s*(?P<pid>\d{1,18})\s*")
_SKIPPED = re.compile(rb"\s*|\*{20,}|Dumping address space at DTB .*|Volatility 3 Framework \S*")


class TextMap(TextTable):
    """A memory map that is a text table."""

    def __init__(self, text: TextFile, header: Header, map_columns: MapColumns) -> None:
        super().__init__(text, header)
        self._map = map_columns
        self._owner: tuple[int | None, str | None] = (None, None)
        self._first: list[Mark] = []  # the process named above the header
        for above in text.head[: header.place].split(b"\n"):
            process = _process(above[:LONGEST_ROW])
            if process:
                self._first = [Mark(0, *process)]
        self._announced = False  # whether a process was named, and no row followed yet
        self._last: list[int] = []  # the numbers of the row before

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError if one is malformed."""
        line = self.header.line + 1
        if self._first:
            yield Builder().rows(self._map)._replace(marks=self._first)
        for block, regular in fast_rows.blocks(self.text, self.header, self._map):
            if regular is None:
                found, line = self._careful(bytes(block), line)
            else:
                self.row_follows()
                found = regular._replace(lines=regular.lines + line)
                line += len(found.lines) + bytes(block[-2:]).count(b"\n") - 1
            if len(found.virtual):
                columns = [found.virtual, found.size] + ([found.printed] if found.printed is not None else [])
                self._last = [int(column[-1]) for column in columns]
            yield found

    def _careful(self, block: bytes, line: int) -> tuple[Rows, int]:
        """Read a block line by line; return its rows and the number of the line after it."""
        builder = Builder(self._owner)
        finished = block.endswith(b"\n")
        lines = block.split(b"\n") if block.strip() else []  # however many empty lines there are
        for number, raw in enumerate(lines, line):
            for part in parts(raw):
                if finished or self._is_whole(part, builder):
                    self._line(part, number, builder)
                else:
                    self.note_cut_off(part, number)
        self.passed_over(max(len(lines) - len(builder.lines), 0))
        self._owner = builder.owner
        return builder.rows(self._map), line + block.count(b"\n") + (not finished)

    def _line(self, line: bytes, number: int, builder: Builder) -> None:
        if len(line) > LONGEST_ROW:  # the patterns below are made for lines, not for megabytes
            self._no_row(line[:LONGEST_ROW], number, [])
            return
        found = self._cells(line)
        numbers = [found[place] for place in self._map.numeric] if found else []
        if not found or not all(map(_NUMBER.fullmatch, numbers)):
            if not self._known(line, builder):
                self._no_row(line, number, numbers)
            return
        self.row_follows()
        if "PID" in self.columns:
            self._owned(found, number, builder)
        if len(numbers[0]) == len("0x00010000") and self.kind == "volatility2 text":
            self._map.narrow = True
        self._announced = False
        code = None
        if self._map.file is not None:
            code, self.in_message = self._map.code(found[self._map.file], self.place, number)
        builder.row([int(cell, 16) for cell in numbers], code, number)

    def _cells(self, line: bytes) -> list[bytes] | None:
        found = self.header.split(line)
        return None if found is None else [cell.strip() for cell in found]

    def _known(self, line: bytes, builder: Builder) -> bool:
        """Return True if a line belongs to a map without being a row; note where a process begins."""
        process = _process(line)
        if process:
            builder.mark(*process)
            self._announced = True
        elif self.header.is_header(line):  # a second map was appended, unless a process was just announced
            if not self._announced:
                builder.mark(None, None)
        elif not _SKIPPED.fullmatch(line) and not is_dashes(line):
            return False
        return True

    def _owned(self, found: list[bytes], number: int, builder: Builder) -> None:
        pid = found[self.columns.index("PID")]
        if not re.fullmatch(rb"\d{1,18}", pid):
            raise MapError(f"{shown(pid)} is not a process id", subject=self.place(number))
        name = found[self.columns.index("Process")] if "Process" in self.columns else b""
        builder.owned(int(pid), name.decode("utf-8", "backslashreplace"))

    def _no_row(self, line: bytes, number: int, numbers: list[bytes]) -> None:
        """Pass over a message, or raise MapError."""
        if _EXCERPT.fullmatch(line):
            raise MapError(
                f"{shown(line)} says that rows were left out; a map must be whole: run memmap again with its output "
                "into a file",
                subject=self.place(number),
            )
        if any(b"0x" in cell for cell in numbers[: 1 if self.in_message else None]):
            cell = next(cell for cell in numbers if not _NUMBER.fullmatch(cell))
            why = "was shortened" if _SHORTENED.search(cell) else "is not a hexadecimal number of up to 64 bits"
            raise MapError(f"{shown(cell)} {why}; the row cannot be used", subject=self.place(number))
        self.pass_over(line, number)

    def _is_whole(self, line: bytes, builder: Builder) -> bool:
        """Return True if the last line, which has no newline, is complete according to its last cell."""
        if len(line) > LONGEST_ROW:
            return True
        found = self._cells(line)
        if not found:
            known = _SKIPPED.fullmatch(line) or MESSAGE.match(line) or _EXCERPT.fullmatch(line) or is_dashes(line)
            return bool(known)
        if self.columns[-1] == FILE:
            return is_clean(found[-1])
        # a position that continues the row before it
        last = builder.numbers[-1] if builder.numbers else self._last
        if not last or self.columns[-1] not in PRINTED or not _NUMBER.fullmatch(found[-1]):
            return False
        return int(found[-1], 16) == last[1] + last[2]


def _process(line: bytes) -> tuple[int, str] | None:
    """Return pid and name if a line says which process the rows below it belong to."""
    found = _PROCESS.fullmatch(line)
    if not found:
        return None
    name = found["quoted"] if found["quoted"] is not None else found["name"]
    return int(found["pid"]), name.decode("utf-8", "backslashreplace")
