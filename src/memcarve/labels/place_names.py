"""What a place in a process's memory is called: a module and how far in it, or the file that is mapped there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.labels.metadata_index import Known
from memcarve.paths import base_name

if TYPE_CHECKING:
    from memcarve.process import ProcessMemory


_LONGEST = 500  # characters of a name: they come from evidence


class PlaceNames:
    """Names of addresses in a process, by what its metadata knows of modules and regions."""

    def __init__(self, process: ProcessMemory) -> None:
        self._known = Known(process.metadata, process)

    def at(self, address: int) -> str | None:
        """Return ``ntdll.dll+0x1234``; None if neither a module nor a mapped file is known to be there."""
        known = self._known
        piece = known.module_pieces.at(address)
        if piece is not None:
            module = known.modules[int(known.module_pieces.owner[piece])].module
            name = module.name or module.path
            if name:
                return f"{base_name(name)[:_LONGEST]}+0x{address - module.start:x}"
        place = known.region_at(address)
        if place is None or not known.regions[place].file:
            return None
        return f"{base_name(str(known.regions[place].file))[:_LONGEST]}+0x{address - known.allocation(place).start:x}"
