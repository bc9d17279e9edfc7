"""Names of regions without a file, as show_map_vma of Linux gives them."""

from __future__ import annotations

import pytest

from kernel_memory import KernelMemory
from memcarve.images.linux.dentry_paths import Paths
from memcarve.images.linux.process_mappings import Mappings
from memcarve.images.linux.vmas import Vma

_HEAP, _STACK = (0x10000, 0x13000), 0x7F000


class Process(KernelMemory):
    """A process with heap and stack."""

    def __init__(self) -> None:
        super().__init__()
        self.types.lay_out("mm_struct", "start_brk", "brk", "start_stack")
        self.types.lay_out("vm_area_struct", "vm_start", "shared", "anon_name")
        self.types.lay_out("vm_operations_struct", "open", "name")
        self.types.lay_out("vm_special_mapping", "name")
        self.types.lay_out("anon_vma_name", "kref", "name")
        self.mm = self.make("mm_struct", start_brk=_HEAP[0], brk=_HEAP[1], start_stack=_STACK)

    def name(self, start: int, end: int, *, touching: bool = False, **members: int) -> str | None:
        """Return the name of a region without a file."""
        kernel = self.structures()
        known = {"flags": 3, "page_offset": 0, "file": 0, "operations": 0, "private_data": 0, "anonymous_name": 0}
        mappings = Mappings(kernel, Paths(kernel, None), 4096, touching=touching)
        return mappings.of(self.mm, [Vma(1, start, end, **(known | members))])[0].name


@pytest.mark.parametrize(
    ("start", "end", "touching", "expected"),
    [
        (0x10000, 0x13000, False, "[heap]"),
        (0x12000, 0x20000, False, "[heap]"),
        (0x8000, 0x20000, False, "[heap]"),
        (0x8000, 0x10000, False, None),
        (0x13000, 0x14000, False, None),
        (0x8000, 0x10000, True, "[heap]"),
        (0x13000, 0x14000, True, "[heap]"),
        (0x14000, 0x15000, True, None),
        (0x7E000, 0x80000, False, "[stack]"),
        (0x7E000, 0x7F000, False, "[stack]"),
        (0x80000, 0x81000, False, None),
    ],
)
def test_places(start: int, end: int, touching: bool, expected: str | None) -> None:  # noqa: FBT001 - parametrised
    """Heap and stack are known by where they are; before Linux 6.6 the heap's neighbours count as heap."""
    assert Process().name(start, end, touching=touching) == expected


def test_named_memory() -> None:
    """What the process called its memory comes last, and only for memory without a file in older kernels."""
    it = Process()
    called = it.take(64)
    it.write(called + 8, b"my \xff arena\0")
    assert it.name(0x20000, 0x21000, anonymous_name=called) == "[anon:my \udcff arena]"
    assert it.name(0x10000, 0x11000, anonymous_name=called) == "[heap]"
    file = it.base + 4096
    assert it.name(0x20000, 0x21000, file=file, anonymous_name=called) == "[anon_shmem:my \udcff arena]"
    it.types.members["vm_area_struct", "anon_name"] = it.types.members["vm_area_struct", "shared"]
    assert it.name(0x20000, 0x21000, file=file, anonymous_name=called) is None
    assert it.name(0x20000, 0x21000, anonymous_name=1) is None


def test_what_the_kernel_maps() -> None:
    """It has a name if what may be done with the region includes naming it."""
    it = Process()
    naming, other = it.make("vm_operations_struct", name=it.base), it.make("vm_operations_struct")
    vdso = it.make("vm_special_mapping", name=it.text(b"[vdso]"))
    odd = it.make("vm_special_mapping", name=it.text(b"driver"))
    assert it.name(0x20000, 0x21000, operations=naming, private_data=vdso) == "[vdso]"
    assert it.name(0x20000, 0x21000, operations=other, private_data=vdso) is None
    assert it.name(0x20000, 0x21000, operations=naming, private_data=odd) is None
    assert it.name(0x20000, 0x21000, operations=naming, private_data=it.base - 1) is None


@pytest.mark.parametrize(
    ("flags", "letters"), [(0, "---p"), (7, "rwxp"), (0x8D, "r-xs"), (0xB, "rw-p"), (0x80, "---s")]
)
def test_letters(flags: int, letters: str) -> None:
    """Whether it may be shared decides, not whether it is."""
    assert Vma(1, 0, 4096, flags, 0, 0, 0, 0, 0).letters == letters
    assert Vma(1, 0, 4096, None, 0, 0, 0, 0, 0).letters is None
