"""JSON that is written piece by piece: objects and arrays whose members are made when they are written.

All of it is ASCII, so that no line separator of Unicode is in it, and holds no half of a character.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.formats.json_text import dumps
from memcarve.intervals import chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import U64, Bools
    from memcarve.labels.segment_labels import Words

_ROWS = 1 << 14  # of a column in one piece
_TOGETHER = 1 << 16  # characters that are handed on together, if there are as many


class Column(NamedTuple):
    """An array of JSON of so many `rows`; `cells` returns the JSON of those in a slice, with commas between them."""

    rows: int
    cells: Callable[[slice], str]

    def pieces(self) -> Iterator[str]:
        """Yield the array."""
        yield "["
        for part in chunks(self.rows, _ROWS):
            yield f"{', ' if part.start else ''}{self.cells(part)}"
        yield "]"


def addresses(column: U64) -> Column:
    """Return addresses (uint64)."""
    return Column(len(column), lambda part: ", ".join([f'"0x{address:x}"' for address in column[part].tolist()]))


def integers(column: Any) -> Column:  # noqa: ANN401 - an array of any integers
    """Return integers, or booleans."""
    return Column(len(column), lambda part: dumps(column[part].tolist())[1:-1])


def with_nothing(column: U64, nothing: Bools) -> Column:
    """Return integers (uint64), some of which (bool) are not known."""

    def cells(part: slice) -> str:
        rows = zip(column[part].tolist(), nothing[part].tolist(), strict=True)
        return ", ".join(["null" if unknown else str(value) for value, unknown in rows])

    return Column(len(column), cells)


def values(column: list[Any]) -> Column:
    """Return anything that JSON has."""
    return Column(len(column), lambda part: dumps(column[part])[1:-1])


def reals(column: Any) -> Column:  # noqa: ANN401 - an array of any reals
    """Return reals with three digits; what is not a number is null."""

    def cells(part: slice) -> str:
        rows = zip(column[part].tolist(), np.isnan(column[part]).tolist(), strict=True)
        return ", ".join(["null" if nothing else f"{value:.3f}" for value, nothing in rows])

    return Column(len(column), cells)


def hashes(digests: Any, known: Any) -> Column:  # noqa: ANN401 - rows of 32 bytes, and whether they are there
    """Return SHA-256 hashes."""

    def cells(part: slice) -> str:
        text, there = digests[part].tobytes().hex(), known[part].tolist()
        rows = [f'"{text[64 * row : 64 * row + 64]}"' if here else "null" for row, here in enumerate(there)]
        return ", ".join(rows)

    return Column(len(known), cells)


def encoded(words: Words) -> dict[str, Any]:
    """Return texts that many rows share: the different ones, and for each row the place of its own."""
    return {"values": words.values, "codes": integers(words.codes)}


def pieces(value: object) -> Iterator[str]:
    """Yield a value as JSON: bytes in Base64, an iterator as an array."""
    if isinstance(value, dict):
        separator = "{"
        for name, member in value.items():
            yield f"{separator}{dumps(str(name))}: "
            yield from pieces(member)
            separator = ", "
        yield "{}" if separator == "{" else "}"
    elif isinstance(value, Column):
        yield from value.pieces()
    elif isinstance(value, Iterator):
        separator = "["
        for member in value:
            yield separator
            yield from pieces(member)
            separator = ", "
        yield "[]" if separator == "[" else "]"
    elif isinstance(value, bytes):
        yield f'"{base64.b64encode(value).decode("ascii")}"'
    else:
        yield dumps(value)


def document(members: Iterator[tuple[str, object]]) -> Iterator[str]:
    """Yield an object, each member on a line of its own, and each member of an iterator, too; in long pieces."""
    waiting: list[str] = []
    size = 0
    for piece in _lines(members):
        waiting.append(piece)
        size += len(piece)
        if size > _TOGETHER:
            yield "".join(waiting)
            waiting.clear()
            size = 0
    yield "".join(waiting)


def _lines(members: Iterator[tuple[str, object]]) -> Iterator[str]:
    separator = "{\n "
    for name, member in members:
        yield f"{separator}{dumps(name)}: "
        separator = ",\n "
        if not isinstance(member, Iterator):
            yield from pieces(member)
            continue
        between = "[\n  "
        for row in member:
            yield between
            yield from pieces(row)
            between = ",\n  "
        yield "[]" if between[0] == "[" else "\n ]"
    yield "\n}\n"
