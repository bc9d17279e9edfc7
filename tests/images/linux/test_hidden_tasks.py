"""Processes that were hidden from the lists of real Linux machines, and what only looks like processes.

The images are those of real machines, changed in single words of the kernel's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import memcarve
from linux_machines import machine, unlike_machines

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_structures import Damaged
    from memcarve.process import ProcessEntry

    Damage = Callable[[str], Damaged]

each_machine = pytest.mark.parametrize("name", unlike_machines())


def _program(name: str) -> int:
    """Return the pid of a program that stood still and has one thread and memory of its own."""
    it = machine(name)
    return next(
        pid
        for pid in it.stopped
        if it.processes[pid]["state"] == "T"
        and it.processes[pid]["Threads"] == "1"
        and it.processes[pid]["cmdline"].startswith("rich\0sleep")
    )


def _with_threads(name: str) -> int:
    it = machine(name)
    return next(pid for pid in it.stopped if it.processes[pid]["state"] == "T" and it.processes[pid]["Threads"] == "8")


def _one(copy: Damaged, pid: int) -> tuple[ProcessEntry, list[str]]:
    """Return the one process of a number, and all notes."""
    with memcarve.open(copy.path) as container:
        found = [entry for entry in container.processes() if entry.pid == pid and not entry.ended]
        assert len(found) == 1
        return found[0], [str(note) for note in container.notes]


def _forget_number(copy: Damaged, task: int) -> None:
    """Take the task away from its number, as a rootkit does that detaches it."""
    pid = copy.get(task, "task_struct.thread_pid")
    copy.put(pid, "pid.tasks", bytes(32))


@each_machine
def test_unlinked_task_is_found_by_its_number(name: str, damaged: Damage) -> None:
    """A task out of the list is in the tables of numbers still; the list is whole without it."""
    copy, pid = damaged(name), _program(name)
    task = copy.task(pid)
    copy.unlink(task)
    entry, notes = _one(copy, pid)
    assert entry.unix is not None
    assert (entry.object, entry.listed, entry.unix.found, entry.doubts) == (task, False, "pid table", ())
    assert entry.state == "stopped, unlinked"
    assert not [note for note in notes if "damaged" in note]
    with memcarve.open(copy.path) as container:
        assert container.process(pid).space.total > 100_000
        assert container.process(pid).entry.root == int(machine(name).processes[pid]["by_btf"]["root"], 16)


@each_machine
def test_task_without_number_is_found_by_the_search(name: str, damaged: Damage) -> None:
    """A task out of the list and without its number is found by what it looks like, whatever its name."""
    copy, pid = damaged(name), _program(name)
    task = copy.task(pid)
    copy.unlink(task)
    _forget_number(copy, task)
    copy.put(task, "task_struct.comm", b"\xff\x1b[2J".ljust(16, b"\0"))
    entry, _ = _one(copy, pid)
    assert entry.unix is not None
    assert (entry.object, entry.unix.found, entry.doubts) == (task, "search", ())
    assert entry.name == "\udcff\x1b[2J"


@each_machine
@pytest.mark.parametrize("member", ["real_cred", "stack", "sighand", "real_parent", "tasks.next"])
def test_one_damaged_member_does_not_hide_a_task(name: str, damaged: Damage, member: str) -> None:
    """Whatever one member of an unlinked task says, it is found; if that matters, it is doubtful, with the reason."""
    copy, pid = damaged(name), _program(name)
    task = copy.task(pid)
    copy.unlink(task)
    _forget_number(copy, task)
    copy.put(task, f"task_struct.{member}", 0x4141414141414141)
    entry, notes = _one(copy, pid)
    assert entry.object == task
    assert bool(entry.doubts) == any("doubtful" in note for note in notes)
    assert bool(entry.doubts) == (member not in ("sighand", "tasks.next"))


@each_machine
def test_threads_lead_to_an_unlinked_process(name: str, damaged: Damage) -> None:
    """The numbers of threads lead to the process whose own number was taken away; threads are no processes."""
    copy, pid = damaged(name), _with_threads(name)
    task = copy.task(pid)
    copy.unlink(task)
    _forget_number(copy, task)
    entry, _ = _one(copy, pid)
    assert entry.unix is not None
    assert (entry.object, entry.unix.found) == (task, "pid table")
    tids = {thread["tid"] for thread in machine(name).processes[pid]["threads"]} - {pid}
    with memcarve.open(copy.path) as container:
        assert not tids & {found.pid for found in container.processes()}


@each_machine
def test_kernel_threads_have_no_memory_of_their_own(name: str) -> None:
    """They are left out of what takes all, and of what goes by name; one that is named by its number is an error."""
    it = machine(name)
    with memcarve.open(it.raw) as container:
        certain = [container.entry(index) for index in container.certain()]
        assert {entry.pid for entry in certain} >= set(it.stopped)
        assert not any(entry.unix and entry.unix.kernel_thread for entry in certain)
        assert any("kernel threads" in note for note in container.notes)
        thread = next(pid for pid, said in it.processes.items() if said["kernel_thread"])
        with pytest.raises(memcarve.MemcarveError, match="is a kernel thread: it has no memory of its own"):
            container.process(thread, half="user")
        assert container.process(thread, half="kernel").space.total > 1 << 24
        with pytest.raises(memcarve.MemcarveError, match=r"has no memory of its own: .*kernel thread"):
            container.choose(name="kthreadd")
