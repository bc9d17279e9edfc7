"""Where the image of a Linux kernel lies in physical memory, told by few pages: what is looked for first is all in it.

- x86-64: processors start, and wake up, in the first MiB, with page tables there that share their upper half with the
  kernel's own: the last entry leads to the tables of the kernel's image (arch/x86/realmode/init.c). A container may
  tell a root, too.
- ARM64: the image begins with a header at a whole 2 MiB, which says how much of the memory it takes
  (Documentation/arch/arm64/booting.rst). Loaders put it near the beginning of the memory.

Nothing here is believed because it was found. Who does not find a kernel there looks through all the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.paging import walk
from memcarve.images.paging_modes import FRAME, LINUX, LINUX_IMAGE, PRESENT, ROOT, X64, X64_5, AddressTable
from memcarve.intervals import PAGE, Intervals, union

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.images.linux.landmarks import Information
    from memcarve.images.physical import PhysicalMemory

#: how much of the address space is for the kernel's image (KERNEL_IMAGE_SIZE, with KASLR)
IMAGE_ROOM = 1 << 30
_START = 1 << 20  # where processors start lies below
_LARGE = np.uint64(0x80)
_LAST = 511  # the entry of a table that leads to the image
_SMALLEST, _LARGEST = 1 << 20, 256 << 20  # bytes of an image
_MOST_ROOTS = 16
_SIZE_AT, _MAGIC_AT, _MAGIC = 16, 56, b"ARM\x64"
_APART, _AHEAD, _REACH = 2 << 20, 0x80000, 64 << 20  # where headers are looked for: from the memory's beginning on


def kernel_images(memory: PhysicalMemory, information: list[Information]) -> Iterator[Intervals]:
    """Yield the physical ranges of what may be a kernel's image.

    `information` is what the image's container says.
    """
    seen: set[bytes] = set()
    if memory.architecture in (None, "x64"):
        for root in _roots(memory, information):
            for mode in (X64, X64_5):
                found = _mapped(memory, AddressTable(root, mode, LINUX))
                if found is not None and found.start.tobytes() not in seen:
                    seen.add(found.start.tobytes())
                    yield found
    if memory.architecture in (None, "arm64"):
        yield from _headed(memory)


def _roots(memory: PhysicalMemory, information: list[Information]) -> list[int]:
    """Return roots of page tables that should map a kernel's image: those that the container tells come first."""
    told = [] if memory.root is None else [memory.root & ROOT]
    for each in information:
        address, base = each.vmcoreinfo.symbol("swapper_pg_dir"), each.vmcoreinfo.number("phys_base")
        if address is not None and base is not None and address >= LINUX_IMAGE:
            told.append(address - LINUX_IMAGE + base)
    pages = np.arange(0, _START, PAGE, dtype=np.uint64)
    pages = pages[memory.holds(pages, PAGE)]
    last = memory.pages(pages)[:, _LAST]
    leads = (last & PRESENT != 0) & (last & _LARGE == 0) & (last & FRAME >= np.uint64(_START))
    leads &= last & FRAME < np.uint64(memory.end)
    roots = [*told, *pages[leads][:_MOST_ROOTS].tolist()]
    return [root for root in dict.fromkeys(roots) if 0 <= root < memory.end and root % PAGE == 0]


def _mapped(memory: PhysicalMemory, table: AddressTable) -> Intervals | None:
    """Return the physical ranges of what page tables map where a kernel's image is; None if that cannot be one."""
    try:
        placed = walk(memory, table, LINUX_IMAGE, LINUX_IMAGE + IMAGE_ROOM, IMAGE_ROOM).placed
    except LimitError:
        return None
    if not _SMALLEST <= placed.total <= _LARGEST:
        return None
    return union(Intervals(placed.physical, placed.size))


def _headed(memory: PhysicalMemory) -> Iterator[Intervals]:
    """Yield the ranges of images of ARM64 kernels by their headers."""
    if not len(memory):
        return
    first = -(-int(memory.start[0]) // _APART) * _APART
    places: U64 = np.arange(first, first + _REACH, _APART, dtype=np.uint64)
    places = np.sort(np.concatenate([places, places + np.uint64(_AHEAD)]))
    places = places[memory.holds(places, PAGE)]
    pages = memory.pages(places)
    magic = pages[:, _MAGIC_AT // 8] & np.uint64(0xFFFFFFFF) == np.uint64(int.from_bytes(_MAGIC, "little"))
    for place, size in zip(places[magic].tolist(), pages[magic, _SIZE_AT // 8].tolist(), strict=True):
        if _SMALLEST <= size <= _LARGEST:
            yield Intervals.of([(place, size)])
