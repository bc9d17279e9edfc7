"""Where an unknown kernel keeps the members of a vm_area_struct.

The order of members relied on is that of include/linux/mm_types.h from Linux 4.19 to 7.3. What proves them: each region
names its address space; its flags allow what the page tables allow; memory of no file is counted in pages from address
0; what the kernel itself maps has a name in brackets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.linux.learning.structure_table import NEARLY, StructureTable, are_pointers, share, sole
from memcarve.intervals import distinct
from memcarve.permissions import EXECUTE, WRITE

if TYPE_CHECKING:
    from memcarve.dtypes import U64, Bools
    from memcarve.images.linux.learning.memory_members import Spaces

_SIZE = 0x100  # bytes of a region that are looked at; the largest so far has 0xd0
_MOST = 4096  # regions that are looked at
_MOST_OF_ONE = 256
_LEAST = 16
_HALF = 0.5
_FLAGS_MAY, _FLAGS_EXECUTE, _FLAGS_WRITE = 4, 4, 2  # VM_MAYREAD and so on are VM_READ and so on, 4 bits higher
_FUNCTIONS = 16  # of vm_operations_struct, that are looked at
_UNUSED = 5  # functions between `fault` and `name` that what the kernel maps itself has not


class RegionTable(NamedTuple):
    """Regions as a table; the mm_struct of each; whether it has pages that may be written or executed."""

    table: StructureTable
    mm: U64
    written: Bools
    executed: Bools


def learn_regions(spaces: Spaces) -> RegionTable | None:
    """Learn the members of regions, whose addresses are known; return a table of them, None if they are none."""
    regions = _table(spaces)
    if len(regions.table) < _LEAST:
        return None
    owner = sole(
        [at for at in regions.table.places(0, _SIZE) if share(regions.table.column(at) == regions.mm) >= NEARLY]
    )
    if owner is None:
        return None
    spaces.types.put_pointer("vm_area_struct", "vm_mm", owner)
    _learn_flags(spaces, regions, owner)
    if _learn_files(spaces, regions, owner):
        _learn_names(spaces, regions)
    return regions


def _table(spaces: Spaces) -> RegionTable:
    addresses: list[U64] = []
    owners: list[U64] = []
    written: list[Bools] = []
    executed: list[Bools] = []
    for mm, regions, pages in zip(spaces.table.addresses, spaces.regions, spaces.pages, strict=True):
        part = slice(0, _MOST_OF_ONE)
        starts = regions.start[part]
        addresses.append(regions.address[part])
        owners.append(np.full(len(starts), mm, np.uint64))
        for kept, bit in ((written, WRITE), (executed, EXECUTE)):
            allowed = np.zeros(len(starts), np.bool_)
            if pages is not None and len(starts):
                begin = pages.start[(pages.flags & bit) != 0]
                row = np.searchsorted(regions.start, begin, "right").astype(np.int64) - 1
                allowed[row[(row >= 0) & (row < len(starts))]] = True
            kept.append(allowed)
    table = StructureTable(spaces.reader, np.concatenate(addresses)[:_MOST].tolist(), _SIZE, spaces.word)
    return RegionTable(table, *(np.concatenate(parts)[:_MOST] for parts in (owners, written, executed)))  # type: ignore[arg-type]


def _learn_flags(spaces: Spaces, regions: RegionTable, owner: int) -> None:
    """Learn `vm_flags`, shortly behind the address space: what is allowed may be, and is if the page tables allow it.

    With page table isolation those that the kernel uses allow nothing of a process to be executed; without a processor
    that can forbid it (32-bit ones), all.
    """
    table, found = regions.table, []
    told = regions.executed.any() and share(regions.executed[regions.written]) < _HALF
    for at in table.places(owner + spaces.word, owner + 4 * spaces.word + 8, 4 if spaces.word == 4 else 8):  # noqa: PLR2004
        flags = table.column(at)
        allowed = flags & np.uint64(7)
        sound = (allowed & ~(flags >> np.uint64(_FLAGS_MAY)) == 0) & (flags != 0)
        writes, executes = ((flags & np.uint64(bit)) != 0 for bit in (_FLAGS_WRITE, _FLAGS_EXECUTE))
        if (
            share(sound) >= NEARLY
            and share(writes[regions.written]) >= NEARLY
            and (share(executes[regions.executed]) >= NEARLY or not told)
            and share(~executes) >= _HALF
            and len(distinct(allowed)) > 2  # noqa: PLR2004 - r--, rw-, r-x at least
        ):
            found.append(at)
    at_flags = sole(found)
    if at_flags is not None:
        spaces.types.put_pointer("vm_area_struct", "vm_flags", at_flags)


def _learn_files(spaces: Spaces, regions: RegionTable, owner: int) -> bool:
    """Learn what follows each other: `anon_vma`, `vm_ops`, `vm_pgoff`, `vm_file`, `vm_private_data`.

    Without a file the offset is the address, in pages, but for the stack, which was moved, and for what the kernel maps
    itself.
    """
    table, word = regions.table, spaces.word
    number = table.column(0) >> np.uint64(spaces.page.bit_length() - 1)
    found = []
    for at in table.places(owner + 2 * word, _SIZE - 2 * word):
        offset, file = table.column(at), table.column(at + word)
        none, pointer = file == 0, are_pointers(file, word)
        operations = table.column(at - word)
        if (
            share(none | pointer) >= NEARLY
            and share((offset == number)[none]) >= _HALF
            and share((offset == number)[pointer]) <= 1 - NEARLY
            and share((operations == 0) | are_pointers(operations, word)) >= NEARLY
            and share((operations == 0)[none & (offset == number)]) >= NEARLY
        ):
            found.append(at)
    at_offset = sole(found)
    if at_offset is None:
        return False
    members = ("anon_vma", "vm_ops", "vm_pgoff", "vm_file", "vm_private_data")
    for step, name in enumerate(members, -2):
        spaces.types.put_pointer("vm_area_struct", name, at_offset + step * word)
    return True


def _learn_names(spaces: Spaces, regions: RegionTable) -> None:
    """Learn what names the regions that the kernel maps itself, as the vDSO.

    Their private data is a vm_special_mapping, which begins with a name in brackets. Of their functions
    (vm_operations_struct) `name` comes behind `fault` and a number of others that they have not.
    """
    types, table, word, reader = spaces.types, regions.table, spaces.word, spaces.reader
    file, data, functions = (types.at("vm_area_struct", name) or 0 for name in ("vm_file", "vm_private_data", "vm_ops"))
    special: list[int] = []
    rows = (
        (table.column(file) == 0) & are_pointers(table.column(data), word) & are_pointers(table.column(functions), word)
    )
    for private, operations in zip(
        table.column(data)[rows].tolist(), table.column(functions)[rows].tolist(), strict=True
    ):
        text = reader.number(private, word)
        name = None if text is None else reader.read(text, 6)
        if name is not None and name.startswith((b"[vdso]", b"[vvar", b"[sigpa", b"[vecto")):
            special.append(operations)
    if not special:
        return
    types.put_pointer("vm_special_mapping", "name", 0)
    pointers = StructureTable(reader, sorted(set(special)), _FUNCTIONS * word, word)
    used = np.stack([pointers.column(at) != 0 for at in pointers.places(0, pointers.size)], axis=1)
    places = [_behind_unused(row) for row in used.tolist()]
    if len(set(places)) == 1 and places[0] is not None:
        types.put_pointer("vm_operations_struct", "name", places[0] * word)


def _behind_unused(used: list[bool]) -> int | None:
    """Return the place of the first function behind at least five that are not there, which are behind one that is."""
    unused = 0
    for place, there in enumerate(used):
        if there and unused >= _UNUSED and any(used[: place - unused]):
            return place
        unused = 0 if there else unused + 1
    return None
