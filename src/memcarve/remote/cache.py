"""What came of objects, kept from one run to the next in a folder that several programs may share.

Each version of an object has two files there: its blocks, at the offsets that they have in the object, and the table of
those that are there, each with a checksum. A block is compared with its checksum when a program first reads it: one
that is damaged is fetched again. A version of another tag, time or length is another object. If the folder holds more
than its bound, the objects go first that nobody has open and that were opened longest ago, then blocks of the open one.

The folder is for its owner alone, and so are the files; links in it are not followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import OutputError
from memcarve.remote.block_store import GRANULE, HEAD, LEAST, BlockStore

if TYPE_CHECKING:
    from memcarve.remote.transports import Facts

_FOLDER = "memcarve-blocks"
_FORMAT = "memcarve blocks 1"
_BLOCKS, _TABLE = ".blocks", ".table"
_SUM = struct.Struct("=I")
_OTHER = "{cache:DIR} names another folder"


def key_of(shown: str, facts: Facts, origin: list[object]) -> str | None:
    """Return the name of a version of an object; None if nothing but its length tells it from another.

    `origin` is what tells it from objects of which the same is shown: those of another store, or of another query.
    """
    if facts.etag is None and facts.version is None and facts.modified is None:
        return None
    return hashlib.sha256(json.dumps([_FORMAT, shown, origin, *facts]).encode()).hexdigest()[:40]


class CachedStore(BlockStore):
    """The blocks of a version of an object in the folder `cache`, of which at most `bound` bytes are used.

    Raises OutputError if it cannot be used, or is not for its owner alone.
    """

    def __init__(self, key: str, size: int, cache: str, bound: int) -> None:
        self._folder = own_folder(cache, _FOLDER)
        self._name = os.path.join(self._folder, key)
        count = -(-size // GRANULE)
        length = HEAD + 5 * count
        try:
            fd, self._held = self._open(size, length)
        except OSError as error:
            raise OutputError(
                f"what is fetched cannot be kept: {error.strerror}", subject=error.filename or cache, remedy=_OTHER
            ) from error
        super().__init__(fd, mmap.mmap(self._held, length), size, cache, bound)
        self._all = bound
        self._sure = np.zeros(count, np.bool_)
        self.mend()
        with self._alone():
            self._make_room()
            if self.number("kept") > self._bound:  # the run before was allowed more
                self._grow_older()
                self._give_up()

    def _open(self, size: int, length: int) -> tuple[int, int]:
        """Open the two files, which are made anew if they are not what they should be; hold them against removal."""
        import fcntl

        while True:
            held = _own_file(self._name + _TABLE)
            fcntl.flock(held, fcntl.LOCK_SH)
            try:
                if os.fstat(held).st_nlink:  # else it was removed before it was held
                    fd = _own_file(self._name + _BLOCKS)
                    lengths = os.fstat(fd).st_size, os.fstat(held).st_size
                    if lengths == (size, length):
                        os.utime(held)
                        return fd, held
                    if lengths != (0, 0):
                        self._remove()
                    else:
                        os.ftruncate(fd, size)
                        os.ftruncate(held, length)
                        return fd, held
                    os.close(fd)
            except BaseException:
                os.close(held)
                raise
            os.close(held)

    def _remove(self) -> None:
        for ending in (_TABLE, _BLOCKS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name + ending)

    def sure(self, first: int, end: int) -> bool:
        """Return True if granules are as their checksums say; others are not there any more."""
        if self._sure[first:end].all():
            return True
        good, reused = True, 0
        for number in (first + np.flatnonzero(~self._sure[first:end])).tolist():
            data = os.pread(self.fd, GRANULE, number * GRANULE)
            expected = min(GRANULE, self.size - number * GRANULE)
            place = HEAD + self.count + 4 * number
            if len(data) == expected and _SUM.unpack_from(self._table, place)[0] == zlib.crc32(data):
                self._sure[number] = True
                reused += expected
            elif len(data) < expected and os.fstat(self.fd).st_size < self.size:
                os.ftruncate(self.fd, self.size)  # somebody cut it off
                self._drop(number)
                good = False
            else:
                self._drop(number)
                good = False
        self.add("reused", reused)
        return good

    def close(self) -> None:
        """Let go of the files."""
        super().close()
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    def _drop(self, number: int) -> None:
        with self._alone():
            if self._table[HEAD + number]:
                self._table[HEAD + number] = 0
                self._set("kept", max(self.number("kept") - 1, 0))

    def _note(self, first: int, view: memoryview) -> None:
        for number, place in enumerate(range(0, len(view), GRANULE), first):
            _SUM.pack_into(self._table, HEAD + self.count + 4 * number, zlib.crc32(view[place : place + GRANULE]))
        self._sure[first : first + -(-len(view) // GRANULE)] = True

    def _give_up(self) -> None:
        super()._give_up()
        self._sure[:] = False

    def _make_room(self) -> None:
        """Remove what nobody has open, the oldest first, until the folder keeps to its bound with what is open."""
        import fcntl

        found = []
        for name in os.listdir(self._folder):
            stem, ending = os.path.splitext(name)
            if ending == _TABLE:
                with contextlib.suppress(OSError):
                    path = os.path.join(self._folder, stem)
                    found.append((os.lstat(path + _TABLE).st_mtime_ns, path, _room(path)))
        kept = sum(room for *_, room in found)
        for _, path, room in sorted(found):
            if kept <= self._all:
                break
            if path == self._name:
                continue
            with contextlib.suppress(OSError):
                fd = os.open(path + _TABLE, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path + _TABLE)
                    os.unlink(path + _BLOCKS)
                    kept -= room
                finally:
                    os.close(fd)
        others = kept - _room(self._name)
        self._bound = max((self._all - others) // GRANULE, LEAST)


def _room(path: str) -> int:
    """Return how many bytes an object's blocks take on the disk."""
    with contextlib.suppress(OSError):
        return os.lstat(path + _BLOCKS).st_blocks * 512
    return 0


def own_folder(cache: str, name: str) -> str:
    """Return a folder in a cache that is the owner's alone, made if it is not there. Raises OutputError."""
    path = os.path.join(cache, name)
    if os.path.exists(cache) and not os.path.isdir(cache):
        raise OutputError("is a file, and what is fetched is kept in a folder", subject=cache, remedy=_OTHER)
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        status = os.lstat(path)
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", subject=path, remedy=_OTHER) from error
    if not hasattr(os, "geteuid"):
        raise OutputError(
            "what is fetched is kept for other runs on Unix alone", subject=cache, remedy="leave {cache} out"
        )
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OutputError(
            "is not a folder that belongs to this user alone (mode 0700)",
            subject=path,
            remedy=f"remove it, or {_OTHER}",
        )
    return path


def _own_file(path: str) -> int:
    """Open a file of the cache, made if it is not there; OutputError if it is something else, or somebody else's."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(fd)
        raise OutputError("is not a file of the cache", subject=path, remedy=f"remove it, or {_OTHER}")
    return fd
