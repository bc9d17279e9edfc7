"""Pages that a container holds in another form, decoded when they are asked for."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING

from memcarve.errors import SourceReadError

if TYPE_CHECKING:
    from memcarve.backing import FileBacking, Span

CACHE = 32 << 20  # bytes of decoded pages that are kept
_BATCH = 1 << 22  # bytes that are decoded together


class DecodedPages(ABC):
    """The bytes that `count` pages of `page` bytes each decode to, one after the other.

    Pages that were asked for in part are kept up to `CACHE` bytes, the most recently used ones: a whole page is not
    asked for again soon. Owns `file`. Safe to use from several threads.
    """

    def __init__(self, file: FileBacking, count: int, page: int) -> None:
        self.file = file
        self.path = file.path
        self.page = page
        self.size = count * page
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @abstractmethod
    def decode(self, first: int, target: memoryview) -> None:
        """Fill `target` with as many pages as fit into it, from number `first` on. Raises SourceReadError."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError, also if a page is damaged."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise SourceReadError(
                f"decodes to 0x{self.size:x} bytes, not to 0x{len(buffer):x} at 0x{offset:x}", subject=self.path
            )
        done = 0
        while done < len(buffer):
            index, into = divmod(offset + done, self.page)
            whole = min(len(buffer) - done, _BATCH) // self.page
            if into == 0 and whole and index not in self._cache:
                count = whole * self.page
                self.decode(index, buffer[done : done + count])
            else:
                count = min(self.page - into, len(buffer) - done)
                buffer[done : done + count] = self._kept(index)[into : into + count]
            done += count

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - nothing lies in the file as it is
        """Return None: the bytes must be decoded."""
        return None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._cache.clear()
        self.file.close()

    def _kept(self, index: int) -> bytearray:
        """Return a page, decoded, and keep it."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        data = bytearray(self.page)
        self.decode(index, memoryview(data))  # without the lock: that two threads decode the same page does no harm
        with self._lock:
            if not self._closed:
                self._cache[index] = data
            while len(self._cache) * self.page > CACHE:
                self._cache.popitem(last=False)
        return data
