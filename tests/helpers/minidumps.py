"""Minidumps made by hand, stream by stream, after Microsoft's documentation of minidumpapiset.h and winnt.h.

Nothing here is memcarve's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    #: makes a block of a file, once all places are known: offsets in the file by the names of blocks
    Block = Callable[[Mapping[str, int]], bytes]

AMD64, INTEL, ARM64, ITANIUM = 9, 0, 12, 6
WINDOWS, LINUX = 2, 0x8201
COMMIT, RESERVE, FREE = 0x1000, 0x2000, 0x10000
PRIVATE, MAPPED, IMAGE = 0x20000, 0x40000, 0x1000000
READONLY, READWRITE, WRITECOPY, EXECUTE_READ, GUARD = 0x02, 0x04, 0x08, 0x20, 0x100


@dataclass
class Info:
    """A row of MemoryInfoList."""

    base: int
    size: int
    allocation: int
    protect: int = READWRITE
    kind: int = PRIVATE
    state: int = COMMIT
    began_with: int = READWRITE


@dataclass
class Thread:
    """A thread: `context` are the bytes of its CONTEXT, `begin` is put into ThreadInfoList, `name` into ThreadNames.

    `stored` are the bytes of its stack, of which its own row alone says where they are.
    """

    tid: int
    teb: int = 0
    stack: tuple[int, int] = (0, 0)
    context: bytes = b""
    begin: int | None = None
    name: str | None = None
    stored: bytes = b""


@dataclass
class Raised:
    """What ExceptionStream says: `context` are the bytes of a CONTEXT."""

    tid: int
    code: int
    flags: int = 0
    address: int = 0
    parameters: Sequence[int] = ()
    context: bytes = b""


@dataclass
class Dump:
    """What goes into a minidump; None leaves a stream out.

    `memory64` and `memory32` are addresses and bytes, `modules` base, size and name. `aligned` puts four bytes between
    the number of a list and its rows, as some writers do. `claims` are numbers of rows to be written in place of the
    true ones, by the stream's type. `unloaded` are base, size, check sum, time stamp and name (None: at RVA 0) of
    modules that were unloaded; `unloaded_sizes` what is said of the sizes of that list's head and of an entry.
    `raw` are streams as they are, by their type, as Breakpad's copies of files below /proc. `signature` are the first
    eight bytes of the file.
    """

    memory64: Sequence[tuple[int, bytes]] | None = None
    memory32: Sequence[tuple[int, bytes]] | None = None
    modules: Sequence[tuple[int, int, str]] | None = None
    threads: Sequence[Thread] | None = None
    infos: Sequence[Info] | None = None
    system: tuple[int, int, int, int, int] | None = (AMD64, WINDOWS, 10, 0, 19041)
    pid: int | None = None
    comment: bytes | None = None
    flags: int = 2
    aligned: bool = False
    claims: Mapping[int, int] = field(default_factory=dict)
    info_width: int = 48
    unloaded: Sequence[tuple[int, int, int, int, str | None]] | None = None
    unloaded_sizes: tuple[int, int] = (12, 24)
    raised: Raised | None = None
    raw: Mapping[int, bytes] = field(default_factory=dict)
    signature: bytes = b"MDMP\x93\xa7\xb1\x61"

    def build(self) -> bytes:
        """Return the file."""
        return _Builder(self).run()


class _Builder:
    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.data = bytearray()
        self.streams: list[tuple[int, int, int]] = []

    def put(self, data: bytes) -> int:
        place = len(self.data)
        self.data += data
        return place

    def stream(self, kind: int, data: bytes) -> None:
        self.data += bytes(-len(self.data) % 4)
        self.streams.append((kind, len(data), self.put(data)))

    def text(self, text: str) -> int:
        data = text.encode("utf-16-le", "surrogatepass")
        return self.put(struct.pack("<I", len(data)) + data + b"\0\0")

    def listed(self, kind: int, rows: Sequence[bytes]) -> None:
        count = self.dump.claims.get(kind, len(rows))
        self.stream(kind, struct.pack("<I", count) + bytes(4 * self.dump.aligned) + b"".join(rows))

    def run(self) -> bytes:  # noqa: C901, PLR0912, PLR0915 - a part for each stream
        dump = self.dump
        kinds = [
            dump.system, dump.pid, dump.modules, dump.unloaded, dump.threads, dump.infos, dump.memory32, dump.memory64,
            dump.comment, dump.raised,
        ]  # fmt: skip
        begun = [thread for thread in dump.threads or () if thread.begin is not None]
        named = [thread for thread in dump.threads or () if thread.name is not None]
        streams = sum(kind is not None for kind in kinds) + bool(begun) + bool(named) + len(dump.raw)
        self.data += bytes(32 + 12 * streams)
        if dump.system is not None:
            number, platform, major, minor, build = dump.system
            place = self.text("Service Pack 3")
            self.stream(
                7, struct.pack("<HHHBBIIIIIHH24x", number, 6, 0, 4, 1, major, minor, build, platform, place, 0, 0)
            )
        if dump.pid is not None:
            self.stream(15, struct.pack("<IIIIII", 24, 1, dump.pid, 0, 0, 0))
        if dump.comment is not None:
            self.stream(10, dump.comment)
        if dump.modules is not None:
            rows = [
                struct.pack("<QIIII52xIIIIQQ", base, size, 7, 0x5A5B4C3D, self.text(name), 0, 0, 0, 0, 0, 0)
                for base, size, name in dump.modules
            ]
            self.listed(4, rows)
        if dump.unloaded is not None:
            head, width = dump.unloaded_sizes
            rows = [
                struct.pack("<QIIII", *each[:4], 0 if each[4] is None else self.text(each[4])).ljust(width, b"\xee")
                for each in dump.unloaded
            ]
            count = dump.claims.get(14, len(rows))
            self.stream(14, struct.pack("<III", head, width, count).ljust(head, b"\xdd") + b"".join(rows))
        if dump.threads is not None:
            rows = [
                struct.pack("<IIIIQQIIII", each.tid, 0, 32, 0, each.teb, *each.stack,
                            self.put(each.stored) if each.stored else 0, len(each.context),
                            self.put(each.context)) for each in dump.threads
            ]  # fmt: skip
            self.listed(3, rows)
        if begun:
            rows = [struct.pack("<IIII32xQQ", each.tid, 0, 0, 259, each.begin, 3) for each in begun]
            self.stream(17, struct.pack("<III", 12, 64, dump.claims.get(17, len(rows))) + b"".join(rows))
        if named:
            self.listed(24, [struct.pack("<IQ", each.tid, self.text(each.name or "")) for each in named])
        if (raised := dump.raised) is not None:
            words = [*raised.parameters, *[0] * (15 - len(raised.parameters))]
            head = struct.pack("<IIIIQQII", raised.tid, 0, raised.code, raised.flags, 0, raised.address,
                               len(raised.parameters), 0)  # fmt: skip
            place = self.put(raised.context)
            self.stream(6, head + struct.pack("<15QII", *words, len(raised.context), place))
        for kind, data in dump.raw.items():
            self.stream(kind, data)
        if dump.infos is not None:
            rows = [
                struct.pack("<QQIIQIII4x", each.base, each.allocation, each.began_with, 0, each.size, each.state,
                            each.protect, each.kind).ljust(dump.info_width, b"\xee") for each in dump.infos
            ]  # fmt: skip
            head = struct.pack("<IIQ", 16, dump.info_width, dump.claims.get(16, len(rows)))
            self.stream(16, head + b"".join(rows))
        if dump.memory32 is not None:
            rows = [struct.pack("<QII", at, len(data), self.put(data)) for at, data in dump.memory32]
            self.listed(5, rows)
        if dump.memory64 is not None:
            head = struct.pack("<Q", dump.claims.get(9, len(dump.memory64)))
            rows = [struct.pack("<QQ", at, len(data)) for at, data in dump.memory64]
            place = len(self.data) + -len(self.data) % 4 + 16 + 16 * len(rows)
            self.stream(9, head + struct.pack("<Q", place) + b"".join(rows))
            for _, data in dump.memory64:
                self.put(data)
        head = dump.signature + struct.pack("<IIIIQ", streams, 32, 0, 0x5F000000, dump.flags)
        self.data[: 32 + 12 * streams] = head + b"".join(struct.pack("<III", *each) for each in self.streams)
        return bytes(self.data)


#: registers in the order and at the places of winnt.h: name, place, bytes
AMD64_REGISTERS = [
    ("cs", 0x38, 2), ("ds", 0x3A, 2), ("es", 0x3C, 2), ("fs", 0x3E, 2), ("gs", 0x40, 2), ("ss", 0x42, 2),
    ("eflags", 0x44, 4), ("rax", 0x78, 8), ("rcx", 0x80, 8), ("rdx", 0x88, 8), ("rbx", 0x90, 8), ("rsp", 0x98, 8),
    ("rbp", 0xA0, 8), ("rsi", 0xA8, 8), ("rdi", 0xB0, 8), ("r8", 0xB8, 8), ("r9", 0xC0, 8), ("r10", 0xC8, 8),
    ("r11", 0xD0, 8), ("r12", 0xD8, 8), ("r13", 0xE0, 8), ("r14", 0xE8, 8), ("r15", 0xF0, 8), ("rip", 0xF8, 8),
]  # fmt: skip
X86_REGISTERS = [
    ("gs", 0x8C, 4), ("fs", 0x90, 4), ("es", 0x94, 4), ("ds", 0x98, 4), ("edi", 0x9C, 4), ("esi", 0xA0, 4),
    ("ebx", 0xA4, 4), ("edx", 0xA8, 4), ("ecx", 0xAC, 4), ("eax", 0xB0, 4), ("ebp", 0xB4, 4), ("eip", 0xB8, 4),
    ("cs", 0xBC, 4), ("eflags", 0xC0, 4), ("esp", 0xC4, 4), ("ss", 0xC8, 4),
]  # fmt: skip

ARM64_REGISTERS = [
    ("cpsr", 4, 4), *((f"x{number}", 8 + 8 * number, 8) for number in range(31)), ("sp", 0x100, 8), ("pc", 0x108, 8),
]  # fmt: skip
ARM_REGISTERS = [
    *((f"r{number}", 4 + 4 * number, 4) for number in range(13)), ("sp", 0x38, 4), ("lr", 0x3C, 4), ("pc", 0x40, 4),
    ("cpsr", 0x44, 4),
]  # fmt: skip


def some_registers(places: Sequence[tuple[str, int, int]]) -> dict[str, int]:
    """Return registers, each with a value of its own that fills it."""
    return {
        name: int.from_bytes(bytes((0x11 * number + step) & 0xFF for step in range(size)), "little")
        for number, (name, _, size) in enumerate(places, 1)
    }


def context64(registers: Mapping[str, int], flags: int = 0x100007, area: bytes | None = None) -> bytes:
    """Return the CONTEXT of x64: control, integer and segment registers by default.

    `area` is what FXSAVE saved: x87 and SSE registers, which then are valid, too.
    """
    data = bytearray(1232)
    if area is not None:
        flags |= 8
        data[0x100:0x300], data[0x34:0x38] = area, area[24:28]
    struct.pack_into("<I", data, 0x30, flags)
    for name, place, size in AMD64_REGISTERS:
        data[place : place + size] = registers[name].to_bytes(size, "little")
    return bytes(data)


def context32(registers: Mapping[str, int], flags: int = 0x10007, areas: tuple[bytes, bytes] | None = None) -> bytes:
    """Return the CONTEXT of x86; `areas` are what FSAVE and FXSAVE saved, none of either if it is empty."""
    data = bytearray(716)
    for area, place, flag in zip(areas or (), (0x1C, 0xCC), (8, 0x20), strict=False):
        flags |= flag if area else 0
        data[place : place + len(area)] = area
    struct.pack_into("<I", data, 0, flags)
    for name, place, size in X86_REGISTERS:
        data[place : place + size] = registers[name].to_bytes(size, "little")
    return bytes(data)


def context_arm64(registers: Mapping[str, int], vectors: bytes | None = None, fpsr: int = 0, fpcr: int = 0) -> bytes:
    """Return the CONTEXT of ARM64: control and integer registers, and V0 to V31 (512 bytes) if they are given."""
    data = bytearray(912)
    struct.pack_into("<I", data, 0, 0x400003 if vectors is None else 0x400007)
    for name, place, size in ARM64_REGISTERS:
        data[place : place + size] = registers[name].to_bytes(size, "little")
    data[0x110:0x310] = vectors or bytes(512)
    struct.pack_into("<2I", data, 0x310, fpcr, fpsr)
    return bytes(data)


def context_arm(registers: Mapping[str, int], vectors: bytes | None = None, fpscr: int = 0) -> bytes:
    """Return the CONTEXT of 32-bit ARM: control and integer registers, and D0 to D31 (256 bytes) if they are given."""
    data = bytearray(416)
    struct.pack_into("<I", data, 0, 0x200003 if vectors is None else 0x200007)
    for name, place, size in ARM_REGISTERS:
        data[place : place + size] = registers[name].to_bytes(size, "little")
    struct.pack_into("<I", data, 0x48, fpscr)
    data[0x50:0x150] = vectors or bytes(256)
    return bytes(data)


def laid_out(blocks: Mapping[str, Block | bytes], streams: Sequence[tuple[int, str, int | None]]) -> bytes:
    """Return a minidump of blocks, in their order behind the header.

    `streams` are the directory's entries: type, the block that is the stream, and its size if that is not the block's.
    One block is called ``directory``; its content is made here.
    """
    places = dict.fromkeys([*blocks, "directory"], 1 << 16)
    made: dict[str, bytes] = {}
    for _ in range(2):  # sizes do not depend on places
        made = {name: block if isinstance(block, bytes) else block(places) for name, block in blocks.items()}
        made["directory"] = b"".join(
            struct.pack("<III", kind, len(made[name]) if size is None else size, places[name])
            for kind, name, size in streams
        )
        place = 32
        for name in blocks:
            places[name] = place
            place += len(made[name])
    head = struct.pack("<4sIIIIIQ", b"MDMP", 0x61B1A793, len(streams), places["directory"], 0, 0x5F000000, 2)
    return head + b"".join(made[name] for name in blocks)


def system_info(number: int = AMD64, platform: int = WINDOWS) -> bytes:
    """Return a SystemInfo."""
    return struct.pack("<HHHBBIIIIIHH24x", number, 6, 0, 4, 1, 10, 0, 19041, platform, 0, 0, 0)


def memory_list(*rows: tuple[int, int, int]) -> bytes:
    """Return a MemoryList: address, size, place in the file."""
    return struct.pack("<I", len(rows)) + b"".join(struct.pack("<QII", *row) for row in rows)


def memory64_list(base: int, *rows: tuple[int, int]) -> bytes:
    """Return a Memory64List: address and size; the bytes lie one after the other from `base` on."""
    return struct.pack("<QQ", len(rows), base) + b"".join(struct.pack("<QQ", *row) for row in rows)
