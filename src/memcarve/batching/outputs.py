"""The folder of one input in a batch: what the command writes there is called, and what a killed run has left."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

from memcarve.errors import InputError, OutputError
from memcarve.formats import partial_mark
from memcarve.sinks.ownership import left_of
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

#: what the command said, of what it did and of what was wrong
LOG = "log.txt"
_PART = ".part"  # behind the name of a listing as long as it is not whole
_TAIL = 1 << 16  # bytes of a log in which the reason is looked for
_PREFIX = "memcarve: "


def listing_part(folder: str, listing: str) -> str:
    """Return where a listing is written as long as it is not whole."""
    return os.path.join(folder, listing + _PART)


def prepare(folder: str) -> None:
    """Make a folder for what is written of an input, or clear what a killed run has left in it.

    Raises OutputError if something else has its name.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise OutputError("is not a folder of this batch", subject=folder, remedy="move it away")
        clear(folder)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", subject=folder) from error


def clear(folder: str) -> None:
    """Remove what was being built in the folder of an input when its process was killed; raises OSError."""
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if left_of(entry) is not None and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif left_of(entry) is not None or entry.endswith(_PART):
            os.unlink(path)


def how_to_go_on(output: str, *, anew: bool) -> list[str]:
    """Return the options with which a command writes an output that a run before has written, or begun.

    What was begun of several processes is gone on with, unless all is to be written `anew`.
    """
    if not os.path.lexists(output):
        return []
    with contextlib.suppress(InputError):
        mark = partial_mark.of(output) if os.path.isdir(output) else None
        if mark is not None and not anew and mark.head.get("version") == __version__:
            return ["--resume"]
    return ["--force"]


def finish_listing(folder: str, listing: str, *, whole: bool) -> None:
    """Give a listing that is whole its name, and remove any other, an earlier one too; raises OSError."""
    part, path = listing_part(folder, listing), os.path.join(folder, listing)
    if whole:
        os.replace(part, path)
        return
    for each in (part, path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(each)


def written(folder: str) -> tuple[list[str], int]:
    """Return what lies in the folder of an input besides the log, and how many bytes that is; raises OSError."""
    names = sorted(entry for entry in os.listdir(folder) if entry != LOG and left_of(entry) is None)
    return names, sum(_sizes(os.path.join(folder, name)) for name in names)


def _sizes(path: str) -> int:
    """Return the length of a file, or of all files in a folder."""
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size
    return sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(path) for name in names)


def reason(folder: str, *, failed: bool) -> str | None:
    """Return the line of a log that says what went wrong; of several the first, which the others follow from."""
    lines = list(_lines(os.path.join(folder, LOG)))
    for beginning in (_PREFIX, "incomplete: "):
        found = next((line for line in lines if line.startswith(beginning)), None)
        if found is not None:
            return found.removeprefix(_PREFIX).removeprefix("incomplete: ")
    return lines[-1] if failed and lines else None


def _lines(log: str) -> Iterator[str]:
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - _TAIL, 0))
        for line in file.read(_TAIL).decode("utf-8", "replace").splitlines():
            if line.strip():
                yield line.strip()
