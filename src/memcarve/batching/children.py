"""This program run again in processes of its own, some at once: what happens to one does not happen to the others.

Each is a fresh interpreter with the very command line that somebody would type, in a session of its own, so that what
the terminal sends reaches this program alone, which tells them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from memcarve.parent_program import PARENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_GRACE = 10.0  # seconds that one has to clean up when it is asked to end
_SHORTEST, _LONGEST = 0.005, 0.1  # seconds between two looks at those that run


class Job(NamedTuple):
    """What is to be run: the words after the program's name, and the files for what it prints.

    Without `listing`, what it prints on standard output is lost.
    """

    number: int
    words: Sequence[str]
    listing: str | None
    log: str


class Ended(NamedTuple):
    """How a process ended.

    `code` is its exit status, or less the number of the signal that ended it; None if it could not be started, and
    `problem` says why. `stopped` says that it was asked to end, for lack of time or since all are.
    """

    code: int | None
    seconds: float
    timed_out: bool = False
    stopped: bool = False
    problem: str | None = None


def program() -> list[str]:
    """Return the words that start this program: installed, or as a single file."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    if zipfile.is_zipfile(sys.argv[0]):
        return [sys.executable, sys.argv[0]]
    return [sys.executable, "-P", "-m", "memcarve"]  # -P: nothing is imported from the folder that one works in


def run_all(
    jobs: Iterator[Job],
    at_once: int,
    limit: float | None,
    ended: Callable[[Job, Ended], None],
    asked: Callable[[], int],
    *,
    kept: Sequence[int] = (),
) -> None:
    """Run jobs, at most so many `at_once`, and for at most `limit` seconds each; tell how each `ended`.

    A job is taken from the iterator when there is room for it. `asked` returns how often the program was asked to end:
    then no more are begun, those that run are asked to, and at the second time killed. It is called ten times a second
    at least. The descriptors `kept` stay open in the processes.
    """
    running: list[_Child] = []
    pause = _SHORTEST
    try:
        while True:
            urgency = asked()
            while not urgency and len(running) < at_once and (job := next(jobs, None)) is not None:
                try:
                    running.append(_Child(job, kept))
                except OSError as error:  # no processes, descriptors or memory are left
                    ended(job, Ended(None, 0.0, problem=f"cannot be started: {error.strerror}"))
            if not running:
                return
            over = [child for child in running if child.has_ended(urgency, limit)]
            for child in over:
                running.remove(child)
                ended(child.job, child.how())
            pause = _SHORTEST if over else min(2 * pause, _LONGEST)
            if not over:
                time.sleep(pause)
    finally:
        for child in running:
            child.kill()


class _Child:
    """A process that runs a job."""

    def __init__(self, job: Job, kept: Sequence[int]) -> None:
        """Start it; raises OSError."""
        self.job = job
        self._begun = time.monotonic()
        self._asked: float | None = None  # when it was asked to end
        self._timed_out = False
        with contextlib.ExitStack() as files:
            log = files.enter_context(_new(job.log))
            out: BinaryIO | int = subprocess.DEVNULL if job.listing is None else files.enter_context(_new(job.listing))
            self._process = subprocess.Popen(  # noqa: S603 - it is this program
                [*program(), *job.words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, PARENT: str(os.getpid())},
                start_new_session=True,
                pass_fds=kept if os.name == "posix" else (),
            )

    def has_ended(self, urgency: int, limit: float | None) -> bool:
        """Return True if it has ended; ask it to, or kill it, if it is to."""
        if self._is_over():
            return True
        now = time.monotonic()
        if self._asked is None and (urgency or (limit is not None and now - self._begun >= limit)):
            self._asked, self._timed_out = now, not urgency
            self._process.terminate()
        elif self._asked is not None and (urgency > 1 or now - self._asked >= _GRACE):
            self._kill()
        return False

    def _is_over(self) -> bool:
        """Return True if it has ended; as long as nobody has asked how, its number is nobody else's."""
        if self._process.returncode is not None:  # sending it a signal found that out
            return True
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self._end_others()
        return self._process.poll() is not None

    def how(self) -> Ended:
        """Return how it ended."""
        seconds = time.monotonic() - self._begun
        return Ended(self._process.returncode, seconds, self._timed_out, self._asked is not None)

    def kill(self) -> None:
        """End it at once."""
        self._kill()
        self._process.wait()

    def _kill(self) -> None:
        self._end_others()
        self._process.kill()

    def _end_others(self) -> None:
        """Kill what it started and left: copies of its own end with it, but not everywhere at once."""
        if os.name == "posix":
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _new(path: str) -> BinaryIO:
    """Open a file of one's own for what is printed, in place of an earlier one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return open(os.open(path, flags, 0o600), "wb")
