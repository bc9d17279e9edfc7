"""The ways in which processors translate addresses, and whose operating system's tables they are.

Sources: Intel SDM volume 3, chapter 4; AMD APM volume 2, chapter 5; Arm Architecture Reference Manual, chapter D8
(VMSAv8-64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.intervals import PAGE, TOP
from memcarve.vocabulary import System

if TYPE_CHECKING:
    from memcarve.images.linux.absent_entries import AbsentRules

WINDOWS, LINUX, NO_SYSTEM = System
#: the physical address in a 64-bit entry of x86, or in CR3 without its flags and the PCID
ROOT = (1 << 52) - PAGE
FRAME, PRESENT, NO_EXECUTE = np.uint64(ROOT), np.uint64(1), np.uint64(1 << 63)
UPPER_HALF = 256  # entries of a root
#: from where on Linux on x86-64 maps its kernel's image: __START_KERNEL_map, Documentation/arch/x86/x86_64/mm.rst
LINUX_IMAGE = 0xFFFFFFFF80000000


class Level(NamedTuple):
    """One level of tables: each entry maps `1 << shift` bytes; `large` says that it may map them without a table."""

    shift: int
    large: bool


class Mode(NamedTuple):
    """How a processor translates: entries of `entry` bytes, `top` of them in the root; addresses of `bits` bits.

    A page, and a table below the root, has `page` bytes. `split`: an address space has two roots, each for `bits` bits
    of addresses: the user half's translates the lowest addresses, the kernel half's the highest. Those are ARM64's.
    `lpa2`: its descriptors carry bits 51:50 of an address in their bits 9:8.
    """

    name: str
    levels: tuple[Level, ...]
    entry: int
    top: int
    bits: int
    page: int = PAGE
    split: bool = False
    lpa2: bool = False

    @property
    def wide(self) -> bool:
        """Whether addresses are 64-bit ones, whose highest bit is extended."""
        return self.bits > 32  # noqa: PLR2004

    @property
    def root_size(self) -> int:
        """The bytes of a root, which begins at a multiple of them."""
        return self.entry * self.top

    @property
    def upper(self) -> int:
        """The lowest address of the upper half, as 64-bit addresses are extended."""
        return TOP - (1 << (self.bits if self.split else self.bits - 1))

    @property
    def address_bits(self) -> int:
        """How many bits tell an address; 64 if halves of `bits` bits each lie at both ends of all addresses."""
        return 64 if self.split else self.bits


_LOWER = (Level(39, large=False), Level(30, large=True), Level(21, large=True), Level(12, large=False))
X64 = Mode("x64", _LOWER, 8, 512, 48)
X64_5 = Mode("x64-5", (Level(48, large=False), *_LOWER), 8, 512, 57)
PAE = Mode("pae", (Level(30, large=False), Level(21, large=True), Level(12, large=False)), 8, 4, 32)
X86 = Mode("x86", (Level(22, large=True), Level(12, large=False)), 4, 1024, 32)


def _arm64(granule: int, bits: int, *, lpa2: bool = False) -> Mode:
    """Return ARM64's translation of addresses of `bits` bits with pages of `granule` KiB.

    Each level but the first translates as many bits as a page has entries. Blocks are mapped at level 2, and with
    4 KiB at level 1 (Arm ARM, D8.3.1); with FEAT_LPA2 a level higher, too, and with 64 KiB at level 1 by FEAT_LPA.
    """
    page = granule << 10
    low, step = page.bit_length() - 1, page.bit_length() - 4
    highest = {4: 39 if lpa2 else 30, 16: 36 if lpa2 else 25, 64: 42}[granule]
    shifts = range(low, bits, step)[::-1]
    levels = tuple(Level(shift, large=low < shift <= highest) for shift in shifts)
    return Mode(f"arm64-{granule}k-{bits}", levels, 8, 1 << (bits - shifts[0]), bits, page, split=True, lpa2=lpa2)


ARM64 = (
    _arm64(4, 39),
    _arm64(4, 48),
    _arm64(4, 52, lpa2=True),
    _arm64(16, 36),
    _arm64(16, 47),
    _arm64(16, 48),
    _arm64(16, 52, lpa2=True),
    _arm64(64, 42),
    _arm64(64, 48),
    _arm64(64, 52),
)
MODES = {mode.name: mode for mode in (X64, X64_5, PAE, X86, *ARM64)}


class AddressTable(NamedTuple):
    """A root of page tables and how to read it: `root` is a physical address without the flags that CR3 holds.

    On ARM64 `root` is that of the user half (TTBR0; the `pgd` of a process), and `kernel_root` that of the kernel half
    (TTBR1; ``swapper_pg_dir``). Without a `kernel_root` nothing is known of the kernel half. If both are the same, as
    for a kernel thread, nothing is mapped in the user half.

    `kernel_from` is the first address of the kernel's half if it is not where the mode and the system put it (32-bit
    kernels made with another CONFIG_VMSPLIT). `absent` says how Linux's entries are read that are not present; None if
    nothing is known of its version. `isolated`: the root of a process of Linux with page-table isolation, which forbids
    that anything of the user half runs. User code runs with a copy that allows it: the permissions are the copy's.
    """

    root: int
    mode: Mode
    system: str
    kernel_root: int | None = None
    kernel_from: int | None = None
    absent: AbsentRules | None = None
    isolated: bool = False

    @property
    def kernel_half(self) -> int:
        """The first address of the kernel's half: 32-bit Windows from 2 GiB, Linux from 3 GiB."""
        if self.kernel_from is not None:
            return self.kernel_from
        if self.mode.wide:
            return 1 << 63
        return 0xC0000000 if self.system == LINUX else 0x80000000

    def roots(self) -> list[tuple[int, int]]:
        """Return the physical addresses of the roots, each with the address that its first entry translates."""
        if not self.mode.split:
            return [(self.root, 0)]
        user = [] if self.root == self.kernel_root else [(self.root, 0)]
        return user if self.kernel_root is None else [*user, (self.kernel_root, self.mode.upper)]
