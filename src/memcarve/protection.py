"""The protection that an operating system gives a region, in full and collapsed to three letters.

The permissions in page tables are something else (``permissions.py``). Sources: Microsoft, "Memory Protection
Constants" (winnt.h); proc_pid_maps(5).
"""

from __future__ import annotations

import functools
import re

_WINDOWS = {
    "PAGE_NOACCESS": "---",
    "PAGE_READONLY": "r--",
    "PAGE_READWRITE": "rw-",
    "PAGE_WRITECOPY": "rc-",
    "PAGE_EXECUTE": "--x",
    "PAGE_EXECUTE_READ": "r-x",
    "PAGE_EXECUTE_READWRITE": "rwx",
    "PAGE_EXECUTE_WRITECOPY": "rcx",
}
#: the words that make up a protection on Windows
WORDS = frozenset({*_WINDOWS, "PAGE_GUARD", "PAGE_NOCACHE", "PAGE_WRITECOMBINE"})
_UNIX = re.compile(r"([r-][w-][x-])[ps]?")


def is_of_unix(protection: str | None) -> bool:
    """Return True if a protection is in the letters of a Unix, ``r-xp`` or ``r-x``."""
    return protection is not None and _UNIX.fullmatch(protection) is not None


@functools.lru_cache(maxsize=1024)  # of millions of regions few are protected differently
def collapsed(protection: str | None) -> str | None:
    """Return a protection as ``r-x``; None if it is unknown or not a documented one.

    ``c`` stands for write-copy: the process writes to a copy of its own. Windows maps every image as ``rcx``, which is
    not the same as ``rwx``.
    """
    if protection is None:
        return None
    unix = _UNIX.fullmatch(protection)
    if unix:
        return unix[1]
    letters = [_WINDOWS[word] for word in protection.split("|") if word in _WINDOWS]
    return letters[0] if len(letters) == 1 else None
