"""What became of several processes from one image to a later one, held against each compared alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import winimage
from cli import invoke
from dumps import write_several
from memory import PAGE, noise
from winimage import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Go = Callable[..., Ran]

STAYS = Plan(388, b"smss.exe")
WORKS = Plan(800, b"worker.exe", 388)
BEFORE = (STAYS, WORKS, Plan(900, b"old.exe", 388), Plan(1000, b"gone.exe", 388), Plan(1100, b"leaves.exe", 388))
AFTER = (
    STAYS,
    WORKS,
    Plan(900, b"new.exe", 388, later=60),
    Plan(1000, b"gone.exe", 388, exited=True),
    Plan(1200, b"comes.exe", 388),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, Truth]:
    """Return a machine's image, and a later one's."""
    folder = tmp_path_factory.mktemp("twice")
    return (
        winimage.build(folder / "before.raw", processes=BEFORE),
        winimage.build(folder / "after.raw", processes=AFTER, seed=2),
    )


@pytest.fixture
def go(capfdbinary: pytest.CaptureFixture[bytes]) -> Go:
    """Return what runs the command line."""
    return lambda *words: invoke(capfdbinary, *map(str, words))


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return what was printed as JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def one_sided(truth: Truth, pid: int, name: str, state: str) -> dict[str, Any]:
    """Return what the row of a process on one side only has to say."""
    sizes = [size for _, size, _ in truth.segments(pid, "user")]
    began = state == "process began"
    return {
        "pid": pid,
        "process": name,
        "state": state,
        "start": None,
        "end": None,
        "was_start": None,
        "was_end": None,
        "size": sum(sizes) * began,
        "segments": len(sizes) * began,
        "was_size": sum(sizes) * (not began),
        "was_segments": len(sizes) * (not began),
        "added": sum(sizes) * began,
        "removed": sum(sizes) * (not began),
    }


@pytest.mark.parametrize("words", [[], ["--unchanged"], ["--changed-pages"]], ids=" ".join)
def test_all(images: tuple[Truth, Truth], go: Go, words: list[str]) -> None:
    """Pairs are compared as each alone; a number that is used again is two processes; what began comes last."""
    was, now = images
    ran = go("diff", was.path, now.path, "--all", "--format", "jsonl", *words)
    rows = rows_of(ran)
    if not words:
        assert {row["pid"] for row in rows} == {388, 800, 900, 1000, 1100, 1200}
    expected = [
        one_sided(was, 900, "old.exe", "process ended"),
        one_sided(was, 1000, "gone.exe", "process ended"),
        one_sided(was, 1100, "leaves.exe", "process ended"),
        one_sided(now, 900, "new.exe", "process began"),
        one_sided(now, 1200, "comes.exe", "process began"),
    ]
    sided = [row for row in rows if row.get("state", "").startswith("process")]
    assert [{name: row[name] for name in expected[0]} for row in sided] == (
        [] if "--changed-pages" in words else expected
    )
    pairs = [row for row in rows if row not in sided]
    alone = []
    for pid, name in ((4, "System"), (388, "smss.exe"), (800, "worker.exe")):
        found = rows_of(go("diff", was.path, now.path, "--pid", pid, "--format", "jsonl", *words))
        alone += [{"pid": pid, "process": name, **row} for row in found]
    assert pairs == alone
    assert "process began: 900 new.exe, 1200 comes.exe\n" in ran.err
    assert "process ended: 900 old.exe, 1000 gone.exe, 1100 leaves.exe\n" in ran.err
    assert "note: 900 new.exe is another process than 900 old.exe was: the number was used again\n" in ran.err


def test_the_same_twice(images: tuple[Truth, Truth], go: Go) -> None:
    """Between an image and itself nothing changed, began or ended, in the processes or in the kernel."""
    for half in ("user", "kernel", "all"):
        ran = go("diff", images[1].path, images[1].path, "--all", "--range", half, "--format", "csv")
        assert (ran.code, ran.out.count(b"\n")) == (0, 1), ran.err
        assert " unchanged; 0 pages changed of " in ran.err
        assert "process began" not in ran.err
        assert "process ended" not in ran.err


def test_kernel_once(images: tuple[Truth, Truth], go: Go) -> None:
    """The kernel's half is compared once, after all processes."""
    was, now = images
    user = rows_of(go("diff", was.path, now.path, "--all", "--format", "jsonl"))
    alone = rows_of(go("diff", was.path, now.path, "--pid", 4, "--range", "kernel", "--format", "jsonl"))
    kernel = [{"pid": None, "process": "kernel", **row} for row in alone]
    assert kernel
    assert rows_of(go("diff", was.path, now.path, "--all", "--range", "all", "--format", "jsonl")) == user + kernel
    assert rows_of(go("diff", was.path, now.path, "--all", "--range", "kernel", "--format", "jsonl")) == kernel


def test_chosen(images: tuple[Truth, Truth], go: Go) -> None:
    """Several numbers and a pattern choose on both sides; what only one side has began or ended."""
    was, now = images
    rows = rows_of(go("diff", was.path, now.path, "--pid", 388, "--pid", 1200, "--pid", 1100, "--format", "jsonl"))
    assert {row["pid"]: row["state"] for row in rows if row["pid"] != 388} == {
        1100: "process ended",
        1200: "process began",
    }
    rows = rows_of(go("diff", was.path, now.path, "--name", "[ow]*.exe", "--format", "jsonl"))
    assert {row["process"] for row in rows} == {"old.exe", "worker.exe"}
    table = go("diff", was.path, now.path, "--name", "[ow]*.exe", "-q").out.decode().splitlines()
    assert table[0].split()[:3] == ["pid", "process", "state"]
    assert len(table) == len(rows) + 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--pid", "388", "--pid", "4444"], 1, "holds no process 4444"),
        (["--pid", "1200"], 1, "holds no process 1200"),
        (["--name", "nobody"], 1, "no process is named like 'nobody'"),
        (["--all", "--other-pid", "4"], 2, "--other-pid is for one process"),
        (["--all", "--pid", "4"], 2, "--all takes every process"),
        ([], 2, "--all takes every one"),
    ],
)
def test_wrong_choices(images: tuple[Truth, Truth], go: Go, words: list[str], code: int, told: str) -> None:
    """What neither side has, or one side of a single process, is an error; so is what contradicts itself."""
    was, now = images
    ran = go("diff", was.path, now.path, *words)
    assert (ran.code, ran.out) == (code, b"")
    assert told in ran.err


def test_one_as_before(images: tuple[Truth, Truth], go: Go) -> None:
    """One process has no columns that say which it is, whether chosen by its number or by its name."""
    was, now = images
    one = go("diff", was.path, now.path, "--pid", 800)
    assert one.out.startswith(b"state ")
    assert go("diff", was.path, now.path, "--name", "worker.exe").out == one.out


def test_failures(images: tuple[Truth, Truth], go: Go) -> None:
    """One that cannot be compared does not stop the others; if all fail, it could not be done."""
    was, now = images
    sizes = {pid: sum(size for _, size, _ in was.segments(pid, "user")) for pid in (388, 800)}
    assert sizes[388] == sizes[800]
    ran = go("diff", was.path, now.path, "--pid", 388, "--pid", 4, "--limit", sizes[388] - 1, "--format", "jsonl")
    assert rows_of(ran, 3) == []
    assert "memcarve: 388 smss.exe: " in ran.err
    assert "1 process of 2 failed" in ran.err
    ran = go("diff", was.path, now.path, "--pid", 388, "--pid", 800, "--limit", sizes[388] - 1)
    assert ran.code == 1


def test_dumps(tmp_path: Path, go: Go) -> None:
    """Dumps of which only the numbers are known are paired by these."""
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
    write_several(tmp_path / "before", {pid: [(0x10000, noise(pid, PAGE))] for pid in (4, 8, 12)})
    write_several(tmp_path / "after", {pid: [(0x10000, noise(pid % 12, PAGE))] for pid in (8, 12, 16)})
    ran = go("diff", tmp_path / "before" / "all.map", tmp_path / "after" / "all.map", "--all", "--format", "jsonl")
    assert [(row["pid"], row["state"], row["changed_pages"]) for row in rows_of(ran)] == [
        (4, "process ended", 0),
        (12, "changed", 1),
        (16, "process began", 0),
    ]
