"""A running Linux process, read through ``/proc/PID`` and never written to.

Sources: proc_pid_mem(5), proc_pid_stat(5), proc_pid_task(5), ptrace(2) on who may read; and what livepages.py names.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.errors import InputError, OverlapError, SourceReadError
from memcarve.formats.elf_core.processors import processor_of
from memcarve.formats.elf_layout import BITS, MAGIC, ORDERS
from memcarve.formats.listing.listing_kinds import PROC_MAPS
from memcarve.metadata import Metadata, Parameters, Regions, SourceRows, Thread
from memcarve.note import Note
from memcarve.process import Account, Container, Machine, Platform, ProcessEntry, ProcessMemory, width_of
from memcarve.sources.listings import metadata_from_files
from memcarve.sources.proc.live_memory import EndToEnd, LiveBacking, Present
from memcarve.sources.proc.live_pages import MappedFiles, PageMap, mappings
from memcarve.space import AddressSpace
from memcarve.times import rfc3339
from memcarve.vocabulary import NARROW

if TYPE_CHECKING:
    from memcarve.sources.opening import Opened, OpenOptions
    from memcarve.sources.proc.live_pages import Mapping

_MOUNTS = "/proc/self/mountinfo"  # proc_pid_mountinfo(5)
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_KERNEL_THREAD = 0x200000  # PF_KTHREAD, in the flags of stat
_STOPPED, _ENDED = ("T", "t"), ("Z", "X", "x")
_LONGEST = 1 << 16
_LONGEST_START = 1 << 22  # bytes of arguments, and of environment


class _Status(NamedTuple):
    """What ``stat`` says: pid, name, state (a letter), flags, and when it started (ticks since the system did)."""

    pid: int
    name: str
    state: str
    flags: int
    started: int


class LiveContainer(Container):
    """A process that runs on this machine.

    What is opened through the descriptor of its folder below ``/proc`` is of that process and of no later one with its
    number. Raises SourceReadError if there is none, or this user may not read it.
    """

    def __init__(self, opened: Opened, options: OpenOptions) -> None:
        self.path, self.listings = opened.path, options.listings
        try:
            self._folder = os.open(_place(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceReadError(
                f"there is no such process, or it is hidden from this user: {error.strerror}", subject=self.path
            ) from error
        self._memory = self._folder  # of the thread through which the memory is reached
        self._backings: list[LiveBacking] = []
        try:
            self._status = self._read_status()
            self._find_memory()
        except BaseException:
            self.close()
            raise

    def processes(self) -> list[ProcessEntry]:
        """Return the one process."""
        return [ProcessEntry(self._status.pid, self._status.name)]

    def _process(self, index: int) -> ProcessMemory:  # noqa: ARG002 - there is one, and no kernel
        """Return the process's memory: what is in memory, in swap or in the files that are mapped.

        Pages that were never touched are not there. Raises SourceReadError if the process may not be read or has ended.
        """
        status = self._read_status()
        backing = LiveBacking(self.path, self._open("mem"))
        self._backings.append(backing)
        mapped = self._mappings()
        space, unreadable, notes = self._space(mapped, backing)
        if status.state not in _STOPPED:
            notes.insert(
                0,
                f"{self.path}: runs while it is read: what it changes meanwhile comes from different moments; "
                f"kill -STOP {status.pid} stops it, kill -CONT {status.pid} lets it go on",
            )
        start, size = (
            np.array(column, np.uint64)
            for column in ([each.region.start for each in mapped], [each.region.size for each in mapped])
        )
        release, architecture = os.uname().release.split("."), self._architecture()
        platform = Platform("linux", *(int(word) for word in release[:2] if word.isdecimal()))
        # a 32-bit program may have all 4 GiB on a 64-bit kernel
        kernel_half = 1 << 32 if architecture in NARROW else None
        return ProcessMemory(
            space,
            ProcessEntry(status.pid, status.name),
            machine=Machine(platform, architecture, width_of(start, size, architecture), kernel_half),
            account=Account(space.total, incomplete=unreadable),
            inputs={"live": self._about(status)},
            notes=map(Note, notes),
            metadata=lambda: self._known(mapped) + metadata_from_files(self.listings, status.pid, address_bits=64),
            file=EndToEnd(self.path, space),
            auxiliary_vector=self._beginning("auxv", _LONGEST) or None,
        )

    def close(self) -> None:
        """Close what was opened below ``/proc``; a second call does nothing."""
        for backing in self._backings:
            backing.close()
        for folder in {self._folder, self._memory} - {-1}:
            os.close(folder)
        self._folder = self._memory = -1

    # which memory there is

    def _mappings(self) -> list[Mapping]:
        fd = self._open("smaps")
        try:
            with os.fdopen(fd, "rb") as file:
                return list(mappings(iter(lambda: file.readline(_LONGEST), b""), f"{self.path}/smaps"))
        except OSError as error:
            raise self._refused("smaps", error) from error

    def _space(self, mapped: list[Mapping], backing: LiveBacking) -> tuple[AddressSpace, bool, list[str]]:
        """Return what is there, whether some of it cannot be read though it should be, and notes."""
        fd = self._open("pagemap")
        try:
            present = Present(backing, PageMap(fd, f"{self.path}/pagemap"), MappedFiles(self._memory))
            for mapping in mapped:
                present.look(mapping)
        finally:
            os.close(fd)
        found = present.ranges()
        try:
            space = AddressSpace(
                found.start, found.size, found.start.copy(), backing, present.missing, absent="not in memory"
            )
        except OverlapError as error:
            raise SourceReadError(
                f"its mappings changed while they were listed ({error})",
                subject=self.path,
                remedy="stop the process (kill -STOP) and try again",
            ) from None
        notes = []
        if present.files.unknown:
            notes.append(
                f"{self.path}: {present.files.unknown} mapped files cannot be looked at by this user; of them what is "
                "in memory is taken: as root they are taken whole"
            )
        sums: dict[str, int] = {}
        for gap in present.missing:
            sums[gap.reason] = sums.get(gap.reason, 0) + gap.size
        notes += [f"{self.path}: {size} bytes are mapped and not taken: {reason}" for reason, size in sums.items()]
        return space, present.unreadable, notes

    # what is known of it

    def _read_status(self, task: str = ".") -> _Status:
        """Return what the process's ``stat`` says, or that of a thread's folder within."""
        if self._folder < 0:
            raise SourceReadError("has been closed", subject=self.path)
        try:
            fd = os.open(f"{task}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
            with os.fdopen(fd, "rb", 0) as file:
                text = file.read(_LONGEST)
        except OSError as error:
            raise self._refused("stat", error) from error
        # the name stands in parentheses and may hold any byte, so also a closing one
        first, last = text.find(b"("), text.rfind(b")")
        words = text[last + 2 :].split()
        try:
            name = text[first + 1 : last].decode("utf-8", "surrogateescape")
            return _Status(int(text[:first]), name, words[0].decode(), int(words[6]), int(words[19]))
        except (ValueError, IndexError):
            raise InputError(f"{self.path}/stat: does not say what proc_pid_stat(5) promises") from None

    def _find_memory(self) -> None:
        """Find a thread that has the memory; raise InputError if there is none.

        The first thread may have ended while others run: the process's memory is then reached through these.
        """
        if self._status.flags & _KERNEL_THREAD:
            raise InputError(
                f"is a thread of the kernel ({self._status.name}), which has no memory of its own", subject=self.path
            )
        if self._status.state not in _ENDED:
            return
        for tid in self._threads():
            with contextlib.suppress(InputError, OSError):
                if self._read_status(f"task/{tid}").state not in _ENDED:
                    self._memory = os.open(f"task/{tid}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folder)
                    return
        raise InputError("has ended (its parent has not taken note yet); its memory is gone", subject=self.path)

    def _threads(self) -> list[int]:
        """Return the ids of the threads, in order."""
        try:
            fd = os.open("task", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                return sorted(int(name) for name in os.listdir(fd) if name.isdecimal())
            finally:
                os.close(fd)
        except OSError:
            return []

    def _beginning(self, name: str, size: int) -> bytes:
        """Return the first bytes of a file below the process's folder; none if it cannot be read."""
        try:
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._memory), "rb", 0) as file:
                return file.read(size)
        except OSError:
            return b""

    def _start(self) -> Parameters:
        """Return what the process was started with, as far as it may be read; the process may have changed it."""
        arguments, environment = (self._strings(name) for name in ("cmdline", "environ"))
        return Parameters(
            "/proc/PID/cmdline and environ",
            None if arguments is None else " ".join(arguments),
            self._link("exe"),
            self._link("cwd"),
            None if environment is None else tuple(environment),
        )

    def _strings(self, name: str) -> list[str] | None:
        """Return the strings of a file below the process's folder, each of which ends with a zero byte."""
        try:
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._memory), "rb", 0) as file:
                text = file.read(_LONGEST_START).decode("utf-8", "surrogateescape")
        except OSError:
            return None
        return text.removesuffix("\0").split("\0") if text else []

    def _link(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self._memory)
        except OSError:
            return None

    def _architecture(self) -> str | None:
        head = self._beginning("exe", 20)
        if len(head) < 20 or not head.startswith(MAGIC):  # noqa: PLR2004
            return None
        bits, order = BITS.get(head[4]), ORDERS.get(head[5])
        (machine,) = struct.unpack_from("<H", head, 18)
        return processor_of(bits, machine) if order == "<" else None

    def _about(self, status: _Status) -> dict[str, Any]:
        """Return what identifies the process, ready for JSON."""
        system = os.uname()
        return {
            "path": self.path,
            "pid": status.pid,
            "started": _started(status.started),
            "state": status.state,
            "program": self._link("exe"),
            "host": system.nodename,
            "kernel": f"{system.sysname} {system.release} {system.machine}",
        }

    def _known(self, mapped: list[Mapping]) -> Metadata:
        """Return the regions that there were when the process was opened, and its threads."""
        regions = Regions(PROC_MAPS, [each.region for each in mapped])
        tids = self._threads()
        threads = (SourceRows("/proc/PID/task", [Thread(tid) for tid in tids]),) if tids else ()
        return Metadata((regions,), threads=threads, parameters=(self._start(),))

    def _open(self, name: str) -> int:
        if self._folder < 0:
            raise SourceReadError("has been closed", subject=self.path)
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._memory)
        except OSError as error:
            raise self._refused(name, error) from error

    def _refused(self, name: str, error: OSError) -> SourceReadError:
        """Return the error that says why a file below ``/proc/PID`` cannot be read, and what to do about it."""
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = "run memcarve as root, or give it the capability CAP_SYS_PTRACE"
            if os.geteuid() == 0:
                remedy = "a container or a security module forbids it: run memcarve outside, with CAP_SYS_PTRACE"
            return SourceReadError(
                f"{self.path}/{name}: this user may not read the process's memory ({error.strerror}); {remedy}{_yama()}"
            )
        if error.errno in (errno.ESRCH, errno.ENOENT) and not self._is_there():
            return SourceReadError("the process has ended", subject=self.path)
        return SourceReadError(f"{self.path}/{name}: cannot be read: {error.strerror}")

    def _is_there(self) -> bool:
        try:
            os.stat("stat", dir_fd=self._folder)
        except OSError:
            return False
        return True


def _place(path: str) -> str:
    """Return the folder that a path may mean: ``/proc/PID``, also of ``/proc/PID/mem``."""
    place = os.path.normpath(os.path.abspath(path))
    return os.path.dirname(place) if os.path.basename(place) == "mem" else place


def is_process(opened: Opened) -> bool:
    """Return True if a path is a process's below a proc file system."""
    parent, name = os.path.split(_place(opened.path))
    return (name == "self" or (name.isascii() and name.isdigit())) and _is_proc(parent)


def _is_proc(folder: str) -> bool:
    """Return True if a folder is the root of a proc file system, which only Linux has."""
    try:
        device = os.stat(folder).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            rows = [row.partition(" - ") for row in mounts]
    except (OSError, AttributeError):
        return False
    # major:minor comes third, and first behind the hyphen the kind of file system
    return any(before.split()[2] == wanted and after.startswith("proc ") for before, _, after in rows)


def _started(ticks: int) -> str | None:
    """Return when a process started (RFC 3339), which began this many ticks after the system."""
    try:
        with open("/proc/stat", "rb") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        at = dt.datetime.fromtimestamp(booted + ticks // os.sysconf("SC_CLK_TCK"), dt.UTC)
    except (OSError, StopIteration, ValueError, OverflowError):
        return None
    return rfc3339(at)


def _yama() -> str:
    """Return what a security module says of who may read, as the end of a sentence."""
    try:
        with open(_YAMA, encoding="ascii") as file:
            scope = file.read().strip()
    except (OSError, ValueError):
        return ""
    who = {"1": "only its parents", "2": "only administrators", "3": "nobody"}.get(scope)
    return "" if who is None else f" (kernel.yama.ptrace_scope is {scope}: {who} may read a process's memory)"
