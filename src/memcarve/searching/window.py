"""What is searched in one go, and what was found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

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


class Engine(Protocol):
    """What looks for patterns in a window, of which it may see `before` bytes before it and `after` behind it.

    `in_zeros`: they may match zeros alone. Called in several threads at once. Patterns have numbers from 0 on.
    """

    before: int
    after: int
    in_zeros: bool

    def __call__(self, buffer: bytearray, window: Window) -> Places:
        """Return what begins in the window's own bytes."""


_NONE = np.zeros(0, np.int64)
NOWHERE = Places(_NONE, _NONE, _NONE)


def numbered(several: Sequence[tuple[int, Places] | tuple[I64, Places]]) -> Places:
    """Return what several searches of a window found, as far as all of them went.

    With each is the number of its one pattern, or those of all its patterns.
    """
    until = min((each.until for _, each in several if each.until is not None), default=None)
    some = [(number, each) for number, each in several if len(each)]
    if not some:
        return NOWHERE if until is None else Places(_NONE, _NONE, _NONE, until)
    numbers = [number if isinstance(number, int) else number[each.pattern] for number, each in some]
    pattern = np.concatenate([np.broadcast_to(of, len(each)) for of, (_, each) in zip(numbers, some, strict=True)])
    place, size = (np.concatenate([getattr(each, name) for _, each in some]) for name in ("place", "size"))
    if len(some) > 1:
        order = np.lexsort((pattern, place))
        place, pattern, size = place[order], pattern[order], size[order]
    kept = len(place) if until is None else int(np.searchsorted(place, until))
    return Places(place[:kept], pattern[:kept], size[:kept], until)
