"""Where the pages of a process of Linux are that were swapped out: compressed in memory, or in areas that were given.

An entry that is not present has the number of an area and of a page in it (`absent_entries`). Which area has which
number is for the user to say; by default the areas that were given have them in order, as they are numbered when they
are turned on, without those on zram. An area begins with a page of its own, whose last ten bytes are ``SWAPSPACE2``
(mm/swapfile.c). What is on zram, or waits in zswap, is in no file, but in memory (`swapping`).
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import InputError, UsageError
from memcarve.images.linux.absent_entries import KINDS, SWAPPED
from memcarve.images.nonresident import Found, Gathered, not_physical
from memcarve.images.paging import absent, walk
from memcarve.intervals import PAGE, expand
from memcarve.missing import BEYOND_PAGE_FILE, COMPRESSED_SWAP, PAGED_OUT
from memcarve.permissions import COMPRESSED, PAGEFILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.linux.swapping.compressed_swap import CompressedSwap
    from memcarve.images.page_files import PageFile, PageFiles
    from memcarve.images.paging import Pages
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.process import ProcessEntry

_MAGIC = b"SWAPSPACE2"
_TWELVE = np.uint64(12)


class SwapResolver:
    """Finds swapped pages of processes of one machine: in `files`, and compressed in its memory.

    `compressed` is called once, and returns what finds the latter, or in words why it is not known what there is.
    Raises InputError if one of the files is no swap area of pages of `page` bytes, UsageError if it is one on zram.
    """

    def __init__(
        self, memory: PhysicalMemory, files: PageFiles, page: int, compressed: Callable[[], CompressedSwap | str]
    ) -> None:
        self.memory = memory
        self.files = files
        self._compressed = compressed
        #: why it is not known what is compressed, in words
        self._unknown = ""
        for each in files.files:
            _check(each, page)
        if files.files:
            _ = self.compressed  # whose number one of them may have

    @functools.cached_property
    def compressed(self) -> CompressedSwap | None:
        """What is compressed in memory; None if that is not known. Raises UsageError if a file was given for it."""
        told = self._compressed()
        found = None if isinstance(told, str) else told
        self._unknown = told if isinstance(told, str) else ""
        if found is not None and self.files.area is not None:
            self.files.area.source = found.pages
        on_zram = set() if found is None else set(found.on_zram)
        self.files.files = tuple(_beside(self.files.files, on_zram))
        clash = on_zram & {each.number for each in self.files.files}
        if clash:
            number = min(clash)
            raise UsageError(
                f"swap area {number} is on zram: what it holds is in the memory, in no file",
                remedy="give each file its own number with {page_files}, as 1=FILE",
            )
        return found

    def walk(
        self, entry: ProcessEntry, table: AddressTable, start: int, end: int, limit: int | None
    ) -> tuple[Pages, Found]:
        """Return what page tables map of ``start <= x < end``, and what of the rest was found. Raises LimitError."""
        pages = walk(self.memory, table, start, end, limit)
        gathered = Gathered()
        if not entry.ended and pages.counts.get(SWAPPED):
            swapped = absent(self.memory, table, start, end, limit)
            keep = swapped.kind == KINDS.index(SWAPPED)
            # an entry is for a page of the machine's, which may be larger than 4 KiB, or for several
            row, step = expand((swapped.size[keep] >> _TWELVE).astype(np.int64))
            address = swapped.address[keep][row] + (step.astype(np.uint64) << _TWELVE)
            each = np.uint64(table.mode.page // PAGE)
            place = swapped.offset[keep][row] * each + step.astype(np.uint64)
            numbers = swapped.type[keep][row]
            if each == 1:
                rest = ~self._decompressed(gathered, address, numbers, place)
                address, numbers, place = address[rest], numbers[rest], place[rest]
            offset, given, held = self.files.place(numbers, place)
            self.files.check(numbers[held], place[held])
            gathered.place(address[held], not_physical(offset[held]), offset[held], PAGEFILE)
            gathered.lose(address[given & ~held], BEYOND_PAGE_FILE)
            gathered.lose(address[~given], PAGED_OUT)
        return pages, gathered.found((BEYOND_PAGE_FILE,), ("in_pagefile", "compressed"))

    def _decompressed(self, gathered: Gathered, address: U64, numbers: U8, place: U64) -> Bools:
        """Gather those pages that are compressed in memory, and return which are (bool), read or not."""
        compressed, area = self.compressed, self.files.area
        if compressed is None or area is None:
            if self._unknown:
                gathered.notes.append(f"pages on zram and in zswap are not looked for: {self._unknown}")
            return np.zeros(len(address), np.bool_)
        keys, sound, held = compressed.find(numbers, place)
        offset = np.uint64(area.begin) + (keys[sound] << _TWELVE)
        gathered.place(address[sound], not_physical(offset), offset, COMPRESSED)
        lost = held & ~sound
        gathered.lose(address[lost], COMPRESSED_SWAP)
        if lost.any():
            said = "; ".join(compressed.problems) or "they are damaged, or not in memory"
            gathered.notes.append(f"{int(lost.sum())} pages are compressed (zram, zswap) and not read: {said}")
        doubted = compressed.doubted & {each.number for each in self.files.files} & {*numbers[~held].tolist()}
        gathered.notes += [
            f"what zswap holds of swap area {number} is damaged: pages of it that are read from the file may be older"
            for number in sorted(doubted)
        ]
        return held

    def originals(self, _: ProcessEntry, __: U64) -> None:
        """Return None: what files have in memory (the page cache) is not looked up."""
        return


def _beside(files: Sequence[PageFile], on_zram: set[int]) -> Iterator[PageFile]:
    """Yield files, those whose number was not said with the lowest that is no other's, and not on zram."""
    taken = on_zram | {each.number for each in files if each.said}
    free = (number for number in itertools.count() if number not in taken)
    for each in files:
        yield each if each.said else each._replace(number=next(free))


def _check(each: PageFile, page: int) -> None:
    """Raise InputError if a file is no swap area."""
    if each.file.read_at(page - len(_MAGIC), len(_MAGIC)) != _MAGIC:
        raise InputError(
            f"is no swap area of a Linux with pages of {page} bytes: SWAPSPACE2 is not at the end of its first page",
            subject=each.file.path,
            remedy="name the file or the image of the partition that was swapped to, or leave it out of {page_files}",
        )
