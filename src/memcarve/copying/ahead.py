"""Saying what is going to be copied, a little ahead: what lies elsewhere comes in few rounds of many requests then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.backing import fetch_ahead, is_costly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.backing import Backing

    Pieces = Sequence[tuple[int, int]]

_WINDOW = 1 << 26  # bytes that are asked for together


def fetched_ahead(backing: Backing, parts: Iterable[Pieces]) -> Iterator[Pieces]:
    """Yield lists of pieces (offset, size) of a backing, having fetched those that come next, if it lies elsewhere.

    Of a larger piece only the beginning is: the rest comes ahead as it is read in order. Raises what reading raises.
    """
    if not is_costly(backing):
        yield from parts
        return
    window: list[Pieces] = []
    total = 0
    for part in parts:
        window.append(part)
        total += sum(size for _, size in part)
        if total >= _WINDOW:
            _fetch(backing, window)
            yield from window
            window, total = [], 0
    _fetch(backing, window)
    yield from window


def _fetch(backing: Backing, window: list[Pieces]) -> None:
    pieces = [(offset, min(size, _WINDOW // 4)) for part in window for offset, size in part if size]
    total = 0
    for count, (_, size) in enumerate(pieces, 1):
        total += size
        if total >= _WINDOW:
            del pieces[count:]
            break
    fetch_ahead(backing, [offset for offset, _ in pieces], [size for _, size in pieces])
