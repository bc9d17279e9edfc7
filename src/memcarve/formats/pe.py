"""Headers and export directories of PE images as they lie in memory.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    #: returns `size` bytes at an address relative to the image, zeros where a page is not in memory
    Peek = Callable[[int, int], bytes]

AMD64 = 0x8664

_PE32_PLUS = 0x20B
_MOST_NAMES = 1 << 16
_MOST_TEXT = 1 << 22  # bytes of names that are read in one go
_LONGEST_NAME = 512


class Headers(NamedTuple):
    """What the headers say of an image: sizes in bytes, `exports` as (relative address, size)."""

    machine: int
    timestamp: int
    size_of_image: int
    exports: tuple[int, int]


def headers(data: bytes) -> Headers | None:
    """Read the headers of a 64-bit image from its first page; None where they are not sound."""
    if len(data) < 0x40 or data[:2] != b"MZ":  # noqa: PLR2004
        return None
    place = int.from_bytes(data[0x3C:0x40], "little")
    if place + 0x90 > len(data) or data[place : place + 4] != b"PE\0\0":
        return None
    machine, _, timestamp = struct.unpack_from("<HHI", data, place + 4)
    magic = struct.unpack_from("<H", data, place + 24)[0]
    if magic != _PE32_PLUS:
        return None
    size, count = (struct.unpack_from("<I", data, place + 24 + at)[0] for at in (56, 108))
    exports = struct.unpack_from("<II", data, place + 24 + 112) if count else (0, 0)
    return Headers(machine, timestamp, size, exports)


def export_name(peek: Peek, directory: tuple[int, int]) -> bytes:
    """Return the name that an export directory gives its image; nothing where it cannot be read."""
    at = int.from_bytes(peek(directory[0] + 12, 4), "little")
    return _text(peek(at, _LONGEST_NAME), 0)


def exported(peek: Peek, directory: tuple[int, int], wanted: Collection[bytes]) -> dict[bytes, int]:
    """Return the relative addresses of those of the `wanted` names that an image exports.

    What cannot be read is left out.
    """
    head = peek(directory[0], 40)
    functions, names, functions_at, names_at, ordinals_at = struct.unpack_from("<5I", head, 20)
    names, functions = min(names, _MOST_NAMES), min(functions, _MOST_NAMES)
    places = np.frombuffer(peek(names_at, 4 * names), "<u4")
    ordinals = np.frombuffer(peek(ordinals_at, 2 * names), "<u2")
    addresses = np.frombuffer(peek(functions_at, 4 * functions), "<u4")
    there = places[places != 0]
    found: dict[bytes, int] = {}
    if not len(there) or not len(addresses):
        return found
    low, high = int(there.min()), int(there.max()) + _LONGEST_NAME
    text = peek(low, high - low) if high - low <= _MOST_TEXT else None
    for place, ordinal in zip(places.tolist(), ordinals.tolist(), strict=True):
        if not place or ordinal >= len(addresses):
            continue
        symbol = _text(text, place - low) if text is not None else _text(peek(place, _LONGEST_NAME), 0)
        if symbol in wanted and addresses[ordinal]:
            found.setdefault(symbol, int(addresses[ordinal]))
    return found


def _text(data: bytes, place: int) -> bytes:
    end = data.find(b"\0", place, place + _LONGEST_NAME)
    return data[place:end] if end >= 0 else b""
