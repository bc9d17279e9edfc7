"""Processes from which the layouts of their kernel are learned."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging import walk
from memcarve.images.structure_reader import LookedUp, Reader
from memcarve.images.windows import peb_modules
from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory, Placed

#: bytes of an EPROCESS or ETHREAD that are looked at; the largest so far has 3008
STRUCTURE = 0xC00
_MOST_MODULES = 256


class Probe:
    """A process to learn from: the `address` of its EPROCESS, its `pid`, PEB and image base as far as known."""

    def __init__(
        self,
        kernel: Reader,
        memory: PhysicalMemory,
        table: AddressTable | None,
        address: int,
        pid: int,
        peb: int | None,
        image_base: int | None,
    ) -> None:
        self.kernel, self.address, self.pid, self.peb, self.image_base = kernel, address, pid, peb, image_base
        self._memory, self._table = memory, table

    @functools.cached_property
    def structure(self) -> bytes:
        """The bytes of the EPROCESS and what follows, zeros if they cannot be read."""
        return snapshot(self.kernel, self.address)

    @functools.cached_property
    def user(self) -> Reader | None:
        """The reader of its own memory, page by page."""
        return None if self._table is None else Reader(LookedUp(self._memory, self._table), USER_END)

    @functools.cached_property
    def pages(self) -> Placed | None:
        """What its page tables map; None if they claim too much, or are not known."""
        if self._table is None:
            return None
        try:
            return walk(self._memory, self._table, 0, USER_END).placed
        except LimitError:
            return None

    @functools.cached_property
    def images(self) -> list[int]:
        """The addresses of its program and of the modules that its loader lists."""
        found = [] if self.image_base is None else [self.image_base]
        if self.user is not None and self.peb is not None:
            modules = peb_modules.modules(self.user, self.peb, peb_modules.WIDE, self.image_base)[0] or []
            found += [module.start for module in modules[:_MOST_MODULES] if module.start % PAGE == 0]
        return sorted(set(found))


def snapshot(reader: Reader, address: int, size: int = STRUCTURE) -> bytes:
    """Return the bytes of a structure, zeros if they cannot be read."""
    parts, end = [], address + size
    while address < end:
        count = min(PAGE - address % PAGE, end - address)
        parts.append(reader.read(address, count) or bytes(count))
        address += count
    return b"".join(parts)


def words_of(structures: Sequence[bytes]) -> U64:
    """Return structures of one size as numbers of 8 bytes, a row each: uint64, shape (n, size / 8)."""
    return np.frombuffer(b"".join(structures), "<u8").reshape(len(structures), -1)
