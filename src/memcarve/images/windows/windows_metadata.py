"""The metadata of a process in a Windows x64 machine's memory: regions, modules, threads, areas."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.paging_modes import FRAME, PRESENT, UPPER_HALF, WINDOWS, AddressTable
from memcarve.images.structure_reader import LookedUp, Reader, counted
from memcarve.images.windows import eprocess, peb_modules, process_parameters, threads, unloaded_modules, vads
from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.images.windows.learning import thread_members as learned_threads, vad_members as learned_regions
from memcarve.images.windows.learning.sample import Probe
from memcarve.images.windows.offsets import roots, thread_lists, trees, ways
from memcarve.intervals import PAGE, TOP
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows, Thread
from memcarve.paths import base_name
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.images.windows.offsets import ThreadList, Tree
    from memcarve.images.windows.processes import Windows
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver
    from memcarve.process import ProcessEntry

_SAMPLE = 32  # processes that are looked at to see which layout fits
_EWOW64PROCESS_PEB = 0  # its first member
_NARROW_END = 1 << 32
_MOST_COPIES = 4  # of ntdll, of those listed and of those mapped: others may lie there besides the one that is used


class Knowledge:
    """What a Windows machine knows of its processes; layouts are settled when they are first needed."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self._ranges: dict[int, Regions] = {}

    @functools.cached_property
    def _entries(self) -> tuple[list[eprocess.Offsets], list[eprocess.Offsets]]:
        return eprocess.entries(self.windows.kernel.version, self.windows.layout)

    def _probes(self, entries: Sequence[ProcessEntry]) -> list[Probe]:
        """Return the processes from which the kernel's layouts are learned."""
        kernel = self.windows.kernel
        reader = Reader(kernel.space)
        return [
            Probe(
                reader,
                self.windows.memory,
                None if entry.root is None else AddressTable(entry.root, kernel.table.mode, WINDOWS),
                entry.object,
                entry.pid,
                entry.peb,
                entry.image_base,
            )
            for entry in entries
            if entry.object is not None and entry.pid is not None and not entry.ended
        ][:_SAMPLE]

    @functools.cached_property
    def _listed(self) -> list[Probe]:
        return self._probes(self.windows.listed())

    @functools.cached_property
    def _searched(self) -> list[Probe]:
        """Also processes that only a search finds, if the list does not lead to all of them."""
        searched = self.windows.problem and self.windows.memory.searchable
        return self._probes(self.windows.processes()) if searched else []

    @property
    def tree(self) -> Tree | None:
        """The tree of VADs; None if it is not known."""
        return self._tree.tree

    @functools.cached_property
    def _tree(self) -> learned_regions.Settled:
        own, likely = self._entries
        every = eprocess.every_entry()
        likely = [*own, *likely, *every]

        def settle(probes: list[Probe]) -> learned_regions.Settled:
            return learned_regions.settle(probes, trees(own), trees(every), roots(likely), ways(likely))

        found = settle(self._listed)
        if (found.tree is None or found.unknown) and self._searched:
            found = settle(self._searched)
        return found

    @functools.cached_property
    def _thread_list(self) -> ThreadList | None:
        own, likely = self._entries
        known = thread_lists([*own, *likely, *eprocess.every_entry()])
        found = learned_threads.settle(self._listed, thread_lists(own), known, self._is_inside)
        if (found is None or found.begin is None) and self._searched:
            found = learned_threads.settle(self._searched, thread_lists(own), known, self._is_inside)
        return found

    def _is_inside(self, probe: Probe, address: int) -> bool | None:
        """Return True if an address lies in a region of a process; None if its regions are not known."""
        tree = self._tree.tree
        if tree is None:
            return None
        if probe.address not in self._ranges:
            self._ranges[probe.address] = Regions("", vads.regions(probe.kernel, tree, probe.address)[0].rows)
        held = self._ranges[probe.address]
        return held.at(address) is not None if len(held) else None

    def _readers(
        self, entry: ProcessEntry, table: AddressTable, resolver: WindowsResolver | None
    ) -> tuple[Reader, Reader]:
        """Return what reads the kernel's half and a process's own, with what `resolver` finds that left memory."""
        if resolver is None:
            return Reader(self.windows.kernel.space), Reader(LookedUp(self.windows.memory, table), USER_END)
        resolver.paged_kernel.begin()
        return Reader(resolver.paged_kernel), Reader(resolver.user_half(entry, table), USER_END)

    def of(self, entry: ProcessEntry, table: AddressTable, resolver: WindowsResolver | None = None) -> Metadata:
        """Return what is known of a process; `table` is walked only for the parts of its own memory that are needed.

        `resolver` finds what of that left memory; None if nothing is to.

        For a process that has ended, only what the kernel still holds is read: its own memory may be another's by now.
        """
        kernel, own = self._readers(entry, table, resolver)
        found = self._regions(kernel, entry)
        listed = self._threads(kernel, entry)
        found += Metadata(notes=tuple(listed[1]))
        user: Reader | None = None
        if not entry.ended and (entry.peb is not None or any(thread.teb for thread in listed[0] or ())):
            user = own
        areas: list[Region] = []
        narrow = self._narrow_peb(kernel, entry)
        if user is not None:
            regions = found.regions
            for address, form in ((entry.peb, peb_modules.WIDE), (narrow, peb_modules.NARROW)):
                if address is not None:
                    more, here = _environment(user, address, form, entry.image_base)
                    found += more + _unloaded(user, form, more.modules, lambda: regions)
                    areas += here
        if listed[0] is not None:
            more, here = _threads(listed[0], user, narrow=narrow is not None)
            found += more
            areas += here
        found += Metadata(areas=(SourceRows("PEB", areas),)) if areas else Metadata()
        tables = [] if entry.ended else self._page_tables(table)
        found += Metadata(areas=(SourceRows("page tables", tables),)) if tables else Metadata()
        if kernel.spent or (user is not None and user.spent):
            found += Metadata(notes=("more names of files and modules than a process has; some are left out",))
        return found

    def start_of(self, entry: ProcessEntry, table: AddressTable, resolver: WindowsResolver | None = None) -> Metadata:
        """Return what a process was started with, and which modules it unloaded, reading no more than is needed.

        `of` returns the same, and more. Nothing is returned for a process that has ended.
        """
        if entry.ended:
            return Metadata()
        kernel, user = self._readers(entry, table, resolver)
        found = Metadata()
        for address, form in ((entry.peb, peb_modules.WIDE), (self._narrow_peb(kernel, entry), peb_modules.NARROW)):
            if address is not None:
                found += _started(user, address, form)
                rows, _ = peb_modules.modules(user, address, form, entry.image_base)
                lists = () if rows is None else (SourceRows(form.source, rows),)
                found += _unloaded(user, form, lists, lambda: self._regions(kernel, entry).regions)
        return found

    def _regions(self, reader: Reader, entry: ProcessEntry) -> Metadata:
        if entry.object is None:
            return Metadata(notes=("no kernel address leads to the process: its regions and threads are not known",))
        tree, unknown = self._tree
        if tree is None:
            return Metadata(notes=(self._unknown("regions"),))
        if entry.ended and not vads.root_of(reader, tree, entry.object):
            return Metadata()  # as is usual
        if entry.ended and vads.walk(reader, tree, entry.object).damage:
            return Metadata(notes=("what is left of the VAD tree is damaged; no regions are taken from it",))
        regions, notes = vads.regions(reader, tree, entry.object)
        if unknown and len(regions):
            notes.append(self._unknown(" and ".join(unknown)))
        return Metadata(regions=(regions,), notes=tuple(notes))

    def _threads(self, reader: Reader, entry: ProcessEntry) -> tuple[list[threads.Kthread] | None, list[str]]:
        """Return the threads as the kernel knows them, None if they are not known, and notes."""
        if entry.object is None or entry.pid is None:
            return None, []
        layout = self._thread_list
        if layout is None:
            return None, [self._unknown("threads")]
        walked = threads.walk(reader, layout, entry.object, entry.pid)
        if entry.ended and (walked.problem or walked.foreign):
            return None, []
        parts = (("start addresses of threads", layout.begin), ("TEBs of threads", layout.teb))
        unknown = [words for words, at in parts if at is None]
        notes = [self._unknown(" and ".join(unknown))] if unknown and walked.threads else []
        return walked.threads, threads.notes_of(walked) + notes

    def _unknown(self, what: str) -> str:
        return f"where Windows {self.windows.kernel.version} keeps its {what} is not known; none are given"

    def _narrow_peb(self, reader: Reader, entry: ProcessEntry) -> int | None:
        """Return the address of the 32-bit PEB; None if there is none, or it is not known.

        Up to Windows 8.1 the EPROCESS holds it; from Windows 10 on it points to a structure that does. A 32-bit address
        and a kernel address cannot be confused.
        """
        at = self.windows.layout.wow64
        if at is None or entry.object is None:
            return None
        value = reader.number(entry.object + at)
        if value is not None and vads.is_kernel(value):
            value = reader.number(value + _EWOW64PROCESS_PEB)
        return value if value and value < _NARROW_END and value % PAGE == 0 else None

    def _page_tables(self, table: AddressTable) -> list[Region]:
        """Return where the page tables are mapped: at the entries of the root that lead to the root."""
        page = self.windows.memory.read(table.root, PAGE)
        if page is None:
            return []
        entries = np.frombuffer(page, np.uint64)
        itself = (entries & PRESENT != 0) & (entries & FRAME == np.uint64(table.root))
        shift = table.mode.levels[0].shift
        upper = TOP - (1 << table.mode.bits)
        places = [place for place in np.flatnonzero(itself).tolist() if place >= UPPER_HALF]
        return [Region(upper | place << shift, 1 << shift, kind=Kind.PAGE_TABLES) for place in places]


def _started(reader: Reader, peb: int, form: peb_modules.Form) -> Metadata:
    found, notes = process_parameters.parameters(reader, peb, form)
    return Metadata(notes=tuple(notes), parameters=() if found is None else (found,))


def _unloaded(
    reader: Reader,
    form: peb_modules.Form,
    modules: Iterable[SourceRows[Module]],
    regions: Callable[[], Iterable[Regions]],
) -> Metadata:
    """Return the modules that were unloaded; `regions` are asked for only if no module leads to them."""

    def bases() -> Iterator[int]:
        listed = (row for each in modules for row in each.rows)
        found = (row.start for row in listed if (row.name or "").lower() == unloaded_modules.NTDLL)
        yield from itertools.islice(found, _MOST_COPIES)
        images = (row for each in regions() for row in each if row.kind == Kind.IMAGE)
        mapped = (row.start for row in images if base_name(row.file or "").lower() == unloaded_modules.NTDLL)
        yield from itertools.islice(mapped, _MOST_COPIES)

    found, notes = unloaded_modules.unloaded(reader, unloaded_modules.FORMS[form.word], bases())
    return Metadata(notes=tuple(notes), unloaded=() if found is None else (found,))


def _environment(
    reader: Reader, peb: int, form: peb_modules.Form, program: int | None
) -> tuple[Metadata, list[Region]]:
    """Return the modules and heaps that a PEB leads to, and what it says the process was started with."""
    started = _started(reader, peb, form)
    modules, notes = peb_modules.modules(reader, peb, form, program)
    heaps, more = peb_modules.heaps(reader, peb, form)
    lists = () if modules is None else (SourceRows(form.source, modules),)
    detail = None if form is peb_modules.WIDE else form.source
    base = reader.number(peb + form.program, form.word)
    bases = () if base is None else ((form.source, base),)
    found = Metadata(modules=lists, notes=(*notes, *more), program_bases=bases) + started
    return found, [Region(peb, PAGE, kind=Kind.PEB, detail=detail), *heaps]


def _threads(found: Sequence[threads.Kthread], user: Reader | None, *, narrow: bool) -> tuple[Metadata, list[Region]]:
    """Return the threads with their stacks, and the areas of stacks and TEBs; `narrow`: it is a 32-bit process."""
    rows: list[Thread] = []
    areas: list[Region] = []
    wrong: Counter[str] = Counter()
    for thread in found:
        begin = thread.begin or None
        if user is None or not thread.teb:
            rows.append(Thread(thread.tid, thread.teb or None, begin=begin))
            continue
        if thread.teb % PAGE or thread.teb >= USER_END:
            rows.append(Thread(thread.tid, begin=begin))
            wrong["had an impossible address"] += 1
            continue
        detail = f"thread {thread.tid}"
        stack, why = threads.stack(user, thread.teb)
        if why:
            wrong[why] += 1
        start, end = (None, None) if stack is None else (stack.start, stack.end)
        rows.append(Thread(thread.tid, thread.teb, start, end, begin))
        areas.append(Region(thread.teb, threads.TEB_SIZE, kind=Kind.TEB, detail=detail))
        other = threads.narrow(user, thread.teb) if narrow else None
        if other is not None:
            areas.append(Region(other[0], threads.NARROW_TEB_SIZE, kind=Kind.TEB, detail=f"{detail}, 32-bit"))
        for each, words in ((stack, detail), (other and other[1], f"{detail}, 32-bit")):
            if each:
                areas.append(each._replace(kind=Kind.STACK, whole=True, detail=words))
    notes = tuple(f"{counted(number, 'TEB')} {why}; no stack is taken from there" for why, number in wrong.items())
    return Metadata(threads=(SourceRows("thread list", rows),), notes=notes), areas
