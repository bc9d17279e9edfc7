"""Texts that are kept in memory, or in a file if they are long."""

from __future__ import annotations

from memcarve.mount import mounted_tree
from memcarve.mount.documents import document
from mounted import content_of


def test_a_long_text_lies_in_a_file() -> None:
    """It reads the same, and counts for so much that few files are open at a time."""
    lines = [f"line {number} é\n" for number in range(1000)]
    text = "".join(lines).encode()
    short, long = document(lines), document(lines, 1 << 10)
    assert content_of(short[0], 77) == content_of(long[0], 77) == text
    assert (short[0].stored, long[0].stored) == (len(text), len(text))
    assert short[1] == len(text)
    assert mounted_tree._KEPT // long[1] <= 128
