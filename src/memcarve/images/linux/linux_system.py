"""A Linux machine as `images/system.py` asks for it: its processes, and what Linux knows of them."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from memcarve.errors import ProcessError
from memcarve.images.linux import tasks
from memcarve.images.linux.absent_entries import rules_of
from memcarve.images.linux.btf_search import kernel_btf
from memcarve.images.linux.kernel import find_kernel
from memcarve.images.linux.landmarks import find_landmarks
from memcarve.images.linux.learning.learned_kernel import learned_kernel
from memcarve.images.linux.linux_metadata import Knowledge
from memcarve.images.paging_modes import LINUX
from memcarve.metadata import Metadata
from memcarve.process import Platform, ProcessEntry, Unix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.formats.kernel_types.symbol_file import SymbolFile
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.landmarks import Landmarks
    from memcarve.images.linux.tasks import Task
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")

_REMEDY = "{symbols} takes types of the kernel (ISF, BTF, vmlinux); {dtb} takes a page-table root ({scan} lists them)"


class LinuxSystem:
    """A Linux machine."""

    def __init__(self, kernel: Kernel) -> None:
        self.memory = kernel.memory
        self.kernel = kernel
        self.notes: list[str] = []

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        """What is known of processes beyond their bytes."""
        return Knowledge(self)

    @functools.cached_property
    def release(self) -> str | None:
        """The kernel's version as ``uname -r`` prints it; None if it cannot be read."""
        kernel = self.kernel.structures
        proxy = kernel.pointer(self.kernel.first.address, "task_struct", "nsproxy")
        names = None if proxy is None else kernel.pointer(proxy, "nsproxy", "uts_ns")
        inside = kernel.offset("uts_namespace", "name")
        if names is None or inside is None:
            return None
        found = kernel.text(names + inside, "new_utsname", "release")
        return found.decode("ascii", "backslashreplace") if found else None

    @property
    def platform(self) -> Platform:
        """The version of Linux: ``build`` is the third number."""
        found = _VERSION.match(self.release or "")
        if found is None:
            return Platform(LINUX)
        major, minor, patch = (None if number is None else int(number) for number in found.groups())
        return Platform(LINUX, major, minor, patch)

    @property
    def description(self) -> str:
        """Which Linux it is and how its processes are read, in words."""
        return f"Linux {self.release or 'of unknown version'}; types from {self.kernel.first.types.source}"

    @functools.cached_property
    def _list(self) -> tuple[list[Task], str]:
        """The tasks that the kernel's list leads to, in its order, and what is wrong with it."""
        kernel, first = self.kernel.structures, self.kernel.first.address
        link = kernel.offset("task_struct", "tasks")
        if link is None:
            return [], "where tasks are linked is not known"
        forward = [*kernel.linked(first + link, link)]
        backward = [*kernel.linked(first + link, link, forward=False)]
        known = set(forward)
        addresses = forward + [address for address in reversed(backward) if address not in known]
        read = [tasks.read_task(kernel, address) for address in addresses]
        found = [task for task in read if task is not None]
        problem = ""
        if set(backward) != known:
            problem = f"{len(forward)} processes are linked forward, {len(backward)} backward"
        elif len(found) < len(read):
            problem = f"{len(read) - len(found)} of its processes cannot be read"
        return found, problem

    @property
    def problem(self) -> str:
        """What is wrong with the kernel's list of tasks, in words; empty if it is whole."""
        return self._list[1]

    def listed(self) -> list[ProcessEntry]:
        """Return the processes that the kernel's list of tasks leads to."""
        return self._listed

    @functools.cached_property
    def _listed(self) -> list[ProcessEntry]:
        return [self._entry(task) for task in self._list[0]]

    def processes(self) -> list[ProcessEntry]:
        """Return every process."""
        return self.listed()

    def _entry(self, task: Task) -> ProcessEntry:
        return ProcessEntry(
            pid=task.pid,
            name=task.name.decode("utf-8", "surrogateescape"),
            parent=task.parent,
            root=self._root(self._memory_of(task)),
            listed=True,
            ended=task.ended,
            object=task.address,
            unix=Unix(task.uid, task.gid, task.state, task.namespace_pid, task.kernel_thread),
        )

    def _memory_of(self, task: Task) -> int | None:
        """Return the ``mm_struct`` of a process; if its leader has ended, that of a thread that lives."""
        if task.mm is not None or task.kernel_thread:
            return task.mm
        kernel = self.kernel.structures
        others = (kernel.pointer(thread, "task_struct", "mm") for thread in tasks.threads_of(kernel, task.address))
        return next((mm for mm in others if mm is not None), None)

    def _root(self, mm: int | None) -> int | None:
        """Return the physical address of an address space's page tables."""
        pgd = None if mm is None else self.kernel.structures.pointer(mm, "mm_struct", "pgd")
        if pgd is None:
            return None
        space = self.kernel.space
        row = space.at(pgd)
        if row is None or space.physical is None:
            return None
        return int(space.physical[row]) + pgd - int(space.start[row])

    def table_of(self, entry: ProcessEntry) -> AddressTable:
        """Return the page tables of a process; the kernel's own if it has none."""
        return self._table if entry.root is None else self._table._replace(root=entry.root)

    @functools.cached_property
    def _table(self) -> AddressTable:
        """The kernel's page tables, and how its version marks pages that are not present."""
        version = self.platform
        if version.major is None or version.minor is None:
            return self.kernel.table
        return self.kernel.table._replace(absent=rules_of((version.major, version.minor)))

    def metadata(self, entry: ProcessEntry, table: AddressTable) -> Metadata:
        """Return what Linux knows of a process."""
        del table
        return self.knowledge.of(entry)

    def start_of(self, entry: ProcessEntry, table: AddressTable) -> Metadata:
        """Return what a process was started with."""
        del entry, table
        return Metadata()


def find_linux(memory: PhysicalMemory, symbols: SymbolFile | None = None) -> LinuxSystem | None:
    """Return the Linux of a machine, None if there is none; by the types in a file, or else those in the memory itself.

    Raises ProcessError if there is one for certain, but its processes cannot be found, and KernelTypesError if the file
    is for another kernel.
    """
    landmarks = find_landmarks(memory)
    types: Iterable[KernelTypes] = (found.types for found in kernel_btf(memory, landmarks))
    note = None
    if symbols is not None:
        types, note = [symbols.types], _compared(symbols, landmarks)
    kernel = find_kernel(memory, types, landmarks)
    if kernel is None and symbols is None:
        kernel = learned_kernel(memory, landmarks)
    if kernel is not None:
        system = LinuxSystem(kernel)
        system.notes += [] if note is None else [note]
        return system
    if not landmarks.banners:
        return None
    by = "" if symbols is None else f" by the types in {symbols.path}, which may be another kernel's"
    raise ProcessError(f"Linux {landmarks.banners[0].release} was found, but not its processes{by}", remedy=_REMEDY)


def _compared(symbols: SymbolFile, landmarks: Landmarks) -> str | None:
    """Return a sentence if a file is of another build of the kernel; KernelTypesError if it is for another one."""
    said = [each.vmcoreinfo for each in landmarks.information]
    releases = {each.release for each in landmarks.banners} | {each.release for each in said}
    ids = {each.build_id for each in said if each.build_id is not None}
    return symbols.check(releases, {each.text for each in landmarks.banners}, ids)
