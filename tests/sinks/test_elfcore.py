"""ELF cores as output: asked of gdb, lldb, readelf, pyelftools, LIEF and angr's cle; and read again by memcarve."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
import sinking
import winimage
from cores import PROGRAM, compiled, crashed, gdb, gdb_memory, lldb, needed, run
from files import ROOT, put
from memcarve import errors
from memcarve.backing import FileBacking
from memcarve.formats.elf_core import process_notes
from memcarve.metadata import Metadata, Module, Parameters, Region, Regions, SourceRows, Thread
from memcarve.missing import CUT_OFF, NOT_WRITTEN, Missing
from memcarve.process import Platform, ProcessMemory, Selection
from memcarve.provenance import Provenance
from memcarve.sinks.ownership import foreign
from memcarve.sources.recognised import CORE
from memcarve.space import AddressSpace
from memcarve.vocabulary import Architecture
from memory import PAGE, Memory, content
from opening import opened_as
from processes import process_with
from sinking import How, export_elfcore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.sinks.sink import Result

NAMES = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs "
    "gs"
)
REGISTERS = {name: 0x1000 + place for place, name in enumerate(NAMES.split())} | {"rip": 0x7FF670001000}
#: pages: private, the program with a hole in it, a library, a file with a Unix path and a hole, the kernel's half
RANGES = [
    (0x10000, 2 * PAGE),
    (0x7FF670000000, 3 * PAGE),
    (0x7FF670005000, PAGE),
    (0x7FFA12200000, 4 * PAGE),
    (0x7FFA12300000, PAGE),
    (0x7FFA12302000, PAGE),
    (0xFFFFF80000000000, PAGE),
]
REGIONS = [
    Region(0x10000, PAGE, "PAGE_READWRITE", "private", None, "VadS", private=True),
    Region(0x11000, 3 * PAGE, "PAGE_NOACCESS|PAGE_GUARD", "private", None, "VadS", private=True),
    Region(
        0x7FF670000000, 8 * PAGE, "PAGE_EXECUTE_WRITECOPY", "image", "\\Windows\\ä\udcff.exe", "Vad ", private=False
    ),
    Region(
        0x7FFA12200000, 4 * PAGE, "PAGE_EXECUTE_READ", "mapped", "\\Windows\\System32\\ntdll.dll", "Vad ", private=False
    ),
    Region(0x7FFA12300000, 3 * PAGE, "r--p", "mapped", "/usr/lib/thing.so", None, None, 5 * PAGE),
]
MODULES = [Module(0x7FF670000000, 8 * PAGE, "ä.exe", "C:\\Windows\\ä.exe"), Module(0x7FFA12201000, PAGE, "inner.dll")]
THREADS = [
    Thread(1640, teb=0x10000, begin=0x7FF670001000, registers=REGISTERS),
    Thread(1644, teb=0x11000, stack_start=0x10000, stack_end=0x12000),
]
MISSING = [Missing(0x12000, PAGE, NOT_WRITTEN), Missing(0x7FF670003000, PAGE, CUT_OFF)]


def made(
    folder: Path,
    ranges: Sequence[tuple[int, int]] = RANGES,
    regions: Sequence[Region] = REGIONS,
    modules: Sequence[Module] = MODULES,
    threads: Sequence[Thread] = THREADS,
    **known: Any,
) -> ProcessMemory:
    """Return a process whose bytes say their address, in a file where they lie in reverse."""
    data, offsets = b"", []
    for start, size in reversed(ranges):
        offsets.append(len(data) + 100)
        data += bytes(100) + content(start, size)
    backing = FileBacking(put(folder / "pid.1624.dmp", data))
    columns = [
        np.array(column, np.uint64) for column in ([a for a, _ in ranges], [b for _, b in ranges], offsets[::-1])
    ]
    given = {
        "pid": 1624,
        "name": "a-long-name-of-a-program.exe",
        "architecture": "x64",
        "platform": Platform("windows", 10, 0, 19041),
        "missing": MISSING,
        "inputs": {"dump": {"path": backing.path, "size": backing.size}},
    } | known
    space = AddressSpace(
        columns[0], columns[1], columns[2], backing, given.pop("missing"), flags=given.pop("flags", None)
    )
    metadata = Metadata(
        (Regions("windows.vadinfo", regions),) if regions else (),
        (SourceRows("windows.dlllist", modules),) if modules else (),
        (SourceRows("windows.threads", threads),) if threads else (),
    )
    return process_with(space, metadata=lambda: metadata, left_out={"between": 100 * len(ranges)}, **given)


def reopened(path: Path) -> ProcessMemory:
    """Return the process of a core."""
    return opened_as(CORE, path).process()


def programs(path: Path) -> list[tuple[int, int, int, str]]:
    """Return offset, address, size in file and flags of each PT_LOAD, as readelf shows them."""
    text = run(needed("readelf"), "-lW", str(path))
    rows = re.findall(r"(?m)^  LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) (...) ", text)
    assert all(size == whole for _, _, size, whole, _ in rows)
    return [(int(a, 16), int(b, 16), int(size, 16), flags) for a, b, size, _, flags in rows]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProcessMemory, Path, Result]:
    """Return the process, its core, and what was said."""
    folder = tmp_path_factory.mktemp("exported")
    process = made(folder)
    path = folder / "pid.1624.core"
    return process, path, export_elfcore(process, path, How(command=["memcarve", "export"]))


Exported = tuple[ProcessMemory, "Path", "Result"]


def expected(address: int, size: int = 8) -> bytes | None:
    """Return the bytes at an address, None where some are not there."""
    there = all(
        any(start <= place < start + length for start, length in RANGES) for place in (address, address + size - 1)
    )
    return content(address, size) if there else None


def test_layout(exported: Exported) -> None:
    """The headers are those of a core for Linux without a section, its memory begins at a page and is split."""
    process, path, said = exported
    text = run(needed("readelf"), "-hW", str(path))
    for words in ("ELF64", "little endian", "UNIX - (GNU|Linux)", "CORE", "X86-64"):
        assert re.search(words, text)
    assert re.search(r"Number of section headers: +0", text)
    rows = programs(path)
    assert [(start, size, flags) for _, start, size, flags in rows] == [
        (0x10000, PAGE, "RW "),
        (0x11000, PAGE, "   "),
        (0x7FF670000000, 3 * PAGE, "RWE"),
        (0x7FF670005000, PAGE, "RWE"),
        (0x7FFA12200000, PAGE, "R E"),
        (0x7FFA12201000, PAGE, "R E"),
        (0x7FFA12202000, 2 * PAGE, "R E"),
        (0x7FFA12300000, PAGE, "R  "),
        (0x7FFA12302000, PAGE, "R  "),
        (0xFFFFF80000000000, PAGE, "RWE"),
    ]
    assert rows[0][0] % PAGE == 0
    data = path.read_bytes()
    for offset, start, size, _ in rows:
        assert data[offset : offset + size] == content(start, size)
    assert (said.count, said.bytes) == (10, process.space.total)
    assert len(data) == rows[-1][0] + PAGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_gdb_reads_memory(exported: Exported) -> None:
    """In gdb are the same bytes at the same addresses, and none where nothing is, nor where bytes are missing."""
    _, path, _ = exported
    ends = [start + size for start, size in RANGES]
    wanted = sorted(
        {0x500, *(start + step for start, _ in RANGES for step in (-4, 0, 0x88))} | {end - 8 for end in ends}
    )
    wanted += [end + step for end in ends for step in (-4, 0)]
    found = gdb_memory(path, wanted, 8)
    assert found == [expected(address) for address in wanted]
    assert found.count(None) > 10


def test_gdb_knows_files_and_threads(exported: Exported) -> None:
    """In gdb are the mapped files with their offsets, the threads, and their registers."""
    _, path, _ = exported
    text = gdb(
        path,
        "info proc mappings",
        *(f'printf "{name}=%lx\\n", ${name}' for name in NAMES.split()),
        "info threads",
        "thread 2",
        'printf "second=%lx %lx\\n", $gs_base, $rip',
    )
    rows = re.findall(r"(?m)^ +0x(\w+) +0x(\w+) +0x(\w+) +0x(\w+) (.*)$", text)
    assert [(int(a, 16), int(b, 16), int(at, 16)) for a, b, _, at, _ in rows] == [
        (0x7FF670000000, 0x7FF670006000, 0),
        (0x7FFA12200000, 0x7FFA12204000, 0),
        (0x7FFA12300000, 0x7FFA12301000, 5 * PAGE),
        (0x7FFA12302000, 0x7FFA12303000, 7 * PAGE),
    ]
    assert [row[4] for row in rows[1:]] == ["\\Windows\\System32\\ntdll.dll", "/usr/lib/thing.so", "/usr/lib/thing.so"]
    shown = {name: int(value, 16) for name, value in re.findall(r"(?m)^(\w+)=(\w+)$", text)}
    assert shown == REGISTERS
    assert re.findall(r"LWP (\d+)", text.split("Target Id")[1])[:2] == ["1640", "1644"]
    assert "second=11000 0" in text


def test_gdb_begins_with_a_thread_that_is_known(tmp_path: Path) -> None:
    """If nothing is known of the first thread, as of one that has ended before the others, gdb shows the next one."""
    threads = [Thread(7, state="zombie"), Thread(8, registers=REGISTERS), Thread(9, registers=REGISTERS)]
    export_elfcore(made(tmp_path, threads=threads), tmp_path / "core")
    text = gdb(tmp_path / "core", "thread", "info threads")
    assert "Current thread is 1 (LWP 8)" in text
    assert re.findall(r"LWP (\d+)", text.split("Target Id")[1]) == ["8", "7", "9"]
    assert [thread.tid for thread in reopened(tmp_path / "core").metadata.all_threads()] == [7, 8, 9]


def test_lldb(exported: Exported) -> None:
    """In lldb are the same bytes, permissions and threads."""
    process, path, _ = exported
    commands = [f"memory read --format x --size 1 --count 16 {start}" for start, _ in RANGES]
    commands += [f"memory region {start}" for _, start, _, _ in programs(path)]
    text = lldb(path, *commands, "thread list", "register read rip r15 gs_base")
    for start, _ in RANGES:
        lines = re.findall(rf"(?m)^0x{start:08x}: (.*)$|^0x{start + 8:08x}: (.*)$", text)
        data = bytes(int(word, 16) for line in lines for word in "".join(line).split())
        assert data == process.space.read(start, 16)
    regions = re.findall(r"\[0x(\w+)-0x(\w+)\) (...)", text)
    words = [flags.replace("E", "x").replace(" ", "-").lower() for _, _, _, flags in programs(path)]
    letters = ["".join(letter if letter in word else "-" for letter in "rwx") for word in words]
    assert [(int(a, 16), word) for a, _, word in regions] == [
        (start, word) for (_, start, _, _), word in zip(programs(path), letters, strict=True)
    ]
    assert re.findall(r"thread #\d+: tid = (\d+)", text) == ["1640", "1644"]
    assert re.search(rf"rip = 0x0*{REGISTERS['rip']:x}", text)
    assert re.search(rf"r15 = 0x0*{REGISTERS['r15']:x}", text)


def test_pyelftools(exported: Exported) -> None:
    """The Python package pyelftools finds the notes that Linux writes, and memcarve's own."""
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed")
    _, path, _ = exported
    with path.open("rb") as file:
        elf = elffile.ELFFile(file)
        (segment,) = [each for each in elf.iter_segments() if each["p_type"] == "PT_NOTE"]
        notes = [(note["n_name"], note["n_type"], note["n_desc"]) for note in segment.iter_notes()]
    assert [row[:2] for row in notes[1:]] == [
        ("CORE", "NT_PRSTATUS"),
        ("CORE", "NT_PRPSINFO"),
        ("CORE", "NT_FILE"),
        ("CORE", "NT_PRSTATUS"),
    ]
    info, mapped = notes[2][2], notes[3][2]
    assert (info["pr_pid"], info["pr_fname"].rstrip(b"\0")) == (1624, b"a-long-name-of-")
    assert info["pr_psargs"].rstrip(b"\0") == b"a-long-name-of-a-program.exe"
    assert mapped["page_size"] == PAGE
    assert mapped["filename"][0] == "\\Windows\\ä\\udcff.exe".encode()
    document = json.loads(notes[0][2])
    assert notes[0][0] == "memcarve"
    assert document["command"] == ["memcarve", "export"]
    assert document["p_flags"] == "regions"
    assert document["inputs"]["dump"]["path"].endswith("pid.1624.dmp")


def test_lief(exported: Exported) -> None:
    """LIEF finds the same memory, mapped files and threads."""
    lief = pytest.importorskip("lief", reason="LIEF is not installed")
    process, path, _ = exported
    elf = lief.parse(str(path))
    loads = [each for each in elf.segments if each.type == lief.ELF.Segment.TYPE.LOAD]
    assert [(each.virtual_address, bytes(each.content)) for each in loads] == [
        (start, process.space.read(start, size)) for _, start, size, _ in programs(path)
    ]
    kinds = [type(note).__name__ for note in elf.notes]
    assert kinds.count("CorePrStatus") == 2
    (mapped,) = [note for note in elf.notes if isinstance(note, lief.ELF.CoreFile)]
    assert [(row.start, row.end) for row in mapped.files][2:] == [
        (0x7FFA12300000, 0x7FFA12301000),
        (0x7FFA12302000, 0x7FFA12303000),
    ]


CLE = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import cle
loader = cle.Loader(sys.argv[1], auto_load_libs=False)
found = {}
for address in json.loads(sys.argv[2]):
    try:
        found[address] = loader.memory.load(address, 8).hex()
    except KeyError:
        found[address] = None
threads = [thread["registers"]["rip"] for thread in loader.main_object._threads] if hasattr(
    loader.main_object, "_threads") else []
print(json.dumps([found, threads]))
"""


def test_cle(exported: Exported) -> None:
    """The loader of angr has the same bytes at the same addresses."""
    process, path, _ = exported
    if subprocess.run([sys.executable, "-c", "import cle"], capture_output=True, check=False).returncode:
        pytest.skip("cle is not installed")
    wanted = [start + step for start, size in RANGES for step in (0, 0x88, size - 8)]
    done = subprocess.run(
        [sys.executable, "-c", CLE, str(path), json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    found, _ = json.loads(done.stdout.splitlines()[-1])
    assert {int(key): value for key, value in found.items()} == {
        address: process.space.read(address, 8).hex() for address in wanted
    }


def test_round_trip(exported: Exported) -> None:
    """What is read again is the same: segments, bytes, what is missing, regions, modules, threads, who it is."""
    process, path, _ = exported
    again = reopened(path)
    assert [(row.start, row.end) for row in again.segments()] == [(row.start, row.end) for row in process.segments()]
    for segment in process.segments():
        assert again.space.read(segment.start, segment.size) == process.space.read(segment.start, segment.size)
    assert list(again.space.missing) == MISSING
    assert list(again.metadata.regions[0].rows) == REGIONS
    assert list(again.metadata.modules[0].rows) == MODULES
    assert again.metadata.threads[0].rows == [
        THREADS[0],
        THREADS[1],
    ]
    assert (again.pid, again.name, again.architecture) == (1624, "a-long-name-of-a-program.exe", "x64")
    assert again.platform == process.platform
    assert again.input_bytes == again.space.total + sum(again.left_out.values()) == path.stat().st_size
    assert again.inputs["dump"]["written_from"] == process.inputs
    assert again.incomplete
    assert "the core's note" in again.metadata.regions[0].source


def test_what_processes_say_of_themselves(tmp_path: Path) -> None:
    """What a process was started with, and what it unloaded, is in the core's note; its environment is not."""
    started = Parameters("PEB", "x.exe \x1b[2J\ud800", "C:\\x.exe", None, ("A=b",))
    gone = SourceRows("ntdll", [Module(0x7FFA40000000, 0x3000, "half \ud800.dll", None, 5, 6, 7)])
    process = made(tmp_path)
    process.metadata = process.metadata._replace(parameters=(started,), unloaded=(gone,))
    export_elfcore(process, tmp_path / "core")
    again = reopened(tmp_path / "core").metadata
    # halves of characters, which strict readers of JSON refuse, are escaped
    assert again.parameters == (
        Parameters("PEB, as the core's note has it", r"x.exe \x1b[2J\ud800".replace(r"\x1b", "\x1b"), "C:\\x.exe"),
    )
    assert again.unloaded == (
        SourceRows("ntdll, as the core's note has it", [gone.rows[0]._replace(name=r"half \ud800.dll")]),
    )


def test_made_up_flags_are_not_protections(tmp_path: Path) -> None:
    """Where nothing is known of protections the core allows everything, says so, and is not believed when read."""
    process = made(tmp_path, regions=[], modules=[], threads=[])
    said = export_elfcore(process, tmp_path / "core")
    assert {row[3] for row in programs(tmp_path / "core")} == {"RWE"}
    assert any("of 7 of 7 ranges the permissions are not known" in note for note in said.notes)
    assert reopened(tmp_path / "core").metadata == Metadata()


def test_modules_name_files_without_regions(tmp_path: Path) -> None:
    """Where regions are not known the modules' paths are what is mapped."""
    export_elfcore(made(tmp_path, regions=[], threads=[]), tmp_path / "core")
    rows = re.findall(r"(?m)^ +0x(\w+) +0x(\w+) +0x\w+ +0x(\w+) (.*)$", gdb(tmp_path / "core", "info proc mappings"))
    assert [(int(a, 16), int(b, 16), int(at, 16), name) for a, b, at, name in rows] == [
        (0x7FF670000000, 0x7FF670006000, 0, "C:\\Windows\\ä.exe"),
        (0x7FFA12201000, 0x7FFA12202000, 0, "inner.dll"),
    ]


def test_gdb_fills_no_gap_from_files_here(tmp_path: Path) -> None:
    """A page that is not there is not read from the file of that name on the machine that gdb runs on."""
    local = put(tmp_path / "library.so", content(0, 3 * PAGE))
    regions = [Region(0x5000, 3 * PAGE, "r-xp", "mapped", local, None, None, 0)]
    export_elfcore(made(tmp_path, [(0x5000, PAGE), (0x7000, PAGE)], regions, [], [], missing=[]), tmp_path / "core")
    text = run(
        needed("gdb"),
        "-nx",
        "-batch",
        "-ex",
        f"core-file {tmp_path / 'core'}",
        "-ex",
        "x/8xb 0x6000",
        "-ex",
        "x/8xb 0x7000",
    )
    assert "Cannot access memory at address 0x6000" in text
    assert f"0x7000:\t{content(0x7000, 1)[0]:#04x}" in text


def test_page_tables_count_first(tmp_path: Path) -> None:
    """Of an image the flags are what the page tables allow, page by page; the note says so."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    assert truth is not None
    with memcarve.open(tmp_path / "mem.raw") as container:
        process = container.process(1624)
        export_elfcore(process, tmp_path / "core")
        space, metadata = process.space, process.metadata
        assert space.flags is not None
        rows = programs(tmp_path / "core")
        assert len({row[3] for row in rows}) > 2
        for _, start, size, flags in rows:
            index = space.index(start)
            while index < len(space) and int(space.start[index]) < start + size:
                allowed = memcarve_permissions(int(space.flags[index]))
                assert flags.replace("E", "x").replace(" ", "") == allowed.upper().replace("X", "x").replace("-", "")
                index += 1
        again = reopened(tmp_path / "core")
        assert [row[:8] for row in again.metadata.regions[0].rows] == [row[:8] for row in metadata.regions[0].rows]
        assert len(again.segments()) == len(process.segments())
        assert again.metadata.modules[0].rows
        assert again.kernel_half == process.kernel_half


def test_the_kernel_half_comes_back(tmp_path: Path) -> None:
    """A core that memcarve wrote says where the kernel's half begins, as text; one of schema 1 said it as a number."""
    space = AddressSpace(*(np.array([number], np.uint64) for number in (0x10000, PAGE, 0)), Memory(content(0, PAGE)))
    export_elfcore(process_with(space, architecture="x86", address_bits=32, kernel_half=0xC0000000), tmp_path / "core")
    assert reopened(tmp_path / "core").kernel_half == 0xC0000000
    assert Provenance({"kernel_half": 0xC0000000}).kernel_half == 0xC0000000
    assert Provenance({"kernel_half": "3 GiB"}).kernel_half is None


def memcarve_permissions(flags: int) -> str:
    """Return what a column of flags allows: bit 1 is writing, bit 2 executing."""
    return f"r{'w' if flags & 2 else ''}{'x' if flags & 4 else ''}"


# 32 bits


def test_32_bits(tmp_path: Path) -> None:
    """A 32-bit process is an ELF32 core, which gdb and lldb read, registers and all."""
    ranges = [(0x400000, 2 * PAGE), (0xFFFFE000, 2 * PAGE)]
    names = [
        "ebx",
        "ecx",
        "edx",
        "esi",
        "edi",
        "ebp",
        "eax",
        "ds",
        "es",
        "fs",
        "gs",
        "orig_eax",
        "eip",
        "cs",
        "eflags",
        "esp",
        "ss",
    ]
    registers = {name: 0x100 + place for place, name in enumerate(names)}
    threads = [Thread(7, registers=registers)]
    regions = [Region(0x400000, 2 * PAGE, "r-xp", "mapped", "/bin/thing", None, None, 0)]
    process = made(tmp_path, ranges, regions, [], threads, missing=[], architecture="x86", platform=Platform("linux"))
    export_elfcore(process, tmp_path / "core")
    text = run(needed("readelf"), "-hW", str(tmp_path / "core"))
    assert "ELF32" in text
    assert "Intel 80386" in text
    assert gdb_memory(tmp_path / "core", [0x400000, 0x401FF8, 0xFFFFFFF8, 0x402000], 8) == [
        content(0x400000, 8), content(0x401FF8, 8), content(0xFFFFFFF8, 8), None,
    ]  # fmt: skip
    shown = gdb(tmp_path / "core", *(f'printf "{name}=%x\\n", ${name}' for name in names), "info proc mappings")
    assert {name: int(value, 16) for name, value in re.findall(r"(?m)^(\w+)=(\w+)$", shown)} == registers
    assert re.search(r"0x400000 +0x402000 +0x2000 +0x0 /bin/thing", shown)
    assert re.search(r"eip = 0x0*10c", lldb(tmp_path / "core", "register read eip"))
    again = reopened(tmp_path / "core")
    assert again.architecture == "x86"
    assert again.metadata.threads[0].rows[0].registers == registers
    assert [(row.start, row.end) for row in again.segments()] == [(a, a + b) for a, b in ranges]


def test_32_bits_hold_no_more(tmp_path: Path) -> None:
    """Memory of a 32-bit process beyond 4 GiB is refused with the remedy, which works."""
    process = made(tmp_path, architecture="x86", threads=[Thread(7, registers={"eip": 1})])
    with pytest.raises(errors.UsageError, match="architecture='x64'"):
        export_elfcore(process, tmp_path / "core")
    assert not (tmp_path / "core").exists()
    export_elfcore(process, tmp_path / "core", architecture="x64")
    assert len(programs(tmp_path / "core")) == 10
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", (1 << 32) - PAGE)
    column = [np.array([value], np.uint64) for value in (0, (1 << 32) - PAGE, 0)]
    space = AddressSpace(column[0], column[1], column[2], FileBacking(tmp_path / "large"))
    with pytest.raises(errors.UsageError, match="ends at 4 GiB; architecture='x64'"):
        export_elfcore(process_with(space, architecture="x86"), tmp_path / "core", How(force=True))
    with pytest.raises(errors.UsageError, match="unknown architecture 'sparc'; choose from x64, x86, arm64, arm"):
        export_elfcore(process, tmp_path / "other", architecture="sparc")


def test_unknown_architecture(tmp_path: Path) -> None:
    """Where the architecture is not known the core is of x86-64 and that is said, unless registers are of 32 bits.

    What was assumed is not known to memcarve afterwards; what was told is.
    """
    said = export_elfcore(made(tmp_path, architecture=None), tmp_path / "core")
    assert "the architecture is not known; the core says x86-64" in said.notes
    assert reopened(tmp_path / "core").architecture is None
    export_elfcore(made(tmp_path, architecture=None), tmp_path / "told", architecture="x64")
    assert reopened(tmp_path / "told").architecture == "x64"
    narrow = made(tmp_path, RANGES[:1], architecture=None, threads=[Thread(7, registers={"eip": 1})])
    export_elfcore(narrow, tmp_path / "narrow")
    assert (tmp_path / "narrow").read_bytes()[4] == 1  # EI_CLASS: 32 bits
    assert reopened(tmp_path / "narrow").architecture is None


@pytest.mark.parametrize(("bits", "word"), [(32, "x86"), (64, "x64")])
def test_files_at_the_very_end(tmp_path: Path, bits: int, word: str) -> None:
    """A file at the last page ends at the last address, as no word holds more; an offset beyond a word is no file's.

    Nor is what the kernel maps by a name in brackets.
    """
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed")
    last = (1 << bits) - PAGE
    regions = [
        Region(0x1000, PAGE, "r--p", "mapped", "/far", None, None, 1 << 60),
        Region(0x2000, PAGE, "r-xp", None, "[vdso]"),
        Region(last, PAGE, "r--p", "mapped", "/last", None, None, 0),
    ]
    process = made(tmp_path, [(0x1000, 2 * PAGE), (last, PAGE)], regions, [], [], missing=[], architecture=word)
    export_elfcore(process, tmp_path / "core")
    with (tmp_path / "core").open("rb") as file:
        notes = [note for part in elffile.ELFFile(file).iter_segments("PT_NOTE") for note in part.iter_notes()]
    (found,) = (note["n_desc"] for note in notes if note["n_type"] == "NT_FILE")
    rows = [(row["vm_start"], row["vm_end"]) for row in found["Elf_Nt_File_Entry"]]
    assert rows == [(0x1000, 0x2000)] * (bits == 64) + [(last, (1 << bits) - 1)]
    assert reopened(tmp_path / "core").metadata.regions[0].rows == regions


# sizes


@pytest.mark.parametrize("count", [65_533, 65_534, 70_000])
def test_many_ranges(tmp_path: Path, count: int) -> None:
    """From 65,535 program headers on their number is in section 0, the only section; gdb reads the last range."""
    start = np.arange(count, dtype=np.uint64) * np.uint64(2 * PAGE) + np.uint64(PAGE)
    backing = FileBacking(put(tmp_path / "dump", content(0, 16 * PAGE)))
    offset = np.arange(count, dtype=np.uint64) % np.uint64(16) * np.uint64(PAGE)
    space = AddressSpace(start, np.full(count, 16, np.uint64), offset, backing)
    said = export_elfcore(process_with(space, architecture="x64"), tmp_path / "core")
    assert said.count == count
    text = run(needed("readelf"), "-hW", str(tmp_path / "core"))
    sections = int(re.findall(r"Number of section headers: +(\d+)", text)[0])
    if count + 1 < 65_535:
        assert (sections, re.findall(r"Number of program headers: +(.*)", text)) == (0, [str(count + 1)])
    else:
        assert (sections, re.findall(r"Number of program headers: +(.*)", text)) == (1, [f"65535 ({count + 1})"])
    last = int(start[-1])
    assert gdb_memory(tmp_path / "core", [last, last + 16], 8) == [content(int(offset[-1]), 8), None]
    again = reopened(tmp_path / "core")
    assert again.space.start.tolist() == start.tolist()
    assert again.space.read(last, 16) == content(int(offset[-1]), 16)


def test_more_than_4_gib(tmp_path: Path) -> None:
    """Memory that lies beyond 4 GiB in the file is found there, by gdb and by memcarve."""
    sizes = [(4 << 30) + 16 * PAGE, PAGE]
    starts = [0x10000000, 0x7FFA12200000]
    columns = [np.array(column, np.uint64) for column in (starts, sizes)]
    head = process_notes.layout(
        Architecture.X64,
        process_notes.info_note(64, process_notes.Identity(1624, b"x")),
        columns[0],
        columns[1],
        np.full(2, 6, np.uint32),
    )
    with (tmp_path / "core").open("wb") as file:
        file.writelines(head.blocks)
        assert file.tell() == head.base
        file.seek(head.base + sizes[0])
        file.write(content(starts[1], PAGE))
    last = starts[1] + PAGE - 8
    assert gdb_memory(tmp_path / "core", [starts[1], last], 8) == [content(starts[1], 8), content(last, 8)]
    again = reopened(tmp_path / "core")
    assert again.space.read(starts[1], PAGE) == content(starts[1], PAGE)
    assert again.space.total == sum(sizes)


# what is chosen, and what is replaced


def test_selection(tmp_path: Path) -> None:
    """Only what is chosen is written, and the rest is counted."""
    process = made(tmp_path)
    said = export_elfcore(process, tmp_path / "core", How(selection=Selection(half="user")))
    assert [(row.reason, row.bytes) for row in said.left_out] == [("outside --range user", PAGE)]
    assert [row.start for row in reopened(tmp_path / "core").segments()] == [start for start, _ in RANGES[:-1]]


def test_nothing_chosen(tmp_path: Path) -> None:
    """A core without memory is a core all the same."""
    options = How(selection=Selection(min_size=1 << 40))
    assert export_elfcore(made(tmp_path), tmp_path / "core", options).bytes == 0
    again = reopened(tmp_path / "core")
    assert (len(again.space), again.pid) == (0, 1624)


def test_regions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where regions take too much room they are not noted, which is said, and the core is sound."""
    monkeypatch.setattr(process_notes, "LARGEST_OWN", 2000)
    said = export_elfcore(made(tmp_path), tmp_path / "core")
    assert any("too many to be noted" in note for note in said.notes)
    monkeypatch.undo()
    again = reopened(tmp_path / "core")
    assert again.pid == 1624
    assert [row.start for row in again.segments()] == [start for start, _ in RANGES]
    assert again.metadata.regions == ()


def test_missing_ranges_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more missing ranges than are noted the first are, and that is said."""
    monkeypatch.setattr("memcarve.sinks.elfcore._MOST_MISSING", 1)
    said = export_elfcore(made(tmp_path), tmp_path / "core")
    assert any("the first 1 ranges are noted" in note for note in said.notes)
    assert list(reopened(tmp_path / "core").space.missing) == MISSING[:1]


def test_force_replaces_own_files_only(tmp_path: Path) -> None:
    """What exists is not replaced unasked, and then only a core that memcarve wrote."""
    process, path = made(tmp_path), tmp_path / "core"
    export_elfcore(process, path)
    assert foreign(str(path)) is None
    with pytest.raises(errors.TargetExistsError, match="force=True replaces it"):
        export_elfcore(process, path)
    export_elfcore(process, path, How(force=True))
    other = bytearray(path.read_bytes())
    other[other.index(b"memcarve")] ^= 1
    for data in (bytes(other), other[:100], b"", b"\x7fELF" + bytes(100)):
        put(path, bytes(data))
        assert foreign(str(path)) is not None
        with pytest.raises(errors.TargetExistsError, match="only what memcarve wrote"):
            export_elfcore(process, path, How(force=True))
    with pytest.raises(errors.TargetExistsError, match="is the input"):
        export_elfcore(process, process.inputs["dump"]["path"], How(force=True))


@pytest.mark.parametrize("name", ["a\0b", "\ud800x", "x" * 5000, "\n\x1b[31m", "é\udcff"])
def test_any_name(tmp_path: Path, name: str) -> None:
    """Names may hold anything: they are the same when they are read, and nothing a terminal obeys is in the core."""
    regions = [Region(0x10000, 2 * PAGE, "r--p", "mapped", name, None, None, 0)]
    export_elfcore(made(tmp_path, RANGES[:1], regions, [], [], name=name, missing=[]), tmp_path / "core")
    again = reopened(tmp_path / "core")
    assert again.name == name
    assert again.metadata.regions[0].rows[0].file == name
    assert gdb_memory(tmp_path / "core", [0x10000], 8) == [content(0x10000, 8)]
    assert b"\x1b" not in (tmp_path / "core").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        b"[",
        b'{"process": 3, "missing": [5, {"start": "x"}], "regions": 7, "labels": []}',
        b"[" * 9999,
        b'{"inputs": {"dump": ' + b"[" * 400 + b"]" * 400 + b"}}",
    ],
)
def test_damaged_notes_of_our_own(tmp_path: Path, damage: bytes) -> None:
    """The note of our own may hold anything: memory is read all the same, and nothing is made up."""
    export_elfcore(made(tmp_path), tmp_path / "core")
    data = (tmp_path / "core").read_bytes()
    place = data.index(b'{"schema"')
    end = data.index(b"\0", place)
    put(tmp_path / "core", data[:place] + damage[: end - place].ljust(end - place) + data[end:])
    again = reopened(tmp_path / "core")
    assert [row.start for row in again.segments()] == [start for start, _ in RANGES]
    assert again.metadata == Metadata()
    assert again.pid is None
    assert again.incomplete


@given(st.lists(st.tuples(st.integers(0, 1 << 13), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8))
def test_mutations(exported: Exported, changes: list[tuple[int, bytes]]) -> None:
    """Whatever is changed in the headers and notes of our own: errors are typed, results sound."""
    path = exported[1].parent / "mutated"
    data = bytearray(exported[1].read_bytes())
    for place, value in changes:
        data[place : place + len(value)] = value
    put(path, bytes(data))
    try:
        with opened_as(CORE, path) as container:
            process = container.process()
            assert process.input_bytes == process.space.total + sum(process.left_out.values())
            json.dumps([process.inputs, process.notes])
            rows = [row for regions in process.metadata.regions for row in regions]
            assert all(0 <= row.start < row.end <= 1 << 64 for row in rows)
            for segment in process.segments():
                process.space.read(segment.start, min(segment.size, PAGE))
    except errors.InputError:
        pass


def test_example(tmp_path: Path) -> None:
    """The example of a Windows process makes the round trip with its regions and modules."""
    folder = os.path.join(ROOT, "examples")
    tables = {"regions": f"{folder}/vadinfo.txt", "modules": f"{folder}/dlllist.txt"}
    with memcarve.open(f"{folder}/pid.1624.dmp", **tables) as container:  # type: ignore[arg-type]
        process = container.process()
        export_elfcore(process, tmp_path / "core")
        with memcarve.open(tmp_path / "core") as other:
            again = other.process()
            assert [row[:2] for row in again.segments()] == [row[:2] for row in process.segments()]
            for segment in process.segments():
                assert again.space.read(segment.start, segment.size) == process.space.read(segment.start, segment.size)
            assert again.metadata.regions[0].rows == process.metadata.regions[0].rows
            assert list(again.metadata.modules[0].rows) == list(process.metadata.modules[0].rows)
            assert again.pid == process.pid == 1624


def test_a_real_core_again(tmp_path: Path) -> None:
    """A core of the kernel's, exported and read again, says the same, but for where it lies; so do its registers."""
    path, _ = crashed(compiled(tmp_path, PROGRAM, "-pthread"))
    with opened_as(CORE, path) as container:
        process = container.process()
        export_elfcore(process, tmp_path / "again")
        again = reopened(tmp_path / "again")
        assert [row[:2] for row in again.segments()] == [row[:2] for row in process.segments()]
        assert list(again.space.missing) == list(process.space.missing)
        assert again.metadata.regions[0].rows == process.metadata.regions[0].rows
        assert again.metadata.threads[0].rows == process.metadata.threads[0].rows
        assert (again.pid, again.name, again.platform) == (process.pid, process.name, process.platform)
    ask = 'thread apply all -s -q printf "%lx %lx %lx %lx\\n", $rip, $rsp, $rax, $fs_base'
    first, second = (re.findall(r"(?m)^\w+ \w+ \w+ \w+$", gdb(each, ask)) for each in (path, tmp_path / "again"))
    assert len(first) == 2
    assert first == second


PLACED = """
#include <stdio.h>
#include <unistd.h>
volatile long marked = 0x1122334455667788;
int main(void) { printf("ready\\n"); fflush(stdout); pause(); return (int)marked; }
"""


def test_gdb_finds_the_program(tmp_path: Path) -> None:
    """Given a program that lies anywhere, gdb finds its variables and libraries by the auxiliary vector in the core."""
    program = compiled(tmp_path, PLACED, "-g", "-fPIE", "-pie")
    needed("gdb")
    child = subprocess.Popen([str(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        vector = Path(f"/proc/{child.pid}/auxv").read_bytes()
        with memcarve.open(f"/proc/{child.pid}") as container:
            sinking.export_elfcore(container.process(), tmp_path / "one")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with memcarve.open(tmp_path / "one") as container:  # and once more
        assert container.process().auxiliary_vector == vector
        sinking.export_elfcore(container.process(), tmp_path / "two")
    for name in ("one", "two"):
        said = run(
            needed("gdb"), "-q", "-nx", "-batch", str(program), "-c", str(tmp_path / name), "-ex", "p/x marked",
            "-ex", "info sharedlibrary",
        )  # fmt: skip
        assert "$1 = 0x1122334455667788" in said
        assert "libc.so" in said


def test_a_vector_of_another_width(tmp_path: Path) -> None:
    """An auxiliary vector whose words are not as wide as the core's is left out."""
    space = AddressSpace(
        *(np.array([value], np.uint64) for value in (0x1000, PAGE, 0)), FileBacking(put(tmp_path / "x", bytes(PAGE)))
    )
    for architecture, there in (("x64", True), ("x86", False), (None, False)):
        process = process_with(space, architecture=architecture, auxiliary_vector=bytes(16))
        export_elfcore(process, tmp_path / f"core.{architecture}", architecture="x64")
        with memcarve.open(tmp_path / f"core.{architecture}") as container:
            assert (container.process().auxiliary_vector is not None) == there


def test_missing_up_to_the_top(tmp_path: Path) -> None:
    """What is missing at the very end of the address space is missing in the core, too."""
    columns = (np.array([value], np.uint64) for value in (0x1000, PAGE, 0))
    gap = Missing((1 << 64) - PAGE, PAGE, NOT_WRITTEN)
    space = AddressSpace(*columns, FileBacking(put(tmp_path / "x", bytes(PAGE))), [gap])
    export_elfcore(process_with(space, architecture="x64"), tmp_path / "core")
    with memcarve.open(tmp_path / "core") as container:
        assert list(container.process().space.missing) == [gap]
