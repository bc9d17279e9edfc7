"""What came of an object, kept on disk at the offsets that it has there, in a file of which only that takes room.

A table in memory says which granules of 4 KiB are there. It is shared with copies of this program that are forked, as
the file is: what one of them fetched is there for all. If more is kept than the bound allows, the granules that were
fetched or read longest ago are given up, and their room with them; whoever reads meanwhile notices it by a number that
changes before they go, and fetches again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

from memcarve.errors import NoSpaceError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANULE = 1 << 12
_NUMBERS = ("epoch", "kept", "age", "requests", "fetched", "reused")
_NUMBER = struct.Struct("=Q")
_HEAD = 64
_AGES = 250  # granules are as old as one of so many numbers says, of which the lowest are given up
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class BlockStore:
    """The blocks of an object of `size` bytes, in a file without a name in `folder`; at most `bound` bytes are kept.

    `fd` is the file's descriptor, which whoever made the store closes. Safe to use from several threads and copies of
    the program. Raises OutputError if the file cannot be made.
    """

    def __init__(self, size: int, folder: str, bound: int) -> None:
        self.size = size
        self.folder = folder
        self._bound = max(bound // GRANULE, 1024)
        self._lock = threading.RLock()
        count = -(-size // GRANULE)
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self.fd = os.dup(file.fileno())
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise OutputError(
                f"the temporary file for what is fetched cannot be made: {error.strerror}",
                subject=folder,
                remedy="{temp:DIR} names another folder",
            ) from error
        self._table = mmap.mmap(-1, _HEAD + count)
        self._set("age", 1)

    def number(self, name: str) -> int:
        """Return one of the numbers that the copies share."""
        found: int = _NUMBER.unpack_from(self._table, 8 * _NUMBERS.index(name))[0]
        return found

    def add(self, name: str, count: int) -> None:
        """Add to one of them."""
        with self._alone():
            self._set(name, self.number(name) + count)

    def has(self, first: int, end: int) -> bool:
        """Return True if all granules from `first` to `end` are there."""
        return self._table.find(b"\0", _HEAD + first, _HEAD + end) < 0

    def missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the runs of granules from `first` to `end` that are not there."""
        found, table, place = [], self._table, _HEAD + first
        while (begin := table.find(b"\0", place, _HEAD + end)) >= 0:
            place = begin + 1
            while place < _HEAD + end and not table[place]:
                place += 1
            found.append((begin - _HEAD, place - _HEAD))
        return found

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Keep bytes from a granule's beginning on. Raises NoSpaceError, OutputError."""
        view, done = memoryview(data), 0
        first, end = offset // GRANULE, -(-(offset + len(view)) // GRANULE)
        try:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
        except OSError as error:
            kind = NoSpaceError if error.errno in _FULL else OutputError
            raise kind(
                f"what is fetched cannot be kept: {error.strerror}",
                subject=self.folder,
                remedy="{temp:DIR} names another folder",
            ) from error
        with self._alone():
            new = self._table[_HEAD + first : _HEAD + end].count(0)
            kept = self.number("kept") + new
            before = self.number("kept") * 16 // self._bound
            if kept * 16 // self._bound != before:
                self._grow_older()
            self._table[_HEAD + first : _HEAD + end] = bytes([self.number("age")]) * (end - first)
            self._set("kept", kept)
            if kept > self._bound:
                self._give_up()

    def used(self, first: int, end: int) -> None:
        """Take note that granules were read just now."""
        age = self.number("age")
        if self._table[_HEAD + first] != age:
            with self._alone():
                if self.has(first, end):
                    self._table[_HEAD + first : _HEAD + end] = bytes([age]) * (end - first)

    def close(self) -> None:
        """Let go of the table."""
        with contextlib.suppress(BufferError):
            self._table.close()

    def _set(self, name: str, value: int) -> None:
        _NUMBER.pack_into(self._table, 8 * _NUMBERS.index(name), value)

    def _grow_older(self) -> None:
        age = self.number("age") + 1
        if age > _AGES:
            half = _AGES // 2
            fewer = bytes([0, *(max(old - half, 1) for old in range(1, 256))])
            self._table[_HEAD:] = self._table[_HEAD:].translate(fewer)
            age -= half
        self._set("age", age)

    def _give_up(self) -> None:
        """Give up the oldest granules until a quarter of the room is free."""
        ages = self._table[_HEAD:]
        counts = [ages.count(age) for age in range(256)]
        kept, limit = self.number("kept"), 0
        while kept > self._bound * 3 // 4 and limit < self.number("age") - 1:
            limit += 1
            kept -= counts[limit]
        self._set("epoch", self.number("epoch") + 1)
        gone = bytes([1 if 0 < age <= limit else 0 for age in range(256)])
        marked = ages.translate(gone)
        self._table[_HEAD:] = ages.translate(bytes([0 if age <= limit else age for age in range(256)]))
        self._set("kept", kept)
        place = 0
        while (begin := marked.find(1, place)) >= 0:
            end = marked.find(0, begin)
            end = len(marked) if end < 0 else end
            self._punch(begin * GRANULE, (end - begin) * GRANULE)
            place = end

    def _punch(self, offset: int, size: int) -> None:
        """Give room on the disk back, if the system can."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):
                import ctypes

                call = ctypes.CDLL(None, use_errno=True).fallocate
                call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
                call(self.fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and copies of the program out."""
        with self._lock:
            try:
                import fcntl
            except ImportError:  # where no copies are made
                yield
                return
            fcntl.lockf(self.fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.fd, fcntl.LOCK_UN)
