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
HIGHEST_PID = 1 << 22  # PID_MAX_LIMIT
DEEPEST = 32  # MAX_PID_NS_LEVEL
NAME_SIZE = 16  # TASK_COMM_LEN: bytes of a name, its NUL among them


class Task(NamedTuple):
    """One ``task_struct`` at a kernel address; what cannot be read is None.

    `name` may hold any bytes but NUL. `start` is when it began, in ns since the machine did. `mm` is the address of its
    memory's description, None if it has none. `exit_code` is what wait(2) returns of one that has ended.
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
    exit_code: int | None

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
    state = state_number(kernel, address)
    exit_state = number("exit_state") or 0
    parent = kernel.pointer(address, "task_struct", "real_parent")
    cred = kernel.pointer(address, "task_struct", "real_cred")
    ended = has_ended(kernel, address)
    return Task(
        address=address,
        pid=pid,
        tgid=number("tgid"),
        name=name,
        flags=flags,
        state=None if state is None else state_of(state, exit_state),
        ended=ended,
        parent=None if parent is None else kernel.number(parent, "task_struct", "tgid"),
        uid=None if cred is None else kernel.number(cred, "cred", "uid"),
        gid=None if cred is None else kernel.number(cred, "cred", "gid"),
        start=started(kernel, address),
        mm=kernel.pointer(address, "task_struct", "mm"),
        namespace_pid=namespace_pid(kernel, address),
        exit_code=number("exit_code") if ended else None,
    )


def has_ended(kernel: Structures, address: int) -> bool:
    """Return True if the task at an address has ended: it says so, and has given its memory back as all do before.

    One that says so and has memory was made to look like it.
    """
    said = kernel.number(address, "task_struct", "exit_state") or 0
    return said & _ENDED != 0 and kernel.pointer(address, "task_struct", "mm") is None


def state_number(kernel: Structures, task: int) -> int | None:
    """Return a task's state as the kernel keeps it (TASK_RUNNING is 0)."""
    state = kernel.number(task, "task_struct", "__state")
    return kernel.number(task, "task_struct", "state") if state is None else state  # before Linux 5.14


def started(kernel: Structures, task: int) -> int | None:
    """Return when a task began, in ns since the machine did."""
    start = kernel.number(task, "task_struct", "start_boottime")
    return kernel.number(task, "task_struct", "real_start_time") if start is None else start  # before Linux 5.5


def makes_sense(kernel: Structures, address: int) -> bool:
    """Return True if there may be a task at an address: its numbers are possible, and it names who leads it."""
    pid, tgid = (kernel.number(address, "task_struct", name) for name in ("pid", "tgid"))
    if address % kernel.word or pid is None or tgid is None or not (pid <= HIGHEST_PID >= tgid):
        return False
    leader = kernel.pointer(address, "task_struct", "group_leader")
    return leader is not None and leader % kernel.word == 0


def leader_of(kernel: Structures, address: int) -> int | None:
    """Return the task that leads the thread group of the one at an address; None if none does that makes sense."""
    leader = kernel.pointer(address, "task_struct", "group_leader")
    if leader is None or not makes_sense(kernel, leader):
        return None
    if kernel.pointer(leader, "task_struct", "group_leader") != leader:
        return None
    groups = {kernel.number(task, "task_struct", "tgid") for task in (leader, address)}
    return leader if len(groups) == 1 else None


def namespace_pid(kernel: Structures, task: int) -> int | None:
    """Return a task's number in its own pid namespace, the innermost one; None if it is not known."""
    pid = kernel.pointer(task, "task_struct", "thread_pid")
    level = None if pid is None else kernel.number(pid, "pid", "level")
    numbers, size = kernel.offset("pid", "numbers"), kernel.types.size("upid")
    if pid is None or level is None or numbers is None or size is None or level > DEEPEST:
        return None
    return kernel.number(pid + numbers + level * size, "upid", "nr")


def threads_of(kernel: Structures, leader: int) -> Iterator[int]:
    """Yield the addresses of a thread group's tasks, as its ``signal_struct`` lists them; the leader is one of them.

    Kernels without that list (before Linux 3.14), and damaged ones, have the one that leads through the tasks.
    """
    signal = kernel.pointer(leader, "task_struct", "signal")
    head, link = kernel.offset("signal_struct", "thread_head"), kernel.offset("task_struct", "thread_node")
    seen = set[int]()
    if signal is not None and head is not None and link is not None:
        for task in kernel.linked(signal + head, link):
            if makes_sense(kernel, task):
                seen.add(task)
                yield task
    older = kernel.offset("task_struct", "thread_group")
    if older is not None:
        for task in (leader, *kernel.linked(leader + older, older)):
            if task not in seen and makes_sense(kernel, task):
                seen.add(task)
                yield task
