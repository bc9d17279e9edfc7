"""A document with one value changed: each place in it, and what else could stand there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

#: what does not follow from the source: docs/guarantees.md lists it
UNFOUNDED = {"version", "command", "time", "case_id", "operator", "run"}
UNFOUNDED_OF_INPUTS = {
    "path", "modified", "device", "inode", "size_after", "modified_after", "sha256_is", "sha256_pass", "sha256_stated",
}  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a document, objects and arrays too."""
    if place:
        yield place
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*place, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*place, number))


def others(value: Any) -> list[Any]:
    """Return other values in place of one: of its kind, plausible, and of another kind."""
    found: list[Any] = [7, "x"]  # of None
    if isinstance(value, bool):
        found = [not value, None]
    elif isinstance(value, int):
        found = [value + 1, value - 1, value * 2 + PAGE, 0 if value else 7]
    elif isinstance(value, float):
        found = [value + 0.5]
    elif isinstance(value, str):
        found = other_texts(value)
    elif isinstance(value, list):
        found = [value[:-1], [*value, value[-1] if value else "x"], []] if value else [["x"]]
    elif isinstance(value, dict):
        found = [{**value, "more": 1}, {}]
    return found


def other_texts(value: str) -> list[str]:
    """Return another address, another hash, or other words."""
    if re.fullmatch("0x[0-9a-f]+", value):
        return [f"0x{int(value.split('-', maxsplit=1)[0], 16) + PAGE:0{len(value) - 2}x}"]
    if len(value) in (32, 64):
        return [("0" if value[0] != "0" else "1") + value[1:]]
    return [f"{value}x", value[:-1]]


def is_founded(place: tuple[Any, ...]) -> bool:
    """Return True if what stands at a place follows from the source.

    Another choice may choose the same, and says nothing that is not so; the first note is about where the map lay.
    """
    if place[0] in UNFOUNDED or place[:1] == ("choice",) or place == ("notes", 0):
        return False
    if place[0] == "inputs":
        named = place[3:] if place[1:2] == ("evidence",) else place[2:]
        return not named or named[0] not in UNFOUNDED_OF_INPUTS
    return True


def put(document: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    """Put a value somewhere into a document."""
    where: Any = document
    for step in place[:-1]:
        where = where[step]
    where[place[-1]] = value


def taken(document: dict[str, Any], place: tuple[Any, ...]) -> Any:
    """Return what stands at a place."""
    where: Any = document
    for step in place:
        where = where[step]
    return where
