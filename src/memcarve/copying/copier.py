"""Moving byte ranges between files at the file system's best speed.

The first of these that works is used: reflink (FICLONERANGE, Linux: ioctl_ficlonerange(2)), copy_file_range(2),
sendfile(2), reading and writing through a buffer. If the content must be looked at (hashes, zero pages), each block is
read once, passed to the observer and written from the same buffer.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
from itertools import chain
from typing import TYPE_CHECKING

from memcarve.backing import is_costly, read_pieces
from memcarve.copying.ahead import fetched_ahead
from memcarve.copying.output_file import BUFFER, FULL, PAGE, Target, seek, write, write_error, write_sparse
from memcarve.copying.scatter import blocks
from memcarve.errors import InputError, OutputError, SourceReadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from memcarve.backing import Backing, Span

    Observer = Callable[[memoryview], object]

GATHERED = "gathering scattered pages"
REFLINK, IN_KERNEL, BUFFERED = "reflink", "in-kernel copy", "read and write"
SENDFILE = f"{IN_KERNEL} (sendfile)"

#: how many threads copy at once unless the caller says
THREADS = min(os.cpu_count() or 1, 4)
_STEP = 1 << 26  # bytes per call, so that a stop is noticed
SMALL_PIECE = 1 << 16  # those that are smaller on average are gathered: a call for each costs more than copying
_LARGE = 1 << 25  # from this size on, a range is hashed while it is read and written
_BLOCK = 1 << 20  # bytes of it that are handed from one thread to the other, which takes as long as hashing a tenth
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")  # struct file_clone_range: descriptor, offset, length, target's offset

_NOT_HERE = {
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EBADF, errno.ETXTBSY,
    errno.EISDIR,
}  # fmt: skip


class StoppedError(Exception):
    """The copying was asked to stop."""


class Copier:
    """Copies ranges of one source into many files, from several threads.

    `moved` counts the bytes by the way they were moved. If `stop` is set, every copy soon raises StoppedError.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        """Take the event that stops it, or make one."""
        self.stop = stop or threading.Event()
        self.moved: dict[str, int] = {}
        self._ways = _ways_here()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._beside: ThreadPoolExecutor | None = None

    @property
    def reflinks(self) -> bool:
        """Whether reflinks may still work."""
        return REFLINK in self._ways

    def probe_reflink(self, span: Span, target: Target) -> bool:
        """Try to reflink the start of a range into an empty file; return True if that works."""
        try:
            works = self.reflinks and _clone(span._replace(length=min(span.length, PAGE)), target, 0) > 0
        except OSError:
            works = False
        if not works:
            self._give_up(REFLINK)
        return works

    def read_and_write(self) -> None:
        """Leave out the calls that read and write: threads that write to one file are to read meanwhile.

        A file takes one writer at a time (the lock of its inode), and such a call holds that while it reads, too.
        """
        for way in (IN_KERNEL, SENDFILE):
            self._give_up(way)

    def copy(
        self,
        backing: Backing,
        pieces: Sequence[tuple[int, int]],
        target: Target,
        *,
        place: int = 0,
        observe: Observer | None = None,
        sparse: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Write the (offset, size) `pieces` of `backing` one after the other into `target`, from `place` on.

        `observe` gets every byte in order; with `sparse`, pages of zeros become holes. Raises SourceReadError,
        OutputError (NoSpaceError if the disk is full), StoppedError.
        """
        total = sum(size for _, size in pieces)
        every: Iterable[tuple[int, int]] = pieces
        if is_costly(backing):
            every = chain.from_iterable(fetched_ahead(backing, [[each] for each in pieces]))
        shares = self.reflinks and not sparse and len(pieces) > 0 and backing.spans(*pieces[0]) is not None
        scattered = len(pieces) > 1 and total <= len(pieces) * SMALL_PIECE
        if sparse or (not shares and (scattered or observe is not None)):
            beside = observe is not None and total >= _LARGE
            some: Iterable[tuple[Sequence[tuple[int, int]], int]] = [(pieces, total)]
            if total > BUFFER or every is not pieces:
                some = blocks(every, _BLOCK if beside else BUFFER)
            place = self._through_buffer(backing, some, target, place, observe, progress, sparse=sparse, beside=beside)
        else:  # if blocks can be shared, each piece is tried alone
            for offset, size in every:
                if observe is None:
                    self._by_kernel(backing, offset, size, target, place, progress)
                else:
                    count = self._reflink(backing, offset, size, target, place)
                    self.read(backing, offset, count, observe, progress)
                    beside = size - count >= _LARGE
                    rest = blocks([(offset + count, size - count)], _BLOCK if beside else BUFFER)
                    self._through_buffer(backing, rest, target, place + count, observe, progress, beside=beside)
                place += size
        if sparse:
            try:
                os.ftruncate(target.fd, place)
            except OSError as error:
                raise write_error(error, target) from error

    def read(
        self,
        backing: Backing,
        offset: int,
        size: int,
        observe: Observer,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Call `observe` with the `size` bytes at `offset`, block by block."""
        buffer = self._buffer()
        for done in range(0, size, BUFFER):
            view = buffer[: min(BUFFER, size - done)]
            self.check_stop()
            backing.read_into(offset + done, view)
            observe(view)
            if progress is not None:
                progress(len(view))

    def close(self) -> None:
        """End the helper thread, if there was one."""
        if self._beside is not None:
            self._beside.shutdown()

    def _by_kernel(
        self,
        backing: Backing,
        offset: int,
        size: int,
        target: Target,
        place: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        """Let the kernel copy a range, or copy through a buffer if it cannot."""
        spans = backing.spans(offset, size)
        if spans is None:
            self._through_buffer(backing, blocks([(offset, size)], BUFFER), target, place, None, progress)
            return
        for span in spans:
            done = 0
            while done < span.length:
                self.check_stop()
                rest = span._replace(offset=span.offset + done, length=span.length - done)
                count = self._step(rest, target, place + done)
                if not count:
                    left = blocks([(offset + done, rest.length)], BUFFER)
                    self._through_buffer(backing, left, target, place + done, None, progress)
                    break
                if progress is not None:
                    progress(count)
                done += count
            place += span.length
            offset += span.length

    def _reflink(self, backing: Backing, offset: int, size: int, target: Target, place: int) -> int:
        """Reflink as much of the start of a range as possible; return the number of bytes."""
        shared = 0
        for span in (backing.spans(offset, size) or []) if self.reflinks else []:
            count = self._step(span, target, place + shared, (REFLINK,))
            shared += count
            if count < span.length:
                break
        return shared

    def _step(self, span: Span, target: Target, place: int, only: tuple[str, ...] | None = None) -> int:
        """Move the start of a span; return the number of bytes: 0 if only the buffer is left."""
        for way in [way for way in self._ways if only is None or way in only]:
            try:
                count = _WAYS[way](span, target, place)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise _blame(error, span, target) from error
                self._give_up(way)
                continue
            if count:
                self.count(way, count)
                return count
            if way != REFLINK:  # the file ends here; reading it gives the message
                break
        return 0

    def _through_buffer(
        self,
        backing: Backing,
        some: Iterable[tuple[Sequence[tuple[int, int]], int]],
        target: Target,
        place: int,
        observe: Observer | None,
        progress: Callable[[int], object] | None,
        *,
        sparse: bool = False,
        beside: bool = False,
    ) -> int:
        """Read and write `some` blocks, each pieces that fit into the buffer, and their size; return the place behind.

        With `beside`, another thread looks at the blocks, one after the other; it may be a block behind.
        """
        buffers = [memoryview(bytearray(_BLOCK)) for _ in range(2)] if beside else [self._buffer()]
        looking: Future[object] | None = None
        moved = {GATHERED: 0, BUFFERED: 0}
        seek(target, place)
        try:
            for number, (block, size) in enumerate(some):
                view = buffers[number % len(buffers)][:size]
                self.check_stop()
                read_pieces(backing, block, view)
                if looking is not None:
                    looking.result()
                if observe is not None and beside:
                    looking = self._helper().submit(observe, view)
                elif observe is not None:
                    observe(view)
                write_sparse(target, view) if sparse else write(target, view)
                if progress is not None:
                    progress(size)
                moved[GATHERED if len(block) > 1 else BUFFERED] += size
                place += size
        finally:
            if looking is not None:
                looking.result()
        for way, count in moved.items():
            if count:
                self.count(way, count)
        return place

    def _buffer(self) -> memoryview:
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(BUFFER))
        buffer: memoryview = self._local.buffer
        return buffer

    def _helper(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # needed only for large segments

        with self._lock:
            if self._beside is None:
                self._beside = ThreadPoolExecutor(os.cpu_count() or 1)
            return self._beside

    def check_stop(self) -> None:
        """Raise StoppedError if the copying is to stop."""
        if self.stop.is_set():
            raise StoppedError

    def count(self, way: str, count: int) -> None:
        """Add bytes to those that were moved by a way."""
        with self._lock:
            self.moved[way] = self.moved.get(way, 0) + count

    def _give_up(self, way: str) -> None:
        with self._lock:
            self._ways = [other for other in self._ways if other != way]


def _clone(span: Span, target: Target, place: int) -> int:
    """Share the blocks of a range; return the number of bytes, 0 if it is not aligned to blocks."""
    try:
        import fcntl  # Linux alone gets here
    except ImportError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    length = span.length
    if span.offset + length != span.file.size:
        length -= length % PAGE
    if span.offset % PAGE or place % PAGE or not length:
        return 0
    try:
        fcntl.ioctl(target.fd, _FICLONERANGE, _CLONE_RANGE.pack(span.file.fd, span.offset, length, place))
    except OSError as error:
        if error.errno == errno.EINVAL:  # blocks larger than a page, or a part of the file that cannot be shared
            return 0
        raise
    return length


def _copy_file_range(span: Span, target: Target, place: int) -> int:
    return os.copy_file_range(span.file.fd, target.fd, min(span.length, _STEP), span.offset, place)


def _sendfile(span: Span, target: Target, place: int) -> int:
    seek(target, place)
    return os.sendfile(target.fd, span.file.fd, span.offset, min(span.length, _STEP))


_WAYS: dict[str, Callable[[Span, Target, int], int]] = {
    REFLINK: _clone,
    IN_KERNEL: _copy_file_range,
    SENDFILE: _sendfile,
}


def _ways_here() -> list[str]:
    """Return the ways that this system may support; Windows, macOS and old C libraries copy through a buffer."""
    calls = {REFLINK: "open", IN_KERNEL: "copy_file_range", SENDFILE: "sendfile"}
    return [way for way in _WAYS if hasattr(os, calls[way])] if sys.platform == "linux" else []


def _blame(error: OSError, span: Span, target: Target) -> InputError | OutputError:
    """Return the error for the side that failed: a call that reads and writes does not say which one did."""
    if error.errno in FULL:
        return write_error(error, target)
    buffer = memoryview(bytearray(min(span.length, BUFFER)))
    try:
        for done in range(0, min(span.length, _STEP), BUFFER):
            span.file.read_into(span.offset + done, buffer[: min(span.length - done, BUFFER)])
    except SourceReadError as source:
        return source
    return write_error(error, target)


def run_together(  # noqa: C901 - what may go wrong with threads is in one place
    count: int, task: Callable[[int], object], stop: threading.Event, report: Callable[[], object] | None = None
) -> None:
    """Run ``task(number)`` in `count` threads until all have ended; raise the first error.

    An error or a signal sets `stop`, upon which the tasks are to raise StoppedError soon; so does setting it from
    elsewhere, which is raised as StoppedError here. `report` is called several times a second.
    """
    failed: list[BaseException] = []
    finished = threading.Semaphore(0)

    def run(number: int) -> None:
        try:
            task(number)
        except StoppedError:
            stop.set()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)
            stop.set()
        finally:
            finished.release()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        running = count
        while running:
            if finished.acquire(timeout=0.1):  # in steps, so that a signal is noticed at once
                running -= 1
            if report is not None:
                report()
    except BaseException:
        stop.set()
        raise
    finally:
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if failed:
        raise failed[0]
    if stop.is_set():
        raise StoppedError
