"""Where files are written: tmpfs, a disk, and file systems with reflinks in loop-mounted images."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from measure import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
_PACKAGES = {"xfs": "xfsprogs", "btrfs": "btrfs-progs"}


class Place:
    """A folder to work in. `slow` says that what is written must reach a disk some time."""

    def __init__(self, name: str, folder: Path, *, slow: bool) -> None:
        self.name = name
        self.folder = folder
        self.slow = slow
        self.wait = 1.0  # seconds between a sync and the next run
        self._kept = 0

    def need(self, size: int, what: str) -> None:
        """Raise UnavailableError where `size` bytes do not fit, with something left for others."""
        free = shutil.disk_usage(self.folder).free
        if not self.slow:
            free = min(free, _memory())
        if size > free * 0.9:
            raise UnavailableError(f"{what} needs {size >> 20} MiB on {self.name}, {free >> 20} are free")

    def clear(self, target: Path) -> None:
        """Do away with what a run has written, and let the disk come to rest: the next run starts from the same state.

        On a disk the files are emptied and kept: ext4 passes over inodes that were removed within the last minutes one
        by one, which makes creating 5,000 files take 3 s instead of 0.07 s, for whoever does it.
        """
        if not target.exists():
            return
        if self.slow:
            self._kept += 1
            kept = target.rename(self.folder / f"kept.{self._kept}")
            _empty(kept)
            self.rest()
        else:
            _remove(target)

    def rest(self) -> None:
        """Write everything to the disk and wait."""
        subprocess.run(["sync", "-f", str(self.folder)], check=True)
        time.sleep(self.wait)

    def used(self) -> int:
        """Return how many bytes of the file system are used."""
        subprocess.run(["sync", "-f", str(self.folder)], check=True)
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


def _empty(folder: Path) -> None:
    subprocess.run(["find", folder, "-type", "f", "-exec", "truncate", "-s", "0", "{}", "+"], check=True)


def _remove(folder: Path) -> None:
    """Remove a folder, in another process: half a million names would make this one large."""
    subprocess.run(["rm", "-rf", folder], check=True)


def _memory() -> int:
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return sys.maxsize


@contextlib.contextmanager
def place(name: str, parent: Path) -> Iterator[Place]:
    """Make a folder to work in. It is removed afterwards; on a disk at the very end, see `Place.clear`."""
    if not parent.is_dir():
        raise UnavailableError(f"{parent} is no folder")
    folder = Path(tempfile.mkdtemp(prefix="memcarve-bench.", dir=parent))
    slow = name != "tmpfs"
    if slow:
        atexit.register(_remove, folder)
    try:
        yield Place(name, folder, slow=slow)
    finally:
        if slow:
            _empty(folder)
        else:
            _remove(folder)


@contextlib.contextmanager
def mounted(kind: str, size: int, image_folder: Path) -> Iterator[Place]:
    """Mount a new file system of `size` bytes, XFS or Btrfs, from an image in a folder."""
    if os.geteuid():
        raise UnavailableError("mounting an image needs root")
    if shutil.which(f"mkfs.{kind}") is None:
        raise UnavailableError(f"mkfs.{kind} is not installed ({_PACKAGES[kind]})")
    image, folder = image_folder / f"{kind}.img", image_folder / f"{kind}.mounted"
    with open(image, "wb") as file:
        file.truncate(size)
    folder.mkdir()
    try:
        for command in ([f"mkfs.{kind}", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise UnavailableError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-100:]}")
        try:
            yield Place(kind, folder, slow=True)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()
        image.unlink()


def make_process(folder: Path, size: int, segments: int) -> Path:
    """Make a map and a dump in a folder; return the dump."""
    folder.mkdir(exist_ok=True)
    arguments = ["process", str(folder), str(size), str(segments)]
    subprocess.run([sys.executable, str(HERE / "inputs.py"), *arguments], check=True)
    return folder / "pid.4321.dmp"


def make_texts(dump: Path) -> None:
    """Write texts into a sixth of a dump."""
    subprocess.run([sys.executable, str(HERE / "inputs.py"), "texts", str(dump)], check=True)


def make_image(path: Path, kind: str, count: int) -> Path:
    """Make an image of a machine: `kind` is one that inputs.py names; return it."""
    path.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "inputs.py"), "image", str(path), kind, str(count)], check=True)
    return path


def make_compressed(path: Path, method: str, count: int) -> Path:
    """Make compressed pages, or a hibernation file; return it."""
    subprocess.run([sys.executable, str(HERE / "inputs.py"), "compressed", str(path), method, str(count)], check=True)
    return path


def make_questions(path: Path, image: Path, count: int) -> Path:
    """Make a list of offsets in an image; return it."""
    arguments = ["questions", str(path), str(image), str(count)]
    subprocess.run([sys.executable, str(HERE / "inputs.py"), *arguments], check=True)
    return path


def make_rows(path: Path, count: int, how: str) -> Path:
    """Make a map; return it."""
    subprocess.run([sys.executable, str(HERE / "inputs.py"), "rows", str(path), str(count), how], check=True)
    return path
