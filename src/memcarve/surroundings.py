"""Where the work is done: the machine, its clock, the user, and the programs that take part."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
import time
from typing import Any

from memcarve.version import __version__

#: packages that work on the bytes of inputs and outputs
_LIBRARIES = ("numpy", "pyarrow", "backports.zstd", "cramjam", "lzallright", "pyzipper")
_TIMEX_BYTES = 512  # struct timex has 208 on Linux with 64 bits, fewer elsewhere: room for all of them
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def surroundings() -> dict[str, Any]:
    """Return what is known of the machine and of the programs, ready for JSON; None is not known."""
    return {**_machine(), "clock_synchronised": _synchronised(), "libraries": _libraries()}


@functools.cache
def _machine() -> dict[str, Any]:
    """Return what does not change while the program runs."""
    return {
        "host": platform.node() or None,
        "system": system(),
        "user": _user(),
        "time_zone": _time_zone(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "memcarve": __version__,
    }


def system() -> str:
    """Return the operating system in words: the kernel's version, and the distribution if there is one."""
    words = [platform.system(), platform.release(), platform.machine()]
    if sys.platform == "linux":
        with contextlib.suppress(OSError, KeyError):  # not every system has /etc/os-release
            words.append(f"({platform.freedesktop_os_release()['PRETTY_NAME']})")
    else:
        words.append(f"({platform.version()})")
    return " ".join(filter(None, words))


def _user() -> str | None:
    """Return the name of the user whom the system knows this program by, or the number."""
    if not hasattr(os, "getuid"):
        return os.environ.get("USERNAME")
    number = os.getuid()
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):  # a container may have no name for it, a small system no names at all
        return str(number)


def _time_zone() -> str:
    """Return the time zone that this program runs in: ``+01:00 CET``."""
    local = time.localtime()
    sign, minutes = "-" if local.tm_gmtoff < 0 else "+", abs(local.tm_gmtoff) // 60
    return f"{sign}{minutes // 60:02}:{minutes % 60:02} {local.tm_zone}"


def _synchronised() -> bool | None:
    """Return whether the system says that its clock is synchronised (adjtimex(2)); None if it does not say."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))  # mode 0: it only reads
    except (OSError, AttributeError):  # another C library
        return None
    return None if state < 0 else state != _TIME_ERROR


def _libraries() -> dict[str, str]:
    """Return the versions of the packages that have been imported."""
    return {name: _version(name) for name in _LIBRARIES if name in sys.modules}


@functools.cache
def _version(package: str) -> str:
    known = vars(sys.modules[package]).get("__version__")
    if isinstance(known, str):
        return known
    found = _installed(package)
    if found is not None:
        return found
    from importlib import metadata  # slow, and seldom needed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _installed(package: str) -> str | None:
    """Return the version that what was installed beside a package says; None if that is not plain.

    `importlib.metadata` knows of more ways, and its modules take 7 ms to import.
    """
    folder = os.path.dirname(os.path.dirname(getattr(sys.modules[package], "__file__", None) or ""))
    with contextlib.suppress(OSError):
        names = os.listdir(folder) if folder else []
        found = [name for name in names if name.startswith(f"{package}-") and name.endswith(".dist-info")]
        if len(found) == 1:
            with open(os.path.join(folder, found[0], "METADATA"), encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if line.startswith("Version: "):
                        return line.removeprefix("Version: ").strip()
    return None
