"""Pages that a slow walker finds in physical memory, and those of memcarve held against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.formats.images.machine import MachineMemory
from memcarve.images.physical import PhysicalMemory
from memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import walker
    from memcarve.images.paging import Pages

    Range = tuple[int, int, int]  # physical start, size, offset in the backing

PAGE = 4096
FLAGS = {"transition": 8, "prot-none": 16}


def physical_memory(data: bytes, ranges: Sequence[Range] | None = None) -> PhysicalMemory:
    """Return physical memory over bytes; by default these begin at physical address 0."""
    table = np.array([(0, len(data), 0)] if ranges is None else ranges, np.uint64).reshape(-1, 3)
    columns = (table[:, number].copy() for number in range(3))
    return PhysicalMemory(MachineMemory("test", Memory(data), *columns, [], declared=False))


def outside_lists(pages: Pages) -> list[list[int]]:
    """Return the starts, the sizes and the physical addresses of what is outside the image."""
    return [column.tolist() for column in (pages.outside.start, pages.outside.size, pages.outside.physical)]


def cut(
    regions: Sequence[tuple[int, int]], holes: Sequence[tuple[int, int]], seams: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the regions as (start, size), without the holes, in two where there is a seam."""
    pieces = []
    for start, size in regions:
        parts = [(start, start + size)]
        for low, length in holes:
            parts = [
                part
                for begin, end in parts
                for part in ((begin, min(end, low)), (max(begin, low + length), end))
                if part[0] < part[1]
            ]
        for seam in seams:
            parts = [
                part
                for begin, end in parts
                for part in ([(begin, seam), (seam, end)] if begin < seam < end else [(begin, end)])
            ]
        pieces += [(begin, end - begin) for begin, end in parts]
    return pieces


def reader(data: bytes, ranges: Sequence[Range]) -> Callable[[int, int], bytes | None]:
    """Return what reads physical memory, and None where any of it is missing."""

    def read(physical: int, size: int) -> bytes | None:
        parts, end = b"", physical + size
        for start, length, offset in ranges:
            low, high = max(physical, start), min(end, start + length)
            if low < high:
                parts += data[offset + low - start : offset + high - start]
        return parts if len(parts) == size else None

    return read


def flags_of(item: walker.Item) -> int:
    """Return the flags that memcarve should give a page of the walker."""
    return FLAGS[item[6]] if item[6] in FLAGS else item[3] * 1 + item[4] * 2 + item[5] * 4  # type: ignore[operator]


def expected(items: Sequence[walker.Item], ranges: Sequence[Range]) -> tuple[list[list[int]], list[list[int]]]:
    """Return what of the walker's pages lies in ranges (address, size, physical, offset, flags) and what does not."""
    inside, outside = [], []
    for item in items:
        address, size, physical = item[:3]
        done = physical
        for start, length, offset in ranges:
            low, high = max(physical, start), min(physical + size, start + length)
            if low < high:
                outside.append([address + done - physical, low - done, done])
                inside.append([address + low - physical, high - low, low, offset + low - start, flags_of(item)])
                done = high
        outside.append([address + done - physical, physical + size - done, done])
    return joined(inside), joined([row for row in outside if row[1]])


def joined(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Join rows that continue each other in memory and everywhere, with the same flags."""
    result: list[list[int]] = []
    for row in rows:
        last = result[-1] if result else None
        following = [last[0] + last[1], *(place + last[1] for place in last[2:4]), *last[4:]] if last else None
        if last and [row[0], *row[2:]] == following:
            last[1] += row[1]
        else:
            result.append(list(row))
    return result


def assert_same(pages: Pages, items: Sequence[walker.Item], ranges: Sequence[Range]) -> None:
    """Hold pages against the walker's: every byte's place and flags, what is outside, and how many there are."""
    inside, outside = expected(items, ranges)
    assert [list(row) for row in zip(*(column.tolist() for column in pages.placed.columns), strict=True)] == inside
    assert joined(list(zip(*outside_lists(pages), strict=True))) == outside
    counts = {"outside": sum(row[1] for row in outside) // PAGE}
    for name, chosen in (("transition", {8}), ("prot_none", {16}), ("present", set(range(8)))):
        counts[name] = sum(row[1] for row in inside if row[4] in chosen) // PAGE
    assert {name: pages.counts.get(name, 0) for name in counts} == counts
