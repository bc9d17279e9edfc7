"""A kernel as it was linked (``vmlinux``): its sections, symbols, banner and build id.

Source: System V ABI, chapters 4 and 5; elf(5). The build id is a note of the name GNU and type 3 (ld(1), --build-id).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.elf_layout import BITS, HEADER_SIZES, HEADERS, IDENT, MAGIC, ORDERS
from memcarve.formats.kernel_types.btf import LONGEST_NAME

if TYPE_CHECKING:
    from memcarve.backing import FileBacking

_SECTION = {32: "10I", 64: "IIQQQQIIQQ"}  # name, type, flags, address, offset, size, link, info, align, entry size
_NOBITS, _ALLOCATED, _COMPRESSED, _PROGBITS, _NOTE = 8, 2, 1 << 11, 1, 7
_MOST_SECTIONS = 1 << 16
_MOST_NAMES = 1 << 22
_MOST_SYMBOLS = 1 << 30  # bytes of symbols, or of their names
_BANNER = re.compile(rb"Linux version \d[^\0\n]{1,480}\n\0")
_BLOCK, _OVERLAP = 1 << 22, 512
RELOCATABLE = 1  # e_type


class Section(NamedTuple):
    """Where a section lies in the file, in bytes; `entries` is the size of what it is a table of."""

    kind: int
    flags: int
    offset: int
    size: int
    link: int
    entries: int

    @property
    def compressed(self) -> bool:
        """Whether a header says how its content is compressed (SHF_COMPRESSED)."""
        return bool(self.flags & _COMPRESSED)


class Vmlinux:
    """An ELF file: `sections` by name, of those that are in the file; `kind` is e_type. None of it is believed.

    Raises ValueError if it is no ELF file, or its sections do not lie in it.
    """

    def __init__(self, file: FileBacking) -> None:
        self.file = file
        head = file.read_at(0, min(file.size, HEADER_SIZES[64]))
        bits, order = (BITS.get(head[4]), ORDERS.get(head[5])) if len(head) > IDENT else (None, None)
        if not head.startswith(MAGIC) or bits is None or order is None or len(head) < HEADER_SIZES[bits]:
            raise ValueError("no ELF header")
        self.bits, self.order = bits, order
        fields = struct.unpack_from(order + HEADERS[bits], head, IDENT)
        self.kind, at, width, count, names = fields[0], fields[5], fields[10], fields[11], fields[12]
        row = struct.Struct(order + _SECTION[bits])
        if at and not count and at + row.size <= file.size:  # more than fit into the header's number
            first = row.unpack(file.read_at(at, row.size))
            count, names = first[5], first[6] if names == 0xFFFF else names  # noqa: PLR2004 - SHN_XINDEX
        if not at or width != row.size or count > _MOST_SECTIONS or at + width * count > file.size or names >= count:
            raise ValueError("no section headers in the file")
        rows = list(row.iter_unpack(file.read_at(at, width * count)))
        self.table = [Section(each[1], each[2], each[4], each[5], each[6], each[9]) for each in rows]
        text = self.read(self.table[names], _MOST_NAMES)
        self.sections: dict[str, Section] = {}
        for each, section in zip(rows, self.table, strict=True):
            name = text[each[0] : each[0] + 64].split(b"\0", 1)[0].decode("ascii", "backslashreplace")
            if section.kind != _NOBITS and section.offset + section.size <= file.size:
                self.sections.setdefault(name, section)

    def read(self, section: Section, most: int) -> bytes:
        """Return a section's bytes; raises ValueError if they are not in the file, or more than `most`."""
        if section.kind == _NOBITS or section.size > most or section.offset + section.size > self.file.size:
            raise ValueError("a section is not in the file")
        return self.file.read_at(section.offset, section.size)

    @property
    def build_id(self) -> str | None:
        """The identity that the linker gave it, in hexadecimal; None if there is none."""
        for section in self.table:
            if section.kind != _NOTE or section.size > 1 << 16:
                continue
            try:
                data, at = self.read(section, 1 << 16), 0
            except ValueError:
                continue
            while at + 12 <= len(data):
                name, size, kind = struct.unpack_from(f"{self.order}3I", data, at)
                begin = at + 12 + (name + 3) // 4 * 4
                if kind == 3 and data[at + 12 : begin] == b"GNU\0":  # noqa: PLR2004 - NT_GNU_BUILD_ID
                    return data[begin : begin + min(size, 64)].hex() or None
                at = begin + (size + 3) // 4 * 4
        return None

    @property
    def banner(self) -> str | None:
        """What the kernel says of itself, without the end of the line; None if it is not in the file."""
        for section in self.table:
            if section.kind != _PROGBITS or not section.flags & _ALLOCATED:
                continue
            end = min(section.offset + section.size, self.file.size)
            for at in range(section.offset, end, _BLOCK):
                found = _BANNER.search(self.file.read_at(at, min(_BLOCK + _OVERLAP, end - at)))
                if found is not None:
                    return found[0][:-2].decode("utf-8", "backslashreplace")
        return None

    @property
    def symbols(self) -> dict[str, int] | None:
        """The addresses of symbols as the kernel was linked, of several of one name the first; None without a table."""
        table = self.sections.get(".symtab")
        if table is None or table.link >= len(self.table):
            return None
        order, wide = self.order, self.bits == 64  # noqa: PLR2004 - EI_CLASS
        value = f"{order}u8" if wide else f"{order}u4"
        middle = [("info", "u1"), ("other", "u1"), ("section", f"{order}u2")]
        where = [("value", value), ("size", value)]
        dtype = np.dtype([("name", f"{order}u4"), *(middle + where if wide else where + middle)])
        try:
            names, data = self.read(self.table[table.link], _MOST_SYMBOLS), self.read(table, _MOST_SYMBOLS)
        except ValueError:
            return None
        rows = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
        rows = rows[rows["section"] != 0][: _MOST_SYMBOLS // 256]
        found: dict[str, int] = {}
        for place, address in zip(rows["name"].tolist(), rows["value"].tolist(), strict=True):
            name = names[place : place + LONGEST_NAME].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            if name:
                found.setdefault(name, address)
        return found
