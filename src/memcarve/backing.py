"""The bytes behind an address space: one offset space, read exactly or not at all."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memcarve.errors import CounterpartError, InputError, SourceReadError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self


class Span(NamedTuple):
    """`length` bytes at `offset` of an open file: something the kernel can copy by itself."""

    file: FileBacking
    offset: int
    length: int


class Backing(Protocol):
    """One offset space of `size` bytes."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Where the bytes lie in files, in order; None where they must be decoded first."""

    def close(self) -> None:
        """Give the files back. What was read stays valid; reading again is an error."""


def check_unchanged(backings: Iterable[Backing]) -> None:
    """Raise InputError where a file behind one of the backings is not as it was when it was opened."""
    for backing in backings:
        for span in backing.spans(0, min(backing.size, 1)) or []:
            if span.file.changed():
                raise InputError(f"{span.file.path}: was changed while it was read")


class AbsentBacking:
    """The bytes of an address space whose file is not at hand: reading raises CounterpartError with `why`."""

    size = 0

    def __init__(self, why: str) -> None:
        self.why = why

    def read_into(self, offset: int, buffer: memoryview) -> None:  # noqa: ARG002 - nothing can be read
        """Raise CounterpartError."""
        raise CounterpartError(self.why)

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Raise CounterpartError."""
        raise CounterpartError(self.why)

    def close(self) -> None:
        """Do nothing."""


class FileBacking:
    """A file as it lies on disk, opened read-only.

    The instance owns its descriptor until `close`, which may be called twice. Safe to use from several threads.
    Raises InputError where `path` is no regular file and SourceReadError where it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._mapping: mmap.mmap | None = None
        self._unmappable = False
        self.fd = -1
        try:
            # O_NONBLOCK: opening a named pipe must not hang; for a regular file it means nothing
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self.fd = os.open(self.path, flags)
            self._status = os.fstat(self.fd)
        except OSError as error:
            self.close()
            raise SourceReadError(f"{self.path}: cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise InputError(f"{self.path}: is not a regular file; give the dump or the map itself")

    @property
    def size(self) -> int:
        """The file's length when it was opened, in bytes."""
        return self._status.st_size

    @property
    def status(self) -> os.stat_result:
        """What fstat said when the file was opened."""
        return self._status

    def changed(self) -> bool:
        """Say whether the file's length or modification time differ from when it was opened."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns)

    @property
    def mapping(self) -> memoryview | None:
        """The file mapped into memory, for the kernel to copy from; None where that does not work.

        Only system calls may touch it: they fail with EFAULT where a page cannot be read, while touching it here would
        end the program by a signal.
        """
        with self._lock:
            if self._mapping is None and not self._unmappable:
                try:
                    self._mapping = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError):  # an empty file, a file system that cannot, no addresses left
                    self._unmappable = True
            return None if self._mapping is None else memoryview(self._mapping)

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes at `offset`; return how many came, 0 at the end of the file."""
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
                raise SourceReadError(f"{self.path}: has been closed") from error
            raise SourceReadError(f"{self.path}: cannot be read at offset 0x{offset:x}: {error.strerror}") from error
        buffer[: len(data)] = data
        return len(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError."""
        try:  # the usual case, at the least cost: images are read page by page
            done = os.preadv(self.fd, (buffer,), offset)
        except (OSError, AttributeError):  # the careful way below says what is wrong, or does without
            done = 0
        while done < len(buffer):
            count = self.read_some(offset + done, buffer[done:])
            if not count:
                raise SourceReadError(
                    f"{self.path}: ends at offset 0x{offset + done:x}, before the 0x{len(buffer):x} bytes at "
                    f"0x{offset:x}; it was 0x{self.size:x} bytes long when it was opened"
                )
            done += count

    def next_written(self, offset: int) -> int:
        """Return the first place from `offset` on that is no hole of a sparse file; the file's size where none is."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except AttributeError:  # Windows does not tell
            return offset
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset

    def spans(self, offset: int, size: int) -> list[Span] | None:
        """Return the one place where the bytes lie."""
        return [Span(self, offset, size)]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self.fd = self.fd, -1
        mapping, self._mapping, self._unmappable = self._mapping, None, True
        with contextlib.suppress(BufferError):  # somebody still holds a part of it: it ends with that
            if mapping is not None:
                mapping.close()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
