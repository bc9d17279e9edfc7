"""What an operating system says may be done with a region: its protection, in full and collapsed to three letters.

That is another thing than the permissions in the page tables (``permissions.py``). Sources: Microsoft, "Memory
Protection Constants" (winnt.h); proc_pid_maps(5).
"""

from __future__ import annotations

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
#: the words that a protection of Windows is made of
WORDS = frozenset({*_WINDOWS, "PAGE_GUARD", "PAGE_NOCACHE", "PAGE_WRITECOMBINE"})
_UNIX = re.compile(r"([r-][w-][x-])[ps]?")


def collapsed(protection: str | None) -> str | None:
    """Return a protection as ``r-x``; None where it is not known, or is none of those that are documented.

    ``c`` stands for write-copy: what is written goes into a copy of the process's own. Every image that Windows maps
    is ``rcx`` as a whole; that is not the same as ``rwx``.
    """
    if protection is None:
        return None
    unix = _UNIX.fullmatch(protection)
    if unix:
        return unix[1]
    letters = [_WINDOWS[word] for word in protection.split("|") if word in _WINDOWS]
    return letters[0] if len(letters) == 1 else None
