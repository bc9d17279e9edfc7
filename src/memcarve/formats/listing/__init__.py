"""Small tables about a process, read row by row: its regions, modules, threads, as Volatility 3 or Linux list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcarve.errors import MapError, NotRecognisedError
from memcarve.formats.compression import Reading
from memcarve.formats.listing.listing_kinds import (
    HEADER,
    PROC_MAPS,
    Kind,
    kind_of,
    shown_value,
    unusable,
    value_of_record,
)
from memcarve.formats.listing.procmaps import ProcMaps, is_maps
from memcarve.formats.listing.text_listing import TextListing
from memcarve.formats.memmap.map_columns import MEMORY_MAP
from memcarve.formats.tables import TableFile, recognise_table
from memcarve.formats.tables.arrow_table import ArrowTable
from memcarve.formats.tables.json_table import JsonTable
from memcarve.formats.tables.text_header import other_columns, recognise

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from memcarve.formats.listing.listing_kinds import Cells, Value
    from memcarve.formats.tables.text_file import TextFile

#: no process has as many regions; what is longer is meant to fill the memory
MOST_ROWS = 2_000_000
MOST_TEXT = 1 << 28  # characters in the cells that are used, all together
_WANTED = (
    "what is read are the tables of windows.vadinfo, windows.vadwalk, linux.proc.Maps, mac.proc_maps, windows.dlllist, "
    "windows.threads, and /proc/PID/maps"
)


class Listing(TableFile):
    """A table, opened: `name` says what printed it (as ``windows.vadinfo``), `notes` what the user should know.

    Raises NotRecognisedError if it is none of the known tables or lacks a column, MissingExtraError if reading it needs
    pyarrow, MapError if it is damaged, SourceReadError if it cannot be read.
    """

    table: ProcMaps | TextListing | JsonTable | ArrowTable

    def __init__(
        self,
        path: str | os.PathLike[str] | FileBacking,
        reading: Reading = Reading(),  # noqa: B008 - a tuple
    ) -> None:
        super().__init__(path, hashed=True, reading=reading)

    def _recognised(self) -> ProcMaps | TextListing | JsonTable | ArrowTable:
        text = self.text
        if text.is_text and is_maps(text.head):
            self._kind = Kind(PROC_MAPS)
            return ProcMaps(text)
        found = recognise_table(text, HEADER, self.reading)
        if found is None or found.kind == "volatility2 json":
            raise NotRecognisedError(f"{_what_else(text)}; {_WANTED}", subject=self.path)
        if isinstance(found, JsonTable) and found.is_empty:
            raise NotRecognisedError("is an empty JSON array; nothing says what table it would be", subject=self.path)
        self._kind = _usable(self.path, found.columns)
        return found if isinstance(found, JsonTable | ArrowTable) else TextListing(text, found, self._kind)

    @property
    def name(self) -> str:
        """What printed the table, as one of the names in ``listing_kinds``."""
        return self._kind.name

    @property
    def has_pid(self) -> bool:
        """Whether the rows say which process they belong to."""
        return "PID" in self._kind.needed

    @property
    def description(self) -> str:
        """What printed it, the renderer and its version, the encoding and the compression in words."""
        return f"{self.name}, {super().description}"

    def place(self, number: int) -> str:
        """Return the file and the line (or row) of that number, for a message."""
        return self.table.place(number)

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield the number and the cells of each row, in the order of the file.

        Cells are those of the kind's columns that are used; hidden ones are left out, and what the table says is not
        known is None. Raises MapError if a row is malformed, if the text is more than MOST_TEXT, and for more rows
        than `reading` or MOST_ROWS allows.
        """
        letters = 0
        table = self.table
        rows = self._records(table) if isinstance(table, JsonTable | ArrowTable) else table.rows()
        for count, row in enumerate(rows, 1):
            letters += sum([len(cell) for cell in row[1].values() if isinstance(cell, str)])
            self.reading.check_rows(self.path, count, MOST_ROWS)
            if letters > MOST_TEXT:
                raise MapError(
                    f"has more than {MOST_TEXT} characters; no process has so many regions", subject=self.path
                )
            yield row

    def _records(self, table: JsonTable | ArrowTable) -> Iterator[tuple[int, Cells]]:
        used = self._kind.used(table.columns)
        for number, record in table.records(used):
            if not isinstance(record, dict) or record.get("__children"):
                what = "has rows below it, as no known table has" if isinstance(record, dict) else "is not an object"
                raise MapError(f"{shown_value(record)} {what}", subject=self.place(number))
            yield number, {name: self._value(name, record, number) for name in used}

    def _value(self, column: str, record: dict[str, Any], number: int) -> Value:
        try:
            return value_of_record(column, record[column])
        except KeyError:
            raise MapError(f"{shown_value(record)} lacks {column}", subject=self.place(number)) from None
        except ValueError as error:
            raise unusable(self.place(number), column, record[column], error) from None


def _usable(path: str, columns: list[str]) -> Kind:
    """Return the kind of table that has these columns; raise NotRecognisedError if it is of no use."""
    kind = kind_of(columns)
    if kind is None:
        raise NotRecognisedError(f"is a table of other columns ({', '.join(columns)[:300]}); {_WANTED}", subject=path)
    if kind.refused:
        raise NotRecognisedError(kind.refused, subject=path)
    twice = [name for name in (*kind.needed, *kind.optional) if columns.count(name) > 1]
    if twice:
        raise NotRecognisedError(
            f"has the column {twice[0]} more than once; which one counts is not known", subject=path
        )
    lacking = [name for name in kind.needed if name not in columns]
    if lacking:
        raise NotRecognisedError(
            f"is what {kind.name} prints, without the column {lacking[0]}, which is needed",
            subject=path,
            remedy="run it again without hiding it",
        )
    return kind


def _what_else(text: TextFile) -> str:
    """Return in words what a file holds that is not a table of a known kind."""
    if not text.is_text:
        return "holds binary data"
    if not text.head.strip():
        return "is empty"
    if recognise(text.head, MEMORY_MAP):
        return "is a memory map"
    others = other_columns(text.head)
    return f"is a table of other columns ({others})" if others else "does not hold a known table"
