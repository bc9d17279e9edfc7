"""The copying of segments into files, by several threads."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from memcarve.copying.ahead import fetched_ahead
from memcarve.copying.copier import BUFFERED, THREADS, run_together
from memcarve.copying.output_file import Target, is_zero
from memcarve.formats import manifest
from memcarve.intervals import Intervals
from memcarve.permissions import RESOLVED, origin, page_state, permissions
from memcarve.sinks.final_name import write_all

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memcarve.backing import Backing
    from memcarve.copying.copier import Copier
    from memcarve.process import Progress
    from memcarve.segments import Segments
    from memcarve.sinks.final_name import Files
    from memcarve.space import AddressSpace

BATCH = 64  # segments a thread takes at a time
_SMALL = 1 << 15  # bytes of a segment up to which, on average, one thread is faster than several
_LINES = 4096  # segments described at a time


class Writable(Protocol):
    """A file of checksums."""

    def write(self, data: bytes) -> object:
        """Write some lines."""


class Work:
    """Copies `segments` of `space` into `files`, in a folder that messages call `shown`.

    With `hashes`, names in `manifest.SUMS`, `sparse`, or labels that are about content, every byte is looked at on its
    way; `zero` then says for each segment whether nothing but zeros is in it. `label_names`: files are named by labels,
    too.
    """

    def __init__(
        self,
        space: AddressSpace,
        segments: Segments,
        files: Files,
        *,
        shown: str,
        copier: Copier,
        backing: Backing,
        hashes: Sequence[str],
        sparse: bool,
        progress: Progress | None,
        threads: int | None = None,
        label_names: bool = False,
    ) -> None:
        self.space = space
        self.segments = segments
        self.files = files
        self.shown = shown
        self.copier = copier
        self.backing = backing
        self.sparse = sparse
        self.progress = progress
        count = len(segments)
        self.hashes = {name: np.zeros((count, _digest(name).digest_size), np.uint8) for name in hashes}
        self.labels = segments.labels
        self.observed = bool(hashes) or sparse or (count > 0 and self._content(0) is not None)
        self._words = self.labels.name if label_names and self.labels is not None else None
        self.zero = np.ones(count, np.bool_)
        self._batches = iter(range(0, count, BATCH))
        self._lock = threading.Lock()
        # of small files most is Python's own work, for which threads only wait for each other
        small = segments.total < _SMALL * count
        self._threads = threads or (1 if small else THREADS)
        self._done = [0] * self._threads
        #: whether any of the bytes are not where the process's page tables point
        self._resolved = space.flags is not None and bool((space.flags & np.uint8(RESOLVED)).any())
        self._permissions = space.flags if segments.choice.split == "permissions" else None

    def run(self) -> None:
        """Copy every segment; raise the first error."""
        try:
            run_together(self._threads, self._thread, self.copier.stop, self._report)
        finally:
            self.copier.close()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(sum(self._done), self.segments.total)

    def _thread(self, number: int) -> None:
        while True:
            with self._lock:
                first = next(self._batches, None)
            if first is None:
                break
            self._batch(number, first)

    def _batch(self, number: int, first: int) -> None:
        segments = self.segments
        part = slice(first, first + BATCH)
        columns = (segments.start, segments.size, segments.offset, segments.extents)
        rows = zip(*(column[part].tolist() for column in columns), strict=True)
        pieces_of = self._pieces(part)

        def progress(count: int) -> None:
            self._done[number] += count

        found = list(rows)
        all_pieces = (
            [(offset, size)] if extents == 1 else pieces_of(number)
            for number, (_, size, offset, extents) in enumerate(found)
        )
        ahead = fetched_ahead(self.backing, all_pieces)
        for (index, (start, size, _, _)), pieces in zip(enumerate(found, first), ahead, strict=True):
            name = self._name(index, start, start + size)
            content = self._content(index)
            observer = Observer(self.hashes, content) if self.observed else None
            with self.files.create(name) as file:
                self._copy(pieces, file, f"{self.shown}{name}", observer, progress)
            if observer is not None:
                self.zero[index] = observer.zero
                for kind, digest in observer.digests:
                    self.hashes[kind][index] = np.frombuffer(digest.digest(), np.uint8)
                if content is not None and self.labels is not None:
                    self.labels.observed(index, content)

    def _copy(
        self,
        pieces: Sequence[tuple[int, int]],
        file: io.RawIOBase,
        shown: str,
        observer: Observer | None,
        progress: Callable[[int], object],
    ) -> None:
        """Copy a segment into its file."""
        try:
            target = Target(file.fileno(), shown)
        except OSError:  # it is not one of the system's
            for offset, size in pieces:
                self.copier.read(self.backing, offset, size, lambda view: _write(file, view, observer), progress)
                self.copier.count(BUFFERED, size)
        else:
            self.copier.copy(self.backing, pieces, target, observe=observer, sparse=self.sparse, progress=progress)

    def _name(self, index: int, start: int, end: int) -> str:
        return manifest.file_name(start, end, "" if self._words is None else self._words(index))

    def _content(self, index: int) -> Callable[[memoryview], object] | None:
        return None if self.labels is None else self.labels.observer(index)

    def _pieces(self, part: slice) -> Callable[[int], list[tuple[int, int]]]:
        """Return what gives (offset, size) of each piece of one of the segments in `part`, neighbours joined."""
        if self.segments.whole is not None:  # it may begin or end within an extent
            bounds = list(zip(self.segments.start[part].tolist(), self.segments.size[part].tolist(), strict=True))
            return lambda number: list(self.space.pieces(*bounds[number]))
        first, count = self.segments.first[part], self.segments.extents[part]
        low, high = int(first[0]), int(first[-1]) + int(count[-1])
        offset, size = self.space.offset[low:high], self.space.size[low:high]
        begins = np.ones(high - low, np.bool_)
        begins[1:] = offset[1:] != offset[:-1] + size[:-1]
        behind = first - np.uint32(low) + count
        # a segment that was not chosen may lie behind one that was, in the backing as well
        begins[first - np.uint32(low)] = begins[behind[:-1]] = True
        index = np.flatnonzero(begins)
        pieces = list(zip(offset[index].tolist(), np.add.reduceat(size, index).tolist(), strict=True))
        begin = [*np.searchsorted(index, first - np.uint32(low)).tolist(), len(pieces)]
        ends = np.searchsorted(index, behind).tolist()
        return lambda number: pieces[begin[number] : ends[number]]

    def lines(self, sums: Mapping[str, Writable]) -> Iterator[str]:
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
            named = self.files.named
            names = [named(self._name(index, row[0], row[0] + row[1])) for index, row in enumerate(rows, low)]
            for kind, values in hexes.items():
                text = "".join(f"{value}  {name}\n" for value, name in zip(values, names, strict=True))
                sums[kind].write(text.encode())
            whole, origins = self._whole(part), self._origins(part)
            for place, (start, size, offset, extents, zero) in enumerate(rows):
                members = manifest.hash_members((kind, values[place]) for kind, values in hexes.items())
                allowed = flags[place]
                if allowed is not None:
                    members += manifest.permission_members(permissions(allowed), page_state(allowed))
                members += manifest.origin_member(origins[place]) if origins else ""
                if whole:
                    members += manifest.part_member(*whole[place])
                if self.labels is not None:
                    members += manifest.label_member(self.labels.text(low + place))
                known = zero if self.observed else None
                yield manifest.segment_line(start, size, offset, extents, names[place], members, known)

    def _origins(self, part: slice) -> list[dict[str, int]]:
        """Return how many bytes of each segment in `part` were found in which way; nothing if page tables lead to all.

        Of a segment to all of which they lead nothing is said.
        """
        flags, segments = self.space.flags, self.segments
        if flags is None or not self._resolved:
            return []
        start = segments.start[part]
        found, extent = Intervals(start, segments.size[part]).intersect(self.space)
        key = found.owner * 256 + flags[extent]
        kinds, place = np.unique(key, return_inverse=True)
        sizes = np.bincount(place, found.size, len(kinds)).astype(np.int64)
        told: list[dict[str, int]] = [{} for _ in range(len(start))]
        for kind, size in zip(kinds.tolist(), sizes.tolist(), strict=True):
            row, word = told[kind // 256], origin(kind % 256)
            row[word] = row.get(word, 0) + size
        return [row if set(row) - {"ram", "transition"} else {} for row in told]

    def _whole(self, part: slice) -> list[tuple[int, int]]:
        """Return start and end of what each segment in `part` is part of; an empty list if none were split."""
        if self.segments.whole is None:
            return []
        start, size = (column[part].tolist() for column in self.segments.whole)
        return [(begin, begin + length) for begin, length in zip(start, size, strict=True)]


class Observer:
    """Hashes a segment's bytes, notes whether they are all zero, and shows them to `content`."""

    def __init__(self, names: Iterable[str], content: Callable[[memoryview], object] | None) -> None:
        self.digests = [(name, _digest(name)) for name in names]
        self.content = content
        self.zero = True

    def __call__(self, view: memoryview) -> None:
        """Look at the bytes that follow."""
        self.zero = self.zero and is_zero(view)
        for _, digest in self.digests:
            digest.update(view)
        if self.content is not None:
            self.content(view)


def _write(file: io.RawIOBase, view: memoryview, observer: Observer | None) -> None:
    if observer is not None:
        observer(view)
    write_all(file, view)


def _digest(name: str) -> hashlib._Hash:
    return hashlib.new(name, usedforsecurity=False)
