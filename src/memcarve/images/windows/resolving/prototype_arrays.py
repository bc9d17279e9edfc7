"""Arrays of prototype PTEs: where a view of a section, which a VAD describes, has the entry of each of its pages.

A VAD names the entry of its first page, and the last one that follows it in the same array. A view of a data file may
go on in the array of the next subsection. Behind either end lies memory of someone else.

Sources: Microsoft's public symbols of _MMVAD (Subsection, FirstPrototypePte, LastContiguousPte, in this order in all
kernels) and of _SUBSECTION (ControlArea, SubsectionBase, NextSubsection; PtesInSubsection).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.windows.vads import IMAGE_MAP, LONG, SHORT, is_kernel
from memcarve.intervals import PAGE, TOP, Intervals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.dtypes import U64
    from memcarve.images.structure_reader import Reader
    from memcarve.images.windows.offsets import Tree
    from memcarve.images.windows.vads import Node

_POINTERS = struct.Struct("<QQQ")
_SUBSECTION = 0x30  # bytes of it that are read
#: where _SUBSECTION.PtesInSubsection may be: from Windows 8 on, and up to 7
_COUNTS = (0x2C, 0x18)
_MOST_STEPS = 1 << 16  # subsections that are followed in all
_ENTRY = 8


class Arrays(NamedTuple):
    """Parts of views, in order of VADs: `views` are addresses of the process, `entries` where the first one's entry is.

    `entries` (uint64) has a row for each of `views`. `wrong` counts views whose structures contradict each other.
    """

    views: Intervals
    entries: U64
    wrong: int


class _Subsection(NamedTuple):
    control_area: int
    base: int
    following: int
    counts: tuple[int, ...]


def arrays(reader: Reader, tree: Tree, nodes: Iterable[Node], start: int, end: int) -> Arrays:
    """Return the arrays of the views among VADs that have an address of ``start <= x < end``."""
    parts: list[tuple[int, int, int]] = []
    wrong, steps = 0, _MOST_STEPS
    for node in nodes:
        long = node.tag in LONG if node.private is None else not node.private and node.tag not in SHORT
        if not long or node.end <= start or node.start >= end or tree.subsection is None:
            continue
        found = _of_view(reader, tree, node, steps)
        if found is None:
            wrong += 1
        else:
            parts += found
            steps -= len(found)
    table = np.array(parts, np.uint64).reshape(-1, 3)
    return Arrays(Intervals(table[:, 0].copy(), table[:, 1].copy()), table[:, 2].copy(), wrong)


def _of_view(reader: Reader, tree: Tree, node: Node, most: int) -> list[tuple[int, int, int]] | None:
    """Return address, size and first entry of each part of a view; None if its structures contradict each other.

    Nothing if it has no prototypes: a view of physical memory has none.
    """
    data = reader.read(node.address + (tree.subsection or 0), _POINTERS.size)
    if data is None:
        return None
    subsection, first, last = _POINTERS.unpack(data)
    if not first:
        return []
    section = _read(reader, tree, subsection)
    pages = (node.end - node.start) // PAGE
    if section is None or not (is_kernel(first) and is_kernel(last)) or not section.base <= first <= last:
        return None
    if node.kind == IMAGE_MAP and section.base != first:  # an image is mapped from its beginning
        return None
    count = min((last - first) // _ENTRY + 1, pages)
    parts = [(node.start, count * PAGE, first)]
    # the number of entries of the subsection says where that number is
    at = next((at for at, number in enumerate(section.counts) if section.base + number * _ENTRY - _ENTRY == last), None)
    seen = {subsection}
    while count < pages and at is not None and len(parts) < most:
        address = section.following
        following = None if not address or address in seen else _read(reader, tree, address)
        if following is None or following.control_area != section.control_area or not following.counts[at]:
            break
        seen.add(address)
        section = following
        here = min(section.counts[at], pages - count, (TOP - section.base) // _ENTRY)
        parts.append((node.start + count * PAGE, here * PAGE, section.base))
        count += here
    return parts


def _read(reader: Reader, tree: Tree, address: int) -> _Subsection | None:
    """Return a subsection; None if it cannot be read, or is none."""
    if not is_kernel(address):
        return None
    data = reader.read(address, _SUBSECTION)
    if data is None:
        return None
    control_area, base, following = _POINTERS.unpack_from(data, tree.control_area)
    if not is_kernel(control_area) or not is_kernel(base):
        return None
    counts = tuple(int.from_bytes(data[at : at + 4], "little") for at in _COUNTS)
    return _Subsection(control_area, base, following, counts)
