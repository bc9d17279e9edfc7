"""What a place in a process's memory is called, and how far in it: a module, a mapped file, a stack, a heap, a TEB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.labels.metadata_index import Known, placed
from memcarve.paths import base_name
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from memcarve.process import ProcessMemory


_LONGEST = 500  # characters of a name: they come from evidence
#: what is called as what it is used for
_USED = frozenset({Kind.STACK, Kind.HEAP, Kind.TEB, Kind.PEB, Kind.PAGE_TABLES})


class PlaceNames:
    """Names of addresses in a process, by what its metadata knows of modules, regions and areas."""

    def __init__(self, process: ProcessMemory) -> None:
        self._known = Known(process.metadata, process)
        areas = [area for each in process.metadata.areas for area in each.rows if area.kind in _USED]
        self._areas, self._pieces = placed(areas, [(area.start, area.end) for area in areas])

    def at(self, address: int) -> str | None:
        """Return ``ntdll.dll+0x1234``, ``stack (thread 4321)+0x1f8`` or ``heap+0x50``; None if nothing is known of it.

        What is private or mapped, and no more is known of it, has no name.
        """
        known = self._known
        piece = known.module_pieces.at(address)
        if piece is not None:
            module = known.modules[int(known.module_pieces.owner[piece])].module
            name = module.name or module.path
            if name:
                return f"{base_name(name)[:_LONGEST]}+0x{address - module.start:x}"
        place = known.region_at(address)
        if place is not None and known.regions[place].file:
            name = base_name(str(known.regions[place].file))
            return f"{name[:_LONGEST]}+0x{address - known.allocation(place).start:x}"
        return self._used(address, place)

    def _used(self, address: int, place: int | None) -> str | None:
        """Return what an address is called, in the region at a place, by what it is used for."""
        known = self._known
        piece = self._pieces.at(address)
        area = None if piece is None else self._areas[int(self._pieces.owner[piece])]
        if area is None or area.whole:
            # all of the region is called so, and begins at one address
            if place is not None and known.kinds[place] in _USED:
                whole = known.whole_areas.get(place)
                detail = whole[0].detail if whole else None
                return _called(known.kinds[place], detail, address - known.allocation(place).start)
            if area is None:
                return None
        return _called(area.kind, area.detail, address - area.start)


def _called(kind: str | None, detail: str | None, offset: int) -> str:
    return f"{kind}{f' ({detail[:_LONGEST]})' if detail else ''}+0x{offset:x}"
