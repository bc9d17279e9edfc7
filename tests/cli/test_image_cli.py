"""Images of machines through the command line: what is printed and written, held against how the image was planned."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import containers
import memcarve
import minidumps
import sinking
import winimage
from carved import binaries, manifest
from cli import command, invoke, run
from files import EXAMPLE, listing
from memory import PAGE
from mounts import tmpfs
from planned import kernel_first, needed_frames, planned, planned_pages
from winimage.userland import Name, Started, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

MIB = 1 << 20


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image as it is unless told otherwise."""
    return winimage.build(tmp_path_factory.mktemp("usual") / "mem.raw")


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder, where default outputs go."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


def rows_of(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return what was printed as JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def complaint(ran: Ran, code: int, *words: object) -> str:
    """Hold that a run failed with one line besides notes; return it."""
    assert ran.code == code, ran.err
    (line,) = [line for line in ran.err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("memcarve: ")
    assert "bug in memcarve" not in line
    assert all(str(word) in line for word in words), line
    return line


def expected_files(truth: Truth, pid: int, half: str = "user") -> dict[str, str]:
    """Return the files that a process comes down to, name to hash."""
    return {f"0x{at:016x}-0x{at + size:016x}.bin": digest for at, size, digest in truth.segments(pid, half)}


def hashed(folder: Path) -> dict[str, str]:
    """Return the segment files of a folder, name to hash."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in binaries(folder).items()}


def slices(truth: Truth) -> list[tuple[int, containers.Slice]]:
    """Return an image's memory as two ranges."""
    middle = 12 * MIB
    return [
        (0, containers.Slice(truth.path, 0, middle)),
        (middle, containers.Slice(truth.path, middle, truth.size - middle)),
    ]


# processes


def test_processes(truth: Truth, go: Invoke) -> None:
    """Every format says the same of the processes, as they were planned; times are UTC, addresses hexadecimal."""
    rows = rows_of(go("processes", truth.path, "--format", "jsonl"))
    assert {row["pid"] for row in rows} == {process.pid for process in truth.processes}
    for row in rows:
        one = planned(truth.process(row["pid"]))
        assert row["name"] == one.name
        assert row["parent"] == one.parent
        assert row["state"] == one.state
        assert row["created"] == one.created.isoformat(timespec="microseconds").replace("+00:00", "Z")
        assert (row["exited"] is None) is (one.exited is None)
        for name in ("root", "image_base", "peb"):
            value = getattr(one, name)
            assert row[name] == (None if value is None else f"0x{value:016x}")
        assert row["wow64"] is one.wow64
    document = json.loads(go("processes", truth.path, "--format", "json").out)
    assert (document["schema"], document["processes"]) == (1, rows)
    table = go("processes", truth.path).out.decode().splitlines()
    assert len(table) == len(rows) + 1
    assert table[0].split()[:3] == ["pid", "name", "parent"]
    assert all(line.isprintable() for line in table)
    read = list(csv.DictReader(io.StringIO(go("processes", truth.path, "--format", "csv").out.decode())))
    assert [int(row["pid"]) for row in read] == [row["pid"] for row in rows]
    assert next(row["name"] for row in read if row["pid"] == "70004").startswith("'=")


def test_processes_says_no_more_than_asked(truth: Truth, go: Invoke) -> None:
    """Quietly nothing goes to standard error; verbosely it says which Windows it is and where its offsets are from."""
    assert go("processes", truth.path, "-q").err == ""
    usual, verbose = go("processes", truth.path), go("processes", truth.path, "-v")
    assert usual.err == f"{len(truth.processes)} processes\n"
    assert f"Windows 10.0.{truth.build} x64" in verbose.err
    assert "accessors" in verbose.err
    assert usual.out == verbose.out


def test_pages(truth: Truth, go: Invoke) -> None:
    """--pages counts the user half's pages by kind, as planned."""
    rows = {row["pid"]: row for row in rows_of(go("processes", truth.path, "--pages", "--format", "jsonl"))}
    for process in truth.processes:
        row = rows[process.pid]
        assert [row[kind] for kind in ("demand_zero", "pagefile", "prototype")] == [
            process.absent[kind] for kind in ("demand-zero", "pagefile", "prototype")
        ]
        assert row["present"] + row["transition"] == len(planned_pages(truth, process.pid, "user").address)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of processes whose own memory is planned."""
    return winimage.build(tmp_path_factory.mktemp("planned") / "mem.raw", processes=winimage.USERLAND)


def started(machine: Truth, pid: int, *, narrow: bool = False) -> Started:
    """Return what a process was planned to be started with."""
    plan = machine.process(pid).userland
    found = plan and (plan.started32 if narrow else plan.started)
    assert found
    return found


def one_line(ran: Ran, code: int, words: str) -> None:
    """Check that a run ended with one line that has these words."""
    assert ran.code == code, ran.err
    assert ran.err.count("\n") == 1
    assert words in ran.err


def escaped(text: str) -> str:
    """Return a text with its halves of characters as escapes."""
    return text.replace("\ud800", r"\ud800")


def test_details(machine: Truth, go: Invoke) -> None:
    """JSON has what each process was started with, by each side where they differ, and which modules it unloaded."""
    ran = go("processes", machine.path, "--details", "--format", "jsonl")
    rows = {row["pid"]: row for row in rows_of(ran)}
    assert set(rows) == {process.pid for process in machine.processes}
    names = ("command_line", "image_path", "current_directory")
    for pid in (4, 388, 2860):
        assert [rows[pid][name] for name in (*names, "parameters", "unloaded")] == [None] * 5
    # halves of characters, which strict readers of JSON refuse, are escaped
    wide = {name: escaped(str(text)) for name, text in zip(names, started(machine, 1624).seen, strict=False)}
    assert {name: rows[1624][name] for name in names} == wide
    assert rows[1624]["parameters"] == [{"source": "PEB", **wide}]
    plan = machine.process(1624).userland
    assert plan is not None
    assert plan.trace is not None
    assert rows[1624]["unloaded"] == [
        {
            "base": f"0x{event.base:x}",
            "size": event.size,
            "name": escaped(event.name),
            "timestamp": event.timestamp,
            "checksum": event.checksum,
            "sequence": event.sequence,
            "source": "ntdll",
        }
        for event in plan.trace.events
    ]
    assert r"\\ud800" in ran.out.decode()
    assert re.search(r"(?<!\\)\\ud800", ran.out.decode()) is None
    both = [dict(zip(names, started(machine, 2036, narrow=narrow).seen, strict=False)) for narrow in (False, True)]
    assert rows[2036]["parameters"] == [{"source": "PEB", **both[0]}, {"source": "32-bit PEB", **both[1]}]
    assert [row["source"] for row in rows[2036]["unloaded"]] == ["ntdll"] * 3 + ["32-bit ntdll"] * 10


def test_details_in_tables(machine: Truth, go: Invoke) -> None:
    """A table for people has command lines, shortened and without anything a terminal obeys; CSV has all texts."""
    ran = go("processes", machine.path, "--details")
    table = ran.out.decode().splitlines()
    assert table[0].split() == ["pid", "name", "parent", "created", "state", "command_line"]
    assert all(line.isprintable() and len(line) < 300 for line in table)
    (line,) = [line for line in table if line.split()[0] == "1624"]
    assert r'"C:\Users\John, Doe\program.exe" =1+1 /x:' in line
    assert r"\x1b[2J\x1b]0;x\x07 \u202egnp \ud800 half" in line
    (row,) = [
        row
        for row in csv.DictReader(
            io.StringIO(go("processes", machine.path, "--details", "--format", "csv").out.decode())
        )
        if row["pid"] == "1624"
    ]
    assert row["image_path"] == started(machine, 1624).seen[1]
    assert row["current_directory"] == started(machine, 1624).seen[2]
    assert row["unloaded"].startswith(r"gone.dll,\x1b[2J\x07.dll,half \ud800.dll,")
    plain = go("processes", machine.path)
    assert plain.out.decode().splitlines()[0].split()[-1] == "state"


def test_long_and_tempting_command_lines(go: Invoke, tmp_path: Path) -> None:
    """A command line that is long is cut in a table alone; in CSV one that looks like a formula is none."""
    plans = [
        winimage.hostile.plan("start-long"),
        winimage.Plan(
            1624,
            b"formula.exe",
            memory=(),
            userland=plain(1624)._replace(started=Started(Name("=1+1"), Name("@x"), Name("-y"))),
        ),
    ]
    truth = winimage.build(tmp_path / "mem.raw", processes=plans)
    table = go("processes", truth.path, "--details").out.decode()
    assert max(map(len, table.splitlines())) < 700
    assert "..." in table
    rows = {row["pid"]: row for row in rows_of(go("processes", truth.path, "--details", "--format", "jsonl"))}
    assert rows[winimage.hostile.PIDS["start-long"]]["command_line"] == r"y\ud800" * 16383
    found = csv.DictReader(io.StringIO(go("processes", truth.path, "--details", "--format", "csv").out.decode()))
    row = {row["pid"]: row for row in found}["1624"]
    assert [row[name] for name in ("command_line", "image_path", "current_directory")] == ["'=1+1", "'@x", "'-y"]


def test_environments(machine: Truth, go: Invoke) -> None:
    """The environment is told on request, in JSON; a table has no place for it."""
    rows = rows_of(go("processes", machine.path, "--environment", "--format", "jsonl"))
    (row,) = [row for row in rows if row["pid"] == 1624]
    assert row["parameters"][0]["environment"] == list(map(escaped, started(machine, 1624).seen[3]))
    for words in (["--environment"], ["--environment", "--format", "csv"]):
        complaint(go("processes", machine.path, *words), 2, "--format json")
    complaint(go("processes", machine.path, "--scan", "--details"), 2, "--scan")
    assert "VARIABLE_79" not in go("processes", machine.path, "--details", "--format", "json").out.decode()


def test_parquet_keeps_types_in_pandas(truth: Truth, go: Invoke) -> None:
    """Pandas reads integers as integers and flags as flags if some are missing, and times as times."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    ran = go("processes", truth.path, "--format", "parquet")
    assert ran.code == 0, ran.err
    table = pandas.read_parquet(io.BytesIO(ran.out))
    types = {name: str(kind) for name, kind in table.dtypes.items()}
    assert {types[name] for name in ("pid", "parent", "root", "image_base", "peb")} == {"UInt64"}
    assert types["wow64"] == "boolean"
    assert types["created"] == types["exited"] == "datetime64[us, UTC]"
    lines = rows_of(go("processes", truth.path, "--format", "jsonl"))
    assert any(row["peb"] is None for row in lines)
    assert any(row["exited"] is None for row in lines)
    for name in ("peb", "root"):
        found = [None if pandas.isna(value) else f"0x{int(value):016x}" for value in table[name]]
        assert found == [row[name] for row in lines]
    for name in ("created", "exited"):
        found = [None if pandas.isna(value) else f"{value:%Y-%m-%dT%H:%M:%S.%fZ}" for value in table[name]]
        assert found == [row[name] for row in lines]


def test_details_in_parquet(machine: Truth, go: Invoke, tmp_path: Path) -> None:
    """Parquet, which has no halves of characters, has escapes for them; so it is with every table."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for words in (["processes", machine.path, "--details"], ["regions", machine.path, "--pid", "1624"]):
        ran = go(*words, "--format", "parquet")
        assert ran.code == 0, ran.err
        (tmp_path / "table.parquet").write_bytes(ran.out)
        table = parquet.read_table(tmp_path / "table.parquet").to_pylist()
        if words[0] == "processes":
            (row,) = [row for row in table if row["pid"] == 1624]
            assert row["command_line"] == started(machine, 1624).seen[0].replace("\ud800", r"\ud800")
            assert row["unloaded"][2] == r"half \ud800.dll"
        else:
            assert any(r"\ud800 pair" in (row["file"] or "") for row in table)


def test_details_of_a_process_that_cannot_be_opened(go: Invoke, tmp_path: Path) -> None:
    """Of other inputs the details are what is known; one that cannot be opened is an error line, and exit status 3."""
    (tmp_path / "crash.mdmp").write_bytes(
        minidumps.Dump([(0x10000, b"x")], pid=7, unloaded=[(0x20000, PAGE, 1, 2, "gone.dll")]).build()
    )
    (row,) = rows_of(go("processes", "crash.mdmp", "--details", "--format", "jsonl"))
    assert [each["name"] for each in row["unloaded"]] == ["gone.dll"]
    assert (row["pid"], row["command_line"], row["parameters"]) == (7, None, [])
    data = minidumps.Dump([(0x10000, b"x"), (0x10000, b"y")], pid=7).build()
    (tmp_path / "crash.mdmp").write_bytes(data)
    ran = go("processes", "crash.mdmp", "--details", "--format", "jsonl")
    assert ran.code == 3
    assert "crash.mdmp" in ran.err
    assert json.loads(ran.out)["unloaded"] is None


def test_what_manifests_say_of_the_start(machine: Truth, go: Invoke, tmp_path: Path) -> None:
    """segments.json has what a process of an image was started with and unloaded; its environment on request."""
    for words in ([], ["--environment"], ["--range", "kernel"]):
        out = tmp_path / "-".join(["out", *words])
        assert go("carve", machine.path, "--pid", 1624, "-o", out, *words).code == 0
        process = manifest(out)["process"]
        seen = [escaped(text) for text in started(machine, 1624).seen[:3]]
        strings = list(map(escaped, started(machine, 1624).seen[3]))
        assert [process[name] for name in ("command_line", "image_path", "current_directory")] == seen
        assert len(process["unloaded"]) == 64
        assert process["parameters"][0].get("environment") == (strings if words == ["--environment"] else None)
    assert go("carve", machine.path, "--all", "-o", tmp_path / "all").code == 0
    found = manifest(tmp_path / "all" / "2036-thirtytwo.exe")["process"]
    assert [row["source"] for row in found["parameters"]] == ["PEB", "32-bit PEB"]
    assert "command_line" not in manifest(tmp_path / "all" / "388-smss.exe")["process"]
    with memcarve.open(machine.path) as image:
        sinking.carve(image.process(1624), tmp_path / "library")
    assert manifest(tmp_path / "library")["process"]["command_line"] == seen[0]


def test_scan(truth: Truth, go: Invoke) -> None:
    """--scan lists page-table roots, each of which --dtb takes."""
    rows = rows_of(go("processes", truth.path, "--scan", "--format", "jsonl"))
    roots = {int(row["root"], 16): row for row in rows}
    # the tables of edges.exe are too strange for it
    assert {process.root for process in truth.processes if not process.exit and process.pid != 2448} <= roots.keys()
    row = roots[truth.process(1624).root]
    assert row["paging"] == "x64"
    assert row["self_map"] == truth.selfmap_slot
    assert go("segments", truth.path, "--dtb", row["root"]).code == 0


def test_searches_tell_how_far_they_are(truth: Truth) -> None:
    """While all of an image is searched, `progress` is told, up to the end; opening it searches nothing."""
    told: list[tuple[int, int]] = []
    with memcarve.open(truth.path, progress=lambda done, total: told.append((done, total))) as image:
        assert not told
        image.processes()
    assert told
    assert all(0 < done <= total for done, total in told)
    assert told[-1][0] == told[-1][1] == truth.size


@pytest.mark.parametrize("words", [["processes"], ["processes", "--scan"], ["segments", "--name", "explorer*"]])
def test_progress_at_a_terminal(truth: Truth, words: list[str]) -> None:
    """At a terminal a bar shows how far the search is, and is gone before the table is printed."""
    pty = pytest.importorskip("pty", reason="pseudo terminals are for Unix")
    main, secondary = pty.openpty()
    script = "import memcarve.cli.progress_bar as p; p._PATIENCE = -1.0"
    with subprocess.Popen(
        command(words[0], truth.path, *words[1:], before=script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=secondary,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(secondary)
        seen = b""
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while data := os.read(main, 65536):
                seen += data
        os.close(main)
        table = process.communicate()[0]
    assert process.returncode == 0
    assert b"reading" in seen
    assert table.splitlines()[0].split()[0] in {b"pid", b"root", b"start"}


def test_scan_can_be_narrowed(truth: Truth, go: Invoke) -> None:
    """Roots that map no user memory come last; --range lists those that map memory in one half, and what."""
    rows = rows_of(go("processes", truth.path, "--scan", "--format", "jsonl"))
    user = [row for row in rows if row["user_bytes"]]
    assert 0 < len(user) < len(rows)
    assert rows[: len(user)] == user
    narrowed = rows_of(go("processes", truth.path, "--scan", "--range", "user", "--format", "jsonl"))
    assert narrowed == [{**row, "kernel_bytes": None} for row in user]
    kernel = rows_of(go("processes", truth.path, "--scan", "--range", "kernel", "--format", "jsonl"))
    assert {row["root"] for row in kernel} == {row["root"] for row in rows if row["kernel_bytes"]}
    assert {row["user_bytes"] for row in kernel} == {None}
    one_line(go("processes", truth.path, "--range", "user"), 2, "--scan")


def test_addresses_in_modules(machine: Truth, go: Invoke, tmp_path: Path) -> None:
    """An address given in a module is the same as the number, in every command, and for each process its own."""
    wide = ("--pid", "0x658")
    with memcarve.open(machine.path) as image:
        module = next(each for each in image.process(1624).modules if each.name == "program.exe")
    start, named = module.start, "PROGRAM.EXE+0x10"
    assert go("read", machine.path, named, 16, *wide).out == go("read", machine.path, hex(start + 16), 16, *wide).out
    for word, rest in (("segments", ()), ("regions", ()), ("locate", ())):
        option = [] if word == "locate" else ["--address"]
        given = [go(word, machine.path, *option, place, *wide, *rest) for place in (named, f"{start + 16:016x}")]
        assert given[0].out == given[1].out
        assert given[0].code == given[1].code == 0
    ran = go("export", machine.path, *wide, "--to", "flat", "--address", "program+0x0+4k", "-o", tmp_path / "flat")
    assert ran.code == 0, ran.err
    assert (tmp_path / "flat").stat().st_size == PAGE
    one_line(
        go("read", machine.path, "nothing.dll+0x1", 16, *wide), 2, "1624 program.exe: no module is called 'nothing.dll'"
    )


def test_a_name_and_a_number(truth: Truth, go: Invoke) -> None:
    """--name with --pid takes what matches both; a name that is not there is answered with those that are."""
    assert go("segments", truth.path, "--pid", 1624, "--name", "EXP*").code == 0
    one_line(go("segments", truth.path, "--pid", 1624, "--name", "s*"), 1, "1624 explorer.exe")
    one_line(go("segments", truth.path, "--name", "Explorer"), 1, "it holds: 1624 explorer.exe")


def test_damage_is_noted_wherever_processes_are_listed(go: Invoke, tmp_path: Path) -> None:
    """That the list of processes is damaged is said by processes and by carve --all."""
    path = tmp_path / "mem.raw"
    winimage.build(path, damage="both", processes=winimage.PLANS[:3])
    assert "note: the list of processes is damaged" in go("processes", path).err
    assert "note: the list of processes is damaged" in go("carve", path, "--all").err


# carve


def test_carve_one(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """One process goes into a folder named after image and process: user half, accounts, facts, hashes."""
    ran = go("carve", truth.path, "--pid", 1624)
    assert ran.code == 0, ran.err
    assert listing(tmp_path) == ["mem.1624-explorer.exe.segments"]
    folder = tmp_path / "mem.1624-explorer.exe.segments"
    assert hashed(folder) == expected_files(truth, 1624)
    document, process = manifest(folder), truth.process(1624)
    assert document["process"]["pid"] == 1624
    assert document["process"]["root"] == f"0x{process.root:x}"
    assert document["process"]["state"] == "running"
    assert document["complete"] is True
    assert document["pages"]["pagefile"] == process.absent["pagefile"]
    assert document["totals"]["bytes"] == sum(size for _, size, _ in truth.segments(1624, "user"))
    assert [segment["sha256"] for segment in document["segments"]] == list(expected_files(truth, 1624).values())
    assert go("verify", folder).code == go("verify", folder, "--source", truth.path).code == 0
    complaint(go("carve", truth.path, "--pid", 1624), 1, "exists", "--force")
    assert go("carve", truth.path, "--pid", 1624, "--force", "-q") == (0, b"", "")


@pytest.mark.parametrize("half", ["user", "kernel", "all"])
def test_ranges(truth: Truth, go: Invoke, tmp_path: Path, half: str) -> None:
    """--range takes the half that it names."""
    ran = go("carve", truth.path, "--pid", 388, "--range", half, "-o", "out")
    assert ran.code == 0, ran.err
    assert hashed(tmp_path / "out") == expected_files(truth, 388, half)


def test_split_permissions(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """--split permissions ends segments where the tables allow something else, and says what they allow."""
    assert go("carve", truth.path, "--pid", 1624, "--split", "permissions", "-o", "out").code == 0
    address, _, flags = planned_pages(truth, 1624, "user")
    first = np.ones(len(address), np.bool_)
    first[1:] = (np.diff(address) != np.uint64(PAGE)) | (flags[1:] != flags[:-1])
    segments = manifest(tmp_path / "out")["segments"]
    assert [int(segment["start"], 16) for segment in segments] == address[first].tolist()
    words = {8: None, **{bits: "".join(letter if bits & bit else "-" for letter, bit in zip("urwx", (1, 7, 2, 4),
             strict=True)) for bits in range(1, 8)}}  # fmt: skip
    assert [segment["permissions"] for segment in segments] == [words[flag] for flag in flags[first].tolist()]
    listed = rows_of(go("segments", truth.path, "--pid", 1624, "--split", "permissions", "--format", "jsonl"))
    assert [row["permissions"] for row in listed] == [segment["permissions"] for segment in segments]
    assert {row["state"] for row in listed} == {"present", "transition"}
    assert go("verify", "out", "--source", truth.path).code == 0


def test_carve_several(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """Several --pid and a --name go into one folder each, within one; what lacks bytes makes the status 3."""
    ran = go("carve", truth.path, "--pid", 388, "--pid", 1624)
    assert ran.code == 0, ran.err
    folder = tmp_path / "mem.segments"
    assert listing(folder) == ["1624-explorer.exe", "388-smss.exe", "SHA256SUMS", "processes.json"]
    for pid, name in ((388, "388-smss.exe"), (1624, "1624-explorer.exe")):
        assert hashed(folder / name) == expected_files(truth, pid)
    assert go("verify", folder, "--source", truth.path).code == 0
    ran = go("carve", truth.path, "--name", "E*.EXE", "-o", "named")
    assert ran.code == 3, ran.err
    assert listing(tmp_path / "named") == ["1624-explorer.exe", "2448-edges.exe", "SHA256SUMS", "processes.json"]
    assert hashed(tmp_path / "named" / "2448-edges.exe") == expected_files(truth, 2448)
    assert manifest(tmp_path / "named" / "2448-edges.exe")["complete"] is False


def test_carve_all(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """--all writes every process: bytes as planned, ended ones empty, processes.json says how each ended."""
    ran = go("carve", truth.path, "--all", "-o", "case")
    assert ran.code == 3, ran.err
    rows = {row["pid"]: row for row in json.loads((tmp_path / "case" / "processes.json").read_text())["processes"]}
    assert rows.keys() == {process.pid for process in truth.processes}
    assert listing(tmp_path / "case") == sorted(
        [*(row["files"][0] for row in rows.values()), "SHA256SUMS", "processes.json"]
    )
    for pid, row in rows.items():
        assert re.fullmatch(rf"{pid}(-[A-Za-z0-9_.-]+)?", row["files"][0])
        assert row["error"] is None
        assert row["complete"] is (pid != 2448)
        assert row["state"] == planned(truth.process(pid)).state
        assert hashed(tmp_path / "case" / row["files"][0]) == expected_files(truth, pid)
    assert rows[2860]["count"] == rows[2860]["bytes"] == 0
    assert go("verify", "case", "--source", truth.path).code == 0
    (name,) = rows[1624]["files"]
    victim = next((tmp_path / "case" / name).glob("*.bin"))
    victim.write_bytes(bytes(victim.stat().st_size))
    complaint(go("verify", "case", "--source", truth.path, "-q"), 1, name)


def test_pids_used_twice(go: Invoke, tmp_path: Path) -> None:
    """Two processes with one number are both carved and both verified; what has ended hides none that runs."""
    path = tmp_path / "mem.raw"
    plans = [(388, b"a.exe", False), (388, b"b.exe", False), (400, b"c.exe", True), (400, b"d.exe", False)]
    winimage.build(path, processes=[winimage.Plan(pid, name, exited=exited) for pid, name, exited in plans])
    assert go("carve", path, "--all", "-o", "out").code == 0
    assert listing(tmp_path / "out") == [
        "388-a.exe",
        "388-b.exe",
        "4-System",
        "400-c.exe",
        "400-d.exe",
        "SHA256SUMS",
        "processes.json",
    ]
    assert go("carve", path, "--pid", 400).code == 0
    assert listing(tmp_path) == ["mem.400-d.exe.segments", "mem.raw", "out"]
    with memcarve.open(path) as container:
        assert container.process(400).name == "d.exe"
    ran = go("verify", "out", "--source", path)
    assert ran.code == 0, ran.err


def test_root_outside_the_image(go: Invoke, tmp_path: Path) -> None:
    """A process whose page tables are not in the image fails alone; the others are carved, and the status is 3."""
    path = tmp_path / "mem.raw"
    truth = winimage.build(path, processes=winimage.PLANS[:2])
    image = np.memmap(path, np.uint8, "r+")
    place = truth.process(388).physical + 0x28
    image[place : place + 8] = np.frombuffer(struct.pack("<Q", truth.size + 0x5000), np.uint8)
    image.flush()
    ran = go("carve", path, "--all", "-o", "out")
    assert ran.code == 3, ran.err
    rows = {row["pid"]: row for row in json.loads((tmp_path / "out" / "processes.json").read_text())["processes"]}
    assert rows[388]["files"] == []
    assert "outside the image" in rows[388]["error"]
    assert hashed(tmp_path / "out" / rows[1624]["files"][0]) == expected_files(truth, 1624)
    complaint(go("carve", path, "--pid", 388, "-o", "alone"), 1, "outside the image")
    assert "memcarve: " in go("processes", path, "--pages").err


@pytest.mark.parametrize("command", ["carve", "export --to minidump", "extract"])
def test_all_of_several_fail(truth: Truth, go: Invoke, tmp_path: Path, command: str) -> None:
    """If no process can be written, the error names the first and counts the others; nothing is left."""
    ran = go(*command.split(), truth.path, "--all", "--limit", "1k", "-o", "out")
    complaint(ran, 1, "(process 4 System; the other ", " failed, too)", "--limit", "nothing was kept")
    assert not (tmp_path / "out").exists()


def test_limit(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """--limit stops tables that claim more, by an error that names it; --all goes on with the others."""
    complaint(go("carve", truth.path, "--pid", 1624, "--limit", "1M", "-o", "out"), 1, "--limit", 1 << 20)
    assert go("carve", truth.path, "--pid", 1624, "--limit", "16M", "-o", "out").code == 0
    ran = go("carve", truth.path, "--all", "--limit", "4M", "-o", "case")
    assert ran.code == 3
    rows = {row["pid"]: row for row in json.loads((tmp_path / "case" / "processes.json").read_text())["processes"]}
    assert {pid for pid, row in rows.items() if row["error"]} == {1624, 2448}


def test_one_root(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """--dtb takes one address space, with or without CR3's flags, system and kind given or not; and verifies."""
    process = truth.process(1624)
    files = expected_files(truth, 1624)
    for number, words in enumerate([[], ["--os", "windows"], ["--os", "windows", "--paging", "x64"]]):
        ran = go("carve", truth.path, "--dtb", hex(process.root | 0x5), *words)
        assert ran.code == 0, ran.err
        folder = tmp_path / f"mem.0x{process.root:x}.segments"
        assert hashed(folder) == files, number
        assert go("verify", folder, "--source", truth.path).code == 0
        shutil.rmtree(folder)
    present = np.flatnonzero(planned_pages(truth, 1624, "user").flags != 8)
    assert go("carve", truth.path, "--dtb", hex(process.root), "--os", "none", "-o", "none").code == 0
    assert manifest(tmp_path / "none")["pages"]["present"] == len(present)
    assert "transition" not in manifest(tmp_path / "none")["pages"]
    assert go("verify", "none", "--source", truth.path).code == 0
    path = tmp_path / "none" / "segments.json"
    path.write_text(path.read_text().replace('"os": "none"', '"os": "beos"'))
    ran = go("verify", "none", "--source", truth.path)  # what a folder says of itself is no fault of who verifies it
    assert (ran.code, "SHA256SUMS: does not say" in ran.err) == (1, True), ran.err
    with memcarve.open(truth.path, dtb=process.root) as container:
        assert [entry.root for entry in container.processes()] == [process.root]


def test_hash_input(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """--hash-input records the image's SHA-256; without, it is not read as a whole."""
    assert go("carve", truth.path, "--pid", 388, "--hash-input", "-o", "with").code == 0
    assert go("carve", truth.path, "--pid", 388, "-o", "without").code == 0
    with open(truth.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert manifest(tmp_path / "with")["inputs"]["image"]["sha256"] == digest
    assert "sha256" not in manifest(tmp_path / "without")["inputs"]["image"]


# looking


def test_segments_and_extents(truth: Truth, go: Invoke) -> None:
    """Segments and extents are those planned; an extent says where its pages lie and what the tables allow."""
    rows = rows_of(go("segments", truth.path, "--pid", 1624, "--format", "jsonl"))
    assert [(int(row["start"], 16), row["size"]) for row in rows] == [
        segment[:2] for segment in truth.segments(1624, "user")
    ]
    pages = planned_pages(truth, 1624, "user")
    rows = rows_of(go("segments", truth.path, "--pid", 1624, "--extents", "--format", "jsonl"))
    found = [
        (int(row["start"], 16) + at, int(row["physical"], 16) + at, row["state"])
        for row in rows
        for at in range(0, row["size"], PAGE)
    ]
    states = ["transition" if flag == 8 else "present" for flag in pages.flags.tolist()]
    assert found == list(zip(pages.address.tolist(), pages.physical.tolist(), states, strict=True))
    assert all(row["offset"] == int(row["physical"], 16) for row in rows)


def test_read(truth: Truth, go: Invoke) -> None:
    """Bytes of both halves can be read; what is not in memory is an error that names the address."""
    address = truth.segments(1624, "user")[5][0] + 100
    ran = go("read", truth.path, "--pid", 1624, hex(address), 3000, "--raw")
    assert (ran.code, ran.out) == (0, truth.content(1624, address, 3000))
    ran = go("read", truth.path, "--pid", 1624, hex(truth.kernel_base), 2, "--raw")
    assert (ran.code, ran.out) == (0, b"MZ")
    complaint(go("read", truth.path, "--pid", 1624, "0x1000", 1), 1, "0x1000: not in memory")
    assert go("read", truth.path, "--pid", 1624, hex(address), 16, "--raw", "-q").err == ""


def test_find(truth: Truth, go: Invoke) -> None:
    """Every page's mark is found at its address and its offset in the image."""
    rows = rows_of(go("find", truth.path, "--pid", 3272, "WINIMAGE", "--encoding", "ascii", "--format", "jsonl"))
    pages = planned_pages(truth, 3272, "user")
    marked = [
        (address, physical)
        for address, physical in zip(pages.address.tolist(), pages.physical.tolist(), strict=True)
        if truth.content(3272, address, 8) == b"WINIMAGE"
    ]
    assert [(int(row["address"], 16), row["offset"]) for row in rows] == marked


def test_locate(truth: Truth, go: Invoke) -> None:
    """An address is located in the image, and an offset of the image in the process, everywhere it is mapped."""
    pages = planned_pages(truth, 2448)
    address, physical = int(pages.address[20]) + 5, int(pages.physical[20]) + 5
    (row,) = rows_of(go("locate", truth.path, "--pid", 2448, hex(address), "--format", "jsonl"))
    assert (int(row["address"], 16), row["offset"]) == (address, physical)
    rows = rows_of(go("locate", truth.path, "--pid", 2448, f"+{physical}", "--format", "jsonl"))
    places = (pages.address[pages.physical == np.uint64(physical - 5)] + np.uint64(5)).tolist()
    assert sorted(int(row["address"], 16) for row in rows) == places
    line = complaint(go("locate", truth.path, "--pid", 388, f"+{truth.size + 5}"), 1, hex(truth.size))
    assert "dump" not in line


# wrong uses


def write_linux(path: Path) -> Path:
    """Write a small image of a Linux machine: a banner, and tables at 0x1000 with a page that may not be touched."""
    data = bytearray(16 * PAGE)
    banner = b"Linux version 6.1.0-test (root@host) (gcc 12) #1 SMP\n\0"
    data[0x8000 : 0x8000 + len(banner)] = banner
    inverted = (1 << 52) - 0x6000 - PAGE
    for table, entries in {
        0x1000: {0: 0x2067, 256: 0x2063}, 0x2000: {0: 0x3067}, 0x3000: {0: 0x4067},
        0x4000: {1: 0x5067, 2: inverted | 0x160, 3: 0x7000 << 9 | 0x2},
    }.items():  # fmt: skip
        for index, entry in entries.items():
            struct.pack_into("<Q", data, table + 8 * index, entry)
    for page in (5, 6):
        data[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
    path.write_bytes(data)
    return path


def test_linux(go: Invoke, tmp_path: Path) -> None:
    """A Linux image without --dtb is told so, with the remedy; with it, its pages are read as Linux means them."""
    path = write_linux(tmp_path / "linux.raw")
    for words in (["processes"], ["carve"], ["segments", "--pid", "1"], ["carve", "--all"]):
        complaint(go(words[0], path, *words[1:]), 1, "Linux 6.1.0-test", "--dtb", "--scan")
    ran = go("carve", path, "--dtb", "0x1000")
    assert ran.code == 0, ran.err
    assert binaries(tmp_path / "linux.0x1000.segments") == {
        "0x0000000000001000-0x0000000000003000.bin": b"\5" * PAGE + b"\6" * PAGE
    }
    assert manifest(tmp_path / "linux.0x1000.segments")["pages"]["swapped"] == 1
    assert go("verify", "linux.0x1000.segments", "--source", path).code == 0


def test_32_bits(go: Invoke, tmp_path: Path) -> None:
    """32-bit tables are recognised, with PAE and without; the kernel's half begins at 2 GiB, of Linux at 3 GiB."""
    data = np.zeros((16, 1024), np.uint32)
    data[1, [0, 512, 768]], data[1, [1, 513, 769]] = 0x2067, 0x3067
    data[2, 1] = 0x5067
    data[5] = 0x55555555
    (tmp_path / "x86.raw").write_bytes(data.tobytes())
    wide = np.zeros((16, 512), np.uint64)
    wide[1, :4] = [0x2001, 0, 0x3001, 0x4001]
    wide[2:5, 0] = 0x6067
    wide[6, 1] = 0x5067
    wide[5] = 0x5555555555555555
    (tmp_path / "pae.raw").write_bytes(wide.tobytes())
    for kind, user, system in (
        ("x86", {0x1000}, "windows"), ("x86", {0x1000, 0x80001000}, "linux"),
        ("pae", {0x1000}, "windows"), ("pae", {0x1000, 0x80001000}, "linux"),
    ):  # fmt: skip
        words = ["segments", tmp_path / f"{kind}.raw", "--dtb", "0x1000", "--os", system, "--format", "jsonl"]
        for paging in ([], ["--paging", kind]):
            assert {int(row["start"], 16) for row in rows_of(go(*words, *paging))} == user
            rows = rows_of(go(*words, *paging, "--range", "all"))
            assert {int(row["start"], 16) for row in rows} == {0x1000, 0x80001000, 0xC0001000}
            rows = rows_of(go(*words, *paging, "--range", "kernel"))
            assert {int(row["start"], 16) for row in rows} == {0x1000, 0x80001000, 0xC0001000} - user


def write_odd(folder: Path) -> dict[str, Path]:
    """Write files that are no images."""
    paths = {name: folder / name for name in ("notes.txt", "empty.raw", "x.zip", "hiberfil.sys", "dump.kdump", "flat")}
    paths["notes.txt"].write_text("nothing of interest\n" * 1000)
    paths["empty.raw"].write_bytes(b"")
    with zipfile.ZipFile(paths["x.zip"], "w") as archive:
        archive.writestr("mem.raw", bytes(100_000))
    paths["hiberfil.sys"].write_bytes(b"hibr" + bytes(1 << 16))
    paths["dump.kdump"].write_bytes(b"KDUMP   " + bytes(1 << 16))
    paths["flat"].write_bytes(b"makedumpfile\0" + bytes(1 << 16))
    return paths


@pytest.mark.parametrize("words", [["processes"], ["carve"], ["carve", "--all"], ["segments", "--pid", "4"]])
def test_what_is_no_image(go: Invoke, tmp_path: Path, words: list[str]) -> None:
    """Other files are refused by one line that says what to do; those that hold memory by how to convert them."""
    paths = write_odd(tmp_path)
    for name, said in (
        ("notes.txt", ""), ("empty.raw", "empty"), ("x.zip", ""), ("hiberfil.sys", "hibernation"),
        ("dump.kdump", "makedumpfile -E"), ("flat", "makedumpfile -R"),
    ):  # fmt: skip
        line = complaint(go(words[0], paths[name], *words[1:]), 1, paths[name], said)
        assert not re.search(r"\.$|[A-Z]\w+Error", line)
    assert listing(tmp_path) == sorted(paths)


@pytest.mark.parametrize("name", ["notes.txt", "empty.raw", "x.zip", "hiberfil.sys", "dump.kdump", "flat"])
def test_roots_in_what_is_no_image(go: Invoke, tmp_path: Path, name: str) -> None:
    """With --dtb such files are refused as well, whatever lies at the root; and --scan finds nothing in them."""
    path = write_odd(tmp_path)[name]
    for root in ("0", "0x1000", "0x4000", "0x100000000000"):
        complaint(go("segments", path, "--dtb", root), 1, path)
    ran = go("processes", "--scan", path)
    assert ran.code in (0, 1), ran.err
    assert ran.out.count(b"\n") <= 1


def test_wrong_roots(truth: Truth, go: Invoke) -> None:
    """A root outside the image, or one that is none, is refused by a line that names the remedy."""
    complaint(go("segments", truth.path, "--dtb", hex(truth.size)), 1, hex(truth.size), "outside the image")
    complaint(go("segments", truth.path, "--dtb", "0xffffffffff000"), 1, "outside the image")
    zeros = int(np.flatnonzero(~np.fromfile(truth.path, np.uint64).reshape(-1, 512).any(axis=1))[0]) * PAGE
    complaint(go("segments", truth.path, "--dtb", hex(zeros)), 1, hex(zeros), "--scan")
    for address in range(0x200000, 0x300000, 0x10000):  # whatever lies there
        for words in ([], ["--paging", "pae"], ["--paging", "x86"], ["--paging", "x64-5"], ["--os", "linux"]):
            ran = go("segments", truth.path, "--dtb", hex(address), *words)
            assert ran.code in (0, 1, 3)
            assert "bug in memcarve" not in ran.err


def test_wrong_choices(truth: Truth, go: Invoke) -> None:
    """What is missing or contradicts itself is told in one line that lists what there is."""
    complaint(go("carve", truth.path, "--pid", 99), 1, "no process 99", "1624 explorer.exe")
    complaint(go("carve", truth.path, "--name", "nothing*"), 1, "nothing*")
    complaint(go("carve", truth.path), 2, "--pid", "--name", "--all", "1624 explorer.exe")
    complaint(go("segments", truth.path), 2, "--pid", "1624 explorer.exe")
    complaint(go("locate", truth.path, "0x1000", "--name", "*.exe"), 2, "several")
    complaint(go("carve", truth.path, "--all", "--pid", 4), 2, "--all")
    complaint(go("carve", truth.path, "--pid", 4, "--dtb", "0x1000"), 2, "--dtb", "--pid")
    complaint(go("carve", truth.path, "--pid", "x"), 2, "--pid")
    complaint(go("carve", truth.path, "--pid", 4, "--limit", "much"), 2, "not a size")
    complaint(go("carve", truth.path, "--pid", 4, "--os", "beos"), 2, "windows")


def test_options_of_the_other_kind(truth: Truth, go: Invoke, tmp_path: Path) -> None:
    """What only a dump has is refused with an image, and what only an image has with a dump."""
    shutil.copy(EXAMPLE, tmp_path)
    shutil.copy(EXAMPLE.with_suffix(".map"), tmp_path)
    dump = tmp_path / EXAMPLE.name
    complaint(go("segments", truth.path, "--dtb", "0x1000", "--map", dump.with_suffix(".map")), 2, "--map")
    lime = containers.write_lime(tmp_path / "mem.lime", slices(truth))
    complaint(go("segments", lime, "--pid", 388, "--map", dump.with_suffix(".map")), 1, "mem.lime")
    complaint(go("segments", dump, "--dtb", "0x1000"), 1, dump)
    complaint(go("segments", dump, "--os", "windows"), 1, dump)
    complaint(go("segments", dump, "--split", "permissions"), 2, "--split permissions")


# what goes wrong on the way


def test_image_changes(truth: Truth, go: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that changes while it is carved is an error, and nothing is kept."""
    from memcarve.sinks.segment_writer import Work  # noqa: PLC0415

    path = tmp_path / "mem.raw"
    shutil.copy(truth.path, path)
    true = Work.run

    def changing(self: Work) -> None:
        true(self)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))

    monkeypatch.setattr(Work, "run", changing)
    complaint(go("carve", path, "--pid", 388), 1, "was changed while it was read")
    complaint(go("carve", path, "--pid", 388, "--pid", 1624, "-q"), 1, "was changed while it was read")
    assert listing(tmp_path) == ["mem.raw"]


@pytest.mark.parametrize("late", [False, True])
def test_disk_full(truth: Truth, tmp_path: Path, late: bool) -> None:  # noqa: FBT001
    """A disk that is or runs full under --all is told in one line; what is whole stays, in a folder that says so."""
    before = "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1 << 60)" if late else ""
    with tmpfs(tmp_path, "size=4m") as where:
        ran = run("carve", "-q", truth.path, "--all", "-o", where / "out", before=before)
        assert listing(where) == ["out"]
        marked, *whole = sorted(listing(where / "out"), reverse=True)
        assert marked == "processes.json.partial"
        assert whole
        for name in whole:
            memcarve.verify(where / "out" / name)
    assert ran.code == 1
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith(f"memcarve: {where}/out/")
    assert f"out is partial: {len(whole)} of {len(truth.processes)} processes are whole; not there: " in ran.err
    assert "free" in ran.err or "No space left" in ran.err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are written in threads here")
@pytest.mark.parametrize("seconds", [0, 1])
def test_a_copy_that_is_killed(truth: Truth, tmp_path: Path, seconds: int) -> None:
    """If the system kills the copy that writes a process, that one has failed; all others are whole, and no more."""
    before = (
        "import os, time, memcarve.sinks.several as several\n"
        "true, program, os.cpu_count = several._Several.write, os.getpid(), lambda: 3\n"
        "def write(self, number):\n"
        "    if self.container.entry(number).pid == 388 and os.getpid() != program:\n"
        "        os.mkdir(os.path.join(self.folder.path, '.388-smss.exe.abcdefgh.incomplete'))\n"
        f"        time.sleep({seconds}), os.kill(os.getpid(), 9)\n"
        "    return true(self, number)\n"
        "several._Several.write = write\n"
    )
    ran = run("carve", truth.path, "--all", "-o", tmp_path / "out", "-q", before=before)
    assert ran.code == 3, ran.err
    rows = json.loads((tmp_path / "out" / "processes.json").read_text())["processes"]
    assert [row["pid"] for row in rows if row["error"]] == [388]
    assert "the system ended what wrote it" in ran.err
    assert listing(tmp_path / "out") == sorted(
        [*(name for row in rows for name in row["files"]), "SHA256SUMS", "processes.json"]
    )
    assert run("verify", tmp_path / "out", "--source", truth.path).code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are written in threads here")
def test_a_copy_that_is_killed_before_it_tells(truth: Truth, tmp_path: Path) -> None:
    """If the system kills a copy that has written its process and not told so yet, all are written again."""
    before = (
        "import os, time, memcarve.sinks.several as several\n"
        "true, os.cpu_count = several._Several.write, lambda: 2\n"
        f"killed = {str(tmp_path / 'killed')!r}\n"
        "def write(self, number):\n"
        "    result = true(self, number)\n"
        "    if number == 1 and not os.path.exists(killed): os.mkdir(killed), os.kill(os.getpid(), 9)\n"
        "    if number == 0 and not os.path.exists(killed): time.sleep(5)\n"
        "    return result\n"
        "several._Several.write = write\n"
    )
    ran = run("carve", truth.path, "--pid", 4, "--pid", 388, "-o", tmp_path / "out", "-q", before=before)
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "killed").exists()
    assert listing(tmp_path / "out") == ["388-smss.exe", "4-System", "SHA256SUMS", "processes.json"]
    assert run("verify", tmp_path / "out", "--source", truth.path).code == 0


def test_interrupted(truth: Truth, tmp_path: Path) -> None:
    """Ctrl-C under --all ends in one line, and nothing is left behind but what is whole, in a folder that says so."""
    before = (
        "import os, signal, memcarve.sinks.final_name as f\n"
        "true, calls, program = f.create_file, [], os.getpid()\n"
        "def create_file(*arguments, **options):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 30: os.kill(program, signal.SIGINT)\n"
        "    return true(*arguments, **options)\n"
        "f.create_file = create_file\n"
    )
    ran = run("carve", truth.path, "--all", "-o", tmp_path / "out", before=before)
    assert ran.code == 130, ran.err
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    if "nothing was kept" in ran.err:
        assert listing(tmp_path) == []
    else:
        assert "--resume" in ran.err
        whole = [name for name in listing(tmp_path / "out") if name != "processes.json.partial"]
        assert all(memcarve.verify(tmp_path / "out" / name).complete for name in whole)


# containers

WRITERS: dict[str, Callable[[Path, list[tuple[int, containers.Slice]]], object]] = {
    "lime": containers.write_lime,
    "avml": containers.write_avml,
    "elf": containers.write_elf_core,
    "dmp": lambda path, ranges: containers.write(path, containers.crash_dump_parts(ranges)),
    "bitmap": lambda path, ranges: containers.write(path, containers.crash_dump_parts(ranges, kind="SDMP")),
}


def write_vmware(path: Path, ranges: list[tuple[int, containers.Slice]]) -> None:
    """Write a .vmem and its .vmsn beside it."""
    memory, state = containers.vmware(ranges)
    path.write_bytes(memory)
    path.with_suffix(".vmsn").write_bytes(state)


WRITERS["vmem"] = write_vmware


@pytest.mark.parametrize("kind", WRITERS)
def test_containers(truth: Truth, go: Invoke, tmp_path: Path, kind: str) -> None:
    """In every container the same image gives the same processes and the same segments, its holes left out."""
    ranges = [(start, containers.Slice(truth.path, start, size)) for start, size in truth.ranges()]
    path = tmp_path / f"mem.{kind}"
    WRITERS[kind](path, ranges)
    assert go("processes", path, "--format", "csv").out == go("processes", truth.path, "--format", "csv").out
    ran = go("carve", path, "--pid", 388, "--pid", 1624, "--pid", 2448, "-o", "out")
    assert ran.code in (0, 3), ran.err
    for pid, name in ((388, "388-smss.exe"), (1624, "1624-explorer.exe"), (2448, "2448-edges.exe")):
        expected = {
            f"0x{at:016x}-0x{at + size:016x}.bin": digest
            for at, size, digest in truth.segments(pid, "user", truth.holes)
        }
        assert hashed(tmp_path / "out" / name) == expected
    assert go("verify", "out", "--source", path).code == 0


@pytest.mark.parametrize("kind", WRITERS)
def test_cut_containers(go: Invoke, tmp_path: Path, kind: str) -> None:
    """A container whose end is missing is used as far as it goes, with a note, and the status 3."""
    whole, path = tmp_path / "mem.raw", tmp_path / f"cut.{kind}"
    plans = [winimage.Plan(388, b"smss.exe"), winimage.Plan(800, b"large.exe", 388, (winimage.Heap(2500),))]
    for seed in range(30):
        truth = winimage.build(whole, processes=plans, seed=seed)
        last = int(needed_frames(truth, 800)[-1])
        if (planned_pages(truth, 800, "user").physical > np.uint64((last + 2) * PAGE)).any():
            break
    ranges, gone = slices(truth), truth.size - (last + 1) * PAGE
    if kind not in {"dmp", "bitmap"}:  # these hold memory in order
        ranges, first = kernel_first(truth, 800)
        gone = sum(content.size for _, content in ranges[first:]) // 2
    WRITERS[kind](path, ranges)
    # compressed blocks are of any size
    os.truncate(path, path.stat().st_size - (path.stat().st_size // 4 if kind == "avml" else gone) + 100)
    ran = go("carve", path, "--pid", 800, "-o", "out")
    assert ran.code == 3, ran.err
    assert "note: " in go("processes", path).err
    assert manifest(tmp_path / "out")["complete"] is False
    assert set(hashed(tmp_path / "out")) != set(expected_files(truth, 800))
    data = whole.read_bytes()
    where = dict(zip(*(column.tolist() for column in planned_pages(truth, 800, "user")[:2]), strict=True))
    for name, content in binaries(tmp_path / "out").items():
        start = int(name[2:18], 16)
        for at in range(0, len(content), PAGE):
            page = content[at : at + PAGE]
            assert data[where[start + at] : where[start + at] + len(page)] == page
