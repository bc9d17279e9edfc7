"""Texts about a process, made when somebody asks how long they are: kept in memory, or if they are long in a file."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.file_systems import on_disk
from memcarve.mount.virtual_file import Text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    from memcarve.mount.virtual_file import VirtualFile

_OTHER = "/var/tmp"  # noqa: S108 - the file in it has no name
_LONG = 1 << 20  # bytes of a document that are kept in memory
_FILE = 256 << 10  # what a file counts for, so that no more of them are open than a program may have


class _Spilled:
    """A long text, in a temporary file that has no name and ends with the object."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._backing = FileBacking("a temporary file", fd=file.fileno())
        self.size = self._backing.size

    def __del__(self) -> None:
        self.file.close()

    @property
    def stored(self) -> int:
        """All of it."""
        return self.size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`; raises SourceReadError."""
        self._backing.read_into(offset, view)


def document(chunks: Iterable[str], long: int = _LONG) -> tuple[VirtualFile, int]:
    """Return a file that holds a text as UTF-8, and how much memory it takes."""
    file: IO[bytes] | None = None
    held = bytearray()
    for chunk in chunks:
        held += chunk.encode()
        if len(held) > long:
            file = file or tempfile.TemporaryFile(dir=on_disk(tempfile.gettempdir(), _OTHER))  # noqa: SIM115 - it ends with what it is part of
            file.write(held)
            held.clear()
    if file is None:
        return Text(bytes(held)), len(held)
    file.write(held)
    file.flush()
    return _Spilled(file), _FILE
