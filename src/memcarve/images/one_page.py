"""Where one page lies, found as a processor finds it: entry by entry.

For the few pages of many processes that are read for a command line or a header; `paging.walk` is for all of a process,
and for what only an operating system knows (pages that are not present, but in memory). Sources: Intel SDM volume 3,
chapter 4; Arm Architecture Reference Manual, D8.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory

_PRESENT, _LARGE = 0x1, 0x80
_KIND, _BLOCK, _TABLE = 0x3, 0x1, 0x3  # of a descriptor of ARM64; at the last level a page is what a table is above
_X86_FRAME, _ARM64_FRAME = (1 << 52) - PAGE, 1 << 48
_LARGEST_GRANULE = 1 << 16


def present_page(memory: PhysicalMemory, table: AddressTable, address: int) -> int | None:
    """Return the physical address of the page (4096 bytes) that holds an address, if the processor would find it.

    None if it would not, if a table is not in the image, and with kinds of tables whose entries hold addresses in
    several pieces (`x86` without PAE, ARM64 with 52 bits or 64 KiB): `paging.walk` knows better.
    """
    mode = table.mode
    if mode.entry != 8 or mode.lpa2 or mode.page == _LARGEST_GRANULE:  # noqa: PLR2004 - bytes
        return None
    root = next((root for root, begin in reversed(table.roots()) if address >= begin), None)
    lower = 1 << (mode.bits - (mode.wide and not mode.split))
    if root is None or lower <= address < (mode.upper if mode.wide else 1 << 64):
        return None  # no address that can be: the upper bits are not all alike
    last = len(mode.levels) - 1
    for depth, level in enumerate(mode.levels):
        entries = mode.page // mode.entry if depth else mode.top
        data = memory.read(root + (address >> level.shift & entries - 1) * mode.entry, mode.entry)
        entry = int.from_bytes(data or b"", "little")
        if mode.split:
            kind, frame = entry & _KIND, entry & _ARM64_FRAME - mode.page
            leaf = kind == _BLOCK if depth < last else kind == _TABLE
            leads = kind == _TABLE and depth < last
        else:
            frame, leads = entry & _X86_FRAME, entry & _PRESENT != 0
            leaf = leads and (depth == last or (level.large and entry & _LARGE != 0))
        if leaf and (depth == last or level.large):
            size = 1 << level.shift
            return (frame & -size) + (address & size - PAGE)
        if not leads:
            return None
        root = frame
    return None
