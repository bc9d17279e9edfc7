"""Rules asked of the memory of several processes: what is the same in several of them is scanned once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import MemcarveError, UsageError
from memcarve.hunting.scanning.rules import rules_of
from memcarve.hunting.scanning.scan_units import Laid, shared, units
from memcarve.hunting.scanning.scanner import Joined, Match, Scanned, Scanner, Windows
from memcarve.hunting.searched_processes import SearchedProcesses
from memcarve.searching.ordered_threads import in_order, processors
from memcarve.vocabulary import ScanUnit, Split

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memcarve.dtypes import U64
    from memcarve.hunting.scanning.rules import RuleFacts, Rules, Value
    from memcarve.hunting.scanning.scan_units import Unit
    from memcarve.hunting.searched_processes import ProcessHit, Where
    from memcarve.process import ProcessEntry, ProcessMemory, Progress, Selection
    from memcarve.segments import Segment, Segments
    from memcarve.space import AddressSpace

#: bytes scanned in one go at most, and those of all threads together in windows
WINDOW = 64 << 20
_ROOM = 2
#: seconds that one scan may take, and matches of a pattern in it that are counted
TIMEOUT, MOST_MATCHES = 60, 10_000
_LEAST_OVERLAP = 1 << 20
_AROUND = 4  # bytes that word boundaries look at, in wide text
_TOGETHER, _TOGETHER_BYTES = 64, 1 << 20  # units that are one task
_KEPT = 1 << 18  # matches that are kept for the next process with the same memory
_WAITING = 1 << 17  # matches that may wait for being told before threads scan on
_NOT_SCANNED, _NOTHING, _HAS_KEPT, _TOO_MUCH = range(4)


class RuleHit(NamedTuple):
    """A rule that is true of a segment, and a place where one of its patterns is: `size` bytes at `address`.

    `data` are the first 64 of them at most, `offset` is where they lie in the backing. A rule that is true without any
    of its patterns has no `pattern`, size 0, and the address where what it is true of begins. `part` is the number of
    the process, of those that were scanned together.
    """

    address: int
    size: int
    rule: str
    namespace: str
    pattern: str | None
    tags: tuple[str, ...]
    meta: tuple[tuple[str, Value], ...]
    segment: Segment
    offset: int
    data: bytes
    part: int = 0


class _Task(NamedTuple):
    """A window of a unit, or the whole of it; nothing to do if the same was scanned before (`again`)."""

    part: int
    unit: Unit
    low: int
    high: int
    shared: int | None
    again: bool


class _Later:
    """Stands for a window that no thread has scanned, because too much waits: whoever tells of it scans it."""


class _Kept:
    """What was found in a unit that others share: its matches, and what was not scanned."""

    def __init__(self) -> None:
        self.matches: list[Match] = []
        self.lost: list[tuple[int, int]] = []
        self.late: list[tuple[int, int]] = []


class Scans:
    """Scans segments of several processes: `parts`, address spaces with the segments that are wanted of them.

    Iterating yields hits, in the order of parts and of addresses. Memory is bounded by the windows, and by what one of
    them holds. Raises what reading raises, except for UnreadableError: `lost` counts those bytes. `late` are parts and
    addresses (start, size) of what took longer than the timeout, `capped` the rules and patterns that matched more
    often in one scan than is counted, `cut` how many units were scanned in several windows. `scanned` and `same` count
    the bytes that were scanned, and those that were not because others are the same. Of several parts, one that cannot
    be read does not stop the others: `failed` has its error.
    """

    def __init__(
        self,
        parts: Sequence[tuple[AddressSpace, Segments]],
        rules: Rules,
        *,
        by: str = ScanUnit.SEGMENT,
        timeout: int = TIMEOUT,
        most_matches: int = MOST_MATCHES,
        window: int = WINDOW,
        overlap: int | None = None,
        threads: int | None = None,
        kept: int = _KEPT,
        progress: Progress | None = None,
        unreadable: Callable[[int, int, int], object] = lambda *_: None,
    ) -> None:
        """Prepare a scan; `progress` is called with the bytes that are done and the total. Raises UsageError.

        `unreadable` is called with part, address and size of what cannot be read.
        """
        if window < 1 or timeout < 1 or most_matches < 1:
            raise UsageError("window, timeout and matches are at least 1")
        if overlap is not None and not 0 <= overlap <= window // 2:
            raise UsageError(
                f"windows of {window} bytes cannot overlap by {overlap}", remedy="take at most half of {window}"
            )
        self._parts = [(space, segments.labelled(None)) for space, segments in parts]
        self._rules = rules
        self._by = ScanUnit(by)
        self._window, self._overlap = window, overlap
        self._threads = processors() if threads is None else threads
        self._scanner = Scanner(rules, timeout, most_matches, window * min(self._threads, _ROOM))
        self._progress = progress
        self._unreadable = unreadable
        self._windows = Windows(window, 0, 0)
        self._shared: U64 = np.zeros(0, np.uint64)
        #: of each unit that others share, whether it was scanned, and anything found
        self._state = np.zeros(0, np.uint8)
        self._kept: dict[int, _Kept] = {}
        self._waiting = 0
        self._stopped = False
        self._lock = threading.Lock()
        self._room = kept
        self.total = sum(segments.total for _, segments in parts)
        self.scanned = self.same = self.lost = self.cut = self._done = 0
        self.late: list[tuple[int, int, int]] = []
        self.capped: dict[tuple[RuleFacts, str], None] = {}
        self.failed: dict[int, MemcarveError] = {}

    @property
    def overlap(self) -> int:
        """How many bytes neighbouring windows share: what the rules' longest pattern needs, as far as that is known."""
        if self._overlap is not None:
            return self._overlap
        known = [text.longest for text in self._rules.texts.values()]
        longest = 2 * max((size for size in known if size is not None), default=0)
        return min(max(longest, _LEAST_OVERLAP), self._window // 2)

    @property
    def _guard(self) -> int:
        """How many bytes from the start of a match decide what it is, and whether it is one, as far as is known."""
        longest = [text.longest for text in self._rules.texts.values()]
        known = [size for size in longest if size is not None]
        half = self.overlap // 2
        if len(known) < len(self._rules):
            return half
        return min(max(known, default=0) + _AROUND, half)

    def inexact(self) -> dict[str, str]:
        """Return the rules, by name, that may answer otherwise of what is scanned in windows, and why."""
        found = {}
        for facts in self._rules.facts:
            text = self._rules.texts.get((facts.namespace, facts.name))
            if text is None:
                found[facts.name] = "its text is not known"
            elif text.asks:
                found[facts.name] = ", ".join(text.asks)
            elif text.longest is None or 2 * text.longest > self.overlap:
                found[facts.name] = "a pattern of any length" if text.longest is None else "a long pattern"
        return found

    def __iter__(self) -> Iterator[RuleHit]:
        self._shared = shared(self._parts, self._by) if len(self._parts) > 1 else self._shared
        self._state = np.full(len(self._shared), _NOT_SCANNED, np.uint8)
        joined: Joined | None = None
        self._stopped = False
        try:
            for batch, results in in_order(self._work, self._batches(), self._threads, self._stop):
                for task, result in zip(batch, results, strict=True):
                    if task.low == 0:
                        joined = None if task.high == task.unit.size else Joined(self._windows)
                    yield from self._told(task, result, joined)
        finally:
            self._scanner.forget()

    # what is to be done

    def _batches(self) -> Iterator[list[_Task]]:
        """Yield tasks, as many at a time as are worth a thread's while."""
        batch: list[_Task] = []
        size = 0
        for task in self._tasks():
            batch.append(task)
            size += 0 if task.again else task.high - task.low
            if size >= _TOGETHER_BYTES or len(batch) >= _TOGETHER:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _tasks(self) -> Iterator[_Task]:
        taken = np.zeros(len(self._shared), np.bool_)
        for part, (space, segments) in enumerate(self._parts):
            for unit in units(space, segments, self._by):
                place = self._place(unit.key)
                again = place is not None and bool(taken[place])
                if place is not None:
                    taken[place] = True
                if again:
                    yield _Task(part, unit, 0, unit.size, place, again)
                    continue
                for low, high in self._cut(unit.size):
                    yield _Task(part, unit, low, high, place, again)

    def _place(self, key: int) -> int | None:
        if not len(self._shared):
            return None
        place = int(np.searchsorted(self._shared, np.uint64(key)))
        return place if place < len(self._shared) and int(self._shared[place]) == key else None

    def _cut(self, size: int) -> Iterator[tuple[int, int]]:
        if size <= self._window:
            yield 0, size
            return
        if self._windows.overlap == 0:
            self._windows = Windows(self._window, self.overlap, self._guard)
        self.cut += 1
        yield from self._windows.of(size)

    # the work

    def _work(self, batch: list[_Task]) -> list[Scanned | MemcarveError | _Later | None]:
        """Scan windows, in one of the threads; None for one that was scanned before."""
        found: list[Scanned | MemcarveError | _Later | None] = []
        own = 0
        for task in batch:
            later = self._stopped or self._waiting + own > _WAITING
            result = None if task.again else _Later() if later else self._one(task)
            own += len(result.matches) if isinstance(result, Scanned) else 0
            found.append(result)
        self._wait(own)
        return found

    def _stop(self) -> None:
        """Have threads scan nothing more: whoever asked has gone."""
        self._stopped = True

    def _wait(self, matches: int) -> None:
        """Count matches that wait for being told, or no longer do."""
        with self._lock:
            self._waiting += matches

    def _one(self, task: _Task) -> Scanned | MemcarveError:
        try:
            return self._scanner(self._laid(task), task.low, task.high)
        except MemcarveError as error:
            return error

    def _laid(self, task: _Task) -> Laid:
        return Laid(*self._parts[task.part], task.unit)

    def _advance(self, size: int) -> None:
        """Tell that so many more bytes are done."""
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self.total)

    # what was found

    def _told(
        self, task: _Task, result: Scanned | MemcarveError | _Later | None, joined: Joined | None
    ) -> Iterator[RuleHit]:
        if isinstance(result, Scanned):
            self._wait(-len(result.matches))
        if task.part in self.failed:
            return
        if result is not None:
            yield from self._window_told(task, self._one(task) if isinstance(result, _Later) else result, joined)
        elif task.shared is not None and self._state[task.shared] in (_NOTHING, _HAS_KEPT):
            self.same += task.unit.size
            self._advance(task.unit.size)
            if self._state[task.shared] == _HAS_KEPT:
                kept = self._kept[task.shared]
                self._account(task, kept.lost, kept.late)
                yield from self._hits(task, kept.matches)
        else:  # there was too much of it to be kept
            windows = [*self._cut(task.unit.size)]
            joined = Joined(self._windows) if len(windows) > 1 else None
            for low, high in windows:
                window = task._replace(low=low, high=high, shared=None)
                yield from self._window_told(window, self._one(window), joined)

    def _window_told(self, task: _Task, result: Scanned | MemcarveError, joined: Joined | None) -> Iterator[RuleHit]:
        """Yield the hits in a window, and keep them if they may be wanted again."""
        if isinstance(result, MemcarveError):
            if len(self._parts) == 1:
                raise result
            self.failed[task.part] = result
            if task.shared is not None:
                self._state[task.shared] = _TOO_MUCH
                self._forget(task.shared)
            return
        last = task.high == task.unit.size
        matches = result.matches if joined is None else joined.add(task.low, task.high, last, result.matches)
        fresh = task.high - task.low - (self._windows.overlap if task.low else 0)
        self.scanned += fresh
        self._advance(fresh)
        self.capped.update(dict.fromkeys(result.capped))
        self._account(task, result.lost, result.late)
        if task.shared is not None:
            self._keep(task.shared, task, result, matches)
        yield from self._hits(task, matches)

    def _keep(self, place: int, task: _Task, result: Scanned, matches: list[Match]) -> None:
        """Keep what was found in a window of a unit, which is the next one after those that are kept."""
        size = len(matches) + len(result.lost) + len(result.late)
        if not task.low:
            self._state[place] = _NOTHING
        if not size or self._state[place] == _TOO_MUCH:
            return
        if size > self._room:
            self._state[place] = _TOO_MUCH
            self._forget(place)
            return
        self._state[place] = _HAS_KEPT
        self._room -= size
        kept = self._kept.setdefault(place, _Kept())
        kept.matches += matches
        kept.lost += self._fresh(task, result.lost)
        kept.late += result.late

    def _forget(self, place: int) -> None:
        """Keep nothing of a unit that others share."""
        kept = self._kept.pop(place, _Kept())
        self._room += len(kept.matches) + len(kept.lost) + len(kept.late)

    def _account(self, task: _Task, lost: list[tuple[int, int]], late: list[tuple[int, int]]) -> None:
        if not lost and not late:
            return
        laid = self._laid(task)
        self.late += [(task.part, laid.at(start)[1], end - start) for start, end in late]
        for start, end in self._fresh(task, lost):
            self.lost += end - start
            for _, address, size in laid.stretches(start, end):
                self._unreadable(task.part, address, size)

    def _fresh(self, task: _Task, lost: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what could not be read without what the window before told: what two windows share counts once."""
        fresh = task.low + (self._windows.overlap if task.low else 0)
        return [(max(start, fresh), end) for start, end in lost if end > fresh]

    def _hits(self, task: _Task, matches: list[Match]) -> Iterator[RuleHit]:
        if not matches:
            return
        space, segments = self._parts[task.part]
        laid = self._laid(task)
        row, segment = -1, None
        for position, rule, pattern, size, data in matches:
            at, address = laid.at(position)
            if segment is None or at != row:
                row, segment = at, segments[at]
            offset = space.offset_of(address)
            names = (rule.name, rule.namespace, pattern, rule.tags, rule.meta)
            yield RuleHit(address, size, *names, segment, offset, data, task.part)


def scan(
    where: Where,
    rules: Rules | str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | object,
    *,
    by: str = ScanUnit.SEGMENT,
    timeout: int = TIMEOUT,
    most_matches: int = MOST_MATCHES,
    window: int = WINDOW,
    overlap: int | None = None,
    selection: Selection | None = None,
    segments: Segments | None = None,
    progress: Progress | None = None,
    failed: Callable[[ProcessEntry, MemcarveError], object] | None = None,
    unreadable: Callable[[ProcessMemory, int, int], object] | None = None,
) -> Iterator[ProcessHit[RuleHit]]:
    """Return what YARA rules match in one process, several, or all of a container, in memory as it was laid out.

    Hits come process by process, in order of addresses, as they are found; what several share is scanned once.
    `rules` are ``memcarve.Rules``, ``yara_x.Rules``, or paths that ``memcarve.Rules.read`` takes. `by` is what rules
    take for a file: a vocabulary.ScanUnit. What is larger than `window` bytes is scanned in windows, which share
    `overlap` bytes (None: what the rules' longest pattern needs, at least 1 MiB). `timeout` (seconds) is for each scan;
    of one pattern, `most_matches` are counted in each. Memory is bounded by twice the window. What takes longer is left
    out: use ``memcarve.Scans`` to know. `where`, `selection`, `segments`, `progress`, `failed` and `unreadable` are
    as for ``memcarve.find``; what cannot be read is like a gap.

    Raises UsageError, MissingExtraError, RulesError, and what opening and reading raise.
    """
    compiled = rules_of(rules)
    split = Split.REGION if by == ScanUnit.REGION else Split.NONE
    searched = SearchedProcesses(where, selection, segments, failed=failed, unreadable=unreadable, split=split)
    options = {"timeout": timeout, "most_matches": most_matches, "window": window, "overlap": overlap}
    scans = Scans(searched.parts, compiled, by=by, progress=progress, unreadable=searched.lose, **options)  # type: ignore[arg-type]
    return _scanned(searched, scans)


def _scanned(searched: SearchedProcesses, scans: Scans) -> Iterator[ProcessHit[RuleHit]]:
    for hit in scans:
        yield searched.hit(hit.part, hit)
    for part, error in scans.failed.items():
        searched.fail(part, error)
