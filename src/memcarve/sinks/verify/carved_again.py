"""The source carved again with the recorded choice, into nothing: each file is compared with the one in the folder."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import FileBacking
from memcarve.copying.output_file import BUFFER
from memcarve.errors import InputError, MemcarveError, UnreadableError, UsageError
from memcarve.formats import manifest
from memcarve.formats.json_text import loads
from memcarve.process import Selection
from memcarve.sinks.carved_folder import carve
from memcarve.sinks.sink import SinkOptions
from memcarve.sinks.verify.document_check import by_program, differences, differing, other_tables, read_by

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from memcarve.dtypes import U64, Bools
    from memcarve.process import Labeller, ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.verify.faults import Faults

_HALF = re.compile(r"outside --range (user|kernel)")
_ZERO = "zero throughout"
_ENDING = ".bin"


def compare_again(
    folder: str,
    header: dict[str, Any],
    source: ProcessMemory,
    labelling: Callable[[str], Labeller] | None,
    starts: array[int],
    faults: Faults,
    progress: Progress | None,
) -> list[str]:
    """Carve the source as the header says that the folder was; note each difference. Return notes for the user.

    `starts` are those of the segments in the folder. What a program chose by itself cannot be chosen again: of that
    only the sum is compared. Raises InputError if the source cannot be carved so, SourceReadError.
    """
    recorded = _Recorded(header)
    looked_at = header.get("looked_at", source.half)
    if source.is_image and looked_at != source.half and looked_at in ("user", "kernel", "all"):
        raise UsageError(
            f"was carved from {looked_at} memory, and the source was opened for {source.half}",
            subject=folder,
            remedy="open the process with {half}",
        )
    labels = header.get("labels")
    labeller = None
    notes = []
    if isinstance(labels, dict):
        content = labels.get("content")
        if labelling is not None:
            labeller = labelling(content if content in ("headers", "full") else "none")
        else:
            labeller = _NamesAsFound(folder, recorded.options, looked_at=content in ("headers", "full"))
            notes.append(f"{folder}: its labels are not compared: labelling=memcarve.Labelling makes them again")
    else:
        notes.append(f"{folder}: has no labels: none were made, or all were removed")
    try:
        segments = source.segments(recorded.selection, recorded.split, labeller)
    except UsageError as error:
        faults.add(f"{manifest.NAME}: what it says was chosen cannot be chosen in the source: {error}")
        return notes
    if recorded.by_program:
        keep = np.isin(segments.start, np.frombuffer(starts, np.uint64) if len(starts) else np.zeros(0, np.uint64))
        segments = segments.where(keep)
        notes.append(
            f"{folder}: {recorded.by_program} bytes of the source were left out by a choice that is not recorded and "
            "cannot be made again: that nothing more was removed is known by their sum alone"
        )
    if header.get("schema") == 1:
        notes.append(f"{folder}: is of schema 1, which does not record all that is compared")
    reader = read_by(header)
    if reader:
        notes.append(
            f"{folder}: was read by {reader}: what it says of the process and labels, and what it adds to names, are "
            "not compared"
        )
    again = _Again(
        folder, header, faults, labels=labeller is not None and labelling is not None and not reader, reader=reader
    )
    options = dataclasses.replace(recorded.options, again=header, partial=True, hash_input=_is_hashed(header))
    try:
        carve(source, segments, again, options, progress)
    except UnreadableError:
        raise  # whoever opened the source goes on without what cannot be read
    except InputError as error:
        faults.add(f"the source cannot be carved as it was: {error}")
        return notes
    notes += [
        f"{row['bytes']} bytes of the source are not in the folder: {row['reason']}"
        for row in header.get("left_out", ())
        if row.get("bytes")
    ]
    return notes


def _is_hashed(header: Mapping[str, Any]) -> bool:
    """Return True if the manifest has a hash of the whole input."""
    inputs = header.get("inputs")
    found = inputs if isinstance(inputs, dict) else {}
    return any(isinstance(found.get(name), dict) and found[name].get("sha256") for name in found if name != "map")


class _Recorded:
    """How segments were chosen, as a manifest says it. It is hostile: raises InputError if it says what nobody can."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self.header = header
        split = header.get("split", "none")
        self.split = split if isinstance(split, str) else "none"
        choice, options = header.get("choice"), header.get("options")
        reasons = [row.get("reason") for row in header.get("left_out", ()) if isinstance(row, dict)]
        left_out = [row for row in header.get("left_out", ()) if isinstance(row, dict) and row.get("segments")]
        self.selection: Selection | None = None
        self.by_program = by_program(header)
        try:
            if isinstance(choice, dict):
                self.selection = Selection.of_facts(choice)
            else:  # of schema 1, or a program's
                half = next((found[1] for reason in reasons if (found := _HALF.fullmatch(str(reason)))), None)
                self.selection = Selection(half)
                unknown = [
                    row for row in left_out if not _HALF.fullmatch(str(row["reason"])) and row["reason"] != _ZERO
                ]
                self.by_program = self.by_program or sum(row["bytes"] for row in unknown)
            if isinstance(options, dict):
                self.options = SinkOptions.of_facts(options)
            else:
                self.options = SinkOptions(hashes=tuple(header["hashes"]), skip_zero=_ZERO in reasons)
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            raise InputError(f"does not say how its segments were chosen: {error}", subject=manifest.NAME) from None


class _NamesAsFound:
    """Labels that say nothing; the words in the names of files are those that the manifest has."""

    notes = ()

    def __init__(self, folder: str, options: SinkOptions, *, looked_at: bool) -> None:
        self.looked_at = looked_at
        self.words: dict[int, str] = {}
        if options.label_names:
            for record in manifest.read(os.path.join(folder, manifest.NAME))[1]:
                named = manifest.FILE_NAME.fullmatch(record.file)
                if named is not None and int(named[1], 16) == record.start:
                    plain = manifest.file_name(record.start, int(named[2], 16))
                    self.words[record.start] = record.file.removesuffix(_ENDING)[len(plain) - len(_ENDING) :]
        self.start: U64 = np.zeros(0, np.uint64)

    def __call__(self, process: ProcessMemory, segments: Segments, wanted: Selection) -> Self:  # noqa: ARG002
        return self._of(segments.start)

    def _of(self, start: U64) -> Self:
        same = copy.copy(self)
        same.start = start
        return same

    def where(self, keep: Bools) -> Self:
        return self._of(self.start[keep])

    def matches(self, name: str, values: Sequence[str]) -> Bools:  # noqa: ARG002
        raise UsageError(f"segments were chosen by {name}: labelling=memcarve.Labelling says which these are")

    def observer(self, index: int) -> Callable[[memoryview], object] | None:  # noqa: ARG002
        return bool if self.looked_at else None  # what looks at bytes also says which are zero

    def observed(self, index: int, observer: object) -> None:
        pass

    def observe_together(self, first: int, count: int, view: memoryview) -> None:
        pass

    def texts(self, first: int, end: int) -> Iterable[str]:
        return ["{}"] * (end - first)

    def name(self, index: int) -> str:
        return self.words.get(int(self.start[index]), "")

    def summary(self) -> dict[str, Any]:
        return {}


class _Again:
    """Takes the files of a carve, and compares each with the one that lies in the folder."""

    def __init__(
        self, folder: str, header: dict[str, Any], faults: Faults, *, labels: bool, reader: str | None
    ) -> None:
        self.folder = folder
        self.header = header
        self.faults = faults
        self.labels = labels
        self.reader = reader
        self.names: dict[str, str] = {}  # by what memcarve calls a segment, what another program calls it
        if reader:
            for record in manifest.read(os.path.join(folder, manifest.NAME))[1]:
                named = manifest.FILE_NAME.fullmatch(record.file)
                if named is not None:
                    self.names[manifest.file_name(int(named[1], 16), int(named[2], 16))] = record.file

    def create(self, name: str) -> io.RawIOBase:
        """Return what takes the bytes of a file."""
        if name in manifest.SUMS.values():
            return _Unread()
        if name == manifest.NAME:
            return _ManifestAgain(self)
        try:
            file = FileBacking(os.path.join(self.folder, self.named(name)), follow=False)
        except MemcarveError:
            return _Unread()  # the manifest is compared, too, and what is no file is told where files are checked
        return _SegmentAgain(file, name, self.faults)

    def named(self, name: str) -> str:
        """Return what a file is called."""
        return self.names.get(name, name)


class _Unread(io.RawIOBase):
    """Takes what is compared elsewhere."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - typeshed's Buffer needs 3.12
        return memoryview(data).nbytes


class _SegmentAgain(_Unread):
    """Compares what it takes with a segment's file; the first difference is a fault."""

    def __init__(self, file: FileBacking, name: str, faults: Faults) -> None:
        self.file = file
        self.name = name
        self.faults = faults
        self.place = 0
        self.differs = False

    def write(self, data: Any) -> int:  # noqa: ANN401
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), BUFFER):
            self._compare(view[begin : begin + BUFFER])
        return len(view)

    def _compare(self, part: memoryview) -> None:
        size = min(len(part), max(self.file.size - self.place, 0))
        if not self.differs and size:
            found = self.file.read_at(self.place, size)
            if found != part[:size]:
                one, other = np.frombuffer(found, np.uint8), np.frombuffer(part[:size], np.uint8)
                first = int(np.flatnonzero(one != other)[0])
                address = int(self.name[:18], 16) + self.place + first
                self.faults.add(f"{self.name}: differs from the source at 0x{address:x}")
                self.differs = True
        self.place += len(part)

    def close(self) -> None:
        if not self.closed:
            if self.place != self.file.size and not self.differs:
                self.faults.add(f"{self.name}: is {self.file.size} bytes long, and has {self.place} in the source")
            self.file.close()
        super().close()


class _ManifestAgain(_Unread):
    """Compares what it takes, line by line, with the manifest in the folder."""

    def __init__(self, again: _Again) -> None:
        self.again = again
        self.faults = again.faults
        self.rest = b""
        self.opening: list[str] = []
        self.late: list[str] = []  # what is told after segments
        self.array = "header"
        self.rows = _Rows(manifest.rows(os.path.join(again.folder, manifest.NAME))[1])

    def write(self, data: Any) -> int:  # noqa: ANN401
        *lines, self.rest = (self.rest + bytes(data)).split(b"\n")
        for line in lines:
            self._line(line.decode())
        return memoryview(data).nbytes

    def _line(self, text: str) -> None:
        if self.array == "header":
            if text == ' "missing": [':
                self._header(loads("\n".join(self.opening).rstrip().removesuffix(",") + "}"))
                self.array = "missing"
            else:
                self.opening.append(text)
        elif text == ' "segments": [' and self.array == "missing":
            self._behind("missing")
            self.array = "segments"
        elif text == " ]" and self.array == "segments":
            self._behind("segments")
            self.array = "end"
            self.faults.add_all(self.late, f"{manifest.NAME}: ")
        elif self.array != "end" and text != " ],":
            self._row(text.removeprefix("  ").removesuffix(","))

    def _header(self, expected: dict[str, Any]) -> None:
        header = dict(self.again.header)
        others = other_tables(header, expected)
        if others:  # then all labels differ, which would say no more
            self.again.labels = False
            if isinstance(header.get("inputs"), dict):
                header["inputs"] = {name: row for name, row in header["inputs"].items() if name != "evidence"}
            expected["inputs"].pop("evidence", None)
            if header.get("schema") != 1:  # else nobody was told to keep them
                self.late += others
        if not self.again.labels:
            header.pop("labels", None)
            expected.pop("labels", None)
            if isinstance(header.get("notes"), list):  # some are about labels
                header.pop("notes")
                expected.pop("notes", None)
        if self.again.reader:
            _as_read_by_another(header, expected)
        if header.get("schema") == 1:
            _as_of_schema_1(header, expected)
        self.late += differing(header, expected)

    def _row(self, expected: str) -> None:
        start = _start(expected)
        while (found := self.rows.peek(self.array)) is not None and _start(found) < start:
            self._extra(self.rows.take())
        if found is None or _start(found) != start:
            self.faults.add(f"{_name(self.array, expected)}: is in the source, and not in {manifest.NAME}")
            return
        self.rows.take()
        if found != expected:
            before, now = loads(found), loads(expected)
            if not isinstance(before, dict):
                self._extra(found)
                return
            if before.get("end") != now["end"]:
                what = "mapped and missing" if self.array == "missing" else "contiguous"
                bounds = f"0x{int(now['start'], 16):x}-0x{int(now['end'], 16):x}"
                self.faults.add(f"{_name(self.array, found)}: in the source, {bounds} is {what}")
                return
            if not self.again.labels:
                before.pop("labels", None)
                now.pop("labels", None)
            self.faults.add_all(differences(before, now), f"{_name(self.array, found)}: ")

    def _behind(self, array: str) -> None:
        while self.rows.peek(array) is not None:
            self._extra(self.rows.take())

    def _extra(self, found: str) -> None:
        what = "is not what the source holds there, or not what was chosen"
        self.faults.add(f"{_name(self.array, found)}: {what}")


class _Rows:
    """The elements of a manifest, of which the next can be looked at."""

    def __init__(self, rows: Iterator[tuple[str, str]]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def peek(self, array: str) -> str | None:
        """Return the next element of an array; None if there is none, or of another."""
        return self._next[1] if self._next is not None and self._next[0] == array else None

    def take(self) -> str:
        """Return the next element, and go on."""
        found = self._next
        self._next = next(self._rows, None)
        return "" if found is None else found[1]


_START = re.compile(r'\{"start": "0x([0-9a-f]{16})"')


def _start(text: str) -> int:
    """Return where a row starts."""
    found = _START.match(text)
    if found:
        return int(found[1], 16)
    try:
        return int(loads(text)["start"], 16)
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0


def _name(array: str, text: str) -> str:
    """Return what a row is called in messages."""
    try:
        row = loads(text)
        bounds = f"{row['start']}-{row['end']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return text[:60]
    return f"missing {bounds}" if array == "missing" else str(row.get("file", bounds))[:120]


def _as_read_by_another(header: dict[str, Any], expected: dict[str, Any]) -> None:
    """Leave out what another program that read the input says in its own way; of the process, its number and tables."""
    for document in (header, expected):
        document.pop("platform", None)
        process, inputs = document.get("process"), document.get("inputs")
        if isinstance(process, dict):
            document["process"] = {name: process.get(name) for name in ("pid", "root")}
        if isinstance(inputs, dict):
            document["inputs"] = {
                name: {word: row.get(word) for word in ("size", "sha256", "root")} if isinstance(row, dict) else row
                for name, row in inputs.items()
            }


def _as_of_schema_1(header: dict[str, Any], expected: dict[str, Any]) -> None:
    """Leave out what documents of schema 1 say in other words."""
    for name in ("notes", "process", "inputs", "labels"):
        one, other = header.get(name), expected.get(name)
        if name == "notes":
            expected.pop(name, None)
        elif isinstance(one, dict) and isinstance(other, dict):
            for key in other.keys() - one.keys():
                del other[key]
    if isinstance(expected.get("inputs"), dict) and isinstance(header.get("inputs"), dict):
        expected["inputs"].pop("evidence", None)
        header["inputs"] = {key: value for key, value in header["inputs"].items() if key != "evidence"}
        for name, each in expected["inputs"].items():
            before = header["inputs"].get(name)
            if isinstance(each, dict) and isinstance(before, dict):
                expected["inputs"][name] = {key: value for key, value in each.items() if key in before}
    if any(isinstance(row, dict) and row.get("segments") for row in header.get("left_out", ())):
        header.pop("left_out")  # the choice is not recorded
