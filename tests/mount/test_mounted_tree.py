"""What a mounted input shows is what would be written, whatever source it comes from."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from cli import invoke
from containers import write_lime
from contracts import MAKERS, Given
from dumps import write_dump
from files import ROOT
from memcarve.cli.wording import option
from memcarve.intervals import TOP
from memcarve.mount.memory_files import FlatFile
from memory import PAGE, noise
from mounted import content_of, files_in, tree_of

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

EXAMPLE = Given(ROOT / "examples" / "pid.1624.dmp", {}, 1624)
_TIME = re.compile(rb'"(time|end)": "[^"]*Z"')


def _but_for_when(data: bytes) -> bytes:
    """Return a file without the times at which it was written."""
    return _TIME.sub(b"", data)


def printed(capture: Capture, given: Given, process: memcarve.ProcessMemory) -> dict[str, bytes]:
    """Return what commands print of a process, by the file that has it."""
    choice = [given.path, *given.choice, "-q"]
    found = {"flags.json": invoke(capture, "hunt", *choice, "--format", "json").out}
    if process.metadata.regions:
        found["regions.csv"] = invoke(capture, "regions", *choice, "--format", "csv").out
    return found


@pytest.mark.parametrize("kind", [*sorted(MAKERS), "example"])
def test_files_are_those_that_are_written(kind: str, tmp_path: Path, capfdbinary: Capture) -> None:
    """Each file has the bytes that carving, exporting and extracting write, but for when that was."""
    made = nullcontext(EXAMPLE) if kind == "example" else MAKERS[kind](tmp_path)
    with made as given, memcarve.open(given.path) as container:
        index = container.choose([] if given.pid is None else [given.pid])[0]
        tree = tree_of(container, word=option)
        name = next(name for name, place in tree.indexes.items() if place == index)
        found = files_in(tree.find(f"/processes/{name}"))
        assert tree.told == []
        process = container.process(index=index, half=container.default_half)
        how = {"hashes": (), "begin": tree.begun}
        partial = process.first_cut_off is not None
        sinking.carve(process, tmp_path / "segments", labeller=memcarve.Labelling(), partial=partial, **how)
        written = {f"segments/{path.name}": path.read_bytes() for path in (tmp_path / "segments").glob("*.bin")}
        written["segments.json"] = (tmp_path / "segments" / "segments.json").read_bytes()
        for sink, word in (("minidump", "minidump.dmp"), ("elfcore", "core")):
            sinking.write(sink, process, tmp_path / word, **how)
            written[word] = (tmp_path / word).read_bytes()
        sinking.extract(process, tmp_path / "modules", memcarve.find_modules(process).modules)
        written |= {f"modules/{path.name}": path.read_bytes() for path in (tmp_path / "modules").glob("*.bin")}
        written |= printed(capfdbinary, given, process)
    assert sorted(found) == sorted(written)
    for word, data in written.items():
        assert _but_for_when(found[word]) == _but_for_when(data), word


def test_a_flat_file_has_zeros_for_gaps(tmp_path: Path) -> None:
    """The file is what export writes, and says where its gaps are; one with gaps that export refuses is not there."""
    rows = [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2) + bytes(PAGE)), (0x200000, noise(3)), (1 << 46, noise(4))]
    (tmp_path / "near").mkdir()
    with memcarve.open(write_dump(tmp_path / "near", rows[:3], 4)) as container:
        flat = tree_of(container).find("/processes/4/flat")
        assert isinstance(flat, FlatFile)
        sinking.export_flat(container.process(), tmp_path / "written", hashes=())
        data = (tmp_path / "written").read_bytes()
        assert content_of(flat, 3 * PAGE + 5) == content_of(flat) == data
        assert (flat.size, flat.stored) == (len(data), 5 * PAGE)
    ends = [(0, 0x2000), (0x10000, 0x12000), (0x1F0000, 0x1F1000)]
    for low, high in ends:
        assert [flat.next_data(place) for place in (low, high - 1)] == [low, high - 1]
        assert [flat.next_hole(place) for place in (low, high - 1)] == [high, high]
    assert [flat.next_data(0x2000), flat.next_data(0x12345), flat.next_hole(0x12345)] == [0x10000, 0x1F0000, 0x12345]
    with memcarve.open(write_dump(tmp_path, rows, 4)) as container:
        assert tree_of(container).find("/processes/4/flat") is None
        far = tree_of(container, sparse=True).find("/processes/4/flat")
        assert isinstance(far, FlatFile)
        assert (far.size, far.stored) == ((1 << 46) + PAGE - 0x10000, 6 * PAGE)
        view = memoryview(bytearray(3 * PAGE))
        far.read_into(far.size - 3 * PAGE, view)
        assert bytes(view) == bytes(2 * PAGE) + noise(4)


@pytest.mark.parametrize(("last", "sparse", "shown"), [(1 << 51, False, 0), (1 << 51, True, 1), (TOP - PAGE, True, 0)])
def test_an_image_with_gaps(last: int, *, sparse: bool, shown: int, tmp_path: Path) -> None:
    """Memory whose gaps nobody would read, or that no file can hold, is shown as processes alone."""
    path = write_lime(tmp_path / "mem.lime", [(0, bytes(PAGE)), (last, noise(1))])
    with memcarve.open(path, dtb=0, paging="x64") as container:
        assert len([name for name in tree_of(container, sparse=sparse).root.entries if name == "image.raw"]) == shown
