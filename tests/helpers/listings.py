"""Tables of other plugins than memmap in every renderer, written without memcarve: rows are dicts, None is unknown."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from memcarve.formats.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Rows = Sequence[dict[str, Any]]

BANNER = "Volatility 3 Framework 2.28.2"
#: columns that are printed as plain numbers; every other number is printed in hexadecimal
DECIMAL = {"PID", "TID", "CommitCharge", "PrivateMemory", "Major", "Minor", "Inode", "LoadCount"}

VADINFO = (
    "PID", "Process", "Offset", "Start VPN", "End VPN", "Tag", "Protection", "CommitCharge", "PrivateMemory", "Parent",
    "File", "File output",
)  # fmt: skip
VADWALK = ("PID", "Process", "Offset", "Parent", "Left", "Right", "Start", "End", "Tag")
DLLLIST = ("PID", "Process", "Base", "Size", "Name", "Path", "LoadCount", "LoadTime", "File output")
LINUX = ("PID", "Process", "Start", "End", "Flags", "PgOff", "Major", "Minor", "Inode", "File Path", "File output")
MAC = ("PID", "Process", "Start", "End", "Protection", "Map Name", "File output")
THREADS = (
    "Offset", "PID", "TID", "StartAddress", "StartPath", "Win32StartAddress", "Win32StartPath", "CreateTime",
    "ExitTime",
)  # fmt: skip


def vad(start: int, last: int, **other: Any) -> dict[str, Any]:
    """Return a row of windows.vadinfo."""
    plain = {"pid": 4, "process": "a.exe", "tag": "VadS", "protection": "PAGE_READWRITE", "private": 1, "file": None}
    plain |= other
    return {
        "PID": plain["pid"],
        "Process": plain["process"],
        "Offset": 0xFFFFBF0F6D71F860,
        "Start VPN": start,
        "End VPN": last,
        "Tag": plain["tag"],
        "Protection": plain["protection"],
        "CommitCharge": 1,
        "PrivateMemory": plain["private"],
        "Parent": 0,
        "File": plain["file"],
        "File output": "Disabled",
    }


def dll(base: int | None, size: int | None, name: str | None, path: str | None, pid: int = 4) -> dict[str, Any]:
    """Return a row of windows.dlllist."""
    return {
        "PID": pid,
        "Process": "a.exe",
        "Base": base,
        "Size": size,
        "Name": name,
        "Path": path,
        "LoadCount": None,
        "LoadTime": None,
        "File output": "Disabled",
    }


def vma(start: int, end: int, path: str | None, flags: str = "rw-", inode: int = 0, offset: int = 0) -> dict[str, Any]:
    """Return a row of linux.proc.Maps."""
    numbers = {"PgOff": offset, "Major": 8, "Minor": 1, "Inode": inode}
    ends = {"Start": start, "End": end, "Flags": flags}
    return {"PID": 4, "Process": "a", **ends, **numbers, "File Path": path, "File output": "Disabled"}


def thread(tid: int | None, begin: int | None, win32: int | None, pid: int = 4) -> dict[str, Any]:
    """Return a row of windows.threads."""
    addresses = {"StartAddress": begin, "StartPath": None, "Win32StartAddress": win32, "Win32StartPath": None}
    return {"Offset": 0xBF0F6D71F860, "PID": pid, "TID": tid, **addresses, "CreateTime": None, "ExitTime": None}


def _text(column: str, value: Any) -> str:
    if isinstance(value, int):
        return str(value) if column in DECIMAL else hex(value)
    return "N/A" if value is None else str(value)


def _cells(rows: Rows, columns: Sequence[str]) -> list[list[str]]:
    return [[_text(column, row[column]) for column in columns] for row in rows]


def quick(rows: Rows, columns: Sequence[str], banner: str = BANNER) -> bytes:
    """Return the table as ``-r quick`` prints it."""
    lines = [banner, "", "\t".join(columns), "", *("\t".join(row) for row in _cells(rows, columns))]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def expanded(rows: Rows, columns: Sequence[str], width: int = 8) -> bytes:
    """Return the table as a terminal shows it: with spaces for tabs."""
    return quick(rows, columns).decode().expandtabs(width).encode()


def pretty(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as ``-r pretty`` prints it."""
    table = [list(columns), *_cells(rows, columns)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    text = "".join(f"{'* | ' if number else '  | '}{line}\n" for number, line in enumerate(lines))
    return f"{BANNER}\n{text}".encode()


def csv(rows: Rows, columns: Sequence[str], *, doubled: bool = True, quoted: bool = False) -> bytes:
    """Return the table as ``-r csv`` prints it, with its backslashes doubled as by Python 3.10 and later."""

    def cell(text: str) -> str:
        text = text.replace("\\", "\\\\") if doubled else text
        text = text.replace('"', '""')
        return f'"{text}"' if quoted or set(text) & set('",\n') else text

    lines = [["TreeDepth", *columns], *(["0", *row] for row in _cells(rows, columns))]
    return "".join(f"{','.join(map(cell, line))}\n" for line in [*lines, []]).encode()


def old_csv(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as releases up to 2.0.1 printed it with Python before 3.10."""
    return csv(rows, columns, doubled=False, quoted=True)


def json_array(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as ``-r json`` prints it."""
    return f"\n{json.dumps(_records(rows, columns), indent=2, sort_keys=True)}\n".encode()


def json_lines(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as ``-r jsonl`` prints it."""
    return ("\n" + "".join(f"{json.dumps(record)}\n" for record in _records(rows, columns))).encode()


def arrow(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as ``-r arrow`` writes it."""
    from pyarrow import ipc  # noqa: PLC0415 - an extra

    table, sink = _arrow_table(rows, columns), io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(rows: Rows, columns: Sequence[str]) -> bytes:
    """Return the table as ``-r parquet`` writes it."""
    from pyarrow import parquet as pq  # noqa: PLC0415

    sink = io.BytesIO()
    pq.write_table(_arrow_table(rows, columns), sink, compression="snappy")
    return sink.getvalue()


def _records(rows: Rows, columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{**{name: row[name] for name in columns}, "__children": []} for row in rows]


def _arrow_table(rows: Rows, columns: Sequence[str]) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    arrays = []
    for name in columns:
        values = [row[name] for row in rows]
        number = any(isinstance(value, int) for value in values)
        arrays.append(pa.array(values, pa.uint64() if number else pa.string()))
    return pa.table(arrays, names=list(columns))


TEXTS: dict[str, Callable[..., bytes]] = {
    "quick": quick,
    "expanded": expanded,
    "pretty": pretty,
    "csv": csv,
    "old csv": old_csv,
}
RECORDS: dict[str, Callable[..., bytes]] = {"json": json_array, "jsonl": json_lines}
BINARIES: dict[str, Callable[..., bytes]] = {"arrow": arrow, "parquet": parquet}
RENDERERS = {**TEXTS, **RECORDS, **BINARIES}

#: of each kind of table: the columns that are used, in words of their own; and the stem of its samples
USED = {
    "windows.vadinfo": ("PID", "Start VPN", "End VPN", "Tag", "Protection", "PrivateMemory", "File"),
    "windows.vadwalk": ("PID", "Start", "End", "Tag"),
    "windows.dlllist": ("PID", "Base", "Size", "Name", "Path"),
    "linux.proc.Maps": ("PID", "Start", "End", "Flags", "PgOff", "Major", "Minor", "Inode", "File Path"),
    "mac.proc_maps.Maps": ("PID", "Start", "End", "Protection", "Map Name"),
    "windows.threads or windows.thrdscan": ("PID", "TID", "StartAddress", "Win32StartAddress"),
}


SAMPLED = {
    **{f"vad/{name}.{{}}": f"windows.{name}" for name in ("vadinfo", "vadwalk", "dlllist")},
    **{f"e2e/{name}.{{}}.stdout": f"windows.{name}" for name in ("vadinfo", "vadwalk")},
    "linux_mac/linux.proc.Maps.{}": "linux.proc.Maps",
    "linux_mac/mac.proc_maps.Maps.{}": "mac.proc_maps.Maps",
}


TABLES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "windows.vadinfo": (
        [
            vad(0x7FFE0000, 0x7FFE0FFF, protection="PAGE_READONLY"),
            vad(0x1C0000, 0x3A1FFF, tag="Vad ", protection="PAGE_EXECUTE_WRITECOPY", private=0, file="\\a b\\c, d.exe"),
            vad(0, 0xFFFFFFFFFFFFFFFF, pid=0, process="two words", protection="PAGE_NOACCESS"),
        ],
        VADINFO,
    ),
    "windows.dlllist": (
        [
            dll(0x7FF6A0000000, 0x1E2000, "a b.exe", "C:\\Users\\John Doe\\a b.exe"),
            dll(None, None, None, None),
            dll(0x10000, 0, "x.dll", "\\\\server\\share\\x.dll"),
        ],
        DLLLIST,
    ),
    "linux.proc.Maps": (
        [
            vma(0x400000, 0x409000, "/sbin/init", "r-x", 652843, 0x2000),
            vma(0x23FB000, 0x241C000, "[heap]"),
            vma(0x7F0000000000, 0x7F0000001000, "Anonymous Mapping"),
            vma(0x7F0000002000, 0x7F0000003000, "/srv/a b (deleted)", "---", 3),
        ],
        LINUX,
    ),
    "mac.proc_maps.Maps": (
        [
            {"PID": 1, "Process": "launchd", "Start": 0x1000, "End": 0x3000, "Protection": "r-x", "Map Name": "/a b",
             "File output": "Disabled"},
        ],
        MAC,
    ),
    "windows.threads or windows.thrdscan": (
        [thread(8, 0x7FFD0000, 0x401000), thread(12, None, None), thread(16, 0xF80012345678, 0, pid=0)],
        THREADS,
    ),
}  # fmt: skip
BOTH = [vad(0x1000, 0x1FFF, pid=4), vad(0x5000, 0x5FFF, pid=8), vad(0x7000, 0x7FFF, pid=4)]
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/usr/bin/vol", line 8, in <module>\n'
    "volatility3.framework.exceptions.PagedInvalidAddressException: Page Fault at entry 0x0 in page directory\n"
)


def held(kind: str) -> list[dict[str, Any]]:
    """Return what a table of TABLES holds in the columns that are used."""
    return [{name: row[name] for name in USED[kind]} for row in TABLES[kind][0]]


def read(path: str) -> list[dict[str, Any]]:
    """Return the cells of each row."""
    with Listing(path) as listing:
        return [cells for _, cells in listing.rows()]
