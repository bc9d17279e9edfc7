"""The store of compressed pages: its structures in the pool, its regions in the memory of MemCompression.

From what is public of the structures (SMKM_STORE, SMHP_CHUNK_METADATA, B+ trees), not from memcarve's reader.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import cramjam

import xpress_writer
from winimage.contents import PAGE

if TYPE_CHECKING:
    from winimage.pool import Pool

#: the number of the page file that the store has on most machines, and where its regions begin
NUMBER, REGIONS = 2, 0x21000000000
_REGION = 1 << 20
_SHIFT, _MASK = 16, 0xFFFF
#: records of a page of them: the region key's low bits; and entries of nodes. Few, so that there are many of each
_BITS = 4
_PER_LEAF, _PER_NODE = 20, 5
#: with more pages than `_MANY`, all that fit
_MANY, _MOST_BITS, _MOST_PER_LEAF, _MOST_PER_NODE = 10_000, 8, 510, 255
_HEADER, _RECORD = 0x20, 8
#: kinds of records that a page can have
KINDS = ("packed", "raw", "zeros", "chain", "unknown", "broken")


class Offsets(NamedTuple):
    """Where a store keeps what differs, whether its keys have a number, and whether it packs with LZ4, not Xpress.

    With a `second` place, a copy of the table of regions is there, whose regions have the same bytes.
    """

    method: int | None
    regions: int
    owner: int
    numbered: bool = True
    lz4: bool = False
    second: int | None = None


OFFSETS = {
    14393: Offsets(0x420, 0x17A8, 0x1918),
    15063: Offsets(0x420, 0x1828, 0x1988),
    16299: Offsets(0x430, 0x1848, 0x19A8),
    19041: Offsets(0x430, 0x1848, 0x19B8),
    26100: Offsets(None, 0x1B70, 0x1D08, numbered=False, lz4=True),
}


class Store:
    """Collects pages under keys; then writes structures and regions."""

    def __init__(self, build: int, number: int = NUMBER) -> None:
        self.build = build
        self.number = number
        #: kind and bytes of each page, by its place
        self.pages: dict[int, tuple[str, bytes]] = {}
        #: what is in the owner's memory, by page
        self.memory: dict[int, bytes] = {}
        #: the kernel's data that lead to it
        self.globals = b""
        self._known: dict[bytes, bytes] = {}

    @property
    def numbered(self) -> bool:
        """Whether keys have the number of the page file."""
        return self._offsets.numbered

    @property
    def _offsets(self) -> Offsets:
        return OFFSETS[max((build for build in OFFSETS if build <= self.build), default=min(OFFSETS))]

    def add(self, kind: str, data: bytes) -> int:
        """Take a page; return its place."""
        place = 5 + 3 * len(self.pages)
        self.pages[place] = kind, data
        return place

    @property
    def _many(self) -> bool:
        return len(self.pages) > _MANY

    @property
    def _bits(self) -> int:
        return _MOST_BITS if self._many else _BITS

    def _key(self, place: int) -> int:
        return self.number << 28 | place if self.numbered else place

    def _packed(self, data: bytes) -> bytes:
        known = self._known.get(data)
        if known is None:
            if not self._offsets.lz4:
                known = xpress_writer.plain(xpress_writer.tokens(data))
            else:
                known = bytes(cramjam.lz4.compress_block(data, store_size=False))
            self._known[data] = known
        return known

    def write(self, pool: Pool, owner: int) -> None:
        """Write all of it into the pool, for a process whose structure is at `owner`."""
        offsets = self._offsets
        at, region_key = 0, 1 << self._bits | 3
        records: dict[int, tuple[int, int]] = {}
        leaves: list[tuple[int, int]] = []
        memory = bytearray()
        for number, (place, (kind, data)) in enumerate(sorted(self.pages.items())):
            if kind == "unknown":
                continue
            packed = b"" if kind == "zeros" else data if kind == "raw" else self._packed(data)
            packed = data if len(packed) >= PAGE else packed
            if kind == "broken":
                # a match that reaches before the page, or is cut off
                packed = packed[: len(packed) // 2]
            # data begin at every 16 bytes, and often straddle two pages
            if at % _REGION + len(packed) > _REGION:
                at = -(-at // _REGION) * _REGION
            memory += bytes(at - len(memory)) + packed
            key = at // _REGION << _SHIFT | at % _REGION // 16
            leaves.append((self._key(place), region_key))
            if kind == "chain":
                records[region_key] = 0xFFFFFFFF, region_key + 1
                region_key += 1
            records[region_key] = key, len(packed)
            region_key += 1 + number % 3
            at = len(memory) + -len(memory) % 16 + 16 * (number % 2)
        memory += bytes(-len(memory) % PAGE)
        self.memory = {REGIONS + place: bytes(memory[place : place + PAGE]) for place in range(0, len(memory), PAGE)}
        store = pool.place(0x2000, b"smSt", 0, 16)
        self._trees(pool, store, leaves)
        self._chunks(pool, store, records)
        count = -(-len(memory) // _REGION)
        regions = pool.place(8 * count, b"smRg", None, 16)
        for number in range(count):
            pool.put(regions + 8 * number, "Q", REGIONS + number * _REGION | 0x11)
        pool.put(store + 0x370, "QII", store, _MASK, _SHIFT)
        if offsets.method is not None:
            pool.put(store + offsets.method, "H", 3)
        pool.put(store + offsets.regions, "Q", regions)
        pool.put(store + offsets.owner, "Q", owner)
        if offsets.second is not None:
            again = pool.place(8 * count, b"smRg", None, 16)
            for number in range(count):
                pool.put(again + 8 * number, "Q", REGIONS + number * _REGION | 0x11)
            pool.put(store + offsets.second, "Q", again)
        pool.put(store + 0x1F00, "Q", store)  # a pointer to something else
        self._globals(pool, store, owner, leaves)
        # a page that holds its own address and is none
        decoy = pool.place(0x2000, b"smXx", 0, 16)
        pool.put(decoy + 0x370, "Q", decoy)

    def _globals(self, pool: Pool, store: int, owner: int, leaves: list[tuple[int, int]]) -> None:
        """Write what leads to the store from the kernel's own data (SmGlobals), by which others find it."""
        array = pool.place(32 * 0x28, b"smSa", None, 16)
        pool.put(array, "QQQQ", store, 0, 0, owner)
        # which store has a key: the first one has all of them
        root = self._tree(pool, [(key, 0) for key, _ in leaves])
        self.globals = struct.pack("<Q", array).ljust(0x1C0, b"\0") + struct.pack("<Q", root)

    def _trees(self, pool: Pool, store: int, leaves: list[tuple[int, int]]) -> None:
        pool.put(store + 0x50, "Q", self._tree(pool, leaves))

    def _tree(self, pool: Pool, leaves: list[tuple[int, int]]) -> int:
        """Write a tree; return its root."""
        nodes = []
        per_leaf, per_node = (_MOST_PER_LEAF, _MOST_PER_NODE) if self._many else (_PER_LEAF, _PER_NODE)
        for low in range(0, max(len(leaves), 1), per_leaf):
            some = leaves[low : low + per_leaf]
            node = pool.place(PAGE, b"smNd", 0, 16)
            pool.put(node, "HBBI", len(some), 0, 1, 0)
            for number, (key, value) in enumerate(some):
                pool.put(node + 0x10 + 8 * number, "II", key, value)
            nodes.append((some[0][0] if some else 0, node))
        level = 1
        while len(nodes) > 1:
            above = []
            for low in range(0, len(nodes), per_node):
                some = nodes[low : low + per_node]
                node = pool.place(PAGE, b"smNd", 0, 16)
                pool.put(node, "HBBIQ", len(some) - 1, level, 0, 0, some[0][1])
                for number, (key, child) in enumerate(some[1:]):
                    pool.put(node + 0x10 + 16 * number, "IIQ", key, 0x5A5A, child)
                above.append((some[0][0], node))
            nodes, level = above, level + 1
        return nodes[0][1]

    def _chunks(self, pool: Pool, store: int, records: dict[int, tuple[int, int]]) -> None:
        bits = self._bits
        pages: dict[int, int] = {}
        arrays: dict[int, int] = {}
        for key, (record, size) in records.items():
            chunk = key >> bits
            highest = chunk.bit_length() - 1
            inner = chunk - (1 << highest)
            if highest not in arrays:
                arrays[highest] = pool.place(16 << highest, b"smBA", None, 16)
                pool.put(store + 0x110 + 8 * highest, "Q", arrays[highest])
            if chunk not in pages:
                pages[chunk] = pool.place(PAGE, b"smRc", 0, 16)
                pool.put(arrays[highest] + 16 * inner, "QQ", pages[chunk], 0x77)
            at = pages[chunk] + _HEADER + _RECORD * (key & (1 << bits) - 1)
            pool.put(at, "II", record, size)
        pool.put(store + 0x110 + 0x108, "III", bits, (1 << bits) - 1, _RECORD)
        pool.put(store + 0x110 + 0x118, "I", _HEADER)
