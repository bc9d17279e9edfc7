"""ELF cores of a whole machine: QEMU's and libvirt's, VirtualBox's, and those that kdump and makedumpfile write.

Specifications: System V ABI, chapters 4 and 5 (headers, and e_phnum in sh_info of section 0 where it does not fit);
QEMU's dump/dump.c and target/i386/arch_dump.c; VirtualBox's include/VBox/vmm/dbgfcorefmt.h and DBGFCoreWrite.cpp; the
Linux kernel's Documentation/admin-guide/kdump/vmcoreinfo.rst. A PT_LOAD's bytes lie at the physical address p_paddr;
p_filesz of them are in the file, whatever p_memsz says. Cores that QEMU writes with paging name the same bytes several
times.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.machine import bounded, machine, read_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from memcarve.backing import FileBacking
    from memcarve.formats.machine import MachineMemory

    Table = npt.NDArray[np.void]

_MAGIC = b"\x7fELF"
_CORE = 4  # e_type ET_CORE
_LOAD, _NOTE = 1, 4
_MANY = 0xFFFF  # e_phnum PN_XNUM: the number is in sh_info of section 0
_BITS = {1: 32, 2: 64}  # EI_CLASS
_PROCESSORS = {3: "32-bit x86", 62: "x86-64"}
_X86_64 = 62
_HEADERS = {32: struct.Struct("<HHIIIIIHHHHHH"), 64: struct.Struct("<HHIQQQIHHHHHH")}  # behind the 16 of e_ident
_INFO_AT = {32: 28, 64: 44}  # where sh_info is in a section header
_PROGRAM = {
    32: np.dtype([(name, "<u4") for name in ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")]),
    64: np.dtype(
        [("type", "<u4"), ("flags", "<u4")]
        + [(name, "<u8") for name in ("offset", "vaddr", "paddr", "filesz", "memsz", "align")]
    ),
}
_NOTE_HEADER = struct.Struct("<III")
_MOST_NOTE_BYTES = 16 << 20  # a machine of 1,000 processors has 1 MiB
_MOST_NOTES = 1 << 16
_NOTE_START = 512  # what of a note's content is looked at

#: notes that only a machine's core has: the note's name, and who writes it
_MACHINES = {b"QEMU": "QEMU", b"VBCORE": "VirtualBox", b"VBCPU": "VirtualBox", b"VMCOREINFO": "Linux"}
#: notes named CORE that only a process's has: NT_PRPSINFO, NT_AUXV, NT_FILE, NT_SIGINFO
_PROCESS_TYPES = {3, 6, 0x46494C45, 0x53494749}
#: who else writes cores of processes, by the beginning of the notes' names
_PROCESS_NAMES = (b"LINUX", b"FreeBSD", b"NetBSD", b"OpenBSD")

# what QEMU notes of a processor: version, size, 18 registers, 10 segments of 24 bytes, then cr0 to cr4
_QEMU_CONTROL = struct.Struct("<5Q")
_QEMU_CONTROL_AT = 8 + 18 * 8 + 10 * 24
_PAGING = 1 << 31  # in cr0


class _Header(NamedTuple):
    bits: int
    processor: int
    table: int  # e_phoff
    row: int  # e_phentsize
    rows: int  # e_phnum
    sections: int  # e_shoff


class _Note(NamedTuple):
    name: bytes
    kind: int
    content: bytes  # its beginning


class _Notes(NamedTuple):
    writer: str | None  # of a machine's core
    process: bool  # there are notes that only a process's core has
    root: int | None


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None where the file is no ELF core.

    Raises InputError where the core is a process's, is big-endian, or its headers make no sense; and SourceReadError.
    """
    header = _header(file)
    if header is None:
        return None
    table, remarks = _program_headers(file, header)
    notes = _read_notes(file, table[table["type"] == _NOTE], header)
    loads = table[table["type"] == _LOAD]
    if notes.writer is None and (notes.process or _unplaced(loads)):
        raise InputError(
            f"{file.path}: is the core of a process, not of a machine, and memcarve does not read these yet; "
            "give the machine's memory image, or a process dump with its map"
        )
    if header.processor not in _PROCESSORS:
        remarks += (f"the core is of a processor of type {header.processor} (e_machine), not of x86",)
    # /proc/kcore says with this address that it does not know
    unknown = (1 << header.bits) - 1
    loads = loads[loads["paddr"] != unknown]
    start, size, offset, whole, virtual = (
        loads[name].astype(np.uint64) for name in ("paddr", "filesz", "offset", "memsz", "vaddr")
    )
    # kdump leaves pages out, and so does a core of virtual memory
    declared = notes.writer in {"QEMU", "VirtualBox"} and not bool(
        ((size != 0) & ((size < whole) | ((virtual != 0) & (virtual != start)))).any()
    )
    kind = f"ELF core ({notes.writer})" if notes.writer else "ELF core"
    return machine(kind, file, (start, size, offset), declared=declared, root=notes.root, notes=remarks)


def _header(file: FileBacking) -> _Header | None:
    """Return what the ELF header says, None where the file is no core."""
    ident = read_at(file, 0, 64)
    bits = _BITS.get(ident[4]) if len(ident) > 16 and ident[:4] == _MAGIC else None  # noqa: PLR2004 - e_ident
    if bits is None:
        return None
    big = ident[5] == 2  # noqa: PLR2004 - EI_DATA: ELFDATA2MSB
    if int.from_bytes(ident[16:18], "big" if big else "little") != _CORE:
        return None
    if big:
        raise InputError(f"{file.path}: is a core of a big-endian machine; memcarve reads x86 only")
    layout = _HEADERS[bits]
    if len(ident) < 16 + layout.size:
        raise InputError(f"{file.path}: is an ELF core that ends inside its header; the file was cut off")
    _, processor, _, _, table, sections, _, _, row, rows, *_ = layout.unpack_from(ident, 16)
    expected = _PROGRAM[bits].itemsize
    if rows and row != expected:
        raise InputError(
            f"{file.path}: is an ELF core whose program headers have {row} bytes (e_phentsize); expected {expected}"
        )
    return _Header(bits, processor, table, expected, rows, sections)


def _program_headers(file: FileBacking, header: _Header) -> tuple[Table, tuple[str, ...]]:
    """Return the rows of the table that are in the file, and notes on those that are not."""
    rows = header.rows
    notes: tuple[str, ...] = ()
    if rows == _MANY:
        info = read_at(file, header.sections + _INFO_AT[header.bits], 4) if header.sections else b""
        if len(info) == 4:  # noqa: PLR2004 - sh_info
            rows = int.from_bytes(info, "little")
        else:
            notes += (f"how many program headers there are is not in the file, which ends too early; {rows} are used",)
    there = min(rows, max(file.size - header.table, 0) // header.row)
    if there < rows:
        notes += (f"the file ends inside its program headers: {there} of {rows} are there",)
    bounded(file, there, "program headers")
    data = read_at(file, header.table, there * header.row)
    return np.frombuffer(data, _PROGRAM[header.bits]), notes


def _unplaced(loads: Table) -> bool:
    """Say whether the PT_LOADs, more than one of them, have no physical addresses: so it is in a process's core."""
    return len(loads) > 1 and not loads["paddr"].any() and bool(loads["vaddr"].any())


def _read_notes(file: FileBacking, segments: Table, header: _Header) -> _Notes:
    """Return what the PT_NOTEs say."""
    writer: str | None = None
    process, root, left = False, None, _MOST_NOTES
    for offset, size in zip(segments["offset"][:_MOST_NOTES].tolist(), segments["filesz"].tolist(), strict=False):
        for note in _notes(file, offset, min(size, _MOST_NOTE_BYTES)):
            left -= 1
            if left < 0:
                return _Notes(writer, process, root)
            # QEMU writes the guest's VMCOREINFO, too: what is its own says more
            found = _MACHINES.get(note.name)
            writer = found if writer in {None, "Linux"} and found else writer
            process = process or (note.name == b"CORE" and note.kind in _PROCESS_TYPES)
            process = process or note.name.startswith(_PROCESS_NAMES)
            if note.name == b"QEMU" and root is None:
                root = _root(note.content, header.processor)
    return _Notes(writer, process, root)


def _notes(file: FileBacking, offset: int, size: int) -> Iterator[_Note]:
    """Yield the notes in `size` bytes at `offset`, as far as the file goes."""
    end = min(offset + size, file.size)
    while offset + _NOTE_HEADER.size <= end:
        data = read_at(file, offset, min(_NOTE_HEADER.size + _NOTE_START, end - offset))
        name_size, content_size, kind = _NOTE_HEADER.unpack_from(data)
        place = _NOTE_HEADER.size + (name_size + 3 & ~3)
        name = data[_NOTE_HEADER.size : _NOTE_HEADER.size + name_size].rstrip(b"\0")
        yield _Note(name, kind, data[place : place + content_size])
        offset += place + (content_size + 3 & ~3)


def _root(content: bytes, processor: int) -> int | None:
    """Return the page-table root of a processor that QEMU describes, None where it does not use paging."""
    if len(content) < _QEMU_CONTROL_AT + _QEMU_CONTROL.size:
        return None
    control = _QEMU_CONTROL.unpack_from(content, _QEMU_CONTROL_AT)
    if not control[0] & _PAGING:
        return None
    return int(control[3]) & (~0xFFF if processor == _X86_64 else ~0x1F)  # below are flags, or the PCID
