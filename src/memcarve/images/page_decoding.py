"""Pages that are decoded when they are read: many to where they belong; else some ahead, of which the last are kept."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import SourceReadError
from memcarve.intervals import PAGE, chunks, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.dtypes import I64, U8, U64, Bools

    Columns = tuple[U8 | U64 | I64, ...]

_AHEAD = 1 << 8  # pages decoded when one is read: the next in order
_BATCHES = 16  # of which so many are kept: 16 MiB
_TOGETHER = 1 << 6  # pages that are decoded straight to where they are asked for
_PAGES = 1 << 11  # of these, so many in one go: 8 MiB
_LOW, _TWELVE = np.uint64(PAGE - 1), np.uint64(12)


class _Known(NamedTuple):
    """Pages in the order in which they are likely to be read, a row a page; `order` sorts `keys` (uint64)."""

    keys: U64
    order: I64
    columns: Columns

    def rows(self, keys: U64) -> I64:
        """Return the rows of keys (uint64), -1 for those that are not there."""
        if not len(self.order):
            return np.full(len(keys), -1)
        at = np.searchsorted(self.keys, keys, sorter=self.order)
        found = self.order[np.minimum(at, len(self.order) - 1)]
        return np.where(self.keys[found] == keys, found, -1)


class DecodedPages:
    """Pages by key, read like a backing in which page `key` lies at ``key << 12``.

    `decode_into` fills an array (uint8, shape (n, 4096)) with pages, by columns of what must be known of each, and
    returns which of them are right (bool). `path` is what errors name. Safe to read from several threads while one
    adds.
    """

    def __init__(self, decode_into: Callable[..., Bools], path: str) -> None:
        self._decode_into = decode_into
        self._path = path
        self._lock = threading.Lock()
        #: decoded pages by key: among which others they lie, and where; and the keys of those decoded together
        self._cache: dict[int, tuple[memoryview, int]] = {}
        self._batches: deque[list[int]] = deque()
        self._known = _Known(np.zeros(0, np.uint64), np.zeros(0, np.int64), ())

    def add(self, keys: U64, columns: Columns) -> None:
        """Add pages that can be decoded, in the order in which they are likely to be read; each once."""
        known = self._known
        fresh = ~np.isin(keys, known.keys)
        if fresh.any():
            held = known.columns or tuple(column[:0] for column in columns)
            every = np.concatenate([known.keys, keys[fresh]])
            more = tuple(np.concatenate([one, other[fresh]]) for one, other in zip(held, columns, strict=True))
            # in one step: others may read
            self._known = _Known(every, np.argsort(every, kind="stable"), more)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at an offset. Raises SourceReadError for what was not added, or is not right."""
        done, end = 0, len(buffer)
        while done < end:
            key, away = divmod(offset + done, PAGE)
            # in one step, so that no lock is needed: what is let go of meanwhile stays whole
            pages, at = self._cache.get(key) or self._ahead(key)
            count = min(PAGE - away, end - done)
            buffer[done : done + count] = pages[at + away : at + away + count]
            done += count

    def read_pieces(self, pieces: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill `buffer` with pieces (offset, length), one behind the other; raises what `read_into` does.

        Many whole pages are decoded to where they belong, without being kept.
        """
        rows = list(pieces)
        table = np.array(rows, np.uint64).reshape(-1, 2)
        count = (table[:, 1] >> _TWELVE).astype(np.int64)
        if int(count.sum()) < _TOGETHER or (table & _LOW).any():
            done = 0
            for offset, length in rows:
                self.read_into(offset, buffer[done : done + length])
                done += length
            return
        row, step = expand(count)
        keys = (table[row, 0] >> _TWELVE) + step.astype(np.uint64)
        for part in chunks(len(keys), _PAGES):
            self._together(keys[part], np.frombuffer(buffer[part.start * PAGE : part.stop * PAGE], np.uint8))

    def _together(self, keys: U64, target: U8) -> None:
        """Decode pages by their keys (uint64) into a target (uint8); raises SourceReadError."""
        known = self._known
        rows = known.rows(keys)
        absent = rows < 0
        if absent.any():
            raise self._damaged(int(keys[np.argmax(absent)]))
        sound = self._decode_into(target.reshape(-1, PAGE), *(column[rows] for column in known.columns))
        if not sound.all():
            raise self._damaged(int(keys[np.argmin(sound)]))

    def _damaged(self, key: int) -> SourceReadError:
        return SourceReadError(f"the compressed page with the key 0x{key:x} cannot be decoded", subject=self._path)

    def _ahead(self, key: int) -> tuple[memoryview, int]:
        """Decode a page, and those that come next with it; return what it lies in, and where."""
        known = self._known
        begin = int(known.rows(np.array([key], np.uint64))[0])
        if begin < 0:
            raise self._damaged(key)
        rows = slice(begin, begin + _AHEAD)
        keys = known.keys[rows].tolist()
        pages = np.empty((len(keys), PAGE), np.uint8)
        sound = self._decode_into(pages, *(column[rows] for column in known.columns))
        if not sound[0]:
            raise self._damaged(key)
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
