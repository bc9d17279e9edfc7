"""A bare folder opens by the names of its files, and one whose names do not fit what lies there does not."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

import listings
import memcarve
import sinking
from carved import binaries, manifest
from cli import invoke
from files import EXAMPLE
from memcarve.errors import AddressError, InputError, NotRecognisedError, OverlapError, SourceReadError, UsageError
from memcarve.sources.folder import named_by_address
from memcarve.sources.opening import OpenOptions
from memcarve.sources.recognised import NAMED
from memory import PAGE, content, noise
from opening import opened_as

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memcarve.process import ProcessMemory
    from memcarve.sources.folder.named_by_address import NamedContainer

    Capture = pytest.CaptureFixture[bytes]

TOP = 1 << 64


def put(folder: Path, *names: str) -> Path:
    """Write files of these names, whose bytes say where they are; vad, task and inclusive mean an inclusive end."""
    folder.mkdir(exist_ok=True)
    for name in names:
        start, end = (int(word, 16) for word in re.findall(r"0[xX]([0-9a-fA-F]+)", name)[-2:])
        inside = ".vad." in name or name.startswith("task.") or "inclusive" in name
        (folder / name).write_bytes(content(start, end - start + inside))
    return folder


def opened(path: str | Path) -> NamedContainer:
    """Open a folder as the registry of sources does."""
    return opened_as(NAMED, path)


def stretches(process: ProcessMemory) -> list[tuple[int, int]]:
    """Return start and end of each segment, whose bytes are held against what they must be."""
    for segment in process.segments():
        assert process.space.read(segment.start, segment.size) == content(segment.start, segment.size)
    return [(segment.start, segment.end) for segment in process.segments()]


# what names say

NAMES: dict[str, tuple[Sequence[str], list[tuple[int, int]], int | None, str | None]] = {
    "plain": (["0x1000-0x3000.bin", "0x8000-0x9000.dat"], [(0x1000, 0x3000), (0x8000, 0x9000)], None, None),
    "any ending": (["0X1000-0X2000", "0x2000-0x3000.a.b-c.d", "0x3000-0x4000."], [(0x1000, 0x4000)], None, None),
    "inclusive": (["0x1000-0x1fff.inclusive", "0x2000-0x3000.x"], [(0x1000, 0x3000)], None, None),
    "memcarve's": (
        ["0x0000000000001000-0x0000000000002000.bin", "0xfffffffffffff000-0x10000000000000000.rw-.x.bin"],
        [(0x1000, 0x2000), (TOP - 0x1000, TOP)],
        None,
        None,
    ),
    "the top, inclusive": (["0xfffffffffffff000-0xffffffffffffffff.inclusive"], [(TOP - 0x1000, TOP)], None, None),
    "address 0": (["0x0-0x1000.bin"], [(0, 0x1000)], None, None),
    "vadinfo": (
        ["pid.6988.vad.0x30000-0x3ffff.dmp", "pid.6988.vad.0x20000-0x20fff-1.dmp"],
        [(0x20000, 0x21000), (0x30000, 0x40000)],
        6988,
        None,
    ),
    "linux.proc.Maps": (["pid.1.vma.0x400000-0x409000.dmp"], [(0x400000, 0x409000)], 1, None),
    "pid 0": (["pid.0.vma.0x400000-0x409000.dmp"], [(0x400000, 0x409000)], 0, None),
    "vaddump": (["task.exe.1f2e3d40.0x00010000-0x0001ffff.dmp"], [(0x10000, 0x20000)], None, "task.exe"),
    "odd sizes": (["0x1001-0x1004.bin", "0x1004-0x2003.bin"], [(0x1001, 0x2003)], None, None),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names(tmp_path: Path, kind: str) -> None:
    """Every kind of name is read, its end as the file's length says; neighbours become one segment."""
    names, expected, pid, name = NAMES[kind]
    with opened(put(tmp_path / "folder", *names)) as container:
        (entry,) = container.processes()
        assert (entry.pid, entry.name) == (pid, name)
        process = container.process()
        assert stretches(process) == expected
        size = sum(end - start for start, end in expected)
        assert (process.input_bytes, process.left_out, process.incomplete) == (size, {}, False)
        assert process.inputs == {"folder": {"path": str(tmp_path / "folder"), "size": size, "files": len(names)}}


def test_systems(tmp_path: Path) -> None:
    """Names tell which system a process ran on where only one has such; files of whole regions may hold padding."""
    rows = {"pid.4.vad.0x1000-0x1fff.dmp": "windows", "pid.5.vma.0x1000-0x2000.dmp": "linux", "0x1000-0x2000": None}
    with opened(put(tmp_path / "folder", *rows)) as container:
        assert [entry.pid for entry in container.processes()] == [4, 5, None]
        processes = [container.process(index=index) for index in range(3)]
        assert [process.platform.system for process in processes] == list(rows.values())
        assert [any("zeros" in note for note in process.notes) for process in processes] == [True, True, False]


def test_regions(tmp_path: Path) -> None:
    """Files of whole regions tell where these begin and end; other files tell no regions."""
    names = ["pid.4.vad.0x1000-0x1fff.dmp", "pid.4.vad.0x2000-0x2fff.dmp"]
    with opened(put(tmp_path / "vads", *names)) as container:
        process = container.process()
        (regions,) = process.metadata.regions
        assert [(row.start, row.end, row.protection, row.kind) for row in regions] == [
            (0x1000, 0x2000, None, None),
            (0x2000, 0x3000, None, None),
        ]
        assert regions.source == "file names of windows.vadinfo --dump"
        assert not process.metadata.complete
        assert [part.start for part in process.segments(split="region")] == [0x1000, 0x2000]
    with opened(put(tmp_path / "plain", "0x1000-0x2000.bin")) as container:
        assert container.process().metadata.regions == ()


@pytest.mark.parametrize("given", ["listed", "beside", "nothing"])
def test_bytes_count_once(tmp_path: Path, capfdbinary: Capture, given: str) -> None:
    """With a table of the same regions as the files, every command counts each byte once."""
    folder = put(tmp_path / "vads", "pid.4.vad.0x10000-0x11fff.dmp", "pid.4.vad.0x20000-0x22fff.dmp")
    table = (folder if given == "beside" else tmp_path) / "pid.4.vadinfo.csv"
    rows = [listings.vad(0x10000, 0x11FFF), listings.vad(0x20000, 0x22FFF)]
    if given != "nothing":
        table.write_bytes(listings.csv(rows, list(rows[0])))
    options = ["--regions", table] if given == "listed" else []
    shown = invoke(capfdbinary, "regions", folder, *options)
    count = "2 regions" if given == "nothing" else "4 regions of 2 sources"
    assert shown.err.splitlines()[-1] == f"{count}, {5 * PAGE} bytes, of which {5 * PAGE} are there"
    first = invoke(capfdbinary, "regions", folder, *options, "--address", "0x10000")
    assert first.err.splitlines()[-1].endswith(f", {2 * PAGE} bytes, of which {2 * PAGE} are there")
    assert f"2 segments, {5 * PAGE} bytes" in invoke(capfdbinary, "segments", folder, *options).err
    assert invoke(capfdbinary, "carve", folder, *options, "-o", tmp_path / "out").code == 0
    document = manifest(tmp_path / "out")
    assert document["totals"]["bytes"] == 5 * PAGE
    assert document["totals"]["bytes"] + sum(row["bytes"] for row in document["left_out"]) == sum(
        path.stat().st_size for path in folder.iterdir()
    )


def test_what_lies_beside(tmp_path: Path) -> None:
    """What Volatility printed of the regions counts first where it lies in the folder, and is recorded."""
    folder = put(tmp_path / "folder", "pid.1624.vad.0x7ffe0000-0x7ffe0fff.dmp")
    listed = (EXAMPLE.parent / "vadinfo.txt").read_bytes()
    (folder / "pid.1624.vadinfo.txt").write_bytes(listed)
    with opened(folder) as container:
        process = container.process()
        first, second = process.metadata.regions
        assert first.source == "windows.vadinfo (pid.1624.vadinfo.txt)"
        assert len(first) > len(second) == 1
        (used,) = process.used_inputs["evidence"]
        assert used["path"] == str(folder / "pid.1624.vadinfo.txt")
        assert process.left_out == {"in files that are not named by addresses": len(listed)}


def test_several_processes(tmp_path: Path, capfdbinary: Capture) -> None:
    """Processes are told apart by number, name and place; each has its own files, and is chosen as usual."""
    names = ["pid.12.vad.0x1000-0x1fff.dmp", "pid.4.vad.0x1000-0x1fff.dmp", "pid.4.vad.0x5000-0x5fff.dmp"]
    names += ["task.exe.aa000.0x00001000-0x00001fff.dmp", "task.exe.bb000.0x00001000-0x00001fff.dmp"]
    folder = put(tmp_path / "folder", *names)
    with memcarve.open(folder) as container:
        found = [(entry.pid, entry.name) for entry in container.processes()]
        assert found == [(4, None), (12, None), (None, "task.exe.aa000"), (None, "task.exe.bb000")]
        assert stretches(container.process(4)) == [(0x1000, 0x2000), (0x5000, 0x6000)]
        assert stretches(container.process(12)) == [(0x1000, 0x2000)]
        with pytest.raises(UsageError, match="holds 4 processes"):
            container.process()
    ran = invoke(capfdbinary, "carve", folder, "--pid", "4", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert sorted(binaries(tmp_path / "out")) == [f"0x{at:016x}-0x{at + PAGE:016x}.bin" for at in (0x1000, 0x5000)]
    assert invoke(capfdbinary, "carve", folder, "--all", "-o", tmp_path / "all").code == 0
    assert len([path for path in (tmp_path / "all").iterdir() if path.is_dir()]) == 4
    assert (tmp_path / "all" / "processes.json").exists()


def test_processes_with_all_in_common(tmp_path: Path, capfdbinary: Capture) -> None:
    """Processes of one name, or one number, are called by how their files begin, so that --name reaches each."""
    names = ["task.exe.bb000.0x00001000-0x00001fff.dmp", "task.exe.aa000.0x00003000-0x00003fff.dmp"]
    names += ["pid.5.vad.0x5000-0x5fff.dmp", "pid.5.vma.0x7000-0x8000.dmp", "other.exe.cc.0x00009000-0x00009fff.dmp"]
    folder = put(tmp_path / "folder", *names)
    with memcarve.open(folder) as container:
        entries = container.processes()
        assert [(entry.pid, entry.name) for entry in entries] == [
            (5, "pid.5.vad"), (5, "pid.5.vma"), (None, "other.exe"),
            (None, "task.exe.aa000"), (None, "task.exe.bb000"),
        ]  # fmt: skip
        starts = [stretches(container.process(index=index))[0][0] for index in range(5)]
        assert starts == [0x5000, 0x7000, 0x9000, 0x3000, 0x1000]
        process = container.process(index=3)
        assert (process.pid, process.name) == (None, "task.exe")  # that is its name all the same
        assert any("choose one by name" in note and "its own folder" in note for note in process.notes)
    for start, name in zip(starts, ("pid.5.vad", "pid.5.vma", "other.exe", "*aa000", "*bb000"), strict=True):
        ran = invoke(capfdbinary, "segments", folder, "--name", name, "--format", "csv")
        assert f"0x{start:016x}" in ran.out.decode(), (name, ran.err)
    both = invoke(capfdbinary, "segments", folder, "--pid", "5", "--format", "csv").out.decode().splitlines()
    assert [line.split(",")[:2] for line in both[1:]] == [["5", "pid.5.vad"], ["5", "pid.5.vma"]]
    ran = invoke(capfdbinary, "locate", folder, "0x5000", "--pid", "5")
    assert ran.code == 2
    assert "(5 pid.5.vad, 5 pid.5.vma)" in ran.err
    assert invoke(capfdbinary, "segments", folder, "--name", "task.exe").code == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 9), st.booleans(), st.booleans()),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[0],
    )
)
def test_any_folder(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, bool, bool]]) -> None:
    """A folder is the union of its files, wherever their names end; what two of them hold is an error."""
    folder = tmp_path_factory.mktemp("any")
    held: dict[int, int] = {}
    shared = False
    for start, size, inclusive, upper in rows:
        name = f"0x{start:x}-0x{start + size - inclusive:x}.f"
        (folder / (name.upper() if upper else name)).write_bytes(bytes([start + 1]) * size)
        shared = shared or any(at in held for at in range(start, start + size))
        held.update(dict.fromkeys(range(start, start + size), start + 1))
    if shared:
        with pytest.raises(OverlapError), opened(folder) as container:
            container.process()
        return
    with opened(folder) as container:
        process = container.process()
        found = {
            address: byte
            for part in process.segments()
            for address, byte in enumerate(process.space.read(part.start, part.size), part.start)
        }
    assert found == held


@pytest.mark.parametrize(
    ("start", "bits"),
    [(0x7FFFFFFFF000, 48), (0x800000000000, 57), (0xFFFF7FFFFFFFF000, 57), (0xFFFF800000000000, 48)],
)
def test_width(tmp_path: Path, start: int, bits: int) -> None:
    """Addresses are taken as they are named, and are 57 bits wide where one of them needs that."""
    with opened(put(tmp_path / "folder", f"0x{start:x}-0x{start + PAGE:x}.bin")) as container:
        process = container.process()
        assert stretches(process) == [(start, start + PAGE)]
        assert process.address_bits == bits


# what a carve makes of it


def test_without_its_manifest(tmp_path: Path, capfdbinary: Capture) -> None:
    """A folder that memcarve carved opens without its manifest as it does with it."""
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        sinking.carve(process, tmp_path / "carved", hashes=())
        expected = [(part.start, part.size) for part in process.segments()]
    before = binaries(tmp_path / "carved")
    (tmp_path / "carved" / "segments.json").unlink()
    with memcarve.open(tmp_path / "carved") as container:
        assert [(part.start, part.size) for part in container.process().segments()] == expected
    assert invoke(capfdbinary, "carve", tmp_path / "carved", "-o", tmp_path / "again").code == 0
    assert binaries(tmp_path / "again") == before
    assert invoke(capfdbinary, "verify", tmp_path / "again", "--source", tmp_path / "carved").code == 0


def test_other_files(tmp_path: Path, capfdbinary: Capture) -> None:
    """Files of other names are left out, and so it is said and accounted for; the folder stays as it was."""
    folder = put(tmp_path / "folder", "0x1000-0x2000.bin")
    (folder / "notes.txt").write_bytes(b"x" * 123)
    (folder / "0x3000-0x4000-0x5000").write_bytes(b"y" * 4)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "0x9000-0xa000.bin").write_bytes(noise(1))
    (folder / "link").symlink_to("/etc/passwd")
    before = {entry.name: entry.stat(follow_symlinks=False).st_mtime_ns for entry in os.scandir(folder)}
    ran = invoke(capfdbinary, "carve", folder, "-o", tmp_path / "out")
    assert ran.code == 0
    assert "4 other files of 127 bytes\n" in ran.err
    document = manifest(tmp_path / "out")
    assert document["totals"]["input_bytes"] == PAGE + 127
    assert document["left_out"] == [{"reason": "in files that are not named by addresses", "segments": 0, "bytes": 127}]
    assert {entry.name: entry.stat(follow_symlinks=False).st_mtime_ns for entry in os.scandir(folder)} == before


# what is refused


def test_nothing_of_use(tmp_path: Path, capfdbinary: Capture) -> None:
    """A folder without such files is refused with what would be taken; what is no folder is another source's."""
    (tmp_path / "notes.txt").write_text("x")
    ran = invoke(capfdbinary, "segments", tmp_path)
    assert ran.code == 1
    for word in (
        "of its 1 file none",
        "segments.json",
        "an image, a dump",
        "0xSTART-0xEND",
        "pid.N.vad.",
        "pid.N.vma.",
    ):
        assert word in ran.err
    for path in (EXAMPLE, tmp_path / "nothing"):
        with pytest.raises(NotRecognisedError):
            opened(path)
    for options in (OpenOptions(trust="sum"), OpenOptions(dtb=0x1000), OpenOptions(limit=1)):
        with pytest.raises(UsageError, match=r"leave .* out"):
            opened_as(NAMED, put(tmp_path / "folder", "0x1000-0x2000"), options)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 2, 2 * PAGE])
def test_lengths_that_do_not_fit(tmp_path: Path, size: int) -> None:
    """A file of another length than its name says is refused with both lengths that would fit."""
    (tmp_path / "0x1000-0x2000.bin").write_bytes(bytes(size))
    words = rf"0x1000-0x2000\.bin: is {size} bytes long; .* 4096 .* 4097 .*give a folder without it"
    with pytest.raises(InputError, match=words):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["0x1000-0x2000.bin", "0x1000-0x1000.bin", "pid.4.vad.0x1000-0x1fff.dmp"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    """A file without a byte is refused as empty, and nobody is told to remove evidence."""
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{re.escape(name)}: is empty; .*; give a folder without it"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("0x2000-0x1000.bin", 0),
        ("0x2000-0x1fff.bin", 0),
        ("0x10000000000000000-0x10000000000000001.bin", 1),
        ("0xffffffffffffffff-0x10000000000000000.bin", 2),
        ("0xffffffffffffffff-0x10000000000000001.bin", 2),
        ("0x1000-0x1000.bin", 0),
        ("0x0-0x1ffffffffffffffff.bin", 0),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, size: int) -> None:
    """A name that ends before it begins, or beyond the address space, is refused."""
    (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(InputError, match=re.escape(name)):
        opened(tmp_path)


def test_the_last_byte(tmp_path: Path) -> None:
    """The last byte of the address space may be named by either end."""
    for name in ("0xffffffffffffffff-0xffffffffffffffff", "0xffffffffffffffff-0x10000000000000000"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"!")
        with opened(folder) as container:
            assert container.process().space.read(TOP - 1, 1) == b"!"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("0x1000-0x2000.bin"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ],
    ids=["link", "link within", "folder", "pipe"],
)
def test_no_regular_files(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """What is named by addresses and is no regular file is refused, and not followed."""
    put(tmp_path, "0x1000-0x2000.bin")
    damage(tmp_path / "0x5000-0x6000.bin")
    with pytest.raises(InputError, match=r"0x5000-0x6000\.bin: .* is not a regular file; give a folder without it"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["0x1000-0x3000.bin", "0x2000-0x4000.bin"],
        ["0x1000-0x2000.bin", "0x1000-0x2000.dmp"],
        ["0x01000-0x2000.bin", "0x1000-0x2000.bin"],
        ["pid.4.vad.0x1000-0x1fff.dmp", "pid.4.vad.0x1000-0x1fff-1.dmp"],
        ["0xffffffffffffe000-0x10000000000000000.bin", "0xfffffffffffff000-0x10000000000000000.bin"],
    ],
)
def test_overlaps(tmp_path: Path, names: list[str]) -> None:
    """Two files that hold one address are refused, and both are named."""
    put(tmp_path, *names)
    with opened(tmp_path) as container, pytest.raises(OverlapError) as caught:
        container.process()
    assert all(name in str(caught.value) for name in names)
    last = max(int(re.findall(r"0x([0-9a-f]+)", name)[0], 16) for name in names)
    assert caught.value.address == last


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of more files than anything has is refused before they are all held in memory."""
    monkeypatch.setattr(named_by_address, "_MOST", 10)
    put(tmp_path, *(f"0x{at:x}-0x{at + 1:x}.bin" for at in range(10)))
    assert len(opened(tmp_path).processes()) == 1
    (tmp_path / "one more").touch()
    with pytest.raises(InputError, match="more than 10 files"):
        opened(tmp_path)


def test_changed(tmp_path: Path) -> None:
    """A file that changes after the folder was opened is noticed when it is read, and when a carve ends."""
    put(tmp_path / "folder", "0x1000-0x2000.bin", "0x5000-0x6000.bin")
    with opened(tmp_path / "folder") as container:
        (tmp_path / "folder" / "0x5000-0x6000.bin").write_bytes(bytes(7))
        with pytest.raises(InputError, match=r"0x5000-0x6000\.bin: is 7 bytes long"):
            container.process()
    put(tmp_path / "folder", "0x5000-0x6000.bin")
    with opened(tmp_path / "folder") as container:
        process = container.process()
        os.utime(tmp_path / "folder" / "0x1000-0x2000.bin", (1, 1))
        with pytest.raises(InputError, match="was changed while it was read"):
            process.space.read(0x1000, 1)
        with pytest.raises(InputError, match="was changed while it was read"):
            sinking.carve(process, tmp_path / "out")


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder that the user may not read is refused by an error that says so."""
    put(tmp_path / "folder", "0x1000-0x2000.bin")
    if os.geteuid() != 0:
        pytest.skip("must be root to become another user")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o777 == 0o700:  # what pytest made for this user alone
            path.chmod(0o755)
    (tmp_path / "folder").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(SourceReadError, match="folder: cannot be read: Permission denied"):
            opened(tmp_path / "folder")
    finally:
        os.seteuid(0)


def test_gaps(tmp_path: Path) -> None:
    """What lies between the files is not there."""
    with opened(put(tmp_path / "folder", "0x1000-0x2000.bin", "0x5000-0x6000.bin")) as container:
        space = container.process().space
        with pytest.raises(AddressError, match="not in the map") as caught:
            space.read(0x1FFF, 2)
        assert caught.value.address == 0x2000


def test_hostile_names(tmp_path: Path, capfdbinary: Capture) -> None:
    """Names that are no text, or that would speak to a terminal, do no harm."""
    put(tmp_path / "folder", "0x1000-0x2000.bin")
    os.rename(
        tmp_path / "folder" / "0x1000-0x2000.bin", os.fsencode(tmp_path / "folder") + b"/0x1000-0x2000.\xff\x1b[31m\n"
    )
    with memcarve.open(tmp_path / "folder") as container:
        assert stretches(container.process()) == [(0x1000, 0x2000)]
    with open(os.fsencode(tmp_path / "folder") + b"/0x7000-0x8000.\xff\x1b[31m\n", "wb") as file:
        file.write(b"x")
    ran = invoke(capfdbinary, "segments", tmp_path / "folder")
    assert (ran.code, "\x1b" in ran.err, ran.err.count("\n")) == (1, False, 1)
