"""What must hold of whatever an input leads to, beyond that nothing but declared errors is raised."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import memcarve
from fuzzing.case import Depth
from memcarve import MemcarveError, SinkOptions
from memcarve.errors import printable as printable_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fuzzing.case import Reached
    from fuzzing.draw import Draw
    from memcarve import ProcessMemory, Segments

    #: says whether bytes are what should lie at an address
    Model = Callable[[int, bytes], bool]

TOP = 1 << 64
#: what of a process is looked at one by one
_MOST = 40
_MOST_PROCESSES = 3
_LARGEST_READ = 1 << 20
_LARGEST_WRITTEN = 1 << 22
_LONGEST_MESSAGE = 2000
#: outputs, and those that can be read again
SINKS = ("segments", "minidump", "elfcore", "flat", "scripts", "memmap", "modules")
_READ_AGAIN = ("segments", "minidump", "elfcore", "memmap")


def drawn(draw: Draw) -> dict[str, Any]:
    """Return which of the slower checks a case is put to."""
    return {"sink": draw.choice(SINKS) if draw.chance(0.02) else None, "labels": draw.chance(0.3)}


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
    with memcarve.open(path, **options) as container:
        reached(Depth.PARSED)
        entries = container.processes()
        texts([*map(str, entries), str(container), *container.notes, *container.warnings])
        printable([repr(container)])
        for index in range(min(len(entries), _MOST_PROCESSES)):
            process = container.process(index=index)
            use(process, reached, model)
            if labels:
                known(process)
            if sink is not None and index == 0:
                write(process, os.path.dirname(path), sink)


def use(process: ProcessMemory, reached: Reached, model: Model | None = None) -> None:
    """Check the address space of a process, and read from it."""
    space = process.space
    segments = process.segments(half="all")
    assert segments.total == space.total
    in_order(segments, space.missing)
    for segment, extent in zip(segments, space.extents(), strict=False):
        assert segment.start <= extent.start or segment.extents > 1
        assert extent.end <= TOP
        break
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


def known(process: ProcessMemory) -> None:
    """Check what is known of a process beyond its bytes, and its labels."""
    metadata = process.metadata
    for region in process.regions:
        assert 0 <= region.start < region.end <= TOP
    for module in process.modules:
        assert 0 <= module.start < TOP
    _ = process.threads
    texts(metadata.notes)
    labelled = process.segments(labeller=memcarve.Labelling())
    labels = labelled.labels
    assert labels is not None
    texts(labels.notes)
    for index in range(min(len(labelled), _MOST)):
        json.loads(labels.text(index), parse_constant=_refused)
        printable([labels.name(index)])
    json.dumps(labels.summary(), allow_nan=False).encode()
    for split in ("region", "module", "protection", "permissions"):
        with contextlib.suppress(memcarve.UsageError):  # nothing is known to split by
            assert process.segments(half="all", split=split).total == process.space.total


def in_order(segments: Segments, missing: Iterable[memcarve.Missing]) -> None:
    """Check that segments and what is missing are ranges in order, of which no two share an address."""
    for ranges in (segments, missing):
        end = 0
        for one in ranges:
            assert end <= one.start < one.end <= TOP
            assert one.end - one.start == one.size
            end = one.end
    both = sorted([*((one.start, one.end) for one in segments), *((one.start, one.end) for one in missing)])
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(both))


def write(process: ProcessMemory, folder: str, sink: str) -> None:
    """Write a process, check that every byte is accounted for, and read what can be read again."""
    content = "full" if sink == "segments" else "headers"
    segments = process.segments(labeller=memcarve.Labelling(content=content))
    if not 0 < segments.total <= _LARGEST_WRITTEN or len(segments) > 4 * _MOST:
        return
    with tempfile.TemporaryDirectory(prefix="out-", dir=folder) as base:
        out = os.path.join(base, "out")
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
        if sink == "segments":
            memcarve.verify(out)
            memcarve.verify(out, process)
        if sink in _READ_AGAIN and result.bytes == segments.total:
            read_again(process, segments, result.path)


def read_again(process: ProcessMemory, segments: Segments, path: str) -> None:
    """Check that what was written holds the bytes that were read."""
    with memcarve.open(path) as container:
        again = container.process()
        for segment in segments:
            assert again.read(segment.start, segment.size) == process.read(segment.start, segment.size)
        known(again)


def texts(found: Iterable[str]) -> None:
    """Check that what is said of an input is text; what shows it to a user makes it printable."""
    for text in found:
        assert isinstance(text, str)
        assert printable_text(text).isprintable()


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


def strict_json(text: str) -> Any:
    """Return a document as strict readers take it: no NaN, no surrogates that are not pairs."""
    text.encode()
    found = json.loads(text, parse_constant=_refused)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def _refused(word: str) -> None:
    raise AssertionError(f"{word} in JSON")


def strict_files(folder: str) -> Iterator[str]:
    """Yield the names of all that was written; check that JSON among it is strict."""
    for place, folders, files in os.walk(folder):
        yield from (*folders, *files)
        for name in files:
            if name.endswith(".json"):
                with open(os.path.join(place, name), "rb") as file:
                    strict_json(file.read().decode())
