"""Decides whether what looks like a task of Linux is one: what its members say, and what leads back to it.

What was hidden is in no list, so no list is used. Each of several facts, which have little to do with each other,
holds, fails, or says nothing. A fact that fails for the processes of the kernel's list, which are certain, says nothing
on this machine.

Sources: include/linux/sched.h, sched/signal.h, cred.h, pid.h, magic.h and poison.h of Linux, kernel/exit.c for what is
left of a task that has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.linux.pid_tables import links_of_numbers
from memcarve.images.linux.tasks import has_ended, leader_of, makes_sense, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcarve.images.linux.kernel_structures import Structures

_SAMPLE = 32  # processes of the list that show which facts say something
_ENOUGH = 3  # facts that must hold of a task that has not ended
_STACK_END = 0x57AC6E9D  # STACK_END_MAGIC
_POISON = 0x122  # LIST_POISON2: its low bits, whatever is added to it
_POISON_BITS = 0xFFF
_DAY = 86_400_000_000_000
_HOLDS = ""  # the result of a fact that holds; None means that it says nothing, anything else says in words what fails


class Verdict(NamedTuple):
    """How many facts hold, in words what fails, and whether that is enough for a process, doubtful or not."""

    holds: int
    doubts: tuple[str, ...]
    is_process: bool


class Judge:
    """Judges what was found on one machine; `listed` are the tasks that the kernel's list leads to."""

    def __init__(self, kernel: Structures, listed: Iterable[int]) -> None:
        self._kernel = kernel
        tasks = [*listed]
        starts = [start for task in tasks if (start := started(kernel, task)) is not None]
        self._latest = max(starts, default=1 << 62) + _DAY
        self._numbers = links_of_numbers(kernel)
        facts = (self._stack, self._signals, self._credentials, self._number, self._memory, self._parent, self._time)
        sample = [task for task in tasks if not self._ended(task)][:_SAMPLE]
        self._facts = [fact for fact in facts if _says_something(fact, sample)]

    def __call__(self, task: int) -> Verdict:
        """Judge the task at an address."""
        kernel = self._kernel
        own = kernel.pointer(task, "task_struct", "group_leader") == task
        if self._ended(task):
            said = [self._unlinked(task), self._time(task)]
            doubts = tuple(words for words in said if words)
            return Verdict(said.count(_HOLDS), doubts, own and said[1] == _HOLDS)
        said = [fact(task) for fact in self._facts]
        if not own:
            said.append("it does not lead its own threads")
        if self._flags(task) is None:
            return Verdict(0, (), is_process=False)
        copied = None if own else self._copied(task)
        doubts = tuple(words for words in said if words) if copied is None else (copied,)
        holds = said.count(_HOLDS)
        return Verdict(holds, doubts, holds >= _ENOUGH + bool(doubts))

    def _flags(self, task: int) -> int | None:
        return self._kernel.number(task, "task_struct", "flags")

    def _ended(self, task: int) -> bool:
        return has_ended(self._kernel, task)

    # the facts: each returns _HOLDS, words for what fails, or None

    def _stack(self, task: int) -> str | None:
        """Check that what the kernel writes at the end of every stack is there."""
        stack = self._kernel.pointer(task, "task_struct", "stack")
        if stack is None:
            return "it has no kernel stack"
        end = self._kernel.reader.number(stack, 4)
        return None if end is None else _HOLDS if end == _STACK_END else "its kernel stack does not end as all do"

    def _signals(self, task: int) -> str | None:
        """Check that its signals belong to its thread group."""
        kernel = self._kernel
        signal = kernel.pointer(task, "task_struct", "signal")
        head, link = kernel.offset("signal_struct", "thread_head"), kernel.offset("task_struct", "thread_node")
        if head is None or link is None:
            return None
        first = None if signal is None else kernel.reader.number(signal + head, kernel.word)
        member = None if first is None or not kernel.is_kernel(first) else first - link
        if member is not None and leader_of(kernel, member) == task:
            return _HOLDS
        return "its signals are those of no thread of it"

    def _credentials(self, task: int) -> str | None:
        """Check that its credentials are in use, and a user's."""
        cred = self._kernel.pointer(task, "task_struct", "real_cred")
        if cred is None:
            return "it has no credentials"
        used, user = self._kernel.signed(cred, "cred", "usage"), self._kernel.pointer(cred, "cred", "user")
        return _HOLDS if used is not None and used > 0 and user is not None else "its credentials are not in use"

    def _number(self, task: int) -> str | None:
        """Check that its number leads back to it; one that was taken away says nothing."""
        kernel = self._kernel
        pid, heads = kernel.pointer(task, "task_struct", "thread_pid"), kernel.offset("pid", "tasks")
        if pid is None or heads is None or self._numbers is None:
            return None
        return _HOLDS if kernel.reader.number(pid + heads, kernel.word) == task + self._numbers else None

    def _memory(self, task: int) -> str | None:
        """Check that the description of its memory is in use, and has page tables."""
        mm = self._kernel.pointer(task, "task_struct", "mm")
        if mm is None:
            return None
        users, pgd = self._kernel.signed(mm, "mm_struct", "mm_users"), self._kernel.pointer(mm, "mm_struct", "pgd")
        good = users is not None and users > 0 and pgd is not None and self._kernel.reader.read(pgd, 8) is not None
        return _HOLDS if good else "its memory is not in use"

    def _parent(self, task: int) -> str | None:
        parent = self._kernel.pointer(task, "task_struct", "real_parent")
        return _HOLDS if parent is not None and makes_sense(self._kernel, parent) else "its parent is not a task"

    def _time(self, task: int) -> str | None:
        start = started(self._kernel, task)
        if start is None:
            return None
        return _HOLDS if 0 < start <= self._latest else "it began after the image was taken"

    def _copied(self, task: int) -> str | None:
        """Return words for a task that another one of the same number leads: one is the other's copy."""
        kernel = self._kernel
        leader = leader_of(kernel, task)
        pids = {kernel.number(each, "task_struct", "pid") for each in (task, leader) if each is not None}
        return None if leader is None or len(pids) > 1 else f"a copy of the task at 0x{leader:x}"

    def _unlinked(self, task: int) -> str | None:
        """Check that a task that has ended was taken out of the list as the kernel does it."""
        links = self._kernel.offset("task_struct", "tasks")
        link = (
            None if links is None else self._kernel.reader.number(task + links + self._kernel.word, self._kernel.word)
        )
        if link is None:
            return None
        return _HOLDS if link & _POISON_BITS == _POISON else None


def _says_something(fact: Callable[[int], str | None], sample: list[int]) -> bool:
    said = [words for words in map(fact, sample) if words is not None]
    return not said or 2 * said.count(_HOLDS) >= len(said)
