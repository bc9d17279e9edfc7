"""What export and extract wrote, held against its own document: names, lengths, hashes, sums."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking
from memcarve.copying.output_file import BUFFER
from memcarve.errors import InputError, encodable
from memcarve.formats import manifest
from memcarve.formats.elf_core import core_headers
from memcarve.formats.memmap import MemoryMap
from memcarve.hashing import hash_of
from memcarve.sinks.sink import Result
from memcarve.sinks.verify import own_document
from memcarve.sinks.verify.document_check import own_faults, shown
from memcarve.sinks.verify.faults import Faults
from memcarve.sinks.verify.written_again import compare_written

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.process import Labeller, ProcessMemory, Progress, Selection
    from memcarve.sinks.verify.own_document import Own

    #: finds modules: ``memcarve.find_modules``
    Find = Callable[[ProcessMemory, Selection], Any]

_BYTE = re.compile("[0-9a-f]{2}")


def check_output(
    path: str,
    source: ProcessMemory | None,
    labelling: Callable[[str], Labeller] | None,
    find: Find | None,
    temp: str | os.PathLike[str] | None,
    progress: Progress | None,
    seal: str | None,
) -> Result:
    """Check what lies at a path; raises VerificationError, InputError."""
    begun = time.monotonic()
    own = own_document.find(path)
    faults = Faults(path)
    if seal is not None:
        _check_seal(own, faults, seal)
    damaged = []
    if own.what != own_document.MEMMAP:
        damaged = [*own_faults(own.document, own.what)]
        faults.add_all(damaged, f"{own.sealed}: ")
    what, count, size, hashed = _CHECKS[own.what](own, faults)
    notes: list[str] = []
    if source is not None and not damaged:
        again = compare_written(own, source, labelling, find, temp, faults, progress)
        if again is not None:  # it knows what it counts, which not every output says
            what, count, size = again.what, again.count, again.bytes
    elif own.what in (own_document.CORE, own_document.MINIDUMP) and seal is None:
        notes.append(f"{path}: holds no hash of its bytes; its seal or its source tells whether they changed")
    faults.check()
    return Result(
        files=(path,),
        what=what,
        count=count,
        bytes=size,
        complete=True,
        seconds=time.monotonic() - begun,
        hashes=("sha256",) if hashed or seal is not None else (),
        compared=source is not None,
        notes=notes,
    )


def _check_seal(own: Own, faults: Faults, seal: str) -> None:
    if own.archive:
        with own.reader() as members:
            _, found = _measured(members, own.sealed)
        if found != seal:
            faults.add(f"{own.sealed}: its SHA-256 is {found}, and the seal is {seal}")
        return
    with FileBacking(own.sealed_path) as file:
        faults.check_seal(file, seal, own.sealed)


def _modules(own: Own, faults: Faults) -> tuple[str, int, int, bool]:
    """Check the files of modules, their list and their sums."""
    rows = own.document.get("modules")
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not isinstance(rows, list) or len(listed) != len(rows):
        faults.add(f"{own.sealed}: modules is damaged")
    files = [row for row in listed if row.get("file") is not None]
    sums = {"modules": len(listed), "files": len(files)}
    for name in ("bytes", "missing_bytes"):
        sums[name] = sum(row[name] for row in files if type(row.get(name)) is int)
    found = own.document.get("totals")
    totals = found if isinstance(found, dict) else {}
    for name, value in sums.items():
        if type(totals.get(name)) is not int or totals[name] != value:
            faults.add(f"{own.sealed}: says {shown(totals.get(name))} {name} in total, and lists {value}")
    with own.reader() as members:
        left = members.names()
        lines = [line for row in files if (line := _module(members, left, row, own.sealed, faults))]
        left.pop(own.sealed, None)
        _check_sums(members, left, lines, own.sealed, faults)
        for name in sorted(left):
            faults.add(f"{name}: is not in {own.sealed}")
    return "module", len(files), sums["bytes"], True


def _module(
    members: own_document.Members, left: dict[str, str | None], row: dict[str, Any], sealed: str, faults: Faults
) -> str | None:
    """Check one module's file; return its line in the file of checksums."""
    name = row["file"]
    if not isinstance(name, str) or not manifest.MODULE_FILE.fullmatch(name):
        faults.add(f"{sealed}: {shown(name)} is not the name of a module's file")
        return None
    resident, missing = row.get("resident"), row.get("missing_bytes")
    if type(resident) is not int or type(missing) is not int or resident < 0 or missing < 0:
        faults.add(f"{name}: says {shown(resident)} bytes in memory and {shown(missing)} that are not")
    _check_file(members, left, name, row.get("bytes"), row.get("sha256"), faults)
    return f"{row.get('sha256')}  {name}\n"


def _check_sums(
    members: own_document.Members, left: dict[str, str | None], lines: list[str], sealed: str, faults: Faults
) -> None:
    """Check that the file of checksums says what the list says, and take it from those that are `left`."""
    name = manifest.SUMS["sha256"]
    if name not in left:
        faults.add(f"{name}: is missing")
    elif _said(left, name, faults):
        expected = "".join([*lines, f"{_measured(members, sealed)[1]}  {sealed}\n"]).encode()
        with members.open(name) as file:
            if file.read(len(expected) + 1) != expected:
                faults.add(f"{name}: does not say what {sealed} says")
    left.pop(name, None)


def _measured(members: own_document.Members, name: str) -> tuple[int, str]:
    """Return the length and the SHA-256 of a file."""
    count, digest = 0, hashlib.sha256()
    with members.open(name) as file:
        while data := file.read(BUFFER):
            count += len(data)
            digest.update(data)
    return count, digest.hexdigest()


def _said(left: dict[str, str | None], name: str, faults: Faults) -> bool:
    """Return True if a file is one; note it otherwise."""
    problem = left.get(name)
    if problem is not None:
        faults.add(f"{name}: {problem}")
    return problem is None


def _check_file(
    members: own_document.Members, left: dict[str, str | None], name: str, size: object, digest: object, faults: Faults
) -> bool:
    """Check that a file is there, its length and its SHA-256, and take it from those that are `left`."""
    if name not in left:
        faults.add(f"{name}: is missing, or is listed twice")
        return False
    sound = _said(left, name, faults)
    del left[name]
    if not sound:
        return False
    count, found = _measured(members, name)
    if size is not None and (type(size) is not int or size != count):
        faults.add(f"{name}: is {count} bytes long, not {shown(size)}")
    elif found != digest:
        faults.add(f"{name}: its sha256 is not the one in the list")
    return True


def _scripts(own: Own, faults: Faults) -> tuple[str, int, int, bool]:
    """Check the scripts and their table."""
    rows, listed = own.document.get("rows"), own.document.get("names")
    names: list[Any] = listed if isinstance(listed, list) else []
    size, end = 0, 0
    original = own.document.get("original")
    length = original.get("size") if isinstance(original, dict) else None
    for row in rows if isinstance(rows, list) else []:
        try:
            start, count, offset, _, name = row
            sound = type(count) is int and count > 0 and int(start, 16) >= end and type(offset) is int
            sound = sound and 0 <= offset <= length - count and 0 <= name < len(names)
            end = int(start, 16) + count
        except (ValueError, TypeError):
            sound = False
        if not sound:
            faults.add(f"{own.sealed}: a row is damaged, out of order or outside the file: {shown(row)}")
            continue
        size += count
    files = own.document.get("files")
    hashes = files if isinstance(files, dict) else {}
    with own.reader() as members:
        left = members.names()
        left.pop(own.sealed, None)
        for name, digest in hashes.items():
            if name in left and digest is None:
                del left[name]
            else:
                _check_file(members, left, name, None, digest, faults)
        for name in sorted(left) if own.document.get("schema") != 1 else ():
            faults.add(f"{name}: is not in {own.sealed}")
    return "range", len(rows) if isinstance(rows, list) else 0, size, any(hashes.values())


def _flat(own: Own, faults: Faults) -> tuple[str, int, int, bool]:
    """Check a flat file, and what lies in its gaps."""
    document = own.document
    size, written = document.get("size"), document.get("bytes")
    if document.get("file") != encodable(os.path.basename(own.path)):
        faults.add(f"{own.sealed}: is about {shown(document.get('file'))}")
    gaps = _gaps(document)
    filled = None if gaps is None else sum(end - start for start, end in gaps)
    if gaps is None or document.get("filled_bytes") != filled:
        faults.add(f"{own.sealed}: says {shown(document.get('filled_bytes'))} filled_bytes, and lists {filled}")
    elif type(size) is not int or type(written) is not int or written + (filled or 0) != size:
        faults.add(f"{own.sealed}: {shown(written)} bytes and {filled} in gaps are not its {shown(size)}")
    parts = [document.get(name) for name in ("missing_bytes", "unselected_bytes", "repeated_bytes")]
    if any(type(part) is not int or part < 0 or part > (filled or 0) for part in parts):
        faults.add(f"{own.sealed}: says {shown(parts)} bytes missing, unselected and repeated, of {filled} in gaps")
    with FileBacking(own.path, follow=True) as file:
        if file.size != size:
            faults.add(f"{os.path.basename(own.path)}: is {file.size} bytes long, not {shown(size)}")
        elif document.get("sha256") is not None and hash_of(file) != document["sha256"]:
            faults.add(f"{os.path.basename(own.path)}: its sha256 is not the one in {own.sealed}")
        elif gaps:
            fill = document.get("fill")
            if fill is None or (isinstance(fill, str) and _BYTE.fullmatch(fill)):
                _check_gaps(file, gaps, int(document["start"], 16), int(fill or "0", 16), faults)
            else:
                faults.add(f"{own.sealed}: fill: is {shown(fill)}, which memcarve does not write")
    return "range", 1, written if type(written) is int else 0, document.get("sha256") is not None


def _gaps(document: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Return the ranges that are filled, None if they are damaged, out of order or outside."""
    found, begin = [], 0
    try:
        begin, last = int(document["start"], 16), int(document["end"], 16)
        if last - begin != document["size"]:
            return None
        for start, end in document.get("filled", ()):
            low, high = int(start, 16), int(end, 16)
            if not begin <= low < high <= last:
                return None
            found.append((low, high))
            begin = high
    except (ValueError, TypeError, KeyError):
        return None
    return found


def _check_gaps(file: FileBacking, gaps: list[tuple[int, int]], start: int, byte: int, faults: Faults) -> None:
    for low, high in gaps:
        place, end = low - start, high - start
        while place < end:
            place = max(place, file.next_written(place)) if not byte else place
            data = file.read_at(place, min(BUFFER, end - place))
            if place < end and np.any(np.frombuffer(data, np.uint8) != byte):
                faults.add(f"0x{low:x}-0x{high:x}: is said to be filled with {byte:02x}, and holds something else")
                return
            place += max(len(data), 1)


def _core(own: Own, faults: Faults) -> tuple[str, int, int, bool]:
    """Check that a core is as long as its headers say."""
    with FileBacking(own.path) as file:
        header = core_headers.read_header(file)
        if header is None:
            raise InputError("is not a core", subject=own.path)
        table, notes = core_headers.program_headers(file, header)
        faults.add_all(notes)
        loads = table[table["type"] == core_headers.LOAD]
        ends = (loads["offset"].astype(np.uint64) + loads["filesz"].astype(np.uint64)).tolist()
        if ends and max(ends) != file.size:
            faults.add(f"is {file.size} bytes long, and its headers say {max(ends)}")
        return "range", len(loads), int(loads["filesz"].sum()), False


def _minidump(own: Own, faults: Faults) -> tuple[str, int, int, bool]:  # noqa: ARG001 - as the others
    with FileBacking(own.path) as file:
        return "file", 1, file.size, False


def _memmap(own: Own, faults: Faults) -> tuple[str, int, int, bool]:
    """Check that both files are there: nothing in them says what they must be."""
    dump = f"{own.path.removesuffix('.map')}.dmp"
    with MemoryMap(own.path) as table, FileBacking(dump, follow=False) as file:
        rows = sum(len(block.size) for block in table.rows())
        if rows and not file.size and not faults.count:
            faults.add(f"{os.path.basename(dump)}: is empty, and its map has {rows} rows")
        return "row", rows, file.size, False


_CHECKS: dict[str, Callable[[Own, Faults], tuple[str, int, int, bool]]] = {
    own_document.MODULES: _modules,
    own_document.SCRIPT: _scripts,
    own_document.FLAT: _flat,
    own_document.CORE: _core,
    own_document.MINIDUMP: _minidump,
    own_document.MEMMAP: _memmap,
}
