"""The folder of one process: what carving, exporting and extracting it would write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.mount.segment_files import SegmentFolder
from memcarve.mount.virtual_file import Folder

if TYPE_CHECKING:
    from memcarve.process import ProcessMemory

_ROW = 64  # bytes of an extent's columns, and of what is made of them


class OpenedProcess:
    """A process that was opened, and its segments of a `half`."""

    def __init__(self, memory: ProcessMemory, half: str) -> None:
        self.memory = memory
        self.segments = memory.segments(half=half)

    @property
    def cost(self) -> int:
        """How many bytes it takes, roughly."""
        return (1 << 20) + _ROW * len(self.memory.space)


class ProcessFolder(Folder):
    """What a process's folder holds."""

    def __init__(self, process: OpenedProcess) -> None:
        super().__init__({"segments": SegmentFolder(process.memory.space, process.segments)})
        self.process = process
