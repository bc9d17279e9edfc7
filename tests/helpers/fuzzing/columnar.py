"""Arrow streams and Parquet files of rows: of other types, in other batches, compressed otherwise, and always sound."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import ipc, parquet as pq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.draw import Draw

#: types for numbers and for texts, those that plugins use first
_NUMBERS = (
    *(pa.uint64(), pa.int64(), pa.uint32(), pa.float64(), pa.string(), pa.decimal128(38), pa.timestamp("ns")),
    *(pa.dictionary(pa.int32(), pa.uint64()), pa.list_(pa.uint64()), pa.bool_(), pa.null(), pa.int8()),
)
_TEXTS = (
    *(pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.string())),
    *(pa.binary(), pa.string_view(), pa.list_(pa.string()), pa.null(), pa.uint64()),
)


def columnar(draw: Draw, rows: Sequence[dict[str, Any]], columns: Sequence[str], kind: str) -> tuple[bytes, bool]:
    """Return a table as ``arrow`` or ``parquet``; and whether its schema and its cells are as plugins write them."""
    usual = draw.chance(0.7)
    odd = set() if usual else set(draw.sample(columns, draw.few(min(3, len(columns)))))
    names, arrays = list(columns), []
    for name in columns:
        values = [row[name] for row in rows]
        number = any(isinstance(value, int) for value in values) or not any(values)
        if name in odd and draw.chance(0.4):
            values[draw.randrange(len(values))] = None
        arrays.append(_array(draw, values, _NUMBERS if number else _TEXTS, odd=name in odd))
    if not usual and draw.chance(0.5):
        _reshaped(draw, names, arrays)
    table, sink = pa.Table.from_arrays(arrays, names=names), io.BytesIO()
    (_write_stream if kind == "arrow" else _write_file)(draw, table, sink)
    return sink.getvalue(), usual


def _array(draw: Draw, values: list[Any], types: Sequence[pa.DataType], *, odd: bool) -> pa.Array:
    """Return values as an array of the usual type or another one; of one that cannot hold them, as the usual one."""
    for kind in (draw.choice(types) if odd else types[0], types[0]):
        try:
            if pa.types.is_list(kind):
                return pa.array([[value] for value in values], kind)
            if pa.types.is_string(kind) and types is _NUMBERS:
                return pa.array([None if value is None else hex(value) for value in values], kind)
            return pa.array(values, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.array([str(value).encode("ascii", "replace").decode() for value in values], pa.string())


def _reshaped(draw: Draw, names: list[str], arrays: list[pa.Array]) -> None:
    """Have a column be gone, there twice, at another place, or of another name; or have one more."""
    at, kind = draw.randrange(len(names)), draw.randrange(5)
    if kind == 0 and len(names) > 1:
        del names[at], arrays[at]
    elif kind == 1:
        names.append(names[at])
        arrays.append(draw.choice(arrays))
    elif kind == 2:
        names.insert(0, names.pop(at))
        arrays.insert(0, arrays.pop(at))
    elif kind == 3:
        names[at] = draw.plain(names[at])
    else:
        names.append("__children")
        arrays.append(pa.array([[] for _ in range(len(arrays[0]))], pa.list_(pa.string())))


def _write_stream(draw: Draw, table: pa.Table, sink: io.BytesIO) -> None:
    options = ipc.IpcWriteOptions(compression=draw.choice((None, None, None, "lz4", "zstd")))
    with ipc.new_stream(sink, table.schema, options=options) as writer:
        for _ in range(draw.choice((0, 2)) if draw.chance(0.04) else 1):
            writer.write_table(table, max_chunksize=draw.choice((1, 2, 3, 1000, 1000)))
        writer.write_table(table.slice(0, 0))


def _write_file(draw: Draw, table: pa.Table, sink: io.BytesIO) -> None:
    pq.write_table(
        table,
        sink,
        row_group_size=draw.choice((1, 2, 1000, 1000)),
        compression=draw.choice(("snappy", "gzip", "zstd", "lz4", "brotli", "none")),
        use_dictionary=draw.chance(0.7),
        write_statistics=draw.chance(0.7),
        data_page_version=draw.choice(("1.0", "2.0")),
        data_page_size=draw.choice((1, 64, None)),
    )
