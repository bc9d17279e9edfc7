"""Page-table roots: which mode they are for, whose they are, and where in memory they lie; and a real machine's."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

import containers
import memcarve
import winimage
from memcarve.formats.images.machine import MachineMemory
from memcarve.images.page_table_roots import address_table, find_roots
from memcarve.images.paging import translate, walk
from memcarve.images.physical import PhysicalMemory
from memory import Memory
from real import CLOCK, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PAGE = 4096
MODES = ("x64", "x64-5", "pae", "x86")
#: bits below the entries of each level, from the root down
SHIFTS = {"x64": (39, 30, 21, 12), "x64-5": (48, 39, 30, 21, 12), "pae": (30, 21, 12), "x86": (22, 12)}
USER, KERNEL = 0x67, 0x63
#: as kernels have it: at a whole word, with the end of a line
BANNER = b"Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14)) #1 SMP\n\0"


class Machine:
    """Physical memory into which one address space is written, page by page; 2 MiB, the root in the second page."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.data = bytearray(2 << 20)
        self.root = 0x1260 if mode == "pae" else 0x1000
        self.free = 2

    def page(self, content: bytes = b"some bytes, no table") -> int:
        """Return the address of a page with this content."""
        self.free += 1
        self.data[(self.free - 1) * PAGE : (self.free - 1) * PAGE + len(content)] = content
        return (self.free - 1) * PAGE

    def map(self, address: int, content: bytes = b"some bytes, no table", bits: int | None = None) -> None:
        """Map a page; what tables it takes are made."""
        upper = address >> 63 or (self.mode in {"pae", "x86"} and address >> 31)
        bits = (KERNEL if upper else USER) if bits is None else bits
        table, width = self.root, 4 if self.mode == "x86" else 8
        count = 1024 if self.mode == "x86" else 512
        for shift in SHIFTS[self.mode][:-1]:
            place = table + (address >> shift) % count * width
            entry = int.from_bytes(self.data[place : place + width], "little")
            if not entry:
                pointer = self.mode == "pae" and shift == 30
                entry = self.page(b"") | (1 if pointer else bits)
                self.data[place : place + width] = entry.to_bytes(width, "little")
            table = entry & ~0xFFF
        place = table + (address >> 12) % count * width
        self.data[place : place + width] = (self.page(content) | bits).to_bytes(width, "little")

    def memory(self) -> PhysicalMemory:
        """Return the physical memory."""
        return memory_of(bytes(self.data))


def memory_of(data: bytes) -> PhysicalMemory:
    """Return physical memory that begins at address 0."""
    columns = (np.array([number], np.uint64) for number in (0, len(data), 0))
    return PhysicalMemory(MachineMemory("test", Memory(data), *columns, [], declared=False))


def shared_data(major: int, minor: int, build: int) -> bytes:
    """Return the page that a Windows kernel shares with its processes."""
    page = bytearray(PAGE)
    page[0x30:0x44] = "C:\\Windows".encode("utf-16-le")
    struct.pack_into("<I", page, 0x260, build)
    struct.pack_into("<II", page, 0x26C, major, minor)
    return bytes(page)


def machine(mode: str, kernel: Sequence[int] | None = None, user: Sequence[int] | None = None) -> Machine:
    """Return a machine with some pages in both halves, as systems have them."""
    made, wide = Machine(mode), mode.startswith("x64")
    low = [0x10000, 0x11000, 0x400000, 0x401000, 0x7FFE0000, *((0x7FF712340000, 0x7FFA00001000) if wide else ())]
    # of 32-bit ones, many neighbouring entries of the root
    high = (
        [0xFFFF888000001000, 0xFFFFF80012345000, 0xFFFFFFFF81000000] if wide else range(0x80001000, 0x88000000, 4 << 20)
    )
    for address in [*(low if user is None else user), *(high if kernel is None else kernel)]:
        made.map(address)
    return made


@pytest.mark.parametrize("mode", MODES)
def test_mode(mode: str) -> None:
    """The mode is recognised from the tables alone, and without a system present pages are all that counts."""
    made = machine(mode)
    table, words = address_table(made.memory(), made.root, None, None)
    assert (table.mode.name, table.root, table.system) == (mode, made.root, "none")
    assert "--os" in words


@pytest.mark.parametrize("mode", MODES)
def test_kernel_without_user_half(mode: str) -> None:
    """The mode is recognised where nothing is mapped in the user half, as in the root of a kernel's own process."""
    made = machine(mode, user=[])
    assert address_table(made.memory(), made.root, None, None)[0].mode.name == mode


@pytest.mark.parametrize("mode", MODES)
def test_user_half_alone(mode: str) -> None:
    """The mode is recognised where the kernel's half is all but empty, as in a root for user mode."""
    made = machine(mode, kernel=[0xFFFFFFFF81000000 if mode.startswith("x64") else 0xFFDFE000])
    if mode == "x86":
        for address in range(0x1000000, 0x2000000, 4 << 20):
            made.map(address)
    assert address_table(made.memory(), made.root, None, None)[0].mode.name == mode


def test_few_entries_of_32_bits() -> None:
    """A 32-bit root whose entries are few and far between is no 64-bit one, though some look like half of such."""
    kernel = [0x80001000, 0x80400000, 0x80801000, 0xC0801000, 0xFFDFE000]
    made = machine("x86", kernel=kernel, user=[0x10000, 0x400000, 0x77001000])
    assert address_table(made.memory(), made.root, None, None)[0].mode.name == "x86"


@pytest.mark.parametrize(("mode", "flags"), [
    ("x64", 0x18), ("x64", 0x002), ("x64", 0x7E1), ("x64", 0xFFF), ("x64", 1 << 63 | 3), ("x64-5", 0x801),
    ("pae", 0x18), ("pae", 0x1F), ("x86", 0x18),
])  # fmt: skip
def test_low_bits_of_a_root(mode: str, flags: int) -> None:
    """Flags of CR3, the number of the address space and the bit that keeps translations are no part of a root."""
    made = machine(mode)
    table, _ = address_table(made.memory(), made.root | flags, None, None)
    assert (table.mode.name, table.root) == (mode, made.root)
    given, _ = address_table(made.memory(), made.root | flags, mode, "none")
    assert given == table


@pytest.mark.parametrize("accessed", [0, 0x20], ids=["as on hardware", "as in QEMU's emulation"])
@pytest.mark.parametrize("root", [0x1000, 0x1020, 0x1FE0])
def test_roots_of_pae(root: int, accessed: int) -> None:
    """Four entries with bit 5 set or clear are a root of PAE, at every 32 bytes of a page, and it is found there."""
    made = Machine("pae")
    made.root = root
    for address in (0x10000, 0x40000000, 0x80001000, 0xC0801000, 0xFFDFE000):
        made.map(address)
    own = struct.unpack_from("<4Q", made.data, root)
    struct.pack_into("<4Q", made.data, root, *(entry | accessed for entry in own))
    # as Windows has it: its last directory begins with entries for all four
    struct.pack_into("<4Q", made.data, own[3] & ~0xFFF, *((entry & ~0xFFF) | KERNEL for entry in own))
    table, _ = address_table(made.memory(), root, None, "none")
    assert (table.mode.name, table.root) == ("pae", root)
    (found,) = find_roots(made.memory())
    assert (found.root, found.mode, found.self_map) == (root, "pae", None)
    # of 5 pages, 3 lie in the kernel's half, and there are the four directories and the tables below them
    assert (found.user_bytes, found.kernel_bytes) == (2 * PAGE, (3 + 5 + 4) * PAGE)


@pytest.mark.parametrize("spoilt", [{0: 0x7FFF0001}, {1: 0}, {1: 0x5001, 2: 0x5001}, {2: 0x6009}])
def test_roots_within_a_page_are_of_pae(spoilt: dict[int, int]) -> None:
    """A root at a multiple of 32 within a page is of PAE, also if directories lie outside the image or are the same."""
    made = machine("pae")
    for index, value in spoilt.items():
        struct.pack_into("<Q", made.data, made.root + 8 * index, value)
    assert address_table(made.memory(), made.root, None, None)[0].mode.name == "pae"
    assert address_table(memory_of(bytes(PAGE)), 0x1260, None, None)[0].mode.name == "pae"


@pytest.mark.parametrize("mode", ["x64", "x64-5"])
@pytest.mark.parametrize("number", [0x20, 0x40, 0x808, 0xFE0])
def test_numbers_that_look_like_roots_within_a_page(mode: str, number: int) -> None:
    """Of a root of whole pages the number of the address space may be a multiple of 32."""
    made = machine(mode)
    table, _ = address_table(made.memory(), made.root | number, None, None)
    assert (table.mode.name, table.root) == (mode, made.root)


@pytest.mark.parametrize("mode", MODES)
def test_root_without_its_last_byte(mode: str) -> None:
    """A root is recognised, and found, without the last byte of its page, as AVML leaves it out; as is its system."""
    made = machine(mode)
    made.map(0xFFFFF78000000000 if mode.startswith("x64") else 0xFFDF0000, shared_data(10, 0, 19041))
    table, words = address_table(made.memory(), made.root, None, None)
    assert address_table(lacking(bytes(made.data), table_place(made)), made.root, None, None) == (table, words)
    found, said = address_table(lacking(bytes(made.data), 0x1FFF), made.root, None, None)
    assert (found.root, found.mode) == (table.root, table.mode)
    if mode in {"x64", "pae"}:  # with others the last entry of the root leads to what tells the system
        assert (found, said) == (table, words)
    if mode == "x64":
        assert made.root in {root.root for root in find_roots(lacking(bytes(made.data), 0x1FFF))}


def table_place(made: Machine) -> int:
    """Return where the last byte of the page lies that the system shares with processes."""
    return made.data.index("C:\\Windows".encode("utf-16-le")) // PAGE * PAGE + 0xFFF


def lacking(data: bytes, lost: int) -> PhysicalMemory:
    """Return physical memory without one byte."""
    rows = np.array([(0, lost, 0), (lost + 1, len(data) - lost - 1, lost + 1)], np.uint64)
    columns = (rows[:, number].copy() for number in range(3))
    return PhysicalMemory(MachineMemory("test", Memory(data), *columns, [], declared=False))


@pytest.mark.parametrize(
    ("version", "said"),
    [((6, 0, 0), "6.0"), ((6, 1, 0), "6.1"), ((6, 3, 0), "6.3"), ((10, 0, 19041), "10.0.19041")],
)
@pytest.mark.parametrize("mode", MODES)
def test_windows(mode: str, version: tuple[int, int, int], said: str) -> None:
    """Windows is recognised by the data it shares with processes, where the kernel's half has it, with its version."""
    made = machine(mode)
    made.map(0xFFFFF78000000000 if mode.startswith("x64") else 0xFFDF0000, shared_data(*version))
    table, words = address_table(made.memory(), made.root, None, None)
    assert (table.mode.name, table.system, words) == (mode, "windows", f"Windows {said}")
    assert table.kernel_half == (1 << 63 if mode.startswith("x64") else 1 << 31)


@pytest.mark.parametrize("mode", ["pae", "x86"])
@pytest.mark.parametrize("version", [(5, 1, 0), (5, 2, 0)])
def test_older_windows(mode: str, version: tuple[int, int, int]) -> None:
    """Of the 32-bit ones, Windows XP and Server 2003 are recognised, too."""
    made = machine(mode)
    made.map(0xFFDF0000, shared_data(*version))
    assert address_table(made.memory(), made.root, None, None)[0].system == "windows"


@pytest.mark.parametrize("mode", MODES)
def test_linux(mode: str) -> None:
    """Linux is recognised by its banner, wherever in memory; Wine's page of shared data makes no Windows of it."""
    made = machine(mode, user=[0x10000])
    made.map(0x7FFE0000, shared_data(10, 0, 19043))
    made.page(b"\0" * 76 + BANNER)
    table, words = address_table(made.memory(), made.root, None, None)
    assert (table.mode.name, table.system) == (mode, "linux")
    assert "6.1.0-56-cloud-amd64" in words
    assert table.kernel_half == (1 << 63 if mode.startswith("x64") else 0xC0000000)


def test_wine_without_a_banner() -> None:
    """The page of shared data in the user half alone says nothing of the system."""
    for mode in MODES:
        made = machine(mode, user=[0x10000])
        made.map(0x7FFE0000, shared_data(10, 0, 19043))
        assert address_table(made.memory(), made.root, None, None)[0].system == "none"


def test_words_about_linux() -> None:
    """A text that begins like a banner and is none does not make a Linux; on Windows, neither does a banner."""
    made = machine("x64")
    made.page(b"Linux version %s (%s)\n")
    made.page(b"Linux version 6 is out (see below)")
    assert address_table(made.memory(), made.root, None, None)[0].system == "none"
    made.page(BANNER)
    made.map(0xFFFFF78000000000, shared_data(10, 0, 19041))
    assert address_table(made.memory(), made.root, None, None)[0].system == "windows"


@pytest.mark.parametrize("mode", MODES)
def test_what_is_said_counts(mode: str) -> None:
    """A mode and a system that are given are taken, whatever lies in memory, even outside the image."""
    memory = memory_of(bytes(PAGE))
    table, words = address_table(memory, 1 << 40, mode, "linux")
    assert (table.root, table.mode.name, table.system, words) == (1 << 40, mode, "linux", "linux, as given")


# images of Windows


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> winimage.Truth:
    """Return an image whose processes have a second root each, for user mode."""
    return winimage.build(tmp_path_factory.mktemp("roots") / "mem.raw", kpti=True)


@pytest.fixture(scope="module")
def memory(truth: winimage.Truth) -> PhysicalMemory:
    """Return its memory."""
    with open(truth.path, "rb") as file:
        return memory_of(file.read())


def test_roots_of_windows(truth: winimage.Truth, memory: PhysicalMemory) -> None:
    """Every root, of a process and for user mode, as the process has it stored, is one of Windows x64."""
    for process in truth.processes:
        for stored in (process.stored_root, process.user_root):
            if stored is not None and not process.exit:
                table, words = address_table(memory, stored, None, None)
                assert (table.mode.name, table.system) == ("x64", "windows")
                assert str(truth.build) in words
                assert table.root == stored & ~0xFFF


def test_user_root_on_a_machine_with_linux_inside(truth: winimage.Truth) -> None:
    """A root for user mode is one of Windows, also where the banner of a Linux that runs on it lies in memory."""
    with open(truth.path, "rb") as file:
        data = bytearray(file.read())
    assert not any(data[8 * PAGE : 9 * PAGE])
    data[8 * PAGE : 8 * PAGE + len(BANNER)] = BANNER
    root = truth.process(1624).user_root
    assert root is not None
    assert address_table(memory_of(bytes(data)), root, None, None)[0].system == "windows"


def test_every_root_is_found(truth: winimage.Truth, memory: PhysicalMemory) -> None:
    """Every root is found, with its entry for itself, and few pages else; those of no user memory come last."""
    alive = [process for process in truth.processes if not process.exit]
    roots = {process.root for process in alive} | {process.user_root for process in alive if process.user_root}
    found = {root.root: root for root in find_roots(memory)}
    assert list(found) == sorted(found, key=lambda root: (found[root].user_bytes == 0, root))
    assert {hex(root) for root in roots - found.keys()} == set()
    assert len(found.keys() - roots) <= 3
    for process in alive:
        assert found[process.root].self_map == truth.selfmap_slot
        if process.user_root:
            assert found[process.user_root].self_map is None


def test_sizes_of_roots(truth: winimage.Truth, memory: PhysicalMemory) -> None:
    """Roots come with the present bytes that each half is said to map."""
    found = {root.root: root for root in find_roots(memory)}
    for pid in (4, 388, 2036):
        process = truth.process(pid)
        for half, size in (("user", found[process.root].user_bytes), ("kernel", found[process.root].kernel_bytes)):
            pages = process.pages(half)
            assert size == int(pages.size[~pages.transition].sum())


def test_nothing_is_found_in_noise() -> None:
    """Random bytes, zeros and text hold no roots."""
    noise = np.random.default_rng(1).bytes(4 << 20)
    for data in (noise, bytes(1 << 20), b"page tables " * 100_000, b"\x67" * (1 << 20)):
        assert find_roots(memory_of(data[: len(data) // PAGE * PAGE])) == []


def test_tables_made_to_look_like_roots() -> None:
    """Where every page looks like a root and leads to all others, each is read a few times, and none is a root."""
    pages = 64
    frames = np.random.default_rng(1).integers(0, pages, (pages, 512)).astype(np.uint64)
    memory = memory_of((frames << np.uint64(12) | np.uint64(USER)).tobytes())
    reading = Counting(memory.backing.data)  # type: ignore[attr-defined]
    memory.backing = reading
    assert find_roots(memory) == []
    assert reading.bytes < 300 * pages * PAGE


class Counting(Memory):
    """A backing that counts how many bytes are read."""

    bytes = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`."""
        self.bytes += len(buffer)
        super().read_into(offset, buffer)


# a real Linux

ROOTS = {1: 0x2A0A000, 109: 0x2ACA000, 114: 0x2AD0000, 119: 0x18FE000, 127: 0x34C0000}


@pytest.fixture(scope="module")
def seen() -> dict[int, tuple[int, int]]:
    """Return what the guest saw of pid 114: frame number and CRC-32 of each resident page by its address."""
    rows = (line.split() for line in needed("114.pages").read_text().splitlines())
    return {int(row[0], 16): (int(row[1], 16), int(row[2], 16)) for row in rows if not {"err", "swap"} & set(row)}


def test_roots_of_a_real_machine(linux_image: Path) -> None:
    """The roots of a real machine's processes are among those found, each with its user half."""
    with memcarve.open(linux_image, input_type="image") as image:
        found = {root.root: root for root in image.roots()}
    assert set(ROOTS.values()) <= found.keys()
    assert all(found[root].user_bytes > 1 << 20 for root in ROOTS.values())


def test_a_real_process(linux_image: Path, seen: dict[int, tuple[int, int]]) -> None:
    """Every page that the guest saw is found in the frame it saw, with the same bytes, but a running clock."""
    assert len(seen) > 3000
    with memcarve.open(linux_image, dtb=ROOTS[114]) as image:
        assert image.process().inputs["image"]["os"] == "linux"
        table, _ = address_table(image.memory, ROOTS[114] | 3, None, None)
        assert (table.system, table.mode.name) == ("linux", "x64")
        space = image.process().space
        different = []
        for address, (frame, crc) in seen.items():
            assert translate(image.memory, table, address) == frame * PAGE
            if zlib.crc32(space.read(address, PAGE)) != crc:
                different.append(address)
        assert different == [CLOCK]
        # and the guest could not read one page of its own, in [vvar]
        pages = walk(image.memory, table, 0, 1 << 47).placed
        assert int(pages.size.sum()) == (len(seen) + 1) * PAGE


def segments(path: Path | str) -> list[tuple[int, int, str]]:
    """Return the segments of pid 114 in an image: address, size, SHA-256."""
    with memcarve.open(path, dtb=ROOTS[114]) as image:
        process = image.process()
        assert process.inputs["image"]["os"] == "linux"
        return [
            (segment.start, segment.size, hashlib.sha256(process.space.read(segment.start, segment.size)).hexdigest())
            for segment in process.segments()
        ]


@pytest.mark.parametrize(
    "write", [containers.write_lime, containers.write_avml, containers.write_elf_core], ids=["LiME", "AVML", "ELF"]
)
def test_same_segments_in_containers(linux_image: Path, tmp_path: Path, write: Callable[..., str]) -> None:
    """A real machine's memory gives the same segments with the same bytes in every container."""
    size = linux_image.stat().st_size
    parts = [(0, 0xA0000), (0x100000, size // 2), (size // 2 + 0x100000, size - size // 2 - 0x100000)]
    ranges = [(start, containers.Slice(linux_image, start, length)) for start, length in parts]
    path = write(tmp_path / "mem", ranges)
    try:
        found = segments(path)
    finally:
        (tmp_path / "mem").unlink()
    assert found == segments(linux_image)
    assert len(found) > 100


@pytest.mark.parametrize("begin", [0x40000000, 0x80000000, 0xB0000000, 0xC0000000])
def test_kernel_of_32_bits_begins_elsewhere(begin: int) -> None:
    """A 32-bit Linux whose kernel does not begin at 3 GiB is told by where all low memory is mapped."""
    data = bytearray(32 << 20)
    root, directory = 0x1000, 0x2000
    data[root + (begin >> 30) * 8 : root + (begin >> 30) * 8 + 8] = (directory | 1).to_bytes(8, "little")
    for number in range(16):  # pages of 2 MiB
        place = directory + ((begin >> 21) + number) % 512 * 8
        data[place : place + 8] = (number << 21 | 0xE3).to_bytes(8, "little")
    table, _ = address_table(memory_of(bytes(data)), root, "pae", "linux")
    assert table.kernel_half == begin
    assert address_table(memory_of(bytes(data)), root, "pae", "windows")[0].kernel_half == 0x80000000
