"""Where a Windows x64 kernel keeps what it knows of a process's memory and threads: offsets in its structures.

They come from the table of known kernels (``windows_x64_layouts.json``), whose entries were read from Microsoft's
symbols; some of them do not describe a VAD. ``learning`` settles what is believed of the table. The table leaves out
what never changes: RTL_BALANCED_NODE (ntdef.h), CLIENT_ID (ntddk.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Offsets = Mapping[str, int | str]

_SHORT = "_MMVAD_SHORT"
_BELOW = 16  # _MM_AVL_TABLE.BalancedRoot.RightChild


class Bits(NamedTuple):
    """A bit field: the little-endian number of `size` bytes at `at`, from bit `first` on, masked."""

    at: int
    size: int
    first: int
    mask: int

    def of(self, data: bytes) -> int:
        """Return the field's value in a structure's bytes."""
        return int.from_bytes(data[self.at : self.at + self.size], "little") >> self.first & self.mask


class Way(NamedTuple):
    """The way from a subsection to the name of its file: offsets of the members to follow."""

    control_area: int
    file: int
    file_name: int


class Tree(NamedTuple):
    """The tree of VADs: `root` in an EPROCESS points to the topmost node; offsets in a node, in bytes.

    `anchor` is where in the EPROCESS the topmost node's parent lies, None if it has none. Page numbers have 8 bytes;
    if there are `start_high` and `end_high`, they have 4 bytes and one more byte there. `size` is that of the shortest
    node. The rest leads from a long node to the name of the file. Flags, and parts of the way to the file, are None if
    they are not known.
    """

    root: int
    anchor: int | None
    left: int
    right: int
    parent: int
    start: int
    start_high: int | None
    end: int
    end_high: int | None
    kind: Bits | None
    protection: Bits | None
    private: Bits | None
    size: int
    subsection: int | None
    control_area: int
    file: int
    file_name: int

    def rooted(self, at: int) -> Tree:
        """Return the same tree with its root at the offset `at` in the EPROCESS."""
        moved = at - self.root
        return self._replace(root=at, anchor=None if self.anchor is None else self.anchor + moved)


class ThreadList(NamedTuple):
    """The list of threads: its `head` in an EPROCESS, its `links` in an ETHREAD, and offsets of members there.

    The offsets of start address and TEB are None if they are not known.
    """

    head: int
    links: int
    client: int
    begin: int | None
    teb: int | None


def trees(entries: Iterable[Offsets]) -> list[Tree]:
    """Return the trees that entries of the table describe in full, each once."""
    return [*dict.fromkeys(_tree(offsets) for offsets in entries if f"{_SHORT}.size" in offsets)]


def roots(entries: Iterable[Offsets]) -> list[int]:
    """Return the offsets in an EPROCESS of the pointer to the topmost node, from entries of the table, each once."""
    # up to Windows 8 the tree hangs below a node in the EPROCESS
    return [*dict.fromkeys(int(offsets["_EPROCESS.VadRoot"]) + at for offsets in entries for at in (0, _BELOW))]


def ways(entries: Iterable[Offsets]) -> list[Way]:
    """Return the ways from a subsection to the name of its file in entries of the table, each once."""
    names = ("_SUBSECTION.ControlArea", "_CONTROL_AREA.FilePointer", "_FILE_OBJECT.FileName")
    return [*dict.fromkeys(Way(*(int(offsets[name]) for name in names)) for offsets in entries)]


def thread_lists(entries: Iterable[Offsets]) -> list[ThreadList]:
    """Return the lists of threads in entries of the table, each once."""
    names = (
        "_EPROCESS.ThreadListHead", "_ETHREAD.ThreadListEntry", "_ETHREAD.Cid", "_ETHREAD.Win32StartAddress",
        "_KTHREAD.Teb",  # Tcb is the first member of an ETHREAD
    )  # fmt: skip
    return [*dict.fromkeys(ThreadList(*(int(offsets[name]) for name in names)) for offsets in entries)]


def _tree(offsets: Offsets) -> Tree:
    def at(name: str) -> int:
        return int(offsets[name])

    def bits(name: str) -> Bits:
        byte, first, width = map(int, str(offsets[f"_MMVAD_FLAGS.{name}"]).split(":"))
        return Bits(at("_MMVAD_SHORT.u") + byte, at("_MMVAD_FLAGS.size"), first, (1 << width) - 1)

    root, short = at("_EPROCESS.VadRoot"), _SHORT
    # up to Windows 7 an _MM_AVL_TABLE, whose first member is a node: the tree hangs below its right child
    table = f"{short}.RightChild" in offsets
    node = 0 if table else at(f"{short}.VadNode")
    return Tree(
        root=root + at(f"{short}.RightChild") if table else root,
        anchor=root if table else None,
        left=at(f"{short}.LeftChild") if table else node,
        right=at(f"{short}.RightChild") if table else node + 8,
        parent=at(f"{short}.u1") if table else node + 16,
        start=at(f"{short}.StartingVpn"),
        start_high=None if table else at(f"{short}.StartingVpnHigh"),
        end=at(f"{short}.EndingVpn"),
        end_high=None if table else at(f"{short}.EndingVpnHigh"),
        kind=bits("VadType"),
        protection=bits("Protection"),
        private=bits("PrivateMemory"),
        size=at(f"{short}.size"),
        subsection=at("_MMVAD.Subsection"),
        control_area=at("_SUBSECTION.ControlArea"),
        file=at("_CONTROL_AREA.FilePointer"),
        file_name=at("_FILE_OBJECT.FileName"),
    )
