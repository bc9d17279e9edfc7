"""How memory looks: one table of colours, letters and hatches for the page, for pictures and for the terminal.

The page has them in its style and its script (``page/style.css``, ``page/ranges.js``); a test holds them to this table.
Colours are those of the light theme. What a colour tells is told by letters, hatching or shape as well.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from memcarve.report.picture.shapes import BARS, DIAGONAL, DOTS, FALLING, GRID, UPRIGHT
from memcarve.vocabulary import Kind, Severity


class Access(IntEnum):
    """What may be done with memory, the most remarkable last."""

    NOTHING = 0
    UNKNOWN = 1
    NONE = 2
    READ = 3
    WRITE = 4
    EXECUTE_COPY = 5
    EXECUTE = 6
    WRITE_AND_EXECUTE = 7


class Look(NamedTuple):
    """How something looks: its name in the page's style, its colour, its letters, and what it is called."""

    name: str
    colour: str
    letters: str
    said: str


#: what may be done with memory
ACCESS = {
    Access.READ: Look("r", "#bcd2e8", "r--", "read only"),
    Access.WRITE: Look("rw", "#5b8fc4", "rw-", "read, write"),
    Access.EXECUTE: Look("rx", "#e8a838", "r-x", "executable"),
    Access.WRITE_AND_EXECUTE: Look("rwx", "#b02418", "rwx", "writable and executable"),
    Access.EXECUTE_COPY: Look("rcx", "#d3c09a", "rcx", "executable, copied when written"),
    Access.NONE: Look("none", "#e3e7ec", "---", "no access"),
    Access.UNKNOWN: Look("unknown", "#aeb7c1", "?", "not known"),
}
#: a kind's letter
LETTERS: dict[str | None, str] = {
    Kind.PRIVATE: "P", Kind.MAPPED: "M", Kind.IMAGE: "I", Kind.STACK: "S", Kind.HEAP: "H", Kind.TEB: "T", Kind.PEB: "B",
    Kind.PAGE_TABLES: "G",
}  # fmt: skip
#: a kind's hatch
HATCHES: dict[str | None, str] = {
    Kind.PRIVATE: "", Kind.MAPPED: FALLING, Kind.IMAGE: DIAGONAL, Kind.STACK: BARS, Kind.HEAP: DOTS,
    Kind.TEB: UPRIGHT, Kind.PEB: UPRIGHT, Kind.PAGE_TABLES: GRID,
}  # fmt: skip
#: the colour of a severity's mark
SEVERITIES = {
    Severity.HIGH: "#b02418", Severity.MEDIUM: "#a65c00", Severity.LOW: "#48606f", Severity.INFO: "#6a7683",
}  # fmt: skip
