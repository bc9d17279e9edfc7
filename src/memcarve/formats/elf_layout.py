"""Where the fields of ELF headers, program headers and section headers are.

Source: System V ABI, chapters 4 and 5; elf(5).
"""

from __future__ import annotations

import struct

import numpy as np

MAGIC = b"\x7fELF"
IDENT = 16  # bytes of e_ident
BITS = {1: 32, 2: 64}  # by EI_CLASS
ORDERS = {1: "<", 2: ">"}  # by EI_DATA
CORE = 4  # e_type ET_CORE
#: behind e_ident: e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum,
#: e_shentsize, e_shnum, e_shstrndx
HEADERS = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
HEADER_SIZES = {bits: IDENT + struct.calcsize("<" + fields) for bits, fields in HEADERS.items()}
#: where sh_info is in a section header, and how long that is
SECTIONS = {32: (28, 40), 64: (44, 64)}
_NAMES = ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")
_WIDE_NAMES = ("offset", "vaddr", "paddr", "filesz", "memsz", "align")


def program_type(bits: int, order: str = "<") -> np.dtype[np.void]:
    """Return the layout of a program header."""
    if bits == 32:  # noqa: PLR2004 - EI_CLASS
        return np.dtype([(name, f"{order}u4") for name in _NAMES])
    wide = [(name, f"{order}u8") for name in _WIDE_NAMES]
    return np.dtype([("type", f"{order}u4"), ("flags", f"{order}u4"), *wide])


def is_core(head: bytes) -> bool:
    """Return True if a file that begins like this is an ELF core."""
    if len(head) <= IDENT or head[:4] != MAGIC or head[4] not in BITS:
        return False
    return int.from_bytes(head[16:18], "big" if ORDERS.get(head[5]) == ">" else "little") == CORE
