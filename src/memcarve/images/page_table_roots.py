"""What a page-table root is: which mode it is for, whose it is, and where in memory others lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError, UsageError
from memcarve.images import arm64_roots
from memcarve.images.linux.landmarks import first_banner
from memcarve.images.paging import claimed, translate, walk
from memcarve.images.paging_modes import (
    ARM64,
    FRAME,
    LINUX,
    LINUX_IMAGE,
    MODES,
    NO_SYSTEM,
    PAE,
    PRESENT,
    UPPER_HALF,
    WINDOWS,
    X64,
    X64_5,
    X86,
    AddressTable,
    Mode,
)
from memcarve.images.physical import past_unreadable
from memcarve.images.physical_scan import everything, look_through
from memcarve.images.windows import kernel
from memcarve.intervals import PAGE, TOP, distinct
from memcarve.permissions import USER
from memcarve.segments import KERNEL_HALF

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from memcarve.dtypes import U64
    from memcarve.images.physical import PhysicalMemory


_PRESENT_WRITABLE, _LARGE = np.uint64(0x3), np.uint64(0x80)
#: bits that must be zero in the four entries of a PAE root (Intel SDM volume 3, 4.4.1). Bit 5 is also one of them, but
#: QEMU's emulation of a processor sets it (Accessed, target/i386/tcg/system/excp_helper.c)
_PAE_RESERVED = np.uint64(0x1C6 | ((1 << 63) - (1 << 52)) | 1 << 63)
_WRITABLE = np.uint64(0x2)
#: KUSER_SHARED_DATA in the kernel half of 32-bit Windows
_SHARED_DATA_32 = 0xFFDF0000
_SAMPLE = 64
_TABLES_A_PAGE = 16  # tables that are read while looking for roots, for each page of the image
_MOST_GROUPS = 64
#: where else than at 3 GiB 32-bit kernels may begin
_SPLITS = (0x40000000, 0x78000000, 0x80000000, 0xB0000000)
_MOST_CLAIMED = 8  # times the memory: tables that map more are damaged, or not tables


class Root(NamedTuple):
    """A plausible root: its physical address, what it maps (bytes, by half), and the slot of its entry for itself.

    The bytes of a half that was not looked into are None. `user_copy` is where the copy of a root lies with which
    Linux runs a process's own code, and in which hardly any of the kernel is mapped (page-table isolation).
    """

    root: int
    mode: str
    user_bytes: int | None
    kernel_bytes: int | None
    self_map: int | None
    user_copy: int | None = None


def address_table(memory: PhysicalMemory, root: int, mode: str | None, system: str | None) -> tuple[AddressTable, str]:
    """Return how to read the tables at `root`, which may carry the flags of CR3, and in words whose they are.

    `mode` (a key of MODES) and `system` are recognised from the image if they are None. On ARM64 a root is that of a
    process or of the kernel, as what it maps is; of the kernel's half of a process nothing is known then.

    Raises UsageError for Windows on ARM64.
    """
    chosen = MODES[mode] if mode else _mode(memory, root)
    own = AddressTable(_masked(root, chosen), chosen, system or NO_SYSTEM)
    if chosen.split and system == WINDOWS:
        raise UsageError("entries of Windows' page tables on ARM64 are not known", remedy="leave {system} out")
    if chosen.split and not _maps_user_pages(memory, own):
        own = own._replace(kernel_root=own.root)
    if system:
        own = own._replace(kernel_from=kernel_from(memory, own))
        return own, "present pages only, as given" if system == NO_SYSTEM else f"{system}, as given"
    found, words = _system(memory, own)
    own = own._replace(system=found)
    return own._replace(kernel_from=kernel_from(memory, own)), words


def kernel_from(memory: PhysicalMemory, table: AddressTable) -> int | None:
    """Return where the kernel's half of a 32-bit Linux begins if that is not at 3 GiB; None if it is, or is not known.

    There Linux maps all low memory, from physical address 0 on (PAGE_OFFSET; CONFIG_VMSPLIT in arch/x86/Kconfig).
    """
    if table.mode.wide or table.system != LINUX:
        return None
    for begin in _SPLITS:
        if all(translate(memory, table, begin + ahead) == ahead for ahead in (1 << 20, 1 << 24)):
            return begin
    return None


def find_roots(memory: PhysicalMemory, half: str = "all", mode: Mode | None = None) -> list[Root]:
    """Return the plausible roots in the image, by physical address; those that map no user memory come last.

    With a `half`, a vocabulary.Half, only what maps memory there, which is all that is looked into. `mode` is that of
    the machine, if its system is known.

    Those of 64-bit page tables, whosever they are; of 32-bit ones those of Windows, which map themselves.
    """
    if memory.architecture == "arm64" or (mode is not None and mode.split):
        return _arm64_roots(memory, half, ARM64 if mode is None or not mode.split else (mode,))
    scan = _Scan(memory, half)
    narrow: list[int] = []
    directories: list[U64] = []
    sane: list[int] = []
    granule = None
    for wide, own, groups, size in look_through(memory, everything(memory), _RootSeeker(memory)):
        sane += [root for root in wide if scan.is_sane(root)]
        narrow += own
        directories += groups
        granule = granule or size
    if granule and memory.architecture is None and not sane and not narrow and not directories:
        return _arm64_roots(memory, half, [mode for mode in ARM64 if mode.page == granule << 10])
    for root, found in _levels(memory, sane):
        scan.measure(root, found)
    for root in narrow:
        scan.measure(root, X86)
    if directories:
        wanted = np.unique(np.array(directories, np.uint64), axis=0)[:_MOST_GROUPS]
        for roots in look_through(memory, everything(memory), lambda at, words: _pointing_to(at, words, wanted)):
            for root in roots:
                scan.measure(root, PAE)
    return sorted(_with_copies(memory, scan.found), key=lambda found: (found.user_bytes == 0, found.root))


def _arm64_roots(memory: PhysicalMemory, half: str, modes: Sequence[Mode]) -> list[Root]:
    """Return the roots of ARM64: each maps one half."""
    most = _MOST_CLAIMED * memory.total + (1 << 30)
    found = [
        Root(
            each.root,
            each.mode.name,
            (each.size if each.user else 0) if half != "kernel" else None,
            (0 if each.user else each.size) if half != "user" else None,
            None,
        )
        for each in arm64_roots.find_roots(memory, modes, most)
        if half == "all" or each.user == (half == "user")
    ]
    return sorted(found, key=lambda each: (each.user_bytes == 0, each.root))


def _levels(memory: PhysicalMemory, roots: list[int]) -> list[tuple[int, Mode]]:
    """Return the roots, which look like those of four levels, with their mode: all have four levels, or five.

    Of a machine with five levels the tables below its roots look like roots of four: they are left out.
    """
    others = [root for root in roots if _self_map(memory, root) is None]
    below = {frame for root in others for frame in (memory.pages(np.array([root], np.uint64))[0] & FRAME).tolist()}
    top = [root for root in others if root not in below]
    sample = top[:: max(len(top) // _SAMPLE, 1)][:_SAMPLE]
    if 2 * sum(_leads_to_tables(memory, root) for root in sample) < max(len(sample), 1):
        return [(root, X64) for root in roots]
    return [(root, X64_5) for root in others if _leads_to_tables(memory, root)]


def _self_map(memory: PhysicalMemory, root: int) -> int | None:
    words = memory.pages(np.array([root], np.uint64))[0]
    own = np.flatnonzero(((words & FRAME) == np.uint64(root)) & ((words & PRESENT) != 0))
    return int(own[0]) if len(own) else None


def _with_copies(memory: PhysicalMemory, found: list[Root]) -> list[Root]:
    """Return the roots without those that are Linux's copies of others for user mode, which these name then.

    Both lie side by side, the copy second, and lead to the same tables in the lower half (arch/x86/mm/pti.c).
    """
    places = {each.root: each for each in found if MODES[each.mode].wide}
    copies = {
        root: root + PAGE for root in places if root % (2 * PAGE) == 0 and _is_copy(memory, root, root + PAGE, places)
    }
    gone = set(copies.values())
    return [each._replace(user_copy=copies.get(each.root)) for each in found if each.root not in gone]


def _is_copy(memory: PhysicalMemory, root: int, copy: int, places: Container[int]) -> bool:
    if copy not in places:
        return False
    lower = memory.pages(np.array([root, copy], np.uint64))[:, :UPPER_HALF] & (FRAME | PRESENT)
    return bool(lower.any() and (lower[0] == lower[1]).all())


class _Scan:
    """Looks into candidates, with a budget: tables made to look like roots must not take forever."""

    def __init__(self, memory: PhysicalMemory, half: str) -> None:
        self.memory = memory
        self.half = half
        self.found: list[Root] = []
        self.budget = _TABLES_A_PAGE * (memory.total // PAGE) + (1 << 16)
        self._sane: dict[tuple[int, int], bool] = {}

    @past_unreadable
    def measure(self, root: int, mode: Mode) -> None:
        """Note what a root maps, if that is plausible."""
        if self.budget <= 0:
            return
        memory, most = self.memory, _MOST_CLAIMED * self.memory.total + (1 << 30)
        table = AddressTable(root, mode, WINDOWS if not mode.wide else NO_SYSTEM)
        sizes: dict[str, int] = {}
        for half, start, end in (("user", 0, table.kernel_half), ("kernel", table.kernel_half, TOP)):
            if self.half in ("all", half):
                sizes[half], tables = claimed(memory, table, start, end, most)
                self.budget -= tables
        if not 0 < sum(sizes.values()) <= most:
            return
        own = _self_map(memory, root) if mode.wide else None
        self.found.append(Root(root, mode.name, sizes.get("user"), sizes.get("kernel"), own))

    def is_sane(self, table: int, depth: int = 0) -> bool:
        """Return True if tables are tables, all the way down: a sample of the entries is followed at each level."""
        key = (table, depth)
        if key not in self._sane and self.budget > 0:
            self.budget -= 1
            self._sane[key] = False  # until it is known: tables may point to each other
            self._sane[key] = self._look(table, depth)
        return self._sane.get(key, False)

    @past_unreadable
    def _look(self, table: int, depth: int) -> bool:
        address = np.array([table], np.uint64)
        if not self.memory.holds_tables(address)[0]:
            return False
        words = self.memory.pages(address)[0]
        entries = words[(words & PRESENT) != 0]
        if not len(entries):
            return depth > 0 and not words.any()
        inside = (entries & FRAME) < np.uint64(self.memory.end)
        if int(inside.sum()) * 2 < len(entries):
            return False
        if depth == 3:  # noqa: PLR2004 - the last level
            return int(inside.sum()) * 10 >= len(entries) * 9
        below = entries[inside & (((entries & _LARGE) == 0) | (depth == 0))] & FRAME
        below = below[below != np.uint64(table)]
        sample = below[:: max(len(below) // 8, 1)][:8].tolist()
        return sum(self.is_sane(frame, depth + 1) for frame in sample) * 2 >= len(sample)


def _pointing_to(physical: U64, words: U64, directories: U64) -> list[int]:
    """Return where four entries, as the root of PAE page tables, point to one of the given sets of four directories."""
    groups = words.reshape(len(words), -1, 4)
    found: list[int] = []
    for frames in directories:
        # the directories' entries for themselves are not a root: they allow writing
        pointing = ((groups & FRAME) == frames).all(axis=2)
        pointing &= ((groups & (_PAE_RESERVED | PRESENT)) == PRESENT).all(axis=2)
        page, place = np.nonzero(pointing)
        found += (physical[page] + place.astype(np.uint64) * np.uint64(32)).tolist()
    return found


class _RootSeeker:
    """Finds pages of which nearly every entry is the kind that leads to another table inside the image.

    Also those that are 32-bit directories of Windows: entry 0x300 of a directory leads to itself; with PAE the first
    four entries of the last directory lead to all four, the last one to itself. And the size of pages that the header
    of an ARM64 kernel says.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self.end = np.uint64(memory.end)

    def __call__(self, physical: U64, words: U64) -> tuple[list[int], list[int], list[U64], int | None]:
        # the upper half of a root is never empty, and its entries are few: most pages fall at the first test
        upper = words[:, UPPER_HALF:]
        some = np.flatnonzero((upper != 0).any(axis=1))
        pages = words[some]
        bad = (pages & _PRESENT_WRITABLE) != _PRESENT_WRITABLE
        bad |= (pages & _LARGE) != 0
        bad |= (pages & FRAME) >= self.end
        used = pages != 0
        bad &= used
        narrow = words[:, 0x180]  # two entries of four bytes: 0x300 and 0x301
        itself = (narrow & np.uint64(0xFFFFF001)) == physical + PRESENT
        first = words[:, :4]
        last = (first[:, 3] & (FRAME | PRESENT)) == physical + PRESENT
        last &= ((first & PRESENT) != 0).all(axis=1)
        # a root may hold an entry in transition, or one that leads out of a cut image
        few = bad.sum(axis=1) * 4 <= (used & ~bad).sum(axis=1)
        few &= (used & ~bad)[:, UPPER_HALF:].any(axis=1)
        wide: list[int] = physical[some[few]].tolist()
        own: list[int] = physical[itself].tolist()
        return wide, own, list(first[last] & FRAME), arm64_roots.granule_of_header(words)


def _masked(root: int, mode: Mode) -> int:
    """Return a root without the flags, or the PCID, in CR3's low bits; of TTBR without CnP and ASID (bits 0, 48-63)."""
    if mode.split:
        return root & ((1 << 48) - 1) & -mode.root_size
    return root & ((1 << 52) - (0x20 if mode is PAE else PAGE))


def _maps_user_pages(memory: PhysicalMemory, table: AddressTable) -> bool:
    """Return True if programs have access to anything that tables map, or if they map too much to tell."""
    try:
        return bool((walk(memory, table).placed.flags & USER).any())
    except LimitError:
        return True


@past_unreadable
def _mode(memory: PhysicalMemory, root: int) -> Mode:
    """Recognise which kind of tables lie at a root."""
    if memory.architecture == "arm64":
        return arm64_roots.recognised(memory, root & ((1 << 48) - 2)) or MODES["arm64-4k-48"]
    entries = np.frombuffer(memory.peek(root & ~0x1F, 32), np.uint64)
    used = entries[entries != 0]
    present = (used & PRESENT) != 0
    within = root & 0xFE0 != 0 and root & 0x7 == 0  # of a page: PAE alone has such roots, but a PCID may look like that
    if len(used) and present.all() and not (used & _PAE_RESERVED).any():
        directories = used & FRAME
        apart = len(distinct(directories)) == len(directories)
        if within or (apart and memory.holds_tables(directories).all()):
            return PAE
    page = memory.peek(_masked(root, X64), PAGE)
    wide, narrow = np.frombuffer(page, "<u8"), np.frombuffer(page, "<u4").astype(np.uint64)
    entries = wide[(wide & PRESENT) != 0]
    if within and 2 * int(((entries & _WRITABLE) != 0).sum()) <= len(entries):
        return PAE  # not a root of a whole page: there, entries allow writing
    if _is_narrow(memory, wide, narrow):
        return X86
    return X64_5 if _leads_to_tables(memory, _masked(root, X64)) else X64


def _is_narrow(memory: PhysicalMemory, wide: U64, narrow: U64) -> bool:
    """Return True if a root, given in both readings, holds entries of four bytes.

    The upper halves of 64-bit entries hardly ever make sense as entries, and those of a dense directory as addresses.
    """
    good = _share(memory, wide, large=False)
    upper = narrow[1::2]
    odd = upper[upper != 0]
    sensible = _share(memory, odd, large=True) * float(((odd & PRESENT) != 0).mean()) if len(odd) else 0.0
    if sensible >= 0.75 and good < 0.75:  # noqa: PLR2004
        return True
    return good < 0.5 <= _share(memory, narrow, large=True)  # noqa: PLR2004


def _share(memory: PhysicalMemory, entries: U64, *, large: bool) -> float:
    """Return the share of the present entries that may stand in a root."""
    present = entries[(entries & PRESENT) != 0]
    if not len(present):
        return 0.0
    good = memory.holds_tables(present & FRAME) & ((present & _LARGE) == 0)
    if large:
        good |= (present & _LARGE) != 0
    return float(good.mean())


def _leads_to_tables(memory: PhysicalMemory, root: int) -> bool:
    """Return True if what four levels lead to are not pages but tables: then the root is one of five levels."""
    table = AddressTable(root, X64, NO_SYSTEM)
    try:
        found = walk(memory, table, 0, KERNEL_HALF).placed
        if not len(found.start):
            found = walk(memory, table, KERNEL_HALF).placed
    except LimitError:
        return False
    sample = found.physical[:: max(len(found.physical) // _SAMPLE, 1)][:_SAMPLE]
    sample = sample[memory.holds(sample, PAGE)]
    if not len(sample):
        return False
    pages = memory.pages(sample)
    used = pages != 0
    present = (pages & PRESENT) != 0
    tables = present & ((pages & FRAME) < np.uint64(memory.end)) & ((pages & FRAME) != 0)
    filled = used.any(axis=1)
    looks = filled & (tables.sum(axis=1) * 2 > used.sum(axis=1))
    return bool(filled.any()) and int(looks.sum()) * 2 > int(filled.sum())


def _system(memory: PhysicalMemory, table: AddressTable) -> tuple[str, str]:
    """Recognise the operating system; return it and in words how."""
    if table.mode.split:
        return LINUX, "taken for Linux on ARM64, as nothing else is known"
    windows = table._replace(system=WINDOWS)
    try:
        version = kernel.shared_data(memory, windows, kernel.SHARED_DATA if table.mode.wide else _SHARED_DATA_32)
    except LimitError:
        version = None
    if version:
        return WINDOWS, f"Windows {version}"
    linux = first_banner(memory)
    if linux and _maps(memory, table, linux.physical):
        return LINUX, f"Linux {linux.release}"
    # a Windows may hold a Linux (WSL), and a root for user mode may map little of its kernel
    found = next(kernel.find_tables(memory), None) if table.mode.wide else None
    if found and found[1].major:
        return WINDOWS, f"Windows {found[1]}"
    if linux:
        return LINUX, f"Linux {linux.release}"
    return NO_SYSTEM, (
        "no operating system was recognised, so only present pages are read; --os (in the library system=) names it"
    )


def _maps(memory: PhysicalMemory, table: AddressTable, physical: int) -> bool:
    """Return True if a physical address is mapped where 64-bit Linux keeps its kernel's image."""
    if not table.mode.wide:
        return True
    try:
        placed = walk(memory, table, LINUX_IMAGE, LINUX_IMAGE + (1 << 30)).placed
    except LimitError:
        return False
    return bool((np.uint64(physical) - placed.physical < placed.size).any())
