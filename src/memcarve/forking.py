"""Work on several things at once: in copies of this program, each on a processor of its own, or in threads.

Copies are better: what Python does for many small pieces holds up other threads. They are made by forking, if nothing
else is running here that a copy would lack.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from memcarve.parent_program import die_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from memcarve.copies import Copies, Copy

_T = TypeVar("_T")

#: what is called before copies are made: it ends threads that are begun again when they are needed
before_copies: list[Callable[[], object]] = []

_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Begun(NamedTuple, Generic[_T]):
    """Work that was begun: the pool that does it, what will come of each number in order, and the copies that do it.

    There are none if it is done in threads.
    """

    pool: Executor | Copies[_T]
    futures: list[Future[_T]]
    copies: frozenset[Copy] = frozenset()

    def give_up(self) -> None:
        """End the copies at once, whatever they are doing; threads end with what they are doing."""
        for copy in self.copies:
            copy.kill()


def begin(work: Callable[[int], _T], numbers: Sequence[int], workers: int, *, in_copies: bool) -> Begun[_T]:
    """Begin to do some work for each of some numbers; in copies only its results are sent, which must be picklable.

    Signals are to be held meanwhile (`signals_held`). If the system has no descriptors or processes left for copies,
    the work is done one at a time, in a thread.
    """
    if in_copies:
        for each in before_copies:
            each()
    if in_copies and threading.active_count() == 1 and hasattr(os, "fork"):
        from memcarve.copies import Copies  # not for one process

        with contextlib.suppress(OSError):
            made = Copies(work, numbers, workers, functools.partial(_prepare, os.getpid()))
            return Begun(made, made.futures, frozenset(made.copies))
        workers = 1
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadPoolExecutor(workers)
    return Begun(threads, [threads.submit(work, number) for number in numbers])


def result_of(future: Future[_T], told: Callable[[], object] | None = None) -> _T:
    """Wait for a result in steps, so that a signal is noticed; `told` is called meanwhile."""
    while True:
        try:
            return future.result(timeout=0.2)
        except TimeoutError:
            if future.done():  # just now, or with an error of this kind
                return future.result()
        if told is not None:
            told()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals for the end of the block: while copies are made, an exception that one raises would be lost."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where no copies are made
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(parent: int) -> None:
    """Prepare a copy; `parent` is the number of the program it is a copy of."""
    gc.freeze()  # what was there before stays: collections need not go through it, and write into it, again
    for name in ("SIGINT", "SIGHUP"):  # the program that they are meant for tells the copies to stop
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # so are copies ended that wait for a lock which one that was killed had
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    die_with(parent)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this copy when the program that made it has been killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
