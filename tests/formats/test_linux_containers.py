"""The same moment of a machine in every container: whatever is there is the same, byte for byte.

One machine is real (needs the shared machines, zstd and makedumpfile); others are QEMU's own, without a system, with
memory that was put into it (needs QEMU). What is independent of memcarve: QEMU and makedumpfile write the containers,
QEMU's monitor saves the memory, drgn (with libkdumpfile) reads dumps in a program of its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

import containers
import linux_machines
import memcarve
from containers import PAGE
from memcarve.backing import FileBacking
from memcarve.errors import InputError
from memcarve.images.physical import PhysicalMemory
from memcarve.intervals import Intervals
from memcarve.sources.image import machine_memory
from memory import content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MACHINE = "linux-6.1-amd64-pti"
_STEP = 1 << 22
_READER = """
import json, sys, drgn
program = drgn.Program()
program.set_core_dump(sys.argv[1])
for line in sys.stdin:
    try:
        print(program.read(int(line), 4096, physical=True).hex())
    except drgn.FaultError:
        print("fault")
"""


def needed(*programs: str) -> list[str]:
    """Return where programs are; skip the test and name those that are not installed."""
    found = [shutil.which(program) for program in programs]
    if None in found:
        missing = [program for program, path in zip(programs, found, strict=True) if path is None]
        pytest.skip(f"not installed: {', '.join(missing)}")
    return [path for path in found if path is not None]


def opened(path: Path) -> PhysicalMemory:
    """Return what a container holds."""
    memory = machine_memory(FileBacking(path))
    assert memory is not None, path
    return PhysicalMemory(memory)


def compared(physical: PhysicalMemory, raw: Path, base: int = 0, but: tuple[int, int] = (0, 0)) -> Intervals:
    """Compare all that a container holds with a raw image; return what of the image it lacks.

    At `but`, half-open, the image may differ: what the processor sees there is no RAM.
    """
    truth = np.memmap(raw, np.uint8, "r")
    for start, end in physical.bounds():
        for low in range(max(start, base), min(end, base + len(truth)), _STEP):
            size = min(_STEP, min(end, base + len(truth)) - low)
            data = physical.read(low, size)
            assert data is not None
            other = np.flatnonzero(np.frombuffer(data, np.uint8) != truth[low - base : low - base + size]) + low
            assert not ((other < but[0]) | (other >= but[1])).any(), hex(int(other[0]))
    return Intervals.of([(base, len(truth))]).subtract(physical)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Return every container of the shared machine's memory, by name."""
    needed("zstd", "makedumpfile", "bash")
    script = linux_machines.machine(MACHINE).folder / "containers" / "unpack.sh"
    if not script.exists():
        pytest.skip(f"{script} is missing")
    folder = tmp_path_factory.mktemp("forms")
    subprocess.run(["bash", script, folder], check=True, capture_output=True)
    plain = folder / "plain.elf"
    for name, options in (
        ("flat", ("-F", "-l", "-d", "31")),
        ("flat.elf", ("-F", "-E", "-d", "17")),
    ):
        with open(folder / f"memory.{name}", "wb") as file:
            subprocess.run(["makedumpfile", *options, plain], check=True, stdout=file, stderr=subprocess.DEVNULL)
    subprocess.run(
        ["makedumpfile", "--split", "-l", "-d", "1", plain, folder / "part.1", folder / "part.2"],
        check=True,
        capture_output=True,
    )
    yield {path.name: path for path in sorted(folder.iterdir())}
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_real_machine(forms: dict[str, Path]) -> None:
    """What is in a container is what was in memory, and what is not is said to be left out."""
    raw, told = forms["memory.raw"], {}
    for name, path in forms.items():
        if name in {"memory.raw", "plain.elf"} or name.startswith("part."):
            continue
        physical = opened(path)
        told[name] = physical.vmcoreinfo
        lacking = compared(physical, raw)
        if "-d31" in name or "-d17" in name or name == "memory.flat":
            assert physical.left_out is not None
            assert lacking.total == physical.left_out.total > 0
            assert "free memory" in (physical.gaps or "")
        elif name == "memory.flat.elf":
            assert lacking.total > 0
            assert not physical.declared
        elif name == "memory.paging.elf":  # of virtual memory: what no page table of the processors maps is not in it
            assert 0 < lacking.total < 1 << 20
            assert not physical.declared
        else:
            assert lacking.total == 0, name
            assert physical.declared
        assert len(physical.cut) == 0
        assert physical.architecture == (None if name == "memory.migrate" else "x64")
    text = told.pop("memory.elf")
    assert text is not None
    assert text.startswith(b"OSRELEASE=6.1.0")
    assert {name for name, other in told.items() if other != text} == {"memory.migrate"}


def test_the_same_answers(forms: dict[str, Path]) -> None:
    """Every container of all of the memory has the same processes, and the same bytes of one of them."""
    answers = {}
    for name in ("memory.raw", "memory.elf", "memory.kdump-zlib-flat", "memory.kdump", "memory.migrate"):
        with memcarve.open(forms[name]) as container:
            entries = container.listed()
            process = container.process(next(entry.pid for entry in entries if entry.name == "rich"))
            bytes_there = hashlib.sha256()
            for segment in process.segments():
                bytes_there.update(process.space.read(segment.start, segment.size))
            listed = [(entry.pid, entry.name, entry.parent, entry.root) for entry in entries]
            answers[name] = (listed, process.space.total, process.space.missing.size.sum(), bytes_there.hexdigest())
    assert len(set(map(repr, answers.values()))) == 1
    assert len(answers["memory.raw"][0]) > 40


def test_parts_of_a_split_dump(forms: dict[str, Path]) -> None:
    """The parts of a dump have all of its memory together, and say that they are parts."""
    whole = Intervals.of([])
    for name in ("part.1", "part.2"):
        physical = opened(forms[name])
        compared(physical, forms["memory.raw"])
        assert "makedumpfile --reassemble" in physical.notes[0]
        whole = Intervals(np.append(whole.start, physical.start), np.append(whole.size, physical.size))
    assert whole.total == forms["memory.raw"].stat().st_size


def test_what_drgn_reads(forms: dict[str, Path]) -> None:
    """Pages that libkdumpfile reads are those that memcarve reads, and what it cannot read is left out here, too."""
    if importlib.util.find_spec("drgn") is None:
        pytest.skip("not installed: drgn")
    for name, path in forms.items():
        if "makedumpfile" not in name:  # drgn refuses QEMU's own: they do not name the processor as it expects
            continue
        physical = opened(path)
        places = [*range(0, 128 << 20, 997 * PAGE)]
        asked = "".join(f"{place}\n" for place in places)
        ran = subprocess.run(
            [sys.executable, "-c", _READER, path], input=asked, capture_output=True, text=True, check=True
        )
        for place, line in zip(places, ran.stdout.split(), strict=True):
            found = physical.read(place, PAGE)
            assert line == ("fault" if found is None else found.hex()), (name, hex(place))


def test_what_drgn_reads_of_ours(tmp_path: Path) -> None:
    """Dumps as the tests write them, in each compression, are read by libkdumpfile as by memcarve."""
    if importlib.util.find_spec("drgn") is None:
        pytest.skip("not installed: drgn")
    ranges = [(0x1000, content(0x1000, 5 * PAGE)), (0x9000, bytes(9 * PAGE)), (0x40000, content(7, 3 * PAGE))]
    text = (
        b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82610000\nSYMBOL(_stext)=ffffffff81000000\n"
        b"KERNELOFFSET=0\nNUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=0\nNUMBER(KERNEL_IMAGE_SIZE)=1073741824\n"
    )
    notes = containers.note(b"CORE", 1, bytes(336)) + containers.note(b"VMCOREINFO", 0, text)
    for how in containers.PACKERS:
        path = tmp_path / how
        path.write_bytes(containers.kdump(ranges, how=how, vmcoreinfo=text, notes=notes, left_out=[(0x20000, PAGE)]))
        physical = opened(path)
        places = [start + at for start, data in ranges for at in range(0, len(data), PAGE)] + [0x20000]
        ran = subprocess.run(
            [sys.executable, "-c", _READER, path],
            input="".join(f"{place}\n" for place in places),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not ran.returncode, ran.stderr
        for place, line in zip(places, ran.stdout.split(), strict=True):
            found = physical.read(place, PAGE)
            assert line == ("fault" if found is None else found.hex()), (how, hex(place))


def test_cut_off(forms: dict[str, Path], tmp_path: Path) -> None:
    """Of a file that was cut off, what is there is read, and all that is not is cut off."""
    for name in ("memory.kdump", "memory.migrate", "memory.kdump-zlib-flat"):
        data = forms[name].read_bytes()
        (tmp_path / "cut").write_bytes(data[: len(data) * 2 // 3])
        physical = opened(tmp_path / "cut")
        lacking = compared(physical, forms["memory.raw"])
        assert lacking.total > 0
        assert lacking.subtract(physical.cut).total == 0, name
        assert not physical.declared


def test_pieces_as_makedumpfile_puts_them_together(tmp_path: Path) -> None:
    """What makedumpfile -R makes of a flattened file is what is read from it."""
    (program,) = needed("makedumpfile")
    data = containers.kdump([(0x1000, content(0x1000, 5 * PAGE)), (0x100000, content(3, PAGE))])
    flat = containers.flattened(containers.in_pieces(data))
    (tmp_path / "flat").write_bytes(flat)
    subprocess.run([program, "-R", tmp_path / "whole"], input=flat, check=True, capture_output=True)
    assert (tmp_path / "whole").read_bytes() == data
    one, other = opened(tmp_path / "flat"), opened(tmp_path / "whole")
    assert one.read(0x1000, 5 * PAGE) == other.read(0x1000, 5 * PAGE) == content(0x1000, 5 * PAGE)


class Emulated(NamedTuple):
    """A machine of QEMU's: program, options, where its RAM begins, where a file is put into it, what is no RAM."""

    program: str
    options: str
    base: int
    place: int
    other: tuple[int, int]
    architectures: tuple[str | None, ...]


EMULATED = {
    "pc": Emulated("qemu-system-x86_64", "-M pc -m 32", 0, 0x100000, (0xA0000, 0x100000), ("x64", "x86", None)),
    "q35": Emulated("qemu-system-x86_64", "-M q35 -m 32", 0, 0x100000, (0xA0000, 0x100000), ("x64", "x86", None)),
    "32 bits": Emulated("qemu-system-i386", "-M pc -m 32", 0, 0x100000, (0xA0000, 0x100000), ("x86", None)),
    "ARM64": Emulated(
        "qemu-system-aarch64", "-M virt -cpu cortex-a72 -m 32", 1 << 30, (1 << 30) + 0x200000, (0, 0), ("arm64",)
    ),
}


@pytest.mark.parametrize("name", EMULATED)
def test_what_qemu_writes(tmp_path: Path, name: str) -> None:
    """QEMU's own forms of a machine without a system have what its monitor saves."""
    machine = EMULATED[name]
    (qemu,) = needed(machine.program)
    inside = content(7, 700 * PAGE) + bytes(300 * PAGE) + b"text " * 9000
    (tmp_path / "inside").write_bytes(inside)
    monitor = [f'pmemsave {machine.base:#x} 0x2000000 "raw"', "dump-guest-memory elf"]
    monitor += [f"dump-guest-memory -{flag} kdump{flag}" for flag in "zls"]
    monitor += ['migrate "exec:cat >stream"', "quit"]
    loaded = f"loader,file=inside,addr={machine.place:#x},force-raw=on"
    options = f"{machine.options} -accel tcg -nodefaults -display none -monitor stdio -S -device {loaded}"
    ran = subprocess.run(
        [qemu, *options.split()],
        input="\n".join(monitor) + "\n",
        cwd=tmp_path,
        text=True,
        check=True,
        capture_output=True,
        timeout=200,
    )
    assert (tmp_path / "raw").stat().st_size == 32 << 20, ran.stdout
    for form in ("elf", "kdumpz", "kdumpl", "kdumps", "stream"):
        if not (tmp_path / form).exists():  # built without a library for it
            assert form in {"kdumpl", "kdumps"}
            continue
        physical = opened(tmp_path / form)
        assert compared(physical, tmp_path / "raw", machine.base, machine.other).total == 0, form
        assert physical.read(machine.place, len(inside)) == inside
        assert physical.architecture in machine.architectures
        assert physical.cut.total == 0


def test_what_qemu_writes_of_other_processors(tmp_path: Path) -> None:
    """The dump of a 32-bit ARM is refused by its name."""
    (qemu,) = needed("qemu-system-arm")
    options = ["-M", "virt", "-m", "32", "-accel", "tcg", "-nodefaults", "-display", "none", "-monitor", "stdio", "-S"]
    subprocess.run(
        [qemu, *options],
        input="dump-guest-memory elf\ndump-guest-memory -z kdump\nquit\n",
        cwd=tmp_path,
        text=True,
        check=True,
        capture_output=True,
        timeout=100,
    )
    for form in ("elf", "kdump"):
        with pytest.raises(InputError, match=r"whose processor is 32-bit ARM"):
            opened(tmp_path / form)


@pytest.mark.parametrize("write", ["lime", "avml"])
def test_arm64_in_containers_that_say_no_processor(tmp_path: Path, write: str) -> None:
    """Memory of an ARM64 machine, which begins at 1 GiB, is read from LiME and AVML as that of any other."""
    machine = linux_machines.machine("linux-6.12-arm64")
    size = machine.raw.stat().st_size
    path = tmp_path / "image"
    parts = getattr(containers, f"write_{write}")
    parts(path, [(machine.raw_base, containers.Slice(machine.raw, 0, size))])
    physical = opened(path)
    assert compared(physical, machine.raw, machine.raw_base).total == 0
    assert physical.start.tolist() == [machine.raw_base]
    assert physical.architecture is None
    assert json.dumps(physical.notes) == "[]"
