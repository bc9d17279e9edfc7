"""The copying of segments into files, by several threads."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from memcarve.backing import is_costly, read_pieces
from memcarve.copying.ahead import fetched_ahead
from memcarve.copying.copier import BUFFERED, GATHERED, SMALL_PIECE, THREADS, run_together
from memcarve.copying.output_file import Target, is_zero
from memcarve.formats import manifest
from memcarve.hashing import new_digest
from memcarve.intervals import Intervals, expand
from memcarve.permissions import RESOLVED, origin, page_state, permissions
from memcarve.sinks.final_name import WholeFiles, write_all

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memcarve.backing import Backing
    from memcarve.copying.copier import Copier
    from memcarve.dtypes import U8, U64
    from memcarve.process import Progress
    from memcarve.segments import Segments
    from memcarve.sinks.final_name import Files
    from memcarve.space import AddressSpace

BATCH = 64  # segments a thread takes at a time, at most
_BATCH_BYTES = 1 << 23  # and not many more bytes, so that all threads end at about the same time
_MUCH = 4  # times as many bytes: such batches are begun first
_TOGETHER = 1 << 20  # bytes of segments that are read at once: calls cost, most if threads wait for each other
_SMALL = 1 << 15  # bytes of a segment up to which, on average, one thread is faster than several
_LINES = 4096  # segments described at a time


#: a segment: where it starts, its size
Row = tuple[int, int]
Pieces = list[tuple[int, int]]


class Writable(Protocol):
    """A file of checksums."""

    def write(self, data: bytes) -> object:
        """Write some lines."""


class Work:
    """Copies `segments` of `space` into `files`, in a folder that messages call `shown`.

    With `hashes`, names in `manifest.SUMS`, `sparse`, or labels that are about content, every byte is looked at on its
    way; `zero` then says for each segment whether nothing but zeros is in it. `label_names`: files are named by labels,
    too. `threads` is how many copy at once, as many as are fastest if it is not given. Raises MissingExtraError if the
    package for a hash is not installed.
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
        self.hashes = {name: np.zeros((count, new_digest(name).digest_size), np.uint8) for name in hashes}
        self.labels = segments.labels
        self.observed = bool(hashes) or sparse or (count > 0 and self._content(0) is not None)
        self._words = self.labels.name if label_names and self.labels is not None else None
        self.zero = np.ones(count, np.bool_)
        costly = is_costly(backing)
        self._batches = iter(_batches(segments.size, _BATCH_BYTES if not costly else None))
        # small segments are read together; but zeros that are left out are better copied one by one
        self._whole_files = files if isinstance(files, WholeFiles) and not sparse and not costly else None
        self._lock = threading.Lock()
        # of small files most is Python's own work, for which threads only wait for each other
        small = segments.total < _SMALL * count
        self._threads = threads or (1 if small else THREADS)
        self._done = [0] * self._threads
        self._buffers: list[memoryview | None] = [None] * self._threads
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
                bounds = next(self._batches, None)
            if bounds is None:
                break
            self._batch(number, *bounds)

    def _batch(self, number: int, first: int, end: int) -> None:
        segments = self.segments
        part = slice(first, end)
        rows: list[Row] = list(zip(segments.start[part].tolist(), segments.size[part].tolist(), strict=True))

        def progress(count: int) -> None:
            self._done[number] += count

        if self._whole_files is not None and not self.copier.reflinks and (self.observed or self._scattered(part)):
            runs = list(_runs(rows))
            for (low, high), pieces in zip(runs, self._pieces(part, runs), strict=True):
                if rows[low][1] <= _TOGETHER:
                    self._write_together(number, self._whole_files, first + low, rows[low:high], pieces)
                else:
                    self._write_alone(first + low, rows[low], pieces, progress)
            return
        each = self._pieces(part, [(place, place + 1) for place in range(len(rows))])
        ahead = fetched_ahead(self.backing, each)
        for (index, row), found in zip(enumerate(rows, first), ahead, strict=True):
            self._write_alone(index, row, found, progress)

    def _scattered(self, part: slice) -> bool:
        """Return True if segments are of many small extents: what is in one piece is better copied by the kernel."""
        count, size = int(self.segments.extents[part].sum()), int(self.segments.size[part].sum())
        return count > part.stop - part.start and size <= count * SMALL_PIECE

    def _write_together(self, number: int, files: WholeFiles, first: int, rows: Sequence[Row], pieces: Pieces) -> None:
        """Read the pieces of several segments at once, look at them, and write each into its file."""
        self.copier.check_stop()
        end, total = first + len(rows), sum(size for _, size in rows)
        buffer = self._buffers[number]
        if buffer is None:
            buffer = self._buffers[number] = memoryview(bytearray(_TOGETHER))
        block = buffer[:total]
        read_pieces(self.backing, pieces, block)
        bounds = [0, *itertools.accumulate(size for _, size in rows)]
        views = [block[low:high] for low, high in itertools.pairwise(bounds)]
        if self.observed:
            self.zero[first:end] = [is_zero(view) for view in views]
        for kind, table in self.hashes.items():
            digests = b"".join(new_digest(kind, view).digest() for view in views)
            table[first:end] = np.frombuffer(digests, np.uint8).reshape(len(rows), -1)
        if self.labels is not None:
            self.labels.observe_together(first, len(rows), block)
        names = (self._name(index, start, start + size) for index, (start, size) in enumerate(rows, first))
        files.write_new(zip(names, views, strict=True), self.shown)
        self.copier.count(GATHERED if len(pieces) > len(rows) else BUFFERED, total)
        self._done[number] += total

    def _write_alone(
        self, index: int, row: Row, pieces: Sequence[tuple[int, int]], progress: Callable[[int], object]
    ) -> None:
        """Copy a segment, given by its pieces, into its file."""
        name = self._name(index, row[0], row[0] + row[1])
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

    def _pieces(self, part: slice, runs: Sequence[tuple[int, int]]) -> list[Pieces]:
        """Return (offset, size) of each piece of runs of the segments in `part`, given by from and to, all in order.

        What continues a piece in the backing is joined to it.
        """
        segments, space = self.segments, self.space
        start, size = segments.start[part], segments.size[part]
        if segments.whole is not None:  # it may begin or end within an extent
            bounds = list(zip(start.tolist(), size.tolist(), strict=True))
            return [[piece for each in bounds[low:high] for piece in space.pieces(*each)] for low, high in runs]
        count = segments.extents[part].astype(np.int64)
        row, step = expand(count)
        extent = segments.first[part][row] + step
        offset, size = space.offset[extent], space.size[extent]
        begins = np.ones(len(extent), np.bool_)
        begins[1:] = offset[1:] != offset[:-1] + size[:-1]
        of_runs = (np.cumsum(count) - count)[[low for low, _ in runs]]  # the extents that these begin with
        begins[of_runs] = True
        index = np.flatnonzero(begins)
        pieces = list(zip(offset[index].tolist(), np.add.reduceat(size, index).tolist(), strict=True))
        cuts = [*np.searchsorted(index, of_runs).tolist(), len(pieces)]
        return [pieces[low:high] for low, high in itertools.pairwise(cuts)]

    def lines(self, sums: Mapping[str, Writable]) -> Iterator[str]:
        """Yield the segments for the manifest, and write their checksums into `sums` on the way."""
        segments = self.segments
        for low in range(0, len(segments), _LINES):
            part = slice(low, low + _LINES)
            columns = (segments.start, segments.size, segments.offset, segments.extents)
            start, size, offset, extents = (column[part].tolist() for column in columns)
            zero = self.zero[part].tolist() if self.observed else [None] * len(start)
            named = self.files.named
            bounds = zip(start, size, strict=True)
            names = [named(self._name(index, at, at + length)) for index, (at, length) in enumerate(bounds, low)]
            members: list[Iterable[str]] = []
            for kind, table in self.hashes.items():
                values = _hexes(table[part])
                text = "".join(f"{value}  {name}\n" for value, name in zip(values, names, strict=True))
                sums[kind].write(text.encode())
                members.append(manifest.hash_members(kind, values))
            members += self._other_members(part, len(start))
            joined = ("".join(row) for row in zip(*members, strict=True)) if members else [""] * len(start)
            yield from manifest.segment_lines(zip(start, size, offset, extents, zero, names, joined, strict=True))

    def _other_members(self, part: slice, count: int) -> Iterator[Iterable[str]]:
        """Yield a column of members for each thing besides hashes that is known of the `count` segments in `part`."""
        if self._permissions is not None:
            flags = self._permissions[self.segments.first[part]].tolist()
            yield [manifest.permission_members(permissions(allowed), page_state(allowed)) for allowed in flags]
        origins, whole = self._origins(part), self._whole(part)
        if origins:
            yield map(manifest.origin_member, origins)
        if whole:
            yield itertools.starmap(manifest.part_member, whole)
        if self.labels is not None:
            yield map(manifest.label_member, self.labels.texts(part.start, part.start + count))

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


def _batches(size: U64, most: int | None) -> list[tuple[int, int]]:
    """Return which segments, from and to, of the sizes `size`, a thread takes at a time: about `most` bytes, if given.

    What is much larger comes first: at the end, it would leave other threads with nothing to do.
    """
    begins = np.arange(len(size)) % BATCH == 0
    if most is not None and len(size):
        reached = np.cumsum(size)
        begins[1:] |= reached[1:] // np.uint64(most) != reached[:-1] // np.uint64(most)
        begins[1:] |= size[:-1] >= most
    bounds = [*np.flatnonzero(begins).tolist(), len(size)]
    found = list(itertools.pairwise(bounds))
    if most is not None and len(size):
        total = np.add.reduceat(size, bounds[:-1]).tolist()
        order = sorted(range(len(found)), key=lambda place: -total[place] if total[place] > _MUCH * most else 0)
        found = [found[place] for place in order]
    return found


def _runs(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield from and to which segments are read at once: as many as are small enough, or one that is too large."""
    begin = total = 0
    for place, (_, size) in enumerate(rows):
        if place > begin and total + size > _TOGETHER:
            yield begin, place
            begin, total = place, 0
        total += size
    yield begin, len(rows)


class Observer:
    """Hashes a segment's bytes, notes whether they are all zero, and shows them to `content`."""

    def __init__(self, names: Iterable[str], content: Callable[[memoryview], object] | None) -> None:
        self.digests = [(name, new_digest(name)) for name in names]
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


def _hexes(table: U8) -> list[str]:
    """Return each row of a table of bytes in hexadecimal digits."""
    text, width = table.tobytes().hex(), 2 * table.shape[1]
    return [text[at : at + width] for at in range(0, len(text), width)]
