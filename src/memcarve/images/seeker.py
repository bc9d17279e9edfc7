"""What an EPROCESS looks like in a block of memory, to whoever looks through all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.physical import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from memcarve.images.eprocess import Layout

    Words = npt.NDArray[np.uint64]

USER_END = 1 << 47
POINTERS = np.uint64(0xFFFF800000000000)  # kernel addresses begin here
LATEST = 0x02A0000000000000  # FILETIME of 2200: 100 ns since 1601


class Seeker:
    """Finds where in a block of pages the links of an EPROCESS may lie: a kernel address or two after a process id.

    What else of the structure lies in the same page is checked, too; the page before and after may be another's.
    """

    def __init__(self, layout: Layout, only: int | None) -> None:
        self.layout = layout
        self.only = only

    def __call__(self, physical: Words, words: Words) -> Words:
        """Return the physical addresses (uint64) of what may be links, given pages of shape (n, 512) and theirs."""
        pointers = words >= POINTERS
        either = pointers.copy()  # one of the two may be damaged
        either[:, :-1] |= pointers[:, 1:]  # in the last word of a page the second one is in another
        place: npt.NDArray[np.int64] = np.flatnonzero(either)
        flat = words.reshape(-1)
        # the structure lies at a multiple of 16
        place = place[(place * 8 - self.layout.links) % 16 == 0]
        place = self._keep(flat, place, -8, self._is_pid)
        layout = self.layout
        for offset, test in (
            (layout.parent, lambda word: word < np.uint64(1 << 32)),
            (layout.create, lambda word: word < np.uint64(LATEST)),
            (layout.section, lambda word: word < np.uint64(USER_END)),
            (layout.peb, lambda word: word < np.uint64(USER_END)),
        ):
            if offset is not None:
                place = self._keep(flat, place, offset - layout.links, test)
        return np.asarray(physical[place // (PAGE // 8)] + (place % (PAGE // 8)).astype(np.uint64) * np.uint64(8))

    def _is_pid(self, word: Words) -> npt.NDArray[np.bool_]:
        if self.only is not None:
            return np.asarray(word == np.uint64(self.only))
        return np.asarray((word < np.uint64(1 << 32)) & (word % np.uint64(4) == 0) & (word != 0))

    @staticmethod
    def _keep(
        flat: Words,
        place: npt.NDArray[np.int64],
        distance: int,
        test: Callable[[Words], npt.NDArray[np.bool_]],
    ) -> npt.NDArray[np.int64]:
        """Keep the places whose word at a distance in bytes passes a test, or lies in another page."""
        other = place + distance // 8
        same = other // (PAGE // 8) == place // (PAGE // 8)
        passes = test(flat[np.where(same, other, 0)])
        return np.asarray(place[~same | passes])
