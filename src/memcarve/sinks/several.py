"""Several processes carved into one folder, a folder each, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.copying.copier import Copier, StoppedError
from memcarve.errors import MemcarveError, NoSpaceError, VerificationError
from memcarve.formats import manifest
from memcarve.sinks.carved_folder import CarveResult, Options, carve
from memcarve.sinks.folder import NewFolder, create_file, foreign, leftover_notes
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor, Future

    from memcarve.process import Container, ProcessEntry
    from memcarve.sinks.segment_writer import Progress


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
    with NewFolder(os.fspath(out), force=options.force, foreign=foreign, inputs=[str(container)]) as folder:
        taken: Counter[str] = Counter()
        names = [folder_name(container.entry(index), index, taken) for index in indexes]
        work = _Several(
            container, folder, options._replace(force=False), progress, list(zip(indexes, names, strict=True))
        )
        outcomes, first = work.run()
        if first is not None and all(outcome.result is None for outcome in outcomes):
            raise first
        with os.fdopen(create_file(os.path.join(folder.path, manifest.PROCESSES), None), "w", encoding="utf-8") as file:
            json.dump(_document(outcomes), file, indent=1)
            file.write("\n")
    return SeveralResult(outcomes, leftover_notes(folder))


class _Several:
    """Carves processes in copies of this program, each on a processor of its own, or in threads.

    Copies are better: what Python does for many small segments holds up the other threads. They are made by forking,
    where nothing else is running here that a copy would lack; the container must be one that can be used in them.
    """

    def __init__(
        self,
        container: Container,
        folder: NewFolder,
        options: Options,
        progress: Progress | None,
        tasks: Sequence[tuple[int, str]],
    ) -> None:
        self.container = container
        self.folder = folder
        self.options = options
        self.tasks = tasks
        self.half = options.selection.half or container.default_half
        self._progress = progress
        # seen by copies, too: whether to stop, and of each process the bytes that are done and those in all
        self._shared = np.frombuffer(mmap.mmap(-1, 8 * (1 + 2 * len(tasks))), np.uint64)

        self._input_sha256 = self._hash_input()

    def run(self) -> tuple[list[Outcome], MemcarveError | None]:
        """Return how each ended, and the first error."""
        outcomes: list[Outcome] = []
        first: MemcarveError | None = None
        workers = min(os.cpu_count() or 1, len(self.tasks), _WORKERS)
        while len(outcomes) < len(self.tasks):
            ended = len(outcomes)
            for result in self._some(range(ended, len(self.tasks)), workers):
                index, name = self.tasks[len(outcomes)]
                if isinstance(result, CarveResult):
                    outcomes.append(Outcome(self.container.entry(index), name, result, None))
                else:
                    first = first or result
                    outcomes.append(Outcome(self.container.entry(index), name, None, self._outside(result)))
            workers = 1  # a copy was ended from outside: the others are done one at a time
        return outcomes, first

    def _some(self, numbers: Sequence[int], workers: int) -> Iterator[CarveResult | MemcarveError]:
        """Yield how processes ended, in order: all of them, or up to the first whose copy was ended from outside."""
        from concurrent.futures import BrokenExecutor  # not for one process

        pool = self._pool(workers)
        try:
            futures = [pool.submit(_carve_one, number) for number in numbers]
            for future in futures:
                try:
                    yield self._wait(future)
                except (NoSpaceError, StoppedError):
                    full = next(filter(None, map(_full, futures)), None)
                    if full is None:
                        raise
                    # the folder within says that nothing was kept, as the one around it will
                    raise NoSpaceError(self._outside(full).split("; ")[0]) from None
                except MemcarveError as error:
                    yield error
                except BrokenExecutor:
                    yield MemcarveError("the system ended what carved it; was there not enough memory?")
                    return
                except MemoryError:
                    yield MemcarveError("there was not enough memory to carve it")
                except OSError as error:
                    yield MemcarveError(f"{error.filename or 'the system'}: {error.strerror or error}")
        except BaseException:
            self._shared[0] = 1
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def carve(self, number: int, threads: int) -> CarveResult:
        """Carve one of the processes."""
        if self._stopped():
            raise StoppedError
        index, name = self.tasks[number]
        process = self.container.open_process(index, self.half)
        out = os.path.join(self.folder.path, name)

        def told(done: int, total: int) -> None:
            self._shared[1 + 2 * number : 3 + 2 * number] = done, total

        try:
            result = carve(
                process,
                out,
                self.options,
                progress=told,
                threads=threads,
                stopped=self._stopped,
                input_sha256=self._input_sha256,
            )
        except NoSpaceError:
            self._shared[0] = 1
            raise
        return result._replace(notes=[*process.warnings, *result.notes])

    def _hash_input(self) -> str | None:
        """Hash what all the processes are in, once."""
        file = self.container.stored
        if not self.options.hash_input or file is None:
            return None
        digest = hashlib.sha256()
        Copier(self._stopped).read(file, 0, file.size, digest.update)
        return digest.hexdigest()

    def _pool(self, workers: int) -> Executor:
        """Return what runs `_carve_one`."""
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # not for one process

        alone = threading.active_count() == 1 and hasattr(os, "fork")
        threads = 1 if workers > 1 else 2
        if self.container.can_be_forked and alone and workers > 1:
            import multiprocessing

            context = multiprocessing.get_context("fork")
            return ProcessPoolExecutor(workers, context, _begin, (self, threads, os.getpid()))
        return ThreadPoolExecutor(workers, initializer=_begin, initargs=(self, threads, 0))

    def _stopped(self) -> bool:
        return bool(self._shared[0])

    def _wait(self, future: Future[CarveResult]) -> CarveResult:
        """Wait for a result in steps, so that a signal is noticed; tell the progress meanwhile."""
        while True:
            try:
                return future.result(timeout=0.2)
            except TimeoutError:
                if future.done():
                    raise
            if self._progress is not None:
                done, total = self._shared[1::2].tolist(), self._shared[2::2].tolist()
                # those that have not begun are thought like those that have
                begun = sum(1 for size in total if size) or 1
                self._progress(sum(done), sum(total) * len(total) // begun)

    def _outside(self, error: MemcarveError) -> str:
        """Return the message of an error, with the name that the folder is to get."""
        return str(error).replace(self.folder.path, self.folder.name)


_worker = threading.local()


def _begin(several: _Several, threads: int, parent: int) -> None:
    """Prepare a worker; `parent` is the number of the program it is a copy of, 0 for a thread."""
    _worker.task = several.carve, threads
    if parent:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # whom they are meant for tells the copies to stop
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this copy when the program that made it has been killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _carve_one(number: int) -> CarveResult:
    carve_number, threads = _worker.task
    result: CarveResult = carve_number(number, threads)
    return result


def _full(future: Future[CarveResult]) -> NoSpaceError | None:
    """Return the error of a process for which the disk had no room, once it has ended."""
    error = None if future.cancelled() else future.exception()
    return error if isinstance(error, NoSpaceError) else None


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


def folder_name(entry: ProcessEntry, index: int, taken: Counter[str]) -> str:
    """Return ``4-System``; the name comes from a hostile machine, so nothing but plain characters stays of it."""
    words = [str(entry.pid)] if entry.pid is not None else [f"process-{index + 1}"]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", entry.name or "")[:60].strip(".")
    name = "-".join([*words, plain] if plain else words)
    taken[name.lower()] += 1
    again = taken[name.lower()]
    return name if again == 1 else f"{name}+{again}"  # no plain name holds a plus
