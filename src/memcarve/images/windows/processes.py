"""The processes of a Windows x64 machine, found in its memory without symbols.

The kernel's list of processes is walked in both directions from the System process. All physical memory is searched for
processes as well, which repairs a damaged list and finds those that were taken out of it or have ended.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, ProcessError, printable
from memcarve.images.kernel_half import KernelHalf
from memcarve.images.paging import default_limit
from memcarve.images.paging_modes import ROOT
from memcarve.images.physical_scan import everything, look_through, pages_of
from memcarve.images.structure_reader import Reader
from memcarve.images.windows import eprocess, kernel
from memcarve.images.windows.eprocess import RUNNING, SYSTEM, is_id
from memcarve.images.windows.eprocess_scan import EARLIEST, LATEST, POINTERS, PROFILE_LIST, USER_END, WAIT_LIST, Seeker
from memcarve.images.windows.judging import Judge, judged
from memcarve.images.windows.learning import eprocess_members
from memcarve.intervals import PAGE, TOP
from memcarve.process import ProcessEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.physical_scan import Block
    from memcarve.images.windows.eprocess import Layout
    from memcarve.images.windows.kernel import Kernel


_MOST_PROCESSES = 1 << 16
_SAMPLE = 64  # processes that are looked at to see whether a layout fits
#: how many candidates for a process are looked at; or one for so many pages, if that is more
_MOST_CANDIDATES, _CANDIDATE_PAGES = 1 << 17, 16
_EPOCH = dt.datetime(1601, 1, 1, tzinfo=dt.UTC)
_WANTED = {b"PsInitialSystemProcess", b"NtBuildNumber"} | {export for export, _ in eprocess.ACCESSORS.values()}


class Process(NamedTuple):
    """One EPROCESS: its `address`, the `offset` of its links in the backing, neighbours in the list, and its members.

    `address` is None if no kernel address leads to it any more; then `physical` is where all of it lies. Times are
    FILETIMEs; what is unknown is None.
    """

    address: int | None
    offset: int
    following: int
    preceding: int
    pid: int
    name: bytes
    root: int
    parent: int | None
    create: int | None
    exit: int | None
    image_base: int | None
    peb: int | None
    wow64: bool | None
    ended: bool | None
    physical: int | None = None


class Windows:
    """A Windows x64 machine: its kernel, and its processes on demand.

    If it should be `quick`, the kernel's half is not walked before all of it is needed, as by a search.
    Raises ProcessError if there is a Windows but its processes cannot be found; the message says what was found.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        table: AddressTable,
        version: kernel.Version,
        limit: int | None = None,
        *,
        quick: bool = False,
    ) -> None:
        self.memory = memory
        self.notes: list[str] = []
        space = KernelHalf(memory, table, max(limit or 0, default_limit(memory)))
        if not quick:
            _ = space.whole  # which may claim too much
        # first by the System process; if none makes sense, by any processes that are linked to each other
        found: tuple[Layout, Process, str] | None = None
        candidates: list[Kernel] = []
        for candidate in kernel.kernels(space, version, _WANTED):
            candidates.append(candidate)
            self.kernel: Kernel = candidate
            found = self._settle()
            if found:
                break
        found = found or self._settle_without_system(candidates)
        if found is None:
            raise ProcessError(
                f"a Windows {version} was found (page-table root 0x{table.root:x}), but no System process that makes "
                "sense, neither through a kernel's exports nor with the offsets of known kernels",
                remedy="give the root of one process with {dtb} ({scan} lists roots)",
            )
        self.layout, self.system, self.layout_source = found
        self._all: list[ProcessEntry] | None = None

    @property
    def description(self) -> str:
        """Which Windows it is and how its processes are read, in words."""
        base = f", kernel at 0x{self.kernel.base:x}" if self.kernel.base is not None else ""
        return f"Windows {self.kernel.version} x64{base}; offsets from {self.layout_source}"

    def listed(self) -> list[ProcessEntry]:
        """Return the processes that the kernel's list leads to, without a search of all memory."""
        return [_entry(process, linked=True) for process in self._list[0]]

    @property
    def problem(self) -> str:
        """What is wrong with the kernel's list of processes, in words; empty if it is whole."""
        return self._list[1]

    def processes(self) -> list[ProcessEntry]:
        """Return every process, in the order of the list; then those that only the search found, by pid.

        Processes that the search found are judged; doubtful ones come last.
        """
        if self._all is None:
            reached, problem = self._list
            others = self._unlisted(reached)
            if problem:
                self.notes.append(
                    f"the list of processes is damaged ({problem}); other processes were searched for in all memory"
                )
            entries = [_entry(process, linked=self._is_linked(process), doubts=doubts) for process, doubts in others]
            entries.sort(key=lambda entry: (bool(entry.doubts), not entry.listed))
            doubtful = sum(bool(entry.doubts) for entry in entries)
            if doubtful:
                self.notes.append(
                    f"the search found {doubtful} doubtful process{'' if doubtful == 1 else 'es'}; the list of "
                    "processes says why. They are taken only by their pids, not by name or with all others"
                )
            self._all = [_entry(process, linked=True) for process in reached] + entries
        return self._all

    def _unlisted(self, reached: list[Process]) -> list[tuple[Process, tuple[str, ...]]]:
        """Return what the search found besides those `reached` by the list, by pid, each with its doubts."""
        known = {process.offset for process in reached}
        search = self._search(self.layout, everything(self.memory))
        judge = Judge(self.memory, self.kernel, self.layout, reached, self._is_linked)
        found, notes = judged((process for process in search if process.offset not in known), judge)
        self.notes += notes
        return sorted(found, key=lambda pair: (pair[0].pid, pair[0].offset))

    def _code(self, export: bytes) -> bytes:
        address = self.kernel.exports.get(export)
        if address is None:
            return b""
        try:
            return self.kernel.space.read(address, 32)
        except AddressError:
            return b""

    def _settle(self) -> tuple[Layout, Process, str] | None:
        """Return the layout under which the System process makes sense, that process, and the layout's source.

        Layouts resemble each other: if several fit System, the one under which most processes make sense counts.
        """
        pointer = self.kernel.exports.get(b"PsInitialSystemProcess")
        if (pointer is None) != (self.kernel.base is None):
            return None  # an image of that name, but not the kernel
        address = None if pointer is None else struct.unpack("<Q", self.kernel.space.padded(pointer, 8))[0]
        decoded = eprocess.decode(self._code)
        layouts = list(eprocess.layouts(self.kernel.version, decoded))
        for found in layouts:
            settled = self._settle_among(found, decoded, address)
            if settled is not None:
                return (*settled, found.source)
        learned = eprocess_members.learned(self.memory, self.kernel, address, decoded)
        system = None if learned is None else self._read(learned[1], learned[0])
        if learned is not None and system is not None:
            return learned[0], system, "what processes look like"
        for found in layouts:  # headers may be overwritten
            settled = self._settle_among(found, decoded, address, headers=False)
            if settled is not None:
                return (*settled, found.source)
        return None

    def _settle_among(
        self, found: eprocess.Found, decoded: dict[str, int], address: int | None, *, headers: bool = True
    ) -> tuple[Layout, Process] | None:
        """Return which of several layouts holds up, and the System process: at `address`, if that is known.

        Otherwise it is searched for; without `headers` also at addresses without the header of a process.
        """
        told = decoded if found.source.startswith("the accessors") else {}
        held: list[tuple[eprocess_members.Judged, eprocess_members.Sample, int]] = []
        for layout in found.layouts:
            system = self._find_system(layout) if address is None else self._read(address, layout.only(told))
            if system is None or system.pid != SYSTEM or system.address is None:
                continue
            shifted = address is None and not eprocess_members.is_process(Reader(self.kernel.space), system.address)
            if headers and shifted:  # a different layout that fits if it is shifted
                continue
            if not headers and not self._maps_kernel(system):
                continue
            sample = eprocess_members.Sample(self.memory, self.kernel, system.address, layout.links)
            if eprocess_members.has_names(sample, layout, told, own=found.own or bool(told)):
                held.append((eprocess_members.judge(sample, layout, told, own=found.own), sample, system.address))
        if not held:
            return None
        layout = eprocess_members.agreed([one for one, _, _ in held])
        _, sample, at = next(one for one in held if one[0].layout.pid == layout.pid)
        layout = eprocess_members.completed(sample, layout)
        system = self._read(at, layout)
        return None if system is None else (layout, system)

    def _maps_kernel(self, process: Process) -> bool:
        """Return True if a process's page tables map what every kernel's do, as far as that is known."""
        if not self.kernel.version.major:
            return process.root & ROOT != 0
        table = self.kernel.table._replace(root=process.root & ROOT)
        return kernel.shared_data(self.memory, table) is not None

    def _settle_without_system(
        self, candidates: list[Kernel], *, headers: bool = True
    ) -> tuple[Layout, Process, str] | None:
        """Settle kernel and layout by any processes that are linked to others, if System itself is damaged.

        A wrong layout, shifted, may find as many: then the one given by the kernel's own code counts. If nothing is
        found at `headers` of processes, these may have been overwritten, too.
        """
        best: tuple[int, int] = (1, 0)
        settled: tuple[Kernel, tuple[Layout, Process, str]] | None = None
        for candidate in candidates:
            self.kernel = candidate
            decoded, reader = eprocess.decode(self._code), Reader(candidate.space)
            for found in eprocess.layouts(candidate.version, decoded):
                for layout in found.layouts:
                    search = self._search(layout, pages_of(self.memory, candidate.space.whole))
                    sample = itertools.islice(filter(_makes_sense, search), _SAMPLE)
                    linked = [process for process in sample if self._is_linked(process, layout)]
                    if headers:
                        linked = [one for one in linked if eprocess_members.is_process(reader, one.address or 0)]
                    else:
                        linked = [*filter(self._maps_kernel, linked)]
                    if linked and (len(linked), len(decoded)) > best and len(linked) > 1:
                        best, settled = (len(linked), len(decoded)), (candidate, (layout, linked[0], found.source))
        if settled is None:
            return self._settle_without_system(candidates, headers=False) if headers else None
        self.kernel = settled[0]
        self.notes.append("the System process is damaged")
        return settled[1]

    def _find_system(self, layout: Layout) -> Process | None:
        for process in self._search(layout, pages_of(self.memory, self.kernel.space.whole), only=SYSTEM):
            named = process.name.rstrip(b"\0").lower() == b"system"
            if named and _makes_sense(process) and self._is_linked(process, layout):
                return process
        return None

    def _read(self, address: int, layout: Layout) -> Process | None:
        """Read the EPROCESS at a kernel address; None if it does not make sense."""
        process = self._look(address, layout)
        return process if process is not None and _makes_sense(process) else None

    def _look(self, address: int, layout: Layout) -> Process | None:
        """Read what may be an EPROCESS at a kernel address; None if there cannot be one."""
        space = self.kernel.space
        if address % 16 or not POINTERS <= address < TOP - layout.end:
            return None
        try:
            place = space.offset_of(address + layout.links)
        except AddressError:
            return None
        process = self._parse(space.padded(address, layout.end), layout, address, place)
        if not process.exit and layout.exit is not None and self._link(address + layout.exit, forward=True) is None:
            return process._replace(exit=None, ended=None)  # not in memory, which is not the same as zero
        return process

    def _parse(self, data: bytes, layout: Layout, address: int | None, offset: int) -> Process:
        """Return the process in an EPROCESS's bytes, whose links are at `offset` of the backing."""

        def number(member: int | None, size: int = 8) -> int | None:
            return None if member is None else int.from_bytes(data[member : member + size], "little")

        wow64, status, ended = number(layout.wow64), number(layout.exit_status, 4), number(layout.exit)
        if not status and address is not None and not self._is_there(address + (layout.exit_status or 0), 4):
            status = None  # it was not read: the zeros only fill its room
        following, preceding = struct.unpack_from("<QQ", data, layout.links)
        return Process(
            address=address,
            offset=offset,
            following=following,
            preceding=preceding,
            pid=number(layout.pid) or 0,
            name=data[layout.name : layout.name + eprocess.NAME],
            root=number(eprocess.ROOT) or 0,
            parent=number(layout.parent),
            create=number(layout.create),
            exit=ended,
            image_base=number(layout.section),
            peb=number(layout.peb),
            wow64=None if wow64 is None else wow64 != 0,
            ended=ended != 0 if ended is not None else None if status is None else status != RUNNING,
        )

    def _is_there(self, address: int, size: int) -> bool:
        try:
            self.kernel.space.read(address, size)
        except AddressError:
            return False
        return True

    @functools.cached_property
    def _list(self) -> tuple[list[Process], str]:
        """The processes that the list leads to, in its order, and what is wrong with the list, in words."""
        forward, problem = self._follow(self.layout, self.system, forward=True)
        backward, other = self._follow(self.layout, self.system, forward=False)
        seen = {process.address for process in forward}
        rest = [process for process in reversed(backward) if process.address not in seen]
        if not problem and rest:
            problem = "the two directions lead to different processes"
        return forward + rest, problem or other

    def _follow(self, layout: Layout, system: Process, *, forward: bool) -> tuple[list[Process], str]:
        """Walk the list from System in one direction until it closes; the head, not a process, is passed once."""
        first = system.address or 0
        found, seen, head = [system], {first}, False
        here = first + layout.links
        link = system.following if forward else system.preceding
        way = "forward" if forward else "backward"
        while len(found) < _MOST_PROCESSES:
            back = self._link(link, forward=not forward)
            if back != here:
                return found, f"{way}, 0x{link:x} does not lead back to 0x{here:x}"
            address = link - layout.links
            if address == first:
                return found, ""
            process = self._read(address, layout)
            if process is None and not head:
                head = True
            elif process is None or address in seen:
                return found, f"{way}, 0x{link:x} does not lead to a process"
            else:
                found.append(process)
                seen.add(address)
            here, link = link, self._link(link, forward=forward) or 0
        return found, f"{way}, it does not end"

    def _link(self, entry: int, *, forward: bool) -> int | None:
        """Return what a LIST_ENTRY at an address holds; None if it is not in memory."""
        try:
            return int.from_bytes(self.kernel.space.read(entry if forward else entry + 8, 8), "little")
        except AddressError:
            return None

    def _is_linked(self, process: Process, layout: Layout | None = None) -> bool:
        """Return True if a neighbour in the list still points to the process."""
        if process.address is None:
            return False
        here = process.address + (layout or self.layout).links
        after, before = self._link(process.following, forward=False), self._link(process.preceding, forward=True)
        alone = process.following == here
        return not alone and here in (after, before)

    def _search(self, layout: Layout, blocks: Iterable[Block], only: int | None = None) -> Iterator[Process]:
        """Search memory for what looks like a process and yield each once; with `only`, those with this pid."""
        space, memory = self.kernel.space.whole, self.memory
        order = np.argsort(space.offset, kind="stable")
        begins, ends = space.offset[order], (space.offset + space.size)[order]
        # of all extents that begin before an offset, the one that reaches farthest: a page may be mapped repeatedly
        reaches = np.maximum.accumulate(ends)
        farthest = np.maximum.accumulate(np.where(ends == reaches, np.arange(len(ends)), 0))
        heads = {entry.get("_EPROCESS.ThreadListHead") for entry in eprocess.entries(self.kernel.version, layout)[0]}
        head = heads.pop() if len(heads) == 1 else None
        seeker = Seeker(layout, memory.end, None if head is None else int(head), only)
        seen: set[int] = set()
        most = max(_MOST_CANDIDATES, memory.total // PAGE // _CANDIDATE_PAGES)
        # two budgets: candidates that the kernel does not map cannot use up that of those it maps
        left = {True: most, False: most}
        for found, distances in look_through(memory, blocks, seeker):
            there = memory.holds(found, 1)  # if only a part of a page is there, the rest looks like zeros
            physical, distance = found[there], distances[there]
            offsets = memory.offsets_of(physical)
            # where in the kernel half does it lie?
            rows = np.searchsorted(begins, offsets, "right").astype(np.int64) - 1
            mapped = rows >= 0
            rows = farthest[np.maximum(rows, 0)]
            mapped &= offsets < ends[rows]
            addresses = space.start[order[rows]] + (offsets - begins[rows])
            for place, into, address, known in zip(
                physical.tolist(), distance.tolist(), addresses.tolist(), mapped.tolist(), strict=True
            ):
                left[known] -= 1
                if left[known] < 0:
                    continue
                process = self._mapped(address - into, layout) if known else self._freed(place - into, layout)
                if process and process.offset not in seen and only in (None, process.pid):
                    seen.add(process.offset)
                    yield process
        note = f"more than {most} places look like processes, and no more were looked at: the image is made to deceive"
        if min(left.values()) < 0 and note not in self.notes:
            self.notes.append(note)

    def _mapped(self, address: int, layout: Layout) -> Process | None:
        """Read an EPROCESS at a kernel address; if it is mapped more than once, at the one in its own lists."""
        process = self._look(address, layout)
        for at in (PROFILE_LIST, WAIT_LIST) if process is not None else ():
            link = self._link(address + at, forward=True)
            if link == address + at:
                break
            other = None if link is None else self._look(link - at, layout)
            if other is not None and process is not None and other.offset == process.offset:
                return other
        return process

    def _freed(self, physical: int, layout: Layout) -> Process | None:
        """Read an EPROCESS that no kernel address leads to; None unless all of it lies in one page."""
        if physical < 0 or physical // PAGE != (physical + layout.end - 1) // PAGE:
            return None
        data = self.memory.read(physical, layout.end)
        if data is None:
            return None
        links = physical + layout.links
        offset = self.memory.offsets_of(np.array([links], np.uint64))
        return self._parse(data, layout, None, int(offset[0]))._replace(physical=physical)


def _makes_sense(process: Process) -> bool:
    """Return True if every member holds a possible value: chance does not make that so."""
    links = (process.following, process.preceding)
    user = (process.image_base or 0, process.peb or 0)
    return (
        is_id(process.pid)
        and (process.parent or 0) < 1 << 32
        and any(link >= POINTERS and link % 8 == 0 for link in links)  # one of them may be damaged
        and all(address < USER_END and address % PAGE == 0 for address in user)
        and (process.create is None or process.pid == SYSTEM or EARLIEST < process.create < LATEST)
        and (not process.exit or EARLIEST < process.exit < LATEST)
    )


def _entry(process: Process, *, linked: bool, doubts: tuple[str, ...] = ()) -> ProcessEntry:
    name = process.name.split(b"\0")[0].decode("ascii", "backslashreplace")
    return ProcessEntry(
        pid=process.pid if is_id(process.pid) else None,
        name=printable(name),
        parent=process.parent,
        created=_time(process.create),
        exited=_time(process.exit),
        root=process.root & ROOT,
        image_base=process.image_base or None,
        peb=process.peb or None,
        wow64=process.wow64,
        listed=linked,
        ended=process.ended,
        object=process.address,
        doubts=doubts,
    )


def _time(value: int | None) -> dt.datetime | None:
    """Return a FILETIME as a time; None if there is none, or a calendar does not have it."""
    if not value:
        return None
    try:
        return _EPOCH + dt.timedelta(microseconds=value // 10)
    except OverflowError:
        return None
