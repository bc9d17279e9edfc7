"""A kernel's memory and types made up for a test: structures are laid out by the test, not by any kernel."""

from __future__ import annotations

import numpy as np

from memcarve.formats.kernel_types import Member
from memcarve.images.linux.kernel_structures import Structures
from memcarve.space import AddressSpace
from memory import Memory

BASES = {8: 0xFFFF_8880_0000_0000, 4: 0xC000_0000}


class MadeUpTypes:
    """Types of which each member is told: offset and size by structure and path."""

    source = "the test"

    def __init__(self, word: int) -> None:
        self.pointer_size = word
        self.members: dict[tuple[str, str], Member] = {}
        self.sizes: dict[str, int] = {}
        self.constants: dict[str, int] = {}

    def lay_out(self, structure: str, *paths: str, begin: int = 0, sizes: dict[str, int] | None = None) -> None:
        """Put members one behind the other, each a pointer's size unless `sizes` says otherwise."""
        at = begin
        for path in paths:
            size = (sizes or {}).get(path, self.pointer_size)
            at = -(-at // min(size, self.pointer_size)) * min(size, self.pointer_size)
            self.members[structure, path] = Member(at, size)
            at += size
        self.sizes[structure] = -(-at // self.pointer_size) * self.pointer_size

    def member(self, structure: str, path: str) -> Member | None:
        """Return what was laid out."""
        return self.members.get((structure, path))

    def size(self, structure: str) -> int | None:
        """Return what was laid out."""
        return self.sizes.get(structure)

    def constant(self, enumeration: str | None, name: str) -> int | None:  # noqa: ARG002 - one name each
        """Return what was set."""
        return self.constants.get(name)


class KernelMemory:
    """Kernel memory from `base` on, of which pieces are handed out and written by member."""

    def __init__(self, word: int = 8, size: int = 1 << 20) -> None:
        self.word, self.base = word, BASES[word]
        self.types = MadeUpTypes(word)
        self.data = bytearray(size)
        self._free = 4096

    def take(self, size: int, alignment: int = 8) -> int:
        """Return the address of a piece of memory."""
        self._free = -(-self._free // alignment) * alignment
        self._free += size
        assert self._free <= len(self.data)
        return self.base + self._free - size

    def make(self, structure: str, **members: int) -> int:
        """Return the address of a new structure; a dot in a path is written as two underscores between letters."""
        address = self.take(self.types.sizes[structure])
        for path, value in members.items():
            self.put(address, structure, path.replace("__", "."), value)
        return address

    def put(self, address: int, structure: str, path: str, value: int) -> None:
        """Write a member."""
        found = self.types.members[structure, path]
        self.write(address + found.offset, value.to_bytes(found.size or self.word, "little"))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes."""
        self.data[address - self.base : address - self.base + len(data)] = data

    def words(self, address: int, *values: int) -> None:
        """Write words of a pointer's size."""
        self.write(address, b"".join(value.to_bytes(self.word, "little") for value in values))

    def text(self, text: bytes) -> int:
        """Return the address of a string."""
        address = self.take(len(text) + 1)
        self.write(address, text + b"\0")
        return address

    def structures(self, *missing: int) -> Structures:
        """Return the memory as it is now; `missing` are addresses of pages that are not there."""
        first = self.base // 4096
        pages = [page for page in range(first, first + len(self.data) // 4096) if page * 4096 not in missing]
        start = np.array(pages, np.uint64) * np.uint64(4096)
        size = np.full(len(pages), 4096, np.uint64)
        space = AddressSpace(start, size, start - np.uint64(self.base), Memory(bytes(self.data)))
        return Structures(space, self.types, self.base)


def link(kernel: KernelMemory, head: int, *nodes: int) -> None:
    """Link the ``list_head`` at an address with those of nodes, in a circle."""
    circle = [head, *nodes]
    for before, node, behind in zip([circle[-1], *circle], circle, [*circle[1:], circle[0]], strict=False):
        kernel.words(node, behind, before)
