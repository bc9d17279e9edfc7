"""The command that searches memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import several_processes
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.errors import UsageError, printable
from memcarve.hunting.find import hits
from memcarve.patterns import hex_pattern, text_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import Input, ListedProcesses, Messages, Printing, SegmentFilters, Sought
    from memcarve.cli.printed_tables import Cell
    from memcarve.patterns import HexPattern, TextPattern

_ADDRESS = len("0x0123456789abcdef")


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
    wanted = _patterns(patterns, sought)
    with several_processes(file, processes, source, messages, filters.half) as chosen:
        entries, parts = chosen.parts(filters)
        labels = [(pattern, encoding) for pattern, encoding, _ in wanted]
        # rows are printed as they are found: how wide they can become is known before
        widths = [max(len(printable(words[column])) for words in labels) for column in range(2)]
        largest = max((space.backing.size for space, _ in parts), default=0)
        columns = chosen.columns
        columns += [Column("address", "address", _ADDRESS), Column("segment", "address", _ADDRESS)]
        columns += [Column("offset", "number", max(len(str(largest)), len("offset")))]
        columns += [Column(name, "text", width) for name, width in zip(("pattern", "encoding"), widths, strict=True)]
        lost: list[int] = []
        count = shown = 0

        def advance(done: int, total: int) -> None:
            nonlocal shown
            if count != shown:  # whoever reads the hits need not wait for more of them
                sys.stdout.flush()
                shown = count
            progress(done, total)

        def rows() -> Iterator[list[Cell]]:
            nonlocal count
            found = hits(
                parts,
                [data for _, _, data in wanted],
                progress=advance,
                unreadable=lambda _part, _address, size: lost.append(size),
            )
            for part, hit in found:
                count += 1
                progress.clear()
                yield [
                    *chosen.cells(entries[part]),
                    hit.address,
                    hit.segment.start,
                    hit.offset,
                    *labels[hit.pattern],
                ]

        with ProgressBar("searching", messages) as progress:
            print_table(printing.layout, "hits", columns, rows())
        notes = [f"{sum(lost)} bytes cannot be read, and were not searched"] if lost else []
        status = chosen.finish(messages, counted(count, "hit"), notes)
        return INCOMPLETE if lost else status


def _patterns(patterns: Sequence[str], sought: Sought) -> list[tuple[str, str, HexPattern | TextPattern]]:
    """Return pattern, encoding and what to search for; what is the same bytes in two ways once."""
    if "" in patterns or not patterns:
        raise UsageError("a pattern to search for is empty")
    found: dict[tuple[bytes, ...], tuple[str, str, HexPattern | TextPattern]] = {}
    for pattern in patterns:
        if sought.as_hex:
            as_hex = hex_pattern(pattern)
            found.setdefault((as_hex.data, as_hex.mask), (pattern, "hex", as_hex))
            continue
        for encoding in sought.encodings:
            text = text_pattern(pattern, encoding)
            found.setdefault((text.data,), (pattern, text.encoding, text))
    return [*found.values()]
