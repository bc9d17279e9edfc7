"""Notes of FreeBSD, NetBSD and OpenBSD in cores, after their public headers. Nothing here is memcarve's."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cores import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: registers in the order of struct reg, each with its bits, by system and by the bits of the process
REGISTERS = {
    ("freebsd", 64): "r15:64 r14:64 r13:64 r12:64 r11:64 r10:64 r9:64 r8:64 rdi:64 rsi:64 rbp:64 rbx:64 rdx:64 rcx:64 "
    "rax:64 trapno:32 fs:16 gs:16 err:32 es:16 ds:16 rip:64 cs:64 eflags:64 rsp:64 ss:64",
    ("freebsd", 32): "fs:32 es:32 ds:32 edi:32 esi:32 ebp:32 isp:32 ebx:32 edx:32 ecx:32 eax:32 trapno:32 err:32 "
    "eip:32 cs:32 eflags:32 esp:32 ss:32 gs:32",
    ("netbsd", 64): "rdi:64 rsi:64 rdx:64 rcx:64 r8:64 r9:64 r10:64 r11:64 r12:64 r13:64 r14:64 r15:64 rbp:64 rbx:64 "
    "rax:64 gs:64 fs:64 es:64 ds:64 trapno:64 err:64 rip:64 cs:64 eflags:64 rsp:64 ss:64",
    ("openbsd", 64): "rdi:64 rsi:64 rdx:64 rcx:64 r8:64 r9:64 r10:64 r11:64 r12:64 r13:64 r14:64 r15:64 rbp:64 rbx:64 "
    "rax:64 rsp:64 rip:64 eflags:64 cs:64 ss:64 ds:64 es:64 fs:64 gs:64",
    **dict.fromkeys(
        (("netbsd", 32), ("openbsd", 32)),
        "eax:32 ecx:32 edx:32 ebx:32 esp:32 ebp:32 esi:32 edi:32 eip:32 eflags:32 cs:32 ss:32 ds:32 es:32 fs:32 gs:32",
    ),
}
SEGMENTS = {"cs", "ss", "ds", "es", "fs", "gs"}
INTERNAL = {"trapno", "err", "isp"}


def registers(system: str, bits: int, seed: int) -> dict[str, int]:
    """Return a value of its own for each register, as far as it has bits: segments have 16, whatever holds them."""
    rows = [word.split(":") for word in REGISTERS[system, bits].split()]
    width = {name: 16 if name in SEGMENTS else 32 if name == "eflags" else int(size) for name, size in rows}
    value = 0x1122334400000000 | seed << 8
    return {name: (value | place) & (1 << width[name]) - 1 for place, (name, _) in enumerate(rows)}


def packed(system: str, bits: int, values: Mapping[str, int]) -> bytes:
    """Return struct reg."""
    rows = (word.split(":") for word in REGISTERS[system, bits].split())
    return b"".join(values[name].to_bytes(int(size) // 8, "little") for name, size in rows)


def freebsd(kind: int, content: bytes, order: str = "<") -> bytes:
    """Return a note of FreeBSD's."""
    return note(b"FreeBSD", kind, content, order)


def freebsd_status(tid: int, data: bytes, signal: int = 0, bits: int = 64, order: str = "<", version: int = 0) -> bytes:
    """Return NT_PRSTATUS; `data` is struct reg."""
    head = "i4x3Q3i4x" if bits == 64 else "i3I3i"
    return freebsd(1, struct.pack(f"{order}{head}", 1, 0, len(data), 512, version, signal, tid) + data, order)


def freebsd_info(pid: int, name: bytes, bits: int = 64, order: str = "<") -> bytes:
    """Return NT_PRPSINFO."""
    head = "i4xQ" if bits == 64 else "iI"
    content = struct.pack(f"{order}{head}17s81s2xi", 1, 0, name, name + b" -x", pid)
    return freebsd(3, content.ljust(120 if bits == 64 else 112, b"\0"), order)


def freebsd_lwpinfo(tid: int, signal: int, code: int, address: int, bits: int = 64, flags: int = 0x20) -> bytes:
    """Return NT_PTLWPINFO with a siginfo."""
    word, gap, size = ("Q", "4x", 80) if bits == 64 else ("I", "", 64)
    siginfo = struct.pack(f"<6i{word}", signal, 0, code, 1, 2, 3, address).ljust(size, b"\xaa")
    content = struct.pack("<3i32x" + gap, tid, 0, flags) + siginfo + b"a name".ljust(20, b"\0") + bytes(12)
    return freebsd(17, struct.pack("<i", len(content)) + content)


def freebsd_mappings(
    rows: Sequence[tuple[int, int, int, int, int, int, bytes]], *, whole: bool = False, order: str = "<"
) -> bytes:
    """Return NT_PROCSTAT_VMMAP: start, end, offset, type, flags, protection, path; packed, unless `whole`."""
    content = struct.pack(f"{order}i", 1160)
    for start, end, offset, kind, flags, protection, path in rows:
        size = 1160 if whole else 136 + (len(path) + 1 + 7 & ~7)
        head = struct.pack(f"{order}2i3QQIi2ii", size, kind, start, end, offset, 9, 9, flags, 1, 1, protection)
        content += head.ljust(136, b"\xee") + path.ljust(size - 136, b"\0")
    return freebsd(10, content, order)


def netbsd_info(pid: int, name: bytes, signal: int, code: int, lwp: int | None, order: str = "<") -> bytes:
    """Return the process of NetBSD; `lwp` is that of the signal, None: of the first version, which has none."""
    head = struct.pack(
        f"{order}4I64x4i6II32s", 1, 160 if lwp is not None else 156, signal, code, pid, 1, 2, 3, *range(6), 2, name
    )
    return note(b"NetBSD-CORE", 1, head + (b"" if lwp is None else struct.pack(f"{order}i", lwp)), order)


def openbsd_info(pid: int, name: bytes, signal: int, code: int, order: str = "<") -> bytes:
    """Return the process of OpenBSD."""
    content = struct.pack(f"{order}4I16x4i6I32s", 1, 104, signal, code, pid, 1, 2, 3, *range(6), name)
    return note(b"OpenBSD", 10, content, order)
