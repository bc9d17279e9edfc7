"""A process in the system's list that is not as processes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.hunting.findings.process_check import Check, Remark
from memcarve.labels.severities import Rating
from memcarve.vocabulary import ProcessFlag, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcarve.hunting.findings.subject import Subject


def look(subject: Subject) -> Iterable[Remark] | None:
    """Return a remark if the system's list leads to the process, and something speaks against it."""
    entry = subject.entry
    if entry.listed is None:
        return None
    if not entry.listed or not entry.doubts:
        return ()
    return [Remark(f"the system's list leads to it, but {'; '.join(entry.doubts)}")]


CHECK = Check(
    ProcessFlag.DOUBTFUL_PROCESS,
    Rating(Severity.MEDIUM, "the system lists it, so that it is damaged, or something wrote what keeps tools from it"),
    "an image of a machine's memory in which processes are found",
    look,
)
