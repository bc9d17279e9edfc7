"""ELF programs and libraries made files again: what is loaded, at its place in the file.

Source: System V ABI, chapters 4 and 5 (elf(5) has the same). What is not loaded (symbols for debugging, mostly the
section headers, too) is not in memory; the ELF header then says that there are no section headers. Addresses that the
loader wrote into the dynamic section are made relative again. All other data stays as it was in memory, and what has no
place in the file (p_memsz beyond p_filesz) is not in it. Each change is listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.errors import AddressError
from memcarve.formats.elf_layout import HEADER_SIZES, MAGIC, SECTIONS
from memcarve.formats.programs import elf
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
from memcarve.intervals import TOP
from memcarve.vocabulary import Layout

if TYPE_CHECKING:
    from memcarve.formats.programs.mapped_module import MappedModule, Read, Section

# the section table in the ELF header, by its bits: where e_shoff is, and how long, and where e_shnum is
_TABLE_AT = {64: (40, 8), 32: (32, 4)}
_COUNT_AT = {64: 60, 32: 48}
#: tags of its entries that are addresses: DT_PLTGOT to DT_RELA, DT_INIT, DT_FINI, DT_REL, DT_JMPREL, DT_INIT_ARRAY,
#: DT_FINI_ARRAY, DT_PREINIT_ARRAY, DT_RELR, DT_ADDRRNGLO to DT_ADDRRNGHI, DT_VERSYM, DT_VERDEF, DT_VERNEED
_ADDRESSES = frozenset(
    {3, 4, 5, 6, 7, 12, 13, 17, 23, 25, 26, 32, 36, *range(0x6FFFFE00, 0x6FFFFF00)}
    | {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE}
)


def plan(module: MappedModule, page: bytes, found: elf.Image, read: Read, layout: str) -> Plan:
    """Return how a file is made of an ELF image whose header `found` was read from `page`, its first.

    With layout ``"file"`` everything loaded lies at its p_offset; if program headers are not sound the file is as in
    memory, with the reason. What lies there as in its file is copied as it lies. `layout` is one of vocabulary.Layout.
    """
    flat = None if module.loaded else _length_as_it_lies(found, read)
    absurd = found.absurd if layout == Layout.FILE else ()
    if absurd:
        found = elf.image(page, without=absurd) or found
    loads = [load for load in found.sections if load.address >= 0]
    # what is loaded may lie where it does in the file, and all of the file be loaded with it
    same = bool(loads) and all(load.address == load.offset for load in loads)
    covered = up(loads[-1].address + loads[-1].stored) if same else 0
    if flat is not None and covered < flat == module.room(flat):
        return Plan(AS_IT_LIES, flat, between([], flat, in_file=True), why=WHY_AS_IT_LIES)
    sections = [Part(None, load.address, load.size, None, load.permissions) for load in loads]
    if layout == Layout.FILE and loads:
        planned = _plan_file(module, page, found, loads, read)
        if not absurd:
            return planned
        # PT_NULL: the entry is not used
        cut = [Change(f"p_type of the program header at 0x{at:x}", at, page[at : at + 4], bytes(4)) for at in absurd]
        words = f"program headers that cannot be were taken out: {len(absurd)}"
        return planned._replace(changes=(*planned.changes, *cut), why=words)
    why = "its program headers are not sound, or say nothing of what is loaded" if layout == Layout.FILE else None
    return plan_memory(module, found.size, sections, why)


def _plan_file(module: MappedModule, page: bytes, found: elf.Image, loads: list[Section], read: Read) -> Plan:
    parts = _placed(module, loads, found.section_headers[1])
    size = max((part.offset + part.size for part in parts if part.offset is not None), default=0)
    changes = []
    if not page.startswith(MAGIC):
        changes.append(Change("e_ident", 0, page[: len(MAGIC)], MAGIC))
    begin, end = found.section_headers
    if end and not any(_holds(part, begin, end, read) for part in parts):
        at, width = _TABLE_AT[found.bits]
        rows = _COUNT_AT[found.bits]
        changes += [
            Change(field, place, page[place : place + count], bytes(count))
            for field, place, count in (("e_shoff", at, width), ("e_shnum", rows, 2), ("e_shstrndx", rows + 2, 2))
            if any(page[place : place + count])
        ]
    changes += _relative(module, found, parts, read)
    whole = module.room(max(found.size or 0, module.size or 0, *(load.address + load.size for load in loads)))
    return Plan(Layout.FILE, size, between(parts, whole, in_file=False), tuple(changes))


def _placed(module: MappedModule, loads: list[Section], end_of_all: int) -> list[Part]:
    """Return the parts of what is loaded: those at their place in the file, and what of each has none.

    Pages are mapped whole: of one that is not filled with zeros, what follows in the file up to what is loaded next, or
    the end of the section headers, is there as well. If two claim the same place in the file, the first one has it.
    """
    found: list[Part] = []
    done = 0
    ordered = sorted(loads, key=lambda load: load.offset)
    above = dict(zip(loads, [load.address for load in loads[1:]], strict=False))
    for number, load in enumerate(ordered):
        end = load.offset + load.stored
        if load.stored == load.size:
            following = ordered[number + 1].offset if number + 1 < len(ordered) else end_of_all
            mapped_up_to = load.offset + min(up(load.address + load.size), above.get(load, TOP)) - load.address
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
    entry = found.entry
    if found.dynamic is None or found.size is None or module.start == found.base:
        return []
    begin, _, size = found.dynamic
    changes = []
    for at in range(begin, begin + min(size // entry.size, elf.MOST_ENTRIES) * entry.size, entry.size):
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


def _length_as_it_lies(found: elf.Image, read: Read) -> int | None:
    """Return how long the file is that lies in memory: up to its section headers; None if they do not lie there.

    The first section header is all zeros, and the second is of a type.
    """
    begin, end = found.section_headers
    row = SECTIONS[found.bits][1]
    if begin < HEADER_SIZES[found.bits] or end < begin + 2 * row or (end - begin) % row:
        return None
    try:
        first, second = read(begin, row), read(begin + row, row)
        read(end - 1, 1)
    except AddressError:
        return None
    return end if not any(first) and any(second[4:8]) else None


def _holds(part: Part, begin: int, end: int, read: Read) -> bool:
    """Return True if a part holds this stretch of the file, and it is in memory."""
    if part.offset is None or begin < part.offset or end > part.offset + part.size:
        return False
    try:
        read(part.address + begin - part.offset, end - begin)
    except AddressError:
        return False
    return True
