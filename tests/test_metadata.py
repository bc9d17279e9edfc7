"""Regions that overlap or not, and protections in three letters."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from memcarve.metadata import Metadata, Module, Region, Regions, SourceRows
from memcarve.protection import collapsed


@pytest.mark.parametrize(
    ("protection", "letters"),
    [
        ("PAGE_NOACCESS", "---"),
        ("PAGE_READONLY", "r--"),
        ("PAGE_READWRITE|PAGE_GUARD", "rw-"),
        ("PAGE_EXECUTE_READ", "r-x"),
        ("PAGE_EXECUTE_READWRITE|PAGE_NOCACHE", "rwx"),
        ("PAGE_EXECUTE_WRITECOPY", "rcx"),
        ("PAGE_WRITECOPY", "rc-"),
        ("PAGE_EXECUTE", "--x"),
        ("r-xp", "r-x"),
        ("rw-s", "rw-"),
        ("---p", "---"),
        ("r-x", "r-x"),
        ("", None),
        (None, None),
        ("PAGE_GUARD", None),
        ("PAGE_READONLY|PAGE_READWRITE", None),
        ("rwxrwx", None),
    ],
)
def test_collapsed(protection: str | None, letters: str | None) -> None:
    """Three letters where the protection is one that is documented, else nothing."""
    assert collapsed(protection) == letters


def owner(rows: list[Region], address: int) -> Region | None:
    """Return the smallest region that holds an address: of equal ones the first in order."""
    holding = [row for row in rows if row.start <= address < row.end]
    return min(holding, key=lambda row: (row.size, row.start), default=None)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), max_size=12))
def test_pieces_against_a_model(ranges: list[tuple[int, int]]) -> None:
    """Each address belongs to the smallest region that holds it; pieces are sorted and share nothing."""
    rows = sorted((Region(start, size) for start, size in ranges), key=lambda row: (row.start, row.size))
    regions = Regions("model", rows)
    pieces = regions.pieces
    owners: dict[int, Region] = {}
    end = -1
    for start, size, index in zip(pieces.start.tolist(), pieces.size.tolist(), pieces.owner.tolist(), strict=True):
        assert start >= end
        end = start + size
        owners |= dict.fromkeys(range(start, end), regions.rows[index])
    for address in range(80):
        assert owners.get(address) == owner(rows, address)
    sharing = {
        one
        for one, row in enumerate(rows)
        for other, beside in enumerate(rows)
        if one != other and row.start < beside.end and beside.start < row.end
    }
    assert bool(regions.overlapping) == bool(sharing)
    assert regions.overlapping <= len(sharing)


def test_the_top_of_the_address_space() -> None:
    """A region may end at 2**64, and one may hold everything."""
    top = Region((1 << 64) - 4096, 4096)
    regions = Regions("top", [top, Region(0, 4096)])
    assert [row.start for row in regions] == [0, (1 << 64) - 4096]
    assert top.end == 1 << 64
    assert not regions.overlapping
    assert [row.end for row in Regions("all", [Region(0, 1 << 64)])] == [1 << 64]


def test_evidence_adds_up() -> None:
    """What two sources know is kept apart, the first one first."""
    one = Metadata(modules=(SourceRows("PEB", [Module(4096)]),), notes=("a",))
    two = Metadata(modules=(SourceRows("dlllist", []),), notes=("b",))
    assert [found.source for found in (one + two).modules] == ["PEB", "dlllist"]
    assert (one + two).notes == ("a", "b")
