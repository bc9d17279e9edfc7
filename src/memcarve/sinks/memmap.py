"""A memory map and the dump that belongs to it, as Volatility 3's windows.memmap --dump writes them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.backing import FileBacking
from memcarve.copying.output_file import Target, write_error
from memcarve.errors import InputError, OutputError, TargetExistsError, UsageError
from memcarve.formats.memmap.map_writing import RENDERERS, MapRows
from memcarve.intervals import joined
from memcarve.missing import OUTSIDE, REASONS
from memcarve.process import LeftOut
from memcarve.sinks.folder import create_file
from memcarve.sinks.single_file import Mover, input_paths, refuse_inputs
from memcarve.version import __version__
from memcarve.vocabulary import Half

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64
    from memcarve.process import ProcessMemory
    from memcarve.sinks.segment_writer import Progress


_WRITER = f"memcarve {__version__}"
_MARK = b"written by memcarve "
_LARGEST = np.uint64(1 << 62)  # no file is longer, and no position behind that is believed


class ExportResult(NamedTuple):
    """What was written: `rows` of the map in file `map`, `bytes` in file `dump`; what was `left_out`, and why.

    `notes` are for the user.
    """

    map: str
    dump: str
    rows: int
    bytes: int
    left_out: Sequence[LeftOut]
    complete: bool
    seconds: float
    moved: dict[str, int]
    notes: Sequence[str] = ()

    @property
    def files(self) -> tuple[str, str]:
        """The files that were written."""
        return self.map, self.dump


def export_memmap(
    process: ProcessMemory,
    folder: str | os.PathLike[str] = ".",
    *,
    half: str = "all",
    renderer: str = "quick",
    stem: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write ``pid.N.map`` (``.csv``, ``.json``, ``.jsonl``) and ``pid.N.dmp`` into `folder`, each whole or not at all.

    A row is a run of pages that is contiguous in virtual and in physical memory; addresses are cut to the width of the
    address space, and of its very last page the last byte is left out, as Volatility does. Of a source that knows no
    physical addresses the column holds the offset in the source. If bytes are known to be missing, rows at the end name
    what is mapped and not there, with "Error outputting to file" (but for pages outside an image), and the banner of
    ``quick`` says it. `force` replaces a map that memcarve wrote (only one of ``quick`` says so) and its dump; `stem`
    is what the files are called where that is not by the process's number.

    Raises UsageError, TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    if renderer not in RENDERERS:
        raise UsageError(f"{renderer}: is no format of a map; there are {', '.join(RENDERERS)}")
    return _Exporter(process, os.fspath(folder), half, renderer, stem or stem_of(process), progress, force=force).run()


class _Exporter:
    def __init__(
        self,
        process: ProcessMemory,
        folder: str,
        half: str,
        renderer: str,
        stem: str,
        progress: Progress | None,
        *,
        force: bool,
    ) -> None:
        self.process = process
        self.folder = folder
        self.renderer = renderer
        self.force = force
        self.write, ending = RENDERERS[renderer]
        self.names = (f"{stem}.dmp", f"{stem}.{ending}")
        self.mover = Mover(process, progress)
        Half.check(half)
        space, kernel = process.space, process.space.start >= np.uint64(process.kernel_half)
        keep = np.ones(len(space), np.bool_) if half == "all" else kernel if half == "kernel" else ~kernel
        self.start, self.size, self.offset = space.start[keep], space.size[keep], space.offset[keep]
        self.physical = self.offset if space.physical is None else space.physical[keep]
        self.missing = self._missing(half)
        self.left_out = []
        if not keep.all():
            gone = space.size[~keep]
            self.left_out.append(LeftOut(f"outside --range {half}", 0, int(gone.sum())))
        self._leave_out_last_byte()

    def run(self) -> ExportResult:
        begun = time.monotonic()
        rows = self._rows()
        self._check()
        total, fresh = int(self.size.sum()), not os.path.isdir(self.folder)
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            built = tempfile.mkdtemp(".incomplete", f".{self.names[0]}.", self.folder)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written to: {error.strerror}; choose with -o") from error
        try:
            dump = os.path.join(built, self.names[0])
            os.close(create_file(dump, None))
            place = np.cumsum(self.size, dtype=np.uint64) - self.size
            shown = f"{self.folder}/{self.names[0]}"
            self.mover.move(dump, shown, place, self.offset, self.size, length=total)
            self._write_map(os.path.join(built, self.names[1]), rows)
            self._rename(built)
        finally:
            shutil.rmtree(built, ignore_errors=True)
            if fresh:
                with contextlib.suppress(OSError):  # where nothing is in it
                    os.rmdir(self.folder)
        dump, text = (os.path.join(self.folder, name) for name in self.names)
        complete, seconds = not self.process.incomplete, time.monotonic() - begun
        moved = dict(self.mover.copier.moved)
        notes: tuple[str, ...] = ()
        if not complete and not len(self.missing[0]) and self.renderer != "quick":
            notes = (f"{text}: cannot say that bytes are missing; --format quick can",)
        return ExportResult(text, dump, len(rows.virtual), total, self.left_out, complete, seconds, moved, notes)

    def _rename(self, built: str) -> None:
        """Give the two files their names; a map that is there always belongs to the dump beside it."""
        self._check()
        dump, text = (os.path.join(self.folder, name) for name in self.names)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(text)
            os.replace(os.path.join(built, self.names[0]), dump)
            os.replace(os.path.join(built, self.names[1]), text)
        except OSError as error:
            raise OutputError(f"{error.filename2 or error.filename}: cannot be replaced: {error.strerror}") from error

    def _leave_out_last_byte(self) -> None:
        top = 1 << self.process.address_bits
        if len(self.start) and (int(self.start[-1]) + int(self.size[-1])) % top == 0:
            self.size = self.size.copy()
            self.size[-1] -= np.uint64(1)
            self.left_out.append(LeftOut("the last byte of the address space, which such maps leave out", 0, 1))

    def _rows(self) -> MapRows:
        """Return the rows: extents joined where they continue each other in virtual and in physical memory.

        What is not there comes last: so the positions of all others are right, and each way to work them out agrees.
        """
        mask = np.uint64((1 << self.process.address_bits) - 1)
        virtual, size, physical = joined(self.start & mask, self.size, self.physical)
        gone, gone_size = self.missing
        sizes = np.concatenate([size, gone_size])
        return MapRows(
            np.concatenate([virtual, gone & mask]),
            np.concatenate([physical, np.zeros_like(gone)]),
            sizes,
            np.minimum(np.cumsum(sizes) - sizes, _LARGEST),
            self.names[0],
            len(virtual),
            not self.process.incomplete,
        )

    def _missing(self, half: str) -> tuple[U64, U64]:
        """Return start and size of what is mapped in a half and not there, if bytes are known to be missing.

        Pages outside an image are left out, as Volatility does.
        """
        space = self.process.space
        kernel = space.missing.start >= np.uint64(self.process.kernel_half)
        keep = (space.missing.reason != REASONS.index(OUTSIDE)) & self.process.incomplete
        if half != "all":
            keep &= kernel if half == "kernel" else ~kernel
        return space.missing.start[keep], space.missing.size[keep]

    def _check(self) -> None:
        """Raise TargetExistsError where something has one of the names that may not be replaced."""
        dump, text = (os.path.join(self.folder, name) for name in self.names)
        for path in (dump, text):
            refuse_inputs(path, input_paths(self.process))
            if os.path.isdir(path) and not os.path.islink(path):
                raise TargetExistsError(f"{path}: is a folder; -o chooses another place")
            if os.path.lexists(path) and not (self.force and _is_own(text)):
                remedy = "it cannot be told that memcarve wrote it" if self.force else "--force replaces it"
                raise TargetExistsError(f"{path}: exists; {remedy}, -o chooses another folder")

    def _write_map(self, path: str, rows: MapRows) -> None:
        fd = create_file(path, None)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(self.write(rows, _WRITER))
        except OSError as error:
            raise write_error(error, Target(fd, f"{self.folder}/{self.names[1]}")) from error


def stem_of(process: ProcessMemory) -> str:
    """Return what the files of a process are called: ``pid.4``; without a number, by the root of its page tables."""
    if process.pid is not None:
        return f"pid.{process.pid}"
    image = process.inputs.get("image")
    return f"dtb.{image['root']}" if isinstance(image, dict) else "process"


def _is_own(path: str) -> bool:
    """Say whether a map says that memcarve wrote it."""
    try:
        with FileBacking(path, follow=False) as file:
            return _MARK in file.read_at(0, 200).partition(b"\n")[0]
    except InputError:
        return False
