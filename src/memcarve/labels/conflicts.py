"""Where the sources contradict each other: what each of them says, in words."""

from __future__ import annotations

import ntpath
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import printable
from memcarve.labels.spans import spans_of
from memcarve.names import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.evidence import Evidence, Module, Region, Regions
    from memcarve.labels.known import Known, Listed

_MOST = 10_000
_LONGEST = 200


class Conflicts(NamedTuple):
    """Sentences by the place of the region they are about, or of the module; `more` were left out."""

    regions: dict[int, list[str]]
    modules: dict[int, list[str]]
    more: int

    def __len__(self) -> int:
        return sum(map(len, (*self.regions.values(), *self.modules.values()))) + self.more


def base_name(path: str) -> str:
    """Return the last part of a path of any system: what is behind its last slash of either kind."""
    return ntpath.basename(path)


def find_conflicts(evidence: Evidence, known: Known) -> Conflicts:
    """Compare each source of regions with the first, each list of modules with the others, modules with regions."""
    regions: dict[int, list[str]] = {}
    modules: dict[int, list[str]] = {}
    count = 0
    found = ((regions, place, text) for place, text in _between_regions(evidence))
    others = (
        (modules, place, text) for place, text in [*_between_modules(evidence, known), *_with_regions(evidence, known)]
    )
    for table, place, text in (*found, *others):
        here = table.setdefault(place, [])
        if text in here:
            continue
        count += 1
        if count <= _MOST:
            here.append(text)
    return Conflicts(regions, modules, max(count - _MOST, 0))


def _between_regions(evidence: Evidence) -> Iterator[tuple[int, str]]:
    """Yield the place of a region of the first source, and what another says of its addresses."""
    for other in evidence.regions[1:]:
        first = evidence.regions[0]
        both, theirs = spans_of(first).common(spans_of(other))
        for mine, place in dict.fromkeys(zip(both.owner.tolist(), theirs.tolist(), strict=True)):
            for name, one, two in _different(first.rows[mine], other.rows[place]):
                yield mine, _says(name, (first.source, one), (other.source, two))
        yield from _elsewhere(first, other)


def _elsewhere(first: Regions, other: Regions) -> Iterator[tuple[int, str]]:
    """Yield the regions of the first source of whose addresses another source knows nothing."""
    if not len(other):
        return
    both, _ = spans_of(first).common(spans_of(other))
    for place in sorted(set(range(len(first))) - set(both.owner.tolist())):
        yield place, f"region: {first.source} has one, {other.source} has none here"


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


def _between_modules(evidence: Evidence, known: Known) -> Iterator[tuple[int, str]]:
    """Yield the place of a module, and what another list says of the one at its address."""
    for place, listed, source, other in _same_address(evidence, known):
        yield from ((place, _says(*what)) for what in _unlike(listed.module, listed.source, other, source))


def _same_address(evidence: Evidence, known: Known) -> Iterator[tuple[int, Listed, str, Module]]:
    """Yield each module's place and itself, with what another list has at its address, and that list's source."""
    places = {listed.module.start: place for place, listed in enumerate(known.modules)}
    for modules in evidence.modules:
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


def _with_regions(evidence: Evidence, known: Known) -> Iterator[tuple[int, str]]:
    """Yield the place of a module that has another file name than the image that is mapped there."""
    own = [(place, listed.source, listed.module) for place, listed in enumerate(known.modules)]
    others = [(place, source, row) for place, _, source, row in _same_address(evidence, known)]
    for place, source, module in (*own, *others):
        held = known.region_at(module.start)
        if held is None or module.name is None:
            continue
        region = known.regions[held]
        if region.kind == IMAGE and region.file is not None:
            mapped = base_name(region.file)
            if mapped.lower() != module.name.lower():
                yield place, _says("file", (known.source or "", mapped), (source, module.name))


def _says(name: str, one: tuple[str, object], other: tuple[str, object]) -> str:
    return f"{name}: {_shown(*one)}, {_shown(*other)}"


def _shown(source: str, value: object) -> str:
    return f"{source} says {printable(str(value))[:_LONGEST]}"
