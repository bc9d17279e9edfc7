"""The folder of one process: what carving, exporting and extracting it would write."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from memcarve.errors import AddressError, UsageError
from memcarve.hunting.findings.found_document import document_lines
from memcarve.hunting.findings.hunt import hunt
from memcarve.labels import Labelling
from memcarve.labels.region_table import region_lines
from memcarve.labels.resident_regions import Residence
from memcarve.mount.documents import document
from memcarve.mount.memory_files import FileOfProcess, FlatFile
from memcarve.mount.module_files import COST, module_folder
from memcarve.mount.segment_files import SegmentFolder
from memcarve.mount.virtual_file import Folder, Listed, MadeFolder
from memcarve.process import Selection
from memcarve.sinks.carved_folder import manifest_lines
from memcarve.sinks.elfcore import elfcore_plan
from memcarve.sinks.flat import check_size, flat_plan
from memcarve.sinks.minidump import minidump_plan
from memcarve.sinks.sink import SinkOptions
from memcarve.times import rfc3339
from memcarve.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.mount.mounted_tree import MountedTree
    from memcarve.mount.virtual_file import Node, VirtualFile
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments
    from memcarve.sinks.single_file import FilePlan

    Made = tuple[VirtualFile, int]

_ROW = 64  # bytes of an extent's columns, and of what is made of them
_SMALL = 4096


class ProcessFolder(Folder):
    """What the folder of the process at `index` holds; a file is made when it is asked for, and kept for a while."""

    def __init__(self, tree: MountedTree, index: int, memory: ProcessMemory) -> None:
        self.tree = tree
        self.index = index
        self.memory = memory
        segments = memory.segments(half=tree.half)
        super().__init__({"modules": MadeFolder(self._modules), "segments": SegmentFolder(memory.space, segments)})
        self._makers: dict[str, Callable[[ProcessMemory], Made]] = {
            "core": self._core,
            "flags.json": self._flags,
            "minidump.dmp": self._minidump,
            "segments.json": self._segments,
            **({"regions.csv": self._regions} if memory.metadata.regions else {}),
            **({"flat": self._flat} if self._can_be_flat(segments) else {}),
        }

    @property
    def cost(self) -> int:
        """How many bytes it takes, roughly."""
        return (1 << 20) + _ROW * len(self.memory.space)

    def _modules(self) -> Folder:
        def make() -> tuple[Folder, int]:
            half, options = self.tree.half, self._options()
            folder = self.memory.past_unreadable(lambda memory: module_folder(memory, half, options))
            return folder, COST * (1 + len(folder.entries))

        return self.tree.made((self.index, "modules"), make)

    def find(self, name: str) -> Node | None:
        """Return what has a name; None if nothing has. Raises MemcarveError if it cannot be made."""
        make = self._makers.get(name)
        if make is None:
            return super().find(name)
        return self.tree.made((self.index, name), lambda: self.memory.past_unreadable(make))

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield the entries: of files that are yet to be made the names alone."""
        names = sorted([*self.entries, *self._makers])
        for name in names[first:]:
            yield Listed(name, self.entries.get(name))

    def _can_be_flat(self, segments: Segments) -> bool:
        """Return True if a flat file is written unasked: if there is any memory, and its gaps are not too large."""
        try:
            check_size(flat_plan(self.memory, segments), sparse=self.tree.sparse)
        except (UsageError, AddressError):
            return False
        return True

    def _flat(self, memory: ProcessMemory) -> Made:
        return FlatFile(memory.space, flat_plan(memory, memory.segments(half=self.tree.half))), _SMALL

    def _minidump(self, memory: ProcessMemory) -> Made:
        segments = memory.segments(half=self.tree.half)
        return self._planned(memory, minidump_plan(memory, segments, self._options(), time.monotonic()))

    def _core(self, memory: ProcessMemory) -> Made:
        segments = memory.segments(half=self.tree.half)
        plan = elfcore_plan(memory, segments, self._options(), time.monotonic(), subject=f"{memory.entry}: core")
        return self._planned(memory, plan)

    def _segments(self, memory: ProcessMemory) -> Made:
        wanted, partial = Selection(half=self.tree.half), memory.first_cut_off is not None
        segments = memory.segments(wanted, labeller=Labelling())
        options = replace(self._options(), partial=partial)
        return document(manifest_lines(memory, segments, options, rfc3339(self.tree.begun)))

    def _regions(self, memory: ProcessMemory) -> Made:
        residence = Residence(memory, Selection(half=self.tree.half))
        return document(f"{line}\n" for line in region_lines(residence))

    def _flags(self, memory: ProcessMemory) -> Made:  # noqa: ARG002 - hunting opens it by itself
        found = hunt(self.tree.container, [self.index], severity=Severity.LOW)
        return document(f"{line}\n" for line in document_lines(found, self.tree.word))

    def _planned(self, memory: ProcessMemory, plan: FilePlan) -> Made:
        head = b"".join(plan.settled(None, self.tree.begun))
        return FileOfProcess(head, plan.base, memory.space, plan.ranges.segments), _SMALL + len(head)

    def _options(self) -> SinkOptions:
        return SinkOptions(begin=self.tree.begun, hashes=())
