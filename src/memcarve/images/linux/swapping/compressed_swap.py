"""The pages of a machine's swap that are compressed in its memory: on zram, in zswap, or known to be zeros.

Which area an entry names is told by the kernel's table of areas (``swap_info``), which its list of symbols leads to.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.swapping.module_types import types_with
from memcarve.images.linux.swapping.stored_pages import REPEATED, StoredPages, decode_into
from memcarve.images.linux.swapping.structure_columns import StructureColumns
from memcarve.images.linux.swapping.zram import Zram
from memcarve.images.linux.swapping.zsmalloc import Zsmalloc
from memcarve.images.linux.swapping.zswap import Zswap
from memcarve.images.page_decoding import DecodedPages
from memcarve.intervals import PAGE, chunks

if TYPE_CHECKING:
    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.linux.kallsyms import Kallsyms
    from memcarve.images.linux.kernel import Kernel

_AREAS = 32
_PLACE_BITS = 27  # of a key: 512 GiB; above them is the area's number
_PAGES = 1 << 11  # decoded in one go: 8 MiB


class CompressedSwap:
    """Pages by key: the area's number and the page in it.

    `pages` are those that `find` has found right, which are decoded when they are read; `problems` say in words why
    pages that are compressed cannot be read.
    """

    def __init__(self, kernel: Kernel, symbols: Kallsyms, path: str) -> None:
        self._kernel = kernel
        self._symbols = symbols
        self._plain = StructureColumns(kernel.space, kernel.structures.types, kernel.structures.lowest)
        self.pages = DecodedPages(functools.partial(decode_into, kernel.memory), path)
        self.problems: dict[str, None] = {}
        self._zswap = Zswap(kernel, symbols, self._plain, self._zsmalloc)

    @functools.cached_property
    def _zsmalloc(self) -> Zsmalloc | None:
        structures = self._kernel.structures
        types = types_with(structures, self._symbols, "zsmalloc", "zspage")
        place = self._symbols.address("vmemmap_base")
        frames = None if place is None else structures.reader.number(place)
        if types is None or frames is None or not structures.is_kernel(frames):
            return None
        return Zsmalloc(self._kernel.memory, StructureColumns(self._kernel.space, types, structures.lowest), frames)

    @functools.cached_property
    def areas(self) -> dict[int, tuple[int, bytes]]:
        """Each area that is turned on, by its number: its ``struct swap_info_struct``, and the name of its disk."""
        structures, found = self._kernel.structures, {}
        table = self._symbols.address("swap_info")
        for number in range(_AREAS if table is not None else 0):
            area = structures.reader.number((table or 0) + 8 * number)
            if area is None or not structures.is_kernel(area):
                continue
            if structures.number(area, "swap_info_struct", "type") != number:
                continue
            device = structures.pointer(area, "swap_info_struct", "bdev")
            disk = None if device is None else structures.pointer(device, "block_device", "bd_disk")
            found[number] = area, (structures.text(disk, "gendisk", "disk_name") or b"" if disk is not None else b"")
        return found

    @functools.cached_property
    def on_zram(self) -> dict[int, Zram]:
        """The areas that are on zram, by number."""
        structures, found = self._kernel.structures, {}
        whole = structures.types.constant(None, "SWP_BLKDEV")
        for number, (area, name) in self.areas.items():
            flags = structures.number(area, "swap_info_struct", "flags") or 0
            if not name.startswith(b"zram") or whole is None or not flags & whole:  # a file on it lies anywhere there
                continue
            device = structures.pointer(area, "swap_info_struct", "bdev") or 0
            disk = structures.pointer(device, "block_device", "bd_disk") or 0
            found[number] = Zram(self._kernel, self._symbols, disk, self._zsmalloc)
            if found[number].problem:
                self.problems[f"{name.decode('latin-1')}: {found[number].problem}"] = None
        return found

    @property
    def doubted(self) -> set[int]:
        """The areas of which zswap may hold more pages than were found."""
        return self._zswap.doubted

    def find(self, numbers: U8, pages: U64) -> tuple[U64, Bools, Bools]:
        """Return the keys of pages of areas (uint64), which of them can be decoded, and which are compressed (bool)."""
        keys = numbers.astype(np.uint64) << np.uint64(_PLACE_BITS) | pages
        sound, held = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
        near = pages < np.uint64(1 << _PLACE_BITS)
        for number, (area, _) in self.areas.items():
            rows = np.flatnonzero(near & (numbers == np.uint8(number)))
            for part in chunks(len(rows), _PAGES):
                some = rows[part]
                stored, mine = self._stored(number, area, pages[some])
                right = decode_into(self._kernel.memory, np.empty((len(some), PAGE), np.uint8), *stored)
                self.pages.add(keys[some][right], stored.rows(right))
                sound[some], held[some] = right, mine
        self.problems.update(self._zswap.problems)
        return keys, sound, held

    def _stored(self, number: int, area: int, pages: U64) -> tuple[StoredPages, Bools]:
        """Return how pages of an area are stored, and which are compressed, or known to be zeros (bool)."""
        stored, entries = self._zswap.find(number, pages)
        held = entries != 0
        if number in self.on_zram:
            rows = np.flatnonzero(~held)
            found = self.on_zram[number].find(pages[rows])
            for name, column in found._asdict().items():
                stored.put(rows, **{name: column})
            held[:] = True
        zeros = self._kernel.structures.pointer(area, "swap_info_struct", "zeromap")
        if zeros is not None:  # since Linux 6.12 a page of zeros is a bit, and written nowhere
            words, there = self._plain.number(np.uint64(zeros) + (pages >> np.uint64(6) << np.uint64(3)), 8)
            rows = np.flatnonzero(there & (words >> (pages & np.uint64(63)) & np.uint64(1) == 1))
            stored.put(rows, how=REPEATED, word=0)
            held[rows] = True
        return stored, held
