"""What a ``task_struct`` looks like in a block of memory, for a search of all memory.

Nothing that names the task is asked for: a program chooses its name, and whoever hides it can choose more. That it has
credentials, a stack, signals, a parent and a leader of its thread group the kernel cannot do without.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.linux.tasks import HIGHEST_PID, NAME_SIZE
from memcarve.intervals import PAGE, distinct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.linux.kernel_structures import Structures

    Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]] | np.ndarray[tuple[int, ...], np.dtype[np.uint32]]

#: members that point into the kernel; of a task that has ended the last three may be NULL
_LEADER, _ALWAYS, _SOMETIMES = "group_leader", ("real_parent", "parent"), ("signal", "sighand", "stack")
_ENOUGH = 3  # of the pointers must be known, and right if they are in the block
_MOST_WRONG = 1  # of them: one may be damaged
#: what task_struct is aligned to in bytes, at least and at most: to a line of the cache
_ALIGNED, _MOST_ALIGNED = 16, 64


class Pointer(NamedTuple):
    """A member that points into the kernel: its offset in bytes, to multiples of what, and whether it may be NULL."""

    offset: int
    aligned: int
    nullable: bool


class Seeker(NamedTuple):
    """Finds where in a block of pages a task may lie. Members are offsets in bytes in the structure.

    Two signs lead to it, because one may be damaged: its credentials, which are gone when it was waited for, and that
    it leads its own thread group. Tasks begin at multiples of `aligned` bytes; `word` is the size of a pointer in
    bytes, `lowest` the first address that one into the kernel can have, `highest` the last.
    """

    leader: int
    credentials: tuple[int, int]
    pointers: tuple[Pointer, ...]
    numbers: tuple[int, int]
    name: int
    aligned: int
    word: int
    lowest: int
    highest: int

    def look(self, physical: U64, words: U64) -> U64:
        """Return the physical addresses (uint64) at which tasks may begin.

        `words` are pages of shape (n, 512), `physical` their addresses. A member in a page that is not there, because
        the block ends before it, says nothing.
        """
        kind = np.uint64 if self.word == 8 else np.uint32  # noqa: PLR2004
        flat: Words = words.reshape(-1)
        flat = flat if self.word == 8 else flat.view(np.uint32)  # noqa: PLR2004
        pointer = (flat >= kind(self.lowest)) & (flat <= kind(self.highest))
        place = np.flatnonzero(pointer)
        found = []
        for member, sign in ((self.leader, self._leads_itself), (self.credentials[0], self._has_credentials)):
            # every n-th word of a page can be this member
            first, step = member % self.aligned // self.word, self.aligned // self.word
            here = place[place % step == first]
            at = here[sign(flat, pointer, here)] * self.word
            begins = physical[at // PAGE] + (at % PAGE).astype(np.uint64) - np.uint64(member)
            near = _Near(physical, words, at - member, begins)
            near.keep(near.begins < np.uint64(1 << 63))
            near.keep(near.bytes_at(self.name + NAME_SIZE - 1, 1)[:, 0] == 0)
            for number in self.numbers:
                near.keep(near.number(number, 4) <= np.uint64(HIGHEST_PID))
            near.keep(self._has_pointers(near))
            found.append(near.begins)
        return distinct(np.concatenate(found))

    def _leads_itself(self, flat: Words, _: Bools, place: I64) -> Bools:
        """Return which words may point to the task that they are in: in a page, addresses are physical ones, too."""
        begins = (place * self.word - self.leader) & (PAGE - 1)
        return np.asarray(flat[place].astype(np.uint64) & np.uint64(PAGE - 1) == begins.astype(np.uint64))

    def _has_credentials(self, flat: Words, pointer: Bools, place: I64) -> Bools:
        """Return which words may point to credentials: others, or the same, follow in the same block."""
        other = place + (self.credentials[1] - self.credentials[0]) // self.word
        there = (other >= 0) & (other < len(flat))
        return np.asarray(~there | pointer[np.where(there, other, 0)])

    def _is_pointer(self, value: U64, aligned: int) -> Bools:
        right = (value >= np.uint64(self.lowest)) & (value <= np.uint64(self.highest))
        return np.asarray(right & (value % np.uint64(aligned) == 0))

    def _has_pointers(self, near: _Near) -> Bools:
        """Return for each candidate whether what must lead into the kernel does."""
        wrong: I64 = np.zeros(len(near.at), np.int64)
        good: I64 = np.zeros(len(near.at), np.int64)
        pid, tgid = (near.number(member, 4) for member in self.numbers)
        leads = (pid == tgid) & near.there(self.numbers[0], 4) & near.there(self.numbers[1], 4)
        page = np.uint64(PAGE - 1)
        for member, aligned, nullable in self.pointers:
            value, there = near.number(member, self.word), near.there(member, self.word)
            right = self._is_pointer(value, aligned)
            if member == self.leader:
                right &= ~leads | (value & page == near.begins & page)
            good += right & there
            wrong += there & ~right & ~((value == 0) & nullable)
        return np.asarray((wrong <= np.where(tgid > 0, _MOST_WRONG, 0)) & (good >= np.minimum(_ENOUGH, good + wrong)))


class _Near:
    """Candidates of a block: `at` is where in its bytes each begins (int64), `begins` its physical address."""

    def __init__(self, physical: U64, words: U64, at: I64, begins: U64) -> None:
        self.physical, self.at, self.begins = physical, at, begins
        self.data = words.reshape(-1).view(np.uint8)

    def keep(self, right: Bools) -> None:
        """Keep those candidates for which something is right."""
        self.at, self.begins = self.at[right], self.begins[right]

    def there(self, member: int, size: int) -> Bools:
        """Return for each candidate whether a member of `size` bytes is in the block, in one of its pages."""
        at = self.at + member
        inside = (at >= 0) & (at + size <= len(self.data)) & (at % PAGE + size <= PAGE)
        page = np.where(inside, at, 0) // PAGE
        begins = self.physical[page] + (at % PAGE).astype(np.uint64)
        return np.asarray(inside & (begins == self.begins + np.uint64(member)))

    def bytes_at(self, member: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Return a member's bytes, shape (candidates, size); zeros if it is not there."""
        found = np.zeros((len(self.at), size), np.uint8)
        there = self.there(member, size)
        found[there] = self.data[(self.at[there] + member)[:, None] + np.arange(size)]
        return found

    def number(self, member: int, size: int) -> U64:
        """Return a member as a number of 4 or 8 bytes (uint64); 0 if it is not there."""
        return self.bytes_at(member, size).view(np.uint32 if size == 4 else np.uint64)[:, 0].astype(np.uint64)  # noqa: PLR2004


def seeker_of(kernel: Structures, known: Iterable[int]) -> Seeker | None:
    """Return what finds the tasks of a kernel; None if too little is known of how they are laid out.

    `known` are the addresses of some: all lie at multiples of the same number.
    """

    def offsets(*names: str) -> list[int]:
        found = (kernel.offset("task_struct", name) for name in names)
        return [offset for offset in found if offset is not None]

    credentials, numbers = offsets("real_cred", "cred"), offsets("pid", "tgid")
    leader, name = kernel.offset("task_struct", _LEADER), kernel.offset("task_struct", "comm")
    pointers = [Pointer(offset, kernel.word, nullable=False) for offset in offsets(_LEADER, *_ALWAYS)]
    pointers += [Pointer(offset, kernel.word, nullable=True) for offset in offsets(*_SOMETIMES[:-1])]
    pointers += [Pointer(offset, PAGE, nullable=True) for offset in offsets(_SOMETIMES[-1])]
    both = len(credentials) == len(numbers) == 2  # noqa: PLR2004
    if leader is None or name is None or not both or len(pointers) < _ENOUGH:
        return None
    if any(offset % kernel.word for offset in (leader, *credentials)):
        return None
    together = functools.reduce(operator.or_, known, _MOST_ALIGNED)
    return Seeker(
        leader,
        (credentials[0], credentials[1]),
        tuple(pointers),
        (numbers[0], numbers[1]),
        name,
        max(together & -together, _ALIGNED),
        kernel.word,
        kernel.lowest,
        kernel.top - PAGE,
    )
