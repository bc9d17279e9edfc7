"""Text as it lies in memory: every encoding that Python knows, by what it makes of text and what other text shows."""

from __future__ import annotations

import codecs
import encodings.aliases
import pkgutil
import sys

import pytest

import memcarve
from memcarve.errors import UsageError

NAMES = sorted({module.name for module in pkgutil.iter_modules(encodings.__path__)} | {*encodings.aliases.aliases})


@pytest.mark.parametrize("name", NAMES)
def test_no_marks(name: str) -> None:
    """Whatever encoding is asked for, its pattern lies in text of it that has something before it, or it is refused."""
    try:
        found = memcarve.text_pattern("abc", name)
    except UsageError:
        return
    # as in a file: what was written before is there already, a mark with it
    writer = codecs.getincrementalencoder(name)()
    before = writer.encode("xyz\n")
    whole = before + writer.encode("abc") + writer.encode("", final=True)
    assert whole.endswith(found.data)
    assert found.data.decode(found.encoding) == "abc"
    assert (found.text, not found.data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"))) == ("abc", True)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("utf-16", b"a\0\xac\x20"), ("utf-16-le", b"a\0\xac\x20"), ("utf-16-be", b"\0a\x20\xac"),
        ("utf-32", b"a\0\0\0\xac\x20\0\0"), ("utf-32-be", b"\0\0\0a\0\0\x20\xac"), ("utf-8", b"a\xe2\x82\xac"),
        ("utf-8-sig", b"a\xe2\x82\xac"), ("cp1252", b"a\x80"),
    ],
)  # fmt: skip
def test_bytes(name: str, data: bytes) -> None:
    """The bytes of a text in the encodings that are asked for most."""
    assert memcarve.text_pattern("a\u20ac", name).data == data


def test_a_mark_that_was_asked_for() -> None:
    """A byte-order mark that is part of the text is searched for."""
    assert memcarve.text_pattern("\ufeffa", "utf-16").data == b"\xff\xfea\0"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x", "nonsense", "unknown encoding"), ("x", "", "unknown encoding"),
        ("x", "a\0b", "unknown encoding"), ("x", "\udcff", "unknown encoding"), ("x", "\u20ac", "unknown encoding"),
        ("x", "rot13", "is not an encoding of text; give the bytes"), ("x", "zlib", "is not an encoding of text"),
        ("x", "uu", "is not an encoding of text"), ("\u20ac", "latin-1", "cannot be written in latin-1"),
        ("\udc80", "utf-16", "cannot be written in utf-16"), ("x", "undefined", "cannot be written"),
    ],
)  # fmt: skip
def test_refused(text: str, name: str, message: str) -> None:
    """What is no encoding, or cannot hold the text, is a UsageError that says which."""
    with pytest.raises(UsageError, match=message):
        memcarve.text_pattern(text, name)


def test_other_encodings_with_marks() -> None:
    """An encoding that somebody registered and that puts a mark before all text is refused with the mark's bytes."""
    base = codecs.lookup("utf-8")

    def search(name: str) -> codecs.CodecInfo | None:
        if name != "marked_by_somebody":
            return None
        return codecs.CodecInfo(lambda text, _errors="strict": (b"\x2b\x2f" + text.encode(), len(text)), base.decode)

    codecs.register(search)
    try:
        with pytest.raises(UsageError, match="puts 2b2f before all text"):
            memcarve.text_pattern("x", "marked_by_somebody")
    finally:
        codecs.unregister(search)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has encodings of its own of these names")
def test_encodings_of_windows() -> None:
    """Encodings that only Windows has are no encodings elsewhere."""
    for name in ("mbcs", "oem"):
        with pytest.raises(UsageError, match="unknown encoding"):
            memcarve.text_pattern("x", name)
