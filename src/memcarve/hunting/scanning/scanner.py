"""Scans some bytes of a unit, in one of several threads, with every set of rules."""

from __future__ import annotations

import io
import itertools
import threading
from typing import TYPE_CHECKING, NamedTuple

from memcarve.errors import InputError, UnreadableError
from memcarve.hunting.scanning.rules import frames_let_go, panics_told, yara

if TYPE_CHECKING:
    from collections.abc import Iterator

    import yara_x

    from memcarve.hunting.scanning.rules import RuleFacts, Rules
    from memcarve.hunting.scanning.scan_units import Laid

#: bytes of a match that are kept
SHOWN = 64
_LONGEST_TIMEOUT = 1 << 31


class Match(NamedTuple):
    """What a rule matched: `size` bytes at a `position` of a unit, which begin with `data`.

    If none of its patterns is there and it is true all the same, there is no `pattern`.
    """

    position: int
    rule: RuleFacts
    pattern: str | None
    size: int
    data: bytes


class Scanned(NamedTuple):
    """The matches in a window, in order of positions; what of it could not be read, or took too long (start, end).

    `capped` are the rules and patterns that match more often than is counted.
    """

    matches: list[Match]
    lost: list[tuple[int, int]]
    late: list[tuple[int, int]]
    capped: list[tuple[RuleFacts, str]]


class Budget:
    """So many bytes may be held at once, by several threads; more only by one of them alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size

    def give_back(self, size: int) -> None:
        """Make room."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()


class Scanner:
    """Scans windows; `timeout` (seconds) is for each, `most` how many matches of a pattern in one are counted."""

    def __init__(self, rules: Rules, timeout: int, most: int, room: int) -> None:
        self._rules = rules
        self._timeout = min(timeout, _LONGEST_TIMEOUT)
        self._most = most
        self._budget = Budget(room)
        self._local = threading.local()

    def __call__(self, laid: Laid, low: int, high: int) -> Scanned:
        """Scan the bytes between two positions; what cannot be read is like a gap, before and behind are scanned."""
        found = Scanned([], [], [], [])
        todo = [(low, high)]  # the next one is the last
        while todo:
            low, high = todo.pop()
            self._budget.take(high - low)
            try:
                self._scan(laid, low, high, found)
            except UnreadableError:
                lost = laid.unreadable(low, high)
                found.lost.extend(lost)
                starts, ends = [low, *(end for _, end in lost)], [*(start for start, _ in lost), high]
                todo += [(start, end) for start, end in zip(starts, ends, strict=True) if start < end][::-1]
            finally:
                self._budget.give_back(high - low)
        found.matches.sort(key=lambda match: match.position)
        return found

    def forget(self) -> None:
        """Give up this thread's scanners: what YARA-X made in a thread must end in it, and in no other."""
        vars(self._local).pop("scanners", None)

    def _scan(self, laid: Laid, low: int, high: int, found: Scanned) -> None:
        data = _read(laid, low, high)
        with frames_let_go(), panics_told():
            self._scan_bytes(laid, low, high, data, found)

    def _scan_bytes(self, laid: Laid, low: int, high: int, data: bytes, found: Scanned) -> None:
        package = yara()
        for scanner, table in zip(self._scanners(), self._rules.tables, strict=True):
            try:
                results = scanner.scan(data)
            except package.TimeoutError:
                found.late.append((low, high))
                continue
            except package.ScanError as error:
                raise InputError(f"YARA-X cannot scan it: {error}") from error
            for rule in results.matching_rules:
                facts = table[rule.namespace, rule.identifier]
                found.matches.extend(self._matches(rule, facts, laid, data, low, found))

    def _matches(
        self, rule: yara_x.Rule, facts: RuleFacts, laid: Laid, data: bytes, low: int, found: Scanned
    ) -> Iterator[Match]:
        any_there = False
        for pattern in rule.patterns:
            matches = pattern.matches
            any_there |= bool(matches)
            if len(matches) >= self._most:
                found.capped.append((facts, pattern.identifier))
            name = pattern.identifier
            for match in matches:
                begin, size = match.offset, match.length
                if laid.is_consecutive(low + begin, size):
                    yield Match(low + begin, facts, name, size, data[begin : begin + min(size, SHOWN)])
        if not any_there:
            yield Match(low, facts, None, 0, b"")

    def _scanners(self) -> list[yara_x.Scanner]:
        """Return this thread's scanners."""
        found: list[yara_x.Scanner] | None = getattr(self._local, "scanners", None)
        if found is None:
            found = self._local.scanners = []
            for each in self._rules.compiled:
                scanner = yara().Scanner(each)
                scanner.set_timeout(self._timeout)
                scanner.max_matches_per_pattern(self._most)
                found.append(scanner)
        return found


def _read(laid: Laid, low: int, high: int) -> bytes:
    """Return bytes, which are never in memory twice: the scanner takes nothing but bytes."""
    held = io.BytesIO()
    held.seek(high - low - 1)
    held.write(b"\0")
    with held.getbuffer() as view:
        laid.read_into(low, view)
    return held.getvalue()


class Windows(NamedTuple):
    """How units that are too large are cut: windows of at most `size` bytes, of which neighbours share `overlap`.

    What begins closer than `guard` bytes to where a window ends, or begins, may be otherwise in the whole.
    """

    size: int
    overlap: int
    guard: int

    def of(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of the windows of so many bytes."""
        if size <= self.size:
            yield 0, size
            return
        for low in itertools.count(0, self.size - self.overlap):
            yield low, min(low + self.size, size)
            if low + self.size >= size:
                return


class Joined:
    """Puts together what was found in the windows of a unit, one after the other, so that each match comes once.

    What a rule matched where two windows overlap is in both: in their first half the first one's matches count, in the
    second half the second one's, whose bytes around them are whole. If only one of the windows has the rule, for what
    lies elsewhere in it, its matches count in both halves, except closer than the guard to where it is cut.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._held: list[Match] = []
        self._before: set[int] = set()
        self._bare: set[int] = set()

    def add(self, low: int, high: int, last: bool, matches: list[Match]) -> list[Match]:  # noqa: FBT001
        """Return what is known now, of a window and what was held back of the one before; in order of positions."""
        middle = low + self._windows.overlap // 2
        rules = {id(match.rule) for match in matches}
        end = low + self._windows.overlap - self._windows.guard
        told = [
            match
            for match in self._held
            if match.position < middle or (id(match.rule) not in rules and match.position < end)
        ]
        mine = []
        for match in matches:
            if match.pattern is None:
                if id(match.rule) in self._bare:
                    continue
                self._bare.add(id(match.rule))
            elif low and match.position < (middle if id(match.rule) in self._before else low + self._windows.guard):
                continue
            mine.append(match)
        self._before = rules
        border = high if last else high - self._windows.overlap
        self._held = [match for match in mine if match.position >= border]
        told += [match for match in mine if match.position < border]
        return sorted(told, key=lambda match: match.position)
