"""What of a backing cannot be read: found by reading it, down to the smallest unit that the system reads.

A disk with bad sectors, or a file system that finds its own damage, fails a read as a whole, or cuts it off before
the bad place. How much around that place is lost is the affair of medium, file system and page cache: 512 bytes, 4096,
or more. So it is not guessed, but tried sector by sector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.backing import FileBacking
from memcarve.errors import SourceReadError, UnreadableError
from memcarve.intervals import Intervals, union

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import Backing

SECTOR = 512  # no medium has smaller ones
_BLOCK = 1 << 18  # bytes read in one go where nothing is wrong
_MOST = 1 << 21  # sectors, 1 GiB: what fails so often has gone away as a whole


def unreadable(backing: Backing, wanted: Intervals) -> Intervals:
    """Return the offsets of a backing in some ranges, in any order, that cannot be read; joined if they touch.

    All of them is read once. Raises SourceReadError if hardly anything can be read.
    """
    bad: list[tuple[int, int]] = []
    for begin, end in union(wanted).bounds():
        for place, size in _unreadable(backing, begin, end):
            if len(bad) >= _MOST:
                raise SourceReadError(
                    f"more than {_MOST} sectors of {SECTOR} bytes cannot be read; is what it lies on still there?",
                    subject=backing.path,
                )
            bad.append((place, size))
    return union(Intervals.of(bad))


def _unreadable(backing: Backing, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield offset and size of what cannot be read of a range: in steps that grow again behind a bad sector."""
    buffer = memoryview(bytearray(min(_BLOCK, end - place)))
    step = _BLOCK
    while place < end:
        size = min(step, end - place)
        if size == step:  # not the rest: it ends with a sector
            size -= (place + size) % SECTOR
        try:
            backing.read_into(place, buffer[:size])
        except UnreadableError as error:
            # what the kernel read before the bad place need not be tried again
            reached = error.offset if isinstance(backing, FileBacking) else place
            if reached == place and size <= SECTOR:
                yield place, size
                place += size
            place, step = max(place, reached), SECTOR
        else:
            place += size
            step = min(2 * step, _BLOCK)
