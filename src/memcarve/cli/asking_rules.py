"""The command that asks YARA rules of memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import click
import numpy as np

from memcarve.cli import run_log
from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import selection, several_processes
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import amount, counted
from memcarve.cli.writing_frame import past_unreadable, report
from memcarve.errors import MemcarveError, RulesError, TargetExistsError, UsageError, printable
from memcarve.hunting.scanning.rules import NAMESPACE, Rules, definition
from memcarve.hunting.scanning.scans import Scans
from memcarve.labels import Labelling
from memcarve.labels.place_names import PlaceNames
from memcarve.sinks import carved_folder
from memcarve.sinks.several import write_several
from memcarve.sinks.sink import SinkOptions
from memcarve.vocabulary import ScanUnit, Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.frame import Chosen
    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, Scanning, SegmentFilters
    from memcarve.cli.printed_tables import Cell
    from memcarve.dtypes import U64, Bools
    from memcarve.hunting.chosen import Part
    from memcarve.hunting.scanning.rules import Value
    from memcarve.hunting.scanning.scans import RuleHit
    from memcarve.process import ProcessEntry, ProcessMemory, Progress
    from memcarve.segments import Segments
    from memcarve.sinks.sink import Result

_ADDRESS = len("0x0123456789abcdef")
_NAME, _WHERE, _BYTES = 40, 32, 16
_WARNINGS = 10
_NAMED = 12


class _Scanned(NamedTuple):
    """A process, its segments, and which of them were hit."""

    part: Part
    segments: Segments
    hit: Bools


def scan(
    file: str,
    processes: ListedProcesses,
    sought: Scanning,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each place where a rule's pattern lies."""
    if sought.carve_hits is not None and os.path.lexists(sought.carve_hits):
        raise TargetExistsError("exists", subject=sought.carve_hits, remedy="name a new folder")
    rules = _rules(sought, messages)
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        scanned = [*_opened(chosen, filters, sought.by)]
        if not scanned:
            return chosen.finish(messages, counted(0, "hit"))
        done = count = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            sys.stdout.flush()  # whoever reads the hits need not wait for more of them
            progress(done, scans.total)

        scans = Scans(
            [(each.part.opened.space, each.segments) for each in scanned],
            rules,
            by=sought.by,
            timeout=sought.timeout,
            most_matches=sought.most_matches,
            window=sought.window,
            overlap=sought.overlap,
            advance=advance,
        )
        table = _Table(chosen, scanned, rules, printing.layout)

        def rows() -> Iterator[list[Cell]]:
            nonlocal count
            for hit in scans:
                count += 1
                each = scanned[hit.part]
                row = each.segments.at(hit.segment.start)
                if row is not None:
                    each.hit[row] = True
                progress.clear()
                yield table.row(hit)
                if count == sought.max_hits:
                    return

        with ProgressBar("scanning", messages) as progress:
            print_table(printing.layout, "hits", table.columns, rows())
        for part, error in scans.failed.items():
            chosen.fail(scanned[part].part.entry, error)
        stopped = [f"stopped after {counted(count, 'hit')}: --max-hits"] if count == sought.max_hits else []
        summary = f"{counted(count, 'hit')} of {counted(len(rules), 'rule')}"
        status = chosen.finish(messages, summary, [*stopped, *_notes(scans, scanned)])
        if sought.carve_hits is not None:
            written = _carved(chosen, scanned, filters, sought, messages)
            status = status if written is None else max(status, report(written, messages))
    return INCOMPLETE if scans.lost or scans.late else status


def _rules(sought: Scanning, messages: Messages) -> Rules:
    """Read the rules, and print what the compiler says of them as its own tool does."""
    define = dict(definition(each) for each in sought.define)
    try:
        rules = Rules.read(sought.rules, define)
    except RulesError as error:
        _print(error.reports)
        raise
    if not messages.quiet:
        shown = rules.warnings if messages.verbose else rules.warnings[:_WARNINGS]
        _print(shown)
        if len(shown) < len(rules.warnings):
            click.echo(f"note: {counted(len(rules.warnings) - len(shown), 'more warning')}: --verbose", err=True)
    if not len(rules):
        raise UsageError("there are no rules in what --rules names")
    return rules


def _print(reports: Sequence[str]) -> None:
    for text in reports:
        run_log.record("note", "rules", text=printable(text))
        for line in text.split("\n"):
            click.echo(printable(line), err=True)


def _opened(chosen: Chosen, filters: SegmentFilters, by: str) -> Iterator[_Scanned]:
    """Open the chosen processes, and choose of their segments; say which cannot be."""
    for part in chosen:
        try:
            segments = _segments(part.opened, filters, by)
        except MemcarveError as error:
            chosen.fail(part.entry, error)
            continue
        yield _Scanned(part, segments, np.zeros(len(segments), np.bool_))


def _segments(process: ProcessMemory, filters: SegmentFilters, by: str) -> Segments:
    limits = selection(filters, process)
    if process.is_image:
        limits = limits._replace(half=process.half)
    split = Split.REGION if by == ScanUnit.REGION else Split.NONE
    return process.segments(limits, split, Labelling() if limits.by_labels else None)


class _Table:
    """What is printed of hits."""

    def __init__(self, chosen: Chosen, scanned: list[_Scanned], rules: Rules, layout: str) -> None:
        self._chosen = chosen
        self._scanned = scanned
        self._layout = layout
        self._names: tuple[int, PlaceNames | None] = (-1, None)
        facts = rules.facts
        self._spaces = layout != "table" or any(each.namespace != NAMESPACE for each in facts)
        self._record = layout in ("json", "jsonl")

        def width(least: int, *words: str) -> int:
            return max([least, *(min(len(printable(word)), _NAME) for word in words)])

        offsets = max(len(str(each.part.opened.space.backing.size)) for each in scanned)
        # rows are printed as they are found: how wide they can become is known before
        self.columns = [column._replace(width=16 if column.name == "process" else 6) for column in chosen.columns]
        self.columns += [Column("address", "address", _ADDRESS), Column("length", "number", 6)]
        self.columns += [Column("rule", "text", width(4, *(each.name for each in facts)))]
        if self._spaces:
            self.columns += [Column("namespace", "text", width(9, *(each.namespace for each in facts)))]
        patterns = (name for each in facts for name in each.patterns)
        self.columns += [Column("pattern", "text", width(7, *patterns)), Column("segment", "address", _ADDRESS)]
        self.columns += [Column("where", "text", _WHERE), Column("offset", "number", offsets)]
        self.columns += [Column("tags", "words", width(4, *(",".join(each.tags) for each in facts)))]
        self.columns += [Column("meta", "record")] if self._record else []
        self.columns += [Column("bytes", "text", _BYTES)]

    def row(self, hit: RuleHit) -> list[Cell]:
        """Return the cells of a hit."""
        part = self._scanned[hit.part].part
        if self._names[0] != hit.part:
            self._names = hit.part, _names(part.opened)
        names = self._names[1]
        where = None if names is None else names.at(hit.address)
        row: list[Cell] = [*self._chosen.cells(part.entry), hit.address, hit.size, hit.rule]
        row += [hit.namespace] if self._spaces else []
        row += [hit.pattern, hit.segment.start, where, hit.offset, list(hit.tags)]
        row += [[{"name": name, "value": _plain(value)} for name, value in hit.meta]] if self._record else []
        return [*row, _shown(hit.data) if self._layout == "table" else hit.data.hex()]


def _names(process: ProcessMemory) -> PlaceNames | None:
    try:
        return PlaceNames(process)
    except MemcarveError:  # hits are worth more than what they are called
        return None


def _plain(value: Value) -> int | float | str:
    """Return a value of a rule's meta section as JSON can hold it."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _shown(data: bytes) -> str:
    """Return bytes as a table shows them: as text if that is what they are, else in hexadecimal."""
    plain = data.replace(b"\0", b"") if data[1::2].count(0) * 2 >= len(data) - 1 else data
    if plain and plain.isascii() and plain.decode("ascii").isprintable():
        return plain.decode("ascii")
    return data[:_BYTES].hex() + ("..." if len(data) > _BYTES else "")


def _notes(scans: Scans, scanned: list[_Scanned]) -> Iterator[str]:
    if scans.lost:
        yield f"{scans.lost} bytes cannot be read, and were not scanned: what lies before and behind was, by itself"
    if scans.late:
        part, address, size = scans.late[0]
        first = f"the first 0x{address:x} ({amount(size)}) of {scanned[part].part.entry}"
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


def _carved(
    chosen: Chosen, scanned: list[_Scanned], filters: SegmentFilters, sought: Scanning, messages: Messages
) -> Result | None:
    """Write the segments that were hit; those of the kernel with the process by whose page tables they were read."""
    hits: dict[ProcessEntry, list[U64]] = {}
    places: dict[int, None] = {}
    for each in scanned:
        if each.hit.any():
            entry = chosen.container.entry(each.part.place)
            hits.setdefault(entry, []).append(each.segments.start[each.hit])
            places[each.part.place] = None
    if not places:
        return None
    options = SinkOptions()
    split = Split.REGION if sought.by == ScanUnit.REGION else Split.NONE

    def one(process: ProcessMemory, out: str, options: SinkOptions, progress: Progress) -> Result:
        wanted = selection(filters, process)._replace(half="all")

        def carved(process: ProcessMemory) -> Result:
            segments = process.segments(wanted, split, Labelling("headers"))
            held = np.unique(segments.rows_of(np.concatenate(hits[process.entry])))
            keep = np.zeros(len(segments), np.bool_)
            keep[held[held >= 0]] = True
            return carved_folder.carve(process, segments.where(keep), out, options, progress)

        return past_unreadable(process, carved, wanted)

    out = str(sought.carve_hits)
    with ProgressBar("carving", messages) as progress:
        if chosen.several:
            return write_several(
                chosen.container, [*places], out, one, options, half="all", at_once=True, progress=progress
            )
        return one(chosen.container.process(index=next(iter(places))), out, options, progress)
