"""Headers and names of ELF programs and libraries as they lie in memory.

Source: System V ABI, chapters 4 and 5 (elf(5) has the same): ELF header, program headers, dynamic section.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import AddressError
from memcarve.formats.programs.pe import PAGE, string_at

if TYPE_CHECKING:
    from collections.abc import Callable

    #: returns exactly `size` bytes at an address relative to the image; raises AddressError where one is not there
    Read = Callable[[int, int], bytes]

MAGIC = b"\x7fELF"
#: e_machine of processors that systems run on: SPARC, x86, MIPS, PowerPC (64), S390, ARM, x86-64, ARM64, RISC-V
MACHINES = frozenset({2, 3, 8, 20, 21, 22, 40, 43, 62, 183, 243})

_IDENT = 16
_ORDERS = {1: "<", 2: ">"}  # EI_DATA
# behind e_ident, by EI_CLASS: e_type, e_machine, e_version, e_phoff, e_ehsize, e_phentsize, e_phnum
_HEADERS = {1: "HHI4xI8xHHH", 2: "HHI8xQ12xHHH"}
_HEADER_SIZES = {1: 52, 2: 64}
_PROGRAM_SIZES = {1: 32, 2: 56}
# a program header: p_type, p_offset, p_vaddr, p_filesz, p_memsz, p_flags; of 64 bits the flags come second
_PROGRAMS = {1: "III4xIII4x", 2: "IIQQ8xQQ8x"}
_WIDE = 2  # EI_CLASS
_PERMISSIONS = ("---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx")  # by the lower bits of p_flags
_LOAD, _DYNAMIC = 1, 2
_OBJECT, _PROGRAM, _LIBRARY = 1, 2, 3  # e_type ET_REL, ET_EXEC, ET_DYN
_STRTAB, _STRSZ, _SONAME = 5, 10, 14
_MOST_ENTRIES = 512  # of a dynamic section
_TOP = 1 << 64


class Load(NamedTuple):
    """What is loaded: relative address and size in memory (bytes), where it lies in the file, and as ``r-x``."""

    address: int
    size: int
    offset: int
    stored: int
    permissions: str


class _Program(NamedTuple):
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    stored: int
    size: int


class Image(NamedTuple):
    """What the headers say. `loads` are empty where they are not sound, and of what is not loaded (objects, cores).

    `base` is the address at which the header wants to lie, `size` reaches in whole pages from the first to the last
    byte that is loaded, None where nothing is known of that; `dynamic` is (relative address, offset in the file, size)
    of the dynamic section. `wiped`: the magic is gone.
    """

    wide: bool
    order: str
    kind: int
    machine: int
    base: int
    size: int | None
    loads: tuple[Load, ...]
    dynamic: tuple[int, int, int] | None
    wiped: bool


def image(page: bytes) -> Image | None:
    """Read an ELF header and the program headers from a page, as much of it as there is; None where there are none.

    The magic, class, byte order and version in e_ident must be known ones, type and machine be there, and the size of
    a program header what loaders demand (in an object file, that of the header); all else may be wrong. Without the
    magic everything must be right: e_ident is filled with zeros, the machine is a known one, it is a program or a
    library, the program headers lie in the page and say what is loaded where, in order.
    """
    wide = page[4] if len(page) > _IDENT else 0
    order = _ORDERS.get(page[5]) if wide in _HEADERS else None
    if order is None or page[6] != 1 or len(page) < _HEADER_SIZES[wide]:
        return None
    kind, machine, version, table, length, row, count = struct.unpack_from(order + _HEADERS[wide], page, _IDENT)
    if not kind or not machine or (row != _PROGRAM_SIZES[wide] and (kind != _OBJECT or length != _HEADER_SIZES[wide])):
        return None  # as where a loader keeps the e_ident that it compares others with
    wiped = not page.startswith(MAGIC)
    if wiped and not (
        version == 1
        and not any(page[9:_IDENT])
        and kind in (_PROGRAM, _LIBRARY)
        and machine in MACHINES
        and length == _HEADER_SIZES[wide]
        and table >= length
    ):
        return None
    loaded = kind in (_PROGRAM, _LIBRARY) and row == _PROGRAM_SIZES[wide]
    programs: list[_Program] = []
    if loaded and table + row * count <= min(len(page), PAGE):
        rows = struct.iter_unpack(order + _PROGRAMS[wide], page[table : table + row * count])
        programs = [_Program(*fields) if wide == _WIDE else _reordered(*fields) for fields in rows]
    loads = _loads([program for program in programs if program.kind == _LOAD])
    if wiped and not loads:
        return None
    base = next((load.address - load.offset for load in loads if load.offset < PAGE), None)
    if base is None:  # the header itself is not loaded
        return Image(wide == _WIDE, order, kind, machine, 0, None, (), None, wiped)
    size = _up(loads[-1].address + loads[-1].size) - _down(loads[0].address)
    dynamic = next(
        ((program.address - base, program.offset, program.size) for program in programs if program.kind == _DYNAMIC),
        None,
    )
    relative = tuple(load._replace(address=load.address - base) for load in loads)
    return Image(wide == _WIDE, order, kind, machine, base, size, relative, dynamic, wiped)


def image_name(read: Read, found: Image, address: int) -> str | None:
    """Return the name that a library gives itself (DT_SONAME); None where there is none.

    It lies at `address`, as it is loaded or as it is in its file. The name may hold anything; bytes that are no UTF-8
    are escaped.
    """
    if found.dynamic is None:
        return None
    entry = struct.Struct(found.order + ("qQ" if found.wide else "iI"))
    at, offset, size = found.dynamic
    for place, in_file in ((at, False), (offset, True)):
        try:
            data = read(place, min(size, _MOST_ENTRIES * entry.size) // entry.size * entry.size)
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
    for load in found.loads:
        if load.address <= value - found.base < load.address + load.stored:
            return load.offset + value - found.base - load.address
    return None


def _reordered(kind: int, offset: int, address: int, stored: int, size: int, flags: int) -> _Program:
    return _Program(kind, flags, offset, address, stored, size)


def _loads(programs: list[_Program]) -> list[Load]:
    """Return what is loaded; nothing where it is out of order, overlaps or is larger than an address space."""
    found, end = [], 0
    for _, flags, offset, address, stored, size in programs:
        if address < end or stored > size or address + size > _TOP or (address - offset) % PAGE:
            return []
        end = address + size
        found.append(Load(address, size, offset, stored, _PERMISSIONS[flags & 7]))
    return found if found and end > found[0].address else []


def _down(address: int) -> int:
    return address - address % PAGE


def _up(address: int) -> int:
    return address + -address % PAGE
