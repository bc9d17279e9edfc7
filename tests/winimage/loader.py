"""What a process's own memory says of it: environment blocks, the loader's lists of modules, heaps, stacks."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from winimage.contents import PAGE
from winimage.userland import Name, encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from winimage.programs import Content
    from winimage.userland import Loaded, Threaded, Userland

#: where the 32-bit TEB is, from the 64-bit one on
NARROW_TEB = 0x2000


class Memory:
    """Pages of a process by number: bytes, or None for the usual ones; and what the page tables allow."""

    def __init__(self, contents: Iterable[Content]) -> None:
        self.pages: dict[int, bytearray | None] = {}
        self.protections: dict[int, str] = {}
        for content in contents:
            for number in range(content.pages):
                page = (content.address >> 12) + number
                data = None if content.data is None else content.data[number * PAGE : (number + 1) * PAGE]
                self.pages[page] = None if data is None else bytearray(data.ljust(PAGE, b"\0"))
                self.protections[page] = content.protection

    def write(self, address: int, data: bytes) -> None:
        """Write bytes, mapping the pages that they lie in."""
        while data:
            page, at = divmod(address, PAGE)
            part = data[: PAGE - at]
            there = self.pages.setdefault(page, bytearray(PAGE))
            if there is None:
                raise ValueError(f"0x{address:x} has contents of its own")
            self.protections.setdefault(page, "RW")
            there[at : at + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def put(self, address: int, layout: str, *values: int | bytes) -> None:
        """Write values."""
        self.write(address, struct.pack("<" + layout, *values))

    def pointer(self, address: int) -> int:
        """Return the 64-bit pointer at an address, of which nothing needs to be there."""
        page = self.pages.get(address >> 12)
        return 0 if page is None else int.from_bytes(page[address % PAGE :][:8], "little")


class _Width(NamedTuple):
    """Where the structures of 64 or of 32 bits have what: see ntdll's symbols."""

    pointer: str
    #: in the PEB
    image: int
    ldr: int
    heap: int
    heap_counts: int
    heap_list: int
    #: in PEB_LDR_DATA
    heads: int
    #: in LDR_DATA_TABLE_ENTRY
    base: int
    entry_size: int
    #: in the TEB
    own: int
    client: int
    peb: int
    reserved: int

    @property
    def bytes(self) -> int:
        """The size of a pointer."""
        return 8 if self.pointer == "Q" else 4

    @property
    def text(self) -> str:
        """A UNICODE_STRING."""
        return "HH4xQ" if self.pointer == "Q" else "HHI"


WIDE = _Width("Q", 0x10, 0x18, 0x30, 0xE8, 0xF0, 0x10, 0x30, 0x120, 0x30, 0x40, 0x60, 0x1478)
NARROW = _Width("I", 0x08, 0x0C, 0x18, 0x88, 0x90, 0x0C, 0x18, 0xA8, 0x18, 0x20, 0x30, 0xE0C)
_LISTS = "lmi"


class Side:
    """The loader's structures of one width: `ldr` is PEB_LDR_DATA, `entries` are the modules', in their order."""

    def __init__(self, memory: Memory, width: _Width, peb: int, arena: int) -> None:
        self.memory, self.width, self.peb, self.top = memory, width, peb, arena
        self.ldr = 0
        self.entries: list[int] = []
        #: where the addresses of the heaps are listed
        self.heap_list = 0

    def place(self, size: int) -> int:
        """Return the address of a new structure."""
        at = self.top
        self.top = (at + size + 0x2F) & ~0xF
        return at

    def text(self, at: int, name: Name) -> None:
        """Write a UNICODE_STRING, and its text somewhere else."""
        data = encoded(name.text)
        place = self.place(len(data) + 2)
        self.memory.write(place, data + b"\0\0")
        self.memory.put(at, self.width.text, *name.packed(place, narrow=self.width is NARROW))

    def write(self, image: int, modules: Sequence[Loaded], heaps: Sequence[int]) -> None:
        """Write the PEB, the lists of modules and the list of heaps."""
        memory, width, pointer = self.memory, self.width, self.width.pointer
        memory.put(self.peb, f"4x{'4x' if pointer == 'Q' else ''}{pointer}", (1 << 8 * width.bytes) - 1)
        self.ldr, self.heap_list = self.place(0x58), self.place(16 * width.bytes)
        memory.put(self.ldr, "II", 0x58 if pointer == "Q" else 0x30, 1)
        self.entries = [self.place(width.entry_size) for _ in modules]
        for module, at in zip(modules, self.entries, strict=True):
            memory.put(at + width.base, f"{pointer}{pointer}I", module.base, module.base + 0x1000, module.size)
            self.text(at + width.base + 3 * width.bytes, module.raw or Name(module.path))
            self.text(at + width.base + 3 * width.bytes + 2 * width.bytes, module.raw or Name(module.name))
        for number in range(3):
            self._link(number, modules)
        memory.put(self.peb + width.image, pointer, image)
        memory.put(self.peb + width.ldr, pointer, self.ldr)
        memory.put(self.peb + width.heap, pointer, heaps[0] if heaps else 0)
        memory.put(self.peb + width.heap_counts, "II", len(heaps), 16)
        memory.put(self.peb + width.heap_list, pointer, self.heap_list)
        memory.put(self.heap_list, f"{len(heaps)}{pointer}", *heaps)
        for heap in heaps:
            # an _HEAP_ENTRY, then the signature of a segment
            memory.put(heap + 2 * width.bytes, "I", 0xFFEEFFEE)

    def _link(self, number: int, modules: Sequence[Loaded]) -> None:
        """Link one of the three lists; that of initialization has another order."""
        shift = 2 * self.width.bytes * number
        ring = [at + shift for at, module in zip(self.entries, modules, strict=True) if _LISTS[number] in module.lists]
        if number == _LISTS.index("i"):
            ring.reverse()
        ring = [self.ldr + self.width.heads + shift, *ring]
        for place, link in enumerate(ring):
            self.links(link, ring[(place + 1) % len(ring)], ring[place - 1])

    def links(self, at: int, forward: int | None = None, backward: int | None = None) -> None:
        """Have the links at an address be these; None: as they are."""
        size = self.width.bytes
        for place, value in ((at, forward), (at + size, backward)):
            if value is not None:
                self.memory.put(place, self.width.pointer, value & (1 << 8 * size) - 1)


class Sides(NamedTuple):
    """Both widths of a process; not all have the second."""

    memory: Memory
    wide: Side
    narrow: Side | None


def written(plan: Userland, pid: int, *, modern: bool) -> Sides:
    """Return the memory of a process, with all that its plan has; `modern`: of Windows 10 or later."""
    memory = Memory(plan.contents)
    wide, narrow = Side(memory, WIDE, plan.peb, plan.arena), None
    wide.write(plan.image_base, plan.modules, plan.heaps)
    if plan.peb32 is not None:
        narrow = Side(memory, NARROW, plan.peb32, plan.arena32)
        narrow.write(plan.image_base, plan.modules32, plan.heaps32)
    for thread in plan.threads:
        if thread.teb and thread.mapped:
            _write_thread(memory, thread, plan, pid, modern=modern)
    return Sides(memory, wide, narrow)


def _write_thread(memory: Memory, thread: Threaded, plan: Userland, pid: int, *, modern: bool) -> None:
    """Write a thread's TEB, or both of them."""
    memory.write(thread.teb, bytes(2 * PAGE))
    for width, teb, stack, peb in (
        (WIDE, thread.teb, thread.stack, plan.peb),
        (NARROW, thread.teb + NARROW_TEB, thread.narrow, plan.peb32 or 0),
    ):
        if stack is None:
            continue
        pointer = width.pointer
        memory.put(teb + width.bytes, f"{pointer}{pointer}", stack.base, stack.limit)
        memory.put(teb + width.own, pointer, teb)
        memory.put(teb + width.client, f"{pointer}{pointer}", pid, thread.tid)
        memory.put(teb + width.peb, pointer, peb & (1 << 8 * width.bytes) - 1)
        memory.put(teb + width.reserved, pointer, stack.reserved)
    if thread.narrow is not None:
        # where the other one is: as the first pointer, and since Windows 10 as a distance
        memory.put(thread.teb, "Q", thread.teb + NARROW_TEB)
        memory.put(thread.teb + 0x180C, "i", NARROW_TEB if modern else 0)
