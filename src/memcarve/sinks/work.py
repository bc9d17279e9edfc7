"""The copying of segments into files, by several threads."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np

from memcarve.formats import manifest
from memcarve.permissions import page_state, permissions
from memcarve.sinks.folder import create_file
from memcarve.sinks.threads import THREADS, run_together
from memcarve.target import Target, is_zero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.backing import Backing
    from memcarve.copying import Copier
    from memcarve.space import AddressSpace, Segments

_BATCH = 64  # segments a thread takes at a time
_LINES = 4096  # segments described at a time


class Progress(Protocol):
    """Is told how far the work is, in bytes, several times a second."""

    def __call__(self, done: int, total: int) -> object:
        """Take note that `done` of `total` bytes are done."""


class Work:
    """Copies `segments` of `space` into files in `folder`, which messages call `shown`.

    With `hashes`, names in `manifest.SUMS`, or `sparse`, every byte is looked at on its way; `zero` then says for each
    segment whether nothing but zeros is in it.
    """

    def __init__(
        self,
        space: AddressSpace,
        segments: Segments,
        folder: str,
        *,
        shown: str,
        copier: Copier,
        backing: Backing,
        hashes: Sequence[str],
        sparse: bool,
        progress: Progress | None,
        threads: int | None = None,
        by_permissions: bool = False,
    ) -> None:
        self.space = space
        self.segments = segments
        self.folder = folder
        self.shown = shown
        self.copier = copier
        self.backing = backing
        self.sparse = sparse
        self.progress = progress
        count = len(segments)
        self.hashes = {name: np.zeros((count, _digest(name).digest_size), np.uint8) for name in hashes}
        self.observed = bool(hashes) or sparse
        self.zero = np.ones(count, np.bool_)
        self._batches = iter(range(0, count, _BATCH))
        self._lock = threading.Lock()
        self._threads = threads or THREADS
        self._done = [0] * self._threads
        self._permissions = space.flags if by_permissions else None

    def run(self) -> None:
        """Copy every segment; raise the first error."""
        directory = None
        if os.open in os.supports_dir_fd:
            directory = os.open(self.folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            run_together(self._threads, lambda number: self._thread(number, directory), self.copier.stop, self._report)
        finally:
            self.copier.close()
            if directory is not None:
                os.close(directory)

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(sum(self._done), self.segments.total)

    def _thread(self, number: int, directory: int | None) -> None:
        while True:
            with self._lock:
                first = next(self._batches, None)
            if first is None:
                break
            self._batch(number, directory, first)

    def _batch(self, number: int, directory: int | None, first: int) -> None:
        segments = self.segments
        part = slice(first, first + _BATCH)
        columns = (segments.start, segments.size, segments.offset, segments.extents)
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        pieces_of = self._pieces(part)

        def progress(count: int) -> None:
            self._done[number] += count

        for index, (start, size, offset, extents) in enumerate(rows, first):
            name = f"0x{start:016x}-0x{start + size:016x}.bin"
            pieces = [(offset, size)] if extents == 1 else pieces_of(index - first)
            observer = _Observer(self.hashes) if self.observed else None
            path = name if directory is not None else os.path.join(self.folder, name)
            fd = create_file(path, directory)
            try:
                self.copier.copy(
                    self.backing,
                    pieces,
                    Target(fd, f"{self.shown}/{name}"),
                    observe=observer,
                    sparse=self.sparse,
                    progress=progress,
                )
            finally:
                os.close(fd)
            if observer is not None:
                self.zero[index] = observer.zero
                for kind, digest in observer.digests:
                    self.hashes[kind][index] = np.frombuffer(digest.digest(), np.uint8)

    def _pieces(self, part: slice) -> Callable[[int], list[tuple[int, int]]]:
        """Return what gives (offset, size) of each piece of one of the segments in `part`, neighbours joined."""
        first, count = self.segments.first[part], self.segments.extents[part]
        low, high = int(first[0]), int(first[-1]) + int(count[-1])
        offset, size = self.space.offset[low:high], self.space.size[low:high]
        begins = np.ones(high - low, np.bool_)
        begins[1:] = offset[1:] != offset[:-1] + size[:-1]
        begins[first - np.uint32(low)] = True
        index = np.flatnonzero(begins)
        pieces = list(zip(offset[index].tolist(), np.add.reduceat(size, index).tolist(), strict=True))
        bounds = [*np.searchsorted(index, first - np.uint32(low)).tolist(), len(pieces)]
        ends = np.searchsorted(index, first - np.uint32(low) + count).tolist()
        return lambda number: pieces[bounds[number] : ends[number]]

    def lines(self, sums: dict[str, IO[bytes]]) -> Iterator[str]:
        """Yield the segments for the manifest, and write their checksums into `sums` on the way."""
        segments = self.segments
        for low in range(0, len(segments), _LINES):
            part = slice(low, low + _LINES)
            flags = [None] * len(segments.start[part])
            if self._permissions is not None:
                flags = self._permissions[segments.first[part]].tolist()
            columns = (segments.start, segments.size, segments.offset, segments.extents, self.zero)
            rows = list(zip(*(column[part].tolist() for column in columns), strict=True))
            hexes = {kind: [row.tobytes().hex() for row in table[part]] for kind, table in self.hashes.items()}
            for kind, values in hexes.items():
                text = "".join(
                    f"{value}  0x{row[0]:016x}-0x{row[0] + row[1]:016x}.bin\n"
                    for value, row in zip(values, rows, strict=True)
                )
                sums[kind].write(text.encode())
            for place, (start, size, offset, extents, zero) in enumerate(rows):
                members = manifest.hash_members((kind, values[place]) for kind, values in hexes.items())
                allowed = flags[place]
                if allowed is not None:
                    members += manifest.permission_members(permissions(allowed), page_state(allowed))
                known = zero if self.observed else None
                yield manifest.segment_line(start, size, offset, extents, members, known)


class _Observer:
    """Is shown a segment's bytes: takes its hashes and notices whether anything but zeros is in it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.digests = [(name, _digest(name)) for name in names]
        self.zero = True

    def __call__(self, view: memoryview) -> None:
        self.zero = self.zero and is_zero(view)
        for _, digest in self.digests:
            digest.update(view)


def _digest(name: str) -> hashlib._Hash:
    return hashlib.new(name, usedforsecurity=False)
