"""A minidump's header and its directory: which streams there are, and which bytes of the file are their lists.

Where lists lie and in which order is the writer's affair, and bytes of memory may lie before, between and behind them.
But no list lies in the header or in the directory, and no memory in any of these.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError, NotRecognisedError
from memcarve.formats.minidump import structures

if TYPE_CHECKING:
    from memcarve.backing import FileBacking

_MOST_STREAMS = 1 << 12
_ROW = np.dtype([("kind", "<u4"), ("size", "<u4"), ("rva", "<u4")])
#: lists that begin with the number of their rows, and how long a row is
_PLAIN = {
    structures.THREAD_LIST: structures.THREAD.size,
    structures.MODULE_LIST: structures.MODULE.size,
    structures.MEMORY_LIST: structures.MEMORY.itemsize,
}
#: lists that say how long their head and their rows are
_WIDE = {
    structures.MEMORY_INFO_LIST: structures.MEMORY_INFO_HEAD,
    structures.THREAD_INFO_LIST: structures.THREAD_INFO_HEAD,
    structures.UNLOADED_MODULE_LIST: structures.UNLOADED_MODULE_HEAD,
}
_LONGEST_HEAD = 1 << 12
_COUNT = struct.Struct("<I")
#: the streams that are read, by what they are called
NAMES = {
    structures.THREAD_LIST: "thread list",
    structures.MODULE_LIST: "module list",
    structures.MEMORY_LIST: "memory list",
    structures.SYSTEM_INFO: "system information",
    structures.MEMORY64_LIST: "memory (64-bit) list",
    structures.COMMENT: "comment",
    structures.UNLOADED_MODULE_LIST: "unloaded module list",
    structures.MISC_INFO: "miscellaneous information",
    structures.MEMORY_INFO_LIST: "memory information list",
    structures.THREAD_INFO_LIST: "thread information list",
}
_ARCHITECTURES = frozenset(structures.ARCHITECTURES.values())
_PLATFORM, _PLATFORMS = 8, frozenset(structures.PLATFORMS.values())
_LISTS_OF_MEMORY = (structures.MEMORY_LIST, structures.MEMORY64_LIST)


class Stream(NamedTuple):
    """A stream: `size` bytes at `place` in the file, as the directory says; nothing of it need be there."""

    kind: int
    place: int
    size: int


class Rows(NamedTuple):
    """Where a list's rows begin, relative to it, how long a row is, and how many there should be."""

    begin: int
    width: int
    number: int

    @property
    def size(self) -> int:
        """The bytes of the whole list."""
        return self.begin + self.width * self.number


class Directory:
    """The streams that are read; `notes` say what is not as it must be. `flags` are the header's.

    Raises NotRecognisedError if the file is not a minidump, InputError if its directory is not in it, SourceReadError.
    """

    def __init__(self, file: FileBacking) -> None:
        self.file = file
        self.notes: list[str] = []
        data = file.read_at(0, structures.HEADER.size)
        if not data.startswith(structures.MAGIC):
            raise NotRecognisedError("is not a minidump", subject=file.path)
        if len(data) < structures.HEADER.size:
            raise InputError("is a minidump that ends inside its header; the file was cut off", subject=file.path)
        _, _, count, rva, _, _, self.flags = structures.HEADER.unpack(data)
        end = rva + _ROW.itemsize * count
        if count > _MOST_STREAMS or end > file.size:
            raise InputError(
                f"is a minidump of {count} streams, listed at 0x{rva:x}; the file ends at 0x{file.size:x}: it is "
                "damaged, or was cut off",
                subject=file.path,
            )
        if count and rva < structures.HEADER.size:
            raise InputError(
                f"is a minidump of {count} streams, listed at 0x{rva:x}, inside its header; it is damaged",
                subject=file.path,
            )
        self._streams: dict[int, list[Stream]] = {}
        #: kinds of streams that are listed at a place where none can lie
        self.misplaced: set[int] = set()
        rows = np.frombuffer(file.read_at(rva, _ROW.itemsize * count), _ROW).tolist()
        used = [number for number, (kind, size, _) in enumerate(rows, 1) if size and kind in NAMES]
        # some writers count streams that they leave out, and the first one follows where their entries should be
        self._taken = [(0, structures.HEADER.size), (rva, rva + _ROW.itemsize * max(used, default=0))]
        for number in used:
            kind, size, place = rows[number - 1]
            self._add(Stream(kind, place, size))
        #: the bytes of the file, as begin and end, that are the header, the directory, the system and the sound lists
        self.structures = [(0, structures.HEADER.size), (rva, end), *self._sound()]

    def _add(self, stream: Stream) -> None:
        known = self._streams.get(stream.kind, [])
        name = NAMES[stream.kind]
        begin, end = self.extent(stream)
        if _overlap(self._taken, begin, end - begin):
            self.misplaced.add(stream.kind)
            self.note(f"its {name} is said to lie at 0x{stream.place:x}, in its header or directory; not used")
        elif stream in known:
            self.note(f"its {name} is listed twice")
        elif known:
            what = "what only one of them says is not used" if stream.kind in _LISTS_OF_MEMORY else "the first is used"
            self.note(f"has a second {name}, at 0x{stream.place:x}, and no minidump may; {what}")
            known.append(stream)
        else:
            self._streams[stream.kind] = [stream]

    def note(self, text: str) -> None:
        """Add a note about the file, once."""
        note = f"{self.file.path}: {text}"
        if note not in self.notes:
            self.notes.append(note)

    def all(self, kind: int) -> list[Stream]:
        """Return all streams of a kind, in the order of the directory; of an honest file there is one at most."""
        return self._streams.get(kind, [])

    def first(self, kind: int) -> Stream:
        """Return the first stream of a kind; one of no bytes if there is none."""
        return next(iter(self.all(kind)), Stream(kind, 0, 0))

    def head(self, stream: Stream, form: struct.Struct) -> tuple[int, ...] | None:
        """Return what a stream begins with; None if it is too short, or not there."""
        data = self.file.read_at(stream.place, min(stream.size, form.size))
        return form.unpack(data) if len(data) == form.size else None

    def rows(self, stream: Stream) -> Rows | None:
        """Return where the rows of a list are, as it says itself; None if it is too short to say so, or no list.

        Some writers put four bytes between the number of a plain list and its rows, to align them.
        """
        if stream.kind in _PLAIN:
            head = self.head(stream, _COUNT)
            if head is None:
                return None
            found = Rows(4, _PLAIN[stream.kind], head[0])
            return found._replace(begin=8) if stream.size == found.size + 4 else found
        if stream.kind == structures.MEMORY64_LIST:
            head = self.head(stream, structures.MEMORY64_HEAD)
            return None if head is None else Rows(structures.MEMORY64_HEAD.size, structures.MEMORY64.itemsize, head[0])
        if stream.kind in _WIDE:
            form = _WIDE[stream.kind]
            head = self.head(stream, form)
            if head is not None and not form.size <= head[0] <= _LONGEST_HEAD:
                self.note(f"its {NAMES[stream.kind]} has a head of {head[0]} bytes, as none has; not used")
                return None
            return None if head is None else Rows(*head)
        return None

    def room(self, stream: Stream, rows: Rows) -> int:
        """Return how many rows of a list lie in its stream and in the file."""
        end = min(stream.place + stream.size, self.file.size)
        return max(end - stream.place - rows.begin, 0) // rows.width if rows.width else 0

    def is_structure(self, place: int, size: int) -> bool:
        """Return True if any of these bytes of the file belong to the header, the directory, or a sound list."""
        return _overlap(self.structures, place, size)

    def extent(self, stream: Stream) -> tuple[int, int]:
        """Return begin and end, in the file, of what a stream's rows and their head take; of no list its first byte."""
        rows = self.rows(stream)
        size = 1 if rows is None else rows.begin + rows.width * min(rows.number, self.room(stream, rows))
        return stream.place, stream.place + size

    def _sound(self) -> list[tuple[int, int]]:
        """Return begin and end of the streams that are what they are said to be: what they hold agrees with their size.

        Others may be damaged places that lead into memory, which must not be lost for that.
        """
        found = []
        for stream in [stream for streams in self._streams.values() for stream in streams]:
            rows = self.rows(stream)
            if rows is not None and rows.number and rows.size == stream.size:
                found.append(self.extent(stream))
            if stream.kind == structures.SYSTEM_INFO and stream.size == structures.SYSTEM.size:
                head = self.head(stream, structures.SYSTEM)
                if head is not None and head[0] in _ARCHITECTURES and head[_PLATFORM] in _PLATFORMS:
                    found.append((stream.place, stream.place + stream.size))
        return found


def _overlap(ranges: list[tuple[int, int]], place: int, size: int) -> bool:
    return any(place < end and begin < place + size for begin, end in ranges)
