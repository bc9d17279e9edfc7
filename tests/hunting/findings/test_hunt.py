"""A hunt over all processes of an image: what was planned is found, the worst first, and nothing else."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from cli import command, invoke, run
from linux_machines import machine, machines
from memcarve.cli.findings_table import bytes_of, groups_of, table_of
from memcarve.cli.hexdump import disassembly
from memcarve.hunting.findings import every_process
from memcarve.vocabulary import Severity
from winimage import Plan, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

#: what the usual process and the one of 32 bits have for an analyst to find: flag, address
PLANNED = {
    (1624, "private-executable", 0x2A0000),
    (1624, "writable-executable", 0x2A0000),
    (1624, "pe-in-private", 0x2A0000),
    (1624, "wiped-header", 0x7FFA11000000),
    (1624, "writable-executable", 0x7FFA12003000),
    (1624, "beyond-section", 0x7FFA12003000),
    (1624, "module-unlisted", 0x7FFA13000000),
    (1624, "module-unlinked", 0x7FFA14000000),
    (1624, "entry-unmapped", 0x7FFA15000000),
    (2036, "entry-unmapped", 0x10000000),
}
#: processes among which some are not what they seem
ODD = (
    Plan(388, b"smss.exe"),
    Plan(400, b"wininit.exe", 396),
    Plan(404, b"services.exe", 400),
    Plan(408, b"svchost.exe", 404),
    Plan(412, b"svchost.exe", 4000),
    Plan(416, b"lsass.exe", 408),
    Plan(420, b"svch0st.exe", 408),
    Plan(424, b"scvhost.exe", 408),
    Plan(428, b"tool.exe", 432),
    Plan(432, b"late.exe", 408),
    Plan(436, b"hidden.exe", 408, listed=False),
    Plan(440, b"ended.exe", 408, exited=True, listed=False),
    Plan(444, b"lsm.exe", 400, memory=(), userland=winimage.userland.plain(444)),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of a machine with two usual processes."""
    path = tmp_path_factory.mktemp("hunt") / "mem.raw"
    winimage.build(path, processes=winimage.USERLAND)
    return path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of a machine with odd processes."""
    path = tmp_path_factory.mktemp("hunt") / "odd.raw"
    winimage.build(path, processes=ODD)
    return path


@pytest.fixture
def opened(image: Path) -> Iterator[memcarve.Container]:
    """Return the first image, opened."""
    with memcarve.open(image) as container:
        yield container


def places(found: memcarve.Hunt) -> set[tuple[int | None, str, int | None]]:
    """Return process, flag and address of what was found."""
    return {(row.entry.pid, str(row.flag), row.address) for row in found}


@pytest.mark.parametrize("layout", range(0, winimage.LAYOUTS, 3))
def test_what_was_planned_is_found(layout: int, tmp_path: Path) -> None:
    """What was planned is found, in any layout of the kernel, and nothing else that is more than information."""
    winimage.build(tmp_path / "mem.raw", layout=layout, processes=winimage.USERLAND)
    with memcarve.open(tmp_path / "mem.raw") as container:
        assert places(memcarve.hunt(container, severity="low")) == PLANNED


def test_odd_processes(odd: Path) -> None:
    """Odd processes are found, and of the usual ones nothing is said."""
    with memcarve.open(odd) as container:
        found = memcarve.hunt(container)
    assert [(row.severity, row.entry.pid, row.flag) for row in found if row.address is None] == [
        ("high", 416, "wrong-parent"),
        ("high", 420, "imitated-name"),
        ("high", 436, "unlinked-process"),
        ("high", 444, "wrong-path"),
        ("medium", 412, "missing-parent"),
        ("medium", 424, "imitated-name"),
        ("info", 428, "younger-parent"),
    ]


@pytest.mark.parametrize("name", machines())
def test_linux_machines(name: str) -> None:
    """Of real machines, nothing is severe but the program that was made to look like the kernel's."""
    with memcarve.open(machine(name).raw) as container:
        found = memcarve.hunt(container)
    severe = [(row.entry.name, str(row.flag)) for row in found if row.severity == "high"]
    assert severe in ([], [("memfd:kworker/u", "kernel-thread-name")])
    assert found.failed == ()
    processes = {row.entry.pid for row in found if row.severity == "medium"}
    assert len(processes) * 4 < found.processes


def test_order_evidence_and_reasons(opened: memcarve.Container) -> None:
    """The worst come first; evidence is what lies there; every finding has a reason for its severity."""
    found = memcarve.hunt(opened, evidence=100)
    ranks = [[*Severity].index(Severity(row.severity)) for row in found]
    assert ranks == sorted(ranks)
    assert all(row.reason and row.why for row in found)
    with_bytes = [row for row in found if row.evidence is not None]
    assert len(with_bytes) >= 7
    for row in with_bytes:
        process = opened.process(row.entry.pid)
        assert row.evidence is not None
        assert len(row.evidence.data) == 100
        assert process.read(row.evidence.address, 100) == row.evidence.data
    assert {row.evidence.runs for row in with_bytes if row.evidence} == {True, False}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"flag": ["wiped-header"]}, {(1624, "wiped-header", 0x7FFA11000000)}),
        ({"file": ["patched*"]}, {row for row in PLANNED if row[2] == 0x7FFA12003000}),
        ({"kind": ["private"], "severity": "low"}, {row for row in PLANNED if row[2] == 0x2A0000}),
        ({"severity": "high"}, {(1624, "module-unlinked", 0x7FFA14000000)}),
        ({"flag": ["unlinked-process"]}, set()),
    ],
)
def test_choosing(opened: memcarve.Container, how: dict[str, Any], expected: set[Any]) -> None:
    """Findings are chosen by flag, file, kind and severity."""
    assert places(memcarve.hunt(opened, **how)) == expected


def test_unknown_words(opened: memcarve.Container) -> None:
    """An unknown severity, flag or kind is an error that lists those that there are."""
    for how in ({"severity": "worse"}, {"flag": ["no-flag"]}, {"kind": ["no-kind"]}):
        with pytest.raises(memcarve.UsageError, match="choose from"):
            memcarve.hunt(opened, **how)  # type: ignore[arg-type]


def test_a_process_is_not_what_is_hunted_in(opened: memcarve.Container) -> None:
    """A single process is an error that says what is taken instead, and how one process is chosen."""
    process = opened.process(1624)
    with pytest.raises(memcarve.UsageError, match=r"not at a process 1624 .*places of processes"):
        memcarve.hunt(process)  # type: ignore[arg-type]
    with pytest.raises(memcarve.UsageError, match="not at a list"):
        memcarve.hunt([process])  # type: ignore[arg-type]


def test_bounded(opened: memcarve.Container) -> None:
    """Of each flag in each process some findings are kept, and the others counted by severity."""
    every = memcarve.hunt(opened)
    few = memcarve.hunt(opened, most=2)
    kept = Counter((row.entry.pid, row.flag) for row in few)
    assert max(kept.values()) == 2
    assert len(few) + sum(row.number for row in few.more) == len(every)
    assert {row.flag for row in few.more} == {"private-executable", "writable-executable"}


def test_bounded_in_all(opened: memcarve.Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all findings the worst are kept."""
    every = memcarve.hunt(opened)
    monkeypatch.setattr("memcarve.hunting.findings.hunt._MOST_IN_ALL", 5)
    few = memcarve.hunt(opened)
    assert [row.severity for row in few] == [row.severity for row in every][:5]
    assert sum(row.number for row in few.more) == len(every) - 5


def test_one_at_a_time(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found in copies of the program is what is found without."""
    with memcarve.open(image) as container:
        together = memcarve.hunt(container)
    monkeypatch.setattr(every_process.os, "cpu_count", lambda: 1)
    with memcarve.open(image) as container:
        alone = memcarve.hunt(container)
    assert together == alone


@pytest.mark.parametrize("workers", [1, 3])
def test_a_process_that_fails(image: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails does not stop the others, whether they are looked at in copies or not."""
    true = memcarve.Container.process

    def process(self: memcarve.Container, *arguments: Any, **how: Any) -> Any:
        if self.entry(how["index"]).pid == 1624:
            raise memcarve.ProcessError("is damaged")
        return true(self, *arguments, **how)

    monkeypatch.setattr(memcarve.Container, "process", process)
    monkeypatch.setattr(every_process.os, "cpu_count", lambda: workers)
    with memcarve.open(image) as container:
        found = memcarve.hunt(container, severity="low")
    assert places(found) == {row for row in PLANNED if row[0] != 1624}
    assert [(entry.pid, str(error)) for entry, error in found.failed] == [(1624, "is damaged")]
    assert found.incomplete


def test_what_is_known_of_a_process_that_fails(tmp_path: Path) -> None:
    """One that made its page tables so that they cannot be walked is remarked all the same for what it is."""
    truth = winimage.build(tmp_path / "mem.raw", processes=ODD)
    with open(truth.path, "r+b") as file:
        for pid in (420, 436):
            root = next(process.root for process in truth.processes if process.pid == pid)
            file.seek(root)
            file.write(b"".join((root + 7).to_bytes(8, "little") for _ in range(256)))  # the table is its own
    with memcarve.open(truth.path) as container:
        found = memcarve.hunt(container, severity="high")
    assert {entry.pid for entry, _ in found.failed} == {420, 436}
    flags = {(row.entry.pid, row.flag) for row in found if row.entry.pid in (420, 436)}
    assert {(420, "imitated-name"), (436, "unlinked-process")} <= flags


def test_a_copy_that_is_ended(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system ends a copy, the process that it was for is named, and the others are looked at."""
    true, program = memcarve.Container.process, os.getpid()

    def process(self: memcarve.Container, *arguments: Any, **how: Any) -> Any:
        if os.getpid() != program and self.entry(how["index"]).pid == 1624:
            os._exit(9)
        return true(self, *arguments, **how)

    monkeypatch.setattr(memcarve.Container, "process", process)
    monkeypatch.setattr(every_process.os, "cpu_count", lambda: 2)
    with memcarve.open(image) as container:
        if not container.can_be_forked or not hasattr(os, "fork"):
            pytest.skip("no copies are made here")
        found = memcarve.hunt(container, severity="low")
    assert places(found) == {row for row in PLANNED if row[0] != 1624}
    assert [entry.pid for entry, _ in found.failed] == [1624]


def test_a_running_process(tmp_path: Path) -> None:
    """Any source can be hunted in: a process that runs, and a folder that was carved."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc")
    with memcarve.open(f"/proc/{os.getpid()}") as container:
        found = memcarve.hunt(container, severity="medium", evidence=0)
        process = container.process()
        memcarve.carve(process, process.segments(), tmp_path / "out")
    assert found.processes == 1
    assert not any(row.severity == "high" for row in found)
    with memcarve.open(tmp_path / "out") as container:
        again = memcarve.hunt(container, severity="medium")
    assert again.processes == 1


@pytest.mark.parametrize("kind", ["minidump", "elfcore", "segments"])
def test_every_source(image: Path, kind: str, tmp_path: Path) -> None:
    """What is written of a process is hunted in, too: what its metadata still tells is found, and nothing else."""
    with memcarve.open(image) as container:
        process = container.process(1624, half="user")
        chosen = process.segments(labeller=memcarve.Labelling("headers", read=True))
        if kind == "segments":
            memcarve.carve(process, chosen, tmp_path / "out")
        else:
            memcarve.export(process, chosen, tmp_path / "out", kind)
    with memcarve.open(tmp_path / "out") as container:
        found = memcarve.hunt(container, severity="low")
    expected = {row for row in PLANNED if row[0] == 1624}
    assert places(found) <= expected
    # what only page tables say, and what lies in no segment
    lost = {row for row in expected - places(found) if row[1] not in ("beyond-section", "module-unlinked")}
    assert lost <= {(1624, "writable-executable", 0x7FFA12003000), (1624, "entry-unmapped", 0x7FFA15000000)}
    assert "imitated-name" not in found.unlooked
    assert found.unlooked["beyond-section"].everywhere


def test_shown_as_instructions() -> None:
    """Code is shown as instructions of its processor, few of them; what is no code, as bytes."""
    pytest.importorskip("capstone")
    assert disassembly(0x1000, b"\x48\x89\xe5\xc3", "x64") == [
        "0000000000001000  48 89 e5                   mov rbp, rsp",
        "0000000000001003  c3                         ret",
    ]
    assert disassembly(0x1000, bytes.fromhex("1f2003d5 c0035fd6"), "arm64")[1].endswith(" ret")
    assert disassembly(0x1000, b"\x55\x89\xe5", "x86")[1].endswith("mov ebp, esp")
    many = disassembly(0x1000, b"\x90" * 64, "x64")
    assert len(many) == 13
    assert many[-1].strip() == ".."
    for data, architecture in ((b"\x06" * 64, "x64"), (b"\x90", None), (b"\x90", "arm"), (b"", "x64")):
        assert disassembly(0x1000, data, architecture) == []


def test_without_capstone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, nothing is shown as instructions."""
    monkeypatch.setitem(sys.modules, "capstone", None)
    assert disassembly(0x1000, b"\x90" * 64, "x64") == []


def test_hostile_processes(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of processes with everything wrong something is found in bounded time, and what is printed steers no terminal."""
    winimage.build(tmp_path / "mem.raw", megabytes=64, processes=hostile.PLANS[::3])
    for layout in ("table", "json"):
        ran = invoke(capfdbinary, "hunt", tmp_path / "mem.raw", "--severity", "info", "--format", layout)
        assert ran.code in (0, 3)
        assert ran.out
        assert all(c.isprintable() or c == "\n" for c in ran.out.decode() + ran.err)


@pytest.mark.parametrize("damage", [None, "forward", "both"])
def test_damaged_lists(tmp_path: Path, damage: str | None) -> None:
    """A process that only a search finds is worth less if the list is damaged."""
    winimage.build(tmp_path / "mem.raw", damage=damage)
    with memcarve.open(tmp_path / "mem.raw") as container:
        found = memcarve.hunt(container, flag=["unlinked-process"])
    assert (3272, "high" if damage is None else "low") in [(row.entry.pid, row.severity) for row in found]
    assert {row.severity for row in found} == {"high" if damage is None else "low"}


# the command


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_fits(opened: memcarve.Container, width: int) -> None:
    """No line is wider than the screen, and the table is worst first."""
    groups = groups_of(memcarve.hunt(opened).findings)
    table = [*table_of(groups, width)]
    assert max(map(len, [*table, *bytes_of(groups, width)])) <= width
    assert table[0].split()[:5] == ["severity", "pid", "process", "flag", "address"]
    words = [line.split()[0] for line in table[1:]]
    assert words == sorted(words, key=[*Severity].index)


def test_at_a_terminal(image: Path) -> None:
    """At a terminal the table is as wide as that, within limits; elsewhere it is as wide as it gets."""
    for columns, widest in ((80, 80), (100, 100), (20, 80), (500, 120)):
        words = command("hunt", image, before=f"import os\nos.environ['COLUMNS'] = '{columns}'")
        lines = at_terminal(words).splitlines()
        assert widest - 25 < max(map(len, lines)) <= widest
        assert not any("\x1b" in line for line in lines)
    assert max(map(len, run("hunt", image, env={"COLUMNS": "80"}).out.decode().splitlines())) > 100


def at_terminal(words: list[str]) -> str:
    """Return what a program prints at a terminal of its own."""
    pty = pytest.importorskip("pty")
    main, there = pty.openpty()
    with subprocess.Popen(words, stdin=there, stdout=there, stderr=subprocess.DEVNULL):
        os.close(there)
        text = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while data := os.read(main, 1 << 16):
                text += data
    os.close(main)
    return text.decode()


def test_bytes_are_shown(image: Path, capfdbinary: Capture) -> None:
    """Each finding shows a few lines of its bytes, unless none are wanted."""
    text = invoke(capfdbinary, "hunt", image).out.decode()
    assert "\n1624 program.exe at 0x2a0000: pe-in-private (medium), private-executable (medium)" in text
    assert "    00000000002a0000  4d 5a 90 00 03 00 00 00  04 00 00 00 ff ff 00 00  |MZ..............|\n" in text
    lines = [line for line in text.splitlines() if re.match(r" +00000000002a00[0-9a-f]0  ", line)]
    assert len(lines) == 4
    few = invoke(capfdbinary, "hunt", image, "--bytes", "16").out.decode()
    assert sum(line.startswith("    00000000002a00") for line in few.splitlines()) == 1
    none = invoke(capfdbinary, "hunt", image, "--no-bytes").out.decode()
    assert "|MZ" not in none
    assert invoke(capfdbinary, "hunt", image, "--bytes", "1M").code == 2


def test_names_from_evidence(tmp_path: Path, capfdbinary: Capture) -> None:
    """What names hold is escaped wherever it is shown."""
    plans = [Plan(388, b"\x1b[2Jsmss.e", 4), Plan(400, b"svchost\xe2\x80\xae.exe", 5), Plan(404, b'=1+1"<b>,\n', 999)]
    winimage.build(tmp_path / "mem.raw", processes=plans)
    for layout in ("table", "json", "jsonl", "csv"):
        ran = invoke(capfdbinary, "hunt", tmp_path / "mem.raw", "--severity", "info", "--format", layout)
        text = ran.out.decode() + ran.err
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "missing-parent" in text


def test_formats(image: Path, odd: Path, capfdbinary: Capture) -> None:
    """JSON is a document with a schema and all that was found; JSON lines and CSV have the same findings."""
    document = json.loads(invoke(capfdbinary, "hunt", image, "--format", "json", "--severity", "info").out)
    assert document["schema"] == 1
    assert document["processes"] == 5
    rows = document["findings"]
    lines = invoke(capfdbinary, "hunt", image, "--format", "jsonl", "--severity", "info").out.splitlines()
    assert [json.loads(line) for line in lines] == rows
    cells = [*csv.DictReader(io.StringIO(invoke(capfdbinary, "hunt", image, "--format", "csv").out.decode()))]
    assert [(row["pid"], row["flag"], int(row["address"], 16)) for row in cells] == [
        (str(row["pid"]), row["flag"], int(row["address"], 16)) for row in rows if row["severity"] != "info"
    ]
    first = next(row for row in rows if row["flag"] == "pe-in-private")
    assert first["evidence"]["bytes"].startswith("4d5a9000")
    assert first["region"]["protection"] == "PAGE_EXECUTE_READWRITE"
    assert first["permissions"] == ["urwx"]
    assert {row["flag"] for row in document["not_looked_for"]} >= {"text-differs"}
    empty = json.loads(invoke(capfdbinary, "hunt", odd, "--pid", "388", "--format", "json").out)
    assert empty["findings"] == []


def test_the_same_in_many_processes(tmp_path: Path, capfdbinary: Capture) -> None:
    """What is the same in many processes is one row, with their number; in JSON there are all."""
    plans = [Plan(388, b"smss.exe"), *(Plan(400 + 4 * number, b"tool.exe", 999) for number in range(20))]
    winimage.build(tmp_path / "mem.raw", processes=plans)
    table = invoke(capfdbinary, "hunt", tmp_path / "mem.raw", "--severity", "info").out.decode().splitlines()
    assert len([line for line in table if "missing-parent" in line and line.startswith("info")]) == 1
    assert "20 processes" in table[1]
    numbers = ", ".join(str(400 + 4 * number) for number in range(20))
    assert f"20 processes ({numbers}), as 400 tool.exe: missing-parent" in " ".join(" ".join(table).split())
    ran = invoke(capfdbinary, "hunt", tmp_path / "mem.raw", "--severity", "info", "--format", "json")
    assert len(json.loads(ran.out)["findings"]) == 20


def test_places_that_are_not_shown(image: Path, capfdbinary: Capture) -> None:
    """Of many places of one flag in a process the table shows five, and says how many more there are."""
    rows = invoke(capfdbinary, "hunt", image, "--severity", "info", "--format", "jsonl").out.splitlines()
    kept = Counter((row["severity"], row["flag"]) for row in map(json.loads, rows) if row["pid"] == 1624)
    ran = invoke(capfdbinary, "hunt", image, "--severity", "info")
    text = ran.out.decode()
    assert re.findall(r"(?m)^(\w+) +1624  program\.exe +([\w-]+) +(\d+) more$", text) == [
        (*key, str(number - 5)) for key, number in sorted(kept.items()) if number > 5
    ]
    for (_, flag), number in kept.items():
        said = f"\n  ({number - 5} more of {flag} in this process are not shown)\n"
        assert (said in text) == (number > 5)
    assert "5 places of each flag in each process are shown" in ran.err


def test_what_nobody_kept_is_counted_as_well(opened: memcarve.Container) -> None:
    """The number of places that are not shown has those of which nothing but their number was kept."""
    few = memcarve.hunt(opened, most=2, flag=["private-executable"], severity="info")
    every = memcarve.hunt(opened, flag=["private-executable"], severity="info")
    groups = [group for group in groups_of(few.findings, few.more) if len(group.holders) == 1]
    shown = sum(len(group.holders) + group.more for group in groups_of(few.findings, few.more))
    assert shown == len(every)
    assert sum(group.more for group in groups) == sum(row.number for row in few.more)


def test_one_place_in_several_processes_is_said_once(image: Path) -> None:
    """What is at one address in the same processes stands there with one look at the bytes."""
    with memcarve.open(image) as container:
        [row] = memcarve.hunt(container, flag=["pe-in-private"])
    other = row.entry._replace(pid=7)
    rows = [
        row._replace(entry=entry, flag=flag, why=flag)
        for flag in ("pe-in-private", "private-executable")
        for entry in (row.entry, other)
    ]
    lines = [*bytes_of(groups_of(rows), 120)]
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == [
        "2 processes (1624, 7), as 1624 program.exe at 0x2a0000: pe-in-private (medium), private-executable (medium)"
    ]
    assert sum("|MZ" in line for line in lines) == 1


def test_chosen_processes(image: Path, odd: Path, capfdbinary: Capture) -> None:
    """Processes are chosen by number or name; all if none is named."""
    found = invoke(capfdbinary, "hunt", image, "--pid", "2036", "--format", "jsonl")
    assert {json.loads(line)["pid"] for line in found.out.splitlines()} == {2036}
    assert "in 1 process " in found.err
    found = invoke(capfdbinary, "hunt", odd, "--name", "svchost*", "--format", "jsonl")
    assert {json.loads(line)["pid"] for line in found.out.splitlines()} == {412}
    assert invoke(capfdbinary, "hunt", odd, "--all", "-q").out == invoke(capfdbinary, "hunt", odd, "-q").out
    assert invoke(capfdbinary, "hunt", odd, "--pid", "1").code == 1


def test_what_was_not_looked_for(image: Path, capfdbinary: Capture) -> None:
    """What could not be looked for is said once, with what it needs, in the words of options."""
    said = [line for line in invoke(capfdbinary, "hunt", image).err.splitlines() if "not looked for" in line]
    assert len(said) <= 2
    assert not any("{" in line for line in said)
    assert not any("memfd" in line for line in said)  # of another system


def test_processes_of_which_nothing_is_there(image: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Processes of whose memory nothing was there are named; what was looked for in others is not called unlooked."""
    said = invoke(capfdbinary, "hunt", image, "--severity", "high").err
    assert "note: nothing is there of the user half of 2 processes: 4 System, 2860 gone.exe\n" in said
    alone = invoke(capfdbinary, "hunt", image, "--pid", "2860").err
    assert "note: nothing is there of the user half of 1 process: 2860 gone.exe\n" in alone
    assert invoke(capfdbinary, "carve", image, "--all", "-o", tmp_path / "all").code == 0
    ran = invoke(capfdbinary, "hunt", tmp_path / "all", "--flag", "writable-executable")
    assert "writable-executable  0x2a0000" in ran.out.decode()
    assert "nothing is there of the memory of 2 processes" in ran.err
    assert "not looked for" not in ran.err


def test_a_failure_is_said(image: Path) -> None:
    """The exit status is 3 if a process failed, and standard error says which."""
    before = (
        "import memcarve.process as p\ntrue = p.Container.process\n"
        "def process(self, *a, **h):\n"
        "    if self.entry(h['index']).pid == 1624: raise p.ProcessError('is damaged')\n"
        "    return true(self, *a, **h)\n"
        "p.Container.process = process\n"
    )
    ran = run("hunt", image, before=before)
    assert ran.code == 3
    assert "memcarve: 1624 program.exe: is damaged\n" in ran.err
    assert b"thirtytwo.exe" in ran.out


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")
def test_stopped(image: Path) -> None:
    """A hunt that is stopped ends at once, and its copies with it."""
    before = (
        "import os, sys, time, memcarve.process as p\n"
        "program, os.cpu_count = os.getpid(), lambda: 2\n"
        "def process(self, *a, **h):\n"
        "    if os.getpid() == program: raise p.ProcessError('later')\n"
        "    sys.stderr.write('begun\\n'); sys.stderr.flush(); time.sleep(100)\n"
        "p.Container.process = process\n"
    )
    words = command("hunt", image, "--flag", "odd-header", before=before)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.readline() == "begun\n"
        program.send_signal(signal.SIGINT)
        rest = program.stderr.read()  # until the copies have ended, too
        assert program.wait(30) == 130
    assert "stopped (SIGINT)" in rest
