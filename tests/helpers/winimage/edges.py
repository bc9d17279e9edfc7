"""Edge cases of page tables: each tempts a reader of page tables into a mistake that some reader makes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from winimage.contents import PAGE, U64
from winimage.physical import LARGE, SPAN, numbers
from winimage.tables import (
    L1TF,
    LARGE_BIT,
    NX,
    PAT,
    PROTOTYPE,
    TABLE,
    TRANSITION,
    USER,
    WRITE,
    Allowed,
    Tables,
    flags,
    frame_of,
    transition,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from winimage.user import User

_R = Allowed(user=True, writable=False, executable=False)
_RW = Allowed(user=True, writable=True, executable=False)


class Place(NamedTuple):
    """Where an edge case may spread: 1 GiB of addresses from `at`, and a slot of the root from `slot`."""

    user: User
    tables: Tables
    at: int
    slot: int

    def filled(self, page: int, count: int) -> NDArray[np.uint64]:
        """Return frames filled with the contents of pages."""
        frames = self.user.physical.take(count)
        self.user.physical.fill(self.user.pid, numbers(page, count), frames)
        return frames

    def outside(self, more: int = 0) -> int:
        """Return a frame that the image does not have: the first, or a later one."""
        return self.user.physical.count + more

    def turned(self, level: int, address: int, turn: Callable[[int], int]) -> None:
        """Have the entry that points to a table be something else."""
        self.tables.turns[level, address >> (12 + 9 * level)] = turn


def _under_transition(place: Place, level: int, start: int, turn: Callable[[int], int]) -> None:
    """Map pages below a table in transition: none can be reached by the processor, all are there."""
    page, tables = start >> 12, place.tables
    pages, frames = numbers(page, 40), place.filled(page, 40)
    tables.put(0, pages[:30], frames[:30] << U64(12) | U64(flags("RW")))
    tables.plan(pages[:30] << U64(12), frames[:30] << U64(12), PAGE, None)
    tables.transition(pages[30:], frames[30:], "RW", mask=True)
    tables.absent(numbers(page + 50, 8), np.arange(8) % 4)
    place.turned(level, start, turn)


def _transition_pde(place: Place) -> None:
    _under_transition(place, 1, place.at, lambda frame: transition(frame, 3))


def _transition_pde_bit7(place: Place) -> None:
    """Have a table in transition whose protection has bit 7: that is no large page."""
    protection = 4
    if not protection << 5 & LARGE_BIT:
        raise AssertionError
    _under_transition(place, 1, place.at, lambda frame: transition(frame, protection, L1TF))


def _transition_pdpte(place: Place) -> None:
    _under_transition(place, 2, place.at, lambda frame: transition(frame, 6, L1TF | L1TF << 1))


def _transition_pml4e(place: Place) -> None:
    _under_transition(place, 3, place.slot, lambda frame: transition(frame, 4))


def _other_pdes(place: Place) -> None:
    """Have directory entries that are not present and not in transition: nothing lies below them."""
    tables = place.tables
    good = place.filled(place.at >> 12, 4)
    for number, turn in enumerate((
        lambda frame: frame << 12 | TRANSITION | PROTOTYPE | 4 << 5,
        lambda frame: frame << 12 | PROTOTYPE | LARGE_BIT,
        lambda frame: frame << 12 | 0x80,
    )):  # fmt: skip
        start = place.at + number * LARGE
        tables.put(0, numbers(start >> 12, 4), good << U64(12) | U64(flags("RW")))
        tables.unreachable.add(start >> 21)
        place.turned(1, start, turn)


def _table_outside(place: Place) -> None:
    """Have page tables and a directory outside the image, between good tables."""
    for number, frame in ((1, place.outside()), (2, place.outside(0x1000)), (4, (1 << 39) - 1)):
        place.tables.put(1, (place.at >> 21) + number, frame << 12 | TABLE)
    place.tables.put(2, (place.at >> 30) + 256, place.outside(0x123) << 12 | TABLE)
    for number in (0, 3):
        page = (place.at + number * LARGE) >> 12
        place.tables.present(numbers(page, 5), place.filled(page, 5), "RW")


def _page_outside(place: Place) -> None:
    """Have pages outside the image, in transition and not, between good ones."""
    page, tables = place.at >> 12, place.tables
    tables.present(numbers(page, 3), place.filled(page, 3), "RW")
    tables.present(numbers(page + 3, 2), np.array([place.outside(), place.outside(0x1000)], U64), "RW")
    tables.present(numbers(page + 5, 2), place.filled(page + 5, 2), "RW")
    tables.transition(numbers(page + 7, 2), numbers(place.outside(0x77), 2), "RW")
    tables.present(numbers(page + 9, 1), place.filled(page + 9, 1), "RW")


def _large_outside(place: Place) -> None:
    """Have a large page wholly outside the image, between good pages."""
    page = place.at >> 12
    place.tables.present(numbers(page + SPAN - 3, 3), place.filled(page + SPAN - 3, 3), "RW")
    place.tables.large(place.at + LARGE, (place.outside() // SPAN + 8) * SPAN)
    place.tables.present(numbers(page + 2 * SPAN, 2), place.filled(page + 2 * SPAN, 2), "RW")


def _large(place: Place, bits: int = 0) -> int:
    frame = place.user.physical.take_large()
    place.user.physical.fill(place.user.pid, numbers(place.at >> 12, SPAN), numbers(frame, SPAN))
    place.tables.large(place.at, frame, bits=bits)
    return frame


def _large_hole(place: Place) -> None:
    """Have a large page of which two 4 KiB pages are to be left out when the image goes into a container."""
    frame = _large(place)
    place.user.holes += [((frame + 5) * PAGE, PAGE), ((frame + 300) * PAGE, PAGE)]


def _pat(place: Place) -> None:
    """Have a large page with the attribute bit, which is no part of its frame; and a small one, where it is bit 7."""
    _large(place, PAT)
    page = (place.at + LARGE) >> 12
    frames = place.filled(page, 2)
    place.tables.put(0, numbers(page, 2), frames << U64(12) | U64(flags("RW") | LARGE_BIT))
    place.tables.plan(numbers(page, 2) << U64(12), frames << U64(12), PAGE, _RW)


def _identical(place: Place) -> None:
    """Have a page table of 512 identical entries, and one where the last differs."""
    tables = place.tables
    for start in (place.at, place.at + 2 * LARGE):
        page = start >> 12
        frames = np.full(512, place.filled(page, 1)[0])
        if start != place.at:
            frames[511] = place.filled(page + 511, 1)[0]
        tables.put(0, numbers(page, 512), frames << U64(12) | U64(flags("R")))
        tables.plan(numbers(page, 512) << U64(12), frames << U64(12), PAGE, _R)


def _permissions(place: Place) -> None:
    """Have tables that take away what their entries give: writing, executing, the user's access; and a large page."""
    tables = place.tables
    for level, number, lost, gained, rights in (
        (1, 0, WRITE, 0, Allowed(user=True, writable=False, executable=True)),
        (1, 1, 0, NX, Allowed(user=True, writable=True, executable=False)),
        (1, 2, USER, 0, Allowed(user=False, writable=True, executable=True)),
        (2, 512 * 256, USER | WRITE, NX, Allowed(user=False, writable=False, executable=False)),
    ):
        start = place.at + number * LARGE
        pages, frames = numbers(start >> 12, 6), place.filled(start >> 12, 6)
        tables.put(0, pages, frames << U64(12) | U64(flags("RWX")))
        tables.plan(pages << U64(12), frames << U64(12), PAGE, rights)
        place.turned(level, start, partial(_lessened, lost, gained))
    # the low 2 MiB, mapped a second time
    start += LARGE
    tables.put(1, start >> 21, flags("RWX") | LARGE_BIT)
    tables.plan(start, 0, LARGE, Allowed(user=False, writable=False, executable=False))


def _lessened(lost: int, gained: int, frame: int) -> int:
    return frame << 12 | TABLE & ~lost | gained


def _self_table(place: Place) -> None:
    """Have a table of directory pointers that is one of its own directories."""
    tables, own, other = place.tables, 77, 400
    page = (place.slot | other << 30) >> 12
    tables.present(numbers(page, 3), place.filled(page, 3), "RW")
    # the three frames are known when the tables are written: see finish_self_table
    tables.put(2, (place.slot >> 30) + own, TABLE)
    place.user.own_table = (place.slot, own, other)


def finish_self_table(user: User) -> None:
    """Point the table of `self-table`, if there is one, to itself now that it is written; plan what is seen so."""
    if user.own_table is None:
        return
    slot, own, other = user.own_table
    tables, physical = user.tables, user.physical
    pointers = frame_of(tables, 3, slot >> 39)
    directory = frame_of(tables, 2, (slot >> 30) + other)
    table = frame_of(tables, 1, (slot | other << 30) >> 21)
    entry = pointers << 12 | TABLE
    tables.entries[2][(slot >> 30) + own] = entry
    physical.words[pointers, own] = entry
    base = slot | own << 30
    rights = Allowed(user=True, writable=True, executable=True)
    for address, frame in ((own << 21 | own << 12, pointers), (own << 21 | other << 12, directory),
                           (other << 21, table)):  # fmt: skip
        tables.plan(base | address, frame << 12, PAGE, rights)
    # the pointers and the directory are seen as page tables, of two entries and one
    tables.seen_again += [2, 1]
    tables.views |= {base >> 21 | own: entry, base >> 21 | other: tables.entries[2][(slot >> 30) + other]}


def _loop(place: Place) -> None:
    place.user.loop = True


EDGE_CASES: dict[str, Callable[[Place], None]] = {
    "identical-entries": _identical,
    "large-hole": _large_hole,
    "large-outside": _large_outside,
    "loop": _loop,
    "other-pdes": _other_pdes,
    "page-outside": _page_outside,
    "pat": _pat,
    "permissions": _permissions,
    "self-table": _self_table,
    "table-outside": _table_outside,
    "transition-pde": _transition_pde,
    "transition-pde-bit7": _transition_pde_bit7,
    "transition-pdpte": _transition_pdpte,
    "transition-pml4e": _transition_pml4e,
}
