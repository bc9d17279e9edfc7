"""The folder that is mounted on, and what the system needs for it: looked at before anything is mounted."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import shutil
import stat
import sys
from typing import TYPE_CHECKING, Any

from memcarve.errors import MissingExtraError, MountError, TargetExistsError

if TYPE_CHECKING:
    Library = Any  #: mfusepy

_DEVICE = "/dev/fuse"
_PACKAGES = "install FUSE: apt install fuse3, dnf install fuse3; macOS: macFUSE; Windows: WinFsp"
_HELPERS = {2: "fusermount", 3: "fusermount3"}


def fuse_library() -> Library:
    """Return mfusepy, with FUSE's own library: libfuse 3 if it is there. Raises MissingExtraError, MountError."""
    from ctypes.util import find_library

    try:
        if sys.platform == "linux" and find_library("fuse3"):  # mfusepy prefers libfuse 2, which knows no READDIRPLUS
            os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
        return importlib.import_module("mfusepy")
    except ImportError:
        raise MissingExtraError("mounting needs another package", remedy="pip install 'memcarve[mount]'") from None
    except (OSError, AttributeError):  # what it raises if it finds none, or one that it does not know
        raise MountError("FUSE's library (libfuse) is not installed, or is too old", remedy=_PACKAGES) from None


def check_mount_point(folder: str) -> None:
    """Raise MountError or TargetExistsError if nothing can be mounted on a folder."""
    try:
        mode = os.stat(folder).st_mode
        entries = os.listdir(folder) if stat.S_ISDIR(mode) else []
    except FileNotFoundError:
        raise MountError("is not there", subject=folder, remedy="make it: mkdir makes an empty folder") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            problem = "is what is left of a mount whose program has ended"
            raise MountError(problem, subject=folder, remedy=f"leave it: {unmounting(folder)}") from None
        raise MountError(f"cannot be mounted on: {error.strerror}", subject=folder) from None
    if not stat.S_ISDIR(mode):
        raise MountError("is not a folder", subject=folder, remedy="give an empty folder")
    if os.path.ismount(folder):
        problem = "something is mounted there already"
        raise TargetExistsError(problem, subject=folder, remedy=f"leave that ({unmounting(folder)}), or give another")
    if entries:
        raise TargetExistsError(
            "is not empty", subject=folder, remedy="give an empty folder: what lies there is hidden"
        )


def check_system(fuse: Library) -> None:
    """Raise MountError if the system cannot mount: no /dev/fuse, or nothing that mounts for who is not root."""
    if not hasattr(os, "geteuid") or os.uname().sysname != "Linux":
        return
    if not os.path.exists(_DEVICE):
        problem = "is not there: the kernel, or the container that this runs in, has no FUSE"
        raise MountError(
            problem, subject=_DEVICE, remedy="modprobe fuse; docker run --device /dev/fuse --cap-add SYS_ADMIN"
        )
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        raise MountError("is not yours to use", subject=_DEVICE, remedy="root, or its group (fuse), may let you")
    helper = _HELPERS[fuse.fuse_version_major]
    if os.geteuid() != 0 and shutil.which(helper) is None:
        raise MountError(f"{helper} is not installed, which mounts for who is not root", remedy=_PACKAGES)


def unmounting(folder: str) -> str:
    """Return the command that leaves a mount."""
    found = next((name for name in ("fusermount3", "fusermount") if shutil.which(name)), None)
    where = shlex.quote(f"./{folder}" if folder.startswith("-") else folder)
    return f"umount {where}" if found is None else f"{found} -u {where}"
