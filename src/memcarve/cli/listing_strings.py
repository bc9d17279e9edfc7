"""The command that lists strings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import several_processes
from memcarve.cli.printed_arrays import Coded, Rows, print_arrays
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.strings.search import StringSearch, places
from memcarve.hunting.strings.window_search import ENCODINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, SegmentFilters, StringLimits
    from memcarve.dtypes import U64
    from memcarve.formats.tables.table_cells import Cell


def strings(
    file: str,
    processes: ListedProcesses,
    limits: StringLimits,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each string."""
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        searched, parts = chosen.parts(filters)
        largest = max((space.backing.size for space, _ in parts), default=0)
        columns = chosen.columns
        columns += [Column("address", "address", ADDRESS_WIDTH), Column("segment", "address", ADDRESS_WIDTH)]
        columns += [Column("offset", "number", max(len(str(largest)), len("offset")))]
        with_physical = any(space.physical is not None for space, _ in parts)
        columns += [Column("physical", "address", ADDRESS_WIDTH)] if with_physical else []
        columns += [Column("encoding", "text", max(map(len, ENCODINGS))), Column("text", "text", len("text"))]
        count = 0

        progress = ProgressBar("searching", messages)
        search = StringSearch(parts, limits.encodings, limits.min_length, limits.max_length, progress)

        def batches() -> Iterator[Rows]:
            nonlocal count
            for found in search:
                space, segments = parts[found.part]
                offset, physical = places(space, found.address)
                count += len(found.texts)
                progress.clear()
                cells: list[U64 | Coded | Cell] = [*chosen.cells(searched[found.part].entry)]
                first, last = int(found.row[0]), int(found.row[-1])
                segment = segments.start[found.row] if first != last else int(segments.start[first])
                cells += [found.address, segment, offset]
                cells += [physical] if with_physical else []
                yield Rows([*cells, Coded(found.code, ENCODINGS)], found.texts)
                sys.stdout.flush()  # whoever reads them need not wait for more

        with progress:
            print_arrays(printing.layout, "strings", columns, batches())
        notes = [f"{counted(search.cut, 'string')} longer than {limits.max_length} characters: in pieces"]
        notes = notes if search.cut else []
        size = sum(size for _, _, size in search.lost)
        notes += [f"{size} bytes cannot be read, and were not searched"] if size else []
        status = chosen.finish(messages, counted(count, "string"), notes)
        return INCOMPLETE if search.lost else status
