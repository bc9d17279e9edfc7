"""A task's work is done once: a journal beside its outputs, and a lock on it while somebody is at it.

Celery delivers a task again if the worker that had it is gone, or is believed to be. The journal is a file of lines of
JSON in the output folder, named by the task's identifier. Lines are only added, so that whoever is killed while it
writes spoils the last one at most, which is passed over. The lock is the kernel's: it is gone when those who hold it
are, however they ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.settings import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = re.compile(r"[A-Za-z0-9-]{1,64}")
_WAIT = 0.2


class Journal:
    """What is known of a task: `path` is the file, `folder` where its work is built until it is whole."""

    def __init__(self, output_path: str, task_id: str) -> None:
        if not _PLAIN.fullmatch(task_id):
            raise TaskFailed("the task's identifier is not one")
        self.path = os.path.join(output_path, f".memcarve-{task_id}.journal")
        self.folder = os.path.join(output_path, f".memcarve-{task_id}")
        self._file = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait until nobody else is at the task, and hold it; copies of this program that are begun hold it, too."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == os.fstat(self._file).st_ino:
                    break
            os.close(self._file)  # whoever had it took it away
        try:
            yield
        finally:
            os.close(self._file)

    @property
    def exists(self) -> bool:
        """Whether anybody has been at the task."""
        return os.path.exists(self.path)

    @property
    def descriptor(self) -> int:
        """What holds the lock, for who is begun to hold it, too."""
        return self._file

    def read(self) -> dict[str, Any]:
        """Return what was written last of each kind, and as ``begun`` how often the work was begun without an end."""
        found: dict[str, Any] = {"begun": 0}
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if "begin" in row:
                    found["begun"] += 1
                elif "end" in row:
                    found["begun"] = 0
                else:
                    found.update(row)
        return found

    def add(self, **row: object) -> None:
        """Add a line, for good."""
        # a line before it that was cut off is closed
        data = f"\n{json.dumps(row)}\n".encode()
        os.write(self._file, data)
        os.fsync(self._file)

    def begin(self, within: str = "") -> None:
        """Begin the work: what an attempt that was killed left in the folder, or `within` it, is cleared away.

        Raises TaskFailed after too many attempts.
        """
        folder = os.path.join(self.folder, within)
        attempts = self.read()["begun"]
        shutil.rmtree(folder, ignore_errors=True)
        if attempts >= ATTEMPTS:
            raise TaskFailed(
                f"{attempts} attempts ended together with their worker, the last one, too; it is not begun again"
            )
        self.add(begin=round(time.time(), 3), pid=os.getpid())
        os.mkdir(folder, 0o700)

    def clear(self) -> None:
        """Take away what is half done."""
        shutil.rmtree(self.folder, ignore_errors=True)
