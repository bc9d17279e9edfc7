"""The store in which Windows 10 and 11 keep compressed pages: found by its structures, without symbols.

An entry for such a page has a key: the number of a page file that is none, and a place in it. In SMKM_STORE (one for
each store) a tree leads from keys to region keys, and these to records: where in a region how many bytes are a page.
Regions lie in the memory of the process MemCompression, which the store names as its owner.

A store is a structure in the kernel that holds its own address, and that process's. Where it keeps what differs from
build to build is in a table; if a build is not in it, or its stores are not as it says, that is learned from what
proves itself. No part of it has a check sum: a page is right if its data decode to exactly 4096 bytes. That an entry
means the store is said by its number, which keys have up to build 22631; later ones have none, and the number counts
whose entries have keys of which nearly all are in the tree.

Sources: what is public of SMKM_STORE and the structures below it (Mandiant's win10_auto documents that of 1809, and how
to find it out of others), checked on made machines; of pages: [MS-XCA] (Xpress), lz4_Block_format.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.backing import read_pieces
from memcarve.errors import LimitError
from memcarve.formats.compressed_pages import LZ4, XPRESS, check_pages, decode
from memcarve.images.page_decoding import DecodedPages
from memcarve.images.windows.eprocess import SYSTEM
from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.intervals import PAGE, chunks, distinct, expand, spread

if TYPE_CHECKING:
    from memcarve.dtypes import I64, U8, U64, Bools
    from memcarve.images.windows.resolving.windows_resolver import WindowsResolver
    from memcarve.process import ProcessEntry
    from memcarve.space import AddressSpace

_OWNER = "MemCompression"
#: in SMKM_STORE: its trees and numbers
_TREE, _CHUNKS, _SELF, _SIZE_MASK, _INDEX_MASK = 0x50, 0x110, 0x370, 0x378, 0x37C
#: in SMHP_CHUNK_METADATA, behind 32 pointers
_BITS, _RECORD_MASK, _RECORD_SIZE, _HEADER = 0x108, 0x10C, 0x110, 0x118
_XPRESS = 3  # COMPRESSION_FORMAT_XPRESS
_NONE = 0xFFFFFFFF  # the key of a record that leads to another one
_STEPS = 8  # records that are followed one from the other
_LEVELS = 8  # of a tree
_MOST_KEYS, _FEWEST_KEYS = 1 << 23, 1 << 20  # of all stores: 32 GiB that are compressed
_SMALLEST = 1 << 10  # bytes of memory for each compressed page: there are no more of them
_TIMES = 4  # that all of that may be read in one search
_LEAF, _INNER = 510, 255  # entries of a node, which is a page; of a leaf as many are used as of an inner one
_MOST_PLACES, _MOST_OWNERS = 1 << 12, 4  # that may be a store, and its owner
_MOST_TRIALS = 1 << 11  # pointers that are tried as that to the regions of a store
_ARRAY = 0x400  # pages of records in an array
_BATCH = 1 << 12  # pages of the kernel looked at in one go: 16 MiB
_PAGES = 1 << 11  # pages checked in one go: 8 MiB
_ENOUGH, _NEARLY = 16, 0.9  # entries that prove the number of the store, and how many of them must have known keys
_FIRST = 0x380 // 8  # word of SMKM_STORE behind those whose places are the same in all builds
_SAMPLE, _MOSTLY = 256, 0.75  # pages that prove where regions are, and how many of them must decode
_TWO_PAGES = np.array([0, PAGE], np.uint64)  # of a store; behind the last page there is is the first
_LOW = np.uint64(PAGE - 1)


class Offsets(NamedTuple):
    """Where a build keeps what differs: the method's word (None: there is none), regions, owner; in SMKM_STORE.

    And whether keys have the number of a page file, and how pages are `packed`.
    """

    build: int
    method: int | None
    regions: int
    owner: int
    numbered: bool = True
    packed: str = XPRESS


_OFFSETS = (
    Offsets(14393, 0x420, 0x17A8, 0x1918),
    Offsets(15063, 0x420, 0x1828, 0x1988),
    Offsets(16299, 0x430, 0x1848, 0x19A8),
    Offsets(19041, 0x430, 0x1848, 0x19B8),
    Offsets(26100, None, 0x1B70, 0x1D08, numbered=False, packed=LZ4),
)
_UNKNOWN = range(22632, 26100)  # between these builds it is learned


def offsets_of(build: int | None) -> Offsets | None:
    """Return where a build keeps what differs; None if it is not known, or has no store of this kind."""
    if build is None or build in _UNKNOWN:
        return None
    return next((each for each in reversed(_OFFSETS) if each.build <= build), None)


class _Store(NamedTuple):
    """One store: what leads to records, and its keys: sorted, with their region keys (uint64)."""

    chunks: U64
    bits: int
    record_mask: int
    record_size: int
    header: int
    size_mask: int
    shift: int
    regions: int
    keys: U64
    region_keys: U64


class CompressionStore:
    """The pages that a machine's stores hold, by key.

    `pages` are those that `sound` has found right, which are decoded when they are read; `numbers` the page files by
    whose number the entries of compressed pages go.
    """

    def __init__(self, resolver: WindowsResolver, stores: list[_Store], owner: AddressSpace, offsets: Offsets) -> None:
        self._resolver = resolver
        self._stores = stores
        self._owner = owner
        self._offsets = offsets
        self._method = offsets.packed
        self.pages = DecodedPages(self._decode_into, resolver.files.path)
        keys = np.concatenate([store.keys for store in stores])
        every, counts = np.unique(keys, return_counts=True)
        #: keys that several stores have: which of them is right is not known
        self._twice = every[counts > 1]
        self._every = every
        self.numbers: frozenset[int] = frozenset()
        if offsets.numbered:
            number, times = np.unique(every >> np.uint64(28), return_counts=True)
            # a few keys that are damaged, or forged, do not make a page file one that is none
            self.numbers = frozenset(number[times >= _NEARLY * len(every)].tolist())

    def learn_number(self, numbers: U8, pages: U64) -> None:
        """Find by whose number entries for compressed pages go, if keys do not tell, from entries of processes."""
        if self._offsets.numbered:
            return
        found = set()
        for number in range(1, 16):
            mine = distinct(pages[numbers == number])
            held = int(np.isin(mine, self._every).sum())
            if len(mine) >= _ENOUGH and held >= _NEARLY * len(mine):
                found.add(number)
        self.numbers = frozenset(found) if len(found) == 1 else frozenset()

    def agree_on(self, numbers: frozenset[int]) -> str:
        """Keep to the numbers that Windows' list of page files gives stores; return in words if that contradicts keys.

        If keys do not tell the number, the list does.
        """
        if not self.numbers and not self._offsets.numbered:
            self.numbers = numbers
        contradicted = self.numbers - numbers
        self.numbers &= numbers
        return "" if not contradicted else "their keys and Windows' list of page files contradict each other"

    def keys(self, numbers: U8, pages: U64) -> tuple[U64, Bools]:
        """Return the keys (uint64) that entries have, and which may be a compressed page's (bool)."""
        mine = np.isin(numbers, [*self.numbers]) & (pages < np.uint64(1 << 28))
        number = numbers.astype(np.uint64) << np.uint64(28) if self._offsets.numbered else np.zeros_like(pages)
        return np.where(mine, number | pages, np.uint64(0)), mine

    def proof(self, keys: U64) -> tuple[int, int]:
        """Return how many pages of some keys are compressed and in memory, and how many of these decode rightly."""
        place, size, known = self._records(keys)
        rows = np.flatnonzero(known & (size > 0) & (size < PAGE))
        if not len(rows):
            return 0, 0
        data, at, _ = self._gathered(place[rows], size[rows])
        return len(rows), int(check_pages(self._method, data, at, size[rows]).sum())

    def sound(self, keys: U64) -> Bools:
        """Return for each key (bool) whether the stores hold its page, and it can be decoded.

        In the order of these keys pages are decoded later, many at a time.
        """
        unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        good = np.zeros(len(unique), np.bool_)
        place, size, known = self._records(unique)
        rows = np.flatnonzero(known)
        rows = rows[np.argsort(place[rows], kind="stable")]  # region by region
        for part in chunks(len(rows), _PAGES):
            some = rows[part]
            data, at, full = self._gathered(place[some], size[some])
            good[some] = ~full
            good[some[full]] = check_pages(self._method, data, at[full], size[some[full]])
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(first[rows], kind="stable")]
        self.pages.add(unique[rows], (place[rows], size[rows]))
        found: Bools = good[inverse]
        return found

    def _records(self, keys: U64) -> tuple[U64, I64, Bools]:
        """Return where the owner's memory has the data of keys (uint64), how many bytes (int64), and which are known.

        All of the data are in memory then, or in a page file that was given.
        """
        place, size = np.zeros(len(keys), np.uint64), np.zeros(len(keys), np.int64)
        known = np.zeros(len(keys), np.bool_)
        for store in self._stores:
            row = np.searchsorted(store.keys, keys)
            row = np.minimum(row, len(store.keys) - 1)
            mine = np.flatnonzero((store.keys[row] == keys) & ~np.isin(keys, self._twice))
            at, count, good = self._looked_up(store, store.region_keys[row[mine]])
            place[mine], size[mine], known[mine] = at, count, good
        last = place + np.maximum(size, 1).astype(np.uint64) - np.uint64(1)
        there = (self._owner.rows_of(place) >= 0) & (self._owner.rows_of(last) >= 0)
        return place, size, known & (there | (size == 0))

    def _looked_up(self, store: _Store, region_keys: U64) -> tuple[U64, I64, Bools]:
        """Return what `_records` does, by region keys, without a look at the owner's memory."""
        rows = np.arange(len(region_keys))  # that are still to be followed
        place, size = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64)
        known = np.zeros(len(rows), np.bool_)
        for _ in range(_STEPS):
            if not len(rows):
                break
            chunk = region_keys[rows] >> np.uint64(store.bits)
            # the pointer goes by the highest bit, the place in its array by those below
            highest = np.frexp(chunk.astype(np.float64))[1].astype(np.int64) - 1
            inner: U64 = chunk - (np.uint64(1) << np.maximum(highest, 0).astype(np.uint64))
            sound = (highest >= 0) & (highest < len(store.chunks)) & (inner <= np.uint64(_ARRAY))
            rows, highest, inner = rows[sound], highest[sound], inner[sound]
            array = store.chunks[highest]
            entry: U64 = array + inner * np.uint64(16)
            pages, there = self._numbers(entry, 8)
            there &= (array != 0) & (pages & _LOW == 0)
            rows, pages = rows[there], pages[there]
            within: U64 = (region_keys[rows] & np.uint64(store.record_mask)) * np.uint64(store.record_size)
            record: U64 = pages + np.uint64(store.header) + within
            key, there = self._numbers(record, 4)
            second, also = self._numbers(record + np.uint64(4), 4)
            there &= also
            rows, key, second = rows[there], key[there], second[there]
            leads = key == np.uint64(_NONE)
            region_keys = region_keys.copy()
            region_keys[rows[leads]] = second[leads]
            here, key, second = rows[~leads], key[~leads], second[~leads]
            base, there = self._numbers(np.uint64(store.regions) + (key >> np.uint64(store.shift) << np.uint64(3)), 8)
            base &= ~np.uint64(0xFFFF)
            at = base + ((key & np.uint64(store.size_mask)) << np.uint64(4))
            count = second & np.uint64(0xFFFF)
            there &= (base != 0) & (at < np.uint64(USER_END)) & (count <= np.uint64(PAGE))
            place[here[there]], size[here[there]] = at[there], count[there].astype(np.int64)
            known[here[there]] = True
            rows = rows[leads]
        return place, size, known

    def _numbers(self, addresses: U64, size: int) -> tuple[U64, Bools]:
        """Return the numbers of 8 bytes, or of 4, at addresses of the kernel, and which are there."""
        aligned = addresses & np.uint64(size - 1) == 0
        words, there = self._resolver.entries_at(addresses & ~np.uint64(7))
        if size < 8:  # noqa: PLR2004 - of a word
            words = words >> ((addresses & np.uint64(4)) << np.uint64(3)) & np.uint64(0xFFFFFFFF)
        return words, there & aligned

    def _decode_into(self, pages: U8, place: U64, size: I64) -> Bools:
        """Fill pages (uint8, shape (n, 4096)) by `size` bytes at `place` of the owner; return which are right."""
        data, at, full = self._gathered(place, size)
        count = len(pages)
        target, length = np.arange(count) * PAGE, np.full(count, PAGE)
        # a page of 0 bytes is zeros, which stay if data do not decode
        return decode(self._method, data, at, size, pages.reshape(-1), target, length) | ~full

    def _gathered(self, place: U64, size: I64) -> tuple[U8, I64, Bools]:
        """Return the owner's memory (uint8) that has `size` bytes at each `place`, and where in it they are (int64).

        And which have any at all (bool): a page of 0 bytes is zeros, wherever it is said to be.
        """
        first, last = place & ~_LOW, (place + np.maximum(size, 1).astype(np.uint64) - np.uint64(1)) & ~_LOW
        full = size > 0
        numbers = distinct(np.concatenate([first[full], last[full]]))
        data = np.empty(max(len(numbers), 1) * PAGE, np.uint8)
        row = self._owner.rows_of(numbers)
        offset = self._owner.offset[row] + (numbers - self._owner.start[row])
        first_of = np.flatnonzero(np.append(True, np.diff(offset) != np.uint64(PAGE))[: len(offset)])
        length = np.diff(np.append(first_of, len(numbers))) * PAGE
        pieces = zip(offset[first_of].tolist(), length.tolist(), strict=True)
        read_pieces(self._owner.backing, pieces, data[: len(numbers) * PAGE].data)
        # what straddles two pages is in one piece: the second one comes right behind the first
        at = np.searchsorted(numbers, first).astype(np.int64) * PAGE + (place & _LOW).astype(np.int64)
        return data, np.where(full, at, 0), full


class _Search:
    """How much is still read in a search for stores, whatever the structures claim: a few pages can be mapped often.

    Raises LimitError once that is used up.
    """

    def __init__(self, resolver: WindowsResolver) -> None:
        self.resolver = resolver
        self._most = min(_MOST_KEYS, max(_FEWEST_KEYS, resolver.memory.total // _SMALLEST))
        self._keys, self._trials = _TIMES * self._most, _MOST_TRIALS

    def read(self, count: int, before: int) -> None:
        """Take note of so many entries of a tree that are to be read, and of those of it that were read before."""
        self._keys -= count
        if self._keys < 0 or before + count > self._most:
            raise LimitError(f"the trees of its stores claim more than {self._most} pages", before + count)

    def try_out(self, count: int) -> None:
        """Take note of pointers that are to be tried."""
        self._trials -= count
        if self._trials < 0:
            raise LimitError(f"more than {_MOST_TRIALS} pointers may lead to what stores hold", count)


def find_store(resolver: WindowsResolver) -> tuple[CompressionStore | None, str]:
    """Return the store of a machine, None if there is none that can be read; and why not, in words."""
    build = resolver.windows.kernel.version.build
    if build is None or build < _OFFSETS[0].build:
        return None, f"where Windows of build {build} keeps them is not known"
    offsets = offsets_of(build)
    owners = [one for one in resolver.windows.listed() if one.name == _OWNER and one.parent == SYSTEM and one.object]
    if not owners:
        return None, "there is no process MemCompression"
    if not resolver.memory.searchable:
        return None, "finding it takes a search of the kernel's memory, which comes from afar"
    try:
        places, search = _candidates(resolver), _Search(resolver)
        for owner in owners[:_MOST_OWNERS]:
            space = None
            stores = [] if offsets is None else _stores(search, places, owner, offsets)
            if not stores and places:
                space = resolver.space_of_owner(owner)
                learned = _learned(search, places, owner, space)
                stores = [] if learned is None else _stores(search, places, owner, learned)
                offsets = learned or offsets
            if stores and offsets is not None:
                return CompressionStore(resolver, stores, space or resolver.space_of_owner(owner), offsets), ""
    except LimitError as error:
        return None, error.problem
    return None, "no store was found that names MemCompression as its owner and proves where it keeps pages"


def _candidates(resolver: WindowsResolver) -> list[int]:
    """Return the addresses of pages of the kernel that hold their own address where a store does. Raises LimitError."""
    kernel, memory = resolver.kernel.whole, resolver.memory
    if kernel.physical is None:
        return []
    found: list[int] = []
    count = (kernel.size // np.uint64(PAGE)).astype(np.int64)
    ends = np.cumsum(count)
    for part in chunks(int(ends[-1]) if len(ends) else 0, _BATCH):
        number = np.arange(part.start, part.stop)
        row = np.searchsorted(ends, number, "right")
        away = (number - (ends[row] - count[row])).astype(np.uint64) * np.uint64(PAGE)
        address, physical = kernel.start[row] + away, kernel.physical[row] + away
        held = memory.holds(physical, PAGE)
        words = memory.pages(physical[held])[:, _SELF // 8]
        found += address[held][words == address[held]].tolist()
        if len(found) > _MOST_PLACES:
            raise LimitError(f"more than {_MOST_PLACES} pages of the kernel look like a store", len(found))
    return found


def _stores(search: _Search, places: list[int], owner: ProcessEntry, offsets: Offsets) -> list[_Store]:
    return [store for at in places if (store := _store_at(search, at, owner, offsets)) is not None]


def _learned(search: _Search, places: list[int], owner: ProcessEntry, space: AddressSpace) -> Offsets | None:
    """Return where stores keep what differs, if they prove it; None if they do not, or contradict each other."""
    found = {each for at in places if (each := _learned_at(search, at, owner, space)) is not None}
    return found.pop() if len(found) == 1 else None


def _learned_at(search: _Search, at: int, owner: ProcessEntry, space: AddressSpace) -> Offsets | None:
    """Return where one store keeps what differs; None if that does not prove itself.

    The owner is named by its address. Which pointer leads to the regions, and how pages are packed, is proven by pages:
    one pointer and one method decode nearly all of a sample, and no other does any. Keys have a number, or none has.
    """
    resolver = search.resolver
    table, there = resolver.pages_at(np.uint64(at) + _TWO_PAGES)
    words = table.reshape(-1)
    named = _FIRST + np.flatnonzero(words[_FIRST:] == np.uint64(owner.object or 0))
    if not there.all() or not len(named):
        return None
    plain = Offsets(0, None, 0, 8 * int(named[0]))
    store = _store_at(search, at, owner, plain)
    numbers = np.zeros(0) if store is None else distinct(store.keys >> np.uint64(28))
    if store is None or len(numbers) != 1:
        return None
    plain = plain._replace(numbered=bool(numbers[0]))
    rows = spread(len(store.keys), _SAMPLE)
    store = store._replace(keys=store.keys[rows], region_keys=store.region_keys[rows])
    lowest = np.uint64(resolver.windows.kernel.table.kernel_half)
    likely = _FIRST + np.flatnonzero((words[_FIRST:] >= lowest) & (words[_FIRST:] & np.uint64(7) == 0))
    proven: dict[tuple[int, str], Offsets] = {}
    likely = likely[np.sort(np.unique(words[likely], return_index=True)[1])]
    search.try_out(len(likely))
    for row in likely.tolist():
        trial = store._replace(regions=int(words[row]))
        for packed in (XPRESS, LZ4):
            offsets = plain._replace(regions=8 * row, packed=packed)
            tried, right = CompressionStore(resolver, [trial], space, offsets).proof(store.keys)
            if right:
                key = trial.regions, packed
                proven.setdefault(key, offsets)
                if right < _ENOUGH or right < _MOSTLY * tried:
                    return None
    return proven.popitem()[1] if len(proven) == 1 else None


def _store_at(search: _Search, at: int, owner: ProcessEntry, offsets: Offsets) -> _Store | None:
    """Return the store at an address of the kernel; None if there is none, or it is another's."""
    table, there = search.resolver.pages_at(np.uint64(at) + _TWO_PAGES)
    words, data = table.reshape(-1), table.tobytes()

    def number(place: int, size: int = 4) -> int:
        return int.from_bytes(data[place : place + size], "little")

    if not there.all() or number(offsets.owner, 8) != owner.object:
        return None
    if offsets.method is not None and number(offsets.method, 2) != _XPRESS:
        return None
    bits, shift = number(_CHUNKS + _BITS) & 0xFF, number(_INDEX_MASK) & 0xFF
    size = number(_CHUNKS + _RECORD_SIZE)
    if bits > 31 or shift > 31 or not 0 < size <= PAGE:  # noqa: PLR2004 - bits of a number
        return None
    keys, values = _tree(search, number(_TREE, 8))
    if not len(keys):
        return None
    return _Store(
        chunks=words[_CHUNKS // 8 : _CHUNKS // 8 + 32],
        bits=bits,
        record_mask=number(_CHUNKS + _RECORD_MASK),
        record_size=size,
        header=number(_CHUNKS + _HEADER),
        size_mask=number(_SIZE_MASK),
        shift=shift,
        regions=number(offsets.regions, 8),
        keys=keys,
        region_keys=values,
    )


def _tree(search: _Search, root: int) -> tuple[U64, U64]:
    """Return keys and values of a B+ tree (uint64), sorted by key; of one that comes twice nothing.

    A node is a page: how many entries it has (2 bytes), its level, whether it is a leaf; then the leftmost child.
    Raises LimitError.
    """
    none = np.zeros(0, np.uint64)
    found, count = [none], 0
    nodes, seen = np.array([root], np.uint64), np.array([], np.uint64)
    for _ in range(_LEVELS):
        nodes = distinct(nodes[(nodes & _LOW == 0) & ~np.isin(nodes, seen)])
        if not len(nodes):
            break
        seen = np.concatenate([seen, nodes])
        below = [none]
        for part in chunks(len(nodes), _BATCH):
            search.read(_INNER * (part.stop - part.start), count)
            count += _INNER * (part.stop - part.start)
            words, there = search.resolver.pages_at(nodes[part])
            table = words[there]
            used = (table[:, 0] & np.uint64(0xFFFF)).astype(np.int64)
            leaf = table[:, 0] >> np.uint64(24) & np.uint64(0xFF) != 0
            sound = used <= np.where(leaf, _LEAF, _INNER)
            row, step = expand(np.where(sound & leaf, used, 0))
            entry = table[row, 2 + step]
            found.append(entry << np.uint64(32) | entry >> np.uint64(32))  # by key
            row, step = expand(np.where(sound & ~leaf, used, 0))
            below += [table[sound & ~leaf, 1], table[row, 3 + 2 * step]]
        nodes = np.concatenate(below)
    entries = np.concatenate(found)
    found.clear()
    entries.sort()
    keys = entries >> np.uint64(32)
    differs = np.ones(len(keys) + 1, np.bool_)
    differs[1:-1] = keys[1:] != keys[:-1]
    once = differs[1:] & differs[:-1]
    return keys[once], entries[once] & np.uint64(0xFFFFFFFF)
