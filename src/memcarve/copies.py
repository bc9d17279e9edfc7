"""Copies of this program, made by forking, that take numbers from a pipe and send what comes of each.

`concurrent.futures` has such a pool, whose modules, threads and locks cost as much as a small process does that is
carved. Here a copy reads its next number from a pipe that all share, which is atomic, and writes the result into one of
its own; nothing is locked that a copy which is killed could keep.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import selectors
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

_T = TypeVar("_T")
_NUMBER = 4  # bytes of a number of work
_LENGTH = 8  # bytes of a length
_ATOMIC = 512  # bytes: POSIX's least PIPE_BUF
_MOST_READ = 1 << 16
_SHORTEST, _LONGEST = 0.0002, 0.01  # seconds between two looks at whether a copy has ended


class _ElsewhereError(Exception):
    """Where an error was raised in a copy, in words."""

    def __str__(self) -> str:
        return str(self.args[0])


class Copy:
    """A copy that was made; `status` is how it ended, as waitpid(2) tells it, None as long as that is not known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self._lock = threading.Lock()

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        with self._lock:
            if self.status is None:
                os.kill(self.pid, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Return True if it has not ended."""
        with self._lock:
            if self.status is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else waited for it
                    pid, status = self.pid, -1
                self.status = status if pid else None
            return self.status is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        step = _SHORTEST
        while self.is_alive() and (end is None or time.monotonic() < end):
            time.sleep(step)
            step = min(2 * step, _LONGEST)


class Copies(Generic[_T]):
    """Makes copies that do `work` for each of `numbers`; `futures` are what comes of each, in that order.

    Each copy calls `prepare` first. If one is ended from outside, the others are, too, and what was not done raises
    BrokenExecutor. Raises OSError if the system has no room for copies. No other thread may be running.
    """

    def __init__(
        self, work: Callable[[int], _T], numbers: Sequence[int], workers: int, prepare: Callable[[], object]
    ) -> None:
        from concurrent.futures import Future

        self.copies: list[Copy] = []
        self.futures: list[Future[_T]] = [Future() for _ in numbers]
        self._open: dict[int, Future[_T]] = dict(enumerate(self.futures))
        self._left = memoryview(b"".join(place.to_bytes(_NUMBER, "little") for place in range(len(numbers))))
        self._stop = mmap.mmap(-1, 1)  # seen by the copies, too
        self._results: dict[int, Copy] = {}  # which copy writes to what is read here
        self._taken, self._tasks = os.pipe()
        os.set_blocking(self._tasks, False)
        for stream in (sys.stdout, sys.stderr):  # or copies write what is waiting here once more
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        try:
            for _ in range(workers):
                self._fork(work, numbers, prepare)
            self._selector = selectors.DefaultSelector()
            self._feed()
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        except BaseException:
            for copy in self.copies:
                copy.kill()
                copy.join()
            self._close()
            raise

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Wait until the copies have ended; `cancel_futures`: what they have not begun is left out."""
        if cancel_futures:
            self._stop[0] = 1
        self._reader.join()

    def give_up(self) -> None:
        """End the copies at once."""
        for copy in self.copies:
            copy.kill()

    def _fork(self, work: Callable[[int], _T], numbers: Sequence[int], prepare: Callable[[], object]) -> None:
        results, into = os.pipe()
        try:
            pid = os.fork()
            if not pid:
                self._run(work, numbers, prepare, into)
        except OSError:
            os.close(results)
            raise
        finally:
            os.close(into)
        self._results[results] = Copy(pid)
        self.copies.append(self._results[results])

    def _run(
        self, work: Callable[[int], _T], numbers: Sequence[int], prepare: Callable[[], object], into: int
    ) -> NoReturn:
        """Do the work of a copy, and end it."""
        status = 1
        try:
            for fd in (self._tasks, *self._results):
                os.close(fd)
            prepare()
            while len(data := os.read(self._taken, _NUMBER)) == _NUMBER and not self._stop[0]:
                place = int.from_bytes(data, "little")
                try:
                    sent = pickle.dumps((place, work(numbers[place]), None, ""))
                except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                    sent = _of_error(place, error)
                _write(into, len(sent).to_bytes(_LENGTH, "little") + sent)
            status = 0
        finally:
            os._exit(status)

    def _feed(self) -> None:
        """Write numbers into the pipe, as many as it takes; close it behind the last one."""
        while len(self._left):
            try:  # so few bytes are written all or not at all
                self._left = self._left[os.write(self._tasks, self._left[:_ATOMIC]) :]
            except BlockingIOError:
                return
        if self._tasks >= 0:
            os.close(self._tasks)
            self._tasks = -1

    def _read(self) -> None:
        """Take results from the copies until all of them have ended."""
        from concurrent.futures import BrokenExecutor

        try:
            self._receive()
        finally:
            self.give_up()
            self._close()
            for future in self._open.values():
                future.set_exception(BrokenExecutor("a copy of this program was ended"))

    def _receive(self) -> None:
        waiting = {results: bytearray() for results in self._results}
        with self._selector as selector:
            for results in waiting:
                selector.register(results, selectors.EVENT_READ)
            while waiting:
                for key, _ in selector.select():
                    data = os.read(key.fd, _MOST_READ)
                    if data:
                        waiting[key.fd] += data
                        self._take(waiting[key.fd])
                        continue
                    selector.unregister(key.fd)
                    del waiting[key.fd]
                    self._results[key.fd].join()
                    if self._results[key.fd].status:
                        self.give_up()

    def _take(self, waiting: bytearray) -> None:
        """Hand out the results that have come whole."""
        while len(waiting) >= _LENGTH and len(waiting) >= (
            end := _LENGTH + int.from_bytes(waiting[:_LENGTH], "little")
        ):
            place, value, error, where = pickle.loads(bytes(waiting[_LENGTH:end]))  # noqa: S301 - this program's own
            del waiting[:end]
            future = self._open.pop(place)
            self._feed()
            if error is None:
                future.set_result(value)
            else:
                error.__cause__ = _ElsewhereError(where)
                future.set_exception(error)

    def _close(self) -> None:
        for fd in (self._taken, self._tasks, *self._results):
            if fd >= 0:
                os.close(fd)
        self._tasks = -1


def _of_error(place: int, error: BaseException) -> bytes:
    """Return what is sent of an error."""
    where = "".join(traceback.format_exception(error))
    try:
        sent = pickle.dumps((place, None, error, where))
        pickle.loads(sent)  # noqa: S301 - some errors can be written, but not read
    except Exception:  # noqa: BLE001 - whatever it holds
        return pickle.dumps((place, None, RuntimeError(repr(error)), where))
    return sent


def _write(fd: int, data: bytes) -> None:
    view: Any = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
