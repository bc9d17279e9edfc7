"""LiME: a header before each range of physical memory, and then its bytes.

The specification is LiME's own: "LiME Memory Range Header Version 1" in doc/README.md of 504ensicsLabs/LiME. A header
is 32 bytes, little-endian: magic (0x4C694D45), version (1), first and last address of the range, 8 bytes reserved. AVML
writes the same where it does not compress.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import InputError
from memcarve.formats.machine import bounded, column, machine, read_at

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.formats.machine import MachineMemory

MAGIC = b"EMiL"
VERSION = 1
HEADER = struct.Struct("<4sIQQQ")
_LARGEST = (1 << 64) - 1


class Header(NamedTuple):
    """A range's header: `start` is its physical address, `size` its bytes (0 where it says that it is empty)."""

    magic: bytes
    version: int
    start: int
    size: int


def parse_header(data: bytes) -> Header | None:
    """Return the header in 32 bytes; None where its last address lies before its first."""
    magic, version, first, last, _ = HEADER.unpack(data)
    size = last - first + 1
    return None if size < 0 else Header(magic, version, first, size)


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None where the file is not LiME's.

    Raises InputError where the file is of another version, or its first header makes no sense, or it has more ranges
    than any machine; and SourceReadError. A later header that makes no sense ends the table, and a note says so.
    """
    return walk(file, "LiME", MAGIC)


def walk(file: FileBacking, kind: str, magic: bytes) -> MachineMemory | None:
    """Return the memory of headers with `magic`, each followed by its bytes; `kind` is what to call it. See `read`."""
    begin = read_at(file, 0, HEADER.size)
    if begin[: len(magic)] != magic:
        return None
    if len(begin) == HEADER.size:
        first = parse_header(begin)
        if first is None or first.version != VERSION:
            found = "a range that ends before it begins" if first is None else f"version {first.version}"
            raise InputError(f"{file.path}: is {kind}, but its first header has {found}; expected version {VERSION}")
    start, size, offset = array("Q"), array("Q"), array("Q")
    position = 0
    notes: tuple[str, ...] = ()
    while position < file.size:
        data = read_at(file, position, HEADER.size)
        header = parse_header(data) if len(data) == HEADER.size else None
        if header is None or header.magic != magic or header.version != VERSION:
            notes = (broken_off(file, position, len(data)),)
            break
        bounded(file, len(start) + 1, "ranges")
        position += HEADER.size
        start.append(header.start)
        size.append(min(header.size, _LARGEST))
        offset.append(position)
        position += header.size
    # behind a header that is cut off there may have been more
    return machine(kind, file, (column(start), column(size), column(offset)), declared=not notes, notes=notes)


def broken_off(file: FileBacking, position: int, count: int) -> str:
    """Return the note on a header at `position`, of whose 32 bytes `count` are there, with which reading ended."""
    left = file.size - position
    if count < HEADER.size:
        return f"the file ends inside a range's header at offset 0x{position:x}; its last {left} bytes are not used"
    return f"at offset 0x{position:x} a range's header was expected and is not there; {left} bytes are not used"
