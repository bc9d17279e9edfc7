"""Arrow's streams (and its files, which hold one), passed on only as far as what they decode to is within bounds.

A compressed buffer begins with the length that it decodes to, and a decoder takes as much memory at once. So each
message's description is read before the message is handed on: Arrow Columnar Format 1.5, "IPC Streaming Format" and
"Encapsulated message format"; the tables' fields by format/Message.fbs, their encoding by FlatBuffers' "Internals".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memcarve.errors import MapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE_MAGIC = b"ARROW1\0\0"
_CONTINUATION = b"\xff\xff\xff\xff"
_MOST_METADATA = 1 << 24  # a schema of a dozen columns takes a few thousand
_PIECE = 1 << 22
# Message, RecordBatch, DictionaryBatch: the places of their fields
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_BUFFERS, _COMPRESSION = 2, 3
_DATA = 1
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


class BoundedStream:
    """A stream of Arrow as a file that pyarrow reads; `chunks` are its bytes.

    Raises MapError if it is damaged; `refuse` is called with the bytes that one message decodes to and those of all so
    far, before any is decoded, and raises an error if they are too many.
    """

    closed = False

    def __init__(self, chunks: Iterator[bytes], path: str, refuse: Callable[[int, int], None]) -> None:
        self._chunks = chunks
        self._path = path
        self._refuse = refuse
        self._waiting = memoryview(b"")  # read, and not looked at; a stream may have very many small messages
        self._ready = bytearray()  # looked at, and not handed on
        self._passing = 0  # bytes of a body that follow, and need no look
        self._total = 0
        self._place = 0
        self._ended = False
        self._is_file = self._peek(8) == FILE_MAGIC
        if self._is_file:
            self._take(8)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes: fewer at the end alone."""
        found = bytearray()
        while len(found) < size:
            if self._ready:
                part = self._ready[: size - len(found)]
                del self._ready[: len(part)]
            elif self._passing:
                part = bytearray(self._take(min(self._passing, size - len(found), _PIECE)))
                self._passing -= len(part)
                self._passing = self._passing if part else 0
            elif self._ended or not self._message():
                break
            else:
                continue
            found += part
        self._place += len(found)
        return bytes(found)

    def tell(self) -> int:
        """Return how many bytes were handed on."""
        return self._place

    def close(self) -> None:
        """Do nothing: the file is not this one's."""

    def _message(self) -> bool:
        """Make the next message ready as far as it must be looked at; return False if there is none."""
        head = self._take(4)
        length = self._take(4) if head == _CONTINUATION else head
        self._ready += head if length is head else head + length
        size = int.from_bytes(length, "little")
        if len(length) < 4 or not size:  # noqa: PLR2004 - the end
            if self._is_file and len(length) < 4:  # noqa: PLR2004 - without the mark that a file has there
                raise MapError("is a damaged arrow file (it ends early)", subject=self._path)
            self._ended = True
            return bool(self._ready)
        if size > _MOST_METADATA:
            raise self._damaged()
        metadata = self._take(size)
        self._ready += metadata
        try:
            self._look(_Table.root(metadata))
        except (struct.error, IndexError):
            raise self._damaged() from None
        return True

    def _look(self, message: _Table) -> None:
        """Add up what the message of this description decodes to; make ready what of its body that takes."""
        kind, body = message.number(_HEADER_TYPE, "B"), message.number(_BODY_LENGTH, "q")
        if body < 0:
            raise self._damaged()
        self._passing = body
        batch = message.table(_HEADER) if kind in (_DICTIONARY_BATCH, _RECORD_BATCH) else None
        if batch is not None and kind == _DICTIONARY_BATCH:
            batch = batch.table(_DATA)
        if batch is None:
            return
        buffers = batch.pairs(_BUFFERS)
        if batch.table(_COMPRESSION) is None:
            self._count(sum(length for _, length in buffers))
            return
        data = self._take(body)
        self._ready += data
        self._passing = 0
        sizes = (int.from_bytes(data[at : at + 8], "little", signed=True) for at, length in buffers if length)
        # -1: the buffer is not compressed after all
        self._count(sum(max(size, 0) for size in sizes) + len(data))

    def _count(self, size: int) -> None:
        self._total += size
        self._refuse(size, self._total)

    def _peek(self, size: int) -> bytes:
        """Return up to `size` bytes that follow, and leave them there."""
        while len(self._waiting) < size and (chunk := next(self._chunks, b"")):
            self._waiting = memoryview(bytes(self._waiting) + chunk)
        return bytes(self._waiting[:size])

    def _take(self, size: int) -> bytes:
        """Return up to `size` bytes that follow: fewer at the end alone."""
        if size <= len(self._waiting):
            found, self._waiting = self._waiting[:size], self._waiting[size:]
            return bytes(found)
        parts, missing = [bytes(self._waiting)], size - len(self._waiting)
        self._waiting = memoryview(b"")
        for chunk in self._chunks:
            parts.append(chunk[:missing])
            if len(chunk) > missing:
                self._waiting = memoryview(chunk)[missing:]
            missing -= len(parts[-1])
            if not missing:
                break
        return b"".join(parts)

    def _damaged(self) -> MapError:
        return MapError("is a damaged arrow file (a message that describes itself wrongly)", subject=self._path)


class _Table:
    """A table of FlatBuffers at a place in some bytes. Raises struct.error or IndexError if it reaches outside."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the table that the bytes are about."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def number(self, field: int, kind: str) -> int:
        """Return a field that is a number, of the `kind` that ``struct`` has; 0 if it is left out."""
        place = self._field(field)
        return 0 if place is None else int(struct.unpack_from(f"<{kind}", self._data, place)[0])

    def table(self, field: int) -> _Table | None:
        """Return a field that is a table; None if it is left out."""
        place = self._field(field)
        return None if place is None else _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Return a field that is a vector of two 64-bit numbers each; none if it is left out."""
        place = self._field(field)
        if place is None:
            return []
        place += struct.unpack_from("<I", self._data, place)[0]
        (count,) = struct.unpack_from("<I", self._data, place)
        found = self._data[place + 4 : place + 4 + 16 * count]
        if len(found) < 16 * count:
            raise IndexError
        return list(struct.iter_unpack("<qq", found))

    def _field(self, number: int) -> int | None:
        """Return where a field is; None if it is left out."""
        (back,) = struct.unpack_from("<i", self._data, self._place)
        fields = self._place - back
        if fields < 0:
            raise IndexError
        (size,) = struct.unpack_from("<H", self._data, fields)
        if 4 + 2 * number + 2 > size:
            return None
        (offset,) = struct.unpack_from("<H", self._data, fields + 4 + 2 * number)
        return self._place + offset if offset else None
