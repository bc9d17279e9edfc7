"""Cores of Xen's domains: what was written from the format's description is read."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import containers
from containers import PAGE
from memcarve.backing import FileBacking
from memcarve.errors import InputError
from memcarve.formats.images import machine_core, xen_core
from memcarve.images.physical import PhysicalMemory
from memory import content

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.formats.images.machine import MachineMemory

RANGES = [(0, content(0, 2 * PAGE)), (0x9000, content(9, PAGE)), (1 << 32, content(7, 3 * PAGE))]


def read(path: Path, data: bytes) -> MachineMemory:
    """Read a core."""
    path.write_bytes(data)
    memory = machine_core.read(FileBacking(path))
    assert memory is not None
    return memory


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_domains(tmp_path: Path, kind: str) -> None:
    """Pages lie where the domain, or its page tables, have them; what has no page is skipped."""
    memory = read(tmp_path / "image", containers.xen_core(RANGES, kind=kind, absent=2))
    physical = PhysicalMemory(memory)
    for start, data in RANGES:
        assert physical.read(start, len(data)) == data
    assert physical.total == 6 * PAGE
    assert memory.cut_off == []
    assert memory.declared
    assert memory.root == 0x1AD000
    assert memory.architecture == "x64"
    assert memory.kind == ("Xen core (HVM or PVH)" if kind == "hvm" else "Xen core (PV)")
    assert len(memory.notes) == (kind == "pv")
    assert len(memory.start) == 3
    assert memory.backing.spans(0, 1) is not None


def test_frames_in_any_order(tmp_path: Path) -> None:
    """The frames of a PV domain lie anywhere in the machine, in any order."""
    frames = [(number * 7919 % 4096 * PAGE, content(number, PAGE)) for number in range(500)]
    physical = PhysicalMemory(read(tmp_path / "image", containers.xen_core(frames, kind="pv")))
    for start, data in frames:
        assert physical.read(start, PAGE) == data


@pytest.mark.parametrize("page", [1 << 12, 1 << 14, 1 << 16])
def test_arm64(tmp_path: Path, page: int) -> None:
    """Domains of ARM64 are read, and have no root that is known."""
    ranges = [(1 << 30, content(1, 2 * page))]
    memory = read(tmp_path / "image", containers.xen_core(ranges, machine=183, page=page))
    assert memory.architecture == "arm64"
    assert memory.root is None
    assert PhysicalMemory(memory).read(1 << 30, 2 * page) == ranges[0][1]


def test_cut_off(tmp_path: Path) -> None:
    """A core that ends early has the pages that are there, and the others are cut off."""
    data = containers.xen_core(RANGES)
    for less in (1, PAGE, 3 * PAGE + 5, 6 * PAGE):
        memory = read(tmp_path / "image", data[:-less])
        physical = PhysicalMemory(memory)
        assert physical.total == 6 * PAGE - less
        assert sum(size for _, size in memory.cut_off) == less
        assert not physical.declared


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores without pages or notes, of other processors, or in more pieces than any domain are refused by name."""
    data = containers.xen_core(RANGES)
    with pytest.raises(InputError, match=r"notes are missing; take the memory from inside"):
        read(tmp_path / "image", data.replace(b".xen_pages", b".xen_other"))
    with pytest.raises(InputError, match=r"do not say how large pages are"):
        read(
            tmp_path / "image", data.replace(struct.pack("<Q", 0xF00FEBEE) + struct.pack("<QQQ", 2, 6, PAGE), bytes(32))
        )
    with pytest.raises(InputError, match=r"whose processor is 32-bit ARM"):
        read(tmp_path / "image", containers.xen_core(RANGES, machine=40))
    monkeypatch.setattr(xen_core, "_MOST_RANGES", 2)
    with pytest.raises(InputError, match=r"in more than 2 pieces"):
        read(tmp_path / "image", data)
