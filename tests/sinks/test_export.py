"""Exports as memory maps: rows, dump and text against a slow walk of the page tables, and what Volatility wrote."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import containers
import maps
import memcarve
import sinking
import walker
import winimage
from cli import invoke, run
from dumps import write_dump, write_several
from files import EXAMPLE, listing
from maps import Row
from memcarve.sinks import memmap
from memory import PAGE, canonical, noise
from mounts import tmpfs
from real import REAL, STEM, needed
from sweeps import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Read = Callable[[int, int], bytes | None]

MIB = 1 << 20
#: the other generator's processes with edge cases: they have a table of 512 equal entries in the user half
EDGES = ("edge.exe", "app.exe")
FEW = (
    winimage.Plan(388, b"smss.exe"),
    winimage.Plan(1624, b"explorer.exe", 388, winimage.MIXED),
    winimage.Plan(2860, b"gone.exe", 1624, exited=True),
)
HALVES = ("user", "kernel", "all")
#: by the name of a format: who else writes it, and the ending of the file
FORMATS: dict[str, tuple[Callable[..., bytes], str]] = {
    "quick": (maps.quick, "map"),
    "csv": (maps.csv, "csv"),
    "json": (maps.json_array, "json"),
    "jsonl": (maps.json_lines, "jsonl"),
}
#: memcarve's modes: the walker's names of them, bits of an address, levels, bytes and number of entries in the root
MODES = {
    "x64": ("x86-64", 48, 4, 8, 512),
    "x64-5": ("x86-64-5", 57, 5, 8, 512),
    "pae": ("pae", 32, 3, 8, 4),
    "x86": ("x86", 32, 2, 4, 1024),
}
BANNER = b"Volatility 3 Framework "


class Piece(NamedTuple):
    """A stretch that is contiguous in virtual and in physical memory; its address has all its bits."""

    address: int
    physical: int
    size: int


def reader(data: bytes, holes: Iterable[tuple[int, int]] = ()) -> Read:
    """Return what reads physical memory: None where any of it is missing."""
    holes = tuple(holes)

    def read(physical: int, size: int) -> bytes | None:
        inside = physical + size <= len(data)
        if not inside or any(physical < start + gone and start < physical + size for start, gone in holes):
            return None
        return data[physical : physical + size]

    return read


def joined(pages: Iterable[tuple[int, int, int]], bits: int) -> list[Piece]:
    """Join pieces (address, physical, size), in order, where both addresses go on; of the very last, leave out a byte.

    Addresses are counted without those of their bits that only repeat the highest.
    """
    pieces: list[Piece] = []
    for address, physical, size in pages:
        if pieces:
            last = pieces[-1]
            follows = (last.address + last.size) % (1 << bits) == address % (1 << bits)
            if follows and last.physical + last.size == physical:
                pieces[-1] = last._replace(size=last.size + size)
                continue
        pieces.append(Piece(address, physical, size))
    if pieces and (pieces[-1].address + pieces[-1].size) % (1 << bits) == 0:
        pieces[-1] = pieces[-1]._replace(size=pieces[-1].size - 1)
    return pieces


def walked(read: Read, root: int, name: str, system: str, half: str, *, end: int) -> list[Piece]:
    """Return the pieces of an address space, or of one half of it, from the slow walker."""
    mode, bits, *_ = MODES[name]
    kernel = 1 << 63 if bits > 32 else 0xC0000000 if system == "linux" else 0x80000000
    pages = []
    for address, size, physical, *_ in walker.walk(read, root, mode, system, top=end - 1):
        if half != "all" and (half == "kernel") is not (address >= kernel):
            continue
        for at in range(0, size, PAGE):
            if physical + at >= end:
                break
            if read(physical + at, PAGE) is not None:
                pages.append((address + at, physical + at, PAGE))
    return joined(pages, bits)


def rows_of(pieces: Sequence[Piece], file: str, bits: int = 48) -> list[Row]:
    """Return the rows that are printed for pieces."""
    rows, offset = [], 0
    for piece in pieces:
        rows.append(Row(piece.address % (1 << bits), piece.size, offset, file, piece.physical))
        offset += piece.size
    return rows


def bytes_of(data: bytes, pieces: Iterable[Piece]) -> bytes:
    """Return the dump of pieces."""
    return b"".join(data[piece.physical : piece.physical + piece.size] for piece in pieces)


def unbannered(text: bytes) -> bytes:
    """Return a text of ``quick`` without its first line, which says who wrote it."""
    first, rest = text.split(b"\n", 1)
    assert first.startswith(BANNER)
    return rest


def assert_map(path: Path, rows: Sequence[Row], renderer: str = "quick") -> None:
    """Hold a map against another's text of the same rows, byte for byte."""
    text, expected = path.read_bytes(), FORMATS[renderer][0](rows)
    if renderer == "quick":
        assert b"memcarve" in text.split(b"\n", 1)[0]
        text, expected = unbannered(text), unbannered(expected)
    assert text == expected


def assert_exported(folder: Path, stem: str, data: bytes, pieces: Sequence[Piece], bits: int = 48) -> None:
    """Hold a map and its dump against pieces of an image."""
    assert_map(folder / f"{stem}.map", rows_of(pieces, f"{stem}.dmp", bits))
    assert (folder / f"{stem}.dmp").read_bytes() == bytes_of(data, pieces)


def pieces_of(truth: Truth, data: bytes, pid: int, half: str = "all", holes: Sequence[Any] = ()) -> list[Piece]:
    """Return the pieces of a process of an image; nothing where it has ended."""
    process = truth.process(pid)
    if process.exit:
        return []
    return walked(reader(data, holes), process.root, "x64", "windows", half, end=truth.size)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with all the edge cases."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image with few processes, and the last page of the address space mapped."""
    return winimage.build(tmp_path_factory.mktemp("few") / "mem.raw", processes=FEW, top_page=True)


@pytest.fixture(scope="module")
def few_bytes(few: Truth) -> bytes:
    """Return the bytes of that image."""
    with open(few.path, "rb") as file:
        return file.read()


# rows and bytes


@pytest.mark.parametrize("half", HALVES)
def test_every_process(usual: Truth, tmp_path: Path, capfdbinary: Capture, half: str) -> None:
    """Rows and dump of every process are those of a slow walk, in either half and in both."""
    with open(usual.path, "rb") as file:
        data = file.read()
    ran = invoke(
        capfdbinary, "export", usual.path, "--to", "memmap", "--all", "-o", tmp_path / "out", "--range", half, "-q"
    )
    assert ran.out == b""
    # edges.exe lacks pages in the user half
    assert ran.code in ({0, 3} if half == "kernel" else {3})
    assert len(listing(tmp_path / "out")) == 2 * len(usual.processes) + 2
    for process in usual.processes:
        assert_exported(tmp_path / "out", f"pid.{process.pid}", data, pieces_of(usual, data, process.pid, half))


def test_library(few: Truth, few_bytes: bytes, tmp_path: Path) -> None:
    """The library takes both halves where nobody says, makes the folder, and returns what it wrote."""
    pieces = pieces_of(few, few_bytes, 1624)
    seen: list[tuple[int, int]] = []
    with memcarve.open(few.path) as container:
        process = container.process(1624)
        result = sinking.export_memmap(process, tmp_path / "a" / "b", progress=lambda *both: seen.append(both))
    assert_exported(tmp_path / "a" / "b", "pid.1624", few_bytes, pieces)
    total = sum(piece.size for piece in pieces)
    assert result.files == tuple(str(tmp_path / "a" / "b" / f"pid.1624.{end}") for end in ("map", "dmp"))
    assert (result.count, result.bytes, result.complete) == (len(pieces), total, True)
    assert sum(result.moved.values()) == total
    assert seen[-1] == (total, total)
    assert all(done <= total for done, _ in seen)


@pytest.mark.parametrize("renderer", FORMATS)
@pytest.mark.parametrize("pid", [1624, 2860])
def test_renderers(few: Truth, few_bytes: bytes, tmp_path: Path, capfdbinary: Capture, renderer: str, pid: int) -> None:
    """Each format is what another writer makes of the same rows, byte for byte; also of no rows at all."""
    pieces = pieces_of(few, few_bytes, pid)
    words = ["export", few.path, "--to", "memmap", "--pid", str(pid), "-o", tmp_path, "--format", renderer]
    assert invoke(capfdbinary, *words).code == 0
    ending = FORMATS[renderer][1]
    assert listing(tmp_path) == sorted([f"pid.{pid}.dmp", f"pid.{pid}.{ending}"])
    assert_map(tmp_path / f"pid.{pid}.{ending}", rows_of(pieces, f"pid.{pid}.dmp"), renderer)
    assert (tmp_path / f"pid.{pid}.dmp").read_bytes() == bytes_of(few_bytes, pieces)


def tables(rng: random.Random, name: str, pages: int = 96) -> bytes:
    """Return physical memory with page tables at random, root in page 1, so that many pages follow each other."""
    _, _, levels, width, top = MODES[name]
    data = bytearray(noise(rng.randrange(1 << 30), pages * PAGE))
    data[PAGE : 16 * PAGE] = bytes(15 * PAGE)
    for level in range(levels):
        count = top if level == 0 else PAGE // width
        for table in range(1 + 3 * level, 2 + 3 * level if level == 0 else 4 + 3 * level):
            for _ in range(2 if level < levels - 1 else 12):
                at = rng.choice([0, 1, count // 2 - 1, count // 2, count - 1, rng.randrange(count)])
                run, frame = rng.randrange(1, 5), rng.randrange(20, pages + 2)
                for index in range(at, min(at + run, count)):
                    if level < levels - 1:
                        large = rng.random() < 0.1 and width == 8 and level == levels - 2
                        entry = 0xE7 if large else (3 * (level + 1) + rng.randrange(1, 4)) << 12 | 1
                    else:
                        entry = (frame + index - at) << 12 | rng.choice([0x1, 0x67, 0x67, 0x800, 0xC00, 0x100, 0])
                    data[table * PAGE + index * width : table * PAGE + (index + 1) * width] = entry.to_bytes(
                        width, "little"
                    )
    return bytes(data)


@pytest.mark.parametrize("system", walker.SYSTEMS)
@pytest.mark.parametrize("name", MODES)
def test_modes(tmp_path: Path, name: str, system: str) -> None:
    """In all modes addresses are cut to the mode's width, and rows, halves and dump are those of a slow walk."""
    bits, found = MODES[name][1], 0
    for seed in range(6 if LONG else 2):
        data = tables(random.Random(seed), name)  # noqa: S311 - test data
        path = tmp_path / "mem.raw"
        path.write_bytes(data)
        with memcarve.open(path, dtb=PAGE, paging=name, system=system, limit=1 << 50) as container:
            for half in HALVES:
                pieces = walked(reader(data), PAGE, name, system, half, end=len(data))
                result = sinking.export_memmap(container.process(), tmp_path / "out", half=half, force=True)
                assert result.count == len(pieces)
                assert_exported(tmp_path / "out", "dtb.0x1000", data, pieces, bits)
                found += len(pieces)
    assert found > (100 if LONG else 30)


def test_containers(usual: Truth, tmp_path: Path) -> None:
    """LiME and AVML images with holes give rows of physical addresses, and the same bytes; large pages are split."""
    with open(usual.path, "rb") as file:
        data = file.read()
    ranges = [(start, containers.Slice(usual.path, start, size)) for start, size in usual.ranges()]
    assert len(ranges) == 3
    pieces = pieces_of(usual, data, 2448, holes=usual.holes)
    for name, write in (("lime", containers.write_lime), ("avml", containers.write_avml)):
        with memcarve.open(write(tmp_path / f"mem.{name}", ranges)) as container:
            sinking.export_memmap(container.process(2448), tmp_path / name)
        assert_exported(tmp_path / name, "pid.2448", data, pieces)


def test_dump_as_source(tmp_path: Path) -> None:
    """Of a dump, the column of physical addresses holds the offset in it; rows that go on in both are joined."""
    rows = [
        (0x10000, noise(1, 3 * PAGE)), (0x13000, noise(2)), (0x20000, noise(3)), (0xF80000000000, noise(4)),
        (0x15000, noise(5)), (0x14000, noise(6, 100)), (0x7FFFFFFFF000, noise(7)), (0x800000000000, noise(8)),
    ]  # fmt: skip
    source = write_dump(tmp_path, rows)
    data, offset, pages = source.read_bytes(), 0, []
    for address, content in rows:
        pages.append((canonical(address), offset, len(content)))
        offset += len(content)
    pieces = joined(sorted(pages), 48)
    with memcarve.open(source) as container:
        sinking.export_memmap(container.process(), tmp_path / "out")
        user = sinking.export_memmap(container.process(), tmp_path / "user", half="user")
    assert_exported(tmp_path / "out", "pid.4", data, pieces)
    below = joined([page for page in sorted(pages) if page[0] < 1 << 47], 48)
    assert_exported(tmp_path / "user", "pid.4", data, below)
    assert user.left_out == [memcarve.LeftOut("outside --range user", 2, 2 * PAGE)]


def test_reopened(few: Truth, tmp_path: Path) -> None:
    """What was exported opens as the process with the same segments and bytes; exported again it is the same."""
    with memcarve.open(few.path) as container:
        process = container.process(1624)
        sinking.export_memmap(process, tmp_path / "one")
        segments = [(one.start, one.size) for one in process.segments(memcarve.Selection("all"))]
        segments[-1] = (segments[-1][0], segments[-1][1] - 1)
        with memcarve.open(tmp_path / "one" / "pid.1624.dmp") as again:
            other = again.process(1624)
            assert [(one.start, one.size) for one in other.segments()] == segments
            for start, size in segments:
                assert other.space.read(start, size) == process.space.read(start, size)
            sinking.export_memmap(other, tmp_path / "two")
    assert (tmp_path / "two" / "pid.1624.dmp").read_bytes() == (tmp_path / "one" / "pid.1624.dmp").read_bytes()


def segments_of(process: memcarve.ProcessMemory) -> list[tuple[int, int, bytes]]:
    """Return all segments with their bytes, without the last byte of the address space."""
    top, found = 1 << (64 if process.address_bits > 32 else 32), []
    for one in process.segments(memcarve.Selection("all")):
        size = one.size - (one.end == top)
        found.append((one.start, size, process.space.read(one.start, size)))
    return found


@pytest.mark.parametrize("name", MODES)
def test_reopened_modes(tmp_path: Path, name: str) -> None:
    """In all modes, what was exported has the same segments and bytes; and what is exported from that, too."""
    path, data = tmp_path / "mem.raw", tables(random.Random(3), name)  # noqa: S311 - test data
    path.write_bytes(data)
    with memcarve.open(path, dtb=PAGE, paging=name, system="none", limit=1 << 50) as container:
        process = container.process()
        expected = segments_of(process)
        kernel = sum(start >= (1 << 63 if MODES[name][1] > 32 else 1 << 31) for start, _, _ in expected)
        assert 0 < kernel < len(expected)
        sinking.export_memmap(process, tmp_path / "one", stem="pid.4")
    for source, target in (("one", "two"), ("two", "three")):
        with memcarve.open(tmp_path / source / "pid.4.dmp") as container:
            assert segments_of(container.process()) == expected
            sinking.export_memmap(container.process(), tmp_path / target)


def test_last_page(few: Truth, few_bytes: bytes, tmp_path: Path, capfdbinary: Capture) -> None:
    """The last page of the address space is a row of 0xfff bytes, the dump lacks its last byte, and that is said."""
    ran = invoke(capfdbinary, "export", few.path, "--to", "memmap", "--pid", "388", "-o", tmp_path, "--range", "kernel")
    assert ran.code == 0
    assert "left out: 1 byte: the last byte of the address space" in ran.err
    pieces = pieces_of(few, few_bytes, 388, "kernel")
    assert_exported(tmp_path, "pid.388", few_bytes, pieces)
    last = (tmp_path / "pid.388.map").read_text().splitlines()[-1].split("\t")
    assert (last[0], last[2]) == ("0xfffffffff000", "0xfff")
    assert sum(piece.size for piece in pieces) % PAGE == PAGE - 1
    ran = invoke(
        capfdbinary, "export", few.path, "--to", "memmap", "--pid", "388", "-o", tmp_path / "u", "--range=user"
    )
    assert "last byte" not in ran.err


def test_nothing_mapped(few: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """A process of which nothing is mapped comes to a map without rows and an empty dump, and a note says why."""
    ran = invoke(capfdbinary, "export", few.path, "--to", "memmap", "--pid", "2860", "-o", tmp_path)
    assert ran.code == 0
    assert "has ended" in ran.err
    assert_exported(tmp_path, "pid.2860", b"", [])


# names


def test_dtb_names(few: Truth, few_bytes: bytes, tmp_path: Path, capfdbinary: Capture) -> None:
    """Without a number, files are called after the root without its flags; the library takes another name."""
    process = few.process(1624)
    ran = invoke(
        capfdbinary, "export", few.path, "--to", "memmap", "--dtb", hex(process.root | 7), "-o", tmp_path, "-q"
    )
    assert (ran.code, ran.err) == (0, "")
    stem = f"dtb.0x{process.root:x}"
    assert listing(tmp_path) == [f"{stem}.dmp", f"{stem}.map"]
    assert_exported(tmp_path, stem, few_bytes, pieces_of(few, few_bytes, 1624))
    with memcarve.open(few.path, dtb=process.root) as container:
        sinking.export_memmap(container.process(), tmp_path, stem="other")
    assert_exported(tmp_path, "other", few_bytes, pieces_of(few, few_bytes, 1624))


def test_one_number_twice(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of processes with the same number, all are exported; the second is called pid.N-1, in its rows, too."""
    plans = [winimage.Plan(1624, name, memory=(winimage.Run(pages),)) for pages, name in ((30, b"a"), (20, b"b"))]
    truth = winimage.build(tmp_path / "mem.raw", megabytes=20, processes=plans)
    data = (tmp_path / "mem.raw").read_bytes()
    out = tmp_path / "out"
    assert invoke(capfdbinary, "export", truth.path, "--to", "memmap", "--pid", "1624", "-o", out, "-q").code == 0
    assert listing(out) == [
        "SHA256SUMS",
        *("pid.1624-1.dmp", "pid.1624-1.map", "pid.1624.dmp", "pid.1624.map"),
        "processes.json",
    ]
    both = [process for process in truth.processes if process.pid == 1624]
    for process, stem in zip(both, ("pid.1624", "pid.1624-1"), strict=True):
        pieces = walked(reader(data), process.root, "x64", "windows", "all", end=truth.size)
        assert_exported(out, stem, data, pieces)


def test_default_folder(tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files go into the current folder where nobody says, and nothing goes to standard output."""
    monkeypatch.chdir(tmp_path)
    ran = invoke(capfdbinary, "export", EXAMPLE, "--to", "memmap")
    assert (ran.code, ran.out) == (0, b"")
    assert listing(tmp_path) == ["pid.1624.dmp", "pid.1624.map"]
    assert (tmp_path / "pid.1624.dmp").stat().st_mode & 0o777 == 0o600 or os.name == "nt"


# what is there already


@pytest.mark.parametrize("ending", ["map", "dmp"])
@pytest.mark.parametrize("force", [False, True])
def test_existing_files_of_others(tmp_path: Path, few: Truth, ending: str, *, force: bool) -> None:
    """What memcarve did not write stays, with and without --force, and the message names it."""
    there = tmp_path / f"pid.388.{ending}"
    there.write_bytes(maps.quick([]) if ending == "map" else b"precious")
    before = there.read_bytes()
    with memcarve.open(few.path) as container, pytest.raises(memcarve.TargetExistsError) as caught:
        sinking.export_memmap(container.process(388), tmp_path, force=force)
    assert str(caught.value).startswith(f"{there}: exists")
    assert "replaces it" not in str(caught.value)
    assert listing(tmp_path) == [there.name]
    assert there.read_bytes() == before


def test_a_new_folder_is_private(tmp_path: Path, few: Truth) -> None:
    """A folder that is made for the map and the dump can be entered by its owner alone."""
    with memcarve.open(few.path) as container:
        sinking.export_memmap(container.process(388), tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700 or os.name == "nt"


def test_dangling_link(tmp_path: Path, few: Truth) -> None:
    """A symbolic link that leads nowhere is something that exists."""
    (tmp_path / "pid.388.dmp").symlink_to("nowhere")
    with memcarve.open(few.path) as container, pytest.raises(memcarve.TargetExistsError):
        sinking.export_memmap(container.process(388), tmp_path)
    assert listing(tmp_path) == ["pid.388.dmp"]


def test_force(tmp_path: Path, few: Truth, few_bytes: bytes, capfdbinary: Capture) -> None:
    """A pair that memcarve wrote is refused, and replaced with --force."""
    words = ["export", few.path, "--to", "memmap", "--pid", "388", "-o", tmp_path, "-q"]
    assert invoke(capfdbinary, *words).code == 0
    ran = invoke(capfdbinary, *words, "--range", "user")
    assert ran.code == 1
    assert ran.err.startswith("memcarve: ")
    assert "pid.388.dmp: exists" in ran.err
    assert_exported(tmp_path, "pid.388", few_bytes, pieces_of(few, few_bytes, 388))
    assert invoke(capfdbinary, *words, "--range", "user", "--force").code == 0
    assert_exported(tmp_path, "pid.388", few_bytes, pieces_of(few, few_bytes, 388, "user"))
    assert len(listing(tmp_path)) == 2


def test_force_cannot_tell(tmp_path: Path, few: Truth) -> None:
    """A format that does not say who wrote it is never replaced."""
    with memcarve.open(few.path) as container:
        process = container.process(388)
        sinking.export_memmap(process, tmp_path, renderer="csv", half="user")
        with pytest.raises(memcarve.TargetExistsError, match="does not say that memcarve wrote it"):
            sinking.export_memmap(process, tmp_path, renderer="csv", half="user", force=True)


def test_one_refused_of_all(tmp_path: Path, capfdbinary: Capture) -> None:
    """With --all, a process that cannot be exported is complained of, the others are, and the status is 3."""
    table = write_several(tmp_path, {4: [(0x1000, noise(1))], 8: [(0x1000, noise(2))], 12: [(0x1000, noise(3))]})
    (tmp_path / "pid.8.dmp").unlink()
    ran = invoke(capfdbinary, "export", table, "--to", "memmap", "--all", "-o", tmp_path / "out", "-q")
    assert ran.code == 3
    assert ran.err.count("\n") == 1
    assert "8: " in ran.err
    assert listing(tmp_path / "out") == [
        "SHA256SUMS",
        *(f"pid.{pid}.{end}" for pid in (12, 4) for end in ("dmp", "map")),
        "processes.json",
    ]
    found = json.loads((tmp_path / "out" / "processes.json").read_text())
    assert [(row["pid"], row["files"], row["error"] is None) for row in found["processes"]] == [
        (4, ["pid.4.map", "pid.4.dmp"], True),
        (8, [], False),
        (12, ["pid.12.map", "pid.12.dmp"], True),
    ]


@pytest.mark.parametrize("kind", ["minidump", "elfcore", "flat", "scripts", "memmap"])
def test_several_are_replaced(tmp_path: Path, capfdbinary: Capture, kind: str) -> None:
    """With --force the files of several processes are replaced by others, if all of them are memcarve's."""
    table = write_several(tmp_path, {4: [(0x1000, noise(1))], 8: [(0x1000, noise(2))]})
    words = ("export", table, "--to", kind, "--all", "-o", tmp_path / "out", "-q", "--force")
    assert [invoke(capfdbinary, *words).code for _ in range(2)] == [0, 0]
    names = listing(tmp_path / "out")
    (tmp_path / "out" / "pid.4.dmp").write_text("mine")
    ran = invoke(capfdbinary, *words)
    if kind == "memmap":  # such a dump cannot say whose it is; its map says so
        (tmp_path / "out" / "pid.4.map").write_text("mine")
        ran = invoke(capfdbinary, *words)
    assert (ran.code, "which memcarve did not write" in ran.err) == (1, True)
    assert listing(tmp_path / "out") == sorted({*names, "pid.4.dmp"})


def test_several_into_a_folder_of_others(tmp_path: Path, few: Truth, capfdbinary: Capture) -> None:
    """Several processes are not exported into a folder that is there, with --force neither if it is somebody else's."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pid.388.map").write_text("mine")
    for force in ([], ["--force"]):
        ran = invoke(capfdbinary, "export", few.path, "--to", "memmap", "--all", "-o", tmp_path / "out", "-q", *force)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert listing(tmp_path / "out") == ["pid.388.map"]


@pytest.mark.parametrize("name", ["renderer", pytest.param("half")])
def test_unknown_words(tmp_path: Path, few: Truth, name: str) -> None:
    """A format or a half that is none is refused by the library."""
    options: dict[str, Any] = {name: "most"}
    with memcarve.open(few.path) as container, pytest.raises(memcarve.UsageError):
        sinking.export_memmap(container.process(388), tmp_path, **options)
    assert listing(tmp_path) == []


def test_folder_that_is_none(tmp_path: Path, few: Truth, capfdbinary: Capture) -> None:
    """A file in the place of the folder is an error of one line that says what to do."""
    (tmp_path / "file").touch()
    ran = invoke(capfdbinary, "export", few.path, "--to", "memmap", "--pid", "388", "-o", tmp_path / "file", "-q")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert f"{tmp_path}/file: cannot be written to" in ran.err


def test_folder_in_the_place_of_the_dump(tmp_path: Path, few: Truth) -> None:
    """A folder that is called like the dump is refused, also with --force beside a map of memcarve's."""
    with memcarve.open(few.path) as container:
        process = container.process(388)
        sinking.export_memmap(process, tmp_path)
        (tmp_path / "pid.388.dmp").unlink()
        (tmp_path / "pid.388.dmp").mkdir()
        with pytest.raises(memcarve.OutputError):
            sinking.export_memmap(process, tmp_path, force=True)
    assert listing(tmp_path) == ["pid.388.dmp", "pid.388.map"]


# failures


def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every file system say that there is room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1 << 60))


@pytest.mark.parametrize("told", [True, False])
def test_too_little_room(
    tmp_path: Path, few: Truth, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """Too little room is an error of one line, before or while the dump is written; what fits and is whole stays."""
    if not told:
        endless(monkeypatch)
    with tmpfs(tmp_path, "size=1m") as where:
        ran = invoke(capfdbinary, "export", few.path, "--to", "memmap", "--all", "-o", where / "out", "-q")
        assert listing(where) == (["out"] if told else [])
        if told:
            assert listing(where / "out") == ["pid.2860.dmp", "pid.2860.map", "processes.json.partial"]
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert f"{where}" in ran.err
    assert ("needs" in ran.err) is told


@pytest.mark.parametrize("pid", [388, 1624])
def test_no_room_for_the_map(
    tmp_path: Path, few: Truth, few_bytes: bytes, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """A disk with room for the dump and none for the map, large or small, is a NoSpaceError, and nothing stays."""
    endless(monkeypatch)
    size = sum(piece.size for piece in pieces_of(few, few_bytes, pid, "user"))
    with memcarve.open(few.path) as container, tmpfs(tmp_path, f"size={size}") as where:
        with pytest.raises(memcarve.NoSpaceError, match="pid"):
            sinking.export_memmap(container.process(index=[4, 388, 1624].index(pid), half="user"), where)
        assert listing(where) == []


def before_export(code: str) -> str:
    """Return Python text that has something happen when an export begins."""
    lines = [
        "import os, signal, memcarve.copying.copier as c, memcarve.sinks as s",
        "true = s.SINKS['memmap']",
        "def exported(process, *arguments, **options):",
        *(f"    {line}" for line in code.splitlines()),
        "    return true(process, *arguments, **options)",
        "s.SINKS['memmap'] = exported",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("size", [5 * MIB, 5 * MIB + 123])
def test_image_cut_meanwhile(tmp_path: Path, few: Truth, size: int) -> None:
    """An image that becomes shorter while it is exported is an error that names it, no signal; nothing is left."""
    image = shutil.copyfile(few.path, tmp_path / "mem.raw")
    before = before_export(f"os.truncate({os.fspath(image)!r}, {size})")
    ran = run("export", image, "--to", "memmap", "--pid", "1624", "-o", tmp_path / "out", "-q", before=before)
    assert ran.code == 1, ran
    assert ran.err.count("\n") == 1
    assert f"{image}: " in ran.err
    assert listing(tmp_path) == ["mem.raw"]


@pytest.mark.parametrize("size", [2 * PAGE - 100, 2 * PAGE])
def test_source_changed_meanwhile(tmp_path: Path, size: int) -> None:
    """A dump that changes while it is exported, and becomes shorter or not, is an error that names it."""
    dump = write_dump(tmp_path, [(0x2000, noise(1)), (0x1000, noise(2))])
    with memcarve.open(dump) as container:
        process = container.process()
        dump.write_bytes(noise(3, size))
        with pytest.raises(memcarve.InputError, match=r"pid\.4\.dmp: "):
            sinking.export_memmap(process, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals(tmp_path: Path, few: Truth, name: str) -> None:
    """A run stopped by a signal ends with 128 and its number, and leaves nothing."""
    before = before_export(
        "copy, sent = c.Copier.copy, []\n"
        "def stopped(self, *arguments, **options):\n"
        f"    sent or sent.append(os.kill(os.getpid(), signal.{name}))\n"
        "    self.stop.wait(60)\n"
        "    raise c.StoppedError\n"
        "c.Copier.copy = stopped\n"
    )
    ran = run("export", few.path, "--to", "memmap", "--pid", "1624", "-o", tmp_path, "-q", before=before)
    assert ran.code == {"SIGINT": 130, "SIGTERM": 143}[name], ran
    assert ran.err.count("\n") == 1
    assert name in ran.err
    assert listing(tmp_path) == []


def test_second_rename_fails(tmp_path: Path, few: Truth, few_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one of the two files can be put in place, no dump stands beside a map of other rows."""
    true, calls = os.replace, []

    def replace(old: str, new: str) -> None:
        calls.append(new)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied", new)
        true(old, new)

    with memcarve.open(few.path) as container:
        sinking.export_memmap(container.process(388), tmp_path)
        monkeypatch.setattr(memmap.os, "replace", replace)
        with pytest.raises(memcarve.OutputError):
            sinking.export_memmap(container.process(388), tmp_path, half="user", force=True)
    if "pid.388.map" in listing(tmp_path):
        assert_exported(tmp_path, "pid.388", few_bytes, pieces_of(few, few_bytes, 388))


# what Volatility wrote


@pytest.mark.parametrize("renderer", FORMATS)
def test_real_process(linux_image: Path, tmp_path: Path, renderer: str) -> None:
    """Of a real machine's process, map and dump are what Volatility wrote, but for the line that says who did."""
    ending = FORMATS[renderer][1]
    expected, dump = needed(f"{STEM}.{ending}").read_bytes(), needed(f"{STEM}.dmp")
    with memcarve.open(linux_image, dtb=0x2AD0000) as container:
        process = container.process(index=0, half="user")
        sinking.export_memmap(process, tmp_path, half="user", renderer=renderer, stem="pid.114")
    text = (tmp_path / f"pid.114.{ending}").read_bytes()
    if renderer == "quick":
        text, expected = unbannered(text), unbannered(expected)
    # the other three were printed without --dump
    assert text == (expected if renderer == "quick" else expected.replace(b"Disabled", b"pid.114.dmp"))
    assert (tmp_path / "pid.114.dmp").read_bytes() == dump.read_bytes()


def test_real_process_by_command(linux_image: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """The command gives the same for the user half of the root."""
    expected, dump = needed(f"{STEM}.map").read_bytes(), needed(f"{STEM}.dmp")
    words = ["--to", "memmap", "--dtb", "0x2ad0000", "--range", "user", "-o", tmp_path]
    assert invoke(capfdbinary, "export", linux_image, *words).code == 0
    text = (tmp_path / "dtb.0x2ad0000.map").read_bytes()
    assert unbannered(text).replace(b"\tdtb.0x2ad0000.dmp\n", b"\tpid.114.dmp\n") == unbannered(expected)
    assert (tmp_path / "dtb.0x2ad0000.dmp").read_bytes() == dump.read_bytes()


@pytest.fixture(scope="module", params=["default", "small --top-page"])
def synthetic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of an image with the rows that Volatility prints for it, made by another generator."""
    generator = REAL.parent / "synthwin" / "synthwin.py"
    if not generator.is_file():
        pytest.skip(f"{generator} is missing")
    folder = tmp_path_factory.mktemp("synthwin")
    words = [sys.executable, generator, folder, "--preset", *request.param.split()]
    subprocess.run(words, check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


def recorded(synthetic: Path, pid: int) -> list[Piece]:
    """Return the rows of a process that Volatility prints."""
    with (synthetic / "rows" / f"pid.{pid}.csv").open(newline="") as file:
        rows = [tuple(int(cell, 16) for cell in row) for row in list(csv.reader(file))[1:]]
    offset = 0
    for row in rows:
        assert row[3] == offset
        offset += row[2]
    return [Piece(canonical(address), physical, size) for address, physical, size, _ in rows]


def mapped(path: Path) -> list[Piece]:
    """Return the rows of a map that memcarve wrote."""
    lines = (line.split("\t") for line in path.read_text().splitlines()[4:])
    cells = ([int(cell, 16) for cell in line[:3]] for line in lines)
    return [Piece(canonical(address), physical, size) for address, physical, size in cells]


def equal_tables(pieces: Sequence[Piece]) -> list[int]:
    """Return the addresses that tables of 512 equal entries map, if that is what all the pieces are."""
    starts = []
    for first in range(0, len(pieces), 512):
        begin = pieces[first]
        assert begin.address % (512 * PAGE) == 0
        assert list(pieces[first : first + 512]) == [
            Piece(begin.address + number * PAGE, begin.physical, PAGE) for number in range(512)
        ]
        starts.append(begin.address)
    return starts


def test_synthetic_processes(synthetic: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Rows and dumps are Volatility's, but for the tables of 512 equal entries, which it leaves out."""
    image = synthetic / "mem.raw"
    ran = invoke(capfdbinary, "export", image, "--to", "memmap", "--all", "-o", tmp_path / "out", "-q")
    assert ran.code in {0, 3}
    for process in json.loads((synthetic / "truth.json").read_text())["processes"]:
        pid = process["pid"]
        theirs, ours = recorded(synthetic, pid), mapped(tmp_path / "out" / f"pid.{pid}.map")
        known = set(theirs)
        more = [piece for piece in ours if piece not in known]
        assert [piece for piece in ours if piece in known] == theirs
        halves = [start >> 63 for start in equal_tables(more)]
        assert halves == ([] if process["exit_filetime"] else [0, 1] if process["name"] in EDGES else [1])
        digest, left, surplus = hashlib.sha256(), 0, set(more)
        with (tmp_path / "out" / f"pid.{pid}.dmp").open("rb") as dump:
            for piece in ours:
                content = dump.read(piece.size)
                if piece in surplus:
                    left += len(content)
                else:
                    digest.update(content)
            assert dump.read(1) == b""
        assert digest.hexdigest() == process["dump_sha256"]
        assert left == len(more) * PAGE


def test_synthetic_user_halves(synthetic: Path, tmp_path: Path) -> None:
    """User halves without such a table are Volatility's in every row and byte."""
    with (synthetic / "mem.raw").open("rb") as file:
        data = file.read()
    with memcarve.open(synthetic / "mem.raw") as container:
        for index, entry in enumerate(container.processes()):
            if entry.name not in EDGES:
                assert entry.pid is not None
                sinking.export_memmap(container.process(index=index, half="user"), tmp_path, half="user")
                rows = [piece for piece in recorded(synthetic, entry.pid) if piece.address < 1 << 47]
                assert_exported(tmp_path, f"pid.{entry.pid}", data, rows)
