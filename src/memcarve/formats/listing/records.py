"""Rows that are records, not lines of text: JSON, JSON lines, Arrow and Parquet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memcarve.errors import MapError, NotRecognisedError
from memcarve.formats import jsonstream
from memcarve.formats.listing.known import Cells, Known, Value, value_of_record
from memcarve.formats.listing.textrows import lines
from memcarve.formats.memmap.records import ArrowReader, open_records
from memcarve.formats.memmap.rows import MESSAGE, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.memmap.rows import Reader
    from memcarve.formats.text import TextFile

_BINARY = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")


class RecordRows:
    """The rows of a file of records; `columns` are the names in the first one, `notes` complete when they were read.

    Raises NotRecognisedError where there are no rows, whose names would say what they are.
    """

    def __init__(self, text: TextFile, reader: Reader) -> None:
        self.path = text.path
        self.text = text
        self.columns = reader.columns
        self.kind = reader.kind
        self.version = reader.version
        self.notes: list[str] = []
        self._place: int = getattr(reader, "place", 0)  # where the JSON begins in the decoded text
        self.in_lines = self.kind == "volatility3 jsonl"

    def rows(self, kind: Known) -> Iterator[tuple[int, Cells]]:
        """Yield number and cells of each row: the line's number in JSON lines, the row's elsewhere."""
        used = [name for name in (*kind.needed, *kind.optional) if name in self.columns]
        found = self._of_lines() if self.in_lines else self._of_array()
        for number, record in found:
            if not isinstance(record, dict) or record.get("__children"):
                what = "is no object" if not isinstance(record, dict) else "has rows below it, as no known table has"
                raise MapError(f"{self.place(number)}: {_shown(record)} {what}")
            yield number, {name: self._value(name, record, number) for name in used}

    def place(self, number: int) -> str:
        """Return the file and the row or line for a message."""
        return f"{self.path}: {'line' if self.in_lines else 'row'} {number}"

    def _value(self, column: str, record: dict[str, Any], number: int) -> Value:
        try:
            return value_of_record(column, record[column])
        except KeyError:
            raise MapError(f"{self.place(number)}: {_shown(record)} lacks {column}") from None
        except ValueError as error:
            raise MapError(
                f"{self.place(number)}: {_shown(record[column])} in {column} is no {error}; the row cannot be used"
            ) from None

    def _of_array(self) -> Iterator[tuple[int, Any]]:
        number = 0
        for batch in jsonstream.elements(self._chunks(), self.path):
            if not batch:
                self.notes.append(f"{self.path}: is cut off after row {number}; what came before it is used")
            for record in batch:
                number += 1
                yield number, record

    def _chunks(self) -> Iterator[bytes]:
        skip = self._place
        for chunk in self.text.chunks():
            yield chunk[skip:]
            skip = 0

    def _of_lines(self) -> Iterator[tuple[int, Any]]:
        above, in_message = self.text.head.count(b"\n", 0, self._place), False
        for number, raw, ended in lines(self.text, above):
            for line in filter(None, (part.strip() for part in raw.split(b"\r"))):
                record = jsonstream.document(line)
                if isinstance(record, dict):
                    in_message = False
                    yield number, record
                elif not ended and line.startswith(b"{"):
                    self.notes.append(f"{self.place(number)}: is cut off within {shown(line)}; it is not used")
                elif MESSAGE.match(line) or (in_message and not line.startswith(b"{")):
                    in_message = True
                else:
                    raise MapError(f"{self.place(number)}: {shown(line)} is not a JSON object")


class ArrowRows(ArrowReader):
    """The rows of an Arrow or Parquet file."""

    in_lines = False

    def records(self, kind: Known) -> Iterator[tuple[int, Cells]]:
        """Yield number and cells of each row."""
        used = [name for name in (*kind.needed, *kind.optional) if name in self.columns]
        number = 0
        try:
            for batch in self._batches:
                batch.validate(full=True)  # offsets that lead outside the batch would kill the process
                columns = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in used]
                for cells in zip(*columns, strict=True):
                    number += 1
                    pairs = zip(used, cells, strict=True)
                    yield number, {name: self._value(name, cell, number) for name, cell in pairs}
        except self._errors as error:
            raise self._damaged(error) from error

    def _value(self, column: str, cell: object, number: int) -> Value:
        try:
            return value_of_record(column, cell)
        except ValueError as error:
            raise MapError(f"{self.path}: row {number}: {_shown(cell)} in {column} is no {error}") from None


def open_rows(text: TextFile) -> RecordRows | ArrowRows | None:
    """Return the rows of a file of records; None where it is something else."""
    if text.head.startswith(_BINARY):
        return ArrowRows(text)
    if not text.is_text:
        return None
    reader = open_records(text)
    if reader is None or reader.kind.startswith("volatility2"):
        return None
    if re.fullmatch(rb"\[\s*\]\s*", text.head[getattr(reader, "place", 0) :]):
        raise NotRecognisedError(f"{text.path}: is an empty JSON array; nothing says what table it would be")
    return RecordRows(text, reader)


def _shown(value: object) -> str:
    return shown(str(value)[:200].encode("utf-8", "backslashreplace"))
