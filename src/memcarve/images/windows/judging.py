"""Decides whether what looks like a Windows x64 process is one: what its members say, and what leads back to it.

A process that was hidden is in no list, so no list is used. Each of several facts, which have little to do with each
other, holds, fails, or says nothing. A fact that fails for the processes of the kernel's list, which are certain, says
nothing on this machine: an offset is different there, or part of the memory is missing.

Sources: Microsoft's public symbols of _DISPATCHER_HEADER, _KPROCESS, _HANDLE_TABLE and _PEB, whose members used here
have kept their offsets in every 64-bit Windows; KUSER_SHARED_DATA and KSYSTEM_TIME of ntddk.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import LimitError, SourceReadError
from memcarve.images.one_page import present_page
from memcarve.images.paging import translate
from memcarve.images.paging_modes import FRAME, PRESENT, ROOT, UPPER_HALF
from memcarve.images.structure_reader import Reader
from memcarve.images.windows import eprocess
from memcarve.images.windows.eprocess import SYSTEM, is_id
from memcarve.images.windows.eprocess_scan import (
    EARLIEST,
    LATEST,
    PROCESS as PROCESS_OBJECT,
    PROFILE_LIST,
    TYPE_MASK,
    USER_END,
    WAIT_LIST,
)
from memcarve.images.windows.kernel import SHARED_DATA
from memcarve.images.windows.offsets import thread_lists
from memcarve.images.windows.peb_modules import PEB_IMAGE
from memcarve.images.windows.threads import THREAD_OBJECT
from memcarve.images.windows.vads import is_kernel
from memcarve.intervals import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memcarve.dtypes import U64, Bools
    from memcarve.images.physical import PhysicalMemory
    from memcarve.images.windows.eprocess import Layout
    from memcarve.images.windows.kernel import Kernel
    from memcarve.images.windows.offsets import ThreadList
    from memcarve.images.windows.processes import Process

#: how many facts must hold: the candidate's looks are one, and chance makes another hold now and then
ENOUGH = 3
MOST_CERTAIN, MOST_DOUBTFUL = 1 << 16, 1 << 12
_SAMPLE = 32  # processes of the list that show which facts say something

_DELETE = 0x7F
_HANDLE_TABLE = 0x40  # bytes in which QuotaProcess lies: at 0x08 in Windows 7, at 0x10 from 8 on
_SYSTEM_TIME = SHARED_DATA + 0x14  # in KUSER_SHARED_DATA: low part, high part, and the high part again
_DAY = 864_000_000_000  # in steps of 100 ns: how long an acquisition may take, or how far a clock may be off
_HOLDS = ""  # the result of a fact that holds; None means that it says nothing, anything else says in words what fails


class Verdict(NamedTuple):
    """How many facts hold, and in words what fails."""

    holds: int
    doubts: tuple[str, ...]

    @property
    def is_process(self) -> bool:
        """Whether enough facts hold for a process, doubtful or not; fewer are enough if part of it is missing."""
        return self.holds >= (ENOUGH if self.doubts else ENOUGH - 1)


class _Seen(NamedTuple):
    """A process to judge; `base` is the kernel address that it has, or that it had according to its own members."""

    process: Process
    base: int | None
    read: Callable[[int, int], bytes | None]

    def number(self, at: int, size: int = 8) -> int | None:
        """Return the number at an offset in the structure; None if it is not in memory."""
        data = self.read(at, size)
        return None if data is None else int.from_bytes(data, "little")

    def points_to_itself(self, at: int) -> bool:
        """Return True if the head of a list at an offset is that of an empty list."""
        return self.base is not None and self.number(at) == self.number(at + 8) == self.base + at


class Judge:
    """Judges what a search found on one machine; `listed` are the processes that the kernel's list leads to.

    Judging a process costs a few small reads at most.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        kernel: Kernel,
        layout: Layout,
        listed: Sequence[Process],
        is_linked: Callable[[Process], bool],
    ) -> None:
        self._memory, self._kernel, self._layout = memory, kernel, layout
        self._is_linked = is_linked
        self._reader = Reader(kernel.space)
        own, others = eprocess.entries(kernel.version, layout)
        offsets = own or others
        self._threads: list[ThreadList] = thread_lists(offsets)
        tables = {entry.get("_EPROCESS.ObjectTable") for entry in offsets}
        self._tables = sorted(int(at) for at in tables if at is not None)
        self._latest = self._now(listed)
        self._others = self._upper_half(kernel.table.root)[1]
        facts = (
            self._identity, self._times, self._name, self._header, self._root, self._thread_list, self._handle_table,
            self._program, self._listing,
        )  # fmt: skip
        sample = [self._see(process) for process in listed if not process.ended][:_SAMPLE]
        self._facts = [*(fact for fact in facts if _says_something(fact, sample)), self._mapping]

    def __call__(self, process: Process) -> Verdict:
        """Judge a process."""
        seen = self._see(process)
        said = [fact(seen) for fact in self._facts]
        return Verdict(said.count(_HOLDS), tuple(words for words in said if words))

    def _see(self, process: Process) -> _Seen:
        if process.address is not None:
            base = process.address
            return _Seen(process, base, lambda at, size: self._reader.read(base + at, size))
        structure = self._memory.read(process.physical or 0, self._layout.end) or b""
        seen = _Seen(process, None, lambda at, size: structure[at : at + size] if at + size <= len(structure) else None)
        heads = {head - at for at in (WAIT_LIST, PROFILE_LIST) if (head := seen.number(at)) is not None}
        return seen._replace(base=heads.pop()) if len(heads) == 1 else seen

    # the facts: each returns _HOLDS, words for what fails, or None

    def _identity(self, seen: _Seen) -> str | None:
        """Check that it has a process id, a possible parent, and an entry for a list."""
        process, layout = seen.process, self._layout
        if seen.read(layout.pid, 8) is None:
            return None
        if not is_id(process.pid):
            return "no process id"
        if (process.parent or 0) >= 1 << 32:
            return "its parent's id is impossible"
        if not any(is_kernel(link) for link in (process.following, process.preceding)):
            return "its entry for the list of processes leads nowhere"
        return _HOLDS

    def _times(self, seen: _Seen) -> str | None:
        """Check that its times are possible, and in order."""
        created, exited = seen.process.create, seen.process.exit
        if self._layout.create is None or seen.read(self._layout.create, 8) is None:
            return None
        if created is None or (created == 0 and seen.process.pid == SYSTEM):
            return None
        wrong = (
            (created == 0, "no time of creation"),
            (created < EARLIEST, "created before 1990"),
            (created > self._latest, "created after the image was taken"),
            (bool(exited) and (exited or 0) < created, "ended before it was created"),
            ((exited or 0) > self._latest, "ended after the image was taken"),
        )
        return next((words for fails, words in wrong if fails), _HOLDS)

    def _name(self, seen: _Seen) -> str | None:
        """Check that its name is plain text, then zeros; a process that the list leads to may have any name."""
        if seen.read(self._layout.name, eprocess.NAME) is None:
            return None
        name, _, rest = seen.process.name.partition(b"\0")
        plain = all(ord(" ") <= byte != _DELETE for byte in name)
        if name.isascii() and name and plain and not rest.strip(b"\0"):
            return _HOLDS
        if self._is_linked(seen.process):
            return None
        if not name:
            return "no name"
        if rest.strip(b"\0"):
            return "something else after its name"
        return None if plain else "control characters in its name"

    def _header(self, seen: _Seen) -> str | None:
        """Check that it begins with its type, and with two lists: its waiters, and those who profile it."""
        kind = seen.number(0, 1)
        if kind is None:
            return None
        if kind & TYPE_MASK != PROCESS_OBJECT:
            return "its header is not that of a process"
        if any(self._leads_back(seen, at) for at in (WAIT_LIST, PROFILE_LIST)):
            return _HOLDS
        return "the lists in its header do not lead back to it"

    def _root(self, seen: _Seen) -> str | None:
        """Check that its page tables are a process's: with the kernel's entries, and one for themselves.

        The page tables of a process that has ended are gone.
        """
        root, ended = seen.process.root & ROOT, seen.process.ended
        if ended or seen.number(eprocess.ROOT) is None:
            return None
        own, others = self._upper_half(root)
        common = np.count_nonzero((others == self._others) & (others != 0))
        # some entries belong to a session or to a single process
        wrong = (
            (not root, "no page-table root"),
            (not self._memory.holds_tables(np.array([root], np.uint64))[0], "its page-table root is not in the image"),
            (not own.any() or 2 * common < np.count_nonzero(self._others), "no page-table root that maps the kernel"),
        )
        words = next((words for fails, words in wrong if fails), _HOLDS)
        return words if ended is False or words == _HOLDS else None

    def _thread_list(self, seen: _Seen) -> str | None:
        if seen.base is None:
            return None
        said = [self._threads_lead_back(seen, threads) for threads in self._threads]
        if True in said:
            return _HOLDS
        return "its list of threads does not lead back to it" if False in said else None

    def _threads_lead_back(self, seen: _Seen, threads: ThreadList) -> bool | None:
        """Return True if the first or last thread leads back and names the process; None if that cannot be read."""
        head = threads.head
        links = seen.number(head), seen.number(head + 8)
        if links[0] is None or links[1] is None or seen.points_to_itself(head):
            return None if links[0] is None or links[1] is None else True
        unknown = False
        for link, back in zip(links, (8, 0), strict=True):
            if link is None or not is_kernel(link):
                continue
            towards, thread = self._reader.number(link + back), link - threads.links
            kind, owner = self._reader.number(thread, 1), self._reader.number(thread + threads.client)
            unknown |= towards is None or kind is None or owner is None
            ours = owner == seen.process.pid or not is_id(seen.process.pid)
            if towards == (seen.base or 0) + head and ours and (kind or 0) & TYPE_MASK == THREAD_OBJECT:
                return True
        return None if unknown else False

    def _handle_table(self, seen: _Seen) -> str | None:
        """Check that its handles are charged to it; a table that is charged to no process says nothing."""
        said: list[str | None] = []
        for at in self._tables:
            table = seen.number(at)
            if not table:
                return None
            data = self._reader.read(table, _HANDLE_TABLE) if is_kernel(table) else b""
            if data and seen.base in np.frombuffer(data, np.uint64).tolist():
                return _HOLDS
            said.append("its handle table is not at a kernel address" if data == b"" else None)
        return said[0] if said and all(said) else None

    def _program(self, seen: _Seen) -> str | None:
        """Check that the PEB agrees where the program lies; it may be paged out, and malware may have changed it."""
        process = seen.process
        places = [process.peb or 0, process.image_base or 0]
        if any(place >= USER_END or place % PAGE for place in places):
            return "its PEB or its program is at an impossible address"
        if not all(places) or self._root(seen) != _HOLDS:
            return None
        table = self._kernel.table._replace(root=process.root & ROOT)
        try:
            physical = present_page(self._memory, table, places[0])
            if physical is None:  # a walk knows of more than the processor does
                physical = translate(self._memory, table, places[0])
            data = None if physical is None else self._memory.read(physical + PEB_IMAGE, 8)
        except (LimitError, SourceReadError):
            return None
        return _HOLDS if data is not None and int.from_bytes(data, "little") == places[1] else None

    def _listing(self, seen: _Seen) -> str | None:
        return _HOLDS if self._is_linked(seen.process) else None

    def _mapping(self, seen: _Seen) -> str | None:
        """Return what is wrong if no kernel address leads to it: it cannot run, and may be a copy."""
        process = seen.process
        if process.address is not None:
            return None
        if seen.base is not None and self._reader.number(seen.base + self._layout.pid) == process.pid:
            return f"a copy of the process at 0x{seen.base:x}"
        return None if process.ended else "no kernel address leads to it"

    # helpers of the facts

    def _leads_back(self, seen: _Seen, at: int) -> bool:
        """Return True if an entry that the head of a list points to points back to the head."""
        if seen.points_to_itself(at):
            return True
        links = seen.number(at), seen.number(at + 8)
        return seen.base is not None and any(
            link is not None and is_kernel(link) and self._reader.number(link + back) == seen.base + at
            for link, back in zip(links, (8, 0), strict=True)
        )

    def _upper_half(self, root: int) -> tuple[Bools, U64]:
        """Return which entries of a root's upper half lead to the root, and where all others lead; 0 is nowhere."""
        try:
            page = self._memory.peek(root, PAGE)
        except SourceReadError:
            page = bytes(PAGE)
        entries = np.frombuffer(page, np.uint64)[UPPER_HALF:]
        frames = np.where(entries & PRESENT, entries & FRAME, np.uint64(0))
        own = frames == np.uint64(root)
        return own, np.where(own, np.uint64(0), frames)

    def _now(self, listed: Sequence[Process]) -> int:
        """Return the latest time that the machine knew, plus one day; clocks may have been set back."""
        data = self._reader.read(_SYSTEM_TIME, 12)
        low, high, again = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8)) if data else (0, 0, 0)
        now = high << 32 | low
        if high != again or not EARLIEST < now < LATEST:
            return LATEST
        return max(now, *(process.create or 0 for process in listed), 0) + _DAY


def judged(found: Iterable[Process], judge: Judge) -> tuple[list[tuple[Process, tuple[str, ...]]], list[str]]:
    """Return the processes among all that was found, each with its doubts, and notes for the user.

    Only a limited number of doubtful ones are kept, those for which the most facts hold: an image may be full of them.
    """
    certain: list[Process] = []
    doubtful: list[tuple[Process, Verdict]] = []
    dropped, notes = 0, list[str]()
    for process in found:
        verdict = judge(process)
        if verdict.is_process and verdict.doubts:
            doubtful.append((process, verdict))
            if len(doubtful) == 2 * MOST_DOUBTFUL:
                doubtful, dropped = _most_likely(doubtful), dropped + MOST_DOUBTFUL
        elif verdict.is_process:
            certain.append(process)
            if len(certain) == MOST_CERTAIN:
                notes.append(f"more than {len(certain)} processes were found: the image is made to deceive")
                break
    dropped += max(0, len(doubtful) - MOST_DOUBTFUL)
    if dropped:
        notes.append(
            f"{dropped} more doubtful processes are not listed, because no more facts hold for them: the image is made "
            "to deceive"
        )
    nothing: tuple[str, ...] = ()
    listed = [(process, nothing) for process in certain]
    return listed + [(process, verdict.doubts) for process, verdict in _most_likely(doubtful)], notes


def _most_likely(doubtful: list[tuple[Process, Verdict]]) -> list[tuple[Process, Verdict]]:
    return sorted(doubtful, key=lambda pair: -pair[1].holds)[:MOST_DOUBTFUL]


def _says_something(fact: Callable[[_Seen], str | None], sample: Sequence[_Seen]) -> bool:
    said = [words for words in map(fact, sample) if words is not None]
    return not said or 2 * said.count(_HOLDS) >= len(said)
