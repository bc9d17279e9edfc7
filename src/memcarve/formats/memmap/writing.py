"""Memory maps as Volatility 3's renderers print them, written a block of rows at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memcarve.columns import CHUNK, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    Column = npt.NDArray[np.uint64]
    Row = tuple[int, int, int, int]

#: the release whose output is imitated: its columns have not changed since 2.0.0
RELEASE = "2.28.2"
_COLUMNS = ("Virtual", "Physical", "Size", "Offset in File", "File output")


class MapRows(NamedTuple):
    """The rows of a map in columns (uint64), and the name of the dump they belong to."""

    virtual: Column
    physical: Column
    size: Column
    offset: Column
    file: str

    def each(self) -> Iterator[Row]:
        """Yield virtual address, physical address, size and offset of each row."""
        columns = (self.virtual, self.physical, self.size, self.offset)
        for part in chunks(len(self.virtual), CHUNK >> 4):
            yield from zip(*(column[part].tolist() for column in columns), strict=True)


def quick(rows: MapRows, writer: str) -> Iterator[str]:
    """Yield the lines of ``-r quick``; the banner names `writer`, who is not Volatility."""
    yield f"Volatility 3 Framework {RELEASE} (its layout, written by {writer})\n\n" + "\t".join(_COLUMNS) + "\n\n"
    for virtual, physical, size, offset in rows.each():
        yield f"0x{virtual:x}\t0x{physical:x}\t0x{size:x}\t0x{offset:x}\t{rows.file}\n"


def csv(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the lines of ``-r csv``."""
    yield ",".join(("TreeDepth", *_COLUMNS)) + "\n"
    for virtual, physical, size, offset in rows.each():
        yield f"0,0x{virtual:x},0x{physical:x},0x{size:x},0x{offset:x},{rows.file}\n"
    yield "\n"


def json_array(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the text of ``-r json``: members in order of their names, addresses decimal."""
    file, separator = json.dumps(rows.file), "\n["
    for virtual, physical, size, offset in rows.each():
        yield (
            f'{separator}\n  {{\n    "File output": {file},\n    "Offset in File": {offset},\n'
            f'    "Physical": {physical},\n    "Size": {size},\n    "Virtual": {virtual},\n    "__children": []\n  }}'
        )
        separator = ","
    yield "\n]\n" if separator == "," else "\n[]\n"


def json_lines(rows: MapRows, _: str) -> Iterator[str]:
    """Yield the lines of ``-r jsonl``."""
    yield "\n"
    file = json.dumps(rows.file)
    for virtual, physical, size, offset in rows.each():
        yield (
            f'{{"File output": {file}, "Offset in File": {offset}, "Physical": {physical}, "Size": {size}, '
            f'"Virtual": {virtual}, "__children": []}}\n'
        )


#: by the renderer's name: what writes it, and the ending of the file it goes into
RENDERERS: dict[str, tuple[Callable[[MapRows, str], Iterator[str]], str]] = {
    "quick": (quick, "map"),
    "csv": (csv, "csv"),
    "json": (json_array, "json"),
    "jsonl": (json_lines, "jsonl"),
}
