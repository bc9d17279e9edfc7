"""What the flags of memory say, one finding a place: the reason in words, the region, and the bytes that lie there."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, SourceReadError
from memcarve.hunting.findings.executable import may_run
from memcarve.hunting.findings.finding_record import Evidence
from memcarve.hunting.findings.process_check import Remark
from memcarve.intervals import PAGE, Intervals
from memcarve.labels.segment_labels import permission_bits, permission_words
from memcarve.labels.severities import Rating
from memcarve.vocabulary import Architecture, Flag, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import I64
    from memcarve.hunting.findings.subject import Subject
    from memcarve.labels.flags import Flagged
    from memcarve.metadata import Region

#: flags whose places are regions, of which nothing more is said in words
_BY_REGION = {
    Flag.PRIVATE_EXECUTABLE: "that no file backs may run",
    Flag.WRITABLE_EXECUTABLE: "may be written and run",
    Flag.EXECUTABLE_STACK: "of a stack may run",
}
_EMPTY = Rating(Severity.INFO, "nothing of it is in memory, so that there is nothing to look at")
_MOST_PLACES = 1 << 16  # of one flag in one process
_SEARCHED = 16 * PAGE  # bytes in which the first that is not zero is looked for
_ROW = 16  # bytes of a line of a hexdump
_NARROW_END = 1 << 32


class Place(NamedTuple):
    """What is known of an address: its region, kind, file or module, and the page tables' permissions in the region."""

    region: Region | None
    kind: str | None
    file: str | None
    permissions: tuple[str, ...]


def spots(subject: Subject, flagged: Flagged, flag: Flag) -> Iterator[Remark]:
    """Yield what a flag says of a process's memory, by address; regions that are one allocation are one place."""
    if flag in _BY_REGION:
        yield from _by_region(subject, flagged.where[flag], _BY_REGION[flag])
        return
    found = {(each.address, each.why): each.exception for each in flagged.findings if each.flag == flag}
    for (address, why), exception in sorted(found.items()):
        yield Remark(why, exception, address, address)


def _by_region(subject: Subject, where: Intervals, words: str) -> Iterator[Remark]:
    """Yield a place for each allocation of which something is in `where`, and for each stretch in no region."""
    known, memory = subject.known, subject.memory
    if known is None or memory is None or not len(where):
        return
    pieces = known.region_pieces.intersect(where)[0]
    regions, which = np.unique(pieces.owner, return_inverse=True)
    owners = np.array([known.allocation(place).start for place in regions.tolist()], np.uint64)[which]
    first = np.flatnonzero(np.append([len(owners) > 0], owners[1:] != owners[:-1])[: len(owners)])
    there = Intervals(memory.space.start, memory.space.size)
    yield from _places(pieces, first, there, words)
    outside = where.subtract(known.region_pieces)
    yield from _places(outside, np.arange(len(outside)), there, words)


def _places(pieces: Intervals, first: I64, there: Intervals, words: str) -> Iterator[Remark]:
    """Yield a remark for the pieces from each of the `first` to the next; what is `there` has bytes.

    There may be millions: those that are too many to be looked at one by one are counted.
    """
    if not len(first):
        return
    start, last = pieces.start[first], pieces.last[np.append(first[1:], len(pieces)) - 1]
    held = pieces.intersect(there)[0].start
    place = np.searchsorted(held, start)
    bytes_at = np.append(held, np.uint64(0))[place]
    is_there = (place < len(held)) & (bytes_at <= last)
    columns = (start, np.add.reduceat(pieces.size, first), bytes_at, is_there)
    for address, size, at, present in zip(*(column[:_MOST_PLACES].tolist() for column in columns), strict=True):
        why = f"{size} bytes {words}"
        if present:
            yield Remark(why, None, address, at)
        else:
            yield Remark(f"{why}; none of them is in memory", _EMPTY, address)
    further = int(np.count_nonzero(is_there[_MOST_PLACES:]))
    counts = (None, further), (_EMPTY, max(len(first) - _MOST_PLACES, 0) - further)
    yield from (Remark(words, rating, number=number) for rating, number in counts if number)


def place_of(subject: Subject, address: int | None) -> Place:
    """Return what is known of an address; nothing of none."""
    known, memory = subject.known, subject.memory
    if known is None or memory is None or address is None:
        return Place(None, None, None, ())
    held = known.region_at(address)
    module = known.module_pieces.at(address)
    name = None if module is None else known.modules[int(known.module_pieces.owner[module])].module
    region = None if held is None else known.regions[held]
    file = None if region is None else region.file
    if file is None and name is not None:
        file = name.path or name.name
    return Place(region, None if held is None else known.kinds[held], file, _permissions(subject, region, address))


def _permissions(subject: Subject, region: Region | None, address: int) -> tuple[str, ...]:
    memory = subject.memory
    if memory is None or memory.space.flags is None or not len(memory.space):
        return ()
    start, end = (address, address + 1) if region is None else (region.start, region.end)
    low = np.searchsorted(memory.space.last, np.uint64(start))
    high = np.searchsorted(memory.space.start, np.uint64(end - 1), "right")
    found = permission_bits(memory.space, np.array([low], np.int64), np.array([high], np.int64))
    return tuple(permission_words(int(found[0])))


def evidence_at(subject: Subject, address: int | None, size: int) -> Evidence | None:
    """Return up to `size` bytes that lie at an address; None if none do.

    What may run is shown from its first line that is not zero on, if that is near.
    """
    memory = subject.memory
    if memory is None or address is None or size <= 0:
        return None
    runs = may_run(subject, address)
    data = _read(subject, address, max(size, _SEARCHED) if runs else size)
    if runs and data:
        first = next((at for at in range(0, len(data), _ROW) if any(data[at : at + _ROW])), 0)
        address, data = address + first, data[first : first + size]
    if not data:
        return None
    narrow = subject.entry.wow64 and address < _NARROW_END and memory.architecture == Architecture.X64
    return Evidence(address, data, runs, Architecture.X86 if narrow else memory.architecture)


def _read(subject: Subject, address: int, size: int) -> bytes:
    """Return the bytes at an address, fewer than `size` if no more are there."""
    memory = subject.memory
    if memory is None:
        return b""
    data = bytearray()
    for at in itertools.count(address, PAGE):
        step = min(PAGE - at % PAGE, size - len(data))
        if step <= 0:
            break
        try:
            data += memory.space.read(address + len(data), step)
        except (AddressError, SourceReadError):
            break
    return bytes(data)
