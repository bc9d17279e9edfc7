"""The processes of a Linux machine that its list of tasks does not lead to, and how each was found.

Someone who hides a process takes its task out of the list, out of the tables of numbers, or out of both; it can still
run then, because the scheduler needs neither. A task that has ended lies in memory until its place is used again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.linux import pid_tables
from memcarve.images.linux.task_judging import Judge
from memcarve.images.linux.task_scan import seeker_of
from memcarve.images.linux.tasks import leader_of, makes_sense, threads_of
from memcarve.images.physical_scan import everything, look_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.task_scan import Seeker

PID_TABLE, THREAD, SEARCH = "pid table", "thread", "search"
_IDLE = 0x2  # PF_IDLE: what a processor runs if nothing else does; it has no number and is in no list
_MOST_CANDIDATES = 1 << 16
_MOST_DOUBTFUL = 1 << 12
_MOST_THREADS = 1 << 18  # that are followed in all to see whether one belongs to who leads it


class Found(NamedTuple):
    """A task that leads a thread group, at a kernel address; `doubts` say what speaks against it."""

    task: int
    how: str
    doubts: tuple[str, ...] = ()


class Finder:
    """Finds the leaders of thread groups besides those that are `listed` (addresses).

    `notes` are sentences for the user.
    """

    def __init__(self, kernel: Kernel, listed: Sequence[int]) -> None:
        self._memory, self._kernel = kernel.memory, kernel
        self._structures = kernel.structures
        self._listed = listed
        self._known = {kernel.first.address, *listed}
        self._shift = self._usual_shift()
        self.notes: list[str] = []

    def __call__(self) -> list[Found]:
        """Return what is not listed: found by number first, then by the search, the doubtful last."""
        found = [*self._by_number()]
        return found + self._by_search()

    def _by_number(self) -> Iterator[Found]:
        kernel = self._structures
        namespaces = pid_tables.namespaces_of(kernel, [self._kernel.first.address, *self._listed])
        seen = set[int]()
        for namespace in namespaces:
            for task in pid_tables.numbered_tasks(kernel, namespace, seen):
                leader = leader_of(kernel, task) if task not in self._known else None
                if leader is not None and leader not in self._known:
                    self._known.add(leader)
                    yield Found(leader, PID_TABLE)

    def _by_search(self) -> list[Found]:
        kernel, seeker = self._structures, seeker_of(self._structures, self._listed)
        if seeker is None:
            self.notes.append("unlisted processes were not searched for: how tasks are laid out is not known")
            return []
        judge = Judge(kernel, self._listed)
        places = {place for task in self._known if (place := self._kernel.physical_of(task)) is not None}
        certain, doubtful = list[Found](), list[tuple[int, Found]]()
        for task, how in self._candidates(seeker, places):
            if task in self._known or self._is_idle(task):
                continue
            self._known.add(task)
            verdict = judge(task)
            if verdict.is_process and verdict.doubts:
                doubtful.append((verdict.holds, Found(task, how, verdict.doubts)))
            elif verdict.is_process:
                certain.append(Found(task, how))
        doubtful.sort(key=lambda pair: -pair[0])
        if len(doubtful) > _MOST_DOUBTFUL:
            self.notes.append(
                f"{len(doubtful) - _MOST_DOUBTFUL} more doubtful processes are not listed: the image is made to deceive"
            )
        return certain + [each for _, each in doubtful[:_MOST_DOUBTFUL]]

    def _candidates(self, seeker: Seeker, places: set[int]) -> Iterator[tuple[int, str]]:
        """Yield the addresses of tasks that may lead a thread group, besides those at some physical places."""
        kernel, left = self._structures, max(_MOST_CANDIDATES, self._memory.total >> 16)
        threads = list[int]()
        for block in look_through(self._memory, everything(self._memory), seeker.look):
            for place in block.tolist():
                if place in places:
                    continue
                left -= 1
                if left == 0:
                    self.notes.append("too many places look like tasks: the image is made to deceive")
                if left <= 0:
                    break
                task = self._address(place)
                if task is None or not makes_sense(kernel, task):
                    continue
                if kernel.number(task, "task_struct", "pid") == kernel.number(task, "task_struct", "tgid"):
                    yield task, SEARCH
                else:
                    threads.append(task)
        yield from self._led(threads)

    def _led(self, threads: list[int]) -> Iterator[tuple[int, str]]:
        """Yield who leads threads that a search found, if they are among those that it leads."""
        groups: dict[int, set[int]] = {}
        left = _MOST_THREADS
        for task in threads:
            leader = leader_of(self._structures, task)
            if leader is None or leader in self._known:
                continue
            if leader not in groups:
                groups[leader] = set(itertools.islice(threads_of(self._structures, leader), left))
                left -= len(groups[leader])
            if task in groups[leader]:
                yield leader, THREAD

    def _is_idle(self, task: int) -> bool:
        kernel = self._structures
        flags = kernel.number(task, "task_struct", "flags")
        idle = flags is not None and flags & _IDLE != 0
        return idle and kernel.number(task, "task_struct", "pid") == 0 and not kernel.pointer(task, "task_struct", "mm")

    # between physical and virtual addresses

    def _usual_shift(self) -> int | None:
        """Return virtual minus physical address of where the kernel keeps tasks: all memory is mapped there."""
        places = ((task, self._kernel.physical_of(task)) for task in self._listed)
        shifts = Counter(task - place for task, place in places if place is not None)
        return shifts.most_common(1)[0][0] if shifts else None

    def _address(self, physical: int) -> int | None:
        """Return the kernel address of physical memory; None if the kernel does not map it."""
        if self._shift is not None and self._kernel.physical_of(physical + self._shift) == physical:
            return physical + self._shift
        space = self._kernel.space.whole
        if space.physical is None:
            return None
        rows = np.flatnonzero((np.uint64(physical) - space.physical) < space.size)
        if not len(rows):
            return None
        row = rows[np.argmax(space.size[rows])]
        return int(space.start[row]) + physical - int(space.physical[row])
