"""A process whose parent is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.hunting.findings.system_programs import PARENTS_END, parents_of
from memcarve.labels.severities import Rating
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.family import Family
    from memcarve.hunting.findings.subject import Subject

_LASTING = Rating(Severity.MEDIUM, "what starts this program runs as long as the machine does")
_LINUX = Rating(Severity.MEDIUM, "when a parent ends, Linux gives its children another one: none is without")


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if no process has the number of the parent."""
    entry, family = subject.entry, subject.family
    if entry.ended or entry.doubts:
        return ()
    if entry.parent is None or family.system is None:
        return None
    # the first processes have none
    if entry.parent == 0 or family.numbered(entry.parent):
        return ()
    return _remarks(entry.name or "", entry.parent, family)


def _remarks(name: str, parent: int, family: Family) -> list[Remark]:
    if family.system == System.LINUX:
        return [Remark(f"its parent, process {parent}, is in no list", _LINUX)]
    if name.lower() in PARENTS_END:
        return []
    expected = parents_of(name, family.names)
    if expected:
        return [Remark(f"its parent, process {parent}, is not there; {expected[0]} does not end", _LASTING)]
    return [Remark(f"its parent, process {parent}, is not there any more")]


CHECK = Check(
    ProcessFlag.MISSING_PARENT,
    Rating(Severity.INFO, "on Windows many programs outlive what started them"),
    "an image of a machine's memory in which processes are found",
    look,
)
