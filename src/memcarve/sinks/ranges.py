"""What goes into one file that holds a whole process: ranges that end wherever something about the memory changes.

Loaders look protections and modules up by the first address of a range: each region, module and change of permissions
begins one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memcarve.errors import AddressError
from memcarve.formats.elf_layout import MAGIC
from memcarve.formats.programs import pe
from memcarve.formats.programs.first_page import first_page_again
from memcarve.intervals import PAGE, TOP, Intervals
from memcarve.metadata import Module, Regions, places
from memcarve.paths import base_name
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import I64, U8, U64
    from memcarve.metadata import Metadata, Region
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


@dataclass(frozen=True, eq=False)
class Ranges(Intervals):
    """Ranges in order of addresses, all of whose bytes are there.

    Columns, one row a range: `start`, `size` (uint64); `region` (int64), the place in `regions` of the one that holds
    it, -1 if none is known; `flags` (uint8, as in ``memcarve.permissions``), None if there are no page tables.
    `segments` are what was selected, `modules` those that are known, in order of addresses, each ending with its
    mapping; their size is None if unknown.
    """

    space: AddressSpace
    segments: Segments
    start: U64
    size: U64
    region: I64
    flags: U8 | None
    regions: Sequence[Region]
    modules: Sequence[Module]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def total(self) -> int:
        """The number of bytes."""
        return self.segments.total


def ranges(process: ProcessMemory, segments: Segments) -> Ranges:
    """Return the ranges that segments of a process consist of."""
    space, metadata = process.space, process.metadata
    regions = metadata.regions[0] if metadata.regions else Regions("", [])
    modules = known_modules(process, regions)
    parts = space.cut(segments, _changes(metadata, modules, space.changes()))
    flags = space.flags[parts.first.astype(np.int64)] if space.flags is not None else None
    return Ranges(
        space, segments, parts.start, parts.size, regions.pieces.owners_of(parts.start), flags, regions.rows, modules
    )


def known_modules(process: ProcessMemory, regions: Regions) -> list[Module]:
    """Return the modules that are listed, of several at one address the first list's; else the mapped images.

    Of a Unix those are the files that are mapped to be executed, or begin with a header.
    """
    metadata = process.metadata
    found: dict[int, Module] = {}
    for listed in metadata.modules:
        for row in listed.rows:
            size = regions.module_end(row) - row.start if row.size not in (None, 0) else None
            found.setdefault(row.start, row._replace(size=size))
    if not metadata.modules:
        programs = {row.file for row in regions.rows if row.kind == Kind.IMAGE or "x" in (row.collapsed or "")}
        end, parts = 0, dict[int, Module]()
        for region in regions.rows:
            if region.start < end or region.file is None or region.offset:
                continue
            part_of = parts.get(region.start)
            if part_of is not None and part_of.path == region.file:  # the loader mapped its first page once more
                end = regions.module_end(part_of._replace(start=region.start, size=TOP - region.start))
                found[part_of.start] = part_of._replace(size=end - part_of.start)
            elif region.file in programs or _begins_with_header(process.space, region.start):
                whole = Module(region.start, TOP - region.start, base_name(region.file), region.file)
                end = regions.module_end(whole)
                found[region.start] = whole._replace(size=end - region.start)
                parts = dict.fromkeys(_first_page_again(process.space, region.start), whole)
    return [found[start] for start in sorted(found)]


def _begins_with_header(space: AddressSpace, address: int) -> bool:
    try:
        return space.read(address, len(MAGIC)).startswith((MAGIC, pe.MZ))
    except AddressError:
        return False


def _first_page_again(space: AddressSpace, start: int) -> list[int]:
    """Return the addresses where a module's header says that it lies again."""
    try:
        return [start + again.place for again in first_page_again(space.read(start, PAGE))]
    except AddressError:
        return []


def pieces(space: AddressSpace, segments: Segments) -> tuple[U64, U64]:
    """Return offset and size (uint64) of the pieces of the backing that segments are made of, in their order."""
    stored = space.stored(segments)
    return stored.start, stored.size


def _changes(metadata: Metadata, modules: Sequence[Module], permissions: U64) -> U64:
    """Return the addresses (uint64) where something about the memory changes."""
    bounds = {row.start for row in modules} | {row.end for row in modules if row.size is not None}
    listed = np.array(sorted(bound for bound in bounds if bound < TOP), np.uint64)
    found = places(metadata, "region")
    return np.concatenate([listed, permissions, *([] if found is None else [found])])
