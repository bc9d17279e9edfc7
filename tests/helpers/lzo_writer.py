"""A writer of LZO, with Linux's runs of zeros or without, as Documentation/staging/lzo.rst of Linux describes it.

What is written is a list of tokens: a literal byte as an int, a match as (offset, length), a run of zeros as
(0, length).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xpress_writer import Token

_LONGEST_RUN = 4 + 0x7FF
_END = bytes([17, 0, 0])
_ZEROS = re.compile(rb"\0*")


def tokens(data: bytes) -> list[Token]:
    """Return data as literals, runs of zeros, and matches: each is of the last place that had the same three bytes."""
    found: list[Token] = []
    last: dict[bytes, int] = {}
    at = 0
    while at < len(data):
        run = _ZEROS.match(data, at)
        assert run is not None
        length = run.end() - at
        if length >= 4 and at:
            found.append((0, length))
            at += length
            continue
        key = data[at : at + 3]
        before = last.get(key)
        last[key] = at
        if before is None or len(key) < 3:
            found.append(data[at])
            at += 1
            continue
        length = 3
        while at + length < len(data) and data[at + length] == data[before + length]:
            length += 1
        found.append((at - before, length))
        at += length
    return found


def block(written: Sequence[Token], *, runs: bool = True) -> bytes:
    """Return tokens as a block: of version 1 if it may have `runs` of zeros, which it may not begin with; else 0."""
    found = bytearray(b"\x11\x01" if runs else b"")
    first, place, state = True, 0, 0  # place: of the byte whose lowest bits say how many literals follow
    literals = bytearray()

    def flush() -> int:
        nonlocal first
        count = len(literals)
        if first and 0 < count <= 238:
            found.append(17 + count)
        elif not first and count < 4:
            found[place] |= count
        elif count:
            assert count > 3
            found.extend(_lengthened(0, count - 3, 15))
        found.extend(literals)
        literals.clear()
        first = False
        return min(count, 4)

    for token in written:
        if isinstance(token, int):
            literals.append(token)
            continue
        offset, length = token
        while length:
            part = min(length, _LONGEST_RUN) if not offset else length
            part -= 4 if not offset and 0 < length - part < 4 else 0  # what remains is a run as well
            length -= part
            assert literals or not first
            state = flush()
            head = _match(offset, part, state)
            place = len(found) + (len(head) - 2 if offset else 1)
            found += head
    flush()
    return bytes(found + _END)


def _lengthened(code: int, length: int, longest: int) -> bytes:
    """Return an instruction with a length, and what of it does not fit."""
    if length <= longest:
        return bytes([code | length])
    zeros = (length - longest - 1) // 255
    return bytes([code, *bytes(zeros), length - longest - 255 * zeros])


def _match(offset: int, length: int, state: int) -> bytes:
    """Return a match, in the shortest form for it, or a run of zeros; `state`: how many literals came before it."""
    away = offset - 1
    if offset == 0:
        assert 4 <= length <= _LONGEST_RUN
        return bytes([0x18 | length - 4 & 7, 0xFC, 0xFF, length - 4 >> 3])
    if length == 2:
        assert 0 < state < 4
        assert offset <= 1024
        return bytes([(away & 3) << 2, away >> 2])
    if length == 3 and state == 4 and 2049 <= offset <= 3072:
        return bytes([(away - 2048 & 3) << 2, away - 2048 >> 2])
    if length <= 8 and offset <= 2048:
        return bytes([length - 1 << 5 | (away & 7) << 2, away >> 3])
    if offset <= 16384:
        return _lengthened(0x20, length - 2, 31) + struct.pack("<H", away << 2)
    assert offset < 0xBFFF
    away = offset - 16384
    return _lengthened(0x10 | away >> 14 << 3, length - 2, 7) + struct.pack("<H", (away & 0x3FFF) << 2)
