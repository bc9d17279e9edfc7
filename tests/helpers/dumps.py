"""Dumps made to measure, with the maps that Volatility prints for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    #: a row of a map: its address as printed, and its content; a number is the size of a row that was not written
    Piece = tuple[int, bytes | int]

HEADER = "Volatility 3 Framework 2.28.2\n\nVirtual\tPhysical\tSize\tOffset in File\tFile output\n\n"


def map_rows(rows: Sequence[Piece], file: str) -> str:
    """Return the rows of one process as Volatility prints them: positions are the sum of the sizes above."""
    lines, place = [], 0
    for number, (virtual, content) in enumerate(rows, 1):
        size = content if isinstance(content, int) else len(content)
        output = "Error outputting to file" if isinstance(content, int) else file
        lines.append(f"0x{virtual:x}\t0x{number * PAGE:x}\t0x{size:x}\t0x{place:x}\t{output}\n")
        place += size
    return "".join(lines)


def dump_bytes(rows: Sequence[Piece]) -> bytes:
    """Return what Volatility writes into the dump: the rows that could be written, one after the other."""
    return b"".join(content for _, content in rows if isinstance(content, bytes))


def write_dump(folder: Path, rows: Sequence[Piece], pid: int = 4) -> Path:
    """Write a dump and its map beside it; return the dump's path."""
    dump = folder / f"pid.{pid}.dmp"
    dump.write_bytes(dump_bytes(rows))
    (folder / f"pid.{pid}.map").write_text(HEADER + map_rows(rows, dump.name))
    return dump


def write_several(folder: Path, processes: Mapping[int, Sequence[Piece]], name: str = "all.map") -> Path:
    """Write one map of several processes and a dump for each; return the map's path."""
    for pid, rows in processes.items():
        (folder / f"pid.{pid}.dmp").write_bytes(dump_bytes(rows))
    table = folder / name
    table.write_text(HEADER + "".join(map_rows(rows, f"pid.{pid}.dmp") for pid, rows in processes.items()))
    return table
