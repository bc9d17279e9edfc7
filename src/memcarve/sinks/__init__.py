"""What writes an output: one file for each kind, by name."""

from __future__ import annotations

from memcarve.sinks.carved_folder import CarveResult, Options, carve
from memcarve.sinks.elfcore import export_elfcore
from memcarve.sinks.flat import export_flat
from memcarve.sinks.memmap import ExportResult, export_memmap
from memcarve.sinks.minidump import export_minidump
from memcarve.sinks.scripts import export_scripts
from memcarve.sinks.single_file import FileOptions, Written

SINKS = {
    "segments": carve,
    "minidump": export_minidump,
    "elfcore": export_elfcore,
    "flat": export_flat,
    "scripts": export_scripts,
    "memmap": export_memmap,
}

__all__ = [
    "SINKS",
    "CarveResult",
    "ExportResult",
    "FileOptions",
    "Options",
    "Written",
    "carve",
    "export_elfcore",
    "export_flat",
    "export_memmap",
    "export_minidump",
    "export_scripts",
]
