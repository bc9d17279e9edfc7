"""The inputs of a task as memcarve opens them: under their own names, so that what belongs together is found."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import memcarve
from openrelik_worker_memcarve.failure import TaskFailed
from openrelik_worker_memcarve.settings import DECODED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.process import Container

    Progress = Callable[[int, int], object]

_SMALL = 64 << 20


@contextlib.contextmanager
def opened(job: dict[str, Any], progress: Progress) -> Iterator[Container]:
    """Open the input of a job, in a folder with what may belong to it; raises InputError."""
    folder = os.path.join(job["folder"], "in")
    os.makedirs(folder, exist_ok=True)
    for name, path in job["inputs"].items():
        if name in job["evidence"] and name != job["input"]:
            continue
        _laid(path, os.path.join(folder, name), beside=name != job["input"])
    path = os.path.join(folder, job["input"])
    if not os.path.isfile(path):
        raise TaskFailed(f"{job['input']}: there is no such file where the worker looks for it")
    temp = os.path.join(job["folder"], "temp")
    os.makedirs(temp, exist_ok=True)
    with memcarve.open(path, temp=temp, limit_decoded=DECODED, progress=progress) as container:
        yield container


def _laid(path: str, target: str, *, beside: bool) -> None:
    """Lay a file under its own name, without moving it.

    What lies `beside` an input, such as a dump's map, memcarve takes only as the file itself, not through a link to its
    name; such files are small.
    """
    with contextlib.suppress(FileExistsError):
        if beside and _size(path) <= _SMALL:
            with contextlib.suppress(OSError):
                shutil.copyfile(path, target)
                return
        os.symlink(os.path.abspath(path), target)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return _SMALL + 1


def chosen(container: Container, wanted: dict[str, Any]) -> list[int]:
    """Return the places of the processes that a task is to take: all with memory, or those that were asked for.

    They are asked for by numbers and patterns for names. Raises UsageError, ProcessError.
    """
    words = str(wanted.get("processes") or "").replace(",", " ").split()
    if not words:
        return container.certain()
    pids = [int(word) for word in words if word.isascii() and word.isdigit()]
    found = container.choose(pids) if pids else []
    for word in words:
        if not (word.isascii() and word.isdigit()):
            found += container.choose(name=word)
    return [*dict.fromkeys(found)]


def is_same(container: Container, index: int, known: dict[str, Any]) -> bool:
    """Say whether a place in a list of processes holds the one that another process of ours saw there."""
    entries = container.listed()  # so that an image is not searched for others if this is one of its own list
    entry = entries[index] if index < len(entries) else container.processes()[index]
    return identity_of(entry) == known


def identity_of(entry: memcarve.process.ProcessEntry) -> dict[str, Any]:
    """Return what a process is known again by, ready for JSON."""
    return {"pid": entry.pid, "root": entry.root, "object": entry.object}
