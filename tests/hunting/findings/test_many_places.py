"""Processes in which there is very much to find: what is kept is bounded, and the rest is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import memcarve
from memcarve.hunting.findings import flag_findings
from memcarve.metadata import Metadata, Region, Regions
from memcarve.process import Container, ProcessEntry, ProcessMemory
from memcarve.space import AddressSpace
from memory import PAGE, Memory
from processes import RWX

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACES = 1000


class Made(Container):
    """A container of one process that is given."""

    path = "made"

    def __init__(self, memory: ProcessMemory) -> None:
        self.memory = memory

    def processes(self) -> list[ProcessEntry]:
        """Return the process."""
        return [self.memory.entry]

    def _process(self, index: int) -> ProcessMemory:
        assert index == 0
        return self.memory

    def close(self) -> None:
        """Close nothing."""


def made(pages: Sequence[int], regions: Sequence[Region] = ()) -> Made:
    """Return a container of a process with pages that may be written and run."""
    start = np.array(pages, np.uint64) * np.uint64(PAGE)
    offset = np.arange(len(pages), dtype=np.uint64) * np.uint64(PAGE)
    flags = np.full(len(pages), RWX, np.uint8)
    data = Memory(b"\x90" * PAGE * len(pages))
    space = AddressSpace(start, np.full(len(pages), PAGE, np.uint64), offset, data, flags=flags, physical=offset)
    known = Metadata(regions=(Regions("VAD tree", regions),)) if regions else Metadata()
    return Made(ProcessMemory(space, ProcessEntry(4, "\x1b[2J"), metadata=lambda: known))


@pytest.mark.parametrize("few", [10, 1 << 16])
def test_places_in_no_region(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many places in no region the first are kept, and all others counted, looked at or not."""
    monkeypatch.setattr(flag_findings, "_MOST_PLACES", few)
    found = memcarve.hunt(made(range(16, 16 + 2 * _PLACES, 2)), most=5)
    assert [row.address for row in found] == [(16 + 2 * number) * PAGE for number in range(5)]
    assert [(row.flag, row.severity, row.number) for row in found.more] == [
        ("writable-executable", "medium", _PLACES - 5)
    ]


@pytest.mark.parametrize("few", [10, 1 << 16])
def test_places_in_regions(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each allocation is one place; those of which nothing is in memory are less severe, and counted apart."""
    monkeypatch.setattr(flag_findings, "_MOST_PLACES", few)
    regions = []
    for number in range(_PLACES):
        start = (16 + 4 * number) * PAGE
        regions += [
            Region(start + at * PAGE, PAGE, "PAGE_EXECUTE_READWRITE", kind="private", private=True, allocation=start)
            for at in range(2)
        ]
    # every second has a page
    found = memcarve.hunt(made(range(17, 17 + 4 * _PLACES, 8), regions), most=20)
    private = [row for row in found if row.flag == "private-executable"]
    first = [(16 + 4 * number) * PAGE for number in range(20)]
    assert sorted(row.address or 0 for row in private) == first[: min(few, 20)]
    assert {row.address: row.severity for row in private} == {
        at: "info" if number % 2 else "medium" for number, at in enumerate(first[: min(few, 20)])
    }
    assert all(row.evidence is None or row.evidence.address == (row.address or 0) + PAGE for row in private)
    counted = {row.severity: row.number for row in found.more if row.flag == "private-executable"}
    kept = [row.severity for row in private]
    assert {word: kept.count(word) + counted[word] for word in counted} == {"medium": 500, "info": 500}


def test_a_choice_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen by kind is looked at as far as places are looked at one by one."""
    monkeypatch.setattr(flag_findings, "_MOST_PLACES", 100)
    found = memcarve.hunt(made(range(16, 16 + 2 * _PLACES, 2)), kind=["private"])
    assert len(found) == 0
    assert sum(row.number for row in found.more) == _PLACES - 100
