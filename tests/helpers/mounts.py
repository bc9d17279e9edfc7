"""Small file systems for tests that need one of their own; they need Linux and root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def only_on_linux_as_root(*programs: str) -> None:
    """Skip the test by the name of what is missing: Linux, root, programs."""
    if sys.platform != "linux":
        pytest.skip("loop devices and mounts as these tests use them are Linux's")
    if os.geteuid():
        pytest.skip("mounting needs root")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@contextlib.contextmanager
def mounted(where: Path, *arguments: str | Path) -> Iterator[Path]:
    """Mount something, and unmount it in the end whatever happened; skip where mounting is not allowed."""
    where.mkdir()
    done = subprocess.run(["mount", *arguments, where], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    try:
        yield where
    finally:
        if subprocess.run(["umount", where], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", where], check=True)


def tmpfs(tmp_path: Path, options: str) -> contextlib.AbstractContextManager[Path]:
    """Mount a small file system in memory."""
    only_on_linux_as_root("mount", "umount")
    return mounted(tmp_path / "small", "-t", "tmpfs", "-o", options, "tmpfs")
