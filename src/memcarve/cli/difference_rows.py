"""What is listed of the memory of a process at two times: columns and rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from memcarve.cli.frame import selection
from memcarve.cli.wording import counted
from memcarve.comparing import Difference, compare
from memcarve.errors import UnreadableError
from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.intervals import PAGE, Intervals
from memcarve.labels import Labelling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcarve.cli.option_groups import Differences, Printing, SegmentFilters
    from memcarve.cli.progress_bar import ProgressBar
    from memcarve.comparing import Comparison
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
#: of a table whose rows are printed as they are found
_WIDTHS = {"state": 16, **dict.fromkeys(("start", "end", "was_start", "was_end", "first_changed"), ADDRESS_WIDTH)}
_PAGE_COLUMNS = (
    Column("start", "address", ADDRESS_WIDTH),
    Column("end", "end", ADDRESS_WIDTH),
    Column("size", "number", 12),
    Column("segment", "address", ADDRESS_WIDTH),
)


class DifferenceRows:
    """What is listed of compared processes: its columns, and its rows, which are counted."""

    def __init__(self, wanted: Differences, filters: SegmentFilters, printing: Printing, progress: ProgressBar) -> None:
        self.layout = printing.layout
        self.title = "pages" if wanted.changed_pages else "differences"
        self.listed: Counter[str] = Counter()
        self.pages = self.bytes = self.groups = 0
        self._wanted = wanted
        self._filters = filters
        self._progress = progress
        self._names = _LAYOUTS[printing.layout]

    @property
    def of_pages(self) -> bool:
        """Whether pages are listed, and nothing of what appeared or vanished."""
        return self._wanted.changed_pages

    def clear(self) -> None:
        """Take the bar off the terminal, where something is going to be printed."""
        self._progress.clear()

    @property
    def columns(self) -> list[Column]:
        """The columns."""
        if self.of_pages:
            return [*_PAGE_COLUMNS]
        return [Column(name, _VALUES[name][0], _WIDTHS.get(name, len("first_changed"))) for name in self._names]

    def compared(self, was: ProcessMemory, now: ProcessMemory) -> Compared:
        """Compare two processes; raises UsageError."""
        chosen = selection(self._filters, was, now)
        labeller = Labelling() if chosen.by_labels else None
        unchanged = self._wanted.unchanged
        return Compared(
            was,
            now,
            lambda *sides: compare(
                sides[0], sides[1], chosen, labeller=labeller, unchanged=unchanged, progress=self._progress
            ),
        )

    def rows(self, compared: Compared) -> Iterator[list[Any]]:
        """Yield the rows of two processes."""
        listed = 0
        for difference in compared:
            listed += 1
            self.listed[difference.state] += 1
            self.pages += difference.changed.total // PAGE
            if self.of_pages:
                for start, end in difference.changed.bounds():
                    yield [start, end, end - start, difference.now[0].start]
            else:
                yield [_VALUES[name][1](difference) for name in self._names]
        self.listed["unchanged"] += len(compared.found) - listed
        self.bytes += compared.found.bytes

    def whole(self, state: str, was: Segments, now: Segments) -> list[Any]:
        """Return the row for all of a process that is on one side only."""
        found = Difference(was, now, now.total, was.total, 0, Intervals.of([]), None)
        told = {name: of(found) for name, (_, of) in _VALUES.items()}
        told |= dict.fromkeys(("start", "end", "was_start", "was_end", "split"))
        return [state if name == "state" else told[name] for name in self._names]

    @property
    def summary(self) -> str:
        """What there was in all."""
        told = "; ".join(f"{count} {state}" for state, count in self.listed.items())
        return f"{told}; {counted(self.pages, 'page')} changed of {counted(self.bytes, 'byte')}"


class Compared:
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


def doubts(was: ProcessMemory, now: ProcessMemory) -> Iterator[str]:
    """Yield reasons why the two may not be the same process."""
    one, other = was.entry, now.entry
    if None not in (one.created, other.created) and one.created != other.created:
        yield f"{one} and {other} were created at different times: they are two processes"
    elif any(None not in pair and pair[0] != pair[1] for pair in ((was.pid, now.pid), (was.name, now.name))):
        yield f"{one} is compared with {other}"
    if None not in (was.architecture, now.architecture) and was.architecture != now.architecture:
        yield f"{was.architecture} is compared with {now.architecture}"
