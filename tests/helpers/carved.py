"""What must come out of a carve, worked out without memcarve, and what did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from memory import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dumps import Piece


def halves(row: Piece) -> list[Piece]:
    """Return a row, or its two parts where it reaches across the middle of the printed address space."""
    address, content = row
    below = (1 << 47) - address
    if not 0 < below < (content if isinstance(content, int) else len(content)):
        return [row]
    parts = (below, content - below) if isinstance(content, int) else (content[:below], content[below:])
    return [(address, parts[0]), (1 << 47, parts[1])]


def model(rows: Sequence[Piece]) -> dict[int, bytes]:
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


def undone(data: bytes, module: dict[str, Any]) -> bytes:
    """Return a file's bytes as they were in memory: without the changes that are listed."""
    found = bytearray(data)
    for change in module["changes"]:
        old, new = bytes.fromhex(change["old"]), bytes.fromhex(change["new"])
        assert found[change["offset"] : change["offset"] + len(new)] == new, change
        found[change["offset"] : change["offset"] + len(old)] = old
    return bytes(found)
