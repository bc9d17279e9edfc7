"""Descriptors of ARM64 page tables, and what Linux keeps in those that are not valid.

Sources: Arm Architecture Reference Manual, D8.3 (descriptor formats), D8.4 (permissions, hierarchical ones too), and
FEAT_LPA and FEAT_LPA2 for addresses of 52 bits; arch/arm64/include/asm/pgtable-hwdef.h and pgtable-prot.h of Linux.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.absent_entries import ARM64_5_18, ARM64_6_10, ARM64_NOW
from memcarve.images.paging_modes import LINUX
from memcarve.permissions import EXECUTE, PROT_NONE, USER, WRITE

if TYPE_CHECKING:
    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.paging_modes import AddressTable

_VALID, _TYPE = np.uint64(1), np.uint64(3)  # bit 1: a table; at the last level a page
_TABLE = np.uint64(2)
#: what Linux sets in a page that may not be touched: bit 58 until 6.10, bit 11 since; in a block also bit 59 until then
_NONE, _NONE_BLOCK = np.uint64(1 << 11 | 1 << 58), np.uint64(1 << 11 | 1 << 58 | 1 << 59)
#: while tables are walked: what programs may execute, and what the kernel may, are two things
_KERNEL_EXECUTE = 8
_LARGEST_GRANULE = 1 << 16


def _page_permissions() -> U8:
    """Return the permissions of a page by its bits 51 to 54, 6 and 7, and four bits of what is allowed above it.

    Bit 51 (DBM) says that a page is written to although AP[2] forbids it: the processor, or Linux, then notes that it
    was. What programs may write, the kernel does not execute.
    """
    table = np.zeros((16, 64), np.uint8)
    for above, bits in itertools.product(range(16), range(64)):
        managed, kernel_never, user_never = bits & 1, bits & 4, bits & 8
        user_data = bits & 16 and above & USER
        write = (managed or not bits & 32) and above & WRITE
        user_code = not user_never and above & EXECUTE
        kernel_code = not kernel_never and above & _KERNEL_EXECUTE and not (user_data and write)
        table[above, bits] = (
            (USER if user_data or user_code else 0)
            | (WRITE if write else 0)
            | (EXECUTE if user_code or kernel_code else 0)
        )
    return table.reshape(-1)


_PAGE_PERMISSIONS = _page_permissions()


class Arm64Entries:
    """Reads the descriptors of tables of a mode of ARM64."""

    everything = np.uint8(USER | WRITE | EXECUTE | _KERNEL_EXECUTE)
    layouts = (ARM64_NOW, ARM64_6_10, ARM64_5_18)

    def __init__(self, table: AddressTable) -> None:
        self.mode = table.mode
        self.last = len(table.mode.levels) - 1
        self.linux = table.system == LINUX
        top = 50 if table.mode.lpa2 else 48
        self.masks = [np.uint64((1 << top) - (1 << level.shift)) for level in table.mode.levels]
        self.possible = np.uint64((1 << 52) - table.mode.page)

    def present(self, words: U64, depth: int) -> Bools:
        """Return which entries the processor follows: what is reserved at a level it does not."""
        if depth == self.last or not self.mode.levels[depth].large:
            return np.asarray((words & _TYPE) == _TYPE)
        return (words & _VALID).astype(np.bool_)

    def moved(self, words: U64, depth: int) -> Bools:
        """Return which entries that are not valid still hold a frame: Linux's PROT_NONE pages and blocks.

        Bit 1 is clear in an entry of the swap. In a block it is clear, too; what an entry of the swap has there instead
        leads to a frame that begins a block, so that bit 11 is clear.
        """
        if not self.linux or not (depth == self.last or self.mode.levels[depth].large):
            return np.zeros(words.shape, np.bool_)
        if depth == self.last:
            return np.asarray(((words & _TYPE) == _TABLE) & ((words & _NONE) != 0))
        return np.asarray(((words & _TYPE) == 0) & ((words & _NONE_BLOCK) != 0))

    def may_hold(self, words: U64, depth: int) -> Bools:
        """Return which entries, of which the first two bytes are known, may hold a frame."""
        held = self.present(words, depth)
        if self.linux and depth == self.last:
            held |= (words & _TYPE) == _TABLE
        elif self.linux and self.mode.levels[depth].large:
            held |= (words & _TYPE) == 0
        return held

    def absent(self, words: U64) -> Bools:
        """Return which entries that are not valid say anything."""
        return np.asarray(words != 0)

    def leaf(self, word: U64, here: Bools, depth: int) -> Bools:
        """Return which entries, valid or moved, map memory by themselves and lead to no table."""
        if depth == self.last:
            return np.ones(len(word), np.bool_)
        return np.asarray(~here | ((word & _TABLE) == 0))

    def physical(self, word: U64, here: Bools, leaf: Bools, depth: int) -> U64:
        """Return the physical addresses that entries hold: of 52 bits, if descriptors have room for them."""
        del here
        small, large = self.masks[self.last], self.masks[depth]
        physical = word & (small if depth == self.last else np.where(leaf, large, small))
        if self.mode.page == _LARGEST_GRANULE:
            physical |= (word & np.uint64(0xF000)) << np.uint64(36)
        elif self.mode.lpa2:
            physical |= (word & np.uint64(0x300)) << np.uint64(42)
        return physical

    def permissions(self, word: U64, here: Bools, leaf: Bools, above: U8, depth: int) -> U8:
        """Combine the entries' permissions with those of the levels above."""
        bits = (word >> np.uint64(51) & np.uint64(0xF)) | (word >> np.uint64(2) & np.uint64(0x30))
        page = _PAGE_PERMISSIONS[bits | above.astype(np.uint64) << np.uint64(6)]
        if depth < self.last:
            # PXNTable, UXNTable, APTable[0], APTable[1]: bits 59 to 62
            denied = (word >> np.uint64(59)).astype(np.uint8)
            own = (~denied & np.uint8(1)) * np.uint8(_KERNEL_EXECUTE)
            own |= (~denied >> np.uint8(1) & np.uint8(1)) * np.uint8(EXECUTE)
            own |= (~denied >> np.uint8(2) & np.uint8(1)) * np.uint8(USER)
            own |= (~denied >> np.uint8(3) & np.uint8(1)) * np.uint8(WRITE)
            page = np.where(leaf, page, above & own)
        return page if here.all() else np.where(here, page, np.uint8(PROT_NONE))
