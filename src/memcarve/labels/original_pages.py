"""A process's pages of programs against those that all share who map the same file (the section's, on Windows).

A process that writes to such a page gets one of its own, and what all share stays as it is: so it proves what was
changed, without another process. An image that could not be mapped where its section is has relocated pages of its own.
The header that all share says where that is (ImageBase, which the kernel sets when it relocates a section).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, SourceReadError
from memcarve.formats.programs import pe
from memcarve.formats.programs.pe_relocation import differ_by_bases, unrelocated
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.dtypes import I64, U64
    from memcarve.space import AddressSpace

_IMPORTS = 12  # the data directory of imported addresses, which may lie among code
UNRELOCATED = "at the places of its relocation directory without the image's address"
TOLERATED = "but for numbers that differ as the images' addresses do, because its relocation directory is not in memory"


class Change(NamedTuple):
    """How many (`size`) bytes of a page are not the original's, and the place in the page of the first one.

    `rebased` says how images at different addresses were compared; empty if both are at the same.
    """

    size: int
    first: int
    rebased: str


class OriginalPages:
    """The pages in `shared` that all processes share, and `own`, the memory of the process that has others."""

    def __init__(self, shared: AddressSpace, own: AddressSpace) -> None:
        self.shared = shared
        self.own = own
        #: by the addresses of images: where their section is, and which bytes of the image are imported addresses
        self._images: dict[int, tuple[int, range] | None] = {}

    def places(self, addresses: U64) -> tuple[I64, U64]:
        """Return for pages (addresses) the row in `shared`, -1 if none, and where in the backing they lie (uint64)."""
        row = self.shared.rows_of(addresses)
        if not len(self.shared):
            return row, np.zeros(len(addresses), np.uint64)
        return row, self.shared.offset[row] + (addresses - self.shared.start[row])

    def change(
        self, base: int, page: int, relocated: Callable[[], Sequence[tuple[int, int]] | None]
    ) -> tuple[bool, Change | None]:
        """Return whether a page of the image at `base` can be compared, and how it was changed, None if it was not.

        `relocated` returns what is relocated in the page, None if that is not known; it is asked for only if it
        matters.
        """
        image = self._image(base)
        own, shared = (_read(space, base + page * PAGE) for space in (self.own, self.shared))
        if image is None or own is None or shared is None:
            return False, None
        section, imports = image
        low, end = (min(max(place - page * PAGE, 0), PAGE) for place in (imports.start, imports.stop))
        own, shared = (data[:low] + bytes(end - low) + data[end:] for data in (own, shared))
        rebased = ""
        if section != base and own != shared:
            places = relocated()
            rebased = TOLERATED if places is None else UNRELOCATED
            if places is not None:
                own, shared = unrelocated(own, base, places), unrelocated(shared, section, places)
            elif differ_by_bases(own, shared, base, section):
                return True, None
        apart = np.flatnonzero(np.frombuffer(own, np.uint8) != np.frombuffer(shared, np.uint8))
        return True, Change(len(apart), int(apart[0]), rebased) if len(apart) else None

    def _image(self, base: int) -> tuple[int, range] | None:
        """Return where an image's section is, and its imported addresses; None if that is not known."""
        if base not in self._images:
            header = _read(self.shared, base)
            found = None if header is None else pe.image(header)
            self._images[base] = None
            if header is not None and found is not None:
                data = header
                low, size = pe.directory(lambda at, count: data[at : at + count].ljust(count, b"\0"), found, _IMPORTS)
                self._images[base] = found.base, range(low, low + size)
        return self._images[base]


def _read(space: AddressSpace, address: int) -> bytes | None:
    try:
        return space.read(address, PAGE)
    except (AddressError, SourceReadError):
        return None
