"""Processes of ARM64 and 32-bit ARM: what cores and minidumps hold of them, by gdb-multiarch and by their layouts.

A real program crashes under QEMU's user-mode emulation, which writes its core.
"""

from __future__ import annotations

import glob
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import minidumps
from cores import Load, core, files, info, needed, note, run
from files import put
from memcarve.backing import FileBacking
from memcarve.linux_mappings import Mapping, region
from memcarve.metadata import Metadata, Parameters, Regions, SourceRows, Thread
from memcarve.process import Platform, ProcessEntry, ProcessMemory, Unix
from memcarve.sinks.scripts import export_scripts
from memcarve.sources.recognised import CORE, MINIDUMP
from memcarve.space import AddressSpace
from memory import PAGE, content, noise
from minidumps import ARM64, LINUX, WINDOWS, Dump
from opening import opened_as
from processes import process_with
from sinking import export_elfcore, export_minidump

if TYPE_CHECKING:
    from collections.abc import Sequence

#: e_machine, bits; NT_PRSTATUS: bytes before the registers and behind them, as struct has them
FORMS = {"arm64": (183, 64, "<3ih2x16xI76x34Qi4x"), "arm": (40, 32, "<3ih2x8xI44x18Ii")}
NAMES = {
    "arm64": [*(f"x{number}" for number in range(31)), "sp", "pc", "cpsr"],
    "arm": [*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "cpsr"],
}
#: a thread's other registers: notes of Linux (owner, type, bytes)
VECTORS = noise(5, 512) + struct.pack("<2I", 0x10, 0x3000000) + bytes(8)
MORE = {
    "arm64": [
        (b"CORE", 2, VECTORS),
        (b"LINUX", 0x401, struct.pack("<Q", 0xFFFF_8001_0000)),
        (b"LINUX", 0x406, struct.pack("<2Q", 0x7F_0000_0000_0000, 0x3F_0000_0000_0000)),
        (b"LINUX", 0x405, noise(6, 256)),  # SVE: not read
    ],
    "arm": [(b"CORE", 2, bytes(116)), (b"LINUX", 0x400, noise(7, 256) + b"\x01\x02\x03\x04")],
}
#: a program with two threads that wait, and one that recurses and then writes to address 0
PROGRAM = r"""
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static pthread_barrier_t barrier;
static __attribute__((noinline)) void deeper(int depth) {
    if (depth) { deeper(depth - 1); __asm__ volatile("" ::: "memory"); return; }
    __asm__ volatile("mov x19, #0x1919\n mov x20, #0xbeef\n mov x21, #0\n str x19, [x21]" ::: "x19", "x20", "x21");
}
static void *waiting(void *argument) { pthread_barrier_wait(&barrier); for (;;) pause(); return argument; }
int main(void) {
    pthread_t threads[2];
    pthread_barrier_init(&barrier, 0, 3);
    for (int n = 0; n < 2; n++) pthread_create(&threads[n], 0, waiting, 0);
    pthread_barrier_wait(&barrier);
    memset(malloc(100000), 0x5a, 100000);
    usleep(300000);
    deeper(3);
    return 0;
}
"""


def status(word: str, tid: int, registers: Sequence[int], signal: int = 0) -> bytes:
    """Return a note of type NT_PRSTATUS; of ARM the last register is orig_r0."""
    return note(b"CORE", 1, struct.pack(FORMS[word][2], signal, 0, 0, signal, tid, *registers, 0))


def some_core(folder: Path, word: str) -> Path:
    """Return a core of two threads, of which only the first has more registers than NT_PRSTATUS."""
    machine, bits, _ = FORMS[word]
    count = 34 if word == "arm64" else 18
    notes = status(word, 77, range(0x1000, 0x1000 + count), signal=11) + info(77, b"thing", bits)
    notes += files([(0x10000, 0x11000, 5, b"/bin/thing")], bits) + b"".join(note(*row) for row in MORE[word])
    notes += status(word, 78, range(0x2000, 0x2000 + count))
    loads = [Load(0x10000, content(0x10000, PAGE)), Load(0x80000000, content(0x80000000, PAGE))]
    return Path(put(folder / "some.core", core(loads, notes, bits=bits, machine=machine)))


def told(path: Path) -> ProcessMemory:
    """Return a process whose metadata was looked up while its file was open."""
    with opened_as(MINIDUMP if path.suffix == ".mdmp" else CORE, path) as container:
        process = container.process()
        assert process.metadata is not None
        return process


def threads_of(path: Path) -> list[tuple[int, Any, Any]]:
    """Return id, registers and vectors of each thread."""
    return [(row.tid, row.registers, row.floating) for row in told(path).metadata.all_threads()]


def multiarch(*words: str) -> str:
    """Return what gdb-multiarch prints; `words` are its options after the first ones."""
    return run(needed("gdb-multiarch"), "-nx", "-batch", "-iex", "set debuginfod enabled off", *words)


@pytest.mark.parametrize("word", ["arm64", "arm"])
def test_registers_of_a_core(tmp_path: Path, word: str) -> None:
    """Registers have the places that Linux gives them, go by gdb's names, and vectors are as they are stored."""
    process = told(some_core(tmp_path, word))
    assert process.architecture == word
    expected = {name: 0x1000 + place for place, name in enumerate(NAMES[word])}
    if word == "arm64":
        expected |= {"tpidr": 0xFFFF80010000, "pauth_dmask": 0x7F000000000000, "pauth_cmask": 0x3F000000000000}
    first, second = process.metadata.all_threads()
    assert first.registers == expected
    assert first.floating == MORE[word][0 if word == "arm64" else 1][2]
    assert first.fault is not None
    assert first.fault.signal == 11
    assert (second.registers, second.floating) == ({name: 0x2000 + at for at, name in enumerate(NAMES[word])}, None)
    assert process.address_bits == (64 if word == "arm64" else 32)
    assert process.kernel_half == (1 << 63 if word == "arm64" else 1 << 32)


@pytest.mark.parametrize("word", ["arm64", "arm"])
def test_there_and_back(tmp_path: Path, word: str) -> None:
    """Registers survive a core, a minidump, and a core again; a minidump has no place for the thread pointer."""
    path = some_core(tmp_path, word)
    known = threads_of(path)
    with opened_as(CORE, path) as container:
        export_elfcore(container.process(), tmp_path / "a.core")
        export_minidump(container.process(), tmp_path / "a.mdmp")
    assert threads_of(tmp_path / "a.core") == known
    plain = [
        (tid, {name: value for name, value in registers.items() if name in NAMES[word]}, area)
        for tid, registers, area in known
    ]
    assert told(tmp_path / "a.mdmp").architecture == word
    assert threads_of(tmp_path / "a.mdmp") == plain
    with opened_as(MINIDUMP, tmp_path / "a.mdmp") as container:
        export_elfcore(container.process(), tmp_path / "b.core")
    assert threads_of(tmp_path / "b.core") == plain
    assert told(tmp_path / "b.core").architecture == word


def test_notes_that_are_too_short(tmp_path: Path) -> None:
    """Of what is cut off nothing is made up: neither registers, nor vectors, nor a thread pointer."""
    whole = struct.pack(FORMS["arm64"][2], 0, 0, 0, 0, 7, *range(34), 0)
    for size in (0, 20, 36, 112, 391):
        notes = note(b"CORE", 1, whole[:size]) + note(b"LINUX", 0x401, b"1234567") + note(b"CORE", 2, bytes(527))
        path = put(tmp_path / f"{size}.core", core([Load(0x10000, b"x")], notes + info(7, b"a"), machine=183))
        expected = [] if size < 36 else [(7, None, None)]
        assert threads_of(Path(path)) == expected
    notes = note(b"CORE", 1, whole) + note(b"LINUX", 0x401, b"1234567") + note(b"CORE", 2, bytes(527)) + info(7, b"a")
    ((_, registers, area),) = threads_of(
        Path(put(tmp_path / "a.core", core([Load(0x10000, b"x")], notes, machine=183)))
    )
    assert (sorted(registers), area) == (sorted(NAMES["arm64"]), None)


@pytest.mark.parametrize("system", [WINDOWS, LINUX])
def test_contexts(tmp_path: Path, system: int) -> None:
    """The CONTEXT of ARM64 and of ARM is read as winnt.h lays it out; a group that is not valid is not there."""
    some = minidumps.some_registers(minidumps.ARM64_REGISTERS)
    bare = minidumps.context_arm64(some)
    control = struct.pack("<I", 0x400001) + bare[4:]
    contexts = [minidumps.context_arm64(some, noise(5, 512), 0x10, 0x3000000), bare, control, b"", bare[:900]]
    dump = Dump(
        [(0x10000, b"x")],
        threads=[minidumps.Thread(4 * at, 0, (0, 0), each, 0) for at, each in enumerate(contexts, 1)],
        system=(ARM64, system, 10, 0, 22000),
    )
    found = threads_of(Path(put(tmp_path / "a.mdmp", dump.build())))
    kept = {name: some[name] for name in ("cpsr", "x29", "x30", "sp", "pc")}
    assert found == [(4, some, VECTORS), (8, some, None), (12, kept, None), (16, None, None), (20, None, None)]
    some = minidumps.some_registers(minidumps.ARM_REGISTERS)
    dump.threads = [minidumps.Thread(4, 0, (0, 0), minidumps.context_arm(some, noise(7, 256), 0x4030201), 0)]
    dump.system = (5, system, 10, 0, 19041)
    assert threads_of(Path(put(tmp_path / "b.mdmp", dump.build()))) == [(4, some, MORE["arm"][1][2])]


def test_vectors_of_another_processor(tmp_path: Path) -> None:
    """What another processor saved is not written as this one's."""
    path = some_core(tmp_path, "arm64")
    with opened_as(CORE, path) as container:
        for word in ("x64", "arm"):
            export_minidump(container.process(), tmp_path / f"{word}.mdmp", architecture=word)
            assert {area for _, _, area in threads_of(tmp_path / f"{word}.mdmp")} == {None}
        export_elfcore(container.process(), tmp_path / "x64.core", architecture="x64")
    assert {area for _, _, area in threads_of(tmp_path / "x64.core")} == {None}


def made(folder: Path) -> ProcessMemory:
    """Return a process of an ARM64 machine as an image knows it: mappings, threads, start, vector, parent."""
    rows = [
        Mapping(0xAAAAC0000000, PAGE, "r-xp", 0, (254, 1), 77, "/usr/sbin/daemon"),
        Mapping(0xAAAAC001F000, 2 * PAGE, "rw-p", 0xF000, (254, 1), 77, "/usr/sbin/daemon"),
        Mapping(0xAAAAE0000000, PAGE, "rw-p", 0, (0, 0), 0, "[heap]"),
        Mapping(0xFFFF80000000, PAGE, "r-xp", 0x20000, (254, 1), 78, "/usr/lib/x (deleted)"),
        Mapping(0xFFFF80010000, PAGE, "r-xp", 0, (0, 0), 0, "[vdso]"),
        Mapping(0xFFFFF0000000, 2 * PAGE, "rw-p", 0, (0, 0), 0, "[stack]"),
    ]
    data = b"".join(content(row.start, row.size) for row in rows)
    start, size = (np.array(column, np.uint64) for column in ([r.start for r in rows], [r.size for r in rows]))
    offset = np.cumsum(size, dtype=np.uint64) - size
    names = NAMES["arm64"]
    threads = [
        Thread(
            700 + tid,
            registers=dict(zip(names, range(0x1000 * tid, 0x1000 * tid + len(names)), strict=True))
            | {"sp": 0xFFFFF0000800, "pc": 0xAAAAC0000010 + 4 * tid, "cpsr": 0x60001000},
            floating=VECTORS if tid == 1 else None,
            name=f"worker-{tid}",
        )
        for tid in (1, 2)
    ]
    metadata = Metadata(
        (Regions("VMAs", map(region, rows)),),
        threads=(SourceRows("tasks", threads),),
        parameters=(Parameters("mm_struct", "/usr/sbin/daemon --foreground -c /etc/d.conf"),),
    )
    vector = struct.pack("<6Q", 33, 0xFFFF80010000, 9, 0xAAAAC0000000, 0, 0)
    return process_with(
        AddressSpace(start, size, offset, FileBacking(put(folder / "image", data))),
        entry=ProcessEntry(701, "daemon", 1, unix=Unix(uid=1000, gid=100)),
        architecture="arm64",
        address_bits=64,
        platform=Platform("linux", 6, 12),
        metadata=lambda: metadata,
        auxiliary_vector=vector,
    )


def test_gdb_knows_all_of_a_process(tmp_path: Path) -> None:
    """Exported, gdb shows threads, registers of all kinds, mapped files with their offsets, vector and arguments."""
    export_elfcore(made(tmp_path), tmp_path / "core")
    asked = [
        "info threads", "info proc mappings", "info auxv", "thread 2", "p/x $x0", "p/x $pc", "thread 1", "p/x $x30",
        "p/x $cpsr", "p/x $sp", "p/x $v0.q.u[0]", "p/x $v31.q.u[0]", "p/x $fpsr", "p/x $fpcr", "x/1xg 0xffff80010000",
    ]  # fmt: skip
    text = multiarch("-ex", f"core-file {tmp_path / 'core'}", *(part for each in asked for part in ("-ex", each)))
    assert re.findall(r"(?m)^. \d +LWP (\d+)", text) == ["701", "702"]
    assert "Core was generated by `/usr/sbin/daemon --foreground -c /etc/d.conf'" in text
    files_told = re.findall(r"(?m)^ +0x(\w+) +0x(\w+) +0x\w+ +0x(\w+) (.*)$", text)
    assert [tuple(row) for row in files_told] == [
        ("aaaac0000000", "aaaac0001000", "0", "/usr/sbin/daemon"),
        ("aaaac001f000", "aaaac0021000", "f000", "/usr/sbin/daemon"),
        ("ffff80000000", "ffff80001000", "20000", "/usr/lib/x (deleted)"),
    ]
    assert re.search(r"AT_ENTRY +Entry point of program +0xaaaac0000000", text)
    assert re.search(r"AT_SYSINFO_EHDR +.* +0xffff80010000", text)
    values = re.findall(r"(?m)^\$\d+ = (0x[0-9a-f]+)$", text)
    first, last = (int.from_bytes(VECTORS[at : at + 16], "little") for at in (0, 496))
    assert values == [
        *("0x2000", "0xaaaac0000018", "0x101e", "0x60001000", "0xfffff0000800"),
        *(hex(first), hex(last), "0x10", "0x3000000"),
    ]
    assert int.from_bytes(content(0xFFFF80010000, 8), "little") == int(
        re.findall(r"0xffff80010000:\s+(0x\w+)", text)[-1], 16
    )


def test_what_a_core_says_of_the_process(tmp_path: Path) -> None:
    """NT_PRPSINFO and NT_PRSTATUS have user, group, pid, parent and arguments where Linux has them (elfcore.h)."""
    export_elfcore(made(tmp_path), tmp_path / "core")
    data = (tmp_path / "core").read_bytes()
    place = data.index(struct.pack("<3I", 5, 136, 3) + b"CORE\0\0\0\0") + 20
    assert struct.unpack_from("<4I", data, place + 16) == (1000, 100, 701, 1)
    assert data[place + 40 : place + 56] == b"daemon".ljust(16, b"\0")
    assert data[place + 56 : place + 136] == b"/usr/sbin/daemon --foreground -c /etc/d.conf".ljust(80, b"\0")
    place = data.index(struct.pack("<3I", 5, 392, 1) + b"CORE\0\0\0\0") + 20
    assert struct.unpack_from("<2I", data, place + 32) == (701, 1)
    again = told(tmp_path / "core")
    assert (again.pid, again.name, again.entry.parent) == (701, "daemon", 1)


@pytest.mark.parametrize("word", ["arm64", "arm"])
def test_scripts(tmp_path: Path, word: str) -> None:
    """The script for gdb shows the registers of either processor, those for radare2 and rizin choose it."""
    with opened_as(CORE, some_core(tmp_path, word)) as container:
        process = container.process()
        export_scripts(process, process.segments(), tmp_path / "out")
    for script in ("map.r2", "map.rz"):
        text = (tmp_path / "out" / script).read_text()
        assert f"e asm.arch=arm\ne asm.bits={64 if word == 'arm64' else 32}\n" in text
    names = ["cpsr", "sp", "x30" if word == "arm64" else "lr", "x7" if word == "arm64" else "r7"]
    asked = ["thread 2", *(f"p/x ${name}" for name in names), "show architecture", "x/1xb 0x80000010"]
    text = multiarch("-x", str(tmp_path / "out" / "map_gdb.py"), *(part for each in asked for part in ("-ex", each)))
    places = {name: 0x2000 + place for place, name in enumerate(NAMES[word])}
    assert re.findall(r"(?m)^\$\d+ = (0x[0-9a-f]+)$", text) == [hex(places[name]) for name in names]
    assert f'currently "{"aarch64" if word == "arm64" else "arm"}"' in text
    assert f"0x80000010:\t0x{content(0x80000010, 1).hex()}" in text


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a program of ARM64 and the core that QEMU wrote of it; skip if one cannot be made here."""
    compiler, qemu = needed("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static") or needed("qemu-aarch64")
    folder = tmp_path_factory.mktemp("arm64")
    (folder / "program.c").write_text(PROGRAM)
    options = ["-static", "-g", "-O1", "-pthread", "-fno-optimize-sibling-calls"]
    built = subprocess.run(
        [compiler, *options, "-o", "program", "program.c"], cwd=folder, capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"aarch64-linux-gnu-gcc does not work here: {built.stderr.splitlines()[0]}")
    subprocess.run(
        ["/bin/sh", "-c", 'ulimit -c unlimited; exec "$0" ./program one two', qemu],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
    )
    found = glob.glob(str(folder / "qemu_*.core"))
    if not found:
        pytest.skip("QEMU wrote no core: RLIMIT_CORE may be 0")
    return folder / "program", Path(found[0])


def test_a_real_program_of_arm64(crash: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the exported core gdb shows what it shows of QEMU's: threads, registers, backtraces of all threads."""
    program, path = crash
    with opened_as(CORE, path) as container:
        process = container.process()
        assert process.architecture == "arm64"
        assert process.metadata.parameters[0].command_line == "./program one two"
        export_elfcore(process, tmp_path / "core")
    asked = ["info threads", "thread apply all bt", "info registers", "p/x $x19", "p/x $x20"]
    shown = [
        multiarch(str(program), str(each), *(part for words in asked for part in ("-ex", words)))
        for each in (path, tmp_path / "core")
    ]
    # QEMU does not say which signal it was, nor needs a program that lies where it was linked
    texts = [[line for line in text.splitlines() if not line.startswith(("warning", "Program term"))] for text in shown]
    assert texts[0] == texts[1]
    assert shown[1].count("deeper (") >= 4
    assert "in main ()" in shown[1]
    assert "0x1919" in shown[1]
    assert "0xbeef" in shown[1]
    assert len(set(re.findall(r"LWP (\d+)", shown[1]))) == 3
