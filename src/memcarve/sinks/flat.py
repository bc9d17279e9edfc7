"""One flat file for one range of addresses: the byte at address A lies at offset A minus the range's start.

Gaps are filled with a byte of choice, or are holes. A flat file has no header: ``FILE.json`` beside it says which range
it is, where it came from, and what of it was filled.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve import provenance
from memcarve.errors import AddressError, UsageError
from memcarve.intervals import TOP, Intervals
from memcarve.segments import LeftOut
from memcarve.sinks.final_name import check_room, input_paths
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.object_output import new_file
from memcarve.sinks.ranges import pieces
from memcarve.sinks.single_file import Mover, file_hash
from memcarve.sinks.sink import Result, SinkOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64
    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace


#: bytes of gaps that are filled unasked: more is a mistake in the range sooner than a wish
_MOST_FILLED = 64 << 30
_MOST_HOLES = 4 << 30  # bytes of holes in a file whose hash is taken
_LONGEST_FILE = 1 << 63
_ONE = np.uint64(1)


class Plan(NamedTuple):
    """What goes into a flat file, which begins with the byte at address `start`.

    `parts` are the segments of the range; `gaps` what lies between. Of their bytes, `missing` are mapped
    but missing, and `unselected` are there but were not chosen; `repeated` of their addresses lie in what shared page
    tables map again, where some or all may be there, too. The rest is not in the map.
    """

    start: int
    parts: Segments
    gaps: Intervals
    missing: int
    unselected: int
    repeated: int

    @property
    def size(self) -> int:
        """The length of the file, in bytes."""
        return self.parts.total + self.gaps.total

    @property
    def end(self) -> int:
        """The address behind the last byte, a Python int."""
        return self.start + self.size


def export_flat(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write the bytes at ``options.address`` into the file `out`, and ``out.json`` beside it.

    Gaps are filled with the byte ``fill``; with ``sparse`` they are holes, which read as zeros. Raises UsageError if
    the range makes no sense, AddressError if nothing of it is in memory, TargetExistsError, NoSpaceError,
    SourceReadError, OutputError.
    """
    begun = time.monotonic()
    options.check("flat")
    fill = options.fill or 0
    if options.sparse and fill:
        raise UsageError(
            "holes read as zeros",
            remedy=f"{{fill:{fill:02x}}} and {{sparse}} contradict each other; leave one out",
        )
    plan = flat_plan(process, segments, options.address)
    outside = segments.total - plan.parts.total
    left_out = [*segments.choice.left_out]
    left_out += [LeftOut("outside --address", len(segments) - len(plan.parts), outside)] if outside else []
    check_size(plan, sparse=options.sparse)
    name = os.fspath(out)

    mover = Mover(process, progress)
    offset, size = pieces(process.space, plan.parts)
    place = _places(process.space, plan)
    beside = f"{name}.json"
    with new_file(name, options, input_paths(process), beside) as file:
        if not options.sparse:
            check_room(
                os.path.dirname(file.path), name, plan.gaps.total, "or leave gaps as holes with {sparse}"
            )  # what else is needed depends on how bytes are moved
        with input_hash(process, options, mover.copier.stop) as hashed:
            digest = mover.move(
                file.path,
                name,
                place,
                offset,
                size,
                length=plan.size,
                sparse=options.sparse,
                fill=None if options.sparse else fill,
                hashed=_is_hashed(plan, options),
            )
        record = options.record(begun, input=hashed)
        document = provenance.document(
            "flat", process, record, left_out=left_out, choice=segments.choice.selection
        ) | _facts(plan, name, digest, options)
        filled = (f'["0x{start:016x}", "0x{end:016x}"]' for start, end in plan.gaps.bounds())
        with open(file.beside_path, "w", encoding="ascii", newline="\n") as text:
            text.writelines(provenance.lines(document, filled=filled))
        seal = file_hash(file.beside_path, options)
    return Result(
        files=(name, beside),
        what="range",
        count=len(plan.parts),
        bytes=plan.parts.total,
        left_out=left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved=dict(mover.copier.moved),
        hashes=() if digest is None else ("sha256",),
        notes=[*_notes(plan, None if options.sparse else fill), *file.notes],
        seal=seal,
        sealed=None if seal is None else os.path.basename(beside),
    )


def _is_hashed(plan: Plan, options: SinkOptions) -> bool:
    """Return True if a file's hash is wanted, and its holes are not too many for that: they may be terabytes."""
    return "sha256" in options.hashes and (not options.sparse or plan.gaps.total <= _MOST_HOLES)


def flat_plan(process: ProcessMemory, segments: Segments, address: tuple[int, int] | None = None) -> Plan:
    """Return what goes into the file; raises UsageError and AddressError if nothing does."""
    space = process.space
    if address is None:
        if not len(segments):
            raise UsageError("nothing is selected, so there is nothing to write")
        start, end = int(segments.start[0]), int(segments.last[-1]) + 1
    else:
        start, end = address
        if not 0 <= start < end <= TOP:
            raise UsageError(
                "is not a range of addresses", subject=f"0x{start:x}-0x{end:x}", remedy="the start is below the end"
            )
    check_length(start, end)
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
    gaps = Intervals.of([(start, end - start)]).subtract(parts)
    return Plan(start, parts, gaps, missing, there - parts.total, repeated)


def check_length(start: int, end: int) -> None:
    """Raise UsageError if a range is longer than a file can be."""
    if end - start >= _LONGEST_FILE:
        raise UsageError(
            "is longer than any file", subject=f"0x{start:x}-0x{end:x}", remedy="choose a part with {address} or {half}"
        )


def _clipped(space: AddressSpace, segments: Segments, start: int, end: int) -> Segments:
    """Return what of segments lies in a range."""
    bounds = np.array([bound for bound in (start, end) if bound < TOP], np.uint64)
    parts = space.cut(segments, bounds)
    return parts.where((parts.start >= np.uint64(start)) & (parts.last <= np.uint64(end - 1)))


def _overlap(ranges: Intervals, low: int, high: int) -> int:
    """Return how many bytes of ranges lie in ``low <= x < high``."""
    return int(ranges.bytes_within(np.array([low], np.uint64), np.array([high - 1], np.uint64))[0])


def _places(space: AddressSpace, plan: Plan) -> U64:
    """Return where in the file each piece of the source goes (uint64): an extent's start, or its part's."""
    parts = plan.parts
    _, size = pieces(space, parts)
    owner = np.repeat(np.arange(len(parts)), parts.extents.astype(np.int64))
    before = np.cumsum(size, dtype=np.uint64) - size - (np.cumsum(parts.size, dtype=np.uint64) - parts.size)[owner]
    found: U64 = parts.start[owner] - np.uint64(plan.start) + before
    return found


def check_size(plan: Plan, *, sparse: bool) -> None:
    """Raise UsageError if more is to be filled than anybody means."""
    if not sparse and plan.gaps.total > _MOST_FILLED:
        raise UsageError(
            f"has {plan.gaps.total} bytes of gaps to fill and {plan.parts.total} that are there",
            subject=f"0x{plan.start:x}-0x{plan.end:x}",
            remedy="choose a part with {address}, or leave gaps as holes with {sparse}",
        )


def _notes(plan: Plan, fill: int | None) -> Sequence[str]:
    if not len(plan.gaps):
        return ["nothing was filled: all of the range is there"]
    how = "left as holes, which read as zeros" if fill is None else f"filled with 0x{fill:02x}"
    gaps = "gap" if len(plan.gaps) == 1 else "gaps"
    notes = [f"{plan.gaps.total} bytes in {len(plan.gaps)} {gaps} are not from the process: {how}"]
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


def _facts(plan: Plan, name: str, digest: str | None, options: SinkOptions) -> dict[str, Any]:
    """Return what ``FILE.json`` says of the file."""
    return {
        "file": os.path.basename(name),
        "start": f"0x{plan.start:016x}",
        "end": f"0x{plan.end:016x}",
        "size": plan.size,
        "sha256": digest,
        "bytes": plan.parts.total,
        "fill": None if options.sparse else f"{options.fill or 0:02x}",
        "filled_bytes": plan.gaps.total,
        "missing_bytes": plan.missing,
        "unselected_bytes": plan.unselected,
        "repeated_bytes": plan.repeated,
    }
