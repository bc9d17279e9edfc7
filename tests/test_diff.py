"""Comparing two memories: every difference against a model that knows each address by itself, and the command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st

import memcarve
import winimage
from cli import Ran, invoke
from dumps import HEADER, map_rows, write_dump, write_several
from files import EXAMPLE
from memcarve import comparing
from memcarve.comparing import compare
from memcarve.errors import CounterpartError, UsageError
from memcarve.missing import CUT_OFF, NOT_WRITTEN, Missing
from memcarve.process import ProcessMemory, Selection
from memcarve.space import AddressSpace
from memory import PAGE, Memory, canonical, noise
from processes import metadata_of, page_region, process_of, process_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dumps import Piece
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]
    Pair = tuple[int, int]

TOP = 1 << 64


class Side(NamedTuple):
    """What one side holds: bytes by address, and addresses that are mapped but missing."""

    there: dict[int, int]
    missing: set[int]


class Expected(NamedTuple):
    """What must be told of a group."""

    was: list[Pair]
    now: list[Pair]
    added: int
    removed: int
    unknown: int
    changed: list[Pair]
    first: int | None


def runs(addresses: set[int] | Mapping[int, int]) -> list[Pair]:
    """Return the stretches of consecutive addresses, half-open."""
    found: list[Pair] = []
    for address in sorted(addresses):
        if found and found[-1][1] == address:
            found[-1] = found[-1][0], address + 1
        else:
            found.append((address, address + 1))
    return found


def by_address(was: Side, now: Side) -> list[Expected]:
    """Compare two sides address by address: neighbours belong together where one side holds them both."""
    groups: list[Pair] = []
    for address in sorted(was.there.keys() | now.there.keys()):
        if any(address - 1 in side.there and address in side.there for side in (was, now)):
            groups[-1] = groups[-1][0], address + 1
        else:
            groups.append((address, address + 1))
    segments = runs(was.there), runs(now.there)
    return [_expected(was, now, low, high, *segments) for low, high in groups]


def _expected(was: Side, now: Side, begin: int, end: int, ones: list[Pair], others: list[Pair]) -> Expected:
    added = removed = unknown = 0
    first, pages = None, set()
    for address in range(begin, end):
        one, other = was.there.get(address), now.there.get(address)
        if one is not None and other is not None:
            if one != other:
                first = address if first is None else first
                pages.add(address // PAGE)
        elif one is None:
            unknown += address in was.missing
            added += address not in was.missing
        else:
            unknown += address in now.missing
            removed += address not in now.missing
    inside = [[part for part in parts if begin <= part[0] < end] for parts in (ones, others)]
    changed = [(low * PAGE, high * PAGE) for low, high in runs(pages)]
    return Expected(inside[0], inside[1], added, removed, unknown, changed, first)


def told(found: Sequence[comparing.Difference]) -> list[Expected]:
    """Return differences in the model's terms."""
    return [
        Expected(
            [(part.start, part.end) for part in row.was],
            [(part.start, part.end) for part in row.now],
            row.added,
            row.removed,
            row.unknown,
            list(row.changed.bounds()),
            row.first_changed,
        )
        for row in found
    ]


def process(side: Side, order: Sequence[int] = (), cuts: Sequence[int] = (), **known: Any) -> ProcessMemory:
    """Return a process that holds a side: its extents are cut at `cuts`, and lie in the backing in `order`."""
    pieces = []
    for low, high in runs(side.there):
        places = [low, *(cut for cut in sorted(set(cuts)) if low < cut < high), high]
        pieces += list(itertools.pairwise(places))
    ranks = [order[number] if number < len(order) else number for number in range(len(pieces))]
    data, rows = b"", []
    for _, (low, high) in sorted(zip(ranks, pieces, strict=True)):
        rows.append((low, high - low, len(data)))
        data += bytes(side.there[address] for address in range(low, high))
    columns = (np.array([row[place] for row in rows], np.uint64) for place in range(3))
    gaps = [Missing(low, high - low, NOT_WRITTEN) for low, high in runs(side.missing)]
    return process_with(AddressSpace(*columns, Memory(data), gaps), **known)


THERE, ABSENT, MISSING = "there", "absent", "missing"
SIZES = st.sampled_from([1, 3, 100, 2048, PAGE, PAGE + 1, 2 * PAGE])
KINDS = st.sampled_from([THERE, THERE, THERE, ABSENT, MISSING])


@st.composite
def sides(draw: st.DrawFn) -> tuple[Side, Side, list[int]]:
    """Draw two sides, and addresses at which something begins."""
    cells = draw(
        st.lists(st.tuples(SIZES, KINDS, KINDS, st.sampled_from(["same", "first", "last", "all"])), max_size=9)
    )
    whole = sum(cell[0] for cell in cells)
    base = draw(st.sampled_from([0, 0x7FFE0123, 0xFFFF800000000000, TOP - whole]))
    was, now, places = Side({}, set()), Side({}, set()), []
    for number, (size, one, other, how) in enumerate(cells):
        data = noise(number, size)
        new = {
            "same": data,
            "first": bytes([data[0] ^ 1]) + data[1:],
            "last": data[:-1] + bytes([data[-1] ^ 1]),
            "all": bytes(byte ^ 0x80 for byte in data),
        }[how]
        places.append(base)
        for side, kind, content in ((was, one, data), (now, other, new)):
            if kind == THERE:
                side.there.update(zip(range(base, base + size), content, strict=True))
            elif kind == MISSING:
                side.missing.update(range(base, base + size))
        base += size
    return was, now, places


@given(
    both=sides(),
    orders=st.tuples(*[st.permutations(range(9)) for _ in range(2)]),
    cut=st.tuples(st.booleans(), st.booleans()),
    block=st.sampled_from([97, 1000, PAGE, 1 << 20]),
    extents=st.sampled_from([1, 2, 1 << 14]),
)
def test_against_the_model(
    both: tuple[Side, Side, list[int]],
    orders: tuple[list[int], list[int]],
    cut: tuple[bool, bool],
    block: int,
    extents: int,
) -> None:
    """All that is told of any two memories is what comparing them address by address gives."""
    was, now, places = both
    one, other = (
        process(side, order, places if cuts else ()) for side, order, cuts in zip((was, now), orders, cut, strict=True)
    )
    expected = by_address(was, now)
    done: list[Pair] = []
    with mock.patch.object(comparing, "_EXTENTS", extents):
        found = compare(one, other, unchanged=True, progress=lambda *args: done.append(args), block=block)
        assert told(list(found)) == expected
        only = compare(one, other, block=block)
        assert told(list(only)) == [row for row in expected if any(row[2:5]) or row.changed]
    common = len(was.there.keys() & now.there.keys())
    assert (len(found), found.bytes, len(only)) == (len(expected), common, len(expected))
    assert done == sorted(done)
    assert done[-1:] == ([(common, common)] if common else [])


def one(
    *parts: tuple[int, bytes], missing: Sequence[Pair] = (), reason: str = NOT_WRITTEN, **known: Any
) -> ProcessMemory:
    """Return a process of some stretches of memory."""
    data = b"".join(content for _, content in parts)
    sizes = [len(content) for _, content in parts]
    columns = [start for start, _ in parts], sizes, [sum(sizes[:number]) for number in range(len(sizes))]
    gaps = [Missing(start, size, reason) for start, size in missing]
    return process_with(AddressSpace(*(np.array(column, np.uint64) for column in columns), Memory(data), gaps), **known)


A, B, C = noise(1), noise(2), noise(3)


@pytest.mark.parametrize(
    ("was", "now", "states"),
    [
        (one(), one(), []),
        (one((0, A)), one((0, A)), ["unchanged"]),
        (one(), one((0, A)), ["appeared"]),
        (one((0, A)), one(), ["vanished"]),
        (one((0, A)), one((PAGE, A)), ["vanished", "appeared"]),
        (one((0, A)), one((0, B)), ["changed"]),
        (one((0, A)), one((0, A + B)), ["grown"]),
        (one((PAGE, A)), one((0, B + A)), ["grown"]),
        (one((0, A + B)), one((0, A)), ["shrunk"]),
        (one((0, A + B)), one((PAGE, B + C)), ["grown, shrunk"]),
        (one((0, A + B)), one((0, C + B + A)), ["grown, changed"]),
        (one((0, A + B + C)), one((0, A), (2 * PAGE, C)), ["shrunk"]),
        (one((0, A), (2 * PAGE, C)), one((0, A + B + C)), ["grown"]),
        (one((0, A)), one(missing=[(0, PAGE)]), ["unknown"]),
        (one(missing=[(0, PAGE)]), one((0, A)), ["unknown"]),
        (one((0, A + B)), one((0, A), missing=[(PAGE, PAGE)], reason=CUT_OFF), ["unknown"]),
        (one((0, A + B)), one(missing=[(PAGE, PAGE)]), ["vanished, unknown"]),
        (one(missing=[(PAGE, PAGE)]), one((0, A + B)), ["appeared, unknown"]),
        (one((0, A + B)), one((0, C), missing=[(PAGE, PAGE)]), ["changed, unknown"]),
        (one(missing=[(0, PAGE)]), one(missing=[(0, PAGE)]), []),
        (one(missing=[(0, PAGE)]), one(), []),
    ],
)  # fmt: skip
def test_states(was: ProcessMemory, now: ProcessMemory, states: list[str]) -> None:
    """Each state means what its word says; bytes that one side knows it lacks are neither gone nor new."""
    assert [row.state for row in compare(was, now, unchanged=True)] == states
    assert {word for row in states for word in row.split(", ")} <= set(comparing.STATES)


def test_split_and_merged() -> None:
    """Segments that became several are one difference, and so are several that became one; neighbours are not."""
    whole, parts = one((0, A + B + C)), one((0, A), (2 * PAGE, C), (3 * PAGE + 1, A))
    (split, new) = compare(whole, parts)
    assert [(part.start, part.size) for part in split.now] == [(0, PAGE), (2 * PAGE, PAGE)]
    assert [(part.start, part.size) for part in split.was] == [(0, 3 * PAGE)]
    assert (split.state, split.removed, split.added) == ("shrunk", PAGE, 0)
    assert (new.state, len(new.was), new.added) == ("appeared", 0, PAGE)
    (merged, gone) = compare(parts, whole)
    assert (merged.state, len(merged.was), len(merged.now), merged.added) == ("grown", 2, 1, PAGE)
    assert gone.state == "vanished"


def test_a_page_that_two_segments_share_is_counted_in_each() -> None:
    """Pages are those of memory: of two segments within one page, each has the page as changed, and has it once."""
    was, now = one((16, A[:16]), (64, B[:16])), one((16, C[:16]), (64, C[:16]))
    assert [
        (list(row.changed.bounds()), row.changed.total // PAGE, row.first_changed) for row in compare(was, now)
    ] == [
        ([(0, PAGE)], 1, 16),
        ([(0, PAGE)], 1, 64),
    ]


def test_the_top_of_the_address_space() -> None:
    """The last page that changed ends at 2**64."""
    (row,) = compare(one((TOP - PAGE, A)), one((TOP - PAGE, A[:-1] + b"\0")))
    assert list(row.changed.bounds()) == [(TOP - PAGE, TOP)]
    assert row.first_changed == TOP - 1


def test_scattered_pages_that_are_neighbours_in_the_dump_are_read_together() -> None:
    """A dump of scattered pages is read in large blocks, not page by page."""
    calls = []

    class Counting(Memory):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            calls.append(len(buffer))
            super().read_into(offset, buffer)

    numbers = np.arange(600, dtype=np.uint64)
    size, data = np.full(600, PAGE, np.uint64), noise(7, 600 * PAGE)
    sides = [
        ProcessMemory(AddressSpace(numbers * np.uint64(2 * PAGE), size, numbers * np.uint64(PAGE), Counting(data)))
        for _ in range(2)
    ]
    assert list(compare(*sides)) == []
    assert sum(calls) == 2 * len(data)
    assert len(calls) == 2 * 3


SELECTIONS = st.builds(
    Selection,
    half=st.sampled_from([None, "all", "user", "kernel"]),
    address=st.lists(st.tuples(st.integers(0, 24 * PAGE), st.integers(1, 2 * PAGE)), max_size=2).map(
        lambda pairs: tuple((low, low + size) for low, size in pairs)
    ),
    min_size=st.none() | st.integers(0, 6 * PAGE),
    max_size=st.none() | st.integers(0, 6 * PAGE),
)


@given(both=sides(), selection=SELECTIONS)
def test_selections(both: tuple[Side, Side, list[int]], selection: Selection) -> None:
    """A selection takes or leaves a group by all its addresses, from the first to the last."""
    was, now, _ = both
    base = min(was.there.keys() | now.there.keys() | {TOP - 1})
    selection = selection._replace(address=[(base + low, base + high) for low, high in selection.address])
    half = {"user": 0, "kernel": 1}.get(selection.half or "all")

    def wanted(row: Expected) -> bool:
        low, high = min(row.was + row.now)[0], max(end for _, end in row.was + row.now)
        return (
            (half is None or low >> 63 == half)
            and (not selection.address or any(start < high and low < end for start, end in selection.address))
            and (selection.min_size is None or high - low >= selection.min_size)
            and (selection.max_size is None or high - low <= selection.max_size)
        )

    expected = [row for row in by_address(was, now) if wanted(row)]
    found = compare(process(was), process(now), selection, unchanged=True)
    assert told(list(found)) == expected
    both_hold = [set(range(low, high)) for row in expected for low, high in row.was]
    assert found.bytes == len(set().union(*both_hold) & was.there.keys() & now.there.keys())


def test_choosing_by_labels() -> None:
    """Groups are chosen by what is known of a segment on either side; where neither side knows anything, it is said."""
    regions = [page_region(1, 1, "PAGE_READWRITE", kind="private"), page_region(5, 2, "PAGE_READONLY", kind="mapped")]
    before = process_of([1, 5, 9], metadata_of(regions))
    after = process_of([1, 6, 9, 20], contents={1: b"other"})
    labelling = memcarve.Labelling()

    def states(**labels: Sequence[str]) -> list[tuple[int, str]]:
        found = compare(before, after, Selection(**labels), labeller=labelling)
        return [((one.was if len(one.was) else one.now)[0].start // 4096, one.state) for one in found]

    assert states() == [(1, "changed"), (5, "vanished"), (6, "appeared"), (20, "appeared")]
    assert states(kind=["private"]) == [(1, "changed")]
    assert states(kind=["mapped", "private"]) == [(1, "changed"), (5, "vanished")]
    assert compare(before, after, Selection(kind=["private"]), labeller=labelling).bytes == 4096
    with pytest.raises(UsageError, match="must be labelled"):
        compare(before, after, Selection(kind=["private"]))
    with pytest.raises(UsageError, match="nothing is known"):
        compare(after, after, Selection(kind=["private"]), labeller=labelling)


@pytest.mark.parametrize(
    ("one_half", "other_half", "given_range", "found"),
    [
        ("all", "all", None, 2),
        ("user", "all", None, 1),
        ("all", "kernel", None, 1),
        ("user", "user", None, 1),
        ("user", "kernel", None, 2),
        ("user", "all", "all", 2),
    ],
)
def test_half(one_half: str, other_half: str, given_range: str | None, found: int) -> None:
    """Where only one half of a side was looked at, the other half is not compared unless it is asked for."""
    was, now = one((0, A), half=one_half), one((0, B), (TOP - PAGE, A), half=other_half)
    assert len(list(compare(was, now, Selection(given_range)))) == found


def test_dump_that_is_not_at_hand(tmp_path: Path) -> None:
    """Bytes that lie in a dump that is not there cannot be compared, and the error says which dump it is."""
    dump = write_dump(tmp_path, [(0x1000, A)])
    with memcarve.open(dump) as there:
        was = there.process()
        dump.rename(tmp_path / "else.bin")
        with memcarve.open(dump.with_suffix(".map")) as absent, pytest.raises(CounterpartError, match=r"pid\.4\.dmp"):
            list(compare(was, absent.process()))


# the command


def printed(ran: Ran, code: int = 0) -> list[dict[str, Any]]:
    """Return what was printed as JSON lines."""
    assert ran.code == code, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def summary(ran: Ran) -> str:
    """Return the last line of what was said."""
    return ran.err.splitlines()[-1]


def place(address: int) -> str:
    """Return an address as it is printed."""
    return f"0x{address:016x}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the example with its map, in a folder of its own."""
    (tmp_path / "copy").mkdir()
    for suffix in (".dmp", ".map"):
        shutil.copy(EXAMPLE.with_suffix(suffix), tmp_path / "copy" / f"pid.1624{suffix}")
    return tmp_path / "copy" / "pid.1624.dmp"


TRUTH = json.loads((EXAMPLE.parent / "truth.json").read_text())


def test_one_byte_of_a_dump(capfdbinary: Capture, copy: Path) -> None:
    """One byte that changed is told with its address, its page and its segment, in every format alike."""
    address, size, offset, _ = max(TRUTH["segments"], key=lambda segment: segment[1])
    data = bytearray(copy.read_bytes())
    data[offset + PAGE + 5] ^= 1
    copy.write_bytes(data)
    ran = invoke(capfdbinary, "diff", EXAMPLE, copy, "--format", "jsonl")
    start, end = canonical(address), canonical(address) + size
    bounds = [{"start": place(start), "end": place(end)}]
    (row,) = printed(ran)
    plain = {
        "state": "changed",
        "start": place(start),
        "end": place(end),
        "size": size,
        "segments": 1,
        "was_start": place(start),
        "was_end": place(end),
        "was_size": size,
        "was_segments": 1,
        "added": 0,
        "removed": 0,
        "unknown": 0,
        "changed_pages": 1,
        "first_changed": place(start + PAGE + 5),
    }
    changed = {"start": place(start + PAGE), "end": place(start + 2 * PAGE)}
    assert row == {**plain, "now": bounds, "was": bounds, "changed": [changed]}
    count = len(TRUTH["segments"]) - 1
    assert summary(ran) == f"1 changed; {count} unchanged; 1 page changed of {len(data)} bytes"
    document = json.loads(invoke(capfdbinary, "diff", EXAMPLE, copy, "--format", "json").out)
    assert document == {"schema": 1, "differences": [row]}
    (line,) = csv.DictReader(io.StringIO(invoke(capfdbinary, "diff", EXAMPLE, copy, "--format", "csv").out.decode()))
    assert line == {name: str(value) for name, value in plain.items()}
    table = invoke(capfdbinary, "diff", EXAMPLE, copy).out.decode().splitlines()
    assert len(table) == 2
    assert {"changed", row["start"], row["end"], row["first_changed"]} <= set(table[1].split())
    pages = printed(invoke(capfdbinary, "diff", EXAMPLE, copy, "--changed-pages", "--format", "jsonl"))
    assert pages == [{**changed, "size": PAGE, "segment": place(start)}]


def test_parquet(capfdbinary: Capture, copy: Path) -> None:
    """Parquet holds the same columns, but for lists."""
    pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415

    copy.write_bytes(bytes(copy.stat().st_size))
    ran = invoke(capfdbinary, "diff", EXAMPLE, copy, "--format", "parquet")
    rows = printed(invoke(capfdbinary, "diff", EXAMPLE, copy, "--format", "jsonl"))
    found = parquet.read_table(io.BytesIO(ran.out)).to_pylist()
    assert [row["state"] for row in found] == [row["state"] for row in rows]
    assert [place(row["first_changed"]) for row in found] == [row["first_changed"] for row in rows]
    assert not {"now", "was", "changed"} & found[0].keys()


OLD: list[Piece] = [(0x10000, A + B), (0x20000, A), (0x30000, B), (0x40000, A + B + C), (0x60000, C)]
NEW: list[Piece] = [(0x10000, A + B + C), (0x30000, B), (0x40000, A), (0x42000, C), (0x50000, B), (0x60000, A)]
#: state, start, end, was_start, was_end, split
TOLD = [
    ("grown", 0x10000, 0x13000, 0x10000, 0x12000, None),
    ("vanished", None, None, 0x20000, 0x21000, None),
    ("shrunk", 0x40000, 0x43000, 0x40000, 0x43000, "1 -> 2"),
    ("appeared", 0x50000, 0x51000, None, None, None),
    ("changed", 0x60000, 0x61000, 0x60000, 0x61000, None),
]


def two(folder: Path) -> tuple[Path, Path]:
    """Write a dump from before and one from after."""
    paths = []
    for name, rows in (("before", OLD), ("after", NEW)):
        (folder / name).mkdir()
        paths.append(write_dump(folder / name, rows))
    return paths[0], paths[1]


def test_pages_and_segments_that_come_and_go(capfdbinary: Capture, tmp_path: Path) -> None:
    """What appeared, vanished, grew, shrank and changed is told in order of addresses, and what did not is counted."""
    was, now = two(tmp_path)
    ran = invoke(capfdbinary, "diff", was, now, "--format", "jsonl")
    shown = [tuple(row[name] for name in ("state", "start", "end", "was_start", "was_end")) for row in printed(ran)]
    assert shown == [(row[0], *(None if cell is None else place(cell) for cell in row[1:5])) for row in TOLD]
    assert summary(ran) == (
        "1 grown; 1 vanished; 1 shrunk; 1 appeared; 1 changed; 1 unchanged; 1 page changed of 24576 bytes"
    )
    table = [line.split("  ") for line in invoke(capfdbinary, "diff", was, now).out.decode().splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert cells[0][5] == "split"
    assert [line[5] for line in cells[1:]] == [row[5] or "-" for row in TOLD]
    every = printed(invoke(capfdbinary, "diff", was, now, "--unchanged", "--format", "jsonl"))
    assert [row["state"] for row in every] == ["grown", "vanished", "unchanged", "shrunk", "appeared", "changed"]


def test_filters(capfdbinary: Capture, tmp_path: Path) -> None:
    """--address and --range leave out the rest, also of what is counted."""
    was, now = two(tmp_path)
    ran = invoke(capfdbinary, "diff", was, now, "--address", "0x20fff-0x40001", "--format", "jsonl")
    assert [row["state"] for row in printed(ran)] == ["vanished", "shrunk"]
    assert summary(ran) == "1 vanished; 1 shrunk; 1 unchanged; 0 pages changed of 12288 bytes"
    ran = invoke(capfdbinary, "diff", was, now, "--range", "kernel", "--format", "json")
    assert json.loads(ran.out)["differences"] == []
    assert summary(ran) == "0 unchanged; 0 pages changed of 0 bytes"


def test_dump_and_folder(capfdbinary: Capture, tmp_path: Path) -> None:
    """A folder compares as the dump it was carved from, on either side; two folders as the two dumps."""
    was, now = two(tmp_path)
    for path in (was, now):
        assert invoke(capfdbinary, "carve", path, "-o", path.with_suffix(".segments")).code == 0
    expected = printed(invoke(capfdbinary, "diff", was, now, "--format", "jsonl"))
    for one_side in (was, was.with_suffix(".segments")):
        for other in (now, now.with_suffix(".segments")):
            assert printed(invoke(capfdbinary, "diff", one_side, other, "--format", "jsonl")) == expected
        assert printed(invoke(capfdbinary, "diff", was, one_side, "--format", "jsonl")) == []


def test_left_out_of_a_folder(capfdbinary: Capture, tmp_path: Path) -> None:
    """Of a folder that holds the user half only, that half is compared; what else was left out is said."""
    dump = write_dump(tmp_path, [(0x1000, A), (0x5000, B + C), (0xF80000000000, C)])
    for name, options in (("half", ["--range", "user"]), ("large", ["--min-size", "0x2000"])):
        assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / name, *options).code == 0
    assert printed(invoke(capfdbinary, "diff", dump, tmp_path / "half", "--format", "jsonl")) == []
    ran = invoke(capfdbinary, "diff", dump, tmp_path / "large", "--format", "jsonl")
    assert [row["state"] for row in printed(ran)] == ["vanished", "vanished"]
    assert "note: 8192 bytes were left out when it was carved: below --min-size" in ran.err


def test_missing_bytes(capfdbinary: Capture, tmp_path: Path) -> None:
    """Bytes that are known to be missing end with status 3, and are not told as gone."""
    was, now = two(tmp_path)
    (now.with_suffix(".map")).write_text(HEADER + map_rows([*NEW, (0x20000, PAGE)], "pid.4.dmp"))
    ran = invoke(capfdbinary, "diff", was, now, "--format", "jsonl")
    (row,) = [row for row in printed(ran, 3) if row["was_start"] == place(0x20000)]
    assert (row["state"], row["unknown"], row["removed"], row["start"]) == ("unknown", PAGE, 0, None)
    assert invoke(capfdbinary, "diff", was, was, "-q") == (0, invoke(capfdbinary, "diff", was, was).out, "")


def test_several_processes(capfdbinary: Capture, tmp_path: Path) -> None:
    """--pid and --name choose on both sides, --other-pid on the second; two ids are remarked upon."""
    table = write_several(tmp_path, {4: OLD, 8: NEW})
    assert printed(invoke(capfdbinary, "diff", table, table, "--pid", "4", "--format", "jsonl")) == []
    ran = invoke(capfdbinary, "diff", table, table, "--pid", "4", "--other-pid", "8", "--format", "jsonl")
    assert [row["state"] for row in printed(ran)] == [row[0] for row in TOLD]
    assert "note: 4 is compared with 8\n" in ran.err
    assert invoke(capfdbinary, "diff", table, table).code == 2
    assert invoke(capfdbinary, "diff", table, table, "--pid", "4", "--other-pid", "5").code == 1
    assert invoke(capfdbinary, "diff", table).code == 2


def test_wrong_inputs(capfdbinary: Capture, tmp_path: Path) -> None:
    """What cannot be opened ends with one line that names it."""
    was, _ = two(tmp_path)
    for path in (tmp_path / "nothing", tmp_path):
        ran = invoke(capfdbinary, "diff", was, path)
        assert (ran.code, ran.out) == (1, b"")
        assert ran.err.startswith(f"memcarve: {path}: ")
        assert ran.err.count("\n") == 1


# images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, Path, int]:
    """Return an image, and one in which a byte differs of process 1624, and the byte's address."""
    folder = tmp_path_factory.mktemp("images")
    truth = winimage.build(folder / "before.raw")
    address, _, physical, *_ = next(item for item in truth.process(1624).user.items() if item[2] < truth.size)
    data = bytearray((folder / "before.raw").read_bytes())
    data[physical + 17] ^= 0xFF
    (folder / "after.raw").write_bytes(data)
    return truth, folder / "after.raw", address + 17


def test_one_process_in_two_images(capfdbinary: Capture, images: tuple[Truth, Path, int]) -> None:
    """A process in two images differs where a byte of one of its pages does; its user half is compared."""
    truth, after, address = images
    ran = invoke(capfdbinary, "diff", truth.path, after, "--pid", "1624", "--os", "windows", "--format", "jsonl")
    (row,) = printed(ran)
    page = address // PAGE * PAGE
    assert (row["state"], row["first_changed"]) == ("changed", place(address))
    assert {"start": place(page), "end": place(page + PAGE)} in row["changed"]
    user = sum(size for _, size, _ in truth.segments(1624, "user"))
    assert summary(ran).endswith(f" of {user} bytes")


def test_image_and_folder(capfdbinary: Capture, images: tuple[Truth, Path, int], tmp_path: Path) -> None:
    """A folder carved from an image compares as the image does, and no half that was not looked at has vanished."""
    truth, after, address = images
    assert invoke(capfdbinary, "carve", truth.path, "--pid", "1624", "-o", tmp_path / "user").code == 0
    expected = invoke(capfdbinary, "diff", truth.path, after, "--pid", "1624", "--format", "jsonl")
    ran = invoke(capfdbinary, "diff", tmp_path / "user", after, "--pid", "1624", "--format", "jsonl")
    assert printed(ran) == printed(expected)
    assert [row["first_changed"] for row in printed(ran)] == [place(address)]
    assert summary(ran) == summary(expected)
    assert invoke(capfdbinary, "carve", after, "--pid", "1624", "--range", "all", "-o", tmp_path / "all").code == 0
    ran = invoke(capfdbinary, "diff", tmp_path / "user", tmp_path / "all", "--format", "jsonl")
    assert (printed(ran), summary(ran)) == (printed(expected), summary(expected))


def test_two_processes_of_an_image(capfdbinary: Capture, images: tuple[Truth, Path, int]) -> None:
    """Processes that were created at different times are two, and that is said."""
    path = images[0].path
    ran = invoke(capfdbinary, "diff", path, path, "--pid", "388", "--other-pid", "1624", "-q", "--format", "jsonl")
    assert (ran.code, ran.err) == (0, "")
    ran = invoke(capfdbinary, "diff", path, path, "--pid", "388", "--other-pid", "1624", "--format", "jsonl")
    assert "were created at different times: they are two processes" in ran.err
