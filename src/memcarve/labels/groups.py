"""What segments share that lie in the same regions, modules and areas: worked out once for neighbours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcarve.labels.metadata_index import Known, Listed
    from memcarve.metadata import Region

MOST_LISTED = 50_000  # regions listed of one segment


class Group:
    """What is known of an address range that touches these regions, modules and areas, given by their places."""

    def __init__(self, known: Known, regions: list[int], modules: list[int], areas: list[int]) -> None:
        self.regions: list[Region] = [known.regions[place] for place in regions]
        self.modules: list[Listed] = [known.modules[place] for place in modules]
        self.areas: list[Region] = [known.areas[place] for place in areas]
        self.protections: list[str] = distinct(row.collapsed for row in self.regions)
        self.region_kinds: list[str] = distinct(known.kinds[place] for place in regions)
        conflicts = known.conflicts
        lists = [*map(conflicts.regions.get, regions), *map(conflicts.modules.get, modules)]
        self._conflicts = sorted(conflict for found in lists if found is not None for conflict in found)
        self._whole = [area for place in regions for area in known.whole_areas.get(place, ())]
        self._region_text = known.region_text
        self._listed = regions[:MOST_LISTED]
        self._texts: list[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.regions or self.modules or self.areas)

    def kinds(self, start: int, last: int) -> list[str]:
        """Return the kinds of memory from `start` to `last`: what its own structures say, then its regions'."""
        if not self.areas:
            return self.region_kinds
        covered = any(area.start <= start and last < area.end for area in self.areas)
        return distinct([*(area.kind for area in self.areas), *([] if covered else self.region_kinds)])

    def conflicts(self, start: int, last: int) -> list[str]:
        """Return in what the sources contradict each other about addresses from `start` to `last`."""
        if not self._conflicts:
            return []
        return distinct(text for begin, end, text in self._conflicts if begin <= last and start <= end)

    def files(self, start: int) -> list[tuple[str, int | None]]:
        """Return path or name of what is mapped, and where in it `start` is: modules, else files; each once.

        None where `start` lies before it, or that is not known.
        """
        found: dict[str, int | None] = {}
        for listed in self.modules:
            name = listed.module.name or listed.module.path
            if name is not None:
                found.setdefault(name, start - listed.module.start if start >= listed.module.start else None)
        if not found:
            for region in self.regions:
                if region.file is not None:
                    known = region.offset is not None and start >= region.start
                    found.setdefault(region.file, (region.offset or 0) + start - region.start if known else None)
        return [*found.items()]

    def texts(self) -> list[str]:
        """Return the members for JSON that do not depend on the address: only those of what is known."""
        if self._texts is None:
            more = len(self.regions) - len(self._listed)
            regions = ", ".join(map(self._region_text, self._listed))
            self._texts = [
                *member("protection", self.protections),
                *([] if self.areas else member("kind", self.region_kinds)),
                *([f'"regions": [{regions}]'] if regions else []),
                *member("regions_not_listed", max(more, 0)),
                *member("areas", [_area(row) for row in (*self.areas, *self._whole)]),
            ]
        return self._texts


def distinct(values: Iterable[str | None]) -> list[str]:
    """Return the values that are known, each once, in order."""
    return [value for value in dict.fromkeys(values) if value is not None]


def member(name: str, value: Sequence[Any] | int) -> list[str]:
    """Return a member for JSON, in a list; nothing where there is nothing to say."""
    return [f'"{name}": {json.dumps(value)}'] if value else []


def module_record(listed: Listed, start: int) -> dict[str, Any]:
    """Return a module for JSON, with where in it `start` is."""
    module = listed.module
    record = {
        "name": module.name,
        "path": module.path,
        "base": f"0x{module.start:x}",
        "size": module.size,
        "offset": start - module.start if start >= module.start else None,
        "source": listed.source,
    }
    return {name: value for name, value in record.items() if value is not None}


def _area(row: Region) -> dict[str, Any]:
    record = {"kind": row.kind, "start": f"0x{row.start:x}", "end": f"0x{row.end:x}"}
    return {
        **record,
        **({"whole": True} if row.whole else {}),
        **({} if row.detail is None else {"detail": row.detail}),
    }
