"""Carving into a folder: what is in it, what is left out and why, and what happens to what was there before."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import memcarve
import sinking
from carved import binaries, file_name, manifest, model, named
from cli import invoke
from dumps import HEADER, dump_bytes, map_rows, write_dump, write_several
from files import EXAMPLE, listing
from memcarve.process import Selection
from memcarve.sinks import segment_writer
from memcarve.sinks.ownership import foreign
from memcarve.version import __version__
from memory import PAGE, canonical, noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumps import Piece

TRUTH = json.loads((EXAMPLE.parent / "truth.json").read_text())
ZEROS = bytes(PAGE)

#: two segments in the user half (the second of two rows), one that is zero, one in the kernel half
ROWS: list[Piece] = [
    (0x10000, noise(1)),
    (0x20000, noise(2)),
    (0x21000, noise(3, 2 * PAGE)),
    (0x40000, bytes(2 * PAGE)),
    (0xF80000000000, noise(4)),
]


def carve(dump: Path, out: Path, **options: Any) -> memcarve.Result:
    """Carve a dump through the library."""
    with memcarve.open(dump) as container:
        return sinking.carve(container.process(), out, **options)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the carved folder of the example."""
    out = tmp_path_factory.mktemp("example") / "out"
    carve(EXAMPLE, out)
    return out


# the example


def test_example_files(example: Path) -> None:
    """The files are the segments that the generator of the example knows of, by name and by content."""
    expected = {file_name(canonical(start), size): digest for start, size, _, digest in TRUTH["segments"]}
    found = {name: hashlib.sha256(data).hexdigest() for name, data in binaries(example).items()}
    assert found == expected


def test_example_is_the_whole_dump(example: Path) -> None:
    """Laid end to end in the order of their offsets, the segment files are the dump."""
    listed = sorted(manifest(example)["segments"], key=lambda segment: segment["offset"])
    joined = b"".join((example / segment["file"]).read_bytes() for segment in listed)
    assert hashlib.sha256(joined).hexdigest() == TRUTH["dump_sha256"]


def test_example_holds_nothing_else(example: Path) -> None:
    """Beside the segments there are the manifest and the checksums, and nothing else."""
    assert sorted(set(listing(example)) - set(binaries(example))) == ["SHA256SUMS", "segments.json"]


def test_example_manifest_segments(example: Path) -> None:
    """The manifest lists the segments in order with start, end, size, file, offset, extents, hash and zero flag."""
    expected = [
        {
            "start": f"0x{canonical(start):016x}",
            "end": f"0x{canonical(start) + size:016x}",
            "size": size,
            "file": file_name(canonical(start), size),
            "offset": offset,
            "extents": 1,
            "sha256": digest,
            "zero": digest == hashlib.sha256(bytes(size)).hexdigest(),
        }
        for start, size, offset, digest in sorted(TRUTH["segments"])
    ]
    assert manifest(example)["segments"] == expected


def test_example_manifest_header(example: Path) -> None:
    """The manifest begins with its schema and says which program, when, from what, and the totals."""
    with memcarve.open(EXAMPLE) as container:
        memory_map = EXAMPLE.with_suffix(".map")
        assert [str(entry) for entry in container.processes()] == ["1624"]
    found = manifest(example)
    assert next(iter(found)) == "schema"
    assert found["schema"] == 2
    assert (found["tool"], found["version"]) == ("memcarve", __version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["time"])
    assert isinstance(found["command"], list)
    assert found["inputs"]["map"]["path"] == str(memory_map)
    assert found["inputs"]["map"]["size"] == memory_map.stat().st_size
    assert found["inputs"]["map"]["format"].startswith("volatility3 quick")
    assert (found["inputs"]["dump"]["path"], found["inputs"]["dump"]["size"]) == (str(EXAMPLE), TRUTH["dump_size"])
    assert found["process"]["pid"] == TRUTH["pid"]
    assert found["totals"]["segments"] == len(TRUTH["segments"])
    assert found["totals"]["bytes"] == found["totals"]["input_bytes"] == TRUTH["dump_size"]
    assert found["totals"]["missing_bytes"] == 0
    assert (found["left_out"], found["missing"], found["complete"]) == ([], [], True)


def test_map_hash(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The command records the map's SHA-256."""
    assert invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out").code == 0
    expected = hashlib.sha256(EXAMPLE.with_suffix(".map").read_bytes()).hexdigest()
    assert manifest(tmp_path / "out")["inputs"]["map"]["sha256"] == expected


def test_sizes_and_addresses_types(example: Path) -> None:
    """In the manifest sizes and offsets are integers, addresses are strings of sixteen hexadecimal digits."""
    for segment in manifest(example)["segments"]:
        assert all(type(segment[name]) is int for name in ("size", "offset", "extents"))
        assert all(re.fullmatch(r"0x[0-9a-f]{16}", segment[name]) for name in ("start", "end"))


# checksums


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5", "blake3"])
def test_sums_are_accepted_by_their_tools(tmp_path: Path, kind: str) -> None:
    """The checksum tools accept the files of checksums, which list every file of the folder once."""
    short = kind
    if kind == "blake3":
        pytest.importorskip("blake3")
        short = "b3"
    tool = shutil.which(f"{short}sum")
    if tool is None:
        pytest.skip(f"{short}sum is not installed")
    out = tmp_path / "out"
    carve(write_dump(tmp_path, ROWS), out, hashes=[kind])
    sums = f"{short.upper()}SUMS"
    strict = [] if kind == "blake3" else ["--strict"]  # which b3sum always is
    checked = subprocess.run([tool, "-c", *strict, sums], cwd=out, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert sorted(line.split("  ")[1] for line in (out / sums).read_text().splitlines()) == sorted(
        set(listing(out)) - {sums}
    )


def test_several_hashes(tmp_path: Path) -> None:
    """Several hashes stand side by side in the manifest, and each has its file of checksums."""
    carve(write_dump(tmp_path, ROWS), tmp_path / "out", hashes=["sha256", "md5", "sha1"])
    contents = binaries(tmp_path / "out")
    for segment in manifest(tmp_path / "out")["segments"]:
        for kind in ("sha256", "md5", "sha1"):
            assert segment[kind] == hashlib.new(kind, contents[segment["file"]]).hexdigest()
    assert {"SHA256SUMS", "SHA1SUMS", "MD5SUMS"} <= set(listing(tmp_path / "out"))


def test_blake3(tmp_path: Path) -> None:
    """BLAKE3 stands in the manifest and in B3SUMS, and verify knows it."""
    blake3 = pytest.importorskip("blake3")
    out, dump = tmp_path / "out", write_dump(tmp_path, ROWS)
    carve(dump, out, hashes=["blake3", "sha256"])
    contents = binaries(out)
    for segment in manifest(out)["segments"]:
        assert segment["blake3"] == blake3.blake3(contents[segment["file"]]).hexdigest()
        assert segment["sha256"] == hashlib.sha256(contents[segment["file"]]).hexdigest()
    for line in (out / "B3SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == blake3.blake3((out / name).read_bytes()).hexdigest()
    assert len((out / "B3SUMS").read_text().splitlines()) == len(contents) + 1
    with memcarve.open(dump) as container:
        assert memcarve.verify(out, container.process()).hashes == ("blake3", "sha256")
    with (out / min(contents)).open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(memcarve.VerificationError, match="blake3"):
        memcarve.verify(out)
    carve(write_dump(tmp_path, ROWS), out, hashes=["blake3"], force=True)  # it is memcarve's, also if it was changed
    assert listing(out) == sorted([*contents, "segments.json", "B3SUMS"])


def test_no_hash(tmp_path: Path) -> None:
    """Without hashes there is no file of checksums, no hash in the manifest, and nothing is known of zeros."""
    carve(write_dump(tmp_path, ROWS), tmp_path / "out", hashes=[])
    assert not [name for name in listing(tmp_path / "out") if name.endswith("SUMS")]
    for segment in manifest(tmp_path / "out")["segments"]:
        assert not {"sha256", "sha1", "md5"} & set(segment)
        assert segment["zero"] is None
    assert binaries(tmp_path / "out") == named(model(ROWS))


def test_unknown_hash(tmp_path: Path) -> None:
    """A hash function that memcarve does not write is a usage error, and nothing is created."""
    dump = write_dump(tmp_path, ROWS)
    with pytest.raises(memcarve.UsageError, match="blake2"):
        carve(dump, tmp_path / "out", hashes=["blake2"])
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_input_hash(tmp_path: Path) -> None:
    """On request the dump's SHA-256 is recorded."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out", hash_input=True)
    assert manifest(tmp_path / "out")["inputs"]["dump"]["sha256"] == hashlib.sha256(dump.read_bytes()).hexdigest()


# zeros


@pytest.mark.parametrize("options", [{}, {"hashes": [], "sparse": True}, {"sparse": True}])
def test_zero_flag(tmp_path: Path, options: dict[str, Any]) -> None:
    """The manifest says of each segment whether it is zero throughout, wherever its bytes were read."""
    rows: list[Piece] = [
        (0x1000, ZEROS),
        (0x3000, ZEROS[:-1] + b"\1"),
        (0x5000, b"\1" + ZEROS[1:]),
        (0x7000, bytes(1 << 20)),
    ]
    carve(write_dump(tmp_path, rows), tmp_path / "out", **options)
    assert [segment["zero"] for segment in manifest(tmp_path / "out")["segments"]] == [True, False, False, True]


def test_sparse_makes_holes(tmp_path: Path) -> None:
    """With sparse, pages of zeros take no blocks, and the bytes are the same."""
    rows: list[Piece] = [
        (0x10000, bytes(64 * PAGE)),
        (0x50000, noise(1) + bytes(62 * PAGE) + noise(2)),
        (0x200000, noise(3)),
    ]
    dump = write_dump(tmp_path, rows)
    carve(dump, tmp_path / "sparse", sparse=True)
    carve(dump, tmp_path / "full", sparse=False)
    assert binaries(tmp_path / "sparse") == binaries(tmp_path / "full") == named(model(rows))
    blocks = {name: (tmp_path / "sparse" / name).stat().st_blocks * 512 for name in named(model(rows))}
    full = (tmp_path / "full" / file_name(0x10000, 128 * PAGE)).stat().st_blocks * 512
    if full < 128 * PAGE:
        pytest.skip(f"{tmp_path}: this file system does not allocate zeros in the first place")
    assert blocks[file_name(0x10000, 128 * PAGE)] <= 8 * PAGE


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, (1 << 18) - 1, (1 << 18) + PAGE])
def test_sparse_end(tmp_path: Path, size: int) -> None:
    """A sparse file that ends in zeros has its whole length."""
    content = noise(1, size) + bytes(size)
    rows: list[Piece] = [(0x10000, content)]
    carve(write_dump(tmp_path, rows), tmp_path / "out", sparse=True)
    assert binaries(tmp_path / "out") == named({0x10000: content})


def test_skip_zero(tmp_path: Path) -> None:
    """With skip-zero a segment that is zero throughout is left out and counted; one that ends in a byte is not."""
    last = bytes((1 << 20) - 1) + b"\1"
    rows: list[Piece] = [*ROWS[:4], (0x100000, last)]
    result = carve(write_dump(tmp_path, rows), tmp_path / "out", skip_zero=True)
    expected = {start: content for start, content in model(rows).items() if any(content)}
    assert binaries(tmp_path / "out") == named(expected)
    assert manifest(tmp_path / "out")["left_out"] == [{"reason": "zero throughout", "segments": 1, "bytes": 2 * PAGE}]
    assert result.complete


def test_skip_zero_can_leave_nothing(tmp_path: Path) -> None:
    """A dump of zeros alone gives a folder without segments, whose manifest accounts for every byte."""
    carve(write_dump(tmp_path, [(0x1000, ZEROS)]), tmp_path / "out", skip_zero=True)
    found = manifest(tmp_path / "out")
    assert (found["segments"], found["totals"]["bytes"]) == ([], 0)
    assert found["left_out"] == [{"reason": "zero throughout", "segments": 1, "bytes": PAGE}]
    memcarve.verify(tmp_path / "out")


# what is left out


@pytest.mark.parametrize(
    ("selection", "starts"),
    [
        (memcarve.Selection(half="user"), [0x10000, 0x20000, 0x40000]),
        (memcarve.Selection(half="kernel"), [0xFFFFF80000000000]),
        (memcarve.Selection(address=[(0x22000, 0x22001)]), [0x20000]),
        (memcarve.Selection(address=[(0x10FFF, 0x20001)]), [0x10000, 0x20000]),
        (memcarve.Selection(address=[(0x11000, 0x20000)]), []),
        (memcarve.Selection(address=[(0x10000, 0x10001), (0x40000, 0x40001)]), [0x10000, 0x40000]),
        (memcarve.Selection(min_size=2 * PAGE), [0x20000, 0x40000]),
        (memcarve.Selection(max_size=2 * PAGE), [0x10000, 0x40000, 0xFFFFF80000000000]),
        (memcarve.Selection(min_size=2 * PAGE, max_size=2 * PAGE), [0x40000]),
        (memcarve.Selection(half="user", min_size=PAGE + 1, address=[(0, 0x30000)]), [0x20000]),
    ],
)
def test_filters(tmp_path: Path, selection: memcarve.Selection, starts: list[int]) -> None:
    """Filters choose whole segments, and every byte of the input is either written or left out for a reason."""
    result = carve(write_dump(tmp_path, ROWS), tmp_path / "out", selection=selection)
    expected = {start: content for start, content in model(ROWS).items() if start in starts}
    assert binaries(tmp_path / "out") == named(expected)
    found = manifest(tmp_path / "out")
    assert found["totals"]["bytes"] == sum(map(len, expected.values()))
    left = sum(entry["bytes"] for entry in found["left_out"])
    assert found["totals"]["bytes"] + left == found["totals"]["input_bytes"] == len(dump_bytes(ROWS))
    assert sum(entry["segments"] for entry in found["left_out"]) == len(model(ROWS)) - len(expected)
    assert all(entry["reason"] for entry in found["left_out"])
    assert result.bytes + sum(entry.bytes for entry in result.left_out) == result.input_bytes


def test_tail_is_left_out(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A dump that goes on after the map's last row is carved; the tail is reported and the exit status is 3."""
    dump = write_dump(tmp_path, ROWS)
    with dump.open("ab") as file:
        file.write(noise(9, 3 * PAGE))
    ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out")
    assert ran.code == 3
    assert str(3 * PAGE) in ran.err
    assert binaries(tmp_path / "out") == named(model(ROWS))
    found = manifest(tmp_path / "out")
    assert [entry["bytes"] for entry in found["left_out"]] == [3 * PAGE]
    assert found["complete"] is False


# what is missing


@pytest.mark.parametrize("cut", [1, PAGE, PAGE + 5, 3 * PAGE])
def test_truncated_dump_is_refused(tmp_path: Path, cut: int) -> None:
    """A dump that is too short is refused with the first missing address, and nothing is left behind."""
    dump = write_dump(tmp_path, ROWS)
    os.truncate(dump, len(dump_bytes(ROWS)) - cut)
    first = {1: 0xFFFFF80000000FFF, PAGE: 0xFFFFF80000000000, PAGE + 5: 0x41FFB, 3 * PAGE: 0x40000}[cut]
    with pytest.raises(memcarve.TruncatedError, match=f"0x{first:x}") as caught:
        carve(dump, tmp_path / "out")
    assert caught.value.address == first
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_partial(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With --partial what is there is carved, marked in the manifest, what is missing listed, and the exit is 3."""
    dump = write_dump(tmp_path, ROWS)
    os.truncate(dump, 5 * PAGE + 100)
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out").code == 1
    assert invoke(capfdbinary, "carve", "--partial", dump, "-o", tmp_path / "out").code == 3
    there: list[Piece] = [*ROWS[:3], (0x40000, bytes(PAGE + 100))]
    assert binaries(tmp_path / "out") == named(model(there))
    found = manifest(tmp_path / "out")
    assert (found["complete"], found["partial"]) == (False, True)
    assert [(gap["start"], gap["end"], gap["size"]) for gap in found["missing"]] == [
        ("0x0000000000041064", "0x0000000000042000", PAGE - 100),
        ("0xfffff80000000000", "0xfffff80000001000", PAGE),
    ]
    assert all("ends too early" in gap["reason"] for gap in found["missing"])
    assert found["totals"]["missing_bytes"] == 2 * PAGE - 100
    memcarve.verify(tmp_path / "out")


def test_partial_of_a_whole_dump(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With --partial a dump that is whole is carved like any other: nothing is marked and the exit is 0."""
    assert invoke(capfdbinary, "carve", "--partial", write_dump(tmp_path, ROWS), "-o", tmp_path / "out").code == 0
    assert manifest(tmp_path / "out")["partial"] is False


def test_rows_not_written(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Rows that could not be written end a segment, are listed as missing, shift nothing, and the exit is 3."""
    rows: list[Piece] = [(0x1000, noise(1)), (0x2000, 2 * PAGE), (0x4000, noise(2)), (0x5000, noise(3)), (0x9000, PAGE)]
    dump = write_dump(tmp_path, rows)
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out").code == 3
    assert binaries(tmp_path / "out") == named(model(rows))
    found = manifest(tmp_path / "out")
    assert [(gap["start"], gap["size"]) for gap in found["missing"]] == [
        ("0x0000000000002000", 2 * PAGE),
        ("0x0000000000009000", PAGE),
    ]
    assert (found["complete"], found["partial"]) == (False, False)
    assert found["positions"] == "sum"


def test_top_of_the_address_space(tmp_path: Path) -> None:
    """The last page, whose row is one byte short, and address 0 are carved like any other."""
    rows: list[Piece] = [(0, noise(1)), (0xFFFFFFFFE000, noise(2)), (0xFFFFFFFFF000, noise(3, PAGE - 1))]
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    assert binaries(tmp_path / "out") == {
        "0x0000000000000000-0x0000000000001000.bin": noise(1),
        "0xffffffffffffe000-0xffffffffffffffff.bin": noise(2) + noise(3, PAGE - 1),
    }
    memcarve.verify(tmp_path / "out")


def test_end_at_two_to_the_64(tmp_path: Path) -> None:
    """A segment that ends at 2**64 has a name with seventeen digits, and verify accepts it."""
    rows: list[Piece] = [(0xFFFFFFFFF000, noise(2))]
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    assert list(binaries(tmp_path / "out")) == ["0xfffffffffffff000-0x10000000000000000.bin"]
    assert memcarve.verify(tmp_path / "out").count == 1


# how


def test_modes(tmp_path: Path) -> None:
    """The folder is for its owner alone, and so is every file in it, whatever the umask."""
    dump = write_dump(tmp_path, ROWS)
    before = os.umask(0)
    try:
        carve(dump, tmp_path / "out", hashes=["sha256", "md5"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o600}


def test_several_extents(tmp_path: Path) -> None:
    """A segment whose pieces lie apart in the dump is one file; offset is that of its lowest address."""
    rows: list[Piece] = [
        (0x3000, noise(3)),
        (0x1000, noise(1)),
        (0x9000, noise(9)),
        (0x2000, noise(2)),
        (0x4000, noise(4)),
    ]
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    assert binaries(tmp_path / "out") == named(model(rows))
    listed = [(item["start"], item["extents"], item["offset"]) for item in manifest(tmp_path / "out")["segments"]]
    assert listed == [("0x0000000000001000", 4, PAGE), ("0x0000000000009000", 1, 2 * PAGE)]


def test_pages_mapped_twice(tmp_path: Path) -> None:
    """What continues in memory and in the dump is one extent, over however many rows."""
    rows: list[Piece] = [(0x1000 + at * PAGE, noise(at % 3)) for at in range(100)]
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    (segment,) = manifest(tmp_path / "out")["segments"]
    assert (segment["extents"], segment["size"]) == (1, 100 * PAGE)


def test_changed_input(tmp_path: Path) -> None:
    """An input that changes while it is carved is an error, and nothing is kept."""
    dump = write_dump(tmp_path, ROWS)

    def change(_done: int, _total: int) -> None:
        os.utime(dump, ns=(1, 1))

    with pytest.raises(memcarve.InputError, match="changed while it was read"):
        carve(dump, tmp_path / "out", progress=change)
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_shrinking_input(tmp_path: Path) -> None:
    """An input that shrinks after it was opened is an error that names it, and nothing is kept."""
    dump = write_dump(tmp_path, ROWS)
    with memcarve.open(dump) as container:
        process = container.process()
        os.truncate(dump, PAGE)
        with pytest.raises(memcarve.InputError, match=re.escape(str(dump))):
            sinking.carve(process, tmp_path / "out")
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_map_without_dump(tmp_path: Path) -> None:
    """A map whose dump is not there cannot be carved; the message names --dump."""
    dump = write_dump(tmp_path, ROWS)
    dump.unlink()
    with pytest.raises(memcarve.InputError, match="dump="):
        carve(tmp_path / "pid.4.map", tmp_path / "out")
    assert listing(tmp_path) == ["pid.4.map"]


def test_progress(tmp_path: Path) -> None:
    """Progress never goes back, and ends with everything done."""
    seen: list[tuple[int, int]] = []
    carve(write_dump(tmp_path, ROWS), tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(dump_bytes(ROWS)), len(dump_bytes(ROWS)))


def test_result(tmp_path: Path) -> None:
    """The result says how many segments and bytes were written, and how they were moved."""
    result = carve(write_dump(tmp_path, ROWS), tmp_path / "out", hashes=[])
    assert (result.count, result.bytes, result.input_bytes) == (4, len(dump_bytes(ROWS)), len(dump_bytes(ROWS)))
    assert sum(result.moved.values()) == result.bytes
    assert (result.complete, result.missing_bytes, list(result.notes)) == (True, 0, [])


def test_many_segments_in_batches(tmp_path: Path) -> None:
    """Three hundred segments, more than the threads take at a time, are all written, each with its own hash."""
    rows: list[Piece] = [(0x1000 + at * 2 * PAGE, noise(at, PAGE + at * 16)) for at in range(256)]
    rows += [(0x1000000 + at * 3 * PAGE, noise(at, 2 * PAGE)) for at in range(44)]
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    contents = binaries(tmp_path / "out")
    assert contents == named(model(rows))
    for segment in manifest(tmp_path / "out")["segments"]:
        assert segment["sha256"] == hashlib.sha256(contents[segment["file"]]).hexdigest()


@pytest.mark.parametrize("together", [1, 3 * PAGE, 1 << 20])
def test_segments_that_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """However many segments one read may fetch, each file and each hash is right: also of those that need several."""
    monkeypatch.setattr(segment_writer, "_TOGETHER", together)
    rows: list[Piece] = [(0x1000 + at * 5 * PAGE, noise(at, (at % 4 + 1) * PAGE)) for at in range(40)]
    rows[7], rows[30] = rows[30], rows[7]  # not in order in the dump
    rows[20:20] = [(0x800000, bytes(2 * PAGE)), (0x900000, noise(3)), (0x902000, noise(4)), (0x901000, noise(5))]
    rows.append((0xA00000, noise(6, 100)))
    carve(write_dump(tmp_path, rows), tmp_path / "out")
    contents = binaries(tmp_path / "out")
    assert contents == named(model(rows))
    for segment in manifest(tmp_path / "out")["segments"]:
        assert segment["sha256"] == hashlib.sha256(contents[segment["file"]]).hexdigest()
        assert segment["zero"] == (segment["start"] == "0x0000000000800000")


@pytest.mark.parametrize("hashes", [["sha256"], []])
@pytest.mark.parametrize("together", [1, 3 * PAGE, 1 << 20])
def test_scattered_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, hashes: list[str]) -> None:
    """Segments of pages that lie anywhere in the source are right, however many are read at once; so are some alone."""
    monkeypatch.setattr(segment_writer, "_TOGETHER", together)
    places = [place for place in range(160) if place % 7 and place % 23 not in {1, 2}]
    rows: list[Piece] = [(place * PAGE, noise(place, PAGE)) for place in places]
    np.random.default_rng(1).shuffle(rows)
    rows += [((200 + place) * PAGE, bytes(PAGE)) for place in (2, 0, 1)]
    written = model(rows)
    with memcarve.open(write_dump(tmp_path, rows)) as dump:
        for least in (1, 4 * PAGE):
            result = sinking.carve(
                dump.process(), tmp_path / "out", hashes=hashes, selection=Selection(min_size=least), force=True
            )
            wanted = {start: data for start, data in written.items() if len(data) >= least}
            assert binaries(tmp_path / "out") == named(wanted)
            assert sum(result.moved.values()) == sum(map(len, wanted.values()))
    for segment in manifest(tmp_path / "out")["segments"] if hashes else []:
        data = wanted[int(segment["start"], 16)]
        assert (segment["sha256"], segment["zero"]) == (hashlib.sha256(data).hexdigest(), not any(data))


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails names the file, and nothing is kept."""
    dump = write_dump(tmp_path, ROWS)

    def full(fd: int, data: memoryview) -> int:  # noqa: ARG001
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(memcarve.NoSpaceError, match=r"out/0x[0-9a-f]{16}-0x[0-9a-f]{16}.bin: cannot be written"):
        carve(dump, tmp_path / "out")
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


@given(
    sizes=st.lists(st.sampled_from([1, 4096, 1 << 22, (1 << 23) - 1, 1 << 23, 1 << 26, 1 << 40]), max_size=200),
    most=st.sampled_from([None, 1 << 23]),
)
def test_what_a_thread_takes(sizes: list[int], most: int | None) -> None:
    """Every segment is taken once, in parts that are no longer than they must be; the largest come first."""
    found = segment_writer._batches(np.array(sizes, np.uint64), most)
    assert sorted(place for low, high in found for place in range(low, high)) == [*range(len(sizes))]
    assert all(0 < high - low <= 64 for low, high in found)
    if most is not None:
        assert all(sum(sizes[low + 1 : high]) < most for low, high in found)
        large = [sum(sizes[low:high]) > 4 * most for low, high in found]
        assert large == sorted(large, reverse=True)


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is found out before anything is written; the message has both numbers."""
    dump = write_dump(tmp_path, ROWS)
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(memcarve.NoSpaceError, match=r"needs \d+ bytes.* 5000 free"):
        carve(dump, tmp_path / "out")
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


# an existing folder


def test_existing_folder_is_refused(tmp_path: Path) -> None:
    """An existing folder is refused without force, and stays as it is."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in listing(tmp_path / "out")}
    with pytest.raises(memcarve.TargetExistsError, match="force=True"):
        carve(dump, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in listing(tmp_path / "out")} == before
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


def test_force_replaces_its_own(tmp_path: Path) -> None:
    """With force a folder that memcarve wrote is replaced, and nothing of the old one is left."""
    carve(write_dump(tmp_path, ROWS), tmp_path / "out", hashes=["md5"])
    other: list[Piece] = [(0x70000, noise(70))]
    carve(write_dump(tmp_path, other), tmp_path / "out", force=True)
    assert binaries(tmp_path / "out") == named(model(other))
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]
    assert "MD5SUMS" not in listing(tmp_path / "out")


def test_force_replaces_an_empty_folder(tmp_path: Path) -> None:
    """With force an empty folder is replaced."""
    (tmp_path / "out").mkdir()
    dump = write_dump(tmp_path, ROWS)
    with pytest.raises(memcarve.TargetExistsError):
        carve(dump, tmp_path / "out")
    carve(dump, tmp_path / "out", force=True)
    assert binaries(tmp_path / "out") == named(model(ROWS))


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "0x1.bin", "0x0000000000090000-0x0000000000091000.bin"])
def test_force_keeps_foreign_files(tmp_path: Path, name: str) -> None:
    """With force a folder that holds a file of somebody else is refused by the file's name, and nothing is lost."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    (tmp_path / "out" / name).write_text("mine")
    before = listing(tmp_path / "out")
    with pytest.raises(memcarve.TargetExistsError, match=re.escape(name)):
        carve(dump, tmp_path / "out", force=True)
    assert listing(tmp_path / "out") == before
    assert (tmp_path / "out" / name).read_text() == "mine"
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


@pytest.mark.parametrize("name", [file_name(0x10000, PAGE), "SHA256SUMS", "MD5SUMS"])
def test_force_keeps_a_folder_by_an_own_name(tmp_path: Path, name: str) -> None:
    """With force a folder is refused if a subfolder lies in it, even one that has the name of an own file."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    (tmp_path / "out" / name).unlink(missing_ok=True)
    (tmp_path / "out" / name).mkdir()
    (tmp_path / "out" / name / "mine").write_text("mine")
    with pytest.raises(memcarve.TargetExistsError, match=re.escape(name)):
        carve(dump, tmp_path / "out", force=True)
    assert (tmp_path / "out" / name / "mine").read_text() == "mine"


def test_force_keeps_a_folder_of_other_origin(tmp_path: Path) -> None:
    """With force a folder is refused if its segments.json is none of memcarve's."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "segments.json").write_text('{"segments": []}')
    with pytest.raises(memcarve.TargetExistsError, match="memcarve wrote"):
        carve(write_dump(tmp_path, ROWS), tmp_path / "out", force=True)
    assert listing(tmp_path / "out") == ["segments.json"]


@pytest.mark.parametrize("kind", ["file", "link to a folder", "dangling link"])
@pytest.mark.parametrize("force", [False, True])
def test_target_is_no_folder(tmp_path: Path, kind: str, *, force: bool) -> None:
    """A target that is a file or a symbolic link is refused, with force too, and what it leads to stays untouched."""
    dump = write_dump(tmp_path, ROWS)
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    if kind == "file":
        target.write_text("mine")
    else:
        if kind == "link to a folder":
            carve(dump, elsewhere)
        target.symlink_to(elsewhere)
    before = listing(tmp_path)
    with pytest.raises(memcarve.TargetExistsError, match="not a folder"):
        carve(dump, target, force=force)
    assert listing(tmp_path) == before
    assert target.is_symlink() or target.read_text() == "mine"


def test_old_folder_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    """While the new folder is written the old one is there whole, and it stays if the run fails."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    seen = []

    def look(_done: int, _total: int) -> None:
        seen.append(memcarve.verify(tmp_path / "out").count)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        carve(dump, tmp_path / "out", force=True, progress=look)
    assert seen == [4]
    assert memcarve.verify(tmp_path / "out").count == 4
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


@pytest.mark.parametrize("failing", [1, 2])
def test_interrupted_while_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Interrupted between the steps of replacing a folder, the old one or the new one has the final name, whole."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    rename, calls = os.rename, []

    def interrupted(old: str, new: str) -> None:
        calls.append(old)
        if len(calls) == failing:
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carve(dump, tmp_path / "out", force=True)
    monkeypatch.undo()
    assert memcarve.verify(tmp_path / "out").count == 4
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


def test_failing_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new folder cannot get its name, the old one gets its own back, and nothing else is left."""
    dump = write_dump(tmp_path, ROWS)
    carve(dump, tmp_path / "out")
    rename, calls = os.rename, []

    def failing(old: str, new: str) -> None:
        calls.append(old)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(memcarve.OutputError, match="Input/output error"):
        carve(dump, tmp_path / "out", force=True)
    monkeypatch.undo()
    assert memcarve.verify(tmp_path / "out").count == 4
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


def test_leftovers_are_mentioned(tmp_path: Path) -> None:
    """What a run that was killed has left is mentioned by the next one for the same folder, and not touched."""
    left = Path(tempfile.mkdtemp(".incomplete", ".out.", tmp_path))
    other = Path(tempfile.mkdtemp(".incomplete", ".other.", tmp_path))
    result = carve(write_dump(tmp_path, ROWS), tmp_path / "out")
    assert [str(left) in note for note in result.notes] == [True]
    assert left.is_dir()
    assert other.is_dir()


def test_folders_above_are_made(tmp_path: Path) -> None:
    """Folders above the target that do not exist are made."""
    carve(write_dump(tmp_path, ROWS), tmp_path / "a" / "b" / "out")
    assert binaries(tmp_path / "a" / "b" / "out") == named(model(ROWS))


def test_parent_is_a_file(tmp_path: Path) -> None:
    """A target below a file is an error that names the file."""
    dump = write_dump(tmp_path, ROWS)
    with pytest.raises(memcarve.OutputError, match=re.escape(str(dump))):
        carve(dump, dump / "out")


# several processes


class Several(memcarve.Container):
    """Processes of any name, each with the same memory; those in `broken` cannot be opened."""

    def __init__(self, dump: Path, entries: Sequence[memcarve.ProcessEntry], broken: Sequence[int] = ()) -> None:
        self.entries = entries
        self.broken = broken
        self.inner = memcarve.open(dump)

    def processes(self) -> list[memcarve.ProcessEntry]:
        """Return the processes as they were given."""
        return list(self.entries)

    def _process(self, index: int) -> memcarve.ProcessMemory:
        """Return the memory, or fail."""
        if index in self.broken:
            raise memcarve.InputError(f"process {index}: is broken on purpose")
        return self.inner.process()

    def close(self) -> None:
        """Close the dump."""
        self.inner.close()


HOSTILE = [
    "../../x", "/etc", "..", ".", "", "a\x1b]0;x\x07", "a\nb", "x" * 5000, "a\0b", "\u202etxt.exe", "\udc80", "CON",
    "con", "con", "C:\\x", "-rf", "~", "$(id)", "a b", "ä", None,
]  # fmt: skip


@pytest.mark.parametrize("pid", [4, None, 0])
def test_hostile_process_names(tmp_path: Path, pid: int | None) -> None:
    """Whatever processes are called, each gets its own folder of plain characters within the target."""
    dump = write_dump(tmp_path, ROWS[:1])
    entries = [memcarve.ProcessEntry(pid, name) for name in HOSTILE]
    with Several(dump, entries) as container:
        outcomes = sinking.carve_several(container, range(len(entries)), tmp_path / "out").parts
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]
    made = [name for name in listing(tmp_path / "out") if name not in ("SHA256SUMS", "processes.json")]
    assert len(made) == len({name.lower() for name in made}) == len(HOSTILE)
    assert sorted(os.path.basename(outcome.path) for outcome in outcomes) == made
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", name) for name in made)
    for name in made:
        assert binaries(tmp_path / "out" / name) == named(model(ROWS[:1]))


def test_plain_process_names(tmp_path: Path) -> None:
    """A process's folder is called by its pid and name."""
    dump = write_dump(tmp_path, ROWS[:1])
    entries = [memcarve.ProcessEntry(4, "System"), memcarve.ProcessEntry(88, None)]
    with Several(dump, entries) as container:
        sinking.carve_several(container, [0, 1], tmp_path / "out")
    assert listing(tmp_path / "out") == ["4-System", "88", "SHA256SUMS", "processes.json"]


def test_processes_json(tmp_path: Path) -> None:
    """The list of processes is JSON, begins with its schema, and tells how each ended, by its true name."""
    dump = write_dump(tmp_path, ROWS)
    entries = [memcarve.ProcessEntry(4, "a\x1b[2J"), memcarve.ProcessEntry(8, "b"), memcarve.ProcessEntry(12, "c")]
    with Several(dump, entries, broken=[1]) as container:
        outcomes = sinking.carve_several(container, [0, 1, 2], tmp_path / "out").parts
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    text = (tmp_path / "out" / "processes.json").read_text()
    assert "\x1b" not in text
    found = json.loads(text)
    assert next(iter(found)) == "schema"
    assert [item["pid"] for item in found["processes"]] == [4, 8, 12]
    assert [item["name"] for item in found["processes"]] == ["a\x1b[2J", "b", "c"]
    assert [item["bytes"] for item in found["processes"]] == [len(dump_bytes(ROWS)), None, len(dump_bytes(ROWS))]
    assert "on purpose" in found["processes"][1]["error"]
    assert found["processes"][1]["files"] == []
    assert len(listing(tmp_path / "out")) == 2 + 2
    for item in found["processes"]:
        for name in item["files"]:
            memcarve.verify(tmp_path / "out" / name)


def test_all_processes_fail(tmp_path: Path) -> None:
    """Where every process fails, the first one's error is raised and nothing is left behind."""
    dump = write_dump(tmp_path, ROWS)
    entries = [memcarve.ProcessEntry(4, "a"), memcarve.ProcessEntry(8, "b")]
    with Several(dump, entries, broken=[0, 1]) as container, pytest.raises(memcarve.InputError, match="process 0"):
        sinking.carve_several(container, [0, 1], tmp_path / "out")
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_several_from_one_map(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A map of several processes is carved into one folder each with --all; one without a dump makes the exit 3."""
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2], 92: ROWS[2:]})
    assert invoke(capfdbinary, "carve", table, "-o", tmp_path / "all", "--all").code == 0
    for pid, rows in ((4, ROWS), (88, ROWS[:2]), (92, ROWS[2:])):
        assert binaries(tmp_path / "all" / str(pid)) == named(model(rows))
    (tmp_path / "pid.88.dmp").unlink()
    ran = invoke(capfdbinary, "carve", table, "-o", tmp_path / "some", "--all")
    assert ran.code == 3
    assert "88" in ran.err
    assert listing(tmp_path / "some") == ["4", "92", "SHA256SUMS", "processes.json"]


def test_several_need_a_choice(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A map of several processes without a choice is a usage error that lists them and names the options."""
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2]})
    ran = invoke(capfdbinary, "carve", table, "-o", tmp_path / "out")
    assert ran.code == 2
    assert all(word in ran.err for word in ("4", "88", "--pid", "--all"))
    assert invoke(capfdbinary, "carve", table, "-o", tmp_path / "out", "--pid", "88").code == 0
    assert binaries(tmp_path / "out") == named(model(ROWS[:2]))


def test_force_replaces_several(tmp_path: Path) -> None:
    """With force a folder of several processes is replaced if all of it is memcarve's, and only then."""
    dump = write_dump(tmp_path, ROWS)
    entries = [memcarve.ProcessEntry(4, "a"), memcarve.ProcessEntry(8, "b")]
    with Several(dump, entries) as container:
        sinking.carve_several(container, [0, 1], tmp_path / "out")
        sinking.carve_several(container, [1], tmp_path / "out", force=True)
        assert listing(tmp_path / "out") == ["8-b", "SHA256SUMS", "processes.json"]
        (tmp_path / "out" / "8-b" / "notes").write_text("mine")
        with pytest.raises(memcarve.TargetExistsError, match="notes"):
            sinking.carve_several(container, [0], tmp_path / "out", force=True)
        (tmp_path / "out" / "8-b" / "notes").rename(tmp_path / "out" / "notes")
        with pytest.raises(memcarve.TargetExistsError, match="notes"):
            sinking.carve_several(container, [0], tmp_path / "out", force=True)
    assert listing(tmp_path / "out") == ["8-b", "SHA256SUMS", "notes", "processes.json"]


@pytest.mark.parametrize("inside", [[], ["src"]])
def test_force_keeps_a_folder_of_folders(tmp_path: Path, inside: list[str]) -> None:
    """With force a folder that holds a processes.json of somebody else is refused, with subfolders or without."""
    dump = write_dump(tmp_path, ROWS)
    (tmp_path / "out").mkdir()
    for name in inside:
        (tmp_path / "out" / name).mkdir()
    (tmp_path / "out" / "processes.json").write_text("[]")
    with Several(dump, [memcarve.ProcessEntry(4, "a")]) as container, pytest.raises(memcarve.TargetExistsError):
        sinking.carve_several(container, [0], tmp_path / "out", force=True)
    assert (tmp_path / "out" / "processes.json").read_text() == "[]"


@pytest.mark.parametrize("row", ['"files": ["mine.doc"]', '"folder": "mine.doc"'])
def test_force_keeps_what_a_forged_list_names(tmp_path: Path, row: str) -> None:
    """With force a file that memcarve did not write is kept, though a processes.json lists it."""
    dump = write_dump(tmp_path, ROWS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.doc").write_text("mine")
    schema = 2 if "files" in row else 1
    text = f'{{"tool": "memcarve", "schema": {schema}, "processes": [{{{row}}}]}}'
    (tmp_path / "out" / "processes.json").write_text(text)
    with (
        Several(dump, [memcarve.ProcessEntry(4, "a")]) as container,
        pytest.raises(memcarve.TargetExistsError, match=r"holds mine\.doc, which memcarve did not write"),
    ):
        sinking.carve_several(container, [0], tmp_path / "out", force=True)
    assert listing(tmp_path / "out") == ["mine.doc", "processes.json"]


def test_folders_of_several_are_not_nested(tmp_path: Path) -> None:
    """A processes.json below another is not memcarve's."""
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "processes.json").write_text('{"tool": "memcarve", "schema": 2, "processes": []}')
    assert str(foreign(str(tmp_path))).startswith("a holds no segments.json")


def test_leftovers_of_several_are_mentioned(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What a killed run of several processes has left is mentioned by the next one."""
    left = Path(tempfile.mkdtemp(".incomplete", ".out.", tmp_path))
    table = write_several(tmp_path, {4: ROWS, 88: ROWS[:2]})
    ran = invoke(capfdbinary, "carve", table, "-o", tmp_path / "out", "--all")
    assert ran.code == 0
    assert str(left) in ran.err


# any layout at all

CONTENTS = st.sampled_from([ZEROS, noise(1), noise(2), ZEROS[:-1] + b"\1", bytes(2 * PAGE), noise(3, 3 * PAGE)])


@st.composite
def layouts(draw: st.DrawFn) -> list[Piece]:
    """Draw rows that do not overlap: in order with rows not written, or all written and in any order."""
    address = draw(st.sampled_from([0, 0x10000, 0x7FFF_FFFF_0000, 0xF800_0000_0000]))
    rows: list[Piece] = []
    for content in draw(st.lists(CONTENTS, min_size=1, max_size=12)):
        address += draw(st.sampled_from([0, 0, 0, PAGE, 16 * PAGE]))
        rows.append((address, content))
        address += len(content)
    if draw(st.booleans()):
        return draw(st.permutations(rows))
    lost = draw(st.sets(st.integers(0, len(rows) - 1), max_size=len(rows) - 1))
    return [(start, len(content) if at in lost else content) for at, (start, content) in enumerate(rows)]  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [{"skip_zero": True}, {"selection": memcarve.Selection(min_size=2 * PAGE)}])
def test_what_is_left_out_and_lies_behind(tmp_path: Path, how: dict[str, Any]) -> None:
    """A segment of several extents ends where it does, even if one that is left out follows it in the dump, too."""
    first, second, third = noise(1), noise(2), noise(3, 2 * PAGE)
    rows: list[Piece] = [(0, first), (0x8000, third), (0x1000, second), (0x4000, bytes(PAGE))]
    carve(write_dump(tmp_path, rows), tmp_path / "out", **how)
    assert binaries(tmp_path / "out") == named({0: first + second, 0x8000: third})


@settings(max_examples=60, deadline=None)
@given(
    rows=layouts(),
    sparse=st.booleans(),
    skip_zero=st.booleans(),
    hashes=st.sampled_from([[], ["sha256"], ["md5", "sha1"]]),
)
def test_any_layout(rows: list[Piece], *, sparse: bool, skip_zero: bool, hashes: list[str]) -> None:
    """Whatever the layout and the options, the files are the segments of an independent model, and all adds up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump = write_dump(folder, rows)
        result = carve(dump, folder / "out", sparse=sparse, skip_zero=skip_zero, hashes=hashes)
        kept = {start: content for start, content in model(rows).items() if not skip_zero or any(content)}
        assert binaries(folder / "out") == named(kept)
        found = manifest(folder / "out")
        assert [segment["start"] for segment in found["segments"]] == [f"0x{start:016x}" for start in sorted(kept)]
        assert found["totals"]["bytes"] + sum(left["bytes"] for left in found["left_out"]) == len(dump_bytes(rows))
        lost = sum(content for _, content in rows if isinstance(content, int))
        assert found["totals"]["missing_bytes"] == lost
        assert result.complete == (not lost)
        with memcarve.open(dump) as container:
            memcarve.verify(folder / "out", container.process())


def test_map_is_text_of_volatility() -> None:
    """The maps that these tests write look like the example's, which Volatility wrote."""
    head = EXAMPLE.with_suffix(".map").read_text()
    assert head.startswith(HEADER)
    ours = map_rows([(0x7FFE0000, noise(1))], "pid.1624.dmp")
    assert re.sub(r"\t0x[0-9a-f]+\t", "\t", ours, count=1) in re.sub(r"(?m)^(0x\w+)\t0x[0-9a-f]+\t", r"\1\t", head)
