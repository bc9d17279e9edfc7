"""Page-table isolation of Linux on x86-64: two roots for each process, side by side (arch/x86/mm/pti.c).

The second one is for user mode and maps hardly any of the kernel. Both lead to the same tables in the user half; the
kernel's forbids in each of these entries that user code is run by mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.paging_modes import FRAME, NO_EXECUTE, PRESENT, UPPER_HALF
from memcarve.images.physical import past_unreadable
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.images.paging_modes import AddressTable
    from memcarve.images.physical import PhysicalMemory


@past_unreadable
def is_isolated(memory: PhysicalMemory, table: AddressTable) -> bool:
    """Return whether a root has a copy behind it that allows user code to run, which it itself forbids everywhere."""
    both = np.array([table.root, table.root + PAGE], np.uint64)
    if table.mode.split or not table.mode.wide or table.root % (2 * PAGE) or not memory.holds(both, PAGE).all():
        return False
    own, copy = memory.pages(both)[:, :UPPER_HALF]
    used = own & PRESENT != 0
    own, copy = own[used], copy[used]
    same = own & (FRAME | PRESENT) == copy & (FRAME | PRESENT)
    return bool(len(own) and (same & (own & NO_EXECUTE != 0) & (copy & NO_EXECUTE == 0)).all())
