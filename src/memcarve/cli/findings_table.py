"""Findings as people read them: a table that fits the screen, and below it each with the bytes that lie there."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcarve.cli.hexdump import disassembly, hexdump
from memcarve.cli.wording import at_terminal, counted
from memcarve.errors import printable
from memcarve.paths import base_name
from memcarve.vocabulary import Flag, ProcessFlag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.hunting.findings.finding_record import Finding, More
    from memcarve.process import ProcessEntry

_NARROWEST, _WIDEST = 80, 120
#: columns that a hexdump of sixteen bytes a line takes
_WIDE = 92
#: flags about headers, which are looked at as bytes wherever they lie
_OF_HEADERS = frozenset({Flag.PE_IN_PRIVATE, Flag.ELF_IN_PRIVATE, Flag.WIPED_HEADER, ProcessFlag.ODD_HEADER})
#: of one flag in one process so many places are shown
SHOWN = 5
#: of processes that have the same in them so many numbers are said
_NUMBERS = 24
_GAP = "  "
#: how wide columns of text may be, in the order of their need
_PROCESS, _FILE, _LEAST_WHY = 18, 24, 16
_HEADER = ("severity", "pid", "process", "flag", "address", "file", "why")


class Group(NamedTuple):
    """Findings that are said once: the `first` of them; `holders` are the processes in which it is.

    `more` places of its flag in its process are not shown.
    """

    first: Finding
    holders: tuple[ProcessEntry, ...]
    more: int = 0


def most_columns() -> int:
    """Return how wide a table may be: as the terminal, within limits; the widest if it is not shown at one."""
    if not at_terminal():
        return _WIDEST
    return min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)


def groups_of(findings: Sequence[Finding], counted_only: Sequence[More] = ()) -> list[Group]:
    """Return findings in their order: the same in several processes once, and of many alike in one process a few.

    `counted_only` are those that nobody kept.
    """
    same: dict[tuple[str, str, str | None, str], list[Finding]] = {}
    for row in findings:
        same.setdefault((row.severity, row.flag, row.file, row.why), []).append(row)
    # numbers in words differ from place to place: many of one flag in one process are alike all the same
    alike: dict[tuple[str, str, int | None, int | None], list[Group]] = {}
    for rows in same.values():
        first = rows[0]
        holders = {_identity(row.entry): row.entry for row in rows}
        if len(holders) > 1:
            alike[first.severity, first.flag, id(rows), None] = [Group(first, (*holders.values(),))]
            continue
        key = first.severity, first.flag, *_identity(first.entry)
        alike.setdefault(key, []).extend(Group(row, (row.entry,)) for row in rows)
    lost = Counter[tuple[str, str, int | None, int | None]]()
    for each in counted_only:
        lost[each.severity, each.flag, *_identity(each.entry)] += each.number
    found = []
    for key, groups in alike.items():
        shown = groups[:SHOWN]
        found += [*shown[:-1], shown[-1]._replace(more=len(groups) - len(shown) + lost[key])]
    return sorted(found, key=lambda group: group.first.rank)


def _identity(entry: ProcessEntry) -> tuple[int | None, int | None]:
    return entry.pid, entry.object


def table_of(groups: Sequence[Group], width: int) -> Iterator[str]:
    """Yield the lines of a table that is at most `width` columns wide."""
    if not groups:
        return
    rows = [_HEADER, *(row for group in groups for row in _rows(group))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADER))]
    widths[2] = min(widths[2], _PROCESS)
    widths[5] = min(widths[5], _FILE)
    left = width - sum(widths[:5]) - len(_GAP) * 5
    if left - widths[5] - len(_GAP) < _LEAST_WHY:  # below the table it is said in full
        widths[5:] = [left, 0]
    else:
        widths[6] = left - widths[5] - len(_GAP)
    for row in rows:
        cells = [_cut(cell, room) for cell, room in zip(row, widths, strict=True)]
        cells[1] = cells[1].rjust(widths[1])
        line = _GAP.join(cell.ljust(room) for cell, room in zip(cells, widths, strict=True))
        yield line.rstrip()[:width]


def _rows(group: Group) -> Iterator[tuple[str, ...]]:
    """Yield the row of a finding, and one that says how many like it are not shown."""
    row = group.first
    many = len(group.holders) > 1
    address = "-" if row.address is None else f"0x{row.address:x}"
    place = "-" if row.file is None and row.kind is None else row.kind if row.file is None else base_name(row.file)
    begin = (
        str(row.severity),
        "-" if many or row.entry.pid is None else str(row.entry.pid),
        counted(len(group.holders), "process") if many else printable(row.entry.name or "-"),
        str(row.flag),
    )
    yield (*begin, address, printable(str(place)), printable(row.why))
    if group.more:
        yield (*begin, f"{group.more} more", "", "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 2, 0)]}.."[:width]


def bytes_of(groups: Sequence[Group], width: int) -> Iterator[str]:
    """Yield for each place what was found there, in full, and its bytes; what is at the same address is said once.

    Lines are at most `width` columns wide.
    """
    places: dict[tuple[object, ...], list[Group]] = {}
    for number, group in enumerate(groups):
        row = group.first
        lone = number if row.address is None else -1
        holders = frozenset(map(_identity, group.holders))
        places.setdefault((holders, _identity(row.entry), row.address, lone), []).append(group)
    for found in places.values():
        first = found[0]
        row = first.first
        where = "" if row.address is None else f" at 0x{row.address:x}"
        holder = str(row.entry) if len(first.holders) == 1 else f"{_listed(first.holders)}, as {row.entry}"
        flags = ", ".join(f"{each.first.flag} ({each.first.severity})" for each in found)
        yield ""
        yield from _wrapped(f"{holder}{where}: {flags}", "", width)
        yield from _wrapped(_known(row), "  ", width)
        for each in found:
            yield from _wrapped(each.first.why, "  - ", width)
        evidence = next((each.first.evidence for each in found if each.first.evidence is not None), None)
        if evidence is not None:
            code = evidence.runs and not any(each.first.flag in _OF_HEADERS for each in found)
            lines = disassembly(evidence.address, evidence.data, evidence.architecture) if code else []
            lines = lines or [*hexdump(evidence.address, evidence.data, 16 if width >= _WIDE else 8)]
            yield from (f"    {line}"[:width] for line in lines)
        for each in found:
            if each.more:
                more = f"({each.more} more of {each.first.flag} in this process are not shown)"
                yield from _wrapped(more, "  ", width)


def _listed(holders: Sequence[ProcessEntry]) -> str:
    """Return how many processes there are, and the numbers of the first."""
    numbers = [str(each.pid) for each in holders if each.pid is not None]
    rest = ", ..." if len(holders) > _NUMBERS else ""
    return f"{counted(len(holders), 'process')} ({', '.join(numbers[:_NUMBERS])}{rest})"


def _wrapped(text: str, before: str, width: int) -> list[str]:
    """Return a text in lines, with something before the first; what would steer a terminal is escaped."""
    return textwrap.wrap(printable(text), width, initial_indent=before, subsequent_indent=" " * (len(before) or 4))


def _known(row: Finding) -> str:
    """Return what is known of the region, in words."""
    words = [] if row.kind is None else [str(row.kind)]
    if row.region is not None:
        protection = row.region.collapsed or row.region.protection
        words += [f"0x{row.region.start:x}-0x{row.region.end:x}", *([protection] if protection else [])]
    words += row.permissions
    words += [row.file] if row.file is not None else []
    return "  ".join(words)
