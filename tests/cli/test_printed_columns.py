"""Rows printed in columns look as they do one by one."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from memcarve.cli.printed_columns import print_columns
from memcarve.cli.printed_tables import print_table
from memcarve.formats.tables.table_cells import Column

if TYPE_CHECKING:
    from memcarve.formats.tables.table_cells import Cell

COLUMNS = [
    Column("physical", "address", 18),
    Column("offset", "number", 12),
    Column("process", "text", 9),
    Column("text", "text", 4),
]
TEXT = st.none() | st.text(max_size=6) | st.sampled_from(
    ["plain", "a,b", 'say "x"', "=cmd()", "-1", "\x1b[31m", "\ud800", "two\nlines", "", " ", "\u202e", "+", "a\tb"]
)  # fmt: skip
NUMBER = st.none() | st.integers(0, (1 << 64) - 1)


def printed(layout: str, rows: list[tuple[Cell, ...]], batch: int | None) -> str:
    """Return what is printed of rows, in batches of some size or one by one."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if batch is None:
            print_table(layout, "owners", COLUMNS, rows)
        else:
            parts = [rows[low : low + batch] for low in range(0, len(rows), batch)]
            print_columns(layout, "owners", COLUMNS, [[*zip(*part, strict=True)] for part in parts])
    return out.getvalue()


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl"])
@given(
    rows=st.lists(st.tuples(NUMBER, NUMBER, TEXT, TEXT), max_size=8), again=st.integers(1, 6), batch=st.integers(1, 9)
)
def test_the_same(layout: str, rows: list[tuple[Cell, ...]], again: int, batch: int) -> None:
    """Each format is byte for byte what it is of single rows, also if texts repeat."""
    assert printed(layout, rows * again, batch) == printed(layout, rows * again, None)
