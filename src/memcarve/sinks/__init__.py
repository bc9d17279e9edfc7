"""What writes an output: one file or folder for each kind, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from memcarve.sinks.sink import SinkOptions
from memcarve.vocabulary import OutputType

if TYPE_CHECKING:
    import os

    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.sink import Result, Sink


class _InModule:
    """A sink whose module is imported when something is written: all of them take long to import."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(
        self,
        process: ProcessMemory,
        segments: Segments,
        out: str | os.PathLike[str],
        options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
        progress: Progress | None = None,
    ) -> Result:
        """Write segments as the function in the module does."""
        sink: Sink = getattr(importlib.import_module(f"{__name__}.{self._module}"), self._name)
        return sink(process, segments, out, options, progress)


SINKS: dict[str, Sink] = {
    OutputType.SEGMENTS: _InModule("carved_folder", "carve"),
    OutputType.MINIDUMP: _InModule("minidump", "export_minidump"),
    OutputType.ELFCORE: _InModule("elfcore", "export_elfcore"),
    OutputType.FLAT: _InModule("flat", "export_flat"),
    OutputType.SCRIPTS: _InModule("scripts", "export_scripts"),
    OutputType.MEMMAP: _InModule("memmap", "export_memmap"),
}


def export(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    to: str = OutputType.MINIDUMP,
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write `segments` of a process to the file or folder `out`, whole or not at all; `to` is an OutputType.

    Raises UsageError for an unknown output and for options that are not about it, TargetExistsError, NoSpaceError,
    SourceReadError, OutputError.
    """
    return SINKS[OutputType(to)](process, segments, out, options, progress)
