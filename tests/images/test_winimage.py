"""The generator of Windows images, held against an obvious walker of page tables; and that walker, by hand."""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

import walker
import winimage
from winimage import kernel, userland
from winimage.tables import FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from winimage import Process, Truth
    from winimage.userland import Userland

PAGE = 4096
FEW = (winimage.Plan(388, b"smss.exe"), winimage.Plan(1624, b"all.exe", 388, winimage.MIXED, winimage.EDGES))


def reader(path: str) -> Callable[[int, int], bytes | None]:
    """Return what reads a raw image as the walker wants it."""
    image = np.memmap(path, np.uint8, "r")

    def read(physical: int, size: int) -> bytes | None:
        return image[physical : physical + size].tobytes() if physical + size <= len(image) else None

    return read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where images go, each over the one before: they are large."""
    return tmp_path_factory.mktemp("images") / "mem.raw"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


def assert_as_planned(truth: Truth, process: Process) -> None:
    """Hold what the walker finds from a process's root against its plan."""
    read = reader(truth.path)
    assert walker.walk(read, process.root, "x86-64", "windows", top=truth.size - 1) == process.pages().items()
    assert walker.absent(read, process.root) == process.absent
    if process.user_root is not None:
        expected = winimage.Pages.joined([process.user, process.shadow]).items()
        assert walker.walk(read, process.user_root, "x86-64", "windows") == expected


# the plan and the image


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_every_page_is_as_planned(place: Path, layout: int) -> None:
    """In every layout an obvious walker finds exactly the planned pages and counts of every process."""
    truth = winimage.build(place, layout=layout, seed=layout)
    assert [process.pid for process in truth.processes] == [4, *(plan.pid for plan in winimage.PLANS)]
    for process in truth.processes:
        assert_as_planned(truth, process)


@pytest.mark.parametrize(
    "options",
    [
        {"kpti": True},
        {"small_pages": True, "top_page": True},
        {"exports": "paged-out", "layout": 0},
        {"exports": "none", "decoy": False, "freed": False, "megabytes": 64},
        {"exports": "no-accessors", "build": 22631, "damage": "both"},
    ],
    ids=str,
)
def test_options_keep_the_plan(place: Path, options: dict[str, object]) -> None:
    """Whatever the kernel is like, the pages are those planned."""
    truth = winimage.build(place, processes=FEW, **options)
    for process in truth.processes:
        assert_as_planned(truth, process)
    top = truth.process(4).kernel.items()[-1][0] == (1 << 64) - PAGE
    assert top is bool(options.get("top_page"))
    assert (truth.process(1624).user_root is not None) is bool(options.get("kpti"))


@pytest.mark.parametrize("edge", winimage.EDGES)
def test_edges_one_by_one(place: Path, edge: str) -> None:
    """Every edge case can be had alone."""
    plan = winimage.Plan(1624, b"edge.exe", edges=(edge,))
    truth = winimage.build(place, processes=[plan])
    assert_as_planned(truth, truth.process(1624))
    assert bool(truth.holes) is (edge == "large-hole")


def test_huge_page(place: Path) -> None:
    """A page of 1 GiB in a smaller image is planned whole, and there as far as the image goes."""
    plan = winimage.Plan(1624, b"huge.exe", memory=(winimage.Huge(), winimage.Run(3)))
    truth = winimage.build(place, processes=[plan])
    assert_as_planned(truth, truth.process(1624))
    (huge,) = (item for item in truth.process(1624).user.items() if item[1] == 1 << 30)
    assert (huge[0], truth.size) in [segment[:2] for segment in truth.segments(1624, "user")]


def test_loop(place: Path) -> None:
    """A loop of tables claims nearly all of the address space, and a limit stops the walker."""
    plan = winimage.Plan(1624, b"loop.exe", edges=(winimage.LOOP,))
    truth = winimage.build(place, processes=[plan])
    assert 1 << 47 < truth.process(1624).claimed < 1 << 48
    with pytest.raises(walker.TooMuchError):
        walker.walk(reader(truth.path), truth.process(1624).root, "x86-64", "windows", limit=10_000)


def test_kinds_of_pages(usual: Truth) -> None:
    """The usual image has every kind of page and entry, and each flag both ways."""
    mixed, edges = usual.process(1624), usual.process(2448)
    assert all(mixed.absent.values())
    assert set(mixed.user.user.tolist()) == {1, -1}
    for pages in (edges.user, mixed.pages()):
        assert set(pages.writable.tolist()) == set(pages.executable.tolist()) == {0, 1, -1}
        assert set(pages.size.tolist()) == {PAGE, 1 << 21}
    assert set(edges.user.user.tolist()) == {0, 1, -1}
    assert int(edges.user.physical.max()) > usual.size


def test_raw_entries(usual: Truth) -> None:
    """Ignored bits, L1TF masks and large pages' attribute bits stand in the tables, as the names promise."""
    read = reader(usual.path)
    leaves = list(walker.entries(read, usual.process(1624).root, "x86-64", "windows"))
    assert any(leaf.value & 1 and leaf.value >> 52 & 0x7F for leaf in leaves)
    moving = [leaf.value for leaf in leaves if leaf.value & 1 == 0 and leaf.value >> 10 & 3 == 2]
    assert {value >> 45 & 7 for value in moving} == {0, 1, 7}
    assert all(not value >> 4 & 1 for value in moving if value >> 45)
    large = [leaf for leaf in walker.entries(read, usual.process(2448).root, "x86-64", "windows") if leaf.size > PAGE]
    assert any(leaf.value >> 12 & 1 for leaf in large)


def test_same_arguments_same_image(place: Path) -> None:
    """An image follows from its arguments, and another seed makes another."""
    digests = []
    for seed in (3, 3, 4):
        winimage.build(place, seed=seed, processes=FEW)
        digests.append(hashlib.sha256(place.read_bytes()).digest())
    assert digests[0] == digests[1] != digests[2]


def test_too_small(place: Path) -> None:
    """An image that cannot hold its processes is refused."""
    with pytest.raises(ValueError, match="image too small"):
        winimage.build(place, megabytes=8)
    with pytest.raises(ValueError, match="no such variant"):
        winimage.build(place, exports="all")


# contents and segments


def test_contents(usual: Truth) -> None:
    """A page's bytes follow from seed, owner and address; what is shared is the same bytes everywhere."""
    heap = [item for item in usual.process(1624).user.items() if item[0] >= 0x10000000000 and item[0] < 0x7FF000000000]
    for address, size, *_ in heap[::50]:
        assert usual.content(1624, address, PAGE) == winimage.page_bytes(usual.seed, 1624, address)
        end = address + size - PAGE
        assert usual.content(1624, end + 8, 16) == winimage.page_bytes(usual.seed, 1624, end)[8:24]
    assert usual.content(1624, 0x7FFE0000, PAGE) == usual.content(388, 0xFFFFF78000000000, PAGE)
    with pytest.raises(ValueError, match="not all"):
        usual.content(1624, 0x1000, 1)


def brute_force(truth: Truth, pid: int, gone: set[int]) -> dict[int, bytes]:
    """Return the segments of a process, page by page."""
    read, found, end = reader(truth.path), {}, None
    start = 0
    for address, size, physical, *_ in truth.process(pid).pages().items():
        for offset in range(0, size, PAGE):
            data = read(physical + offset, PAGE)
            if data is None or physical + offset in gone:
                continue
            if address + offset != end:
                start = address + offset
                found[start] = b""
            found[start] += data
            end = address + offset + PAGE
    return found


@pytest.mark.parametrize("pid", [4, 2448, 2860])
def test_segments(usual: Truth, pid: int) -> None:
    """Segments are what joining page after page gives, with holes and without."""
    for holes in ((), usual.holes):
        gone = {start + offset for start, size in holes for offset in range(0, size, PAGE)}
        expected = [
            (address, len(data), hashlib.sha256(data).hexdigest())
            for address, data in brute_force(usual, pid, gone).items()
        ]
        assert usual.segments(pid, holes=holes) == expected
    assert len(usual.segments(2448)) < len(usual.segments(2448, holes=usual.holes))
    both = usual.segments(pid, "user") + usual.segments(pid, "kernel")
    assert both == usual.segments(pid)


def test_ranges(usual: Truth) -> None:
    """The ranges of an image are all of it but the holes."""
    assert usual.ranges(()) == [(0, usual.size)]
    ranges = usual.ranges()
    assert len(usual.holes) == len(ranges) - 1 == 2
    assert sum(size for _, size in ranges) + sum(size for _, size in usual.holes) == usual.size


# the kernel


def exported(truth: Truth) -> tuple[bytes, dict[bytes, int], list[int]]:
    """Return the name in the kernel's export directory, its exports, and the ordinals in the order of the names."""
    base = truth.kernel_base
    read: Callable[[int, int], bytes] = lambda at, size: truth.content(4, base + at, size)  # noqa: E731
    signature = struct.unpack("<I", read(0x3C, 4))[0]
    assert read(0, 2) == b"MZ"
    assert read(signature, 4) == b"PE\0\0"
    at, size = struct.unpack("<II", read(signature + 24 + 112, 8))
    directory = read(at, size)
    text: Callable[[int], bytes] = lambda place: directory[place - at :].partition(b"\0")[0]  # noqa: E731
    name, _, functions, names, *tables = struct.unpack("<7I", directory[12:40])
    places = struct.unpack(f"<{functions}I", read(tables[0], 4 * functions))
    texts = [text(place) for place in struct.unpack(f"<{names}I", read(tables[1], 4 * names))]
    ordinals = list(struct.unpack(f"<{names}H", read(tables[2], 2 * names)))
    assert texts == sorted(texts)
    return text(name), {text: places[number] for text, number in zip(texts, ordinals, strict=True)}, ordinals


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_exports(place: Path, layout: int) -> None:
    """The kernel's exports lead to System, the build number and accessors that say the layout's offsets."""
    truth = winimage.build(place, layout=layout, processes=FEW[:1])
    name, exports, ordinals = exported(truth)
    assert name == b"ntoskrnl.exe"
    assert ordinals != sorted(ordinals)
    base, fields = truth.kernel_base, truth.layout
    system, build = (
        int.from_bytes(truth.content(4, base + exports[name], size), "little")
        for name, size in ((b"PsInitialSystemProcess", 8), (b"NtBuildNumber", 4))
    )
    assert system == truth.process(4).eprocess
    assert build == 0xF0000000 | truth.build
    long = (b"\x48\x8b\x81", b"\x48\x85\xc0\x74\x03\x48\x8b\x00\xc3")
    short = (b"\x48\x8b\x81", b"\xc3")
    for function, field, (before, after) in (
        (b"PsGetProcessId", fields["UniqueProcessId"], short),
        (b"PsGetProcessImageFileName", fields["ImageFileName"], (b"\x48\x8d\x81", b"\xc3")),
        (b"PsGetProcessPeb", fields["Peb"], short),
        (b"PsGetProcessInheritedFromUniqueProcessId", fields["InheritedFromUniqueProcessId"], short),
        (b"PsGetProcessSectionBaseAddress", fields["SectionBaseAddress"], short),
        (b"PsGetProcessCreateTimeQuadPart", fields["CreateTime"], short),
        (b"PsGetProcessExitStatus", fields.exit_status, (b"\x8b\x81", b"\xc3")),
        (b"PsGetProcessWow64Process", fields.wow64, long if layout >= 3 else short),
    ):
        code = truth.content(4, base + exports[function], 17)
        assert code.startswith(before + struct.pack("<I", field) + after + b"\xcc")


def test_exports_can_be_missing(place: Path) -> None:
    """Without a directory there is none; without accessors their names lead to other code; paged out they are gone."""
    for variant in winimage.EXPORTS[1:]:
        truth = winimage.build(place, processes=FEW[:1], exports=variant)
        head = truth.content(4, truth.kernel_base, PAGE)
        at = struct.unpack_from("<I", head, 0x3C)[0] + 24 + 112
        if variant == "none":
            assert head[at : at + 8] == bytes(8)
            continue
        accessors = {
            name: place for name, place in exported(truth)[1].items() if name in kernel.accessors(truth.layout)
        }
        assert len(accessors) == 8
        if variant == "paged-out":
            with pytest.raises(ValueError, match="not all"):
                truth.content(4, truth.kernel_base + accessors[b"PsGetProcessId"], 8)
        else:
            codes = [truth.content(4, truth.kernel_base + place, 8) for place in accessors.values()]
            assert not any(code[:3] in {b"\x48\x8b\x81", b"\x48\x8d\x81"} or code[:2] == b"\x8b\x81" for code in codes)


@pytest.mark.parametrize(
    ("layout", "build", "numbers"),
    [(0, None, (0, 6, 1)), (1, None, (0, 6, 3)), (8, None, (19041, 10, 0)), (8, 19045, (19045, 10, 0))],
)
def test_shared_data(place: Path, layout: int, build: int | None, numbers: tuple[int, int, int]) -> None:
    """The shared page says version and system root, and the build number since Windows 10."""
    truth = winimage.build(place, layout=layout, build=build, processes=FEW[:1])
    data = truth.content(4, 0xFFFFF78000000000, PAGE)
    assert (struct.unpack_from("<I", data, 0x260) + struct.unpack_from("<II", data, 0x26C)) == numbers
    assert data[0x30:].decode("utf-16-le").partition("\0")[0] == "C:\\Windows"
    read, root = reader(truth.path), truth.kernel_root
    (entry,) = struct.unpack("<Q", read(root + 8 * truth.selfmap_slot, 8) or b"")
    assert entry & FRAME == root
    assert entry & 1


# processes


def link(truth: Truth, address: int, side: int) -> int:
    """Return what a list's entry points to: forward (0) or backward (1)."""
    return int.from_bytes(truth.content(4, address + 8 * side, 8), "little")


def followed(truth: Truth, side: int) -> list[int]:
    """Return the processes that the list leads to, until its head, nowhere, or where it was before."""
    known = {process.eprocess + truth.layout["ActiveProcessLinks"]: process.pid for process in truth.processes}
    found: list[int] = []
    at = link(truth, truth.list_head, side)
    while at in known and known[at] not in found:
        found.append(known[at])
        at = link(truth, at, side)
    return found


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_structures(place: Path, layout: int) -> None:
    """Every process's structure says at the layout's offsets what was planned."""
    truth = winimage.build(place, layout=layout, processes=winimage.PLANS)
    fields, read = truth.layout, reader(truth.path)
    for process in truth.processes:
        data = truth.content(4, process.eprocess, fields["size"])
        assert read(process.physical, 8) == data[:8]
        number = {
            name: int.from_bytes(data[fields[name] :][:8], "little")
            for name in ("UniqueProcessId", "InheritedFromUniqueProcessId", "CreateTime", "ExitTime", "Peb",
                         "SectionBaseAddress", "_KPROCESS.DirectoryTableBase")
        }  # fmt: skip
        assert list(number.values()) == [
            process.pid, process.ppid, process.create, process.exit, process.peb, process.image_base,
            process.stored_root,
        ]  # fmt: skip
        assert number["_KPROCESS.DirectoryTableBase"] & ~0xFFF == process.root
        assert fields["_KPROCESS.DirectoryTableBase"] == 0x28
        assert data[fields["ImageFileName"] :][:15] == process.name.ljust(15, b"\0")
        assert data[0] == 3
        assert data[2] == fields["_KPROCESS.size"] // 4 & 0xFF
        assert int.from_bytes(data[fields.exit_status :][:4], "little") == process.exit_status
        wow64 = int.from_bytes(data[fields.wow64 :][:8], "little")
        if process.wow64 and fields.wow64_structure:
            wow64 = int.from_bytes(truth.content(4, wow64, 4), "little")
        assert wow64 == (process.peb32 or 0)
        if process.peb:
            assert truth.content(process.pid, process.peb + 16, 8) == process.image_base.to_bytes(8, "little")
            assert truth.content(process.pid, process.image_base, 2) == b"MZ"
        assert (read(process.root, PAGE) == bytes(PAGE)) is (process.state == "exited")


def test_structures_lie_across_pages(usual: Truth) -> None:
    """Some structures lie in two pages, which are never neighbours in physical memory; names are cut, too."""
    assert {process.straddles for process in usual.processes} == {True, False}
    name = usual.layout["ImageFileName"]
    assert any(
        (process.eprocess + name) // PAGE != (process.eprocess + name + 14) // PAGE for process in usual.processes
    )
    where = dict(zip(*(column.tolist() for column in usual.frames(4)), strict=True))
    for process in usual.processes:
        first = process.eprocess // PAGE * PAGE
        assert where[first] + process.eprocess % PAGE == process.physical
        assert (process.eprocess + usual.layout["size"] > first + PAGE) is process.straddles
        assert not process.straddles or where[first + PAGE] != where[first] + PAGE


def test_states(usual: Truth) -> None:
    """There are processes that run, that were unlinked, that exited, and one that both befell; one is 32-bit."""
    states = {(process.state, process.listed) for process in usual.processes}
    assert states == {("listed", True), ("unlinked", False), ("exited", True), ("exited", False)}
    assert [process.pid for process in usual.processes if process.wow64] == [2036]


def test_list(usual: Truth) -> None:
    """The list leads to all that are listed, both ways; what is unlinked points to those that were around it."""
    listed = [process.pid for process in usual.processes if process.listed]
    assert followed(usual, 0) == listed
    assert followed(usual, 1) == listed[::-1]
    known = {process.eprocess + usual.layout["ActiveProcessLinks"]: process.pid for process in usual.processes}
    hidden = usual.process(3272).eprocess + usual.layout["ActiveProcessLinks"]
    assert [known[link(usual, hidden, side)] for side in (0, 1)] == [4096, 2860]


@pytest.mark.parametrize("damage", winimage.DAMAGE[1:])
def test_damaged_list(place: Path, damage: str) -> None:
    """A damaged list loses processes one way or both ways; those lost both ways are named."""
    truth = winimage.build(place, damage=damage)
    listed = [process.pid for process in truth.processes if process.listed]
    forward, backward = followed(truth, 0), followed(truth, 1)
    assert (forward == listed) is (damage == "backward")
    assert (backward == listed[::-1]) is (damage not in {"backward", "both"})
    assert set(listed) - set(forward) - set(backward) == set(truth.cut_off)
    assert bool(truth.cut_off) is (damage == "both")


# larger images


def test_larger_images(place: Path) -> None:
    """The images for benchmarks are as large as they are told to be, and as planned."""
    big = winimage.big(place, pages=2000, megabytes=40)
    assert len(big.process(800).user) >= 2000
    assert_as_planned(big, big.process(800))
    many = winimage.many(place, processes=12, pages=50)
    assert len(many.processes) == 13
    assert_as_planned(many, many.processes[-1])
    sparse = winimage.sparse(place, gigabytes=1)
    assert sparse.size == place.stat().st_size == 1 << 30
    assert_as_planned(sparse, sparse.process(1624))


# the walker by hand


def memory(
    tables: Mapping[int, Mapping[int, int]], width: int = 8, size: int = 1 << 20
) -> Callable[[int, int], bytes | None]:
    """Return a reader of physical memory that holds tables: position to index to entry."""
    data = bytearray(size)
    for table, entries in tables.items():
        for index, value in entries.items():
            data[table + index * width : table + (index + 1) * width] = value.to_bytes(width, "little")

    def read(physical: int, count: int) -> bytes | None:
        return bytes(data[physical : physical + count]) if physical + count <= size else None

    return read


NX = 1 << 63


def test_walker_four_levels() -> None:
    """Four levels of nine bits; a page is allowed what all levels allow; addresses are sign-extended."""
    read = memory({
        0x1000: {0: 0x2007, 256: 0x2003}, 0x2000: {1: 0x3007, 2: NX | 0x40000087}, 0x3000: {2: 0x4005, 3: 0x2010E7},
        0x4000: {0: 0x5007, 3: 0x6FFF000000005005},
    })  # fmt: skip
    low = [
        (0x40400000, PAGE, 0x5000, True, False, True, "present"),
        (0x40403000, PAGE, 0xF000000005000, True, False, True, "present"),
        (0x40600000, 1 << 21, 0x200000, True, True, True, "present"),
        (0x80000000, 1 << 30, 0x40000000, True, True, False, "present"),
    ]
    high = [(0xFFFF800000000000 + item[0], *item[1:3], False, *item[4:]) for item in low]
    assert walker.walk(read, 0x1FFF, "x86-64", "none") == low + high


def test_walker_five_levels() -> None:
    """Five levels of nine bits; bit 56 is the sign."""
    read = memory({0x1000: {1: 0x2007, 511: 0x2007}, 0x2000: {1: 0x3007}, 0x3000: {0: 0x800000E7}})
    rest = (1 << 30, 0x80000000, True, True, True, "present")
    assert walker.walk(read, 0x1000, "x86-64-5", "none") == [
        (0x1008000000000, *rest), (0xFFFF008000000000, *rest),
    ]  # fmt: skip


def test_walker_pae() -> None:
    """Four pointers of PAE, aligned to 32 bytes, without permissions; pages of 2 MiB; no-execute."""
    read = memory({
        0x1020: {1: 0x2001, 3: 0x2001}, 0x2000: {0: 0x3007, 511: NX | 0x12_345000E7 & ~0x1FFFFF | 0xE7},
        0x3000: {1: 0x1_00007005},
    })  # fmt: skip
    assert walker.walk(read, 0x103F, "pae", "none") == [
        (0x40001000, PAGE, 0x1_00007000, True, False, True, "present"),
        (0x7FE00000, 1 << 21, 0x12_34400000, True, True, False, "present"),
        (0xC0001000, PAGE, 0x1_00007000, True, False, True, "present"),
        (0xFFE00000, 1 << 21, 0x12_34400000, True, True, False, "present"),
    ]


def test_walker_32_bits() -> None:
    """Two levels of ten bits; bits 13 to 20 of a 4 MiB page are bits 32 to 39 of its address; all is executable."""
    read = memory({0x1000: {0: 0x2003, 1023: 0x1240_E087}, 0x2000: {5: 0xFFFFF007}}, width=4)
    assert walker.walk(read, 0x1018, "x86", "none") == [
        (0x5000, PAGE, 0xFFFFF000, False, True, True, "present"),
        (0xFFC00000, 1 << 22, 0x07_12400000, True, True, True, "present"),
    ]


def test_walker_windows() -> None:
    """Transition counts at every level of tables, whatever bit 7 says; masks are dropped; prototypes do not count."""
    mask = 7 << 45
    read = memory({
        0x1000: {0: 0x2800}, 0x2000: {0: 0x38E0 | mask}, 0x3000: {0: 0x4880, 1: 0x4C80, 2: 0x4080, 3: 0x4},
        0x4000: {0: 0x5007, 1: 0x6860 | mask, 2: 0x6C00, 3: 0x6080, 4: 0x700000080, 5: 0x80},
    })  # fmt: skip
    expected = [(index * PAGE, PAGE, 0x5000 + index * PAGE, None, None, None, "transition") for index in (0, 1)]
    assert walker.walk(read, 0x1000, "x86-64", "windows") == expected
    assert walker.walk(read, 0x1000, "x86-64", "none") == []
    # 0x6080 keeps the number of its page file in bits 12 to 15, and no place in it
    assert walker.absent(read, 0x1000) == {"zero": 506, "demand-zero": 2, "pagefile": 1, "prototype": 1}
    high = memory({0x1000: {0: 1 << 41 | 0x800}})
    assert walker.walk(high, 0x1000, "x86-64", "windows", top=1 << 41) == []
    page = memory({0x1000: {0: 0x2003}, 0x2000: {0: 0x3003}, 0x3000: {0: 0x4003}, 0x4000: {0: 5 << 41 | 0x800}})
    assert [item[2] for item in walker.walk(page, 0x1000, "x86-64", "windows")] == [0]
    assert [item[2] for item in walker.walk(page, 0x1000, "x86-64", "windows", top=1 << 41)] == [1 << 41]


def test_walker_linux() -> None:
    """PROT_NONE is bit 8 without bit 0, its frame inverted unless only the plain one is in memory; swap is not."""
    inverted = (1 << 52) - 0x5000 - PAGE
    large = (1 << 52) - 0x200000 - (1 << 21)
    read = memory({
        0x1000: {0: 0x2067}, 0x2000: {0: 0x3067}, 0x3000: {0: 0x4067, 1: large | 0x1E0, 2: large | 0x160},
        0x4000: {0: inverted | 0x160, 1: 0x6160, 2: NX | 0x7000, 3: inverted | 0x62, 4: 0xFFFFF_F000 | 0x100},
    }, size=1 << 23)  # fmt: skip
    rest = (None, None, None, "prot-none")
    assert walker.walk(read, 0x1000, "x86-64", "linux") == [
        (0, PAGE, 0x5000, *rest),
        (PAGE, PAGE, 0x6000, *rest),
        (4 * PAGE, PAGE, (1 << 52) - PAGE & ~0xFFFFFF000, *rest),
        (1 << 21, 1 << 21, 0x200000, *rest),
    ]


def test_walker_stops() -> None:
    """Tables that lead to each other are stopped by the limit, whether they map anything or not."""
    everywhere = memory({0x1000: dict.fromkeys(range(512), 0x1003)})
    with pytest.raises(walker.TooMuchError):
        walker.walk(everywhere, 0x1000, "x86-64", "none", limit=500)
    nothing = memory({0x1000: dict.fromkeys(range(512), 0x2003), 0x2000: dict.fromkeys(range(512), 0x3003),
                      0x3000: dict.fromkeys(range(512), 0x4003)})  # fmt: skip
    with pytest.raises(walker.TooMuchError):
        walker.walk(nothing, 0x1000, "x86-64", "none", limit=500)


# what Windows knows of a process's memory


def planned(process: Process) -> Userland:
    """Return the plan of a process's memory."""
    assert process.userland is not None
    return process.userland


def value(truth: Truth, pid: int, address: int, size: int = 8) -> int:
    """Return a number at an address."""
    return int.from_bytes(truth.content(pid, address, size), "little")


def string(truth: Truth, pid: int, address: int, width: int = 8) -> str:
    """Return what a UNICODE_STRING says."""
    text = truth.content(pid, value(truth, pid, address + width, width), value(truth, pid, address, 2))
    return text.decode("utf-16-le", "surrogatepass")


def tree(truth: Truth, process: Process) -> list[tuple[int, int]]:
    """Return the nodes of a process's tree of regions, in order, each with its parent as its node says it."""
    old = truth.layout.number == 0
    left, right, parent = (8, 16, 0) if old else (0, 8, 16)
    root = process.eprocess + truth.layout["VadRoot"]
    found: list[tuple[int, int]] = []
    waiting: list[int] = []
    node = value(truth, process.pid, root + 16 if old else root)
    while node or waiting:
        while node:
            waiting.append(node)
            node = value(truth, process.pid, node + left)
        node = waiting.pop()
        found.append((node, value(truth, process.pid, node + parent) & ~3))
        node = value(truth, process.pid, node + right)
    return found


def region(truth: Truth, pid: int, node: int) -> tuple[int, int, str, str, str | None, str, bool]:
    """Return what a node says, as `Vad.seen` has it."""
    fields = truth.layout
    if fields.number == 0:
        first, last = (value(truth, pid, node + at) for at in (24, 32))
    else:
        first, last = (value(truth, pid, node + at, 4) | value(truth, pid, node + at // 4 + 26, 1) << 32
                       for at in (24, 28))  # fmt: skip
    flags = value(truth, pid, node + fields["_MMVAD_SHORT.u"])
    kind, protection, private = (
        flags >> bit & (1 << width) - 1
        for _, bit, width in (
            fields.bits[f"_MMVAD_FLAGS.{name}"] for name in ("VadType", "Protection", "PrivateMemory")
        )
    )
    file = None
    tag = truth.content(pid, node - 12, 4)
    if tag not in {b"VadS", b"VadF"} and not private:
        control = value(truth, pid, value(truth, pid, node + fields["_MMVAD.Subsection"]))
        pointer = value(truth, pid, control + fields["_CONTROL_AREA.FilePointer"])
        file = string(truth, pid, (pointer & ~15) + fields["_FILE_OBJECT.FileName"]) if pointer else None
    words = userland.PROTECTIONS[protection]
    name = "image" if kind == 2 else "private" if private else "mapped"
    return first << 12, last + 1 << 12, words, name, file, tag.decode(), bool(private)


@pytest.mark.parametrize("layout", range(winimage.LAYOUTS))
def test_regions(place: Path, layout: int) -> None:
    """In every layout the tree of regions says what was planned, sorted, and parents know their children."""
    truth = winimage.build(place, layout=layout, processes=winimage.USERLAND)
    for process in truth.processes[2:4]:
        assert_as_planned(truth, process)
        nodes = tree(truth, process)
        assert [region(truth, process.pid, node) for node, _ in nodes] == [vad.seen for vad in process.vads]
        places = {node for node, _ in nodes}
        heads = {parent for _, parent in nodes} - places
        assert heads == ({process.eprocess + truth.layout["VadRoot"]} if layout == 0 else {0})
        assert {vad.start for vad in process.vads} == {vad.start for vad in planned(process).vads}


def test_protections_are_the_kernels() -> None:
    """The words for a VAD's protection are those of Volatility, for the 32 values that a kernel's table has."""
    assert len(userland.PROTECTIONS) == 32
    assert [userland.PROTECTIONS[value] for value in (0, 1, 4, 6, 7, 8, 9, 16, 20, 24, 31)] == [
        "PAGE_NOACCESS", "PAGE_READONLY", "PAGE_READWRITE", "PAGE_EXECUTE_READWRITE", "PAGE_EXECUTE_WRITECOPY",
        "PAGE_NOACCESS", "PAGE_READONLY|PAGE_NOCACHE", "PAGE_NOACCESS", "PAGE_READWRITE|PAGE_GUARD", "PAGE_NOACCESS",
        "PAGE_EXECUTE_WRITECOPY|PAGE_WRITECOMBINE",
    ]  # fmt: skip


def modules(truth: Truth, pid: int, peb: int, number: int, *, wide: bool) -> list[tuple[int, int, str, str]]:
    """Return what one of the loader's lists says: by load, memory or initialization."""
    size = 8 if wide else 4
    ldr = value(truth, pid, peb + (0x18 if wide else 0x0C), size)
    shift = 2 * size * number
    head = ldr + (0x10 if wide else 0x0C) + shift
    found, link = [], value(truth, pid, head, size)
    while link != head:
        entry = link - shift
        offsets = (0x30, 0x40, 0x58, 0x48) if wide else (0x18, 0x20, 0x2C, 0x24)
        base, length, name, path = (entry + offset for offset in offsets)
        found.append((value(truth, pid, base, size), value(truth, pid, length, 4), string(truth, pid, name, size),
                      string(truth, pid, path, size)))  # fmt: skip
        following = value(truth, pid, link, size)
        assert value(truth, pid, following + size, size) == link
        link = following
    return found


def test_modules(place: Path) -> None:
    """The loader's three lists say what was planned, of 64 and of 32 bits."""
    truth = winimage.build(place, processes=winimage.USERLAND)
    for pid in (1624, 2036):
        process = truth.process(pid)
        plan = planned(process)
        for wide, peb, entries in ((True, process.peb, plan.modules), (False, process.peb32, plan.modules32)):
            if peb is None:
                continue
            expected = [[module.seen for module in entries if letter in module.lists] for letter in "lmi"]
            found = [modules(truth, pid, peb, number, wide=wide) for number in range(3)]
            assert found == [*expected[:2], expected[2][::-1]]
            assert len({len(rows) for rows in found}) > 1
        heaps = value(truth, pid, process.peb + 0xF0)
        assert [value(truth, pid, heaps + 8 * number) for number in range(len(plan.heaps))] == list(plan.heaps)
        assert value(truth, pid, process.peb + 0x30) == plan.heaps[0]


@pytest.mark.parametrize(("layout", "kpti"), [(0, False), (8, True)])
def test_start_block(place: Path, layout: int, *, kpti: bool) -> None:
    """On request a page of the first MiB is the processors' start block, which leads to the kernel and its root."""
    without = winimage.build(place, layout=layout, kpti=kpti, processes=FEW)
    before = place.read_bytes()
    truth = winimage.build(place, layout=layout, kpti=kpti, processes=FEW, stub=True)
    assert (without.stub, without.processes[1].root) == (None, truth.processes[1].root)
    after = place.read_bytes()
    words = np.frombuffer(after[: 1 << 20], "<u8").reshape(-1, 512)
    (found,) = np.flatnonzero((words[:, 0] & np.uint64(0xFFFFFFFFFFFF00FF)) == 0x00000001000600E9)
    assert truth.stub == found * PAGE
    assert words[found, 0xA0 // 8] == truth.kernel_root
    entry = int(words[found, 0x70 // 8])
    assert truth.kernel_base < entry < truth.kernel_base + truth.kernel_size
    assert truth.content(4, entry, 1)
    # nothing else differs
    assert after == before[: truth.stub] + after[truth.stub :][:PAGE] + before[truth.stub + PAGE :]


@pytest.mark.parametrize("layout", [0, 3, 8])
def test_what_other_readers_look_for(place: Path, layout: int) -> None:
    """What readers that know no layout find a kernel and its processes by is where real machines have it."""
    truth = winimage.build(place, layout=layout, processes=winimage.USERLAND, realistic=True)
    head = truth.content(4, truth.kernel_base, PAGE)
    assert b"POOLCODE" in {head[at : at + 8] for at in range(0, PAGE, 8)}
    fields = truth.layout
    for process in truth.processes:
        if process.exit:
            continue
        at, pid = process.eprocess, process.pid
        assert truth.content(4, value(truth, pid, at + fields["ObjectTable"]) - 12, 4) == b"Obtb"
        audited = value(truth, pid, at + fields["SeAuditProcessCreationInfo"])
        assert string(truth, pid, audited).rpartition("\\") == (
            ("", "", "") if pid == 4 else ("\\Device\\HarddiskVolume2\\Windows\\System32", "\\", process.name.decode())
        )
        assert value(truth, pid, at + fields["VadRoot"] - 4, 4) == 0x103
        number = value(truth, pid, at + fields["VadRoot"] + (0x29 if fields.version == (6, 1) else 0x10), 4)
        assert number == len(process.vads) == len(tree(truth, process))
    assert value(truth, 4, truth.process(4).eprocess + fields["VadRoot"]) >> 47 == 0x1FFFF
    assert {vad.kind for vad in truth.process(4).vads} == {"private", "image"}
    assert winimage.build(place, layout=layout, processes=FEW[:1]).process(4).vads == ()


@pytest.mark.parametrize("layout", [0, 2, 8])
def test_threads(place: Path, layout: int) -> None:
    """The threads that a process's list leads to are those planned, with their environment blocks and stacks."""
    truth = winimage.build(place, layout=layout, processes=winimage.USERLAND)
    for pid in (1624, 2036):
        process, fields = truth.process(pid), truth.layout
        head = process.eprocess + fields["ThreadListHead"]
        found, here = [], link(truth, head, 0)
        while here != head:
            thread = here - fields["_ETHREAD.ThreadListEntry"]
            owner, begin, teb = (
                value(truth, pid, thread + fields[name])
                for name in ("_ETHREAD.Cid", "_ETHREAD.Win32StartAddress", "_KTHREAD.Teb")
            )
            tid = value(truth, pid, thread + fields["_ETHREAD.Cid"] + 8)
            assert (owner, value(truth, pid, teb + 0x30), value(truth, pid, teb + 0x60)) == (pid, teb, process.peb)
            stack = tuple(value(truth, pid, teb + at) for at in (8, 16, 0x1478))
            narrow = None
            if process.wow64:
                narrow = tuple(value(truth, pid, teb + 0x2000 + at, 4) for at in (4, 8, 0xE0C))
                assert value(truth, pid, teb + 0x2018, 4) == teb + 0x2000 < 1 << 32
                assert value(truth, pid, teb + 0x180C, 4) == (0x2000 if fields.modern else 0)
            found.append((tid, teb, stack, begin, narrow))
            here = link(truth, here, 0)
        assert found == [thread[:5] for thread in planned(process).threads]


def test_what_labels_are_about(place: Path) -> None:
    """The usual process has injected code, a wiped header, a writable page of code, and pages in 8 TB."""
    truth = winimage.build(place, processes=winimage.USERLAND)
    rights = {item[0]: item[3:6] for item in truth.process(1624).user.items()}
    assert truth.content(1624, 0x2A0000, 2) == truth.content(1624, 0x7FFA10000000, 2) == b"MZ"
    assert truth.content(1624, 0x7FFA11000000, PAGE) == bytes(PAGE)
    assert [rights[base + 0x3000] for base in (0x7FFA10000000, 0x7FFA12000000)] == [
        (True, False, True), (True, True, True),
    ]  # fmt: skip
    bounds = [(vad.start, vad.end) for vad in truth.process(1624).vads]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(bounds))
    assert sum(0x10000000000 <= address < 0x90000000000 for address in rights) == 3
    head = truth.content(2036, 0x70000000, PAGE)
    assert struct.unpack_from("<H", head, struct.unpack_from("<I", head, 0x3C)[0] + 4) == (0x14C,)


@pytest.mark.parametrize("layout", [0, 8])
def test_hostile_images_are_as_planned(place: Path, layout: int) -> None:
    """Every tampered process is there with the pages planned; the tree of those with nothing wrong in it is whole."""
    truth = winimage.build(place, layout=layout, megabytes=64, processes=winimage.hostile.PLANS)
    for name, pid in winimage.hostile.PIDS.items():
        process = truth.process(pid)
        if pid % 40 == 0 or name == "peb-unmapped":
            assert_as_planned(truth, process)
        if name not in winimage.hostile.TREE and name not in {"names", "region-high"}:
            bounds = [(vad.start, vad.end) for vad in process.vads]
            found = [region(truth, pid, node)[:2] for node, _ in tree(truth, process)]
            assert [pair for pair in found if pair[0] < pair[1]] == bounds or name == "no-files"
