"""A machine's memory: containers with other numbers in their headers, and page tables of every mode."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import containers
from fuzzing import checks
from fuzzing.case import Case
from fuzzing.compression import compressed
from memory import PAGE, content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.draw import Draw

    Ranges = list[tuple[int, bytes]]

LARGE, HUGE, ROOT, _HIGH = 1 << 21, 1 << 30, 0x1000, 1 << 32
#: virtual page: physical page, as the tables of `_tables` have them
_MAPPED = {(1 << 39) + number * PAGE: PAGE * (5 + number) if number < 16 else _HIGH for number in range(17)}
#: what other containers begin with, which are not read
_FOREIGN = (
    *(
        b"EVF\t\r\n\xff\0",
        b"PK\3\4",
        b"7z\xbc\xaf\x27\x1c",
        b"QFI\xfb",
        b"KDMV",
        b"vhdxfile",
        b"hibr",
        b"HIBR",
        b"wake",
    ),
    *(
        b"HPAK",
        b"\xcf\xfa\xed\xfe",
        b"KDUMP   ",
        b"makedumpfile\0\0\0\0",
        b"\x7fELF",
        b"PAGEDU64",
        b"PAGEDUMP",
        b"EMiL",
    ),
)


def _tables() -> bytes:
    """Return 16 pages whose second is the root of tables that lead to themselves and to what lies above."""
    memory = bytearray(content(0, PAGE) + bytes(4 * PAGE) + content(5 * PAGE, 11 * PAGE))
    for at, entry in ((ROOT + 8, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067)):
        struct.pack_into("<Q", memory, at, entry)
    for number, physical in enumerate(_MAPPED.values()):
        struct.pack_into("<Q", memory, 0x4000 + 8 * number, physical | 0x67)
    return bytes(memory)


def _grid(first: int, end: int, step: int = 4) -> list[tuple[int, int]]:
    """Return the places of numbers of 4 and 8 bytes in a part of a file."""
    return [(at, width) for at in range(first, end, step) for width in (4, 8)]


class Containers(checks.Looked):
    """Containers of the memory of a machine that has one small address space, whose root is told."""

    kinds: Sequence[str] = ("lime", "lime of avml", "avml", "elf64", "elf32", "crash", "crash", "vmem", "vmss", "raw")

    def prepare(self) -> None:
        """Make ranges of physical memory."""
        self.ranges: Ranges = [(0, _tables()), (16 * PAGE, content(1, 8 * PAGE)), (_HIGH, content(_HIGH, PAGE))]

    def model(self, held: Any) -> checks.Model:
        """Return what says whether each page is what some range has at the physical address that is mapped there."""

        def model(address: int, data: bytes) -> bool:
            for done in range(0, len(data), PAGE):
                physical, page = _MAPPED.get(address + done, 0), data[done : done + PAGE]
                if page not in (stored[physical - start :][: len(page)] for start, stored in held if start <= physical):
                    return False
            return True

        return model

    def make(self, draw: Draw) -> Case:
        """Draw ranges and a container of them, then change numbers in its headers."""
        told = checks.drawn(draw, "x.raw") | {"limit": 1 << 48 if draw.chance(0.1) else None}
        told["dtb"] = None if draw.chance(0.05) else draw.choice((0x2000, 0, 1 << 40)) if draw.chance(0.05) else ROOT
        if draw.chance(0.04):
            head = draw.choice(_FOREIGN) + draw.randbytes(draw.choice((0, 8, 100)))
            return Case({"x.raw": head.ljust(draw.choice((0, 512, 2 * PAGE)), b"\0")}, told)
        ranges = [*self.ranges]
        known = [end for start, data in ranges for end in (start, start + len(data))]
        for _ in range(draw.few(3) if draw.chance(0.5) else 0):
            at, kind = draw.randrange(draw.chance(0.9), len(ranges)), draw.randrange(4)  # the tables mostly stay
            start, data = ranges[at]
            if kind == 0:
                ranges[at] = (draw.number(start, known) & -PAGE, data)
            elif kind == 1:
                ranges[at] = (start, data[: max(draw.choice((PAGE, len(data) - PAGE)), PAGE)])
            elif kind == 2:
                ranges.append((start, data))
            else:
                ranges[at], ranges[0] = ranges[0], ranges[at]
        kind = draw.choice(self.kinds)
        ranges = self._possible(kind, ranges)
        data, places = self._contained(draw, kind, ranges)
        files = {"x.vmem" if kind == "vmem" else "x.vmss" if kind == "vmss" else "x.raw": data}
        state = containers.vmware(ranges)[1] if kind == "vmem" else None
        told["open"] = next(iter(files))
        if draw.chance(0.5):
            told["held"] = [list(row) for row in ranges] if told["dtb"] == ROOT else None
        elif state is not None:
            state = draw.torn(state, 600) if draw.chance(0.5) else draw.fields(state, _grid(0, len(state), 1))
        else:
            files[told["open"]] = draw.torn(data, 0x2100) if draw.chance(0.15) else draw.fields(data, places)
        if draw.chance(0.05):
            files[told["open"]] = compressed(draw, files[told["open"]], told)
        return Case(files | ({} if state is None else {"x.vmss": state}), told)

    @staticmethod
    def _possible(kind: str, ranges: Ranges) -> Ranges:
        """Return ranges as a kind of container can hold them."""
        if kind in {"vmem", "vmss", "crash"}:  # their numbers of pages have 32 bits, and bitmaps grow with the last
            ranges = [(start & (1 << 34) - PAGE, data) for start, data in ranges]
        if kind == "crash":  # nor can a bitmap hold a page twice
            apart: Ranges = []
            for start, data in sorted(ranges):
                if not apart or apart[-1][0] + len(apart[-1][1]) <= start:
                    apart.append((start, data))
            return apart
        if kind == "raw":
            return [(0, b"".join(data for _, data in ranges[:2]))]
        top = 1 << (32 if kind == "elf32" else 64)
        return [(min(start & top - 1, top - len(data)), data) for start, data in ranges]

    @staticmethod
    def _contained(draw: Draw, kind: str, ranges: Ranges) -> tuple[bytes, Sequence[tuple[int, int]]]:
        """Return a container, and what of it are numbers."""
        if kind in {"lime", "lime of avml", "avml"}:
            if kind == "avml":
                data = containers.avml(ranges, counts=draw.chance(0.7), alone=draw.chance(0.3), block=PAGE * 4)
            elif kind == "lime":
                data = containers.lime(ranges)
            else:
                data = containers.lime_of_avml(ranges, block=PAGE, zeros=draw.choice(("left out", "alone")))
            heads, at = list[int](), -1
            while (at := data.find(data[:4], at + 1)) >= 0:
                heads.append(at)
            return data, [
                (at + step, width) for at in heads for step, width in ((4, 4), (8, 8), (16, 8), (24, 8), (32, 4))
            ]
        if kind in {"elf32", "elf64"}:
            unstored, flavours = 0, ("qemu",)
            if kind == "elf64":
                unstored, flavours = draw.choice((0, 0, PAGE, 1)), ("qemu", "virtualbox", "kdump", "none")
            how = {"many": draw.chance(0.2), "flavour": draw.choice(flavours), "unstored": unstored}
            data = containers.elf_core(ranges, bits=int(kind[3:]), **how)
            return data, [*_grid(16, 64 + 56 * (len(ranges) + 2)), *_grid(300, 700)]
        if kind == "crash":
            data = containers.crash_dump(ranges, kind=draw.choice([*containers.KINDS]), root=ROOT)
            return data, [*_grid(0, 0x40), *_grid(0x80, 0xC8), (0xF98, 4), *_grid(0x2000, 0x2078)]
        if kind == "raw":
            return ranges[0][1], _grid(ROOT, 4 * PAGE)
        memory, state = containers.vmware(ranges, embedded=kind == "vmss")
        return memory if kind == "vmem" else state, _grid(0, 600, 1)


#: where machines of random tables have memory: low, at the beginning of large pages, beyond 40 bits
_REGIONS = ((LARGE, 6), (HUGE, 4), (1 << 41, 3))
_LEVELS = {"x64": 4, "x64-5": 5, "pae": 3, "x86": 2}
_FLAGS = (
    *(0x67, 0x67, 0x63, 0x7, 0x5, 0x1, 0xE7, 0x87, 0x1E3, 0x800, 0x8E0, 0x880, 0x890, 0xC00, 0x400, 0x80, 0x100, 0x160),
    *(0x180, 0x1E0, 0, 0x67 | 1 << 63, 0x65 | 1 << 63),
)
_TABLES, _LOW = range(1, 7), range(7, 20)
_FRAMES = (*_LOW, *range(512, 519), *range(1 << 18, (1 << 18) + 5), 600, 1 << 19, 1 << 29, 1 << 41, (1 << 40) - 1, 0)


class Paging(checks.Looked):
    """Page tables that lead anywhere, to themselves too, in each mode and as each system has them."""

    def prepare(self) -> None:
        """Make the pages that tables lead to."""
        self.low, self.high = (
            content(0, 20 * PAGE),
            [(start, content(start, PAGE * count)) for start, count in _REGIONS],
        )

    def make(self, draw: Draw) -> Case:
        """Draw the entries of six tables, the first of which is the root."""
        mode = draw.choice([*_LEVELS])
        told = checks.drawn(draw, "x.raw") | {"paging": mode, "dtb": ROOT}
        told["system"] = draw.choice(("windows", "linux", "none", None))
        told["limit"] = draw.choice((None, None, 1 << 20, 1 << 48))
        levels, width, slots = _LEVELS[mode], 4 if mode == "x86" else 8, 1024 if mode == "x86" else 512
        low = bytearray(self.low[:PAGE] + bytes(6 * PAGE) + self.low[7 * PAGE :])

        def put(table: int, slot: int, value: int) -> None:
            at = table * PAGE + slot * width
            low[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")

        for number in range(levels):  # each table leads to the next, the last to pages
            flags = 1 if mode == "pae" and not number else 0x67
            put(number + 1, 0 if draw.chance(0.7) else draw.randrange(4), (number + 2) * PAGE | flags)
        for number in range(draw.choice((1, 4, 30))):
            put(levels, number + 4, draw.choice(_LOW) * PAGE | draw.choice(_FLAGS))
        for _ in range(draw.choice((0, 2, 8, 30))):
            value = draw.choice(draw.choice((_TABLES, _FRAMES))) * PAGE | draw.choice(_FLAGS)
            slot = draw.choice((0, 1, 3, slots // 2, slots - 1, draw.randrange(slots)))
            put(draw.choice(_TABLES), slot, draw.number(value) if draw.chance(0.05) else value)
        data = bytes(low) if draw.chance(0.5) else containers.lime([(0, bytes(low)), *self.high])
        return Case({"x.raw": compressed(draw, data, told) if draw.chance(0.03) else data}, told)
