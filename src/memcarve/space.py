"""A sparse address space: extents in columns over a backing, and the contiguous segments that they form.

All of it is arithmetic on columns (`intervals`); only the backing touches files.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from memcarve.backing import fetch_ahead, is_costly, may_have_holes, next_written, read_pieces
from memcarve.errors import AddressError, UnreadableError
from memcarve.intervals import (
    CHUNK,
    TOP,
    Intervals,
    breaks,
    by_start,
    check_disjoint,
    distinct,
    joined,
    overlap,
    range_at,
    total,
    union,
)
from memcarve.missing import CUT_OFF, IMAGE_CUT_OFF, REASONS, UNREADABLE, Missing, MissingMemory
from memcarve.segments import Segments
from memcarve.unreadable import SECTOR, unreadable as unreadable_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.backing import Backing
    from memcarve.dtypes import U8, U64
    from memcarve.searching.engines import Pattern
    from memcarve.segments import Segment


_BLOCK = 1 << 20  # bytes read in one go while searching
_HOLE = 1 << 16  # holes of sparse files that are larger are passed over
_PIECES = 1 << 14  # extents looked at in one go


#: from here on a "physical address" is none: the bytes lie elsewhere
NOT_PHYSICAL = 1 << 63


class Extent(NamedTuple):
    """`size` bytes at the virtual address `start`, stored at `offset` in the backing."""

    start: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size


class Repeats(Intervals):
    """Address ranges that map page tables again which were walked before: `start`, `size` and `target` (uint64).

    The `size` bytes at `start` are those at `target`, which is lower.
    """

    def __init__(self, start: U64, size: U64, target: U64) -> None:
        super().__init__(start, size)
        self.target = target


class Hit(NamedTuple):
    """A match of the pattern with index `pattern` at `address`, which is at `offset` in the backing; `size` bytes."""

    address: int
    pattern: int
    offset: int
    segment: Segment
    size: int


class AddressSpace(Intervals):
    """Sorted, non-overlapping extents over a backing, and the ranges that are mapped but missing.

    Columns, all uint64, one row per extent: `start`, `size`, `offset`. `missing` has columns of its own, and yields
    Missing. `repeats` can be read, but are not in any extent or segment. `absent` is the reason why other addresses
    cannot be read, and `elsewhere` are those of them of which more is known: the system had taken their pages out of
    memory, or not yet put them there.

    Of an image there are two more columns, which decide what is joined: `physical` (uint64), from `NOT_PHYSICAL` on if
    the bytes were not in the machine's memory, and `flags` (uint8, ``permissions.py``).
    """

    def __init__(
        self,
        start: U64,
        size: U64,
        offset: U64,
        backing: Backing,
        missing: Iterable[Missing] | MissingMemory = (),
        *,
        physical: U64 | None = None,
        flags: U8 | None = None,
        absent: str = "not in the map",
        repeats: Repeats | None = None,
        elsewhere: MissingMemory | None = None,
    ) -> None:
        """Sort, check and join the extents; the space owns the columns from then on.

        Extents that continue each other both in memory and in the backing are joined; with `physical` and `flags`, they
        must be sorted and joined already. Raises OverlapError if two extents or missing ranges share an address, and
        MapError if one ends beyond 2**64.
        """
        self.missing = missing if isinstance(missing, MissingMemory) else MissingMemory.of(missing)
        columns = (start, size, offset) if flags is not None else by_start(start, size, offset)
        check_disjoint(*columns[:2])
        start, size, self.offset = columns if flags is not None else joined(*columns)
        super().__init__(start, size)
        self.physical, self.flags = physical, flags
        self.backing = backing
        self.absent = absent
        self.repeats = repeats or Repeats(*(np.zeros(0, np.uint64),) * 3)
        self.elsewhere = elsewhere or MissingMemory.of([])
        check_disjoint(self.missing.start, self.missing.size)
        rows, end = self.touched(self.missing)
        bad = np.flatnonzero(end > rows)
        if len(bad):
            extent = range_at(start, size, int(end[bad[0]]) - 1)
            raise overlap(extent, range_at(self.missing.start, self.missing.size, int(bad[0])))

    def __repr__(self) -> str:
        where = f", 0x{int(self.start[0]):x} to 0x{range_at(self.start, self.size, -1)[1]:x}" if len(self) else ""
        return f"<AddressSpace: {len(self)} extents of {self.total} bytes{where}>"

    @functools.cached_property
    def repeated(self) -> int:
        """The number of bytes that `repeats` stand for."""
        start, size, target = self.repeats.start, self.repeats.size, self.repeats.target
        there = np.zeros(len(start), np.uint64)
        # a small repeat may lie in a larger one, and counts again with it
        for span in distinct(size).tolist():
            inner, rows = np.flatnonzero(size < np.uint64(span)), np.flatnonzero(size == np.uint64(span))
            low, last = target[rows], target[rows] + np.uint64(span - 1)
            there[rows] = self.bytes_within(low, last)
            sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(there[inner], dtype=np.uint64)])
            begins = start[inner]
            there[rows] += sums[np.searchsorted(begins, last, "right")] - sums[np.searchsorted(begins, low)]
        return total(there)

    def extents(self, segment: Segment | None = None) -> Iterator[Extent]:
        """Yield the extents in order of their addresses: all, or the parts of them that are in one segment."""
        first, end = (0, len(self)) if segment is None else (segment.first, segment.first + segment.extents)
        for low in range(first, end, CHUNK):
            part = slice(low, min(low + CHUNK, end))
            rows = map(Extent, self.start[part].tolist(), self.size[part].tolist(), self.offset[part].tolist())
            yield from rows if segment is None or segment.whole is None else (_clipped(row, segment) for row in rows)

    def segments(self) -> Segments:
        """Return the contiguous segments, in order of addresses."""
        begins = breaks(self.size, self.start)
        if begins.all():  # as in a map of scattered pages, where copies of the columns would cost the most
            one = np.broadcast_to(np.uint32(1), len(self))
            return Segments(self.start, self.size, self.offset, one, np.arange(len(self), dtype=np.uint32))
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(self)) - 1
        start = self.start[first]
        size = self.start[last] - start + self.size[last]
        extents = (last - first + 1).astype(np.uint32)
        return Segments(start, size, self.offset[first], extents, first.astype(np.uint32))

    def changes(self) -> U64:
        """Return the starts of the extents (uint64) whose flags differ from those of the extent before."""
        if self.flags is None or not len(self):
            return np.zeros(0, np.uint64)
        found: U64 = self.start[1:][self.flags[1:] != self.flags[:-1]]
        return found

    def cut(self, segments: Segments, borders: U64) -> Segments:
        """Return segments that also end at `borders`, which are addresses (uint64, in any order)."""
        borders = distinct(borders)
        holder = segments.rows_of(borders)
        inside = holder >= 0
        inside[inside] = borders[inside] != segments.start[holder[inside]]
        start: U64 = np.sort(np.concatenate([segments.start, borders[inside]]))
        parent = np.searchsorted(segments.start, start, "right") - 1
        last = segments.last[parent]
        last[:-1] = np.minimum(last[:-1], start[1:] - np.uint64(1))
        first = np.searchsorted(self.start, start, "right") - 1
        extents = np.searchsorted(self.start, last, "right") - first
        whole = segments.whole or (segments.start, segments.size)
        return Segments(
            start,
            last - start + np.uint64(1),
            self.offset[first] + (start - self.start[first]),
            extents.astype(np.uint32),
            first.astype(np.uint32),
            (whole[0][parent], whole[1][parent]),
        )

    def stored(self, segments: Segments) -> Intervals:
        """Return where in the backing the bytes of segments lie, in their order."""
        found, extent = segments.intersect(self)
        return Intervals(self.offset[extent] + (found.start - self.start[extent]), found.size)

    def without(self, bad: Intervals) -> AddressSpace:
        """Return the space without the bytes at `bad` offsets of the backing: they are missing, unreadable."""
        stored = Intervals(self.offset, self.size)
        kept, (gone, _) = stored.subtract(bad), stored.intersect(bad)
        row = kept.owner
        away = kept.start - self.offset[row]
        lost = union(Intervals(self.start[gone.owner] + (gone.start - self.offset[gone.owner]), gone.size))
        reason = np.full(len(lost), REASONS.index(UNREADABLE), np.uint8)
        start = np.concatenate([self.missing.start, lost.start])
        order = np.argsort(start, kind="stable")
        missing = MissingMemory(
            start[order],
            np.concatenate([self.missing.size, lost.size])[order],
            np.concatenate([self.missing.reason, reason])[order],
        )
        return AddressSpace(
            self.start[row] + away,
            kept.size,
            kept.start,
            self.backing,
            missing,
            physical=None if self.physical is None else self.physical[row] + away,
            flags=None if self.flags is None else self.flags[row],
            absent=self.absent,
            repeats=self.repeats,
            elsewhere=self.elsewhere,
        )

    def walked(self, address: int) -> int:
        """Return the address that `address` repeats, or `address` itself if it is not in a repeat."""
        while len(self.repeats) and 0 <= address < TOP and (row := self.repeats.at(address)) is not None:
            address += int(self.repeats.target[row]) - int(self.repeats.start[row])  # which is lower each time
        return address

    def offset_of(self, address: int) -> int:
        """Return the offset in the backing of the byte at `address`, or raise AddressError with the reason."""
        found = self.walked(address)
        try:
            index = self.index(found)
        except AddressError as error:
            raise (AddressError(address, error.reason) if found != address else error) from None
        return int(self.offset[index]) + found - int(self.start[index])

    def index(self, address: int) -> int:
        """Return the index of the extent that holds `address`, or raise AddressError with the reason."""
        if 0 <= address < TOP:
            index = self.at(address)
            if index is not None:
                return index
            gap = self.missing.at(address)
            if gap is not None:
                reason = REASONS[int(self.missing.reason[gap])]
                if reason in {CUT_OFF, IMAGE_CUT_OFF}:
                    mapped = reason == CUT_OFF and self.absent == "not in the map"
                    detail = " (the map says that it was in the dump)" if mapped else ""
                    raise AddressError(address, "the file ends too early", detail)
                raise AddressError(address, "mapped but missing", f" ({reason})")
            away = self.elsewhere.at(address)
            if away is not None:
                raise AddressError(address, self.absent, f" ({REASONS[int(self.elsewhere.reason[away])]})")
        raise AddressError(address, self.absent, self._extended(address))

    def _extended(self, address: int) -> str:
        """Return a hint if the address is there once it is extended from the 48 or 57 bits that maps print."""
        for bits in (48, 57):
            extended = address | (TOP - (1 << bits))
            if (1 << (bits - 1)) <= address < 1 << bits and self.at(extended) is not None:
                return f"; 0x{extended:x} is: maps print addresses cut to {bits} bits"
        return ""

    def locate(self, address: int) -> tuple[Segment | None, Extent]:
        """Return the segment and the extent that hold `address`, or raise AddressError.

        An address in a repeat is not in a segment; its extent is the part of the original one that is repeated.
        """
        if (found := self.walked(address)) != address:
            offset, low, end, here = self.offset_of(address), 0, TOP, address
            while (row := self.repeats.at(here)) is not None:
                start, away = int(self.repeats.start[row]), address - here
                low, end = max(low, start + away), min(end, start + away + int(self.repeats.size[row]))
                here += int(self.repeats.target[row]) - start
            begin, until = range_at(self.start, self.size, self.index(found))
            low, end = max(low, begin + address - found), min(end, until + address - found)
            return None, Extent(low, end - low, offset - (address - low))
        index = self.index(address)
        segments = self.segments()
        row = int(segments.rows_of(self.start[index : index + 1])[0])
        return segments[row], Extent(int(self.start[index]), int(self.size[index]), int(self.offset[index]))

    def addresses_of(self, offset: int) -> list[int]:
        """Return the addresses at which the backing's byte at `offset` is mapped: none, one or several."""
        if not 0 <= offset < TOP:
            return []
        wanted = np.uint64(offset)
        # `wanted - self.offset` wraps for extents that lie behind it, so both conditions are needed
        found = np.flatnonzero((self.offset <= wanted) & (wanted - self.offset < self.size))
        return [int(self.start[index]) + offset - int(self.offset[index]) for index in found.tolist()]

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) in the backing for `size` bytes at `address`; raise AddressError if one is not there.

        Extents that are adjacent in the backing make one piece.
        """
        if len(self.repeats):
            yield from self._pieces_with_repeats(address, size)
        else:
            yield from self._pieces(address, size)

    def _pieces_with_repeats(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the pieces of a range that may touch repeats, each of which leads to its target."""
        end = address + size
        while address < end:
            row = self.repeats.at(address) if 0 <= address < TOP else None
            if row is None:
                following = int(np.searchsorted(self.repeats.start, np.uint64(max(address, 0)), "right"))
                until = end if following >= len(self.repeats) else min(end, int(self.repeats.start[following]))
                yield from self._pieces(address, until - address)
            else:
                start, target = int(self.repeats.start[row]), int(self.repeats.target[row])
                until = min(end, start + int(self.repeats.size[row]))
                try:
                    yield from self._pieces_with_repeats(target + address - start, until - address)
                except AddressError as error:
                    raise AddressError(error.address - target + start, error.reason) from None
            address = until

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        if not size:
            return
        index, end = self.index(address), address + size
        last = int(np.searchsorted(self.start, np.uint64(min(end, TOP) - 1), "right"))
        pending = length = 0  # the piece that may still grow
        for low in range(index, last, _PIECES):
            part = slice(low, min(low + _PIECES, last))
            columns = (self.start[part].tolist(), self.size[part].tolist(), self.offset[part].tolist())
            for start, whole, offset in zip(*columns, strict=True):
                skip = address - start
                if skip < 0:
                    self.index(address)  # raises, with the reason
                count = min(end - address, whole - skip)
                if pending + length == offset + skip:
                    length += count
                else:
                    if length:
                        yield pending, length
                    pending, length = offset + skip, count
                address += count
        if address < end:
            self.index(address)  # raises
        yield pending, length

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at `address`, across extents.

        Raises AddressError with the first address whose byte is not there, SourceReadError if the backing fails.
        """
        row = None if len(self.repeats) or not 0 <= address < TOP else self.at(address)
        if row is not None and size and (into := address - int(self.start[row])) <= int(self.size[row]) - size:
            pieces = [(int(self.offset[row]) + into, size)]  # as nearly always, and much faster
        else:
            pieces = list(self.pieces(address, size))  # complain about a gap before anything is allocated or read
        buffer = bytearray(size)
        self._fill(pieces, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, address: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `address`, or raise what `read` raises; some of them may be there then."""
        self._fill(self.pieces(address, len(view)), view)

    def _fill(self, pieces: Iterable[tuple[int, int]], view: memoryview) -> None:
        if is_costly(self.backing):
            pieces = list(pieces)
            if len(pieces) > 1:
                fetch_ahead(self.backing, [offset for offset, _ in pieces], [length for _, length in pieces])
        read_pieces(self.backing, pieces, view)

    def find(
        self,
        patterns: Pattern | Sequence[Pattern],
        segments: Segments | None = None,
        block: int = _BLOCK,
        progress: Callable[[int], object] | None = None,
        unreadable: Callable[[int, int], object] | None = None,
    ) -> Iterator[Hit]:
        """Yield every match of `patterns`, including overlapping ones, in order of addresses, as they are found.

        Patterns are bytes, or what the functions of `memcarve.patterns` make; matches of an expression do not overlap.
        Matches may cross extents, but not gaps. Holes of sparse files are passed over unless zeros match a pattern.
        Memory is bounded by `block` and the longest pattern; `progress` is called with the bytes of each stretch that
        was searched. `unreadable` is called with address and size of what cannot be read, which is passed over; without
        it that raises UnreadableError. Raises ValueError if a pattern is empty, TypeError if it is text, UsageError for
        an expression that cannot be searched for.
        """
        chosen = self.segments() if segments is None else segments
        done = 0

        def lost(_part: int, address: int, size: int) -> None:
            if unreadable is not None:
                unreadable(address, size)
                return
            self.refuse(address, size)

        def advance(now: int, _total: int) -> None:
            nonlocal done
            if progress is not None and now > done:
                progress(now - done)
            done = max(done, now)

        from memcarve.searching.one_space import matches_in  # most who look at memory do not search

        for each in matches_in(self, chosen, patterns, progress=advance, unreadable=lost, block=block):
            yield Hit(each.address, each.pattern, each.offset, chosen[each.row], each.size)

    def refuse(self, address: int, size: int) -> NoReturn:
        """Raise why a range cannot be read, after reading it has failed; UnreadableError if it can be read now."""
        self.read(address, size)
        raise UnreadableError("could not be read", self.offset_of(address), subject=str(self.backing.path))

    def unreadable(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return start and end of what cannot be read of a range that is there, in order; never nothing.

        For when reading it has failed: if nothing fails now, its first sector is taken for what does.
        """
        lost: list[tuple[int, int]] = []
        address = start
        for offset, size in self.pieces(start, end - start):
            bad = unreadable_in(self.backing, Intervals.of([(offset, size)]))
            lost += [(address + low - offset, address + high - offset) for low, high in bad.bounds()]
            address += size
        return lost or [(start, min(start + SECTOR, end))]  # it comes and goes: with this there is an end to it

    def holes(self, segment: Segment, least: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is known to be zeros in the pieces of a segment, if it is larger than `least`."""
        if int(self.size[segment.first : segment.first + segment.extents].max()) <= least:
            return  # scattered pages
        if not may_have_holes(self.backing):
            return
        address = segment.start
        for offset, size in self.pieces(segment.start, segment.size):
            place, end = offset, offset + size
            while place + least < end:
                written = min(next_written(self.backing, place), end)
                if written - place > least:
                    yield address + place - offset, address + written - offset
                    place = written
                else:
                    place += _BLOCK
            address += size


def _clipped(extent: Extent, segment: Segment) -> Extent:
    """Return the part of an extent that lies in a segment."""
    start, end = max(extent.start, segment.start), min(extent.end, segment.end)
    return Extent(start, end - start, extent.offset + start - extent.start)
