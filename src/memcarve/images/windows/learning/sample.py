"""Processes from which the layouts of their kernel are learned."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging import walk
from memcarve.images.structure_reader import LookedUp, Reader
from memcarve.images.windows import peb_modules
from memcarve.images.windows.eprocess_scan import USER_END, WAIT_LIST
from memcarve.images.windows.vads import is_kernel
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.dtypes import U64
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory, Placed

_T = TypeVar("_T")

#: bytes of an EPROCESS or ETHREAD that are looked at; the largest so far has 3008
STRUCTURE = 0xC00
_MOST_MODULES = 256


@dataclasses.dataclass(eq=False)
class Probe:
    """A process to learn from: the `address` of its EPROCESS, its `pid`, PEB and image base as far as known."""

    kernel: Reader
    memory: PhysicalMemory
    table: AddressTable | None
    address: int
    pid: int = 0
    peb: int | None = None
    image_base: int | None = None

    @functools.cached_property
    def structure(self) -> bytes:
        """The bytes of the EPROCESS and what follows, zeros if they cannot be read."""
        return self.kernel.padded(self.address, STRUCTURE)

    @functools.cached_property
    def user(self) -> Reader | None:
        """The reader of its own memory, page by page."""
        return None if self.table is None else Reader(LookedUp(self.memory, self.table), USER_END)

    @functools.cached_property
    def pages(self) -> Placed | None:
        """What its page tables map; None if they claim too much, or are not known."""
        if self.table is None:
            return None
        try:
            return walk(self.memory, self.table, 0, USER_END).placed
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


def has_waiters(reader: Reader, address: int) -> bool:
    """Return True if an object that begins with a list of waiters (DISPATCHER_HEADER) lies at an address."""
    here = address + WAIT_LIST
    first, last = reader.number(here), reader.number(here + 8)
    if first is None or last is None:
        return False
    return first == last == here or (
        is_kernel(first) and is_kernel(last) and reader.number(first + 8) == here and reader.number(last) == here
    )


def undisputed(weighed: Iterable[tuple[int, _T, object]]) -> _T | None:
    """Return what weighs most, given rows of weight, candidate and result.

    None if there is nothing, or if two that weigh as much give different results.
    """
    rows = [*weighed]
    best = [row for row in rows if row[0] == max(weight for weight, _, _ in rows)]
    return best[0][1] if best and all(row[2] == best[0][2] for row in best) else None


def words_of(structures: Sequence[bytes]) -> U64:
    """Return structures of one size as numbers of 8 bytes, a row each: uint64, shape (n, size / 8)."""
    return np.frombuffer(b"".join(structures), "<u8").reshape(len(structures), -1)
