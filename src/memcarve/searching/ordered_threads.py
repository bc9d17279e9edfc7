"""Work spread over threads, whose results come in the order of the tasks."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_MOST = 16
_AHEAD = 4  # tasks for each thread that may wait: results that nobody took yet are bounded by that


def processors() -> int:
    """Return how many threads are worth having here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST)


def in_order(
    work: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    threads: int | None = None,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[tuple[_Task, _Result]]:
    """Yield each task and what `work` makes of it, in order; `threads` of them at once, None for all processors.

    Tasks are taken when there is room for them, so that memory is bounded however many there are. Raises what `work`
    raises, at its task. `stop` is called at the end, also before its time, when what still runs is waited for.
    """
    threads = processors() if threads is None else threads
    if threads <= 1:
        for task in tasks:
            yield task, work(task)
        return
    from concurrent.futures import ThreadPoolExecutor  # takes long to import

    waiting: deque[tuple[_Task, Future[_Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="memcarve-search")
    try:
        for task in tasks:
            waiting.append((task, pool.submit(work, task)))
            if len(waiting) >= threads * _AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        stop()
        pool.shutdown(wait=True, cancel_futures=True)
