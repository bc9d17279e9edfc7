"""Carve a process's memory into its contiguous segments.

    import memcarve

    with memcarve.open("pid.4321.dmp") as dump:
        process = dump.process()
        for segment in process.segments():
            print(segment.name, segment.size)
        process.space.read(0x7ffe0000, 16)
        memcarve.carve(process, "out")

The names below are the public ones; ``docs/library.md`` shows them at work. They are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from memcarve.errors import (
    AddressError,
    CounterpartError,
    InputError,
    LimitError,
    MapError,
    MemcarveError,
    MissingExtraError,
    NoSpaceError,
    NotRecognisedError,
    OutputError,
    OverlapError,
    PositionError,
    ProcessError,
    SourceReadError,
    TargetExistsError,
    TruncatedError,
    UsageError,
    VerificationError,
)
from memcarve.version import __version__

if TYPE_CHECKING:
    from memcarve.comparing import Comparison, compare
    from memcarve.differences import Difference
    from memcarve.formats.programs.mapped_module import MappedModule
    from memcarve.labels import Labelling
    from memcarve.labels.modules import find_modules
    from memcarve.metadata import (
        Area,
        Areas,
        Metadata,
        Module,
        Modules,
        Parameters,
        Region,
        Regions,
        Thread,
        Threads,
        Unloaded,
        UnloadedModule,
    )
    from memcarve.missing import Missing
    from memcarve.patterns import TextPattern, text_pattern
    from memcarve.process import Container, LeftOut, Platform, ProcessEntry, ProcessMemory, Selection
    from memcarve.segments import Segment, Segments
    from memcarve.sinks.carved_folder import CarveResult, Options, carve
    from memcarve.sinks.elfcore import export_elfcore
    from memcarve.sinks.extract import ExtractOptions, ExtractResult, extract
    from memcarve.sinks.flat import export_flat
    from memcarve.sinks.memmap import ExportResult, export_memmap
    from memcarve.sinks.minidump import export_minidump
    from memcarve.sinks.scripts import export_scripts
    from memcarve.sinks.several import Outcome, SeveralResult, carve_several
    from memcarve.sinks.single_file import FileOptions, Written
    from memcarve.sinks.verify import Verified, verify
    from memcarve.sources import open_container as open  # noqa: A004 - that is what it does
    from memcarve.space import AddressSpace, Extent, Hit

_LATER = {
    "open": ("sources", "open_container"),
    **dict.fromkeys(("carve", "CarveResult", "Options"), ("sinks.carved_folder", None)),
    **dict.fromkeys(("export_memmap", "ExportResult"), ("sinks.memmap", None)),
    **dict.fromkeys(("FileOptions", "Written"), ("sinks.single_file", None)),
    **dict.fromkeys(("extract", "ExtractOptions", "ExtractResult"), ("sinks.extract", None)),
    **{f"export_{kind}": (f"sinks.{kind}", None) for kind in ("elfcore", "flat", "minidump", "scripts")},
    **dict.fromkeys(("carve_several", "Outcome", "SeveralResult"), ("sinks.several", None)),
    **dict.fromkeys(("verify", "Verified"), ("sinks.verify", None)),
    **dict.fromkeys(
        ("Container", "LeftOut", "Platform", "ProcessEntry", "ProcessMemory", "Selection"), ("process", None)
    ),
    **dict.fromkeys(("AddressSpace", "Extent", "Hit"), ("space", None)),
    **dict.fromkeys(("Segment", "Segments"), ("segments", None)),
    **dict.fromkeys(
        (
            *("Area", "Areas", "Metadata", "Module", "Modules", "Parameters", "Region", "Regions", "Thread", "Threads"),
            *("Unloaded", "UnloadedModule"),
        ),
        ("metadata", None),
    ),
    **dict.fromkeys(("Comparison", "compare"), ("comparing", None)),
    "Difference": ("differences", None),
    "Labelling": ("labels", None),
    "MappedModule": ("formats.programs.mapped_module", None),
    "find_modules": ("labels.modules", None),
    "Missing": ("missing", None),
    **dict.fromkeys(("TextPattern", "text_pattern"), ("patterns", None)),
}

__all__ = [
    "AddressError",
    "AddressSpace",
    "Area",
    "Areas",
    "CarveResult",
    "Comparison",
    "Container",
    "CounterpartError",
    "Difference",
    "ExportResult",
    "Extent",
    "ExtractOptions",
    "ExtractResult",
    "FileOptions",
    "Hit",
    "InputError",
    "Labelling",
    "LeftOut",
    "LimitError",
    "MapError",
    "MappedModule",
    "MemcarveError",
    "Metadata",
    "Missing",
    "MissingExtraError",
    "Module",
    "Modules",
    "NoSpaceError",
    "NotRecognisedError",
    "Options",
    "Outcome",
    "OutputError",
    "OverlapError",
    "Parameters",
    "Platform",
    "PositionError",
    "ProcessEntry",
    "ProcessError",
    "ProcessMemory",
    "Region",
    "Regions",
    "Segment",
    "Segments",
    "Selection",
    "SeveralResult",
    "SourceReadError",
    "TargetExistsError",
    "TextPattern",
    "Thread",
    "Threads",
    "TruncatedError",
    "Unloaded",
    "UnloadedModule",
    "UsageError",
    "VerificationError",
    "Verified",
    "Written",
    "__version__",
    "carve",
    "carve_several",
    "compare",
    "export_elfcore",
    "export_flat",
    "export_memmap",
    "export_minidump",
    "export_scripts",
    "extract",
    "find_modules",
    "open",
    "text_pattern",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import what needs numpy when it is asked for, so that ``--help`` does not wait for it."""
    if name not in _LATER:
        raise AttributeError(f"module 'memcarve' has no attribute {name!r}")
    module, attribute = _LATER[name]
    found: object = getattr(importlib.import_module(f"memcarve.{module}"), attribute or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
