# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What ``--dump`` writes: memcarve's carved folder, every file of it through Volatility's file handler."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking, check_unchanged
from memcarve.copying.copier import Copier
from memcarve.copying.output_file import Target
from memcarve.formats import manifest
from memcarve.process import LeftOut, Selection
from memcarve.sinks.carved_folder import Carver, Options
from memcarve.sinks.segment_writer import BATCH, Observer, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.labels import Labelling
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments

    Open = Callable[[str], Any]
    Progress = Callable[[int, int], object]

#: an unfinished file's ending: its content is not what its name says
INCOMPLETE = ".incomplete"


class Dump:
    """Writes the segments of one process; `names` are those of their files, None where none was written."""

    def __init__(
        self,
        process: ProcessMemory,
        selected: tuple[Segments, list[LeftOut]],
        options: Options,
        open_method: Open,
        progress: Progress,
    ) -> None:
        self.process = process
        self.segments, self.left_out = selected
        self.options = options
        self.open = open_method
        self.progress = progress
        self.names: list[str | None] = [None] * len(self.segments)

    def run(self, *, alone: bool) -> None:
        """Write the segments, then segments.json and SHA256SUMS; `alone`: no other process is written beside it.

        Raises MemcarveError. What was written by then stays, without a manifest.
        """
        backing, copier = self.process.space.backing, Copier()
        # a layer of Volatility's is for one thread at a time
        threads = None if isinstance(backing, FileBacking) else 1
        carver = Carver(self.process, "", self.options, None, threads, copier, None)
        work = _Work(self, copier, threads)
        work.run()
        check_unchanged([backing, self.process.file])
        left_out = [*self.left_out, *(LeftOut(why, 0, size) for why, size in self.process.left_out.items())]
        carver.account(self.segments, left_out)
        with tempfile.TemporaryDirectory() as folder:
            carver.write_manifest(folder, work, left_out, {})
            for name in (manifest.NAME, *(manifest.SUMS[kind] for kind in self.options.hashes)):
                with open(os.path.join(folder, name), "rb") as made:
                    self._write(name if alone else f"pid.{self.process.pid}.{name}", made)

    def _write(self, name: str, made: io.BufferedReader) -> None:
        handle = self.open(name)
        if not os.path.splitext(name)[1] and _final_name(handle).startswith("."):
            # Volatility before 2.6 hides files whose names have no ending
            handle.preferred_filename = f"{name}.txt"
        with handle:
            shutil.copyfileobj(made, handle)

    @contextlib.contextmanager
    def target(self, index: int, name: str) -> Iterator[Any]:
        """Open a segment's file, and give it its name when it is whole."""
        handle = self.open(name)
        try:
            yield handle
        except BaseException:
            handle.preferred_filename = f"{name}{INCOMPLETE}"
            handle.close()
            raise
        self.names[index] = _final_name(handle)
        handle.close()


class _Work(Work):
    """The copying of segments into files that Volatility's handler opens."""

    def __init__(self, dump: Dump, copier: Copier, threads: int | None) -> None:
        super().__init__(
            dump.process.space,
            dump.segments,
            ".",
            shown="",
            copier=copier,
            backing=dump.process.space.backing,
            hashes=dump.options.hashes,
            sparse=False,
            progress=dump.progress,
            threads=threads,
        )
        self._dump = dump

    def _batch(self, number: int, directory: int | None, first: int) -> None:  # noqa: ARG002 - the handler knows where
        segments, part = self.segments, slice(first, first + BATCH)
        columns = (segments.start, segments.size, segments.offset, segments.extents)
        pieces_of = self._pieces(part)

        def progress(count: int) -> None:
            self._done[number] += count

        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        for index, (start, size, offset, extents) in enumerate(rows, first):
            pieces = [(offset, size)] if extents == 1 else pieces_of(index - first)
            content = self._content(index)
            observer = Observer(self.hashes, content) if self.observed else None
            with self._dump.target(index, self._named(start, start + size)) as handle:
                self._copy(pieces, handle, observer, progress)
            if observer is not None:
                self.zero[index] = observer.zero
                for kind, digest in observer.digests:
                    self.hashes[kind][index] = np.frombuffer(digest.digest(), np.uint8)
                if content is not None and self.labels is not None:
                    self.labels.observed(index, content)

    def _copy(
        self,
        pieces: Sequence[tuple[int, int]],
        handle: Any,  # noqa: ANN401
        observer: Observer | None,
        progress: Callable[[int], object],
    ) -> None:
        try:
            fd = handle.fileno()
        except (io.UnsupportedOperation, AttributeError, OSError):
            fd = None  # it keeps the file in memory, or sends it somewhere
        if fd is not None:
            target = Target(fd, handle.preferred_filename)
            self.copier.copy(self.backing, pieces, target, observe=observer, progress=progress)
            return

        def write(view: memoryview) -> None:
            if observer is not None:
                observer(view)
            handle.write(bytes(view))

        for offset, size in pieces:
            self.copier.read(self.backing, offset, size, write, progress)

    def _named(self, start: int, end: int) -> str:
        return manifest.file_name(start, end, f".pid.{self._dump.process.pid}")

    def _name(self, index: int, start: int, end: int) -> str:
        return self._dump.names[index] or self._named(start, end)


def _final_name(handle: Any) -> str:  # noqa: ANN401
    """Return the name that a handler will give its file: until 2.8 it does not tell when another has that name."""
    find = getattr(handle, "_get_final_filename", None)
    return os.path.basename(find()) if find is not None else str(handle.preferred_filename)


def options_of(split: str, labeller: Labelling) -> Options:
    """Return how to carve, as the command does."""
    return Options(selection=Selection(half="all"), split=split, labeller=labeller)
