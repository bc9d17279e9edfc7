"""ELF cores: headers, program headers and notes, of a machine or of a process; and which of the two a core is.

Specifications: System V ABI, chapters 4 and 5 (headers, notes, and e_phnum in sh_info of section 0 if it does not
fit); core(5); for who notes what, those that machine_core.py and process_notes.py name. Which processor an e_machine
is: the System V ABI's list of them.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.elf_layout import BITS, HEADERS, IDENT, ORDERS, SECTIONS, is_core, program_type
from memcarve.formats.images.machine import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from memcarve.dtypes import Records


LOAD, NOTE = 1, 4  # p_type
MANY = 0xFFFF  # e_phnum PN_XNUM: the number is in sh_info of section 0
NO_PROCESSOR, I386, X86_64, ARM64 = 0, 3, 62, 183  # e_machine
#: what other numbers of e_machine mean
_PROCESSORS = {
    2: "SPARC",
    8: "MIPS",
    15: "PA-RISC",
    20: "PowerPC",
    21: "64-bit PowerPC",
    22: "s390",
    40: "32-bit ARM",
    42: "SuperH",
    43: "64-bit SPARC",
    50: "Itanium",
    94: "Xtensa",
    ARM64: "ARM64",
    243: "RISC-V",
    258: "LoongArch",
}
PRSTATUS, PRFPREG, PRPSINFO, AUXV, FILE, SIGINFO = 1, 2, 3, 6, 0x46494C45, 0x53494749  # types of notes named CORE
PRXFPREG, XSTATE = 0x46E62B7F, 0x202  # of those named LINUX: what FXSAVE and XSAVE save
#: what memcarve calls its own note, whose type nothing else uses: readers go by the type alone
OWNER, PROVENANCE = b"memcarve", 0x4D435256

NOTE_HEADER = "III"  # n_namesz, n_descsz, n_type
_MOST_NOTES = 1 << 17  # a process of 20,000 threads
_LONGEST_OWNER = 64

#: notes that only a machine's core has: the note's name, and who writes it
_MACHINES = {
    b"QEMU": "QEMU",
    b"VBCORE": "VirtualBox",
    b"VBCPU": "VirtualBox",
    b"VMCOREINFO": "Linux",
    b"VMCOREINFO_XEN": "Linux",
    b"Xen": "Linux",
}
#: notes named CORE that only a process's has; and who else writes cores of processes, by how the notes' names begin
_OF_PROCESS = {AUXV, FILE, SIGINFO}
_PROCESS_OWNERS = (b"FreeBSD", b"NetBSD", b"OpenBSD", OWNER)
#: notes that machines' and processes' cores have alike: registers of processors, or of threads (NT_PRSTATUS and
#: NT_PRFPREG; those named LINUX that ARM64 and others have). Any other is of a process, unless addresses say otherwise
_OF_BOTH = {(b"CORE", PRSTATUS), (b"CORE", PRFPREG)}
_OWNER_OF_BOTH = b"LINUX"
_PHYSICAL = 1 << 52  # no processor's physical addresses reach beyond
_LOW = 1 << 16  # where a machine's memory begins, and no process's: systems leave it out


class Header(NamedTuple):
    """What an ELF header says: 32 or 64 `bits`, byte `order` (``<``, ``>``), e_machine, EI_OSABI, and where tables are.

    `table` is the offset of `rows` program headers of `row` bytes, `sections` that of the section headers, which are
    `sections_size` bytes.
    """

    bits: int
    order: str
    processor: int
    system: int
    table: int
    row: int
    rows: int
    sections: int
    sections_size: int

    @property
    def machine(self) -> str:
        """What kind of processor it names."""
        known = {I386: "32-bit x86", X86_64: "x86-64"} | _PROCESSORS
        order = "" if self.order == "<" else "big-endian "
        return order + known.get(self.processor, f"unknown (e_machine {self.processor})")


class Note(NamedTuple):
    """A note: its owner's name, its type, and the offset and size of as much of its content as is in the file."""

    owner: bytes
    kind: int
    offset: int
    size: int


class Origin(NamedTuple):
    """Who wrote a machine's core, if its notes tell; its QEMU notes; and whether it is a process's instead.

    It is `doubtful` if neither notes nor addresses tell which of the two it is. `vmcoreinfo` is the note in which Linux
    says of itself what readers of dumps need; None if there is none.
    """

    writer: str | None
    qemu: list[Note]
    process: bool
    doubtful: bool
    vmcoreinfo: Note | None = None


def read_header(file: FileBacking) -> Header | None:
    """Return what the ELF header says, None if the file is not a core.

    Raises InputError if it ends too early or its program headers have another size than they must.
    """
    ident = file.read_there(0, 64)
    if not is_core(ident):
        return None
    bits, order = BITS[ident[4]], ORDERS.get(ident[5], "<")
    layout = struct.Struct(order + HEADERS[bits])
    if len(ident) < IDENT + layout.size:
        raise InputError("is an ELF core that ends inside its header; the file was cut off", subject=file.path)
    _, processor, _, _, table, sections, _, _, row, rows, section, count, _ = layout.unpack_from(ident, IDENT)
    expected = program_type(bits).itemsize
    if rows and row != expected:
        raise InputError(
            f"is an ELF core whose program headers have {row} bytes (e_phentsize); expected {expected}",
            subject=file.path,
        )
    return Header(bits, order, processor, ident[7], table, expected, rows, sections, section * count)


def program_headers(file: FileBacking, header: Header) -> tuple[Records, tuple[str, ...]]:
    """Return the rows of the table that are in the file, and notes on what of the core's headers and notes is not.

    Raises InputError if there are more than any machine or process has.
    """
    rows = header.rows
    notes: tuple[str, ...] = ()
    if rows == MANY:
        info = file.read_there(header.sections + SECTIONS[header.bits][0], 4) if header.sections else b""
        if len(info) == 4:  # noqa: PLR2004 - sh_info
            rows = int.from_bytes(info, "little" if header.order == "<" else "big")
        else:  # Linux writes it behind the memory
            rows = _counted(header, _rows(file, header, rows))
            notes += (f"how many program headers there are is not in the file, which ends too early; {rows} are used",)
    table = _rows(file, header, rows)
    if len(table) < rows:
        how = "cannot be read as far as its program headers go" if file.lost else "ends inside its program headers"
        notes += (f"the file {how}: {len(table)} of {rows} are there",)
    ends = [begin + size for begin, size in table[table["type"] == NOTE][["offset", "filesz"]].tolist() if size]
    if not notes and max(ends, default=0) > file.size:
        notes = ("the file ends before its notes do: not all that they said is known",)
    if not notes and header.sections and header.sections + header.sections_size > file.size:
        notes = ("the file ends before its section headers do: it was cut off",)
    return table, notes


def _rows(file: FileBacking, header: Header, count: int) -> Records:
    """Return as many of the program headers as there are in the file."""
    there = bounded(file, min(count, max(file.size - header.table, 0) // header.row), "program headers")
    data = file.read_there(header.table, there * header.row)
    return np.frombuffer(data[: len(data) // header.row * header.row], program_type(header.bits, header.order))


def _counted(header: Header, table: Records) -> int:
    """Return how many program headers there are if that can be told by where the notes begin, as Linux lays cores out.

    `table` are the first of them, as many as e_phnum can tell.
    """
    begins = table["offset"][table["type"] == NOTE][:1].tolist()
    behind = begins[0] - header.table if begins else 0
    return behind // header.row if behind >= MANY * header.row and behind % header.row == 0 else MANY


def read_notes(file: FileBacking, header: Header, table: Records) -> Iterator[Note]:
    """Yield the notes of a core as far as the file goes, at most 2**17 of them."""
    segments = table[table["type"] == NOTE][:_MOST_NOTES]
    places = zip(segments["offset"].tolist(), segments["filesz"].tolist(), strict=True)
    notes = (notes_between(file, header.order, begin, begin + size) for begin, size in places)
    return itertools.islice(itertools.chain.from_iterable(notes), _MOST_NOTES)


def notes_between(file: FileBacking, order: str, offset: int, end: int) -> Iterator[Note]:
    """Yield the notes between two offsets, at most 2**17 of them; `order` is that of the bytes (``<``, ``>``)."""
    end, left, layout = min(end, file.size), _MOST_NOTES, struct.Struct(order + NOTE_HEADER)
    while offset + layout.size <= end and left:
        data = file.read_there(offset, wanted := min(layout.size + _LONGEST_OWNER, end - offset))
        if len(data) < wanted:  # it cannot be read, and nothing tells where the next one is
            break
        name_size, content_size, kind = layout.unpack_from(data)
        owner = data[layout.size : layout.size + min(name_size, _LONGEST_OWNER)].rstrip(b"\0")
        place = min(offset + layout.size + (name_size + 3 & ~3), end)
        yield Note(owner, kind, place, min(content_size, end - place))
        offset = place + (content_size + 3 & ~3)
        left -= 1


def origin(file: FileBacking, header: Header, table: Records) -> Origin:
    """Return whether a core is a machine's or a process's, and who wrote it.

    Notes tell, if only one of the two has them. Otherwise addresses do: in a process's core p_paddr is 0 or the same as
    p_vaddr; a core with other physical addresses is a machine's. But QEMU also repeats p_paddr as p_vaddr if it does
    not look at page tables, and writes a note of its own for x86 only: then p_flags tell.
    """
    writer, certain, likely, both, kernel = None, False, False, False, False
    qemu: list[Note] = []
    vmcoreinfo: Note | None = None
    for note in read_notes(file, header, table):
        # QEMU also writes the guest's VMCOREINFO: its own notes say more
        found = _MACHINES.get(note.owner)
        writer = found if writer in {None, "Linux"} and found else writer
        certain |= note.owner.startswith(_PROCESS_OWNERS) or (note.owner == b"CORE" and note.kind in _OF_PROCESS)
        shared = note.owner == _OWNER_OF_BOTH or (note.owner, note.kind) in _OF_BOTH
        both |= shared
        likely |= not shared
        kernel |= (note.owner, note.kind) == (b"CORE", PRPSINFO) and (
            b"vmlinux\0" in file.read_there(note.offset, min(note.size, 64))  # so in /proc/kcore, and on s390
        )
        if note.owner == b"QEMU":
            qemu.append(note)
        elif note.owner == b"VMCOREINFO":
            vmcoreinfo = note
    if writer is not None or certain:
        return Origin(writer, qemu, process=writer is None, doubtful=False, vmcoreinfo=vmcoreinfo)
    loads = table[table["type"] == LOAD]
    if _placed(header, loads) or (kernel and loads["paddr"].any()):
        return Origin(None, qemu, process=False, doubtful=False)
    if likely or (both and not len(loads)) or (loads["vaddr"].any() and not loads["paddr"].any()):
        return Origin(None, qemu, process=True, doubtful=False)
    flags, start = loads["flags"], loads["vaddr"]
    uniform = not bool((flags != flags[:1]).any()) and not bool((start >= _PHYSICAL).any())
    # QEMU leaves p_flags at 0; others that copy a machine's memory (FreeBSD) have all of it alike, and no notes
    machine = uniform and (not flags.any() or (not both and int(start.min()) < _LOW))
    return Origin(None, qemu, process=not machine, doubtful=bool(start.any()))


def _placed(header: Header, loads: Records) -> bool:
    """Return True if PT_LOADs have physical addresses of their own: not 0, p_vaddr, or all ones (not known)."""
    physical, unknown = loads["paddr"], (1 << header.bits) - 1
    return bool(((physical != 0) & (physical != loads["vaddr"]) & (physical != unknown)).any())
