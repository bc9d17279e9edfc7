"""The threads of a process on Windows x64: the kernel's list of them, their TEBs and stacks.

Sources: Microsoft's symbols of _ETHREAD; winternl.h and the symbols of _TEB and _NT_TIB, which have kept these offsets
in every 64-bit Windows. A TEB lies in the process's own memory, where the process may write what it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcarve.images.windows.eprocess_scan import USER_END
from memcarve.images.windows.vads import is_kernel
from memcarve.intervals import PAGE
from memcarve.metadata import Region

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.images.structure_reader import Reader
    from memcarve.images.windows.offsets import ThreadList

_MOST_THREADS = 1 << 16
THREAD_OBJECT = 6  # KOBJECTS.ThreadObject: what a thread's DISPATCHER_HEADER begins with
OBJECT_TYPE = 0x7F  # the rest of that byte is a lock

#: a TEB is 0x1818 to 0x1878 bytes long, by version; a 32-bit one up to 0x1000
TEB_SIZE, NARROW_TEB_SIZE = 2 * PAGE, PAGE
_NARROW_BEHIND = 0x2000  # where the 32-bit TEB lies behind the other, in every version so far
_NARROW_OFFSET = 0x180C  # WowTebOffset, from Windows 10 on


class Kthread(NamedTuple):
    """A thread as the kernel knows it, in the ETHREAD at `address`; `teb` and `begin` are 0 if it has none."""

    address: int
    tid: int
    teb: int
    begin: int


class Walked(NamedTuple):
    """The threads of a list, what is wrong with it, in words, and how many entries are not this process's threads."""

    threads: list[Kthread]
    problem: str
    foreign: int


class _Form(NamedTuple):
    """The width of pointers, in bytes, and offsets of members in a TEB."""

    word: int
    base: int
    limit: int
    itself: int
    allocation: int


_WIDE, _NARROW = _Form(8, 0x08, 0x10, 0x30, 0x1478), _Form(4, 0x04, 0x08, 0x18, 0xE0C)


def walk(reader: Reader, layout: ThreadList, process: int, pid: int) -> Walked:
    """Return the threads in the list of a process (address of its EPROCESS); a damaged list is also read backward."""

    def owner(link: int) -> int | None:
        return reader.number(link - layout.links + layout.client)

    head = process + layout.head
    links, problem = _follow(reader, head, lambda link: owner(link) == pid, forward=True)
    if problem:
        seen = set(links)
        backward = _follow(reader, head, lambda link: owner(link) == pid, forward=False)[0]
        links += [link for link in backward[::-1] if link not in seen]
    found, foreign = [], 0
    for link in links:
        address = link - layout.links
        tid, begin, teb = (
            0 if at is None else reader.number(address + at) for at in (layout.client + 8, layout.begin, layout.teb)
        )
        if owner(link) != pid or tid is None or tid >= 1 << 32 or begin is None or teb is None:
            foreign += 1
        else:
            found.append(Kthread(address, tid, teb, begin))
    return Walked(found, problem, foreign)


def is_thread(reader: Reader, thread: Kthread) -> bool:
    """Return True if a thread is an object of that type, and has no TEB or one at a possible address."""
    kind = reader.number(thread.address, 1)
    return kind is not None and kind & OBJECT_TYPE == THREAD_OBJECT and thread.teb % PAGE == 0 and thread.teb < USER_END


def notes_of(walked: Walked) -> list[str]:
    """Return notes for the user about what is wrong with a list."""
    notes = []
    if walked.problem:
        notes.append(f"the list of threads is damaged: {walked.problem}; threads may be missing")
    if walked.foreign:
        entries = "entry" if walked.foreign == 1 else "entries"
        notes.append(f"{walked.foreign} {entries} of the list of threads led to no thread of the process")
    return notes


def narrow(reader: Reader, teb: int) -> tuple[int, Region | None] | None:
    """Return address and stack of the 32-bit TEB that belongs to a TEB; None if there is none."""
    behind = reader.number(teb + _NARROW_OFFSET, 4)
    signed = None if behind is None else behind - (behind >> 31 << 32)
    places = (
        None if not signed else teb + signed,
        teb + _NARROW_BEHIND,
        reader.number(teb),  # ExceptionList, which 64-bit code has no use for
    )
    for place in places:
        if place and place % PAGE == 0 and place < 1 << 32 and reader.number(place + _NARROW.itself, 4) == place:
            return place, stack(reader, place, _NARROW)[0]
    return None


def stack(reader: Reader, teb: int, form: _Form = _WIDE) -> tuple[Region | None, str]:
    """Return the stack that the TEB at an address gives, or None and why not; without a reason if that is usual."""
    itself, base, limit, allocation = (
        reader.number(teb + at, form.word) for at in (form.itself, form.base, form.limit, form.allocation)
    )
    if itself is None or base is None or limit is None:
        return None, ""
    if itself != teb:
        return None, "did not point to itself"
    start = allocation or limit  # its page may be paged out
    if not 0 < start <= limit < base <= USER_END:
        return None, "claimed an impossible stack"
    return Region(start, base - start), ""


def _follow(reader: Reader, head: int, is_own: Callable[[int], bool], *, forward: bool) -> tuple[list[int], str]:
    """Return the links from a head on in one direction, and what is wrong with them.

    What a link leads to counts if it leads back, or if `is_own` recognises it.
    """
    found: list[int] = []
    seen = {head}
    here, problem = head, ""
    while True:
        link = reader.number(here if forward else here + 8)
        if link is None:
            return found, f"0x{here:x} cannot be read"
        if (link in seen and link != head) or not is_kernel(link):
            return found, f"0x{here:x} leads to 0x{link:x}"
        if reader.number(link + 8 if forward else link) != here:
            problem = problem or f"0x{link:x} does not lead back to 0x{here:x}"
            if link != head and not is_own(link):
                return found, problem
        if link == head:
            return found, problem
        if len(found) >= _MOST_THREADS:
            return found, f"it does not end within {_MOST_THREADS} threads"
        seen.add(link)
        found.append(link)
        here = link
