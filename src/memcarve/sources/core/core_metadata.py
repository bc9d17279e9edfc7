"""What the notes of a process's core say: who it is, its regions and threads; and what memcarve noted in its own."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import printable
from memcarve.formats.elf_core import core_headers, process_notes
from memcarve.formats.elf_core.bsd_notes import SYSTEMS, bsd_notes
from memcarve.formats.elf_core.processors import ARM_PAC_MASK, ARM_TLS, ARM_VFP
from memcarve.intervals import TOP
from memcarve.metadata import Fault, Metadata, Parameters, Region, Regions, SourceRows, Thread
from memcarve.process import Platform
from memcarve.provenance import Provenance, member
from memcarve.vocabulary import INTEL, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.backing import FileBacking
    from memcarve.dtypes import Records
    from memcarve.formats.elf_core.bsd_notes import BsdMapping, BsdNotes, BsdThread
    from memcarve.formats.elf_core.core_headers import Header, Note
    from memcarve.formats.elf_core.process_notes import MappedFile

_MOST_MISSING = 1 << 16
_LONGEST_ORIGIN = 1 << 16
_WORDS = ("---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx")  # by p_flags
_UPPER = 1 << 63
_SYSINFO_EHDR = 33  # a_type of the auxiliary vector
_LONGEST_VECTOR = 1 << 16
_STATUS = (b"CORE", core_headers.PRSTATUS)
_SIGINFO = (b"CORE", core_headers.SIGINFO)
_OF_THREADS = {
    _STATUS,
    _SIGINFO,
    (b"CORE", core_headers.PRFPREG),
    (b"LINUX", core_headers.PRXFPREG),
    (b"LINUX", core_headers.XSTATE),
    *((b"LINUX", kind) for kind in (ARM_VFP, ARM_TLS, ARM_PAC_MASK)),
}
_OWNERS = {b"CORE", b"LINUX", core_headers.OWNER}
_SHOWN = 4
_POINTERS = ("rsp", "esp", "sp")
#: types of notes named CORE that only Solaris writes: NT_PSTATUS, NT_PSINFO, NT_LWPSTATUS, NT_LWPSINFO
_SOLARIS = {10, 13, 16, 17}
_COLUMNS = ("vaddr", "size", "flags")


class CoreNotes(NamedTuple):
    """What notes say of the process, and where those are that tell more; None is not known.

    `arguments` are the command line, of which the note has 79 bytes at most.
    `own` is what memcarve noted when it wrote the core: anything may stand in it. `threads` are the notes of each
    thread, by owner and type, NT_PRSTATUS among them; `files` and `vector` the first of types NT_FILE and NT_AUXV.
    `linux`: there are notes that only Linux writes; `bsd` is what those of a BSD say.
    """

    pid: int | None
    name: str | None
    parent: int | None
    arguments: str | None
    own: Provenance | None
    threads: list[dict[tuple[bytes, int], Note]]
    files: Note | None
    vector: Note | None
    linux: bool
    bsd: BsdNotes | None
    remarks: list[str]

    @property
    def platform(self) -> Platform:
        """The operating system."""
        if self.own is not None:
            return self.own.platform
        if self.bsd is None:
            return Platform("linux" if self.linux else None)
        version = self.bsd.version
        return (
            Platform(self.bsd.system, version // 100_000, version // 1000 % 100)
            if version
            else Platform(self.bsd.system)
        )


def read_core_notes(file: FileBacking, header: Header, table: Records) -> CoreNotes:
    """Read the notes once; of what comes several times the first counts, but for threads."""
    notes = [*core_headers.read_notes(file, header, table)]
    mark = core_headers.OWNER, core_headers.PROVENANCE
    own = next((_own(file, note) for note in notes if (note.owner, note.kind) == mark), None)
    first = {note.kind: note for note in reversed(notes) if note.owner == b"CORE"}
    threads, remarks = _by_thread(notes), _not_read(file, notes)
    if not _SOLARIS.isdisjoint(first):  # they have the types of Linux's, and are laid out otherwise
        threads, first = [], {}
        remarks.append(f"{file.path}: is a core of Solaris or illumos, whose notes are not read: pid, name, threads")
    written_by = {note.owner for note in notes}
    linux = b"LINUX" in written_by or core_headers.FILE in first or core_headers.SIGINFO in first
    known = (
        process_notes.process_info(file, header, first[core_headers.PRPSINFO])
        if core_headers.PRPSINFO in first
        else None
    )
    pid, name = (None, None) if known is None else (known.pid, known.name.decode("utf-8", "surrogateescape") or None)
    arguments = None if known is None or known.arguments is None else known.arguments
    parent = None if known is None else known.parent
    bsd = bsd_notes(file, header, notes)
    if bsd is not None:
        arguments = parent = None
        pid, name = bsd.pid, None if bsd.name is None else bsd.name.decode("utf-8", "surrogateescape")
        remarks += _unread(file, bsd, header)
    if own is not None:  # the whole name, and what of the two was not known
        pid, name = own.entry[:2]
        parent = parent if own.entry.parent is None else own.entry.parent
    files, vector = first.get(core_headers.FILE), first.get(core_headers.AUXV)
    text = None if arguments is None else arguments.decode("utf-8", "surrogateescape")
    return CoreNotes(pid, name, parent, text, own, threads, files, vector, linux, bsd, [*_remarks(own), *remarks])


def _by_thread(notes: list[Note]) -> list[dict[tuple[bytes, int], Note]]:
    """Return the notes of each thread, which follow its status."""
    threads: list[dict[tuple[bytes, int], Note]] = []
    for note in notes:
        kind = note.owner, note.kind
        if kind == _STATUS:
            threads.append({})
        if threads and kind in _OF_THREADS:
            threads[-1].setdefault(kind, note)
    return threads


def _not_read(file: FileBacking, notes: list[Note]) -> list[str]:
    """Return whose notes are not read."""
    owners = {note.owner.partition(b"@")[0] for note in notes} - {*SYSTEMS, *_OWNERS}
    names = [printable(name.decode("utf-8", "replace")) or "nobody" for name in sorted(owners)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{file.path}: notes of {', '.join(names[:_SHOWN])}{more} are not read"] if names else []


def _unread(file: FileBacking, bsd: BsdNotes, header: Header) -> list[str]:
    """Return what of a BSD's notes is not read, in words."""
    found = []
    if bsd.unread:
        types = ", ".join(map(str, bsd.unread[:_SHOWN]))
        found.append(
            f"{file.path}: {len(bsd.unread)} types of notes are not known for {bsd.system}, and not read: {types}"
        )
    if bsd.threads and process_notes.architecture(header) not in INTEL:
        found.append(f"{file.path}: the registers of its threads are not read: its processor is {header.machine}")
    return found


def in_words(file: FileBacking, header: Header, known: CoreNotes) -> str:
    """Return who the process is, and its threads, as far as notes say; nothing if they do not."""
    tids = [str(thread.tid) for thread in threads_of(file, header, known)]
    more = f" and {len(tids) - _SHOWN} more" if len(tids) > _SHOWN else ""
    name = None if known.name is None else printable(known.name)
    words = [f"pid {known.pid}"] * (known.pid is not None) + [name] * (name is not None)
    words += [f"thread{'s' * (len(tids) > 1)} {', '.join(tids[:_SHOWN])}{more}"] * bool(tids)
    return ", ".join(word for word in words if word)


def auxiliary_vector(file: FileBacking, known: CoreNotes) -> bytes | None:
    """Return the program's auxiliary vector; None if the core has none of a likely size."""
    note = known.vector
    return file.read_there(note.offset, note.size) if note is not None and note.size <= _LONGEST_VECTOR else None


def core_metadata_of(file: FileBacking, header: Header, table: Records, known: CoreNotes) -> Metadata:
    """Return the regions and threads of a core; of one that memcarve wrote, what was known when it did."""
    threads = threads_of(file, header, known)
    if known.own is not None:
        return _noted(known.own, threads)
    files = None if known.files is None else process_notes.mapped_files(file, header, known.files)
    notes = () if files is not None or known.files is None else (f"{file.path}: its note NT_FILE is damaged; not used",)
    vdso = None if known.vector is None else _vdso(file, header, known.vector)
    loads = table[table["type"] == core_headers.LOAD]
    registers = [thread.registers for thread in threads if thread.registers]
    pointers = [next((each[name] for name in _POINTERS if name in each), 0) for each in registers]
    rows = _regions(loads, files, vdso, pointers)
    rows += _not_stored(rows, files or [])
    source = "PT_LOAD and NT_FILE" if files is not None else "PT_LOAD"
    if known.bsd is not None and known.bsd.mappings is not None:
        source, rows = "NT_PROCSTAT_VMMAP", [*map(_mapped_by_bsd, known.bsd.mappings)]
    return Metadata(
        (Regions(source, rows),),
        (),
        (SourceRows("NT_PRSTATUS" if known.bsd is None else f"notes of {known.bsd.system}", threads),)
        if threads
        else (),
        notes=notes,
        parameters=() if known.arguments is None else (Parameters("NT_PRPSINFO", known.arguments),),
    )


def threads_of(file: FileBacking, header: Header, known: CoreNotes) -> list[Thread]:
    """Return the threads as their notes have them."""
    if known.bsd is not None:
        return [_of_bsd(thread) for thread in known.bsd.threads]
    found = []
    for notes in known.threads:
        status = process_notes.status(file, header, notes)
        if status is not None:
            area = process_notes.floating(file, header, notes)
            fault = _fault(file, header, status.signal, notes.get(_SIGINFO))
            found.append(Thread(status.tid, registers=status.registers, floating=area, fault=fault))
    return found


def _of_bsd(thread: BsdThread) -> Thread:
    fault = Fault(thread.signal, None, thread.code, thread.address) if thread.signal else None
    name = None if thread.name is None else thread.name.decode("utf-8", "surrogateescape")
    return Thread(thread.tid, registers=thread.registers, floating=thread.floating, name=name, fault=fault)


def _mapped_by_bsd(mapping: BsdMapping) -> Region:
    """Return a region; what has no file and is not copied when it is written to may be shared."""
    file = None if mapping.file is None else mapping.file.decode("utf-8", "surrogateescape")
    word = "".join(letter if mapping.protection >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
    own = Kind.STACK if mapping.stack else Kind.PRIVATE if mapping.private else None
    kind = own if mapping.offset is None else Kind.MAPPED
    size, private = mapping.end - mapping.start, True if mapping.private or mapping.stack else None
    return Region(mapping.start, size, word, kind, file, None, private, mapping.offset)


def _fault(file: FileBacking, header: Header, number: int, note: Note | None) -> Fault | None:
    """Return the signal that stopped a thread; None if there was none: gcore writes notes of it for those that run."""
    data = b"" if note is None or note.size != process_notes.SIGINFO_SIZE else file.read_there(note.offset, note.size)
    if not any(data):
        return Fault(number) if number else None
    signal = process_notes.signal_info(data, header)
    return Fault(number or signal.number, None, signal.code, signal.address, siginfo=data)


def _regions(loads: Records, files: list[MappedFile] | None, vdso: int | None, pointers: Iterable[int]) -> list[Region]:
    """Return the regions: the PT_LOADs, cut where a mapped file begins or ends, in order of addresses.

    On Linux every mapping that is shared has a file, at least one without a name: what has none is private, but for
    what the kernel itself puts there: the virtual library at `vdso`, its data before it, and what lies in the upper
    half. If no file is known, nothing is known of that either.
    """
    mapped = sorted(files or [])
    begins = [row.start for row in mapped]
    held = sorted(set(pointers))
    rows: list[Region] = []
    columns = [np.maximum(loads["memsz"], loads["filesz"]) if name == "size" else loads[name] for name in _COLUMNS]
    for start, size, flags in sorted(zip(*(column.tolist() for column in columns), strict=True)):
        place, end, index = start, min(start + size, TOP), max(bisect_right(begins, start) - 1, 0)
        while place < end:
            while index < len(mapped) and mapped[index].end <= place:
                index += 1
            here = mapped[index] if index < len(mapped) and mapped[index].start <= place else None
            limit = here.end if here else mapped[index].start if index < len(mapped) else end
            row = Region(place, min(limit, end) - place, _WORDS[flags & 7])
            rows.append(_told(row, here, held) if files is not None else row)
            place = row.end
    return rows if vdso is None else _without_kernel(rows, vdso)


def _not_stored(rows: list[Region], files: Iterable[MappedFile]) -> list[Region]:
    """Return what of mapped files is in none of `rows`, which are in order: gdb leaves out what is in the file, too."""
    found: list[Region] = []
    done, index = 0, 0
    for here in sorted(files):
        place = max(here.start, done)
        while index < len(rows) and rows[index].end <= place:
            index += 1
        while place < here.end:
            load = rows[index] if index < len(rows) and rows[index].start < here.end else None
            end = here.end if load is None else load.start
            if end > place:
                row = Region(place, end - place)
                found.append(_told(row, here, []))
            if load is None:
                break
            place = max(place, load.end)
            index += load.end <= here.end
        done = max(done, here.end)
    return found


def _told(row: Region, here: MappedFile | None, pointers: list[int]) -> Region:
    """Return a region with its file, or as what it is without one."""
    if here is not None:
        name = here.name.decode("utf-8", "surrogateescape")
        return row._replace(kind=Kind.MAPPED, file=name, offset=here.offset + row.start - here.start)
    if row.start >= _UPPER:
        return row
    next_pointer = bisect_right(pointers, row.end - 1) - 1
    stack = next_pointer >= 0 and pointers[next_pointer] >= row.start
    return row._replace(kind=Kind.STACK if stack else Kind.PRIVATE, private=True)


def _without_kernel(rows: list[Region], vdso: int) -> list[Region]:
    """Return the regions; of those that the kernel itself put there it is not known what they are."""
    place = bisect_right([row.start for row in rows], vdso) - 1
    if place < 0 or vdso >= rows[place].end:
        return rows
    while True:
        here = rows[place] = rows[place]._replace(kind=None, private=None)
        place -= 1
        if place < 0 or rows[place][:3] != (rows[place].start, here.start - rows[place].start, "r--"):
            return rows
        if rows[place].file is not None:
            return rows


def _vdso(file: FileBacking, header: Header, note: Note) -> int | None:
    """Return where the auxiliary vector says that the kernel's virtual library lies (AT_SYSINFO_EHDR)."""
    dtype = np.dtype(f"{header.order}u{header.bits // 8}")
    data = file.read_there(note.offset, min(note.size, _LONGEST_VECTOR))
    pairs = np.frombuffer(data[: len(data) // (2 * dtype.itemsize) * 2 * dtype.itemsize], dtype).reshape(-1, 2)
    found = pairs[pairs[:, 0] == _SYSINFO_EHDR]
    return int(found[0, 1]) if len(found) else None


def _own(file: FileBacking, note: Note) -> Provenance:
    """Return what memcarve noted; nothing if that is damaged."""
    data = b"" if note.size > process_notes.LARGEST_OWN else file.read_there(note.offset, note.size)
    return Provenance.parse(data, "the core's note")


def _remarks(own: Provenance | None) -> list[str]:
    if own is None:
        return []
    if not own.document:
        return ["memcarve wrote the core, and its note is damaged: what it says of permissions is not used"]
    return [f"written by memcarve from {own.origin}"]


def _noted(own: Provenance, threads: list[Thread]) -> Metadata:
    """Return what memcarve noted of regions and so on: it stands there as in a folder's manifest.

    The x87 and SSE registers of `threads` are in their own notes alone, but for one that had others at a fault.
    """
    areas = {thread.tid: thread.floating for thread in threads}

    def filled(thread: Thread) -> Thread:
        apart = thread.floating is not None or (thread.fault is not None and thread.fault.floating is not None)
        return thread if apart else thread._replace(floating=areas.get(thread.tid))

    noted = own.metadata([own.document])
    return noted._replace(
        complete=member(own.document, "labels").get("complete") is not False,
        threads=tuple(each._replace(rows=[*map(filled, each.rows)]) for each in noted.threads),
    )
