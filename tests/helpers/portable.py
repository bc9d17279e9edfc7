"""Linux without what other systems lack: fork, sendfile, reflinks, positioned reads, calls relative to a folder.

Windows has none of these, macOS not all. With MEMCARVE_PORTABLE set, tests and the programs that they start run so.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PORTABLE = bool(os.environ.get("MEMCARVE_PORTABLE"))
_CALLS = (
    "copy_file_range",
    "fork",
    "posix_fadvise",
    "posix_fallocate",
    "pread",
    "preadv",
    "pwrite",
    "sendfile",
    "writev",
)
_FLAGS = ("O_DIRECTORY", "O_NOFOLLOW", "SEEK_DATA", "SEEK_HOLE")
_RELATIVE = ("link", "mkdir", "open", "rename", "replace", "rmdir", "stat", "unlink")


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if any(named.get(name) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError("a folder's descriptor is unavailable on this platform")
        return function(*given, **named)

    return call


def forget() -> None:
    """Take all of it away from the modules os and shutil, and fcntl and what is compiled of it altogether."""
    for name in (*_CALLS, *_FLAGS):
        if hasattr(os, name):
            delattr(os, name)
    for name in _RELATIVE:
        setattr(os, name, _refusing(getattr(os, name)))
    os.supports_dir_fd.clear()
    shutil._use_fd_functions = shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
    for module in ("fcntl", "memcarve._read_pieces"):
        sys.modules[module] = None  # type: ignore[assignment] - importing it is an ImportError then


if PORTABLE:
    forget()
