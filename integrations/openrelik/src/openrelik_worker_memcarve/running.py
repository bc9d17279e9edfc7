"""Work in a process of its own, with bounds: what it does wrong, or is made to do, ends that process alone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from openrelik_worker_memcarve.failure import TOO_LITTLE, TaskFailed
from openrelik_worker_memcarve.settings import IDLE, MEMORY, TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = get_task_logger(__name__)

_LONGEST = 64 << 20  # bytes of an answer
_LOGGED = 8192
_ASKED = 2.0  # seconds between two looks whether it is still wanted
_GRACE = 7  # seconds to clear up in
#: what part of a processor's time is nothing: one that waits looks now and then
_LITTLE = 0.002
#: bytes below its bound at which a process has no memory left, and seconds after which it will not get on any more:
#: an interpreter that finds no memory for a thread waits for it, or tries for ever
_FULL, _STUCK = 1 << 20, 6


def run(
    job: dict[str, Any],
    progress: Callable[[int, int], object],
    keep: Sequence[int] = (),
    given_up: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Do a job (what `job` reads) and return its answer; raises TaskFailed with its reason.

    `progress` is called with bytes done and in all. The process has the descriptors `keep`, too; it ends if this one
    does, or if the job is `given_up`, which is asked now and then.
    """
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "openrelik_worker_memcarve.job"]
        child = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=keep,
            start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            answer = _answer(child, {**job, "memory": MEMORY}, progress, given_up)
        except BaseException as error:
            if isinstance(error, TaskFailed):
                child.kill()  # what is stuck does not clear up; whoever gave the job does
            _end(child)
            raise
        finally:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        _end(child)
        _log(errors)
    if answer is None:
        raise TaskFailed(_ended(child.returncode))
    if "error" in answer:
        raise TaskFailed(answer["error"])
    found: dict[str, Any] = answer["answer"]
    return found


def _answer(
    child: subprocess.Popen[bytes],
    job: dict[str, Any],
    progress: Callable[[int, int], object],
    given_up: Callable[[], bool],
) -> dict[str, Any] | None:
    """Return the last thing that a process says, None if it ends without a word."""
    assert child.stdin is not None  # noqa: S101 - it was asked for
    assert child.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        # stays open: its end tells the process that this one has ended
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()
    looks = _Looks(child.pid)
    data = bytearray()
    told = None
    while True:
        ready, _, _ = select.select([child.stdout], [], [], _ASKED)
        if given_up():
            raise TaskFailed("the task was revoked")
        looks.refuse_stuck()
        if not ready:
            continue
        some = os.read(child.stdout.fileno(), 1 << 16)
        if not some:
            return None
        data += some
        if len(data) > _LONGEST:
            raise TaskFailed("its answer is larger than answers can be")
        *lines, rest = data.split(b"\n")
        data = bytearray(rest)
        for line in lines:
            said = json.loads(line)
            if "progress" not in said:
                return dict(said)
            if said["progress"] != told:  # it says the same again as long as it waits
                told = said["progress"]
                looks.gets_on()
            progress(*said["progress"])


class _Looks:
    """Looks at a process now and then."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = self._looked = time.monotonic()
        self._done = 0.0, 0
        self.gets_on()

    def gets_on(self) -> None:
        """Note that it does something."""
        self._active = self._not_full = time.monotonic()

    def refuse_stuck(self) -> None:
        """Look at it; raise TaskFailed if it takes too long, or has not got on for too long."""
        now = time.monotonic()
        if now - self._looked < _ASKED:
            return
        self._looked = now
        seconds, moved = _done_by(self._pid)
        if moved != self._done[1] or seconds - self._done[0] > _LITTLE * (now - self._active):
            self._active, self._done = now, (seconds, moved)
        if _data(self._pid) < MEMORY - _FULL:
            self._not_full = now
        if now - self._begun > TIME:
            raise TaskFailed(f"took longer than {TIME} seconds, and was ended")
        if now - self._not_full > _STUCK:
            raise TaskFailed(TOO_LITTLE.format(MEMORY >> 20))
        if now - self._active > IDLE:
            raise TaskFailed(f"did nothing for {IDLE} seconds, and was ended: was there not enough memory?")


def _done_by(pid: int) -> tuple[float, int]:
    """Return how many seconds of a processor's time a process has used, and how many bytes it has moved.

    What it writes is counted as the disk sees it: words of progress are none of it.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = sum(map(int, file.read().rpartition(b")")[2].split()[11:13]))
        with open(f"/proc/{pid}/io", encoding="ascii") as text:
            moved = {name: int(value) for name, _, value in (line.partition(":") for line in text)}
        return ticks / os.sysconf("SC_CLK_TCK"), sum(moved[name] for name in ("rchar", "read_bytes", "write_bytes"))
    return 0.0, 0


def _data(pid: int) -> int:
    """Return how many bytes of memory of its own a process has: what RLIMIT_DATA bounds; 0 if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("VmData:")), 0)
    return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    """See to it that a process ends, and clears up before."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _log(errors: Any) -> None:  # noqa: ANN401 - a file
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _LOGGED))
    text = errors.read().decode("utf-8", "backslashreplace").strip()
    if text:
        logger.warning("%s", text)


def _ended(status: int) -> str:
    if status >= 0:
        return f"the process that did the work ended with status {status}; the worker's log has its last words"
    name = signal.Signals(-status).name if -status in [*signal.Signals] else str(-status)
    why = ": was there not enough memory?" if -status == signal.SIGKILL else ""
    return f"the process that did the work was ended by {name}{why}"
