"""The algebra of intervals against sets of addresses: at the bottom of the address space, and up to its last byte."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, strategies as st

from memcarve.intervals import PAGE, TOP, Intervals, distinct, expand, smallest_owner, spread, total, union

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.dtypes import U64

WIDTH = 24
Rows = list[tuple[int, int]]
bases = st.sampled_from([0, (1 << 63) - WIDTH // 2, TOP - WIDTH])


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Return (start, size) of ranges that lie in the first WIDTH addresses, in any order; they may overlap."""
    pairs = draw(st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(1, WIDTH)), max_size=7))
    return [(start, min(size, WIDTH - start)) for start, size in pairs]


def column(values: Iterable[int]) -> U64:
    """Return numbers as a column."""
    return np.array([*values], np.uint64)


def moved(found: Rows, base: int) -> Intervals:
    """Return ranges, `base` higher, in the order given."""
    return Intervals.of((start + base, size) for start, size in found)


def apart(found: Rows, base: int) -> Intervals:
    """Return the addresses of ranges, `base` higher, as rows that are sorted and disjoint; some touch each other."""
    there = sorted({address for start, size in found for address in range(start, start + size)})
    cuts = [place for place, address in enumerate(there) if address - 1 not in there or address % 5 == 0]
    ends = [*cuts[1:], len(there)]
    return moved([(there[low], high - low) for low, high in zip(cuts, ends, strict=True)] if cuts else [], base)


def pairs(found: Intervals) -> list[tuple[int, int]]:
    """Return start and end of each row."""
    return [(start, start + size) for start, size in zip(found.start.tolist(), found.size.tolist(), strict=True)]


def addresses(found: Intervals) -> set[int]:
    """Return every address in any row."""
    return {address for start, end in pairs(found) for address in range(start, end)}


def model(found: Rows, base: int) -> set[int]:
    """Return every address in ranges that are `base` higher."""
    return {base + address for start, size in found for address in range(start, start + size)}


@given(rows(), rows(), bases)
def test_union(one: Rows, other: Rows, base: int) -> None:
    """A union holds what any part does, in order, and no row touches the next one."""
    found = union(moved(one, base), moved(other, base))
    assert addresses(found) == model(one, base) | model(other, base)
    assert all(start > end for (_, end), (start, _) in zip(pairs(found), pairs(found)[1:], strict=False))


def test_union_of_all() -> None:
    """Of all addresses the last one is left out: no column holds their number."""
    half = TOP // 2
    assert pairs(union(Intervals.of([(half, half), (0, half)]))) == [(0, TOP - 1)]


@given(rows(), rows(), bases)
def test_intersection_and_difference(one: Rows, other: Rows, base: int) -> None:
    """Each range, whatever the order, is cut into what the other side has and what it has not; owners tell which."""
    mine, theirs = moved(one, base), apart(other, base)
    common, index = mine.intersect(theirs)
    rest = mine.subtract(theirs)
    for found, held in ((common, True), (rest, False)):
        assert found.owner.tolist() == sorted(found.owner.tolist())
        for row, (start, size) in enumerate(one):
            part = found.where(found.owner == row)
            wanted = {at for at in range(base + start, base + start + size) if (at in addresses(theirs)) == held}
            assert addresses(part) == wanted
            assert part.total == len(wanted)
    assert all(
        low <= start < end <= high
        for (start, end), (low, high) in zip(pairs(common), [pairs(theirs)[row] for row in index.tolist()], strict=True)
    )


@given(rows(), bases, st.integers(0, 3))
def test_owners(found: Rows, base: int, shift: int) -> None:
    """Each address leads to the row that holds it, and to the owner of that row; others to -1, or None."""
    lying = apart(found, base)
    owned = Intervals(lying.start, lying.size, np.arange(len(lying), dtype=np.int64) // 2 + shift)
    asked = range(max(base - 1, 0), min(base + WIDTH + 1, TOP))
    truth = [next((row for row, (low, high) in enumerate(pairs(lying)) if low <= at < high), None) for at in asked]
    assert [lying.at(at) for at in asked] == truth
    assert lying.rows_of(column(asked)).tolist() == [-1 if row is None else row for row in truth]
    assert lying.owners_of(column(asked)).tolist() == [-1 if row is None else row for row in truth]
    assert owned.owners_of(column(asked)).tolist() == [-1 if row is None else row // 2 + shift for row in truth]


@given(rows(), rows(), bases)
def test_what_is_touched(one: Rows, other: Rows, base: int) -> None:
    """Of each range the rows from the first to the last that shares an address with it are known, or that none does."""
    lying, asked = apart(one, base), moved(other, base)
    first, end = lying.touched(asked)
    for low, high, (start, until) in zip(first.tolist(), end.tolist(), pairs(asked), strict=True):
        assert [*range(low, high)] == [
            row for row, (begin, behind) in enumerate(pairs(lying)) if begin < until and start < behind
        ]


@given(rows(), rows(), bases)
def test_bytes_within(one: Rows, other: Rows, base: int) -> None:
    """The bytes within bounds are those that a set of addresses has there."""
    lying, asked = apart(one, base), moved(other, base)
    assert lying.bytes_within(asked.start, asked.last).tolist() == [
        len(addresses(lying) & {*range(start, end)}) for start, end in pairs(asked)
    ]


@given(rows(), bases, st.one_of(st.none(), st.permutations(range(7))))
def test_the_smallest_owner(found: Rows, base: int, rank: list[int] | None) -> None:
    """An address belongs to the smallest range that holds it, or to that of the lowest rank; of equals to the first."""
    given_rows = moved(found, base)
    ranks = None if rank is None else np.array(rank[: len(found)], np.int64)
    divided = smallest_owner(given_rows.start, given_rows.size, ranks)
    assert all(end <= start for (_, end), (start, _) in zip(pairs(divided), pairs(divided)[1:], strict=False))
    assert addresses(divided) == model(found, base)
    asked = sorted(addresses(divided))
    for at, owner in zip(asked, divided.owners_of(column(asked)).tolist(), strict=True):
        holding = [row for row, (start, size) in enumerate(found) if base + start <= at < base + start + size]
        assert owner == min(holding, key=lambda row: ((found[row][1] if rank is None else rank[row]), row))


@given(st.lists(st.integers(0, 5), max_size=9))
def test_members(counts: list[int]) -> None:
    """Each member is told whose it is, and its number among those."""
    owner, number = expand(np.array(counts, np.int64))
    assert [*zip(owner.tolist(), number.tolist(), strict=True)] == [
        (row, step) for row, count in enumerate(counts) for step in range(count)
    ]


def test_the_whole_address_space() -> None:
    """All but one byte is a row, the last byte is another; together they are no row, but their sum is right."""
    most = Intervals.of([(0, TOP - 1), (TOP - 1, 1)])
    assert (most.total, total(most.size)) == (TOP, TOP)
    assert most.at(TOP - 1) == 1
    nothing = most.subtract(most)
    assert (len(nothing), nothing.total) == (0, 0)
    hole = Intervals.of([(PAGE, PAGE)])
    assert pairs(most.subtract(hole)) == [(0, PAGE), (2 * PAGE, TOP - 1), (TOP - 1, TOP)]
    assert most.bytes_within(column([0, 1]), column([TOP - 1, TOP - 1])).tolist() == [0, TOP - 1]  # 2**64 wraps


@given(st.integers(0, 300), st.integers(1, 300))
def test_spread(rows: int, most: int) -> None:
    """All rows if they are few, else as many as may be, from the first to the last, about as far apart."""
    found = spread(rows, most).tolist()
    assert len(found) == min(rows, most)
    if rows <= most:
        assert found == [*range(rows)]
    elif most > 1:
        assert (found[0], found[-1]) == (0, rows - 1)
        apart = {after - before for before, after in itertools.pairwise(found)}
        assert max(apart) - min(apart) <= 1


@given(st.lists(st.integers(0, 9) | st.sampled_from([TOP - 1, 1 << 63])))
def test_distinct(values: list[int]) -> None:
    """Each number comes once, in order, from a column or a table."""
    assert distinct(column(values)).tolist() == sorted(set(values))
    assert distinct(column([*values, *values]).reshape(2, -1)).tolist() == sorted(set(values))
