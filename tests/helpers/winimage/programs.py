"""Programs and libraries as they lie in memory: headers of 64 and of 32 bits, and the pages behind them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from winimage.contents import PAGE, SHARED, page_bytes
from winimage.kernel import Section, header


class Content(NamedTuple):
    """Pages from an address that are in memory: their bytes, or None for the usual ones; what the page tables allow."""

    address: int
    data: bytes | None
    pages: int = 1
    protection: str = "RW"


CODE, CONSTANTS, DATA = 0x60000020, 0x40000040, 0xC0000040
#: how many pages of constants and of data a module ends with
_CONSTANTS, _DATA = 3, 4


def sections(pages: int) -> tuple[Section, ...]:
    """Return the sections of a module of so many pages."""
    constants = pages - _CONSTANTS - _DATA
    return (
        Section(b".text", PAGE, (constants - 1) * PAGE, CODE),
        Section(b".rdata", constants * PAGE, _CONSTANTS * PAGE, CONSTANTS),
        Section(b".data", (pages - _DATA) * PAGE, _DATA * PAGE, DATA),
    )


def code(address: int, pages: int) -> bytes:
    """Return what all processes have as code at an address."""
    return b"".join(page_bytes(0, SHARED, address + number * PAGE) for number in range(pages))


def header32(base: int, size: int, parts: tuple[Section, ...], exports: tuple[int, int] = (0, 0)) -> bytes:
    """Return a page of PE32 headers; `exports` are address and size of the export directory."""
    optional = struct.pack("<HBBIIIIII", 0x10B, 14, 20, PAGE, PAGE, 0, PAGE, PAGE, PAGE)
    optional += struct.pack("<IIIHHHHHHIIIIHH", base, PAGE, 0x200, 6, 0, 6, 0, 6, 0, 0, size, 0x400, 0, 2, 0x140)
    optional += struct.pack("<IIIIII", 0x80000, 0x2000, 0x100000, 0x1000, 0, 16)
    optional += struct.pack("<II", *exports) + bytes(120)
    data = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0\xb8".ljust(0x3C, b"\0") + struct.pack("<I", 0xE8)
    data = data.ljust(0xE8, b"\0")
    data += b"PE\0\0" + struct.pack("<HHIIIHH", 0x14C, len(parts), 0x5A5B4C3D, 0, 0, len(optional), 0x102) + optional
    for part in parts:
        data += struct.pack("<8sIIIIIIHHI", part.name, part.size, part.start, part.size, part.start - 0xC00, 0, 0, 0, 0,
                            part.flags)  # fmt: skip
    return data.ljust(PAGE, b"\0")


def module(base: int, pages: int, *, narrow: bool = False, wiped: bool = False, patched: bool = False) -> list[Content]:
    """Return what is in memory of a module: its header, some code, constants and data.

    `narrow`: of 32 bits. `wiped`: the header is all zero. `patched`: one page of code is writable, too.
    """
    parts = sections(pages)
    head = bytes(PAGE) if wiped else (header32 if narrow else header)(base, pages * PAGE, parts)
    text, constants, data = (base + part.start for part in parts)
    return [
        Content(base, head, 1, "R"),
        Content(text, code(text, 2), 2, "RX"),
        Content(text + 2 * PAGE, code(text + 2 * PAGE, 1), 1, "RWX" if patched else "RX"),
        Content(constants, None, 1, "R"),
        Content(data, None, 2, "RW"),
    ]
