"""Threads of Linux processes, with states, user registers and stacks, as real machines said they were."""

from __future__ import annotations

import pytest

from linux_machines import STATES, as_bytes, machine, machines
from linux_systems import stopped, system_of, typed_system_of
from memcarve.formats.floating_point import is_sound
from memcarve.vocabulary import Kind


@pytest.mark.parametrize("name", machines())
def test_threads(name: str) -> None:
    """Every thread of every process is there once, with the name and the state that the machine said it had."""
    given, system = machine(name), system_of(name)
    for entry in system.listed():
        said = given.processes[entry.pid or 0]
        if said["kernel_thread"] or entry.pid == given.collector_pid:
            continue
        found = system.metadata(entry, system.table_of(entry))
        rows = [
            (row.tid, (row.name or "").encode("utf-8", "surrogateescape"), row.state) for row in found.threads[0].rows
        ]
        wanted = [(each["tid"], as_bytes(each["comm"]), STATES[each["state"]]) for each in said["threads"]]
        assert sorted(rows) == sorted(wanted)


@pytest.mark.parametrize("name", machines())
def test_registers(name: str) -> None:
    """Stack pointer, program counter and number of the system call are what /proc/PID/syscall said."""
    given, system = machine(name), typed_system_of(name)
    compared = 0
    for pid, entry in stopped(given):
        found = system.metadata(entry, system.table_of(entry))
        rows = {row.tid: row for row in found.threads[0].rows}
        for said in given.processes[pid]["threads"]:
            row = rows[said["tid"]]
            if said["state"] == "Z":
                assert row.registers is None
                continue
            registers = row.registers or {}
            narrow = given.arch == "i386" or "eip" in registers  # a 32-bit program has registers of its own names
            assert narrow == (given.arch == "i386" or system.architecture_of(entry) == "x86")
            names = ("sp", "pc") if given.arch == "arm64" else ("esp", "eip") if narrow else ("rsp", "rip")
            assert [registers[each] for each in names] == [int(said["sp"], 16), int(said["pc"], 16)]
            if given.arch != "arm64":  # where the number is not kept with the registers
                mask = (1 << 32) - 1
                assert registers["orig_eax" if narrow else "orig_rax"] & mask == int(said["syscall"]) & mask
            assert row.floating is None or is_sound(len(row.floating))
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", machines())
def test_stacks(name: str) -> None:
    """A thread's stack is the region that its stack pointer is in: that of the first is what the kernel calls so."""
    given, system = machine(name), typed_system_of(name)
    for pid, entry in stopped(given):
        found = system.metadata(entry, system.table_of(entry))
        stacks = {area.detail: area for each in found.areas for area in each.rows if area.kind == Kind.STACK}
        for row in found.threads[0].rows:
            if row.registers is None:
                continue
            pointer = next(row.registers[each] for each in ("rsp", "sp", "esp") if each in row.registers)
            area = stacks[f"thread {row.tid}"]
            assert area.start == row.stack_start <= pointer < area.end == row.stack_end
            held = next(vma for vma in given.vmas(pid) if vma.start <= pointer < vma.end)
            assert (held.start, held.end) == (area.start, area.end)
            if row.tid == pid and given.processes[pid]["notes"] != ["vfork"]:
                assert held.name in (b"[stack]", b"")


@pytest.mark.parametrize("name", machines())
def test_floating(name: str) -> None:
    """The x87 and SSE registers are those of programs that never changed how these work."""
    given, system = machine(name), typed_system_of(name)
    if given.arch == "arm64":
        pytest.skip("nothing in them is known beforehand")
    if not given.truth["btf"]:
        pytest.skip(f"{name}: its kernel has no BTF, and where it keeps them is not learned")
    areas = [
        row.floating
        for _, entry in stopped(given)
        for row in system.metadata(entry, system.table_of(entry)).threads[0].rows
        if row.floating is not None
    ]
    assert len(areas) > 20
    assert {area[:2] for area in areas} == {b"\x7f\x03"}  # the control word
    assert {area[24:28] for area in areas} == {b"\x80\x1f\0\0"}  # MXCSR
