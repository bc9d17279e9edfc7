"""Reading the kernel's structures by the names of their members.

What a member's place is comes from the kernel's own types (formats/kernel_types); what cannot be read, or is not known,
is None.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memcarve.images.structure_reader import Reader
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.structure_reader import Readable

_MOST_LINKS = 1 << 20  # of one list


_WORDS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class _Row:
    """How members are unpacked that are read at once: `size` bytes from `first` on."""

    def __init__(self, places: Sequence[tuple[int, int] | None]) -> None:
        known = [(at, min(size, 8)) for at, size in filter(None, places)]
        self.first = min((at for at, _ in known), default=0)
        self.size = max((at + size for at, size in known), default=0) - self.first
        self._places = [place and (place[0] - self.first, min(place[1], 8)) for place in places]
        self._words = self._layout()
        # at which place a member then is: what is not known comes last
        order = sorted(place for place in self._places if place is not None)
        self._order = [len(order) if place is None else order.index(place) for place in self._places]

    def _layout(self) -> struct.Struct | None:
        """Return what unpacks all known members in order of their offsets; None if they are no words side by side."""
        words, end = ["<"], 0
        for at, size in sorted(place for place in self._places if place is not None):
            if at < end or size not in _WORDS:
                return None
            words.append(f"{at - end}x{_WORDS[size]}")
            end = at + size
        return struct.Struct("".join(words))

    def unpack(self, data: bytes) -> tuple[int | None, ...]:
        """Return the members, None for those that this kernel has not."""
        if self._words is None:
            return tuple([place and int.from_bytes(data[place[0] :][: place[1]], "little") for place in self._places])
        values = (*self._words.unpack(data), None)
        return tuple([values[place] for place in self._order])


class Structures:
    """The kernel's memory, read by structure and member.

    `space` is the kernel's half; `lowest` the first address that a pointer of the kernel can have.
    """

    def __init__(self, space: Readable, types: KernelTypes, lowest: int) -> None:
        self.space = space
        self.types = types
        self.lowest = lowest
        self.reader = Reader(space)
        self.word = types.pointer_size
        self.top = TOP if self.word == 8 else 1 << 32  # noqa: PLR2004
        self._places: dict[tuple[str, str], tuple[int, int] | None] = {}
        self._rows: dict[tuple[str, tuple[str, ...]], _Row] = {}

    def place(self, structure: str, path: str) -> tuple[int, int] | None:
        """Return the offset and the size in bytes of a member; None if this kernel has none."""
        key = (structure, path)
        if key not in self._places:
            found = self.types.member(structure, path)
            self._places[key] = (
                None if found is None else (found.offset, self.word if found.size is None else found.size)
            )
        return self._places[key]

    def offset(self, structure: str, path: str) -> int | None:
        """Return the offset of a member in bytes; None if this kernel has none."""
        found = self.place(structure, path)
        return None if found is None else found[0]

    def number(self, address: int, structure: str, path: str) -> int | None:
        """Return an unsigned member of a structure at an address."""
        found = self.place(structure, path)
        return None if found is None else self.reader.number(address + found[0], min(found[1], 8))

    def signed(self, address: int, structure: str, path: str) -> int | None:
        """Return a signed member of a structure at an address."""
        found = self.place(structure, path)
        data = None if found is None else self.reader.read(address + found[0], min(found[1], 8))
        return None if data is None else int.from_bytes(data, "little", signed=True)

    def numbers(self, address: int, structure: str, paths: tuple[str, ...]) -> tuple[int | None, ...]:
        """Return unsigned members of a structure, read at once: one that this kernel has not is None.

        All are None if what holds them cannot be read.
        """
        key = (structure, paths)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row([self.place(structure, path) for path in paths])
        data = self.reader.read(address + row.first, row.size) if row.size else None
        if data is None:
            return (None,) * len(paths)
        return row.unpack(data)

    def pointer(self, address: int, structure: str, path: str) -> int | None:
        """Return a member that points into the kernel; None also if it points elsewhere, NULL among them."""
        found = self.place(structure, path)
        value = None if found is None else self.reader.number(address + found[0], self.word)
        return value if value is not None and self.is_kernel(value) else None

    def text(self, address: int, structure: str, path: str) -> bytes | None:
        """Return a member that is an array of characters, up to its first NUL."""
        found = self.place(structure, path)
        data = None if found is None else self.reader.read(address + found[0], min(found[1], PAGE))
        return None if data is None else data.split(b"\0", 1)[0]

    def string(self, address: int | None, longest: int) -> bytes | None:
        """Return the bytes at an address up to a NUL, of which there are at most `longest` before it."""
        if address is None:
            return None
        data = self.reader.read(address, longest)
        if data is None:  # what is behind the page need not be there
            data = self.reader.read(address, min(longest, PAGE - address % PAGE))
        return None if data is None or b"\0" not in data else data.split(b"\0", 1)[0]

    def is_kernel(self, address: int) -> bool:
        """Return True if an address is one of the kernel's half, and may be a pointer to a structure."""
        return self.lowest <= address < self.top - 4096

    def linked(self, head: int, link: int, *, forward: bool = True) -> Iterator[int]:
        """Yield the structures of a ``list_head``: addresses of what holds its links at `link` bytes.

        `head` is the address of the list's own links. A loop that does not lead back ends it, and so does a link that
        cannot be read or leads out of the kernel: `whole` tells.
        """
        seen = {head}
        at = head
        while len(seen) <= _MOST_LINKS:
            following = self.reader.number(at + (0 if forward else self.word), self.word)
            if following is None or not self.is_kernel(following) or following in seen:
                return
            seen.add(following)
            at = following
            yield at - link
