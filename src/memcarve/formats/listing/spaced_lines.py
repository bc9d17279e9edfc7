"""Rows of a table whose tabs a terminal turned into spaces: which words belong to which cell, if there is one answer.

A cell may hold spaces itself (a path, the name of a process). What each column can hold decides; if that leaves
two ways to divide a line, the line is not divided at all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memcarve.formats.listing.listing_kinds import DECIMAL, HEXADECIMAL

_MOST = 48  # words that a row may have: so many ways there are to divide them


class AmbiguousError(ValueError):
    """A line can be divided into cells in several ways."""


class _Shape(NamedTuple):
    """What a column can hold: a pattern for all of the cell, and how many words it has at least and at most."""

    pattern: re.Pattern[str]
    least: int = 1
    most: int = 1


_NONE = r"-|N/A"
_TEXT = _Shape(re.compile(r".+"), 1, _MOST)
_PATH = _Shape(re.compile(rf"{_NONE}|(\\|[A-Za-z]:\\|/).*"), 1, _MOST)
_TIME = _Shape(re.compile(rf"{_NONE}|\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*( \S+)?"), 1, 3)
_FLAGS = _Shape(re.compile(rf"{_NONE}|[r-][w-][x-][ps]?"))
_SHAPES = {
    **dict.fromkeys(HEXADECIMAL, _Shape(re.compile(rf"{_NONE}|0[xX][0-9a-fA-F]{{1,16}}"))),
    **dict.fromkeys(DECIMAL, _Shape(re.compile(rf"{_NONE}|-?\d{{1,20}}"))),
    **dict.fromkeys(("LoadTime", "CreateTime", "ExitTime"), _TIME),
    **dict.fromkeys(("Path", "StartPath", "Win32StartPath"), _PATH),
    "Tag": _Shape(re.compile(rf"{_NONE}|[A-Za-z]\S{{0,3}}")),
    "Protection": _Shape(re.compile(rf"|{_NONE}|PAGE_[A-Z_|]+"), 0),  # a VAD's may be empty
    "Flags": _FLAGS,
    "Map Name": _Shape(re.compile(r".*"), 0, _MOST),
    "File output": _Shape(re.compile(r"Disabled|Error ?outputting ?(to ?)?file|\S+\.dmp"), 1, 4),
}


def split(line: str, columns: list[str]) -> list[str] | None:
    """Return the cells of a line, or None if it is not a row; raises AmbiguousError if it could be several.

    A tag of three letters ends in a space, as tags have four; nothing else shows it here.
    """
    words = [(found.start(), found.end()) for found in re.finditer(r"\S+", line)]
    if len(words) > _MOST:
        raise AmbiguousError
    ways: list[dict[int, int]] = [{0: 1}]  # for each column: words used up to it -> in how many ways, 2 for more
    before: list[dict[int, int]] = []  # words used up to a column -> words used up to the one before
    for column in columns:
        shape = _SHAPES.get(column, _TEXT)
        if column == "Protection" and "Map Name" in columns:  # that of macOS
            shape = _FLAGS
        here: dict[int, int] = {}
        back: dict[int, int] = {}
        for first, count in ways[-1].items():
            for last in range(first + shape.least, min(first + shape.most, len(words)) + 1):
                if shape.pattern.fullmatch(line[words[first][0] : words[last - 1][1]] if last > first else ""):
                    here[last] = min(here.get(last, 0) + count, 2)
                    back[last] = first
        ways.append(here)
        before.append(back)
    last = len(words)
    if ways[-1].get(last, 0) > 1:
        raise AmbiguousError
    if last not in ways[-1]:
        return None
    cells = []
    for column, back in zip(reversed(columns), reversed(before), strict=True):
        first = back[last]
        cell = line[words[first][0] : words[last - 1][1]] if last > first else ""
        cells.append(cell.ljust(4) if column == "Tag" and cell not in {"-", "N/A"} else cell)
        last = first
    return cells[::-1]
