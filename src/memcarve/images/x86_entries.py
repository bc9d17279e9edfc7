"""Entries of x86 page tables, and what Windows and Linux keep in those that are not present.

Sources: Intel SDM volume 3, chapter 4; AMD APM volume 2, chapter 5; arch/x86/include/asm/pgtable_types.h for PROT_NONE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.absent_entries import X86_32, X86_64
from memcarve.images.paging_modes import FRAME, LINUX, NO_EXECUTE, PAE, PRESENT, WINDOWS
from memcarve.intervals import PAGE
from memcarve.permissions import EXECUTE, PROT_NONE, TRANSITION, USER, WRITE

if TYPE_CHECKING:
    from memcarve.dtypes import U8, U64, Bools
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory

_RW, _US, _LARGE = (np.uint64(1 << bit) for bit in (1, 2, 7))
_ERRATUM = np.uint64(0x60)  # bits that Knights Landing sets in entries for nothing: accessed and dirty
_NO_PHYSICAL = 40  # no bit from here on is dropped from a frame unless the image is larger: processors have 36 or more


class X86Entries:
    """Reads the entries of tables of a mode of x86."""

    everything = np.uint8(USER | WRITE | EXECUTE)

    def __init__(self, table: AddressTable, memory: PhysicalMemory) -> None:
        self.table, self.mode, self.memory = table, table.mode, memory
        self.layouts = (X86_64 if table.mode.entry == 8 else X86_32,)  # noqa: PLR2004
        # bits that no physical address of the image can have: frames of pages in transition carry a mask up there
        bits = max((memory.end - 1).bit_length(), _NO_PHYSICAL)
        self.possible = np.uint64((1 << min(bits, 52)) - PAGE)

    def present(self, words: U64, _: int) -> Bools:
        """Return which entries the processor follows."""
        return (words & PRESENT).astype(np.bool_)

    def moved(self, words: U64, depth: int) -> Bools:
        """Return which entries without the present bit still hold a frame."""
        level = self.mode.levels[depth]
        if self.table.system == WINDOWS:  # transition: bit 11 without bit 10
            return np.asarray((words & np.uint64(0xC01)) == np.uint64(0x800))
        if self.table.system == LINUX:  # PROT_NONE: bit 8; a swap entry has it clear
            if level.shift == 12:  # noqa: PLR2004
                return np.asarray((words & np.uint64(0x101)) == np.uint64(0x100))
            if level.large:
                return np.asarray((words & np.uint64(0x181)) == np.uint64(0x180))
        return np.zeros(words.shape, np.bool_)

    def may_hold(self, words: U64, depth: int) -> Bools:
        """Return which entries, of which the first two bytes are known, may hold a frame."""
        return self.present(words, depth) | self.moved(words, depth)

    def absent(self, words: U64) -> Bools:
        """Return which entries that are not present say anything."""
        return np.asarray((words & ~_ERRATUM) != 0)

    def leaf(self, word: U64, here: Bools, depth: int) -> Bools:
        """Return which entries, present or moved, map memory by themselves and lead to no table."""
        level = self.mode.levels[depth]
        if depth == len(self.mode.levels) - 1:
            return np.ones(len(word), np.bool_)
        large = here & ((word & _LARGE) != 0) if level.large else np.zeros(len(word), np.bool_)
        if self.table.system == LINUX:
            large |= ~here  # a whole large page that may not be touched: nothing else that is not present counts there
        return large

    def physical(self, word: U64, here: Bools, leaf: Bools, depth: int) -> U64:
        """Return the physical addresses that entries hold."""
        level = self.mode.levels[depth]
        large = leaf if depth < len(self.mode.levels) - 1 else np.zeros(len(word), np.bool_)
        if self.mode.entry == 4:  # noqa: PLR2004
            frame = word & np.uint64(0xFFFFF000)
            high = (word >> np.uint64(13) & np.uint64(0xFF)) << np.uint64(32)  # PSE-36
            physical = np.where(large, (word & np.uint64(0xFFC00000)) | high, frame)
        else:
            size = np.uint64((1 << level.shift) - 1)
            physical = word & np.where(large, FRAME & ~size, FRAME)
        if here.all():
            return physical
        if self.table.system == LINUX and self.mode.entry == 4:  # noqa: PLR2004
            return physical
        if self.table.system == LINUX:
            # since the fixes of 2018 the frame of an entry that is not present is inverted
            aligned = np.uint64((1 << 52) - (1 << level.shift))
            inverted = ~word & aligned
            plain = self.memory.holds(physical, PAGE) & ~self.memory.holds(inverted, PAGE)
            return np.where(here | plain, physical, inverted)
        swizzled = (word & np.uint64(0x10)) == 0  # the mask was applied
        return np.where(~here & swizzled, physical & self.possible, physical)

    def permissions(self, word: U64, here: Bools, _: Bools, above: U8, depth: int) -> U8:
        """Combine the entries' permissions with those of the levels above."""
        if self.mode is PAE and depth == 0:
            own = np.full(len(word), self.everything, np.uint8)
        else:
            own = ((word & _US) != 0).astype(np.uint8) * np.uint8(USER)
            own |= ((word & _RW) != 0).astype(np.uint8) * np.uint8(WRITE)
            own |= ((word & NO_EXECUTE) == 0).astype(np.uint8) * np.uint8(EXECUTE)
        moved = np.uint8(TRANSITION if self.table.system == WINDOWS else PROT_NONE)
        # the processor sees nothing below an entry that is not present: no permissions, at no level
        combined = np.where(above >= TRANSITION, above, above & own)
        return np.where(here, combined, moved)
