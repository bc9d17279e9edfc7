"""Where an unknown kernel keeps the members of an mm_struct, and what leads from there to a process's regions.

The order of members that is relied on is that of include/linux/mm_types.h and maple_tree.h from Linux 4.19 to 7.3. What
proves an address space's page tables is that they map the kernel and pages of its own; what proves its regions is that
each page that the page tables map lies in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images.linux import maple_tree
from memcarve.images.linux.kernel_structures import Structures
from memcarve.images.linux.learning.learned_types import LearnedTypes
from memcarve.images.linux.learning.structure_table import MOSTLY, NEARLY, StructureTable, share, sole
from memcarve.images.paging import translate, walk
from memcarve.intervals import PAGE, distinct, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import I64, U64, Bools
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.learning.task_members import Tasks
    from memcarve.images.physical import Placed

_MOST_SPACES = 32  # address spaces that are looked at
_LEAST = 3  # with fewer nothing is learned
_TRIED = 6  # of which the page tables are walked for each place that may lead to them
_SIZE = 0x800  # bytes of an mm_struct that are looked at; the largest so far has 0x6c0
_FIRST_PART = 0x200  # in which its regions and page tables are
_MOST_REGIONS = 1 << 13  # of one address space
_CACHE_LINE = 64
_LOW, _NODE = 3, 2  # the lowest bits of what leads to a node of a maple tree, include/linux/xarray.h
_MOST_TRIED = 8  # trees: there is one
_LOCK_EXTERN = 0x303  # MM_MT_FLAGS, include/linux/mm_types.h: flags of the tree of regions that are always set
_RUN = ("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack", "arg_start", "arg_end")
_NUMBERS = (*_RUN, "env_start", "env_end")
_AUXILIARY = 64 * 2  # numbers of an auxiliary vector that are looked at
_NOTHING = (1 << 64) - 1
_PAGE_SIZE, _VDSO = 6, 33  # AT_PAGESZ, AT_SYSINFO_EHDR: include/uapi/linux/auxvec.h


class Outlines(NamedTuple):
    """The regions of an address space by address, uint64: where in the kernel each is described, its start, its end."""

    address: U64
    start: U64
    end: U64


class Spaces:
    """Address spaces of processes: a table of their mm_struct, their page tables and regions once these are known."""

    def __init__(self, kernel: Kernel, tasks: Tasks, types: LearnedTypes) -> None:
        self.kernel = kernel
        self.types = types
        self.word = types.pointer_size
        self.reader = kernel.structures.reader
        at = types.at("task_struct", "mm")
        found = np.zeros(0, np.uint64) if at is None else distinct(tasks.table.column(at)[~tasks.in_kernel])
        found = found[found >> np.uint64(8 * self.word - 1) == 1]
        found = found[spread(len(found), _MOST_SPACES)]
        self.table = StructureTable(self.reader, found.tolist(), _SIZE, self.word)
        self.pages: list[Placed | None] = []
        self.regions: list[Outlines] = []
        self._tree_readers: dict[int, tuple[Structures, dict[int, maple_tree.Form]]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.table)

    @property
    def page(self) -> int:
        """The size of a page in bytes, as processes see it."""
        return 1 << self.kernel.table.mode.levels[-1].shift

    def tree_reader(self, at: int) -> tuple[Structures, dict[int, maple_tree.Form]]:
        """Return what reads a maple tree with its root at an offset, by what its nodes have in all kernels."""
        if at not in self._tree_readers:
            types = LearnedTypes(self.word)
            types.put_pointer("maple_tree", "ma_root", at)
            structures = Structures(self.kernel.space, types, self.kernel.structures.lowest)
            self._tree_readers[at] = structures, maple_tree.forms_of(structures)
        return self._tree_readers[at]

    def pages_at(self, pointer: int) -> Placed | None:
        """Return what the page tables at a kernel address map of the user half; None if they are none."""
        table, root = self.kernel.table, self.kernel.physical_of(pointer)
        if root is None or root % table.mode.root_size or root == table.kernel_root:
            return None
        own, first = table._replace(root=root), self.kernel.first
        try:
            if not table.mode.split and translate(self.kernel.memory, own, first.address) != first.physical:
                return None
            pages = walk(self.kernel.memory, own, 0, table.kernel_half)
        except LimitError:
            return None
        return pages.placed if len(pages.placed.start) and not pages.counts.get("lost_tables") else None


def learn_spaces(kernel: Kernel, tasks: Tasks, types: LearnedTypes) -> Spaces | None:
    """Learn the members of address spaces; return them if their regions are known, too."""
    spaces = Spaces(kernel, tasks, types)
    if len(spaces) < _LEAST or not _learn_tables(spaces):
        return None
    if not _learn_regions(spaces):
        return None
    _learn_size(spaces)
    _learn_count(spaces)
    _learn_places(spaces)
    return spaces


def _learn_tables(spaces: Spaces) -> bool:
    """Learn `pgd`: each address space has page tables of its own, which map pages of the user half."""
    table = spaces.table
    found = []
    for at in table.places(0, _FIRST_PART):
        pointers = table.column(at)
        possible = (pointers >> np.uint64(8 * spaces.word - 1) == 1) & (pointers % np.uint64(32) == 0)
        if share(possible) < NEARLY or len(distinct(pointers)) < NEARLY * len(pointers):
            continue
        pages = [spaces.pages_at(pointer) for pointer in pointers[:_TRIED].tolist()]
        if sum(each is not None for each in pages) >= len(pages) - 1:
            found.append(at)
    at_tables = sole(found)
    if at_tables is None:
        return False
    spaces.types.put_pointer("mm_struct", "pgd", at_tables)
    spaces.pages = [spaces.pages_at(pointer) for pointer in table.column(at_tables).tolist()]
    return True


def _learn_regions(spaces: Spaces) -> bool:
    """Learn what leads to regions: a maple tree, or the list of them that there was before 6.1."""
    ways: list[tuple[int, Callable[[Spaces, int, int], U64 | None]]] = []
    way: Callable[[Spaces, int, int], U64 | None]
    tried = 0
    for at in spaces.table.places(0, _FIRST_PART):
        pointers = spaces.table.column(at)
        # what leads to a node says so in its lowest bits
        tree = int(pointers[0]) & _LOW == _NODE
        way, low = (_by_tree, _NODE) if tree else (_by_list, 0)
        sound = (pointers >> np.uint64(8 * spaces.word - 1) == 1) & (pointers & np.uint64(_LOW) == np.uint64(low))
        if share(sound) >= NEARLY and tried < _MOST_TRIED:
            tried += tree
            ways += [(at, way)] if _covers(spaces, at, way, _TRIED) else []
    if len(ways) != 1 or not _covers(spaces, *ways[0], len(spaces)):
        return False
    at, way = ways[0]
    spaces.regions = [_regions(spaces, way(spaces, mm, at)) for mm in spaces.table.addresses.tolist()]
    types, word = spaces.types, spaces.word
    types.put_pointer("vm_area_struct", "vm_start", 0)
    types.put_pointer("vm_area_struct", "vm_end", word)
    if way is _by_tree:
        _put_tree(spaces, at)
    else:
        types.put_pointer("mm_struct", "mmap", at)
        types.put_pointer("vm_area_struct", "vm_next", 2 * word)
        types.put_pointer("vm_area_struct", "vm_prev", 3 * word)
        _learn_red_black(spaces, at + word)
    return True


def _put_tree(spaces: Spaces, at: int) -> None:
    """Add the tree's members; it begins where a line of the cache does, and its lock is before its root.

    Its flags are between, or behind the root.
    """
    types, word = spaces.types, spaces.word
    begin = at // _CACHE_LINE * _CACHE_LINE
    types.put("mm_struct", "mm_mt", begin, None)
    types.put_pointer("mm_struct", "mm_mt.ma_root", at)
    types.put_pointer("maple_tree", "ma_root", at - begin)
    flags = [
        place
        for place in (at - 4, at + word)
        if share(spaces.table.column(place, 4) & np.uint64(_LOCK_EXTERN) == np.uint64(_LOCK_EXTERN)) >= NEARLY
    ]
    if len(flags) == 1:
        types.put("maple_tree", "ma_flags", flags[0] - begin, 4)


def _covers(spaces: Spaces, at: int, way: Callable[[Spaces, int, int], U64 | None], most: int) -> bool:
    """Return True if what is found there are regions, and each page of nearly all address spaces lies in one."""
    rows = [
        (pages, mm)
        for pages, mm in zip(spaces.pages, spaces.table.addresses.tolist(), strict=True)
        if pages is not None
    ][:most]
    missed = 0
    for pages, mm in rows:
        regions = _regions(spaces, way(spaces, mm, at))
        missed += not len(regions.start) or not _all_inside(pages, regions)
        if missed > 1 and missed > len(rows) // 20:
            return False
    return missed < len(rows)


def _all_inside(pages: Placed, regions: Outlines) -> bool:
    """Return True if each page lies in a region; a stretch of pages may lie in several that touch."""
    begins = np.concatenate([[True], regions.start[1:] != regions.end[:-1]])
    first = np.flatnonzero(begins)
    start, end = regions.start[first], regions.end[np.append(first[1:], len(regions.end)) - 1]
    row = np.searchsorted(start, pages.start, "right").astype(np.int64) - 1
    return bool((row >= 0).all() and (pages.start + pages.size <= end[row]).all())


def _regions(spaces: Spaces, found: U64 | None) -> Outlines:
    """Return regions in order; none if one of them is not whole pages, or if two overlap."""
    nothing = np.zeros(0, np.uint64)
    if found is None or not len(found):
        return Outlines(nothing, nothing, nothing)
    table = StructureTable(spaces.reader, found.tolist(), 2 * spaces.word, spaces.word)
    start, end = table.column(0), table.column(spaces.word)
    order = np.argsort(start)
    found, start, end = found[order], start[order], end[order]
    whole = ((start | end) % np.uint64(PAGE) == 0).all() and (start < end).all() and (start[1:] >= end[:-1]).all()
    return Outlines(found, start, end) if whole else Outlines(nothing, nothing, nothing)


def _by_tree(spaces: Spaces, mm: int, at: int) -> U64 | None:
    """Return the regions that a maple tree leads to, if its root is `at` bytes behind an mm_struct's begin.

    None if there is no tree, or if regions are elsewhere than it says.
    """
    walked = maple_tree.walk(*spaces.tree_reader(at), mm)
    entries = walked.entries
    if walked.damage or walked.cut or not 0 < len(entries) <= _MOST_REGIONS:
        return None
    found = np.array([entry.value for entry in entries], np.uint64)
    table = StructureTable(spaces.reader, found.tolist(), 2 * spaces.word, spaces.word)
    told = np.array([(entry.first, entry.last) for entry in entries], np.uint64)
    same = (table.column(0) == told[:, 0]) & (table.column(spaces.word) - np.uint64(1) == told[:, 1])
    return found if same.all() else None


def _by_list(spaces: Spaces, mm: int, at: int) -> U64 | None:
    """Return the regions in a list: each has start, end, the following and the one before, in order of addresses."""
    reader, word, kernel = spaces.reader, spaces.word, spaces.kernel.structures
    found: list[int] = []
    region, before, last = reader.number(mm + at, word), 0, 0
    while region and len(found) < _MOST_REGIONS:
        if not kernel.is_kernel(region):
            return None
        data = reader.read(region, 4 * word)
        if data is None:
            return None
        start, end, following, back = (
            int.from_bytes(data[each : each + word], "little") for each in range(0, 4 * word, word)
        )
        if back != before or not last <= start < end:
            return None
        found.append(region)
        region, before, last = following, region, end
    return np.array(found, np.uint64) if found and not region else None


def _learn_red_black(spaces: Spaces, at: int) -> None:
    """Learn the red-black tree of regions, whose root follows the begin of the list, if it holds the same ones."""
    word, kernel = spaces.word, spaces.kernel.structures
    inside = 4 * word
    for mm, regions in zip(spaces.table.addresses.tolist(), spaces.regions, strict=True):
        known, waiting, seen = set(regions.address.tolist()), [spaces.reader.number(mm + at, word)], set[int]()
        while waiting:
            node = waiting.pop()
            if node and node not in seen and kernel.is_kernel(node) and node - inside in known:
                seen.add(node)
                waiting += [spaces.reader.number(node + each, word) for each in (word, 2 * word)]
        if len(seen) != len(known):
            return
    types = spaces.types
    types.put_pointer("mm_struct", "mm_rb.rb_node", at)
    types.put("vm_area_struct", "vm_rb", inside, 3 * word)
    types.put_pointer("rb_node", "rb_right", word)
    types.put_pointer("rb_node", "rb_left", 2 * word)


def _learn_size(spaces: Spaces) -> None:
    """Learn `task_size`, before `pgd`: no region ends behind it, and it is nearly a power of 2, the same for most."""
    ends = np.array([int(regions.end[-1]) if len(regions.end) else 0 for regions in spaces.regions], np.uint64)
    found = []
    for at in spaces.table.places(0, spaces.types.at("mm_struct", "pgd") or 0):
        sizes = spaces.table.column(at)
        usual, count = (int(each.max()) for each in np.unique(sizes, return_counts=True))
        rounded = 1 << (usual - 1).bit_length() if usual else 0
        near = 0 <= rounded - usual <= 2 * PAGE and usual % PAGE == 0 and usual.bit_length() > 8 * spaces.word // 2
        if near and count >= MOSTLY * len(sizes) and share(sizes >= ends) >= NEARLY:
            found.append(at)
    at_size = sole(found)
    if at_size is not None:
        spaces.types.put_pointer("mm_struct", "task_size", at_size)


def _learn_count(spaces: Spaces) -> None:
    """Learn `map_count`, the number of regions."""
    counts = np.array([len(regions.start) for regions in spaces.regions], np.uint64)
    places = spaces.table.places(0, _SIZE, 4)
    at = sole([at for at in places if share(spaces.table.column(at, 4) == counts) >= NEARLY])
    if at is not None and len(distinct(counts)) > 1:
        spaces.types.put("mm_struct", "map_count", at, 4)


def _learn_places(spaces: Spaces) -> None:
    """Learn where the program, its heap, stack, arguments and environment are, and the auxiliary vector behind that.

    These numbers follow each other; each lies in a region. The vector says how large pages are, and where the vDSO is,
    which one more member says.
    """
    table, word = spaces.table, spaces.word
    found = []
    for at in table.places(0, _SIZE - (len(_NUMBERS) + 2) * word):
        number = {name: table.column(at + row * word) for row, name in enumerate(_NUMBERS)}
        ordered = [
            number["start_code"] < number["end_code"],
            number["start_data"] <= number["end_data"],
            number["start_brk"] <= number["brk"],
            number["start_stack"] < number["arg_start"],
            number["arg_start"] <= number["arg_end"],
            number["arg_end"] <= number["env_start"],
            number["env_start"] <= number["env_end"],
        ]
        if min(map(share, ordered)) < NEARLY:
            continue
        inside = [_inside(spaces, number[name]) >= 0 for name in ("start_code", "start_stack", "arg_start")]
        if (
            min(map(share, inside)) >= NEARLY
            and share(_auxiliary(spaces, at + len(_NUMBERS) * word, _PAGE_SIZE) == np.uint64(spaces.page)) >= MOSTLY
        ):
            found.append(at)
    at_code = sole(found)
    if at_code is None:
        return
    for row, name in enumerate(_NUMBERS):
        spaces.types.put_pointer("mm_struct", name, at_code + row * word)
    vector = at_code + len(_NUMBERS) * word
    spaces.types.put("mm_struct", "saved_auxv", vector, _longest(spaces, vector))
    told = _auxiliary(spaces, vector, _VDSO)
    has = told != np.uint64(_NOTHING)
    if share(has) < MOSTLY or share(_starts(spaces, told)[has]) < NEARLY:
        return
    vdso = sole(
        [
            at
            for at in table.places(vector + 2 * word, _SIZE)
            if share((table.column(at) == told)[has]) >= NEARLY
            and share(table.column(at - word) == np.uint64(_VDSO)) < 1 - NEARLY  # this is the vector's own
        ]
    )
    if vdso is not None:
        spaces.types.put_pointer("mm_struct", "context.vdso", vdso)


def _inside(spaces: Spaces, addresses: U64) -> I64:
    """Return in which of its regions an address of each space lies, int64; -1 if in none."""
    found = []
    for address, regions in zip(addresses, spaces.regions, strict=True):
        row = int(np.searchsorted(regions.start, address, "right")) - 1
        found.append(row if row >= 0 and address < regions.end[row] else -1)
    return np.array(found, np.int64)


def _starts(spaces: Spaces, addresses: U64) -> Bools:
    """Return whether a region of each space begins at an address."""
    pairs = zip(addresses, spaces.regions, strict=True)
    return np.array([bool((regions.start == at).any()) for at, regions in pairs], np.bool_)


def _vectors(spaces: Spaces, at: int) -> U64:
    """Return auxiliary vectors at an offset, uint64, shape (spaces, entries, 2): keys and values."""
    words = min((spaces.table.size - at) // spaces.word // 2 * 2, _AUXILIARY)
    rows = np.stack([spaces.table.column(at + row * spaces.word) for row in range(words)], axis=1)
    return rows.reshape(len(rows), -1, 2)


def _longest(spaces: Spaces, at: int) -> int:
    """Return how many bytes the longest auxiliary vector at an offset has: each ends with a key of 0.

    The kernel has room for more, but nothing says for how many.
    """
    ends = _vectors(spaces, at)[:, :, 0] == 0
    return int(ends.argmax(axis=1)[ends.any(axis=1)].max(initial=0) + 1) * 2 * spaces.word


def _auxiliary(spaces: Spaces, at: int, key: int) -> U64:
    """Return the value for a key of the auxiliary vectors at an offset; 2**64 - 1 if they have none."""
    rows = _vectors(spaces, at)
    keys, values = rows[:, :, 0], rows[:, :, 1]
    ended = np.cumsum(keys == 0, axis=1) > 0
    hit = (keys == np.uint64(key)) & ~ended
    return np.where(hit.any(axis=1), values[np.arange(len(rows)), hit.argmax(axis=1)], np.uint64(_NOTHING))
