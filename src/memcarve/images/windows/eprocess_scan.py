"""What an EPROCESS looks like in a block of memory, for a scan of all memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.windows import eprocess
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.windows.eprocess import Layout


USER_END = 1 << 47
POINTERS = np.uint64(0xFFFF800000000000)  # kernel addresses begin here
EARLIEST = 0x01B4C3F2C2D80000  # FILETIME of 1990: 100 ns since 1601
LATEST = 0x02A0000000000000  # of 2200

# a process begins with a DISPATCHER_HEADER: its type, and the list of its waiters; after that comes another list
PROCESS = 3  # KOBJECTS.ProcessObject
TYPE_MASK = 0x7F  # bit 7 is a lock
WAIT_LIST, PROFILE_LIST = 0x08, 0x18

#: how many of the signs of a process must be right, of all that are checked here
_ENOUGH = 3
_WORDS = PAGE // 8


@dataclass(eq=False)
class Seeker:
    """Finds where in a block of pages an EPROCESS may lie, by two signs, because one may have been overwritten.

    One is a process id in front of one or two kernel addresses, the other an empty list in its header. Beside either,
    so many other members in the same page must look right that not all of it can be chance; the page before and the
    one after may belong to something else. `end` is where physical memory ends; `head` is where in the structure the
    list of threads begins, if that is known.
    """

    layout: Layout
    end: int
    head: int | None = None
    only: int | None = None

    def __call__(self, physical: U64, words: U64) -> tuple[U64, I64]:
        """Return physical addresses (uint64) within possible processes, and how far in (int64) each is, in bytes.

        `words` are pages of shape (n, 512), `physical` their addresses. Both signs may lead to the same process.
        """
        flat = words.reshape(-1)
        pointers = words >= POINTERS
        either = pointers.copy()  # one of the two may be damaged
        either[:, :-1] |= pointers[:, 1:]  # after the last word of a page, the second one is in another page
        place = np.flatnonzero(either)
        odd = place % 2 == 1  # the structure lies at a multiple of 16
        found = [(self._by_number(flat, place[odd if self.layout.links // 8 % 2 else ~odd]), self.layout.links)]
        if self.only is None:
            found += self._by_header(flat, place[odd])
        places = np.concatenate([place for place, _ in found])
        distances = np.repeat([distance for _, distance in found], [len(place) for place, _ in found])
        if len(places):
            likely = self._likely(_Near(flat, places, distances))
            places, distances = places[likely], distances[likely]
            # a process that lies in one page is found by both signs
            _, once = np.unique(places * 8 - distances, return_index=True)
            places, distances = places[once], distances[once]
        at = physical[places // _WORDS] + (places % _WORDS).astype(np.uint64) * np.uint64(8)
        return at, distances

    def _by_number(self, flat: U64, place: I64) -> I64:
        first = place % _WORDS == 0  # the number is in another page
        return np.asarray(place[first | self._is_number(flat[place - 1])])

    def _by_header(self, flat: U64, place: I64) -> list[tuple[I64, int]]:
        # virtual and physical addresses are the same in the lowest twelve bits
        within = place % _WORDS * 8
        pointer = flat[place]
        place = place[(pointer >= POINTERS) & (pointer & np.uint64(PAGE - 1) == within) & (within < PAGE - 8)]
        place = place[flat[place] == flat[place + 1]]
        found = []
        for distance in (WAIT_LIST, PROFILE_LIST):
            here = place[place % _WORDS >= distance // 8]
            found.append((here[_is_header(flat[here - distance // 8])], distance))
        return found

    def _likely(self, near: _Near) -> Bools:
        """Return for each candidate whether so much looks right that not all of it can be chance.

        For one found by its header, which is rare, more may be wrong.
        """
        layout = self.layout
        near.count(layout.pid, 1, lambda words: self._is_number(words[0]))
        near.count(0, 1, lambda words: _is_header(words[0]))
        near.count(eprocess.ROOT, 1, lambda words: self._is_root(words[0]))
        if layout.name % 8 == 0:
            near.count(layout.name, 2, _is_name)
        if layout.create is not None:
            near.count(layout.create, 1, lambda words: are_times(words[0]))
        if self.head is not None:
            near.count(self.head, 2, lambda words: _is_pointer(words[0]) & _is_pointer(words[1]))
        wrong = np.where(near.distance == layout.links, 1, 3)
        return np.asarray(near.right >= np.clip(near.there - wrong, 2, _ENOUGH))

    def _is_number(self, word: U64) -> Bools:
        if self.only is not None:
            return np.asarray(word == np.uint64(self.only))
        return np.asarray((word < np.uint64(1 << 32)) & (word % np.uint64(4) == 0) & (word != 0))

    def _is_root(self, word: U64) -> Bools:
        root = word & np.uint64((1 << 52) - PAGE)
        return np.asarray((root != 0) & (root < np.uint64(self.end)))


class _Near:
    """The members in the same page as each candidate, whose word is `distance` bytes into a possible process.

    Of the members counted, `there` (int64) is how many lie in the candidate's page, `right` how many of them are right.
    """

    def __init__(self, flat: U64, place: I64, distance: I64) -> None:
        self.flat, self.place, self.distance = flat, place, distance
        self.there: I64 = np.zeros(len(place), np.int64)
        self.right: I64 = np.zeros(len(place), np.int64)

    def count(self, member: int, size: int, looks_right: Callable[[list[U64]], Bools]) -> None:
        """Count a member of `size` words."""
        first = self.place + (member - self.distance) // 8
        page = self.place // _WORDS
        there = (first // _WORDS == page) & ((first + size - 1) // _WORDS == page)
        first = np.where(there, first, 0)
        self.there += there
        self.right += there & looks_right([self.flat[first + number] for number in range(size)])


def _is_pointer(word: U64) -> Bools:
    return np.asarray((word >= POINTERS) & (word % np.uint64(8) == 0))


def _is_header(word: U64) -> Bools:
    return np.asarray(word & np.uint64(TYPE_MASK) == np.uint64(PROCESS))


def are_times(word: U64) -> Bools:
    """Return which numbers are FILETIMEs that a machine may have seen."""
    return np.asarray((word > np.uint64(EARLIEST)) & (word < np.uint64(LATEST)))


def _is_name(words: list[U64]) -> Bools:
    """Return for each whether the first fifteen of sixteen bytes are plain text, then zeros."""
    text = np.stack(words, axis=1).astype("<u8").view(np.uint8)[:, : eprocess.NAME]
    zero = text == 0
    plain = (text >= ord(" ")) & (text != 0x7F) & (text < 0x80)  # noqa: PLR2004 - delete; the end of ASCII
    return np.asarray(~zero[:, 0] & (plain | zero).all(axis=1) & (zero[:, :-1] <= zero[:, 1:]).all(axis=1))
