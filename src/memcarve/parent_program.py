"""Programs that end with the one that started them, whatever becomes of that."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

#: the variable that holds the number of the program that one which it started is not to outlive
PARENT = "MEMCARVE_PARENT"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Have Linux kill this copy at once when the program that made it has been killed, whatever the copy is doing."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # a C library of another kind
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was killed before
            os._exit(1)


def die_with_parent() -> None:
    """Do so in a program that another one started, if that has left its number in the environment."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        die_with(int(parent))
