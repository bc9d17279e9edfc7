"""PE images made files again: section headers that say where the bytes lie now, nothing else touched.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format). What the headers say of places in
the file that are not in memory (symbols, certificates, line numbers) leads nowhere in the new one and is taken out.
What stands in sections stays as it was, but for one field of the debug directory, which says where in the file the name
of the PDB is. Each change is listed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import AddressError
from memcarve.formats.programs import mapped_module, pe
from memcarve.formats.programs.mapped_module import (
    AS_IT_LIES,
    PAGE,
    Change,
    Image,
    Part,
    Plan,
    between,
    offset_in_file,
    up,
)
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from memcarve.formats.programs.mapped_module import MappedModule, Read

_HEADER = 24  # bytes before the optional header
_ROW = 40  # bytes of a section header
_COUNT_AT, _SYMBOLS_AT, _LENGTH_AT = 6, 12, 20
_ALIGNMENT_AT, _STORED_AT, _SIZE_AT, _HEAD_AT = 24 + 32, 24 + 36, 24 + 56, 24 + 60
_LFANEW = 0x3C
_NARROW, _WIDE = 0x10B, 0x20B
_DIRECTORIES_WIDE = 112  # in the optional header
_BASE_AT = {True: (24 + 24, 8), False: (24 + 28, 4)}  # ImageBase: place and size, by whether it is PE32+
_CERTIFICATES, _RELOCATIONS, _DEBUG = 4, 5, 6
_DEBUG_ROW, _DEBUG_ADDRESS_AT, _DEBUG_POINTER_AT = 28, 20, 24
_MOST_DEBUG = 16
_MOST_DIRECTORIES = 16
_SMALLEST, _LARGEST = 0x200, 1 << 16  # FileAlignment
_BLOCK_HEAD = 8  # of base relocations
_LARGEST_FILE = 1 << 32
_RELOCATION_PAGE = 4096


class _Head(NamedTuple):
    """The header's bytes and where things are in it."""

    page: bytes
    image: pe.Image

    @property
    def wide(self) -> bool:
        return self.image.directories - self.image.place - _HEADER == _DIRECTORIES_WIDE

    @property
    def table(self) -> int:
        """Where section headers begin."""
        return self.image.place + _HEADER + self.number(self.image.place + _LENGTH_AT, 2)

    @property
    def end(self) -> int:
        """Where they end."""
        return self.table + _ROW * self.number(self.image.place + _COUNT_AT, 2)

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.page[at : at + size], "little")

    def directory(self, number: int) -> tuple[int, int]:
        """Return address and size of a data directory; zeros where there is none."""
        at = self.image.directories + 8 * number
        count = self.number(self.image.directories - 4, 4)
        if number >= min(count, _MOST_DIRECTORIES) or at + 8 > len(self.page):
            return 0, 0
        return self.number(at, 4), self.number(at + 4, 4)

    def name(self, number: int) -> str:
        at = self.table + _ROW * number
        return self.page[at : at + 8].rstrip(b"\0").decode("utf-8", "backslashreplace")


def plan(module: MappedModule, page: bytes, found: pe.Image, read: Read, layout: str) -> Plan:
    """Return how a file is made of a PE image whose header `found` was read from `page`, its first.

    With layout ``"file"`` that is one whose section headers lead to its sections; where they cannot, it is as in
    memory, with the reason. What lies there as in its file is copied as it lies. `layout` is one of vocabulary.Layout.
    """
    head = _Head(page, found)
    if not module.loaded and lies_as_in_file(page, found, read):
        return _plan_as_it_lies(module, head)
    sections = [
        Part(head.name(number), row.address, up(row.size), None, row.permissions)
        for number, row in enumerate(found.sections)
    ]
    image = Image(found.size, tuple(sections))
    if layout != Layout.FILE:
        return mapped_module.plan_memory(module, image)
    if head.number(found.place + _ALIGNMENT_AT, 4) < PAGE and not sections:
        # such an image is mapped as it lies in its file
        whole = mapped_module.plan_memory(module, image)
        changes = [each for each in _marks(head) + _base(module, head) if each.offset + len(each.new) <= whole.size]
        return whole._replace(layout=Layout.FILE, changes=tuple(changes))
    if not sections:
        return mapped_module.plan_memory(module, image, "its section headers are not sound, or not in its first page")
    if found.sections[0].address < head.end:
        return mapped_module.plan_memory(module, image, "its first section lies where its headers do")
    return _plan_file(module, head, image, read)


def lies_as_in_file(page: bytes, found: pe.Image, read: Read) -> bool:
    """Say whether an image lies in memory as in its file: sections at their offsets, not at their addresses.

    Base relocations and names tell, where they are found at one of the two places; else what the first page holds where
    the first section begins in the file, which is nothing where the image is mapped.
    """
    stored = [row for row in found.sections if row.stored]
    if all(row.offset == row.address for row in stored):
        return False
    head = _Head(page, found)
    address, size = head.directory(_RELOCATIONS)
    if size:
        places = (address, _offset_of(found, address))
        there = [place is not None and _are_relocations(read, place, min(size, found.size)) for place in places]
        if there[0] != there[1]:
            return there[1]
    first = min(row.offset for row in stored)
    return head.end <= first < len(page) and any(page[first:])


def _are_relocations(read: Read, place: int, size: int) -> bool:
    """Say whether base relocations begin at a place: two blocks of them, or all of the directory."""
    done = 0
    try:
        for _ in range(2):
            if done + _BLOCK_HEAD > size:
                break
            page, length = struct.unpack("<II", read(place + done, _BLOCK_HEAD))
            if page % _RELOCATION_PAGE or not _BLOCK_HEAD <= length <= size - done or length % 2:
                return False
            done += length
    except AddressError:
        return False
    return done > 0


def _offset_of(found: pe.Image, address: int) -> int | None:
    for row in found.sections:
        if row.address <= address < row.address + min(row.stored, up(row.size)):
            return row.offset + address - row.address
    return None


def _plan_as_it_lies(module: MappedModule, head: _Head) -> Plan:
    """Return the file that lies in memory: up to its last section, or its certificates, which are behind them."""
    rows = head.image.sections
    ends = [row.offset + row.stored for row in rows if row.stored]
    begin, size = head.directory(_CERTIFICATES)
    if begin == up(max(ends), 8) and module.room(begin + size) == begin + size:
        ends.append(begin + size)
    whole = module.room(max(ends))
    sections = [
        Part(head.name(number), row.offset, row.stored, row.offset, row.permissions)
        for number, row in enumerate(rows)
        if row.stored
    ]
    return Plan(AS_IT_LIES, whole, between(sections, whole, in_file=True), why=mapped_module.WHY_AS_IT_LIES)


def _plan_file(module: MappedModule, head: _Head, image: Image, read: Read) -> Plan:
    found = head.image
    given = head.number(found.place + _STORED_AT, 4)
    sound = _SMALLEST <= given <= _LARGEST and not given & (given - 1)
    alignment = max(given, PAGE) if sound else PAGE
    front = min(max(up(head.number(found.place + _HEAD_AT, 4)), up(head.end)), found.sections[0].address)
    front = module.room(front)
    if front < head.end:
        return mapped_module.plan_memory(module, image, "its mapping ends within its headers")
    parts = [Part(None, 0, front, 0)]
    changes = _marks(head) + _base(module, head) + _gone(head)
    if not sound:
        changes.append(_change(head, "FileAlignment", found.place + _STORED_AT, 4, _SMALLEST))
    if not head.end <= head.number(found.place + _HEAD_AT, 4) <= front:
        changes.append(_change(head, "SizeOfHeaders", found.place + _HEAD_AT, 4, front))
    end = up(front, alignment)
    for number, section in enumerate(image.sections):
        at = head.table + _ROW * number
        size = max(module.room(section.address + section.size) - section.address, 0)
        stored = up(size, alignment)
        changes += _changed(
            head,
            (f"SizeOfRawData of {section.name}", at + 16, 4, stored),
            (f"PointerToRawData of {section.name}", at + 20, 4, end if size else 0),
            (f"PointerToRelocations of {section.name}", at + 24, 4, 0),
            (f"PointerToLinenumbers of {section.name}", at + 28, 4, 0),
            (f"NumberOfRelocations of {section.name}", at + 32, 2, 0),
            (f"NumberOfLinenumbers of {section.name}", at + 34, 2, 0),
        )
        if size:
            parts.append(section._replace(size=size, offset=end))
        end += stored
    if end >= _LARGEST_FILE:
        return mapped_module.plan_memory(module, image, "a PE file cannot be larger than 4 GiB")
    changes += _debug(head, parts, read)
    whole = module.room(max(found.size, module.size or 0, parts[-1].address + parts[-1].size))
    return Plan(Layout.FILE, end, between(parts, whole, in_file=False), tuple(changes))


def _marks(head: _Head) -> list[Change]:
    """Return the changes that put marks back that were wiped."""
    place = head.image.place
    return _changed(
        head,
        ("e_magic", 0, 2, int.from_bytes(pe.MZ, "little")),
        ("e_lfanew", _LFANEW, 4, place),
        ("Signature", place, 4, int.from_bytes(pe.SIGNATURE, "little")),
        ("Magic", place + _HEADER, 2, _WIDE if head.wide else _NARROW),
    )


def _base(module: MappedModule, head: _Head) -> list[Change]:
    """Return the change that sets the image base; none where the address does not fit."""
    at, size = _BASE_AT[head.wide]
    fits = module.start < 1 << 8 * size
    return _changed(head, ("ImageBase", head.image.place + at, size, module.start)) if fits else []


def _gone(head: _Head) -> list[Change]:
    """Return the changes that take out what led to places of the file that are not in memory."""
    place = head.image.place
    rows = [
        ("PointerToSymbolTable", place + _SYMBOLS_AT, 4, 0),
        ("NumberOfSymbols", place + _SYMBOLS_AT + 4, 4, 0),
    ]
    if any(head.directory(_CERTIFICATES)):
        at = head.image.directories + 8 * _CERTIFICATES
        rows += [("certificate table's address", at, 4, 0), ("certificate table's size", at + 4, 4, 0)]
    return _changed(head, *rows)


def _debug(head: _Head, parts: list[Part], read: Read) -> list[Change]:
    """Return the changes to where debug data, the name of the PDB above all, is said to lie in the file."""
    address, size = head.directory(_DEBUG)
    found = []
    for at in range(address, address + min(size // _DEBUG_ROW, _MOST_DEBUG) * _DEBUG_ROW, _DEBUG_ROW):
        place = offset_in_file(parts, at, _DEBUG_ROW)
        try:
            row = read(at, _DEBUG_ROW) if place is not None else b""
        except AddressError:
            continue
        target, old = row[_DEBUG_ADDRESS_AT:_DEBUG_POINTER_AT], row[_DEBUG_POINTER_AT:]
        leads = offset_in_file(parts, int.from_bytes(target, "little"), 1) if any(target) else None
        if place is not None and leads is not None and old != struct.pack("<I", leads):
            field = f"PointerToRawData of debug data at 0x{at:x}"
            found.append(Change(field, place + _DEBUG_POINTER_AT, old, struct.pack("<I", leads)))
    return found


def _changed(head: _Head, *rows: tuple[str, int, int, int]) -> list[Change]:
    """Return the changes that are some: (field, place, size, value) where another value stands."""
    return [_change(head, *row) for row in rows if head.number(row[1], row[2]) != row[3]]


def _change(head: _Head, field: str, at: int, size: int, value: int) -> Change:
    return Change(field, at, head.page[at : at + size], value.to_bytes(size, "little"))
