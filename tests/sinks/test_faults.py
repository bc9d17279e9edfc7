"""Exceptions, signals, x87 and SSE registers, names of threads: from minidumps to cores and back, and the reverse."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from minidump.minidumpfile import MinidumpFile

import memcarve
import minidumps
from cores import PROGRAM, Load, compiled, core, crashed, fxsave, gdb, info, lldb, note, siginfo, status
from memcarve.formats import floating_point
from memcarve.metadata import Fault, Thread
from memory import PAGE, noise
from minidumps import AMD64, ARM64, INTEL, LINUX, WINDOWS, Dump, Raised, context32, context64
from sinking import export_elfcore, export_minidump

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memcarve.process import ProcessMemory

BASE = 0x7FF600000000
THEN = minidumps.some_registers(minidumps.AMD64_REGISTERS) | {"rip": BASE + 0x10, "rsp": BASE + 0x100}
NOW = {name: value ^ 1 for name, value in THEN.items()} | {"rip": BASE + 0x20}
THEN_32 = minidumps.some_registers(minidumps.X86_REGISTERS) | {"eip": 0x10010, "esp": 0x10100}
ACCESS_VIOLATION = 0xC0000005
VECTOR = struct.pack("<4Q", 9, 0x401000, 0, 0)
ONLY_CORES = {"orig_rax", "fs_base", "gs_base"}


def windows() -> Dump:
    """Return a minidump of three threads, the second of which did what it may not, in registers of that moment."""
    return Dump(
        [(BASE, noise(1, PAGE))],
        threads=[
            minidumps.Thread(4, context=context64(NOW, area=fxsave(1))),
            minidumps.Thread(8, context=context64(NOW, area=fxsave(2)), name="the one that fell"),
            minidumps.Thread(12, context=context64(NOW)),
        ],
        raised=Raised(8, ACCESS_VIOLATION, 0, BASE + 0x10, (1, 0xDEADBEEF000), context64(THEN, area=fxsave(3))),
        pid=77,
    )


def saved(path: Path, data: bytes | Dump) -> Path:
    """Write a file."""
    path.write_bytes(data if isinstance(data, bytes) else data.build())
    return path


class Told(NamedTuple):
    """What a file says of its threads, and the notes that exporting it made."""

    threads: list[Thread]
    notes: Sequence[str] = ()


def told(path: Path) -> Told:
    """Return what a file says of its threads."""
    with memcarve.open(path) as container:
        return Told(container.process().metadata.all_threads())


def exported(path: Path, out: Path) -> Told:
    """Export a file as what `out` is called; return what that says."""
    write: Any = export_elfcore if out.suffix == ".core" else export_minidump
    with memcarve.open(path) as container:
        result = write(container.process(), out)
    return Told(told(out).threads, result.notes)


def there_and_back(path: Path, folder: Path) -> None:
    """Check that a file says the same of its threads as it does after an export to a core, and to a minidump.

    A CONTEXT has no place for three of the registers that a core has.
    """

    def known(found: Told) -> list[Thread]:
        return [
            thread._replace(
                registers={name: value for name, value in thread.registers.items() if name not in ONLY_CORES}
            )
            if thread.registers
            else thread
            for thread in found.threads
        ]

    expected = known(told(path))
    one, two, three, four = (folder / name for name in ("1.core", "2.mdmp", "3.core", "4.mdmp"))
    for source, out in ((path, one), (one, two), (two, three), (path, four)):
        assert known(exported(source, out)) == expected


def exception_in(path: Path) -> Any:
    """Return the exception that the package minidump finds in a file."""
    parsed = MinidumpFile.parse(str(path))
    parsed.file_handle.close()
    (found,) = parsed.exception.exception_records
    return found


def test_what_a_minidump_says(tmp_path: Path) -> None:
    """The exception is the fault of its thread, with the registers of that moment, which are not the thread's own."""
    first, second, third = told(saved(tmp_path / "a.mdmp", windows())).threads
    assert (first.fault, first.floating) == (None, fxsave(1))
    assert (second.registers, second.floating, second.name) == (NOW, fxsave(2), "the one that fell")
    expected = Fault(None, ACCESS_VIOLATION, 0, BASE + 0x10, (1, 0xDEADBEEF000), None, THEN, fxsave(3))
    assert second.fault == expected
    assert (third.fault, third.floating) == (None, None)


def test_an_exception_in_the_threads_own_registers(tmp_path: Path) -> None:
    """If the exception has the registers of the thread itself, they stand there once; so if it has none."""
    dump = windows()
    for context in (context64(NOW, area=fxsave(2)), b""):
        dump.raised = Raised(8, 0x80000003, 1, 5, (), context)
        assert told(saved(tmp_path / "a.mdmp", dump)).threads[1].fault == Fault(None, 0x80000003, 1, 5)


def test_an_exception_of_a_thread_that_is_not_listed(tmp_path: Path) -> None:
    """A thread that only the exception names is a thread."""
    dump = windows()
    dump.threads = None
    (thread,) = told(saved(tmp_path / "a.mdmp", dump)).threads
    assert thread.tid == 8
    assert thread.fault is not None
    assert thread.fault.registers == THEN


def test_windows_there_and_back(tmp_path: Path) -> None:
    """Exception, registers of both moments, x87, SSE and names are the same after a core, and in a minidump of it."""
    there_and_back(saved(tmp_path / "a.mdmp", windows()), tmp_path)


def test_the_minidump_package_reads_the_exception(tmp_path: Path) -> None:
    """The package minidump finds the same exception in what was exported, from the minidump and from the core."""
    path = saved(tmp_path / "a.mdmp", windows())
    exported(path, tmp_path / "a.core")
    exported(tmp_path / "a.core", tmp_path / "b.mdmp")
    for file in (path, tmp_path / "b.mdmp"):
        found = exception_in(file)
        record = found.ExceptionRecord
        assert found.ThreadId == 8
        assert record.ExceptionCode_raw == ACCESS_VIOLATION
        assert (record.ExceptionAddress, record.NumberParameters) == (BASE + 0x10, 2)
        assert record.ExceptionInformation[:2] == [1, 0xDEADBEEF000]


def test_gdb_shows_what_happened(tmp_path: Path) -> None:
    """Gdb opens the core of a Windows process in the thread that fell, with the signal, address and registers."""
    path = tmp_path / "a.core"
    exported(saved(tmp_path / "a.mdmp", windows()), path)
    text = gdb(
        path,
        "echo <",
        "info threads",
        "p/x $rip",
        "p $_siginfo.si_signo",
        "p $_siginfo._sifields._sigfault.si_addr",
        "p $st0",
        "p $st1",
        "p/x $xmm3.v2_int64",
        "p/x $mxcsr",
        "thread 2",
        "p $st0",
    )
    assert "terminated with signal SIGSEGV" in text
    assert re.search(r"(?m)^\* 1 +LWP 8 ", text)
    values = re.findall(r"(?m)^\$\d+ = (.*)$", text)
    assert values[:2] == [f"0x{BASE + 0x10:x}", "11"]
    assert "0xdeadbeef000" in values[2]
    assert values[3:5] == ["4.5", "-2"]
    assert values[5:] == ["{0x300000003, 0xfffffffffffffffc}", "0x1fa0", "2.5"]


def test_lldb_shows_what_happened(tmp_path: Path) -> None:
    """Lldb shows the signal in the thread that fell."""
    path = tmp_path / "a.core"
    exported(saved(tmp_path / "a.mdmp", windows()), path)
    text = lldb(path, "thread list", "register read rip")
    assert re.search(r"\* thread #1.*stop reason = signal SIGSEGV", text)
    assert f"rip = 0x{BASE + 0x10:016x}" in text


@pytest.mark.parametrize(
    ("code", "signal"),
    [
        (0xC0000005, 11), (0xC00000FD, 11), (0x80000001, 11), (0xC0000006, 7), (0x80000002, 7), (0xC000001D, 4),
        (0xC0000096, 4), (0xC0000094, 8), (0xC000008E, 8), (0x80000003, 5), (0x80000004, 5), (0xC0000409, 6),
        (0xE06D7363, 6), (0xC000013A, 2), (0x12345678, 0),
    ],
)  # fmt: skip
def test_signals_that_stand_for_exceptions(tmp_path: Path, code: int, signal: int) -> None:
    """Each exception has the signal that a Unix has for its cause; one that has none is noted, and comes back."""
    dump = windows()
    dump.raised = Raised(8, code, 0, BASE, (0, 0x1234))
    path = saved(tmp_path / "a.mdmp", dump)
    result = exported(path, tmp_path / "a.core")
    assert result.threads[1].fault == told(path).threads[1].fault
    data = (tmp_path / "a.core").read_bytes()
    at = data.index(struct.pack("<III", 5, 336, 1) + b"CORE\0\0\0\0") + 20
    assert struct.unpack_from("<i8xh", data, at) == (signal, signal)
    assert (struct.pack("<III", 5, 128, 0x53494749) + b"CORE" in data) == bool(signal)
    assert any("no signal stands for the exception 0x12345678" in text for text in result.notes) == (not signal)
    there_and_back(path, tmp_path)


def test_32_bits(tmp_path: Path) -> None:
    """Of x86, too, registers come back, with and without SSE; gdb reads them in the core."""
    area = fxsave(3)
    both = (floating_point.fsave(area), area)
    threads = [
        minidumps.Thread(4, context=context32(THEN_32, areas=both)),
        minidumps.Thread(8, context=context32(THEN_32, areas=(both[0], b""))),
    ]
    dump = Dump([(0x10000, noise(1, PAGE))], threads=threads, system=(INTEL, WINDOWS, 6, 1, 7601),
                raised=Raised(8, 0xC000001D, 0, 0x10010))  # fmt: skip
    path = saved(tmp_path / "a.mdmp", dump)
    assert [thread.floating for thread in told(path).threads] == [area, both[0]]
    there_and_back(path, tmp_path)
    text = gdb(tmp_path / "1.core", "thread 2", "p $st0", "p/x $xmm3.v2_int64")
    assert "terminated with signal SIGILL" in text
    assert re.findall(r"(?m)^\$\d+ = (.*)$", text) == ["4.5", "{0x300000003, 0xfffffffffffffffc}"]
    dump.threads = threads[1:]  # gdb looks for FSAVE's registers alone only if no thread has others
    exported(saved(path, dump), tmp_path / "b.core")
    assert re.findall(r"(?m)^\$\d+ = (.*)$", gdb(tmp_path / "b.core", "p $st0", "p $st1")) == ["4.5", "-2"]


def linux_core(order: Sequence[int] = (0, 1)) -> bytes:
    """Return a core of two threads that a signal each stopped, as gcore writes it."""
    notes = [note(b"CORE", 6, VECTOR)] + [
        status(100 + n, [n * 100 + place for place in range(27)], signal=(11, 19)[n])
        + (info(100, b"prog") if not n else b"")
        + note(b"CORE", 0x53494749, siginfo((11, 19)[n], (1, -6)[n], 0x1234567))
        + note(b"CORE", 2, fxsave(n))
        for n in order
    ]
    return core([Load(0x400000, noise(1, PAGE))], b"".join(notes) + note(b"LINUX", 0x200, bytes(8)))


def test_what_a_core_says(tmp_path: Path) -> None:
    """Signal, si_code, si_addr if there is one, x87 and SSE registers are those of the notes behind a status."""
    one, two = told(saved(tmp_path / "a.core", linux_core())).threads
    assert one.fault == Fault(11, None, 1, 0x1234567, siginfo=siginfo(11, 1, 0x1234567))
    assert two.fault == Fault(19, None, 0xFFFFFFFA, None, siginfo=siginfo(19, -6, 0x1234567))
    assert (one.floating, two.floating) == (fxsave(0), fxsave(1))


def test_linux_there_and_back(tmp_path: Path) -> None:
    """What stopped threads, to the last byte of siginfo, and the auxiliary vector are the same after a minidump."""
    path = saved(tmp_path / "a.core", linux_core())
    there_and_back(path, tmp_path)
    exported(path, tmp_path / "b.mdmp")
    exported(tmp_path / "b.mdmp", tmp_path / "b.core")
    data = (tmp_path / "b.core").read_bytes()
    assert note(b"CORE", 6, VECTOR) in data
    for n in (0, 1):
        assert siginfo((11, 19)[n], (1, -6)[n], 0x1234567) in data
        assert note(b"CORE", 2, fxsave(n)) in data
    found = exception_in(tmp_path / "b.mdmp")
    record = found.ExceptionRecord
    assert (found.ThreadId, record.ExceptionCode_raw, record.ExceptionFlags) == (100, 11, 1)
    assert record.ExceptionAddress == 0x1234567


def test_a_thread_without_a_signal(tmp_path: Path) -> None:
    """A siginfo_t of zeros, as gcore writes it for a program that runs, and a status without a signal are no fault."""
    notes = status(5, range(27)) + note(b"CORE", 0x53494749, bytes(128))
    (thread,) = told(saved(tmp_path / "a.core", core([Load(0x400000, b"x")], notes))).threads
    assert thread.fault is None


def test_breakpads_signals(tmp_path: Path) -> None:
    """A signal in the minidump of a Linux program is one in the core, whose siginfo says the address; and back."""
    dump = windows()
    dump.system, dump.raised = (AMD64, LINUX, 6, 1, 0), Raised(12, 7, 2, 0xABCDEF0)
    path = saved(tmp_path / "a.mdmp", dump)
    assert told(path).threads[2].fault == Fault(7, None, 2, 0xABCDEF0)
    there_and_back(path, tmp_path)
    text = gdb(tmp_path / "1.core", "p $_siginfo._sifields._sigfault.si_addr", "p $_siginfo.si_code")
    assert "terminated with signal SIGBUS" in text
    assert "0xabcdef0" in text
    assert b'"faults"' not in (tmp_path / "2.mdmp").read_bytes()  # the stream says it all


def test_a_dump_that_was_asked_for(tmp_path: Path) -> None:
    """Breakpad's code for a dump without a signal is not one, and comes back."""
    dump = windows()
    dump.system, dump.raised = (AMD64, LINUX, 6, 1, 0), Raised(12, 0xFFFFFFFF, 0, 0)
    path = saved(tmp_path / "a.mdmp", dump)
    assert told(path).threads[2].fault == Fault(None, 0xFFFFFFFF, 0, 0)
    there_and_back(path, tmp_path)


def test_carved_folders_keep_faults(tmp_path: Path) -> None:
    """A carved folder keeps why a thread was stopped and its name, but not its x87 and SSE registers."""
    with memcarve.open(saved(tmp_path / "a.mdmp", windows())) as container:
        process = container.process()
        memcarve.carve(process, process.segments(labeller=memcarve.Labelling()), tmp_path / "a.segments")
    found = told(tmp_path / "a.segments").threads
    known = told(tmp_path / "a.mdmp").threads
    assert found == [thread._replace(floating=None) for thread in known]


def test_xsave(tmp_path: Path) -> None:
    """The area of XSAVE is copied from core to core; a minidump has what FXSAVE has of it."""
    area = fxsave(4)[:464] + struct.pack("<Q", 7) + bytes(40) + struct.pack("<Q", 7) + noise(3, 56 + 256)
    notes = status(5, range(27)) + note(b"CORE", 2, fxsave(4)) + note(b"LINUX", 0x202, area)
    path = saved(tmp_path / "a.core", core([Load(0x400000, noise(1, PAGE))], notes))
    assert exported(path, tmp_path / "b.core").threads[0].floating == area
    assert note(b"LINUX", 0x202, area) in (tmp_path / "b.core").read_bytes()
    assert exported(path, tmp_path / "c.mdmp").threads[0].floating == fxsave(4)


def test_signals_that_there_are_not(tmp_path: Path) -> None:
    """A number that no signal has, as a hostile core may say it, is written as it is, and comes back."""
    notes = status(5, range(27), signal=-1) + note(
        b"CORE", 0x53494749, struct.pack("<3I", *[0xFFFFFFFF] * 3) + bytes(116)
    )
    path = saved(tmp_path / "a.core", core([Load(0x400000, noise(1, PAGE))], notes))
    assert told(path).threads[0].fault == Fault(0xFFFF, None, 0xFFFFFFFF, siginfo=bytes([255] * 12 + [0] * 116))
    there_and_back(path, tmp_path)


def test_other_processors(tmp_path: Path) -> None:
    """Of another processor a signal is known, and registers are not; nothing is made up."""
    notes = status(5, range(27), signal=11) + note(b"CORE", 2, fxsave(4))
    path = saved(tmp_path / "a.core", core([Load(0x400000, noise(1, PAGE))], notes, machine=183))
    (thread,) = told(path).threads
    assert (thread.registers, thread.floating, thread.fault) == (None, None, Fault(11))
    dump = windows()
    dump.system = (ARM64, WINDOWS, 10, 0, 19041)
    found = told(saved(tmp_path / "a.mdmp", dump)).threads
    assert [thread.floating for thread in found] == [None] * 3


@pytest.mark.parametrize("rows", [None, 5, [5], [{"tid": "x"}], [{"tid": 8, "siginfo": "zz", "signal": -1}]])
def test_hostile_faults(tmp_path: Path, rows: object) -> None:
    """Whatever the comment of a minidump says of faults: nothing is made up."""
    comment = {"tool": "memcarve", "faults": {"threads": rows}}
    dump = windows()
    dump.comment = json.dumps(comment).encode() + b"\0"
    found = told(saved(tmp_path / "a.mdmp", dump)).threads
    assert [thread.tid for thread in found] == [4, 8, 12]
    assert found[1].fault is None or found[1].fault.siginfo is None


def test_a_real_crash(tmp_path: Path) -> None:
    """A core of the kernel's keeps signal, siginfo and x87 registers through a minidump; gdb shows the same of both."""
    path, _ = crashed(compiled(tmp_path, PROGRAM, "-pthread"))
    exported(path, tmp_path / "a.mdmp")
    back = exported(tmp_path / "a.mdmp", tmp_path / "b.core").threads
    known = told(path).threads
    assert [thread.fault for thread in back] == [thread.fault for thread in known]
    assert known[0].fault is not None
    assert known[0].fault.signal == 6
    for one, two in zip(known, back, strict=True):
        assert one.floating is not None
        assert two.floating == floating_point.fxsave(one.floating)
    commands = ("info registers float", "p $_siginfo", "p $mxcsr", "p $xmm0")
    shown = [
        [line for line in gdb(file, *commands).splitlines() if re.match(r"Program terminated|\$|st\d|f[a-z]+ ", line)]
        for file in (path, tmp_path / "b.core")
    ]
    assert shown[0] == shown[1]
    assert "SIGABRT" in shown[0][0]
    assert len(shown[0]) > 10


HARDWARE = r"""
#include <stdio.h>
#include <stdlib.h>
static unsigned char fx[512] __attribute__((aligned(16))), fs[108];
int main(int count, char **words) {
    long double values[] = {1.5L, -0.0L, 0.0L, 1.0L / 3, 1e4930L, 1e-4940L, __builtin_infl(), __builtin_nanl("")};
    int number = atoi(words[1]);
    __asm__ volatile("fninit");
    for (int n = 0; n < number; n++) __asm__ volatile("fldt %0" : : "m"(values[n]));
    if (number) __asm__ volatile("fdecstp");
    __asm__ volatile("fxsave %0\n\tfnsave %1" : "=m"(fx), "=m"(fs));
    fwrite(fx, 1, 512, stdout);
    fwrite(fs, 1, 108, stdout);
    return 0;
}
"""


def test_fsave_is_what_the_processor_saves(tmp_path: Path) -> None:
    """What FSAVE saves, made of what FXSAVE saved, is what this processor itself saves: all tags, any top."""
    program = compiled(tmp_path, HARDWARE)
    for count in range(9):
        data = subprocess.run([str(program), str(count)], capture_output=True, check=True).stdout
        made, there = floating_point.fsave(data[:512]), data[512:]
        # some processors let FXSAVE leave out where the last instruction and its operand were
        assert (made[:12], made[28:]) == (there[:12], there[28:])


def test_threads_of_a_core_keep_their_order(tmp_path: Path) -> None:
    """In a core the thread that fell comes first; what memcarve noted has the order that the input had."""
    exported(saved(tmp_path / "a.mdmp", windows()), tmp_path / "a.core")
    with memcarve.open(tmp_path / "a.core") as container:
        process: ProcessMemory = container.process()
        assert [thread.tid for thread in process.metadata.all_threads()] == [4, 8, 12]
