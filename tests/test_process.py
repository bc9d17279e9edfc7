"""What a process's memory, and what a container, offer to who calls the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import winimage
from files import EXAMPLE
from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows, Thread
from memcarve.note import Note
from memcarve.process import Container, ProcessEntry, ProcessMemory
from processes import PAGE, process_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Several(Container):
    """Processes by their entries; each has a page at its place in the list, and tells when it is opened."""

    def __init__(self, *entries: ProcessEntry) -> None:
        self.entries = entries
        self.opened: list[int] = []
        self.notes: Sequence[str] = ["read", Note("cut off", "input"), Note("of one", "process")]

    def processes(self) -> list[ProcessEntry]:
        """Return the entries."""
        return list(self.entries)

    def _process(self, index: int) -> ProcessMemory:
        self.opened.append(index)
        return process_of([index + 1])

    def close(self) -> None:
        """Do nothing."""


ENTRIES = (
    ProcessEntry(4, "System"),
    ProcessEntry(8, "a.exe", doubts=("odd",)),
    ProcessEntry(8, "A.EXE"),
    ProcessEntry(12, "b.exe"),
)


def test_a_container_yields_its_processes() -> None:
    """Iterating opens each process in its turn, but for those that are doubtful, and the length is their number."""
    memory = Several(*ENTRIES)
    found = [process.segments()[0].start for process in memory]
    assert found == [PAGE, 3 * PAGE, 4 * PAGE]
    assert len(memory) == 3
    memory = Several(*ENTRIES)
    next(iter(memory))
    assert memory.opened == [0]


def test_a_process_by_number_entry_and_place() -> None:
    """A process is chosen by its number, as an entry or by its place; of one number the one that is not doubtful."""
    memory = Several(*ENTRIES)
    for words in ({"pid": 8}, {"entry": ENTRIES[2]}, {"index": 2}):
        memory.process(**words)  # type: ignore[arg-type]
    memory.process(entry=ENTRIES[1])
    assert memory.opened == [2, 2, 2, 1]
    with pytest.raises(memcarve.UsageError, match=r"holds 4 processes \(4 System, 8 a\.exe, 8 A\.EXE, 12 b\.exe\)"):
        memory.process()
    with pytest.raises(memcarve.UsageError, match="choose from user, kernel, all"):
        memory.process(4, half="Kernel")


def test_choosing() -> None:
    """Both numbers and a name must match, in either case; what is doubtful is taken by its number alone."""
    memory = Several(*ENTRIES)
    assert memory.choose([12, 4]) == [3, 0]
    assert memory.choose([12, 4], "*.exe") == [3]
    assert memory.choose([12, 8, 12], "*") == [3, 2]
    with pytest.raises(memcarve.ProcessError, match=r"no process with this number is named like 'a\*' \(12 b\.exe\)"):
        memory.choose([12], "a*")
    assert memory.choose(name="sys*") == [0]
    assert Several(ENTRIES[1]).choose([8]) == [0]
    with pytest.raises(memcarve.ProcessError, match="only doubtful processes are named like 'a"):
        Several(*ENTRIES[:2]).choose(name="a.exe")
    words = (
        r"no process is named like 'c'; it holds: 4 System, 8 a\.exe, 8 A\.EXE, 12 b\.exe; a pattern is for the whole"
    )
    with pytest.raises(memcarve.ProcessError, match=words):
        memory.choose(name="c")
    with pytest.raises(memcarve.ProcessError, match=r"it holds: 12 b\.exe; a pattern is for the whole name"):
        memory.choose(name="B")


def test_warnings() -> None:
    """Of a container's notes those about the input must not be missed, of a process's those about itself."""
    memory = Several(ENTRIES[0])
    assert memory.warnings == ["cut off"]
    process = ProcessMemory(process_of([1]).space, notes=memory.notes)
    assert process.warnings == ["of one"]
    assert process.notes == ["read", "cut off", "of one"]


@pytest.mark.parametrize(
    "words", [{"half": "kernel"}, {"min_size": 8192}, {"max_size": 4096}, {"address": [(0x7FFE0000, 0x7FFE0001)]}]
)
def test_segments_by_words(words: dict[str, Any]) -> None:
    """Words choose as a selection of them does, and a selection besides is refused."""
    with memcarve.open(EXAMPLE) as memory:
        process = memory.process()
        expected = [each.name for each in process.segments(memcarve.Selection(**words))]
        assert [each.name for each in process.segments(**words)] == expected
        assert 0 < len(expected) < len(process.segments())
        with pytest.raises(memcarve.UsageError, match="one or the other"):
            process.segments(memcarve.Selection(), **words)


def test_reading_and_finding() -> None:
    """Bytes are read, found and located as in the address space, and an offset leads back to its address."""
    with memcarve.open(EXAMPLE) as memory:
        process = memory.process()
        segment = process.segments()[3]
        data = process.read(segment.start, 64)
        assert data == process.space.read(segment.start, 64)
        assert segment.start in [hit.address for hit in process.find(data)]
        assert segment.start not in [hit.address for hit in process.find([data], half="kernel")]
        place = process.locate(segment.start + 5)
        assert (place.address, place.offset, place.segment) == (segment.start + 5, segment.offset + 5, segment)
        assert place.extent.start <= place.address < place.extent.end
        assert process.locate_offset(place.offset) == [place]
        with pytest.raises(memcarve.AddressError):
            process.locate(0)


def test_the_half_that_is_searched(tmp_path: Path) -> None:
    """Of an image the user half is searched, as its segments are, unless a half is said."""
    truth = winimage.build(tmp_path / "mem.raw", processes=[winimage.Plan(388, b"small.exe")])
    with memcarve.open(truth.path) as memory:
        process = memory.process(388)
        assert process.is_image
        assert all(hit.address < process.kernel_half for hit in process.find(b"MZ"))
        assert any(hit.address >= process.kernel_half for hit in process.find(b"MZ", half="all"))
        assert [each.pid for each in memory] == [entry.pid for entry in memory.processes()]


def test_flat_lists() -> None:
    """Regions and modules are those of the source that counts first, threads those of all, or none."""
    rows = [Region(PAGE, PAGE, "rw-p")]
    metadata = Metadata(
        (Regions("first", rows), Regions("second", [])),
        (SourceRows("first", [Module(PAGE)]), SourceRows("second", [])),
        (SourceRows("first", [Thread(1)]), SourceRows("second", [Thread(1, teb=5), Thread(2)])),
    )
    process = process_of([1], metadata)
    assert list(process.regions) == rows
    assert list(process.modules) == [Module(PAGE)]
    assert list(process.threads) == [Thread(1, teb=5), Thread(2)]
    none = process_of([1])
    assert [list(each) for each in (none.regions, none.modules, none.threads)] == [[], [], []]
