"""Text files as users have them: compressed or not, UTF-8 or UTF-16, with or without a byte order mark, LF or CRLF."""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.errors import MapError
from memcarve.formats import compression
from memcarve.formats.compression import Decoder, RawFile, Reading
from memcarve.remote import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = 1 << 20  # bytes looked at to recognise a file: progress messages can fill a few hundred thousand
BLOCK = 1 << 22
LONGEST_LINE = 1 << 20

_PIECE = 1 << 16
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class TextFile:
    """The decompressed, decoded content of a file as UTF-8 bytes in blocks of whole lines.

    `compression` (as ``gzip``, or None) and `encoding` say what was found; `head` is the beginning, up to HEAD bytes,
    decoded; if compressed data are damaged there, `check` says so. Raises SourceReadError if the file cannot be read,
    and what `compression.Decoder` raises.
    """

    def __init__(
        self,
        path: str | FileBacking,
        *,
        hashed: bool = False,
        reading: Reading = Reading(),  # noqa: B008 - a tuple
    ) -> None:
        """Open the file, or take one that is open already: that stays open if this raises."""
        self.file = path if isinstance(path, FileBacking) else open_file(path, reading.keeping)
        self.path = self.file.path
        try:
            self._raw = RawFile(self.file, hashed=hashed)
            self._plain = io.BufferedReader(self._raw, _PIECE)
            self.compression = compression.compression_of(compression.first_bytes(self.file))
            most = reading.most(self.file.size)
            self.decoder = None if self.compression is None else Decoder(self._raw, self.compression, most)
            raw_head = self._plain.read(HEAD) if self.decoder is None else self.decoder.read(HEAD)
            self.encoding = _encoding(raw_head)
            # what cannot be decoded is carried on: it can only be in a warning or a name, never in a number
            self._decoder = codecs.getincrementaldecoder(self.encoding)("surrogatepass")
            self.head = self._decoded(raw_head.removeprefix(_mark(raw_head)))
            self._ended = len(raw_head) < HEAD
        except BaseException:
            if self.file is not path:
                self.file.close()
            raise

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file as it lies on disk, after it was read to its end."""
        return self._raw.digest()

    @property
    def is_text(self) -> bool:
        """False if the beginning holds NUL bytes, as no text does."""
        return b"\0" not in self.head[:4096]

    def blocks(self, place: int = 0, size: int = BLOCK) -> Iterator[memoryview]:
        """Yield the content from a place in `head` on, each block ending with a line (the last one perhaps not).

        Raises MapError for a line longer than LONGEST_LINE, and if compressed data is damaged.
        """
        rest = self.head[place:]
        while not self._ended:
            data = rest + self._more(size)
            cut = len(data) if self._ended else data.rfind(b"\n") + 1
            rest = data[cut:]
            if len(rest) > LONGEST_LINE:
                raise MapError(
                    f"holds a line of more than {LONGEST_LINE >> 20} MiB; a table has none as long", subject=self.path
                )
            if cut:
                yield memoryview(data)[:cut]
        if rest:
            yield memoryview(rest)

    def lines(self, place: int = 0) -> Iterator[tuple[int, bytes, bool]]:
        """Yield the lines from a place in `head` on: number, from 1, line without its end, whether it has an end."""
        number = self.head.count(b"\n", 0, place)
        for block in self.blocks(place):
            *pieces, rest = bytes(block).split(b"\n")
            for line in pieces:
                number += 1
                yield number, line, True
            if rest:
                yield number + 1, rest, False

    def chunks(self, place: int = 0) -> Iterator[bytes]:
        """Yield the content from a place in `head` on in pieces of any length, for formats that do not need lines."""
        yield self.head[place:]
        while not self._ended:
            yield self._more(BLOCK)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _more(self, size: int) -> bytes:
        data = self._read(size)
        self._ended = len(data) < size
        return self._decoded(data)

    def _decoded(self, data: bytes) -> bytes:
        if self.encoding == "utf-8":
            return data
        try:
            return self._decoder.decode(data).encode("utf-8", "surrogatepass")
        except UnicodeError as error:
            raise MapError(f"is not {self.encoding.upper()} throughout: {error}", subject=self.path) from error

    def _read(self, size: int) -> bytes:
        """Return `size` bytes as they are behind a compression, fewer only at the end."""
        if self.decoder is None:
            return self._plain.read(size)
        found = self.decoder.read(size)
        self.check()
        return found

    def check(self) -> None:
        """Raise MapError if compressed data were found to be damaged."""
        if self.decoder is not None and self.decoder.damage is not None:
            raise MapError(self.decoder.damage, subject=self.path, remedy="decompress it to see what is left")


def _mark(data: bytes) -> bytes:
    return next((mark for mark in _MARKS if data.startswith(mark)), b"")


def _encoding(data: bytes) -> str:
    """Return the encoding: what the byte order mark says, else UTF-16 if every other byte is zero, else UTF-8."""
    mark = _mark(data)
    if mark:
        return _MARKS[mark]
    sample = data[:64]
    odd, even = sample[1::2], sample[::2]
    if odd and not any(odd) and all(even):
        return "utf-16-le"
    if even and not any(even) and all(odd):
        return "utf-16-be"
    return "utf-8"
