"""What the evidence says of a process's address space, arranged to be joined with segments."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.intervals import TOP, Intervals, smallest_owner
from memcarve.labels.conflicts import Conflicts, find_conflicts
from memcarve.metadata import Regions
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.metadata import Metadata, Module, Region

#: kinds of memory that are the process's own
OWN = frozenset({Kind.PRIVATE, Kind.STACK, Kind.HEAP})
_SHOWN = 5


class Listed(NamedTuple):
    """A module and the source that lists it."""

    module: Module
    source: str


class Known:
    """The evidence of one process by address; of several sources of regions the first one counts.

    `regions`, `modules` and `areas` are the rows, `region_pieces` and so on where they lie; `kinds` are the regions'
    kinds as areas change them. `conflicts` are the differences between sources.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.source = metadata.regions[0].source if metadata.regions else None
        self._first = metadata.regions[0] if metadata.regions else Regions("", [])
        self.regions: Sequence[Region] = self._first.rows
        self.region_pieces = self._first.pieces
        self.modules, self.module_pieces = self._placed_modules(metadata)
        self.areas, self.area_pieces = _placed_areas(metadata)
        self.kinds, self.whole_areas = self._kinds(metadata)
        #: whether anything at all is known of regions' kinds, protections, files; of no region at all, all of it is
        none = bool(metadata.regions) and not self.regions
        self.has_kinds = none or any(kind is not None for kind in self.kinds)
        self.has_protections = none or any(row.collapsed is not None for row in self.regions)
        self.has_files = none or any(row.file is not None for row in self.regions)
        self._texts: dict[int, str] = {}
        self.conflicts: Conflicts = find_conflicts(metadata, self)

    @property
    def notes(self) -> list[str]:
        """The first conflicts between sources, in words, and how many more there are."""
        lists = (*self.conflicts.regions.values(), *self.conflicts.modules.values())
        found = [f"conflict at 0x{start:x}: {text}" for start, _, text in sorted(itertools.chain(*lists))]
        more = len(self.conflicts) - len(found[:_SHOWN])
        return [*found[:_SHOWN], *([f"{more} more conflicts between sources"] if more else [])]

    def region_text(self, place: int) -> str:
        """Return a region as JSON, only what is known of it."""
        text = self._texts.get(place)
        if text is None:
            text = self._texts[place] = _region_text(self.regions[place], _kind(self.regions[place]))
        return text

    def is_unbacked(self, place: int) -> bool:
        """Say whether no file backs a region: it is the process's own, or shared memory that is of no file."""
        region, kind = self.regions[place], self.kinds[place]
        return (kind in OWN and (region.file is None or region.private is True)) or (
            kind == Kind.MAPPED and region.file is None
        )

    def region_at(self, address: int) -> int | None:
        """Return the place in `regions` of the one that holds an address; None where none does."""
        return self._first.at(address)

    def allocation(self, place: int) -> Region:
        """Return the allocation that the region at a place in `regions` is part of."""
        return self._first.allocations[place][0]

    def allocated(self, place: int) -> range:
        """Return the places in `regions` of all that are part of the same allocation as the one at a place."""
        return self._first.allocations[place][1]

    def module_end(self, module: Module) -> int:
        """Return where a module ends at most: with the mapping that it begins in, whatever it says."""
        return self._first.module_end(module)

    def _kinds(self, metadata: Metadata) -> tuple[list[str | None], dict[int, list[Region]]]:
        """Return the kind of each region, and the areas that made it so by the region's place."""
        kinds = [_kind(row) for row in self.regions]
        whole: dict[int, list[Region]] = {}
        for areas in metadata.areas:
            for area in areas.rows:
                held = self.region_at(area.start) if area.whole else None
                for place in () if held is None else self.allocated(held):
                    if kinds[place] in (None, *OWN):
                        kinds[place] = area.kind
                        whole.setdefault(place, []).append(area)
        return kinds, whole

    def _placed_modules(self, metadata: Metadata) -> tuple[list[Listed], Intervals]:
        """Return the modules of all lists, and where they lie; of those at one address the first list's."""
        found: dict[int, Listed] = {}
        for modules in metadata.modules:
            for row in modules.rows:
                found.setdefault(row.start, Listed(row, modules.source))
        return _placed([*found.values()], [(row.module.start, self.module_end(row.module)) for row in found.values()])


def _kind(region: Region) -> str | None:
    """Return a region's kind; what nobody else shares is private where nothing says more."""
    if region.kind is None and region.private:
        return Kind.PRIVATE
    return region.kind


def _region_text(region: Region, kind: str | None) -> str:
    record = {
        "start": f"0x{region.start:x}",
        "end": f"0x{region.end:x}",
        "protection": region.protection,
        "kind": kind,
        "file": region.file,
        "offset": region.offset,
        "tag": region.tag,
        "private": region.private,
        "allocation": None if region.allocation is None else f"0x{region.allocation:x}",
    }
    return json.dumps({name: value for name, value in record.items() if value is not None})


def _placed_areas(metadata: Metadata) -> tuple[list[Region], Intervals]:
    rows = [area for areas in metadata.areas for area in areas.rows if not area.whole]
    return _placed(rows, [(area.start, area.end) for area in rows])


def _placed(rows: list[Any], bounds: list[tuple[int, int]]) -> tuple[list[Any], Intervals]:
    """Return rows in order of addresses, and where they lie; where some overlap, an address is the smallest one's."""
    order = sorted(range(len(rows)), key=bounds.__getitem__)
    given = Intervals.of((low, min(max(min(high, TOP) - low, 1), TOP - 1)) for low, high in sorted(bounds))
    return [rows[place] for place in order], smallest_owner(given.start, given.size)
