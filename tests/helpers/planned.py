"""What is to be found in an image of a Windows machine, by its plan, and what is found in it."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import containers
import memcarve
from memcarve.permissions import EXECUTE, TRANSITION, USER, WRITE
from memory import PAGE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from winimage import Process, Truth

MIB = 1 << 20
U64 = np.uint64

EPOCH = dt.datetime(1601, 1, 1, tzinfo=dt.UTC)


class Found(NamedTuple):
    """What is to be found of a process."""

    pid: int
    name: str
    parent: int
    created: dt.datetime
    exited: dt.datetime | None
    root: int
    image_base: int | None
    peb: int | None
    wow64: bool
    state: str
    object: int


def shown(name: bytes) -> str:
    """Return a name as it may be shown: what is not plainly visible is escaped."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in name)


def moment(value: int) -> dt.datetime:
    """Return the time of so many steps of 100 ns since 1601."""
    return EPOCH + dt.timedelta(microseconds=value // 10)


def planned(process: Process) -> Found:
    """Return what is to be found of a process."""
    words = ["exited"] * bool(process.exit) + ["unlinked"] * (not process.listed)
    return Found(
        pid=process.pid,
        name=shown(process.name),
        parent=process.ppid,
        created=moment(process.create),
        exited=moment(process.exit) if process.exit else None,
        root=process.root,
        image_base=process.image_base or None,
        peb=process.peb or None,
        wow64=process.wow64,
        state=", ".join(words) or "running",
        object=process.eprocess,
    )


def found(container: memcarve.Container) -> list[Found]:
    """Return what was found of each process."""
    return [
        Found(**{name: getattr(entry, name) for name in Found._fields})  # type: ignore[arg-type]
        for entry in container.processes()
    ]


def in_order(truth: Truth) -> list[Found]:
    """Return all processes in the order of the list; then those that are not in it, by pid."""
    listed = [planned(process) for process in truth.processes if process.listed]
    others = [planned(process) for process in truth.processes if not process.listed]
    return listed + sorted(others, key=lambda one: one.pid)


def assert_all_found(truth: Truth, *, ordered: bool = True) -> list[str]:
    """Hold the processes of an image against its plan; return the notes about it."""
    with memcarve.open(truth.path) as container:
        expected, actual = in_order(truth), found(container)
        if not ordered:
            expected, actual = sorted(expected), sorted(actual)
        assert actual == expected
        return list(container.warnings)


class Columns(NamedTuple):
    """4 KiB pages in order: address, physical address, what the tables allow (or TRANSITION)."""

    address: NDArray[np.uint64]
    physical: NDArray[np.uint64]
    flags: NDArray[np.uint8]


def _spread(start: Any, size: Any, physical: Any, flags: Any) -> Columns:
    pieces = (size // U64(PAGE)).astype(np.int64)
    inner = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)).astype(U64) * U64(PAGE)
    return Columns(np.repeat(start, pieces) + inner, np.repeat(physical, pieces) + inner, np.repeat(flags, pieces))


def planned_pages(truth: Truth, pid: int, half: str = "all", holes: Any = ()) -> Columns:
    """Return the pages of a process that are in the image."""
    pages = truth.process(pid).pages(half)
    allowed = (pages.user > 0) * USER | (pages.writable > 0) * WRITE | (pages.executable > 0) * EXECUTE
    flags = np.where(pages.transition, TRANSITION, allowed).astype(np.uint8)
    columns = _spread(pages.address, pages.size, pages.physical, flags)
    there = columns.physical < U64(truth.size)
    for start, size in holes:
        there &= (columns.physical < U64(start)) | (columns.physical >= U64(start + size))
    return Columns(*(column[there] for column in columns))


def found_pages(process: memcarve.ProcessMemory) -> Columns:
    """Return the pages that were found."""
    space = process.space
    assert space.physical is not None
    assert space.flags is not None
    return _spread(space.start, space.size, space.physical, space.flags)


def segments_of(process: memcarve.ProcessMemory, half: str) -> list[tuple[int, int, str]]:
    """Return the segments with the hashes of their bytes."""
    rows = []
    for segment in process.segments(memcarve.Selection(half)):
        digest = hashlib.sha256()
        for address in range(segment.start, segment.end, MIB):
            digest.update(process.space.read(address, min(MIB, segment.end - address)))
        rows.append((segment.start, segment.size, digest.hexdigest()))
    return rows


class changed:  # noqa: N801 - used like a function
    """Write bytes at a kernel address of an image, and put back what was there."""

    def __init__(self, path: Path, truth: Truth, address: int, data: bytes) -> None:
        pages, physical = truth.frames(4, "kernel")
        self.image = np.memmap(path, np.uint8, "r+")
        self.places = [
            int(physical[np.searchsorted(pages, U64(at & ~(PAGE - 1)))]) + at % PAGE
            for at in range(address, address + len(data))
        ]
        self.data = np.frombuffer(data, np.uint8)

    def __enter__(self) -> None:
        self.before = self.image[self.places].copy()
        self.image[self.places] = self.data

    def __exit__(self, *_: object) -> None:
        self.image[self.places] = self.before


def tables_below(words: NDArray[np.uint64], root: int, level: int = 3) -> set[int]:
    """Return the frames of all tables below a root, itself too."""
    frames = {root >> 12}
    if level:
        for entry in words[root >> 12][words[root >> 12] & U64(1) != 0].tolist():
            frame = entry >> 12 & (1 << 40) - 1
            if frame < len(words) and not (level < 3 and entry & 0x80) and frame not in frames:
                frames |= tables_below(words, frame << 12, level - 1)
    return frames


def needed_frames(truth: Truth, *pids: int) -> NDArray[np.uint64]:
    """Return the frames that the kernel takes, and the tables of processes; sorted."""
    words = np.memmap(truth.path, U64, "r").reshape(-1, 512)
    tables = set().union(*(tables_below(words, truth.process(pid).root) for pid in (4, *pids)))
    return np.union1d(np.array(sorted(tables), U64), truth.frames(4, "kernel")[1] >> U64(12))


def kernel_first(truth: Truth, *pids: int) -> tuple[list[tuple[int, containers.Slice]], int]:
    """Return the ranges of an image, those of `needed_frames` in front, and how many of them these are."""
    needed = np.zeros(truth.size // PAGE, np.bool_)
    needed[needed_frames(truth, *pids).astype(np.int64)] = True
    breaks = np.flatnonzero(np.diff(needed)) + 1
    runs = list(zip([0, *breaks.tolist()], [*breaks.tolist(), len(needed)], strict=True))
    runs.sort(key=lambda run: not needed[run[0]])
    ranges = [(low * PAGE, containers.Slice(truth.path, low * PAGE, (high - low) * PAGE)) for low, high in runs]
    return ranges, sum(bool(needed[low]) for low, _ in runs)
