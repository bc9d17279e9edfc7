"""The kernel's tasks: threads, and the processes whose thread groups they lead.

Names and meanings of members: include/linux/sched.h, sched/signal.h, cred.h and pid.h of Linux; the letters of a state
and how they come about: fs/proc/array.c and proc_pid_status(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.images.linux.kernel_structures import Structures

KERNEL_THREAD = 0x200000  # PF_KTHREAD
#: what a task does, by the highest bit of its state; and of its state if nothing is to be reported of it
STATES = ("running", "sleeping", "disk sleep", "stopped", "tracing stop", "dead", "zombie", "parked", "idle")
_REPORTED, _IDLE = 0x7F, 0x402
_ENDED = 0x30  # EXIT_DEAD, EXIT_ZOMBIE


class Task(NamedTuple):
    """One ``task_struct`` at a kernel address; what cannot be read is None.

    `name` may hold any bytes but NUL. `start` is when it began, in ns since the machine did. `mm` is the address of its
    memory's description, None if it has none.
    """

    address: int
    pid: int
    tgid: int | None
    name: bytes
    flags: int
    state: str | None
    ended: bool
    parent: int | None
    uid: int | None
    gid: int | None
    start: int | None
    mm: int | None
    namespace_pid: int | None

    @property
    def kernel_thread(self) -> bool:
        """Whether it runs in the kernel alone."""
        return self.flags & KERNEL_THREAD != 0


def state_of(state: int, exit_state: int) -> str:
    """Return what a task does, in the words of proc_pid_status(5)."""
    if state == _IDLE:
        return STATES[-1]
    return STATES[((state | exit_state) & _REPORTED).bit_length()]


def read_task(kernel: Structures, address: int) -> Task | None:
    """Return the task at an address; None if it cannot be read."""

    def number(path: str) -> int | None:
        return kernel.number(address, "task_struct", path)

    pid, flags = kernel.signed(address, "task_struct", "pid"), number("flags")
    name = kernel.text(address, "task_struct", "comm")
    if pid is None or flags is None or name is None:
        return None
    state = number("__state")
    state = number("state") if state is None else state
    exit_state = number("exit_state") or 0
    parent = kernel.pointer(address, "task_struct", "real_parent")
    start = number("start_boottime")
    start = number("real_start_time") if start is None else start
    cred = kernel.pointer(address, "task_struct", "real_cred")
    return Task(
        address=address,
        pid=pid,
        tgid=number("tgid"),
        name=name,
        flags=flags,
        state=None if state is None else state_of(state, exit_state),
        ended=exit_state & _ENDED != 0,
        parent=None if parent is None else kernel.number(parent, "task_struct", "tgid"),
        uid=None if cred is None else kernel.number(cred, "cred", "uid"),
        gid=None if cred is None else kernel.number(cred, "cred", "gid"),
        start=start,
        mm=kernel.pointer(address, "task_struct", "mm"),
        namespace_pid=namespace_pid(kernel, address),
    )


def namespace_pid(kernel: Structures, task: int) -> int | None:
    """Return a task's number in its own pid namespace, the innermost one; None if it is not known."""
    pid = kernel.pointer(task, "task_struct", "thread_pid")
    level = None if pid is None else kernel.number(pid, "pid", "level")
    numbers, size = kernel.offset("pid", "numbers"), kernel.types.size("upid")
    if pid is None or level is None or numbers is None or size is None or level > 32:  # noqa: PLR2004 - MAX_PID_NS_LEVEL
        return None
    return kernel.number(pid + numbers + level * size, "upid", "nr")


def threads_of(kernel: Structures, leader: int) -> Iterator[int]:
    """Yield the addresses of a thread group's tasks, as its ``signal_struct`` lists them; the leader is one of them."""
    signal = kernel.pointer(leader, "task_struct", "signal")
    head, link = kernel.offset("signal_struct", "thread_head"), kernel.offset("task_struct", "thread_node")
    if signal is not None and head is not None and link is not None:
        yield from kernel.linked(signal + head, link)
