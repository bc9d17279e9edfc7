"""Machines whose descriptions of a process's regions were damaged or are hostile: what is found is right, and bounded.

The images are those of real machines, changed in single words of the kernel's memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import memcarve
from linux_machines import as_bytes, unlike_machines
from memcarve.linux_mappings import line

if TYPE_CHECKING:
    from collections.abc import Callable

    from linux_machines import Machine
    from linux_structures import Damaged

    Damage = Callable[[str], Damaged]

each_machine = pytest.mark.parametrize("name", unlike_machines())
one_machine = pytest.mark.parametrize("name", ["linux-6.12-amd64"])
_NODE = 256  # bytes of a node of a maple tree


def _maps(copy: Damaged, *pids: int) -> tuple[list[list[bytes]], list[str]]:
    """Return the regions of each process as /proc/PID/maps would print them, and the notes on the first one."""
    with memcarve.open(copy.path) as container:
        processes = [container.process(pid, half="user") for pid in pids]
        lines = [
            [line(region, 64).encode("utf-8", "surrogateescape") for region in process.regions] for process in processes
        ]
        return lines, list(processes[0].metadata.notes)


def _said(it: Machine, pid: int) -> list[bytes]:
    return it.maps(pid).splitlines()


def _with_many(it: Machine) -> int:
    """Return the process of thousands of regions."""
    return max(it.stopped, key=lambda pid: len(it.vmas(pid)))


def _other(it: Machine) -> int:
    """Return a usual process."""
    return next(pid for pid in it.stopped if it.processes[pid]["comm"] == "syslogd")


def _memory(copy: Damaged, pid: int) -> int:
    return copy.get(copy.task(pid), "task_struct.mm")


def _root_of_tree(copy: Damaged, pid: int) -> int:
    """Return what points to the first node of a process's maple tree; skip the test if its kernel has none."""
    if "maple_tree" not in copy.types.structures:
        pytest.skip(f"{copy.machine.name}: its kernel keeps no maple trees")
    return copy.get(_memory(copy, pid), "mm_struct.mm_mt.ma_root")


def _slots(copy: Damaged, pointer: int) -> list[int]:
    """Return the addresses of a node's slots."""
    kind = pointer >> 3 & 15
    structure = "maple_arange_64" if kind == 3 else "maple_range_64"
    first = copy.types.offset(f"{structure}.slot")
    return [(pointer & -_NODE) + at for at in range(first, _NODE if kind != 3 else first + 80, 8)]


@each_machine
@pytest.mark.parametrize("which", ["one", "all"])
def test_node_that_leads_to_itself(name: str, which: str, damaged: Damage) -> None:
    """A tree that leads back into itself, by one slot or by every one, is walked once."""
    copy = damaged(name)
    pid, other = _with_many(copy.machine), _other(copy.machine)
    root = _root_of_tree(copy, pid)
    slots = _slots(copy, root)
    for slot in slots[1:2] if which == "one" else slots:
        copy.write(slot, struct.pack("<Q", root))
    (found, untouched), notes = _maps(copy, pid, other)
    assert set(found) < set(_said(copy.machine, pid))
    assert len(found) > 100 or which == "all"
    assert notes
    assert untouched == _said(copy.machine, other)


@one_machine
def test_node_of_another_process(name: str, damaged: Damage) -> None:
    """Regions that belong to another process are not taken for this one's."""
    copy = damaged(name)
    pid, other = _with_many(copy.machine), _other(copy.machine)
    copy.write(_slots(copy, _root_of_tree(copy, pid))[1], struct.pack("<Q", _root_of_tree(copy, other)))
    (found,), notes = _maps(copy, pid)
    assert set(found) < set(_said(copy.machine, pid))
    assert notes


@one_machine
@pytest.mark.parametrize("value", [0, 2, 0x1E, 0xDEAD00000000000C, (1 << 64) - 1, 0xFFFF888000000006])
def test_root_that_is_none(name: str, value: int, damaged: Damage) -> None:
    """A root that is no node leads to no regions, and the user is told; the pages are there all the same."""
    copy = damaged(name)
    pid = _other(copy.machine)
    _root_of_tree(copy, pid)
    copy.put(_memory(copy, pid), "mm_struct.mm_mt.ma_root", value)
    (found,), notes = _maps(copy, pid)
    assert found == []
    assert notes
    with memcarve.open(copy.path) as container:
        assert container.process(pid, half="user").space.total >= len(copy.machine.pages(pid).address) * 4096


@pytest.mark.parametrize("name", ["linux-5.10-amd64"])
def test_list_of_regions_that_loops(name: str, damaged: Damage) -> None:
    """Before maple trees: a list that leads back into itself; the tree beside it has the rest."""
    copy = damaged(name)
    pid = _other(copy.machine)
    first = copy.get(_memory(copy, pid), "mm_struct.mmap")
    second = copy.get(first, "vm_area_struct.vm_next")
    copy.put(second, "vm_area_struct.vm_next", first)
    (found,), notes = _maps(copy, pid)
    assert found == _said(copy.machine, pid)
    assert notes


def _program(copy: Damaged, pid: int) -> tuple[int, int, int]:
    """Return the addresses of the file, the vfsmount and the dentry of a process's program."""
    file = copy.get(_memory(copy, pid), "mm_struct.exe_file")
    return file, copy.get(file, "file.f_path.mnt"), copy.get(file, "file.f_path.dentry")


def _on_disk(it: Machine) -> int:
    """Return a process whose program lies on a mounted disk."""
    return next(pid for pid in it.stopped if it.processes[pid]["links"]["exe"].startswith("/data/bin/"))


def _spared(it: Machine, pid: int, lines: list[bytes], part: bytes) -> None:
    """Check that all but the name is as it was of the regions of one file, and everything of all others."""
    said = _said(it, pid)
    assert len(lines) == len(said)
    for found, expected in zip(lines, said, strict=True):
        assert found == expected or (part in expected and found.split()[:5] == expected.split()[:5])


@each_machine
def test_dentries_that_loop(name: str, damaged: Damage) -> None:
    """A dentry whose parents lead back to it has no path; the regions are there with everything else."""
    copy = damaged(name)
    pid = _on_disk(copy.machine)
    _, _, dentry = _program(copy, pid)
    above = copy.get(dentry, "dentry.d_parent")
    copy.put(above, "dentry.d_parent", dentry)
    (found,), _ = _maps(copy, pid)
    _spared(copy.machine, pid, found, b"/data/bin/")


@each_machine
def test_mounts_that_loop(name: str, damaged: Damage) -> None:
    """Two mounts of which each is mounted on the other: no path, no hang."""
    copy = damaged(name)
    pid = _on_disk(copy.machine)
    _, vfsmount, dentry = _program(copy, pid)
    mount = copy.at("mount.mnt")(vfsmount)
    outer = copy.get(mount, "mount.mnt_parent")
    copy.put(outer, "mount.mnt_parent", mount)
    copy.put(outer, "mount.mnt_mountpoint", dentry)
    (found,), _ = _maps(copy, pid)
    said = _said(copy.machine, pid)
    assert [each.split()[:5] for each in found] == [each.split()[:5] for each in said]


@one_machine
@pytest.mark.parametrize("length", [0, 1 << 16, (1 << 32) - 1])
def test_length_of_a_name(name: str, length: int, damaged: Damage) -> None:
    """A name that claims to be empty or huge costs no memory, and harms nothing but itself."""
    copy = damaged(name)
    pid = _on_disk(copy.machine)
    _, _, dentry = _program(copy, pid)
    copy.put(dentry, "dentry.d_name.len", length, 4)
    (found,), _ = _maps(copy, pid)
    _spared(copy.machine, pid, found, b"/data/bin/")
    assert max(map(len, found)) < 5000


@one_machine
@pytest.mark.parametrize("where", [0, 0xDEAD000000000100])
def test_pointers_that_lead_nowhere(name: str, where: int, damaged: Damage) -> None:
    """Of a file, a mount, or a dentry that is not there, only the name is lost."""
    copy = damaged(name)
    pid = _on_disk(copy.machine)
    file, vfsmount, dentry = _program(copy, pid)
    for address, member in (
        (file, "file.f_path.dentry"),
        (file, "file.f_path.mnt"),
        (dentry, "dentry.d_parent"),
        (dentry, "dentry.d_name.name"),
        (copy.at("mount.mnt")(vfsmount), "mount.mnt_parent"),
    ):
        copy.put(address, member, where)
        (found,), _ = _maps(copy, pid)
        said = _said(copy.machine, pid)
        assert [each.split()[:3] for each in found] == [each.split()[:3] for each in said], member
        copy.restore()


@each_machine
def test_name_of_control_characters(name: str, damaged: Damage) -> None:
    """A file's name is kept to the byte; a newline in it is printed as the kernel does."""
    copy = damaged(name)
    pid = _on_disk(copy.machine)
    _, _, dentry = _program(copy, pid)
    length = copy.get(dentry, "dentry.d_name.len", 4)
    hostile = b"\x1b[2J\n\xff'\"$(x)"
    copy.write(copy.get(dentry, "dentry.d_name.name"), hostile.ljust(length, b"_")[:length])
    (found,), _ = _maps(copy, pid)
    expected = b"/data/bin/" + hostile.ljust(length, b"_")[:length].replace(b"\n", b"\\012")
    exe = b" " + as_bytes(copy.machine.processes[pid]["links"]["exe"])
    assert [each.replace(b" " + expected, exe) for each in found] == _said(copy.machine, pid)
    with memcarve.open(copy.path) as container:
        files = {region.file for region in container.process(pid, half="user").regions}
    assert (b"/data/bin/" + hostile.ljust(length, b"_")[:length]).decode("utf-8", "surrogateescape") in files


@one_machine
@pytest.mark.parametrize(
    ("start", "end"),
    [(0x1000, (1 << 64) - 4096), (0, 0), (1 << 63, 1 << 62), (0x1234, 0x5678), (0xFFFF800000000000, (1 << 64) - 4096)],
)
def test_bounds_that_make_no_sense(name: str, start: int, end: int, damaged: Damage) -> None:
    """A region with impossible bounds harms no other, and labels, flags and segments are found all the same."""
    copy = damaged(name)
    pid = _other(copy.machine)
    leaf = _root_of_tree(copy, pid)
    while leaf >> 3 & 15 != 1:
        (leaf,) = struct.unpack("<Q", copy.read(_slots(copy, leaf)[0], 8))
    slots = (struct.unpack("<Q", copy.read(slot, 8))[0] for slot in _slots(copy, leaf))
    vma = next(value for value in slots if value)
    copy.put(vma, "vm_area_struct.vm_start", start)
    copy.put(vma, "vm_area_struct.vm_end", end)
    (found,), notes = _maps(copy, pid)
    assert notes
    assert set(_said(copy.machine, pid)[1:]) <= set(found)
    with memcarve.open(copy.path) as container:
        process = container.process(pid, half="user")
        segments = process.segments(split="region")
        labels = memcarve.Labelling()(process, segments, memcarve.Selection())
        assert len(segments) > 10
        assert labels.record(0) is not None
