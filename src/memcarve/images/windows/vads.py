"""The VAD tree of a process of a Windows x64 machine: the regions that its kernel knows.

Sources: Microsoft's symbols of _MMVAD_SHORT, _MMVAD and _MI_VAD_TYPE; "Memory Protection Constants" (winnt.h). No node
is looked at twice, whatever points to it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.structure_reader import counted
from memcarve.images.windows.eprocess_scan import POINTERS, USER_END
from memcarve.intervals import PAGE
from memcarve.metadata import Region, Regions
from memcarve.vocabulary import Kind

if TYPE_CHECKING:
    from memcarve.images.structure_reader import Reader
    from memcarve.images.windows.offsets import Tree

SOURCE = "VAD tree"
_KERNEL = int(POINTERS)
_MOST_NODES = 1 << 18
_PAGES = USER_END // PAGE
_PARENTS = ~7  # the lowest bits of a parent's address say how the node is balanced

IMAGE_MAP = 2  # _MI_VAD_TYPE.VadImageMap
IMAGE_PROTECTION = 7  # every image is mapped as PAGE_EXECUTE_WRITECOPY
SHORT, LONG = ("VadS", "VadF"), ("Vad ", "Vadl", "Vadm")
FILE_TYPE = 5  # IO_TYPE_FILE (wdm.h): a FILE_OBJECT begins with it
_NO_ACCESS = "PAGE_NOACCESS"
_BASES = (
    _NO_ACCESS,
    "PAGE_READONLY",
    "PAGE_EXECUTE",
    "PAGE_EXECUTE_READ",
    "PAGE_READWRITE",
    "PAGE_WRITECOPY",
    "PAGE_EXECUTE_READWRITE",
    "PAGE_EXECUTE_WRITECOPY",
)
#: protections by the number of five bits that the kernel keeps, as in its table MmProtectToValue
_PROTECTIONS = tuple(
    base if base == _NO_ACCESS else base + more
    for more in ("", "|PAGE_NOCACHE", "|PAGE_GUARD", "|PAGE_WRITECOMBINE")
    for base in _BASES
)

# what may be wrong with a tree: a thing, and what it does
_UNREADABLE = "node", "cannot be read"
_ASTRAY = "pointer", "cannot be right"
_AGAIN = "pointer", "led back to a node already seen"
_IMPOSSIBLE = "node", "claimed impossible addresses"
_DISORDER = "node", "stood out of order"
_PARENT = "node", "named another parent"


class Node(NamedTuple):
    """A VAD at `address`: its range from `start` to `end` (half-open), what its flags and its pool tag say.

    Flags that are not known are None.
    """

    address: int
    start: int
    end: int
    kind: int | None
    protection: int | None
    private: bool | None
    tag: str | None


class Walked(NamedTuple):
    """The nodes of a tree, and in words what is wrong with it; `cut`: there were more than was asked for.

    `wrong` counts the faults.
    """

    nodes: list[Node]
    damage: list[str]
    cut: bool
    wrong: int


def is_kernel(pointer: int, alignment: int = 8) -> bool:
    """Return True if a number can be an address of the kernel's memory."""
    return pointer >= _KERNEL and pointer % alignment == 0


def root_of(reader: Reader, tree: Tree, process: int) -> int | None:
    """Return the address of the topmost node of a process (address of its EPROCESS): 0 if it has none."""
    return reader.number(process + tree.root)


def walk(reader: Reader, tree: Tree, process: int, most: int = _MOST_NODES) -> Walked:
    """Return up to `most` nodes of a process's tree."""
    top = root_of(reader, tree, process)
    if top is None:
        return Walked([], ["its root cannot be read"], cut=False, wrong=1)
    if not top:
        return Walked([], [], cut=False, wrong=0)
    damage: Counter[tuple[str, str]] = Counter()
    nodes: list[Node] = []
    seen: set[int] = set()
    # a node, the one that points to it, and the page numbers between which it must lie
    waiting = [(top, 0 if tree.anchor is None else process + tree.anchor, 0, _PAGES - 1)]
    while waiting and len(seen) < most:
        address, parent, low, high = waiting.pop()
        possible = is_kernel(address, 16)  # the pool allocates at multiples of 16
        data = reader.read(address, tree.size) if possible and address not in seen else None
        if data is None:
            damage[_ASTRAY if not possible else _AGAIN if address in seen else _UNREADABLE] += 1
            seen.add(address)
            continue
        seen.add(address)
        first, last = _pages(data, tree)
        if first <= last < _PAGES:
            kind, protection, private = (
                None if bits is None else bits.of(data) for bits in (tree.kind, tree.protection, tree.private)
            )
            alone = None if private is None else private != 0
            nodes.append(Node(address, first * PAGE, (last + 1) * PAGE, kind, protection, alone, _tag(reader, address)))
            damage[_DISORDER] += not low <= first <= last <= high
        else:
            damage[_IMPOSSIBLE] += 1
            first, last = high + 1, low - 1  # says nothing of its children
        damage[_PARENT] += _number(data, tree.parent) & _PARENTS != parent
        children = (
            (_number(data, tree.right), address, max(low, last + 1), high),
            (_number(data, tree.left), address, low, min(high, first - 1)),
        )
        waiting += [child for child in children if child[0]]
    words = [f"{counted(number, thing)} {what}" for (thing, what), number in damage.items() if number]
    return Walked(nodes, words, bool(waiting), damage.total())


def regions(reader: Reader, tree: Tree, process: int) -> tuple[Regions, list[str]]:
    """Return the regions that a process's tree holds, and notes for the user."""
    nodes, damage, cut, _ = walk(reader, tree, process)
    notes = []
    if damage:
        notes.append(f"the VAD tree is damaged: {', '.join(damage)}; regions may be missing")
    if cut:
        notes.append(f"the VAD tree has more than {_MOST_NODES} nodes; the rest was left out, and regions are missing")
    rows, lost = [], 0
    for node in nodes:
        # if it is not known whether a region is private, its tag must say that it is long
        long = node.tag in LONG if node.private is None else not node.private and node.tag not in SHORT
        known, file = file_of(reader, tree, node.address) if long else (True, None)
        lost += not known
        protection = None if node.protection is None else _PROTECTIONS[node.protection]
        size = node.end - node.start
        rows.append(Region(node.start, size, protection, _kind(node), file, node.tag, node.private))
    if lost:
        notes.append(f"the files of {counted(lost, 'region')} have no name that can be read")
    found = Regions(SOURCE, rows)
    if found.overlapping:
        notes.append(f"{counted(found.overlapping, 'region')} of the VAD tree overlap others")
    return found, notes


def _kind(node: Node) -> str | None:
    """Return the kind of a region; None if the flags that are known do not determine it."""
    if node.kind == IMAGE_MAP:
        return Kind.IMAGE
    if node.private:
        return Kind.PRIVATE
    return None if node.kind is None or node.private is None else Kind.MAPPED


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _pages(data: bytes, tree: Tree) -> tuple[int, int]:
    """Return the first and the last page number of a node."""
    if tree.start_high is None or tree.end_high is None:
        return _number(data, tree.start), _number(data, tree.end)
    start, end = (int.from_bytes(data[at : at + 4], "little") for at in (tree.start, tree.end))
    return start | data[tree.start_high] << 32, end | data[tree.end_high] << 32


def _tag(reader: Reader, address: int) -> str | None:
    """Return the tag in the pool header before a node."""
    data = reader.read(address - 12, 4)
    return data.decode("ascii") if data is not None and all(32 <= byte < 127 for byte in data) else None  # noqa: PLR2004


def file_of(reader: Reader, tree: Tree, address: int) -> tuple[bool, str | None]:
    """Return whether it can be read which file a long node maps, and that file's path; None if it maps none."""
    if tree.subsection is None:
        return True, None
    at = address + tree.subsection
    for step in (tree.control_area, tree.file):
        pointer = reader.number(at)
        if not pointer:
            return pointer is not None, None  # AWE, large pages and the like
        if not is_kernel(pointer):
            return False, None
        at = pointer + step
    reference = reader.number(at)  # an EX_FAST_REF: the lowest four bits count
    if reference is None or not reference & ~15:
        return reference is not None, None  # backed by the page file
    file = reference & ~15
    if not is_kernel(file) or reader.number(file, 2) != FILE_TYPE:
        return False, None
    name = reader.text(reader.read(file + tree.file_name, 16))
    return name is not None, name
