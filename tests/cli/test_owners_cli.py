"""Who maps a page, through the command line: held against how the images were planned."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import command, invoke
from dumps import write_dump
from files import EXAMPLE
from memcarve.cli import listing_owners
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of some processes with regions and modules."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw", processes=winimage.USERLAND)


@pytest.fixture
def go(capfdbinary: Capture) -> Invoke:
    """Return what runs `memcarve owners`."""
    return lambda *words: invoke(capfdbinary, "owners", *map(str, words))


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a table in JSON."""
    assert ran.code == code, ran.err
    document = json.loads(ran.out)
    assert document["schema"] == 1
    found: list[dict[str, Any]] = document["owners"]
    return found


def strings(path: str) -> list[tuple[int, str]]:
    """Return offset and text of what strings would print."""
    with open(path, "rb") as file:
        data = file.read()
    return [(found.start(), found[0].decode()) for found in re.finditer(rb"[ -~]{6,}", data)]


def test_texts_of_an_image(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """Each text of the image has a row for each process that maps it, in order, with the text."""
    texts = strings(truth.path)
    assert len(texts) > 500
    lines = tmp_path / "strings.txt"
    lines.write_text("".join(f"{offset:7x} {text}\n" for offset, text in texts))
    rows = rows_of(go(truth.path, "--offsets", lines, "--radix", "x", "--format", "json"))
    assert [*dict.fromkeys((row["offset"], row["text"]) for row in rows)] == texts
    expected: dict[int, set[tuple[int, int]]] = {}
    for process in truth.processes:
        if not process.exit:
            for address, physical in zip(*(each.tolist() for each in truth.frames(process.pid, "user")), strict=True):
                expected.setdefault(physical, set()).add((process.pid, address))
    found: dict[int, set[tuple[int, int]]] = {}
    live = {process.pid for process in truth.processes if not process.exit}
    for row in rows:
        assert row["physical"] == f"0x{row['offset']:016x}"
        assert (row["owner"] == "none found") == (row["address"] is None)
        if row["address"] is not None and int(row["address"], 16) < 1 << 63 and row["pid"] in live:
            found.setdefault(row["offset"], set()).add((row["pid"], int(row["address"], 16)))
    for offset, _ in texts:
        inside = offset % PAGE
        assert found.get(offset, set()) == {(pid, at + inside) for pid, at in expected.get(offset - inside, ())}


def test_words_of_rows(truth: Truth, go: Invoke) -> None:
    """A row names process, permissions, page, module and region; the kernel, nobody and no memory have their words."""
    with memcarve.open(truth.path) as container:
        process = container.process(1624, half="user")
        module = process.modules[0]
        at = int(process.space.physical[process.space.index(module.start)])  # type: ignore[index]
        kernel = container.process(4, half="kernel").space
        own = int(kernel.physical[kernel.index(truth.kernel_base)])  # type: ignore[index]
    (row, *_) = rows_of(go(truth.path, "--physical", hex(at + 5), "--pid", "1624", "--format", "json"))
    assert (row["owner"], row["pid"], row["process"]) == ("process", 1624, "program.exe")
    assert (int(row["address"], 16), row["module"]) == (module.start + 5, f"{module.name}+0x5")
    assert (row["permissions"][0], row["page"], row["region"].split()[0]) == ("u", "present", "image")
    asked = ["--physical", hex(own), "--offset", truth.size, "--physical", hex(truth.size)]
    ran = go(truth.path, *asked, "--format", "json")
    rows = rows_of(ran)
    assert [*dict.fromkeys((row["owner"], row["process"], row["physical"]) for row in rows)] == [
        ("kernel", "kernel", f"0x{own:016x}"),
        ("not memory", None, f"0x{truth.size:016x}"),
        ("not memory", None, None),
    ]  # fmt: skip
    assert "3 bytes, 1 with an owner, 2 not memory" in ran.err
    assert "none found is not free" not in ran.err


def test_formats(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """Every format has the same rows; hostile texts are safe in each."""
    pq = pytest.importorskip("pyarrow.parquet")
    lines = tmp_path / "lines"
    lines.write_bytes(b'0x1000 \x1b[31mred\n0x2000 =cmd()\n0x3000 \xff\xfe,"\n' + b"0x4000 " + b"y" * 100_000 + b"\n")
    asked = (truth.path, "--offsets", lines, "--format")
    rows = rows_of(go(*asked, "json"))
    assert [json.loads(line) for line in go(*asked, "jsonl").out.splitlines()] == rows
    table = [*csv.DictReader(io.StringIO(go(*asked, "csv").out.decode()))]
    assert [row["physical"] for row in table] == [row["physical"] for row in rows]
    assert {row["text"] for row in table} >= {r"\x1b[31mred", "'=cmd()"}
    ran = go(*asked, "table")
    assert b"\x1b" not in ran.out
    assert "1 line longer than could be kept" in ran.err
    parquet = pq.read_table(io.BytesIO(go(*asked, "parquet").out)).to_pylist()
    assert [row["offset"] for row in parquet] == [row["offset"] for row in rows]


def test_standard_input(truth: Truth) -> None:
    """Numbers come from standard input, decimal or hexadecimal as is said, physical addresses too."""
    words = command("owners", truth.path, "--physicals", "-", "--radix", "d", "--format", "csv", "-q")
    done = subprocess.run(words, input=b"4096 a\n8192 b\n", capture_output=True, check=True)
    rows = [*csv.DictReader(io.StringIO(done.stdout.decode()))]
    assert [(row["offset"], row["text"]) for row in rows] == [("4096", "a"), ("8192", "b")]


def test_max_owners_and_choice(truth: Truth, go: Invoke) -> None:
    """Of a page that all share, at most so many rows are printed and the others counted; --name asks a few only."""
    frames = [set(truth.frames(pid, "user")[1].tolist()) for pid in (388, 1624, 2036)]
    shared = min(set.intersection(*frames))
    asked = (truth.path, "--physical", hex(shared), "--format", "json")
    every = rows_of(go(*asked))
    assert len(every) > 2
    few = rows_of(go(*asked, "--max-owners", "2"))
    assert [row["more"] for row in few] == [0, len(every) - 2]
    assert {row["pid"] for row in rows_of(go(*asked, "--name", "smss*"))} <= {388, None}


def test_parts(truth: Truth, go: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are too many at once come in parts, and are the same."""
    lines = tmp_path / "lines"
    lines.write_text("".join(f"0x{at:x} {at}\n" for at in range(0, truth.size, PAGE * 8)))
    asked = (truth.path, "--physicals", lines, "--format", "csv", "--max-owners")
    whole = go(*asked, "64")
    for name, size in (("_ROWS", 3), ("_PRINTED", 2)):
        monkeypatch.setattr(listing_owners, name, size)
    parts = go(*asked, "1000000000000")
    assert (parts.out, parts.err) == (whole.out, whole.err)


def test_usage(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """What cannot be asked is an error of usage, and says what can be."""
    for words, code, text in (
        ([], 2, "nothing is asked for; --physical A and --offset N ask for one byte"),
        (["--offsets", "-", "--physicals", "-"], 2, "standard input can be read once"),
        (["--offset", "1", "--max-owners", "0"], 2, "not a number of at least 1"),
        (["--offset", "0x10000000000000000"], 2, "these have 64 bits"),
        (["--offsets", tmp_path / "none"], 1, "none: No such file"),
        (["--offsets", tmp_path], 1, "Is a directory"),
    ):
        ran = go(truth.path, *words)
        assert (ran.code, text in ran.err) == (code, True), ran.err
        assert not ran.out or text in {"these have 64 bits", "none: No such file", "Is a directory"}
    lines = tmp_path / "lines"
    lines.write_bytes(b"0x10 text\n1f text\n")
    ran = go(truth.path, "--offsets", lines)
    assert ran.code == 1
    assert f"{lines}: line 2: '1f text' may be decimal or hexadecimal; say which with --radix x" in ran.err


def test_dump(go: Invoke, tmp_path: Path) -> None:
    """A dump's offsets have addresses; physical ones are not asked of it."""
    path = write_dump(tmp_path, [(0x10000, bytes(PAGE)), (0x30000, bytes(PAGE))])
    ran = go(path, "--offset", "4097", "--offset", "8192", "--format", "json")
    assert [(row["owner"], row["address"], row["physical"]) for row in rows_of(ran)] == [
        ("process", "0x0000000000030001", None),
        ("not memory", None, None),
    ]
    ran = go(path, "--physical", "0x1000")
    assert ran.code == 2
    assert "is not an image of a machine's memory" in ran.err
    ran = go(EXAMPLE, "--offset", "172048", "--format", "jsonl")
    assert json.loads(ran.out)["address"] == "0x0000017f0d140010"


def test_a_process_that_fails(truth: Truth, go: Invoke) -> None:
    """A process whose page tables claim too much is named, the others answer, and the exit status is 3."""
    frame = truth.frames(1624, "user")[1].tolist()[0]
    ran = go(truth.path, "--physical", hex(frame), "--limit", "330000", "--format", "jsonl")
    assert ran.code == 3
    assert re.search(r"(?m)^memcarve: 388 smss\.exe: .*: the page tables at .* are said to map ", ran.err)
    assert re.search(r"(?m)^memcarve: .*: [0-9]+ parts? more of its memory could not be read$", ran.err)
    assert 1624 in [json.loads(line)["pid"] for line in ran.out.splitlines()]


def test_log(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """The log has the image, the list that was read, and how many bytes had owners."""
    lines, log = tmp_path / "lines", tmp_path / "log"
    lines.write_text("0x1000\n")
    assert go(truth.path, "--offsets", lines, "--log", log).code == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {str(lines), str(truth.path)} <= {row.get("path") for row in rows}
    assert any(row.get("text", "").startswith("1 byte, 0 with an owner") for row in rows)
