"""Regions as the kernel has them: a tree of VADs, and behind those of files the structures that lead to the name."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from winimage.userland import PROTECTIONS, Name, Vad, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from winimage.layouts import Layout
    from winimage.pool import Pool

_HEADER = 16
#: what a FILE_OBJECT begins with
_FILE_TYPE = 5
#: how many references an EX_FAST_REF holds back, in its low four bits
_REFERENCES = 15


class Tree:
    """The tree of one process, placed and written; its links can be changed afterwards.

    `nodes` are the addresses of the VADs in their order, `root` is where the process has its VadRoot.
    """

    def __init__(self, pool: Pool, layout: Layout, root: int, vads: Sequence[Vad], lean: str = "") -> None:
        self.pool, self.layout, self.root, self.vads = pool, layout, root, vads
        #: whether the root hangs below a node of its own
        self.old = "_MMVAD_SHORT.LeftChild" in layout.offsets
        #: offsets in a node: left and right child, parent
        if self.old:
            members = [layout[f"_MMVAD_SHORT.{name}"] for name in ("LeftChild", "RightChild", "u1")]
        else:
            members = [layout["_MMVAD_SHORT.VadNode"] + at for at in (0, 8, 16)]
        self.left, self.right, self.parent = members
        trap = self._subsection("\\Windows\\not-yours.dll", None)
        # behind a short VAD lies something else: that it is read shows where a file has no business
        behind = layout["_MMVAD.Subsection"] + 8
        self.nodes = []
        #: the FILE_OBJECT of each node that has one
        self.files: dict[int, int] = {}
        for number, vad in enumerate(vads):
            short_vad = vad.tag in {"VadS", "VadF"}
            size = behind if short_vad else max(layout["_MMVAD.size"], behind)
            # now and then a page ends within a VAD
            across = None if number % 10 != 9 else 24
            node = pool.place(size, vad.tag.encode(), across, _HEADER)
            self.nodes.append(node)
            subsection = trap
            if not short_vad and not vad.private:
                named = vad.file is not None or vad.name is not None
                subsection = self._subsection(vad.file or "" if named else None, vad.name, image=vad.kind == "image")
                self.files[node] = self._file
            pool.put(node, f"{layout['_MMVAD_SHORT.size']}s", fields(layout, vad))
            pool.put(node + layout["_MMVAD.Subsection"], "Q", subsection)
        self._link(lean)

    def point(self, node: int, *, left: int | None = None, right: int | None = None) -> None:
        """Have a node's child be at an address."""
        for offset, value in ((self.left, left), (self.right, right)):
            if value is not None:
                self.pool.put(node + offset, "Q", value)

    def point_root(self, value: int) -> None:
        """Have the root of the tree be at an address."""
        self.pool.put(self.root + (16 if self.old else 0), "Q", value)

    def _link(self, lean: str) -> None:
        if self.old:
            # the table's own node: its right child is the root; it is its own parent, and counts the rest
            self.pool.put(self.root, "QQQQQQ", self.root, 0, 0, 0, 0, len(self.nodes) << 8 | 5)
        above = self.root if self.old else 0
        if lean:
            order = self.nodes if lean == "right" else self.nodes[::-1]
            for number, node in enumerate(order):
                following = order[number + 1] if number + 1 < len(order) else 0
                self.point(node, **{"left": 0, "right": 0, lean: following})
                self.pool.put(node + self.parent, "Q", order[number - 1] if number else above)
            self.point_root(order[0])
        else:
            self.point_root(self._balanced(0, len(self.nodes), above))
        if not self.old and self.nodes:
            # where a search begins next time, and how many there are
            self.pool.put(self.root + 8, "QQ", self.nodes[-1], len(self.nodes))

    def _balanced(self, first: int, last: int, parent: int) -> int:
        """Link the nodes from `first` up to `last` below a parent; return the topmost."""
        if first == last:
            return 0
        middle = (first + last) // 2
        node = self.nodes[middle]
        self.point(node, left=self._balanced(first, middle, node), right=self._balanced(middle + 1, last, node))
        # the low bits of the parent's address say how the node is balanced
        self.pool.put(node + self.parent, "Q", parent | middle % 3)
        return node

    def _subsection(self, file: str | None, name: Name | None, *, image: bool = False) -> int:
        """Place the structures of a section; `file` None: of the page file. Return the subsection."""
        layout, pool = self.layout, self.pool
        subsection = pool.place(layout["_SUBSECTION.size"], b"MmSi", None, _HEADER)
        control = pool.place(layout["_CONTROL_AREA.size"], b"MmCi" if image else b"MmCa", None, _HEADER)
        pool.put(subsection + layout["_SUBSECTION.ControlArea"], "Q", control)
        pointer = 0
        if file is not None:
            name = name or Name(file)
            text = encoded(name.text)
            pointer = pool.place(layout["_FILE_OBJECT.size"], b"File")
            # text often reaches into another page
            buffer = pool.place(len(text) + 16, b"IoNm", len(text) // 2 if len(text) > 40 else None, _HEADER)
            pool.put(buffer, f"{len(text)}s", text)
            pool.put(pointer, "HH", _FILE_TYPE, layout["_FILE_OBJECT.size"])
            pool.put(pointer + layout["_FILE_OBJECT.FileName"], "HH4xQ", *name.packed(buffer))
            pointer |= _REFERENCES
        pool.put(control + layout["_CONTROL_AREA.FilePointer"], "Q", pointer)
        self._file = pointer & ~15
        return subsection


def fields(layout: Layout, vad: Vad) -> bytes:
    """Return a VAD's own bytes, without its links; all bits of the flags that nobody knows are noise."""
    data = bytearray(layout["_MMVAD_SHORT.size"])
    first, last = vad.vpns or (vad.start >> 12, (vad.end >> 12) - 1)
    offsets = [layout[f"_MMVAD_SHORT.{name}"] for name in ("StartingVpn", "EndingVpn")]
    if "_MMVAD_SHORT.StartingVpnHigh" in layout.offsets:
        highs = [layout[f"_MMVAD_SHORT.{name}"] for name in ("StartingVpnHigh", "EndingVpnHigh")]
        for value, low, high in zip((first, last), offsets, highs, strict=True):
            struct.pack_into("<I", data, low, value & 0xFFFFFFFF)
            struct.pack_into("<B", data, high, value >> 32 & 0xFF)
        # the bytes behind are the high parts of other numbers
        struct.pack_into("<BB", data, max(highs) + 1, 0x5A, 0xA5)
    else:
        width = offsets[1] - offsets[0]
        for value, at in zip((first, last), offsets, strict=True):
            data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    size = layout["_MMVAD_FLAGS.size"]
    flags = (vad.start >> 12) * 0x9E3779B97F4A7C15 >> 7 & (1 << 8 * size) - 1
    protection = PROTECTIONS.index(vad.protection) if vad.value is None else vad.value
    for name, value in (("VadType", vad.type), ("Protection", protection), ("PrivateMemory", int(vad.private))):
        at, bit, width = layout.bits[f"_MMVAD_FLAGS.{name}"]
        mask = (1 << width) - 1 << 8 * at + bit
        flags = flags & ~mask | value << 8 * at + bit
    at = layout["_MMVAD_SHORT.u"]
    data[at : at + size] = flags.to_bytes(size, "little")
    return bytes(data)
