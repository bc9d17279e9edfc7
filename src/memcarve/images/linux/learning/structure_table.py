"""Structures of one kind as a table: a row each, looked at by column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.structure_reader import Reader

MOSTLY, NEARLY = 0.75, 0.95


class StructureTable:
    """The first `size` bytes of structures at kernel addresses, zeros for what cannot be read."""

    def __init__(self, reader: Reader, addresses: Sequence[int], size: int, word: int) -> None:
        self.reader = reader
        self.word = word
        self.size = size
        self.addresses = np.array(addresses, np.uint64)
        self._bytes: U8 = np.zeros((len(addresses), size), np.uint8)
        for row, address in enumerate(addresses):
            self._bytes[row] = np.frombuffer(reader.padded(address, size), np.uint8)

    def __len__(self) -> int:
        """Return how many structures there are."""
        return len(self.addresses)

    def column(self, at: int, size: int | None = None) -> U64:
        """Return the numbers at an offset, of `size` bytes or of a pointer's, uint64."""
        size = self.word if size is None else size
        return self._bytes[:, at : at + size].copy().view(f"<u{size}")[:, 0].astype(np.uint64)

    def places(self, begin: int, end: int, step: int | None = None) -> range:
        """Return the offsets from `begin` on at which a pointer may lie, or a number of `step` bytes, before `end`."""
        step = self.word if step is None else step
        begin = max(begin, 0)
        return range(begin + -begin % step, min(end, self.size) - step + 1, step)

    def follow(self, pointers: U64, at: int = 0, size: int | None = None) -> U64:
        """Return the numbers `at` bytes behind where pointers lead, uint64; what cannot be read is 2**64 - 1."""
        size = self.word if size is None else size
        found = [self.reader.number(pointer + at, size) for pointer in pointers.tolist()]
        return np.array([(1 << 64) - 1 if number is None else number for number in found], np.uint64)


def share(column: Bools) -> float:
    """Return which part of a column is true; of nothing, none is."""
    return float(column.mean()) if len(column) else 0.0


def sole(found: Sequence[int]) -> int | None:
    """Return the one offset that was found; None if there are several, or none."""
    return found[0] if len(found) == 1 else None


def are_pointers(column: U64, word: int) -> Bools:
    """Return which of a column may be pointers into the kernel's half, of `word` bytes."""
    return np.asarray((column >> np.uint64(8 * word - 1) == 1) & (column % np.uint64(word) == 0))
