"""Kinds of file systems, against what df says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memcarve import file_systems


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("df") is None, reason="needs Linux and df")
def test_kinds(tmp_path: Path) -> None:
    """The kind of a folder's file system is what df calls it."""
    for folder in (tmp_path, Path("/proc"), Path("/dev/shm")):  # noqa: S108 - it is only asked about
        if folder.is_dir():
            done = subprocess.run(
                ["df", "--output=fstype", str(folder)], capture_output=True, text=True, check=True, timeout=60
            )
            assert file_systems.kind_of(str(folder)) == done.stdout.split()[-1]


@pytest.mark.parametrize(
    ("kind", "elsewhere"),
    [("ext4", False), ("tmpfs", False), (None, False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True)],
)
def test_servers(monkeypatch: pytest.MonkeyPatch, kind: str | None, *, elsewhere: bool) -> None:
    """File systems of servers may copy there; what is not known may not."""
    monkeypatch.setattr(file_systems, "kind_of", lambda _: kind)
    assert file_systems.may_copy_elsewhere("folder") is elsewhere
