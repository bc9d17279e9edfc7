"""An object that lies elsewhere, as a file: what is read of it is fetched once, and kept on disk.

What is read in order is fetched in large blocks, some of them ahead; what is read here and there in small ones. Whoever
knows what it is going to read says so first (`fetch_ahead`): then exactly that is fetched, with many requests at once.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.remote import Keeping
from memcarve.remote.block_store import GRANULE, LEAST, BlockStore
from memcarve.remote.cache import CachedStore, key_of
from memcarve.remote.locations import location_of, remember
from memcarve.remote.requesting import Requests, names_of
from memcarve.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from memcarve.backing import Offsets, Span
    from memcarve.remote.transports import Facts

_FIRST = 1 << 16
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_SMALL = 1 << 16  # what is fetched for a read here and there, from a multiple of it on
_LARGE = 1 << 22  # the longest range of one request
_PIECE = LEAST * GRANULE // 4  # what is read at once
_AHEAD = 4  # so many of them are fetched ahead of one who reads in order
_NEAR = 1 << 15  # what lies between two wanted ranges is fetched with them if it is not more
DEFAULT_BOUND = 16 << 30
_LISTED_FOR = 10.0  # seconds: what opening one input asks several times is asked once


class RemoteFile(FileBacking):
    """An object in a store or on a web server, named by a location (see `locations`).

    `path` is the location without secrets. Raises InputError if it cannot be read (SourceReadError if the store did not
    answer, or refuses), OutputError if nothing can be kept, and MissingExtraError without the packages for its store;
    reading raises the same, and InputError once the object is another one than it was when it was opened.
    """

    costly = True
    direct = False  # what was not fetched yet is not there

    def __init__(self, path: str, keeping: Keeping = Keeping()) -> None:  # noqa: B008 - a tuple
        location = location_of(path)
        self._requested = 0
        self.fd = -1
        self._moving = threading.Lock()
        self._requests = Requests(location, self._count)
        self._store: BlockStore | None = None
        answer = self._requests.first(_FIRST)
        facts = self._requests.known
        if location.kind == "http" and answer is not None and _PAGE.match(answer.data):
            raise InputError(
                "is a page of HTML, not a file: of a login, a listing or an error",
                subject=location.shown,
                remedy="give the address from which the file itself comes, with a login in ~/.netrc or signed",
            )
        remember(location)
        self.location = location
        self.facts = facts
        self._store = _store(location.shown, facts, keeping, self._requests.origin)
        self._pid = os.getpid()
        super().__init__(location.shown, fd=self._store.fd)
        self._store.position = self._lock
        self._store.add("requests", self._requested)
        self._pending = np.zeros(-(-facts.size // GRANULE), np.bool_)
        self._news = threading.Condition()
        self._next = 0  # where one who reads in order goes on
        self._block = _SMALL
        if answer is not None:
            if answer.encoding not in (None, "", "identity"):
                said = f"is stored with Content-Encoding {answer.encoding}: its bytes are taken as they are stored"
                self.notes = ((f"{self.path}: {said}", ""),)
            self._came(answer.begin, answer.data)
        _READ.setdefault(self.path, []).append(self)

    @property
    def size(self) -> int:
        """The object's length when it was opened, in bytes."""
        return self.facts.size

    @property
    def is_sparse(self) -> bool:
        """False: it is not known where it holds zeros."""
        return False

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the object, ready for JSON: as it was when it was opened."""
        return {"path": self.path, **described(self.facts)}

    @property
    def read_so_far(self) -> dict[str, int]:
        """What was asked for by all copies of the program: `requests`, bytes `fetched`, bytes `reused` of a cache."""
        store = self._store
        if store is None:
            return {"requests": self._requested, "fetched": 0, "reused": 0}
        return store.counted()

    def changed(self) -> bool:
        """Return True if the object is another one than when it was opened: the store is asked."""
        return self._requests.changed()

    def next_written(self, offset: int) -> int:
        """Return `offset`."""
        return offset

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002
        """Return None: the bytes must be fetched first."""
        return None

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes at `offset`; return how many came, 0 at the end of the object."""
        count = max(min(len(buffer), self.size - offset), 0)
        if count:
            self.read_into(offset, buffer[:count])
        return count

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError, InputError."""
        store, end = self._store, offset + len(buffer)
        if store is None or self.fd < 0:
            raise SourceReadError("has been closed", subject=self.path)
        if offset < 0 or end > self.size:
            raise SourceReadError(
                f"ends at offset 0x{self.size:x}, before the 0x{len(buffer):x} bytes at 0x{offset:x}", subject=self.path
            )
        for begin in range(0, len(buffer), _PIECE):
            self._read_piece(store, offset + begin, buffer[begin : begin + _PIECE])

    def _read_piece(self, store: BlockStore, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, which is so small that all of it can be kept at once."""
        first, last = offset // GRANULE, -(-(offset + len(buffer)) // GRANULE)
        while True:
            epoch = store.number("epoch")
            if not store.has(first, last) or not store.sure(first, last):
                self._ensure(first, last)
                continue
            super().read_into(offset, buffer)
            if store.number("epoch") == epoch:  # nothing was given up meanwhile
                store.used(first, last)
                return

    def fetch_ahead(self, offsets: Offsets, sizes: Offsets) -> None:
        """Fetch ranges that are about to be read, many at once, and little more."""
        offset, size = np.broadcast_arrays(np.asarray(offsets, np.int64), np.asarray(sizes, np.int64))
        offset, size = offset.reshape(-1), size.reshape(-1)
        inside = (size > 0) & (offset >= 0) & (offset + size <= self.size)
        order = np.argsort(offset[inside], kind="stable")
        first = offset[inside][order] // GRANULE
        last = -(-(offset[inside][order] + size[inside][order]) // GRANULE)
        if not len(first):
            return
        reach = np.maximum.accumulate(last)
        apart = np.flatnonzero(np.append(True, first[1:] > reach[:-1] + _NEAR // GRANULE))
        ends = reach[np.append(apart[1:] - 1, len(first) - 1)]
        self._fetch([*zip(first[apart].tolist(), ends.tolist(), strict=True)])

    def duplicate(self) -> FileBacking:
        """Return this file."""
        return self

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self._store is not None and self.fd >= 0:
            self._requests.give_up()
            with self._moving:  # what still comes must not be written into whatever has the descriptor next
                self._store.close()
                super().close()
        super().close()

    def _ensure(self, first: int, last: int) -> None:
        """Fetch granules, and some of those that are likely to be read next."""
        step = GRANULE
        begin, end = first * step, min(last * step, self.size)
        in_order = self._next - _SMALL <= begin <= self._next + _SMALL
        self._block = min(self._block * 2, _LARGE) if in_order else _SMALL
        block = max(self._block, 1)
        low = begin // _SMALL * _SMALL
        high = min(max(-(-end // _SMALL) * _SMALL, low + block), self.size)
        self._next = high
        if in_order and self._block == _LARGE:
            for place in range(high, min(high + _AHEAD * _LARGE, self.size), _LARGE):
                self._begin_ahead(place // step, -(-min(place + _LARGE, self.size) // step))
        self._fetch([(low // step, -(-high // step))])

    def _fetch(self, runs: list[tuple[int, int]]) -> None:
        """Fetch what of some runs of granules is not there, and wait for what others are fetching of them."""
        store = self._store
        if store is None:
            raise SourceReadError("has been closed", subject=self.path)
        if self._pid != os.getpid():  # this is a copy of the program: nothing that the other one has begun goes on here
            self._pid = os.getpid()
            self._pending[:] = False
            self._news, self._moving = threading.Condition(), threading.Lock()
            store.forked()
        mine: list[tuple[int, int]] = []
        with self._news:
            for first, last in runs:
                for begin, end in store.missing(first, last):
                    mine += self._not_pending(begin, end)
            for begin, end in mine:
                self._pending[begin:end] = True
        try:
            if mine:
                pieces = [
                    (place * GRANULE, min(min(place + _LARGE // GRANULE, end) * GRANULE, self.size))
                    for begin, end in mine
                    for place in range(begin, end, _LARGE // GRANULE)
                ]
                self._requests.fetch(pieces, self._came)
        finally:
            with self._news:
                for begin, end in mine:
                    self._pending[begin:end] = False
                self._news.notify_all()
        with self._news:
            for first, last in runs:
                while self._pending[first:last].any():
                    self._news.wait(0.2)

    def _not_pending(self, begin: int, end: int) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(np.concatenate([[True], self._pending[begin:end], [True]])))
        return [(begin + int(low), begin + int(high)) for low, high in edges.reshape(-1, 2)]

    def _begin_ahead(self, first: int, last: int) -> None:
        with self._news:
            if self._store is None or self._store.has(first, last) or self._pending[first:last].any():
                return
            self._pending[first:last] = True

        def ended() -> None:
            with self._news:
                self._pending[first:last] = False
                self._news.notify_all()

        self._requests.fetch_meanwhile(first * GRANULE, min(last * GRANULE, self.size), self._came, ended)

    def _came(self, begin: int, data: bytes) -> None:
        with self._moving:
            if self._store is not None and self.fd >= 0:
                self._store.put(begin, data)
                self._store.add("fetched", len(data))

    def _count(self) -> None:
        with self._moving:
            if self._store is None:
                self._requested += 1
            elif self.fd >= 0:
                self._store.add("requests", 1)


def _store(shown: str, facts: Facts, keeping: Keeping, origin: list[object]) -> BlockStore:
    """Return where an object's blocks are kept: in the cache, if there is one and its versions can be told apart."""
    bound = DEFAULT_BOUND if keeping.bound is None else keeping.bound
    key = None if keeping.cache is None or not facts.size else key_of(shown, facts, origin)
    if key is not None and keeping.cache is not None:
        return CachedStore(key, facts.size, keeping.cache, bound)
    folder = keeping.temp or temporary_folder(shown, "lies elsewhere")
    return BlockStore.temporary(facts.size, folder, bound)


_READ: dict[str, list[RemoteFile]] = {}


def read_before(path: str) -> list[RemoteFile]:
    """Return each time that this program opened an object by the name `path`."""
    return _READ.get(path, [])


def opened() -> list[str]:
    """Return what was opened, by its names."""
    return [*_READ]


def forget() -> None:
    """Forget what was opened, before another run of a command in this program."""
    _READ.clear()


def described(facts: Facts) -> dict[str, Any]:
    """Return what identifies an object, ready for JSON."""
    version = {} if facts.version is None else {"object_version": facts.version}
    return {"size": facts.size, "modified": facts.modified, "etag": facts.etag, **version}


def look_at(path: str) -> Facts:
    """Return what identifies an object, without opening it. Raises what `RemoteFile` raises."""
    requests = Requests(location_of(path), lambda: None)
    requests.first(1)
    return requests.known


def names_in(folder: str) -> frozenset[str] | None:
    """Return the names in a folder of a store, asked for once in a while; None if it gives no list."""
    asked, names = _LISTED.get(folder, (-math.inf, None))
    if time.monotonic() - asked > _LISTED_FOR:
        names = names_of(location_of(f"{folder}/"))
        _LISTED[folder] = time.monotonic(), names
    return names


_LISTED: dict[str, tuple[float, frozenset[str] | None]] = {}
