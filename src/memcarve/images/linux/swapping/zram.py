"""Pages on zram: a disk that is none, whose pages are compressed in memory.

Source: drivers/block/zram/zram_drv.h of Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.kernel_structures import Structures
from memcarve.images.linux.swapping.module_types import types_with
from memcarve.images.linux.swapping.stored_pages import REPEATED, UNKNOWN, StoredPages, method_of
from memcarve.images.linux.swapping.structure_columns import StructureColumns
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.images.linux.kallsyms import Kallsyms
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.swapping.zsmalloc import Zsmalloc

_MOST_ALGORITHMS = 4  # ZRAM_MAX_COMPS
_LONGEST_NAME = 64
_BITS = range(64)  # of a word of flags
_FLAGS = "zram_pageflags"


class Zram:
    """One device, by the address of its ``struct gendisk``; `problem` says in words why it is not read, or nothing."""

    def __init__(self, kernel: Kernel, symbols: Kallsyms, disk: int, zsmalloc: Zsmalloc | None) -> None:
        self._zsmalloc = zsmalloc
        self._methods: list[int] = []
        self._table, self._pages, self._pool = 0, 0, 0
        self.problem = self._opened(kernel, symbols, disk)

    def _opened(self, kernel: Kernel, symbols: Kallsyms, disk: int) -> str:
        if self._zsmalloc is None or not self._zsmalloc.is_known:
            return "how the kernel's zsmalloc keeps them is not known"
        plain = kernel.structures
        types = types_with(plain, symbols, "zram", "zram_table_entry")
        at = plain.pointer(disk, "gendisk", "private_data")
        if types is None or at is None:
            return "types of the module zram are not in the image"
        structures = Structures(kernel.space, types, plain.lowest)
        self._columns = StructureColumns(kernel.space, types, plain.lowest)
        flags = [types.constant(_FLAGS, name) for name in ("ZRAM_SAME", "ZRAM_WB", "ZRAM_LOCK")]
        places = [value for value in flags if value is not None]
        entry = types.size("zram_table_entry")
        table = structures.pointer(at, "zram", "table")
        pool, size = structures.pointer(at, "zram", "mem_pool"), structures.number(at, "zram", "disksize")
        priority = types.constant(_FLAGS, "ZRAM_COMP_PRIORITY_BIT1")
        told = entry is not None and flags[0] is not None and flags[1] is not None
        told = told and all(value in _BITS for value in (*places, 0 if priority is None else priority))
        told = told and self._columns.has("zram_table_entry", "handle", "flags")
        if not told or entry is None or table is None or pool is None or size is None:
            return "its members are not known"
        if structures.pointer(at, "zram", "disk") != disk:
            return "its structure does not lead back to its disk"
        self._same, self._written = flags[0] or 0, flags[1] or 0
        #: the flags' lower bits say how many bytes a page has
        self._size_bits = min(places)
        self._priority = priority
        names = self._algorithms(structures, at)
        methods = [method_of(name) for name in names]
        if not methods or methods[0] is None:
            name = (names[0] if names else b"").decode("latin-1") or "an unknown algorithm"
            return f"they are compressed with {name!r}, which is not decoded"
        self._methods = [UNKNOWN if method is None else method for method in methods]
        self._table, self._entry, self._pages, self._pool = table, entry, size // PAGE, pool
        return ""

    @staticmethod
    def _algorithms(structures: Structures, at: int) -> list[bytes]:
        """Return the names of the algorithms, the first one is the usual one."""
        several = structures.offset("zram", "comp_algs")
        if several is None:
            said = structures.text(at, "zram", "compressor")
            return [said] if said else []
        names = []
        for number in range(_MOST_ALGORITHMS):
            pointer = structures.reader.number(at + several + 8 * number)
            name = structures.string(pointer, _LONGEST_NAME) if pointer and structures.is_kernel(pointer) else None
            names.append(name or b"")
        return names

    def find(self, pages: U64) -> StoredPages:
        """Return how pages of the device (uint64) are stored."""
        stored = StoredPages.unknown(len(pages))
        if self.problem or self._zsmalloc is None:
            return stored
        rows = np.flatnonzero(pages < np.uint64(self._pages))
        at = np.uint64(self._table) + pages[rows] * np.uint64(self._entry)
        word, there = self._columns.member(at, "zram_table_entry", "handle")
        flags, also = self._columns.member(at, "zram_table_entry", "flags")
        there &= also & (flags >> np.uint64(self._written) & np.uint64(1) == 0)
        same = there & (flags >> np.uint64(self._same) & np.uint64(1) == 1)
        stored.put(rows[same], how=REPEATED, word=word[same])
        size = (flags & np.uint64((1 << self._size_bits) - 1)).astype(np.int64)
        method = np.zeros(len(rows), np.int64)
        if self._priority is not None:
            method = (flags >> np.uint64(self._priority) & np.uint64(_MOST_ALGORITHMS - 1)).astype(np.int64)
        kinds = np.array([*self._methods, *[UNKNOWN] * _MOST_ALGORITHMS], np.uint8)[method]
        kept = there & ~same & (size > 0) & (size <= PAGE) & (kinds != UNKNOWN) & self._columns.pointers(word)
        rows, word, size, kinds = rows[kept], word[kept], size[kept], kinds[kept]
        found = self._zsmalloc.find(word, size, np.array([self._pool], np.uint64))
        right = found.known
        stored.put(
            rows[right], how=kinds[right], size=size[right], away=found.away[right], first=found.first[right],
            second=found.second[right],
        )  # fmt: skip
        return stored
