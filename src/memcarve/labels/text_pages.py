"""The code that a process has of files: which pages of them are in memory, and where their bytes lie in the image.

All processes that map a page of a file have the same frame of memory for it, until one of them writes to it (or a
debugger does): then that one has a frame of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MemcarveError
from memcarve.intervals import PAGE, TOP, Intervals, expand
from memcarve.permissions import EXECUTE, NOT_PRESENT, USER, WRITE
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcarve.backing import Backing
    from memcarve.dtypes import I64, U64
    from memcarve.metadata import Region
    from memcarve.process import ProcessMemory

_MOST_PAGES = 1 << 18  # of one process's code
#: what identifies a file
Key = tuple[object, ...]
_IMAGE = "image"


class Text(NamedTuple):
    """The pages of one file's code that a process has, in order of their places in the file, each once.

    `base` is where it has the file. Columns (uint64): `page` in the file (of a Windows image: in the image), `offset`
    of its bytes in the backing.
    """

    base: int
    page: U64
    offset: U64

    def address(self, row: int) -> int:
        """Return where a page lies."""
        return (self.base + int(self.page[row]) * PAGE) % TOP

    def at(self, page: int) -> int | None:
        """Return the offset of a page's bytes, None if it is not there."""
        row = int(np.searchsorted(self.page, np.uint64(page)))
        return int(self.offset[row]) if row < len(self.page) and int(self.page[row]) == page else None


class MappedFiles(NamedTuple):
    """Of a process: the backing of its bytes, its code by file, and where the first pages of its images lie.

    A file may be mapped at several addresses. An image's first page, with its header, is told by file: where the image
    is, and the offset of the page. `left_out` counts pages of code that are too many: those of the largest mappings.
    """

    backing: Backing
    texts: Mapping[Key, Sequence[Text]]
    headers: Mapping[Key, tuple[int, int]]
    left_out: int = 0


def can_be_compared(regions: Sequence[Region]) -> bool:
    """Return True if a region says which part of which file it runs."""
    return any(key_of(row) is not None for row in regions)


def mapped_files_of(process: ProcessMemory) -> MappedFiles:
    """Return what a process has of files; nothing if that cannot be read."""
    try:
        return MappedFiles(process.space.backing, *_files(process))
    except MemcarveError:
        return MappedFiles(process.space.backing, {}, {})


def key_of(row: Region) -> Key | None:
    """Return what identifies the file of a region that runs code and may not be written to; None of any other.

    Of a Windows image that is its path and its size in memory: a file that was replaced may have its path.
    """
    if row.kind == Kind.IMAGE and row.file is not None and row.offset is None:
        return (_IMAGE, row.file.lower(), row.size)
    if row.collapsed not in ("r-x", "--x") or row.offset is None or row.file is None or row.offset % PAGE:
        return None
    known = row.device is not None and row.inode is not None and row.inode > 0
    return (row.device, row.inode) if known else (row.file,)


def is_relocated(key: Key) -> bool:
    """Return True if a file's code depends on where it is mapped, as that of a Windows image may."""
    return key[0] == _IMAGE


def _files(process: ProcessMemory) -> tuple[dict[Key, list[Text]], dict[Key, tuple[int, int]], int]:
    rows = process.metadata.regions[0].rows if process.metadata.regions else ()
    chosen = [(row, key) for row in rows if (key := key_of(row)) is not None]
    space = process.space
    if not chosen or not len(space):
        return {}, {}, 0
    wanted = Intervals.of((row.start, row.size) for row, _ in chosen)
    owned = Intervals(wanted.start, wanted.size, np.arange(len(chosen)))
    held, extent = owned.intersect(Intervals(space.start, space.size))
    image = np.array([row.offset is None for row, _ in chosen], np.bool_)
    headers = _headers(process, chosen, image)
    whole = (held.size >= np.uint64(PAGE)) & (held.start % np.uint64(PAGE) == 0)
    if image.any():
        # what the page tables let programs run and not write: the region says nothing of single pages
        bits = np.uint8(USER | EXECUTE | WRITE | NOT_PRESENT)
        runs = np.zeros(len(space), np.bool_) if space.flags is None else space.flags & bits == USER | EXECUTE
        whole &= ~image[held.owner] | runs[extent]
    of_region = np.bincount(held.owner[whole], held.size[whole] // np.uint64(PAGE), len(chosen))
    smallest = np.argsort(of_region, kind="stable")
    kept = np.zeros(len(chosen), np.bool_)
    kept[smallest] = np.cumsum(of_region[smallest]) <= _MOST_PAGES
    whole &= kept[held.owner]
    pages = (held.size[whole] // np.uint64(PAGE)).astype(np.int64)
    mine, step = expand(pages)
    address = held.start[whole][mine] + step.astype(np.uint64) * np.uint64(PAGE)
    row = extent[whole][mine]
    offset = space.offset[row] + (address - space.start[row])
    owner = held.owner[whole][mine]
    begin = np.array([region.start for region, _ in chosen], np.uint64)
    place = np.array([region.offset or 0 for region, _ in chosen], np.uint64)
    page = (place[owner] + (address - begin[owner])) // np.uint64(PAGE)
    return _by_file(chosen, owner, page, offset), headers, int(of_region[~kept].sum())


def _headers(
    process: ProcessMemory, chosen: Sequence[tuple[Region, Key]], image: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> dict[Key, tuple[int, int]]:
    """Return where the first pages of images lie, as far as they are in memory."""
    space = process.space
    starts = np.array([row.start for row, _ in chosen], np.uint64)
    held = Intervals(space.start, space.size).rows_of(starts)
    found: dict[Key, tuple[int, int]] = {}
    for place in np.flatnonzero(image & (held >= 0)).tolist():
        row = int(held[place])
        offset = int(space.offset[row]) + chosen[place][0].start - int(space.start[row])
        found.setdefault(chosen[place][1], (chosen[place][0].start, offset))
    return found


def _by_file(chosen: Sequence[tuple[Region, Key]], owner: I64, page: U64, offset: U64) -> dict[Key, list[Text]]:
    """Return the pages of each file, of each address that it is mapped at by itself."""
    found: dict[Key, list[Text]] = {}
    mappings: dict[tuple[Key, int], list[int]] = {}
    for place, (row, key) in enumerate(chosen):
        mappings.setdefault((key, row.start - (row.offset or 0)), []).append(place)
    order = np.argsort(owner, kind="stable")
    first, end = (np.searchsorted(owner[order], np.arange(len(chosen)), side) for side in ("left", "right"))
    for (key, base), places in mappings.items():
        here = np.concatenate([order[first[at] : end[at]] for at in places])
        unique, again = np.unique(page[here], return_index=True)
        if len(unique):
            found.setdefault(key, []).append(Text(base, unique, offset[here][again]))
    return found
