"""Containers of a machine's physical memory: what was written is read back, whole, cut off, damaged or made to harm."""

from __future__ import annotations

import itertools
import os
import random
import struct
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import containers
import hibernation
from containers import PAGE, Slice
from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats.elf_core import core_headers
from memcarve.formats.images import avml, crashdump, flattened, hiberfil, kdump, lime, machine, machine_core, vmware
from memory import content
from sweeps import LONG, some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from memcarve.formats.images.machine import MachineMemory

    Ranges = list[tuple[int, bytes]]

#: each of some thirty containers is tried with a part of the usual number of examples
FEWER = settings(max_examples=settings().max_examples // 4)
READERS: list[ModuleType] = [lime, avml, machine_core, crashdump, vmware, kdump, flattened, hiberfil]
#: name -> (reader, writer); what may begin and end at any byte, and what consists of pages
BYTEWISE: dict[str, tuple[ModuleType, Callable[[Ranges], bytes]]] = {
    "LiME": (lime, containers.lime),
    "AVML": (avml, containers.avml),
    "AVML without counts": (avml, lambda ranges: containers.avml(ranges, counts=False)),
    **{
        f"{flavour} {bits}{' many' * many}": (
            machine_core,
            lambda ranges, bits=bits, many=many, flavour=flavour: containers.elf_core(
                ranges, bits=bits, many=many, flavour=flavour
            ),
        )
        for flavour, bits, many in itertools.product(("qemu", "virtualbox", "kdump", "none"), (32, 64), (False, True))
    },
}
PAGEWISE: dict[str, tuple[ModuleType, Callable[[Ranges], bytes]]] = {
    **{
        f"crash dump {kind}": (crashdump, lambda ranges, kind=kind: containers.crash_dump(ranges, kind=kind))
        for kind in containers.KINDS
    },
    "VMware": (vmware, lambda ranges: containers.vmware(ranges, embedded=True)[1]),
    **{
        f"kdump {how}": (kdump, lambda ranges, how=how: containers.kdump(ranges, how=how, share=how != "plain"))
        for how in containers.PACKERS
    },
    "kdump 32": (kdump, lambda ranges: containers.kdump(ranges, bits=32, machine=b"i686")),
    "kdump with one bitmap": (kdump, lambda ranges: containers.kdump(ranges, bitmaps=1)),
    "diskdump": (kdump, lambda ranges: containers.kdump(ranges, magic=b"DISKDUMP", version=1)),
    "Xen core of HVM": (machine_core, containers.xen_core),
    **{
        f"hiberfil.sys {build}": (hiberfil, lambda ranges, build=build: hibernation.eight(ranges, build=build))
        for build in (9200, 19041, 26100)
    },
    "hiberfil.sys 7601": (hiberfil, hibernation.seven),
    "kdump flattened": (
        flattened,
        lambda ranges: containers.flattened(containers.in_pieces(containers.kdump(ranges))),
    ),
    "ELF core flattened": (
        flattened,
        lambda ranges: containers.flattened(containers.in_pieces(containers.elf_core(ranges))),
    ),
}
ALL = BYTEWISE | PAGEWISE
#: what is said of a file although it is sound
USUAL_NOTES = (
    "the machine was hibernated at",
    "if it was shut down with fast startup",
    "its pages are decoded in Python",
)
#: a few small ranges, of every kind of content
RANGES: Ranges = [(0x1000, content(0x1000, 2 * PAGE)), (0x9000, bytes(PAGE)), (0x40000000, content(0x77, PAGE))]
SHORT: Ranges = [(0x1003, content(0x1003, 77)), (0x5000, bytes(90)), (0xFFFF0000, content(0x5000, 33))]


def opened(path: Path | str, data: bytes | None = None) -> FileBacking:
    """Return an open file, with `data` written into it first."""
    if data is not None:
        with open(path, "wb") as file:
            file.write(data)
    return FileBacking(path)


def there(memory: MachineMemory) -> dict[int, int]:
    """Return every byte that a machine's memory holds, by its physical address; the first of several ranges counts."""
    found: dict[int, int] = {}
    for start, size, offset in reversed([*zip(*(column.tolist() for column in memory[2:5]), strict=True)]):
        buffer = bytearray(size)
        memory.backing.read_into(offset, memoryview(buffer))
        found.update(zip(range(start, start + size), buffer, strict=True))
    return found


def model(ranges: Ranges) -> dict[int, int]:
    """Return every byte of ranges by its physical address."""
    found: dict[int, int] = {}
    for start, data in ranges:
        found.update(zip(range(start, start + len(data)), data, strict=True))
    return found


def sound(memory: MachineMemory) -> None:
    """Check what is promised of a machine's memory, whatever its file holds."""
    assert memory.start.dtype == memory.size.dtype == memory.offset.dtype == np.uint64
    assert len(memory.start) == len(memory.size) == len(memory.offset)
    rows = zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True)
    for start, size, offset in rows:
        assert size > 0
        assert start + size <= 1 << 64
        assert offset + size <= memory.backing.size
    for start, size in memory.cut_off:
        assert 0 <= start < 1 << 64
        assert 0 < size < 1 << 64
        assert start + size <= 1 << 64
    assert len(memory.cut_off) <= machine.MOST_CUT + 1
    assert all(note.isprintable() for note in memory.notes)
    assert memory.kind


def refused(reader: ModuleType, file: FileBacking, message: str) -> str:
    """Check that a reader refuses a file with a message; return it."""
    with file, pytest.raises(InputError, match=message) as error:
        reader.read(file)
    return str(error.value)


def close(memory: MachineMemory | None, file: FileBacking) -> None:
    """Close what a reader gave."""
    if memory is not None:
        memory.backing.close()
    file.close()


@st.composite
def places(draw: st.DrawFn, unit: int, most: int, top: int) -> list[tuple[int, int, bool]]:
    """Return sorted, disjoint (address, size, whether it is all zero) of at most `most` units each, below `top`."""
    result, reached = [], 0
    for place in sorted(draw(st.lists(st.integers(0, top // unit - 1), max_size=8, unique=True))):
        first, size = max(place, reached), draw(st.integers(1, most))
        if (first + size) * unit <= top:
            result.append((first * unit, size * unit, draw(st.booleans())))
            reached = first + size
    return result


def filled(chosen: list[tuple[int, int, bool]]) -> Ranges:
    """Return ranges with their bytes."""
    return [(start, bytes(size) if empty else content(start, size)) for start, size, empty in chosen]


# what was written is read


@pytest.mark.parametrize("name", BYTEWISE)
@FEWER
@given(data=st.data())
def test_round_trip_of_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """Every byte of any ranges is found at its physical address, nothing else, and nothing is cut off."""
    reader, writer = BYTEWISE[name]
    ranges = filled(data.draw(places(1, 300, 1 << 31 if " 32" in name else 1 << 52)))
    check_round_trip(tmp_path_factory.getbasetemp() / "image", reader, writer, ranges)


@pytest.mark.parametrize("name", PAGEWISE)
@FEWER
@given(data=st.data())
def test_round_trip_of_pages(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """Every byte of any pages is found at its physical address, nothing else, and nothing is cut off."""
    reader, writer = PAGEWISE[name]
    check_round_trip(
        tmp_path_factory.getbasetemp() / "image", reader, writer, filled(data.draw(places(PAGE, 3, 1 << 29)))
    )


def check_round_trip(path: Path, reader: ModuleType, writer: Callable[[Ranges], bytes], ranges: Ranges) -> None:
    """Write, read, compare."""
    data = writer(ranges)
    if reader in {vmware, hiberfil} and not ranges:
        return  # such a file has no memory, and is refused
    file = opened(path, data)
    memory = reader.read(file)
    if memory is None:
        assert not ranges  # no header, no magic
    else:
        sound(memory)
        assert there(memory) == model(ranges)
        assert memory.cut_off == []
        assert [note for note in memory.notes if not any(words in note for words in USUAL_NOTES)] == []
    close(memory, file)


@pytest.mark.parametrize("name", ALL)
def test_recognised_by_content(tmp_path: Path, name: str) -> None:
    """A container is recognised by one reader alone, whatever its name, and its kind says what it is."""
    reader, writer = ALL[name]
    with opened(tmp_path / "memory.txt", writer(RANGES)) as file:
        found = [module for module in READERS if module.read(file) is not None]
    assert found == [reader]


@pytest.mark.parametrize("data", [b"", b"\0", b"EMi", b"\x7fEL", b"PAGEDU6", b"raw" * 4000, bytes(3 * PAGE)])
@pytest.mark.parametrize("reader", READERS)
def test_raw_images_are_no_containers(tmp_path: Path, reader: ModuleType, data: bytes) -> None:
    """What has no magic is no container, an empty file neither."""
    with opened(tmp_path / "memory.vmem", data) as file:
        assert reader.read(file) is None


@pytest.mark.parametrize("name", ["lime", "avml", "elf_core"])
def test_written_from_a_file(tmp_path: Path, name: str) -> None:
    """What is streamed from a raw image is what is written from memory."""
    raw = content(0, 5 * containers._READ // 2)
    (tmp_path / "raw").write_bytes(raw)
    middle = 3 * PAGE
    slices = [(0, Slice(tmp_path / "raw", 0, middle)), (1 << 32, Slice(tmp_path / "raw", middle, len(raw) - middle))]
    getattr(containers, f"write_{name}")(tmp_path / "image", slices)
    whole = getattr(containers, name)([(0, raw[:middle]), (1 << 32, raw[middle:])])
    assert (tmp_path / "image").read_bytes() == whole


# cut off


def check_cut(path: Path, reader: ModuleType, data: bytes, ranges: Ranges, length: int) -> bool | None:
    """Read a container that ends after `length` bytes; return whether all of it is accounted for, None if refused."""
    file = opened(path, data[:length])
    memory = None
    try:
        memory = reader.read(file)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - it need not be raised
    if memory is None:
        file.close()
        return None
    sound(memory)
    whole, found = model(ranges), there(memory)
    assert found.items() <= whole.items()
    cut = {address for start, size in memory.cut_off for address in range(start, start + size)}
    assert not cut & found.keys()
    assert cut <= whole.keys()
    complete = cut | found.keys() == whole.keys()
    assert complete or memory.notes or cut or length in HEADERS_END.get(reader, set())
    close(memory, file)
    return complete


#: where a file may end without a trace: between a range's bytes and the next one's header
HEADERS_END: dict[ModuleType, set[int]] = {}


@pytest.mark.parametrize("name", BYTEWISE)
def test_cut_off_at_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file cut at any byte gives what it holds, and says what it does not: range by range, or that a header ends."""
    reader, writer = BYTEWISE[name]
    data = writer(SHORT)
    between = {len(writer(SHORT[:count])) for count in range(1, 4)} if reader in {lime, avml} else set()
    between |= {length - 8 for length in between} if name == "AVML" else set()
    monkeypatch.setitem(HEADERS_END, reader, between)
    lengths = some(range(len(data) + 1), 2, sorted(BYTEWISE).index(name))
    results = [check_cut(tmp_path / "image", reader, data, SHORT, length) for length in lengths]
    assert results[-1]
    assert check_cut(tmp_path / "image", reader, data, SHORT, 0) is None
    assert len([result for result in results if result is not None]) > (77 + 90) // (1 if LONG else 2)


@pytest.mark.parametrize("name", [name for name in PAGEWISE if "flattened" not in name])  # in test_kdump.py
def test_cut_off_among_pages(tmp_path: Path, name: str) -> None:
    """A file of pages cut inside its headers is refused or says so; inside its pages, each byte is accounted for."""
    reader, writer = PAGEWISE[name]
    data = writer(RANGES)
    pages = len(data) - 4 * PAGE - 2 * (reader is vmware)
    if (reader is kdump and name != "kdump plain") or reader is hiberfil:
        pages = len(data)  # they are compressed
    points = {*range(0x100), *range(0x1FF0, 0x2100), *range(pages - 20, pages + 20), *range(pages, len(data), 777)}
    if reader is vmware:
        points = {*range(700), *points}
    first = sorted(PAGEWISE).index(name)
    for length in some(sorted(points | {len(data) - 3, len(data)}), 3, first):
        complete = check_cut(tmp_path / "image", reader, data, RANGES, length)
        assert complete or length < pages, length


@pytest.mark.parametrize("bits", [32, 64])
def test_program_headers_cut_off(tmp_path: Path, bits: int) -> None:
    """Program headers that are cut off are counted in a note, also where their number was behind them."""
    data = containers.elf_core(SHORT, bits=bits, many=True, flavour="virtualbox")
    rows = 52 + 32 * 3 if bits == 32 else 64 + 56 * 3
    with opened(tmp_path / "image", data[: rows + 5]) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert memory.cut_off == [(start, len(content)) for start, content in SHORT[:2]]
        assert len(memory.notes) == 2


# LiME and AVML


def range_header(magic: bytes, version: int, first: int, last: int) -> bytes:
    """Return a header of LiME's."""
    return struct.pack("<4sIQQQ", magic, version, first, last, 0)


@pytest.mark.parametrize(("reader", "magic", "version"), [(lime, b"EMiL", 1), (avml, b"AVML", 2), (avml, b"AVML", 1)])
def test_versions(tmp_path: Path, reader: ModuleType, magic: bytes, version: int) -> None:
    """A header of another version is refused with both versions named, and so is a range that ends before it begins."""
    refused(
        reader, opened(tmp_path / "image", range_header(magic, 7, 0, 9) + bytes(10)), r"version 7; expected version \d"
    )
    refused(reader, opened(tmp_path / "image", range_header(magic, version, 0x5000, 0x4000)), "ends before it begins")


@pytest.mark.parametrize("reader", [lime, avml])
def test_rubbish_behind_a_range(tmp_path: Path, reader: ModuleType) -> None:
    """What is no header where one is expected ends the file, and a note says where and how much it is."""
    data = containers.lime(SHORT[:1]) if reader is lime else containers.avml(SHORT[:1])
    with opened(tmp_path / "image", data + bytes(100)) as file:
        memory = reader.read(file)
        assert there(memory) == model(SHORT[:1])
        assert f"0x{len(data):x}" in memory.notes[0]
        assert "100 bytes" in memory.notes[0]


def test_ranges_without_bytes(tmp_path: Path) -> None:
    """A range whose last address lies right before its first is empty, and left out."""
    data = range_header(b"EMiL", 1, 0x3000, 0x2FFF) + containers.lime(SHORT)
    with opened(tmp_path / "image", data) as file:
        memory = lime.read(file)
        assert memory is not None
        assert there(memory) == model(SHORT)


@pytest.mark.parametrize("first", [0, 1, 0x1000, (1 << 64) - 5])
@pytest.mark.parametrize("reader", [lime, avml])
def test_ranges_up_to_the_top(tmp_path: Path, reader: ModuleType, first: int) -> None:
    """A range up to the last address there is loses nothing of what the file holds, and nothing overflows."""
    body = b"12345"
    if reader is lime:
        data = range_header(b"EMiL", 1, first, (1 << 64) - 1) + body
    else:
        data = range_header(b"AVML", 2, first, (1 << 64) - 1) + containers.avml([(0, body)])[32:-8]
    with opened(tmp_path / "image", data) as file:
        memory = reader.read(file)
        sound(memory)
        assert there(memory) == dict(enumerate(body, first))
        last = max(size for _, size in memory.cut_off) if memory.cut_off else 0
        assert last in {0, (1 << 64) - first - 5, (1 << 64) - first - 6}


@pytest.mark.parametrize("name", ["LiME", "AVML"])
def test_too_many_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """More ranges than any machine has are refused."""
    monkeypatch.setattr(machine, "MOST_RANGES", 2)
    reader, writer = BYTEWISE[name]
    refused(reader, opened(tmp_path / "image", writer(SHORT)), "more than the 2 that")


def test_avml_that_is_not_compressed(tmp_path: Path) -> None:
    """AVML's own magic with LiME's version is followed by the bytes as they are."""
    with opened(tmp_path / "image", containers.lime(SHORT).replace(b"EMiL", b"AVML")) as file:
        memory = avml.read(file)
        assert memory is not None
        assert there(memory) == model(SHORT)


def test_avml_blocks(tmp_path: Path) -> None:
    """A range is read across AVML's blocks; a block of zeros that AVML leaves out is neither there nor cut off."""
    zeros = bytes(containers.AVML_BLOCK)
    whole = content(0, 3 * PAGE)
    path = tmp_path / "image"
    containers.write(path, containers.avml_parts([(PAGE, whole + zeros + zeros + whole)], skip_zeros=True))
    with opened(path) as file:
        memory = avml.read(file)
        assert memory is not None
        sizes = [containers.AVML_BLOCK, 2 * len(whole)]
        assert memory.start.tolist() == [PAGE, PAGE + 2 * sizes[0]]
        assert memory.size.tolist() == sizes
        assert not memory.declared
        buffer = bytearray(sizes[1])
        memory.backing.read_into(sizes[0], memoryview(buffer))
        assert buffer == bytes(len(whole)) + whole


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MachineMemory, bytes]]:
    """Return an AVML file of some chunks, and the bytes that it decodes to."""
    data = content(0, 150_000) + bytes(200_000) + random.Random(5).randbytes(250_000)  # noqa: S311
    path = tmp_path_factory.mktemp("avml") / "image"
    containers.write_avml(path, [(0, data[:400_000]), (1 << 40, data[400_000:])])
    memory = avml.read(FileBacking(path))
    assert memory is not None
    yield memory, data
    memory.backing.close()


@given(data=st.data())
def test_any_part_is_decoded(compressed: tuple[MachineMemory, bytes], data: st.DataObject) -> None:
    """Any stretch of the decoded bytes can be read, in any order."""
    memory, whole = compressed
    offset = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, min(len(whole) - offset, 200_000)))
    buffer = bytearray(size)
    memory.backing.read_into(offset, memoryview(buffer))
    assert buffer == whole[offset : offset + size]
    assert memory.backing.spans(offset, size) is None


def test_behind_the_end(compressed: tuple[MachineMemory, bytes]) -> None:
    """Reading past the decoded bytes raises, and names the file."""
    memory, whole = compressed
    for offset, size in [(len(whole), 1), (len(whole) - 1, 2), (-1, 1), (1 << 64, 1)]:
        with pytest.raises(SourceReadError, match="image: decodes to"):
            memory.backing.read_into(offset, memoryview(bytearray(size)))


def test_the_cache_is_bounded(compressed: tuple[MachineMemory, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more decoded bytes are kept than the limit; the chunk used last is among them; and threads may share it."""
    memory, whole = compressed
    backing: Any = memory.backing
    monkeypatch.setattr(avml, "CACHE", 3 << 16)
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        try:
            for _ in range(200):
                offset = chance.randrange(len(whole) - 5000)
                buffer = bytearray(5000)
                backing.read_into(offset, memoryview(buffer))
                assert buffer == whole[offset : offset + 5000]
        except BaseException as error:  # noqa: BLE001 - an assertion in a thread would be lost
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sum(len(chunk) for chunk in backing._cache.values()) == backing._cached <= 3 << 16
    monkeypatch.setattr(backing, "_decode", lambda *_: pytest.fail("decoded again"))
    last = next(reversed(backing._cache))
    backing.read_into(int(backing._offset[last]), memoryview(bytearray(10)))


def test_closed_avml(tmp_path: Path) -> None:
    """A closed backing reads nothing, not even what it had decoded; closing twice is fine."""
    memory = avml.read(opened(tmp_path / "image", containers.avml(SHORT)))
    assert memory is not None
    assert there(memory) == model(SHORT)
    memory.backing.close()
    memory.backing.close()
    with pytest.raises(SourceReadError, match="has been closed"):
        memory.backing.read_into(0, memoryview(bytearray(4)))


@pytest.mark.parametrize("place", ["checksum", "data"])
def test_damaged_chunk(tmp_path: Path, place: str) -> None:
    """A damaged chunk raises with its offset when it is read; the others can be read as before."""
    data = content(0, 3 << 16)
    image = bytearray(containers.avml([(0, data)]))
    second = 32 + 10 + 4 + int.from_bytes(image[43:46], "little")
    image[second + (5 if place == "checksum" else 30)] ^= 0x40
    memory = avml.read(opened(tmp_path / "image", bytes(image)))
    assert memory is not None
    assert memory.size.tolist() == [len(data)]
    for size in (10, 1 << 16):
        with pytest.raises(SourceReadError, match=f"image: the chunk at offset 0x{second:x} is damaged"):
            memory.backing.read_into(1 << 16, memoryview(bytearray(size)))
    buffer = bytearray(1 << 16)
    memory.backing.read_into(2 << 16, memoryview(buffer))
    assert buffer == data[2 << 16 :]
    memory.backing.close()


def test_chunk_replaced_meanwhile(tmp_path: Path) -> None:
    """A chunk that decodes to less than when the file was opened raises."""
    image = bytearray(containers.avml([(0, content(0, 1000))]))
    memory = avml.read(opened(tmp_path / "image", bytes(image)))
    assert memory is not None
    image[42] = 0xFE  # padding
    (tmp_path / "image").write_bytes(image)
    with pytest.raises(SourceReadError, match="decodes to 0 bytes, not to the 1000"):
        memory.backing.read_into(0, memoryview(bytearray(10)))
    memory.backing.close()


@pytest.mark.parametrize(
    "head",
    [
        b"\x02\x08\0\0",
        b"\x7f\x08\0\0",
        b"\0\x04\0\0",
        b"\0\xff\xff\xff",
        b"\x01\x05\0\x01",
        b"\0\x10\0\0CRC!\xff\xff\xff\xff\x7f",
    ],
)
def test_damaged_chunk_header(tmp_path: Path, head: bytes) -> None:
    """Chunks that cannot be, or decode to more than they can, end the file; what was before is there, the rest cut."""
    good = containers.avml([(0, content(0, 1 << 16))])
    image = range_header(b"AVML", 2, 0x1000, 0x1000 + (3 << 16) - 1) + good[32:-8] + head + bytes(1 << 17)
    with opened(tmp_path / "image", image) as file:
        memory = avml.read(file)
        assert memory is not None
        assert memory.size.tolist() == [1 << 16]
        assert memory.cut_off == [(0x1000 + (1 << 16), 2 << 16)]
        assert f"0x{len(good) - 8:x}" in memory.notes[0]


@pytest.mark.parametrize("chunk", [b"\xfe\0\0\0", b"\x01\x05\0\0CRC!x", b"\0\x06\0\0CRC!\x01\0"])
def test_a_flood_of_chunks(tmp_path: Path, chunk: bytes) -> None:
    """Chunks that hold next to nothing do not fill the memory: they end the file."""
    image = range_header(b"AVML", 2, 0, (1 << 40) - 1) + chunk * 100_000
    with opened(tmp_path / "image", image) as file:
        memory = avml.read(file)
        assert memory is not None
        assert "too small" in memory.notes[0]
        assert memory.backing.size <= avml._SPARE + 1


def test_wrong_count_behind_a_block(tmp_path: Path) -> None:
    """A count that is not that of its block is said, and reading goes on."""
    first, second = containers.avml(SHORT[:1]), containers.avml(SHORT[1:])
    with opened(tmp_path / "image", first[:-8] + struct.pack("<Q", 5) + second) as file:
        memory = avml.read(file)
        assert memory is not None
        assert there(memory) == model(SHORT)
        assert "the count at offset" in memory.notes[0]


# ELF cores


def test_many_program_headers(tmp_path: Path) -> None:
    """A core of 70,000 ranges, more than e_phnum holds, is read; its page-table root is the first processor's."""
    ranges = [(0x2000 * index, index.to_bytes(4, "little")) for index in range(70_000)]
    with opened(tmp_path / "image", containers.elf_core(ranges, many=True)) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert memory.start.tolist() == [start for start, _ in ranges]
        assert there(memory) == model(ranges)
        assert memory.root == 0x1AD000
        assert memory.declared


def test_process_core(tmp_path: Path) -> None:
    """A process's core is not taken for a machine's."""
    with opened(tmp_path / "core.1234", containers.elf_core(SHORT, flavour="process")) as file:
        assert machine_core.read(file) is None


def test_core_of_this_machine(tmp_path: Path) -> None:
    """A program is no core, and no error either."""
    with opened("/bin/sh" if os.path.exists("/bin/sh") else os.__file__) as file:
        assert machine_core.read(file) is None
    with opened(tmp_path / "image", containers.elf_core(SHORT)[:16] + b"\x02\0" + bytes(100)) as file:
        assert machine_core.read(file) is None


def test_bytes_in_memory_only(tmp_path: Path) -> None:
    """What a core has in memory and not in the file is neither there nor cut off, and the memory is not all of it."""
    with opened(tmp_path / "image", containers.elf_core(SHORT, unstored=0x1000)) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert there(memory) == model(SHORT)
        assert memory.cut_off == []
        assert not memory.declared


def test_ranges_named_twice(tmp_path: Path) -> None:
    """A core whose ranges overlap, as QEMU's do with paging, is read as it is."""
    with opened(tmp_path / "image", containers.elf_core([*SHORT, *SHORT])) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert len(memory.start) == 6
        assert there(memory) == model(SHORT)


@pytest.mark.parametrize("bits", [32, 64])
def test_unknown_physical_addresses(tmp_path: Path, bits: int) -> None:
    """Ranges whose physical address is all ones, as /proc/kcore has them, are left out."""
    with opened(
        tmp_path / "image", containers.elf_core([((1 << bits) - 1, b"?"), *SHORT], bits=bits, flavour="kdump")
    ) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert there(memory) == model(SHORT)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(5, b"\x02", None), (54, b"\x07\0", "7 bytes")],
)
def test_other_elf_headers(tmp_path: Path, place: int, value: bytes, message: str | None) -> None:
    """Program headers of another size are refused; what is no core in the byte order that it claims is none."""
    data = bytearray(containers.elf_core(SHORT))
    data[place : place + len(value)] = value
    with opened(tmp_path / "image", bytes(data)) as file:
        if message is None:
            assert machine_core.read(file) is None  # its e_type is another number
        else:
            with pytest.raises(InputError, match=message):
                machine_core.read(file)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (40, "32-bit ARM"),
        (243, "RISC-V"),
        (22, "s390"),
        (21, "64-bit PowerPC"),
        (8, "MIPS"),
        (999, "999"),
    ],
)
def test_other_processors(tmp_path: Path, number: int, name: str) -> None:
    """The core of another processor's machine is refused by the processor's name, as its page tables are not known."""
    data = bytearray(containers.elf_core(SHORT))
    data[18:20] = number.to_bytes(2, "little")
    with opened(tmp_path / "image", bytes(data)) as file:
        for certain in (False, True):
            with pytest.raises(InputError, match=f"whose processor is.* {name}.*gcore"):
                machine_core.read(file, certain=certain)


def test_no_processor(tmp_path: Path) -> None:
    """The core of a machine that names no processor is read, with a note."""
    data = bytearray(containers.elf_core(SHORT))
    data[18] = 0
    with opened(tmp_path / "image", bytes(data)) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert "does not say of which processor" in memory.notes[0]


@pytest.mark.parametrize("count", [0xFFFF, (1 << 32) - 1])
def test_counts_beyond_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A number of program headers that the file has no room for allocates nothing, and a note has both numbers."""
    data = bytearray(containers.elf_core(SHORT, many=True))
    at = data.index(struct.pack("<I", 4), 64 + 56 * 4 + 40)
    data[at : at + 4] = struct.pack("<I", count)
    with opened(tmp_path / "image", bytes(data)) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert any(f"of {count} are there" in note for note in memory.notes)
        monkeypatch.setattr(machine, "MOST_RANGES", 3)
        with pytest.raises(InputError, match="program headers, more than the 3"):
            machine_core.read(file)


# Windows crash dumps


@pytest.mark.parametrize("kind", containers.KINDS)
@FEWER
@given(data=st.data())
def test_against_kdmp_parser(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    """An independent reader finds the same pages with the same bytes in our dumps as we do, and the same root."""
    kdmp_parser = pytest.importorskip("kdmp_parser", reason="kdmp-parser is not installed")
    ranges = filled(data.draw(places(PAGE, 4, 1 << 28)))
    if kind in {
        "kernel",
        "kernel and user",
        "complete",
    }:  # for these, lists of ranges end at page 0, and it refuses empty ones
        ranges = [(PAGE, bytes(PAGE)), *((start + (2 << 20), data) for start, data in ranges)]
    path = tmp_path_factory.getbasetemp() / "memory.dmp"
    path.write_bytes(containers.crash_dump(ranges, kind=kind, root=0x1AD002))
    other = kdmp_parser.KernelDumpParser(path)
    pages = {address: bytes(page) for address, page in other.pages.items()}
    with opened(path) as file:
        memory = crashdump.read(file)
        assert memory is not None
        ours: dict[int, bytes] = {}
        for start, size, offset in zip(
            memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True
        ):
            buffer = bytearray(size)
            memory.backing.read_into(offset, memoryview(buffer))
            ours |= {start + low: bytes(buffer[low : low + PAGE]) for low in range(0, size, PAGE)}
    assert ours == pages
    assert pages == {start + low: data[low : low + PAGE] for start, data in ranges for low in range(0, len(data), PAGE)}
    assert memory.root == other.directory_table_base == 0x1AD000


def patched(place: int, layout: str, *values: int | bytes, kind: str = "full") -> bytes:
    """Return a crash dump in which something is written over."""
    data = bytearray(containers.crash_dump(RANGES, kind=kind))
    struct.pack_into(layout, data, place, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PAGEDUMP" + bytes(0x1000), "32-bit Windows"),
        (containers.crash_dump(RANGES)[:0x1FFF], "ends inside its header"),
        (patched(0xF98, "<I", 2), "kernel memory dump in the format of Windows 7"),
        (patched(0xF98, "<I", 4), "minidump"),
        (patched(0xF98, "<I", 99), "unknown type 99"),
        (patched(0x88, "<I", 43), "43 runs"),
        (patched(0x88, "<I", 0x45474150), "never filled in"),
        (patched(0x88, "<I", (1 << 32) - 1), "4294967295 runs"),
        (patched(0x98, "<QQ", (1 << 64) - 1, 1), "no machine has so many"),
        (patched(0xF98, "<I", 5), "without its bitmap"),
        (patched(0x30, "<I", 0xAA64), "whose processor is ARM64 .0xaa64.; .*procdump"),
        (patched(0x30, "<I", 0x1C4), "whose processor is 32-bit ARM"),
        (patched(0x30, "<I", 0x5064), "whose processor is unknown .0x5064."),
        (patched(0xF98, "<I", 8), "without its ranges"),
        (patched(0x2000, "<4s", b"XDMP", kind="FDMP"), "expected FDMP or SDMP"),
        (patched(0x2030, "<Q", (1 << 64) - 1, kind="FDMP"), "does not end before its first page"),
        (patched(0x2020, "<Q", 0, kind="SDMP"), "does not end before its first page"),
        (patched(0x2018, "<Q", 0x2000, kind="kernel"), "inside its headers"),
        (patched(0x2038, "<Q", (1 << 64) - 1, kind="kernel"), "no machine has so many"),
        (containers.crash_dump(RANGES, kind="FDMP")[:0x2030], "ends before its bitmap"),
        (containers.crash_dump(RANGES, kind="kernel")[:0x2020], "ends before its ranges"),
    ],
)
def test_dumps_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Dumps of other kinds and such that make no sense are refused, and the message says what they are."""
    assert "\n" not in refused(crashdump, opened(tmp_path / "memory.dmp", data), message)


def test_runs_and_pages_that_make_no_sense(tmp_path: Path) -> None:
    """Runs that would end far behind the file are cut off, and never wrap to bytes that are there."""
    pages = (1 << 40) - 1
    table = struct.pack("<QQ", 1, pages) * 200
    data = bytearray(containers.crash_dump(RANGES, kind="kernel"))
    data[0x2010:0x2020] = struct.pack("<QQ", 1 << 20, 1 << 63)
    data[0x2030 : 0x2030 + len(table)] = table
    with opened(tmp_path / "memory.dmp", bytes(data)) as file:
        memory = crashdump.read(file)
        assert memory is not None
        sound(memory)
        assert not len(memory.start)


@pytest.mark.parametrize("number", [0, 0x45474150])
def test_crash_dump_of_no_processor(tmp_path: Path, number: int) -> None:
    """A crash dump in whose header no processor was put is read, with a note."""
    data = bytearray(containers.crash_dump(RANGES))
    struct.pack_into("<I", data, 0x30, number)
    with opened(tmp_path / "image", bytes(data)) as file:
        memory = crashdump.read(file)
        assert memory is not None
        assert "does not say of which processor" in memory.notes[0]


def test_more_pages_than_the_bitmap(tmp_path: Path) -> None:
    """Where header and bitmap disagree on how many pages there are, the bitmap is believed, and it is said."""
    with opened(tmp_path / "memory.dmp", patched(0x2028, "<Q", 77, kind="SDMP")) as file:
        memory = crashdump.read(file)
        assert memory is not None
        assert there(memory) == model(RANGES)
        assert "77" in memory.notes[0]


def test_bitmap_that_ends_within_a_byte(tmp_path: Path) -> None:
    """Bits behind the number of pages do not count."""
    data = bytearray(containers.crash_dump([(0, content(0, 5 * PAGE))], kind="FDMP"))
    data[0x2030:0x2039] = struct.pack("<QB", 5, 0xFF)
    with opened(tmp_path / "memory.dmp", bytes(data)) as file:
        memory = crashdump.read(file)
        assert memory is not None
        assert memory.size.tolist() == [5 * PAGE]


def bitmap_dump(path: Path, bitmap: bytes, present: int) -> FileBacking:
    """Return an open dump with a bitmap, whose pages are a hole in the file."""
    header = containers.crash_dump([], kind="FDMP")[:0x2000]
    place = 0x2038 + len(bitmap) + PAGE - 1 & ~(PAGE - 1)
    second = struct.pack("<4s4s24xQQQ", b"FDMP", b"DUMP", place, present, 8 * len(bitmap))
    path.write_bytes(header + second + bitmap)
    os.truncate(path, place + present * PAGE)
    return FileBacking(path)


def test_a_million_runs(tmp_path: Path) -> None:
    """A bitmap of a million runs is read as columns, and a run goes on across the pieces in which it is read."""
    bitmap = b"\x01" * (1 << 20) + b"\xff" * crashdump._CHUNK + b"\x0f"
    present = (1 << 20) + 8 * crashdump._CHUNK + 4
    with bitmap_dump(tmp_path / "memory.dmp", bitmap, present) as file:
        memory = crashdump.read(file)
        assert memory is not None
        first = np.arange(1 << 20, dtype=np.uint64) * np.uint64(8 * PAGE)
        assert (memory.start[: 1 << 20] == first).all()
        assert int(memory.size.sum()) == present * PAGE
        assert int(memory.offset[-1] + memory.size[-1]) == file.size
        assert memory.cut_off == []
        assert memory.notes == ()


def test_cut_off_in_millions_of_pieces(tmp_path: Path) -> None:
    """What is cut off of scattered pages is listed up to a limit, then counted as one, in bounded memory."""
    bitmap = b"\x55" * (2 << 20)  # a machine of 64 GiB, every other page of it
    with bitmap_dump(tmp_path / "memory.dmp", bitmap, 0) as file:
        tracemalloc.start()
        memory = crashdump.read(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert memory is not None
    sound(memory)
    assert not len(memory.start)
    assert len(memory.cut_off) == machine.MOST_CUT + 1
    assert memory.cut_off[0] == (0, PAGE)
    start, size = memory.cut_off[-1]
    assert start == machine.MOST_CUT * 2 * PAGE
    assert start + size == (16 << 20) * PAGE - PAGE
    assert any("counted as one" in note for note in memory.notes)
    assert peak < 100 << 20


# VMware


def beside(folder: Path, ranges: Ranges, suffix: str = ".vmsn") -> Path:
    """Write a .vmem and its metadata; return the path without suffix."""
    memory, state = containers.vmware(ranges)
    (folder / "machine.vmem").write_bytes(memory)
    (folder / f"machine{suffix}").write_bytes(state)
    return folder / "machine"


@pytest.mark.parametrize("suffix", [".vmsn", ".vmss"])
@pytest.mark.parametrize("given_suffix", [".vmem", "own"])
def test_vmem_and_metadata(tmp_path: Path, suffix: str, given_suffix: str) -> None:
    """A .vmem is read with the metadata beside it, and found beside the metadata."""
    stem = beside(tmp_path, RANGES, suffix)
    file = opened(f"{stem}{suffix if given_suffix == 'own' else given_suffix}")
    memory = vmware.read(file)
    assert memory is not None
    sound(memory)
    assert there(memory) == model(RANGES)
    assert memory.declared
    assert memory.notes == ()
    close(memory, file)


def test_vmem_alone(tmp_path: Path) -> None:
    """A .vmem without metadata, or beside files of other kinds, is no container: it is a raw image."""
    stem = beside(tmp_path, RANGES)
    (tmp_path / "machine.vmsn").write_bytes(b"something else")
    (tmp_path / "machine.vmss").mkdir()
    with opened(f"{stem}.vmem") as file:
        assert vmware.read(file) is None
    (tmp_path / "machine.vmsn").write_bytes(b"")
    with opened(f"{stem}.vmem") as file:
        assert vmware.read(file) is None


def test_metadata_without_memory(tmp_path: Path) -> None:
    """Metadata whose memory is neither in them nor beside them are refused, and the message names what is missing."""
    stem = beside(tmp_path, RANGES)
    os.unlink(f"{stem}.vmem")
    refused(vmware, opened(f"{stem}.vmsn"), r"expected .*machine\.vmem beside it")


def test_memory_without_regions(tmp_path: Path) -> None:
    """Without regions the memory begins at physical address 0."""
    stem = beside(tmp_path, [(0, RANGES[0][1])])
    (tmp_path / "machine.vmsn").write_bytes(containers.vmware_state([]))
    with opened(f"{stem}.vmem") as file:
        memory = vmware.read(file)
        assert memory is not None
        assert there(memory) == model([(0, RANGES[0][1])])


def test_the_metadata_that_fit(tmp_path: Path) -> None:
    """Of two metadata the one is taken whose memory is as large as the .vmem; where both are, a note says so."""
    stem = beside(tmp_path, RANGES)
    (tmp_path / "machine.vmss").write_bytes(containers.vmware_state([(0, 0, 9)]))
    with opened(f"{stem}.vmem") as file:
        memory = vmware.read(file)
        assert memory is not None
        assert there(memory) == model(RANGES)
        assert memory.notes == ()
    (tmp_path / "machine.vmss").write_bytes(containers.vmware_state([(0, 0, 4)]))
    with opened(f"{stem}.vmem") as file:
        memory = vmware.read(file)
        assert memory is not None
        assert memory.start.tolist() == [0]
        assert "disagree" in memory.notes[0]


def test_vmem_of_another_size(tmp_path: Path) -> None:
    """A .vmem that is shorter than its metadata say is cut off; one that is longer gets a note."""
    stem = beside(tmp_path, RANGES)
    os.truncate(f"{stem}.vmem", 3 * PAGE + 5)
    with opened(f"{stem}.vmem") as file:
        memory = vmware.read(file)
        assert memory is not None
        assert memory.cut_off == [(0x40000005, PAGE - 5)]
    os.truncate(f"{stem}.vmem", 9 * PAGE)
    with opened(f"{stem}.vmem") as file:
        memory = vmware.read(file)
        assert memory is not None
        assert "0x9000 bytes" in memory.notes[0]


def test_layout_behind_memory_that_is_cut_off(tmp_path: Path) -> None:
    """Memory in a state that ends within it, before any layout, is read from physical address 0 on, with a note."""
    state = containers.vmware([(0, content(0, 3 * PAGE))], embedded=True)[1].replace(b"regionsCount", b"regionsCounX")
    with opened(tmp_path / "machine.vmss", state[: -PAGE - 2]) as file:
        memory = vmware.read(file)
        assert memory is not None
        assert there(memory) == model([(0, content(0, 2 * PAGE))])
        assert memory.cut_off == [(2 * PAGE, PAGE)]
        assert "ends inside the memory" in memory.notes[0]


def compressed_state() -> bytes:
    """Return a VMware machine's state with its memory compressed."""
    data = bytearray(containers.vmware(RANGES, embedded=True)[1])
    data[data.index(b"\x06Memory") - 1] -= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (containers.vmware_state([(0, 0, 1)], magic=0xBED0BED0), "32-bit products"),
        (containers.vmware_state([(0, 0, 1)] * 5000), "5000 regions"),
        (containers.vmware_state([(0, 0, 1)])[:50], "without a group for its memory"),
        (containers.vmware_state([(0, 0, 1)])[:-3], "ends inside the description"),
        (
            containers.vmware_state([(0, 0, 1)]).replace(b"regionSize", b"regionHize"),
            "does not describe region 0 of the 1",
        ),
        (struct.pack("<III", 0xBED2BED2, 8, 1 << 31), "groups"),
        (compressed_state(), "compressed by VMware"),
    ],
)
def test_metadata_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Metadata that make no sense are refused, whether they are given or lie beside a .vmem."""
    refused(vmware, opened(tmp_path / "machine.vmsn", data), message)


def test_damaged_metadata_beside(tmp_path: Path) -> None:
    """A .vmem is not read as a raw image where the metadata beside it are damaged: the error names them."""
    stem = beside(tmp_path, RANGES)
    os.truncate(f"{stem}.vmsn", 50)
    refused(vmware, opened(f"{stem}.vmem"), r"machine\.vmsn")


# made to harm

EXTREMES = [
    0,
    1,
    0x7F,
    0xFF,
    0xFFF,
    0x1000,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a container with some of it changed, mostly in its headers."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        reach = len(result) if chance.random() < 0.3 else min(len(result), chance.choice([64, 0x400, 0x2100]))
        place = chance.randrange(max(reach, 1))
        if data[:6] == b"PAGEDU" and chance.random() < 0.7:
            place = chance.choice([0x10, 0x88, 0x90, 0x98, 0xA0, 0xA8, 0xF98, *range(0x2000, 0x2060, 4)])
        kind = chance.randrange(4)
        if kind == 0:
            result[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            width = chance.choice([4, 8])
            result[place : place + width] = (chance.choice(EXTREMES) & (1 << 8 * width) - 1).to_bytes(width, "little")
        elif kind == 2:
            del result[len(result) - chance.randrange(len(result) + 1) :]
        else:
            result[place:place] = result[: chance.randrange(100)]
        if not result:
            break
    return bytes(result)


@pytest.mark.parametrize("name", ALL)
def test_mutations(tmp_path: Path, name: str) -> None:
    """Whatever is changed in a container, only declared errors come of it, in bounded memory, and rows are sound."""
    _, writer = ALL[name]
    data, chance = writer(RANGES), random.Random(name)  # noqa: S311
    path = tmp_path / "machine.vmem"
    tracemalloc.start()
    try:
        for _ in range(300 if LONG else 90):
            image = mutated(data, chance)
            survives(opened(path, image))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def survives(file: FileBacking) -> None:
    """Check that nothing but a declared error comes of a file, and that each row of it can be read."""
    for reader in READERS:
        try:
            memory = reader.read(file)
        except InputError as error:
            assert str(error).isprintable()  # noqa: PT017 - it need not be raised
            continue
        if memory is None:
            continue
        sound(memory)
        for size, offset in zip(memory.size.tolist()[:20], memory.offset.tolist(), strict=False):
            buffer = bytearray(min(size, 1 << 16))
            try:
                memory.backing.read_into(offset + size - len(buffer), memoryview(buffer))
            except SourceReadError as error:
                # only a chunk's content may be unreadable, or what did not arrive of a file
                said = any(words in str(error) for words in ("is damaged", "did not arrive"))
                assert said, error  # noqa: PT017
        if reader is avml:
            memory.backing.close()
            return
    file.close()


def test_too_many_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of a core's notes are read than a machine has, and what was found until then counts."""
    monkeypatch.setattr(core_headers, "_MOST_NOTES", 3)
    with opened(tmp_path / "image", containers.elf_core(SHORT)) as file:
        memory = machine_core.read(file)
        assert memory is not None
        assert memory.root == 0x1AD000


def test_too_many_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata with more tags than any machine's are refused."""
    monkeypatch.setattr(vmware, "_MOST_TAGS", 3)
    refused(vmware, opened(tmp_path / "machine.vmsn", containers.vmware(RANGES)[1]), "more than 3 tags")


def test_cut_off_ranges_are_joined() -> None:
    """Ranges that are cut off and touch are one; those after the limit are one, from the lowest to the highest."""
    cut, one = machine.CutOff(), np.ones(1, np.uint64)
    for start in (0, 1, 2, 5):
        cut.add(one * np.uint64(start), one)
    assert cut.listed() == [(0, 3), (5, 1)]
    many = np.arange(machine.MOST_CUT, dtype=np.uint64) * np.uint64(2) + np.uint64(100)
    cut.add(many, np.ones_like(many))
    cut.add(one * np.uint64(50), one)
    assert len(cut.listed()) == machine.MOST_CUT + 1
    assert cut.listed()[-1] == (50, 100 + 2 * machine.MOST_CUT - 1 - 50)


def test_mutated_metadata_beside(tmp_path: Path) -> None:
    """Nor does anything else come of metadata beside a .vmem."""
    stem = beside(tmp_path, RANGES)
    state, chance = containers.vmware(RANGES)[1], random.Random(1)  # noqa: S311
    for _ in range(500):
        (tmp_path / "machine.vmsn").write_bytes(mutated(state, chance))
        survives(opened(f"{stem}.vmem"))


# the arithmetic


@given(
    st.lists(
        st.tuples(*[st.one_of(st.integers(0, 300), st.integers((1 << 64) - 300, (1 << 64) - 1))] * 3), max_size=10
    ),
    st.integers(0, 300),
)
def test_fitted(rows: list[tuple[int, int, int]], limit: int) -> None:
    """Ranges are clipped to what the file holds and to the addresses there are, and the rest is what is cut off."""
    columns = np.array(rows, np.uint64).reshape(-1, 3).T
    cut = machine.CutOff()
    start, size, offset = machine.fitted(columns[0], columns[1], columns[2], limit, cut)
    expected, lost = [], 0
    for first, length, place in rows:
        whole = min(length, (1 << 64) - first)
        kept = max(min(whole, limit - place), 0)
        lost += whole - kept
        if kept:
            expected.append((first, kept, place))
    assert list(zip(start.tolist(), size.tolist(), offset.tolist(), strict=True)) == expected
    assert sum(length for _, length in cut.rows) == lost
