"""Strings of one process after another, of what was found in the windows that its memory was searched in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.hunting.strings.alphabets import ALPHABETS, texts_in, units
from memcarve.hunting.strings.window_search import ASCII, UTF_8, UTF_16, put_in
from memcarve.intervals import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64, U8, U64
    from memcarve.hunting.strings.window_search import Found, Loose

    _Columns = tuple[U64, I64, U8]
    from memcarve.searching.each_once import Searched

_ROWS = 1 << 14  # strings that are handed on together, about
_BYTES = 1 << 22  # bytes that are searched until what was found is handed on


class Batch(NamedTuple):
    """Strings of one part, in order of addresses.

    Columns: `address` (uint64), the segment's `row` (int64), `code` (uint8, of window_search.ENCODINGS), and `texts`.
    """

    part: int
    address: U64
    row: I64
    code: U8
    texts: list[str]


class _Row(NamedTuple):
    """A string that is put in among others."""

    address: int
    code: int
    row: int
    text: str


class _Open:
    """A run that may go on behind what was searched so far: where it begins and ends, and its text in pieces."""

    def __init__(self, address: int, end: int, row: int, text: str) -> None:
        self.address = address
        self.end = end
        self.row = row
        self.texts = [text]
        self.length = len(text)
        self.is_cut = False


class Joining:
    """Joins runs that cross the borders of windows, and cuts those that are longer than `most` characters."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        #: strings that were cut
        self.cut = 0
        self._part, self._row, self._end = 0, -1, -1
        self._open: dict[int, _Open] = {}
        self._columns: list[_Columns] = []
        self._texts: list[str] = []
        self._more: list[_Row] = []
        self._bytes = 0

    def add(self, found: Searched[Found]) -> Iterator[Batch]:
        """Take what comes next, and yield what is known to be whole, some at a time."""
        if (found.part, found.row, found.start) != (self._part, self._row, self._end):
            self._close_all()
        if found.part != self._part:
            yield from self.rest()
        self._part, self._row, self._end = found.part, found.row, found.end
        if found.found is None:
            return
        for run in found.found.loose:
            self._loose(found, run)
        for key, opened in [*self._open.items()]:
            if opened.end < found.end:
                self._close(key)
        count = len(found.found.texts)
        if count:
            address = found.found.start.astype(np.uint64) + np.uint64(found.start)
            self._columns.append((address, np.full(count, found.row), found.found.code))
            self._texts += found.found.texts
        self._bytes += found.end - found.start
        if len(self._texts) >= _ROWS or self._bytes >= _BYTES:
            yield from self._batch(min((opened.address for opened in self._open.values()), default=TOP))

    def rest(self) -> Iterator[Batch]:
        """Yield what is left of the part."""
        self._close_all()
        yield from self._batch(TOP)

    def _loose(self, found: Searched[Found], run: Loose) -> None:
        """Join a run with the one that it continues, if it does."""
        address, end = found.start + run.start, found.start + run.end
        key = 1 + (address & 1) if run.is_wide else 0
        before = self._open.get(key)
        if before is not None and before.end == address and (not run.is_wide or _are_one(before.texts[-1], run.text)):
            before.texts.append(run.text)
            before.length += len(run.text)
            before.end = end
        else:
            self._close(key)
            self._open[key] = _Open(address, end, found.row, run.text)
        if self._open[key].length > self._most:
            self._shorten(key)

    def _shorten(self, key: int) -> None:
        """Hand on as much of a run as is longer than it may be."""
        opened = self._open[key]
        text = "".join(opened.texts)
        self.cut += not opened.is_cut
        opened.is_cut = True
        place = 0
        while len(text) - place > self._most:
            piece = text[place : place + self._most]
            self._keep(key, opened, piece)
            opened.address += 2 * len(piece) if key else len(piece.encode())
            place += self._most
        opened.texts = [text[place:]]
        opened.length = len(text) - place

    def _close(self, key: int) -> None:
        """Hand on a run, which has ended, if it is long enough."""
        opened = self._open.pop(key, None)
        if opened is not None and (opened.is_cut or opened.length >= self._least):
            self._keep(key, opened, "".join(opened.texts))

    def _close_all(self) -> None:
        for key in [*self._open]:
            self._close(key)

    def _keep(self, key: int, opened: _Open, text: str) -> None:
        if key == 0:
            self._more.append(_Row(opened.address, ASCII if text.isascii() else UTF_8, opened.row, text))
        else:
            parts = texts_in(text, self._least)
            self._more += [_Row(opened.address + 2 * place, UTF_16, opened.row, part) for place, part in parts]

    def _batch(self, below: int) -> Iterator[Batch]:
        """Yield what begins below an address, in order, and keep the rest."""
        self._bytes = 0
        if not self._texts and not self._more:
            return
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
        address, row, code = map(np.concatenate, zip(nothing, *self._columns, strict=True))
        texts = self._texts
        if self._more:
            (address, row, code), texts = _merged((address, row, code), texts, self._more)
            self._more = []
        done = len(texts) if below == TOP else int(np.searchsorted(address, np.uint64(below)))
        self._columns = [(address[done:], row[done:], code[done:])] if done < len(texts) else []
        self._texts = texts[done:]
        if done:
            yield Batch(self._part, address[:done], row[:done], code[:done], texts[:done])


def _merged(columns: _Columns, texts: list[str], more: list[_Row]) -> tuple[_Columns, list[str]]:
    """Return rows, which are in order, with some others put in where they belong; these come in any order."""
    more = sorted(more)
    added = (
        np.array([row.address for row in more], np.uint64),
        np.array([row.row for row in more], np.int64),
        np.array([row.code for row in more], np.uint8),
    )
    # at one address ASCII and UTF-8 come first
    address = columns[0]
    place = np.where(
        added[2] == UTF_16, np.searchsorted(address, added[0], "right"), np.searchsorted(address, added[0])
    )
    merged = (
        np.insert(columns[0], place, added[0]),
        np.insert(columns[1], place, added[1]),
        np.insert(columns[2], place, added[2]),
    )
    return merged, put_in(texts, place, [row.text for row in more])


def _are_one(before: str, after: str) -> bool:
    """Return whether UTF-16 that goes on with another unit is still one run: they share an alphabet."""
    return bool(units()[ord(before[-1])] & units()[ord(after[0])] & ALPHABETS)
