"""Every process of an input, looked at by itself: in copies of this program, each on a processor of its own."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from memcarve import forking
from memcarve.errors import InputError, MemcarveError
from memcarve.hunting.findings.family import Family
from memcarve.hunting.findings.finding_record import Finding, More
from memcarve.hunting.findings.flag_findings import evidence_at, place_of, spots
from memcarve.hunting.findings.frames_seen import FramesSeen
from memcarve.hunting.findings.process_checks import CHECKS
from memcarve.hunting.findings.subject import Subject
from memcarve.intervals import PAGE, distinct, total
from memcarve.labels.filters import names_match
from memcarve.labels.flags import BY_COMPARISON
from memcarve.labels.same_files import look_at_all
from memcarve.labels.severities import RANKS, RATINGS
from memcarve.missing import REASONS
from memcarve.vocabulary import Flag, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from memcarve.hunting.findings.process_check import Remark
    from memcarve.labels.severities import Rating
    from memcarve.process import Container, ProcessEntry, ProcessMemory

_WORKERS = 16
_LONGEST = 1000  # characters of a reason


class Wanted(NamedTuple):
    """Which findings are wanted: at least as urgent as `least` (a vocabulary.Severity), and any of each that is given.

    `flags` are of vocabulary.Flag and ProcessFlag, `files` patterns for a file's path or name, `kinds` of
    vocabulary.Kind. `size` bytes of evidence are taken of each; `most` findings of each flag in each process.
    """

    least: str = Severity.INFO
    flags: frozenset[str] = frozenset()
    files: Sequence[str] = ()
    kinds: Sequence[str] = ()
    size: int = 64
    most: int = 100

    def takes(self, flag: str) -> bool:
        """Return True if a flag is wanted."""
        return not self.flags or flag in self.flags

    def is_urgent(self, severity: str) -> bool:
        """Return True if a severity is enough."""
        return RANKS[severity] <= RANKS[self.least]


class Seen(NamedTuple):
    """What was seen of one process: `unlooked` flags could not be looked for, `pages` counts its pages by kind.

    `has_memory`: its memory was looked at, of which `size` bytes are there. `hidden` findings were not urgent enough.
    `incomplete`: bytes are known to be missing, of which `notes` say more. `inputs` are what it was read from. `system`
    is the one that it ran on, if known. `error`: its memory could not be looked at; the findings are then about the
    process alone.
    """

    entry: ProcessEntry
    findings: Sequence[Finding] = ()
    more: Sequence[More] = ()
    unlooked: frozenset[str] = frozenset()
    hidden: int = 0
    pages: dict[str, int] | None = None
    size: int = 0
    has_memory: bool = False
    incomplete: bool = False
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, Any] | None = None
    system: str | None = None
    error: MemcarveError | None = None


def seen_of_each(container: Container, indexes: Sequence[int], wanted: Wanted) -> Iterator[Seen]:
    """Yield what was seen of the processes at some places in `processes()`, in that order, as they are looked at.

    One that fails does not stop the others.
    """
    looking = _Looking(container, wanted)
    numbers = [*indexes]
    workers = min(os.cpu_count() or 1, len(numbers), _WORKERS)
    if workers < 2 or not container.can_be_forked:  # noqa: PLR2004 - one does not need a copy
        yield from map(looking.look, numbers)
        return
    left = deque(numbers)
    while left:
        yield from _together(looking, left, workers)
        workers = 1  # shows which of them it was that the system ended a copy for


def _together(looking: _Looking, left: deque[int], workers: int) -> Iterator[Seen]:
    """Yield what was seen of the processes in `left`, and take these off it; stop if the system ends a copy."""
    from concurrent.futures import BrokenExecutor

    with contextlib.ExitStack() as stack:
        stack.enter_context(forking.signals_held())
        begun = forking.begin(looking.look, [*left], workers, in_copies=True)
        held = stack.pop_all()
    waiting = deque(begun.futures)
    begun.futures.clear()  # what was seen is not kept here
    try:
        held.close()
        while waiting:
            try:
                seen = forking.result_of(waiting.popleft())
            except BrokenExecutor:
                if workers > 1:
                    return
                problem = "the system ended what looked at it; was there not enough memory?"
                seen = Seen(looking.container.entry(left[0]), error=MemcarveError(problem))
                waiting.clear()
            left.popleft()
            yield seen
    except BaseException:  # it was asked to stop, or nobody wants to see more
        begun.give_up()
        raise
    finally:
        begun.pool.shutdown(cancel_futures=True)


class _Looking:
    """Looks at one process of a container after the other."""

    def __init__(self, container: Container, wanted: Wanted) -> None:
        self.container = container
        self.wanted = wanted
        self.family = Family(container.processes(), damaged=container.list_problem != "")
        self._frames = FramesSeen()
        self._compare = any(map(wanted.takes, BY_COMPARISON))
        if self._compare:
            look_at_all(container)  # once for all copies of this program

    def look(self, index: int) -> Seen:
        """Return what is seen of a process; raises nothing that is about the process.

        If its memory cannot be looked at, it is still remarked what the list of processes tells of it.
        """
        entry = self.container.entry(index)
        failed: MemcarveError
        try:
            if not entry.has_memory:
                return self._seen(Subject(entry, self.family, None))
            memory = self.container.process(index=index, half=self.container.default_half)
            return memory.past_unreadable(lambda there: self._seen(self._subject(entry, there)))
        except MemcarveError as error:
            failed = error
        except MemoryError:
            failed = MemcarveError("there was not enough memory to look at it")
        except OSError as error:
            failed = InputError(f"{error.filename or 'the system'}: {error.strerror or error}")
        return self._seen(Subject(entry, self.family, None))._replace(error=failed, unlooked=frozenset())

    def _subject(self, entry: ProcessEntry, memory: ProcessMemory) -> Subject:
        return Subject(entry, self.family, memory, self._frames, compare=self._compare)

    def _seen(self, subject: Subject) -> Seen:
        found = _Found(subject, self.wanted)
        flagged = subject.flagged if any(map(self.wanted.takes, Flag)) else None
        if flagged is not None:
            for flag in filter(self.wanted.takes, Flag):
                if flag in flagged.where:
                    found.take(flag, RATINGS[flag], spots(subject, flagged, flag))
                else:
                    found.unlooked.add(flag)
        found.look()
        memory = subject.memory
        return Seen(
            subject.entry,
            found.findings,
            found.more,
            frozenset(found.unlooked),
            found.hidden,
            None if memory is None else _pages(memory),
            0 if memory is None else memory.space.total,
            memory is not None,
            incomplete=memory is not None and memory.incomplete,
            notes=(
                *(memory.warnings if memory is not None and memory.incomplete else ()),
                *(() if flagged is None else flagged.limits),
                *subject.limits,
            ),
            inputs=None if memory is None else memory.used_inputs,
            system=subject.system,
        )


class _Found:
    """Collects what is found in one process."""

    def __init__(self, subject: Subject, wanted: Wanted) -> None:
        self.subject = subject
        self.wanted = wanted
        self.findings: list[Finding] = []
        self.more: list[More] = []
        self.unlooked: set[str] = set()
        self.hidden = 0

    def look(self) -> None:
        """Look for the flags that are about the process."""
        for check in CHECKS:
            if not self.wanted.takes(check.flag):
                continue
            remarks = check.look(self.subject)
            if remarks is None:
                self.unlooked.add(check.flag)
                continue
            self.take(check.flag, check.rating, remarks)

    def take(self, flag: str, rating: Rating, remarks: Iterable[Remark]) -> None:
        """Make findings of what is remarked under a flag, as far as they are wanted; count what is too many."""
        more: Counter[str] = Counter()
        room = self.wanted.most
        for remark in remarks:
            severity, reason = remark.rating or rating
            if remark.number == 1 and not self._is_chosen(remark):
                continue
            if not self.wanted.is_urgent(severity):
                self.hidden += remark.number
            elif room <= 0 or remark.number > 1:
                more[severity] += remark.number
            else:
                room -= 1
                place = place_of(self.subject, remark.address)
                evidence = evidence_at(self.subject, remark.bytes_at, self.wanted.size)
                about = remark.why[:_LONGEST], reason, self.subject.entry, remark.address
                self.findings.append(Finding(severity, flag, *about, *place, evidence))
        self.more += [More(self.subject.entry, flag, severity, count) for severity, count in more.items()]

    def _is_chosen(self, remark: Remark) -> bool:
        wanted = self.wanted
        if not wanted.kinds and not wanted.files:
            return True
        place = place_of(self.subject, remark.address)
        if wanted.kinds and place.kind not in wanted.kinds:
            return False
        return not wanted.files or (place.file is not None and names_match(wanted.files, None, place.file))


def _pages(memory: ProcessMemory) -> dict[str, int] | None:
    """Return the pages by kind; if more was looked for than page tables lead to, by why the others were not found."""
    if memory.pages is None or not len(memory.space.elsewhere):
        return memory.pages
    kept = {kind: count for kind, count in memory.pages.items() if kind not in ("prototype", "pagefile")}
    elsewhere = memory.space.elsewhere
    for number in distinct(elsewhere.reason).tolist():
        kept[REASONS[number]] = total(elsewhere.size[elsewhere.reason == number]) // PAGE
    return kept
