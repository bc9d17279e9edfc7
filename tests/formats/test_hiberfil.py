"""hiberfil.sys: every Windows, every state, damaged ones; what a machine's memory in it is worth to the commands."""

from __future__ import annotations

import random
import struct
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, strategies

import containers
import hibernation
import memcarve
import winimage
import xpress_writer
from cli import invoke
from containers import PAGE
from hibernation import EVERY, HEADERS
from memcarve.backing import FileBacking
from memcarve.errors import InputError, SourceReadError
from memcarve.formats import compressed_pages
from memcarve.formats.images import hiberfil, hibernation_sets
from memory import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memcarve.formats.images.machine import MachineMemory

    Ranges = list[tuple[int, bytes]]

SEVEN = 7601
ROOT = 0x1AD000


def text(number: int, pages: int) -> bytes:
    """Return pages that can be compressed."""
    draw = random.Random(number)  # noqa: S311 - samples
    return b"".join(bytes(draw.choices(b"memory of pages\0\0\0", k=PAGE)) for _ in range(pages))


#: pages that compress well, badly and not at all; more of them than a set has
RANGES: Ranges = [
    (0x1000, text(1, 20)),
    (0x40000, bytes(PAGE * 40)),
    (0x200000, content(9, PAGE * 18)),
    *((0x1000000 + number * 2 * PAGE, text(number, 1)) for number in range(40)),
    (0x140000000, text(2, 3)),
]


def written(path: Path, build: int, ranges: Ranges | None = None, **how: Any) -> bytes:
    """Return the file of a Windows build."""
    del path
    ranges = RANGES if ranges is None else ranges
    return hibernation.seven(ranges, **how) if build == SEVEN else hibernation.eight(ranges, build=build, **how)


def opened(path: Path, data: bytes) -> MachineMemory:
    """Return the memory of a file, which must be recognised."""
    path.write_bytes(data)
    memory = hiberfil.read(FileBacking(path))
    assert memory is not None
    return memory


def refused(path: Path, data: bytes, message: str) -> None:
    """Check that a file is refused with a message."""
    path.write_bytes(data)
    with FileBacking(path) as file, pytest.raises(InputError, match=message):
        hiberfil.read(file)


def pages(memory: MachineMemory) -> dict[int, bytes | None]:
    """Return each page by its physical address; None if it cannot be read."""
    found: dict[int, bytes | None] = {}
    for start, size, offset in zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True):
        for at in range(0, size, PAGE):
            page = bytearray(PAGE)
            try:
                memory.backing.read_into(offset + at, memoryview(page))
                assert start + at not in found
                found[start + at] = bytes(page)
            except SourceReadError as error:
                assert "is damaged" in str(error)  # noqa: PT017 - it need not be raised
                found[start + at] = None
    return found


def model(ranges: Ranges) -> dict[int, bytes]:
    """Return each page of ranges by its physical address; the last one of several counts."""
    return {start + at: data[at : at + PAGE] for start, data in ranges for at in range(0, len(data), PAGE)}


WHOLE = model(RANGES)


@pytest.mark.parametrize("build", [SEVEN, *HEADERS, 22631])
def test_every_build(tmp_path: Path, build: int) -> None:
    """Of every Windows each page is at its address, however it is compressed, and the processor's root is known."""
    memory = opened(tmp_path / "x", written(tmp_path, build))
    assert pages(memory) == WHOLE
    assert (memory.kind, memory.root, memory.architecture, memory.declared) == ("hiberfil.sys", ROOT, "x64", False)
    assert memory.cut_off == []
    assert "hibernated at 2024-05-06T07:08:09Z" in memory.notes[0]
    assert len(memory.notes) == 1 + (not compressed_pages.IS_COMPILED)
    memory.backing.close()


@pytest.mark.parametrize("build", HEADERS)
def test_fast_startup(tmp_path: Path, build: int) -> None:
    """A note says if users were logged off before, and if there are pages of the secure kernel, which are not read."""
    memory = opened(tmp_path / "x", hibernation.eight(RANGES, build=build, fast=True, secure=0x77))
    assert pages(memory) == WHOLE
    assert any("fast startup" in note and "no program of a user" in note for note in memory.notes)
    assert any("secure kernel" in note and "page 0x77" in note for note in memory.notes) == (build != 9200)


def test_the_header_of_a_real_machine(tmp_path: Path) -> None:
    """The first numbers that libhibr's documentation shows of a 64-bit Windows 7 lead to the table in page 6."""
    shown = """
        48494252090000001036000028010000 19180900000000000010000000000000 be9f5740c30fd001af4a8a8b00000000
        fe3f1941000000002000000000000000 0010840080f8ffff08926c5001000000 000c00001e400000838b000000000000
        0600000000000000146528a901000000 03d59189000000000ca79b5f00000000"""
    first = bytes.fromhex(shown)
    data = hibernation.seven(RANGES)
    memory = opened(tmp_path / "x", first + data[len(first) :])
    assert pages(memory) == WHOLE
    assert "2014-12-04T13:07:26Z" in memory.notes[0]


def test_several_tables(tmp_path: Path) -> None:
    """Tables of Windows 7 follow each other while they are full; what the last one says of a next is of before."""
    ranges = [(2 * number * PAGE, content(number * PAGE, PAGE)) for number in range(1, 3 * 255 + 30)]
    end = len(hibernation.seven(ranges)) // PAGE
    old = hibernation.seven([(1 << 32, bytes(PAGE))])[6 * PAGE :]
    memory = opened(tmp_path / "x", hibernation.seven(ranges, stale=end) + old)
    assert pages(memory) == model(ranges)
    assert len(memory.notes) == 1 + (not compressed_pages.IS_COMPILED)


def test_vista(tmp_path: Path) -> None:
    """Vista's header is as long as that of Windows 7, and its table's number elsewhere: it is told apart."""
    data = bytearray(hibernation.seven(RANGES))
    struct.pack_into("<QQ", data, 0x60, 0x4F16E, 6)
    refused(tmp_path / "x", bytes(data), "Windows XP or Vista")


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("per_set", [1, 5, 16, 200])
def test_every_method(tmp_path: Path, method: tuple[int, str], per_set: int) -> None:
    """Each way to compress a set is read, sets of more than 16 pages too; of the disputed number both meanings."""
    data = hibernation.eight(RANGES, methods=[method], per_set=per_set)
    assert pages(opened(tmp_path / "x", data)) == WHOLE


@pytest.mark.parametrize("loader", [0, 0.5, 1])
@pytest.mark.parametrize("kernel_first", [False, True])
def test_both_runs(tmp_path: Path, loader: float, *, kernel_first: bool) -> None:
    """The loader's pages and the kernel's are read, wherever in the file they lie, also if there are none of one."""
    data = hibernation.eight(RANGES, loader=loader, kernel_first=kernel_first)
    memory = opened(tmp_path / "x", data)
    assert pages(memory) == WHOLE
    everything = bytearray(memory.backing.size)
    memory.backing.read_into(0, memoryview(everything))
    assert bytes(everything) == b"".join(data for _, data in RANGES)


@pytest.mark.parametrize("kind", [SEVEN, 19041])
def test_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """Without the compiled decoder all is the same, and a note says that it is slow."""
    monkeypatch.setattr(compressed_pages, "_compiled", None)
    monkeypatch.setattr(hiberfil, "IS_COMPILED", False)
    memory = opened(tmp_path / "x", written(tmp_path, kind))
    assert pages(memory) == WHOLE
    assert any("slower" in note for note in memory.notes)


@pytest.mark.parametrize("build", [SEVEN, 19041])
@pytest.mark.parametrize(
    ("state", "words"), [(b"WAKE", "was resumed"), (b"RSTR", "being resumed"), (b"HORM", "each time it starts")]
)
def test_states(tmp_path: Path, build: int, state: bytes, words: str) -> None:
    """What is still in a file that was resumed from is read, and a note says what the state means."""
    memory = opened(tmp_path / "x", written(tmp_path, build, state=state))
    assert pages(memory) == WHOLE
    assert words in memory.notes[0]
    assert state.decode() in memory.notes[0]


@pytest.mark.parametrize("state", [b"WAKE", b"HIBR"])
def test_wiped_since_windows_8(tmp_path: Path, state: bytes) -> None:
    """If the sets are zeros, as after resuming, nothing is read, and the error says so."""
    data = hibernation.eight(RANGES, state=state)
    refused(
        tmp_path / "x", data[:PAGE] + bytes(len(data) - PAGE), f"'{state.decode()}'.*zeros.*the memory is not in it"
    )


def test_a_header_that_is_wiped(tmp_path: Path) -> None:
    """Windows 7 wipes no more than the header: the blocks are found; if there are none, a hiberfil.sys is named so."""
    data = hibernation.seven(RANGES, state=bytes(4))
    memory = opened(tmp_path / "any name", data)
    assert pages(memory) == WHOLE
    assert "its header is wiped" in memory.notes[0]
    refused(tmp_path / "HiberFil.sys", bytes(100 * PAGE), "never hibernated, or wiped")
    (tmp_path / "other").write_bytes(bytes(100 * PAGE))
    with FileBacking(tmp_path / "other") as file:
        assert hiberfil.read(file) is None


def header(length: int, *, magic: bytes = b"HIBR", at: int = 0x18) -> bytes:
    """Return a first page with a length, and a page's size at a place."""
    page = bytearray(3 * PAGE)
    struct.pack_into("<4s8xI", page, 0, magic, length)
    struct.pack_into("<I", page, at, PAGE)
    return bytes(page)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(0x3E0)[:100], "ends inside its header, at 0x64"),
        (header(0x3E8), "does not know .its header has 0x3e8 bytes"),
        (header(0x338, at=0x14), "32-bit Windows"),
        (header(0xA8, magic=b"hibr", at=0x14), "Windows XP or Vista"),
        (header(0xC0, magic=b"wake"), "Windows XP or Vista"),
        (header(0x3E0), "its header says that no pages are in it"),
        (header(0x128), "its header says that no pages are in it"),
        (header(0x3E0)[:0x58] + b"\xff" * 8 + header(0x3E0)[0x60:], "no machine has so many"),
    ],
)
def test_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Files of other Windows are refused, and said to be what they are; so is one without pages."""
    refused(tmp_path / "x", data, message)


@pytest.mark.parametrize("data", [b"HIBR", b"WAKE up, it is late", header(0x3E0)[:20], b"RSTR" + bytes(8 * PAGE)])
def test_no_hibernation_file(tmp_path: Path, data: bytes) -> None:
    """Other files that begin with the same letters are none."""
    (tmp_path / "x").write_bytes(data)
    with FileBacking(tmp_path / "x") as file:
        assert hiberfil.read(file) is None


@pytest.mark.parametrize("build", [SEVEN, 19041])
def test_cut_off(tmp_path: Path, build: int) -> None:
    """Of a file that ends early, what is there is right, and the rest is missing: none of it is zeros."""
    data = written(tmp_path, build)
    seen = set()
    for length in [*range(3 * PAGE, len(data), 2777), len(data) - 3 * PAGE]:
        (tmp_path / "x").write_bytes(data[:length])
        try:
            memory = hiberfil.read(FileBacking(tmp_path / "x"))
        except InputError as error:
            assert "without memory" in str(error)  # noqa: PT017 - it need not be raised
            continue
        assert memory is not None
        found = pages(memory)
        assert found.items() <= WHOLE.items()
        cut = {address for start, size in memory.cut_off for address in range(start, start + size, PAGE)}
        assert cut <= WHOLE.keys() - found.keys()
        assert (len(found) < len(WHOLE)) == any("missing" in note for note in memory.notes)
        seen.add(len(found))
    assert len(seen) > 3


def test_pages_that_are_there_twice(tmp_path: Path) -> None:
    """Of a page that is in the file more than once the last one counts: that is restored last; a note says how many."""
    again: Ranges = [*RANGES, (0x3000, content(5, 2 * PAGE)), (0x41000, content(6, PAGE)), (0x3000, content(7, PAGE))]
    memory = opened(tmp_path / "x", hibernation.eight(again))
    assert pages(memory) == model(again)
    assert any("4 pages are in it more than once" in note for note in memory.notes)


def test_sets_that_are_damaged(tmp_path: Path) -> None:
    """A set that cannot be decoded cannot be read, and every other one can: also if both are read at once."""
    ranges = [(0x100000, text(3, 64))]
    data = bytearray(hibernation.eight(ranges, methods=[(0, "plain")], loader=0))
    memory = opened(tmp_path / "x", bytes(data))
    place = int(memory.backing._sets.place[2])  # type: ignore[attr-defined]
    data[place : place + 40] = b"\xff" * 40
    memory = opened(tmp_path / "x", bytes(data))
    found, whole = pages(memory), model(ranges)
    assert {address for address, page in found.items() if page is None} == {*[*whole][32:48]}
    assert all(page in (None, whole[address]) for address, page in found.items())
    with pytest.raises(SourceReadError, match=f"16 pages at offset 0x{place:x} is damaged"):
        memory.backing.read_into(0, memoryview(bytearray(64 * PAGE)))


#: a set of Windows 8 and later, and what is said of it
HOSTILE = {
    "no descriptors": (struct.pack("<I", 100 << 8) + bytes(100), "is no set of pages"),
    "more bytes than pages": (struct.pack("<IQ", 1 | 4097 << 8, 0x10) + bytes(5000), "is no set of pages"),
    "a page that no machine has": (struct.pack("<IQ", 1 | 4 << 8, (1 << 64) - 16) + bytes(4), "that no machine has"),
    "descriptors behind the end": (struct.pack("<I", 255 | 4 << 8), "ends inside the set"),
    "data behind the end": (struct.pack("<IQ", 1 | 4096 << 8, 0x10) + bytes(9), "ends inside the set"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("alone", [False, True])
def test_hostile_sets(tmp_path: Path, name: str, *, alone: bool) -> None:
    """A set that makes no sense ends the file: what was before it is read, and a note says where it ended."""
    bad, message = HOSTILE[name]
    good = b"".join(hibernation.sets([(7, content(7, PAGE))], [(0, "plain")], 16))
    first = bytearray(header(0x3E0)[:PAGE])
    struct.pack_into("<Q", first, 0x70, 1)
    struct.pack_into("<Q", first, 0x230, 1 << 30)
    data = bytes(first) + (b"" if alone else good) + bad
    if alone:
        refused(tmp_path / "x", data, message)
        return
    memory = opened(tmp_path / "x", data)
    assert pages(memory) == {7 * PAGE: content(7, PAGE)}
    assert any(message in note and "1073741823 of 1073741824 pages" in note for note in memory.notes)


def test_runs_that_overlap(tmp_path: Path) -> None:
    """A run of sets may begin inside another one's last set, which is still read whole."""
    data = content(0, 3 * PAGE)
    path = tmp_path / "mem.sys"
    path.write_bytes(data)
    plain = np.zeros(2, np.uint8)
    place, length = np.array([0, 100], np.int64), np.array([2 * PAGE, PAGE], np.int64)
    frame = np.array([0, 8], np.uint64)
    sets = hibernation_sets.Sets(place, length, plain, np.array([0, 2, 3]), frame, np.array([2, 1], np.uint64))
    pages = hiberfil.HibernatedPages(FileBacking(path), sets)
    buffer = bytearray(pages.size)
    pages.read_into(0, memoryview(buffer))
    assert bytes(buffer) == data[: 2 * PAGE] + data[100 : 100 + PAGE]
    pages.close()


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that decode to far more than their pages are damaged, in little memory; sets without number end."""
    first = bytearray(header(0x3E0)[:PAGE])
    struct.pack_into("<Q", first, 0x70, 1)
    struct.pack_into("<Q", first, 0x230, 5000)
    bomb = xpress_writer.plain([1, (1, 1 << 31)])
    one = struct.pack("<IQ", 1 | len(bomb) << 8, 7 << 4) + bomb
    tracemalloc.start()
    memory = opened(tmp_path / "x", bytes(first) + one * 5000)
    assert pages(memory) == {7 * PAGE: None}
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    monkeypatch.setattr(hibernation_sets, "_SET_BYTES", 1 << 30)  # of so small a file
    monkeypatch.setattr(hibernation_sets, "_FEWEST", 100)
    memory = opened(tmp_path / "x", bytes(first) + one * 5000)
    assert memory.backing.size == 101 * PAGE
    assert any("more than 100 sets" in note for note in memory.notes)
    monkeypatch.setattr(hibernation_sets, "MOST_SETS", 50)  # of any
    assert opened(tmp_path / "x", bytes(first) + one * 5000).backing.size == 51 * PAGE
    monkeypatch.setattr(hibernation_sets, "MOST_RUNS", 30)  # while they are collected
    single = [(2 * number * PAGE, bytes(PAGE)) for number in range(1, 300)]
    assert any("more than 30 runs" in note for note in opened(tmp_path / "x", hibernation.eight(single)).notes)
    refused(tmp_path / "x", hibernation.seven(single), "more than 30 runs of pages")
    monkeypatch.setattr(hibernation_sets, "MOST_RUNS", 1 << 20)
    monkeypatch.setattr(hiberfil, "_MOST_RUNS", 30)
    refused(tmp_path / "x", hibernation.eight(RANGES), "more than 30 runs of pages")


@pytest.mark.parametrize(("pages_of_set", "sound"), [(16, True), (1023, True), (1024, False)])
def test_the_largest_set(tmp_path: Path, pages_of_set: int, sound: bool) -> None:  # noqa: FBT001 - a case
    """A set has no more pages than it could keep as they are: each page that is read decodes all of them."""
    ranges = [(number * 16 * PAGE, bytes(16 * PAGE)) for number in range(pages_of_set // 16 + 1)]
    data = hibernation.eight(ranges, per_set=pages_of_set, loader=0, methods=((0, "plain"),))
    if sound:
        assert pages(opened(tmp_path / "x", data)) == model(ranges)
    else:
        refused(tmp_path / "x", data, "is no set of pages")


@pytest.mark.parametrize("following", [1, 6, 0x7FFFFFFF])
def test_tables_that_lead_back(tmp_path: Path, following: int) -> None:
    """A table of Windows 7 that names itself, one before it or one behind the file's end as the next is the last."""
    ranges = [(2 * number * PAGE, bytes(PAGE)) for number in range(1, 300)]
    data = bytearray(hibernation.seven(ranges))
    struct.pack_into("<Q", data, 6 * PAGE, following)
    memory = opened(tmp_path / "x", bytes(data))
    assert pages(memory) == model(ranges[:255])
    assert any("back in the file" in note or "ends before the table" in note for note in memory.notes)


def test_tables_that_make_no_sense(tmp_path: Path) -> None:
    """A table of Windows 7 whose ranges end before they begin, or are too many, is not read."""
    for at, value in ((8, 256), (16, 1 << 50), (24, 0)):
        data = bytearray(hibernation.seven(RANGES))
        struct.pack_into("<Q", data, 6 * PAGE + at, value)
        refused(tmp_path / "x", bytes(data), "makes no sense")


@given(strategies.lists(strategies.tuples(strategies.integers(0, 250), strategies.integers(0, 9 * PAGE)), max_size=20))
def test_reads_of_any_size(tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]]) -> None:
    """Any bytes are read wherever they begin and end, from sets that are kept and that are not."""
    path = tmp_path_factory.getbasetemp() / "any size"
    whole = b"".join(data for _, data in RANGES)
    if not path.exists():
        path.write_bytes(hibernation.eight(RANGES, per_set=7))
    memory = hiberfil.read(FileBacking(path))
    assert memory is not None
    for place, size in reads:
        offset = min(place * 2047, len(whole))
        buffer = bytearray(min(size, len(whole) - offset))
        memory.backing.read_into(offset, memoryview(buffer))
        assert buffer == whole[offset : offset + len(buffer)]
    with pytest.raises(SourceReadError, match="decodes to"):
        memory.backing.read_into(len(whole) - 1, memoryview(bytearray(2)))
    assert memory.backing.spans(0, 1) is None
    memory.backing.close()


def test_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets that are read in part are kept up to a limit, and decoded once while they are; threads may read at once."""
    memory = opened(tmp_path / "x", hibernation.eight(RANGES, loader=0))
    decoded: list[int] = []
    usual = hiberfil.decode

    def counted(*arguments: Any) -> Any:
        decoded.append(len(arguments[2]))
        return usual(*arguments)

    monkeypatch.setattr(hiberfil, "decode", counted)
    monkeypatch.setattr(hiberfil, "CACHE", 3 * 16 * PAGE)
    page = memoryview(bytearray(PAGE))
    for _ in range(5):
        for at in range(48):
            memory.backing.read_into(at * PAGE, page)
    assert sum(decoded) == 3
    whole, problems = b"".join(data for _, data in RANGES), []

    def work(seed: int) -> None:
        draw, buffer = random.Random(seed), bytearray(3 * PAGE)  # noqa: S311 - samples
        for _ in range(60):
            at = draw.randrange(len(whole) - len(buffer))
            memory.backing.read_into(at, memoryview(buffer))
            if buffer != whole[at : at + len(buffer)]:
                problems.append(at)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert memory.backing._cached <= 3 * 16 * PAGE  # type: ignore[attr-defined]
    memory.backing.close()
    memory.backing.close()


@pytest.mark.parametrize("state", [(0, 0x6F8), (0x80050033, 0), (0x80050032, 0x6F8), (1 << 40 | 0x80000001, 0x20)])
def test_processor_states_that_are_none(tmp_path: Path, state: tuple[int, int]) -> None:
    """A root is not taken from a page that is no processor's state with paging on."""
    data = bytearray(hibernation.eight(RANGES))
    struct.pack_into("<4Q", data, PAGE, state[0], 0, ROOT, state[1])
    assert opened(tmp_path / "x", bytes(data)).root is None


# what the commands make of it


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> winimage.Truth:
    """Return a machine."""
    return winimage.build(tmp_path_factory.mktemp("machine") / "mem.raw")


WRITERS: dict[str, Callable[..., Any]] = {
    "8": lambda ranges, root: hibernation.eight_parts(ranges, root=root, quick=True),
    "7": lambda ranges, root: hibernation.seven_parts(ranges, root=root, quick=True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_processes(
    tmp_path: Path, machine: winimage.Truth, writer: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The processes of a machine are those of its raw image, and so is the memory of each; holes of it are missing."""
    path = tmp_path / "hiberfil.sys"
    slices = [(start, containers.Slice(machine.path, start, size)) for start, size in machine.ranges([])]
    containers.write(path, WRITERS[writer](slices, machine.kernel_root))
    with memcarve.open(path) as ours, memcarve.open(machine.path) as raw:
        expected = [*raw.processes()]
        assert [*ours.processes()] == expected
        for entry in expected:
            if entry.ended:
                continue
            one, other = ours.process(entry=entry), raw.process(entry=entry)
            segments = one.segments(half="user")
            assert segments.start.tolist() == other.segments(half="user").start.tolist()
            for start, size in zip(segments.start.tolist(), segments.size.tolist(), strict=True):
                assert one.space.read(start, size) == other.space.read(start, size)
    ran = invoke(capfdbinary, "processes", path)
    assert ran.code == 0
    assert "hibernated at 2024-05-06" in ran.err


def test_carving(tmp_path: Path, machine: winimage.Truth, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Carving says what is mapped and not in the file, why that is usual, and ends with 3: nothing of it is zeros."""
    path = tmp_path / "hiberfil.sys"
    slices = [(start, containers.Slice(machine.path, start, size)) for start, size in machine.ranges()]
    containers.write(path, hibernation.eight_parts(slices, root=machine.kernel_root, quick=True))
    ran = invoke(capfdbinary, "carve", path, "--all", "-o", tmp_path / "out")
    assert ran.code == 3
    assert "Windows leaves out of hiberfil.sys" in ran.err
    pid = next(process.pid for process in machine.processes if process.name == b"explorer.exe")
    with memcarve.open(path) as ours:
        address, physical = machine.frames(pid, "user", machine.holes)
        space = ours.process(pid).space
        image = np.memmap(machine.path, np.uint8, "r")
        for at, frame in zip(address.tolist(), physical.tolist(), strict=True):
            assert space.read(at, PAGE) == image[frame : frame + PAGE].tobytes()
        lost = {*machine.frames(pid, "user")[0].tolist()} - {*address.tolist()}
        for at in lost:
            with pytest.raises(memcarve.MemcarveError):
                space.read(at, PAGE)
