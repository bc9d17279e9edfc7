"""A minidump of a process with its full memory, as debuggers and disassemblers open it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve import linux_mappings, provenance
from memcarve.errors import UsageError
from memcarve.formats.minidump import minidump_writing, structures
from memcarve.formats.minidump.contexts import context
from memcarve.formats.programs import pe
from memcarve.intervals import PAGE, Intervals
from memcarve.metadata import Fault, Regions, Thread
from memcarve.paths import base_name
from memcarve.permissions import EXECUTE, NOT_PRESENT, WRITE
from memcarve.process import Platform
from memcarve.protection import collapsed
from memcarve.sinks.input_hash import hash_to_come
from memcarve.sinks.ranges import ranges
from memcarve.sinks.single_file import FilePlan, write_file
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from memcarve.dtypes import U32, U64, Records
    from memcarve.formats.programs.mapped_module import Read
    from memcarve.metadata import Metadata, Module, Region
    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.ranges import Ranges
    from memcarve.space import AddressSpace

_MACHINES = {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64", 0x1C4: "arm"}  # IMAGE_FILE_MACHINE_...
_NARROW = 1 << 32
_FIELD = 0xFFFFFFFF
_CUT = (14, 15)  # EPROCESS holds so many characters of a name, the zero not counted
#: of a TEB (winternl.h): bytes of a pointer, where it points to itself, where what cle looks at ends
_TEB = {**dict.fromkeys(("x64", "arm64"), (8, 0x30, 0x60)), **dict.fromkeys(("x86", "arm"), (4, 0x18, 0x30))}
_TYPES: dict[str, int] = {
    Kind.IMAGE: structures.IMAGE,
    Kind.MAPPED: structures.MAPPED,
    **dict.fromkeys((Kind.PRIVATE, Kind.STACK, Kind.HEAP, Kind.TEB, Kind.PEB), structures.PRIVATE),
}
#: three letters as Windows says them; what can be written can be read, too
_WORDS = {
    "---": "PAGE_NOACCESS",
    "r--": "PAGE_READONLY",
    "rw-": "PAGE_READWRITE",
    "-w-": "PAGE_READWRITE",
    "--x": "PAGE_EXECUTE",
    "r-x": "PAGE_EXECUTE_READ",
    "rwx": "PAGE_EXECUTE_READWRITE",
    "-wx": "PAGE_EXECUTE_READWRITE",
    "rc-": "PAGE_WRITECOPY",
    "rcx": "PAGE_EXECUTE_WRITECOPY",
}
#: loaders look protections up one by one, and find none for these: what is not written yet is as good as read-only
_PLAIN = {
    structures.PROTECTIONS["PAGE_WRITECOPY"]: structures.PROTECTIONS["PAGE_READONLY"],
    structures.PROTECTIONS["PAGE_EXECUTE_WRITECOPY"]: structures.PROTECTIONS["PAGE_EXECUTE_READ"],
}
_BASES = 0xFF
_MOST_FAULTS = 1000
_MOST_LINES = 1 << 17  # of /proc/PID/maps; Linux lets a process have 65,530 mappings unless told otherwise
_REFUSED = "angr's loader refuses the file (--resident)"


def export_minidump(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write the minidump `out`, whole or not at all.

    Its ranges end where regions, modules and permissions do; modules have what their headers in memory say. Threads are
    those known; if none is listed, ``placeholder_thread`` makes one with the id 1 and nothing else. ``resident`` leaves
    out modules whose first page is not in the file, and threads whose TEB is not there or does not lead to itself:
    angr's loader refuses a file that has any. What stopped a thread is the exception; of several threads, the first
    one's. ``platform`` (its members that are not None) and ``architecture`` (``"x64"``, ``"x86"``, ``"arm64"``,
    ``"arm"``) take precedence over what the process knows; the latter is else that of the modules' headers, x64 if
    addresses need 64 bits, or unknown.

    Raises UsageError, TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    begun = time.monotonic()
    plan = minidump_plan(process, segments, options, begun)
    return write_file(process, plan, out, options=options, progress=progress, begun=begun)


def minidump_plan(process: ProcessMemory, segments: Segments, options: SinkOptions, begun: float) -> FilePlan:
    """Return what goes into the minidump; `begun` is when the work began. Raises UsageError and OutputError."""
    options.check("minidump")
    architecture, resident = options.architecture, options.resident
    if architecture is not None and architecture not in structures.ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {architecture!r}", remedy=f"choose from {', '.join(structures.ARCHITECTURES)}"
        )
    found = ranges(process, segments)
    metadata = process.metadata
    headers = {module.start: pe.facts(_reader(process.space, module.start)) for module in found.modules}
    notes: list[str] = []
    modules = _modules(process, found, headers, notes, resident=resident)
    known = architecture or process.architecture or _architecture(headers)
    word = known or _by_addresses(found, notes)
    system = _platform(process.platform, options.platform, notes)
    listed = _threads(process, found, word, notes, resident=resident)
    raised, faults = _raised(listed, word, system, notes)
    threads = [_thread(thread, word) for thread in listed]
    if options.placeholder_thread and not threads:
        threads = [_thread(Thread(1), word)]
        notes.append("the placeholder thread has no TEB; angr's loader refuses the file")
    later = provenance.Later()
    record = options.record(begun, end=later.end, input=hash_to_come(process, options, later.sha256))
    beginning = minidump_writing.head(
        _system(word, system),
        process.pid,
        modules,
        _unloaded(metadata),
        threads,
        raised,
        _memory_infos(found, metadata.regions[0] if metadata.regions else Regions("", [])),
        (found.start, found.size),
        _comment(process, segments, options, record, known, system, faults),
        process.auxiliary_vector or b"",
        _maps(process) if system.system == "linux" else b"",
    )
    return FilePlan(found, beginning.blocks, beginning.base, notes, later)


def _maps(process: ProcessMemory) -> bytes:
    """Return what /proc/PID/maps had, if the first source of regions says all of it; else nothing."""
    rows = process.metadata.regions[0].rows if process.metadata.regions else []
    if not rows or len(rows) > _MOST_LINES or any(linux_mappings.unsaid(row) for row in rows):
        return b""
    lines = (linux_mappings.line(row, process.address_bits) for row in rows)
    return b"".join(line.encode("utf-8", "surrogateescape") + b"\n" for line in lines)


def _modules(
    process: ProcessMemory, found: Ranges, headers: Mapping[int, pe.Facts | None], notes: list[str], *, resident: bool
) -> list[structures.Module]:
    """Return the modules, the program itself first, as debuggers expect it; the others in order of addresses."""
    listed, starts = list(found.modules), {*found.start.tolist()}
    begins = {module: module.start in starts for module in listed}
    if found.regions:
        mapped = process.metadata.regions[0]
        gone = {module for module in listed if not begins[module] and mapped.at(module.start) is None}
        if gone:
            notes.append(f"{_counted(gone)} where nothing is mapped; not in the minidump")
            listed = [module for module in listed if module not in gone]
    bare = [module for module in listed if not begins[module]]
    if bare:
        how = "not in the minidump" if resident else _REFUSED
        notes.append(f"{_counted(bare)} with a page that is not in the file; {how}")
    kept = [module for module in listed if begins[module] or not resident]
    main = next((module for module in kept if _is_main(module, process)), None)
    kept.sort(key=lambda module: module is not main)
    return [_module(module, headers[module.start]) for module in kept]


def _counted(modules: Collection[Module]) -> str:
    return "1 module begins" if len(modules) == 1 else f"{len(modules)} modules begin"


def _threads(
    process: ProcessMemory, found: Ranges, architecture: str | None, notes: list[str], *, resident: bool
) -> list[Thread]:
    """Return the threads that are listed."""
    threads = process.metadata.all_threads()
    sound = [thread for thread in threads if _is_sound(process.space, found, thread.teb, architecture)]
    lost = len(threads) - len(sound)
    if lost and (
        process.platform.system not in (*structures.UNIXES, "linux") or any(each.teb is not None for each in threads)
    ):
        what = "1 thread has a TEB that is" if lost == 1 else f"{lost} threads have TEBs that are"
        how = "not in the minidump" if resident else _REFUSED
        notes.append(f"{what} not in the file, or damaged; {how}")
    return sound if resident else threads


def _is_sound(space: AddressSpace, found: Ranges, teb: int | None, architecture: str | None) -> bool:
    """Return True if a TEB is in the file and leads to itself, and its ThreadLocalStoragePointer is there, too."""
    if teb is None or architecture not in _TEB:
        return False
    width, itself, end = _TEB[architecture]
    place = int(np.searchsorted(found.start, np.uint64(teb), "right")) - 1
    if place < 0 or teb - int(found.start[place]) + end > int(found.size[place]):
        return False
    return space.read(teb + itself, width) == teb.to_bytes(8, "little")[:width]


def _is_main(module: Module, process: ProcessMemory) -> bool:
    """Return True if a module is the program that the process runs."""
    if process.entry.image_base is not None:
        return module.start == process.entry.image_base
    name, known = (module.name or base_name(module.path or "")).casefold(), (process.name or "").casefold()
    return bool(known) and (name == known or (len(known) in _CUT and name.startswith(known)))


def _module(module: Module, header: pe.Facts | None) -> structures.Module:
    """Return a module as the minidump lists it; its size is the header's, unless lists or the mapping say otherwise."""
    name, size = module.path or module.name or "", module.size
    if header is None:
        return structures.Module(module.start, min(size or 0, _FIELD), 0, 0, name)
    if size is None or -(-size // PAGE) == -(-header.image.size // PAGE):
        size = header.image.size
    record = structures.NO_CODEVIEW if header.codeview is None else header.codeview
    numbers = header.image.checksum, header.image.timestamp
    return structures.Module(module.start, min(size, _FIELD), *numbers, name, record)


def _unloaded(metadata: Metadata) -> list[structures.Module] | None:
    """Return the modules that were unloaded; None if they are not known."""
    if not metadata.unloaded:
        return None
    return [
        structures.Module(row.start, min(row.size or 0, _FIELD), row.checksum or 0, row.timestamp or 0, row.name or "")
        for each in metadata.unloaded
        for row in each.rows
    ]


def _reader(space: AddressSpace, base: int) -> Read:
    return lambda place, size: space.read(base + place, size)


def _architecture(headers: Mapping[int, pe.Facts | None]) -> str | None:
    """Return the architecture as headers show it; a 32-bit program on x64 has modules of both."""
    machines = {_MACHINES.get(header.image.machine) for header in headers.values() if header is not None}
    return next((word for word in ("x64", "arm64", "x86", "arm") if word in machines), None)


def _by_addresses(found: Ranges, notes: list[str]) -> str | None:
    """Return the architecture to write if none is known."""
    if len(found) and int(found.start[-1]) + int(found.size[-1]) > _NARROW:
        notes.append("the architecture is not known; the minidump says x64, because addresses need 64 bits")
        return "x64"
    notes.append("the architecture is not known, and the minidump says so; most tools want --architecture")
    return None


def _platform(known: Platform, given: Platform, notes: list[str]) -> Platform:
    """Return the platform, what was given first."""
    pairs = zip(known, given, strict=True)
    found = Platform._make(other if one is None else one for other, one in pairs)
    if found.system is not None and found.system not in (*structures.PLATFORMS, *structures.UNIXES):
        raise UsageError(
            f"no minidump can be written for {found.system}", remedy=f"choose from {', '.join(structures.PLATFORMS)}"
        )
    if found.system is None:
        notes.append("the system is not known; the minidump says Windows, of no version (--os-version)")
    elif found.build is None and found.system == "windows":
        notes.append("the version of Windows is not known; in the minidump it is 0 (--os-version)")
    return found


def _system(word: str | None, platform: Platform) -> minidump_writing.System:
    architecture = structures.ARCHITECTURES.get(word or "", structures.UNKNOWN_ARCHITECTURE)
    version = (number if number is not None and number <= _FIELD else 0 for number in platform[1:])
    return minidump_writing.System(
        architecture, structures.PLATFORMS.get(platform.system or "windows", structures.UNIX), *version
    )


def _thread(thread: Thread, architecture: str | None) -> minidump_writing.Thread:
    stack = (0, 0)
    if thread.stack_start is not None and thread.stack_end is not None and thread.stack_start < thread.stack_end:
        stack = thread.stack_start, thread.stack_end - thread.stack_start
    registers = context(thread.registers, architecture or "", thread.floating)
    known = bool(thread.registers)
    return minidump_writing.Thread(thread.tid, thread.teb or 0, stack, thread.begin or 0, registers, known, thread.name)


def _raised(
    threads: Sequence[Thread], architecture: str | None, platform: Platform, notes: list[str]
) -> tuple[minidump_writing.Raised | None, list[dict[str, Any]]]:
    """Return the exception of the first thread that has a fault, and the faults that the comment must say.

    A signal is an exception whose code is its number, as Breakpad and Crashpad write it: what else there is of it, and
    what stopped other threads, the format has no place for.
    """
    stopped = [thread for thread in threads if thread.fault is not None]
    found, faults = None, []
    for thread in stopped:
        fault = thread.fault or Fault()
        code = fault.signal if fault.exception is None else fault.exception
        whole = fault.siginfo is None and None not in (code, fault.flags, fault.address)
        own = platform.system == "linux" if fault.exception is None else fault.signal is None
        if found is None and code is not None:
            numbers = (thread.tid, code, fault.flags or 0, fault.address or 0, fault.parameters)
            registers, floating = fault.registers or thread.registers, fault.floating or thread.floating
            found = minidump_writing.Raised(*numbers, context(registers, architecture or "", floating))
            if whole and own:
                continue
        faults.append({"tid": thread.tid} | fault._replace(registers=None, floating=None).facts())
    if len(faults) > _MOST_FAULTS:
        notes.append(f"of {len(faults)} threads that were stopped, for the first {_MOST_FAULTS} it is noted why")
    return found, faults[:_MOST_FAULTS]


def _comment(
    process: ProcessMemory,
    segments: Segments,
    options: SinkOptions,
    record: Mapping[str, Any],
    architecture: str | None,
    platform: Platform,
    faults: list[dict[str, Any]],
) -> bytes:
    """Return where the minidump comes from, as JSON in ASCII, with the zero behind it.

    It also says what the format has no place for, and what of the rest is not known, though something stands there.
    """
    listed = "listed" if process.metadata.modules else "mapped"
    # modules that were unloaded have a list of their own
    told = {name: value for name, value in process.metadata.told().items() if not name.startswith("unloaded")}
    document = {
        **provenance.document(
            "minidump",
            process,
            record,
            left_out=segments.choice.left_out,
            choice=segments.choice.selection,
            told=told,
            architecture=architecture,
            platform=platform,
        ),
        "protect": "regions" if process.space.flags is None else "page tables",
        "modules": f"{listed}, those whose first page is here" if options.resident else listed,
        **({"faults": {"threads": faults}} if faults else {}),
    }
    text = json.dumps(document)
    if len(text) >= structures.LONGEST_COMMENT:  # a command line may be that long
        known = {name: value for name, value in document["process"].items() if name not in told}
        text = json.dumps(document | {"command": [], "notes": [], "process": known})
    return text.encode() + b"\0"


def _memory_infos(found: Ranges, regions: Regions) -> Records:
    """Return rows of `layout.MEMORY_INFO` in order of addresses.

    Protect is what page tables allow if they tell, else what the region began with, without write-copy; 0 if
    nothing is known. AllocationProtect is what the region began with, in full. The state is MEM_COMMIT throughout:
    what of a region is only reserved, is not known. What lies in no region is an allocation of its own.
    """
    holes = regions.pieces.subtract(Intervals(found.start, found.size))
    base = np.concatenate([found.start, holes.start])
    owner = np.concatenate([found.region, holes.owner])
    order = np.argsort(base, kind="stable")
    rows = np.zeros(len(base), structures.MEMORY_INFO)
    start, began_with, plain, kind = _region_columns(regions.rows)
    rows["base"] = base
    rows["size"] = np.concatenate([found.size, holes.size])
    rows["allocation"] = np.where(owner < 0, base, start[owner])
    rows["began_with"] = began_with[owner]
    rows["protect"] = plain[owner]
    rows["type"] = kind[owner]
    rows["state"] = structures.COMMIT
    if found.flags is not None:
        allowed = _ALLOWED[found.flags]
        protect = rows["protect"][: len(found)]
        rows["protect"][: len(found)] = np.where(allowed, allowed, protect)
    return rows[order]


def _number_of(protection: str | None) -> int:
    """Return a region's protection as Windows numbers it; 0 if it is not known."""
    if protection is None:
        return 0
    return structures.number_of(protection) or structures.number_of(_WORDS.get(collapsed(protection) or "", ""))


def _region_columns(regions: Sequence[Region]) -> tuple[U64, U32, U32, U32]:
    """Return by region where its allocation begins, its protection in full and plain, its type.

    The last row is for no region.
    """
    known = {words: _number_of(words) for words in {region.protection for region in regions}}
    full = np.array([*(known[region.protection] for region in regions), 0], np.uint32)
    plain = np.array([_plain(number) for number in full.tolist()], np.uint32)
    bases = [region.start if region.allocation is None else region.allocation for region in regions]
    start = np.array([*bases, 0], np.uint64)
    return start, full, plain, np.array([*map(_type, regions), 0], np.uint32)


def _plain(number: int) -> int:
    base = number & _BASES
    return _PLAIN.get(base, base) | (number & structures.GUARD)


def _type(region: Region) -> int:
    if region.kind is not None:
        return _TYPES.get(region.kind, 0)
    return 0 if region.private is None else structures.PRIVATE if region.private else structures.MAPPED


def _allowed(flags: int) -> int:
    if flags & NOT_PRESENT:
        return 0
    word = _WORDS[f"r{'w' if flags & WRITE else '-'}{'x' if flags & EXECUTE else '-'}"]
    return structures.PROTECTIONS[word]


_ALLOWED = np.array([_allowed(flags) for flags in range(256)], np.uint32)
