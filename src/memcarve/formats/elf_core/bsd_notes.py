"""What FreeBSD, NetBSD and OpenBSD note in the core of a process.

Sources: FreeBSD's sys/elf_common.h (types), sys/procfs.h (prstatus_t, prpsinfo_t, thrmisc_t), sys/ptrace.h
(ptrace_lwpinfo), sys/user.h (kinfo_vmentry), x86/reg.h; NetBSD's sys/exec_elf.h (netbsd_elfcore_procinfo),
sys/ptrace.h (ptrace_lwpstatus; from type 32 on the machine's own requests, PT_GETREGS and PT_GETFPREGS), amd64/
frame_regs.h, i386/reg.h; OpenBSD's sys/exec_elf.h (elfcore_procinfo), amd64/reg.h, i386/reg.h. Of registers those of
x86 are read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.formats import floating_point
from memcarve.formats.elf_core.process_notes import FAULTS, SIGBUS, architecture
from memcarve.vocabulary import INTEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.backing import FileBacking
    from memcarve.formats.elf_core.core_headers import Header, Note

FREEBSD, NETBSD, OPENBSD = b"FreeBSD", b"NetBSD-CORE", b"OpenBSD"
#: by the owner of notes, what the system is called
SYSTEMS = {FREEBSD: "freebsd", NETBSD: "netbsd", OPENBSD: "openbsd"}

_PRSTATUS, _FPREGS, _PRPSINFO, _THRMISC, _VMMAP, _LWPINFO, _XSTATE = 1, 2, 3, 7, 10, 17, 0x202  # of FreeBSD
_PROCINFO, _LWPSTATUS, _GETREGS, _GETFPREGS = 1, 24, 33, 35  # of NetBSD; the last two of x86
_OPEN_PROCINFO, _OPEN_REGS, _OPEN_FPREGS, _OPEN_XFPREGS = 10, 20, 21, 22
#: types that are known, if they are not read; NetBSD's from 32 on are the machine's
_KNOWN = {FREEBSD: {*range(1, 18), *range(0x200, 0x500)}, NETBSD: {1, 2, *range(24, 128)}, OPENBSD: {*range(10, 25)}}

_ORDER_64 = {
    NETBSD: "rdi rsi rdx rcx r8 r9 r10 r11 r12 r13 r14 r15 rbp rbx rax gs fs es ds trapno err rip cs eflags rsp ss",
    OPENBSD: "rdi rsi rdx rcx r8 r9 r10 r11 r12 r13 r14 r15 rbp rbx rax rsp rip eflags cs ss ds es fs gs",
}
_ORDER_32 = dict.fromkeys((NETBSD, OPENBSD), "eax ecx edx ebx esp ebp esi edi eip eflags cs ss ds es fs gs") | {
    FREEBSD: "fs es ds edi esi ebp isp ebx edx ecx eax trapno err eip cs eflags esp ss gs"
}
#: FreeBSD's on x64: 15 of 64 bits, then some that are narrower
_FREEBSD_64 = struct.Struct("<15QIHHIHH5Q")
_FREEBSD_64_NAMES = (
    "r15 r14 r13 r12 r11 r10 r9 r8 rdi rsi rbp rbx rdx rcx rax trapno fs gs err es ds rip cs eflags rsp ss"
)
_NO_REGISTERS = {"trapno", "err", "isp"}

#: prstatus_t: pr_gregsetsz, pr_osreldate, pr_cursig, pr_pid (which is the thread's), and where registers are
_STATUS = {64: ("16xQ8x3I", 48), 32: ("8xI4x3I", 28)}
#: prpsinfo_t: where pr_fname and pr_pid are
_INFO = {64: (16, 116), 32: (8, 108)}
_FNAME = 17
#: behind the size of the structure, ptrace_lwpinfo: pl_flags; where pl_siginfo is; its si_code and si_addr
_LWP_FLAGS, _LWP_SIGINFO, _SI_CODE, _SI_ADDRESS, _HAS_SIGINFO = 12, {64: 52, 32: 48}, 8, 24, 0x20
_FAULTS = FAULTS - {SIGBUS} | {10}  # signals that have an address: SIGBUS has another number than on Linux
_USER_CODES = 0x10001  # SI_USER: from here on si_code says which call sent the signal
#: kinfo_vmentry: kve_structsize, kve_type, kve_start, kve_end, kve_offset; kve_flags; kve_protection; where kve_path is
_ENTRY, _ENTRY_PATH = "2I3Q12xI8xI", 136
_VNODE, _COPIED, _GROWS_DOWN = 2, 3, 0x20
_MOST_ENTRIES = 1 << 20
_LONGEST = 1 << 28  # bytes of a list of mappings

#: netbsd_elfcore_procinfo and elfcore_procinfo: where cpi_signo, cpi_sigcode, cpi_pid, cpi_name, cpi_siglwp are
_SIGNAL, _CODE = 8, 12
_PROCESS = {NETBSD: (0x50, 0x7C, 0x9C), OPENBSD: (0x20, 0x48, None)}
_NAME = 32
_LWP_NAME, _LWP_NAME_SIZE = 36, 20
_MOST_THREADS = 1 << 16


class BsdThread(NamedTuple):
    """A thread: what is not known is None; `signal` is what stopped it, and 0 if nothing did."""

    tid: int
    registers: dict[str, int] | None = None
    floating: bytes | None = None
    name: bytes | None = None
    signal: int = 0
    code: int | None = None
    address: int | None = None


class BsdMapping(NamedTuple):
    """``start <= x < end`` is mapped, with bits of protection (1 read, 2 write, 4 execute); the rest None if unknown.

    `stack`: it grows downwards. `private`: what is written is copied. `offset` is in the file.
    """

    start: int
    end: int
    protection: int
    file: bytes | None
    offset: int | None
    stack: bool
    private: bool


class BsdNotes(NamedTuple):
    """What the notes of a BSD say; `system` is which; `version` its pr_osreldate, 0 if it is not known.

    `mappings` are None if they are not listed. `unread` are types of notes that are not known.
    """

    system: str
    version: int
    pid: int | None
    name: bytes | None
    threads: list[BsdThread]
    mappings: list[BsdMapping] | None
    unread: list[int]


def bsd_notes(file: FileBacking, header: Header, notes: Iterable[Note]) -> BsdNotes | None:
    """Return what the notes of a BSD say, None if there are none: those of the first system that has some."""
    found: list[tuple[int | None, Note]] = []
    owner: bytes | None = None
    for note in notes:
        name, _, lwp = note.owner.partition(b"@")
        if name in SYSTEMS and owner in (None, name):
            owner = name
            found.append((int(lwp) if lwp.isdigit() and len(lwp) <= 10 else None, note))  # noqa: PLR2004 - 32 bits
    if owner is None:
        return None
    reader = _Reader(file, header, owner)
    return reader.freebsd([note for _, note in found]) if owner == FREEBSD else reader.others(found)


class _Reader:
    def __init__(self, file: FileBacking, header: Header, owner: bytes) -> None:
        self.file, self.header, self.owner = file, header, owner
        self.word = "Q" if header.bits == 64 else "I"  # noqa: PLR2004

    def freebsd(self, notes: list[Note]) -> BsdNotes:
        """Return what notes of FreeBSD say: those of a thread follow its status."""
        threads: list[dict[int, Note]] = []
        first: dict[int, Note] = {}
        for note in notes:
            if note.kind == _PRSTATUS and len(threads) < _MOST_THREADS:
                threads.append({})
            if threads:
                threads[-1].setdefault(note.kind, note)
            first.setdefault(note.kind, note)
        fname, pid_at = _INFO[self.header.bits]
        info = self.content(first.get(_PRPSINFO), pid_at + 4)
        rows = [row for each in threads if _PRSTATUS in each and (row := self.freebsd_thread(each)) is not None]
        status = self.status(first.get(_PRSTATUS))
        return BsdNotes(
            SYSTEMS[FREEBSD],
            0 if status is None else status[1],
            self.number(info, pid_at),
            _text(info[fname : fname + _FNAME]),
            rows,
            self.mappings(first[_VMMAP]) if _VMMAP in first else None,
            sorted({note.kind for note in notes} - _KNOWN[FREEBSD]),
        )

    def status(self, note: Note | None) -> tuple[int, ...] | None:
        """Return size of the registers, version, signal and thread of an NT_PRSTATUS; None if it is too short."""
        layout = struct.Struct(f"{self.header.order}{_STATUS[self.header.bits][0]}")
        data = self.content(note, layout.size)
        return layout.unpack(data) if len(data) == layout.size else None

    def freebsd_thread(self, notes: dict[int, Note]) -> BsdThread | None:
        """Return the thread of a status and the notes behind it; None if the status is too short."""
        note = notes[_PRSTATUS]
        status = self.status(note)
        if status is None:
            return None
        size, _, signal, tid = status
        place = _STATUS[self.header.bits][1]
        registers = self.registers(self.content(note, place + min(size, 1 << 12))[place:])
        floating = self.floating(notes.get(_XSTATE), notes.get(_FPREGS), None)
        code = address = None
        at = _LWP_SIGINFO[self.header.bits]
        data = self.content(notes.get(_LWPINFO), at + _SI_ADDRESS + self.header.bits // 8)
        flags = self.number(data, _LWP_FLAGS)
        if signal and flags is not None and flags & _HAS_SIGINFO and self.number(data, at) == signal:
            code = self.number(data, at + _SI_CODE)
            wide = data[at + _SI_ADDRESS :]
            if code and code < _USER_CODES and signal in _FAULTS and len(wide) == self.header.bits // 8:
                (address,) = struct.unpack(f"{self.header.order}{self.word}", wide)
        name = _text(self.content(notes.get(_THRMISC), 20))
        return BsdThread(tid, registers, floating, name, signal, code, address)

    def others(self, notes: list[tuple[int | None, Note]]) -> BsdNotes:
        """Return what notes of NetBSD or OpenBSD say: those of a thread have its number in their name."""
        threads: dict[int, dict[int, Note]] = {}
        first: dict[int, Note] = {}
        for lwp, note in notes:
            if lwp is None:
                first.setdefault(note.kind, note)
            elif lwp in threads or len(threads) < _MOST_THREADS:
                threads.setdefault(lwp, {}).setdefault(note.kind, note)
        pid_at, name_at, lwp_at = _PROCESS[self.owner]
        is_netbsd = self.owner == NETBSD
        info = self.content(first.get(_PROCINFO if is_netbsd else _OPEN_PROCINFO), 0xA0)
        signal, code = self.number(info, _SIGNAL) or 0, self.number(info, _CODE)
        stopped = None if lwp_at is None else self.number(info, lwp_at)
        stopped = stopped if stopped in threads else next(iter(threads), None)
        rows = []
        for tid, each in threads.items():
            kinds = (_GETREGS, None, _GETFPREGS) if is_netbsd else (_OPEN_REGS, _OPEN_XFPREGS, _OPEN_FPREGS)
            general, extended, floating = (None if kind is None else each.get(kind) for kind in kinds)
            registers = None if general is None else self.registers(self.content(general, 1 << 12))
            name = self.content(each.get(_LWPSTATUS), _LWP_NAME + _LWP_NAME_SIZE)[_LWP_NAME:] if is_netbsd else b""
            said = (signal, code) if tid == stopped else (0, None)
            rows.append(
                BsdThread(tid, registers, self.floating(None, floating, extended), _text(name), said[0], said[1])
            )
        unread = sorted({note.kind for _, note in notes} - _KNOWN[self.owner])
        name_there = _text(info[name_at : name_at + _NAME])
        return BsdNotes(SYSTEMS[self.owner], 0, self.number(info, pid_at), name_there, rows, None, unread)

    def content(self, note: Note | None, most: int) -> bytes:
        return b"" if note is None else self.file.read_there(note.offset, min(note.size, most))

    def number(self, data: bytes, place: int) -> int | None:
        """Return 32 bits at a place; None if they are not there."""
        data = data[place : place + 4]
        return int.from_bytes(data, "little" if self.header.order == "<" else "big") if len(data) == 4 else None  # noqa: PLR2004

    def registers(self, data: bytes) -> dict[str, int] | None:
        """Return registers of x86 by name; None if they are not those, or too few."""
        word = architecture(self.header)
        if word not in INTEL:
            return None
        if word == "x64" and self.owner == FREEBSD:
            layout, names = _FREEBSD_64, _FREEBSD_64_NAMES.split()
        else:
            names = (_ORDER_64 if word == "x64" else _ORDER_32)[self.owner].split()
            layout = struct.Struct(f"<{len(names)}{self.word}")
        if len(data) < layout.size:
            return None
        pairs = zip(names, layout.unpack_from(data), strict=True)
        return {name: value for name, value in pairs if name not in _NO_REGISTERS}

    def floating(self, xsave: Note | None, plain: Note | None, extended: Note | None) -> bytes | None:
        """Return x87 and SSE registers: XSAVE's area, what FXSAVE saved, or on x86 what FSAVE did."""
        word = architecture(self.header)
        word = word if word in INTEL else None
        if xsave is not None and word is not None and xsave.size >= floating_point.XSAVE:
            return self.content(xsave, floating_point.LARGEST)
        note, size = (extended, floating_point.FXSAVE) if extended is not None else (plain, floating_point.FSAVE)
        size = floating_point.FXSAVE if word == "x64" else size
        data = b"" if word is None else self.content(note, size)
        return data if len(data) == size else None

    def mappings(self, note: Note) -> list[BsdMapping]:
        """Return what NT_PROCSTAT_VMMAP lists, up to the first entry that cannot be."""
        data = self.content(note, _LONGEST)
        layout = struct.Struct(f"{self.header.order}{_ENTRY}")
        found: list[BsdMapping] = []
        place = 4  # the size of the structure comes first
        while place + _ENTRY_PATH <= len(data) and len(found) < _MOST_ENTRIES:
            size, kind, start, end, offset, flags, protection = layout.unpack_from(data, place)
            if size < _ENTRY_PATH or start >= end:
                break
            path = data[place + _ENTRY_PATH : place + size].partition(b"\0")[0]
            backed = kind == _VNODE
            found.append(
                BsdMapping(
                    start,
                    end,
                    protection & 7,
                    path if backed and path else None,
                    offset if backed else None,
                    bool(flags & _GROWS_DOWN),
                    private=not backed and bool(flags & _COPIED),
                )
            )
            place += size
        return found


def _text(data: bytes) -> bytes | None:
    return data.partition(b"\0")[0] or None
