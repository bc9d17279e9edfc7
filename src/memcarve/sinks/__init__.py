"""What writes an output: one file for each kind, by name."""

from __future__ import annotations

from memcarve.sinks.segments import CarveResult, Options, carve

SINKS = {"segments": carve}

__all__ = ["SINKS", "CarveResult", "Options", "carve"]
