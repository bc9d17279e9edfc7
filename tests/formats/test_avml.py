"""What AVML leaves out of a machine's memory: last bytes, blocks of zeros, and the bytes behind headers.

Expected values follow from how a file was put together, or from trying every way through it.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

import containers
from containers import AVML_BLOCK, PAGE, avml_header, lime_header
from memcarve.backing import FileBacking
from memcarve.errors import SourceReadError
from memcarve.formats.images import avml, lime
from memcarve.formats.images.machine import MachineMemory
from memcarve.images.physical import PhysicalMemory
from memcarve.intervals import Intervals
from memory import Memory, content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


SIZE = 3 * PAGE
FIRST, LAST = (0x1000, content(0x1000, SIZE)), (0x100000000, content(0x5000, SIZE))
#: of each format: its reader, a range with its bytes, and a header
FORMATS: dict[str, tuple[ModuleType, Callable[[int, bytes], bytes], Callable[[int, int], bytes]]] = {
    "LiME": (lime, lambda start, data: containers.lime([(start, data)]), lime_header),
    "AVML": (avml, lambda start, data: containers.avml([(start, data)]), avml_header),
    "AVML's magic, version 1": (
        avml,
        lambda start, data: containers.lime([(start, data)]).replace(b"EMiL", b"AVML", 1),
        lambda start, size: lime_header(start, size).replace(b"EMiL", b"AVML"),
    ),
}
each_format = pytest.mark.parametrize("name", FORMATS)


def read(reader: ModuleType, path: Path, data: bytes) -> MachineMemory:
    """Write a file and read it."""
    path.write_bytes(data)
    memory = reader.read(FileBacking(path))
    assert memory is not None
    return memory  # type: ignore[no-any-return]


def headers_of(path: Path, ranges: list[tuple[int, int]]) -> MachineMemory:
    """Read LiME of ranges (start, size), whose bytes are a hole of the file."""
    with open(path, "wb") as file:
        for start, size in ranges:
            file.write(lime_header(start, size))
            file.seek(size, 1)
        file.truncate()
    memory = lime.read(FileBacking(path))
    assert memory is not None
    return memory


def pairs(table: Intervals | None) -> list[tuple[int, int]]:
    """Return (start, size) of a table, sorted."""
    return sorted((start, end - start) for start, end in ([] if table is None else table.bounds()))


# whose ranges they are


@pytest.mark.parametrize("ranges", [
    [(0x1000, 0x9EFFF), (0x100000, 0x3FF00000 - 1), (0x100000000, 0xA0000000 - 1)],
    [(0x1000, 654335 - 0x1000)],  # as on machines whose memory ends within a page there
    [(0x1000, 0x9F000), (0x100000, 0x3FF00000 - 1)],  # /proc/kcore may end before the last byte
    [(0, 0x1234FFF), (0x1235000, 0x1000000)],
    [(0x100000, 175058967 - 0x100000), (175058968, 175067223 - 175058968), (175067224, 0x40000000 - 175067225)],
    [(0, AVML_BLOCK)],
    [(0, AVML_BLOCK), (3 * AVML_BLOCK, AVML_BLOCK), (4 * AVML_BLOCK, 0x10000)],
    [(0x100000, AVML_BLOCK), (0x1100000, AVML_BLOCK), (0x4100000, 0x5FFFFF)],
    [(0, AVML_BLOCK), (2 * AVML_BLOCK, AVML_BLOCK), (4 * AVML_BLOCK, 2 * AVML_BLOCK)],
])  # fmt: skip
def test_ranges_as_avml_cuts_them(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    """Ranges that lack their last byte, all or some, and blocks of 16 MiB do not tell which memory the machine has."""
    memory = headers_of(tmp_path / "image", ranges)
    assert (memory.declared, memory.kind, memory.notes) == (False, "LiME (AVML)", ())
    assert memory.gaps is not None
    assert "since 2026-05" in memory.gaps


@pytest.mark.parametrize("ranges", [
    [(0x1000, 0x9F000), (0x100000, 0x3FF00000), (0x100000000, 0xA0000000)],
    [(0x1000, 0x9FC00 - 0x1000), (0x100000, 0x7FF00000)],
    [(0, 2 * AVML_BLOCK)],
    [(0, AVML_BLOCK // 2)],
    [(0, PAGE), (0x10000, AVML_BLOCK), (0x40000000, 3 * AVML_BLOCK)],
    [(0x1000, 0x75)],
])  # fmt: skip
def test_ranges_of_others(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    """Other LiME tells which memory the machine has, also where a range is as large as a block, or ends in a page."""
    memory = headers_of(tmp_path / "image", ranges)
    assert (memory.declared, memory.kind, memory.gaps, memory.left_out) == (True, "LiME", None, None)


@pytest.mark.parametrize("name", ["AVML", "AVML's magic, version 1"])
def test_avml_never_tells(tmp_path: Path, name: str) -> None:
    """What bears AVML's own magic does not tell which memory the machine has, however its ranges are cut."""
    reader, ranged, _ = FORMATS[name]
    memory = read(reader, tmp_path / "image", ranged(*FIRST) + ranged(*LAST))
    assert (memory.declared, memory.kind) == (False, "AVML")
    assert memory.gaps is not None


def test_what_was_left_out(tmp_path: Path) -> None:
    """The last byte of ranges is memory for certain; so are holes of whole blocks behind a block, but a PC's hole."""
    low, high = 0x100000, 1 << 32
    ranges = [
        (0x1000, 0x9EFFF), (low, AVML_BLOCK), (low + 3 * AVML_BLOCK, AVML_BLOCK), (low + 4 * AVML_BLOCK, 0x5FFFFF),
        (high - 16 * AVML_BLOCK, AVML_BLOCK), (high, AVML_BLOCK), (high + AVML_BLOCK + PAGE, AVML_BLOCK),
    ]  # fmt: skip
    expected = [(0x9FFFF, 1), (low + AVML_BLOCK, 2 * AVML_BLOCK), (low + 4 * AVML_BLOCK + 0x5FFFFF, 1)]
    assert pairs(headers_of(tmp_path / "image", ranges).left_out) == expected


def test_what_was_left_out_of_avml(tmp_path: Path) -> None:
    """Of compressed ranges the same is known as of others; a block that is a header alone was not left out."""
    parts = [(0, bytes(AVML_BLOCK - 8) + b"content."), (AVML_BLOCK, bytes(AVML_BLOCK)), (4 * AVML_BLOCK, bytes(4095))]
    data = containers.avml(parts[:1]) + avml_header(*map(int, (parts[1][0], AVML_BLOCK))) + containers.avml(parts[2:])
    memory = read(avml, tmp_path / "image", data)
    assert pairs(memory.zeros) == [(AVML_BLOCK, AVML_BLOCK)]
    assert pairs(memory.left_out) == [(2 * AVML_BLOCK, 2 * AVML_BLOCK), (4 * AVML_BLOCK + 4095, 1)]


# headers with nothing behind them


def missing_of(memory: MachineMemory) -> list[tuple[int, int]]:
    """Return (start, size) of what is cut off."""
    return sorted(memory.cut_off)


@each_format
@pytest.mark.parametrize("sizes", [[AVML_BLOCK], [PAGE, AVML_BLOCK, 4095], [1 << 40]])
def test_a_header_alone_stands_for_zeros(tmp_path: Path, name: str, sizes: list[int]) -> None:
    """A header that the next one follows at once stands for zeros if all headers lead on to the end of the file."""
    reader, ranged, header = FORMATS[name]
    empty = [((index + 1) << 41, size) for index, size in enumerate(sizes)]
    data = ranged(*FIRST) + b"".join(header(*row) for row in empty) + ranged(*LAST)
    memory = read(reader, tmp_path / "image", data)
    assert pairs(memory.zeros) == empty
    assert memory.start.tolist() == [FIRST[0], LAST[0]]
    assert memory.size.tolist() == [SIZE, SIZE]
    assert missing_of(memory) == []
    (note,) = memory.notes
    assert f"({sum(sizes)} bytes)" in note
    assert not memory.declared
    physical = PhysicalMemory(memory)
    for start, size in empty:
        assert physical.read(start, 100) == physical.read(start + size - 100, 100) == bytes(100)
        assert physical.read(start + size - 100, 101) is None
    assert physical.read(FIRST[0], SIZE) == FIRST[1]
    assert physical.read(LAST[0], SIZE) == LAST[1]


@each_format
def test_a_header_alone_at_the_beginning(tmp_path: Path, name: str) -> None:
    """The first header may stand for zeros, too."""
    reader, ranged, header = FORMATS[name]
    memory = read(reader, tmp_path / "image", header(1 << 33, AVML_BLOCK) + ranged(*LAST))
    assert pairs(memory.zeros) == [(1 << 33, AVML_BLOCK)]
    assert memory.start.tolist() == [LAST[0]]


@each_format
def test_a_header_alone_at_the_end(tmp_path: Path, name: str) -> None:
    """With a header alone at its end a file was cut off there; those before stand for zeros as ever."""
    reader, ranged, header = FORMATS[name]
    data = ranged(*FIRST) + header(1 << 40, PAGE) + ranged(*LAST) + header(1 << 41, PAGE) + header(1 << 42, 3 * PAGE)
    memory = read(reader, tmp_path / "image", data)
    assert pairs(memory.zeros) == [(1 << 40, PAGE), (1 << 41, PAGE)]
    assert missing_of(memory) == [(1 << 42, 3 * PAGE)]
    assert memory.start.tolist() == [FIRST[0], LAST[0]]
    alone = read(reader, tmp_path / "alone", header(1 << 42, 3 * PAGE))
    assert (pairs(alone.zeros), missing_of(alone)) == ([], [(1 << 42, 3 * PAGE)])
    assert not PhysicalMemory(alone).declared


@each_format
@pytest.mark.parametrize("broken", ["rubbish", "cut in a range", "cut in a header", "damaged"])
def test_a_header_alone_before_a_break(tmp_path: Path, name: str, broken: str) -> None:
    """If what follows does not hold to the end of the file, a header alone stands for memory that is missing."""
    reader, ranged, header = FORMATS[name]
    data = ranged(*FIRST) + header(1 << 40, PAGE) + ranged(*LAST)
    last, more = 1 << 34, ranged(1 << 34, FIRST[1])
    data += {
        "rubbish": more + bytes(100),
        "cut in a range": more[: len(more) - 9 - 7],
        "cut in a header": more[:31],
        "damaged": b"evil" + more[4:],
    }[broken]
    memory = read(reader, tmp_path / "image", data)
    assert memory.zeros is None
    assert (1 << 40, PAGE) in missing_of(memory)
    assert {start for start, _ in missing_of(memory)} <= {1 << 40, *range(last, last + SIZE)}
    assert memory.start.tolist()[:2] == [FIRST[0], LAST[0]]
    physical = PhysicalMemory(memory)
    assert physical.read(FIRST[0], SIZE) == FIRST[1]
    assert physical.read(LAST[0], SIZE) == LAST[1]
    assert physical.read(1 << 40, 1) is None
    assert any("does not hold to its end" in note for note in memory.notes)


def test_a_large_header_alone_before_a_break(tmp_path: Path) -> None:
    """Where a header of more than AVML leaves alone has lost its bytes, nobody knows whose the following ones are."""
    data = containers.lime([FIRST]) + lime_header(1 << 40, AVML_BLOCK + 1) + containers.lime([LAST]) + bytes(100)
    memory = read(lime, tmp_path / "image", data)
    assert memory.start.tolist() == [FIRST[0]]
    assert missing_of(memory) == [(1 << 40, AVML_BLOCK + 1)]
    assert any(f"{SIZE + 32 + 100} bytes are not used" in note for note in memory.notes)


def test_memory_that_holds_headers(tmp_path: Path) -> None:
    """A header in the memory itself, even where a range begins, is content if the file's own ones lead to the end."""
    inner = containers.lime([(0x7000, b"inside"), (0x9000, b"another")]).ljust(2 * PAGE, b"\0")
    data = containers.lime([FIRST, (0x40000000, inner), LAST])
    memory = read(lime, tmp_path / "image", data)
    assert (pairs(memory.zeros), memory.declared) == ([], True)
    assert PhysicalMemory(memory).read(0x40000000, 2 * PAGE) == inner
    # in a last range that is cut off, too
    large = inner + bytes(AVML_BLOCK)
    memory = read(lime, tmp_path / "image", containers.lime([FIRST, (0x40000000, large)])[:-5])
    assert 0x7000 not in memory.start.tolist()


def ways(data: bytes, position: int = 0) -> list[tuple[tuple[int, bool], ...]]:
    """Return every way from header to header to the end, (position, whether it is alone), the usual ones first."""
    magic, version, first, last, _ = struct.unpack_from("<4sIQQQ", data.ljust(position + 32, b"\0"), position)
    if position + 32 > len(data) or (magic, version) != (b"EMiL", 1) or last < first - 1:
        return []
    size, found = last - first + 1, []
    for alone in (False, True) if size else (False,):
        after = position + 32 + (0 if alone else size)
        if after == len(data):
            found.append(((position, alone),))
        else:
            found += [((position, alone), *way) for way in ways(data, after)]
    return found


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 7, 32, 39, 64, 71, 96]), st.sampled_from(["", "", "bytes", "short", "x"])),
        min_size=1,
        max_size=8,
    )
)
@example([(32, ""), (32, ""), (32, ""), (7, "bytes")])
def test_the_usual_way_comes_first(tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, str]]) -> None:
    """Of all ways to the end of a file the one counts that takes bytes for those of the header before, if it can."""
    data = b""
    for index, (size, behind) in enumerate(parts):
        rest = {"": b"", "bytes": b"b" * size, "short": b"s" * (size // 2), "x": b"x"}[behind]
        data += lime_header(1 + index << 20, size) + rest
    memory = read(lime, tmp_path_factory.getbasetemp() / "ways.lime", data)
    found = ways(data)
    if not found:
        assert memory.zeros is None
        return
    rows = [(struct.unpack_from("<QQ", data, position + 8), position, alone) for position, alone in found[0]]
    last = len(data) - 32
    assert pairs(memory.zeros) == sorted(
        (first, end - first + 1) for (first, end), position, alone in rows if alone and position != last
    )
    assert list(zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True)) == [
        (first, end - first + 1, position + 32)
        for (first, end), position, alone in rows
        if not alone and end != first - 1
    ]


def test_more_ways_than_one_can_try(tmp_path: Path) -> None:
    """A file with more ways through it than anybody can try is read as far as its headers lead, in bounded time."""
    data = b"".join(lime_header(index << 20, 32) for index in range(2000)) + b"x"
    memory = read(lime, tmp_path / "image", data)
    assert memory.zeros is None
    assert memory.notes


# zeros that lie nowhere


def zeros_and(ranges: list[tuple[int, int]], zeros: list[tuple[int, int]], data: bytes) -> PhysicalMemory:
    """Return the physical memory of ranges, one after the other in `data`, and zeros."""
    offsets = np.cumsum([0, *(size for _, size in ranges)])[:-1].astype(np.uint64)
    table = np.array(ranges, np.uint64).reshape(-1, 2)
    claimed = Intervals.of(zeros)
    columns = table[:, 0], table[:, 1], offsets
    return PhysicalMemory(MachineMemory("test", Memory(data), *columns, [], declared=False, zeros=claimed))


def test_bytes_count_before_zeros() -> None:
    """Where a header alone claims what another range has bytes of, the bytes count, whichever comes first."""
    memory = zeros_and([(0x5000, PAGE)], [(0x4000, 3 * PAGE), (0x5800, 0x10)], content(0, PAGE))
    assert memory.read(0x4000, 3 * PAGE) == bytes(PAGE) + content(0, PAGE) + bytes(PAGE)
    assert (memory.total, memory.stored, memory.end) == (3 * PAGE, PAGE, 0x7000)


@pytest.mark.parametrize(
    "zeros", [(0, (1 << 64) - 1), ((1 << 52) - PAGE, 1 << 60), ((1 << 64) - 5, 5), (1 << 52, PAGE)]
)
def test_zeros_end_where_addresses_do(zeros: tuple[int, int]) -> None:
    """Zeros of any size are bounded by the highest physical address, and none lies beyond."""
    memory = zeros_and([(0x5000, PAGE)], [zeros], content(0, PAGE))
    there = zeros[0] < 1 << 52
    assert memory.end == (1 << 52 if there else 0x6000)
    assert (memory.read((1 << 52) - 1, 1) is not None) is there
    assert memory.read(1 << 52, 1) is None
    assert memory.stored == PAGE


def test_between_bytes_and_zeros() -> None:
    """Between the bytes of a file and the zeros behind them nothing can be read, and no range reaches across."""
    memory = zeros_and([(PAGE, PAGE)], [(0, PAGE)], content(0, PAGE))
    assert memory.start.tolist() == [0, PAGE]
    assert memory.read(0, 2 * PAGE) == bytes(PAGE) + content(0, PAGE)
    with pytest.raises(SourceReadError):
        memory.backing.read_into(PAGE - 1, memoryview(bytearray(2)))
    with pytest.raises(SourceReadError):
        memory.backing.read_into(memory.backing.size - 1, memoryview(bytearray(2)))


def test_random_zeros(tmp_path: Path) -> None:
    """Ranges with blocks of zeros in them read the same in every way in which AVML has written them."""
    chance = random.Random(5)  # noqa: S311
    parts = [bytes(PAGE) if chance.random() < 0.5 else chance.randbytes(PAGE) for _ in range(60)]
    parts[-1], parts[0] = chance.randbytes(PAGE), bytes(PAGE)
    ranges = [(0x10000, b"".join(parts[:40])), (1 << 34, b"".join(parts[40:]))]
    files = {
        lime: containers.lime_of_avml(ranges, block=PAGE, zeros="alone"),
        avml: containers.avml(ranges, block=PAGE, alone=True),
    }
    for reader, data in files.items():
        memory = PhysicalMemory(read(reader, tmp_path / "image", data))
        for start, whole in ranges:
            assert memory.read(start, len(whole)) == whole
        assert memory.total == 60 * PAGE
        assert memory.stored == sum(any(part) for part in parts) * PAGE
        memory.backing.close()
