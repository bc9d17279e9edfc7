"""The file that a run's log is appended to: a regular one that memcarve began, outside evidence and output."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

from memcarve import remote
from memcarve.backing import FileBacking, kind_of, status_facts
from memcarve.errors import MemcarveError, OutputError, UsageError
from memcarve.formats import manifest
from memcarve.formats.json_text import dumps
from memcarve.remote.locations import is_location
from memcarve.surroundings import surroundings
from memcarve.times import now, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: what every line begins with: only a file that does so is appended to
_MARK = '{"tool": "memcarve", "time": "'
#: what lists the files of a folder that memcarve wrote
_LISTS = (manifest.NAME, manifest.MODULES, manifest.PROCESSES, "memory.json")
_OWN = b'"tool": "memcarve"'
_HEAD = 200
_OTHER = "name another file with --log"


class LogFile:
    """An open log, and the `inputs` of which something is to be said in the end.

    Raises UsageError if it would lie in an input or in what is written, OutputError if it cannot be written.
    """

    def __init__(self, path: str, inputs: Sequence[str], output: str | None) -> None:
        _check_place(path, inputs, output)
        self.path = path
        self.run = f"{os.getpid()}-{os.urandom(4).hex()}"
        self.inputs = dict.fromkeys(inputs)
        self.failed = False
        self.fd = _open(path, inputs)

    def write(self, level: str, event: str, members: dict[str, Any]) -> None:
        """Append a line; raises OutputError."""
        found = {"run": self.run, "level": level, "event": event, **members}
        line = f'{_MARK}{rfc3339(now(), "milliseconds")}", {dumps(found)[1:]}\n'.replace("\x7f", "\\u007f").encode()
        try:
            whole = os.write(self.fd, line) == len(line)
        except OSError as error:
            self.failed = True
            raise _cannot(self.path, error.strerror) from error
        if not whole:
            self.failed = True
            raise _cannot(self.path, "there is no room for a whole line")

    def write_begin(self, command: Sequence[str]) -> None:
        """Append the command line, and where it runs."""
        self.write("info", "begin", {"command": list(command), "directory": os.getcwd(), **surroundings()})

    def write_input(self, event: str, path: str, known: dict[str, Any] | None = None) -> None:
        """Append what is `known` of an input, by default what is there now."""
        self.write("info", event, _facts(path) if known is None else known)


def _facts(path: str) -> dict[str, Any]:
    """Return what is there at a path: length and times of a file."""
    if is_location(path):
        return {"path": path, **(remote.facts_of(path) or {}), **(remote.read_of(path) or {})}
    try:
        status = os.stat(path)
    except OSError as error:
        return {"path": path, "problem": error.strerror}
    facts = status_facts(status)
    return {"path": path, **(facts if stat.S_ISREG(status.st_mode) else {"kind": kind_of(status.st_mode)})}


def _check_place(path: str, inputs: Iterable[str], output: str | None) -> None:
    """Raise UsageError if a log would lie in evidence, or in what memcarve writes or has written."""
    place = os.path.realpath(path)
    for each in inputs:
        source = os.path.realpath(each)
        if source == place or (os.path.isdir(source) and place.startswith(os.path.join(source, ""))):
            raise UsageError("is an input, or lies in one", subject=path, remedy=_OTHER)
    if output is not None and os.path.join(place, "").startswith(os.path.join(os.path.realpath(output), "")):
        raise UsageError("is the output, or lies in it", subject=path, remedy=_OTHER)
    folder = os.path.dirname(place)
    while True:
        for name in _LISTS:
            if _is_ours(os.path.join(folder, name)):
                raise UsageError("lies in what memcarve wrote", subject=path, remedy=_OTHER)
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return


def _is_ours(path: str) -> bool:
    """Return True if a list of what lies beside it is memcarve's."""
    if os.path.lexists(path):
        with contextlib.suppress(MemcarveError), FileBacking(path, follow=False) as file:
            return _OWN in file.read_at(0, _HEAD)
    return False


def _open(path: str, inputs: Iterable[str]) -> int:
    """Return the descriptor of a file that is appended to; a new one is for its owner alone."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = -1
    try:
        with contextlib.suppress(FileNotFoundError):  # what is no file is not even opened
            _check_kind(path, os.lstat(path))
        fd = os.open(path, flags, 0o600)
        status = os.fstat(fd)
        _check_kind(path, status)
        _check_other(path, status, inputs)
        if status.st_size:
            _check_own(path, fd, status.st_size)
    except OSError as error:
        raise _cannot(path, error.strerror) from error
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return fd


def _check_other(path: str, status: os.stat_result, inputs: Iterable[str]) -> None:
    """Raise UsageError if a file is one of the inputs, by whatever name."""
    for each in inputs:
        with contextlib.suppress(OSError):  # what opens it says so
            same = os.path.samestat(os.stat(each), status)
            if same:
                raise UsageError("is an input", subject=path, remedy=_OTHER)


def _check_own(path: str, fd: int, size: int) -> None:
    """Raise UsageError if a file is not a log of memcarve's; end its last line, if a run was killed within it."""
    if os.read(fd, len(_MARK)) != _MARK.encode():
        raise UsageError("exists, and is not a log that memcarve wrote", subject=path, remedy=_OTHER)
    os.lseek(fd, size - 1, os.SEEK_SET)
    if os.read(fd, 1) != b"\n":
        os.write(fd, b"\n")


def _check_kind(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"is {kind_of(status.st_mode)}, and a log is a regular file", subject=path, remedy=_OTHER)


def _cannot(path: str, why: str | None) -> OutputError:
    return OutputError(f"the log cannot be written: {why}", subject=path, remedy=_OTHER)
