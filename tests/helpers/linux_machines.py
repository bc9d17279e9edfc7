"""Real Linux machines: their memory, and what they said of themselves in the same moment.

They are not in the repository, because they hold other people's programs. They are looked for in ``shared/machines``
beside the repository, or in the folders that MEMCARVE_MACHINES names (several, with ``os.pathsep`` between them). Each
machine is a folder of

    memory.raw.zst   its physical memory; offset 0 is the physical address `raw_base` of truth.json
    truth.json.zst   what /proc said of every process, while all were stopped
    pages.txt.zst    each resident page: address, frame, CRC-32; each swapped one: device and offset

and of more that this module only hands on. A file may also lie there as it is, without ``.zst``.

Files are decoded once, into a cache in the folder for temporary files, by whichever process needs them first (a lock
keeps the others waiting), with holes for zeros. What is in the cache is called by the SHA-256 of the compressed file,
is used again by the next run, and is removed once no run has used it for two days.

In truth.json a text is the latin-1 of bytes (`as_bytes`); only the targets of links are escaped further
(`link_bytes`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from files import ROOT
from sweeps import LONG

try:
    import fcntl
except ImportError:  # Windows: two processes may decode the same file; the last one's is used
    fcntl = None  # type: ignore[assignment]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_BLOCK = 1 << 20
#: the letters of /proc/PID/stat, in the words of /proc/PID/status (proc_pid_status(5))
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk sleep",
    "T": "stopped",
    "t": "tracing stop",
    "X": "dead",
    "Z": "zombie",
    "P": "parked",
    "I": "idle",
}
_PATIENCE = 2 * 24 * 3600  # seconds that a decoded file stays without being used
_WINDOW = 28  # log2 of the largest window that the files are packed with
_NEEDED = ("memory.raw", "truth.json", "pages.txt")
NONE = "no Linux machine"


class Pages(NamedTuple):
    """The resident pages of a process, by address; arrays of one length."""

    address: NDArray[np.uint64]
    frame: NDArray[np.uint64]  # physical address = frame * page size
    crc32: NDArray[np.uint32]  # of the page's content; 0 if it could not be read
    readable: NDArray[np.bool_]  # /proc/PID/mem gave its content
    file: NDArray[np.bool_]  # of a file, or shared
    once: NDArray[np.bool_]  # mapped once


class Swapped(NamedTuple):
    """The pages of a process that were swapped out, by address; arrays of one length."""

    address: NDArray[np.uint64]
    type: NDArray[np.uint8]  # which swap device
    offset: NDArray[np.uint64]  # in pages of the device


class Vma(NamedTuple):
    """A line of /proc/PID/maps, and the VmFlags of /proc/PID/smaps."""

    start: int
    end: int
    permissions: str  # "r-xp"
    offset: int  # in the file, in bytes
    device: str  # "fe:00", hexadecimal
    inode: int
    name: bytes  # as printed: a newline in it is \012
    flags: frozenset[str]  # the words of VmFlags; empty if they are not known


def folders() -> list[Path]:
    """Return the folders that hold machines."""
    named = os.environ.get("MEMCARVE_MACHINES")
    places = named.split(os.pathsep) if named else [str(ROOT.parent / "shared" / "machines")]
    return [Path(place) for place in places if place]


def _file(folder: Path, name: str) -> Path | None:
    """Return the file `name` as it lies there: compressed or not; None if it is missing."""
    found = (folder / name, folder / f"{name}.zst")
    return next((path for path in found if path.is_file()), None)


@functools.cache
def _machines() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in folders():
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if folder.name.startswith("linux-") and all(_file(folder, name) for name in _NEEDED):
                    found.setdefault(folder.name, folder)
    return found


def machines() -> list[str]:
    """Return the names of all machines, to parametrise tests with; one that `machine` skips for if there is none."""
    return sorted(_machines()) or [NONE]


def unlike_machines() -> list[str]:
    """Return two machines that have the least in common, for tests that damage them; in the long sweep all.

    By their names these are the oldest kernel, of x86, and the newest one of ARM64.
    """
    names = machines()
    return names if LONG else sorted({names[0], names[-1]})


@functools.cache
def machine(name: str) -> Machine:
    """Return the machine of this name, or skip the test and say what is missing."""
    folder = _machines().get(name)
    if folder is None:
        looked = ", ".join(map(str, folders()))
        wanted = "no machine's folder (linux-...)" if name == NONE else f"no machine {name}"
        pytest.skip(f"{wanted} is in {looked}; MEMCARVE_MACHINES names the folders that hold them")
    return Machine(name, folder)


def as_bytes(text: str) -> bytes:
    """Return the bytes that a text of truth.json stands for."""
    return text.encode("latin-1")


def link_bytes(text: str) -> bytes:
    r"""Return the bytes of a link's target, in which \xNN stands for a byte."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("latin-1"))


@dataclass(frozen=True)
class Machine:
    """A machine; what it is asked for is decoded and parsed then, once a process."""

    name: str
    folder: Path

    def __hash__(self) -> int:
        return hash(self.name)

    def path(self, name: str) -> Path:
        """Return where the file `name` lies decoded, or skip the test if the machine has none."""
        found = _file(self.folder, name)
        if found is None:
            pytest.skip(f"{self.folder / name}.zst is missing")
        return found if found.suffix != ".zst" else decoded(found)

    @functools.cached_property
    def raw(self) -> Path:
        """The physical memory, as a file with holes for zeros."""
        return self.path("memory.raw")

    @functools.cached_property
    def truth(self) -> dict[str, Any]:
        """What truth.json says."""
        return dict(json.loads(self.path("truth.json").read_bytes()))

    @property
    def arch(self) -> str:
        """The machine's architecture: amd64, arm64 or i386."""
        return str(self.truth["arch"])

    @property
    def page_size(self) -> int:
        """The size of a page in bytes, as the machine's programs see it."""
        return int(self.truth["pagesize"])

    @property
    def raw_base(self) -> int:
        """The physical address at offset 0 of `raw`."""
        return int(self.truth["raw_base"])

    @property
    def collector_pid(self) -> int:
        """The process that ran on while it looked at all the others: its pages and VMAs are those of another moment."""
        return int(self.truth["collector_pid"])

    @functools.cached_property
    def processes(self) -> dict[int, dict[str, Any]]:
        """What truth.json says of each process, kernel threads among them, by pid."""
        return {int(process["pid"]): process for process in self.truth["processes"]}

    @functools.cached_property
    def stopped(self) -> list[int]:
        """The pids of the processes with memory of their own that stood still: all but kernel threads and collector."""
        return [pid for pid in self.processes if self.vmas(pid) and pid != self.collector_pid]

    @functools.cache  # noqa: B019 - a machine lives as long as the run
    def vmas(self, pid: int) -> tuple[Vma, ...]:
        """Return the lines of /proc/PID/maps, by address; none of a kernel thread or a zombie."""
        return tuple(
            Vma(
                int(start, 16),
                int(end, 16),
                permissions,
                int(offset, 16),
                device,
                int(inode),
                as_bytes(name),
                frozenset((flags or "").split()),
            )
            for start, end, permissions, offset, device, inode, name, flags in self.processes[pid].get("vmas", ())
        )

    def maps(self, pid: int) -> bytes:
        """Return what /proc/PID/maps held (fs/proc/task_mmu.c of Linux: show_map_vma)."""
        width = 25 + (4 if self.arch == "i386" else 8) * 6 - 1
        lines = []
        for vma in self.vmas(pid):
            line = (
                f"{vma.start:08x}-{vma.end:08x} {vma.permissions} {vma.offset:08x} {vma.device} {vma.inode} ".encode()
            )
            lines.append((line.ljust(width) + b" " + vma.name if vma.name else line) + b"\n")
        return b"".join(lines)

    @functools.cached_property
    def _pages(self) -> dict[int, tuple[Pages, Swapped]]:
        text = self.path("pages.txt").read_text("ascii")
        parts = re.split(r"^# pid (\d+)\n", text, flags=re.MULTILINE)
        return {int(pid): _parsed(lines) for pid, lines in zip(parts[1::2], parts[2::2], strict=True)}

    def pages(self, pid: int) -> Pages:
        """Return the resident pages of a process; none of a kernel thread, a zombie or the collector.

        VM_PFNMAP areas ([vvar], /dev/mem, io_uring of 5.10) are not among them, though their pages are in the page
        tables: /proc/PID/pagemap says nothing of them.
        """
        return self._pages.get(pid, _NOTHING)[0]

    def swapped(self, pid: int) -> Swapped:
        """Return the swapped pages of a process; those of shared memory have no entry and are not among them."""
        return self._pages.get(pid, _NOTHING)[1]

    @functools.cached_property
    def _system(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(self.path("system.tar").read_bytes())) as archive:
            members = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
            return {name: file.read() for name, file in members if file is not None}

    def system(self, name: str) -> bytes:
        """Return a file of system.tar: "system/iomem", "config", "registers.txt"; skip the test if there is none."""
        if name not in self._system:
            pytest.skip(f"{self.folder / 'system.tar.zst'} has no {name}")
        return self._system[name]

    @functools.cached_property
    def kallsyms(self) -> dict[str, int]:
        """The address of each name in /proc/kallsyms that is not a module's; of several, the first."""
        found: dict[str, int] = {}
        for line in self.path("kallsyms").read_text("latin-1").splitlines():
            address, _, name = line.split(" ", 2)
            if "\t" not in name:
                found.setdefault(name, int(address, 16))
        return found


def _parsed(lines: str) -> tuple[Pages, Swapped]:
    resident: list[tuple[int, int, int, bool, bool, bool]] = []
    swapped: list[tuple[int, int, int]] = []
    for line in lines.splitlines():
        address, frame, word, *rest = line.split()
        if frame == "-":
            swapped.append((int(address, 16), int(rest[0], 16), int(rest[1], 16)))
        else:
            flags = rest[0] if rest else ""
            known = word != "err"
            row = (int(address, 16), int(frame, 16), int(word, 16) if known else 0, known, "f" in flags, "x" in flags)
            resident.append(row)
    address, frame, crc, readable, file, once = zip(*resident, strict=True) if resident else [()] * 6
    where, device, offset = zip(*swapped, strict=True) if swapped else [()] * 3
    return (
        Pages(
            np.array(address, np.uint64),
            np.array(frame, np.uint64),
            np.array(crc, np.uint32),
            np.array(readable, np.bool_),
            np.array(file, np.bool_),
            np.array(once, np.bool_),
        ),
        Swapped(np.array(where, np.uint64), np.array(device, np.uint8), np.array(offset, np.uint64)),
    )


_NOTHING = _parsed("")


def crc32s(content: bytes, page_size: int) -> NDArray[np.uint32]:
    """Return the CRC-32 of each page of `content`, as pages.txt has them."""
    whole = memoryview(content)
    return np.array([zlib.crc32(whole[at : at + page_size]) for at in range(0, len(whole), page_size)], np.uint32)


def decoded(packed: Path) -> Path:
    """Return the decoded content of a file of zstd, as a file of the cache with holes for zeros."""
    folder = _cache() / _sha256(packed)
    target = folder / packed.stem
    with _locked(folder.with_suffix(".lock")):
        if not target.is_file():
            folder.mkdir(exist_ok=True)
            partial = folder / f"{os.getpid()}.partial"
            try:
                _decode(packed, partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        os.utime(folder)
    return target


def _decode(packed: Path, path: Path) -> None:
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW}
    zeros = bytes(_BLOCK)
    with zstd.open(packed, options=options) as source, path.open("wb") as file:
        while block := source.read(_BLOCK):
            if block == zeros[: len(block)]:
                file.seek(len(block), os.SEEK_CUR)
            else:
                _write_around_holes(file, block)
        file.truncate()


def _write_around_holes(file: io.BufferedWriter, block: bytes, size: int = 4096) -> None:
    zeros = bytes(size)
    begin = 0  # of what is not written yet
    for at in range(0, len(block), size):
        if block[at : at + size] == zeros:
            file.write(memoryview(block)[begin:at])
            file.seek(size, os.SEEK_CUR)
            begin = at + size
    file.write(memoryview(block)[begin:])


@functools.cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _cache() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"memcarve-machines-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        pytest.fail(f"{folder} belongs to somebody else")
    for old in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes it at the same time
            if old.is_dir() and old.stat().st_mtime < time.time() - _PATIENCE:
                with _locked(old.with_suffix(".lock")):
                    shutil.rmtree(old, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
