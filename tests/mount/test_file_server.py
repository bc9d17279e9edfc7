"""A tree that is really mounted: what programs see of it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import memcarve
from dumps import write_dump
from memory import PAGE, noise
from mounted import mounted, need_fuse, tree_of, unmount

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [(0x10000 + 0x10000 * number, noise(number, PAGE * (1 + number % 3))) for number in range(40)]


def test_programs_see_files(tmp_path: Path) -> None:
    """Names, sizes, modes and bytes are those of the segments; nothing can be written; many may read at once."""
    path = write_dump(tmp_path, ROWS, 1624)
    with memcarve.open(path) as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        assert sorted(os.listdir(folder)) == ["by-name", "processes"]
        assert os.readlink(folder / "by-name" / "1624") == "../processes/1624"
        segments = folder / "by-name" / "1624" / "segments"
        with os.scandir(segments) as entries:
            seen = {entry.name: entry.stat().st_size for entry in entries}
        assert seen == {f"0x{a:016x}-0x{a + len(data):016x}.bin": len(data) for a, data in ROWS}
        status = os.stat(segments / next(iter(seen)))
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, os.getuid())
        assert stat.S_IMODE(os.stat(segments).st_mode) == 0o500
        assert os.statvfs(folder).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == (
            os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
        )
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda name: (segments / name).read_bytes(), sorted(seen))]
        assert found == [data for _, data in ROWS]
        for name in ("absent", "../x", f"{next(iter(seen))[:-4]}.BIN", "0x0-0x1.bin"):
            assert not (segments / name).exists()
        with pytest.raises(OSError, match="Read-only") as refused:
            (folder / "new").write_bytes(b"")
        assert refused.value.errno == errno.EROFS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts(number: signal.Signals, tmp_path: Path) -> None:
    """The command says where it is mounted and how to leave; a signal unmounts it, even while a file is open."""
    need_fuse()
    path, folder = write_dump(tmp_path, ROWS, 1624), tmp_path / "mnt"
    folder.mkdir()
    words = [sys.executable, "-m", "memcarve", "mount", path, folder]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            line = program.stderr.readline()
            assert line.startswith(f"1 process mounted on {folder}; leave it with Ctrl-C, or fusermount3 -u {folder}")
            held = os.open(next((folder / "processes" / "1624" / "segments").iterdir()), os.O_RDONLY)
            program.send_signal(number)
            assert program.wait(20) == 128 + number
            with contextlib.suppress(OSError):  # whoever held a file is told that it is gone
                os.close(held)
            assert not os.path.ismount(folder)
            assert os.listdir(folder) == []
        finally:
            program.kill()
            unmount(folder)
