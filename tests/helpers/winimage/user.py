"""The user half of a process, from its plan."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from winimage.contents import PAGE, SHARED, U64
from winimage.edges import EDGE_CASES, Place
from winimage.hostile import FAKE, LOADER, UNMAPPED, fake_page
from winimage.kernel import Section, header
from winimage.loader import Memory, written
from winimage.physical import LARGE, SPAN, numbers
from winimage.plans import Heap, Huge, Large, Run
from winimage.tables import KINDS, Tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from winimage.layouts import Layout
    from winimage.left_ram import Left
    from winimage.physical import Physical
    from winimage.plans import Plan
    from winimage.userland import Userland

SHARED_DATA = 0x7FFE0000
_EXE = 24
_GIB = 1 << 30


class Library(NamedTuple):
    """A shared library, in the same frames everywhere."""

    base: int
    pages: NDArray[np.uint64]
    frames: NDArray[np.uint64]

    @classmethod
    def made(cls, physical: Physical, base: int, count: int = 40) -> Library:
        """Return a library of which about two pages of three are in memory."""
        keep = physical.rng.random(count) < 0.7
        keep[0] = True
        pages = numbers(base >> 12, count)[keep]
        frames = physical.take(len(pages), 2)
        physical.fill(SHARED, pages, frames)
        physical.store(_module(base, count), frames[:1])
        return cls(base, pages, frames)


class User:
    """Lays out the user half of one process."""

    def __init__(
        self,
        physical: Physical,
        plan: Plan,
        shared_data: int,
        library: Library,
        layout: Layout,
        left: Left | None = None,
    ) -> None:
        self.physical, self.rng, self.pid = physical, physical.rng, plan.pid
        self.tables = Tables(physical)
        self.left = left if left is not None and left.plan.user else None
        self.holes: list[tuple[int, int]] = []
        self.loop = False
        self.own_table: tuple[int, int, int] | None = None
        self.tables.present(numbers(SHARED_DATA >> 12, 1), np.array([shared_data], U64), "R")
        below = plan.wow64
        if plan.minimal:
            self.image_base, self.peb, self.peb32 = 0, 0, None
        elif plan.userland is None:
            self.tables.present(library.pages, library.frames, "RX")
            self.image_base = 0x400000 if below else 0x7FF600000000 + (self._random(1 << 12) << 20)
            self.peb = 0x3000000000 + (self._random(1 << 16) << 16)
            self.peb32 = 0x2F0000 + (self._random(16) << 12) if below else None
            self._fixed()
        else:
            self.image_base, self.peb, self.peb32 = plan.userland.image_base, plan.userland.peb, plan.userland.peb32
            self._planned(plan.userland, layout)
        self.at = (0x10000000000 + (self._random(1 << 8) << 32)) if not below else 0x10000000
        for part in plan.memory:
            self._add(part)
        self._edges(plan.edges)

    def _random(self, below: int) -> int:
        return int(self.rng.integers(below))

    def _fixed(self) -> None:
        """Map the program and the process environment blocks."""
        for address, data in (
            (self.image_base, _module(self.image_base, _EXE)),
            (self.peb, struct.pack("<4xIQQ", 0, 0xFFFFFFFFFFFFFFFF, self.image_base).ljust(PAGE, b"\0")),
            (self.peb32, struct.pack("<4xII", 0xFFFFFFFF, self.image_base & 0xFFFFFFFF).ljust(PAGE, b"\0")),
        ):
            if address is not None:
                frames = self.physical.take(1)
                self.physical.store(data, frames)
                self.tables.present(numbers(address >> 12, 1), frames, "R" if address == self.image_base else "RW")
        self._map(numbers((self.image_base >> 12) + 1, _EXE - 4), "RX", chunk=4)

    def _planned(self, userland: Userland, layout: Layout) -> None:
        """Map what a plan says of all that is in memory, damaged as it says."""
        sides = written(userland, self.pid, modern=layout.modern)
        memory = sides.memory
        if userland.damage in LOADER:
            LOADER[userland.damage][0](sides)
        if userland.damage in UNMAPPED:
            del memory.pages[self.peb >> 12]
        if userland.damage:
            memory.write(FAKE, fake_page(layout))
        self._map_memory(memory, shares=userland.shares)

    def _map_memory(self, memory: Memory, *, shares: bool) -> None:
        for protection in sorted(set(memory.protections.values())):
            pages = [page for page in sorted(memory.pages) if memory.protections[page] == protection]
            said = [page for page in pages if memory.pages[page] is not None]
            if self.left is not None and protection == "RW":
                self._put_out(self.left, said, memory)
            elif said:
                contents = [bytes(memory.pages[page] or b"") for page in said]
                if shares and "W" not in protection:
                    frames = self._shared(contents)
                else:
                    frames = self.physical.take(len(said))
                    self.physical.store(b"".join(contents), frames)
                self.tables.present(np.array(said, U64), frames, protection)
            usual = [page for page in pages if memory.pages[page] is None]
            if usual:
                self._map(np.array(usual, U64), protection)

    def _put_out(self, left: Left, pages: list[int], memory: Memory) -> None:
        for page in pages:
            self.tables.put(0, page, left.put_out(page, bytes(memory.pages[page] or b"").ljust(PAGE, b"\0")))

    def _shared(self, contents: list[bytes]) -> NDArray[np.uint64]:
        """Return the frames of pages, one for all with the same bytes."""
        for data in contents:
            if data not in self.physical.shared:
                frame = self.physical.take(1)
                self.physical.store(data, frame)
                self.physical.shared[data] = int(frame[0])
        return np.array([self.physical.shared[data] for data in contents], U64)

    def _map(self, pages: NDArray[np.uint64], protection: str, kind: str = "present", chunk: int = 1) -> None:
        frames = self.physical.take(len(pages), chunk)
        self.physical.fill(self.pid, pages, frames)
        if kind == "present":
            self.tables.present(pages, frames, protection)
        else:
            self.tables.transition(pages, frames, protection, mask=kind == "masked")

    def _add(self, part: Run | Heap | Large | Huge) -> None:
        if isinstance(part, Run):
            self._run(part)
        elif isinstance(part, Heap):
            self._heap(part)
        elif isinstance(part, Large):
            self.at = -(-self.at // LARGE) * LARGE
            for _ in range(part.pages):
                frame = self.physical.take_large()
                self.physical.fill(self.pid, numbers(self.at >> 12, SPAN), numbers(frame, SPAN))
                self.tables.large(self.at, frame, part.protection)
                self.at += LARGE
        else:
            self.at = -(-self.at // _GIB) * _GIB
            self.tables.large(self.at, 0, part.protection, level=2)
            self.at += _GIB

    def _run(self, run: Run) -> None:
        pages = numbers((self.at >> 12) + run.gap, run.pages)
        if run.kind in KINDS:
            self.tables.absent(pages, KINDS.index(run.kind), run.protection)
        else:
            self._map(pages, run.protection, run.kind, run.chunk)
        self.at += (run.gap + run.pages) * PAGE

    def _heap(self, heap: Heap) -> None:
        count = heap.pages
        runs = self.rng.geometric(1 / heap.run, count)
        gaps = self.rng.integers(1, max(2, 2 * heap.gap), count)
        # as many runs as are needed; the last is cut
        used = int(np.searchsorted(np.cumsum(runs), count)) + 1
        runs[used - 1] -= runs[:used].sum() - count
        offsets = np.repeat(np.cumsum(gaps[:used]), runs[:used]) + np.arange(count)
        span = int(offsets[-1]) + 1 + int(gaps[used - 1])
        pages = numbers(self.at >> 12, span)
        moving = self.rng.random(count) < heap.moving
        self._map(pages[offsets[~moving]], heap.protection, chunk=heap.chunk)
        half = np.flatnonzero(moving)
        self._map(pages[offsets[half[::2]]], heap.protection, "transition")
        self._map(pages[offsets[half[1::2]]], heap.protection, "masked")
        holes = np.setdiff1d(np.arange(span), offsets)
        holes = holes[self.rng.random(len(holes)) < heap.soft]
        self.tables.absent(pages[holes], self.rng.integers(0, len(KINDS), len(holes)), heap.protection)
        self.at += span * PAGE

    def _edges(self, names: tuple[str, ...]) -> None:
        """Give each edge case 1 GiB of addresses, and nothing near it; those that want a root's slot have one."""
        at = (self.at // _GIB + 2) * _GIB
        slot = (at >> 39) + 2
        for name in names:
            EDGE_CASES[name](Place(self, self.tables, at, slot << 39))
            at, slot = at + _GIB, slot + 1


def _module(base: int, pages: int) -> bytes:
    """Return the headers of a program or a library."""
    sections = (Section(b".text", PAGE, (pages - 5) * PAGE, 0x60000020),
                Section(b".data", (pages - 4) * PAGE, 4 * PAGE, 0xC0000040))  # fmt: skip
    return header(base, pages * PAGE, sections)
