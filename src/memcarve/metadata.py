"""What is known of a process's memory beyond its bytes: regions, modules, threads, areas; each from one source."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.errors import encodable
from memcarve.intervals import TOP, Intervals, smallest_owner
from memcarve.protection import collapsed
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memcarve.dtypes import U64


#: what a process was started with, but its environment
TEXTS = ("command_line", "image_path", "current_directory")
#: in JSON: strings of an environment, modules that were unloaded
_MOST_STRINGS = 10_000
_MOST_UNLOADED = 2_000


class Region(NamedTuple):
    """What the operating system says of ``start <= x < start + size``; None is not known.

    `protection` is in the system's own words (``PAGE_EXECUTE_READ|PAGE_GUARD``, ``r-xp``): on Windows the one that the
    region began with. `kind` is a vocabulary.Kind, `file` the path of what is mapped, `offset` where in that file the
    region begins (bytes), `tag` a VAD's pool tag, `private` whether nobody else shares it. Text may hold anything.
    `allocation` is where the allocation begins that the region is part of, if a source lists an allocation in several
    regions; None if each region stands for itself. `detail` says more in words. Of what a process's own structures
    tell, `whole` says that all of the region that holds it is of that kind.
    """

    start: int
    size: int
    protection: str | None = None
    kind: str | None = None
    file: str | None = None
    tag: str | None = None
    private: bool | None = None
    offset: int | None = None
    allocation: int | None = None
    whole: bool = False
    detail: str | None = None

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size

    @property
    def collapsed(self) -> str | None:
        """The protection in three letters, as ``r-x``."""
        return collapsed(self.protection)


class Module(NamedTuple):
    """A module that a list names: where it is loaded, its size in memory, name and path; None is not known.

    Of one that was unloaded also what its header said, `timestamp` and `checksum`, and `sequence`, the system's number
    of the event, which grows by one. Its name is cut at 32 characters if Windows kept it.
    """

    start: int
    size: int | None = None
    name: str | None = None
    path: str | None = None
    timestamp: int | None = None
    checksum: int | None = None
    sequence: int | None = None

    @property
    def end(self) -> int:
        """The address after the last byte, as far as the size is known."""
        return self.start + (self.size or 1)


class Parameters(NamedTuple):
    """What a process was started with, by one `source`: its own word, which it may change; None is not known.

    `environment` are strings like ``NAME=value``, in their order. Text may hold anything.
    """

    source: str
    command_line: str | None = None
    image_path: str | None = None
    current_directory: str | None = None
    environment: tuple[str, ...] | None = None

    def facts(self, *, environment: bool = False) -> dict[str, Any]:
        """Return what is known but the source, ready for JSON; the environment only on request.

        Halves of characters are escaped.
        """
        texts = zip(TEXTS, self[1:4], strict=True)
        found: dict[str, Any] = {name: None if text is None else encodable(text) for name, text in texts}
        if environment:
            strings = self.environment
            found["environment"] = None if strings is None else [encodable(text) for text in strings[:_MOST_STRINGS]]
            if strings is not None and len(strings) > _MOST_STRINGS:
                found["environment_not_listed"] = len(strings) - _MOST_STRINGS
        return found


class Thread(NamedTuple):
    """A thread: its id, the addresses of its TEB and of where it began, its stack (half-open); None is not known.

    `registers` are those of a program at work, by the names that gdb and Linux have for them: ``rax`` ... ``r15``,
    ``rip``, ``eflags``, ``cs`` ... ``gs``, ``fs_base``, ``gs_base``; of 32 bits ``eax`` ... ``eip``, ``eflags``, ``cs``
    ... ``gs``. Those that are not known are not in it.
    """

    tid: int
    teb: int | None = None
    stack_start: int | None = None
    stack_end: int | None = None
    begin: int | None = None
    registers: Mapping[str, int] | None = None


class Regions:
    """Regions from one `source`, in order of their addresses, and how they divide the address space.

    `pieces` are intervals, whose owner is a region's place in `rows`. They are the regions themselves, unless some
    overlap, as no honest system has it: then an address belongs to the smallest of them, and `overlapping` counts those
    that share addresses. A region of no bytes is none.
    """

    def __init__(self, source: str, rows: Iterable[Region]) -> None:
        self.source = source
        self.rows = sorted((row for row in rows if row.size > 0), key=lambda row: (row.start, row.size))
        # all of the address space has one byte more than a column can say
        given = Intervals.of((row.start, min(row.size, TOP - 1)) for row in self.rows)
        self.pieces = smallest_owner(given.start, given.size)
        before = given.start[1:] <= np.maximum.accumulate(given.last)[:-1]
        behind = given.start[1:] <= given.last[:-1]
        self.overlapping = int(np.count_nonzero(np.append(False, before) | np.append(behind, False)))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Region]:
        return iter(self.rows)

    def at(self, address: int) -> int | None:
        """Return the place in `rows` of the region that holds an address; None where none does."""
        place = self.pieces.at(address)
        return None if place is None else int(self.pieces.owner[place])

    @functools.cached_property
    def allocations(self) -> list[tuple[Region, range]]:
        """The allocation of each region, and the indices in `rows` of its regions, by the region's index in `rows`.

        Regions that follow each other and name the same beginning, which is not behind them, are one allocation; every
        other region is one by itself.
        """
        found: list[tuple[Region, range]] = []
        while len(found) < len(self.rows):
            first = self.rows[len(found)]
            start, end, base, behind = first.start, first.end, first.allocation, len(found) + 1
            if base is not None and base <= start:
                start = base
                while behind < len(self.rows) and self.rows[behind].allocation == base:
                    end = max(end, self.rows[behind].end)
                    behind += 1
            parts = range(len(found), behind)
            found += [(Region(start, end - start), parts)] * len(parts)
        return found

    def module_end(self, module: Module) -> int:
        """Return where a module ends at most.

        Lists of modules lie in the process's own memory, where it may write what it likes: a module ends with the
        mapping that it begins in, or, where it begins in none, with the next one.
        """
        end = min(module.end, TOP)
        if not self.rows:
            return end
        held = self.at(module.start)
        if held is None:
            place = int(np.searchsorted(self.pieces.start, np.uint64(module.start)))
            if place == len(self.pieces):
                return end
            following = self.allocations[int(self.pieces.owner[place])][0]
            # the first region of an allocation need not be listed
            return min(end, following.end if following.start == module.start else int(self.pieces.start[place]))
        if self.rows[held].allocation is not None:
            return min(end, self.allocations[held][0].end)
        first, mapped = self.rows[held], self.rows[held].end
        # Unix maps a file in several regions, and of minidumps from there nobody knows which file it is
        parts = first.file is not None or first.kind in (Kind.IMAGE, Kind.MAPPED)
        for row in itertools.islice(self.rows, held + 1, None):
            if not parts or mapped >= end or row.start != mapped or (row.file, row.kind) != (first.file, first.kind):
                break
            mapped = row.end
        return min(end, mapped)


class Modules(NamedTuple):
    """Modules that one `source` lists, in its order."""

    source: str
    rows: Sequence[Module]


class Threads(NamedTuple):
    """Threads that one `source` lists, in its order."""

    source: str
    rows: Sequence[Thread]


class Areas(NamedTuple):
    """Areas that one `source` knows."""

    source: str
    rows: Sequence[Region]


class Unloaded(NamedTuple):
    """Modules that were unloaded, as one `source` lists them; in the order in which they were, if it says so."""

    source: str
    rows: Sequence[Module]


class Metadata(NamedTuple):
    """All that is known of a process; of several sources the one that counts first. `notes` are for the user.

    `parameters` are what it was started with, of a 32-bit program on 64-bit Windows by both of its sides.

    `files` are those that it was read from besides the input, ready for JSON: kind, path, size, format, SHA-256.

    A source is there also where its list is empty; where nothing is known there is none. `complete` is false where
    modules and regions are only those that somebody had to do with.
    """

    regions: tuple[Regions, ...] = ()
    modules: tuple[Modules, ...] = ()
    threads: tuple[Threads, ...] = ()
    areas: tuple[Areas, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True
    parameters: tuple[Parameters, ...] = ()
    unloaded: tuple[Unloaded, ...] = ()
    files: tuple[dict[str, Any], ...] = ()

    def __add__(self, other: Metadata) -> Metadata:  # type: ignore[override]
        """Return what both know; the left one counts first."""
        return Metadata(
            self.regions + other.regions,
            self.modules + other.modules,
            self.threads + other.threads,
            self.areas + other.areas,
            self.notes + other.notes,
            self.complete and other.complete,
            self.parameters + other.parameters,
            self.unloaded + other.unloaded,
            self.files + other.files,
        )

    def told(self, *, environment: bool = False) -> dict[str, Any]:
        """Return what the process says of its start and of modules it unloaded, ready for JSON; nothing if it does not.

        Of each text the first one that is known; all of them by their sources in ``parameters``, where a later source
        stands only if it says something else. ``unloaded`` is None where that is not known. The environment is there
        only on request.
        """
        if not self.parameters and not self.unloaded:
            return {}
        rows = [(each.source, each.facts(environment=environment)) for each in self.parameters]
        unloaded = [_unloaded(row) | {"source": each.source} for each in self.unloaded for row in each.rows]
        more = len(unloaded) - _MOST_UNLOADED
        return {
            **{text: next((row[text] for _, row in rows if row[text] is not None), None) for text in TEXTS},
            "parameters": [
                {"source": source, **row}
                for place, (source, row) in enumerate(rows)
                if row not in [earlier for _, earlier in rows[:place]]
            ],
            "unloaded": unloaded[:_MOST_UNLOADED] if self.unloaded else None,
            **({"unloaded_not_listed": more} if more > 0 else {}),
        }

    def all_threads(self) -> list[Thread]:
        """Return the threads of all lists, each once: what the first list does not say of one, a later one may."""
        found: dict[int, Thread] = {}
        for threads in self.threads:
            for row in threads.rows:
                known = found.setdefault(row.tid, row)
                found[row.tid] = Thread._make(
                    first if first is not None else second for first, second in zip(known, row, strict=True)
                )
        return [*found.values()]


def _unloaded(row: Module) -> dict[str, Any]:
    """Return what is known of a module that was unloaded, ready for JSON: halves of characters are escaped."""
    return {
        "base": f"0x{row.start:x}",
        "size": row.size,
        "name": None if row.name is None else encodable(row.name),
        "timestamp": row.timestamp,
        "checksum": row.checksum,
        "sequence": row.sequence,
    }


def places(metadata: Metadata, split: str) -> U64 | None:
    """Return the addresses (uint64) where regions, protections or modules begin or end; None where none are known.

    `split` is ``"region"``, ``"protection"`` or ``"module"``. Without a list of modules, ``"module"`` goes by the
    mapped files.
    """
    if split == "module" and metadata.modules:
        rows = [row for modules in metadata.modules for row in modules.rows]
        return _column({row.start for row in rows} | {row.end for row in rows if row.size})
    if not metadata.regions:
        return None
    regions = metadata.regions[0]
    said = {"region": "start", "protection": "protection", "module": "file"}[split]
    if len(regions) and all(getattr(row, said) is None for row in regions):
        return None

    def words(index: int) -> object:
        row = regions.rows[index]
        return {"region": index, "protection": row.protection, "module": row.file}[split]

    found: set[int] = set()
    before: tuple[int, object] | None = None
    pieces = regions.pieces
    for start, size, index in zip(pieces.start.tolist(), pieces.size.tolist(), pieces.owner.tolist(), strict=True):
        value = words(index)
        if before == (start, value):
            found.discard(start)
        else:
            found.add(start)
        found.add(start + size)
        before = start + size, value
    return _column(found)


def _column(addresses: Iterable[int]) -> U64:
    """Return addresses in order; 2**64, where nothing can be cut, is not among them."""
    return np.array(sorted(address for address in addresses if address < TOP), np.uint64)
