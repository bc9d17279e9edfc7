"""The metadata of a process in a Linux machine's memory: regions, modules, threads, areas."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from memcarve.images.linux import tasks
from memcarve.images.linux.dentry_paths import Paths
from memcarve.images.linux.process_mappings import Mappings
from memcarve.images.linux.user_threads import UserThreads
from memcarve.images.linux.vmas import Vmas
from memcarve.images.structure_reader import counted
from memcarve.linux_mappings import region
from memcarve.metadata import Metadata, Regions, SourceRows

if TYPE_CHECKING:
    from memcarve.images.linux.linux_system import LinuxSystem
    from memcarve.process import ProcessEntry

REGIONS, THREADS, REGISTERS = "VMA tree", "thread list", "user registers"
_STRICT_HEAP = (6, 6)


class Knowledge:
    """What a Linux machine knows of its processes."""

    def __init__(self, system: LinuxSystem) -> None:
        self.kernel = system.kernel.structures
        self.first = system.kernel.first.address
        self.version = (system.platform.major or 0, system.platform.minor or 0)
        self.mode = system.kernel.table.mode
        self.page = self.mode.page

    @functools.cached_property
    def paths(self) -> Paths:
        """The paths of files, as pid 1 sees them."""
        return Paths(self.kernel, self._root())

    @functools.cached_property
    def _vmas(self) -> Vmas:
        return Vmas(self.kernel, self.page)

    @functools.cached_property
    def _mappings(self) -> Mappings:
        return Mappings(self.kernel, self.paths, self.page, touching=self.version < _STRICT_HEAP)

    @functools.cached_property
    def _threads(self) -> UserThreads:
        link = self.kernel.offset("task_struct", "tasks")
        sample = [] if link is None else self.kernel.linked(self.first + link, link)
        return UserThreads(self.kernel, self.mode, sample)

    def _root(self) -> tuple[int, int] | None:
        """Return mount and dentry of the root of pid 1, which is the first in the list of tasks."""
        kernel = self.kernel
        link = kernel.offset("task_struct", "tasks")
        if link is None:
            return None
        task = next(kernel.linked(self.first + link, link), self.first)
        place = kernel.pointer(task, "task_struct", "fs")
        if place is None:
            return None
        mount, dentry = kernel.numbers(place, "fs_struct", ("root.mnt", "root.dentry"))
        return None if mount is None or dentry is None else (mount, dentry)

    def of(self, entry: ProcessEntry) -> Metadata:
        """Return what is known of a process."""
        if entry.object is None:
            return Metadata(notes=("no kernel address leads to the process: its regions and threads are not known",))
        mm = self._memory_of(entry.object)
        if mm is None and not entry.ended:
            return Metadata()
        found = Metadata() if mm is None else self._regions(mm)
        threads, stacks, notes = self._threads.of(entry.object, found.regions[0] if found.regions else None)
        areas = (SourceRows(REGISTERS, stacks),) if stacks else ()
        return found + Metadata(threads=(SourceRows(THREADS, threads),), areas=areas, notes=tuple(notes))

    def _memory_of(self, task: int) -> int | None:
        """Return the ``mm_struct`` of a process; if its leader has ended, that of a thread that lives."""
        kernel = self.kernel
        flags = kernel.number(task, "task_struct", "flags")
        if flags is None or flags & tasks.KERNEL_THREAD:
            return None
        own = kernel.pointer(task, "task_struct", "mm")
        if own is not None:
            return own
        others = (kernel.pointer(thread, "task_struct", "mm") for thread in tasks.threads_of(kernel, task))
        return next((mm for mm in others if mm is not None), None)

    def _regions(self, mm: int) -> Metadata:
        vmas, notes = self._vmas.of(mm)
        if vmas is None:
            return Metadata(notes=tuple(notes))
        mappings = self._mappings.of(mm, vmas)
        lost = sum(mapping.name is None for mapping, vma in zip(mappings, vmas, strict=True) if vma.file)
        if lost:
            notes.append(f"the files of {counted(lost, 'region')} have no name that can be read")
        found = Regions(REGIONS, map(region, mappings))
        if found.overlapping:
            notes.append(f"{counted(found.overlapping, 'region')} overlap others")
        return Metadata(regions=(found,), notes=tuple(notes))
