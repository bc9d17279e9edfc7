"""Minidumps as output: what stands in them, structure by structure; and read again by memcarve."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import memcarve
import minidumps
import winimage
from files import EXAMPLE, ROOT
from memcarve.errors import TargetExistsError, UsageError
from memcarve.metadata import Metadata, Module, Parameters, Region, Regions, SourceRows, Thread
from memcarve.permissions import EXECUTE, PROT_NONE, TRANSITION, WRITE
from memcarve.process import Platform, ProcessEntry, ProcessMemory, Selection
from memcarve.sources.recognised import MINIDUMP
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from opening import opened_as
from processes import RW, RX, R, process_with
from sinking import How, export_minidump
from winimage.kernel import header

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.sinks.sink import Result

PROGRAM, LIBRARY, LONELY, KERNEL = 0x7FF600000000, 0x7FFA00000000, 0x7FFB00000000, 0xFFFFF80000000000
REGISTERS = minidumps.some_registers(minidumps.AMD64_REGISTERS)
#: CodeView: signature, GUID, age, path
RECORD = b"RSDS" + bytes(range(16)) + struct.pack("<I", 3) + b"C:\\build\\program.pdb\0"
UNKNOWN_RECORD = b"RSDS" + bytes(21)


def program(base: int) -> bytes:
    """Return the first page of a program of five pages with a check sum and a debug directory."""
    page = bytearray(header(base, 0x4800, ()).ljust(PAGE, b"\0"))
    struct.pack_into("<I", page, 0xE8 + 24 + 64, 0xC0FFEE)
    struct.pack_into("<II", page, 0xE8 + 24 + 112 + 8 * 6, 0x800, 56)
    struct.pack_into("<IIHHIIII", page, 0x800, 0, 0, 0, 0, 13, 8, 0xA00, 0)  # IMAGE_DEBUG_TYPE_POGO
    struct.pack_into("<IIHHIIII", page, 0x81C, 0, 0, 0, 0, 2, len(RECORD), 0x900, 0)
    page[0x900 : 0x900 + len(RECORD)] = RECORD
    return bytes(page)


PAGES = {
    0x10000: noise(1),
    0x11000: noise(2),
    0x14000: noise(3),
    0x15000: noise(4),
    PROGRAM: program(PROGRAM),
    PROGRAM + PAGE: noise(5),
    PROGRAM + 3 * PAGE: noise(6),
    LIBRARY + PAGE: noise(7),
    LONELY: noise(8),
    KERNEL: noise(9),
}
REGIONS = [
    Region(0x10000, 4 * PAGE, "PAGE_READWRITE", "private", private=True),
    Region(0x14000, PAGE, "PAGE_READWRITE|PAGE_GUARD", "stack", private=True),
    Region(0x15000, PAGE, "PAGE_WRITECOPY|PAGE_NOCACHE", "mapped", private=False),
    Region(0x20000, PAGE, "PAGE_NOACCESS", private=False),
    Region(PROGRAM, 5 * PAGE, "PAGE_EXECUTE_WRITECOPY", "image", "\\Temp\\program.exe", private=False),
    Region(LIBRARY, 2 * PAGE, "r-xp", "image", private=False),
]
MODULES = [
    Module(LIBRARY, 2 * PAGE, "library.dll", "C:\\Windows\\library.dll"),
    Module(PROGRAM, 5 * PAGE, "program.exe", "C:\\Temp\\\u202eprogram.exe"),
    Module(0x500000000000, PAGE, "gone.dll", "C:\\gone.dll"),
]
THREADS = [
    Thread(8, 0x11000, 0x14000, 0x15000, PROGRAM + 0x10, REGISTERS),
    Thread(12, registers={"rip": 1, "rsp": 2}),
    Thread(0),
]


def made(flags: dict[int, int] | None = None, regions: list[Region] | None = REGIONS, **members: Any) -> ProcessMemory:
    """Return the process; `flags` are the page tables' by address, where there are any."""
    start = np.array(sorted(PAGES), np.uint64)
    offset = np.arange(len(start), dtype=np.uint64) * np.uint64(PAGE)
    known = None if flags is None else np.array([flags.get(page, RW) for page in start.tolist()], np.uint8)
    tables = {} if known is None else {"flags": known, "physical": offset}
    memory = Memory(b"".join(PAGES[page] for page in sorted(PAGES)))
    space = AddressSpace(start, np.full(len(start), PAGE, np.uint64), offset, memory, **tables)  # type: ignore[arg-type]
    metadata = Metadata(
        () if regions is None else (Regions("windows.vadinfo", regions),),
        (SourceRows("windows.dlllist", MODULES),),
        (SourceRows("windows.threads", THREADS),),
    )
    given = {"pid": 1624, "name": "program.exe", "metadata": lambda: metadata, **members}
    return process_with(space, **given)  # type: ignore[arg-type]


class File(NamedTuple):
    """A minidump as its bytes have it, read with nothing of memcarve's."""

    data: bytes
    flags: int
    checksum: int
    streams: dict[int, tuple[int, int]]  # type: size, RVA

    def unpack(self, form: str, kind: int, at: int = 0) -> tuple[Any, ...]:
        """Return numbers of a stream."""
        return struct.unpack_from(form, self.data, self.streams[kind][1] + at)

    def text(self, place: int) -> str:
        """Return a MINIDUMP_STRING."""
        size = int.from_bytes(self.data[place : place + 4], "little")
        assert self.data[place + 4 + size : place + 6 + size] == b"\0\0"
        return self.data[place + 4 : place + 4 + size].decode("utf-16-le")

    def ranges(self) -> list[tuple[int, int, int]]:
        """Return address, size and offset of the ranges."""
        count, place = self.unpack("<QQ", 9)
        found = []
        for number in range(count):
            start, size = self.unpack("<QQ", 9, 16 + 16 * number)
            found.append((start, size, place))
            place += size
        return found

    def infos(self) -> list[tuple[int, ...]]:
        """Return base, size, allocation, what it began with, protection, type of each row; all are committed."""
        head, width, count = self.unpack("<IIQ", 16)
        assert (head, width) == (16, 48)
        rows = [self.unpack("<QQIIQIIII", 16, 16 + 48 * number) for number in range(count)]
        assert all(row[5] == minidumps.COMMIT and row[3] == row[8] == 0 for row in rows)
        return [(row[0], row[4], row[1], row[2], row[6], row[7]) for row in rows]

    def modules(self) -> list[tuple[int, int, int, int, str, bytes]]:
        """Return base, size, check sum, time stamp, name and CodeView record of each module."""
        found = []
        for number in range(self.unpack("<I", 4)[0]):
            base, size, checksum, time, name, length, place = self.unpack("<QIIII52xII", 4, 4 + 108 * number)
            found.append((base, size, checksum, time, self.text(name), self.data[place : place + length]))
        return found

    def unloaded(self) -> list[tuple[int, int, int, int, str]]:
        """Return base, size, check sum, time stamp and name of each module that was unloaded."""
        head, width, count = self.unpack("<III", 14)
        assert (head, width, self.streams[14][0]) == (12, 24, 12 + 24 * count)
        rows = [self.unpack("<QIIII", 14, 12 + 24 * number) for number in range(count)]
        return [(*row[:4], self.text(row[4])) for row in rows]  # type: ignore[misc]

    def threads(self) -> list[tuple[int, int, tuple[int, int, int], bytes]]:
        """Return id, TEB, stack (address, size, RVA) and CONTEXT of each thread."""
        found = []
        for number in range(self.unpack("<I", 3)[0]):
            row = self.unpack("<IIIIQQIIII", 3, 4 + 48 * number)
            found.append((row[0], row[4], row[5:8], self.data[row[9] : row[9] + row[8]]))
        return found  # type: ignore[return-value]

    @property
    def comment(self) -> dict[str, Any]:
        """The comment."""
        size, place = self.streams[10]
        assert self.data[place + size - 1] == 0
        found: dict[str, Any] = json.loads(self.data[place : place + size - 1].decode("ascii"))
        return found


def parsed(path: Path) -> File:
    """Read a minidump; every structure lies before the memory, and in the file."""
    data = path.read_bytes()
    magic, version, count, place, checksum, _, flags = struct.unpack_from("<4sIIIIIQ", data)
    assert (magic, version & 0xFFFF) == (b"MDMP", 42899)
    rows = [struct.unpack_from("<III", data, place + 12 * number) for number in range(count)]
    streams = {kind: (size, rva) for kind, size, rva in rows}
    assert len(streams) == count
    found = File(data, flags, checksum, streams)
    assert all(
        rva >= 32 + 12 * count and rva % 4 == 0 and rva + size <= found.unpack("<QQ", 9)[1]
        for size, rva in streams.values()
    )
    return found


def written(process: ProcessMemory, path: Path, **options: Any) -> tuple[File, Result]:
    """Write a minidump and read it."""
    said = export_minidump(process, path, **options)
    assert said.files == (str(path),)
    return parsed(path), said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the minidump goes."""
    return tmp_path / "pid.1624.mdmp"


def test_streams(path: Path) -> None:
    """All streams that loaders want are there; the header has no check sum; the memory begins at a page."""
    found, said = written(made(), path, how=How(command=["memcarve", "export"]))
    assert set(found.streams) == {3, 4, 7, 9, 10, 15, 16, 17}
    assert (found.flags, found.checksum) == (0x2 | 0x800 | 0x1000, 0)
    count, base = found.unpack("<QQ", 9)
    assert found.streams[9][0] == 16 + 16 * count
    assert base % PAGE == 0
    assert base == found.data.index(PAGES[0x10000])
    assert found.unpack("<III", 15) == (24, 1, 1624)
    assert found.comment["command"] == ["memcarve", "export"]
    assert (found.comment["protect"], found.comment["modules"]) == ("regions", "listed")
    assert (said.count, said.bytes, said.complete) == (count, len(PAGES) * PAGE, True)
    assert len(found.data) == base + said.bytes
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_memory(path: Path) -> None:
    """Each range has its own bytes; ranges end where regions, modules and gaps do."""
    found, _ = written(made(), path)
    ranges = found.ranges()
    assert [(start, size) for start, size, _ in ranges] == [
        (0x10000, 2 * PAGE),
        (0x14000, PAGE),
        (0x15000, PAGE),
        (PROGRAM, 2 * PAGE),
        (PROGRAM + 3 * PAGE, PAGE),
        (LIBRARY + PAGE, PAGE),
        (LONELY, PAGE),
        (KERNEL, PAGE),
    ]
    process = made()
    assert all(found.data[at : at + size] == process.space.read(start, size) for start, size, at in ranges)


def test_memory_infos(path: Path) -> None:
    """Each range has a row that begins with it, and so has each part of a region without bytes.

    Write-copy becomes what loaders can use; what it was stays in AllocationProtect. What lies in no region has neither.
    """
    found, _ = written(made(), path)
    image, mapped, private = minidumps.IMAGE, minidumps.MAPPED, minidumps.PRIVATE
    assert found.infos() == [
        (0x10000, 2 * PAGE, 0x10000, 0x04, 0x04, private),
        (0x12000, 2 * PAGE, 0x10000, 0x04, 0x04, private),
        (0x14000, PAGE, 0x14000, 0x104, 0x104, private),
        (0x15000, PAGE, 0x15000, 0x208, 0x02, mapped),
        (0x20000, PAGE, 0x20000, 0x01, 0x01, mapped),
        (PROGRAM, 2 * PAGE, PROGRAM, 0x80, 0x20, image),
        (PROGRAM + 2 * PAGE, PAGE, PROGRAM, 0x80, 0x20, image),
        (PROGRAM + 3 * PAGE, PAGE, PROGRAM, 0x80, 0x20, image),
        (PROGRAM + 4 * PAGE, PAGE, PROGRAM, 0x80, 0x20, image),
        (LIBRARY, PAGE, LIBRARY, 0x20, 0x20, image),
        (LIBRARY + PAGE, PAGE, LIBRARY, 0x20, 0x20, image),
        (LONELY, PAGE, LONELY, 0, 0, 0),
        (KERNEL, PAGE, KERNEL, 0, 0, 0),
    ]


def test_page_tables_count_first(path: Path) -> None:
    """Where page tables say what is allowed, that is the protection; where pages were not present, the region's is."""
    flags = {
        0x10000: R, 0x11000: RX, 0x14000: RW, 0x15000: EXECUTE | WRITE, PROGRAM: TRANSITION | RW,
        PROGRAM + PAGE: PROT_NONE, PROGRAM + 3 * PAGE: R, LONELY: RX, KERNEL: 0,
    }  # fmt: skip
    found, _ = written(made(flags), path)
    infos = {row[0]: row[4] for row in found.infos()}
    assert {page: infos[page] for page in flags} == {
        0x10000: 0x02, 0x11000: 0x20, 0x14000: 0x04, 0x15000: 0x40, PROGRAM: 0x20, PROGRAM + PAGE: 0x20,
        PROGRAM + 3 * PAGE: 0x02, LONELY: 0x20, KERNEL: 0x02,
    }  # fmt: skip
    assert found.comment["protect"] == "page tables"


@pytest.mark.parametrize(
    ("protection", "began_with", "protect"),
    [
        ("PAGE_EXECUTE", 0x10, 0x10),
        ("PAGE_EXECUTE_READWRITE|PAGE_GUARD|PAGE_WRITECOMBINE", 0x540, 0x140),
        ("PAGE_EXECUTE_WRITECOPY|PAGE_GUARD", 0x180, 0x120),
        ("PAGE_SOMETHING", 0, 0),
        ("PAGE_EXECUTE_WRITECOPY|PAGE_SOMETHING", 0x80, 0x20),
        (None, 0, 0),
        ("---p", 0x01, 0x01),
        ("r--s", 0x02, 0x02),
        ("rw-p", 0x04, 0x04),
        ("-w-p", 0x04, 0x04),
        ("--xp", 0x10, 0x10),
        ("rwxp", 0x40, 0x40),
        ("-wx", 0x40, 0x40),
    ],
)
def test_protections(path: Path, protection: str | None, began_with: int, protect: int) -> None:
    """Protections of Windows and of Unix are the numbers of winnt.h; what is not known is 0."""
    found, _ = written(made(regions=[Region(LONELY, PAGE, protection)]), path)
    assert [row[3:] for row in found.infos() if row[0] == LONELY] == [(began_with, protect, 0)]


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"kind": "heap"}, minidumps.PRIVATE), ({"kind": "TEB"}, minidumps.PRIVATE),
        ({"private": True}, minidumps.PRIVATE), ({"private": False}, minidumps.MAPPED),
        ({"kind": "page tables"}, 0), ({}, 0),
    ],
)  # fmt: skip
def test_types(path: Path, members: dict[str, Any], kind: int) -> None:
    """Kinds are one of the three types of memory, or none."""
    found, _ = written(made(regions=[Region(LONELY, PAGE, "PAGE_READONLY", **members)]), path)
    assert [row[5] for row in found.infos() if row[0] == LONELY] == [kind]


def test_modules(path: Path) -> None:
    """The program comes first; what headers say is read from memory; every module has a valid CodeView record.

    A module that begins where nothing is mapped is not listed, one whose first page is not there is; notes say so.
    """
    found, said = written(made(), path)
    assert found.modules() == [
        (PROGRAM, 0x4800, 0xC0FFEE, 0x5A5B4C3D, "C:\\Temp\\\u202eprogram.exe", RECORD),
        (LIBRARY, 2 * PAGE, 0, 0, "C:\\Windows\\library.dll", UNKNOWN_RECORD),
    ]
    assert any("1 module begins where nothing is mapped; not" in note for note in said.notes)
    assert any("1 module begins with a page that is not in the file; angr" in note for note in said.notes)


UNLOADED = [
    Module(0x7FFA40000000, 0x3000, "gone.dll", None, 0x5A5B4C3D, 0xC0FFEE, 7),
    Module(0x60000000, None, "half \ud800.dll"),
    Module(0x70000000, 1 << 33, None, None, 0, 0, 8),
]
STARTED = (
    Parameters("PEB", "x.exe \x1b[2J\ud800", "C:\\x.exe", "C:\\", ("A=b",)),
    Parameters("32-bit PEB", None, "C:\\x.exe", "D:\\"),
)


def test_unloaded_modules(path: Path) -> None:
    """Modules that were unloaded have a list of their own; it is there only if they are known, even if none was."""
    lists = (SourceRows("ntdll", UNLOADED[:1]), SourceRows("32-bit ntdll", UNLOADED[1:]))
    found, _ = written(made(metadata=lambda: Metadata(unloaded=lists)), path)
    assert found.unloaded() == [
        (0x7FFA40000000, 0x3000, 0xC0FFEE, 0x5A5B4C3D, "gone.dll"),
        (0x60000000, 0, 0, 0, "half \ufffd.dll"),
        (0x70000000, 0xFFFFFFFF, 0, 0, ""),
    ]
    (none,) = (SourceRows("ntdll", ()),)
    found, _ = written(made(metadata=lambda: Metadata(unloaded=(none,))), path, how=How(force=True))
    assert found.unloaded() == []
    with opened_as(MINIDUMP, path) as container:
        assert [list(one.rows) for one in container.process().metadata.unloaded] == [[]]
    found, _ = written(made(), path, how=How(force=True))
    assert 14 not in found.streams


def test_what_the_process_was_started_with(path: Path) -> None:
    """The comment says what the process was started with, without its environment; it is read again."""
    metadata = Metadata(parameters=STARTED, unloaded=(SourceRows("ntdll", UNLOADED),))
    found, _ = written(made(metadata=lambda: metadata), path)
    process = found.comment["process"]
    assert (process["command_line"], process["current_directory"]) == ("x.exe \x1b[2J\\ud800", "C:\\")
    assert "environment" not in json.dumps(process)
    assert "unloaded" not in process
    with opened_as(MINIDUMP, path) as container:
        again = container.process().metadata.parameters
    assert again == (
        STARTED[0]._replace(source="PEB, as the comment has it", command_line="x.exe \x1b[2J\\ud800", environment=None),
        STARTED[1]._replace(source="32-bit PEB, as the comment has it"),
    )


def test_a_comment_has_an_end(path: Path) -> None:
    """What would make the comment longer than is read again is left out of it; the rest is there."""
    long = Parameters("PEB", "\ud800" * 32767, "\ud800" * 32767, "\ud800" * 32767)
    metadata = Metadata(parameters=(long, long._replace(source="32-bit PEB", command_line="x")))
    found, _ = written(made(metadata=lambda: metadata), path)
    assert found.streams[10][0] < 1 << 20
    assert (found.comment["process"]["pid"], found.comment["complete"]) == (1624, True)


def test_resident(path: Path) -> None:
    """On request what angr refuses is left out: modules without first page, threads without a TEB that leads to itself.

    Memcarve knows that when it reads the file.
    """
    found, said = written(made(), path, resident=True)
    assert [row[0] for row in found.modules()] == [PROGRAM]
    assert found.threads() == []
    assert any("3 threads have TEBs that are not in the file, or damaged; not in" in note for note in said.notes)
    with opened_as(MINIDUMP, path) as container:
        assert not container.process().metadata.complete


@pytest.mark.parametrize(
    ("name", "first"),
    [("PROGRAM.EXE", PROGRAM), ("a-long-name-th", LIBRARY), ("library.d", PROGRAM), (None, PROGRAM), ("x", PROGRAM)],
)
def test_which_module_is_first(path: Path, name: str | None, first: int) -> None:
    """The first module is the one with the process's name, which the kernel cuts; else they are in order."""
    modules = [Module(PROGRAM, PAGE, "program.exe"), Module(LIBRARY + PAGE, PAGE, "a-long-name-that-is-cut.exe")]
    process = made(regions=None, name=name, metadata=lambda: Metadata(modules=(SourceRows("list", modules),)))
    bases = [row[0] for row in written(process, path)[0].modules()]
    assert bases[0] == (first if first == PROGRAM else LIBRARY + PAGE)
    assert sorted(bases) == [PROGRAM, LIBRARY + PAGE]


def test_image_base_tells_the_program(path: Path) -> None:
    """What the kernel says of where the program begins counts before names."""
    process = made(entry=ProcessEntry(1624, "program.exe", image_base=LIBRARY))
    assert [row[0] for row in written(process, path)[0].modules()] == [LIBRARY, PROGRAM]


@pytest.mark.parametrize(("listed", "size"), [(5 * PAGE, 0x4800), (None, 0x4800), (3 * PAGE, 3 * PAGE)])
def test_module_size(path: Path, listed: int | None, size: int) -> None:
    """A module's size is the header's, unless a list says that it has another number of pages."""
    modules = SourceRows("list", [Module(PROGRAM, listed, "program.exe")])
    process = made(regions=None, metadata=lambda: Metadata(modules=(modules,)))
    assert [row[1] for row in written(process, path)[0].modules()] == [size]


def test_damaged_headers(path: Path) -> None:
    """Whatever a debug directory says, the record is a whole one: read from memory, or the empty one."""
    for change in (
        (0x81C + 12, 3), (0x81C + 20, 0), (0x81C + 20, 0xFFFFFF00), (0x81C + 20, 0xFFE), (0x81C + 16, 4),
        (0xE8 + 24 + 108, 6), (0xE8 + 24 + 112 + 48, 0xFFFFFFF0), (0x900, 0),
    ):  # fmt: skip
        page = bytearray(PAGES[PROGRAM])
        struct.pack_into("<I", page, *change)
        process = made()
        process.space.backing.data = process.space.backing.data.replace(PAGES[PROGRAM], page)  # type: ignore[attr-defined]
        found, _ = written(process, path, how=How(force=True))
        assert [row[5] for row in found.modules()] == [UNKNOWN_RECORD] * 2


def test_threads(path: Path) -> None:
    """Threads have what is known: TEB, stack, registers, where they began. A CONTEXT says which registers it has."""
    found, _ = written(made(), path)
    nothing = minidumps.context64(dict.fromkeys(REGISTERS, 0), 0x100000)
    assert found.threads() == [
        (8, 0x11000, (0x14000, PAGE, 0), minidumps.context64(REGISTERS)),
        (12, 0, (0, 0, 0), nothing),
        (0, 0, (0, 0, 0), nothing),
    ]
    assert found.unpack("<III", 17) == (12, 64, 1)
    assert found.unpack("<IIII32xQQ", 17, 12) == (8, 0, 0, 0, PROGRAM + 0x10, 0)


def test_registers_of_32_bits(path: Path) -> None:
    """Threads of an x86 process have the CONTEXT of that architecture; groups that are not whole are not valid."""
    registers = minidumps.some_registers(minidumps.X86_REGISTERS)
    some = {name: value for name, value in registers.items() if name != "edi"}
    metadata = Metadata(threads=(SourceRows("list", [Thread(4, registers=registers), Thread(8, registers=some)]),))
    found, _ = written(made(regions=None, architecture="x86", metadata=lambda: metadata), path)
    contexts = [row[3] for row in found.threads()]
    assert contexts[0] == minidumps.context32(registers)
    integers = ("edi", "esi", "ebx", "edx", "ecx", "eax")
    assert contexts[1] == minidumps.context32(registers | dict.fromkeys(integers, 0), 0x10005)
    assert found.unpack("<H", 7) == (0,)


def test_lists_of_threads_add_up(path: Path) -> None:
    """Of several lists of threads each thread is there once, with what any list says of it, the first one's word."""
    first, second = [Thread(4, teb=0x1000)], [Thread(4, 0x2000, begin=5), Thread(8)]
    metadata = Metadata(threads=(SourceRows("one", first), SourceRows("two", second)))
    found, _ = written(made(regions=None, metadata=lambda: metadata), path)
    assert [row[:2] for row in found.threads()] == [(4, 0x1000), (8, 0)]
    assert found.unpack("<I44xQ", 17, 12)[1] == 5


def test_placeholder_thread(path: Path) -> None:
    """A thread is made up on request, and only where none is known; memcarve does not take it for one."""
    for metadata, asked, expected in ((Metadata(), False, []), (Metadata(), True, [1]), (None, True, [8, 12, 0])):
        members = {} if metadata is None else {"metadata": lambda metadata=metadata: metadata}
        process = made(**members)
        found, said = written(process, path, placeholder_thread=asked, how=How(force=True))
        assert [row[0] for row in found.threads()] == expected
        assert any("placeholder" in note for note in said.notes) == (expected == [1])
        if asked and metadata is not None:
            with opened_as(MINIDUMP, path) as container:
                assert container.process().metadata.threads == ()


@pytest.mark.parametrize(
    ("known", "given", "machine", "expected", "says"),
    [
        ("x64", None, None, 9, None),
        ("x86", None, 0x8664, 0, None),
        ("x86", "x64", None, 9, None),
        (None, None, 0x14C, 0, None),
        (None, None, 0xAA64, 12, None),
        (None, "arm", 0x8664, 5, None),
        (None, None, None, 9, "because addresses need 64 bits"),
    ],
)
def test_architecture(
    path: Path, known: str | None, given: str | None, machine: int | None, expected: int, says: str | None
) -> None:
    """The architecture is what was asked for, what the source knows, what headers say, or what addresses show."""
    page = bytearray(PAGES[PROGRAM])
    struct.pack_into("<H", page, 0xE8 + 4, machine or 0)
    process = made(architecture=known)
    process.space.backing.data = process.space.backing.data.replace(PAGES[PROGRAM], page)  # type: ignore[attr-defined]
    found, said = written(process, path, architecture=given)
    assert found.unpack("<H", 7) == (expected,)
    told = [note for note in said.notes if "architecture" in note]
    assert not told if says is None else says in told[0]
    with opened_as(MINIDUMP, path) as container:
        assert container.process().architecture == (
            {9: "x64", 0: "x86", 12: "arm64", 5: "arm"}[expected] if says is None else None
        )


def test_unknown_architecture(path: Path) -> None:
    """Where nothing shows the architecture the minidump says unknown, and threads have no registers."""
    process = made(regions=None, metadata=Metadata)
    found, said = written(process, path, how=How(Selection(half="user", address=[(0, 0x100000)])),
                          placeholder_thread=True)  # fmt: skip
    assert found.unpack("<H", 7) == (0xFFFF,)
    assert found.threads() == [(1, 0, (0, 0, 0), b"")]
    assert any("most tools want --architecture" in note for note in said.notes)
    with pytest.raises(UsageError, match="unknown architecture 'sparc'; choose from x86, arm, x64, arm64"):
        export_minidump(process, path, architecture="sparc")


@pytest.mark.parametrize(
    ("known", "given", "expected", "says"),
    [
        (Platform("windows", 10, 0, 19041), None, (10, 0, 19041, 2), None),
        (Platform("windows", 10, 0, 19041), Platform(None, 6, 1, 7601), (6, 1, 7601, 2), None),
        (Platform("windows"), None, (0, 0, 0, 2), "version of Windows is not known"),
        (Platform("linux", 6, 1), None, (6, 1, 0, 0x8201), None),
        (Platform(), None, (0, 0, 0, 2), "the system is not known"),
        (Platform(), Platform("windows", 10, 0, 22000), (10, 0, 22000, 2), None),
        (Platform("windows", 10, 0, 1 << 40), None, (10, 0, 0, 2), None),
    ],
)
def test_platform(
    path: Path, known: Platform, given: Platform | None, expected: tuple[int, ...], says: str | None
) -> None:
    """The system's version is what was asked for, else what the source knows, else 0, of which a note tells."""
    found, said = written(made(platform=known), path, platform=given)
    assert found.unpack("<IIII", 7, 8) == expected
    assert found.text(found.unpack("<I", 7, 24)[0]) == ""
    told = [note for note in said.notes if "system" in note or "version" in note]
    assert not told if says is None else says in told[0]
    with opened_as(MINIDUMP, path) as container:
        system = container.process().platform
    assert (system.system is None) == (known.system is None and given is None)


def test_platform_of_others(path: Path) -> None:
    """A system that minidumps have no number for is refused."""
    with pytest.raises(UsageError, match="for plan9; choose from windows, linux"):
        export_minidump(made(platform=Platform("plan9")), path)


def test_selection(path: Path) -> None:
    """A selection chooses the memory; what is left out is told, and noted in the file."""
    found, said = written(made(), path, how=How(Selection(half="user", min_size=2 * PAGE)))
    assert [row[:2] for row in found.ranges()] == [
        (0x10000, 2 * PAGE),
        (0x14000, PAGE),
        (0x15000, PAGE),
        (PROGRAM, 2 * PAGE),
    ]
    assert [left.reason for left in said.left_out] == ["outside --range user", "below --min-size"]
    assert found.comment["left_out"] == [left._asdict() for left in said.left_out]
    assert sum(left.bytes for left in said.left_out) + said.bytes == len(PAGES) * PAGE


def test_nothing_selected(path: Path) -> None:
    """A minidump without memory is one all the same."""
    found, said = written(made(), path, how=How(Selection(min_size=1 << 30)))
    assert (found.ranges(), said.bytes) == ([], 0)
    with opened_as(MINIDUMP, path) as container:
        assert len(container.process().space) == 0


def test_only_what_memcarve_wrote_is_replaced(path: Path) -> None:
    """--force replaces a minidump of memcarve's, and neither another's nor one that is cut before it can tell."""
    export_minidump(made(), path)
    with pytest.raises(TargetExistsError, match="force=True replaces it"):
        export_minidump(made(), path)
    data = path.read_bytes()
    export_minidump(made(), path, How(force=True))
    comment = b'{"tool": "something", "memcarve": "{\\"tool\\": \\"memcarve\\""}\0'
    for other in (data[:100], data[:31], b"", data.replace(b'"tool": "memc', b'"tool": "MEMC'),
                  minidumps.Dump([], comment=comment).build()):  # fmt: skip
        path.write_bytes(other)
        with pytest.raises(TargetExistsError, match="only what memcarve wrote"):
            export_minidump(made(), path, How(force=True))
        assert path.read_bytes() == other


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    """A named pipe where the minidump is to go is somebody else's, and nobody waits for what it might say."""
    os.mkfifo(path)
    with pytest.raises(TargetExistsError, match="exists; choose another"):
        export_minidump(made(), path)


def test_stacks_that_end_before_they_begin(path: Path) -> None:
    """A stack whose bounds cannot be is not known; the thread is there all the same."""
    threads = [Thread(7, stack_start=0x9000, stack_end=0x1000), Thread(8, stack_start=0x1000, stack_end=0x3000)]
    found, _ = written(made(metadata=lambda: Metadata(threads=(SourceRows("a table", threads),))), path)
    assert [(tid, stack) for tid, _, stack, _ in found.threads()] == [(7, (0, 0, 0)), (8, (0x1000, 0x2000, 0))]


def test_names_that_are_no_text(path: Path) -> None:
    """Halves of characters in a name, which are no text, are replaced; what is replaced is told nowhere else."""
    modules = SourceRows("list", [Module(PROGRAM, PAGE, "x", "C:\\\ud800\udcff\U0001f600.dll")])
    found, _ = written(made(regions=None, metadata=lambda: Metadata(modules=(modules,))), path)
    assert [row[4] for row in found.modules()] == ["C:\\\U000100ff\U0001f600.dll"]
    modules = SourceRows("list", [Module(PROGRAM, PAGE, "x", "C:\\\udcff.dll")])
    process = made(regions=None, metadata=lambda: Metadata(modules=(modules,)))
    assert [row[4] for row in written(process, path, how=How(force=True))[0].modules()] == ["C:\\\ufffd.dll"]


def test_many_ranges(path: Path) -> None:
    """65,536 ranges and more are written and read."""
    count = 70_001
    start = np.arange(count, dtype=np.uint64) * np.uint64(16) + np.uint64(0x10000)
    data = b"".join(number.to_bytes(8, "little") for number in range(count))
    space = AddressSpace(
        start, np.full(count, 8, np.uint64), np.arange(count, dtype=np.uint64) * np.uint64(8), Memory(data)
    )
    regions = [Region(at, 16, "PAGE_READWRITE", "private", private=True) for at in start.tolist()]
    metadata = Metadata((Regions("list", regions),))
    assert export_minidump(ProcessMemory(space, metadata=lambda: metadata), path).count == count
    with opened_as(MINIDUMP, path) as container:
        process = container.process()
        assert (process.space.start == start).all()
        assert process.space.read(0x10000 + 16 * 65_600, 8) == (65_600).to_bytes(8, "little")
        assert process.metadata.regions[0].rows == regions


# read again


def same_memory(one: ProcessMemory, other: ProcessMemory) -> None:
    """Hold two processes' segments and bytes against each other."""
    assert [each[:2] for each in one.segments()] == [each[:2] for each in other.segments()]
    assert all(one.space.read(*each[:2]) == other.space.read(*each[:2]) for each in one.segments())


def test_round_trip(path: Path) -> None:
    """A minidump of memcarve's has the same segments, regions, modules and threads, as far as the format holds them.

    It holds no files, tags and kinds but three of regions, none of their offsets; of modules a path or a name; no
    registers but those of whole groups; protections of Unix by Windows' names.
    """
    process = made(architecture="x64", platform=Platform("windows", 10, 0, 19041))
    export_minidump(process, path)
    with opened_as(MINIDUMP, path) as container:
        again = container.process()
        same_memory(process, again)
        assert (again.pid, again.name, again.architecture) == (1624, "program.exe", "x64")
        assert (again.platform, again.address_bits, again.kernel_half) == (process.platform, 48, 1 << 63)
        assert not again.incomplete
        assert any("written by memcarve from an unknown input" in note for note in again.notes)
        kinds = {"stack": "private", None: "mapped"}
        assert again.metadata.regions[0].rows == [
            row._replace(
                file=None,
                kind=kinds.get(row.kind, row.kind),
                protection={"r-xp": "PAGE_EXECUTE_READ"}.get(row.protection or "", row.protection),
                allocation=row.start,
            )
            for row in REGIONS
        ]
        assert list(again.metadata.modules[0].rows) == [
            MODULES[1]._replace(size=0x4800, name="\u202eprogram.exe"),
            MODULES[0],
        ]
        assert list(again.metadata.threads[0].rows) == [THREADS[0], Thread(12), THREADS[2]]
        assert Region(0x11000, 2 * PAGE, kind="TEB", detail="thread 8") in again.metadata.areas[0].rows


def test_nothing_known_stays_so(path: Path) -> None:
    """Of a process of which nothing is known but bytes, nothing more is known after the way through a minidump."""
    process = made(regions=None, metadata=Metadata, pid=None, name=None, incomplete=True)
    export_minidump(process, path)
    with opened_as(MINIDUMP, path) as container:
        again = container.process()
        same_memory(process, again)
        assert again.metadata == Metadata(complete=False)
        assert (again.pid, again.name, again.architecture, again.platform) == (None, None, None, Platform())
        assert again.incomplete


def test_example(path: Path) -> None:
    """The example with its regions and modules makes the round trip."""
    examples = ROOT / "examples"
    with memcarve.open(EXAMPLE, regions=examples / "vadinfo.txt", modules=examples / "dlllist.txt") as dump:
        process = dump.process()
        export_minidump(process, path)
        with opened_as(MINIDUMP, path) as container:
            again = container.process()
            same_memory(process, again)
            before, after = process.metadata, again.metadata
            assert after.regions[0].rows == [row._replace(file=None, tag=None) for row in before.regions[0].rows]
            assert list(after.modules[0].rows) == list(before.modules[0].rows)
            assert after.threads == ()
            assert again.notes == [f"{path}: written by memcarve from {EXAMPLE}"]


def test_image(tmp_path: Path) -> None:
    """A process of an image makes the round trip: protections of pages, regions, the loader's modules, threads."""
    truth = winimage.build(tmp_path / "mem.raw", layout=8, processes=winimage.USERLAND)
    path = tmp_path / "process.mdmp"
    with memcarve.open(truth.path) as image:
        process = image.process(1624)
        found, _ = written(process, path)
        pages = {
            address: (w, x) for address, _, _, _, w, x, state in truth.process(1624).user.items() if state == "present"
        }
        allowed = {(False, False): 0x02, (True, False): 0x04, (False, True): 0x20, (True, True): 0x40}
        starts = {start for start, _, _ in found.ranges()}
        checked = {row[0]: row[4] for row in found.infos() if row[0] in pages and row[0] in starts}
        assert checked == {address: allowed[pages[address]] for address in checked}
        assert len(set(checked.values())) == 4
        with opened_as(MINIDUMP, path) as container:
            again = container.process()
            user = Selection(half="user")
            assert [each[:2] for each in again.segments()] == [each[:2] for each in process.segments(user)]
            assert again.platform == process.platform == Platform("windows", 10, 0, again.platform.build)
            known = {
                row.tid: (row.teb, row.stack_start, row.stack_end, row.begin)
                for row in process.metadata.threads[0].rows
            }
            assert {
                row.tid: (row.teb, row.stack_start, row.stack_end, row.begin) for row in again.metadata.threads[0].rows
            } == known
            assert [(row.start, row.size, row.protection) for row in again.metadata.regions[0]] == [
                (row.start, row.size, row.protection) for row in process.metadata.regions[0]
            ]
            plan = truth.process(1624).userland
            assert plan is not None
            assert plan.trace is not None
            assert found.unloaded() == [
                (event.base, event.size, event.checksum, event.timestamp, event.name.replace("\ud800", "\ufffd"))
                for event in plan.trace.events
            ]
            assert [row for one in again.metadata.unloaded for row in one.rows] == [
                Module(
                    event.base,
                    event.size,
                    event.name.replace("\ud800", "\ufffd"),
                    None,
                    event.timestamp,
                    event.checksum,
                )
                for event in plan.trace.events
            ]


def test_against_a_dictionary_of_pages(path: Path) -> None:
    """Random pages and regions, overlapping ones too: every page has one row, its region's; each range begins one."""
    dice = random.Random(3)  # noqa: S311
    words = {"PAGE_NOACCESS": 1, "PAGE_READONLY": 2, "PAGE_READWRITE": 4, "PAGE_EXECUTE": 16}
    top = (1 << 64) // PAGE
    for _ in range(60):
        pages = sorted(dice.sample(range(24), dice.randrange(24)))
        shift = dice.choice([0, top - 24])
        regions = []
        for _ in range(dice.randrange(5)):
            low = dice.randrange(24)
            size = dice.randrange(1, 25 - low)
            regions.append(Region((low + shift) * PAGE, size * PAGE, dice.choice(list(words))))
        start = np.array([(page + shift) * PAGE for page in pages], np.uint64)
        offset = np.arange(len(pages), dtype=np.uint64) * np.uint64(PAGE)
        space = AddressSpace(start, np.full(len(pages), PAGE, np.uint64), offset, Memory(bytes(PAGE * len(pages))))
        metadata = Metadata((Regions("list", regions),))
        process = ProcessMemory(space, metadata=lambda metadata=metadata: metadata)
        found, _ = written(process, path, how=How(force=True))
        rows: dict[int, tuple[int, ...]] = {}
        for base, size, *rest in found.infos():
            for page in range(base // PAGE, (base + size) // PAGE):
                assert page not in rows
                rows[page] = tuple(rest)
        ordered = sorted(regions, key=lambda region: (region.size, region.start))
        for page in range(shift, shift + 24):
            owner = next((each for each in ordered if each.start <= page * PAGE < each.end), None)
            if owner is not None:
                number = words[owner.protection or ""]
                assert rows.pop(page) == (owner.start, number, number, 0)
            elif page - shift in pages:
                assert rows.pop(page)[1:] == (0, 0, 0)
        assert rows == {}
        assert {row[0] for row in found.ranges()} <= {row[0] for row in found.infos()}
