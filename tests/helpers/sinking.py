"""Writing a process in tests: what is wanted and how, in one call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.process import Selection
from memcarve.sinks import SINKS, several
from memcarve.sinks.extract import extract as write_modules
from memcarve.sinks.memmap import dump_name
from memcarve.sinks.sink import SinkOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.formats.programs.mapped_module import MappedModule
    from memcarve.process import Container, Labeller, ProcessMemory, Progress
    from memcarve.sinks.sink import Result


class How(NamedTuple):
    """What of a process is written, and options of all sinks."""

    selection: Selection = Selection()
    labeller: Labeller | None = None
    sparse: bool = False
    force: bool = False
    command: Sequence[str] | None = None


def write(
    sink: str,
    process: ProcessMemory,
    out: str | os.PathLike[str],
    how: How = How(),  # noqa: B008 - a tuple
    *,
    selection: Selection | None = None,
    split: str = "none",
    labeller: Labeller | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Write a process by a sink."""
    segments = process.segments(selection or how.selection, split, labeller or how.labeller)
    given = {name: value for name, value in how._asdict().items() if name in ("force", "command", "sparse") and value}
    options = {name: value for name, value in options.items() if value is not None}
    return SINKS[sink](process, segments, out, SinkOptions(**(given | options)), progress)


def carve(process: ProcessMemory, out: str | os.PathLike[str], **options: Any) -> Result:
    """Carve a process."""
    return write("segments", process, out, **options)


def export_minidump(process: ProcessMemory, out: str | os.PathLike[str], how: How = How(), **options: Any) -> Result:  # noqa: B008
    """Write a minidump."""
    return write("minidump", process, out, how, **options)


def export_elfcore(process: ProcessMemory, out: str | os.PathLike[str], how: How = How(), **options: Any) -> Result:  # noqa: B008
    """Write a core."""
    return write("elfcore", process, out, how, **options)


def export_flat(process: ProcessMemory, out: str | os.PathLike[str], how: How = How(), **options: Any) -> Result:  # noqa: B008
    """Write a flat file."""
    return write("flat", process, out, how, **options)


def export_scripts(process: ProcessMemory, out: str | os.PathLike[str], how: How = How(), **options: Any) -> Result:  # noqa: B008
    """Write scripts."""
    return write("scripts", process, out, how, **options)


def export_memmap(
    process: ProcessMemory,
    folder: str | os.PathLike[str],
    *,
    half: str = "all",
    stem: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Write a map and a dump into a folder."""
    name = dump_name(process) if stem is None else f"{stem}.dmp"
    return write(
        "memmap", process, os.path.join(folder, name), selection=Selection(half=half), progress=progress, **options
    )


def extract(
    process: ProcessMemory,
    out: str | os.PathLike[str],
    modules: Sequence[MappedModule],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Extract modules."""
    return write_modules(process, modules, out, SinkOptions(**options), progress)


def carve_several(container: Container, indexes: Sequence[int], out: str | os.PathLike[str], **options: Any) -> Result:
    """Carve several processes into one folder."""

    def one(process: ProcessMemory, path: str, options: SinkOptions, progress: Progress) -> Result:
        return SINKS["segments"](process, process.segments(), path, options, progress)

    return several.write_several(container, indexes, out, one, SinkOptions(**options), at_once=True)
