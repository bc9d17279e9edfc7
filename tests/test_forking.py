"""Work in copies of the program: results in order, errors, and copies that end."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import pytest

from memcarve import forking

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no copies are made here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),  # those of other tests
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not count threads that were running before: libraries that other tests used keep theirs."""
    before = {*threading.enumerate()} - {threading.current_thread()}
    monkeypatch.setattr(threading, "active_count", lambda: len({*threading.enumerate()} - before))


def results(begun: forking.Begun[Any]) -> list[Any]:
    """Return what came of the work, and end the pool."""
    try:
        return [forking.result_of(future) for future in begun.futures]
    finally:
        begun.pool.shutdown()


def test_copies_work_in_order() -> None:
    """Results come in the order of the numbers, from copies, which are as many as were asked for."""
    with forking.signals_held():
        begun = forking.begin(lambda number: (number, os.getpid()), range(20), 2, in_copies=True)
    found = results(begun)
    assert [number for number, _ in found] == [*range(20)]
    assert len(begun.copies) == 2
    assert os.getpid() not in {pid for _, pid in found}


def test_threads_work_if_copies_are_not_wanted() -> None:
    """Without copies, or if other threads are running, threads of this program do the work."""
    alone = forking.begin(lambda _: os.getpid(), range(3), 2, in_copies=False)
    assert not alone.copies
    assert set(results(alone)) == {os.getpid()}
    running = threading.Event()
    other = threading.Thread(target=running.wait)
    other.start()
    try:
        begun = forking.begin(lambda _: os.getpid(), range(3), 2, in_copies=True)
        assert set(results(begun)) == {os.getpid()}
    finally:
        running.set()
        other.join()


def test_errors_come_out() -> None:
    """What the work raises is raised where its result is asked for, and what is told meanwhile is called."""

    def work(number: int) -> int:
        time.sleep(0.5)
        raise ValueError(number)

    begun = forking.begin(work, [7], 1, in_copies=True)
    told: list[None] = []
    try:
        with pytest.raises(ValueError, match="7"):
            forking.result_of(begun.futures[0], lambda: told.append(None))
    finally:
        begun.pool.shutdown()
    assert told


class Late(Future[int]):
    """Work that ends just when nobody waits for it any more, and is asked how it ended."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def result(self, timeout: float | None = None) -> int:
        """Return or raise what came of it; if that is waited for, it comes too late."""
        if timeout is None:
            return super().result()
        if self.error is None:
            self.set_result(5)
        else:
            self.set_exception(self.error)
        raise TimeoutError


def test_results_that_come_as_waiting_ends() -> None:
    """What ends between two steps of waiting has its result, or its own error, also if that is a TimeoutError."""
    assert forking.result_of(Late(None)) == 5
    for error in (TimeoutError("its own"), ValueError("its own")):
        with pytest.raises(type(error), match="its own"):
            forking.result_of(Late(error))


def test_copies_are_given_up() -> None:
    """Copies end at once if they are given up, whatever they are doing."""

    def work(_: int) -> int:
        time.sleep(60)
        return 0

    begun = forking.begin(work, range(2), 2, in_copies=True)
    begun.give_up()
    with pytest.raises(BrokenExecutor):
        forking.result_of(begun.futures[0])
    begun.pool.shutdown(cancel_futures=True)
    for copy in begun.copies:
        copy.join(30)
    assert not any(copy.is_alive() for copy in begun.copies)
