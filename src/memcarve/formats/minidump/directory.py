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
    from memcarve.dtypes import Records

_ROW = np.dtype([("kind", "<u4"), ("size", "<u4"), ("rva", "<u4")])
#: lists that begin with the number of their rows, and how long a row is
_PLAIN = {
    structures.THREAD_LIST: structures.THREAD.size,
    structures.MODULE_LIST: structures.MODULE.size,
    structures.MEMORY_LIST: structures.MEMORY.itemsize,
    structures.THREAD_EX_LIST: structures.THREAD_EX.itemsize,
    structures.THREAD_NAMES: structures.THREAD_NAME.size,
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
    structures.EXCEPTION: "exception",
    structures.SYSTEM_INFO: "system information",
    structures.THREAD_EX_LIST: "extended thread list",
    structures.MEMORY64_LIST: "memory (64-bit) list",
    structures.COMMENT: "comment",
    structures.UNLOADED_MODULE_LIST: "unloaded module list",
    structures.MISC_INFO: "miscellaneous information",
    structures.MEMORY_INFO_LIST: "memory information list",
    structures.THREAD_INFO_LIST: "thread information list",
    structures.THREAD_NAMES: "list of thread names",
    structures.LINUX_STATUS: "copy of /proc/PID/status",
    structures.LINUX_COMMAND_LINE: "copy of /proc/PID/cmdline",
    structures.LINUX_ENVIRONMENT: "copy of /proc/PID/environ",
    structures.LINUX_AUXV: "copy of /proc/PID/auxv",
    structures.LINUX_MAPS: "copy of /proc/PID/maps",
}
_ARCHITECTURES = frozenset(structures.ARCHITECTURES.values())
_PLATFORM, _PLATFORMS = 8, frozenset({*structures.PLATFORMS.values(), structures.UNIX})
#: of streams that are not lists
_SIZES = {structures.SYSTEM_INFO: structures.SYSTEM.size, structures.EXCEPTION: structures.EXCEPTION_RECORD.size}
#: of a minidump whose signature was replaced: streams, kinds that Microsoft numbers, bits of the header's flags
_MOST_DISGUISED, _KINDS, _FLAG_BITS = 64, 0x20, 32
_LISTS_OF_MEMORY = (structures.MEMORY_LIST, structures.MEMORY64_LIST)


def whole_rows(data: bytes, row: np.dtype[np.void]) -> Records:
    """Return data as rows, without the beginning of one at the end."""
    return np.frombuffer(data[: len(data) // row.itemsize * row.itemsize], row)


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

    The header's signature counts for nothing if the file was `said` to be a minidump. Raises NotRecognisedError if the
    file is not one, InputError if its directory is not in it, SourceReadError.
    """

    def __init__(self, file: FileBacking, *, said: bool = False) -> None:
        self.file = file
        self.notes: list[str] = []
        data = file.read_there(0, structures.HEADER.size)
        #: what stands in the signature's place
        self.signature = data[: len(structures.MAGIC)]
        if self.signature != structures.MAGIC and not (
            structures.is_likely(data, file.size) if said else is_disguised(file)
        ):
            raise NotRecognisedError("is not a minidump", subject=file.path)
        if len(data) < structures.HEADER.size:
            raise InputError("is a minidump that ends inside its header; the file was cut off", subject=file.path)
        _, _, count, rva, _, _, self.flags = structures.HEADER.unpack(data)
        end = rva + _ROW.itemsize * count
        if count > structures.MOST_STREAMS or end > file.size:
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
        rows = whole_rows(file.read_there(rva, _ROW.itemsize * count), _ROW).tolist()
        for kind in sorted({kind for kind, size, _ in rows if size}.intersection(structures.UNREAD)):
            self.note(f"its stream 0x{kind:x} ({structures.UNREAD[kind]}) holds memory that is not read")
        used = [number for number, (kind, size, _) in enumerate(rows, 1) if size and kind in NAMES]
        # some writers count streams that they leave out, and the first one follows where their entries should be
        self._taken = [(0, structures.HEADER.size), (rva, rva + _ROW.itemsize * max(used, default=0))]
        for number in used:
            kind, size, place = rows[number - 1]
            self._add(Stream(kind, place, size))
        #: the bytes of the file, as begin and end, that are the header, the directory, the system and the sound lists
        self.structures = [(0, structures.HEADER.size), (rva, end), *map(self.extent, self.sound)]

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
        data = self.file.read_there(stream.place, min(stream.size, form.size))
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
        """Return begin and end, in the file, of what a stream's rows and their head take; of no list its first byte.

        What is not a list but has a size of its own takes that.
        """
        rows = self.rows(stream)
        size = 1 if rows is None else rows.begin + rows.width * min(rows.number, self.room(stream, rows))
        return stream.place, stream.place + _SIZES.get(stream.kind, size)

    @property
    def sound(self) -> list[Stream]:
        """The streams that are what they are said to be: what they hold agrees with their size.

        Others may be damaged places that lead into memory, which must not be lost for that.
        """
        return [stream for streams in self._streams.values() for stream in streams if self._is_sound(stream)]

    def _is_sound(self, stream: Stream) -> bool:
        rows = self.rows(stream)
        if rows is not None:
            return rows.number > 0 and rows.size == stream.size
        if stream.size != _SIZES.get(stream.kind):
            return False
        if stream.kind == structures.SYSTEM_INFO:
            head = self.head(stream, structures.SYSTEM)
            return head is not None and head[0] in _ARCHITECTURES and head[_PLATFORM] in _PLATFORMS
        return True


def is_disguised(file: FileBacking) -> bool:
    """Return True if everything but the signature and the version in its header is a minidump's.

    No other file, and no noise, has a directory whose streams all lie in the file, in none of the others and not in
    the header, of kinds that are known, each once, with a sound SystemInfo and a list of memory that is as long as it
    says.
    """
    data = file.read_there(0, structures.HEADER.size)
    if not structures.is_likely(data, file.size):
        return False
    _, _, count, rva, _, _, flags = structures.HEADER.unpack(data)
    if count > _MOST_DISGUISED or flags >> _FLAG_BITS:
        return False
    end = rva + _ROW.itemsize * count
    rows = [row for row in whole_rows(file.read_there(rva, end - rva), _ROW).tolist() if row[0]]
    kinds = [kind for kind, _, _ in rows]
    if len(set(kinds)) < len(kinds) or not all(kind < _KINDS or kind in NAMES for kind in kinds):
        return False
    taken = [(0, structures.HEADER.size), (rva, end)]
    for _, size, place in rows:
        if size and (_overlap(taken, place, size) or place + size > file.size):
            return False
        taken.append((place, place + size))
    found = Directory(file, said=True)
    sound = [stream.kind for stream in found.sound]
    return structures.SYSTEM_INFO in sound and not set(_LISTS_OF_MEMORY).isdisjoint(sound)


def _overlap(ranges: list[tuple[int, int]], place: int, size: int) -> bool:
    return any(place < end and begin < place + size for begin, end in ranges)
