"""What is searched for: text as it lies in memory, without the mark at a file's beginning; bytes with wildcards."""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from typing import NamedTuple

from memcarve.errors import UsageError

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
    """A text, its encoding with a definite byte order, and its bytes in that encoding."""

    text: str
    encoding: str
    data: bytes


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


def text_pattern(text: str, encoding: str) -> TextPattern:
    """Return the pattern that finds a text in memory; `encoding` is any encoding of text that Python knows.

    It has no byte-order mark: ``utf-16`` and ``utf-32`` mean the little-endian encodings, and ``utf-8-sig`` means
    ``utf-8``. Raises UsageError if there is no such encoding, if it is not an encoding of text or puts a mark before
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
    return TextPattern(text, name, data)
