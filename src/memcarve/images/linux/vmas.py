"""The regions of a process as Linux keeps them: one ``vm_area_struct`` each.

Members and flags: include/linux/mm_types.h and mm.h of Linux. From 6.1 on a maple tree leads to them; before, a list in
order of addresses, and a red-black tree (include/linux/rbtree.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.linux import maple_tree
from memcarve.images.structure_reader import counted

if TYPE_CHECKING:
    from memcarve.images.linux.kernel_structures import Structures

READ, WRITE, EXECUTE, MAY_SHARE = 1, 2, 4, 0x80  # VM_READ, VM_WRITE, VM_EXEC, VM_MAYSHARE
_LETTERS = ("---", "r--", "-w-", "rw-", "--x", "r-x", "-wx", "rwx")  # by the lowest three bits
_MOST = 1 << 19
_MEMBERS = (
    "vm_start",
    "vm_end",
    "vm_mm",
    "vm_flags",
    "vm_pgoff",
    "vm_file",
    "vm_ops",
    "vm_private_data",
    "anon_name",
)


#: a region's kernel address, and the first and last address that it must have; the last is None if that is not told
_Place = tuple[int, int, int | None]


class Vma(NamedTuple):
    """A ``vm_area_struct`` at a kernel address: ``start <= x < end``; what is not known is None.

    `page_offset` is that in the file, in pages; what points into the kernel is 0 if it is NULL.
    """

    address: int
    start: int
    end: int
    flags: int | None
    page_offset: int | None
    file: int | None
    operations: int | None
    private_data: int | None
    anonymous_name: int | None

    @property
    def letters(self) -> str | None:
        """The protection as /proc/PID/maps prints it."""
        if self.flags is None:
            return None
        return _LETTERS[self.flags & (READ | WRITE | EXECUTE)] + ("s" if self.flags & MAY_SHARE else "p")


class Found(NamedTuple):
    """The regions of an address space by address, None if unknown; and notes on what of them is missing."""

    vmas: list[Vma] | None
    notes: list[str]


class Vmas:
    """Reads the regions of address spaces; `page` is the size of a page in bytes."""

    def __init__(self, kernel: Structures, page: int) -> None:
        self.kernel = kernel
        self.page = page
        self._forms = maple_tree.forms_of(kernel)

    def of(self, mm: int) -> Found:
        """Return the regions of the ``mm_struct`` at a kernel address."""
        kernel = self.kernel
        damage: list[str]
        if kernel.offset("mm_struct", "mm_mt") is not None:
            addresses, damage, cut = self._by_maple_tree(mm)
        elif kernel.offset("mm_struct", "mmap") is not None:
            addresses, damage, cut = self._by_list(mm)
        else:
            return Found(None, ["where this kernel keeps the regions of processes is not known; none are given"])
        found, wrong = [], 0
        for address, start, last in addresses:
            vma = self._read(address, mm)
            wrong += vma is None or (last is not None and (vma.start, vma.end) != (start, last + 1))
            if vma is not None:
                found.append(vma)
        if wrong:
            damage.append(f"{counted(wrong, 'region')} cannot be read or elsewhere than told")
        notes = [f"what leads to its regions is damaged: {', '.join(damage)}; regions may be missing"] if damage else []
        if cut:
            notes.append(f"it has more regions than are read; {len(found)} are given")
        number = kernel.number(mm, "mm_struct", "map_count")
        if number is not None and number != len(found) and not cut:
            notes.append(f"the kernel counted {counted(number, 'region')}, but {len(found)} were found")
        return Found(sorted(found, key=lambda vma: vma.start), notes)

    def _read(self, address: int, mm: int) -> Vma | None:
        """Return the region at a kernel address; None if there is none of this address space."""
        start, end, owner, *members = self.kernel.numbers(address, "vm_area_struct", _MEMBERS)
        if start is None or end is None or (owner is not None and owner != mm):
            return None
        if start >= end or start % self.page or end % self.page:
            return None
        return Vma(address, start, end, *members)

    def _by_maple_tree(self, mm: int) -> tuple[list[_Place], list[str], bool]:
        """Return where regions lie, what is damaged, and whether there are more."""
        kernel = self.kernel
        walked = maple_tree.walk(kernel, self._forms, mm + (kernel.offset("mm_struct", "mm_mt") or 0))
        found: dict[int, _Place] = {}
        for first, last, value in walked.entries:
            found.setdefault(value, (value, first, last))
        again = len(walked.entries) - len(found)
        damage = [*walked.damage, f"{counted(again, 'region')} met again"] if again else walked.damage
        return [*found.values()], damage, walked.cut

    def _by_list(self, mm: int) -> tuple[list[_Place], list[str], bool]:
        """Return where regions lie by list and tree, what is damaged, and whether there are more."""
        kernel = self.kernel
        listed: dict[int, None] = {}
        at = kernel.pointer(mm, "mm_struct", "mmap")
        while at is not None and at not in listed and len(listed) < _MOST:
            listed[at] = None
            at = kernel.pointer(at, "vm_area_struct", "vm_next")
        damage = ["the list leads back into itself"] if at in listed else []
        held = self._by_tree(mm)
        if held is not None and held.keys() != listed.keys():
            lost, more = len(held.keys() - listed.keys()), len(listed.keys() - held.keys())
            damage.append(f"{counted(lost, 'region')} only in the tree, {more} only in the list")
            listed.update(held)
        return [(address, 0, None) for address in listed], damage, len(listed) >= _MOST

    def _by_tree(self, mm: int) -> dict[int, None] | None:
        """Return the addresses of the regions in the red-black tree; None if it is not known where that is."""
        kernel = self.kernel
        link = kernel.offset("vm_area_struct", "vm_rb")
        if link is None or kernel.offset("mm_struct", "mm_rb.rb_node") is None:
            return None
        top = kernel.pointer(mm, "mm_struct", "mm_rb.rb_node")
        found: dict[int, None] = {}
        waiting = [] if top is None else [top]
        while waiting and len(found) < _MOST:
            node = waiting.pop()
            if node - link not in found:
                found[node - link] = None
                children = kernel.numbers(node, "rb_node", ("rb_left", "rb_right"))
                waiting += [child for child in children if child is not None and kernel.is_kernel(child)]
        return found
