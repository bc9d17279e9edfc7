"""Several processes carved into one folder, a folder each, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.copying import StoppedError
from memcarve.errors import MemcarveError, NoSpaceError, VerificationError
from memcarve.formats import manifest
from memcarve.sinks.folder import NewFolder, create_file, foreign, leftover_notes
from memcarve.sinks.segments import CarveResult, Options, carve
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from memcarve.process import Container, ProcessEntry
    from memcarve.sinks.work import Progress


_WORKERS = 16


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

    Several are carved at once. Raises NoSpaceError as soon as the disk is full, the first one's error where all of them
    fail, TargetExistsError, OutputError.
    """
    entries = container.processes()
    with NewFolder(os.fspath(out), force=options.force, foreign=foreign) as folder:
        taken: set[str] = set()
        names = [folder_name(entries[index], index, taken) for index in indexes]
        work = _Several(container, folder, options._replace(force=False), _Sum(progress, len(indexes)))
        outcomes, first = work.run(indexes, names)
        if first is not None and all(outcome.result is None for outcome in outcomes):
            raise first
        with os.fdopen(create_file(os.path.join(folder.path, manifest.PROCESSES), None), "w", encoding="utf-8") as file:
            json.dump(_document(outcomes), file, indent=1)
            file.write("\n")
    return SeveralResult(outcomes, leftover_notes(folder))


class _Several:
    """Carves processes by a pool of threads: the kernel copies and hashes without holding the interpreter."""

    def __init__(self, container: Container, folder: NewFolder, options: Options, progress: _Sum) -> None:
        self.container = container
        self.folder = folder
        self.options = options
        self.progress = progress
        self.stop = threading.Event()
        self.half = options.selection.range or container.default_range

    def run(self, indexes: Sequence[int], names: Sequence[str]) -> tuple[list[Outcome], MemcarveError | None]:
        """Return how each ended, and the first error."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only for several processes

        entries = self.container.processes()
        workers = min(os.cpu_count() or 1, len(indexes), _WORKERS)
        outcomes: list[Outcome] = []
        first: MemcarveError | None = None
        with ThreadPoolExecutor(workers) as pool:
            try:
                futures = [
                    pool.submit(self._carve, number, index, name, max(2 // workers, 1))
                    for number, (index, name) in enumerate(zip(indexes, names, strict=True))
                ]
                for future, index, name in zip(futures, indexes, names, strict=True):
                    try:
                        outcomes.append(Outcome(entries[index], name, _wait(future), None))
                    except (NoSpaceError, StoppedError):
                        full = next(filter(None, map(_full, futures)), None)
                        if full is None:
                            raise
                        # the folder within says that nothing was kept, as the one around it will
                        raise NoSpaceError(self._outside(full).split("; ")[0]) from None
                    except MemcarveError as error:
                        first = first or error
                        outcomes.append(Outcome(entries[index], name, None, self._outside(error)))
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return outcomes, first

    def _outside(self, error: MemcarveError) -> str:
        """Return the message of an error, with the name that the folder is to get."""
        return str(error).replace(self.folder.path, self.folder.name)

    def _carve(self, number: int, index: int, name: str, threads: int) -> CarveResult:
        if self.stop.is_set():
            raise StoppedError
        process = self.container.open_process(index, self.half)
        out = os.path.join(self.folder.path, name)
        try:
            return carve(
                process, out, self.options, progress=self.progress.part(number), threads=threads, stop=self.stop
            )
        except NoSpaceError:
            self.stop.set()
            raise


def _wait(future: Future[CarveResult]) -> CarveResult:
    """Wait for a result in steps, so that a signal is noticed."""
    while True:
        try:
            return future.result(timeout=0.2)
        except TimeoutError:
            if future.done():
                raise


def _full(future: Future[CarveResult]) -> NoSpaceError | None:
    """Return the error of a process for which the disk had no room, once it has ended."""
    error = None if future.cancelled() else future.exception()
    return error if isinstance(error, NoSpaceError) else None


class _Sum:
    """Adds up the progress of processes that are carved at the same time; those to come are thought alike."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self._progress = progress
        self._count = count
        self._parts: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def part(self, number: int) -> Progress | None:
        """Return what the process with this number is to tell its progress."""
        progress = self._progress
        if progress is None:
            return None

        def told(done: int, total: int) -> None:
            with self._lock:
                self._parts[number] = done, total
                parts = list(self._parts.values())
                progress(
                    sum(part[0] for part in parts), sum(part[1] for part in parts) * self._count // max(len(parts), 1)
                )

        return told


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
                **outcome.entry.facts(),
            }
            for outcome in outcomes
        ],
    }


def folder_name(entry: ProcessEntry, index: int, taken: set[str]) -> str:
    """Return ``4-System``; the name comes from a hostile machine, so nothing but plain characters stays of it."""
    words = [str(entry.pid)] if entry.pid is not None else [f"process-{index + 1}"]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", entry.name or "")[:60].strip(".")
    name = "-".join([*words, plain] if plain else words)
    while name.lower() in taken:
        name += "+"
    taken.add(name.lower())
    return name
