"""Several processes written into one folder, each by itself, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from memcarve import provenance
from memcarve.copying.copier import StoppedError
from memcarve.errors import MemcarveError, NoSpaceError, UsageError, VerificationError
from memcarve.formats import manifest
from memcarve.process import ProcessEntry
from memcarve.sinks.final_name import NewFolder, buffered, write_text
from memcarve.sinks.input_hash import hashed_before
from memcarve.sinks.several_sums import chained, sums
from memcarve.sinks.sink import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from memcarve.process import Container, ProcessMemory, Progress
    from memcarve.sinks.sink import SinkOptions

    #: writes one process to a path, into the folder of all
    One = Callable[[ProcessMemory, str, SinkOptions, Progress], Result]
    #: what one process is called in the folder: of the entry, its place, and the names that are taken
    Named = Callable[[ProcessEntry, int, Counter[str]], str]

_WORKERS = 16
_Error = TypeVar("_Error", bound=MemcarveError)


def folder_name(entry: ProcessEntry, index: int, taken: Counter[str]) -> str:
    """Return ``4-System``; the name comes from a hostile machine, so nothing but plain characters stays of it."""
    words = [str(entry.pid)] if entry.pid is not None else [f"process-{index + 1}"]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", entry.name or "")[:60].strip(".")
    name = "-".join([*words, plain] if plain else words)
    taken[name.lower()] += 1
    again = taken[name.lower()]
    return name if again == 1 else f"{name}+{again}"  # no plain name holds a plus


def write_several(
    container: Container,
    indexes: Sequence[int],
    out: str | os.PathLike[str],
    one: One,
    options: SinkOptions,
    *,
    half: str | None = None,
    named: Named = folder_name,
    at_once: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the processes at `indexes` into the new folder `out` by `one`; one that fails does not stop the others.

    `half` is the half of their memory that is opened. `at_once`: several at a time. Raises NoSpaceError as soon as the
    disk is full, the first one's error, which names it, if all of them fail, TargetExistsError, OutputError.
    """
    begun = time.monotonic()
    with NewFolder(out, force=options.force, inputs=[str(container)]) as folder:
        taken: Counter[str] = Counter()
        names = [named(container.entry(index), index, taken) for index in indexes]
        workers = min(os.cpu_count() or 1, len(names), _WORKERS) if at_once else 1
        each = replace(options, force=False, threads=(1 if workers > 1 else 2) if at_once else None)
        work = _Several(container, folder, one, each, progress, list(zip(indexes, names, strict=True)))
        work.half = half or container.default_half
        parts, first = work.run(workers)
        done = [part for part in parts if part.error is None]
        if first is not None and not done:
            others = f"; the other {len(parts) - 1} failed, too" if len(parts) > 1 else ""
            first.problem = f"{first.problem} (process {parts[0].entry}{others})"
            raise first
        document = provenance.written("processes", options.record(begun)) | {"hashes": list(options.hashes)}
        seals = [chained(folder.path, part, hashed="sha256" in options.hashes) for part in parts]
        rows = (_row(part, seal) for part, seal in zip(parts, seals, strict=True))
        text = "".join(provenance.lines(document, processes=rows))
        write_text(folder, manifest.PROCESSES, [text])
        for kind in options.hashes:
            known = {name: digest for found in seals for name, digest in found.items()} if kind == "sha256" else {}
            files = [file for part in parts for file in part.files]
            with buffered(folder, manifest.SUMS[kind]) as file:
                for line in sums(folder.path, kind, files, known, text.encode()):
                    file.write(line)
    return Result(
        files=(folder.name,),
        what="process",
        count=len(done),
        of=len(parts),
        bytes=sum(part.bytes for part in done),
        complete=len(done) == len(parts) and all(part.complete for part in done) and not container.unreadable,
        seconds=time.monotonic() - begun,
        hashes=options.hashes,
        notes=[*container.warnings, *folder.notes],
        seal=hashlib.sha256(text.encode()).hexdigest(),
        sealed=manifest.PROCESSES,
        parts=tuple(
            replace(part, files=tuple(os.path.join(folder.name, file) for file in part.files)) for part in parts
        ),
    )


class _Several:
    """Writes processes in copies of this program, each on a processor of its own, or in threads.

    Copies are better: what Python does for many small segments holds up the other threads. They are made by forking,
    if nothing else is running here that a copy would lack; the container must be one that can be used in them.
    """

    half = "all"
    _in_copies = False

    def __init__(
        self,
        container: Container,
        folder: NewFolder,
        one: One,
        options: SinkOptions,
        progress: Progress | None,
        tasks: Sequence[tuple[int, str]],
    ) -> None:
        self.container = container
        self.folder = folder
        self.one = one
        self.options = options
        self.tasks = tasks
        self._progress = progress
        # seen by copies, too: whether to stop, and of each process the bytes that are done and those in all
        self._shared = np.frombuffer(mmap.mmap(-1, 8 * (1 + 2 * len(tasks))), np.uint64)
        stored = container.stored  # what all of them are in is hashed once
        if stored is None and options.input_sha256 is not None and len(tasks) > 1:
            raise UsageError(
                "holds each process in files of its own, and one SHA-256 was stated",
                subject=str(container),
                remedy="leave {input_sha256} out, or take one process",
            )
        self._hashed = None if stored is None else stored.path
        self._input_hash = {} if stored is None else hashed_before(stored, options)

    def run(self, workers: int) -> tuple[list[Result], MemcarveError | None]:
        """Return how each ended, its files as they are called in the folder, and the first error."""
        results: list[Result] = []
        first: MemcarveError | None = None
        self._in_copies = self.container.can_be_forked and workers > 1
        while len(results) < len(self.tasks):
            for result in self._some(range(len(results), len(self.tasks)), workers):
                index, _ = self.tasks[len(results)]
                entry = self.container.entry(index)
                if isinstance(result, Result):
                    files = tuple(os.path.relpath(file, self.folder.path) for file in result.files)
                    results.append(replace(result, files=files, entry=entry))
                else:
                    first = first or result
                    failed = Result((), "", 0, 0, complete=False, seconds=0.0, entry=entry, error=result)
                    results.append(failed)
            # a copy was ended from outside: the others are done one at a time, which tells whose it was
            workers = 1
            if self._in_copies:
                self._remove_others(results)
        return results, first

    def _some(self, numbers: Sequence[int], workers: int) -> Iterator[Result | MemcarveError]:
        """Yield how processes ended, in order; no more after a copy was ended from outside."""
        from concurrent.futures import BrokenExecutor  # not for one process

        pool, futures = self._begun(workers, numbers)
        try:
            for future in futures:
                try:
                    yield self._wait(future)
                except (NoSpaceError, StoppedError):
                    full = next(filter(None, map(_full, futures)), None)
                    if full is None:
                        raise
                    raise self._outside(full) from None
                except MemcarveError as error:
                    yield self._outside(error)
                except BrokenExecutor:
                    if workers == 1:
                        yield MemcarveError("the system ended what wrote it; was there not enough memory?")
                    return
                except MemoryError:
                    yield MemcarveError("there was not enough memory to write it")
                except OSError as error:
                    yield MemcarveError(f"{error.filename or 'the system'}: {error.strerror or error}")
        except BaseException:
            self._shared[0] = 1
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _remove_others(self, results: Sequence[Result]) -> None:
        """Remove from the folder what no result names: what copies wrote before all of them were ended."""
        named = {file.split(os.sep)[0] for result in results for file in result.files}
        for entry in os.scandir(self.folder.path):
            if entry.name not in named:
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)

    def write(self, number: int) -> Result:
        """Write one of the processes."""
        index, name = self.tasks[number]

        def told(done: int, total: int) -> None:
            if self._shared[0]:
                raise StoppedError
            self._shared[1 + 2 * number : 3 + 2 * number] = done, total

        told(0, 0)
        process = self.container.process(index=index, half=self.half)
        for each in process.inputs.values():
            if isinstance(each, dict) and each.get("path") == self._hashed:
                each.update(self._input_hash)
        try:
            result = self.one(process, os.path.join(self.folder.path, name), self.options, told)
        except NoSpaceError:
            self._shared[0] = 1
            raise
        return replace(result, notes=[*process.warnings, *result.notes])

    def _begun(self, workers: int, numbers: Sequence[int]) -> tuple[Executor, list[Future[Result]]]:
        """Begin to write processes; return what runs `_write_one`, and what will come of each.

        If the system has no descriptors or processes left for copies, they are written one at a time.
        """
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # not for one process

        alone = threading.active_count() == 1 and hasattr(os, "fork")
        if self._in_copies and alone:
            import multiprocessing

            others = set(multiprocessing.active_children())
            try:
                context = multiprocessing.get_context("fork")
                copies = ProcessPoolExecutor(workers, context, _begin, (self, os.getpid()))
                return copies, [copies.submit(_write_one, number) for number in numbers]
            except OSError:
                # the pool forgets the copies that it made before it failed: they would wait for work for ever, and the
                # interpreter for them when it ends
                for copy in set(multiprocessing.active_children()) - others:
                    copy.kill()
                    copy.join()
                workers = 1
        self._in_copies = False
        threads = ThreadPoolExecutor(workers, initializer=_begin, initargs=(self, 0))
        return threads, [threads.submit(_write_one, number) for number in numbers]

    def _wait(self, future: Future[Result]) -> Result:
        """Wait for a result in steps, so that a signal is noticed; tell the progress meanwhile."""
        while True:
            try:
                return future.result(timeout=0.2)
            except TimeoutError:
                if future.done():
                    raise
            if self._progress is not None:
                done, total = self._shared[1::2].tolist(), self._shared[2::2].tolist()
                # those that have not begun are assumed to be like those that have
                begun = sum(1 for size in total if size) or 1
                self._progress(sum(done), sum(total) * len(total) // begun)

    def _outside(self, error: _Error) -> _Error:
        """Return an error with the name that the folder is to get; the folder around it says what was kept."""
        error.subject, error.problem = (
            text.replace(self.folder.path, self.folder.name) for text in (error.subject, error.problem)
        )
        error.state = ""
        return error


_worker = threading.local()


def _begin(several: _Several, parent: int) -> None:
    """Prepare a worker; `parent` is the number of the program it is a copy of, 0 for a thread."""
    _worker.write = several.write
    if parent:
        for name in ("SIGINT", "SIGHUP"):  # the program that they are meant for tells the copies to stop
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        # so are copies ended that wait for a lock which one that was killed had
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this copy when the program that made it has been killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _write_one(number: int) -> Result:
    result: Result = _worker.write(number)
    return result


def _full(future: Future[Result]) -> NoSpaceError | None:
    """Return the error of a process for which the disk had no room, once it has ended."""
    error = None if future.cancelled() else future.exception()
    return error if isinstance(error, NoSpaceError) else None


def _row(part: Result, seals: Mapping[str, str]) -> str:
    """Return how a process ended, as JSON; `seals` are the SHA-256 of what stands for all that was written of it."""
    entry = part.entry or ProcessEntry(None, None)
    row = {
        "pid": entry.pid,
        "name": entry.name,
        "files": list(part.files),
        "what": part.what or None,
        "count": None if part.error else part.count,
        **({"of": part.of} if part.what == "module" else {}),
        "bytes": None if part.error else part.bytes,
        "complete": part.complete,
        "error": None if part.error is None else str(part.error),
        "sha256": seals,
        **entry.facts(),
    }
    return json.dumps(row)


def carved_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the carved folders in `folder`: itself, or those of the processes that were carved into it.

    Raises VerificationError if they are not those that ``processes.json`` lists.
    """
    top = os.fspath(folder)
    path = os.path.join(top, manifest.PROCESSES)
    if not os.path.lexists(path):
        return [top]
    names = manifest.processes(path)
    if names is None:
        raise VerificationError(f"{path}: is not what memcarve writes")
    if not names:
        raise VerificationError(f"{path}: lists no folder, so there is nothing to check")
    beside = {manifest.PROCESSES, *manifest.SUMS.values()}
    inside = sorted(entry for entry in os.listdir(top) if entry not in beside)
    different = sorted(set(names) ^ set(inside))
    if different:
        raise VerificationError(f"{top}: {different[0]}: is listed in {manifest.PROCESSES} or lies there, but not both")
    folders = [os.path.join(top, entry) for entry in inside]
    for entry in folders:
        if os.path.islink(entry) or not os.path.isdir(entry):
            raise VerificationError("is not a carved folder", subject=entry, remedy="give what `carve` wrote")
    return folders
