"""Text as it lies in memory: without what marks the beginning of a file."""

from __future__ import annotations

import codecs
from typing import NamedTuple

from memcarve.errors import UsageError

#: encodings of files that begin with a byte-order mark, and what they are without: processors that systems run on today
#: have their bytes in this order
_OF_FILES = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class TextPattern(NamedTuple):
    """A text, the encoding that says the order of bytes, too, and its bytes in that."""

    text: str
    encoding: str
    data: bytes


def text_pattern(text: str, encoding: str) -> TextPattern:
    """Return what to search memory for to find a text; `encoding` is any encoding of text that Python knows.

    No byte-order mark is part of it: ``utf-16`` and ``utf-32`` are taken for the little-endian ones, and ``utf-8-sig``
    for ``utf-8``. Raises UsageError if there is no such encoding, it is none of text, it puts a mark before all text,
    or the text cannot be written in it.
    """
    try:
        name = _OF_FILES.get(codecs.lookup(encoding).name, encoding)
    except (LookupError, ValueError):  # ValueError: it holds what no name can
        raise UsageError(f"unknown encoding {encoding!r}") from None
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
