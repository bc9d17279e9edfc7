"""What changed in a process's memory from one dump, image or carved folder to another.

Segments of both sides that share addresses, directly or through others, form a group. The common addresses of a group
are compared byte by byte, and differences are counted in pages of 4 KiB. Addresses that only one side holds were added
or removed; they are unknown if the other side lists them as mapped but missing.

Bytes that are not in a dump or an image may be freed or paged out: "vanished" and "removed" mean that they are no
longer in memory.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import UsageError
from memcarve.intervals import PAGE, TOP, Intervals, distinct, expand, total
from memcarve.process import Selection
from memcarve.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.backing import Backing
    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.process import Labeller, ProcessMemory
    from memcarve.space import AddressSpace


APPEARED, VANISHED, GROWN, SHRUNK, CHANGED, UNKNOWN, UNCHANGED = STATES = (
    "appeared", "vanished", "grown", "shrunk", "changed", "unknown", "unchanged",
)  # fmt: skip


class Difference(NamedTuple):
    """What changed in segments that share addresses.

    `was` are the segments before, `now` those after; either may be empty, and both may have several. `added` bytes are
    there only now, `removed` ones were there only before; `unknown` ones are there on one side, and mapped but missing
    on the other. `changed` are the pages in which common bytes differ, adjacent ones joined; `first_changed` is the
    address of the first such byte.
    """

    was: Segments
    now: Segments
    added: int
    removed: int
    unknown: int
    changed: Intervals
    first_changed: int | None

    @property
    def state(self) -> str:
        """What happened, in words of STATES separated by commas: ``"grown, changed"``.

        Added bytes mean ``"appeared"`` if nothing was there, else ``"grown"``; removed ones ``"vanished"`` if nothing
        is left, else ``"shrunk"``.
        """
        found = (
            (GROWN if len(self.was) else APPEARED, self.added),
            (SHRUNK if len(self.now) else VANISHED, self.removed),
            (CHANGED, len(self.changed)),
            (UNKNOWN, self.unknown),
        )
        return ", ".join(word for word, count in found if count) or UNCHANGED


_BLOCK = 1 << 20  # bytes of each side that are compared in one go
_EXTENTS = 1 << 14  # extents of each side that are looked at in one go
_ONE, _BITS = np.uint64(1), np.uint64(12)


class Comparison:
    """The differences between the memory of two processes, in order of addresses; iterating reads the bytes.

    The length is the number of groups compared, including unchanged ones; `bytes` is the number of common bytes. Made
    by `compare`.
    """

    def __init__(
        self,
        before: ProcessMemory,
        after: ProcessMemory,
        selection: Selection,
        *,
        unchanged: bool,
        progress: Callable[[int, int], object] | None,
        block: int,
    ) -> None:
        self._processes = before, after
        self._before, self._after = before.space, after.space
        self._unchanged = unchanged
        self._progress = progress
        self._block = block
        self._was, self._now = self._before.segments(), self._after.segments()
        self._start, of_was, of_now = _groups(self._was, self._now)
        count = len(self._start)
        # the first segment of each group, and the end of the last: the groups of a side ascend
        self._was_bounds, self._now_bounds = (
            np.searchsorted(of, np.arange(count + 1)).astype(np.int64) for of in (of_was, of_now)
        )
        self._wanted = self._select(selection, before.kernel_half)
        common = self._was.bytes_within(self._now.start, self._now.last)
        hidden = self._before.missing.bytes_within(self._now.start, self._now.last)
        lost = self._after.missing.bytes_within(self._was.start, self._was.last)
        self._added = _summed(self._now.size - common - hidden, self._now_bounds)
        unknown = _summed(hidden, self._now_bounds) + _summed(lost, self._was_bounds)
        common = _summed(common, self._now_bounds)
        self._removed = _summed(self._was.size - lost, self._was_bounds) - common
        self._unknown = unknown
        self.bytes = total(common[self._wanted])

    def __len__(self) -> int:
        return int(np.count_nonzero(self._wanted))

    def __repr__(self) -> str:
        return f"<Comparison: {len(self)} groups of {self.bytes} common bytes>"

    def __iter__(self) -> Iterator[Difference]:
        """Read both sides once. Raises SourceReadError, CounterpartError if a dump is not at hand."""
        told = np.ones(len(self._start), np.bool_) if self._unchanged else self._added | self._removed | self._unknown
        waiting = iter(np.flatnonzero(self._wanted & (told > 0)).tolist())
        group = next(waiting, None)
        for changed, parts in itertools.groupby(self._changes(), key=lambda change: change.group):
            while group is not None and group < changed:
                yield self._difference(group, ())
                group = next(waiting, None)
            yield self._difference(changed, parts)
            if group == changed:
                group = next(waiting, None)
        while group is not None:
            yield self._difference(group, ())
            group = next(waiting, None)

    def _select(self, selection: Selection, kernel_half: int) -> Bools:
        """Return for each group (bool) whether the range of addresses that it spans is wanted."""
        last = np.zeros(len(self._start), np.uint64)
        for segments, bounds in ((self._was, self._was_bounds), (self._now, self._now_bounds)):
            any_here = bounds[1:] > bounds[:-1]
            last[any_here] = np.maximum(last[any_here], segments.last[bounds[1:][any_here] - 1])
        size = last - self._start + _ONE
        number = np.arange(len(self._start), dtype=np.uint32)
        whole = Segments(self._start, size, size, number, number)
        wanted = np.zeros(len(self._start), np.bool_)
        wanted[selection.apply(whole, kernel_half)[0].first] = True
        return wanted

    def keep_labelled(self, selection: Selection, labeller: Labeller | None) -> None:
        """Keep the groups in which a segment of either side has the wanted labels. Raises UsageError."""
        problems = []
        labelled = np.zeros(len(self._start), np.bool_)
        sides = (self._was, self._was_bounds), (self._now, self._now_bounds)
        for process, (segments, bounds) in zip(self._processes, sides, strict=True):
            try:
                keep = process.labelled(segments, selection, labeller)
            except UsageError as error:  # the other side may know something
                problems.append(error)
                continue
            labelled |= _summed(keep.astype(np.uint64), bounds) > 0
        if len(problems) > 1:
            raise problems[0]
        self._wanted &= labelled
        common = self._was.bytes_within(self._now.start, self._now.last)
        self.bytes = total(_summed(common, self._now_bounds)[self._wanted])

    def _difference(self, group: int, changes: Iterable[_Change]) -> Difference:
        found = list(changes)
        was, now = (
            _part(segments, int(bounds[group]), int(bounds[group + 1]))
            for segments, bounds in ((self._was, self._was_bounds), (self._now, self._now_bounds))
        )
        added, removed, unknown = (int(column[group]) for column in (self._added, self._removed, self._unknown))
        return Difference(was, now, added, removed, unknown, _stretches(found), found[0].address if found else None)

    def _changes(self) -> Iterator[_Change]:
        """Compare all common bytes of the wanted groups; yield the changes in order of addresses."""
        was, now = bytearray(self._block), bytearray(self._block)
        done = 0
        for common in _common(self._before, self._after):
            wanted = self._wanted[np.searchsorted(self._start, common.start, "right") - 1]
            for window in common.where(wanted).windows(self._block):
                size = total(window.size)
                _fill(self._before.backing, window.was, window.size, memoryview(was))
                _fill(self._after.backing, window.now, window.size, memoryview(now))
                yield from self._compared(window, *(np.frombuffer(data, np.uint8, size) for data in (was, now)))
                done += size
                if self._progress is not None:
                    self._progress(done, self.bytes)

    def _compared(self, window: _Common, was: U8, now: U8) -> Iterator[_Change]:
        """Yield the change in each group of a window, given the bytes of both sides."""
        whole = len(was) // 8 * 8
        if np.array_equal(was[:whole].view(np.uint64), now[:whole].view(np.uint64)) and np.array_equal(
            was[whole:], now[whole:]
        ):
            return
        page, place, piece = window.pages()
        different = was != now
        here = np.flatnonzero(np.logical_or.reduceat(different, place))
        group = np.searchsorted(self._start, window.start[piece[here]], "right") - 1
        page = page[here]
        bounds = [0, *(np.flatnonzero(group[1:] != group[:-1]) + 1).tolist(), len(here)]
        begins = np.cumsum(window.size) - window.size
        for low, high in itertools.pairwise(bounds):
            first = int(here[low])
            at = int(place[first])
            at += int(different[at : at + PAGE].argmax())
            address = int(window.start[piece[first]]) + at - int(begins[piece[first]])
            yield _Change(int(group[low]), address, page[low:high])


class _Change(NamedTuple):
    """The address of the first byte that differs in a group, and the `pages` that do (addresses / PAGE, ascending)."""

    group: int
    address: int
    pages: U64


class _Common(Intervals):
    """Addresses that both sides hold, and their offsets `was` and `now` in the backings (uint64); one row per piece."""

    def __init__(self, start: U64, size: U64, was: U64, now: U64) -> None:
        super().__init__(start, size)
        self.was, self.now = was, now

    def where(self, keep: Bools) -> _Common:
        """Return the pieces for which `keep` is true."""
        return _Common(self.start[keep], self.size[keep], self.was[keep], self.now[keep])

    def windows(self, block: int) -> Iterator[_Common]:
        """Yield the same pieces in parts of `block` bytes; the last part may be smaller."""
        ends = np.cumsum(self.size)
        whole = int(ends[-1]) if len(ends) else 0
        for low in range(0, whole, block):
            high = min(low + block, whole)
            first = int(np.searchsorted(ends, np.uint64(low), "right"))
            last = int(np.searchsorted(ends, np.uint64(high), "left"))
            start, size, was, now = (
                column[first : last + 1].copy() for column in (self.start, self.size, self.was, self.now)
            )
            size[-1] -= ends[last] - np.uint64(high)
            skip = np.uint64(low) - (ends[first] - self.size[first])
            for column in (start, was, now):
                column[0] += skip
            size[0] -= skip
            yield _Common(start, size, was, now)

    def pages(self) -> tuple[U64, I64, I64]:
        """Cut the pieces at page boundaries: return each part's page, index among the bytes, and piece."""
        first = self.start >> _BITS
        count = (((self.start + (self.size - _ONE)) >> _BITS) - first + _ONE).astype(np.int64)
        piece, number = expand(count)
        page = first[piece] + number.astype(np.uint64)
        begins = (np.cumsum(self.size) - self.size)[piece]
        place = begins + np.maximum(page << _BITS, self.start[piece]) - self.start[piece]
        return page, place.astype(np.int64), piece


def compare(
    before: ProcessMemory,
    after: ProcessMemory,
    selection: Selection | None = None,
    *,
    labeller: Labeller | None = None,
    unchanged: bool = False,
    progress: Callable[[int, int], object] | None = None,
    block: int = _BLOCK,
) -> Comparison:
    """Compare the memory of two processes, or of one at two times; see `Comparison`.

    `selection` chooses by the range of addresses that a group spans, and by the labels that `labeller` gives to any of
    its segments on either side. If it does not say which half and a side has only one (the user half of an image), that
    half is compared. With `unchanged`, groups without a difference are listed, too. `progress` is called with the bytes
    done and the total. Memory is bounded by `block`, the number of segments, and the changed pages of one group.

    Raises UsageError if a selection by labels has no labeller, or neither side has such labels.
    """
    wanted = selection or Selection()
    if wanted.half is None:
        halves = {before.half, after.half} - {"all"}
        wanted = wanted._replace(half=halves.pop() if len(halves) == 1 else "all")
    found = Comparison(before, after, wanted, unchanged=unchanged, progress=progress, block=block)
    if wanted.by_labels:
        found.keep_labelled(wanted, labeller)
    return found


def _groups(was: Segments, now: Segments) -> tuple[U64, I64, I64]:
    """Return the start of each group, and the group of each segment of both sides."""
    start = np.concatenate([was.start, now.start])
    order = np.argsort(start, kind="stable")
    start, last = start[order], np.concatenate([was.last, now.last])[order]
    begins = np.ones(len(start), np.bool_)
    begins[1:] = start[1:] > np.maximum.accumulate(last)[:-1]
    group = np.empty(len(start), np.int64)
    group[order] = np.cumsum(begins) - 1
    return start[begins], group[: len(was)], group[len(was) :]


def _summed(values: U64, bounds: I64) -> U64:
    """Return the sum of each group's values; within a group, sums of sizes stay below 2**64."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=sums[1:])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def _common(was: AddressSpace, now: AddressSpace) -> Iterator[_Common]:
    """Yield the addresses that both sides hold, in order, some thousand extents at a time."""
    address = 0
    while address < TOP:
        first, parts = np.uint64(address), []
        for space in (was, now):
            index = max(int(np.searchsorted(space.start, first, "right")) - 1, 0)
            if index < len(space) and int(space.start[index]) + int(space.size[index]) <= address:
                index += 1
            if index >= len(space):
                return
            part = slice(index, index + _EXTENTS)
            start, size = space.start[part], space.size[part]
            parts.append((start, start + (size - _ONE), space.offset[part]))
        end = min(part[1][-1] for part in parts)
        begins = distinct(np.maximum(np.concatenate([part[0] for part in parts]), first))
        begins = begins[begins <= end]
        ends = np.full(len(begins), end)
        here, rows = np.ones(len(begins), np.bool_), []
        for start, last, _ in parts:
            row = np.searchsorted(start, begins, "right") - 1
            rows.append(np.maximum(row, 0))
            here &= (row >= 0) & (begins <= last[rows[-1]])
            ends = np.minimum(ends, last[rows[-1]])
        offsets = ((part[2][row] + (begins - part[0][row]))[here] for part, row in zip(parts, rows, strict=True))
        yield _Common(begins[here], (ends - begins + _ONE)[here], *offsets)
        address = int(end) + 1


def _fill(backing: Backing, offset: U64, size: U64, buffer: memoryview) -> None:
    """Read pieces into a buffer, one after the other; adjacent ones in the backing at once."""
    begins = np.ones(len(offset), np.bool_)
    begins[1:] = offset[1:] != offset[:-1] + size[:-1]
    index = np.flatnonzero(begins)
    done = 0
    for begin, length in zip(offset[index].tolist(), np.add.reduceat(size, index).tolist(), strict=True):
        backing.read_into(begin, buffer[done : done + length])
        done += length


def _part(segments: Segments, low: int, high: int) -> Segments:
    part = slice(low, high)
    start, size, offset = segments.start[part], segments.size[part], segments.offset[part]
    return Segments(start, size, offset, segments.extents[part], segments.first[part])


def _stretches(changes: list[_Change]) -> Intervals:
    """Return the pages of a group's changes, adjacent ones joined; one page may be in two changes."""
    if not changes:
        return Intervals.of([])
    pages = np.concatenate([change.pages for change in changes])
    begins = np.ones(len(pages), np.bool_)
    begins[1:] = pages[1:] > pages[:-1] + _ONE
    index = np.flatnonzero(begins)
    last = np.append(index[1:], len(pages)) - 1
    return Intervals(pages[index] << _BITS, (pages[last] - pages[index] + _ONE) << _BITS)
