"""Maple trees: in what order Linux keeps a process's regions from 6.1 on.

What nodes look like: include/linux/maple_tree.h of Linux; how they are read: lib/maple_tree.c (mte_node_type,
mas_safe_pivot, mtree_range_walk). A node of 256 bytes maps ranges of indices to its slots: pivots are the last index of
each slot but the last. A pivot of 0 that is not the first ends a node that is not full: that slot's last index is the
node's own. The last slot of such a node is no slot, but says how full the node is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.structure_reader import counted

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

_SIZE = 256
_NODE = -_SIZE  # the bits of a node's address in what points to it
_ENTRY, _INTERNAL, _RESERVED = 3, 2, 4096  # xa_is_node, xa_is_internal: include/linux/xarray.h
_TYPE_SHIFT, _TYPE = 3, 15
#: the types of nodes and their numbers since 6.1
_TYPES = {"maple_leaf_64": 1, "maple_range_64": 2, "maple_arange_64": 3}
#: by bytes of a pointer: slots of a node of ranges, and of one that also keeps gaps
_SLOTS = {8: (16, 10), 4: (32, 21)}
_MOST_NODES = 1 << 17
_MOST_ENTRIES = 1 << 19
_MOST_WAITING = 1 << 12  # a node has 32 slots at most; trees of a million regions have less than ten levels


class Entry(NamedTuple):
    """What a tree holds for the indices from `first` to `last`: the `value` is a kernel address."""

    first: int
    last: int
    value: int


class Walked(NamedTuple):
    """What a tree holds, in order of indices; `damage` are words on what of it is not whole, `cut`: it holds more."""

    entries: list[Entry]
    damage: list[str]
    cut: bool


class Form(NamedTuple):
    """Where in a node, in words, pivots and slots begin; how many slots there are; whether these are entries."""

    pivots: int
    slots: int
    number: int
    leaf: bool


def walk(kernel: Structures, forms: dict[int, Form], tree: int) -> Walked:
    """Return what the ``maple_tree`` at a kernel address holds; `forms` are those that `forms_of` returns."""
    root = kernel.number(tree, "maple_tree", "ma_root")
    if root is None:
        return Walked([], ["its root cannot be read"], cut=False)
    if not root:
        return Walked([], [], cut=False)
    if root & _ENTRY != _INTERNAL or root <= _RESERVED:
        return Walked([], ["its root is not a node"], cut=False)
    return _Walk(kernel, forms).walk(root)


class _Walk:
    def __init__(self, kernel: Structures, forms: dict[int, Form]) -> None:
        self.kernel = kernel
        self.forms = forms
        self.words = struct.Struct(f"<{_SIZE // kernel.word}{'Q' if kernel.word == 8 else 'I'}")  # noqa: PLR2004
        self.seen: set[int] = set()
        self.damage = dict.fromkeys(
            (
                "cannot be read",
                "met again",
                "of a type that is not known",
                "out of order",
                "leading nowhere",
                "deeper than any tree",
            ),
            0,
        )

    def walk(self, root: int) -> Walked:
        entries: list[Entry] = []
        waiting = [Entry(0, (1 << 8 * self.kernel.word) - 1, root)]
        while waiting and len(self.seen) < _MOST_NODES and len(entries) < _MOST_ENTRIES:
            node = waiting.pop()
            form, words = self._node(node.value)
            if form is None or words is None:
                continue
            held = self._slots(form, words, node)
            if form.leaf:
                entries += [entry for entry in held if self._leads(entry.value)]
            elif len(waiting) < _MOST_WAITING:
                waiting += reversed(held)
            else:
                self.damage["deeper than any tree"] += 1
        damage = [f"{counted(number, 'node')} {what}" for what, number in self.damage.items() if number]
        return Walked(entries, damage, bool(waiting))

    def _node(self, pointer: int) -> tuple[Form | None, tuple[int, ...] | None]:
        """Return how a node is laid out, and its words; None if it cannot be followed."""
        address = pointer & _NODE
        form = self.forms.get(pointer >> _TYPE_SHIFT & _TYPE)
        if form is None or address in self.seen:
            self.damage["of a type that is not known" if form is None else "met again"] += 1
            return None, None
        self.seen.add(address)
        data = self.kernel.reader.read(address, _SIZE) if self.kernel.is_kernel(address) else None
        self.damage["cannot be read"] += data is None
        return form, None if data is None else self.words.unpack(data)

    def _slots(self, form: Form, words: tuple[int, ...], node: Entry) -> list[Entry]:
        """Return what is in a node's slots; nothing is behind the first that is out of order."""
        found = []
        first, slots = node.first, form.slots
        for place in range(form.number):
            last = words[form.pivots + place] if place < form.number - 1 else node.last
            if (not last and place) or last > node.last:
                last = node.last
            if last < first:
                self.damage["out of order"] += 1
                break
            value = words[slots + place]
            if value:
                found.append(Entry(first, last, value))
            if last == node.last:
                break
            first = last + 1
        return found

    def _leads(self, value: int) -> bool:
        """Return whether an entry is an address; one that is reserved says that the tree was not copied whole."""
        leads = value % self.kernel.word == 0 and self.kernel.is_kernel(value)
        self.damage["leading nowhere"] += not leads
        return leads


def forms_of(kernel: Structures) -> dict[int, Form]:
    """Return how nodes are laid out, by the number of their type."""
    word = kernel.word
    numbers = {name: kernel.types.constant("maple_type", name) for name in _TYPES}
    forms = {}
    for name, usual in _TYPES.items():
        gaps = name == "maple_arange_64"
        structure = "maple_arange_64" if gaps else "maple_range_64"
        pivots, slots = kernel.offset(structure, "pivot"), kernel.offset(structure, "slot")
        if pivots is None or slots is None:
            count = _SLOTS[word][gaps]
            pivots, slots = word, word * count
        count = (slots - pivots) // word + 1
        number = numbers[name]
        if 0 < pivots < slots <= _SIZE - count * word and pivots % word == slots % word == 0:
            forms[usual if number is None else number] = Form(
                pivots // word, slots // word, count, leaf=name == "maple_leaf_64"
            )
    return forms
