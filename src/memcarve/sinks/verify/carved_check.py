"""A carved folder, held against its own manifest, and against what the source would be carved into now."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from array import array
from typing import IO, TYPE_CHECKING

from memcarve.backing import FileBacking, kind_of, open_regular
from memcarve.copying.output_file import BUFFER, is_zero
from memcarve.errors import InputError, MemcarveError
from memcarve.formats import manifest
from memcarve.formats.json_text import loads
from memcarve.hashing import hash_of, new_digest
from memcarve.intervals import TOP
from memcarve.missing import REASONS
from memcarve.sinks.sink import Result
from memcarve.sinks.verify.carved_again import compare_again
from memcarve.sinks.verify.document_check import own_faults, shown
from memcarve.sinks.verify.faults import Faults
from memcarve.sinks.verify.own_document import WANTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from memcarve.backing import Backing
    from memcarve.formats.manifest import Record
    from memcarve.process import Labeller, ProcessMemory, Progress

_DIGITS = set("0123456789abcdef")


class CarvedCheck:
    """Checks one folder; `labelling` makes what labels segments, of how closely bytes are looked at.

    `contents` opens the bytes of a segment by the path of its file, if they do not lie there.
    """

    def __init__(
        self,
        folder: str,
        source: ProcessMemory | None,
        labelling: Callable[[str], Labeller] | None,
        progress: Progress | None,
        contents: Callable[[str], Backing] | None = None,
    ) -> None:
        self.folder = folder
        self.contents = contents or (lambda path: FileBacking(path, follow=False))
        self.source = source
        self.labelling = labelling
        self.progress = progress
        self.faults = Faults(folder)
        self.names: list[str] = []
        self.present: dict[str, os.stat_result] = {}
        self.starts = array("Q")
        self.path = os.path.join(folder, manifest.NAME)

    def run(self, seal: str | None = None) -> Result:
        """Check it; raises VerificationError, InputError."""
        begun = time.monotonic()
        self.present = self.entries()
        with FileBacking(self.path, follow=False) as document:
            if seal is not None:
                self.faults.check_seal(document, seal, manifest.NAME)
            header, rows = manifest.rows(self.path)
            names = header.get("hashes")
            if not isinstance(names, list) or not set(map(str, names)) <= manifest.SUMS.keys():
                raise InputError(f"{self.folder}: its {manifest.NAME} does not say which hashes it holds")
            self.names = names
            own = [*own_faults(header, "segments")]
            self.faults.add_all(own, f"{manifest.NAME}: ")
            count, size = self.rows(header, rows)
            for name in sorted(self.present.keys() - {manifest.NAME}):
                self.faults.add(f"{name}: is not in the manifest")
            notes: list[str] = []
            if self.source is not None and not own:  # else nobody can do as it says
                notes = compare_again(
                    self.folder, header, self.source, self.labelling, self.starts, self.faults, self.progress
                )
            if document.changed():
                self.faults.add(f"{manifest.NAME}: was changed while it was read")
        self.faults.check()
        return Result(
            files=(self.folder,),
            what="segment",
            count=count,
            bytes=size,
            complete=True,
            seconds=time.monotonic() - begun,
            hashes=tuple(self.names),
            compared=self.source is not None,
            notes=notes,
        )

    def entries(self) -> dict[str, os.stat_result]:
        """Return what lies in the folder; raises InputError if memcarve cannot have carved it."""
        try:
            with os.scandir(self.folder) as entries:
                present = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except NotADirectoryError:
            raise InputError("is not a folder", subject=self.folder, remedy=WANTED) from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", subject=self.folder) from error
        if manifest.NAME not in present:
            raise InputError(f"holds no {manifest.NAME}", subject=self.folder, remedy=WANTED)
        return present

    def rows(self, header: dict[str, Any], rows: Iterator[tuple[str, str]]) -> tuple[int, int]:
        """Check what is missing, every segment, the sums of both and the files of checksums; return count and bytes."""
        found = header.get("totals")
        totals = found if isinstance(found, dict) else {}
        sums = {"segments": 0, "bytes": 0, "extents": 0, "missing_bytes": 0}
        wrong: set[str] = set()
        missing = _Missing(self.faults)
        end = 0
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(file) for name in self.names if (file := self.open_sums(name))}
            for kind, text in rows:
                if kind == "missing":
                    sums["missing_bytes"] += missing.add(text)
                    continue
                record, row = self.record(text, sums["segments"])
                if record.start < end:
                    self.faults.add(f"{record.file}: overlaps the segment before it, or is out of order")
                end = record.end
                missing.check(record)
                sums["segments"] += 1
                sums["bytes"] += record.size
                sums["extents"] += record.extents
                wrong |= {name for name, file in files.items() if not _says(file, record.hashes.get(name), record.file)}
                self.segment(record, row, header)
                if self.progress is not None and self.source is None:
                    total = totals.get("bytes")
                    self.progress(sums["bytes"], total if type(total) is int else sums["bytes"])
            for name, file in files.items():
                if not _says(file, self.manifest_hash(name), manifest.NAME) or file.read(1):
                    wrong.add(name)
        for name in sorted(wrong):
            self.faults.add(f"{manifest.SUMS[name]}: does not say what {manifest.NAME} says")
        self.sums(header, totals, sums)
        return sums["segments"], sums["bytes"]

    def sums(self, header: dict[str, Any], totals: dict[str, Any], sums: dict[str, int]) -> None:
        """Hold the totals against what is listed, and the whole account against the input."""
        for name, value in sums.items():
            if totals.get(name) != value or type(totals.get(name)) is not int:
                self.faults.add(f"{manifest.NAME}: says {shown(totals.get(name))} {name} in total, and lists {value}")
        left_out = header.get("left_out")
        if isinstance(left_out, list) and all(isinstance(row, dict) for row in left_out):
            gone = sum(row["bytes"] for row in left_out if type(row.get("bytes")) is int)
            if totals.get("input_bytes") != sums["bytes"] + gone:
                self.faults.add(
                    f"{manifest.NAME}: says {shown(totals.get('input_bytes'))} input_bytes in total, and lists "
                    f"{sums['bytes']} in segments and {gone} that were left out"
                )
        if header.get("partial") is True and header.get("complete") is not False:
            self.faults.add(f"{manifest.NAME}: says that it is partial, and complete")

    def record(self, text: str, number: int) -> tuple[Record, dict[str, Any]]:
        """Return one segment, and all that is said of it; raises InputError if it is damaged."""
        try:
            row = loads(text)
            return manifest.record(row), row
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"segment {number} is damaged: {text[:60]}", subject=self.path) from None

    def open_sums(self, name: str) -> IO[bytes] | None:
        """Open a file of checksums; None if there is none."""
        status = self.present.pop(manifest.SUMS[name], None)
        if status is None or not stat.S_ISREG(status.st_mode):
            self.faults.add(f"{manifest.SUMS[name]}: {_kind(status)}")
            return None
        return open_regular(os.path.join(self.folder, manifest.SUMS[name]))

    def segment(self, record: Record, row: dict[str, Any], header: dict[str, Any]) -> None:
        """Check one file, and what is said of it."""
        named = manifest.FILE_NAME.fullmatch(record.file)
        if named is None or (int(named[1], 16), int(named[2], 16)) != (record.start, record.end):
            self.faults.add(f"{record.file[:80]}: is not named by its addresses 0x{record.start:x}-0x{record.end:x}")
            return  # a name that is not one may lead anywhere
        self.starts.append(record.start)
        for fault in self.said(record, row, header):
            self.faults.add(f"{record.file}: {fault}")
        status = self.present.pop(record.file, None)
        if status is None or not stat.S_ISREG(status.st_mode):
            self.faults.add(f"{record.file}: {_kind(status)}")
            return
        if status.st_size != record.size:
            self.faults.add(f"{record.file}: is {status.st_size} bytes long, not {record.size}")
            return
        if self.source is None:  # else the source says what all of it should be
            try:
                self.content(record)
            except MemcarveError as error:
                self.faults.add(str(error))

    def said(self, record: Record, row: dict[str, Any], header: dict[str, Any]) -> Iterator[str]:
        """Yield what is said of a segment that cannot be."""
        if record.hashes.keys() != set(self.names):
            yield "lacks a hash that the others have, or has one more"
        for name, value in record.hashes.items():
            if len(value) != 2 * new_digest(name).digest_size or not set(value) <= _DIGITS:
                yield f"its {name} is {shown(value)}, which is not one"
        if self.names and record.zero is None:
            yield "does not say whether it is zero, although its bytes were read"
        if not 0 < record.extents <= record.size:
            yield f"is said to have {record.extents} extents, and has {record.size} bytes"
        yield from self.members(record, row, header)

    def members(self, record: Record, row: dict[str, Any], header: dict[str, Any]) -> Iterator[str]:
        """Yield what members there are or lack, contrary to the header."""
        whole = row.get("part_of")
        if whole is not None:
            bounds = _bounds(whole)
            if bounds is None or not bounds[0] <= record.start < record.end <= bounds[1]:
                yield f"is said to be part of {shown(whole)}, which does not hold it"
        elif header.get("split", "none") != "none":
            yield f"does not say what it is part of, although segments were split by {shown(header.get('split'))}"
        if "labels" in row and "labels" not in header:
            yield f"has labels, and {manifest.NAME} does not say where labels come from"
        if ("permissions" in row) != (header.get("split") == "permissions"):
            yield "has permissions although it was not split by them, or lacks them"

    def content(self, record: Record) -> None:
        """Read one file once: its hashes, and whether it is zero."""
        digests = {name: new_digest(name) for name in record.hashes}
        if not digests:
            return
        zero = True
        with contextlib.closing(self.contents(os.path.join(self.folder, record.file))) as file:
            view = memoryview(bytearray(min(BUFFER, record.size)))
            for place in range(0, record.size, BUFFER):
                part = view[: min(BUFFER, record.size - place)]
                file.read_into(place, part)
                zero = zero and is_zero(part)
                for digest in digests.values():
                    digest.update(part)
        for name, digest in digests.items():
            if digest.hexdigest() != record.hashes[name]:
                self.faults.add(f"{record.file}: its {name} is not the one in the manifest")
        if record.zero is not None and zero != record.zero:
            self.faults.add(f"{record.file}: is {'' if zero else 'not '}all zero, contrary to the manifest")

    def manifest_hash(self, name: str) -> str:
        """Return a hash of the manifest."""
        with FileBacking(self.path, follow=False) as file:
            return hash_of(file, name)


class _Missing:
    """What is listed as missing: in order, nothing twice, and nothing that lies in a segment."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.start = array("Q")
        self.last = array("Q")
        self._next = 0

    def add(self, text: str) -> int:
        """Check a row, and return its bytes."""
        try:
            row = loads(text)
            bounds = _bounds(row)
            sound = bounds is not None and row["reason"] in REASONS and row["size"] == bounds[1] - bounds[0]
            sound = sound and type(row["size"]) is int and row.keys() == {"start", "end", "size", "reason"}
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
            bounds, sound = None, False
        if not sound or bounds is None:
            self.faults.add(f"{manifest.NAME}: what is missing is damaged: {text[:80]}")
            return 0
        if self.last and bounds[0] <= self.last[-1]:
            self.faults.add(f"{manifest.NAME}: missing 0x{bounds[0]:x} is out of order, or is there twice")
        self.start.append(bounds[0])
        self.last.append(bounds[1] - 1)
        return bounds[1] - bounds[0]

    def check(self, record: Record) -> None:
        """Check that a segment, the next in order, holds nothing that is missing."""
        while self._next < len(self.last) and self.last[self._next] < record.start:
            self._next += 1
        if self._next < len(self.last) and self.start[self._next] < record.end:
            self.faults.add(f"{record.file}: holds 0x{self.start[self._next]:x}, which is listed as missing")


def _bounds(row: Any) -> tuple[int, int] | None:  # noqa: ANN401 - as JSON has it
    """Return start and end as memcarve writes them; None if they are none."""
    if not isinstance(row, dict):
        return None
    start, end = row.get("start"), row.get("end")
    if not isinstance(start, str) or not isinstance(end, str):
        return None
    try:
        low, high = int(start, 16), int(end, 16)
    except ValueError:
        return None
    sound = (start, end) == (f"0x{low:016x}", f"0x{high:016x}") and 0 <= low < high <= TOP
    return (low, high) if sound else None


def _kind(status: os.stat_result | None) -> str:
    """Return what is wrong with a file that is missing, or is not one."""
    return "is missing" if status is None else f"is {kind_of(status.st_mode)}, not a regular file"


def _says(file: IO[bytes], digest: str | None, name: str) -> bool:
    """Return True if the next line of a file of checksums is this one."""
    expected = f"{digest}  {name}\n".encode()
    return file.readline(len(expected) + 1) == expected
