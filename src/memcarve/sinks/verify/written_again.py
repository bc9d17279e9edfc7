"""What was exported or extracted, written again from the source into a temporary folder, and compared."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from memcarve.backing import open_regular
from memcarve.copying.output_file import BUFFER
from memcarve.errors import InputError, UnreadableError, UsageError
from memcarve.formats import manifest
from memcarve.process import Selection
from memcarve.sinks.elfcore import export_elfcore
from memcarve.sinks.extract import extract
from memcarve.sinks.flat import export_flat
from memcarve.sinks.memmap import export_memmap
from memcarve.sinks.minidump import export_minidump
from memcarve.sinks.ranges import ranges
from memcarve.sinks.scripts import export_scripts
from memcarve.sinks.sink import Result, SinkOptions
from memcarve.sinks.verify import own_document
from memcarve.sinks.verify.document_check import differing, other_tables
from memcarve.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.process import Labeller, ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.verify.faults import Faults
    from memcarve.sinks.verify.own_document import Own

_SINKS = {
    own_document.CORE: export_elfcore,
    own_document.MINIDUMP: export_minidump,
    own_document.FLAT: export_flat,
    own_document.SCRIPT: export_scripts,
    own_document.MEMMAP: export_memmap,
}


def compare_written(
    own: Own,
    source: ProcessMemory,
    labelling: Callable[[str], Labeller] | None,
    find: Callable[[ProcessMemory, Selection], Any] | None,
    temp: str | os.PathLike[str] | None,
    faults: Faults,
    progress: Progress | None,
) -> Result | None:
    """Write the source again as the document says that it was; note each difference. Return what writing it gave.

    It is written into the folder `temp`, or one that lies on disk. Raises InputError if the document does not say how,
    NoSpaceError, OutputError if there is no such folder, SourceReadError.
    """
    recorded = _Recorded(own)
    place = temporary_folder(own.path, "is compared with its source written again") if temp is None else temp
    with tempfile.TemporaryDirectory(prefix="memcarve-", dir=place) as folder:
        out = os.path.join(folder, os.path.basename(os.path.normpath(own.path)).removesuffix(".map"))
        try:
            again = _written(own, recorded, source, labelling, find, out, progress)
        except UnreadableError:
            raise
        except (InputError, UsageError) as error:
            faults.add(f"the source cannot be written as it was: {error}")
            return None
        if others := [] if own.what == own_document.MEMMAP else _other_tables(own, out):
            faults.add_all(others, f"{own.sealed}: ")  # then much else differs, which would say no more
        elif own.what in (own_document.MODULES, own_document.SCRIPT):
            _compare_folder(own, out, faults)
        else:
            _compare_file(own, again, faults)
    return again.result


class _Recorded:
    """How an output was made, as its document says it; raises InputError if it does not."""

    def __init__(self, own: Own) -> None:
        document = own.document
        self.selection = Selection(half="all")
        self.options = SinkOptions()
        if own.what == own_document.MEMMAP:
            return
        choice, options = document.get("choice"), document.get("options")
        if not isinstance(choice, dict) or not isinstance(options, dict):
            raise InputError(
                "does not record how memory was chosen (a program did it, or an earlier version wrote it), so it "
                "cannot be written again",
                subject=own.path,
                remedy="verify it without its source",
            )
        inputs = document.get("inputs")
        rows = inputs.values() if isinstance(inputs, dict) else ()
        hashed = any(isinstance(row, dict) and row.get("sha256_is") for row in rows)
        try:
            self.selection = Selection.of_facts(choice)
            told = SinkOptions.of_facts({**options, "archive": False} if own.archive else options)
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            raise InputError(f"does not say how it was written: {error}", subject=own.path) from None
        self.options = dataclasses.replace(told, again=document, hash_input=hashed)


def _written(
    own: Own,
    recorded: _Recorded,
    source: ProcessMemory,
    labelling: Callable[[str], Labeller] | None,
    find: Callable[[ProcessMemory, Selection], Any] | None,
    out: str,
    progress: Progress | None,
) -> _Again:
    if own.what == own_document.MODULES:
        if find is None:
            raise UsageError("what finds modules is needed", remedy="give find=memcarve.find_modules")
        modules = find(source, recorded.selection).modules
        result = extract(source, modules, out, recorded.options, progress, choice=recorded.selection)
        return _Again(out, source, None, result)
    if own.what == own_document.MEMMAP:
        size = os.path.getsize(f"{own.path.removesuffix('.map')}.dmp")
        halves = [Selection(half) for half in ("all", "user", "kernel")]
        fit = (choice for choice in halves if 0 <= source.segments(choice).total - size <= 1)
        recorded.selection = next(fit, halves[0])  # it is written nowhere
    labeller = labelling("none") if labelling is not None and recorded.selection.by_labels else None
    segments = source.segments(recorded.selection, labeller=labeller)
    if own.what == own_document.MEMMAP:
        out = f"{out}.dmp"
    result = _SINKS[own.what](source, segments, out, recorded.options, progress)
    return _Again(out, source, segments, result)


class _Again:
    """What was written again at `path`."""

    def __init__(self, path: str, source: ProcessMemory, segments: Segments | None, result: Result) -> None:
        self.path = path
        self.result = result
        self.source = source
        self.segments = segments

    def where(self, what: str, offset: int, size: int, start: int) -> str:
        """Return what a byte of the file is, in words."""
        if what == own_document.FLAT:
            return f"0x{start + offset:x}"
        found = None if self.segments is None else ranges(self.source, self.segments)
        if found is None or what not in (own_document.CORE, own_document.MINIDUMP) or offset < size - found.total:
            return f"offset 0x{offset:x}"
        place = offset - (size - found.total)
        if place >= found.total:
            return f"offset 0x{offset:x}, its end"
        ends = np.cumsum(found.size, dtype=np.uint64)
        row = int(np.searchsorted(ends, np.uint64(place), "right"))
        return f"0x{int(found.start[row]) + place - int(ends[row] - found.size[row]):x}"


def _other_tables(own: Own, out: str) -> list[str]:
    """Return which tables were used only then, or only now."""
    return other_tables(own.document, own_document.find(out).document)


def _compare_file(own: Own, again: _Again, faults: Faults) -> None:
    """Compare a file, and the document in it or beside it."""
    if own.what != own_document.MEMMAP:
        document = own_document.find(again.path).document
        told = [*differing(_plain(own.document), _plain(document))]
        faults.add_all(told, f"{own.sealed}: ")
        names = [(own.path, again.path)]
    else:
        told = []
        dump = f"{own.path.removesuffix('.map')}.dmp"
        names = [(dump, again.path), (own.path, f"{again.path.removesuffix('.dmp')}.map")]
    for path, other in names:
        with open_regular(path) as one, open_regular(other) as two:
            offset, size = _first_difference(one, two)
        if offset is None or (told and own.what != own_document.FLAT):
            continue  # the document lies before the memory, and all behind it is elsewhere
        start = int(own.document.get("start", "0x0"), 16) if own.what == own_document.FLAT else 0
        place = again.where(own.what, offset, size, start)
        faults.add(f"{os.path.basename(path)}: differs from the source at {place}")


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without the seal's own hash of what is compared byte by byte."""
    return {name: value for name, value in document.items() if name != "sha256"}


def _first_difference(one: IO[bytes], two: IO[bytes]) -> tuple[int | None, int]:
    """Return where two files differ first, None if nowhere, and the length of the second."""
    place = 0
    size = os.fstat(two.fileno()).st_size if hasattr(two, "fileno") else 0
    while True:
        first, second = one.read(BUFFER), two.read(BUFFER)
        if first != second:
            shorter = min(len(first), len(second))
            left, right = (np.frombuffer(data[:shorter], np.uint8) for data in (first, second))
            found = np.flatnonzero(left != right)
            return place + (int(found[0]) if len(found) else shorter), size
        if not first:
            return None, size
        place += len(first)


def _compare_folder(own: Own, out: str, faults: Faults) -> None:
    """Compare the files in a folder or archive with those that were written again."""
    with own.reader() as members:
        there = members.names()
        for name in sorted(os.listdir(out)):
            if name == manifest.SUMS["sha256"]:
                continue  # it follows from the others
            if there.get(name, "") is not None:
                faults.add(f"{name}: is in the source, and not there")
            elif name == own.sealed:
                with open(os.path.join(out, name), encoding="ascii") as file:
                    expected = json.load(file)
                _compare_documents(own, expected, faults)
            else:
                with members.open(name) as one, open(os.path.join(out, name), "rb") as two:
                    offset, _ = _first_difference(one, two)
                if offset is not None:
                    faults.add(f"{name}: differs from what the source gives, at offset 0x{offset:x}")


def _compare_documents(own: Own, expected: dict[str, Any], faults: Faults) -> None:
    header = dict(own.document)
    if own.archive:
        for document in (header, expected):
            document["options"] = {name: value for name, value in document["options"].items() if name != "archive"}
    if own.what == own_document.SCRIPT:  # where the file lies, as seen from the folder
        for document in (header, expected):
            original = document.get("original")
            if isinstance(original, dict):
                document["original"] = {
                    key: value for key, value in original.items() if key not in ("path", "relative")
                }
    rows, others = header.pop("modules", None), expected.pop("modules", None)
    faults.add_all(differing(header, expected), f"{own.sealed}: ")
    if isinstance(rows, list) and isinstance(others, list):
        for row, other in itertools.zip_longest(rows, others):
            called = next((each.get("base") for each in (row, other) if isinstance(each, dict)), "?")
            if row is None or other is None:
                why = "is in the source, and not there" if row is None else "is not what the source holds"
                faults.add(f"{own.sealed}: module {called}: {why}")
            else:
                faults.add_all(differing({"modules": row}, {"modules": other}), f"{own.sealed}: module {called}: ")
