"""Address spaces drawn for a written report: lines of cells with addresses, kinds, files and flags, and a legend."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from memcarve.errors import printable
from memcarve.paths import base_name
from memcarve.report.picture.memory_line import COPIED, EXECUTED, READ, WRITTEN, MemoryLine, kind_of, lines_of
from memcarve.report.picture.palette import ACCESS, HATCHES, LETTERS, SEVERITIES, Access
from memcarve.report.picture.shapes import INK, PAPER, Box, Drawing, Line, Shape, Text
from memcarve.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.report.picture.memory_line import Drawn
    from memcarve.report.picture.palette import Look

_Key = TypeVar("_Key")

_CELL, _CELLS = 4, 216  # pixels of a cell, cells of a line
_LEFT, _TOP, _RIGHT = 150, 30, 16
_WIDTH = _LEFT + _CELL * _CELLS + _RIGHT
_BAND, _STRIP, _LINE = 16, 8, 58  # pixels: of what may be done, of kinds, of a line with all that belongs to it
_EACH, _MOST_LINES, _MOST_IN_ALL = 8, 40, 160
#: processes in one picture
MOST = 64
_SMALL, _WIDE_CHARACTER = 9, 5.2  # a name's height, and the width of a character of it
_WIDE = 0.68  # of a bold character, in its height
_ADDRESS_CELLS = 18  # that an address between others takes
_LETTER_CELLS = 6  # of a strip that has room for a letter
_BOLD = 5  # the width of a character in the band
_SHORTEST = 3  # characters of a name that is worth showing

_RANKED = {4: Severity.HIGH, 3: Severity.MEDIUM, 2: Severity.LOW, 1: Severity.INFO}
#: the lines below memory, from above: their colour and what they tell
_RAIL, _RAILS = "#55606c", (READ, WRITTEN, EXECUTED)
#: the legend: how many columns, how wide, how high a row
_COLUMNS, _COLUMN, _ROW = 4, 254, 17
_DARK = "#b02418"  # on which letters are white


class Portrait(NamedTuple):
    """A process to be drawn: what it is called, and its memory."""

    heading: str
    drawn: Drawn


def drawing_of(title: str, subtitle: str, portraits: Sequence[Portrait]) -> Drawing:
    """Return a picture of processes, one below the other."""
    shapes: list[Shape] = [
        Text(_RIGHT, _TOP, _cut(title, 16), 16, bold=True),
        Text(_RIGHT, _TOP + 17, _cut(subtitle, 10), 10),
    ]
    y = _TOP + 36.0
    most = min(max(_MOST_IN_ALL // max(len(portraits), 1), 1), _MOST_LINES)
    for portrait in portraits:
        shapes.append(Text(_RIGHT, y + 6, _cut(portrait.heading, 12), 12, bold=True))
        lines = lines_of(portrait.drawn.segments, _CELLS, _EACH, most) if len(portrait.drawn.segments) else 0
        shapes += _process(portrait.drawn, lines, y + 14)
        y += lines * _LINE + 24
    shapes += _legend(y + 14)
    return Drawing(_WIDTH, int(y + 18 + 6 * _ROW), f"{_cut(title, 16)}: {_cut(subtitle, 10)}", tuple(shapes))


def _cut(text: str, size: float) -> str:
    """Return as much of a text as a line has room for."""
    room = int((_WIDTH - 2 * _RIGHT) / (size * _WIDE))
    shown = printable(text[: room + 1])
    return shown if len(shown) <= room else f"{shown[: room - 2]}.."


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
        yield from _rails(line, part, y + 15 + _BAND)
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
    """Yield boxes of memory; what is missing in a region is a line, a folded gap a zigzag."""
    owner, access = line.owner[part].tolist(), line.access[part].tolist()
    folded, reserved = line.folded[part].tolist(), line.reserved[part].tolist()
    words = line.drawn.words["kind"]
    keys = [*zip(owner, access, folded, reserved, strict=True)]
    for key, at, length in _runs([key if key[0] >= 0 else (-1, *key[1:]) for key in keys]):
        segment, each, is_folded, is_reserved = key
        x, width = _x(at), length * _CELL
        if segment >= 0:
            kind = kind_of(words[segment])
            look = ACCESS[Access(each)]
            yield Box(x, y, width, _BAND, look.colour, HATCHES.get(kind, ""), INK if width > 2 * _CELL else "")
            yield from _letters(look, LETTERS.get(kind, ""), x, y, width)
        elif is_folded:
            yield _zigzag(x + width / 2, y)
        elif is_reserved:
            yield Box(x, y + _BAND / 2 - 1, width, 2, "#bbbbbb")


def _letters(look: Look, kind: str, x: float, y: float, width: float) -> Iterator[Shape]:
    """Yield the letters of what may be done with memory and of its kind, as far as there is room."""
    text = next((each for each in (f"{look.letters} {kind}".strip(), kind) if len(each) * _BOLD + 6 <= width), "")
    if text:
        yield Box(x + 2, y + 3, len(text) * _BOLD + 2, _BAND - 6, look.colour)
        yield Text(x + 3, y + _BAND - 5, text, 8, fixed=True, bold=True, colour=PAPER if look.colour == _DARK else INK)


def _zigzag(x: float, y: float) -> Line:
    """Return the sign of a gap that is folded."""
    steps = 4
    points = [(x + (1.4 if step % 2 else -1.4), y + step * _BAND / steps) for step in range(steps + 1)]
    return Line(tuple(points), "#777777")


def _rails(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield lines below what may be read, written (thinner: to a copy) and executed."""
    letters = line.drawn.letters
    bits = [0 if owner < 0 else int(letters[owner]) for owner in line.owner[part].tolist()]
    for each, at, length in _runs(bits):
        for row, bit in enumerate(_RAILS):
            if each & bit:
                yield Box(_x(at), y + 1 + 2.5 * row, length * _CELL, 2, _RAIL)
            elif bit == WRITTEN and each & COPIED:
                yield Box(_x(at), y + 2 + 2.5 * row, length * _CELL, 1, _RAIL)


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
        if not folded and at and length >= _LETTER_CELLS and free <= at <= _CELLS - _ADDRESS_CELLS:
            yield Text(_x(at), y, f"0x{starts[at]:x}", 8, fixed=True)
            free = at + _ADDRESS_CELLS


def _marks(line: MemoryLine, part: slice, y: float) -> Iterator[Shape]:
    """Yield a mark above each stretch that is flagged, in the shape of its severity."""
    for severity, at, length in _runs(line.severity[part].tolist()):
        if severity in _RANKED:
            yield from _mark(_RANKED[severity], _x(at) + length * _CELL / 2, y - 4)
            if length > 1:
                yield Line(((_x(at), y + 1), (_x(at) + length * _CELL, y + 1)), SEVERITIES[_RANKED[severity]])


def _mark(severity: Severity, x: float, y: float) -> Iterator[Shape]:
    """Yield the sign of a severity: full triangle, diamond, ring with a dot, ring."""
    colour = SEVERITIES[severity]
    if severity == Severity.HIGH:
        yield Line(((x - 4, y - 4), (x + 4, y - 4), (x, y + 4)), colour, colour)
    elif severity == Severity.MEDIUM:
        yield Line(((x, y - 4), (x + 4, y), (x, y + 4), (x - 4, y)), colour, colour)
    else:
        turns = [math.tau * step / 16 for step in range(17)]
        yield Line(tuple((x + 3.5 * math.sin(turn), y + 3.5 * math.cos(turn)) for turn in turns), colour)
        if severity == Severity.LOW:
            yield Box(x - 1, y - 1, 2, 2, colour)


def _legend(y: float) -> Iterator[Shape]:
    ground = ACCESS[Access.UNKNOWN].colour
    rails = [Box(0, 1 + 3.5 * row, 22, 2, _RAIL) for row in range(len(_RAILS))]
    items: list[tuple[Sequence[Shape], str]] = [
        *(([Box(0, 0, 22, 11, look.colour, "", INK)], f"{look.letters} {look.said}") for look in ACCESS.values()),
        ([_zigzag(11, -2)], "gap, folded"),
        *(([Box(0, 0, 22, 11, ground, HATCHES[kind], INK)], f"{letter} {kind}") for kind, letter in LETTERS.items()),
        *(([*_mark(severity, 11, 6)], f"flag, {severity}") for severity in SEVERITIES),
        (rails, "may be read, written (thin: a copy), run"),
        ([Box(0, 5, 22, 2, "#bbbbbb")], "in a region, not there"),
    ]
    for place, (shapes, said) in enumerate(items):
        x, top = _RIGHT + place % _COLUMNS * _COLUMN, y + place // _COLUMNS * _ROW
        yield from (_moved(shape, x, top) for shape in shapes)
        yield Text(x + 27, top + 9.5, said, 10)


def _moved(shape: Shape, x: float, y: float) -> Shape:
    if isinstance(shape, Line):
        return shape._replace(points=tuple((left + x, top + y) for left, top in shape.points))
    return shape._replace(x=shape.x + x, y=shape.y + y)
