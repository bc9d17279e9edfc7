"""A process whose parent began after it: the number was used again, by another process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.family import is_younger
from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.hunting.findings.system_programs import PARENTS_END
from memcarve.labels.severities import Rating
from memcarve.times import rfc3339
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject

_LINUX = Rating(Severity.LOW, "on Linux a parent is older than its children, unless a time or a parent was changed")


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if all that have the parent's number began later."""
    entry, family = subject.entry, subject.family
    if entry.ended or entry.doubts:
        return ()
    if entry.parent is None or entry.created is None or family.system is None:
        return None
    if family.system == System.WINDOWS and (entry.name or "").lower() in PARENTS_END:
        return ()
    numbered = family.numbered(entry.parent)
    if not numbered or not all(is_younger(each, entry) for each in numbered):
        return ()
    other = numbered[0]
    began = "" if other.created is None else f" ({rfc3339(other.created)}, itself {rfc3339(entry.created)})"
    why = f"its parent's number {entry.parent} is that of {other.name or 'a process'} now, which began later{began}"
    return [Remark(why, _LINUX if family.system == System.LINUX else None)]


CHECK = Check(
    ProcessFlag.YOUNGER_PARENT,
    Rating(Severity.INFO, "Windows uses numbers again: the parent ended, and lists of processes show the wrong one"),
    "an image of a machine's memory in which processes and the times when they began are found",
    look,
)
