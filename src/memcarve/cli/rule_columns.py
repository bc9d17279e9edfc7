"""YARA rules as options give them, and what is printed of them: hits, the compiler's words, what was not scanned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from memcarve.cli import run_log
from memcarve.cli.wording import amount, counted
from memcarve.errors import RulesError, UsageError, printable
from memcarve.formats.tables.table_cells import Column
from memcarve.hunting.scanning.rules import NAMESPACE, Rules, definition
from memcarve.hunting.scanning.scans import Scans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memcarve.cli.option_groups import Messages, Scanning
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.scanning.rules import Value
    from memcarve.hunting.scanning.scans import RuleHit
    from memcarve.process import Progress
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace

_NAME, _BYTES = 40, 16
_HEXADECIMAL = re.compile(rb"[0-9a-f]{2}( [0-9a-f]{2})*")
_REPORTS = 10
_NAMED = 12


class RuleColumns:
    """The columns that say which rule a hit is of: `before` and `behind` those that say where."""

    def __init__(self, rules: Rules, layout: str) -> None:
        self._as_text = layout == "table"
        facts = rules.facts
        self._spaces = layout != "table" or any(each.namespace != NAMESPACE for each in facts)
        self._record = layout in ("json", "jsonl")

        def width(least: int, *words: str) -> int:
            return max([least, *(min(len(printable(word)), _NAME) for word in words)])

        patterns = (name for each in facts for name in each.patterns)
        # rows are printed as they are found: how wide they can become is known before
        self.before = [Column("length", "number", 6), Column("rule", "text", width(4, *(each.name for each in facts)))]
        if self._spaces:
            self.before += [Column("namespace", "text", width(9, *(each.namespace for each in facts)))]
        self.before += [Column("pattern", "text", width(7, *patterns))]
        self.behind = [Column("tags", "words", width(4, *(",".join(each.tags) for each in facts)))]
        self.behind += [Column("meta", "record")] if self._record else []
        self.behind += [Column("bytes", "text", _BYTES)]

    def cells_before(self, hit: RuleHit) -> list[Cell]:
        """Return the cells of the columns before."""
        return [hit.size, hit.rule, *([hit.namespace] if self._spaces else []), hit.pattern]

    def cells_behind(self, hit: RuleHit) -> list[Cell]:
        """Return the cells of the columns behind."""
        row: list[Cell] = [list(hit.tags)]
        row += [[{"name": name, "value": _plain(value)} for name, value in hit.meta]] if self._record else []
        return [*row, _shown(hit.data) if self._as_text else hit.data.hex()]


def prepared(
    parts: Sequence[tuple[AddressSpace, Segments]], rules: Rules, sought: Scanning, progress: Progress
) -> Scans:
    """Return what scans as options say; `progress` is called with the bytes that are done and the total."""
    return Scans(
        parts,
        rules,
        by=sought.by,
        timeout=sought.timeout,
        most_matches=sought.most_matches,
        window=sought.window,
        overlap=sought.overlap,
        progress=progress,
    )


def read_rules(sought: Scanning, messages: Messages) -> Rules:
    """Read the rules, and print what the compiler says of them as its own tool does."""
    define = dict(definition(each) for each in sought.define)
    try:
        rules = Rules.read(sought.rules, define)
    except RulesError as error:
        _print(error.reports, "error", messages)
        raise
    _print(rules.warnings, "warning", messages)
    if not len(rules):
        raise UsageError("there are no rules in what --rules names")
    return rules


def _print(reports: Sequence[str], what: str, messages: Messages) -> None:
    """Print what the compiler says; errors always, and without --verbose the first ones."""
    if messages.quiet and what != "error":
        return
    shown = reports if messages.verbose else reports[:_REPORTS]
    for text in shown:
        run_log.record("note", "rules", text=printable(text))
        for line in text.split("\n"):
            click.echo(printable(line), err=True)
    if len(shown) < len(reports):
        click.echo(f"note: {counted(len(reports) - len(shown), f'more {what}')}: --verbose", err=True)


def _plain(value: Value) -> int | float | str:
    """Return a value of a rule's meta section as JSON can hold it."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _shown(data: bytes) -> str:
    """Return bytes as a table shows them: as text if they are that and do not look like the other, hexadecimal."""
    plain = data.replace(b"\0", b"") if data[1::2].count(0) * 2 >= len(data) - 1 else data
    if plain and plain.isascii() and plain.decode("ascii").isprintable() and not _HEXADECIMAL.fullmatch(plain):
        return plain.decode("ascii")
    return data[:_BYTES].hex(" ") + (" ..." if len(data) > _BYTES else "")


def scan_notes(scans: Scans, name: Callable[[int], object]) -> Iterator[str]:
    """Yield what was not scanned, or may be otherwise; `name` says what a part is called."""
    if scans.lost:
        yield f"{scans.lost} bytes cannot be read, and were not scanned: what lies before and behind was, by itself"
    if scans.late:
        part, address, size = scans.late[0]
        first = f"the first 0x{address:x} ({amount(size)}) of {name(part)}"
        yield f"{counted(len(scans.late), 'scan')} took longer than --timeout and were given up, {first}"
    if scans.capped:
        names = [f"{facts.name} {pattern}" for facts, pattern in scans.capped]
        yield f"more matches than --max-matches are not counted in one scan: {_some(names)}"
    if scans.cut:
        text = f"{counted(scans.cut, 'segment')} larger than --window: scanned in windows, each for itself"
        rules = [f"{name} ({why})" for name, why in scans.inexact().items()]
        yield text + (f"; {counted(len(rules), 'rule')} may answer otherwise there: {_some(rules)}" if rules else "")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
