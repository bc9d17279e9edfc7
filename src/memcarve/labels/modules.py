"""Modules in memory: listed ones, those that the system mapped as images, and those whose header is there.

A module may map the first page of its file a second time: the header there belongs to the same module. Otherwise two
mappings of one file are two modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import AddressError, UsageError
from memcarve.formats.programs.first_page import first_page_again
from memcarve.formats.programs.mapped_module import MappedModule
from memcarve.intervals import PAGE, TOP
from memcarve.labels.filters import names_match
from memcarve.labels.header_scan import MOST_HEADERS, headers_in
from memcarve.labels.headers import name_of
from memcarve.labels.metadata_index import Known
from memcarve.paths import base_name
from memcarve.process import Selection
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memcarve.labels.headers import Header
    from memcarve.metadata import Module, Region
    from memcarve.process import ProcessMemory

    Progress = Callable[[int, int], object]

    from memcarve.formats.programs.first_page import Again
    from memcarve.space import AddressSpace


#: the source of a module that is found by its header
HEADER = "header"
_MOST_NAMED = 1 << 12  # headers whose own names are looked up


class FoundModules(NamedTuple):
    """Modules in order of their addresses, at most one per address; notes for the user."""

    modules: Sequence[MappedModule]
    notes: Sequence[str]


def find_modules(
    process: ProcessMemory, selection: Selection | None = None, *, progress: Progress | None = None
) -> FoundModules:
    """Return the modules of a process, selected by half, address, and patterns for file names.

    All memory of the half is searched for headers; `progress` is called with the bytes done and the total. Raises
    UsageError if the selection has other limits, SourceReadError.
    """
    wanted = selection or Selection()
    others = {name for name in wanted.by_labels if name != "file"}
    if others or wanted.min_size is not None or wanted.max_size is not None:
        raise UsageError("modules are chosen by half, address and file name alone")
    if "" in wanted.file:
        raise UsageError("a pattern for files is empty", remedy="write a name or path, like ntdll* or *.dll")
    search = _Search(process, wanted, progress)
    modules = [module for module in search.modules if _is_wanted(module, wanted)]
    if search.modules and not modules:
        there = f"{len(search.modules)} module{'s' * (len(search.modules) > 1)}"
        search.notes.append(f"of {there} in memory none is chosen")
    return FoundModules(modules, search.notes)


class _Search:
    """Finds the modules of one half of a process."""

    def __init__(self, process: ProcessMemory, selection: Selection, progress: Progress | None) -> None:
        self.process = process
        self.notes: list[str] = []
        self._half = selection.half or process.default_half
        self._known = Known(process.metadata)
        self._mappings = _mappings(self._known.regions)
        self._named = 0
        headers = self._headers(progress)
        listed: dict[int, list[tuple[Module, str]]] = {}
        for modules in process.metadata.modules:
            for row in modules.rows:
                listed.setdefault(row.start, []).append((row, modules.source))
        images = [row.start for place, row in enumerate(self._known.regions) if self._is_program(place)]
        starts = sorted(start for start in {*listed, *images, *headers} if self._is_in_half(start))
        again = parts_of_others(process.space, starts, headers, self._known)
        again = {start: first for start, first in again.items() if start not in listed}
        self._ends = self._further_ends(again)
        starts = [start for start in starts if start not in again]
        self.modules = [self._module(start, listed.get(start, []), headers.get(start)) for start in starts]

    def _headers(self, progress: Progress | None) -> dict[int, Header]:
        """Return the headers in memory, by address."""
        segments = self.process.space.segments()
        segments = segments.where(segments.in_half(self._half, self.process.kernel_half))
        found, more = headers_in(self.process.space, segments, MOST_HEADERS, progress)
        if more:
            self.notes.append(
                f"there are some {more} more headers of programs than the {len(found)} that are looked at; choose less "
                "memory by half"
            )
        return {header.address: header for header in found}

    def _further_ends(self, again: Mapping[int, int]) -> dict[int, int]:
        """Return the ends of modules that have a part elsewhere, by their starts."""
        ends: dict[int, int] = {}
        for part, start in again.items():
            held = self._known.region_at(part)
            if held is not None:
                ends[start] = max(ends.get(start, 0), self._mappings[held].end)
        return ends

    def _is_in_half(self, address: int) -> bool:
        return self._half == "all" or (address >= self.process.kernel_half) == (self._half == "kernel")

    def _is_program(self, place: int) -> bool:
        """Return True if a region is the first one of a mapped program or library."""
        row, kind, mapping = self._known.regions[place], self._known.kinds[place], self._mappings[place]
        of_file = kind == Kind.MAPPED and row.file is not None and row.offset == 0
        return (kind == Kind.IMAGE and row.start == mapping.start) or (of_file and mapping.executable)

    def _module(self, start: int, listed: Sequence[tuple[Module, str]], header: Header | None) -> MappedModule:
        known = self._known
        held = known.region_at(start)
        region = None if held is None else known.regions[held]
        mapping = None if held is None else self._mappings[held]
        image = held is not None and region is not None and region.start == start and self._is_program(held)
        size = next((row.size for row, _ in listed if row.size is not None), None)
        if size is None and header is None and mapping is not None and image:
            size = mapping.file_end - start
        path = next((row.path for row, _ in listed if row.path is not None), region and region.file)
        name = next((row.name for row, _ in listed if row.name is not None), path and base_name(path))
        sources = [*dict.fromkeys(source for _, source in listed)]
        if region is not None and image and known.source is not None:
            sources.append(known.source)
        facts = None
        if header is not None:
            sources.append(HEADER)
            facts = header.members()
            self._named += 1
            own = name_of(self.process.space.read, header) if self._named <= _MOST_NAMED else None
            facts |= {} if own is None else {"name": own}
        end = None if mapping is None else max(mapping.end, self._ends.get(start, 0))
        loaded = bool(listed) or image
        return MappedModule(start, size, end, name, path, tuple(dict.fromkeys(sources)), loaded, facts)


class _Mapping:
    """A mapping and the extent of its regions."""

    def __init__(self, regions: list[Region]) -> None:
        self.start, self.end = regions[0].start, min(regions[-1].end, TOP)
        #: where the part that belongs to its file ends, and whether any of it is executable
        self.file_end = max(row.end for row in regions if row.file == regions[0].file)
        self.executable = any("x" in (row.collapsed or "") for row in regions)


def _mappings(regions: Sequence[Region]) -> list[_Mapping]:
    """Return for each region the mapping that it is part of.

    Windows maps an image as one region (with a tag), which some sources divide by protection (and may give the
    allocation). Unix maps a file as several regions, with memory without a file between and after them. A mapping ends
    before another file, before an image, and at a gap unless its file continues after it.
    """
    groups: list[list[Region]] = []
    for row in regions:
        if groups and _continues(groups[-1], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [mapping for group in groups for mapping in [_Mapping(group)] * len(group)]


def _continues(group: list[Region], row: Region) -> bool:
    """Return True if a region continues the mapping that a group of regions is."""
    first, before = group[0], group[-1]
    if first.allocation is not None or row.allocation is not None:
        return first.allocation == row.allocation
    if before.tag is not None or row.tag is not None or (before.kind == Kind.IMAGE) != (row.kind == Kind.IMAGE):
        return False
    if before.end == row.start and row.file in (None, first.file):
        return True
    # not every source has all regions: after one that is left out, the file continues at a higher offset
    further = before.offset is not None and row.offset is not None and row.offset > before.offset
    return row.file is not None and row.file == first.file and before.end <= row.start and further


def _is_wanted(module: MappedModule, selection: Selection) -> bool:
    own = None if module.header is None else module.header.get("name")
    size = max(module.size or 1, (module.header or {}).get("size") or 1)
    end = module.start + max(module.room(size), 1)
    touched = not selection.address or any(start < end and module.start < last for start, last in selection.address)
    return touched and (not selection.file or names_match(selection.file, module.name, module.path, own))


def parts_of_others(
    space: AddressSpace, starts: Sequence[int], headers: Mapping[int, Header], known: Known
) -> dict[int, int]:
    """Return those of `starts` (ascending) that are parts of another module, each with the start of that module.

    That is so if the other module is loaded as its header says: the part is mapped to its end, from the same file as
    far as files are known, and has the same header if it is there. If the module's own header is missing, the part's
    header is used. Raises SourceReadError.
    """
    found: dict[int, int] = {}
    there = set(starts)
    for number, start in enumerate(starts):
        header = headers.get(start)
        if header is None or start in found:
            continue
        before = starts[number - 1] if number else start
        following = starts[number + 1] if number + 1 < len(starts) else start
        if before not in headers or following - start in range(1, (header.size or 0) + 1):
            for again in _first_page_again(space, start):
                other, first = start + again.place, start - again.place
                told = headers.get(other)
                same = told is None or _is_same(header, told)
                if other in there and same and _is_loaded(space, known, start, again, named=told is None):
                    found[other] = start
                if first == before and first not in headers and _is_loaded(space, known, first, again, named=True):
                    found[start] = first
    return found


def _first_page_again(space: AddressSpace, start: int) -> list[Again]:
    try:
        return first_page_again(space.read(start, PAGE))
    except AddressError:
        return []


def _is_same(one: Header, other: Header) -> bool:
    """Return True if two headers are the same except for what loaders change."""
    sections = [
        [(address - header.address, size, permissions) for address, size, permissions in header.sections]
        for header in (one, other)
    ]
    return sections[0] == sections[1] and all(
        getattr(one, name) == getattr(other, name) for name in ("format", "machine", "size", "timestamp")
    )


def _is_loaded(space: AddressSpace, known: Known, start: int, again: Again, *, named: bool) -> bool:
    """Return True if a module is loaded as its header says; with `named`, only if regions show that it is one file."""
    if not known.regions:
        return not named and _is_mapped(space, start + again.place) and _is_mapped(space, start + again.end - 1)
    held = [known.region_at(address) for address in (start, start + again.place, start + again.end - 1)]
    if None in held:
        return False
    own, other, last = (known.regions[place] for place in held if place is not None)
    if own.file != other.file or last.file not in (None, own.file) or (named and own.file is None):
        return False
    letters = own.collapsed
    return letters is None or again.executable is None or ("x" in letters) == again.executable


def _is_mapped(space: AddressSpace, address: int) -> bool:
    try:
        space.read(address, 1)
    except AddressError as error:
        return error.reason != space.absent
    return True
