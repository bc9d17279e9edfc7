"""Text files as users have them: compressed or not, UTF-8 or UTF-16, with or without a byte order mark, LF or CRLF.

Magic numbers: gzip RFC 1952 section 2.3.1, Zstandard RFC 8878 section 3.1.1, xz file format 1.2.1 section 2.1.1.1.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import sys
import zlib
from typing import TYPE_CHECKING, cast

from memcarve.backing import FileBacking
from memcarve.errors import MapError

if TYPE_CHECKING:
    import lzma
    from collections.abc import Iterator
    from typing import Any

HEAD = 1 << 20  # bytes looked at to recognise a file: progress messages can fill a few hundred thousand
BLOCK = 1 << 22
LONGEST_LINE = 1 << 20

_XZ_MEMORY = 256 << 20  # what an xz file may ask for while it is read
_PIECE = 1 << 16
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class _Raw(io.RawIOBase):
    """A file read from start to end, and hashed on the way if that is wanted."""

    def __init__(self, file: FileBacking, *, hashed: bool) -> None:
        self.file = file
        self.place = 0
        self.hash = hashlib.sha256() if hashed else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer needs 3.12
        view = memoryview(buffer).cast("B")
        count = self.file.read_some(self.place, view)
        if self.hash is not None:
            self.hash.update(view[:count])
        self.place += count
        return count


class TextFile:
    """The decompressed, decoded content of a file as UTF-8 bytes in blocks of whole lines.

    `compression` (``gzip``, ``zstd``, ``xz`` or None) and `encoding` say what was found; `head` is the beginning, up
    to HEAD bytes, decoded. Raises SourceReadError if the file cannot be read.
    """

    def __init__(self, path: str | FileBacking, *, hashed: bool = False) -> None:
        """Open the file, or take one that is open already: that stays open if this raises."""
        self.file = path if isinstance(path, FileBacking) else FileBacking(path)
        self.path = self.file.path
        try:
            self._raw = _Raw(self.file, hashed=hashed)
            start = bytearray(6)
            self.file.read_some(0, memoryview(start))
            self.compression = next((kind for magic, kind in _COMPRESSIONS.items() if start.startswith(magic)), None)
            self._stream = self._decompressed()
            raw_head = self._read(HEAD)
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
        if self._raw.hash is None:
            return None
        while self._raw.read(BLOCK):  # what follows the compressed data
            pass
        return self._raw.hash.hexdigest()

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
        try:
            return self._stream.read(size) or b""
        except MemoryError as error:
            raise MapError("its compressed data asks for too much memory", subject=self.path) from error
        except _damages() as error:
            raise MapError(
                f"the {self.compression} data is damaged or ends early ({error})",
                subject=self.path,
                remedy="decompress it to see what is left",
            ) from error

    def _decompressed(self) -> io.BufferedIOBase:
        buffered = io.BufferedReader(self._raw, _PIECE)
        if self.compression == "gzip":
            import gzip  # each is imported only for such a file

            return gzip.GzipFile(fileobj=buffered)
        if self.compression == "xz":
            return io.BufferedReader(_Xz(buffered), _PIECE)
        if self.compression == "zstd":
            return cast("io.BufferedIOBase", _zstd().ZstdFile(buffered))
        return buffered


class _Xz(io.RawIOBase):
    """An xz file read with a limit on the memory it may ask for, which ``lzma.LZMAFile`` does not have."""

    def __init__(self, file: io.BufferedReader[_Raw]) -> None:
        self.file = file
        self.streams: list[lzma.LZMADecompressor] = []

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as above
        import lzma

        view, data = memoryview(buffer).cast("B"), b""
        while True:
            stream = self.streams[-1] if self.streams else None
            if stream is None or stream.eof:  # several streams may follow each other, with zero bytes between them
                data = ((stream.unused_data if stream else b"") or self.file.read(_PIECE)).lstrip(b"\0")
                if not data:
                    if stream is None or not self.file.peek(1):
                        return 0
                    continue
                stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
                self.streams[:] = [stream]
            elif stream.needs_input:
                data = self.file.read(_PIECE)
                if not data:
                    raise EOFError("the stream has no end")
            result = stream.decompress(data, len(view))
            data = b""
            if result:
                view[: len(result)] = result
                return len(result)


def _zstd() -> Any:  # noqa: ANN401 - two modules of one interface
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _damages() -> tuple[type[Exception], ...]:
    """Return what the decompressors raise for damaged data; those that were imported."""
    found: list[type[Exception]] = [EOFError, OSError, zlib.error]
    if "lzma" in sys.modules:
        found.append(sys.modules["lzma"].LZMAError)
    if {"backports.zstd", "compression.zstd"} & sys.modules.keys():
        found.append(_zstd().ZstdError)
    return tuple(found)


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
