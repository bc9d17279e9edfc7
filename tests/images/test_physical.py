"""Physical memory as a table of ranges, against a model that knows of every byte where it lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st

from memcarve.errors import InputError
from memcarve.formats.images.machine import MachineMemory
from memcarve.images import physical, physical_scan
from memcarve.images.physical import PhysicalMemory
from memcarve.images.physical_scan import everything, words_of
from memcarve.images.windows.kernel import find_tables
from memory import Memory, noise

PAGE = 4096
#: where random ranges begin: low, around 2**32, at the highest addresses a processor has
BASES = (0, (1 << 32) - 0x40, (1 << 52) - 0x80)


class Model(NamedTuple):
    """Physical memory, and where each of its bytes lies in the backing; `cut` are addresses that were cut off."""

    memory: PhysicalMemory
    place: dict[int, int]
    data: bytes
    cut: set[int]

    def ranges(self) -> list[tuple[int, int, int]]:
        """Return maximal ranges, (start, size, offset), in which both addresses and places go on."""
        rows: list[tuple[int, int, int]] = []
        for address in sorted(self.place):
            start, size, offset = rows[-1] if rows else (0, 0, 0)
            if size and (start + size, offset + size) == (address, self.place[address]):
                rows[-1] = (start, size + 1, offset)
            else:
                rows.append((address, 1, self.place[address]))
        return rows


def memory_of(
    rows: list[tuple[int, int, int]], data: bytes, cut: list[tuple[int, int]] | None = None
) -> PhysicalMemory:
    """Return physical memory of ranges, (start, size, offset), over bytes."""
    table = np.array(rows, np.uint64).reshape(-1, 3)
    columns = (table[:, number].copy() for number in range(3))
    return PhysicalMemory(MachineMemory("test", Memory(data), *columns, cut or [], declared=True))


def column(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return a column of numbers."""
    return np.array(values, np.uint64)


spots = st.builds(lambda base, more: base + more, st.sampled_from(BASES), st.integers(0, 0x7F))


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw ranges that overlap or touch each other, in any order; some continue the one before in every way."""
    data = noise(3, 256)
    rows: list[tuple[int, int, int]] = []
    place: dict[int, int] = {}
    for _ in range(draw(st.integers(0, 6))):
        if rows and draw(st.booleans()):
            start, offset = rows[-1][0] + rows[-1][1], rows[-1][2] + rows[-1][1]
            offset = draw(st.sampled_from([offset, 7]))
        else:
            start, offset = draw(spots), draw(st.integers(0, 255))
        size = draw(st.integers(1, 48))
        if offset + size <= len(data):
            rows.append((start, size, offset))
            for index in range(size):
                place.setdefault(start + index, offset + index)
    cut = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 80)), max_size=4))
    gone = {start + index for start, size in cut for index in range(size)}
    return Model(memory_of(rows, data, cut), place, data, gone)


@given(model=models())
def test_ranges(model: Model) -> None:
    """The table is sorted and disjoint, as few rows as can be, and of two claims the first one listed counts."""
    memory = model.memory
    rows = list(zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True))
    assert rows == model.ranges()
    assert memory.total == len(model.place)
    assert memory.end == max(model.place, default=-1) + 1


@given(model=models(), start=spots, size=st.integers(0, 64))
def test_read(model: Model, start: int, size: int) -> None:
    """A read returns every byte that was asked for, across ranges, or nothing."""
    wanted = range(start, start + size)
    whole = all(address in model.place for address in wanted)
    expected = bytes(model.data[model.place[address]] for address in wanted) if whole else None
    assert model.memory.read(start, size) == expected


@given(model=models(), starts=st.lists(spots, max_size=8), size=st.integers(1, 48))
def test_holds(model: Model, starts: list[int], size: int) -> None:
    """Memory holds what is there to the last byte, in one range or in several that continue each other."""
    expected = [all(address in model.place for address in range(at, at + size)) for at in starts]
    assert model.memory.holds(column(*starts), size).tolist() == expected


@given(model=models(), stretches=st.lists(st.tuples(spots, st.integers(1, 200)), max_size=6))
def test_place(model: Model, stretches: list[tuple[int, int]]) -> None:
    """Each byte of a stretch is placed where it lies, or is outside, in no more pieces than there are ranges."""
    begins = [0xFFFF << 48 | index << 16 for index in range(len(stretches))]
    flags = [index % 8 for index in range(len(stretches))]
    sizes, physicals = [size for _, size in stretches], [start for start, _ in stretches]
    placed, outside = model.memory.place(column(*begins), column(*sizes), column(*physicals), np.array(flags, np.uint8))
    inside, gone, pieces = [], [], 0
    for begin, size, first, flag in zip(begins, sizes, physicals, flags, strict=True):
        for index in range(size):
            if first + index in model.place:
                inside.append((begin + index, first + index, model.place[first + index], flag))
            else:
                gone.append((begin + index, first + index))
        pieces += sum(low < first + size and first < low + length for low, length, _ in model.ranges())
    rows = list(zip(*(part.tolist() for part in placed.columns), strict=True))
    assert [
        (start + index, at + index, offset + index, flag)
        for start, size, at, offset, flag in rows
        for index in range(size)
    ] == inside
    assert len(rows) == pieces
    columns = outside.start.tolist(), outside.size.tolist(), outside.physical.tolist()
    rows = list(zip(*columns, strict=True))
    assert [(start + index, at + index) for start, size, at in rows for index in range(size)] == gone
    assert all(size for _, size, _ in rows)


@given(model=models(), stretches=st.lists(st.tuples(spots, st.integers(1, 48)), max_size=6))
def test_was_cut(model: Model, stretches: list[tuple[int, int]]) -> None:
    """A stretch was cut if any byte of it is one that the container should hold and does not."""
    expected = [any(at + index in model.cut for index in range(size)) for at, size in stretches]
    found = model.memory.was_cut(column(*(at for at, _ in stretches)), column(*(size for _, size in stretches)))
    assert found.tolist() == expected


def test_cut_inside_cut() -> None:
    """Where a container lists bytes twice and ends before them, all of them were cut, and are counted once."""
    memory = memory_of([(0, 16, 0)], bytes(16), [(16, 100), (20, 4)])
    assert memory.was_cut(column(0, 16, 22, 50, 115, 116), column(16, 1, 1, 1, 1, 1)).tolist() == [
        False, True, True, True, True, False,
    ]  # fmt: skip
    assert not any("104 bytes" in note for note in memory.notes)


@given(
    order=st.permutations(range(6)), gaps=st.lists(st.integers(0, 1), min_size=6, max_size=6),
    wanted=st.lists(st.integers(0, 11), max_size=12),
)  # fmt: skip
def test_pages(order: list[int], gaps: list[int], wanted: list[int]) -> None:
    """Pages are returned in the order in which they are asked for, as often as they are, wherever they lie."""
    data, rows, start, content = noise(7, 12 * PAGE), [], 0x7000, {}
    for gap, part in zip(gaps, order, strict=True):
        start += gap * PAGE
        rows.append((start, 2 * PAGE, part * 2 * PAGE))
        for page in range(2):
            content[start + page * PAGE] = data[(part * 2 + page) * PAGE :][:PAGE]
        start += 2 * PAGE
    addresses = [sorted(content)[index] for index in wanted]
    pages = memory_of(rows, data).pages(column(*addresses))
    assert pages.shape == (len(wanted), 512)
    assert [page.tobytes() for page in pages] == [content[address] for address in addresses]


def pages_of_model(model: Model) -> dict[int, list[int | None]]:
    """Return every page of which a byte is there, byte by byte: None for what is not."""
    numbers = sorted({address // PAGE for address in model.place})
    wanted = {number * PAGE: range(number * PAGE, (number + 1) * PAGE) for number in numbers}
    return {
        page: [model.data[model.place[at]] if at in model.place else None for at in addresses]
        for page, addresses in wanted.items()
    }


@given(model=models())
def test_everything(model: Model) -> None:
    """Whoever looks through all of memory sees each page once of which a byte is there; what is not, is zero."""
    buffer, found = np.zeros(physical_scan.BLOCK, np.uint8), dict[int, bytes]()
    for block in everything(model.memory):
        words = words_of(model.memory, block, buffer)
        for address, page in zip(block.physical.tolist(), words, strict=True):
            assert found.setdefault(address, page.tobytes()) == page.tobytes()
    assert list(found) == sorted(found)
    assert found == {page: bytes(byte or 0 for byte in data) for page, data in pages_of_model(model).items()}


@given(model=models(), width=st.sampled_from([4, 8]), size=st.sampled_from([32, PAGE]), data=st.data())
def test_tables_in_part(model: Model, width: int, size: int, data: st.DataObject) -> None:
    """A table is there if more than half of its entries are, and it is known which of its bytes are not."""
    start = data.draw(spots) // size * size
    page = pages_of_model(model).get(start // PAGE * PAGE, [None] * PAGE)
    table = page[start % PAGE :][:size]
    there = [None not in table[at : at + width] for at in range(0, size, width)]
    memory = model.memory
    assert memory.holds_tables(column(start), size, width).tolist() == [2 * sum(there) > len(there)]
    assert memory.peek(start, size) == bytes(byte or 0 for byte in table)
    if start // PAGE * PAGE in memory.seams.tolist():
        assert memory.part(start, size)[0] == memory.peek(start, size)
        assert memory.part(start, size)[1].tolist() == [byte is not None for byte in table]


def test_pages_in_part_among_others() -> None:
    """Pages that lie in several ranges, or lack bytes, are returned among whole ones, in the order asked for."""
    data = noise(5, 6 * PAGE)
    rows = [(0, PAGE + 7, 0), (PAGE + 8, 2 * PAGE - 8, PAGE + 8), (3 * PAGE, PAGE, 3 * PAGE + 1), (4 * PAGE, 9, 4096)]
    memory = memory_of(rows, data)
    second = bytearray(data[PAGE : 2 * PAGE])
    second[7] = 0
    content = [data[:PAGE], bytes(second), data[2 * PAGE : 3 * PAGE], data[3 * PAGE + 1 :][:PAGE]]
    content.append(data[4096 : 4096 + 9].ljust(PAGE, b"\0"))
    assert memory.seams.tolist() == [PAGE, 4 * PAGE]
    wanted = [4, 1, 0, 3, 1, 2, 4]
    pages = memory.pages(column(*(number * PAGE for number in wanted)))
    assert [page.tobytes() for page in pages] == [content[number] for number in wanted]


def test_too_many_pages_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """If more pages than on any machine lie in several ranges, or lack bytes, nothing is done for them, with a note."""
    monkeypatch.setattr(physical, "_MOST_SEAMS", 3)
    for count in (3, 4):
        memory = memory_of([(index * 2 * PAGE, PAGE - 1, index * PAGE) for index in range(count)], bytes(4 * PAGE))
        assert memory.holds_tables(column(0)).tolist() == [count == 3]
        assert [("in part" in note) for note in memory.notes] == [True] * (count - 3)
        assert memory.pages(column(0)).tolist() == [[0] * 512]


def test_nothing() -> None:
    """A machine without memory has no pages, and no end but 0."""
    memory = memory_of([], b"")
    assert (memory.total, memory.end, memory.read(0, 1), memory.read(5, 0)) == (0, 0, None, b"")
    assert memory.holds(column(0, 5), 1).tolist() == [False, False]
    placed, outside = memory.place(column(5), column(7), column(9), np.zeros(1, np.uint8))
    assert len(placed.start) == 0
    assert [part.tolist() for part in (outside.start, outside.size, outside.physical)] == [[5], [7], [9]]
    assert memory.was_cut(column(0), column(1)).tolist() == [False]


@pytest.mark.parametrize(("rows", "noted"), [
    ([(0, 16, 0), (16, 16, 16)], False),
    ([(0, 16, 0), (0, 16, 16)], True),
    ([(0, 16, 0), (8, 16, 16)], True),
    ([(8, 16, 0), (0, 16, 16)], True),
    ([(8, 4, 0), (0, 16, 16)], True),
])  # fmt: skip
def test_overlaps_are_said(rows: list[tuple[int, int, int]], noted: bool) -> None:  # noqa: FBT001 - a parameter
    """Where a container claims an address twice there is a note, even if no range is lost whole."""
    assert any("twice" in note for note in memory_of(rows, bytes(32)).notes) is noted


def test_too_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges so small that splitting pages at them makes too many pieces are an error."""
    monkeypatch.setattr(physical, "_MOST_PIECES", 10)
    memory = memory_of([(2 * index, 1, index) for index in range(12)], bytes(12))
    memory.place(column(0), column(20), column(0), np.zeros(1, np.uint8))
    with pytest.raises(InputError, match="pieces"):
        memory.place(column(0), column(24), column(0), np.zeros(1, np.uint8))


def test_a_page_of_zeros_is_no_kernels() -> None:
    """A page of zeros may not be a kernel's page tables, the one at 0 neither; a page with a self-map may."""
    data = bytearray(4 * PAGE)
    assert list(find_tables(memory_of([(0, len(data), 0)], bytes(data)))) == []
    data[2 * PAGE + 8 * 300 : 2 * PAGE + 8 * 301] = (2 * PAGE | 0x63).to_bytes(8, "little")
    (found,) = find_tables(memory_of([(0, len(data), 0)], bytes(data)))
    assert (found[0].root, found[1].major) == (2 * PAGE, 0)
