"""The kernel of a Linux machine: its first task, its page tables, its memory.

The first task, ``init_task`` (init/init_task.c of Linux), is found by what it must look like: its ``comm`` is
``swapper/0`` (``swapper`` on machines of one processor), it has pid 0 and leads its own thread group. That it points to
itself tells its virtual address; page tables are the kernel's if they lead from there to where it lies. No symbol, and
no address at which kernels are usually loaded, is needed for that.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError, ProcessError
from memcarve.images.kernel_half import KernelHalf
from memcarve.images.linux.kernel_structures import Structures
from memcarve.images.linux.landmarks import by_distance
from memcarve.images.paging import translate
from memcarve.images.paging_modes import ARM64, LINUX, LINUX_IMAGE, PAE, X64, X64_5, X86, AddressTable, Mode
from memcarve.images.physical_scan import everything
from memcarve.intervals import PAGE, TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.dtypes import U64, Bools
    from memcarve.formats.kernel_types import KernelTypes
    from memcarve.images.linux.landmarks import Information, Landmarks
    from memcarve.images.physical import PhysicalMemory

    _Look = Callable[[PhysicalMemory, "FirstTask", tuple[Mode, ...]], Iterator[int]]

_NEAR = 64 << 20  # how far from init_task the kernel keeps its first page tables: they are in the same image
_MOST_NAMES = 1 << 16  # places at which the first task's name may be
_MOST_TASKS, _MOST_IN_ALL = 1 << 12, 1 << 13  # places that look like the first task: by some types, by all
_MOST_NEAR, _MOST_ANYWHERE = 8, 2  # of them, for which page tables are looked for near them, and in all memory
_MOST_OPENED = 8  # whose page tables are walked
_MOST_PLACES = 16  # at which the memory may begin for one
_MOST_ROOTS = 1 << 14
_MOST_BASES = 64  # roots from which the beginning of a raw image is worked out
_STRIDE = 4 << 20
_ALIGNED = 2 << 20  # what RAM begins at a multiple of
_IMAGE = 32 << 20  # how far from init_task the kernel's own variables are looked for
_HIGHEST_BASE = 1 << 44
_WORD = 8


class FirstTask(NamedTuple):
    """``init_task``: its virtual and its physical address, and the types by which it makes sense."""

    address: int
    physical: int
    types: KernelTypes

    @property
    def shift(self) -> int:
        """Virtual minus physical address of what lies in the kernel's image."""
        return self.address - self.physical


class Kernel(NamedTuple):
    """A kernel: the machine's memory, its page tables, its half of the address space, its structures and first task.

    `others` are first tasks of other kernels, to which page tables lead, too.
    """

    memory: PhysicalMemory
    table: AddressTable
    space: KernelHalf
    structures: Structures
    first: FirstTask
    others: tuple[FirstTask, ...] = ()

    def physical_of(self, address: int) -> int | None:
        """Return the physical address of a kernel address; None if nothing is mapped there."""
        return self.space.physical_of(address)


def first_tasks(memory: PhysicalMemory, names: Iterable[int], types: KernelTypes) -> Iterator[FirstTask]:
    """Yield what makes sense as the first task by some types, given where its name may lie (physical addresses)."""
    members = {
        name: types.member("task_struct", name) for name in ("comm", "pid", "tgid", "group_leader", "real_parent")
    }
    if any(member is None for member in members.values()):
        return
    at = {name: member.offset for name, member in members.items() if member is not None}
    word, found = types.pointer_size, 0
    for name in itertools.islice(names, _MOST_NAMES):
        start = name - at["comm"]
        if start < 0 or start % word:
            continue
        values = {member: memory.read(start + at[member], 4 if member.endswith("id") else word) for member in at}
        if any(value is None for value in values.values()):
            continue
        numbers = {member: int.from_bytes(value or b"", "little") for member, value in values.items()}
        address = numbers["group_leader"]
        itself = numbers["real_parent"] == address and address % word == 0
        if numbers["pid"] == 0 == numbers["tgid"] and itself and address >> (8 * word - 1):
            found += 1
            yield FirstTask(address, start, types)
        if found == _MOST_TASKS:
            return


def find_kernel(
    memory: PhysicalMemory,
    types: Iterable[tuple[KernelTypes, int | None]],
    landmarks: Landmarks,
    *,
    quick: bool = False,
) -> Kernel | None:
    """Return the kernel that is found with one of some types; None if there is none.

    With types comes the physical address at which they lie, None if not in the memory: the first task lies in the same
    image of a kernel, so what is nearest comes first. The memory of the kernel that is returned may begin elsewhere: a
    raw image does not say at which address it does. If it should be `quick`, all the memory is not looked through, and
    the kernel's half is not walked. Raises ProcessError if its page tables claim too much.
    """
    banners = [banner.physical for banner in landmarks.banners]
    found = (
        first
        for each, place in types
        for first in first_tasks(memory, by_distance(landmarks.names, banners if place is None else [place]), each)
    )
    return kernel_of(memory, itertools.islice(found, _MOST_IN_ALL), landmarks.information, quick=quick)


def kernel_of(
    memory: PhysicalMemory, firsts: Iterable[FirstTask], information: list[Information], *, quick: bool = False
) -> Kernel | None:
    """Return the kernel of one of some first tasks; None if no page tables lead to any, and on to its neighbours.

    Anybody can put into a program's memory what looks like a first task. So it is looked at all of them with the page
    tables that something tells; what VMCOREINFO says of where the kernel lies decides, else their order. Only if that
    finds none are tables looked for, and only for the first ones: that may take a look through all the memory. Raises
    ProcessError if its page tables claim too much.
    """
    candidates = [*firsts]
    found = [each for first in candidates if (each := _told(memory, first, information)) is not None]
    found.sort(key=lambda each: each[2].shift not in _told_shifts(information))
    told = bool(found)
    # what is worked out tells a root, too
    looks: list[tuple[_Look | None, int]] = [(None, _MOST_NEAR), (_near, _MOST_NEAR), (_anywhere, _MOST_ANYWHERE)]
    places: list[Iterator[tuple[PhysicalMemory, FirstTask, int | None]]] = [
        itertools.islice(_placed(memory, first, information), _MOST_PLACES) for first in candidates[:_MOST_NEAR]
    ]
    for look, most in looks[:-1] if quick else looks:
        for number in range(len(places[:most])):
            if not found:
                # worked out once for all looks, as far as it is asked for
                there, places[number] = itertools.tee(places[number])
                tables = ((placed, _table(placed, at, information, look, root), at) for placed, at, root in there)
                leading = ((placed, table, at) for placed, table, at in tables if table is not None)
                found += itertools.islice(leading, 1)
    kernel, problem = None, None
    for each in found[:_MOST_OPENED]:
        try:
            kernel = kernel or _opened(*each, quick=quick)
        except ProcessError as error:
            problem = problem or error
    if kernel is None and problem is not None:
        raise problem
    if kernel is None:
        return None
    others = {first.physical: first for _, _, first in found if first.physical != kernel.first.physical}
    for first in () if told else candidates:  # those to which the tables lead that were looked for
        other = first._replace(physical=first.physical + int(kernel.memory.start[0] - memory.start[0]))
        if other.physical != kernel.first.physical and _table(kernel.memory, other, [], None, kernel.table.root):
            others[other.physical] = other
    return kernel._replace(others=tuple(others.values()))


def _told(
    memory: PhysicalMemory, first: FirstTask, information: list[Information]
) -> tuple[PhysicalMemory, AddressTable, FirstTask] | None:
    """Return memory, page tables and first task if tables that something tells lead to it; None if none do."""
    for placed, there, _ in _placed(memory, first, information, worked_out=False):
        table = _table(placed, there, information)
        if table is not None:
            return placed, table, there
    return None


def _told_shifts(information: list[Information]) -> set[int]:
    """Return what VMCOREINFO says of how far virtual addresses of the kernel's image are above physical ones."""
    x64 = (each.vmcoreinfo.number("phys_base") for each in information)
    arm = (each.vmcoreinfo.number("kimage_voffset") for each in information)
    return {LINUX_IMAGE - base for base in x64 if base is not None} | {
        offset % TOP for offset in arm if offset is not None
    }


def _opened(memory: PhysicalMemory, table: AddressTable, first: FirstTask, *, quick: bool) -> Kernel:
    space = KernelHalf(memory, table)
    try:
        if not quick:
            _ = space.whole  # which may claim too much
    except LimitError as error:
        raise ProcessError(error.problem) from error
    return Kernel(memory, table, space, Structures(space, first.types, table.kernel_half), first)


def _placed(
    memory: PhysicalMemory, first: FirstTask, information: list[Information], *, worked_out: bool = True
) -> Iterator[tuple[PhysicalMemory, FirstTask, int | None]]:
    """Yield the memory as it is, and as it would be if a raw image of an ARM64 machine began at another address.

    There RAM begins where the machine's maker put it: at 1 GiB, say. If nothing tells that it can be `worked_out`; with
    that comes the root by which it was.
    """
    if memory.declared or memory.start[0] != 0 or first.types.pointer_size != _WORD or first.address >= LINUX_IMAGE:
        yield memory, first, None
        return
    told = (each.vmcoreinfo.number("kimage_voffset") for each in information)
    named = ((first.address - offset % TOP - first.physical, None) for offset in told if offset is not None)
    seen = set[tuple[int, int | None]]()
    for base, root in itertools.chain(named, _bases(memory, first) if worked_out else (), [(0, None)]):
        if (base, root) in seen or base < 0 or base % PAGE or base + memory.end > 1 << 52:
            continue
        seen.add((base, root))
        if base:
            found = None if root is None else root + base
            yield memory.rebased(base), first._replace(physical=first.physical + base), found
        else:
            yield memory, first, root


def _bases(memory: PhysicalMemory, first: FirstTask) -> Iterator[tuple[int, int]]:
    """Yield where a raw image may begin if nothing tells: the tables that lead to the first task must lie in it.

    A root near the first task, which comes with it, leads to a table at a physical address; from where the image may
    begin for that to lie in it, the tables are followed on: at what the kernel itself seems to have noted, else at each
    whole 2 MiB.
    """
    noted = _noted_bases(memory, first)
    for bases in (noted, None) if noted else (None,):
        for mode in ARM64:
            for root in itertools.islice(_near(memory, first, (mode,), anywhere=True), _MOST_BASES):
                table = AddressTable(root, mode, LINUX, root)
                entry = memory.read(root + _index(table.mode, 0, first.address) * _WORD, _WORD)
                target = int.from_bytes(entry or b"", "little") & (1 << 48) - mode.page
                anywhere = range(target // _ALIGNED * _ALIGNED, max(target - memory.end, -1), -_ALIGNED)
                for base in anywhere if bases is None else bases:
                    if base in anywhere and _reaches(memory, mode, target - base, base, first):
                        yield base, root


def _noted_bases(memory: PhysicalMemory, first: FirstTask) -> list[int]:
    """Return where a raw image may begin by what the kernel notes, those noted most often first.

    That is how far its image's virtual addresses are above the physical ones (kimage_voffset in arch/arm64/mm/mmu.c).
    """
    middle = first.physical // PAGE * PAGE
    pages = np.arange(max(middle - _IMAGE, int(memory.start[0])), middle + _IMAGE, PAGE, dtype=np.uint64)
    bases = np.uint64(first.shift % TOP) - memory.pages(pages[memory.holds(pages, PAGE)])
    likely = bases[(bases != 0) & (bases < np.uint64(_HIGHEST_BASE))]
    likely = likely[likely % np.uint64(_ALIGNED) == 0]
    found, count = np.unique(likely, return_counts=True)
    return list(found[np.argsort(-count, kind="stable")][:_MOST_BASES].tolist())


def _reaches(memory: PhysicalMemory, mode: Mode, table: int, base: int, first: FirstTask) -> bool:
    """Return True if a table of the second level, at an offset of a raw image, leads to the first task."""
    for depth in range(1, len(mode.levels)):
        data = memory.read(table + _index(mode, depth, first.address) * _WORD, _WORD)
        entry = int.from_bytes(data or b"", "little")
        target = (entry & (1 << 48) - mode.page) - base
        if entry & 3 == 1 or depth == len(mode.levels) - 1:
            size = 1 << mode.levels[depth].shift
            return entry & 1 == 1 and target & -size == first.physical & -size
        if entry & 3 != 3 or not 0 < target < memory.end:  # noqa: PLR2004 - a table
            return False
        table = target
    return False


def _index(mode: Mode, depth: int, address: int) -> int:
    """Return which entry of a table at a level translates an address of the kernel's half."""
    entries = mode.top if depth == 0 else mode.page // mode.entry
    return (address - mode.upper >> mode.levels[depth].shift) + (
        0 if mode.split or depth else entries // 2
    ) & entries - 1


def _table(
    memory: PhysicalMemory,
    first: FirstTask,
    information: list[Information],
    look: _Look | None = None,
    likely: int | None = None,
) -> AddressTable | None:
    """Return the page tables that lead to the first task, among those that something tells or `look` finds.

    `likely` is a root that leads to it, as far as was seen.
    """
    told = (each.vmcoreinfo.symbol("swapper_pg_dir") for each in information)
    named = [address - first.shift for address in told if address is not None]
    seen = set[int]()
    modes = _modes(first, information)
    recorded = [root for root in (memory.root, likely) if root is not None]
    found = () if look is None else look(memory, first, modes)
    for root in itertools.chain(named, _own(memory, first), recorded, found):
        if root in seen or not 0 <= root < memory.end:
            continue
        seen.add(root)
        for mode in modes:
            # 32-bit kernels map what they can of physical memory at the beginning of their half, their image within
            table = AddressTable(root, mode, LINUX, root if mode.split else None, None if mode.wide else first.shift)
            if translate(memory, table, first.address) == first.physical and _leads_on(memory, table, first):
                return table
        if len(seen) > _MOST_ROOTS:
            break
    return None


def _leads_on(memory: PhysicalMemory, table: AddressTable, first: FirstTask) -> bool:
    """Return True if a neighbour of the first task in the list of tasks leads back to it.

    Other tables than the kernel's own map its image, too, but not all of its memory: those with which processors start.
    """
    member, word = first.types.member("task_struct", "tasks"), first.types.pointer_size
    if member is None:
        return False
    for there, back in ((0, word), (word, 0)):
        link = memory.read(first.physical + member.offset + there, word)
        target = TOP if link is None else int.from_bytes(link, "little") + back
        place = translate(memory, table, target) if target < TOP else None
        held = None if place is None else memory.read(place, word)
        if held is not None and int.from_bytes(held, "little") == first.address + member.offset:
            return True
    return False


def _modes(first: FirstTask, information: list[Information]) -> tuple[Mode, ...]:
    """Return how the machine may translate: by where its kernel's image lies; what VMCOREINFO says comes first."""
    if first.types.pointer_size != _WORD:
        return (PAE, X86)
    if first.address >= LINUX_IMAGE:
        return (X64, X64_5)
    told = [(each.vmcoreinfo.page_size, each.vmcoreinfo.number("TCR_EL1_T1SZ")) for each in information]
    return tuple(sorted(ARM64, key=lambda mode: (mode.page, 64 - mode.bits) not in told))


def _own(memory: PhysicalMemory, first: FirstTask) -> Iterator[int]:
    """Yield what the first task's own address space says, if that lies in the kernel's image."""
    types, word = first.types, first.types.pointer_size
    for name in ("active_mm", "mm"):
        pgd, held = types.member("mm_struct", "pgd"), types.member("task_struct", name)
        if pgd is None or held is None:
            continue
        pointer = memory.read(first.physical + held.offset, word)
        if pointer is None:
            continue
        place = int.from_bytes(pointer, "little") - first.shift
        value = memory.read(place + pgd.offset, word) if 0 <= place < memory.end else None
        if value is not None:
            yield int.from_bytes(value, "little") - first.shift


def _near(
    memory: PhysicalMemory, first: FirstTask, modes: tuple[Mode, ...], *, anywhere: bool = False
) -> Iterator[int]:
    """Yield what around the first task may be a root, the nearest first: it has an entry that leads on to it.

    If it may lead `anywhere`, not only into the image.
    """
    middle = first.physical // PAGE * PAGE
    lowest = int(memory.start[0])
    for step in range(0, _NEAR, _STRIDE):
        for low, high in ((middle - step - _STRIDE, middle - step), (middle + step, middle + step + _STRIDE)):
            pages = np.arange(max(low, lowest), max(high, lowest), PAGE, dtype=np.uint64)
            found = _leading(memory, first, pages, modes, anywhere=anywhere)
            yield from sorted(found, key=lambda root: abs(root - middle))


def _anywhere(memory: PhysicalMemory, first: FirstTask, modes: tuple[Mode, ...]) -> Iterator[int]:
    for block in everything(memory):
        yield from _leading(memory, first, block.physical, modes)


def _leading(
    memory: PhysicalMemory, first: FirstTask, pages: U64, modes: tuple[Mode, ...], *, anywhere: bool = False
) -> Iterator[int]:
    """Yield the roots in some pages whose entry for the first task is present, and leads into the image."""
    pages = pages[memory.holds(pages, PAGE)]
    if not len(pages):
        return
    words = memory.pages(pages)
    for mode in modes:
        if mode.entry != _WORD:
            continue
        at = _index(mode, 0, first.address)
        if mode is PAE:
            groups = words.reshape(len(words), -1, mode.top)[:, :, at]
            page, place = np.nonzero(_leads(memory, groups, mode, anywhere=anywhere))
            yield from (pages[page] + place.astype(np.uint64) * np.uint64(mode.root_size)).tolist()
        else:
            ahead, column = divmod(at * _WORD, PAGE)
            found = pages[_leads(memory, words[:, column // _WORD], mode, anywhere=anywhere)]
            roots = found - np.uint64(ahead * PAGE)
            yield from roots[roots % np.uint64(mode.page) == 0].tolist()


def _leads(memory: PhysicalMemory, entries: U64, mode: Mode, *, anywhere: bool) -> Bools:
    """Return which entries of a root lead to a table."""
    wanted = (0x3, 0x3) if mode.split else (0x81, 0x1)
    frame = entries & np.uint64((1 << 48) - PAGE)
    good = (entries & np.uint64(wanted[0])) == np.uint64(wanted[1])
    good &= frame >= memory.start[0]
    return np.asarray(good & (frame != 0) & (anywhere | (frame < np.uint64(memory.end))))
