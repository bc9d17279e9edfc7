"""YARA rules asked of a whole image, page for page as it lies in physical memory, with the owners of every hit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, open_input
from memcarve.cli.hit_columns import stopped
from memcarve.cli.owner_columns import PLACE, owner_cells, owner_columns, untold
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.rule_columns import RuleColumns, prepared, scan_notes
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import UsageError
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.owners.asking import MOST_OWNERS, NONE_FOUND, Owners
from memcarve.hunting.owners.image_ranges import image_ranges
from memcarve.vocabulary import ScanUnit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, Scanning, SegmentFilters
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.scanning.rules import Rules
    from memcarve.hunting.scanning.scans import RuleHit, Scans

_TOGETHER = 1 << 10  # hits whose owners are asked for in one go


def scan_image(
    file: str,
    processes: ListedProcesses,
    sought: Scanning,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
    rules: Rules,
) -> int:
    """Print a row for each owner of each hit in physical memory, and one for a hit without a known owner."""
    if sought.by in (ScanUnit.REGION, ScanUnit.PROCESS):
        raise UsageError(f"physical memory has no {sought.by}", remedy="{by:page}, or leave {by} out")
    if filters.is_given:
        problem = "--physical takes all of the image, whatever lies there"
        raise UsageError(problem, remedy="leave out the options that choose memory of processes")
    if sought.carve_hits is not None:
        raise UsageError(
            "--carve-hits writes segments of processes", remedy="leave out --physical, or carve what it names"
        )
    with open_input(file, vars(source), messages) as container:
        space = image_ranges(container)
        indexes = choose(container, processes) if processes.pid or processes.name is not None else None
        known = Owners(container, indexes)
        run_log.record_inputs(known.inputs)
        for mapper, error in known.failures:
            complain(error, mapper.entry or mapper.what)
        rule = RuleColumns(rules, printing.layout)
        count = nobody = more = 0

        def advance(done: int, total: int) -> None:
            sys.stdout.flush()
            progress(done, total)

        scans = prepared([(space, space.segments())], rules, sought, advance)
        columns = [
            Column("physical", "address", ADDRESS_WIDTH),
            Column("offset", "number", len(str(space.backing.size))),
        ]
        columns += [*rule.before, *owner_columns(known, PLACE), *rule.behind]

        def rows() -> Iterator[list[Cell]]:
            nonlocal count, nobody, more
            for some in _together(scans, sought.max_hits):
                asked = np.array([hit.address for hit in some], np.uint64)
                answers = known.of_physical(asked, MOST_OWNERS if sought.max_owners is None else sought.max_owners)
                count += len(some)
                nobody += int((answers.owner == NONE_FOUND).sum())
                more += int(answers.more.sum())
                progress.clear()
                for number, *cells in zip(answers.query.tolist(), *owner_cells(answers, known), strict=True):
                    hit = some[number]
                    yield [hit.address, hit.offset, *rule.cells_before(hit), *cells, *rule.cells_behind(hit)]

        with ProgressBar("scanning", messages) as progress:
            print_table(printing.layout, "hits", columns, rows())
        sys.stdout.flush()
        notes = [*container.warnings, *known.notes, *scan_notes(scans, lambda _: "physical memory")]
        notes += [f"none found is not free: {known.hidden}"] if nobody else []
        notes += [*untold(more), *stopped(count, sought.max_hits)]
        say(notes, quiet=messages.quiet)
        without = f", {nobody} without a known owner" if nobody else ""
        tell(f"{counted(count, 'hit')} of {counted(len(rules), 'rule')}{without}", quiet=messages.quiet)
        failed = known.failures or known.incomplete or container.unreadable or scans.lost or scans.late
        return INCOMPLETE if failed else COMPLETE


def _together(scans: Scans, most: int | None) -> Iterator[list[RuleHit]]:
    """Yield hits, some at a time, until there are as many as are wanted."""
    some: list[RuleHit] = []
    for number, hit in enumerate(scans, 1):
        some.append(hit)
        if len(some) == _TOGETHER or number == most:
            yield some
            some = []
        if number == most:
            return
    if some:
        yield some
