"""The command that writes a report."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, FAILED, INCOMPLETE
from memcarve.cli.frame import choose, open_input
from memcarve.cli.option_groups import Decoding
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import amount, complain, counted, say, tell
from memcarve.cli.writing_frame import process_words, recorded, stem_of
from memcarve.hunting.findings.hunt import every
from memcarve.report.case_document import CaseDocument, ReportOptions
from memcarve.report.written_picture import Pictures
from memcarve.report.written_report import HTML, JSON, lines, write_case

if TYPE_CHECKING:
    from memcarve.cli.option_groups import HuntedProcesses, Input, Messages, Record, ReportOutput
    from memcarve.process import Container


def report(
    file: str,
    processes: HuntedProcesses,
    source: Input,
    write: ReportOutput,
    record: Record,
    messages: Messages,
) -> int:
    """Write a report about one process, several or all."""
    options = _options(write, record)
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(open_input(file, {**vars(source), "hashed": True}, messages, write.output))
        before = None
        if write.before is not None:
            before = stack.enter_context(open_input(write.before, _opening(source, write.before), messages))
        indexes = _chosen(container, processes)
        path, form = write.output, write.layout or (HTML if write.output or not write.pictures else None)
        if path is None and form == HTML:
            path = _default(container, indexes, stem_of(source.dump or file))
        if form is None:  # the pictures alone
            content = "none" if options.content == "none" else "headers"
            options = dataclasses.replace(options, content=content, sha256=False, max_bytes=0)
        with ProgressBar("looking", messages, data=path is None) as progress:
            case = CaseDocument(container, indexes, options, progress, before, draws=bool(write.pictures))
            pictures = Pictures(write.pictures, case, [] if path is None else [path])
            if form is None:
                collections.deque(lines(case, JSON), maxlen=0)
            elif path is None:
                sys.stdout.writelines(lines(case, form))
                sys.stdout.flush()
            notes = [*case.notes] if form is None or path is None else [*write_case(case, path, form).notes]
            notes += pictures.write()
        for entry, error in case.failed:
            complain(error, entry)
        run_log.record_inputs({"files": case.inputs})
        say(dict.fromkeys([*container.warnings, *notes]), quiet=messages.quiet)
        files = [*([] if path is None else [path]), *write.pictures]
        tell(_summary(case, files, is_report=form is not None), quiet=messages.quiet)
        if case.failed and len(case.failed) == len(indexes):
            return FAILED
        return INCOMPLETE if case.incomplete else COMPLETE


def _opening(source: Input, path: str) -> dict[str, Any]:
    """Return how an earlier state is opened: by what may be said of both."""
    names = {*Decoding.options, "system", "limit", "symbols", "search"}
    return {
        name: None if os.path.isdir(path) and name in ("system", "limit") else value
        for name, value in vars(source).items()
        if name in names
    }


def _options(write: ReportOutput, record: Record) -> ReportOptions:
    return ReportOptions(
        content=write.content,
        split=write.split,
        sha256=write.checksum != "none",
        max_bytes=0 if write.no_bytes else write.max_bytes,
        title=write.title,
        force=write.force,
        **recorded(record),
    )


def _chosen(container: Container, processes: HuntedProcesses) -> list[int]:
    """Return the places of the chosen processes: all if none is named."""
    named = processes.pid or processes.name is not None
    if processes.everything or named:
        chosen = choose(container, processes)
        return chosen if named else every(container)
    return every(container)


def _default(container: Container, indexes: list[int], stem: str) -> str:
    """Return the name of a report beside the user: named after the input, and after the process if there are others."""
    words = [stem]
    if len(indexes) == 1:
        words += process_words(container.process(index=indexes[0], half=container.default_half), indexes[0])
    return ".".join([*words, "report", "html"])


def _summary(case: CaseDocument, paths: list[str], *, is_report: bool) -> str:
    counts = case.counts
    words = [counted(len(case.indexes), "process"), counted(counts.get("segments", 0), "segment")]
    words.append(counted(counts.get("flags", 0), "finding"))
    if is_report:
        words.append(f"{amount(case.embedded)} of memory in the report")
    return ", ".join(words) + (f": {', '.join(paths)}" if paths else "")
