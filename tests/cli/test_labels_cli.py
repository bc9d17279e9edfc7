"""Labels through the command line, on a dump with what Volatility printed beside it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import sinking
from carved import binaries, manifest
from cli import invoke
from dumps import write_dump
from headers import TEXT, dll_page
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran
    from dumps import Piece

    Capture = pytest.CaptureFixture[bytes]
    Invoke = Callable[..., Ran]

BASE = 0x7FF600000000
#: a heap, an image of two parts with an injected neighbour right behind it, and memory of which nothing is known
ROWS: list[Piece] = [
    (0x20000, noise(1, 2 * PAGE)),
    (BASE, dll_page([(1, 2, TEXT)], size=4) + noise(2, PAGE)),
    (BASE + 2 * PAGE, noise(3, 2 * PAGE) + dll_page([(1, 1, TEXT)]) + bytes(PAGE)),
    (0x90000, noise(4, PAGE)),
]
VADS = [
    (0x20000, 0x2FFFF, "VadS", "PAGE_READWRITE", 1, None),
    (BASE, BASE + 4 * PAGE - 1, "Vad ", "PAGE_EXECUTE_WRITECOPY", 0, "\\Windows\\System32\\evil name.dll"),
    (BASE + 4 * PAGE, BASE + 16 * PAGE - 1, "VadS", "PAGE_EXECUTE_READWRITE", 1, None),
    (0x7DF000000000, 0x7FF4FFFFFFFF, "Vad ", "PAGE_NOACCESS", 0, None),
]
MODULES = [
    {"PID": 4, "Process": "x", "Base": BASE, "Size": 4 * PAGE, "Name": "evil name.dll", "Path": "C:\\evil name.dll"},
    {"PID": 4, "Process": "x", "Base": 0x50000000, "Size": PAGE, "Name": "ghost.dll", "Path": None},
    {"PID": 8, "Process": "y", "Base": 0x20000, "Size": PAGE, "Name": "other.dll", "Path": None},
]


def json_lines(rows: list[dict[str, Any]]) -> str:
    """Return rows as Volatility prints them as JSON lines."""
    return "\n" + "".join(f"{json.dumps({**row, '__children': []})}\n" for row in rows)


def vads(pid: int = 4) -> list[dict[str, Any]]:
    """Return the rows of windows.vadinfo."""
    names = ("Start VPN", "End VPN", "Tag", "Protection", "PrivateMemory", "File")
    return [
        {"PID": pid, "Process": "x", "Offset": 1, "CommitCharge": 0, "Parent": 0, "File output": "Disabled"}
        | dict(zip(names, row, strict=True))
        for row in VADS
    ]


@pytest.fixture
def go(capfdbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capfdbinary, *map(str, words))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump with its map, its regions and its modules beside it."""
    found = write_dump(tmp_path, ROWS)
    (tmp_path / "pid.4.vadinfo.jsonl").write_text(json_lines(vads()))
    (tmp_path / "pid.4.dlllist.jsonl").write_text(json_lines(MODULES))
    return found


def rows_of(ran: Ran) -> list[dict[str, Any]]:
    """Return what was printed as JSON lines."""
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def test_segments_show_labels(go: Invoke, dump: Path) -> None:
    """Protection, kind, file and offset, flags; nothing of memory of which nothing is known; notes say the sources."""
    ran = go("segments", dump, "--format", "jsonl")
    heap, unknown, image = rows_of(ran)
    assert (heap["protection"], heap["kind"], heap["file"], heap["flags"]) == (["rw-"], ["private"], None, [])
    assert {unknown[name] for name in ("protection", "kind", "file")} == {None}
    assert (image["protection"], image["kind"]) == (["rcx", "rwx"], ["image", "private"])
    assert (image["file"], image["file_offset"], image["regions"]) == ("evil name.dll", 0, 2)
    assert image["flags"] == ["private-executable", "writable-executable"]
    assert "pid.4.vadinfo.jsonl" in ran.err
    assert "pid.4.dlllist.jsonl" in ran.err
    assert "entry-unmapped: 0x50000000: windows.dlllist" in ran.err


def test_without_evidence_nothing_changes(go: Invoke, tmp_path: Path) -> None:
    """A dump with nothing beside it is listed as before: no column is made up."""
    (row, *_) = rows_of(go("segments", write_dump(tmp_path, ROWS), "--format", "jsonl"))
    assert [*row] == ["start", "end", "size", "extents", "offset"]


def test_table_for_people(go: Invoke, dump: Path) -> None:
    """Names without paths, with the offset; a content level adds its columns."""
    ran = go("segments", dump, "--content", "full", "--split", "region")
    header, *lines = ran.out.decode().splitlines()
    assert header.split() == [
        "start", "end", "size", "extents", "offset", "whole_start", "whole_end", "protection", "kind", "file",
        "zero_pages", "entropy", "text", "headers", "flags",
    ]  # fmt: skip
    (image,) = [line for line in lines if "evil name.dll+0x0" in line]
    assert f"PE@0x{BASE:x}" in image
    (injected,) = [line for line in lines if "pe-in-private" in line]
    assert injected.startswith(f"0x{BASE + 4 * PAGE:016x}")
    assert f"PE@0x{BASE + 4 * PAGE:x}" in injected


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (["--kind", "image"], [BASE]),
        (["--kind", "private", "--split", "region"], [0x20000, BASE + 4 * PAGE]),
        (["--protection", "x", "--split", "region"], [BASE, BASE + 4 * PAGE]),
        (["--protection", "rw"], [0x20000, BASE]),
        (["--protection", "PAGE_EXECUTE_WRITECOPY", "--split", "protection"], [BASE]),
        (["--file", "evil*", "--split", "module"], [BASE]),
        (["--file", "*System32*", "--split", "region"], [BASE]),
        (["--flag", "pe-in-private", "--split", "region"], [BASE + 4 * PAGE]),
        (["--flag", "writable-executable", "--flag", "pe-in-private"], [BASE]),
        (["--kind", "image", "--kind", "private", "--max-size", "8k"], [0x20000]),
    ],
)
def test_choosing_by_labels(go: Invoke, dump: Path, words: list[str], starts: list[int]) -> None:
    """Segments and carve choose alike; what was left out is accounted for."""
    listed = [int(row["start"], 16) for row in rows_of(go("segments", dump, "--format", "jsonl", *words))]
    assert listed == starts
    assert go("carve", dump, "-o", "out", *words).code == 0
    found = manifest(dump.parent / "out")
    assert [int(row["start"], 16) for row in found["segments"]] == starts
    assert found["totals"]["bytes"] + sum(left["bytes"] for left in found["left_out"]) == found["totals"]["input_bytes"]


def test_carved_labels(go: Invoke, dump: Path) -> None:
    """segments.json holds the labels, where they come from, and the files they were read from, with their hashes."""
    assert go("carve", dump, "-o", "out").code == 0
    found = manifest(dump.parent / "out")
    heap, unknown, image = found["segments"]
    assert heap["labels"] == {
        "protection": ["rw-"],
        "regions": [
            {"start": "0x20000", "end": "0x30000", "protection": "PAGE_READWRITE", "kind": "private", "tag": "VadS",
             "private": True}
        ],
        "kind": ["private"],
        "content": {"pages": 2, "zero_pages": 0},
    }  # fmt: skip
    assert unknown["labels"] == {"content": {"pages": 1, "zero_pages": 0}}
    labels = image["labels"]
    assert [region["protection"] for region in labels["regions"]] == [VADS[1][3], VADS[2][3]]
    assert labels["modules"][0]["path"] == "C:\\evil name.dll"
    assert [header["address"] for header in labels["content"]["headers"]] == [f"0x{BASE:x}", f"0x{BASE + 4 * PAGE:x}"]
    assert labels["content"]["zero_pages"] == 1
    assert {row["name"]: row["address"] for row in labels["flags"]}["pe-in-private"] == f"0x{BASE + 4 * PAGE:x}"
    assert found["labels"]["sources"]["regions"][0]["count"] == len(VADS)
    assert [row["flag"] for row in found["labels"]["findings"]] == ["entry-unmapped", "pe-in-private"]
    recorded = {row["path"]: row["sha256"] for row in found["inputs"]["evidence"]}
    for name in ("pid.4.vadinfo.jsonl", "pid.4.dlllist.jsonl"):
        data = (dump.parent / name).read_bytes()
        assert recorded[str(dump.parent / name)] == hashlib.sha256(data).hexdigest()


def test_what_must_be_told(go: Invoke, dump: Path) -> None:
    """What is wrong with the evidence is told and recorded when something is carved, too."""
    other = vads()
    other[0]["Protection"] = "PAGE_READONLY"
    (dump.parent / "other").mkdir()
    (dump.parent / "other" / "pid.4.vadinfo.jsonl").write_text(json_lines(other))
    words = ["--regions", "pid.4.vadinfo.jsonl", "--regions", "other/pid.4.vadinfo.jsonl"]
    ran = go("carve", dump, "-o", "out", *words)
    assert ran.code == 0
    for sentence in ("entry-unmapped: 0x50000000: ", "conflict at 0x20000: protection: ", "/other says PAGE_READONLY"):
        assert sentence in ran.err
        assert any(sentence in note for note in manifest(dump.parent / "out")["notes"])


def test_label_names(go: Invoke, dump: Path) -> None:
    """Files named by labels, too, sort by address, verify, and their checksums check with other tools."""
    assert go("carve", dump, "-o", "out", "--label-names", "--split", "region").code == 0
    out = dump.parent / "out"
    assert sorted(binaries(out)) == [
        "0x0000000000020000-0x0000000000022000.rw-.bin",
        "0x0000000000090000-0x0000000000091000.bin",
        f"0x{BASE:016x}-0x{BASE + 4 * PAGE:016x}.rcx.evil_name.dll.bin",
        f"0x{BASE + 4 * PAGE:016x}-0x{BASE + 6 * PAGE:016x}.rwx.bin",
    ]
    assert go("verify", out, "--source", dump).code == 0
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    for name, data in binaries(out).items():
        assert sums[name] == hashlib.sha256(data).hexdigest()


def test_split_files_are_the_whole(go: Invoke, dump: Path) -> None:
    """Split files put together are the segment that was split; each says what it was part of."""
    assert go("carve", dump, "-o", "whole").code == 0
    assert go("carve", dump, "-o", "parts", "--split", "region").code == 0
    whole, parts = (manifest(dump.parent / name)["segments"] for name in ("whole", "parts"))
    contents = {name: binaries(dump.parent / name) for name in ("whole", "parts")}
    for row in whole:
        mine = [part for part in parts if part["part_of"] == {"start": row["start"], "end": row["end"]}]
        assert b"".join(contents["parts"][part["file"]] for part in mine) == contents["whole"][row["file"]]
    assert len(parts) == len(whole) + 1
    assert "part_of" not in whole[0]


@pytest.mark.parametrize(
    "words", [["--hash", "none"], ["--hash", "none", "--content", "headers"], ["--content", "none"]]
)
def test_levels_of_content(go: Invoke, dump: Path, words: list[str]) -> None:
    """Without hashes nothing looks at the bytes unless that is asked for; --content none says nothing of them."""
    assert go("carve", dump, "-o", "out", *words).code == 0
    known = ["content" in row["labels"] for row in manifest(dump.parent / "out")["segments"] if "labels" in row]
    assert set(known) == {"headers" in words}


def test_regions(go: Invoke, dump: Path) -> None:
    """Regions with how much of each is there; the same filters choose them."""
    ran = go("regions", dump, "--format", "jsonl")
    assert [(int(row["start"], 16), int(row["end"], 16), row["resident"]) for row in rows_of(ran)] == [
        (start, last + 1, {0x20000: 2, BASE: 4, BASE + 4 * PAGE: 2}.get(start, 0) * PAGE)
        for start, last, *_ in sorted(VADS)
    ]
    assert "4 regions" in ran.err
    first = rows_of(go("regions", dump, "--format", "jsonl", "--kind", "image"))
    assert [(row["protection"], row["file"], row["tag"], row["private"]) for row in first] == [
        ("PAGE_EXECUTE_WRITECOPY", "\\Windows\\System32\\evil name.dll", "Vad ", False)
    ]
    assert "conflicts" in first[0]
    assert len(rows_of(go("regions", dump, "--format", "jsonl", "--address", hex(BASE)))) == 1


def test_regions_of_nothing(go: Invoke, tmp_path: Path) -> None:
    """Where no regions are known, the command says what would give them."""
    ran = go("regions", write_dump(tmp_path, ROWS))
    assert ran.code == 2
    assert "--regions FILE" in ran.err
    assert "Traceback" not in ran.err


def test_given_evidence(go: Invoke, tmp_path: Path) -> None:
    """What is given with --regions counts; a second file that says something else is a conflict."""
    dump = write_dump(tmp_path, ROWS)
    one, two = vads(), vads()
    two[0]["Protection"] = "PAGE_EXECUTE_READ"
    (tmp_path / "one.jsonl").write_text(json_lines(one))
    (tmp_path / "two.jsonl").write_text(json_lines(two))
    rows = rows_of(go("segments", dump, "--format", "jsonl", "--regions", "one.jsonl", "--regions", "two.jsonl"))
    assert [(row["protection"], row["conflicts"]) for row in rows] == [(["rw-"], 1), (None, 0), (["rcx", "rwx"], 0)]
    ran = go("segments", dump, "--regions", "pid.4.map")
    assert ran.code == 1
    assert "pid.4.map" in ran.err


def test_a_map_alone_has_labels(go: Invoke, dump: Path) -> None:
    """Regions and modules need no bytes; flags that need some are not looked for."""
    dump.unlink()
    rows = rows_of(go("segments", "pid.4.map", "--format", "jsonl"))
    assert [row["flags"] for row in rows] == [[], [], ["private-executable", "writable-executable"]]
    ran = go("segments", "pid.4.map", "--flag", "wiped-header")
    assert (ran.code, ran.out) == (1, b"")
    assert "pid.4" in ran.err
    assert "Traceback" not in ran.err


def test_find_in_what_labels_choose(go: Invoke, dump: Path) -> None:
    """A search may be kept to what labels choose."""
    everywhere = rows_of(go("find", dump, "--hex", "4d5a", "--format", "jsonl"))
    executable = rows_of(go("find", dump, "--hex", "4d5a", "--format", "jsonl", "--kind", "image"))
    assert {int(hit["address"], 16) for hit in everywhere} >= {BASE, BASE + 4 * PAGE}
    assert {int(hit["address"], 16) for hit in executable} >= {BASE}
    words = ["--protection", "w", "--kind", "TEB"]
    assert rows_of(go("find", dump, "--hex", "4d5a", "--format", "jsonl", *words)) == []


@pytest.mark.parametrize(
    "words", [["--kind", "evil"], ["--flag", "evil"], ["--protection", "q"], ["--split", "evil"], ["--content", "evil"]]
)
def test_wrong_words(go: Invoke, dump: Path, words: list[str]) -> None:
    """A word that there is not is a usage error that lists those there are."""
    ran = go("segments", dump, *words)
    assert (ran.code, ran.out) == (2, b"")
    assert "Traceback" not in ran.err


def test_library(dump: Path, tmp_path: Path) -> None:
    """The library takes the same words; a labeller is given where labels are wanted."""
    with memcarve.open(dump) as container:
        process = container.process()
        found = process.segments(split="region", labeller=memcarve.Labelling())
        labels: Any = found.labels
        assert [labels.kinds(index) for index in range(len(found))] == [["private"], [], ["image"], ["private"]]
        result = sinking.carve(process, tmp_path / "out", labeller=memcarve.Labelling("full"), label_names=True)
    assert result.count == 3
    assert all("entropy" in row["labels"]["content"] for row in manifest(tmp_path / "out")["segments"])


def test_a_carved_folder_keeps_its_labels(go: Invoke, dump: Path) -> None:
    """What is known of a dump's segments is known of the folder that was carved from it, whichever way it was split."""
    assert go("carve", dump, "-o", "whole").code == 0
    assert go("carve", "whole", "-o", "again", "--split", "region", "--label-names").code == 0
    wanted = ("start", "end", "protection", "kind", "file", "file_offset", "regions", "flags")
    rows = rows_of(go("segments", dump, "--format", "jsonl"))
    for folder in ("whole", "again"):
        found = rows_of(go("segments", folder, "--format", "jsonl"))
        assert [[row[name] for name in wanted] for row in found] == [[row[name] for name in wanted] for row in rows]
    assert rows_of(go("regions", "whole", "--format", "jsonl"))[0]["source"].endswith(", as segments.json has it")


def test_labels_in_a_manifest_may_be_anything(go: Invoke, dump: Path) -> None:
    """What is not as memcarve writes it is passed over, and the segments are read all the same."""
    assert go("carve", dump, "-o", "out").code == 0
    path = dump.parent / "out" / "segments.json"
    text = path.read_text()
    (one,) = {json.dumps(row) for row in manifest(path.parent)["segments"][0]["labels"]["regions"]}
    assert one in text
    for other in (
        "7", "null", '{"start": "0x20000"}', '{"start": 5, "end": []}', '{"start": "0x30000", "end": "0x20000"}',
        '{"start": "0x20000", "end": "0x30000", "kind": ["private"], "protection": 7, "file": {}, "private": 1}',
        '{"start": "0x0", "end": "0x10000000000000000"}',
        '{"start": "0x10000000000000000", "end": "0x10000000000000001"}',
        '{"start": "0x0", "end": "0xffffffffffffffffffff"}',
    ):  # fmt: skip
        path.write_text(text.replace(one, other))
        ran = go("segments", "out", "--format", "jsonl")
        assert ran.code == 0, ran.err
        assert len(ran.out.splitlines()) == 3
    for name, value in (("base", '"0x10000000000000000"'), ("base", "[]"), ("size", "-1"), ("source", "{}")):
        head, found, rest = text.partition('"modules": [{"name"')
        path.write_text(head + found + re.sub(f'"{name}": ("[^"]*"|[0-9]+)', f'"{name}": {value}', rest, count=1))
        assert path.read_text() != text
        for words in (["segments", "out"], ["segments", "out", "--split", "region"], ["regions", "out"]):
            ran = go(*words)
            assert ran.code == 0, ran.err
    path.write_text(text.replace('"labels": {"protection"', '"labels": 7, "old": {"protection"', 1))
    ran = go("segments", "out")
    assert (ran.code, "Traceback" in ran.err) == (1, False)


def test_a_folder_does_not_know_what_it_was_not_carved_from(go: Invoke, dump: Path) -> None:
    """Entries without a mapping are not in a folder: they are not looked for there, rather than not found."""
    assert go("carve", dump, "-o", "out").code == 0
    ran = go("segments", "out", "--flag", "entry-unmapped")
    assert (ran.code, ran.out) == (2, b"")
    assert "all of a list of modules" in ran.err


def test_json_has_the_whole_record(go: Invoke, dump: Path) -> None:
    """JSON has the labels as segments.json has them: full names, all regions."""
    *_, image = rows_of(go("segments", dump, "--format", "jsonl", "--content", "headers"))
    assert go("carve", dump, "-o", "out").code == 0
    assert image["labels"] == manifest(dump.parent / "out")["segments"][-1]["labels"]
    assert [row["protection"] for row in image["labels"]["regions"]] == [VADS[1][3], VADS[2][3]]


@pytest.mark.parametrize("rows", ["", "0,8,other,0x1,0x1000,0x1fff,VadS,PAGE_READWRITE,0,1,0x0,N/A,Disabled\n"])
def test_a_table_that_says_nothing(go: Invoke, tmp_path: Path, rows: str) -> None:
    """A table cut off after its header, or of another process, is an error where it is given, else a note."""
    dump = write_dump(tmp_path, ROWS)
    columns = "PID,Process,Offset,Start VPN,End VPN,Tag,Protection,CommitCharge,PrivateMemory,Parent,File,File output"
    (tmp_path / "cut.csv").write_text(f"TreeDepth,{columns}\n{rows}")
    ran = go("segments", dump, "--regions", "cut.csv", "--flag", "private-executable")
    assert (ran.code, ran.out) == (1, b"")
    assert "cut.csv: holds no row" in ran.err
    (tmp_path / "cut.csv").rename(tmp_path / "pid.4.vadinfo.csv")
    ran = go("segments", dump)
    assert ran.code == 0
    assert "it is not used" in ran.err
    assert go("segments", dump, "--flag", "private-executable").code == 2
