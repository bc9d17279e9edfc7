"""A minidump's header, its directory, and what stands in its streams.

Everything may be wrong: nothing is read that is not in the file, no list is longer than the file has room for, and of
several streams of one kind the first that holds anything counts.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.columns import total
from memcarve.errors import InputError, NotRecognisedError
from memcarve.formats.machine import read_at
from memcarve.formats.minidump import layout
from memcarve.formats.minidump.contexts import registers

if TYPE_CHECKING:
    import numpy.typing as npt

    from memcarve.backing import FileBacking

    Column = npt.NDArray[np.uint64]
    Table = npt.NDArray[np.void]

_MOST_STREAMS = 1 << 12
_MOST_RANGES = 1 << 23
_LARGEST_FILE = 1 << 63
_MOST_INFOS = 1 << 22
_MOST_ROWS = 1 << 16  # modules, threads
_MOST_NAMES = 1 << 24  # bytes of them all
_LONGEST_NAME = 1 << 16  # bytes; Windows allows 32,767 characters
_LONGEST_COMMENT = layout.LONGEST_COMMENT
_LONGEST_CONTEXT = 1 << 12
_DIRECTORY = np.dtype([("kind", "<u4"), ("size", "<u4"), ("rva", "<u4")])
_WORDS = {number: word for word, number in layout.ARCHITECTURES.items()}


class System(NamedTuple):
    """The system: `architecture` in our words, None for others; `platform` and version are numbers as they stand."""

    architecture: str | None
    number: int
    platform: int
    major: int
    minor: int
    build: int


class Module(NamedTuple):
    """A module: its base and size (bytes, 0 is not known), and its path, which may hold anything; None is not known."""

    base: int
    size: int
    name: str | None


class Thread(NamedTuple):
    """A thread: what is 0 is not known. `stack` is start and size in bytes; `registers` are those of the CONTEXT."""

    tid: int
    teb: int
    stack: tuple[int, int]
    begin: int
    registers: dict[str, int]


class Minidump:
    """A minidump, opened. `flags` are the header's; `notes` say what of the lists read so far is not as it must be.

    Raises NotRecognisedError where the file is none, InputError where its directory is not in it, SourceReadError.
    """

    def __init__(self, file: FileBacking) -> None:
        self.file = file
        self.notes: list[str] = []
        data = read_at(file, 0, layout.HEADER.size)
        if not data.startswith(layout.MAGIC):
            raise NotRecognisedError(f"{file.path}: is no minidump")
        if len(data) < layout.HEADER.size:
            raise InputError(f"{file.path}: is a minidump that ends inside its header; the file was cut off")
        _, _, count, rva, _, _, self.flags = layout.HEADER.unpack(data)
        if count > _MOST_STREAMS or rva + _DIRECTORY.itemsize * count > file.size:
            raise InputError(
                f"{file.path}: is a minidump of {count} streams, listed at 0x{rva:x}; the file ends at "
                f"0x{file.size:x}: it is damaged, or was cut off"
            )
        self._streams: dict[int, tuple[int, int]] = {}
        rows = np.frombuffer(read_at(file, rva, _DIRECTORY.itemsize * count), _DIRECTORY)
        for kind, size, place in rows.tolist():
            if size:
                self._streams.setdefault(kind, (place, size))

    def __contains__(self, kind: int) -> bool:
        return kind in self._streams

    def memory(self) -> tuple[Column, Column, Column]:
        """Return start, size and offset in the file (uint64) of the ranges of memory, of both lists.

        They may overlap, and lie outside the file; no size is 0. Raises InputError where there is no list, or one that
        no process can have.
        """
        if layout.MEMORY64_LIST not in self and layout.MEMORY_LIST not in self:
            raise InputError(
                f"{self.file.path}: is a minidump that holds no memory; make one with full memory (procdump -ma, "
                "MiniDumpWithFullMemory), or use the memory image of the machine"
            )
        count, base = self._head(layout.MEMORY64_LIST, layout.MEMORY64_HEAD) or (0, 0)
        wide = self._table(layout.MEMORY64_LIST, layout.MEMORY64_HEAD.size, count, layout.MEMORY64, "memory (64-bit)")
        narrow = self._listed(layout.MEMORY_LIST, layout.MEMORY, "memory")
        if max(len(wide), len(narrow)) > _MOST_RANGES:
            raise InputError(f"{self.file.path}: has more than {_MOST_RANGES} ranges of memory; it is damaged")
        if base + total(wide["size"]) > _LARGEST_FILE:
            raise InputError(f"{self.file.path}: its ranges of memory have more bytes than any file; it is damaged")
        following = np.uint64(base) + np.cumsum(wide["size"], dtype=np.uint64) - wide["size"]
        start = np.concatenate([wide["start"], narrow["start"]]).astype(np.uint64)
        size = np.concatenate([wide["size"], narrow["size"]]).astype(np.uint64)
        offset = np.concatenate([following, narrow["rva"]]).astype(np.uint64)
        keep = size > 0
        start, size, offset = start[keep], size[keep], offset[keep]
        beyond = np.flatnonzero(start + (size - np.uint64(1)) < start)
        if len(beyond):
            first = int(beyond[0])
            raise InputError(
                f"{self.file.path}: its range at 0x{int(start[first]):x} of 0x{int(size[first]):x} bytes reaches "
                "beyond the last address; it is damaged"
            )
        return start, size, offset

    def memory_info(self) -> Table:
        """Return the rows (`layout.MEMORY_INFO`) of what is known of memory; of very many the first."""
        head, row = self._head(layout.MEMORY_INFO_LIST, layout.MEMORY_INFO_HEAD), layout.MEMORY_INFO
        if head is None:
            return np.zeros(0, row)
        rows = self._wide(layout.MEMORY_INFO_LIST, head, row, "memory information")
        return self._few(rows, "rows of memory information", _MOST_INFOS)

    def system(self) -> System | None:
        """Return what the system was; None where it is not said."""
        row = self._head(layout.SYSTEM_INFO, layout.SYSTEM)
        if row is None:
            return None
        number, _, _, _, _, major, minor, build, platform = row[:9]
        return System(_WORDS.get(number), number, platform, major, minor, build)

    def pid(self) -> int | None:
        """Return the number of the process; None where it is not said."""
        place, size = self._streams.get(layout.MISC_INFO, (0, 0))
        data = read_at(self.file, place, min(size, 12))
        if len(data) < 12:  # noqa: PLR2004 - what the structure had at first, up to the number
            return None
        _, valid, pid = struct.unpack("<III", data)
        return int(pid) if valid & layout.MISC_PROCESS_ID else None

    def comment(self) -> bytes:
        """Return the comment up to its zero, or its beginning; nothing where there is none."""
        place, size = self._streams.get(layout.COMMENT, (0, 0))
        return read_at(self.file, place, min(size, _LONGEST_COMMENT)).partition(b"\0")[0]

    def modules(self) -> list[Module]:
        """Return the modules, in the order of the list: the first is the program itself."""
        width = np.dtype((np.void, layout.MODULE.size))
        rows = self._few(self._listed(layout.MODULE_LIST, width, "module"), "modules", _MOST_ROWS)
        names: dict[int, str | None] = {}
        left = _MOST_NAMES
        found = []
        for base, size, _, _, place, *_ in layout.MODULE.iter_unpack(rows.tobytes()):
            if place not in names:
                names[place] = self._string(place) if left > 0 else None
                left -= len(names[place] or "") + 1
            found.append(Module(base, size, names[place]))
        return found

    def threads(self) -> list[Thread]:
        """Return the threads, in the order of the list."""
        width = np.dtype((np.void, layout.THREAD.size))
        rows = self._few(self._listed(layout.THREAD_LIST, width, "thread"), "threads", _MOST_ROWS)
        system = self.system()
        architecture = system.architecture if system is not None else None
        begins, found = self._begins(), []
        for tid, _, _, _, teb, low, size, _, length, place in layout.THREAD.iter_unpack(rows.tobytes()):
            data = read_at(self.file, place, min(length, _LONGEST_CONTEXT))
            found.append(Thread(tid, teb, (low, size), begins.get(tid, 0), registers(data, architecture)))
        return found

    def _begins(self) -> dict[int, int]:
        """Return where threads began, by their ids."""
        head = self._head(layout.THREAD_INFO_LIST, layout.THREAD_INFO_HEAD)
        if head is None:
            return {}
        width = np.dtype((np.void, layout.THREAD_INFO_ENTRY.size))
        rows = self._wide(layout.THREAD_INFO_LIST, head, width, "thread information")
        rows = self._few(rows, "threads that are described", _MOST_ROWS)
        return {row[0]: row[4] for row in layout.THREAD_INFO_ENTRY.iter_unpack(rows.tobytes())}

    def _head(self, kind: int, form: struct.Struct) -> tuple[int, ...] | None:
        """Return what a stream begins with; None where it is not there or too short."""
        place, size = self._streams.get(kind, (0, 0))
        data = read_at(self.file, place, min(size, form.size))
        return form.unpack(data) if len(data) == form.size else None

    def _listed(self, kind: int, row: np.dtype[np.void], what: str) -> Table:
        """Return the rows of a list that begins with their number; some writers align them to 8 bytes."""
        (count,) = self._head(kind, struct.Struct("<I")) or (0,)
        begin = 8 if self._streams.get(kind, (0, 0))[1] == 8 + count * row.itemsize else 4
        return self._table(kind, begin, count, row, what)

    def _wide(self, kind: int, head: tuple[int, ...], row: np.dtype[np.void], what: str) -> Table:
        """Return the rows of a list that says how long its head and its rows are, which may be longer than we know."""
        begin, width, count = head
        if width < row.itemsize:
            self._note(f"its {what} list has entries of {width} bytes, which have {row.itemsize} at least; not used")
            return np.zeros(0, row)
        if width == row.itemsize:
            return self._table(kind, begin, count, row, what)
        if width > _LONGEST_CONTEXT:
            self._note(f"its {what} list has entries of {width} bytes, as none has; not used")
            return np.zeros(0, row)
        wide = self._table(kind, begin, count, np.dtype((np.void, width)), what)
        return np.ascontiguousarray(wide.view(np.uint8).reshape(-1, width)[:, : row.itemsize]).view(row).reshape(-1)

    def _table(self, kind: int, begin: int, count: int, row: np.dtype[np.void], what: str) -> Table:
        """Return the rows of a stream that are in it and in the file; a note says where there should be more."""
        place, size = self._streams.get(kind, (0, 0))
        room = max(min(place + size, self.file.size) - place - begin, 0) // row.itemsize
        if count > room:
            self._note(f"its {what} list should have {count} entries, and {room} are there")
        there = min(count, room, _MOST_RANGES + 1)
        return np.frombuffer(read_at(self.file, place + begin, there * row.itemsize), row)

    def _few(self, rows: Table, what: str, most: int) -> Table:
        if len(rows) > most:
            self._note(f"has {len(rows)} {what} or more, as no process has; the first {most} are used")
        return rows[:most]

    def _note(self, text: str) -> None:
        note = f"{self.file.path}: {text}"
        if note not in self.notes:
            self.notes.append(note)

    def _string(self, place: int) -> str | None:
        """Return a MINIDUMP_STRING; halves of characters are escaped. None where it is not in the file, or too long."""
        size = int.from_bytes(read_at(self.file, place, 4), "little")
        data = read_at(self.file, place + 4, size) if size <= _LONGEST_NAME else b""
        return data.decode("utf-16-le", "backslashreplace") if data and len(data) == size else None
