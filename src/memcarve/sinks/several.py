"""Several processes carved into one folder, a folder each, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import MemcarveError, VerificationError
from memcarve.formats import manifest
from memcarve.sinks.folder import NewFolder, create_file
from memcarve.sinks.segments import CarveResult, Options, carve, foreign
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import Container, ProcessEntry
    from memcarve.sinks.work import Progress

NAME = "processes.json"


class Outcome(NamedTuple):
    """How one process ended: a result, or the message of what went wrong."""

    entry: ProcessEntry
    folder: str
    result: CarveResult | None
    error: str | None


def carve_several(
    container: Container,
    indexes: Sequence[int],
    out: str | os.PathLike[str],
    options: Options,
    *,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Carve the processes at `indexes` into folders in the new folder `out`; one that fails does not stop the others.

    Raises the first one's error where all of them fail, TargetExistsError, OutputError.
    """
    entries = container.processes()
    outcomes: list[Outcome] = []
    first: MemcarveError | None = None
    inner = options._replace(force=False)
    with NewFolder(os.fspath(out), force=options.force, foreign=_foreign) as folder:
        taken: set[str] = set()
        for index in indexes:
            name = _folder_name(entries[index], index, taken)
            try:
                result = carve(container.open_process(index), os.path.join(folder.path, name), inner, progress=progress)
            except MemcarveError as error:
                first = first or error
                message = str(error).replace(folder.path, folder.name)
                outcomes.append(Outcome(entries[index], name, None, message))
            else:
                outcomes.append(Outcome(entries[index], name, result, None))
        if first is not None and all(outcome.result is None for outcome in outcomes):
            raise first
        with os.fdopen(create_file(os.path.join(folder.path, NAME), None), "w", encoding="utf-8") as file:
            json.dump(_document(outcomes), file, indent=1)
            file.write("\n")
    return outcomes


def carved_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the carved folders in `folder`: itself, or those of the processes that were carved into it.

    Raises VerificationError where something else lies between them.
    """
    top = os.fspath(folder)
    if not os.path.isfile(os.path.join(top, NAME)):
        return [top]
    inside = sorted(entry for entry in os.listdir(top) if entry != NAME)
    for entry in inside:
        path = os.path.join(top, entry)
        if os.path.islink(path) or not os.path.isdir(path):
            raise VerificationError(f"{top}: {entry}: is no folder that memcarve carved")
    return [os.path.join(top, entry) for entry in inside]


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


def _foreign(folder: str) -> str | None:
    """Say what in a folder of several processes memcarve did not write; None where all of it is its own."""
    entries = sorted(os.listdir(folder))
    if NAME not in entries:
        return foreign(folder)
    for entry in entries:
        path = os.path.join(folder, entry)
        if entry == NAME:
            continue
        if os.path.islink(path) or not os.path.isdir(path):
            return f"holds {entry}, which memcarve did not write"
        problem = foreign(path)
        if problem:
            return f"{entry} {problem}"
    return None
