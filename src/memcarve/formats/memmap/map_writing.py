"""Memory maps as Volatility 3's renderers print them, written a block of rows at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.json_text import dumps
from memcarve.intervals import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.dtypes import U64

#: the release whose output is imitated: its columns have not changed since 2.0.0
RELEASE = "2.28.2"
_COLUMNS = ("Virtual", "Physical", "Size", "Offset in File", "File output")
NOT_WRITTEN = "Error outputting to file"
_ROWS = 4096  # that are written at a time
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

    def text(self, columns: Sequence[U64], row: Callable[[str], str]) -> Iterator[str]:
        """Yield the rows of some columns as text, many at a time.

        ``row(file)`` returns what a row of a "File output" is made with: one conversion (printf-style) a column.
        """
        for bounds, file in (((0, self.written), self.file), ((self.written, len(self.virtual)), NOT_WRITTEN)):
            parts, one = [column[slice(*bounds)] for column in columns], row(file.replace("%", "%%"))
            for part in chunks(len(parts[0]), _ROWS):
                numbers = np.column_stack([column[part] for column in parts])
                yield one * len(numbers) % tuple(numbers.ravel().tolist())


def quick(rows: MapRows, writer: str) -> Iterator[str]:
    """Yield the text of ``-r quick``; the banner names `writer`, who is not Volatility."""
    writer += "" if rows.complete else _INCOMPLETE
    yield f"Volatility 3 Framework {RELEASE} (its layout, written by {writer})\n\n" + "\t".join(_COLUMNS) + "\n\n"
    columns = rows.virtual, rows.physical, rows.size, rows.offset
    yield from rows.text(columns, lambda file: f"0x%x\t0x%x\t0x%x\t0x%x\t{file}\n")


def csv(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the text of ``-r csv``."""
    yield ",".join(("TreeDepth", *_COLUMNS)) + "\n"
    columns = rows.virtual, rows.physical, rows.size, rows.offset
    yield from rows.text(columns, lambda file: f"0,0x%x,0x%x,0x%x,0x%x,{file}\n")
    yield "\n"


def json_array(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the text of ``-r json``: members in order of their names, addresses decimal."""

    def row(file: str) -> str:
        return (
            f',\n  {{\n    "File output": {dumps(file)},\n    "Offset in File": %d,\n    "Physical": %d,\n'
            '    "Size": %d,\n    "Virtual": %d,\n    "__children": []\n  }'
        )

    skipped = len(",")  # before the first row
    yield "\n["
    for text in rows.text((rows.offset, rows.physical, rows.size, rows.virtual), row):
        yield text[skipped:]
        skipped = 0
    yield "]\n" if skipped else "\n]\n"


def json_lines(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the text of ``-r jsonl``."""

    def row(file: str) -> str:
        return (
            f'{{"File output": {dumps(file)}, "Offset in File": %d, "Physical": %d, "Size": %d, '
            '"Virtual": %d, "__children": []}\n'
        )

    yield "\n"
    yield from rows.text((rows.offset, rows.physical, rows.size, rows.virtual), row)


#: by the renderer's name: what writes it, and the ending of the file it goes into
RENDERERS: dict[str, tuple[Callable[[MapRows, str], Iterator[str]], str]] = {
    "quick": (quick, "map"),
    "csv": (csv, "csv"),
    "json": (json_array, "json"),
    "jsonl": (json_lines, "jsonl"),
}
