"""What is searched for strings in one go, and what was found there: in columns, with what crosses the borders apart."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.hunting.strings.alphabets import is_monotone, plain_in
from memcarve.hunting.strings.masks import Scratch
from memcarve.hunting.strings.narrow import BEHIND, narrow_runs
from memcarve.hunting.strings.wide import UNIT, wide_runs
from memcarve.vocabulary import Encoding

if TYPE_CHECKING:
    from collections.abc import Collection

    from memcarve.dtypes import I64, U8
    from memcarve.hunting.strings.narrow import Runs
    from memcarve.searching.window import Window

#: the encodings of strings by their numbers in columns
ENCODINGS = tuple(Encoding)
ASCII, UTF_8, UTF_16 = range(3)
_WEIGHT = 64  # characters that weigh as much as one string more


class Loose(NamedTuple):
    """A run that must be joined with what lies around its window, or cut: its `text`, and where it lies there."""

    start: int
    end: int
    text: str
    is_wide: bool


class Found:
    """Strings in a window, in order of addresses: `start` (int64), `code` (uint8, of ENCODINGS) and `texts`.

    `loose` are others, in the same order.
    """

    def __init__(self, start: I64, code: U8, texts: list[str], loose: list[Loose]) -> None:
        self.start = start
        self.code = code
        self.texts = texts
        self.loose = loose
        size = sum(map(len, texts)) + sum(len(run.text) for run in loose)
        self._weight = len(texts) + len(loose) + size // _WEIGHT

    def __len__(self) -> int:
        """Return how much memory it takes, in strings of usual length."""
        return self._weight


class _Columns(NamedTuple):
    start: I64
    code: U8
    texts: list[str]


class WindowSearch:
    """A search for strings of at least `least` characters; longer ones than `most` are loose."""

    before = 0
    in_zeros = False

    def __init__(self, encodings: Collection[Encoding], least: int, most: int) -> None:
        self._utf8 = Encoding.UTF_8 in encodings
        self._narrow = self._utf8 or Encoding.ASCII in encodings
        self._wide = Encoding.UTF_16_LE in encodings
        self._least, self._most = least, most
        self.after = BEHIND if self._utf8 else UNIT - 1 if self._wide else 0
        self._scratch = Scratch()

    def __call__(self, buffer: bytearray, window: Window) -> Found:
        """Return what begins in a window."""
        data = np.frombuffer(buffer, np.uint8, window.size)
        view = memoryview(buffer)[: window.size]
        found, loose = list[_Columns](), list[Loose]()
        if self._narrow:
            runs = narrow_runs(data, window.end, self._least, utf8=self._utf8, scratch=self._scratch)
            found.append(self._narrow_texts(runs, view, loose))
        for skip in range(UNIT if self._wide else 0):
            runs = wide_runs(data, window.end, self._least, skip=skip, scratch=self._scratch)
            found.append(self._wide_texts(runs, view, loose))
        start, code, texts = found[0]
        for other in found[1:]:
            place = np.searchsorted(start, other.start, "right")
            start, code = np.insert(start, place, other.start), np.insert(code, place, other.code)
            texts = put_in(texts, place, other.texts)
        return Found(start, code, texts, sorted(loose))

    def _narrow_texts(self, runs: Runs, view: memoryview, loose: list[Loose]) -> _Columns:
        """Return the runs of ASCII and UTF-8 that are strings; add those that are loose."""
        apart = self._apart(runs, 1)
        if len(apart):
            loose += [Loose(*span, str(view[slice(*span)], "utf-8"), is_wide=False) for span in runs.spans(apart)]
            runs = runs.without(apart)
        starts, ends = runs.start.tolist(), runs.end.tolist()
        whole = str(view, "latin-1")
        texts = [whole[low:high] for low, high in zip(starts, ends, strict=True)]
        for index in np.flatnonzero(~runs.plain).tolist():
            texts[index] = str(view[starts[index] : ends[index]], "utf-8")
        return _Columns(runs.start, np.where(runs.plain, np.uint8(ASCII), np.uint8(UTF_8)), texts)

    def _wide_texts(self, runs: Runs, view: memoryview, loose: list[Loose]) -> _Columns:
        """Return the runs of UTF-16 that are strings, or the parts of them that are; add those that are loose."""
        apart = self._apart(runs, UNIT)
        if len(apart):
            loose += [Loose(*span, str(view[slice(*span)], "utf-16-le"), is_wide=True) for span in runs.spans(apart)]
            runs = runs.without(apart)
        starts, ends = runs.start.tolist(), runs.end.tolist()
        whole = str(view, "latin-1")
        texts = [whole[low:high:UNIT] for low, high in zip(starts, ends, strict=True)]
        kept = np.ones(len(starts), np.bool_)
        more = list[tuple[int, str]]()
        for index in np.flatnonzero(~runs.plain).tolist():
            low, high = starts[index], ends[index]
            if runs.good[index] and not is_monotone(texts[index]):
                texts[index] = codecs.utf_16_le_decode(view[low:high])[0]
                continue
            kept[index] = False
            if whole.count("\0", low, high) >= self._least:  # otherwise no part of it is long enough
                parts = plain_in(codecs.utf_16_le_decode(view[low:high])[0], self._least)
                more += [(low + UNIT * place, part) for place, part in parts]
        if not kept.all():
            texts = [texts[index] for index in np.flatnonzero(kept).tolist()] + [text for _, text in more]
            start = np.append(runs.start[kept], np.array([low for low, _ in more], np.int64))
            if more:
                order = np.argsort(start)
                start, texts = start[order], [texts[index] for index in order.tolist()]
            return _Columns(start, np.full(len(start), UTF_16, np.uint8), texts)
        return _Columns(runs.start, np.full(len(starts), UTF_16, np.uint8), texts)

    def _apart(self, runs: Runs, width: int) -> I64:
        """Return which runs (int64) are loose; a character has at least so many bytes."""
        return np.flatnonzero(~runs.whole | (runs.end - runs.start > self._most * width))


def put_in(texts: list[str], place: I64, more: list[str]) -> list[str]:
    """Return texts with more of them, each before the one at its place (int64, sorted)."""
    found: list[str] = []
    before = 0
    for at, text in zip(place.tolist(), more, strict=True):
        found += texts[before:at]
        found.append(text)
        before = at
    return found + texts[before:]
