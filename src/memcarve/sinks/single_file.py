"""One file that holds a process: a header, then the bytes as they lie, moved by threads; named once it is whole."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.backing import FileBacking, check_unchanged
from memcarve.copying.copier import THREADS, Copier, StoppedError, run_together
from memcarve.copying.output_file import BUFFER, Target, seek, write, write_error
from memcarve.file_systems import may_copy_elsewhere
from memcarve.hashing import hash_alone, hash_of
from memcarve.intervals import expand, joined
from memcarve.sinks.final_name import check_room, input_paths
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.object_output import new_file
from memcarve.sinks.ranges import pieces
from memcarve.sinks.sink import Result, SinkOptions

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.backing import Backing
    from memcarve.dtypes import U64
    from memcarve.process import ProcessMemory, Progress
    from memcarve.provenance import Later
    from memcarve.sinks.ranges import Ranges


class FilePlan(NamedTuple):
    """What goes into a file that holds a process: `head`, at most `base` bytes, and from there on those of `ranges`.

    `notes` are for the user; `later` stands in the head for what is known once the memory is written.
    """

    ranges: Ranges
    head: Sequence[bytes]
    base: int
    notes: Sequence[str] = ()
    later: Later | None = None

    def settled(self, sha256: str | None, end: dt.datetime | None = None) -> Iterable[bytes]:
        """Return the head with what is known once the memory is written; see `provenance.Later`."""
        return self.head if self.later is None else self.later.settled(self.head, sha256, end)


_PART = 1 << 23  # bytes that a thread writes at a time: they are hashed before they leave the processors' cache
_WAIT = 0.1  # seconds


class _Part(NamedTuple):
    """What a thread writes at a time: a gap that begins at `begin`, and from `place` on pieces (offset, size)."""

    begin: int
    place: int
    pieces: Sequence[tuple[int, int]]


class _Parts:
    """Hands out the parts of a file of `length` bytes in order, and knows up to where it is written."""

    def __init__(self, parts: Iterator[_Part], length: int, threads: int) -> None:
        self._parts = parts
        self._length = length
        #: by thread where what it is writing begins: all before the least of these is there
        self._begun = [0] * threads
        self._changed = threading.Condition()

    def take(self, number: int) -> _Part | None:
        """Return what a thread is to write next, having written what it took before; None if nothing is left."""
        with self._changed:
            part = next(self._parts, None)
            self._begun[number] = self._length if part is None else part.begin
            self._changed.notify_all()
        return part

    def wait(self, end: int, stop: threading.Event) -> None:
        """Wait until all before `end` is written; raises StoppedError."""
        with self._changed:
            while not stop.is_set() and min(self._begun) < end:
                self._changed.wait(_WAIT)
        if stop.is_set():
            raise StoppedError


class Mover:
    """Moves pieces of a process's memory to places of a file, by several threads."""

    def __init__(self, process: ProcessMemory, progress: Progress | None = None) -> None:
        self.backing: Backing = process.space.backing
        self.file = process.file
        self.progress = progress
        self.copier = Copier()

    def move(
        self,
        path: str,
        shown: str,
        place: U64,
        offset: U64,
        size: U64,
        *,
        length: int,
        sparse: bool = False,
        fill: int | None = None,
        hashed: bool = False,
        beside: Callable[[], object] | None = None,
    ) -> str | None:
        """Write `size` bytes at `offset` of the source to `place` (uint64) of a file that is there, `length` in all.

        What lies between and around them is a hole, or filled with the byte `fill`. With `hashed`, return the SHA-256
        of the file, which is read once more, right behind the threads that write. Messages call the file `shown`.
        `beside` is called in a thread of its own meanwhile.

        Raises SourceReadError, OutputError, and NoSpaceError before anything is written if there is not enough room;
        InputError if the source has changed meanwhile.
        """
        self._prepare(path, shown, offset, size, length, sparse=sparse)
        total = int(size.sum()) if fill is None else length
        threads = 1 if sparse else max(THREADS - hashed, 1)  # a thread that waits to write takes a processor, too
        place, size, offset = joined(place, size, offset)
        parts = _Parts(_parts(*_cut(place, offset, size), length), length, threads)
        done, found = [0] * threads, list[str]()

        def work(number: int) -> None:
            def advance(count: int) -> None:
                done[number] += count

            target = Target(os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)), shown)
            try:
                while (part := parts.take(number)) is not None:
                    if fill is not None:
                        self._fill(target, part.begin, part.place, fill, advance)
                    pieces, at = part.pieces, part.place
                    self.copier.copy(self.backing, pieces, target, place=at, sparse=sparse, progress=advance)
                    if sparse:
                        os.ftruncate(target.fd, length)
            finally:
                os.close(target.fd)

        def follow(file: FileBacking) -> None:
            found.append(hash_of(file, between=lambda end: parts.wait(end, self.copier.stop)))

        def report() -> None:
            if self.progress is not None:
                self.progress(sum(done), total)

        try:
            with FileBacking(path, follow=False) as file:
                tasks: list[Callable[[], object]] = [functools.partial(work, number) for number in range(threads)]
                tasks += [functools.partial(follow, file)] if hashed else []
                tasks += [beside] if beside is not None else []
                run_together(len(tasks), lambda number: tasks[number](), self.copier.stop, report)
        finally:
            self.copier.close()
        check_unchanged([self.backing, self.file])
        return found[0] if found else None

    def _fill(self, target: Target, begin: int, end: int, byte: int, advance: Callable[[int], object]) -> None:
        """Write a byte from one place to another."""
        block = memoryview(bytes([byte]) * min(BUFFER, end - begin))
        seek(target, begin)
        for place in range(begin, end, BUFFER):
            self.copier.check_stop()
            write(target, block[: end - place])
            advance(min(BUFFER, end - place))

    def _prepare(self, path: str, shown: str, offset: U64, size: U64, length: int, *, sparse: bool) -> None:
        """Give the file its length; find out whether it can share blocks with the source, and whether it fits."""
        first = (int(offset[0]), int(size[0])) if len(offset) else (0, 0)
        spans = self.backing.spans(*first)  # raises if the bytes are not at hand
        with contextlib.ExitStack() as stack:
            try:
                fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
                stack.callback(os.close, fd)
                empty = os.fstat(fd).st_size == 0
                shares = empty and bool(spans) and self.copier.probe_reflink((spans or [])[0], Target(fd, path))
                if not shares and not sparse:
                    check_room(os.path.dirname(path), shown, int(size.sum()))
                if empty:
                    os.ftruncate(fd, 0)  # nothing of the probe stays
                os.ftruncate(fd, length)
                if not shares and not may_copy_elsewhere(os.path.dirname(path)):
                    self.copier.read_and_write()
            except OSError as error:
                raise write_error(error, Target(-1, shown)) from error


def write_file(
    process: ProcessMemory,
    plan: FilePlan,
    out: str | os.PathLike[str],
    *,
    options: SinkOptions,
    progress: Progress | None = None,
    begun: float,
) -> Result:
    """Write a file as planned; `begun` is when the work began (``time.monotonic``).

    Raises TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    ranges, base = plan.ranges, plan.base
    mover = Mover(process, progress)
    offset, size = pieces(ranges.space, ranges.segments)
    place = np.cumsum(size, dtype=np.uint64) - size + np.uint64(base)
    with new_file(out, options, input_paths(process)) as file:
        with input_hash(process, options, mover.copier.stop) as hashed:
            mover.move(file.path, file.name, place, offset, size, length=base + ranges.total, sparse=options.sparse)
        _write_head(file.path, file.name, plan.settled(hashed.get("sha256")))
        seal = file_hash(file.path, options)
    return Result(
        files=(file.name,),
        what="range",
        count=len(ranges),
        bytes=ranges.total,
        left_out=ranges.segments.choice.left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved=dict(mover.copier.moved),
        hashes=() if seal is None else ("sha256",),
        notes=[*plan.notes, *file.notes],
        seal=seal,
        sealed=None if seal is None else os.path.basename(file.name),
    )


def file_hash(path: str, options: SinkOptions) -> str | None:
    """Return the SHA-256 of a file that was written, read once more; None if no hashes are wanted."""
    if "sha256" not in options.hashes:
        return None
    with FileBacking(path, follow=False) as file:
        return hash_alone(file)


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


def _cut(place: U64, offset: U64, size: U64) -> tuple[U64, U64, U64]:
    """Cut pieces that are larger than a part into several, so that threads share them."""
    count = np.maximum((size + np.uint64(_PART - 1)) // np.uint64(_PART), np.uint64(1)).astype(np.int64)
    if (count == 1).all():
        return place, offset, size
    row, step = expand(count)
    done = step.astype(np.uint64) * np.uint64(_PART)
    return place[row] + done, offset[row] + done, np.minimum(size[row] - done, np.uint64(_PART))


def _parts(place: U64, offset: U64, size: U64, length: int) -> Iterator[_Part]:
    """Yield the parts of a file: pieces that lie in it one after the other, and the gap before them; the rest of it."""
    ends = place + size
    jumps = np.append(np.flatnonzero(ends[:-1] != place[1:]) + 1, len(place))
    low = end = 0
    for jump in jumps.tolist():
        while low < jump:
            limit = place[low] + np.uint64(_PART)
            high = min(max(int(np.searchsorted(ends[low:jump], limit, "right")) + low, low + 1), jump)
            pieces = list(zip(offset[low:high].tolist(), size[low:high].tolist(), strict=True))
            yield _Part(end, int(place[low]), pieces)
            low, end = high, int(ends[high - 1])
    if end < length:
        yield _Part(end, length, ())
