"""Whether memcarve wrote what exists already: only that may be replaced."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from memcarve.backing import FileBacking, open_regular
from memcarve.errors import InputError, encodable
from memcarve.formats import manifest, partial_mark
from memcarve.formats.elf_core import core_headers
from memcarve.formats.minidump import structures
from memcarve.hashing import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

#: what a map and an archive say of who wrote them
MARK = b"written by memcarve "
#: what lies beside a flat file and tells of it
FLAT = "flat"
#: the table that scripts read
SCRIPTS = "memory.json"
_SCRIPTS_TABLE = re.compile(rb'\{\n "schema": \d+,\n "tool": "memcarve",\n "what": "scripts",\n')
#: how a report begins, its document, and its picture as SVG and PNG (behind the chunk IHDR)
_REPORT = re.compile(
    rb'<!DOCTYPE html>\n<!-- written by memcarve |\{\n "schema": \d+,\n "kind": "memcarve-report",\n'
    rb'|<svg xmlns="http://www\.w3\.org/2000/svg"[^>\n]*>\n<!-- written by memcarve '
    rb"|\x89PNG\r\n\x1a\n.{25}.{4}tEXtSoftware\0written by memcarve ",
    re.DOTALL,
)
_LARGEST = 1 << 28
_BANNER = 200
_LONGEST_SUM = 1 << 12
#: a line of a file of checksums; the first group is there if the name holds what must be escaped
_SUM = re.compile(rb"(\\)?(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})  (.+)\n")
_HEAD = 4096  # what of a file is looked at to tell who wrote it
#: how a name ends as long as what has it is being built, or is moved aside; tempfile puts eight letters before it
BUILT, REPLACED = ".incomplete", ".replaced"
LONGEST_BUILT = 100  # characters of a name that stand in such a name
_LEFT = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}(?:{re.escape(BUILT)}|{re.escape(REPLACED)})", re.DOTALL)


def left_of(entry: str) -> str | None:
    """Return the name of what a run that was killed has left, or another is writing now, as `entry`; None if nothing.

    Of a name as long as a name can be it is the beginning.
    """
    found = _LEFT.fullmatch(entry)
    return None if found is None else found[1]


def foreign(path: str, beside: str | None = None) -> str | None:
    """Return what at a path memcarve did not write; None if all of it is memcarve's own, or a folder is empty.

    A file that itself cannot say so has one `beside` it that does. Links are not followed.
    """
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        return _foreign_inside(path, _LISTING)
    if stat.S_ISREG(mode):
        with contextlib.suppress(InputError, OSError, ValueError, RecursionError):
            if any(own(path) for own in (_is_minidump, _is_core, _is_map, _is_archive, _is_report)) or _flat(path):
                return None
            if beside is not None and _describes(beside, path):
                return None
    return "exists, and does not say that memcarve wrote it"


def _foreign_inside(folder: str, known: Iterable[str]) -> str | None:
    """Say the same of what is in a folder, which must hold one of the `known` lists.

    ``processes.json`` lists whatever somebody wrote into it: the files that it lists must be memcarve's themselves.
    Beside its mark of being partial may lie what was being built.
    """
    with os.scandir(folder) as entries:
        status = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    if not status:
        return None
    name = next((name for name in known if name in status and stat.S_ISREG(status[name].st_mode)), None)
    if name is None:
        return f"holds no {', '.join(known)} that memcarve wrote"
    try:
        listed = _LISTING[name](os.path.join(folder, name))
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"holds a {name} that memcarve did not write"
    built = {each[:LONGEST_BUILT] for each in listed}
    for entry in sorted(status.keys() - {name}, key=lambda entry: (entry in manifest.SUMS.values(), entry)):
        if name == partial_mark.NAME and (entry == manifest.PROCESSES or left_of(entry) in built):
            continue
        problem = _foreign_entry(os.path.join(folder, entry), status[entry], name, listed)
        if problem is not None:
            return problem
    return None


def _foreign_entry(path: str, status: os.stat_result, name: str, listed: Collection[str]) -> str | None:
    """Say the same of one thing in a folder, whose list, called `name`, has `listed`."""
    entry = os.path.basename(path)
    if name in _OF_SEVERAL and stat.S_ISDIR(status.st_mode):
        problem = foreign_part(path)
        return None if problem is None else f"{entry} {problem}"
    if not stat.S_ISREG(status.st_mode) or not _is_own(path, name, listed):
        return f"holds {entry}, which memcarve did not write"
    if isinstance(listed, dict) and listed[entry] not in (None, status.st_size):
        return f"holds {entry}, which is not as long as {name} says"
    sums = name in _SEALED and entry in manifest.SUMS.values()
    if sums and not _ends_with_sum(path, os.path.join(os.path.dirname(path), name)):
        return f"holds {entry}, which is not about its {name}"
    return None


#: lists whose own hash is the last line of each file of checksums
_SEALED = (manifest.NAME, manifest.MODULES)


def _ends_with_sum(sums: str, listing: str) -> bool:
    """Return True if the last line of a file of checksums is about a list: somebody wrote both together."""
    kind = next(kind for kind, name in manifest.SUMS.items() if name == os.path.basename(sums))
    with FileBacking(listing, follow=False) as file:
        digest = hash_of(file, kind)
    expected = f"{digest}  {os.path.basename(listing)}\n".encode()
    with FileBacking(sums, follow=False) as file:
        return file.read_at(max(file.size - len(expected), 0), len(expected)) == expected


def _is_own(path: str, name: str, listed: Collection[str]) -> bool:
    """Return True if a regular file is what the list of a folder, called `name`, says that it is."""
    entry = os.path.basename(path)
    if name not in _OF_SEVERAL:
        return entry in listed
    if entry in manifest.SUMS.values():
        return _is_sums_of(path, listed)
    return entry in listed and foreign_part(path) is None


def foreign_part(path: str) -> str | None:
    """Say the same of what lies in a folder of several processes; a file may have any beside it that says so."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        return _foreign_inside(path, [name for name in _LISTING if name not in _OF_SEVERAL])
    if any(foreign(path, beside) is None for beside in _beside(path)):
        return None
    return "does not say that memcarve wrote it"


def _beside(path: str) -> Iterator[str]:
    """Yield what may lie beside a file and say that memcarve wrote it."""
    yield f"{path}.json"
    yield f"{path.removesuffix('.dmp')}.map"


def _is_sums_of(path: str, listed: Collection[str]) -> bool:
    """Return True if every line of a file of checksums is about what ``processes.json`` lists, or about itself."""
    names = {os.fsencode(name) for name in (*listed, manifest.PROCESSES)}
    with open_regular(path) as lines:
        while line := lines.readline(_LONGEST_SUM):
            found = _SUM.fullmatch(line)
            if found is None or not (found[1] or found[2].partition(b"/")[0] in names):
                return False
    return True


def names_in_partial(mark: partial_mark.Mark) -> set[str]:
    """Return what may be in a folder that is partial: what was wanted, and what lies beside files."""
    names = {*mark.names, *mark.files}
    maps = {f"{name.removesuffix('.dmp')}.{ending}" for name in names for ending in ("map", "csv", "json", "jsonl")}
    return names | maps | {f"{name}.json" for name in names} | {manifest.PROCESSES, *manifest.SUMS.values()}


def _partial(path: str) -> set[str]:
    return names_in_partial(partial_mark.read(path))


def _processes(path: str) -> set[str]:
    found = manifest.processes(path)
    if found is None:
        raise ValueError(path)
    return set(found)


def _segments(path: str) -> dict[str, int | None]:
    """Return the files that are listed, with their lengths, if they are named by their addresses."""
    _, records = manifest.read(path)
    found: dict[str, int | None] = dict.fromkeys(manifest.SUMS.values())
    for record in records:
        named = manifest.FILE_NAME.fullmatch(record.file)
        if named and (int(named[1], 16), int(named[2], 16)) == (record.start, record.end):
            found[record.file] = record.size
    return found


def _modules(path: str) -> dict[str, int | None]:
    found: dict[str, int | None] = {manifest.SUMS["sha256"]: None}
    for row in manifest.document(path)["modules"]:
        if row["file"] is not None and manifest.MODULE_FILE.fullmatch(row["file"]):
            found[row["file"]] = int(row["bytes"])
    return found


def _scripts(path: str) -> set[str]:
    if not _SCRIPTS_TABLE.match(_head(path)):
        raise ValueError(path)
    return {"README.txt", "map.r2", "map.rz", *(f"map_{name}.py" for name in ("binja", "gdb", "ghidra", "ida"))}


#: by what a folder says what is in it: what returns the names of its files, or raises
_LISTING: dict[str, Callable[[str], set[str] | dict[str, int | None]]] = {
    partial_mark.NAME: _partial,
    manifest.PROCESSES: _processes,
    manifest.NAME: _segments,
    manifest.MODULES: _modules,
    SCRIPTS: _scripts,
}
_OF_SEVERAL = (partial_mark.NAME, manifest.PROCESSES)


def _is_minidump(path: str) -> bool:
    """Return True if a file is a minidump whose comment, behind the directory, says that memcarve wrote it."""
    data = _head(path)
    if not data.startswith(structures.MAGIC) or len(data) < structures.HEADER.size:
        return False
    place = structures.HEADER.size + structures.DIRECTORY.size * structures.HEADER.unpack_from(data)[2]
    return data.startswith(structures.MARK, place + -place % 8)


def _is_core(path: str) -> bool:
    """Return True if a file is an ELF core whose first note is memcarve's."""
    with FileBacking(path, follow=False) as file:
        header = core_headers.read_header(file)
        if header is None:
            return False
        table, _ = core_headers.program_headers(file, header)
        first = next(core_headers.read_notes(file, header, table[:1]), None)
    return first is not None and (first.owner, first.kind) == (core_headers.OWNER, core_headers.PROVENANCE)


def _is_map(path: str) -> bool:
    """Return True if a file is a memory map whose banner says that memcarve wrote it."""
    line = _head(path)[:_BANNER].partition(b"\n")[0]
    return line.startswith(b"Volatility 3 Framework") and MARK in line


def _is_archive(path: str) -> bool:
    """Return True if an archive says that memcarve wrote it, and holds nothing but what memcarve puts into one."""
    zipfile = importlib.import_module("zipfile")  # imports more than all that is written needs
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names, marked = set(archive.namelist()), archive.comment.startswith(MARK)
    except (NotImplementedError, zipfile.BadZipFile):
        return False
    own = {manifest.MODULES, manifest.SUMS["sha256"]}
    return marked and own <= names and all(manifest.MODULE_FILE.fullmatch(name) for name in names - own)


def _is_report(path: str) -> bool:
    """Return True if a file is a report, its document or its picture, which say so at their beginning."""
    return _REPORT.match(_head(path)) is not None


def _flat(path: str) -> dict[str, Any]:
    """Return what memcarve wrote beside a flat file; nothing if it is something else."""
    with contextlib.suppress(InputError, ValueError, RecursionError), FileBacking(path, follow=False) as file:
        if file.read_at(0, 1) == b"{":
            found = json.loads(file.read_at(0, min(file.size, _LARGEST)))
            if isinstance(found, dict) and (found.get("tool"), found.get("what")) == ("memcarve", FLAT):
                return found
    return {}


def _describes(beside: str, path: str) -> bool:
    """Return True if a file that memcarve wrote is about another: a map, or a document with its name and length."""
    found = _flat(beside)
    return (found.get("file"), found.get("size")) == (
        encodable(os.path.basename(path)),
        os.path.getsize(path),
    ) or _is_map(beside)


def _head(path: str) -> bytes:
    with FileBacking(path, follow=False) as file:
        return file.read_at(0, _HEAD)
