"""Minidumps, ELF cores and folders of a process's memory: each stream, note and name, with other numbers in it."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import bsd_cores
import cores
import memcarve
import minidumps
from fuzzing import checks
from fuzzing.case import Case
from fuzzing.compression import compressed
from headers import elf_page, pe_page
from memory import PAGE, content
from minidumps import Dump, Info, Raised, Thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.draw import Draw

    Ranges = Sequence[tuple[int, bytes]]

_IMAGE, _ELF = bytes(pe_page()) + content(0x10000, 3 * PAGE), bytes(elf_page()) + content(0, PAGE)
_PLACES = (0x10000, 0x20000, 0x7FFE0000, 1 << 47)
#: streams that systems other than Windows, and later ones, have: number and content
_STREAMS = (
    (0x47670003, b"processor\t: 0\n"),
    (0x47670004, b"Name:\tx\nPid:\t77\nTgid:\t77\n"),
    (0x47670006, b"/bin/x\0-a\0"),
    (0x47670007, b"A=b\0C=d\0"),
    (0x47670008, struct.pack("<4Q", 3, 0x10040, 0, 0)),
    (0x47670009, b"10000-14000 r-xp 00000000 08:01 5  /bin/x\n20000-21000 rw-p 00000000 00:00 0  [stack]\n"),
    (24, struct.pack("<IIQ", 1, 5, 0x20)),
    (6, struct.pack("<IIIIQQII15QII", 5, 0, 0xC0000005, 0, 0, 0x10010, 2, 0, *range(15), 16, 0x20)),
)
_SYSTEMS = ((9, 2, 10, 0, 19041), (12, 2, 10, 0, 22621), (9, 0x8201, 5, 0, 0), None)
_NARROW = ((0, 2, 6, 1, 7601), (0, 0x8201, 5, 0, 0), (5, 2, 6, 2, 9200))


def _spread(draw: Draw, memory: Ranges) -> list[tuple[int, bytes]]:
    """Return some of the ranges, some of them elsewhere, shorter or there twice."""
    found = [draw.choice(memory) for _ in range(draw.randrange(5))] if draw.chance(0.3) else list(memory)
    known = [end for start, data in found for end in (start, start + len(data))]
    for _ in range(draw.few(3) if found and draw.chance(0.7) else 0):
        at = draw.randrange(len(found))
        start, data = found[at]
        cut = data[: draw.choice((0, 1, 8, len(data) - 1, PAGE))]
        found[at] = (draw.number(start, known), data) if draw.chance(0.6) else (start, cut)
    return found


def _exported(data: bytes, folder: str, to: str) -> bytes:
    """Return what is exported of a dump."""
    Case({"in": data}, {}).write(folder)
    with memcarve.open(os.path.join(folder, "in")) as container:
        process = container.process()
        result = memcarve.export(process, process.segments(), os.path.join(folder, "own"), to)
    with open(result.path, "rb") as file:
        return file.read()


class Minidumps(checks.Looked):
    """Minidumps, also those that were exported here."""

    def prepare(self) -> None:
        """Make a sound one, and export it."""
        self.context = minidumps.context64(minidumps.some_registers(minidumps.AMD64_REGISTERS))
        self.narrow = minidumps.context32(minidumps.some_registers(minidumps.X86_REGISTERS))
        stored = (_IMAGE, content(0x20000, 0x100), content(0, 64), b"k" * PAGE)
        self.memory = [*zip(_PLACES, stored, strict=True)]
        self.whole = Dump(
            memory64=self.memory,
            modules=[(0x10000, 0x4000, "C:\\Windows\\x.dll"), (0x20000, 0x1000, "y.dll")],
            threads=[Thread(5, 0x20000, (0x20000, 0x20100), self.context, 0x10010)],
            infos=[Info(0x10000, 0x4000, 0x10000, kind=minidumps.IMAGE), Info(0x20000, 0x1000, 0x20000)],
            unloaded=[(0x30000, 0x1000, 7, 8, "gone.dll"), (0x40000, 0x1000, 0, 0, None)],
            pid=5,
        )
        self.own = _exported(self.whole.build(), self.folder, "minidump")
        size, rva = next(row[1:] for row in _directory(self.own) if row[0] == 10)
        self.comment = json.loads(self.own[rva : rva + size].rstrip(b"\0"))

    def make(self, draw: Draw) -> Case:
        """Draw the streams of a minidump, then change numbers in some of them."""
        told = checks.drawn(draw, "x.dmp")
        if draw.chance(0.1):
            comment = json.dumps(draw.document(self.comment)).encode() + b"\0"
            entries = [row for row in _directory(self.own) if row[0] != 10]
            return Case({"x.dmp": _added(self.own, 10, comment, entries)}, told)
        ranges = _spread(draw, self.memory)
        data = self._drawn(draw, ranges).build()
        for _ in range(draw.few(3) if draw.chance(0.4) else 0):
            kind, stream = draw.choice(_STREAMS)
            data = _added(data, kind, draw.lines(stream) if draw.chance(0.4) else stream, _directory(data))
        damage = draw.random()
        if damage < 0.35:
            data = self._renumbered(draw, data)
        elif damage < 0.4:
            data = draw.torn(data, 600)
        else:
            told["held"] = [list(row) for row in ranges]
        return Case({"x.dmp": compressed(draw, data, told) if draw.chance(0.05) else data}, told)

    def _drawn(self, draw: Draw, ranges: Ranges) -> Dump:
        known = [end for start, data in ranges for end in (start, start + len(data))]
        half = draw.randrange(len(ranges) + 1) if draw.chance(0.3) else 0
        narrow = draw.chance(0.3)
        context = self.narrow if narrow else self.context
        dump = replace(
            self.whole,
            memory64=ranges[half:] if half < len(ranges) or draw.chance(0.5) else None,
            memory32=ranges[:half] if half else None,
            aligned=draw.chance(0.1),
            system=draw.choice(_NARROW if narrow else _SYSTEMS),
            pid=draw.choice((5, 0, None, 0xFFFFFFFF)),
            comment=draw.choice((None, b"a comment\0", b"\xff\x1b[31m\0", b"written by memcarve\0")),
            info_width=draw.choice((48, 48, 48, 56, 40)),
            unloaded_sizes=draw.choice(((12, 24), (12, 24), (16, 32), (12, 20), (0, 0))),
        )
        dump.threads = []
        for _ in range(draw.randrange(3)):
            tid, teb, stack = draw.number(5, bits=32), draw.number(0x20000, known), draw.number(0x20000, known)
            part = context[: draw.choice((len(context), len(context), 0, 4, 0x100))]
            name = draw.text("worker") if draw.chance(0.3) else None
            dump.threads.append(Thread(tid, teb, (stack, 0x100), part, draw.number(0x10010, known), name))
        if draw.chance(0.4):
            code = draw.choice((0xC0000005, 0xC000001D, 11, 0, 0xFFFFFFFF))
            numbers = [draw.number(old, known) for old in (0x10010, 1, 0x20000)]
            dump.raised = Raised(5, code, draw.number(0, bits=32), numbers[0], numbers[1:], context)
        if draw.chance(0.6):
            count = draw.randrange(4)
            bases = [(draw.number(0x10000, known), draw.number(0x4000, bits=32)) for _ in range(count)]
            dump.modules = [(*base, draw.text("x.dll")) for base in bases]
        if draw.chance(0.6):
            dump.infos = []
            for _ in range(draw.randrange(5)):
                numbers = [draw.number(old, known) for old in (0x10000, 0x4000, 0x10000)]
                kind, state = draw.choice((0x20000, 0x40000, 0x1000000, 0)), draw.choice((0x1000, 0x2000, 0x10000))
                dump.infos.append(Info(*numbers, protect=draw.number(4, bits=32), kind=kind, state=state))
        return dump

    @staticmethod
    def _renumbered(draw: Draw, data: bytes) -> bytes:
        """Change numbers in the directory or in one of the streams."""
        entries, (place,) = _directory(data), struct.unpack_from("<I", data, 12)
        if draw.chance(0.3) or not entries:
            rows = range(place, place + 12 * len(entries), 4)
            return draw.fields(data, [(at, 4) for at in (*range(0, 32, 4), *rows)])
        _, size, rva = draw.choice(entries)
        width, first = draw.choice((4, 8)), draw.choice((16, 200))
        return draw.fields(data, [(at, width) for at in range(rva, rva + min(size, first) - width + 1, 4)])


def _directory(data: bytes) -> list[tuple[int, ...]]:
    """Return type, size and place of each stream."""
    count, place = struct.unpack_from("<II", data, 8)
    return [struct.unpack_from("<III", data, place + 12 * number) for number in range(count)]


def _added(data: bytes, kind: int, stream: bytes, entries: Sequence[tuple[int, ...]]) -> bytes:
    """Return a minidump with one stream more, and a directory behind all the rest."""
    place = len(data) + len(stream)
    place += -place % 4
    rows = b"".join(struct.pack("<III", *entry) for entry in (*entries, (kind, len(stream), len(data))))
    head = data[:8] + struct.pack("<II", len(entries) + 1, place) + data[16:]
    return (head + stream).ljust(place, b"\0") + rows


class Cores(checks.Looked):
    """ELF cores of both widths and orders, also those that were exported here."""

    def prepare(self) -> None:
        """Export a sound one."""
        sound = cores.core([cores.Load(0x10000, _ELF, flags=5)], cores.info(5, b"prog"))
        self.own = _exported(sound, self.folder, "elfcore")
        self.at = self.own.index(b'{"')
        self.document, self.length = json.JSONDecoder().raw_decode(self.own[self.at :].decode("latin-1"))

    def make(self, draw: Draw) -> Case:
        """Draw segments and notes of a core, then change numbers in its headers or notes."""
        told = checks.drawn(draw, "x.core")
        if draw.chance(0.08):
            text = json.dumps(draw.document(self.document)).encode()[: self.length].ljust(self.length)
            return Case({"x.core": self.own[: self.at] + text + self.own[self.at + self.length :]}, told)
        bits, order = draw.choice(((64, "<"), (64, "<"), (64, ">"), (32, "<"), (32, ">")))
        stored = [*zip(_PLACES, (_ELF, content(0, 0x100), content(0, PAGE)), strict=False)]
        ranges = [(start & (1 << bits) - 1, data) for start, data in _spread(draw, stored)]
        loads = []
        for start, data in ranges:
            whole = max(len(data), draw.choice((PAGE, 2 * PAGE, len(data) + 1, draw.number(len(data), bits=bits))))
            loads.append(cores.Load(start, data, whole if draw.chance(0.4) else None, draw.choice((4, 5, 6, 7, 0))))
        notes = self._notes(draw, bits, order)
        machine = draw.choice((62, 183, 22, 8)) if bits == 64 else draw.choice((3, 40))
        data = cores.core(loads, notes, bits=bits, order=order, machine=machine, many=draw.chance(0.1))
        head, row = (64, 56) if bits == 64 else (52, 32)
        end, damage = head + row * (len(loads) + 1), draw.random()
        if damage < 0.35:
            width = draw.choice((4, bits // 8))
            places = draw.choice((range(16, head, 2), range(head, end, 4), range(end, end + len(notes) - 8, 4)))
            data = draw.fields(data, [(at, width) for at in places], order)
        elif damage < 0.4:
            data = draw.torn(data, end + len(notes))
        else:
            told["held"] = [list(row) for row in ranges]
        return Case({"x.core": compressed(draw, data, told) if draw.chance(0.05) else data}, told)

    @staticmethod
    def _notes(draw: Draw, bits: int, order: str) -> bytes:
        registers = [draw.number(bits=bits) if draw.chance(0.2) else 7 for _ in range(27 if bits == 64 else 17)]
        files = [
            (*(draw.number(word, bits=bits) if draw.chance(0.2) else word for word in row), name)
            for *row, name in ((0x10000, 0x12000, 0, b"/bin/x"), (0x20000, 0x21000, 1, b"/lib/\xff\x1b[31my"))
        ]
        word = order + 6 * ("Q" if bits == 64 else "I")
        auxiliary = struct.pack(word, 3, 0x10040, 9, draw.number(0x10000, bits=bits), 0, 0)
        other = draw.choice((b"FreeBSD", b"NetBSD-CORE", b"NetBSD-CORE@7", b"OpenBSD", b"OpenBSD@9", b"XEN"))
        noise = draw.randbytes(draw.choice((0, 40, 160, 400)))
        parts = [
            cores.info(draw.number(5, bits=31), draw.choice((b"prog", b"\xff\x1b[2J", b"")), bits, order),
            cores.status(draw.number(5, bits=31), registers, bits, order),
            cores.status(6, registers, bits, order),
            cores.files(files, bits, order, draw.number(2, bits=bits) if draw.chance(0.2) else None),
            cores.note(b"CORE", 6, auxiliary, order),
            cores.note(b"CORE", 2, bytes(512), order),
            cores.note(b"CORE", 0x53494749, struct.pack(order + "III", 11, 0, 1).ljust(128, b"\1"), order),
            cores.note(b"LINUX", 0x202, draw.randbytes(draw.choice((0, 576, 2696))), order),
            cores.note(other, draw.choice((1, 3, 7, 8, 10, 16, 20, 32, 33)), noise, order),
        ]
        foreign = draw.chance(0.2)
        if foreign and draw.chance(0.5):
            parts = _of_bsd(draw, bits)
        return b"".join(part for part in (parts if foreign else parts[:-1]) if draw.chance(0.7))


def _of_bsd(draw: Draw, bits: int) -> list[bytes]:
    """Return the notes of a BSD's process, of whose numbers some may be changed."""
    system = draw.choice(("freebsd", "netbsd", "openbsd"))
    registers = bsd_cores.packed(system, bits, bsd_cores.registers(system, bits, 1))
    tid, signal, name = draw.number(9, bits=31), draw.choice((0, 11, 10, 127)), draw.choice((b"prog", b"\x1b[2J", b""))
    if system == "freebsd":
        mapping = (
            draw.number(0x10000, bits=64),
            draw.number(0x12000, bits=64),
            0,
            draw.choice((1, 2)),
            3,
            5,
            b"/bin/x",
        )
        return [
            bsd_cores.freebsd_info(5, name, bits),
            bsd_cores.freebsd_status(tid, registers[: draw.choice((len(registers), 8))], signal, bits),
            bsd_cores.freebsd(2, bytes(512)),
            bsd_cores.freebsd_lwpinfo(tid, signal, 1, 0x10000, bits),
            bsd_cores.freebsd_mappings([mapping] * 2, whole=draw.chance(0.5)),
        ]
    if system == "netbsd":
        return [
            bsd_cores.netbsd_info(5, name, signal, 1, tid),
            cores.note(b"NetBSD-CORE@%d" % tid, 33, registers),
            cores.note(b"NetBSD-CORE@%d" % tid, 24, bytes(36) + name.ljust(20, b"\0")),
        ]
    return [bsd_cores.openbsd_info(5, name, signal, 1), cores.note(b"OpenBSD@%d" % tid, 20, registers)]


_NAMES = (
    *("0x{start:016x}-0x{end:016x}.bin", "0x{start:x}-0x{end:x}.bin", "pid.4.vad.0x{start:x}-0x{last:x}.dmp"),
    *(
        "0x{start:016x}-0x{end:016x}.{word}.x.dll.bin",
        "a.exe.pid.4.0x{start:x}-0x{last:x}.dmp",
        "{start:x}-{end:x}.dump",
    ),
    *("0x{start:08x}-0x{end:08x}-{word}.dmp", "a.exe.3f0.0x{start:016x}-0x{last:016x}.dmp", "pid.4.x.0x{start:x}.dmp"),
)


class Named(checks.Looked):
    """A folder of files that other tools named by their addresses."""

    def make(self, draw: Draw) -> Case:
        """Draw addresses, and a way to write them into names."""
        forms = draw.sample(_NAMES, 2 if draw.chance(0.1) else 1)
        files, address = {}, draw.choice((0, 0x10000, 0x7FF612340000))
        for _ in range(draw.randrange(1, 5)):
            size = draw.choice((PAGE, PAGE, 2 * PAGE, 1))
            start = draw.number(address, (0x10000, 0x20000)) if draw.chance(0.2) else address
            end = start + size if draw.chance(0.95) else draw.number(start + size)
            word = draw.choice(("r-x", "rwx", "---", "rw-", "x.dll"))
            name = draw.choice(forms).format(start=start, end=end, last=end - 1, word=word)
            if draw.chance(0.1):
                at = draw.randrange(len(name))
                name = name[:at] + draw.plain() + name[at + draw.randrange(2) :]
            name = name.replace("/", "_").replace("\0", "_").encode()[:200].decode("utf-8", "ignore")
            length = size if draw.chance(0.95) else draw.choice((0, 1, 3 * PAGE))
            files[f"named/{'_' * (name in {'', '.', '..'})}{name}"] = bytes([len(files) + 1]) * length
            address += size + draw.choice((0, PAGE, 0x10000))
        return Case(files, checks.drawn(draw, "named"))
