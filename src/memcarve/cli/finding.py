"""The command that searches memory."""

from __future__ import annotations

import importlib
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import several_processes
from memcarve.cli.hit_columns import PlacesOfParts, around, pattern_columns, stopped
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.sought_patterns import PointedTo, patterns as wanted_patterns
from memcarve.cli.wording import counted
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.find import hits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.frame import Chosen
    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, SegmentFilters, Sought
    from memcarve.cli.sought_patterns import Wanted
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.chosen_processes import Part
    from memcarve.segments import Segments
    from memcarve.space import AddressSpace, Hit


def find(
    file: str,
    patterns: Sequence[str],
    processes: ListedProcesses,
    sought: Sought,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each hit."""
    wanted = wanted_patterns(patterns, sought)
    if sought.physical:
        # what knows the owners of pages is imported for this alone
        whole: Any = importlib.import_module("memcarve.cli.finding_physical")
        return int(whole.find_physical(file, wanted, processes, sought, filters, source, printing, messages))
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        searched, parts = chosen.parts(filters)
        pointers = PointedTo(searched, sought)
        wanted += pointers.wanted
        table = _Table(chosen, searched, wanted, sought, as_table=printing.layout == "table")
        lost: list[int] = []
        shown = 0

        def advance(done: int, total: int) -> None:
            nonlocal shown
            if table.count != shown:  # whoever reads the hits need not wait for more of them
                sys.stdout.flush()
                shown = table.count
            progress(done, total)

        found = hits(
            parts,
            [each.pattern for each in wanted],
            progress=advance,
            unreadable=lambda _part, _address, size: lost.append(size),
        )

        def rows() -> Iterator[list[Cell]]:
            first = len(wanted) - len(pointers.wanted)
            for part, hit in found:
                number = hit.pattern - first
                if number >= 0 and not pointers.counts(part, number, searched[part].opened, hit.address, hit.size):
                    continue
                progress.clear()
                yield table.row(part, hit)

        with ProgressBar("searching", messages) as progress:
            print_table(printing.layout, "hits", table.columns(parts), islice(rows(), sought.max_hits))
        notes = []
        for target, processes_without in pointers.unknown:
            many = counted(len(processes_without), "process")
            notes.append(f"pointers to {target} were not looked for in {many}, which it is not known of (-v: why)")
            for entry, why in processes_without:
                chosen.note(entry, [why], must=False)
        notes += [f"{sum(lost)} bytes cannot be read, and were not searched"] if lost else []
        notes += stopped(table.count, sought.max_hits)
        status = chosen.finish(messages, counted(table.count, "hit"), notes)
        return INCOMPLETE if lost else status


class _Table:
    """What is printed of hits; `count` is of how many."""

    def __init__(
        self, chosen: Chosen, searched: Sequence[Part], wanted: Sequence[Wanted], sought: Sought, *, as_table: bool
    ) -> None:
        self._as_table = as_table
        self._chosen = chosen
        self._searched = searched
        self._wanted = wanted
        self._sought = sought
        self._names = PlacesOfParts()
        self.count = 0

    def columns(self, parts: Sequence[tuple[AddressSpace, Segments]]) -> list[Column]:
        """Return the columns, as wide as rows can become: they are printed as they are found."""
        largest = max((space.backing.size for space, _ in parts), default=0)
        columns = self._chosen.columns
        columns += [Column("address", "address", ADDRESS_WIDTH), Column("segment", "address", ADDRESS_WIDTH)]
        columns += [Column("offset", "number", max(len(str(largest)), len("offset")))]
        columns += pattern_columns(self._wanted, self._sought)
        columns += [Column("where", "text", len("where"))] if self._sought.name_places else []
        if self._sought.context is not None:
            columns += [] if self._as_table else [Column("context_start", "address", ADDRESS_WIDTH)]
            columns.append(Column("context", "dump"))
        return columns

    def row(self, part: int, hit: Hit) -> list[Cell]:
        """Return the cells of a hit."""
        self.count += 1
        process, wanted = self._searched[part], self._wanted[hit.pattern]
        row: list[Cell] = [*self._chosen.cells(process.entry), hit.address, hit.segment.start, hit.offset]
        row += [wanted.text, wanted.what]
        row += [hit.size] if self._sought.regex else []
        if self._sought.name_places:
            row.append(self._names.at(part, process.opened, hit.address))
        if self._sought.context is not None:
            dump = around(process.opened.space, hit, self._sought.context)
            row += [dump] if self._as_table else [dump.address, dump]
        return row
