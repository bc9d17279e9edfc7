"""Writers of Xpress: plain LZ77, and with Huffman codes, as [MS-XCA] 2.1 and 2.3 describe them; nothing of memcarve.

What is written is a list of tokens: a literal byte as an int, a match as (offset, length). `tokens` makes one of data
with few matches but long ones, quickly; a test that wants others says which.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Token = int | tuple[int, int]

BLOCK = 1 << 16
END = 256


def tokens(data: bytes, farthest: int = 8192) -> list[Token]:
    """Return data as literals and matches: each is of the last place that had the same four bytes."""
    found: list[Token] = []
    last: dict[bytes, int] = {}
    at = 0
    while at < len(data):
        key = data[at : at + 4]
        before = last.get(key, -1)
        last[key] = at
        if len(key) < 4 or before < 0 or at - before > farthest:
            found.append(data[at])
            at += 1
            continue
        length, step = 4, 1 << 12
        while step:  # as long as a stretch is the same, compared in ever smaller steps
            while data[at + length : at + length + step] == data[before + length : before + length + step] != b"":
                taken = min(step, len(data) - at - length)
                if taken == 0:
                    break
                length += taken
            step >>= 1
        found.append((at - before, length))
        at += length
    return found


def expand(written: Sequence[Token]) -> bytes:
    """Return what tokens mean, byte by byte."""
    found = bytearray()
    for token in written:
        if isinstance(token, int):
            found.append(token)
            continue
        offset, length = token
        if not offset:  # zeros, which LZO has
            found += bytes(length)
            continue
        assert offset <= len(found)
        for _ in range(length):
            found.append(found[-offset])
    return bytes(found)


def plain(written: Sequence[Token]) -> bytes:
    """Return tokens as plain LZ77."""
    found = bytearray(4)
    flags, count, flags_at, half = 0, 0, 0, 0
    for token in written:
        flags = flags << 1 | (not isinstance(token, int))
        if isinstance(token, int):
            found.append(token)
        else:
            offset, length = token[0] - 1, token[1] - 3
            assert 0 <= offset < 8192
            assert length >= 0
            found += struct.pack("<H", offset << 3 | min(length, 7))
            if length >= 7:
                nibble = min(length - 7, 15)
                if half:
                    found[half] |= nibble << 4
                    half = 0
                else:
                    half = len(found)
                    found.append(nibble)
                if nibble == 15:
                    found += _long(length, length - 22)
        count += 1
        if count == 32:
            found[flags_at : flags_at + 4] = struct.pack("<I", flags)
            flags, count, flags_at = 0, 0, len(found)
            found += bytes(4)
    found[flags_at : flags_at + 4] = struct.pack("<I", flags << 32 - count | (1 << 32 - count) - 1)
    return bytes(found)


def _long(length: int, rest: int) -> bytes:
    """Return what follows a length that does not fit: a byte, or all of the length in two bytes or four."""
    if rest < 255:
        return bytes([rest])
    return b"\xff" + (struct.pack("<H", length) if length < 1 << 16 else struct.pack("<HI", 0, length))


def huffman(written: Sequence[Token], *, end: bool = True) -> bytes:
    """Return tokens as LZ77 with Huffman codes; `end`: with the symbol that says that this is the end."""
    found = b""
    blocks = [*_blocks(written)]
    for number, block in enumerate(blocks):
        found += _huffman_block(block, end=end and number == len(blocks) - 1)
    return found


def _blocks(written: Sequence[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each block: it ends behind the token that reaches 64 KiB."""
    block: list[Token] = []
    size = 0
    for token in written:
        block.append(token)
        size += 1 if isinstance(token, int) else token[1]
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block or not written:
        yield block


def symbol(token: Token) -> int:
    """Return the symbol that a token is written with."""
    if isinstance(token, int):
        return token
    return 256 + min(token[1] - 3, 15) + 16 * (token[0].bit_length() - 1)


def code_lengths(counts: Counter[int]) -> dict[int, int]:
    """Return how long each symbol's code is: Huffman's, of flattened counts if one has over 15 bits."""
    while len(counts) < 2:  # a code must have two symbols
        counts[min({*range(2)} - {*counts})] = 1
    while True:
        heap = [(count, number, (one,)) for number, (one, count) in enumerate(sorted(counts.items()))]
        lengths = dict.fromkeys(counts, 0)
        heapq.heapify(heap)
        number = len(heap)
        while len(heap) > 1:
            (few, _, some), (more, _, others) = heapq.heappop(heap), heapq.heappop(heap)
            for one in some + others:
                lengths[one] += 1
            number += 1
            heapq.heappush(heap, (few + more, number, some + others))
        if max(lengths.values()) <= 15:
            return lengths
        counts = Counter({one: count // 2 + 1 for one, count in counts.items()})


def _huffman_block(written: Sequence[Token], *, end: bool) -> bytes:
    counts = Counter(map(symbol, written))
    if end:
        counts[END] += 1
    lengths = code_lengths(counts)
    codes, code, before = {}, 0, 0
    for length, one in sorted((length, one) for one, length in lengths.items()):
        code <<= length - before
        codes[one] = code, length
        code, before = code + 1, length
    table = bytearray(256)
    for one, length in lengths.items():
        table[one // 2] |= length << one % 2 * 4
    bits = _Bits()
    for token in written:
        bits.write(*codes[symbol(token)])
        if not isinstance(token, int):
            offset, length = token[0], token[1] - 3
            assert 0 < offset < BLOCK
            if length >= 15:
                bits.found += _long(length, length - 15)
            width = offset.bit_length() - 1
            bits.write(offset - (1 << width), width)
    if end:
        bits.write(*codes[END])
    return bytes(table) + bits.flush()


class _Bits:
    """Words of 16 bits, two of which always have their places before the bytes that stand between them are written."""

    def __init__(self) -> None:
        self.found = bytearray(4)
        self.first, self.second = 0, 2
        self.free, self.word = 16, 0

    def write(self, value: int, width: int) -> None:
        """Write the `width` low bits of a value."""
        if self.free >= width:
            self.free -= width
            self.word = self.word << width | value
            return
        self.word = self.word << self.free | value >> (width - self.free)
        self._put(self.first, self.word)
        self.first, self.second = self.second, len(self.found)
        self.found += bytes(2)
        self.free += 16 - width
        self.word = value & (1 << 16 - self.free) - 1

    def flush(self) -> bytes:
        """Return what was written."""
        self._put(self.first, self.word << self.free)
        self._put(self.second, 0)
        return bytes(self.found)

    def _put(self, at: int, word: int) -> None:
        self.found[at : at + 2] = struct.pack("<H", word & 0xFFFF)
