"""The log of a run: JSON lines that are appended to a file as things happen, so that a run that is killed leaves them.

A line is one object in ASCII, so no name in it can forge another line or do anything to a terminal. Several runs may
append to one file at once: each line is written by one call, and says which run it is of.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from memcarve.errors import MemcarveError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.cli.log_file import LogFile

_KNOWN = ("path", "size", "modified", "device", "inode", "etag", "object_version", "sha256")
_LEVELS = {0: "info", 3: "warning"}  # of the exit statuses

_open_log: LogFile | None = None


def begin(path: str | None, command: Sequence[str], inputs: Sequence[str], output: str | None) -> None:
    """Begin the log of a command, if there is to be one: its line, the machine, and the inputs that were named.

    Raises UsageError if the log would lie in an input or in what is written, OutputError if it cannot be written.
    """
    global _open_log  # noqa: PLW0603 - there is one command line, and one log of it
    _open_log = None
    if path is None:
        return
    log_file = importlib.import_module("memcarve.cli.log_file")  # help and completion do without
    log: LogFile = log_file.LogFile(path, inputs, output)
    _open_log = log
    log.write_begin(command)
    for each in inputs:
        log.write_input("input", each)


def record(level: str, event: str, **members: Any) -> None:  # noqa: ANN401 - ready for JSON
    """Append a line to the log, if there is one; raises OutputError."""
    if _open_log is not None:
        _open_log.write(level, event, members)


def record_inputs(inputs: dict[str, Any]) -> None:
    """Append what a process was read from, if it was not named, and remember it for the end; raises OutputError."""
    if _open_log is None:
        return
    for each in inputs.values():
        for row in each if isinstance(each, list) else [each]:
            path = row.get("path") if isinstance(row, dict) else None
            if isinstance(path, str) and path not in _open_log.inputs:
                _open_log.inputs[path] = None
                known = {name: row[name] for name in _KNOWN if name in row}
                _open_log.write_input("input", path, known if "modified" in known else None)


def end(status: int) -> MemcarveError | None:
    """Append the inputs as they are now and the exit status, and close the log; return what went wrong with it."""
    global _open_log
    log, _open_log = _open_log, None
    if log is None:
        return None
    try:
        for path in () if log.failed else log.inputs:
            log.write_input("input after", path)
        log.write(_LEVELS.get(status, "error"), "end", {"exit_status": status})
    except OutputError as error:
        return error
    finally:
        os.close(log.fd)
    return None
