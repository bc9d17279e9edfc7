"""Real files that tests ask for, or are skipped without: a real process's dump, and PE files.

The dump is not in the repository (it holds other people's programs). Its folder is given by MEMCARVE_REAL, or lies
beside the repository as ``shared/real``. Real PE files come from Debian's packages gcc-mingw-w64-x86-64-posix-runtime,
gcc-mingw-w64-i686-posix-runtime and libwine: from where these install them, or from MEMCARVE_DLLS, a folder that they
were unpacked into.
"""

from __future__ import annotations

import functools
import glob
import os
from pathlib import Path

import pytest

from files import ROOT

REAL = Path(os.environ.get("MEMCARVE_REAL") or ROOT / "../shared/real").resolve()
STEM = "pid.114.user"
RENDERERS = ("map", "csv", "json", "jsonl", "pretty")
CLOCK = 0x7FFE0000  # Windows's shared data: the time of day is in it
NEEDED = [f"{STEM}.{ending}" for ending in ("dmp", *RENDERERS)] + ["114.pages", "114.maps"]
PLACES = ("/usr/lib/gcc/*-w64-mingw32/*/*.dll", "/usr/lib/*/wine/*-windows/*.dll", "/usr/lib/*/wine/*-windows/*.exe")
PACKAGES = "gcc-mingw-w64-x86-64-posix-runtime, gcc-mingw-w64-i686-posix-runtime, libwine"


def needed(name: str) -> Path:
    """Return one of the files, or skip the test with the name of what is missing."""
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is missing; MEMCARVE_REAL names the folder that holds {', '.join(NEEDED)}")
    return path


@functools.cache
def dlls() -> list[str]:
    """Return real PE files, or skip the test with the packages that hold them."""
    root = os.environ.get("MEMCARVE_DLLS", "/")
    found = sorted(path for place in PLACES for path in glob.glob(os.path.join(root, place.lstrip("/"))))
    return [path for path in found if os.path.getsize(path) < 4 << 20]


def needed_dlls() -> list[str]:
    """Return some of the real PE files."""
    found = dlls()
    if not found:
        pytest.skip(f"no PE files are here; install {PACKAGES}, or let MEMCARVE_DLLS name where they were unpacked")
    return found[:: max(len(found) // 60, 1)]
