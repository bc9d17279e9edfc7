"""Over all processes: what flags say of their memory, and what is remarkable about the processes themselves."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from memcarve.errors import UsageError
from memcarve.hunting.findings.every_process import Wanted, seen_of_each
from memcarve.hunting.findings.finding_record import Finding, More, worst_first
from memcarve.hunting.findings.process_checks import CHECKS
from memcarve.labels.flags import NEEDS
from memcarve.missing import COMPRESSED, IN_FILE, NOT_PROVEN, PAGED_OUT, UNKNOWN_PROTOTYPE
from memcarve.process import Container, ProcessMemory
from memcarve.vocabulary import Flag, Half, Kind, ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memcarve.errors import MemcarveError
    from memcarve.hunting.findings.every_process import Seen
    from memcarve.process import ProcessEntry, Progress

#: findings that are kept in all; the worst of them if there are more
_MOST_IN_ALL = 50_000
_MOST_NOTES = 20  # about single processes
_MOST_NAMES = 8  # of processes in one note
#: flags that are about one system alone
_OF_LINUX = frozenset[str](
    {Flag.MEMFD_EXECUTABLE, Flag.DELETED_EXECUTABLE, Flag.PRELOADED_LIBRARY, ProcessFlag.KERNEL_THREAD_NAME}
)
_OF_WINDOWS = frozenset[str]({Flag.MODULE_UNLINKED, Flag.HOLLOWED, ProcessFlag.IMITATED_NAME, ProcessFlag.WRONG_PARENT})
#: what is not known of a machine's pages, by the kind that counts them
_NOT_THERE = {
    "prototype": "behind prototype entries (shared memory and files)",
    "pagefile": "in a page file",
    "swapped": "swapped out",
    "outside": "outside the image",
    PAGED_OUT: PAGED_OUT,
    COMPRESSED: COMPRESSED,
    NOT_PROVEN: "paged out, and how their entries are read is not proven",
    IN_FILE: "in mapped files, and not in memory",
    UNKNOWN_PROTOTYPE: "shared, and their prototypes are not in memory",
}


class Unlooked(NamedTuple):
    """A flag that could not be looked for in so many `processes`, or `everywhere`; `needs` is as remedies word it."""

    needs: str
    processes: int
    everywhere: bool


@dataclasses.dataclass(frozen=True)
class Hunt:
    """What was found, the worst first; iterating yields the findings.

    `more` are findings that were only counted, `hidden` counts those that were not severe enough. `failed` are the
    processes whose memory could not be looked at, with the error. `unlooked` has the flags for which too little is
    known, by their words. `processes` counts those that were looked at.
    `incomplete`: one failed, or bytes are known to be missing. `notes` are sentences for the user, `inputs` the files
    that were read, ready for JSON.
    """

    findings: tuple[Finding, ...]
    more: tuple[More, ...]
    hidden: int
    failed: tuple[tuple[ProcessEntry, MemcarveError], ...]
    unlooked: Mapping[str, Unlooked]
    processes: int
    incomplete: bool
    notes: tuple[str, ...]
    inputs: tuple[dict[str, Any], ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)


def hunt(
    container: Container,
    indexes: Sequence[int] | None = None,
    *,
    severity: str = "info",
    flag: Sequence[str] = (),
    file: Sequence[str] = (),
    kind: Sequence[str] = (),
    evidence: int = 64,
    most: int = 100,
    progress: Progress | None = None,
) -> Hunt:
    """Look at the processes of a container, at some places in ``processes()`` or all, and return what is remarkable.

    `severity` is the least (a vocabulary.Severity) that is wanted. Any of the flags (of vocabulary.Flag and
    ProcessFlag), of the patterns for a file's path or name and of the kinds of memory (vocabulary.Kind) that are given
    must match. Of each finding with an address up to `evidence` bytes are kept; of each flag in each process up to
    `most` findings, in all 50,000, and the others are counted. One half is looked at: the container's `default_half`.

    A process that fails does not stop the others. Raises UsageError for an unknown word, and for a process instead of
    a container: much of what is found comes from comparing it with the others.
    """
    if not isinstance(container, Container):
        what = f"process {container.entry}" if isinstance(container, ProcessMemory) else f"{type(container).__name__}"
        raise UsageError(
            f"hunt looks at what memcarve.open returns, not at a {what}",
            remedy="give that, and the places of processes in processes() as indexes",
        )
    Severity.check(severity)
    Kind.check(*kind)
    for word in flag:
        if word not in [*Flag, *ProcessFlag]:
            raise UsageError(f"unknown flag {word!r}", remedy=f"choose from {', '.join([*Flag, *ProcessFlag])}")
    chosen = every(container) if indexes is None else indexes
    wanted = Wanted(severity, frozenset(flag), tuple(file), tuple(kind), evidence, most)
    gathered = _Gathered()
    for seen in seen_of_each(container, chosen, wanted):
        gathered.add(seen)
        if progress is not None:
            progress(gathered.size, gathered.size * len(chosen) // gathered.count)
    return gathered.hunt(container)


def every(container: Container) -> list[int]:
    """Return the places of all processes, with memory of their own or without, that may be some.

    Something speaks against what is doubtful; but if the system's own list leads to it, a field may have been written
    so that tools leave it out.
    """
    return [index for index, entry in enumerate(container.processes()) if not entry.doubts or entry.listed]


class _Gathered:
    """Gathers what is seen of processes, in bounded memory."""

    def __init__(self) -> None:
        self.size = self.count = 0
        self._findings: list[Finding] = []
        self._more: list[More] = []
        self._hidden = 0
        self._failed: list[tuple[ProcessEntry, MemcarveError]] = []
        self._unlooked: Counter[str] = Counter()
        self._pages: Counter[str] = Counter()
        self._notes: dict[str, None] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._incomplete = False
        self._with_memory = 0
        self._empty: list[ProcessEntry] = []
        self._systems: set[str | None] = set()

    def add(self, seen: Seen) -> None:
        """Add what was seen of one process."""
        self.count += 1
        self.size += seen.size
        self._findings += seen.findings
        self._more += seen.more
        self._hidden += seen.hidden
        if len(self._findings) > 2 * _MOST_IN_ALL:
            self._cut()
        if seen.error is not None:
            self._failed.append((seen.entry, seen.error))
            return
        self._unlooked.update(seen.unlooked)
        self._pages.update(seen.pages or {})
        self._incomplete |= seen.incomplete
        self._with_memory += seen.has_memory
        if seen.has_memory and not seen.size:
            self._empty.append(seen.entry)
        self._systems |= {seen.system} - {None}
        for each in (seen.inputs or {}).values():
            for row in each if isinstance(each, list) else [each]:
                if isinstance(row, dict) and isinstance(row.get("path"), str):
                    self._inputs.setdefault(row["path"], row)
        self._notes |= dict.fromkeys(f"{seen.entry}: {note}" for note in seen.notes)

    def _cut(self) -> None:
        """Keep the worst findings, and count the others."""
        self._findings = worst_first(self._findings)
        counts = Counter((row.entry, row.flag, row.severity) for row in self._findings[_MOST_IN_ALL:])
        self._more += [More(*of, count) for of, count in counts.items()]
        del self._findings[_MOST_IN_ALL:]

    def hunt(self, container: Container) -> Hunt:
        """Return all of it."""
        self._cut()
        foreign = frozenset[str]()
        if self._systems in ({System.WINDOWS}, {System.LINUX}):
            foreign = _OF_LINUX if System.WINDOWS in self._systems else _OF_WINDOWS
        unlooked = {
            flag: Unlooked(_NEEDS[flag], count, count >= self._with_memory)
            for flag, count in sorted(self._unlooked.items())
            if flag not in foreign
        }
        return Hunt(
            tuple(self._findings),
            tuple(self._more),
            self._hidden,
            tuple(self._failed),
            unlooked,
            self.count - len(self._failed),
            self._incomplete or bool(self._failed) or container.unreadable,
            (*self._of_pages(), *self._of_empty(container), *self._shown_notes()),
            tuple(self._inputs.values()),
        )

    def _shown_notes(self) -> list[str]:
        notes = [*self._notes]
        more = len(notes) - _MOST_NOTES
        return [*notes[:_MOST_NOTES], *([f"{more} more notes about single processes"] if more > 0 else [])]

    def _of_empty(self, container: Container) -> list[str]:
        """Return a sentence about the processes of whose memory there was nothing to look at."""
        if not self._empty:
            return []
        half = "the user half" if container.default_half == Half.USER else "the memory"
        number = len(self._empty)
        names = ", ".join(map(str, self._empty[:_MOST_NAMES])) + (", ..." if number > _MOST_NAMES else "")
        return [f"nothing is there of {half} of {number} process{'es' if number > 1 else ''}: {names}"]

    def _of_pages(self) -> list[str]:
        """Return a sentence about the pages that nobody could look at."""
        counted = [f"{self._pages[kind]} {words}" for kind, words in _NOT_THERE.items() if self._pages[kind]]
        return [f"pages whose content is not known: {', '.join(counted)}"] if counted else []


_NEEDS: dict[str, str] = {
    **{str(flag): needs for flag, needs in NEEDS.items()},
    **{check.flag: check.needs for check in CHECKS},
}
