"""What counts as text: printable characters, and the alphabets by which UTF-16 is told from other data.

Two bytes of anything are a printable character of UTF-16 four times in five, so that being printable says nothing.
Each code unit is therefore given the alphabets that it belongs to; units side by side that share none are not of one
text. What all texts have in common (ASCII, punctuation, symbols) belongs to all of them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.dtypes import I64, U8, Bools

_LATIN, _EUROPEAN, _RIGHT_TO_LEFT, _SOUTHERN, _CHINESE, _KOREAN = (1 << bit for bit in range(6))
#: the bits of a unit that are alphabets
ALPHABETS = 0x3F
#: the unit is a character of ASCII
PLAIN = 0x40
#: the unit is a character that other data looks like
WEAK = 0x80
#: what has so large a share of weak units or a larger one, two thirds, is something else, unless a quarter is others
#: beyond ASCII
_WEAK, _OTHERS = (2, 3), (1, 4)

_PLANE = 1 << 16
_PLAIN = re.compile(r"[\t -~]+")
#: those that have characters; others are not assigned, or private
_PLANES = (0, 1, 2, 3, 14)
#: format characters that words are written with: the non-joiner and the joiner
_JOINERS = (0x200C, 0x200D)
#: blocks of Unicode (first, last), with the alphabets they belong to
_BLOCKS = (
    (0x00A0, 0x00BF, ALPHABETS),  # signs of Latin-1
    (0x00D7, 0x00D7, ALPHABETS),
    (0x00F7, 0x00F7, ALPHABETS),
    (0x00C0, 0x02FF, _LATIN),
    (0x0300, 0x036F, _LATIN | _EUROPEAN),  # combining marks
    (0x0370, 0x058F, _EUROPEAN),  # Greek, Cyrillic, Armenian
    (0x0590, 0x08FF, _RIGHT_TO_LEFT),  # Hebrew, Arabic, Syriac, Thaana, N'Ko and others
    (0x0900, 0x109F, _SOUTHERN),  # Indic alphabets, Thai, Lao, Tibetan, Myanmar
    (0x10A0, 0x10FF, _EUROPEAN),  # Georgian
    (0x1200, 0x139F, _SOUTHERN),  # Ethiopic
    (0x1780, 0x18AF, _SOUTHERN),  # Khmer, Mongolian
    (0x1C80, 0x1C8F, _EUROPEAN),
    (0x1C90, 0x1CBF, _EUROPEAN),
    (0x1E00, 0x1EFF, _LATIN),
    (0x1F00, 0x1FFF, _EUROPEAN),
    (0x200C, 0x200D, _RIGHT_TO_LEFT | _SOUTHERN),
    (0x2010, 0x205E, ALPHABETS),  # punctuation
    (0x2070, 0x20CF, ALPHABETS),  # superscripts, currencies
    (0x2100, 0x22FF, ALPHABETS),  # letterlike, numbers, arrows, mathematics
    (0x2500, 0x27BF, ALPHABETS),  # boxes, shapes, symbols
    (0x2C60, 0x2C7F, _LATIN),
    (0x2D00, 0x2D2F, _EUROPEAN),
    (0x2DE0, 0x2DFF, _EUROPEAN),
    (0x3000, 0x303F, _CHINESE | _KOREAN),  # spaces, commas, brackets
    (0x3040, 0x312F, _CHINESE),  # kana, Bopomofo
    (0x3130, 0x318F, _KOREAN),
    (0xA640, 0xA69F, _EUROPEAN),
    (0xA720, 0xA7FF, _LATIN),
    (0xFB00, 0xFB06, _LATIN),
    (0xFB1D, 0xFDFF, _RIGHT_TO_LEFT),
    (0xFE70, 0xFEFC, _RIGHT_TO_LEFT),
    (0xFF01, 0xFFE6, _CHINESE | _KOREAN),  # wide and narrow forms
)
#: blocks (first, last) whose units are weak: they look like small numbers, or are seldom most of a text
_WEAK_BLOCKS = ((0x0100, 0x036F), (0x2190, 0x22FF), (0x2500, 0x27BF))
_ROWS = range(0xA1, 0xFF)  # second bytes in sets that extend ISO 2022
#: of large sets, the part that is in common use: codec, first and last lead byte, second bytes, alphabet
_COMMON = (
    ("gb2312", 0xB0, 0xD7, _ROWS, _CHINESE),  # level 1
    ("big5", 0xA4, 0xC6, (*range(0x40, 0x7F), *_ROWS), _CHINESE),  # level 1
    ("euc_jp", 0xB0, 0xCF, _ROWS, _CHINESE),  # JIS X 0208, level 1
    ("euc_kr", 0xB0, 0xC8, _ROWS, _KOREAN),  # the syllables of KS X 1001
)


@functools.cache
def printable(plane: int) -> Bools:
    """Return which of a plane's 65536 characters (bool) are printable, by the Unicode of this Python.

    They are letters, marks, numbers, punctuation, symbols and spaces, and the two joiners; of ASCII the tab as well.
    """
    if plane not in _PLANES:
        return np.zeros(_PLANE, np.bool_)
    codes = range(plane * _PLANE, (plane + 1) * _PLANE)
    kinds = np.frombuffer("".join(map(unicodedata.category, map(chr, codes))).encode(), "S2")
    found: Bools = np.isin(kinds.view(np.uint8)[::2], np.frombuffer(b"LMNPS", np.uint8)) | (kinds == b"Zs")
    if not plane:
        found[[ord("\t"), *_JOINERS]] = True
    found.flags.writeable = False
    return found


@functools.cache
def units() -> U8:
    """Return for each code unit of UTF-16 (uint8) the alphabets that it belongs to, and whether it is PLAIN or WEAK."""
    found = np.zeros(_PLANE, np.uint8)
    for first, last, alphabets in _BLOCKS:
        found[first : last + 1] |= np.uint8(alphabets)
    for codec, first, last, rows, alphabet in _COMMON:
        found[_cells(codec, range(first, last + 1), rows)] |= np.uint8(alphabet)
    found[~printable(0)] = 0
    plain = np.zeros(_PLANE, np.bool_)
    plain[[ord("\t"), *range(0x20, 0x7F)]] = True
    visible = plain[:256].copy()
    visible[ord("\t")] = False
    weak = (visible[:, None] & visible[None, :]).ravel()  # ASCII, read in pairs
    weak[0::256] = True  # ASCII in UTF-16, read a byte off; round numbers
    weak[0::257] = True  # memory that is filled with one byte
    for first, last in _WEAK_BLOCKS:
        weak[first : last + 1] = True
    found[weak] |= np.uint8(WEAK)
    found[plain] = ALPHABETS | PLAIN
    found.flags.writeable = False
    return found


def _cells(codec: str, leads: Iterable[int], rows: Iterable[int]) -> list[int]:
    """Return the characters of an East Asian set that have some first and second bytes."""
    cells = (bytes((lead, row)).decode(codec, "ignore") for lead in leads for row in rows)
    return [ord(cell) for cell in cells if len(cell) == 1]


def is_weak(weak: I64, count: I64) -> Bools:
    """Return whether so many of `count` units are `weak` (int64) that they may be no text (bool)."""
    return weak * _WEAK[1] >= count * _WEAK[0]


def has_others(weak: I64, plain: I64, count: I64) -> Bools:
    """Return whether units of which some are weak and some are ASCII (int64) are text all the same (bool)."""
    return (count - weak - plain) * _OTHERS[1] >= count * _OTHERS[0]


def is_monotone(low: str) -> bool:
    """Return whether UTF-16 is one character again and again, or text read a byte off, by its low bytes (latin-1)."""
    return low.count(low[:1]) == len(low)


def texts_in(text: str, least: int) -> list[tuple[int, str]]:
    """Return what of a run of UTF-16 is text, each with its place: all of it, or only the parts that are ASCII.

    A part of a run has at least `least` characters.
    """
    if text.isascii():
        return [(0, text)]
    data = text.encode("utf-16-le")
    kinds = units()[np.frombuffer(data, "<u2")]
    weak, plain, count = (np.array([number]) for number in (_count(kinds, WEAK), _count(kinds, PLAIN), len(text)))
    too_weak = is_weak(weak, count)[0] and not has_others(weak, plain, count)[0]
    if too_weak or is_monotone(str(data[::2], "latin-1")):
        return plain_in(text, least)
    return [(0, text)]


def _count(kinds: U8, bit: int) -> int:
    return int(np.count_nonzero(kinds & bit))


def plain_in(text: str, least: int) -> list[tuple[int, str]]:
    """Return the parts of a text that are ASCII and have at least `least` characters, each with its place."""
    return [(found.start(), found[0]) for found in _PLAIN.finditer(text) if len(found[0]) >= least]
