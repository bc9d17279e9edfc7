"""What a picture is made of, in pixels from its upper left corner: boxes with hatching, lines, marks and text."""

from __future__ import annotations

from typing import NamedTuple

#: the ways a box may be hatched, so that it can be told without its colour
DOTS, DIAGONAL, FALLING, BARS, UPRIGHT, GRID = HATCHES = ("dots", "diagonal", "falling", "bars", "upright", "grid")
INK, PAPER = "#1a1a1a", "#ffffff"


class Box(NamedTuple):
    """A rectangle, filled unless `fill` is "", hatched and outlined if it is said so."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    hatch: str = ""
    outline: str = ""


class Line(NamedTuple):
    """Points that are joined; with a `fill` the shape between them."""

    points: tuple[tuple[float, float], ...]
    colour: str = INK
    fill: str = ""


class Text(NamedTuple):
    """A text on a line; `y` is its base line, `size` how high it is. `fixed`: all characters have one width."""

    x: float
    y: float
    text: str
    size: float = 11
    fixed: bool = False
    bold: bool = False
    colour: str = INK


Shape = Box | Line | Text


class Drawing(NamedTuple):
    """A picture: its size in pixels, what it shows in words, and its shapes, the last on top."""

    width: int
    height: int
    title: str
    shapes: tuple[Shape, ...]
