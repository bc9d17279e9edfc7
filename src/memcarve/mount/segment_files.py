"""The folder `segments/`: a file for each segment, named as carving names it. There may be half a million."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.formats import manifest
from memcarve.intervals import TOP
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

    def find(self, name: str) -> MemoryFile | None:
        """Return the segment's file; None if no segment has this name."""
        found = manifest.FILE_NAME.fullmatch(name)
        if found is None:
            return None
        start, end = int(found[1], 16), int(found[2], 16)
        if start >= TOP or name != manifest.file_name(start, end):
            return None
        row = int(np.searchsorted(self.segments.start, np.uint64(start)))
        if row == len(self.segments) or int(self.segments.start[row]) != start:
            return None
        size = int(self.segments.size[row])
        place = int(self.segments.offset[row]) if self.segments.extents[row] == 1 else None
        return MemoryFile(self.space, start, size, place) if start + size == end else None

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield names and sizes from the segment with the number `first` on."""
        for low in range(first, len(self.segments), _CHUNK):
            part = slice(low, low + _CHUNK)
            rows = zip(self.segments.start[part].tolist(), self.segments.size[part].tolist(), strict=True)
            for start, size in rows:
                yield Listed(manifest.file_name(start, start + size), size=size)
