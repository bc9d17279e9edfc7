"""Cores of processes of FreeBSD, NetBSD and OpenBSD, and of systems whose notes are not read, made by hand."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

import memcarve
from bsd_cores import (
    INTERNAL,
    freebsd,
    freebsd_info,
    freebsd_lwpinfo,
    freebsd_mappings,
    freebsd_status,
    netbsd_info,
    openbsd_info,
    packed,
    registers,
)
from cores import Load, core, fxsave, gdb, info, lldb, note, status
from memcarve.errors import InputError, MemcarveError
from memcarve.formats import floating_point
from memcarve.metadata import Fault, Region, Thread
from memcarve.process import Platform
from memcarve.sources.recognised import CORE
from memory import PAGE, noise
from opening import opened_as
from sinking import export_elfcore, export_minidump

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.process import ProcessMemory

SYSTEMS = ("freebsd", "netbsd", "openbsd")
MACHINES = {64: 62, 32: 3}


def notes_of(system: str, bits: int) -> bytes:
    """Return the notes of process 4242, whose second thread of two a SIGSEGV stopped (of OpenBSD: its first)."""
    one, two = (packed(system, bits, registers(system, bits, seed)) for seed in (1, 2))
    fsave, extended = floating_point.fsave(fxsave(1)), fxsave(1)
    area = extended if bits == 64 else fsave
    if system == "freebsd":
        return (
            freebsd_info(4242, b"bsdprog", bits)
            + freebsd_status(100101, one, 0, bits, version=1302001)
            + freebsd(2, area + bytes(64))
            + freebsd(7, b"worker".ljust(24, b"\0"))
            + freebsd_status(100102, two, 11, bits)
            + freebsd_lwpinfo(100102, 11, 1, 0x1234567, bits)
        )
    if system == "netbsd":
        return (
            netbsd_info(4242, b"bsdprog", 11, 1, 2)
            + note(b"NetBSD-CORE@1", 24, struct.pack("<i32x20s", 1, b"worker") + bytes(12))
            + note(b"NetBSD-CORE@1", 33, one)
            + note(b"NetBSD-CORE@1", 35, area)
            + note(b"NetBSD-CORE@2", 33, two)
        )
    return (
        openbsd_info(4242, b"bsdprog", 11, 1)
        + note(b"OpenBSD@100102", 20, two)
        + note(b"OpenBSD@100101", 20, one)
        + note(b"OpenBSD@100101", 21, area + bytes(8))
    )


def made(system: str, bits: int) -> bytes:
    """Return a core with a page of memory."""
    number = 9 if system == "freebsd" else 0  # ELFOSABI_FREEBSD; the others leave it at 0
    load = Load(0x400000, noise(1, PAGE))
    return core([load], notes_of(system, bits), bits=bits, machine=MACHINES[bits], system=number)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Return what opens a core, given as its bytes, and gives its process."""
    containers = []

    def run(data: bytes) -> ProcessMemory:
        path = tmp_path / "prog.core"
        path.write_bytes(data)
        containers.append(opened_as(CORE, path))
        return containers[-1].process()

    yield run
    for container in containers:
        container.close()


def plain(values: dict[str, int]) -> dict[str, int]:
    """Return registers without those of the processor's own traps."""
    return {name: value for name, value in values.items() if name not in INTERNAL}


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("system", SYSTEMS)
def test_process_and_threads(opened: Any, system: str, bits: int) -> None:
    """The notes give system, pid, name, threads with names and registers, and the signal of the thread that it hit."""
    process = opened(made(system, bits))
    assert (process.pid, process.name, process.incomplete) == (4242, "bsdprog", False)
    assert process.platform == (Platform("freebsd", 13, 2) if system == "freebsd" else Platform(system))
    assert process.read(0x400000, PAGE) == noise(1, PAGE)
    found = {thread.name: thread for thread in process.metadata.all_threads()}
    name = None if system == "openbsd" else "worker"
    tids = {"netbsd": (1, 2)}.get(system, (100101, 100102))
    threads = sorted(process.metadata.all_threads(), key=lambda thread: thread.tid)
    assert [thread.tid for thread in threads] == list(tids)
    assert [thread.registers for thread in threads] == [plain(registers(system, bits, seed)) for seed in (1, 2)]
    area = fxsave(1) if bits == 64 else floating_point.fsave(fxsave(1))
    assert [thread.floating for thread in threads] == [area, None]
    assert [thread.name for thread in threads] == [name, None]
    address = 0x1234567 if system == "freebsd" else None
    assert [thread.fault for thread in threads] == [None, Fault(11, None, 1, address)]
    assert found[name].fault is None or system == "openbsd"
    assert process.notes == []


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("system", SYSTEMS)
def test_lldb_reads_the_same(tmp_path: Path, system: str, bits: int) -> None:
    """In lldb are the same registers, signal and name in the cores that these tests make."""
    path = tmp_path / "prog.core"
    path.write_bytes(made(system, bits))
    text = lldb(path, "thread list", "thread select 1", "register read")
    values = {name: int(value, 16) for name, value in re.findall(r"(?m)^ +(\w+) = 0x(\w+)", text)}
    with memcarve.open(path) as container:
        known = container.process().metadata.all_threads()
    first = known[-1 if system == "openbsd" else 0].registers or {}  # of OpenBSD it has one thread, with the last ones
    theirs = {name: values[{"eflags": "rflags"}.get(name, name) if bits == 64 else name] for name in first}
    assert theirs == first
    stopped = (
        1 if system == "openbsd" else next(place for place, thread in enumerate(known, 1) if thread.fault is not None)
    )
    assert re.search(rf"thread #{stopped}: .*SIGSEGV", text)
    assert ("name = 'worker'" in text) == (system == "freebsd")  # of NetBSD it does not look for names


@pytest.mark.parametrize("system", SYSTEMS)
def test_exports_of_a_bsd(tmp_path: Path, system: str) -> None:
    """What is known of threads and the system comes back from a core and from a minidump; gdb sees Linux's numbers."""
    path = tmp_path / "prog.core"
    data = made(system, 64).replace(struct.pack("<iii", 11, 0, 1), struct.pack("<iii", 10, 0, 2))
    for one, two in ((struct.pack("<II", 11, 1), struct.pack("<II", 10, 2)),):
        data = data.replace(one, two)
    if system == "freebsd":  # pr_cursig and pr_pid
        data = data.replace(struct.pack("<ii", 11, 100102), struct.pack("<ii", 10, 100102))
    path.write_bytes(data)
    with memcarve.open(path) as container:
        process = container.process()
        known = process.metadata.all_threads()
        assert any(thread.fault is not None and thread.fault.signal == 10 for thread in known)
        platform = process.platform
        export_elfcore(process, tmp_path / "b.core")
        export_minidump(process, tmp_path / "b.mdmp")
    for file in ("b.core", "b.mdmp"):
        with memcarve.open(tmp_path / file) as container:
            process = container.process()
            assert (process.metadata.all_threads(), process.platform) == (known, platform)
    assert "terminated with signal SIGBUS" in gdb(tmp_path / "b.core")  # 7 on Linux, 10 on a BSD


@pytest.mark.parametrize("whole", [False, True])
def test_freebsd_mappings(opened: Any, whole: bool) -> None:  # noqa: FBT001
    """NT_PROCSTAT_VMMAP gives the regions: protections, files with offsets, stacks, private memory."""
    rows = [
        (0x400000, 0x402000, 0x1000, 2, 3, 5, b"/usr/local/bin/prog"),
        (0x602000, 0x603000, 0, 1, 3, 3, b""),
        (0x700000, 0x701000, 0, 3, 0, 3, b""),
        (0x800000, 0x801000, 0, 9, 0, 0, b""),
        (0x7FFFDFFFF000, 0x7FFFFFFFF000, 0, 1, 0x20, 3, b""),
    ]
    notes = notes_of("freebsd", 64) + freebsd_mappings(rows, whole=whole)
    process = opened(core([Load(0x400000, noise(1, PAGE))], notes))
    (regions,) = process.metadata.regions
    assert regions.source == "NT_PROCSTAT_VMMAP"
    assert regions.rows == [
        Region(0x400000, 0x2000, "r-x", "mapped", "/usr/local/bin/prog", offset=0x1000),
        Region(0x602000, 0x1000, "rw-", "private", private=True),
        Region(0x700000, 0x1000, "rw-"),
        Region(0x800000, 0x1000, "---"),
        Region(0x7FFFDFFFF000, 0x20000000, "rw-", "stack", private=True),
    ]


def test_big_endian_and_other_processors(opened: Any) -> None:
    """Of a processor other than x86, in either byte order, all but registers is read, and a note says that."""
    notes = (
        freebsd_info(4242, b"bsdprog", order=">")
        + freebsd_status(100101, bytes(300), 11, order=">")
        + freebsd_mappings([(0x400000, 0x401000, 0, 1, 3, 3, b"")], order=">")
    )
    process = opened(core([Load(0x400000, noise(1, PAGE))], notes, order=">", machine=21))
    assert (process.pid, process.name, process.platform.system) == (4242, "bsdprog", "freebsd")
    assert process.metadata.all_threads() == [Thread(100101, fault=Fault(11))]
    assert process.metadata.regions[0].rows == [Region(0x400000, 0x1000, "rw-", "private", private=True)]
    assert any(
        "registers of its threads are not read: its processor is big-endian 64-bit PowerPC" in n for n in process.notes
    )
    for system, info_note in (
        ("netbsd", netbsd_info(7, b"x", 4, 1, None, ">")),
        ("openbsd", openbsd_info(7, b"x", 4, 1, ">")),
    ):
        found = opened(core([Load(0x400000, b"x")], info_note, order=">", machine=43))
        assert (found.pid, found.name, found.platform.system) == (7, "x", system)


def test_the_first_version_of_netbsds_notes(opened: Any) -> None:
    """Without the LWP of the signal, the first thread is the one that it hit."""
    notes = netbsd_info(7, b"prog", 6, 0, None)
    notes += b"".join(note(f"NetBSD-CORE@{n}".encode(), 33, bytes(208)) for n in (3, 1))
    threads = opened(core([Load(0x400000, b"x")], notes)).metadata.all_threads()
    assert [(thread.tid, thread.fault) for thread in threads] == [(3, Fault(6, None, 0)), (1, None)]


def test_types_that_are_not_known(opened: Any) -> None:
    """Types of notes that are not known are told by number; those that hold nothing which is wanted are not."""
    notes = notes_of("freebsd", 64) + freebsd(9, b"files") + freebsd(99, b"x") + freebsd(1000001, b"x")
    process = opened(core([Load(0x400000, b"x")], notes))
    (text,) = process.notes
    assert "2 types of notes are not known for freebsd, and not read: 99, 1000001" in text


def test_owners_that_are_not_known(opened: Any) -> None:
    """Whose notes are not read is told, with nothing that a terminal would obey."""
    notes = note(b"CORE", 6, bytes(16)) + note(b"QNX", 7, b"x") + note(b"Hai\x1b[2Jku@5", 1, b"x") * 3
    (text,) = opened(core([Load(0x400000, b"x")], notes)).notes
    assert text.endswith("are not read")
    assert "QNX" in text
    assert "\x1b" not in text


def test_solaris(opened: Any) -> None:
    """A core of Solaris or illumos, whose notes have Linux's types, is named, and nothing is read from them."""
    notes = info(5, b"wrong") + status(99, range(27)) + note(b"CORE", 10, bytes(1000)) + note(b"CORE", 16, bytes(1296))
    process = opened(core([Load(0x400000, noise(1, PAGE))], notes))
    assert (process.pid, process.name, process.metadata.all_threads()) == (None, None, [])
    assert any("is a core of Solaris or illumos, whose notes are not read" in text for text in process.notes)
    assert process.read(0x400000, PAGE) == noise(1, PAGE)


def test_a_core_of_notes_alone(opened: Any) -> None:
    """A core without memory is an error that says so, and whose it is: pid, name and threads."""
    with pytest.raises(
        InputError, match=r"holds no memory: it has notes alone \(pid 4242, bsdprog, threads 100101, 1001"
    ):
        opened(core([], notes_of("freebsd", 64)))
    many = info(77, b"lin\x1bux") + b"".join(status(80 + n, range(27)) for n in range(9))
    with pytest.raises(InputError, match=r"\(pid 77, lin\\x1bux, threads 80, 81, 82, 83 and 5 more\)"):
        opened(core([], many))
    with pytest.raises(InputError, match=r"it has notes alone; gcore"):
        opened(core([], note(b"CORE", 6, bytes(16))))


WHOLE = [made(system, bits) for system in SYSTEMS for bits in (64, 32)]


@settings(max_examples=150)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(64, 2500), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 3000),
)
def test_mutations(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[int, bytes]], length: int
) -> None:
    """Whatever stands in the notes of a BSD, and wherever the file ends: errors are typed, results sound."""
    mutated = bytearray(data)
    for place, value in changes:
        mutated[place : place + len(value)] = value
    path = tmp_path_factory.mktemp("bsd") / "x.core"
    path.write_bytes(mutated[: len(mutated) - length] if length < 500 else mutated)
    try:
        with memcarve.open(path) as container:
            process = container.process()
            assert all(0 <= thread.tid < 1 << 32 for thread in process.metadata.all_threads())
    except MemcarveError:
        pass
