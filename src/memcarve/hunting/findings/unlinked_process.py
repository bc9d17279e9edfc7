"""A process that runs and that no list of the system leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.labels.severities import Rating
from memcarve.vocabulary import ProcessFlag, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject

_DAMAGED = Rating(Severity.LOW, "the system's list is damaged: what it held behind the damage is in no list any more")


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if the process is in no list, has not ended, and nothing speaks against it."""
    entry = subject.entry
    if entry.listed is None:
        return None
    if entry.listed or entry.ended or entry.doubts:
        return ()
    found = None if entry.unix is None else entry.unix.found
    how = f"found by {found}" if found else "found by a search of all memory"
    rating = _DAMAGED if subject.family.damaged else None
    return [Remark(f"no list of processes leads to it ({how}), and it has not ended", rating)]


CHECK = Check(
    ProcessFlag.UNLINKED_PROCESS,
    Rating(Severity.HIGH, "a system takes a process out of its list when it ends and at no other time"),
    "an image of a machine's memory in which processes are found",
    look,
)
