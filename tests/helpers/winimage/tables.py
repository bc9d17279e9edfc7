"""Page tables: leaf entries in, tables written, and what follows from the plan: pages, counts, the self-map."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from winimage.contents import MASK48, MASK64, PAGE, U64
from winimage.truth import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from winimage.physical import Physical

PRESENT, WRITE, USER, LARGE_BIT, PROTOTYPE, TRANSITION, NX = 1, 1 << 1, 1 << 2, 1 << 7, 1 << 10, 1 << 11, 1 << 63
#: the bit that a present large page's attribute table index has in its frame
PAT = 1 << 12
#: entries that point to tables, with the software bits that Windows sets; the kernel half's lack the user bit
TABLE, KERNEL_TABLE = 0x0A00_0000_0000_0867, 0x0A00_0000_0000_0863
SELF_ENTRY = NX | 0x63
FRAME = (1 << 52) - PAGE
#: what an entry in transition can mean: no physical address of these images has bit 40 or more
FRAME_TRANSITION = (1 << 40) - PAGE
#: the software protection of an entry that is not present, by what the page allows
SOFT = {"R": 1, "RX": 3, "RW": 4, "RWX": 6}
#: the bits that the fixes for L1TF set in entries that are not present
L1TF = 1 << 45
KINDS = ("zero", "demand-zero", "pagefile", "prototype")


class Allowed(NamedTuple):
    """What a page's own entry and those above it allow."""

    user: bool
    writable: bool
    executable: bool


def canonical(address: int) -> int:
    """Return an address of 48 bits with bit 47 extended through those above."""
    return address | MASK64 & ~MASK48 if address >> 47 & 1 else address


def _extended(addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.where(addresses >> U64(47) & U64(1), addresses | U64(MASK64 & ~MASK48), addresses)


def flags(protection: str, *, user: bool = True) -> int:
    """Return the bits of a present entry that allows ``R``, ``RX``, ``RW`` or ``RWX``."""
    bits = 0x867 if "W" in protection else 0x025
    return bits & ~(0 if user else USER) | (0 if "X" in protection else NX)


def allowed(protection: str, *, user: bool = True) -> Allowed:
    """Return what such an entry allows."""
    return Allowed(user, "W" in protection, "X" in protection)


def transition(frame: int, protection: int = 4, mask: int = 0) -> int:
    """Return an entry in transition; with a mask, SwizzleBit is clear."""
    return frame << 12 | TRANSITION | protection << 5 | mask


class Tables:
    """Collects the entries of a half of an address space, and what they amount to; then writes its tables.

    A key is an address without the bits below its level: level 0 are page tables, 1 directories, 2 their pointers.
    """

    def __init__(self, physical: Physical, *, user: bool = True) -> None:
        self.physical = physical
        self.table = TABLE if user else KERNEL_TABLE
        self.user = user
        #: what the entry of a table is instead of the usual, by level and key
        self.turns: dict[tuple[int, int], Callable[[int], int]] = {}
        #: page tables that nothing leads to, and those that are seen again elsewhere: their entries that are not zero
        self.unreachable: set[int] = set()
        self.seen_again: list[int] = []
        #: directory entries that the self-map shows besides those written, because a table is its own directory
        self.views: dict[int, int] = {}
        self.entries: list[dict[int, int]] = [{}, {}, {}, {}]
        self.planned: list[Pages] = []
        self._leaves: list[list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]] = [[], [], [], []]
        self._absent: Counter[str] = Counter()
        #: entries that are not zero, by page table
        self._used: dict[int, int] = {}

    def put(self, level: int, keys: ArrayLike, entries: ArrayLike) -> None:
        """Set entries as they are; a key of 48 bits less its level's."""
        keys = np.atleast_1d(np.asarray(keys, U64)) & U64(MASK48 >> (12 + 9 * level))
        self._leaves[level].append((keys, np.broadcast_to(np.asarray(entries, U64), len(keys))))

    def plan(self, address: ArrayLike, physical: ArrayLike, size: int, rights: Allowed | None) -> None:
        """Expect pages."""
        addresses = _extended(np.atleast_1d(np.asarray(address, U64)) & U64(MASK48))
        self.planned.append(Pages.of(addresses, physical, size, rights))

    def present(self, pages: NDArray[np.uint64], frames: NDArray[np.uint64], protection: str) -> None:
        """Map 4 KiB pages; the bits 52 to 58, which hardware ignores, differ."""
        noise = self.physical.rng.integers(0, 128, len(pages)).astype(U64) << U64(52)
        self.put(0, pages, frames << U64(12) | U64(flags(protection, user=self.user)) | noise)
        self.plan(pages << U64(12), frames << U64(12), PAGE, allowed(protection, user=self.user))

    def transition(
        self, pages: NDArray[np.uint64], frames: NDArray[np.uint64], protection: str, *, mask: bool = False
    ) -> None:
        """Put 4 KiB pages into transition, with the L1TF mask or without."""
        odd = pages & U64(1)
        # masked: one bit or three; not masked: SwizzleBit as it is before the fixes or after
        bits = U64(L1TF) | odd * U64(L1TF << 1 | L1TF << 2) if mask else odd << U64(4)
        self.put(0, pages, frames << U64(12) | U64(TRANSITION | SOFT[protection] << 5) | bits)
        self.plan(pages << U64(12), frames << U64(12), PAGE, None)

    def absent(self, pages: NDArray[np.uint64], kinds: ArrayLike, protection: str = "RW") -> None:
        """Set entries that are neither present nor in transition: indices into `KINDS`."""
        kinds = np.broadcast_to(np.asarray(kinds), len(pages))
        soft = np.full(len(pages), SOFT[protection] << 5, U64)
        place = self.physical.rng.integers(1, 1 << 12, len(pages)).astype(U64) << U64(32)
        odd = pages & U64(1)
        # page files 0 and 2, SwizzleBit set and clear (then with the mask); prototypes of a VAD and with an address
        pagefile = soft | place | np.where(odd, U64(0x2010), U64(L1TF))
        prototype = soft | U64(PROTOTYPE) | np.where(odd, U64(0xFFFFFFFF << 32), U64(0x8A01_2345 << 32 | TRANSITION))
        self.put(0, pages, np.choose(kinds, [soft * U64(0), soft, pagefile, prototype]))
        for kind, name in enumerate(KINDS[1:], 1):
            self._absent[name] += int((kinds == kind).sum())

    def large(self, address: int, frame: int, protection: str = "RW", *, bits: int = 0, level: int = 1) -> None:
        """Map a page of 2 MiB, or of 1 GiB at level 2."""
        self.put(level, address >> (12 + 9 * level), frame << 12 | flags(protection, user=self.user) | LARGE_BIT | bits)
        self.plan(address, frame << 12, PAGE << 9 * level, allowed(protection, user=self.user))

    def write(self) -> dict[int, int]:
        """Write the tables; return the root's entries by index."""
        keys, entries = self._collected(0)
        for level in (1, 2, 3):
            tables, place = np.unique(keys >> U64(9), return_inverse=True)
            frames = self.physical.take(len(tables))
            content = np.zeros((len(tables), 512), U64)
            content[place, (keys & U64(511)).astype(np.int64)] = entries
            self.physical.words[frames] = content
            if level == 1:
                used = np.count_nonzero(content, axis=1).tolist()
                self._used = dict(zip(tables.tolist(), used, strict=True))
            pointers = frames << U64(12) | U64(self.table)
            for number, (key, frame) in enumerate(zip(tables.tolist(), frames.tolist(), strict=True)):
                if (level, key) in self.turns:
                    pointers[number] = self.turns[level, key](frame)
            keys, entries = tables, pointers
            more = self._collected(level)
            keys, entries = np.concatenate([keys, more[0]]), np.concatenate([entries, more[1]])
            self.entries[level] = dict(zip(keys.tolist(), entries.tolist(), strict=True))
        return self.entries[3]

    @property
    def leaves(self) -> list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """Keys and entries of the lowest level, as they were set."""
        return self._leaves[0]

    def _collected(self, level: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        empty = (np.zeros(0, U64), np.zeros(0, U64))
        keys, entries = (np.concatenate(column) for column in zip(empty, *self._leaves[level], strict=True))
        if len(np.unique(keys)) != len(keys):
            raise ValueError(f"an address is planned twice at level {level}")
        return keys, entries

    def pages(self) -> Pages:
        """Return the pages that were planned."""
        return Pages.joined(self.planned)

    def counts(self) -> dict[str, int]:
        """Return how many entries of the page tables are neither present nor in transition, by kind."""
        reached = [used for key, used in self._used.items() if key not in self.unreachable] + self.seen_again
        return {"zero": 512 * len(reached) - sum(reached), **{kind: self._absent[kind] for kind in KINDS[1:]}}


def frame_of(table: Tables, level: int, key: int) -> int:
    """Return the frame that a written table's entry points to."""
    return (table.entries[level][key] & FRAME) >> 12


def selfmap(slot: int, root: Mapping[int, int], halves: Sequence[Tables]) -> Pages:
    """Return the pages that appear where a root's entry points to the root itself: every table, as a page.

    What directories map appears too: a large page's first 4 KiB, and a page of 1 GiB as one of 2 MiB.
    """
    pointers = {key: entry for half in halves for key, entry in half.entries[2].items()}
    directories = {key: entry for half in halves for key, entry in {**half.entries[1], **half.views}.items()}
    found = []
    for key, entry in directories.items():
        above = [root[slot], root[key >> 18], pointers[key >> 9]]
        found.append((slot << 39 | key << 12, PAGE, [*above, entry]))
    for key, entry in pointers.items():
        found.append((slot << 39 | slot << 30 | key << 12, PAGE, [root[slot], root[slot], root[key >> 9], entry]))
        if entry & PRESENT and entry & LARGE_BIT:
            found.append((slot << 39 | key << 21, PAGE << 9, [root[slot], root[key >> 9], entry]))
    for index, entry in root.items():
        found.append((slot << 39 | slot << 30 | slot << 21 | index << 12, PAGE, [root[slot]] * 3 + [entry]))
    return Pages.joined(_seen(found))


def _seen(found: Iterable[tuple[int, int, list[int]]]) -> Iterable[Pages]:
    for address, size, path in found:
        if not all(_leads(entry) for entry in path):
            continue
        mask = FRAME if path[-1] & PRESENT else FRAME_TRANSITION
        rights = None
        if all(entry & PRESENT for entry in path):
            rights = Allowed(
                all(entry & USER for entry in path),
                all(entry & WRITE for entry in path),
                not any(entry & NX for entry in path),
            )
        yield Pages.of(canonical(address), path[-1] & mask & ~(size - 1), size, rights)


def _leads(entry: int) -> bool:
    return bool(entry & PRESENT or (entry & TRANSITION and not entry & PROTOTYPE))
