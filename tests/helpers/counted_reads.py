"""What is read of a file, counted, and what a reader would fetch for it that knows whole blocks of an object alone."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

from memcarve.backing import FileBacking
from memcarve.sources import opening

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountedFile(FileBacking):
    """A file like an object in a store: it tells nothing of holes, reading it is costly, and every read is noted."""

    costly = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: offset and size of each read
        self.reads: list[tuple[int, int]] = []
        self._guard = threading.Lock()

    @property
    def is_sparse(self) -> bool:
        """Whether it has holes: nothing says so."""
        return False

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read, and note it."""
        self._note(offset, len(buffer))
        return super().read_some(offset, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read, and note it."""
        self._note(offset, len(buffer))
        super().read_into(offset, buffer)

    def next_written(self, offset: int) -> int:
        """Return the offset itself."""
        return offset

    def spans(self, offset: int, size: int) -> None:  # type: ignore[override]
        """Return None: no kernel can copy from it."""
        del offset, size

    def _note(self, offset: int, size: int) -> None:
        if size:
            with self._guard:
                self.reads.append((offset, size))


def fetched(reads: list[tuple[int, int]], block: int, known: set[int]) -> tuple[int, int]:
    """Return how many bytes a reader fetches for some reads, and how often it must wait for that.

    It fetches aligned blocks of `block` bytes, each once; `known` are the numbers of those that it has, and has then.
    """
    blocks = waits = 0
    for offset, size in reads:
        here = set(range(offset // block, (offset + size - 1) // block + 1)) - known
        blocks, waits = blocks + len(here), waits + bool(here)
        known |= here
    return blocks * block, waits


@contextlib.contextmanager
def counting() -> Iterator[list[CountedFile]]:
    """Have inputs opened as such files within the block; yields the list of them."""
    opened: list[CountedFile] = []

    def open_file(path: str, *_: object, **__: object) -> CountedFile:
        opened.append(CountedFile(path))
        return opened[-1]

    with mock.patch.object(opening, "open_file", open_file):
        yield opened
