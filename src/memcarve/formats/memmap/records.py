"""Memory maps that are records, not lines of text: JSON, JSON lines, Arrow and Parquet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.errors import MapError, MissingExtraError, NotRecognisedError
from memcarve.formats import jsonstream
from memcarve.formats.memmap.rows import FILE, MESSAGE, Builder, Reader, Rows, shown
from memcarve.formats.tables import BANNER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.text import TextFile

_VOLATILITY_2 = ["Process", "PID", "Virtual", "Physical", "Size", "DumpFileOffset"]
_ARROW = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")


def open_records(text: TextFile) -> Reader | None:  # noqa: PLR0911 - one for each kind
    """Return the reader for a file of records; None where it is something else."""
    if text.head.startswith(_ARROW):
        return ArrowReader(text)
    head = text.head
    start = re.search(rb"^[ \t]*([\[{])", head, re.MULTILINE)
    if not start:
        return None
    banner = BANNER.search(head, 0, start.start())
    version = banner[1].decode("ascii", "replace") if banner else None
    place = start.start(1)
    if re.match(rb'\{\s*"(rows|columns)"\s*:', head[place:]):
        return JsonReader(text, "volatility2 json", _VOLATILITY_2, version, place)
    first = jsonstream.document(head[place:].split(b"\n", 1)[0])
    if isinstance(first, dict):
        return JsonLinesReader(text, "volatility3 jsonl", _names(first), version, place)
    if start[1] == b"{":
        return None
    if re.fullmatch(rb"\[\s*\]\s*", head[place:]):  # no rows, and so no names
        return JsonReader(text, "volatility3 json", ["Virtual", "Size", "Offset in File", FILE], version, place)
    try:
        batch = next(jsonstream.elements([head[place:]], text.path), [])
    except MapError:
        return None
    if not batch or not isinstance(batch[0], dict):
        return None
    return JsonReader(text, "volatility3 json", _names(batch[0]), version, place)


def _names(record: dict[str, Any]) -> list[str]:
    return [name for name in record if name != "__children"]


class _RecordReader(Reader):
    """Rows that come as JSON values; `place` is where the JSON begins in the decoded text."""

    def __init__(self, text: TextFile, kind: str, columns: list[str], version: str | None, place: int) -> None:
        super().__init__(text, kind, columns, version)
        self.place = place
        self._owner: tuple[int | None, str | None] = (None, None)

    def _columns(self, records: list[Any], number: int) -> Rows:
        """Turn records into columns; the first one is `number`."""
        builder = Builder(self._owner)
        wanted = [self.columns[place] for place in self.numeric]
        for line, found in enumerate(records, number):
            record = dict(zip(self.columns, found, strict=False)) if isinstance(found, list) else found
            numbers: list[Any] = [record.get(name) for name in wanted] if isinstance(record, dict) else [None]
            if not all(type(value) is int and 0 <= value < 1 << 64 for value in numbers):
                raise MapError(
                    f"{self.path}: row {line}: {shown(str(found).encode('utf-8', 'replace'))} lacks a whole number in "
                    f"{', '.join(wanted)}"
                )
            if "PID" in self.columns and type(record.get("PID")) is int:
                builder.owned(record["PID"], str(record.get("Process")))
            code = self.code(str(record.get(FILE)).encode("utf-8", "replace"), line) if self.has_file else None
            builder.row(numbers, code, line)
        self._owner = builder.owner
        return builder.rows(has_printed=self.has_printed, has_file=self.has_file)


class JsonReader(_RecordReader):
    """One array of objects (Volatility 3), or an object with an array of arrays (Volatility 2)."""

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        number = 1
        after = re.compile(r'"rows"\s*:\s*\[' if self.kind == "volatility2 json" else r"\[")
        for batch in jsonstream.elements(self._chunks(), self.path, after):
            if not batch:
                self.cut_off = True
                self.notes.append(f"{self.path}: is cut off after row {number - 1}; what came before it is used")
            yield self._columns(batch, number)
            number += len(batch)

    def _chunks(self) -> Iterator[bytes]:
        skip = self.place
        for chunk in self.text.chunks():
            yield chunk[skip:]
            skip = 0


class JsonLinesReader(_RecordReader):
    """One object a line."""

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        number = self.text.head[: self.place].count(b"\n") + 1
        skip = self.place
        for block in self.text.blocks():
            data, skip = bytes(block[skip:]), max(skip - len(block), 0)
            found = jsonstream.lines(data)
            yield self._columns(self._one_by_one(data, number) if found is None else found, number)
            number += data.count(b"\n")

    def _one_by_one(self, data: bytes, number: int) -> list[Any]:
        found = []
        lines = data.split(b"\n")
        for place, raw in enumerate(lines):
            for line in filter(None, (part.strip() for part in raw.split(b"\r"))):
                record = jsonstream.document(line)
                if isinstance(record, dict):
                    self.in_message = False
                    found.append(record)
                elif place == len(lines) - 1 and line.startswith(b"{"):
                    self.note_cut_off(line, number + place)
                elif MESSAGE.match(line) or (self.in_message and not line.startswith(b"{")):
                    self.in_message = True
                else:
                    raise MapError(f"{self.path}: line {number + place}: {shown(line)} is not a JSON object")
        return found


class ArrowReader(Reader):
    """Apache Arrow (streams and files) and Parquet, read by pyarrow."""

    def __init__(self, text: TextFile) -> None:
        """Open the file; raise MissingExtraError without pyarrow and MapError where it is damaged."""
        path = text.path
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
            from pyarrow import ipc, parquet  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError(
                f"{path}: is a Parquet or Arrow file; to read it: pip install 'memcarve[arrow]'"
            ) from None
        if text.compression:
            raise NotRecognisedError(f"{path}: is a compressed Parquet or Arrow file; decompress it first")
        self._errors = (pa.ArrowException, OSError, ValueError, OverflowError)
        self._pa = pa
        kind = "parquet" if text.head.startswith(b"PAR1") else "arrow"
        super().__init__(text, f"volatility3 {kind}", [], None)
        try:  # through OSFile: by its path a file would be mapped, and one that shrinks meanwhile kill the process
            if kind == "parquet":
                file = parquet.ParquetFile(path)
                self._schema, self._batches = file.schema_arrow, file.iter_batches(1 << 18)
            elif text.head.startswith(b"ARROW1"):
                table = ipc.open_file(pa.OSFile(path))
                self._schema = table.schema
                self._batches = (table.get_batch(place) for place in range(table.num_record_batches))
            else:
                stream = ipc.open_stream(pa.OSFile(path))
                self._schema, self._batches = stream.schema, iter(stream)
            self.columns = [name for name in self._schema.names if name != "__children"]
        except self._errors as error:
            raise self._damaged(error) from error
        if len({*self.columns}) < len(self.columns):
            raise MapError(f"{path}: has two columns of one name ({', '.join(self.columns)})")

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        number = 1
        try:
            for batch in self._batches:
                found = self._batch(batch, number)
                yield found
                number += len(found.lines)
        except self._errors as error:
            raise self._damaged(error) from error

    def _batch(self, batch: Any, number: int) -> Rows:  # noqa: ANN401 - pyarrow brings no types
        batch.validate(full=True)  # offsets that lead outside the batch would kill the process
        columns = []
        for place in self.numeric:
            column = batch.column(batch.schema.get_field_index(self.columns[place]))
            if column.null_count or not self._pa.types.is_integer(column.type):
                raise MapError(f"{self.path}: row {number} on: {self.columns[place]} holds no whole number")
            columns.append(np.array(column.cast(self._pa.uint64()).to_numpy(zero_copy_only=False), np.uint64))
        codes = None
        if self.has_file:
            cells = batch.column(batch.schema.get_field_index(FILE)).dictionary_encode()
            texts = [self.code(str(text).encode("utf-8", "replace"), number) for text in cells.dictionary.to_pylist()]
            if cells.null_count:
                raise MapError(f"{self.path}: row {number} on: {FILE} is empty")
            codes = np.array(texts, np.int64)[cells.indices.to_numpy()]
        lines = np.arange(number, number + batch.num_rows)
        return Rows(columns[0], columns[1], columns[2] if self.has_printed else None, codes, lines, ())

    def _damaged(self, error: Exception) -> MapError:
        return MapError(f"{self.path}: is a damaged {self.kind.split()[1]} file ({' '.join(str(error).split())[:200]})")
