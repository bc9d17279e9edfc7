"""What is searched for: text as it lies in memory, without the mark at a file's beginning; bytes with wildcards; more.

Also expressions over bytes, integers and pointers.
"""

from __future__ import annotations

import codecs
import re
import string
import warnings
from encodings.aliases import aliases
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: encodings whose files begin with a byte-order mark, and the encodings without it, in the byte order of today's
#: processors
_OF_FILES = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


#: those that text in memory usually has
_USUAL = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "ascii", "latin-1", "cp1252")


class HexPattern(NamedTuple):
    """Bytes as they were written, `data`, and which of their bits count, `mask`; the others are 0 in both."""

    text: str
    data: bytes
    mask: bytes


class TextPattern(NamedTuple):
    """A text, its encoding with a definite byte order, and its bytes in that encoding.

    `mask` has the bits that count, if those do not that tell small from capital letters of ASCII.
    """

    text: str
    encoding: str
    data: bytes
    mask: bytes | None = None


class Expression(NamedTuple):
    """A regular expression over bytes, as it was written and compiled; a match is at most `most` bytes long."""

    text: str
    compiled: re.Pattern[bytes]
    most: int


class Integer(NamedTuple):
    """A number as it was written, and its bytes in memory; `kind` says which, as in ``u32-le``."""

    text: str
    kind: str
    data: bytes


class Pointers(NamedTuple):
    """Words of `width` bytes, little-endian, whose value is in one of `ranges` (start and end, half-open).

    `anywhere`: not only at addresses that are multiples of the width.
    """

    text: str
    ranges: Sequence[tuple[int, int]]
    width: int
    anywhere: bool = False


def hex_pattern(text: str) -> HexPattern:
    """Return the pattern that bytes in hexadecimal stand for, as in ``4d5a9000`` or ``4d 5a ?? 0?``.

    `?` is any digit, and a byte of its own between spaces is any byte. Raises UsageError if it is anything else, or
    only wildcards.
    """
    words = text.removeprefix("0x").split()
    digits = "".join("??" if word == "?" else word for word in words).lower()
    if not re.fullmatch("(?:[0-9a-f?]{2})+", digits):
        raise UsageError(f"{text!r} is not bytes in hexadecimal", remedy="write them like 4d5a9000, or '4d 5a ?? 0?'")
    if not digits.strip("?"):
        raise UsageError(f"{text!r} would be found everywhere", remedy="give one digit at least that is not a wildcard")
    mask = re.sub("[0-9a-f]", "f", digits).replace("?", "0")
    return HexPattern(text, bytes.fromhex(digits.replace("?", "0")), bytes.fromhex(mask))


def encodings() -> list[str]:
    """Return the encodings of text that Python knows, the usual ones first."""
    others = []
    for name in sorted({*aliases.values()} - {known.replace("-", "_") for known in (*_USUAL, "utf-16", "utf-32")}):
        try:
            "".encode(name)
        except (LookupError, ValueError):  # not of text
            continue
        others.append(name.replace("_", "-"))
    return [*_USUAL, *others]


def text_pattern(text: str, encoding: str, *, ignore_case: bool = False) -> TextPattern:
    """Return the pattern that finds a text in memory; `encoding` is any encoding of text that Python knows.

    It has no byte-order mark: ``utf-16`` and ``utf-32`` mean the little-endian encodings, and ``utf-8-sig`` means
    ``utf-8``. With `ignore_case`, small and capital letters of ASCII are the same. Raises UsageError if there is no
    such encoding, if it is not an encoding of text or puts a mark before
    all text, or if the text cannot be written in it.
    """
    try:
        name = _OF_FILES.get(codecs.lookup(encoding).name, encoding)
    except (LookupError, ValueError):  # ValueError: it holds characters that no name can have
        raise UsageError(f"unknown encoding {encoding!r}", remedy=f"choose from {', '.join(encodings())}") from None
    try:
        mark, data = "".encode(name), text.encode(name)
    except LookupError:
        raise UsageError(
            f"{encoding!r} is not an encoding of text", remedy="give the bytes that it makes of the pattern"
        ) from None
    except ValueError:
        raise UsageError(f"{text!r} cannot be written in {encoding}") from None
    if mark:
        raise UsageError(
            f"{encoding!r} puts {mark.hex()} before all text, which does not lie before it in memory; choose an "
            "encoding that does not"
        )
    return TextPattern(text, name, data, _folding(text, name, data) if ignore_case else None)


def _folding(text: str, encoding: str, data: bytes) -> bytes | None:
    """Return which bits count if small and capital letters are the same; None if the text has none.

    Raises UsageError if they do not differ in one bit each.
    """
    letters = {letter for letter in text if letter in string.ascii_letters}
    if not letters:
        return None
    upper, lower = (
        "".join(change(letter) if letter in letters else letter for letter in text).encode(encoding)
        for change in (str.upper, str.lower)
    )
    same = len(upper) == len(lower) == len(data)
    different = bytes(a ^ b for a, b in zip(upper, lower, strict=False))
    if not same or sum(map(int.bit_count, different)) != sum(letter in letters for letter in text):
        problem = f"small and capital letters differ in more than a bit in {encoding}, so case cannot be ignored"
        raise UsageError(problem, remedy="leave {ignore_case} out, or choose another encoding")
    return bytes(0xFF ^ bits for bits in different)


#: how long a match of an expression may be
MOST, LARGEST_MOST = 4096, 1 << 20


def expression(text: str | bytes, *, ignore_case: bool = False, max_match: int = MOST) -> Expression:
    """Return the pattern that a regular expression over bytes stands for, in the syntax of Python's `re`.

    A dot is any byte. Text is taken in UTF-8. A match is at most `max_match` bytes long: of a longer one, the match
    among the first so many bytes. Raises UsageError if it is malformed, or the limit is not from 1 to 1 MiB.
    """
    if not 1 <= max_match <= LARGEST_MOST:
        raise UsageError(f"matches of {max_match} bytes are too long", remedy=f"give 1 to {LARGEST_MOST}")
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    shown = text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what may mean something else in a later Python
            compiled = re.compile(data, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{shown!r} is not a regular expression: {error or 'too deeply nested'}") from None
    return Expression(shown, compiled, max_match)


def integer(text: str, width: int, *, big: bool = False) -> Integer:
    """Return the pattern of a number in decimal, or with 0x, of `width` bytes, little-endian unless it is `big`.

    A negative one stands as its two's complement. Raises UsageError if it is no number or does not fit.
    """
    found = re.fullmatch(r"([+-]?)(?:0[xX]([0-9a-fA-F]{1,32})|([0-9]{1,40}))", text.strip())
    if not found:
        raise UsageError(f"{text!r} is not an integer", remedy="write it in decimal, or as 0x1234")
    value = int(found[2], 16) if found[2] else int(found[3])
    signed = found[1] == "-"
    try:
        data = (-value if signed else value).to_bytes(width, "big" if big else "little", signed=signed)
    except OverflowError:
        raise UsageError(f"{text!r} does not fit into {8 * width} bits", remedy="give a larger {width}") from None
    return Integer(text, f"{'i' if signed else 'u'}{8 * width}{'' if width == 1 else '-be' if big else '-le'}", data)
