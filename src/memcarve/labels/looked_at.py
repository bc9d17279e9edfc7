"""What labels rest on besides metadata: the bytes of segments, and what other processes have of the same files.

It is imported if either is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.labels.content import Contents, observe
from memcarve.labels.same_files import compared

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

__all__ = ["compared", "contents_of"]


def contents_of(
    space: AddressSpace, segments: Segments, level: str, read: Callable[[int, int], object] | None
) -> Contents:
    """Return what the bytes of segments say, if they are looked at on a `level`.

    They are read now if there is somebody to tell how many bytes were `read`, of how many; else they are shown the
    observers when they are copied. Raises SourceReadError.
    """
    contents = Contents(len(segments), level)
    if read is not None:
        done, total = 0, segments.total
        for index, segment in enumerate(segments):
            contents.keep(index, observe(space, segment, level))
            done += segment.size
            read(done, total)
    return contents
