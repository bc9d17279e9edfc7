"""The command that searches memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memcarve.cli.exit_status import INCOMPLETE
from memcarve.cli.frame import finish, one_process, selection
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.errors import UsageError, printable
from memcarve.labels import Labelling
from memcarve.patterns import hex_pattern, text_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import Input, Messages, OneProcess, Printing, SegmentFilters, Sought
    from memcarve.patterns import HexPattern, TextPattern

_ADDRESS = len("0x0123456789abcdef")


def find(
    file: str,
    patterns: Sequence[str],
    process: OneProcess,
    sought: Sought,
    filters: SegmentFilters,
    source: Input,
    printing: Printing,
    messages: Messages,
) -> int:
    """Print a row for each hit."""
    wanted = _patterns(patterns, sought)
    with one_process(file, process, source, messages, filters.half) as memory:
        limits = selection(filters, memory)
        chosen = memory.segments(limits, labeller=Labelling() if limits.by_labels else None)
        labels = [(pattern, encoding) for pattern, encoding, _ in wanted]
        # rows are printed as they are found: how wide they can become is known before
        widths = [max(len(printable(words[column])) for words in labels) for column in range(2)]
        columns = [Column("address", "address", _ADDRESS), Column("segment", "address", _ADDRESS)]
        columns += [Column("offset", "number", len(str(memory.space.backing.size)))]
        columns += [Column(name, "text", width) for name, width in zip(("pattern", "encoding"), widths, strict=True)]
        count = done = 0
        lost: list[int] = []

        def advance(searched: int) -> None:
            nonlocal done
            done += searched
            sys.stdout.flush()  # whoever reads the hits need not wait for more of them
            progress(done, chosen.total)

        def rows() -> Iterator[tuple[int, int, int, str, str]]:
            nonlocal count
            sought = [data for _, _, data in wanted]
            for hit in memory.space.find(
                sought, chosen, progress=advance, unreadable=lambda _, size: lost.append(size)
            ):
                count += 1
                progress.clear()
                yield (hit.address, hit.segment.start, hit.offset, *labels[hit.pattern])

        with ProgressBar("searching", messages) as progress:
            print_table(printing.layout, "hits", columns, rows())
        notes = [f"{sum(lost)} bytes cannot be read, and were not searched"] if lost else []
        status = finish(memory, messages, counted(count, "hit"), notes)
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
