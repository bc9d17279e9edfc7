"""Modules of several processes: a folder, or an archive, of each, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import MemcarveError, NoSpaceError
from memcarve.formats import manifest
from memcarve.sinks import archive, extract
from memcarve.sinks.folder import NewFolder, create_file, leftover_notes
from memcarve.sinks.several import folder_name
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.process import Container, ProcessEntry, ProcessMemory
    from memcarve.sinks.extract import ExtractResult

    #: extracts the modules of a process into a folder or archive of this path
    One = Callable[[ProcessMemory, str], ExtractResult]

_ENDINGS = {False: "", True: ".zip"}


class Extracted(NamedTuple):
    """How one process ended: what its folder or archive is called, and a result or the message of what went wrong."""

    entry: ProcessEntry
    name: str
    result: ExtractResult | None
    error: str | None


class SeveralExtracted(NamedTuple):
    """How each process ended, and notes for the user."""

    outcomes: list[Extracted]
    notes: list[str]


def extract_several(
    container: Container,
    indexes: Sequence[int],
    out: str | os.PathLike[str],
    one: One,
    *,
    half: str | None = None,
    packed: bool = False,
    force: bool = False,
) -> SeveralExtracted:
    """Have `one` extract the processes at `indexes` into the new folder `out`; one that fails does not stop the others.

    Each gets a folder in it, or an archive if they are `packed`; `half` is that of their memory which is opened. Raises
    NoSpaceError as soon as the disk is full, the first one's error where all of them fail, TargetExistsError,
    OutputError.
    """
    outcomes: list[Extracted] = []
    first: MemcarveError | None = None
    taken: Counter[str] = Counter()
    with NewFolder(os.fspath(out), force=force, foreign=foreign, inputs=[str(container)]) as folder:
        for index in indexes:
            name = folder_name(container.entry(index), index, taken) + _ENDINGS[packed]
            try:
                process = container.open_process(index, half or container.default_half)
                result = one(process, os.path.join(folder.path, name))
            except NoSpaceError as error:
                # what is within says that nothing was kept, as the folder around it will
                raise NoSpaceError(_outside(folder, str(error)).split("; ")[0]) from None
            except MemcarveError as error:
                first = first or error
                outcomes.append(Extracted(container.entry(index), name, None, _outside(folder, str(error))))
            else:
                notes = [*process.warnings, *result.notes]
                result = result._replace(path=os.path.join(folder.name, name), notes=notes)
                outcomes.append(Extracted(container.entry(index), name, result, None))
        if first is not None and all(outcome.result is None for outcome in outcomes):
            first.subject, first.problem = _outside(folder, first.subject), _outside(folder, first.problem)
            raise first
        with os.fdopen(create_file(os.path.join(folder.path, manifest.PROCESSES), None), "w", encoding="utf-8") as file:
            json.dump(_document(outcomes), file, indent=1)
            file.write("\n")
    return SeveralExtracted(outcomes, leftover_notes(folder))


def foreign(folder: str) -> str | None:
    """Say what in an existing folder memcarve did not write; None where all of it is extracted modules, or nothing."""
    with os.scandir(folder) as found:
        entries = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in found}
    if not entries:
        return None
    if manifest.processes(os.path.join(folder, manifest.PROCESSES)) is None:
        return f"holds no {manifest.PROCESSES} that memcarve wrote"
    for name in sorted(entries.keys() - {manifest.PROCESSES}):
        path, mode = os.path.join(folder, name), entries[name]
        problem = extract.foreign(path) if stat.S_ISDIR(mode) else None
        if problem:
            return f"{name} {problem}"
        if not stat.S_ISDIR(mode) and not (stat.S_ISREG(mode) and archive.is_own(path)):
            return f"holds {name}, which memcarve did not write"
    return None


def _outside(folder: NewFolder, message: str) -> str:
    """Return a message with the name that the folder is to get."""
    return message.replace(folder.path, folder.name)


def _document(outcomes: Sequence[Extracted]) -> dict[str, Any]:
    return {
        "schema": manifest.SCHEMA,
        "tool": manifest.TOOL,
        "version": __version__,
        "processes": [
            {
                "pid": outcome.entry.pid,
                "name": outcome.entry.name,
                "folder": outcome.name if outcome.result else None,
                "modules": outcome.result.modules if outcome.result else None,
                "files": outcome.result.files if outcome.result else None,
                "bytes": outcome.result.bytes if outcome.result else None,
                "complete": outcome.result.complete if outcome.result else False,
                "error": outcome.error,
                **outcome.entry.facts(),
            }
            for outcome in outcomes
        ],
    }
