"""AVML: ranges of physical memory, compressed in small chunks that are decoded when they are asked for.

The format is that of microsoft/avml, src/image.rs and src/io/snappy.rs: LiME's header with another magic and version 2;
then the range as a stream of Snappy's framing format (google/snappy, framing_format.txt), a chunk for each 64 KiB; then
how many bytes the stream has, 8 bytes, little-endian. AVML cuts ranges into blocks of 16 MiB and leaves out those that
are all zero, so that what lies outside the blocks may be memory nonetheless; from 2025-03 to 2026-03 (0.16 and 0.17) it
left out their bytes and kept the header. It takes the last address of a range in /proc/iomem for the end, so that the
last byte of each range is also left out.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import SourceReadError
from memcarve.formats.images import lime
from memcarve.formats.images.machine import CutOff, MachineMemory, addressable, bounded, column, fitted
from memcarve.formats.images.signatures import AVML as MAGIC
from memcarve.intervals import TOP, Intervals

if TYPE_CHECKING:
    from memcarve.backing import FileBacking, Span
    from memcarve.dtypes import U64

VERSION = 2
_GAPS = (
    "AVML leaves out blocks of 16 MiB that are zero, and the last byte of each range: what is outside the image may be "
    "such memory"
)
CACHE = 32 << 20  # bytes of decoded chunks that are kept

_COMPRESSED, _PLAIN = 0x00, 0x01
_SKIPPABLE = 0x80  # and above: padding, stream identifiers
_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
_CHUNK = 1 << 16  # the most that a chunk decodes to
_LONGEST = 4 + 32 + _CHUNK + _CHUNK // 6  # checksum, and the longest that Snappy makes of a chunk
_CHECKSUM = 4
_DENSEST = 22  # bytes that a byte of Snappy's can become, at the very most: a copy of 64 takes three
_LEAST = 1 << 12  # bytes that the chunks of a block decode to on average; AVML's are 16 times as large
_SPARE = 4  # chunks in a block that need not: a stream identifier holds nothing, and the last one less
_COUNT = 8
_HEAD = 4 + _CHECKSUM + 5  # a chunk's header, its checksum, and the length that compressed data begin with


class DecodingBacking:
    """The bytes that the chunks of a file decode to, one after the other.

    Chunk `n` lies at ``place[n]`` (uint64) of `file`, has ``length[n]`` bytes there with its header (uint32), and
    decodes to those from ``offset[n]`` to ``offset[n + 1]`` (uint64). Decoded chunks are kept up to `CACHE` bytes, the
    most recently used ones. Owns `file`. Safe to use from several threads.
    """

    def __init__(self, file: FileBacking, place: U64, length: array[int], offset: U64) -> None:
        self.file = file
        self.path = file.path
        self._place = place
        self._length = np.frombuffer(length, f"<u{length.itemsize}") if len(length) else np.zeros(0, np.uint32)
        self._offset = offset
        self._cache: OrderedDict[int, memoryview] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def size(self) -> int:
        """The number of bytes, decoded."""
        return int(self._offset[-1])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, or raise SourceReadError, also if a chunk is damaged."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise SourceReadError(
                f"decodes to 0x{self.size:x} bytes, not to 0x{len(buffer):x} at 0x{offset:x}", subject=self.file.path
            )
        done = 0
        index = int(np.searchsorted(self._offset, np.uint64(offset), "right")) - 1
        while done < len(buffer):
            begin, end = int(self._offset[index]), int(self._offset[index + 1])
            into = offset + done - begin
            count = min(end - begin - into, len(buffer) - done)
            target = buffer[done : done + count]
            if count == end - begin and index not in self._cache:
                self._decode(index, target)  # a whole chunk is not asked for again soon
            else:
                target[:] = self._chunk(index)[into : into + count]
            done += count
            index += 1

    def spans(self, offset: int, size: int) -> list[Span] | None:  # noqa: ARG002 - nothing lies in the file as it is
        """Return None: the bytes must be decoded."""
        return None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._cache.clear()
            self._cached = 0
        self.file.close()

    def _chunk(self, index: int) -> memoryview:
        """Return a chunk, decoded, and keep it."""
        with self._lock:
            kept = self._cache.get(index)
            if kept is not None:
                self._cache.move_to_end(index)
                return kept
        data = memoryview(bytearray(int(self._offset[index + 1] - self._offset[index])))
        self._decode(index, data)  # without the lock: that two threads decode the same chunk does no harm
        with self._lock:
            if index not in self._cache and not self._closed:
                self._cache[index] = data
                self._cached += len(data)
            while self._cached > CACHE:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def _decode(self, index: int, target: memoryview) -> None:
        """Decode a chunk into `target`, which is as long as the chunk becomes. Raises SourceReadError."""
        import cramjam  # nothing else needs it

        place = int(self._place[index])
        data = bytearray(len(_IDENTIFIER) + int(self._length[index]))
        data[: len(_IDENTIFIER)] = _IDENTIFIER  # a stream of its own, whose checksum the decoder verifies
        self.file.read_into(place, memoryview(data)[len(_IDENTIFIER) :])
        decoded = bytearray(len(target))
        try:
            count = cramjam.snappy.decompress_into(data, decoded)
        except cramjam.DecompressionError as error:
            raise SourceReadError(
                f"the chunk at offset 0x{place:x} is damaged: {error}", subject=self.file.path
            ) from error
        if count != len(target):
            raise SourceReadError(
                f"the chunk at offset 0x{place:x} is damaged: it decodes to {count} bytes, not to the {len(target)} "
                "that it begins with",
                subject=self.file.path,
            )
        target[:] = decoded


class _Chunk(NamedTuple):
    """A chunk's header: `length` in the file, header included; `size` decoded, 0 if it holds no data."""

    length: int
    size: int


class _Index:
    """What is found out about a file while its headers are read."""

    def __init__(self) -> None:
        self.start, self.size, self.offset = array("Q"), array("Q"), array("Q")  # of the ranges
        self.place, self.length, self.decoded = array("Q"), array("I"), array("Q", [0])  # of the chunks
        self.alone = array("Q"), array("Q")  # start and size of ranges that a header alone stands for
        self.whole = True  # one header leads to the next until the file ends
        self.notes: list[str] = []


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not AVML's.

    Reads the headers of all chunks, and no more. Raises InputError if the file is of another version, or its first
    header makes no sense, or it has more ranges than any machine; and SourceReadError. What makes no sense further on
    ends the file, and a note says so. Close the backing, which closes `file`.
    """
    if int.from_bytes(file.read_there(4, 4), "little") == lime.VERSION:  # not compressed
        return lime.walk(file, "AVML", MAGIC)
    if not lime.begins_with(file, "AVML", MAGIC, VERSION):
        return None
    index = _Index()
    position = 0
    while position < file.size:
        header = lime.header_at(file, position, MAGIC, VERSION)
        if header is None:
            index.notes.append(lime.broken_off(file, position))
            index.whole = False
            break
        bounded(file, len(index.start) + len(index.alone[0]) + 1, "ranges")
        size, position = min(header.size, TOP - 1), position + lime.HEADER.size
        if size and lime.header_at(file, position, MAGIC, VERSION) is not None:  # no chunk begins like that
            index.alone[0].append(header.start)
            index.alone[1].append(size)
            continue
        index.start.append(header.start)
        index.size.append(size)
        index.offset.append(index.decoded[-1])
        after = _read_block(file, position, header.size, index)
        if after is None:
            index.whole = position == file.size  # only what that header stands for was cut off
            break
        position = after
    return _machine(file, index)


def _machine(file: FileBacking, index: _Index) -> MachineMemory:
    decoded = column(index.decoded)
    backing = DecodingBacking(file, column(index.place), index.length, decoded)
    cut = CutOff()
    start, offset = column(index.start), column(index.offset)
    alone, size = Intervals(column(index.alone[0]), column(index.alone[1])), column(index.size)
    lacking = lime.left_out(np.concatenate([start, alone.start]), np.concatenate([size, alone.size]))
    size = addressable(start, size)
    # what of a range is not in its own chunks is not in the next range's either
    there = np.append(offset[1:], decoded[-1]) - offset
    short = there < size
    if short.any():
        cut.add(start[short] + there[short], size[short] - there[short])
    rows = fitted(start, np.minimum(size, there), offset, backing.size, cut)
    if not index.whole and len(alone):
        cut.add(alone.start, addressable(alone.start, alone.size))
    notes = (*index.notes, *lime.alone_notes(alone.size, zeros=index.whole), *cut.notes())
    zeros = alone if index.whole else None
    return MachineMemory(
        "AVML", backing, *rows, cut.listed(), declared=False, notes=notes, zeros=zeros, gaps=_GAPS, left_out=lacking
    )


def _read_block(file: FileBacking, begin: int, size: int, index: _Index) -> int | None:
    """Add the chunks at `begin` that decode to `size` bytes; return where the next header is, None if none is."""
    position, first, seen = begin, index.decoded[-1], 0
    while index.decoded[-1] - first < size:
        head = file.read_there(position, _HEAD)
        chunk = _parse_chunk(head, file.size - position)
        if chunk is None or position + chunk.length > file.size:
            if len(head) < min(_HEAD, file.size - position):
                index.notes.append(
                    f"the compressed data at offset 0x{position:x} cannot be read; the {file.size - position} bytes "
                    "from there on are not used"
                )
            elif chunk is not None or len(head) < _HEAD:
                index.notes.append(f"the file ends inside the compressed data at offset 0x{position:x}")
            else:
                index.notes.append(
                    f"the compressed data at offset 0x{position:x} are damaged; the {file.size - position} bytes from "
                    "there on are not used"
                )
            return None
        if (seen - _SPARE) * _LEAST > index.decoded[-1] - first:  # else an index could outgrow its file
            index.notes.append(f"the compressed data at offset 0x{position:x} are in chunks too small to be AVML's")
            return None
        seen += 1
        if chunk.size:
            index.place.append(position)
            index.length.append(chunk.length)
            index.decoded.append(index.decoded[-1] + chunk.size)
        position += chunk.length
    return _skip_count(file, begin, position, index)


def _parse_chunk(head: bytes, left: int) -> _Chunk | None:
    """Return what a chunk's beginning says; None if it is damaged, or ends too early to tell."""
    if len(head) < 4:  # noqa: PLR2004 - a chunk's header
        return None
    kind, body = head[0], int.from_bytes(head[1:4], "little")
    if kind >= _SKIPPABLE or (kind <= _PLAIN and _CHECKSUM < body <= _LONGEST and left < 4 + body):
        return _Chunk(4 + body, 0)  # what is cut off needs no size
    if kind > _PLAIN or not _CHECKSUM < body <= _LONGEST:
        return None
    data = body - _CHECKSUM
    size = data if kind == _PLAIN else _decoded_size(head[4 + _CHECKSUM : 4 + body])
    most = _CHUNK if kind == _PLAIN else min(_CHUNK, data * _DENSEST)
    return _Chunk(4 + body, size) if size <= most else None


def _decoded_size(data: bytes) -> int:
    """Return the number that compressed data begin with, seven bits a byte; too large a number if it does not end."""
    size = 0
    for index, byte in enumerate(data):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:  # noqa: PLR2004 - the last byte of the number
            return size
    return _CHUNK + 1


def _skip_count(file: FileBacking, begin: int, position: int, index: _Index) -> int:
    """Return where the next header is, given that the chunks of a block lie from `begin` to `position`."""
    data = file.read_there(position, _COUNT)
    if len(data) == _COUNT and int.from_bytes(data, "little") == position - begin:
        return position + _COUNT
    if len(data) == _COUNT and data[: len(MAGIC)] == MAGIC:  # a writer that leaves the count out
        return position
    if 0 < len(data) < _COUNT:
        index.notes.append(f"the file ends inside the count at offset 0x{position:x}; nothing of the memory is missing")
        index.whole = False
        return file.size
    if data:
        index.notes.append(f"the count at offset 0x{position:x} is not that of the compressed data before it")
    return position + len(data)
