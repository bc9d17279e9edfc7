"""A folder of several processes: all that is listed is there, as listed, and nothing else; those chosen are listed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.backing import FileBacking, kind_of
from memcarve.errors import InputError, MemcarveError, VerificationError
from memcarve.formats import manifest, partial_mark
from memcarve.formats.json_text import dumps
from memcarve.hashing import hash_of
from memcarve.sinks.several_sums import sums
from memcarve.sinks.verify.document_check import own_faults, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.process import Container
    from memcarve.sinks.sink import Result
    from memcarve.sinks.verify.faults import Faults

_FACTS = ("pid", "name", "parent", "created", "exited", "root", "object", "image_base", "peb", "wow64", "state")
#: of a row, what is not about the process itself
_OF_WRITING = {"files", "what", "count", "of", "bytes", "complete", "error", "sha256", "folder", "segments"}


class Listed(NamedTuple):
    """What ``processes.json`` says: its header, and a row for each process."""

    document: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def paths(self) -> list[str]:
        """The first of each process's files: what says the most about it."""
        return [str(row["files"][0]) for row in self.rows if row.get("files")]


def is_several(path: str) -> bool:
    """Return True if a folder holds several processes, or a part of them: an interrupted run's raises InputError."""
    if not os.path.isdir(path):
        return False
    mark = partial_mark.of(path)
    if mark is not None:
        raise VerificationError(mark.problem, subject=path, remedy="{resume} of what wrote it goes on")
    return os.path.lexists(os.path.join(path, manifest.PROCESSES))


def check_list(top: str, faults: Faults, seal: str | None = None) -> Listed:
    """Check the list of processes, what lies beside it, and the hashes that it has of each; note what is wrong.

    Raises InputError if it is not one that memcarve wrote, VerificationError if it lists nothing.
    """
    path = os.path.join(top, manifest.PROCESSES)
    listed = _read(path)
    if seal is not None:
        with FileBacking(path, follow=False) as file:
            faults.check_seal(file, seal, manifest.PROCESSES)
    faults.add_all(own_faults(listed.document, "processes"), f"{manifest.PROCESSES}: ")
    names = [str(name) for row in listed.rows for name in row["files"]]
    if not names:
        raise VerificationError(f"{path}: lists no folder, so there is nothing to check")
    with os.scandir(top) as entries:
        modes = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    hashes = listed.document.get("hashes")
    kinds = [kind for kind in manifest.SUMS if isinstance(hashes, list) and kind in hashes]
    beside = {manifest.PROCESSES, *(manifest.SUMS[kind] for kind in kinds)}
    for name in sorted(modes.keys() ^ {*names, *beside}):
        what = "lies there, and is not listed" if name in modes else "is listed, and is not there"
        faults.add(f"{name[:120]}: {what}")
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.add(f"{name}: is listed twice")
    for name in sorted({*names} & modes.keys()):
        if not stat.S_ISDIR(modes[name]) and not stat.S_ISREG(modes[name]):
            faults.add(f"{name}: is {kind_of(modes[name])}, not a folder or a regular file")
    for row in listed.rows:
        faults.add_all(_row_faults(row, listed.document), f"{manifest.PROCESSES}: {_called(row)}: ")
        _check_hashes(top, row, faults)
    if not faults.count:
        _check_sums(top, listed, kinds, faults)
    return listed


def _read(path: str) -> Listed:
    document = manifest.document(path)
    rows = document.pop("processes", None)
    if document.get("schema") not in manifest.SCHEMAS or not isinstance(rows, list):
        raise InputError("is not what memcarve writes", subject=path)
    found = []
    for row in rows:
        if not isinstance(row, dict):
            raise InputError("is not what memcarve writes", subject=path)
        if document["schema"] == 1:
            folder = row.get("folder")
            row = {**row, "files": [] if folder is None else [folder]}  # noqa: PLW2901
        names = row.get("files")
        if not isinstance(names, list) or not all(partial_mark.is_plain(name) for name in names):
            raise InputError(f"lists {shown(names)}, which are no names of files here", subject=path)
        found.append(row)
    return Listed(document, found)


def _called(row: dict[str, Any]) -> str:
    return f"process {row.get('pid')} {shown(row.get('name'))}"


def _row_faults(row: dict[str, Any], document: dict[str, Any]) -> Iterable[str]:
    """Yield what a row says that cannot be."""
    if document.get("schema") == 1:
        return
    failed = row.get("error") is not None
    if failed != (not row["files"]):
        yield f"error is {shown(row.get('error'))}, and files are {shown(row['files'])}"
    for name in ("count", "bytes"):
        value = row.get(name)
        if (value is None) != failed or not (value is None or (type(value) is int and value >= 0)):
            yield f"{name} is {shown(value)}"
    if not isinstance(row.get("complete"), bool) or (failed and row["complete"]):
        yield f"complete is {shown(row.get('complete'))}"
    hashes = row.get("sha256")
    wanted = bool(document.get("hashes")) and not failed
    if not isinstance(hashes, dict) or (wanted and not hashes) or (failed and hashes):
        yield f"sha256 is {shown(hashes)}"


def _check_hashes(top: str, row: dict[str, Any], faults: Faults) -> None:
    """Hold the hash of each process's own list, or file, against it: so one list vouches for all."""
    hashes = row.get("sha256")
    for name, digest in hashes.items() if isinstance(hashes, dict) else ():
        parts = name.split("/")
        if len(parts) > 2 or not all(map(partial_mark.is_plain, parts)) or parts[0] not in row["files"]:  # noqa: PLR2004
            faults.add(f"{manifest.PROCESSES}: {shown(name)} is not a file of {_called(row)}")
            continue
        try:
            with FileBacking(os.path.join(top, *parts), follow=False) as file:
                found = hash_of(file)
        except InputError as error:
            faults.add(str(error))
            continue
        if found != digest:
            faults.add(f"{name}: its SHA-256 is not the one in {manifest.PROCESSES}")


def _check_sums(top: str, listed: Listed, kinds: Iterable[str], faults: Faults) -> None:
    """Check that the files of checksums name every file in all folders, with its hash."""
    with FileBacking(os.path.join(top, manifest.PROCESSES), follow=False) as file:
        data = file.read_at(0, file.size)
    files = [name for row in listed.rows for name in row["files"]]
    for kind in kinds:
        known = {name: digest for row in listed.rows for name, digest in row["sha256"].items()}
        name = manifest.SUMS[kind]
        try:
            expected = b"".join(sums(top, kind, files, known if kind == "sha256" else {}, data))
            with FileBacking(os.path.join(top, name), follow=False) as file:
                if file.read_at(0, file.size) != expected:
                    faults.add(f"{name}: does not say what lies there")
        except (MemcarveError, OSError) as error:
            faults.add(f"{name}: cannot be compared: {error}")


def check_part(row: dict[str, Any], document: dict[str, Any], found: Result) -> Iterable[str]:
    """Yield how a row differs from the document of what it lists, and from what was found there.

    What an export counts is known only if it was compared with its source.
    """
    process = document.get("process")
    own = process if isinstance(process, dict) else {}
    for name in _FACTS:
        if name in row and name in own and _typed(row[name]) != _typed(own[name]):
            yield f"{name}: is {shown(row[name])}, and its own document says {shown(own[name])}"
    counted: dict[str, Any] = {}
    if found.compared or found.what in ("segment", "module"):
        counted = {"what": found.what, "count": found.count, "bytes": found.bytes}
    modules = document.get("modules")
    if found.what == "module" and isinstance(modules, list):
        counted["of"] = len(modules)
    for name, value in counted.items():
        if _typed(row.get(name)) != _typed(value) and (name in row or "count" in row):
            yield f"{name}: is {shown(row.get(name))}, and should be {shown(value)}"
    if "complete" in document and row.get("complete") != document["complete"]:
        yield f"complete: is {shown(row.get('complete'))}, and its own document says {shown(document['complete'])}"


def check_selected(listed: Listed, container: Container, faults: Faults) -> list[str]:
    """Hold the processes that are listed against those that the recorded choice chooses in the source.

    Return notes for the user: if a program made the choice, it cannot be made again.
    """
    selected = listed.document.get("selected")
    if not isinstance(selected, dict):
        return ["which processes were wanted is not recorded: that none was removed is not known"]
    try:
        if selected.get("all") is True:
            indexes = container.certain()
        else:
            indexes = container.choose([int(pid) for pid in selected.get("pid") or ()], selected.get("name"))
    except (MemcarveError, ValueError, TypeError, AttributeError) as error:
        faults.add(f"{manifest.PROCESSES}: selected: cannot be chosen in the source: {error}")
        return []
    entries = [container.entry(index) for index in indexes]
    chosen = [{"pid": entry.pid, "name": entry.name, **entry.facts()} for entry in entries]
    expected = [_facts(one) for one in chosen]
    found = [_facts(row) for row in listed.rows]
    for one, facts in zip(chosen, expected, strict=True):
        if facts not in found:
            faults.add(f"{manifest.PROCESSES}: {_called(one)} is in the source, and not listed as it is there")
    for row, facts in zip(listed.rows, found, strict=True):
        if facts not in expected:
            faults.add(f"{manifest.PROCESSES}: {_called(row)} is not one that was chosen in the source")
    if sorted(expected) == sorted(found) and expected != found:
        faults.add(f"{manifest.PROCESSES}: its processes are not in the order of the source")
    return []


def _facts(row: dict[str, Any]) -> str:
    """Return all that a row says of the process itself."""
    return _typed({name: value for name, value in row.items() if name not in _OF_WRITING})


def _typed(value: object) -> str:
    """Return a value so that 1, 1.0 and true differ."""
    return dumps(value, sort_keys=True)
