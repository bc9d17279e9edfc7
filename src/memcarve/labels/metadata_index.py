"""What is known about a process, by address, to be joined with segments; and the conflicts between sources."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import printable
from memcarve.intervals import TOP, Intervals, smallest_owner
from memcarve.metadata import Regions
from memcarve.paths import base_name
from memcarve.protection import is_of_unix
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.metadata import Metadata, Module, Region
    from memcarve.process import ProcessMemory


#: the kinds of memory that are the process's own
OWN = frozenset({Kind.PRIVATE, Kind.STACK, Kind.HEAP})
_SHOWN = 5
#: what stands before the name of the file in the name of a source
_FILE = re.compile(r"\w+ (?=\()")


class Listed(NamedTuple):
    """A module and the source that lists it."""

    module: Module
    source: str


class Known:
    """The metadata of a process by address; the first source of regions takes precedence.

    `regions`, `modules` and `areas` are the rows, `region_pieces` and so on their intervals; `kinds` are the regions'
    kinds, refined by areas. `conflicts` are the differences between sources. Of the `process`, if it is given, are
    known: `subject`, for messages; `entry`, what the list of processes says; `architecture`; and `kernel_half`, the
    first address that is not its own.
    """

    def __init__(self, metadata: Metadata, process: ProcessMemory | None = None) -> None:
        self.metadata = metadata
        self.subject = "" if process is None else str(process.entry)
        self.entry = None if process is None else process.entry
        self.architecture = None if process is None else process.architecture
        self.kernel_half = TOP if process is None else process.kernel_half
        self.source = metadata.regions[0].source if metadata.regions else None
        self._first = metadata.regions[0] if metadata.regions else Regions("", [])
        self.regions: Sequence[Region] = self._first.rows
        self.region_pieces = self._first.pieces
        self.modules, self.module_pieces = self._placed_modules(metadata)
        areas = [area for each in metadata.areas for area in each.rows if not area.whole]
        self.areas, self.area_pieces = placed(areas, [(area.start, area.end) for area in areas])
        self.kinds, self.whole_areas = self._kinds(metadata)
        #: whether anything is known about regions' kinds, protections, files; everything is if there are no regions
        none = bool(metadata.regions) and not self.regions
        self.has_kinds = none or any(kind is not None for kind in self.kinds)
        self.has_protections = none or any(row.collapsed is not None for row in self.regions)
        self.has_files = none or any(row.file is not None for row in self.regions)
        #: whether regions are of a Unix, which says what is protected now, and what is mapped by the file's name
        self.is_unix = any(is_of_unix(row.protection) for row in self.regions)
        self._texts: dict[int, str] = {}
        self.conflicts: Conflicts = find_conflicts(metadata, self)

    @property
    def notes(self) -> list[str]:
        """The first conflicts between sources, in words, and how many more there are; within one file in one line."""
        lists = (*self.conflicts.regions.values(), *self.conflicts.modules.values())
        found = [f"conflict at 0x{start:x}: {text}" for start, _, text in sorted(itertools.chain(*lists))]
        if len(found) > 1 and self._of_one_file:
            return [f"{found[0]}; {len(self.conflicts) - 1} more conflicts within the same file"]
        more = len(self.conflicts) - len(found[:_SHOWN])
        return [*found[:_SHOWN], *([f"{more} more conflicts between sources"] if more else [])]

    @property
    def _of_one_file(self) -> bool:
        """Whether all sources of regions and modules are lists of one file, as those of a minidump are."""
        sources = [each.source for each in self.metadata.regions] + [each.source for each in self.metadata.modules]
        return len({_FILE.sub("", source) for source in sources}) == 1 and _FILE.match(sources[0]) is not None

    def region_text(self, place: int) -> str:
        """Return what is known about a region as JSON."""
        text = self._texts.get(place)
        if text is None:
            text = self._texts[place] = _region_text(self.regions[place], _kind(self.regions[place]))
        return text

    def is_unbacked(self, place: int) -> bool:
        """Return True if no file backs a region: it is the process's own, or shared memory without a file."""
        region, kind = self.regions[place], self.kinds[place]
        return (kind in OWN and (region.file is None or region.private is True)) or (
            kind == Kind.MAPPED and region.file is None and region.inode in (None, 0)
        )

    def region_at(self, address: int) -> int | None:
        """Return the index of the region that holds an address; None if none does."""
        return self._first.at(address)

    def allocation(self, place: int) -> Region:
        """Return the allocation that a region is part of, given the region's index."""
        return self._first.allocations[place][0]

    def allocated(self, place: int) -> range:
        """Return the indices of all regions in the same allocation as one, given by its index."""
        return self._first.allocations[place][1]

    def module_end(self, module: Module) -> int:
        """Return where a module ends at the latest: with the mapping that it begins in."""
        return self._first.module_end(module)

    def _kinds(self, metadata: Metadata) -> tuple[list[str | None], dict[int, list[Region]]]:
        """Return the kind of each region, and by the region's index the areas that determined it."""
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
        """Return the modules of all lists with their intervals; at one address, the first list's module counts."""
        found: dict[int, Listed] = {}
        for modules in metadata.modules:
            for row in modules.rows:
                found.setdefault(row.start, Listed(row, modules.source))
        return placed([*found.values()], [(row.module.start, self.module_end(row.module)) for row in found.values()])


def _kind(region: Region) -> str | None:
    """Return a region's kind; an unshared region of unknown kind is private."""
    if region.kind is None and region.private:
        return Kind.PRIVATE
    return region.kind


def _region_text(region: Region, kind: str | None) -> str:
    return json.dumps(region._replace(kind=kind).facts())


def placed(rows: list[Any], bounds: list[tuple[int, int]]) -> tuple[list[Any], Intervals]:
    """Return rows in order of addresses, with their intervals; a shared address belongs to the smallest row."""
    order = sorted(range(len(rows)), key=bounds.__getitem__)
    given = Intervals.of((low, min(max(min(high, TOP) - low, 1), TOP - 1)) for low, high in sorted(bounds))
    return [rows[place] for place in order], smallest_owner(given.start, given.size)


_MOST = 10_000
_LONGEST = 200


#: a contradiction between sources: the first and last address that it concerns, and the words
Conflict = tuple[int, int, str]


class Conflicts(NamedTuple):
    """Conflicts by the index of the region or module that they concern; `more` were left out."""

    regions: dict[int, list[Conflict]]
    modules: dict[int, list[Conflict]]
    more: int

    def __len__(self) -> int:
        return sum(map(len, (*self.regions.values(), *self.modules.values()))) + self.more


def find_conflicts(metadata: Metadata, known: Known) -> Conflicts:
    """Compare each source of regions with the first, each list of modules with the others, modules with regions."""
    regions: dict[int, list[Conflict]] = {}
    modules: dict[int, list[Conflict]] = {}
    about_modules = itertools.chain(_between_modules(metadata, known), _with_regions(metadata, known))
    kinds = (regions, _between_regions(metadata)), (modules, about_modules)
    kept = more = 0
    for table, conflicts in kinds:
        for place, conflict in conflicts:
            if kept < _MOST:
                table.setdefault(place, []).append(conflict)
                kept += 1
            else:  # from here on they are only counted
                more += 1
    return Conflicts(regions, modules, more)


def _between_regions(metadata: Metadata) -> Iterator[tuple[int, Conflict]]:
    """Yield the index of a region of the first source, and a conflict with another source about its addresses."""
    for other in metadata.regions[1:]:
        first = metadata.regions[0]
        both, theirs = first.pieces.intersect(other.pieces)
        columns = (both.owner.tolist(), other.pieces.owner[theirs].tolist(), both.start.tolist(), both.last.tolist())
        for mine, place, start, last in zip(*columns, strict=True):
            for name, one, two in _different(first.rows[mine], other.rows[place]):
                yield mine, (start, last, _says(name, (first.source, one), (other.source, two)))
        yield from _elsewhere(first, other, set(both.owner.tolist()))


def _elsewhere(first: Regions, other: Regions, known: set[int]) -> Iterator[tuple[int, Conflict]]:
    """Yield the regions of the first source that another source, which has some, lacks."""
    for place, row in enumerate(first) if len(other) else ():
        if place not in known:
            text = f"region: {first.source} has one, {other.source} has none here"
            yield place, (row.start, row.end - 1, text)


def _different(one: Region, other: Region) -> Iterator[tuple[str, object, object]]:
    """Yield the name of each member on which two regions disagree, and both values."""
    mine, theirs = one.protection, other.protection
    if mine is not None and theirs is not None and mine != theirs:
        # r-xp and r-x say the same; words of Windows with the same letters may say different things
        same = one.collapsed is not None and one.collapsed == other.collapsed and "_" not in mine + theirs
        if not same:
            yield "protection", mine, theirs
    for name in ("kind", "private"):
        said = getattr(one, name), getattr(other, name)
        if None not in said and said[0] != said[1]:
            yield name, *said
    if one.file is not None and other.file is not None and one.file.lower() != other.file.lower():
        yield "file", one.file, other.file


def _between_modules(metadata: Metadata, known: Known) -> Iterator[tuple[int, Conflict]]:
    """Yield the index of a module, and a conflict with another list about the module at its address."""
    for place, (one, own), source, other in _same_address(metadata, known):
        if one.size is not None and other.size is not None and one.size != other.size:
            yield place, _of_module(one, _says("module's size", (own, one.size), (source, other.size)))
        if one.name is not None and other.name is not None and one.name.lower() != other.name.lower():
            yield place, _of_module(one, _says("module's name", (own, one.name), (source, other.name)))


def _of_module(module: Module, text: str) -> Conflict:
    return module.start, module.end - 1, text


def _same_address(metadata: Metadata, known: Known) -> Iterator[tuple[int, Listed, str, Module]]:
    """Yield each module and its index, with the source and the module of another list at its address."""
    places = {listed.module.start: place for place, listed in enumerate(known.modules)}
    for modules in metadata.modules:
        for row in modules.rows:
            place = places[row.start]
            if known.modules[place].source != modules.source:
                yield place, known.modules[place], modules.source, row


def _with_regions(metadata: Metadata, known: Known) -> Iterator[tuple[int, Conflict]]:
    """Yield the index of a module whose name or size differs from the image that is mapped there."""
    own = [(place, listed.source, listed.module) for place, listed in enumerate(known.modules)]
    others = [(place, source, row) for place, _, source, row in _same_address(metadata, known)]
    for place, source, module in (*own, *others):
        held = known.region_at(module.start)
        if held is None:
            continue
        region, says = known.regions[held], known.source or ""
        if region.kind == Kind.IMAGE and region.file is not None and module.name is not None:
            mapped = base_name(region.file)
            if mapped.lower() != module.name.lower():
                yield place, _of_module(module, _says("file", (says, mapped), (source, module.name)))
        end = known.module_end(module)
        if module.size and end < module.end:
            ends = _says("end of the module", (says, f"0x{end:x}"), (source, f"0x{module.end:x}"))
            yield place, (module.start, end - 1, ends)


def _says(name: str, one: tuple[str, object], other: tuple[str, object]) -> str:
    return f"{name}: {_shown(*one)}, {_shown(*other)}"


def _shown(source: str, value: object) -> str:
    return f"{source} says {printable(str(value))[:_LONGEST]}"
