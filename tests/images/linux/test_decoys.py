"""Machines in whose memory somebody put what looks like the first task of a kernel, to hide the real one or to lie.

The images are those of real machines; the decoys are put into pages that hold zeros.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memcarve
from linux_machines import machine, machines

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_structures import Damaged

    Damage = Callable[[str], Damaged]

each_machine = pytest.mark.parametrize("name", machines())
_PAGE = 4096
_PAGES = 3  # that hold a decoy


def _listed(copy: Damaged) -> tuple[set[int | None], list[str]]:
    with memcarve.open(copy.path) as container:
        return {entry.pid for entry in container.listed()}, [str(note) for note in container.notes]


def _of_zeros(copy: Damaged) -> list[int]:
    """Return the physical addresses at which `_PAGES` pages of zeros lie, none of them twice."""
    pages = np.memmap(copy.path, np.uint64, mode="r").reshape(-1, _PAGE // 8)
    zeros = np.flatnonzero(~pages.any(axis=1)).tolist()
    known, found, behind = set(zeros), list[int](), 16
    for page in zeros:
        if page >= behind and all(page + more in known for more in range(_PAGES)):
            found.append(page * _PAGE + copy.machine.raw_base)
            behind = page + _PAGES
    return found


def _plant(copy: Damaged, physical: int, address: int) -> None:
    """Put what looks like a first task at a virtual address into the memory at a physical one."""
    own = struct.pack("<Q", address)
    copy.write_physical(physical + copy.types.offset("task_struct.comm"), b"swapper/0")
    for member in ("group_leader", "real_parent"):
        copy.write_physical(physical + copy.types.offset(f"task_struct.{member}"), own)


@pytest.mark.slow
@each_machine
@pytest.mark.parametrize("top", [0xFFFFFFFF82000000, 0xFFFF800080000000], ids=["x64", "arm64"])
def test_first_tasks_to_which_nothing_leads(name: str, top: int, damaged: Damage) -> None:
    """Hundreds of decoys, before the real one and behind, cost no look through all the memory, and hide nothing."""
    copy = damaged(name)
    for number, physical in enumerate(_of_zeros(copy)[:300]):
        _plant(copy, physical, top + number * 0x10000)
    found, _ = _listed(copy)
    assert set(machine(name).stopped) <= found


@each_machine
def test_names_in_every_page(name: str, damaged: Damage) -> None:
    """Memory full of the first task's name hides it not: no page of the kernel's is a program's."""
    copy = damaged(name)
    filled = b"swapper/0".ljust(16, b"\0") * (_PAGE // 16)
    for physical in _of_zeros(copy)[:400]:
        for page in range(_PAGES):
            copy.write_physical(physical + page * _PAGE, filled)
    found, _ = _listed(copy)
    assert set(machine(name).stopped) <= found


@each_machine
def test_second_kernel_is_said(name: str, damaged: Damage) -> None:
    """A copy of the first task in the kernel's own image, to which page tables and neighbours lead: both are told."""
    copy = damaged(name)
    real = copy.physical(copy.init_task)
    shift = copy.init_task - real
    near = (place for place in _of_zeros(copy) if abs(place - real) < 1 << 23)
    place = next((place for place in near if _is_at(copy, place + shift, place)), None)
    if place is None:
        pytest.skip(f"{name}: no zeros lie in the kernel's image")
    copy.write_physical(place, copy.read_physical(real, 2 * _PAGE))
    _plant(copy, place, place + shift)
    copy.put(copy.task(1), "task_struct.tasks.prev", place + shift + copy.types.offset("task_struct.tasks"))
    found, notes = _listed(copy)
    assert set(machine(name).stopped) <= found
    assert sum("another kernel's first task may lie at 0x" in note for note in notes) == 1


@each_machine
def test_first_task_elsewhere_is_not_believed(name: str, damaged: Damage) -> None:
    """A copy of the first task where the kernel maps all memory, to which a neighbour leads, is not the kernel's."""
    copy = damaged(name)
    task = copy.task(1)
    linear = task - copy.physical(task)
    place = _of_zeros(copy)[0]
    copy.write_physical(place, copy.read_physical(copy.physical(copy.init_task), 2 * _PAGE))
    _plant(copy, place, place + linear)
    copy.put(task, "task_struct.tasks.prev", place + linear + copy.types.offset("task_struct.tasks"))
    found, notes = _listed(copy)
    assert set(machine(name).stopped) <= found
    assert any("damaged" in note for note in notes)


def _is_at(copy: Damaged, address: int, physical: int) -> bool:
    try:
        return all(copy.physical(address + at) == physical + at for at in range(0, _PAGES * _PAGE, _PAGE))
    except (AssertionError, IndexError, struct.error):
        return False
