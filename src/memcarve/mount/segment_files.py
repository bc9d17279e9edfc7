"""The folder `segments/`: a file for each segment, named as carving names it. There may be half a million."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from memcarve.formats import manifest
from memcarve.mount.memory_files import MemoryFile
from memcarve.mount.virtual_file import Folder, Listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

_CHUNK = 64  # entries that are named at a time: about as many as the system asks for at once


class SegmentFolder(Folder):
    """Files named by their addresses; what a name says is looked up, none is kept."""

    def __init__(self, space: AddressSpace, segments: Segments) -> None:
        super().__init__({})
        self.space = space
        self.segments = segments
        # to find one among numbers takes a fraction of the time that numpy takes
        self._starts, self._sizes = segments.start.data, segments.size.data

    def find(self, name: str) -> MemoryFile | None:
        """Return the segment's file; None if no segment has this name."""
        try:
            row = bisect_left(self._starts, int(name[2:18], 16))
        except ValueError:
            return None
        if row == len(self._starts):
            return None
        start, size = self._starts[row], self._sizes[row]
        if name != manifest.file_name(start, start + size):
            return None
        place = self.segments.offset.item(row) if self.segments.extents.item(row) == 1 else None
        return MemoryFile(self.space, start, size, place)

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield names and sizes from the segment with the number `first` on."""
        for low in range(first, len(self.segments), _CHUNK):
            part = slice(low, low + _CHUNK)
            rows = zip(self.segments.start[part].tolist(), self.segments.size[part].tolist(), strict=True)
            for start, size in rows:
                yield Listed(manifest.file_name(start, start + size), size=size)
