"""Machines as MemProcFS reads them, which shares nothing with memcarve: the same processes, regions, modules, pages.

Three ways: how a machine was planned, what memcarve says of it, what MemProcFS says. The first two are the same; where
MemProcFS says something else, it is said here what and why, and held to be exactly that.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import containers
import hibernation
import memcarve
import walker
import winimage
from memcarve.process import Selection
from memprocfs_runs import run, skip_without
from sweeps import LONG, some
from winimage import Plan, userland

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from memcarve.metadata import Metadata, Region
    from memcarve.process import Container, ProcessEntry
    from winimage import Process, Truth

    Ranges = Sequence[tuple[int, containers.Slice]]

PAGE = 4096
USER_END = 1 << 47
SYSTEM = 4

#: beside the usual processes, which have no regions, some of which everything is planned
MACHINE = (
    *winimage.PLANS,
    Plan(5000, b"program.exe", 388, memory=(), userland=userland.usual(5000)),
    # MemProcFS takes the 32-bit PEB to be in the page behind the other one, where it is on real machines
    Plan(5004, b"narrow.exe", 5000, memory=(), wow64=True, userland=userland.wow64(5004)._replace(peb=0x2EF000)),
    Plan(5008, b"plain.exe", 388, memory=(), userland=userland.plain(5008)),
)
#: layouts that MemProcFS cannot read without symbols, and why
UNREADABLE = dict.fromkeys(
    (11, 12, 14, 24),
    "of 6000, 6001, 9200 and 28000 the plan has a neighbouring kernel's VADs, and MemProcFS knows those of the build",
)
#: what makes containers of ranges and the kernel's root
WRITERS: dict[str, Callable[[Ranges, int], Iterable[bytes]]] = {
    "LiME": lambda ranges, _root: containers.lime_parts(ranges),
    "ELF core": lambda ranges, root: containers.elf_core_parts(ranges, root=root),
    "crash dump": lambda ranges, root: containers.crash_dump_parts(ranges, root=root),
    # of a Windows for each layout, in turn; it does not read the last run of pages if it ends with the highest one
    **{
        f"hiberfil.sys {build}": lambda ranges, root, build=build: hibernation.eight_parts(
            ranges, root=root, build=build, methods=hibernation.USUAL, slack=1, quick=True
        )
        for build in hibernation.HEADERS
    },
}
#: every container of every layout; without the long sweep each layout in one container
CONTAINED = [
    (layout, container)
    for number, container in enumerate(WRITERS)
    for layout in range(winimage.LAYOUTS)
    if LONG or layout % len(WRITERS) == number
]

#: letters for the protections of winnt.h, as MemProcFS has them: r, w, x; c is a copy on write
LETTERS = {
    "NOACCESS": "----",
    "READONLY": "r---",
    "EXECUTE": "--x-",
    "EXECUTE_READ": "r-x-",
    "READWRITE": "rw--",
    "WRITECOPY": "-w-c",
    "EXECUTE_READWRITE": "rwx-",
    "EXECUTE_WRITECOPY": "-wxc",
}
MODIFIERS = {"": "-", "NOCACHE": "n", "GUARD": "g", "WRITECOMBINE": "m"}


class Machine(NamedTuple):
    """A machine three ways: `image` is the file that was read, `holes` what it lacks of the plan's memory.

    `filled`: MemProcFS takes what such a file lacks for zeros.
    """

    truth: Truth
    image: str
    ours: Container
    theirs: dict[int, dict[str, Any]]
    holes: tuple[tuple[int, int], ...] = ()
    filled: bool = False


def digest(data: bytes) -> str:
    """Return the digest of a page."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


ZEROS = digest(bytes(PAGE))


@pytest.fixture(scope="module", autouse=True)
def memprocfs() -> Iterator[None]:
    """Skip where MemProcFS cannot be imported; it never is here."""
    skip_without()
    yield
    assert "memprocfs" not in sys.modules


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where images go, each over the one before: they are large."""
    return tmp_path_factory.mktemp("machines")


def half(process: Process) -> str:
    """Return which half of a process is looked at: all of System, which has the kernel's, of others the user half."""
    return "all" if process.pid == SYSTEM else "user"


def read(place: Path, layout: int, container: str | None = None, **options: Any) -> Machine:
    """Write a machine, and have memcarve and MemProcFS read it; a container leaves out what the plan says."""
    truth = winimage.build(
        place / "mem.raw",
        layout=layout,
        megabytes=48,
        seed=layout,
        processes=MACHINE,
        stub=True,
        realistic=True,
        **options,
    )
    image, holes = truth.path, truth.holes if container else ()
    filled = container is not None and container.startswith("hiberfil.sys")
    if container:
        ranges = [(start, containers.Slice(truth.path, start, size)) for start, size in truth.ranges()]
        name = "hiberfil.sys" if filled else "mem.container"
        image = containers.write(place / name, WRITERS[container](ranges, truth.kernel_root))
    wanted = {
        process.pid: [(address, 1) for address in truth.frames(process.pid, half(process))[0].tolist()]
        for process in truth.processes
    }
    told = json.loads(run(image, stdin=json.dumps(wanted)))
    return Machine(truth, image, memcarve.open(image), {one["pid"]: one for one in told}, holes, filled)


# what is held against what


def printed(name: bytes) -> str:
    """Return a process's name as MemProcFS has it: what no file's name may have is an underscore."""
    return "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"*/:<>?\\|' else "_" for byte in name)


def assert_same_processes(machine: Machine, entries: dict[int | None, ProcessEntry]) -> None:
    """Hold the lists of processes against each other: MemProcFS lists none that exited, was unlinked or has no name."""
    planned = {process.pid: process for process in machine.truth.processes}
    assert entries.keys() == planned.keys()
    assert machine.theirs.keys() == {
        pid for pid, process in planned.items() if process.state == "listed" and process.name
    }
    for pid, theirs in machine.theirs.items():
        process, entry = planned[pid], entries[pid]
        expected = (process.ppid, process.root, process.eprocess, process.peb, process.wow64)
        assert tuple(theirs[name] for name in ("ppid", "dtb", "eprocess", "peb", "wow64")) == expected
        assert (entry.parent, entry.root, entry.object, entry.peb or 0, entry.wow64) == expected
        assert (theirs["name"], theirs["state"]) == (printed(process.name), 0)


def assert_same_regions(machine: Machine, pid: int, metadata: Metadata) -> None:
    """Hold the regions of a process against each other."""
    (regions,) = metadata.regions
    planned = sorted(machine.truth.process(pid).vads)
    assert [(row.start, row.end, row.tag) for row in regions] == [(vad.start, vad.end, vad.tag) for vad in planned]
    assert [tuple(row) for row in machine.theirs[pid]["vads"]] == [
        (row.start, row.end, protected(row), kind(row)) for row in regions
    ]


def protected(region: Region) -> str:
    """Return what MemProcFS has to say of a region's protection: p is private, then the modifier, then the letters."""
    assert region.protection is not None
    word, _, modifier = region.protection.removeprefix("PAGE_").partition("|PAGE_")
    return ("p" if region.private else "-") + MODIFIERS[modifier] + LETTERS[word]


def kind(region: Region) -> str:
    """Return what MemProcFS has to say of a region's kind.

    It reads a subsection behind every VAD, also the short and the private ones, which have none. In these images
    one stands there that leads to a file.
    """
    if region.kind == "image":
        return "Image"
    trapped = region.private or region.tag in {"VadS", "VadF"}
    return "File" if trapped or region.file is not None else "Pf"


def assert_same_modules(machine: Machine, pid: int, metadata: Metadata) -> None:
    """Hold the modules of a process against each other.

    MemProcFS has one list of them, in which that of 32 bits comes first; the other side's ntdll.dll has another name
    there, and the sizes of that side have rubbish above their 32 bits. It adds images that are in no list, where they
    have code in memory, without their names.
    """
    process = machine.truth.process(pid)
    expected: dict[int, tuple[int | None, str | None, str | None, bool]] = {}
    # that of 32 bits comes first
    for source, rows in sorted(metadata.modules):
        for module in rows:
            narrow = source == "32-bit PEB"
            other = process.wow64 and not narrow and module.name == "ntdll.dll"
            name = "_64-ntdll.dll" if other else module.name
            expected.setdefault(module.start, (module.size, name, module.path, narrow))
    plan = process.userland
    listed = {} if plan is None else {module.base: module for module in (*plan.modules, *plan.modules32)}
    assert expected.keys() == listed.keys()
    there = machine.truth.frames(pid, "user")[0]
    for row in metadata.regions[0]:
        if row.kind == "image" and row.start not in listed and np.isin(row.start, there):
            name = f"0x{row.start:x}.dll"
            expected[row.start] = (row.size, f"_NOTLINKED-{name}", name, False)
    assert {
        base: (size & 0xFFFFFFFF, name, path, narrow)
        for base, size, name, path, narrow in machine.theirs[pid]["modules"]
    } == expected


def assert_same_starts(machine: Machine, pid: int, metadata: Metadata) -> None:
    """Hold against each other what processes were started with, and which modules they unloaded.

    MemProcFS tells no text with half a character in it, has the first 31 letters of a name, reads 6,144 bytes of the
    list, in the list's own order, and of a 32-bit program has that side's list alone.
    """
    theirs, process = machine.theirs[pid], machine.truth.process(pid)
    (ours, *_) = metadata.parameters or (None,)
    assert (ours is not None) == (process.userland is not None)
    for name, text in (
        ("cmdline", ours and ours.command_line),
        ("pathuser", ours and ours.image_path),
    ):
        assert theirs[name] == (None if text and "\ud800" in text else text), name
    source, size = ("32-bit ntdll", 92) if process.wow64 else ("ntdll", 104)
    rows = [row for one in metadata.unloaded if one.source == source for row in one.rows]
    assert bool(rows) == (process.userland is not None)
    rows.sort(key=lambda row: (row.sequence or 0) % 64)
    seen = []
    for row in rows[: 6144 // size]:
        name = "" if "\ud800" in (row.name or "") else (row.name or "")[:31]
        seen.append([row.start, row.size, name, row.timestamp, row.checksum, process.wow64])
    assert theirs["unloaded"] == seen


class Differing(NamedTuple):
    """Pages that MemProcFS has otherwise, and why: those it has as zeros, those it does not have."""

    zeros: set[int]
    lost: set[int]


def differing(machine: Machine, process: Process) -> Differing:
    """Return what of a process MemProcFS is to have otherwise, from the entries of its page tables.

    Entries of demand zero are zeros to it, which is what the program would see. Of the masks in entries in transition
    it takes off bit 45 alone; it goes through no table that is in transition; and a user half has for it only what user
    mode may reach.
    """
    image = np.memmap(machine.truth.path, np.uint8, "r")
    top = machine.truth.size

    def physical(address: int, size: int) -> bytes | None:
        return image[address : address + size].tobytes() if address + size <= top else None

    zeros, lost = set(), set()
    for entry in walker.entries(physical, process.root, "x86-64", "windows", top=top - 1):
        upper = bool(entry.address >> 47)
        if upper and process.pid != SYSTEM:
            break
        base = entry.address | (-1 << 48 & (1 << 64) - 1 if upper else 0)
        addresses = range(base, base + entry.size, PAGE)
        reached = not entry.moving and (upper or entry.above[0])
        if entry.value & 1:
            if not reached or not (upper or entry.value & 4):
                lost |= {*addresses}
            elif machine.filled and entry.value & (1 << 52) - PAGE == top:  # the highest page is said to be this one
                zeros |= {base}
        elif entry.value >> 10 & 3 == 2:
            if not reached or entry.value >> 46 & 3:
                lost |= {*addresses}
        elif reached and entry.value and not entry.value >> 32 and not entry.value >> 10 & 1:
            zeros |= {*addresses}
    return Differing(zeros, lost)


def assert_same_pages(machine: Machine, process: Process) -> int:
    """Hold the pages of a process against each other, to every byte; return how many are the same."""
    image = np.memmap(machine.truth.path, np.uint8, "r").reshape(-1, PAGE)
    address, frames = machine.truth.frames(process.pid, half(process), machine.holes)
    planned = {
        page: digest(image[frame >> 12].tobytes())
        for page, frame in zip(address.tolist(), frames.tolist(), strict=True)
    }
    memory, ours = machine.ours.process(process.pid), {}
    segments = memory.segments(Selection(half=half(process)))
    for start, size in zip(segments.start.tolist(), segments.size.tolist(), strict=True):
        data = memory.space.read(start, size)
        ours |= {start + at: digest(data[at : at + PAGE]) for at in range(0, size, PAGE)}
    assert ours == planned
    theirs = {int(page): value for page, value in machine.theirs[process.pid]["pages"].items()}
    zeros, lost = differing(machine, process)
    if machine.filled:
        zeros = zeros | {*machine.truth.frames(process.pid, half(process))[0].tolist()} - {*address.tolist()} - lost
    assert theirs == {page: value for page, value in ours.items() if page not in lost} | dict.fromkeys(zeros, ZEROS)
    return len(theirs) - len(zeros)


def assert_same(machine: Machine) -> None:
    """Hold all that is known of a machine against each other."""
    with machine.ours as ours:
        assert_same_processes(machine, {entry.pid: entry for entry in ours.processes()})
        same = 0
        for pid in machine.theirs:
            process = machine.truth.process(pid)
            metadata = ours.process(pid).metadata
            assert_same_regions(machine, pid, metadata)
            assert_same_modules(machine, pid, metadata)
            assert_same_starts(machine, pid, metadata)
            same += assert_same_pages(machine, process)
        # so that it is no empty machine that is the same
        assert same > 6000


@pytest.mark.parametrize("layout", some(range(winimage.ALL_LAYOUTS), 2))
def test_a_machine_is_the_same(place: Path, layout: int) -> None:
    """In every layout processes, regions, modules and pages of a raw image are those that MemProcFS finds."""
    if layout in UNREADABLE:
        pytest.skip(f"MemProcFS cannot read layout {layout}: {UNREADABLE[layout]}")
    assert_same(read(place, layout))


@pytest.mark.parametrize(
    "options",
    [
        {"kpti": True, "small_pages": True, "build": 19045},
        {"exports": "paged-out", "top_page": True},
        {"damage": "backward"},
    ],
    ids=str,
)
def test_other_kernels_are_the_same(place: Path, options: dict[str, Any]) -> None:
    """Whatever the kernel is like that MemProcFS can find, they are those that it finds."""
    assert_same(read(place, 8, **options))


@pytest.mark.parametrize(("layout", "container"), CONTAINED)
def test_a_container_is_the_same(place: Path, layout: int, container: str) -> None:
    """In containers, out of which physical pages are left, they are those that MemProcFS finds, too."""
    if layout in UNREADABLE:
        pytest.skip(f"MemProcFS cannot read layout {layout}: {UNREADABLE[layout]}")
    machine = read(place, layout, container)
    assert machine.holes
    assert_same(machine)
