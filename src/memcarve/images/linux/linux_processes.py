"""The processes of a Linux machine, found in its memory: the list of tasks, the tables of numbers, and a search.

A process is a thread group: the task that leads it stands for it. A kernel thread is a process without memory.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING

from memcarve.errors import printable
from memcarve.images.linux import clock, tasks
from memcarve.images.linux.container_names import ContainerNames
from memcarve.images.linux.task_finding import Finder
from memcarve.images.linux.task_list import read_list
from memcarve.process import ProcessEntry, Unix

if TYPE_CHECKING:
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.tasks import Task

_OVER = ("zombie", "dead")
_MOST_LIES = 64  # that are told
_MOST_THREADS = 1 << 18  # that are looked at in all for whose memory a process has
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Processes:
    """The processes of one machine, each kind found when it is asked for. `notes` are sentences for the user."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.notes: list[str] = []
        self._threads_left, self._lies = _MOST_THREADS, set[str]()

    @functools.cached_property
    def _list(self) -> tuple[list[Task], str]:
        """The tasks that the kernel's list leads to, in its order, and what is wrong with it."""
        addresses, problem = read_list(self.kernel.structures, self.kernel.first.address)
        read = [tasks.read_task(self.kernel.structures, address) for address in addresses]
        found = [task for task in read if task is not None]
        if not problem and len(found) < len(read):
            problem = f"{len(read) - len(found)} of its tasks cannot be read"
        return found, problem

    @property
    def problem(self) -> str:
        """What is wrong with the kernel's list of tasks, in words; empty if it is whole."""
        return self._list[1]

    @functools.cached_property
    def listed(self) -> list[ProcessEntry]:
        """The processes that the kernel's list leads to."""
        return [self._entry(task) for task in self._list[0]]

    @functools.cached_property
    def all(self) -> list[ProcessEntry]:
        """Every process: those listed, then those that run unlisted, those that have ended, and doubtful ones."""
        finder = Finder(self.kernel, [task.address for task in self._list[0]])
        found = finder()
        self.notes += finder.notes
        if self.problem:
            self.notes.append(
                f"the list of tasks is damaged ({self.problem}); other processes were looked for by their numbers and "
                "in all memory"
            )
        entries = []
        for each in found:
            task = tasks.read_task(self.kernel.structures, each.task)
            if task is not None:
                entries.append(self._entry(task, found=each.how, doubts=each.doubts))
        entries.sort(key=lambda entry: (bool(entry.doubts), bool(entry.ended), entry.pid))
        doubtful = sum(bool(entry.doubts) for entry in entries)
        if doubtful:
            self.notes.append(
                f"the search found {doubtful} doubtful process{'' if doubtful == 1 else 'es'}; the list of processes "
                "says why. They are taken only by their pids, not by name or with all others"
            )
        return self.listed + entries

    def _disguised(self, task: Task) -> Task:
        """Return a task as it is; if it says that it is a kernel thread, or has ended, but has memory, that is told.

        A kernel thread may use a process's memory for a while. What no process has is its own.
        """
        said, name = list[str](), task.name.decode("utf-8", "surrogateescape")
        if task.kernel_thread and task.mm is not None and task.mm not in self._used:
            task = task._replace(flags=task.flags & ~tasks.KERNEL_THREAD)
            said.append("is a kernel thread")
        if not task.ended and task.state in _OVER and task.mm is not None:
            said.append("has ended")
        for what in said:
            note = f"{task.pid} {printable(name)} says that it {what}, but has memory of its own: it is a process"
            if len(self._lies) < _MOST_LIES and note not in self._lies:
                self._lies.add(note)
                self.notes.append(note)
        return task

    @functools.cached_property
    def _used(self) -> set[int]:
        """Every ``mm_struct`` that a process of the list has which does not say that it is a kernel thread."""
        return {task.mm for task in self._list[0] if task.mm is not None and not task.kernel_thread}

    def _entry(self, task: Task, *, found: str | None = None, doubts: tuple[str, ...] = ()) -> ProcessEntry:
        task = self._disguised(task)
        mm = self._memory_of(task)
        # a process lives as long as one of its threads does; the memory is then that thread's
        ended = task.ended and mm is None
        return ProcessEntry(
            pid=task.pid,
            name=task.name.decode("utf-8", "surrogateescape"),
            parent=self._parent(task) if found is not None and ended else task.parent,
            created=self._time(task.start),
            root=self._root(mm),
            listed=found is None,
            ended=ended,
            object=task.address,
            doubts=doubts,
            unix=Unix(
                uid=task.uid,
                gid=task.gid,
                status=task.state,
                namespace_pid=task.namespace_pid,
                kernel_thread=task.kernel_thread,
                container=None if task.kernel_thread else self._containers.of(task.address),
                found=found,
                exit_code=task.exit_code,
            ),
        )

    def _parent(self, task: Task) -> int | None:
        """Return the parent of a task that was waited for; None if another has its parent's place by now."""
        address = self.kernel.structures.pointer(task.address, "task_struct", "real_parent")
        parent = None if address is None else tasks.read_task(self.kernel.structures, address)
        if parent is None or parent.start is None or task.start is None or parent.start > task.start:
            return None
        return task.parent

    @functools.cached_property
    def _containers(self) -> ContainerNames:
        return ContainerNames(self.kernel.structures, self.kernel.first.address)

    @functools.cached_property
    def _started(self) -> int | None:
        return clock.started(self.kernel)

    def _time(self, since: int | None) -> dt.datetime | None:
        """Return a time since the machine began, in ns, as one of the calendar; None if that does not have it."""
        if since is None or self._started is None:
            return None
        try:
            return _EPOCH + dt.timedelta(microseconds=(self._started + since) // 1000)
        except OverflowError:
            return None

    def memory_of(self, entry: ProcessEntry) -> int | None:
        """Return the ``mm_struct`` of a process; None if it has no memory."""
        task = None if entry.object is None else tasks.read_task(self.kernel.structures, entry.object)
        return None if task is None else self._memory_of(self._disguised(task))

    def _memory_of(self, task: Task) -> int | None:
        """Return the ``mm_struct`` of a process; if its leader has ended, that of a thread that lives."""
        if task.kernel_thread:
            return None  # it may use a process's for a while
        if task.mm is not None:
            return task.mm
        if task.state == "dead":
            return None  # its threads have ended, too; where they were is others' now
        for thread in tasks.threads_of(self.kernel.structures, task.address):
            self._threads_left -= 1
            mm = self.kernel.structures.pointer(thread, "task_struct", "mm")
            if mm is not None or self._threads_left <= 0:
                return mm
        return None

    def _root(self, mm: int | None) -> int | None:
        """Return the physical address of an address space's page tables."""
        pgd = None if mm is None else self.kernel.structures.pointer(mm, "mm_struct", "pgd")
        return None if pgd is None else self.kernel.physical_of(pgd)
