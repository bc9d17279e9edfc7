"""What /proc/PID/maps would print of a process's regions, from the kernel's structures.

How Linux names a region without a file: fs/proc/task_mmu.c (show_map_vma, get_vma_name), vma_is_initial_heap and
vma_is_initial_stack of include/linux/mm.h; what the kernel itself maps: special_mapping_name of mm/mmap.c.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from memcarve.images.linux.dentry_paths import File
from memcarve.images.linux.gate_area import GateArea
from memcarve.linux_mappings import HEAP, STACK, Mapping

if TYPE_CHECKING:
    from memcarve.images.kernel_half import KernelHalf
    from memcarve.images.linux.dentry_paths import Paths
    from memcarve.images.linux.kernel_structures import Structures
    from memcarve.images.linux.vmas import Vma

_MOST_NAMES = 1024  # kept at once
_LONGEST_NAME = 256
_NO_FILE = File(None, (0, 0), 0)
_PLACES = ("start_brk", "brk", "start_stack")


class Mappings:
    """Makes mappings of regions; `page` is the size of a page in bytes.

    `half` is all of the kernel's half of the address space, in which the page of old system calls is looked for.
    `touching`: the kernel calls what only touches the heap a part of it, as Linux before 6.6 does.
    """

    def __init__(
        self, kernel: Structures, paths: Paths, page: int, *, touching: bool, half: KernelHalf | None = None
    ) -> None:
        self.kernel = kernel
        self.half = half
        self.paths = paths
        self.page = page
        self.touching = touching

    def of(self, mm: int, vmas: list[Vma]) -> list[Mapping]:
        """Return the regions of the ``mm_struct`` at a kernel address as mappings, [vsyscall] last."""
        places = self.kernel.numbers(mm, "mm_struct", _PLACES)
        gate = self._gate.of(mm)
        return [self._mapping(vma, places) for vma in vmas] + ([] if gate is None else [gate])

    @functools.cached_property
    def _gate(self) -> GateArea:
        return GateArea(self.kernel, self.half)

    def _mapping(self, vma: Vma, places: tuple[int | None, ...]) -> Mapping:
        file, offset, name = _NO_FILE, 0 if vma.file == 0 else None, None
        anonymous = self._anonymous_name(vma)
        if vma.file:
            file = self.paths.of_file(vma.file)
            offset = None if vma.page_offset is None else vma.page_offset * self.page
            name = file.path if anonymous is None else b"[anon_shmem:" + anonymous + b"]"
        elif vma.file == 0:
            name = self._special(vma)
            if name is None:
                name = self._by_place(vma, places)
            if name is None and anonymous is not None:
                name = b"[anon:" + anonymous + b"]"
        else:
            file = File(None, None, None)
        return Mapping(
            vma.start,
            vma.end - vma.start,
            vma.letters,
            offset,
            file.device,
            file.inode,
            None if name is None else self.paths.text(name),
        )

    def _by_place(self, vma: Vma, places: tuple[int | None, ...]) -> bytes | None:
        begin, end, stack = places
        if begin is not None and end is not None:
            touches = vma.start <= end and vma.end >= begin
            if (touches and self.touching) or (vma.start < end and vma.end > begin):
                return HEAP.encode()
        return STACK.encode() if stack is not None and vma.start <= stack <= vma.end else None

    def _special(self, vma: Vma) -> bytes | None:
        """Return the name of what the kernel itself put there, as "[vdso]"; None if it is nothing of that kind."""
        if not vma.operations or not vma.private_data or not self._is_named(vma.operations):
            return None
        text = self.kernel.pointer(vma.private_data, "vm_special_mapping", "name")
        name = self.kernel.string(text, _LONGEST_NAME)
        return name if name is not None and name.startswith(b"[") else None

    def _is_named(self, operations: int) -> bool:
        """Return whether functions on regions have one that names them."""
        return bool(self._named(operations))

    @functools.cached_property
    def _shared_member(self) -> bool:
        """Whether the name is kept in place of what leads from a file to its regions (Linux 5.17 to 6.1)."""
        known = self.kernel.offset("vm_area_struct", "anon_name")
        return known is not None and known == self.kernel.offset("vm_area_struct", "shared")

    @functools.cached_property
    def _names(self) -> dict[int, int | None]:
        """What `_named` has found last."""
        return {}

    def _named(self, operations: int) -> int | None:
        if operations not in self._names:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names[operations] = self.kernel.number(operations, "vm_operations_struct", "name")
        return self._names[operations]

    def _anonymous_name(self, vma: Vma) -> bytes | None:
        """Return the name that the process gave (PR_SET_VMA_ANON_NAME)."""
        if not vma.anonymous_name or not self.kernel.is_kernel(vma.anonymous_name):
            return None
        inside = self.kernel.offset("anon_vma_name", "name")
        if inside is None or (vma.file and self._shared_member):
            return None
        return self.kernel.string(vma.anonymous_name + inside, _LONGEST_NAME)
