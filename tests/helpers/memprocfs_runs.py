"""Running MemProcFS, which has a process of its own and little time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from files import ROOT

READER = str(ROOT / "tests" / "helpers" / "memprocfs_reader.py")
#: it takes a fifth of a second
LONGEST = 60


def run(*arguments: str, stdin: str = "{}", package: Path | None = None) -> str:
    """Return what MemProcFS says of an image; `package` is where it is imported from, if not from where it is."""
    done = subprocess.run(
        [sys.executable, READER, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        env=None if package is None else {**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def with_xpress(place: Path) -> Path:
    """Return a folder with a copy of MemProcFS that decodes Xpress: the library for that must lie beside it."""
    for name in ("memprocfs", "leechcorepyc"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.skip(f"{name} is not installed")
        folder = Path(spec.origin).parent
        if name == "memprocfs":
            shutil.copytree(folder, place / name)
        for library in folder.glob("libMSCompression*"):
            shutil.copy(library, place / "memprocfs")
    return place


def skip_without() -> None:
    """Skip where MemProcFS cannot be imported; it never is in this process."""
    if importlib.util.find_spec("memprocfs") is None:
        pytest.skip("memprocfs is not installed")
    done = subprocess.run([sys.executable, READER], capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode:
        # the first error says which library is missing, the last one nothing
        errors = [line for line in done.stderr.splitlines() if "Error: " in line]
        pytest.skip(f"memprocfs cannot be imported: {errors[0] if errors else done.returncode}")
