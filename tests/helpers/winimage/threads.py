"""Threads as the kernel has them: a list that begins in their process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from winimage.pool import THREAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from winimage.layouts import Layout
    from winimage.pool import Pool
    from winimage.userland import Threaded


class Threads:
    """The threads of one process, placed, written and linked; `links` are where their list entries are."""

    def __init__(self, pool: Pool, layout: Layout, head: int, pid: int, planned: Sequence[Threaded]) -> None:
        self.pool, self.layout, self.head = pool, layout, head
        self.places = [pool.place(layout["_ETHREAD.size"], b"Thre", self._crossing(n)) for n in range(len(planned))]
        self.links = [place + layout["_ETHREAD.ThreadListEntry"] for place in self.places]
        for place, thread in zip(self.places, planned, strict=True):
            pool.header(place, THREAD, layout["_KTHREAD.size"])
            pool.put(place + layout["_ETHREAD.Cid"], "QQ", pid, thread.tid)
            pool.put(place + layout["_ETHREAD.StartAddress"], "Q", 0x7FFA10001000)
            pool.put(place + layout["_ETHREAD.Win32StartAddress"], "Q", thread.begin)
            pool.put(place + layout["_KTHREAD.Teb"], "Q", thread.teb)
        ring = [head, *self.links]
        for number, link in enumerate(ring):
            pool.put(link, "QQ", ring[(number + 1) % len(ring)], ring[number - 1])

    def _crossing(self, number: int) -> int | None:
        """Return where in a thread's structure a page ends: in every second one within what is read of it."""
        return self.layout["_ETHREAD.ThreadListEntry"] + 1 if number % 2 else None

    def forward(self, number: int, value: int) -> None:
        """Have a thread's forward link, or with -1 the head's, be something else."""
        self.pool.put(self.head if number < 0 else self.links[number], "Q", value)

    def backward(self, number: int, value: int) -> None:
        """Have a thread's backward link, or with -1 the head's, be something else."""
        self.pool.put((self.head if number < 0 else self.links[number]) + 8, "Q", value)
