"""A drawing as SVG (W3C, SVG 1.1): shapes and text alone, nothing that runs or is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from memcarve.errors import printable
from memcarve.report.picture.shapes import BARS, DIAGONAL, DOTS, FALLING, GRID, INK, PAPER, UPRIGHT, Box, Line, Text
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.report.picture.shapes import Drawing, Shape

_PATTERNS = {
    DOTS: '<circle cx="2" cy="2" r="0.8" fill="{ink}"/>',
    DIAGONAL: '<path d="M-1 1L1 -1M0 5L5 0M4 6L6 4" stroke="{ink}" stroke-width="0.7"/>',
    FALLING: '<path d="M-1 4L1 6M0 0L5 5M4 -1L6 1" stroke="{ink}" stroke-width="0.7"/>',
    BARS: '<path d="M0 2.5H5" stroke="{ink}" stroke-width="0.7"/>',
    UPRIGHT: '<path d="M2.5 0V5" stroke="{ink}" stroke-width="0.7"/>',
    GRID: '<path d="M0 2.5H5M2.5 0V5" stroke="{ink}" stroke-width="0.7"/>',
}
_SANS, _FIXED = "DejaVu Sans, Verdana, Arial, sans-serif", "DejaVu Sans Mono, Consolas, Menlo, monospace"


def svg(drawing: Drawing) -> Iterator[str]:
    """Yield the lines of an SVG file."""
    size = f'width="{drawing.width}" height="{drawing.height}" viewBox="0 0 {drawing.width} {drawing.height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(_plain(drawing.title))}>'
    yield f"<!-- written by memcarve {__version__} -->"
    yield f"<title>{escape(_plain(drawing.title))}</title>"
    yield "<defs>"
    for name, pattern in _PATTERNS.items():
        inside = pattern.format(ink=INK)
        yield f'<pattern id="{name}" width="5" height="5" patternUnits="userSpaceOnUse">{inside}</pattern>'
    yield "</defs>"
    yield f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    for shape in drawing.shapes:
        yield from _shape(shape)
    yield "</svg>"


def _shape(shape: Shape) -> Iterator[str]:
    if isinstance(shape, Box):
        place = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"'
        line = f' stroke="{shape.outline}" stroke-width="0.5"' if shape.outline else ""
        yield f'<rect {place} fill="{shape.fill or "none"}"{line}/>'
        if shape.hatch:
            yield f'<rect {place} fill="url(#{shape.hatch})" fill-opacity="0.5"/>'
    elif isinstance(shape, Line):
        points = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
        what = "polygon" if shape.fill else "polyline"
        yield f'<{what} points="{points}" fill="{shape.fill or "none"}" stroke="{shape.colour}" stroke-width="0.8"/>'
    elif isinstance(shape, Text):
        font = f'font-family="{_FIXED if shape.fixed else _SANS}" font-size="{shape.size:g}"'
        weight = ' font-weight="bold"' if shape.bold else ""
        look = f'{font}{weight} fill="{shape.colour}"'
        yield f'<text x="{shape.x:g}" y="{shape.y:g}" {look}>{escape(_plain(shape.text))}</text>'


def _plain(text: str) -> str:
    """Return a text without what XML has no characters for."""
    return printable(text)
