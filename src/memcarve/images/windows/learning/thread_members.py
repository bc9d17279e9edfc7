"""The list of threads of a kernel that no table knows: where it begins, and the layout of a thread.

A list is proven if it leads back to the process, and everything in it is a thread object (its header begins with that
type, and with a list of waiters) that names the process as its own, beside its own id. The TEB's offset is proven if
the TEB points to itself and names process and thread. The start address is the member between those two that lies in a
region of the process, in every thread that has a TEB.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.images.windows import threads
from memcarve.images.windows.eprocess import is_id
from memcarve.images.windows.eprocess_scan import POINTERS, USER_END
from memcarve.images.windows.learning.sample import STRUCTURE, has_waiters, undisputed, words_of
from memcarve.images.windows.offsets import ThreadList
from memcarve.images.windows.vads import is_kernel
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memcarve.images.windows.learning.sample import Probe

    #: returns True if an address lies in a region of a process; None if regions are not known
    Inside = Callable[[Probe, int], bool | None]

_CHECKED = 8  # processes with which a table is checked
_MOST_LEARNED = 16
_MOST_THREADS = 32  # of each process that is learned from
_FIRST = 0x30  # where in an EPROCESS or ETHREAD the first list or member can be
_LAST_TEB = 0x400
_SELF, _CLIENT = 0x30, 0x40  # members of a TEB
_MOST_PART = 0.9
_TIMES = 4


class _Seen(NamedTuple):
    """A thread that is learned from, with its bytes."""

    probe: Probe
    address: int
    data: bytes

    def number(self, at: int, size: int = 8) -> int:
        return int.from_bytes(self.data[at : at + size], "little")


def settle(
    probes: Sequence[Probe], own: Sequence[ThreadList], known: Sequence[ThreadList], inside: Inside
) -> ThreadList | None:
    """Return how a kernel's processes list their threads; None if that is not known.

    `own` is what the table says of its build, which must hold up in most of what is looked at. What the table says of
    other kernels (`known`), and what is learned, is believed only if it is proven.
    """
    few = [probe for probe in probes if probe.peb is not None][:_CHECKED] or list(probes[:_CHECKED])
    usable: ThreadList | None = None
    for layout in own:
        good, bad, proven = _weigh(few, layout)
        if good > bad and proven:
            return layout if _begins(few, layout, inside) else _begun(few, layout, inside)
        if good > bad or (len(own) == 1 and not good and not bad):
            usable = layout
    # if no TEB is in memory, nothing better may be found
    return _best(probes, known, inside) or _learned(probes, inside) or usable


def _weigh(probes: Iterable[Probe], layout: ThreadList) -> tuple[int, int, int]:
    """Return how many threads hold up, how many entries do not, and how many TEBs prove the TEB's offset."""
    good = bad = proven = 0
    for probe in probes:
        walked = threads.walk(probe.kernel, layout, probe.address, probe.pid)
        bad += min(walked.foreign, _MOST_THREADS) + bool(walked.problem)
        for thread in walked.threads[:_MOST_THREADS]:
            holds = threads.is_thread(probe.kernel, thread)
            good += holds
            bad += not holds
            proven += holds and _is_teb(probe, thread.teb, thread.tid)
    return good, bad, proven


def _begins(probes: Iterable[Probe], layout: ThreadList, inside: Inside) -> bool:
    """Return True if half of the threads with a TEB began in a region of their process."""
    begins = [
        thread.begin and inside(probe, thread.begin) is not False
        for probe in probes
        for thread in threads.walk(probe.kernel, layout, probe.address, probe.pid).threads[:_MOST_THREADS]
        if thread.teb
    ]
    return sum(map(bool, begins)) * 2 >= len(begins)


def _begun(probes: Iterable[Probe], layout: ThreadList, inside: Inside) -> ThreadList:
    """Return a list of threads with the offset of the start address that is found in them, if any."""
    seen = [
        _Seen(probe, thread.address, probe.kernel.padded(thread.address, STRUCTURE))
        for probe in probes
        for thread in threads.walk(probe.kernel, layout, probe.address, probe.pid).threads[:_MOST_THREADS]
    ]
    begin = None if layout.teb is None else _begin(seen, layout.client, layout.links, layout.teb, inside)
    return layout._replace(begin=begin)


def _is_teb(probe: Probe, teb: int, tid: int) -> bool:
    """Return True if there is a TEB that belongs to its thread."""
    if probe.user is None or not 0 < teb < USER_END or teb % PAGE:
        return False
    said = [probe.user.number(teb + at) for at in (_SELF, _CLIENT, _CLIENT + 8)]
    return said == [teb, probe.pid, tid]


def _best(probes: Sequence[Probe], known: Iterable[ThreadList], inside: Inside) -> ThreadList | None:
    """Return the list that most threads prove; None if there is none, or if two give different results."""
    some = [probe for probe in probes if probe.peb is not None][:_MOST_LEARNED]
    found: list[tuple[int, ThreadList, object]] = []
    for layout in dict.fromkeys(known):
        good, bad, proven = _weigh(some, layout)
        if not proven or good <= _TIMES * bad:
            continue
        told = [threads.walk(probe.kernel, layout, probe.address, probe.pid).threads for probe in some]
        found.append((proven, layout if _begins(some, layout, inside) else _begun(some, layout, inside), told))
    return undisputed(found)


def _learned(probes: Sequence[Probe], inside: Inside) -> ThreadList | None:
    """Return the list that is found without any table."""
    some = [probe for probe in probes if probe.peb is not None][:_MOST_LEARNED]
    votes: Counter[tuple[int, int]] = Counter()
    heads: Counter[int] = Counter()
    rings: dict[tuple[int, int], list[int]] = {}
    for number, probe in enumerate(some):
        for head, links in _rings(probe):
            rings[number, head] = links
            heads[head] += 1
            votes.update((head, at) for at in _starts(probe, links))
    # of two lists of the same threads, that of the EPROCESS itself comes after that of its first member
    for (head, at), count in sorted(votes.items(), key=lambda item: (-item[1], -item[0][0])):
        if count * 2 <= heads[head]:
            return None
        seen = [
            _Seen(some[number], link - at, some[number].kernel.padded(link - at, STRUCTURE))
            for (number, other), links in rings.items()
            if other == head and at in _starts(some[number], links)
            for link in links
        ]
        client = _client(seen)
        if client is not None:
            teb = _teb(seen, client)
            begin = None if teb is None else _begin(seen, client, at, teb, inside)
            return ThreadList(head=head, links=at, client=client, begin=begin, teb=teb)
    return None


def _rings(probe: Probe) -> list[tuple[int, list[int]]]:
    """Return the lists that begin in an EPROCESS and lead back to it: where each begins, and its first links."""
    found = []
    words = words_of([probe.structure])[0]
    kernels = (words >= POINTERS) & (words % np.uint64(8) == 0)
    for word in np.flatnonzero(kernels[:-2] & kernels[1:-1]).tolist():
        head, first = word * 8, int(words[word])
        here = probe.address + head
        if head < _FIRST or first == here or probe.kernel.number(first + 8) != here:
            continue
        links: list[int] = []
        link = first
        while link != here and len(links) < _MOST_THREADS:
            following = probe.kernel.number(link)
            if following is None or not is_kernel(following) or probe.kernel.number(following + 8) != link:
                break
            links.append(link)
            link = following
        else:
            found.append((head, links))
    return found


def _starts(probe: Probe, links: Sequence[int]) -> list[int]:
    """Return at which distances before all of the links a thread object may begin."""
    possible: list[int] = []
    for number, link in enumerate(links):
        before = probe.kernel.padded(link - STRUCTURE, STRUCTURE)
        candidates = possible if number else range(link % 16 or 16, STRUCTURE, 16)
        possible = [
            at
            for at in candidates
            if (link - at) % 16 == 0
            and before[STRUCTURE - at] & threads.OBJECT_TYPE == threads.THREAD_OBJECT
            and has_waiters(probe.kernel, link - at)
        ]
    return possible


def _client(seen: Sequence[_Seen]) -> int | None:
    """Return the offset of the ids of process and thread; None if there is not exactly one."""
    found = []
    for at in range(_FIRST, STRUCTURE - 16, 8):
        numbers = [(one.probe.pid, one.number(at + 8)) for one in seen if one.number(at) == one.probe.pid]
        if (
            len(numbers) >= _MOST_PART * len(seen)
            and len(set(numbers)) == len(numbers)
            and all(is_id(tid) for _, tid in numbers)
        ):
            found.append(at)
    return found[0] if len(found) == 1 else None


def _teb(seen: Sequence[_Seen], client: int) -> int | None:
    """Return the offset of the TEB's address; None if there is not exactly one."""
    found = []
    for at in range(_FIRST - 8, _LAST_TEB, 8):
        possible = [one for one in seen if one.number(at) < USER_END and one.number(at) % PAGE == 0]
        proven = sum(_is_teb(one.probe, one.number(at), one.number(client + 8)) for one in possible)
        if proven and len(possible) >= _MOST_PART * len(seen):
            found.append(at)
    return found[0] if len(found) == 1 else None


def _begin(seen: Sequence[_Seen], client: int, links: int, teb: int, inside: Inside) -> int | None:
    """Return the offset of the start address; None if there is not exactly one."""
    chosen = [one for one in seen if one.number(teb)]
    found = []
    for at in range(client + 16, links, 8):
        values = [(one.probe, one.number(at)) for one in chosen]
        possible = [(probe, value) for probe, value in values if 0 < value < USER_END]
        held = [inside(probe, value) for probe, value in possible]
        judged = [each for each in held if each is not None]
        if judged and len(possible) >= _MOST_PART * len(values) and sum(judged) >= _MOST_PART * len(judged):
            found.append(at)
    return found[0] if len(found) == 1 else None
