"""The carved folder: one file for each contiguous segment, named by its addresses, with manifest and checksums."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import itertools
import os
import shutil
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.backing import check_unchanged
from memcarve.copying.copier import Copier, StoppedError
from memcarve.copying.output_file import BUFFER, Target, is_zero
from memcarve.errors import MemcarveError, NoSpaceError, TruncatedError, UsageError
from memcarve.formats import manifest
from memcarve.process import LeftOut, Selection
from memcarve.sinks.folder import NewFolder, create_file, foreign, leftover_notes
from memcarve.sinks.segment_writer import Work
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.process import Labeller, ProcessMemory
    from memcarve.segments import Segments
    from memcarve.sinks.segment_writer import Progress
    from memcarve.space import AddressSpace

_INODE = 512  # bytes that a file costs on top of its blocks, roughly
_BLOCK = 4096
_MOST_REPEATS = 1000  # ranges that page tables map again, as the manifest lists them


class Options(NamedTuple):
    """How to carve. `hashes` are names in `manifest.SUMS`; `command` is recorded as the command line.

    `split` is one of ``vocabulary.Split``: where segments end besides gaps. `labeller` (a ``memcarve.Labelling``) says
    what they are; `label_names` has their files named by that, too. `environment` has the manifest tell the process's.
    """

    hashes: Sequence[str] = ("sha256",)
    selection: Selection = Selection()
    split: str = "none"
    labeller: Labeller | None = None
    label_names: bool = False
    skip_zero: bool = False
    partial: bool = False
    sparse: bool = False
    force: bool = False
    hash_input: bool = False
    environment: bool = False
    command: Sequence[str] | None = None


class CarveResult(NamedTuple):
    """What a carve wrote.

    `bytes` of `input_bytes` (the dump's length; of an image what the page tables lead to) are in `segments` files, the
    rest is in `left_out`. `missing_bytes` are addresses that the map names and the input does not hold. `complete` is
    false where bytes are known to be missing. `moved` counts the bytes by how they were moved.
    """

    path: str
    segments: int
    bytes: int
    input_bytes: int
    left_out: Sequence[LeftOut]
    missing_bytes: int
    complete: bool
    seconds: float
    moved: dict[str, int]
    notes: Sequence[str]


def carve(
    process: ProcessMemory,
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    stopped: Callable[[], bool] | None = None,
    input_sha256: str | None = None,
    **changes: Any,  # noqa: ANN401 - members of Options
) -> CarveResult:
    """Write each contiguous segment of `process` into a file of the new folder `out`.

    `changes` are members of Options by name; `threads` copy at once; as soon as `stopped` says so it gives up, by
    StoppedError; `input_sha256` is the input's hash where it is known already.

    The folder gets its name when it is whole. Raises TruncatedError where the dump ends too early (unless ``partial``),
    TargetExistsError, NoSpaceError, SourceReadError, OutputError.
    """
    wanted = (options or Options())._replace(**changes)
    return Carver(process, os.fspath(out), wanted, progress, threads, Copier(stopped), input_sha256).run()


class Carver:
    """Carves one process; whoever writes the files otherwise uses what accounts for them and describes them."""

    def __init__(
        self,
        process: ProcessMemory,
        out: str,
        options: Options,
        progress: Progress | None,
        threads: int | None,
        copier: Copier,
        input_sha256: str | None,
    ) -> None:
        self.process = process
        self.out = out
        self.options = options
        self.progress = progress
        self.threads = threads
        self.copier = copier
        self.input_sha256 = input_sha256
        unknown = [name for name in options.hashes if name not in manifest.SUMS]
        if unknown:
            raise UsageError(f"{unknown[0]}: is no hash function memcarve writes; it knows {', '.join(manifest.SUMS)}")
        first_cut_off = process.first_cut_off
        if first_cut_off is not None and not options.partial:
            raise TruncatedError(
                f"{self._source_name()}: ends too early: the first missing address is 0x{first_cut_off:x}; --partial "
                "carves what is there",
                first_cut_off,
            )
        self.backing = process.space.backing
        self.backing.spans(0, self.backing.size)  # complains where the dump is not at hand

    def run(self) -> CarveResult:
        """Carve; see `carve`."""
        begun = time.monotonic()
        split = self.options.split
        segments, left_out = self.process.select(self.options.selection, split, self.options.labeller)
        paths = [
            str(each["path"]) for each in self.process.inputs.values() if isinstance(each, dict) and "path" in each
        ]
        folder = NewFolder(self.out, force=self.options.force, foreign=foreign, inputs=paths)
        folder.check()
        _ = self.told  # what is wrong with its tables is said before anything is written
        if self.options.skip_zero:
            segments, zero = self._without_zero(segments)
            left_out += zero
        left_out += [LeftOut(reason, 0, count) for reason, count in self.process.left_out.items()]
        with folder:
            self._check_space(folder.path, segments)
            work = Work(
                self.process.space,
                segments,
                folder.path,
                shown=self.out,
                copier=self.copier,
                backing=self.backing,
                hashes=self.options.hashes,
                sparse=self.options.sparse,
                progress=self.progress,
                threads=self.threads,
                by_permissions=split == "permissions",
                label_names=self.options.label_names,
            )
            with self._input_hash() as input_hash:
                work.run()
            check_unchanged([self.backing, self.process.file])
            self.account(segments, left_out)
            self.write_manifest(folder.path, work, left_out, input_hash)
        return CarveResult(
            path=self.out,
            segments=len(segments),
            bytes=segments.total,
            input_bytes=self.process.input_bytes,
            left_out=left_out,
            missing_bytes=sum(gap.size for gap in self.process.space.missing),
            complete=not self.process.incomplete,
            seconds=time.monotonic() - begun,
            moved=dict(self.copier.moved),
            notes=[*([] if segments.labels is None else segments.labels.notes), *leftover_notes(folder)],
        )

    @functools.cached_property
    def told(self) -> dict[str, Any]:
        """What the process says of itself, ready for JSON.

        Of an image always; of other inputs if labels are wanted, for which all that is known is looked at anyway.
        """
        wanted = self.process.is_image or self.options.labeller is not None
        return self.process.metadata.told(environment=self.options.environment) if wanted else {}

    def _source_name(self) -> str:
        return getattr(self.process.file, "path", "the input")

    def _without_zero(self, segments: Segments) -> tuple[Segments, list[LeftOut]]:
        """Read everything once; return the segments that hold anything but zeros."""
        keep = np.zeros(len(segments), np.bool_)
        space = self.process.space
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
        return segments.where(keep), [LeftOut("zero throughout", len(gone), gone.total)] if len(gone) else []

    def _check_space(self, folder: str, segments: Segments) -> None:
        """Raise NoSpaceError where the files cannot fit; reflinks need no room, and holes make it unknowable."""
        if self.options.sparse or not len(segments):
            return
        if self._can_reflink(folder):
            blocks = 0
        else:
            blocks = int(((segments.size + np.uint64(_BLOCK - 1)) // np.uint64(_BLOCK)).sum()) * _BLOCK
        needed = blocks + len(segments) * _INODE
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise NoSpaceError(
                f"{self.out}: needs {needed} bytes, and its file system has {free} free; choose another with -o, or "
                "fewer segments"
            )

    def _can_reflink(self, folder: str) -> bool:
        spans = self.backing.spans(0, self.backing.size)
        if not spans or not self.copier.reflinks:
            return False
        name = os.path.join(folder, ".probe")
        fd = create_file(name, None)
        try:
            return self.copier.probe_reflink(spans[0], Target(fd, name))
        finally:
            os.close(fd)
            os.unlink(name)

    @contextlib.contextmanager
    def _input_hash(self) -> Iterator[dict[str, str]]:
        """Hash the whole input beside the copying, where that was asked for."""
        found = {} if self.input_sha256 is None else {"sha256": self.input_sha256}
        wanted = self.options.hash_input and not found
        failed: list[BaseException] = []

        def work() -> None:
            digest = hashlib.sha256()
            copier = Copier(self.copier.stopped)  # a buffer of its own
            try:
                copier.read(self.process.file, 0, self.process.file.size, digest.update)
                found["sha256"] = digest.hexdigest()
            except StoppedError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)

        thread = threading.Thread(target=work)
        if wanted:
            thread.start()
        try:
            yield found
        except BaseException:
            self.copier.stop.set()
            raise
        finally:
            if wanted:
                thread.join()
        if failed:
            raise failed[0]

    def account(self, segments: Segments, left_out: Sequence[LeftOut]) -> None:
        """Every byte of the input is in a segment or left out for a reason."""
        counted = segments.total + sum(left.bytes for left in left_out)
        if counted != self.process.input_bytes:
            raise MemcarveError(
                f"{self._source_name()}: {self.process.input_bytes} bytes, but {counted} are accounted for; this is a "
                "mistake in memcarve, please report it"
            )

    def write_manifest(self, folder: str, work: Work, left_out: Sequence[LeftOut], input_hash: dict[str, str]) -> None:
        """Write segments.json and the files of checksums, which list it too."""
        process, segments = self.process, work.segments
        inputs = {**process.used_inputs}
        for name, each in inputs.items():
            if input_hash and isinstance(each, dict) and each.get("path") == self._source_name():
                inputs[name] = {**each, **input_hash}
        header = {
            "tool": manifest.TOOL,
            "version": __version__,
            "command": list(self.options.command if self.options.command is not None else sys.argv),
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "inputs": inputs,
            "process": {"pid": process.pid, "name": process.name, "architecture": process.architecture}
            | process.entry.facts()
            | self.told,
            "positions": process.positions,
            "complete": not process.incomplete,
            "partial": process.first_cut_off is not None,
            "totals": {
                "input_bytes": process.input_bytes,
                "segments": len(segments),
                "bytes": segments.total,
                "extents": int(segments.extents.sum()),
                "missing_bytes": sum(gap.size for gap in process.space.missing),
            },
            "hashes": list(self.options.hashes),
            "split": self.options.split,
            **({} if process.pages is None else {"pages": process.pages}),
            **_repeats(process.space),
            **({} if segments.labels is None else {"labels": segments.labels.summary()}),
            "left_out": [left._asdict() for left in left_out],
            "notes": [*process.notes, *([] if segments.labels is None else segments.labels.notes)],
        }
        names = list(self.options.hashes)
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        with contextlib.ExitStack() as stack:
            sums = {name: stack.enter_context(_open(folder, manifest.SUMS[name])) for name in names}
            document = stack.enter_context(_open(folder, manifest.NAME))
            for text in manifest.lines(header, process.space.missing, work.lines(sums)):
                data = text.encode()
                document.write(data)
                for digest in digests.values():
                    digest.update(data)
            for name in names:
                sums[name].write(f"{digests[name].hexdigest()}  {manifest.NAME}\n".encode())


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


def _open(folder: str, name: str) -> IO[bytes]:
    return os.fdopen(create_file(os.path.join(folder, name), None), "wb", 1 << 16)
