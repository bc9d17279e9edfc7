"""The rows of a memory map, sorted out by process and joined to extents while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import MapError
from memcarve.formats.memmap.map_columns import ERROR, WRITTEN, Rows, meaning
from memcarve.intervals import distinct, total

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.formats.memmap import MemoryMap


_HALF_48 = np.uint64((1 << 47) - 1)
_LARGEST_FILE = 1 << 62
_MOST_PROCESSES = 1 << 16
_MANY = 64  # changes from one file to another within a block


class Columns:
    """Three columns (uint64) that grow: start, size, offset."""

    def __init__(self) -> None:
        self._room = [np.zeros(0, np.uint64) for _ in range(3)]
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def start(self) -> U64:
        """The addresses as the map prints them."""
        return self._room[0][: self._used]

    @property
    def size(self) -> U64:
        """The sizes in bytes."""
        return self._room[1][: self._used]

    @property
    def offset(self) -> U64:
        """The positions in the dump: printed, or summed if none are printed."""
        return self._room[2][: self._used]

    def append(self, start: U64, size: U64, offset: U64) -> None:
        """Add rows at the end."""
        needed = self._used + len(start)
        for place, new in enumerate((start, size, offset)):
            if needed > len(self._room[place]):
                # twice as large, one column at a time: what is not used of it takes no memory, as it is never touched
                larger = np.empty(max(needed, 2 * len(self._room[place])), np.uint64)
                larger[: self._used] = self._room[place][: self._used]
                self._room[place] = larger
            self._room[place][self._used : needed] = new
        self._used = needed


class ProcessRows:
    """The rows of one process: extents written to its dump, and rows that were not written.

    `file` is the name in "File output"; `rows` counts the rows, `lines` are those of the first and last one.
    """

    def __init__(self, pid: int | None = None, name: str | None = None) -> None:
        self.pid = pid
        self.name = name
        self.file: str | None = None
        self.written = Columns()
        self.unwritten = Columns()
        self.rows = 0
        self.lines = (0, 0)
        self.last_virtual = 0
        self.sum = 0  # of the sizes of the rows written

    def add(self, virtual: U64, size: U64, printed: U64 | None, lines: tuple[int, int], *, error: bool) -> None:
        """Add consecutive rows of one kind."""
        self.lines = (self.lines[0] or lines[0], lines[1])
        self.rows += len(virtual)
        self.last_virtual = int(virtual[-1])
        if error:
            self.unwritten.append(virtual, size, np.zeros(len(virtual), np.uint64) if printed is None else printed)
            return
        before = self.sum
        self.sum += total(size)
        if self.sum > _LARGEST_FILE:
            raise MapError(f"line {lines[1]}: the sizes up to here add up to more than any file holds")
        # without printed positions these hold for rows in order of their addresses; `settle` sees to the others
        offset = np.cumsum(size) - size + np.uint64(before) if printed is None else printed
        ends = virtual + size
        first = np.ones(len(virtual), np.bool_)
        np.not_equal(virtual[1:], ends[:-1], out=first[1:])
        # what lies on both sides of 2**47 is far apart once the addresses are canonical
        first |= virtual & _HALF_48 == 0
        if printed is not None:
            first[1:] |= offset[1:] != offset[:-1] + size[:-1]
        starts, sizes, offsets = virtual, size, offset
        if not first.all():
            index = np.flatnonzero(first)
            starts, offsets = virtual[index], offset[index]
            sizes = ends[np.append(index[1:], len(ends)) - 1] - starts
        if len(self.written) and self._continues(starts[0], offsets[0]):
            self.written.size[-1] += sizes[0]
            starts, sizes, offsets = starts[1:], sizes[1:], offsets[1:]
        self.written.append(starts, sizes, offsets)

    def _continues(self, start: np.uint64, offset: np.uint64) -> bool:
        last = self.written
        end = int(last.start[-1]) + int(last.size[-1]), int(last.offset[-1]) + int(last.size[-1])
        return end == (int(start), int(offset)) and bool(start & _HALF_48)


def read_rows(memory_map: MemoryMap) -> list[ProcessRows]:
    """Read a whole map; return its processes, at least one, in the order in which they appear.

    Raises MapError if a row is malformed, or if there is none.
    """
    sorter = _Sorter(memory_map)
    try:
        for rows in memory_map.rows():
            sorter.add(rows)
    except MapError as error:
        error.subject = error.subject or memory_map.path
        raise
    found = [process for process in sorter.processes if process.rows]
    if not found:
        if memory_map.empty:
            raise MapError(
                f"has {memory_map.empty} rows and all of them are of size 0: the map is damaged",
                subject=memory_map.path,
            )
        raise MapError(
            "has a header and no rows: the program that wrote it found no page, or was stopped before the first",
            subject=memory_map.path,
        )
    return _one_shuffled(found, memory_map)


class _Sorter:
    """Finds out where one process ends and another begins.

    The name in "File output" tells, and marks in the map; if there is neither, a position of 0; if no positions
    are printed either, an address lower than the one before.
    """

    def __init__(self, memory_map: MemoryMap) -> None:
        self.texts = memory_map.columns.texts
        self.processes: list[ProcessRows] = []
        self.by_file: dict[str, ProcessRows] = {}
        self.current: ProcessRows | None = None

    def add(self, rows: Rows) -> None:
        """Add a block of rows."""
        rows = self._grouped(rows)
        marks = {mark.row: mark for mark in rows.marks}
        for begin, end in self._runs(rows):
            if begin in marks:
                self._new(marks[begin].pid, marks[begin].name)
            if begin < end:
                part = slice(begin, end)
                error, process = self._whose(rows, begin)
                printed = None if rows.printed is None else rows.printed[part]
                lines = int(rows.lines[begin]), int(rows.lines[end - 1])
                process.add(rows.virtual[part], rows.size[part], printed, lines, error=error)

    def _grouped(self, rows: Rows) -> Rows:
        """Return a block with its rows by what is said of their files, if that alternates and their order is no matter.

        It is not if each row tells whose it is, or all are of the process that the rows before them belong to.
        """
        codes = rows.codes
        if codes is None or rows.marks or np.count_nonzero(codes[1:] != codes[:-1]) < _MANY:
            return rows
        found = [meaning(self.texts[code]) for code in distinct(codes).tolist()]
        named = [file for kind, file in found if kind == WRITTEN and file is not None]
        if len(named) < len(found) and (
            len(named) > 1 or any(self.by_file.get(file) is not self.current for file in named)
        ):
            return rows
        order = np.argsort(codes, kind="stable")
        printed = None if rows.printed is None else rows.printed[order]
        return Rows(rows.virtual[order], rows.size[order], printed, codes[order], rows.lines[order], ())

    def _runs(self, rows: Rows) -> list[tuple[int, int]]:
        """Cut a block wherever something changes that could mean another process."""
        count = len(rows.virtual)
        changes = np.zeros(count, np.bool_)
        if rows.codes is not None:
            changes[1:] |= rows.codes[1:] != rows.codes[:-1]
        if rows.printed is not None:
            begins = rows.printed == 0
            if rows.codes is not None and begins.any():  # whose a row is that names a file, its name tells
                named = np.array([meaning(text)[0] == WRITTEN for text in self.texts], np.bool_)
                begins &= ~named[rows.codes]
            changes |= begins
        else:
            changes[1:] |= rows.virtual[1:] < rows.virtual[:-1]
        cuts = {0, count, *np.flatnonzero(changes).tolist(), *(mark.row for mark in rows.marks)}
        places = sorted(cuts)
        return list(zip(places, [*places[1:], count], strict=True))

    def _whose(self, rows: Rows, row: int) -> tuple[bool, ProcessRows]:
        """Return whether the rows from `row` on were not written, and whose they are."""
        kind, file = (None, None) if rows.codes is None else meaning(self.texts[int(rows.codes[row])])
        current = self.current
        if rows.printed is not None:
            begins = bool(rows.printed[row] == 0)
        else:
            begins = current is not None and int(rows.virtual[row]) < current.last_virtual
        if kind == WRITTEN and file is not None:
            process = self.by_file.get(file)
            if process is None:
                # rows that could not be written may stand before the first that names the file
                unnamed = current is not None and current.file is None and not len(current.written)
                process = current if current is not None and unnamed and not (begins and current.rows) else self._new()
                process.file = file
                self.by_file[file] = process
            self.current = process
            return False, process
        if current is None or (begins and current.rows and current.pid is None):
            current = self._new()
        return kind == ERROR, current

    def _new(self, pid: int | None = None, name: str | None = None) -> ProcessRows:
        if len(self.processes) >= _MOST_PROCESSES:
            raise MapError(
                f"has rows of more than {_MOST_PROCESSES} processes, as no machine runs",
                remedy="if it is not damaged, cut it into smaller ones",
            )
        self.current = ProcessRows(pid, name)
        self.processes.append(self.current)
        return self.current


def _one_shuffled(processes: list[ProcessRows], memory_map: MemoryMap) -> list[ProcessRows]:
    """Put together what a position of 0 in the middle has cut, if the rows of one process are in another order.

    Two parts are one process if the first does not begin at position 0, no name or mark tells them apart, and no byte
    of the dump belongs to both.
    """
    if len(processes) != 2 or not memory_map.columns.has_printed:  # noqa: PLR2004 - one row has position 0
        return processes
    one, other = processes
    if (one.file and other.file) or one.pid is not None or other.pid is not None:
        return processes
    parts = (one.written, one.unwritten, other.written, other.unwritten)
    offset = np.concatenate([part.offset for part in parts])
    size = np.concatenate([part.size for part in parts])
    order = np.argsort(offset, kind="stable")
    begins_at_zero = min((int(part.offset.min()) for part in (one.written, one.unwritten) if len(part)), default=0) == 0
    if begins_at_zero or (offset[order][1:] < (offset + size)[order][:-1]).any():
        return processes
    for mine, theirs in ((one.written, other.written), (one.unwritten, other.unwritten)):
        mine.append(theirs.start, theirs.size, theirs.offset)
    one.rows += other.rows
    one.file = one.file or other.file
    one.sum += other.sum
    one.lines = (one.lines[0], max(one.lines[1], other.lines[1]))
    return [one]
