"""The carved folder: one file for each contiguous segment, named by its addresses, with manifest and checksums."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve import provenance
from memcarve.backing import check_unchanged
from memcarve.copying.copier import Copier
from memcarve.copying.output_file import BUFFER, Target, is_zero
from memcarve.errors import MemcarveError, TruncatedError
from memcarve.formats import manifest
from memcarve.hashing import new_digest
from memcarve.segments import LeftOut
from memcarve.sinks.final_name import NewFolder, buffered, check_room, create_file, input_paths
from memcarve.sinks.input_hash import input_hash
from memcarve.sinks.object_output import new_folder
from memcarve.sinks.segment_writer import Work
from memcarve.sinks.sink import Result, SinkOptions

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence

    from memcarve.process import ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.final_name import Files
    from memcarve.sinks.object_output import ObjectFolder
    from memcarve.space import AddressSpace

_INODE = 512  # bytes that a file costs on top of its blocks, roughly
_BLOCK = 4096
_TEXTS = 256  # rows of a manifest that are written together
_MOST_REPEATS = 1000  # ranges that page tables map again, as the manifest lists them


def carve(
    process: ProcessMemory,
    segments: Segments,
    out: str | os.PathLike[str] | Files,
    options: SinkOptions = SinkOptions(),  # noqa: B008 - it cannot be changed
    progress: Progress | None = None,
) -> Result:
    """Write each of the segments into a file of the new folder `out`, or through the files of another program.

    The folder gets its name when it is whole; one in a bucket (``s3://bucket/name``) gets its list then. Raises
    TruncatedError if the dump ends too early (unless ``partial``), TargetExistsError, NoSpaceError, SourceReadError,
    OutputError.
    """
    options.check("segments")
    return _Carver(process, segments, options, progress).run(out)


def manifest_lines(process: ProcessMemory, segments: Segments, options: SinkOptions, end: str) -> Iterator[str]:
    """Yield the text of the ``segments.json`` that `carve` writes without hashes, for work that ended at `end`."""
    return _Carver(process, segments, options, None).lines(end)


def room(segments: Segments) -> int:
    """Return how many bytes the files of segments take on a disk, roughly, if no blocks are shared."""
    blocks = (segments.size + np.uint64(_BLOCK - 1)) // np.uint64(_BLOCK)
    return int(blocks.sum()) * _BLOCK + len(segments) * _INODE


class _Unwritten:
    """The files of a folder that is not written, which have their plain names."""

    def create(self, name: str) -> io.RawIOBase:
        """Raise OSError."""
        raise FileNotFoundError(name)

    def named(self, name: str) -> str:
        """Return the name itself."""
        return name


class _Carver:
    def __init__(
        self, process: ProcessMemory, segments: Segments, options: SinkOptions, progress: Progress | None
    ) -> None:
        self.begun = time.monotonic()
        self.process = process
        self.segments = segments
        self.left_out = list(segments.choice.left_out)
        self.options = options
        self.progress = progress
        self.copier = Copier()
        self.backing = process.space.backing
        first_cut_off = process.first_cut_off
        if first_cut_off is not None and not options.partial:
            raise TruncatedError(
                f"ends too early: the first missing address is 0x{first_cut_off:x}",
                first_cut_off,
                subject=self.process.file.path,
                remedy="{partial} carves what is there",
            )
        self.backing.spans(0, self.backing.size)  # raises if the dump is not at hand

    def run(self, out: str | os.PathLike[str] | Files) -> Result:
        """Carve; see `carve`."""
        folder: NewFolder | ObjectFolder | None = None
        if isinstance(out, str | os.PathLike):
            target: contextlib.AbstractContextManager[Files]
            target = folder = new_folder(out, manifest.NAME, self.options, input_paths(self.process))
            folder.check()
        else:
            target = contextlib.nullcontext(out)
        self._settle()
        with target as files:
            if isinstance(folder, NewFolder):
                self._check_space(folder)
            seal = self._write(files, "" if folder is None else f"{folder.name}/")
        segments = self.segments
        return Result(
            files=() if folder is None else (folder.name,),
            what="segment",
            count=len(segments),
            bytes=segments.total,
            input_bytes=self.process.input_bytes,
            left_out=self.left_out,
            missing_bytes=sum(gap.size for gap in self.process.space.missing),
            complete=not self.process.incomplete,
            seconds=time.monotonic() - self.begun,
            moved=dict(self.copier.moved),
            hashes=self.options.hashes,
            notes=[*_notes(segments), *(folder.notes if folder else ())],
            seal=seal,
            sealed=manifest.NAME,
        )

    def lines(self, end: str) -> Iterator[str]:
        """Yield what ``segments.json`` says if nothing is looked at; `end` is when the work ended."""
        self._settle()
        self._account()
        work = self._work(_Unwritten(), "")
        missing = manifest.missing_lines(self.process.space.missing)
        yield from provenance.lines(self._document({}, end=end), missing=missing, segments=work.lines({}))

    def _settle(self) -> None:
        """Settle what is carved and what is left out."""
        _ = self.told  # if its tables are wrong, this raises before anything is written
        not_given = self.process.space.total - self.segments.total - sum(row.bytes for row in self.left_out)
        if not_given > 0:
            self.left_out.append(LeftOut("not among the segments that were given", 0, not_given))
        if self.options.skip_zero:
            self._leave_out_zero()
        self.left_out += [LeftOut(reason, 0, count) for reason, count in self.process.left_out.items()]

    def _work(self, files: Files, shown: str) -> Work:
        return Work(
            self.process.space,
            self.segments,
            files,
            shown=shown,
            copier=self.copier,
            backing=self.backing,
            hashes=self.options.hashes,
            sparse=self.options.sparse,
            progress=self.progress,
            threads=self.options.threads,
            label_names=self.options.label_names,
        )

    def _write(self, files: Files, shown: str) -> str:
        work = self._work(files, shown)
        with input_hash(self.process, self.options, self.copier.stop) as hashed:
            work.run()
        check_unchanged([self.backing, self.process.file])
        self._account()
        return self._write_manifest(files, work, hashed)

    @functools.cached_property
    def told(self) -> dict[str, Any]:
        """What the process says of itself, ready for JSON; only of an image, or if labels look it up anyway."""
        wanted = self.process.is_image or self.segments.labels is not None
        return self.process.metadata.told(environment=self.options.environment) if wanted else {}

    def _leave_out_zero(self) -> None:
        """Read everything once; keep the segments that hold anything but zeros."""
        segments, space = self.segments, self.process.space
        keep = np.zeros(len(segments), np.bool_)
        done, total = 0, segments.total
        buffer = memoryview(bytearray(BUFFER))
        for number, segment in enumerate(segments):
            for offset, size in space.pieces(segment.start, segment.size):
                for place in range(0, size, BUFFER):
                    view = buffer[: min(BUFFER, size - place)]
                    self.backing.read_into(offset + place, view)
                    keep[number] = not is_zero(view)
                    if keep[number]:
                        break
                if keep[number]:
                    break
            done += segment.size
            if self.progress is not None:
                self.progress(done, total)
        gone = segments.where(~keep)
        self.segments = segments.where(keep)
        self.left_out += [LeftOut("zero throughout", len(gone), gone.total)] if len(gone) else []

    def _check_space(self, folder: NewFolder) -> None:
        """Raise NoSpaceError if the files cannot fit; reflinks need no room, and holes make it unknowable."""
        if self.options.sparse or not len(self.segments):
            return
        needed = len(self.segments) * _INODE if self._can_reflink(folder.path) else room(self.segments)
        check_room(folder.path, folder.name, needed, "or choose fewer segments")

    def _can_reflink(self, folder: str) -> bool:
        spans = self.backing.spans(0, self.backing.size)
        if not spans or not self.copier.reflinks:
            return False
        name = os.path.join(folder, ".probe")
        fd = create_file(name)
        try:
            return self.copier.probe_reflink(spans[0], Target(fd, name))
        finally:
            os.close(fd)
            os.unlink(name)

    def _account(self) -> None:
        """Every byte of the input is in a segment or left out for a reason."""
        counted = self.segments.total + sum(left.bytes for left in self.left_out)
        if counted != self.process.input_bytes:
            raise MemcarveError(
                f"{self.process.input_bytes} bytes, but {counted} are accounted for; this is a bug in memcarve, "
                "please report it",
                subject=self.process.file.path,
            )

    def _document(self, hashed: dict[str, Any], **more: str) -> dict[str, Any]:
        """Return what segments.json says before its arrays; `more` goes into the record of the work."""
        process, segments = self.process, self.segments
        document = provenance.document(
            "segments",
            process,
            self.options.record(self.begun, input=hashed, **more),
            left_out=self.left_out,
            choice=segments.choice.selection,
            notes=_notes(segments),
            told=self.told,
        )
        return document | {
            "positions": process.positions,
            "partial": process.first_cut_off is not None,
            "totals": {
                "input_bytes": process.input_bytes,
                "segments": len(segments),
                "bytes": segments.total,
                "extents": int(segments.extents.sum()),
                "missing_bytes": sum(gap.size for gap in process.space.missing),
            },
            "hashes": list(self.options.hashes),
            "split": segments.choice.split,
            **({} if process.pages is None else {"pages": process.pages}),
            **_repeats(process.space),
            **({} if segments.labels is None else {"labels": segments.labels.summary()}),
        }

    def _write_manifest(self, files: Files, work: Work, hashed: dict[str, Any]) -> str:
        """Write segments.json and the files of checksums, which list it too; return its SHA-256."""
        process, document = self.process, self._document(hashed)
        names = list(self.options.hashes)
        digests = [new_digest(name) for name in names]
        seal = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            sums = {name: stack.enter_context(buffered(files, manifest.SUMS[name])) for name in names}
            with buffered(files, manifest.NAME) as file:
                missing = manifest.missing_lines(process.space.missing)
                texts = provenance.lines(document, missing=missing, segments=work.lines(sums))
                while some := list(itertools.islice(texts, _TEXTS)):
                    data = "".join(some).encode()
                    file.write(data)
                    for digest in (seal, *digests):
                        digest.update(data)
            for name, digest in zip(names, digests, strict=True):
                sums[name].write(f"{digest.hexdigest()}  {files.named(manifest.NAME)}\n".encode())
        return seal.hexdigest()


def _notes(segments: Segments) -> Sequence[str]:
    return () if segments.labels is None else segments.labels.notes


def _repeats(space: AddressSpace) -> dict[str, Any]:
    """Return what page tables map again, ready for JSON: the ranges, and where the same bytes were walked."""
    start, size, target = space.repeats.start, space.repeats.size, space.repeats.target
    if not len(start):
        return {}
    first = np.ones(len(start), np.bool_)  # neighbours that repeat one thing are one row
    first[1:] = (start[1:] != start[:-1] + size[:-1]) | (target[1:] != target[:-1])
    index = np.flatnonzero(first)
    rows = zip(start[index].tolist(), np.add.reduceat(size, index).tolist(), target[index].tolist(), strict=True)
    listed = [
        {"start": f"0x{at:x}", "end": f"0x{at + length:x}", "same_as": f"0x{where:x}"}
        for at, length, where in itertools.islice(rows, _MOST_REPEATS)
    ]
    more = {"ranges_not_listed": len(index) - len(listed)} if len(index) > len(listed) else {}
    return {"repeats": {"bytes": space.repeated, "ranges": listed, **more}}
