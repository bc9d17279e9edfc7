"""Page tables, walked as arrays.

How an entry is read is the processor's business, and what one means that is not present the operating system's
(``x86_entries.py``, ``arm64_entries.py``). A page table is a row of an array; a batch of them is looked at in one go,
and batches go depth first, so that memory stays bounded however many tables there are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.arm64_entries import Arm64Entries
from memcarve.images.linux.absent_entries import AbsentEntries, decoded
from memcarve.images.paging_modes import LINUX, NO_EXECUTE, NO_SYSTEM, WINDOWS, AddressTable
from memcarve.images.physical import Mapped, PhysicalMemory, Placed, pages_of_tables, past_unreadable
from memcarve.images.x86_entries import X86Entries
from memcarve.intervals import PAGE, TOP, Intervals, breaks, chunks, distinct, union
from memcarve.permissions import PROT_NONE, TRANSITION
from memcarve.space import AddressSpace, Repeats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import F64, I64, U8, U64, Bools
    from memcarve.missing import Missing, MissingMemory


_BATCH = 1 << 22  # bytes of tables looked at in one go
_FEW = 1 << 12  # tables that are looked at without counting first how many there are: 16 MiB
_PLACED = 1 << 18  # stretches looked up in the image in one go
_SHARED = 16  # entries of a directory that lead to one table: no system maps one thing that often for its own sake

#: kinds of pages that are counted even where there are none
_KINDS: dict[str, tuple[str, ...]] = {
    WINDOWS: (
        "present",
        "transition",
        "outside",
        "demand_zero",
        "pagefile",
        "prototype",
        "tables",
        "lost_tables",
        "paged_tables",
    ),
    LINUX: ("present", "prot_none", "outside", "swapped", "tables", "lost_tables"),
    NO_SYSTEM: ("present", "outside", "not_present", "tables", "lost_tables"),
}


class Pages(NamedTuple):
    """What a walk found: columns sorted by address, stretches joined if they continue each other in every column.

    `placed`, `outside` and `repeats` as their classes say; `counts` are 4 KiB pages by kind: ``present``,
    ``transition``, ``prot_none``, ``outside``, and of those that are not in the image ``demand_zero``, ``pagefile``,
    ``prototype``, ``not_present``, ``swapped`` and, if there are any, Linux's others (`absent_entries.KINDS`), whatever
    size the machine's pages have. ``tables``: page tables read, ``lost_tables``: those outside the image,
    ``paged_tables``: those that are paged out; ``lost_entries``, if there are any: of tables that were read, those that
    are outside the image or lack a byte, and may hold a page.
    """

    placed: Placed
    outside: Mapped
    counts: dict[str, int]
    repeats: Repeats

    def space(self, memory: PhysicalMemory, missing: Iterable[Missing] | MissingMemory = ()) -> AddressSpace:
        """Return what was found as an address space over the image."""
        start, size, physical, offset, flags = self.placed.columns
        return AddressSpace(
            start,
            size,
            offset,
            memory.backing,
            missing,
            physical=physical,
            flags=flags,
            absent="not in memory",
            repeats=self.repeats,
        )


@past_unreadable
def walk(
    memory: PhysicalMemory, table: AddressTable, start: int = 0, end: int = TOP, limit: int | None = None
) -> Pages:
    """Return every page that holds an address of ``start <= x < end``; large pages are not cut there.

    In the kernel half Windows shares tables so that one page is mapped hundreds of millions of times (Linux does for
    KASAN): directories of which all entries lead to one table. Such a table is walked once for all of them, at the
    lowest address; what the others map is in `repeats`. An entry of another directory that leads to the same table by
    itself is no repeat: sharing it elsewhere hides nothing. A range below the default limit is walked whole.

    Raises LimitError if the tables are said to map more than `limit` bytes of virtual memory (by default four times
    the image, at least 16 GiB): tables may point to each other so that a few of them describe 2**48 bytes.
    """
    return _Walk(memory, table, start, end).run(default_limit(memory) if limit is None else limit)


def translate(memory: PhysicalMemory, table: AddressTable, address: int) -> int | None:
    """Return the physical address of a virtual one; None if it is not in memory or not in the image."""
    placed = walk(memory, table, address, address + 1).placed
    inside = np.flatnonzero(np.uint64(address) - placed.start < placed.size)
    return int(placed.physical[inside[0]]) + address - int(placed.start[inside[0]]) if len(inside) else None


def default_limit(memory: PhysicalMemory) -> int:
    """Return how many bytes of virtual memory tables may be said to map before that is taken for damage."""
    return max(16 << 30, 4 * memory.total)


@past_unreadable
def claimed(
    memory: PhysicalMemory, table: AddressTable, start: int = 0, end: int = TOP, most: float = math.inf
) -> tuple[int, int]:
    """Return how many bytes of virtual memory the tables are said to map, and how many tables were read for that.

    The time is bounded by the image's size, and counting ends beyond `most` bytes. Only the entries of the
    root that touch the range are looked at. Repeats are not counted.
    """
    walking = _Walk(memory, table, start, end)
    return walking.claim(most)[0], walking.counts.get("tables", 0)


class Absent(NamedTuple):
    """Linux's entries for pages that are not present: columns sorted by address, a row an entry.

    `address` and `size` (uint64), `type` (uint8) and `offset` (uint64) as /proc/PID/pagemap says them, and `kind`, an
    index into `absent_entries.KINDS` (uint8). A type below the special ones is the number of a swap area, and `offset`
    the number of a page in it.
    """

    address: U64
    size: U64
    type: U8
    offset: U64
    kind: U8


@past_unreadable
def absent(
    memory: PhysicalMemory, table: AddressTable, start: int = 0, end: int = TOP, limit: int | None = None
) -> Absent:
    """Return what Linux keeps in the entries that are not present for addresses of ``start <= x < end``.

    Pages that may not be touched (PROT_NONE) are memory, and not among them. Raises LimitError as `walk` does, and if
    there are more entries than pages in `limit`.
    """
    walking = _Walk(memory, table, start, end)
    walking.kept = []
    most = default_limit(memory) if limit is None else limit
    walking.most = most // PAGE
    walking.run(most)
    layout = walking.absent.layout
    address, size, words = (
        np.concatenate([np.zeros(0, np.uint64), *(rows[number] for rows in walking.kept)]) for number in range(3)
    )
    order = np.argsort(address, kind="stable")
    types, offsets = decoded(words[order], layout)
    return Absent(address[order], size[order], types, offsets, walking.absent.kinds(types, offsets))


class PagedTables(NamedTuple):
    """Entries above the lowest level that are not 0 and lead to no frame, in columns, a row an entry.

    `address` is the first one that it is about, `word` the entry (both uint64), `depth` the level at which it stands
    (int64): an index into the mode's levels.
    """

    address: U64
    word: U64
    depth: I64


class Invalid(NamedTuple):
    """What Windows keeps in entries of the lowest level that hold no frame: columns sorted by address, a row a page.

    `address` and `word` (uint64): the entry, never 0. `unknown` are the addresses below tables that are not in the
    image or are paged out themselves: nothing is known of their entries. `paged` are the entries for the latter.
    `cut`: there were more than the limit has pages, and none are given.
    """

    address: U64
    word: U64
    unknown: Intervals
    paged: PagedTables
    cut: bool


@past_unreadable
def walk_invalid(
    memory: PhysicalMemory,
    table: AddressTable,
    start: int = 0,
    end: int = TOP,
    limit: int | None = None,
) -> tuple[Pages, Invalid]:
    """Return what `walk` does, and what Windows keeps in the entries that hold no frame. Raises LimitError."""
    walking = _Walk(memory, table, start, end)
    walking.invalid = []
    limit = default_limit(memory) if limit is None else limit
    walking.most_invalid = limit // PAGE
    pages = walking.run(limit)
    none = np.zeros(0, np.uint64)
    address, word = (np.concatenate([none, *column]) for column in zip((none, none), *walking.invalid, strict=True))
    order = np.argsort(address, kind="stable")
    unknown = union(*(Intervals(*part) for part in walking.unknown))
    above = [np.concatenate([none, *column]) for column in zip((none,) * 3, *walking.paged, strict=True)]
    paged = PagedTables(above[0], above[1], above[2].astype(np.int64))
    return pages, Invalid(address[order], word[order], unknown, paged, walking.cut)


@past_unreadable
def invalid_words(memory: PhysicalMemory, table: AddressTable, start: int, end: int, limit: int) -> U64:
    """Return the entries of Windows that hold no frame (uint64) in order of addresses, those in transition too.

    What the others lead to is not looked up. Raises LimitError.
    """
    walking = _Walk(memory, table, start, end)
    walking.invalid, walking.only_invalid = [], True
    walking.most_invalid = limit // PAGE
    walking.look(limit)
    none = np.zeros(0, np.uint64)
    address, words = (np.concatenate([none, *column]) for column in zip((none, none), *walking.invalid, strict=True))
    return words[np.argsort(address, kind="stable")]


class _Entries(NamedTuple):
    """The entries of a batch of tables that count: `row` of the batch, `column` of the table, what they lead to."""

    row: I64
    column: U64
    physical: U64
    flags: U8
    leaf: Bools


class _Walk:
    def __init__(self, memory: PhysicalMemory, table: AddressTable, start: int, end: int) -> None:
        self.memory = memory
        self.table = table
        self.mode = table.mode
        self.first, self.last = start, end - 1
        self.format = Arm64Entries(table) if self.mode.split else X86Entries(table, memory)
        self.absent = AbsentEntries(self.format.layouts, table.absent)
        #: entries that are not present, if they are wanted: address, size, word; and how many at most
        self.kept: list[tuple[U64, U64, U64]] | None = None
        self.most = 0
        #: entries of Windows that hold no frame, if wanted: address, word; at most so many; whether there were more
        self.invalid: list[tuple[U64, U64]] | None = None
        #: whether no pages are wanted, but also entries in transition
        self.only_invalid = False
        self.most_invalid = self.left_invalid = 0
        self.cut = False
        #: what is below tables that cannot be read: first addresses and sizes
        self.unknown: list[tuple[U64, U64]] = []
        #: entries for those of them that are paged out: address, word, level
        self.paged: list[tuple[U64, U64, U64]] = []
        self.batch = max(_BATCH // self.mode.page, 1)
        self.claiming = False
        self.counts: dict[str, int] = {}
        self.found: list[tuple[U64, U64, U64, U8]] = []
        # of each level: where tables that are shared were walked, by their frames, and what repeats them
        self.walked: list[dict[int, int]] = [{} for _ in self.mode.levels]
        self.again: list[list[tuple[U64, U64]]] = [[] for _ in self.mode.levels]

    def run(self, limit: int) -> Pages:
        """Return every page. Raises LimitError."""
        self.look(limit)
        return self._pages()

    def look(self, limit: int) -> None:
        """Look at every table. Raises LimitError."""
        # what is asked for may be small enough by itself
        small = self.last - self.first < min(limit, default_limit(self.memory))
        if small:
            self._visit(small=True)
        elif not self._visit(small=False, most=min(limit, _FEW * self.mode.page), size=limit):
            size, tables = self.claim()
            if max(size, tables * self.mode.page) > limit:
                raise LimitError(
                    f"the page tables at 0x{self.table.root:x} are said to map {size} bytes of virtual memory with "
                    f"{tables} tables, more than {limit}: they are damaged or made to deceive",
                    size,
                    remedy="if they are neither, a larger {limit:SIZE} walks them",
                )
            self._visit(small=False)

    def _begin(self) -> None:
        """Forget what was found."""
        self.counts = dict.fromkeys(_KINDS[self.table.system], 0)
        self.absent = AbsentEntries(self.format.layouts, self.table.absent)
        self.found.clear()
        self.kept = None if self.kept is None else []
        self.invalid = None if self.invalid is None else []
        self.unknown, self.paged, self.cut, self.left_invalid = [], [], False, self.most_invalid
        self.walked = [{} for _ in self.mode.levels]
        self.again = [[] for _ in self.mode.levels]

    def _visit(self, *, small: bool, most: float = math.inf, size: float = math.inf) -> bool:
        """Look at every table once, and note what it leads to; False as soon as it is too much.

        That is if the tables have more than `most` bytes together, or map more than `size`. Most processes have few
        tables, and for them that takes half the time of counting before (`claim`).
        """
        self._begin()
        levels = self.mode.levels
        start, frames, flags = self._root()
        todo = [(0, start, frames, flags)] if len(start) else []
        visited = mapped = 0
        while todo:
            depth, start, frames, flags = todo.pop()
            if len(start) > self.batch:
                todo.append((depth, start[self.batch :], frames[self.batch :], flags[self.batch :]))
            start, frames, flags = start[: self.batch], frames[: self.batch], flags[: self.batch]
            visited += len(frames) * self.mode.page
            if visited > most:
                return False
            entries = self._entries(depth, start, frames, flags)
            mapped += int(np.count_nonzero(entries.leaf)) << levels[depth].shift
            if mapped > size:
                return False
            self._count_lost(depth, start, frames)
            address = self._address(start, entries, levels[depth].shift)
            many = np.zeros(len(address), np.bool_)
            if not small:
                many = _many(entries, ~entries.leaf & (address >= np.uint64(self.table.kernel_half)))
            if depth and not (keep := self._asked_for(address, levels[depth].shift)).all():
                entries = _Entries._make(column[keep] for column in entries)
                address, many = address[keep], many[keep]
            leaf, below = entries.leaf, ~entries.leaf
            if leaf.any() and not self.only_invalid:
                sizes = np.full(int(leaf.sum()), 1 << levels[depth].shift, np.uint64)
                self.found.append(_joined(address[leaf], sizes, entries.physical[leaf], entries.flags[leaf]))
            if below.any():
                inside = self.memory.holds_tables(entries.physical, self.mode.page, self.mode.entry) & below
                self._count("lost_tables", int((below & ~inside).sum()))
                self._note_unknown(address[below & ~inside], levels[depth].shift)
                repeated = self._repeated(depth, address, entries.physical, inside & many)
                visited += int(np.count_nonzero(repeated)) * self.mode.page
                inside &= ~repeated
                todo.append((depth + 1, address[inside], entries.physical[inside], entries.flags[inside]))
        return visited <= most

    def _repeated(self, depth: int, address: U64, frames: U64, shared: Bools) -> Bools:
        """Return which of the entries of a level lead to `shared` tables that are walked at another address; note it.

        Batches come in order of addresses within a level, so that what is walked lies at the lowest address. What
        reaches beyond the range asked for is walked as far as it lies in it, and repeats nothing.
        """
        repeated = np.zeros(len(address), np.bool_)
        end = np.uint64((1 << self.mode.levels[depth].shift) - 1)
        last = np.uint64(min(self.last, TOP - 1))
        rows = np.flatnonzero(shared & (address >= np.uint64(self.first)) & (address + end <= last))
        if len(rows):
            unique, first, inverse = np.unique(frames[rows], return_index=True, return_inverse=True)
            walked = self.walked[depth]
            lowest = zip(unique.tolist(), address[rows[first]].tolist(), strict=True)
            target = np.array([walked.setdefault(frame, at) for frame, at in lowest], np.uint64)[inverse]
            repeat = target != address[rows]
            self.again[depth].append((address[rows[repeat]], target[repeat]))
            repeated[rows[repeat]] = True
        return repeated

    def claim(self, most: float = math.inf) -> tuple[int, int]:
        """Return the bytes that the tables are said to map, and how many tables a walk visits; at least `most` of them.

        Each table is read once for each level at which it stands, however often it is pointed to: how many ways lead to
        it is counted on the way down. If many share it in the kernel half, one way counts, and a repeat counts
        like a table.
        """
        self.claiming = True
        start, frames, flags = self._root()
        size = visits = 0.0
        ways, kernel = np.ones(len(frames), np.float64), np.zeros(len(frames), np.bool_)
        for depth, level in enumerate(self.mode.levels):
            if not len(frames):
                break
            if max(size, (visits + float(ways.sum())) * self.mode.page) > most:
                self.claiming = False
                return int(max(size, (visits + float(ways.sum())) * self.mode.page)), int(visits)
            below, shared = [], [np.zeros(0, np.uint64)]
            visits += float(ways.sum())
            for part in range(0, len(frames), self.batch):
                here = slice(part, part + self.batch)
                entries = self._entries(depth, start, frames[here], flags[: len(frames[here])])
                weight, upper = ways[here][entries.row], kernel[here][entries.row]
                if not depth:
                    address = self._address(start, entries, level.shift)
                    upper = address >= np.uint64(self.table.kernel_half)
                size += float(weight[entries.leaf].sum()) * (1 << level.shift)
                inside = ~entries.leaf
                inside[inside] = self.memory.holds_tables(entries.physical[inside], self.mode.page, self.mode.entry)
                many = _many(entries, ~entries.leaf & upper) & inside
                visits += float(weight[many].sum())
                shared.append(distinct(entries.physical[many]))
                inside &= ~many
                below.append(_merged(_Tables(entries.physical[inside], weight[inside], upper[inside])))
            once = distinct(np.concatenate(shared))
            visits -= len(once)  # these are counted when they are read
            below.append(_Tables(once, np.ones(len(once), np.float64), np.ones(len(once), np.bool_)))
            frames, ways, kernel = _merged(_Tables(*map(np.concatenate, zip(*below, strict=True))))
            flags = np.zeros(self.batch, np.uint8)
        self.claiming = False
        return int(size), int(visits)

    def _root(self) -> tuple[U64, U64, U8]:
        """Return of each root that is in the image the first address it translates, where it lies, what it allows."""
        roots = np.array(self.table.roots(), np.uint64).reshape(-1, 2)
        held = self.memory.holds_tables(roots[:, 0], self.mode.root_size, self.mode.entry)
        self._count("lost_tables", int((~held).sum()))
        return roots[held, 1], roots[held, 0], np.full(int(held.sum()), self.format.everything, np.uint8)

    def _words(self, depth: int, start: U64, frames: U64) -> U64:
        """Return the entries of tables as uint64, a row a table: all of them, or of a root those in the range."""
        if depth == 0:
            words = np.stack([self._pieces(frame, self.mode.root_size)[0] for frame in frames.tolist()])
            shift = np.uint64(self.mode.levels[0].shift)
            begin = start[:, None] + (np.arange(self.mode.top, dtype=np.uint64) << shift)
            if self.mode.wide and not self.mode.split:
                begin[:, self.mode.top // 2 :] |= np.uint64(TOP - (1 << self.mode.bits))
            last = begin + np.uint64((1 << int(shift)) - 1)
            words[(begin > np.uint64(self.last)) | (last < np.uint64(self.first))] = 0
            if self.table.isolated:
                words[:, : self.mode.top // 2] &= ~NO_EXECUTE
        elif self.mode.page == PAGE:
            words = self.memory.pages(frames)
            words = words if self.mode.entry == 8 else words.view(np.uint32).astype(np.uint64)  # noqa: PLR2004
        else:
            pages = pages_of_tables(frames, self.mode.page)
            there = self.memory.holds(pages, PAGE) | self.memory.on_seam(pages)
            words = np.zeros((len(pages), PAGE // 8), np.uint64)
            words[there] = self.memory.pages(pages[there])
            words = words.reshape(len(frames), self.mode.page // 8)
        for row, _, there in self._in_part(depth, frames):
            words[row, ~there.all(axis=1)] = 0
        return words

    def _in_part(self, depth: int, frames: U64) -> Iterator[tuple[int, U64, Bools]]:
        """Yield the row of each table that the image holds in part, its entries, and which bytes of them are there."""
        size = self.mode.page if depth else self.mode.root_size
        parted = ~self.memory.holds(frames, size) if size > PAGE else self.memory.on_seam(frames)
        for row in np.flatnonzero(parted).tolist():
            yield row, *self._pieces(int(frames[row]), size)

    def _pieces(self, table: int, size: int) -> tuple[U64, Bools]:
        """Return the entries of a table, and which of their bytes are there (bool, a row an entry); others are 0.

        It lies within a page or begins one.
        """
        data = b""
        there: list[Bools] = []
        for at in range(table, table + size, PAGE):
            where, length = np.array([at], np.uint64), min(PAGE, size)
            if self.memory.on_seam(where)[0]:
                piece, known = self.memory.part(at, length)
            else:
                piece, known = self.memory.peek(at, length), np.full(length, self.memory.holds(where, length)[0])
            data, there = data + piece, [*there, known]
        width = self.mode.entry
        return np.frombuffer(data, f"<u{width}").astype(np.uint64), np.concatenate(there).reshape(-1, width)

    def _entries(self, depth: int, start: U64, frames: U64, flags: U8) -> _Entries:
        """Read tables and return what counts in them; the rest is counted by kind, but not while it is only claimed.

        `start` is the first address that each table translates; of a claim only those of roots.
        """
        words = self._words(depth, start, frames)
        self._count("tables", len(words))
        present, moved = self.format.present(words, depth), self.format.moved(words, depth)
        counted = present | moved
        row, column = np.nonzero(counted)
        word = words[row, column]
        here = present[row, column]
        leaf = self.format.leaf(word, here, depth)
        if not self.claiming:
            self._count_absent(depth, start, words, counted)
        if self.only_invalid and leaf.all():
            none = np.zeros(len(row), np.uint8)
            return _Entries(row, column.astype(np.uint64), none.astype(np.uint64), none, leaf)
        physical = self.format.physical(word, here, leaf, depth)
        combined = self.format.permissions(word, here, leaf, flags[row], depth)
        return _Entries(row, column.astype(np.uint64), physical, combined, leaf)

    def _address(self, start: U64, entries: _Entries, shift: int) -> U64:
        address = start[entries.row] + (entries.column << np.uint64(shift))
        if self.mode.wide and not self.mode.split and shift == self.mode.levels[0].shift:
            above = np.uint64(TOP - (1 << self.mode.bits))
            address |= (address >> np.uint64(self.mode.bits - 1)) * above
        return address

    def _asked_for(self, address: U64, shift: int) -> Bools:
        """Return which entries map any of the range; the root's others were left out when it was read."""
        keep: Bools = address + np.uint64((1 << shift) - 1) >= np.uint64(self.first)
        keep &= address <= np.uint64(min(self.last, TOP - 1))
        return keep

    def _count_lost(self, depth: int, start: U64, frames: U64) -> None:
        """Count the entries that the image does not hold whole, of those whose place is in the range.

        If the first two bytes of one are there and say that it holds no page, the others do not matter.
        """
        shift = self.mode.levels[depth].shift
        for row, words, there in self._in_part(depth, frames):
            held = self.format.may_hold(words, depth)
            column = np.flatnonzero(~there.all(axis=1) & (held | ~there[:, :2].all(axis=1))).astype(np.uint64)
            none = np.zeros(len(column), np.uint8)
            entries = _Entries(np.full(len(column), row), column, column, none, none.astype(np.bool_))
            asked = self._asked_for(self._address(start, entries, shift), shift)
            self._count("lost_entries", int(np.count_nonzero(asked)))
            partial = np.flatnonzero(~there.all(axis=1)).astype(np.uint64)
            self._note_unknown(start[row] + (partial << np.uint64(shift)), shift)

    def _count(self, kind: str, count: int) -> None:
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count

    def _count_absent(self, depth: int, start: U64, words: U64, counted: Bools) -> None:
        """Count the entries that hold no frame, by what they mean to the operating system."""
        level, last = self.mode.levels[depth], depth == len(self.mode.levels) - 1
        pages = (1 << level.shift) // PAGE
        if self.table.system == LINUX:
            if last or level.large:
                self._count_linux(depth, start, words, self.format.absent(words) & ~counted)
            return
        others = (words != 0) & ~counted
        if self.invalid is not None:
            kept = (words != 0) & ~self.format.present(words, depth) if self.only_invalid and last else others
            self._keep_invalid(depth, start, words, kept)
        rest = words[others]
        if not len(rest):
            return
        if not last:
            if self.table.system == WINDOWS:
                self._count("paged_tables", len(rest))
        elif self.table.system == WINDOWS:
            prototype = (rest & np.uint64(0x400)) != 0
            # the upper half (from bit 12 on of a 32-bit entry) is where in the pagefile the page lies
            paged = ~prototype & (rest >> np.uint64(32 if self.mode.entry == 8 else 12) != 0)  # noqa: PLR2004
            if self.mode.entry == 8:  # noqa: PLR2004
                paged &= ~_only_masked(rest, self.format.possible)
            self._count("prototype", pages * int(prototype.sum()))
            self._count("pagefile", pages * int(paged.sum()))
            self._count("demand_zero", pages * int((~prototype & ~paged).sum()))
        else:
            self._count("not_present", pages * len(rest))

    def _note_unknown(self, address: U64, shift: int) -> None:
        """Note that nothing is known of what entries map."""
        if self.invalid is not None and len(address):
            self.unknown.append((address, np.full(len(address), 1 << shift, np.uint64)))

    def _keep_invalid(self, depth: int, start: U64, words: U64, chosen: Bools) -> None:
        """Note entries that hold no frame: of the lowest level what they say, above that there is a table unknown."""
        shift = self.mode.levels[depth].shift
        row, column = np.nonzero(chosen)
        none = np.zeros(len(row), np.uint8)
        entries = _Entries(row, column.astype(np.uint64), none.astype(np.uint64), none, none.astype(np.bool_))
        address = self._address(start, entries, shift)
        asked = self._asked_for(address, shift)
        if depth < len(self.mode.levels) - 1:
            self._note_unknown(address[asked], shift)
            self.paged.append((address[asked], words[row, column][asked], np.full(int(asked.sum()), depth, np.uint64)))
        elif self.invalid is not None and not self.cut:
            self.left_invalid -= int(asked.sum())
            self.cut = self.left_invalid < 0
            if self.cut:
                self.invalid.clear()
            else:
                self.invalid.append((address[asked], words[row, column][asked]))

    def _count_linux(self, depth: int, start: U64, words: U64, chosen: Bools) -> None:
        """Count what Linux keeps in entries that are not present, and note them if they are wanted."""
        shift = self.mode.levels[depth].shift
        row, column = np.nonzero(chosen)
        if not len(row):
            return
        word = words[row, column]
        self.absent.add(word, (1 << shift) // PAGE)
        if self.kept is None:
            return
        none = np.zeros(len(row), np.uint8)
        address = self._address(
            start, _Entries(row, column.astype(np.uint64), word, none, none.astype(np.bool_)), shift
        )
        asked = self._asked_for(address, shift)
        self.most -= int(asked.sum())
        if self.most < 0:
            raise LimitError(
                f"the page tables at 0x{self.table.root:x} hold more entries that are not present than the limit has "
                "pages: they are damaged or made to deceive",
                len(word),
                remedy="if they are neither, a larger {limit:SIZE} reads them",
            )
        self.kept.append((address[asked], np.full(int(asked.sum()), 1 << shift, np.uint64), word[asked]))

    def _pages(self) -> Pages:
        """Sort and join what was found, and look up where in the image it lies."""
        if self.found:
            start, size, physical, flags = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
            self.found.clear()
            order = np.argsort(start, kind="stable")
            start, size, physical, flags = _joined(start[order], size[order], physical[order], flags[order])
        else:
            start = size = physical = np.zeros(0, np.uint64)
            flags = np.zeros(0, np.uint8)
        placed, outside = [], []
        for part in [*chunks(len(start), _PLACED)] or [slice(0)]:
            inside, lacking = self.memory.place(start[part], size[part], physical[part], flags[part])
            placed.append(inside)
            outside.append(lacking)
        for kind, chosen in (("transition", TRANSITION), ("prot_none", PROT_NONE), ("present", 0)):
            pages = sum(int(part.size[(part.flags & (TRANSITION | PROT_NONE)) == chosen].sum()) for part in placed)
            self._count(kind, pages // PAGE)
        self._count("outside", sum(int(part.size.sum()) for part in outside) // PAGE)
        for kind, pages in self.absent.counts().items():
            self._count(kind, pages)
        return Pages(
            Placed(*map(np.concatenate, zip(*(each.columns for each in placed), strict=True))),
            Mapped(
                *map(np.concatenate, zip(*((each.start, each.size, each.physical) for each in outside), strict=True))
            ),
            dict(self.counts),
            self._repeats(),
        )

    def _repeats(self) -> Repeats:
        rows = [np.zeros((3, 0), np.uint64)]
        for level, found in zip(self.mode.levels, self.again, strict=True):
            rows += [np.stack([start, np.full_like(start, 1 << level.shift), target]) for start, target in found]
        start, size, target = np.concatenate(rows, axis=1)
        order = np.argsort(start)
        return Repeats(start[order], size[order], target[order])


class _Tables(NamedTuple):
    """Tables by their frames (uint64), how many ways lead to each (float64), and whether it is in the kernel half."""

    frames: U64
    ways: F64
    kernel: Bools


def _merged(tables: _Tables) -> _Tables:
    """Return each table once, with the sum of the ways that lead to it."""
    unique, inverse = np.unique(tables.frames | tables.kernel, return_inverse=True)  # a table lies at a whole page
    ways = np.bincount(inverse, tables.ways, len(unique)).astype(np.float64)
    return _Tables(unique & ~np.uint64(1), ways, (unique & np.uint64(1)) != 0)


def _only_masked(words: U64, possible: np.uint64) -> Bools:
    """Return which entries have only the mask in their upper half that Windows puts on what is not present.

    SwizzleBit (bit 4) is clear if it is there. It is one run of bits, none of them in `possible` (those that a
    physical address may have); a place in a pagefile looks like that once in thousands.
    """
    upper = words & np.uint64(TOP - (1 << 32))
    lowest = upper & (~upper + np.uint64(1))
    run = (upper & (upper + lowest)) == 0
    return np.asarray(run & (lowest > possible) & ((words & np.uint64(0x10)) == 0))


def _many(entries: _Entries, tables: Bools) -> Bools:
    """Return which entries for `tables` are among many in one directory that lead to the same table."""
    found = np.zeros(len(tables), np.bool_)
    rows = np.flatnonzero(tables)
    if len(rows) < _SHARED:
        return found
    order = rows[np.lexsort((entries.physical[rows], entries.row[rows]))]
    row, frames = entries.row[order], entries.physical[order]
    first = np.flatnonzero(np.append([True], (row[1:] != row[:-1]) | (frames[1:] != frames[:-1])))
    count = np.diff(np.append(first, len(order)))
    found[order] = np.repeat(count >= _SHARED, count)
    return found


def _joined(start: U64, size: U64, physical: U64, flags: U8) -> tuple[U64, U64, U64, U8]:
    """Join neighbouring rows that continue each other in virtual and in physical memory with the same flags."""
    first = breaks(size, start, physical)
    first[1:] |= flags[1:] != flags[:-1]
    index = np.flatnonzero(first)
    return start[index], np.add.reduceat(size, index), physical[index], flags[index]
