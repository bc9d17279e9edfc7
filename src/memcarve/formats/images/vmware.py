"""VMware: a machine's memory in a .vmem, and its layout in the .vmsn (snapshot) or .vmss (suspended) beside it.

VMware does not document the format. It is written here as the crash utility's vmware_vmss.h (by VMware), and the
descriptions by those who analysed it, have it; numbers are little-endian. A header (magic, version, number of groups)
is followed by a table of groups: a name of 64 bytes, position, size. A group is a sequence of tags: a byte with the
value's size (6 bits) and the number of indices (2 bits), the length of the name, the name, an index of 4 bytes each,
the value; a tag of two zero bytes ends it. Sizes 62 and 63 are of a block, compressed or not: its size here and in
memory (8 bytes each), the length of the padding (2 bytes), padding, and the bytes. The group `memory` has the layout,
in pages: regionsCount, and for each region regionPPN (physical), regionPageNum (in the file) and regionSize; and, if
there is no .vmem, the memory as the block `Memory`.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import InputError
from memcarve.formats.compression import plain_name
from memcarve.formats.images.machine import column, machine
from memcarve.formats.images.signatures import VMWARE, VMWARE_32
from memcarve.intervals import PAGE
from memcarve.remote import is_there, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.backing import FileBacking
    from memcarve.formats.images.machine import MachineMemory

_MEMORY_SUFFIX = ".vmem"
_LAYOUT_SUFFIXES = (".vmss", ".vmsn", ".VMSS", ".VMSN")
_HEADER = struct.Struct("<III")
_GROUP = struct.Struct("<64sQQ")
_BLOCK = struct.Struct("<QQH")
_MOST_GROUPS = 4096  # there are about a hundred
_MOST_TAGS = 1 << 16
_MOST_REGIONS = 1 << 12  # there are two or three
_LONGEST_TAG = 2 + 255 + 3 * 4 + 64
_COMPRESSED, _PLAIN = 62, 63
_LAYOUT = ("regionPPN", "regionPageNum", "regionSize")


class _Tag(NamedTuple):
    name: str
    indices: tuple[int, ...]
    value: int  # of a block: where its bytes are
    size: int | None  # a block's bytes here, None if it is not a block
    compressed: bool


class _Layout(NamedTuple):
    """What the metadata say: `regions` are (physical page, page in the file, pages), `memory` (offset, size) in it."""

    regions: list[tuple[int, int, int]]
    memory: tuple[int, int] | None
    compressed: bool
    notes: tuple[str, ...]

    @property
    def pages(self) -> int:
        """The number of pages that the memory's file has."""
        return max((place + count for _, place, count in self.regions), default=0)


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not VMware's, or a .vmem without metadata beside it.

    `file` is the .vmem or the metadata; the other is looked for beside it, by the same name with its own suffix. The
    result's backing is `file` or, if that is only the metadata, a file of its own: then close both. Raises
    InputError if metadata make no sense or the memory is nowhere, and SourceReadError.
    """
    magic = int.from_bytes(file.read_there(0, 4), "little")
    if magic in VMWARE_32:
        raise InputError(
            "is the state of a VMware machine in the format of 32-bit products, which memcarve does not read",
            subject=file.path,
            remedy="give its .vmem",
        )
    if magic in VMWARE:
        return _from_metadata(file, _layout(file))
    stem, suffix = os.path.splitext(plain_name(file.path))
    if suffix.lower() != _MEMORY_SUFFIX:
        return None
    layouts = _layouts_beside(stem)
    if not layouts:
        return None
    # a snapshot and a suspended state can share their name: the one that fits is the .vmem's
    layouts = [layout for layout in layouts if layout.pages * PAGE == file.size] or layouts
    chosen = layouts[0]
    if any(layout.regions != chosen.regions for layout in layouts):
        chosen = chosen._replace(notes=(*chosen.notes, "several metadata beside it disagree; the .vmss is believed"))
    return _laid_out(file, chosen, 0, file.size)


def _from_metadata(file: FileBacking, layout: _Layout) -> MachineMemory:
    """Return the memory that metadata hold themselves, or the .vmem beside them."""
    if layout.memory is not None:
        if layout.compressed:
            raise InputError(
                "holds the machine's memory compressed by VMware, which memcarve does not read",
                subject=file.path,
                remedy="take a snapshot with a .vmem, or convert it with vmss2core",
            )
        return _laid_out(file, layout, *layout.memory)
    stem, _ = os.path.splitext(plain_name(file.path))
    path = next((name for name in (stem + ".vmem", stem + ".VMEM") if is_there(name)), None)
    if path is None:
        raise InputError(
            f"is a VMware machine's state without its memory; expected {stem + _MEMORY_SUFFIX} beside it",
            subject=file.path,
        )
    return _laid_out(memory := open_file(path, follow=False), layout, 0, memory.size)


def _laid_out(file: FileBacking, layout: _Layout, offset: int, size: int) -> MachineMemory:
    """Return the memory whose first region is at `offset` of a file; without regions, it is `size` bytes from 0 on."""
    notes = layout.notes
    if not layout.regions:
        return machine("VMware", file, (column([0]), column([size]), column([offset])), declared=True, notes=notes)
    if layout.pages * PAGE < size:
        notes += (f"the memory has 0x{size:x} bytes, and its metadata list only 0x{layout.pages * PAGE:x}",)
    first, place, pages = (column(values) for values in zip(*layout.regions, strict=True))
    # page numbers have 32 bits (see _layout), so that nothing here reaches 2**64
    ranges = first * PAGE, pages * PAGE, place * PAGE + offset
    return machine("VMware", file, ranges, declared=True, notes=notes)


def _layouts_beside(stem: str) -> list[_Layout]:
    """Return what the metadata beside a .vmem say; files that are of another kind by their content do not count."""
    found: list[_Layout] = []
    seen: set[tuple[int, int]] = set()
    for suffix in _LAYOUT_SUFFIXES:
        if not is_there(stem + suffix):
            continue
        with open_file(stem + suffix, follow=False) as file:
            identity = (file.status.st_dev, file.status.st_ino)  # on some systems both spellings are one file
            if identity not in seen and int.from_bytes(file.read_there(0, 4), "little") in VMWARE:
                seen.add(identity)
                found.append(_layout(file))
    return found


def _layout(file: FileBacking) -> _Layout:
    """Return the layout that metadata describe; InputError if they make no sense."""
    values: dict[str, dict[int, int]] = {name: {} for name in _LAYOUT}
    count: int | None = None
    memory: tuple[int, int] | None = None
    compressed = False
    for tag in _tags(file):
        index = tag.indices[0] if tag.indices else 0
        if tag.name == "Memory" and tag.size and not any(tag.indices) and memory is None:
            memory, compressed = (tag.value, tag.size), tag.compressed
        elif tag.size is not None:
            continue
        elif tag.name == "regionsCount":
            count = tag.value
        elif tag.name in values:
            values[tag.name].setdefault(index, tag.value)
    notes: tuple[str, ...] = ()
    if count is None and memory is not None and sum(memory) > file.size:
        notes = ("the file ends inside the memory; a layout behind it, if there was one, is not known",)
    count = count or 0
    if count > _MOST_REGIONS:
        raise InputError(f"lists {count} regions of memory; no VMware machine has so many", subject=file.path)
    regions = []
    for index in range(count):
        row = [values[name].get(index) for name in _LAYOUT]
        first, place, pages = row
        if first is None or place is None or pages is None or max(first, place, pages) >= 1 << 32:
            raise InputError(
                f"does not describe region {index} of the {count} that the memory has: found "
                f"{dict(zip(_LAYOUT, row, strict=True))}; the file is damaged",
                subject=file.path,
            )
        regions.append((first, place, pages))
    return _Layout(regions, memory, compressed, notes)


def _tags(file: FileBacking) -> Iterator[_Tag]:
    """Yield the tags of the group `memory`. Raises InputError if there is none, or its tags do not end."""
    header = file.read_there(0, _HEADER.size)
    count = _HEADER.unpack(header)[2] if len(header) == _HEADER.size else 0
    if count > _MOST_GROUPS:
        raise InputError(f"lists {count} groups; no VMware state has so many", subject=file.path)
    table = file.read_there(_HEADER.size, count * _GROUP.size)
    groups = _GROUP.iter_unpack(table[: len(table) // _GROUP.size * _GROUP.size])
    position = next((place for name, place, _ in groups if name.partition(b"\0")[0] == b"memory"), None)
    if position is None:
        raise InputError(
            "is a VMware machine's state without a group for its memory; it was cut off", subject=file.path
        )
    tag: _Tag | None = None
    for _ in range(_MOST_TAGS):
        data = file.read_there(position, _LONGEST_TAG)
        if data[:2] == b"\0\0" or (len(data) < 2 and tag is not None and tag.name == "Memory"):  # noqa: PLR2004
            return  # memory that is cut off is used as far as it goes
        tag, length = _tag(data, position)
        if tag is None:
            raise InputError(
                f"ends inside the description of its memory, at 0x{position:x}; it was cut off", subject=file.path
            )
        yield tag
        position += length
    raise InputError(f"has more than {_MOST_TAGS} tags on its memory; the file is damaged", subject=file.path)


def _tag(data: bytes, position: int) -> tuple[_Tag | None, int]:
    """Return the tag that `data`, from `position` on, begin with, and its length; None if they end before it."""
    if len(data) < 2:  # noqa: PLR2004 - what a tag begins with
        return None, 0
    value_size, indices, name_length = data[0] & 0x3F, data[0] >> 6, data[1]
    place = 2 + name_length
    name = data[2:place].decode("latin-1")
    numbers = tuple(int.from_bytes(data[at : at + 4], "little") for at in range(place, place + 4 * indices, 4))
    place += 4 * indices
    block = value_size in {_COMPRESSED, _PLAIN}
    if len(data) < place + (_BLOCK.size if block else value_size):
        return None, 0
    if not block:
        value = int.from_bytes(data[place : place + value_size], "little")
        return _Tag(name, numbers, value, None, compressed=False), place + value_size
    size, _, padding = _BLOCK.unpack_from(data, place)
    place += _BLOCK.size + padding
    return _Tag(name, numbers, position + place, size, value_size == _COMPRESSED), place + size
