"""`find` over several processes: what is in which, by the bytes that each reads as."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import invoke
from failing import fail_to_open

if TYPE_CHECKING:
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

_WORDS = (b"MZ", b"ntdll", b"\x00\x10\x00\x00\x00")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


def rows_of(ran: Ran, code: int = 3) -> list[dict[str, Any]]:
    """Return the hits of a run that printed JSON lines; it exits with 3 if some of the image is incomplete."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def expected(path: str | Path, pids: list[int], words: tuple[bytes, ...], half: str = "user") -> list[tuple[Any, ...]]:
    """Return pid, name, address and pattern of every hit, from the bytes of each segment laid flat."""
    found: list[tuple[Any, ...]] = []
    with memcarve.open(path) as container:
        for pid in pids:
            process = container.process(pid, half=half)
            flat = [
                (segment.start, process.read(segment.start, segment.size)) for segment in process.segments(half=half)
            ]
            own = [
                (start + match.start(), word)
                for start, data in flat
                for word in words
                for match in re.finditer(b"(?s)(?=" + re.escape(word) + b")", data)
            ]
            found += [(pid, process.name, address, word.hex()) for address, word in sorted(own)]
    return found


def test_every_process(truth: Truth, capfdbinary: Capture) -> None:
    """With --all each process's hits follow those of the one before, in order of addresses, and say whose they are."""
    words = [word.hex() for word in _WORDS]
    rows = rows_of(invoke(capfdbinary, "find", truth.path, *words, "--hex", "--all", "--format", "jsonl"))
    with memcarve.open(truth.path) as container:
        pids = [container.entry(index).pid for index in container.certain()]
    found = [(row["pid"], row["process"], int(row["address"], 16), row["pattern"]) for row in rows]
    assert sorted(found) == sorted(expected(truth.path, [pid for pid in pids if pid is not None], _WORDS))
    assert len({row["pid"] for row in rows}) > 1
    order = [(pids.index(pid), address) for pid, _, address, _ in found]
    assert order == sorted(order)


def test_some_processes(truth: Truth, capfdbinary: Capture) -> None:
    """Several --pid are searched in the order given; one alone has no columns that say so."""
    with memcarve.open(truth.path) as container:
        some = [entry.pid for entry in map(container.entry, container.certain()) if entry.has_memory][1:3]
    words = ["find", truth.path, "MZ", "--encoding", "utf-8", "--format", "jsonl"]
    rows = rows_of(invoke(capfdbinary, *map(str, words), "--pid", str(some[1]), "--pid", str(some[0])), 0)
    pids = [pid for pid in reversed(some) if pid is not None]
    assert [(row["pid"], int(row["address"], 16)) for row in rows] == [
        (pid, address) for pid, _, address, _ in expected(truth.path, pids, (b"MZ",))
    ]
    (alone,) = {tuple(row) for row in rows_of(invoke(capfdbinary, *map(str, words), "--pid", str(some[0])), 0)}
    assert alone == ("address", "segment", "offset", "pattern", "encoding")


def test_the_kernel_once(truth: Truth, capfdbinary: Capture) -> None:
    """The kernel's half of an image is searched once, and has a row of its own."""
    words = ["find", str(truth.path), "MZ", "--encoding", "utf-8", "--format", "jsonl"]
    user = rows_of(invoke(capfdbinary, *words, "--all"))
    everything = rows_of(invoke(capfdbinary, *words, "--all", "--range", "all"))
    kernel = rows_of(invoke(capfdbinary, *words, "--all", "--range", "kernel"), 0)
    assert everything == user + kernel
    assert {(row["pid"], row["process"]) for row in kernel} == {(None, "kernel")}
    with memcarve.open(truth.path) as container:
        pid = container.entry(container.certain()[0]).pid
    assert pid is not None
    assert [int(row["address"], 16) for row in kernel] == [
        address for _, _, address, _ in expected(truth.path, [pid], (b"MZ",), "kernel")
    ]


def test_one_that_fails(truth: Truth, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be opened is said, and does not stop the others; the exit status is 3."""
    words = ["find", str(truth.path), "MZ", "--encoding", "utf-8", "--format", "jsonl", "--all"]
    rows = rows_of(invoke(capfdbinary, *words))
    bad = rows[0]["pid"]
    fail_to_open(monkeypatch, bad)
    ran = invoke(capfdbinary, *words)
    assert rows_of(ran, 3) == [row for row in rows if row["pid"] != bad]
    assert "maps too much" in ran.err
