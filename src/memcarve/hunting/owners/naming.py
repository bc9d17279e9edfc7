"""What the systems of processes say of addresses: regions and modules, of the processes asked about alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MemcarveError, encodable
from memcarve.intervals import PAGE, Intervals
from memcarve.labels.metadata_index import Known
from memcarve.paths import base_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import I64, U64
    from memcarve.hunting.owners.mappings import Mapper
    from memcarve.process import Container

_LONGEST = 500  # characters of a name: they come from evidence
_MOST_NAMES = 1 << 21  # regions and modules of which something is kept, in all


class _Places(NamedTuple):
    """Regions and modules of a process: where they lie, and what they are called."""

    modules: Intervals
    module_names: list[str]
    module_starts: list[int]
    regions: Intervals
    region_names: list[str | None]


_NOTHING = _Places(Intervals.of([]), [], [], Intervals.of([]), [])


class Named:
    """What is said of rows: `module` and `region` (int64, per row) are places in lists, -1 if nothing is known.

    `modules` and `regions` are the names; `inside` (uint64) is how far from the start of its module a row lies.
    """

    def __init__(self, rows: int) -> None:
        self.module = np.full(rows, -1, np.int64)
        self.region = np.full(rows, -1, np.int64)
        self.inside = np.zeros(rows, np.uint64)
        self.modules: list[str] = []
        self.regions: list[str | None] = []

    def module_texts(self) -> list[str | None]:
        """Return for each row its module and how far from its start it lies, as ``ntdll.dll+0x1a0``."""
        names, pairs = self.modules, zip(self.module.tolist(), self.inside.tolist(), strict=True)
        return [None if place < 0 else f"{names[place]}+0x{inside:x}" for place, inside in pairs]

    def region_texts(self) -> list[str | None]:
        """Return for each row what its region is, as ``image ntdll.dll`` or ``heap``."""
        names = self.regions
        return [None if place < 0 else names[place] for place in self.region.tolist()]


class Names:
    """Looks regions and modules up; a process's are read once, when the first of its addresses is asked for.

    `failures` are the mappers whose metadata could not be read, with the error.
    """

    def __init__(self, container: Container, mappers: Sequence[Mapper]) -> None:
        self._container = container
        self._mappers = mappers
        self._known: dict[int, _Places] = {}
        self._left = _MOST_NAMES
        self.failures: list[tuple[Mapper, MemcarveError]] = []

    def of(self, owner: np.ndarray, address: U64) -> Named:
        """Return what is known of addresses (uint64), each of the mapper that `owner` (int32) is the index of."""
        named = Named(len(owner))
        order = np.argsort(owner, kind="stable")
        numbers, first = np.unique(owner[order], return_index=True)
        bounds = [*first.tolist(), len(order)]
        for number, low, end in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
            if number >= 0:
                rows = order[low:end]
                self._name(named, rows, address[rows], self._places(number))
        return named

    def _name(self, named: Named, rows: I64, address: U64, places: _Places) -> None:
        if places is _NOTHING:
            return
        at = places.modules.owners_of(address)
        held = at >= 0
        if held.any():
            starts = np.array(places.module_starts, np.uint64)
            named.module[rows[held]] = at[held] + len(named.modules)
            named.inside[rows[held]] = address[held] - starts[at[held]]
            named.modules += places.module_names
        at = places.regions.owners_of(address)
        held = at >= 0
        if held.any():
            named.region[rows[held]] = at[held] + len(named.regions)
            named.regions += places.region_names

    def _places(self, number: int) -> _Places:
        known = self._known.get(number)
        if known is None:
            mapper = self._mappers[number]
            known = _NOTHING if mapper.index is None else self._read(mapper, mapper.index)
            self._known[number] = known
        return known

    def _read(self, mapper: Mapper, index: int) -> _Places:
        """Return the regions and modules of a process; nothing if they cannot be read, or are too many."""
        try:
            # whatever part of its memory is opened, the metadata is all that is known
            found = Known(self._container.open_span(index, 0, PAGE).metadata)
        except MemcarveError as error:
            self.failures.append((mapper, error))
            return _NOTHING
        count = len(found.regions) + len(found.modules)
        if count > self._left:
            problem = f"of more than {_MOST_NAMES} regions and modules in all nothing is said"
            self.failures.append((mapper, MemcarveError(problem, subject=str(self._container))))
            return _NOTHING
        self._left -= count
        names = [
            _shown(each.module.name or base_name(each.module.path or "") or "unnamed module") for each in found.modules
        ]
        starts = [each.module.start for each in found.modules]
        regions = [
            _shown(" ".join(filter(None, (kind, base_name(region.file or ""))))) or None
            for kind, region in zip(found.kinds, found.regions, strict=True)
        ]
        return _Places(found.module_pieces, names, starts, found.region_pieces, regions)


def _shown(name: str) -> str:
    return encodable(name[:_LONGEST])
