"""The page of old system calls that Linux maps into 64-bit processes of x86, and that no tree of regions holds.

arch/x86/entry/vsyscall/vsyscall_64.c of Linux: the kernel has one ``vm_area_struct`` for all processes. It may be
executed alone (vsyscall=xonly), or also read (vsyscall=emulate); then it is in the kernel's page tables. With
vsyscall=none it is not there, and what describes it is as it was compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcarve.images.linux.vmas import EXECUTE, READ
from memcarve.images.paging_modes import LINUX_IMAGE
from memcarve.intervals import PAGE
from memcarve.linux_mappings import Mapping

if TYPE_CHECKING:
    from memcarve.images.kernel_half import KernelHalf
    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.space import AddressSpace

_START = 0xFFFF_FFFF_FF60_0000  # VSYSCALL_ADDR
_IMAGE_END = 0xFFFF_FFFF_C000_0000  # behind where the kernel's image can lie: __START_KERNEL_map and KERNEL_IMAGE_SIZE
_HAS_VSYSCALL = 2  # a bit of what MM_CONTEXT_HAS_VSYSCALL numbers
_MOST = 1 << 28  # bytes of the kernel that are looked through


class GateArea:
    """The page as processes have it; None if there is none."""

    def __init__(self, kernel: Structures, half: KernelHalf | None) -> None:
        """Of a kernel whose half of the address space is `half`, None if that is not at hand."""
        self.kernel = kernel
        self.half = half
        self.mapping = self._found()

    def of(self, mm: int) -> Mapping | None:
        """Return the page as the ``mm_struct`` at a kernel address has it; None if it has none."""
        if self.mapping is None:
            return None
        narrow = self.kernel.number(mm, "mm_struct", "context.ia32_compat")  # until 5.10
        if narrow is not None:
            return None if narrow else self.mapping
        flags = self.kernel.number(mm, "mm_struct", "context.flags")
        return self.mapping if flags is not None and flags & _HAS_VSYSCALL else None

    def _found(self) -> Mapping | None:
        inside = self.kernel.offset("vm_area_struct", "vm_start")
        if self.half is None or self.kernel.word != 8 or inside is None:  # noqa: PLR2004 - bytes of a pointer
            return None
        wanted = _START.to_bytes(8, "little") + (_START + PAGE).to_bytes(8, "little")
        place = _look(self.half.part(LINUX_IMAGE, _IMAGE_END), wanted)
        flags = None if place is None else self.kernel.number(place - inside, "vm_area_struct", "vm_flags")
        if flags is None:
            return None
        seen = flags & (READ | EXECUTE)
        mapped = self.half.physical_of(_START) is not None
        if seen == EXECUTE or (seen == READ | EXECUTE and mapped):
            letters = "--xp" if seen == EXECUTE else "r-xp"
            return Mapping(_START, PAGE, letters, 0, (0, 0), 0, "[vsyscall]")
        return None


def _look(space: AddressSpace, wanted: bytes) -> int | None:
    """Return the address of a pattern in the kernel's image; None if it is not there."""
    segments = space.segments()
    segments = segments.where((segments.start >= np.uint64(LINUX_IMAGE)) & (segments.start < np.uint64(_IMAGE_END)))
    hits = space.find(wanted, segments.where(np.cumsum(segments.size) <= _MOST), unreadable=lambda *_: None)
    return next((hit.address for hit in hits), None)
