"""The command that hunts: findings over all processes, as a table with the bytes of each, or for machines."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.findings_table import SHOWN, bytes_of, groups_of, most_columns, table_of
from memcarve.cli.frame import choose, open_input
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import complain, counted, option, say, tell
from memcarve.errors import UsageError
from memcarve.formats.json_text import dumps
from memcarve.formats.tables.table_cells import Column
from memcarve.hunting.findings.found_document import document_lines, worded
from memcarve.hunting.findings.hunt import every, hunt as look

if TYPE_CHECKING:
    from memcarve.cli.option_groups import Findings, HuntedProcesses, Input, Messages, Printing
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.findings.finding_record import Finding
    from memcarve.hunting.findings.hunt import Hunt
    from memcarve.process import Container

_MOST_BYTES = 4096
_MOST_NEEDS = 3  # sentences about what flags need; more are one
_COLUMNS = [
    *(Column("severity", "text"), Column("pid", "number"), Column("process", "text"), Column("flag", "text")),
    *(Column("address", "address"), Column("kind", "text"), Column("file", "text"), Column("why", "text")),
    *(Column("region", "address"), Column("protection", "text"), Column("permissions", "words")),
]


def hunt(
    file: str,
    processes: HuntedProcesses,
    source: Input,
    wanted: Findings,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print findings."""
    layout = printing.layout
    if wanted.size > _MOST_BYTES:
        raise UsageError(f"{wanted.size} bytes of each place are too many to look at", remedy="read prints any number")
    size = 0 if wanted.no_bytes or layout in ("csv", "parquet") else wanted.size
    with open_input(file, vars(source), messages) as container:
        indexes = _chosen(container, processes)
        with ProgressBar("hunting", messages) as progress:
            found = look(
                container,
                indexes,
                severity=wanted.severity,
                flag=wanted.flag,
                file=wanted.file,
                kind=wanted.kind,
                evidence=size,
                progress=progress,
            )
        run_log.record_inputs({"files": [*found.inputs]})
        cut = _print(found, layout)
        sys.stdout.flush()
        for entry, error in found.failed:
            complain(error, entry)
        say(container.notes if messages.verbose else container.warnings, quiet=messages.quiet)
        say([*found.notes, *_unlooked(found), *cut], quiet=messages.quiet)
        tell(_summary(found), quiet=messages.quiet)
        return INCOMPLETE if found.incomplete else COMPLETE


def _chosen(container: Container, processes: HuntedProcesses) -> list[int]:
    """Return the places of the chosen processes: all if none is named."""
    if processes.everything or processes.pid or processes.name is not None:
        chosen = choose(container, processes)
        return every(container) if processes.everything else chosen
    return every(container)


def _print(found: Hunt, layout: str) -> list[str]:
    """Print what was found; return sentences about what was left out of it."""
    if layout == "table":
        groups, width = groups_of(found.findings, found.more), most_columns()
        for line in itertools.chain(table_of(groups, width), bytes_of(groups, width)):
            sys.stdout.write(f"{line}\n")
        if any(group.more for group in groups):
            return [f"{SHOWN} places of each flag in each process are shown; --format json, jsonl and csv have more"]
    elif layout == "json":
        sys.stdout.writelines(f"{line}\n" for line in document_lines(found, option))
    elif layout == "jsonl":
        sys.stdout.writelines(f"{dumps(row.facts())}\n" for row in found)
    else:
        print_table(layout, "findings", _COLUMNS, map(_cells, found))
    return []


def _cells(row: Finding) -> list[Cell]:
    region = row.region
    return [
        *(str(row.severity), row.entry.pid, row.entry.name, str(row.flag), row.address),
        *(None if row.kind is None else str(row.kind), row.file, row.why),
        *(None if region is None else region.start, None if region is None else region.protection),
        [*row.permissions],
    ]


def _worded(needs: str) -> str:
    """Return what a flag needs in terms of the command's options."""
    return worded(needs, option)


def _unlooked(found: Hunt) -> list[str]:
    """Return sentences about flags that could not be looked for: in no process, once for each reason, or in some."""
    nowhere: dict[str, list[str]] = {}
    some: list[int] = []
    for flag, each in found.unlooked.items():
        if each.everywhere:
            nowhere.setdefault(_worded(each.needs), []).append(flag)
        else:
            some.append(each.processes)
    notes = [f"not looked for: {', '.join(flags)}: needs {needs}" for needs, flags in nowhere.items()]
    if len(nowhere) > _MOST_NEEDS:
        flags = ", ".join(itertools.chain(*nowhere.values()))
        options = [name for name in ("--regions FILE", "--modules FILE") if any(name in needs for needs in nowhere)]
        give = f"; {' and '.join(options)} may give some of it" if options else ""
        notes = [f"not looked for: {flags} (JSON says what each needs{give})"]
    if some:
        less = f"in up to {max(some)} of {counted(found.processes, 'process')}"
        notes.append(f"{less} too little is known to look for {counted(len(some), 'flag')} (JSON says which)")
    return notes


def _summary(found: Hunt) -> str:
    counts = {word: sum(row.severity == word for row in found) for word in dict.fromkeys(row.severity for row in found)}
    words = [f"{counted(len(found), 'finding')} in {counted(found.processes, 'process')}"]
    words += [f"({', '.join(f'{count} {word}' for word, count in counts.items())})"] if counts else []
    text = " ".join(words)
    if more := sum(row.number for row in found.more):
        text += f"; {more} more were only counted"
    if found.hidden:
        text += f"; {found.hidden} less severe are not shown (--severity info shows all)"
    return text
