"""Memory maps: which virtual address lies where in a process dump, row by row, as Volatility and Rekall print them.

The formats and their traps are described in ``docs/formats.md``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from memcarve.backing import FileBacking
from memcarve.errors import MapError, NotRecognisedError
from memcarve.formats import tables
from memcarve.formats.memmap.records import open_records
from memcarve.formats.memmap.rows import KNOWN, REPEATED, SIZE, VIRTUAL, Reader, Rows
from memcarve.formats.memmap.textrows import TextReader
from memcarve.formats.memmap.writing import OF_INCOMPLETE
from memcarve.formats.text import TextFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from memcarve.dtypes import Bools


#: addresses are printed cut to 48 or 57 bits, or sign-extended: what lies between is none
_LAST_CUT = (1 << 57) - 1
_FIRST_EXTENDED = (1 << 64) - (1 << 56)
_LARGEST_FILE = 1 << 62


class BinaryError(NotRecognisedError):
    """The file is no text and no table either, as a dump is."""


class MemoryMap:
    """A memory map, opened: what kind it is, and its rows in blocks.

    Raises NotRecognisedError where the file holds no memory map, MissingExtraError where reading it needs pyarrow,
    MapError where it is damaged, SourceReadError where it cannot be read. A file that was open already stays so then.
    """

    def __init__(self, path: str | os.PathLike[str] | FileBacking, *, hashed: bool = False) -> None:
        self._text = TextFile(path if isinstance(path, FileBacking) else os.fspath(path), hashed=hashed)
        self.path = self._text.path
        try:
            self.reader = _reader(self._text)
        except BaseException:
            if self._text.file is not path:
                self._text.close()
            raise

    @property
    def has_printed(self) -> bool:
        """Whether the map prints positions (release 1.0 prints something else in their place)."""
        return self.reader.has_printed

    @property
    def has_file(self) -> bool:
        """Whether the map says which rows were written."""
        return self.reader.has_file

    @property
    def filters_possible(self) -> bool:
        """Whether the program could leave out rows whose bytes it wrote: Volatility 3 since 2.7, with --filters."""
        return self.reader.kind.startswith("volatility3") and REPEATED not in self.reader.columns

    @property
    def notes(self) -> list[str]:
        """What the user should know; complete when the rows were read."""
        return self.reader.notes

    @property
    def of_incomplete(self) -> bool:
        """Whether memcarve wrote it of a process of which it knew that bytes are missing."""
        return OF_INCOMPLETE.match(self._text.head) is not None

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file as it lies on disk, once the rows were read (None unless asked for at the start)."""
        return self._text.sha256

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._text.file.size

    @property
    def description(self) -> str:
        """The kind, the version, the encoding and the compression in words."""
        words = self.reader.kind + (f" {self.reader.version}" if self.reader.version else "")
        encoding = self._text.encoding if self._text.encoding != "utf-8" else None
        return ", ".join(filter(None, (words, encoding, self._text.compression)))

    def rows(self) -> Iterator[Rows]:
        """Yield the rows in blocks, in the order of the file; raise MapError where one is malformed."""
        for rows in self.reader.rows():
            if len(rows.virtual):
                self._check(rows)
            if len(rows.virtual) or rows.marks:
                yield rows

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, rows: Rows) -> None:
        """Raise MapError where a row claims what cannot be; for a map without such rows, a few maxima tell."""
        largest = max(int(column.max()) for column in (rows.size, rows.printed) if column is not None)
        last = rows.virtual + (rows.size - np.uint64(1))
        highest = max(int(rows.virtual.max()), int(last.max()))
        if largest <= _LARGEST_FILE and highest <= _LAST_CUT and int(rows.size.min()):
            return
        self._refuse(rows, rows.size == 0, "has no bytes")
        cut = rows.virtual <= np.uint64(_LAST_CUT)
        extended = rows.virtual >= np.uint64(_FIRST_EXTENDED)
        outside = ~(cut & (last <= np.uint64(_LAST_CUT))) & ~(extended & (last >= rows.virtual))
        self._refuse(rows, outside | (last < rows.virtual), "is no range of virtual addresses")
        for column in (rows.size, rows.printed):
            if column is not None:
                self._refuse(rows, column > np.uint64(_LARGEST_FILE), "claims bytes beyond the end of any file")

    def _refuse(self, rows: Rows, bad: Bools, why: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise MapError(
                f"{self.path}: line {int(rows.lines[row])}: the row at 0x{int(rows.virtual[row]):x} of size "
                f"0x{int(rows.size[row]):x} {why}; the map is damaged"
            )


def _reader(text: TextFile) -> Reader:
    """Return the reader for the kind of map that the file holds."""
    head = text.head
    reader: Reader | None = None
    if text.is_text:
        table = tables.recognise(head)
        reader = TextReader(text, table) if table else None
    reader = reader or open_records(text)
    if reader is None:
        raise (NotRecognisedError if text.is_text else BinaryError)(f"{text.path}: {_what_else(text)}")
    unknown = sorted(set(reader.columns) - KNOWN)
    if unknown:
        raise NotRecognisedError(
            f"{text.path}: is a {reader.kind} table of other columns ({', '.join(reader.columns)}); a memory map is "
            "what `windows.memmap` prints"
        )
    for group in (VIRTUAL, SIZE):
        if not set(group) & set(reader.columns):
            raise NotRecognisedError(
                f"{text.path}: has no column {group[0]}; a map needs it: run memmap again without hiding it"
            )
    return reader


def _what_else(text: TextFile) -> str:
    """Say what a file holds that is no memory map."""
    wanted = "a map is what `windows.memmap` prints, with its header line"
    head = text.head
    if not text.is_text:
        return f"holds binary data, not a memory map; {wanted}"
    if not head.strip():
        return f"is empty; {wanted}"
    if re.search(rb"^Writing .* to \d+\.dmp", head, re.MULTILINE):
        return (
            "is what Volatility 2's memdump prints, which does not say where anything lies; run its memmap for the "
            "same process"
        )
    others = tables.other_columns(head)
    if others:
        return f"is a table of other columns ({others}); {wanted}"
    if tables.BANNER.search(head):
        return f"holds no table (printed with -r none or mermaid?); {wanted}"
    return f"holds no memory map; {wanted}"
