"""Names and texts that come from evidence, or from whoever uploaded it: harmless as file names and in reports."""

from __future__ import annotations

import os
import re

_LONGEST = 120


def text(value: str) -> str:
    """Return text that every reader of JSON and UTF-8 takes; what is no text in it is escaped."""
    return value.encode("utf-8", "backslashreplace").decode()


def file_name(given: object, default: str) -> str:
    """Return a plain file name: no path, nothing hidden, nothing that steers a terminal or a shell."""
    name = os.path.basename(str(given or "").replace("\\", "/"))
    plain = re.sub(r"[^A-Za-z0-9_.,+@=-]+", "_", name).lstrip(".-")
    if len(plain) > _LONGEST:  # its end says what kind of file it is
        plain = plain[: _LONGEST - 20] + plain[-20:]
    return plain or default


def stem(name: str) -> str:
    """Return a file name without its ending, and without that of its compression."""
    first, ending = os.path.splitext(name)
    if ending.lower() in {".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma"}:
        first = os.path.splitext(first)[0] or first
    return first or name


def cell(value: object) -> str:
    """Return what stands for a value in a cell of a Markdown table, where it is text and never markup."""
    from memcarve.errors import printable  # noqa: PLC0415 - where the work is done alone

    plain = printable(str(value))
    return "".join(c if c.isalnum() or c in " .,:/+-" else f"&#{ord(c)};" for c in plain)
