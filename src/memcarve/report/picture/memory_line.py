"""A process's addresses as a line of cells of equal width: gaps folded, every segment at least a cell if there is room.

What lies in several segments looks as the most remarkable of them, so that nothing is too small to be seen.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.intervals import Intervals, expand
from memcarve.labels.severities import RANKS
from memcarve.report.picture.palette import Access
from memcarve.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcarve.dtypes import F64, I64, U64, Bools
    from memcarve.labels.segment_labels import Words

#: a gap that would take more cells is folded to one
_WIDEST_GAP = 4
_HALF, _QUARTER = 0.5, 0.25
READ, WRITTEN, EXECUTED, COPIED = 1, 2, 4, 8
_BITS = {"r": READ, "w": WRITTEN, "x": EXECUTED, "c": COPIED}
#: letters of permissions and protections
_KNOWN = set("ukrwxcpsg-")


class Drawn(NamedTuple):
    """What is drawn of a process: its segments, and of each its words and how severe its worst flag is (0 is none)."""

    segments: Intervals
    words: Mapping[str, Words]
    severity: I64
    regions: Intervals

    @property
    def access(self) -> I64:
        """The Access to each segment (int64): what the page tables allow, else what the system says."""
        found = _access_of(self.words["permissions"])
        system = _access_of(self.words["protection"])
        return np.where(found == Access.UNKNOWN, system, found)

    @property
    def letters(self) -> I64:
        """What any part of each segment allows (int64): bits of READ, WRITTEN, EXECUTED, COPIED; as `access`."""
        words = self.words["permissions"]
        known = np.array([bool(text) for text in words.values] or [False], np.bool_)[words.codes]
        return np.where(known, _bits_of(words), _bits_of(self.words["protection"]))


class MemoryLine:
    """The line of a process in `count` cells.

    Columns, one row a cell: `owner` (int64), the segment that it looks as, -1 if it has none; `access` (an Access),
    `severity` of the worst flag in it (0 none, 4 high); `folded` (bool): it stands for a gap of any length; `reserved`
    (bool): without bytes, but in a region.
    """

    def __init__(self, drawn: Drawn, count: int) -> None:
        self.drawn = drawn
        self.count = count
        self._edges = _edges(drawn.segments, count)
        low, high = self._cells(np.arange(len(drawn.segments)) * 2)
        row, step = expand(high - low)
        cell = low[row] + step
        rank = np.empty(len(drawn.segments), np.int64)
        access = drawn.access
        rank[np.lexsort((drawn.segments.size, access, drawn.severity))] = np.arange(len(rank))
        best = np.full(count, -1, np.int64)
        np.maximum.at(best, cell, rank[row])
        self.owner: I64 = np.where(best < 0, -1, np.argsort(rank)[best] if len(rank) else -1)
        self.access: I64 = np.where(self.owner < 0, int(Access.NOTHING), _taken(access, self.owner))
        self.severity: I64 = np.where(self.owner < 0, 0, _taken(drawn.severity, self.owner))

    def _cells(self, items: I64) -> tuple[I64, I64]:
        """Return the first cell of some items of the line, and the one behind the last; a segment has one at least."""
        edges = np.floor(self._edges + _HALF).astype(np.int64)
        low = np.minimum(edges[items], self.count - 1)
        return low, np.minimum(np.maximum(edges[items + 1], low + 1), self.count)

    @functools.cached_property
    def folded(self) -> Bools:
        """Whether each cell stands for a gap of any length."""
        found = np.zeros(self.count, np.bool_)
        wide = np.flatnonzero(_is_folded(self.drawn.segments, self.count))
        low, high = self._cells(wide * 2 + 1)
        row, step = expand(high - low)
        found[low[row] + step] = True
        return found & (self.owner < 0)

    @functools.cached_property
    def reserved(self) -> Bools:
        """Whether each cell has no bytes but lies in a region."""
        first, last = self._bounds()
        low, end = self.drawn.regions.touched(Intervals(first, last - first + np.uint64(1)))
        return (end > low) & (self.owner < 0)

    def addresses(self) -> U64:
        """Return the address that each cell begins at (uint64): of a segment that begins in it, that."""
        first, _ = self._bounds()
        starts = _taken(self.drawn.segments.start, self.owner) if len(self.drawn.segments) else first
        new = np.append(True, self.owner[1:] != self.owner[:-1])
        return np.where(new & (self.owner >= 0), starts, first)

    def _bounds(self) -> tuple[U64, U64]:
        """Return the first and the last address of each cell (uint64), by how far in its item it lies."""
        segments = self.drawn.segments
        if not len(segments):
            return np.zeros(self.count, np.uint64), np.zeros(self.count, np.uint64)
        item = np.clip(np.searchsorted(self._edges, np.arange(self.count), "right") - 1, 0, len(self._edges) - 2)
        start, size = _items(segments)
        width = self._edges[item + 1] - self._edges[item]
        width[width <= 0] = 1
        inside = (np.arange(self.count) - self._edges[item]) / width
        low = start[item] + _part(size[item], inside)
        high = start[item] + _part(size[item], inside + 1 / width)
        return low, np.maximum(low, high - np.uint64(1))


def severities(flags: Words, ratings: Mapping[Any, Any]) -> I64:
    """Return how severe the worst flag of each segment is (int64): 0 none, 1 info, 4 high."""
    most = len(Severity)
    ranks = {str(flag): most - RANKS[rating.severity] for flag, rating in ratings.items()}
    found = [max((ranks.get(word, 1) for word in text.split(", ")), default=0) if text else 0 for text in flags.values]
    return np.array(found or [0], np.int64)[flags.codes]


def kind_of(word: str | None) -> str | None:
    """Return the kind that is shown of a segment that may have several: the first."""
    return None if word is None else word.split(", ")[0]


def _access_of(words: Words) -> I64:
    return np.array([_access(value) for value in words.values] or [0], np.int64)[words.codes]


def _access(text: str | None) -> int:
    """Return the Access of a word as ``urw-`` or ``r-x``, of several the most remarkable."""
    if text is None:
        return Access.UNKNOWN
    return max(map(_one, text.split(", ")))


def _bits_of(words: Words) -> I64:
    return np.array([_bits(value) for value in words.values] or [0], np.int64)[words.codes]


def _bits(text: str | None) -> int:
    """Return which letters any word of a text has, as `Drawn.letters`."""
    words = [word for word in (text or "").split(", ") if set(word) <= _KNOWN]
    return sum(bit for letter, bit in _BITS.items() if any(letter in word for word in words))


def _one(word: str) -> int:
    letters = set(word)
    if not letters <= _KNOWN:
        return Access.UNKNOWN
    for wanted, access in (
        ("wx", Access.WRITE_AND_EXECUTE), ("cx", Access.EXECUTE_COPY), ("x", Access.EXECUTE),
    ):  # fmt: skip
        if letters >= set(wanted):
            return access
    if letters & set("wc"):
        return Access.WRITE
    return Access.READ if "r" in letters else Access.NONE


def _is_folded(segments: Intervals, count: int) -> Bools:
    """Return for each gap between segments (bool) whether it is folded."""
    gaps = segments.start[1:] - segments.last[:-1] - np.uint64(1)
    found: Bools = gaps.astype(np.float64) > segments.size.astype(np.float64).sum() / count * _WIDEST_GAP
    return found


def _edges(segments: Intervals, count: int) -> F64:
    """Return where on the line segments and the gaps between them begin, and where the last one ends (float64)."""
    number = len(segments)
    if not number:
        return np.zeros(1, np.float64)
    wide = _is_folded(segments, count)
    folds = int(np.count_nonzero(wide))
    of_segment, of_fold = min(1.0, _HALF * count / number), min(1.0, _QUARTER * count / max(folds, 1))
    weight, least = np.zeros(2 * number - 1, np.float64), np.zeros(2 * number - 1, np.float64)
    weight[::2] = segments.size
    least[::2] = of_segment
    gaps = (segments.start[1:] - segments.last[:-1] - np.uint64(1)).astype(np.float64)
    weight[1::2] = np.where(wide, 0, gaps)
    least[1::2] = np.where(wide, of_fold, 0)
    scale = (count - least.sum()) / weight.sum()
    return np.append(0.0, np.cumsum(least + weight * scale)) if scale > 0 else np.linspace(0, count, 2 * number)


def _items(segments: Intervals) -> tuple[U64, U64]:
    """Return start and size of segments and of the gaps between them, in order."""
    start, size = (np.empty(2 * len(segments) - 1, np.uint64) for _ in range(2))
    start[::2], size[::2] = segments.start, segments.size
    start[1::2] = segments.last[:-1] + np.uint64(1)
    size[1::2] = segments.start[1:] - start[1::2]
    return start, size


def _part(size: U64, share: F64) -> U64:
    """Return a share (0 to 1) of sizes, in whole pages if they are that large; never beyond the end."""
    whole = np.minimum(np.clip(share, 0, 1) * size.astype(np.float64), 2.0**63).astype(np.uint64)
    whole = np.where(size > np.uint64(4096), whole & ~np.uint64(4095), whole)
    return np.minimum(whole, size)


def _taken(column: Any, rows: I64) -> Any:  # noqa: ANN401 - a column of any type
    """Return members of a column; -1 is any."""
    return column[np.maximum(rows, 0)] if len(column) else np.zeros(len(rows), column.dtype)


def lines_of(segments: Intervals, width: int, each: int, most: int) -> int:
    """Return in how many lines of `width` cells segments are drawn, if each should have `each` of them."""
    return min(max(-(-len(segments) * each // width), 1), most)
