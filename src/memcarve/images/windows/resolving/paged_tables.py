"""Page tables of Windows that are paged out themselves: in a page file, or compressed.

A table stays in memory as long as one of its entries is valid or in transition: they count as uses of its frame
(_MMPFN.ShareCount; Windows Internals, 7th edition, part 1, chapter 5). So what was paged out has no such entry. A page
that has one is no table of this moment: the page file is of another one, or what names the page is damaged. Frames that
it names may be anybody's by now, and its other entries are as old: nothing of it is followed.

No place holds two tables, so what is named twice at one level of a half is not followed. That it is named at several
levels is as it should be, since the kernel's half shows tables as pages, and so each again one level further down. A
table that names itself ends at the lowest level, too.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.paging import PagedTables
from memcarve.images.windows.resolving import invalid_ptes as ptes
from memcarve.intervals import PAGE, Intervals, chunks, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64, Bools
    from memcarve.images.paging import Invalid
    from memcarve.images.paging_modes import Level
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver

_MOST_TABLES = 1 << 15  # that are read for one process: 128 MiB, which map 64 GiB
_UPPER = np.uint64(1 << 63)
_BATCH = 1 << 9  # tables looked at in one go: 2 MiB


class Below(NamedTuple):
    """Entries that are not valid, with those of tables that were paged out; sentences for the user about these.

    `change` is by how much the number of tables differs of which nothing is known.
    """

    invalid: Invalid
    change: int
    notes: list[str]


def tables_below(
    resolver: WindowsResolver, invalid: Invalid, levels: Sequence[Level], span: tuple[int, int], most: int
) -> Below:
    """Read the tables that `invalid.paged` leads to, and those below them, for addresses ``start <= x < end``.

    With more than `most` entries in all, `invalid.cut` is set, and none are given.
    """
    none = np.zeros(0, np.uint64)
    reading = _Reading(resolver)
    address, word = [invalid.address], [invalid.word]
    read, lost = [Intervals(none, none)], [Intervals(none, none)]
    lower = (none, none)
    left, change = most - len(invalid.address), 0
    for depth, (above, level) in enumerate(itertools.pairwise(levels)):
        mine = invalid.paged.depth == depth
        at = np.concatenate([invalid.paged.address[mine], lower[0]])
        entry = np.concatenate([invalid.paged.word[mine], lower[1]])
        reading.next_level()
        known, parts = np.zeros(len(at), np.bool_), [(none, none)]
        for part in chunks(len(at), _BATCH):
            tables, known[part] = reading.tables(at[part], entry[part])
            row, column = np.nonzero(tables)
            begin = at[part][row] + (column.astype(np.uint64) << np.uint64(level.shift))
            asked = (begin + np.uint64((1 << level.shift) - 1) >= np.uint64(span[0])) & (
                begin <= np.uint64(span[1] - 1)
            )
            parts.append((begin[asked], tables[row[asked], column[asked]]))
            left -= int(asked.sum())
            if left < 0:
                return Below(invalid._replace(address=none, word=none, cut=True), change, [])
        size = np.full(len(at), 1 << above.shift, np.uint64)
        read.append(Intervals(at[known], size[known]))
        lost.append(Intervals(at[~known], size[~known]))
        change -= int(known[: int(mine.sum())].sum()) - int((~known[int(mine.sum()) :]).sum())
        lower = (np.concatenate([row[0] for row in parts]), np.concatenate([row[1] for row in parts]))
    every = np.concatenate([*address, lower[0]])
    order = np.argsort(every, kind="stable")
    unknown = union(invalid.unknown.subtract(union(*read)), *lost)
    paged = PagedTables(none, none, np.zeros(0, np.int64))
    whole = invalid._replace(
        address=every[order], word=np.concatenate([*word, lower[1]])[order], unknown=unknown, paged=paged
    )
    return Below(whole, change, reading.notes)


class _Reading:
    """Reads tables that were paged out, each place once at each level."""

    def __init__(self, resolver: WindowsResolver) -> None:
        self.resolver = resolver
        self.seen = np.zeros(0, np.uint64)
        self.left = _MOST_TABLES
        self.wrong = 0

    def next_level(self) -> None:
        """Begin with the next level."""
        self.seen = np.zeros(0, np.uint64)

    @property
    def notes(self) -> list[str]:
        """What was wrong with tables, in words."""
        notes = []
        if self.wrong:
            notes.append(
                f"{self.wrong} page tables in page files or compressed memory are not followed: they hold what only "
                "tables in memory do, or are named twice. If there are many, the page file is of another moment"
            )
        if self.left < 0:
            notes.append(f"more than {_MOST_TABLES} page tables are paged out: the others were not followed")
        return notes

    def tables(self, address: U64, words: U64) -> tuple[U64, Bools]:
        """Return the tables that entries for addresses name, shape (n, 512), and which are known; others are zeros."""
        tables, known = np.zeros((len(words), PAGE // 8), np.uint64), np.zeros(len(words), np.bool_)
        rows = np.flatnonzero(ptes.kinds(words, self.resolver.possible) == ptes.PAGED)
        if not len(rows):
            return tables, known
        found = self.resolver.stored(words[rows])
        rows, offset = rows[found.flags != 0], found.offset[found.flags != 0]
        named = offset | address[rows] & _UPPER
        unique, inverse, times = np.unique(named, return_inverse=True, return_counts=True)
        once = (times[inverse] == 1) & ~np.isin(named, self.seen)
        self.seen = np.concatenate([self.seen, unique])
        self.wrong += int((~once).sum())
        rows, offset = rows[once], offset[once]
        self.left -= len(rows)
        if self.left < 0:
            return tables, known
        data, there = self.resolver.contents(offset)
        resident = (data & ptes.VALID != 0) | (data & (ptes.PROTOTYPE | ptes.TRANSITION) == ptes.TRANSITION)
        sound = there & ~resident.any(axis=1)
        self.wrong += int((there & ~sound).sum())
        tables[rows[sound]], known[rows[sound]] = data[sound], True
        return tables, known
