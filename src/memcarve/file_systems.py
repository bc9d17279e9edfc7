"""What kind of file system a folder lies on, as Linux says it."""

from __future__ import annotations

import os

#: whose servers copy by themselves: what is read and written instead would cross the network twice
_COPIED_BY_SERVERS = {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "lustre", "afs", "9p", "virtiofs"}
_IN_MEMORY = ("tmpfs", "ramfs")


def kind_of(folder: str) -> str | None:
    """Return what Linux calls the file system of a folder (``"ext4"``); None on other systems, or if it is not said.

    Raises OSError if there is no such folder.
    """
    device = os.stat(folder).st_dev
    try:
        number = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            rows = [line.split() for line in mounts]
    except (AttributeError, OSError):  # another system, or one that does not say
        return None
    # proc(5): device is the third cell, the type follows a cell of its own, "-"
    return next((row[row.index("-", 6) + 1] for row in rows if row[2] == number), None)


def may_copy_elsewhere(folder: str) -> bool:
    """Return True if a copy within a folder's file system may be made by the server that it lies on."""
    return (kind_of(folder) or "").partition(".")[0] in _COPIED_BY_SERVERS


def on_disk(*folders: str) -> str | None:
    """Return the first of some folders that can be written to and does not lie in memory; None if none is like that."""
    return next(
        (
            each
            for each in folders
            if os.path.isdir(each) and os.access(each, os.W_OK) and kind_of(each) not in _IN_MEMORY
        ),
        None,
    )
