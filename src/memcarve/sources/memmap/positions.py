"""Where a process's rows lie in its dump: worked out twice, and settled by the dump's length.

Volatility prints a running sum of the rows' sizes, error rows included, though nothing was written for those. So after
an error row the printed positions are too large; summing over the rows that were written is right then. After
``--filters`` rows are gone whose bytes are in the dump: then the printed positions are right and the sum is wrong.
``docs/formats.md`` has the table of cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memcarve.errors import PositionError, UsageError
from memcarve.intervals import ascending, furthest, neighbours, total

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcarve.dtypes import U64
    from memcarve.sources.memmap.map_rows import ProcessRows


BOTH, PRINTED, SUM = "printed and summed", "printed", "sum"


class Columns(NamedTuple):
    """Which columns the map has: positions, and whether rows were written; and whether rows may be gone."""

    printed: bool
    file: bool
    filters: bool


class Positions(NamedTuple):
    """`offset` (uint64, one an extent) is where each extent lies in the dump, `how` which way it was worked out."""

    offset: U64
    how: str
    end: int


def settle(
    where: str,
    process: ProcessRows,
    columns: Columns,
    length: int | None,
    trust: str | None,
    stranger: Callable[[], tuple[str, str]],
) -> Positions:
    """Work out the positions of a process's extents in its dump of `length` bytes (None: there is no dump).

    `where` names the files in messages. `trust` (``"printed"`` or ``"sum"``) decides instead of the dump's length.
    `stranger`, which is asked if the dump has another length than the rows, says in words why it may not be the dump
    that the map belongs to, if there is anything, and what to do. Raises PositionError if they cannot be settled,
    UsageError if `trust` asks for what the map does not hold, and what `stranger` raises.
    """
    ways = _Ways(where, process, columns)
    if trust == PRINTED and not columns.printed:
        raise UsageError(
            "prints no positions that could be trusted", subject=where, remedy="{trust:sum} is what remains"
        )
    if trust is not None:
        return ways.take(trust)
    trusting = "{trust:printed} or {trust:sum}" if columns.printed else "{trust:sum}"
    if length not in (None, ways.sum_end, ways.written_end, ways.printed_end) and (why := stranger())[0]:
        error = PositionError(f"{why[0]}; {ways.numbers(length)}", subject=where, remedy=why[1])
        error.suggest(f"{trusting} goes ahead all the same")
        raise error
    how, doubt = _verdict(ways, columns, length)
    if doubt:
        error = PositionError(f"{doubt}; {ways.numbers(length)}", subject=where)
        error.suggest(f"{trusting} decides" if columns.printed else f"{trusting} goes ahead")
        if length is not None and length < ways.written_end:
            error.suggest("add {partial} if the dump is too short for it")
        raise error
    return ways.take(how)


def _verdict(ways: _Ways, columns: Columns, length: int | None) -> tuple[str, str]:
    """Return which way is right, and what is doubtful about it, if anything."""
    if not columns.file and length is not None and length < ways.written_end:
        return BOTH, (
            "the dump is shorter than the rows, and the map has no column File output: either the dump is cut off, or "
            "there were rows that could not be written, whose places are not known"
        )
    if not columns.printed:
        return SUM, _doubt_in_sum(ways, columns, length)
    if ways.agree:
        return BOTH, ""
    return _with_errors(ways, length) if ways.unwritten else (PRINTED, _doubt_in_printed(ways, length))


def _doubt_in_sum(ways: _Ways, columns: Columns, length: int | None) -> str:
    """Return what is doubtful about summing if the map prints no positions."""
    if length is None:
        return ""
    if ways.unwritten and length != ways.sum_end:
        return "some rows could not be written, and the dump has another length than the others together"
    if columns.filters and length > ways.sum_end:
        return (
            "the dump is longer than the rows, and the map prints no positions: rows may have been left out anywhere "
            "(--filters), or at the end"
        )
    return ""


def _with_errors(ways: _Ways, length: int | None) -> tuple[str, str]:
    """Return which way is right if rows could not be written, and what is doubtful about it."""
    if not ways.explained:
        return SUM, "some rows could not be written, and others were left out of the map (--filters)"
    if length is None:
        return SUM, ""
    if length == ways.printed_end:
        return PRINTED, ""
    if length == ways.sum_end:
        return SUM, ""
    return SUM, (
        "some rows could not be written, and the dump's length fits neither way to work out the positions: the dump or "
        "the map may be cut off, rows may have been left out (--filters), or they belong to different runs"
    )


def _doubt_in_printed(ways: _Ways, length: int | None) -> str:
    """Say what is doubtful about printed positions with gaps between them."""
    if length is None or length >= ways.written_end:
        return ""
    return (
        "the printed positions leave gaps, and the dump is shorter than they are: rows that could not be written may "
        "have been left out of the map (--filters), or the dump is cut off"
    )


class _Ways:
    """Both ways to work out the positions, and what follows from them."""

    def __init__(self, where: str, process: ProcessRows, columns: Columns) -> None:
        self.where = where
        written, unwritten = process.written, process.unwritten
        self.columns = columns
        self.size, self.printed = written.size, written.offset
        self.unwritten = total(unwritten.size)
        # Volatility walks, prints and writes in order of the addresses: that is the order of the dump
        key = written.offset if columns.printed else written.start
        self.order = None if ascending(key) else np.argsort(key, kind="stable")
        if not columns.printed and self.order is not None:
            self.printed = self._summed()
        self.sum_end = total(self.size)
        self.written_end = furthest(self.printed, self.size)
        self.printed_end = max(self.written_end, furthest(unwritten.offset, unwritten.size) if columns.printed else 0)
        self._check_shared()
        # no two rows share a byte, so if they end where their sizes add up to there is no gap between them either
        self.agree = not columns.printed or self.written_end == self.sum_end
        self.explained = self.printed_end == self.sum_end + self.unwritten

    def take(self, how: str) -> Positions:
        """Return the positions worked out one way."""
        if how == SUM and not self.agree:
            return Positions(self._summed(), SUM, self.sum_end)
        kind = how if not self.agree else BOTH if self.columns.printed else SUM
        return Positions(self.printed, kind, self.written_end)

    def numbers(self, length: int | None) -> str:
        """Return the three numbers for a message."""
        parts = [f"printed positions end at 0x{self.printed_end:x}"] if self.columns.printed else []
        parts.append(f"the sizes of the rows written add up to 0x{self.sum_end:x}")
        parts.append("the dump is not at hand" if length is None else f"the dump holds 0x{length:x} bytes")
        return ", ".join(parts)

    def _summed(self) -> U64:
        if self.order is None:
            return np.cumsum(self.size) - self.size
        ordered = self.size[self.order]
        offset = np.empty_like(self.size)
        offset[self.order] = np.cumsum(ordered) - ordered
        return offset

    def _check_shared(self) -> None:
        """Raise PositionError if two rows claim the same byte of the dump."""
        offset, size = self.printed, self.size
        if self.order is not None:
            offset, size = offset[self.order], size[self.order]
        for here, before in neighbours(len(offset)):
            bad = np.flatnonzero(offset[here] < offset[before] + size[before])
            if len(bad):
                place = int(offset[here][bad[0]])
                raise PositionError(
                    f"two rows claim the byte at position 0x{place:x} of the dump; if the map holds several "
                    "processes one after the other, cut it into one map for each",
                    subject=self.where,
                )
