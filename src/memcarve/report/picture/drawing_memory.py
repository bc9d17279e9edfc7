"""Address spaces drawn for a written report: lines of cells with addresses, kinds, files and flags, and a legend."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from memcarve.errors import printable
from memcarve.paths import base_name
from memcarve.report.picture.memory_line import KINDS, Access, MemoryLine, kind_of, lines_of
from memcarve.report.picture.shapes import BARS, CROSS, DIAGONAL, DOTS, INK, PAPER, Box, Drawing, Line, Shape, Text
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.report.picture.memory_line import Drawn

_Key = TypeVar("_Key")

_CELL, _CELLS = 4, 216  # pixels of a cell, cells of a line
_LEFT, _TOP, _RIGHT = 150, 30, 16
_WIDTH = _LEFT + _CELL * _CELLS + _RIGHT
_BAND, _STRIP, _LINE = 16, 8, 58  # pixels: of what may be done, of kinds, of a line with all that belongs to it
_EACH, _MOST_LINES, _MOST_IN_ALL = 8, 40, 160
#: processes in one picture
MOST = 64
_SMALL, _WIDE_CHARACTER = 9, 5.2  # a name's height, and the width of a character of it
_ADDRESS_CELLS = 18  # that an address between others takes
_LETTER_CELLS = 6  # of a strip that has room for a letter
_LETTER = 6.9  # the width of a character of the legend
_SHORTEST = 3  # characters of a name that is worth showing

#: how what may be done with memory looks: colour and hatching
_ACCESS = {
    Access.UNKNOWN: ("#d5d5d5", ""),
    Access.NONE: (PAPER, BARS),
    Access.READ: ("#a6cee3", ""),
    Access.WRITE: ("#b2df8a", DOTS),
    Access.EXECUTE: ("#fdbf6f", DIAGONAL),
    Access.WRITE_AND_EXECUTE: ("#e8554e", CROSS),
}
_SAID = {
    Access.READ: "read", Access.WRITE: "write", Access.EXECUTE: "execute",
    Access.WRITE_AND_EXECUTE: "write and execute", Access.NONE: "no access", Access.UNKNOWN: "not known",
}  # fmt: skip
#: a kind's colour and letter
_KINDS = {
    Kind.IMAGE: "#6a3d9a", Kind.MAPPED: "#1f78b4", Kind.PRIVATE: "#8c6d46", Kind.STACK: "#33a02c", Kind.HEAP: "#ff7f00",
    Kind.TEB: "#666666", Kind.PEB: "#666666", Kind.PAGE_TABLES: "#333333",
}  # fmt: skip
#: by severity: its letter, and the colour of its mark
_SEVERITIES = {4: ("H", "#b30000"), 3: ("M", "#e8554e"), 2: ("L", "#fdbf6f"), 1: ("i", PAPER)}
_SEVERITIES_SAID = {4: "flag: high", 3: "medium", 2: "low", 1: "info"}


class Portrait(NamedTuple):
    """A process to be drawn: what it is called, and its memory."""

    heading: str
    drawn: Drawn


def drawing_of(title: str, subtitle: str, portraits: Sequence[Portrait]) -> Drawing:
    """Return a picture of processes, one below the other."""
    shapes: list[Shape] = [
        Text(_RIGHT, _TOP, printable(title), 16, bold=True),
        Text(_RIGHT, _TOP + 17, printable(subtitle), 10),
    ]
    y = _TOP + 36.0
    most = min(max(_MOST_IN_ALL // max(len(portraits), 1), 1), _MOST_LINES)
    for portrait in portraits:
        shapes.append(Text(_RIGHT, y + 6, printable(portrait.heading), 12, bold=True))
        lines = lines_of(portrait.drawn.segments, _CELLS, _EACH, most) if len(portrait.drawn.segments) else 0
        shapes += _process(portrait.drawn, lines, y + 14)
        y += lines * _LINE + 24
    shapes += _legend(y + 14)
    return Drawing(_WIDTH, int(y + 62), f"{printable(title)}: {printable(subtitle)}", tuple(shapes))


def _process(drawn: Drawn, lines: int, y: float) -> Iterator[Shape]:
    if not lines:
        return
    line = MemoryLine(drawn, _CELLS * lines)
    starts = line.addresses()
    for low in range(0, line.count, _CELLS):
        part = slice(low, low + _CELLS)
        there = np.flatnonzero(line.owner[part] >= 0)
        address = int(starts[low + (int(there[0]) if len(there) else 0)])
        yield Text(_RIGHT, y + 27, f"0x{address:016x}", 11, fixed=True)
        yield from _band(line, part, y + 15)
        yield from _kinds(line, part, y + 15 + _BAND)
        yield from _names(line, part, y + 15 + _BAND + _STRIP + _SMALL)
        yield from _addresses(line, starts[part].tolist(), part, y + 15 + _BAND + _STRIP + 2 * _SMALL)
        yield from _marks(line, part, y + 13)
        y += _LINE


def _runs(keys: Sequence[_Key]) -> Iterator[tuple[_Key, int, int]]:
    """Yield the keys that follow each other without change: the key, where it begins, how often it is there."""
    at = 0
    for key, group in itertools.groupby(keys):
        length = sum(1 for _ in group)
        yield key, at, length
        at += length


def _x(cell: int) -> float:
    return _LEFT + cell * _CELL


def _band(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield boxes of what may be done with memory; what is missing in a region is an outline, a folded gap a zigzag."""
    owner, access = line.owner[part].tolist(), line.access[part].tolist()
    folded, reserved = line.folded[part].tolist(), line.reserved[part].tolist()
    keys = [*zip(owner, access, folded, reserved, strict=True)]
    for key, at, length in _runs([key if key[0] >= 0 else (-1, *key[1:]) for key in keys]):
        segment, each, is_folded, is_reserved = key
        x, width = _x(at), length * _CELL
        if segment >= 0:
            fill, hatch = _ACCESS[Access(each)]
            yield Box(x, y, width, _BAND, fill, hatch, INK if width > 2 * _CELL else "")
        elif is_folded:
            yield _zigzag(x + width / 2, y)
        elif is_reserved:
            yield Box(x, y + _BAND / 2 - 1, width, 2, "#bbbbbb")


def _zigzag(x: float, y: float) -> Line:
    """Return the sign of a gap that is folded."""
    steps = 4
    points = [(x + (1.4 if step % 2 else -1.4), y + step * _BAND / steps) for step in range(steps + 1)]
    return Line(tuple(points), "#777777")


def _kinds(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield strips below the band in the colours of kinds, with their letters if there is room."""
    words = line.drawn.words["kind"]
    kinds = [None if owner < 0 else kind_of(words[owner]) for owner in line.owner[part].tolist()]
    for kind, at, length in _runs(kinds):
        if kind is not None and kind in _KINDS:
            yield Box(_x(at), y + 1, length * _CELL, _STRIP - 2, _KINDS[Kind(kind)])
            if length >= _LETTER_CELLS:
                yield Box(_x(at) + 1, y + 1, 7, _STRIP - 2, PAPER)
                yield Text(_x(at) + 2, y + _STRIP - 2, KINDS[kind], 7)


def _names(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield the names of files below what is of them, as far as there is room."""
    words = line.drawn.words["file"]
    files = [None if owner < 0 else words[owner] for owner in line.owner[part].tolist()]
    bridged: list[str | None] = [*files]
    last: str | None = None
    behind = 0
    for at, file in enumerate(files):
        if line.owner[part][at] >= 0:
            if file == last:  # what lies between parts of one file has its name, too
                bridged[behind:at] = [file] * (at - behind)
            last, behind = file, at + 1
    for file, at, length in _runs(bridged):
        room = int(length * _CELL / _WIDE_CHARACTER)
        if isinstance(file, str):
            name = printable(base_name(file))
            shown = name if len(name) <= room else f"{name[: room - 2]}.."
            if room >= min(len(name), _SHORTEST + 2):
                yield Text(_x(at), y, shown, _SMALL)


def _addresses(line: MemoryLine, starts: Sequence[int], part: slice, y: float) -> Iterator[Shape]:
    """Yield addresses behind folded gaps, as far as there is room: the line's first stands at its left."""
    free = 0
    for folded, at, length in _runs([*line.folded[part].tolist(), True]):
        if not folded and at and length >= _LETTER_CELLS and at >= free:
            yield Text(_x(at), y, f"0x{starts[at]:x}", 8, fixed=True)
            free = at + _ADDRESS_CELLS


def _marks(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield a mark above each stretch that is flagged: a triangle with the letter of its severity."""
    for severity, at, length in _runs(line.severity[part].tolist()):
        if severity in _SEVERITIES:
            letter, colour = _SEVERITIES[severity]
            x = _x(at) + length * _CELL / 2
            yield Line(((x - 3.5, y - 6), (x + 3.5, y - 6), (x, y)), INK, colour)
            yield Text(x + 4.5, y - 1, letter, 7, bold=True)
            if length > 1:
                yield Line(((_x(at), y + 1), (_x(at) + length * _CELL, y + 1)), colour if severity > 1 else INK)


def _legend(y: float) -> Iterator[Shape]:
    x = float(_RIGHT)
    for access, said in _SAID.items():
        fill, hatch = _ACCESS[access]
        yield Box(x, y, 22, 12, fill, hatch, INK)
        yield Text(x + 27, y + 10, said)
        x += 44 + len(said) * _LETTER
    yield _zigzag(x + 4, y - 2)
    yield Text(x + 12, y + 10, "gap, folded")
    x += 30 + len("gap, folded") * _LETTER
    yield Box(x, y + 5, 22, 2, "#bbbbbb")
    yield Text(x + 27, y + 10, "in a region, not there")
    y, x = y + 22, float(_RIGHT)
    for kind, colour in _KINDS.items():
        if kind is not Kind.PEB:
            said = f"{KINDS[kind]} {'TEB, PEB' if kind is Kind.TEB else kind}"
            yield Box(x, y + 3, 22, 6, colour)
            yield Text(x + 27, y + 10, said)
            x += 40 + len(said) * _LETTER
    for severity, said in _SEVERITIES_SAID.items():
        letter, colour = _SEVERITIES[severity]
        yield Line(((x, y + 3), (x + 7, y + 3), (x + 3.5, y + 9)), INK, colour)
        yield Text(x + 10, y + 10, f"{letter} {said}")
        x += 34 + len(said) * _LETTER
