"""Memory maps that are text tables: regular blocks the fast way, everything else line by line."""

from __future__ import annotations

import os
import re
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import MapError
from memcarve.formats.memmap import cells
from memcarve.formats.memmap.rows import (
    FILE,
    LONGEST_ROW,
    MESSAGE,
    PRINTED,
    Builder,
    Mark,
    Reader,
    Rows,
    is_clean,
    shown,
)
from memcarve.formats.tables import Table, is_dashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.formats.text import TextFile

_BLOCK = 1 << 20  # bytes of text that one thread parses at a time
_SMALL = 1 << 15
_NUMBER = re.compile(rb"0[xX][0-9a-fA-F]{1,16}")
_SHORTENED = re.compile(rb"\.\.|\xe2\x80\xa6|<|\[")
_EXCERPT = re.compile(
    rb"\W*(snip\w*|cut|truncated|etc)\W*|[\s\[(<{*|-]*(\.\.+|\xe2\x80\xa6)[\s\])>}*|.-]*", re.IGNORECASE
)
_PROCESS = re.compile(rb"\s*(?:Process: '(?P<quoted>.*)'|(?P<name>.*?)) pid:\s*(?P<pid>\d{1,18})\s*")
_SKIPPED = re.compile(rb"\s*|\*{20,}|Dumping address space at DTB .*|Volatility 3 Framework \S*")


class TextReader(Reader):
    """The rows of a text table."""

    def __init__(self, text: TextFile, table: Table) -> None:
        super().__init__(text, table.kind, table.columns, table.version)
        self.table = table
        self._owner: tuple[int | None, str | None] = (None, None)
        self._first: list[Mark] = []  # the process named above the header
        for above in text.head[: table.place].split(b"\n"):
            process = _process(above[:LONGEST_ROW])
            if process:
                self._first = [Mark(0, *process)]
        self._announced = False  # whether a process was named, and no row followed yet
        self._last: list[int] = []  # the numbers of the row before
        self._stray: tuple[int, bytes] | None = None  # a line that is no row: fine as long as no row follows

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        line = self.table.line + 1
        empty = np.zeros(0, np.uint64)
        if self._first:
            yield Rows(empty, empty, empty, None, np.zeros(0, np.int64), self._first)
        for block, regular in self._parsed():
            if regular is None:
                found, line = self._careful(block, line)
            elif self._stray:
                raise self._stray_error(self._stray)
            else:
                found = regular._replace(lines=regular.lines + line)
                line += len(found.lines) + bytes(block[-2:]).count(b"\n") - 1
            if len(found.virtual):
                columns = [found.virtual, found.size] + ([found.printed] if found.printed is not None else [])
                self._last = [int(column[-1]) for column in columns]
            yield found

    def _parsed(self) -> Iterator[tuple[memoryview, Rows | None]]:
        """Yield blocks and their rows; None for a block, a small one, that must be read line by line."""
        for block, regular in _in_parallel(self._blocks(), self._regular):
            if regular is not None or len(block) <= _SMALL:
                yield block, regular
                continue
            data, place = bytes(block), 0
            while place < len(data):
                end = data.find(b"\n", place + _SMALL) + 1 or len(data)
                yield block[place:end], self._regular(block[place:end])
                place = end

    def _blocks(self) -> Iterator[memoryview]:
        """Yield blocks of whole lines after the header, LF only; an unfinished last line is a block of its own."""
        crlf, skip = b"\r\n" in self.text.head, self.table.place
        for whole in self.text.blocks(_BLOCK):
            block, skip = whole[skip:], max(skip - len(whole), 0)
            if crlf:
                block = memoryview(bytes(block).replace(b"\r\n", b"\n"))
            if block and block[-1] != ord("\n"):
                cut = bytes(block).rfind(b"\n") + 1
                if cut:
                    yield block[:cut]
                block = block[cut:]
            if block:
                yield block

    # the fast way

    def _regular(self, block: memoryview) -> Rows | None:
        """Read a block whose lines are all rows of one shape; None where they are not."""
        table = self.table
        if not table.delimiter or "Process" in self.columns or block[-1] != ord("\n"):
            return None
        end = len(block) - 1 if bytes(block[-2:]) == b"\n\n" else len(block)  # csv ends with an empty line
        padding = table.padding if table.padding == b" " else b""  # quoted cells are for the careful reader
        file = self.columns.index(FILE) if self.has_file else None
        layout = cells.Layout(table.delimiter, len(self.columns), self.numeric, file, padding)
        found = cells.regular_rows(block[:end], layout, self.intern)
        if found is None:
            return None
        columns, codes = found
        printed = columns[2] if self.has_printed else None
        return Rows(columns[0], columns[1], printed, codes, np.arange(len(columns[0])), ())

    # line by line

    def _careful(self, block: memoryview, line: int) -> tuple[Rows, int]:
        """Read a block line by line; return its rows and the number of the line after it."""
        builder = Builder(self._owner)
        if not bytes(block).strip():  # however many empty lines there are
            empty = builder.rows(has_printed=self.has_printed, has_file=self.has_file)
            return empty, line + bytes(block).count(b"\n")
        finished = block[-1] == ord("\n")
        lines = bytes(block).split(b"\n")
        for number, raw in enumerate(lines[:-1] if finished else lines, line):
            for part in raw.split(b"\r"):  # progress messages begin and end with a carriage return
                if not part or part.startswith(b"Progress:"):
                    continue
                if finished or self._is_whole(part, builder):
                    self._line(part, number, builder)
                else:
                    self.note_cut_off(part, number)
        self._owner = builder.owner
        return builder.rows(has_printed=self.has_printed, has_file=self.has_file), line + len(lines) - finished

    def _line(self, line: bytes, number: int, builder: Builder) -> None:
        if len(line) > LONGEST_ROW:  # the patterns below are made for lines, not for megabytes
            self._no_row(line[:LONGEST_ROW], number, [])
            return
        found = self.table.cells(line)
        numbers = [found[place] for place in self.numeric] if found else []
        if not found or not all(map(_NUMBER.fullmatch, numbers)):
            if not self._known(line, builder):
                self._no_row(line, number, numbers)
            return
        if self._stray:
            raise self._stray_error(self._stray)
        if "PID" in self.columns:
            self._owned(found, number, builder)
        if len(numbers[0]) == len("0x00010000") and self.kind == "volatility2 text":
            self.narrow = True
        self._announced = self.in_message = False
        code = self.code(found[self.columns.index(FILE)], number) if self.has_file else None
        builder.row([int(cell, 16) for cell in numbers], code, number)

    def _known(self, line: bytes, builder: Builder) -> bool:
        """Say whether a line is one that belongs to a map without being a row; note where a process begins."""
        process = _process(line)
        if process:
            builder.mark(*process)
            self._announced = True
        elif self.table.is_header(line):  # a second map was appended, unless a process was just announced
            if not self._announced:
                builder.mark(None, None)
        elif not _SKIPPED.fullmatch(line) and not is_dashes(line):
            return False
        return True

    def _owned(self, found: list[bytes], number: int, builder: Builder) -> None:
        pid = found[self.columns.index("PID")]
        if not re.fullmatch(rb"\d{1,18}", pid):
            raise MapError(f"{self.path}: line {number}: {shown(pid)} is no process id")
        name = found[self.columns.index("Process")] if "Process" in self.columns else b""
        builder.owned(int(pid), name.decode("utf-8", "backslashreplace"))

    def _no_row(self, line: bytes, number: int, numbers: list[bytes]) -> None:
        """Pass over a message, or raise MapError."""
        if _EXCERPT.fullmatch(line):
            raise MapError(
                f"{self.path}: line {number}: {shown(line)} says that rows were left out; a map must be whole: run "
                "memmap again with its output into a file"
            )
        if any(b"0x" in cell for cell in numbers[: 1 if self.in_message else None]):
            cell = next(cell for cell in numbers if not _NUMBER.fullmatch(cell))
            why = "was shortened" if _SHORTENED.search(cell) else "is no hexadecimal number of up to 64 bits"
            raise MapError(f"{self.path}: line {number}: {shown(cell)} {why}; the row cannot be used")
        if MESSAGE.match(line):
            self.in_message = True
        elif self.in_message:  # the rest of a message, if no row follows
            self._stray = self._stray or (number, line)
        else:
            raise self._stray_error((number, line))

    def _stray_error(self, stray: tuple[int, bytes]) -> MapError:
        return MapError(
            f"{self.path}: line {stray[0]}: {shown(stray[1])} is neither a row of {len(self.columns)} cells nor a "
            "message of Volatility; remove it if it does not belong to the map"
        )

    def _is_whole(self, line: bytes, builder: Builder) -> bool:
        """Say whether the last line, which has no newline, is surely complete: its last cell shows it."""
        if len(line) > LONGEST_ROW:
            return True
        found = self.table.cells(line)
        if not found:
            known = _SKIPPED.fullmatch(line) or MESSAGE.match(line) or _EXCERPT.fullmatch(line) or is_dashes(line)
            return known is not None and known is not False
        if self.columns[-1] == FILE:
            return is_clean(found[-1])
        # a position that continues the row before it
        last = builder.numbers[-1] if builder.numbers else self._last
        if not last or self.columns[-1] not in PRINTED or not _NUMBER.fullmatch(found[-1]):
            return False
        return int(found[-1], 16) == last[1] + last[2]


def _process(line: bytes) -> tuple[int, str] | None:
    """Return pid and name where a line says which process the rows below it belong to."""
    found = _PROCESS.fullmatch(line)
    if not found:
        return None
    name = found["quoted"] if found["quoted"] is not None else found["name"]
    return int(found["pid"]), name.decode("utf-8", "backslashreplace")


def _in_parallel(
    blocks: Iterable[memoryview], parse: Callable[[memoryview], Rows | None]
) -> Iterator[tuple[memoryview, Rows | None]]:
    """Yield each block and what `parse` makes of it, in order, several at a time: numpy lets go of the interpreter."""
    threads = min(os.cpu_count() or 1, 4)
    iterator = iter(blocks)
    start = list(islice(iterator, 2))
    if len(start) < 2 or threads == 1:  # noqa: PLR2004 - starting threads costs more than a small map takes
        for group in (start, iterator):
            for block in group:
                yield block, parse(block)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - not needed for a small map

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque((block, pool.submit(parse, block)) for block in start)
        try:
            for block in iterator:
                waiting.append((block, pool.submit(parse, block)))
                if len(waiting) > threads + 1:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
