"""What must hold of whatever an input leads to, beyond that nothing but declared errors is raised."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import memcarve
from fuzzing.case import Depth
from memcarve import MemcarveError, SinkOptions
from memcarve.cli.program import run as run_program
from memcarve.errors import printable as made_printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fuzzing.case import Case, Reached
    from fuzzing.draw import Draw
    from memcarve import ProcessMemory, Segments

    #: says whether bytes are what should lie at an address
    Model = Callable[[int, bytes], bool]

TOP = 1 << 64
#: what of a process, and how many processes, are looked at one by one
_MOST, _MOST_PROCESSES = 40, 3
_LARGEST_READ, _LARGEST_WRITTEN, _LONGEST_MESSAGE = 1 << 20, 1 << 22, 2000
#: outputs, and those that can be read again
SINKS = ("segments", "minidump", "elfcore", "flat", "scripts", "memmap", "modules", "table")
_READ_AGAIN = ("segments", "minidump", "elfcore", "memmap")


class Looked:
    """A surface whose cases are opened: `told` has the name of what is, what lies in it, and what `look` takes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.prepare()

    def prepare(self) -> None:
        """Make what all cases share."""

    def model(self, held: Any) -> Model:
        """Return the model of what a case holds."""
        return lambda address, data: held_by(held, address, data)

    def run(self, case: Case, reached: Reached) -> None:
        """Open a case."""
        told = {"held": None, **case.told}
        path, held = os.path.join(self.folder, told.pop("open")), told.pop("held")
        look(path, reached, model=None if held is None else self.model(held), **told)


def drawn(draw: Draw, name: str) -> dict[str, Any]:
    """Return what is opened, and which of the slower checks it is put to."""
    sink = draw.choice(SINKS) if draw.chance(0.02) else None
    return {"open": name, "sink": sink, "labels": draw.chance(0.3)}


def held_by(ranges: Iterable[tuple[int, bytes]], address: int, data: bytes) -> bool:
    """Return whether each byte is one that a range has at its address."""
    while data:
        most = 0
        for start, stored in ranges:
            # what programs of 32 bits have from 2 GiB on may be printed with a sign
            for begin in {start, start & 0xFFFFFFFF}:
                if begin <= address < begin + len(stored):
                    part = stored[address - begin :][: len(data)]
                    differs = (at for at, (one, other) in enumerate(zip(part, data, strict=False)) if one != other)
                    most = max(most, len(part) if data.startswith(part) else next(differs))
        if not most:
            return False
        address, data = address + most, data[most:]
    return True


def look(
    path: str,
    reached: Reached,
    *,
    sink: str | None = None,
    model: Model | None = None,
    labels: bool = True,
    **options: Any,
) -> None:
    """Open an input and use its processes: `labels` too; with a `sink`, also write one and read that again."""
    with memcarve.open(path, temp=os.path.dirname(path), **options) as container:
        reached(Depth.PARSED)
        entries = container.processes()
        texts([*map(str, entries), str(container), *container.notes, *container.warnings])
        printable([repr(container)])
        for index in range(min(len(entries), _MOST_PROCESSES)):
            process = container.process(index=index)
            use(process, reached, model)
            if labels:
                known(process)
            if sink == "table" and not any(options.values()):
                chosen = [] if process.pid is None else ["--pid", str(process.pid)]
                printed(["segments", path, "--format", "json", *chosen])
            elif sink not in {None, "table"} and index == 0:
                write(process, os.path.dirname(path), sink)


def use(process: ProcessMemory, reached: Reached, model: Model | None = None) -> None:
    """Check the address space of a process, and read from it."""
    segments = process.segments(half="all")
    assert segments.total == process.space.total
    in_order(segments, process.space.missing)
    assert all(extent.end <= TOP for extent in itertools.islice(process.space.extents(), _MOST))
    if len(segments):
        reached(Depth.ROWS)
    for segment in segments[:_MOST]:
        whole = min(segment.size, _LARGEST_READ)
        for address in {segment.start, segment.end - whole}:
            data = process.read(address, whole)
            assert len(data) == whole
            assert model is None or model(address, data), f"0x{address:x}: other bytes than lie there"
            reached(Depth.MEMORY)
    printable([repr(process)])
    texts([*process.notes, *process.warnings])


def rows(process: ProcessMemory) -> None:
    """Check what is known of a process beyond its bytes."""
    assert all(0 <= row.start < row.end <= TOP for row in process.regions)
    assert all(0 <= row.start < TOP for row in process.modules)
    texts([*process.metadata.notes, *map(str, process.threads)])


def known(process: ProcessMemory) -> None:
    """Check the same, and the labels that follow from it."""
    rows(process)
    labelled = process.segments(labeller=memcarve.Labelling())
    labels = labelled.labels
    assert labels is not None
    texts(labels.notes)
    for index in range(min(len(labelled), _MOST)):
        json.loads(next(iter(labels.texts(index, index + 1))), parse_constant=_refused)
        printable([labels.name(index)])
    json.dumps(labels.summary(), allow_nan=False)
    for split in ("region", "module", "protection", "permissions"):
        with contextlib.suppress(memcarve.UsageError):  # nothing is known to split by
            assert process.segments(half="all", split=split).total == process.space.total


def in_order(segments: Segments, missing: Iterable[memcarve.Missing]) -> None:
    """Check that segments and what is missing are ranges in order, of which no two share an address."""
    ranges = [[(one.start, one.end, one.size) for one in some] for some in (segments, missing)]
    assert all(some == sorted(some) for some in ranges)
    both = sorted([*ranges[0], *ranges[1]])
    assert all(0 <= start < end <= TOP and end - start == size for start, end, size in both)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(both))


def write(process: ProcessMemory, folder: str, sink: str) -> None:
    """Write a process, check that every byte is accounted for, and read what can be read again."""
    content = "full" if sink == "segments" else "headers"
    segments = process.segments(labeller=memcarve.Labelling(content=content))
    if not 0 < segments.total <= _LARGEST_WRITTEN or len(segments) > 4 * _MOST:
        return
    with tempfile.TemporaryDirectory(prefix="out-", dir=folder) as base:
        out = os.path.join(base, "out.dmp" if sink == "memmap" else "out")  # a map names dumps that end so
        if sink == "modules":
            options = SinkOptions(largest=_LARGEST_WRITTEN)
            result = memcarve.extract(process, memcarve.find_modules(process).modules, out, options)
        else:
            span = (segments[0].start, segments[0].end)
            options = SinkOptions(address=span) if sink == "flat" else SinkOptions(label_names=sink == "segments")
            result = memcarve.export(process, segments, out, sink, options)
            # maps leave out the last byte of an address space
            assert result.bytes in {segments.total, segments.total - (sink == "memmap")} or sink == "flat"
            if result.input_bytes is not None:
                assert result.bytes + sum(row.bytes for row in result.left_out) == result.input_bytes
        printable(strict_files(base))
        # maps print addresses cut to 48 or 57 bits: those that no processor has, are not the same afterwards
        if sink == "memmap" and any(one.end > 1 << 47 and one.start < TOP - (1 << 47) for one in segments):
            return
        try:
            memcarve.verify(result.path)
            if sink != "modules":  # whose choice a program does not record
                memcarve.verify(result.path, process)
                memcarve.verify(result.path, process, labelling=memcarve.Labelling)
            if sink in _READ_AGAIN and result.bytes == segments.total:
                read_again(process, segments, result.path)
        except MemcarveError as error:
            raise AssertionError(f"what was written as {sink}: {error}") from error


def read_again(process: ProcessMemory, segments: Segments, path: str) -> None:
    """Check that what was written holds the bytes that were read."""
    with memcarve.open(path) as container:
        again = container.process()
        for segment in segments:
            assert again.read(segment.start, segment.size) == process.read(segment.start, segment.size)
        known(again)


def printed(words: Sequence[str]) -> int:
    """Run the command line; check what it prints, return its exit status."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_program(words)
        out.flush()
        err.flush()
    rows, said = (stream.buffer.getvalue().decode() for stream in (out, err))
    printable(said.splitlines())
    assert "bug in memcarve" not in said, said
    assert code in {0, 3} or said.strip()
    for text in rows.splitlines() if "jsonl" in words else [rows] if "json" in words and rows else ():
        strict_json(text)
    return code


def texts(found: Iterable[str]) -> None:
    """Check that what is said of an input is text; what shows it to a user makes it printable."""
    assert all(made_printable(text).isprintable() for text in found)


def printable(found: Iterable[str]) -> None:
    """Check that texts hold nothing that a terminal obeys."""
    for text in found:
        assert text.isprintable(), f"not printable: {text!r}"


def message(error: MemcarveError) -> None:
    """Check what an error says."""
    text = str(error)
    assert text.strip()
    printable([text])
    assert len(text) < _LONGEST_MESSAGE, f"a message of {len(text)} characters"
    assert "bug in memcarve" not in text, text


def _refused(word: str) -> None:
    raise AssertionError(f"{word} in JSON")


def strict_json(text: str) -> None:
    """Check that JSON is as strict readers take it: no NaN, no half of a character."""
    json.dumps(json.loads(text, parse_constant=_refused), ensure_ascii=False).encode()


def strict_files(folder: str) -> Iterator[str]:
    """Yield the names of all that was written; check JSON among it."""
    for place, folders, files in os.walk(folder):
        yield from (*folders, *files)
        for name in files:
            if name.endswith(".json"):
                with open(os.path.join(place, name), encoding="utf-8") as file:
                    strict_json(file.read())
