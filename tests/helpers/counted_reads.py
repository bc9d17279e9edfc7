"""What is read of a file, counted, and what a reader would fetch for it that knows whole blocks of an object alone."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np

from memcarve.backing import FileBacking
from memcarve.sources import opening

if TYPE_CHECKING:
    from collections.abc import Iterator


GRANULE = 4096


class Read(NamedTuple):
    """What was read at once, in bytes; `announced`: it was said beforehand, so that exactly that can be fetched."""

    offset: int
    size: int
    announced: bool


class CountedFile(FileBacking):
    """A file like an object in a store: it tells nothing of holes, reading it is costly, and every read is noted."""

    costly = True
    direct = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: what was read together
        self.reads: list[list[Read]] = []
        self._guard = threading.Lock()

    @property
    def is_sparse(self) -> bool:
        """Whether it has holes: nothing says so."""
        return False

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read, and note it."""
        self._note(Read(offset, len(buffer), announced=False))
        return super().read_some(offset, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read, and note it."""
        self._note(Read(offset, len(buffer), announced=False))
        super().read_into(offset, buffer)

    def fetch_ahead(self, offsets: Any, sizes: Any) -> None:
        """Note that all of it is fetched together."""
        offset, size = np.broadcast_arrays(np.asarray(offsets, np.int64), np.asarray(sizes, np.int64))
        pairs = zip(offset.ravel().tolist(), size.ravel().tolist(), strict=True)
        self._note(*(Read(*pair, announced=True) for pair in pairs))

    def next_written(self, offset: int) -> int:
        """Return the offset itself."""
        return offset

    def spans(self, offset: int, size: int) -> None:  # type: ignore[override]
        """Return None: no kernel can copy from it."""
        del offset, size

    def _note(self, *together: Read) -> None:
        with self._guard:
            self.reads.append([read for read in together if read.size])


def fetched(reads: list[list[Read]], block: int, known: set[int]) -> tuple[int, int]:
    """Return how many bytes a reader fetches for some reads, and how often it must wait for that.

    It fetches aligned blocks of `block` bytes, and of what was announced the granules of 4 KiB alone; each once. The
    numbers of those granules that it has, and has then, are `known`.
    """
    before, waits = len(known), 0
    for together in reads:
        new: set[int] = set()
        for offset, size, announced in together:
            here = set(range(offset // GRANULE, (offset + size - 1) // GRANULE + 1)) - known
            if not announced:
                blocks = {number * GRANULE // block for number in here}
                here = {number * block // GRANULE + at for number in blocks for at in range(block // GRANULE)}
            new |= here
        new -= known
        known |= new
        waits += bool(new)
    return (len(known) - before) * GRANULE, waits


@contextlib.contextmanager
def counting() -> Iterator[list[CountedFile]]:
    """Have inputs opened as such files within the block; yields the list of them."""
    opened: list[CountedFile] = []

    def open_file(path: str, *_: object, **__: object) -> CountedFile:
        opened.append(CountedFile(path))
        return opened[-1]

    with mock.patch.object(opening, "open_file", open_file):
        yield opened
