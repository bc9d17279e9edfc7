"""Xpress as Windows compresses memory with it: one block at a time, in Python.

The format is [MS-XCA] (v20240423): plain LZ77 in section 2.4.4, LZ77 with Huffman codes in 2.2.4. There is no check
sum: a block is sound if it decodes to exactly the bytes that it should, and if its data end with them. `_compiled.c`
has the same rules, and is some 100 times as fast.
"""

from __future__ import annotations

_TABLE, _SYMBOLS, _LONGEST = 256, 512, 15
_END = 256  # the symbol that ends the data, if they are all read; else it is a match like others
_BLOCK = 1 << 16  # bytes that share a table of codes
_NIBBLE, _BYTE = 15, 255  # these say that a length goes on
_LEAST_LENGTH = 15 + 7  # of plain LZ77, written in full


class _UnsoundError(Exception):
    """The data are not what they should be."""


def plain(data: bytes, size: int) -> bytes | None:
    """Return the `size` bytes that plain LZ77 data decode to; None if they do not decode to exactly these."""
    try:
        return _plain(data, size)
    except (IndexError, _UnsoundError):
        return None


def huffman(data: bytes, size: int) -> bytes | None:
    """Return the `size` bytes that LZ77 data with Huffman codes decode to; None if not to exactly these."""
    try:
        return _Huffman(data, size).decode()
    except (IndexError, _UnsoundError):
        return None


def _number(data: bytes, at: int, size: int) -> int:
    """Return a number of `size` bytes; raises _UnsoundError if the data end before it does."""
    if at + size > len(data):
        raise _UnsoundError
    return int.from_bytes(data[at : at + size], "little")


def _long_length(data: bytes, at: int, least: int) -> tuple[int, int]:
    """Return a length that is written in full, in two bytes or in four behind two zeros, and where it ends."""
    length, at = _number(data, at, 2), at + 2
    if length == 0:
        length, at = _number(data, at, 4), at + 4
    if length < least:
        raise _UnsoundError
    return length, at


def _copy(found: bytearray, offset: int, length: int, size: int) -> None:
    """Append what lies `offset` bytes back, which may be what is being appended."""
    if offset > len(found) or length > size - len(found):
        raise _UnsoundError
    begin = len(found) - offset
    piece = found[begin : begin + min(offset, length)]
    found += (piece * -(-length // len(piece)))[:length]


def _plain(data: bytes, size: int) -> bytes:
    found = bytearray()
    at = flags = count = half = 0  # half: where a byte's high half is still to be used
    while len(found) < size:
        if count == 0:
            flags, at, count = _number(data, at, 4), at + 4, 32
        count -= 1
        if not flags >> count & 1:
            found.append(data[at])
            at += 1
            continue
        match, at = _number(data, at, 2), at + 2
        length = match & 7
        if length == 7:  # noqa: PLR2004 - the greatest: it goes on
            if half:
                length, half = data[half] >> 4, 0
            else:
                length, half, at = data[at] & 15, at, at + 1
            if length == _NIBBLE:
                length, at = data[at], at + 1
                if length == _BYTE:
                    length, at = _long_length(data, at, _LEAST_LENGTH)
                    length -= _LEAST_LENGTH
                length += _NIBBLE
            length += 7
        _copy(found, (match >> 3) + 1, length + 3, size)
    # an encoder may begin another word of flags, the first of which says that this is the end
    if at != len(data) and (count or len(data) - at != 4 or not data[at + 3] >> 7):  # noqa: PLR2004 - bytes of a word
        raise _UnsoundError
    return bytes(found)


class _Huffman:
    """What of the data is read: bytes up to `at`, the last 16 and `spare` bits of which are still in `bits`."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size
        self.found = bytearray()
        self.at = self.bits = self.spare = 0

    def decode(self) -> bytes:
        while len(self.data) - self.at >= _TABLE:
            lengths = self.data[self.at : self.at + _TABLE]
            self.at += _TABLE
            if self._block([*_symbols(lengths)], has_end=lengths[_END // 2] & 15 > 0):
                break
        if len(self.found) != self.size:
            raise _UnsoundError
        return bytes(self.found)

    def _take(self, count: int) -> None:
        """Pass over `count` bits; two bytes more are read if fewer than 16 are left."""
        self.bits = self.bits << count & 0xFFFFFFFF
        self.spare -= count
        if self.spare < 0:
            self.bits |= _number(self.data, self.at, 2) << -self.spare
            self.at += 2
            self.spare += 16

    def _block(self, table: list[tuple[int, int]], *, has_end: bool) -> bool:
        """Decode what one table is for; return True if the data end there."""
        found = self.found
        self.bits = _number(self.data, self.at, 2) << 16 | _number(self.data, self.at + 2, 2)
        self.at += 4
        self.spare = 16
        end = len(found) + _BLOCK
        while len(found) < end:
            symbol, width = table[self.bits >> (32 - _LONGEST)]
            if len(found) == self.size:
                if has_end:  # else the encoder has no code for the end, and none is to be written
                    if symbol != _END:
                        raise _UnsoundError
                    self._take(width)
                if self.at != len(self.data):
                    raise _UnsoundError
                return True
            self._take(width)
            if symbol < _END:
                found.append(symbol)
            else:
                self._match(symbol - _END)
        return False

    def _match(self, symbol: int) -> None:
        width, length = divmod(symbol, 16)
        if length == _NIBBLE:
            length = self.data[self.at]
            self.at += 1
            if length == _BYTE:
                length, self.at = _long_length(self.data, self.at, _NIBBLE)
                length -= _NIBBLE
            length += _NIBBLE
        offset = (1 << width) + (self.bits >> (32 - width))
        self._take(width)
        _copy(self.found, offset, length + 3, self.size)


def _symbols(lengths: bytes) -> list[tuple[int, int]]:
    """Return the symbol and the length of its code that each 15 bits begin with."""
    widths = [width for byte in lengths for width in (byte & 15, byte >> 4)]
    coded = sorted((width, symbol) for symbol, width in enumerate(widths) if width)
    if sum(1 << (_LONGEST - width) for width, _ in coded) != 1 << _LONGEST:
        raise _UnsoundError
    return [entry for width, symbol in coded for entry in [(symbol, width)] * (1 << (_LONGEST - width))]
