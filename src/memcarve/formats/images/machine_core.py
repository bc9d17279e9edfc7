"""ELF cores of a whole machine: QEMU's and libvirt's, VirtualBox's, and those that kdump and makedumpfile write.

Specifications: QEMU's dump/dump.c and target/i386/arch_dump.c; VirtualBox's include/VBox/vmm/dbgfcorefmt.h and
DBGFCoreWrite.cpp; the Linux kernel's Documentation/admin-guide/kdump/vmcoreinfo.rst. A PT_LOAD's bytes lie at the
physical address p_paddr; p_filesz of them are in the file, whatever p_memsz says. Cores that QEMU writes with paging
name the same bytes several times.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.elf_core.core_headers import (
    ARM64,
    I386,
    LOAD,
    NO_PROCESSOR,
    X86_64,
    origin,
    program_headers,
    read_header,
)
from memcarve.formats.images import xen_core
from memcarve.formats.images.machine import machine

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.formats.elf_core.core_headers import Note
    from memcarve.formats.images.machine import MachineMemory

# what QEMU notes of a processor: version, size, 18 registers, 10 segments of 24 bytes, then cr0 to cr4
_QEMU_CONTROL = struct.Struct("<5Q")
_QEMU_CONTROL_AT = 8 + 18 * 8 + 10 * 24
_PAGING = 1 << 31  # in cr0

#: what e_machine means, for page tables
_ARCHITECTURES = {I386: "x86", X86_64: "x64", ARM64: "arm64"}
MOST_TEXT = 1 << 20  # bytes of VMCOREINFO: it has about 3,500


def read(file: FileBacking, *, certain: bool = False) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not an ELF core, or is the core of a process.

    `certain`: the user said that it is a machine's. Raises InputError if the core is of a machine whose page tables
    memcarve does not read, or its headers make no sense; and SourceReadError.
    """
    header = read_header(file)
    if header is None:
        return None
    if not header.rows and header.sections_size:
        return xen_core.read(file, header)
    table, remarks = program_headers(file, header)
    whole = not remarks
    found = origin(file, header, table)
    if found.process and not certain:
        return None
    doubtful = found.doubtful and not certain
    if header.order != "<" or header.processor not in {NO_PROCESSOR, *_ARCHITECTURES}:
        raise InputError(
            f"is the core of a machine whose processor is {header.machine}; memcarve reads page tables of x86, "
            "x86-64 and ARM64 alone",
            subject=file.path,
            remedy="make a core of each process on the machine itself (gcore), and give those"
            + "; if it is the core of a process, {input_type:core} reads it" * doubtful,
        )
    if header.processor == NO_PROCESSOR:
        remarks += ("the core does not say of which processor it is; it is read as x86's",)
    if doubtful:
        taken = "nothing in the core tells a machine's from a process's; it is taken for a machine's"
        remarks += (f"{taken}; if it is the core of a process, open it as input type 'core'",)
    # /proc/kcore says with this address that it does not know
    unknown = (1 << header.bits) - 1
    loads = table[table["type"] == LOAD]
    loads = loads[loads["paddr"] != unknown]
    start, size, offset, memory, virtual = (
        loads[name].astype(np.uint64) for name in ("paddr", "filesz", "offset", "memsz", "vaddr")
    )
    # kdump leaves pages out, and so does a core of virtual memory
    partly = ((size != 0) & ((size < memory) | ((virtual != 0) & (virtual != start)))).any()
    declared = found.writer in {"QEMU", "VirtualBox"} and whole and not bool(partly)
    kind = f"ELF core ({found.writer})" if found.writer else "ELF core"
    roots = (qemu_root(file, note, wide=header.processor == X86_64) for note in found.qemu)
    root = next((root for root in roots if root is not None), None)
    memory = machine(kind, file, (start, size, offset), declared=declared, root=root, notes=remarks)
    text, note = None, found.vmcoreinfo
    if note is not None and 0 < note.size <= MOST_TEXT:
        text = file.read_there(note.offset, note.size)
    return memory._replace(vmcoreinfo=text, architecture=_ARCHITECTURES.get(header.processor))


def qemu_root(file: FileBacking, note: Note, *, wide: bool) -> int | None:
    """Return the page-table root of a processor that QEMU describes, of 64 bits if `wide`; None if it has no paging."""
    end = _QEMU_CONTROL_AT + _QEMU_CONTROL.size
    if note.size < end:
        return None
    data = file.read_there(note.offset, end)
    if len(data) < end:
        return None
    control = _QEMU_CONTROL.unpack_from(data, _QEMU_CONTROL_AT)
    if not control[0] & _PAGING:
        return None
    return int(control[3]) & (~0xFFF if wide else ~0x1F)  # below are flags, or the PCID
