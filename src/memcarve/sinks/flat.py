"""One flat file for one range of addresses: the byte at address A lies at offset A minus the range's start.

Gaps are filled with a byte of choice, or are holes. A flat file has no header: ``FILE.json`` beside it says which range
it is, where it came from, and what of it was filled.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.backing import FileBacking
from memcarve.copying.output_file import BUFFER, Target, seek, write
from memcarve.errors import AddressError, InputError, NoSpaceError, UsageError, printable
from memcarve.intervals import TOP, Intervals
from memcarve.process import LeftOut
from memcarve.sinks.ranges import pieces
from memcarve.sinks.single_file import FileOptions, Mover, NewFile, Written, input_paths
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.dtypes import U64
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments
    from memcarve.sinks.segment_writer import Progress
    from memcarve.space import AddressSpace


SCHEMA = 1
#: bytes of gaps that are filled unasked: more is a mistake in the range sooner than a wish
_MOST_FILLED = 64 << 30
_LONGEST_FILE = 1 << 63
_LARGEST_DOCUMENT = 1 << 28
_ONE = np.uint64(1)


class Plan(NamedTuple):
    """What goes into a flat file for ``start <= address < end``, both Python ints.

    `parts` are the segments of the range; `gaps` (start, size) what lies between. Of their bytes, `missing` are mapped
    but missing, and `unselected` are there but were not chosen; `repeated` of their addresses lie in what shared page
    tables map again, where some or all may be there, too. The rest is not in the map.
    """

    start: int
    end: int
    parts: Segments
    gaps: list[tuple[int, int]]
    missing: int
    unselected: int
    repeated: int

    @property
    def size(self) -> int:
        """The length of the file, in bytes."""
        return self.end - self.start

    @property
    def filled(self) -> int:
        """The number of bytes that are not there."""
        return self.size - self.parts.total


def export_flat(
    process: ProcessMemory,
    path: str | os.PathLike[str],
    options: FileOptions = FileOptions(),  # noqa: B008 - a tuple
    *,
    address: tuple[int, int] | None = None,
    fill: int = 0,
    progress: Progress | None = None,
) -> Written:
    """Write the bytes at ``address[0] <= x < address[1]`` into the file `path`, and ``path.json`` beside it.

    Without `address` it is from the first selected byte to the last. Gaps are filled with the byte `fill` (0 to 255);
    with ``sparse`` they are holes, which read as zeros. Raises UsageError where the range cannot be meant, AddressError
    where nothing of it is in memory, TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    begun = time.monotonic()
    if not 0 <= fill < 1 << 8:
        raise UsageError(f"{fill}: is no byte to fill gaps with; give one from 00 to ff")
    if options.sparse and fill:
        raise UsageError(f"--fill {fill:02x} and --sparse contradict each other: holes read as zeros; leave one out")
    segments, left_out = process.select(options.selection, labeller=options.labeller)
    plan = _plan(process, segments, address)
    outside = segments.total - plan.parts.total
    left_out += [LeftOut("outside --address", len(segments) - len(plan.parts), outside)] if outside else []
    _check_size(plan, sparse=options.sparse)
    name, inputs = os.fspath(path), input_paths(process)

    def report(done: int, total: int) -> None:  # noqa: ARG001 - the gaps are part of the work, too
        if progress is not None:
            progress(done, plan.parts.total + (0 if options.sparse else plan.filled))

    mover = Mover(process, report)
    offset, size = pieces(process.space, plan.parts)
    place = _places(process.space, plan)
    target = NewFile(name, force=options.force, own=_is_own, inputs=inputs)
    target.check()
    beside = NewFile(_beside(name), force=options.force, own=_is_document, inputs=inputs)
    beside.check()
    named = False
    try:
        with beside as document:
            with target as file:
                if not options.sparse:
                    _check_room(file.path, name, plan)
                mover.move(file.path, name, place, offset, size, length=plan.size, sparse=options.sparse)
                if not options.sparse:
                    _fill(file.path, name, plan, fill, report)
                filled = None if options.sparse else fill
                _write_document(document.path, _document(process, options, plan, filled, name))
            named = True
    except BaseException:
        if named:  # and its document is not: nobody would know where it comes from
            os.unlink(name)
        raise
    return Written(
        files=(name, _beside(name)),
        ranges=len(plan.parts),
        bytes=plan.parts.total,
        left_out=left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved=dict(mover.copier.moved),
        notes=_notes(plan, None if options.sparse else fill),
    )


def _plan(process: ProcessMemory, segments: Segments, address: tuple[int, int] | None) -> Plan:
    """Return what goes into the file; raises UsageError and AddressError where nothing does."""
    space = process.space
    if address is None:
        if not len(segments):
            raise UsageError("nothing is selected, so there is nothing to write")
        start, end = int(segments.start[0]), int(segments.last[-1]) + 1
    else:
        start, end = address
        if not 0 <= start < end <= TOP:
            raise UsageError(f"0x{start:x}-0x{end:x}: is no range of addresses; it begins before it ends")
    parts = _clipped(space, segments, start, end)
    missing = _overlap(space.missing, start, end)
    repeated = _overlap(space.repeats, start, end)
    if not len(parts):
        if repeated:
            raise AddressError(
                start, "in no segment", f"; up to 0x{end:x} lies what shared page tables map again: read --raw gives it"
            )
        reason = "mapped but missing" if missing else space.absent
        raise AddressError(start, reason, f", and nothing else up to 0x{end:x} is there")
    there = _clipped(space, space.segments(), start, end).total
    gaps = list(_gaps(parts, start, end))
    return Plan(start, end, parts, gaps, missing, there - parts.total, repeated)


def _clipped(space: AddressSpace, segments: Segments, start: int, end: int) -> Segments:
    """Return what of segments lies in a range."""
    bounds = np.array([bound for bound in (start, end) if bound < TOP], np.uint64)
    parts = space.cut(segments, bounds)
    return parts.where((parts.start >= np.uint64(start)) & (parts.last <= np.uint64(end - 1)))


def _overlap(ranges: Intervals, low: int, high: int) -> int:
    """Return how many bytes of ranges lie in ``low <= x < high``."""
    return int(ranges.bytes_within(np.array([low], np.uint64), np.array([high - 1], np.uint64))[0])


def _gaps(parts: Segments, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and size of what no part fills, in order of addresses."""
    for begin, size in zip(parts.start.tolist(), parts.size.tolist(), strict=True):
        if begin > start:
            yield start, begin - start
        start = begin + size
    if end > start:
        yield start, end - start


def _places(space: AddressSpace, plan: Plan) -> U64:
    """Return where in the file each piece of the source goes (uint64): an extent's start, or its part's."""
    parts = plan.parts
    _, size = pieces(space, parts)
    owner = np.repeat(np.arange(len(parts)), parts.extents.astype(np.int64))
    before = np.cumsum(size, dtype=np.uint64) - size - (np.cumsum(parts.size, dtype=np.uint64) - parts.size)[owner]
    found: U64 = parts.start[owner] - np.uint64(plan.start) + before
    return found


def _check_size(plan: Plan, *, sparse: bool) -> None:
    """Raise UsageError where the range is so large that it is not meant."""
    if plan.size >= _LONGEST_FILE:
        raise UsageError(
            f"0x{plan.start:x}-0x{plan.end:x}: is longer than any file; choose a part with --address or --range"
        )
    if not sparse and plan.filled > _MOST_FILLED:
        raise UsageError(
            f"0x{plan.start:x}-0x{plan.end:x}: has {plan.filled} bytes of gaps to fill and {plan.parts.total} that "
            "are there; choose a part with --address, or leave gaps as holes with --sparse"
        )


def _check_room(path: str, shown: str, plan: Plan) -> None:
    """Raise NoSpaceError where not even the gaps fit; what else is needed depends on how bytes are moved."""
    free = shutil.disk_usage(os.path.dirname(path)).free
    if plan.filled > free:
        raise NoSpaceError(
            f"{shown}: needs {plan.filled} bytes for gaps, and its file system has {free} free; choose another with "
            "-o, or leave gaps as holes with --sparse"
        )


def _fill(path: str, shown: str, plan: Plan, fill: int, report: Progress) -> None:
    """Write the byte into every gap."""
    block = memoryview(bytes([fill]) * BUFFER)
    done = plan.parts.total
    target = Target(os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)), shown)
    try:
        for start, size in plan.gaps:
            seek(target, start - plan.start)
            for into in range(0, size, BUFFER):
                piece = block[: min(BUFFER, size - into)]
                write(target, piece)
                done += len(piece)
                report(done, plan.size)
    finally:
        os.close(target.fd)


def _notes(plan: Plan, fill: int | None) -> Sequence[str]:
    if not plan.filled:
        return ["nothing was filled: all of the range is there"]
    how = "left as holes, which read as zeros" if fill is None else f"filled with 0x{fill:02x}"
    gaps = "gap" if len(plan.gaps) == 1 else "gaps"
    notes = [f"{plan.filled} bytes in {len(plan.gaps)} {gaps} are not from the process: {how}"]
    if plan.missing:
        notes.append(f"{plan.missing} of these bytes are mapped but missing in the input")
    if plan.unselected:
        notes.append(f"{plan.unselected} of these bytes are in the input, and were not selected")
    if plan.repeated:
        notes.append(
            f"{plan.repeated} of these bytes lie in what shared page tables map again, and were not read: read shows "
            "what is there"
        )
    return notes


def _document(process: ProcessMemory, options: FileOptions, plan: Plan, fill: int | None, name: str) -> dict[str, Any]:
    """Return what ``FILE.json`` says; ``filled`` is its last member."""
    return {
        "schema": SCHEMA,
        "tool": "memcarve",
        "what": "flat",
        "version": __version__,
        "command": list(options.command if options.command is not None else sys.argv),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "file": os.path.basename(name),
        "start": f"0x{plan.start:016x}",
        "end": f"0x{plan.end:016x}",
        "size": plan.size,
        "inputs": process.used_inputs,
        "process": {
            "pid": process.pid,
            "name": None if process.name is None else printable(process.name),
            "architecture": process.architecture,
        },
        "complete": not process.incomplete,
        "bytes": plan.parts.total,
        "fill": None if fill is None else f"{fill:02x}",
        "filled_bytes": plan.filled,
        "missing_bytes": plan.missing,
        "unselected_bytes": plan.unselected,
        "repeated_bytes": plan.repeated,
        "filled": [[f"0x{start:016x}", f"0x{start + size:016x}"] for start, size in plan.gaps],
    }


def _write_document(path: str, document: dict[str, Any]) -> None:
    filled = document.pop("filled")
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write(json.dumps(document, indent=1)[:-2] + ',\n "filled": [')
        file.write(",".join(f"\n  {json.dumps(gap)}" for gap in filled))
        file.write("\n ]\n}\n")


def _beside(name: str) -> str:
    return f"{name}.json"


def _read_document(path: str) -> dict[str, Any]:
    """Return what memcarve wrote beside a flat file; nothing where it is something else."""
    with contextlib.suppress(InputError, ValueError, RecursionError), FileBacking(path, follow=False) as file:
        found = json.loads(file.read_at(0, min(file.size, _LARGEST_DOCUMENT)))
        if isinstance(found, dict) and (found.get("tool"), found.get("what")) == ("memcarve", "flat"):
            return found
    return {}


def _is_document(path: str) -> bool:
    return bool(_read_document(path))


def _is_own(path: str) -> bool:
    """Say whether memcarve wrote a flat file: the document beside it is about a file of its name and length."""
    found = _read_document(_beside(path))
    try:
        return (found.get("file"), found.get("size")) == (os.path.basename(path), os.path.getsize(path))
    except OSError:
        return False
