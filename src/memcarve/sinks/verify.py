"""Checking a carved folder against its manifest, and against the dump it came from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from typing import IO, TYPE_CHECKING

import numpy as np

from memcarve.backing import FileBacking, kind_of
from memcarve.copying.output_file import BUFFER, is_zero
from memcarve.errors import AddressError, InputError, MemcarveError, VerificationError
from memcarve.formats import manifest
from memcarve.sinks.sink import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from memcarve.formats.manifest import Record
    from memcarve.process import ProcessMemory, Progress

_CARVED = "give a folder that memcarve carved"


def read_header(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest's header: how the folder came to be. Raises InputError."""
    return manifest.read(os.path.join(os.fspath(folder), manifest.NAME))[0]


def verify(
    folder: str | os.PathLike[str],
    source: ProcessMemory | None = None,
    *,
    progress: Progress | None = None,
) -> Result:
    """Check every file of a carved folder: its name, its size, its hashes, and with `source` every byte.

    Also that nothing else lies there, that segments are in order and their sums are the totals, and that the files of
    checksums agree. Raises VerificationError that lists the faults (the first hundred).
    """
    return _Verifier(os.fspath(folder), source, progress).run()


class _Verifier:
    def __init__(self, folder: str, source: ProcessMemory | None, progress: Progress | None) -> None:
        self.folder = folder
        self.source = source
        self.progress = progress
        self.problems: list[str] = []
        self.names: list[str] = []
        self.present: dict[str, os.stat_result] = {}

    def run(self) -> Result:
        begun = time.monotonic()
        self.present = self.entries()
        header, records = manifest.read(os.path.join(self.folder, manifest.NAME))
        names = header.get("hashes")
        if not isinstance(names, list) or not set(map(str, names)) <= manifest.SUMS.keys():
            raise InputError(f"{self.folder}: its {manifest.NAME} does not say which hashes it holds")
        self.names = names
        found = header.get("totals")
        totals = found if isinstance(found, dict) else {}
        count, size = self.segments(records, totals.get("bytes"))
        for name, value in (("segments", count), ("bytes", size)):
            if totals.get(name) != value:
                self.problem(f"{manifest.NAME}: says {totals.get(name)} {name} in total, and lists {value}")
        for name in sorted(self.present.keys() - {manifest.NAME}):
            self.problem(f"{name}: is not in the manifest")
        if self.problems:
            raise VerificationError(
                "; ".join(
                    [f"{self.folder}: {len(self.problems)} fault{'s' * (len(self.problems) > 1)}", *self.problems[:100]]
                )
            )
        return Result(
            files=(self.folder,),
            what="segment",
            count=count,
            bytes=size,
            complete=True,
            seconds=time.monotonic() - begun,
            hashes=tuple(self.names),
            compared=self.source is not None,
        )

    def entries(self) -> dict[str, os.stat_result]:
        """Return what lies in the folder; raises InputError if memcarve cannot have carved it."""
        try:
            with os.scandir(self.folder) as entries:
                present = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except NotADirectoryError:
            raise InputError("is not a folder", subject=self.folder, remedy=_CARVED) from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", subject=self.folder) from error
        status = present.get(manifest.NAME)
        if status is None:
            raise InputError(f"holds no {manifest.NAME}", subject=self.folder, remedy=_CARVED)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(_kind(status), subject=os.path.join(self.folder, manifest.NAME))
        return present

    def segments(self, records: Iterator[Record], total: object) -> tuple[int, int]:
        """Check every segment, and the files of checksums beside them; return their number and their bytes."""
        count = size = end = 0
        wrong: set[str] = set()
        with contextlib.ExitStack() as stack:
            sums = {name: stack.enter_context(file) for name in self.names if (file := self.open_sums(name))}
            for record in records:
                if record.start < end:
                    self.problem(f"{record.file}: overlaps the segment before it, or is out of order")
                end = record.end
                count, size = count + 1, size + record.size
                wrong |= {name for name, file in sums.items() if not _says(file, record.hashes.get(name), record.file)}
                self.segment(record)
                if self.progress is not None:
                    self.progress(size, total if isinstance(total, int) else size)
            for name, file in sums.items():
                if not _says(file, self.manifest_hash(name), manifest.NAME) or file.read(1):
                    wrong.add(name)
        for name in sorted(wrong):
            self.problem(f"{manifest.SUMS[name]}: does not say what {manifest.NAME} says")
        return count, size

    def open_sums(self, name: str) -> IO[bytes] | None:
        """Open a file of checksums; None if there is none."""
        status = self.present.pop(manifest.SUMS[name], None)
        if status is None or not stat.S_ISREG(status.st_mode):
            self.problem(f"{manifest.SUMS[name]}: {_kind(status)}")
            return None
        with FileBacking(os.path.join(self.folder, manifest.SUMS[name]), follow=False) as file:
            return open(os.dup(file.fd), "rb")

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def segment(self, record: Record) -> None:
        """Check one file."""
        named = manifest.FILE_NAME.fullmatch(record.file)
        if named is None or (int(named[1], 16), int(named[2], 16)) != (record.start, record.end):
            self.problem(f"{record.file[:80]}: is not named by its addresses 0x{record.start:x}-0x{record.end:x}")
            return  # a name that is not one may lead anywhere
        status = self.present.pop(record.file, None)
        if status is None or not stat.S_ISREG(status.st_mode):
            self.problem(f"{record.file}: {_kind(status)}")
            return
        if record.hashes.keys() != set(self.names):
            self.problem(f"{record.file}: lacks a hash that the others have, or has one more")
        if status.st_size != record.size:
            self.problem(f"{record.file}: is {status.st_size} bytes long, not {record.size}")
            return
        try:
            self.content(record)
        except MemcarveError as error:
            self.problem(str(error))

    def content(self, record: Record) -> None:
        """Read one file once: its hashes, whether it is zero, and every byte against the source."""
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in record.hashes}
        if not digests and self.source is None:
            return
        zero = True
        with FileBacking(os.path.join(self.folder, record.file), follow=False) as file:
            view, other = memoryview(bytearray(BUFFER)), memoryview(bytearray(BUFFER))
            for place, offset, length in self.blocks(record):
                part = view[:length]
                file.read_into(place, part)
                zero = zero and is_zero(part)
                for digest in digests.values():
                    digest.update(part)
                if self.source is not None:
                    self.source.space.backing.read_into(offset, other[:length])
                    if not _same(part, other[:length]):
                        where = record.start + place
                        self.problem(f"{record.file}: differs from the source within the block at 0x{where:x}")
                        return
        for name, digest in digests.items():
            if digest.hexdigest() != record.hashes[name]:
                self.problem(f"{record.file}: its {name} is not the one in the manifest")
        if record.zero is not None and zero != record.zero:
            self.problem(f"{record.file}: is {'' if zero else 'not '}all zero, contrary to the manifest")

    def blocks(self, record: Record) -> Iterator[tuple[int, int, int]]:
        """Yield place in the file, offset in the source and length; raises InputError if the source lacks it."""
        pieces = [(0, record.size)]
        if self.source is not None:
            try:
                pieces = list(self.source.space.pieces(record.start, record.size))
            except AddressError as error:
                raise InputError(f"{record.file}: is not all in the source: {error}") from None
            if pieces[0][0] != record.offset:
                self.problem(f"{record.file}: lies at offset {pieces[0][0]} of the source, not at {record.offset}")
        place = 0
        for offset, length in pieces:
            for done in range(0, length, BUFFER):
                count = min(BUFFER, length - done)
                yield place, offset + done, count
                place += count

    def manifest_hash(self, name: str) -> str:
        digest = hashlib.new(name, usedforsecurity=False)
        with FileBacking(os.path.join(self.folder, manifest.NAME), follow=False) as file:
            for place in range(0, file.size, BUFFER):
                digest.update(file.read_at(place, BUFFER))
        return digest.hexdigest()


def _kind(status: os.stat_result | None) -> str:
    """Return what is wrong with a file that is missing, or is not one."""
    return "is missing" if status is None else f"is {kind_of(status.st_mode)}, not a regular file"


def _says(file: IO[bytes], digest: str | None, name: str) -> bool:
    """Return True if the next line of a file of checksums is this one."""
    expected = f"{digest}  {name}\n".encode()
    return file.readline(len(expected) + 1) == expected


def _same(one: memoryview, other: memoryview) -> bool:
    return bool(np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)))
