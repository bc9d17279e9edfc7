"""What a page-table root is: which mode it is for, whose it is, and where in memory others lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError
from memcarve.images import kernel
from memcarve.images.paging import (
    LINUX,
    MODES,
    NO_SYSTEM,
    PAE,
    WINDOWS,
    X64,
    X64_5,
    X86,
    AddressTable,
    Mode,
    claimed,
    default_limit,
    walk,
)
from memcarve.images.physical import PAGE, PhysicalMemory
from memcarve.images.search import everything, linux_version, look_through
from memcarve.space import KERNEL_HALF

if TYPE_CHECKING:
    import numpy.typing as npt

    Words = npt.NDArray[np.uint64]

_FRAME = np.uint64(((1 << 52) - 1) ^ 0xFFF)
_PRESENT_WRITABLE, _LARGE = np.uint64(0x3), np.uint64(0x80)
#: bits that must be zero in the four entries of a PAE root (Intel SDM volume 3, 4.4.1)
_PAE_RESERVED = np.uint64(0x1E6 | ((1 << 63) - (1 << 52)) | 1 << 63)
#: KUSER_SHARED_DATA in the kernel half of 32-bit Windows
_SHARED_DATA_32 = 0xFFDF0000
_SAMPLE = 64
_MOST_ROOTS = 4096  # roots that are looked into: no machine has as many processes
_MOST_GROUPS = 64


class Root(NamedTuple):
    """A plausible root: its physical address, what it maps (bytes, by half), and the slot of its entry for itself."""

    root: int
    mode: str
    user_bytes: int
    kernel_bytes: int
    self_map: int | None


def address_table(memory: PhysicalMemory, root: int, mode: str | None, system: str | None) -> tuple[AddressTable, str]:
    """Return how to read the tables at `root`, which may carry the flags of CR3, and in words whose they are.

    `mode` (a key of MODES) and `system` are recognised from the image where they are None.
    """
    chosen = MODES[mode] if mode else _mode(memory, root)
    own = AddressTable(_masked(root, chosen), chosen, system or NO_SYSTEM)
    if system:
        return own, f"{system}, as given"
    found, words = _system(memory, own)
    return own._replace(system=found), words


def find_roots(memory: PhysicalMemory) -> list[Root]:
    """Return the plausible roots in the image, by physical address.

    Those of 64-bit page tables, whosever they are; of 32-bit ones those of Windows, which map themselves. At most some
    thousands are looked into.
    """
    found: list[Root] = []
    narrow: list[int] = []
    directories: list[Words] = []
    for wide, own, groups in look_through(memory, everything(memory), _RootSeeker(memory)):
        for root in wide if len(found) < _MOST_ROOTS else ():
            if _is_sane(memory, root, depth=0):
                found += _measured(memory, root, X64)
        narrow += own
        directories += groups
    for root in narrow[:_MOST_ROOTS]:
        found += _measured(memory, root, X86)
    if directories:
        wanted = np.unique(np.array(directories, np.uint64), axis=0)[:_MOST_GROUPS]
        for roots in look_through(memory, everything(memory), lambda at, words: _pointing_to(at, words, wanted)):
            for root in roots:
                found += _measured(memory, root, PAE)
    return sorted(found)


def _measured(memory: PhysicalMemory, root: int, mode: Mode) -> list[Root]:
    table = AddressTable(root, mode, WINDOWS if not mode.wide else NO_SYSTEM)
    user = claimed(memory, table, 0, table.kernel_half)
    upper = claimed(memory, table, table.kernel_half)
    if not user + upper or max(user, upper) > default_limit(memory):
        return []
    own = []
    if mode.wide:
        words = memory.pages(np.array([root], np.uint64))[0]
        own = np.flatnonzero(((words & _FRAME) == np.uint64(root)) & ((words & np.uint64(1)) != 0)).tolist()
    return [Root(root, mode.name, user, upper, own[0] if own else None)]


def _pointing_to(physical: Words, words: Words, directories: Words) -> list[int]:
    """Return where four entries, as the root of PAE page tables, point to one of the given sets of four directories."""
    groups = words.reshape(len(words), -1, 4)
    found: list[int] = []
    for frames in directories:
        page, place = np.nonzero(((groups & _FRAME) == frames).all(axis=2) & ((groups & np.uint64(1)) != 0).all(axis=2))
        found += (physical[page] + place.astype(np.uint64) * np.uint64(32)).tolist()
    return found


class _RootSeeker:
    """Finds pages of which every entry is the kind that leads to another table inside the image.

    Also those that are 32-bit directories of Windows: entry 0x300 of a directory leads to itself; with PAE the first
    four entries of the last directory lead to all four, the last one to itself.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self.end = np.uint64(memory.end)

    def __call__(self, physical: Words, words: Words) -> tuple[list[int], list[int], list[Words]]:
        # the upper half of a root is never empty, and its entries are few: most pages fall at the first test
        upper = words[:, 256:]
        some = np.flatnonzero((upper != 0).any(axis=1))
        pages = words[some]
        bad = (pages & _PRESENT_WRITABLE) != _PRESENT_WRITABLE
        bad |= (pages & _LARGE) != 0
        bad |= (pages & _FRAME) >= self.end
        bad &= pages != 0
        narrow = words[:, 0x180]  # two entries of four bytes: 0x300 and 0x301
        itself = (narrow & np.uint64(0xFFFFF001)) == physical + np.uint64(1)
        first = words[:, :4]
        last = (first[:, 3] & (_FRAME | np.uint64(1))) == physical + np.uint64(1)
        last &= ((first & np.uint64(1)) != 0).all(axis=1)
        wide: list[int] = physical[some[~bad.any(axis=1)]].tolist()
        own: list[int] = physical[itself].tolist()
        return wide, own, list(first[last] & _FRAME)


def _is_sane(memory: PhysicalMemory, table: int, depth: int) -> bool:
    """Say whether tables are tables, all the way down: a sample of the entries is followed at each level."""
    if not memory.holds(np.array([table], np.uint64), PAGE)[0]:
        return False
    words = memory.pages(np.array([table], np.uint64))[0]
    entries = words[(words & np.uint64(1)) != 0]
    if not len(entries):
        return depth > 0 and not words.any()
    inside = (entries & _FRAME) < np.uint64(memory.end)
    if int(inside.sum()) * 10 < len(entries) * 9:
        return False
    if depth == 3:  # noqa: PLR2004 - the last level
        return True
    below = entries[inside & (((entries & _LARGE) == 0) | (depth == 0))] & _FRAME
    below = below[below != np.uint64(table)]
    sample = below[:: max(len(below) // 8, 1)][:8]
    good = sum(_is_sane(memory, int(frame), depth + 1) for frame in sample.tolist())
    return good * 4 >= len(sample) * 3


def _masked(root: int, mode: Mode) -> int:
    """Return a root without the flags, or the PCID, in CR3's low bits."""
    return root & ((1 << 52) - 1) & ~(0x1F if mode is PAE else 0xFFF)


def _mode(memory: PhysicalMemory, root: int) -> Mode:
    """Recognise which kind of tables lie at a root."""
    groups = memory.read(root & ~0x1F, 32)
    if groups is not None:
        entries = np.frombuffer(groups, np.uint64)
        used = entries[entries != 0]
        present = (used & np.uint64(1)) != 0
        if len(used) and present.all() and not (used & _PAE_RESERVED).any():
            directories = used & _FRAME
            if memory.holds(directories, PAGE).all() and len(np.unique(directories)) == len(directories):
                return PAE
    page = memory.read(_masked(root, X64), PAGE)
    if page is None:
        return X64
    wide, narrow = np.frombuffer(page, np.uint64), np.frombuffer(page, np.uint32).astype(np.uint64)
    if _share(memory, wide, large=False) >= 0.5 or _share(memory, narrow, large=True) < 0.5:  # noqa: PLR2004
        return X64_5 if _leads_to_tables(memory, _masked(root, X64)) else X64
    return X86


def _share(memory: PhysicalMemory, entries: Words, *, large: bool) -> float:
    """Return the share of the present entries that may stand in a root."""
    present = entries[(entries & np.uint64(1)) != 0]
    if not len(present):
        return 0.0
    good = memory.holds(present & _FRAME, PAGE) & ((present & _LARGE) == 0)
    if large:
        good |= (present & _LARGE) != 0
    return float(good.mean())


def _leads_to_tables(memory: PhysicalMemory, root: int) -> bool:
    """Say whether what four levels lead to are not pages but tables: then the root is one of five levels."""
    try:
        found = walk(memory, AddressTable(root, X64, NO_SYSTEM), 0, KERNEL_HALF).placed
    except LimitError:
        return False
    small = found.physical[found.size >= np.uint64(PAGE)]
    sample = small[:: max(len(small) // _SAMPLE, 1)][:_SAMPLE]
    sample = sample[memory.holds(sample, PAGE)]
    if not len(sample):
        return False
    pages = memory.pages(sample)
    used = pages != 0
    present = (pages & np.uint64(1)) != 0
    tables = present & ((pages & _FRAME) < np.uint64(memory.end)) & ((pages & _FRAME) != 0)
    filled = used.any(axis=1)
    looks = filled & (tables.sum(axis=1) * 2 > used.sum(axis=1))
    return bool(filled.any()) and int(looks.sum()) * 2 > int(filled.sum())


def _system(memory: PhysicalMemory, table: AddressTable) -> tuple[str, str]:
    """Recognise the operating system; return it and in words how."""
    windows = table._replace(system=WINDOWS)
    try:
        version = (
            kernel.shared_data(memory, windows)
            if table.mode.wide
            else kernel.shared_data(memory, windows, _SHARED_DATA_32)
        )
    except LimitError:
        version = None
    if version:
        return WINDOWS, f"Windows {version}"
    linux = linux_version(memory)
    if linux:
        return LINUX, f"Linux {linux}"
    if table.mode.wide:
        found = kernel.find_table(memory)
        if found:
            return WINDOWS, f"Windows {found[1]}"
    return NO_SYSTEM, "no operating system was recognised, so present pages only; --os says which it is"


__all__ = ["X86", "Root", "address_table", "find_roots"]
