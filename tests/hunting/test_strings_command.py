"""`strings` as a command: of a dump, of several processes, with filters, and in each format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke

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
            for row in memcarve.strings(process, 8, **how):
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
        found = (row for process in container for row in memcarve.strings(process, 8, ["ascii"]))
        some = next(found)
        process = next(process for process in container if some in [*memcarve.strings(process, 8, ["ascii"])])
        own = process.segments(half="all", address=[(some.address, some.address + 1)])
        texts = [(row.address, row.text) for row in memcarve.strings(process, 8, ["ascii"], segments=own)]
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
