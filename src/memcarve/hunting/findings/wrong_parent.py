"""A system program of Windows that something else started than starts it on every Windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.hunting.findings.system_programs import parents_of
from memcarve.labels.severities import Rating
from memcarve.vocabulary import ProcessFlag, Severity, System

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if the process that started a system program is known and is another than usual."""
    entry, family = subject.entry, subject.family
    if entry.ended or entry.doubts:
        return ()
    if entry.parent is None or family.system is None:
        return None
    expected = parents_of(entry.name or "", family.names)
    parent = family.parent_of(entry)
    if family.system != System.WINDOWS or not expected or parent is None:
        return ()
    if (parent.name or "").lower() in expected:
        return ()
    names = " or ".join(expected)
    return [Remark(f"{entry.name} was started by {parent.name or 'a process'} ({parent.pid}), not by {names}")]


CHECK = Check(
    ProcessFlag.WRONG_PARENT,
    Rating(Severity.HIGH, "on every Windows the same program starts it; what imitates it is started by something else"),
    "an image of a machine's memory in which processes are found",
    look,
)
