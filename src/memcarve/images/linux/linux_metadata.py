"""The metadata of a process in a Linux machine's memory: regions, modules, threads, areas."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from memcarve.images.linux.dentry_paths import Paths, place_in
from memcarve.images.linux.mapped_programs import MappedPrograms
from memcarve.images.linux.process_mappings import Mappings
from memcarve.images.linux.user_threads import UserThreads
from memcarve.images.linux.vmas import Vmas
from memcarve.images.structure_reader import LookedUp, Reader, counted
from memcarve.linux_mappings import region
from memcarve.metadata import Metadata, Regions, SourceRows

if TYPE_CHECKING:
    from memcarve.images.linux.linux_system import LinuxSystem
    from memcarve.images.paging_modes import AddressTable
    from memcarve.process import ProcessEntry

REGIONS, THREADS, REGISTERS, MODULES = "VMA tree", "thread list", "user registers", "mapped files"
_STRICT_HEAP = (6, 6)


class Knowledge:
    """What a Linux machine knows of its processes."""

    def __init__(self, system: LinuxSystem) -> None:
        self.kernel = system.kernel.structures
        self._half = system.kernel.space
        self.memory = system.memory
        self.first = system.kernel.first.address
        self.version = (system.platform.major or 0, system.platform.minor or 0)
        self.mode = system.kernel.table.mode
        self.page = self.mode.page
        self._programs = MappedPrograms()

    @functools.cached_property
    def paths(self) -> Paths:
        """The paths of files, as pid 1 sees them."""
        return Paths(self.kernel, self._root())

    @functools.cached_property
    def _vmas(self) -> Vmas:
        return Vmas(self.kernel, self.page)

    @functools.cached_property
    def _mappings(self) -> Mappings:
        touching = self.version < _STRICT_HEAP
        return Mappings(self.kernel, self.paths, self.page, touching=touching, half=self._half)

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
        return place_in(kernel, next(kernel.linked(self.first + link, link), self.first), "root")

    def of(self, entry: ProcessEntry, mm: int | None, table: AddressTable) -> Metadata:
        """Return what is known of a process; `mm` is its ``mm_struct``.

        Of its own memory, only the beginnings of mapped files are read, by `table`.
        """
        if entry.object is None:
            return Metadata(notes=("no kernel address leads to the process: its regions and threads are not known",))
        if mm is None and not entry.ended:
            return Metadata()
        found = Metadata() if mm is None else self._regions(mm)
        threads, stacks, notes = self._threads.of(entry.object, found.regions[0] if found.regions else None)
        if mm is None and notes:
            return found  # of a process that has ended, what its threads were may be others' by now
        areas = (SourceRows(REGISTERS, stacks),) if stacks else ()
        found += Metadata(threads=(SourceRows(THREADS, threads),), areas=areas, notes=tuple(notes))
        if not found.regions:
            return found
        memory = Reader(LookedUp(self.memory, table), table.kernel_half)
        modules = self._programs.of(found.regions[0], memory)
        return found + Metadata(modules=(SourceRows(MODULES, modules),))

    @functools.lru_cache(maxsize=1)  # noqa: B019 - lives as long as the machine; any number of tasks may share one
    def _regions(self, mm: int) -> Metadata:
        """Return the regions of the ``mm_struct`` at a kernel address."""
        vmas, notes = self._vmas.of(mm)
        if vmas is None:
            return Metadata(notes=tuple(notes))
        mappings = self._mappings.of(mm, vmas)
        lost = sum(mapping.name is None for mapping, vma in zip(mappings, vmas, strict=False) if vma.file)
        if lost:
            notes.append(f"the files of {counted(lost, 'region')} have no name that can be read")
        if self.paths.spent:
            notes.append("folders lie deeper in one another than on any machine: paths beyond are not known")
        found = Regions(REGIONS, map(region, mappings))
        if found.overlapping:
            notes.append(f"{counted(found.overlapping, 'region')} overlap others")
        return Metadata(regions=(found,), notes=tuple(notes))
