"""Reading one member of many structures at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.kernel_half import KernelHalf

_WORD = 8


class StructureColumns:
    """Members of a kernel's structures, by some types; of what those do not know nothing is there."""

    def __init__(self, space: KernelHalf, types: KernelTypes, lowest: int) -> None:
        self.space = space
        self.types = types
        self.lowest = np.uint64(lowest)

    def has(self, structure: str, *paths: str) -> bool:
        """Return True if the types know all of some members."""
        return all(self.types.member(structure, path) is not None for path in paths)

    def member(self, addresses: U64, structure: str, path: str) -> tuple[U64, Bools]:
        """Return a member of structures at addresses (uint64), and which are there (bool)."""
        found = self.types.member(structure, path)
        if found is None or found.size not in (1, 2, 4, 8):
            return np.zeros(len(addresses), np.uint64), np.zeros(len(addresses), np.bool_)
        values, there = self.number(addresses + np.uint64(found.offset), found.size)
        if found.bit_size is not None and found.bit_offset is not None:
            values = values >> np.uint64(found.bit_offset) & np.uint64((1 << found.bit_size) - 1)
        return values, there

    def number(self, addresses: U64, size: int) -> tuple[U64, Bools]:
        """Return unsigned numbers of `size` bytes, which do not cross a word of 8, and which are there (bool)."""
        away = addresses & np.uint64(_WORD - 1)
        words, there = self.space.words_at(addresses & ~np.uint64(_WORD - 1))
        values = words >> (away << np.uint64(3)) & np.uint64((1 << 8 * size) - 1)
        return values, there & (away + np.uint64(size) <= np.uint64(_WORD))

    def pointers(self, values: U64) -> Bools:
        """Return for each number (bool) whether it is an address of the kernel."""
        return np.asarray(values >= self.lowest)
