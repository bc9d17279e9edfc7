"""Code that differs from the same file's in other processes: pages of executable mappings, compared through an image.

All processes that map a page of a file have the same frame of memory for it, until one of them writes to a private
mapping (or a debugger does): then that one has a frame of its own. So pages whose bytes lie at the same place of the
image are the same, and only the others are compared byte by byte.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MemcarveError, SourceReadError
from memcarve.intervals import PAGE, Intervals, expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.backing import Backing
    from memcarve.dtypes import I64, U64
    from memcarve.metadata import Region
    from memcarve.process import Others, ProcessMemory

_MOST_PAGES = 1 << 20  # of one process's code
_MOST_IN_ALL = 1 << 23  # of all processes' code: what is known of it is kept
_MOST_COMPARED = 1 << 12  # pages that are read to be compared
_Key = tuple[object, ...]


class Text(NamedTuple):
    """The pages of one file's code that a process has, in order of their places in the file, each once.

    Columns: `page` in the file (uint64, in pages), `offset` of its bytes in the backing, `address` (uint64).
    """

    page: U64
    offset: U64
    address: U64


class Difference(NamedTuple):
    """A page of code at `address` that differs: of which `file`, and at which `place` in it (bytes).

    `own` processes have these bytes there, this one among them; `others` have the same other bytes.
    """

    address: int
    file: str
    place: int
    own: int
    others: int


def can_be_compared(regions: Sequence[Region]) -> bool:
    """Return True if a region says which part of which file it runs."""
    return any(_key(row) is not None for row in regions)


def differing(process: ProcessMemory, others: Others) -> list[Difference]:
    """Return the pages of a process's code that differ from what as many or more other processes have there.

    At most 4,096 pages are read to be compared, and of other processes so many looked at that they hold 32 GiB of code
    together. What cannot be read is left out, as is a process that cannot be opened.
    """
    mine = text_of(process)
    names = {_key(row): row.file or "" for row in process.metadata.regions[0].rows}
    same = {key: np.ones(len(text.page), np.int64) for key, text in mine.items()}
    different: dict[tuple[_Key, int], Counter[int]] = defaultdict(Counter)
    for theirs in _texts_of(others, process.space.backing):
        for key in mine.keys() & theirs.keys():
            _, at, there = np.intersect1d(mine[key].page, theirs[key].page, assume_unique=True, return_indices=True)
            offset = theirs[key].offset[there]
            alike = mine[key].offset[at] == offset
            same[key][at[alike]] += 1
            for row, place in zip(at[~alike].tolist(), offset[~alike].tolist(), strict=True):
                if len(different) < _MOST_COMPARED or (key, row) in different:
                    different[key, row][place] += 1
    found = []
    read = _reader(process.space.backing)
    for (key, row), places in different.items():
        text, own = mine[key], int(same[key][row])
        content = read(int(text.offset[row]))
        if content is None:
            continue
        votes: Counter[bytes] = Counter()
        for place, count in places.items():
            if (data := read(place)) is not None:
                votes[data] += count
        own += votes.pop(content, 0)
        most = max(votes.values(), default=0)
        if most >= own:
            address, at_file = int(text.address[row]), int(text.page[row]) * PAGE
            found.append(Difference(address, names[key], at_file, own, most))
    return sorted(found)


def _texts_of(others: Others, backing: Backing) -> Iterator[dict[_Key, Text]]:
    """Yield the code of other processes whose bytes lie in the same backing, until they have too many pages."""
    left = _MOST_IN_ALL
    for here, text in others.of(_text_of_other):
        left -= sum(len(each.page) for each in text.values())
        if left < 0:
            return
        if here is backing:
            yield text


def text_of(process: ProcessMemory) -> dict[_Key, Text]:
    """Return the pages of a process's code that are there, by what identifies their file."""
    rows = process.metadata.regions[0].rows if process.metadata.regions else ()
    chosen = [(row, key) for row in rows if (key := _key(row)) is not None]
    space = process.space
    if not chosen or not len(space):
        return {}
    wanted = Intervals.of((row.start, row.size) for row, _ in chosen)
    owned = Intervals(wanted.start, wanted.size, np.arange(len(chosen)))
    held, extent = owned.intersect(Intervals(space.start, space.size))
    whole = (held.size >= np.uint64(PAGE)) & (held.start % np.uint64(PAGE) == 0)
    pages = (held.size[whole] // np.uint64(PAGE)).astype(np.int64)
    if int(pages.sum()) > _MOST_PAGES:
        return {}
    mine, step = expand(pages)
    address = held.start[whole][mine] + step.astype(np.uint64) * np.uint64(PAGE)
    row = extent[whole][mine]
    offset = space.offset[row] + (address - space.start[row])
    owner = held.owner[whole][mine]
    begin = np.array([region.start for region, _ in chosen], np.uint64)
    place = np.array([region.offset for region, _ in chosen], np.uint64)
    page = (place[owner] + (address - begin[owner])) // np.uint64(PAGE)
    return _by_file([key for _, key in chosen], owner, Text(page, offset, address))


def _by_file(keys: Sequence[_Key], owner: I64, text: Text) -> dict[_Key, Text]:
    found = {}
    files = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    number = np.array([files[key] for key in keys])[owner] if len(owner) else owner
    for key, wanted in files.items():
        here = np.flatnonzero(number == wanted)
        page, first = np.unique(text.page[here], return_index=True)
        if len(page):
            found[key] = Text(page, text.offset[here][first], text.address[here][first])
    return found


def _text_of_other(process: ProcessMemory) -> tuple[Backing, dict[_Key, Text]]:
    """Return where the bytes of another process lie, and its code; none if that cannot be read."""
    try:
        return process.space.backing, text_of(process)
    except MemcarveError:
        return process.space.backing, {}


def _reader(backing: Backing) -> functools._lru_cache_wrapper[bytes | None]:
    @functools.lru_cache(maxsize=2 * _MOST_COMPARED)
    def read(offset: int) -> bytes | None:
        data = bytearray(PAGE)
        try:
            backing.read_into(offset, memoryview(data))
        except SourceReadError:
            return None
        return bytes(data)

    return read


def _key(row: Region) -> _Key | None:
    """Return what identifies the file of a region that runs code and may not be written to; None of any other."""
    if row.collapsed not in ("r-x", "--x") or row.offset is None or row.file is None or row.offset % PAGE:
        return None
    known = row.device is not None and row.inode is not None and row.inode > 0
    return (row.device, row.inode) if known else (row.file,)
