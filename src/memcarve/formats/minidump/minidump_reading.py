"""What stands in a minidump's streams.

Everything may be wrong: nothing is read that is not in the file, and no list is longer than the file has room for.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.minidump import structures
from memcarve.formats.minidump.contexts import floating, registers
from memcarve.formats.minidump.directory import NAMES, Directory, whole_rows
from memcarve.formats.minidump.structures import Module
from memcarve.intervals import TOP, total

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.backing import FileBacking
    from memcarve.dtypes import U8, U64, Bools, Records
    from memcarve.formats.minidump.directory import Stream

    #: start, size and offset of ranges, and whether each is stored, unwritten or misplaced
    _Ranges = tuple[U64, U64, U64, U8]

_MOST_RANGES = 1 << 23
_LARGEST_FILE = 1 << 63
_MOST_INFOS = 1 << 22
_MOST_ROWS = 1 << 16  # modules, threads
_MOST_NAMES = 1 << 24  # bytes of them all
_LONGEST_NAME = 1 << 16  # bytes; Windows allows 32,767 characters
_LONGEST_CONTEXT = 1 << 12
_LONGEST_COPY = 1 << 26  # of /proc/PID/maps of a process with half a million mappings
_EX = structures.THREAD_EX
_MISC = struct.Struct("<III")
_NARROW_TOP = 1 << 32
#: what an extended address has besides its 32 bits
_EXTENDED = TOP - _NARROW_TOP
_STORED, _UNWRITTEN, _MISPLACED = range(3)
_WORDS = {number: word for word, number in structures.ARCHITECTURES.items()}


class System(NamedTuple):
    """The system: `architecture` in our words, None for others; `platform` and version are numbers as they stand."""

    architecture: str | None
    number: int
    platform: int
    major: int
    minor: int
    build: int


class Thread(NamedTuple):
    """A thread: what is 0 is not known. `stack` is start and size in bytes; `registers` are those of the CONTEXT.

    `floating` are the x87 and SSE registers as `formats.floating_point` has them.
    """

    tid: int
    teb: int
    stack: tuple[int, int]
    begin: int
    registers: dict[str, int]
    floating: bytes | None
    name: str | None


class Raised(NamedTuple):
    """What the ExceptionStream says: which exception was raised where, in which thread, and its registers then."""

    tid: int
    code: int
    flags: int
    address: int
    parameters: tuple[int, ...]
    registers: dict[str, int]
    floating: bytes | None


class Memory(NamedTuple):
    """What a minidump lists of memory, in columns (uint64), neither sorted nor disjoint; no size is 0.

    `stored` are start, size and offset in the file of what is there, as far as the file reaches. `unwritten` (start,
    size) has no place in the file; of `misplaced` the place cannot be right, and nothing tells where the bytes are.
    """

    stored: tuple[U64, U64, U64]
    unwritten: tuple[U64, U64]
    misplaced: tuple[U64, U64]


class Minidump:
    """A minidump, opened. `flags` are the header's; `notes` say what of the lists read so far is not as it must be.

    Its addresses are of 32 bits if it is `narrow`: dbghelp extends the highest of those bits through the upper half of
    its fields, and here they are as the process had them.

    `signature` is what stands where a minidump says that it is one; it counts for nothing if the file was `said` to be
    one, or if everything else shows that it is. Raises NotRecognisedError if the file is not one, InputError if its
    directory is not in it, SourceReadError.
    """

    def __init__(self, file: FileBacking, *, said: bool = False) -> None:
        self.file = file
        self._directory = Directory(file, said=said)
        self.flags, self.signature = self._directory.flags, self._directory.signature
        system = self.system()
        # memcarve writes addresses as they are: those of a kernel are not extended ones
        own = self.comment().startswith(structures.MARK)
        self.narrow = system is not None and system.number in structures.NARROW and not own

    def __contains__(self, kind: int) -> bool:
        return bool(self._directory.all(kind))

    @property
    def notes(self) -> list[str]:
        """What is not as it must be, in sentences that begin with the file's path."""
        return self._directory.notes

    def fits(self, start: int, size: int) -> bool:
        """Return True if `size` bytes from `start` end before the last address, or with it."""
        return start + size <= (_NARROW_TOP if self.narrow and start < _NARROW_TOP else TOP)

    def beyond(self, start: U64, size: U64) -> Bools:
        """Return for each range (uint64, no size 0) whether it ends beyond the last address."""
        last = start + (size - np.uint64(1))
        found: Bools = last < start
        if self.narrow:
            found |= (start < np.uint64(_NARROW_TOP)) & (last >= np.uint64(_NARROW_TOP))
        return found

    def _address(self, value: int) -> int:
        return value - _EXTENDED if self.narrow and value >= _EXTENDED + (1 << 31) else value

    def _addresses(self, column: U64) -> U64:
        extended = column >= np.uint64(_EXTENDED + (1 << 31))
        return np.where(extended, column - np.uint64(_EXTENDED), column) if self.narrow else column

    def memory(self) -> Memory:
        """Return the ranges of memory, of both lists.

        Raises InputError if there is no list, or one that no process can have.
        """
        lists = (structures.MEMORY64_LIST, structures.MEMORY_LIST)
        if not any(kind in self for kind in lists) and not len(self.stacks()[0]):
            if self._directory.misplaced.intersection(lists):
                raise InputError(
                    "is a minidump whose list of memory is said to lie in its header or directory; it is damaged",
                    subject=self.file.path,
                )
            raise InputError(
                "is a minidump that holds no memory",
                subject=self.file.path,
                remedy="make one with full memory (procdump -ma, MiniDumpWithFullMemory), or use the memory image "
                "of the machine",
            )
        tables = [
            self._agreed([read(stream) for stream in self._directory.all(kind)])
            for kind, read in zip(lists, (self._memory64, self._memory32), strict=True)
        ]
        start, size, offset, state = map(np.concatenate, zip(*tables, strict=True))
        start = self._addresses(start)
        keep = size > 0
        start, size, offset, state = start[keep], size[keep], offset[keep], state[keep]
        beyond = np.flatnonzero(self.beyond(start, size))
        if len(beyond):
            first = int(beyond[0])
            raise InputError(
                f"its range at 0x{int(start[first]):x} of 0x{int(size[first]):x} bytes reaches beyond the last "
                "address; it is damaged",
                subject=self.file.path,
            )
        stored, unwritten, misplaced = (state == value for value in (_STORED, _UNWRITTEN, _MISPLACED))
        return Memory(
            (start[stored], size[stored], offset[stored]),
            (start[unwritten], size[unwritten]),
            (start[misplaced], size[misplaced]),
        )

    def stacks(self) -> tuple[U64, U64, U64]:
        """Return start, size and offset of memory that threads' own rows say is in the file, in any order.

        These are their stacks, and what Itanium's registers were spilled to. Lists of memory have it, too, as a rule;
        some writers leave it to the threads. A list of threads that is not whole tells nothing. Nor do places of 32
        bits in a file that is longer and whose memory lies in the 64-bit list: they may have lost their upper half.
        """
        found: list[Records] = []
        if self.file.size > _NARROW_TOP and structures.MEMORY64_LIST in self:
            return (np.zeros(0, np.uint64),) * 3
        for kind, row in ((structures.THREAD_LIST, structures.THREAD_STACK), (structures.THREAD_EX_LIST, _EX)):
            stream = self._directory.first(kind)
            rows = self._directory.rows(stream)
            if rows is None or not rows.number <= min(self._directory.room(stream, rows), _MOST_ROWS):
                continue
            table = whole_rows(self.file.read_there(stream.place + rows.begin, rows.number * rows.width), row)
            found += [table] if kind == structures.THREAD_LIST else [table["thread"], table["store"]]
        start, size, offset = (
            np.concatenate([np.zeros(0, np.uint64), *(table[name].astype(np.uint64) for table in found)])
            for name in ("start", "size", "rva")
        )
        start = self._addresses(start)
        keep = (size > 0) & (offset > 0)
        start, size, offset = start[keep], size[keep], offset[keep]
        wrong = self.beyond(start, size)
        for begin, end in self._directory.structures:
            wrong |= (offset < np.uint64(end)) & (offset + size > np.uint64(begin))
        if wrong.any():
            self._directory.note(
                f"of {int(wrong.sum())} of its threads' stacks the place cannot be right, of the first that at "
                f"0x{int(start[wrong][0]):x}; not used"
            )
        return start[~wrong], size[~wrong], offset[~wrong]

    def _memory64(self, stream: Stream) -> _Ranges:
        """Return the ranges of a 64-bit list, which lie one after the other; if one cannot lie there, none does."""
        _, base = self._directory.head(stream, structures.MEMORY64_HEAD) or (0, 0)
        rows = self._table(stream, structures.MEMORY64, "memory (64-bit)")
        size = rows["size"].astype(np.uint64)
        whole = total(size)
        if base + whole > _LARGEST_FILE:
            raise InputError(
                "its ranges of memory have more bytes than any file; it is damaged", subject=self.file.path
            )
        offset = np.uint64(base) + np.cumsum(size, dtype=np.uint64) - size
        own = self._directory.extent(stream)
        wrong = self._directory.is_structure(base, whole) or (base < own[1] and own[0] < base + whole)
        if wrong:
            self._directory.note(
                f"its memory (64-bit) list says that memory lies at 0x{base:x}-0x{base + whole:x} of the file, where "
                "the header, the directory or a list is"
            )
        return rows["start"].astype(np.uint64), size, offset, _states(len(rows), _MISPLACED if wrong else _STORED)

    def _memory32(self, stream: Stream) -> _Ranges:
        """Return the ranges of the list in which each has a place of its own."""
        rows = self._table(stream, structures.MEMORY, "memory")
        start, size, offset = (rows[name].astype(np.uint64) for name in ("start", "size", "rva"))
        state = _states(len(rows), _STORED)
        for begin, end in (*self._directory.structures, self._directory.extent(stream)):
            state[(offset < np.uint64(end)) & (offset + size > np.uint64(begin))] = _MISPLACED
        state[offset == 0] = _UNWRITTEN
        wrong = int(((state == _MISPLACED) & (size > 0)).sum())
        if wrong:
            self._directory.note(
                f"of {wrong} of {len(rows)} entries of its memory list the bytes are said to lie where the header, the "
                "directory or a list is"
            )
        return start, size, offset, state

    def _agreed(self, tables: list[_Ranges]) -> _Ranges:
        """Return the ranges of a list; of several lists of one kind nothing tells which one is right.

        Where they do not have the same bytes of the file for the same addresses, the bytes are not known.
        """
        if not tables:
            return *(np.zeros(0, np.uint64),) * 3, _states(0, _STORED)
        if any(len(table[0]) > _MOST_RANGES for table in tables):
            raise InputError(f"has more than {_MOST_RANGES} ranges of memory; it is damaged", subject=self.file.path)
        if len(tables) == 1:
            return tables[0]
        start, size, offset, state = map(np.concatenate, zip(*tables, strict=True))
        rows = np.stack([start, size, offset, state.astype(np.uint64)], axis=1)
        owner = np.repeat(np.arange(len(tables)), [len(table[0]) for table in tables])
        found, index = np.unique(rows, axis=0, return_inverse=True)
        count = np.zeros(len(found), np.int64)
        pairs = np.unique(np.stack([index.reshape(-1), owner], axis=1), axis=0)
        np.add.at(count, pairs[:, 0], 1)
        state = np.where(count == len(tables), found[:, 3], _MISPLACED).astype(np.uint8)
        return found[:, 0], found[:, 1], found[:, 2], state

    def memory_info(self) -> Records:
        """Return the rows (`layout.MEMORY_INFO`) of what is known of memory; of very many the first."""
        rows = self._wide(structures.MEMORY_INFO_LIST, structures.MEMORY_INFO, "memory information")
        rows = self._few(rows, "rows of memory information", _MOST_INFOS)
        if self.narrow:
            rows = rows.copy()
            for name in ("base", "allocation"):
                rows[name] = self._addresses(rows[name])
        return rows

    def system(self) -> System | None:
        """Return what the system was; None if it is not said."""
        row = self._directory.head(self._directory.first(structures.SYSTEM_INFO), structures.SYSTEM)
        if row is None:
            return None
        number, _, _, _, _, major, minor, build, platform = row[:9]
        return System(_WORDS.get(number), number, platform, major, minor, build)

    def pid(self) -> int | None:
        """Return the number of the process; None if it is not said."""
        # what the structure had at first, up to the number
        row = self._directory.head(self._directory.first(structures.MISC_INFO), _MISC)
        return row[2] if row is not None and row[1] & structures.MISC_PROCESS_ID else None

    def comment(self) -> bytes:
        """Return the comment up to its zero, or its beginning; nothing if there is none."""
        stream = self._directory.first(structures.COMMENT)
        return self.file.read_there(stream.place, min(stream.size, structures.LONGEST_COMMENT)).partition(b"\0")[0]

    def modules(self) -> list[Module]:
        """Return the modules, in the order of the list: the first is the program itself."""
        rows = self._few(self._first(structures.MODULE_LIST, structures.MODULE.size, "module"), "modules", _MOST_ROWS)
        return self._modules(structures.MODULE, rows)

    def unloaded(self) -> list[Module]:
        """Return the modules that were unloaded, in the order of the list."""
        width = np.dtype((np.void, structures.UNLOADED_MODULE.size))
        rows = self._wide(structures.UNLOADED_MODULE_LIST, width, "unloaded module")
        rows = self._few(rows, "modules that were unloaded", _MOST_ROWS)
        return self._modules(structures.UNLOADED_MODULE, rows)

    def _modules(self, entry: struct.Struct, rows: Records) -> list[Module]:
        table = [*entry.iter_unpack(rows.tobytes())]
        names = self._names(row[4] for row in table)
        return [
            Module(self._address(base), size, checksum, timestamp, names[place])
            for base, size, checksum, timestamp, place, *_ in table
        ]

    def _names(self, places: Iterable[int]) -> dict[int, str | None]:
        """Return the texts at places in the file, as many as there may be."""
        names: dict[int, str | None] = {}
        left = _MOST_NAMES
        for place in places:
            if place not in names:
                names[place] = self._string(place) if left > 0 else None
                left -= len(names[place] or "") + 1
        return names

    def threads(self) -> list[Thread]:
        """Return the threads, in the order of the list; those of the extended list if there is no other."""
        if structures.THREAD_LIST in self:
            rows = self._first(structures.THREAD_LIST, structures.THREAD.size, "thread")
        else:
            rows = self._first(structures.THREAD_EX_LIST, structures.THREAD_EX.itemsize, "extended thread")
            rows = rows.view(structures.THREAD_EX)["thread"]
        rows = self._few(rows, "threads", _MOST_ROWS)
        begins, names, found = self._begins(), self.thread_names(), []
        for tid, _, _, _, teb, low, size, _, length, place in structures.THREAD.iter_unpack(rows.tobytes()):
            known, area = self._context(place, length)
            stack = self._address(low), size
            found.append(Thread(tid, self._address(teb), stack, begins.get(tid, 0), known, area, names.get(tid)))
        return found

    def _context(self, place: int, length: int) -> tuple[dict[str, int], bytes | None]:
        """Return the registers of a CONTEXT, and its area of x87 and SSE registers, as far as they are known."""
        system = self.system()
        architecture = system.architecture if system is not None else None
        size_there = 0 if self._directory.is_structure(place, length) else min(length, _LONGEST_CONTEXT)
        data = self.file.read_there(place, size_there)
        return registers(data, architecture), floating(data, architecture)

    def thread_names(self) -> dict[int, str]:
        """Return the names of threads that have one, by their ids."""
        rows = self._first(structures.THREAD_NAMES, structures.THREAD_NAME.size, "thread name")
        rows = self._few(rows, "names of threads", _MOST_ROWS)
        places = dict(structures.THREAD_NAME.iter_unpack(rows.tobytes()))
        names = self._names(places.values())
        return {tid: name for tid, place in places.items() if (name := names[place]) is not None}

    def raised(self) -> Raised | None:
        """Return which exception the minidump was made for; None if there is none, or it is cut off."""
        row = self._directory.head(self._directory.first(structures.EXCEPTION), structures.EXCEPTION_RECORD)
        if row is None:
            return None
        tid, code, flags, _, address, count = row[:6]
        parameters = row[6 : 6 + min(count, structures.MOST_PARAMETERS)]
        known, area = self._context(row[-1], row[-2])
        return Raised(tid, code, flags, self._address(address), parameters, known, area)

    def copied(self, kind: int) -> bytes:
        """Return the bytes of a stream that is a copy of a file below /proc, as many as there may be; none if none."""
        stream = self._directory.first(kind)
        if stream.size > _LONGEST_COPY:
            self._directory.note(f"its {NAMES[kind]} has {stream.size} bytes, as none has; the first are used")
        return self.file.read_there(stream.place, min(stream.size, _LONGEST_COPY))

    def _begins(self) -> dict[int, int]:
        width = np.dtype((np.void, structures.THREAD_INFO_ENTRY.size))
        rows = self._wide(structures.THREAD_INFO_LIST, width, "thread information")
        rows = self._few(rows, "threads that are described", _MOST_ROWS)
        entries = structures.THREAD_INFO_ENTRY.iter_unpack(rows.tobytes())
        return {row[0]: self._address(row[4]) for row in entries}

    def _first(self, kind: int, width: int, what: str) -> Records:
        return self._table(self._directory.first(kind), np.dtype((np.void, width)), what)

    def _wide(self, kind: int, row: np.dtype[np.void], what: str) -> Records:
        """Return the rows of a list that says how long its head and its rows are, which may be longer than we know."""
        stream = self._directory.first(kind)
        rows = self._directory.rows(stream)
        if rows is None:
            return np.zeros(0, row)
        if rows.width < row.itemsize:
            self._directory.note(
                f"its {what} list has entries of {rows.width} bytes, which have {row.itemsize} at least; not used"
            )
            return np.zeros(0, row)
        if rows.width > _LONGEST_CONTEXT:
            self._directory.note(f"its {what} list has entries of {rows.width} bytes, as none has; not used")
            return np.zeros(0, row)
        wide = self._table(stream, np.dtype((np.void, rows.width)), what)
        if rows.width == row.itemsize:
            return wide.view(row)
        cells = wide.view(np.uint8).reshape(-1, rows.width)[:, : row.itemsize]
        return np.ascontiguousarray(cells).view(row).reshape(-1)

    def _table(self, stream: Stream, row: np.dtype[np.void], what: str) -> Records:
        """Return the rows of a list that are in it and in the file; a note says if there should be more."""
        rows = self._directory.rows(stream)
        if rows is None:
            return np.zeros(0, row)
        room = self._directory.room(stream, rows)
        if rows.number > room:
            self._directory.note(f"its {what} list should have {rows.number} entries, and {room} are there")
        there = min(rows.number, room, _MOST_RANGES + 1)
        return whole_rows(self.file.read_there(stream.place + rows.begin, there * row.itemsize), row)

    def _few(self, rows: Records, what: str, most: int) -> Records:
        if len(rows) > most:
            self._directory.note(f"has {len(rows)} {what} or more, as no process has; the first {most} are used")
        return rows[:most]

    def _string(self, place: int) -> str | None:
        """Return a MINIDUMP_STRING; halves of characters are escaped.

        None if it is not in the file, or too long, or if what lies there is something else.
        """
        size = int.from_bytes(self.file.read_there(place, 4), "little")
        data = self.file.read_there(place + 4, size) if size <= _LONGEST_NAME else b""
        if self._directory.is_structure(place, 4 + size) or len(data) != size:
            return None
        return data.decode("utf-16-le", "backslashreplace") if data else None


def _states(count: int, state: int) -> U8:
    return np.full(count, state, np.uint8)
