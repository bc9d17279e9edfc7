"""The command that compares the memory of a process at two times."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from memcarve.cli import run_log
from memcarve.cli.exit_status import COMPLETE, INCOMPLETE
from memcarve.cli.frame import choose_one, open_input, selection
from memcarve.cli.printed_tables import Column, print_table
from memcarve.cli.progress_bar import ProgressBar
from memcarve.cli.wording import counted, say, tell
from memcarve.comparing import compare
from memcarve.errors import UnreadableError
from memcarve.intervals import PAGE
from memcarve.labels import Labelling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.cli.option_groups import Differences, DiffInput, Messages, OneProcess, Printing, SegmentFilters
    from memcarve.comparing import Comparison, Difference
    from memcarve.process import ProcessMemory
    from memcarve.segments import Segments


def _start(segments: Segments) -> int | None:
    return segments[0].start if len(segments) else None


def _end(segments: Segments) -> int | None:
    return segments[-1].end if len(segments) else None


def _split(found: Difference) -> str | None:
    """Return how many segments there were and are, if one side has several."""
    count, before = len(found.now), len(found.was)
    return f"{before} -> {count}" if max(count, before) > 1 else None


def _ranges(ranges: Iterable[tuple[int, int]]) -> list[dict[str, str]]:
    return [{"start": f"0x{start:016x}", "end": f"0x{end:016x}"} for start, end in ranges]


def _parts(segments: Segments) -> list[dict[str, str]]:
    return _ranges((part.start, part.end) for part in segments)


#: by a column's name: its kind, and what makes its cells; ``ranges`` can stand in JSON alone
_VALUES: dict[str, tuple[str, Callable[[Difference], Any]]] = {
    "state": ("text", lambda found: found.state),
    "start": ("address", lambda found: _start(found.now)),
    "end": ("end", lambda found: _end(found.now)),
    "size": ("number", lambda found: found.now.total),
    "segments": ("number", lambda found: len(found.now)),
    "was_start": ("address", lambda found: _start(found.was)),
    "was_end": ("end", lambda found: _end(found.was)),
    "was_size": ("number", lambda found: found.was.total),
    "was_segments": ("number", lambda found: len(found.was)),
    "split": ("text", _split),
    "added": ("number", lambda found: found.added),
    "removed": ("number", lambda found: found.removed),
    "unknown": ("number", lambda found: found.unknown),
    "changed_pages": ("number", lambda found: found.changed.total // PAGE),
    "first_changed": ("address", lambda found: found.first_changed),
    "now": ("ranges", lambda found: _parts(found.now)),
    "was": ("ranges", lambda found: _parts(found.was)),
    "changed": ("ranges", lambda found: _ranges(found.changed.bounds())),
}
_ATTEMPTS = 3  # at comparing what cannot be read
_WIDE = {"size", "segments", "was_size", "was_segments"}  # too wide for a terminal
_NESTED = {"now", "was", "changed"}
_PLAIN = [name for name in _VALUES if name not in {*_NESTED, "split"}]
_JSON = [name for name in _VALUES if name != "split"]
_TABLE = [name for name in _VALUES if name not in _NESTED | _WIDE]
_LAYOUTS = {"table": _TABLE, "json": _JSON, "jsonl": _JSON, "csv": _PLAIN, "parquet": _PLAIN}
_PAGE_COLUMNS = (
    Column("start", "address"),
    Column("end", "end"),
    Column("size", "number"),
    Column("segment", "address"),
)


def diff(
    before: str,
    after: str,
    process: OneProcess,
    wanted: Differences,
    filters: SegmentFilters,
    source: DiffInput,
    printing: Printing,
    messages: Messages,
) -> int:
    """Compare a process of two inputs."""
    with contextlib.ExitStack() as stack:
        was = _open(stack, before, process, filters.half, source, source.input_type, messages)
        other = process if wanted.other_pid is None else dataclasses.replace(process, pid=[wanted.other_pid])
        now = _open(stack, after, other, filters.half, source, source.other_input_type or source.input_type, messages)
        # rows and a bar would clash at a terminal
        progress = stack.enter_context(ProgressBar("comparing", messages, data=True))
        chosen = selection(filters, was, now)
        labeller = Labelling() if chosen.by_labels else None
        compared = _Compared(
            was,
            now,
            lambda *sides: compare(
                sides[0], sides[1], chosen, labeller=labeller, unchanged=wanted.unchanged, progress=progress
            ),
        )
        listed: Counter[str] = Counter()
        pages = 0

        def differences() -> Iterator[Difference]:
            nonlocal pages
            for difference in compared:
                listed[difference.state] += 1
                pages += difference.changed.total // PAGE
                yield difference

        if wanted.changed_pages:
            print_table(printing.layout, "pages", _PAGE_COLUMNS, _page_rows(differences()))
        else:
            names = _LAYOUTS[printing.layout]
            columns = [Column(name, _VALUES[name][0]) for name in names]
            values = [_VALUES[name][1] for name in names]
            print_table(
                printing.layout, "differences", columns, ([of(found) for of in values] for found in differences())
            )
    sys.stdout.flush()
    was, now, found = compared.was, compared.now, compared.found
    for side in (was, now):
        run_log.record_inputs(side.used_inputs)
        everything = messages.verbose or side.incomplete or side.is_image
        say(side.notes if everything else [*side.notes[:1], *side.warnings], quiet=messages.quiet)
    say(_doubts(was, now), quiet=messages.quiet)
    listed["unchanged"] += len(found) - listed.total()
    told = "; ".join(f"{count} {state}" for state, count in listed.items())
    tell(
        f"{told}; {counted(pages, 'page')} changed of {counted(found.bytes, 'byte')}",
        quiet=messages.quiet,
    )
    return INCOMPLETE if was.incomplete or now.incomplete else COMPLETE


class _Compared:
    """The differences between two processes; if either cannot be read in part, those of the rest from there on."""

    def __init__(
        self, was: ProcessMemory, now: ProcessMemory, compare: Callable[[ProcessMemory, ProcessMemory], Comparison]
    ) -> None:
        self.was, self.now = was, now
        self._compare = compare
        self.found = compare(was, now)

    def __iter__(self) -> Iterator[Difference]:
        listed_to = 0
        for attempt in range(_ATTEMPTS + 1):
            try:
                for difference in self.found:
                    sides = (difference.was, difference.now)
                    if (behind := max(side[-1].end for side in sides if len(side))) > listed_to:
                        listed_to = behind
                        yield difference
            except UnreadableError:
                if attempt == _ATTEMPTS:
                    raise
                self.was, self.now = self.was.readable(), self.now.readable()
                self.found = self._compare(self.was, self.now)
            else:
                return


def _open(
    stack: contextlib.ExitStack,
    path: str,
    process: OneProcess,
    half: str | None,
    source: DiffInput,
    input_type: str | None,
    messages: Messages,
) -> ProcessMemory:
    """Open one side; options for images do not apply to a folder."""
    how = {name: value for name, value in vars(source).items() if name != "other_input_type"}
    if os.path.isdir(path):
        how |= {"system": None, "limit": None}
    container = stack.enter_context(open_input(path, {**how, "input_type": input_type}, messages))
    return container.process(index=choose_one(container, process), half=half or container.default_half)


def _page_rows(differences: Iterable[Difference]) -> Iterator[list[int]]:
    for found in differences:
        for start, end in found.changed.bounds():
            yield [start, end, end - start, found.now[0].start]


def _doubts(was: ProcessMemory, now: ProcessMemory) -> Iterator[str]:
    """Yield reasons why the two may not be the same process."""
    one, other = was.entry, now.entry
    if None not in (one.created, other.created) and one.created != other.created:
        yield f"{one} and {other} were created at different times: they are two processes"
    elif any(None not in pair and pair[0] != pair[1] for pair in ((was.pid, now.pid), (was.name, now.name))):
        yield f"{one} is compared with {other}"
    if None not in (was.architecture, now.architecture) and was.architecture != now.architecture:
        yield f"{was.architecture} is compared with {now.architecture}"
