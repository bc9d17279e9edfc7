"""Whatever stands in what regions, files and threads of a process are read from: an answer, and no error."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from linux_machines import machine
from linux_systems import entries, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_structures import Damaged

#: structures by what leads to them from the one before: members of which any may lead on
_WAY = {
    "task_struct": ("mm", "signal", "stack", "fs"),
    "mm_struct": ("exe_file", "mm_mt.ma_root", "mmap"),
    "file": ("f_path.dentry", "f_path.mnt", "f_inode"),
    "dentry": ("d_parent", "d_inode", "d_sb", "d_name.name"),
}
_LEADS = {"mm": "mm_struct", "exe_file": "file", "f_path.dentry": "dentry", "d_parent": "dentry"}
_VALUES = (0, 1, 2, 6, 0x1E, 1 << 31, 1 << 63, 0xDEAD000000000100, (1 << 64) - 1, (1 << 64) - 4096)


def _places(copy: Damaged, task: int) -> list[tuple[int, str, int]]:
    """Return addresses, structures and sizes of what the task leads to."""
    found = [(task, "task_struct")]
    for address, structure in found:
        for member in _WAY.get(structure, ()):
            if member in _LEADS and len(found) < 12:
                found.append((copy.get(address, f"{structure}.{member}"), _LEADS[member]))
    return [(address, structure, copy.types.structures[structure].size) for address, structure in found]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["linux-6.12-amd64", "linux-5.10-amd64", "linux-6.12-arm64"])
def test_noise(name: str, seed: int, damaged: Callable[[str], Damaged]) -> None:
    """Words of the structures, and whole members that lead on, are overwritten at random."""
    copy = damaged(name)
    chance = random.Random(seed)  # noqa: S311
    given = machine(name)
    pids = chance.sample([pid for pid in given.stopped if given.processes[pid]["state"] != "Z"], 8)
    tasks = [copy.task(pid) for pid in pids]
    for places in [_places(copy, task) for task in tasks]:
        for address, structure, size in places:
            for _ in range(chance.choice([0, 1, 4])):
                member = chance.choice((*_WAY[structure], None))
                value = chance.choice([*_VALUES, *tasks, chance.randrange(1 << 64)])
                try:
                    at = address + copy.types.offset(f"{structure}.{member}")
                except AssertionError:  # this kernel has no such member, or it is noise that is wanted
                    at = address + chance.randrange(0, min(size, 256), 8)
                if structure != "task_struct" or member is not None:  # so that the process is found all the same
                    copy.write(at, value.to_bytes(8, "little"))
    system = opened(copy.path)
    found = entries(system)
    for pid in given.stopped:
        if pid in found:
            known = system.metadata(found[pid], system.table_of(found[pid]))
            assert len(known.notes) < 20
            if pid not in pids and not set(known.notes):
                assert len(known.regions[0]) == len(given.vmas(pid))
