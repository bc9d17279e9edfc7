"""Small tables about a process, read row by row: its regions, modules, threads, as Volatility 3 or Linux list them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.errors import MapError, NotRecognisedError
from memcarve.formats import tables
from memcarve.formats.listing import procmaps, records
from memcarve.formats.listing.known import HEADER, PROC_MAPS, Cells, Known, known
from memcarve.formats.listing.textrows import TextRows
from memcarve.formats.text import TextFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

#: no process has as many regions; what is longer is meant to fill the memory
MOST_ROWS = 2_000_000
MOST_TEXT = 1 << 28  # characters in the cells that are used, all together
_WANTED = (
    "what is read are the tables of windows.vadinfo, windows.vadwalk, linux.proc.Maps, mac.proc_maps, windows.dlllist, "
    "windows.threads, and /proc/PID/maps"
)


class Listing:
    """A table, opened: `name` says what printed it (as ``windows.vadinfo``), `notes` what the user should know.

    Raises NotRecognisedError where it is none of the known tables or lacks a column, MissingExtraError where reading
    it needs pyarrow, MapError where it is damaged, SourceReadError where it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.notes: list[str] = []
        self._text = TextFile(self.path, hashed=True)
        try:
            self._open()
        except BaseException:
            self._text.close()
            raise

    def _open(self) -> None:
        text = self._text
        self._rows: TextRows | records.RecordRows | records.ArrowRows | None = None
        self._format, self._in_lines, version = "text", True, None
        if text.is_text and procmaps.is_maps(text.head):
            self._kind = Known(PROC_MAPS)
        else:
            table = tables.recognise(text.head, HEADER) if text.is_text else None
            if table:
                kind = _usable(self.path, table.columns)
                self._rows = TextRows(text, table, kind)
                self._format, version = table.kind, table.version
            else:
                found = records.open_rows(text)
                if found is None:
                    raise NotRecognisedError(f"{self.path}: {_what_else(text)}; {_WANTED}")
                kind = _usable(self.path, found.columns)
                self._rows, self._format, version, self._in_lines = found, found.kind, found.version, found.in_lines
            self._kind = kind
        if version:
            self._format += f" {version}"

    @property
    def name(self) -> str:
        """What printed the table, as one of the names in ``known``."""
        return self._kind.name

    @property
    def has_pid(self) -> bool:
        """Whether the rows say which process they belong to."""
        return "PID" in self._kind.needed

    @property
    def description(self) -> str:
        """What printed it, the renderer and its version, the encoding and the compression in words."""
        encoding = self._text.encoding if self._text.encoding != "utf-8" else None
        return ", ".join(filter(None, (self.name, self._format, encoding, self._text.compression)))

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._text.file.size

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file as it lies on disk, once the rows were read."""
        return self._text.sha256

    def place(self, number: int) -> str:
        """Return the file and the line (or row) of that number, for a message."""
        return f"{self.path}: {'line' if self._in_lines else 'row'} {number}"

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield the number and the cells of each row, in the order of the file.

        Cells are those of the kind's columns that are used; hidden ones are left out, and what the table says is not
        known is None. Raises MapError where a row is malformed, or there are more than MOST_ROWS or MOST_TEXT.
        """
        letters = 0
        for count, row in enumerate(self._each()):
            letters += sum([len(cell) for cell in row[1].values() if isinstance(cell, str)])
            if count >= MOST_ROWS or letters > MOST_TEXT:
                what = f"{MOST_ROWS} rows" if count >= MOST_ROWS else f"{MOST_TEXT} characters"
                raise MapError(f"{self.path}: has more than {what}; no process has so many regions")
            yield row
        if isinstance(self._rows, TextRows | records.RecordRows):
            self.notes += self._rows.notes

    def _each(self) -> Iterator[tuple[int, Cells]]:
        if self._rows is None:
            return procmaps.rows(self._text, self.notes)
        if isinstance(self._rows, TextRows):
            return self._rows.rows()
        if isinstance(self._rows, records.RecordRows):
            return self._rows.rows(self._kind)
        return self._rows.records(self._kind)

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _usable(path: str, columns: list[str]) -> Known:
    """Return the kind of table that has these columns; raise NotRecognisedError where it is of no use."""
    kind = known(columns)
    if kind is None:
        raise NotRecognisedError(f"{path}: is a table of other columns ({', '.join(columns)[:300]}); {_WANTED}")
    if kind.refused:
        raise NotRecognisedError(f"{path}: {kind.refused}")
    twice = [name for name in (*kind.needed, *kind.optional) if columns.count(name) > 1]
    if twice:
        raise NotRecognisedError(f"{path}: has the column {twice[0]} more than once; which one counts is not known")
    lacking = [name for name in kind.needed if name not in columns]
    if lacking:
        raise NotRecognisedError(
            f"{path}: is what {kind.name} prints, without the column {lacking[0]}, which is needed; run it again "
            "without hiding it"
        )
    return kind


def _what_else(text: TextFile) -> str:
    """Say what a file holds that is no table of a known kind."""
    if not text.is_text:
        return "holds binary data"
    if not text.head.strip():
        return "is empty"
    if tables.recognise(text.head):
        return "is a memory map"
    others = tables.other_columns(text.head)
    return f"is a table of other columns ({others})" if others else "holds no table that is known"
