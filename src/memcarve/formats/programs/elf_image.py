"""ELF programs and libraries made files again: what is loaded, at its place in the file.

Source: System V ABI, chapters 4 and 5 (elf(5) has the same). What is not loaded (symbols for debugging, mostly the
section headers, too) is not in memory; the ELF header then says that there are no section headers. Addresses that the
loader wrote into the dynamic section are made relative again. All other data stays as it was in memory, and what has no
place in the file (p_memsz beyond p_filesz) is not in it. Each change is listed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memcarve.errors import AddressError
from memcarve.formats.programs import elf, mapped_module
from memcarve.formats.programs.mapped_module import AS_IT_LIES, Change, Image, Part, Plan, between, offset_in_file, up
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from memcarve.formats.programs.mapped_module import MappedModule, Read

# the section table in the ELF header, by whether it is wide: where e_shoff is, and e_shentsize, e_shnum, e_shstrndx
_TABLE_AT = {True: (40, 8), False: (32, 4)}
_ROWS_AT = {True: 58, False: 46}
_ROW = {True: 64, False: 40}
_HEADER = {True: 64, False: 52}
_TOP = 1 << 64
_MOST_ENTRIES = 512  # of a dynamic section
#: tags of its entries that are addresses: DT_PLTGOT to DT_RELA, DT_INIT, DT_FINI, DT_REL, DT_JMPREL, DT_INIT_ARRAY,
#: DT_FINI_ARRAY, DT_PREINIT_ARRAY, DT_RELR, DT_ADDRRNGLO to DT_ADDRRNGHI, DT_VERSYM, DT_VERDEF, DT_VERNEED
_ADDRESSES = frozenset(
    {3, 4, 5, 6, 7, 12, 13, 17, 23, 25, 26, 32, 36, *range(0x6FFFFE00, 0x6FFFFF00)}
    | {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE}
)


def plan(module: MappedModule, page: bytes, found: elf.Image, read: Read, layout: str) -> Plan:
    """Return how a file is made of an ELF image whose header `found` was read from `page`, its first.

    With layout ``"file"`` everything loaded lies at its p_offset; where program headers are not sound the file is as in
    memory, with the reason. What lies there as in its file is copied as it lies. `layout` is one of vocabulary.Layout.
    """
    table = _table(page, found)
    flat = None if module.loaded else _length_as_it_lies(found, table, read)
    loads = [load for load in found.loads if load.address >= 0]
    if flat is not None and flat == module.room(flat) and not _is_loaded_there(loads, flat):
        return Plan(AS_IT_LIES, flat, between([], flat, in_file=True), why=mapped_module.WHY_AS_IT_LIES)
    sections = [Part(None, load.address, load.size, None, load.permissions) for load in loads]
    image = Image(found.size, tuple(sections))
    if layout != Layout.FILE:
        return mapped_module.plan_memory(module, image)
    if not loads:
        return mapped_module.plan_memory(
            module, image, "its program headers are not sound, or say nothing of what is loaded"
        )
    return _plan_file(module, page, found, loads, table, read)


def _plan_file(
    module: MappedModule, page: bytes, found: elf.Image, loads: list[elf.Load], table: tuple[int, int], read: Read
) -> Plan:
    parts = _placed(module, loads, table)
    size = max((part.offset + part.size for part in parts if part.offset is not None), default=0)
    changes = []
    if not page.startswith(elf.MAGIC):
        changes.append(Change("e_ident", 0, page[: len(elf.MAGIC)], elf.MAGIC))
    begin, end = table
    if end and not any(_holds(part, begin, end, read) for part in parts):
        at, width = _TABLE_AT[found.wide]
        rows = _ROWS_AT[found.wide]
        changes += [
            Change(field, place, page[place : place + count], bytes(count))
            for field, place, count in (("e_shoff", at, width), ("e_shnum", rows + 2, 2), ("e_shstrndx", rows + 4, 2))
            if any(page[place : place + count])
        ]
    changes += _relative(module, found, parts, read)
    whole = module.room(max(found.size or 0, module.size or 0, *(load.address + load.size for load in loads)))
    return Plan(Layout.FILE, size, between(parts, whole, in_file=False), tuple(changes))


def _placed(module: MappedModule, loads: list[elf.Load], table: tuple[int, int]) -> list[Part]:
    """Return the parts of what is loaded: those at their place in the file, and what of each has none.

    Pages are mapped whole: of one that is not filled with zeros, what follows in the file up to what is loaded next, or
    the end of the section headers, is there, too. Where two claim one place of the file, the first one has it.
    """
    found: list[Part] = []
    done = 0
    ordered = sorted(loads, key=lambda load: load.offset)
    above = dict(zip(loads, [load.address for load in loads[1:]], strict=False))
    for number, load in enumerate(ordered):
        end = load.offset + load.stored
        if load.stored == load.size:
            following = ordered[number + 1].offset if number + 1 < len(ordered) else table[1]
            mapped_up_to = load.offset + min(up(load.address + load.size), above.get(load, _TOP)) - load.address
            end = max(min(mapped_up_to, following), end)
        begin = max(load.offset, done)
        skipped = min(begin - load.offset, load.size)
        size = max(module.room(load.address + end - load.offset) - load.address - skipped, 0)
        if skipped:
            found.append(Part(None, load.address, skipped, None, load.permissions))
        if size:
            found.append(Part(None, load.address + skipped, size, begin, load.permissions))
            done = begin + size
        beyond = load.address + skipped + size
        if beyond < load.address + load.size:
            found.append(Part(None, beyond, load.address + load.size - beyond, None, load.permissions))
    return found


def _relative(module: MappedModule, found: elf.Image, parts: list[Part], read: Read) -> list[Change]:
    """Return the changes that make addresses in the dynamic section what they are in the file."""
    entry = struct.Struct(found.order + ("qQ" if found.wide else "iI"))
    if found.dynamic is None or found.size is None or module.start == found.base:
        return []
    begin, _, size = found.dynamic
    changes = []
    for at in range(begin, begin + min(size // entry.size, _MOST_ENTRIES) * entry.size, entry.size):
        place = offset_in_file(parts, at, entry.size)
        try:
            tag, value = entry.unpack(read(at, entry.size)) if place is not None else (0, 0)
        except AddressError:
            continue
        if not tag:
            break
        if place is not None and tag in _ADDRESSES and module.start <= value < module.start + found.size:
            old, new = (entry.pack(tag, each)[entry.size // 2 :] for each in (value, value - module.start + found.base))
            changes.append(Change(f"d_ptr of tag 0x{tag:x}", place + entry.size // 2, old, new))
    return changes


def _table(page: bytes, found: elf.Image) -> tuple[int, int]:
    """Return where section headers begin and end in the file; zeros where there are none."""
    begin = struct.unpack_from(found.order + ("Q" if found.wide else "I"), page, _TABLE_AT[found.wide][0])[0]
    length, count = struct.unpack_from(found.order + "HH", page, _ROWS_AT[found.wide])
    if not begin:
        return 0, 0
    return begin, begin + length * count


def _length_as_it_lies(found: elf.Image, table: tuple[int, int], read: Read) -> int | None:
    """Return how long the file is that lies in memory: up to its section headers; None where they do not lie there.

    The first section header is all zeros, and the second is of a type.
    """
    begin, end = table
    row = _ROW[found.wide]
    if begin < _HEADER[found.wide] or end < begin + 2 * row or (end - begin) % row:
        return None
    try:
        first, second = read(begin, row), read(begin + row, row)
        read(end - 1, 1)
    except AddressError:
        return None
    return end if not any(first) and any(second[4:8]) else None


def _is_loaded_there(loads: list[elf.Load], size: int) -> bool:
    """Say whether what is loaded lies where it does in the file, and all of the file is loaded with it."""
    same = bool(loads) and all(load.address == load.offset for load in loads)
    return same and size <= up(loads[-1].address + loads[-1].stored)


def _holds(part: Part, begin: int, end: int, read: Read) -> bool:
    """Say whether a part holds this stretch of the file, and it is in memory."""
    if part.offset is None or begin < part.offset or end > part.offset + part.size:
        return False
    try:
        read(part.address + begin - part.offset, end - begin)
    except AddressError:
        return False
    return True
