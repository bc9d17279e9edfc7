"""Page tables of x86 processors, walked as arrays.

Sources: Intel SDM volume 3, chapter 4; AMD APM volume 2, chapter 5. What an entry that is not present means is the
operating system's business (`Rules`). A page table is a row of an array; a batch of them is looked at in one go, and
batches go depth first, so that memory stays bounded however many tables there are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging_modes import FRAME, LINUX, NO_SYSTEM, PAE, PRESENT, WINDOWS, AddressTable, Level
from memcarve.images.physical import Mapped, PhysicalMemory, Placed, past_unreadable
from memcarve.intervals import PAGE, TOP, breaks, chunks
from memcarve.permissions import EXECUTE, PROT_NONE, TRANSITION, USER, WRITE
from memcarve.space import AddressSpace, Repeats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import F64, I64, U8, U64, Bools
    from memcarve.missing import Missing, MissingMemory


_RW, _US, _LARGE = (np.uint64(1 << bit) for bit in (1, 2, 7))
_NO_EXECUTE = np.uint64(1 << 63)

_BATCH = 1024  # tables looked at in one go: 4 MiB
_PLACED = 1 << 18  # stretches looked up in the image in one go
_SHARED = 16  # entries of a directory that lead to one table: no system maps one thing that often for its own sake
_NO_PHYSICAL = 40  # no bit from here on is dropped from a frame unless the image is larger: processors have 36 or more


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
    ``prototype``, ``swapped``, ``not_present``; ``tables``: page tables read, ``lost_tables``: those outside the image,
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
        # bits that no physical address of the image can have: frames of pages in transition carry a mask up there
        bits = max((memory.end - 1).bit_length(), _NO_PHYSICAL)
        self.possible = np.uint64((1 << min(bits, 52)) - PAGE)
        self.counts: dict[str, int] = {}
        self.found: list[tuple[U64, U64, U64, U8]] = []
        # of each level: where tables that are shared were walked, by their frames, and what repeats them
        self.walked: list[dict[int, int]] = [{} for _ in self.mode.levels]
        self.again: list[list[tuple[U64, U64]]] = [[] for _ in self.mode.levels]

    def run(self, limit: int) -> Pages:
        # what is asked for may be small enough by itself
        small = self.last - self.first < min(limit, default_limit(self.memory))
        size, tables = (0, 0) if small else self.claim()
        if max(size, tables * PAGE) > limit:
            raise LimitError(
                f"the page tables at 0x{self.table.root:x} are said to map {size} bytes of virtual memory with "
                f"{tables} tables, more than {limit}: they are damaged or made to deceive",
                size,
                remedy="if they are neither, a larger {limit:SIZE} walks them",
            )
        self.counts = dict.fromkeys(_KINDS[self.table.system], 0)
        levels = self.mode.levels
        start, frames, flags = self._root()
        todo = [(0, start, frames, flags)] if len(start) else []
        while todo:
            depth, start, frames, flags = todo.pop()
            if len(start) > _BATCH:
                todo.append((depth, start[_BATCH:], frames[_BATCH:], flags[_BATCH:]))
            start, frames, flags = start[:_BATCH], frames[:_BATCH], flags[:_BATCH]
            entries = self._entries(depth, frames, flags)
            self._count_lost(depth, start, frames)
            address = self._address(start, entries, levels[depth].shift)
            many = np.zeros(len(address), np.bool_)
            if not small:
                many = _many(entries, ~entries.leaf & (address >= np.uint64(self.table.kernel_half)))
            if depth and not (keep := self._asked_for(address, levels[depth].shift)).all():
                entries = _Entries._make(column[keep] for column in entries)
                address, many = address[keep], many[keep]
            leaf, below = entries.leaf, ~entries.leaf
            if leaf.any():
                sizes = np.full(int(leaf.sum()), 1 << levels[depth].shift, np.uint64)
                self.found.append(_joined(address[leaf], sizes, entries.physical[leaf], entries.flags[leaf]))
            if below.any():
                inside = self.memory.holds_tables(entries.physical, PAGE, self.mode.entry) & below
                self._count("lost_tables", int((below & ~inside).sum()))
                inside &= ~self._repeated(depth, address, entries.physical, inside & many)
                todo.append((depth + 1, address[inside], entries.physical[inside], entries.flags[inside]))
        return self._pages()

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
        _, frames, flags = self._root()
        size = visits = 0.0
        ways, kernel = np.ones(len(frames), np.float64), np.zeros(len(frames), np.bool_)
        for depth, level in enumerate(self.mode.levels):
            if not len(frames):
                break
            if max(size, (visits + float(ways.sum())) * PAGE) > most:
                return int(max(size, (visits + float(ways.sum())) * PAGE)), int(visits)
            below, shared = [], [np.zeros(0, np.uint64)]
            visits += float(ways.sum())
            for part in range(0, len(frames), _BATCH):
                here = slice(part, part + _BATCH)
                entries = self._entries(depth, frames[here], flags[: len(frames[here])])
                weight, upper = ways[here][entries.row], kernel[here][entries.row]
                if not depth:
                    address = self._address(np.zeros(1, np.uint64), entries, level.shift)
                    upper = address >= np.uint64(self.table.kernel_half)
                size += float(weight[entries.leaf].sum()) * (1 << level.shift)
                inside = ~entries.leaf
                inside[inside] = self.memory.holds_tables(entries.physical[inside], PAGE, self.mode.entry)
                many = _many(entries, ~entries.leaf & upper) & inside
                visits += float(weight[many].sum())
                shared.append(np.unique(entries.physical[many]))
                inside &= ~many
                below.append(_merged(_Tables(entries.physical[inside], weight[inside], upper[inside])))
            once = np.unique(np.concatenate(shared))
            visits -= len(once)  # these are counted when they are read
            below.append(_Tables(once, np.ones(len(once), np.float64), np.ones(len(once), np.bool_)))
            frames, ways, kernel = _merged(_Tables(*map(np.concatenate, zip(*below, strict=True))))
            flags = np.zeros(_BATCH, np.uint8)
        return int(size), int(visits)

    def _root(self) -> tuple[U64, U64, U8]:
        root = np.array([self.table.root], np.uint64)
        length = self.mode.entry * self.mode.top
        if not self.memory.holds_tables(root, length, self.mode.entry)[0]:
            self._count("lost_tables", 1)
            empty = np.zeros(0, np.uint64)
            return empty, empty, np.zeros(0, np.uint8)
        return np.zeros(1, np.uint64), root, np.full(1, USER | WRITE | EXECUTE, np.uint8)

    def _words(self, depth: int, frames: U64) -> U64:
        """Return the entries of tables as uint64, shape (n, 512), (n, 1024) or (n, 4)."""
        if depth == 0:
            raw = self.memory.peek(int(frames[0]), self.mode.entry * self.mode.top)
            words = np.frombuffer(raw, f"<u{self.mode.entry}").astype(np.uint64)[None, :]
            shift = np.uint64(self.mode.levels[0].shift)
            begin = np.arange(self.mode.top, dtype=np.uint64) << shift
            if self.mode.wide:
                begin[self.mode.top // 2 :] |= np.uint64(TOP - (1 << self.mode.bits))
            last = begin + np.uint64((1 << int(shift)) - 1)
            words[0, (begin > np.uint64(self.last)) | (last < np.uint64(self.first))] = 0
        else:
            words = self.memory.pages(frames)
            words = words if self.mode.entry == 8 else words.view(np.uint32).astype(np.uint64)  # noqa: PLR2004
        for row, _, there in self._in_part(depth, frames):
            words[row, ~there.all(axis=1)] = 0
        return words

    def _in_part(self, depth: int, frames: U64) -> Iterator[tuple[int, U64, Bools]]:
        """Yield the row of each table that the image holds in part, its entries, and which bytes of them are there."""
        width = self.mode.entry
        size = PAGE if depth else width * self.mode.top
        for row in np.flatnonzero(self.memory.on_seam(frames)).tolist():
            data, there = self.memory.part(int(frames[row]), size)
            yield row, np.frombuffer(data, f"<u{width}").astype(np.uint64), there.reshape(-1, width)

    def _entries(self, depth: int, frames: U64, flags: U8) -> _Entries:
        """Read tables and return what counts in them; the rest is counted by kind."""
        level, last = self.mode.levels[depth], depth == len(self.mode.levels) - 1
        words = self._words(depth, frames)
        self._count("tables", len(words))
        present = (words & PRESENT).astype(np.bool_)
        moved = self._not_present(words, level)
        row, column = np.nonzero(present | moved)
        word = words[row, column]
        here = present[row, column]
        large = here & ((word & _LARGE) != 0) if level.large else np.zeros(len(word), np.bool_)
        if self.table.system == LINUX and not last:
            large |= ~here  # a whole large page that may not be touched: nothing else that is not present counts there
        leaf = np.ones(len(word), np.bool_) if last else large
        physical = self._frame(word, here, large, level)
        combined = self._permissions(word, here, flags[row], depth)
        if last:
            self._count_absent(words, present | moved)
        elif self.table.system == WINDOWS:
            lost = (words != 0) & ~(present | moved)
            self._count("paged_tables", int(np.count_nonzero(lost)))
        return _Entries(row, column.astype(np.uint64), physical, combined, leaf)

    def _not_present(self, words: U64, level: Level) -> Bools:
        """Return which entries without the present bit still hold a frame."""
        if self.table.system == WINDOWS:  # transition: bit 11 without bit 10
            return np.asarray((words & np.uint64(0xC01)) == np.uint64(0x800))
        if self.table.system == LINUX:  # PROT_NONE: bit 8; a swap entry has it clear
            if level.shift == 12:  # noqa: PLR2004
                return np.asarray((words & np.uint64(0x101)) == np.uint64(0x100))
            if level.large:
                return np.asarray((words & np.uint64(0x181)) == np.uint64(0x180))
        return np.zeros(words.shape, np.bool_)

    def _frame(self, word: U64, here: Bools, large: Bools, level: Level) -> U64:
        """Return the physical addresses that entries hold."""
        if self.mode.entry == 4:  # noqa: PLR2004
            frame = word & np.uint64(0xFFFFF000)
            high = (word >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)  # PSE-36
            physical = np.where(large, (word & np.uint64(0xFFC00000)) | high, frame)
        else:
            size = np.uint64((1 << level.shift) - 1)
            physical = word & np.where(large, FRAME & ~size, FRAME)
        if here.all():
            return physical
        if self.table.system == LINUX and self.mode.entry == 4:  # noqa: PLR2004
            return physical
        if self.table.system == LINUX:
            # since the fixes of 2018 the frame of an entry that is not present is inverted
            aligned = np.uint64((1 << 52) - (1 << level.shift))
            inverted = ~word & aligned
            plain = self.memory.holds(physical, PAGE) & ~self.memory.holds(inverted, PAGE)
            return np.where(here | plain, physical, inverted)
        swizzled = (word & np.uint64(0x10)) == 0  # the mask was applied
        return np.where(~here & swizzled, physical & self.possible, physical)

    def _permissions(self, word: U64, here: Bools, above: U8, depth: int) -> U8:
        """Combine the entries' permissions with those of the levels above."""
        if self.mode is PAE and depth == 0:
            own = np.full(len(word), USER | WRITE | EXECUTE, np.uint8)
        else:
            own = ((word & _US) != 0).astype(np.uint8) * np.uint8(USER)
            own |= ((word & _RW) != 0).astype(np.uint8) * np.uint8(WRITE)
            own |= ((word & _NO_EXECUTE) == 0).astype(np.uint8) * np.uint8(EXECUTE)
        moved = np.uint8(TRANSITION if self.table.system == WINDOWS else PROT_NONE)
        # the processor sees nothing below an entry that is not present: no permissions, at no level
        combined = np.where(above >= TRANSITION, above, above & own)
        return np.where(here, combined, moved)

    def _address(self, start: U64, entries: _Entries, shift: int) -> U64:
        address = start[entries.row] + (entries.column << np.uint64(shift))
        if self.mode.wide and shift == self.mode.levels[0].shift:
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
        level = self.mode.levels[depth]
        shift = level.shift
        for row, words, there in self._in_part(depth, frames):
            held = ((words & PRESENT) != 0) | self._not_present(words, level)
            column = np.flatnonzero(~there.all(axis=1) & (held | ~there[:, :2].all(axis=1))).astype(np.uint64)
            none = np.zeros(len(column), np.uint8)
            entries = _Entries(np.full(len(column), row), column, column, none, none.astype(np.bool_))
            asked = self._asked_for(self._address(start, entries, shift), shift)
            self._count("lost_entries", int(np.count_nonzero(asked)))

    def _count(self, kind: str, count: int) -> None:
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count

    def _count_absent(self, words: U64, counted: Bools) -> None:
        """Count the entries for 4 KiB pages that are not in memory, by what they mean to the operating system."""
        rest = words[(words != 0) & ~counted]
        if not len(rest):
            return
        if self.table.system == WINDOWS:
            prototype = (rest & np.uint64(0x400)) != 0
            # the upper half (from bit 12 on of a 32-bit entry) is where in the pagefile the page lies
            paged = ~prototype & (rest >> np.uint64(32 if self.mode.entry == 8 else 12) != 0)  # noqa: PLR2004
            if self.mode.entry == 8:  # noqa: PLR2004
                paged &= ~_only_masked(rest, self.possible)
            self._count("prototype", int(prototype.sum()))
            self._count("pagefile", int(paged.sum()))
            self._count("demand_zero", int((~prototype & ~paged).sum()))
        else:
            self._count("swapped" if self.table.system == LINUX else "not_present", len(rest))

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
