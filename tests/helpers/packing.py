"""Compressing as users do: each kind of compression, without memcarve."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from typing import TYPE_CHECKING

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable


def _lz4(data: bytes) -> bytes:
    frame = pytest.importorskip("lz4.frame")
    packed: bytes = frame.compress(data, content_checksum=True, store_size=False)
    return packed


def _streamed(data: bytes) -> bytes:
    """Compress without saying how much it is, as systemd-coredump does."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    return bytes(compressor.compress(data) + compressor.flush())


#: by what memcarve calls it: how it is compressed
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
    "zstd": _streamed,
    "lz4": _lz4,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=1),
}
#: and the ending that such files have
ENDINGS = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst", "lz4": ".lz4", "lzma": ".lzma"}
#: a frame that Zstandard and LZ4 pass over
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (300).to_bytes(4, "little") + b"?" * 300
