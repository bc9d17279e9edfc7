"""What an image holds, as it was planned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from winimage.contents import PAGE, U64

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from winimage.layouts import Layout
    from winimage.left_ram import Left
    from winimage.userland import Userland, Vad

    #: address, size, physical address, user, writable, executable, state: as walker.py says it
    Item = tuple[int, int, int, bool | None, bool | None, bool | None, str]

_BATCH = 4096
_FLAGS = {0: False, 1: True, -1: None}


@dataclass(frozen=True, eq=False)
class Pages:
    """Mapped pages in columns, sorted by address; a large page is one.

    `user`, `writable` and `executable` are what all levels together allow: 1, 0, or -1 where the processor does not get
    to the page, because it or a table above it is in transition. Pages can lie outside the image.
    """

    address: NDArray[np.uint64]
    physical: NDArray[np.uint64]
    size: NDArray[np.uint64]
    user: NDArray[np.int8]
    writable: NDArray[np.int8]
    executable: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.address)

    @property
    def transition(self) -> NDArray[np.bool_]:
        """Whether a page or a table above it is in transition."""
        return self.user < 0

    @classmethod
    def of(cls, address: ArrayLike, physical: ArrayLike, size: int, allowed: Sequence[bool] | None) -> Pages:
        """Return pages of one size and one kind; `allowed` is user, writable, executable; None: in transition."""
        address = np.atleast_1d(np.asarray(address, U64))
        count = len(address)
        flags = [np.full(count, -1 if allowed is None else allowed[place], np.int8) for place in range(3)]
        return cls(address, np.broadcast_to(np.asarray(physical, U64), count), np.full(count, size, U64), *flags)

    @classmethod
    def joined(cls, parts: Iterable[Pages]) -> Pages:
        """Return the pages of several columns, sorted."""
        columns = [part.columns() for part in (cls.of([], [], PAGE, None), *parts)]
        address, physical, size, *flags = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.argsort(address, kind="stable")
        return cls(address[order], physical[order], size[order], *(column[order] for column in flags))

    def columns(self) -> list[NDArray[Any]]:
        """Return the columns in their order."""
        return [self.address, self.physical, self.size, self.user, self.writable, self.executable]

    def items(self) -> list[Item]:
        """Return the pages one by one, as walker.py returns them."""
        return [
            (
                address, size, physical, _FLAGS[user], _FLAGS[writable], _FLAGS[executable],
                "transition" if user < 0 else "present",
            )
            for address, physical, size, user, writable, executable in zip(
                *(column.tolist() for column in self.columns()), strict=True
            )
        ]  # fmt: skip


class Segment(NamedTuple):
    """A stretch of consecutive addresses whose bytes are in the image."""

    address: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Process:
    """A process as it was planned; `root` is without, `stored_root` with the bits that are no address."""

    pid: int
    ppid: int
    name: bytes
    root: int
    stored_root: int
    user_root: int | None
    create: int
    exit: int
    exit_status: int
    image_base: int
    peb: int
    peb32: int | None
    eprocess: int
    physical: int
    straddles: bool
    listed: bool
    user: Pages = field(repr=False)
    kernel: Pages = field(repr=False)
    selfmap: Pages = field(repr=False)
    #: what the user-mode root maps of the kernel half
    shadow: Pages = field(repr=False)
    #: entries of the user half's page tables that are neither present nor in transition, by kind
    absent: dict[str, int]
    #: bytes that loops of tables claim, which `user` and `kernel` do not have
    claimed: int
    #: what its memory was planned to be, where it was; and of the regions those that the kernel's tree still leads to
    userland: Userland | None = field(default=None, repr=False)
    vads: tuple[Vad, ...] = field(default=(), repr=False)

    @property
    def wow64(self) -> bool:
        """Whether it is a 32-bit process."""
        return self.peb32 is not None

    @property
    def state(self) -> str:
        """``listed``, ``unlinked`` or ``exited``; the last whether listed or not."""
        if self.exit:
            return "exited"
        return "listed" if self.listed else "unlinked"

    def pages(self, half: str = "all") -> Pages:
        """Return the pages of a half (``user``, ``kernel``) or of both; the self-map is part of the kernel half."""
        parts = {"user": [self.user], "kernel": [self.kernel, self.selfmap]}
        return Pages.joined(parts[half] if half in parts else [*parts["user"], *parts["kernel"]])


@dataclass(frozen=True)
class Truth:
    """An image as it was planned."""

    path: str
    size: int
    seed: int
    layout: Layout
    build: int
    kernel_root: int
    kernel_base: int
    kernel_size: int
    list_head: int
    selfmap_slot: int
    #: where the block that processors start with is, physically
    stub: int | None
    #: physical (start, size) to leave out when the image is written into a container that can have holes
    holes: tuple[tuple[int, int], ...]
    #: processes that are listed, but that a damaged list leads to in neither direction
    cut_off: tuple[int, ...]
    processes: tuple[Process, ...]
    #: the page files beside it, by number, and what left memory, by process
    page_files: dict[int, str] = field(default_factory=dict)
    left: dict[int, Left] = field(default_factory=dict, repr=False)
    _frames: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint64]]] = field(default_factory=dict, repr=False)

    def process(self, pid: int) -> Process:
        """Return the process with a number."""
        (found,) = (process for process in self.processes if process.pid == pid)
        return found

    def ranges(self, holes: Sequence[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
        """Return the physical (start, size) that are there without the holes: the image's own, or others."""
        ranges, start = [], 0
        for hole, size in sorted(self.holes if holes is None else holes):
            ranges.append((start, hole - start))
            start = hole + size
        ranges.append((start, self.size - start))
        return [(start, size) for start, size in ranges if size > 0]

    def frames(
        self, pid: int, half: str = "all", holes: Sequence[tuple[int, int]] = ()
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the addresses of a process's 4 KiB pages whose bytes are there, and where; large pages in pieces.

        Holes are physical (start, size) of whole pages that are taken to be missing.
        """
        pages = self.process(pid).pages(half)
        pieces = (pages.size // U64(PAGE)).astype(np.int64)
        inner = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)).astype(U64) * U64(PAGE)
        address, physical = (np.repeat(column, pieces) + inner for column in (pages.address, pages.physical))
        there = physical < U64(self.size)
        for start, size in holes:
            there &= (physical < U64(start)) | (physical >= U64(start + size))
        return address[there], physical[there]

    def segments(self, pid: int, half: str = "all", holes: Sequence[tuple[int, int]] = ()) -> list[Segment]:
        """Return the segments of a process, in order."""
        address, physical = self.frames(pid, half, holes)
        if not len(address):
            return []
        image = np.memmap(self.path, np.uint8, "r").reshape(-1, PAGE)
        # the subtraction wraps; nothing lies in front of the first
        first = np.flatnonzero(np.diff(address, prepend=U64(1)) != U64(PAGE)).tolist()
        found = []
        for begin, end in zip(first, [*first[1:], len(address)], strict=True):
            digest = hashlib.sha256()
            for place in range(begin, end, _BATCH):
                digest.update(image[physical[place : min(place + _BATCH, end)] >> U64(12)])
            found.append(Segment(int(address[begin]), (end - begin) * PAGE, digest.hexdigest()))
        return found

    def content(self, pid: int, address: int, size: int) -> bytes:
        """Return bytes of a process; all of them must be there."""
        if pid not in self._frames:
            self._frames[pid] = self.frames(pid)
        pages, physical = self._frames[pid]
        image = np.memmap(self.path, np.uint8, "r").reshape(-1, PAGE)
        first = address & ~(PAGE - 1)
        wanted = U64(first) + np.arange(-(-(address + size - first) // PAGE), dtype=U64) * U64(PAGE)
        places = np.searchsorted(pages, wanted)
        if not np.array_equal(pages[places], wanted):
            raise ValueError(f"pid {pid}: not all of 0x{size:x} bytes at 0x{address:x} are there")
        data: bytes = image[physical[places] >> U64(12)].tobytes()
        return data[address - first : address - first + size]
