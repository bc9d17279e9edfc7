"""Reports in Markdown, as OpenRelik shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openrelik_worker_common.reporting import MarkdownTable, Priority, Report

from openrelik_worker_memcarve.naming import cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ROWS = 200
_PRIORITIES = {"high": Priority.CRITICAL, "medium": Priority.HIGH, "low": Priority.MEDIUM, "info": Priority.LOW}


def report_of(title: str, gathered: dict[str, Any]) -> Report:
    """Return the report of a task: what went wrong first, then what was found, then the processes."""
    report = Report(title)
    processes, findings, hits = gathered["processes"], gathered["findings"], gathered["hits"]
    failed = [each for each in gathered["inputs"] if each["error"] is not None]
    broken = [row for row in processes if row.get("error") is not None]
    words = [_counted(len(processes), "process", "processes")]
    if findings is not None:
        words.append(_counted(len(findings), "finding", "findings"))
        report.priority = min(
            (_PRIORITIES[row["severity"]] for row in findings), key=lambda p: -p, default=Priority.INFO
        )
    if hits is not None:
        words.append(_counted(gathered["hit_count"], "hit", "hits"))
        report.priority = Priority.CRITICAL if gathered["hit_count"] else Priority.INFO
    if failed:
        words.append(f"{_counted(len(failed), 'input', 'inputs')} failed")
    if broken:
        words.append(f"{_counted(len(broken), 'process', 'processes')} failed")
    report.summary = ", ".join(words)
    section = report.add_section()
    section.add_paragraph(f"{report.summary}.")
    if failed or broken:
        rows = [(each["name"], "", each["error"]) for each in failed]
        rows += [(row["input"], _called(row), row["error"]) for row in broken]
        _table(report, "What failed", ("input", "process", "reason"), rows)
    if findings:
        rows = [
            (
                row["severity"],
                row["input"],
                _called(row, "process"),
                row["flag"],
                row["address"],
                row["file"],
                row["why"],
            )
            for row in findings
        ]
        columns = ("severity", "input", "process", "flag", "address", "file", "why")
        _table(report, "Findings", columns, rows)
    if hits:
        rows = [
            (row["rule"], row["pattern"], row["input"], _called(row, "process"), row["address"], row["size"])
            for row in hits
        ]
        _table(report, "Hits", ("rule", "pattern", "input", "process", "address", "size"), rows, gathered["hit_count"])
    columns = [name for name in ("state", "count", "bytes", "missing_bytes") if any(name in row for row in processes)]
    rows = [(row["input"], row["pid"], row["name"], *(row.get(name) for name in columns)) for row in processes]
    _table(report, "Processes", ("input", "pid", "name", *columns), rows)
    notes = [(each["name"], note) for each in gathered["inputs"] for note in each["notes"]]
    notes += [(row["input"], f"{_called(row)}: {note}") for row in processes for note in row.get("notes", ())]
    _table(report, "Notes", ("input", "note"), notes)
    return report


def _called(row: dict[str, Any], name: str = "name") -> str:
    return " ".join(str(row[key]) for key in ("pid", name) if row.get(key) is not None)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _table(
    report: Report, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], of: int | None = None
) -> None:
    """Add a table under a heading, if there is anything in it; of many rows the first."""
    listed = [*rows]
    if not listed:
        return
    section = report.add_section()
    section.add_header(title)
    table = MarkdownTable([*columns])
    for row in listed[:_ROWS]:
        table.add_row(["" if value is None else cell(value) for value in row])
    section.add_table(table)
    count = len(listed) if of is None else of
    if count > _ROWS:
        section.add_paragraph(f"{count - _ROWS} more are in the files.")
