"""Running MemProcFS, which has a process of its own and little time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from files import ROOT

READER = str(ROOT / "tests" / "helpers" / "memprocfs_reader.py")
#: it takes a fifth of a second
LONGEST = 60


def run(*arguments: str, stdin: str = "{}") -> str:
    """Return what MemProcFS says of an image."""
    done = subprocess.run(
        [sys.executable, READER, *arguments], input=stdin, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def skip_without() -> None:
    """Skip where MemProcFS cannot be imported; it never is in this process."""
    if importlib.util.find_spec("memprocfs") is None:
        pytest.skip("memprocfs is not installed")
    done = subprocess.run([sys.executable, READER], capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode:
        # the first error says which library is missing, the last one nothing
        errors = [line for line in done.stderr.splitlines() if "Error: " in line]
        pytest.skip(f"memprocfs cannot be imported: {errors[0] if errors else done.returncode}")
