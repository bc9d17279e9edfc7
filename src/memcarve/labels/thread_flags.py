"""What threads have to do with memory that no file backs: they begin there, run there, or are to return there.

Sources: "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2, for the forms of CALL; "Arm
Architecture Reference Manual for A-profile" for those of BL and BLR.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import AddressError, CounterpartError, SourceReadError
from memcarve.intervals import PAGE, Intervals
from memcarve.labels.severities import AT_INSTRUCTION, NOTHING_THERE
from memcarve.vocabulary import Architecture, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.dtypes import U64
    from memcarve.labels.metadata_index import Known
    from memcarve.labels.severities import Rating
    from memcarve.metadata import Thread
    from memcarve.space import AddressSpace

_COUNTERS, _POINTERS = ("rip", "pc", "eip"), ("rsp", "sp", "esp")
_MOST_STACKS = 1 << 10  # of one process
_STACK = 1 << 18  # bytes that are looked at of a stack whose pointer is known,
_TOP = 1 << 16  # and of the top of any other
_MOST_TARGETS = 1 << 16  # that differ, of all stacks of one process
_LONGEST_CALL = 7
#: the forms of a near CALL up to the place that it returns to: relative; by a register; through memory that a register
#: points to, or two, or none, with a displacement of 0, 8 or 32 bits
_NO_BASE = rb"[%s]" % b"".join(b"\\x%02x" % (scale << 6 | index << 3 | 5) for scale in range(4) for index in range(8))
_CALL = re.compile(
    rb"(?:\xe8.{4}|\xff(?:[\xd0-\xd7]|[\x10-\x13\x16\x17]|[\x50-\x53\x55-\x57].|[\x15\x90-\x93\x95-\x97].{4}"
    rb"|\x14(?!%b).|\x14%b.{4}|\x54..|\x94.{5}))\Z" % (_NO_BASE, _NO_BASE),
    re.DOTALL,
)
#: a mask, and what is left of BL, of BLR, and of BLR with a pointer that is authenticated
_ARM64_CALLS = ((0xFC000000, 0x94000000), (0xFFFFFC1F, 0xD63F0000), (0xFEFFF800, 0xD63F0800))
_PLAIN = (1 << 48) - 1  # bits of an ARM64 program's address that no authentication code is in
_WORDS: dict[str, int] = {Architecture.X64: 8, Architecture.X86: 4, Architecture.ARM64: 8}


class Place(NamedTuple):
    """An address, and what a thread has to do with it; what that deserves if it is not what its flag does."""

    address: int
    why: str
    exception: Rating | None = None


def in_private(known: Known) -> Iterator[Place]:
    """Yield where threads began, or are, that is in memory that no file backs, or in none that is mapped."""
    for thread in known.metadata.all_threads():
        counter = _register(thread, _COUNTERS)
        for address, does, exception in (
            (thread.begin, "begins", None),
            (counter, "is", AT_INSTRUCTION),
        ):
            if address is None or not 0 < address < known.kernel_half:
                continue
            held = known.region_at(address)
            if held is not None and known.is_unbacked(held):
                where = f"in {known.kinds[held]} memory that no file backs"
                yield Place(address, f"thread {thread.tid} {does} at 0x{address:x}, {where}", exception)
            elif held is None and known.metadata.complete and does == "begins":
                why = f"thread {thread.tid} begins at 0x{address:x}, where nothing is mapped"
                yield Place(address, why, NOTHING_THERE)


class _Stack(NamedTuple):
    """What is looked at of a stack: from `low` to `high`; of the `top` only if its pointer is not known."""

    words: str
    low: int
    high: int
    width: int
    top: bool


def have_stacks(known: Known) -> bool:
    """Return True if the stacks of threads are known, and what a call looks like."""
    return any(True for _ in _stacks(known))


def returning(space: AddressSpace, known: Known, code: Intervals, beyond: list[str]) -> Iterator[Place]:
    """Yield where in `code` stacks lead: words that point behind an instruction that calls, as far as that is there.

    The first such place of each thread and region. Bytes are read of at most 1,024 stacks: 256 KiB from the stack
    pointer on, or the uppermost 64 KiB that are in memory. `code` is in order of addresses. What is too much to be
    looked at is added to `beyond`, in words.
    """
    if not len(code):
        return
    left = _MOST_TARGETS
    for number, stack in enumerate(_stacks(known)):
        if number == _MOST_STACKS:
            beyond.append(f"more than {_MOST_STACKS} stacks: the others were not looked at")
            return
        found: dict[int | None, list[tuple[int, int, bool]]] = {}
        for place, target in _pointers(space, known, stack, code):
            left -= 1
            if left < 0:
                break
            called = _is_called(space, known.architecture, target)
            if called is not False:
                found.setdefault(known.region_at(target), []).append((target, place, called is True))
        for places in found.values():
            target, place, called = next((each for each in places if each[2]), places[0])
            told = "behind a call" if called else "what stands before is not in memory"
            more = f"; {len(places) - 1} more of its words lead into the same region" if len(places) > 1 else ""
            yield Place(target, f"the stack of {stack.words} returns (at 0x{place:x}) to 0x{target:x}, {told}{more}")
        if left < 0:
            words = f"more than {_MOST_TARGETS} words of stacks lead to what no file backs"
            beyond.append(f"{words}: the others were not looked at")
            return


def _stacks(known: Known) -> Iterator[_Stack]:
    """Yield the stacks of threads; those of 32-bit code on 64-bit Windows are known by their areas alone."""
    width = _WORDS.get(known.architecture or "")
    if width is None:
        return
    told = set()
    for thread in known.metadata.all_threads():
        pointer, start, end = _register(thread, _POINTERS), thread.stack_start, thread.stack_end
        if pointer is not None and (start is None or end is None or not start <= pointer < end):
            held = known.region_at(pointer)
            if held is None:
                continue
            start, end = known.regions[held].start, known.regions[held].end
        if start is None or end is None or not start < end:
            continue
        told.add((start, end))
        words = f"thread {thread.tid}"
        if pointer is None:
            yield _Stack(words, start, end, width, top=True)
        else:
            low = pointer - pointer % width
            yield _Stack(words, low, min(low + _STACK, end), width, top=False)
    for areas in known.metadata.areas:
        for area in areas.rows:
            if area.kind == Kind.STACK and (area.start, area.end) not in told and area.detail is not None:
                narrow = area.detail.endswith("32-bit")
                yield _Stack(area.detail, area.start, area.end, 4 if narrow else width, top=True)


def _pointers(space: AddressSpace, known: Known, stack: _Stack, code: Intervals) -> Iterator[tuple[int, int]]:
    """Yield the words of a stack that point into code: where each stands, and where it points."""
    held = Intervals.of([(stack.low, stack.high - stack.low)]).intersect(space)[0]
    parts = [*held.bounds()]
    left, seen = _TOP if stack.top else _STACK, set[int]()
    chosen = []
    for low, high in reversed(parts):
        if left > 0:
            chosen.append((max(low, high - left), high))
        left -= high - low
    for low, high in reversed(chosen):
        begin = low + -low % stack.width
        size = (high - begin) // stack.width * stack.width
        try:
            data = space.read(begin, size) if size > 0 else b""
        except (AddressError, SourceReadError, CounterpartError):
            continue
        words: U64 = np.frombuffer(data, f"<u{stack.width}").astype(np.uint64)
        targets = words & np.uint64(_PLAIN) if known.architecture == Architecture.ARM64 else words
        # the call stands there as well: a word that leads to the first byte was put there otherwise
        leads = (code.rows_of(targets) >= 0) & (code.rows_of(targets - np.uint64(1)) >= 0)
        for row in np.flatnonzero(leads).tolist():
            target = int(targets[row])
            if target in seen:
                continue
            seen.add(target)
            yield begin + row * stack.width, target


def _is_called(space: AddressSpace, architecture: str | None, target: int) -> bool | None:
    """Return True if an instruction that calls stands before an address; None if what stands there is not in memory."""
    arm = architecture == Architecture.ARM64
    size = min(4 if arm else _LONGEST_CALL, target)
    try:
        before = space.read(target - size, size)
    except (AddressError, SourceReadError, CounterpartError):
        if target % PAGE >= size or target % PAGE == 0:
            return None
        try:  # the call may stand in this page alone
            before = space.read(target - target % PAGE, target % PAGE)
        except (AddressError, SourceReadError, CounterpartError):
            return None
        return True if not arm and _is_call(before) else None
    if arm:
        word = int.from_bytes(before, "little")
        return any(word & mask == left for mask, left in _ARM64_CALLS)
    return _is_call(before)


def _is_call(before: bytes) -> bool:
    """Return True if these bytes end with a near CALL of x86."""
    return any(_CALL.match(before, at) is not None for at in range(len(before) - 1))


def _register(thread: Thread, names: tuple[str, ...]) -> int | None:
    registers = thread.registers or {}
    return next((registers[name] for name in names if name in registers), None)
