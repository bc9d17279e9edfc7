"""Machines whose memory AVML wrote, through the command line: what it left out is missing, and all else is found.

What is expected is what the same machine's raw image gives, or how the image was planned.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

import containers
import memcarve
import winimage
from carved import binaries, manifest
from cli import invoke
from memcarve.images.kernel_half import KernelHalf
from memcarve.images.windows import kernel
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

BLOCK = containers.AVML_BLOCK
FRAME = (1 << 46) - PAGE
PID = 1624
PIDS = [4, 388, 1624, 2036, 2860]


class Machine(NamedTuple):
    """A machine of 64 MiB: `truth` of its first 32, all its `memory`, and a page of zeros in a block of zeros.

    The page is the user's, at `address` of pid 1624. The last block is not zero.
    """

    truth: Truth
    memory: bytes
    address: int

    def table(self, level: int, address: int) -> int:
        """Return the physical address of the table of a level (4 is the root's) through which an address is mapped."""
        table = self.truth.process(PID).root
        for shift in range(39, 12 + 9 * (level - 1), -9):
            table = self.number(table + 8 * (address >> shift & 511)) & FRAME
        return table

    def number(self, at: int) -> int:
        """Return the eight bytes at a physical address."""
        return int(struct.unpack_from("<Q", self.memory, at)[0])

    def kernel_place(self, address: int) -> int:
        """Return the physical address of one in the kernel's half."""
        addresses, places = self.truth.frames(4, "kernel")
        (place,) = places[addresses == address // PAGE * PAGE].tolist()
        return int(place) + address % PAGE


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Return the machine."""
    truth = winimage.build(tmp_path_factory.mktemp("avml") / "mem.raw", processes=winimage.USERLAND)
    with open(truth.path, "rb") as file:
        memory = bytearray(file.read())
    assert len(memory) == 2 * BLOCK
    address = 0x1F000FD000
    made = Machine(truth, bytes(memory), address)
    place = made.table(1, address) + 8 * (address >> 12 & 511)
    entry = made.number(place)
    assert entry & 1
    struct.pack_into("<Q", memory, place, entry & ~FRAME | (2 * BLOCK + 0x5000))
    return Machine(truth, bytes(memory) + bytes(2 * BLOCK - PAGE) + b"END!" * 1024, address)


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


@pytest.fixture
def raw(machine: Machine, tmp_path: Path) -> Path:
    """Return the machine's raw image."""
    path = tmp_path / "mem.raw"
    path.write_bytes(machine.memory)
    return path


def lacking(memory: bytes, lost: int, path: Path) -> Path:
    """Write LiME in which one byte lacks between two ranges."""
    path.write_bytes(containers.lime([(0, memory[:lost]), (lost + 1, memory[lost + 1 :])]))
    return path


def pids_of(ran: Ran) -> list[int]:
    """Return the pids that were printed as JSON lines."""
    assert ran.code == 0, ran.err
    return [json.loads(line)["pid"] for line in ran.out.splitlines()]


def rows_of(ran: Ran) -> list[tuple[int, int]]:
    """Return (start, end) of the segments that were printed as JSON lines."""
    return [(int(row["start"], 16), int(row["end"], 16)) for row in (json.loads(line) for line in ran.out.splitlines())]


@pytest.mark.parametrize("kind", ["lime", "avml"])
def test_a_page_in_a_block_that_was_left_out(machine: Machine, go: Invoke, tmp_path: Path, kind: str) -> None:
    """A page of a block that AVML left out is missing, never zeros: exit 3, and a note says what AVML does."""
    write = {"lime": containers.lime_of_avml, "avml": lambda ranges: containers.avml(ranges, skip_zeros=True)}[kind]
    path = tmp_path / f"mem.{kind}"
    path.write_bytes(write([(0, machine.memory)]))
    assert path.stat().st_size < len(machine.memory)
    assert pids_of(go("processes", path, "--format", "jsonl")) == PIDS
    end = machine.address + 3 * PAGE
    words = ("--pid", PID, "--format", "jsonl", "--address")
    ran = go("segments", path, *words, f"0x{machine.address:x}-0x{end:x}")
    assert (ran.code, rows_of(ran)) == (3, [(machine.address + PAGE, end)])
    assert "4096 bytes are mapped, but left out of the image" in ran.err
    assert "AVML leaves out" in ran.err
    assert ("since 2026-05" in ran.err) is (kind == "lime")
    ran = go("read", path, "--pid", PID, f"0x{machine.address:x}", 16)
    assert (ran.code, ran.out) == (1, b"")
    assert "mapped but missing" in ran.err
    ran = go("carve", path, "--pid", PID, "-o", "out")
    assert ran.code == 3
    assert not manifest(tmp_path / "out")["complete"]
    (missing,) = manifest(tmp_path / "out")["missing"]
    assert int(missing["start"], 16) == machine.address
    # who has nothing there, lacks nothing
    ran = go("segments", path, "--pid", 2036, "--format", "jsonl")
    assert (ran.code, "AVML leaves" in ran.err) == (0, False)


def test_the_same_ranges_from_others(machine: Machine, go: Invoke, tmp_path: Path) -> None:
    """LiME of whole ranges tells which memory the machine has: what a process maps outside is a device's, exit 0."""
    path = tmp_path / "mem.lime"
    path.write_bytes(containers.lime([(0, machine.memory[: 2 * BLOCK]), (3 * BLOCK + PAGE, machine.memory[:PAGE])]))
    ran = go("segments", path, "--pid", PID)
    assert ran.code == 0
    assert "4096 bytes are mapped, but outside the image" in ran.err


@pytest.mark.parametrize("half", ["user", "kernel"])
def test_a_page_without_its_last_byte(machine: Machine, go: Invoke, tmp_path: Path, half: str) -> None:
    """Of a page that lacks its last byte the others are there, and that one is missing: exit 3, in either half."""
    address = {"user": machine.address + PAGE, "kernel": machine.truth.kernel_base + 3 * PAGE}[half]
    if half == "user":
        place = machine.number(machine.table(1, address) + 8 * (address >> 12 & 511)) & FRAME
    else:
        place = machine.kernel_place(address)
    path = lacking(machine.memory, place + PAGE - 1, tmp_path / "mem.lime")
    words = ("--pid", PID, "--address", f"0x{address:x}-0x{address + 2 * PAGE:x}", "--range", half)
    ran = go("segments", path, *words, "--format", "jsonl")
    assert ran.code == 3
    (_, end), (start, _) = rows_of(ran)
    assert (end, start) == (address + PAGE - 1, address + PAGE)
    assert "1 byte is mapped, but left out of the image" in ran.err
    for size, code in ((PAGE - 1, 0), (PAGE, 1)):
        ran = go("read", path, "--pid", PID, f"0x{address:x}", size)
        assert ran.code == code
        assert ran.out == (b"" if code else machine.memory[place : place + PAGE - 1])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_table_without_its_last_byte(machine: Machine, raw: Path, go: Invoke, tmp_path: Path, level: int) -> None:
    """A page table without its last byte loses no page but that of its last entry, if that is present: then exit 3."""
    table = machine.table(level, machine.address)
    path = lacking(machine.memory, table + PAGE - 1, tmp_path / "mem.lime")
    wanted = go("segments", raw, "--pid", PID, "--format", "csv", "-q").out
    assert pids_of(go("processes", path, "--format", "jsonl")) == PIDS

    def columns(out: bytes) -> list[bytes]:
        # all but where it lies in the file
        return [b",".join(line.split(b",")[:4]) for line in out.splitlines()]

    assert not machine.number(table + PAGE - 8) & 0xFFF
    ran = go("segments", path, "--pid", PID, "--format", "csv")
    assert (ran.code, columns(ran.out)) == (0, columns(wanted))
    memory = bytearray(machine.memory)
    struct.pack_into(
        "<Q", memory, table + PAGE - 8, machine.number(table + 8 * (machine.address >> 3 + 9 * level & 511))
    )
    ran = go(
        "segments", lacking(bytes(memory), table + PAGE - 1, path), "--pid", PID, "--format", "csv", "--range", "all"
    )
    assert ran.code == 3
    # the entry of the root for itself shows tables as those of lower levels, too
    assert re.search("entry of a page table is outside the image|entries of page tables are outside the image", ran.err)
    assert set(columns(wanted)) <= set(columns(ran.out))


PLACES: dict[str, Callable[[Machine], int]] = {
    "the kernel's root": lambda machine: machine.truth.kernel_root,
    "a process's root": lambda machine: machine.truth.process(2036).root,
    "System": lambda machine: machine.truth.process(4).physical,
    "a process": lambda machine: machine.truth.process(2036).physical,
    "a process that has ended": lambda machine: machine.truth.process(2860).physical,
    "the beginning of the kernel": lambda machine: machine.kernel_place(machine.truth.kernel_base),
    "what the kernel shares": lambda machine: machine.kernel_place(0xFFFFF78000000000),
}


@pytest.mark.parametrize("name", PLACES)
def test_structures_on_a_page_without_its_last_byte(machine: Machine, go: Invoke, tmp_path: Path, name: str) -> None:
    """Processes are found if the page that leads to them lacks its last byte, as long as that is not theirs."""
    page = PLACES[name](machine) & ~(PAGE - 1)
    path = lacking(machine.memory, page + PAGE - 1, tmp_path / "mem.lime")
    wanted = go("processes", machine.truth.path, "--format", "csv").out
    assert go("processes", path, "--format", "csv").out == wanted


def test_a_process_that_only_a_search_finds(machine: Machine, go: Invoke, tmp_path: Path) -> None:
    """The search finds a process on a page without its last byte, also where no list and no address leads to it."""
    truth = winimage.build(
        tmp_path / "hidden.raw", processes=[*winimage.USERLAND, winimage.Plan(3272, b"hidden.exe", 388, listed=False)]
    )
    memory = (tmp_path / "hidden.raw").read_bytes()
    hidden = Machine(truth, memory, machine.address)
    page = hidden.truth.process(3272).physical & ~(PAGE - 1)
    path = lacking(memory, page + PAGE - 1, tmp_path / "mem.lime")
    assert pids_of(go("processes", path, "--format", "jsonl")) == [*PIDS, 3272]
    # and one that is split between two ranges
    middle = page + 0x808
    path.write_bytes(containers.lime([(middle, memory[middle:]), (0, memory[:middle])]))
    assert pids_of(go("processes", path, "--format", "jsonl")) == [*PIDS, 3272]


def test_images_in_extents_that_begin_within_a_page(machine: Machine, tmp_path: Path) -> None:
    """The kernel's image is found where its extents begin and end within pages, because ranges do."""
    place = machine.kernel_place(machine.truth.kernel_base)
    cuts = [0, place - 0x777, place + 0x123, place + PAGE + 9, len(machine.memory)]
    ranges = [(low, machine.memory[low:high]) for low, high in itertools.pairwise(cuts)]
    (tmp_path / "mem.lime").write_bytes(containers.lime(ranges[::-1]))
    with memcarve.open(tmp_path / "mem.lime") as image:
        found = next(kernel.find_tables(image.memory))
        bases = [
            one.base
            for one in kernel.kernels(KernelHalf(image.memory, found[0]), found[1], {b"PsInitialSystemProcess"})
        ]
    assert machine.truth.kernel_base in bases


# headers with nothing behind them


def written(machine: Machine, kind: str, path: Path) -> Path:
    """Write the machine as AVML did for a year: a block of zeros is a header alone."""
    ranges = [(0, machine.memory)]
    data = containers.lime_of_avml(ranges, zeros="alone") if kind == "lime" else containers.avml(ranges, alone=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["lime", "avml"])
def test_zeros_that_a_header_stands_for(machine: Machine, raw: Path, go: Invoke, tmp_path: Path, kind: str) -> None:
    """Whatever is made of a machine whose zeros are headers alone is what is made of its raw image, byte for byte."""
    path = written(machine, kind, tmp_path / f"mem.{kind}")
    for name in ("processes", "segments"):
        words = () if name == "processes" else ("--pid", PID)
        ran, wanted = go(name, path, *words, "--format", "csv"), go(name, raw, *words, "--format", "csv")
        assert (ran.code, wanted.code) == (0, 0)
        assert "taken for such (16777216 bytes)" in ran.err
        if name == "processes":
            assert ran.out == wanted.out
    for source, out in ((raw, "raw"), (path, kind)):
        for words in (["carve"], ["carve", "--sparse"], ["carve", "--hash", "md5"]):
            folder = f"{words[-1].strip('-')}.{out}"
            ran = go(*words, source, "--pid", PID, "-o", folder)
            assert ran.code == 0, ran.err
            assert go("verify", folder, "--source", source).code == 0
        for to in ("minidump", "elfcore", "memmap"):
            assert go("export", source, "--pid", PID, "--to", to, "-o", f"{to}.{out}").code == 0
        ran = go(
            "export",
            source,
            "--pid",
            PID,
            "--to",
            "flat",
            "--address",
            "0x1f00000000-0x1f00100000",
            "-o",
            f"flat.{out}",
        )
        assert ran.code == 0, ran.err
        assert go("extract", source, "--pid", PID, "-o", f"extract.{out}").code in (0, 3)
    for folder in ("carve", "sparse", "md5"):
        wanted_files = binaries(tmp_path / f"{folder}.raw")
        assert any(bytes(PAGE) in data for data in wanted_files.values())
        assert binaries(tmp_path / f"{folder}.{kind}") == wanted_files
    assert (tmp_path / f"flat.{kind}").read_bytes() == (tmp_path / "flat.raw").read_bytes()
    hashes = [
        [(row["start"], row["md5"]) for row in manifest(tmp_path / f"md5.{out}")["segments"]] for out in ("raw", kind)
    ]
    assert hashes[0] == hashes[1]
    for to in ("minidump", "elfcore"):
        with memcarve.open(tmp_path / f"{to}.{kind}") as ours, memcarve.open(tmp_path / f"{to}.raw") as theirs:
            mine, wanted_space = ours.process().space, theirs.process().space
            rows = [(segment.start, segment.size) for segment in ours.process().segments()]
            assert rows == [(segment.start, segment.size) for segment in theirs.process().segments()]
            assert all(mine.read(*row) == wanted_space.read(*row) for row in rows)
    assert go("read", path, "--pid", PID, f"0x{machine.address:x}", PAGE).out == bytes(PAGE)


def test_scripts_need_a_file_that_holds_it_all(machine: Machine, go: Invoke, tmp_path: Path) -> None:
    """Scripts that map the image are refused if some of its zeros lie nowhere, and the message says why."""
    path = written(machine, "lime", tmp_path / "mem.lime")
    ran = go("export", path, "--pid", PID, "--to", "scripts", "-o", "scripts")
    assert ran.code == 2
    assert "zeros that it does not store" in ran.err


@pytest.mark.parametrize("kind", ["lime", "avml"])
@pytest.mark.parametrize("broken", ["behind", "at the end"])
def test_zeros_of_a_file_that_does_not_hold(
    machine: Machine, go: Invoke, tmp_path: Path, kind: str, broken: str
) -> None:
    """If the file does not hold to its end the page is missing, exit 3; cut off behind a header, only that is."""
    path = written(machine, kind, tmp_path / f"mem.{kind}")
    header = containers.lime_header if kind == "lime" else containers.avml_header
    with open(path, "ab") as file:
        file.write({"behind": bytes(100), "at the end": header(1 << 34, BLOCK)}[broken])
    assert pids_of(go("processes", path, "--format", "jsonl")) == PIDS
    ran = go("segments", path, "--pid", PID)
    assert ran.code == (3 if broken == "behind" else 0)
    assert "the file ends too early: 16777216 bytes" in ran.err
    assert ("4096 bytes are mapped, but the image ends too early" in ran.err) is (broken == "behind")


def test_zeros_cost_nothing(machine: Machine, go: Invoke, tmp_path: Path) -> None:
    """A header that stands for a terabyte of zeros, here around all that is stored, is neither read nor allocated."""
    path = tmp_path / "mem.lime"
    path.write_bytes(containers.lime_header(0, 1 << 40) + containers.lime([(0, machine.memory[: 2 * BLOCK])]))
    assert pids_of(go("processes", path, "--format", "jsonl")) == PIDS
    with memcarve.open(path) as image:
        assert (image.memory.total, image.memory.stored) == (1 << 40, 2 * BLOCK)
    ran = go("processes", path, "--scan", "--format", "jsonl")
    assert ran.code == 0
    # what tables may claim does not grow with it
    assert go("segments", path, "--pid", PID, "--limit", "1M", "--range", "all").code == 1
