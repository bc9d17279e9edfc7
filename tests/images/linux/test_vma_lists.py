"""Regions from lists and trees that a test builds: whole, torn, and leading back into themselves."""

from __future__ import annotations

import random

import pytest

from kernel_memory import KernelMemory
from memcarve.images.linux import vmas
from memcarve.images.linux.vmas import Vmas

_PAGE = 4096


class Process(KernelMemory):
    """A process of Linux before 6.1: a list of regions, and a tree of the same."""

    def __init__(self, seed: int, count: int, word: int = 8) -> None:
        super().__init__(word)
        self.chance = random.Random(seed)  # noqa: S311
        self.types.lay_out("mm_struct", "mmap", "mm_rb.rb_node", "map_count", sizes={"map_count": 4})
        members = ("vm_start", "vm_end", "vm_next", "vm_rb", "rb_right", "rb_left", "vm_mm", "vm_flags", "vm_pgoff")
        self.types.lay_out("vm_area_struct", *members, "vm_file", "vm_ops", "vm_private_data")
        self.types.lay_out("rb_node", "__rb_parent_color", "rb_right", "rb_left")
        self.mm = self.make("mm_struct", map_count=count)
        places = sorted(self.chance.sample(range(1, 1 << 18), count))
        self.bounds = [(place * _PAGE, (place + 1) * _PAGE) for place in places]
        self.nodes = [
            self.make("vm_area_struct", vm_start=start, vm_end=end, vm_mm=self.mm, vm_flags=5)
            for start, end in self.bounds
        ]
        for node, behind in zip(self.nodes, [*self.nodes[1:], 0], strict=False):
            self.put(node, "vm_area_struct", "vm_next", behind)
        self.put(self.mm, "mm_struct", "mmap", self.nodes[0] if self.nodes else 0)
        self.put(self.mm, "mm_struct", "mm_rb.rb_node", self._tree(0, count))

    def _tree(self, low: int, high: int) -> int:
        """Return the address of the node on top of some regions."""
        if low == high:
            return 0
        middle = self.chance.randrange(low, high)
        node = self.nodes[middle]
        self.put(node, "vm_area_struct", "rb_left", self._tree(low, middle))
        self.put(node, "vm_area_struct", "rb_right", self._tree(middle + 1, high))
        return node + self.types.members["vm_area_struct", "vm_rb"].offset

    def found(self, *missing: int) -> tuple[list[tuple[int, int]], list[str]]:
        """Return where regions are found, and the notes."""
        read, notes = Vmas(self.structures(*missing), _PAGE).of(self.mm)
        return [(vma.start, vma.end) for vma in read or ()], notes


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 50, 400])
def test_whole(count: int, word: int) -> None:
    """List and tree agree."""
    it = Process(count, count, word)
    assert it.found() == (it.bounds, [])


@pytest.mark.parametrize("seed", range(8))
def test_list_that_is_torn(seed: int) -> None:
    """What the list does not lead to any more, the tree does; and the other way round."""
    it = Process(seed, 40)
    at = it.chance.randrange(39)
    it.put(it.nodes[at], "vm_area_struct", "vm_next", it.chance.choice([0, 1, it.nodes[0], it.nodes[at]]))
    bounds, notes = it.found()
    assert bounds == it.bounds
    assert len(notes) == 1
    it = Process(seed, 40)
    it.put(it.mm, "mm_struct", "mm_rb.rb_node", it.chance.choice([0, 1, 1 << 62]))
    bounds, notes = it.found()
    assert bounds == it.bounds
    assert len(notes) == 1


def test_tree_that_leads_back() -> None:
    """A tree with a loop is walked once."""
    it = Process(1, 40)
    inside = it.types.members["vm_area_struct", "vm_rb"].offset
    for node in it.nodes[::3]:
        it.put(node, "vm_area_struct", "rb_left", it.nodes[5] + inside)
    assert it.found()[0] == it.bounds


def test_page_that_is_missing() -> None:
    """Regions whose description is not there are missing, and it is said how many the kernel counted."""
    it = Process(1, 200)
    lost = it.nodes[100] & -_PAGE
    bounds, notes = it.found(lost)
    assert set(bounds) < set(it.bounds)
    assert bounds == sorted(bounds)
    assert any("the kernel counted 200 regions" in note for note in notes)


@pytest.mark.parametrize(
    ("member", "value"), [("vm_mm", 0), ("vm_start", 1 << 40), ("vm_start", 1), ("vm_end", 0), ("vm_end", 4097)]
)
def test_region_that_is_none(member: str, value: int) -> None:
    """A region of another address space, or without any sense, is left out; the others are there."""
    it = Process(1, 20)
    it.put(it.nodes[7], "vm_area_struct", member, value)
    bounds, notes = it.found()
    assert bounds == it.bounds[:7] + it.bounds[8:]
    assert "1 region cannot be read" in notes[0]


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More regions than are read are cut, and it is said."""
    monkeypatch.setattr(vmas, "_MOST", 30)
    bounds, notes = Process(1, 100).found()
    assert 30 <= len(bounds) < 100
    assert any("more regions than are read" in note for note in notes)


def test_nothing_is_known() -> None:
    """Without types that tell where regions are, none are given, and that is said."""
    it = Process(1, 3)
    del it.types.members["mm_struct", "mmap"]
    read, notes = Vmas(it.structures(), _PAGE).of(it.mm)
    assert read is None
    assert notes
