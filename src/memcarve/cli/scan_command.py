"""The command that asks YARA rules of memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import selection, several_processes
from memcarve.cli.hit_columns import PlacesOfParts, stopped
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.rule_columns import RuleColumns, prepared, read_rules, scan_notes
from memcarve.cli.sought_patterns import refuse_alone
from memcarve.cli.wording import counted
from memcarve.errors import MemcarveError, TargetExistsError
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.labels import Labelling
from memcarve.vocabulary import ScanUnit, Split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.cli.frame import Chosen
    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, Scanning, SegmentFilters
    from memcarve.dtypes import Bools
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.chosen_processes import Part
    from memcarve.hunting.scanning.rules import Rules
    from memcarve.hunting.scanning.scans import RuleHit
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments

_WHERE = 32


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
    refuse_alone(("--max-owners", sought.max_owners is not None, "--physical", sought.physical))
    rules = read_rules(sought, messages)
    if sought.physical:
        from memcarve.cli.scanning_physical import scan_image  # imports all that looks for owners

        return scan_image(file, processes, sought, filters, source, printing, messages, rules)
    return _scan_processes(file, processes, sought, filters, source, printing, messages, rules)


def _scan_processes(
    file: str,
    processes: ListedProcesses,
    sought: Scanning,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
    rules: Rules,
) -> int:
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        scanned = [*_opened(chosen, filters, sought.by)]
        if not scanned:
            return chosen.finish(messages, counted(0, "hit"))
        count = 0

        def advance(done: int, total: int) -> None:
            sys.stdout.flush()  # whoever reads the hits need not wait for more of them
            progress(done, total)

        parts = [(each.part.opened.space, each.segments) for each in scanned]
        scans = prepared(parts, rules, sought, advance)
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
        summary = f"{counted(count, 'hit')} of {counted(len(rules), 'rule')}"
        notes = [*stopped(count, sought.max_hits), *scan_notes(scans, lambda part: scanned[part].part.entry)]
        status = chosen.finish(messages, summary, notes)
        if sought.carve_hits is not None:
            from memcarve.cli.carving_hits import carve_hits  # imports all that writes

            hits = [(each.part.place, each.segments.start[each.hit]) for each in scanned if each.hit.any()]
            split = _split(sought.by)
            status = max(status, carve_hits(chosen, hits, filters, split, sought.carve_hits, messages))
    return INCOMPLETE if scans.lost or scans.late else status


def _opened(chosen: Chosen, filters: SegmentFilters, by: str) -> Iterator[_Scanned]:
    """Open the chosen processes, and choose of their segments; say which cannot be."""
    for part in chosen:
        try:
            segments = _segments(part.opened, filters, by)
        except MemcarveError as error:
            chosen.fail_with(part, error, filters.half)
            continue
        yield _Scanned(part, segments, np.zeros(len(segments), np.bool_))


def _segments(process: ProcessMemory, filters: SegmentFilters, by: str) -> Segments:
    limits = selection(filters, process)
    if process.is_image:
        limits = limits._replace(half=process.half)
    return process.segments(limits, _split(by), Labelling() if limits.by_labels else None)


def _split(by: str) -> Split:
    return Split.REGION if by == ScanUnit.REGION else Split.NONE


class _Table:
    """What is printed of hits."""

    def __init__(self, chosen: Chosen, scanned: list[_Scanned], rules: Rules, layout: str) -> None:
        self._chosen = chosen
        self._scanned = scanned
        self._names = PlacesOfParts()
        self._rule = rule = RuleColumns(rules, layout)
        offsets = max(len(str(each.part.opened.space.backing.size)) for each in scanned)
        # rows are printed as they are found: how wide they can become is known before
        self.columns = [*chosen.columns, Column("address", "address", ADDRESS_WIDTH), *rule.before]
        self.columns += [Column("segment", "address", ADDRESS_WIDTH), Column("where", "text", _WHERE)]
        self.columns += [Column("offset", "number", max(offsets, len("offset"))), *rule.behind]

    def row(self, hit: RuleHit) -> list[Cell]:
        """Return the cells of a hit."""
        part = self._scanned[hit.part].part
        where = self._names.at(hit.part, part.opened, hit.address)
        row: list[Cell] = [*self._chosen.cells(part.entry), hit.address, *self._rule.cells_before(hit)]
        return [*row, hit.segment.start, where, hit.offset, *self._rule.cells_behind(hit)]
