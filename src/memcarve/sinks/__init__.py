"""What writes an output: one file for each kind, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.sinks.carved_folder import carve
from memcarve.sinks.elfcore import export_elfcore
from memcarve.sinks.flat import export_flat
from memcarve.sinks.memmap import export_memmap
from memcarve.sinks.minidump import export_minidump
from memcarve.sinks.scripts import export_scripts

if TYPE_CHECKING:
    from memcarve.sinks.sink import Sink

#: each takes a process, its segments, where to write, options, and what is told of the progress; it returns a Result
SINKS: dict[str, Sink] = {
    "segments": carve,
    "minidump": export_minidump,
    "elfcore": export_elfcore,
    "flat": export_flat,
    "scripts": export_scripts,
    "memmap": export_memmap,
}
