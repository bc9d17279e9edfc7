"""Cores of Xen's domains, as `xl dump-core` writes them: an ELF core of sections alone.

The format is that of Xen's docs/misc/dump-core-format.txt (xc_core.h, xen/include/public/elfnote.h for the notes): the
section `.xen_pages` has the domain's pages, one behind the other; `.xen_pfn` (of domains whose addresses the processor
translates: HVM, PVH) has the number of each, `.xen_p2m` (PV) the number that the domain counts it by, and the frame of
the machine in which it lay. All bits set means that there is no page. `.note.Xen` says what kind of a domain it was;
`.xen_prstatus` has struct vcpu_guest_context of each processor (xen/include/public/arch-x86/xen.h).

The page tables of a PV domain hold frames of the machine. So these are its physical addresses here: what its kernel
calls physical is something else.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.elf_core.core_headers import ARM64, I386, X86_64, notes_between
from memcarve.formats.images.machine import CutOff, column, machine
from memcarve.intervals import breaks

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import U64
    from memcarve.formats.elf_core.core_headers import Header
    from memcarve.formats.images.machine import MachineMemory

_SECTION = struct.Struct("<IIQQQQIIQQ")
_MOST_SECTIONS = 64
_NAMES_AT = 62  # e_shstrndx
_LONGEST_NAME = 32
_HEADER_NOTE = 0x2000001
_HEADER = struct.Struct("<QQQQ")  # kind of a domain, processors, pages, page size
_PV, _TRANSLATED = 0xF00FEBED, 0xF00FEBEE
_PAGE_SIZES = (1 << 12, 1 << 14, 1 << 16)
_NONE = np.uint64((1 << 64) - 1)
_MOST_RANGES = 1 << 24  # 64 GiB of a PV domain's, each page elsewhere
_PIECE = 1 << 20  # rows of a table that are looked at together
#: of x86-64's struct vcpu_guest_context: where cr0 and cr3 are, and how long it is
_CR0, _CR3, _CONTEXT = 4984, 5008, 5168
_PAGING = 1 << 31  # in cr0
_ARCHITECTURES = {I386: "x86", X86_64: "x64", ARM64: "arm64"}
_REMEDY = "take the memory from inside the domain (AVML, LiME)"


class _Section(NamedTuple):
    offset: int
    size: int


def read(file: FileBacking, header: Header) -> MachineMemory:
    """Return the memory of a domain from a core that has sections alone.

    Raises InputError if it is no domain's, or of a processor that memcarve does not know, or makes no sense; and
    SourceReadError.
    """
    sections = _sections(file, header)
    pages, note = sections.get(b".xen_pages"), sections.get(b".note.Xen")
    table = sections.get(b".xen_pfn") or sections.get(b".xen_p2m")
    if pages is None or note is None or table is None:
        raise InputError(
            "is an ELF core of sections alone, without program headers, as Xen's dump-core writes domains, but pages, "
            "their numbers or notes are missing",
            subject=file.path,
            remedy=_REMEDY,
        )
    if header.processor not in _ARCHITECTURES:
        raise InputError(
            f"is the core of a domain of Xen whose processor is {header.machine}; memcarve reads page tables of x86, "
            "x86-64 and ARM64 alone",
            subject=file.path,
            remedy="make a core of each process on the machine itself (gcore), and give those",
        )
    kind, page = _kind(file, note)
    translated = b".xen_pfn" in sections
    start, size, offset, cut = _ranges(file, pages, table, page, translated=translated)
    count = table.size // (8 if translated else 16)
    whole = count * page <= pages.size and table.offset + table.size <= file.size
    notes: tuple[str, ...] = ()
    if not translated:
        notes = ("Xen: a PV domain: physical addresses are those of the machine's frames, as page tables have them",)
    if not whole:
        notes += ("Xen: the core has fewer pages than numbers of pages, or the other way round; it was cut off",)
    word = "HVM or PVH" if kind == _TRANSLATED else "PV" if kind == _PV else "of an unknown kind"
    root = _root(file, sections.get(b".xen_prstatus")) if header.processor == X86_64 else None
    memory = machine(f"Xen core ({word})", file, (start, size, offset), declared=whole, root=root, notes=notes, cut=cut)
    return memory._replace(architecture=_ARCHITECTURES[header.processor])


def _sections(file: FileBacking, header: Header) -> dict[bytes, _Section]:
    """Return the sections by name."""
    count = min(header.sections_size // _SECTION.size, _MOST_SECTIONS)
    if header.bits != 64 or header.order != "<":  # noqa: PLR2004 - Xen writes this for domains of 32 bits, too
        return {}
    data = file.read_there(header.sections, count * _SECTION.size)
    rows = [_SECTION.unpack_from(data, at) for at in range(0, len(data) - _SECTION.size + 1, _SECTION.size)]
    names = int.from_bytes(file.read_there(_NAMES_AT, 2), "little")
    if names >= len(rows):
        return {}
    found: dict[bytes, _Section] = {}
    for name, _, _, _, offset, size, *_ in rows:
        text = file.read_there(rows[names][4] + name, _LONGEST_NAME).split(b"\0")[0]
        found.setdefault(text, _Section(offset, size))
    return found


def _kind(file: FileBacking, note: _Section) -> tuple[int, int]:
    """Return what kind of a domain it is, and the size of its pages. Raises InputError if that makes no sense."""
    for each in notes_between(file, "<", note.offset, note.offset + note.size):
        if (each.owner, each.kind) == (b"Xen", _HEADER_NOTE) and each.size >= _HEADER.size:
            data = file.read_there(each.offset, _HEADER.size)
            if len(data) == _HEADER.size:
                kind, _, _, page = _HEADER.unpack(data)
                if page in _PAGE_SIZES:
                    return kind, page
    raise InputError(
        "is an ELF core of Xen's dump-core whose notes do not say how large pages are",
        subject=file.path,
        remedy=_REMEDY,
    )


def _ranges(
    file: FileBacking, pages: _Section, table: _Section, page: int, *, translated: bool
) -> tuple[U64, U64, U64, CutOff]:
    """Return the ranges of a domain's pages (physical start, size, offset), and what its table has beyond them."""
    row = 8 if translated else 16
    count, size, cut, rows = table.size // row, np.uint64(page), CutOff(), 0
    parts: list[tuple[U64, U64, U64]] = []
    for first in range(0, count, _PIECE):
        data = file.read_there(table.offset + first * row, min(_PIECE, count - first) * row)
        if len(data) < row:
            break
        numbers = np.frombuffer(data, "<u8", len(data) // row * (row // 8)).astype(np.uint64)
        frame = numbers if translated else numbers[1::2]
        number = np.arange(first, first + len(frame), dtype=np.uint64)
        there = frame < np.uint64((1 << 64) // page - 1)  # all bits set: there is none; and no machine has so many
        frame, number = frame[there], number[there]
        if not len(frame):
            continue
        begins = np.flatnonzero(breaks(np.ones(len(frame), np.uint64), frame, number))
        length = np.diff(np.append(begins, len(frame))).astype(np.uint64)
        start, offset = frame[begins] * size, number[begins] * size
        # what the section of pages has no room for is cut off
        room = np.uint64(pages.size) - np.minimum(offset, np.uint64(pages.size))
        fits = np.minimum(length * size, room // size * size)
        short = fits < length * size
        if short.any():
            cut.add(start[short] + fits[short], length[short] * size - fits[short])
        rows += len(start)
        if rows > _MOST_RANGES:
            raise InputError(
                f"is a core of Xen's dump-core in more than {_MOST_RANGES} pieces", subject=file.path, remedy=_REMEDY
            )
        parts.append((start, fits, offset + np.uint64(min(pages.offset, file.size))))
    if not parts:
        return column([]), column([]), column([]), cut
    start, fits, offset = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return start, fits, offset, cut


def _root(file: FileBacking, section: _Section | None) -> int | None:
    """Return the page-table root of the first processor; None if it does not tell."""
    if section is None or section.size < _CONTEXT or section.size % _CONTEXT:
        return None
    data = file.read_there(section.offset, _CONTEXT)
    if len(data) < _CONTEXT or not int.from_bytes(data[_CR0 : _CR0 + 8], "little") & _PAGING:
        return None
    return int.from_bytes(data[_CR3 : _CR3 + 8], "little") & ~0xFFF
