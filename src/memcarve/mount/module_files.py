"""The folder `modules/`: a file for each program and library in memory, as extracting makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.labels.modules import find_modules
from memcarve.mount.virtual_file import Folder
from memcarve.process import Selection
from memcarve.sinks.extract import file_name, settled

if TYPE_CHECKING:
    from memcarve.process import ProcessMemory
    from memcarve.sinks.module_file import ModuleFile
    from memcarve.sinks.sink import SinkOptions

COST = 4096  # bytes that a module's plan takes, roughly


class _File:
    """A module's file, made of memory when it is read."""

    def __init__(self, file: ModuleFile) -> None:
        self.file = file
        self.size = file.size

    @property
    def stored(self) -> int:
        """What is in memory; the rest reads as zeros."""
        return self.file.resident

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`; raises SourceReadError."""
        self.file.read_into(offset, view)


def module_folder(process: ProcessMemory, half: str, options: SinkOptions) -> Folder:
    """Return a folder of the files that ``extract`` writes. Memory is searched for headers; raises SourceReadError."""
    modules = find_modules(process, Selection(half=half)).modules
    files = {
        file_name(modules[index]): _File(file) for index, file, why in settled(process, modules, options) if not why
    }
    return Folder(dict(sorted(files.items())))
