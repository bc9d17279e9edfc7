"""What was found, as a JSON document, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcarve.errors import MemcarveError
from memcarve.formats.json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcarve.hunting.findings.hunt import Hunt

#: the version of the document
SCHEMA = 1


def document_lines(found: Hunt, word: Callable[[str, str], str]) -> Iterator[str]:
    """Yield the lines of a document with all that was found; `word` words an argument (its name, a value or "")."""
    rows: dict[str, list[Any]] = {
        "findings": [row.facts() for row in found],
        "more": [
            {"pid": row.entry.pid, "process": row.entry.name, "flag": row.flag, "severity": row.severity}
            | {"count": row.number}
            for row in found.more
        ],
        "failed": [{"pid": entry.pid, "process": entry.name, "error": str(error)} for entry, error in found.failed],
        "not_looked_for": [
            {"flag": flag, "needs": worded(each.needs, word), "processes": each.processes}
            for flag, each in found.unlooked.items()
        ],
    }
    yield "{"
    yield f' "schema": {SCHEMA},'
    yield f' "processes": {found.processes},'
    yield f' "less_severe": {found.hidden},'
    yield f' "notes": {dumps([*found.notes])},'
    for name, records in rows.items():
        last = "" if name == "not_looked_for" else ","
        yield f' "{name}": ['
        yield from (f"  {dumps(row)}{',' if at < len(records) - 1 else ''}" for at, row in enumerate(records))
        yield f" ]{last}"
    yield "}"


def worded(needs: str, word: Callable[[str, str], str]) -> str:
    """Return what a flag needs, in terms of the options or arguments that `word` words."""
    return MemcarveError("", remedy=needs).worded(word).removeprefix("; ")
