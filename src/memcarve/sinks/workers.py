"""Threads that do one piece of work together."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from memcarve.copying.copier import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

#: threads that copy at once where nobody says how many
THREADS = min(os.cpu_count() or 1, 4)


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
