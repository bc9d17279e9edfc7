"""Work in copies of the program: results in order, errors, and copies that end."""

from __future__ import annotations

import errno
import os
import signal
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


def test_more_numbers_than_a_pipe_holds() -> None:
    """All the work is done once, however much there is, and large results come whole."""
    begun = forking.begin(lambda number: number * 3, range(17_000), 2, in_copies=True)
    assert results(begun) == [number * 3 for number in range(17_000)]
    begun_large = forking.begin(lambda number: bytes([number]) * 300_000, range(8), 2, in_copies=True)
    assert results(begun_large) == [bytes([number]) * 300_000 for number in range(8)]


def test_a_copy_that_is_killed_breaks_the_work() -> None:
    """What was done before stays; what was not raises BrokenExecutor, and the other copies are ended."""

    def work(number: int) -> int:
        if number == 1:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if number > 1:
            time.sleep(60)
        return number

    begun = forking.begin(work, range(4), 2, in_copies=True)
    assert forking.result_of(begun.futures[0]) == 0
    for future in begun.futures[1:]:
        with pytest.raises(BrokenExecutor):
            forking.result_of(future)
    begun.pool.shutdown()
    assert not any(copy.is_alive() for copy in begun.copies)


def test_what_was_not_begun_is_left_out() -> None:
    """Copies end when the work that they are at is done, if no more of it is wanted."""

    def work(number: int) -> int:
        time.sleep(0.1)
        return number

    begun = forking.begin(work, range(1000), 2, in_copies=True)
    assert forking.result_of(begun.futures[0]) == 0
    begun.pool.shutdown(cancel_futures=True)
    assert not any(copy.is_alive() for copy in begun.copies)
    assert sum(future.exception() is None for future in begun.futures) < 100


def test_errors_say_where_they_were_raised() -> None:
    """An error comes with the place in the copy; what cannot be sent is told of."""

    class LocalError(Exception):
        pass

    def work(number: int) -> object:
        if number == 0:
            raise KeyError("named")
        if number == 1:
            raise LocalError("cannot be pickled")
        return lambda: None

    begun = forking.begin(work, range(3), 1, in_copies=True)
    with pytest.raises(KeyError, match="named") as raised:
        forking.result_of(begun.futures[0])
    assert 'raise KeyError("named")' in str(raised.value.__cause__)
    for number, words in ((1, "cannot be pickled"), (2, "lambda")):
        with pytest.raises(Exception, match=words):
            forking.result_of(begun.futures[number])
    begun.pool.shutdown()


@pytest.mark.parametrize("fails", ["first", "second", "pipe"])
def test_without_room_for_copies(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """If no copies can be made, or not all, the work is done here, and none of them is left."""
    fork, pipe, made = os.fork, os.pipe, list[int]()

    def forked() -> int:
        if len(made) == (fails == "second"):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        made.append(fork())
        return made[-1]

    def piped() -> tuple[int, int]:
        if fails == "pipe":
            raise OSError(errno.EMFILE, "Too many open files")
        return pipe()

    monkeypatch.setattr(os, "fork", forked)
    monkeypatch.setattr(os, "pipe", piped)
    before = os.listdir("/dev/fd")
    begun = forking.begin(lambda number: (number, os.getpid()), range(3), 2, in_copies=True)
    assert results(begun) == [(number, os.getpid()) for number in range(3)]
    assert not begun.copies
    assert len(os.listdir("/dev/fd")) == len(before)
    for pid in made:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_no_descriptor_is_left() -> None:
    """When the work is done, everything that was opened for it is closed."""
    before = os.listdir("/dev/fd")
    assert results(forking.begin(lambda number: number, range(5), 2, in_copies=True)) == [*range(5)]
    assert len(os.listdir("/dev/fd")) == len(before)
