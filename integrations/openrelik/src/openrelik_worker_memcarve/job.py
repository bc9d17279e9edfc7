"""The process that does the work of one task: a job of JSON on stdin; progress, and at last the answer, on stdout.

It has bounded memory, and ends when whoever began it does: then its stdin ends. What it has built by then is taken
away.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from openrelik_worker_memcarve.failure import TOO_LITTLE

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY = 1.0  # seconds between two words of progress
_GRACE = 5.0


class Left(BaseException):
    """Whoever began this process is gone."""


def main() -> None:
    """Do one job."""
    out = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # nothing else is to come between the lines
    given = bytearray()
    while not given.endswith(b"\n"):
        some = os.read(0, 1 << 16)
        if not some:
            return
        given += some
    job = json.loads(given)
    resource.setrlimit(resource.RLIMIT_DATA, (job["memory"], job["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = threading.Event()
    args = done, threading.main_thread().ident, job.get("clear")
    thread = threading.Thread(target=_watch, args=args, daemon=True)
    thread.start()
    try:
        said = _said(job, out)
    except Left:
        _clear(job.get("clear"))
        os._exit(1)
    done.set()
    with contextlib.suppress(BrokenPipeError):
        out.write(json.dumps(said).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0)  # a thread reads stdin


def _said(job: dict[str, Any], out: Any) -> dict[str, Any]:  # noqa: ANN401 - a file
    told = 0.0
    last: list[int] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal told, last
        now, last = time.monotonic(), [int(done), int(total)]
        if now - told >= _EVERY:
            told = now
            out.write(json.dumps({"progress": last}).encode() + b"\n")
            last = None

    try:
        from openrelik_worker_memcarve.work import DO  # noqa: PLC0415 - within the bounds, and so that errors are told

        do: Callable[..., dict[str, Any]] = DO[job["do"]]
        answer = do(job, progress)
    except (MemoryError, RuntimeError) as error:
        # a thread that has no room for its stack is the second kind
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            return {"error": _worded(error)}
        return {"error": TOO_LITTLE.format(job["memory"] >> 20)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told and ends this process alone
        return {"error": _worded(error)}
    if last is not None:
        out.write(json.dumps({"progress": last}).encode() + b"\n")
    return {"answer": answer}


def _worded(error: Exception) -> str:
    from memcarve.errors import MemcarveError, printable  # noqa: PLC0415 - see above
    from openrelik_worker_memcarve.failure import TaskFailed  # noqa: PLC0415

    if isinstance(error, MemcarveError | TaskFailed):
        return printable(str(error))
    import traceback  # noqa: PLC0415

    traceback.print_exc()
    if isinstance(error, OSError):
        return printable(f"{error.filename or 'the system'}: {error.strerror or error}")
    return printable(f"a fault of the worker's own: {type(error).__name__}: {error}")


def _watch(done: threading.Event, thread: int | None, folder: str | None) -> None:
    """Wait for the end of stdin; if that comes before the work is done, end it."""
    os.read(0, 1)
    if done.is_set():
        return
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread or 0), ctypes.py_object(Left))
    time.sleep(_GRACE)  # the work may be in a long call
    _clear(folder)
    os._exit(1)


def _clear(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
