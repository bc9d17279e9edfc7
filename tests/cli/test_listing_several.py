"""Segments and regions of several processes: what is listed of each alone, with the process before it."""

from __future__ import annotations

import csv
import gc
import io
import json
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import winimage
from cli import invoke
from dumps import write_several
from files import EXAMPLE
from memcarve.cli import listing_memory
from memcarve.hunting import chosen_processes
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import memcarve
    from cli import Ran
    from memcarve.process import Container
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Go = Callable[..., Ran]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of processes of which two have regions, one has none, and one has ended."""
    return winimage.build(tmp_path_factory.mktemp("several") / "mem.raw", processes=winimage.USERLAND)


@pytest.fixture
def go(capfdbinary: Capture) -> Go:
    """Return what runs the command line."""
    return lambda *words: invoke(capfdbinary, *map(str, words))


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return what was printed as JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def known(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what is not known, or empty."""
    return {name: value for name, value in row.items() if value not in (None, [], {})}


PIDS = {4: "System", 388: "smss.exe", 1624: "program.exe", 2036: "thirtytwo.exe", 2860: "gone.exe"}
COMMANDS = [
    ("segments",),
    ("segments", "--content", "full"),
    ("segments", "--split", "permissions"),
    ("segments", "--extents"),
    ("segments", "--flag", "wiped-header", "--flag", "pe-in-private"),
    ("segments", "--min-size", "16k"),
    ("regions",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_as_of_each_alone(truth: Truth, go: Go, words: tuple[str, ...]) -> None:
    """--all lists of each process what is listed of it alone, in the order of the list of processes."""
    expected = []
    for pid, name in PIDS.items():
        ran = go(*words, truth.path, "--pid", pid, "--format", "jsonl")
        if ran.code in (0, 3):
            expected += [{"pid": pid, "process": name, **known(row)} for row in rows_of(ran, ran.code)]
    ran = go(*words, truth.path, "--all", "--format", "jsonl")
    found = rows_of(ran)
    order = {row["pid"]: None for row in rows_of(go("processes", truth.path, "--format", "jsonl"))}
    assert [known(row) for row in found] == sorted(expected, key=lambda row: [*order].index(row["pid"]))
    assert len({tuple(row) for row in found}) == 1


def test_formats(truth: Truth, go: Go, tmp_path: Path) -> None:
    """All formats have the same rows and say which process each is of."""
    rows = rows_of(go("segments", truth.path, "--all", "--format", "jsonl"))
    document = json.loads(go("segments", truth.path, "--all", "--format", "json").out)
    assert (document["schema"], document["segments"]) == (1, rows)
    read = list(csv.DictReader(io.StringIO(go("segments", truth.path, "--all", "--format", "csv").out.decode())))
    named = [(str(row["pid"]), row["process"], row["start"], ",".join(row["kind"] or [])) for row in rows]
    assert [(row["pid"], row["process"], row["start"], row["kind"]) for row in read] == named
    (tmp_path / "rows.parquet").write_bytes(go("segments", truth.path, "--all", "--format", "parquet").out)
    pandas = pytest.importorskip("pandas")  # takes a second to import, in every worker
    table = pandas.read_parquet(tmp_path / "rows.parquet")
    assert [f"0x{start:016x}" for start in table["start"]] == [row["start"] for row in rows]
    assert table["pid"].tolist() == [row["pid"] for row in rows]
    lines = go("segments", truth.path, "--all").out.decode().splitlines()
    assert lines[0].split()[:4] == ["pid", "process", "start", "end"]
    assert [line.split()[:3] for line in lines[1:]] == [[str(row["pid"]), row["process"], row["start"]] for row in rows]
    assert len({line.index("0x") for line in lines[1:]}) == 1


def test_header_is_the_same(truth: Truth, go: Go) -> None:
    """Which columns there are does not depend on which processes are chosen."""
    heads = {
        go("segments", truth.path, *words, "--format", "csv").out.splitlines()[0]
        for words in (["--all"], ["--pid", 4, "--pid", 388], ["--name", "*.exe"], ["--pid", 388, "--pid", 1624])
    }
    assert len(heads) == 1
    assert heads.pop().startswith(b"pid,process,start,end,size,extents,offset,protection,permissions,kind,file,")


def test_one_as_before(truth: Truth, go: Go) -> None:
    """One process that is chosen by its number or name has no columns that say which it is; one of all has."""
    one = go("segments", truth.path, "--pid", 1624).out
    assert one.split()[0] == b"start"
    assert go("segments", truth.path, "--name", "program.exe").out == one
    assert go("segments", EXAMPLE, "--format", "csv").out.startswith(b"start,")
    assert go("segments", EXAMPLE, "--all", "--format", "csv").out.startswith(b"pid,process,start,")


@pytest.mark.parametrize(("half", "kernel"), [("user", False), ("kernel", True), ("all", True)])
def test_halves(truth: Truth, go: Go, half: str, *, kernel: bool) -> None:
    """The kernel's half comes once, after all processes; both are as planned."""
    rows = rows_of(go("segments", truth.path, "--all", "--range", half, "--format", "jsonl"))
    found = [(row["pid"], row["process"], int(row["start"], 16), row["size"]) for row in rows]
    pids = [row["pid"] for row in rows_of(go("processes", truth.path, "--format", "jsonl"))]
    expected = [
        (pid, PIDS[pid], at, size) for pid in pids if half != "kernel" for at, size, _ in truth.segments(pid, "user")
    ]
    if kernel:
        expected += [(None, "kernel", at, size) for at, size, _ in truth.segments(pids[0], "kernel")]
    assert found == expected


def test_addresses(truth: Truth, go: Go) -> None:
    """--address looks in all processes and in the kernel; a module is looked for in each, and may be in none."""
    at = truth.segments(1624, "user")[0].address
    rows = rows_of(go("segments", truth.path, "--all", "--address", hex(at), "--format", "jsonl"))
    assert (1624, f"0x{at:016x}") in {(row["pid"], row["start"]) for row in rows}
    kernel = truth.segments(4, "kernel")[0].address
    rows = rows_of(go("segments", truth.path, "--all", "--address", hex(kernel), "--format", "jsonl"))
    assert [(row["pid"], row["process"], row["start"]) for row in rows] == [(None, "kernel", f"0x{kernel:016x}")]
    ran = go("segments", truth.path, "--all", "--address", "program.exe+0x0", "--format", "jsonl")
    assert {row["pid"] for row in rows_of(ran, 3)} == {1624}
    assert "memcarve: 2036 thirtytwo.exe: no module is called 'program.exe'" in ran.err
    assert "memcarve: kernel" not in ran.err


def test_nothing_in_memory(truth: Truth, go: Go) -> None:
    """A process that has nothing in memory does not fail because nothing is known to choose by: a note says so."""
    ran = go("regions", truth.path, "--pid", 1624, "--pid", 2860, "--format", "jsonl")
    assert {row["pid"] for row in rows_of(ran)} == {1624}
    assert "note: 2860 gone.exe: nothing of it is in memory, and nothing is known of its regions" in ran.err


def test_failures(truth: Truth, go: Go) -> None:
    """Processes that cannot be opened do not stop the others; if all fail, it could not be done."""
    whole = rows_of(go("segments", truth.path, "--all", "--format", "jsonl"))
    sizes = {pid: sum(row["size"] for row in whole if row["pid"] == pid) for pid in PIDS}
    limit = max(sizes.values()) - 1
    ran = go("segments", truth.path, "--all", "--limit", limit, "--format", "jsonl")
    found = {row["pid"] for row in rows_of(ran, 3)}
    assert found == {pid for pid, size in sizes.items() if 0 < size <= limit}
    assert f"memcarve: {max(sizes, key=lambda pid: sizes[pid])} " in ran.err
    ran = go("segments", truth.path, "--pid", 388, "--pid", 1624, "--limit", 4096)
    assert ran.code == 1
    assert "2 processes of 2 failed" in ran.err
    ran = go("segments", truth.path, "--pid", 388, "--pid", 2036, "--pid", 1624, "--flag", "memfd-executable")
    assert ran.code == 2


def test_maps_are_of_one(truth: Truth, go: Go) -> None:
    """--format maps is refused for several processes, with the reason, before anything is printed."""
    ran = go("regions", truth.path, "--all", "--format", "maps")
    assert (ran.code, ran.out) == (2, b"")
    assert "do not say of which process they are" in ran.err


def test_one_after_the_other(truth: Truth, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is opened when the rows of those before it are out, and what was opened is not kept."""
    alive: weakref.WeakSet[memcarve.ProcessMemory] = weakref.WeakSet()
    printed, most = [0], [0]
    true, rows_printed = chosen_processes._part, []

    def part(container: Container, index: int, half: str) -> chosen_processes.Part:
        gc.collect()
        most[0] = max(most[0], len(alive))
        rows_printed.append(printed[0])
        found = true(container, index, half)
        alive.add(found.opened)
        return found

    def table(layout: str, title: str, columns: object, rows: Iterable[object]) -> None:
        assert (layout, title) == ("table", "segments")
        assert columns
        for _ in rows:
            printed[0] += 1

    monkeypatch.setattr(chosen_processes, "_part", part)
    monkeypatch.setattr(listing_memory, "print_table", table)
    assert go("segments", truth.path, "--all", "--content", "headers", "--range", "all").code == 0
    assert len(rows_printed) == len(PIDS) + 1
    assert rows_printed == sorted(rows_printed)
    assert rows_printed[-1] > rows_printed[0] == 0
    assert most[0] == 0


def test_names_that_break_tables(tmp_path: Path, go: Go) -> None:
    """Names from the machine neither steer a terminal nor break rows."""
    names = [b"\x1b[2Jx", b"a\nb", b'=1+1,"x', b"kernel"]
    plans = [winimage.Plan(400 + 4 * place, name) for place, name in enumerate(names)]
    image = winimage.build(tmp_path / "mem.raw", processes=plans)
    lines = go("segments", image.path, "--all", "-q").out.decode().splitlines()
    assert all(line.isprintable() for line in lines)
    assert len({line.index("0x") for line in lines[1:]}) == 1
    read = list(csv.DictReader(io.StringIO(go("segments", image.path, "--all", "-q", "--format", "csv").out.decode())))
    assert {row["pid"] for row in read} == {str(plan.pid) for plan in plans}
    assert {row["process"] for row in read if row["pid"] == "408"} == {"'=1+1,\"x"}


def test_dumps_of_several(tmp_path: Path, go: Go) -> None:
    """The dumps of one map are listed together; which columns there are does not depend on what is known."""
    rows = {pid: [(0x10000 + PAGE * pid, noise(pid, PAGE))] for pid in (4, 8, 12)}
    table = write_several(tmp_path, rows)
    found = rows_of(go("segments", table, "--all", "--format", "jsonl"))
    assert [(row["pid"], row["start"]) for row in found] == [
        (pid, f"0x{0x10000 + PAGE * pid:016x}") for pid in (4, 8, 12)
    ]
    assert go("segments", table, "--pid", 12, "--pid", 4, "--format", "csv").out.count(b"\n") == 3
    shutil.move(tmp_path / "pid.8.dmp", tmp_path / "gone")
    ran = go("segments", table, "--all", "--content", "headers", "--format", "jsonl")
    assert {row["pid"] for row in rows_of(ran, 3)} == {4, 12}
    assert "1 process of 3 failed" in ran.err
    ran = go("segments", table, "--pid", 4, "--pid", 12, "--kind", "stack")
    assert ran.code == 2
    assert ran.err.count("nothing is known to choose by kind") == 2
