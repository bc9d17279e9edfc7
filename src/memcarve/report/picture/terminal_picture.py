"""An address space in characters: readable without colour, in ASCII alone."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import distinct
from memcarve.report.picture.memory_line import MemoryLine, kind_of, lines_of
from memcarve.report.picture.palette import LETTERS, Access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64
    from memcarve.report.picture.memory_line import Drawn

#: an Access in a character, and as a terminal colours it (Select Graphic Rendition, ECMA-48, 8.3.117)
_ACCESS = {
    Access.NOTHING: (" ", ""),
    Access.UNKNOWN: ("#", "30;47"),
    Access.NONE: ("-", "37;100"),
    Access.READ: ("r", "97;44"),
    Access.WRITE: ("w", "30;42"),
    Access.EXECUTE_COPY: ("c", "30;43"),
    Access.EXECUTE: ("x", "30;43"),
    Access.WRITE_AND_EXECUTE: ("X", "97;41"),
}
_SAID = {
    Access.UNKNOWN: "not known", Access.NONE: "no access", Access.READ: "read", Access.WRITE: "write",
    Access.EXECUTE_COPY: "execute (written to a copy)", Access.EXECUTE: "execute",
    Access.WRITE_AND_EXECUTE: "write and execute",
}  # fmt: skip
FOLDED, RESERVED = "~", "."
#: by severity: none, info, low, medium, high
_MARKS, _MARKED = " iLMH", "1;31"
_MARKS_SAID = {"i": "info", "L": "low", "M": "medium", "H": "high"}
_LABEL = len("0x0123456789abcdef  ")
_NARROWEST, _MOST_LINES, _EACH = 20, 12, 3


def terminal_picture(drawn: Drawn, width: int, *, colour: bool) -> Iterator[str]:
    """Yield the lines of a picture in `width` columns, and what its characters mean."""
    if not len(drawn.segments):
        yield "nothing is there"
        return
    cells = max(width - _LABEL, _NARROWEST)
    line = MemoryLine(drawn, cells * lines_of(drawn.segments, cells, _EACH, _MOST_LINES))
    letters = np.array([_letter(kind_of(value)) for value in drawn.words["kind"].values] or [" "])
    kinds = np.where(line.owner < 0, " ", letters[_codes(drawn, line.owner)])
    starts = line.addresses()
    for low in range(0, line.count, cells):
        part = slice(low, low + cells)
        if (line.severity[part] > 0).any():
            marks = "".join(_MARKS[severity] for severity in line.severity[part].tolist()).rstrip()
            yield f"{' ' * _LABEL}{_painted(marks, [_MARKED] * len(marks), colour=colour)}"
        access = line.access[part].tolist()
        text = "".join(
            FOLDED if folded else RESERVED if reserved else _ACCESS[Access(each)][0]
            for each, folded, reserved in zip(access, line.folded[part], line.reserved[part], strict=True)
        )
        painted = _painted(text, [_ACCESS[Access(each)][1] for each in access], colour=colour)
        yield f"0x{int(starts[_first(line.owner[part]) + low]):016x}  {painted}".rstrip()
        below = "".join(kinds[part].tolist()).rstrip()
        if below:
            yield f"{' ' * _LABEL}{below}"
    for text in _legend(line, set(kinds.tolist())):
        yield from textwrap.wrap(text, max(width, _NARROWEST))


def _letter(kind: str | None) -> str:
    """Return the letter of a kind: a small one, since flags have capitals above."""
    return " " if kind is None else LETTERS.get(kind, "?").lower()


def _codes(drawn: Drawn, owner: I64) -> I64:
    return drawn.words["kind"].codes[np.maximum(owner, 0)]


def _first(owner: I64) -> int:
    """Return the first cell of a line that has a segment; 0 if none has."""
    there = np.flatnonzero(owner >= 0)
    return int(there[0]) if len(there) else 0


def _painted(text: str, styles: list[str], *, colour: bool) -> str:
    """Return a text with each character in its style."""
    if not colour:
        return text
    found = []
    for style, pairs in itertools.groupby(zip(styles, text, strict=False), key=lambda pair: pair[0]):
        part = "".join(character for _, character in pairs)
        found.append(f"\x1b[{style}m{part}\x1b[0m" if style else part)
    return "".join(found)


def _legend(line: MemoryLine, kinds: set[str]) -> Iterator[str]:
    used = [f"{_ACCESS[access][0]} {said}" for access, said in _SAID.items() if (line.access == access).any()]
    used += [f"{FOLDED} folded gap"] if line.folded.any() else []
    used += [f"{RESERVED} nothing there but in a region"] if (line.reserved & ~line.folded).any() else []
    yield ", ".join(used)
    words = [f"{_letter(kind)} {kind}" for kind in LETTERS if _letter(kind) in kinds]
    if words:
        yield "below: " + ", ".join(words)
    severities = {_MARKS[severity] for severity in distinct(line.severity).tolist()} - {" "}
    if severities:
        yield "above: flags, " + ", ".join(f"{mark} {said}" for mark, said in _MARKS_SAID.items() if mark in severities)
