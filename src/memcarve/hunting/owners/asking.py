"""Who maps a piece of physical memory, or a byte of a file, asked millions of times."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import UsageError
from memcarve.hunting.owners.image_ranges import image_ranges
from memcarve.hunting.owners.mappings import Mappings
from memcarve.hunting.owners.naming import Named, Names
from memcarve.hunting.owners.stabbing import Stabbing
from memcarve.intervals import expand
from memcarve.permissions import page_state, permissions
from memcarve.vocabulary import System

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.errors import MemcarveError
    from memcarve.hunting.owners.mappings import Mapper
    from memcarve.process import Container, ProcessEntry
    from memcarve.space import AddressSpace

#: in the column `owner`: nothing is known to map it; it is no memory at all
NONE_FOUND, NOT_MEMORY = -1, -2
MOST_OWNERS = 64
WORDS = {NONE_FOUND: "none found", NOT_MEMORY: "not memory"}
#: what may hide who maps a page, by system
_HIDDEN: dict[str | None, str] = {
    System.WINDOWS: "a page on the standby or a free list, or in the file cache, is mapped by nobody, and what is "
    "compressed or in a page file lies elsewhere",
    System.LINUX: "a free page, and one of the page cache that no process has mapped, is the direct map's alone, and "
    "what is compressed or swapped out lies elsewhere",
    None: "a page that is cached, free, or shared but not touched is mapped by nobody, and what is compressed or paged "
    "out lies elsewhere",
}


class Answer(NamedTuple):
    """One who maps what was asked for; None is unknown, or does not apply.

    `query` is the place of the question among those asked. `owner` is ``"process"``, ``"kernel"``, ``"direct map"``
    (where Linux's kernel maps all memory), ``"none found"`` or ``"not memory"``. `address` is virtual. `permissions`
    and `page` are what page tables say (``urw-``, ``present``), `module` and `region` what the system says of the
    address: ``ntdll.dll+0x1a0``, ``image ntdll.dll``. `more` are the mappings of the same byte that are not told.
    """

    query: int
    physical: int | None
    offset: int | None
    owner: str
    process: ProcessEntry | None
    address: int | None
    permissions: str | None
    page: str | None
    module: str | None
    region: str | None
    more: int


class Answers:
    """Answers in columns, one row or more for each question, in the order of questions; a row is an `Answer`.

    `query` (int64): the place of the question. `physical`, `offset` (uint64): where the byte lies, if `has_physical`,
    `has_offset` (bool). `owner` (int32): an index into the mappers, `NONE_FOUND` or `NOT_MEMORY`. `address` (uint64)
    and `flags` (uint8) are valid if `owner` is an index. `more` (int64): in the last row of a byte, how many of its
    mappings have no row.
    """

    def __init__(
        self,
        owners: Owners,
        query: I64,
        physical: tuple[U64, Bools],
        offset: tuple[U64, Bools],
        owner: np.ndarray,
        address: U64,
        flags: U8,
        more: I64,
    ) -> None:
        self._owners = owners
        self.query = query
        self.physical, self.has_physical = physical
        self.offset, self.has_offset = offset
        self.owner = owner
        self.address = address
        self.flags = flags
        self.more = more

    def __len__(self) -> int:
        return len(self.query)

    def part(self, rows: slice) -> Answers:
        """Return some of the rows."""
        return Answers(
            self._owners,
            self.query[rows],
            (self.physical[rows], self.has_physical[rows]),
            (self.offset[rows], self.has_offset[rows]),
            self.owner[rows],
            self.address[rows],
            self.flags[rows],
            self.more[rows],
        )

    @property
    def found(self) -> Bools:
        """Which rows name an owner (bool)."""
        return np.asarray(self.owner >= 0)

    def named(self) -> Named:
        """Return what the processes' systems say of the addresses: regions and modules, looked up once a process."""
        return self._owners.names.of(self.owner, self.address)

    def __iter__(self) -> Iterator[Answer]:
        """Yield the rows as objects."""
        named = self.named()
        modules, regions = named.module_texts(), named.region_texts()
        mappers = self._owners.mappers
        for row in range(len(self)):
            number, flags = int(self.owner[row]), int(self.flags[row])
            known = number >= 0
            by_tables = known and self._owners.by_physical
            yield Answer(
                int(self.query[row]),
                int(self.physical[row]) if self.has_physical[row] else None,
                int(self.offset[row]) if self.has_offset[row] else None,
                mappers[number].what if known else WORDS[number],
                mappers[number].entry if known else None,
                int(self.address[row]) if known else None,
                permissions(flags) if by_tables else None,
                page_state(flags) if by_tables else None,
                modules[row],
                regions[row],
                int(self.more[row]),
            )


class Owners:
    """Who maps what, of all processes of a container and its kernel: the inverse of their page tables.

    It is made in one pass over the processes, those of `indexes` (places in ``container.processes()``), by default all
    that nothing speaks against. Of each its user half, of the kernel's half every part once. Of an input that is no
    image, every byte of its memory.

    `mappers` are those who map memory: the column `owner` of answers is an index into them. `failures` are those that
    could not be opened, or a part of whose memory could not be walked, each with its error; `notes` are for the user,
    `hidden` says what may have an owner that is not found. `incomplete`: bytes of a process are known to be missing.
    `inputs` says where the memory came from, ready for JSON.

    Raises UsageError if the processes of a container are in several files, and the first error if all fail.
    """

    def __init__(self, container: Container, indexes: Sequence[int] | None = None) -> None:
        table = Mappings(container, indexes)
        self.container = container
        self.mappers: Sequence[Mapper] = table.mappers
        self.failures: Sequence[tuple[Mapper, MemcarveError]] = table.failures
        self.by_physical = table.by_physical
        self.incomplete = table.incomplete
        self.inputs = table.inputs
        self.names = Names(container, self.mappers)
        self._index = Stabbing(table.key, table.size, table.mapper)
        self._away, self._mapper, self._flags = table.away, table.mapper, table.flags  # bounds are in the index
        self._notes, self._system, self._backing_size = table.notes, table.system, table.backing_size

    def __repr__(self) -> str:
        return f"<Owners: {len(self._index)} stretches of {len(self.mappers)} mappers>"

    @property
    def notes(self) -> list[str]:
        """What was not looked at, in words."""
        ended = [mapper for mapper in self.mappers if mapper.entry is not None and mapper.entry.ended]
        words = "process has ended: its page tables" if len(ended) == 1 else "processes have ended: their page tables"
        return [*self._notes, *([f"{len(ended)} {words} may be others' by now"] if ended else [])]

    @property
    def hidden(self) -> str:
        """What may have an owner that is not found, in words."""
        if not self.by_physical:
            return "what is in no process's memory is a header, padding, or was left out"
        return _HIDDEN.get(self._system, _HIDDEN[None])

    def of(self, offsets: U64 | Iterable[int], max_owners: int = MOST_OWNERS) -> Answers:
        """Return who maps the bytes at some offsets of the input (uint64, in any order).

        Offsets are those that `find` and `locate` print: of the file itself, unless the container packs its pages; then
        they are of what it decodes to. Of each byte at most `max_owners` mappings are told, if there are more of
        different processes rather than many of one; the others are counted.
        """
        asked, most = column_of(offsets), _at_least_one(max_owners)
        if not self.by_physical:
            place = asked, np.ones(len(asked), np.bool_)
            nowhere = np.zeros(len(asked), np.uint64), np.zeros(len(asked), np.bool_)
            outside = asked >= np.uint64(self._backing_size)
            return self._answers(np.arange(len(asked)), nowhere, place, asked, outside, most)
        image = self._image
        held = self._ranges.holders(asked, most)
        count = np.maximum(np.bincount(held.point, minlength=len(asked)), 1)
        query, _ = expand(count)
        physical = np.zeros(len(query), np.uint64)
        there = (held.counts > 0)[query]
        row = held.row
        physical[there] = image.start[row] + (asked[held.point] - image.offset[row])
        return self._answers(
            query, (physical, there), (asked[query], np.ones(len(query), np.bool_)), physical, ~there, most
        )

    def of_physical(self, addresses: U64 | Iterable[int], max_owners: int = MOST_OWNERS) -> Answers:
        """Return who maps some physical addresses (uint64, in any order); `max_owners` as for `of`.

        Raises UsageError if the input is not an image.
        """
        image, asked, most = self._image, column_of(addresses), _at_least_one(max_owners)
        row = image.rows_of(asked)
        there = row >= 0
        offset = np.zeros(len(asked), np.uint64)
        offset[there] = image.offset[row[there]] + (asked[there] - image.start[row[there]])
        known = np.ones(len(asked), np.bool_)
        return self._answers(np.arange(len(asked)), (asked, known), (offset, there), asked, ~there, most)

    @functools.cached_property
    def _image(self) -> AddressSpace:
        return image_ranges(self.container, "{offset:N} asks for what lies at an offset of the file")

    @functools.cached_property
    def _ranges(self) -> Stabbing:
        """The physical ranges by their offsets, which may overlap in a damaged container."""
        return Stabbing(self._image.offset, self._image.size)

    def _answers(
        self,
        query: I64,
        physical: tuple[U64, Bools],
        offset: tuple[U64, Bools],
        keys: U64,
        outside: Bools,
        most: int,
    ) -> Answers:
        """Return the answers to questions, or to parts of them: where each byte lies, by the index's key."""
        held = self._index.holders(keys, most)
        told = np.bincount(held.point, minlength=len(keys))
        told[outside] = 0
        held_point, held_row = held.point, held.row
        if outside.any():
            keep = ~outside[held_point]
            held_point, held_row = held_point[keep], held_row[keep]
        place, step = expand(np.maximum(told, 1))
        owner = np.full(len(place), NONE_FOUND, np.int32)
        owner[outside[place]] = NOT_MEMORY
        address, flags = np.zeros(len(place), np.uint64), np.zeros(len(place), np.uint8)
        found = (told > 0)[place]
        owner[found] = self._mapper[held_row]
        address[found] = self._away[held_row] + keys[held_point]
        flags[found] = self._flags[held_row]
        last = step == np.maximum(told, 1)[place] - 1
        more = np.where(last & found, (held.counts - told)[place], 0)
        return Answers(
            self,
            query[place],
            (physical[0][place], physical[1][place]),
            (offset[0][place], offset[1][place]),
            owner,
            address,
            flags,
            more,
        )


def _at_least_one(most: int) -> int:
    if most < 1:
        raise UsageError("at least one owner of each byte is told", remedy="leave {max_owners} out, or give at least 1")
    return most


def column_of(numbers: U64 | Iterable[int]) -> U64:
    """Return numbers as a column. Raises UsageError for one that is negative or has more than 64 bits."""
    if isinstance(numbers, np.ndarray) and numbers.dtype == np.uint64:
        return numbers
    listed = [int(number) for number in numbers]
    for number in listed:
        if not 0 <= number < 1 << 64:
            raise UsageError(f"{number} is not an address or an offset: these have 64 bits")
    return np.array(listed, np.uint64)
