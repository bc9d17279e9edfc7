"""The PFN database: what the kernel keeps of each page frame, a record (_MMPFN) each, and where its data say it is.

From Microsoft's public symbols of _MMPFN, not from memcarve's reader.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from winimage import kernel
from winimage.contents import MASK64, U64

if TYPE_CHECKING:
    from winimage.layouts import Layout
    from winimage.left_ram import Left
    from winimage.physical import Physical
    from winimage.pool import Pool
    from winimage.tables import Tables

_PLACE = kernel.DATA + 0x31558
_WORDS = 6
#: the lists that a page can be on, among the flags
ACTIVE, STANDBY, MODIFIED = 6, 2, 3
IS_MODIFIED = 1 << 4
_VALID, _TRANSITION, _FRAME = U64(1), U64(1 << 11), U64((1 << 40) - 4096)


class Database:
    """The records; those of pages that no process maps stay zeros. `wrong`: entries' addresses are not as they are."""

    def __init__(self, physical: Physical, pool: Pool, layout: Layout, slot: int, *, wrong: bool = False) -> None:
        self.pool, self.wrong = pool, wrong
        self.old = layout.version < (6, 2)
        self.base = MASK64 & ~((1 << 48) - 1) | slot << 39
        self.at = pool.place(physical.count * 8 * _WORDS, b"MmPf", 0, 16)
        self.records = np.zeros((physical.count, _WORDS), U64)

    def note(self, tables: Tables, left: Left | None) -> None:
        """Take note of the pages that tables map; `left` knows which of them are in a page file as well."""
        for keys, entries in tables.leaves:
            for key, entry in zip(keys.tolist(), entries.tolist(), strict=True):
                frame = (entry & int(_FRAME)) >> 12
                moved = not entry & 1 and entry & 0xC00 == 0x800
                if (not entry & 1 and not moved) or frame >= len(self.records) or self.records[frame].any():
                    continue
                original, flags = (left.records if left is not None else {}).get(
                    frame, (0x80, ACTIVE if entry & 1 else STANDBY)
                )
                pte = self.base + (key << 3) + (0x1000 if self.wrong else 0)
                table = (tables.entries[1][key >> 9] & int(_FRAME)) >> 12
                if self.old:
                    self.records[frame] = [7, 1, pte, 1 | flags << 16, original, table]
                else:
                    self.records[frame] = [7, pte, original, 1, 1 | flags << 16 | 5 << 24, table | 1 << 50]

    def finish(self) -> dict[int, bytes]:
        """Write the records; return what stands where in the kernel's image."""
        self.pool.put(self.at, f"{self.records.nbytes}s", self.records.tobytes())
        return {_PLACE: struct.pack("<QQ", self.at, 0)}
