"""Maple trees against trees that a test builds: of every depth and fill, damaged, and leading back into themselves."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from kernel_memory import KernelMemory
from memcarve.images.linux import maple_tree
from memcarve.images.linux.maple_tree import Entry, Walked, forms_of, walk

#: by bytes of a pointer: slots of a node of ranges, of one with gaps (include/linux/maple_tree.h)
_SLOTS = {8: (16, 10), 4: (32, 21)}
_LEAF, _RANGE, _GAPS = 1, 2, 3


def dice(seed: int) -> random.Random:
    """Return what chooses at random, the same each time."""
    return random.Random(seed)  # noqa: S311


class Slot(NamedTuple):
    """What a node says of the indices up to `last`."""

    last: int
    value: int


class Tree:
    """A tree that holds entries, with nodes that are as full as chance has it."""

    def __init__(self, entries: list[Entry], chance: random.Random, word: int, *, full: bool = False) -> None:
        self.kernel = KernelMemory(word, 1 << 21)
        self.kernel.types.lay_out("maple_tree", "ma_lock", "ma_root", "ma_flags")
        self.chance, self.word, self.full = chance, word, full
        self.top = (1 << 8 * word) - 1
        self.nodes: list[int] = []
        self.depth = 1
        slots, before = list[Slot](), -1
        for entry in entries:
            if entry.first > before + 1:
                slots.append(Slot(entry.first - 1, 0))
            slots.append(Slot(entry.last, entry.value))
            before = entry.last
        if before < self.top:
            slots.append(Slot(self.top, 0))
        slots = self._level(slots, _LEAF)
        while len(slots) > 1:
            slots = self._level(slots, self.chance.choice([_RANGE, _GAPS]))
            self.depth += 1
        self.root = slots[0].value | 2
        self.address = self.kernel.make("maple_tree", ma_root=self.root)

    def _level(self, slots: list[Slot], kind: int) -> list[Slot]:
        found = []
        most = _SLOTS[self.word][kind == _GAPS]
        while slots:
            count = min(len(slots), most if self.full else self.chance.randint(2, most))
            if len(slots) - count == 1:  # no node but the root has one slot alone
                count -= 1 if count > 2 else -1
            part, slots = slots[: min(count, most)], slots[min(count, most) :]
            found.append(Slot(part[-1].last, self._node(part, kind)))
        return found

    def _node(self, slots: list[Slot], kind: int) -> int:
        most = _SLOTS[self.word][kind == _GAPS]
        address = self.kernel.take(256, 256)
        self.nodes.append(address)
        pivots = [slot.last for slot in slots]
        if self.chance.random() < 0.5 and len(slots) > 1:
            pivots[-1] = 0  # both say that the last slot ends where the node does
        values = [slot.value for slot in slots]
        if len(slots) < most and kind != _GAPS:
            values += [0] * (most - 1 - len(values)) + [len(slots) - 1 | self.chance.randint(0, 15) << 8]
        words = [0, *(pivots + [0] * most)[: most - 1], *values]
        self.kernel.words(address, *words)
        return address | kind << 3 | 4

    def walked(self, *missing: int) -> Walked:
        """Return what memcarve finds; pages may be missing."""
        kernel = self.kernel.structures(*missing)
        return walk(kernel, forms_of(kernel), self.address)


def entries(chance: random.Random, count: int, word: int) -> list[Entry]:
    """Return ranges with and without gaps between them."""
    bits = 8 * word - 2
    ends = sorted(chance.sample(range(1 << 12, 1 << bits), 2 * count))
    found = []
    for number in range(count):
        first, last = ends[2 * number], ends[2 * number + 1] - 1
        if found and chance.random() < 0.5:
            first = found[-1].last + 1
        found.append(Entry(first, last, KernelMemory(word).base + 0x1000 + 64 * number))
    return found


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("seed", range(16))
def test_trees(seed: int, word: int) -> None:
    """What was put into a tree is what is found, in order."""
    chance = dice(seed)
    given = entries(chance, chance.choice([0, 1, 2, 15, 16, 17, 60, 300, 1500]), word)
    tree = Tree(given, chance, word, full=seed % 4 == 0)
    assert tree.walked() == Walked(given, [], cut=False)


def test_depth() -> None:
    """The trees of these tests have more levels than those of real processes, and fewer."""
    depths = [Tree(entries(dice(seed), count, 8), dice(seed), 8).depth for seed in range(5) for count in (1, 40, 1500)]
    assert {1, 2, 3, 4} <= {*depths}


@pytest.mark.parametrize("seed", range(10))
def test_node_that_is_missing(seed: int) -> None:
    """Of a node that cannot be read, only what it holds is lost, and it is said."""
    chance = dice(seed)
    given = entries(chance, 600, 8)
    tree = Tree(given, chance, 8)
    found = tree.walked(tree.nodes[0] & -4096)
    assert set(found.entries) < set(given)
    assert found.entries
    assert found.entries == sorted(found.entries)
    assert found.damage


@pytest.mark.parametrize("seed", range(8))
def test_tree_that_leads_back(seed: int) -> None:
    """A slot that leads to another node of the tree makes no entry twice, and ends."""
    chance = dice(seed)
    given = entries(chance, 500, 8)
    tree = Tree(given, chance, 8)
    inner = tree.nodes[-1]
    other = tree.root if seed % 2 else tree.nodes[0] | _LEAF << 3 | 4
    form = 0x50 if tree.root >> 3 & 15 == _GAPS else 0x80
    tree.kernel.words(inner + form + 8, other)
    found = tree.walked()
    assert len(found.entries) <= len(given)
    assert len({entry.value for entry in found.entries}) == len(found.entries)
    assert {entry.value for entry in found.entries} < {entry.value for entry in given}
    assert any("met again" in word or "out of order" in word for word in found.damage)


@pytest.mark.parametrize("seed", range(8))
def test_noise(seed: int) -> None:
    """Whatever is written over a node, what is found is within the bounds of the tree and the walk ends."""
    chance = dice(seed)
    tree = Tree(entries(chance, 400, 8), chance, 8)
    for node in chance.sample(tree.nodes, 3):
        for at in chance.sample(range(8, 256, 8), 4):
            value = chance.choice([0, 2, 0x402, 1 << 63, (1 << 64) - 1, tree.root, chance.randrange(1 << 64)])
            tree.kernel.words(node + at, value)
    found = tree.walked()
    assert len(found.entries) < 16 * len(tree.nodes)
    assert all(entry.first <= entry.last and entry.value >= tree.kernel.base for entry in found.entries)


def test_reserved_entry() -> None:
    """What says that a process was not copied whole is no region."""
    given = [Entry(4096, 8191, KernelMemory().base + 64), Entry(8192, 12287, 0x402)]
    found = Tree(given, dice(0), 8).walked()
    assert found.entries == given[:1]
    assert found.damage == ["1 node leading nowhere"]


@pytest.mark.parametrize("root", [1, 2, 0x1002, 0xFFFF_8880_0000_0001])
def test_root_that_is_none(root: int) -> None:
    """A root that is no node, or lies nowhere, is damage."""
    tree = Tree([], dice(0), 8)
    tree.kernel.put(tree.address, "maple_tree", "ma_root", root)
    found = tree.walked()
    assert (found.entries, found.cut) == ([], False)
    assert found.damage


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of more nodes than are read is cut, and it is said."""
    given = entries(dice(0), 900, 8)
    tree = Tree(given, dice(0), 8)
    monkeypatch.setattr(maple_tree, "_MOST_NODES", 20)
    found = tree.walked()
    assert found.cut
    assert found.entries == given[: len(found.entries)]
