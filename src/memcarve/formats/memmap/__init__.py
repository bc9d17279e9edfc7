"""Memory maps: which virtual address lies where in a process dump, row by row, as Volatility and Rekall print them.

The formats and their traps are described in ``docs/formats.md``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import MapError, NotRecognisedError
from memcarve.formats.compression import Reading
from memcarve.formats.memmap.map_columns import FILE, KNOWN, MEMORY_MAP, REPEATED, SIZE, VIRTUAL, MapColumns
from memcarve.formats.memmap.map_records import arrow_rows, json_rows
from memcarve.formats.memmap.map_writing import OF_INCOMPLETE
from memcarve.formats.memmap.text_map import TextMap
from memcarve.formats.tables import TableFile, recognise_table
from memcarve.formats.tables.arrow_table import ArrowTable
from memcarve.formats.tables.json_table import JsonTable
from memcarve.formats.tables.text_header import BANNER, is_document, other_columns
from memcarve.intervals import TOP

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from memcarve.dtypes import Bools
    from memcarve.formats.memmap.map_columns import Rows
    from memcarve.formats.tables.text_file import TextFile


#: half a TiB in pages of 4 KiB, without a large one
MOST_ROWS = 1 << 27
#: addresses are printed cut to 48 or 57 bits, or sign-extended: what lies between is not an address
_LAST_CUT = (1 << 57) - 1
_FIRST_EXTENDED = TOP - (1 << 56)
_LARGEST_FILE = 1 << 62
#: columns of an empty JSON array, which says nothing of them
_NAMES = ["Virtual", "Size", "Offset in File", FILE]


class BinaryError(NotRecognisedError):
    """The file is neither text nor a table: a dump, for example."""


class MemoryMap(TableFile):
    """A memory map, opened: what kind it is, and its rows in blocks.

    Raises NotRecognisedError if the file holds no memory map, MissingExtraError if reading it needs pyarrow,
    MapError if it is damaged, SourceReadError if it cannot be read. A file that was open already stays so then.
    """

    table: TextMap | JsonTable | ArrowTable
    empty = 0
    first_empty = ""

    def __init__(
        self,
        path: str | os.PathLike[str] | FileBacking,
        *,
        hashed: bool = False,
        reading: Reading = Reading(),  # noqa: B008 - a tuple
    ) -> None:
        super().__init__(path, hashed=hashed, reading=reading)

    def _recognised(self) -> TextMap | JsonTable | ArrowTable:
        text = self.text
        found = recognise_table(text, MEMORY_MAP, self.reading)
        if found is None:
            raise (NotRecognisedError if text.is_text else BinaryError)(f"{text.path}: {_what_else(text)}")
        # an array without rows has no names
        names = found.columns or (_NAMES if isinstance(found, JsonTable) else [])
        unknown = sorted(set(names) - KNOWN)
        if unknown:
            raise NotRecognisedError(
                f"is a {found.kind} table of other columns ({', '.join(names)}); a memory map is what "
                "`windows.memmap` prints",
                subject=text.path,
            )
        for group in (VIRTUAL, SIZE):
            if not set(group) & set(names):
                raise NotRecognisedError(
                    f"has no column {group[0]}; a map needs it: run memmap again without hiding it", subject=text.path
                )
        self.columns = MapColumns(names)
        return found if isinstance(found, JsonTable | ArrowTable) else TextMap(text, found, self.columns)

    @property
    def filters_possible(self) -> bool:
        """Whether the program could leave out rows whose bytes it wrote: Volatility 3 since 2.7, with --filters."""
        return self.table.kind.startswith("volatility3") and REPEATED not in self.columns.names

    @property
    def of_incomplete(self) -> bool:
        """Whether memcarve wrote it of a process of which it knew that bytes are missing."""
        return OF_INCOMPLETE.match(self.text.head) is not None

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file.

        Rows without a byte are left out: `empty` counts them, and `first_empty` is the place of the first. Raises
        MapError if one is malformed, or there are more than `reading` or MOST_ROWS allows.
        """
        count = 0
        self.empty, self.first_empty = 0, ""
        for block in self._blocks():
            rows = block
            if len(block.virtual):
                count += len(block.virtual)
                self.reading.check_rows(self.path, count, MOST_ROWS)
                rows = self._checked(block)
            if len(rows.virtual) or rows.marks:
                yield rows

    def _blocks(self) -> Iterator[Rows]:
        if isinstance(self.table, TextMap):
            return self.table.rows()
        if isinstance(self.table, JsonTable):
            return json_rows(self.table, self.columns)
        return arrow_rows(self.table, self.columns)

    def _checked(self, rows: Rows) -> Rows:
        """Return the rows that have bytes; raise MapError if one claims what cannot be.

        For a map without such rows, a few maxima tell.
        """
        if not rows.size.all():
            lost = np.flatnonzero(rows.size == 0)
            self.first_empty = self.first_empty or self.table.place(int(rows.lines[lost[0]]))
            self.empty += len(lost)
            rows = rows.where(rows.size != 0)
            if not len(rows.size):
                return rows
        largest = max(int(column.max()) for column in (rows.size, rows.printed) if column is not None)
        last = rows.virtual + (rows.size - np.uint64(1))
        highest = max(int(rows.virtual.max()), int(last.max()))
        if largest <= _LARGEST_FILE and highest <= _LAST_CUT:
            return rows
        cut = rows.virtual <= np.uint64(_LAST_CUT)
        extended = rows.virtual >= np.uint64(_FIRST_EXTENDED)
        outside = ~(cut & (last <= np.uint64(_LAST_CUT))) & ~(extended & (last >= rows.virtual))
        self._refuse(rows, outside | (last < rows.virtual), "is not a range of virtual addresses")
        for column in (rows.size, rows.printed):
            if column is not None:
                self._refuse(rows, column > np.uint64(_LARGEST_FILE), "claims bytes beyond the end of any file")
        return rows

    def _refuse(self, rows: Rows, bad: Bools, why: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise MapError(
                f"the row at 0x{int(rows.virtual[row]):x} of size 0x{int(rows.size[row]):x} {why}; the map is damaged",
                subject=self.table.place(int(rows.lines[row])),
            )


def _what_else(text: TextFile) -> str:  # noqa: PLR0911 - one for each kind
    """Return in words what a file holds that is not a memory map."""
    wanted = "a map is what `windows.memmap` prints, with its header line"
    head = text.head
    if not text.is_text:
        return f"holds binary data, not a memory map; {wanted}"
    if not head.strip():
        return "is empty"
    if is_document(head):
        return f"is a document; if a table in it is the map, put that into a file of its own; {wanted}"
    if re.search(rb"^Writing .* to \d+\.dmp", head, re.MULTILINE):
        return (
            "is what Volatility 2's memdump prints, which does not say where anything lies; run its memmap for the "
            "same process"
        )
    others = other_columns(head)
    if others:
        return f"is a table of other columns ({others}); {wanted}"
    if BANNER.search(head):
        return f"holds no table (printed with -r none or mermaid?); {wanted}"
    return f"does not hold a memory map; {wanted}"
