"""Regions, and how many bytes of each are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import UsageError
from memcarve.labels.filters import CHOICES
from memcarve.labels.metadata_index import Known
from memcarve.labels.segment_labels import permission_bits
from memcarve.metadata import Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.metadata import Regions
    from memcarve.process import ProcessMemory, Selection
    from memcarve.space import AddressSpace


class ResidentRegion(NamedTuple):
    """A region, and how many of its bytes are there.

    `permissions` has bit n set if a page in it has the flags n; `kind` is the kind of its memory by all that is known;
    `conflicts` counts what contradicts it, None if it is not from the first source.
    """

    region: Region
    resident: int
    permissions: int
    kind: str | None
    source: str
    conflicts: int | None


class Residence:
    """The selected regions of every source, and how many bytes of each are there.

    `count` regions from `sources` sources span `size` bytes of addresses, of which `resident` are there; an address
    counts once, however many regions it lies in. Raises UsageError if no regions are known.
    """

    def __init__(self, process: ProcessMemory, selection: Selection) -> None:
        self.process = process
        self.known = Known(process.metadata)
        if not process.metadata.regions:
            raise UsageError(
                "nothing is known of its regions",
                subject=str(process.entry),
                remedy="{regions:FILE} gives what Volatility printed (windows.vadinfo, linux.proc.Maps), or "
                "/proc/PID/maps",
            )
        self._chosen = [
            (regions, [place for place, row in enumerate(regions) if self._is_wanted(regions, place, row, selection)])
            for regions in process.metadata.regions
        ]
        self.count = sum(len(places) for _, places in self._chosen)
        self.sources = sum(bool(places) for _, places in self._chosen)
        rows = [[regions.rows[place] for place in places] for regions, places in self._chosen]
        self._resident = [resident(process.space, each) for each in rows]
        joined = _joined(row for each in rows for row in each)
        self.size = sum(row.size for row in joined)
        self.resident = sum(resident(process.space, joined))

    def _is_wanted(self, regions: Regions, place: int, row: Region, selection: Selection) -> bool:
        kernel = row.start >= self.process.kernel_half
        half = selection.half or "all"
        return (
            (half == "all" or kernel == (half == "kernel"))
            and (not selection.address or any(start < row.end and row.start < end for start, end in selection.address))
            and all(
                CHOICES[name](values)(row, self._kind(regions, place))
                for name, values in selection.by_labels.items()
                if name in CHOICES
            )
        )

    def _kind(self, regions: Regions, place: int) -> str | None:
        return self.known.kinds[place] if regions is self.process.metadata.regions[0] else regions.rows[place].kind

    def rows(self) -> Iterator[ResidentRegion]:
        """Yield the regions: of the first source, then of the others."""
        for (regions, places), there in zip(self._chosen, self._resident, strict=True):
            first = regions is self.process.metadata.regions[0]
            chosen = [regions.rows[place] for place in places]
            allowed = _permissions(self.process.space, chosen)
            for place, row, size, bits in zip(places, chosen, there, allowed, strict=True):
                conflicts = len(self.known.conflicts.regions.get(place, ())) if first else None
                yield ResidentRegion(row, size, bits, self._kind(regions, place), regions.source, conflicts)


def _joined(rows: Iterable[Region]) -> list[Region]:
    """Return disjoint regions that cover the same addresses as `rows`."""
    found: list[Region] = []
    start = end = 0
    for row in sorted(rows, key=lambda row: row.start):
        if row.start > end:
            found.append(Region(start, end - start))
            start = row.start
        end = max(end, row.end)
    found.append(Region(start, end - start))
    return [row for row in found if row.size]


def resident(space: AddressSpace, rows: list[Region]) -> list[int]:
    """Return how many bytes of each region are in a space."""
    some = [row for row in rows if row.size]
    low, last = (np.array([*column], np.uint64) for column in ((r.start for r in some), (r.end - 1 for r in some)))
    found = iter(space.bytes_within(low, last).tolist())
    return [next(found) if row.size else 0 for row in rows]


def _permissions(space: AddressSpace, rows: list[Region]) -> list[int]:
    """Return for each region the flags of its extents: bit n is set if one has the flags n."""
    if space.flags is None or not len(space):
        return [0] * len(rows)
    last = space.start + (space.size - np.uint64(1))
    first = np.searchsorted(last, np.array([row.start for row in rows], np.uint64))
    end = np.searchsorted(space.start, np.array([row.end - 1 for row in rows], np.uint64), "right")
    bits: list[int] = permission_bits(space, first, np.maximum(end, first)).tolist()
    return bits
