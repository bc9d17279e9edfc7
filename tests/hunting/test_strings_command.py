"""`strings` as a command: of a dump, of several processes, with filters, and in each format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke
from dumps import write_dump
from failing import fail_to_open
from memory import PAGE
from unreadable_files import ranges_of, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


def rows_of(ran: Ran, code: int = 3) -> list[dict[str, Any]]:
    """Return the strings of a run that printed JSON lines; it exits with 3 if some of the image is incomplete."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def expected(path: str | Path, pids: list[int], half: str = "user", **how: Any) -> list[dict[str, Any]]:
    """Return what the rows of processes must say, by the library."""
    found = []
    with memcarve.open(path) as container:
        for pid in pids:
            process = container.process(pid, half=half)
            for _, row, _ in memcarve.strings(process, 8, **how):
                assert process.read(row.address, 8) == row.text.encode(str(row.encoding))[:8]
                found.append(
                    {
                        "pid": pid,
                        "process": process.name,
                        "address": f"0x{row.address:016x}",
                        "segment": f"0x{row.segment.start:016x}",
                        "offset": process.space.offset_of(row.address),
                        "physical": f"0x{row.physical:016x}",
                        "encoding": row.encoding,
                        "text": row.text,
                    }
                )
    return found


def test_every_process(truth: Truth, capfdbinary: Capture) -> None:
    """With --all each process's strings follow those of the one before, and say whose they are and where they lie."""
    rows = rows_of(invoke(capfdbinary, "strings", truth.path, "--all", "--min-length", "8", "--format", "jsonl"))
    with memcarve.open(truth.path) as container:
        pids = [entry.pid for index in container.certain() if (entry := container.entry(index)).pid is not None]
    assert rows == expected(truth.path, pids)
    assert {row["encoding"] for row in rows} == {"ascii", "utf-8", "utf-16-le"}


def test_chosen(truth: Truth, capfdbinary: Capture) -> None:
    """One process has no columns that say which it is; --address and --encoding choose."""
    with memcarve.open(truth.path) as container:
        process, some, _ = next(memcarve.strings(container, 8, ["ascii"]))
        own = process.segments(half="all", address=[(some.address, some.address + 1)])
        texts = [(row.address, row.text) for _, row, _ in memcarve.strings(process, 8, ["ascii"], segments=own)]
        pid = process.pid
    words = ("--pid", str(pid), "--address", hex(some.address), "--encoding", "ascii", "--min-length", "8")
    ran = invoke(capfdbinary, "strings", truth.path, *words, "--format", "jsonl")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert texts
    assert [(int(row["address"], 16), row["text"]) for row in rows] == texts
    assert all("pid" not in row for row in rows)


def test_limits_are_checked(capfdbinary: Capture) -> None:
    """Lengths that make no sense are refused, in one line that says which do."""
    ran = invoke(capfdbinary, "strings", "examples/pid.1624.dmp", "--min-length", "1")
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.splitlines()[-1] == (
        "memcarve: strings cannot have from 1 to 65536 characters; "
        "--min-length is at least 2, --max-length at most 16777216 and not less"
    )


def test_pieces_are_said(capfdbinary: Capture) -> None:
    """A string that is longer than --max-length comes in pieces, which a note says."""
    words = ("--address", "0xa02f5d2c70", "--encoding", "utf-16-le", "--min-length", "20", "--max-length", "20")
    ran = invoke(capfdbinary, "strings", "examples/pid.1624.dmp", *words, "--format", "jsonl")
    texts = [json.loads(line)["text"] for line in ran.out.splitlines()]
    assert texts[:2] == ["C:\\Windows\\System32\\", "target.exe"]
    assert "longer than 20 characters: in pieces" in ran.err


def test_one_that_fails(truth: Truth, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be opened is said, and does not stop the others; the exit status is 3."""
    words = ["strings", str(truth.path), "--min-length", "8", "--format", "jsonl", "--all"]
    rows = rows_of(invoke(capfdbinary, *words))
    bad = rows[0]["pid"]
    fail_to_open(monkeypatch, bad)
    ran = invoke(capfdbinary, *words)
    assert rows_of(ran) == [row for row in rows if row["pid"] != bad]
    assert "maps too much" in ran.err


def test_the_kernel_once(truth: Truth, capfdbinary: Capture) -> None:
    """The kernel's half of an image is searched once, and has rows of its own."""
    words = ["strings", str(truth.path), "--min-length", "12", "--format", "jsonl", "--all"]
    user = rows_of(invoke(capfdbinary, *words))
    both = rows_of(invoke(capfdbinary, *words, "--range", "all"))
    kernel = rows_of(invoke(capfdbinary, *words, "--range", "kernel"), 0)
    assert both == user + kernel
    assert {(row["pid"], row["process"]) for row in kernel} == {(None, "kernel")}


def test_hostile_text(tmp_path: Path, capfdbinary: Capture) -> None:
    """Terminal escapes end a string; overrides and formulas are escaped where they could do harm; JSON has the text."""
    text = '=cmd(),"x" \N{NO-BREAK SPACE}\tok'
    write_dump(tmp_path, [(0x10000000, b"\x1b]0;title\x07" + text.encode() + b"\x1b[31m\xe2\x80\xae\0")])
    path = tmp_path / "pid.4.dmp"
    table, as_csv, lines = (
        invoke(capfdbinary, "strings", path, "-q", "--encoding", "utf-8", "--format", layout).out.decode()
        for layout in ("table", "csv", "jsonl")
    )
    assert [json.loads(line)["text"] for line in lines.splitlines()] == ["]0;title", text, "[31m"]
    assert r'=cmd(),"x" \xa0\x09ok' in table
    assert """utf-8,"'=cmd(),""x"" \\xa0\\x09ok\"""" in as_csv
    assert not any(word in table + as_csv for word in ("\x1b", "\x07", "\N{NO-BREAK SPACE}"))


def test_bad_blocks_are_passed_over(tmp_path: Path, capfdbinary: Capture) -> None:
    """Strings in what can be read are found, none reaches across a bad block; what was lost is said."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", [(0x10000000, b"some text " * 4096)])
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of([3, 5])}) as folder:
        ran = invoke(capfdbinary, "strings", folder / "pid.4.dmp", "--format", "jsonl")
    assert ran.code == 3, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [(int(row["address"], 16) - 0x10000000, len(row["text"])) for row in rows] == [
        (0, 3 * PAGE),
        (4 * PAGE, PAGE),
        (6 * PAGE, 40960 - 6 * PAGE),
    ]
    assert f"{2 * PAGE} bytes cannot be read, and were not searched" in ran.err


def test_nothing_is_found(tmp_path: Path, capfdbinary: Capture) -> None:
    """No string is no error; JSON is whole all the same."""
    write_dump(tmp_path, [(0x10000000, bytes(PAGE))])
    ran = invoke(capfdbinary, "strings", tmp_path / "pid.4.dmp", "--format", "json")
    assert (ran.code, json.loads(ran.out)) == (0, {"schema": 1, "strings": []})
    assert ran.err.splitlines()[-1] == "0 strings"
