"""How random bytes are, and whether a page is text."""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING

import numpy as np

from memcarve.intervals import PAGE

try:
    from memcarve.labels import _byte_counts
except ImportError:  # there was no compiler
    _count_windows = None
else:  # one that was compiled before it took what it is given here is not used
    _count_windows = _byte_counts.count_windows if getattr(_byte_counts, "INTERFACE", 0) == 1 else None

if TYPE_CHECKING:
    from memcarve.dtypes import F64, I64


#: whether bytes are counted by compiled code
IS_COMPILED = _count_windows is not None
#: stretches whose entropy is measured one by one, at multiples of their size
WINDOW = 1 << 16

_SHORTEST = 32  # bytes of text in a page
_FEWEST = 8  # different bytes, so that no filling is text
_SOME = 64  # bytes that mostly are enough to see that
_SEPARATORS = 8  # one character in so many may be a zero that ends a string
_PLAIN = bytes([0, *b"\t\n\v\f\r\x1b", *range(0x20, 0x7F)])
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffe\uffff]")
_CONTINUATION = bytes(range(0x80, 0xC0))
_LONGEST = 4  # bytes of a character
#: UTF-16 units of text: ASCII, Latin to Arabic, punctuation and symbols, Chinese, Japanese, Korean, surrogates of
#: emoji; not those between them, which numbers and addresses are full of
_UNITS = (
    (0x00, 0x01), (0x09, 0x0E), (0x20, 0x7F), (0xA0, 0x700), (0x2000, 0x2800), (0x3000, 0xA000), (0xAC00, 0xD7A4),
    (0xD83C, 0xD83F), (0xDC00, 0xE000), (0xFF00, 0xFFF0),
)  # fmt: skip
_SAMPLES = slice(3, None, 64)  # 32 of the 2,048 units of a page

_OF_UTF8 = np.ones(256, np.bool_)
_OF_UTF8[[byte for byte in range(0x80) if byte not in _PLAIN]] = False
_OF_UTF16 = np.zeros(1 << 16, np.bool_)
for _low, _high in _UNITS:
    _OF_UTF16[_low:_high] = True
#: units that two letters side by side make, or a letter behind a zero: these are Chinese only by accident
_LETTERS = np.zeros(1 << 16, np.bool_)
_LETTERS.reshape(256, 256)[0x20:0x7F, [0, *range(0x20, 0x7F)]] = True  # by upper and lower byte


class Entropy:
    """Adds up how often each byte occurs, in all and in windows of 64 KiB (at multiples of that address)."""

    def __init__(self) -> None:
        self._all = np.zeros(256, np.int64)
        self._window = np.zeros(256, np.int64)  # the one that is not whole
        self._peak: float | None = None
        self._windows = 0

    def add(self, view: memoryview, address: int) -> None:
        """Take the bytes at `address`, which follow those before."""
        if not len(view):
            return
        counts = window_counts(view, WINDOW - address % WINDOW)
        counts[0] += self._window
        if (address + len(view)) % WINDOW:
            self._window = counts[-1]
            counts = counts[:-1]
        else:
            self._window = np.zeros(256, np.int64)
        if len(counts):
            self._close(counts)

    def finish(self) -> tuple[float | None, float | None]:
        """Return the entropy of all and that of the window that has the most, in bits a byte; None of no bytes."""
        if self._window.any():
            self._close(self._window[None])
            self._window = np.zeros(256, np.int64)
        return self._peak if self._windows <= 1 else bits_of(self._all), self._peak

    def _close(self, counts: I64) -> None:
        """Take windows that are whole, a row each."""
        most = int((np.log2(total := counts.sum(axis=1)) - _weighted()[counts].sum(axis=1) / total).argmax())
        self._windows += len(counts)
        self._peak = max(bits_of(counts[most]), self._peak or 0.0)
        self._all += counts.sum(axis=0)


@functools.cache
def _weighted() -> F64:
    """Return n * log2(n) (float64) for each n that a window may hold of one byte."""
    numbers = np.arange(WINDOW + 1, dtype=np.float64)
    numbers[1:] *= np.log2(numbers[1:])
    return numbers


def window_counts(view: memoryview, first: int) -> I64:
    """Return how often each byte occurs in windows: a row (int64) for each.

    Of the bytes, `first` lie in the first window, which may be fewer than in the others, and the last one may be cut.
    """
    bounds = [0, *range(first, len(view), WINDOW), len(view)]
    counts = np.zeros((len(bounds) - 1, 256), np.int64)
    if _count_windows is not None:
        _count_windows(view, first, WINDOW, counts)
    else:
        for row, (begin, end) in enumerate(itertools.pairwise(bounds)):
            counts[row] = counts_of(view[begin:end])
    return counts


def counts_of(part: memoryview) -> I64:
    """Return how often each byte occurs (int64)."""
    if _count_windows is not None and len(part):
        counts = np.zeros(256, np.int64)
        _count_windows(part, len(part), len(part), counts)
        return counts
    if len(part) % PAGE:
        return np.bincount(np.frombuffer(part, np.uint8), minlength=256)
    # pages of zeros need not be counted byte by byte
    words = np.frombuffer(part, np.uint64).reshape(-1, PAGE // 8)
    used = np.bitwise_or.reduce(words, axis=1) != 0
    some = words if used.all() else words[used]
    found = np.bincount(some.reshape(-1).view(np.uint8), minlength=256)
    found[0] += len(part) - some.nbytes
    return found


def bits_of(counts: I64) -> float:
    """Return the entropy of bytes that occur so often, in bits a byte; they are at least one."""
    there = counts[counts > 0].astype(np.float64)
    whole = float(there.sum())
    return max(float(np.log2(whole) - (there * np.log2(there)).sum() / whole), 0.0)


def text_pages(view: memoryview) -> int:
    """Count the pages of text in a block of whole pages."""
    units = np.frombuffer(view, "<u2").reshape(-1, PAGE // 2)[:, _SAMPLES]
    narrow = _OF_UTF8[np.ascontiguousarray(units).view(np.uint8)].all(axis=1)
    wide = _OF_UTF16[units].all(axis=1)
    pages = np.flatnonzero((narrow | wide) & units.any(axis=1)).tolist()
    return sum(is_text(bytes(view[page * PAGE : (page + 1) * PAGE])) for page in pages)


def is_text(page: bytes) -> bool:
    """Return True if a page (or the piece of one that is there) is text.

    Zeros at its end do not count. The rest is 32 bytes or more, of at least 8 different values, and all of it text:
    UTF-8 without control characters other than white space and escape, where characters may be cut at both ends; or
    UTF-16LE of the units that text is written in (_UNITS), unless more than half of these are rather two letters. One
    character in eight may be a zero: strings lie side by side.
    """
    data = page.rstrip(b"\0")
    if len(data) < _SHORTEST or (len(set(data[:_SOME])) < _FEWEST and len(set(data)) < _FEWEST):
        return False
    return _is_utf8(data) or _is_utf16(data + b"\0" * (len(data) % 2))


def _is_utf8(data: bytes) -> bool:
    if data.count(0) * _SEPARATORS > len(data):
        return False
    rest = data.translate(None, _PLAIN)
    if not rest:
        return True
    if rest.isascii():
        return False
    start = data[: _LONGEST - 1]
    data = start.lstrip(_CONTINUATION) + data[_LONGEST - 1 :]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = data[: error.start].decode()
    return _CONTROL.search(text) is None


def _is_utf16(data: bytes) -> bool:
    units = np.frombuffer(data, "<u2")
    if not _OF_UTF16[units].all():
        return False
    zeros, letters = int((units == 0).sum()), int(_LETTERS[units].sum())
    return zeros * _SEPARATORS <= len(units) and letters * 2 <= len(units)
