"""The folder `segments/`: a file for each segment, named as carving names it. There may be half a million."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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

    def find(self, name: str) -> MemoryFile | None:
        """Return the segment's file; None if no segment has this name."""
        found = manifest.FILE_NAME.fullmatch(name)
        if found is None:
            return None
        segments, start = self.segments, int(found[1], 16)
        row = int(
            segments.start.searchsorted(np.uint64(start))
        )  # its method: files that were listed are found once each
        if row == len(segments):
            return None
        size = segments.size.item(row)
        if name != manifest.file_name(segments.start.item(row), segments.start.item(row) + size):
            return None
        place = segments.offset.item(row) if segments.extents.item(row) == 1 else None
        return MemoryFile(self.space, start, size, place)

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield names and sizes from the segment with the number `first` on."""
        for low in range(first, len(self.segments), _CHUNK):
            part = slice(low, low + _CHUNK)
            rows = zip(self.segments.start[part].tolist(), self.segments.size[part].tolist(), strict=True)
            for start, size in rows:
                yield Listed(manifest.file_name(start, start + size), size=size)
