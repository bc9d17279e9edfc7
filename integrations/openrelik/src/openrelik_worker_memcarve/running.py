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

from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.settings import IDLE, MEMORY, TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = get_task_logger(__name__)

_LONGEST = 64 << 20  # bytes of an answer
_LOGGED = 8192
_ASKED = 2.0  # seconds between two looks whether it is still wanted
_GRACE = 7  # seconds to clear up in


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
        except BaseException:
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
    begun = active = time.monotonic()
    used = -1
    data = bytearray()
    while True:
        ready, _, _ = select.select([child.stdout], [], [], _ASKED)
        now = time.monotonic()
        if now - begun > TIME:
            raise TaskFailed(f"took longer than {TIME} seconds, and was ended")
        if given_up():
            raise TaskFailed("the task was revoked")
        if not ready:
            before, used = used, _used(child.pid)
            active = now if used != before else active
            if now - active > IDLE:
                raise TaskFailed(f"did nothing for {IDLE} seconds, and was ended: was there not enough memory?")
            continue
        active = now
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
            progress(*said["progress"])


def _used(session: int) -> int:
    """Return the time on processors, in ticks, that the processes of a session have used so far."""
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:13]))
    return ticks


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
