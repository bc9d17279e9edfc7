"""What a minidump says besides bytes: regions, modules, threads; and what memcarve noted in those that it wrote."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from memcarve import provenance
from memcarve.formats.minidump import structures
from memcarve.intervals import PAGE, TOP, breaks
from memcarve.metadata import Fault, Metadata, Module, Region, Regions, SourceRows, Thread
from memcarve.paths import base_name
from memcarve.sources.minidump.linux_copies import parameters_of, regions_of
from memcarve.vocabulary import Architecture, Kind

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Records
    from memcarve.formats.minidump.minidump_reading import Minidump, Thread as ThreadRow
    from memcarve.provenance import Provenance


#: allocations begin at multiples of this
_GRANULE = 1 << 16
_MOST_REGIONS = 1 << 20
_KINDS = {structures.IMAGE: Kind.IMAGE, structures.MAPPED: Kind.MAPPED, structures.PRIVATE: Kind.PRIVATE}
_BITS = (32, 48, 57)
_ADDRESS = re.compile(r"0x[0-9a-f]{1,16}")
_LONGEST = 1 << 12
_LAST_SIGNAL = 64
#: what stands for a thread if none was known
_PLACEHOLDER = Thread(1)


def minidump_metadata_of(dump: Minidump, noted: Provenance | None) -> Metadata:
    """Return the regions, modules and threads that a minidump lists; notes say what of its lists is damaged."""
    known, own = len(dump.notes), noted is not None
    name = os.path.basename(dump.file.path)
    notes: list[str] = []
    modules = _modules(dump, dump.modules(), notes)
    threads = [_thread(thread, dump) for thread in dump.threads()]
    _add_fault(threads, dump)
    if noted is not None:
        _add_noted(threads, noted)
    unloaded = _modules(dump, dump.unloaded(), notes, gone=True)
    mapped = regions_of(dump, notes)  # it says more than the list that was made from it
    regions = [] if mapped is not None else _regions(dump, noted, modules, notes)
    if own and threads == [_PLACEHOLDER]:
        threads = []
    system = dump.system()
    areas = _areas(threads, wide=system is not None and system.architecture in (Architecture.X64, Architecture.ARM64))
    has_regions = bool(regions) or (structures.MEMORY_INFO_LIST in dump and not own)
    listed = mapped if mapped is not None else Regions(f"MemoryInfoList ({name})", regions) if has_regions else None
    if listed is not None and listed.overlapping:
        notes.append(
            f"{dump.file.path}: {listed.overlapping} regions share addresses; an address belongs to the smallest of "
            "them"
        )
    started = parameters_of(dump)
    has_modules = bool(modules) or (structures.MODULE_LIST in dump and not own)
    return Metadata(
        () if listed is None else (listed,),
        (SourceRows(f"ModuleList ({name})", modules),) if has_modules else (),
        (SourceRows(f"ThreadList ({name})", threads),) if threads else (),
        (SourceRows(f"ThreadList ({name})", areas),) if areas else (),
        notes=(*dump.notes[known:], *notes),
        complete=noted is None or noted.document.get("modules") == "listed",
        parameters=(() if noted is None else noted.parameters) + (() if started is None else (started,)),
        unloaded=(SourceRows(f"UnloadedModuleList ({name})", unloaded),)
        if structures.UNLOADED_MODULE_LIST in dump
        else (),
    )


def _modules(dump: Minidump, listed: list[structures.Module], notes: list[str], *, gone: bool = False) -> list[Module]:
    """Return modules, or some that are `gone`: of those the name is no path. Without those that cannot be."""
    found, beyond = [], []
    for each in listed:
        base, size = each.base, each.size or None
        if not dump.fits(base, each.size):
            beyond.append(each)
        elif gone:
            found.append(Module(base, size, each.name or None, None, each.timestamp, each.checksum))
        else:
            name = None if each.name is None else base_name(each.name)
            found.append(Module(base, size, name or None, None if name == each.name else each.name))
    if beyond:
        what = "unloaded module" if gone else "module"
        more = f", and {len(beyond) - 1} more do" if len(beyond) > 1 else ""
        notes.append(
            f"{dump.file.path}: the {what} at 0x{beyond[0].base:x} of 0x{beyond[0].size:x} bytes ends beyond the last "
            f"address{more}; not used"
        )
    return found


def _thread(thread: ThreadRow, dump: Minidump) -> Thread:
    low: int | None
    high: int | None
    low, size = thread.stack
    low, high = (low, low + size) if size and dump.fits(low, size) else (None, None)
    begin, registers = thread.begin or None, thread.registers or None
    return Thread(thread.tid, thread.teb or None, low, high, begin, registers, thread.floating, thread.name)


def _add_fault(threads: list[Thread], dump: Minidump) -> None:
    """Add the exception to the thread in which it was raised; that is added if it is not listed.

    Breakpad and Crashpad write a Linux signal as an exception: its number, si_code as flags, si_addr as address.
    """
    raised, system = dump.raised(), dump.system()
    if raised is None:
        return
    place = next((place for place, thread in enumerate(threads) if thread.tid == raised.tid), None)
    if place is None:
        place = len(threads)
        threads.append(Thread(raised.tid))
    thread = threads[place]
    linux = system is not None and system.platform == structures.PLATFORMS["linux"]
    signal = raised.code if linux and 0 < raised.code <= _LAST_SIGNAL else None
    said = (raised.registers or None, raised.floating)
    own = said in ((None, None), (thread.registers, thread.floating))
    found = Fault(
        signal,
        raised.code if signal is None else None,
        raised.flags,
        raised.address,
        raised.parameters,
        None,
        *((None, None) if own else said),
    )
    threads[place] = thread._replace(fault=found)


def _add_noted(threads: list[Thread], noted: Provenance) -> None:
    """Add what memcarve noted of threads because the format has no place for it."""
    rows = provenance.member(noted.document, "faults").get("threads")
    known = (
        {provenance.number(row.get("tid")): row for row in rows if isinstance(row, dict)}
        if isinstance(rows, list)
        else {}
    )
    for place, thread in enumerate(threads):
        if (found := provenance.fault(known.get(thread.tid))) is not None:
            own = thread.fault or Fault()
            threads[place] = thread._replace(fault=found._replace(registers=own.registers, floating=own.floating))


def _areas(threads: list[Thread], *, wide: bool) -> list[Region]:
    """Return where the TEBs and stacks of threads lie."""
    size = 2 * PAGE if wide else PAGE
    found = [
        Region(thread.teb, size, kind=Kind.TEB, detail=f"thread {thread.tid}")
        for thread in threads
        if thread.teb is not None and thread.teb + size <= TOP
    ]
    for thread in threads:
        if thread.stack_start is not None and thread.stack_end is not None:
            length = thread.stack_end - thread.stack_start
            found.append(Region(thread.stack_start, length, kind=Kind.STACK, whole=True, detail=f"thread {thread.tid}"))
    return found


def _regions(dump: Minidump, noted: Provenance | None, modules: list[Module], notes: list[str]) -> list[Region]:
    """Return the regions: neighbours that are the same allocation, protection and type are one.

    Of a minidump that memcarve wrote the protection is what the region began with: the other one may be the page
    tables' word. What is reserved has none. Systems other than Windows have no allocations, and the type says
    whether a mapping is private or shared, not what is mapped.
    """
    rows, own = dump.memory_info(), noted is not None
    rows = rows[np.argsort(rows["base"], kind="stable")]
    rows = rows[rows["size"] > 0]
    start, size = rows["base"].astype(np.uint64), rows["size"].astype(np.uint64)
    free = rows["state"] == structures.FREE
    beyond = dump.beyond(start, size) & ~free
    if beyond.any():
        notes.append(
            f"{dump.file.path}: the region at 0x{int(start[beyond][0]):x} ends beyond the last address; not used"
        )
    system = dump.system()
    foreign = system is not None and system.platform >= structures.OTHER_PLATFORMS and not own
    told = not foreign and (noted is None or noted.platform.system == "windows")
    allocation = _allocations(dump, rows, modules, notes) if told else start
    kind = np.zeros_like(rows["type"]) if foreign else rows["type"]
    protection = rows["began_with"] if own else np.where(rows["state"] == structures.COMMIT, rows["protect"], 0)
    keep = ~free & ~beyond
    if own:  # of what lies in no region nothing is known
        keep &= (protection != 0) | (kind != 0)
    start, size, allocation, protection, kind = (column[keep] for column in (start, size, allocation, protection, kind))
    first = breaks(size, start)
    for column in (allocation if told else rows["allocation"][keep], protection, kind):
        first[1:] |= column[1:] != column[:-1]
    begins = np.flatnonzero(first)
    if len(begins) > _MOST_REGIONS:
        notes.append(f"{dump.file.path}: has {len(begins)} regions; the first {_MOST_REGIONS} are used")
        begins = begins[: _MOST_REGIONS + 1]
    sizes = np.add.reduceat(size, begins) if len(begins) else size
    words: dict[int, str | None] = {}
    found = []
    columns = (start[begins], sizes, protection[begins], kind[begins], allocation[begins])
    for low, length, number, of, base in zip(*(column[:_MOST_REGIONS].tolist() for column in columns), strict=True):
        if number not in words:
            words[number] = structures.words_of(number)
        private = None if of not in _KINDS else of == structures.PRIVATE
        region = Region(low, length, words[number], _KINDS.get(of), private=private)
        found.append(region._replace(allocation=base) if told else region)
    return found


def _allocations(dump: Minidump, rows: Records, modules: list[Module], notes: list[str]) -> U64:
    """Return where the allocation begins (uint64) that each row is part of; rows are in order of addresses, not empty.

    Rows that follow each other and name the same AllocationBase are one allocation, unless that lies behind them, or in
    something else that is listed, or an image is said to be part of a module that ends before it: then it is not known.
    Such a row stands for itself; but an image is part of the module that is listed there, or else of what begins with
    the first of the images that touch each other.
    """
    start, base = rows["base"].astype(np.uint64), rows["allocation"].astype(np.uint64)
    last = start + (rows["size"].astype(np.uint64) - np.uint64(1))
    free, image = rows["state"] == structures.FREE, rows["type"] == structures.IMAGE
    listed = sorted((module.start, module.size) for module in modules if module.size is not None)
    low, length = (np.array(column, np.uint64) for column in (zip(*listed, strict=True) if listed else ((), ())))
    if listed:  # an image that no list names may be said to be part of one that is listed
        own = np.maximum(np.searchsorted(low, base, "right") - 1, 0)
        ends = (length[own] + np.uint64(_GRANULE - 1)) & ~np.uint64(_GRANULE - 1)
        base = np.where(image & (low[own] == base) & (start > base) & (start - base >= ends), np.uint64(0), base)
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (base[1:] != base[:-1]) | free[1:] | free[:-1]
    first = np.flatnonzero(begins)
    inside = np.zeros(len(first), np.bool_)  # whether it lies in what is listed before
    inside[1:] = base[first[1:]] <= np.maximum.accumulate(last)[first[1:] - 1]
    sound = (base[first] == start[first]) | ((base[first] < start[first]) & (base[first] != 0) & ~inside)
    unknown = ~sound[np.cumsum(begins) - 1] & ~free
    if not unknown.any():
        return base
    notes.append(
        f"{dump.file.path}: of {int(unknown.sum())} rows of memory information the AllocationBase cannot be right; "
        "images that touch each other are taken for one there"
    )
    alone = ~(unknown & image)
    alone[1:] |= alone[:-1] | (start[1:] - np.uint64(1) != last[:-1])
    found: U64 = start[np.maximum.accumulate(np.where(alone, np.arange(len(rows)), 0))]
    if listed:
        place = np.searchsorted(low, start, "right") - 1
        low, length = low[np.maximum(place, 0)], length[np.maximum(place, 0)]
        found = np.where(image & (place >= 0) & (start - low < length), low, found)
    return np.where(unknown, found, base)
