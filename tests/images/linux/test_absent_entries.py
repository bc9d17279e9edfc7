"""Linux's entries of pages that are not present: type, offset and kind, as the kernel's headers lay them out."""

from __future__ import annotations

import numpy as np
import pytest

from memcarve.errors import LimitError
from memcarve.images.linux.absent_entries import (
    ARM64_5_18,
    ARM64_6_10,
    ARM64_NOW,
    KINDS,
    X86_32,
    X86_64,
    AbsentEntries,
    AbsentRules,
    SwapLayout,
    decoded,
    rules_of,
)
from memcarve.images.paging import absent, walk
from memcarve.images.paging_modes import MODES, AddressTable
from walked_pages import physical_memory

SWAPPED, POISON, READ, WRITE, SPECIAL = "swapped", "hwpoison", "migration_read", "migration_write", "special"
PRIVATE, LENT, ERROR = "device_private", "device_exclusive", "swapin_error"
ARM64 = (ARM64_NOW, ARM64_6_10, ARM64_5_18)


def x86_64(kind: int, offset: int) -> int:
    """Return an entry as 64-bit x86 and PAE have had it since 2018: type in bits 63:59, offset inverted in 58:9."""
    return kind << 59 | (~offset & (1 << 50) - 1) << 9


def words(*entries: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return entries as a column."""
    return np.array(entries, np.uint64)


@pytest.mark.parametrize(("layout", "entry", "kind", "offset"), [
    (X86_64, x86_64(0, 0x123), 0, 0x123), (X86_64, x86_64(31, 4), 31, 4),
    (X86_64, x86_64(3, (1 << 34) + 5), 3, (1 << 34) + 5),
    # before the fixes of 2018: type in bits 13:9, offset from 14 on
    (X86_64, 2 << 9 | 0x77 << 14, 2, 0x77),
    (X86_32, 5 << 1 | 0x1234 << 9, 5, 0x1234),
    (ARM64_5_18, 3 << 2 | 0x99 << 8, 3, 0x99), (ARM64_6_10, 1 << 2 | 3 << 3 | 0x99 << 8, 3, 0x99),
    (ARM64_NOW, 1 << 2 | 1 << 3 | 3 << 6 | 0x99 << 12, 3, 0x99),
])  # fmt: skip
def test_type_and_offset(layout: SwapLayout, entry: int, kind: int, offset: int) -> None:
    """Type and offset lie where each architecture and version puts them."""
    types, offsets = decoded(words(entry), layout)
    assert (types.tolist(), offsets.tolist()) == ([kind], [offset])


@pytest.mark.parametrize(("release", "device", "poison", "said"), [
    # MAX_SWAPFILES + what include/linux/swap.h adds, from the highest type down
    ((5, 10), False, True, {28: SWAPPED, 29: POISON, 30: READ, 31: WRITE}),
    ((5, 10), True, True, {27: POISON, 28: READ, 29: WRITE, 30: PRIVATE}),
    ((5, 15), True, True, {24: SWAPPED, 25: POISON, 27: WRITE, 29: PRIVATE, 31: LENT}),
    ((6, 1), False, True, {25: SWAPPED, 26: POISON, 27: READ, 29: WRITE, 31: ERROR}),
    ((6, 12), False, True, {26: SWAPPED, 27: POISON, 28: READ, 29: READ, 30: WRITE}),
    ((6, 12), True, True, {22: SWAPPED, 23: POISON, 26: WRITE, 27: PRIVATE, 30: LENT}),
    ((6, 18), True, True, {23: SWAPPED, 24: POISON, 27: WRITE, 29: PRIVATE, 30: LENT}),
    ((6, 12), False, False, {27: SWAPPED, 28: READ, 30: WRITE}),
    # what could be two things is not told
    ((6, 12), None, None, {20: SWAPPED, 23: SPECIAL, 26: SPECIAL, 27: SPECIAL, 30: SPECIAL}),
    ((7, 2), True, True, {21: SPECIAL, 30: SPECIAL}),
])  # fmt: skip
def test_kinds_by_version(
    release: tuple[int, int], *, device: bool | None, poison: bool | None, said: dict[int, str]
) -> None:
    """A special type means what the kernel's version and configuration make of it."""
    rules = rules_of(release, device_private=device, memory_failure=poison)
    assert {number: rules.kinds[number] for number in said} == said
    assert len(rules.kinds) == 32


def test_markers() -> None:
    """A marker is told by its offset; another offset of its type is something special."""
    for rules in (None, rules_of((6, 12))):
        entries = AbsentEntries((X86_64,), rules)
        entries.add(words(*(x86_64(31, offset) for offset in (1, 2, 4, 5, 0, 8))), 1)
        assert entries.counts() == {"uffd_marker": 1, "poison_marker": 1, "guard_marker": 2, "special": 2}
    before = AbsentEntries((X86_64,), rules_of((5, 10), device_private=False))
    before.add(words(x86_64(31, 1)), 1)
    assert before.counts() == {"migration_write": 1}


@pytest.mark.parametrize(("rules", "entries", "layout"), [
    (None, [0x123 << 12], ARM64_NOW),
    (None, [number << 12 for number in range(1, 20)], ARM64_NOW),
    (None, [number << 8 for number in range(1, 20)], ARM64_6_10),
    (rules_of((5, 10)), [number << 8 for number in range(1, 20)], ARM64_5_18),
    # one entry says too little: its version decides; many say more than a version, which distributions change
    (rules_of((5, 10)), [0x10 << 8], ARM64_5_18), (rules_of((6, 1)), [0x10 << 8], ARM64_6_10),
    (rules_of((6, 12)), [0x10 << 8], ARM64_NOW),
    (rules_of((5, 14)), [number << 12 for number in range(1, 20)], ARM64_NOW),
    (rules_of((6, 12)), [8 << 8], ARM64_6_10), (None, [31 << 6 | 4 << 12], ARM64_NOW),
    (None, [31 << 3 | 1 << 8], ARM64_6_10),
])  # fmt: skip
def test_layout_of_arm64(rules: AbsentRules | None, entries: list[int], layout: SwapLayout) -> None:
    """The entries themselves tell in which of three ways ARM64's are laid out, else the version does."""
    counted = AbsentEntries(ARM64, rules)
    counted.add(words(*entries), 1)
    assert counted.layout is layout


def test_columns() -> None:
    """What is not present comes in columns by address, also at levels at which large pages are; PROT_NONE does not."""
    tables = {
        0x1000: {0: 0x2067},
        0x2000: {0: 0x3067, 3: x86_64(30, 0x40000)},
        0x3000: {0: 0x4067, 5: x86_64(28, 0x200)},
        0x4000: {1: x86_64(1, 7), 2: 0x5067, 3: 0x5160, 4: x86_64(0, 9), 5: 0x60},
    }
    data = bytearray(1 << 20)
    for table, entries in tables.items():
        for index, value in entries.items():
            data[table + 8 * index : table + 8 * index + 8] = value.to_bytes(8, "little")
    memory = physical_memory(bytes(data))
    table = AddressTable(
        0x1000, MODES["x64"], "linux", absent=rules_of((6, 12), device_private=False, memory_failure=True)
    )
    found = absent(memory, table)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (0x1000, 4096, 1, 7, KINDS.index("swapped")),
        (0x4000, 4096, 0, 9, KINDS.index("swapped")),
        (5 << 21, 1 << 21, 28, 0x200, KINDS.index("migration_read")),
        (3 << 30, 1 << 30, 30, 0x40000, KINDS.index("migration_write")),
    ]
    counts = walk(memory, table).counts
    assert {kind: counts[kind] for kind in ("swapped", "migration_read", "migration_write", "prot_none")} == {
        "swapped": 2, "migration_read": 512, "migration_write": 1 << 18, "prot_none": 1,
    }  # fmt: skip
    assert absent(memory, table, 0x4000, 0x5000).address.tolist() == [0x4000]
    assert absent(memory, table._replace(system="none")).address.tolist() == []


def test_many_that_are_not_present() -> None:
    """Tables full of entries of the swap, shared a thousand times, are counted in bounded memory, or refused."""
    data = bytearray(1 << 16)
    for place, entry in ((0x1000, 0x2067), (0x2000, 0x3067)):
        data[place : place + 8] = entry.to_bytes(8, "little")
    data[0x3000:0x4000] = (0x4067).to_bytes(8, "little") * 512
    data[0x4000:0x5000] = x86_64(1, 5).to_bytes(8, "little") * 512
    memory = physical_memory(bytes(data))
    table = AddressTable(0x1000, MODES["x64"], "linux")
    assert walk(memory, table).counts["swapped"] == 1 << 18
    assert len(absent(memory, table).address) == 1 << 18
    with pytest.raises(LimitError, match="more entries that are not present"):
        absent(memory, table, limit=1 << 27)
    assert absent(memory, table, 0, 1 << 63).size.tolist() == [4096] * (1 << 18)
