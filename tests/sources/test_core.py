"""Cores of processes as input: those that real systems write against what these say of them, and hostile ones."""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings, strategies as st

import memcarve
from cores import (
    PAGE,
    PROGRAM,
    PROGRAM_32,
    Load,
    compiled,
    core,
    crashed,
    files,
    gdb,
    info,
    mappings,
    needed,
    note,
    run,
    status,
)
from files import put
from memcarve import errors
from memcarve.missing import CUT_OFF, NOT_WRITTEN, Missing
from memcarve.process import Selection
from memcarve.sources.opening import OpenOptions
from memcarve.sources.recognised import CORE, MACHINE
from memcarve.space import Extent
from memory import content
from opening import opened_as
from sinking import export_memmap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cores import Mapping
    from memcarve.metadata import Region
    from memcarve.process import ProcessMemory

PLAIN = OpenOptions()
LOADS = [
    Load(0x400000, content(0x400000, 2 * PAGE), flags=5),
    Load(0x402000, content(0x402000, PAGE), 3 * PAGE, 6),
    Load(0x500000, b"", 2 * PAGE, 0),
    Load(0xFFFFFFFFFF600000, content(0xFFFFFFFFFF600000, PAGE), flags=1),
]
NOTES = info(1234, b"program") + status(1235, range(27)) + status(1236, range(100, 127))


def opened(path: Path, data: bytes, options: OpenOptions = PLAIN) -> ProcessMemory:
    """Return the process of a core."""
    return opened_as(CORE, put(path / "core", data), options).process()


def regions(process: ProcessMemory) -> list[Region]:
    """Return what is known of regions."""
    return process.metadata.regions[0].rows


# what real systems write


class Real:
    """A core that a real system wrote, and what was true of the process."""

    def __init__(self, path: Path, maps: list[Mapping]) -> None:
        self.path = path
        self.maps = maps
        self.container = opened_as(CORE, path)
        self.process = self.container.process()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled program."""
    return compiled(tmp_path_factory.mktemp("program"), PROGRAM, "-pthread")


@pytest.fixture(scope="module")
def crash(program: Path) -> Iterator[Real]:
    """Return the core that the kernel wrote of it."""
    path, text = crashed(program)
    real = Real(path, mappings(text))
    yield real
    real.container.close()


@pytest.fixture(scope="module")
def live(program: Path) -> Iterator[tuple[Real, dict[int, bytes]]]:
    """Return the core that gcore wrote of it while it was stopped, and its memory at each mapping's start."""
    gcore = needed("gcore")
    child = subprocess.Popen([str(program), "wait"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        while " [stack]" not in child.stdout.readline():
            pass
        child.send_signal(signal.SIGSTOP)
        said = run(gcore, "-o", str(program.parent / "live"), str(child.pid))
        path = program.parent / f"live.{child.pid}"
        if not path.exists():
            pytest.skip(f"gcore may not look into a process here: {said.splitlines()[-1]}")
        with open(f"/proc/{child.pid}/maps", encoding="utf-8") as maps:
            found = mappings(maps.read())
        memory = {}
        with open(f"/proc/{child.pid}/mem", "rb", buffering=0) as file:
            for row in found:
                if row.permissions.startswith("r") and row.name not in {"[vvar]", "[vvar_vclock]", "[vsyscall]"}:
                    file.seek(row.start)
                    memory[row.start] = file.read(row.end - row.start)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    real = Real(path, found)
    yield real, memory
    real.container.close()


def test_regions_of_a_crash(crash: Real) -> None:
    """Of a program that crashed, regions, protections, files and offsets are those that it saw itself."""
    found = {row.start: row for row in regions(crash.process)}
    expected = [row for row in crash.maps if not row.name.startswith("[v")]
    assert len(expected) > 15
    for row in expected:
        region = found[row.start]
        if row.name != "[stack]":  # which may have grown since
            assert region.end == row.end
        assert region.protection == row.permissions[:3]
        assert region.file == (row.name if row.inode else None)
        assert region.offset == (row.offset if row.inode else None)
        assert region.private is (None if row.inode else True)
    assert {row.end for row in found.values() if row.kind == "stack"} >= {
        row.end for row in crash.maps if row.name == "[stack]"
    }


def test_the_kernels_own_mappings(crash: Real) -> None:
    """Of what the kernel itself puts into a process nothing more is said than the core does."""
    own = [row for row in crash.maps if row.name.startswith("[v")]
    found = {row.start: row for row in regions(crash.process)}
    assert own
    for row in own:
        region = found[row.start]
        assert (region.end, region.protection, region.kind, region.private) == (
            row.end,
            row.permissions[:3],
            None,
            None,
        )


def test_memory_of_a_crash(crash: Real) -> None:
    """The bytes that the program wrote are where it wrote them, and what was not written to the core is missing."""
    space = crash.process.space
    data = space.read(0x10000000, 0x5000)
    assert data == bytes((place * 7 + (place >> 8)) & 0xFF for place in range(0x5000))
    missing = {row.start: row for row in space.missing}
    assert missing[0x20000000] == Missing(0x20000000, 0x4000, NOT_WRITTEN)
    with pytest.raises(errors.AddressError, match="not written"):
        space.read(0x20000000, 1)
    with pytest.raises(errors.AddressError, match="not in the core"):
        space.read(0x20004000, 1)
    assert crash.process.incomplete


def test_threads_of_a_crash(crash: Real) -> None:
    """Threads and registers are those that gdb shows, pid and name those of the process."""
    text = gdb(crash.path, "info threads", 'thread apply all -s -q printf "%lx %lx %lx\\n", $rip, $rsp, $fs_base')
    expected = sorted(int(tid) for tid in re.findall(r"LWP (\d+)\)? ", text.split("Target Id")[1].split("\n\n")[0]))
    values = {tuple(int(word, 16) for word in row) for row in re.findall(r"(?m)^(\w+) (\w+) (\w+)$", text)}
    threads = crash.process.metadata.threads[0].rows
    assert sorted({thread.tid for thread in threads}) == sorted(set(expected))
    assert len(threads) == 2
    registers = [thread.registers or {} for thread in threads]
    assert {(each["rip"], each["rsp"], each["fs_base"]) for each in registers} == values
    assert (crash.process.name, crash.process.architecture) == ("program", "x64")
    assert crash.process.pid == threads[0].tid
    assert crash.process.platform.system == "linux"


def test_accounting_of_a_crash(crash: Real) -> None:
    """Every byte of the file is at an address or counted as left out."""
    process = crash.process
    assert process.input_bytes == process.space.total + sum(process.left_out.values()) == crash.path.stat().st_size


def test_live_memory(live: tuple[Real, dict[int, bytes]]) -> None:
    """Of a running program, every byte in gcore's core is that of the process, and most of it is there."""
    real, memory = live
    compared = 0
    for extent in real.process.space.extents():
        for start, data in memory.items():
            low, high = max(start, extent.start), min(start + len(data), extent.end)
            if low < high:
                assert real.process.space.read(low, high - low) == data[low - start : high - start]
                compared += high - low
    assert compared > 1 << 20
    assert compared >= real.process.space.total - (1 << 16)


def test_live_regions(live: tuple[Real, dict[int, bytes]]) -> None:
    """Of a running program, regions and files are those of its /proc/PID/maps, as far as gcore writes them."""
    real, _ = live
    maps = {row.start: row for row in real.maps}
    rows = regions(real.process)
    assert len(rows) > 15
    for row in rows:
        assert row.end == maps[row.start].end
        if row.file is not None:
            assert (row.file, row.offset) == (maps[row.start].name, maps[row.start].offset)
    named = {row.name for row in real.maps if row.inode}
    assert {row.file for row in rows if row.file} == named
    # also those of which gcore writes nothing, because the file has it
    assert {row.start for row in real.maps if row.inode} <= {row.start for row in rows}
    assert len(real.process.metadata.threads[0].rows) == 2


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Return the core that the kernel wrote of a 32-bit program."""
    made = compiled(
        tmp_path_factory.mktemp("narrow"), PROGRAM_32, "-m32", "-nostdlib", "-static", "-ffreestanding", "-O1"
    )
    path, _ = crashed(made)
    real = Real(path, [])
    yield real
    real.container.close()


def test_32_bit_crash(narrow: Real) -> None:
    """The core of a 32-bit program has its memory, registers and files; nothing of it is the kernel's half."""
    process = narrow.process
    symbols = run(needed("nm"), str(narrow.path.parent / "program"))
    data = int(re.findall(r"(?m)^(\w+) \w data$", symbols)[0], 16)
    assert process.space.read(data, 0x3000) == bytes((place * 5 + (place >> 8)) & 0xFF for place in range(0x3000))
    assert process.architecture == "x86"
    (thread,) = process.metadata.threads[0].rows
    assert (thread.registers or {})["esi"] == 0x1234567
    assert process.pid == thread.tid
    assert any(row.file and row.file.endswith("/program") for row in regions(process))
    assert any(row.kind == "stack" for row in regions(process))
    assert len(process.segments()) == len(process.segments(Selection(half="user")))


# made by hand


def test_extents_and_missing(tmp_path: Path) -> None:
    """Stored bytes are extents, and what is in memory only is missing; the last page of [vsyscall] is there."""
    process = opened(tmp_path, core(LOADS, NOTES))
    base = len(core(LOADS, NOTES)) - 4 * PAGE
    assert list(process.space.extents()) == [
        Extent(0x400000, 3 * PAGE, base),
        Extent(0xFFFFFFFFFF600000, PAGE, base + 3 * PAGE),
    ]
    assert list(process.space.missing) == [
        Missing(0x403000, 2 * PAGE, NOT_WRITTEN),
        Missing(0x500000, 2 * PAGE, NOT_WRITTEN),
    ]
    assert process.left_out == {"headers and notes, before the memory": base}
    assert process.input_bytes == base + 4 * PAGE
    for load in LOADS:
        assert process.space.read(load.start, len(load.stored)) == load.stored
    assert (process.pid, process.name) == (1234, "program")
    assert [row.tid for row in process.metadata.threads[0].rows] == [1235, 1236]
    assert [row.protection for row in regions(process)] == ["r-x", "rw-", "---", "--x"]
    assert process.incomplete


def test_inaccessible_memory_is_not_missed(tmp_path: Path) -> None:
    """Where nothing but what the process could not access is missing, the core is complete."""
    process = opened(tmp_path, core([LOADS[0], LOADS[2]], NOTES))
    assert [row.start for row in process.space.missing] == [0x500000]
    assert not process.incomplete


def test_more_is_mapped_than_addresses_reach(tmp_path: Path) -> None:
    """A core that says to map more than its addresses reach is exported as a map that is read again."""
    process = opened(tmp_path, core([Load(0x20000, content(0, PAGE), 1 << 62)], NOTES))
    result = export_memmap(process, tmp_path / "out")
    with memcarve.open(result.files[1]) as container:
        again = container.process()
        assert again.read(0x20000, PAGE) == content(0, PAGE)
        assert again.space.missing.start.tolist()[:1] == [0x21000]
        assert again.incomplete


def test_the_very_end(tmp_path: Path) -> None:
    """Memory may end at 2**64, and what reaches beyond it is refused."""
    last = Load((1 << 64) - PAGE, content(0, PAGE))
    process = opened(tmp_path, core([last], NOTES))
    assert [segment.end for segment in process.segments()] == [1 << 64]
    with pytest.raises(errors.MapError, match="beyond the last address"):
        opened(tmp_path, core([Load((1 << 64) - PAGE, b"", PAGE + 1)], NOTES))
    with pytest.raises(errors.MapError, match="beyond the last address"):
        opened(tmp_path, core([Load(0xFFFFF000, b"", PAGE + 1)], info(1, b"a", 32), bits=32, machine=3))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "machine"), [(64, 243), (64, 21), (32, 22), (32, 8), (32, 62)])
def test_other_machines(tmp_path: Path, bits: int, machine: int, order: str) -> None:
    """Cores of other machines, in either byte order, are plain memory with pid, name, files, and no registers."""
    loads = [Load(0x10000, content(0x10000, PAGE), 2 * PAGE), Load(0x80000000, content(0, 3), flags=4)]
    mapped = files([(0x10000, 0x11000, 5, b"/bin/thing")], bits, order)
    notes = info(77, b"thing", bits, order) + status(78, [1] * (27 if bits == 64 else 17), bits, order) + mapped
    process = opened(tmp_path, core(loads, notes, bits=bits, order=order, machine=machine))
    assert process.architecture is None
    assert (process.pid, process.name) == (77, "thing")
    assert [(row.tid, row.registers) for row in process.metadata.threads[0].rows] == [(78, None)]
    assert process.space.read(0x80000000, 3) == content(0, 3)
    assert [(row.start, row.size, row.file, row.offset) for row in regions(process)] == [
        (0x10000, PAGE, "/bin/thing", 5 * PAGE),
        (0x11000, PAGE, None, None),
        (0x80000000, 3, None, None),
    ]


def test_registers_by_name(tmp_path: Path) -> None:
    """Registers have the places that Linux gives them (user_64.h): the first is r15, the seventeenth rip."""
    names = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base"
    process = opened(tmp_path, core(LOADS, status(5, range(1000, 1027)) + info(5, b"x")))
    (thread,) = process.metadata.threads[0].rows
    expected = {name: 1000 + place for place, name in enumerate([*names.split(), "ds", "es", "fs", "gs"])}
    assert thread.registers == expected


def test_files_cut_regions(tmp_path: Path) -> None:
    """A mapped file that begins or ends within a PT_LOAD cuts it; its name is taken byte by byte."""
    rows = [(0x401000, 0x402000, 3, b"/lib/\xff\n.so"), (0x402000, 0x404000, 0, b"\\Windows\\\xc3\xa4")]
    process = opened(tmp_path, core(LOADS, NOTES + files(rows)))
    found = [(row.start, row.size, row.file, row.offset) for row in regions(process)]
    assert found[:4] == [
        (0x400000, PAGE, None, None),
        (0x401000, PAGE, "/lib/\udcff\n.so", 3 * PAGE),
        (0x402000, 2 * PAGE, "\\Windows\\ä", 0),
        (0x404000, PAGE, None, None),
    ]


@pytest.mark.parametrize(
    "notes", [files([], count=1 << 32), files([(5, 4, 0, b"/x")]), note(b"CORE", 0x46494C45, b"x")]
)
def test_damaged_files(tmp_path: Path, notes: bytes) -> None:
    """A list of mapped files that makes no sense is not used, and a note says so."""
    process = opened(tmp_path, core(LOADS, NOTES + notes))
    assert [row.file for row in regions(process)] == [None] * 4
    assert any("NT_FILE is damaged" in each for each in process.metadata.notes)
    assert {row.private for row in regions(process)} == {None}


@pytest.mark.parametrize("lost", [1, PAGE, PAGE + 7, 4 * PAGE])
def test_cut_off(tmp_path: Path, lost: int) -> None:
    """What the file is too short for is missing as of a dump that ends too early."""
    data = core(LOADS, NOTES)
    process = opened(tmp_path, data[: len(data) - lost])
    cut = [row for row in process.space.missing if row.reason == CUT_OFF]
    assert sum(row.size for row in cut) == lost
    assert process.space.total == 4 * PAGE - lost
    assert process.incomplete
    assert process.first_cut_off == cut[0].start
    assert process.input_bytes == len(data) - lost


def test_program_headers_cut_off(tmp_path: Path) -> None:
    """A file that ends inside its program headers is read as far as it goes, and a note says so."""
    data = core(LOADS, NOTES)
    path = put(tmp_path / "core", data[: 64 + 56 * 3 + 5])
    with pytest.raises(errors.NotRecognisedError):  # its notes are gone: it might be a machine's
        opened_as(CORE, put(tmp_path / "other", core([Load(0, b"", PAGE)])))
    process = opened_as(CORE, path).process()
    assert [row.start for row in process.space.missing] == [0x400000, 0x402000, 0x403000]
    assert any("3 of 5 are there" in each for each in process.notes)


@pytest.mark.parametrize("count", [65_535, 70_000])
def test_many_segments(tmp_path: Path, count: int) -> None:
    """More segments than e_phnum can count are all read; their addresses are as they were written."""
    loads = [Load(0x10000 + index * 2 * PAGE, index.to_bytes(4, "little")) for index in range(count)]
    process = opened(tmp_path, core(loads, NOTES, many=True))
    assert process.space.start.tolist() == [load.start for load in loads]
    for index in (0, 1, 65_534, count - 1):
        assert process.space.read(loads[index].start, 4) == loads[index].stored


def test_overlaps_of_the_same_bytes(tmp_path: Path) -> None:
    """Segments that claim the same addresses with the same bytes count once, and a note says so."""
    loads = [
        Load(0x1000, content(0x1000, 3 * PAGE)),
        Load(0x2000, content(0x2000, 4 * PAGE)),
        Load(0x2000, content(0x2000, PAGE), 9 * PAGE),
        Load(0x1000, b"", 6 * PAGE),
    ]
    process = opened(tmp_path, core(loads, NOTES))
    assert [(segment.start, segment.end) for segment in process.segments()] == [(0x1000, 0x6000)]
    assert process.space.read(0x1000, 5 * PAGE) == content(0x1000, 5 * PAGE)
    assert list(process.space.missing) == [
        Missing(0x6000, PAGE, NOT_WRITTEN),
        Missing(0x7000, 4 * PAGE, NOT_WRITTEN),
    ]
    assert any("claim addresses that others have, too" in each for each in process.notes)


def test_the_same_place_twice(tmp_path: Path) -> None:
    """Segments that name the same bytes of the file at the same addresses count once, those at others twice."""
    whole = content(0, 2 * PAGE)
    data = core([Load(0x1000, whole), Load(0x1000, whole), Load(0x9000, whole)], NOTES, offsets=[0x1000] * 3)
    process = opened(tmp_path, data)
    assert [(row.start, row.offset) for row in process.space.extents()] == [(0x1000, 0x1000), (0x9000, 0x1000)]
    assert sum(process.left_out.values()) == len(data) - 2 * PAGE
    assert process.input_bytes == process.space.total + sum(process.left_out.values())


def test_contradicting_overlaps(tmp_path: Path) -> None:
    """Segments that claim the same addresses with other bytes are refused, and the message has the first address."""
    loads = [Load(0x1000, content(0x1000, 2 * PAGE)), Load(0x2000, bytes(PAGE))]
    with pytest.raises(errors.OverlapError, match="0x2000") as caught:
        opened(tmp_path, core(loads, NOTES))
    assert caught.value.address == 0x2000
    assert str(tmp_path / "core") in str(caught.value)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_any_overlaps(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]) -> None:
    """However segments of honest bytes overlap, each stored byte is there once, and the rest of them is missing."""
    loads = [Load(0x1000 + start, content(0x1000 + start, size), size + more) for start, size, more in rows]
    process = opened(tmp_path_factory.getbasetemp(), core(loads, NOTES))
    there = {load.start + place for load in loads for place in range(len(load.stored))}
    mapped = {load.start + place for load in loads for place in range(load.whole or 0)}
    assert {place for row in process.space.extents() for place in range(row.start, row.end)} == there
    assert {place for row in process.space.missing for place in range(row.start, row.end)} == mapped - there
    for extent in process.space.extents():
        assert process.space.read(extent.start, extent.size) == content(extent.start, extent.size)
    assert process.input_bytes == process.space.total + sum(process.left_out.values())


# what is whose


def test_a_machines_core_is_not_a_process(tmp_path: Path) -> None:
    """What has physical addresses, or notes that only a machine's core has, is left to the reader of machines."""
    machine = core([Load(0x1000, bytes(PAGE))], note(b"VMCOREINFO", 0, b"OSRELEASE=6\n") + NOTES, physical=[0x1000])
    with pytest.raises(errors.NotRecognisedError, match="of a machine"):
        opened(tmp_path, machine)
    with pytest.raises(errors.NotRecognisedError, match="not an ELF core"):
        opened(tmp_path, b"MDMP" + bytes(100))
    with pytest.raises(errors.NotRecognisedError, match="folder"):
        opened_as(CORE, tmp_path)


def test_a_process_is_not_a_machine(tmp_path: Path) -> None:
    """The reader of machines leaves a process's core alone, of either byte order, and refuses big-endian machines."""
    for order in "<>":
        path = put(tmp_path / "core", core(LOADS[:2], info(1, b"x", order=order), order=order))
        with pytest.raises(errors.NotRecognisedError):
            opened_as(MACHINE, path)
    path = put(tmp_path / "core", core([Load(0x1000, b"x")], note(b"VMCOREINFO", 0, b"", ">"), order=">"))
    with pytest.raises(errors.InputError, match="big-endian"):
        opened_as(MACHINE, path)


def test_options_of_other_inputs(tmp_path: Path) -> None:
    """Options for dumps with maps and for images are refused."""
    path = put(tmp_path / "core", core(LOADS, NOTES))
    for options in (OpenOptions(memory_map="x"), OpenOptions(dtb=0), OpenOptions(limit=1)):
        with pytest.raises(errors.UsageError, match=r"leave .* out"):
            opened_as(CORE, path, options)


def test_files_of_evidence(tmp_path: Path) -> None:
    """Tables that are named are added to what the core says, and recorded."""
    table = tmp_path / "maps"
    table.write_text("00400000-00402000 r-xp 00000000 08:01 7 /bin/program\n")
    process = opened(tmp_path, core(LOADS, NOTES), OpenOptions(regions=(str(table),)))
    assert [row.file for row in process.metadata.regions[1].rows] == ["/bin/program"]
    assert process.used_inputs["evidence"][0]["path"] == str(table)


# hostile


def test_sizes_beyond_the_file_allocate_nothing(tmp_path: Path) -> None:
    """Counts of 2**32 and sizes of 2**63 neither take memory nor time."""
    notes = (
        note(b"CORE", 0x46494C45, struct.pack("<QQ", (1 << 61) + 1, 1))
        + struct.pack("<III", 5, 0xFFFFFFFF, 1)
        + b"CORE\0\0\0\0"
    )
    loads = [Load(0x1000, b"", (1 << 64) - 0x1000), Load(0, b"", 0x1000)]
    data = bytearray(core(loads, info(1, b"x") + notes, many=True))
    at = data.index(struct.pack("<I", 3), 64 + 56 * 3 + 40)
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path = put(tmp_path / "core", bytes(data))
    tracemalloc.start()
    try:
        process = opened_as(CORE, path).process()
        assert len(process.space) == 0
        assert process.metadata.threads == () or process.metadata.threads[0].rows
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_too_many_program_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More program headers than any process has are refused."""
    monkeypatch.setattr("memcarve.formats.images.machine.MOST_RANGES", 3)
    with pytest.raises(errors.InputError, match="program headers, more than the 3"):
        opened(tmp_path, core(LOADS, NOTES))


def test_overlaps_beyond_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlaps whose comparison would take more reading than the file is long are refused."""
    monkeypatch.setattr("memcarve.sources.overlaps._SPARE", 0)
    loads = [Load(0x1000 + index, bytes(0x2000)) for index in range(50)]
    with pytest.raises(errors.OverlapError):
        opened(tmp_path, core(loads, NOTES))


def test_too_many_ranges_of_which_some_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some of very many segments overlap, the core is refused: telling them apart would cost too much memory."""
    loads = [Load(0x1000, bytes(0x1000)), Load(0x1800, bytes(0x1000)), Load(0x9000, bytes(0x1000))]
    monkeypatch.setattr("memcarve.sources.overlaps._MOST", 3)
    assert len(opened(tmp_path, core(loads, NOTES)).space.segments()) == 2
    monkeypatch.setattr("memcarve.sources.overlaps._MOST", 2)
    with pytest.raises(errors.OverlapError):
        opened(tmp_path, core(loads, NOTES))


GOOD = core(LOADS, NOTES + files([(0x400000, 0x401000, 0, b"/x"), (0x402000, 0x403000, 1, b"/y")]))
HEAD = len(GOOD) - 4 * PAGE


@settings(max_examples=400)
@example([(32, b"\xff" * 8)], len(GOOD))
@example([(54, b"\x37\0")], len(GOOD))
@example([(56, b"\xff\xff")], len(GOOD))
@given(
    st.lists(
        st.tuples(
            st.integers(0, HEAD - 1),
            st.sampled_from([b"\0", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0\0\0\x80", b"\x01", b"\x7f"])
            | st.binary(min_size=1, max_size=8),
        ),
        max_size=6,
    ),
    st.integers(0, len(GOOD)) | st.just(len(GOOD)),
)
def test_mutations(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], length: int) -> None:
    """Whatever is changed in a core's headers and notes, and wherever it ends: errors are typed, results sound."""
    data = bytearray(GOOD)
    for place, value in changes:
        data[place : place + len(value)] = value
    path = put(tmp_path_factory.getbasetemp() / "mutated", bytes(data[:length]))
    try:
        container = opened_as(CORE, path)
    except errors.InputError:
        return
    with container:
        try:
            process = container.process()
        except errors.InputError:
            return
        assert process.input_bytes == process.space.total + sum(process.left_out.values())
        for segment in process.segments():
            process.space.read(segment.start, min(segment.size, PAGE))
        metadata = process.metadata
        assert all(0 <= row.start < row.end <= 1 << 64 for each in metadata.regions for row in each.rows)
        assert process.notes is not None
