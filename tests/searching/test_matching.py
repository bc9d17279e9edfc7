"""Matches in memory, by every engine, against brute force over the flat bytes of each segment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import memcarve
from memcarve import patterns as made
from memcarve.errors import UsageError
from memcarve.patterns import Expression, HexPattern, Pointers
from memcarve.searching import (
    automaton,
    automaton_search,
    engines,
    expression_search,
    key_search,
    matching,
    plain_search,
    pointer_search,
)
from memcarve.searching.engines import PatternSearch
from memcarve.searching.expression_shape import Shape
from memcarve.searching.matching import matches
from memcarve.space import AddressSpace
from memory import PAGE, Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.searching.engines import Pattern

#: how the search is done: by hyperscan, one pattern after another, by keys
ENGINES = ("fast", "plain", "keys")
TOP = 1 << 64
#: one engine is used for all the examples
WHOLE = [HealthCheck.function_scoped_fixture]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have all searches done by one of the engines, little at once."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fast":
            pytest.importorskip("hyperscan")
            patch.setattr(engines, "_WORTH", 0)
        else:
            patch.setattr(automaton.importlib, "import_module", _without_hyperscan)
            patch.setattr(engines, "_FEW", 1000 if request.param == "plain" else 0)
        yield request.param


def _without_hyperscan(name: str) -> object:
    if name == "hyperscan":
        raise ImportError
    return __import__(name, fromlist=["_"])


def space_of(parts: Sequence[tuple[int, bytes]]) -> AddressSpace:
    """Return a space of the bytes at some addresses, stored in the other order."""
    data, rows = b"", []
    for start, own in reversed(parts):
        rows.append((start, len(own), len(data)))
        data += own
    columns = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
    return AddressSpace(*columns, Memory(data))


def flat(space: AddressSpace) -> list[tuple[int, bytes]]:
    """Return start and bytes of each segment."""
    return [(segment.start, space.read(segment.start, segment.size)) for segment in space.segments()]


def matched_at(wanted: Expression, data: bytes, place: int, ahead: int) -> int:
    """Return how long the match at a place is: that of the first bytes only, if it is too long."""
    match = wanted.compiled.match(data, place, min(place + wanted.most + ahead, len(data)))
    if match and len(match[0]) > wanted.most:
        match = wanted.compiled.match(data, place, min(place + wanted.most, len(data)))
    return len(match[0]) if match else 0


def expected(wanted: Sequence[Pattern], start: int, data: bytes) -> list[tuple[int, int, int]]:
    """Return address, pattern and size of every match in a segment, looking at one place after the other."""
    found = []
    for number, each in enumerate(wanted):
        if isinstance(each, Expression):
            ahead, place = Shape(each.compiled).ahead, 0
            while place < len(data):
                size = matched_at(each, data, place, ahead)
                if size:
                    found.append((start + place, number, size))
                place += size or 1
            continue
        for place in range(len(data)):
            if isinstance(each, Pointers):
                own, size = data[place : place + each.width], each.width
                value = int.from_bytes(own, "little")
                right = any(low <= value < high for low, high in each.ranges)
                right &= each.anywhere or (start + place) % each.width == 0
            else:
                pattern = each if isinstance(each, bytes) else each.data
                mask = getattr(each, "mask", None) or bytes([0xFF]) * len(pattern)
                own, size = data[place : place + len(pattern)], len(pattern)
                right = all((a ^ b) & bits == 0 for a, b, bits in zip(own, pattern, mask, strict=False))
            if len(own) == size and right:
                found.append((start + place, number, size))
    return sorted(found)


def check(space: AddressSpace, wanted: Sequence[Pattern], block: int = 1 << 20) -> None:
    """Hold that all matches are found, and where they are stored."""
    search = PatternSearch(wanted, space.total)
    found = [*matches([(space, space.segments())], search, threads=1, block=block)]
    assert [(each.address, each.pattern, each.size) for each in found] == [
        row for start, data in flat(space) for row in expected(wanted, start, data)
    ]
    assert all(each.offset == space.offset_of(each.address) for each in found)


_LETTERS = st.binary(max_size=40).map(lambda data: bytes(b"ab\0A"[byte % 4] for byte in data))


@st.composite
def spaces(draw: st.DrawFn) -> AddressSpace:
    """Return memory of few letters in extents, some with gaps between, perhaps up to the last address."""
    parts = draw(st.lists(st.tuples(_LETTERS.filter(bool), st.integers(0, 2)), min_size=1, max_size=6))
    size = sum(len(data) + gap for data, gap in parts)
    address = draw(st.sampled_from([0, 0x10000, 0x7FFE0001, TOP - size]))
    rows = []
    for data, gap in parts:
        address += gap
        rows.append((address, data))
        address += len(data)
    return space_of(rows)


_HEX = st.lists(st.sampled_from(["61", "62", "00", "??", "6?", "?1"]), min_size=1, max_size=6).filter(
    lambda words: any(word != "??" for word in words)
)
_FIXED = st.one_of(
    _LETTERS.filter(bool).map(lambda data: data[:7]),
    _HEX.map(lambda words: made.hex_pattern("".join(words))),
    st.tuples(st.text("abA\0", min_size=1, max_size=3), st.sampled_from(["utf-8", "utf-16-le"])).map(
        lambda pair: made.text_pattern(*pair, ignore_case=True)
    ),
    st.integers(0, 300).map(lambda value: made.integer(str(value), 2)),
)


@settings(max_examples=60, suppress_health_check=WHOLE)
@given(spaces(), st.lists(_FIXED, min_size=1, max_size=6), st.integers(1, 50), st.integers(1, 20))
def test_patterns_of_a_fixed_size(
    engine: str, space: AddressSpace, wanted: list[Pattern], block: int, at_once: int
) -> None:
    """Every place is found, overlapping ones too, whatever the windows are and however little is told at once."""
    assert engine in ENGINES
    with pytest.MonkeyPatch.context() as patch:
        for module, place in (
            (plain_search.PlainSearch, 0),
            (automaton_search.FastFixed, 0),
            (key_search.ByKeys, None),
        ):
            if place is not None:
                patch.setattr(module.__init__, "__defaults__", (at_once,))
            else:
                patch.setattr(module.__init__, "__kwdefaults__", {"at_once": at_once})
        patch.setattr(automaton_search, "_CORE", 4)
        check(space, wanted, block)


_EXPRESSIONS = (
    "a+", "a+?b", "ab|b", "[ab]{2,}", "a.{0,3}b", "(?:ab)*A", "(a+)+b", "a*", "(?:a|b)*?A", "[^a]b", "a(?=b)",
    "a+(?!b)",
    "(?<=b)a", "(?<!ab)a+", r"\ba", r"a\b", r"\Bb", "^a", "(?m)^a|b$", "(?:aa)++b", "(?>ab|a)b", r"(a+)\1", "(?i)a+b",
    "(?i:A)B*", r"(a)?(?(1)b|A)", r"\x00+", "(?s:.)(?-s:.)", r"[\w]+", r"\W", "a{3,5}", "a{2}b{0,2}A?", "(?:ab|A){1,3}",
    ".+", ".*b", "a(?=.{0,3}A)", "(?:a|)(?:b|)", r"(?m)\n$|a$", "[^\0]{4,}",
)  # fmt: skip


@settings(max_examples=100, suppress_health_check=WHOLE)
@given(
    spaces(),
    st.lists(st.sampled_from(_EXPRESSIONS), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 50),
    st.integers(1, 5),
    st.integers(1, 9),
)
@example(space_of([(0, b"a" * 30)]), ["a+"], 4, 3, 1, 1)
@example(space_of([(0, b"ab" * 20)]), [".*b"], 3, 7, 9, 1)
@example(space_of([(0, b"b" * 34 + b"Ab" + b"a" * 30)]), ["Ab{0,2}|ba+|aa"], 40, 35, 1, 3)
def test_expressions(
    engine: str, space: AddressSpace, wanted: list[str], most: int, block: int, at_once: int, piece: int
) -> None:
    """Matches of expressions are the leftmost that do not overlap, as from the segment's start on."""
    assert engine in ENGINES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expression_search.ExpressionSearch.__init__, "__defaults__", (at_once,))
        patch.setattr(expression_search, "_STRETCH", 1)
        patch.setattr(automaton_search, "_BLOCK", 8)
        patch.setattr(matching, "_PIECE", piece)
        check(space, [made.expression(each, max_match=most) for each in wanted], block)


@given(spaces(), st.sampled_from([each for each in _EXPRESSIONS if not Shape(re.compile(each.encode())).ahead]))
def test_expressions_as_finditer_says(space: AddressSpace, wanted: str) -> None:
    """If no match is too long, and none is empty, matches are those of ``re.finditer``."""
    pattern = made.expression(wanted)
    found = [(each.address, each.size) for each in space.find(pattern, block=7)]
    assert found == [
        (start + match.start(), len(match[0]))
        for start, data in flat(space)
        for match in pattern.compiled.finditer(data)
        if match[0]
    ]


_ALPHABET = ("a", "b", ".", "[ab]", "[^a]", r"\w", r"\0", "A")


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map("".join),
        pairs.map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        pairs.map(lambda pair: f"{pair[0]}(?={pair[1]})"),
        pairs.map(lambda pair: f"(?!{pair[0]}){pair[1]}"),
        pairs.map(lambda pair: f"(?>{pair[0]}){pair[1]}"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{2,}", "?+", "{0,2}?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda each: f"(?i:{each})"),
    )


@settings(max_examples=150, suppress_health_check=WHOLE)
@given(st.recursive(st.sampled_from(_ALPHABET), _grown, max_leaves=6), _LETTERS, st.integers(1, 6), st.integers(1, 50))
def test_any_expression(engine: str, wanted: str, data: bytes, most: int, block: int) -> None:
    """What is left out of an expression to search fast never hides a match, whatever the expression is."""
    assert engine in ENGINES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automaton_search, "_BLOCK", 8)
        try:
            check(space_of([(0x1000, data or b"a")]), [made.expression(wanted, max_match=most)], block)
        except UsageError as error:
            assert "looks ahead without end" in str(error)  # noqa: PT017 - the only reason there is


@given(
    spaces(),
    st.lists(
        st.builds(
            lambda low, size, width, anywhere: Pointers("x", [(low, low + size), (0x4141, 0x4142)], width, anywhere),
            st.sampled_from([0, 0x61, 0x6161, 0x61616161, 0x6262000000000000, TOP - 1, 0x4100000000]),
            st.sampled_from([1, 0x1000, 1 << 40]),
            st.sampled_from([4, 8]),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 50),
    st.integers(1, 5),
)
def test_pointers(space: AddressSpace, wanted: list[Pattern], block: int, at_once: int) -> None:
    """Words that point into a range are found, at multiples of their width or anywhere."""
    wanted = [
        each._replace(ranges=[(low, min(high, TOP)) for low, high in each.ranges])
        for each in wanted
        if isinstance(each, Pointers)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointer_search.PointerSearch.__init__, "__kwdefaults__", {"at_once": at_once})
        check(space, wanted, block)


@settings(max_examples=30, suppress_health_check=WHOLE)
@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=2, max_size=3), st.integers(1, 3))
def test_shared_pages(engine: str, processes: list[list[int]], threads: int) -> None:
    """In each of several processes that share pages, all is found: across pages too, and expressions by the segment."""
    assert engine in ENGINES
    frames = [b"b" + bytes(PAGE - 3) + b"aa", b"ab".ljust(PAGE, b"\0"), b"a" * PAGE, b"b".rjust(PAGE, b"a")]
    frames += [bytes(PAGE), b"ba" * (PAGE // 2), b"a\0".rjust(PAGE, b"\1"), b"ab".rjust(PAGE, b"\1")]
    backing = Memory(b"".join(frames))
    parts = []
    for rows in processes:
        start = np.arange(len(rows), dtype=np.uint64) * np.uint64(PAGE)
        offset = np.array(rows, np.uint64) * np.uint64(PAGE)
        flags, size = np.zeros(len(rows), np.uint8), np.full(len(rows), PAGE, np.uint64)
        space = AddressSpace(start, size, offset, backing, physical=offset.copy(), flags=flags)
        parts.append((space, space.segments()))
    wanted: list[Pattern] = [b"aab", made.hex_pattern("61 61 00"), made.expression("[ab]{3,}", max_match=3000)]
    wanted.append(made.expression("(?<=a)ba+", max_match=100))
    found = [*matches(parts, PatternSearch(wanted, PAGE), threads=threads, block=2 * PAGE)]
    for number, (space, _) in enumerate(parts):
        own = [(each.address, each.pattern, each.size) for each in found if each.part == number]
        assert own == [row for start, data in flat(space) for row in quick(wanted, start, data)]


def quick(wanted: Sequence[Pattern], start: int, data: bytes) -> list[tuple[int, int, int]]:
    """Return what `expected` does, for patterns of whole bytes and expressions that do not look ahead."""
    found = []
    for number, each in enumerate(wanted):
        if isinstance(each, Expression):
            place = 0
            while match := each.compiled.search(data, place):
                size = matched_at(each, data, match.start(), 0)
                found.append((start + match.start(), number, size))
                place = match.start() + size
            continue
        text = each if isinstance(each, bytes) else each.data if isinstance(each, HexPattern) else b""
        found += [
            (start + match.start(), number, len(text)) for match in re.finditer(b"(?=" + re.escape(text) + b")", data)
        ]
    return sorted(found)


@pytest.mark.parametrize("wanted", [r"a\Z", "a$", "(?=.*b)a", "(?!(?:ab)*c)a"])
def test_expressions_that_cannot_be_answered(wanted: str) -> None:
    """An expression that asks for the end of memory, or looks ahead without end, is refused."""
    with pytest.raises(UsageError, match="cannot"):
        PatternSearch(made.expression(wanted), 1)


@pytest.mark.parametrize(
    "wanted", ["(", "[a", "a{3,2}", "(?<=a*)b", "(" * 100_000 + ")" * 100_000, "*", "(?P<a>.)(?P<a>.)"]
)
def test_expressions_that_are_none(wanted: str) -> None:
    """What is no expression is refused with the reason."""
    with pytest.raises(UsageError, match="is not a regular expression"):
        made.expression(wanted)


def test_very_many_patterns() -> None:
    """A hundred thousand patterns are searched for at once, whatever the engine."""
    rng = np.random.default_rng(7)
    table = rng.integers(0, 256, (100_000, 8), np.uint8)
    wanted = [row.tobytes() for row in table]
    data = bytearray(rng.integers(0, 256, 1 << 20, np.uint8).tobytes())
    places = sorted(rng.choice((1 << 20) // 16, 200, replace=False).tolist())
    for number, place in enumerate(places):
        data[16 * place + 3 : 16 * place + 11] = wanted[number * 499]
    space = space_of([(0x1000, bytes(data))])
    found = [(hit.address - 0x1000, wanted[hit.pattern]) for hit in space.find(wanted)]
    assert found == [(16 * place + 3, wanted[number * 499]) for number, place in enumerate(places)]


def test_a_catastrophic_expression_can_be_interrupted() -> None:
    """An expression that may take for ever is searched for in the thread that signals reach."""
    assert PatternSearch(memcarve.expression("(a+)+b"), 1 << 40).threads == 1
    assert PatternSearch(memcarve.expression(r"https?://[^\0]{8,}"), 1 << 40).threads is None
