"""Kernel pool: structures at virtual addresses whose pages are no neighbours in physical memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from winimage.contents import PAGE
from winimage.physical import apart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from winimage.layouts import Layout
    from winimage.physical import Physical

PROCESS, THREAD = 3, 6
_GRAIN = 16
#: pool header and object header stand in front of an object
_BEFORE = 0x50


class Pool:
    """Structures are placed first, which settles the size; then written; then stored."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.data = bytearray()
        self.top = 0
        #: pages that no address leads to any more
        self.unmapped: set[int] = set()
        #: pages that left memory, with their entries
        self.paged: dict[int, int] = {}
        self.frames: NDArray[np.uint64]

    def place(self, size: int, tag: bytes = b"Misc", across: int | None = None, before: int = _BEFORE) -> int:
        """Return the address of a new structure; `across` is the offset in it where a page is to end, None: nowhere.

        `before` is what its headers take; that of the pool comes first.
        """
        at = -(-(self.top + before) // _GRAIN) * _GRAIN
        if across is not None:
            across = -(-across // _GRAIN) * _GRAIN
            at = -(-(at + across) // PAGE) * PAGE - across
        elif at // PAGE != (at + size - 1) // PAGE:
            at = -(-at // PAGE) * PAGE + before
        self.top = at + size
        self.data.extend(bytes(-(-self.top // PAGE) * PAGE - len(self.data)))
        struct.pack_into("<BBBB4s", self.data, at - before, 0, 0, min(255, (size + before) // 16), 2, tag)
        return self.base + at

    def place_unmapped(self, size: int, tag: bytes) -> int:
        """Return the address that a structure had; no table has its page, in which nothing else is."""
        address = self.place(size, tag, 0)
        self.unmapped.add((address - self.base) // PAGE)
        self.top = len(self.data)
        return address

    def next_page(self) -> int:
        """Have what comes next begin with a page, and return its number."""
        self.top = len(self.data)
        return len(self.data) // PAGE

    def put(self, address: int, layout: str, *values: int | bytes) -> None:
        """Write values at an address."""
        struct.pack_into("<" + layout, self.data, address - self.base, *values)

    def header(self, address: int, kind: int, size: int, signalled: int = 0) -> None:
        """Write a dispatcher header: kind, size in words, and an empty list of those who wait."""
        # the size is one byte: what KPROCESS has become since does not fit
        self.put(address, "BBBBiQQ", kind, 0, size // 4 & 0xFF, 0, signalled, address + 8, address + 8)

    def claim(self, physical: Physical) -> None:
        """Take the frames."""
        self.frames = apart(physical.take(len(self.data) // PAGE))

    @property
    def mapped(self) -> list[int]:
        """Which of its pages the tables have."""
        return [page for page in range(len(self.data) // PAGE) if page not in self.unmapped and page not in self.paged]

    def physical(self, address: int) -> int:
        """Return the physical address of an address."""
        at = address - self.base
        return int(self.frames[at // PAGE]) * PAGE + at % PAGE


def thread(pool: Pool, layout: Layout, head: int, pid: int) -> None:
    """Place the only thread of a process, in the list that begins at `head`."""
    address = pool.place(layout["_ETHREAD.size"], b"Thre")
    link = address + layout["_ETHREAD.ThreadListEntry"]
    pool.header(address, THREAD, layout["_KTHREAD.size"])
    pool.put(address + layout["_ETHREAD.Cid"], "QQ", pid, pid + 4)
    pool.put(link, "QQ", head, head)
    pool.put(head, "QQ", link, link)


def freed(pool: Pool, layout: Layout, pid: int) -> None:
    """Place what is left of a process that was freed and overwritten: little more than its header."""
    address = pool.place(layout["size"], b"Proc")
    pool.put(address, f"{layout['size']}s", bytes(range(0x91, 0x91 + 100)) * (layout["size"] // 100))
    pool.header(address, PROCESS, layout["_KPROCESS.size"])
    pool.put(address + layout["UniqueProcessId"], "Q", pid)
    pool.put(address + layout["ImageFileName"], "15s", b"overwritten.exe")
