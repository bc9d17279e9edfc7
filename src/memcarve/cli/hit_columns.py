"""Columns of hits that say what was found, and the bytes around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.cli.printed_tables import Column, Dump
from memcarve.cli.wording import counted
from memcarve.errors import MemcarveError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcarve.cli.option_groups import Sought
    from memcarve.cli.sought_patterns import Wanted
    from memcarve.space import AddressSpace, Hit

ADDRESS = len("0x0123456789abcdef")
_WIDEST = 60  # of a pattern in a table whose rows are printed before all are known


def pattern_columns(wanted: Sequence[Wanted], sought: Sought) -> list[Column]:
    """Return the columns that say which pattern was found, as wide as they can become."""
    text = min(max((len(printable(each.text)) for each in wanted), default=0), _WIDEST)
    what = max((len(each.what) for each in wanted), default=0)
    columns = [Column("pattern", "text", max(text, len("pattern")))]
    columns.append(Column("encoding", "text", max(what, len("encoding"))))
    return columns + ([Column("size", "number", len(str(sought.max_match)))] if sought.regex else [])


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
