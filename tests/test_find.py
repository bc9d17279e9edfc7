"""`find`: wildcards, holes of sparse files, hits as they are found, blocks that cannot be read."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
from cli import command, invoke
from dumps import write_dump
from memcarve.backing import FileBacking, FolderBacking, ZerosBehind, next_written
from memcarve.errors import UsageError
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise
from unreadable_files import ranges_of, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

MIB = 1 << 20


def everywhere(pattern: bytes, data: bytes) -> list[int]:
    """Return where a regular expression matches, overlapping matches too."""
    return [found.start() for found in re.finditer(b"(?s)(?=" + pattern + b")", data)]


def expression(pattern: str) -> bytes:
    """Return hexadecimal digits with wildcards as a regular expression: a set of bytes for each."""
    parts = []
    for high, low in zip(pattern[::2], pattern[1::2], strict=True):
        digits = "0123456789abcdef"
        ways = [int(a + b, 16) for a in (digits if high == "?" else high) for b in (digits if low == "?" else low)]
        parts.append(b"[" + b"".join(b"\\x%02x" % way for way in ways) + b"]")
    return b"".join(parts)


def flat(data: bytes, start: int = 0x1000) -> AddressSpace:
    """Return a space of one extent."""
    columns = (np.array([value], np.uint64) for value in (start, len(data), 0))
    return AddressSpace(*columns, Memory(data))


@given(st.text("01?", min_size=1, max_size=4), st.binary(max_size=64), st.integers(1, 70))
def test_wildcards(digits: str, data: bytes, block: int) -> None:
    """Bytes with wildcards are found wherever a regular expression finds them, whatever the blocks are."""
    pattern = "".join(f"{digit}{digits[-1 - place]}" for place, digit in enumerate(digits))
    data = bytes(byte & 0x11 for byte in data)
    if not pattern.strip("?"):
        with pytest.raises(UsageError, match="found everywhere"):
            memcarve.hex_pattern(pattern)
        return
    if data:
        hits = flat(data).find(memcarve.hex_pattern(pattern), block=block)
        assert [hit.address - 0x1000 for hit in hits] == everywhere(expression(pattern), data)


@pytest.mark.parametrize(
    ("text", "data", "mask"),
    [
        ("4d5a9000", "4d5a9000", "ffffffff"),
        ("4d 5a ?? 00", "4d5a0000", "ffff00ff"),
        ("0x4D5a??00", "4d5a0000", "ffff00ff"),
        ("4d ? 00", "4d0000", "ff00ff"),
        ("4? ?5", "4005", "f00f"),
    ],
)
def test_hexadecimal(text: str, data: str, mask: str) -> None:
    """Bytes are written with spaces or without, a wildcard stands for a digit, or alone for a byte."""
    found = memcarve.hex_pattern(text)
    assert (found.data.hex(), found.mask.hex()) == (data, mask)


@pytest.mark.parametrize("text", ["", "4", "4d5", "xy", "4d5a?", "??", "? ?", "0x", "4d-5a", "\u0664d"])
def test_not_hexadecimal(text: str) -> None:
    """What is not whole bytes, or nothing but wildcards, is refused."""
    with pytest.raises(UsageError):
        memcarve.hex_pattern(text)


def test_wildcards_on_the_command_line(tmp_path: Path, capfdbinary: Capture) -> None:
    """`find --hex` takes wildcards, and prints the pattern as it was given."""
    dump = write_dump(tmp_path, [(0x10000, b"MZ\x90\0".ljust(PAGE, b"x")), (0x20000, b"MZ\x45\0".ljust(PAGE, b"x"))])
    ran = invoke(capfdbinary, "find", dump, "--hex", "4d 5a ?? 00", "4?5a45", "--format", "json")
    assert ran.code == 0, ran.err
    hits = [(int(row["address"], 16), row["pattern"]) for row in json.loads(ran.out)["hits"]]
    assert hits == [(0x10000, "4d 5a ?? 00"), (0x20000, "4d 5a ?? 00"), (0x20000, "4?5a45")]


def test_an_unknown_encoding_lists_those_that_are_known(tmp_path: Path, capfdbinary: Capture) -> None:
    """An encoding that there is not is refused with those that there are, each of which is taken."""
    dump = write_dump(tmp_path, [(0x10000, noise(1))])
    ran = invoke(capfdbinary, "find", dump, "x", "--encoding", "nothing")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    listed = re.search(r"choose from (.*)", ran.err)
    assert listed is not None
    names = listed[1].split(", ")
    assert {"utf-8", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "shift-jis"} <= {*names}
    for name in names:
        try:
            assert memcarve.text_pattern("x", name).data
        except UsageError as error:
            assert "puts" in str(error)  # noqa: PT017 - a mark before all text, which this one says


# holes


def sparse(path: Path, size: int, parts: dict[int, bytes]) -> bytes:
    """Write a file that is a hole but for some parts; return its bytes. Skip where files have no holes."""
    data = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for place, part in parts.items():
            file.seek(place)
            file.write(part)
            data[place : place + len(part)] = part
    with FileBacking(path) as backing:
        if next_written(backing, 0) == 0 and not any(place < MIB for place in parts):
            pytest.skip("this file system does not tell where holes are")
    return bytes(data)


@pytest.fixture
def holes(tmp_path: Path) -> tuple[Path, bytes]:
    """Return a file of 24 MiB, nearly all of it holes, and its bytes."""
    end = b"the end"
    parts = {
        4 * MIB: b"from the hole" + noise(1, 3 * PAGE - 26) + b"into the hole",
        9 * MIB: b"x".rjust(PAGE, b"\0"),
        20 * MIB: noise(2, MIB + 5),
        24 * MIB - len(end): end,
    }
    path = tmp_path / "pid.4.dmp"
    return path, sparse(path, 24 * MIB, parts)


PATTERNS = [b"into the hole\0\0\0\0", b"\0\0\0from", b"x\0", b"\0\0x\0\0", b"the end", b"\0the end", noise(2, 40)[30:]]


@pytest.mark.parametrize("way", ["one extent", "several", "with zeros behind"])
def test_holes_are_passed_over(holes: tuple[Path, bytes], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes are not read, and hits are the same, those too that begin or end in a hole."""
    path, data = holes
    size = 24 * MIB
    cuts = [0, size] if way != "several" else [0, MIB, 4 * MIB + PAGE, 9 * MIB, 16 * MIB + 3 * PAGE, size]
    starts = [0x10000000 + 2 * low if way == "several" and low > 9 * MIB else 0x10000000 + low for low in cuts[:-1]]
    sizes = [high - low for low, high in itertools.pairwise(cuts)]
    read = 0
    true = FileBacking.read_into

    def counted(self: FileBacking, offset: int, buffer: memoryview) -> None:
        nonlocal read
        read += len(buffer)
        true(self, offset, buffer)

    monkeypatch.setattr(FileBacking, "read_into", counted)
    with FileBacking(path) as file:
        backing = ZerosBehind(file, 64 * MIB) if way == "with zeros behind" else file
        if isinstance(backing, ZerosBehind):
            starts, sizes, cuts = [*starts, 0x90000000], [*sizes, 64 * MIB], [0, backing.begin, 0]
        columns = (np.array(column, np.uint64) for column in (starts, sizes, cuts[:-1]))
        space = AddressSpace(*columns, backing)
        hits = [(hit.offset, hit.pattern) for hit in space.find(PATTERNS)]
        told: list[int] = []
        assert [(hit.offset, hit.pattern) for hit in space.find(PATTERNS, progress=told.append)] == hits
    expected = [
        (place, number) for number, pattern in enumerate(PATTERNS) for place in everywhere(re.escape(pattern), data)
    ]
    assert sorted(hits) == sorted(expected)
    assert read < 2 * 8 * MIB
    assert sum(told) == space.total


def test_zeros_are_found_in_holes(tmp_path: Path) -> None:
    """If zeros are searched for, with wildcards or without, holes are full of them."""
    data = sparse(tmp_path / "file", 256 << 10, {200 << 10: b"the end"})
    with FileBacking(tmp_path / "file") as file:
        space = AddressSpace(*(np.array([value], np.uint64) for value in (0, file.size, 0)), file)
        plain = [hit.address for hit in space.find(bytes(8))]
        wild = [hit.address for hit in space.find(memcarve.hex_pattern("0? 00"))]
    assert plain == everywhere(b"\\0" * 8, data)
    assert wild == everywhere(b"[\\0-\\x0f]\\0", data)


def test_holes_of_a_folder(tmp_path: Path, holes: tuple[Path, bytes]) -> None:
    """The holes of the files of a folder are known, too."""
    path, data = holes
    (tmp_path / "other").write_bytes(b"")
    with FileBacking(path) as file:
        first = file.next_written(0)
    folder = FolderBacking(tmp_path, [(path.name, len(data)), (path.name, len(data))])
    assert folder.next_written(0) == first
    assert folder.next_written(len(data)) == len(data) + first
    assert folder.next_written(first + 1) == first + 1
    folder.close()


# hits as they are found


@pytest.mark.parametrize("layout", ["table", "csv", "jsonl"])
def test_hits_are_printed_as_they_are_found(tmp_path: Path, layout: str) -> None:
    """A hit can be read from a pipe while the search still goes on."""
    rows = [(0x10000000, b"needle".ljust(4 * MIB, b"\1")), (0x20000000, noise(1, 2 * MIB))]
    dump = write_dump(tmp_path, rows)
    go = tmp_path / "go on"
    before = (
        "import os, time\n"
        "true = os.preadv\n"
        "def preadv(fd, buffers, offset):\n"
        f"    while offset >= {3 * MIB} and not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "    return true(fd, buffers, offset)\n"
        "os.preadv = preadv\n"
    )
    words = command("find", dump, "needle", "--format", layout, before=before)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 if layout == "jsonl" else 2)]
        assert b"0x0000000010000000" in lines[-1]
        assert process.poll() is None
        go.touch()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_memory_is_bounded_however_many_hits() -> None:
    """Of the millions of hits in a block none is kept before the first is given out."""
    space = flat(bytes(4 * MIB))
    tracemalloc.start()
    try:
        count = sum(1 for _ in zip(space.find([b"\0", b"\0\0"]), range(20_000), strict=False))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 4 * MIB


def test_progress_and_hits_on_one_terminal(tmp_path: Path) -> None:
    """At a terminal there is a bar once the search takes long, and it is gone wherever a hit is printed."""
    pty = pytest.importorskip("pty", reason="terminals as this test has them are Unix's")
    rows = [(0x10000000, noise(1, 12 * MIB)), (0x20000000, b"needle".rjust(MIB, b"\1"))]
    dump = write_dump(tmp_path, rows)
    before = (
        "import os, time\n"
        "true = os.preadv\n"
        "def preadv(fd, buffers, offset):\n"
        "    time.sleep(0.25 if len(buffers[0]) > 100000 else 0)\n"
        "    return true(fd, buffers, offset)\n"
        "os.preadv = preadv\n"
    )
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command("find", dump, "needle", before=before), stdout=theirs, stderr=theirs, env=env) as run:
        os.close(theirs)
        shown = bytearray()
        begun = time.monotonic()
        while time.monotonic() - begun < 60:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert run.returncode == 0
    text = shown.decode()
    assert "searching" in text
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text)]
    (hit,) = [line for line in lines if "needle" in line and "0x" in line]
    assert hit.split()[0] == f"0x{0x20000000 + MIB - 6:016x}"
    assert "searching" not in hit


# blocks that cannot be read


def test_find_passes_over_bad_blocks(tmp_path: Path, capfdbinary: Capture) -> None:
    """Hits in what can be read are found, each once, none reaches across a bad block; what was lost is said."""
    data = bytearray(noise(1, 700 * PAGE))
    words = [10, 10 * PAGE - 6, 11 * PAGE, 300 * PAGE - 3, 301 * PAGE + 5, 600 * PAGE - 6, 699 * PAGE]
    for place in words:
        data[place : place + 6] = b"needle"
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", [(0x10000000, bytes(data))])
    bad = [10, 300, 302, 600, *range(400, 500, 2)]
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(bad)}) as folder:
        ran = invoke(capfdbinary, "find", folder / "pid.4.dmp", "needle", "--format", "json")
        assert ran.code == 3, ran.err
        hits = [int(row["address"], 16) - 0x10000000 for row in json.loads(ran.out)["hits"]]
        assert hits == [place for place in words if place != 300 * PAGE - 3]
        assert f"{len(bad) * PAGE} bytes cannot be read, and were not searched" in ran.err
        with memcarve.open(folder / "pid.4.dmp") as container:
            lost: list[tuple[int, int]] = []
            found = container.process().find(b"needle", unreadable=lambda address, size: lost.append((address, size)))
            assert len(list(found)) == len(hits)
            assert sum(size for _, size in lost) == len(bad) * PAGE
            with pytest.raises(memcarve.UnreadableError):
                list(container.process().find(b"needle"))
