"""The tree of VADs of a kernel that no table knows in full: where its root is, and the layout of a node.

A tree is proven if its nodes point back to their parents, are in order, lie in the user half, and cover the process's
PEB, its modules and the pages that it has in memory. Flags are proven if nodes that the pool tags call short are
private and not images; if a module of the loader lies in an image, which is not private and is mapped as
PAGE_EXECUTE_WRITECOPY; and if no protection forbids what the page tables allow. The way to the files is proven if the
nodes of images lead to a FILE_OBJECT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.windows import vads
from memcarve.images.windows.eprocess_scan import POINTERS
from memcarve.images.windows.learning.sample import undisputed, words_of
from memcarve.images.windows.offsets import Bits, Tree
from memcarve.intervals import Intervals
from memcarve.permissions import EXECUTE, TRANSITION, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.windows.learning.sample import Probe
    from memcarve.images.windows.offsets import Way
    from memcarve.images.windows.vads import Node


_CHECKED = 8  # processes with which a table is checked
_FEW_NODES = 256
_MOST_NODES = 1 << 11  # of each process that is learned from
_MOST_VOTES = 16  # votes of one process for or against a tree: none may outvote the others
_LEAST_NODES = 3  # fewer prove nothing
_TIMES = 4  # so many times more votes must be for a tree than against it
_WIDTH = 80  # bytes of a node in which flags are looked for
_MOST_PART = 0.9  # of what is looked at must agree
_SHORTEST = 56  # bytes of a node: what follows may belong to something else
_SUBSECTION = 72  # its offset in all kernels before 28000
_ENOUGH = 6
_BITS = {"kind": 3, "protection": 5, "private": 1}
_POINTERS = 24  # bytes: a node begins with three pointers
_HELD = 0.95  # of the pages in memory must lie in regions


#: offsets of left child, right child and parent in a node, and of the topmost node's parent from the root: as in
#: RTL_BALANCED_NODE (ntdef.h), and as up to Windows 8; then the offsets of the first and the last page number, in 8 or
#: 4 bytes, and of the higher bits of the first
_LINKS = ((0, 8, 16, None), (8, 16, 0, -16), (8, 16, 0, None))
_NUMBERS = ((24, 28, 32), (24, 32, None), (24, 28, None))
_NOTHING = Tree(0, None, 0, 0, 0, 0, None, 0, None, None, None, None, 0, None, 0, 0, 0)


class Settled(NamedTuple):
    """The tree, None if it is not known, and in words which parts of a node are not known."""

    tree: Tree | None
    unknown: tuple[str, ...]


def settle(
    probes: Sequence[Probe], own: Sequence[Tree], known: Sequence[Tree], roots: Sequence[int], ways: Sequence[Way]
) -> Settled:
    """Return the tree that a kernel's processes have.

    `own` is what the table says of its build, which must hold up in most of what is looked at. `known` are the trees of
    all kernels, `roots` the possible offsets of their roots, and `ways` the ways to the names of files, the most likely
    first: these are believed only if they are proven.
    """
    few = [probe for probe in probes if probe.peb is not None][:_CHECKED] or list(probes[:_CHECKED])
    idle: Tree | None = None
    for tree in own:
        good, bad = _weigh(few, tree)
        if good > bad:
            return _completed(few, tree, tree, known, ways)
        if len(own) == 1 and not good and not bad:
            idle = tree
    shapes = list(_shapes(known))
    for places in (roots, _pointers(probes)):
        found = _best(probes, [shape.rooted(root) for root in places for shape in shapes])
        if found is not None:
            likely = [tree for tree in known if _ranges(tree.rooted(found.root)) == _ranges(found)]
            return _completed([probe for probe in probes if probe.peb is not None], found, None, likely or known, ways)
    # no process has a tree: then the table can do no harm
    return Settled(idle, ())


def _ranges(tree: Tree) -> Tree:
    """Return the part of a tree that gives the ranges: without flags and the way to files."""
    links, high = max(tree.left, tree.right, tree.parent), max(tree.start_high or 0, tree.end_high or 0)
    size = max(links + 8, tree.end, 2 * tree.end - tree.start, high + 1)
    return tree._replace(kind=None, protection=None, private=None, subsection=None, size=size)


def _shapes(known: Iterable[Tree]) -> Iterator[Tree]:
    """Yield possible layouts of nodes: first those of known kernels; then mixed, and slightly shifted ones."""
    plain = list(dict.fromkeys(_ranges(tree) for tree in known))
    shapes = [
        _ranges(
            _NOTHING._replace(
                left=left, right=right, parent=parent, anchor=anchor, start=first, end=last, start_high=high,
                end_high=None if high is None else high + 1,
            )
        )
        for left, right, parent, anchor in _LINKS
        for first, last, high in _NUMBERS
    ]  # fmt: skip
    shapes += [
        _shifted(shape, by, by + numbers)
        for shape in tuple(shapes)
        for by in (0, 8)
        for numbers in (0, 8, -8)
        if shape.start + numbers >= _POINTERS
    ]
    yield from dict.fromkeys([*plain, *map(_ranges, shapes)])


def _shifted(tree: Tree, links: int, numbers: int) -> Tree:
    return tree._replace(
        left=tree.left + links,
        right=tree.right + links,
        parent=tree.parent + links,
        start=tree.start + numbers,
        end=tree.end + numbers,
        start_high=None if tree.start_high is None else tree.start_high + numbers,
        end_high=None if tree.end_high is None else tree.end_high + numbers,
    )


def _pointers(probes: Sequence[Probe]) -> list[int]:
    """Return the offsets in an EPROCESS at which most processes with a PEB have a pointer to a pool allocation."""
    chosen = [probe.structure for probe in probes if probe.peb is not None]
    if not chosen:
        return []
    words = words_of(chosen)
    many = ((words >= POINTERS) & (words % np.uint64(16) == 0)).sum(axis=0) * 2 > len(chosen)
    return [int(place) * 8 for place in np.flatnonzero(many)]


def _weigh(probes: Iterable[Probe], tree: Tree) -> tuple[int, int]:
    """Return the votes of a few nodes of some processes for and against a tree."""
    good = bad = 0
    for probe in probes:
        walked = vads.walk(probe.kernel, tree, probe.address, _FEW_NODES)
        good += min(len(walked.nodes), _MOST_VOTES)
        bad += min(walked.wrong, _MOST_VOTES)
    return good, bad


def _best(probes: Sequence[Probe], trees: Iterable[Tree]) -> Tree | None:
    """Return the tree that most processes prove; None if there is none, or if two give different results."""
    weighed: list[tuple[int, Tree, list[tuple[int, int, int]]]] = []
    some = [probe for probe in probes if probe.peb is not None]
    possible: dict[tuple[int, int, int | None], bool] = {}  # most layouts differ in what this does not depend on
    for tree in dict.fromkeys(trees):
        key = tree.root, tree.parent, tree.anchor
        if key not in possible:
            possible[key] = any(_may_be(probe, tree) for probe in some)
        if not possible[key]:
            continue
        proven = good = bad = 0
        told = []
        for number, probe in enumerate(some):
            walked = vads.walk(probe.kernel, tree, probe.address, _MOST_NODES)
            good += min(len(walked.nodes), _MOST_VOTES)
            bad += min(walked.wrong, _MOST_VOTES)
            told += [(number, node.start, node.end) for node in walked.nodes]
            proven += not walked.wrong and _holds(probe, walked.nodes, whole=not walked.cut)
        if proven and good > _TIMES * bad and proven * _TIMES >= sum(_may_be(probe, tree) for probe in some):
            weighed.append((proven, tree, sorted(told)))
    return undisputed(weighed)


def _may_be(probe: Probe, tree: Tree) -> bool:
    """Return True if the pointer at the root's offset may lead to the topmost node."""
    top = vads.root_of(probe.kernel, tree, probe.address)
    if not top or not vads.is_kernel(top, 16):
        return False
    above = probe.kernel.number(top + tree.parent)
    return above is not None and above & ~7 == (0 if tree.anchor is None else probe.address + tree.anchor)


def _holds(probe: Probe, nodes: Sequence[Node], *, whole: bool) -> bool:
    """Return True if regions cover the PEB, the modules and the pages of a process."""
    if len(nodes) < _LEAST_NODES:
        return False
    held = Intervals.of(sorted((node.start, node.end - node.start) for node in nodes))
    if bool((held.start[1:] <= held.last[:-1]).any()):
        return False
    if any(address is not None and held.at(address) is None for address in (probe.peb, probe.image_base)):
        return False
    images = np.array(probe.images, np.uint64)
    if len(images) and (held.rows_of(images) >= 0).mean() < _MOST_PART:
        return False
    pages = probe.pages
    if not whole or pages is None or not len(pages.start):
        return True
    inside = held.rows_of(pages.start) >= 0
    return bool(pages.size[inside].sum() >= _HELD * pages.size.sum())


class _Nodes:
    """Nodes of processes that are looked at, with what is known of each from sources other than its flags.

    Without `pages` these are few nodes, only those of the program among the modules, and no pages are looked at.

    `data`: their bytes, uint8, shape (n, _WIDTH). `short`: the pool tag says so; `image`: a module that the loader
    lists begins there; `write`, `execute`: the page tables allow it for some page in it; `looked`: there is such a
    page. `files`: the node leads to a file, as soon as that is known.
    """

    def __init__(self, probes: Sequence[Probe], tree: Tree, *, pages: bool) -> None:
        rows: list[bytes] = []
        short: list[bool] = []
        image: list[bool] = []
        self.nodes: list[tuple[Probe, Node]] = []
        allowed: list[U8] = []
        for probe in probes:
            walked = vads.walk(probe.kernel, tree, probe.address, _MOST_NODES if pages else _FEW_NODES)
            bases = set(probe.images) if pages else {probe.image_base}
            for node in walked.nodes:
                data = probe.kernel.read(node.address, _WIDTH) or probe.kernel.read(node.address, tree.size) or b""
                rows.append(data.ljust(_WIDTH, b"\0"))
                short.append(node.tag in vads.SHORT)
                image.append(node.tag in vads.LONG and node.start in bases)
                self.nodes.append((probe, node))
            allowed.append(_allowed(probe, walked.nodes) if pages else np.zeros(len(walked.nodes), np.uint8))
        self.data = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, _WIDTH)
        self.short, self.image = np.array(short, np.bool_), np.array(image, np.bool_)
        flags = np.concatenate(allowed) if allowed else np.zeros(0, np.uint8)
        self.looked = flags != 0
        self.files = np.zeros(len(rows), np.bool_)
        self.write, self.execute = (flags & WRITE) != 0, (flags & EXECUTE) != 0

    def find_files(self, tree: Tree) -> None:
        """Find which of the long nodes lead to a file."""
        self.files = np.array(
            [
                node.tag in vads.LONG and vads.file_of(probe.kernel, tree, node.address)[1] is not None
                for probe, node in self.nodes
            ],
            np.bool_,
        )

    @property
    def tells(self) -> bool:
        """Whether there are too many of them for bits to agree by chance."""
        return bool(self.image.sum() >= _ENOUGH and self.short.sum() >= _ENOUGH)

    @property
    def judges(self) -> bool:
        """Whether there are nodes whose flags are known from other sources."""
        return bool(self.image.any() and self.short.any())

    def value(self, bits: Bits) -> U64:
        """Return what a bit field says in each node."""
        number = np.zeros(len(self.data), np.uint64)
        for place in range(bits.size):
            number |= self.data[:, bits.at + place].astype(np.uint64) << np.uint64(8 * place)
        return np.asarray(number >> np.uint64(bits.first) & np.uint64(bits.mask))


_SEEN = 0x80  # some page is there


def _allowed(probe: Probe, nodes: Sequence[Node]) -> U8:
    """Return what the page tables allow, all together, in each node's range; 0 if no page is there."""
    found = np.zeros(len(nodes), np.uint8)
    pages = probe.pages
    if pages is None:
        return found
    for number, node in enumerate(nodes):
        first = int(np.searchsorted(pages.start, np.uint64(node.start)))
        last = int(np.searchsorted(pages.start, np.uint64(node.end)))
        flags = pages.flags[first:last]
        flags = flags[flags < TRANSITION]
        if len(flags):
            found[number] = np.bitwise_or.reduce(flags) | np.uint8(_SEEN)
    return found


def _is_private(nodes: _Nodes, value: U64) -> bool:
    return _agrees(value[nodes.short] == 1) and _agrees(value[nodes.image | nodes.files] == 0)


def _is_kind(nodes: _Nodes, value: U64) -> bool:
    images = np.uint64(vads.IMAGE_MAP)
    return _agrees(value[nodes.image] == images) and _agrees(value[nodes.short] != images)


def _is_protection(nodes: _Nodes, value: U64) -> bool:
    """Return True if images have the protection of images, and pages allow no more than their regions do."""
    others = nodes.looked & ~nodes.image
    base = value & np.uint64(7)
    executes, writes = np.isin(base, (2, 3, 6, 7)), np.isin(base, (4, 5, 6, 7))
    forbidden = (nodes.write & ~writes) | (nodes.execute & ~executes)
    return _agrees(value[nodes.image] == vads.IMAGE_PROTECTION) and (
        not others.any() or bool((~forbidden[others]).mean() >= _MOST_PART)
    )


def _agrees(column: Bools) -> bool:
    """Return True if there are any, and most of them agree."""
    return len(column) > 0 and bool(column.mean() >= _MOST_PART)


_FIELDS: tuple[tuple[str, str, Callable[[_Nodes, U64], bool]], ...] = (
    ("kind", "kinds of regions", _is_kind),
    ("protection", "protections of regions", _is_protection),
    ("private", "privacy of regions", _is_private),
)


def _completed(
    probes: Sequence[Probe], tree: Tree, own: Tree | None, known: Sequence[Tree], ways: Sequence[Way]
) -> Settled:
    """Return a tree with only those flags and that way to files that hold up.

    What the table says of the kernel's build (`own`) stays unless it is refuted.
    """
    if own is not None:
        nodes = _Nodes(probes, tree, pages=False)
        if not nodes.judges or (_fits_all(nodes, own) and _with_files(nodes, [own]) is not None):
            return Settled(own, ())
    nodes = _Nodes(probes, tree, pages=True)
    unknown = []
    files = None if own is None else _with_files(nodes, [own])
    for candidates in _ways(tree, known, ways):
        files = files or _with_files(nodes, candidates)
    if files is None and own is not None:
        files = _with_files(nodes, [own], few=True)  # most of the names may not be in memory
    if files is not None:
        nodes.find_files(files)
    else:
        unknown.append("files of regions")
    ranges = _ranges(tree)
    whole = [each for each in known if _fits_all(nodes, each)]
    found: list[Bits | None] = []
    for field, words, check in _FIELDS:
        first: list[list[Bits]] = [] if own is None else [[getattr(own, field)]]
        tiers = [*first, [getattr(each, field) for each in whole], [*_moved(known, field, ranges)]]
        bits = next((bits for tier in tiers if (bits := _only(nodes, tier, check)) is not None), None)
        if bits is None and nodes.tells:
            bits = _only(nodes, _anywhere(_BITS[field], ranges), check)
        found.append(bits)
        if bits is None:
            unknown.append(words)
    size = max([ranges.size, *(bits.at + bits.size for bits in found if bits is not None)])
    kind, protection, private = found
    settled = files or tree._replace(subsection=None)
    return Settled(settled._replace(size=size, kind=kind, protection=protection, private=private), tuple(unknown))


def _fits_all(nodes: _Nodes, tree: Tree) -> bool:
    return all(
        check(nodes, nodes.value(bits)) for field, _, check in _FIELDS if (bits := getattr(tree, field)) is not None
    )


def _moved(known: Iterable[Tree], field: str, ranges: Tree) -> Iterator[Bits]:
    """Yield possible bit fields: those of known kernels, with the flags at another offset after the ranges."""
    kinds = dict.fromkeys(getattr(tree, field)._replace(at=0) for tree in known if getattr(tree, field) is not None)
    for at in range(ranges.size // 4 * 4, _WIDTH - 8, 4):
        for bits in kinds:
            yield bits._replace(at=at)


def _anywhere(width: int, ranges: Tree) -> Iterator[Bits]:
    """Yield every possible bit field of some bits after the ranges in the shortest node."""
    for bit in range(8 * ranges.size, 8 * _SHORTEST - width + 1):
        yield Bits(bit // 8, 2, bit % 8, (1 << width) - 1)


def _only(nodes: _Nodes, candidates: Iterable[Bits], check: Callable[[_Nodes, U64], bool]) -> Bits | None:
    """Return the bit field that holds up; None if there is none, or if two give different results."""
    fitting = [
        (bits, value) for bits in dict.fromkeys(candidates) for value in [nodes.value(bits)] if check(nodes, value)
    ]
    if not fitting or any(not np.array_equal(fitting[0][1], value) for _, value in fitting[1:]):
        return None
    return fitting[0][0]


def _ways(tree: Tree, known: Iterable[Tree], ways: Sequence[Way]) -> Iterator[list[Tree]]:
    """Yield trees with possible ways to files: those of known kernels, slightly shifted ones, and any others."""
    subsections = [*dict.fromkeys(each.subsection for each in known if each.subsection is not None)] or [_SUBSECTION]
    shifted = [at + more for at in subsections for more in (0, -16, -8, 8, 16)]
    for way in ways:
        yield [tree._replace(subsection=at, **way._asdict()) for at in subsections]
    for way in ways:
        yield [tree._replace(subsection=at, **way._asdict()) for at in shifted]
    for way in ways:
        for file in range(0x20, 0x80, 8):
            yield [tree._replace(subsection=at, **way._replace(file=file)._asdict()) for at in shifted]


def _with_files(nodes: _Nodes, candidates: Sequence[Tree], *, few: bool = False) -> Tree | None:
    """Return the tree in which most (or a `few`) nodes of images lead to files; None if two lead to different ones."""
    images = [pair for pair, image in zip(nodes.nodes, nodes.image.tolist(), strict=True) if image][:_FEW_NODES]
    told: list[tuple[int, Tree, list[str | None]]] = []
    for tree in candidates:
        names = [vads.file_of(probe.kernel, tree, node.address)[1] for probe, node in images]
        count = sum(name is not None for name in names)
        if count * 2 > len(images) or (few and count):
            told.append((count, tree, names))
    return undisputed(told)
