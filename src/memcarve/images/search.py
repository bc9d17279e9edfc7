"""Looking through all of a machine's memory, block by block."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from memcarve.images.physical import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from memcarve.images.physical import PhysicalMemory

    Words = npt.NDArray[np.uint64]

_T = TypeVar("_T")

_BLOCK = 1 << 22
_THREADS = min(os.cpu_count() or 1, 4)
#: what a Linux kernel says of itself: version, who built it where, with which compiler
_LINUX = re.compile(rb"Linux version (\d[^ \0\n]{1,60}) \([^\0\n]{1,120}@[^\0\n]{1,120}\)[ (]")


def blocks(memory: PhysicalMemory) -> Iterator[tuple[int, Words]]:
    """Yield (physical address, pages) of all the memory in ascending order: pages of shape (n, 512), uint64.

    The array is filled anew for each block. Ranges that do not begin or end at a page lose the part before or after.
    """
    buffer = np.empty(_BLOCK, np.uint8)
    for physical, offset, size in _places(memory):
        memory.backing.read_into(offset, buffer[:size].data)
        yield physical, buffer[:size].view(np.uint64).reshape(-1, PAGE // 8)


def look_everywhere(memory: PhysicalMemory, look: Callable[[int, Words], _T]) -> Iterator[_T]:
    """Yield what `look` returns for each block, as `blocks` gives them, in order; several threads look at once."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - takes a while to import

    places = list(_places(memory))

    def work(part: list[tuple[int, int, int]]) -> list[_T]:
        buffer = np.empty(_BLOCK, np.uint8)
        found = []
        for physical, offset, size in part:
            memory.backing.read_into(offset, buffer[:size].data)
            found.append(look(physical, buffer[:size].view(np.uint64).reshape(-1, PAGE // 8)))
        return found

    step = 4
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for found in pool.map(work, (places[low : low + step] for low in range(0, len(places), step))):
            yield from found
    finally:  # whoever has found what it looked for looks no further
        pool.shutdown(cancel_futures=True)


def linux_version(memory: PhysicalMemory) -> str | None:
    """Return the version of a Linux kernel that lies in the memory; None where there is none."""

    def look(_: int, words: Words) -> str | None:
        found = _LINUX.search(words.reshape(-1).view(np.uint8).data)
        return found[1].decode("ascii", "backslashreplace") if found else None

    return next((version for version in look_everywhere(memory, look) if version), None)


def _places(memory: PhysicalMemory) -> Iterator[tuple[int, int, int]]:
    """Yield physical address, offset and size of blocks of whole pages."""
    for start, length, offset in zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True):
        skip = -start % PAGE
        end = (start + length) // PAGE * PAGE - start
        for done in range(skip, end, _BLOCK):
            yield start + done, offset + done, min(_BLOCK, end - done)
