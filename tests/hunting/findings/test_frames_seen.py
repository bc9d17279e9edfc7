"""Pages that several processes share are read once, and every header in them is found in each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headers import SECTIONS, pe_page
from memcarve.hunting.findings.family import Family
from memcarve.hunting.findings.frames_seen import FramesSeen
from memcarve.hunting.findings.subject import Subject
from memcarve.labels import header_scan
from memcarve.process import ProcessEntry, ProcessMemory
from memcarve.space import AddressSpace
from memory import PAGE

_HEADER = bytes(pe_page(sections=SECTIONS))


class Read:
    """A backing that counts how often each of its pages is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.counts = np.zeros(len(data) // PAGE, np.int64)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        buffer[:] = self.data[offset : offset + len(buffer)]
        self.counts[offset // PAGE : (offset + len(buffer) - 1) // PAGE + 1] += 1

    def spans(self, offset: int, size: int) -> None:
        """Return None."""

    def close(self) -> None:
        """Close nothing."""


def memory_of(backing: Read, frames: list[int], base: int = 0x100) -> ProcessMemory:
    """Return the memory of an image's process, whose pages are these of the backing, from page `base` on."""
    start = (np.arange(len(frames), dtype=np.uint64) + np.uint64(base)) * np.uint64(PAGE)
    offset = np.array(frames, np.uint64) * np.uint64(PAGE)
    flags: Any = np.ones(len(frames), np.uint8)
    space = AddressSpace(start, np.full(len(frames), PAGE, np.uint64), offset, backing, flags=flags, physical=offset)
    return ProcessMemory(space, ProcessEntry(4), pages={})


@pytest.mark.parametrize("header", [None, 3, 5])
def test_shared_pages_are_read_once(header: int | None) -> None:
    """A page is read for the first process that has it; those with headers for each, where these are found."""
    pages = [bytes([number + 1]) * PAGE for number in range(40)]
    if header is not None:
        pages[header] = _HEADER
    backing, apart, seen, family = Read(b"".join(pages)), Read(b"".join(pages)), FramesSeen(), Family([])
    for base, frames in ((0x100, [*range(20)]), (0x200, [*range(19, -1, -1)]), (0x300, [*range(0, 40, 2), 3])):
        memory, alone = memory_of(backing, frames, base), memory_of(apart, frames, base)
        found = [each.address for each in Subject(memory.entry, family, memory, seen).headers]
        assert found == [each.address for each in Subject(alone.entry, family, alone).headers]
        assert found == ([] if header not in frames else [(base + frames.index(header)) * PAGE])
    # what lies beside a header is read again where that is parsed
    if header is None:
        assert backing.counts.tolist() == (apart.counts > 0).astype(int).tolist()
        assert apart.counts.max() == 3
    else:
        assert backing.counts.sum() < apart.counts.sum()


def test_places_that_overlap() -> None:
    """Pages of a damaged image that begin within others are pages of their own."""
    data = bytearray(b"\1" * PAGE * 4)
    data[PAGE + 0x800 : 2 * PAGE + 0x800] = _HEADER
    backing, seen, family = Read(bytes(data)), FramesSeen(), Family([])
    for offsets in ([0, PAGE, 2 * PAGE], [PAGE + 0x800], [PAGE, PAGE + 0x800], [PAGE + 0x800, 3 * PAGE]):
        offset = np.array(offsets, np.uint64)
        start = (np.arange(len(offsets), dtype=np.uint64) + np.uint64(0x100)) * np.uint64(PAGE)
        flags: Any = np.ones(len(offsets), np.uint8)
        size = np.full(len(offsets), PAGE, np.uint64)
        space = AddressSpace(start, size, offset, backing, flags=flags, physical=offset)
        memory = ProcessMemory(space, ProcessEntry(4), pages={})
        found = [each.address for each in Subject(memory.entry, family, memory, seen).headers]
        assert found == [at * PAGE + 0x100 * PAGE for at, place in enumerate(offsets) if place == PAGE + 0x800]


def test_more_headers_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """That there are more is told: one might be meant to be overlooked."""
    monkeypatch.setattr(header_scan, "MOST_HEADERS", 5)
    monkeypatch.setattr(header_scan.headers_in, "__defaults__", (5, None))
    memory = memory_of(Read(_HEADER), [0] * 9)
    subject = Subject(memory.entry, Family([]), memory, FramesSeen())
    assert len(subject.headers) == 5
    assert subject.limits == ["about 4 pages with headers of programs more than are looked at"]


def test_places_without_end() -> None:
    """Pages beyond those that are remembered, and ends of pages, are read each time."""
    backing = Read(bytes(PAGE * 2))
    space = AddressSpace(
        np.array([0x1000, 0x5000], np.uint64),
        np.array([PAGE, 100], np.uint64),
        np.array([0, PAGE], np.uint64),
        backing,
    )
    seen = FramesSeen()
    seen.mark(space, space.segments(), [])
    left = seen.unseen(space, space.segments())
    assert [(each.start, each.size) for each in left.segments()] == [(0x5000, 100)]
