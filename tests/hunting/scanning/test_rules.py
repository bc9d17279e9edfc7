"""Rules from files, folders and compiled ones, with namespaces and variables; what is wrong with them."""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yara_x

from memcarve.errors import InputError, MissingExtraError, RulesError, SourceReadError, UsageError
from memcarve.hunting.scanning import scanner as scanner_module
from memcarve.hunting.scanning.rule_text import RuleText, texts_of
from memcarve.hunting.scanning.rules import MAGIC, Rules, definition, rules_of
from memcarve.hunting.scanning.scan_units import Laid, Unit
from memcarve.space import AddressSpace
from memory import PAGE, Memory, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A = 'rule a : one two { meta: k = 5 strings: $x = "x" condition: $x }'


def names(rules: Rules) -> set[tuple[str, str]]:
    """Return namespaces and names."""
    return {(facts.namespace, facts.name) for facts in rules.facts}


def compiled(text: str) -> bytes:
    """Return compiled rules as YARA-X writes them."""
    written = io.BytesIO()
    yara_x.compile(text).serialize_into(written)
    return written.getvalue()


def test_files_and_folders(tmp_path: Path) -> None:
    """Of a folder all .yar and .yara are read, in folders too, links to folders are not followed."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "one.yar").write_text(A)
    (tmp_path / "sub" / "deep" / "two.yara").write_text("\ufeffrule b { condition: true }", encoding="utf-8")
    (tmp_path / "sub" / "other.txt").write_text("nothing")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert names(Rules.read(tmp_path)) == {("default", "a"), ("default", "b")}
    assert names(Rules.read([tmp_path / "one.yar", f"x:{tmp_path / 'sub'}"])) == {("default", "a"), ("x", "b")}
    rules = Rules.read(tmp_path / "one.yar")
    assert rules.facts == [("a", "default", ("one", "two"), (("k", 5),), ("$x",))]
    assert len(rules) == 1
    assert repr(rules) == "<Rules: 1>"


def test_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule may be in several namespaces; a colon in the name of a file that is there is no namespace."""
    (tmp_path / "one.yar").write_text(A)
    (tmp_path / "n:two.yar").write_text(A)
    monkeypatch.chdir(tmp_path)
    assert names(Rules.read(["n:one.yar", "m:one.yar", "one.yar"])) == {("n", "a"), ("m", "a"), ("default", "a")}
    assert names(Rules.read(["n:two.yar"])) == {("default", "a")}
    with pytest.raises(RulesError, match=r"one\.yar: line 1: duplicate rule"):
        Rules.read(["one.yar", "one.yar"])


def test_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows one letter before a colon is a drive."""
    monkeypatch.setattr(os, "name", "nt")
    module = importlib.import_module("memcarve.hunting.scanning.rules")
    assert module._namespace("c:rules.yar") == (None, "c:rules.yar")
    assert module._namespace("ns:c:rules.yar") == ("ns", "c:rules.yar")


def test_compiled(tmp_path: Path) -> None:
    """Compiled rules are told by how they begin, and may stand beside others."""
    data = compiled("rule c { condition: true }")
    assert data.startswith(MAGIC)
    (tmp_path / "rules.bin").write_bytes(data)
    (tmp_path / "one.yar").write_text(A)
    both = Rules.read([tmp_path / "rules.bin", tmp_path / "one.yar"])
    assert names(both) == {("default", "a"), ("default", "c")}
    assert set(both.texts) == {("default", "a")}
    with pytest.raises(UsageError, match="namespaces already"):
        Rules.read(f"x:{tmp_path / 'rules.bin'}")
    with pytest.raises(UsageError, match="when rules are compiled"):
        Rules.read(tmp_path / "rules.bin", {"a": 1})
    for broken in (MAGIC, data[:9] + b"\xff" * 4 + data[13:], data[:40], b"YARA-X"):
        (tmp_path / "rules.bin").write_bytes(broken)
        with pytest.raises(RulesError, match=r"rules\.bin: compiled rules that cannot be used"):
            Rules.read(tmp_path / "rules.bin")


def test_damaged_compiled_rules(tmp_path: Path) -> None:
    """Compiled rules of which a byte of the tables is another are refused, or are rules."""
    data = compiled('rule c { meta: k = "v" strings: $a = "abc" $b = /x.{0,9}y/ condition: $a or $b }')
    path = tmp_path / "rules.bin"
    refused = 0
    for seed in range(60):
        damaged = bytearray(data)
        damaged[int.from_bytes(noise(seed, 4), "big") % 300] ^= 1 + noise(seed, 5)[4] % 255
        path.write_bytes(damaged)
        try:
            assert len(Rules.read(path)) >= 0
        except RulesError:
            refused += 1
    assert refused


def test_includes(tmp_path: Path) -> None:
    """What a rule file includes is found in the folders of the files that are read, and its text is known."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.yar").write_text('rule inner { strings: $a = "abc" condition: $a at 5 }')
    (tmp_path / "sub" / "outer.yar").write_text('include "inner.yar"\nrule outer { condition: inner }')
    rules = Rules.read(tmp_path / "sub" / "outer.yar")
    assert names(rules) == {("default", "inner"), ("default", "outer")}
    assert rules.texts["default", "inner"].asks == ("$ at",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_no_includes(tmp_path: Path) -> None:
    """Text that may include nothing is an error if it does, whatever is there; the file is not even looked for."""
    for name in (tmp_path / "there.yar", tmp_path / "absent.yar"):
        with pytest.raises(RulesError, match="include statements not allowed"):
            Rules.of(f'include "{name}"\n{A}', includes=False)
        (tmp_path / "there.yar").write_text("rule there { condition: true }")
    assert len(Rules.of(A, includes=False)) == 1


def test_what_cannot_be_included(tmp_path: Path) -> None:
    """Pipes, devices, and more than anybody can read are refused before the compiler reads them."""
    path, inner = tmp_path / "main.yar", tmp_path / "inner"
    inner.mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(inner / "pipe")
    (inner / "beside.yar").write_text('include "pipe"')
    (tmp_path / "link").symlink_to("/dev/zero")
    pipes = ("/dev/zero", "link", "pipe", "inner/../pipe", "inner/beside.yar")
    for text in (*(f'include "{name}"' for name in pipes), 'include/* " */// "\n"pipe"', 'include """pipe"""'):
        path.write_text(f"{text}\n{A}")
        with pytest.raises(RulesError, match=r"main\.yar: includes .*, which is no regular file"):
            Rules.read(path)
    for number in range(30):
        next_one = f'include "{number + 1}.inc"\n'
        (tmp_path / f"{number}.inc").write_text(next_one if number >= 14 else next_one * 2)
    for first, problem in ((0, "more than 16 deep"), (1, "more than 10000 files")):
        (tmp_path / "15.inc").write_text('include "16.inc"' if first == 0 else "")
        path.write_text(f'include "{first}.inc"\n{A}')
        with pytest.raises(RulesError, match=problem):
            Rules.read(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.inc").write_text('include "./a.inc"\ninclude ".//a.inc"\ninclude "../other/a.inc"')
    path.write_text(f'include "other/a.inc"\n{A}')
    with pytest.raises(RulesError, match="circular"):
        Rules.read(path)


def test_errors(tmp_path: Path) -> None:
    """What is wrong is said with file and line; all that the compiler says is kept."""
    path = tmp_path / "bad.yar"
    path.write_text(A + "\nrule b { condition: $x and $y }\nrule a { condition: true }")
    with pytest.raises(RulesError) as caught:
        Rules.read(path)
    assert str(caught.value) == f"{path}: line 2: unknown pattern `$x` (and 1 more error)"
    with pytest.raises(yara_x.CompileError) as own:
        yara_x.Compiler().add_source(path.read_text(), origin=str(path))
    assert caught.value.reports[0] == str(own.value)
    for data, problem in ((b"rule \xff", "line 1: is neither text in UTF-8"), (b"\0\1\2", "line 1: ")):
        path.write_bytes(data)
        with pytest.raises(RulesError, match=problem):
            Rules.read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RulesError, match="no file in it ends in"):
        Rules.read(tmp_path / "empty")
    with pytest.raises(SourceReadError, match=r"absent\.yar: cannot be opened"):
        Rules.read(tmp_path / "absent.yar")
    with pytest.raises(UsageError, match="no rules are given"):
        Rules.read([])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_no_regular_file(tmp_path: Path) -> None:
    """What is no regular file is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe.yar")
    for path in (tmp_path, tmp_path / "pipe.yar"):
        with pytest.raises(InputError, match="pipe"):
            Rules.read(path)


def test_hostile_names(tmp_path: Path) -> None:
    """The name of a file cannot do harm in a message, and one that is no text is an error."""
    path = tmp_path / "a\x1b[31m\n.yar"
    path.write_text("rule a { condition: $x }")
    with pytest.raises(RulesError) as caught:
        Rules.read(path)
    assert str(caught.value).isprintable()
    other = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff.yar"))
    with open(other, "w", encoding="utf-8") as file:
        file.write(A)
    with pytest.raises(RulesError, match="its name is not"):
        Rules.read(other)


def test_warnings() -> None:
    """Warnings are the compiler's own text."""
    compiler = yara_x.Compiler()
    compiler.add_source("rule a { condition: true }")
    assert Rules.of("rule a { condition: true }").warnings == [each["text"] for each in compiler.warnings()]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-5", -5), ("1.5", 1.5), ("true", True), ('"a b"', "a b"), ('{"k": 1}', {"k": 1}), ('"="', "=")],
)
def test_definitions(text: str, value: object) -> None:
    """A value is typed as YARA-X's own tool types it."""
    name, found = definition(f"v={text}")
    assert (name, found) == ("v", value)
    assert type(found) is type(value)
    if not isinstance(value, dict):
        shown = "not v" if value is True else f"v != {text}"
        rules = Rules.of(f"rule same {{ condition: not ({shown}) }}", {name: found})
        assert [rule.identifier for rule in rules.compiled[0].scan(b"").matching_rules] == ["same"]


@pytest.mark.parametrize(
    "text", ["v", "v=", "v=abc", "v=NaN", "v=Infinity", "v='a'", pytest.param("v=" + "[" * 100_000, id="deep")]
)
def test_what_defines_nothing(text: str) -> None:
    """What is no value is refused with an example."""
    with pytest.raises(UsageError, match="write"):
        definition(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("1a", 1),
        ("", 1),
        ("a b", 1),
        ("a", 1 << 64),
        ("a", None),
        ("a", [1]),
        ("a", {"1": 1}),
        ("a\0", 1),
        ("a", "\ud800"),
    ],
)
def test_variables_that_cannot_be(name: str, value: object) -> None:
    """A variable that cannot be is a usage error."""
    with pytest.raises(UsageError, match="variable"):
        Rules.of(A, {name: value})


def test_rules_in_any_form(tmp_path: Path) -> None:
    """Rules are Rules, YARA-X's own, or paths."""
    (tmp_path / "one.yar").write_text(A)
    ready = Rules.of(A)
    assert rules_of(ready) is ready
    for given in (yara_x.compile(A), str(tmp_path / "one.yar"), [tmp_path / "one.yar"]):
        assert names(rules_of(given)) == {("default", "a")}


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""
    monkeypatch.setitem(sys.modules, "yara_x", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memcarve\[yara\]'"):
        Rules.of(A)


TEXTS = r"""
import "pe"
// rule no1 { condition: filesize }
/* rule no2 { strings: $a = { 00 } condition: $a } */
rule plain { meta: note = "} rule no3 { condition: filesize }"
    strings: $a = "abc" wide $b = "d\"}e" condition: any of them }
private global rule any_of : tag {
    strings: $a1 = { 00 /* } */ ?? [2-40] 11 } $a2 = { 00 01 } condition: 1 of ($a*) or $a2 }
rule endless { strings: $a = { 00 [-] 11 } condition: $a }
rule open_end { strings: $a = { 00 [10-] 11 } condition: $a }
rule dots { strings: $a = /a.*\/b}/s condition: $a }
rule expression { strings: $a = /ab{2,500}c\.*/ nocase condition: $a }
rule size { condition: filesize < 10KB }
rule place { strings: $a = "a" condition: $a at 4 and @a[1] > 5 or #a == 2 or !a[1] == 5 or $a in (0..5) }
rule header { condition: uint16(0) == 0x5a4d or pe.is_pe }
rule loop { strings: $a = "a" condition: for all of ($a) : ( $ in (0..filesize) ) }
rule both { strings: $a = "a" $b = "b" condition: $a and not $b }
rule constant { condition: true }
"""


def test_texts() -> None:
    """How far a rule looks is read from its text; comments and strings hold no rules."""
    yara_x.compile(TEXTS)
    texts = texts_of(TEXTS)
    assert set(texts) == {rule.identifier for rule in yara_x.compile(TEXTS)}
    assert {name: each.asks for name, each in texts.items() if each.asks} == {
        "size": ("filesize",),
        "place": ("$ at", "@pattern", "#pattern", "!pattern", "$ in"),
        "header": ("bytes at an offset", "pe"),
        "loop": ("$ in", "filesize"),
        "both": ("more than one pattern",),
        "constant": ("more than one pattern",),
    }
    assert [name for name, each in texts.items() if each.longest is None] == ["endless", "open_end", "dots"]
    assert texts["any_of"].longest is not None
    assert 44 <= texts["any_of"].longest < 100
    assert texts["size"] == RuleText(0, ("filesize",))
    assert (texts["expression"].longest or 0) >= 503


def test_texts_of_anything() -> None:
    """Text that is no rules, and rules that end too early, are no error."""
    for end in range(len(TEXTS)):
        texts_of(TEXTS[:end])
    assert texts_of("rule a { strings: $a = {" + "/* */" * 1000) == {"a": RuleText(0, ())}
    assert texts_of("rule rule { rule") == {"rule": RuleText(0, ())}


@pytest.mark.parametrize(
    ("text", "define"), [("rule a { condition: }", {}), (A, {"n": []}), (A, {"0": 1})], ids=["text", "value", "name"]
)
def test_errors_end_in_any_thread(text: str, define: dict[str, object]) -> None:
    """An error is let go of by another thread than the one that compiled: it keeps nothing of YARA-X."""
    kept: list[BaseException] = []
    try:
        Rules.of(text, define)
    except (RulesError, UsageError) as error:
        kept.append(error)
    assert len(kept) == 1
    failed: list[BaseException] = []
    elsewhere(kept.clear, failed)
    assert failed == []


def test_failed_scans_end_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scan failed with is let go of by another thread than the one that scanned."""
    real = yara_x.Scanner

    class Scanner:
        """Fails as YARA-X's does."""

        def __init__(self, rules: yara_x.Rules) -> None:
            self.kept = real(rules)

        def set_timeout(self, seconds: int) -> None:
            """Take any."""

        def max_matches_per_pattern(self, most: int) -> None:
            """Take any."""

        def scan(self, data: bytes) -> None:
            """Scan, and fail all the same."""
            self.kept.scan(data)
            raise yara_x.ScanError(str(len(data)))

    rules = Rules.of(A)
    monkeypatch.setattr(yara_x, "Scanner", Scanner)
    columns = (np.array([number], np.uint64) for number in (0x1000, PAGE, 0))
    space = AddressSpace(*columns, Memory(bytes(PAGE)))
    laid = Laid(space, space.segments(), Unit(0, 0x1000, PAGE, 0))
    scanner = scanner_module.Scanner(rules, 1, 1, PAGE)
    kept: list[BaseException] = []

    def scan() -> None:
        try:
            scanner(laid, 0, PAGE)
        except InputError as error:
            kept.append(error)

    failed: list[BaseException] = []
    elsewhere(scan, failed)
    assert (len(kept), failed) == (1, [])
    kept.clear()
    assert failed == []


def elsewhere(work: Callable[[], object], failed: list[BaseException]) -> None:
    """Do some work in another thread, and keep what it fails with."""

    def told() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test says which
            failed.append(error)

    thread = threading.Thread(target=told)
    thread.start()
    thread.join()
