"""Inputs compressed as people keep them: every kind is read so."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from typing import TYPE_CHECKING, Any

import cramjam

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from fuzzing.draw import Draw

_COMPRESSIONS = (
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: lzma.compress(data, preset=0),
    lambda data: zstd.compress(data, 1),
    lambda data: bz2.compress(data, 1),
    lambda data: bytes(cramjam.lz4.compress(data)),
    lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
)


def compressed(draw: Draw, data: bytes, told: dict[str, Any]) -> bytes:
    """Return data compressed, in one part or in several; now and then damaged afterwards, or twice.

    Some kinds have no check sums: what a damaged case holds is not told.
    """
    pack, kind = draw.choice(_COMPRESSIONS), draw.random()
    at = draw.randrange(len(data) + 1) if draw.chance(0.2) else len(data)
    packed = pack(data[:at]) + (pack(data[at:]) if at < len(data) else b"")
    if kind < 0.08:
        told["held"] = None
        return draw.torn(packed)
    if kind < 0.12:
        return packed + draw.choice((b"\0" * 100, b"rubbish" * 9, packed[:20], pack(b"")))
    return pack(packed) if kind < 0.14 else packed
