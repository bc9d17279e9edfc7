"""What a container of a machine's physical memory comes down to: a table of physical ranges over a backing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.intervals import TOP

if TYPE_CHECKING:
    from memcarve.backing import Backing, FileBacking
    from memcarve.dtypes import U64
    from memcarve.intervals import Intervals


#: a container's table may have so many rows, and no more: a machine has some dozens of ranges, a core of its virtual
#: memory some 100,000
MOST_RANGES = 1 << 21
#: what is cut off is listed range by range up to this many; a machine whose pages lie scattered could have millions
MOST_CUT = 1 << 16
_ONE = np.uint64(1)


class MachineMemory(NamedTuple):
    """A machine's memory, as its container lays it out.

    Columns, all uint64, a row a range, as the container lists them (neither sorted nor checked for overlap): `start`
    is the physical address, `size` in bytes is never 0, `offset` is where the bytes lie in `backing`; every row lies
    wholly inside the backing. `cut_off` are (physical start, size) that the container declares and the file, which
    ends too early, does not hold. `declared` says that the container tells which memory the machine has, so that what
    lies outside the ranges is not memory; for a raw image that is unknown. `root` is a page-table root, if the
    container records one. `notes` are sentences for the user.

    `zeros` is memory that the container says to be zeros without storing them, in any order; if a range claims the same
    address, that counts. `gaps` is a sentence for the user if the container's writer is known to leave memory out;
    `left_out` is what of that is memory for certain.

    `vmcoreinfo` is what a Linux kernel says of itself for those who read its dumps (lines NAME=VALUE; the kernel's
    Documentation/admin-guide/kdump/vmcoreinfo.rst), if the container has it; `architecture` is "x86", "x64" or "arm64"
    if the container says which.
    """

    kind: str
    backing: Backing
    start: U64
    size: U64
    offset: U64
    cut_off: list[tuple[int, int]]
    declared: bool
    root: int | None = None
    notes: tuple[str, ...] = ()
    zeros: Intervals | None = None
    gaps: str | None = None
    left_out: Intervals | None = None
    vmcoreinfo: bytes | None = None
    architecture: str | None = None


class CutOff:
    """What a container declares and its file does not hold: ranges in the order they come, touching ones joined."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self._rest: tuple[int, int] | None = None  # lowest address and highest end of what is not listed by itself

    def add(self, start: U64, size: U64) -> None:
        """Add ranges (physical start and size in bytes, both uint64, not 0, none beyond 2**64)."""
        room = max(MOST_CUT - len(self.rows), 0)
        for low, length in zip(start[:room].tolist(), size[:room].tolist(), strict=True):
            before, reach = self.rows[-1] if self.rows else (0, 0)
            if self.rows and before + reach == low:
                self.rows[-1] = before, reach + length
            else:
                self.rows.append((low, length))
        if len(start) > room:
            low, end = int(start[room:].min()), int((start[room:] + (size[room:] - _ONE)).max()) + 1
            lowest, highest = self._rest or (low, end)
            self._rest = min(low, lowest), max(end, highest)

    def listed(self) -> list[tuple[int, int]]:
        """Return (physical start, size in bytes); sizes fit into 64 bits."""
        rows = list(self.rows)
        if self._rest is not None:
            rows.append((self._rest[0], self._rest[1] - self._rest[0]))
        return [(start, min(size, (TOP - 1))) for start, size in rows]

    def notes(self) -> tuple[str, ...]:
        """Return a sentence if the last range covers more than what was cut off."""
        if self._rest is None:
            return ()
        low, end = self._rest
        return (f"more than {MOST_CUT} ranges are cut off; those from 0x{low:x} to 0x{end:x} are counted as one",)


def column(values: object) -> U64:
    """Return a sequence, or an `array.array` of type Q, as a column of its own."""
    return np.array(values, np.uint64).reshape(-1)


def addressable(start: U64, size: U64) -> U64:
    """Return the sizes in bytes, cut so that no range reaches beyond 2**64. Both are uint64; a size of 0 stays."""
    return np.where((size > 0) & (size - _ONE > ~start), ~start + _ONE, size)


def fitted(start: U64, size: U64, offset: U64, limit: int, cut: CutOff) -> tuple[U64, U64, U64]:
    """Clip ranges to a backing of `limit` bytes: return the columns of what is there, add the rest to `cut`.

    The arguments are uint64 columns of physical starts, sizes in bytes and offsets, of the same length; any values
    are fine. Rows without bytes are dropped, and none of the result reaches beyond 2**64.
    """
    keep = size > 0
    start, size, offset = start[keep], size[keep], offset[keep]
    size = addressable(start, size)
    there = np.minimum(size, np.uint64(limit) - np.minimum(offset, np.uint64(limit)))
    short = there < size
    if short.any():
        cut.add(start[short] + there[short], size[short] - there[short])
    keep = there > 0
    return start[keep], there[keep], offset[keep]


def machine(
    kind: str,
    file: FileBacking,
    ranges: tuple[U64, U64, U64],
    *,
    declared: bool,
    root: int | None = None,
    notes: tuple[str, ...] = (),
    cut: CutOff | None = None,
) -> MachineMemory:
    """Return the machine's memory whose bytes lie in a file as they are.

    `ranges` are uint64 columns of physical starts, sizes in bytes and offsets in the file, as the container has them:
    what does not lie in the file is cut off, like what is in `cut` already.
    """
    cut = cut or CutOff()
    start, size, offset = fitted(*ranges, file.size, cut)
    return MachineMemory(kind, file, start, size, offset, cut.listed(), declared, root, (*notes, *cut.notes()))


def bounded(file: FileBacking, count: int, what: str) -> int:
    """Return `count`, the number of rows of a table, or raise InputError if no machine has so many."""
    if count > MOST_RANGES:
        raise InputError(
            f"has {count} {what}, more than the {MOST_RANGES} that memcarve expects of any machine; the file is "
            "damaged",
            subject=file.path,
        )
    return count
