"""Strings in memory: the same as a slow reading of each segment's bytes finds, and as binutils' `strings` finds."""

from __future__ import annotations

import itertools
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given, strategies as st

from memcarve.hunting.strings import StringSearch
from memcarve.hunting.strings.alphabets import ALPHABETS, units
from memcarve.hunting.strings.window_search import ENCODINGS
from memcarve.space import AddressSpace
from memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    pair = all(byte == ord("\t") or 0x20 <= byte < 0x7F for byte in (high, low))
    return not low or high == low or pair or any(first <= unit <= last for first, last in blocks)


def texts_in(text: str, least: int) -> list[tuple[int, str]]:
    """Return what of a run of UTF-16LE is text, each with its place."""
    beyond = [ord(character) for character in text if ord(character) > 0x7E]
    low = {ord(character) % 256 for character in text}
    if not beyond or (len(low) > 1 and sum(map(is_weak, beyond)) < len(text) * 2 / 3):
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
