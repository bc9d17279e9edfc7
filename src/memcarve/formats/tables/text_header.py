"""The tables that Volatility 3, Volatility 2 and Rekall print, recognised by their content.

What each renderer writes was established by running the releases named in ``docs/formats.md``. A table is recognised
by its header line, whatever stands before it: the banner, progress messages, warnings.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BANNER = re.compile(rb"Volatility 3 Framework (\S+)")


class Vocabulary(NamedTuple):
    """What a header may say: the names that a table separated by spaces must be told, and which tables are meant.

    `spaced` matches a line of such names and `name` each of them; `wanted` tells from the kind and the names of the
    columns whether it is a header; a line longer than `longest` is not.
    """

    spaced: re.Pattern[bytes]
    name: re.Pattern[bytes]
    wanted: Callable[[str, set[str]], object]
    longest: int


def vocabulary(names: Sequence[bytes], wanted: Callable[[str, set[str]], object], longest: int) -> Vocabulary:
    """Return what a header may say; of two names of which one begins with the other, the longer comes first."""
    either = b"|".join(names)
    return Vocabulary(re.compile(rb"\s*(?:(?:%s)(?:\s+|$))+" % either), re.compile(either), wanted, longest)


_LONGEST_SHOWN = 4096
_PAGE = re.compile(rb"\s*<(?:!DOCTYPE|html|\?xml|svg)", re.IGNORECASE)
_MARKED = re.compile(rb"^(?:```|~~~|#{2,6} [^\s#])", re.MULTILINE)
_MARKS = (b"```", b"~~~", b"##")
_GREPTEXT = "volatility2 greptext"
_DASHES = re.compile(rb"[\s-]*--[\s-]*")


class Header(NamedTuple):
    """What was recognised of a text table.

    `kind` is the program and renderer in words; `columns` the names in the header; `delimiter` what separates cells
    (empty: runs of white space); `padding` what may surround a cell; `text` is the header line itself; `line` is the
    number, counted from 1, of the last line before the rows, and `place` the offset of the first row in the decoded
    text; `version` that of the banner.
    """

    kind: str
    columns: list[str]
    delimiter: bytes
    padding: bytes
    text: bytes
    line: int
    place: int
    version: str | None

    def is_header(self, line: bytes) -> bool:
        """Return True if a line is the header again; the widths of its columns may differ."""
        return _words(line, self.delimiter) == _words(self.text, self.delimiter)

    def split(self, line: bytes) -> list[bytes] | None:
        """Split a line into its cells as they stand there, padding and all; None if their number is another."""
        if not self.delimiter:  # the last column is the only one with spaces in it
            found = line.split(None, len(self.columns) - 1)
        elif self.padding == b'"' and b'"' in line:
            found = _quoted(line)
        elif self.kind == _GREPTEXT:  # the name comes first and may hold anything
            found = line.removeprefix(b">|").rsplit(self.delimiter, len(self.columns) - 1)
        else:
            found = line.split(self.delimiter)
        return found if len(found) == len(self.columns) else None


def _words(line: bytes, delimiter: bytes) -> list[bytes]:
    return (line.replace(delimiter, b" ") if delimiter else line).replace(b'"', b" ").split()


def recognise(head: bytes, words: Vocabulary) -> Header | None:
    """Return the table whose header is the first one in `head`, or None."""
    place, version = 0, None
    for number, raw in enumerate(head.split(b"\n"), 1):
        place += len(raw) + 1
        for part in raw.rstrip(b"\r").split(b"\r"):  # progress messages begin and end with a carriage return
            if len(part) > words.longest:
                continue
            banner = BANNER.match(part)
            if banner:
                version = banner[1].decode("ascii", "replace")
            found = _header(part, words)
            if found:
                kind, columns, delimiter, padding = found
                if not delimiter:
                    kind = _spaced_kind(head[place : place + 400].partition(b"\n")[0], columns)
                empty = re.compile(rb"(?:\r?\n)*").match(head, place)  # the rows begin after an empty line
                end = empty.end() if empty else place
                line = number + head.count(b"\n", place, end)
                return Header(kind, columns, delimiter, padding, part, line, end, version)
    return None


def is_document(head: bytes) -> bool:
    """Return True if a text is Markdown or HTML: what looks like a table in it is an example, with text around it.

    A heading of the first order does not tell: a command at the prompt of root looks like one.
    """
    if _PAGE.match(head):
        return True
    # few tables have any of them; to try the expression at every line of a long map takes 16 ms
    return any(mark in head for mark in _MARKS) and _MARKED.search(head) is not None


def other_columns(head: bytes) -> str | None:
    """Return the columns of a table that `head` seems to hold, for a message; None if there is none."""
    for line in (line[:_LONGEST_SHOWN] for line in head[: 1 << 16].split(b"\n")):
        if re.match(rb'(TreeDepth,|"TreeDepth",|PID\t|Offset\t|[A-Z][\w ]*\t[A-Z][\w ]*(\t|$)|  \| +\w)', line):
            cells = re.split(r"[\t,|]", line[:300].decode("utf-8", "replace").strip(" |\r"))
            return ", ".join(cell.strip(' "') for cell in cells)
    return None


def _header(line: bytes, words: Vocabulary) -> tuple[str, list[str], bytes, bytes] | None:
    """Return kind, columns, delimiter and padding if `line` is the header of a table that is wanted."""
    for kind, delimiter, padding, starts in _KINDS:
        if (starts or words.spaced.fullmatch)(line):
            names = line.replace(b'"', b"").split(delimiter) if delimiter else words.name.findall(line)
            columns = [name.strip().decode("ascii", "replace") for name in names]
            if words.wanted(kind, set(columns)):
                return kind, columns, delimiter, padding
    return None


_KINDS: tuple[tuple[str, bytes, bytes, Callable[[bytes], object] | None], ...] = (
    ("volatility3 csv", b",", b'"', re.compile(rb'"?TreeDepth"?,').match),
    ("volatility3 pretty", b"|", b" ", re.compile(rb"\s*\|\s").match),
    (_GREPTEXT, b"|", b" ", re.compile(rb"Process\|PID\|").match),
    ("volatility3 quick", b"\t", b"", re.compile(rb"(?:[\w ]+\t)+[\w ]+$").match),
    ("spaced", b"", b"", None),  # the words say what matches
)


def _spaced_kind(below: bytes, columns: list[str]) -> str:
    if "File Address" in columns:
        return "rekall memdump index"
    if "DumpFileOffset" in columns:
        return "volatility2 text"
    return "rekall memmap" if is_dashes(below) else "volatility3 quick with its tabs expanded"


def is_dashes(line: bytes) -> bool:
    """Return True if `line` is the row of dashes under a header."""
    return _DASHES.fullmatch(line.strip()) is not None


def _quoted(line: bytes) -> list[bytes]:
    text = line.decode("utf-8", "surrogateescape")
    try:
        cells = next(csv.reader([text], strict=True), [])
    except csv.Error:
        return []
    return [cell.encode("utf-8", "surrogateescape") for cell in cells]
