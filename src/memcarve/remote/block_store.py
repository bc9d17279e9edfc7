"""What came of an object, kept on disk at the offsets that it has there, in a file of which only that takes room.

A table in memory says which granules of 4 KiB are there. It is shared with copies of this program that are forked, as
the file is: what one of them fetched is there for all. If more is kept than the bound allows, the granules that were
fetched or read longest ago are given up, and their room with them; whoever reads meanwhile notices it by a number that
changes between the one and the other, and fetches again.
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

import numpy as np

from memcarve.errors import NoSpaceError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANULE = 1 << 12
_NUMBERS = ("epoch", "kept", "age")
#: what was done in this run, which another program that has the same table open does not count
COUNTS = ("requests", "fetched", "reused")
_NUMBER = struct.Struct("=Q")
HEAD = 64
LEAST = 1024  # granules that are kept whatever the bound
_AGES = 250  # granules are as old as one of so many numbers says, of which the lowest are given up
_PART = 1 << 24
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class BlockStore:
    """The blocks of an object of `size` bytes in the file `fd`; at most `bound` bytes are kept.

    `folder` is what messages name. `table` begins with the numbers that copies of the program share; behind them is a
    byte for each granule, 0 if it is not there. Whoever made the store closes `fd`. Safe to use from several threads
    and copies of the program.
    """

    def __init__(self, fd: int, table: mmap.mmap, size: int, folder: str, bound: int) -> None:
        self.fd = fd
        self.size = size
        self.folder = folder
        self.count = -(-size // GRANULE)
        #: what keeps threads apart that move the one position that a file has on Windows
        self.position = threading.Lock()
        self._bound = max(bound // GRANULE, LEAST)
        self._lock = threading.RLock()
        self._table = table
        self._counts = mmap.mmap(-1, 8 * len(COUNTS))
        if not self.number("age"):
            self._set("age", 1)

    @classmethod
    def temporary(cls, size: int, folder: str, bound: int) -> BlockStore:
        """Make a store in a file without a name, which is gone with the program. Raises OutputError."""
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                fd = os.dup(file.fileno())
            os.ftruncate(fd, size)
            table = mmap.mmap(-1, HEAD + -(-size // GRANULE))
        except OSError as error:
            raise OutputError(
                f"the temporary file for what is fetched cannot be made: {error.strerror}",
                subject=folder,
                remedy="{temp:DIR} names another folder",
            ) from error
        return cls(fd, table, size, folder, bound)

    def mend(self) -> None:
        """Make the numbers agree with the granules, whatever was left there."""
        with self._alone():
            kept = newest = 0
            for part in self._parts():
                ages = self._table[part]
                kept += len(ages) - ages.count(0)
                newest = max(newest, int(np.frombuffer(ages, np.uint8).max()))
            self._set("kept", kept)
            if not 0 < self.number("age") <= _AGES or newest > self.number("age"):
                for part in self._parts():
                    self._table[part] = self._table[part].translate(bytes([0, *[1] * 255]))
                self._set("age", 1)

    def _parts(self) -> Iterator[slice]:
        """Yield the places of the granules in the table, not too many at once: of how many there are a server says."""
        for place in range(0, self.count, _PART):
            yield slice(HEAD + place, HEAD + min(place + _PART, self.count))

    def forked(self) -> None:
        """Begin anew with locks: this is a copy of the program that had them."""
        self._lock, self.position = threading.RLock(), threading.Lock()

    def sure(self, first: int, end: int) -> bool:  # noqa: ARG002 - of a cache it is not
        """Return True if the granules from `first` to `end` hold what was put there; others are not there any more."""
        return True

    def number(self, name: str) -> int:
        """Return one of the numbers of the table."""
        found: int = _NUMBER.unpack_from(self._table, 8 * _NUMBERS.index(name))[0]
        return found

    def counted(self) -> dict[str, int]:
        """Return the counts of this run, of all copies of the program."""
        return dict(zip(COUNTS, struct.unpack(f"={len(COUNTS)}Q", self._counts[:]), strict=True))

    def add(self, name: str, count: int) -> None:
        """Add to one of the counts."""
        place = 8 * COUNTS.index(name)
        with self._alone():
            _NUMBER.pack_into(self._counts, place, _NUMBER.unpack_from(self._counts, place)[0] + count)

    def has(self, first: int, end: int) -> bool:
        """Return True if all granules from `first` to `end` are there."""
        return self._table.find(b"\0", HEAD + first, HEAD + end) < 0

    def missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the runs of granules from `first` to `end` that are not there."""
        found, table, place = [], self._table, HEAD + first
        while (begin := table.find(b"\0", place, HEAD + end)) >= 0:
            place = begin + 1
            while place < HEAD + end and not table[place]:
                place += 1
            found.append((begin - HEAD, place - HEAD))
        return found

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Keep bytes from a granule's beginning on. Raises NoSpaceError, OutputError."""
        view, done = memoryview(data), 0
        first, end = offset // GRANULE, -(-(offset + len(view)) // GRANULE)
        with self._alone():  # whoever gives up granules now would take the room of what is written
            try:
                while done < len(view):
                    done += self._write(view[done:], offset + done)
            except OSError as error:
                kind = NoSpaceError if error.errno in _FULL else OutputError
                raise kind(
                    f"what is fetched cannot be kept: {error.strerror}",
                    subject=self.folder,
                    remedy="{temp:DIR} names another folder",
                ) from error
            self._note(first, view)
            new = self._table[HEAD + first : HEAD + end].count(0)
            kept = self.number("kept") + new
            before = self.number("kept") * 16 // self._bound
            if kept * 16 // self._bound != before:
                self._grow_older()
                self._make_room()
            self._table[HEAD + first : HEAD + end] = bytes([self.number("age")]) * (end - first)
            self._set("kept", kept)
            if kept > self._bound:
                self._give_up()

    def used(self, first: int, end: int) -> None:
        """Take note that granules were read just now."""
        age = self.number("age")
        if self._table[HEAD + first] != age:
            with self._alone():
                if self.has(first, end):
                    self._table[HEAD + first : HEAD + end] = bytes([age]) * (end - first)

    def close(self) -> None:
        """Let go of the table."""
        with contextlib.suppress(BufferError):
            self._table.close()

    def _write(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, view, offset)
        with self.position:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, view)

    def _note(self, first: int, view: memoryview) -> None:
        """Note what will tell later whether granules are as they were put there."""

    def _make_room(self) -> None:
        """Look after a bound that is shared with others."""

    def _set(self, name: str, value: int) -> None:
        _NUMBER.pack_into(self._table, 8 * _NUMBERS.index(name), value)

    def _grow_older(self) -> None:
        age = self.number("age") + 1
        if age > _AGES:
            half = _AGES // 2
            fewer = bytes([0, *(max(old - half, 1) for old in range(1, 256))])
            self._table[HEAD : HEAD + self.count] = self._table[HEAD : HEAD + self.count].translate(fewer)
            age -= half
        self._set("age", age)

    def _give_up(self) -> None:
        """Give up the oldest granules until a quarter of the room is free."""
        ages = self._table[HEAD : HEAD + self.count]
        counts = [ages.count(age) for age in range(256)]
        kept, limit = self.number("kept"), 0
        while kept > self._bound * 3 // 4 and limit < self.number("age") - 1:
            limit += 1
            kept -= counts[limit]
        gone = bytes([1 if 0 < age <= limit else 0 for age in range(256)])
        marked = ages.translate(gone)
        left = bytes([0 if age <= limit else age for age in range(256)])
        self._table[HEAD : HEAD + self.count] = ages.translate(left)
        self._set("kept", kept)
        # only now: whoever saw a granule in the table before has read the number before, too
        self._set("epoch", (self.number("epoch") + 1) % (1 << 63))
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
