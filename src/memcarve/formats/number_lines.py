"""Lines that begin with a number: plain lists, and what ``strings -t x``, ``grep -abo`` and their like print.

A line is a number, perhaps with blanks before it, and then nothing, or a blank or a colon and any text. Most lines are
read as arrays, many at once; those that differ in any way one by one. Lines come from hostile files: one that is longer
than a block is cut, and what a text holds does not matter.
"""

from __future__ import annotations

import codecs
import re
import select
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from memcarve.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U64

LONGEST = 1 << 16  # bytes of a line that are kept
_BLOCK = 1 << 20
_PIECE = 1 << 16
_BLANK, _TAB, _COLON, _CR, _LF, _ZERO, _X = b" \t:\r\n0x"
_DIGITS = {10: 19, 16: 16}  # so many fit into 64 bits whatever they are
_LINE = re.compile(rb"[ \t]*(0[xX])?([0-9a-fA-F]+)(?:[ \t:](.*))?", re.DOTALL)
_SHOWN = 40

#: the value of each byte as a digit, 255 if it is none
_VALUE = np.full(256, 255, np.uint8)
for _digit, _byte in enumerate(b"0123456789abcdef"):
    _VALUE[_byte] = _digit
_VALUE[list(b"ABCDEF")] = range(10, 16)


class Source(Protocol):
    """What is read: a file opened for reading bytes."""

    def read1(self, size: int, /) -> bytes:
        """Return up to so many bytes, at least one unless it ends."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Lines(NamedTuple):
    """Some lines: `number` (uint64), and where in `data` the text of each begins and ends (int64)."""

    number: U64
    data: bytes
    begin: I64
    end: I64

    def texts(self) -> list[str]:
        """Return the text behind each number; bytes that are not UTF-8 become halves of characters."""
        data = self.data
        pairs = zip(self.begin.tolist(), self.end.tolist(), strict=True)
        return [data[begin:end].decode("utf-8", "surrogateescape") for begin, end in pairs]

    @property
    def has_texts(self) -> bool:
        """Whether there is any text."""
        return bool((self.end > self.begin).any())


class NumberLines:
    """The lines of a file called `name` in messages.

    `radix` is 10 or 16, for numbers without ``0x``; None: there may be none. Iterating yields them in `Lines` as they
    come, empty lines left out. Raises InputError for a line that does not begin with a number of 64 bits, OSError if
    reading fails. `cut` counts the lines that were longer than `LONGEST` bytes: the rest of them was left out.
    """

    def __init__(self, file: Source, name: str, radix: int | None = None) -> None:
        self._file = file
        self._name = name
        self._radix = radix
        self._line = 0  # lines before the block
        self.cut = 0

    def __iter__(self) -> Iterator[Lines]:
        rest = b""
        while data := self._more():
            block = rest + data
            if not self._line:
                block = block.removeprefix(codecs.BOM_UTF8)
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield from self._parsed(block[:end])
            if len(rest) > _BLOCK:
                rest = rest[: LONGEST + 1] + self._passed_over()
        if rest:
            yield from self._parsed(rest + b"\n")

    def _more(self) -> bytes:
        """Return what is there by now, up to a block; empty at the end."""
        data = self._file.read1(_PIECE)
        pieces, size = [data], len(data)
        while data and size < _BLOCK and self._is_ready():
            data = self._file.read1(_PIECE)
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)

    def _is_ready(self) -> bool:
        """Return True if reading need not wait for whoever writes."""
        if not hasattr(select, "poll"):  # Windows
            return True
        try:
            waiting = select.poll()  # which watches descriptors beyond 1024 as well, unlike select
            waiting.register(self._file, select.POLLIN)
            return bool(waiting.poll(0))
        except (OSError, ValueError):  # there is no descriptor: nobody writes
            return True

    def _passed_over(self) -> bytes:
        """Read on to the end of a line that is too long; return that end and what follows it."""
        while data := self._file.read1(_PIECE):
            at = data.find(b"\n")
            if at >= 0:
                return data[at:]
        return b""

    def _parsed(self, block: bytes) -> Iterator[Lines]:
        """Yield the lines of a block that ends with a line."""
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == _LF)
        begins = np.append(0, ends[:-1] + 1)
        stops = ends - ((ends > begins) & (data[np.maximum(ends - 1, 0)] == _CR))
        long = stops - begins > LONGEST
        self.cut += int(np.count_nonzero(long))
        stops[long] = begins[long] + LONGEST
        number, text, odd = self._numbers(data, begins, stops)
        empty = []
        for row in np.flatnonzero(odd).tolist():
            line = block[begins[row] : stops[row]]
            if not line.strip():
                empty.append(row)
                continue
            number[row], at = self._one(line, self._line + row + 1)
            text[row] = begins[row] + at
        self._line += len(ends)
        keep = np.ones(len(ends), np.bool_)
        keep[empty] = False
        if keep.any():
            yield Lines(number[keep], block, text[keep], stops[keep])

    def _numbers(self, data: np.ndarray, begins: I64, stops: I64) -> tuple[U64, I64, np.ndarray]:
        """Return each line's number, where its text begins, and whether it must be looked at by itself (bool)."""
        place = begins.copy()
        for _ in range(_DIGITS[10]):
            blank = (data[place] == _BLANK) | (data[place] == _TAB)  # a block ends with a line, so place is in it
            if not blank.any():
                break
            place += blank
        prefixed = (data[place] == _ZERO) & ((data[np.minimum(place + 1, len(data) - 1)] | 0x20) == _X)
        place += 2 * prefixed
        base = np.where(prefixed, 16, self._radix or 0).astype(np.uint64)
        number, count = np.zeros(len(place), np.uint64), np.zeros(len(place), np.int64)
        alive = base > 0
        for _ in range(_DIGITS[10]):
            digit = _VALUE[data[np.minimum(place, len(data) - 1)]].astype(np.uint64)
            alive &= (digit < base) & (place < stops)
            if not alive.any():
                break
            number[alive] = number[alive] * base[alive] + digit[alive]
            place += alive
            count += alive
        ended = place >= stops
        behind = data[np.minimum(place, len(data) - 1)]
        followed = (behind == _BLANK) | (behind == _TAB) | (behind == _COLON)
        most = np.where(base == 16, _DIGITS[16], _DIGITS[10])  # noqa: PLR2004
        odd = (count == 0) | (count > most) | alive | ~(ended | followed)
        return number, np.minimum(place + ~ended, stops), odd

    def _one(self, line: bytes, number: int) -> tuple[int, int]:
        """Return the number that a line begins with, and where in it the text begins."""
        found = _LINE.fullmatch(line)
        if found is None:
            raise self._error(line, number, "does not begin with a number")
        radix = 16 if found[1] else self._radix
        if radix is None:
            raise self._error(
                line, number, "may be decimal or hexadecimal", "say which with {radix:x} or {radix:d}, or write 0x"
            )
        digits = found[2].lstrip(b"0") or b"0"
        try:
            value = int(digits[: _DIGITS[10] + 2], radix)  # of more digits than that, no number has 64 bits
        except ValueError:
            raise self._error(line, number, "is not a decimal number", "{radix:x} reads hexadecimal ones") from None
        if value >> 64:
            raise self._error(line, number, "is more than 64 bits can hold")
        return value, found.start(3) if found[3] is not None else len(line)

    def _error(self, line: bytes, number: int, problem: str, remedy: str = "") -> InputError:
        shown = printable(line[:_SHOWN].decode("ascii", "backslashreplace")) + "..." * (len(line) > _SHOWN)
        return InputError(f"line {number}: '{shown}' {problem}", subject=self._name, remedy=remedy)
