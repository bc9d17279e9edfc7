"""The kernel's half of several processes, each part once: against a slow walk of every process's own tables."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given, settings, strategies as st

import memcarve
import walker
from memcarve.errors import ProcessError
from memcarve.hunting.owners import kernel_halves
from memcarve.images.paging import walk
from memcarve.images.paging_modes import WINDOWS, X64, AddressTable
from memcarve.intervals import TOP
from memcarve.process import Container, Machine, Platform, ProcessEntry, ProcessMemory
from memcarve.space import AddressSpace
from memory import PAGE
from walked_pages import physical_memory, reader

if TYPE_CHECKING:
    import pytest

ROOTS, TREES, PAGES, COUNT = 1, 8, 32, 64  # frames: roots of processes, trees of three tables each, pages of data
_TABLE = 0x63
SELF = 0x1ED  # the slot at which page tables map themselves
SLOTS = (256, 257, 300, 511)


class Plan(NamedTuple):
    """What a process's root has in its upper half: a tree for each slot; and whether the page tables map themselves."""

    trees: dict[int, int]
    selfmap: bool
    used: bool  # the processor has set bits in the entries


def made(plans: list[Plan]) -> bytes:
    """Return physical memory: a root for each plan, and four trees, of which each maps a few pages of its own."""
    memory = bytearray(COUNT * PAGE)

    def put(frame: int, entry: int, value: int) -> None:
        struct.pack_into("<Q", memory, frame * PAGE + 8 * entry, value)

    for tree in range(4):
        for level in range(2):
            put(TREES + 4 * tree + level, tree + level, (TREES + 4 * tree + level + 1) * PAGE | _TABLE)
        for page in range(3):
            put(TREES + 4 * tree + 2, 7 * page, (PAGES + 4 * tree + page) * PAGE | _TABLE)
    for number, plan in enumerate(plans):
        root = ROOTS + number
        put(root, 0, TREES * PAGE | 0x67)
        for slot, tree in plan.trees.items():
            put(root, slot, (TREES + 4 * tree) * PAGE | _TABLE | 0x20 * plan.used)
        if plan.selfmap:
            put(root, SELF, root * PAGE | _TABLE)
    return bytes(memory)


class Tables(Container):
    """A machine with page tables for each process."""

    path = "tables"
    default_half = "user"

    def __init__(self, plans: list[Plan]) -> None:
        self.data = made(plans)
        self.memory = physical_memory(self.data)
        self.count = len(plans)
        self.walked: list[tuple[int, int, int]] = []
        self.broken: set[int] = set()

    def processes(self) -> list[ProcessEntry]:
        """Return a process for each plan."""
        return [
            ProcessEntry(4 + number, f"p{number}", root=(ROOTS + number) * PAGE | 2) for number in range(self.count)
        ]

    def _process(self, index: int) -> ProcessMemory:
        return self._half(index, "all")

    def _half(self, index: int, half: str) -> ProcessMemory:
        return self.open_span(index, *{"user": (0, 1 << 63), "kernel": (1 << 63, TOP), "all": (0, TOP)}[half])

    def open_span(self, index: int, start: int, end: int) -> ProcessMemory:
        """Return what is mapped there."""
        if index in self.broken and start:
            raise ProcessError("is broken")
        self.walked.append((index, start, end))
        table = AddressTable((ROOTS + index) * PAGE, X64, WINDOWS)
        space = walk(self.memory, table, start, end).space(self.memory)
        return ProcessMemory(space, self.processes()[index], machine=Machine(Platform("windows"), "x64"))

    def physical_space(self) -> AddressSpace:
        """Return all memory."""
        return AddressSpace(self.memory.start, self.memory.size, self.memory.offset, self.memory.backing)

    def close(self) -> None:
        """Do nothing."""


PLANS = st.lists(
    st.builds(
        Plan, st.dictionaries(st.sampled_from(SLOTS), st.integers(0, 3)), st.booleans(), st.booleans()
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def slowly(data: bytes, count: int) -> dict[int, set[tuple[int, int]]]:
    """Return by physical address which processes map a page, and where, as a slow walk of all their tables has it."""
    read = reader(data, [(0, len(data), 0)])
    seen: dict[int, set[tuple[int, int]]] = {}
    for number in range(count):
        for address, size, physical, *_ in walker.walk(read, (ROOTS + number) * PAGE, "x86-64", "windows"):
            for at in range(0, size, PAGE):
                seen.setdefault(physical + at, set()).add((number, address + at))
    return seen


@given(PLANS)
@settings(max_examples=60)
def test_every_part_once(plans: list[Plan]) -> None:
    """Each page of each process's kernel half is the kernel's or the process's own, and nothing else is anybody's."""
    container = Tables(plans)
    owners = memcarve.Owners(container)
    assert not owners.failures
    seen = slowly(container.data, len(plans))
    answers = owners.of_physical(np.arange(0, COUNT * PAGE, PAGE, dtype=np.uint64), 1 << 20)
    told: dict[int, list[tuple[int, int]]] = {}
    for query, owner, address in zip(
        answers.query.tolist(), answers.owner.tolist(), answers.address.tolist(), strict=True
    ):
        if owner >= 0:
            told.setdefault(query * PAGE, []).append((owner, address))
    kernel = len(plans)
    top = TOP - (512 - SELF) * (1 << 39)
    for physical, mapped in seen.items():
        here = told.get(physical, [])
        for number, address in mapped:
            # what page tables map of the kernel's own is told once, by one process's tables
            if not top + (1 << 38) <= address < top + (1 << 39):
                assert {(number, address), (kernel, address)} & set(here)
    for physical, rows in told.items():
        assert len(set(rows)) == len(rows)
        everybody = {address for _, address in seen.get(physical, set())}
        for owner, address in rows:
            assert address in everybody if owner == kernel else (owner, address) in seen[physical]


def test_shared_parts_are_walked_once() -> None:
    """What two processes share and a third has not is walked once, as the kernel's; bits of use make no difference."""
    plans = [Plan({256: 0}, selfmap=False, used=False), *[Plan({256: 0, 300: 1}, selfmap=False, used=True)] * 2]
    container = Tables(plans)
    owners = memcarve.Owners(container)
    slot = TOP - (512 - 300) * (1 << 39)
    spans = [span for span in container.walked if span[1] >= 1 << 63]
    assert spans == [(0, 1 << 63, TOP), (1, slot, slot + (1 << 39))]
    (answer,) = owners.of_physical([(PAGES + 4) * PAGE])
    assert answer.owner == "kernel"


def test_own_parts_are_the_processes() -> None:
    """What one process alone has in the kernel's half is told as its own; the tables of its user half among them."""
    plans = [Plan({256: 0}, selfmap=True, used=False), Plan({256: 0, 300: 1}, selfmap=True, used=False)]
    owners = memcarve.Owners(Tables(plans))
    told = {
        (answer.owner, answer.process and answer.process.pid)
        for answer in owners.of_physical([(PAGES + 4) * PAGE, (ROOTS + 1) * PAGE])
    }
    assert told == {("process", 5)}


def test_failures() -> None:
    """A part that cannot be walked is a failure of its process; if no half can be, one of the kernel's."""
    plans = [Plan({256: 0}, selfmap=False, used=False), Plan({256: 0, 300: 1}, selfmap=False, used=False)]
    container = Tables(plans)
    container.broken = {1}
    (failure,) = memcarve.Owners(container).failures
    assert (failure[0].index, str(failure[1])) == (1, "is broken")
    container.broken = {0, 1}
    (failure,) = memcarve.Owners(container).failures
    assert (failure[0].what, failure[0].index) == ("kernel", None)


def test_too_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """If halves differ everywhere, as only a hostile image has it, what is not walked is said."""
    monkeypatch.setattr(kernel_halves, "_MOST_PARTS", 2)
    plans = [Plan({}, selfmap=False, used=False), Plan(dict.fromkeys(SLOTS, 1), selfmap=True, used=False)]
    container = Tables(plans)
    owners = memcarve.Owners(container)
    assert len([span for span in container.walked if span[1] >= 1 << 63]) == 3
    assert owners.notes == ["the kernel's halves differ in more than 2 places: what lies at the others is not known"]
