"""ELF cores of a process: who it is, its threads' registers and mapped files, read and laid out.

Sources: core(5); the Linux kernel's include/linux/elfcore.h and elfcore-compat.h (prstatus, prpsinfo), include/uapi/
asm/ptrace-abi.h and user_64.h of arch/x86 (the order of registers), fs/binfmt_elf.c (NT_FILE, and how cores are laid
out); sigaction(2) and include/uapi/asm-generic/siginfo.h (siginfo_t); signal(7), as numbered on x86. Other
systems lay their notes out in their own way.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats import floating_point
from memcarve.formats.alignment import memory_begins
from memcarve.formats.elf_core.core_headers import (
    CORE,
    FILE,
    I386,
    LOAD,
    MANY,
    NOTE,
    NOTE_HEADER,
    OWNER,
    PRFPREG,
    PROVENANCE,
    PRPSINFO,
    PRSTATUS,
    PRXFPREG,
    SIGINFO,
    X86_64,
    XSTATE,
)
from memcarve.formats.elf_layout import HEADER_SIZES, HEADERS, MAGIC, SECTIONS, program_type
from memcarve.intervals import PAGE, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memcarve.backing import FileBacking
    from memcarve.dtypes import U32, U64
    from memcarve.formats.elf_core.core_headers import Header, Note


EXECUTE, WRITE, READ = 1, 2, 4  # p_flags
_SYSTEM = 3  # EI_OSABI of Linux (GNU): lldb wants it if there are threads
_TEXT = 1 << 26  # bytes of NT_FILE that are read; Linux writes 4 MiB at most
#: the longest note of memcarve's own: as JSON it takes some ten times that in memory
LARGEST_OWN = 1 << 25
_FILE_PAGES = 1 << 52  # an offset in pages that still is one in bytes

#: the registers of NT_PRSTATUS in their order
_REGISTERS = {
    64: "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es "
    "fs gs",
    32: "ebx ecx edx esi edi ebp eax ds es fs gs orig_eax eip cs eflags esp ss",
}
#: size of NT_PRSTATUS, where its pr_pid is, and where its registers are
_STATUS = {64: (336, 32, 112), 32: (144, 24, 72)}
#: of NT_PRPSINFO, by its size: where pr_pid and pr_fname are; of 32 bits user ids have 16 or 32 bits
_INFO = {(64, 136): (24, 40), (32, 124): (12, 28), (32, 128): (16, 32)}
_NAME, _ARGUMENTS = 16, 80  # bytes of pr_fname and pr_psargs
_MACHINES = {64: X86_64, 32: I386}


#: where pr_cursig is: behind si_signo, si_code and si_errno of its own
_CURSIG = 12
#: siginfo_t: its size; si_signo, si_errno, si_code; where si_addr is
SIGINFO_SIZE = 128
_SIGINFO, _FAULT_AT = struct.Struct("<3I"), {64: 16, 32: 12}
SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGINT = 4, 5, 6, 7, 8, 11, 2
#: signals whose siginfo_t has an address, if the kernel sent them
FAULTS = frozenset({SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV})
KERNEL = 0x80  # si_code SI_KERNEL: nothing says why


class Status(NamedTuple):
    """A thread: its id, and the registers that NT_PRSTATUS holds, by name; None of a processor that is not x86.

    `signal` is pr_cursig.
    """

    tid: int
    registers: dict[str, int] | None
    signal: int = 0


class Signal(NamedTuple):
    """What a siginfo_t says: si_signo, si_code as 32 bits without a sign, si_addr if it has one."""

    number: int
    code: int
    address: int | None


class MappedFile(NamedTuple):
    """The addresses ``start <= x < end`` are mapped from `offset` (bytes) of a file on."""

    start: int
    end: int
    offset: int
    name: bytes


def architecture(header: Header) -> str | None:
    """Return ``"x64"`` or ``"x86"``, None for all other processors; x32 is neither of the two."""
    known = {(64, X86_64): "x64", (32, I386): "x86"}
    return known.get((header.bits, header.processor)) if header.order == "<" else None


def status(file: FileBacking, header: Header, note: Note) -> Status | None:
    """Return the thread of a note of type NT_PRSTATUS; None if it is too short."""
    size, tid_at, registers_at = _STATUS[header.bits]
    data = file.read_there(note.offset, min(note.size, size))
    if len(data) < tid_at + 4:
        return None
    (tid,) = struct.unpack_from(f"{header.order}I", data, tid_at)
    (signal,) = struct.unpack_from(f"{header.order}H", data, _CURSIG)
    if architecture(header) is None or len(data) < size:
        return Status(tid, None, signal)
    names = _REGISTERS[header.bits].split()
    values = struct.unpack_from(f"<{len(names)}{_word(header.bits)}", data, registers_at)
    return Status(tid, dict(zip(names, values, strict=True)), signal)


def signal_info(data: bytes, header: Header) -> Signal:
    """Return what a siginfo_t of 128 bytes says."""
    number, _, code = struct.unpack_from(f"{header.order}3i", data)
    (address,) = struct.unpack_from(f"{header.order}{_word(header.bits)}", data, _FAULT_AT[header.bits])
    return Signal(number & 0xFFFFFFFF, code & 0xFFFFFFFF, address if number in FAULTS and code > 0 else None)


def floating(file: FileBacking, header: Header, notes: Mapping[tuple[bytes, int], Note]) -> bytes | None:
    """Return the x87 and SSE registers of a thread of x86, the fullest area that its notes hold; None if there is none.

    `notes` are those of the thread, by owner and type.
    """
    word = architecture(header)
    kinds = {
        "x64": ((b"LINUX", XSTATE), (b"CORE", PRFPREG)),
        "x86": ((b"LINUX", XSTATE), (b"LINUX", PRXFPREG), (b"CORE", PRFPREG)),
    }
    for kind in kinds.get(word or "", ()):
        note = notes.get(kind)
        if note is None or not floating_point.is_sound(note.size):
            continue
        if (kind[1] == PRFPREG) == (note.size == (floating_point.FXSAVE if word == "x64" else floating_point.FSAVE)):
            return file.read_there(note.offset, note.size)
    return None


def process_info(file: FileBacking, header: Header, note: Note) -> tuple[int, bytes] | None:
    """Return pid and name (at most 15 bytes) of a note of type NT_PRPSINFO; None if it is laid out otherwise."""
    places = _INFO.get((header.bits, note.size))
    if places is None:
        return None
    data = file.read_there(note.offset, note.size)
    (pid,) = struct.unpack_from(f"{header.order}I", data, places[0])
    return pid, data[places[1] : places[1] + _NAME].partition(b"\0")[0]


def mapped_files(file: FileBacking, header: Header, note: Note) -> list[MappedFile] | None:
    """Return what a note of type NT_FILE lists; None if it is damaged."""
    if note.size > _TEXT:
        return None
    data = file.read_there(note.offset, note.size)
    dtype = np.dtype(f"{header.order}u{header.bits // 8}")
    words = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    if len(words) < 2 or int(words[0]) > (len(words) - 2) // 3:  # noqa: PLR2004 - count and page size
        return None
    count, unit = int(words[0]), int(words[1])
    names = data[(2 + 3 * count) * dtype.itemsize :].split(b"\0", count)
    if len(names) <= count:
        return None
    rows = zip(words[2 : 2 + 3 * count].reshape(-1, 3).tolist(), names, strict=False)
    found = [MappedFile(start, end, pages * unit, name) for (start, end, pages), name in rows]
    return found if all(row.start < row.end and row.offset < _FILE_PAGES * PAGE for row in found) else None


def status_note(bits: int, tid: int, registers: Mapping[str, int], signal: int = 0) -> bytes:
    """Return a note of type NT_PRSTATUS; registers that are not given are 0. `signal` is what stopped the thread."""
    size, tid_at, registers_at = _STATUS[bits]
    data = bytearray(size)
    struct.pack_into("<I", data, 0, signal & 0xFFFF)  # si_signo of its own
    struct.pack_into("<H", data, _CURSIG, signal & 0xFFFF)
    struct.pack_into("<I", data, tid_at, tid & 0xFFFFFFFF)
    names, mask = _REGISTERS[bits].split(), (1 << bits) - 1
    values = [registers.get(name, 0) & mask for name in names]
    struct.pack_into(f"<{len(names)}{_word(bits)}", data, registers_at, *values)
    return note(b"CORE", PRSTATUS, bytes(data))


def signal_note(bits: int, siginfo: bytes | None, signal: int, code: int, address: int | None) -> bytes:
    """Return a note of type NT_SIGINFO: a siginfo_t as it is, or one made of the rest."""
    data = bytearray(SIGINFO_SIZE)
    _SIGINFO.pack_into(data, 0, signal & 0xFFFFFFFF, 0, code & 0xFFFFFFFF)
    struct.pack_into(f"<{_word(bits)}", data, _FAULT_AT[bits], (address or 0) & ((1 << bits) - 1))
    return note(b"CORE", SIGINFO, bytes(data) if siginfo is None else siginfo)


def floating_notes(bits: int, area: bytes) -> bytes:
    """Return the notes of a thread's x87 and SSE registers: NT_PRFPREG, NT_PRXFPREG (of 32 bits), NT_X86_XSTATE."""
    extended, found = floating_point.fxsave(area), b""
    if bits == 32:  # noqa: PLR2004
        found = note(b"CORE", PRFPREG, floating_point.fsave(area))
        found += b"" if extended is None else note(b"LINUX", PRXFPREG, extended)
    elif extended is not None:
        found = note(b"CORE", PRFPREG, extended)
    return found + (note(b"LINUX", XSTATE, area) if len(area) > floating_point.FXSAVE else b"")


def info_note(bits: int, pid: int, name: bytes) -> bytes:
    """Return a note of type NT_PRPSINFO: its name is cut to 15 bytes, and also stands for the arguments."""
    size = next(size for width, size in _INFO if width == bits)
    pid_at, name_at = _INFO[bits, size]
    data = bytearray(size)
    struct.pack_into("<I", data, pid_at, pid & 0xFFFFFFFF)
    short, long = (name[: length - 1].ljust(length, b"\0") for length in (_NAME, _ARGUMENTS))
    data[name_at : name_at + _NAME + _ARGUMENTS] = short + long
    return note(b"CORE", PRPSINFO, bytes(data))


def file_note(bits: int, rows: Sequence[MappedFile]) -> bytes:
    """Return a note of type NT_FILE; no name may hold a zero byte.

    The end of the address space, which no word holds, is said as the last address; a row whose offset is more than a
    word holds, which no system has, is left out.
    """
    most = (1 << bits) - 1
    rows = [row._replace(end=min(row.end, most)) for row in rows if row.offset // PAGE <= most]
    words = [len(rows), PAGE, *(word for row in rows for word in (row.start, row.end, row.offset // PAGE))]
    names = b"".join(row.name + b"\0" for row in rows)
    return note(b"CORE", FILE, struct.pack(f"<{len(words)}{_word(bits)}", *words) + names)


def own_note(content: bytes) -> bytes:
    """Return memcarve's own note, which says where the core comes from."""
    return note(OWNER, PROVENANCE, content)


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    """Return a note, padded to four bytes."""
    name = owner + b"\0"
    return b"".join(
        (
            struct.pack(f"<{NOTE_HEADER}", len(name), len(content), kind),
            name.ljust(len(name) + 3 & ~3, b"\0"),
            content.ljust(len(content) + 3 & ~3, b"\0"),
        )
    )


class Layout(NamedTuple):
    """What comes before a core's memory: `blocks`, and the offset `base` at which the memory begins."""

    blocks: Iterable[bytes]
    base: int


def layout(bits: int, notes: bytes, start: U64, size: U64, flags: U32) -> Layout:
    """Lay a core out: headers, notes, and memory, range after range, where `memory_begins` says.

    Columns, one row a range: start, size (uint64), p_flags (uint32). From 65,535 program headers on their number is in
    a section header, the only one there is: an empty table of sections has loaders take permissions from it. A range
    that lies otherwise in its page than in the file says so by p_align.
    """
    dtype = program_type(bits)
    rows = len(start) + 1
    many = rows >= MANY
    header = HEADER_SIZES[bits]
    sections = header + rows * dtype.itemsize
    notes_at = sections + (SECTIONS[bits][1] if many else 0)
    # a file of 32 bits has no room to lose
    base = memory_begins(notes_at + len(notes), total(size) if bits == 64 else 0)  # noqa: PLR2004
    table = np.zeros(rows, dtype)
    for name, value in (("type", NOTE), ("offset", notes_at), ("filesz", len(notes)), ("align", 4)):
        table[name][0] = value
    loads = table[1:]
    offset = np.cumsum(size, dtype=np.uint64) - size + np.uint64(base)
    loads["type"], loads["flags"] = LOAD, flags
    loads["offset"], loads["vaddr"], loads["filesz"], loads["memsz"] = offset, start, size, size
    loads["align"] = np.where((offset - start) % np.uint64(PAGE) == 0, PAGE, 1)
    ident = MAGIC + bytes([2 if bits == 64 else 1, 1, 1, _SYSTEM]).ljust(12, b"\0")  # noqa: PLR2004 - EI_CLASS
    row, section = dtype.itemsize, SECTIONS[bits][1] if many else 0
    where = (0, header, sections if many else 0)  # e_entry, e_phoff, e_shoff
    counts = (0, header, row, MANY if many else rows, section, int(many), 0)
    head = ident + struct.pack(f"<{HEADERS[bits]}", CORE, _MACHINES[bits], 1, *where, *counts)
    extra = bytearray(section)
    if many:
        struct.pack_into("<I", extra, SECTIONS[bits][0], rows)
    return Layout((head, table.tobytes(), bytes(extra), notes, bytes(base - notes_at - len(notes))), base)


def _word(bits: int) -> str:
    return "Q" if bits == 64 else "I"  # noqa: PLR2004
