"""The first task of a kernel whose types are not known, told by the pointers to itself.

``init_task`` (init/init_task.c of Linux) is its own parent and leads its own thread group, and it is in no list of
siblings. In a task_struct (include/linux/sched.h) these members follow each other, ever since Linux 2.6.33:

    struct task_struct *real_parent, *parent;  both its own address
    struct list_head children, sibling;        sibling: both the address of sibling itself
    struct task_struct *group_leader;          its own address

The address of `sibling` and that of the task tell where in the task they lie, and so where it begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.images.physical import PhysicalMemory

_WORDS = (8, 4)
_BEFORE = 0x2000  # bytes before the name that the parents may be; the most in any kernel so far is 0x220
_BEHIND = 0x800
_RUN = 7  # words of the shape
_LARGEST = 0x4000  # bytes of a task before its comm; with every option for debugging some 0x1800
_MOST_NAMES = 1 << 10
_MOST_FOUND = 64


class Shape(NamedTuple):
    """What looks like the first task: where it lies, the size of its pointers, where `real_parent` and `comm` are."""

    address: int
    physical: int
    word: int
    real_parent: int
    comm: int


def shapes(memory: PhysicalMemory, names: Iterable[int]) -> Iterator[Shape]:
    """Yield what looks like a first task, given where its name may lie (physical addresses)."""
    seen = set[Shape]()
    for name, _ in zip(names, range(_MOST_NAMES), strict=False):
        for word in _WORDS:
            for shape in _around(memory, name, word):
                if shape not in seen:
                    seen.add(shape)
                    yield shape
                if len(seen) == _MOST_FOUND:
                    return


def _around(memory: PhysicalMemory, name: int, word: int) -> Iterator[Shape]:
    if name % 4:
        return
    low = max(name - _BEFORE, 0) // word * word
    data = memory.read(low, (name + _BEHIND - low) // word * word)
    if data is None:
        return
    words = np.frombuffer(data, f"<u{word}")
    count = max(len(words) - _RUN + 1, 0)
    itself, alone = words[:count], words[4 : 4 + count]
    shaped = (itself == words[1 : 1 + count]) & (itself == words[6 : 6 + count]) & (alone == words[5 : 5 + count])
    high = itself >> np.asarray(8 * word - 1, words.dtype) == 1
    for row in np.flatnonzero(shaped & high).tolist():
        address = int(words[row])
        parent = int(words[row + 4]) - 4 * word - address
        physical = low + row * word - parent
        if 0 < parent < _LARGEST and parent % word == address % word == 0 and physical >= 0:
            yield Shape(address, physical, word, parent, name - physical)
