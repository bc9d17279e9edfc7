"""Several processes written into one folder, each by itself, with ``processes.json`` telling how each ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import threading
import time
from collections import Counter
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from memcarve import forking, provenance
from memcarve.copying.copier import StoppedError
from memcarve.errors import InputError, MemcarveError, NoSpaceError, UsageError, VerificationError
from memcarve.formats import manifest, partial_mark
from memcarve.formats.json_text import dumps
from memcarve.process import ProcessEntry
from memcarve.remote.objects import objects_of
from memcarve.sinks.input_hash import hash_all, hashed_before
from memcarve.sinks.input_identity import identities, identity, same_input
from memcarve.sinks.object_output import check_options
from memcarve.sinks.objects_of_several import ObjectsOfSeveral
from memcarve.sinks.partial_folder import PartialFolder
from memcarve.sinks.several_parts import check_part
from memcarve.sinks.sink import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

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
    chosen: Mapping[str, Any] | None = None,
    selected: Mapping[str, Any] | None = None,
    room: Callable[[ProcessMemory], int] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write the processes at `indexes` into the new folder `out` by `one`; one that fails does not stop the others.

    `half` is the half of their memory that is opened. `at_once`: several at a time.

    Until all are done the folder holds ``processes.json.partial``. If the run is stopped, or the disk is full, those
    that are whole stay, and ``options.resume`` goes on: with the same input, processes and options, of which `chosen`
    are those that `one` knows of by itself, ready for JSON. What is there is verified first. `selected` says how the
    processes were chosen (``all``, ``pid``, ``name``), which is recorded, so that `verify` can choose them again; None
    if a program did. `room` says how many bytes a process takes, for the error if the disk is full.

    Raises NoSpaceError if the disk is full, once all that fit are written; the first one's error, which names it, if
    all of them fail; TargetExistsError, OutputError; VerificationError if `resume` finds what is not as recorded.
    """
    begun = time.monotonic()
    if options.force and options.resume:
        raise UsageError("{force} begins anew, {resume} goes on", remedy="give one of them")
    taken: Counter[str] = Counter()
    names = [named(container.entry(index), index, taken) for index in indexes]
    objects = objects_of(out, folder=True)
    at_once = at_once and objects is None  # objects are sent at once as it is
    workers = min(os.cpu_count() or 1, len(names), _WORKERS) if at_once else 1
    each = replace(options, force=False, resume=False, threads=(1 if workers > 1 else 2) if at_once else None)
    half = half or container.default_half
    # what all of them are in is hashed once
    stored = container.stored
    if stored is None and options.input_sha256 is not None and len(names) > 1:
        raise UsageError(
            "holds each process in files of its own, and one SHA-256 was stated",
            subject=str(container),
            remedy="leave {input_sha256} out, or take one process",
        )

    def begin() -> dict[str, Any]:
        hashed = {} if stored is None else {stored.path: hashed_before(stored, options)}
        if options.hash_input:
            hash_all(container.page_files, threading.Event())
        hashed |= {file.path: dict(file.hashed) for file in container.page_files}
        return {
            **provenance.written("processes", options.record(begun)),
            "state": "partial",
            "inputs": identities([container.path, *hashed], hashed),
            "options": {"half": half, **_recorded(options), "chosen": dict(chosen or {})},
            "processes": [
                {"pid": entry.pid, "name": entry.name, "file": name, **entry.facts()}
                for entry, name in zip(map(container.entry, indexes), names, strict=True)
            ],
        }

    folder: PartialFolder | ObjectsOfSeveral
    if objects is None:
        folder = PartialFolder(out, begin, options, inputs=[str(container)])
    else:
        check_options(objects, options)
        folder = ObjectsOfSeveral(objects, begin, force=options.force, inputs=[str(container)])
    with folder:
        work = _Several(container, folder, one, each, progress, list(zip(indexes, names, strict=True)))
        work.half, work.hashed = half, folder.head["inputs"]
        try:
            parts, first = work.run(workers, work.verified() if options.resume else {})
        except NoSpaceError:
            folder.room = work.room(room)
            raise
        done = [part for part in parts if part.error is None]
        if first is not None and not done:
            others = f"; the other {len(parts) - 1} failed, too" if len(parts) > 1 else ""
            first.problem = f"{first.problem} (process {parts[0].entry}{others})"
            raise first
        document = provenance.written("processes", options.record(begun))
        document |= {"hashes": list(options.hashes), "selected": selected}
        after = folder.mark()
        document["runs"] = [*after.runs[:-1], {**after.runs[-1], "end": document["run"]["end"]}]
        rows = [after.rows[number]["row"] if number in after.rows else _row(part) for number, part in enumerate(parts)]
        data = "".join(provenance.lines(document, processes=map(dumps, rows))).encode("ascii")
        folder.put(manifest.PROCESSES, [data])
        for kind in options.hashes:
            known = {name: digest for row in rows for name, digest in row["sha256"].items()} if kind == "sha256" else {}
            files = [file for part in parts for file in part.files]
            folder.put(manifest.SUMS[kind], folder.sums(kind, files, known, data))
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
        seal=hashlib.sha256(data).hexdigest(),
        sealed=manifest.PROCESSES,
        parts=tuple(
            replace(part, files=tuple(os.path.join(folder.name, file) for file in part.files)) for part in parts
        ),
    )


def _recorded(options: SinkOptions) -> dict[str, Any]:
    """Return the options that change what is written, ready for JSON."""
    given = asdict(options)
    for name in ("force", "resume", "command", "begin", "operator", "threads", "again"):
        del given[name]
    return given


class _Several:
    """Writes processes in copies of this program, if the container can be used in them, or in threads."""

    half = "all"
    _in_copies = _at_once = False

    def __init__(
        self,
        container: Container,
        folder: PartialFolder | ObjectsOfSeveral,
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
        #: what is known of inputs, the SHA-256 among it
        self.hashed: Sequence[Mapping[str, Any]] = ()
        self._progress = progress
        # seen by copies, too: whether to stop, and of each process the bytes that are done and those in all
        self._shared = np.frombuffer(mmap.mmap(-1, 8 * (1 + 2 * len(tasks))), np.uint64)

    def run(self, workers: int, there: Mapping[int, Result]) -> tuple[list[Result], MemcarveError | None]:
        """Return how each ended, its files as they are called in the folder, and the first error.

        What is `there` already, by number, is not written.
        """
        results = dict(there)
        errors: dict[int, MemcarveError] = {}
        full: dict[int, NoSpaceError] = {}
        self._in_copies = self.folder.in_copies and self.container.can_be_forked and workers > 1
        while left := [number for number in range(len(self.tasks)) if number not in results and number not in full]:
            self._at_once = workers > 1
            self._shared[0] = 0
            for number, result in self._some(left, workers):
                entry = self.container.entry(self.tasks[number][0])
                if isinstance(result, Result):
                    files = tuple(os.path.relpath(file, self.folder.path) for file in result.files)
                    results[number] = replace(result, files=files, entry=entry)
                elif not isinstance(result, NoSpaceError):
                    errors[number] = result
                    results[number] = Result((), "", 0, 0, complete=False, seconds=0.0, entry=entry, error=result)
                elif not self._at_once:  # else it has the disk to itself below
                    full[number] = result
                    if result.needed is None:
                        raise full[min(full)]
            # one at a time shows which of them does not fit, or which it was that the system ended the copy for
            workers = 1
            self.folder.clear({file for result in results.values() for file in result.files})
        if full:
            raise full[min(full)]
        return [results[number] for number in range(len(self.tasks))], errors[min(errors)] if errors else None

    def verified(self) -> dict[int, Result]:
        """Return what is whole in a folder that is gone on with, by number, once all of that has been read again.

        Raises VerificationError if anything is not as it was recorded, or came from an input that has changed.
        """
        mark, there, wrong = self.folder.mark(), {}, []
        for number, recorded in sorted(mark.rows.items()):
            files = recorded["files"]
            if not any(os.path.lexists(os.path.join(self.folder.path, name)) for name in files):
                self.folder.notes = [*self.folder.notes, f"{', '.join(files)}: is gone; it is written again"]
                continue
            entry, row = self.container.entry(self.tasks[number][0]), recorded["row"]
            there[number] = Result(
                files=tuple(files),
                what=row["what"],
                count=row["count"],
                of=row.get("of", 0),
                bytes=row["bytes"],
                complete=row["complete"],
                seconds=0.0,
                notes=["is whole already, and as it was recorded"],
                entry=entry,
            )
            try:
                check_part(self.folder.path, recorded, self._progress)
                self._check_input(number, recorded)
                self._check_row(there[number], recorded)
            except MemcarveError as error:
                wrong.append(str(self._outside(error)))
        if wrong:
            raise VerificationError("; ".join(wrong[:100]), remedy="move it away: {resume} writes it again")
        self.folder.clear({name for part in there.values() for name in part.files})
        return there

    def _check_input(self, number: int, recorded: Mapping[str, Any]) -> None:
        """Raise VerificationError if what a process was read from has changed; one image of all is compared once."""
        if self.container.stored is None:
            path = self._process(number).file.path
            if not same_input(identity(path), recorded["input"]):
                raise VerificationError(f"has changed since {', '.join(recorded['files'])} was written", subject=path)

    def _identity(self, path: str) -> dict[str, Any]:
        """Return what an input is; one image of all was looked at when the folder was begun."""
        for known in self.hashed if self.container.stored is not None else ():
            if known["path"] == path:
                return {name: value for name, value in known.items() if not name.startswith("sha256")}
        return identity(path)

    def _check_row(self, part: Result, recorded: Mapping[str, Any]) -> None:
        """Raise VerificationError if the row for the list says anything else than the process and the hashes do."""
        row, hashes = recorded["row"], recorded["sha256"]
        seals = row.get("sha256")
        known = isinstance(seals, dict) and all(hashes.get(name) == digest for name, digest in seals.items())
        expected = json.loads(dumps(_row(part, seals))) if known else None
        if row != expected or bool(seals) != bool(self.options.hashes):
            problem = f"what {partial_mark.NAME} records of it is not what memcarve writes"
            raise VerificationError(problem, subject=os.path.join(self.folder.path, *part.files[:1]))

    def _process(self, number: int) -> ProcessMemory:
        return self.container.process(index=self.tasks[number][0], half=self.half)

    def room(self, room: Callable[[ProcessMemory], int] | None) -> int | None:
        """Return how many bytes those take that are not whole; None if that is not known."""
        if room is None:
            return None
        total = 0
        for number in self.folder.mark().missing:
            with contextlib.suppress(MemcarveError):  # it will fail, and take nothing
                total += room(self._process(number))
        return total

    def _some(self, numbers: Sequence[int], workers: int) -> Iterator[tuple[int, Result | MemcarveError]]:
        """Yield how processes ended, in order.

        Nothing is yielded of those that were stopped because the disk is full, or that a copy took with it when it was
        ended from outside.
        """
        from concurrent.futures import BrokenExecutor  # not for one process

        with contextlib.ExitStack() as stack:
            stack.enter_context(forking.signals_held())
            pool, futures, copies = forking.begin(self.write, numbers, workers, in_copies=self._in_copies)
            self._in_copies = bool(copies)
            held = stack.pop_all()
        try:
            held.close()
            for number, future in zip(numbers, futures, strict=True):
                try:
                    yield number, forking.result_of(future, self._told)
                except StoppedError:
                    if workers == 1:
                        raise
                except MemcarveError as error:
                    yield number, self._outside(error)
                except BrokenExecutor:
                    if workers == 1:
                        yield number, MemcarveError("the system ended what wrote it; was there not enough memory?")
                        return
                except MemoryError:
                    yield number, MemcarveError("there was not enough memory to write it")
                except OSError as error:
                    yield number, MemcarveError(f"{error.filename or 'the system'}: {error.strerror or error}")
        except BaseException:
            self._shared[0] = 1
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def write(self, number: int) -> Result:
        """Write one of the processes, and record that it is whole."""
        index, name = self.tasks[number]

        def told(done: int, total: int) -> None:
            if self._shared[0]:
                raise StoppedError
            self._shared[1 + 2 * number : 3 + 2 * number] = done, total

        told(0, 0)
        process = self._process(number)
        for each in process.inputs.values():
            for hashed in self.hashed:
                if isinstance(each, dict) and each.get("path") == hashed["path"]:
                    each.update((name, value) for name, value in hashed.items() if name.startswith("sha256"))
        try:
            result = self.one(process, os.path.join(self.folder.path, name), self.options, told)
            files = [os.path.relpath(file, self.folder.path) for file in result.files]
            result = replace(result, notes=[*process.warnings, *result.notes])
            told_of = replace(result, files=tuple(files), entry=self.container.entry(index))
            seals = self.folder.chained(told_of, hashed="sha256" in self.options.hashes)
            hashes = self.folder.hashes_of(files, seals, lambda: told(result.bytes, result.bytes))
            row = _row(told_of, seals)
            source = self._identity(process.file.path)
            self.folder.add({"process": number, "files": files, "sha256": hashes, "input": source, "row": row})
        except NoSpaceError:
            if self._at_once:  # the others give their room back
                self._shared[0] = 1
            raise
        return result

    def _told(self) -> None:
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


def _row(part: Result, seals: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Return how a process ended, ready for JSON; `seals` are the SHA-256 of what stands for all that was written."""
    entry = part.entry or ProcessEntry(None, None)
    return {
        "pid": entry.pid,
        "name": entry.name,
        "files": list(part.files),
        "what": part.what or None,
        "count": None if part.error else part.count,
        **({"of": part.of} if part.what == "module" else {}),
        "bytes": None if part.error else part.bytes,
        "complete": part.complete,
        "error": None if part.error is None else str(part.error),
        "sha256": dict(seals),
        **entry.facts(),
    }


def carved_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the carved folders in `folder`: itself, or those of the processes that were carved into it.

    Raises VerificationError if they are not those that ``processes.json`` lists.
    """
    top = os.fspath(folder)
    path = os.path.join(top, manifest.PROCESSES)
    try:
        mark = partial_mark.of(top)
    except InputError as error:
        raise VerificationError(str(error)) from error
    if mark is not None:
        raise VerificationError(mark.problem, subject=top, remedy="{resume} of what wrote it goes on")
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
