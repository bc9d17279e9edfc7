"""A machine's physical memory: sorted, disjoint ranges over a backing, read by physical address."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.backing import AbsentBacking, ZerosBehind
from memcarve.columns import total
from memcarve.errors import CounterpartError, InputError
from memcarve.formats.images.machine import MachineMemory
from memcarve.missing import LEFT_OUT

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, U64, Bools


PAGE = 4096
_ONE = np.uint64(1)
_PAGES = np.uint64((1 << 64) - PAGE)
_MOST_PIECES = 1 << 24  # rows that may come of splitting pages at holes: more is no machine's memory
_MOST_SEAMS = 1 << 12  # pages at which ranges end or begin elsewhere than at their ends: a machine has a dozen
_HIGHEST = np.uint64(1 << 52)  # no physical address is as high (AMD APM volume 2, 5.3)


class Placed(NamedTuple):
    """Stretches of virtual memory whose bytes are in the image: columns of dtype uint64, `flags` uint8."""

    start: U64
    size: U64
    physical: U64
    offset: U64
    flags: U8


class Outside(NamedTuple):
    """Stretches of virtual memory whose bytes are not in the image: columns of dtype uint64."""

    start: U64
    size: U64
    physical: U64


class PhysicalMemory:
    """The machine's memory as one table: `start`, `size` and `offset` in the backing, uint64, a row a range.

    Rows are sorted by `start` and disjoint: where two of the container's claim an address, the first one listed counts
    (cores that list virtual memory name the same bytes twice). `cut_start` and `cut_end` are what the container should
    hold and does not. Memory that it only says to be zeros lies behind everything else, from `zeros_from` on, at an
    offset that grows with the address.

    `seams` (uint64, sorted) are the pages that do not lie in one range whole: at the end of a range that ends within a
    page. Of some of them there is only a part. `left_out` is memory that the container's writer left out, as a table of
    its own whose bytes cannot be read; None if there is none.
    """

    def __init__(self, machine: MachineMemory) -> None:
        self.kind = machine.kind
        self.backing = machine.backing
        self.declared = machine.declared and not machine.cut_off
        self.gaps = machine.gaps
        self.root = machine.root
        self.notes = list(machine.notes)
        self._damaged = False
        start, size, offset = machine.start, machine.size, machine.offset
        self.zeros_from = 1 << 64
        if machine.zeros is not None and len(machine.zeros):
            low = np.minimum(machine.zeros[:, 0], _HIGHEST)
            length = np.minimum(machine.zeros[:, 1], _HIGHEST - low)
            behind = ZerosBehind(machine.backing, int((low + length).max()))
            self.backing, self.zeros_from = behind, behind.begin
            start, size = np.concatenate([start, low]), np.concatenate([size, length])
            offset = np.concatenate([offset, low + np.uint64(behind.begin)])
        start, size, offset, twice = _disjoint(start, size, offset)
        if twice:
            self.notes.append(f"{self.kind}: some physical ranges are listed twice; the first one of each was taken")
        self.start, self.size, self.offset = _joined(start, size, offset)
        self._run_end = _run_ends(self.start, self.size)
        self.seams = self._find_seams()
        self.left_out: PhysicalMemory | None = None
        if machine.left_out is not None and len(machine.left_out):
            start, size = machine.left_out.T
            absent = MachineMemory(
                LEFT_OUT, AbsentBacking(CounterpartError(LEFT_OUT)), start, size, start, [], declared=False
            )
            self.left_out = PhysicalMemory(absent)
        self._parts: dict[int, tuple[bytes, Bools]] = {}
        cut = np.array(machine.cut_off, np.uint64).reshape(-1, 2)
        cut = cut[np.argsort(cut[:, 0])]
        self.cut_start, self.cut_end = cut[:, 0], np.maximum.accumulate(cut[:, 0] + cut[:, 1])
        if len(cut):
            before = np.append(np.uint64(0), self.cut_end[:-1])
            lost = total(self.cut_end - np.minimum(np.maximum(self.cut_start, before), self.cut_end))
            self.notes.append(f"{self.kind}: the file ends too early: {lost} bytes of the memory it lists are missing")

    def unreadable(self, why: str) -> None:
        """Take note that part of the image cannot be read, the first time that it is noticed."""
        if not self._damaged:
            self._damaged = True
            self.notes.append(f"part of the image cannot be read and was not looked through: {why}")

    @property
    def total(self) -> int:
        """The number of bytes that are there."""
        return int(self.size.sum())

    @property
    def stored(self) -> int:
        """The number of bytes that are there and stored: all but those that the container only says to be zeros."""
        return int(self.size[self.is_stored].sum())

    @property
    def is_stored(self) -> Bools:
        """For each range (bool) whether its bytes are stored."""
        return self.offset <= np.uint64(self.zeros_from - 1)

    @property
    def end(self) -> int:
        """The end of the highest range; 0 where there is none."""
        return int(self.start[-1]) + int(self.size[-1]) if len(self.start) else 0

    def holds(self, physical: U64, size: int) -> Bools:
        """Say for each address (bool) whether all of `size` bytes there are in the image."""
        if not len(self.start):
            return np.zeros(len(physical), np.bool_)
        index = np.searchsorted(self.start, physical, "right").astype(np.int64) - 1
        end = self._run_end[np.maximum(index, 0)]
        return np.asarray((index >= 0) & (end > physical) & (end - np.minimum(physical, end) >= np.uint64(size)))

    def holds_tables(self, physical: U64, size: int = PAGE, entry: int = 8) -> Bools:
        """Say for each address (bool) whether a table of `size` bytes there is in the image, or most of its entries.

        A table does not cross a page; an entry has `entry` bytes.
        """
        found = self.holds(physical, size)
        if len(self.seams):
            rest = np.flatnonzero(~found & self.on_seam(physical))
            tables, inverse = np.unique(physical[rest], return_inverse=True)
            bytes_there = (self.part(table, size)[1].reshape(-1, entry) for table in tables.tolist())
            most = [2 * int(there.all(axis=1).sum()) > len(there) for there in bytes_there]
            found[rest] = np.array(most, np.bool_)[inverse]
        return found

    def on_seam(self, physical: U64) -> Bools:
        """Say for each address (bool) whether it lies on one of `seams`."""
        if not len(self.seams):
            return np.zeros(len(physical), np.bool_)
        page = physical & _PAGES
        place = np.minimum(np.searchsorted(self.seams, page), len(self.seams) - 1)
        return np.asarray(self.seams[place] == page)

    def part(self, physical: int, size: int) -> tuple[bytes, Bools]:
        """Return `size` bytes of one of `seams`, zeros for those that are not in the image, and which are (bool)."""
        at = physical % PAGE
        data, there = self._seam(physical - at)
        return data[at : at + size], there[at : at + size]

    def read(self, physical: int, size: int) -> bytes | None:
        """Return `size` bytes at a physical address, across ranges; None where any of them is not there."""
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            index = int(np.searchsorted(self.start, np.uint64(physical + done), "right")) - 1
            into = physical + done - int(self.start[index]) if index >= 0 else 0
            if index < 0 or into >= int(self.size[index]):
                return None
            count = min(size - done, int(self.size[index]) - into)
            self.backing.read_into(int(self.offset[index]) + into, view[done : done + count])
            done += count
        return bytes(buffer)

    def pages(self, physical: U64) -> U64:
        """Return the pages at physical addresses that `holds` them: shape (n, 512), uint64; each is read once.

        Of one of `seams` the bytes that are not in the image are zeros.
        """
        unique, inverse = np.unique(physical, return_inverse=True)
        index = np.searchsorted(self.start, unique, "right") - 1
        into = unique - self.start[index]
        offsets = self.offset[index] + into
        split = into + np.uint64(PAGE) > self.size[index]  # begins in one range and ends in another
        split |= self.on_seam(unique)
        words = np.empty((len(unique), PAGE // 8), np.uint64)
        view = words.view(np.uint8).reshape(-1).data
        breaks = np.flatnonzero((np.diff(offsets) != PAGE) | split[1:] | split[:-1]) + 1
        for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(unique)], strict=True):
            if low < high and split[low]:
                view[low * PAGE : high * PAGE] = self.peek(int(unique[low]), PAGE)
            elif low < high:
                self.backing.read_into(int(offsets[low]), view[low * PAGE : high * PAGE])
        return words[inverse]

    def peek(self, physical: int, size: int) -> bytes:
        """Return `size` bytes of one page at a physical address, with zeros for what is not in the image."""
        data = self.read(physical, size)
        if data is not None:
            return data
        return self.part(physical, size)[0] if self.on_seam(np.array([physical], np.uint64))[0] else bytes(size)

    def _seam(self, page: int) -> tuple[bytes, Bools]:
        if page not in self._parts:
            data, there = bytearray(PAGE), np.zeros(PAGE, np.bool_)
            index = max(int(np.searchsorted(self.start, np.uint64(page), "right")) - 1, 0)
            while index < len(self.start) and int(self.start[index]) < page + PAGE:
                start, size, offset = (int(column[index]) for column in (self.start, self.size, self.offset))
                low, high = max(start, page), min(start + size, page + PAGE)
                if low < high:
                    self.backing.read_into(offset + low - start, memoryview(data)[low - page : high - page])
                    there[low - page : high - page] = True
                index += 1
            self._parts[page] = bytes(data), there
        return self._parts[page]

    def _find_seams(self) -> U64:
        ends = np.concatenate([self.start, self.start + self.size])
        seams = ends[ends % np.uint64(PAGE) != 0] & _PAGES
        seams = np.unique(seams) if len(seams) else seams
        if len(seams) <= _MOST_SEAMS:
            return seams
        self.notes.append(
            f"{self.kind}: {len(seams)} pages lie in several ranges or are there in part, more than {_MOST_SEAMS}: "
            "nothing is looked for in them, and a page table that lacks some of its bytes counts as lost"
        )
        return seams[:0]

    def place(self, start: U64, size: U64, physical: U64, flags: U8) -> tuple[Placed, Outside]:
        """Split stretches that are contiguous in virtual and physical memory at the holes of the image.

        The columns are uint64 and as long as each other, sizes not 0. Raises InputError where ranges so small that it
        is no memory would make millions of pieces.
        """
        last = physical + (size - _ONE)
        ends = self.start + (self.size - _ONE)  # last byte of each range
        first = np.searchsorted(ends, physical, "left")
        count = np.maximum(np.searchsorted(self.start, last, "right").astype(np.int64) - first, 0)
        pieces = int(count.sum())
        if pieces > len(start) + _MOST_PIECES:
            raise InputError(
                f"{self.kind}: the physical ranges are in more than {_MOST_PIECES} pieces; this is damaged"
            )
        row = np.repeat(np.arange(len(start)), count)
        index = np.arange(pieces) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        low = np.maximum(physical[row], self.start[index])
        high = np.minimum(last[row], ends[index])
        length = high - low + _ONE
        placed = Placed(
            start[row] + (low - physical[row]), length, low, self.offset[index] + (low - self.start[index]), flags[row]
        )
        covered = np.zeros(len(start), np.uint64)
        np.add.at(covered, row, length)
        lacking = np.flatnonzero(covered < size)
        if not len(lacking):
            return placed, Outside(*(np.zeros(0, np.uint64),) * 3)
        return placed, self._outside(start, size, physical, lacking, (row, low, high))

    @staticmethod
    def _outside(
        start: U64,
        size: U64,
        physical: U64,
        lacking: I64,
        pieces: tuple[I64, U64, U64],
    ) -> Outside:
        """Return what lies between, before and after the pieces of the rows that are not covered whole."""
        row, low, high = pieces
        chosen = np.isin(row, lacking)
        row, low, high = row[chosen], low[chosen], high[chosen]
        # per row a marker of no length at its end closes the last hole
        rows = np.concatenate([row, lacking])
        lows = np.concatenate([low, physical[lacking] + size[lacking]])
        order = np.lexsort((lows, rows))
        rows, lows = rows[order], lows[order]
        after = np.concatenate([high + _ONE, np.zeros(len(lacking), np.uint64)])[order]
        begins = np.empty(len(rows), np.uint64)
        begins[1:] = after[:-1]
        fresh = np.ones(len(rows), np.bool_)
        fresh[1:] = rows[1:] != rows[:-1]
        begins[fresh] = physical[rows[fresh]]
        hole = lows != begins
        rows, begins, lows = rows[hole], begins[hole], lows[hole]
        return Outside(start[rows] + (begins - physical[rows]), lows - begins, begins)

    def was_cut(self, physical: U64, size: U64) -> Bools:
        """Say for each stretch (bool) whether the container should hold some of it, and ends too early."""
        if not len(self.cut_start):
            return np.zeros(len(physical), np.bool_)
        index = np.searchsorted(self.cut_start, physical + (size - _ONE), "right").astype(np.int64) - 1
        return np.asarray((index >= 0) & (self.cut_end[np.maximum(index, 0)] > physical))


def _disjoint(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64, bool]:
    """Sort ranges and cut away what an earlier row of the table claims already; say whether there was any of that."""
    size = np.minimum(size, ~start)  # nothing reaches 2**64: no machine has memory there
    keep = size > 0
    start, size, offset = start[keep], size[keep], offset[keep]
    order = np.argsort(start, kind="stable")
    begin, end = start[order], (start + size)[order]
    if not (begin[1:] < np.maximum.accumulate(end)[:-1]).any():
        return begin, size[order], offset[order], False
    # rare: between two bounds the earliest of the rows counts that reach over both
    waiting = [*zip(begin.tolist(), end.tolist(), order.tolist(), strict=True)][::-1]
    bounds = sorted({*begin.tolist(), *end.tolist()})
    over: list[tuple[int, int]] = []
    rows = []
    for low, high in itertools.pairwise(bounds):
        while waiting and waiting[-1][0] == low:
            _, until, row = waiting.pop()
            heapq.heappush(over, (row, until))
        while over and over[0][1] <= low:
            heapq.heappop(over)
        if over:
            row = over[0][0]
            rows.append((low, high - low, int(offset[row]) + low - int(start[row])))
    table = np.array(rows, np.uint64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy(), True


def _run_ends(start: U64, size: U64) -> U64:
    """Return for each range where the memory that it continues without a hole ends."""
    if not len(start):
        return start
    last = np.append(start[1:] != start[:-1] + size[:-1], True)
    ends = np.flatnonzero(last)
    return (start + size)[ends][np.searchsorted(ends, np.arange(len(start)))]


def _joined(start: U64, size: U64, offset: U64) -> tuple[U64, U64, U64]:
    """Join ranges that continue each other in physical memory and in the backing."""
    if len(start) < 2:  # noqa: PLR2004 - nothing to join
        return start, size, offset
    first = np.ones(len(start), np.bool_)
    first[1:] = (start[1:] != start[:-1] + size[:-1]) | (offset[1:] != offset[:-1] + size[:-1])
    index = np.flatnonzero(first)
    return start[index], np.add.reduceat(size, index), offset[index]
