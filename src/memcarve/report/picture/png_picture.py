"""A drawing as PNG, through Pillow."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

from memcarve.errors import MissingExtraError, printable
from memcarve.report.picture.shapes import BARS, DIAGONAL, DOTS, FALLING, GRID, INK, PAPER, UPRIGHT, Box, Line, Text
from memcarve.version import __version__

if TYPE_CHECKING:
    from typing import BinaryIO

    from memcarve.report.picture.shapes import Drawing, Shape

_SCALE = 2  # pixels of the file for one of the drawing: sharp in print
_STEP = 5 * _SCALE  # of hatching


def write_png(drawing: Drawing, out: BinaryIO) -> None:
    """Write a PNG file; raises MissingExtraError."""
    pillow = _pillow()
    image = pillow["Image"].new("RGB", (drawing.width * _SCALE, drawing.height * _SCALE), PAPER)
    canvas = pillow["ImageDraw"].Draw(image)
    fonts: dict[float, Any] = {}
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            font = fonts.get(shape.size) or pillow["ImageFont"].load_default(shape.size * _SCALE)
            fonts[shape.size] = font
            place, width = (shape.x * _SCALE, shape.y * _SCALE), 0.4 * _SCALE if shape.bold else 0
            canvas.text(place, printable(shape.text), shape.colour, font, "ls", stroke_width=width)
        else:
            _draw(canvas, shape)
    told = pillow["PngImagePlugin"].PngInfo()
    told.add_text("Software", f"written by memcarve {__version__}")
    image.save(out, "PNG", pnginfo=told, dpi=(96 * _SCALE, 96 * _SCALE))


def check_png() -> None:
    """Raise MissingExtraError if PNG cannot be written."""
    _pillow()


def _pillow() -> dict[str, Any]:
    names = "Image", "ImageDraw", "ImageFont", "PngImagePlugin"
    try:
        return {name: importlib.import_module(f"PIL.{name}") for name in names}
    except ImportError:
        raise MissingExtraError(
            "a picture as PNG needs another package", remedy="pip install 'memcarve[picture]', or name a .svg file"
        ) from None


def _draw(canvas: Any, shape: Shape) -> None:  # noqa: ANN401 - Pillow's
    if isinstance(shape, Line):
        points = [(x * _SCALE, y * _SCALE) for x, y in shape.points]
        if shape.fill:
            canvas.polygon(points, shape.fill, shape.colour)
        else:
            canvas.line(points, shape.colour, 2)
    elif isinstance(shape, Box):
        left, top = round(shape.x * _SCALE), round(shape.y * _SCALE)
        right, bottom = round((shape.x + shape.width) * _SCALE) - 1, round((shape.y + shape.height) * _SCALE) - 1
        if right < left or bottom < top:
            return
        canvas.rectangle((left, top, right, bottom), shape.fill or None)
        if shape.hatch:
            _hatch(canvas, shape.hatch, (left, top, right, bottom), _between(shape.fill or PAPER, INK))
        if shape.outline:
            canvas.rectangle((left, top, right, bottom), None, shape.outline)


def _hatch(canvas: Any, hatch: str, corners: tuple[int, int, int, int], ink: str) -> None:  # noqa: ANN401 - Pillow's
    """Hatch a rectangle by lines and dots whose places are those of the whole picture."""
    left, top, right, bottom = corners
    if hatch == DOTS:
        for x in range(left + -left % _STEP, right, _STEP):
            for y in range(top + -top % _STEP + 3, bottom, _STEP):
                canvas.rectangle((x, y, x + 1, y + 1), ink)
    if hatch in (BARS, GRID):
        for y in range(top + 4, bottom, _STEP):
            canvas.line((left, y, right, y), ink, 1)
    if hatch in (UPRIGHT, GRID):
        for x in range(left + -left % _STEP, right, _STEP):
            canvas.line((x, top, x, bottom), ink, 1)
    if hatch in (DIAGONAL, FALLING):
        _slant(canvas, corners, ink, falls=hatch == FALLING)


def _slant(canvas: Any, corners: tuple[int, int, int, int], ink: str, *, falls: bool) -> None:  # noqa: ANN401 - Pillow's
    """Draw the parts of slanting lines that are in a rectangle."""
    left, top, right, bottom = corners
    height = bottom - top
    for x in range(math.floor((left - height) / _STEP) * _STEP, right + 1, _STEP):
        low, high = max(left - x, 0), min(right - x, height)
        if low <= high:
            rows = (top + low, top + high) if falls else (bottom - low, bottom - high)
            canvas.line((x + low, rows[0], x + high, rows[1]), ink, 1)


def _between(colour: str, other: str) -> str:
    """Return the colour halfway between two, as ``#rrggbb``."""
    parts = zip(bytes.fromhex(colour[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + bytes((one + two) // 2 for one, two in parts).hex()
