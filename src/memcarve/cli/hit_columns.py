"""Columns of hits that say what was found, and the bytes around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.cli.wording import counted
from memcarve.errors import MemcarveError, printable
from memcarve.formats.tables.table_cells import Column, Dump
from memcarve.labels.place_names import PlaceNames
from memcarve.patterns import MOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.cli.option_groups import Sought
    from memcarve.cli.sought_patterns import Wanted
    from memcarve.process import ProcessMemory
    from memcarve.space import AddressSpace, Hit

_WIDEST = 60  # of a pattern in a table whose rows are printed before all are known


def pattern_columns(wanted: Sequence[Wanted], sought: Sought) -> list[Column]:
    """Return the columns that say which pattern was found, as wide as they can become."""
    text = min(max((len(printable(each.text)) for each in wanted), default=0), _WIDEST)
    what = max((len(each.what) for each in wanted), default=0)
    columns = [Column("pattern", "text", max(text, len("pattern")))]
    columns.append(Column("encoding", "text", max(what, len("encoding"))))
    longest = MOST if sought.max_match is None else sought.max_match
    return columns + ([Column("size", "number", len(str(longest)))] if sought.regex else [])


def around(space: AddressSpace, hit: Hit, size: int) -> Dump:
    """Return the bytes of a hit and so many around it, as far as there are any and they can be read."""
    start = max(hit.address - size, hit.segment.start)
    end = min(hit.address + hit.size + size, hit.segment.end)
    try:
        return Dump(start, space.read(start, end - start))
    except MemcarveError:  # what is beside it cannot be read
        return Dump(hit.address, space.read(hit.address, hit.size))


def stopped(count: int, most: int | None) -> list[str]:
    """Return a sentence that says that no more than the most hits were looked for, if that was so."""
    return [f"stopped after {counted(count, 'hit')}: --max-hits; there may be more"] if count == most else []


class PlacesOfParts:
    """What places in one process after another are called; those of the last one are kept."""

    def __init__(self) -> None:
        self._part = -1
        self._names: PlaceNames | None = None

    def at(self, part: int, process: ProcessMemory, address: int) -> str | None:
        """Return what an address in the process with a number is called; None if that is not known."""
        if part != self._part:
            self._part = part
            try:
                self._names = PlaceNames(process)
            except MemcarveError:  # hits are worth more than what they are called
                self._names = None
        return None if self._names is None else self._names.at(address)
