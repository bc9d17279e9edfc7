"""What the tests of carving share: memory dumps made to measure, an independent model, ways to run the program."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    #: a row of a map: its address as printed, and its content; a number is the size of a row that was not written
    Row = tuple[int, bytes | int]

PAGE = 4096
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pid.1624.dmp"
HEADER = "Volatility 3 Framework 2.28.2\n\nVirtual\tPhysical\tSize\tOffset in File\tFile output\n\n"


def noise(seed: int, size: int = PAGE) -> bytes:
    """Return bytes that are the same for the same seed, and not zero."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def map_rows(rows: Sequence[Row], file: str) -> str:
    """Return the rows of one process as Volatility prints them: positions are the sum of the sizes above."""
    lines, place = [], 0
    for number, (virtual, content) in enumerate(rows, 1):
        size = content if isinstance(content, int) else len(content)
        output = "Error outputting to file" if isinstance(content, int) else file
        lines.append(f"0x{virtual:x}\t0x{number * PAGE:x}\t0x{size:x}\t0x{place:x}\t{output}\n")
        place += size
    return "".join(lines)


def dump_bytes(rows: Sequence[Row]) -> bytes:
    """Return what Volatility writes into the dump: the rows that could be written, one after the other."""
    return b"".join(content for _, content in rows if isinstance(content, bytes))


def write_dump(folder: Path, rows: Sequence[Row], pid: int = 4) -> Path:
    """Write a dump and its map beside it; return the dump's path."""
    dump = folder / f"pid.{pid}.dmp"
    dump.write_bytes(dump_bytes(rows))
    (folder / f"pid.{pid}.map").write_text(HEADER + map_rows(rows, dump.name))
    return dump


def write_several(folder: Path, processes: Mapping[int, Sequence[Row]], name: str = "all.map") -> Path:
    """Write one map of several processes and a dump for each; return the map's path."""
    for pid, rows in processes.items():
        (folder / f"pid.{pid}.dmp").write_bytes(dump_bytes(rows))
    table = folder / name
    table.write_text(HEADER + "".join(map_rows(rows, f"pid.{pid}.dmp") for pid, rows in processes.items()))
    return table


def canonical(address: int) -> int:
    """Extend bit 47 through the bits above it."""
    return address | 0xFFFF_0000_0000_0000 if address >> 47 & 1 else address


def halves(row: Row) -> list[Row]:
    """Return a row, or its two parts where it reaches across the middle of the printed address space."""
    address, content = row
    below = (1 << 47) - address
    if not 0 < below < (content if isinstance(content, int) else len(content)):
        return [row]
    parts = (below, content - below) if isinstance(content, int) else (content[:below], content[below:])
    return [(address, parts[0]), (1 << 47, parts[1])]


def model(rows: Sequence[Row]) -> dict[int, bytes]:
    """Return the segments that rows amount to, start to content, by joining what continues the piece before."""
    segments: dict[int, bytes] = {}
    begin = end = None
    for address, content in sorted((canonical(address), content) for row in rows for address, content in halves(row)):
        if isinstance(content, int):
            begin = end = None
        elif begin is not None and address == end:
            segments[begin] += content
            end = address + len(content)
        else:
            segments[address] = content
            begin, end = address, address + len(content)
    return segments


def file_name(start: int, size: int) -> str:
    """Return the name that a segment's file must have."""
    return f"0x{start:016x}-0x{start + size:016x}.bin"


def named(segments: Mapping[int, bytes]) -> dict[str, bytes]:
    """Return the files that must come of segments, name to content."""
    return {file_name(start, len(content)): content for start, content in segments.items()}


def binaries(folder: Path) -> dict[str, bytes]:
    """Return the segment files of a carved folder, name to content."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith(".bin")}


def manifest(folder: Path) -> dict[str, Any]:
    """Return ``segments.json`` as Python's own reader of JSON understands it."""
    with (folder / "segments.json").open(encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too, in order."""
    return sorted(os.listdir(folder))


class Ran(NamedTuple):
    """How a run ended: exit status, standard output, standard error."""

    code: int
    out: bytes
    err: str


def invoke(capture: pytest.CaptureFixture[bytes], *arguments: str | Path) -> Ran:
    """Run the command line within this process."""
    capture.readouterr()
    code = cli._run([str(argument) for argument in arguments])
    sys.stdout.flush()
    out, err = capture.readouterr()
    return Ran(code, out, err.decode())


def run(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    before: str = "",
) -> Ran:
    """Run the command line as a program of its own; the Python text `before` is executed first in it."""
    found = subprocess.run(
        command(*arguments, before=before),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Ran(found.returncode, found.stdout, found.stderr.decode())


def command(*arguments: str | Path, before: str = "") -> list[str]:
    """Return the command line of a run as a program of its own."""
    words = [str(argument) for argument in arguments]
    if before:
        return [sys.executable, "-W", "error", "-c", f"{before}\nfrom memcarve.cli import main; main()", *words]
    return [sys.executable, "-W", "error", "-m", "memcarve", *words]
