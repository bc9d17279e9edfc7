"""ELF cores: headers, program headers and notes, of a machine or of a process; and which of the two a core is.

Specifications: System V ABI, chapters 4 and 5 (headers, notes, and e_phnum in sh_info of section 0 where it does not
fit); core(5); for who notes what, those that machinecore.py and processcore.py name.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.machine import bounded, read_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from memcarve.backing import FileBacking

    Table = npt.NDArray[np.void]

MAGIC = b"\x7fELF"
CORE = 4  # e_type ET_CORE
LOAD, NOTE = 1, 4  # p_type
MANY = 0xFFFF  # e_phnum PN_XNUM: the number is in sh_info of section 0
I386, X86_64 = 3, 62  # e_machine
PRSTATUS, PRPSINFO, AUXV, FILE, SIGINFO = 1, 3, 6, 0x46494C45, 0x53494749  # types of notes named CORE
#: what memcarve calls its own note, whose type is nobody else's: readers go by that alone
OWNER, PROVENANCE = b"memcarve", 0x4D435256

_BITS = {1: 32, 2: 64}  # EI_CLASS
_ORDERS = {1: "<", 2: ">"}  # EI_DATA
HEADERS = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}  # behind the 16 of e_ident
#: where sh_info is in a section header, and how long that is
SECTIONS = {32: (28, 40), 64: (44, 64)}
_NAMES = ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")
_WIDE_NAMES = ("offset", "vaddr", "paddr", "filesz", "memsz", "align")
NOTE_HEADER = "III"  # n_namesz, n_descsz, n_type
_MOST_NOTES = 1 << 17  # a process of 20,000 threads
_LONGEST_OWNER = 64

#: notes that only a machine's core has: the note's name, and who writes it
_MACHINES = {b"QEMU": "QEMU", b"VBCORE": "VirtualBox", b"VBCPU": "VirtualBox", b"VMCOREINFO": "Linux"}
#: notes named CORE that only a process's has
_PROCESS_TYPES = {PRPSINFO, AUXV, FILE, SIGINFO}
#: who else writes cores of processes, by the beginning of the notes' names
_PROCESS_NAMES = (b"LINUX", b"FreeBSD", b"NetBSD", b"OpenBSD", OWNER)


class Header(NamedTuple):
    """What an ELF header says: 32 or 64 `bits`, byte `order` (``<``, ``>``), e_machine, EI_OSABI, and where tables are.

    `table` is the offset of `rows` program headers of `row` bytes, `sections` that of the section headers.
    """

    bits: int
    order: str
    processor: int
    system: int
    table: int
    row: int
    rows: int
    sections: int


class Note(NamedTuple):
    """A note: its owner's name, its type, and the offset and size of as much of its content as is in the file."""

    owner: bytes
    kind: int
    offset: int
    size: int


class Origin(NamedTuple):
    """Who wrote a machine's core, where its notes tell; its QEMU notes; and whether it is a process's instead."""

    writer: str | None
    qemu: list[Note]
    process: bool


def program_type(bits: int, order: str = "<") -> np.dtype[np.void]:
    """Return the layout of a program header."""
    if bits == 32:  # noqa: PLR2004 - EI_CLASS
        return np.dtype([(name, f"{order}u4") for name in _NAMES])
    wide = [(name, f"{order}u8") for name in _WIDE_NAMES]
    return np.dtype([("type", f"{order}u4"), ("flags", f"{order}u4"), *wide])


def read_header(file: FileBacking) -> Header | None:
    """Return what the ELF header says, None where the file is no core.

    Raises InputError where it ends too early or its program headers have another size than they must.
    """
    ident = read_at(file, 0, 64)
    bits = _BITS.get(ident[4]) if len(ident) > 16 and ident[:4] == MAGIC else None  # noqa: PLR2004 - e_ident
    if bits is None:
        return None
    order = _ORDERS.get(ident[5], "<")
    if int.from_bytes(ident[16:18], "little" if order == "<" else "big") != CORE:
        return None
    layout = struct.Struct(order + HEADERS[bits])
    if len(ident) < 16 + layout.size:
        raise InputError(f"{file.path}: is an ELF core that ends inside its header; the file was cut off")
    _, processor, _, _, table, sections, _, _, row, rows, *_ = layout.unpack_from(ident, 16)
    expected = program_type(bits).itemsize
    if rows and row != expected:
        raise InputError(
            f"{file.path}: is an ELF core whose program headers have {row} bytes (e_phentsize); expected {expected}"
        )
    return Header(bits, order, processor, ident[7], table, expected, rows, sections)


def program_headers(file: FileBacking, header: Header) -> tuple[Table, tuple[str, ...]]:
    """Return the rows of the table that are in the file, and notes on those that are not.

    Raises InputError where there are more than any machine or process has.
    """
    rows = header.rows
    notes: tuple[str, ...] = ()
    if rows == MANY:
        info = read_at(file, header.sections + SECTIONS[header.bits][0], 4) if header.sections else b""
        if len(info) == 4:  # noqa: PLR2004 - sh_info
            rows = int.from_bytes(info, "little" if header.order == "<" else "big")
        else:
            notes += (f"how many program headers there are is not in the file, which ends too early; {rows} are used",)
    there = min(rows, max(file.size - header.table, 0) // header.row)
    if there < rows:
        notes += (f"the file ends inside its program headers: {there} of {rows} are there",)
    bounded(file, there, "program headers")
    data = read_at(file, header.table, there * header.row)
    return np.frombuffer(data, program_type(header.bits, header.order)), notes


def read_notes(file: FileBacking, header: Header, table: Table) -> Iterator[Note]:
    """Yield the notes of a core as far as the file goes, at most 2**17 of them."""
    segments = table[table["type"] == NOTE][:_MOST_NOTES]
    left, layout = _MOST_NOTES, struct.Struct(header.order + NOTE_HEADER)
    for begin, size in zip(segments["offset"].tolist(), segments["filesz"].tolist(), strict=True):
        offset, end = begin, min(begin + size, file.size)
        while offset + layout.size <= end and left:
            data = read_at(file, offset, min(layout.size + _LONGEST_OWNER, end - offset))
            name_size, content_size, kind = layout.unpack_from(data)
            owner = data[layout.size : layout.size + min(name_size, _LONGEST_OWNER)].rstrip(b"\0")
            place = min(offset + layout.size + (name_size + 3 & ~3), end)
            yield Note(owner, kind, place, min(content_size, end - place))
            offset = place + (content_size + 3 & ~3)
            left -= 1


def origin(file: FileBacking, header: Header, table: Table) -> Origin:
    """Say whether a core is a machine's or a process's.

    Notes tell, in the first place those that only a machine's core has; else that nothing has a physical address.
    """
    writer, process = None, False
    qemu: list[Note] = []
    for note in read_notes(file, header, table):
        # QEMU writes the guest's VMCOREINFO, too: what is its own says more
        found = _MACHINES.get(note.owner)
        writer = found if writer in {None, "Linux"} and found else writer
        process = process or (note.owner == b"CORE" and note.kind in _PROCESS_TYPES)
        process = process or note.owner.startswith(_PROCESS_NAMES)
        if note.owner == b"QEMU":
            qemu.append(note)
    return Origin(writer, qemu, writer is None and (process or _unplaced(table[table["type"] == LOAD])))


def _unplaced(loads: Table) -> bool:
    """Say whether the PT_LOADs have no physical addresses: so it is in a process's core."""
    return not loads["paddr"].any() and bool(loads["vaddr"].any())
