"""Memory maps as Volatility 2 and 3 and Rekall print them, and the dumps whose bytes say their address.

Nothing here uses memcarve's own parsing or arithmetic: what the tests expect is worked out independently.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from memory import canonical, content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Writer = Callable[[Sequence[tuple[str, int, Sequence["Row"]]]], bytes]

BANNER = "Volatility 3 Framework 2.28.2"
COLUMNS = ("Virtual", "Physical", "Size", "Offset in File", "File output")
FAILED = "Error outputting to file"


class Row(NamedTuple):
    """A row of a map: what is printed."""

    virtual: int
    size: int
    offset: int = 0
    file: str = "pid.4.dmp"
    physical: int = 0x401000

    def cell(self, column: str) -> int | str:
        """Return the cell of a column of Volatility 3, or of one that holds the same under another name."""
        return {
            "Virtual": self.virtual,
            "Physical": self.physical,
            "Size": self.size,
            "Offset in File": self.offset,
            "Offset": self.virtual,
            "File output": self.file,
        }[column]


def written(ranges: Iterable[tuple[int, int]], file: str = "pid.4.dmp", failed: Sequence[int] = ()) -> list[Row]:
    """Return the rows that Volatility prints for (virtual, size) ranges; `failed` are the indices of error rows."""
    rows, offset = [], 0
    for index, (virtual, size) in enumerate(ranges):
        rows.append(Row(virtual, size, offset, FAILED if index in failed else file, 0x400000 + offset))
        offset += size
    return rows


def dump_of(rows: Iterable[Row], bit: int = 47) -> bytes:
    """Return the dump that belongs to rows: the bytes of those that were written, one after the other."""
    return b"".join(content(canonical(row.virtual, bit), row.size) for row in rows if row.file != FAILED)


# the renderers: rows and the names of the columns that are shown -> bytes


def quick(rows: Iterable[Row], columns: Sequence[str] = COLUMNS, banner: str = BANNER) -> bytes:
    """Return the map as ``-r quick`` prints it."""
    lines = [banner, "", "\t".join(columns), ""] + ["\t".join(_texts(row, columns)) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def expanded(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as a terminal shows it: with spaces for tabs."""
    return quick(rows, columns).decode().expandtabs(8).encode()


def pretty(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r pretty`` prints it."""
    table = [list(columns), *(_texts(row, columns) for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    marked = ["* | " * bool(number) or "  | " for number in range(len(lines))]
    text = "".join(f"{mark}{line}\n" for mark, line in zip(marked, lines, strict=True))
    return f"{BANNER}\n{text}".encode()


def csv(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r csv`` prints it."""
    lines = [",".join(["TreeDepth", *columns]), *(",".join(["0", *_texts(row, columns)]) for row in rows), ""]
    return "".join(f"{line}\n" for line in lines).encode()


def quoted_csv(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r csv`` printed it up to 2.0.1: with quotes."""
    lines = [",".join(f'"{name}"' for name in ["TreeDepth", *columns])]
    lines += [",".join(["0", *(f'"{cell}"' for cell in _texts(row, columns))]) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def json_array(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r json`` prints it."""
    return f"\n{json.dumps(_records(rows, columns), indent=2, sort_keys=True)}\n".encode()


def json_lines(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r jsonl`` prints it."""
    return ("\n" + "".join(f"{json.dumps(record)}\n" for record in _records(rows, columns))).encode()


def arrow(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r arrow`` writes it."""
    from pyarrow import ipc  # noqa: PLC0415 - an extra

    table, sink = _arrow_table(rows, columns), io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return the map as ``-r parquet`` writes it."""
    from pyarrow import parquet as pq  # noqa: PLC0415

    sink = io.BytesIO()
    pq.write_table(_arrow_table(rows, columns), sink, compression="snappy")
    return sink.getvalue()


TEXTS: dict[str, Callable[..., bytes]] = {
    "quick": quick,
    "pretty": pretty,
    "csv": csv,
    "quoted csv": quoted_csv,
    "expanded": expanded,
}
JSONS: dict[str, Callable[..., bytes]] = {"json": json_array, "jsonl": json_lines}
BINARIES: dict[str, Callable[..., bytes]] = {"arrow": arrow, "parquet": parquet}
RENDERERS = {**TEXTS, **JSONS, **BINARIES}


def volatility2(processes: Sequence[tuple[str, int, Sequence[Row]]], digits: int = 16) -> bytes:
    """Return the text of Volatility 2's memmap for processes (name, pid, rows); `digits` is 8 for 32-bit profiles."""
    width, parts = digits + 2, []
    for name, pid, rows in processes:
        lines = [
            f"{name} pid: {pid:6}",
            f"{'Virtual':{width}} {'Physical':{width}} {'Size':>{width}} {'DumpFileOffset':>14}",
            " ".join(["-" * width] * 3 + ["-" * 14]),
        ]
        lines += [
            f"0x{row.virtual:0{digits}x} 0x{row.physical:0{digits}x} {hex(row.size):>{width}} {hex(row.offset):>14}"
            for row in rows
        ]
        parts.append("".join(f"{line}\n" for line in lines))
    return f"{'*' * 72}\n".join(parts).encode()


def greptext(processes: Sequence[tuple[str, int, Sequence[Row]]]) -> bytes:
    """Return the greptext of Volatility 2's memmap."""
    lines = ["Process|PID|Virtual|Physical|Size|DumpFileOffset"]
    lines += [
        f">|{name}|{pid}|{hex(row.virtual):>16}|{hex(row.physical):>16}|{hex(row.size):>16}|{hex(row.offset):>16}"
        for name, pid, rows in processes
        for row in rows
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def volatility2_json(processes: Sequence[tuple[str, int, Sequence[Row]]]) -> bytes:
    """Return the JSON of Volatility 2's memmap."""
    rows = [
        [name, pid, row.virtual, row.physical, row.size, row.offset] for name, pid, rows in processes for row in rows
    ]
    columns = ["Process", "PID", "Virtual", "Physical", "Size", "DumpFileOffset"]
    return json.dumps({"rows": rows, "columns": columns}).encode()


def rekall_index(rows: Iterable[Row]) -> bytes:
    """Return the index that Rekall's memdump writes."""
    lines = [" File Address      Length      Virtual Addr ", "-------------- -------------- --------------"]
    lines += [f"0x{row.offset:012x} 0x{row.size:012x} 0x{row.virtual:012x}" for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _texts(row: Row, columns: Sequence[str]) -> list[str]:
    return [cell if isinstance(cell, str) else hex(cell) for cell in map(row.cell, columns)]


def _records(rows: Iterable[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{**{name: row.cell(name) for name in sorted(columns)}, "__children": []} for row in rows]


def _arrow_table(rows: Iterable[Row], columns: Sequence[str]) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    rows = list(rows)
    arrays = [
        pa.array([row.cell(name) for row in rows], pa.string() if name == "File output" else pa.uint64())
        for name in columns
    ]
    return pa.table(arrays, names=list(columns))
