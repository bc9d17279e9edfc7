"""Strings in memory: the same as a slow reading of each segment's bytes finds, and as binutils' `strings` finds."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tracemalloc
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import memcarve
from files import ROOT
from memcarve.errors import UnreadableError, UsageError
from memcarve.hunting.strings import StringSearch
from memcarve.hunting.strings.alphabets import ALPHABETS, units
from memcarve.hunting.strings.window_search import ENCODINGS
from memcarve.intervals import Intervals, union
from memcarve.process import ProcessMemory
from memcarve.space import AddressSpace
from memcarve.unreadable import SECTOR
from memory import PAGE, Memory, noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memcarve.segments import Segments

TOP = 1 << 64


class Row(NamedTuple):
    """A string: where it begins, its encoding and its text."""

    address: int
    encoding: str
    text: str


# the model: one character after the other


def is_printable(character: str) -> bool:
    """Return whether a character may stand in a string."""
    kind = unicodedata.category(character)
    return kind[0] in "LMNPS" or kind == "Zs" or character in "\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def character_at(data: bytes, place: int, *, utf8: bool) -> str:
    """Return the character whose bytes begin at a place; nothing if there is none."""
    for size in range(1, 5 if utf8 else 2):
        try:
            found = data[place : place + size].decode("utf-8" if utf8 else "ascii")
        except UnicodeDecodeError:
            continue
        if len(found) == 1:
            return found if is_printable(found) else ""
    return ""


def narrow(data: bytes, *, utf8: bool) -> Iterator[tuple[int, str]]:
    """Yield every run of ASCII or UTF-8: where it begins, and its text."""
    place, begin, text = 0, 0, ""
    while place <= len(data):
        found = character_at(data, place, utf8=utf8) if place < len(data) else ""
        if found:
            begin = begin if text else place
            text += found
        elif text:
            yield begin, text
            text = ""
        place += max(len(found.encode()), 1)


def wide(data: bytes, skip: int) -> Iterator[tuple[int, str]]:
    """Yield every run of UTF-16LE whose units lie at every other place: where it begins, and its text."""
    last, begin, text = 0, 0, ""
    for place in range(skip, len(data), 2):
        unit = int.from_bytes(data[place : place + 2], "little") if place + 2 <= len(data) else 0
        alphabets = int(units()[unit]) & ALPHABETS
        if text and not last & alphabets:
            yield begin, text
            text = ""
        if alphabets:
            begin = begin if text else place
            text += chr(unit)
        last = alphabets
    if text:
        yield begin, text


def is_weak(unit: int) -> bool:
    """Return whether a unit of UTF-16LE beyond ASCII looks like other data."""
    high, low = divmod(unit, 256)
    blocks = ((0x100, 0x36F), (0x2190, 0x22FF), (0x2500, 0x27BF))
    pair = all(0x20 <= byte < 0x7F for byte in (high, low))
    return not low or high == low or pair or any(first <= unit <= last for first, last in blocks)


def texts_in(text: str, least: int) -> list[tuple[int, str]]:
    """Return what of a run of UTF-16LE is text, each with its place."""
    beyond = [ord(character) for character in text if ord(character) > 0x7E]
    low = {ord(character) % 256 for character in text}
    weak = sum(map(is_weak, beyond))
    if not beyond or (len(low) > 1 and (3 * weak < 2 * len(text) or 4 * (len(beyond) - weak) >= len(text))):
        return [(0, text)]
    parts = itertools.groupby(enumerate(text), lambda each: ord(each[1]) <= 0x7E)
    plain = [[*part] for is_plain, part in parts if is_plain]
    return [(part[0][0], "".join(character for _, character in part)) for part in plain if len(part) >= least]


def model(data: bytes, start: int, encodings: Sequence[str], least: int, most: int) -> list[Row]:
    """Return all strings in the bytes at an address."""
    found = []
    if encodings != ["utf-16-le"]:
        for place, text in narrow(data, utf8="utf-8" in encodings):
            found += [(place, piece, piece.isascii()) for place, piece in cut(place, text, least, most, "utf-8")]
    rows = [Row(start + place, "ascii" if plain else "utf-8", text) for place, text, plain in found]
    for skip in range(2 if "utf-16-le" in encodings else 0):
        for place, text in wide(data, skip):
            pieces = cut(place, text, least, most, "utf-16-le")
            rows += [
                Row(start + place + 2 * at, "utf-16-le", part)
                for place, piece in pieces
                for at, part in texts_in(piece, least)
            ]
    return sorted(rows, key=lambda row: (row.address, ["ascii", "utf-8", "utf-16-le"].index(row.encoding)))


def cut(place: int, text: str, least: int, most: int, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the pieces of a run that is long enough."""
    if len(text) >= least:
        for at in range(0, len(text), most):
            yield place + len(text[:at].encode(encoding)), text[at : at + most]


# what is searched


def strings_of(
    parts: Sequence[tuple[AddressSpace, Segments]], encodings: Sequence[str], least: int, most: int, **how: int
) -> list[list[Row]]:
    """Return the strings in each of several parts."""
    found: list[list[Row]] = [[] for _ in parts]
    for batch in StringSearch(parts, encodings, least, most, **how):
        columns = batch.address.tolist(), batch.code.tolist(), batch.texts, batch.row.tolist()
        segments = parts[batch.part][1]
        for address, code, text, row in zip(*columns, strict=True):
            assert segments.start[row] <= address <= segments.last[row]
            found[batch.part].append(Row(address, ENCODINGS[code], text))
    return found


def checked(
    parts: Sequence[tuple[AddressSpace, Segments]], encodings: Sequence[str], least: int, most: int, **how: int
) -> None:
    """Check that the strings in each of several parts are those of the model, in its order."""
    for (space, segments), found in zip(parts, strings_of(parts, encodings, least, most, **how), strict=True):
        expected = [
            row
            for segment in segments
            for row in model(space.read(segment.start, segment.size), segment.start, encodings, least, most)
        ]
        assert found == expected


def space_of(rows: Sequence[tuple[int, int, int]], data: bytes, *, physical: bool = False) -> AddressSpace:
    """Return a space of extents: address, size, offset."""
    start, size, offset = (np.array(column, np.uint64) for column in zip(*rows, strict=True))
    if not physical:
        return AddressSpace(start, size, offset, Memory(data))
    return AddressSpace(
        start, size, offset, Memory(data), physical=offset + np.uint64(1 << 20), flags=np.zeros(len(start), np.uint8)
    )


_TEXTS = (
    *("Password", "a", "tab\there", "C:\\Users\\Иван", "abc" * 9, "Ünïcödé", "Привет, мир", "€ 5 “x”", "🦊 fox"),
    *("שלום", "你好世界", "東京", "안녕하세요", "मनमोहन", "ﷺﷺ"),
    *("\u00ad", "\u200d", "\u3000\u3000", "\u4e4e\u4e4e\u4e4e", "\uff21\uff22"),
)
_ODD = (
    b"\0",
    b"\0\0\0",
    b"\xc3",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xff\xfe",
    b"\x00\xd8",
    b"\x80",
    b"~",
)
_PIECES = st.one_of(
    st.builds(
        lambda text, encoding: text.encode(encoding, "replace"),
        st.one_of(st.sampled_from(_TEXTS), st.text(max_size=6)),
        st.sampled_from(["utf-8", "utf-16-le"]),
    ),
    st.sampled_from(_ODD),
    st.binary(max_size=5),
)
_DATA = st.lists(_PIECES, max_size=40).map(b"".join)
_ENCODINGS = st.sampled_from([["ascii"], ["utf-8"], ["ascii", "utf-8"], ["utf-16-le"], ["utf-8", "utf-16-le"]])


@st.composite
def spaces(draw: st.DrawFn) -> AddressSpace:
    """Return a space of small extents: some follow each other, some do not, and the last may end at 2**64."""
    data = draw(_DATA)
    cuts = sorted(draw(st.sets(st.integers(1, max(len(data) - 1, 1)), max_size=6)))
    borders = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [(low, high - low) for low, high in itertools.pairwise(borders) if high > low]
    pieces = draw(st.permutations(pieces)) if draw(st.booleans()) else pieces
    if not pieces:
        pieces, data = [(0, 1)], b"x"
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 2, 4096]), min_size=len(pieces), max_size=len(pieces)))
    length = sum(size for _, size in pieces) + sum(gaps)
    address = TOP - length if draw(st.booleans()) else 0x10000
    rows = []
    for (offset, size), gap in zip(pieces, gaps, strict=True):
        rows.append((address + gap, size, offset))
        address += gap + size
    return space_of(rows, data)


_LIMITS = st.tuples(st.integers(2, 6), st.sampled_from([6, 7, 20, 1 << 16]))
_BLOCKS = st.sampled_from([1, 2, 3, 5, 16, 1 << 18])


@given(spaces(), _ENCODINGS, _LIMITS, _BLOCKS)
def test_every_string(space: AddressSpace, encodings: list[str], limits: tuple[int, int], block: int) -> None:
    """What is found is what a slow reading of each segment finds, wherever windows and extents end."""
    checked([(space, space.segments())], encodings, *limits, block=block, threads=1)


# several processes


@settings(max_examples=8)
@given(
    st.lists(st.tuples(_DATA, _DATA), min_size=2, max_size=5),
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=3),
    _ENCODINGS,
    st.integers(0, 1),
)
def test_shared_pages(
    frames: list[tuple[bytes, bytes]], processes: list[list[int]], encodings: list[str], kept: int
) -> None:
    """Each process has its strings, also those that cross pages which others have in another order."""
    pages = [head[:60].ljust(PAGE - 60, b"\0") + tail[-60:].rjust(60, b"\0") for head, tail in frames]
    spaces = []
    for process in processes:
        rows = [(0x10000 + at * PAGE, PAGE, frame % len(pages) * PAGE) for at, frame in enumerate(process)]
        spaces.append(space_of(rows, b"".join(pages), physical=True))
    parts = [(space, space.segments()) for space in spaces * 2]
    checked(parts, encodings, 4, 9 if kept else 1 << 16, threads=2)


def test_shared_pages_are_read_once() -> None:
    """What several processes share is searched once."""
    data = noise(1, 64 * PAGE)
    spaces = [space_of([(at, len(data), 0)], data, physical=True) for at in (0x10000, 0x7000000, 0x7FFF0000)]
    for space in spaces[1:]:
        space.backing = spaces[0].backing
    search = StringSearch([(space, space.segments()) for space in spaces], ["utf-8", "utf-16-le"], 6)
    texts = [text for batch in search for text in batch.texts]
    assert len(texts) > 300
    assert texts == texts[: len(texts) // 3] * 3
    assert search.same == 2 * len(data)


# what cannot be read


class Damaged(Memory):
    """A backing of which one sector cannot be read."""

    BAD = 2 * PAGE

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; raises UnreadableError if it touches the sector."""
        if offset < self.BAD + SECTOR and offset + len(buffer) > self.BAD:
            raise UnreadableError("cannot be read", max(offset, self.BAD), subject="damaged")
        super().read_into(offset, buffer)


@pytest.mark.parametrize("block", [SECTOR, 1000, 1 << 18])
def test_what_cannot_be_read(block: int) -> None:
    """What cannot be read is like a gap, and is told once."""
    data = ("abcdefg " * 2500 + "Привет " * 300).encode()
    space = AddressSpace(*(np.array([value], np.uint64) for value in (0x1000, len(data), 0)), Damaged(data))
    search = StringSearch([(space, space.segments())], ["utf-8", "utf-16-le"], 4, block=block)
    found = [row for batch in search for row in zip(batch.address.tolist(), batch.texts, strict=True)]
    first, second = data[: Damaged.BAD], data[Damaged.BAD + SECTOR :]
    assert found == [(0x1000, first.decode()), (0x1000 + Damaged.BAD + SECTOR, second.decode())]
    assert union(Intervals.of((start, size) for _, start, size in search.lost)).total == SECTOR


# limits


class Same(Memory):
    """A backing of one byte again and again, of any size."""

    def __init__(self, byte: bytes, size: int) -> None:
        super().__init__(byte)
        self.length = size

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        assert offset + len(buffer) <= self.length
        buffer[:] = self.data * len(buffer)


@pytest.mark.parametrize(("byte", "count"), [(b"A", 1024), (b"\0", 0), (b"\xcd", 0), (b"\xff", 0)])
def test_one_long_string(byte: bytes, count: int) -> None:
    """A string of any length comes in pieces, which follow each other, in little memory; filled memory has none."""
    size = 1 << 26
    space = AddressSpace(*(np.array([value], np.uint64) for value in (TOP - size, size, 0)), Same(byte, size))
    search = StringSearch([(space, space.segments())], ["utf-8", "utf-16-le"], 4)
    begun, most = 0, 0
    tracemalloc.start()
    for batch in search:
        assert {*batch.texts} == {"A" * (1 << 16)}
        expected = TOP - size + (np.arange(begun, begun + len(batch.texts), dtype=np.uint64) << np.uint64(16))
        assert (batch.address == expected).all()
        begun += len(batch.texts)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert begun == count
    assert search.cut == (count > 0)
    assert most < 40 << 20


@pytest.mark.parametrize(("least", "most"), [(1, 100), (0, 100), (-1, 4), (5, 4), (4, (1 << 24) + 1)])
def test_limits(least: int, most: int) -> None:
    """Lengths that make no sense are refused."""
    with pytest.raises(UsageError, match="strings cannot have"):
        StringSearch([], ["ascii"], least, most)


@pytest.mark.parametrize("encodings", [[], ["latin-1"], ["ASCII"]])
def test_unknown_encodings(encodings: list[str]) -> None:
    """Only the encodings that there are can be asked for, and one at least."""
    with pytest.raises(UsageError, match="choose from ascii, utf-8, utf-16-le"):
        StringSearch([], encodings)


# what is text in UTF-16


@pytest.mark.parametrize(
    "text",
    [
        *("Zażółć gęślą jaźń", "Příliš žluťoučký kůň", "Tiếng Việt", "naïve façade “quotes” €5"),
        *("Ελληνικά κείμενα", "Привет, мир", "Українська", "Հայերեն լեզու", "ქართული ენა", "עברית שפה", "العربية لغة"),
        *("فارسی زبان", "हिन्दी भाषा", "বাংলা ভাষা", "தமிழ் மொழி", "ภาษาไทย", "ພາສາລາວ", "မြန်မာ", "ភាសាខ្មែរ", "አማርኛ ቋንቋ"),
        *("한국어 문장입니다", "日本語の文章です", "カタカナ", "中文字符串测试", "繁體中文測試", "C:\\用户\\张三"),
        *("C:\\Windows\\System32", "aaaa", "----"),
    ],
)
@pytest.mark.parametrize("at", [0x40, 0x41])
def test_alphabets(text: str, at: int) -> None:
    """Texts of many languages are found whole, at even and odd addresses, and nothing else is."""
    data = bytes(at) + text.encode("utf-16-le") + bytes(64)
    space = space_of([(0x1000, len(data), 0)], data)
    (found,) = strings_of([(space, space.segments())], ["utf-16-le"], 4, 1 << 16)
    assert found == [Row(0x1000 + at, "utf-16-le", text)]


@pytest.mark.parametrize(
    "data",
    [
        b"The quick brown fox jumps over the lazy dog, and so on: 0123456789\0" * 50,
        b"".join(bytes([code]) * 64 for code in range(256)),
        b"".join(number.to_bytes(2, "little") for number in range(256, 0x370)) * 4,
        b"".join(number.to_bytes(4, "little") for number in range(0, 1 << 26, 1 << 16)),
    ],
    ids=["ascii", "fill", "small numbers", "round numbers"],
)
def test_what_is_no_text(data: bytes) -> None:
    """Text in ASCII, filled memory and numbers are no strings of UTF-16 beyond ASCII."""
    space = space_of([(0x1000, len(data), 0)], data)
    (found,) = strings_of([(space, space.segments())], ["utf-16-le"], 4, 1 << 16)
    assert [row for row in found if not row.text.isascii()] == []


def test_noise() -> None:
    """Random bytes have as few strings of UTF-16 as the documentation says: of eight characters, one in each 4 MiB."""
    data = np.random.default_rng(1).bytes(1 << 23)
    space = space_of([(0x1000, len(data), 0)], data)
    of_four, of_eight = (strings_of([(space, space.segments())], ["utf-16-le"], least, 1 << 16)[0] for least in (4, 8))
    assert len(of_four) < len(data) / 1500
    assert len(of_eight) < 10


def test_units() -> None:
    """Whatever belongs to an alphabet is printable, none is a surrogate or private, and ASCII belongs to all."""
    table = units()
    for code in np.flatnonzero(table & ALPHABETS).tolist():
        assert is_printable(chr(code)), hex(code)
    names = {"LATIN SMALL": 1, "CYRILLIC": 2, "GREEK": 2, "HEBREW": 4, "ARABIC": 4, "THAI": 8, "DEVANAGARI": 8}
    for code in np.flatnonzero(table & ALPHABETS).tolist():
        name = unicodedata.name(chr(code), "")
        own = [bit for word, bit in names.items() if name.startswith(word) and code > 0x7E]
        assert not own or table[code] & own[0], name
    assert (table[[9, *range(0x20, 0x7F)]] & ALPHABETS == ALPHABETS).all()


# binutils


@pytest.fixture(scope="module")
def mixed() -> bytes:
    """Return noise, numbers and texts in several encodings, at odd and even places."""
    texts = ["plain text", "C:\\Windows\\System32\\ntdll.dll", "tab\there", "Привет, мир", "中文字符串", "x" * 300]
    encoded = [text.encode(encoding) for text in texts for encoding in ("utf-8", "utf-16-le")]
    between = [noise(seed, 3000 + seed) for seed in range(30)] + [bytes(seed) for seed in range(1, 30)]
    return b"".join(itertools.chain.from_iterable(zip(between, encoded * 5, strict=False)))


def by_binutils(path: Path, *options: str) -> list[tuple[int, bytes]]:
    """Return offset and text of each string that binutils finds."""
    program = shutil.which("strings")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False) if program else None
    if program is None or version is None or "GNU strings" not in version.stdout:
        pytest.skip("binutils' strings is not installed")
    command = [program, "-a", "-t", "d", *options, str(path)]
    ran = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    rows = [line.lstrip().partition(b" ") for line in ran.stdout.split(b"\n")[:-1]]
    return [(int(offset), text) for offset, _, text in rows]


@pytest.mark.parametrize("least", [4, 8])
def test_as_binutils(tmp_path: Path, mixed: bytes, least: int) -> None:
    """ASCII is byte for byte what binutils finds; all that it finds in UTF-16 is found, or is part of what is."""
    path = tmp_path / "mixed.bin"
    path.write_bytes(mixed)
    space = space_of([(0, len(mixed), 0)], mixed)
    parts = [(space, space.segments())]
    (ascii_alone,) = strings_of(parts, ["ascii"], least, 1 << 16)
    assert [(row.address, row.text.encode()) for row in ascii_alone] == by_binutils(path, "-n", str(least))
    (wide_ones,) = strings_of(parts, ["utf-16-le"], least, 1 << 16)
    spans = {(row.address + 2 * at) for row in wide_ones for at in range(len(row.text))}
    theirs = by_binutils(path, "-n", str(least), "-e", "l")
    assert len(theirs) >= 15
    for offset, text in theirs:
        assert {offset + 2 * at for at in range(len(text))} <= spans


# the library


def test_the_library() -> None:
    """`memcarve.strings` tells where each string lies, by segments that are chosen."""
    with memcarve.open(ROOT / "examples" / "pid.1624.dmp") as dump:
        process = dump.process()
        chosen = process.segments(address=[(0xA02F5D2C70, 0xA02F5D2C71)])
        found = [each.hit for each in memcarve.strings(process, 10, segments=chosen)]
        for row in found:
            assert process.read(row.address, 8) == row.text.encode(row.encoding)[:8]
            assert row.offset == process.space.offset_of(row.address)
            assert row.segment == chosen[0]
            assert row.physical is None
    assert "OS=Windows_NT" in {row.text for row in found}


def test_the_library_and_what_cannot_be_read() -> None:
    """Without `unreadable` what cannot be read raises; with it, it is told and passed over."""
    data = b"some text " * 3000
    space = AddressSpace(*(np.array([value], np.uint64) for value in (0x1000, len(data), 0)), Damaged(data))
    process = ProcessMemory(space)
    with pytest.raises(UnreadableError):
        list(memcarve.strings(process))
    lost: list[tuple[int, int]] = []
    found = [*memcarve.strings(process, unreadable=lambda _, start, size: lost.append((start, size)))]
    assert len(found) == 2
    assert union(Intervals.of(lost)).total == SECTOR
