"""Where an unknown kernel keeps what it switches with a task: its thread_struct.

Sources: arch/x86/include/asm/processor.h and arch/arm64/include/asm/processor.h of Linux from 4.19 to 7.3. What
proves it: the stack pointer of a task that does not run is one into its own kernel stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.learning.structure_table import NEARLY, StructureTable, share

if TYPE_CHECKING:
    from memcarve.images.linux.learning.learned_types import LearnedTypes
    from memcarve.images.linux.learning.task_members import Tasks
    from memcarve.images.paging_modes import Mode

_BEHIND = 0x1000  # how far behind `comm` it is looked for
_LARGEST_STACK = 1 << 17
_SEGMENTS = 24  # bytes of the three descriptors of thread-local storage, which x86's begins with
_FRAME_POINTER = 10  # of ARM64's, the eleventh word: x19 to x28 come before it, the stack pointer follows
_ARM_USER = 0x70  # behind 13 words, a multiple of 16


def learn_switched(tasks: Tasks, types: LearnedTypes, mode: Mode) -> None:
    """Learn `thread` of a task, and what a thread_struct begins with; 32-bit kernels switch nothing of interest."""
    stack, word = types.at("task_struct", "stack"), tasks.shape.word
    if stack is None:
        return
    table = StructureTable(tasks.table.reader, tasks.table.addresses.tolist(), tasks.shape.comm + _BEHIND, word)
    base = table.column(stack)
    inside = [
        at
        for at in table.places(tasks.shape.comm, table.size)
        if share((table.column(at) > base) & (table.column(at) - base < np.uint64(_LARGEST_STACK))) >= NEARLY
    ]
    if mode.split and len(inside) >= 2 and inside[1] == inside[0] + word:  # noqa: PLR2004 - frame and stack pointer
        thread = inside[0] - _FRAME_POINTER * word
        types.put("task_struct", "thread", thread, None)
        types.put("thread_struct", "cpu_context", 0, 13 * word)
        types.put_pointer("thread_struct", "uw.tp_value", _ARM_USER)
    elif mode.wide and not mode.split and len(inside) == 1:
        types.put("task_struct", "thread", inside[0] - _SEGMENTS, None)
        types.put_pointer("thread_struct", "sp", _SEGMENTS)
        for row, name in enumerate(("es", "ds", "fsindex", "gsindex")):
            types.put("thread_struct", name, _SEGMENTS + word + 2 * row, 2)
        types.put_pointer("thread_struct", "fsbase", _SEGMENTS + 2 * word)
        types.put_pointer("thread_struct", "gsbase", _SEGMENTS + 3 * word)
