"""Pages in zswap: compressed in memory instead of being written to the disk that they were meant for.

The entries of one swap area are in a red-black tree (until Linux 6.8), in several (6.9), or in several xarrays; each
says itself which place in the swap it is for. What they keep is in zsmalloc, or in zbud, whose handles are addresses.

Source: mm/zswap.c, mm/zbud.c, include/linux/xarray.h of Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.swapping.stored_pages import REPEATED, StoredPages, method_of
from memcarve.intervals import PAGE, TOP, chunks, distinct

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.linux.kallsyms import Kallsyms
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.swapping.structure_columns import StructureColumns
    from memcarve.images.linux.swapping.zsmalloc import Zsmalloc

_TYPE_SHIFT = 58  # of a swp_entry_t (include/linux/swapops.h: SWP_TYPE_SHIFT)
_MOST_TREES = 1 << 16
_MOST_ENTRIES, _FEWEST_ENTRIES = 1 << 24, 1 << 18
_SMALLEST = 1 << 7  # bytes of memory for each: 56 of the entry alone, and what it keeps
_BATCH = 1 << 12  # nodes of xarrays looked at in one go, which have 64 slots each
_MOST_POOLS = 64
_MOST_LAYERS = 64  # of one pool (ZSWAP_NR_ZPOOLS is 32)
_LEVELS = 128  # of a red-black tree of 2**64 entries; an xarray has 11
_LONGEST_NAME = 32
_SLOTS = 64
_KIND, _NODE = np.uint64(3), np.uint64(2)
_ZSMALLOC, _ZBUD = "zsmalloc", "zbud"


class Zswap:
    """What zswap holds of one machine's swap."""

    def __init__(self, kernel: Kernel, symbols: Kallsyms, columns: StructureColumns, zsmalloc: Zsmalloc | None) -> None:
        self._kernel = kernel
        self._symbols = symbols
        self._columns = columns
        self._zsmalloc = zsmalloc
        self._areas: dict[int, tuple[U64, U64]] = {}
        #: why pages that it has are not read, in words
        self.problems: dict[str, None] = {}
        #: areas of which it may have more than was found
        self.doubted: set[int] = set()
        self._most = min(_MOST_ENTRIES, max(_FEWEST_ENTRIES, kernel.memory.total // _SMALLEST))

    def find(self, area: int, pages: U64) -> tuple[StoredPages, U64]:
        """Return how pages of a swap area (uint64) are stored, and the entries of those that it has; 0 of others."""
        if area not in self._areas:
            self._areas[area] = self._entries(area)
        places, entries = self._areas[area]
        stored, held = StoredPages.unknown(len(pages)), np.zeros(len(pages), np.uint64)
        if not len(places):
            return stored, held
        at = np.minimum(np.searchsorted(places, pages), len(places) - 1)
        rows = np.flatnonzero(places[at] == pages)
        held[rows] = entries[at[rows]]
        self._fill(stored, rows, held[rows], pages[rows] | np.uint64(area << _TYPE_SHIFT))
        return stored, held

    def _entries(self, area: int) -> tuple[U64, U64]:
        """Return places in an area (uint64, sorted), and the ``struct zswap_entry`` of each."""
        none = np.zeros(0, np.uint64)
        head = self._symbols.address("zswap_trees")
        reader, kernel = self._kernel.structures.reader, self._kernel.structures
        tree = 0 if head is None else reader.number(head + 8 * area)
        if tree is None or not kernel.is_kernel(tree):
            self._doubt(area, damaged=tree != 0)
            return none, none
        counts = self._symbols.address("nr_zswap_trees")
        count = 1 if counts is None else reader.number(counts + 4 * area, 4) or 0
        by_node = self._columns.has("zswap_entry", "rbnode")
        name = "zswap_tree" if by_node else "xarray"
        size, root = kernel.types.size(name), kernel.offset(name, "rbroot.rb_node" if by_node else "xa_head")
        if size is None or root is None or not 0 < count <= _MOST_TREES:
            self._doubt(area, damaged=True)
            return none, none
        heads = np.uint64(tree + root & TOP - 1) + np.arange(count, dtype=np.uint64) * np.uint64(size)
        words, there = self._columns.number(heads, 8)
        self._doubt(area, damaged=not there.all())
        words = words[there & (words != 0)]
        entries, whole = self._by_nodes(words) if by_node else self._by_slots(words)
        own, there = self._own(entries, area)
        there &= own >> np.uint64(_TYPE_SHIFT) == np.uint64(area)
        self._doubt(area, damaged=not (whole and there.all()))
        own, entries = own[there] & np.uint64((1 << _TYPE_SHIFT) - 1), entries[there]
        places, first, times = np.unique(own, return_index=True, return_counts=True)
        self._doubt(area, damaged=bool((times > 1).any()))
        return places[times == 1], entries[first[times == 1]]

    def _own(self, entries: U64, area: int) -> tuple[U64, Bools]:
        """Return the places in the swap that entries are for (swp_entry_t); of an old kernel's, in this area."""
        if self._columns.has("zswap_entry", "swpentry.val"):
            return self._columns.member(entries, "zswap_entry", "swpentry.val")
        places, there = self._columns.member(entries, "zswap_entry", "offset")
        return places | np.uint64(area << _TYPE_SHIFT), there

    def _doubt(self, area: int, *, damaged: bool) -> None:
        if damaged:
            self.doubted.add(area)

    def _by_nodes(self, nodes: U64) -> tuple[U64, bool]:
        """Return the entries of red-black trees by their first nodes, and whether these are all."""
        found, whole = np.zeros(0, np.uint64), True
        for _ in range(_LEVELS):
            below, whole = self._below(nodes, found, whole=whole)
            if not len(below):
                break
            found = np.concatenate([found, below])
            sides = [self._columns.member(below, "rb_node", name) for name in ("rb_left", "rb_right")]
            whole &= all(there.all() for _, there in sides)
            nodes = np.concatenate([values[there] for values, there in sides])
            nodes = nodes[nodes != 0]
        place = self._columns.types.member("zswap_entry", "rbnode")
        return found - np.uint64(0 if place is None else place.offset), whole and not len(nodes)

    def _by_slots(self, words: U64) -> tuple[U64, bool]:
        """Return what xarrays hold, by their heads, and whether that is all: a word of binary 10 leads to a node."""
        slots = self._columns.types.member("xa_node", "slots")
        step = np.uint64(0 if slots is None else slots.offset) + np.arange(_SLOTS, dtype=np.uint64) * np.uint64(8)
        found, whole = np.zeros(0, np.uint64), slots is not None
        for _ in range(_LEVELS):
            below, whole = self._below(words, found, whole=whole)
            found = np.concatenate([found, below])
            nodes = below[below & _KIND == _NODE] - _NODE
            parts = [nodes[:0]]
            for part in chunks(len(nodes), _BATCH):
                values, there = self._columns.number(np.add.outer(nodes[part], step).reshape(-1), 8)
                whole &= bool(there.all())
                parts.append(values[(values != 0) & (values & np.uint64(1) == 0)])
            words = np.concatenate(parts)
            if not len(words):
                break
        return found[found & _KIND == 0], whole and not len(words)

    def _below(self, words: U64, found: U64, *, whole: bool) -> tuple[U64, bool]:
        """Return pointers that were not found before, as many as there can be; and whether that is `whole`."""
        once = distinct(words)
        fresh = once[self._columns.pointers(once) & ~np.isin(once, found)]
        if len(found) + len(fresh) > self._most:
            return fresh[:0], False
        return fresh, whole and len(fresh) == len(words)

    def _fill(self, stored: StoredPages, rows: I64, entries: U64, own: U64) -> None:
        """Say how pages are stored that have entries; `own` are their places in the swap (swp_entry_t)."""
        columns = self._columns
        length, there = columns.member(entries, "zswap_entry", "length")
        word, also = columns.member(entries, "zswap_entry", "handle")
        pool, known = columns.member(entries, "zswap_entry", "pool")
        there &= also & known
        size = length.astype(np.int64)
        same = there & (size == 0) & columns.has("zswap_entry", "value")
        stored.put(rows[same], how=REPEATED, word=word[same])
        there &= (size > 0) & (size <= PAGE)
        for each in distinct(pool[there]).tolist()[:_MOST_POOLS]:
            mine = np.flatnonzero(there & (pool == np.uint64(each)))
            method, kind, pools, header = self._pool(each)
            if method is None or kind is None:
                continue
            if kind == _ZSMALLOC and self._zsmalloc is not None:
                found = self._zsmalloc.find(word[mine], size[mine] + header, pools)
                away, first, second, right = found
            else:
                first, right = self._kernel.space.places_of(word[mine])
                away = (first % np.uint64(PAGE)).astype(np.int64)
                first -= away.astype(np.uint64)
                second = first
                right &= away + size[mine] + header <= PAGE
            if header:  # begins with its own place in the swap
                place, readable = columns.number(word[mine], header)
                right &= readable & (place == own[mine]) if kind == _ZBUD else right
            kept = mine[right]
            stored.put(
                rows[kept], how=method, size=size[kept], away=away[right] + header, first=first[right],
                second=second[right],
            )  # fmt: skip

    def _pool(self, pool: int) -> tuple[int | None, str | None, U64, int]:
        """Return how a pool's pages are stored, what keeps them, that one's own pools, and the bytes before a page."""
        kernel, none = self._kernel.structures, np.zeros(0, np.uint64)
        name = kernel.text(pool, "zswap_pool", "tfm_name") if kernel.is_kernel(pool) else None
        method = method_of(name)
        if method is None:
            said = (name or b"").decode("latin-1") or "an unknown algorithm"
            self.problems[f"zswap compresses them with {said!r}, which is not decoded"] = None
            return None, None, none, 0
        direct = kernel.pointer(pool, "zswap_pool", "zs_pool")
        if direct is not None:
            return method, _ZSMALLOC, np.array([direct], np.uint64), 0
        several = kernel.place("zswap_pool", "zpools")
        place = several or kernel.place("zswap_pool", "zpool")
        count = min(place[1] // 8, _MOST_LAYERS) if place is not None else 0
        words = [kernel.reader.number(pool + place[0] + 8 * number) for number in range(count) if place is not None]
        layers = [word for word in words if word is not None and kernel.is_kernel(word)]
        kinds, pools = set(), []
        header = 0
        for layer in layers:
            driver, inner = kernel.pointer(layer, "zpool", "driver"), kernel.pointer(layer, "zpool", "pool")
            pointer = None if driver is None else kernel.pointer(driver, "zpool_driver", "type")
            kinds.add(kernel.string(pointer, _LONGEST_NAME))
            pools += [] if inner is None else [inner]
            # until Linux 6.4 what can be written back begins with its place in the swap
            if kernel.types.size("zswap_header") is not None and kernel.number(layer, "zpool", "evictable"):
                header = 8
        kind = kinds.pop() if len(kinds) == 1 else None
        told = (kind or b"").decode("latin-1")
        usable = told == _ZBUD or (told == _ZSMALLOC and self._zsmalloc is not None and self._zsmalloc.is_known)
        if not usable:
            self.problems[f"zswap keeps them in {told!r}, which is not read"] = None
            return None, None, none, 0
        return method, told, np.array(pools, np.uint64), header
