"""Memory maps as Volatility 3's renderers print them, written a block of rows at a time."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from memcarve.formats.json_text import dumps
from memcarve.intervals import CHUNK, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.dtypes import U64

    Row = tuple[int, int, int, int, str]

#: the release whose output is imitated: its columns have not changed since 2.0.0
RELEASE = "2.28.2"
_COLUMNS = ("Virtual", "Physical", "Size", "Offset in File", "File output")
NOT_WRITTEN = "Error outputting to file"
_INCOMPLETE = ", of an incomplete process"
#: the banner of a map that memcarve wrote of a process that lacks bytes
OF_INCOMPLETE = re.compile(
    rb"Volatility 3 Framework \S+ \(its layout, written by [^)]*" + _INCOMPLETE.encode() + rb"\)"
)


class MapRows(NamedTuple):
    """The rows of a map in columns (uint64), and the name of the dump they belong to.

    The bytes of those from place `written` on are not in the dump. `complete` is false if bytes are known to be
    missing.
    """

    virtual: U64
    physical: U64
    size: U64
    offset: U64
    file: str
    written: int
    complete: bool

    def each(self) -> Iterator[Row]:
        """Yield virtual address, physical address, size, offset and "File output" of each row."""
        columns = (self.virtual, self.physical, self.size, self.offset)
        for bounds, text in (((0, self.written), self.file), ((self.written, len(self.virtual)), NOT_WRITTEN)):
            parts = [column[slice(*bounds)] for column in columns]
            for part in chunks(len(parts[0]), CHUNK >> 4):
                yield from zip(*(column[part].tolist() for column in parts), itertools.repeat(text))


def quick(rows: MapRows, writer: str) -> Iterator[str]:
    """Yield the lines of ``-r quick``; the banner names `writer`, who is not Volatility."""
    writer += "" if rows.complete else _INCOMPLETE
    yield f"Volatility 3 Framework {RELEASE} (its layout, written by {writer})\n\n" + "\t".join(_COLUMNS) + "\n\n"
    for virtual, physical, size, offset, file in rows.each():
        yield f"0x{virtual:x}\t0x{physical:x}\t0x{size:x}\t0x{offset:x}\t{file}\n"


def csv(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the lines of ``-r csv``."""
    yield ",".join(("TreeDepth", *_COLUMNS)) + "\n"
    for virtual, physical, size, offset, file in rows.each():
        yield f"0,0x{virtual:x},0x{physical:x},0x{size:x},0x{offset:x},{file}\n"
    yield "\n"


def json_array(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the text of ``-r json``: members in order of their names, addresses decimal."""
    separator = "\n["
    for virtual, physical, size, offset, file in rows.each():
        yield (
            f'{separator}\n  {{\n    "File output": {dumps(file)},\n    "Offset in File": {offset},\n'
            f'    "Physical": {physical},\n    "Size": {size},\n    "Virtual": {virtual},\n    "__children": []\n  }}'
        )
        separator = ","
    yield "\n]\n" if separator == "," else "\n[]\n"


def json_lines(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the lines of ``-r jsonl``."""
    yield "\n"
    for virtual, physical, size, offset, file in rows.each():
        yield (
            f'{{"File output": {dumps(file)}, "Offset in File": {offset}, "Physical": {physical}, "Size": {size}, '
            f'"Virtual": {virtual}, "__children": []}}\n'
        )


#: by the renderer's name: what writes it, and the ending of the file it goes into
RENDERERS: dict[str, tuple[Callable[[MapRows, str], Iterator[str]], str]] = {
    "quick": (quick, "map"),
    "csv": (csv, "csv"),
    "json": (json_array, "json"),
    "jsonl": (json_lines, "jsonl"),
}
