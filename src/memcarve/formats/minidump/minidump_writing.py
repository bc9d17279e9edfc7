"""The beginning of a minidump: everything but the memory, which follows it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import OutputError
from memcarve.formats.alignment import memory_begins
from memcarve.formats.minidump import structures
from memcarve.intervals import total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.dtypes import U64, Records
    from memcarve.formats.minidump.structures import Module


_FIELD = 0xFFFFFFFF  # the largest number that fits


class System(NamedTuple):
    """The system: `architecture` and `platform` are numbers; an unknown version is 0."""

    architecture: int
    platform: int
    major: int = 0
    minor: int = 0
    build: int = 0


class Thread(NamedTuple):
    """A thread; a TEB or an address where it began that is not known is 0. `stack` is its start and size in bytes.

    A `name` that is not known is None.
    """

    tid: int
    teb: int
    stack: tuple[int, int]
    begin: int
    context: bytes
    has_registers: bool
    name: str | None = None


class Raised(NamedTuple):
    """An exception: in which thread, its code and flags, where, at most 15 parameters, the CONTEXT at that moment."""

    tid: int
    code: int
    flags: int
    address: int
    parameters: tuple[int, ...]
    context: bytes


class Head(NamedTuple):
    """The first bytes of a minidump, in `blocks`; the memory begins at `base`."""

    blocks: Sequence[bytes]
    base: int


class _Blocks:
    """Blocks one behind the other, each beginning at a multiple of 8."""

    def __init__(self, begin: int) -> None:
        self.blocks: list[bytes] = []
        self.end = begin

    def add(self, *parts: bytes, align: int = 8) -> int:
        """Append parts, one block together; return where it begins."""
        gap = -self.end % align
        place = self.end + gap
        self.blocks += [bytes(gap), *parts] if gap else parts
        self.end = place + sum(map(len, parts))
        return place


def head(
    system: System,
    pid: int | None,
    modules: Sequence[Module],
    unloaded: Sequence[Module] | None,
    threads: Sequence[Thread],
    raised: Raised | None,
    infos: Records,
    memory: tuple[U64, U64],
    comment: bytes,
    auxiliary_vector: bytes,
    maps: bytes = b"",
) -> Head:
    """Return what stands before the memory.

    There is no list of `unloaded` modules, and no exception `raised`, if that is None. `infos` are rows of
    `layout.MEMORY_INFO`, `memory` start and size (uint64) of the ranges in the order in which their bytes follow.
    `comment` is ASCII and ends with a zero. An auxiliary vector of no bytes is not known, nor are the lines of
    /proc/PID/maps, `maps`.
    Raises OutputError if it all would not end below 4 GiB.
    """
    begun = [thread for thread in threads if thread.begin]
    named = [thread for thread in threads if thread.name is not None]
    count = 7 + sum(
        (bool(begun), unloaded is not None, bool(named), raised is not None, bool(auxiliary_vector), bool(maps))
    )
    place = structures.HEADER.size + count * structures.DIRECTORY.size
    blocks, streams = _Blocks(place), list[tuple[int, int, int]]()

    def stream(kind: int, *parts: bytes) -> None:
        streams.append((kind, sum(map(len, parts)), blocks.add(*parts)))

    stream(structures.COMMENT, comment)
    service_pack = blocks.add(_string(""))
    one = 1  # a machine has one processor at least; how many is not known
    words = (system.architecture, 0, 0, one, 0, *system[2:], system.platform, service_pack, 0, 0)
    stream(structures.SYSTEM_INFO, structures.SYSTEM.pack(*words))
    valid = 0 if pid is None or pid > _FIELD else structures.MISC_PROCESS_ID
    stream(structures.MISC_INFO, structures.MISC.pack(structures.MISC.size, valid, (pid or 0) if valid else 0))
    stream(structures.MODULE_LIST, _modules(blocks, modules))
    if unloaded is not None:
        stream(structures.UNLOADED_MODULE_LIST, _unloaded(blocks, unloaded))
    stream(structures.THREAD_LIST, _threads(blocks, threads))
    if begun:
        stream(structures.THREAD_INFO_LIST, _thread_infos(begun))
    if named:
        stream(structures.THREAD_NAMES, _thread_names(blocks, named))
    if raised is not None:
        stream(structures.EXCEPTION, _exception(blocks, raised))
    if auxiliary_vector:
        stream(structures.LINUX_AUXV, auxiliary_vector)
    if maps:
        stream(structures.LINUX_MAPS, maps)
    head = structures.MEMORY_INFO_HEAD
    info_head = head.pack(head.size, structures.MEMORY_INFO.itemsize, len(infos))
    stream(structures.MEMORY_INFO_LIST, info_head, infos.tobytes())
    ranges = np.zeros(len(memory[0]), structures.MEMORY64)
    ranges["start"], ranges["size"] = memory
    size = structures.MEMORY64_HEAD.size + ranges.nbytes
    begin = blocks.end + -blocks.end % 8
    base = memory_begins(begin + size, total(memory[1]))
    if begin + size > _FIELD:
        raise OutputError(
            f"{len(ranges)} ranges are more than a minidump can list", remedy="choose fewer with {half} or {address}"
        )
    stream(structures.MEMORY64_LIST, structures.MEMORY64_HEAD.pack(len(ranges), base), ranges.tobytes())
    flags = structures.FULL_MEMORY | structures.FULL_MEMORY_INFO | (structures.THREAD_INFO if begun else 0)
    first = [structures.HEADER.pack(structures.MAGIC, structures.VERSION, count, structures.HEADER.size, 0, 0, flags)]
    first += [structures.DIRECTORY.pack(*each) for each in streams]
    return Head([*first, *blocks.blocks, bytes(base - blocks.end)], base)


def _string(text: str) -> bytes:
    """Return a MINIDUMP_STRING; halves of characters, which are not text and upset readers, become U+FFFD."""
    data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode("utf-16-le")
    return struct.pack("<I", len(data)) + data + bytes(2)


def _modules(blocks: _Blocks, modules: Sequence[Module]) -> bytes:
    """Return the list of modules; names and records are put before it."""
    places: dict[bytes, int] = {}
    rows = [struct.pack("<I", len(modules))]
    for module in modules:
        if module.codeview not in places:
            places[module.codeview] = blocks.add(module.codeview)
        name = blocks.add(_string(module.name or ""))
        record = len(module.codeview), places[module.codeview]
        numbers = (module.base, module.size, module.checksum, module.timestamp)
        rows.append(structures.MODULE.pack(*numbers, name, *record, 0, 0))
    return b"".join(rows)


def _unloaded(blocks: _Blocks, modules: Sequence[Module]) -> bytes:
    """Return the list of modules that were unloaded; names are put before it."""
    head, entry = structures.UNLOADED_MODULE_HEAD, structures.UNLOADED_MODULE
    rows = [entry.pack(*module[:4], blocks.add(_string(module.name or ""))) for module in modules]
    return head.pack(head.size, entry.size, len(rows)) + b"".join(rows)


def _threads(blocks: _Blocks, threads: Sequence[Thread]) -> bytes:
    """Return the list of threads; their registers are put before it.

    A stack has no RVA of its own, as in all minidumps of full memory: its bytes are found by its address. Ghidra maps
    what has one a second time.
    """
    places: dict[bytes, int] = {}
    rows = [struct.pack("<I", len(threads))]
    for thread in threads:
        data = thread.context
        if data not in places:
            places[data] = blocks.add(data, align=16) if data else 0
        start, size = thread.stack if thread.stack[1] <= _FIELD else (thread.stack[0], 0)
        rows.append(
            structures.THREAD.pack(thread.tid & _FIELD, 0, 0, 0, thread.teb, start, size, 0, len(data), places[data])
        )
    return b"".join(rows)


def _thread_names(blocks: _Blocks, threads: Sequence[Thread]) -> bytes:
    """Return the list of threads' names, which are put before it."""
    rows = [structures.THREAD_NAME.pack(each.tid & _FIELD, blocks.add(_string(each.name or ""))) for each in threads]
    return struct.pack("<I", len(rows)) + b"".join(rows)


def _exception(blocks: _Blocks, raised: Raised) -> bytes:
    """Return the ExceptionStream; the CONTEXT is put before it."""
    place = blocks.add(raised.context, align=16) if raised.context else 0
    words = [*raised.parameters[: structures.MOST_PARAMETERS]]
    words += [0] * (structures.MOST_PARAMETERS - len(words))
    head = raised.tid & _FIELD, raised.code & _FIELD, raised.flags & _FIELD, 0, raised.address
    count = min(len(raised.parameters), structures.MOST_PARAMETERS)
    return structures.EXCEPTION_RECORD.pack(*head, count, *words, len(raised.context), place)


def _thread_infos(threads: Sequence[Thread]) -> bytes:
    entry = structures.THREAD_INFO_ENTRY
    rows = [structures.THREAD_INFO_HEAD.pack(structures.THREAD_INFO_HEAD.size, entry.size, len(threads))]
    for thread in threads:
        flags = structures.INVALID_CONTEXT * (not thread.has_registers) | structures.INVALID_TEB * (not thread.teb)
        rows.append(entry.pack(thread.tid & _FIELD, flags, 0, 0, thread.begin, 0))
    return b"".join(rows)
