"""Finding what zsmalloc keeps: objects of any size below a page's, which may lie across two pages.

A handle leads to a word that has the frame in which its object begins, and the object's number among those of the same
size in a few pages that are chained (a zspage). How many bits the number has depends on the kernel. An object begins
with its handle, with the lowest bit set; one that has a page of its own does not, its page's structure has it. So each
object proves that it was found rightly.

Source: mm/zsmalloc.c of Linux, and mm/zpdesc.h since 6.14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.linux.swapping.structure_columns import StructureColumns
    from memcarve.images.physical import PhysicalMemory

_MAGIC = 0x58  # ZSPAGE_MAGIC
_ADDRESS_BITS = (
    52,
    48,
    46,
    47,
    44,
    40,
    39,
    36,
)  # of physical memory, as kernels are made for it: the likely ones first
_SAMPLE = 64  # handles that tell how many bits a number has
_HEADER = 8
_PAGE = np.uint64(PAGE)
_LOW = np.uint64(PAGE - 1)


class _Bits(NamedTuple):
    """How a word is shared: by what it is shifted for the frame, and for the number below that."""

    frame: int
    number: int


class Objects(NamedTuple):
    """Objects, a row each: `away` bytes (int64) after the page at `first` they begin, and go on in `second`.

    Both are physical addresses (uint64); `known` (bool) tells which rows are right.
    """

    away: I64
    first: U64
    second: U64
    known: Bools


class Zsmalloc:
    """What zsmalloc keeps in one machine's memory.

    `columns` read its structures; `frames` is the address of the first frame's ``struct page``.
    """

    def __init__(self, memory: PhysicalMemory, columns: StructureColumns, frames: int) -> None:
        self.memory = memory
        self.columns = columns
        self.frames = np.uint64(frames)
        self._frame_size = np.uint64(columns.types.size("page") or 64)
        split = columns.has("zpdesc", "zspage", "next", "handle")
        #: of the structure that describes a page: its name, and what its members for these purposes are called
        self._page = ("zpdesc", "zspage", "next", "handle") if split else ("page", "private", "index", "index")
        self._bits: _Bits | None = None

    @property
    def is_known(self) -> bool:
        """Whether all members are known that are needed."""
        columns, (page, *members) = self.columns, self._page
        return (
            columns.has("zspage", "class", "magic")
            and columns.has("size_class", "size", "index", "objs_per_zspage", "pages_per_zspage")
            and columns.has("zs_pool", "size_class")
            and columns.has(page, *members)
        )

    def find(self, handles: U64, sizes: I64, pools: U64) -> Objects:
        """Return where objects of `sizes` bytes are, by their handles (uint64), in one of some pools (uint64)."""
        words, there = self.columns.number(handles, 8)
        if self._bits is None:
            rows = np.flatnonzero(there)[:_SAMPLE]
            choices = [
                _Bits(64 - bits + 12 - away, shift)
                for away, shift in ((0, 1), (0, 0), (1, 0))
                for bits in _ADDRESS_BITS
            ]
            found = [self._find(handles[rows], words[rows], sizes[rows], pools, bits).known.sum() for bits in choices]
            if not max(found, default=0):
                return self._find(handles, words, sizes, pools, choices[0])
            self._bits = choices[int(np.argmax(found))]
        objects = self._find(handles, words, sizes, pools, self._bits)
        return objects._replace(known=objects.known & there)

    def _find(self, handles: U64, words: U64, sizes: I64, pools: U64, bits: _Bits) -> Objects:
        columns, (page, zspage, following, held) = self.columns, self._page
        frame = words >> np.uint64(bits.frame)
        number = (words & np.uint64((1 << bits.frame) - 1)) >> np.uint64(bits.number)
        known = frame < np.uint64(self.memory.end // PAGE)
        place = self.frames + np.where(known, frame, np.uint64(0)) * self._frame_size
        chain, there = columns.member(place, page, zspage)
        known &= there & columns.pointers(chain)
        magic, there = columns.member(chain, "zspage", "magic")
        known &= there & (magic == np.uint64(_MAGIC))
        index, there = columns.member(chain, "zspage", "class")
        known &= there
        if columns.has("zspage", "pool"):
            pool, there = columns.member(chain, "zspage", "pool")
            known &= there & np.isin(pool, pools)
        else:
            pool = np.broadcast_to(pools[:1], len(handles)).copy()
        classes = columns.types.member("zs_pool", "size_class")
        begin = np.uint64(0 if classes is None else classes.offset)
        kind, there = columns.number(pool + begin + index * np.uint64(8), 8)
        known &= there & columns.pointers(kind)
        told = [
            columns.member(kind, "size_class", name)
            for name in ("index", "size", "objs_per_zspage", "pages_per_zspage")
        ]
        for _, there in told:
            known &= there
        same, size, objects, pages = (values for values, _ in told)
        known &= (same == index) & (size <= _PAGE) & (size > np.uint64(_HEADER)) & (number < objects)
        away = ((size * np.where(known, number, np.uint64(0))) & _LOW).astype(np.int64)
        huge = (objects == np.uint64(1)) & (pages == np.uint64(1))
        first = frame * _PAGE
        proof, there = columns.member(place, page, held)
        mark, within = self._words(first + away.astype(np.uint64))
        proof, there = np.where(huge, proof, mark), np.where(huge, there, within)
        known &= there & (proof == handles | np.uint64(1))
        away = np.where(huge, 0, away + _HEADER)
        known &= sizes + np.where(huge, 0, _HEADER) <= size.astype(np.int64)
        # what goes on does so in the page that is chained to this one
        longer = known & (away + sizes > PAGE)
        behind, there = columns.member(place, page, following)
        again, also = columns.member(np.where(longer, behind, place), page, zspage)
        second = (behind - self.frames) // self._frame_size
        good = there & also & (again == chain) & (second < np.uint64(self.memory.end // PAGE))
        known &= ~longer | good
        return Objects(away, first, np.where(longer, second * _PAGE, first), known)

    def _words(self, physical: U64) -> tuple[U64, Bools]:
        """Return the words of 8 bytes at physical addresses (uint64), and which are in memory (bool)."""
        pages = physical & ~_LOW
        there = self.memory.holds(pages, PAGE) & (physical & np.uint64(7) == 0)
        words = np.zeros(len(physical), np.uint64)
        if there.any():
            table, inverse = np.unique(pages[there], return_inverse=True)
            words[there] = self.memory.pages(table)[
                inverse, ((physical[there] & _LOW) >> np.uint64(3)).astype(np.int64)
            ]
        return words, there
