"""ELF cores of a process: who it is, its threads' registers and mapped files, read and laid out.

Sources: core(5); the Linux kernel's include/linux/elfcore.h and elfcore-compat.h (prpsinfo), fs/binfmt_elf.c (NT_FILE,
and how cores are laid out); sigaction(2) and include/uapi/asm-generic/siginfo.h (siginfo_t); signal(7), as numbered on
x86 and ARM. Other systems lay their notes out in their own way.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats import floating_point
from memcarve.formats.alignment import memory_begins
from memcarve.formats.elf_core.core_headers import (
    FILE,
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
    XSTATE,
)
from memcarve.formats.elf_core.processors import ARM_VFP, LIKE, PROCESSORS, processor_of
from memcarve.formats.elf_layout import CORE, HEADER_SIZES, HEADERS, MAGIC, SECTIONS, program_type
from memcarve.intervals import PAGE, total
from memcarve.vocabulary import INTEL, Architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memcarve.backing import FileBacking
    from memcarve.dtypes import U32, U64
    from memcarve.formats.elf_core.core_headers import Header, Note
    from memcarve.formats.elf_core.processors import Processor


EXECUTE, WRITE, READ = 1, 2, 4  # p_flags
_SYSTEM = 3  # EI_OSABI of Linux (GNU): lldb wants it if there are threads
_TEXT = 1 << 26  # bytes of NT_FILE that are read; Linux writes 4 MiB at most
#: the longest note of memcarve's own: as JSON it takes some ten times that in memory
LARGEST_OWN = 1 << 25
_FILE_PAGES = 1 << 52  # an offset in pages that still is one in bytes

#: of NT_PRPSINFO, by its size: where pr_pid and pr_fname are; of 32 bits user ids have 16 or 32 bits
_INFO = {(64, 136): (24, 40), (32, 124): (12, 28), (32, 128): (16, 32)}
_NAME, _ARGUMENTS = 16, 80  # bytes of pr_fname and pr_psargs

_UNNAMED = "-"
_MORE = 256  # bytes of notes that hold further registers
_XSTATES = range(floating_point.XSAVE, floating_point.LARGEST + 1)
#: the notes that hold floating-point and vector registers, the fullest first: owner and type, what sizes it may have
_AREAS: dict[Architecture, tuple[tuple[tuple[bytes, int], Sequence[int]], ...]] = {
    Architecture.X64: (((b"LINUX", XSTATE), _XSTATES), ((b"CORE", PRFPREG), (floating_point.FXSAVE,))),
    Architecture.X86: (
        ((b"LINUX", XSTATE), _XSTATES),
        ((b"LINUX", PRXFPREG), (floating_point.FXSAVE,)),
        ((b"CORE", PRFPREG), (floating_point.FSAVE,)),
    ),
    Architecture.ARM64: (((b"CORE", PRFPREG), (floating_point.FPSIMD,)),),
    Architecture.ARM: (((b"LINUX", ARM_VFP), (floating_point.VFP,)),),
}

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
    """A thread: its id, and the registers that its notes hold, by name; None of a processor that has no word.

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


class Identity(NamedTuple):
    """What NT_PRPSINFO says of a process; None is unknown, which is 0 there. `arguments` are its command line."""

    pid: int | None = None
    name: bytes = b""
    arguments: bytes | None = None
    parent: int | None = None
    uid: int | None = None
    gid: int | None = None


class MappedFile(NamedTuple):
    """The addresses ``start <= x < end`` are mapped from `offset` (bytes) of a file on."""

    start: int
    end: int
    offset: int
    name: bytes


def architecture(header: Header) -> Architecture | None:
    """Return which processor a core is of; None for those that there is no word for, as x32."""
    return processor_of(header.bits, header.processor) if header.order == "<" else None


def status(file: FileBacking, header: Header, notes: Mapping[tuple[bytes, int], Note]) -> Status | None:
    """Return the thread that notes are of, by owner and type, NT_PRSTATUS among them; None if that is too short."""
    word, note = architecture(header), notes[b"CORE", PRSTATUS]
    form = LIKE[header.bits] if word is None else PROCESSORS[word]
    data = file.read_there(note.offset, min(note.size, form.size))
    if len(data) < form.tid_at + 4:
        return None
    (tid,) = struct.unpack_from(f"{header.order}I", data, form.tid_at)
    (signal,) = struct.unpack_from(f"{header.order}H", data, _CURSIG)
    if word is None or len(data) < form.size:
        return Status(tid, None, signal)
    known = _words(form, form.registers, data[form.registers_at :])
    for kind, names in form.more:
        more = notes.get((b"LINUX", kind))
        known |= {} if more is None else _words(form, names, file.read_there(more.offset, min(more.size, _MORE)))
    return Status(tid, known, signal)


def _words(form: Processor, names: Sequence[str], data: bytes) -> dict[str, int]:
    """Return registers that follow each other as words; none if there are too few."""
    layout = struct.Struct(f"<{len(names)}{_word(form.bits)}")
    if len(data) < layout.size:
        return {}
    pairs = zip(names, layout.unpack_from(data), strict=True)
    return {name: value for name, value in pairs if name != _UNNAMED}


def signal_info(data: bytes, header: Header) -> Signal:
    """Return what a siginfo_t of 128 bytes says."""
    number, _, code = struct.unpack_from(f"{header.order}3i", data)
    (address,) = struct.unpack_from(f"{header.order}{_word(header.bits)}", data, _FAULT_AT[header.bits])
    return Signal(number & 0xFFFFFFFF, code & 0xFFFFFFFF, address if number in FAULTS and code > 0 else None)


def floating(file: FileBacking, header: Header, notes: Mapping[tuple[bytes, int], Note]) -> bytes | None:
    """Return a thread's floating-point and vector registers, the fullest area that its notes hold; None if none does.

    `notes` are those of the thread, by owner and type.
    """
    word = architecture(header)
    for kind, sizes in _AREAS.get(word, ()) if word is not None else ():
        note = notes.get(kind)
        if note is not None and note.size in sizes:
            return file.read_there(note.offset, note.size)
    return None


def process_info(file: FileBacking, header: Header, note: Note) -> Identity | None:
    """Return what a note of type NT_PRPSINFO says; None if it is laid out otherwise.

    The name has at most 15 bytes, the arguments at most 79. A parent of 0 is none that is known.
    """
    places = _INFO.get((header.bits, note.size))
    if places is None:
        return None
    data = file.read_there(note.offset, note.size)
    pid, parent = struct.unpack_from(f"{header.order}2I", data, places[0])
    name, arguments = (
        data[start : start + size].partition(b"\0")[0]
        for start, size in ((places[1], _NAME), (places[1] + _NAME, _ARGUMENTS))
    )
    # writers that do not know the arguments repeat the name; Linux ends them with a space
    told = arguments.rstrip(b" ") if arguments not in (b"", name) else None
    return Identity(pid, name, told, parent or None)


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


def status_notes(
    word: Architecture, tid: int, registers: Mapping[str, int], signal: int = 0, parent: int | None = None
) -> tuple[bytes, bytes]:
    """Return a note of type NT_PRSTATUS, and the notes of registers beyond it that are known.

    Registers that are not given are 0. `signal` is what stopped the thread, `parent` the process that began its own.
    """
    form = PROCESSORS[word]
    data = bytearray(form.size)
    struct.pack_into("<I", data, 0, signal & 0xFFFF)  # si_signo of its own
    struct.pack_into("<H", data, _CURSIG, signal & 0xFFFF)
    struct.pack_into("<2I", data, form.tid_at, *_pids(tid, parent))
    found = _packed(form, form.registers, registers)
    data[form.registers_at : form.registers_at + len(found)] = found
    more = [
        note(b"LINUX", kind, _packed(form, names, registers))
        for kind, names in form.more
        if any(name in registers for name in names)
    ]
    return note(b"CORE", PRSTATUS, bytes(data)), b"".join(more)


def _packed(form: Processor, names: Sequence[str], registers: Mapping[str, int]) -> bytes:
    mask = (1 << form.bits) - 1
    return struct.pack(f"<{len(names)}{_word(form.bits)}", *(registers.get(name, 0) & mask for name in names))


def signal_note(bits: int, siginfo: bytes | None, signal: int, code: int, address: int | None) -> bytes:
    """Return a note of type NT_SIGINFO: a siginfo_t as it is, or one made of the rest."""
    data = bytearray(SIGINFO_SIZE)
    _SIGINFO.pack_into(data, 0, signal & 0xFFFFFFFF, 0, code & 0xFFFFFFFF)
    struct.pack_into(f"<{_word(bits)}", data, _FAULT_AT[bits], (address or 0) & ((1 << bits) - 1))
    return note(b"CORE", SIGINFO, bytes(data) if siginfo is None else siginfo)


def floating_notes(word: Architecture, area: bytes) -> bytes:
    """Return the notes of a thread's floating-point and vector registers; none if they are of another processor.

    Of x86: NT_PRFPREG, NT_PRXFPREG (of 32 bits), NT_X86_XSTATE; of ARM64 NT_PRFPREG, of ARM NT_ARM_VFP.
    """
    if word not in INTEL:
        (kind, (size,)) = _AREAS[word][0]
        return note(*kind, area) if len(area) == size else b""
    if len(area) in floating_point.OF_ARM:
        return b""
    extended, found = floating_point.fxsave(area), b""
    if word == Architecture.X86:
        found = note(b"CORE", PRFPREG, floating_point.fsave(area))
        found += b"" if extended is None else note(b"LINUX", PRXFPREG, extended)
    elif extended is not None:
        found = note(b"CORE", PRFPREG, extended)
    return found + (note(b"LINUX", XSTATE, area) if len(area) > floating_point.FXSAVE else b"")


def info_note(bits: int, who: Identity) -> bytes:
    """Return a note of type NT_PRPSINFO: its name is cut to 15 bytes, and also stands for unknown arguments."""
    size = next(size for width, size in _INFO if width == bits)
    pid_at, name_at = _INFO[bits, size]
    data = bytearray(size)
    user = "I" if bits == 64 else "H"  # noqa: PLR2004
    most = (1 << 8 * struct.calcsize(user)) - 1
    users = (min(each, most) for each in (who.uid or 0, who.gid or 0))  # as the kernel says "overflow"
    struct.pack_into(f"<2{user}2I", data, pid_at - 2 * struct.calcsize(user), *users, *_pids(who.pid, who.parent))
    texts = zip((who.name, who.name if who.arguments is None else who.arguments), (_NAME, _ARGUMENTS), strict=True)
    data[name_at : name_at + _NAME + _ARGUMENTS] = b"".join(
        text[: length - 1].ljust(length, b"\0") for text, length in texts
    )
    return note(b"CORE", PRPSINFO, bytes(data))


def _pids(*numbers: int | None) -> list[int]:
    return [(number or 0) & 0xFFFFFFFF for number in numbers]


def file_note(bits: int, rows: Sequence[MappedFile]) -> bytes:
    """Return a note of type NT_FILE; no name may hold a zero byte.

    The end of the address space, which no word holds, is said as the last address; a row whose offset is more than a
    word holds, which no system has, is left out. So are the rows behind those that fill a note which is read again.
    """
    most = (1 << bits) - 1
    rows = [row._replace(end=min(row.end, most)) for row in rows if row.offset // PAGE <= most]
    sizes = itertools.accumulate(3 * bits // 8 + len(row.name) + 1 for row in rows)
    rows = [row for row, size in zip(rows, sizes, strict=True) if size < _TEXT - PAGE]
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


def layout(word: Architecture, notes: bytes, start: U64, size: U64, flags: U32) -> Layout:
    """Lay a core out: headers, notes, and memory, range after range, where `memory_begins` says.

    Columns, one row a range: start, size (uint64), p_flags (uint32). From 65,535 program headers on their number is in
    a section header, the only one there is: an empty table of sections has loaders take permissions from it. A range
    that lies otherwise in its page than in the file says so by p_align.
    """
    bits, machine = PROCESSORS[word][:2]
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
    head = ident + struct.pack(f"<{HEADERS[bits]}", CORE, machine, 1, *where, *counts)
    extra = bytearray(section)
    if many:
        struct.pack_into("<I", extra, SECTIONS[bits][0], rows)
    return Layout((head, table.tobytes(), bytes(extra), notes, bytes(base - notes_at - len(notes))), base)


def _word(bits: int) -> str:
    return "Q" if bits == 64 else "I"  # noqa: PLR2004
