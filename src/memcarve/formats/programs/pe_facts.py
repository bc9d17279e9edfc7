"""What identifies a PE image in memory to a debugger: time stamp, size, check sum, CodeView record.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import AddressError
from memcarve.formats.programs import pe

if TYPE_CHECKING:
    from memcarve.formats.programs.pe import Image, Read

_CHECKSUM_AT = 24 + 64
_DEBUG = 6
_ENTRY = struct.Struct("<12xIIII")  # of the debug directory: type, size in bytes, relative address, offset in the file
_MOST_ENTRIES = 16
_CODEVIEW = 2
_HEADS = {b"RSDS": 24, b"NB10": 16}  # what stands before the path of the PDB, in bytes


class Facts(NamedTuple):
    """What an image's headers say; `codeview` is its record up to the zero behind the path, None where it has none."""

    machine: int
    timestamp: int
    size: int
    checksum: int
    codeview: bytes | None


def facts(read: Read) -> Facts | None:
    """Return the facts of an image as it is mapped; None where its first page is not there or is none of an image."""
    try:
        found = pe.image(read(0, pe.PAGE))
        if found is None:
            return None
        checksum = int.from_bytes(read(found.place + _CHECKSUM_AT, 4), "little")
    except AddressError:
        return None
    return Facts(found.machine, found.timestamp, found.size, checksum, _codeview(read, found))


def _codeview(read: Read, found: Image) -> bytes | None:
    """Return the first CodeView record that is there."""
    try:
        count = int.from_bytes(read(found.directories - 4, 4), "little")
        if count <= _DEBUG:
            return None
        address, size = struct.unpack("<II", read(found.directories + 8 * _DEBUG, 8))
        rows = read(address, _ENTRY.size * min(size // _ENTRY.size, _MOST_ENTRIES)) if address else b""
    except AddressError:
        return None
    for kind, length, place, _ in _ENTRY.iter_unpack(rows):
        record = _record(read, place) if kind == _CODEVIEW and place and length > min(_HEADS.values()) else None
        if record is not None:
            return record
    return None


def _record(read: Read, place: int) -> bytes | None:
    try:
        head = read(place, _HEADS.get(read(place, 4), 0))
    except AddressError:
        return None
    path = pe.string_at(read, place + len(head)) if head else None
    return None if path is None else head + path + b"\0"
