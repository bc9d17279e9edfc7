"""Minidumps and ELF cores of processes: each stream and note, with other numbers in what they say."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import cores
import memcarve
import minidumps
from fuzzing import checks
from fuzzing.case import Case
from headers import elf_page, pe_page
from memory import content
from minidumps import Dump, Info, Thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.case import Reached
    from fuzzing.draw import Draw

PAGE = 0x1000
IMAGE = bytes(pe_page()) + content(0x10000, 3 * PAGE)
#: addresses and bytes of a process's memory
MEMORY = ((0x10000, IMAGE), (0x20000, content(0x20000, 0x100)), (0x7FFE0000, content(0, 64)), (1 << 47, b"k" * PAGE))
_TOP = 1 << 64
_PROC_MAPS = b"00010000-00014000 r-xp 00000000 08:01 5  /bin/x\n00020000-00021000 rw-p 00000000 00:00 0  [stack]\n"
#: streams that systems other than Windows, and later ones, have: number and content
_STREAMS = (
    (0x47670003, b"processor\t: 0\n"),
    (0x47670004, b"Name:\tx\nPid:\t77\nTgid:\t77\n"),
    (0x47670006, b"/bin/x\0-a\0"),
    (0x47670007, b"A=b\0C=d\0"),
    (0x47670008, struct.pack("<4Q", 3, 0x10040, 0, 0)),
    (0x47670009, _PROC_MAPS),
    (24, struct.pack("<IIQ", 1, 5, 0x20)),
    (6, struct.pack("<IIIIQQII15Q", 5, 0, 0xC0000005, 0, 0, 0x10010, 2, 0, *range(15)) + struct.pack("<II", 16, 0x20)),
)


def _spread(draw: Draw, memory: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return some of the ranges, some of them elsewhere, longer, shorter or there twice."""
    found = [draw.choice(memory) for _ in range(draw.randrange(5))] if draw.chance(0.3) else list(memory)
    known = [end for start, data in found for end in (start, start + len(data))]
    for _ in range(draw.few(3) if found and draw.chance(0.7) else 0):
        at = draw.randrange(len(found))
        start, data = found[at]
        if draw.chance(0.6):
            start = draw.number(start, known)
        else:
            data = data[: draw.choice((0, 1, 8, len(data) - 1, PAGE))]
        found[at] = (start, data)
    return found


def _held(ranges: Sequence[tuple[int, bytes]], address: int, data: bytes) -> bool:
    """Return whether each byte is one that a range has at its address."""
    while data:
        counts = []
        for start, stored in ranges:
            # what 32-bit programs have from 2 GiB on may be printed with a sign
            for begin in {start, start & 0xFFFFFFFF}:
                if begin <= address < begin + len(stored):
                    part = stored[address - begin :][: len(data)]
                    same = next((at for at, byte in enumerate(part) if byte != data[at]), len(part))
                    counts.append(same)
        if not counts or not max(counts):
            return False
        address, data = address + max(counts), data[max(counts) :]
    return True


class Minidumps:
    """Minidumps, also those that were exported here."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "x.dmp")
        self.context = minidumps.context64(minidumps.some_registers(minidumps.AMD64_REGISTERS))
        self.narrow = minidumps.context32(minidumps.some_registers(minidumps.X86_REGISTERS))
        with open(self.path, "wb") as file:
            file.write(self._full().build())
        with memcarve.open(self.path) as container:
            process = container.process()
            self.own = _exported(process, folder, "minidump")
        self.comment = json.loads(_stream(self.own, 10))

    def _full(self) -> Dump:
        return Dump(
            memory64=MEMORY,
            modules=[(0x10000, 0x4000, "C:\\Windows\\x.dll"), (0x20000, 0x1000, "y.dll")],
            threads=[Thread(5, 0x20000, (0x20000, 0x20100), self.context, 0x10010)],
            infos=[Info(0x10000, 0x4000, 0x10000, kind=minidumps.IMAGE), Info(0x20000, 0x1000, 0x20000)],
            unloaded=[(0x30000, 0x1000, 7, 8, "gone.dll"), (0x40000, 0x1000, 0, 0, None)],
            pid=5,
            comment=b"a comment\0",
        )

    def make(self, draw: Draw) -> Case:
        """Draw the streams of a minidump, then change numbers in some of them."""
        told = checks.drawn(draw) | {"ranges": None}
        if draw.chance(0.1):
            document = json.dumps(draw.document(self.comment)).encode()
            data = _added(_without(self.own, 10), 10, document + b"\0")
            return Case({"x.dmp": data}, told)
        dump = self._full()
        ranges = _spread(draw, MEMORY)
        half = draw.randrange(len(ranges) + 1) if draw.chance(0.3) else 0
        known = [end for start, data in ranges for end in (start, start + len(data))]
        narrow = draw.chance(0.3)
        dump = replace(
            dump,
            memory64=ranges[half:] if half < len(ranges) or draw.chance(0.5) else None,
            memory32=ranges[:half] if half else None,
            aligned=draw.chance(0.1),
            system=draw.choice(((0, 2, 6, 1, 7601), (0, 0x8201, 5, 0, 0), (5, 2, 6, 2, 9200))) if narrow else
            draw.choice((dump.system, dump.system, (12, 2, 10, 0, 22621), (9, 0x8201, 5, 0, 0), None)),
            pid=draw.choice((5, 0, None, 0xFFFFFFFF)),
            comment=draw.choice((None, b"a comment\0", b"\xff\x1b[31m\0", b"written by memcarve\0")),
            info_width=draw.choice((48, 48, 48, 56, 40)),
            unloaded_sizes=draw.choice(((12, 24), (12, 24), (16, 32), (12, 20), (0, 0))),
        )  # fmt: skip
        context = self.narrow if narrow else self.context
        dump.threads = [
            Thread(draw.number(5, bits=32), draw.number(0x20000, known), (draw.number(0x20000, known), 0x100),
                   context[: draw.choice((len(context), len(context), 0, 4, 0x100))], draw.number(0x10010, known))
            for _ in range(draw.randrange(3))
        ]  # fmt: skip
        if draw.chance(0.6):
            dump.modules = [
                (draw.number(0x10000, known), draw.number(0x4000, bits=32), draw.text("x.dll"))
                for _ in range(draw.randrange(4))
            ]
        if draw.chance(0.6):
            dump.infos = [
                Info(draw.number(0x10000, known), draw.number(0x4000, known), draw.number(0x10000, known),
                     protect=draw.number(4, bits=32), kind=draw.choice((0x20000, 0x40000, 0x1000000, 0)),
                     state=draw.choice((0x1000, 0x2000, 0x10000)))
                for _ in range(draw.randrange(5))
            ]  # fmt: skip
        data = dump.build()
        for _ in range(draw.few(3) if draw.chance(0.4) else 0):
            kind, stream = draw.choice(_STREAMS)
            data = _added(data, kind, draw.lines(stream) if draw.chance(0.4) else stream)
        if draw.chance(0.35):
            data = self._renumbered(draw, data)
        else:
            told["ranges"] = [[start, data.hex()] for start, data in ranges]
        if draw.chance(0.06):
            data, told["ranges"] = draw.torn(data, 600), None
        return Case({"x.dmp": data}, told)

    def _renumbered(self, draw: Draw, data: bytes) -> bytes:
        """Change numbers in the directory or in one of the streams."""
        entries = _directory(data)
        (place,) = struct.unpack_from("<I", data, 12)
        if draw.chance(0.3) or not entries:
            rows = range(place, place + 12 * len(entries), 4)
            return draw.fields(data, [(at, 4) for at in (*range(0, 32, 4), *rows)])
        _, size, rva = draw.choice(entries)
        width = draw.choice((4, 8))
        rows = range(rva, rva + min(size, 200) - width + 1, 4)
        heads = range(rva, rva + min(size, 16) - width + 1, 4)
        return draw.fields(data, [(at, width) for at in draw.choice((rows, heads))])

    def run(self, case: Case, reached: Reached) -> None:
        """Open the minidump, and compare its bytes with those of the ranges."""
        ranges = case.told["ranges"]
        model = None
        if ranges is not None:
            rows = [(start, bytes.fromhex(text)) for start, text in ranges]
            model = lambda address, data: _held(rows, address, data)  # noqa: E731
        checks.look(self.path, reached, model=model, sink=case.told["sink"], labels=case.told["labels"])


def _exported(process: memcarve.ProcessMemory, folder: str, to: str) -> bytes:
    out = os.path.join(folder, "own")
    memcarve.export(process, process.segments(), out, to)
    with open(out, "rb") as file:
        data = file.read()
    os.unlink(out)
    return data


def _directory(data: bytes) -> list[tuple[int, ...]]:
    count, place = struct.unpack_from("<II", data, 8)
    return [struct.unpack_from("<III", data, place + 12 * number) for number in range(count)]


def _stream(data: bytes, kind: int) -> bytes:
    """Return a stream's content without the zero byte that ends text."""
    size, rva = next(row[1:] for row in _directory(data) if row[0] == kind)
    return data[rva : rva + size].rstrip(b"\0")


def _redirected(data: bytes, entries: Sequence[tuple[int, ...]]) -> bytes:
    """Return a minidump with another directory, behind all the rest."""
    place = len(data) + -len(data) % 4
    head = struct.pack("<II", len(entries), place)
    rows = b"".join(struct.pack("<III", *entry) for entry in entries)
    return data[:8] + head + data[16:].ljust(place - 16, b"\0") + rows


def _added(data: bytes, kind: int, stream: bytes) -> bytes:
    """Return a minidump with one stream more."""
    return _redirected(data + stream, [*_directory(data), (kind, len(stream), len(data))])


def _without(data: bytes, kind: int) -> bytes:
    return _redirected(data, [row for row in _directory(data) if row[0] != kind])


class Cores:
    """ELF cores of both widths and orders, also those that were exported here."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "x.core")
        self.image = bytes(elf_page()) + content(0, PAGE)
        with open(self.path, "wb") as file:
            file.write(cores.core([cores.Load(0x10000, self.image, flags=5)], cores.info(5, b"prog")))
        with memcarve.open(self.path) as container:
            self.own = _exported(container.process(), folder, "elfcore")
        at = self.own.index(b'{"')
        self.document, end = json.JSONDecoder().raw_decode(self.own[at:].decode("latin-1"))
        self.place = (at, end)

    def make(self, draw: Draw) -> Case:
        """Draw segments and notes of a core, then change numbers in its headers or notes."""
        told = checks.drawn(draw) | {"ranges": None}
        if draw.chance(0.08):
            at, end = self.place
            text = json.dumps(draw.document(self.document)).encode()[:end].ljust(end)
            return Case({"x.core": self.own[:at] + text + self.own[at + end :]}, told)
        bits, order = draw.choice(((64, "<"), (64, "<"), (64, ">"), (32, "<"), (32, ">")))
        stored = ((0x10000, self.image), (0x20000, content(0, 0x100)), (0x7FFE0000, content(0, PAGE)))
        ranges = [(start & (1 << bits) - 1, data) for start, data in _spread(draw, stored)]
        loads = [
            cores.Load(start, data, self._whole(draw, len(data), bits), draw.choice((4, 5, 6, 7, 0)))
            for start, data in ranges
        ]
        notes = self._notes(draw, bits, order)
        machine = draw.choice((62, 183, 22, 8)) if bits == 64 else draw.choice((3, 40))
        data = cores.core(loads, notes, bits=bits, order=order, machine=machine, many=draw.chance(0.1))
        head, row = (64, 56) if bits == 64 else (52, 32)
        end = head + row * (len(loads) + 1)
        if draw.chance(0.35):
            width = draw.choice((4, bits // 8))
            places = draw.choice((range(16, head, 2), range(head, end, 4), range(end, end + len(notes) - 8, 4)))
            if len(places):
                data = draw.fields(data, [(at, width) for at in places], order)
        elif draw.chance(0.1):
            data = draw.torn(data, end + len(notes))
        else:
            told["ranges"] = [[start, data.hex()] for start, data in ranges]
        return Case({"x.core": data}, told)

    @staticmethod
    def _whole(draw: Draw, size: int, bits: int) -> int | None:
        if draw.chance(0.6):
            return None
        return max(size, draw.choice((PAGE, 2 * PAGE, size + 1, draw.number(size, bits=bits))))

    @staticmethod
    def _notes(draw: Draw, bits: int, order: str) -> bytes:
        word = "Q" if bits == 64 else "I"
        registers = [draw.number(bits=bits) if draw.chance(0.2) else 7 for _ in range(27 if bits == 64 else 17)]
        rows = [(0x10000, 0x12000, 0, b"/bin/x"), (0x20000, 0x21000, 1, b"/lib/\xff\x1b[31my")]
        files = [
            (draw.number(a, bits=bits), draw.number(b, bits=bits), draw.number(c, bits=bits), d)
            if draw.chance(0.4) else (a, b, c, d) for a, b, c, d in rows
        ]  # fmt: skip
        auxiliary = struct.pack(order + 6 * word, 3, 0x10040, 9, draw.number(0x10000, bits=bits), 0, 0)
        parts = [
            cores.info(draw.number(5, bits=31), draw.choice((b"prog", b"\xff\x1b[2J", b"")), bits, order),
            cores.status(draw.number(5, bits=31), registers, bits, order),
            cores.status(6, registers, bits, order),
            cores.files(files, bits, order, draw.number(2, bits=bits) if draw.chance(0.2) else None),
            cores.note(b"CORE", 6, auxiliary, order),
            cores.note(b"CORE", 2, bytes(512), order),
            cores.note(b"CORE", 0x53494749, struct.pack(order + "III", 11, 0, 1).ljust(128, b"\1"), order),
            cores.note(b"LINUX", 0x202, draw.randbytes(draw.choice((0, 576, 2696))), order),
            cores.note(draw.choice((b"FreeBSD", b"NetBSD-CORE", b"NetBSD-CORE@7", b"OpenBSD", b"OpenBSD@9")),
                       draw.choice((1, 3, 7, 8, 10, 16, 20, 32, 33)), draw.randbytes(draw.choice((0, 40, 400))), order),
        ]  # fmt: skip
        foreign = draw.chance(0.2)
        return b"".join(part for part in (parts if foreign else parts[:8]) if draw.chance(0.7))

    def run(self, case: Case, reached: Reached) -> None:
        """Open the core, and compare its bytes with those of the segments."""
        ranges = case.told["ranges"]
        model = None
        if ranges is not None:
            rows = [(start, bytes.fromhex(text)) for start, text in ranges]
            model = lambda address, data: _held(rows, address, data)  # noqa: E731
        checks.look(self.path, reached, model=model, sink=case.told["sink"], labels=case.told["labels"])
