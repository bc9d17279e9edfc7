"""What counts as the clock of a Linux machine: numbers that say the same twice, each within what a machine can have."""

from __future__ import annotations

import numpy as np
import pytest

from memcarve.images.linux.clock import agreeing

_SECOND = 1_000_000_000
#: a machine that runs for 100 s since 2023: the clock of the calendar is so far ahead of the monotonic one
_AHEAD = 1_700_000_000 * _SECOND + 250_000_000
_GOOD = {
    "second": -1_700_000_001,
    "nanosecond": 750_000_000,
    "real": _AHEAD,
    "boot": 5 * _SECOND,
    "now": 1_700_000_100,
}


def _agree(*rows: dict[str, int]) -> list[int]:
    columns = {name: np.array([row[name] for row in rows], np.int64) for name in _GOOD}
    return list(agreeing(**columns).tolist())


def test_a_clock_among_other_numbers() -> None:
    """The row of the clock is found between zeros and others, at its place."""
    nothing = dict.fromkeys(_GOOD, 0)
    assert _agree(nothing, _GOOD, nothing, {**nothing, "second": -1_700_000_001}) == [1]
    assert _agree(nothing) == []


@pytest.mark.parametrize(
    "change",
    [
        {"real": _AHEAD + 1},
        {"real": -_AHEAD},
        {"nanosecond": -1, "real": 1_700_000_001 * _SECOND + 1},
        {"nanosecond": _SECOND, "real": 1_700_000_000 * _SECOND},
        {"boot": -1},
        {"boot": 37_000 * 86_400 * _SECOND},
        {"now": 1_699_999_999},
        {"now": 1_700_000_000 + 37_000 * 86_400},
        {"second": -86_400, "nanosecond": 0, "real": 86_400 * _SECOND, "now": 86_500},
        {"second": 86_500, "nanosecond": 0, "real": -86_500 * _SECOND, "now": 0},
    ],
    ids=lambda change: ",".join(map(str, change.items())),
)
def test_what_no_clock_says(change: dict[str, int]) -> None:
    """One number that does not fit the others, or is none that a machine can have, makes it another thing.

    The calendar's time is never before the machine's start, nor a century after it; a clock that was not set says a
    time in 1970.
    """
    assert _agree(_GOOD | change) == []
