"""Roots of ARM64 page tables, by what tables look like: at each level descriptors of one kind, down to pages.

A descriptor for a table has none of the attributes that one for a page has, so that the number of levels shows: below a
root of four levels the fourth tables hold pages. Roots may be smaller than a page and lie among others in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging import claimed, walk
from memcarve.images.paging_modes import ARM64, NO_SYSTEM, AddressTable, Mode
from memcarve.images.physical import pages_of_tables, past_unreadable
from memcarve.images.physical_scan import everything, look_through
from memcarve.intervals import PAGE
from memcarve.permissions import USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64, Bools
    from memcarve.images.physical import PhysicalMemory

#: what an Image of an ARM64 kernel has 56 bytes from its beginning, also in memory, and the size of pages by bits 1 and
#: 2 of its flags, 24 bytes from there (Documentation/arch/arm64/booting.rst)
_MAGIC, _GRANULES = 0x644D5241, {1: 4, 2: 16, 3: 64}
_KIND, _TABLE, _BLOCK = np.uint64(3), np.uint64(3), np.uint64(1)
#: attributes that no table's descriptor has: AttrIndx, NS, AP, nG, PXN, UXN; and SH, which is part of an LPA2 address
_ATTRIBUTES, _SHARED = 0x8FC | 3 << 53, 0x300
_SAMPLE = 8
_MOST_CANDIDATES = 1 << 17
_TABLES_A_PAGE = 16  # tables that are read while looking for roots, for each page of the image


def granule_of_header(words: U64) -> int | None:
    """Return the size of pages in KiB that a kernel's header in some pages (shape (n, 512)) says; None without one."""
    at = np.flatnonzero((words[:, 7] & np.uint64(0xFFFFFFFF)) == np.uint64(_MAGIC))
    sizes = (_GRANULES.get(int(words[row, 3]) >> 1 & 3) for row in at.tolist())
    return next((size for size in sizes if size is not None), None)


def recognised(memory: PhysicalMemory, root: int) -> Mode | None:
    """Return the mode of ARM64 in which tables at a root make sense; None if there is none."""
    for mode in sorted(ARM64, key=lambda mode: (not mode.lpa2, -mode.bits)):
        size = mode.root_size
        if root % size == 0 and _Tables(memory, mode).sane(root):
            return mode
    return None


class FoundRoot(NamedTuple):
    """A plausible root, its mode, how many bytes it maps, and whether programs have any of them."""

    root: int
    mode: Mode
    size: int
    user: bool


def find_roots(memory: PhysicalMemory, modes: Sequence[Mode], most: float) -> list[FoundRoot]:
    """Return the plausible roots by address; nothing that maps more than `most` bytes is plausible.

    All roots of a machine are of one of the modes. Tables below its roots look like roots of one with fewer levels, and
    nearly nothing looks like one with more: it is the one with the most levels that has an eighth of the programs'
    roots of any other. With as many levels, it is the one with the longest addresses that has three quarters.
    """
    candidates = _candidates(memory, modes)
    found: dict[Mode, list[FoundRoot]] = {}
    for mode in sorted(modes, key=lambda mode: (-len(mode.levels), -mode.bits)):
        tables = _Tables(memory, mode)
        found[mode] = []
        budget = _TABLES_A_PAGE * (memory.total // PAGE) + (1 << 16)  # tables made to look like roots end some time
        for root in candidates[mode.name][:_MOST_CANDIDATES]:
            if budget > 0 and tables.sane(root):
                measured, count = _measured(memory, root, mode, most)
                budget -= count
                found[mode] += [measured] if measured else []
    counts = {mode: sum(root.user for root in roots) for mode, roots in found.items()}
    enough = [mode for mode in found if counts[mode] * 8 >= max(counts.values())]
    deepest = [mode for mode in enough if len(mode.levels) == len(enough[0].levels)]
    best = max(counts[mode] for mode in deepest)
    return found[next(mode for mode in deepest if counts[mode] * 4 >= best * 3)]


@past_unreadable
def _measured(memory: PhysicalMemory, root: int, mode: Mode, most: float) -> tuple[FoundRoot | None, int]:
    """Return what a root is, None if it maps nothing or too much, and how many tables were read for that."""
    table = AddressTable(root, mode, NO_SYSTEM)
    size, tables = claimed(memory, table, most=most)
    if not 0 < size <= most:
        return None, tables
    try:
        flags = walk(memory, table, limit=int(most)).placed.flags
    except LimitError:
        return None, tables
    return FoundRoot(root, mode, size, bool((flags & USER).any())), 2 * tables


class _Seeker:
    """Finds where all entries that are used are descriptors for tables: in groups that may be roots of a mode."""

    def __init__(self, memory: PhysicalMemory, modes: Sequence[Mode]) -> None:
        self.modes = modes
        self.lowest, self.end = np.uint64(memory.start[0] if len(memory) else 0), np.uint64(memory.end)

    def __call__(self, physical: U64, words: U64) -> list[list[int]]:
        """Return for each mode the candidates among pages; of a root of several pages, those that may be part of it."""
        used = words != 0
        rows = np.flatnonzero(used.any(axis=1))
        words, used, physical = words[rows], used[rows], physical[rows]
        found = []
        for mode in self.modes:
            good = _is_table(words, mode) & self._inside(words, mode)
            wide = min(mode.top, PAGE // 8)
            groups = (len(words), PAGE // 8 // wide, wide)
            fine = ~(used & ~good).reshape(groups).any(axis=2) & good.reshape(groups).any(axis=2)
            page, place = np.nonzero(fine)
            found.append((physical[page] + place.astype(np.uint64) * np.uint64(wide * 8)).tolist())
        return found

    def _inside(self, words: U64, mode: Mode) -> Bools:
        frame = words & np.uint64((1 << 48) - mode.page)
        return np.asarray((frame >= self.lowest) & (frame < self.end))


def _is_table(words: U64, mode: Mode) -> Bools:
    attributes = np.uint64(_ATTRIBUTES | (0 if mode.lpa2 else _SHARED))
    return np.asarray(((words & _KIND) == _TABLE) & ((words & attributes) == 0))


def _candidates(memory: PhysicalMemory, modes: Sequence[Mode]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {mode.name: [] for mode in modes}
    for each in look_through(memory, everything(memory), _Seeker(memory, modes)):
        for mode, some in zip(modes, each, strict=True):
            found[mode.name] += some
    for mode in modes:
        if mode.root_size > PAGE:
            found[mode.name] = sorted({part - part % mode.root_size for part in found[mode.name]})
    return found


class _Tables:
    """Looks into tables of a mode: those that made sense once are known."""

    def __init__(self, memory: PhysicalMemory, mode: Mode) -> None:
        self.memory, self.mode = memory, mode
        self.last = len(mode.levels) - 1
        self._known: dict[tuple[int, int], bool] = {}

    def sane(self, table: int, depth: int = 0) -> bool:
        """Return True if tables are tables, all the way down: a sample of the entries is followed at each level."""
        key = (table, depth)
        if key not in self._known:
            self._known[key] = False  # until it is known: tables may point to each other
            self._known[key] = self._look(table, depth)
        return self._known[key]

    @past_unreadable
    def _look(self, table: int, depth: int) -> bool:
        size = self.mode.page if depth else self.mode.root_size
        where = np.array([table], np.uint64)
        if table % size or not self.memory.holds(where, size)[0]:
            return False
        if size < PAGE:
            words = np.frombuffer(self.memory.peek(table, size), np.uint64)
        else:
            words = self.memory.pages(pages_of_tables(where, size)).reshape(-1)
        used = words[(words & _BLOCK) != 0]
        if not len(used):
            return depth == self.last
        tables = _is_table(used, self.mode)
        inside = self._inside(used)
        if depth == self.last:
            pages = ((used & _KIND) == _KIND) & ~tables
            return int(pages.sum()) * 10 >= len(used) * 9 and int((pages & inside).sum()) * 2 >= len(used)
        good = tables & inside
        if self.mode.levels[depth].large:
            good |= (used & _KIND) == _BLOCK
        if int(good.sum()) * 10 < len(used) * 9:
            return False
        below = (used & np.uint64((1 << 48) - self.mode.page))[tables & inside]
        sample = below[:: max(len(below) // _SAMPLE, 1)][:_SAMPLE].tolist()
        return sum(self.sane(frame, depth + 1) for frame in sample) * 2 >= len(sample)

    def _inside(self, words: U64) -> Bools:
        high = words & np.uint64(_SHARED) if self.mode.lpa2 else np.zeros(len(words), np.uint64)
        frame = (words & np.uint64((1 << 48) - self.mode.page)) | high << np.uint64(42)
        return np.asarray((frame >= self.memory.start[0]) & (frame < np.uint64(self.memory.end)))
