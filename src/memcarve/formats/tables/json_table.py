"""Tables in JSON: an array read a piece at a time, without holding it; or an object a line. In bounded memory."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from memcarve.errors import MapError
from memcarve.formats.tables.printed_table import MESSAGE, PrintedTable, shown
from memcarve.formats.tables.text_header import BANNER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.formats.tables.text_file import TextFile

_LARGEST = 1 << 22  # characters that one element may have
_DECODER = json.JSONDecoder()
_ARRAY, _ROWS = re.compile(r"\["), re.compile(r'"rows"\s*:\s*\[')
_SPACE = " \t\r\n"
_ERRORS = (ValueError, RecursionError)  # a number of 5,000 digits; a thousand brackets
#: of the tables that Volatility 2 writes as JSON, memory maps alone are read; the columns' names may come last
_VOLATILITY_2 = ["Process", "PID", "Virtual", "Physical", "Size", "DumpFileOffset"]

_Batch = tuple["Sequence[int]", list[Any]]


class JsonTable(PrintedTable):
    """An array of objects (Volatility 3), an object with an array of arrays (Volatility 2), or an object a line.

    `place` is where the JSON begins in the decoded text, within its head. Without rows there are no `columns`.
    """

    def __init__(self, text: TextFile, kind: str, columns: list[str], version: str | None, place: int) -> None:
        super().__init__(text, kind, columns, version)
        self.in_lines = kind == "volatility3 jsonl"
        self.is_empty = re.fullmatch(rb"\[\s*\]\s*", text.head[place:]) is not None
        self._place = place
        self._in_message = False

    def batches(self) -> Iterator[_Batch]:
        """Yield the numbers of rows and what stands there, many at a time; raise MapError if it is not JSON."""
        return self._of_lines() if self.in_lines else self._of_array()

    def records(self, _: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each row and what stands there."""
        for numbers, batch in self.batches():
            yield from zip(numbers, batch, strict=True)

    def _of_array(self) -> Iterator[_Batch]:
        number = 1
        after = _ROWS if self.kind == "volatility2 json" else _ARRAY
        for batch in _elements(self.text.chunks(self._place), self.path, after):
            if not batch:
                self.cut_off = True
                self.notes.append(f"{self.path}: is cut off after row {number - 1}; what came before it is used")
            yield range(number, number + len(batch)), batch
            number += len(batch)

    def _of_lines(self) -> Iterator[_Batch]:
        number = self.text.head.count(b"\n", 0, self._place) + 1
        for block in self.text.blocks(self._place):
            data = bytes(block)
            found = _documents(data, number) or self._one_by_one(data, number)
            yield found
            lines = data.count(b"\n")
            self.passed_over(max(lines - len(found[1]), 0))
            number += lines

    def _one_by_one(self, data: bytes, first: int) -> _Batch:
        numbers, found = [], []
        lines = data.split(b"\n")
        for number, raw in enumerate(lines, first):
            for line in filter(None, (part.strip() for part in raw.split(b"\r"))):
                record = _document(line)
                if isinstance(record, dict):
                    self._in_message = False
                    numbers.append(number)
                    found.append(record)
                elif number == first + len(lines) - 1 and line.startswith(b"{"):
                    self.note_cut_off(line, number)
                elif MESSAGE.match(line) or (self._in_message and not line.startswith(b"{")):
                    self._in_message = True
                else:
                    raise MapError(f"{shown(line)} is not a JSON object", subject=self.place(number))
        return numbers, found


def recognise_json(text: TextFile) -> JsonTable | None:
    """Return the table that a text holds as JSON, behind whatever stands before it; None if it holds none."""
    head = text.head
    start = re.search(rb"^[ \t]*([\[{])", head, re.MULTILINE)
    if not start:
        return None
    banner = BANNER.search(head, 0, start.start())
    version = banner[1].decode("ascii", "replace") if banner else None
    place = start.start(1)
    if re.match(rb'\{\s*"(rows|columns)"\s*:', head[place:]):
        return JsonTable(text, "volatility2 json", _VOLATILITY_2, version, place)
    kind, first = "volatility3 jsonl", _document(head[place:].split(b"\n", 1)[0])
    if not isinstance(first, dict):
        if start[1] == b"{":
            return None
        kind = "volatility3 json"
        try:
            batch = next(_elements([head[place:]], text.path), [])
        except MapError:
            return None
        first = batch[0] if batch and isinstance(batch[0], dict) else {}
    table = JsonTable(text, kind, [name for name in first if name != "__children"], version, place)
    return table if table.columns or table.is_empty else None


def _elements(chunks: Iterable[bytes], path: str, after: re.Pattern[str] = _ARRAY) -> Iterator[list[Any]]:
    """Yield the elements of a JSON array in batches; the text up to and including `after` is passed over.

    What follows the array is ignored. If the file ends within the array, the last batch is empty: what came is
    whole, but not all. Raises MapError if the text is not JSON.
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
        raise MapError(f"element {number + 1} of its JSON array is not JSON", subject=path)
    yield []


def _batch(text: str) -> tuple[list[Any], str, bool]:
    """Decode what is complete: return the elements, the rest of the text, and whether the array ended.

    Most of it in one go if it has the shape that Volatility writes, element by element otherwise.
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


def _documents(data: bytes, number: int) -> _Batch | None:
    """Decode lines from `number` on in one go; None unless each is one JSON document."""
    lines = data.removesuffix(b"\n").split(b"\n")
    try:
        found: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except _ERRORS:
        return None
    return (range(number, number + len(found)), found) if len(found) == len(lines) else None


def _document(line: bytes) -> Any:  # noqa: ANN401 - that is what JSON is
    """Decode one line; None if it is not JSON."""
    try:
        return json.loads(line)
    except _ERRORS:
        return None
