"""Machines whose list of tasks was damaged: by a rootkit, by hostile hands, or because it changed while it was read.

The images are those of real machines, changed in single words of the kernel's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import memcarve
from linux_machines import as_bytes, machine, unlike_machines

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_structures import Damaged
    from memcarve.process import ProcessEntry

    Damage = Callable[[str], Damaged]

each_machine = pytest.mark.parametrize("name", unlike_machines())


def _found(copy: Damaged) -> tuple[dict[int, ProcessEntry], list[str]]:
    """Return all processes by pid, and what the user is told of the list alone; each task is found once."""
    with memcarve.open(copy.path) as container:
        container.listed()
        notes = [str(note) for note in container.notes if "damaged" in note]
        entries = container.processes()
    assert len({entry.object for entry in entries}) == len(entries)
    return {entry.pid: entry for entry in entries if entry.pid is not None}, notes


def _stopped(name: str) -> list[int]:
    """Return the pids of programs that stood still and are no other's threads, zombies left out."""
    it = machine(name)
    return [pid for pid in it.stopped if it.processes[pid]["state"] == "T"]


@each_machine
def test_unlinked_process_is_found(name: str, damaged: Damage) -> None:
    """A process that was taken out of the list is found all the same, and said not to be in it."""
    copy = damaged(name)
    hidden = _stopped(name)[3]
    task = copy.task(hidden)
    copy.unlink(task)
    found, _ = _found(copy)
    assert found[hidden].object == task
    assert found[hidden].listed is False
    assert "unlinked" in (found[hidden].state or "")
    others = [pid for pid in machine(name).stopped if pid != hidden]
    assert all(found[pid].listed for pid in others)


@each_machine
def test_unlinked_process_that_forgot_its_neighbours(name: str, damaged: Damage) -> None:
    """The same if its own links were overwritten, as list_del does and as rootkits do."""
    copy = damaged(name)
    hidden = _stopped(name)[5]
    task = copy.task(hidden)
    copy.unlink(task)
    copy.put(task, "task_struct.tasks.next", 0xDEAD000000000100)
    copy.put(task, "task_struct.tasks.prev", 0xDEAD000000000122)
    found, _ = _found(copy)
    assert found[hidden].object == task
    assert found[hidden].listed is False


@each_machine
def test_list_that_loops(name: str, damaged: Damage) -> None:
    """A list that leads back into itself ends there; the other direction has the rest, and the user is told."""
    copy = damaged(name)
    pids = _stopped(name)
    early, late = copy.task(pids[2]), copy.task(pids[10])
    copy.put(late, "task_struct.tasks.next", early + copy.types.offset("task_struct.tasks"))
    found, notes = _found(copy)
    assert set(machine(name).stopped) <= set(found)
    assert all(found[pid].listed for pid in pids)
    assert len(notes) == 1


@each_machine
@pytest.mark.parametrize("where", [0, 0xDEAD000000000100, 0x1000, (1 << 64) - 8])
def test_list_that_is_torn(name: str, damaged: Damage, where: int) -> None:
    """A link that leads nowhere, as in memory that changed while it was acquired: the other direction has the rest."""
    copy = damaged(name)
    pids = _stopped(name)
    copy.put(copy.task(pids[7]), "task_struct.tasks.next", where)
    found, notes = _found(copy)
    assert set(machine(name).stopped) <= set(found)
    assert all(found[pid].listed for pid in pids)
    assert len(notes) == 1


@each_machine
def test_list_that_is_torn_in_both_directions(name: str, damaged: Damage) -> None:
    """Between two tears, a search of memory finds the processes."""
    copy = damaged(name)
    pids = _stopped(name)
    early, late = copy.task(pids[4]), copy.task(pids[9])
    copy.put(early, "task_struct.tasks.next", 0)
    copy.put(late, "task_struct.tasks.prev", 0)
    found, notes = _found(copy)
    assert set(pids) <= set(found)
    assert not found[pids[6]].listed
    assert found[pids[2]].listed
    assert found[pids[12]].listed
    assert len(notes) == 1


@each_machine
def test_names_are_bytes(name: str, damaged: Damage) -> None:
    """A name of control characters, and one of 16 bytes without an end, is kept to the byte and printed harmlessly."""
    copy = damaged(name)
    pids = _stopped(name)
    hostile = {
        pids[1]: b"\x1b]0;owned\x07\x1b[2J",
        pids[2]: b"0123456789abcdef",
        pids[3]: b"../../\r\n\xe2\x80\xae=cmd",
    }
    for pid, text in hostile.items():
        copy.put(copy.task(pid), "task_struct.comm", text.ljust(16, b"\0"))
    found, _ = _found(copy)
    for pid, text in hostile.items():
        assert (found[pid].name or "").encode("utf-8", "surrogateescape") == text.rstrip(b"\0")
    assert (found[pids[0]].name or "").encode("utf-8", "surrogateescape") == as_bytes(
        machine(name).processes[pids[0]]["comm"]
    )


@each_machine
def test_same_pid_twice(name: str, damaged: Damage) -> None:
    """Two tasks of one number are two processes."""
    copy = damaged(name)
    pids = _stopped(name)
    task, other = copy.task(pids[5]), copy.task(pids[6])
    copy.put(task, "task_struct.pid", pids[6], 4)
    copy.put(task, "task_struct.tgid", pids[6], 4)
    with memcarve.open(copy.path) as container:
        same = [entry for entry in container.processes() if entry.pid == pids[6]]
    assert {entry.object for entry in same} == {task, other}


@each_machine
@pytest.mark.parametrize(
    ("member", "bits", "says"),
    [("flags", 0x200000, "is a kernel thread"), ("exit_state", 0x20, "has ended"), ("exit_state", 0x10, "has ended")],
)
def test_process_that_says_that_it_has_no_memory(name: str, member: str, bits: int, says: str, damaged: Damage) -> None:
    """A process that was made to look like a kernel thread, or a zombie, keeps its memory, and the user is told."""
    copy = damaged(name)
    pid = _stopped(name)[3]
    task = copy.task(pid)
    copy.put(task, f"task_struct.{member}", copy.get(task, f"task_struct.{member}", 4) | bits, 4)
    with memcarve.open(copy.path) as container:
        (index,) = [index for index in container.certain() if container.entry(index).pid == pid]
        entry, process = container.entry(index), container.process(index=index)
        told = [str(note) for note in container.notes if says in note]
        assert not entry.ended
        assert entry.unix is not None
        assert not entry.unix.kernel_thread
        assert len(process.regions) == len(machine(name).vmas(pid))
    assert len(told) == 1
    assert f"{pid} " in told[0]


@each_machine
@pytest.mark.parametrize("number", [0xFFFFFFFF, 0x7FFFFFFF])
def test_number_that_no_process_has(name: str, number: int, damaged: Damage) -> None:
    """A process of the list with an impossible number is listed with it, and the user is told; the rest is there."""
    copy = damaged(name)
    pids = _stopped(name)
    task = copy.task(pids[5])
    for member in ("pid", "tgid"):
        copy.put(task, f"task_struct.{member}", number, 4)
    with memcarve.open(copy.path) as container:
        entries = {entry.object: entry for entry in container.listed()}
        problem = container.notes[-1]
    assert entries[task].name == as_bytes(machine(name).processes[pids[5]]["comm"]).decode()
    assert {entry.pid for entry in entries.values()} >= {*machine(name).stopped} - {pids[5]}
    assert "number" in problem
