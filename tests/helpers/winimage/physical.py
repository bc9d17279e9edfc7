"""Physical memory: a sparse raw file and its free frames."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from winimage.contents import PAGE, U64, page_words

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LARGE = 0x200000
#: 4 KiB pages in a large page
SPAN = LARGE // PAGE
#: the first frames are not given out: they are where Windows has its start-up code and the System process's root
LOW = SPAN
_BATCH = 1024


class Physical:
    """The frames of a raw image: offset = physical address."""

    def __init__(self, path: str | Path, megabytes: int, seed: int) -> None:
        self.count = megabytes * (1 << 20) // PAGE
        self.size = self.count * PAGE
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.words = np.memmap(path, U64, "w+", shape=(self.count, 512))
        if hasattr(mmap, "MADV_RANDOM"):  # or Linux reads the holes around each page that is written
            self.words._mmap.madvise(mmap.MADV_RANDOM)
        self.bytes = self.words.view(np.uint8)
        self._free = np.ones(self.count, bool)
        self._free[:LOW] = False
        self._orders: dict[int, NDArray[np.uint64]] = {}
        self._large: list[int] = []
        #: the frames of pages that processes share, by their bytes
        self.shared: dict[bytes, int] = {}

    def take(self, count: int, chunk: int = 1) -> NDArray[np.uint64]:
        """Return `count` frames, anywhere, in groups of `chunk` neighbours as long as there are such groups."""
        taken, wanted = [np.zeros(0, U64)], count
        while wanted:
            found = self._groups(-(-wanted // chunk), chunk)[:wanted]
            self._free[found] = False
            taken.append(found)
            wanted -= len(found)
            if not len(found):
                if chunk in (1, SPAN):
                    raise ValueError(f"image too small: {wanted} more frames wanted in groups of {chunk}")
                chunk = 1
        return np.concatenate(taken)

    def _groups(self, count: int, chunk: int) -> NDArray[np.uint64]:
        """Return the frames of the free groups among the next `count` in random order; more are tried if none is."""
        if chunk not in self._orders:
            self._orders[chunk] = self.rng.permutation(numbers(0, self.count // chunk))
        free = self._free[: self.count // chunk * chunk].reshape(-1, chunk)
        while len(self._orders[chunk]):
            tried, self._orders[chunk] = np.split(self._orders[chunk], [min(count, len(self._orders[chunk]))])
            good = tried[free[tried].all(axis=1)]
            if len(good):
                return (good[:, None] * U64(chunk) + np.arange(chunk, dtype=U64)).ravel()
        return np.zeros(0, U64)

    def take_one(self) -> int:
        """Return a frame."""
        return int(self.take(1)[0])

    def reserve_large(self, count: int) -> None:
        """Set aside what `take_large` gives, before single frames leave no whole block."""
        self._large += [int(frame) for frame in self.take(count * SPAN, SPAN)[::SPAN]]

    def take_large(self) -> int:
        """Return the first frame of a free block of 2 MiB."""
        return self._large.pop()

    def fill(self, owner: int, pages: NDArray[np.uint64], frames: NDArray[np.uint64]) -> None:
        """Write the contents of the pages with these numbers."""
        for place in range(0, len(frames), _BATCH):
            part = slice(place, place + _BATCH)
            self.words[frames[part]] = page_words(self.seed, owner, pages[part] << U64(12))

    def store(self, data: bytes | bytearray, frames: NDArray[np.uint64]) -> None:
        """Write data of whole pages."""
        self.words[frames] = np.frombuffer(data, U64).reshape(-1, 512)


def numbers(start: int, count: int) -> NDArray[np.uint64]:
    """Return consecutive page or frame numbers."""
    return U64(start) + np.arange(count, dtype=U64)


def apart(frames: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return frames in an order in which none is followed by its neighbour."""
    ordered = np.sort(frames)
    return np.concatenate([ordered[::2], ordered[1::2]])
