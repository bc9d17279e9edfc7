"""JSON documents read a piece at a time: an array's elements without the array, lines, in bounded memory."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from memcarve.errors import MapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LARGEST = 1 << 22  # characters that one element may have
_DECODER = json.JSONDecoder()
_ARRAY = re.compile(r"\[")
_SPACE = " \t\r\n"
_ERRORS = (ValueError, RecursionError)  # a number of 5,000 digits; a thousand brackets


def elements(chunks: Iterable[bytes], path: str, after: re.Pattern[str] = _ARRAY) -> Iterator[list[Any]]:
    """Yield the elements of a JSON array in batches; the text up to and including `after` is passed over.

    What follows the array is ignored. Where the file ends within the array, the last batch is empty: what came is
    whole, but not all. Raises MapError where the text is not JSON.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, begun, number = "", False, 0
    for chunk in chunks:
        text += decoder.decode(chunk)
        if not begun:
            start = after.search(text)
            if not start:
                if len(text) > _LARGEST:
                    break
                continue
            begun, text = True, text[start.end() :]
        batch, text, ended = _batch(text)
        number += len(batch)
        if batch:
            yield batch
        if ended:
            return
        if len(text) > _LARGEST:
            break
    if len(text) > _LARGEST or not begun or "}" in text:
        raise MapError(f"{path}: element {number + 1} of its JSON array is not JSON")
    yield []


def _batch(text: str) -> tuple[list[Any], str, bool]:
    """Decode what is complete: return the elements, the rest of the text, and whether the array ended.

    Most of it in one go where it has the shape that Volatility writes, element by element otherwise.
    """
    found, place = [], 0
    cut = text.rfind("\n  },")
    if cut > 0:
        with contextlib.suppress(*_ERRORS):
            found, place = json.loads(f"[{text[: cut + 4]}]"), cut + 5
    while True:
        while place < len(text) and (text[place] in _SPACE or text[place] == ","):
            place += 1
        if place == len(text):
            return found, "", False
        if text[place] == "]":
            return found, text[place + 1 :], True
        try:
            element, place = _DECODER.raw_decode(text, place)
        except _ERRORS:
            return found, text[place:], False
        found.append(element)


def lines(block: bytes) -> list[Any] | None:
    """Decode a block of lines with one JSON document each; None where a line is something else."""
    wanted = [line for line in block.split(b"\n") if line.strip()]
    try:
        found: list[Any] = json.loads(b"[" + b",".join(wanted) + b"]")
    except _ERRORS:
        return None
    return found if len(found) == len(wanted) else None


def document(line: bytes) -> Any:  # noqa: ANN401 - that is what JSON is
    """Decode one line; None where it is not JSON."""
    try:
        return json.loads(line)
    except _ERRORS:
        return None
