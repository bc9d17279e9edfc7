"""The headers of a hibernation file's sets, kept in a folder from one run to the next.

Opening a file reads the header of each set, which lie all over it: that is most of it for a disk or a store that reads
by blocks. What they say is kept with ``--cache DIR``, in a folder that is its owner's alone: the number that each set
begins with, and all descriptors, of Windows 8 and later. Where the sets lie follows from these and the file's header.

An index belongs to a file of a length, a time of modification (and a store's tag), and what is in its first page and 16
others. It is not trusted: what it says must fit the file's header and end, and each set that is read through it must
begin as it says, else reading that raises an error. So it can make pages missing, and never another page's bytes.

The file: a magic (32 bytes), what the index belongs to (SHA-256), the number of sets and of descriptors (64 bits each),
the sets' numbers (32 bits each), the descriptors (64 bits each); SHA-256 of all of that. All little-endian.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.images.hibernation_sets import PAGE, Sets, frames_of, most_of
from memcarve.remote.cache import own_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.backing import FileBacking
    from memcarve.dtypes import I64, U32, U64

_FOLDER, _ENDING = "memcarve-indexes", ".hiberfil"
_MAGIC = b"memcarve hiberfil index 1".ljust(32)
_HEAD = struct.Struct("<32s32sQQ")
_SUM = hashlib.sha256().digest_size
_SAMPLES = 16  # pages of the file besides the first that an index is bound to
#: of the facts of a file, those that do not tell which one it is: it may be moved
_ELSEWHERE = ("path", "device", "inode")


class Heads(NamedTuple):
    """The headers of the sets, as an index at `path` has them: `words` of each, `descriptors` of all, one after other.

    `first` (one more than there are sets) is the number of a set's first descriptor.
    """

    path: str
    words: U32
    first: I64
    descriptors: U64

    @classmethod
    def of(cls, path: str, words: U32, descriptors: U64) -> Heads:
        """Return the headers of sets."""
        rows = (words & np.uint32(0xFF)).astype(np.int64)
        return cls(path, words, np.concatenate([[0], np.cumsum(rows)]).astype(np.int64), descriptors)

    def sizes(self) -> I64:
        """Return how many bytes each set's header has, which lies before its data."""
        return 4 + 8 * np.diff(self.first)

    def header(self, number: int) -> bytes:
        """Return the header that a set should have."""
        rows = self.descriptors[self.first[number] : self.first[number + 1]]
        return b"".join((self.words[number].astype("<u4").tobytes(), rows.astype("<u8").tobytes()))

    def sets(self, runs: Sequence[tuple[int, int]], size: int) -> Sets | None:
        """Return the sets, if they fit a file of `size` bytes with these runs (first page, pages expected); else None.

        They are what a walk finds: each one begins behind the one before, the first one of a run at its page.
        """
        first, descriptors = self.first, self.descriptors
        if int(first[-1]) != len(descriptors) or (np.diff(first) < 1).any():
            return None
        frames = frames_of(descriptors)
        if frames is None:
            return None
        frame, count = frames
        sums = np.concatenate([[0], np.cumsum(count.astype(np.int64))])
        pages = np.diff(sums[first])
        length = (self.words >> np.uint32(8) & np.uint32(0x3FFFFF)).astype(np.int64)
        if (length < 1).any() or (length > pages * PAGE).any():
            return None
        done, whole = np.cumsum(pages), self.sizes() + length
        place, at = np.zeros(len(length), np.int64), 0
        for page, expected in runs:
            if expected < 1:
                continue
            end = int(np.searchsorted(done, (int(done[at - 1]) if at else 0) + expected)) + 1
            if end > len(length):
                return None
            place[at:end] = page * PAGE + np.cumsum(whole[at:end]) - length[at:end]
            at = end
        if at < len(length) or (place + length > size).any():
            return None
        method = (self.words >> np.uint32(30)).astype(np.uint8)
        return Sets(place, length, method, np.concatenate([[0], done]).astype(np.int64), frame, count)


class Index:
    """Where the index of a file is in a folder `cache`. Raises OutputError if that cannot be one."""

    def __init__(self, file: FileBacking, head: bytes, cache: str) -> None:
        self._belongs = _identity(file, head)
        self.path = os.path.join(own_folder(cache, _FOLDER), self._belongs.hex()[:40] + _ENDING)

    def load(self, runs: Sequence[tuple[int, int]], size: int) -> tuple[Heads, Sets] | str | None:
        """Return the headers of the sets and the sets, None if there is no index; else in words what is wrong with it.

        `runs` and `size` are what `Heads.sets` takes.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            heads = None
        else:
            heads = self._read(fd, *most_of(size))
        sets = None if heads is None else heads.sets(runs, size)
        if heads is None or sets is None:
            return f"its index {self.path} was damaged, and made again"
        return heads, sets

    def _read(self, fd: int, most_sets: int, most_rows: int) -> Heads | None:
        """Return what an open index says; None if it is none, or another file's, or says that there are too many."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            os.close(fd)
            return None
        with open(fd, "rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return None
            magic, belongs, sets, rows = _HEAD.unpack(head)
            if (magic, belongs) != (_MAGIC, self._belongs) or not 0 < sets <= most_sets or rows > most_rows:
                return None
            size = 4 * sets + 8 * rows
            if status.st_size != _HEAD.size + size + _SUM:
                return None
            data = file.read(size)
            found = hashlib.sha256(head)
            found.update(data)
            if len(data) < size or found.digest() != file.read(_SUM):
                return None
        words, descriptors = np.frombuffer(data, "<u4", sets), np.frombuffer(data, "<u8", rows, 4 * sets)
        return Heads.of(self.path, words, descriptors)

    def save(self, words: U32, descriptors: U64) -> str | None:
        """Keep the headers of sets; return in words why that was not possible."""
        data = _HEAD.pack(_MAGIC, self._belongs, len(words), len(descriptors))
        data += words.astype("<u4").tobytes() + descriptors.astype("<u8").tobytes()
        beside = f"{self.path}.{os.getpid()}"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data + hashlib.sha256(data).digest())
            os.replace(beside, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            return f"its index could not be kept in {self.path}: {error.strerror}"
        return None


def _identity(file: FileBacking, head: bytes) -> bytes:
    """Return what tells a file from others, and from what it was before: SHA-256 of facts and samples."""
    facts = {name: value for name, value in file.described.items() if name not in _ELSEWHERE}
    found = hashlib.sha256(json.dumps([file.size, facts], sort_keys=True, default=str).encode() + head)
    places = [file.size // (_SAMPLES + 1) * number & -PAGE for number in range(1, _SAMPLES + 1)]
    file.fetch_ahead(places, PAGE)
    for place in places:
        found.update(file.read_there(place, PAGE))
    return found.digest()
