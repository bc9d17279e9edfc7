"""What a minidump says of memory besides its bytes: a row for each range, and one for each part of a region without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.formats.minidump import structures
from memcarve.intervals import Intervals
from memcarve.permissions import EXECUTE, PROT_NONE, TRANSITION, WRITE
from memcarve.protection import collapsed
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U32, U64, Records
    from memcarve.metadata import Region, Regions
    from memcarve.sinks.ranges import Ranges


_TYPES: dict[str, int] = {
    Kind.IMAGE: structures.IMAGE,
    Kind.MAPPED: structures.MAPPED,
    **dict.fromkeys((Kind.PRIVATE, Kind.STACK, Kind.HEAP, Kind.TEB, Kind.PEB), structures.PRIVATE),
}
#: three letters as Windows says them; what can be written can be read, too
_WORDS = {
    "---": "PAGE_NOACCESS",
    "r--": "PAGE_READONLY",
    "rw-": "PAGE_READWRITE",
    "-w-": "PAGE_READWRITE",
    "--x": "PAGE_EXECUTE",
    "r-x": "PAGE_EXECUTE_READ",
    "rwx": "PAGE_EXECUTE_READWRITE",
    "-wx": "PAGE_EXECUTE_READWRITE",
    "rc-": "PAGE_WRITECOPY",
    "rcx": "PAGE_EXECUTE_WRITECOPY",
}
#: loaders look protections up one by one, and find none for these: what is not written yet is as good as read-only
_PLAIN = {
    structures.PROTECTIONS["PAGE_WRITECOPY"]: structures.PROTECTIONS["PAGE_READONLY"],
    structures.PROTECTIONS["PAGE_EXECUTE_WRITECOPY"]: structures.PROTECTIONS["PAGE_EXECUTE_READ"],
}
_BASES = 0xFF


def memory_infos(found: Ranges, regions: Regions) -> Records:
    """Return rows of `layout.MEMORY_INFO` in order of addresses.

    Protect is what page tables allow where they do, else what the region began with, without write-copy; 0 where
    nothing is known. AllocationProtect is what the region began with, in full. The state is MEM_COMMIT throughout:
    what of a region is only reserved, is not known. What lies in no region is an allocation of its own.
    """
    holes = regions.pieces.subtract(Intervals(found.start, found.size))
    base = np.concatenate([found.start, holes.start])
    owner = np.concatenate([found.region, holes.owner])
    order = np.argsort(base, kind="stable")
    rows = np.zeros(len(base), structures.MEMORY_INFO)
    start, began_with, plain, kind = _columns(regions.rows)
    rows["base"] = base
    rows["size"] = np.concatenate([found.size, holes.size])
    rows["allocation"] = np.where(owner < 0, base, start[owner])
    rows["began_with"] = began_with[owner]
    rows["protect"] = plain[owner]
    rows["type"] = kind[owner]
    rows["state"] = structures.COMMIT
    if found.flags is not None:
        allowed = _ALLOWED[found.flags]
        protect = rows["protect"][: len(found)]
        rows["protect"][: len(found)] = np.where(allowed, allowed, protect)
    return rows[order]


def number_of(protection: str | None) -> int:
    """Return a region's protection as Windows numbers it; 0 where it is not known."""
    if protection is None:
        return 0
    return structures.number_of(protection) or structures.number_of(_WORDS.get(collapsed(protection) or "", ""))


def _columns(regions: Sequence[Region]) -> tuple[U64, U32, U32, U32]:
    """Return by region where its allocation begins, its protection in full and plain, its type.

    The last row is for no region.
    """
    known = {words: number_of(words) for words in {region.protection for region in regions}}
    full = np.array([*(known[region.protection] for region in regions), 0], np.uint32)
    plain = np.array([_plain(number) for number in full.tolist()], np.uint32)
    bases = [region.start if region.allocation is None else region.allocation for region in regions]
    start = np.array([*bases, 0], np.uint64)
    return start, full, plain, np.array([*map(_type, regions), 0], np.uint32)


def _plain(number: int) -> int:
    base = number & _BASES
    return _PLAIN.get(base, base) | (number & structures.GUARD)


def _type(region: Region) -> int:
    if region.kind is not None:
        return _TYPES.get(region.kind, 0)
    return 0 if region.private is None else structures.PRIVATE if region.private else structures.MAPPED


def _allowed(flags: int) -> int:
    if flags & (TRANSITION | PROT_NONE):
        return 0
    word = _WORDS[f"r{'w' if flags & WRITE else '-'}{'x' if flags & EXECUTE else '-'}"]
    return structures.PROTECTIONS[word]


_ALLOWED = np.array([_allowed(flags) for flags in range(256)], np.uint32)
