"""Minidumps of others as input, made by hand: where their bytes lie, what they say, and what hostile ones do."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import memcarve
import minidumps
from memcarve.errors import AddressError, InputError, MemcarveError, NotRecognisedError, OverlapError, UsageError
from memcarve.metadata import Module, Region, Thread
from memcarve.process import Platform
from memcarve.sources.recognised import MINIDUMP
from memory import PAGE, noise
from minidumps import AMD64, ARM64, INTEL, ITANIUM, LINUX, PRIVATE, WINDOWS, Dump, Info
from opening import opened_as
from processes import balance, contents

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.process import ProcessMemory

BASE = 0x7FF600000000


def test_memory64(opened: Any) -> None:
    """Ranges of the 64-bit list lie one after the other; neighbours are one segment; every byte is accounted for."""
    one, two, three = noise(1, PAGE), noise(2, 2 * PAGE), noise(3, PAGE)
    data = Dump([(BASE, one), (BASE + PAGE, two), (1 << 63, three)], pid=0).build()
    process = opened(data)
    assert contents(process) == {BASE: one + two, 1 << 63: three}
    assert process.left_out == {"headers and streams": len(data) - 4 * PAGE}
    assert balance(process) == process.input_bytes == len(data)
    assert (process.pid, process.architecture, process.incomplete) == (0, "x64", False)
    assert process.platform == Platform("windows", 10, 0, 19041)
    with pytest.raises(AddressError, match="not in the map"):
        process.space.read(BASE + 3 * PAGE, 1)


@pytest.mark.parametrize("aligned", [False, True])
def test_memory_list(opened: Any, aligned: bool) -> None:  # noqa: FBT001
    """A list whose ranges have places of their own is read, with its rows aligned to eight bytes or not; also x86."""
    stack = noise(4, 0x123)
    process = opened(Dump(memory32=[(0x30F000, stack), (0x10000, b"abc")], system=(INTEL, WINDOWS, 6, 1, 7601), flags=0,
                          aligned=aligned))  # fmt: skip
    assert contents(process) == {0x10000: b"abc", 0x30F000: stack}
    assert process.architecture == "x86"
    assert process.address_bits == 32
    assert balance(process) == process.input_bytes
    assert any("made without full memory" in note for note in process.notes)


def test_both_lists(opened: Any) -> None:
    """Where both lists have the same bytes at an address they count once; the file's second copy is accounted for."""
    page = noise(5, 2 * PAGE)
    data = Dump([(BASE, page)], [(BASE + 100, page[100:300]), (BASE - 8, bytes(8) + page[:4])]).build()
    process = opened(data)
    assert contents(process) == {BASE - 8: bytes(8) + page}
    assert process.left_out["of addresses that the file holds twice"] == 200 + 4
    assert balance(process) == process.input_bytes == len(data)


def test_different_bytes_for_one_address(opened: Any) -> None:
    """Where the lists have different bytes for an address it is an error that names the file."""
    page = noise(6, PAGE)
    with pytest.raises(OverlapError, match=r"some\.mdmp: .* claim the address 0x7ff600000010") as caught:
        opened(Dump([(BASE, page)], [(BASE + 0x10, bytes(16))]))
    assert caught.value.address == BASE + 0x10


def test_ranges_at_one_place_of_the_file(opened: Any) -> None:
    """The same bytes of the file may be said to lie at two addresses; they are left out of the balance once."""
    data = bytearray(Dump(memory32=[(0x1000, noise(7, 64)), (0x2000, noise(8, 64))]).build())
    place = data.index(struct.pack("<QI", 0x2000, 64)) + 12
    first = data.index(struct.pack("<QI", 0x1000, 64)) + 12
    data[place : place + 4] = data[first : first + 4]
    process = opened(bytes(data))
    assert contents(process) == {0x1000: noise(7, 64), 0x2000: noise(7, 64)}
    assert balance(process) == process.input_bytes


def test_cut_off(opened: Any) -> None:
    """What lies behind the file's end is missing, and reading it says so; what is there is read."""
    one, two = noise(9, PAGE), noise(10, PAGE)
    data = Dump([(BASE, one), (BASE + 0x10000, two)]).build()[: -PAGE - 16]
    process = opened(data)
    assert contents(process) == {BASE: one[:-16]}
    assert [(gap.start, gap.size) for gap in process.space.missing] == [
        (BASE + PAGE - 16, 16),
        (BASE + 0x10000, PAGE),
    ]
    assert process.first_cut_off == BASE + PAGE - 16
    assert process.incomplete
    assert balance(process) == process.input_bytes == len(data)
    with pytest.raises(AddressError, match="the file ends too early"):
        process.space.read(BASE + 0x10010, 1)


def test_cut_off_and_there_all_the_same(opened: Any) -> None:
    """What one list lost because the file ends too early, and the other one has, is not missing."""
    page = noise(11, PAGE)
    data = Dump([(BASE, page)], [(BASE + 8, page[8:24])]).build()[: -PAGE + 4]
    process = opened(data)
    assert contents(process) == {BASE: page[:4], BASE + 8: page[8:24]}
    assert [(gap.start, gap.size) for gap in process.space.missing] == [(BASE + 4, 4), (BASE + 24, PAGE - 24)]


def test_no_memory(opened: Any) -> None:
    """A minidump without any list of memory is an error with a remedy."""
    with pytest.raises(InputError, match=r"some\.mdmp: is a minidump that holds no memory; .*procdump -ma"):
        opened(Dump(modules=[]))


def test_beyond_4_gib(tmp_path: Path) -> None:
    """Ranges behind the first 4 GiB of a file are found."""
    path = tmp_path / "large.mdmp"
    size = 1 << 32
    data = bytearray(Dump([(BASE, b""), (1 << 44, b"")]).build())
    place = data.index(struct.pack("<QQ", BASE, 0))
    struct.pack_into("<QQQQ", data, place, BASE, size, 1 << 44, PAGE)
    with path.open("wb") as file:
        file.write(data)
        file.seek(size, 1)
        file.write(noise(12, PAGE))
    with opened_as(MINIDUMP, path) as container:
        process = container.process()
        assert process.space.read(1 << 44, PAGE) == noise(12, PAGE)
        assert process.space.read(BASE + size - 8, 8) == bytes(8)
        assert balance(process) == process.input_bytes == path.stat().st_size


def test_not_recognised(tmp_path: Path) -> None:
    """Folders and other files are somebody else's."""
    path = tmp_path / "other"
    for data in (b"", b"MDM", b"PMDM" + bytes(40), bytes(4096)):
        path.write_bytes(data)
        with pytest.raises(NotRecognisedError):
            opened_as(MINIDUMP, path)
    path.write_bytes(Dump([]).build())
    with pytest.raises(NotRecognisedError, match="is a folder, not a minidump"):
        opened_as(MINIDUMP, tmp_path)


@pytest.mark.parametrize("option", [{"memory_map": "x"}, {"trust": "sum"}, {"dtb": 0}, {"limit": 1}])
def test_options_of_others(opened: Any, option: dict[str, Any]) -> None:
    """Options that are for maps or images are refused, with their names."""
    with pytest.raises(UsageError, match=rf"is a minidump, and .*; leave {next(iter(option))}=\S* out$"):
        opened(Dump([(BASE, b"x")]), **option)


INFOS = [
    Info(0x0, 0x10000, 0, kind=0, state=minidumps.FREE, protect=1),
    Info(0x10000, PAGE, 0x10000),
    Info(0x11000, PAGE, 0x10000),
    Info(0x12000, PAGE, 0x10000, protect=minidumps.READWRITE | minidumps.GUARD),
    Info(0x13000, 0xD000, 0x10000, protect=0, state=minidumps.RESERVE),
    Info(0x20000, PAGE, 0x20000),
    Info(BASE, PAGE, BASE, protect=minidumps.READONLY, kind=minidumps.IMAGE, began_with=0x80),
    Info(BASE + PAGE, 3 * PAGE, BASE, protect=minidumps.EXECUTE_READ, kind=minidumps.IMAGE, began_with=0x80),
    Info(1 << 40, PAGE, 1 << 40, protect=0x18, kind=minidumps.MAPPED),
    Info((1 << 64) - PAGE, PAGE, (1 << 64) - PAGE, protect=minidumps.READONLY, kind=0x1234),
]


@pytest.mark.parametrize("width", [48, 56])
def test_regions(opened: Any, width: int) -> None:
    """Rows of one allocation, protection and type are one region; free ones are none; protections are words.

    Each region knows its allocation. What is reserved has no protection, nor has what is none. Rows may be longer than
    those known today.
    """
    found = opened(Dump([(BASE, b"x")], infos=INFOS, info_width=width)).metadata.regions
    assert [each.source for each in found] == ["MemoryInfoList (some.mdmp)"]
    assert found[0].rows == [
        Region(0x10000, 2 * PAGE, "PAGE_READWRITE", "private", private=True, allocation=0x10000),
        Region(0x12000, PAGE, "PAGE_READWRITE|PAGE_GUARD", "private", private=True, allocation=0x10000),
        Region(0x13000, 0xD000, None, "private", private=True, allocation=0x10000),
        Region(0x20000, PAGE, "PAGE_READWRITE", "private", private=True, allocation=0x20000),
        Region(1 << 40, PAGE, None, "mapped", private=False, allocation=1 << 40),
        Region(BASE, PAGE, "PAGE_READONLY", "image", private=False, allocation=BASE),
        Region(BASE + PAGE, 3 * PAGE, "PAGE_EXECUTE_READ", "image", private=False, allocation=BASE),
        Region((1 << 64) - PAGE, PAGE, "PAGE_READONLY", allocation=(1 << 64) - PAGE),
    ]


def test_modules(opened: Any) -> None:
    """Modules have names and paths, whatever they hold; the process goes by the first one's."""
    names = ["C:\\Temp\\evil\u202e\x1b[2J.exe", "/usr/lib/libc.so.6", "ntdll.dll", "", "half \ud800.dll"]
    modules = [(BASE + place * 0x10000, 0x1000 * place, name) for place, name in enumerate(names)]
    process = opened(Dump([(BASE, b"x")], modules=modules))
    assert process.name == "evil\u202e\x1b[2J.exe"
    assert process.metadata.modules[0].source == "ModuleList (some.mdmp)"
    assert list(process.metadata.modules[0].rows) == [
        Module(BASE, None, "evil\u202e\x1b[2J.exe", names[0]),
        Module(BASE + 0x10000, 0x1000, "libc.so.6", "/usr/lib/libc.so.6"),
        Module(BASE + 0x20000, 0x2000, "ntdll.dll", None),
        Module(BASE + 0x30000, 0x3000, None, None),
        Module(BASE + 0x40000, 0x4000, "half \\x00\\xd8.dll".rpartition("\\")[2], "half \\x00\\xd8.dll"),
    ]


@pytest.mark.parametrize("sizes", [(12, 24), (16, 24), (12, 32), (40, 4096)])
def test_unloaded_modules(opened: Any, sizes: tuple[int, int]) -> None:
    """Modules that were unloaded are those of the list, whose head and entries are as long as they say."""
    names = ["gone.dll", "C:\\Windows\\\x1b[2J.dll", "", None, "half \ud800.dll"]
    rows = [(BASE + place * 0x10000, 0x1000 * place, place, 7 + place, name) for place, name in enumerate(names)]
    (found,) = opened(Dump([(BASE, b"x")], unloaded=rows, unloaded_sizes=sizes)).metadata.unloaded
    assert found.source == "UnloadedModuleList (some.mdmp)"
    assert list(found.rows) == [
        Module(BASE, None, "gone.dll", None, 7, 0),
        Module(BASE + 0x10000, 0x1000, names[1], None, 8, 1),
        Module(BASE + 0x20000, 0x2000, None, None, 9, 2),
        Module(BASE + 0x30000, 0x3000, None, None, 10, 3),
        Module(BASE + 0x40000, 0x4000, "half \\x00\\xd8.dll", None, 11, 4),
    ]


def test_no_unloaded_modules(opened: Any) -> None:
    """An empty list of unloaded modules is known to be empty; without one nothing is known of them."""
    (found,) = opened(Dump([(BASE, b"x")], unloaded=[])).metadata.unloaded
    assert list(found.rows) == []
    assert opened(Dump([(BASE, b"x")])).metadata.unloaded == ()


@pytest.mark.parametrize(
    ("sizes", "there"), [((12, 23), 0), ((12, 0), 0), ((12, 4097), 0), ((0xFFFF, 24), 0), ((11, 24), 0)]
)
def test_lists_of_unloaded_modules_that_cannot_be(opened: Any, sizes: tuple[int, int], there: int) -> None:
    """A list of unloaded modules whose entries are too short or too long, or lie behind it, is not used."""
    data = Dump([(BASE, b"x")], unloaded=[(BASE, PAGE, 1, 2, "a.dll")]).build()
    data = data.replace(struct.pack("<III", 12, 24, 1), struct.pack("<III", *sizes, 1))
    process = opened(data)
    assert sum(len(one.rows) for one in process.metadata.unloaded) == there
    assert any("unloaded module list" in note for note in [*process.notes, *process.metadata.notes])
    assert contents(process) == {BASE: b"x"}


def test_modules_of_several_regions(opened: Any) -> None:
    """A module of which each part has its protection, as Windows writes it, ends with the last of them."""
    protections = [(0, 2), (1, 0x20), (3, 4)]
    sizes = [PAGE, 2 * PAGE, PAGE]
    image = minidumps.IMAGE
    infos = [
        Info(BASE + page * PAGE, size, BASE, protect, image)
        for (page, protect), size in zip(protections, sizes, strict=True)
    ]
    infos.append(Info(BASE + 4 * PAGE, PAGE, BASE + 4 * PAGE))
    process = opened(Dump([(BASE, bytes(5 * PAGE))], infos=infos, modules=[(BASE, 4 * PAGE, "C:\\a.dll")]))
    regions = process.metadata.regions[0]
    assert [regions.module_end(Module(BASE, size * PAGE)) - BASE for size in (1, 4, 9)] == [PAGE, 4 * PAGE, 4 * PAGE]


def test_what_ends_beyond_the_last_address(opened: Any) -> None:
    """Modules and regions that cannot be are not used, and notes say so."""
    last = (1 << 64) - PAGE
    dump = Dump([(BASE, b"x")], modules=[(last, PAGE + 1, "a.dll"), (last, PAGE, "b.dll")],
                unloaded=[(last, PAGE + 1, 0, 0, "c.dll"), (last, PAGE, 0, 0, "d.dll")],
                infos=[Info(last, PAGE + 1, last), Info(BASE, PAGE, BASE)])  # fmt: skip
    metadata = opened(dump).metadata
    assert [row.name for row in metadata.modules[0].rows] == ["b.dll"]
    assert [row.start for row in metadata.regions[0]] == [BASE]
    assert [row.name for row in metadata.unloaded[0].rows] == ["d.dll"]
    assert sum("beyond the last address; not used" in note for note in metadata.notes) == 3


def test_too_many(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more modules, threads or regions than any process has the first are used; ranges of memory are an error."""
    monkeypatch.setattr("memcarve.formats.minidump.minidump_reading._MOST_ROWS", 2)
    monkeypatch.setattr("memcarve.sources.minidump.minidump_metadata._MOST_REGIONS", 2)
    dump = Dump([(BASE, b"x")], modules=[(0, 0, "a"), (1, 0, "b"), (2, 0, "c")], infos=INFOS,
                unloaded=[(number, 0, 0, 0, "d") for number in range(3)],
                threads=[minidumps.Thread(tid, begin=9) for tid in range(3)])  # fmt: skip
    metadata = opened(dump).metadata
    assert [row.name for row in metadata.modules[0].rows] == ["a", "b"]
    assert [row.tid for row in metadata.threads[0].rows] == [0, 1]
    assert [row.start for row in metadata.unloaded[0].rows] == [0, 1]
    assert [row.start for row in metadata.regions[0]] == [0x10000, 0x12000]
    assert any("has 8 regions; the first 2 are used" in note for note in metadata.notes)
    monkeypatch.setattr("memcarve.formats.minidump.minidump_reading._MOST_NAMES", 1)
    assert [row.name for row in opened(dump).metadata.modules[0].rows] == ["a", None]
    monkeypatch.setattr("memcarve.formats.minidump.minidump_reading._MOST_RANGES", 2)
    with pytest.raises(InputError, match="more than 2 ranges of memory"):
        opened(Dump(memory32=[(BASE + 8 * page, b"x") for page in range(3)]))


@pytest.mark.parametrize(("width", "there"), [(47, 0), (48, 8), (4096, 8), (4097, 0), (0, 0), (0xFFFFFFFF, 0)])
def test_width_of_rows(opened: Any, width: int, there: int) -> None:
    """Rows of regions that are too short, or longer than any, are not used."""
    real = min(max(width, 48), 4097)
    data = Dump([(BASE, b"x")], infos=INFOS, info_width=real).build()
    data = data.replace(struct.pack("<IIQ", 16, real, len(INFOS)), struct.pack("<IIQ", 16, width, len(INFOS)))
    metadata = opened(data).metadata
    assert sum(map(len, metadata.regions)) == there
    assert any("not used" in note for note in metadata.notes) == (there == 0)


def test_names_of_modules_outside_the_file(opened: Any) -> None:
    """A name that does not lie in the file, or is longer than any, is not known."""
    for size in (0xFFFFFFFF, 0x10002, 0x8000):
        data = Dump([(BASE, bytes(0x20000))], modules=[(BASE, PAGE, "some.dll")]).build()
        name = data.index(struct.pack("<I", 16) + "some.dll".encode("utf-16-le"))
        data = data[:name] + struct.pack("<I", size) + data[name + 4 :]
        if size == 0x8000:
            data = data[:0x4000]
        process = opened(data)
        assert process.name is None
        assert process.metadata.modules[0].rows[0].name is None


def test_labels(tmp_path: Path) -> None:
    """What a minidump says labels its segments: protections, kinds, modules, threads' stacks; and memory is flagged."""
    infos = [
        Info(BASE, PAGE, BASE, minidumps.READONLY, minidumps.IMAGE),
        Info(0x10000, PAGE, 0x10000, 0x40),
        Info(0x20000, PAGE, 0x20000),
    ]
    memory = [(0x10000, bytes(PAGE)), (0x20000, bytes(PAGE)), (BASE, bytes(PAGE))]
    dump = Dump(memory, modules=[(BASE, PAGE, "C:\\a.dll")], infos=infos,
                threads=[minidumps.Thread(4, 0, (0x20800, 0x800))])  # fmt: skip
    path = tmp_path / "some.mdmp"
    path.write_bytes(dump.build())
    with memcarve.open(path) as container:
        labels = container.process().segments(labeller=memcarve.Labelling("none")).labels
        assert labels is not None
        rows = [labels.record(index) for index in range(3)]
    assert [row["regions"][0]["protection"] for row in rows] == [
        "PAGE_EXECUTE_READWRITE", "PAGE_READWRITE", "PAGE_READONLY",
    ]  # fmt: skip
    flags = [{flag["name"] for flag in row.get("flags", ())} for row in rows]
    # the page of zeros where a module begins is no header
    assert flags == [{"private-executable", "writable-executable"}, set(), {"wiped-header"}]
    assert rows[1]["areas"][0]["kind"] == "stack"
    assert rows[2]["modules"][0]["path"] == "C:\\a.dll"


def test_breakpad(opened: Any) -> None:
    """A minidump of a Linux program, without regions: the system is told, and no source of regions is made up."""
    process = opened(
        Dump(
            memory32=[(0x7FFC00000000, b"stack")],
            modules=[(0x400000, PAGE, "/usr/bin/true")],
            system=(AMD64, LINUX, 0, 0, 0),
            flags=0,
        )
    )
    assert process.platform == Platform("linux")
    assert process.name == "true"
    assert process.metadata.regions == ()


def test_other_processors(opened: Any) -> None:
    """The memory of a process on another processor is read all the same; its name is in a note."""
    process = opened(Dump([(BASE, b"x")], system=(ITANIUM, WINDOWS, 10, 0, 22000)))
    assert process.architecture is None
    assert any("unknown (0x6)" in note for note in process.notes)
    assert opened(Dump([(BASE, b"x")], system=(ARM64, WINDOWS, 10, 0, 22000))).architecture == "arm64"
    assert opened(Dump([(BASE, b"x")], system=None)).platform == Platform()


def test_threads_x64(opened: Any) -> None:
    """Threads have registers, those of the groups that are valid; TEB, stack, and where they began."""
    registers = minidumps.some_registers(minidumps.AMD64_REGISTERS)
    control = {"cs", "ss", "eflags", "rsp", "rip"}
    threads = [
        minidumps.Thread(0, 0x2000, (0x8000, 0x2000), minidumps.context64(registers), 0x1234),
        minidumps.Thread(8, context=minidumps.context64(registers, 0x100001)),
        minidumps.Thread(12, context=minidumps.context64(registers, 0x7)),
        minidumps.Thread(16, stack=((1 << 64) - 8, 16)),
    ]
    metadata = opened(Dump([(BASE, b"x")], threads=threads)).metadata
    assert list(metadata.threads[0].rows) == [
        Thread(0, 0x2000, 0x8000, 0xA000, 0x1234, registers),
        Thread(8, registers={name: value for name, value in registers.items() if name in control}),
        Thread(12),
        Thread(16),
    ]
    assert [(area.kind, area.start, area.size, area.whole) for area in metadata.areas[0].rows] == [
        ("TEB", 0x2000, 0x2000, False),
        ("stack", 0x8000, 0x2000, True),
    ]


def test_threads_x86(opened: Any) -> None:
    """Threads of 32 bits have the registers of that CONTEXT."""
    registers = minidumps.some_registers(minidumps.X86_REGISTERS)
    dump = Dump(memory32=[(0x1000, b"x")], threads=[minidumps.Thread(4, context=minidumps.context32(registers))],
                system=(INTEL, WINDOWS, 5, 1, 2600))  # fmt: skip
    assert list(opened(dump).metadata.threads[0].rows) == [Thread(4, registers=registers)]


def extended(address: int) -> int:
    """Return an address of 32 bits as dbghelp writes it."""
    return address | 0xFFFFFFFF00000000 if address >> 31 else address


HIGH = 0xA0000000


def narrow_dump(number: int, **other: Any) -> Dump:
    """Return a minidump of a process of 32 bits, with addresses on both sides of 2 GiB."""
    return Dump(
        [(0x10000, b"low"), (extended(HIGH), b"high")],
        [(extended(0xFFFFF000), bytes(PAGE)), (extended(0x80000000), b"first"), (0x7FFFFFF0, bytes(16))],
        [(0x10000, PAGE, "a.exe"), (extended(HIGH), PAGE, "b.dll"), (extended(0xFFFFF000), PAGE, "last.dll")],
        [minidumps.Thread(4, extended(0xFFFDD000), (extended(0x90000000), 64), begin=extended(HIGH + 8))],
        [Info(0x10000, PAGE, 0x10000), Info(extended(HIGH), PAGE, extended(HIGH)),
         Info(extended(HIGH) + PAGE, PAGE, extended(HIGH), minidumps.READONLY)],
        system=(number, WINDOWS, 6, 1, 7601),
        unloaded=[(extended(HIGH), PAGE, 1, 2, "c.dll"), (extended(0xFFFFF000), PAGE + 1, 1, 2, "beyond.dll")],
        **other,
    )  # fmt: skip


@pytest.mark.parametrize("number", [INTEL, 5, 10])
def test_extended_addresses(opened: Any, number: int) -> None:
    """Of x86 and ARM addresses have 32 bits, in every list: dbghelp extends the highest of them through its fields."""
    process = opened(narrow_dump(number))
    assert contents(process) == {
        0x10000: b"low", 0x7FFFFFF0: bytes(16) + b"first", HIGH: b"high", 0xFFFFF000: bytes(PAGE),
    }  # fmt: skip
    assert (process.address_bits, process.kernel_half, process.incomplete) == (32, 1 << 32, False)
    metadata = process.metadata
    assert [row.start for row in metadata.modules[0].rows] == [0x10000, HIGH, 0xFFFFF000]
    assert [(row.start, row.end) for row in metadata.regions[0]] == [
        (0x10000, 0x11000), (HIGH, HIGH + PAGE), (HIGH + PAGE, HIGH + 2 * PAGE),
    ]  # fmt: skip
    assert list(metadata.threads[0].rows) == [Thread(4, 0xFFFDD000, 0x90000000, 0x90000040, HIGH + 8)]
    assert list(metadata.unloaded[0].rows) == [Module(HIGH, PAGE, "c.dll", None, 2, 1)]
    assert [(row.start, row.kind) for row in metadata.areas[0].rows] == [(0xFFFDD000, "TEB"), (0x90000000, "stack")]


def test_addresses_that_are_not_extended(opened: Any) -> None:
    """Of x64 addresses stay as they are, and so do those of x86 that are not extended from 32 bits."""
    rows = [(0x10000, b"low"), (1 << 32, b"beyond"), (extended(HIGH), b"high")]
    assert contents(opened(Dump(rows))) == dict(rows)
    rows[2] = (0xFFFFFFFF7FFFFFF0, b"high")
    assert contents(opened(Dump(rows, system=(INTEL, WINDOWS, 6, 1, 7601)))) == dict(rows)


def test_addresses_of_memcarves_own(opened: Any) -> None:
    """What memcarve wrote has the addresses of a kernel as they are, whatever the program's processor is called."""
    rows = [(0x10000, b"low"), (0xFFFFFFFF81000000, b"kernel")]
    comment = b'{"tool": "memcarve", "process": {"architecture": "x86"}, "complete": true}\0'
    assert contents(opened(Dump(rows, system=(INTEL, WINDOWS, 6, 1, 7601), comment=comment))) == dict(rows)


@pytest.mark.parametrize("high", [0xFFFFF000, extended(0xFFFFF000)])
def test_ends_beyond_4_gib(opened: Any, high: int) -> None:
    """Of 32 bits nothing reaches beyond 4 GiB: not ranges of memory, modules, regions, or stacks."""
    system = INTEL, WINDOWS, 6, 1, 7601
    rows = [(high, bytes(PAGE + 1))]
    for dump in (Dump(rows, system=system), Dump(memory32=rows, system=system)):
        with pytest.raises(InputError, match="range at 0xfffff000 of 0x1001 bytes reaches beyond the last address"):
            opened(dump)
    process = opened(
        Dump(
            [(high, bytes(PAGE))],
            modules=[(high, PAGE + 1, "a.dll"), (high, PAGE, "b.dll")],
            infos=[Info(0x10000, PAGE, 0x10000), Info(high, PAGE + 1, high)],
            threads=[minidumps.Thread(4, 0, (high, PAGE + 1)), minidumps.Thread(8, 0, (high, PAGE))],
            system=system,
        )
    )
    assert contents(process) == {0xFFFFF000: bytes(PAGE)}
    metadata = process.metadata
    assert [row.name for row in metadata.modules[0].rows] == ["b.dll"]
    assert [row.start for row in metadata.regions[0]] == [0x10000]
    assert [row.stack_end for row in metadata.threads[0].rows] == [None, 1 << 32]


def test_named_files_are_added(opened: Any, tmp_path: Path) -> None:
    """Files given as evidence are added to what the minidump says, and recorded as inputs."""
    maps = tmp_path / "some.maps"
    maps.write_text("7ff600000000-7ff600001000 rw-p 00000000 00:00 0 \n")
    process = opened(Dump([(BASE, b"x")], infos=INFOS[:2]), regions=(str(maps),))
    assert [regions.source.partition(" ")[0] for regions in process.metadata.regions] == [
        "MemoryInfoList",
        "/proc/PID/maps",
    ]
    assert process.used_inputs["evidence"][0]["path"] == str(maps)


@pytest.mark.parametrize("kind", [3, 4, 5, 9, 14, 16, 17])
def test_counts_of_everything(opened: Any, kind: int) -> None:
    """A list that says to hold 2**32 - 1 rows holds those that are there; a note says so."""
    thread = minidumps.Thread(4, begin=5)
    dump = Dump(
        [(BASE, b"xy")],
        [(BASE + PAGE, b"z")],
        [(BASE, PAGE, "a.exe")],
        [thread],
        INFOS,
        claims={kind: 0xFFFFFFFF},
        unloaded=[(BASE, PAGE, 1, 2, "b.dll")],
    )
    process = opened(dump)
    assert contents(process) == {BASE: b"xy", BASE + PAGE: b"z"}
    metadata = process.metadata
    assert [row.start for row in metadata.modules[0].rows] == [BASE]
    assert list(metadata.threads[0].rows) == [Thread(4, begin=5)]
    assert list(metadata.unloaded[0].rows) == [Module(BASE, PAGE, "b.dll", None, 2, 1)]
    assert len(metadata.regions[0]) == 8
    notes = [*process.notes, *metadata.notes]
    assert sum("should have 4294967295 entries" in note for note in notes) == 1
    assert process.incomplete == (kind in (4, 5, 9))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((BASE, 1 << 63), "more bytes than any file"),
        ((BASE, (1 << 64) - 1), "more bytes than any file"),
        (((1 << 64) - 8, 16), "beyond the last address"),
    ],
)
def test_ranges_that_cannot_be(opened: Any, row: tuple[int, int], message: str) -> None:
    """Ranges that no process can have are an error."""
    data = Dump([(BASE, b"x")]).build().replace(struct.pack("<QQ", BASE, 1), struct.pack("<QQ", *row))
    with pytest.raises(InputError, match=message):
        opened(data)


def test_directory_outside(opened: Any) -> None:
    """A directory that does not lie in the file, or has more streams than there are, is an error."""
    data = Dump([(BASE, b"x")]).build()
    for count, place in ((0xFFFFFFFF, 32), (2, 0xFFFFFFF0), (5000, 0), (1, len(data))):
        with pytest.raises(InputError, match=rf"minidump of {count} streams"):
            opened(data[:8] + struct.pack("<II", count, place) + data[16:])
    with pytest.raises(InputError, match="ends inside its header"):
        opened(data[:31])


def test_the_same_addresses_again_and_again(opened: Any) -> None:
    """Overlapping ranges that would take more reading than the file has bytes are an error, not an endless task."""
    body = noise(13, 1 << 16)
    data = bytearray(Dump(memory32=[(BASE, body)] * 2 + [(BASE, b"")] * 3000).build())
    row = struct.pack("<QII", BASE, len(body), data.rindex(body))
    first = data.index(struct.pack("<QI", BASE, len(body))) + 32
    data[first : first + 16 * 3000] = row * 3000
    with pytest.raises(InputError):
        opened(bytes(data))


FULL = Dump(
    [(BASE, noise(14, 256)), (BASE + PAGE, noise(15, 64))],
    [(0x10000, noise(16, 32))],
    [(BASE, PAGE, "C:\\a.exe"), (BASE + PAGE, PAGE, "b.dll")],
    [minidumps.Thread(4, 0x2000, (0x10000, 32), minidumps.context64(dict.fromkeys(
        (name for name, _, _ in minidumps.AMD64_REGISTERS), 1)), 7)],
    [Info(0x10000, 64, 0x10000), Info(BASE, PAGE, BASE, kind=PRIVATE)],
    pid=4,
    comment=b'{"tool": "memcarve", "inputs": {"dump": {"path": "x"}}, "complete": true}\0',
    unloaded=[(BASE, PAGE, 1, 2, "c.dll"), (BASE + PAGE, PAGE, 1, 2, "d.dll")],
).build()  # fmt: skip


def read_all(process: ProcessMemory) -> None:
    """Read every byte and look at everything that is known."""
    assert balance(process) == process.input_bytes
    if process.space.total < 1 << 20:
        contents(process)
    for each in process.metadata.regions:
        assert all(row.end <= 1 << 64 for row in each.rows)
    for row in (*process.metadata.modules[:1], *process.metadata.unloaded):
        assert all(module.end <= 1 << 64 for module in row.rows)


@given(st.data())
def test_damaged(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever stands in a minidump, and wherever it ends, it is read or refused with an error of memcarve's."""
    damaged = bytearray(FULL)
    words = st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0xFFFFFFFF, len(FULL), len(FULL) - 4])
    places = st.integers(0, len(FULL) // 4 - 1)
    for place, word in data.draw(st.lists(st.tuples(places, words | st.integers(0, 0xFFFFFFFF)), max_size=6)):
        struct.pack_into("<I", damaged, 4 * place, word)
    damaged[:4] = b"MDMP"
    path = tmp_path_factory.getbasetemp() / "damaged.mdmp"
    path.write_bytes(damaged[: data.draw(st.integers(4, len(FULL)) | st.just(len(FULL)))])
    try:
        with opened_as(MINIDUMP, path) as container:
            read_all(container.process())
    except MemcarveError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - it may be an error, or not


def test_every_truncation(tmp_path: Path) -> None:
    """A minidump that ends anywhere gives the bytes that it has, or an error."""
    path, read = tmp_path / "short.mdmp", 0
    for size in random.Random(1).sample(range(4, len(FULL)), 200):  # noqa: S311
        path.write_bytes(FULL[:size])
        try:
            with opened_as(MINIDUMP, path) as container:
                read_all(container.process())
                read += 1
        except InputError:
            pass
    assert read > 20


def test_adversarial_lists(tmp_path: Path) -> None:
    """Random ranges in both lists agree with a plain dictionary of addresses, or are refused where that disagrees."""
    path, dice, outcomes = tmp_path / "random.mdmp", random.Random(2), set[str]()  # noqa: S311
    for _ in range(300):
        truth = dice.randbytes(64)
        lists = []
        for _ in range(2):
            rows = []
            for _ in range(dice.randrange(4)):
                low = dice.randrange(60)
                row = bytearray(truth[low : low + dice.randrange(1, 20)])
                if not dice.randrange(12):
                    row[0] ^= 1
                rows.append((BASE + low, bytes(row)))
            lists.append(rows)
        expected: dict[int, int] = {}
        clash = False
        for low, row in lists[0] + lists[1]:
            for place, byte in enumerate(row):
                clash |= expected.setdefault(low + place, byte) != byte
        path.write_bytes(Dump(*lists).build())
        with opened_as(MINIDUMP, path) as container:
            if clash:
                with pytest.raises(OverlapError):
                    container.process()
                outcomes.add("clash")
                continue
            process = container.process()
            found = {at + place: byte for at, row in contents(process).items() for place, byte in enumerate(row)}
            assert found == expected
            assert balance(process) == process.input_bytes == path.stat().st_size
            outcomes.add("read")
    assert outcomes == {"clash", "read"}
