"""What is learned of real kernels, against what their BTF says of them."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from linux_machines import machine, machines
from memcarve.backing import FileBacking
from memcarve.formats.images.machine import column, machine as physical
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.kernel import find_kernel
from memcarve.images.linux.landmarks import find_landmarks
from memcarve.images.linux.learning.first_task_shape import shapes
from memcarve.images.linux.learning.learned_kernel import learned_kernel
from memcarve.images.linux.learning.learned_types import LearnedTypes
from memcarve.images.linux.linux_system import LinuxSystem
from memcarve.images.physical import PhysicalMemory
from memory import Memory, noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from linux_structures import Damaged
    from memcarve.formats.kernel_types import KernelTypes, Member
    from memcarve.formats.kernel_types.btf import Btf

#: what must be learned of every kernel: without it there are no processes, or little is known of them
_TASK = [
    *("tasks", "pid", "tgid", "comm", "flags", "__state", "stack", "mm", "active_mm", "exit_state", "exit_code"),
    *("real_parent", "parent", "group_leader", "thread_pid", "thread_node", "signal", "real_cred", "cred"),
    *("start_time", "start_boottime"),
]
_OTHERS = [
    *("mm_struct.pgd", "mm_struct.map_count", "mm_struct.start_brk", "mm_struct.arg_start", "mm_struct.env_end"),
    *("vm_area_struct.vm_start", "vm_area_struct.vm_flags", "vm_area_struct.vm_file", "vm_area_struct.vm_pgoff"),
    *("task_struct.fs", "task_struct.files", "task_struct.nsproxy", "mm_struct.exe_file", "file.f_path.dentry"),
    *("dentry.d_name.name", "dentry.d_parent", "dentry.d_sb", "inode.i_ino", "super_block.s_dev", "mount.mnt"),
    *("fs_struct.root.mnt", "fdtable.fd", "new_utsname.release", "vm_special_mapping.name"),
    "signal_struct.thread_head",
    "cred.uid",
    "cred.gid",
    "pid.level",
    "pid.numbers",
    "upid.nr",
]
#: members as kernels before 5.14 and 5.5 called them, with the same content
_FORMER = {"__state": "state", "start_boottime": "real_start_time"}


each_machine = pytest.mark.parametrize("name", machines())


@contextlib.contextmanager
def _memory(path: Path, base: int) -> Iterator[PhysicalMemory]:
    """Yield the memory in a raw image that begins at a physical address."""
    with contextlib.closing(FileBacking(str(path))) as file:
        columns = column([base]), column([file.size]), column([0])
        yield PhysicalMemory(physical("raw", file, columns, declared=True))


def _said(btf: Btf, structure: str, path: str) -> Member | None:
    found = btf.member(structure, path)
    return btf.member(structure, _FORMER[path]) if found is None and path in _FORMER else found


def _wrong(types: LearnedTypes, btf: Btf) -> list[str]:
    """Return what was learned that is not so."""
    wrong = []
    for structure, path, member in types.learned():
        said = _said(btf, structure, path)
        # the state was as large as a pointer once, and only its lowest bytes were used
        loose = path in ("__state", "numbers")
        # of the auxiliary vector only what is used is seen
        loose |= path == "saved_auxv" and said is not None and (member.size or 0) <= (said.size or 0)
        size_is_so = member.size is None or loose or (said is not None and said.size == member.size)
        if said is None or said.offset != member.offset or not size_is_so:
            wrong.append(f"{structure}.{path} at {member}, not {said}")
    return wrong


def _lacking(types: KernelTypes) -> list[str]:
    wanted = [("task_struct", name) for name in _TASK] + [tuple(name.split(".", 1)) for name in _OTHERS]
    return [f"{structure}.{path}" for structure, path in wanted if types.member(structure, path) is None]


@each_machine
def test_what_is_learned_is_what_the_kernels_own_types_say(name: str) -> None:
    """Nothing is wrong, and what every kernel has is found."""
    found = machine(name)
    with _memory(found.raw, found.raw_base) as memory:
        landmarks = find_landmarks(memory)
        kernel = learned_kernel(memory, landmarks)
        assert kernel is not None
        types = kernel.first.types
        assert isinstance(types, LearnedTypes)
        assert not _lacking(types)
        said = next(kernel_btf(memory, landmarks), None)
        if said is not None:
            assert not _wrong(types, said.types)


@each_machine
def test_what_is_read_by_it_is_what_is_read_by_the_kernels_own_types(name: str) -> None:
    """Processes, also those that no list leads to, and their regions are the same."""
    found = machine(name)
    with _memory(found.raw, found.raw_base) as memory:
        landmarks = find_landmarks(memory)
        said = next(kernel_btf(memory, landmarks), None)
        if said is None:
            pytest.skip(f"{name}: its kernel has no BTF")
        kernels = find_kernel(memory, [(said.types, said.physical)], landmarks), learned_kernel(memory, landmarks)
        by_types, by_looks = (LinuxSystem(kernel, landmarks) for kernel in kernels if kernel is not None)
        entries = by_types.processes()
        assert by_looks.processes() == entries
        assert by_looks.problem == by_types.problem == ""
        for entry in entries:
            one, other = (system.metadata(entry, system.table_of(entry)) for system in (by_types, by_looks))
            assert [[*regions] for regions in other.regions] == [[*regions] for regions in one.regions]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["linux-6.12-amd64", "linux-5.10-amd64"])
def test_damaged_tasks_make_nothing_wrong(damaged: Callable[[str], Damaged], name: str, seed: int) -> None:
    """Noise in one task of twenty, and in two address spaces: what is learned is right all the same, or not known."""
    copy, chance = damaged(name), random.Random(seed)  # noqa: S311 - nothing secret
    size = copy.types.structures["task_struct"].size
    spaces = {copy.get(task, "task_struct.mm") for task in copy.tasks()} - {0}
    for task in [*copy.tasks()][1:]:
        if chance.random() < 0.05:
            at = task + chance.randrange(0, min(size, 0x1000) - 64, 8)
            at -= max(at % 4096 + 64 - 4096, 0)  # what is written lies in one page
            copy.write(at, noise(chance.randrange(1 << 30), 64))
    for space in sorted(spaces)[:2]:
        copy.write(space + chance.randrange(0, 0x400, 64), noise(chance.randrange(1 << 30), 64))
    with _memory(copy.path, copy.machine.raw_base) as memory:
        landmarks = find_landmarks(memory)
        kernel, said = learned_kernel(memory, landmarks), next(kernel_btf(memory, landmarks))
        assert kernel is not None
        assert isinstance(kernel.first.types, LearnedTypes)
        assert not _wrong(kernel.first.types, said.types)


def test_regions_that_do_not_hold_all_pages_are_not_believed(damaged: Callable[[str], Damaged]) -> None:
    """Regions are said to end sooner than they do: tasks are known, regions are not."""
    copy = damaged("linux-5.10-amd64")
    for space in {copy.get(task, "task_struct.mm") for task in copy.tasks()} - {0}:
        region = copy.get(space, "mm_struct.mmap")
        while region:
            start = copy.get(region, "vm_area_struct.vm_start")
            copy.put(region, "vm_area_struct.vm_end", start + 4096)
            region = copy.get(region, "vm_area_struct.vm_next")
    with _memory(copy.path, copy.machine.raw_base) as memory:
        kernel = learned_kernel(memory, find_landmarks(memory))
        assert kernel is not None
        assert kernel.first.types.member("mm_struct", "pgd") is not None
        assert kernel.first.types.member("vm_area_struct", "vm_start") is None


@pytest.mark.parametrize("word", [8, 4])
def test_names_and_pointers_that_only_look_like_a_first_task_lead_nowhere(word: int) -> None:
    """Noise with the name of the first task all over, and with its pointers to itself, is no kernel."""
    data = bytearray(noise(word, 4 << 20))
    for at in range(0x4000, len(data) - 0x4000, 0x1000):
        data[at : at + 16] = b"swapper/0".ljust(16, b"\0")
    for number in range(64):
        at, address = 0x5000 + number * 0x3000, (1 << 8 * word) - (1 << 8 * word - 2) + number * 0x3000
        here, alone = at - 0x200, address + 0x400 + 4 * word
        ring = [address, address, address + 8, address + 8, alone, alone, address]
        data[here : here + 7 * word] = b"".join(each.to_bytes(word, "little") for each in ring)
    backing = Memory(bytes(data))
    columns = column([0]), column([len(data)]), column([0])
    memory = PhysicalMemory(physical("raw", backing, columns, declared=True))  # type: ignore[arg-type]
    landmarks = find_landmarks(memory)
    assert len(landmarks.names) > 900
    assert [*shapes(memory, landmarks.names)]
    assert learned_kernel(memory, landmarks) is None
