"""The folder of one process: what carving, exporting and extracting it would write."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memcarve.errors import AddressError, UsageError
from memcarve.mount.memory_files import FileOfProcess, FlatFile
from memcarve.mount.module_files import COST, module_folder
from memcarve.mount.segment_files import SegmentFolder
from memcarve.mount.virtual_file import Folder, Listed, MadeFolder
from memcarve.sinks.elfcore import elfcore_plan
from memcarve.sinks.flat import check_size, flat_plan
from memcarve.sinks.minidump import minidump_plan
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.mount.mounted_tree import MountedTree
    from memcarve.mount.virtual_file import Node, VirtualFile
    from memcarve.process import ProcessMemory
    from memcarve.sinks.single_file import FilePlan

    Made = tuple[VirtualFile, int]

_ROW = 64  # bytes of an extent's columns, and of what is made of them
_SMALL = 4096


class OpenedProcess:
    """A process that was opened, and its segments of a `half`."""

    def __init__(self, memory: ProcessMemory, half: str) -> None:
        self.memory = memory
        self.half = half
        self.segments = memory.segments(half=half)

    @property
    def cost(self) -> int:
        """How many bytes it takes, roughly."""
        return (1 << 20) + _ROW * len(self.memory.space)


class ProcessFolder(Folder):
    """What the folder of the process at `index` holds; a file is made when it is asked for, and kept for a while."""

    def __init__(self, tree: MountedTree, index: int, process: OpenedProcess) -> None:
        super().__init__(
            {"modules": MadeFolder(self._modules), "segments": SegmentFolder(process.memory.space, process.segments)}
        )
        self.tree = tree
        self.index = index
        self.process = process
        self._makers: dict[str, Callable[[ProcessMemory], Made]] = {
            "core": self._core,
            "minidump.dmp": self._minidump,
            **({"flat": self._flat} if self._can_be_flat() else {}),
        }

    def _modules(self) -> Folder:
        def make() -> tuple[Folder, int]:
            half, options = self.process.half, self._options()
            folder = self.process.memory.past_unreadable(lambda memory: module_folder(memory, half, options))
            return folder, COST * (1 + len(folder.entries))

        return self.tree.made((self.index, "modules"), make)

    def find(self, name: str) -> Node | None:
        """Return what has a name; None if nothing has. Raises MemcarveError if it cannot be made."""
        make = self._makers.get(name)
        if make is None:
            return super().find(name)
        return self.tree.made((self.index, name), lambda: self.process.memory.past_unreadable(make))

    def listed(self, first: int) -> Iterator[Listed]:
        """Yield the entries: of files that are yet to be made the names alone."""
        names = sorted([*self.entries, *self._makers])
        for name in names[first:]:
            yield Listed(name, self.entries.get(name))

    def _can_be_flat(self) -> bool:
        """Return True if a flat file is written unasked: if there is any memory, and its gaps are not too large."""
        try:
            check_size(flat_plan(self.process.memory, self.process.segments), sparse=self.tree.sparse)
        except (UsageError, AddressError):
            return False
        return True

    def _flat(self, memory: ProcessMemory) -> Made:
        return FlatFile(memory.space, flat_plan(memory, memory.segments(half=self.process.half))), _SMALL

    def _minidump(self, memory: ProcessMemory) -> Made:
        segments = memory.segments(half=self.process.half)
        return self._planned(memory, minidump_plan(memory, segments, self._options(), time.monotonic()))

    def _core(self, memory: ProcessMemory) -> Made:
        segments = memory.segments(half=self.process.half)
        plan = elfcore_plan(memory, segments, self._options(), time.monotonic(), subject=f"{memory.entry}: core")
        return self._planned(memory, plan)

    def _planned(self, memory: ProcessMemory, plan: FilePlan) -> Made:
        head = b"".join(plan.later.settled(plan.head, None, self.tree.begun))
        return FileOfProcess(head, plan.base, memory.space, plan.ranges.segments), _SMALL + len(head)

    def _options(self) -> SinkOptions:
        return SinkOptions(begin=self.tree.begun, hashes=())
