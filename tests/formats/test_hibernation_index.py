"""The index of a hibernation file that --cache keeps: the same memory with it, whatever is in it."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import hibernation
import memcarve
from containers import PAGE
from memcarve.backing import FileBacking
from memcarve.errors import OutputError, SourceReadError
from memcarve.formats.images import hiberfil, hibernation_index, hibernation_sets
from memory import content

if TYPE_CHECKING:
    from pathlib import Path

    from memcarve.formats.images.machine import MachineMemory

    Ranges = list[tuple[int, bytes]]

#: how an index begins: a magic, what it belongs to, the numbers of sets and descriptors
HEAD = 32 + 32 + 16


def text(number: int, pages: int) -> bytes:
    """Return pages that can be compressed."""
    draw = random.Random(number)  # noqa: S311 - samples
    return b"".join(bytes(draw.choices(b"memory of pages\0\0\0", k=PAGE)) for _ in range(pages))


RANGES: Ranges = [
    (0x1000, text(1, 9)),
    (0x40000, bytes(PAGE * 20)),
    (0x200000, content(9, PAGE * 5)),
    *((0x1000000 + number * 2 * PAGE, text(number, 1)) for number in range(12)),
]
WHOLE = {start + at: data[at : at + PAGE] for start, data in RANGES for at in range(0, len(data), PAGE)}


@pytest.fixture(scope="module")
def data() -> bytes:
    """Return a file whose pages are in two runs of sets."""
    return hibernation.eight(RANGES, build=19041, per_set=4)


@pytest.fixture
def path(tmp_path: Path, data: bytes) -> Path:
    """Return the path of such a file."""
    path = tmp_path / "hiberfil.sys"
    path.write_bytes(data)
    return path


def opened(path: Path, cache: Path | None) -> MachineMemory:
    """Return the memory of a file."""
    memory = hiberfil.read(FileBacking(path), None if cache is None else str(cache))
    assert memory is not None
    return memory


def pages(memory: MachineMemory) -> dict[int, bytes | str]:
    """Return each page by its physical address, or why it cannot be read; the file is closed then."""
    found: dict[int, bytes | str] = {}
    for start, size, offset in zip(memory.start.tolist(), memory.size.tolist(), memory.offset.tolist(), strict=True):
        for at in range(0, size, PAGE):
            page = bytearray(PAGE)
            try:
                memory.backing.read_into(offset + at, memoryview(page))
                found[start + at] = bytes(page)
            except SourceReadError as error:
                found[start + at] = str(error)
    memory.backing.close()
    return found


def index_of(cache: Path) -> Path:
    """Return the one index in a cache."""
    (found,) = (cache / "memcarve-indexes").iterdir()
    return found


def no_walk(*_: Any) -> None:
    """Stand in for a walk through the headers of all sets, which an index spares."""
    raise AssertionError("the sets were walked")


@pytest.mark.parametrize("build", [9200, 26100])
def test_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: int) -> None:
    """With an index the memory is the same, and no header of a set is read before its pages are."""
    path, cache = tmp_path / "x", tmp_path / "cache"
    path.write_bytes(hibernation.eight([*RANGES, (0x3000, content(5, PAGE))], build=build, per_set=4, loader=0.3))
    without = opened(path, None)
    first = opened(path, cache)
    assert stat.S_IMODE(index_of(cache).stat().st_mode) == 0o600
    assert stat.S_IMODE(index_of(cache).parent.stat().st_mode) == 0o700
    monkeypatch.setattr(hibernation_sets.Walk, "compressed_sets", no_walk)
    second = opened(path, cache)
    for one in (first, second):
        assert (one.notes, one.cut_off, one.root) == (without.notes, [], without.root)
        for name in ("start", "size", "offset"):
            assert np.array_equal(getattr(one, name), getattr(without, name))
    found = pages(without)
    assert pages(first) == pages(second) == found
    assert found == {**WHOLE, 0x3000: content(5, PAGE)}
    moved = tmp_path / "moved"
    os.rename(path, moved)
    assert pages(opened(moved, cache)) == found


def test_reads_of_many_sets(path: Path, tmp_path: Path) -> None:
    """What is read in large parts is compared as well as what is read page by page."""
    opened(path, tmp_path / "cache").backing.close()
    memory, whole = opened(path, tmp_path / "cache"), opened(path, None)
    parts = []
    for each in (memory, whole):
        buffer = bytearray(each.backing.size)
        each.backing.read_into(0, memoryview(buffer))
        each.backing.close()
        parts.append(buffer)
    assert parts[0] == parts[1]


def test_none_is_kept(path: Path, data: bytes, tmp_path: Path) -> None:
    """Of a file that was cut off, and of Windows 7, no index is kept; if it cannot be, a note says so."""
    path.write_bytes(data[: len(data) // 2])
    cut = opened(path, tmp_path / "cache")
    assert any("ends inside the set" in note for note in cut.notes)
    path.write_bytes(hibernation.seven(RANGES))
    assert pages(opened(path, tmp_path / "cache")) == WHOLE
    assert not [*(tmp_path / "cache" / "memcarve-indexes").iterdir()]
    cut.backing.close()


def test_a_full_disk(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be written leaves nothing behind, and a note."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hibernation_index.os, "replace", full)
    memory = opened(path, tmp_path / "cache")
    assert any("could not be kept" in note and "No space left" in note for note in memory.notes)
    assert pages(memory) == WHOLE
    assert not [*(tmp_path / "cache" / "memcarve-indexes").iterdir()]


@pytest.mark.parametrize("how", ["length", "time", "first page", "somewhere"])
def test_a_file_that_was_changed(path: Path, tmp_path: Path, how: str) -> None:
    """Another length, time, or content where it is looked at is another file, with another index."""
    opened(path, tmp_path / "cache").backing.close()
    before, status = index_of(tmp_path / "cache"), path.stat()
    with path.open("r+b") as file:
        if how == "length":
            file.seek(0, os.SEEK_END)
            file.write(bytes(PAGE))
        else:
            file.seek({"first page": 0x700, "somewhere": status.st_size // 17 & -PAGE}.get(how, 0))
            byte = file.read(1)
            if how != "time":
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (how == "time")))
    memory = opened(path, tmp_path / "cache")
    memory.backing.close()
    assert not any("index" in note for note in memory.notes)
    assert len([*before.parent.iterdir()]) == 2


@pytest.mark.parametrize("how", ["empty", "short", "long", "flipped", "link", "folder", "another's"])
def test_a_damaged_index(path: Path, tmp_path: Path, how: str) -> None:
    """An index that is not as it was written is not used: a note says so, and it is made again if that is possible."""
    cache = tmp_path / "cache"
    opened(path, cache).backing.close()
    index = index_of(cache)
    good = index.read_bytes()
    flipped = bytearray(good)
    flipped[HEAD + 5] ^= 1
    other = bytearray(good)
    other[40] ^= 1
    index.unlink()
    if how == "folder":
        index.mkdir()
    elif how == "link":
        (tmp_path / "elsewhere").write_bytes(good)
        index.symlink_to(tmp_path / "elsewhere")
    else:
        wrong = {"empty": b"", "short": good[:-9], "long": good + b"\0", "flipped": flipped, "another's": signed(other)}
        index.write_bytes(wrong[how])
    memory = opened(path, cache)
    assert any("was damaged, and made again" in note for note in memory.notes)
    assert pages(memory) == WHOLE
    if how != "folder":
        assert index.read_bytes() == good
        assert not index.is_symlink()
        assert not any("index" in note for note in opened(path, cache).notes)


def test_a_cache_of_others(path: Path, tmp_path: Path) -> None:
    """A folder to which others may write is no cache."""
    (tmp_path / "memcarve-indexes").mkdir()
    (tmp_path / "memcarve-indexes").chmod(0o770)
    with FileBacking(path) as file, pytest.raises(OutputError, match="belongs to this user alone"):
        hiberfil.read(file, str(tmp_path))


def signed(data: bytes | bytearray) -> bytes:
    """Return an index with the checksum that belongs to it."""
    return bytes(data[:-32]) + hashlib.sha256(data[:-32]).digest()


def forge(data: bytes, draw: random.Random) -> bytes:
    """Return an index that says something else, with a checksum that is right."""
    sets, rows = struct.unpack_from("<QQ", data, 64)
    words = [*struct.unpack_from(f"<{sets}I", data, HEAD)]
    table = [*struct.unpack_from(f"<{rows}Q", data, HEAD + 4 * sets)]
    for _ in range(draw.choice((1, 1, 2))):
        one, other, row, second = draw.randrange(sets), draw.randrange(sets), draw.randrange(rows), draw.randrange(rows)
        match draw.randrange(7):
            case 0:
                table[row], table[second] = table[second], table[row]
            case 1:
                table[row] ^= 1 << draw.randrange(64)
            case 2:
                words[one] ^= 1 << draw.randrange(32)
            case 3:
                words[one], words[other] = words[other], words[one]
            case 4:
                table[row] = table[row] & 0xF | 0x123 << 4
            case 5:
                table[row], words[one] = draw.getrandbits(64), draw.getrandbits(32)
            case 6:  # the data are longer by what the next ones are shorter
                words[one] += 1 << 8
                words[other] -= 1 << 8 if words[other] > 1 << 8 else 0
    found = data[:HEAD] + struct.pack(f"<{sets}I", *words) + struct.pack(f"<{rows}Q", *table) + bytes(32)
    return signed(found)


def test_an_index_is_not_trusted(path: Path, tmp_path: Path) -> None:
    """Whatever an index says, no page has other bytes than it has without one: reading it says what is wrong."""
    cache = tmp_path / "cache"
    opened(path, cache).backing.close()
    index = index_of(cache)
    good, draw = index.read_bytes(), random.Random(1)  # noqa: S311 - samples
    refused = wrong = 0
    for _ in range(150):
        forged = forge(good, draw)
        index.write_bytes(forged)
        memory = opened(path, cache)
        again = any("was damaged" in note for note in memory.notes)
        found = pages(memory)
        if again or forged == good:
            assert found == WHOLE
        for address, page in found.items():
            assert page == WHOLE.get(address) or "than its index says" in page or "is damaged" in page  # type: ignore[operator]
        refused += again
        wrong += any(isinstance(page, str) for page in found.values())
    assert refused > 10
    assert wrong > 10
    assert len([*index.parent.iterdir()]) == 1


def test_the_library(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cache` says where indexes are kept."""
    for _ in range(2):
        with memcarve.open(path, cache=tmp_path / "cache", input_type="image") as container:
            space = container.physical_space()
            assert space.read(0x1000, 9 * PAGE) == RANGES[0][1]
        monkeypatch.setattr(hibernation_sets.Walk, "compressed_sets", no_walk)
