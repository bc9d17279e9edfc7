"""What writes an output: one file or folder for each kind, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.sinks.carved_folder import carve
from memcarve.sinks.elfcore import export_elfcore
from memcarve.sinks.flat import export_flat
from memcarve.sinks.memmap import export_memmap
from memcarve.sinks.minidump import export_minidump
from memcarve.sinks.scripts import export_scripts
from memcarve.sinks.sink import SinkOptions
from memcarve.vocabulary import OutputType

if TYPE_CHECKING:
    import os

    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.sink import Result, Sink

SINKS: dict[str, Sink] = {
    OutputType.SEGMENTS: carve,
    OutputType.MINIDUMP: export_minidump,
    OutputType.ELFCORE: export_elfcore,
    OutputType.FLAT: export_flat,
    OutputType.SCRIPTS: export_scripts,
    OutputType.MEMMAP: export_memmap,
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
