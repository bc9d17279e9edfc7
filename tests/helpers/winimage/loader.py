"""What a process's own memory says of it: environment blocks, the loader's lists of modules, heaps, stacks."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from winimage import ntdll
from winimage.contents import PAGE
from winimage.userland import Name, encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from winimage.programs import Content
    from winimage.userland import Loaded, Started, Threaded, Userland

#: where the 32-bit TEB is, from the 64-bit one on
NARROW_TEB = 0x2000
#: where in a heap the list of modules that were unloaded is
_TRACE = 0x80000


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
    #: in the PEB; in RTL_USER_PROCESS_PARAMETERS, and its size
    parameters: int
    directory: int
    image_path: int
    command_line: int
    environment: int
    environment_size: int
    parameters_size: int

    @property
    def bytes(self) -> int:
        """The size of a pointer."""
        return 8 if self.pointer == "Q" else 4

    @property
    def text(self) -> str:
        """A UNICODE_STRING."""
        return "HH4xQ" if self.pointer == "Q" else "HHI"


WIDE = _Width(
    "Q", 0x10, 0x18, 0x30, 0xE8, 0xF0, 0x10, 0x30, 0x120, 0x30, 0x40, 0x60, 0x1478,
    0x20, 0x38, 0x60, 0x70, 0x80, 0x3F0, 0x440,
)  # fmt: skip
NARROW = _Width(
    "I", 0x08, 0x0C, 0x18, 0x88, 0x90, 0x0C, 0x18, 0xA8, 0x18, 0x20, 0x30, 0xE0C,
    0x10, 0x24, 0x38, 0x40, 0x48, 0x290, 0x2C0,
)  # fmt: skip
_LISTS = "lmi"


class Side:
    """The loader's structures of one width: `ldr` is PEB_LDR_DATA, `entries` are the modules', in their order."""

    def __init__(self, memory: Memory, width: _Width, peb: int, arena: int) -> None:
        self.memory, self.width, self.peb, self.top = memory, width, peb, arena
        self.ldr = 0
        self.entries: list[int] = []
        #: where the addresses of the heaps are listed
        self.heap_list = 0
        #: pages that are not in memory
        self.lost: list[int] = []

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

    def start(self, started: Started) -> None:
        """Write what the process was started with."""
        memory, width, pointer = self.memory, self.width, self.width.pointer
        at = self._apart(width.parameters_size, lost="parameters" in started.lost)
        relative = 0 if started.normalised else at
        for name, member, text in (
            ("command_line", width.command_line, started.command_line),
            ("image_path", width.image_path, started.image_path),
            ("directory", width.directory, started.directory),
        ):
            data = encoded(text.text)
            place = self._apart(len(data) + 2, lost=name in started.lost)
            memory.write(place, data + b"\0\0")
            memory.put(at + member, width.text, *text.packed(place - relative, narrow=pointer == "I"))
        # how much it is in all, the texts included
        memory.put(at, "III", self.top - at, self.top - at, 0x2000 | (started.normalised and started.flagged))
        block = b"".join(encoded(string) + b"\0\0" for string in started.environment) or b"\0\0"
        block += b"\0\0" if started.ends else encoded("MORE=")
        place = self._apart(len(block), lost=False)
        memory.write(place, block)
        if "environment" in started.lost:
            self.lost.append((place + len(block) - 1) // PAGE)
        size = len(block) if started.environment_size is None else started.environment_size
        memory.put(at + width.environment, pointer, place if started.environment_at is None else started.environment_at)
        memory.put(at + width.environment_size, pointer, size)
        memory.put(self.peb + width.parameters, pointer, at if started.at is None else started.at)

    def _apart(self, size: int, *, lost: bool) -> int:
        """Return the address of a new structure; if it is `lost` nothing else lies in its pages."""
        if not lost:
            return self.place(size)
        at = -(-self.top // PAGE) * PAGE
        self.top = -(-(at + size) // PAGE) * PAGE
        self.lost += range(at // PAGE, self.top // PAGE)
        return at

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
    modules = ntdll.contents(plan.ntdll, plan.trace, plan.heaps[0] + _TRACE) if plan.trace else []
    if plan.trace32:
        modules += ntdll.contents(plan.ntdll32, plan.trace32, plan.heaps32[0] + _TRACE, narrow=True)
    memory = Memory([*plan.contents, *modules])
    wide, narrow = Side(memory, WIDE, plan.peb, plan.arena), None
    wide.write(plan.image_base if plan.peb_image is None else plan.peb_image, plan.modules, plan.heaps)
    if plan.started:
        wide.start(plan.started)
    if plan.peb32 is not None:
        narrow = Side(memory, NARROW, plan.peb32, plan.arena32)
        narrow.write(plan.image_base, plan.modules32, plan.heaps32)
        if plan.started32:
            narrow.start(plan.started32)
    for thread in plan.threads:
        if thread.teb and thread.mapped:
            _write_thread(memory, thread, plan, pid, modern=modern)
    for page in [*wide.lost, *(narrow.lost if narrow else ())]:
        del memory.pages[page], memory.protections[page]
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
