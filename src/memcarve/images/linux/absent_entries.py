"""What Linux keeps in page-table entries of pages that are not present: where they were swapped to, or a special type.

Such an entry holds a type and an offset (``swp_entry_t``). Low types number the areas that pages are swapped to (a
disk, a file, zram; zswap stands before an area and changes no entry); the highest are special, and how many those are
depends on the kernel's version and configuration (include/linux/swap.h, include/linux/swapops.h). Where in the entry
both lie is the architecture's choice (arch/x86/include/asm/pgtable_64.h, pgtable-3level.h and pgtable-2level.h;
arch/arm64/include/asm/pgtable.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U8, U64

SWAPPED, MIGRATION_READ, MIGRATION_WRITE, HWPOISON = "swapped", "migration_read", "migration_write", "hwpoison"
DEVICE_PRIVATE, DEVICE_EXCLUSIVE, SWAPIN_ERROR = "device_private", "device_exclusive", "swapin_error"
UFFD_MARKER, POISON_MARKER, GUARD_MARKER = "uffd_marker", "poison_marker", "guard_marker"
#: a special type, it is not known which
SPECIAL = "special"
KINDS = (
    SWAPPED, MIGRATION_READ, MIGRATION_WRITE, HWPOISON, DEVICE_PRIVATE, DEVICE_EXCLUSIVE, SWAPIN_ERROR, UFFD_MARKER,
    POISON_MARKER, GUARD_MARKER, SPECIAL,
)  # fmt: skip
#: of a type that is told apart by the offset (PTE_MARKER_UFFD_WP 1, _POISONED 2, _GUARD 4)
_MARKER = "marker"
_MARKER_BITS = ((1, UFFD_MARKER), (2, POISON_MARKER), (4, GUARD_MARKER))
_TYPES = 32  # 1 << MAX_SWAPFILES_SHIFT
#: no kernel has more special types (SWP_DEVICE_NUM 6): lower types are areas for certain
_MOST_SPECIAL = 11


class SwapLayout(NamedTuple):
    """Where in an entry the type and the offset lie: bits shifted out below them, and their width."""

    type_shift: int
    type_bits: int
    offset_shift: int
    offset_bits: int
    inverted: bool = False

    def types(self, words: U64) -> U8:
        """Return the types (uint8)."""
        mask = np.uint64((1 << self.type_bits) - 1)
        return ((words >> np.uint64(self.type_shift)) & mask).astype(np.uint8)

    def offsets(self, words: U64) -> U64:
        """Return the offsets (uint64): pages of an area; of special types what they say, mostly a frame number."""
        given = ~words if self.inverted else words
        return (given >> np.uint64(self.offset_shift)) & np.uint64((1 << self.offset_bits) - 1)


#: since the fixes of 2018 offsets are inverted, so that what is swapped leads to no memory; before, since 4.8
X86_64 = SwapLayout(59, 5, 9, 50, inverted=True)
X86_64_PLAIN = SwapLayout(9, 5, 14, 50)
X86_32 = SwapLayout(1, 5, 9, 23)
#: until 5.18, until 6.10, and since
ARM64_5_18 = SwapLayout(2, 6, 8, 50)
ARM64_6_10 = SwapLayout(3, 5, 8, 50)
ARM64_NOW = SwapLayout(6, 5, 12, 50)
_INVERTED = np.uint64(1 << 58)  # of an inverted offset the highest bit; set unless an area has 2**49 pages
#: bits that ARM64's layout has kept clear since 6.11
_ARM64_CLEAR = np.uint64(0x830)
_ENOUGH = 8  # entries in none of which anything speaks for ARM64's older layouts


class AbsentRules(NamedTuple):
    """How entries that are not present are read: the kernel's `release` as (6, 12), and a kind for each type."""

    release: tuple[int, int] | None
    kinds: tuple[str, ...]


#: if nothing is known of a kernel: a marker is the last type, with one of a few small offsets
UNKNOWN = AbsentRules(None, (SWAPPED,) * (_TYPES - _MOST_SPECIAL) + (SPECIAL,) * (_MOST_SPECIAL - 1) + (_MARKER,))


def rules_of(
    release: tuple[int, int], *, device_private: bool | None = None, memory_failure: bool | None = None
) -> AbsentRules:
    """Return how a kernel's entries are read; `release` as (6, 12).

    `device_private` and `memory_failure` say whether the kernel was made with CONFIG_DEVICE_PRIVATE and
    CONFIG_MEMORY_FAILURE; None if that is not known: a type that means one thing with and another without is special.
    Migration (CONFIG_MIGRATION) and markers are taken to be there, as in every distribution's kernel.
    """
    choices = [
        kinds
        for device in ([True, False] if device_private is None else [device_private])
        for poison in ([True, False] if memory_failure is None else [memory_failure])
        for kinds in _kinds(release, device=device, poison=poison)
    ]
    return AbsentRules(
        release,
        tuple(
            meant[0] if len(set(meant)) == 1 else SWAPPED if number < _TYPES - _MOST_SPECIAL else SPECIAL
            for number, meant in enumerate(zip(*choices, strict=True))
        ),
    )


def _kinds(release: tuple[int, int], *, device: bool, poison: bool) -> Iterator[tuple[str, ...]]:
    """Yield the kinds that the types may be of: the special ones are the highest, in this order."""
    migration = [MIGRATION_READ, MIGRATION_WRITE]
    if release >= (5, 19):
        migration.insert(0, MIGRATION_READ)  # of an exclusive page
    special = [HWPOISON] * poison + migration
    markers = [_MARKER] * (release >= (5, 19)) + [SWAPIN_ERROR] * ((5, 19) <= release < (6, 2))
    if not device:
        choices: list[list[str]] = [[]]
    else:
        exclusive = 0 if release < (5, 14) else 2 if release < (6, 15) else 1
        choices = [[DEVICE_PRIVATE] * 2 + [DEVICE_EXCLUSIVE] * exclusive]
        if release >= (7, 0):  # with entries for the migration of what a device holds, or without
            choices.append(choices[0] + migration)
    for more in choices:
        every = special + more + markers
        yield (SWAPPED,) * (_TYPES - len(every)) + tuple(every)


class AbsentEntries:
    """Entries that are not present, counted by kind as they come, in bounded memory.

    ARM64 moved type and offset twice; distributions take such changes into older kernels. All layouts are counted, and
    the entries tell at the end which it is: the newest one keeps some bits clear, which the older ones use.
    """

    def __init__(self, layouts: tuple[SwapLayout, ...], rules: AbsentRules | None) -> None:
        self.layouts = layouts
        self.rules = rules or UNKNOWN
        self._counts = np.zeros((len(layouts), len(KINDS)), np.int64)
        self._seen = self._old = 0

    def add(self, words: U64, pages: int) -> None:
        """Count entries (uint64), each of them for so many 4 KiB pages."""
        for number, layout in enumerate(self.layouts):
            kinds = self.kinds(*decoded(words, layout))
            self._counts[number] += np.bincount(kinds, minlength=len(KINDS)) * pages
        if len(self.layouts) > 1:
            area = ARM64_NOW.types(words)
            unlikely = (area > 3) & (area < _TYPES - _MOST_SPECIAL)  # noqa: PLR2004 - bits of an older offset
            self._seen += len(words)
            self._old += int((((words & _ARM64_CLEAR) != 0) | unlikely).sum())

    @property
    def layout(self) -> SwapLayout:
        """How type and offset lie in the entries that were counted."""
        if len(self.layouts) == 1:
            return self.layouts[0]
        release = self.rules.release
        older = ARM64_5_18 if release is not None and release < (5, 19) else ARM64_6_10
        if self._old:
            return older
        return ARM64_NOW if release is None or release >= (6, 11) or self._seen >= _ENOUGH else older

    def counts(self) -> dict[str, int]:
        """Return the number of 4 KiB pages of each kind of which there are any."""
        row = self._counts[self.layouts.index(self.layout)].tolist()
        return {kind: count for kind, count in zip(KINDS, row, strict=True) if count}

    def kinds(self, types: U8, offsets: U64) -> U8:
        """Return for each entry its kind, as an index into KINDS (uint8)."""
        special = KINDS.index(SPECIAL)
        table = np.full(1 << 8, special, np.uint8)
        known = [special if kind == _MARKER else KINDS.index(kind) for kind in self.rules.kinds]
        table[: len(known)] = known
        found = table[types]
        marker = self.rules.kinds.index(_MARKER) if _MARKER in self.rules.kinds else None
        if marker is not None:
            told = (types == marker) & (offsets != 0) & (offsets < np.uint64(1 << len(_MARKER_BITS)))
            for bit, kind in _MARKER_BITS:
                found[told & ((offsets & np.uint64(bit)) != 0)] = KINDS.index(kind)
        return found


def decoded(words: U64, layout: SwapLayout) -> tuple[U8, U64]:
    """Return the types (uint8) and offsets (uint64) of entries; those of 64-bit x86 tell which of two layouts it is."""
    types, offsets = layout.types(words), layout.offsets(words)
    if layout is X86_64 and (plain := (words & _INVERTED) == 0).any():
        types = np.where(plain, X86_64_PLAIN.types(words), types)
        offsets = np.where(plain, X86_64_PLAIN.offsets(words), offsets)
    return types, offsets
