"""Which ranges hold a number, against a look at every range."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given, strategies as st

from memcarve.hunting.owners import stabbing
from memcarve.hunting.owners.stabbing import Stabbing

TOP = 1 << 64
#: numbers near those at which classes and cells begin and end
EDGES = st.builds(lambda power, away: min(max((1 << power) + away, 0), TOP - 1), st.integers(0, 64), st.integers(-3, 3))
NUMBERS = EDGES | st.integers(0, 40) | st.integers(0, TOP - 1)


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Draw ranges that nest, overlap and repeat: start, size and kind."""
    found = []
    for start in draw(st.lists(NUMBERS, max_size=12)):
        size = min(max(draw(NUMBERS), 1), TOP - start)
        size = min(size, TOP - 1)
        found += [(start, size, draw(st.integers(0, 2)))] * draw(st.sampled_from([1, 1, 1, 3, 20]))
    return found


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray]:
    """Return the rows as columns."""
    table = np.array(rows, np.uint64).reshape(-1, 3)
    return [table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.int32)]


@given(ranges(), st.lists(NUMBERS, max_size=20))
def test_all_that_hold_a_number(rows: list[tuple[int, int, int]], extra: list[int]) -> None:
    """Every range that holds a number is told, in order, and no other; also of the first and last of each range."""
    points = extra + [number for start, size, _ in rows for number in (start, start + size - 1)]
    held = Stabbing(*columns(rows)).holders(np.array(points, np.uint64), 1000)
    expected = [[row for row, (start, size, _) in enumerate(rows) if start <= point < start + size] for point in points]
    assert held.counts.tolist() == [len(each) for each in expected]
    assert [*zip(held.point.tolist(), held.row.tolist(), strict=True)] == [
        (place, row) for place, each in enumerate(expected) for row in each
    ]


@given(ranges(), st.integers(1, 4))
def test_at_most_so_many(rows: list[tuple[int, int, int]], most: int) -> None:
    """Of more than the most that is wanted, that many are told, and counted are all."""
    points = [start for start, _, _ in rows]
    held = Stabbing(*columns(rows)).holders(np.array(points, np.uint64), most)
    for place, point in enumerate(points):
        expected = {row for row, (start, size, _) in enumerate(rows) if start <= point < start + size}
        told = held.row[held.point == place].tolist()
        assert int(held.counts[place]) == len(expected)
        assert len(told) == min(most, len(expected))
        assert set(told) <= expected
        assert told == sorted(told)


def test_every_kind_before_many_of_one() -> None:
    """A range that one kind has a million times does not crowd out another kind's, on any of the three ways."""
    for start, size in ((0x1000, 0x1000), (0x1800, 0x1000), (0xF00, 0x1FFF)):
        rows = np.arange(1 << 17)
        kind = np.where(rows == len(rows) - 1, 7, 3).astype(np.int32)
        same = np.full(len(rows), start, np.uint64), np.full(len(rows), size, np.uint64)
        for point in (start, start + size - 1, 0x1F00):
            held = Stabbing(*same, kind).holders(np.array([point] * 3, np.uint64), 4)
            assert held.counts.tolist() == [len(rows)] * 3
            assert held.row.tolist() == [0, 1, 2, len(rows) - 1] * 3


def test_what_does_not_hold_a_number_is_not_looked_at() -> None:
    """A million ranges right before a million numbers take no more than the searches for them."""
    count = 1 << 20
    index = Stabbing(np.full(count, 1, np.uint64), np.full(count, 0x1800, np.uint64))
    points = np.arange(0x1801, 0x1801 + count, dtype=np.uint64)
    tracemalloc.start()
    held = index.holders(points, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not held.counts.any()
    assert not len(held.row)
    assert peak < 100 << 20


def test_many_answers_in_groups() -> None:
    """Answers that are too many at once are gathered for some numbers after the other."""
    size = np.full(2000, 1 << 20, np.uint64)
    index = Stabbing(np.arange(2000, dtype=np.uint64), size, np.arange(2000) % 7)
    points = np.arange(1000, 5000, dtype=np.uint64)
    held = index.holders(points, 600)
    assert len(points) * 600 > stabbing._PAIRS
    assert held.counts.tolist() == [min(point + 1, 2000) for point in points.tolist()]
    assert np.bincount(held.point).tolist() == [600] * len(points)


def test_nothing() -> None:
    """No ranges hold no number, and no numbers are in no range."""
    none = np.zeros(0, np.uint64)
    assert Stabbing(none, none).holders(np.array([1], np.uint64), 1).counts.tolist() == [0]
    one = np.array([1], np.uint64)
    assert len(Stabbing(one, one).holders(none, 1).row) == 0
    assert len(Stabbing(one, one)) == 1
