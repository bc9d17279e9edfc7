"""Which process started which, by what an input's list of processes says."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from memcarve.vocabulary import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.process import ProcessEntry


class Family:
    """The processes of an input.

    `system` is the vocabulary.System that they ran on, None if the list does not tell. `damaged`: the system's list of
    them is, so that some may be missing in it without having been taken out. What is doubtful as a process is nobody's
    parent.
    """

    def __init__(self, entries: Sequence[ProcessEntry], *, damaged: bool = False) -> None:
        self.entries = entries
        self.damaged = damaged
        unix = any(entry.unix is not None for entry in entries)
        known = any(entry.root is not None and entry.pid is not None for entry in entries)
        self.system = System.LINUX if unix else System.WINDOWS if known else None
        self._numbered: dict[int, list[ProcessEntry]] = defaultdict(list)
        for entry in entries:
            if entry.pid is not None and not entry.doubts:
                self._numbered[entry.pid].append(entry)
        #: the names of the kernel's own threads
        self.kernel_threads = {
            entry.name for entry in entries if entry.name and entry.unix is not None and entry.unix.kernel_thread
        }
        self.names = {entry.name.lower() for entry in entries if entry.name}

    def numbered(self, pid: int) -> Sequence[ProcessEntry]:
        """Return the processes that have a number: more than one if it was used again."""
        return self._numbered.get(pid, ())

    def parent_of(self, entry: ProcessEntry) -> ProcessEntry | None:
        """Return the process that started one: the last that had the number before it began; None if it is not known.

        A process without a time may have begun at any.
        """
        if entry.parent is None:
            return None
        older = [each for each in self.numbered(entry.parent) if not is_younger(each, entry) and each is not entry]
        dated = [each for each in older if each.created is not None]
        return max(dated, key=lambda each: each.created) if dated else older[0] if older else None  # type: ignore[arg-type,return-value]


def is_younger(one: ProcessEntry, other: ProcessEntry) -> bool:
    """Return True if one process is known to have begun after another."""
    return one.created is not None and other.created is not None and one.created > other.created
