"""Tables in Apache Arrow (streams and files) and Parquet, read by pyarrow."""

from __future__ import annotations

import io
from itertools import chain
from typing import TYPE_CHECKING, Any

from memcarve.errors import InputError, MapError, MissingExtraError
from memcarve.formats.compression import decoded, too_much
from memcarve.formats.tables.arrow_stream import BoundedStream
from memcarve.formats.tables.printed_table import PrintedTable
from memcarve.formats.tables.text_file import TextFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from memcarve.backing import FileBacking
    from memcarve.formats.compression import Reading

    _Converted = TypeVar("_Converted")

ARROW = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
_BATCH = 1 << 18  # rows that are converted at a time
_FEW = 1 << 12  # rows that become records at a time
_NUMBER = 8  # bytes of a number, or of what tells a text
#: bytes that one batch of Arrow's may decode to, which are in memory at once: 12 million rows of a map have 550 million
_MOST_AT_ONCE = 640 << 20
MOST_TEXT = 1 << 28  # characters that records may have


class ArrowTable(PrintedTable):
    """A table of columns, in batches.

    Raises MissingExtraError without pyarrow, MapError for a damaged file, LimitError for one that decodes to more than
    `reading` allows; and for a compressed file, which Parquet needs as a whole, what `DecodedFile` raises.
    """

    in_lines = False

    def __init__(self, text: TextFile, reading: Reading) -> None:
        path = text.path
        try:
            import pyarrow as pa  # an extra
        except ImportError:
            raise MissingExtraError(
                "is a Parquet or Arrow file; to read it: pip install 'memcarve[arrow]'", subject=path
            ) from None
        self._errors = (pa.ArrowException, OSError, ValueError, OverflowError)
        self._reading = reading
        self._file: FileBacking | None = None
        self._is_parquet = text.head.startswith(b"PAR1")
        super().__init__(text, f"volatility3 {'parquet' if self._is_parquet else 'arrow'}", [])
        try:
            if self._is_parquet:
                self._file = decoded(text.file, text.compression, reading)
                self._schema = self._parquet([]).schema_arrow
            else:
                self._schema = self._stream([]).schema
            self.columns = [name for name in self._schema.names if name != "__children"]
        except BaseException as error:
            self.close()
            if isinstance(error, self._errors):
                raise self._damaged(error) from error
            raise
        if len({*self.columns}) < len(self.columns):
            self.close()
            raise MapError(f"has two columns of one name ({', '.join(self.columns)})", subject=path)

    def close(self) -> None:
        """Close what was decoded."""
        if self._file is not None and self._file is not self.text.file:
            self._file.close()

    def converted(self, names: Sequence[str], convert: Callable[[list[Any], int], _Converted]) -> Iterator[_Converted]:
        """Yield what `convert` makes of each batch: of its columns of these names, and the number of its first row.

        Nothing else is decoded. Raises MapError if the file is damaged, which may show only when its columns are
        converted, and LimitError as soon as it would decode to too much.
        """
        number = 1
        try:
            for batch in self._batches(names):
                batch.validate(full=True)  # offsets that lead outside the batch would kill the process
                for place in range(0, batch.num_rows, _BATCH):
                    part = batch.slice(place, _BATCH)
                    yield convert([part.column(part.schema.get_field_index(name)) for name in names], number)
                    number += part.num_rows
        except self._errors as error:
            raise self._damaged(error) from error

    def records(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row and its cells of these columns; MapError for more text than MOST_TEXT."""
        letters = 0

        def cells(columns: list[Any], _: int) -> Iterator[tuple[Any, ...]]:
            nonlocal letters
            for place in range(0, len(columns[0]) if columns else 0, _FEW):
                parts = [column.slice(place, _FEW) for column in columns]
                letters += sum(map(_letters, parts))
                if letters > MOST_TEXT:
                    raise MapError(f"has more than {MOST_TEXT} characters", subject=self.path)
                yield from zip(*(part.to_pylist() for part in parts), strict=True)

        for number, row in enumerate(chain.from_iterable(self.converted(names, cells)), 1):
            yield number, dict(zip(names, row, strict=True))

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Yield the batches of these columns."""
        if self._is_parquet:
            file = self._parquet([name for name in names if _is_text(self._schema.field(name).type)])
            self._check_parquet(file.metadata, len(names))
            return iter(file.iter_batches(_BATCH, columns=list(names)))
        return iter(self._stream([self._schema.names.index(name) for name in names]))

    def _stream(self, fields: Sequence[int]) -> Any:  # noqa: ANN401 - pyarrow's
        """Begin to read Arrow's stream, those of its fields alone (none given: all)."""
        from pyarrow import PythonFile, ipc

        chunks = TextFile(self.text.file, reading=self._reading).chunks()  # from the beginning, whatever was read
        file = PythonFile(BoundedStream(chunks, self.path, self._refuse), "r")
        return ipc.open_stream(file, options=ipc.IpcReadOptions(included_fields=list(fields)))

    def _refuse(self, size: int, total: int) -> None:
        """Raise LimitError for a batch of too many bytes, or if they are too many together."""
        most = self._reading.most(self.text.file.size)
        at_once = _MOST_AT_ONCE if self._reading.decoded is None else most
        if size > at_once or total > most:
            raise too_much(self.path, self.text.file.size, min(at_once, most))

    def _parquet(self, texts: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow's
        """Open the Parquet file; the columns of these names that are texts stay dictionaries if they are such."""
        from pyarrow import PythonFile, parquet

        assert self._file is not None  # noqa: S101 - for the type checker
        file = PythonFile(io.BufferedReader(_Random(self._file)), "r")
        return parquet.ParquetFile(file, read_dictionary=list(texts))

    def _check_parquet(self, metadata: Any, columns: int) -> None:  # noqa: ANN401 - pyarrow's
        """Raise LimitError if so many columns decode to too much, by what the file says of its row groups.

        What it says of their columns is not asked for: pyarrow 26 ends the program if it is damaged.
        """
        groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
        size = max(sum(group.total_byte_size for group in groups), metadata.num_rows * _NUMBER * columns)
        most = self._reading.most(self.text.file.size)
        if size > most:
            raise too_much(self.path, self.text.file.size, most)

    def _damaged(self, error: Exception) -> InputError:
        return MapError(
            f"is a damaged {self.kind.split()[1]} file ({' '.join(str(error).split())[:200]})", subject=self.path
        )


class _Random(io.RawIOBase):
    """A file to be read anywhere, as pyarrow takes it: never by its path, nor mapped, for it may shrink meanwhile."""

    def __init__(self, file: FileBacking) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._file.size)[whence]
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer needs 3.12
        count = self._file.read_some(self._place, memoryview(buffer).cast("B"))
        self._place += count
        return count


def _letters(column: Any) -> int:  # noqa: ANN401 - pyarrow's
    """Return how many bytes the texts of a column have together, each as often as it stands there."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_dictionary(kind):
        lengths = compute.binary_length(column.dictionary) if _is_text(kind.value_type) else None
        column = None if lengths is None else lengths.take(column.indices)
    else:
        column = compute.binary_length(column) if _is_text(kind) else None
    return 0 if column is None else compute.sum(column).as_py() or 0


def _is_text(kind: Any) -> bool:  # noqa: ANN401 - pyarrow's
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind))
