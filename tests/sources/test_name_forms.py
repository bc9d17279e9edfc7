"""Folders of files that other programs name by addresses: each form, mixtures, and names that only look like one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import memcarve
from carved import manifest
from cli import invoke
from headers import elf_page
from memcarve.errors import InputError, OverlapError
from memory import PAGE, content

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

#: a name, what it holds (start, size), the process's pid and name, its system, the region that it tells
FORMS = [
    ("0x00401000-0x00402000-r-x.dmp", (0x401000, PAGE), None, None, None, "r-x"),
    ("0x00401000-0x00402000.rw-.program.bin", (0x401000, PAGE), None, None, None, "rw-"),
    ("0x00401000-0x00402000-rw-p.dmp", (0x401000, PAGE), None, None, None, "rw-"),
    (
        "explorer.exe.21ee9b890.0x000007fffff82000-0x000007fffff83fff-rwx.dmp",
        (0x7FFFFF82000, 2 * PAGE), None, "explorer.exe", "windows", "rwx",
    ),
    ("System.fa8000c99040.00010000-00010fff.dmp", (0x10000, PAGE), None, "System", "windows", "?"),
    ("task.4321.0x400000.vma", (0x400000, 3 * PAGE), 4321, None, "linux", "?"),
    ("python3_88_7ffd0000_7ffd1000.tmp", (0x7FFD0000, PAGE), 88, "python3", None, None),
    ("a_b_88_7ffd0000_7ffd1000.tmp", (0x7FFD0000, PAGE), 88, "a_b", None, None),
    ("memdump_10E1_00007FF673400000_2000.bin", (0x7FF673400000, 2 * PAGE), 0x10E1, None, "windows", None),
    ("0x7f3320a4e000_dump.data", (0x7F3320A4E000, PAGE), None, None, None, None),
    ("0x7f3320a4e000L_dump.data", (0x7F3320A4E000, PAGE), None, None, None, None),
    ("0x000000007ffe0000-MISC.vvmem", (0x7FFE0000, PAGE), None, None, "windows", "?"),
    ("7ffd0000-7ffd1000.dump", (0x7FFD0000, PAGE), None, None, None, None),
    ("7ffd0000-7ffd1000-r--.dump", (0x7FFD0000, PAGE), None, None, None, "r--"),
    ("1234-7ffd0000-7ffd1000.dump", (0x7FFD0000, PAGE), 1234, None, None, None),
    ("1234-0x7ffd0000-0x7ffd1000.bin", (0x7FFD0000, PAGE), 1234, None, None, None),
    ("00400000-00400fff", (0x400000, PAGE), None, None, None, None),
    ("dump_77_0x400000-0x401000.bin", (0x400000, PAGE), None, None, None, None),
    ("notepad.exe_0x7ff6c0e50000-0x3000.bin", (0x7FF6C0E50000, 3 * PAGE), None, None, None, None),
]  # fmt: skip


def put(folder: Path, name: str, start: int, size: int) -> Path:
    """Write a file whose bytes say where they are."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content(start, size))
    return folder


@pytest.mark.parametrize(("name", "held", "pid", "called", "system", "region"), FORMS, ids=[form[0] for form in FORMS])
def test_forms(
    tmp_path: Path,
    name: str,
    held: tuple[int, int],
    pid: int | None,
    called: str | None,
    system: str | None,
    region: str | None,
) -> None:
    """What a file holds, whose it is, and its region and protection are as its name says."""
    with memcarve.open(put(tmp_path / "folder", name, *held)) as container:
        process = container.process()
        assert (process.pid, process.name, process.platform.system) == (pid, called, system)
        assert [(each.start, each.size) for each in process.segments()] == [held]
        assert process.space.read(*held) == content(*held)
        assert process.input_bytes == held[1]
        found = [row for regions in process.metadata.regions for row in regions]
        assert [(row.start, row.size, row.protection or "?") for row in found] == ([(*held, region)] if region else [])
        assert all("file names" in regions.source for regions in process.metadata.regions)


def test_protection_of_a_name_chooses(tmp_path: Path, capfdbinary: Capture) -> None:
    """What radare2's names say of protection is used like what a list of regions says, and its origin is shown."""
    put(tmp_path / "folder", "0x00401000-0x00402000-r-x.dmp", 0x401000, PAGE)
    put(tmp_path / "folder", "0x00402000-0x00403000-rw-.dmp", 0x402000, PAGE)
    ran = invoke(capfdbinary, "segments", tmp_path / "folder", "--split", "protection", "--protection", "x")
    assert (ran.code, len(ran.out.splitlines())) == (0, 2)
    assert b"0x0000000000401000  0x0000000000402000" in ran.out
    ran = invoke(capfdbinary, "regions", tmp_path / "folder")
    assert ran.out.decode().count("file names") == 2


def test_a_mixture(tmp_path: Path, capfdbinary: Capture) -> None:
    """Files of several forms that say nothing of a process are one process; what is foreign is counted and told."""
    folder = tmp_path / "folder"
    put(folder, "0x00401000-0x00402000-r-x.dmp", 0x401000, PAGE)
    put(folder, "402000-403000.dump", 0x402000, PAGE)
    put(folder, "heap_0x500000-0x501000.bin", 0x500000, PAGE)
    for name in ("README.md", "process.map", ".hidden", "2024-11-05.log"):
        (folder / name).write_bytes(b"x" * 10)
    (folder / "deeper").mkdir()
    ran = invoke(capfdbinary, "carve", folder, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "5 other files of 40 bytes" in ran.err
    assert "another length" not in ran.err
    document = manifest(tmp_path / "out")
    assert [segment["start"] for segment in document["segments"]] == ["0x0000000000401000", "0x0000000000500000"]
    assert document["totals"]["bytes"] + 40 == document["totals"]["input_bytes"]


@pytest.mark.parametrize(
    "name",
    ["7ffd0000-7ffd2000.dump", "77-7ffd0000-7ffd2000.dump", "a_7_7ffd0000_7ffd2000.tmp", "x_0x7ffd0000-0x7ffd2000"],
)
def test_another_length(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """A file that may be so named by chance and has another length is left out by name, if it looks like pages."""
    put(tmp_path / "folder", "0x400000-0x401000.bin", 0x400000, PAGE)
    (tmp_path / "folder" / name).write_bytes(b"x")
    ran = invoke(capfdbinary, "segments", tmp_path / "folder")
    assert ran.code == 0
    assert f"because the length is not what the name says: 1 file: {name}\n" in ran.err
    with memcarve.open(tmp_path / "folder") as container:
        assert [segment.start for segment in container.process().segments()] == [0x400000]


def test_radare_names_of_another_length(tmp_path: Path) -> None:
    """A file of radare2's that was cut is refused like any other that is certainly named by addresses."""
    (tmp_path / "0x00401000-0x00402000-r-x.dmp").write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"is 100 bytes long; by its name it must be 4096 .* or 4097"):
        memcarve.open(tmp_path)


def test_overlaps_between_forms(tmp_path: Path) -> None:
    """Two files of different forms that hold one address are an error that names both."""
    put(tmp_path, "0x401000-0x402000-r-x.dmp", 0x401000, PAGE)
    put(tmp_path, "401000-402000.dump", 0x401000, PAGE)
    with memcarve.open(tmp_path) as container, pytest.raises(OverlapError, match=r"-r-x\.dmp and 401000-|dump and 0x"):
        container.process()


# what linux.elfs writes: the pages that an ELF header loads, one part behind the other

BASE = 0x7F0000000000
LOADS = ((0, 0, 0x1800, 5), (0x2000, 0x5000, 0x900, 6))  # offset, address, size, flags


def loaded(loads: tuple[tuple[int, int, int, int], ...] = LOADS, base: int = BASE) -> bytes:
    """Return what linux.elfs writes of a library whose bytes say where they are, behind its header."""
    memory = b"".join(
        content(base + address // PAGE * PAGE, -(-(address % PAGE + size) // PAGE) * PAGE)
        for _, address, size, _ in loads
    )
    head = bytes(elf_page(loads))
    return head + memory[PAGE:]


def test_linux_elfs(tmp_path: Path) -> None:
    """The parts of a library lie at its addresses, not one behind the other, and belong to the process named."""
    (tmp_path / f"pid.12.bash.0x{BASE:x}.dmp").write_bytes(loaded())
    (tmp_path / "pid.12.bash.0x400000.dmp").write_bytes(loaded(base=0x400000))
    with memcarve.open(tmp_path) as container:
        process = container.process()
        assert (process.pid, process.name, process.platform.system) == (12, "bash", "linux")
        assert [(each.start, each.size) for each in process.segments()] == [
            (0x400000, 2 * PAGE),
            (0x405000, PAGE),
            (BASE, 2 * PAGE),
            (BASE + 0x5000, PAGE),
        ]
        assert process.space.read(BASE, 4) == b"\x7fELF"
        for start in (BASE + PAGE, BASE + 0x5000, 0x401000, 0x405000):
            assert process.space.read(start, PAGE) == content(start, PAGE)
        assert any("linux.elfs --dump writes zeros" in note for note in process.notes)


def test_files_of_which_none_fits(tmp_path: Path) -> None:
    """If files are named by addresses and none holds what its name says, one is named with the reason."""
    (tmp_path / "pid.12.bash.0x400000.dmp").write_bytes(content(1, PAGE))
    with pytest.raises(
        InputError, match=r"none can be read: pid\.12\.bash\.0x400000\.dmp is named by addresses, but no"
    ):
        memcarve.open(tmp_path)


def test_linux_elfs_of_one_place(tmp_path: Path) -> None:
    """What two of its files hold, because a header was mapped twice, is taken once and accounted for."""
    (tmp_path / f"pid.12.bash.0x{BASE:x}.dmp").write_bytes(loaded())
    (tmp_path / f"pid.12.bash.0x{BASE + PAGE:x}.dmp").write_bytes(loaded(base=BASE + PAGE))
    with memcarve.open(tmp_path) as container:
        process = container.process()
        assert [(each.start, each.size) for each in process.segments()] == [(BASE, 3 * PAGE), (BASE + 0x5000, 2 * PAGE)]
        assert process.left_out == {"of addresses that another of the files holds": PAGE}
        assert process.input_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) == 5 * PAGE + PAGE


@pytest.mark.parametrize("data", [b"x" * PAGE, loaded() + b"x", loaded()[:-PAGE], b"", b"\x7fELF"])
def test_linux_elfs_that_do_not_add_up(tmp_path: Path, capfdbinary: Capture, data: bytes) -> None:
    """A file whose header does not say where all of its bytes belong is left out, and told by name."""
    (tmp_path / "pid.12.bash.0x400000.dmp").write_bytes(loaded(base=0x400000))
    (tmp_path / "pid.12.bash.0x500000.dmp").write_bytes(data)
    ran = invoke(capfdbinary, "segments", tmp_path)
    assert ran.code == 0
    assert "500000" not in ran.out.decode()
    assert f"1 other file of {len(data)} bytes" in ran.err
    if data:
        assert "pid.12.bash.0x500000.dmp" in ran.err


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[31m_0x400000-0x401000.bin", "-rf 0x400000-0x401000", "\u202e_0x400000-0x401000.bin",
        "a\n.1.0x400000-0x400fff-rwx.dmp", "%s.1.0x400000-0x400fff.dmp",
    ],
)  # fmt: skip
def test_hostile_names(tmp_path: Path, capfdbinary: Capture, name: str) -> None:
    """Whatever stands beside the addresses does no harm at a terminal."""
    put(tmp_path / "folder", name, 0x400000, PAGE)
    ran = invoke(capfdbinary, "segments", tmp_path / "folder", "-v")
    assert ran.code == 0, ran.err
    assert b"0x0000000000400000" in ran.out
    assert "\x1b" not in ran.err + ran.out.decode()
    assert "\u202e" not in ran.err + ran.out.decode()
