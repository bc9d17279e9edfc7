"""PE images made files again: section headers that say where the bytes lie now, nothing else touched.

Source: Microsoft, "PE Format" (learn.microsoft.com/windows/win32/debug/pe-format). What the headers say of places in
the file that are not in memory (symbols, certificates, line numbers) leads nowhere in the new one and is taken out.
What stands in sections stays as it was, but for one field of the debug directory, which says where in the file the name
of the PDB is. Each change is listed.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import AddressError
from memcarve.formats.programs import pe
from memcarve.formats.programs.mapped_module import (
    AS_IT_LIES,
    WHY_AS_IT_LIES,
    Change,
    Part,
    Plan,
    between,
    offset_in_file,
    plan_memory,
    up,
)
from memcarve.intervals import PAGE
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.formats.programs.mapped_module import MappedModule, Read, Section

_COUNT_AT, _SYMBOLS_AT = 6, 12
_STORED_AT, _HEAD_AT = pe.OPTIONAL + 36, pe.OPTIONAL + 60
_BASE_AT = {True: (pe.OPTIONAL + 24, 8), False: (pe.OPTIONAL + 28, 4)}  # ImageBase: place and size, by whether PE32+
_DEBUG_ADDRESS_AT, _DEBUG_POINTER_AT = 20, 24
_SMALLEST, _LARGEST = 0x200, 1 << 16  # FileAlignment
_BLOCK_HEAD = 8  # of base relocations
_LARGEST_FILE = 1 << 32


class _Head(NamedTuple):
    """The first page of an image, and what is in it."""

    page: bytes
    image: pe.Image

    def directory(self, number: int) -> tuple[int, int]:
        """Return address and size of a data directory; zeros if there is none in the page."""
        return pe.directory(self.read, self.image, number)

    def read(self, at: int, size: int) -> bytes:
        if at + size > len(self.page):
            raise AddressError(len(self.page), "the page ends there")
        return self.page[at : at + size]

    def name(self, number: int) -> str:
        at = self.image.table + pe.SECTION * number
        return self.page[at : at + 8].rstrip(b"\0").decode("utf-8", "backslashreplace")


def plan(module: MappedModule, page: bytes, found: pe.Image, read: Read, layout: str) -> Plan:
    """Return how a file is made of a PE image whose header `found` was read from `page`, its first.

    With layout ``"file"`` that is one whose section headers lead to its sections; if they cannot, it is as in
    memory, with the reason. What lies there as in its file is copied as it lies. `layout` is one of vocabulary.Layout.
    """
    head = _Head(page, found)
    if not module.loaded and lies_as_in_file(page, found, read):
        return _plan_as_it_lies(module, head)
    sections = [
        Part(head.name(number), row.address, up(row.size), None, row.permissions)
        for number, row in enumerate(found.sections)
    ]
    in_memory = partial(plan_memory, module, found.size, sections)
    if layout != Layout.FILE:
        return in_memory()
    if found.alignment < PAGE and not sections:
        # such an image is mapped as it lies in its file
        whole = in_memory()
        changes = [each for each in _marks(head) + _base(module, head) if each.offset + len(each.new) <= whole.size]
        return whole._replace(layout=Layout.FILE, changes=tuple(changes))
    rows = found.sections or pe.mended_sections(page, found)
    if not rows:
        return in_memory(why="its section headers are not sound, or not in its first page")
    if found.sections and rows[0].address < found.table_end:
        return in_memory(why="its first section lies where its headers do")
    return _plan_file(module, head, rows, read)


def lies_as_in_file(page: bytes, found: pe.Image, read: Read) -> bool:
    """Return True if an image lies in memory as in its file: sections at their offsets, not at their addresses.

    Base relocations tell, if they lie at one of the two places only; otherwise what the first page holds at the offset
    of the first section, which is nothing if the image is mapped.
    """
    stored = [row for row in found.sections if row.stored]
    if all(row.offset == row.address for row in stored):
        return False
    head = _Head(page, found)
    address, size = head.directory(pe.RELOCATIONS)
    if size:
        places = (address, _offset_of(found, address))
        there = [place is not None and _are_relocations(read, place, min(size, found.size)) for place in places]
        if there[0] != there[1]:
            return there[1]
    first = min(row.offset for row in stored)
    return found.table_end <= first < len(page) and any(page[first:])


def _are_relocations(read: Read, place: int, size: int) -> bool:
    """Return True if base relocations begin at a place: two blocks of them, or all of the directory."""
    done = 0
    try:
        for _ in range(2):
            if done + _BLOCK_HEAD > size:
                break
            page, length = struct.unpack("<II", read(place + done, _BLOCK_HEAD))
            if page % PAGE or not _BLOCK_HEAD <= length <= size - done or length % 2:
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
    begin, size = head.directory(pe.CERTIFICATES)
    if begin == up(max(ends), 8) and module.room(begin + size) == begin + size:
        ends.append(begin + size)
    whole = module.room(max(ends))
    sections = [
        Part(head.name(number), row.offset, row.stored, row.offset, row.permissions)
        for number, row in enumerate(rows)
        if row.stored
    ]
    return Plan(AS_IT_LIES, whole, between(sections, whole, in_file=True), why=WHY_AS_IT_LIES)


def _plan_file(module: MappedModule, head: _Head, rows: Sequence[Section], read: Read) -> Plan:
    """Return the file in which section headers lead to the sections; `rows` are those, cut where they could not be."""
    found = head.image
    sections = [
        Part(head.name(number), row.address, up(row.size), None, row.permissions) for number, row in enumerate(rows)
    ]
    given = found.file_alignment
    sound = _SMALLEST <= given <= _LARGEST and not given & (given - 1)
    alignment = max(given, PAGE) if sound else PAGE
    first = min(section.address for section in sections if section.size)
    front = min(max(up(found.headers_size), up(found.table_end)), first)
    front = module.room(front)
    if front < found.table_end:
        return plan_memory(module, found.size, sections, why="its mapping ends within its headers")
    parts = [Part(None, 0, front, 0)]
    changes = _marks(head) + _base(module, head) + _gone(head)
    if not sound:
        changes.append(_change(head, "FileAlignment", found.place + _STORED_AT, 4, _SMALLEST))
    if not found.table_end <= found.headers_size <= front:
        changes.append(_change(head, "SizeOfHeaders", found.place + _HEAD_AT, 4, front))
    changes += _cut(head, rows)
    end = up(front, alignment)
    for number, section in enumerate(sections):
        at = found.table + pe.SECTION * number
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
        return plan_memory(module, found.size, sections, why="a PE file cannot be larger than 4 GiB")
    changes += _debug(head, parts, read)
    whole = module.room(max(found.size, module.size or 0, *(part.address + part.size for part in parts)))
    lost = (found.table_end - found.table) // pe.SECTION - sum(row.size > 0 for row in rows)
    why = None if found.sections else f"headers of sections that cannot be were cut ({lost} of them to nothing)"
    return Plan(Layout.FILE, end, between(parts, whole, in_file=False), tuple(changes), why)


def _cut(head: _Head, rows: Sequence[Section]) -> list[Change]:
    """Return the changes to headers of sections that claim what cannot be; none if they are sound."""
    if head.image.sections:
        return []
    changed = _changed(head, ("NumberOfSections", head.image.place + _COUNT_AT, 2, len(rows)))
    for number, row in enumerate(rows):
        at = head.image.table + pe.SECTION * number + 8
        claimed = pe.number_at(head.page, at, 4) or row.stored
        if row.size != claimed:
            changed += _changed(head, (f"VirtualSize of {head.name(number)}", at, 4, row.size))
    return changed


def _marks(head: _Head) -> list[Change]:
    """Return the changes that put marks back that were wiped."""
    place = head.image.place
    return _changed(
        head,
        ("e_magic", 0, 2, int.from_bytes(pe.MZ, "little")),
        ("e_lfanew", pe.LFANEW, 4, place),
        ("Signature", place, 4, int.from_bytes(pe.SIGNATURE, "little")),
        ("Magic", place + pe.OPTIONAL, 2, pe.PE32_PLUS if head.image.wide else pe.PE32),
    )


def _base(module: MappedModule, head: _Head) -> list[Change]:
    """Return the change that sets the image base; none if the address does not fit."""
    at, size = _BASE_AT[head.image.wide]
    fits = module.start < 1 << 8 * size
    return _changed(head, ("ImageBase", head.image.place + at, size, module.start)) if fits else []


def _gone(head: _Head) -> list[Change]:
    """Return the changes that take out what led to places of the file that are not in memory."""
    place = head.image.place
    rows = [
        ("PointerToSymbolTable", place + _SYMBOLS_AT, 4, 0),
        ("NumberOfSymbols", place + _SYMBOLS_AT + 4, 4, 0),
    ]
    if any(head.directory(pe.CERTIFICATES)):
        at = head.image.directories + 8 * pe.CERTIFICATES
        rows += [("certificate table's address", at, 4, 0), ("certificate table's size", at + 4, 4, 0)]
    return _changed(head, *rows)


def _debug(head: _Head, parts: list[Part], read: Read) -> list[Change]:
    """Return the changes to where debug data, the name of the PDB above all, is said to lie in the file."""
    address, size = head.directory(pe.DEBUG)
    found = []
    width = pe.DEBUG_ENTRY.size
    for at in range(address, address + min(size // width, pe.MOST_DEBUG) * width, width):
        place = offset_in_file(parts, at, width)
        try:
            row = read(at, width) if place is not None else b""
        except AddressError:
            continue
        target, old = row[_DEBUG_ADDRESS_AT:_DEBUG_POINTER_AT], row[_DEBUG_POINTER_AT:]
        leads = offset_in_file(parts, int.from_bytes(target, "little"), 1) if any(target) else None
        if place is not None and leads is not None and old != struct.pack("<I", leads):
            field = f"PointerToRawData of debug data at 0x{at:x}"
            found.append(Change(field, place + _DEBUG_POINTER_AT, old, struct.pack("<I", leads)))
    return found


def _changed(head: _Head, *rows: tuple[str, int, int, int]) -> list[Change]:
    """Return changes for (field, offset, size, value), leaving out fields that have the value already."""
    return [_change(head, *row) for row in rows if pe.number_at(head.page, row[1], row[2]) != row[3]]


def _change(head: _Head, field: str, at: int, size: int, value: int) -> Change:
    return Change(field, at, head.page[at : at + size], value.to_bytes(size, "little"))
