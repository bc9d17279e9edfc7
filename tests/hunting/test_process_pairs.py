"""Which processes at two times are the same, against a model that tries all of them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, strategies as st

from memcarve.hunting.process_pairs import Pair, is_same, paired
from memcarve.process import ProcessEntry, Unix

TIME = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
OF_UNIX = Unix(uid=0)


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        (ProcessEntry(4, "a"), ProcessEntry(4, "a"), True),
        (ProcessEntry(4, "a"), ProcessEntry(8, "a"), False),
        (ProcessEntry(4, "a"), ProcessEntry(4, "b"), False),
        (ProcessEntry(4, "a"), ProcessEntry(4), True),
        (ProcessEntry(0, "a"), ProcessEntry(None, "a"), False),
        (ProcessEntry(), ProcessEntry(), True),
        (ProcessEntry(4, "a", created=TIME), ProcessEntry(4, "b", created=TIME), True),
        (ProcessEntry(4, "a", created=TIME), ProcessEntry(4, "a", created=TIME + SECOND), False),
        (ProcessEntry(4, "a", created=TIME), ProcessEntry(4, "a"), True),
        (ProcessEntry(4, "a", created=TIME), ProcessEntry(4, "b"), False),
    ],
)
def test_same(was: ProcessEntry, now: ProcessEntry, *, same: bool) -> None:
    """The number must be the same, and the time of creation, or the name if that is not known."""
    assert is_same(was, now) is same
    assert is_same(now, was) is same


def test_clock_of_unix() -> None:
    """A Unix clock that is corrected makes no other process of one; one that began later with the number is another."""
    was = ProcessEntry(4, "a", created=TIME, object=0xFFFF0000, unix=OF_UNIX)
    assert is_same(was, was._replace(name="b", created=TIME + SECOND, object=0xFFFF1000))
    assert is_same(was, was._replace(created=TIME + 3600 * SECOND))
    assert not is_same(was, was._replace(created=TIME + 3600 * SECOND, object=0xFFFF1000))
    assert not is_same(was, was._replace(created=TIME + 3600 * SECOND, name="b"))


ENTRIES = st.builds(
    ProcessEntry,
    st.sampled_from([None, 0, 4, 8]),
    st.sampled_from([None, "a", "b"]),
    created=st.sampled_from([None, TIME, TIME + SECOND]),
)


@given(was=st.lists(ENTRIES, max_size=6), now=st.lists(ENTRIES, max_size=6), data=st.data())
def test_paired(was: list[ProcessEntry], now: list[ProcessEntry], data: st.DataObject) -> None:
    """Each chosen one is in one pair; pairs are of one process; what could be paired is not left on both sides."""
    before = data.draw(st.permutations(range(len(was))))[: data.draw(st.integers(0, 6))]
    after = data.draw(st.permutations(range(len(now))))[: data.draw(st.integers(0, 6))]
    found = paired(was, now, before, after)
    assert [pair.was for pair in found if pair.was is not None] == list(before)
    assert sorted(pair.now for pair in found if pair.now is not None) == sorted(after)
    assert [pair for pair in found if pair.was is None] == found[len(before) :]
    assert [pair.now for pair in found[len(before) :]] == [
        place for place in after if Pair(None, place) in found[len(before) :]
    ]
    for pair in found[: len(before)]:
        assert pair.was is not None
        if pair.now is not None:
            assert is_same(was[pair.was], now[pair.now])
        else:
            assert not any(
                other.now is not None and is_same(was[pair.was], now[other.now]) for other in found[len(before) :]
            )
