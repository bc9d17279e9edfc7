"""Pages that are decoded when they are read: some ahead, of which the last ones are kept."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import SourceReadError
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.dtypes import I64, U8, U64, Bools

    Columns = tuple[U8 | U64 | I64, ...]

_AHEAD = 1 << 8  # pages decoded when one is read: the next in order
_BATCHES = 16  # of which so many are kept: 16 MiB


class DecodedPages:
    """Pages by key, read like a backing in which page `key` lies at ``key << 12``.

    `decode` returns pages (uint8, shape (n, 4096)), and which of them are right (bool), by columns of what must be
    known of each. Safe to use from several threads.
    """

    def __init__(self, decode: Callable[..., tuple[U8, Bools]], path: str) -> None:
        self._decode = decode
        self._path = path
        self._lock = threading.Lock()
        #: decoded pages by key: among which others they lie, and where; and the keys of those decoded together
        self._cache: dict[int, tuple[memoryview, int]] = {}
        self._batches: deque[list[int]] = deque()
        #: in the order in which they are likely to be read; `_order` sorts them
        self._keys: U64 = np.zeros(0, np.uint64)
        self._order: I64 = np.zeros(0, np.int64)
        self._columns: Columns = ()

    def add(self, keys: U64, columns: Columns) -> None:
        """Add pages that can be decoded, in the order in which they are likely to be read; each once."""
        fresh = ~np.isin(keys, self._keys)
        if fresh.any():
            held = self._columns or tuple(column[:0] for column in columns)
            self._keys = np.concatenate([self._keys, keys[fresh]])
            self._columns = tuple(np.concatenate([one, other[fresh]]) for one, other in zip(held, columns, strict=True))
            self._order = np.argsort(self._keys, kind="stable")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at an offset. Raises SourceReadError for what was not added."""
        done, end = 0, len(buffer)
        while done < end:
            key, away = divmod(offset + done, PAGE)
            # in one step, so that no lock is needed: what is let go of meanwhile stays whole
            pages, at = self._cache.get(key) or self._ahead(key)
            count = min(PAGE - away, end - done)
            buffer[done : done + count] = pages[at + away : at + away + count]
            done += count

    def read_pieces(self, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill `buffer` with pieces (offset, length), one behind the other; raises what `read_into` does."""
        done = 0
        for offset, length in pieces:
            self.read_into(offset, buffer[done : done + length])
            done += length

    def _row(self, key: int) -> int:
        """Return the row of a key, -1 if there is none."""
        at = int(np.searchsorted(self._keys, np.uint64(key), sorter=self._order))
        found = int(self._order[at]) if at < len(self._order) else -1
        return found if found >= 0 and int(self._keys[found]) == key else -1

    def _ahead(self, key: int) -> tuple[memoryview, int]:
        """Decode a page, and those that come next with it; return what it lies in, and where."""
        begin = self._row(key)
        rows = slice(begin, begin + _AHEAD)
        keys = [] if begin < 0 else self._keys[rows].tolist()
        pages, sound = self._decode(*(column[rows] for column in self._columns)) if keys else (None, None)
        if pages is None or sound is None or not sound[0]:
            raise SourceReadError(f"the compressed page with the key 0x{key:x} cannot be decoded", subject=self._path)
        view = pages.reshape(-1).data
        right = np.flatnonzero(sound).tolist()
        kept = [keys[number] for number in right]
        with self._lock:
            self._cache.update(zip(kept, [(view, number * PAGE) for number in right], strict=True))
            self._batches.append(kept)
            while len(self._batches) > _BATCHES:
                for each in self._batches.popleft():
                    self._cache.pop(each, None)
        return view, 0
