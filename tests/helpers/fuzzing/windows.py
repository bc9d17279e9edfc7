"""Machines that run Windows: planned images, in which structures are changed in place, and put back afterwards."""

from __future__ import annotations

import bisect
import os
import struct
from typing import TYPE_CHECKING, Any

import memcarve
import winimage
from fuzzing import checks
from fuzzing.case import Case, Depth
from winimage import Plan, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fuzzing.case import Reached
    from fuzzing.draw import Draw
    from winimage.truth import Process, Truth

PAGE = 0x1000
_FRAME = (1 << 52) - PAGE
_USER_END = 1 << 47
_SHARED_DATA = 0xFFFFF78000000000
#: a usual process, one of 32 bits, one that has ended, one that nothing lists, one whose structures are odd already
_PLANS = (*winimage.USERLAND, Plan(3272, b"hidden.exe", 388, listed=False))
#: layouts of Windows 7, 8, early 10, late 10 and 11: places in the table
_LAYOUTS = (8, 0, 3)
#: pool tags, how far behind one its structure begins, and how much of that is looked at
_TAGS = {
    "vad": ((b"VadS", b"VadF", b"Vad ", b"VadI", b"Vadl", b"Vadm"), 12, 0x90),
    "thread": ((b"Thre",), 0x4C, 0x700),
    "section": ((b"MmSi", b"MmCi", b"MmCa", b"File", b"IoNm"), 12, 0x80),
}
_MOST_ENTRIES, _MOST_PROCESSES = 64, 1000
#: a share of the draws for each kind of structure
_KINDS = (
    *("process", "process", "vad", "vad", "vad", "thread", "thread", "section", "loader", "loader", "table", "table"),
    "kernel",
)


class Machine:
    """An image, and the places of what is changed in it: physical address and bits of a number, by kind."""

    def __init__(self, path: str, layout: int, plans: tuple[Plan, ...]) -> None:
        self.path = path
        self.truth: Truth = winimage.build(path, layout=layout, processes=plans, megabytes=20)
        with open(path, "rb") as file:
            self.raw = file.read()
        self.processes = [process for process in self.truth.processes if process.pid != 4]
        self.places: dict[str, list[tuple[int, int]]] = {kind: [] for kind in _KINDS}
        #: what a pointer in one structure may lead to in place of what it should
        self.known: list[int] = [self.truth.list_head, self.truth.kernel_base, _SHARED_DATA, 0x10000]
        self._find()
        self.opened = memcarve.open(path)
        for process in self.opened:
            _ = process.metadata
        #: the user half of each running process, and its segments as planned
        self.planned = {
            process.pid: (process.root, [(row.address, row.size) for row in self.truth.segments(process.pid, "user")])
            for process in self.processes
            if not process.exit and process.listed
        }

    def put(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Write bytes at physical addresses."""
        with open(self.path, "r+b") as file:
            for at, data in rows:
                file.seek(at)
                file.write(data)

    def _find(self) -> None:
        layout, kernel = self.truth.layout, _Pages(self.truth, self.processes[0].pid)
        members = [(name, at) for name, at in layout.offsets.items() if name[:10] in {"_EPROCESS.", "_KPROCESS."}]
        for process in self.truth.processes:
            for name, at in members:
                self._note("process", kernel, process.eprocess + at, 16 if "Li" in name else 8)
            links, root = (process.eprocess + layout[name] for name in ("ActiveProcessLinks", "VadRoot"))
            self.known += [process.eprocess, process.root, process.peb, links, root]
        for kind, (tags, behind, size) in _TAGS.items():
            begins = [at + behind for tag in tags for at in _all(self.raw, tag)]
            self.places[kind] = [
                (at + step, bits) for at in begins for step in range(0, size, 8) for bits in (64, 64, 32)
            ]
        for process in self.processes:
            if not process.exit and process.userland is not None:
                self._find_loader(_Pages(self.truth, process.pid), process)
            self.places["table"] += [(at, 64) for at in _entries(self.raw, process.root, 4)]
        header = self.truth.kernel_base
        for address, size in ((self.truth.list_head, 16), (_SHARED_DATA + 0x30, 8), (_SHARED_DATA + 0x260, 24),
                              (header + 0x3C, 4), (header + 0xE8, 0x20), (header + 0xE8 + 0x88, 8)):  # fmt: skip
            self._note("kernel", kernel, address, size, 4)
        self.places = {kind: [row for row in rows if row[0] + 8 <= len(self.raw)] for kind, rows in self.places.items()}
        # what pointers hold already leads somewhere, so it is known, too
        some = [place for kind in _TAGS for place, bits in self.places[kind][::7] if bits == 64]
        pointers = {int.from_bytes(self.raw[place : place + 8], "little") for place in some}
        self.known += sorted(pointer for pointer in pointers if pointer >> 47 == (1 << 17) - 1)

    def _note(self, kind: str, pages: _Pages, address: int, size: int, width: int = 8) -> None:
        """Note the numbers of a structure, if its address is mapped."""
        at = pages.physical(address)
        if at is not None:
            self.places[kind] += [(at + step, 8 * width) for step in range(0, size, width)]

    def _find_loader(self, pages: _Pages, process: Process) -> None:
        """Note the environment block, the parameters, and each entry of the loader's lists."""

        def word(address: int, size: int = 8) -> int:
            at = pages.physical(address)
            return 0 if at is None else int.from_bytes(self.raw[at : at + size], "little")

        for base, size in ((process.peb, 8), *([] if process.peb32 is None else [(process.peb32, 4)])):
            narrow = size == 4
            loader, parameters = (word(base + at, size) for at in ((0xC, 0x10) if narrow else (0x18, 0x20)))
            found = [(base, 0x100), (parameters, 0x100), (parameters + 0x3F0, 16), (loader, 0x60)]
            head = loader + (0xC if narrow else 0x10)
            entry = word(head, size)
            while entry not in {head, 0} and len(found) < _MOST_ENTRIES:
                found.append((entry, 0x90))
                entry = word(entry, size)
            for address, length in found:
                if address < 1 << 47:  # lists of odd processes lead into the kernel
                    self._note("loader", pages, address, length, size)
                    self.known.append(address)


class _Pages:
    """Where the pages of a process lie."""

    def __init__(self, truth: Truth, pid: int) -> None:
        self.address, self.at = (column.tolist() for column in truth.frames(pid))

    def physical(self, address: int) -> int | None:
        """Return the physical address of an address, None if nothing is mapped there."""
        row = bisect.bisect_right(self.address, address) - 1
        inside = row >= 0 and address - self.address[row] < PAGE
        return int(self.at[row]) + address - self.address[row] if inside else None


def _all(raw: bytes, tag: bytes) -> Iterator[int]:
    at = -1
    while (at := raw.find(tag, at + 1)) >= 0:
        if at % 4 == 0:
            yield at


def _entries(raw: bytes, table: int, levels: int) -> Iterator[int]:
    """Yield the places of the entries of page tables of the user half, and some that are empty."""
    values = struct.unpack_from("<512Q", raw, table)
    for index, value in enumerate(values[: 256 if levels == 4 else 512]):
        if value & 1:
            yield table + 8 * index
            below = value & _FRAME
            if levels > 1 and not value & 0x80 and below + PAGE <= len(raw):
                yield from _entries(raw, below, levels - 1)
        elif value or index % 64 == 0:
            yield table + 8 * index


class Windows:
    """Machines of three layouts; a case is a few numbers in one of them.

    Learning a kernel's layout takes most of the time: for many cases a machine is used that was opened before, and
    what is changed in it is read anew. What changes the kernel, and some others, are opened anew.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        plans = {_LAYOUTS[1]: (*_PLANS, *hostile.PLANS[:3])}
        self.machines = [Machine(os.path.join(folder, f"{at}.raw"), at, plans.get(at, _PLANS)) for at in _LAYOUTS]

    def make(self, draw: Draw) -> Case:
        """Draw numbers and where they stand: in one kind of structure, or in several."""
        number = draw.randrange(len(self.machines))
        machine, patches = self.machines[number], []
        kinds = draw.choices(_KINDS, k=draw.few(6)) if draw.chance(0.4) else [draw.choice(_KINDS)] * draw.few(4)
        for kind in kinds:
            at, bits = draw.choice(machine.places[kind])
            old = int.from_bytes(machine.raw[at : at + bits // 8], "little")
            known = [value & (1 << bits) - 1 for value in draw.sample(machine.known, 3)]
            value = draw.number(old, known, bits)
            if kind == "table" and draw.chance(0.6):
                frame = draw.choice((0, 1 << 20, 1 << 24, 1 << 40, _FRAME, draw.getrandbits(25) & _FRAME))
                value = draw.choice((old & ~_FRAME | frame, old ^ 1 << draw.choice((0, 1, 2, 5, 6, 7, 8, 10, 11, 63))))
            patches.append([at, value.to_bytes(bits // 8, "little")])
        pids = [*machine.planned] if draw.chance(0.9) else [process.pid for process in machine.processes]
        told = checks.drawn(draw, "") | {"machine": number, "patches": patches, "pid": draw.choice(pids)}
        told |= {"half": "user" if draw.chance(0.9) else "all", "searched": draw.chance(0.25)}
        told["opened"] = "kernel" not in kinds and draw.chance(0.75)
        told["mapped"] = told["half"] == "user" and {*kinds} <= {"process", "loader", "kernel"}
        return Case({}, told)

    def run(self, case: Case, reached: Reached) -> None:
        """Put the numbers in place, use the machine, and put back what stood there."""
        told = case.told
        machine = self.machines[told["machine"]]
        machine.put(told["patches"])
        try:
            if told["opened"]:
                self._use(machine.opened, machine, told, reached)
            else:
                with memcarve.open(machine.path) as container:
                    self._use(container, machine, told, reached)
        finally:
            machine.put([(at, machine.raw[at : at + len(data)]) for at, data in told["patches"]])

    def _use(self, container: memcarve.Container, machine: Machine, told: dict[str, Any], reached: Reached) -> None:
        entries = container.processes() if told["searched"] else container.listed()
        reached(Depth.PARSED)
        checks.texts([*map(str, entries), *container.notes])
        assert len(entries) < _MOST_PROCESSES
        wanted = [index for index, entry in enumerate(entries) if entry.pid == told["pid"] and not entry.ended]
        process = container.process(index=(wanted or [0])[0], half=told["half"])
        checks.use(process, reached)
        root, segments = machine.planned.get(process.pid or 0, (0, []))
        if told["mapped"] and process.entry.root is not None and process.entry.root & _FRAME == root:
            # whatever other structures say, page tables map what they did
            assert [(one.start, one.size) for one in process.segments()] == segments
        checks.rows(process)
        assert all(row.start + (row.size or 0) <= _USER_END for row in process.modules)
        assert all(row.end <= _USER_END for row in process.regions)
        if told["labels"]:
            checks.known(process)
        if told["sink"] not in {None, "table"} and not told["opened"]:  # which would see that the file was changed
            checks.write(process, self.folder, told["sink"])
