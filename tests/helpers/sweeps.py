"""How much of a sweep over layouts, seeds and containers is run: a sample, or with ``check.py --long`` all of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_Value = TypeVar("_Value")

LONG = bool(os.environ.get("MEMCARVE_LONG"))


def some(values: Iterable[_Value], every: int, first: int = 0) -> list[_Value]:
    """Return all values in the long sweep, else each `every`-th from a `first` on, and the last.

    Tests that do the same with many formats begin each at another one, so that between them they try all.
    """
    found = list(values)
    if LONG or not found:
        return found
    return [*found[first % every : -1 : every], found[-1]]
