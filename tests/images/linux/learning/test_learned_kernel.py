"""What is learned of real kernels, against what their BTF says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from linux_machines import machine, machines
from memcarve.backing import FileBacking
from memcarve.formats.images.machine import column, machine as physical
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.landmarks import find_landmarks
from memcarve.images.linux.learning.learned_kernel import learned_kernel
from memcarve.images.physical import PhysicalMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.formats.kernel_types import KernelTypes, Member
    from memcarve.formats.kernel_types.btf import Btf
    from memcarve.images.linux.learning.learned_types import LearnedTypes

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


@pytest.fixture(params=machines())
def memory(request: pytest.FixtureRequest) -> Iterator[PhysicalMemory]:
    """Yield the memory of each machine."""
    found = machine(request.param)
    file = FileBacking(str(found.raw))
    columns = column([found.raw_base]), column([file.size]), column([0])
    yield PhysicalMemory(physical("raw", file, columns, declared=True))
    file.close()


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


def test_what_is_learned_is_what_the_kernels_own_types_say(memory: PhysicalMemory) -> None:
    """Nothing is wrong, and what every kernel has is found."""
    landmarks = find_landmarks(memory)
    kernel = learned_kernel(memory, landmarks)
    assert kernel is not None
    types = kernel.first.types
    assert not _lacking(types)
    said = next(kernel_btf(memory, landmarks), None)
    if said is not None:
        assert not _wrong(types, said.types)  # type: ignore[arg-type]
