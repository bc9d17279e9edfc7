"""Every hit of a scan is that of YARA-X over the flat bytes, with the addresses that they have in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yara
import yara_x
from hypothesis import given, strategies as st

import memcarve
from memcarve.errors import SourceReadError, UnreadableError, UsageError
from memcarve.hunting.scanning.rules import Rules
from memcarve.hunting.scanning.scans import Scans
from memcarve.space import AddressSpace
from memcarve.unreadable import SECTOR
from memory import PAGE, Memory, noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.segments import Segment

TOP = 1 << 64
TEXT = """
rule text : one two { strings: $a = "abcab" $b = "bc" fullword $w = "ab" wide condition: any of them }
rule far { strings: $h = { 61 62 [0-6] 63 61 } $r = /ca{1,3}b?[bc]/ condition: any of them }
rule at_start { strings: $a = "ab" condition: $a at 0 }
rule counted { strings: $a = "ca" condition: #a > 2 }
rule both { strings: $a = "abc" $b = "cba" condition: all of them }
rule short { condition: filesize < 20 }
rule word { condition: uint16be(0) == 0x6162 }
rule absent { strings: $a = "never" condition: $a }
private rule hidden { strings: $a = "a" condition: $a }
rule uses { strings: $c = "cc" condition: hidden and $c }
"""
RULES = Rules.of(TEXT)
COMPILED = yara_x.compile(TEXT)
Hits = list[tuple[int, int, str, str | None, bytes]]


def told(hits: Any) -> Hits:
    """Return hits as tuples in one order."""
    return sorted((hit.address, hit.size, hit.rule, hit.pattern or "", hit.data) for hit in hits)


def expected(data: bytes, start: int, compiled: Any = COMPILED) -> Hits:
    """Return what YARA-X says of flat bytes, with addresses."""
    found: Hits = []
    for rule in yara_x.Scanner(compiled).scan(data).matching_rules:
        rows = [
            (start + match.offset, match.length, rule.identifier, pattern.identifier)
            for pattern in rule.patterns
            for match in pattern.matches
        ]
        found += [(*row, data[row[0] - start :][: min(row[1], 64)]) for row in rows]
        found += [] if rows else [(start, 0, rule.identifier, "", b"")]
    return sorted(found)


def space_of(pieces: Sequence[tuple[int, bytes]], gap: int = 1) -> AddressSpace:
    """Return a space of pieces at addresses, whose bytes lie in another order in the backing."""
    backing, offsets = b"", {}
    for start, data in sorted(pieces, key=lambda piece: noise(piece[0], 4)):
        offsets[start] = len(backing) + gap
        backing += bytes(gap) + data
    rows = [(start, len(data), offsets[start]) for start, data in sorted(pieces)]
    columns = (np.array([row[place] for row in rows], np.uint64) for place in range(3))
    return AddressSpace(*columns, Memory(backing))


@st.composite
def spaces(draw: st.DrawFn) -> AddressSpace:
    """Return a space of a few pieces, some of which touch; perhaps to the last byte of all."""
    texts = draw(st.lists(st.text("abc\0", min_size=1, max_size=30), min_size=1, max_size=6))
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 7]), min_size=len(texts), max_size=len(texts)))
    size = sum(map(len, texts)) + sum(gaps)
    start = draw(st.sampled_from([0, 0x1000, TOP - size]))
    pieces = []
    for text, gap in zip(texts, gaps, strict=True):
        start += gap
        pieces.append((start, text.encode()))
        start += len(text)
    return space_of(pieces)


@given(spaces(), st.integers(1, 3))
def test_segments(space: AddressSpace, threads: int) -> None:
    """Rules are asked of each segment as of a file, across extents, to the last byte of the space."""
    parts = [(space, space.segments())]
    hits = [*Scans(parts, RULES, threads=threads)]
    flat = [(segment.start, space.read(segment.start, segment.size)) for segment in space.segments()]
    assert told(hits) == sorted(hit for start, data in flat for hit in expected(data, start))
    assert [hit.address for hit in hits] == sorted(hit.address for hit in hits)
    for hit in hits:
        assert hit.segment.start <= hit.address < hit.segment.end
        assert hit.offset == space.offset_of(hit.address)
        assert hit.data == space.read(hit.address, hit.size)


SIMPLE = """
rule text { strings: $a = "abcab" $b = "bc" fullword $w = "ab" wide condition: any of them }
rule far { strings: $h = { 61 62 [0-6] 63 61 } condition: $h }
rule some { strings: $r = /ca{1,3}b?[bc]/ $n = "CC" nocase condition: $r or $n }
"""
SIMPLE_RULES, SIMPLE_COMPILED = Rules.of(SIMPLE), yara_x.compile(SIMPLE)


@given(spaces(), st.integers(40, 60), st.integers(1, 3))
def test_windows(space: AddressSpace, window: int, threads: int) -> None:
    """In windows, what patterns alone decide is found as in the whole: once, wherever it lies."""
    scans = Scans([(space, space.segments())], SIMPLE_RULES, window=window, overlap=20, threads=threads)
    hits = [*scans]
    flat = [(segment.start, space.read(segment.start, segment.size)) for segment in space.segments()]
    assert told(hits) == sorted(hit for start, data in flat for hit in expected(data, start, SIMPLE_COMPILED))
    assert [hit.address for hit in hits] == sorted(hit.address for hit in hits)
    assert scans.scanned == scans.total
    assert scans.cut == sum(len(data) > window for _, data in flat)


BOTH = """
rule a { strings: $a = "abcab" $w = "ab" wide $h = { 61 62 [0-6] 63 } condition: any of them }
rule b { strings: $a = "ca" condition: #a > 1 or $a at 0 }
rule c { condition: filesize > 12 }
"""
BOTH_RULES, OTHERS = Rules.of(BOTH), yara.compile(source=BOTH)


@given(spaces())
def test_other_program(space: AddressSpace) -> None:
    """YARA says the same as YARA-X says through memcarve, of rules that mean the same to both."""
    hits = {(hit.rule, hit.pattern, hit.address) for hit in Scans([(space, space.segments())], BOTH_RULES)}
    found = set()
    for segment in space.segments():
        for match in OTHERS.match(data=space.read(segment.start, segment.size)):
            places = [(each.identifier, one.offset) for each in match.strings for one in each.instances]
            found |= {(match.rule, name, segment.start + offset) for name, offset in places or [(None, 0)]}
    assert hits == found


def test_by_page() -> None:
    """By page, each page is asked by itself: what crosses two is in neither."""
    data = bytearray(3 * PAGE)
    data[PAGE - 2 : PAGE + 3] = b"abcab"
    data[2 * PAGE + 5 : 2 * PAGE + 10] = b"abcab"
    space = space_of([(0x10000 - PAGE, bytes(data[:PAGE])), (0x10000, bytes(data[PAGE:]))])
    hits = [
        *Scans([(space, space.segments())], Rules.of('rule a { strings: $a = "abcab" condition: $a at 5 }'), by="page")
    ]
    assert [(hit.address, hit.segment.start) for hit in hits] == [(0x11005, 0xF000)]


@given(spaces(), st.sampled_from([1 << 20, 50]))
def test_by_process(space: AddressSpace, window: int) -> None:
    """By process, a rule is true of all segments together, and no match reaches across a gap."""
    segments = [*space.segments()]
    flat = b"".join(space.read(segment.start, segment.size) for segment in segments)
    starts = np.cumsum([0, *(segment.size for segment in segments)]).tolist()

    def address(place: int) -> tuple[int, Segment]:
        row = int(np.searchsorted(starts, place, "right")) - 1
        return segments[row].start + place - starts[row], segments[row]

    if window < len(flat):
        rules, compiled = SIMPLE_RULES, SIMPLE_COMPILED
    else:
        rules, compiled = RULES, COMPILED
    wanted: Hits = []
    for place, size, rule, pattern, data in expected(flat, 0, compiled):
        begin, segment = address(place)
        if begin + size <= segment.end:
            wanted.append((begin, size, rule, pattern, data))
    scans = Scans(
        [(space, space.segments())], rules, by="process", window=window, overlap=window // 2 if window < 99 else None
    )
    assert told(scans) == sorted(wanted)


def frames(rows: Sequence[Sequence[int | None]], backing: Memory) -> list[AddressSpace]:
    """Return spaces of an image: of each the frames, one page after another; None is a gap."""
    spaces = []
    for each in rows:
        held = [(0x10000 + place * PAGE, frame * PAGE) for place, frame in enumerate(each) if frame is not None]
        start, offset = (np.array([row[place] for row in held], np.uint64) for place in range(2))
        size, flags = np.full(len(held), PAGE, np.uint64), np.zeros(len(held), np.uint8)
        spaces.append(AddressSpace(start, size, offset, backing, physical=offset.copy(), flags=flags))
    return spaces


class Counting(Memory):
    """A backing that counts how often each page is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.read = np.zeros(len(data) // PAGE, np.int64)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`."""
        self.read[offset // PAGE : (offset + len(buffer)) // PAGE] += 1
        super().read_into(offset, buffer)


@pytest.mark.parametrize("kept", [1 << 18, 0])
@pytest.mark.parametrize("by", ["segment", "page"])
def test_shared_once(by: str, kept: int) -> None:
    """Of 100 processes that share half their pages each page is read once, and what is the same is scanned once."""
    shared, own, several = 20, 20, 100
    text = b"".join(noise(frame, PAGE - 8) + b"%08d" % frame for frame in range(shared + several * own))
    backing = Counting(text)
    rows = [[*range(shared), None, *range(shared + at * own, shared + (at + 1) * own)] for at in range(several)]
    spaces = frames(rows, backing)
    rules = Rules.of('rule last { strings: $a = "00000019" $b = /000[0-9]{2}7[0-9]{2}/ condition: any of them }')
    scans = Scans([(space, space.segments()) for space in spaces], rules, by=by, kept=kept)
    hits = [*scans]
    found = {(hit.part, hit.address) for hit in hits if hit.pattern == "$a"}
    assert found == {(part, 0x10000 + 20 * PAGE - 8) for part in range(several)}
    assert [hit.part for hit in hits] == sorted(hit.part for hit in hits)
    assert scans.total == several * (shared + own) * PAGE
    assert scans.scanned + scans.same == scans.total
    if kept:
        assert set(backing.read.tolist()) == {1}
        assert scans.scanned == len(text)
    else:
        assert backing.read[shared - 1] == several


@given(
    st.lists(st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=7), min_size=1, max_size=5),
    st.sampled_from(["segment", "page"]),
    st.sampled_from([0, 1, 2, 100]),
)
def test_shared(rows: list[list[int | None]], by: str, kept: int) -> None:
    """However processes share memory, and however little is kept, each has all of its hits."""
    middle = bytes(PAGE - 8)
    backing = Memory(
        b"".join(text[:4] + middle + text[4:] for text in (b"abcabcab", b"cabccabc", b"aaaabbbb", b"ccccabca"))
    )
    spaces = frames([row for row in rows if any(frame is not None for frame in row)], backing)
    hits: dict[int, list[Any]] = {}
    for hit in Scans(
        [(space, space.segments()) for space in spaces], RULES, by=by, kept=kept, window=3 * PAGE, overlap=PAGE
    ):
        hits.setdefault(hit.part, []).append(hit)
    for part, space in enumerate(spaces):
        alone = Scans([(space, space.segments())], RULES, by=by, window=3 * PAGE, overlap=PAGE)
        assert told(hits.get(part, [])) == told(alone)


class Broken(Memory):
    """A backing with a sector that cannot be read."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__(data)
        self.bad = bad

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, or raise UnreadableError."""
        if offset < self.bad + SECTOR and self.bad < offset + len(buffer):
            raise UnreadableError("input/output error", max(offset, self.bad), subject="memory")
        super().read_into(offset, buffer)


def test_overlap() -> None:
    """A rule that is true of one window alone has its matches where the next one begins, too; what is cut has none."""
    data = bytearray(b"-" * 300)
    data[10:13], data[80:83], data[97:100], data[100:101] = b"abc", b"xyz", b"xyz", b"z"
    space = space_of([(0x1000, bytes(data))])
    rules = Rules.of('rule both { strings: $a = "abc" $x = "xyz" fullword condition: all of them }')
    scans = Scans([(space, space.segments())], rules, window=100, overlap=40)
    assert [hit.address - 0x1000 for hit in scans] == [10]
    data[10:13], data[50:53] = b"---", b"abc"
    rules = Rules.of('rule both { strings: $a = "b" $x = "y" fullword condition: $a or #x > 100 }')
    data[76:79] = b"-b-"
    space = space_of([(0x1000, bytes(data))])
    assert [hit.address - 0x1000 for hit in Scans([(space, space.segments())], rules, window=100, overlap=40)] == [
        51,
        77,
    ]


@pytest.mark.parametrize("by", ["segment", "process"])
@pytest.mark.parametrize("window", [1 << 20, 2 * PAGE])
def test_unreadable(by: str, window: int) -> None:
    """What cannot be read is like a gap: before and behind are scanned by themselves, and it is counted once."""
    data = bytearray(8 * PAGE)
    for place in (0, 3 * PAGE - 5, 3 * PAGE + SECTOR, 8 * PAGE - 5):
        data[place : place + 5] = b"abcab"
    columns = (np.array([value], np.uint64) for value in (0x10000, len(data), 0))
    space = AddressSpace(*columns, Broken(bytes(data), 3 * PAGE))
    rules = Rules.of(
        'rule a { strings: $a = "abcab" $b = "never" condition: $a or $b }'
        'rule f { strings: $a = "abcab" condition: $a at 0 }'
    )
    scans = Scans([(space, space.segments())], rules, by=by, window=window, overlap=min(window // 2, PAGE))
    hits = [*scans]
    places = [hit.address - 0x10000 for hit in hits if hit.rule == "a"]
    assert places == [0, 3 * PAGE - 5, 3 * PAGE + SECTOR, 8 * PAGE - 5]
    assert scans.lost == SECTOR
    assert {hit.address - 0x10000 for hit in hits if hit.rule == "f"} >= {0, 3 * PAGE + SECTOR}


def test_process_that_fails() -> None:
    """One that cannot be read does not stop the others; alone, its error is raised."""

    class Gone(Memory):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            raise SourceReadError("has been closed", subject=f"{offset}, {len(buffer)}")

    good, bad = (space_of([(0x1000, b"abcab")]) for _ in range(2))
    bad.backing = Gone(b"")
    parts = [(space, space.segments()) for space in (bad, good, bad)]
    scans = Scans(parts, SIMPLE_RULES)
    assert {hit.part for hit in scans} == {1}
    assert sorted(scans.failed) == [0, 2]
    with pytest.raises(SourceReadError, match="has been closed"):
        [*Scans(parts[:1], SIMPLE_RULES)]


def test_timeout() -> None:
    """A scan that takes too long is given up and told, and the others go on."""
    slow = Rules.of(
        'rule slow { strings: $a = "x" condition: $a and for any i in (0..100000000000): (uint8(i % 9) == 77) }'
        'rule fast { strings: $a = "abcab" condition: $a }'
    )
    space = space_of([(0x1000, b"x" * 100), (0x3000, b"abcab")])
    began = time.monotonic()
    scans = Scans([(space, space.segments())], slow, timeout=1)
    assert [(hit.rule, hit.address) for hit in scans] == [("fast", 0x3000)]
    assert scans.late == [(0, 0x1000, 100)]
    assert time.monotonic() - began < 60


def test_stopped_early() -> None:
    """Who takes no more hits does not wait for all that was about to be scanned."""
    space = space_of([(start, b"x" * 100) for start in range(0, 60_000, 200)])
    scans = Scans([(space, space.segments())], Rules.of('rule a { strings: $a = "x" condition: $a }'), threads=2)
    counted = []

    def one(task: Any) -> Any:
        counted.append(task)
        time.sleep(0.01)
        return true(task)

    true = scans._one
    scans._one = one  # type: ignore[method-assign]
    hits = iter(scans)
    assert next(hits).address == 0
    hits.close()  # type: ignore[attr-defined]
    assert len(counted) < 250


def test_everything_matches() -> None:
    """Of a pattern that matches everywhere so many matches are counted as were asked for, and it is told which."""
    space = space_of([(0x1000, bytes(1 << 16))])
    rules = Rules.of("rule every { strings: $z = { 00 } $y = { 01 } condition: $z or $y }")
    scans = Scans([(space, space.segments())], rules, most_matches=100)
    assert [hit.address for hit in scans] == [*range(0x1000, 0x1000 + 100)]
    assert [(facts.name, pattern) for facts, pattern in scans.capped] == [("every", "$z")]


def test_everything_matches_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """If more is found than can wait, threads stop finding more; all is told, in order, and each thing once."""
    monkeypatch.setattr("memcarve.hunting.scanning.scans._WAITING", 50)
    space = space_of([(start, bytes(100)) for start in range(0, 30_000, 200)])
    rules = Rules.of("rule every { strings: $z = { 00 } condition: $z }")
    scans = Scans([(space, space.segments())], rules, threads=2)
    assert [hit.address for hit in scans] == [start + at for start in range(0, 30_000, 200) for at in range(100)]
    assert scans.scanned == space.total
    assert scans._waiting == 0


def test_inexact() -> None:
    """It is told which rules may answer otherwise in windows, and why."""
    rules = Rules.of(TEXT + "rule long { strings: $a = { 61 [-] 62 } condition: $a }")
    space = space_of([(0x1000, bytes(1500))])
    scans = Scans([(space, space.segments())], rules, window=1000, overlap=500)
    assert [*scans] == []
    assert scans.cut == 1
    assert scans.inexact() == {
        "at_start": "$ at",
        "counted": "#pattern",
        "both": "more than one pattern",
        "short": "filesize",
        "word": "bytes at an offset",
        "uses": "more than one pattern",
        "long": "a pattern of any length",
        "far": "a long pattern",
    }


def test_library() -> None:
    """`memcarve.scan` takes rules in any form, and the words of a selection stay those of `segments`."""
    with memcarve.open("examples/pid.1624.dmp") as dump:
        process = dump.process()
        text = 'rule mz { strings: $a = "MZ" condition: $a at 0 }'
        user = memcarve.Selection("user")
        hits = [found.hit for found in memcarve.scan(process, memcarve.Rules.of(text), selection=user)]
        again = memcarve.scan(process, yara_x.compile(text), segments=process.segments(half="user"))
        assert told(hits) == told(found.hit for found in again)
        assert all(hit.data == b"MZ" == process.read(hit.address, 2) for hit in hits)
        assert hits
        for wrong in ({"by": "file"}, {"window": 0}, {"timeout": 0}, {"overlap": 1 << 40}, {"by": "region"}):
            with pytest.raises(UsageError):
                [*memcarve.scan(process, memcarve.Rules.of(text), **wrong)]
