"""What is searched in one go, and what was found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import I64


class Window(NamedTuple):
    """What is searched in one go: the bytes of a buffer from `begin` to `end`.

    Those before `begin`, and from `end` to `size`, are there to be looked at; what is behind `size` means nothing.
    `begins` and `ends`: in memory nothing lies before, or behind, what is in the buffer, if the search looks there.
    The same window may stand at several addresses, which are the same `phase` bytes behind the start of a page.
    """

    begin: int
    end: int
    size: int
    begins: bool
    ends: bool
    phase: int = 0


class Places:
    """Where patterns match in a window, sorted: `place` relative to its begin, `pattern`, `size` (int64 columns).

    `until` is None if all of the window was searched. Else there was too much to be told at once: it is the place up
    to which all was found, and at least 1.
    """

    __slots__ = ("pattern", "place", "size", "until")

    def __init__(self, place: I64, pattern: I64, size: I64, until: int | None = None) -> None:
        self.place = place
        self.pattern = pattern
        self.size = size
        self.until = until

    def __len__(self) -> int:
        return len(self.place)


_NONE = np.zeros(0, np.int64)
NOWHERE = Places(_NONE, _NONE, _NONE)


def merged(several: Sequence[Places]) -> Places:
    """Return what several searches of a window found, as far as all of them went."""
    if len(several) == 1:
        return several[0]
    until = min((each.until for each in several if each.until is not None), default=None)
    if until is None and not any(map(len, several)):
        return NOWHERE
    place, pattern, size = (
        np.concatenate([getattr(each, name) for each in several]) for name in ("place", "pattern", "size")
    )
    order = np.lexsort((pattern, place))
    if until is not None:
        order = order[: np.searchsorted(place[order], until)]
    return Places(place[order], pattern[order], size[order], until)
