"""Compressed kernel dumps: what makedumpfile and QEMU write is read back; what they leave out, or lack, is said.

The real ones are made here by QEMU and makedumpfile, if they are installed.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

import containers
from containers import PAGE
from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats.images import decoded_pages, flattened, kdump
from memcarve.images.physical import PhysicalMemory
from memory import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memcarve.formats.images.machine import MachineMemory

#: two pages, a page of zeros, a hole, another page
RANGES = [(0x1000, content(0x1000, 2 * PAGE)), (0x9000, bytes(PAGE)), (0x40000, content(0x77, PAGE))]
INFO = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"


def read(path: Path, data: bytes) -> MachineMemory:
    """Read a dump, flattened or not."""
    path.write_bytes(data)
    file = FileBacking(path)
    memory = kdump.read(file) or flattened.read(file)
    assert memory is not None
    return memory


def rows(memory: MachineMemory) -> list[tuple[int, int]]:
    """Return the ranges that are stored."""
    return list(zip(memory.start.tolist(), memory.size.tolist(), strict=True))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("version", range(7))
def test_versions(tmp_path: Path, bits: int, version: int) -> None:
    """Headers of each version are read, and no more of them than the version has."""
    data = containers.kdump(RANGES, bits=bits, version=version, vmcoreinfo=INFO, left_out=[(0x20000, PAGE)], level=17)
    memory = read(tmp_path / "image", data)
    assert PhysicalMemory(memory).read(0x1000, 2 * PAGE) == RANGES[0][1]
    assert memory.vmcoreinfo == (INFO if version >= 3 else None)
    level = "free memory (dump level 17)" if version else "why is not known (dump level 0)"
    assert memory.gaps == f"makedumpfile left pages out: {level}"
    with pytest.raises(InputError, match=r"of version 7; memcarve knows those up to 6.*makedumpfile -E"):
        read(tmp_path / "image", containers.kdump(RANGES, version=7))


@pytest.mark.parametrize(
    ("machine", "architecture"), [(b"x86_64", "x64"), (b"i686", "x86"), (b"aarch64", "arm64"), (b"", None)]
)
def test_architecture(tmp_path: Path, machine: bytes, architecture: str | None) -> None:
    """The processor is told; what memcarve does not know is refused by its name."""
    memory = read(tmp_path / "image", containers.kdump(RANGES, machine=machine))
    assert memory.architecture == architecture == PhysicalMemory(memory).architecture
    with pytest.raises(InputError, match=r"whose processor is s390x; .*gcore"):
        read(tmp_path / "image", containers.kdump(RANGES, machine=b"s390x"))


@pytest.mark.parametrize("page", [0x1000, 0x4000, 0x10000])
def test_large_pages(tmp_path: Path, page: int) -> None:
    """Blocks are as large as the machine's pages."""
    ranges = [(page, content(1, 2 * page)), (1 << 30, content(5, page))]
    memory = PhysicalMemory(read(tmp_path / "image", containers.kdump(ranges, page=page, machine=b"aarch64")))
    for start, data in ranges:
        assert memory.read(start, len(data)) == data


def test_what_is_left_out(tmp_path: Path) -> None:
    """Pages of the first bitmap alone are left out, and what lies in neither is not memory."""
    memory = read(tmp_path / "image", containers.kdump(RANGES, left_out=[(0x3000, 2 * PAGE)], level=31))
    assert memory.declared
    assert memory.left_out is not None
    assert list(memory.left_out.bounds()) == [(0x3000, 0x5000)]
    assert memory.gaps is not None
    assert "programs' own memory" in memory.gaps
    physical = PhysicalMemory(memory)
    assert physical.read(0x3000, 1) is None
    assert not read(tmp_path / "image", containers.kdump(RANGES, left_out=[(0, PAGE)], bitmaps=1)).declared


def test_zeros(tmp_path: Path) -> None:
    """Pages of zeros that share a place are zeros; many in a row take no room and are not looked through."""
    many = [(0, content(3, PAGE)), (PAGE, bytes(300 * PAGE)), (301 * PAGE, content(9, PAGE) + bytes(PAGE))]
    memory = read(tmp_path / "image", containers.kdump(many))
    assert memory.zeros is not None
    assert list(memory.zeros.bounds()) == [(PAGE, 301 * PAGE)]
    assert rows(memory) == [(0, PAGE), (301 * PAGE, 2 * PAGE)]
    physical = PhysicalMemory(memory)
    assert physical.read(0, 303 * PAGE) == b"".join(data for _, data in many)
    assert physical.stored == 3 * PAGE


def test_split(tmp_path: Path) -> None:
    """One of several files has its own pages, and says that it is one."""
    for first, end in ((0, 3), (3, 0x41)):
        memory = read(tmp_path / "image", containers.kdump(RANGES, split=(first, end)))
        assert not memory.declared
        assert "makedumpfile --reassemble" in memory.notes[0]
        physical = PhysicalMemory(memory)
        for start, data in RANGES:
            for at in range(0, len(data), PAGE):
                there = first <= (start + at) // PAGE < end
                assert physical.read(start + at, PAGE) == (data[at : at + PAGE] if there else None)


def test_incomplete(tmp_path: Path) -> None:
    """A dump for which there was no room says so, and the pages whose descriptors are not filled in are cut off."""
    data = bytearray(containers.kdump(RANGES, status=8, share=False))
    last = 4 * PAGE + 3 * 24
    data[last : last + 24] = bytes(24)
    memory = read(tmp_path / "image", bytes(data))
    assert memory.cut_off == [(0x40000, PAGE)]
    assert "incomplete" in memory.notes[0]
    assert not memory.declared


def test_erased(tmp_path: Path) -> None:
    """A dump of which makedumpfile erased parts says so, if it has the version that can."""
    for version in (4, 5):
        memory = read(tmp_path / "image", containers.kdump(RANGES, erased=50, version=version))
        assert any("erase" in note for note in memory.notes) == (version == 5)


@pytest.mark.parametrize("how", [*containers.PACKERS])
def test_damaged_pages(tmp_path: Path, how: str) -> None:
    """A page that does not decode raises when it is read, and names the file and the place; others are read."""
    data = bytearray(containers.kdump(RANGES, how=how))
    first = 4 * PAGE
    place, size, flags, _ = struct.unpack_from("<QIIQ", data, first)
    good = bytes(data)
    for harm in ("length", "content", "flags"):
        data = bytearray(good)
        if harm == "content":
            data[place : place + size] = random.Random(1).randbytes(size)  # noqa: S311
        else:
            new = (place, size - 9, flags, 0) if harm == "length" else (place, size, {0: 1}.get(flags, 0), 0)
            struct.pack_into("<QIIQ", data, first, *new)
        if harm == "content" and how == "plain":
            continue
        memory = PhysicalMemory(read(tmp_path / "image", bytes(data)))
        with pytest.raises(SourceReadError, match=f"image: the page at offset 0x{place:x} is damaged: "):
            memory.read(0x1000, PAGE)
        assert memory.read(0x2000, PAGE) == RANGES[0][1][PAGE:]


def test_bombs(tmp_path: Path) -> None:
    """A page that decodes to much more than a page is damaged, and decoded no further."""
    ranges = [(0, bytes(PAGE))]
    for how, (flag, pack) in containers.PACKERS.items():
        packed = pack(bytes(1 << 19))
        if how == "plain" or len(packed) > PAGE:
            continue
        data = bytearray(containers.kdump(ranges, how=how, share=False))
        place = 4 * PAGE + 24
        struct.pack_into("<QIIQ", data, 4 * PAGE, place, len(packed), flag, 0)
        memory = PhysicalMemory(read(tmp_path / "image", bytes(data[:place]) + packed))
        with pytest.raises(SourceReadError, match="is damaged"):
            memory.read(0, PAGE)


def test_hostile_numbers(tmp_path: Path) -> None:
    """A header whose numbers do not fit, or that claims more memory than there is, is refused."""
    data = bytearray(containers.kdump(RANGES))
    struct.pack_into("<Q", data, PAGE + 96, 1 << 60)
    with pytest.raises(InputError, match="no machine has so many"):
        read(tmp_path / "image", bytes(data))
    struct.pack_into("<I", data, 428, 1000)
    with pytest.raises(InputError, match="makes no sense; it is damaged; makedumpfile -E"):
        read(tmp_path / "image", bytes(data))


def test_bitmaps_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitmaps of gigabytes that are holes of a file, flattened or with holes of its own, are passed over."""
    pages, looked = 1 << 36, list[int]()
    head = bytearray(containers.kdump(RANGES)[: 2 * PAGE])
    struct.pack_into("<Q", head, PAGE + 96, pages)
    struct.pack_into("<I", head, 436, 2 * pages // 8 // PAGE)
    end = 2 * PAGE + 2 * pages // 8
    bits = kdump._Index._bits

    def counted(
        self: kdump._Index, offset: int, size: int, number: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        looked.append(offset)
        assert len(looked) < 100
        return bits(self, offset, size, number)

    monkeypatch.setattr(kdump._Index, "_bits", counted)
    memory = read(tmp_path / "image", containers.flattened([(0, bytes(head)), (end, b"x")]))
    assert rows(memory) == []
    one = (2 * PAGE + pages // 8 - 1, b"\x80")  # the last page of all is one that the machine has
    memory = read(tmp_path / "image", containers.flattened([(0, bytes(head)), one, (end, b"x")]))
    assert memory.left_out is not None
    assert (memory.left_out.start.tolist(), memory.left_out.size.tolist()) == ([(pages - 1) * PAGE], [PAGE])


def test_pieces_of_no_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros behind the head read like pieces of no length: there is an end to them, however long the file is."""
    monkeypatch.setattr(flattened, "MOST_RANGES", 1000)
    path = tmp_path / "image"
    path.write_bytes(containers.flattened([], end=False))
    with path.open("r+b") as file:
        file.truncate(1 << 36)
    with FileBacking(path) as backing, pytest.raises(InputError, match="in more than 1000 pieces"):
        flattened.read(backing)


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of pages are read through a bounded cache; any part is right."""
    monkeypatch.setattr(decoded_pages, "CACHE", 3 * PAGE)
    whole, chance = content(0, 40 * PAGE), random.Random(2)  # noqa: S311
    memory = read(tmp_path / "image", containers.kdump([(0, whole)]))
    backing = memory.backing
    assert isinstance(backing, decoded_pages.DecodedPages)
    for _ in range(300):
        offset = chance.randrange(len(whole))
        buffer = bytearray(chance.randrange(min(len(whole) - offset, 3 * PAGE) + 1))
        backing.read_into(offset, memoryview(buffer))
        assert buffer == whole[offset : offset + len(buffer)]
        assert len(backing._cache) <= 3
    with pytest.raises(SourceReadError, match="decodes to"):
        backing.read_into(len(whole), memoryview(bytearray(1)))


def test_pieces_of_a_flattened_file(tmp_path: Path) -> None:
    """Any order of pieces makes the same file; a later piece overwrites an earlier one; holes are zeros."""
    whole, chance = np.zeros(5000, np.uint8), random.Random(3)  # noqa: S311
    pieces = []
    for _ in range(60):
        at, size = chance.randrange(4000), chance.randrange(200)
        data = chance.randbytes(size)
        whole[at : at + size] = np.frombuffer(data, np.uint8)
        pieces.append((at, data))
    (tmp_path / "image").write_bytes(containers.flattened(pieces))
    with FileBacking(tmp_path / "image") as file:
        view = flattened.FlattenedFile(file)
        end = max(at + len(data) for at, data in pieces if data)
        assert view.size == end
        for _ in range(200):
            at = chance.randrange(end)
            size = chance.randrange(end - at + 1)
            assert view.read_at(at, size) == whole[at : at + size].tobytes()
            if spans := view.spans(at, size):
                parts = (span.file.read_at(span.offset, span.length) for span in spans)
                assert b"".join(parts) == whole[at : at + size].tobytes()
        with pytest.raises(SourceReadError, match="ends at offset"):
            view.read_into(end - 1, memoryview(bytearray(2)))


def test_flattened_files_that_end_early(tmp_path: Path) -> None:
    """What came is read, and a note says that more was to come; another type is refused, and so is what is no dump."""
    data = containers.kdump(RANGES, share=False)
    memory = read(tmp_path / "image", containers.flattened([(0, data)], end=False))
    assert memory.notes[0].startswith("flattened: the file ends at")
    assert not memory.declared
    assert memory.cut_off == []
    memory = read(tmp_path / "image", containers.flattened([(0, data)])[:-30])
    assert memory.cut_off == [(0x40000, PAGE)]
    with pytest.raises(InputError, match="holds no dump of a machine"):
        read(tmp_path / "image", containers.flattened([(0, b"something")]))
    other = bytearray(containers.flattened([(0, data)]))
    other[23] = 2
    with pytest.raises(InputError, match="of type 2, version 1; expected type 1, version 1"):
        read(tmp_path / "image", bytes(other))


@pytest.mark.parametrize(
    "write", [lambda ranges: containers.kdump(ranges, how="plain", share=False), containers.elf_core]
)
def test_flattened_files_cut_off_anywhere(tmp_path: Path, write: Callable[[list[tuple[int, bytes]]], bytes]) -> None:
    """Of a flattened file that was cut off each page is right or not there: what did not arrive is not zeros."""
    data = write(RANGES)
    pieces = [(at, data[at : at + 3000]) for at in range(0, len(data), 3000)]
    whole = containers.flattened(pieces[:7] + pieces[7:][::-1])
    seen = set()
    for length in range(len(whole) // 2, len(whole), 311):
        try:
            physical = PhysicalMemory(read(tmp_path / "image", whole[:length]))
        except InputError:
            continue
        assert not physical.declared
        assert any("cut off" in note for note in physical.notes)
        for start, data in RANGES:
            for at in range(0, len(data), PAGE):
                found = physical.read(start + at, PAGE)
                seen.add(found is None)
                assert found in (data[at : at + PAGE], None)
    assert seen == {True, False}
