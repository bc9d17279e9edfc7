"""The kernel's half of a machine's address spaces, each part of it once.

All processes share it, but for some entries of their roots: Windows has a session's memory in one of them, and what
belongs to a process alone (its working set, the page tables themselves) in others; Linux has a process's own descriptor
tables there. One process's half is walked whole, of the others' only what lies below entries that no walk has followed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MemcarveError
from memcarve.intervals import PAGE, TOP
from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.process import Container
    from memcarve.space import AddressSpace

_ROOT = (1 << 52) - PAGE
_PRESENT = np.uint64(1)
_USED = np.uint64(0x60)  # accessed and dirty: the processor sets them as it goes
_UPPER = 256  # entries of the upper half of a root of 512
_MOST_PARTS = 1 << 13  # entries that are followed in all: a machine has three for each process


class KernelPart(NamedTuple):
    """A part of a kernel's half: the place of the process that it is of alone, None if it is of several; and it."""

    process: int | None
    space: AddressSpace


class KernelHalves:
    """The kernel's half as the processes at `indexes` of a container see it.

    `failures`: what could not be walked: the place of the process whose part it is, None if it is the whole half; and
    why. `notes` are sentences for the user about what was not looked at.
    """

    def __init__(self, container: Container, indexes: Sequence[int]) -> None:
        self._container = container
        self._indexes = indexes
        self._memory = container.physical_space()
        self.failures: list[tuple[int | None, MemcarveError]] = []
        self.notes: list[str] = []

    def parts(self) -> Iterator[KernelPart]:
        """Yield the half of the first process that has one, then what differs from it in others."""
        failed: list[tuple[int | None, MemcarveError]] = []
        for index in self._indexes:
            try:
                kernel = self._container.process(index=index, half="kernel")
            except MemcarveError as error:
                failed = [(None, error)]
                continue
            yield KernelPart(None, kernel.space)
            if kernel.address_bits in (48, 57) and kernel.architecture != Architecture.ARM64:
                yield from self._differing(index, kernel.address_bits)
            return
        self.failures += failed

    def _differing(self, first: int, bits: int) -> Iterator[KernelPart]:
        roots = {index: words for index in self._indexes if (words := self._upper_entries(index)) is not None}
        base = self._upper_entries(first)
        seen = set() if base is None else set(_entries(base))
        count = Counter(entry for words in roots.values() for entry in _entries(words))
        for index, words in roots.items():
            own = int(self._container.entry(index).root or 0) & _ROOT
            for slot, word in _entries(words):
                if (slot, word) in seen:
                    continue
                if len(seen) >= _MOST_PARTS:
                    self.notes.append(
                        f"the kernel's halves differ in more than {_MOST_PARTS} places: what lies at the others is "
                        "not known"
                    )
                    return
                seen.add((slot, word))
                owner = index if count[slot, word] == 1 else None
                for start, end in _spans(slot, bits, is_selfmap=word & _ROOT == own):
                    try:
                        part = self._container.open_span(index, start, end)
                    except MemcarveError as error:
                        self.failures.append((index, error))
                    else:
                        yield KernelPart(owner, part.space)

    def _upper_entries(self, index: int) -> np.ndarray | None:
        """Return the upper half of a process's root (uint64); None if it is not known or not in the image."""
        entry = self._container.entry(index)
        if entry.root is None or self._memory is None:
            return None
        try:
            data = self._memory.read((entry.root & _ROOT) + 8 * _UPPER, 8 * _UPPER)
        except MemcarveError:
            return None
        return np.frombuffer(data, "<u8")


def _spans(slot: int, bits: int, *, is_selfmap: bool) -> list[tuple[int, int]]:
    """Return which addresses below an entry of the upper half are looked at, given the bits of an address.

    Where page tables map themselves these are the tables of the user half, which come first, and the root.
    """
    size = 1 << (bits - 9)
    start = TOP - (_UPPER - slot) * size
    if not is_selfmap:
        return [(start, start + size)]
    root = start + sum((_UPPER + slot) << shift for shift in range(12, bits - 9, 9))
    return [(start, start + (size >> 1)), (root, root + PAGE)]


def _entries(words: np.ndarray) -> list[tuple[int, int]]:
    """Return slot and value of the entries that are present, without the bits that the processor sets."""
    slots = np.flatnonzero(words & _PRESENT)
    return [*zip(slots.tolist(), (words[slots] & ~_USED).tolist(), strict=True)]
