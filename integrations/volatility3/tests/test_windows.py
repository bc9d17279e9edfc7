# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""windows.segments on images with known contents, against their truth and against what Volatility prints."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from volatility3.framework import constants

from conftest import FILE, HERE, HOSTILE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import Machine

PAGE = 0x1000
COLUMNS = ["PID", "Process", "Start", "End", "Size", "Extents", "Protection", "File", "File output"]
VERSION = (constants.VERSION_MAJOR, constants.VERSION_MINOR)
#: the page table of equal entries that every kernel half of these images has
EQUAL = (0xFFFFF7E000200000, 512)
LARGE = 0x200000


def canonical(address: int) -> int:
    """Extend bit 47: windows.memmap cuts addresses to 48 bits."""
    return address | (1 << 64) - (1 << 48) if address >> 47 & 1 else address


def pages(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Return the addresses of the pages of (start, size); the last byte of the address space counts as its page."""
    return {page for start, size in ranges for page in range(start, start + size, PAGE)}


def stretches(addresses: set[int]) -> list[tuple[int, int]]:
    """Return (start, pages) of the stretches that pages form."""
    found: list[tuple[int, int]] = []
    for address in sorted(addresses):
        if found and found[-1][0] + found[-1][1] * PAGE == address:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((address, 1))
    return found


def segments_of(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return (start, size) of rows, whose ends agree with them."""
    assert all(row["End"] - row["Start"] == row["Size"] for row in rows)
    return [(row["Start"], row["Size"]) for row in rows]


def test_it_is_found_without_being_told_where(machine: Machine) -> None:
    """No -p: pip puts the plugins where Volatility looks, and nothing is missing to load them."""
    shown = machine.vol.command([machine.vol.program, "--help"]).stdout
    assert "windows.segments.Segments" in shown
    assert "linux.segments.Segments" in shown
    assert "could not be loaded" not in shown or "segments" not in shown.split("could not be loaded")[1]


@pytest.mark.parametrize("pid", [388, 1624, 2036, 3000])
def test_the_segments_are_those_that_were_planned(machine: Machine, pid: int) -> None:
    """The user half is as planned, and the kernel half comes besides."""
    user = machine.vol.rows("windows.segments", "--pid", str(pid))
    everything = machine.vol.rows("windows.segments", "--pid", str(pid), "--kernel")
    truth = machine.truth
    assert segments_of(user) == [(start, size) for start, size, _ in truth.segments(pid, "user")]
    assert segments_of(everything) == [(start, size) for start, size, _ in truth.segments(pid)]
    assert sorted(user[0]) == sorted([*COLUMNS, "__children"])
    name = truth.process(pid).name.decode()
    assert {(row["PID"], row["Process"], row["File output"]) for row in everything} == {(pid, name, "Disabled")}


def test_the_top_of_the_address_space_has_an_end(machine: Machine) -> None:
    """The last page is whole, where windows.memmap leaves its last byte out; its end is 2^64."""
    last = machine.vol.rows("windows.segments", "--pid", "388", "--kernel")[-1]
    theirs = machine.vol.rows("windows.memmap", "--pid", "388")[-1]
    assert (last["Start"], last["End"]) == ((1 << 64) - PAGE, 1 << 64)
    assert (canonical(theirs["Virtual"]), theirs["Size"]) == ((1 << 64) - PAGE, PAGE - 1)


def difference(machine: Machine, pid: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the stretches that only windows.segments has, and those that only windows.memmap has."""
    ours = pages(segments_of(machine.vol.rows("windows.segments", "--pid", str(pid), "--kernel")))
    rows = machine.vol.rows("windows.memmap", "--pid", str(pid))
    theirs = pages((canonical(row["Virtual"]), row["Size"]) for row in rows)
    return stretches(ours - theirs), stretches(theirs - ours)


@pytest.mark.parametrize("pid", [388, 1624])
def test_the_pages_are_those_of_memmap(machine: Machine, pid: int) -> None:
    """But for a page table of 512 equal entries, which Volatility takes for unused memory."""
    assert difference(machine, pid) == ([EQUAL], [])


@pytest.mark.skipif(VERSION < (2, 28), reason="windows.memmap of 2.5.2 and 2.26.2 does not end on these tables")
def test_where_the_pages_differ_from_memmap_memcarve_is_right(machine: Machine) -> None:
    """The process has every oddity of page tables; that its segments are as planned is tested above."""
    ours, theirs = difference(machine, 3000)
    selfmap = canonical(machine.truth.selfmap_slot << 39)

    def window(address: int) -> int:
        """Return where the entry that maps an address is seen through the self-map."""
        return selfmap + (address >> 12) * 8

    user = [stretch for stretch in (*ours, *theirs) if stretch[0] < 1 << 47]
    tables = [stretch for stretch in (*ours, *theirs) if selfmap <= stretch[0] < selfmap + (1 << 39)]
    assert sorted([*user, *tables, EQUAL]) == sorted([*ours, *theirs])
    mine = [stretch for stretch in ours if stretch in user]
    # a page table of 512 equal entries, which Volatility takes for unused memory
    (equal,) = [stretch for stretch in mine if stretch[1] == 512]
    assert equal[0] % LARGE == 0
    # page tables of 40 pages under directories' entries in transition whose protection sets bit 7: Volatility takes
    # them for pages of 2 MiB, and so lists 472 pages that there are not
    (moved,) = [stretch for stretch in mine if stretch != equal]
    assert (moved[0] % LARGE, moved[1]) == (0, 40)
    (bogus,) = [stretch for stretch in theirs if stretch in user]
    assert (bogus[0] % LARGE, bogus[1]) == (40 * PAGE, 472)
    # the same bit, seen through the self-map: a page that is a table, and taken for 2 MiB
    seen = {stretch for stretch in theirs if stretch in tables}
    assert {(start % LARGE, count) for start, count in seen} == {(PAGE, 511)}
    assert window(moved[0]) // LARGE in {start // LARGE for start, _ in seen}
    # and the table of tables whose entries are equal
    assert [count for start, count in ours if (start, count) in tables] == [1]


@pytest.mark.parametrize("pid", [1624, 3008])
def test_protection_and_file_are_those_of_the_region_at_the_start(machine: Machine, pid: int) -> None:
    """And how many more are touched; a region is one of windows.vadinfo's rows."""
    vads = sorted(
        (row["Start VPN"], row["End VPN"], row["Protection"], row["File"])
        for row in machine.vol.rows("windows.vadinfo", "--pid", str(pid))
    )
    rows = machine.vol.rows("windows.segments", "--pid", str(pid))
    for row in rows:
        at = [vad for vad in vads if vad[0] <= row["Start"] <= vad[1]]
        more = [vad for vad in vads if row["Start"] < vad[0] < row["End"]]
        protection = (at[0][2] or None) if at else None
        if more:
            protection = f"{protection or '?' if at else '-'} (+{len(more)})"
        assert row["Protection"] == protection
        assert row["File"] == (at[0][3] if at else None)
    if pid == 3008:
        shown = {row["Start"]: (row["Protection"], row["File"]) for row in rows}
        assert shown[0x30000] == ("PAGE_READWRITE (+2)", None)
        assert shown[0x40000] == ("- (+1)", None)


@pytest.mark.parametrize("pid", [1624, 3008])
def test_split_region_cuts_where_regions_begin_and_end(machine: Machine, pid: int) -> None:
    """Segments end where VADs do; nothing else changes."""
    whole = machine.vol.rows("windows.segments", "--pid", str(pid))
    split = machine.vol.rows("windows.segments", "--pid", str(pid), "--split", "region")
    bounds = set()
    for vad in machine.vol.rows("windows.vadinfo", "--pid", str(pid)):
        bounds |= {vad["Start VPN"], vad["End VPN"] + 1}
    expected = []
    for start, size in segments_of(whole):
        places = sorted({start, start + size} | {bound for bound in bounds if start < bound < start + size})
        expected += [(low, high - low) for low, high in itertools.pairwise(places)]
    assert segments_of(split) == expected
    assert len(split) == len(whole) + (3 if pid == 3008 else 0)
    assert not any("(+" in (row["Protection"] or "") for row in split)
    if pid == 3008:
        shown = {row["Start"]: (row["Protection"], row["File"]) for row in split}
        assert shown[0x32000] == ("PAGE_READONLY", FILE)
        assert shown[0x40000] == (None, None)


def test_several_processes_and_names(machine: Machine) -> None:
    """Several pids and patterns of names choose processes."""

    def pids(*arguments: str) -> set[int]:
        return {row["PID"] for row in machine.vol.rows("windows.segments", *arguments)}

    everybody = {388, 1624, 2036, 3000, 3004, 3008}
    assert pids() == everybody
    assert pids("--pid", "388", "1624") == {388, 1624}
    assert pids("--name", "*.EXE") == everybody
    assert pids("--name", "prog*") == {1624}
    assert pids("--pid", "388", "2036", "--name", "thirty*") == {2036}


def test_what_is_not_there_is_told(machine: Machine) -> None:
    """A process that is not listed is said not to be there."""
    ran = machine.vol.run("windows.segments", "--pid", "5")
    assert "no process is listed that was asked for" in ran.stderr
    ran = machine.vol.run("windows.segments", "--pid", "3000")
    assert "bytes are mapped, but outside the image" in ran.stderr


def test_names_cannot_talk_to_the_terminal(machine: Machine) -> None:
    """Control characters in a name do not reach the terminal."""
    shown = machine.vol.run("windows.segments", "--pid", "3004").stdout
    assert "\x1b" not in shown
    assert "\\x1b[31m=cmd\\x09.exe"[: len(HOSTILE) - 1] in shown


def read_table(text: str, renderer: str) -> list[list[str]]:
    """Return the cells of what a renderer printed, without the header."""
    if renderer in ("json", "jsonl"):
        rows = json.loads(text[text.index("[") :]) if renderer == "json" else [
            json.loads(line) for line in text.splitlines() if line.startswith("{")
        ]  # fmt: skip
        return [[str(row[name]) for name in COLUMNS] for row in rows]
    if renderer == "csv":
        rows = list(csv.DictReader(io.StringIO(text[text.index("TreeDepth") :])))
        return [[row[name] for name in COLUMNS] for row in rows]
    separator = "|" if renderer == "pretty" else "\t"
    lines = [line.lstrip("* |").split(separator) for line in text.splitlines() if "0x" in line]
    return [[cell.strip() for cell in line] for line in lines]


def test_every_renderer_shows_the_same(machine: Machine) -> None:
    """All renderers of this release show the same rows."""
    shown = machine.vol.command([machine.vol.program, "--help"]).stdout
    known = re.findall(r"how to render the output \(([^)]*)\)", " ".join(shown.split()))[0].split(", ")
    tables = {}
    for renderer in known:
        ran = machine.vol.run("windows.segments", "--pid", "1624", given=("-q", "-r", renderer))
        if renderer in ("quick", "pretty", "csv", "json", "jsonl"):
            tables[renderer] = read_table(ran.stdout, renderer)
    numbers = {name: [[int(cell, 0) for cell in row[2:5]] for row in table] for name, table in tables.items()}
    first = numbers["quick"]
    assert len(first) > 10
    assert all(found == first for found in numbers.values())


def test_dump(machine: Machine, tmp_path: Path) -> None:
    """Every segment is a file, which the row names; segments.json is memcarve's own, and memcarve agrees with all."""
    rows = machine.vol.rows(
        "windows.segments", "--pid", "1624", "--kernel", "--dump", given=("-q", "-o", str(tmp_path))
    )
    truth = machine.truth.segments(1624)
    assert segments_of(rows) == [(start, size) for start, size, _ in truth]
    for row, (start, size, sha256) in zip(rows, truth, strict=True):
        assert row["File output"] == f"0x{start:016x}-0x{start + size:016x}.pid.1624.bin"
        assert hashlib.sha256((tmp_path / row["File output"]).read_bytes()).hexdigest() == sha256
    sums = "SHA256SUMS" if (tmp_path / "SHA256SUMS").exists() else "SHA256SUMS.txt"
    assert {path.name for path in tmp_path.iterdir()} == {
        *(row["File output"] for row in rows), "segments.json", sums,
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    document = json.loads((tmp_path / "segments.json").read_text())
    assert [(found["file"], found["sha256"]) for found in document["segments"]] == [
        (row["File output"], sha256) for row, (_, _, sha256) in zip(rows, truth, strict=True)
    ]
    assert document["complete"] is True
    assert document["process"]["pid"] == 1624
    (tmp_path / sums).rename(tmp_path / "SHA256SUMS")
    assert "every byte compared with the source" in memcarve("verify", tmp_path, "--source", machine.truth.path)


def memcarve(*arguments: object) -> str:
    """Run memcarve's own command; return what it printed."""
    program = Path(sys.executable).with_name("memcarve")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


def test_segments_json_says_what_carve_says(machine: Machine, tmp_path: Path) -> None:
    """Of the same process, carved by memcarve alone: the same segments, hashes and regions."""
    (tmp_path / "vol").mkdir()
    machine.vol.run(
        "windows.segments", "--pid", "1624", "--split", "region", "--dump", given=("-q", "-o", str(tmp_path / "vol"))
    )
    memcarve("carve", machine.truth.path, "--pid", "1624", "--split", "region", "-o", tmp_path / "own", "-q")
    ours, own = (json.loads((tmp_path / name / "segments.json").read_text()) for name in ("vol", "own"))
    assert list(ours) == list(own)
    for name in ("schema", "tool", "complete", "partial", "totals", "hashes", "split", "pages", "missing"):
        assert ours[name] == own[name]
    assert ours["process"]["root"] == own["process"]["root"]
    for mine, other in zip(ours["segments"], own["segments"], strict=True):
        same = ("start", "end", "size", "offset", "extents", "sha256", "zero")
        assert [mine[name] for name in same] == [other[name] for name in same]
        assert mine["labels"].get("protection") == other["labels"].get("protection")


def test_what_memcarve_does_not_recognise_is_listed(machine: Machine) -> None:
    """Volatility finds the processes: their page tables are walked also if memcarve finds no system by itself."""
    unfound = "import memcarve.images.system_finding as found\nfound.find_system = lambda *_, **__: None\n"
    script = f"{unfound}import sys\nsys.argv[0] = 'vol'\nfrom volatility3.cli import main\nmain()"
    rest = [*machine.vol.always, "-f", machine.vol.image, "-q", "-r", "json", "windows.segments", "--pid", "388"]
    found = machine.vol.command([sys.executable, "-c", script, *rest]).json()
    assert found == machine.vol.rows("windows.segments", "--pid", "388")
    assert found


def test_what_is_there_is_not_replaced(machine: Machine, tmp_path: Path) -> None:
    """Volatility numbers the second file of a name; rows and segments.json tell that name."""
    given = ("-q", "-o", str(tmp_path))
    first = machine.vol.rows("windows.segments", "--pid", "388", "--dump", given=given)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = machine.vol.rows("windows.segments", "--pid", "388", "--dump", given=given)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    for one, other in zip(first, second, strict=True):
        assert other["File output"] == one["File output"].replace(".bin", "-1.bin")
        assert (tmp_path / one["File output"]).read_bytes() == (tmp_path / other["File output"]).read_bytes()
    named = json.loads((tmp_path / "segments-1.json").read_text())["segments"]
    assert [found["file"] for found in named] == [row["File output"] for row in second]


def test_several_processes_are_dumped_beside_each_other(machine: Machine, tmp_path: Path) -> None:
    """The files of several processes lie in one folder, with a manifest each."""
    rows = machine.vol.rows("windows.segments", "--pid", "388", "1624", "--dump", given=("-q", "-o", str(tmp_path)))
    for pid in (388, 1624):
        named = json.loads((tmp_path / f"pid.{pid}.segments.json").read_text())["segments"]
        assert [found["file"] for found in named] == [row["File output"] for row in rows if row["PID"] == pid]
    assert not list(tmp_path.glob("tmp_*"))


def test_the_export_is_what_memmap_dumps(machine: Machine, tmp_path: Path) -> None:
    """Map and dump, byte for byte, as this release writes them; without the table of equal entries: the user half.

    memcarve is told to leave nothing out, and Volatility leaves the table out: so the kernel's half is compared up to
    it, and after it.
    """
    (tmp_path / "vol").mkdir()
    printed = machine.vol.run(
        "windows.memmap", "--pid", "1624", "--dump", given=("-q", "-o", str(tmp_path / "vol"))
    ).stdout
    memcarve("export", machine.truth.path, "--pid", "1624", "--to", "memmap", "--range", "all", "-o",
             tmp_path / "own", "-q")  # fmt: skip
    theirs = [line.split("\t") for line in printed.splitlines() if line.startswith("0x")]
    ours = [
        line.split("\t")
        for line in (tmp_path / "own" / "pid.1624.map").read_text().splitlines()
        if line.startswith("0x")
    ]
    dump, own = (tmp_path / "vol" / "pid.1624.dmp").read_bytes(), (tmp_path / "own" / "pid.1624.dmp").read_bytes()
    low = EQUAL[0] & (1 << 48) - 1
    extra = [row for row in ours if low <= int(row[0], 16) < low + EQUAL[1] * PAGE]
    assert sum(int(row[2], 16) for row in extra) == EQUAL[1] * PAGE
    begin, size = int(extra[0][3], 16), EQUAL[1] * PAGE
    kept = [row for row in ours if row not in extra]
    assert [row[:3] for row in kept] == [row[:3] for row in theirs]
    assert [int(row[3], 16) - (size if int(row[3], 16) > begin else 0) for row in kept] == [
        int(row[3], 16) for row in theirs
    ]
    assert own[:begin] + own[begin + size :] == dump


@pytest.mark.newest
def test_the_readme_is_true(machine: Machine, linux: Any, tmp_path: Path) -> None:
    """Its commands run as they stand there, but for where symbols are and that the network is not asked."""
    text = (HERE.parent / "README.md").read_text()
    commands = [line.split() for line in re.findall(r"^    (vol -f .*)$", text, re.MULTILINE)]
    assert len(commands) >= 4
    for command in commands:
        vol = linux if command[3].startswith("linux") else machine.vol
        if not (tmp_path / command[2]).exists():
            (tmp_path / command[2]).symlink_to(vol.image)
        ran = vol.command([vol.program, "-q", *vol.always, *command[1:]], cwd=tmp_path)
        assert len(ran.stdout.splitlines()) > 10, command
