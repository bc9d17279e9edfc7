"""The columns that say who maps a byte of an image, for every command that names owners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcarve.formats.tables.table_cells import ADDRESS_WIDTH, Column
from memcarve.hunting.owners.asking import WORDS
from memcarve.hunting.owners.mappings import KERNEL
from memcarve.permissions import page_state, permissions

if TYPE_CHECKING:
    import numpy as np

    from memcarve.formats.tables.table_cells import Cell
    from memcarve.hunting.owners.asking import Answers, Owners

#: how wide modules and regions are in tables whose rows are printed before all are known
PLACE = 24
_PERMISSIONS = [permissions(flags) for flags in range(256)]
_PAGES = [page_state(flags) for flags in range(256)]


def owner_columns(known: Owners, place: int | None = None) -> list[Column]:
    """Return the columns; those of module and region are `place` wide, or as their printer finds."""
    longest = max((len(mapper.entry.name or "") for mapper in known.mappers if mapper.entry is not None), default=0)
    return [
        Column("owner", "text", 10),
        Column("pid", "number", 7),
        Column("process", "text", min(max(longest, 7), 40)),
        Column("address", "address", ADDRESS_WIDTH),
        Column("permissions", "text", 11),
        Column("page", "text", 10),
        Column("module", "text", place),
        Column("region", "text", place),
        Column("more", "number", 4),
    ]


def owner_cells(answers: Answers, known: Owners) -> list[list[Cell]]:
    """Return the cells of `owner_columns`, column by column."""
    named, numbers = answers.named(), answers.owner.tolist()
    whats = {number: mapper.what for number, mapper in enumerate(known.mappers)} | WORDS
    pids = {number: mapper.entry and mapper.entry.pid for number, mapper in enumerate(known.mappers)}
    names = {
        number: KERNEL if mapper.entry is None else mapper.entry.name for number, mapper in enumerate(known.mappers)
    }
    nothing = [None] * len(numbers)
    flags = answers.flags.tolist() if known.by_physical else nothing
    return [
        [whats[number] for number in numbers],
        [pids.get(number) for number in numbers],
        [names.get(number) for number in numbers],
        cells_if(answers.address, answers.found),
        [
            None if flag is None or number < 0 else _PERMISSIONS[flag]
            for flag, number in zip(flags, numbers, strict=True)
        ],
        [None if flag is None or number < 0 else _PAGES[flag] for flag, number in zip(flags, numbers, strict=True)],
        named.module_texts(),
        named.region_texts(),
        answers.more.tolist(),
    ]


def cells_if(column: np.ndarray, there: np.ndarray) -> list[Any]:
    """Return the members of a column that are there (bool), None for others."""
    if there.all():
        return column.tolist()  # type: ignore[no-any-return]
    return [value if known else None for value, known in zip(column.tolist(), there.tolist(), strict=True)]


def untold(more: int) -> list[str]:
    """Return a sentence about mappings that have no row, if there are any."""
    return [f"{more} more mapping{'s' if more > 1 else ''} of hits without a row: --max-owners"] if more else []
