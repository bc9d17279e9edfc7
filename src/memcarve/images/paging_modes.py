"""The ways in which x86 processors translate addresses, and whose operating system's tables they are.

Sources: Intel SDM volume 3, chapter 4; AMD APM volume 2, chapter 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memcarve.intervals import PAGE
from memcarve.vocabulary import System

WINDOWS, LINUX, NO_SYSTEM = System
#: the physical address in a 64-bit entry, or in CR3 without its flags and the PCID
ROOT = (1 << 52) - PAGE
FRAME, PRESENT = np.uint64(ROOT), np.uint64(1)
UPPER_HALF = 256  # entries of a root


class Level(NamedTuple):
    """One level of tables: each entry maps `1 << shift` bytes; `large` says that it may map them without a table."""

    shift: int
    large: bool


class Mode(NamedTuple):
    """How a processor translates: entries of `entry` bytes, `top` of them in the root; addresses of `bits` bits."""

    name: str
    levels: tuple[Level, ...]
    entry: int
    top: int
    bits: int

    @property
    def wide(self) -> bool:
        """Whether addresses are 64-bit ones, whose highest bit is extended."""
        return self.bits > 32  # noqa: PLR2004


_LOWER = (Level(39, large=False), Level(30, large=True), Level(21, large=True), Level(12, large=False))
X64 = Mode("x64", _LOWER, 8, 512, 48)
X64_5 = Mode("x64-5", (Level(48, large=False), *_LOWER), 8, 512, 57)
PAE = Mode("pae", (Level(30, large=False), Level(21, large=True), Level(12, large=False)), 8, 4, 32)
X86 = Mode("x86", (Level(22, large=True), Level(12, large=False)), 4, 1024, 32)
MODES = {mode.name: mode for mode in (X64, X64_5, PAE, X86)}


class AddressTable(NamedTuple):
    """A root of page tables and how to read it: `root` is a physical address without the flags that CR3 holds."""

    root: int
    mode: Mode
    system: str

    @property
    def kernel_half(self) -> int:
        """The first address of the kernel's half: 32-bit Windows from 2 GiB, Linux from 3 GiB."""
        if self.mode.wide:
            return 1 << 63
        return 0xC0000000 if self.system == LINUX else 0x80000000
