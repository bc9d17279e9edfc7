"""Where large temporary files go: to a folder on disk, never unasked into memory."""

from __future__ import annotations

import os
import tempfile

from memcarve.errors import OutputError

_IN_MEMORY = ("tmpfs", "ramfs")


def temporary_folder(path: str, why: str = "is compressed") -> str:
    """Return a folder on disk for what is made of the file at `path`, or raise OutputError, which says why it is."""
    folder = on_disk(tempfile.gettempdir(), "/var/tmp")  # noqa: S108 - the file in it has no name
    if folder is None:
        raise OutputError(
            f"{why}, and the temporary folders of this system lie in memory, where nothing large is written unasked",
            subject=path,
            remedy="{temp:DIR} names a folder",
        )
    return folder


def on_disk(*folders: str) -> str | None:
    """Return the first of some folders that can be written to and does not lie in memory; None if none is like that."""
    return next((each for each in folders if os.path.isdir(each) and os.access(each, os.W_OK) and _is_disk(each)), None)


def _is_disk(folder: str) -> bool:
    """Return False if Linux says that a folder lies in memory."""
    device = os.stat(folder).st_dev
    try:
        number = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            rows = [line.split() for line in mounts]
    except (AttributeError, OSError):  # another system, or one that does not say
        return True
    # proc(5): device is the third cell, the type follows a cell of its own, "-"
    return not any(row[2] == number and row[row.index("-", 6) + 1] in _IN_MEMORY for row in rows)
