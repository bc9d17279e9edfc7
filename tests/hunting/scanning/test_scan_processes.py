"""`memcarve scan` over several processes of an image: what is in which, by YARA-X over the bytes that each reads as."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yara_x

import memcarve
import winimage
from cli import invoke
from failing import fail_to_open
from files import EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

TEXT = """
rule program { strings: $a = "MZ" $b = "ntdll" wide condition: $a at 0 or $b }
rule size { strings: $a = { 00 10 00 00 00 } condition: #a > 3 and filesize > 8KB }
"""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a file of rules."""
    path = tmp_path / "rules.yar"
    path.write_text(TEXT)
    return path


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return the hits of a run that printed JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def expected(path: str | Path, pids: list[int], half: str = "user") -> list[tuple[Any, ...]]:
    """Return pid, name, address, rule and pattern of every hit, from the bytes of each segment laid flat."""
    found: list[tuple[Any, ...]] = []
    scanner = yara_x.Scanner(yara_x.compile(TEXT))
    with memcarve.open(path) as container:
        for pid in pids:
            process = container.process(pid, half=half)
            for segment in process.segments(half=half):
                for rule in scanner.scan(process.read(segment.start, segment.size)).matching_rules:
                    places = [(match.offset, pattern) for pattern in rule.patterns for match in pattern.matches]
                    found += [
                        (pid, process.name, segment.start + offset, rule.identifier, pattern.identifier)
                        for offset, pattern in places
                    ]
    return found


def pids_of(path: str | Path) -> list[int]:
    """Return the pids of the processes that --all takes."""
    with memcarve.open(path) as container:
        return [entry.pid for entry in map(container.entry, container.certain()) if entry.pid is not None]


def test_every_process(truth: Truth, rules: Path, capfdbinary: Capture) -> None:
    """With --all each process's hits follow those of the one before, by address; the kernel's come once, last."""
    words = ["scan", str(truth.path), "--rules", str(rules), "--all", "--format", "jsonl"]
    rows = rows_of(invoke(capfdbinary, *words), 3)
    pids = pids_of(truth.path)
    found = [(row["pid"], row["process"], int(row["address"], 16), row["rule"], row["pattern"]) for row in rows]
    assert sorted(found) == sorted(expected(truth.path, pids))
    assert len({row["pid"] for row in rows}) > 1
    order = [(pids.index(pid), address) for pid, _, address, *_ in found]
    assert order == sorted(order)
    kernel = rows_of(invoke(capfdbinary, *words, "--range", "kernel"))
    assert rows_of(invoke(capfdbinary, *words, "--range", "all"), 3) == rows + kernel
    assert {(row["pid"], row["process"]) for row in kernel} == {(None, "kernel")}
    own = sorted((address, rule, pattern) for *_, address, rule, pattern in expected(truth.path, pids[:1], "kernel"))
    assert sorted((int(row["address"], 16), row["rule"], row["pattern"]) for row in kernel) == own


@pytest.mark.parametrize("by", ["region", "page", "process"])
def test_by(truth: Truth, rules: Path, capfdbinary: Capture, by: str) -> None:
    """By region, page or process, every place that a rule names holds what it says, in that process."""
    words = ["scan", str(truth.path), "--rules", str(rules), "--all", "--format", "jsonl", "--by", by]
    rows = rows_of(invoke(capfdbinary, *words), 3)
    assert len({row["pid"] for row in rows}) > 1
    with memcarve.open(truth.path) as container:
        for row in rows:
            held = container.process(row["pid"]).read(int(row["address"], 16), row["length"])
            assert held.hex() == row["bytes"]


def test_some_processes(truth: Truth, rules: Path, capfdbinary: Capture) -> None:
    """Several --pid are scanned in the order given; one alone has no columns that say so."""
    some = pids_of(truth.path)[1:3]
    words = ["scan", str(truth.path), "--rules", str(rules), "--format", "jsonl", "--pid"]
    rows = rows_of(invoke(capfdbinary, *words, str(some[1]), "--pid", str(some[0])))
    assert list(dict.fromkeys(row["pid"] for row in rows)) == some[::-1]
    alone = rows_of(invoke(capfdbinary, *words, str(some[0])))
    assert [{"pid": some[0], "process": row["process"], **bare} for row, bare in zip(
        [row for row in rows if row["pid"] == some[0]], alone, strict=True
    )] == [row for row in rows if row["pid"] == some[0]]  # fmt: skip


def test_carve_hits(truth: Truth, rules: Path, capfdbinary: Capture, tmp_path: Path) -> None:
    """What was hit is carved, each process into its own folder, the kernel's with the first; all can be verified."""
    out = tmp_path / "hits"
    words = ["scan", str(truth.path), "--rules", str(rules), "--all", "--range", "all", "--format", "jsonl"]
    rows = rows_of(invoke(capfdbinary, *words, "--carve-hits", str(out)), 3)
    first = pids_of(truth.path)[0]
    wanted: dict[int, set[int]] = {}
    for row in rows:
        wanted.setdefault(first if row["pid"] is None else row["pid"], set()).add(int(row["segment"], 16))
    written = {
        int(folder.name.split("-")[0]): {int(path.name.split("-")[0], 16) for path in folder.glob("0x*.bin")}
        for folder in out.iterdir()
        if folder.is_dir()
    }
    assert written == wanted
    assert invoke(capfdbinary, "verify", out).code == 0


def test_one_that_fails(truth: Truth, rules: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be opened is said, and does not stop the others; the exit status is 3."""
    words = ["scan", str(truth.path), "--rules", str(rules), "--format", "jsonl", "--all"]
    rows = rows_of(invoke(capfdbinary, *words), 3)
    bad = rows[0]["pid"]
    fail_to_open(monkeypatch, bad)
    ran = invoke(capfdbinary, *words)
    assert rows_of(ran, 3) == [row for row in rows if row["pid"] != bad]
    assert "maps too much" in ran.err


def test_physical(truth: Truth, rules: Path, capfdbinary: Capture) -> None:
    """With --physical each hit in the image comes once for each who maps it, and without an owner if none is found."""
    rules.write_text('rule program { strings: $a = "MZ" $b = "ntdll" wide condition: $a or $b }')
    words = ["scan", str(truth.path), "--rules", str(rules), "--format", "jsonl"]
    ran = invoke(capfdbinary, *words, "--physical")
    rows = rows_of(ran, ran.code)
    with memcarve.open(truth.path) as container:
        space = memcarve.image_ranges(container)
        flat = [(segment.start, space.read(segment.start, segment.size)) for segment in space.segments()]
    hits = {(int(row["physical"], 16), row["length"], row["pattern"]) for row in rows}
    assert hits == {
        (start + match.offset, match.length, pattern.identifier)
        for start, data in flat
        for rule in yara_x.compile(rules.read_text()).scan(data).matching_rules
        for pattern in rule.patterns
        for match in pattern.matches
    }
    assert {row["owner"] for row in rows} >= {"process", "kernel"}
    # what lies in one page is in physical memory as it is in the processes
    users = rows_of(invoke(capfdbinary, *words, "--all"), 3)
    own = {(row["pid"], row["address"]) for row in users if int(row["address"], 16) % 4096 + row["length"] <= 4096}
    user = [row for row in rows if row["owner"] == "process" and int(row["address"], 16) < 1 << 47]
    assert own == {
        (row["pid"], row["address"]) for row in user if int(row["address"], 16) % 4096 + row["length"] <= 4096
    }
    pid = users[0]["pid"]
    ran = invoke(capfdbinary, *words, "--physical", "--pid", str(pid), "--by", "page")
    assert {(row["owner"], row["pid"]) for row in rows_of(ran)} >= {("process", pid), ("none found", None)}
    assert "none found is not free" in ran.err
    assert len(rows_of(invoke(capfdbinary, *words, "--physical", "--pid", str(pid), "--max-hits", "3"))) >= 3
    for wrong in (["--by", "process"], ["--range", "user"], ["--carve-hits", "hits"], ["--min-size", "1"]):
        assert invoke(capfdbinary, *words, "--physical", *wrong).code == 2
    assert invoke(capfdbinary, "scan", EXAMPLE, "--rules", str(rules), "--physical").code == 2
