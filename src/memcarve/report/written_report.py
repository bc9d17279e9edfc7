"""A report as a file: built beside its name, for its owner alone."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

from memcarve.errors import UsageError
from memcarve.hunting.findings.hunt import every
from memcarve.report.case_document import CaseDocument, ReportOptions
from memcarve.report.html_page import page
from memcarve.report.streamed_json import document
from memcarve.report.written_picture import Pictures
from memcarve.sinks.sink import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.process import Container, Progress

HTML, JSON = "html", "json"


def write_report(
    container: Container,
    out: str | os.PathLike[str],
    options: ReportOptions = ReportOptions(),  # noqa: B008 - it cannot be changed
    *,
    indexes: Sequence[int] | None = None,
    form: str = HTML,
    before: Container | None = None,
    pictures: Sequence[str] = (),
    progress: Progress | None = None,
) -> Result:
    """Write a report about the processes at some places in ``processes()``, or all; `form` is ``"html"`` or ``"json"``.

    `before` is an earlier state of the same, with which each process is compared. `pictures` are files that are drawn,
    ``.svg`` or ``.png``. A process that fails does not stop the others. Raises OutputError, MissingExtraError, and
    UsageError for an unknown word.
    """
    chosen = every(container) if indexes is None else [*indexes]
    case = CaseDocument(container, chosen, options, progress, before, draws=bool(pictures))
    drawn = Pictures(pictures, case, [out])
    found = write_case(case, out, form)
    return dataclasses.replace(found, files=(*found.files, *pictures), notes=[*found.notes, *drawn.write()])


def write_case(case: CaseDocument, out: str | os.PathLike[str], form: str = HTML) -> Result:
    """Write a report whose members were not asked for yet. Raises as `write_report`."""
    begun = time.monotonic()
    if form not in (HTML, JSON):
        raise UsageError(f"unknown form {form!r}", remedy=f"choose from {HTML}, {JSON}")
    with case.new_file(out) as file:
        with open(file.path, "w", encoding="utf-8", newline="\n") as text:
            text.writelines(lines(case, form))
        notes = file.notes
    counts = case.counts
    return Result(
        files=(os.fspath(out),),
        what="process",
        count=len(case.indexes) - len(case.failed),
        of=len(case.indexes),
        bytes=counts.get("bytes", 0),
        complete=not case.incomplete,
        seconds=time.monotonic() - begun,
        missing_bytes=counts.get("missing_bytes", 0),
        notes=[*notes, *case.notes],
    )


def lines(case: CaseDocument, form: str) -> Iterator[str]:
    """Yield a report in pieces."""
    text = document(case.members())
    return page(case.title, text) if form == HTML else text
