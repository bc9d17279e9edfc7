"""An ELF core of a process, as gdb, lldb and disassemblers open it."""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve import provenance
from memcarve.errors import UsageError, encodable, printable
from memcarve.formats.elf_core import core_headers, process_notes
from memcarve.formats.elf_core.process_notes import EXECUTE, READ, WRITE, MappedFile
from memcarve.formats.elf_core.processors import PROCESSORS
from memcarve.metadata import hexadecimal
from memcarve.permissions import EXECUTE as MAY_EXECUTE, NOT_PRESENT, WRITE as MAY_WRITE
from memcarve.process import Unix
from memcarve.sinks.input_hash import hash_to_come
from memcarve.sinks.ranges import ranges
from memcarve.sinks.single_file import FilePlan, write_file
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.vocabulary import Architecture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memcarve.dtypes import U32
    from memcarve.metadata import Fault, Module, Region, Thread
    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.ranges import Ranges


_ALL = READ | WRITE | EXECUTE
_LETTERS = {"r": READ, "w": WRITE, "c": WRITE, "x": EXECUTE}
_BITS = {word: each.bits for word, each in PROCESSORS.items()}
#: registers that only one processor has, by which it is known
_TELLING = {"eip": Architecture.X86, "x0": Architecture.ARM64, "r0": Architecture.ARM}
_MOST_MISSING = 1 << 16
#: exceptions that concern an access, whose address is the second parameter: access violation, in-page error
_ACCESSES = {0xC0000005, 0xC0000006}
#: the signals that stand for exceptions of Windows (winnt.h, ntstatus.h), as a Unix has them for the same causes
_SIGNALS = {
    **dict.fromkeys((0xC0000005, 0xC00000FD, 0x80000001, 0xC000008C), process_notes.SIGSEGV),
    **dict.fromkeys((0xC0000006, 0x80000002), process_notes.SIGBUS),
    **dict.fromkeys((0xC000001D, 0xC0000096, 0xC0000025, 0x4000001D), process_notes.SIGILL),
    **dict.fromkeys((*range(0xC000008D, 0xC0000096), 0xC00002B4, 0xC00002B5), process_notes.SIGFPE),
    **dict.fromkeys((0x80000003, 0x80000004, 0x4000001E, 0x4000001F), process_notes.SIGTRAP),
    **dict.fromkeys((0xC0000409, 0xC0000374, 0xC0000420, 0x40000015, 0xE06D7363), process_notes.SIGABRT),
    **dict.fromkeys((0x40010005, 0x40010008, 0xC000013A), process_notes.SIGINT),
}
#: systems that number some signals otherwise (sys/signal.h), and how; 0 is what Linux does not have
_BSDS = {"freebsd", "netbsd", "openbsd"}
_OF_BSD = {7: 0, 10: 7, 12: 31, 16: 23, 17: 19, 18: 20, 19: 18, 20: 17, 23: 29, 29: 0, 30: 10, 31: 12}
PAGE_TABLES, REGIONS, UNKNOWN = "page tables", "regions", "unknown"


def export_elfcore(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write the ELF core `out`, whole or not at all.

    A segment of it (PT_LOAD) is a range that ends where regions, modules and permissions do. Its flags are what page
    tables allow, else the region's protection (write-copy is writable there), else everything. Files with a Unix path
    are named for what of them is there alone: debuggers take the rest from files of that name on the machine they run
    on. What is mapped but missing has no segment: gdb would show zeros. Threads have the registers that are known, else
    zeros; on 64-bit Windows gs_base is the TEB. One that an exception stopped comes first, with the registers of that
    moment and a signal that stands for it; else the first one whose registers are known. memcarve's own note says where
    everything comes from, and lists what is missing and all regions, modules and threads.

    ``architecture`` (a vocabulary.Architecture) takes precedence over what the process knows; if it is unknown, it is
    what registers show, else x64.

    Raises UsageError if memory of x86 lies beyond 4 GiB, TargetExistsError, NoSpaceError, SourceReadError,
    OutputError.
    """
    begun = time.monotonic()
    plan = elfcore_plan(process, segments, options, begun, subject=os.fspath(out))
    return write_file(process, plan, out, options=options, progress=progress, begun=begun)


def elfcore_plan(
    process: ProcessMemory, segments: Segments, options: SinkOptions, begun: float, *, subject: str
) -> FilePlan:
    """Return what goes into the core, which messages call `subject`; `begun` is when the work began.

    Raises UsageError if memory of x86 lies beyond 4 GiB.
    """
    options.check("elfcore")
    found = ranges(process, segments)
    threads = process.metadata.all_threads()
    notes: list[str] = []
    word = _architecture(process, threads, options.architecture, notes)
    bits = _BITS[word]
    if bits == 32 and len(found) and int(found.segments.last[-1]) >> bits:  # noqa: PLR2004
        raise UsageError(
            f"memory of a 32-bit process lies at 0x{int(found.segments.last[-1]):x}, which a 32-bit core cannot hold",
            subject=subject,
            remedy="{architecture:x64} writes a 64-bit one",
        )
    flags, basis = _flags(found, notes)
    later = provenance.Later()
    record = options.record(begun, end=later.end, input=hash_to_come(process, options, later.sha256))
    document = _document(process, segments, options, record, word, basis, threads)
    own = json.dumps(document).encode()
    if len(own) > process_notes.LARGEST_OWN:
        own = json.dumps(document | {"regions": [], "modules": []}).encode()
        notes.append("regions and modules are too many to be noted in the core: memcarve will not find them in it")
    if len(process.space.missing) > _MOST_MISSING:
        notes.append(f"of what is missing, the first {_MOST_MISSING} ranges are noted in the core")
    own_notes = _notes(process, word, found, threads, own, notes)
    head = process_notes.layout(word, own_notes, found.start, found.size, flags)
    if bits == 32 and (head.base + found.total) >> bits:  # noqa: PLR2004
        raise UsageError(
            "a 32-bit core ends at 4 GiB", subject=subject, remedy="{architecture:x64} writes a 64-bit one"
        )
    return FilePlan(found, [*head.blocks], head.base, notes, later)


def _architecture(
    process: ProcessMemory, threads: Sequence[Thread], given: str | None, notes: list[str]
) -> Architecture:
    """Return the processor that the core is of, and note if that is a guess; raise UsageError if there is no word."""
    known = given or process.architecture
    if known is not None:
        return Architecture(known)
    registers = {name for thread in threads for name in thread.registers or {}}
    shown = next((word for name, word in _TELLING.items() if name in registers), None)
    if shown is None:
        notes.append("the architecture is not known; the core says x86-64")
    return shown or Architecture.X64


def _flags(found: Ranges, notes: list[str]) -> tuple[U32, str]:
    """Return p_flags of each range (uint32), and where they are from; note if some are not known."""
    by_region = np.array([_letters(region) for region in found.regions] + [-1])  # the last one: of no region
    flags = by_region[found.region]
    basis = REGIONS if bool((flags >= 0).any()) else UNKNOWN
    if found.flags is not None:
        basis = PAGE_TABLES
        write, execute = (found.flags & bit != 0 for bit in (MAY_WRITE, MAY_EXECUTE))
        present = found.flags & NOT_PRESENT == 0  # of other pages the tables do not tell
        flags = np.where(present, READ | np.where(write, WRITE, 0) | np.where(execute, EXECUTE, 0), flags)
    unknown = int((flags < 0).sum())
    if unknown:
        notes.append(f"of {unknown} of {len(found)} ranges the permissions are not known; the core says all of them")
    return np.where(flags < 0, _ALL, flags).astype(np.uint32), basis


def _letters(region: Region) -> int:
    word = region.collapsed
    return -1 if word is None else sum(_LETTERS.get(letter, 0) for letter in word)


def _notes(
    process: ProcessMemory,
    word: Architecture,
    found: Ranges,
    threads: Sequence[Thread],
    document: bytes,
    notes: list[str],
) -> bytes:
    """Return the notes in the order in which Linux writes them, memcarve's own before them.

    Debuggers show the first thread: one that was stopped by a fault, else one whose registers are known (the first
    thread of a process may have ended before the others).
    """
    stopped = (place for place, thread in enumerate(threads) if thread.fault is not None)
    known_of = (place for place, thread in enumerate(threads) if thread.registers)
    first = next(itertools.chain(stopped, known_of), 0)
    ordered = [*threads[first : first + 1], *threads[:first], *threads[first + 1 :]]
    # as Linux writes it, the signal is in the status of all threads: gdb takes it from the last one
    signals = [0 if thread.fault is None else _signal(process, thread.fault, notes) for thread in ordered]
    mine = [
        _thread_notes(process, word, thread, signals[place] if thread.fault is not None else signals[0])
        for place, thread in enumerate(ordered)
    ]
    bits = _BITS[word]
    info = process_notes.info_note(bits, _identity(process))
    known = process.pid is not None or process.name is not None
    files = list(_mapped_files(found))
    vector = process.auxiliary_vector
    return b"".join(
        (
            process_notes.own_note(document),
            *(each[0] for each in mine[:1]),
            *([info] if known else []),
            *(each[1] for each in mine[:1]),
            *([process_notes.note(b"CORE", core_headers.AUXV, vector)] if vector and _fits(process, word) else []),
            *([process_notes.file_note(bits, files)] if files else []),
            *(each[2] for each in mine[:1]),
            *(part for each in mine[1:] for part in each),
        )
    )


def _identity(process: ProcessMemory) -> process_notes.Identity:
    """Return who the process is, as far as it is known; its arguments are those that it was started with."""
    given = [each.command_line for each in process.metadata.parameters if each.command_line is not None]
    arguments = _encoded(given[0]) if given else None
    name, unix = _encoded(process.name or ""), process.entry.unix or Unix()
    return process_notes.Identity(process.pid, name, arguments, process.entry.parent, unix.uid, unix.gid)


def _fits(process: ProcessMemory, word: Architecture) -> bool:
    """Return True if words of the process's own have the size of the core's, so that they can be copied as they are."""
    return _BITS.get(Architecture(process.architecture)) == _BITS[word] if process.architecture is not None else False


def _thread_notes(
    process: ProcessMemory, word: Architecture, thread: Thread, number: int
) -> tuple[bytes, bytes, bytes]:
    """Return what a thread was stopped with, as it was then: its status, siginfo, and all other registers.

    `number` is the signal's; 0 if there is none.
    """
    fault = thread.fault
    registers, floating, siginfo = _registers(process, thread, word), thread.floating, b""
    if fault is not None:
        registers |= fault.registers or {}
        floating = fault.floating or floating
        raw = fault.siginfo if _fits(process, word) else None
        if number or raw is not None:
            flags = process_notes.KERNEL if fault.signal is None or fault.flags is None else fault.flags
            siginfo = process_notes.signal_note(_BITS[word], raw, number, flags, _fault_address(fault))
    status, more = process_notes.status_notes(word, thread.tid, registers, number, process.entry.parent)
    return status, siginfo, (b"" if floating is None else process_notes.floating_notes(word, floating)) + more


def _signal(process: ProcessMemory, fault: Fault, notes: list[str]) -> int:
    """Return what Linux would have sent a thread; 0 if nothing stands for the exception, which is noted."""
    if fault.signal is not None:
        return _OF_BSD.get(fault.signal, fault.signal) if process.platform.system in _BSDS else fault.signal
    number = _SIGNALS.get(fault.exception or 0, 0)
    if not number and fault.exception:
        notes.append(f"no signal stands for the exception 0x{fault.exception:x}: in the core the thread has none")
    return number


def _fault_address(fault: Fault) -> int | None:
    """Return the address that was accessed, if the exception says which, else that of the instruction."""
    if fault.exception in _ACCESSES and len(fault.parameters) > 1:
        return fault.parameters[1]
    return fault.address


def _registers(process: ProcessMemory, thread: Thread, word: Architecture) -> dict[str, int]:
    known = dict(thread.registers or {})
    if word == Architecture.X64 and process.platform.system == "windows" and thread.teb is not None:
        known.setdefault("gs_base", thread.teb)
    return known


def _mapped_files(found: Ranges) -> Iterator[MappedFile]:
    """Yield what of mapped files is there, in order of addresses: by regions, or by modules if those name no file.

    A file that debuggers could open by its name ends at each gap, so that they do not fill that from it. Where it is
    not known at which place of the file a region begins, it is taken for the beginning.
    """
    modules = found.modules
    starts = np.array([module.start for module in modules], np.uint64)
    module = (np.searchsorted(starts, found.start, "right") - 1).tolist()
    columns = found.start.tolist(), found.size.tolist(), found.region.tolist(), module

    def mapping(row: tuple[int, int, int, int]) -> tuple[int, str, int] | None:
        """Return start, file, and the offset in it of what holds a range."""
        start, _, region, place = row
        if region >= 0 and (here := found.regions[region]).file is not None:
            # what the kernel itself put there goes by a name, as [vdso], and is no file
            return None if here.file.startswith("[") else (here.start, here.file, here.offset or 0)
        if place >= 0 and start < modules[place].end:
            name = modules[place].path or modules[place].name
            return None if name is None else (modules[place].start, name, 0)
        return None

    last: MappedFile | None = None
    before: tuple[int, str, int] | None = None
    for row in zip(*columns, strict=True):
        holder = mapping(row)
        if holder is None:
            continue
        start, end = row[0], row[0] + row[1]
        if last is not None and before == holder and (last.end == start or not last.name.startswith(b"/")):
            last = last._replace(end=end)
            continue
        if last is not None:
            yield last
        last, before = MappedFile(start, end, holder[2] + start - holder[0], _encoded(holder[1])), holder
    if last is not None:
        yield last


def _encoded(text: str) -> bytes:
    """Return text as UTF-8 without anything that is not plainly visible: tools print names as they are, or refuse them.

    memcarve's own note has them unchanged.
    """
    return printable(text).encode()


def _document(
    process: ProcessMemory,
    segments: Segments,
    options: SinkOptions,
    record: Mapping[str, Any],
    written_as: str,
    basis: str,
    threads: Sequence[Thread],
) -> dict[str, Any]:
    """Return what the core's own note says, ready for JSON; regions and so on as a carved folder has them."""
    missing = itertools.islice(process.space.missing, _MOST_MISSING)
    metadata = process.metadata
    return {
        **provenance.document(
            "elfcore",
            process,
            record,
            left_out=segments.choice.left_out,
            choice=segments.choice.selection,
            told=metadata.told(),
            architecture=process.architecture or options.architecture,
        ),
        "written_as": written_as,
        "p_flags": basis,
        "missing": [_bounds(row.start, row.size) | {"reason": row.reason} for row in missing],
        "labels": {
            "complete": metadata.complete,
            "sources": {"regions": [{"source": each.source} for each in metadata.regions[:1]]},
            "threads": [_thread_row(thread) for thread in threads],
        },
        "regions": [row.facts() for each in metadata.regions[:1] for row in each.rows],
        "modules": [_module_row(row, each.source) for each in metadata.modules for row in each.rows],
    }


def _bounds(start: int, size: int) -> dict[str, Any]:
    return {"start": f"0x{start:x}", "end": f"0x{start + size:x}"}


def _module_row(row: Module, source: str) -> dict[str, Any]:
    return {"source": source, "base": f"0x{row.start:x}", "size": row.size, "name": row.name, "path": row.path}


def _thread_row(row: Thread) -> dict[str, Any]:
    places = ((name, getattr(row, name)) for name in ("teb", "stack_start", "stack_end", "begin"))
    fault = row.fault
    apart = fault is not None and fault.floating is not None and row.floating is not None
    return (
        {"tid": row.tid}
        | {name: f"0x{value:x}" for name, value in places if value is not None}
        | ({"registers": hexadecimal(row.registers)} if row.registers else {})
        | ({} if row.name is None else {"name": encodable(row.name)})
        | ({} if fault is None else {"fault": fault.facts()})
        | ({} if row.state is None else {"state": encodable(row.state)})
        # the notes have those of the fault
        | ({"floating": row.floating.hex()} if apart and row.floating is not None else {})
    )
