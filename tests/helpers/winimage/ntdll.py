"""ntdll in a process's memory: exports, the code of two of them, and what they lead to: modules that were unloaded.

Microsoft describes RtlGetUnloadEventTrace, RtlGetUnloadEventTraceEx and RTL_UNLOAD_EVENT_TRACE in its notes for
developers; Version is behind the rest of an entry.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from winimage.contents import PAGE
from winimage.kernel import export_directory, header
from winimage.programs import Content, code, header32, sections

#: pages of the module, and entries of the array
PAGES, ENTRIES = 40, 64
#: where the functions' code is in the page of code; the variables, and the array, in the pages of data
_ARRAY_CODE, _VARIABLES_CODE, _VARIABLES, _ARRAY = 0x340, 0x3C0, 0x40, 0x100
_VERSION = (0x000A0000, 0x4A611234)


class Event(NamedTuple):
    """A module that was unloaded."""

    base: int
    size: int
    name: str
    sequence: int
    timestamp: int
    checksum: int

    @property
    def seen(self) -> tuple[int, int, str, int, int, int]:
        """Start, size, name, time stamp, check sum, sequence."""
        return self.base, self.size, self.name, self.timestamp, self.checksum, self.sequence


#: names that tempt a reader; and one that has all the characters there is room for
NAMES = ("gone.dll", "\x1b[2J\x07.dll", "half \ud800.dll", "=cmd|x.dll", "whole \U0001f512.dll", "a" * 28 + ".dll", "x")


def events(first: int, count: int, base: int = 0x7FFA40000000) -> tuple[Event, ...]:
    """Return events of consecutive numbers."""
    return tuple(
        Event(
            base + number * 0x20000,
            0x1000 + number % 7 * 0x1000,
            NAMES[number % len(NAMES)],
            number,
            0x5A000000 + number,
            0x10000 * number,
        )
        for number in range(first, first + count)
    )


class Trace(NamedTuple):
    """What ntdll keeps of modules that were unloaded, and how a reader gets there.

    `code`: which of the functions have their usual code: ``both``, ``array``, ``variables``, ``other``: neither,
    ``unnamed``: they are not exported, ``outside``: they lead out of ntdll. `events` are in both lists; `entry` is the
    size of an entry, None: the usual one. The others are what the variables say: `number`, and `pointer`, None: where
    the list lies. `raw` are entries of both lists, by their place, that hold other bytes. `lost` is what is not in
    memory: ``headers``, ``exports``, ``code``, ``array`` (its first page is there: it holds the variables), ``list``.
    """

    events: tuple[Event, ...] = ()
    code: str = "both"
    entry: int | None = None
    number: int = ENTRIES
    pointer: int | None = None
    raw: tuple[tuple[int, bytes], ...] = ()
    lost: tuple[str, ...] = ()


def contents(base: int, trace: Trace, at: int, *, narrow: bool = False) -> list[Content]:
    """Return what is in memory of ntdll, and of the list that its variables lead to, which lies at `at`."""
    parts = sections(PAGES)
    text, constants, data = (part.start for part in parts)
    names = [b"RtlGetUnloadEventTrace", b"RtlGetUnloadEventTraceEx"] if trace.code != "unnamed" else []
    places = dict(zip(names, (text + _ARRAY_CODE, text + _VARIABLES_CODE), strict=False))
    exports = {b"NtFiller%d" % number: text + 0x10 * number for number in range(40)} | places
    directory = export_directory(constants, b"ntdll.dll", exports, np.random.default_rng(len(trace.events)))
    page = _code(base, text, data, trace, narrow=narrow)
    rows = _rows(trace, narrow=narrow)
    variables = struct.pack("<IIII", len(rows) // ENTRIES, trace.number, 0, 0)
    variables += struct.pack("<I4x" if narrow else "<Q", at if trace.pointer is None else trace.pointer)
    stored = bytes(_VARIABLES) + variables
    stored = stored.ljust(_ARRAY, b"\0") + rows
    head = (header32 if narrow else header)(base, PAGES * PAGE, parts, (constants, len(directory)))
    found = {
        "headers": Content(base, head, 1, "R"),
        "code": Content(base + text, page, 1, "RX"),
        "more code": Content(base + text + PAGE, code(base + text + PAGE, 2), 2, "RX"),
        "exports": Content(base + constants, directory.ljust(PAGE, b"\0"), 1, "R"),
        "variables": Content(base + data, stored[:PAGE], 1, "RW"),
        "array": Content(base + data + PAGE, stored[PAGE:].ljust(PAGE, b"\0"), 1, "RW"),
        "list": Content(at, rows.ljust(2 * PAGE, b"\0"), 2, "RW"),
    }
    return [content for name, content in found.items() if name not in trace.lost]


def _code(base: int, text: int, data: int, trace: Trace, *, narrow: bool) -> bytes:
    """Return the first page of code: both functions among others that resemble them."""
    array, variables = data + _ARRAY, [data + _VARIABLES + place for place in (0, 4, 16)]
    if trace.code == "outside":
        array, variables = PAGES * PAGE + 0x10, [data, data, PAGES * PAGE + 0x10]
    page = bytearray(b"\xcc" * PAGE)
    for at, function in (
        (_ARRAY_CODE, _array_code(base, text + _ARRAY_CODE, array, narrow=narrow)),
        (_VARIABLES_CODE, _variables_code(base, text + _VARIABLES_CODE, variables, narrow=narrow)),
    ):
        page[at : at + len(function)] = function
        page[at - 0x30 : at - 0x30 + len(function)] = function[:-1] + b"\x90"
    # mov eax, ecx where ret stood; a jump in front: no more what is known
    if trace.code in {"other", "variables"}:
        page[_ARRAY_CODE + (5 if narrow else 7)] = 0x90
    if trace.code in {"other", "array"}:
        page[_VARIABLES_CODE + (2 if narrow else 8)] ^= 1
    return bytes(page)


def _array_code(base: int, at: int, array: int, *, narrow: bool) -> bytes:
    if narrow:
        return b"\xb8" + struct.pack("<I", base + array) + b"\xc3"
    return b"\x48\x8d\x05" + struct.pack("<i", array - (at + 7)) + b"\xc3"


def _variables_code(base: int, at: int, variables: list[int], *, narrow: bool) -> bytes:
    if narrow:
        code = b"\x8b\xff\x55\x8b\xec"
        for argument, place in zip((8, 12, 16), variables, strict=True):
            code += b"\x8b\x45" + bytes([argument]) + b"\xc7\x00" + struct.pack("<I", base + place)
        return code + b"\x5d\xc2\x0c\x00"
    code = b""
    for store, place in zip((b"\x48\x89\x01", b"\x48\x89\x02", b"\x49\x89\x00"), variables, strict=True):
        code += b"\x48\x8d\x05" + struct.pack("<i", place - (at + len(code) + 7)) + store
    return code + b"\xc3"


def _rows(trace: Trace, *, narrow: bool) -> bytes:
    """Return a list: the entry of a number is at that number, modulo the number of entries."""
    size = trace.entry or (92 if narrow else 104)
    rows = bytearray(size * ENTRIES)
    for event in trace.events:
        row = struct.pack("<IIIII" if narrow else "<QQIII", *event[:2], event.sequence, event.timestamp, event.checksum)
        row += event.name.encode("utf-16-le", "surrogatepass").ljust(64, b"\0") + struct.pack("<II", *_VERSION)
        place = event.sequence % ENTRIES * size
        rows[place : place + size] = row.ljust(size, b"\0")[:size]
    for number, data in trace.raw:
        rows[number * size : number * size + size] = data.ljust(size, b"\0")[:size]
    return bytes(rows)
