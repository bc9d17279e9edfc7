"""The bytes behind an address space: one offset space, read exactly or not at all."""

from __future__ import annotations

import contextlib
import copy
import errno
import itertools
import os
import stat
import threading
from bisect import bisect_right
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from memcarve.errors import CounterpartError, InputError, SourceReadError, UnreadableError
from memcarve.times import rfc3339_of

try:
    from memcarve import _read_pieces
except ImportError:  # there was no compiler, or the system has no pread
    _read_many = None
else:  # one that was compiled before it took what it is given here is not used
    _read_many = _read_pieces.read_pieces if getattr(_read_pieces, "INTERFACE", 0) == 1 else None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from memcarve.dtypes import I64, U64

    Offsets = int | Sequence[int] | I64 | U64

#: whether many pieces of a file are read by compiled code
IS_COMPILED = _read_many is not None

_OPEN = 8  # files of a folder that are kept open
_NOWHERE = (1 << 63) - 1  # no file is as long
_SPANS = 4  # files of a folder that the kernel is given at once
#: what a system says of a place that a medium, or the way to it, does not give: other places may be readable
_OF_ONE_PLACE = {
    getattr(errno, name)
    for name in ("EIO", "ENODATA", "EILSEQ", "EBADMSG", "EREMOTEIO", "EUCLEAN", "ENOLINK", "ETIMEDOUT")
    if hasattr(errno, name)
}


class Span(NamedTuple):
    """`length` bytes at `offset` of an open file: something the kernel can copy by itself."""

    file: FileBacking
    offset: int
    length: int


def kind_of(mode: int) -> str:
    """Return what something that is not a regular file is, in words, by its mode."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


def _not_regular(path: str, mode: int, *, follow: bool) -> InputError:
    remedy = "give a file" if follow else "put the file itself there"
    return InputError(f"is {kind_of(mode)}, not a regular file", subject=path, remedy=remedy)


def is_there(path: str) -> bool:
    """Return True if a file lies at a path, or what is put in its place: a link or a pipe is refused when opened."""
    return os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path))


class Backing(Protocol):
    """One offset space of `size` bytes."""

    @property
    def path(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return where the bytes lie in files, in order; None if they must be decoded first."""

    def close(self) -> None:
        """Close the files. What was read stays valid; reading again is an error."""


def check_unchanged(backings: Iterable[Backing]) -> None:
    """Raise InputError if a file behind one of the backings has changed since it was opened."""
    for backing in backings:
        if isinstance(backing, FolderBacking):
            backing.check()
            continue
        if isinstance(backing, Composite):
            check_unchanged(backing.parts)
            continue
        spans = backing.spans(0, min(backing.size, 1))
        files = [span.file for span in spans or ()]
        for file in [backing] if isinstance(backing, FileBacking) and spans is None else files:
            if file.changed():
                raise InputError("was changed while it was read", subject=file.path)


def status_facts(status: os.stat_result) -> dict[str, Any]:
    """Return a file's length, when it was modified (UTC), and which file of which device it is, ready for JSON."""
    return {
        "size": status.st_size,
        "modified": rfc3339_of(status.st_mtime_ns),
        "device": status.st_dev,
        "inode": status.st_ino,
    }


def next_written(backing: Backing, offset: int) -> int:
    """Return the first offset from `offset` on, at most `size`, whose byte is not known to be zero without reading it.

    So it is behind holes of sparse files, as far as the system tells where they are.
    """
    if isinstance(backing, FileBacking | FolderBacking | ZerosBehind | Composite | Zeros):
        return max(backing.next_written(offset), offset)
    return offset


def fetch_ahead(backing: Backing, offsets: Offsets, sizes: Offsets) -> None:
    """Say what of a backing is about to be read: one that lies elsewhere fetches it now, with many requests at once.

    `offsets` and `sizes` are numbers, or arrays of them. Does nothing for files on disk,
    and if there are page files besides. Raises what `read_into` does.
    """
    while isinstance(backing, ZerosBehind):
        backing = backing.backing
    if isinstance(backing, FileBacking):
        backing.fetch_ahead(offsets, sizes)


def read_pieces(backing: Backing, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
    """Fill `buffer` with pieces (offset, length) of a backing, one behind the other, which together are as long.

    A backing that has a method `read_pieces` reads many in less time than one by one. Raises what `read_into` does, and
    some of the bytes may be there then.
    """
    together: Callable[[Iterable[tuple[int, int]], memoryview], None] | None = getattr(backing, "read_pieces", None)
    if together is not None:
        together(pieces, buffer)
        return
    done, read_into = 0, backing.read_into
    for offset, length in pieces:
        read_into(offset, buffer[done : done + length])
        done += length


def may_have_holes(backing: Backing) -> bool:
    """Return False if it is known that `next_written` finds nothing: a file all of whose blocks are stored."""
    return not isinstance(backing, FileBacking) or backing.is_sparse


def is_costly(backing: Backing) -> bool:
    """Return True if reading all of a backing is to be avoided: each block of it comes from afar."""
    if isinstance(backing, ZerosBehind):
        return is_costly(backing.backing)
    return isinstance(backing, FileBacking) and backing.costly


class AbsentBacking:
    """The bytes of an address space whose file is not at hand: reading raises `error`."""

    size = 0

    def __init__(self, error: CounterpartError) -> None:
        self.error = error
        self.path = error.subject

    def read_into(self, offset: int, buffer: memoryview) -> None:  # noqa: ARG002 - nothing can be read
        """Raise CounterpartError."""
        raise copy.copy(self.error)

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Raise CounterpartError."""
        raise copy.copy(self.error)

    def close(self) -> None:
        """Do nothing."""


class FileBacking:
    """A file as it lies on disk, opened read-only.

    The instance owns its descriptor until `close`, which may be called twice. Safe to use from several threads.
    Every file of an input is opened here, so that nothing waits for a pipe or reads a device: raises InputError, which
    says what it is, if `path` is not a regular file, and SourceReadError if it cannot be opened. A symbolic link is
    opened only with `follow`: what the user named may be one, what was found by its name may not. `fd` is a descriptor
    to take over instead of opening the path.
    """

    #: what the user should know of how it was opened: sentences that begin with the path, and what is true of this
    #: run alone
    notes: tuple[tuple[str, str], ...] = ()
    #: whether its end is known to be missing
    incomplete = False
    #: whether reading all of it is to be avoided: each block comes from afar, over a network
    costly = False
    #: whether its bytes are those of `fd`, as they lie there
    direct = True
    #: its SHA-256 and when that was taken, ready for JSON, once it was taken
    hashed: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = True, fd: int = -1) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        #: what `read_there` could not read, in words
        self.lost: list[str] = []
        self.fd = fd
        try:
            # O_NONBLOCK: opening a named pipe must not hang; for a regular file it means nothing
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
            if not follow and not hasattr(os, "O_NOFOLLOW"):
                self._refuse_kind(follow=False)
            self.fd = os.open(self.path, flags) if fd < 0 else fd
            self.status = os.fstat(self.fd)  # when the file was opened
        except (OSError, ValueError) as error:
            self.close()
            self._refuse_kind(follow=follow)
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceReadError(f"cannot be opened: {reason}", subject=self.path) from error
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise _not_regular(self.path, self.status.st_mode, follow=follow)

    def _refuse_kind(self, *, follow: bool) -> None:
        """Raise InputError if what could not be opened is no regular file: links, sockets, some devices."""
        with contextlib.suppress(OSError, ValueError):
            mode = os.stat(self.path, follow_symlinks=follow).st_mode
            if not stat.S_ISREG(mode):
                raise _not_regular(self.path, mode, follow=follow)

    @property
    def size(self) -> int:
        """The file's length when it was opened, in bytes."""
        return self.status.st_size

    @property
    def is_sparse(self) -> bool:
        """Whether fewer blocks are stored than its length takes (stat(2)): it has holes, or is compressed."""
        return getattr(self.status, "st_blocks", 0) * 512 < self.size

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the file, ready for JSON: as it was when it was opened."""
        return {"path": self.path, **status_facts(self.status)}

    def changed(self) -> bool:
        """Return True if the file's length or modification time differs from when it was opened."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns)

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes at `offset`; return how many came, 0 at the end of the file.

        Raises UnreadableError if the first of them cannot be read, SourceReadError if none can.
        """
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self.fd, (buffer,), offset)
            if hasattr(os, "pread"):
                data = os.pread(self.fd, len(buffer), offset)
            else:  # Windows has one file position only
                with self._lock:
                    os.lseek(self.fd, offset, os.SEEK_SET)
                    data = os.read(self.fd, len(buffer))
        except OSError as error:
            if error.errno == errno.EBADF:
                raise SourceReadError("has been closed", subject=self.path) from error
            problem = f"cannot be read at offset 0x{offset:x}: {error.strerror}"
            if error.errno in _OF_ONE_PLACE:
                raise UnreadableError(problem, offset, subject=self.path) from error
            raise SourceReadError(problem, subject=self.path) from error
        buffer[: len(data)] = data
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only if the file ends before.

        Raises SourceReadError, UnreadableError if it is about some of them alone.
        """
        buffer = bytearray(max(min(size, self.size - offset), 0))
        if buffer:
            self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_there(self, offset: int, size: int) -> bytes:
        """Return what `read_at` does, up to the first byte that cannot be read; `lost` has why, once.

        So a header that cannot be read is like one that is cut off. Raises SourceReadError.
        """
        buffer = bytearray(max(min(size, self.size - offset), 0))
        if buffer:
            try:
                self.read_into(offset, memoryview(buffer))
            except UnreadableError as error:
                if error.problem not in self.lost:
                    self.lost.append(error.problem)
                return bytes(buffer[: error.offset - offset])
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        try:  # the usual case, at the least cost: images are read page by page
            done = os.preadv(self.fd, (buffer,), offset)
        except (OSError, AttributeError):  # the careful way below says what is wrong, or works without preadv
            done = 0
        while done < len(buffer):
            count = self.read_some(offset + done, buffer[done:])
            if not count:
                raise SourceReadError(
                    f"ends at offset 0x{offset + done:x}, before the 0x{len(buffer):x} bytes at 0x{offset:x}; it was "
                    f"0x{self.size:x} bytes long when it was opened",
                    subject=self.path,
                )
            done += count

    def read_pieces(self, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill `buffer` with pieces (offset, length), one behind the other; raises what `read_into` does."""
        rows, done, begin = list(pieces), 0, 0
        if _read_many is not None and self.direct and len(rows) > 1:
            done = _read_many(self.fd, rows, buffer)
            if done == len(buffer):
                return
        for offset, length in rows:  # reading the first that did not come whole says why
            skip = min(max(done - begin, 0), length)
            self.read_into(offset + skip, buffer[begin + skip : begin + length])
            begin += length

    def fetch_ahead(self, offsets: Offsets, sizes: Offsets) -> None:
        """Do nothing: the file is at hand."""

    def next_written(self, offset: int) -> int:
        """Return the first offset from `offset` on that is not in a hole of a sparse file; else the file's size."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except AttributeError:  # Windows has no SEEK_DATA
            return offset
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return the one span of the bytes."""
        return [Span(self, offset, size)]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_regular(path: str, *, follow: bool = False) -> IO[bytes]:
    """Open a file to be read as a stream, by the rules of `FileBacking`, and raise what that raises."""
    with FileBacking(path, follow=follow) as file:
        return open(os.dup(file.fd), "rb")


class FolderBacking:
    """Files of the folder `path` laid end to end, in the order of `files`: plain names, and how long each must be.

    A folder may hold more files than a program may open: each is opened when it is read, and few are kept open. Safe
    to use from several threads. Raises InputError, which names the file, if a file is missing, has another length or
    is not a regular file (a symbolic link is not), and if it has changed when it is opened.
    """

    def __init__(self, path: str | os.PathLike[str], files: Iterable[tuple[str, int]]) -> None:
        self.path = os.fspath(path)
        self._folder = os.path.abspath(self.path)
        self._names: list[str] = []
        self._starts = [0]
        self._seen: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._open: dict[int, FileBacking] | None = {}  # the one used last comes last
        for name, size in files:
            status = self._status(name)
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(self._shown(name), status.st_mode, follow=False)
            if status.st_size != size:
                raise InputError(
                    f"is {status.st_size} bytes long and must be {size}; it was changed or cut off: carve it again",
                    subject=self._shown(name),
                )
            self._names.append(name)
            self._starts.append(self._starts[-1] + size)
            self._seen.append((status.st_ino, status.st_mtime_ns))

    @property
    def size(self) -> int:
        """The number of bytes in all files."""
        return self._starts[-1]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        done = 0
        for index, place, length in self._parts(offset, len(buffer)):
            self._file(index).read_into(place, buffer[done : done + length])
            done += length

    def next_written(self, offset: int) -> int:
        """Return the first offset from `offset` on that is not in a hole of a sparse file, or is the next file's."""
        index, place, _ = next(self._parts(offset, 1))
        written = max(self._file(index).next_written(place) - place, 0)
        return offset + min(written, self._starts[index + 1] - offset)

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return the spans of the bytes; None if they lie in more files than should be open at once."""
        parts = list(itertools.islice(self._parts(offset, size), _SPANS + 1))
        if len(parts) > _SPANS:
            return None
        return [Span(self._file(index), place, length) for index, place, length in parts]

    def check(self) -> None:
        """Raise InputError if one of the files has changed since the beginning."""
        for index, name in enumerate(self._names):
            self._compare(index, self._status(name))

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        with self._lock:
            self._open = None

    def _parts(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield the file's number, the offset in it and the length of each part of a range."""
        if offset < 0 or offset + size > self.size:
            raise SourceReadError(
                f"its files end at offset 0x{self.size:x}, before the 0x{size:x} bytes at 0x{offset:x}",
                subject=self.path,
            )
        index = bisect_right(self._starts, offset) - 1
        while size:
            place = offset - self._starts[index]
            length = min(size, self._starts[index + 1] - offset)
            yield index, place, length
            index, offset, size = index + 1, offset + length, size - length

    def _file(self, index: int) -> FileBacking:
        """Return one of the files, open at least as long as it is held."""
        with self._lock:
            if self._open is None:
                raise SourceReadError("has been closed", subject=self.path)
            file = self._open.pop(index, None)
            if file is None:
                file = _Lent(os.path.join(self._folder, self._names[index]), follow=False)
                self._compare(index, file.status)
                if len(self._open) >= _OPEN:
                    del self._open[next(iter(self._open))]
            self._open[index] = file
            return file

    def _status(self, name: str) -> os.stat_result:
        try:
            return os.lstat(os.path.join(self._folder, name))
        except FileNotFoundError:
            raise InputError("is missing", subject=self._shown(name), remedy="put it back, or carve it again") from None
        except OSError as error:
            raise SourceReadError(f"cannot be read: {error.strerror}", subject=self._shown(name)) from error

    def _compare(self, index: int, status: os.stat_result) -> None:
        size = self._starts[index + 1] - self._starts[index]
        if (status.st_size, status.st_ino, status.st_mtime_ns) != (size, *self._seen[index]):
            raise InputError("was changed while it was read", subject=self._shown(self._names[index]))

    def _shown(self, name: str) -> str:
        return os.path.join(self.path, name)


class ZerosBehind:
    """The bytes of `backing` and, from the offset `begin` on, zeros that are stored nowhere and take no room.

    Between the two, at least one byte belongs to neither, so that no range reaches across. Owns `backing`.
    """

    def __init__(self, backing: Backing, zeros: int) -> None:
        self.backing = backing
        self.path = backing.path
        self.begin = (backing.size | 0xFFF) + 1
        self.size = self.begin + zeros

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        if self.begin <= offset and offset + len(buffer) <= self.size:
            buffer[:] = bytes(len(buffer))
        else:
            self.backing.read_into(offset, buffer)  # says where its bytes end

    def next_written(self, offset: int) -> int:
        """Return the first offset from `offset` on that is not in a hole of a sparse file, as far as that is known."""
        return self.size if offset >= self.begin else next_written(self.backing, offset)

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return where the bytes lie in files, in order; None if they lie nowhere, or must be decoded first."""
        return self.backing.spans(offset, size) if offset + size <= self.backing.size else None

    def close(self) -> None:
        """Close the backing; a second call does nothing."""
        self.backing.close()


class Composite:
    """The bytes of `backing` at their own offsets, and behind them those of `others`, each from a place in `begins` on.

    What begins there begins a page; between two, at least one byte belongs to neither, so that no range reaches across.
    Owns all of them.
    """

    def __init__(self, backing: Backing, others: Iterable[Backing]) -> None:
        self.backing = backing
        self.path = backing.path
        self.parts = [backing, *others]
        self._starts = [0]
        for part in self.parts[:-1]:
            self._starts.append((self._starts[-1] + part.size | 0xFFF) + 1)
        #: where what asks for more than a part has is still the part's, which says so
        self._ends = [*self._starts[1:], _NOWHERE]
        self.size = self._starts[-1] + self.parts[-1].size

    @property
    def begins(self) -> list[int]:
        """The offsets at which the others begin."""
        return self._starts[1:]

    def _part(self, offset: int) -> tuple[Backing, int]:
        """Return the part in which a range begins, or behind which it does, and the range's offset there."""
        index = bisect_right(self._starts, offset) - 1
        return self.parts[index], offset - self._starts[index]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        part, place = self._part(offset)
        try:
            part.read_into(place, buffer)
        except UnreadableError as error:
            error.offset += offset - place
            raise

    def read_pieces(self, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill `buffer` with pieces (offset, length), one behind the other, or raise SourceReadError."""
        rows = list(pieces)
        begin = self._read_files(rows, buffer)  # from here on, parts are to be read
        mine: list[tuple[int, int]] = []  # pieces that follow each other in one part: they are read together
        index = low = high = 0  # that part, and where it lies
        place = end = 0  # where its pieces go

        def read() -> None:
            try:
                read_pieces(self.parts[index], mine, buffer[place:end])
            except UnreadableError as error:
                error.offset += low
                raise

        for offset, length in rows:
            if mine and not low <= offset < high:
                read()
                mine.clear()
            if offset >= begin:
                if not mine:
                    index, place = bisect_right(self._starts, offset) - 1, end
                    low, high = self._starts[index], self._ends[index]
                mine.append((offset - low, length))
            end += length
        if mine:
            read()

    def _read_files(self, rows: list[tuple[int, int]], buffer: memoryview) -> int:
        """Read what lies in those first parts that are files; return where these end, 0 if some of it did not come."""
        for part, start, end in zip(self.parts, self._starts, self._ends, strict=True):
            if _read_many is None or not isinstance(part, FileBacking) or not part.direct:
                return start
            if _read_many(part.fd, rows, buffer, start, end) < len(buffer):
                return 0
        return _NOWHERE

    def next_written(self, offset: int) -> int:
        """Return the first offset from `offset` on that is not in a hole of a sparse file, or is the next part's."""
        index = bisect_right(self._starts, offset) - 1
        start = self._starts[index]
        written = min(next_written(self.parts[index], offset - start), self.parts[index].size)
        ends = index + 1 == len(self.parts) or offset < start + self.parts[index].size
        return max(start + written, offset) if ends else self._starts[index + 1]

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return where the bytes lie in files, in order; None if they must be decoded first, or lie in several."""
        if (offset, size) == (0, self.size):  # whoever asks for all wants to know what kind of bytes they are
            return self.backing.spans(0, self.backing.size)
        part, place = self._part(offset)
        return part.spans(place, size) if place + size <= part.size else None

    def close(self) -> None:
        """Close all of them; a second call does nothing."""
        for part in self.parts:
            part.close()


class Zeros:
    """`size` bytes of zeros, which lie nowhere."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with zeros, or raise SourceReadError."""
        if offset + len(buffer) > self.size:
            raise SourceReadError(f"has no bytes at offset 0x{offset:x}", subject=self.path)
        buffer[:] = bytes(len(buffer))

    def next_written(self, offset: int) -> int:  # noqa: ARG002 - wherever it is
        """Return the end."""
        return self.size

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - they lie in no file
        """Return None."""
        return None

    def close(self) -> None:
        """Do nothing."""


class _Lent(FileBacking):
    """A file that is closed with its last reference: others may still read it after the folder has let go of it."""

    def __del__(self) -> None:
        self.close()
