"""Windows crash dumps of 64-bit machines: complete ones, and those that list their pages in a bitmap or as ranges.

The header of 0x2000 bytes is DUMP_HEADER64 of the Windows SDK's metadata. What follows Microsoft does not document; it
is as the independent readers 0vercl0k/kdmp-parser and kdmp-parser-rs describe it. Offsets below are in the file,
numbers are little-endian:

- in a complete dump (type 1) the pages of the runs that the header lists at 0x88, one run after the other;
- in a bitmap dump (types 5 and 6) a second header, `FDMP` or `SDMP`, with a bit for each page of the machine, and at
  the offset it names the pages whose bit is set, in order;
- in the dumps of Windows 11 (types 8 to 10) a second header, `RDMP`, with a list of page ranges, and the pages; that
  of a complete one has the number of ranges, the others' lists end with a range at page 0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memcarve.errors import InputError
from memcarve.formats.images.machine import CutOff, bounded, column, fitted, machine
from memcarve.formats.images.signatures import CRASH_DUMP, CRASH_DUMP_32
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from memcarve.backing import FileBacking
    from memcarve.dtypes import U64
    from memcarve.formats.images.machine import MachineMemory

_HEADER_SIZE = 0x2000
_ROOT = struct.Struct("<Q")
_ROOT_AT, _PROCESSOR_AT, _TYPE_AT, _RUNS_AT = 0x10, 0x30, 0xF98, 0x88
_RUN_COUNT = struct.Struct("<IIQ")
_RUN = struct.Struct("<QQ")
_MOST_RUNS = (700 - _RUN_COUNT.size) // _RUN.size  # the header has 700 bytes for them
_X86_64 = 0x8664
_UNKNOWN = {0, int.from_bytes(b"PAGE", "little")}  # what the header is filled with before anything is put there
_OTHER_PROCESSORS = {0xAA64: "ARM64", 0x1C4: "32-bit ARM", 0x14C: "32-bit x86", 0x200: "Itanium"}
_MOST_PAGES = 1 << 40  # a physical address has 52 bits

_COMPLETE = 1
_BITMAPS = {5: "bitmap", 6: "kernel, bitmap"}
_COUNTED = 10
_RANGES = {8: "kernel", 9: "kernel and user", _COUNTED: "complete"}
#: what memcarve does not read, by type
_OTHERS = {
    2: "a kernel memory dump in the format of Windows 7 and before",
    3: "a dump of the header alone",
    4: "a small memory dump (minidump), which holds no physical memory",
    7: "an automatic memory dump",
}
_BITMAP = struct.Struct("<4s4s24xQQQ")  # signatures; offset of the first page, pages that are there, bits
#: behind 0x40: signatures; bytes of ranges, offset of the first page; number of ranges (of complete dumps only)
_RANGE_LIST = struct.Struct("<4x4s4s4xQQI12x")
_CHUNK = 1 << 16  # bytes of a bitmap that are looked at together


class _Header(NamedTuple):
    root: int
    kind: int
    notes: tuple[str, ...]


def read(file: FileBacking) -> MachineMemory | None:
    """Return the machine's memory, None if the file is not a crash dump.

    Raises InputError if the dump is 32-bit, of another processor or of a kind that memcarve does not read, and if
    its headers are cut off or make no sense; and SourceReadError.
    """
    begin = file.read_there(0, 8)
    if begin == CRASH_DUMP_32:
        raise InputError(
            "is a crash dump of 32-bit Windows; memcarve reads those of 64-bit Windows, and raw images of both",
            subject=file.path,
        )
    if begin != CRASH_DUMP:
        return None
    data = file.read_there(0, _HEADER_SIZE)
    if len(data) < _HEADER_SIZE:
        raise InputError(
            f"is a Windows crash dump that ends inside its header, at 0x{len(data):x} of 0x{_HEADER_SIZE:x} bytes; "
            "the file was cut off",
            subject=file.path,
        )
    root = int(_ROOT.unpack_from(data, _ROOT_AT)[0]) & ~0xFFF  # below are flags, or the PCID
    processor, kind = (int.from_bytes(data[place : place + 4], "little") for place in (_PROCESSOR_AT, _TYPE_AT))
    notes: tuple[str, ...] = ()
    if processor in _UNKNOWN:
        notes = ("the crash dump does not say of which processor it is; it is read as x86-64's",)
    elif processor != _X86_64:
        word = _OTHER_PROCESSORS.get(processor, "unknown")
        raise InputError(
            f"is the crash dump of a machine whose processor is {word} (0x{processor:x}); memcarve reads page tables "
            "of x86 and x86-64 alone: make a full dump of each process on the machine itself (procdump -ma), and "
            "give those, or use WinDbg",
            subject=file.path,
        )
    header = _Header(root, kind, notes)
    if kind == _COMPLETE:
        return _complete(file, header, data)
    if kind in _BITMAPS:
        return _from_bitmap(file, header)
    if kind in _RANGES:
        return _from_ranges(file, header)
    raise InputError(
        f"is {_OTHERS.get(kind, f'a crash dump of the unknown type {kind}')}; memcarve reads complete memory dumps, "
        "and active or kernel memory dumps with a bitmap (Windows 8 and later)",
        subject=file.path,
    )


def _complete(file: FileBacking, header: _Header, data: bytes) -> MachineMemory:
    """Return the memory of a dump whose runs are in the header `data`."""
    count, _, _ = _RUN_COUNT.unpack_from(data, _RUNS_AT)
    if count > _MOST_RUNS:
        raise InputError(
            f"is a complete Windows crash dump whose header lists {count} runs of memory; it has room for "
            f"{_MOST_RUNS}, so it is damaged or was never filled in",
            subject=file.path,
        )
    first, pages, offset = [], [], []
    place = _HEADER_SIZE
    for index in range(count):
        base, length = _RUN.unpack_from(data, _RUNS_AT + _RUN_COUNT.size + index * _RUN.size)
        _check_pages(file, base, length)
        first.append(base * PAGE)
        pages.append(length * PAGE)
        offset.append(place)
        place += length * PAGE
    ranges = column(first), column(pages), column(offset)
    kind = "Windows crash dump (complete)"
    return machine(kind, file, ranges, declared=True, root=header.root, notes=header.notes)


def _check_pages(file: FileBacking, base: int, length: int) -> None:
    """Raise InputError if no machine can have `length` pages from number `base` on."""
    if base + length > _MOST_PAGES:
        raise InputError(
            f"is a Windows crash dump that lists 0x{length:x} pages from 0x{base:x} on; no machine has so many, the "
            "file is damaged",
            subject=file.path,
        )


def _from_bitmap(file: FileBacking, header: _Header) -> MachineMemory:
    signature, place, present, bits = _second_header(file, header, _BITMAP, (b"FDMP", b"SDMP"), "bitmap")
    begin = _HEADER_SIZE + _BITMAP.size
    size = (bits + 7) // 8
    if bits > _MOST_PAGES or begin + size > place:
        raise InputError(
            f"is a Windows crash dump whose bitmap of {bits} pages does not end before its first page at "
            f"0x{place:x}; the file is damaged",
            subject=file.path,
        )
    notes = header.notes
    if begin + size > file.size:
        notes += (f"the file ends inside its bitmap, at 0x{file.size:x}: its pages are not there",)
    (start, length, offset), cut, found = _bitmap_ranges(file, bits, place)
    if found != present and begin + size <= file.size:
        notes += (f"the header counts {present} pages, the bitmap {found}; the bitmap is believed",)
    kind = f"Windows crash dump ({_BITMAPS[header.kind]}, {signature.decode()})"
    return machine(kind, file, (start, length, offset), declared=False, root=header.root, notes=notes, cut=cut)


def _second_header(
    file: FileBacking, header: _Header, layout: struct.Struct, signatures: tuple[bytes, ...], what: str
) -> tuple[Any, ...]:
    """Return the fields of the header behind the first one, but for its second signature, which must be right."""
    data = file.read_there(_HEADER_SIZE, layout.size)
    if len(data) < layout.size:
        raise InputError(
            f"is a Windows crash dump that ends before its {what}; the file was cut off", subject=file.path
        )
    signature, valid, *fields = layout.unpack(data)
    if signature not in signatures or valid != b"DUMP":
        expected = " or ".join(each.decode() for each in signatures)
        raise InputError(
            f"is a Windows crash dump of type {header.kind} without its {what}: found {signature!r} {valid!r} near "
            f"0x{_HEADER_SIZE:x}, expected {expected}, and DUMP",
            subject=file.path,
        )
    return signature, *fields


def _bitmap_ranges(file: FileBacking, bits: int, place: int) -> tuple[tuple[U64, U64, U64], CutOff, int]:
    """Return the ranges of the pages whose bit is set, what of them is cut off, and how many pages they are.

    The bitmap of `bits` bits lies behind its header, the first page at `place`. Works through a piece of the bitmap at
    a time: there are never more ranges than pages in the file, however many the bitmap speaks of.
    """
    begin, size, cut, found = _HEADER_SIZE + _BITMAP.size, (bits + 7) // 8, CutOff(), 0
    place = min(place, file.size)  # behind the end is behind the end, and sums stay below 2**64
    parts: list[tuple[U64, U64, U64]] = []
    for low in range(0, min(size, max(file.size - begin, 0)), _CHUNK):
        bitmap = file.read_there(begin + low, min(_CHUNK, size - low))
        data = np.frombuffer(bitmap, np.uint8)
        flags = np.zeros(len(data) * 8 + 2, np.int8)  # with a clear bit on either side, every run has two edges
        flags[1:-1] = np.unpackbits(data, bitorder="little")
        flags[1 + bits - low * 8 :] = 0
        edges = np.flatnonzero(np.diff(flags)).astype(np.uint64)
        first, pages = edges[0::2] + np.uint64(low * 8), edges[1::2] - edges[0::2]
        before = np.cumsum(pages, dtype=np.uint64) - pages + np.uint64(found)
        found += int(pages.sum())
        page = np.uint64(PAGE)
        part = fitted(first * page, pages * page, before * page + np.uint64(place), file.size, cut)
        if len(part[0]):
            parts.append(part)
        if len(bitmap) < min(_CHUNK, size - low, file.size - begin - low):
            break  # of how many pages the rest speaks cannot be read, and so not where later ones are
    if not parts:
        return (column([]), column([]), column([])), cut, found
    start, length, offset = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return (start, length, offset), cut, found


def _from_ranges(file: FileBacking, header: _Header) -> MachineMemory:
    _, size, place, counted = _second_header(file, header, _RANGE_LIST, (b"RDMP",), "ranges")
    begin = _HEADER_SIZE + _RANGE_LIST.size
    if place < begin:
        raise InputError(
            f"is a Windows crash dump whose first page is said to be at 0x{place:x}, inside its headers; the file is "
            "damaged",
            subject=file.path,
        )
    count = min(size, place - begin) // _RUN.size
    if header.kind == _COUNTED:
        count = min(count, counted)
    there = min(count, max(file.size - begin, 0) // _RUN.size)
    notes = header.notes
    if there < count:
        notes += (f"the file ends inside its list of ranges: {there} of {count} are there",)
    bounded(file, there, "ranges")
    data = file.read_there(begin, there * _RUN.size)
    table = np.frombuffer(data[: len(data) // _RUN.size * _RUN.size], "<u8").reshape(-1, 2).astype(np.uint64)
    if header.kind != _COUNTED:
        # page 0 ends the list, unless it stands first: there it can only be the page itself
        unused = np.flatnonzero((table[:, 0] == 0) & ((table[:, 1] == 0) | (np.arange(len(table)) > 0)))
        table = table[: unused[0]] if len(unused) else table
    first, pages = table[:, 0], table[:, 1]
    if len(table):
        worst = int(np.argmax(np.maximum(first, pages)))
        _check_pages(file, int(first[worst]), int(pages[worst]))
    # as above: what lies behind the end may lie anywhere there
    before = np.minimum(np.cumsum(pages, dtype=np.uint64) - pages, np.uint64(file.size // PAGE + 1))
    page, place = np.uint64(PAGE), min(place, file.size)
    ranges = first * page, pages * page, before * page + np.uint64(place)
    kind = f"Windows crash dump ({_RANGES[header.kind]})"
    return machine(kind, file, ranges, declared=False, root=header.root, notes=notes)
