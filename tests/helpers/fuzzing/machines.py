"""A machine's memory: containers with other numbers in their headers, and page tables of every mode."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import containers
import walker
from fuzzing import checks
from fuzzing.case import Case
from memory import content

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzzing.case import Reached
    from fuzzing.draw import Draw

    Ranges = list[tuple[int, bytes]]

PAGE, LARGE, HUGE = 0x1000, 1 << 21, 1 << 30
ROOT = 0x1000
_HIGH = 1 << 32
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
    memory = bytearray(content(0, 16 * PAGE))
    memory[PAGE : 5 * PAGE] = bytes(4 * PAGE)
    for at, entry in ((ROOT + 8, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067)):
        struct.pack_into("<Q", memory, at, entry)
    for number, physical in enumerate(_MAPPED.values()):
        struct.pack_into("<Q", memory, 0x4000 + 8 * number, physical | 0x67)
    return bytes(memory)


class Containers:
    """Containers of the memory of a machine that has one small address space, whose root is told."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        tables = _tables()
        self.ranges: Ranges = [(0, tables), (16 * PAGE, content(PAGE << 8, 8 * PAGE)), (_HIGH, content(_HIGH, PAGE))]

    def make(self, draw: Draw) -> Case:
        """Draw ranges and a container of them, then change numbers in its headers."""
        told = checks.drawn(draw) | {
            "dtb": None if draw.chance(0.05) else draw.choice((0x2000, 0, 1 << 40)) if draw.chance(0.05) else ROOT,
            "limit": 1 << 48 if draw.chance(0.1) else None,
            "ranges": None,
        }
        if draw.chance(0.04):
            head = draw.choice(_FOREIGN) + draw.randbytes(draw.choice((0, 8, 100)))
            return Case({"x.raw": head.ljust(draw.choice((0, 512, 2 * PAGE)), b"\0")}, told | {"name": "x.raw"})
        ranges = [*self.ranges]
        known = [end for start, data in ranges for end in (start, start + len(data))]
        for _ in range(draw.few(3) if draw.chance(0.5) else 0):
            # the tables mostly stay where they are
            at = draw.randrange(draw.chance(0.9) or 0, len(ranges))
            start, data = ranges[at]
            kind = draw.randrange(4)
            if kind == 0:
                ranges[at] = (draw.number(start, known) & -PAGE, data)
            elif kind == 1:
                ranges[at] = (start, data[: max(draw.choice((PAGE, len(data) - PAGE)), PAGE)])
            elif kind == 2:
                ranges.append((start, data))
            else:
                ranges[at], ranges[0] = ranges[0], ranges[at]
        kind = draw.choice(("lime", "lime of avml", "avml", "elf64", "elf32", "crash", "crash", "vmem", "vmss", "raw"))
        ranges = self._possible(kind, ranges)
        name, data, places, state = self._contained(draw, kind, ranges)
        changed = draw.chance(0.5)
        if not changed:
            told["ranges"] = [[start, data.hex()] for start, data in ranges]
        elif state is not None:
            state = draw.torn(state, 600) if draw.chance(0.5) else draw.fields(state, _grid(0, len(state)))
        else:
            data = draw.torn(data, 0x2100) if draw.chance(0.15) else draw.fields(data, places)
        files = {name: data} if state is None else {name: data, "vm.vmss": state}
        return Case(files, told | {"name": name})

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
    def _contained(draw: Draw, kind: str, ranges: Ranges) -> tuple[str, bytes, Sequence[tuple[int, int]], bytes | None]:
        """Return a container: its name, its bytes, what of it are numbers, and what lies beside it."""
        if kind in {"lime", "lime of avml", "avml"}:
            if kind == "avml":
                data = containers.avml(ranges, counts=draw.chance(0.7), alone=draw.chance(0.3), block=PAGE * 4)
            elif kind == "lime":
                data = containers.lime(ranges)
            else:
                data = containers.lime_of_avml(ranges, block=PAGE, zeros=draw.choice(("left out", "alone")))
            magic, places, at = data[:4], [], 0
            while (at := data.find(magic, at)) >= 0:
                places += [(at + 8, 8), (at + 16, 8), (at + 4, 4), (at + 24, 8), (at + 32, 4)]
                at += 4
            return "x.lime", data, places, None
        if kind in {"elf32", "elf64"}:
            unstored = draw.choice((0, 0, PAGE, 1)) if kind == "elf64" else 0
            data = containers.elf_core(
                ranges,
                bits=int(kind[3:]),
                many=draw.chance(0.2),
                flavour=draw.choice(("qemu", "virtualbox", "kdump", "none")) if kind == "elf64" else "qemu",
                unstored=unstored,
            )
            return "x.elf", data, [*_grid(16, 64 + 56 * (len(ranges) + 2)), *_grid(300, 700)], None
        if kind == "crash":
            data = containers.crash_dump(ranges, kind=draw.choice([*containers.KINDS]), root=ROOT)
            places = [*_grid(0, 0x40), *_grid(0x80, 0xC8), (0xF98, 4), *_grid(0x2000, 0x2078)]
            return "x.dmp", data, places, None
        if kind == "raw":
            return "x.raw", ranges[0][1], _grid(ROOT, 4 * PAGE), None
        memory, state = containers.vmware(ranges, embedded=kind == "vmss")
        if kind == "vmem":
            return "vm.vmem", memory, (), state
        return "x.vmss", state, [(at, width) for at in range(600) for width in (1, 4)], None

    def run(self, case: Case, reached: Reached) -> None:
        """Open the container, and compare the bytes of its address space with those of its ranges."""
        told = case.told
        model = None
        if told["ranges"] is not None and told["dtb"] == ROOT:
            ranges = [(start, bytes.fromhex(text)) for start, text in told["ranges"]]
            model = lambda address, data: _is_mapped(ranges, address, data)  # noqa: E731
        path = os.path.join(self.folder, told["name"])
        how = {name: told[name] for name in ("sink", "labels", "dtb", "limit")}
        checks.look(path, reached, model=model, **how)
        if told["name"] != "vm.vmem":
            os.unlink(path)


def _grid(first: int, end: int) -> list[tuple[int, int]]:
    """Return the places of numbers of 4 and 8 bytes in a part of a file."""
    return [(at, width) for at in range(first, end, 4) for width in (4, 8)]


def _is_mapped(ranges: Ranges, address: int, data: bytes) -> bool:
    """Return whether each page of bytes is what some range has at the physical address that is mapped there."""
    for done in range(0, len(data), PAGE):
        physical = _MAPPED.get(address + done)
        if physical is None:
            return False
        page = data[done : done + PAGE]
        held = (stored[physical - start :][: len(page)] for start, stored in ranges if start <= physical)
        if page not in held:
            return False
    return True


#: where machines of random tables have memory: low, at the beginning of large pages, beyond 40 bits
_REGIONS = ((0, 20), (LARGE, 6), (HUGE, 4), (1 << 41, 3))
_MODES = {"x64": "x86-64", "x64-5": "x86-64-5", "pae": "pae", "x86": "x86"}
_FLAGS = (
    *(0x67, 0x67, 0x63, 0x7, 0x5, 0x1, 0xE7, 0x87, 0x1E3, 0x800, 0x8E0, 0x880, 0x890, 0xC00, 0x400, 0x80, 0x100, 0x160),
    *(0x180, 0x1E0, 0, 0x67 | 1 << 63, 0x65 | 1 << 63),
)
_TABLES = range(1, 7)
_FRAMES = (*range(7, 22), *range(512, 519), *range(1 << 18, (1 << 18) + 5), 600, 1 << 19, 1 << 29, (1 << 40) - 1, 0)


class Paging:
    """Page tables that lead anywhere, to themselves too, in each mode and as each system has them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pages = [(start, content(start, PAGE * count)) for start, count in _REGIONS]

    def make(self, draw: Draw) -> Case:
        """Draw the entries of six tables, the first of which is the root."""
        mode = draw.choice([*_MODES])
        system = draw.choice(("windows", "linux", "none", None))
        width = 4 if mode == "x86" else 8
        low = bytearray(self.pages[0][1])
        # what leads somewhere for certain: each table to the next, the last to pages
        levels = {"x64": 4, "x64-5": 5, "pae": 3, "x86": 2}[mode]
        low[PAGE : 7 * PAGE] = bytes(6 * PAGE)
        for number in range(levels):
            slot = 0 if draw.chance(0.7) else draw.randrange(4)
            self._put(low, number + 1, slot, width, (number + 2) * PAGE | (1 if mode == "pae" and not number else 0x67))
        for number in range(draw.choice((1, 4, 30))):
            frame = draw.choice(_FRAMES[:15]) * PAGE
            self._put(low, levels, number + 4, width, frame | draw.choice(_FLAGS))
        for _ in range(draw.choice((0, 2, 8, 30))):
            frame = draw.choice(_TABLES) if draw.chance(0.5) else draw.choice(_FRAMES)
            slots = 4 if mode == "pae" and draw.chance(0.3) else 1024 if mode == "x86" else 512
            value = frame * PAGE | draw.choice(_FLAGS)
            if draw.chance(0.05):
                value = draw.number(value)
            slot = draw.choice((0, 1, slots // 2, slots - 1, draw.randrange(slots)))
            self._put(low, draw.choice(_TABLES), slot, width, value)
        told = checks.drawn(draw) | {
            "paging": mode,
            "system": system,
            "limit": draw.choice((None, None, 1 << 20, 1 << 48)),
            "walk": system is not None and draw.chance(0.1),
        }
        if draw.chance(0.5):
            return Case({"mem.raw": bytes(low)}, told)
        return Case({"mem.lime": containers.lime([(0, bytes(low)), *self.pages[1:]])}, told)

    @staticmethod
    def _put(memory: bytearray, table: int, slot: int, width: int, value: int) -> None:
        at = table * PAGE + slot * width
        memory[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")

    def run(self, case: Case, reached: Reached) -> None:
        """Walk the tables, and compare what is read through them with what a slow walker finds."""
        (name,) = case.files
        told = case.told
        model = self._walked(case) if told["walk"] else None
        how = {name: told[name] for name in ("sink", "labels", "paging", "system", "limit")}
        checks.look(os.path.join(self.folder, name), reached, model=model, dtb=ROOT, **how)

    def _walked(self, case: Case) -> Callable[[int, bytes], bool] | None:
        ((name, data),) = case.files.items()
        low = data if name == "mem.raw" else data[32:]
        memory = [(0, low[: 20 * PAGE]), *(self.pages[1:] if name == "mem.lime" else ())]

        def read(physical: int, size: int) -> bytes | None:
            found = (data[physical - start :][:size] for start, data in memory if start <= physical < start + len(data))
            return next((data for data in found if len(data) == size), None)

        top = max(start + len(data) for start, data in memory)
        try:
            items = walker.walk(read, ROOT, _MODES[case.told["paging"]], case.told["system"], limit=3000, top=top)
        except walker.TooMuchError:
            return None

        def model(address: int, data: bytes) -> bool:
            for done in range(0, len(data), PAGE):
                here = address + done
                inside = (item for item in items if item[0] <= here < item[0] + item[1])
                if not any(read(item[2] + here - item[0], PAGE) == data[done : done + PAGE] for item in inside):
                    return False
            return True

        return model
