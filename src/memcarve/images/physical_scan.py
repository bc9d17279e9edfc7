"""Looking through all of a machine's memory, block by block."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from memcarve.backing import fetch_ahead, next_written
from memcarve.errors import SourceReadError
from memcarve.intervals import PAGE, chunks, distinct, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.dtypes import U8, U64
    from memcarve.images.physical import PhysicalMemory
    from memcarve.intervals import Intervals
    from memcarve.space import AddressSpace


_T = TypeVar("_T")

BLOCK = 1 << 22  # bytes looked at together
_SMALL = BLOCK // 4  # bytes of a range that is looked at together with others
_STEP = 4  # blocks that a thread takes at a time
_THREADS = min(os.cpu_count() or 1, 4)


class Block(NamedTuple):
    """Pages to look at together: where they lie in the backing (offset, size); their physical addresses (uint64).

    Without `pieces` the pages are among the memory's `seams`.
    """

    pieces: list[tuple[int, int]]
    physical: U64


def everything(memory: PhysicalMemory) -> Iterator[Block]:
    """Yield all the memory in ascending order, but for large holes of a sparse file and what is not stored: zeros.

    Pages that do not lie in one range whole come by themselves. The memory's `progress` is told how far it is.
    """
    return _told(memory, _everything(memory))


def _told(memory: PhysicalMemory, blocks: Iterator[Block]) -> Iterator[Block]:
    """Yield the blocks, and tell the memory's `progress`; that it ends even if the caller has seen enough."""
    tell = memory.progress
    if tell is None:
        yield from blocks
        return
    try:
        for block in blocks:
            yield block
            tell(int(block.physical[-1]) + PAGE, max(memory.end, 1))
    finally:
        tell(max(memory.end, 1), max(memory.end, 1))


def _everything(memory: PhysicalMemory) -> Iterator[Block]:
    backing = memory.backing
    stored, seams, passed = memory.is_stored, memory.seams, 0
    rows = (column[stored].tolist() for column in (memory.start, memory.size, memory.offset))
    # small ranges come together: some containers have hundreds of thousands
    small: list[tuple[int, int, int]] = []  # physical start, offset, size
    room = BLOCK
    for start, length, offset in zip(*rows, strict=True):
        done = -start % PAGE
        end = (start + length) // PAGE * PAGE - start
        before = int(np.searchsorted(seams, np.uint64(start + done))) if len(seams) else 0
        if small and (passed < before or end - done > room):
            yield _together(small)
            small, room = [], BLOCK
        yield from _seams(seams[passed:before])
        passed = before
        if done < end <= done + _SMALL:
            small.append((start + done, offset + done, end - done))
            room -= end - done
            continue
        if small and done < end:
            yield _together(small)
            small, room = [], BLOCK
        while done < end:
            hole = (next_written(backing, offset + done) - offset - done) // BLOCK
            if hole > 0:
                done += hole * BLOCK
                continue
            size = min(BLOCK, end - done)
            yield _together([(start + done, offset + done, size)])
            done += size
    if small:
        yield _together(small)
    yield from _seams(seams[passed:])


def _together(parts: list[tuple[int, int, int]]) -> Block:
    """Return the pages of ranges (physical start, offset, size) as a block."""
    start, _, size = (np.array(column, np.uint64) for column in zip(*parts, strict=True))
    row, within = expand((size // np.uint64(PAGE)).astype(np.int64))
    physical = start[row] + within.astype(np.uint64) * np.uint64(PAGE)
    return Block([(offset, length) for _, offset, length in parts], physical)


def _seams(physical: U64) -> Iterator[Block]:
    for part in chunks(len(physical), BLOCK // PAGE):
        yield Block([], physical[part])


def pages_of(memory: PhysicalMemory, space: AddressSpace) -> Iterator[Block]:
    """Yield the pages that an address space of an image maps, each once: those of `seams`, then by physical address."""
    return _told(memory, _pages_of(memory, space))


def _pages_of(memory: PhysicalMemory, space: AddressSpace) -> Iterator[Block]:
    if space.physical is None:
        return
    stored = space.offset <= np.uint64(memory.zeros_from - 1)
    first, size, page = space.physical[stored], space.size[stored], np.uint64(PAGE)
    low = first // page
    count = ((first + size - np.uint64(1)) // page - low + np.uint64(1)).astype(np.int64)
    row, within = expand(count)
    yield from _blocks_of(memory, distinct(low[row] + within.astype(np.uint64)) * page)


def part_of(memory: PhysicalMemory, wanted: Intervals) -> Iterator[Block]:
    """Yield the pages that lie in some physical ranges, which are disjoint, in ascending order."""
    page = np.uint64(PAGE)
    first = (wanted.start + (page - np.uint64(1))) // page
    end = (wanted.start + wanted.size) // page
    row, within = expand((np.maximum(end, first) - first).astype(np.int64))
    yield from _blocks_of(memory, distinct(first[row] + within.astype(np.uint64)) * page)


def _blocks_of(memory: PhysicalMemory, physical: U64) -> Iterator[Block]:
    """Yield pages by their addresses (sorted, each once): those of `seams` first; of the others those that are whole.

    What is only said to be zeros is left out.
    """
    seams = memory.on_seam(physical)
    yield from _seams(physical[seams])
    physical = physical[~seams & memory.holds(physical, PAGE)]
    offset = memory.offsets_of(physical)
    stored = offset <= np.uint64(memory.zeros_from - 1)
    physical, offset = physical[stored], offset[stored]
    for part in chunks(len(physical), BLOCK // PAGE):
        here = offset[part]
        breaks = np.flatnonzero(np.diff(here) != np.uint64(PAGE)) + 1
        begins = np.concatenate([[0], breaks, [len(here)]])
        pieces = zip(here[begins[:-1]].tolist(), (np.diff(begins) * PAGE).tolist(), strict=True)
        yield Block(list(pieces), physical[part])


def words_of(memory: PhysicalMemory, block: Block, buffer: U8) -> U64:
    """Read a block into a buffer; return its pages, shape (n, 512), uint64, valid until the buffer is used again."""
    if not block.pieces:
        return memory.pages(block.physical)
    done = 0
    if len(block.pieces) > 1:
        places = np.array(block.pieces, np.int64)
        fetch_ahead(memory.backing, places[:, 0], places[:, 1])
    for offset, size in block.pieces:
        memory.backing.read_into(offset, buffer[done : done + size].data)
        done += size
    return buffer[:done].view(np.uint64).reshape(-1, PAGE // 8)


def _page_by_page(memory: PhysicalMemory, block: Block, buffer: U8) -> tuple[U64, U64]:
    """Return the physical addresses and the words of those pages of a block that can be read."""
    single = [
        Block([(offset + at, PAGE)], block.physical) for offset, size in block.pieces for at in range(0, size, PAGE)
    ]
    single = single or [Block([], block.physical[row : row + 1]) for row in range(len(block.physical))]
    kept: list[int] = []
    for row, page in enumerate(single):
        place = buffer[len(kept) * PAGE : (len(kept) + 1) * PAGE]
        with contextlib.suppress(SourceReadError):
            place.view(np.uint64)[:] = words_of(memory, page, place)[0]
            kept.append(row)
    return block.physical[kept], buffer[: len(kept) * PAGE].view(np.uint64).reshape(-1, PAGE // 8)


def look_through(memory: PhysicalMemory, blocks: Iterable[Block], look: Callable[[U64, U64], _T]) -> Iterator[_T]:
    """Yield what `look` returns for the physical addresses and words of each block, in order.

    Several threads look at once; the caller may stop asking when it has enough. Pages that cannot be read are passed
    over, which the memory's notes say.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # takes a while to import

    def work(part: list[Block]) -> list[_T]:
        buffer, found = np.empty(BLOCK, np.uint8), []
        for block in part:
            physical = block.physical
            try:
                words = words_of(memory, block, buffer)
            except SourceReadError as error:
                memory.unreadable(str(error))
                physical, words = _page_by_page(memory, block, buffer)
            if len(physical):
                found.append(look(physical, words))
        return found

    waiting, pool, running = iter(blocks), ThreadPoolExecutor(_THREADS), deque[Future[list[_T]]]()
    try:
        while True:
            while len(running) < 2 * _THREADS and (part := list(itertools.islice(waiting, _STEP))):
                running.append(pool.submit(work, part))
            if not running:
                break
            yield from running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
