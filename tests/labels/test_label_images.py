"""Labels of processes of synthetic Windows images in every layout, held against how their memory was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from carved import binaries, manifest
from cli import invoke
from memcarve.labels.resident_regions import Residence
from memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.process import ProcessMemory
    from winimage import Process, Truth
    from winimage.userland import Userland

    Capture = pytest.CaptureFixture[bytes]

LAYOUTS = range(winimage.LAYOUTS)
#: what the plan of the usual process (pid 1624) puts there for an analyst to find: flag and first address
PLANNED = {
    ("private-executable", 0x2A0000),
    ("writable-executable", 0x2A0000),
    ("pe-in-private", 0x2A0000),
    ("wiped-header", 0x7FFA11000000),
    ("writable-executable", 0x7FFA12003000),
    ("beyond-section", 0x7FFA12003000),
    ("module-unlisted", 0x7FFA13000000),
    ("module-unlisted", 0x7FFA13009000),
    ("module-unlisted", 0x7FFA1300C000),
    ("module-unlinked", 0x7FFA14000000),
    ("module-unlinked", 0x7FFA14009000),
    ("module-unlinked", 0x7FFA1400C000),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def truth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image of each layout."""
    folder = tmp_path_factory.mktemp("labels")
    return winimage.build(folder / "mem.raw", layout=request.param, processes=winimage.USERLAND)


@pytest.fixture
def image(truth: Truth) -> Iterator[memcarve.Container]:
    """Return the image, opened."""
    with memcarve.open(truth.path) as found:
        yield found


def plan_of(process: Process) -> Userland:
    """Return the plan of a process's memory."""
    assert process.userland is not None
    return process.userland


def labels_of(process: ProcessMemory, content: str = "headers", split: str = "none") -> Any:
    """Return the labels of a process's segments."""
    return process.segments(split=split, labeller=memcarve.Labelling(content, read=True)).labels


def test_flags_are_those_planned(image: memcarve.Container) -> None:
    """Every flag that was planned, at its address, and no other, in any process."""
    found = {}
    for pid in (388, 1624, 2036):
        labels = labels_of(image.process(pid))
        found[pid] = {pair for index in range(len(labels.segments)) for pair in labels.flags(index).items()}
    assert found == {388: set(), 1624: PLANNED, 2036: set()}


def test_what_is_listed_and_not_mapped(image: memcarve.Container) -> None:
    """Entries of the loader's lists, of 64 and of 32 bits, where nothing is mapped are told, without a segment."""
    told = {pid: labels_of(image.process(pid)).summary()["findings"] for pid in (1624, 2036)}
    unmapped = {
        pid: [(row["address"], row["why"]) for row in rows if row["flag"] == "entry-unmapped"]
        for pid, rows in told.items()
    }
    assert unmapped == {
        1624: [("0x00007ffa15000000", "PEB lists gone.dll, but nothing is mapped there")],
        2036: [("0x0000000010000000", "32-bit PEB lists gone32.dll, but nothing is mapped there")],
    }


@pytest.mark.parametrize("pid", [388, 1624, 2036])
def test_regions_of_segments(truth: Truth, image: memcarve.Container, pid: int) -> None:
    """Each segment has the planned regions that it shares addresses with, and is split where they begin and end."""
    planned = sorted(vad for vad in truth.process(pid).vads if vad.size)
    process = image.process(pid)
    for split in ("none", "region"):
        labels = labels_of(process, "none", split)
        for index, segment in enumerate(labels.segments):
            touched = [vad for vad in planned if vad.start < segment.end and segment.start < vad.end]
            rows = [(row.start, row.end, row.protection, row.file, row.tag) for row in labels.regions(index)]
            assert rows == [(vad.start, vad.end, vad.protection, vad.file, vad.tag) for vad in touched]
            assert split == "none" or len(touched) <= 1
    pages = {segment.start for segment in process.segments(split="region")}
    assert pages >= {vad.start for vad in planned} & {page for one in process.segments() for page in _pages(one)}


def _pages(segment: memcarve.Segment) -> range:
    return range(segment.start, segment.end, PAGE)


def test_kinds_by_the_process_itself(truth: Truth, image: memcarve.Container) -> None:
    """Stacks, heaps, TEBs and PEBs are what PEB and TEBs say; both kinds of them in a process of 32 bits."""
    for pid in (1624, 2036):
        plan = plan_of(truth.process(pid))
        labels = labels_of(image.process(pid), "none")
        at = {page: labels.kinds(index) for index, one in enumerate(labels.segments) for page in _pages(one)}
        assert "PEB" in at[plan.peb]
        if plan.peb32 is not None:
            assert "PEB" in at[plan.peb32]
        for heap in (*plan.heaps, *plan.heaps32):
            assert heap not in at or "heap" in at[heap]
        for thread in plan.threads:
            assert not thread.mapped or "TEB" in at[thread.teb]
            for stack in (thread.stack, thread.narrow):
                if stack is not None and stack.base - PAGE in at:
                    assert at[stack.base - PAGE] == ["stack"]


def test_a_region_of_8_tb(image: memcarve.Container) -> None:
    """What is reserved and not there costs nothing: three pages of it are."""
    process = image.process(1624)
    rows = {row.region.start: row for row in Residence(process, memcarve.Selection()).rows()}
    row = rows[0x10000000000]
    assert (row.region.size, row.resident) == (8 << 40, 3 * PAGE)


def test_threads_are_recorded(truth: Truth, tmp_path: Path, capfdbinary: Capture) -> None:
    """A carved folder tells the threads, and names what it can by labels; it verifies."""
    out = tmp_path / "out"
    ran = invoke(capfdbinary, "carve", str(truth.path), "--pid", "1624", "-o", str(out), "--label-names")
    assert ran.code == 0, ran.err
    document = manifest(out)
    planned = plan_of(truth.process(1624)).threads
    assert {row["tid"] for row in document["labels"]["threads"]} == {thread.tid for thread in planned}
    assert document["labels"]["sources"]["modules"][0]["source"] == "PEB"
    assert "0x00007ffa12000000-0x00007ffa12004000.rcx.patched.dll.bin" in binaries(out)
    patched = next(row for row in document["segments"] if row["start"] == "0x00007ffa12000000")
    assert "urwx" in patched["labels"]["permissions"]
    assert patched["labels"]["protection"] == ["rcx"]
    assert invoke(capfdbinary, "verify", str(out), "--source", str(truth.path)).code == 0


def test_page_tables_are_labelled(image: memcarve.Container) -> None:
    """Where the page tables see themselves, in the kernel half, a segment is of that kind."""
    process = image.process(index=[entry.pid for entry in image.processes()].index(1624), half="kernel")
    found = process.segments(memcarve.Selection("kernel", kind=["page tables"]), labeller=memcarve.Labelling())
    assert len(found)
    assert all(one.end - one.start <= 1 << 39 and one.start >= 1 << 63 for one in found)
    assert len({one.start >> 39 for one in found}) == 1
