"""Several processes carved into one folder, a folder each, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import MemcarveError, NoSpaceError, VerificationError
from memcarve.formats import manifest
from memcarve.sinks.folder import NewFolder, create_file, foreign, leftover_notes
from memcarve.sinks.segments import CarveResult, Options, carve
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import Container, ProcessEntry
    from memcarve.sinks.work import Progress


class Outcome(NamedTuple):
    """How one process ended: a result, or the message of what went wrong."""

    entry: ProcessEntry
    folder: str
    result: CarveResult | None
    error: str | None


class SeveralResult(NamedTuple):
    """How each process ended, and notes for the user."""

    outcomes: list[Outcome]
    notes: list[str]


def carve_several(
    container: Container,
    indexes: Sequence[int],
    out: str | os.PathLike[str],
    options: Options,
    *,
    progress: Progress | None = None,
) -> SeveralResult:
    """Carve the processes at `indexes` into folders in the new folder `out`; one that fails does not stop the others.

    Raises NoSpaceError as soon as the disk is full, the first one's error where all of them fail, TargetExistsError,
    OutputError.
    """
    entries = container.processes()
    outcomes: list[Outcome] = []
    first: MemcarveError | None = None
    inner = options._replace(force=False)
    with NewFolder(os.fspath(out), force=options.force, foreign=foreign) as folder:
        taken: set[str] = set()
        for index in indexes:
            name = _folder_name(entries[index], index, taken)
            try:
                result = carve(container.open_process(index), os.path.join(folder.path, name), inner, progress=progress)
            except NoSpaceError:
                raise
            except MemcarveError as error:
                first = first or error
                message = str(error).replace(folder.path, folder.name)
                outcomes.append(Outcome(entries[index], name, None, message))
            else:
                outcomes.append(Outcome(entries[index], name, result, None))
        if first is not None and all(outcome.result is None for outcome in outcomes):
            raise first
        with os.fdopen(create_file(os.path.join(folder.path, manifest.PROCESSES), None), "w", encoding="utf-8") as file:
            json.dump(_document(outcomes), file, indent=1)
            file.write("\n")
    return SeveralResult(outcomes, leftover_notes(folder))


def carved_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the carved folders in `folder`: itself, or those of the processes that were carved into it.

    Raises VerificationError where they are not those that ``processes.json`` lists.
    """
    top = os.fspath(folder)
    path = os.path.join(top, manifest.PROCESSES)
    if not os.path.lexists(path):
        return [top]
    names = manifest.processes(path)
    if names is None:
        raise VerificationError(f"{path}: is not what memcarve writes")
    inside = sorted(entry for entry in os.listdir(top) if entry != manifest.PROCESSES)
    different = sorted(set(names) ^ set(inside))
    if different:
        raise VerificationError(f"{top}: {different[0]}: is listed in {manifest.PROCESSES} or lies there, but not both")
    folders = [os.path.join(top, entry) for entry in inside]
    for entry in folders:
        if os.path.islink(entry) or not os.path.isdir(entry):
            raise VerificationError(f"{entry}: is no folder that memcarve carved")
    return folders


def _document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "schema": manifest.SCHEMA,
        "tool": manifest.TOOL,
        "version": __version__,
        "processes": [
            {
                "pid": outcome.entry.pid,
                "name": outcome.entry.name,
                "folder": outcome.folder if outcome.result else None,
                "segments": outcome.result.segments if outcome.result else None,
                "bytes": outcome.result.bytes if outcome.result else None,
                "complete": outcome.result.complete if outcome.result else False,
                "error": outcome.error,
            }
            for outcome in outcomes
        ],
    }


def _folder_name(entry: ProcessEntry, index: int, taken: set[str]) -> str:
    """Return ``4-System``; the name comes from a hostile machine, so nothing but plain characters stays of it."""
    words = [str(entry.pid)] if entry.pid is not None else [f"process-{index + 1}"]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", entry.name or "")[:60].strip(".")
    name = "-".join([*words, plain] if plain else words)
    while name.lower() in taken:
        name += "+"
    taken.add(name.lower())
    return name
