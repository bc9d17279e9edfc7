"""A machine's memory: raw, or in a container that tells which physical ranges it holds."""

from __future__ import annotations

import copy
import functools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking, is_costly
from memcarve.errors import LimitError, NotRecognisedError, ProcessError, UnreadableError, UsageError
from memcarve.formats.compression import Reading, plain_name
from memcarve.formats.images import (
    avml,
    crashdump,
    flattened,
    hiberfil,
    kdump,
    libvirt,
    lime,
    machine_core,
    migration,
    vmware,
)
from memcarve.formats.images.machine import MachineMemory
from memcarve.images.nonresident import space_of
from memcarve.images.paging import claimed, walk
from memcarve.images.paging_modes import LINUX, NO_SYSTEM, WINDOWS, AddressTable
from memcarve.images.physical import PhysicalMemory
from memcarve.intervals import PAGE, TOP, Intervals, breaks, distinct, total
from memcarve.metadata import Metadata
from memcarve.missing import (
    BEYOND_PAGE_FILE,
    IMAGE_CUT_OFF,
    LEFT_OUT,
    NOT_PROVEN,
    OUTSIDE,
    PAGED_OUT,
    REASONS,
    REPEATED,
    UNREADABLE,
    MissingMemory,
)
from memcarve.note import Note
from memcarve.permissions import DEMAND_ZERO
from memcarve.process import Account, Container, Machine, Platform, ProcessEntry, ProcessMemory
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.opening import Opened, OpenOptions
from memcarve.sources.page_file_option import open_page_files
from memcarve.space import AddressSpace
from memcarve.vocabulary import Half, PagesFrom, Search, Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.dtypes import U64
    from memcarve.images.nonresident import Found, Resolver
    from memcarve.images.page_table_roots import Root
    from memcarve.images.paging import Pages
    from memcarve.images.system import OperatingSystem

#: readers of containers, each by content; what none of them knows may be a raw image
_READERS = (
    *(lime.read, avml.read, machine_core.read, crashdump.read, vmware.read),
    *(kdump.read, flattened.read, migration.read, libvirt.read, hiberfil.read),
)
_GIVE_ROOT = "give a page-table root with {dtb} ({scan} lists roots)"
_NO_IMAGE = f"if it is no image but a process's dump, leave {{page_files}} out; else {_GIVE_ROOT}"
_SOUGHT: dict[str | None, str] = {None: "64-bit Windows and no Linux", WINDOWS: "64-bit Windows", LINUX: "Linux"}
_UNSOUGHT = "unlisted processes were not looked for"
_FEW_PAGES = "few pages told which kernel this is; others, of which one may be a decoy, were not looked for"
_NOT_THERE = "outside the image"
#: what of page tables is not there, by the kind that counts it
_NOT_KNOWN = (
    ("lost_tables", "page table", "page tables", _NOT_THERE),
    ("lost_entries", "entry of a page table", "entries of page tables", _NOT_THERE),
    ("paged_tables", "page table", "page tables", "paged out"),
)
#: PCs keep no memory in the last GiB below 4 GiB; VMware's files close that hole up
_HOLE = 3 << 30


class ImageContainer(Container):
    """The processes of a machine, or the one address space whose root was given."""

    default_half = "user"
    can_be_forked = True  # nothing but reading at given places is done with the file

    def __init__(self, file: FileBacking, memory: PhysicalMemory, options: OpenOptions) -> None:
        """Take over `file`, which `close` closes."""
        if options.paging is not None and options.dtb is None:
            raise UsageError(
                "was told how page tables are read, but not where they are", remedy="give {dtb} with {paging}"
            )
        only = "{dtb}" if options.dtb is not None else "{pages_from:ram}"
        if (options.dtb is not None or options.pages_from == PagesFrom.RAM) and (
            options.page_files or options.demand_zero
        ):
            raise UsageError(
                "only what page tables lead to is read, and page files or zeros were given",
                remedy=f"leave {only} out, or {{page_files}} and {{demand_zero}}",
            )
        self.file = file
        self.path = file.path
        self.memory = memory
        memory.progress = options.progress
        self.options = options
        self._system: OperatingSystem | None = None
        self._entries: list[ProcessEntry] = []
        self._complete = False
        self._table: tuple[AddressTable, str] | None = None
        self._looked = False
        self._unsought: str | None = None
        self._unsettled: ProcessError | None = None
        #: the image, and behind it the page files that were given
        self._page_files, self._page_notes = open_page_files(
            file,
            memory.backing,
            options.page_files,
            zeros=options.demand_zero,
            trusted=options.trust == Trust.PAGE_FILES,
        )
        self._opened = memory
        costly = is_costly(file) or is_costly(memory.backing)
        #: what processes are looked for in; by default all of the memory, if reading it costs little
        self.search = options.search or (Search.LISTS if costly else Search.ALL)
        memory.searchable = self.search == Search.ALL
        #: what finds pages learns as it goes, and keeps it for other processes: threads take turns
        self._resolving = threading.RLock()

    @property
    def stored(self) -> FileBacking:  # type: ignore[override]
        """The file that the memory lies in: not the one that was named if that only describes it."""
        return self.memory.backing if isinstance(self.memory.backing, FileBacking) else self.file

    @property
    def page_files(self) -> Sequence[FileBacking]:  # type: ignore[override]
        """The page files that were given."""
        return [each.file for each in self._page_files.files]

    @property
    def unreadable(self) -> bool:  # type: ignore[override]
        """Whether part of the image could not be read when it was looked through."""
        return self.memory.damaged

    @property
    def list_problem(self) -> str:  # type: ignore[override]
        """What is wrong with the system's list of processes, in words; empty if it is whole, or there is no system."""
        return "" if self._system is None or self.options.dtb is not None else self._system.problem

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """What is known of the image, and of the list of processes once it was read."""
        unsought = [] if self._unsought is None or self._complete else [self._unsought]
        if unsought and (problem := self.system.problem):
            unsought.append(f"the list of processes is damaged ({problem}): some that it held may be unlisted now")
        if unsought and self.search == Search.LISTS and self.system.quick:
            unsought.append(_FEW_PAGES)
        found, known = (self._system.notes, [self._system.description]) if self._system else ([], [])
        decoded = [Note(note, "input", more) for note, more in self.stored.notes]
        decoded += [Note(note, "input") for note in (*self._page_files.notes, *self._page_notes)]
        if self._left_out:
            unsought.append(f"left out, because no memory of its own is known of it: {self._left_out}")
        return [*known, *decoded, *(Note(note, "input") for note in (*self.memory.notes, *found, *unsought))]

    @property
    def system(self) -> OperatingSystem:
        """The machine's operating system; raises ProcessError if there is none, or its processes cannot be found."""
        if self._system is None:
            if self.options.system == NO_SYSTEM:
                raise ProcessError(
                    "processes are not looked for without a system", subject=str(self), remedy=_GIVE_ROOT
                )
            self.recognise()
        if self._system is None:
            found = self._unsettled or ProcessError(f"no {_SOUGHT[self.options.system]} was found")
            remedy = _NO_IMAGE if self.options.page_files else _GIVE_ROOT
            error = copy.copy(found if found.remedy else found.suggest(remedy))
            error.subject, error.problem = str(self), "; ".join([found.problem, *self.memory.notes])
            raise error
        return self._system

    def recognise(self, *, quick: bool = True) -> bool:
        """Look for a Windows kernel, else for a Linux one; return True if there is either.

        If it should be `quick`, what few pages tell is enough.
        """
        if not self._looked:
            self._looked = True
            try:
                from memcarve.images.system_finding import find_system  # takes long to import

                options = self.options
                how = (options.system, options.limit, options.symbols, options.reading)
                self._system = find_system(self._opened, *how, quick=quick)
                if self._system is not None:
                    self.memory = self._system.memory
            except ProcessError as error:
                self._unsettled = error
        return self._system is not None or self._unsettled is not None

    def _confirm(self) -> None:
        """Make up for what a quick look for the system left out, before all of the memory is searched."""
        if self.system.quick and not self.system.confirm():
            self._looked, self._system = False, None
            self.recognise(quick=False)

    def processes(self) -> list[ProcessEntry]:
        """Return the processes: those of the kernel's list first, then those that only a search of memory finds."""
        if self.options.dtb is not None:
            return [ProcessEntry(None, None, root=self.options.dtb)]
        if not self._complete and self.search == Search.LISTS:
            return self.listed()
        if not self._complete:
            self._confirm()
            self._entries = [*self.system.processes()]
            self._complete = True
        self._settle_page_files()
        return self._entries

    def listed(self) -> list[ProcessEntry]:
        """Return the beginning of `processes`: those of the kernel's list; memory is not searched for others."""
        if self.options.dtb is not None or self._complete:
            return [entry for entry in self.processes() if entry.listed is not False]
        if self._unsought is None:
            self._unsought = _UNSOUGHT
            if self.options.search is None and self.search == Search.LISTS:
                self._unsought += f": --search all does so, and reads all {self.memory.stored} bytes of the memory"
        self._entries = [*self.system.listed()]
        self._settle_page_files()
        return self._entries

    def _settle_page_files(self) -> None:
        """See to it that page files have their numbers: a wrong one is refused before any process is read, and once."""
        if self.options.page_files:
            with self._resolving:
                _ = self._resolver

    def known(self, pids: Sequence[int]) -> list[ProcessEntry]:
        """Return the beginning of `processes`, long enough to hold these pids if any of it does."""
        if self.options.dtb is None and not self._complete and pids:
            listed = self.system.listed()
            if {entry.pid for entry in listed if not entry.ended} >= set(pids):
                self._unsought = f"{_UNSOUGHT}: another with this pid may exist"
                return self.listed()
        return self.processes()

    @property
    def said(self) -> dict[str, str]:
        """What the user said of the input, and whether unlisted processes were left out."""
        return {**super().said, **({"search": str(self.search)} if self.search == Search.LISTS else {})}

    def choose(self, pids: Sequence[int] = (), name: str | None = None) -> list[int]:
        """Return the places in `processes` of those with one of some numbers, and a name like the pattern `name`.

        Raises UsageError, ProcessError.
        """
        try:
            return super().choose(pids, name)
        except ProcessError as error:
            if self.options.dtb is None and self.search == Search.LISTS:
                error.suggest("{search:all} looks for others in all of the memory")
            raise

    def entry(self, index: int) -> ProcessEntry:
        """Return the process at a place in `processes`."""
        return (self._entries if index < len(self._entries) else self.processes())[index]

    def physical_space(self) -> AddressSpace:
        """Return the machine's memory by physical address.

        The system of a raw image is looked for first: it tells at which address the image begins.
        """
        if not self.memory.declared and self.options.dtb is None and self.options.system != NO_SYSTEM:
            self.recognise()
        memory = self.memory
        return AddressSpace(memory.start, memory.size, memory.offset, memory.backing, absent="not in the image")

    def roots(self, half: str = "all") -> list[Root]:
        """Return the plausible page-table roots of the image; with a half, only those that map memory there."""
        Half.check(half)
        found = self._recognised_if_raw() if self.memory.architecture in (None, "arm64") else None
        from memcarve.images.page_table_roots import find_roots  # few ask for them

        return find_roots(self.memory, half, found and found.mode)

    def _recognised_if_raw(self) -> AddressTable | None:
        """Return the page tables of an ARM64 machine's kernel: it tells at which address a raw image begins.

        None if it is another machine, or no kernel is found.
        """
        self.recognise()
        table = None if self._system is None else self._system.table_of(ProcessEntry())
        return table if table is not None and table.mode.split else None

    def _half(self, index: int, half: str) -> ProcessMemory:
        """Return the memory of a process, or one half of it.

        Raises ProcessError if its page tables are not in the image, LimitError if they claim too much.
        """
        entry, table, system = self._chosen(index, kernel=half == "kernel")
        start, end = (0, TOP) if half == "all" else (0, table.kernel_half)
        if half == "kernel":
            start, end = table.kernel_half, TOP
        return self._memory(entry, table, system, self._walk(entry, table, start, end), half)

    def _process(self, index: int) -> ProcessMemory:
        return self._half(index, "all")

    def open_span(self, index: int, start: int, end: int) -> ProcessMemory:
        """Return what of a process's memory holds an address of ``start <= x < end``; nothing else is walked.

        Raises ProcessError if its page tables are not in the image, LimitError if they claim too much there.
        """
        entry, table, system = self._chosen(index, kernel=self._table_of(self.entry(index))[0].kernel_half <= start)
        walked = self._walk(entry, table, start, end, if_needed=True)
        extended, bits = start | (TOP - (1 << table.mode.bits)), table.mode.address_bits
        if not len(walked[0].placed) and table.mode.wide and start >> (bits - 1) == 1:
            # an address as maps print it, cut to 48 bits: the error names the one that was meant
            walked = self._walk(entry, table, extended, extended + 1)
        return self._memory(entry, table, system, walked, "all")

    def _chosen(self, index: int, *, kernel: bool) -> tuple[ProcessEntry, AddressTable, str]:
        """Return a process, how to read its page tables, and in words why; `kernel`: its kernel half is wanted alone.

        That is there also if a process has no memory of its own: it is the same for all.
        """
        entry = self.entry(index)
        if not entry.has_memory and not kernel:
            thread = entry.unix is not None and entry.unix.kernel_thread
            why = (
                "is a kernel thread: it has no memory of its own" if thread else "has no memory any more: it has ended"
            )
            if not thread and not entry.ended:
                why = "has no memory of its own"
            raise ProcessError(
                f"{entry} {why}", subject=str(self), remedy="{half:kernel} takes the kernel's half, which all share"
            )
        table, system = self._table_of(entry)
        root = np.array([table.root], np.uint64)
        if not entry.ended and not self.memory.holds_tables(root, table.mode.root_size, table.mode.entry)[0]:
            raise ProcessError(
                f"the page tables at 0x{table.root:x} are outside the image, whose memory ends at "
                f"0x{self.memory.end:x}",
                subject=str(self),
                remedy="{scan} lists roots",
            )
        return entry, table, system

    @functools.cached_property
    def _resolver(self) -> Resolver | None:
        """What finds pages that page tables do not lead to; None if they are not wanted, or nothing finds them."""
        if self.options.pages_from == PagesFrom.RAM or self.options.dtb is not None:
            return None
        found = self.system.resolver(self._page_files)
        self._page_files.settled = True
        return found

    def _walk(
        self, entry: ProcessEntry, table: AddressTable, start: int, end: int, *, if_needed: bool = False
    ) -> tuple[Pages, Found | None]:
        """Return what page tables map, and what else was found; `if_needed`: only if they do not map all of it."""
        try:
            with self._resolving:
                resolver = self._resolver
            if resolver is None:
                return walk(self.memory, table, start, end, self.options.limit), None
            if if_needed:
                pages = walk(self.memory, table, start, end, self.options.limit)
                wanted = Intervals.of([(start, max(end - start, 1))])
                if not len(wanted.subtract(pages.placed)):
                    return pages, None
            with self._resolving:
                return resolver.walk(entry, table, start, end, self.options.limit)
        except LimitError as error:
            error.subject = str(self)
            raise

    def _memory(
        self, entry: ProcessEntry, table: AddressTable, system: str, walked: tuple[Pages, Found | None], half: str
    ) -> ProcessMemory:
        """Return what a walk found as a process's memory."""
        pages, found = walked
        notes = [*self.warnings, f"{self.memory.kind}, {table.mode.name} page tables at 0x{table.root:x}, {system}"]
        missing = self._missing(pages)
        if self.options.dtb is not None and not claimed(self.memory, table)[0]:
            raise ProcessError(
                f"nothing is mapped through page tables at 0x{table.root:x}",
                subject=str(self),
                remedy="{scan} lists roots",
            )
        doubts = [f"{entry} is doubtful as a process: {'; '.join(entry.doubts)}"] if entry.doubts else []
        remarks = doubts
        away = found is not None and (found.placed.flags & np.uint8(DEMAND_ZERO)).any()
        if found is None:
            space = pages.space(self.memory, missing)
        else:
            # what is all in the image is read from there alone, which is faster
            space = space_of(pages, self._page_files.backing if away else self.memory.backing, missing, found)
            missing = space.missing
            remarks += found.notes
            if PAGED_OUT in {REASONS[reason] for reason in distinct(found.elsewhere.reason).tolist()}:
                remarks += self._page_files.unread(found.placed.offset)
        counts = pages.counts if found is None else {**pages.counts, **found.counts}
        remarks += self._remarks(entry, pages._replace(counts=counts), missing, table, half)
        if space.repeated:
            remarks.append(
                f"{space.repeated} bytes of the kernel half are mapped again by shared page tables: they are in no "
                "segment, read shows them"
            )
        incomplete = self._is_incomplete(entry, pages, missing, table) or bool(away and self._page_files.doubted)
        architecture = "arm64" if table.mode.split else "x64" if table.mode.wide else "x86"
        known = self._system if self.options.dtb is None else None  # others may know processes, as Volatility does
        if known is not None:
            architecture = known.architecture_of(entry)
        if table.mode.split and table.kernel_root is None and half != "user":
            remarks.append("the page tables of the kernel half have a root of their own, which is not known")
        left_out = {REPEATED: space.repeated} if space.repeated else {}
        memory = ProcessMemory(
            space,
            entry,
            machine=Machine(self._platform(table), architecture, table.mode.address_bits, table.kernel_half),
            account=Account(None, left_out, incomplete),
            inputs=self._inputs(table, system),
            notes=[*notes, *map(Note, remarks)],
            metadata=functools.partial(self._metadata, entry, table),
            half=half,
            pages=counts,
            file=self.stored,
            originals=self._originals(entry) if table.system == WINDOWS else None,
            auxiliary_vector=None if known is None else known.auxiliary_vector(entry),
        )
        memory.page_files = self.page_files
        return memory

    def _originals(self, entry: ProcessEntry) -> Callable[[U64], AddressSpace | None] | None:
        with self._resolving:
            resolver = self._resolver
        return None if resolver is None or entry.ended else functools.partial(resolver.originals, entry)

    def start_of(self, index: int) -> Metadata:
        """Return what a process was started with and what it unloaded; nothing of an address space without a system."""
        if self.options.dtb is not None:
            return Metadata()
        entry = self.entry(index)
        with self._resolving:
            resolver = self._resolver
        return self.system.start_of(entry, self._table_of(entry)[0], resolver)

    def _metadata(self, entry: ProcessEntry, table: AddressTable) -> Metadata:
        """Return what is known of a process beyond its bytes, whatever part of its memory was asked for.

        First what the machine's own system knows, then what files say.
        """
        with self._resolving:
            resolver = self._resolver
        known = Metadata() if self.options.dtb is not None else self.system.metadata(entry, table, resolver)
        return known + metadata_from_files(
            self.options.listings,
            entry.pid,
            [self.file.path],
            address_bits=table.mode.address_bits,
            reading=self.options.reading,
        )

    def _platform(self, table: AddressTable) -> Platform:
        """Return what is known of the system: its version if its kernel was found."""
        if self.options.dtb is not None or self._system is None:
            return Platform(table.system if table.system in (WINDOWS, LINUX) else None)
        return self._system.platform

    def close(self) -> None:
        """Close the image and the page files."""
        self._page_files.backing.close()
        self.memory.backing.close()
        self.file.close()

    def _table_of(self, entry: ProcessEntry) -> tuple[AddressTable, str]:
        if self.options.dtb is None:
            return self.system.table_of(entry), self.system.description
        if self._table is None:
            self._table = self._given(self.options.dtb)
        return self._table

    def _given(self, root: int) -> tuple[AddressTable, str]:
        """Return how to read the tables at a root that was given, and in words whose they are."""
        from memcarve.images.page_table_roots import address_table  # few give roots

        paging, system = self.options.paging, self.options.system
        known = None
        if self.memory.architecture == "arm64" or (paging is not None and paging.startswith("arm64")):
            known = self._recognised_if_raw()
        table, words = address_table(self.memory, root, paging or (known and known.mode.name), system)
        if paging is None and self.memory.architecture is None and not claimed(self.memory, table)[0]:
            known = self._recognised_if_raw()
            if known is not None:  # a raw image of an ARM64 machine does not begin at 0: nothing was there
                table, words = address_table(self.memory, root, known.mode.name, system)
        if known is None or known.mode is not table.mode or table.kernel_root is not None:
            return table, words
        return table._replace(kernel_root=known.kernel_root, absent=known.absent), self.system.description

    def _missing(self, pages: Pages) -> MissingMemory:
        """Return what is mapped but not in the image, neighbours with the same reason joined."""
        start, size, physical = pages.outside.start, pages.outside.size, pages.outside.physical
        reason = np.full(len(start), REASONS.index(OUTSIDE), np.uint8)
        if self.memory.left_out is not None:
            left, others = self.memory.left_out.place(start, size, physical, reason)
            start, size, physical = (
                np.concatenate(pair)
                for pair in (
                    (left.start, others.start), (left.size, others.size), (left.physical, others.physical),
                )
            )  # fmt: skip
            reason = np.full(len(start), REASONS.index(OUTSIDE), np.uint8)
            reason[: len(left)] = REASONS.index(LEFT_OUT)
            order = np.argsort(start, kind="stable")
            start, size, physical, reason = start[order], size[order], physical[order], reason[order]
        reason[self.memory.was_cut(physical, size)] = REASONS.index(IMAGE_CUT_OFF)
        if len(self.memory.bad):
            mapped = Intervals(physical, size)
            parts = mapped.intersect(self.memory.bad)[0], mapped.subtract(self.memory.bad)
            row = np.concatenate([part.owner for part in parts])
            reason = reason[row]
            reason[: len(parts[0])] = REASONS.index(UNREADABLE)
            start = start[row] + (np.concatenate([part.start for part in parts]) - physical[row])
            size = np.concatenate([part.size for part in parts])
            order = np.argsort(start, kind="stable")
            start, size, reason = start[order], size[order], reason[order]
        first = breaks(size, start)
        first[1:] |= reason[1:] != reason[:-1]
        index = np.flatnonzero(first)
        sizes = np.add.reduceat(size, index) if len(index) else size
        return MissingMemory(start[index], sizes, reason[index])

    def _is_incomplete(self, entry: ProcessEntry, pages: Pages, missing: MissingMemory, table: AddressTable) -> bool:
        """Return True if bytes that the machine's memory held are known to be missing.

        What lies outside belongs to a device if the container says which memory the machine has, or in the kernel half.
        """
        if entry.ended and not len(pages.placed):
            return False  # its page tables are gone, as is usual
        lost = missing.reason != REASONS.index(OUTSIDE)
        user = missing.start < np.uint64(table.kernel_half)
        tables = pages.counts["lost_tables"] + pages.counts.get("lost_entries", 0)
        if self.stored.incomplete or tables > 0 or lost.any():
            return True
        return not self.memory.declared and bool(user.any())

    def _remarks(
        self, entry: ProcessEntry, pages: Pages, missing: MissingMemory, table: AddressTable, half: str
    ) -> list[str]:
        remarks = []
        for reason in (IMAGE_CUT_OFF, OUTSIDE, LEFT_OUT, UNREADABLE, BEYOND_PAGE_FILE, NOT_PROVEN):
            # in the kernel half what is outside is a device's memory, as every machine has it
            here = (missing.start < np.uint64(table.kernel_half)) | (reason == LEFT_OUT)
            size = total(missing.size[here & (missing.reason == REASONS.index(reason))])
            if size:
                remarks.append(f"{size} byte{'s are' if size > 1 else ' is'} mapped, but {reason}")
        if self.memory.gaps is not None and remarks:
            remarks.append(self.memory.gaps)
        if entry.ended and not len(pages.placed):
            return [f"{entry} has ended: its page tables are gone"]
        for kind, one, many, words in _NOT_KNOWN:
            if number := pages.counts.get(kind, 0):
                lost, mapped = (f"{many} are", "they map") if number > 1 else (f"{one} is", "it maps")
                bad = " or cannot be read" if len(self.memory.bad) and words == _NOT_THERE else ""
                remarks.append(f"{number} {lost} {words}{bad}; what {mapped} is not known")
        if entry.ended:
            remarks.append(f"{entry} has ended: its page tables may be another process's by now")
        elif not len(pages.placed) and half == "user" and not remarks:
            remarks.append(
                "nothing is mapped in the user half; the kernel half was not looked at: --range (half=) takes it"
            )
        return remarks

    def _inputs(self, table: AddressTable, system: str) -> dict[str, Any]:
        return {
            "image": {
                **self.stored.described,
                "format": self.memory.kind,
                "memory": self.memory.total,
                **({} if self.stored is self.file else {"described_by": self.file.path}),
                "system": system,
                "os": table.system,
                "paging": table.mode.name,
                "root": f"0x{table.root:x}",
                "dtb": self.options.dtb is not None,
                "pages_from": PagesFrom.RAM if self._resolver is None else PagesFrom.ALL,
                **({"demand_zero": True} if self.options.demand_zero else {}),
                **({} if self.options.symbols is None else {"symbols": self.options.symbols}),
                **self.said,
            },
            **({"page_files": page_files} if (page_files := self._page_files.described) else {}),
        }


def machine_memory(
    file: FileBacking,
    *,
    certain: bool = False,
    reading: Reading = Reading(),  # noqa: B008 - a tuple
) -> MachineMemory | None:
    """Return a machine's memory if a file is a container of one that says so itself.

    `certain`: the user said that it is an image. `reading` says how compressed parts of it are decoded. Raises what the
    containers' readers raise.
    """
    for read in _READERS:
        try:
            if read is machine_core.read:
                machine = machine_core.read(file, certain=certain)
            elif read is hiberfil.read:
                machine = hiberfil.read(file, reading.cache)
            else:
                machine = libvirt.read(file, reading) if read is libvirt.read else read(file)
        except UnreadableError as error:
            if error.offset:
                raise
            continue  # nothing tells what it is: it may be a raw image
        if machine is not None:
            return machine
    return None


def holds_system(file: FileBacking) -> bool:
    """Return True if an operating system is found in a file that is taken for a raw image."""
    return _raw(file, OpenOptions()).recognise()


def is_wiped(opened: Opened) -> bool:
    """Return True if a file that begins with zeros is a hiberfil.sys whose header was wiped."""
    return hiberfil.is_wiped(opened.file, opened.head)


def open_machine(opened: Opened, options: OpenOptions) -> ImageContainer:
    """Open a container of a machine's memory. Raises NotRecognisedError if it is none."""
    machine = machine_memory(opened.file, certain=options.for_image, reading=options.reading)
    if machine is None:
        raise NotRecognisedError("is not a container of a machine's memory", subject=opened.path)
    return ImageContainer(opened.file, PhysicalMemory(machine), options)


def open_raw(opened: Opened, options: OpenOptions) -> ImageContainer:
    """Open a raw image: offset is physical address. Nothing in the file says that it is one, but a system in it."""
    container = _raw(opened.file, options)
    if options.for_image or container.recognise():
        return container
    raise NotRecognisedError(
        "is not recognised, and no operating system's memory is found in it",
        subject=opened.path,
        remedy="a machine's image opens with {dtb}, or with {input_type:image}; a process's dump needs its map "
        "({memory_map})",
    )


def _raw(file: FileBacking, options: OpenOptions) -> ImageContainer:
    start, size, offset = (np.array([number], np.uint64) for number in (0, file.size, 0))
    memory = PhysicalMemory(MachineMemory("raw image", file, start, size, offset, [], declared=False))
    if file.size % PAGE:
        memory.notes.append(f"{file.path}: ends within a page; it may be cut off")
    if plain_name(file.path).lower().endswith(".vmem") and file.size > _HOLE:
        memory.notes.append(
            f"{file.path}: the .vmss or .vmsn that belongs to it is not beside it: memory above 3 GiB may be misplaced"
        )
    return ImageContainer(file, memory, options)
