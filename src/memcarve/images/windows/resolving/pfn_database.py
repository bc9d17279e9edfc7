"""What Windows keeps of each page of memory (_MMPFN): where its entry is, and where it came from.

The PFN database is an array of records of 48 bytes, by page frame. A record has the address of the entry that maps its
page, as the page tables' map of themselves shows it, the frame of the table in which that entry is, and what the entry
would be if the page left memory (OriginalPte): of a page that was read back from a page file and not written since, its
place there. Where the array is only symbols tell, but the kernel's data have its address, and it proves itself: the
records of pages of processes have the addresses of just the entries that map them.

Sources: Microsoft's public symbols of _MMPFN, _MMPFNENTRY and _MMLISTS; members lie in two orders, that of Windows 7
and a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging import walk
from memcarve.images.paging_modes import FRAME, PRESENT, UPPER_HALF, X64
from memcarve.images.physical import past_unreadable
from memcarve.images.windows.resolving import invalid_ptes as ptes
from memcarve.images.windows.resolving.paging_files import kernel_data
from memcarve.intervals import PAGE, distinct, expand, spread
from memcarve.permissions import USER, WRITE

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver

_RECORD = 48
_PROCESSES = 32  # whose pages are looked at
_LARGEST = 1 << 33  # bytes of one that are walked for that
_MOST_PAGES = 1 << 13  # of each
_FIRST, _SAMPLE = 8, 256  # pages that tell which addresses may be the database's, and that prove one
_ENOUGH = 16  # records that must be right, and
_SHARE = 0.5  # as many of the sample: not all pages that a process may write are its own
_MOST_CANDIDATES = 1 << 17
_MOST_LIKELY = 1 << 8  # addresses at which the record of a page is right: memory may be mapped at many
_MOST_BOTH = 1 << 13  # pages in both that are looked at
_BEFORE_10 = 0xFFFFFA8000000000  # where it is in Windows 7
_KERNEL, _LOW = np.uint64(0xFFFF800000000000), np.uint64(PAGE - 1)
_TWELVE, _THREE = np.uint64(12), np.uint64(3)
_DIRTY = np.uint64(1 << 6)
_LIST, _ACTIVE, _STANDBY = np.uint64(7), np.uint64(6), np.uint64(2)  # of the flags: which list (PageLocation)
_CHANGING = np.uint64(1 << 4 | 1 << 3 | 1 << 5)  # modified, being written, being read
_PTE_FRAME = np.uint64((1 << 36) - 1)


class Members(NamedTuple):
    """Where a record has the entry's address, the original entry, and its flags (the byte with PageLocation)."""

    entry: int
    original: int
    flags: int


_MEMBERS = (Members(0x08, 0x10, 0x22), Members(0x10, 0x20, 0x1A))
_TABLE = 0x28  # the frame of the page table


class Sample(NamedTuple):
    """Pages of processes, in columns (uint64): physical address, and the address of the entry that maps each.

    `writable` (bool): whether the process may write it.
    """

    physical: U64
    entry: U64
    writable: Bools


class Twice(NamedTuple):
    """Pages that are in memory and, by their records, the same in a page file: physical address, original entry."""

    physical: U64
    original: U64


@past_unreadable
def pages_in_both(resolver: WindowsResolver) -> tuple[Twice | None, str]:
    """Return pages that should be the same in memory and in page files; None if the database is not known, and why."""
    if not resolver.memory.searchable:
        return None, "finding it takes reading more of the kernel's memory, which comes from afar"
    if resolver.windows.kernel.table.mode is not X64:
        return None, "its page tables have five levels"
    try:
        sample = _sample(resolver)
        if sample is None:
            return None, "its page tables do not map themselves"
        found = _database(resolver, sample)
    except LimitError as error:
        return None, error.problem
    if found is None:
        return None, "nothing in the kernel's data proves to be its address"
    return _unmodified(resolver, sample, *found), ""


def _sample(resolver: WindowsResolver) -> Sample | None:
    """Return pages of some processes; None if page tables do not map themselves."""
    table = resolver.windows.kernel.table
    root = np.array([table.root], np.uint64)
    if not resolver.memory.holds(root, PAGE)[0]:
        return None
    entries = resolver.memory.pages(root)[0]
    itself = entries & np.uint64(FRAME | PRESENT) == np.uint64(table.root | PRESENT)
    slots = np.flatnonzero(itself[UPPER_HALF:])
    if len(slots) != 1:
        return None
    base = np.uint64(0xFFFF000000000000 | (UPPER_HALF + int(slots[0])) << 39)
    none = np.zeros(0, np.uint64)
    parts = [(none, none, none.astype(np.bool_))]
    running = [one for one in resolver.windows.listed() if not one.ended and one.has_memory]
    for entry in [running[number] for number in spread(len(running), _PROCESSES).tolist()]:
        own = resolver.windows.table_of(entry)
        try:
            placed = walk(resolver.memory, own, 0, own.kernel_half, _LARGEST).placed
        except LimitError:  # others tell as well
            continue
        row, step = expand((placed.size >> _TWELVE).astype(np.int64))
        some = spread(len(row), _MOST_PAGES)
        row, away = row[some], step[some].astype(np.uint64) << _TWELVE
        address, physical = placed.start[row] + away, placed.physical[row] + away
        writable = placed.flags[row] & np.uint8(USER | WRITE) == np.uint8(USER | WRITE)
        parts.append((physical, base + (address >> _TWELVE << _THREE), writable))
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _database(resolver: WindowsResolver, sample: Sample) -> tuple[int, Members] | None:
    """Return where the database is, and how its records are laid out; None if nothing proves to be it."""
    own = np.flatnonzero(sample.writable)
    if len(own) < _ENOUGH:
        return None
    chosen = own[spread(len(own), _SAMPLE)]
    words = kernel_data(resolver)
    bases = words[(words >= _KERNEL) & (words & _LOW == 0)]
    bases = distinct(np.append(bases, np.uint64(_BEFORE_10)))[:_MOST_CANDIDATES]
    found = set[tuple[int, Members]]()
    for members in _MEMBERS:
        likely = np.zeros(len(bases), np.bool_)
        for at in chosen[:: max(len(chosen) // _FIRST, 1)].tolist():
            record = bases + (sample.physical[at] >> _TWELVE) * np.uint64(_RECORD)
            likely |= _has(resolver, record, sample.entry[at], members)
        if np.count_nonzero(likely) > _MOST_LIKELY:
            raise LimitError("too many addresses in the kernel's data look like it", int(np.count_nonzero(likely)))
        for base in bases[likely].tolist():
            record = np.uint64(base) + (sample.physical[chosen] >> _TWELVE) * np.uint64(_RECORD)
            right = int(_has(resolver, record, sample.entry[chosen], members).sum())
            if right >= max(_ENOUGH, _SHARE * len(chosen)):
                found.add((base, members))
    return found.pop() if len(found) == 1 else None


def _has(resolver: WindowsResolver, record: U64, entry: U64, members: Members) -> Bools:
    """Return which records (addresses, uint64) are of pages that entries at addresses map (bool)."""
    words, there = resolver.entries_at(record + np.uint64(members.entry))
    found: Bools = there & (words & ~np.uint64(7) == entry)
    return found


def _unmodified(resolver: WindowsResolver, sample: Sample, base: int, members: Members) -> Twice:
    """Return those pages of processes that nobody has written since they were read from a page file."""
    record = np.uint64(base) + (sample.physical >> _TWELVE) * np.uint64(_RECORD)
    right = np.flatnonzero(_has(resolver, record, sample.entry, members))
    physical, entry, record = sample.physical[right], sample.entry[right], record[right]
    original, there = resolver.entries_at(record + np.uint64(members.original))
    flags, also = resolver.entries_at(record + np.uint64(members.flags & ~7))
    flags >>= np.uint64((members.flags & 7) * 8)
    frame, third = resolver.entries_at(record + np.uint64(_TABLE))
    keep = there & also & third & (flags & _CHANGING == 0)
    keep &= ptes.kinds(original, resolver.possible) == ptes.PAGED
    rows = np.flatnonzero(keep)
    rows = rows[spread(len(rows), _MOST_BOTH)]
    table = (frame[rows] & _PTE_FRAME) << _TWELVE
    rows = rows[_clean(resolver, physical[rows], entry[rows], table, flags[rows] & _LIST)]
    return Twice(physical[rows], original[rows])


def _clean(resolver: WindowsResolver, physical: U64, entry: U64, table: U64, listed: U64) -> Bools:
    """Return which pages the entries at addresses in tables map, and the processor has not written (bool).

    All are columns (uint64): the physical addresses of the pages and of the tables, and on which list pages are.
    """
    held = np.flatnonzero(resolver.memory.holds(table, PAGE))
    place = ((entry[held] & _LOW) >> _THREE).astype(np.int64)
    words = resolver.memory.pages(table[held])[np.arange(len(held)), place]
    valid = words & ptes.VALID != 0
    moved = words & (ptes.VALID | ptes.PROTOTYPE | ptes.TRANSITION) == ptes.TRANSITION
    active, standby = valid & (words & _DIRTY == 0), moved & (listed[held] == _STANDBY)
    found = np.zeros(len(table), np.bool_)
    found[held] = ptes.frames(words, moved, resolver.possible) == physical[held]
    found[held] &= (active & (listed[held] == _ACTIVE)) | standby
    return found
