"""Which process a row belongs to, and where in the dump its bytes lie; what cannot be told is an error.

The dumps are written here byte by byte as the programs write them, and each eight bytes say which address they belong
to: so what memcarve reads at an address shows at once whether it looked at the right place.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings, strategies as st

import maps
import memcarve
from files import SAMPLES, put
from maps import COLUMNS, FAILED, RENDERERS, Row, dump_of, written
from memcarve.errors import (
    AddressError,
    CounterpartError,
    InputError,
    MapError,
    NotRecognisedError,
    OverlapError,
    PositionError,
    ProcessError,
    UsageError,
)
from memcarve.intervals import TOP
from memcarve.missing import CUT_OFF, NOT_WRITTEN, Missing
from memcarve.sources.memmap import BETWEEN, TAIL
from memory import canonical, content

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from memcarve.process import ProcessMemory

PAGE = 0x1000
LOW = [(0x1000, 0x2000), (0x5000, 0x1000), (0x9000, 0x3000), (0x20000, 0x1000)]
MIXED = [*LOW, (0x7FFFFFFDE000, 0x2000), (0xF80000000000, 0x3000), (0xFFFFFFFFF000, 0xFFF)]


def lay(
    folder: Path, rows: Sequence[Row], dump: bytes | None, columns: Sequence[str] = COLUMNS, name: str = "pid.4"
) -> str:
    """Write a map and its dump beside each other; return the map's path."""
    if dump is not None:
        put(folder / f"{name}.dmp", dump)
    return put(folder / f"{name}.map", maps.quick(rows, columns))


def process_of(path: str, **options: str) -> ProcessMemory:
    """Return the one process of a map; its dump stays open until the interpreter collects it."""
    with memcarve.open(path, **options) as container:  # type: ignore[arg-type]
        process = container.process()
        check(process)
        return process


def check(process: ProcessMemory) -> None:
    """Check by their content that all bytes of a process are those of their addresses."""
    for extent in process.space.extents():
        assert process.space.read(extent.start, extent.size) == content(extent.start, extent.size)
    size = process.space.backing.size
    if size:
        assert process.space.total + sum(process.left_out.values()) == size


def addresses(process: ProcessMemory) -> list[tuple[int, int]]:
    """Return the segments as (start, size)."""
    return [(segment.start, segment.size) for segment in process.segments()]


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch, one after the other: the segments that are expected."""
    found: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        if found and sum(found[-1]) == start:
            found[-1] = found[-1][0], found[-1][1] + size
        else:
            found.append((start, size))
    return found


def of_rows(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """Return the segments that rows form whose bytes were written."""
    return joined((canonical(row.virtual), row.size) for row in rows if row.file != FAILED)


# drift


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("failed", [[0], [2], [6], [0, 1], [1, 2, 5], [0, 6], list(range(6))])
def test_rows_after_an_error_row_lie_where_the_sum_says(renderer: str, failed: list[int], tmp_path: Path) -> None:
    """After rows that could not be written each later one lies earlier in the dump than is printed."""
    rows = written(MIXED, failed=failed)
    put(tmp_path / "pid.4.dmp", dump_of(rows))
    process = process_of(put(tmp_path / "pid.4.map", RENDERERS[renderer](rows)))
    assert addresses(process) == of_rows(rows)
    assert list(process.space.missing) == sorted(
        Missing(canonical(rows[place].virtual), rows[place].size, NOT_WRITTEN) for place in failed
    )
    assert process.incomplete
    drifts = any(rows[place].file == FAILED for place in range(max(set(range(7)) - set(failed))))
    assert process.positions == ("sum" if drifts else "printed and summed")
    offset = 0
    for row in rows:
        if row.file != FAILED:
            assert canonical(row.virtual) in process.space.addresses_of(offset)
            offset += row.size


def test_the_drift_sample_lies_as_its_dump_is_long() -> None:
    """The sample's rows add up to the size its dump had: 12288 bytes for three pages beside an error row."""
    path = os.path.join(SAMPLES, "drift", "trunc4k.lime.2.28.2.stdout")
    with memcarve.open(path) as container:
        process = container.process()
        assert process.space.addresses_of(0x1000) == [0x30000]
        assert process.space.addresses_of(0x2000) == [0x40000]
        assert process.space.total == 12288
        assert list(process.space.missing) == [Missing(0x20000, 0x2000, NOT_WRITTEN)]


@pytest.mark.parametrize("change", [-PAGE, -1, 1, PAGE, 5 * PAGE])
def test_error_rows_and_a_dump_of_another_length_cannot_be_settled(change: int, tmp_path: Path) -> None:
    """Where there are error rows and the dump's length fits neither sum, the error says the three numbers."""
    rows = written(LOW, failed=[1])
    data = dump_of(rows)
    data = data[:change] if change < 0 else data + bytes(change)
    printed, summed = rows[-1].offset + rows[-1].size, sum(row.size for row in rows if row.file != FAILED)
    path = lay(tmp_path, rows, data)
    if len(data) == printed:
        data += b"\0"
        put(tmp_path / "pid.4.dmp", data)
    with pytest.raises(PositionError) as caught:
        process_of(path)
    for number in (printed, summed, len(data)):
        assert f"0x{number:x}" in str(caught.value)
    assert str(caught.value).startswith(path)
    assert "trust=" in str(caught.value)


def test_error_rows_at_the_end_of_a_longer_dump(tmp_path: Path) -> None:
    """Error rows behind all others move nothing: what follows in the dump is reported as a tail."""
    rows = written(LOW, failed=[3])
    process = process_of(lay(tmp_path, rows, dump_of(rows) + b"tail"))
    assert process.left_out == {TAIL: 4}
    assert addresses(process) == of_rows(rows)


# release 1.0


def first_release(ranges: Iterable[tuple[int, int]], failed: Sequence[int] = ()) -> tuple[list[Row], bytes]:
    """Return the rows and the text of release 1.0, one row a page, the fourth column called Offset."""
    pages = [(at, min(PAGE, start + size - at)) for start, size in ranges for at in range(start, start + size, PAGE)]
    rows = written(pages, failed=failed)
    return rows, maps.quick(rows, ("Virtual", "Physical", "Size", "Offset", "File output"))


@pytest.mark.parametrize("failed", [[], [0], [1, 4]])
def test_release_1_0_prints_no_positions(failed: list[int], tmp_path: Path) -> None:
    """In release 1.0 the column Offset repeats Virtual; the rows lie where their sum says."""
    rows, text = first_release(MIXED, failed)
    put(tmp_path / "pid.4.dmp", dump_of(rows))
    process = process_of(put(tmp_path / "pid.4.txt", text))
    assert process.positions == "sum"
    assert addresses(process) == of_rows(rows)


def test_release_1_0_had_no_filters(tmp_path: Path) -> None:
    """A dump that is longer than the map of release 1.0 has a tail: no row can be gone from the middle."""
    rows, text = first_release(LOW)
    put(tmp_path / "pid.4.dmp", dump_of(rows) + bytes(5))
    process = process_of(put(tmp_path / "pid.4.txt", text))
    assert process.left_out == {TAIL: 5}


# filters: rows are gone, bytes are not


@pytest.mark.parametrize(
    ("gone", "tail", "between"),
    [
        ([3], 0x1000, 0),
        ([2, 3], 0x4000, 0),
        ([1], 0, 0x1000),
        ([0], 0, 0x2000),
        ([0, 3], 0x1000, 0x2000),
        ([1, 2], 0, 0x4000),
    ],
)
def test_filtered_rows_leave_their_bytes(gone: list[int], tail: int, between: int, tmp_path: Path) -> None:
    """Where rows were filtered out the printed positions hold; what belongs to no row is counted by where it lies."""
    rows = written(LOW)
    shown = [row for place, row in enumerate(rows) if place not in gone]
    process = process_of(lay(tmp_path, shown, dump_of(rows)))
    assert addresses(process) == of_rows(shown)
    assert process.left_out == {name: size for name, size in ((TAIL, tail), (BETWEEN, between)) if size}
    assert process.incomplete
    assert [extent.offset for extent in process.space.extents()] == [row.offset for row in shown]


def test_error_rows_that_were_filtered_out_are_not_taken_for_others(tmp_path: Path) -> None:
    """Printed positions with gaps and a dump as long as the rows together: which is right cannot be told."""
    rows = written(LOW, failed=[1])
    shown = [row for row in rows if row.file != FAILED]
    path = lay(tmp_path, shown, dump_of(rows))
    with pytest.raises(PositionError, match="gaps"):
        process_of(path)
    assert addresses(process_of(path, trust="sum")) == of_rows(rows)


def test_hidden_error_rows_are_not_taken_for_a_dump_cut_off(tmp_path: Path) -> None:
    """Gaps between the printed positions and a dump that ends between the two sums: neither way is sure.

    rows      A [error, filtered out] B [C, filtered out]
    the dump  A B C
    """
    rows = written([(0x1000, 0x1000), (0x3000, 0x2000), (0x8000, 0x3000), (0x20000, 0x1000)], failed=[1])
    path = lay(tmp_path, [rows[0], rows[2]], dump_of(rows))
    with pytest.raises(PositionError):
        process_of(path)
    assert addresses(process_of(path, trust="sum")) == of_rows([rows[0], rows[2]])


@given(st.data())
@settings(max_examples=300)
def test_what_is_read_is_right_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever rows failed, were filtered out and which columns hidden: the right bytes are read, or none."""
    folder = tmp_path_factory.mktemp("right")
    number = data.draw(st.integers(1, 6))
    ranges, at = [], 0x1000
    for _ in range(number):
        size = data.draw(st.integers(1, 3)) * PAGE
        ranges.append((at, size))
        at += size + data.draw(st.sampled_from([0, PAGE]))
    failed = data.draw(st.sets(st.integers(0, number - 1), max_size=2))
    rows = written(ranges, failed=sorted(failed))
    gone = data.draw(st.sets(st.integers(0, number - 1), max_size=number - 1)) - failed
    shown = [row for place, row in enumerate(rows) if place not in gone]
    hidden = data.draw(st.sampled_from([(), (), ("Offset in File",)] + [("File output",)] * (not failed or not gone)))
    columns = [name for name in COLUMNS if name not in hidden]
    dump = dump_of(rows)
    # that a filtered map's positions and an unfiltered one's come out at the same length is a coincidence no one sees
    assume(not (failed and gone) or len(dump) != max(row.offset + row.size for row in shown))
    path = lay(folder, shown, dump, columns)
    try:
        process = process_of(path)
    except PositionError:
        assert failed or gone
        return
    assert addresses(process) == of_rows(shown)
    assert process.incomplete == bool(failed or gone)


# columns that are hidden, and dumps of other lengths

CASES = {
    # columns hidden, error rows, what the dump has more or less -> what comes of it
    ("", "", 0): "whole",
    ("", "", -1): "cut",
    ("", "", 1): "tail",
    ("", "error", 0): "gap",
    ("", "error", -1): "refused",
    ("file", "", 0): "whole",
    ("file", "", -1): "refused",
    ("file", "", 1): "tail",
    ("file", "error", 0): "refused",
    ("offset", "", 0): "whole",
    ("offset", "", -1): "cut",
    ("offset", "", 1): "refused",
    ("offset", "error", 0): "gap",
    ("offset", "error", -1): "refused",
    ("offset", "error", 1): "refused",
    ("both", "", 0): "whole",
    ("both", "", -1): "refused",
    ("both", "", 1): "refused",
    ("both", "error", 0): "refused",
}


@pytest.mark.parametrize("amount", [1, PAGE, PAGE + 5])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_hidden_columns_and_dumps_of_other_lengths(case: tuple[str, str, int], amount: int, tmp_path: Path) -> None:
    """Without a column less can be known of a dump whose length is not what the rows say; no place is guessed."""
    hidden, error, change = case
    names = {"": (), "file": ("File output",), "offset": ("Offset in File",), "both": ("File output", "Offset in File")}
    rows = written(LOW, failed=[1] if error else [])
    data = dump_of(rows)
    data = data + b"\xff" * amount if change > 0 else data[: len(data) - amount * -change]
    path = lay(tmp_path, rows, data, [name for name in COLUMNS if name not in names[hidden]])
    outcome = CASES[case]
    if outcome == "refused":
        with pytest.raises(PositionError) as caught:
            process_of(path)
        assert f"0x{len(data):x}" in str(caught.value)
        return
    process = process_of(path)
    assert process.incomplete == (outcome != "whole")
    if outcome == "cut":
        expected, left = [], len(data)
        for row in rows:
            expected.append((row.virtual, min(row.size, left)))
            left = max(left - row.size, 0)
        assert addresses(process) == joined((start, size) for start, size in expected if size)
        assert {gap.reason for gap in process.space.missing} == {CUT_OFF}
        assert sum(gap.size for gap in process.space.missing) == amount
    else:
        assert addresses(process) == of_rows(rows)
        assert process.left_out == ({TAIL: amount} if outcome == "tail" else {})


@pytest.mark.parametrize("length", [0, 1, 0x1FFF, 0x2000, 0x2800, 0x3000, 0x6001])
def test_a_dump_cut_off_ends_with_the_first_missing_address(length: int, tmp_path: Path) -> None:
    """What the dump is too short for is missing, from the very byte on, and the first address of it is known."""
    rows = written(LOW)
    path = lay(tmp_path, rows, dump_of(rows)[:length])
    with memcarve.open(path) as container:
        process = container.process()
        check(process)
        row = next(row for row in rows if row.offset + row.size > length)
        first = row.virtual + length - row.offset
        assert process.first_cut_off == first
        with pytest.raises(AddressError) as caught:
            process.space.read(first, 1)
        assert caught.value.reason == "the file ends too early"
        if first > row.virtual:
            assert process.space.read(first - 1, 1) == content(first - 1, 1)
        assert process.space.total == length
        assert process.space.total + sum(gap.size for gap in process.space.missing) == sum(row.size for row in rows)


# trust


def test_trust_decides_where_the_lengths_do_not(tmp_path: Path) -> None:
    """With trust the positions are those asked for, whatever the dump's length says."""
    rows = written(LOW, failed=[1])
    path = lay(tmp_path, rows, dump_of(rows) + bytes(0x5000))
    with memcarve.open(path, trust="sum") as container:
        process = container.process()
        check(process)
        assert process.positions == "sum"
        assert [extent.offset for extent in process.space.extents()] == [0, 0x2000, 0x5000]
    with memcarve.open(path, trust="printed") as container:
        process = container.process()
        assert process.positions == "printed"
        assert [extent.offset for extent in process.space.extents()] == [0, 0x3000, 0x6000]
        assert process.left_out == {BETWEEN: 0x1000, TAIL: 6 * PAGE - 0x2000}


def test_printed_positions_that_are_not_there_cannot_be_trusted(tmp_path: Path) -> None:
    """Where a map prints no positions, trusting them is a mistake in the call."""
    rows = written(LOW)
    path = lay(tmp_path, rows, dump_of(rows), ["Virtual", "Size"])
    with pytest.raises(UsageError, match="prints no positions"):
        process_of(path, trust="printed")
    assert addresses(process_of(path, trust="sum")) == of_rows(rows)


# several processes

SECOND = [(0x2000, 0x1000), (0x5000, 0x4000), (0x30000, 0x1000)]


def two(folder: Path, one: Sequence[Row], other: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Write a map of two processes and their dumps."""
    put(folder / "pid.4.dmp", dump_of(one))
    put(folder / "pid.8.dmp", dump_of(other))
    return put(folder / "all.map", maps.quick([*one, *other], columns))


@pytest.mark.parametrize("columns", [COLUMNS, [name for name in COLUMNS if name != "Offset in File"]])
@pytest.mark.parametrize("failed", [[], [0], [0, 1], [2], [1]])
@pytest.mark.parametrize("mine", [[], [3], [0]])
def test_file_names_tell_processes_apart(
    columns: Sequence[str], failed: list[int], mine: list[int], tmp_path: Path
) -> None:
    """Rows belong to the process whose dump they name; error rows before the first that names it are its own."""
    one, other = written([*LOW, (0x50000, PAGE)], failed=mine), written(SECOND, "pid.8.dmp", failed)
    path = two(tmp_path, one, other, columns)
    with memcarve.open(path) as container:
        assert [entry.pid for entry in container.processes()] == [4, 8]
        for pid, rows in ((4, one), (8, other)):
            process = container.process(pid)
            check(process)
            assert addresses(process) == of_rows(rows)
            assert [(gap.start, gap.size) for gap in process.space.missing] == [
                (row.virtual, row.size) for row in rows if row.file == FAILED
            ]
        with pytest.raises(UsageError, match="holds 2 processes"):
            container.process()
        with pytest.raises(ProcessError, match="holds no process 5"):
            container.process(5)


def test_a_process_may_be_interleaved_with_another(tmp_path: Path) -> None:
    """The rows of a process need not stand together where their file names are there."""
    one, other = written(LOW), written(LOW, "pid.8.dmp")
    mixed = [row for pair in zip(one, other, strict=True) for row in pair]
    put(tmp_path / "pid.4.dmp", dump_of(one))
    put(tmp_path / "pid.8.dmp", dump_of(other))
    with memcarve.open(put(tmp_path / "all.map", maps.quick(mixed))) as container:
        for pid in (4, 8):
            check(container.process(pid))
            assert addresses(container.process(pid)) == of_rows(one)


@pytest.mark.parametrize("shown", [COLUMNS, ("Virtual", "Size", "Offset in File")])
def test_position_0_begins_a_process(shown: Sequence[str], tmp_path: Path) -> None:
    """Without names a process begins where the printed position returns to 0, also at a higher address."""
    parts = [written([(0x1000, 0x1000)], "Disabled"), written([(0x5000, PAGE), (0x9000, PAGE)], "Disabled")]
    parts.append(written(LOW, "Disabled"))
    path = put(tmp_path / "all.map", maps.quick([row for part in parts for row in part], shown))
    with memcarve.open(path) as container:
        assert [entry.pid for entry in container.processes()] == [None] * 3
        for index, part in enumerate(parts):
            assert addresses(container.process(index=index)) == of_rows(part)


def test_a_lower_address_begins_a_process_where_no_position_is_printed(tmp_path: Path) -> None:
    """In a map without names and positions a process begins where the address decreases."""
    for columns, file in ((("Virtual", "Size"), "pid.4.dmp"), (("Virtual", "Size", "File output"), "Disabled")):
        path = put(tmp_path / "all.map", maps.quick([*written(MIXED, file), *written(SECOND, file)], columns))
        with memcarve.open(path) as container:
            assert len(container.processes()) == 2
            assert addresses(container.process(index=0)) == of_rows(written(MIXED))
            assert addresses(container.process(index=1)) == of_rows(written(SECOND))


@pytest.mark.parametrize("name", ["1.0.0", "2.0.1", "2.4.1", "2.28.2"])
def test_the_samples_of_two_processes_hold_two(name: str) -> None:
    """The samples without --pid hold two processes of the same pages."""
    with memcarve.open(os.path.join(SAMPLES, name, "quick-nodump-allpids.stdout")) as container:
        assert len(container.processes()) == 2
        first, second = (container.process(index=index) for index in (0, 1))
        assert addresses(first) == addresses(second)
        assert addresses(first)[-1] == (TOP - 0x1000, 0xFFF)


@pytest.mark.parametrize("write", [maps.volatility2, maps.greptext, maps.volatility2_json])
def test_volatility_2_names_its_processes(write: maps.Writer, tmp_path: Path) -> None:
    """Volatility 2 says pid and name of each process; its dumps are called <pid>.dmp."""
    one, other = written(MIXED), written(SECOND)
    put(tmp_path / "4.dmp", dump_of(one))
    put(tmp_path / "1234.dmp", dump_of(other))
    path = put(tmp_path / "memmap.txt", write([("System", 4, one), ("a pid: 7 b", 1234, other)]))
    with memcarve.open(path) as container:
        assert [tuple(entry[:2]) for entry in container.processes()] == [(4, "System"), (1234, "a pid: 7 b")]
        for pid, rows in ((4, one), (1234, other)):
            check(container.process(pid))
            assert addresses(container.process(pid)) == of_rows(rows)


def test_equal_processes_of_volatility_2_stay_apart(tmp_path: Path) -> None:
    """A process that begins at a higher address than the one before ends is still another one."""
    one, other = written([(0x1000, PAGE)]), written([(0x9000, PAGE)])
    path = put(tmp_path / "memmap.txt", maps.volatility2([("a", 4, one), ("b", 8, other)]))
    with memcarve.open(path) as container:
        assert [addresses(container.process(index=index)) for index in (0, 1)] == [of_rows(one), of_rows(other)]


def test_32_bit_addresses_stay_as_they_are(tmp_path: Path) -> None:
    """Addresses of a 32-bit profile are not extended, and their kernel half begins at 2 GiB."""
    rows = written([(0x10000, PAGE), (0x80000000, PAGE), (0xFFDF0000, PAGE), (0xFFFFF000, PAGE)])
    for data in (maps.volatility2([("System", 4, rows)], 8), maps.quick(rows)):
        put(tmp_path / "4.dmp", dump_of(rows))
        process = process_of(put(tmp_path / "4.txt", data))
        assert addresses(process) == of_rows(rows)
        assert process.architecture == "x86"
        assert process.kernel_half == 0x80000000


# rows in any order


@given(st.permutations(range(len(MIXED))), st.sampled_from(["pid.4.dmp", "Disabled"]))
@settings(max_examples=150)
def test_rows_in_any_order_with_positions(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], file: str
) -> None:
    """Rows of one process that print their positions may come in any order, with a file name or with Disabled."""
    rows = written(MIXED, file)
    process = process_of(lay(tmp_path_factory.mktemp("order"), [rows[place] for place in order], dump_of(rows)))
    assert addresses(process) == of_rows(rows)
    assert not process.incomplete


@given(st.permutations(range(len(MIXED))))
@settings(max_examples=80)
def test_rows_in_any_order_without_positions(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    """Without printed positions the dump's order is that of the addresses, whatever the order of the rows."""
    rows = written(MIXED)
    columns = [name for name in COLUMNS if name != "Offset in File"]
    path = lay(tmp_path_factory.mktemp("order"), [rows[place] for place in order], dump_of(rows), columns)
    assert addresses(process_of(path)) == of_rows(rows)


@given(st.permutations(range(len(MIXED))), st.sets(st.integers(0, 6), min_size=1, max_size=3))
@settings(max_examples=150)
def test_error_rows_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int], failed: set[int]) -> None:
    """Error rows among rows in any order drift as if they stood in order."""
    rows = written(MIXED, failed=sorted(failed))
    path = lay(tmp_path_factory.mktemp("order"), [rows[place] for place in order], dump_of(rows))
    process = process_of(path)
    assert addresses(process) == of_rows(rows)
    assert len(list(process.space.missing)) == len(failed)


# rows that overlap


@pytest.mark.parametrize("renderer", ["quick", "pretty", "csv", "jsonl"])
def test_rows_that_overlap_are_both_named(renderer: str, tmp_path: Path) -> None:
    """Two rows that claim one address are an error with the lines of both and the address."""
    rows = written([(0x1000, 0x1000), (0x4000, 0x3000), (0x8000, 0x1000), (0x5000, 0x1000)])
    put(tmp_path / "pid.4.dmp", dump_of(rows))
    path = put(tmp_path / "pid.4.map", RENDERERS[renderer](rows))
    lines = RENDERERS[renderer](rows).decode().split("\n")
    words = [r'"Virtual": 16384\b', r'"Virtual": 20480\b'] if renderer == "jsonl" else [r"\b0x4000\b", r"\b0x5000\b"]
    one, other = (next(n for n, line in enumerate(lines, 1) if re.search(word, line)) for word in words)
    with pytest.raises(OverlapError, match=f"line {one} .*line {other} ") as caught:
        process_of(path)
    assert caught.value.address == 0x5000
    assert str(caught.value).startswith(path)


def test_an_error_row_may_not_overlap_either(tmp_path: Path) -> None:
    """A row that was not written claims its addresses, too."""
    rows = written([(0x1000, 0x1000), (0x4000, 0x3000), (0x5000, 0x1000), (0x9000, 0x1000)], failed=[2])
    path = lay(tmp_path, rows, dump_of(rows))
    with pytest.raises(OverlapError, match=r"line 6 .*line 7 "):
        process_of(path)


def test_two_rows_may_not_claim_the_same_bytes_of_the_dump(tmp_path: Path) -> None:
    """Rows at different addresses but the same position are an error that begins with the file."""
    rows = [Row(0x1000, 0x2000, 0), Row(0x5000, 0x1000, 0x1000)]
    path = lay(tmp_path, rows, bytes(0x3000))
    with pytest.raises(PositionError, match="position 0x1000") as caught:
        process_of(path)
    assert str(caught.value).startswith(path)


def test_the_same_map_twice_is_refused(tmp_path: Path) -> None:
    """A map appended to itself is an error that begins with the file, not a process of twice the size."""
    rows = written(LOW)
    put(tmp_path / "pid.4.dmp", dump_of(rows))
    path = put(tmp_path / "pid.4.map", maps.quick(rows) * 2)
    with pytest.raises(MapError) as caught:
        process_of(path)
    assert str(caught.value).startswith(path)


# addresses


def extents_of(folder: Path, rows: Sequence[Row], bit: int = 47) -> list[tuple[int, int, int]]:
    """Return (start, size, offset) of what memcarve makes of rows, after a look at the content."""
    process = process_of(lay(folder, rows, dump_of(rows, bit)))
    return [tuple(extent) for extent in process.space.extents()]


def test_48_bit_addresses_come_out_canonical(tmp_path: Path) -> None:
    """Bit 47 goes through the bits above it, and the last page is one byte short."""
    assert extents_of(tmp_path, written(MIXED)) == [
        (0x1000, 0x2000, 0),
        (0x5000, 0x1000, 0x2000),
        (0x9000, 0x3000, 0x3000),
        (0x20000, 0x1000, 0x6000),
        (0x7FFFFFFDE000, 0x2000, 0x7000),
        (0xFFFFF80000000000, 0x3000, 0x9000),
        (0xFFFFFFFFFFFFF000, 0xFFF, 0xC000),
    ]


def test_57_bit_addresses_come_out_canonical(tmp_path: Path) -> None:
    """Where a row lies beyond 48 bits, bit 56 goes through the bits above it and bit 47 is an ordinary one."""
    ranges = [(0x1000, PAGE), (0xF80000000000, PAGE), (0x100000000000000, PAGE), (0x1FFFFFFFFFFF000, 0xFFF)]
    assert extents_of(tmp_path, written(ranges), 56) == [
        (0x1000, PAGE, 0),
        (0xF80000000000, PAGE, PAGE),
        (0xFF00000000000000, PAGE, 2 * PAGE),
        (0xFFFFFFFFFFFFF000, 0xFFF, 3 * PAGE),
    ]


def test_sign_extended_addresses_stay_as_they_are(tmp_path: Path) -> None:
    """Addresses that are canonical already, up to the last byte of 64 bits, are left alone."""
    ranges = [(0x1000, PAGE), (0xFFFF800000000000, PAGE), (0xFFFFFFFFFFFFF000, PAGE)]
    assert extents_of(tmp_path, written(ranges)) == [
        (0x1000, PAGE, 0),
        (0xFFFF800000000000, PAGE, PAGE),
        (0xFFFFFFFFFFFFF000, PAGE, 2 * PAGE),
    ]


@pytest.mark.parametrize("failed", [[], [0]])
def test_a_row_across_the_middle_becomes_two(failed: list[int], tmp_path: Path) -> None:
    """A row across 2**47, where canonical addresses have their hole, is two ranges far apart."""
    rows = written([(0x1000, PAGE), (0x7FFFFFFFE000, 0x5000), (0x900000000000, PAGE)], failed=failed)
    cut = content(0x7FFFFFFFE000, 0x2000) + content(0xFFFF800000000000, 0x3000) + content(0xFFFF900000000000, PAGE)
    data = (b"" if failed else content(0x1000, PAGE)) + cut
    process = process_of(lay(tmp_path, rows, data))
    expected = [(0x7FFFFFFFE000, 0x2000), (0xFFFF800000000000, 0x3000), (0xFFFF900000000000, PAGE)]
    assert addresses(process) == ([] if failed else [(0x1000, PAGE)]) + expected


def test_rows_that_meet_in_the_middle_are_apart(tmp_path: Path) -> None:
    """Rows that touch at 2**47 as printed do not touch once they are canonical."""
    rows = written([(0x7FFFFFFFF000, PAGE), (0x800000000000, PAGE)])
    process = process_of(lay(tmp_path, rows, dump_of(rows)))
    assert addresses(process) == [(0x7FFFFFFFF000, PAGE), (0xFFFF800000000000, PAGE)]


def test_a_row_across_the_middle_that_was_not_written(tmp_path: Path) -> None:
    """An error row across 2**47 is missing on both sides of the hole."""
    rows = written([(0x1000, PAGE), (0x7FFFFFFFF000, 0x2000)], failed=[1])
    process = process_of(lay(tmp_path, rows, dump_of(rows)))
    assert [(gap.start, gap.size) for gap in process.space.missing] == [
        (0x7FFFFFFFF000, PAGE),
        (0xFFFF800000000000, PAGE),
    ]


def test_a_row_across_the_middle_that_is_cut_off(tmp_path: Path) -> None:
    """A dump that ends within a row across 2**47 is missing from the very byte on, on both sides."""
    rows = written([(0x7FFFFFFFF000, 0x2000)])
    process = process_of(lay(tmp_path, rows, content(0x7FFFFFFFF000, 0x10)))
    assert [(gap.start, gap.size) for gap in process.space.missing] == [
        (0x7FFFFFFFF010, 0xFF0),
        (0xFFFF800000000000, PAGE),
    ]


# which map, which dump


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".xz"])
@pytest.mark.parametrize("ending", [".map", ".txt", ".csv", ".json", ".jsonl", ".parquet", ".arrow"])
def test_a_map_is_found_beside_its_dump(ending: str, compression: str, tmp_path: Path) -> None:
    """A map with the dump's stem is found under every ending, compressed or not, and the dump from the map."""
    rows = written(LOW)
    dump = put(tmp_path / "pid.4.dmp", dump_of(rows))
    # whatever it is called: what it is, its content tells
    path = put(tmp_path / f"pid.4{ending}{compression}", maps.csv(rows))
    for given_path in (dump, path):
        process = process_of(given_path)
        assert addresses(process) == of_rows(rows)
        assert process.inputs["map"]["path"] == path
        assert process.inputs["dump"]["path"] == dump
        assert process.pid == 4
    assert any(note.startswith(f"map: {path}") for note in process_of(dump).notes)
    assert any(note == f"dump: {dump}" for note in process_of(path).notes)


def test_maps_are_tried_in_order_and_the_others_are_said(tmp_path: Path) -> None:
    """Of several maps the first by ending is taken; the note says which, and which others are there."""
    rows = written(LOW)
    dump = put(tmp_path / "pid.4.dmp", dump_of(rows))
    endings = [".map", ".txt", ".csv", ".json", ".jsonl", ".parquet", ".arrow"]
    for ending in endings:
        put(tmp_path / f"pid.4{ending}", maps.quick(rows))
    for place, ending in enumerate(endings):
        notes = process_of(dump).notes
        (note,) = [note for note in notes if note.startswith("map: ")]
        assert note.startswith(f"map: {tmp_path / 'pid.4'}{ending}, ")
        for other in endings[place + 1 :]:
            assert f"pid.4{other}" in note
        (tmp_path / f"pid.4{ending}").unlink()
    with pytest.raises(CounterpartError, match="memory_map="):
        process_of(dump)


def test_what_is_no_map_is_passed_over(tmp_path: Path) -> None:
    """A file with the right name that holds no map does not hide the one that does; alone, it is named."""
    rows = written(LOW)
    dump = put(tmp_path / "pid.4.dmp", dump_of(rows))
    notes = put(tmp_path / "pid.4.txt", b"my notes\n")
    with pytest.raises(NotRecognisedError) as caught:
        process_of(dump)
    assert str(caught.value).startswith(notes)
    put(tmp_path / "pid.4.json", maps.json_array(rows))
    assert addresses(process_of(dump)) == of_rows(rows)


@pytest.mark.parametrize("name", ["pid.4-1", "pid.4-12"])
def test_a_renamed_dump_is_found_and_said(name: str, tmp_path: Path) -> None:
    """A dump that was numbered because pid.4.dmp existed belongs to the rows that say pid.4.dmp."""
    rows = written(LOW)
    dump = put(tmp_path / f"{name}.dmp", dump_of(rows))
    path = put(tmp_path / "out.txt", maps.quick(rows))
    process = process_of(path)
    assert process.inputs["dump"]["path"] == dump
    assert any(dump in note and "pid.4.dmp" in note for note in process.notes)
    # and the other way round: the map beside it has its own name, or the plain one
    for beside in (f"{name}.map", "pid.4.map"):
        os.rename(path, tmp_path / beside)
        path = str(tmp_path / beside)
        process = process_of(dump)
        assert process.inputs["map"]["path"] == path
        assert process.pid == 4


def test_of_several_renamed_dumps_none_is_guessed(tmp_path: Path) -> None:
    """Where two numbered dumps could be meant, none is taken; given one of them, that one is."""
    rows = written(LOW)
    one, other = (put(tmp_path / f"pid.4-{number}.dmp", dump_of(rows)) for number in (1, 2))
    path = put(tmp_path / "out.txt", maps.quick(rows))
    with memcarve.open(path) as container, pytest.raises(CounterpartError) as caught:
        container.process().space.read(0x1000, 1)
    assert "pid.4-1.dmp" in str(caught.value)
    assert "pid.4-2.dmp" in str(caught.value)
    for dump in (one, other):
        assert process_of(path, dump=dump).inputs["dump"]["path"] == dump


def test_both_may_be_given(tmp_path: Path) -> None:
    """Map and dump may lie anywhere when both are named, from either side."""
    rows = written(LOW)
    (tmp_path / "a").mkdir()
    dump = put(tmp_path / "a" / "strange", dump_of(rows))
    path = put(tmp_path / "other", maps.quick(rows))
    for process in (
        process_of(dump, memory_map=path),
        process_of(path, dump=dump),
        process_of(dump, memory_map=path, dump=dump),
    ):
        assert addresses(process) == of_rows(rows)
        assert process.inputs["dump"]["path"] == dump
        assert process.pid == 4


def test_rekall_writes_an_index_beside_its_dump(tmp_path: Path) -> None:
    """Rekall's index is found by the dump's name, and both names tell pid and process."""
    rows = written(LOW)
    dump = put(tmp_path / "explorer.exe_1234.dmp", dump_of(rows))
    index = put(tmp_path / "explorer.exe_1234.dmp.idx", maps.rekall_index(rows))
    for path in (dump, index):
        process = process_of(path)
        assert (process.pid, process.name) == (1234, "explorer.exe")
        assert addresses(process) == of_rows(rows)
        assert process.inputs["map"]["path"] == index


def test_a_dump_of_volatility_2_picks_its_process(tmp_path: Path) -> None:
    """With a dump and a map of several processes, the one that the dump's name tells is taken, and that is said."""
    one, other = written(LOW), written(SECOND)
    put(tmp_path / "4.dmp", dump_of(one))
    dump = put(tmp_path / "1234.dmp", dump_of(other))
    path = put(tmp_path / "all.txt", maps.volatility2([("System", 4, one), ("x.exe", 1234, other)]))
    process = process_of(dump, memory_map=path)
    assert (process.pid, process.name) == (1234, "x.exe")
    assert addresses(process) == of_rows(other)
    assert any("2 processes" in note for note in process.notes)


@pytest.mark.parametrize("name", ["pid.8.dmp", "pid.8-3.dmp"])
def test_a_dump_of_volatility_3_picks_its_process(name: str, tmp_path: Path) -> None:
    """The rows that name the dump, numbered or not, are taken from a map of several processes."""
    rows = [*written(LOW), *written(SECOND, "pid.8.dmp")]
    dump = put(tmp_path / name, dump_of(written(SECOND)))
    process = process_of(dump, memory_map=put(tmp_path / "all.txt", maps.quick(rows)))
    assert process.pid == 8
    assert addresses(process) == of_rows(written(SECOND))


def test_without_a_dump_there_are_segments_and_no_bytes(tmp_path: Path) -> None:
    """A map alone gives the segments; reading says which dump was looked for."""
    path = put(tmp_path / "out.txt", maps.quick(written(MIXED, failed=[1])))
    with memcarve.open(path) as container:
        process = container.process()
        assert addresses(process) == of_rows(written(MIXED, failed=[1]))
        with pytest.raises(CounterpartError, match=r"pid\.4\.dmp") as caught:
            process.space.read(0x1000, 1)
        assert str(caught.value).startswith(path)


@pytest.mark.parametrize("what", ["missing", "folder", "empty"])
def test_inputs_that_are_none_are_refused(what: str, tmp_path: Path) -> None:
    """A path that does not exist, a folder and an empty file are errors that begin with the path."""
    path = tmp_path / "x"
    if what == "folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    with pytest.raises(InputError) as caught:
        memcarve.open(path)
    assert str(caught.value).startswith(str(path))


def test_the_example_of_rows_is_what_is_claimed() -> None:
    """The ranges that these tests use are sorted, apart and of whole pages, so that what is expected is plain."""
    for ranges in (LOW, MIXED, SECOND):
        assert all(one[0] + one[1] <= other[0] for one, other in pairwise(ranges))
