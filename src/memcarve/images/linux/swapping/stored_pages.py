"""Where compressed pages are stored in memory, and how they are decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.compressed_pages import LZ4, LZO, ZSTD, decode
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.images.physical import PhysicalMemory

#: how a page is stored: nothing is known of it; one word of 8 bytes, repeated; or compressed in one of these ways
UNKNOWN, REPEATED = 0, 1
METHODS = (LZO, LZ4, ZSTD)
_COMPRESSED = 2
#: what the kernel calls its algorithms (crypto/, drivers/block/zram/); LZ4HC is another encoder for the same
_NAMES = {"lzo": LZO, "lzo-rle": LZO, "lz4": LZ4, "lz4hc": LZ4, "zstd": ZSTD}


def method_of(name: bytes | None) -> int | None:
    """Return how what an algorithm compressed is stored; None if it is not known, or nothing here decodes it."""
    text = (name or b"").decode("latin-1")
    for suffix in ("-scomp", "-generic"):
        text = text.removesuffix(suffix)
    return _COMPRESSED + METHODS.index(_NAMES[text]) if text in _NAMES else None


class StoredPages(NamedTuple):
    """Pages, a row each: `how` (uint8) they are stored; the `word` (uint64) that is repeated; or `size` bytes (int64).

    These begin `away` bytes (int64) after the physical address `first`, of a page, and go on in the page at `second`;
    what does not go on has the same there.
    """

    how: U8
    word: U64
    size: I64
    away: I64
    first: U64
    second: U64

    @classmethod
    def unknown(cls, count: int) -> StoredPages:
        """Return so many pages of which nothing is known."""
        none, whole = np.zeros(count, np.uint64), np.zeros(count, np.int64)
        return cls(np.zeros(count, np.uint8), none, whole, whole.copy(), none.copy(), none.copy())

    def put(self, rows: I64 | Bools, **columns: U8 | U64 | I64 | int) -> None:
        """Write columns of some rows."""
        for name, values in columns.items():
            getattr(self, name)[rows] = values

    def rows(self, rows: I64 | Bools) -> StoredPages:
        """Return some rows."""
        how, word, size, away, first, second = self
        return StoredPages(how[rows], word[rows], size[rows], away[rows], first[rows], second[rows])


def decode_into(memory: PhysicalMemory, pages: U8, *columns: U8 | U64 | I64) -> Bools:
    """Fill pages (uint8, shape (n, 4096)) by the columns of `StoredPages`; return which are right (bool).

    What the others hold then is not said.
    """
    stored = StoredPages(*columns)  # type: ignore[arg-type]
    sound: Bools = stored.how == REPEATED
    pages[sound] = np.repeat(stored.word[sound], PAGE // 8).astype("<u8").view(np.uint8).reshape(-1, PAGE)
    for number, method in enumerate(METHODS):
        rows = np.flatnonzero(stored.how == _COMPRESSED + number)
        rows = rows[memory.holds(stored.first[rows], PAGE) & memory.holds(stored.second[rows], PAGE)]
        if len(rows):
            # both pages of what goes on lie one behind the other
            data = np.concatenate(
                [memory.pages(stored.first[rows]), memory.pages(stored.second[rows])], axis=1, dtype=np.uint64
            )
            begin = np.arange(len(rows), dtype=np.int64) * (2 * PAGE) + stored.away[rows]
            flat, target, length = data.view(np.uint8).reshape(-1), pages.reshape(-1), np.full(len(rows), PAGE)
            sound[rows] = decode(method, flat, begin, stored.size[rows], target, rows * PAGE, length)
    return sound
