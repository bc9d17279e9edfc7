"""The kernel of a Linux machine: its first task, its page tables, its memory.

The first task, ``init_task`` (init/init_task.c of Linux), is found by what it must look like: its ``comm`` is
``swapper/0`` (``swapper`` on machines of one processor), it has pid 0 and leads its own thread group. That it points to
itself tells its virtual address; page tables are the kernel's if they lead from there to where it lies. No symbol, and
no address at which kernels are usually loaded, is needed for that.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError, ProcessError
from memcarve.images.linux.kernel_structures import Structures
from memcarve.images.paging import translate, walk
from memcarve.images.paging_modes import LINUX, PAE, X64, X64_5, AddressTable, Mode
from memcarve.images.physical_scan import everything
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.dtypes import U64, Bools
    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.physical import PhysicalMemory
    from memcarve.space import AddressSpace

_NEAR = 64 << 20  # how far from init_task the kernel keeps its first page tables: they are in the same image
_MOST_TASKS = 64  # places that look like the first task
_MOST_ROOTS = 1 << 14
_WORD = 8


class FirstTask(NamedTuple):
    """``init_task``: its virtual and its physical address, and the types by which it makes sense."""

    address: int
    physical: int
    types: KernelTypes

    @property
    def shift(self) -> int:
        """Virtual minus physical address of what lies in the kernel's image."""
        return self.address - self.physical


class Kernel(NamedTuple):
    """A kernel: its page tables, its half of the address space, its structures and its first task."""

    table: AddressTable
    space: AddressSpace
    structures: Structures
    first: FirstTask


def first_tasks(memory: PhysicalMemory, names: Iterable[int], types: KernelTypes) -> Iterator[FirstTask]:
    """Yield what makes sense as the first task by some types, given where its name may lie (physical addresses)."""
    members = {
        name: types.member("task_struct", name) for name in ("comm", "pid", "tgid", "group_leader", "real_parent")
    }
    if any(member is None for member in members.values()):
        return
    at = {name: member.offset for name, member in members.items() if member is not None}
    word, found = types.pointer_size, 0
    for name in names:
        start = name - at["comm"]
        if start < 0 or start % word:
            continue
        values = {member: memory.read(start + at[member], 4 if member.endswith("id") else word) for member in at}
        if any(value is None for value in values.values()):
            continue
        numbers = {member: int.from_bytes(value or b"", "little") for member, value in values.items()}
        address = numbers["group_leader"]
        itself = numbers["real_parent"] == address and address % word == 0
        if numbers["pid"] == 0 == numbers["tgid"] and itself and address >> (8 * word - 1):
            found += 1
            yield FirstTask(address, start, types)
        if found == _MOST_TASKS:
            return


def find_kernel(
    memory: PhysicalMemory, types: Iterable[KernelTypes], names: list[int], told: Iterable[int] = ()
) -> Kernel | None:
    """Return the kernel that is found with one of some types; None if there is none.

    `names` are the places of `Landmarks.names`; `told` physical addresses of page tables that something names.
    """
    told = list(told)
    for each in types:
        for first in first_tasks(memory, names, each):
            table = _table(memory, first, told)
            if table is not None:
                return _opened(memory, table, first)
    return None


def _opened(memory: PhysicalMemory, table: AddressTable, first: FirstTask) -> Kernel:
    try:
        pages = walk(memory, table, table.kernel_half, TOP)
    except LimitError as error:
        raise ProcessError(error.problem) from error
    space = pages.space(memory)
    return Kernel(table, space, Structures(space, first.types, table.kernel_half), first)


def _table(memory: PhysicalMemory, first: FirstTask, told: list[int]) -> AddressTable | None:
    """Return the page tables that lead to the first task; None if none do."""
    seen = set[int]()
    for root in itertools.chain(told, _own(memory, first), _near(memory, first), _anywhere(memory, first)):
        if root in seen:
            continue
        seen.add(root)
        for mode in _modes(first):
            table = AddressTable(root, mode, LINUX)
            if translate(memory, table, first.address) == first.physical and _leads_on(memory, table, first):
                return table
        if len(seen) > _MOST_ROOTS:
            break
    return None


def _leads_on(memory: PhysicalMemory, table: AddressTable, first: FirstTask) -> bool:
    """Return True if a neighbour of the first task in the list of tasks leads back to it.

    Other tables than the kernel's own map its image, too, but not all of its memory: those with which processors start.
    """
    member, word = first.types.member("task_struct", "tasks"), first.types.pointer_size
    if member is None:
        return False
    for there, back in ((0, word), (word, 0)):
        link = memory.read(first.physical + member.offset + there, word)
        place = None if link is None else translate(memory, table, int.from_bytes(link, "little") + back)
        held = None if place is None else memory.read(place, word)
        if held is not None and int.from_bytes(held, "little") == first.address + member.offset:
            return True
    return False


def _modes(first: FirstTask) -> tuple[Mode, ...]:
    return (X64, X64_5) if first.types.pointer_size == _WORD else (PAE,)


def _own(memory: PhysicalMemory, first: FirstTask) -> Iterator[int]:
    """Yield what the first task's own address space says, if that lies in the kernel's image."""
    types, word = first.types, first.types.pointer_size
    for name in ("active_mm", "mm"):
        pgd, held = types.member("mm_struct", "pgd"), types.member("task_struct", name)
        if pgd is None or held is None:
            continue
        pointer = memory.read(first.physical + held.offset, word)
        if pointer is None:
            continue
        place = int.from_bytes(pointer, "little") - first.shift
        value = memory.read(place + pgd.offset, word) if 0 <= place < memory.end else None
        if value is not None:
            root = int.from_bytes(value, "little") - first.shift
            if 0 <= root < memory.end and root % 32 == 0:
                yield root


def _near(memory: PhysicalMemory, first: FirstTask) -> Iterator[int]:
    """Yield the pages around the first task that may be a root: those with an entry that leads on to it."""
    low = max(first.physical - _NEAR, 0) // PAGE * PAGE
    near = _leading(memory, first, np.arange(low, first.physical + _NEAR, PAGE, dtype=np.uint64))
    yield from sorted(near, key=lambda root: abs(root - first.physical))


def _anywhere(memory: PhysicalMemory, first: FirstTask) -> Iterator[int]:
    for block in everything(memory):
        yield from _leading(memory, first, block.physical)


def _leading(memory: PhysicalMemory, first: FirstTask, pages: U64) -> Iterator[int]:
    """Yield those pages whose entry for the first task is present, and leads into the image."""
    pages = pages[memory.holds(pages, PAGE)]
    if not len(pages):
        return
    for mode in _modes(first):
        words = memory.pages(pages)
        if mode is PAE:
            groups = words.reshape(len(words), -1, 4)[:, :, first.address >> 30]
            page, place = np.nonzero(_plausible(memory, groups))
            yield from (pages[page] + place.astype(np.uint64) * np.uint64(32)).tolist()
        else:
            entry = words[:, first.address >> mode.levels[0].shift & 511]
            yield from pages[_plausible(memory, entry)].tolist()


def _plausible(memory: PhysicalMemory, entries: U64) -> Bools:
    frame = entries & np.uint64((1 << 52) - PAGE)
    good = (entries & np.uint64(0x81)) == 1
    return np.asarray(good & (frame != 0) & (frame < np.uint64(memory.end)))
