"""A machine's physical memory: sorted, disjoint ranges over a backing, read by physical address."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from memcarve.backing import AbsentBacking, ZerosBehind, fetch_ahead, read_pieces
from memcarve.errors import CounterpartError, InputError, UnreadableError
from memcarve.formats.images.machine import MachineMemory
from memcarve.intervals import PAGE, TOP, Intervals, breaks, distinct, joined, smallest_owner, total, union
from memcarve.missing import LEFT_OUT
from memcarve.unreadable import SECTOR, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.process import Progress
    from memcarve.space import AddressSpace

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PAGES = np.uint64(TOP - PAGE)
_MOST_PIECES = 1 << 24  # rows that may come of splitting pages at holes: no machine has more
_MOST_SEAMS = 1 << 12  # pages at which ranges end or begin elsewhere than at their ends: a machine has a dozen
_HIGHEST = np.uint64(1 << 52)  # no physical address is as high (AMD APM volume 2, 5.3)


def past_unreadable(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function begin again that met what cannot be read of a machine's memory: it is not there any more then."""

    @functools.wraps(work)
    def again(*args: _P.args, **options: _P.kwargs) -> _T:
        while True:  # each time there is less of the memory
            with contextlib.suppress(UnreadableError):
                return work(*args, **options)

    return again


class Mapped(Intervals):
    """Stretches of virtual memory, and where in physical memory they lie: `start`, `size`, `physical` (uint64)."""

    def __init__(self, start: U64, size: U64, physical: U64) -> None:
        super().__init__(start, size)
        self.physical = physical


class Placed(Mapped):
    """Stretches whose bytes are in the image: also `offset` in its backing (uint64), and `flags` (uint8)."""

    def __init__(self, start: U64, size: U64, physical: U64, offset: U64, flags: U8) -> None:
        super().__init__(start, size, physical)
        self.offset = offset
        self.flags = flags

    @property
    def columns(self) -> tuple[U64, U64, U64, U64, U8]:
        """All columns, in the order above."""
        return self.start, self.size, self.physical, self.offset, self.flags


class PhysicalMemory(Intervals):
    """The machine's memory as one table: `start`, `size` and `offset` in the backing, uint64, a row a range.

    Rows are sorted by `start` and disjoint: if two of the container's claim an address, the first one listed counts
    (cores that list virtual memory name the same bytes twice). `cut` are the addresses that the container should hold
    and does not. Memory that it only says to be zeros lies behind everything else, from `zeros_from` on, at an offset
    that grows with the address.

    `seams` (uint64, sorted) are the pages that do not lie in one range whole: at the end of a range that ends within a
    page. Of some of them there is only a part. `left_out` is memory that the container's writer left out, as a table of
    its own whose bytes cannot be read; None if there is none.

    What the system could not read when it was asked for is taken out of the table: those ranges are `bad` (sorted).
    `pages`, `peek` and `part` raise UnreadableError then, once: what was done is done again without them
    (`past_unreadable`). Safe to use from several threads.
    """

    def __init__(self, machine: MachineMemory) -> None:
        self.kind = machine.kind
        self.backing = machine.backing
        self.declared = machine.declared and not machine.cut_off
        self.gaps = machine.gaps
        self.root = machine.root
        self.vmcoreinfo = machine.vmcoreinfo
        self.architecture = machine.architecture
        self.notes = list(machine.notes)
        #: whether part of the image could not be read
        self.damaged = False
        #: whether all of it may be looked through for what no list of the system leads to
        self.searchable = True
        self.bad = Intervals.of([])
        self._lock = threading.RLock()
        #: is told how far a search of all the memory is: bytes done, bytes in all
        self.progress: Progress | None = None
        start, size, offset = machine.start, machine.size, machine.offset
        self.zeros_from = TOP
        if machine.zeros is not None and len(machine.zeros):
            low = np.minimum(machine.zeros.start, _HIGHEST)
            length = np.minimum(machine.zeros.size, _HIGHEST - low)
            behind = ZerosBehind(machine.backing, int((low + length).max()))
            self.backing, self.zeros_from = behind, behind.begin
            start, size = np.concatenate([start, low]), np.concatenate([size, length])
            offset = np.concatenate([offset, low + np.uint64(behind.begin)])
        size = np.minimum(size, ~start)  # nothing reaches 2**64: no machine has memory there
        start, size, offset = start[size > 0], size[size > 0], offset[size > 0]
        once = smallest_owner(start, size, np.arange(len(start)))
        if once.total < total(size):
            self.notes.append(f"{self.kind}: some physical ranges are listed twice; the first one of each was taken")
        self._lay_out(*joined(once.start, once.size, offset[once.owner] + (once.start - start[once.owner])))
        self.left_out: PhysicalMemory | None = None
        if machine.left_out is not None and len(machine.left_out):
            start, absent = machine.left_out.start, AbsentBacking(CounterpartError(LEFT_OUT))
            self.left_out = PhysicalMemory(
                MachineMemory(LEFT_OUT, absent, start, machine.left_out.size, start, [], declared=False)
            )
        self.cut = union(Intervals.of(machine.cut_off))
        if len(self.cut):
            lost = self.cut.total
            self.notes.append(f"{self.kind}: the file ends too early: {lost} bytes of the memory it lists are missing")

    def _lay_out(self, start: U64, size: U64, offset: U64) -> None:
        super().__init__(start, size)
        self.__dict__.pop("_sums", None)
        self.offset = offset
        # for each range, where the memory that it continues without a hole ends
        ends = np.flatnonzero(np.append(breaks(self.size, self.start)[1:], len(self) > 0))
        self._run_end = (self.start + self.size)[ends][np.searchsorted(ends, np.arange(len(self)))]
        self.seams = self._find_seams()
        self._parts: dict[int, tuple[bytes, Bools]] = {}

    def _take_out(self, wanted: Intervals, error: UnreadableError) -> UnreadableError:
        """Find out what of some offsets of the backing cannot be read, and hold it no longer; return the error."""
        self.unreadable(str(error))
        bad = unreadable(self.backing, wanted)
        if not len(bad):  # it comes and goes: with this there is an end to it
            bad = Intervals(wanted.start[:1], np.minimum(wanted.size[:1], np.uint64(SECTOR)))
        stored = Intervals(self.offset, self.size)
        kept, (gone, _) = stored.subtract(bad), stored.intersect(bad)
        lost = self.start[gone.owner] + (gone.start - self.offset[gone.owner])
        self.bad = union(self.bad, Intervals(lost, gone.size))
        self._lay_out(self.start[kept.owner] + (kept.start - self.offset[kept.owner]), kept.size, kept.start)
        return error

    def unreadable(self, why: str) -> None:
        """Take note that part of the image cannot be read, the first time that it is noticed."""
        if not self.damaged:
            self.damaged = True
            self.notes.append(f"part of the image cannot be read and was not looked through: {why}")

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
        """The end of the highest range; 0 if there is none."""
        return int(self.start[-1]) + int(self.size[-1]) if len(self.start) else 0

    def offsets_of(self, physical: U64) -> U64:
        """Return the offsets in the backing (uint64) of addresses that are in the image."""
        with self._lock:
            row = self._rows_of(physical)
            return self.offset[row] + (physical - self.start[row])

    def _rows_of(self, physical: U64) -> I64:
        row = self.rows_of(physical)
        if len(self.bad) and ((row < 0) & ~self.on_seam(physical)).any():  # another thread found it out
            raise UnreadableError("cannot be read, as was found meanwhile", 0, subject=self.backing.path)
        return row

    def holds(self, physical: U64, size: int) -> Bools:
        """Return for each address (bool) whether all of `size` bytes there are in the image."""
        with self._lock:
            if not len(self.start):
                return np.zeros(len(physical), np.bool_)
            index = np.searchsorted(self.start, physical, "right").astype(np.int64) - 1
            end = self._run_end[np.maximum(index, 0)]
        return np.asarray((index >= 0) & (end > physical) & (end - np.minimum(physical, end) >= np.uint64(size)))

    @past_unreadable
    def holds_tables(self, physical: U64, size: int = PAGE, entry: int = 8) -> Bools:
        """Return for each address (bool) whether a table of `size` bytes there is in the image, or most of its entries.

        A table lies within a page or begins one; an entry has `entry` bytes.
        """
        found = self.holds(physical, size)
        if size > PAGE:
            rest = np.flatnonzero(~found)
            pages = pages_of_tables(physical[rest], size)
            held = self.holds(pages, PAGE)
            there = held * np.int64(PAGE // entry)
            for row in np.flatnonzero(~held & self.on_seam(pages)).tolist():
                there[row] = int(self.part(int(pages[row]), PAGE)[1].reshape(-1, entry).all(axis=1).sum())
            found[rest] = 2 * there.reshape(len(rest), size // PAGE).sum(axis=1) > size // entry
        elif len(self.seams):
            rest = np.flatnonzero(~found & self.on_seam(physical))
            tables, inverse = np.unique(physical[rest], return_inverse=True)
            bytes_there = (self.part(table, size)[1].reshape(-1, entry) for table in tables.tolist())
            most = [2 * int(there.all(axis=1).sum()) > len(there) for there in bytes_there]
            found[rest] = np.array(most, np.bool_)[inverse]
        return found

    def on_seam(self, physical: U64) -> Bools:
        """Return for each address (bool) whether it lies on one of `seams`."""
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
        """Return `size` bytes at a physical address, across ranges; None if any of them is not there."""
        try:
            return self._read(physical, size)
        except UnreadableError:
            return None

    def _read(self, physical: int, size: int) -> bytes | None:
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            with self._lock:
                index = self.at(physical + done)
                if index is None:
                    return None
                into = physical + done - int(self.start[index])
                count = min(size - done, int(self.size[index]) - into)
                offset = int(self.offset[index]) + into
            self._read_into(offset, view[done : done + count])
            done += count
        return bytes(buffer)

    def pages(self, physical: U64) -> U64:
        """Return the pages at physical addresses that `holds` them: shape (n, 512), uint64; each is read once.

        In one of `seams` the bytes that are not in the image are zeros.
        """
        unique, inverse = np.unique(physical, return_inverse=True)
        with self._lock:
            index = self._rows_of(unique)
            into = unique - self.start[index]
            offsets = self.offset[index] + into
            split = into + np.uint64(PAGE) > self.size[index]  # begins in one range and ends in another
            split |= self.on_seam(unique)
        words = np.empty((len(unique), PAGE // 8), np.uint64)
        view = words.view(np.uint8).reshape(-1).data
        if len(unique) > 1:
            fetch_ahead(self.backing, offsets[~split], PAGE)
        rows = np.flatnonzero(split)
        for low, high in zip([0, *(rows + 1).tolist()], [*rows.tolist(), len(unique)], strict=True):
            first = low + np.flatnonzero(
                np.diff(offsets[low:high], prepend=offsets[low:high][:1] - np.uint64(1)) != PAGE
            )
            length = np.diff(np.append(first, high)) * PAGE
            pieces = zip(offsets[first].tolist(), length.tolist(), strict=True)
            try:
                read_pieces(self.backing, pieces, view[low * PAGE : high * PAGE])
            except UnreadableError as error:
                pages = offsets[~split]  # all of them, so that not each one begins everything again
                with self._lock:
                    raise self._take_out(Intervals(pages, np.full_like(pages, PAGE)), error) from error
        for row in rows.tolist():
            view[row * PAGE : (row + 1) * PAGE] = self.peek(int(unique[row]), PAGE)
        return words if np.array_equal(unique, physical) else words[inverse]

    def _read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self.backing.read_into(offset, buffer)
        except UnreadableError as error:
            with self._lock:
                raise self._take_out(Intervals.of([(offset, len(buffer))]), error) from error

    def peek(self, physical: int, size: int) -> bytes:
        """Return `size` bytes of one page at a physical address, with zeros for what is not in the image."""
        data = self._read(physical, size)
        if data is not None:
            return data
        return self.part(physical, size)[0] if self.on_seam(np.array([physical], np.uint64))[0] else bytes(size)

    def _seam(self, page: int) -> tuple[bytes, Bools]:
        with self._lock:
            if page not in self._parts:
                try:
                    self._parts[page] = read_there(self, page, PAGE)
                except UnreadableError as error:
                    page_there = Intervals.of([(page, PAGE)]).intersect(self)
                    offsets = self.offset[page_there[1]] + (page_there[0].start - self.start[page_there[1]])
                    raise self._take_out(Intervals(offsets, page_there[0].size), error) from error
            return self._parts[page]

    def _find_seams(self) -> U64:
        ends = np.concatenate([self.start, self.start + self.size])
        seams = ends[ends % np.uint64(PAGE) != 0] & _PAGES
        seams = distinct(seams) if len(seams) else seams
        if len(seams) <= _MOST_SEAMS:
            return seams
        self.notes.append(
            f"{self.kind}: {len(seams)} pages lie in several ranges or are there in part, more than {_MOST_SEAMS}: "
            "nothing is looked for in them, and a page table that lacks some of its bytes counts as lost"
        )
        return seams[:0]

    def place(self, start: U64, size: U64, physical: U64, flags: U8) -> tuple[Placed, Mapped]:
        """Split stretches that are contiguous in virtual and physical memory at the holes of the image.

        The columns are uint64 and as long as each other, sizes not 0. Raises InputError if ranges too small to be
        memory would make millions of pieces.
        """
        with self._lock:
            return self._place(start, size, physical, flags)

    def _place(self, start: U64, size: U64, physical: U64, flags: U8) -> tuple[Placed, Mapped]:
        mapped = Intervals(physical, size)
        first, end = touched = self.touched(mapped)
        if int((end - first).sum()) > len(start) + _MOST_PIECES:
            raise InputError(
                f"the physical ranges are in more than {_MOST_PIECES} pieces; this is damaged", subject=self.kind
            )
        found, index = mapped.intersect(self, touched)
        row, low = found.owner, found.start
        offset = self.offset[index] + (low - self.start[index])
        placed = Placed(start[row] + (low - physical[row]), found.size, low, offset, flags[row])
        lacking = np.ones(len(start), np.bool_)
        lacking[row[found.size == size[row]]] = False  # in one piece, as nearly all are
        rest = mapped.where(lacking).subtract(self)
        return placed, Mapped(start[rest.owner] + (rest.start - physical[rest.owner]), rest.size, rest.start)

    def rebased(self, base: int) -> PhysicalMemory:
        """Return the same memory, of which nothing was said, as if it began `base` bytes higher: a raw image."""
        start = self.start + np.uint64(base)
        machine = MachineMemory(self.kind, self.backing, start, self.size, self.offset, [], declared=False)
        moved = PhysicalMemory(machine._replace(notes=tuple(self.notes), root=self.root, gaps=self.gaps))
        moved.progress, moved.damaged, moved.searchable = self.progress, self.damaged, self.searchable
        return moved

    def was_cut(self, physical: U64, size: U64) -> Bools:
        """Return for each stretch (bool) whether the container should hold some of it, and ends too early."""
        first, end = self.cut.touched(Intervals(physical, size))
        return np.asarray(end > first)


def pages_of_tables(tables: U64, size: int) -> U64:
    """Return the addresses of all pages of tables of `size` bytes, which begin pages, one table after the other."""
    pages: U64 = np.add.outer(tables, np.arange(0, size, PAGE, dtype=np.uint64)).reshape(-1)
    return pages


def read_there(held: PhysicalMemory | AddressSpace, address: int, size: int) -> tuple[bytes, Bools]:
    """Return `size` bytes at an address, zeros for those that are not there, and which are (bool)."""
    data, there, end = bytearray(size), np.zeros(size, np.bool_), address + size
    index = max(int(np.searchsorted(held.start, np.uint64(min(address, TOP - 1)), "right")) - 1, 0)
    while index < len(held) and int(held.start[index]) < end:
        start, length, offset = (int(column[index]) for column in (held.start, held.size, held.offset))
        low, high = max(start, address), min(start + length, end)
        if low < high:
            held.backing.read_into(offset + low - start, memoryview(data)[low - address : high - address])
            there[low - address : high - address] = True
        index += 1
    return bytes(data), there
