"""Trees that go on for ever, each node somewhere else: they end, and cost little memory."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, cast

from memcarve.images.linux import maple_tree, pid_tables
from memcarve.images.linux.maple_tree import Form

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from memcarve.images.linux.kernel_structures import Structures

_LOWEST, _NODE = 1 << 63, 1 << 12


class Endless:
    """A kernel whose every node leads to nodes that lie behind it, each of which is another."""

    word = 8

    def __init__(self, content: struct.Struct, before: Callable[[int], tuple[int, ...]], slots: int, mark: int) -> None:
        """`before` returns the words before the slots of the n-th node; `mark` is added to a node's address."""
        self.content, self.before, self.slots, self.mark = content, before, slots, mark
        self.reader, self.next, self.reads = self, _LOWEST, 0

    def is_kernel(self, address: int) -> bool:
        """All of the upper half is the kernel's."""
        return address >= _LOWEST

    def _new(self) -> int:
        self.next += _NODE
        return self.next + self.mark

    def number(self, *_: object) -> int:
        """Return the root of a tree."""
        return self._new()

    def offset(self, *_: object) -> int:
        """Every member is the first."""
        return 0

    def place(self, *_: object) -> tuple[int, int]:
        """All of a node are slots."""
        return 0, 8 * self.slots

    def read(self, *_: object) -> bytes:
        """Return another node."""
        self.reads += 1
        return self.content.pack(*self.before(self.reads), *(self._new() for _ in range(self.slots)))


def test_tree_of_regions() -> None:
    """The first slot of each node has nearly all of its indices: a way down without an end."""
    top = (1 << 64) - 1

    def words(number: int) -> tuple[int, ...]:
        return (0, *(top - 16 * number + place for place in range(15)))

    kernel = Endless(struct.Struct("<32Q"), words, 16, 2 << 3 | 2)
    tracemalloc.start()
    found = maple_tree.walk(cast("Structures", kernel), {2: Form(1, 16, 16, leaf=False)}, _LOWEST)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.entries == []
    assert any("deeper than any tree" in words for words in found.damage)
    assert most < 100 << 20


def test_tree_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of nodes, in as many namespaces as one likes, are looked at so many times in all."""
    monkeypatch.setattr(pid_tables, "_MOST_ENTRIES", 20_000)
    kernel, seen = Endless(struct.Struct("<64Q"), lambda _: (), 64, 2), set[int]()
    for namespace in range(10):
        assert not [*pid_tables.numbered_tasks(cast("Structures", kernel), _LOWEST + namespace, seen)]
    assert kernel.reads <= 20_000
