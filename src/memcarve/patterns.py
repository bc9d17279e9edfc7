"""Text as it lies in memory: without the mark at the beginning of a file."""

from __future__ import annotations

import codecs
from typing import NamedTuple

from memcarve.errors import UsageError

#: encodings whose files begin with a byte-order mark, and the encodings without it, in the byte order of today's
#: processors
_OF_FILES = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class TextPattern(NamedTuple):
    """A text, its encoding with a definite byte order, and its bytes in that encoding."""

    text: str
    encoding: str
    data: bytes


def text_pattern(text: str, encoding: str) -> TextPattern:
    """Return the pattern that finds a text in memory; `encoding` is any encoding of text that Python knows.

    It has no byte-order mark: ``utf-16`` and ``utf-32`` mean the little-endian encodings, and ``utf-8-sig`` means
    ``utf-8``. Raises UsageError if there is no such encoding, if it is not an encoding of text or puts a mark before
    all text, or if the text cannot be written in it.
    """
    try:
        name = _OF_FILES.get(codecs.lookup(encoding).name, encoding)
    except (LookupError, ValueError):  # ValueError: it holds characters that no name can have
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
