"""Reading structures out of an address space of an image: many small reads, on few pages, of which some are missing.

UNICODE_STRING: Microsoft, ntdef.h. What cannot be read is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import AddressError, SourceReadError
from memcarve.images.one_page import present_page
from memcarve.images.paging import walk
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from typing import Protocol

    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.space import AddressSpace

    class Readable(Protocol):
        """What is read."""

        def read(self, address: int, size: int) -> bytes:
            """Return exactly `size` bytes at an address; raises AddressError, SourceReadError."""


_MOST_PAGES = 4096  # kept at once: 16 MiB
_MOST_TEXT = 1 << 23  # characters that are read in all: one path may be told at a million places
_STRETCH = 1 << 21  # what one table of the lowest level maps
_MOST_STRETCHES = 256  # kept at once
_MOST_PLACES = 1 << 17  # of pages, kept at once


class LookedUp:
    """A process's memory whose page tables are walked only where it is read: for a few structures of many processes.

    Safe to use from several threads.
    """

    def __init__(self, memory: PhysicalMemory, table: AddressTable) -> None:
        self.memory = memory
        self.table = table
        self._pages: dict[int, int | None] = {}
        self._stretches: dict[int, AddressSpace] = {}

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at an address; raises AddressError, SourceReadError."""
        parts, end = [], address + size
        while address < end:
            count = min(PAGE - address % PAGE, end - address)
            place = self.place(address)
            data = None if place is None else self.memory.read(place, count)
            if data is None:  # a walk knows of more than the processor does, and why something is not there
                data = self.around(address).read(address, count)
            parts.append(data)
            address += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def place(self, address: int) -> int | None:
        """Return the physical address of a byte whose whole page is in the image; None if only a walk can tell."""
        number = address // PAGE
        if number not in self._pages:
            if len(self._pages) >= _MOST_PLACES:
                self._pages.clear()
            page = present_page(self.memory, self.table, address)
            held = page is not None and self.memory.holds(np.array([page], np.uint64), PAGE)[0]
            self._pages[number] = page if held else None
        page = self._pages.get(number)
        return None if page is None else page + address % PAGE

    def around(self, address: int) -> AddressSpace:
        """Return what is mapped around an address, as far as one table reaches."""
        number = address // _STRETCH
        found = self._stretches.get(number)
        if found is None:
            if len(self._stretches) >= _MOST_STRETCHES:
                self._stretches.clear()
            found = self._stretches[number] = self.walked(number * _STRETCH, (number + 1) * _STRETCH)
        return found

    def walked(self, start: int, end: int) -> AddressSpace:
        """Return what is mapped at ``start <= x < end``."""
        return walk(self.memory, self.table, start, end).space(self.memory)


class Reader:
    """Reads from an address space, page by page; the pages last read are kept.

    Nothing is read from `end` on: of a process's own structures none lies in the kernel's half, whatever they say.
    `spent` says that so much text was asked for that no more is read.
    """

    def __init__(self, space: Readable, end: int = TOP) -> None:
        self.space = space
        self.end = end
        self.spent = False
        self._pages: dict[int, bytes | None] = {}
        self._texts: dict[tuple[int, int], str | None] = {}
        self._left = _MOST_TEXT

    def read(self, address: int, size: int) -> bytes | None:
        """Return `size` bytes at an address; None if one of them is not there."""
        if not 0 <= address <= self.end - size:
            return None
        number, at = divmod(address, PAGE)
        page = self._page(number)
        if page is not None and at + size <= PAGE:
            return page[at : at + size]
        if page is None and at + size > PAGE and self._page(number + 1) is None:
            return None
        return self._exactly(address, size)  # across pages, or part of one

    def padded(self, address: int, size: int) -> bytes:
        """Return `size` bytes at an address, with zeros for pages that are not there."""
        parts, end = [], address + size
        while address < end:
            count = min(PAGE - address % PAGE, end - address)
            parts.append(self.read(address, count) or bytes(count))
            address += count
        return b"".join(parts)

    def number(self, address: int, size: int = 8) -> int | None:
        """Return the little-endian number of `size` bytes at an address."""
        data = self.read(address, size)
        return None if data is None else int.from_bytes(data, "little")

    def text(self, structure: bytes | None) -> str | None:
        """Return what a UNICODE_STRING (of 16 bytes, or of 8 with a 32-bit pointer) says; it may hold anything.

        None if its characters cannot be read, or if it is not valid: empty, of odd length, longer than its buffer.
        """
        if structure is None:
            return None
        length, room = (int.from_bytes(structure[at : at + 2], "little") for at in (0, 2))
        buffer = int.from_bytes(structure[len(structure) // 2 :], "little")
        if not length or length % 2 or length > room:
            return None
        if (buffer, length) not in self._texts:
            self._left -= length // 2
            self.spent = self._left < 0
            if self.spent:
                return None
            data = self.read(buffer, length)
            self._texts[buffer, length] = None if data is None else data.decode("utf-16-le", "surrogatepass")
        return self._texts[buffer, length]

    def _page(self, number: int) -> bytes | None:
        if number not in self._pages:
            if len(self._pages) >= _MOST_PAGES:
                self._pages.clear()
            self._pages[number] = self._exactly(number * PAGE, PAGE)
        return self._pages[number]

    def _exactly(self, address: int, size: int) -> bytes | None:
        try:
            return self.space.read(address, size)
        except (AddressError, SourceReadError):
            return None


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: ``1 node``, ``2 nodes``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
