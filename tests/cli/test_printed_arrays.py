"""Rows printed in arrays look as they do one by one."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, strategies as st

from memcarve.cli.printed_arrays import Coded, Rows, print_arrays
from memcarve.cli.printed_tables import print_table
from memcarve.formats.tables.table_cells import Column

if TYPE_CHECKING:
    from memcarve.formats.tables.table_cells import Cell

Process = tuple[int | None, str | None, bool]
Row = tuple[int, int, int, int, str]

COLUMNS = [
    Column("pid", "number", 4),
    Column("process", "text", 9),
    Column("address", "address", 18),
    Column("offset", "number", 20),
    Column("physical", "address", 18),
    Column("encoding", "text", 9),
    Column("text", "text", 4),
]
WORDS = ("ascii", "utf-8", "Привет", "=1")
ODD = (
    "plain",
    "a,b",
    'say "x"',
    "=cmd()",
    "-1",
    "\x1b[31m",
    "two\nlines",
    "a\r",
    "",
    " ",
    "ends  ",
    "\u202e",
    "+",
    "a\tb",
)
TEXT = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.sampled_from(ODD), st.just("\0\1"))
NUMBER = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 20000))
ROW = st.tuples(NUMBER, NUMBER, NUMBER, st.integers(0, len(WORDS) - 1), TEXT)
PROCESS = st.tuples(st.none() | st.integers(0, 9999), st.none() | TEXT, st.booleans())


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl"])
@given(batches=st.lists(st.tuples(PROCESS, st.lists(ROW, max_size=4)), max_size=4))
def test_the_same(layout: str, batches: list[tuple[Process, list[Row]]]) -> None:
    """Each format is byte for byte what it is of single rows."""
    given_rows: list[tuple[Cell, ...]] = []
    arrays = []
    for (pid, name, physical), rows in batches:
        address, offset, frame = (np.array([row[at] for row in rows], np.uint64) for at in range(3))
        code = Coded(np.array([row[3] for row in rows], np.uint8), WORDS)
        cells = [pid, name, address, offset, frame if physical else None, code]
        arrays.append(Rows(cells, [row[4] for row in rows]))
        given_rows += [(pid, name, *row[:2], row[2] if physical else None, WORDS[row[3]], row[4]) for row in rows]
    with contextlib.redirect_stdout(io.StringIO()) as expected:
        print_table(layout, "strings", COLUMNS, given_rows)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_arrays(layout, "strings", COLUMNS, arrays)
    assert out.getvalue() == expected.getvalue()


def test_what_an_encoding_has_not() -> None:
    """What standard output's encoding has no characters for is written as escapes."""
    for printing in (
        lambda: print_table("csv", "strings", COLUMNS[-1:], [["Привет"]]),
        lambda: print_arrays("csv", "strings", COLUMNS[-2:], [Rows(["a"], ["Привет"])]),
    ):
        raw = io.BytesIO()
        with contextlib.redirect_stdout(io.TextIOWrapper(raw, "ascii")) as out:
            printing()
            out.flush()
        assert b"\\u041f\\u0440" in raw.getvalue()
