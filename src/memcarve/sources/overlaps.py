"""Ranges of a file that claim addresses twice: taken once if their bytes are the same.

No honest program writes such a file; the plain way through its columns is for all others.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import OverlapError
from memcarve.intervals import Intervals, by_start, check_disjoint, overlap
from memcarve.missing import MissingMemory
from memcarve.space import Extent

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import U64

    Stored = tuple[U64, U64, U64]

_BLOCK = 1 << 20
_LEAST = 4096  # what comparing costs at least, in bytes
_SPARE = 1 << 24
_MOST = 1 << 20  # ranges, of which some claim the same addresses: each takes memory


def untangled(file: FileBacking, stored: Stored, missing: MissingMemory) -> tuple[Stored, MissingMemory, int]:
    """Return what is stored (start, size, offset) and what is missing so that no address is claimed twice.

    Both are sorted; sizes are not 0, and nothing reaches beyond 2**64. What is stored is not missing. Also returns how
    many ranges claimed addresses that others do, too. Raises OverlapError if the bytes differ, or if comparing
    them would take more reading than the file has bytes, or of more than 2**20 ranges some overlap.
    """
    order = np.argsort(stored[0], kind="stable")
    start, size, offset = (column[order] for column in stored)
    order = np.argsort(missing.start, kind="stable")
    missing = MissingMemory(missing.start[order], missing.size[order], missing.reason[order])
    both = np.concatenate([start, missing.start]), np.concatenate([size, missing.size])
    order = np.argsort(both[0], kind="stable")
    try:
        check_disjoint(both[0][order], both[1][order])
    except OverlapError:
        if len(both[0]) > _MOST:
            raise  # no program writes so many, and then some twice
        kept, count = _merged(file, list(map(Extent, start.tolist(), size.tolist(), offset.tolist())))
        gaps, more = _outside(missing, kept)
        columns = zip(*kept, strict=True) if kept else ((), (), ())
        first, second, third = (np.array(column, np.uint64) for column in columns)
        return (first, second, third), gaps, count + more
    return (start, size, offset), missing, 0


def added(
    file: FileBacking, stored: Stored, missing: MissingMemory, more: Stored
) -> tuple[Stored, MissingMemory, list[int]]:
    """Return what is stored and what is missing with `more` that is stored elsewhere, if it is not stored anyway.

    All are columns; the first two as `untangled` returns them, `more` in any order. Also returns, for each
    range of `more` at whose addresses what is stored has other bytes, the first such address, sorted: what is stored
    counts there. So it is if comparing would take more reading than the file has bytes. Ranges of `more` that share
    addresses and differ are not used, and returned likewise.
    """
    if not len(more[0]):
        return stored, missing, []
    rows = np.unique(np.stack(more, axis=1), axis=0)
    more = (rows[:, 0], rows[:, 1], rows[:, 2])
    different: dict[int, int] = {}  # by the range's place
    try:
        more, _, _ = untangled(file, more, MissingMemory.of(()))
    except OverlapError:
        first, last = more[0], more[0] + (more[1] - np.uint64(1))
        alone = np.ones(len(first), np.bool_)
        alone[1:] &= first[1:] > np.maximum.accumulate(last)[:-1]
        alone[:-1] &= last[:-1] < first[1:]
        different = {-1 - place: start for place, start in enumerate(first[~alone].tolist())}
        more = (first[alone], more[1][alone], more[2][alone])
    own, held = Intervals(more[0], more[1]), Intervals(stored[0], stored[1])
    both, theirs = own.intersect(held)
    places = more[2][both.owner] + (both.start - more[0][both.owner])
    others = stored[2][theirs] + (both.start - stored[0][theirs])
    left, apart = file.size + _SPARE, places != others
    columns = (both.owner, both.start, both.size, places, others)
    for owner, start, size, place, other in zip(*(column[apart].tolist() for column in columns), strict=True):
        left -= max(size, _LEAST)
        if owner not in different and (left < 0 or not _same(file, place, other, size)):
            different[owner] = start
    fresh = own.subtract(held)
    offset = more[2][fresh.owner] + (fresh.start - more[0][fresh.owner])
    new = (fresh.start, fresh.size, offset)
    joint = by_start(*(np.concatenate(columns) for columns in zip(stored, new, strict=True)))
    gaps = Intervals(missing.start, missing.size).subtract(fresh)
    return joint, MissingMemory(gaps.start, gaps.size, missing.reason[gaps.owner]), sorted(different.values())


def _merged(file: FileBacking, rows: list[Extent]) -> tuple[list[Extent], int]:
    """Return the ranges, sorted by start, without what earlier ones hold; and how many shared addresses with these."""
    kept: list[Extent] = []
    left, count = file.size + _SPARE, 0
    for row in rows:
        reach = kept[-1].end if kept else 0
        count += row.start < reach
        for other in reversed(kept):  # they end one after the other, and leave no gap between here and `reach`
            if other.end <= row.start:
                break
            low, high = max(row.start, other.start), min(row.end, other.end)
            places = row.offset + low - row.start, other.offset + low - other.start
            left -= max(high - low, _LEAST) if low < high else _LEAST
            same = low >= high or places[0] == places[1] or (left >= 0 and _same(file, *places, high - low))
            if left < 0 or not same:
                raise overlap((other.start, other.end), (row.start, row.end))
        if row.end > reach:
            begin = max(row.start, reach)
            kept.append(Extent(begin, row.end - begin, row.offset + begin - row.start))
    return kept, count


def _outside(missing: MissingMemory, kept: list[Extent]) -> tuple[MissingMemory, int]:
    """Return what is missing, sorted, once and without what is kept; and how many ranges shared addresses."""
    begins = [row.start for row in kept]
    found: list[tuple[int, int, int]] = []
    done, count = 0, 0
    for start, size, reason in zip(missing.start.tolist(), missing.size.tolist(), missing.reason.tolist(), strict=True):
        place, end = max(start, done), start + size
        shared = place > start
        index = max(bisect_right(begins, place) - 1, 0)
        while place < end:
            while index < len(kept) and kept[index].end <= place:
                index += 1
            low = kept[index].start if index < len(kept) else end
            if low > place:
                found.append((place, min(low, end) - place, reason))
            shared = shared or low < end
            place = max(place, kept[index].end if low < end else end)
        done = max(done, end)
        count += shared
    columns = zip(*found, strict=True) if found else ((), (), ())
    start_column, size_column, reasons = (np.array(column, np.uint64) for column in columns)
    return MissingMemory(start_column, size_column, reasons.astype(np.uint8)), count


def _same(file: FileBacking, one: int, other: int, size: int) -> bool:
    """Return True if the same bytes lie at two offsets of a file."""
    buffers = memoryview(bytearray(_BLOCK)), memoryview(bytearray(_BLOCK))
    for done in range(0, size, _BLOCK):
        length = min(_BLOCK, size - done)
        views = buffers[0][:length], buffers[1][:length]
        file.read_into(one + done, views[0])
        file.read_into(other + done, views[1])
        if views[0] != views[1]:
            return False
    return True
