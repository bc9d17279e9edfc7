"""What writes an output: one file for each kind, by name."""

from __future__ import annotations

from memcarve.sinks.memmap import ExportResult, export_memmap
from memcarve.sinks.segments import CarveResult, Options, carve

SINKS = {"segments": carve, "memmap": export_memmap}

__all__ = ["SINKS", "CarveResult", "ExportResult", "Options", "carve", "export_memmap"]
