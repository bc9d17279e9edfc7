"""What several processes share is searched once, and everything is found in each of them."""

from __future__ import annotations

import itertools
import re
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, strategies as st

from memcarve.errors import SourceReadError, UnreadableError
from memcarve.intervals import Intervals, union
from memcarve.searching.each_once import EachOnce
from memcarve.searching.ordered_threads import in_order
from memcarve.searching.shared_units import shared_keys, units
from memcarve.space import AddressSpace
from memcarve.unreadable import SECTOR
from memory import PAGE, Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.searching.each_once import Window

FRAMES = 24


class Matches:
    """Looks for an expression of at most `after` + 1 bytes, all matches that begin in the window; counts the bytes."""

    in_zeros = False

    def __init__(self, expression: bytes, before: int, after: int) -> None:
        self.expression = re.compile(b"(?s)(?=" + expression + b")")
        self.before, self.after = before, after
        self.lock = threading.Lock()
        self.bytes = 0

    def __call__(self, buffer: bytearray, window: Window) -> list[int]:
        """Return where it matches."""
        with self.lock:
            self.bytes += window.end - window.begin
        data = bytes(buffer[: window.size])
        found = (match.start() for match in self.expression.finditer(data))
        return [place - window.begin for place in found if window.begin <= place < window.end]


def space_of(frames: Sequence[int | None], backing: Memory, start: int = 0x10000) -> AddressSpace:
    """Return a space of pages, each at a place of the backing; None is a gap."""
    rows = [(start + at * PAGE, frame * PAGE) for at, frame in enumerate(frames) if frame is not None]
    columns = [np.array([row[place] for row in rows], np.uint64) for place in range(2)]
    size = np.full(len(rows), PAGE, np.uint64)
    flags = np.zeros(len(rows), np.uint8)
    return AddressSpace(columns[0], size, columns[1], backing, physical=columns[1].copy(), flags=flags)


_BORDERS = st.lists(st.sampled_from(["abcabc", "aabbcc", "ccaaab", "bcbcab"]), min_size=FRAMES, max_size=FRAMES)
Machine = tuple[list[str], list[list[int | None]]]


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Return how frames begin and end, three bytes each, and processes that share sequences of them."""
    frames = st.one_of(st.none(), st.integers(0, FRAMES - 1))
    runs = draw(st.lists(st.lists(frames, min_size=1, max_size=6), min_size=1, max_size=5))
    processes = draw(st.lists(st.lists(st.sampled_from(runs), min_size=1, max_size=5), min_size=1, max_size=4))
    return draw(_BORDERS), [[frame for run in several for frame in run] for several in processes]


def opened(machine: Machine) -> list[AddressSpace]:
    """Return the address spaces of the processes that have memory."""
    borders, processes = machine
    middle = bytes(PAGE - 6)
    backing = Memory(b"".join(text[:3].encode() + middle + text[3:].encode() for text in borders))
    return [space_of(frames, backing) for frames in processes if any(frame is not None for frame in frames)]


@given(machines(), st.sampled_from([b"abc", b"a[abc]{4}", b"c\0", b"[bc]b\0\0"]), st.integers(0, 4), st.integers(1, 3))
def test_every_match_in_every_process(machine: Machine, expression: bytes, kept: int, threads: int) -> None:
    """All matches are found in each process, as in its bytes laid flat, however little is kept; each page once."""
    spaces = opened(machine)
    parts = [(space, space.segments()) for space in spaces]
    search = Matches(expression, 0, 5)
    found: list[set[int]] = [set() for _ in parts]
    covered = [0] * len(parts)
    running = EachOnce(parts, search, threads=threads, block=3 * PAGE, kept=1 << 20 if kept else 3)
    for each in running:
        assert each.found is not None
        covered[each.part] += each.end - each.start
        found[each.part] |= {each.start + place for place in each.found}
    for number, (space, segments) in enumerate(parts):
        flat = {
            segment.start + match.start()
            for segment in segments
            for match in search.expression.finditer(space.read(segment.start, segment.size))
        }
        assert found[number] == flat
        assert covered[number] == segments.total
    assert search.bytes + running.same == running.total
    if kept:
        different = {frames for space, segments in parts for frames in contexts(space, 0, 1)}
        assert search.bytes <= len(different) * PAGE


@pytest.mark.parametrize("kept", [1 << 20, 2])
def test_searching_again(kept: int) -> None:
    """Iterating again searches again: the same is found, and as much is passed over."""
    backing = Memory(b"".join(bytes([97 + number]) * PAGE for number in range(4)))
    parts = [(space, space.segments()) for space in (space_of(frames, backing) for frames in 3 * [[0, 1, 2]])]
    searched = EachOnce(parts, Matches(b"b|c", 0, 0), threads=1, kept=kept)
    first, same = [*searched], searched.same
    assert (first, same) == ([*searched], searched.same)
    assert (same > 0) == (kept > PAGE)


def contexts(space: AddressSpace, before: int, after: int) -> list[tuple[int, ...]]:
    """Return, of each page, the places of the whole unit's pages around it that its key stands for: a model."""
    found = []
    for several in units(space, space.segments(), before * PAGE, after * PAGE):
        for row, start, size in zip(several.row.tolist(), several.start.tolist(), several.size.tolist(), strict=True):
            segment = space.segments()[row]
            low, high = max(start - before * PAGE, segment.start), min(start + size + after * PAGE, segment.end)
            places = tuple(space.offset_of(at) for at in range(low, high, PAGE))
            ends = (start - before * PAGE < segment.start, start + size + after * PAGE > segment.end)
            found += [(*places, *ends, at) for at in range(size // PAGE)]
    return found


@given(machines(), st.integers(0, 1), st.integers(0, 2))
def test_keys(machine: Machine, before: int, after: int) -> None:
    """Units have one key if and only if they have the same pages, and the same around them."""
    spaces = opened(machine)
    keys: dict[int, set[tuple[int, ...]]] = {}
    of: dict[tuple[int, ...], set[int]] = {}
    for space in spaces:
        model = iter(contexts(space, before, after))
        last = -1
        for several in units(space, space.segments(), before * PAGE, after * PAGE):
            assert (several.start[1:] >= several.start[:-1] + several.size[:-1]).all()
            for key, start, size in zip(
                several.key.tolist(), several.start.tolist(), several.size.tolist(), strict=True
            ):
                context, *_ = itertools.islice(model, size // PAGE)
                keys.setdefault(key, set()).add(context)
                of.setdefault(context, set()).add(key)
                assert start > last
                last = start
    assert all(len(contexts) == 1 for contexts in keys.values())
    assert all(len(found) == 1 for found in of.values())
    twice = shared_keys([(space, space.segments()) for space in spaces], before * PAGE, after * PAGE)
    assert set(twice.tolist()) <= {*keys}


def test_pages_that_overlap_are_not_the_same() -> None:
    """Places that are less than a page apart in an image are not taken for one."""
    backing = Memory(b"a" * PAGE + b"b" * PAGE)
    first = space_of([0], backing)
    columns = first.start, first.size, first.offset + np.uint64(16)
    second = AddressSpace(*columns, backing, physical=columns[2].copy())
    parts = [(space, space.segments()) for space in (first, second, first)]
    running = EachOnce(parts, Matches(b"b", 0, 0), threads=1)
    assert [len(each.found or ()) for each in running] == [0, 16, 0]
    assert running.same == PAGE


def test_long_memory_is_cut() -> None:
    """A long stretch is cut into units of at most a MiB; the same pages at another place into the same ones."""
    backing = Memory(bytes(PAGE))  # nothing is read
    first, second = (space_of([*head, *range(5000)], backing) for head in ([5001, 5002, 5003], [5004]))
    one, two = (
        [key for found in units(space, space.segments(), 0, 0) for key in found.key.tolist()]
        for space in (first, second)
    )
    assert 5000 / 64 < len(one) < 5000 / 4
    assert len({*one} & {*two}) > len(one) - 5


class Damaged(Memory):
    """A backing of which one sector cannot be read."""

    BAD = 4096

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; raises UnreadableError if it touches the sector."""
        if offset < self.BAD + SECTOR and offset + len(buffer) > self.BAD:
            raise UnreadableError("cannot be read", max(offset, self.BAD), subject="damaged")
        super().read_into(offset, buffer)


def test_what_cannot_be_read() -> None:
    """What cannot be read is like a gap, and is told once."""
    data = b"abc" * 4000
    columns = (np.array([value], np.uint64) for value in (0x1000, len(data), 0))
    space = AddressSpace(*columns, Damaged(data))
    results = [*EachOnce([(space, space.segments())], Matches(b"abc", 0, 2), block=1000)]
    lost = union(Intervals.of(gap for each in results for gap in each.lost))
    assert [*lost.bounds()] == [(0x1000 + Damaged.BAD, 0x1000 + Damaged.BAD + SECTOR)]
    found = {each.start + place - 0x1000 for each in results if each.found for place in each.found}
    whole = range(0, len(data), 3)
    assert found == {at for at in whole if at + 3 <= Damaged.BAD or at >= Damaged.BAD + SECTOR}


def test_order() -> None:
    """Results come in the order of tasks, few of which are taken before they are wanted; an error comes at its task."""
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    running = in_order(lambda number: number * number, tasks(), 3)
    assert next(running) == (0, 0)
    assert len(taken) <= 13
    assert [result for _, result in running] == [number * number for number in range(1, 100)]

    def fails(number: int) -> int:
        if number == 5:
            raise SourceReadError("gone")
        return number

    results = in_order(fails, range(10), 2)
    assert [next(results)[1] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(SourceReadError):
        next(results)


_LETTERS = st.sampled_from([(1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8, 16, 32, 48, 64, 80)])


@given(_LETTERS, st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)).filter(lambda two: two[0] != two[1]))
def test_no_sequences_of_pages_are_taken_for_others(steps: tuple[int, ...], pages: tuple[int, int]) -> None:
    """Two pages in orders whose difference is a product of powers minus one, as a polynomial, have other keys.

    Modulo a power of two such a product is zero for every odd number, or next to it.
    """
    differences = np.ones(1, np.int64)
    for step in steps:
        differences = np.append(differences, np.zeros(step, np.int64)) - np.append(
            np.zeros(step, np.int64), differences
        )
    assert set(differences.tolist()) <= {-1, 0, 1}
    backing = Memory(bytes(PAGE))  # nothing is read
    first = [pages[each < 0] for each in differences.tolist()]
    second = [pages[each > 0] if each else pages[0] for each in differences.tolist()]
    seen: dict[int, list[int | None]] = {}
    for frames in (first, second):
        space, at = space_of(frames, backing), 0
        for several in units(space, space.segments(), 0, 0):
            for key, size in zip(several.key.tolist(), several.size.tolist(), strict=True):
                own: list[int | None] = [*frames[at : at + size // PAGE]]
                assert seen.setdefault(key, own) == own
                at += size // PAGE


def test_pages_of_another_backing_are_others() -> None:
    """What lies at the same places of two images is searched in each, as is what overlaps in a damaged one."""
    data = b"one".ljust(PAGE // 2, b"\0") + b"two".ljust(PAGE // 2, b"\0")
    texts = [data + data, data[PAGE // 2 :] + data + data[: PAGE // 2]]
    spaces = [space_of([0], Memory(text)) for text in texts]
    offsets = [np.array([offset], np.uint64) for offset in (0, PAGE // 2)]
    column, backing = np.array([PAGE], np.uint64), Memory(texts[0])
    overlapping = [AddressSpace(column, column, offset, backing, physical=offset) for offset in offsets]
    for both in (spaces, overlapping):
        running = EachOnce([(space, space.segments()) for space in both], Matches(b"one", 0, 2))
        assert [(each.part, each.found) for each in running] == [(0, [0]), (1, [PAGE // 2])]
        assert running.same == 0
