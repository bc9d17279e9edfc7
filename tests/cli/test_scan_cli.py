"""`memcarve scan` on the command line: what is printed of hits, rules and what went wrong."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
import yara_x

import memcarve
import winimage
from cli import invoke
from files import EXAMPLE
from memcarve.hunting.scanning import scans

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

TEXT = """
rule mz : pe header { meta: author = "me\\x1b[31m" n = 5 ok = true strings: $a = "MZ" condition: $a at 0 }
rule word { strings: $u = "kernel32" wide nocase condition: $u }
rule large { condition: filesize > 100KB }
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a file of rules."""
    path = tmp_path / "rules.yar"
    path.write_text(TEXT)
    return path


def test_hits(capfdbinary: Capture, rules: Path) -> None:
    """Rows are what YARA-X finds in each segment, in each format, and names from rules do no harm."""
    compiled = yara_x.compile(TEXT)
    expected = set()
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        for segment in process.segments():
            for rule in compiled.scan(process.read(segment.start, segment.size)).matching_rules:
                places = [(p.identifier, m.offset, m.length) for p in rule.patterns for m in p.matches]
                for pattern, offset, size in places or [(None, 0, 0)]:
                    expected.add((rule.identifier, pattern, segment.start + offset, size, segment.start))
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--format", "json")
    assert ran.code == 0
    hits = json.loads(ran.out)["hits"]
    found = {(h["rule"], h["pattern"], int(h["address"], 16), h["length"], int(h["segment"], 16)) for h in hits}
    assert found == expected
    assert len(hits) == len(expected)
    first = next(hit for hit in hits if hit["rule"] == "mz")
    assert first["meta"] == [
        {"name": "author", "value": "me\x1b[31m"}, {"name": "n", "value": 5}, {"name": "ok", "value": True},
    ]  # fmt: skip
    assert (first["tags"], first["bytes"], first["namespace"]) == (["pe", "header"], "4d5a", "default")
    rows = [
        *csv.DictReader(
            io.StringIO(invoke(capfdbinary, "scan", EXAMPLE, "--rules", f"n:{rules}", "--format", "csv").out.decode())
        )
    ]
    assert [row["rule"] for row in rows] == [hit["rule"] for hit in hits]
    assert {row["namespace"] for row in rows} == {"n"}
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--modules", EXAMPLE.parent / "dlllist.txt")
    assert f"{len(hits)} hits of 3 rules" in ran.err
    lines = ran.out.decode().splitlines()
    assert len(lines) == len(hits) + 1
    assert "namespace" not in lines[0]
    assert any(" mz " in line and "+0x0" in line and line.endswith("MZ") for line in lines)
    assert any(line.endswith("kernel32") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_where(capfdbinary: Capture, rules: Path) -> None:
    """A hit is named by the module it lies in, or by the file that is mapped there, and how far in it."""
    for name in ("dlllist.txt", "vadinfo.txt"):
        option = "--modules" if name.startswith("dll") else "--regions"
        words = ("scan", EXAMPLE, "--rules", rules, option, EXAMPLE.parent / name, "--format", "jsonl")
        where = {}
        for row in map(json.loads, invoke(capfdbinary, *words).out.splitlines()):
            where[row["address"], row["rule"]] = row["where"]
        assert where["0x00007ffa12200000", "mz"] == "ntdll.dll+0x0"
        assert where["0x000000a02f5d31b8", "word"] is None


def test_bytes_in_a_table(capfdbinary: Capture, tmp_path: Path) -> None:
    """Bytes are text or hexadecimal, and one is never taken for the other."""
    data = b"\x90\0 90 00 9000 \xab\xcd\xef" + bytes(16)
    (tmp_path / "0x0000000000010000-0x0000000000011000.bin").write_bytes(data.ljust(4096, b"."))
    path = tmp_path / "bytes.yar"
    texts = '$a = { 90 00 20 } $b = "90 00" $c = "9000" $d = { ab cd ef 00 [12] 00 00 }'
    path.write_text(f"rule bytes {{ strings: {texts} condition: all of them }}")
    lines = invoke(capfdbinary, "scan", tmp_path, "--rules", path).out.decode().splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[1:]] == [
        "90 00 20", "39 30 20 30 30", "9000", "ab cd ef 00 00 00 00 00 00 00 00 00 00 00 00 00 ...",
    ]  # fmt: skip


def test_a_choice_that_an_empty_process_cannot_have(capfdbinary: Capture, tmp_path: Path, rules: Path) -> None:
    """A process of which nothing is in memory does not fail for what else is not known of it, as in other commands."""
    image = tmp_path / "mem.raw"
    winimage.build(image, processes=winimage.USERLAND)
    ran = invoke(capfdbinary, "scan", image, "--all", "--rules", rules, "--kind", "heap")
    assert ran.code == 0, ran.err
    assert "note: 2860 gone.exe: nothing of it is in memory, and nothing is known to choose by kind" in ran.err
    assert ran.out.decode().startswith(" pid  process        address ")
    assert ran.out.decode().splitlines()[1].startswith("1624  program.exe    0x")


def test_rules_that_are_wrong(capfdbinary: Capture, tmp_path: Path) -> None:
    """Errors and warnings are shown as YARA-X words them, safe to print; rules that cannot be used end with 1."""
    path = tmp_path / "bad.yar"
    path.write_text("rule a { condition: $x }\nrule \x1b")
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", path)
    assert ran.code == 1
    assert "error[E025]: unknown pattern `$x`" in ran.err
    assert f"memcarve: {path}: line 1: unknown pattern `$x` (and 1 more error)" in ran.err
    assert "\x1b" not in ran.err
    path.write_text("".join(f"rule a{number} {{ condition: true }}\n" for number in range(15)))
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", path, "--max-hits", "1")
    assert ran.code == 0
    assert ran.err.count("warning[invariant_expr]") == 10
    assert "note: 5 more warnings: --verbose" in ran.err
    assert "warning" not in invoke(capfdbinary, "scan", EXAMPLE, "--rules", path, "--max-hits", "1", "-q").err
    for words, code in (
        (["--define", "x"], 2), (["--define", "1=1"], 2), (["--by", "region"], 2), (["--overlap", "1G"], 2),
        (["--rules", tmp_path / "absent.yar"], 1), (["--window", "0"], 2), (["--pid", "7"], 1),
    ):  # fmt: skip
        ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", path, *words)
        assert (ran.code, ran.out) == (code, b""), (words, ran)
    assert invoke(capfdbinary, "scan", EXAMPLE).code == 2


def test_define_and_limits(capfdbinary: Capture, tmp_path: Path) -> None:
    """Variables have their values; the number of hits, and of matches of a pattern, has a limit that is told."""
    path = tmp_path / "zero.yar"
    path.write_text('rule zero { strings: $z = { 00 00 } condition: $z and wanted == "yes" and n == 3 }')
    common = ("scan", EXAMPLE, "--rules", path, "--define", "n=3", "--define")
    assert not json.loads(invoke(capfdbinary, *common, 'wanted="no"', "--format", "json").out)["hits"]
    ran = invoke(capfdbinary, *common, 'wanted="yes"', "--format", "jsonl", "--max-hits", "7")
    assert len(ran.out.splitlines()) == 7
    assert "note: stopped after 7 hits: --max-hits" in ran.err
    ran = invoke(capfdbinary, *common, 'wanted="yes"', "--format", "jsonl", "--max-matches", "3")
    assert "more matches than --max-matches are not counted in one scan: zero $z" in ran.err
    places = [json.loads(line)["segment"] for line in ran.out.splitlines()]
    assert all(places.count(segment) <= 3 for segment in places)


def test_timeout(capfdbinary: Capture, tmp_path: Path) -> None:
    """What takes too long is given up and told, with exit status 3."""
    path = tmp_path / "slow.yar"
    path.write_text("rule slow { condition: for any i in (0..100000000000): (uint8(i % 9) == 300) }")
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", path, "--timeout", "1", "--address", "0x7ff673400000")
    assert ran.code == 3
    assert "note: 1 scan took longer than --timeout and were given up, the first 0x7ff673400000" in ran.err


def test_windows(capfdbinary: Capture, rules: Path) -> None:
    """Of segments that were scanned in windows it is told which rules may answer otherwise."""
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--window", "64k", "--format", "json")
    assert (
        "segments larger than --window: scanned in windows, each for itself; 2 rules may answer otherwise there: "
        in ran.err
    )
    assert "mz ($ at), large (filesize)" in ran.err
    whole = json.loads(invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--format", "json").out)["hits"]
    exact = [hit for hit in whole if hit["rule"] == "word"]
    assert [hit for hit in json.loads(ran.out)["hits"] if hit["rule"] == "word"] == exact


def test_carve_hits(capfdbinary: Capture, rules: Path, tmp_path: Path) -> None:
    """The segments that were hit are carved, and nothing else; a folder that is there is not touched."""
    out = tmp_path / "hits"
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--carve-hits", out, "--format", "json")
    assert ran.code == 0
    segments = {int(hit["segment"], 16) for hit in json.loads(ran.out)["hits"]}
    assert {int(path.name.split("-")[0], 16) for path in out.glob("0x*.bin")} == segments
    assert invoke(capfdbinary, "verify", out, "--source", EXAMPLE).code == 0
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules, "--carve-hits", out)
    assert (ran.code, ran.out) == (1, b"")
    assert "exists; name a new folder" in ran.err
    absent = tmp_path / "absent.yar"
    absent.write_text('rule absent { strings: $a = "not in this dump" condition: $a }')
    assert invoke(capfdbinary, "scan", EXAMPLE, "--rules", absent, "--carve-hits", tmp_path / "none").code == 0
    assert not (tmp_path / "none").exists()


def test_without_the_package(capfdbinary: Capture, rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says what to install."""
    monkeypatch.setitem(sys.modules, "yara_x", None)
    ran = invoke(capfdbinary, "scan", EXAMPLE, "--rules", rules)
    assert (ran.code, ran.out) == (1, b"")
    assert "pip install 'memcarve[yara]'" in ran.err


def test_help_has_the_defaults(capfdbinary: Capture) -> None:
    """The defaults in the help are those of the library."""
    shown = " ".join(invoke(capfdbinary, "scan", "--help").out.decode().split())
    assert f"[default: {scans.TIMEOUT}]" in shown
    assert f"[default: {scans.MOST_MATCHES}]" in shown
    assert scans.WINDOW == 64 << 20
