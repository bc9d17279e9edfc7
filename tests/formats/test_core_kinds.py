"""Which ELF cores are of a process and which of a machine: by who writes what, each as its writer lays it out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

import memcarve
from cli import invoke
from containers import qemu_note
from cores import PAGE, Load, core, info, note, status
from files import put
from memcarve import errors
from memcarve.sources.core import CoreContainer
from memcarve.sources.image import ImageContainer
from memory import content

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CPU = status(1, [0] * 27)
CPU_32 = status(1, [0] * 17, 32)
RISC_V, ARM64, ARM, S390, PPC64, XTENSA = 243, 183, 40, 22, 21, 94
LOW, HIGH = 0x400000, 0x7FFD00000000


class Case(NamedTuple):
    """A core: its PT_LOADs (address, p_flags), their physical addresses (None: the same again), notes."""

    loads: Sequence[tuple[int, int]]
    physical: Sequence[int] | None
    notes: bytes = b""
    machine: int = 62
    bits: int = 64

    def data(self) -> bytes:
        """Return the file."""
        loads = [Load(start, content(start, PAGE), flags=flags) for start, flags in self.loads]
        physical = [start for start, _ in self.loads] if self.physical is None else self.physical
        return core(loads, self.notes, bits=self.bits, machine=self.machine, physical=physical)


PROCESSES = {
    "Linux": Case([(LOW, 5), (HIGH, 6)], [0, 0], CPU + info(7, b"a") + note(b"CORE", 6, bytes(32))),
    "gcore": Case([(LOW, 5), (HIGH, 6)], [0, 0], info(7, b"a") + CPU),
    "threads alone": Case([(LOW, 5), (HIGH, 6)], [0, 0], CPU + note(b"CORE", 2, bytes(512))),
    "no notes": Case([(LOW, 5), (HIGH, 6)], [0, 0]),
    "no notes and no flags": Case([(LOW, 0), (HIGH, 0)], [0, 0]),
    "FreeBSD": Case([(LOW, 5)], [0], note(b"FreeBSD", 1, bytes(256))),
    "NetBSD": Case([(LOW, 5)], [0], note(b"NetBSD-CORE", 1, bytes(160))),
    "Solaris": Case([(LOW, 5)], [0], note(b"CORE", 13, bytes(100))),
    "ARM64 Linux": Case([(LOW, 5), (HIGH, 6)], [0, 0], CPU + note(b"LINUX", 0x405, bytes(64)) + info(7, b"a"), ARM64),
    "ARM64 gcore with SVE alone": Case([(LOW, 5)], [0], CPU + note(b"LINUX", 0x405, bytes(64)), ARM64),
    # p_paddr is p_vaddr again
    "PS Vita": Case([(0x81000000, 7), (0xE0000000, 7)], None, note(b"COREFILE_INFO", 0x1000, bytes(40)), ARM, 32),
    "ESP32": Case([(0x3FFB0000, 6)], None, CPU_32 + note(b"ESP_CORE_DUMP_INFO", 8266, bytes(40)), XTENSA, 32),
    "with a name": Case([(LOW, 6), (HIGH, 6)], None, info(7, b"a") + CPU),
    "with an auxiliary vector": Case([(LOW, 0)], None, note(b"CORE", 6, bytes(32))),
    "threads and permissions": Case([(LOW, 6), (HIGH, 6)], None, CPU),
    "radare2": Case([(index * PAGE, index % 8) for index in range(16)], None),
    "of uniform flags": Case([(LOW, 7), (HIGH, 7)], None),
    "ARM of uniform flags": Case([(0x81000000, 7)], None, b"", ARM, 32),
    "in the upper half": Case([(0xFFFFFFFFFF600000, 0)], None),
    # other physical addresses, against notes that no machine has
    "with physical addresses": Case([(LOW, 5)], [0x1234000], note(b"CORE", 6, bytes(32)) + info(7, b"a")),
}

MACHINES = {
    "QEMU": Case([(0, 0), (0xFFFC0000, 0)], None, CPU + qemu_note(0x1000)),
    "QEMU with paging": Case([(0xFFFF800000000000, 0)], [0x3000], CPU + qemu_note(0x1000)),
    "QEMU without its note": Case([(0, 0), (0x100000000, 0)], None, CPU),
    "QEMU, memory from 0 on": Case([(0, 0)], [0], CPU),
    "VirtualBox": Case([(0, 7)], [0], note(b"VBCORE", 0xB00, bytes(24))),
    "kdump": Case([(0xFFFF888000001000, 7)], [0x1000], CPU + note(b"VMCOREINFO", 0, b"OSRELEASE=6\n")),
    "kdump of Xen": Case([(LOW, 7)], [0x1000], CPU + note(b"Xen", 0x1000001, bytes(64))),
    "kcore": Case([(0xFFFF888000001000, 7), (1 << 47, 7)], [0x1000, (1 << 64) - 1], CPU + info(0, b"vmlinux")),
    "kcore's notes on s390": Case([(0, 7), (0x100000, 7)], None, CPU + info(0, b"vmlinux")),
    "physical addresses alone": Case([(0, 0), (0, 0)], [0, 0x100000]),
    "FreeBSD's kernel": Case([(0x1000, 4), (0x100000, 4)], None),
    "ARM64": Case([(0x40000000, 0)], None, CPU + note(b"LINUX", 0x405, bytes(64)), ARM64),
    "ARM64, QEMU before 2.12": Case([(0, 0)], [0x40000000], CPU + note(b"LINUX", 0x405, bytes(64)), ARM64),
    "ARM64 with SVE and nothing else": Case([(0x40000000, 0)], None, note(b"LINUX", 0x405, bytes(64)), ARM64),
    "ARM64, kdump's": Case([(1 << 63, 7)], [0x40000000], CPU + note(b"VMCOREINFO", 0, b"OSRELEASE=6\n"), ARM64),
}

OTHERS = {
    "32-bit ARM": Case([(0x40000000, 0)], None, CPU_32 + note(b"LINUX", 0x400, bytes(260)), ARM, 32),
    "RISC-V": Case([(0x80000000, 0)], None, CPU, RISC_V),
    "64-bit PowerPC": Case([(0, 0)], None, CPU + note(b"LINUX", 0x100, bytes(544)), PPC64),
    "s390": Case([(0, 0)], None, CPU + note(b"LINUX", 0x309, bytes(128)), S390),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_processes(tmp_path: Path, name: str) -> None:
    """A process's core is read as that: its bytes are at p_vaddr, whatever p_paddr says."""
    case = PROCESSES[name]
    with memcarve.open(put(tmp_path / "core", case.data())) as container:
        assert isinstance(container, CoreContainer)
        process = container.process()
        for start, _ in case.loads:
            assert process.space.read(start, PAGE) == content(start, PAGE)
        assert process.space.total == PAGE * len(case.loads)


@pytest.mark.parametrize("name", MACHINES)
def test_machines(tmp_path: Path, name: str) -> None:
    """A machine's core is an image."""
    case = MACHINES[name]
    with memcarve.open(put(tmp_path / "core", case.data())) as container:
        assert isinstance(container, ImageContainer)
        starts = [start for start, _ in case.loads]
        physical = starts if case.physical is None else case.physical
        for start, place in zip(starts, physical, strict=True):
            if place != (1 << 64) - 1:
                assert container.memory.read(place, PAGE) == content(start, PAGE)
        assert container.memory.architecture == ("arm64" if name.startswith("ARM64") else "x64")
        told = b"OSRELEASE=6\n" if name in {"kdump", "ARM64, kdump's"} else None
        assert container.memory.vmcoreinfo == told


@pytest.mark.parametrize("name", OTHERS)
def test_machines_of_other_processors(tmp_path: Path, name: str) -> None:
    """A machine's core of another processor is refused by the processor's name, also with a root or --os."""
    path = put(tmp_path / "core", OTHERS[name].data())
    options: list[dict[str, object]] = [{}, {"dtb": 0x40000000}, {"system": "linux"}, {"input_type": "image"}]
    for option in options:
        with pytest.raises(errors.InputError, match=f"whose processor is {name.partition(',')[0].split(' with')[0]};"):
            memcarve.open(path, **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["32-bit ARM", "RISC-V"])
def test_what_a_machine_may_be_instead(tmp_path: Path, name: str) -> None:
    """What no note tells to be a machine's is read as a process's core where somebody says so, and the error tells."""
    path = put(tmp_path / "core", OTHERS[name].data())
    with pytest.raises(errors.InputError, match="input_type='core' reads it"):
        memcarve.open(path)
    with memcarve.open(path, input_type="core") as container:
        assert [segment.start for segment in container.process().segments()] == [OTHERS[name].loads[0][0]]
        assert container.process().inputs["dump"]["input_type"] == "core"


@pytest.mark.parametrize("name", ["radare2", "of uniform flags", "threads and permissions"])
def test_doubt_is_told(tmp_path: Path, name: str) -> None:
    """Where nothing tells a process's core from a machine's a note says which was taken, and what takes the other."""
    path = put(tmp_path / "core", PROCESSES[name].data())
    with memcarve.open(path) as container:
        assert any("open it as input type 'image'" in each for each in container.process().notes)
    with memcarve.open(path, input_type="core") as container:
        assert not any("input type" in each for each in container.process().notes)
    for said in ({"input_type": "image"}, {"system": "linux"}, {"dtb": 0x1000}):
        with memcarve.open(path, **said) as container:  # type: ignore[arg-type]
            assert isinstance(container, ImageContainer)
            assert not any("input type" in each for each in container.notes)


def test_doubt_of_a_machine(tmp_path: Path) -> None:
    """Of a machine's core in which nothing says so the error says so, and what takes it for a process's."""
    path = put(tmp_path / "core", MACHINES["QEMU without its note"].data())
    with memcarve.open(path) as container, pytest.raises(errors.ProcessError, match="open it as input type 'core'"):
        container.processes()
    with memcarve.open(path, input_type="core") as container:
        assert [segment.start for segment in container.process().segments()] == [0, 0x100000000]


@pytest.mark.parametrize("name", ["Linux", "PS Vita", "with a name"])
def test_no_doubt(tmp_path: Path, name: str) -> None:
    """Of what notes settle nothing is said."""
    with memcarve.open(put(tmp_path / "core", PROCESSES[name].data())) as container:
        assert not any("input type" in each for each in container.process().notes)


@pytest.mark.parametrize("notes", [CPU_32, CPU_32 + info(5, b"a", 32)])
def test_no_memory(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], notes: bytes) -> None:
    """A core of notes alone is a process's that holds no memory: that is an error, and its processes are listed."""
    path = put(tmp_path / "core", core([], notes, bits=32, machine=ARM))
    ran = invoke(capfdbinary, "segments", path)
    assert (ran.code, ran.out) == (1, b"")
    assert "is the core of a process that holds no memory: it has notes alone" in ran.err
    assert invoke(capfdbinary, "processes", path).code == 0


def test_sections_alone(tmp_path: Path) -> None:
    """A core of sections without program headers, as Xen writes of a domain, is refused by name."""
    header = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 1)
    path = put(tmp_path / "core", b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + header + bytes(64 * 3))
    with pytest.raises(errors.InputError, match="Xen's dump-core"):
        memcarve.open(path)
