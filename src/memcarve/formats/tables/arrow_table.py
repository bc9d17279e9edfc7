"""Tables in Apache Arrow (streams and files) and Parquet, read by pyarrow."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from memcarve.errors import MapError, MissingExtraError, NotRecognisedError
from memcarve.formats.tables.printed_table import PrintedTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from memcarve.formats.tables.text_file import TextFile

    _Converted = TypeVar("_Converted")

ARROW = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
_BATCH = 1 << 18  # rows of Parquet that are decoded at a time


class ArrowTable(PrintedTable):
    """A table of columns, in batches.

    Raises MissingExtraError without pyarrow, NotRecognisedError for a compressed file, MapError for a damaged one.
    """

    in_lines = False

    def __init__(self, text: TextFile) -> None:
        path = text.path
        try:
            import pyarrow as pa  # an extra
            from pyarrow import ipc, parquet
        except ImportError:
            raise MissingExtraError(
                "is a Parquet or Arrow file; to read it: pip install 'memcarve[arrow]'", subject=path
            ) from None
        if text.compression:
            raise NotRecognisedError(
                "is a compressed Parquet or Arrow file", subject=path, remedy="decompress it first"
            )
        self._errors = (pa.ArrowException, OSError, ValueError, OverflowError)
        kind = "parquet" if text.head.startswith(b"PAR1") else "arrow"
        super().__init__(text, f"volatility3 {kind}", [])
        try:  # through OSFile: by its path a file would be mapped, and one that shrinks meanwhile kill the process
            if kind == "parquet":
                file = parquet.ParquetFile(path)
                schema, self._batches = file.schema_arrow, file.iter_batches(_BATCH)
            elif text.head.startswith(b"ARROW1"):
                table = ipc.open_file(pa.OSFile(path))
                schema = table.schema
                self._batches = (table.get_batch(place) for place in range(table.num_record_batches))
            else:
                stream = ipc.open_stream(pa.OSFile(path))
                schema, self._batches = stream.schema, iter(stream)
            self.columns = [name for name in schema.names if name != "__children"]
        except self._errors as error:
            raise self._damaged(error) from error
        if len({*self.columns}) < len(self.columns):
            raise MapError(f"has two columns of one name ({', '.join(self.columns)})", subject=path)

    def converted(self, names: Sequence[str], convert: Callable[[list[Any], int], _Converted]) -> Iterator[_Converted]:
        """Yield what `convert` makes of each batch: of its columns of these names, and the number of its first row.

        Raises MapError if the file is damaged, which may show only when its columns are converted.
        """
        number = 1
        try:
            for batch in self._batches:
                batch.validate(full=True)  # offsets that lead outside the batch would kill the process
                columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
                yield convert(columns, number)
                number += batch.num_rows
        except self._errors as error:
            raise self._damaged(error) from error

    def records(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row and its cells of these columns."""
        batches = self.converted(names, lambda columns, _: [column.to_pylist() for column in columns])
        rows = chain.from_iterable(zip(*columns, strict=True) for columns in batches)
        for number, cells in enumerate(rows, 1):
            yield number, dict(zip(names, cells, strict=True))

    def _damaged(self, error: Exception) -> MapError:
        return MapError(
            f"is a damaged {self.kind.split()[1]} file ({' '.join(str(error).split())[:200]})", subject=self.path
        )
