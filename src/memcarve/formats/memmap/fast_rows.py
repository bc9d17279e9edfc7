"""The fast way through a text map of millions of rows: hexadecimal cells as columns of numbers, many rows at a time.

A block of text in which every line has the same number of delimited cells is read without looking at single rows:
the separators' places give each cell's end and length; the eight bytes that end a cell are taken as one 64-bit word
and folded from ASCII to a number inside the word. Anything that is not perfectly regular is left to the caller's slow,
careful reader: it is never guessed.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.formats.memmap.map_columns import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.dtypes import I64, U64
    from memcarve.formats.memmap.map_columns import MapColumns
    from memcarve.formats.tables.text_file import TextFile
    from memcarve.formats.tables.text_header import Header


_BLOCK = 1 << 20  # bytes of text that one thread parses at a time
_SMALL = 1 << 15
_PAD = b"\xff" * 32  # before the first row, so that the words that end its first cell exist; no separator
_NEWLINE = 10
_MOST_TEXTS = 16  # different text cells that a block may hold
_SHORTEST, _LONGEST = 3, 18  # "0x0" and "0x" with sixteen digits


def _every(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)


def _masks(choose: Callable[[int], bytes]) -> tuple[U64, ...]:
    """Return what `choose` gives for cells of 0 to 18 characters, as three words: the last eight bytes come first."""
    texts = [choose(n).rjust(24, b"\0") for n in range(_LONGEST + 1)]
    words = np.frombuffer(b"".join(texts), "<u8").reshape(-1, 3)
    return tuple(words[:, place].copy() for place in (2, 1, 0))


# Of the words that end a cell of n characters: its bytes; its prefix; what turns the prefix, and the zeros before it,
# into digits of 0; and the bits that neither the value of a digit nor such a 0 has.
_CELL = _masks(lambda n: b"\xff" * n)
_PREFIX = _masks(lambda n: b"0x" + bytes(max(n - 2, 0)))
_TO_ZEROS = _masks(lambda n: b"0" * (24 - n) + (b"\0H" + bytes(n))[:n])
_NO_VALUE = _masks(lambda n: b"\xff" * (24 - max(n - 2, 0)) + b"\xf0" * max(n - 2, 0))


def blocks(text: TextFile, header: Header, columns: MapColumns) -> Iterator[tuple[memoryview, Rows | None]]:
    """Yield the blocks of lines after a header, and their rows; None for a small block that must be read line by line.

    Lines end in LF alone. Rows are numbered from 0 in each block, as its lines are: an empty one can only be the last.
    """
    layout = _layout(header, columns)

    def parse(block: memoryview) -> Rows | None:
        return None if layout is None else _regular_rows(block, layout, columns)

    for block, rows in _in_parallel(_whole_lines(text, header.place), parse):
        if rows is not None or len(block) <= _SMALL:
            yield block, rows
            continue
        data, place = bytes(block), 0
        while place < len(data):
            end = data.find(b"\n", place + _SMALL) + 1 or len(data)
            yield block[place:end], parse(block[place:end])
            place = end


def _whole_lines(text: TextFile, place: int) -> Iterator[memoryview]:
    """Yield blocks of whole lines from `place` on, LF only; an unfinished last line is a block of its own."""
    crlf = b"\r\n" in text.head
    for block in text.blocks(place, _BLOCK):
        if crlf:
            block = memoryview(bytes(block).replace(b"\r\n", b"\n"))  # noqa: PLW2901 - the same block
        cut = len(block) if block[-1] == _NEWLINE else bytes(block).rfind(b"\n") + 1
        for part in (block[:cut], block[cut:]):
            if part:
                yield part


class _Layout(NamedTuple):
    """How the rows of a text table are laid out.

    `delimiter` separates `cells` cells; `numeric` are the places of the hexadecimal cells wanted and `text` that of
    the cell wanted as text, if any; `padding` is a character that may surround a cell: a space, or none.
    """

    delimiter: bytes
    cells: int
    numeric: Sequence[int]
    text: int | None
    padding: bytes


def _layout(header: Header, columns: MapColumns) -> _Layout | None:
    """Return how the rows below a header are laid out, None if only the careful reader can tell."""
    if not header.delimiter or "Process" in header.columns:
        return None
    padding = header.padding if header.padding == b" " else b""  # quoted cells are for the careful reader
    return _Layout(header.delimiter, len(header.columns), columns.numeric, columns.file, padding)


def _regular_rows(block: memoryview, layout: _Layout, columns: MapColumns) -> Rows | None:
    """Return the rows of a block whose lines all have this layout, None if a line is irregular.

    A text cell without a code is irregular, and so is a block with many different ones.
    """
    if block[-1] != _NEWLINE:
        return None
    if bytes(block[-2:]) == b"\n\n":  # csv ends with an empty line
        block = block[:-1]
    data = _PAD + (block if not layout.padding else _bare(block, layout) or b"")
    if b"\r" in data or b'"' in data:  # these mean something to a line's reader
        return None
    places = _separators(data, layout)
    if places is None:
        return None
    found = []
    for cell in layout.numeric:
        column = _numbers(data, *_cell(places, cell))
        if column is None:
            return None
        found.append(column)
    codes = None
    if layout.text is not None:
        codes = _texts(data, *_cell(places, layout.text), columns.intern)
        if codes is None:
            return None
    return Rows(found[0], found[1], found[2] if columns.has_printed else None, codes, np.arange(len(found[0])), ())


def _bare(block: memoryview, layout: _Layout) -> bytes | None:
    """Return the block without the padding around its cells; None if it also stands within one."""
    raw = np.frombuffer(block, np.uint8)
    padding = raw == layout.padding[0]
    edge = (raw == layout.delimiter[0]) | (raw == _NEWLINE)
    if (padding[1:-1] & ~(padding | edge)[:-2] & ~edge[2:]).any():
        return None
    return bytes(block).translate(None, layout.padding)


def _separators(data: bytes, layout: _Layout) -> I64 | None:
    """Return where each cell ends, shape (cells + 1, rows): row 0 is where the line before ended."""
    raw = np.frombuffer(data, np.uint8)
    if len(raw) == len(_PAD) or raw[-1] != _NEWLINE:
        return None
    delimiter = layout.delimiter[0]
    # one comparison finds both a tab and a newline, and whatever else is below them, which is refused below
    flat = np.flatnonzero(raw <= _NEWLINE if delimiter == ord("\t") else (raw == _NEWLINE) | (raw == delimiter))
    rows, rest = divmod(len(flat), layout.cells)
    if rest or raw[flat].tobytes() != (layout.delimiter * (layout.cells - 1) + b"\n") * rows:
        return None
    places = np.empty((layout.cells + 1, rows), np.int64)
    places[1:] = flat.reshape(rows, layout.cells).T
    places[0, 0] = len(_PAD) - 1
    places[0, 1:] = places[-1, :-1]
    return places


def _cell(places: I64, cell: int) -> tuple[I64, I64]:
    """Return where a cell ends in each row, and how long it is."""
    return places[cell + 1], places[cell + 1] - places[cell] - 1


def _words(data: bytes, ends: I64) -> U64:
    """Return the eight bytes before each place as little-endian words."""
    every = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    words: U64 = every[ends - 8]
    return words


def _pairs(data: bytes, ends: I64) -> tuple[U64, U64]:
    """Return the eight bytes before each place, and the eight before those; fetching both at once is cheaper."""
    every = np.ndarray((len(data) - 15,), "V16", data, strides=(1,))
    both = every[ends - 16].view("<u8")
    return both[1::2], both[::2]


def _numbers(data: bytes, ends: I64, lengths: I64) -> U64 | None:  # noqa: PLR0911 - each cut saves time
    """Return the numbers in the cells that end at `ends`; None unless each is ``0x`` and one to sixteen digits."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < _SHORTEST or longest > _LONGEST:
        return None
    kinds = shortest if shortest == longest else lengths  # one mask for all rows, or one for each
    if longest <= 8:  # noqa: PLR2004 - the characters in a word
        return _folded(_words(data, ends), kinds, 0)
    ending, before = _pairs(data, ends)
    low = _folded(ending, None if shortest >= 10 else kinds, 0)  # noqa: PLR2004 - eight digits behind the prefix
    if low is None:
        return None
    if longest <= 10:  # noqa: PLR2004 - nothing but the prefix before the last eight characters
        return low if _is_prefix(before, kinds, 1) else None
    if longest > 16 and not _is_prefix(_words(data, ends - 16), kinds, 2):  # noqa: PLR2004 - and before the last 16
        return None
    if shortest == longest and (before == before[0]).all():  # in memory near by, they mostly are
        before = before[:1]
    high = _folded(before, None if shortest == _LONGEST else kinds, 1)
    if high is None:
        return None
    high <<= np.uint64(32)
    low |= high
    return low


def _is_prefix(words: U64, kinds: int | I64, place: int) -> bool:
    """Return True if what belongs to the cells in these words is the prefix and nothing else."""
    return not ((words ^ _PREFIX[place][kinds]) & _CELL[place][kinds]).any()


def _folded(words: U64, kinds: int | I64 | None, half: int) -> U64 | None:
    """Return the number that the digits in each word spell; None if the word is not as it should be.

    `kinds` are the cells' lengths, None if all eight bytes of all words are digits; `half` is 0 for the words that end
    the cells and 1 for those before. The value of a digit is what it is above "0", less the 39 between "9" and "a" if
    it is a letter, which bit 6 tells. If there was no digit, the value has more than four bits, or it is not ten or
    more for what should be a letter. In the first byte that is wrong this is so whatever is borrowed or carried, since
    nothing comes from the bytes before.
    """
    if kinds is not None:
        words = words & _CELL[half][kinds]
        words ^= _TO_ZEROS[half][kinds]
    letters = words >> np.uint64(6)
    letters &= _every(0x01)
    other = letters * np.uint64(39)
    values = words - _every(ord("0"))
    values -= other
    letters <<= np.uint64(4)
    np.add(values, _every(0x06), out=other)  # sets bit 4 from ten on
    other ^= letters
    other &= _every(0xF0)
    np.bitwise_and(values, _every(0xF0) if kinds is None else _NO_VALUE[half][kinds], out=letters)
    other |= letters
    if other.any():
        return None
    # join neighbours: two digits to a byte, two bytes to sixteen bits, two of those to the half of a number
    for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
        values *= np.uint64(1 + (1 << (3 * bits // 2)))
        values >>= np.uint64(bits)
        values &= np.uint64(mask)
    return values


def _texts(data: bytes, ends: I64, lengths: I64, intern: Callable[[bytes], int | None]) -> I64 | None:
    """Return for each row the code of the text in its cell; None if one has none, or there are too many."""
    codes = np.empty(len(ends), np.int64)
    rest = None  # the rows whose text is not known yet: all
    for _ in range(_MOST_TEXTS):
        end, length = int(ends[0]), int(lengths[0])
        text = data[end - length : end]
        same = lengths == length
        for back in range(0, length, 16):  # two words at a time from its end
            for words, left in zip(_pairs(data, ends - back), (length - back, length - back - 8), strict=True):
                keep = _CELL[0][min(max(left, 0), 8)]
                same &= (words & keep) == (words[0] & keep)
        code = intern(text)
        if code is None:
            return None
        if same.all():
            codes[slice(None) if rest is None else rest] = code
            return codes
        rest = np.arange(len(codes)) if rest is None else rest
        codes[rest[same]] = code
        rest, ends, lengths = rest[~same], ends[~same], lengths[~same]
    return None


def _in_parallel(
    blocks: Iterable[memoryview], parse: Callable[[memoryview], Rows | None]
) -> Iterator[tuple[memoryview, Rows | None]]:
    """Yield each block and what `parse` makes of it, in order, several at a time: numpy lets go of the interpreter."""
    threads = min(os.cpu_count() or 1, 4)
    iterator = iter(blocks)
    start = list(islice(iterator, 2))
    if len(start) < 2 or threads == 1:  # noqa: PLR2004 - starting threads costs more than a small map takes
        for group in (start, iterator):
            for block in group:
                yield block, parse(block)
        return
    from concurrent.futures import ThreadPoolExecutor  # not needed for a small map

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque((block, pool.submit(parse, block)) for block in start)
        try:
            for block in iterator:
                waiting.append((block, pool.submit(parse, block)))
                if len(waiting) > threads + 1:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
