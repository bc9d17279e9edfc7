"""Scattered pieces of a source, taken together into blocks: a call for each costs more than copying it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Piece = tuple[int, int]


def blocks(pieces: Iterable[Piece], most: int) -> Iterator[tuple[list[Piece], int]]:
    """Yield pieces (offset, size) in order, some at a time, with the bytes in them: `most` in all blocks but the last.

    A piece that reaches beyond a block is cut; one of no size is left out.
    """
    block: list[Piece] = []
    room = most
    for offset, size in pieces:
        while size > room:
            if room:
                block.append((offset, room))
            yield block, most
            offset, size = offset + room, size - room  # noqa: PLW2901 - what is left of it
            block, room = [], most
        if size:
            block.append((offset, size))
            room -= size
    if block:
        yield block, most - room
