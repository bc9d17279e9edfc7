"""The command that searches memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.cli.frame import finish, one_process, selection
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted
from memcarve.errors import UsageError
from memcarve.labels import Labelling
from memcarve.patterns import text_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.cli.option_groups import Input, Messages, OneProcess, Printing, SegmentFilters, Sought


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
        columns = [Column("address", "address"), Column("segment", "address"), Column("offset", "number")]
        columns += [Column("pattern", "text"), Column("encoding", "text")]
        labels = [(pattern, encoding) for pattern, encoding, _ in wanted]
        count = done = 0

        def advance(searched: int) -> None:
            nonlocal done
            done += searched
            progress(done, chosen.total)

        def rows() -> Iterator[tuple[int, int, int, str, str]]:
            nonlocal count
            for hit in memory.space.find([data for _, _, data in wanted], chosen, progress=advance):
                count += 1
                yield (hit.address, hit.segment.start, hit.offset, *labels[hit.pattern])

        with ProgressBar("searching", messages, data=True) as progress:
            print_table(printing.layout, "hits", columns, rows())
        return finish(memory, messages, counted(count, "hit"))


def _patterns(patterns: Sequence[str], sought: Sought) -> list[tuple[str, str, bytes]]:
    """Return pattern, encoding and bytes of what to search for; texts that are the same in two encodings once."""
    found: dict[bytes, tuple[str, str]] = {}
    for pattern in patterns:
        if sought.as_hex:
            try:
                found.setdefault(bytes.fromhex(pattern.removeprefix("0x")), (pattern, "hex"))
            except ValueError:
                raise UsageError(f"{pattern!r} is not bytes in hexadecimal, like 4d5a9000") from None
            continue
        for encoding in sought.encodings:
            wanted = text_pattern(pattern, encoding)
            found.setdefault(wanted.data, (pattern, wanted.encoding))
    if b"" in found or not found:
        raise UsageError("a pattern to search for is empty")
    return [(pattern, encoding, data) for data, (pattern, encoding) in found.items()]
