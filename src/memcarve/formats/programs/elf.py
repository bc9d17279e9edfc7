"""Headers and names of ELF programs and libraries as they lie in memory.

Source: System V ABI, chapters 4 and 5 (elf(5) has the same): ELF header, program headers, dynamic section.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import AddressError
from memcarve.formats.elf_layout import BITS, HEADER_SIZES, HEADERS, IDENT, MAGIC, ORDERS, program_type
from memcarve.formats.programs import mapped_module
from memcarve.formats.programs.mapped_module import Section, string_at, up
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from collections.abc import Collection

    from memcarve.formats.programs.mapped_module import Read

#: of the word at 4, EI_CLASS to EI_OSABI: less the first, it has none of the bits of the second
MARK, MARK_BITS = 0x010101, 0xFFFEFE
#: e_machine of processors that systems run on: SPARC, x86, MIPS, PowerPC (64), S390, ARM, x86-64, ARM64, RISC-V
MACHINES = frozenset({2, 3, 8, 20, 21, 22, 40, 43, 62, 183, 243})

_PERMISSIONS = ("---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx")  # by the lower bits of p_flags
_LOAD, _DYNAMIC = 1, 2
_OBJECT, _PROGRAM, _LIBRARY = 1, 2, 3  # e_type ET_REL, ET_EXEC, ET_DYN
_STRTAB, _STRSZ, _SONAME = 5, 10, 14
MOST_ENTRIES = 512  # of a dynamic section


@dataclass(frozen=True)
class Image(mapped_module.Image):
    """What the headers say. There are no sections of what is not loaded (objects, cores).

    `size` reaches in whole pages from the first to the last byte that is loaded. `dynamic` is (relative address, offset
    in the file, size) of the dynamic section, `section_headers` says where these begin and end in the file, zeros if
    there are none. The one mark that may be wiped is the ``"magic"``. If nothing is loaded because some program headers
    cannot be, `absurd` says where in the page those lie.
    """

    bits: int
    order: str
    kind: int
    dynamic: tuple[int, int, int] | None
    section_headers: tuple[int, int]
    absurd: tuple[int, ...]

    @property
    def entry(self) -> struct.Struct:
        """An entry of the dynamic section: tag and value."""
        return struct.Struct(self.order + ("qQ" if self.bits == 64 else "iI"))  # noqa: PLR2004


def image(page: bytes, *, without: Collection[int] = ()) -> Image | None:
    """Read an ELF header and the program headers from a page, as much of it as there is; None if there are none.

    The magic, class, byte order and version in e_ident must be known ones, type and machine be there, and the size of
    a program header what loaders demand (in an object file, that of the header); all else may be wrong. Without the
    magic everything must be right: e_ident is filled with zeros, the machine is a known one, it is a program or a
    library, the program headers lie in the page and say what is loaded where, in order. Program headers at the places
    `without` count as if they were not there.
    """
    bits, order = (BITS.get(page[4]), ORDERS.get(page[5])) if len(page) > IDENT else (None, None)
    if bits is None or order is None or page[6] != 1 or len(page) < HEADER_SIZES[bits]:
        return None
    header, dtype = struct.Struct(order + HEADERS[bits]), program_type(bits, order)
    kind, machine, version, _, table, begin, _, length, row, count, width, number, _ = header.unpack_from(page, IDENT)
    fits = row == dtype.itemsize
    if not kind or not machine or not (fits or (kind == _OBJECT and length == HEADER_SIZES[bits])):
        return None  # for example an e_ident that a loader keeps to compare others with
    wiped = () if page.startswith(MAGIC) else ("magic",)
    if wiped and not (
        version == 1
        and not any(page[9:IDENT])
        and kind in (_PROGRAM, _LIBRARY)
        and machine in MACHINES
        and length == HEADER_SIZES[bits]
        and table >= length
    ):
        return None
    places: list[int] = []
    programs: list[dict[str, int]] = []
    if fits and kind in (_PROGRAM, _LIBRARY) and table + row * count <= min(len(page), PAGE):
        rows = np.frombuffer(page[table : table + row * count], dtype).tolist()
        places = [place for place in range(table, table + row * count, row) if place not in without]
        programs = [dict(zip(dtype.names or (), rows[(place - table) // row], strict=True)) for place in places]
    loads = _loads([program for program in programs if program["type"] == _LOAD])
    if wiped and not loads:
        return None
    base = next((load.address - load.offset for load in loads if load.offset < PAGE), None)
    size: int | None = None
    dynamic: tuple[int, int, int] | None = None
    if base is not None:  # else the header itself is not loaded
        size = up(loads[-1].address + loads[-1].size) - loads[0].address // PAGE * PAGE
        tables = [each for each in programs if each["type"] == _DYNAMIC]
        dynamic = next(((each["vaddr"] - base, each["offset"], each["memsz"]) for each in tables), None)
    return Image(
        machine=machine,
        base=base or 0,
        size=size,
        sections=tuple(load._replace(address=load.address - base) for load in loads if base is not None),
        wiped=wiped,
        bits=bits,
        order=order,
        kind=kind,
        dynamic=dynamic,
        section_headers=(begin, begin + width * number) if begin else (0, 0),
        absurd=() if loads else tuple(places[number] for number in _absurd(programs)),
    )


def may_begin(view: memoryview, at: int) -> bool:
    """Return True if a header may begin at `at`, of which eight bytes are there: true of all that `image` reads."""
    return (int.from_bytes(view[at + 4 : at + 8], "little") - MARK) & MARK_BITS == 0


def image_name(read: Read, found: Image, address: int) -> str | None:
    """Return the name that a library gives itself (DT_SONAME); None if there is none.

    It lies at `address`, as it is loaded or as it is in its file. The name may hold anything; bytes that are not UTF-8
    are escaped.
    """
    if found.dynamic is None:
        return None
    entry = found.entry
    at, offset, size = found.dynamic
    for place, in_file in ((at, False), (offset, True)):
        try:
            data = read(place, min(size, MOST_ENTRIES * entry.size) // entry.size * entry.size)
        except AddressError:
            continue
        entries = dict(itertools.takewhile(lambda row: row[0], entry.iter_unpack(data)))
        strings, length, name = (entries.get(tag) for tag in (_STRTAB, _STRSZ, _SONAME))
        if strings is None or length is None or name is None or name >= length:
            continue
        begin = _located(found, strings, address, in_file)
        text = None if begin is None else string_at(read, begin + name)
        if text:
            return text.decode("utf-8", "backslashreplace")
    return None


def _located(found: Image, value: int, address: int, in_file: bool) -> int | None:  # noqa: FBT001
    """Return where an address from the dynamic section lies relative to the header.

    Some loaders write addresses there as they are, others leave them relative to `base`.
    """
    if not in_file:
        loaded = found.size is not None and address <= value < address + found.size
        return value - address if loaded else value - found.base
    for load in found.sections:
        if load.address <= value - found.base < load.address + load.stored:
            return load.offset + value - found.base - load.address
    return None


def _absurd(programs: list[dict[str, int]]) -> list[int]:
    """Return which program headers are for loading and cannot be, by their place in the list.

    Of those that claim the same addresses, or are out of order, as many as possible stay, and the smaller ones.
    """
    listed = [place for place, each in enumerate(programs) if each["type"] == _LOAD]
    best: list[tuple[int, int, list[int]]] = [(0, 0, [])]  # how many stay, less where they end, and which
    for place in listed:
        each = programs[place]
        if _loads([each]):
            fitting = [row for row in best if -row[1] <= each["vaddr"]]
            count, _, before = max(fitting, key=lambda row: row[:2])
            best.append((count + 1, -(each["vaddr"] + each["memsz"]), [*before, place]))
    _, _, kept = max(best, key=lambda row: row[:2])
    return [place for place in listed if place not in kept]


def _loads(programs: list[dict[str, int]]) -> list[Section]:
    """Return what is loaded; nothing if it is out of order, overlaps or is larger than an address space."""
    found: list[Section] = []
    end = 0
    for each in programs:
        address, size, offset, stored = (each[name] for name in ("vaddr", "memsz", "offset", "filesz"))
        if address < end or stored > size or address + size > TOP or (address - offset) % PAGE:
            return []
        end = address + size
        found.append(Section(address, size, offset, stored, _PERMISSIONS[each["flags"] & 7]))
    return found if found and end > found[0].address else []
