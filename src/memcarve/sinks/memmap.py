"""A memory map and the dump that belongs to it, as Volatility 3's windows.memmap --dump writes them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.copying.output_file import Target, write_error
from memcarve.formats.memmap.map_writing import RENDERERS, MapRows
from memcarve.intervals import joined
from memcarve.missing import OUTSIDE, REASONS
from memcarve.segments import LeftOut
from memcarve.sinks.final_name import input_paths
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.object_output import new_file
from memcarve.sinks.ownership import MARK
from memcarve.sinks.single_file import Mover, file_hash
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments


_LARGEST = np.uint64(1 << 62)  # no file is longer, and no position behind that is believed
_DUMP = ".dmp"


def export_memmap(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str],
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write the dump `out` (``pid.N.dmp``) and its map beside it (``.map``, ``.csv``, ``.json``, ``.jsonl``).

    A row is a run of pages that is contiguous in virtual and in physical memory; addresses are cut to the width of the
    address space, and of its very last page the last byte is left out, as Volatility does. If a source knows no
    physical addresses, the column holds the offset in the source. If bytes are known to be missing, rows at the end
    name what is mapped and not there, with "Error outputting to file" (but for pages outside an image), and the banner
    of ``quick`` says it. Only a map of ``quick`` says that memcarve wrote it, and can be replaced.

    Raises UsageError, TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    begun = time.monotonic()
    options.check("memmap")
    write, ending = RENDERERS[options.renderer or "quick"]
    dump = os.fspath(out)
    text = f"{dump.removesuffix(_DUMP)}.{ending}"
    there, extent = segments.intersect(space := process.space)
    start, size, offset = there.start, there.size.copy(), space.offset[extent] + (there.start - space.start[extent])
    physical = offset
    if space.physical is not None:
        physical = space.physical[extent] + (start - space.start[extent])
    left_out = list(segments.choice.left_out)
    top = 1 << process.address_bits
    if len(start) and (int(start[-1]) + int(size[-1])) % top == 0:
        size[-1] -= np.uint64(1)
        left_out.append(LeftOut("the last byte of the address space, which such maps leave out", 0, 1))
    gone = _missing(process, segments.choice.half)
    rows = _rows(process, (start, size, physical), gone, os.path.basename(dump))
    mover = Mover(process, progress)
    with new_file(dump, options, input_paths(process), text) as file:

        def write_map() -> None:
            try:
                with open(file.beside_path, "w", encoding="utf-8", newline="\n") as table:
                    for block in write(rows, f"{MARK.decode().removeprefix('written by ')}{__version__}"):
                        mover.copier.check_stop()
                        table.write(block)
            except OSError as error:
                raise write_error(error, Target(-1, text)) from error

        place = np.cumsum(size, dtype=np.uint64) - size
        with input_hash(process, options, mover.copier.stop) as hashed:
            wanted = "sha256" in options.hashes
            digest = mover.move(
                file.path, dump, place, offset, size, length=int(size.sum()), hashed=wanted, beside=write_map
            )
        seal = file_hash(file.beside_path, options)
    notes = [*_not_recorded(options, hashed), *file.notes]
    if digest is not None:
        notes.append(f"{dump}: its SHA-256 is {digest}; the map cannot record it, and the seal is the map's")
    if process.incomplete and not len(gone[0]) and options.renderer not in (None, "quick"):
        notes.append(f"{text}: cannot say that bytes are missing; --format quick can")
    return Result(
        files=(text, dump),
        what="row",
        count=len(rows.virtual),
        bytes=int(size.sum()),
        left_out=left_out,
        complete=not process.incomplete,
        seconds=time.monotonic() - begun,
        moved=dict(mover.copier.moved),
        hashes=() if seal is None else ("sha256",),
        notes=notes,
        seal=seal,
        sealed=None if seal is None else os.path.basename(text),
    )


def _not_recorded(options: SinkOptions, hashed: dict[str, Any]) -> Iterator[str]:
    """Yield notes on what was to be recorded: no document lies beside a map, as none lies beside Volatility's."""
    if "sha256" in hashed:
        yield f"the input's SHA-256 is {hashed['sha256']} ({hashed['sha256_is']}); the map cannot record it"
    if options.case_id is not None or options.operator is not None:
        yield "a map and its dump have no place for the case and the operator: they are not recorded in them"


def _rows(process: ProcessMemory, there: tuple[U64, U64, U64], gone: tuple[U64, U64], file: str) -> MapRows:
    """Return the rows: extents that continue each other in virtual and in physical memory are joined.

    What is not there comes last: so the positions of all others are right, and each way to work them out agrees.
    """
    mask = np.uint64((1 << process.address_bits) - 1)
    virtual, size, physical = joined(there[0] & mask, *there[1:])
    sizes = np.concatenate([size, gone[1]])
    return MapRows(
        np.concatenate([virtual, gone[0] & mask]),
        np.concatenate([physical, np.zeros_like(gone[0])]),
        sizes,
        np.minimum(np.cumsum(sizes) - sizes, _LARGEST),
        file,
        len(virtual),
        not process.incomplete,
    )


def _missing(process: ProcessMemory, half: str) -> tuple[U64, U64]:
    """Return start and size of what is mapped in a half and not there, if bytes are known to be missing.

    Pages outside an image are left out, as Volatility does. A damaged core may say that more is mapped than the width
    of its addresses allows: such a range ends before the last address.
    """
    space = process.space
    mask = np.uint64((1 << process.address_bits) - 1)
    kernel = space.missing.start >= np.uint64(process.kernel_half)
    keep = (space.missing.reason != REASONS.index(OUTSIDE)) & process.incomplete
    if half != "all":
        keep &= kernel if half == "kernel" else ~kernel
    start = space.missing.start[keep]
    size = np.minimum(space.missing.size[keep], mask - (start & mask))
    return start[size > 0], size[size > 0]


def dump_name(process: ProcessMemory) -> str:
    """Return what the dump of a process is called: ``pid.4.dmp``; without a number, by the root of its page tables."""
    if process.pid is not None:
        return f"pid.{process.pid}{_DUMP}"
    image = process.inputs.get("image")
    return f"dtb.{image['root']}{_DUMP}" if isinstance(image, dict) else f"process{_DUMP}"
