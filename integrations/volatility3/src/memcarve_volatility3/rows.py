# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The rows that the plugins print: one for each contiguous segment of each process."""

from __future__ import annotations

import fnmatch
import gc
import itertools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from volatility3.framework import renderers
from volatility3.framework.renderers import format_hints

from memcarve.errors import MemcarveError, printable
from memcarve.process import Selection
from memcarve_volatility3.machine import Found, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.metadata import Regions
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments

    Row = tuple[int, tuple[Any, ...]]

vollog = logging.getLogger(__name__)

COLUMNS = [
    ("PID", int),
    ("Process", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Size", format_hints.Hex),
    ("Extents", int),
    ("Protection", str),
    ("File", str),
    ("File output", str),
]

_DISABLED, _FAILED = "Disabled", "Error outputting file"


class Wanted(NamedTuple):
    """What was asked for: processes by `name` (a pattern), the kernel's half, too, how to split, whether to dump."""

    name: str | None
    kernel: bool
    split: str
    dump: bool


def rows(
    context: Any,  # noqa: ANN401 - Volatility has no types to import
    processes: Iterable[Found],
    wanted: Wanted,
    open_method: Callable[[str], Any],
    progress: Callable[[float, str], object],
) -> Iterator[Row]:
    """Yield the rows of the processes wanted; what goes wrong with one of them is a warning."""
    chosen = [found for found in processes if _is_named(found, wanted.name)]
    if not chosen:
        vollog.warning("no process is listed that was asked for")
    machines: dict[str, Machine] = {}
    try:
        for found in chosen:
            try:
                machine = machines.get(found.physical)
                if machine is None:
                    machine = machines[found.physical] = Machine(context, found.physical)
                yield from _of_process(machine, found, wanted, open_method, progress, alone=len(chosen) == 1)
            except MemcarveError as error:
                vollog.warning(f"{printable(str(found.entry))}: {error}")
    finally:
        for machine in machines.values():
            machine.close()
        gc.freeze()  # the program mostly ends now: what ends with it is not looked through for garbage before


def _is_named(found: Found, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase((found.entry.name or "").lower(), pattern.lower())


def _of_process(
    machine: Machine,
    found: Found,
    wanted: Wanted,
    open_method: Callable[[str], Any],
    progress: Callable[[float, str], object],
    *,
    alone: bool,
) -> Iterator[Row]:
    process = machine.memory_of(found, "all" if wanted.kernel else "user")
    shown = printable(str(found.entry))
    for text in [*process.warnings, *process.metadata.notes]:
        (vollog.warning if process.incomplete else vollog.info)(f"{shown}: {printable(text)}")
    split = wanted.split if process.metadata.regions or wanted.split == "none" else "none"
    if split != wanted.split:
        vollog.warning(f"{shown}: nothing is known to split by {wanted.split}; its segments are whole")
    if not wanted.dump:
        segments = process.segments(Selection(half="all"), split)
        yield from _lines(process, segments, itertools.repeat(_DISABLED))
        return
    from memcarve.labels import Labelling  # noqa: PLC0415 - they take long to import, and a list needs neither
    from memcarve_volatility3.dump import HandlerFiles, dump  # noqa: PLC0415

    segments = process.segments(Selection(half="all"), split, Labelling("headers"))
    files = HandlerFiles(open_method, process.pid, alone=alone)
    if len(segments):
        try:
            dump(
                process,
                segments,
                files,
                lambda done, total: progress(100 * done / max(total, 1), f"Writing segments of {shown}"),
            )
        except (MemcarveError, OSError) as error:
            vollog.warning(f"{shown}: the dump is not complete: {printable(str(error))}")
    yield from _lines(process, segments, (files.names.get(f"{segment.name}.bin") or _FAILED for segment in segments))


def _lines(process: ProcessMemory, segments: Segments, outputs: Iterable[str]) -> Iterator[Row]:
    pid = renderers.UnreadableValue() if process.pid is None else process.pid
    name = renderers.UnreadableValue() if process.name is None else printable(process.name)
    regions = process.metadata.regions[0] if process.metadata.regions else None
    texts = _Texts(regions, segments)
    columns = (segments.start.tolist(), segments.size.tolist(), segments.extents.tolist())
    hexadecimal = format_hints.Hex
    for index, (start, size, extents, output) in enumerate(zip(*columns, outputs, strict=False)):
        protection, file = texts.of(index)
        yield (
            0,
            (
                pid,
                name,
                hexadecimal(start),
                hexadecimal(start + size),
                hexadecimal(size),
                extents,
                protection,
                file,
                output,
            ),
        )


class _Texts:
    """What is said of segments by the region that each begins in, and how many more it touches."""

    def __init__(self, regions: Regions | None, segments: Segments) -> None:
        self._known: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._regions = regions
        if regions is None or not len(regions):
            self._at = self._count = [0] * len(segments)
            self._regions = None
            return
        pieces = regions.pieces
        first, after = pieces.touched(segments)
        at = pieces.owners_of(segments.start)
        count = after - first
        if regions.overlapping:  # then a region may have several pieces
            bounds = zip(first.tolist(), after.tolist(), strict=True)
            count = np.array([len(set(pieces.owner[low:high].tolist())) for low, high in bounds], np.int64)
        self._at = at.tolist()
        self._count = (count - (at >= 0)).tolist()

    def of(self, index: int) -> tuple[Any, Any]:
        """Return the cells Protection and File of a segment."""
        key = self._at[index], self._count[index]
        cells = self._known.get(key)
        if cells is None:
            cells = self._known[key] = self._cells(*key)
        return cells

    def _cells(self, at: int, others: int) -> tuple[Any, Any]:
        if self._regions is None:
            return renderers.NotAvailableValue(), renderers.NotAvailableValue()
        region = self._regions.rows[at] if at >= 0 else None
        protection = None if region is None else region.protection
        if others:
            protection = f"{protection or '?' if region is not None else '-'} (+{others})"
        file = None if region is None else region.file
        return (
            renderers.NotApplicableValue() if protection is None else printable(protection),
            renderers.NotApplicableValue() if file is None else printable(file),
        )
