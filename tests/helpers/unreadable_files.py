"""A file system whose files have blocks that cannot be read, as those on a disk with bad sectors.

It needs /dev/fuse, libfuse 3 and mfusepy. As a program of its own, it serves one: ``unreadable_files.py WHERE FOLDER
BAD``, where BAD is JSON: for each file that has any, begin and end of what cannot be read.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from ctypes.util import find_library
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BLOCK = 4096
_PATIENCE = 20.0


def ranges_of(blocks: Iterable[int], size: int = BLOCK) -> list[tuple[int, int]]:
    """Return begin and end of blocks that are given by their numbers."""
    return [(number * size, (number + 1) * size) for number in blocks]


@contextlib.contextmanager
def unreadable(folder: Path, bad: Mapping[str, Iterable[tuple[int, int]]]) -> Iterator[Path]:
    """Show the files of a folder in another one, beside it, where reading what is `bad` fails with EIO.

    The page cache reads whole pages: one that is bad in part cannot be read at all.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not there or not ours: files with unreadable blocks need it")
    if find_library("fuse3") is None and find_library("fuse") is None:
        pytest.skip("libfuse is not installed (fuse3)")
    if importlib.util.find_spec("mfusepy") is None:
        pytest.skip("mfusepy is not installed")
    where = folder.with_name(f"{folder.name}-unreadable")
    where.mkdir()
    text = json.dumps({name: list(ranges) for name, ranges in bad.items()})
    with subprocess.Popen([sys.executable, __file__, where, folder, text], stderr=subprocess.PIPE) as server:
        try:
            begun = time.monotonic()
            while not os.path.ismount(where):
                if server.poll() is not None:
                    assert server.stderr is not None
                    pytest.skip(f"FUSE: {server.stderr.read().decode().strip()[-200:]}")
                assert time.monotonic() - begun < _PATIENCE, "the file system was not mounted"
                time.sleep(0.01)
            yield where
        finally:
            for words in (["fusermount3", "-u"], ["umount"], ["umount", "--lazy"]):
                if server.poll() is None and shutil.which(words[0]):
                    subprocess.run([*words, where], capture_output=True, check=False)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        server.wait(5)
            server.kill()


def serve(where: str, folder: str, bad: Mapping[str, list[tuple[int, int]]]) -> None:
    """Serve the file system until it is unmounted."""
    import mfusepy  # noqa: PLC0415 - only the program that serves needs it

    class Unreadable(mfusepy.Operations):
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002 - mfusepy's
            status = os.lstat(folder + path)
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks")
            times = {f"st_{name}time": getattr(status, f"st_{name}time_ns") for name in "amc"}
            return {name: getattr(status, name) for name in names} | times

        def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
            return [".", "..", *os.listdir(folder + path)]

        def open(self, path: str, flags: int) -> int:
            return os.open(folder + path, flags)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            end = min(offset + size, os.fstat(fh).st_size)
            if any(begin < end and offset < behind for begin, behind in bad.get(path[1:], ())):
                raise mfusepy.FuseOSError(errno.EIO)
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:  # noqa: ARG002
            os.close(fh)
            return 0

    mfusepy.FUSE(Unreadable(), where, foreground=True, ro=True, nothreads=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
