"""Pages that are not where page tables point: where they were found, or why they were not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from memcarve.images.physical import Placed
from memcarve.intervals import PAGE, breaks
from memcarve.missing import (
    BEYOND_PAGE_FILE,
    COMPRESSED as IN_STORE,
    COMPRESSED_SWAP,
    DEMAND_ZERO,
    IN_FILE,
    NOT_PROVEN,
    OUTSIDE,
    PAGED_OUT,
    REASONS,
    UNKNOWN_PROTOTYPE,
    MissingMemory,
)
from memcarve.permissions import COMPRESSED, DEMAND_ZERO as ZEROS, PAGEFILE, PROTOTYPE
from memcarve.space import NOT_PHYSICAL, AddressSpace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.backing import Backing
    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.paging import Pages
    from memcarve.images.paging_modes import AddressTable
    from memcarve.process import ProcessEntry


#: kinds of pages that page tables do not lead to: the flags of those that were found, and why others were not
KINDS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "shared": ((PROTOTYPE,), ()),
    "compressed": ((COMPRESSED, PROTOTYPE | COMPRESSED), (IN_STORE, COMPRESSED_SWAP)),
    "in_pagefile": ((PAGEFILE, PROTOTYPE | PAGEFILE), (PAGED_OUT, BEYOND_PAGE_FILE)),
    "in_file": ((), (IN_FILE,)),
    "never_touched": ((ZEROS, PROTOTYPE | ZEROS), (DEMAND_ZERO,)),
    "unknown": ((), (NOT_PROVEN, UNKNOWN_PROTOTYPE, OUTSIDE)),
}


class Found(NamedTuple):
    """What was resolved: `placed`, which is added to what page tables map; and what was not: `elsewhere`, `missing`.

    `missing` is what a page file should hold that was given. `counts` are pages by kind; `notes` sentences for the
    user.
    """

    placed: Placed
    elsewhere: MissingMemory
    missing: MissingMemory
    counts: dict[str, int]
    notes: list[str]


class Resolver(Protocol):
    """What an operating system knows of pages that are not where page tables point."""

    def walk(
        self, entry: ProcessEntry, table: AddressTable, start: int, end: int, limit: int | None
    ) -> tuple[Pages, Found]:
        """Return what page tables map of ``start <= x < end``, and what else can be found there. Raises LimitError."""

    def originals(self, entry: ProcessEntry, pages: U64) -> AddressSpace | None:
        """Return what all share of some pages (addresses, uint64) of a process's programs, whatever it has there.

        As far as that is found; None if nothing is known of it.
        """


class Gathered:
    """Gathers pages one batch after the other, each in columns: of an address that comes again, the first counts."""

    def __init__(self) -> None:
        none = np.zeros(0, np.uint64)
        self._placed: list[tuple[U64, ...]] = [(none,) * 5]
        self._lost: list[tuple[U64, ...]] = [(none,) * 3]
        self.notes: list[str] = []

    def place(self, address: U64, physical: U64, offset: U64, flags: U8 | int, size: U64 | None = None) -> None:
        """Add pages (or stretches of `size` bytes) that were found."""
        sizes = np.full(len(address), PAGE, np.uint64) if size is None else size
        self._placed.append((address, sizes, physical, offset, np.broadcast_to(flags, len(address)).astype(np.uint64)))

    def lose(self, address: U64, reason: str, size: U64 | None = None) -> None:
        """Add pages (or stretches of `size` bytes) that were not found.

        Pages that follow each other are kept as one stretch: of a large file that is mapped there are millions.
        """
        if size is None:
            first = np.flatnonzero(np.diff(address, prepend=address[:1] - np.uint64(1)) != np.uint64(PAGE))
            size = np.diff(np.append(first, len(address))).astype(np.uint64) * np.uint64(PAGE)
            address = address[first]
        self._lost.append((address, size, np.full(len(address), REASONS.index(reason), np.uint64)))

    def found(self, missing: Iterable[str], counted: Iterable[str]) -> Found:
        """Return all of it; `missing` are the reasons for which bytes count as missing, `counted` kinds of pages."""
        columns = _once(self._placed)
        continues = (columns[0], columns[2], columns[3])
        start, size, physical, offset, flags = _joined(columns, continues, columns[4])
        placed = Placed(start, size, physical, offset, flags.astype(np.uint8))
        lost = _clipped(self._lost)
        start, size, reason = _joined(lost, (lost[0],), lost[2])
        gone = np.isin(reason, [REASONS.index(word) for word in missing])
        elsewhere, lacking = (
            MissingMemory(start[keep], size[keep], reason[keep].astype(np.uint8)) for keep in (~gone, gone)
        )
        by_reason = np.bincount(reason.astype(np.int64), size // np.uint64(PAGE), len(REASONS))
        by_flags = np.bincount(placed.flags, placed.size // np.uint64(PAGE), 256)
        counts = {
            kind: int(by_flags[[*each]].sum() + sum(by_reason[REASONS.index(word)] for word in reasons))
            for kind, (each, reasons) in KINDS.items()
            if kind in counted
        }
        return Found(placed, elsewhere, lacking, counts, self.notes)


def not_physical(offset: U64) -> U64:
    """Return what stands in the column of physical addresses for bytes at an offset that were not in memory."""
    return offset | np.uint64(NOT_PHYSICAL)


def space_of(pages: Pages, backing: Backing, missing: MissingMemory, found: Found) -> AddressSpace:
    """Return what page tables map and what was found besides as an address space."""
    here, there = pages.placed, found.placed
    order = np.argsort(np.concatenate([here.start, there.start]), kind="stable")
    start, size, physical, offset = (
        np.concatenate([getattr(here, name), getattr(there, name)])[order]
        for name in ("start", "size", "physical", "offset")
    )
    flags = np.concatenate([here.flags, there.flags])[order]
    rows = missing if not len(found.missing) else sorted([*missing, *found.missing])
    return AddressSpace(
        start,
        size,
        offset,
        backing,
        rows,
        physical=physical,
        flags=flags,
        absent="not in memory",
        repeats=pages.repeats,
        elsewhere=found.elsewhere,
    )


def _once(parts: list[tuple[U64, ...]]) -> tuple[U64, ...]:
    """Return rows in order of addresses, without those that overlap one before them."""
    columns = _sorted(parts)
    if not len(columns[0]):
        return columns
    last = np.maximum.accumulate(columns[0] + (columns[1] - np.uint64(1)))
    keep: Bools = np.append(True, columns[0][1:] > last[:-1])
    return columns if keep.all() else tuple(column[keep] for column in columns)


def _clipped(parts: list[tuple[U64, ...]]) -> tuple[U64, U64, U64]:
    """Return stretches (start, size, something) in order of addresses, without what one before them has."""
    start, size, reason = _sorted(parts)
    if not len(start):
        return start, size, reason
    end = start + (size - np.uint64(1))
    begin = start.copy()
    begin[1:] = np.maximum(start[1:], np.maximum.accumulate(end)[:-1] + np.uint64(1))
    keep = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])
    return begin[keep], (end - begin + np.uint64(1))[keep], reason[keep]


def _sorted(parts: list[tuple[U64, ...]]) -> tuple[U64, ...]:
    columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(columns[0], kind="stable")
    return tuple(column[order] for column in columns)


def _joined(columns: tuple[U64, ...], continues: tuple[U64, ...], same: U64) -> tuple[U64, ...]:
    first = breaks(columns[1], *continues)
    first[1:] |= same[1:] != same[:-1]
    index = np.flatnonzero(first)
    if not len(index):
        return columns
    return tuple(
        np.add.reduceat(column, index) if number == 1 else column[index] for number, column in enumerate(columns)
    )
