"""Where an unknown kernel keeps what it switches with a task: its thread_struct.

Sources: arch/x86/include/asm/processor.h and arch/arm64/include/asm/processor.h of Linux from 4.19 to 7.3. What
proves it: the stack pointer of a task that does not run is one into its own kernel stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.learning.structure_table import MOSTLY, NEARLY, StructureTable, share

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.images.linux.learning.learned_types import LearnedTypes
    from memcarve.images.linux.learning.task_members import Tasks
    from memcarve.images.paging_modes import Mode

_BEHIND = 0x1000  # how far behind `comm` it is looked for
_LARGEST_STACK = 1 << 17
_SEGMENTS = 24  # bytes of the three descriptors of thread-local storage, which x86's begins with
_FRAME_POINTER = 10  # of ARM64's, the eleventh word: x19 to x28 come before it, the stack pointer follows
_ARM_USER = 0x70  # behind 13 words, a multiple of 16
_STACKS = tuple(1 << shift for shift in range(13, 18))
_FRAMES = range(0x110, 0x200, 16)  # bytes of a pt_regs


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
        _learn_frame(tasks, base, types, mode)
    elif mode.wide and not mode.split and len(inside) == 1:
        types.put("task_struct", "thread", inside[0] - _SEGMENTS, None)
        types.put_pointer("thread_struct", "sp", _SEGMENTS)
        for row, name in enumerate(("es", "ds", "fsindex", "gsindex")):
            types.put("thread_struct", name, _SEGMENTS + word + 2 * row, 2)
        types.put_pointer("thread_struct", "fsbase", _SEGMENTS + 2 * word)
        types.put_pointer("thread_struct", "gsbase", _SEGMENTS + 3 * word)


def _learn_frame(tasks: Tasks, stacks: U64, types: LearnedTypes, mode: Mode) -> None:
    """Learn the size of ARM64's pt_regs, which ends where a kernel stack does.

    It begins with 31 registers, the stack pointer, the place in the code and the state, that of user code.
    """
    at, reader = types.at("task_struct", "mm"), tasks.table.reader
    if at is None:
        return
    found = []
    user = stacks[tasks.table.column(at) != 0].tolist()
    for end in _STACKS:
        tails = [reader.read(stack + end - _FRAMES.stop, _FRAMES.stop) for stack in user]
        rows = [np.frombuffer(tail, "<u8") for tail in tails if tail is not None]
        for size in _FRAMES:
            frames = [row[(_FRAMES.stop - size) // 8 :] for row in rows]
            sound = np.array([_is_user(frame, mode) for frame in frames], np.bool_)
            if len(rows) >= MOSTLY * len(user) and share(sound) >= MOSTLY:
                found.append(size)
    if len(found) == 1:
        types.put_size("pt_regs", found[0])


def _is_user(frame: U64, mode: Mode) -> bool:
    pointer, place, state = frame[31:34].tolist()
    end = 1 << mode.bits
    user = state & 0xF == 0 < state < 1 << 32
    return bool(user and pointer % 16 == 0 and 0 < pointer < end and 0 < place < end)
