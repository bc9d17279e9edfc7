"""One file that holds a process: a header, then the bytes as they lie, moved by the kernel; named once it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from memcarve.backing import check_unchanged
from memcarve.copying.copier import Copier
from memcarve.copying.output_file import FULL, Target, seek, write, write_error
from memcarve.errors import NoSpaceError, OutputError, TargetExistsError
from memcarve.intervals import expand, joined
from memcarve.process import LeftOut, Selection
from memcarve.sinks.ranges import pieces
from memcarve.sinks.workers import THREADS, run_together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from memcarve.backing import Backing
    from memcarve.dtypes import U64
    from memcarve.process import Labeller, ProcessMemory
    from memcarve.sinks.ranges import Ranges
    from memcarve.sinks.segment_writer import Progress


_PART = 1 << 25  # bytes that a thread writes at a time


class FileOptions(NamedTuple):
    """How to write one file of a process: what of it, and whether what has the name is replaced.

    `labeller` (a ``memcarve.Labelling``) is needed where the selection is by labels; `sparse` writes pages of zeros as
    holes; `command` is recorded where the format has room for it.
    """

    selection: Selection = Selection()
    labeller: Labeller | None = None
    sparse: bool = False
    force: bool = False
    command: Sequence[str] | None = None


class Written(NamedTuple):
    """What was written: `bytes` of memory in `ranges` ranges; what was `left_out`, and why.

    `files` come the most important first. `complete` is false where bytes are known to be missing. `moved` counts the
    bytes by how they were moved; `notes` are for the user.
    """

    files: tuple[str, ...]
    ranges: int
    bytes: int
    left_out: Sequence[LeftOut]
    complete: bool
    seconds: float
    moved: dict[str, int]
    notes: Sequence[str] = ()


class Own(Protocol):
    """Says whether memcarve wrote a file."""

    def __call__(self, path: str) -> bool:
        """Look at the file; one that cannot be read is somebody else's."""


class NewFile:
    """Builds `target` in a file beside it, `path`, with mode 0600.

    Leaving the ``with`` block in peace gives it its name; leaving it by any exception removes it. `own` says whether
    memcarve wrote what has the name: only then may `force` replace it. `inputs` are never replaced, nor is anything
    put into them.
    """

    def __init__(self, target: str, *, force: bool, own: Own, inputs: Sequence[str] = ()) -> None:
        self.target = target
        self.path = ""
        self._force = force
        self._own = own
        self._inputs = inputs

    def check(self) -> None:
        """Raise TargetExistsError where something has the target's name that may not be replaced, or is the input.

        Raises OutputError where no file can have that name.
        """
        if not os.path.basename(self.target):
            raise OutputError(f"{self.target!r}: is no name of a file; name one with -o")
        refuse_inputs(self.target, self._inputs)
        if os.path.isdir(self.target) and not os.path.islink(self.target):
            raise TargetExistsError(f"{self.target}: is a folder; name a file with -o")
        try:
            os.lstat(self.target)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:  # its name is too long, say: no file could be given it once it is whole
            raise OutputError(f"{self.target}: cannot be written: {error.strerror}; choose another with -o") from error
        own = not os.path.islink(self.target) and self._own(self.target)
        if not self._force:
            remedy = "--force replaces it, -o chooses another" if own else "choose another with -o"
            raise TargetExistsError(f"{self.target}: exists; {remedy}")
        if not own:
            raise TargetExistsError(f"{self.target}: --force replaces only what memcarve wrote; choose another with -o")

    def __enter__(self) -> Self:
        """Check the target and create the file beside it; raises TargetExistsError, OutputError."""
        self.check()
        folder, name = os.path.split(os.path.abspath(self.target))
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            fd, self.path = tempfile.mkstemp(".incomplete", f".{name[:100]}.", folder)  # with mode 0600
            os.close(fd)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to: {error.strerror}; choose with -o") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.check()  # something may have appeared meanwhile
                self._rename()
                return
        except OSError as problem:
            raise OutputError(f"{self.target}: cannot be replaced: {problem.strerror}; nothing was kept") from problem
        finally:
            with contextlib.suppress(OSError):  # it has its name, or cannot be removed
                os.unlink(self.path)
        if isinstance(error, OSError):
            full = NoSpaceError if error.errno in FULL else OutputError
            raise full(f"{self.target}: cannot be written: {error.strerror or error}; nothing was kept") from error

    def _rename(self) -> None:
        """Give the file its name; without `force` nothing is replaced, not even what has appeared this moment."""
        if not self._force:
            try:
                os.link(self.path, self.target)
            except FileExistsError:
                self.check()  # raises, and says what is there
                raise
            except OSError:  # a file system without links
                pass
            else:
                return
        os.replace(self.path, self.target)


class Mover:
    """Moves pieces of a process's memory to places of a file, by several threads."""

    def __init__(self, process: ProcessMemory, progress: Progress | None = None) -> None:
        self.backing: Backing = process.space.backing
        self.file = process.file
        self.progress = progress
        self.copier = Copier()

    def move(
        self, path: str, shown: str, place: U64, offset: U64, size: U64, *, length: int, sparse: bool = False
    ) -> None:
        """Write `size` bytes at `offset` of the source to `place` (uint64) of a file that is there, `length` in all.

        Messages call it `shown`. Raises SourceReadError, OutputError, and NoSpaceError before anything is written where
        the room is not enough; InputError where the source has changed meanwhile.
        """
        self._prepare(path, shown, offset, size, length, sparse=sparse)
        place, size, offset = joined(place, size, offset)
        place, offset, size = _halved(place, offset, size)
        total, threads = int(size.sum()), 1 if sparse else THREADS
        parts, lock, done = _parts(place, offset, size), threading.Lock(), [0] * threads

        def work(number: int) -> None:
            def advance(count: int) -> None:
                done[number] += count

            target = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                while True:
                    with lock:
                        begin, some = next(parts, (0, None))
                    if some is None:
                        break
                    self.copier.copy(
                        self.backing, some, Target(target, shown), place=begin, sparse=sparse, progress=advance
                    )
            finally:
                os.close(target)

        def report() -> None:
            if self.progress is not None:
                self.progress(sum(done), total)

        try:
            run_together(threads, work, self.copier.stop, report)
            if sparse:
                os.truncate(path, length)
        finally:
            self.copier.close()
        check_unchanged([self.backing, self.file])

    def _prepare(self, path: str, shown: str, offset: U64, size: U64, length: int, *, sparse: bool) -> None:
        """Give the file its length; find out whether it can share blocks with the source, and whether it fits."""
        first = (int(offset[0]), int(size[0])) if len(offset) else (0, 0)
        spans = self.backing.spans(*first)  # complains where the bytes are not at hand
        with contextlib.ExitStack() as stack:
            try:
                fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
                stack.callback(os.close, fd)
                empty = os.fstat(fd).st_size == 0
                shares = empty and bool(spans) and self.copier.probe_reflink((spans or [])[0], Target(fd, path))
                free = shutil.disk_usage(os.path.dirname(path)).free
                needed = int(size.sum())
                if needed > free and not shares and not sparse:
                    raise NoSpaceError(
                        f"{shown}: needs {needed} bytes, and its file system has {free} free; choose another with -o"
                    )
                if empty:
                    os.ftruncate(fd, 0)  # nothing of the probe stays
                os.ftruncate(fd, length)
            except OSError as error:
                raise write_error(error, Target(-1, shown)) from error


def write_file(
    process: ProcessMemory,
    path: str | os.PathLike[str],
    head: Iterable[bytes],
    ranges: Ranges,
    *,
    base: int,
    options: FileOptions,
    own: Own,
    progress: Progress | None = None,
    begun: float | None = None,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> Written:
    """Write a file: `head`, at most `base` bytes, then from `base` on the bytes of the ranges, one after the other.

    `left_out` and `notes` are handed on, `begun` is when the work began (``time.monotonic``). Raises
    TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    begun = time.monotonic() if begun is None else begun
    name = os.fspath(path)
    mover = Mover(process, progress)
    offset, size = pieces(ranges.space, ranges.segments)
    place = np.cumsum(size, dtype=np.uint64) - size + np.uint64(base)
    with NewFile(name, force=options.force, own=own, inputs=input_paths(process)) as file:
        mover.move(file.path, name, place, offset, size, length=base + ranges.total, sparse=options.sparse)
        _write_head(file.path, name, head)
    return Written(
        files=(name,),
        ranges=len(ranges),
        bytes=ranges.total,
        left_out=left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved=dict(mover.copier.moved),
        notes=notes,
    )


def refuse_inputs(target: str, inputs: Sequence[str]) -> None:
    """Raise TargetExistsError where a file to be written is one of the inputs, or lies in one that is a folder."""
    there = os.path.realpath(target)
    for path in inputs:
        source = os.path.realpath(path)
        if there == source:
            raise TargetExistsError(f"{target}: is the input; choose another with -o")
        if os.path.isdir(source) and there.startswith(os.path.join(source, "")):
            raise TargetExistsError(f"{target}: lies in the input; choose another with -o")


def input_paths(process: ProcessMemory) -> list[str]:
    """Return the files and folders that a process was read from: none of them is ever written to."""
    inputs = process.inputs.values()
    return [str(each["path"]) for each in inputs if isinstance(each, dict) and "path" in each]


def _write_head(path: str, shown: str, head: Iterable[bytes]) -> None:
    """Write the beginning of a file; it is last, so that a file without its bytes has no header either."""
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        target = Target(fd, shown)
        seek(target, 0)
        for block in head:
            write(target, memoryview(block))
    finally:
        os.close(fd)


def _halved(place: U64, offset: U64, size: U64) -> tuple[U64, U64, U64]:
    """Cut pieces that are larger than a part into several, so that threads share them."""
    count = np.maximum((size + np.uint64(_PART - 1)) // np.uint64(_PART), np.uint64(1)).astype(np.int64)
    if (count == 1).all():
        return place, offset, size
    row, step = expand(count)
    done = step.astype(np.uint64) * np.uint64(_PART)
    return place[row] + done, offset[row] + done, np.minimum(size[row] - done, np.uint64(_PART))


def _parts(place: U64, offset: U64, size: U64) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield where in the file a part begins, and its pieces of the source, which lie there one after the other."""
    ends = place + size
    jumps = np.append(np.flatnonzero(ends[:-1] != place[1:]) + 1, len(place))
    low = 0
    for jump in jumps.tolist():
        while low < jump:
            limit = place[low] + np.uint64(_PART)
            high = min(max(int(np.searchsorted(ends[low:jump], limit, "right")) + low, low + 1), jump)
            yield int(place[low]), list(zip(offset[low:high].tolist(), size[low:high].tolist(), strict=True))
            low = high
