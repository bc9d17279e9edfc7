"""Searching the physical memory of an image, and saying who maps what was found."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING

from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose, open_input
from memcarve.cli.hit_columns import around, pattern_columns, stopped
from memcarve.cli.owner_columns import PLACE, owner_columns, untold
from memcarve.cli.printed_tables import print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import complain, counted, say, tell
from memcarve.errors import UsageError
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.chosen_processes import KERNEL
from memcarve.hunting.find import find_physical as search_physical
from memcarve.hunting.owners.asking import Owners
from memcarve.hunting.owners.image_ranges import image_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, SegmentFilters, Sought
    from memcarve.cli.sought_patterns import Wanted
    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.owners.asking import Answer


def find_physical(
    file: str,
    wanted: Sequence[Wanted],
    processes: ListedProcesses,
    sought: Sought,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each hit in physical memory and each who maps it."""
    if filters.is_given or sought.pointers:
        problem = "--physical takes all of the image, whatever lies there"
        raise UsageError(problem, remedy="leave out --pointer, and the options that choose memory of processes")
    as_table = printing.layout == "table"
    with open_input(file, vars(source), messages) as container:
        indexes = choose(container, processes) if processes.is_given and not processes.everything else None
        space = image_ranges(container)
        owners = Owners(container, indexes)
        for mapper, error in owners.failures:
            complain(error, mapper.entry or mapper.what)
        columns = [Column("physical", "address", ADDRESS_WIDTH)]
        columns += [Column("offset", "number", max(len(str(space.backing.size)), len("offset")))]
        columns += [*pattern_columns(wanted, sought), *owner_columns(owners, PLACE)]
        if sought.context is not None:
            columns += [] if as_table else [Column("context_start", "address", ADDRESS_WIDTH)]
            columns.append(Column("context", "dump"))
        lost: list[int] = []
        count = shown = orphans = more = 0

        def advance(done: int, total: int) -> None:
            nonlocal shown
            if count != shown:
                sys.stdout.flush()
                shown = count
            progress(done, total)

        found = search_physical(
            owners,
            [each.pattern for each in wanted],
            max_owners=sought.max_owners,
            progress=advance,
            unreadable=lambda _address, size: lost.append(size),
        )

        def rows() -> Iterator[list[Cell]]:
            nonlocal count, orphans, more
            for hit, answers in islice(found, sought.max_hits):
                count += 1
                more += sum(answer.more for answer in answers)
                orphans += all(answer.address is None for answer in answers)
                progress.clear()
                first: list[Cell] = [hit.address, hit.offset, wanted[hit.pattern].text, wanted[hit.pattern].what]
                first += [hit.size] if sought.regex else []
                dump = None if sought.context is None else around(space, hit, sought.context)
                for answer in answers:
                    row = [*first, *_owner_cells(answer)]
                    if dump is not None:
                        last = answer is answers[-1]
                        row += [dump if last else None] if as_table else [dump.address, dump]
                    yield row

        with ProgressBar("searching", messages) as progress:
            print_table(printing.layout, "hits", columns, rows())
        sys.stdout.flush()
        notes = [*container.warnings, *owners.notes]
        notes += [f"{counted(orphans, 'hit')} with no known owner: {owners.hidden}"] if orphans else []
        notes += [f"{sum(lost)} bytes cannot be read, and were not searched"] if lost else []
        notes += [*untold(more), *stopped(count, sought.max_hits)]
        say(notes, quiet=messages.quiet)
        tell(counted(count, "hit"), quiet=messages.quiet)
        return INCOMPLETE if lost or owners.failures or owners.incomplete or container.unreadable else COMPLETE


def _owner_cells(answer: Answer) -> list[Cell]:
    process = answer.process
    name = None if process is None else process.name
    if process is None and answer.address is not None:
        name = KERNEL.name
    pid = None if process is None else process.pid
    places: list[Cell] = [answer.module, answer.region, answer.more]
    return [answer.owner, pid, name, answer.address, answer.permissions, answer.page, *places]
