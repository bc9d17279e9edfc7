"""First pages of PE and ELF images, written field by field from the formats."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = 0x7FF6_1234_0000
TEXT, DATA, READ_ONLY = 0x60000020, 0xC0000040, 0x40000040  # section characteristics
SECTIONS = ((0x1000, 0x2345, TEXT), (0x4000, 0x100, DATA))
MACHINES = {"x64": 0x8664, "x86": 0x14C, "arm64": 0xAA64, "arm": 0x1C4}
WIPED = {
    "MZ": ((0, b"\0\0"),),
    "PE signature": ((0x80, b"\0\0\0\0"),),
    "MZ and PE signature": ((0, b"??"), (0x80, b"\xff\xff\xff\xff")),
    "MZ and e_lfanew": ((0, bytes(64)),),
    "e_lfanew": ((2, bytes(62)),),
    "optional header's magic": ((0x98, b"\0\0"),),
}


def pe_page(
    machine: str = "x64",
    place: int = 0x80,
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    *,
    size: int = 0x5000,
    traits: int = 0x2022,
    subsystem: int = 3,
    alignment: int = 0x1000,
    directories: dict[int, tuple[int, int]] | None = None,
    count: int | None = None,
) -> bytearray:
    """Return the first page of a PE image: sections are (address, size, flags); field by field from the format."""
    page = bytearray(PAGE)
    wide = machine in ("x64", "arm64")
    length = 240 if wide else 224
    page[:2] = b"MZ"
    struct.pack_into("<I", page, 0x3C, place)
    page[place : place + 4] = b"PE\0\0"
    struct.pack_into("<HH", page, place + 4, MACHINES[machine], len(sections) if count is None else count)
    struct.pack_into("<I", page, place + 8, 0x5F3759DF)
    struct.pack_into("<HH", page, place + 20, length, traits)
    optional = place + 24
    struct.pack_into("<H", page, optional, 0x20B if wide else 0x10B)
    struct.pack_into("<I", page, optional + 16, 0x1234)
    struct.pack_into("<Q" if wide else "<I", page, optional + (24 if wide else 28), 0x1_8000_0000 if wide else 0x400000)
    struct.pack_into("<II", page, optional + 32, alignment, 0x200)
    struct.pack_into("<II", page, optional + 56, size, 0x400)
    struct.pack_into("<H", page, optional + 68, subsystem)
    struct.pack_into("<I", page, optional + (108 if wide else 92), 16)
    for number, (address, taken) in (directories or {}).items():
        struct.pack_into("<II", page, optional + (112 if wide else 96) + 8 * number, address, taken)
    for number, (address, taken, flags) in enumerate(sections):
        at = optional + length + 40 * number
        page[at : at + 5] = b".text"
        struct.pack_into("<IIII", page, at + 8, taken, address, 0x200, 0x400 + 0x200 * number)
        struct.pack_into("<I", page, at + 36, flags)
    return page


def dll_page(sections: Sequence[tuple[int, int, int]], magic: bytes = b"MZ", size: int = 16) -> bytes:
    """Return the first page of a 64-bit DLL of `size` pages; sections are (page, pages, characteristics)."""
    rows = [(page * PAGE, pages * PAGE, characteristics) for page, pages, characteristics in sections]
    return edited(pe_page(sections=rows, size=size * PAGE), (0, magic))


def elf_page(
    loads: Sequence[tuple[int, int, int, int]] = ((0, 0, 0x1800, 5), (0x2000, 0x3000, 0x900, 6)),
    *,
    wide: bool = True,
    order: str = "<",
    kind: int = 3,
    machine: int = 62,
    dynamic: tuple[int, int, int] | None = None,
) -> bytearray:
    """Return the first page of an ELF image: loads are (offset, address, size, flags)."""
    page = bytearray(PAGE)
    page[:7] = bytes([0x7F, *b"ELF", 2 if wide else 1, 1 if order == "<" else 2, 1])
    rows = [(1, *load) for load in loads] + ([(2, *dynamic, 6)] if dynamic else [])
    head, row = (64, 56) if wide else (52, 32)
    struct.pack_into(order + "HHI", page, 16, kind, machine, 1)
    struct.pack_into(order + ("Q" if wide else "I"), page, 32 if wide else 28, head)
    struct.pack_into(order + "HHH", page, 52 if wide else 40, head, row, len(rows))
    for number, (what, offset, address, size, flags) in enumerate(rows):
        at = head + row * number
        if wide:
            struct.pack_into(order + "IIQQQQQQ", page, at, what, flags, offset, address, address, size, size, 0x1000)
        else:
            struct.pack_into(order + "IIIIIIII", page, at, what, offset, address, address, size, size, flags, 0x1000)
    return page


def edited(page: bytes, *edits: tuple[int, bytes]) -> bytes:
    """Return a page with bytes replaced."""
    changed = bytearray(page)
    for at, data in edits:
        changed[at : at + len(data)] = data
    return bytes(changed)


def mapped(oracle: Any, data: bytes) -> bytes:
    """Lay a PE file out as a loader does: headers, and each section at its address."""
    memory = bytearray(oracle.optional_header.sizeof_image)
    head = oracle.optional_header.sizeof_headers
    memory[:head] = data[:head]
    for section in oracle.sections:
        count = min(section.sizeof_raw_data, section.virtual_size or section.sizeof_raw_data)
        begin = section.pointerto_raw_data
        memory[section.virtual_address : section.virtual_address + count] = data[begin : begin + count]
    return bytes(memory)
