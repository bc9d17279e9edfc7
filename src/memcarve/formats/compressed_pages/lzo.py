"""LZO as Linux compresses memory with it: one block at a time, in Python.

The format is described by Documentation/staging/lzo.rst of Linux. Version 1 (lzo-rle) has runs of zeros, which no
library knows; blocks of version 0 are decoded by lzallright if it is installed, which is some 100 times as fast.
There is no check sum: a block is sound if it decodes to exactly the bytes that it should, and if its data end then.
`_compiled.c` has the same rules, and is some 100 times as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

lzallright: ModuleType | None
try:
    import lzallright
except ImportError:  # there are no wheels of it for some systems
    lzallright = None

_VERSION = 17  # a first byte that says that the second is the version
_SHORTEST_VERSIONED = 5
_NEWEST = 1
_MANY = 4  # the state after four literals or more
_FAR = 16384
_END_LENGTH = 3  # the document does not say so, but no encoder writes another, and Linux and the original take none
_RUN = 0xBFFF  # the distance that means a run of zeros, in version 1


class _UnsoundError(Exception):
    """The data are not what they should be."""


def decoded(data: bytes, size: int) -> bytes | None:
    """Return the `size` bytes that LZO data of version 0 or 1 decode to; None if not to exactly these."""
    versioned = data[:1] == bytes([_VERSION]) and len(data) >= _SHORTEST_VERSIONED
    if lzallright is not None and not versioned:
        try:
            found = lzallright.LZOCompressor.decompress(data, size)
        except lzallright.LZOError:
            return None
        return bytes(found) if len(found) == size else None
    return in_python(data, size)


def in_python(data: bytes, size: int) -> bytes | None:
    """Return what `decoded` does, without a library."""
    try:
        return _Decoder(data, size).decode()
    except (IndexError, _UnsoundError):
        return None


class _Decoder:
    """What of the data is read: bytes up to `at`. `state` says how many literals came last."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size
        self.found = bytearray()
        self.at = self.state = self.version = 0

    def decode(self) -> bytes:
        data = self.data
        if data[:1] == bytes([_VERSION]) and len(data) >= _SHORTEST_VERSIONED:
            self.version, self.at = data[1], 2
            if self.version > _NEWEST:
                raise _UnsoundError
        if data[self.at] > _VERSION:  # the data begin with literals
            count = data[self.at] - _VERSION
            self.at += 1
            self._literals(count)
        while self._instruction():
            pass
        if self.at != len(data) or len(self.found) != self.size:
            raise _UnsoundError
        return bytes(self.found)

    def _instruction(self) -> bool:
        """Follow one instruction; return False at the end of the data."""
        data, code = self.data, self.data[self.at]
        self.at += 1
        if code >= 64:  # noqa: PLR2004 - these are the bits of the format
            length = 3 + (code >> 5 & 1) if code < 128 else 5 + (code >> 5 & 3)  # noqa: PLR2004
            self._match((data[self.at] << 3) + (code >> 2 & 7) + 1, length, code & 3, 1)
        elif code >= 32:  # noqa: PLR2004
            length = 2 + self._length(code & 31, 31)
            word = self._word()
            self._match((word >> 2) + 1, length, word & 3, 2)
        elif code >= 16:  # noqa: PLR2004
            return self._far(code)
        elif self.state == 0:
            self._literals(3 + self._length(code, 15))
        else:
            near = self.state < _MANY
            distance = (data[self.at] << 2) + (code >> 2) + (1 if near else 2049)
            self._match(distance, 2 if near else 3, code & 3, 1)
        return True

    def _far(self, code: int) -> bool:
        """Follow an instruction for a match far away, a run of zeros, or the end."""
        high = (code & 8) << 11
        if self.version and high and self._word() >> 2 == _RUN - _FAR - (1 << 14):
            word, length = self._word(), (self.data[self.at + 2] << 3 | code & 7) + 4
            self._write(bytes(length))
            self.at += 3
            self._literals(word & 3)
            return True
        length = 2 + self._length(code & 7, 7)
        word = self._word()
        distance = _FAR + high + (word >> 2)
        if distance == _FAR:
            if length != _END_LENGTH:
                raise _UnsoundError
            self.at += 2
            return False
        self._match(distance, length, word & 3, 2)
        return True

    def _word(self) -> int:
        """Return the two bytes that come next, without passing over them."""
        return self.data[self.at] | self.data[self.at + 1] << 8

    def _length(self, short: int, longest: int) -> int:
        """Return a length of which an instruction has the `short` form, 0 if it goes on."""
        if short:
            return short
        length = longest
        while self.data[self.at] == 0:
            length += 255
            self.at += 1
        length += self.data[self.at]
        self.at += 1
        return length

    def _match(self, distance: int, length: int, literals: int, operands: int) -> None:
        """Append what lies `distance` bytes back, which may be what is being appended; then pass over operands."""
        found = self.found
        if distance > len(found):
            raise _UnsoundError
        begin = len(found) - distance
        piece = found[begin : begin + min(distance, length)]
        self._write((piece * -(-length // len(piece)))[:length] if length <= self.size else b"", length)
        self.at += operands
        self._literals(literals)

    def _literals(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise _UnsoundError
        self._write(self.data[self.at : self.at + count])
        self.at += count
        self.state = min(count, _MANY)

    def _write(self, piece: bytes | bytearray, length: int = 0) -> None:
        if max(len(piece), length) > self.size - len(self.found):
            raise _UnsoundError
        self.found += piece
