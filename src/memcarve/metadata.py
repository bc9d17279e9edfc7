"""What is known of a process's memory beyond its bytes: regions, modules, threads, areas, each from a named source."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from memcarve.errors import encodable, printable
from memcarve.intervals import TOP, Intervals, smallest_owner
from memcarve.protection import collapsed
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memcarve.dtypes import U64


#: of the Windows loader's lists, the one in which are only those modules that were initialised
INITIALIZATION_ORDER = "initialization order"
#: what a process was started with, but its environment
TEXTS = ("command_line", "image_path", "current_directory")
# at most in JSON: strings of an environment, unloaded modules
_MOST_STRINGS = 10_000
_MOST_UNLOADED = 2_000

_Row = TypeVar("_Row")


class Region(NamedTuple):
    """What the operating system says about ``start <= x < start + size``; None is unknown.

    `protection` is in the system's own words (``PAGE_EXECUTE_READ|PAGE_GUARD``, ``r-xp``); on Windows it is the initial
    protection. `kind` is a vocabulary.Kind, `file` the path of the mapped file, `offset` the region's offset in that
    file in bytes, `tag` a VAD's pool tag, `private` whether no other process shares the region. Text may hold anything.
    `allocation` is the start of the allocation that the region is part of, if its source lists one allocation as
    several regions; None if each region stands for itself. `detail` says more in words. An area (a part of memory that
    the process's own structures describe) is `whole` if all of the region around it is of that kind. On Linux, `device`
    (major and minor number) and `inode` are those of the mapped file, 0 if there is none.
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
    device: tuple[int, int] | None = None
    inode: int | None = None

    @property
    def end(self) -> int:
        """The address after the last byte; 2**64 at the top."""
        return self.start + self.size

    @property
    def collapsed(self) -> str | None:
        """The protection in three letters, as ``r-x``."""
        return collapsed(self.protection)

    @property
    def device_numbers(self) -> str | None:
        """The device as Linux prints it, ``fe:01``."""
        return None if self.device is None else "{:02x}:{:02x}".format(*self.device)

    def facts(self) -> dict[str, Any]:
        """Return all that is known but `whole`, ready for JSON; text may hold unpaired surrogates."""
        known: dict[str, Any] = {
            "start": f"0x{self.start:x}",
            "end": f"0x{self.end:x}",
            "protection": self.protection,
            "kind": self.kind,
            "file": self.file,
            "offset": self.offset,
            "tag": self.tag,
            "private": self.private,
            "allocation": None if self.allocation is None else f"0x{self.allocation:x}",
            "detail": self.detail,
            "device": self.device_numbers,
            "inode": self.inode,
        }
        return {name: value for name, value in known.items() if value is not None}


class Module(NamedTuple):
    """A listed module: its start, its size in memory, its name and path; None is unknown.

    An unloaded module also has `timestamp` and `checksum` from its header, and `sequence`, the number of the event,
    which grows by one. Windows cuts its name at 32 characters. `missing` names those of several lists of one loader
    that should hold it and do not.
    """

    start: int
    size: int | None = None
    name: str | None = None
    path: str | None = None
    timestamp: int | None = None
    checksum: int | None = None
    sequence: int | None = None
    missing: tuple[str, ...] | None = None

    @property
    def end(self) -> int:
        """The address after the last byte; an unknown size counts as one byte."""
        return self.start + (self.size or 1)


class Parameters(NamedTuple):
    """What a process was started with, according to one `source`; None is unknown.

    The process may have changed all of it. `environment` holds strings like ``NAME=value``, in order. Text may hold
    anything.
    """

    source: str
    command_line: str | None = None
    image_path: str | None = None
    current_directory: str | None = None
    environment: tuple[str, ...] | None = None

    @property
    def length(self) -> int:
        """How many characters the texts have, and those of the environment."""
        return sum(len(text or "") for text in self[1:4]) + sum(map(len, self.environment or ()))

    def facts(self, *, environment: bool = False) -> dict[str, Any]:
        """Return everything but the source, ready for JSON: unpaired surrogates are escaped.

        The environment is there only on request.
        """
        texts = zip(TEXTS, self[1:4], strict=True)
        found: dict[str, Any] = {name: None if text is None else encodable(text) for name, text in texts}
        if environment:
            strings = self.environment
            found["environment"] = None if strings is None else [encodable(text) for text in strings[:_MOST_STRINGS]]
            if strings is not None and len(strings) > _MOST_STRINGS:
                found["environment_not_listed"] = len(strings) - _MOST_STRINGS
        return found


class Fault(NamedTuple):
    """Why a thread was stopped; None is unknown.

    `signal` is what a Unix sent it, in that system's numbers, `exception` what was raised on Windows (or what else a
    minidump calls so). `flags` are its ExceptionFlags, or the signal's si_code; `address` is that of the instruction on
    Windows, si_addr of a signal; `parameters` are ExceptionInformation. `siginfo` is the siginfo_t of Linux as it is.
    `registers` and `floating` are those at that moment, if they are not the thread's own, as in `Thread`.
    """

    signal: int | None = None
    exception: int | None = None
    flags: int | None = None
    address: int | None = None
    parameters: tuple[int, ...] = ()
    siginfo: bytes | None = None
    registers: Mapping[str, int] | None = None
    floating: bytes | None = None

    def facts(self) -> dict[str, Any]:
        """Return all that is known, ready for JSON: bytes are hexadecimal."""
        known: dict[str, Any] = {
            "signal": self.signal,
            "exception": None if self.exception is None else f"0x{self.exception:x}",
            "flags": self.flags,
            "address": None if self.address is None else f"0x{self.address:x}",
            "parameters": [f"0x{value:x}" for value in self.parameters] or None,
            "siginfo": None if self.siginfo is None else self.siginfo.hex(),
            "registers": None if self.registers is None else hexadecimal(self.registers),
            "floating": None if self.floating is None else self.floating.hex(),
        }
        return {name: value for name, value in known.items() if value is not None}


class Thread(NamedTuple):
    """A thread: its id, the addresses of its TEB and of its first instruction, its stack (half-open); None is unknown.

    `registers` are the user-mode ones by the names that gdb uses: ``rax`` ... ``r15``, ``rip``, ``eflags``, ``cs`` ...
    ``gs``, ``fs_base``, ``gs_base``; on 32 bits ``eax`` ... ``eip``, ``eflags``, ``cs`` ... ``gs``. Unknown ones are
    left out; on ARM64 ``x0`` ... ``x30``, ``sp``, ``pc``, ``cpsr``, ``tpidr``, ``pauth_dmask``, ``pauth_cmask``, on ARM
    ``r0`` ... ``r12``, ``sp``, ``lr``, ``pc``, ``cpsr``. `floating` are the x87 and SSE registers as the processor
    saves them: 108 bytes of FSAVE (32 bits alone), 512 of FXSAVE, or more of XSAVE; or those of ARM64 (528 bytes) and
    ARM (260) as Linux has them. `name` may hold anything. `fault` is why it was stopped. `state` is what it was doing,
    in the words of proc_pid_status(5): ``sleeping``.
    """

    tid: int
    teb: int | None = None
    stack_start: int | None = None
    stack_end: int | None = None
    begin: int | None = None
    registers: Mapping[str, int] | None = None
    floating: bytes | None = None
    name: str | None = None
    fault: Fault | None = None
    state: str | None = None


class Regions:
    """Regions from one `source`, in order of their addresses, and how they divide the address space.

    `pieces` are intervals whose owner is a region's index in `rows`. They are the regions themselves unless some
    overlap, which no honest system reports: then an address belongs to the smallest of them, and `overlapping` counts
    the regions that share addresses. Empty regions are dropped.
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

    def __repr__(self) -> str:
        return f"<Regions: {len(self)} of {printable(self.source)}>"

    def at(self, address: int) -> int | None:
        """Return the index in `rows` of the region that holds an address; None if none does."""
        place = self.pieces.at(address)
        return None if place is None else int(self.pieces.owner[place])

    @functools.cached_property
    def allocations(self) -> list[tuple[Region, range]]:
        """For each region its allocation, and the range of indices in `rows` of that allocation's regions.

        Consecutive regions that name the same start, at or before the first of them, are one allocation; every other
        region is an allocation of its own.
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
        """Return where a module ends at the latest.

        Lists of modules lie in the process's own memory, where it can write anything: a module ends with the mapping
        that it begins in, or before the next mapping if it begins in none.
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
        # Unix maps a file in several regions, and a minidump from there does not name the file
        parts = first.file is not None or first.kind in (Kind.IMAGE, Kind.MAPPED)
        for row in itertools.islice(self.rows, held + 1, None):
            if not parts or mapped >= end or row.start != mapped or (row.file, row.kind) != (first.file, first.kind):
                break
            mapped = row.end
        return min(end, mapped)


class SourceRows(NamedTuple, Generic[_Row]):
    """What one `source` lists, in its order."""

    source: str
    rows: Sequence[_Row]


class Metadata(NamedTuple):
    """All that is known of a process; the first of several sources takes precedence. `notes` are for the user.

    `unloaded` are the modules that were unloaded, in that order if the source keeps it. `parameters` are what the
    process was started with; a 32-bit program on 64-bit Windows has them twice. `files` are the files that were read
    besides the input, ready for JSON: kind, path, size, format, SHA-256.

    `program_bases` are where the process's own memory says that its program lies: source and address.

    A source with an empty list is there, too; nothing is there if nothing is known. `complete` is False if only the
    modules and regions of some of the memory are known, as in a carved folder.
    """

    regions: tuple[Regions, ...] = ()
    modules: tuple[SourceRows[Module], ...] = ()
    threads: tuple[SourceRows[Thread], ...] = ()
    areas: tuple[SourceRows[Region], ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True
    parameters: tuple[Parameters, ...] = ()
    unloaded: tuple[SourceRows[Module], ...] = ()
    files: tuple[dict[str, Any], ...] = ()
    program_bases: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Metadata) -> Metadata:  # type: ignore[override]
        """Return what both know; the left one takes precedence."""
        both: Iterable[tuple[Any, Any]] = zip(self, other, strict=True)
        return Metadata._make(one and two if isinstance(one, bool) else one + two for one, two in both)

    def told(self, *, environment: bool = False) -> dict[str, Any]:
        """Return what the process says about its start and the modules it unloaded, ready for JSON; {} if nothing.

        Each text is the first known one; ``parameters`` has all of them by source, leaving out a source that only
        repeats an earlier one. ``unloaded`` is None if unknown. The environment is there only on request.
        """
        if not self.parameters and not self.unloaded:
            return {}
        rows = [(each.source, each.facts(environment=environment)) for each in self.parameters]
        unloaded = [
            {
                "base": f"0x{row.start:x}",
                "size": row.size,
                "name": None if row.name is None else encodable(row.name),
                "timestamp": row.timestamp,
                "checksum": row.checksum,
                "sequence": row.sequence,
                "source": each.source,
            }
            for each in self.unloaded
            for row in each.rows
        ]
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
        """Return the threads of all lists, each once; a later list fills in what the earlier ones do not know."""
        found: dict[int, Thread] = {}
        for threads in self.threads:
            for row in threads.rows:
                known = found.setdefault(row.tid, row)
                found[row.tid] = Thread._make(
                    first if first is not None else second for first, second in zip(known, row, strict=True)
                )
        return [*found.values()]


def hexadecimal(registers: Mapping[str, int]) -> dict[str, str]:
    """Return registers as JSON has them."""
    return {name: f"0x{value:x}" for name, value in registers.items()}


def places(metadata: Metadata, split: str) -> U64 | None:
    """Return the addresses (uint64) at which regions, protections or modules begin or end; None if none are known.

    `split` is ``"region"``, ``"protection"`` or ``"module"``; without a list of modules the mapped files are used.
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
    """Return addresses in order, without 2**64, where nothing can be cut."""
    return np.array(sorted(address for address in addresses if address < TOP), np.uint64)
