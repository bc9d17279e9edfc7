"""Where the sources contradict each other: what each of them says, in words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import printable
from memcarve.paths import base_name
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.labels.metadata_index import Known, Listed
    from memcarve.metadata import Metadata, Module, Region, Regions

_MOST = 10_000
_LONGEST = 200


class Conflict(NamedTuple):
    """What sources say differently of ``start <= x <= last``, in words."""

    start: int
    last: int
    text: str


class Conflicts(NamedTuple):
    """Conflicts by the place of the region they are about, or of the module; `more` were left out."""

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
    """Yield the place of a region of the first source, and what another says of its addresses."""
    for other in metadata.regions[1:]:
        first = metadata.regions[0]
        both, theirs = first.pieces.intersect(other.pieces)
        columns = (both.owner.tolist(), other.pieces.owner[theirs].tolist(), both.start.tolist(), both.last.tolist())
        for mine, place, start, last in zip(*columns, strict=True):
            for name, one, two in _different(first.rows[mine], other.rows[place]):
                yield mine, Conflict(start, last, _says(name, (first.source, one), (other.source, two)))
        yield from _elsewhere(first, other, set(both.owner.tolist()))


def _elsewhere(first: Regions, other: Regions, known: set[int]) -> Iterator[tuple[int, Conflict]]:
    """Yield the regions of the first source of whose addresses another source, which knows some, knows nothing."""
    for place, row in enumerate(first) if len(other) else ():
        if place not in known:
            text = f"region: {first.source} has one, {other.source} has none here"
            yield place, Conflict(row.start, row.end - 1, text)


def _different(one: Region, other: Region) -> Iterator[tuple[str, object, object]]:
    """Yield the name of each member that both know and do not agree on, and what they say."""
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
    """Yield the place of a module, and what another list says of the one at its address."""
    for place, listed, source, other in _same_address(metadata, known):
        for what in _unlike(listed.module, listed.source, other, source):
            yield place, _of_module(listed.module, _says(*what))


def _of_module(module: Module, text: str) -> Conflict:
    return Conflict(module.start, module.end - 1, text)


def _same_address(metadata: Metadata, known: Known) -> Iterator[tuple[int, Listed, str, Module]]:
    """Yield each module's place and itself, with what another list has at its address, and that list's source."""
    places = {listed.module.start: place for place, listed in enumerate(known.modules)}
    for modules in metadata.modules:
        for row in modules.rows:
            place = places[row.start]
            if known.modules[place].source != modules.source:
                yield place, known.modules[place], modules.source, row


def _unlike(
    one: Module, source: str, other: Module, another: str
) -> Iterator[tuple[str, tuple[str, object], tuple[str, object]]]:
    if one.size is not None and other.size is not None and one.size != other.size:
        yield "module's size", (source, one.size), (another, other.size)
    if one.name is not None and other.name is not None and one.name.lower() != other.name.lower():
        yield "module's name", (source, one.name), (another, other.name)


def _with_regions(metadata: Metadata, known: Known) -> Iterator[tuple[int, Conflict]]:
    """Yield the place of a module that is called or sized otherwise than the image that is mapped there."""
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
            yield place, Conflict(module.start, end - 1, ends)


def _says(name: str, one: tuple[str, object], other: tuple[str, object]) -> str:
    return f"{name}: {_shown(*one)}, {_shown(*other)}"


def _shown(source: str, value: object) -> str:
    return f"{source} says {printable(str(value))[:_LONGEST]}"
