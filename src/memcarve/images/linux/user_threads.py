"""The threads of a Linux process, with what is known of each: name, state, registers, stack.

Members: include/linux/sched.h and sched/signal.h of Linux.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.linux import tasks
from memcarve.images.linux.user_floating import UserFloating
from memcarve.images.linux.user_registers import UserRegisters
from memcarve.images.structure_reader import counted
from memcarve.metadata import Region, Thread
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.paging_modes import Mode
    from memcarve.metadata import Regions

_MOST = 1 << 16
_COUNTERS = ("rip", "pc", "eip")
_STACK_POINTERS = ("rsp", "sp", "esp")


class Found(NamedTuple):
    """The threads of a process in the kernel's order, the areas of their stacks, and notes."""

    threads: list[Thread]
    stacks: list[Region]
    notes: list[str]


class UserThreads:
    """Reads threads; `sample` yields the addresses of tasks from which is learned where registers lie."""

    def __init__(self, kernel: Structures, mode: Mode, sample: Iterable[int]) -> None:
        self.kernel = kernel
        self.registers = UserRegisters(kernel, mode, sample)
        self.floating = UserFloating(kernel, mode)

    def of(self, leader: int, regions: Regions | None) -> Found:
        """Return the threads of the process that a task leads; `regions` are the process's."""
        kernel = self.kernel
        tasks_found = [*itertools.islice(tasks.threads_of(kernel, leader), _MOST + 1)] or [leader]
        group = kernel.number(leader, "task_struct", "tgid")
        read = [self._read(task, group, regions) for task in tasks_found[:_MOST]]
        rows = [thread for thread in read if thread is not None]
        notes = []
        if len(tasks_found) > _MOST:
            notes.append(f"it has more than {_MOST} threads; the rest was left out")
        if len(rows) < len(read):
            notes.append(f"{counted(len(read) - len(rows), 'thread')} cannot be read or of another process")
        signal = kernel.pointer(leader, "task_struct", "signal")
        number = None if signal is None else kernel.number(signal, "signal_struct", "nr_threads")
        if number and number != len(tasks_found) and len(tasks_found) <= _MOST:
            notes.append(f"the kernel counted {counted(number, 'thread')}, but {len(tasks_found)} were found")
        stacks = [
            Region(
                row.stack_start,
                row.stack_end - row.stack_start,
                kind=Kind.STACK,
                whole=True,
                detail=f"thread {row.tid}",
            )
            for row in rows
            if row.stack_start is not None and row.stack_end is not None
        ]
        return Found(rows, stacks, notes)

    def _read(self, task: int, group: int | None, regions: Regions | None) -> Thread | None:
        kernel = self.kernel
        tid = kernel.signed(task, "task_struct", "pid")
        if tid is None or kernel.number(task, "task_struct", "tgid") != group:
            return None
        name = kernel.text(task, "task_struct", "comm")
        thread = Thread(
            tid, name=None if name is None else name.decode("utf-8", "surrogateescape"), state=self._state(task)
        )
        registers = self.registers.of(task)
        if registers is None or (regions is not None and regions.at(_first(registers, _COUNTERS)) is None):
            return thread
        held = None if regions is None else regions.at(_first(registers, _STACK_POINTERS))
        here = None if held is None or regions is None else regions.rows[held]
        if here is not None and here.kind in (Kind.PRIVATE, Kind.STACK):
            thread = thread._replace(stack_start=here.start, stack_end=here.end)
        return thread._replace(registers=registers, floating=self.floating.of(task))

    def _state(self, task: int) -> str | None:
        kernel = self.kernel
        state = tasks.state_number(kernel, task)
        exit_state = kernel.number(task, "task_struct", "exit_state")
        return None if state is None or exit_state is None else tasks.state_of(state, exit_state)


def _first(registers: dict[str, int], names: Iterable[str]) -> int:
    return next(registers[name] for name in names if name in registers)
