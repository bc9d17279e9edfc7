"""Blocks of memory that Windows or Linux compressed: Xpress, Xpress with Huffman codes, LZ4, LZO, Zstandard; in bulk.

A block that has as many bytes as it decodes to is stored as it is. No format has a check sum: a block is right if it
decodes to exactly the bytes that it should, and if its data end there.

Xpress ([MS-XCA]), LZ4 blocks (lz4_Block_format.md, without a frame) and LZO as Linux writes it (lzo.rst) are decoded by
`_compiled.c`, if it could be built when memcarve was installed, in several threads if there is much; else Xpress and
LZO by `xpress.py` and `lzo.py`, which are slow, and LZ4 by cramjam. In what breaks LZ4's rules the compiled decoder is
the stricter one: cramjam takes matches that lead nowhere (an offset of 0), and a few blocks that end with fewer than
five literals. Zstandard's frames are decoded by cramjam.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from memcarve.formats.compressed_pages import lzo, xpress

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import I64, U8, Bools

try:
    from memcarve.formats.compressed_pages import _compiled
except ImportError:  # there was no compiler
    _compiled = None  # type: ignore[assignment]
else:
    if getattr(_compiled, "INTERFACE", 0) != 1:  # it was compiled before it took what it is given here
        _compiled = None  # type: ignore[assignment]

PAGE = 4096
#: the methods
XPRESS, XPRESS_HUFFMAN, LZ4, LZO, ZSTD = "Xpress", "Xpress Huffman", "LZ4", "LZO", "Zstandard"
#: whether blocks are decoded by compiled code
IS_COMPILED = _compiled is not None

_NUMBERS = {XPRESS: 0, XPRESS_HUFFMAN: 1, LZ4: 2, LZO: 3}
_MUCH = 1 << 20  # bytes that are worth a thread


def decode(method: str, data: U8, offset: I64, size: I64, target: U8, place: I64, length: I64) -> Bools:
    """Decode blocks, and return which of them are right; the others leave zeros.

    Columns, a row a block: `size` bytes at `offset` of `data` decode to `length` bytes, which are written at `place` of
    `target`. `data` and `target` are of one dimension and contiguous; targets do not overlap. Raises ValueError if a
    row lies outside of either. Nothing is written outside of the targets whatever the data are, and the time depends on
    the sizes of targets and data alone.
    """
    offset, size, place, length = (np.ascontiguousarray(column, np.int64) for column in (offset, size, place, length))
    _inside(offset, size, len(data))
    _inside(place, length, len(target))
    stored = size == length
    for row in np.flatnonzero(stored).tolist():
        target[place[row] : place[row] + length[row]] = data[offset[row] : offset[row] + size[row]]
    sound: Bools = stored.copy()
    rows = np.flatnonzero(~stored)
    if len(rows):
        columns = offset[rows], size[rows], place[rows], length[rows]
        sound[rows] = _decode(method, data, target, *columns)
    return sound


def _inside(begin: I64, count: I64, most: int) -> None:
    if len(begin) and (begin.min() < 0 or count.min() < 0 or (begin > most).any() or (count > most - begin).any()):
        raise ValueError("a block lies outside of the data or the target")


def decode_pages(method: str, data: U8, offset: I64, size: I64) -> tuple[U8, Bools]:
    """Decode blocks of a page of 4096 bytes each: return them (uint8, shape (blocks, 4096)), and which are right.

    `size` bytes at `offset` of `data`, an array of one dimension, are a block. Those that are wrong are zeros. Raises
    ValueError if a block lies outside of the data.
    """
    target = np.empty((len(offset), PAGE), np.uint8)  # blocks that are wrong leave zeros
    place = np.arange(len(offset), dtype=np.int64) * PAGE
    length = np.full(len(offset), PAGE, np.int64)
    return target, decode(method, data, offset, size, target.reshape(-1), place, length)


def check_pages(method: str, data: U8, offset: I64, size: I64) -> Bools:
    """Return which blocks `decode_pages` would find right, at less cost: no page is written.

    Raises ValueError if a block lies outside of the data.
    """
    if _compiled is None or method not in _NUMBERS:
        return decode_pages(method, data, offset, size)[1]
    offset, size = (np.ascontiguousarray(column, np.int64) for column in (offset, size))
    _inside(offset, size, len(data))
    sound: Bools = size == PAGE
    rows = np.flatnonzero(~sound)
    offset, size, length = offset[rows], size[rows], np.full(len(rows), PAGE, np.int64)
    found = np.zeros(len(rows), np.bool_)
    number, compiled, data = _NUMBERS[method], _compiled, np.ascontiguousarray(data)

    def part(rows: slice) -> None:
        compiled.check(number, data, offset[rows], size[rows], length[rows], found[rows])

    _in_threads(part, length)
    sound[rows] = found
    return sound


def _decode(method: str, data: U8, target: U8, offset: I64, size: I64, place: I64, length: I64) -> Bools:
    """Decode blocks that lie inside of data and target, and are compressed."""
    sound: Bools = np.zeros(len(offset), np.bool_)
    data = np.ascontiguousarray(data)
    if method not in _NUMBERS or _compiled is None:
        decode_into = _decoder(method)
        source, destination = data.data, target.data
        columns = (offset, offset + size, place, place + length)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        sound[:] = [decode_into(source[begin:end], destination[low:high]) for begin, end, low, high in rows]
        for row in np.flatnonzero(~sound).tolist():
            target[place[row] : place[row] + length[row]] = 0
        return sound
    number, compiled = _NUMBERS[method], _compiled

    def part(rows: slice) -> None:
        compiled.decode(number, data, target, offset[rows], size[rows], place[rows], length[rows], sound[rows])

    _in_threads(part, length)
    return sound


def _in_threads(part: Callable[[slice], None], length: I64) -> None:
    """Call a function for all rows, in parts for as many threads as are worth it for blocks of so many bytes."""
    threads = min(_processors(), int(length.sum()) // _MUCH)
    if threads < 2:  # noqa: PLR2004 - one thread is this one
        part(slice(0, len(length)))
        return
    from concurrent.futures import ThreadPoolExecutor  # takes long to import

    # rows may be of any size: parts have as many bytes each, as nearly as they can
    sums = np.cumsum(length)
    ends = np.searchsorted(sums, np.arange(1, threads) * int(sums[-1]) // threads)
    bounds = [0, *ends.tolist(), len(length)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(part, map(slice, bounds[:-1], bounds[1:])):
            pass


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_python(decoder: Callable[[bytes, int], bytes | None]) -> Callable[[memoryview, memoryview], bool]:
    def decode_into(data: memoryview, target: memoryview) -> bool:
        found = decoder(data.tobytes(), len(target))
        if found is not None:
            target[:] = found
        return found is not None

    return decode_into


def _decoder(method: str) -> Callable[[memoryview, memoryview], bool]:
    """Return what decodes one block, and returns whether it is right."""
    if method == LZ4:
        return _lz4()
    if method == ZSTD:
        return _zstd()
    return _in_python({XPRESS: xpress.plain, XPRESS_HUFFMAN: xpress.huffman, LZO: lzo.decoded}[method])


def _zstd() -> Callable[[memoryview, memoryview], bool]:
    import cramjam  # nothing else needs it

    def decode_into(data: memoryview, target: memoryview) -> bool:
        try:
            return cramjam.zstd.decompress_into(data, target) == len(target)
        except cramjam.DecompressionError:
            return False

    return decode_into


def _lz4() -> Callable[[memoryview, memoryview], bool]:
    import cramjam  # nothing else needs it

    def decode_into(data: memoryview, target: memoryview) -> bool:
        try:
            return cramjam.lz4.decompress_block_into(data, target, output_len=len(target)) == len(target)
        except cramjam.DecompressionError:
            return False

    return decode_into
