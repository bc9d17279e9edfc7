"""LiME: a header before each range of physical memory, and then its bytes.

The specification is LiME's own: "LiME Memory Range Header Version 1" in doc/README.md of 504ensicsLabs/LiME. A header
is 32 bytes, little-endian: magic (0x4C694D45), version (1), first and last address of the range, 8 bytes reserved.

AVML writes the same if it does not compress (microsoft/avml, src/image.rs and src/iomem.rs), and other things with
it. It takes the last address of a range in /proc/iomem for the end, so that each range lacks its last byte. Since
2026-05 it cuts ranges into blocks of 16 MiB and leaves out those that are zero; before, only ranges up to that size.
From 2025-03 to 2026-03 it left out their bytes and kept the header.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.images.machine import bounded, column, machine
from memcarve.formats.images.signatures import LIME as MAGIC
from memcarve.intervals import TOP, Intervals

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import U64
    from memcarve.formats.images.machine import MachineMemory

VERSION = 1
HEADER = struct.Struct("<4sIQQQ")
AVML_BLOCK = 1 << 24
_GRAIN = 8  # ranges of memory begin and end at multiples of so many bytes
_LOCAL_APIC = np.uint64(0xFEE00000)
_MOST_TRIES = 1 << 16  # headers looked at in search of another way through a file, once the usual one ends too early
_GAPS = (
    "AVML leaves out the last byte of each range and, since 2026-05, blocks of 16 MiB that are zero: what is outside "
    "the image may be such memory"
)


class Header(NamedTuple):
    """A range's header: `start` is its physical address, `size` its bytes (0 if it says that it is empty)."""

    magic: bytes
    version: int
    start: int
    size: int


def parse_header(data: bytes) -> Header | None:
    """Return the header in 32 bytes; None if its last address lies before its first."""
    magic, version, first, last, _ = HEADER.unpack(data)
    size = last - first + 1
    return None if size < 0 else Header(magic, version, first, size)


def header_at(file: FileBacking, position: int, magic: bytes, version: int) -> Header | None:
    """Return the header of this kind at a position of a file; None if there is none. Raises SourceReadError."""
    data = file.read_there(position, HEADER.size)
    header = parse_header(data) if len(data) == HEADER.size else None
    return header if header is not None and (header.magic, header.version) == (magic, version) else None


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not LiME's.

    Raises InputError if the file is of another version, or its first header makes no sense, or it has more ranges
    than any machine; and SourceReadError. A later header that makes no sense ends the table, with a note.
    """
    return walk(file, "LiME", MAGIC)


def walk(file: FileBacking, kind: str, magic: bytes) -> MachineMemory | None:
    """Return the memory of headers with `magic`, each followed by its bytes; `kind` is what to call it. See `read`."""
    if not begins_with(file, kind, magic, VERSION):
        return None
    ranges = _whole(file, magic) or _in_part(file, magic)
    start, size, offset = (column(values) for values in (ranges.start, ranges.size, ranges.offset))
    alone = np.frombuffer(bytes(ranges.alone), np.bool_)
    zeros = Intervals(start, size).where(alone)
    gaps = _GAPS if magic != MAGIC or len(zeros) or _cut_by_avml(start, size) else None
    lacking = left_out(start, size) if gaps else None
    if ranges.whole:
        start, size, offset = start[~alone], size[~alone], offset[~alone]
    else:
        offset[alone] = file.size  # nothing of them is there
    notes = (*ranges.notes, *alone_notes(zeros.size, zeros=ranges.whole))
    # behind a header that is cut off there may have been more
    declared = ranges.whole and gaps is None
    memory = machine(kind, file, (start, size, offset), declared=declared, notes=notes)
    named = f"{kind} (AVML)" if gaps and magic == MAGIC else kind
    return memory._replace(kind=named, zeros=zeros if ranges.whole else None, gaps=gaps, left_out=lacking)


def begins_with(file: FileBacking, kind: str, magic: bytes, version: int) -> bool:
    """Return True if a file begins with `magic`; raise InputError if its first header is not one of this version."""
    data = file.read_there(0, HEADER.size)
    if data.startswith(magic) and len(data) == HEADER.size:
        first = parse_header(data)
        if first is None or first.version != version:
            found = "a range that ends before it begins" if first is None else f"version {first.version}"
            raise InputError(
                f"is {kind}, but its first header has {found}; expected version {version}", subject=file.path
            )
    return data.startswith(magic)


def alone_notes(size: U64, *, zeros: bool) -> tuple[str, ...]:
    """Return the note on ranges (their sizes in bytes, uint64) whose headers have nothing behind them.

    `zeros` says that they stand for zeros: else the file does not hold to its end.
    """
    if not len(size):
        return ()
    alone = "a range's header has nothing behind it"
    if len(size) > 1:
        alone = f"{len(size)} ranges' headers have nothing behind them"
    taken = "and the file does not hold to its end: taken for missing"
    if zeros:
        taken = "as AVML 0.16 and 0.17 wrote zeros: taken for such"
    return (f"{alone}, {taken} ({sum(size.tolist())} bytes)",)


def left_out(start: U64, size: U64) -> Intervals:
    """Return what AVML left out for certain, given ranges (uint64) as headers state them.

    The last byte of each range; and what lies between two, if it is as large as so many blocks and follows a block,
    unless it holds what is a device on every PC.
    """
    order = np.argsort(start, kind="stable")
    start, size = start[order], size[order]
    end = start + size
    short = end % np.uint64(_GRAIN) == np.uint64(_GRAIN - 1)
    hole = start[1:] - end[:-1]
    between = (size[:-1] == np.uint64(AVML_BLOCK)) & (start[1:] > end[:-1]) & (hole % np.uint64(AVML_BLOCK) == 0)
    between &= (end[:-1] > _LOCAL_APIC) | (start[1:] <= _LOCAL_APIC)
    sizes = np.concatenate([np.ones(int(short.sum()), np.uint64), hole[between]])
    return Intervals(np.concatenate([end[short], end[:-1][between]]), sizes)


def broken_off(file: FileBacking, position: int) -> str:
    """Return the note on a header at `position` that is cut off or wrong, and ends the reading."""
    left = file.size - position
    if left < HEADER.size:
        return f"the file ends inside a range's header at offset 0x{position:x}; its last {left} bytes are not used"
    if len(file.read_there(position, HEADER.size)) < HEADER.size:
        return f"at offset 0x{position:x} a range's header cannot be read; {left} bytes are not used"
    return f"at offset 0x{position:x} a range's header was expected and is not there; {left} bytes are not used"


class _Ranges:
    """Ranges in the order of the file: `offset` is where their bytes lie, `alone` is 1 if nothing follows a header.

    `whole` says that one header leads to the next until the file ends, `notes` what is wrong else.
    """

    def __init__(self, file: FileBacking) -> None:
        self.file = file
        self.start, self.size, self.offset = array("Q"), array("Q"), array("Q")
        self.alone = bytearray()
        self.whole = False
        self.notes: list[str] = []

    def add(self, header: Header, position: int, *, alone: bool = False) -> None:
        bounded(self.file, len(self.start) + 1, "ranges")
        self.start.append(header.start)
        self.size.append(min(header.size, (TOP - 1)))
        self.offset.append(position + HEADER.size)
        self.alone.append(alone)

    def pop(self) -> tuple[int, bool]:
        """Take away the last range; return where its header lies, and whether nothing lay behind that."""
        self.start.pop()
        self.size.pop()
        return self.offset.pop() - HEADER.size, bool(self.alone.pop())


def _whole(file: FileBacking, magic: bytes) -> _Ranges | None:
    """Return the ranges if headers lead to each other until the file ends; None if no way does.

    Behind a header lie its bytes if that is a way; else the next header may follow at once. The last header may have
    nothing behind it: there the file was cut off.
    """
    ranges, tries = _Ranges(file), 0
    position, header = 0, header_at(file, 0, magic, VERSION)
    while header is not None:
        after = position + HEADER.size + header.size
        if file.size in {after, position + HEADER.size}:
            ranges.add(header, position)
            ranges.whole = True
            return ranges
        further = header_at(file, after, magic, VERSION)
        alone = further is None
        if alone:
            after, further = position + HEADER.size, header_at(file, position + HEADER.size, magic, VERSION)
        while further is None and len(ranges.start):  # back to the last header that another one follows at once
            position, alone = ranges.pop()
            after, alone = position + HEADER.size, not alone
            header = header_at(file, position, magic, VERSION)
            further = header_at(file, after, magic, VERSION) if alone else None
            tries = max(tries, 1)
        tries += tries > 0
        if header is None or further is None or tries > _MOST_TRIES:
            return None
        ranges.add(header, position, alone=alone)
        position, header = after, further
    return None


def _in_part(file: FileBacking, magic: bytes) -> _Ranges:
    """Return the ranges as far as headers lead to each other.

    A header that is followed by another one at once, and not where its bytes end, has lost them; if they are more than
    AVML leaves out, the owner of the bytes behind it cannot be known.
    """
    ranges, position = _Ranges(file), 0
    while position < file.size:
        header = header_at(file, position, magic, VERSION)
        if header is None:
            ranges.notes.append(broken_off(file, position))
            break
        after = position + HEADER.size + header.size
        further = None
        if after != file.size and header_at(file, after, magic, VERSION) is None:
            further = header_at(file, position + HEADER.size, magic, VERSION)
        ranges.add(header, position, alone=further is not None)
        position = after if further is None else position + HEADER.size
        if further is not None and header.size > AVML_BLOCK:
            ranges.notes.append(
                f"at offset 0x{position:x} the bytes of a range were expected, and another header is there; "
                f"{file.size - position} bytes are not used"
            )
            break
    return ranges


def _cut_by_avml(start: U64, size: U64) -> bool:
    """Return True if ranges (uint64, as in headers) are cut as AVML cuts them: blocks, or ends a byte too early.

    Ranges are blocks if all or most of them are whole ones, or none is larger.
    """
    if ((start + size) % np.uint64(_GRAIN) == np.uint64(_GRAIN - 1)).any():
        return True
    blocks = int((size == np.uint64(AVML_BLOCK)).sum())
    return blocks > 0 and (2 * blocks > len(size) or not bool((size > np.uint64(AVML_BLOCK)).any()))
