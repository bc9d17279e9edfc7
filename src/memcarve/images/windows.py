"""The processes of a Windows x64 machine, found in its memory without symbols.

The kernel's list of processes is walked in both directions from the System process. All of physical memory is looked
through for processes as well, which repairs a damaged list and finds those that were taken out of it or have ended.
"""

from __future__ import annotations

import datetime as dt
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, ProcessError, printable
from memcarve.images import eprocess, kernel
from memcarve.images.physical import PAGE
from memcarve.images.search import everything, look_through, pages_of
from memcarve.images.seeker import LATEST, POINTERS, USER_END, Seeker
from memcarve.process import ProcessEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from memcarve.images.eprocess import Layout
    from memcarve.images.kernel import Kernel
    from memcarve.images.modes import AddressTable
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.search import Block

    Words = npt.NDArray[np.uint64]

_SYSTEM = 4
_ROOT = (1 << 52) - PAGE  # CR3 without its flags and the PCID
_MOST_PROCESSES = 1 << 16
_SAMPLE = 64  # processes that are looked at to see whether a layout fits
_RUNNING = 0x103  # STATUS_PENDING: what ExitStatus says until a process ends
_NAME = 15
#: FILETIME of 1990: 100 ns since 1601
_EARLIEST = 0x01B4C3F2C2D80000
_EPOCH = dt.datetime(1601, 1, 1, tzinfo=dt.UTC)
_WANTED = {b"PsInitialSystemProcess", b"NtBuildNumber"} | {export for export, _ in eprocess.ACCESSORS.values()}


class Process(NamedTuple):
    """One EPROCESS: its `address`, the `offset` of its links in the backing, neighbours in the list, and its members.

    `address` is None where no kernel address leads to it any more. Times are FILETIMEs; what is unknown is None.
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


class Windows:
    """A Windows x64 machine: its kernel, and its processes once they are asked for.

    Raises ProcessError where a Windows is there but its processes cannot be found; the message says what was found.
    """

    def __init__(
        self, memory: PhysicalMemory, table: AddressTable, version: kernel.Version, limit: int | None = None
    ) -> None:
        self.memory = memory
        self.notes: list[str] = []
        self._problem = ""
        candidates = list(kernel.kernels(memory, table, version, _WANTED, limit))
        # first by the System process; where none makes sense, by any processes that are linked to each other
        found = None
        for candidate in candidates:
            self.kernel: Kernel = candidate
            found = self._settle()
            if found:
                break
        found = found or self._settle_without_system(candidates)
        if found is None:
            raise ProcessError(
                f"a Windows {version} was found (page-table root 0x{table.root:x}), but no System process that makes "
                "sense, neither through a kernel's exports nor with the offsets of known kernels; give the root of one "
                "process with --dtb (memcarve processes --scan lists roots)"
            )
        self.layout, self.system, self.layout_source = found
        self._listed: list[Process] | None = None
        self._all: list[ProcessEntry] | None = None

    @property
    def description(self) -> str:
        """Which Windows it is, and how its processes are read, in words."""
        base = f", kernel at 0x{self.kernel.base:x}" if self.kernel.base is not None else ""
        return f"Windows {self.kernel.version} x64{base}; offsets from {self.layout_source}"

    def listed(self) -> list[ProcessEntry]:
        """Return the processes that the kernel's list leads to, without looking through all of memory."""
        return [_entry(process, linked=True) for process in self._walk_list()[0]]

    @property
    def problem(self) -> str:
        """What is wrong with the kernel's list of processes, in words; nothing if it is whole."""
        return self._walk_list()[1]

    def processes(self) -> list[ProcessEntry]:
        """Return every process, in the order of the list; then those that only the search found, by pid."""
        if self._all is None:
            reached, problem = self._walk_list()
            known = {process.offset for process in reached}
            others = []
            for process in self._search(self.layout, everything(self.memory)):
                if process.offset not in known:
                    others.append(process)
                if len(others) == _MOST_PROCESSES:
                    self.notes.append(f"more than {len(others)} processes were found: the image is made to deceive")
                    break
            others.sort(key=lambda process: (process.pid, process.offset))
            linked = [self._is_linked(process) for process in others]
            if problem:
                self.notes.append(
                    f"the list of processes is damaged ({problem}); what it does not lead to was looked for in all of "
                    "memory"
                )
            entries = [_entry(process, linked=True) for process in reached]
            for wanted in (True, False):
                entries += [
                    _entry(process, linked=wanted)
                    for process, found in zip(others, linked, strict=True)
                    if found == wanted
                ]
            self._all = entries
        return self._all

    def _code(self, export: bytes) -> bytes:
        address = self.kernel.exports.get(export)
        if address is None:
            return b""
        try:
            return self.kernel.space.read(address, 32)
        except AddressError:
            return b""

    def _settle(self) -> tuple[Layout, Process, str] | None:
        """Return the layout under which the System process makes sense, that process, and where the layout is from.

        Layouts resemble each other: where several will do for System, the one that makes the most of the list counts.
        """
        pointer = self.kernel.exports.get(b"PsInitialSystemProcess")
        if (pointer is None) != (self.kernel.base is None):
            return None  # an image of that name, but not the kernel
        for found in eprocess.layouts(self.kernel.version, eprocess.decode(self._code)):
            if pointer is not None:
                address = struct.unpack("<Q", kernel.peek(self.kernel.space, pointer, 8))[0]
                systems = [(layout, self._read(address, layout)) for layout in found.layouts]
            else:
                systems = [(layout, self._find_system(layout)) for layout in found.layouts]
            fitting = [(layout, system) for layout, system in systems if system is not None and system.pid == _SYSTEM]
            if fitting:
                layout, system = max(fitting, key=lambda pair: len(self._follow(*pair, forward=True)[0]))
                return layout, system, found.source
        return None

    def _settle_without_system(self, candidates: list[Kernel]) -> tuple[Layout, Process, str] | None:
        """Settle on kernel and layout by any processes that are linked to others, where System itself is damaged.

        A layout that is another one, shifted, may find as many: then the one counts that the kernel's own code tells.
        """
        best: tuple[int, int] = (1, 0)
        settled: tuple[Kernel, tuple[Layout, Process, str]] | None = None
        for candidate in candidates:
            self.kernel = candidate
            decoded = eprocess.decode(self._code)
            for found in eprocess.layouts(candidate.version, decoded):
                for layout in found.layouts:
                    search = self._search(layout, pages_of(self.memory, candidate.space))
                    sample = itertools.islice(search, _SAMPLE)
                    linked = [process for process in sample if self._is_linked(process, layout)]
                    if linked and (len(linked), len(decoded)) > best and len(linked) > 1:
                        best, settled = (len(linked), len(decoded)), (candidate, (layout, linked[0], found.source))
        if settled is None:
            return None
        self.kernel = settled[0]
        self.notes.append("the System process is damaged")
        return settled[1]

    def _find_system(self, layout: Layout) -> Process | None:
        """Look for the System process in what the kernel maps."""
        for process in self._search(layout, pages_of(self.memory, self.kernel.space), only=_SYSTEM):
            if process.name.rstrip(b"\0").lower() == b"system" and self._is_linked(process, layout):
                return process
        return None

    def _read(self, address: int, layout: Layout) -> Process | None:
        """Read the EPROCESS at a kernel address; None where it does not make sense."""
        space = self.kernel.space
        if address % 16 or not POINTERS <= address < (1 << 64) - layout.end:
            return None
        try:
            place = space.offset_of(address + layout.links)
        except AddressError:
            return None
        return self._parse(kernel.peek(space, address, layout.end), layout, address, place)

    def _parse(self, data: bytes, layout: Layout, address: int | None, offset: int) -> Process | None:
        """Return the process in an EPROCESS's bytes, whose links lie at `offset`; None where it does not make sense."""

        def number(member: int | None, size: int = 8) -> int | None:
            return None if member is None else int.from_bytes(data[member : member + size], "little")

        wow64, status, ended = number(layout.wow64), number(layout.exit_status, 4), number(layout.exit)
        following, preceding = struct.unpack_from("<QQ", data, layout.links)
        process = Process(
            address=address,
            offset=offset,
            following=following,
            preceding=preceding,
            pid=number(layout.pid) or 0,
            name=data[layout.name : layout.name + _NAME],
            root=number(eprocess.ROOT) or 0,
            parent=number(layout.parent),
            create=number(layout.create),
            exit=ended,
            image_base=number(layout.section),
            peb=number(layout.peb),
            wow64=None if wow64 is None else wow64 != 0,
            ended=ended != 0 if ended is not None else None if status is None else status != _RUNNING,
        )
        return process if self._makes_sense(process) else None

    def _makes_sense(self, process: Process) -> bool:
        """Say whether every member holds what it can hold: chance does not make all of it so."""
        links = (process.following, process.preceding)
        user = (process.image_base or 0, process.peb or 0)
        return (
            0 < process.pid < 1 << 32
            and process.pid % 4 == 0
            and (process.parent or 0) < 1 << 32
            and any(link >= POINTERS and link % 8 == 0 for link in links)  # one of them may be damaged
            and all(address < USER_END and address % PAGE == 0 for address in user)
            and (process.create is None or process.pid == _SYSTEM or _EARLIEST < process.create < LATEST)
            and (not process.exit or _EARLIEST < process.exit < LATEST)
        )

    def _walk_list(self) -> tuple[list[Process], str]:
        """Return the processes that the list leads to, in its order, and what is wrong with it, in words."""
        if self._listed is None:
            forward, problem = self._follow(self.layout, self.system, forward=True)
            backward, other = self._follow(self.layout, self.system, forward=False)
            seen = {process.address for process in forward}
            rest = [process for process in reversed(backward) if process.address not in seen]
            if not problem and rest:
                problem = "the two directions lead to different processes"
            self._problem = problem or other
            self._listed = forward + rest
        return self._listed, self._problem

    def _follow(self, layout: Layout, system: Process, *, forward: bool) -> tuple[list[Process], str]:
        """Walk the list from System in one direction until it closes; the head, which is no process, is passed once."""
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
                return found, f"{way}, at 0x{link:x} is no process"
            else:
                found.append(process)
                seen.add(address)
            here, link = link, self._link(link, forward=forward) or 0
        return found, f"{way}, it does not end"

    def _link(self, entry: int, *, forward: bool) -> int | None:
        """Return what a LIST_ENTRY at an address holds; None where it is not in memory."""
        try:
            return int.from_bytes(self.kernel.space.read(entry if forward else entry + 8, 8), "little")
        except AddressError:
            return None

    def _is_linked(self, process: Process, layout: Layout | None = None) -> bool:
        """Say whether a neighbour in the list still points to the process."""
        if process.address is None:
            return False
        here = process.address + (layout or self.layout).links
        after, before = self._link(process.following, forward=False), self._link(process.preceding, forward=True)
        alone = process.following == here
        return not alone and here in (after, before)

    def _search(self, layout: Layout, blocks: Iterable[Block], only: int | None = None) -> Iterator[Process]:
        """Look through memory for processes, each yielded once; `only` those with this pid."""
        space, memory = self.kernel.space, self.memory
        order = np.argsort(space.offset, kind="stable")
        begins, ends = space.offset[order], (space.offset + space.size)[order]
        seen: set[int] = set()
        for found in look_through(memory, blocks, Seeker(layout, only)):
            physical = found[memory.holds(found, 1)]  # of a page that is there in part the rest looks like zeros
            ranges = np.searchsorted(memory.start, physical, "right") - 1
            offsets = memory.offset[ranges] + (physical - memory.start[ranges])
            # where in the kernel's half does it lie?
            rows = np.searchsorted(begins, offsets, "right").astype(np.int64) - 1
            mapped = (rows >= 0) & (offsets < ends[np.maximum(rows, 0)])
            addresses = space.start[order[rows]] + (offsets - begins[rows])
            for place, offset, address, known in zip(
                physical.tolist(), offsets.tolist(), addresses.tolist(), mapped.tolist(), strict=True
            ):
                if offset in seen:
                    continue
                process = self._read(address - layout.links, layout) if known else self._freed(place, offset, layout)
                if process and only in (None, process.pid):
                    seen.add(offset)
                    yield process

    def _freed(self, physical: int, offset: int, layout: Layout) -> Process | None:
        """Read an EPROCESS that no kernel address leads to; None unless all of it lies in one page."""
        start = physical - layout.links
        if start // PAGE != (start + layout.end - 1) // PAGE:
            return None
        data = self.memory.read(start, layout.end)
        return self._parse(data, layout, None, offset) if data else None


def _entry(process: Process, *, linked: bool) -> ProcessEntry:
    name = process.name.split(b"\0")[0].decode("ascii", "backslashreplace")
    return ProcessEntry(
        pid=process.pid,
        name=printable(name),
        parent=process.parent,
        created=_time(process.create),
        exited=_time(process.exit),
        root=process.root & _ROOT,
        image_base=process.image_base or None,
        peb=process.peb or None,
        wow64=process.wow64,
        listed=linked,
        ended=process.ended,
        object=process.address,
    )


def _time(value: int | None) -> dt.datetime | None:
    """Return a FILETIME as a time; None where there is none, or none that a calendar has."""
    if not value:
        return None
    try:
        return _EPOCH + dt.timedelta(microseconds=value // 10)
    except OverflowError:
        return None
