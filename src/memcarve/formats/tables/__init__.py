"""Tables as programs print them, of any columns: text as each renderer lays it out, JSON, Arrow and Parquet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.formats.tables.arrow_table import ARROW, ArrowTable
from memcarve.formats.tables.json_table import recognise_json
from memcarve.formats.tables.text_file import TextFile
from memcarve.formats.tables.text_header import is_document, recognise

if TYPE_CHECKING:
    from typing import Any, Self

    from memcarve.formats.compression import Reading
    from memcarve.formats.tables.json_table import JsonTable
    from memcarve.formats.tables.printed_table import PrintedTable
    from memcarve.formats.tables.text_header import Header, Vocabulary


def recognise_table(text: TextFile, vocabulary: Vocabulary, reading: Reading) -> Header | JsonTable | ArrowTable | None:
    """Return the header of a text table that the vocabulary knows, or a table of records of any columns, if any."""
    if text.is_text and is_document(text.head):
        return None
    header = recognise(text.head, vocabulary) if text.is_text else None
    # of a stream of Arrow a length comes next, and of a saved domain of Xen the same bytes again
    if header is None and text.head.startswith(ARROW) and not text.head.startswith(b"\xff" * 8):
        return ArrowTable(text, reading)
    return header or (recognise_json(text) if text.is_text else None)


class TableFile:
    """A file that holds a table, opened: `table`. What tables are read is for the subclasses.

    A file that was open already stays so if it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | FileBacking, *, hashed: bool, reading: Reading) -> None:
        self.reading = reading
        named = path if isinstance(path, FileBacking) else os.fspath(path)
        self.text = TextFile(named, hashed=hashed, reading=reading)
        self.path = self.text.path
        try:
            self.table = self._recognised()
            self.text.check()
        except BaseException:
            if self.text.file is not path:
                self.text.close()
            raise

    def _recognised(self) -> PrintedTable:
        """Return the table; raise NotRecognisedError if it is not one of those that are read."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """What the user should know; complete once the rows were read."""
        return self.table.notes

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file as it lies on disk, once the rows were read (None unless asked for at the start)."""
        return self.text.sha256

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self.text.file.size

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the file; see `FileBacking.described`."""
        return self.text.file.described

    @property
    def description(self) -> str:
        """The program and its renderer, the version, the encoding and the compression in words."""
        words = self.table.kind + (f" {self.table.version}" if self.table.version else "")
        encoding = self.text.encoding if self.text.encoding != "utf-8" else None
        return ", ".join(filter(None, (words, encoding, self.text.compression)))

    def close(self) -> None:
        """Close the file."""
        self.table.close()
        self.text.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
