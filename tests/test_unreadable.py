"""Inputs with blocks that cannot be read: everything else is there, and what is not is said."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import listings
import memcarve
from carved import binaries, manifest, model, named
from cli import invoke, run
from dumps import dump_bytes, write_dump
from headers import TEXT, dll_page
from listings import VADINFO
from memcarve.backing import FileBacking
from memcarve.intervals import Intervals
from memcarve.unreadable import unreadable as unreadable_in
from memory import PAGE, noise
from unreadable_files import ranges_of, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dumps import Piece

#: a large segment, one of many scattered pages, one of zeros, single pages, one that ends within a page
ROWS: list[Piece] = [
    (0x10000000, noise(1, 600 * PAGE)),
    *((0x20000000 + number * PAGE, noise(number + 2)) for number in range(0, 80, 2)),
    *((0x20000000 + number * PAGE, noise(number + 2)) for number in range(1, 80, 2)),
    (0x30000000, bytes(20 * PAGE)),
    (0x40000000, noise(100)),
    (0x40002000, noise(101)),
    (0x50000000, noise(102, 5 * PAGE + 0x123)),
]
COUNT = len(dump_bytes(ROWS)) // PAGE + 1
BAD = {
    "inside": [300, 301, 303],
    "edges": [0, 599, 600, 679],
    "first": [0],
    "last": [COUNT - 1],
    "everywhere": [*range(1, COUNT, 3)],
    "a whole segment": [700, 701],
    "zeros": [680, 690],
}


def without(rows: Sequence[Piece], bad: Iterable[tuple[int, int]]) -> list[Piece]:
    """Return rows without the bytes that lie in some ranges of the dump, byte range by byte range."""
    kept: list[Piece] = []
    place = 0
    for address, content in rows:
        assert isinstance(content, bytes)
        cuts = [(max(begin, place), min(end, place + len(content))) for begin, end in sorted(bad)]
        at = place
        for begin, end in [*((begin, end) for begin, end in cuts if begin < end), (place + len(content),) * 2]:
            if at < begin:
                kept.append((address + at - place, content[at - place : begin - place]))
            at = end
        place += len(content)
    return kept


def lost(rows: Sequence[Piece], bad: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return start and end of what is mapped and cannot be read, joined."""
    found: list[tuple[int, int]] = []
    place = 0
    for address, content in rows:
        for begin, end in sorted(bad):
            low, high = max(begin, place), min(end, place + len(content))  # type: ignore[arg-type]
            if low < high:
                found.append((address + low - place, address + high - place))
        place += len(content)  # type: ignore[arg-type]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def said(folder: Path) -> list[tuple[int, int]]:
    """Return what a manifest lists as unreadable."""
    rows = [row for row in manifest(folder)["missing"] if row["reason"] == "unreadable"]
    return [(int(row["start"], 16), int(row["end"], 16)) for row in rows]


@pytest.mark.parametrize("options", [[], ["--hash", "none"], ["--sparse"], ["--content", "full", "--hash", "md5"]])
@pytest.mark.parametrize("name", BAD)
def test_a_dump_gives_the_rest(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], name: str, options: list[str]
) -> None:
    """What can be read of a dump is carved whole; the rest is listed as missing, and nothing is made up."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    bad = ranges_of(BAD[name])
    with unreadable(tmp_path / "good", {"pid.4.dmp": bad}) as folder:
        ran = invoke(capfdbinary, "carve", folder / "pid.4.dmp", "-o", tmp_path / "out", *options)
        assert (ran.code, ran.err.count("Traceback")) == (3, 0), ran.err
        assert binaries(tmp_path / "out") == named(model(without(ROWS, bad)))
        assert said(tmp_path / "out") == lost(ROWS, bad)
        assert manifest(tmp_path / "out")["complete"] is False
        size = sum(end - start for start, end in lost(ROWS, bad))
        assert f"{size} bytes cannot be read" in ran.err
        assert f"left out: {size} bytes: unreadable" in ran.err
        for source in ([], ["--source", folder / "pid.4.dmp"]):
            checked = invoke(capfdbinary, "verify", tmp_path / "out", *source)
            assert checked.code == 0, checked.err


def test_segments_of_zeros_are_left_out_past_bad_blocks(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Whether a segment is zero throughout is told of what can be read of it."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    bad = ranges_of(BAD["zeros"])
    with unreadable(tmp_path / "good", {"pid.4.dmp": bad}) as folder:
        ran = invoke(capfdbinary, "carve", folder / "pid.4.dmp", "-o", tmp_path / "out", "--skip-zero")
    assert ran.code == 3
    found = {name: data for name, data in named(model(without(ROWS, bad))).items() if data.strip(b"\0")}
    assert binaries(tmp_path / "out") == found


def test_what_cannot_be_read_whole_has_no_hash(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The hash of the input is refused if part of it cannot be read, with what to leave out."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["last"])}) as folder:
        ran = invoke(capfdbinary, "carve", folder / "pid.4.dmp", "-o", tmp_path / "out", "--hash-input")
    assert ran.code == 1
    assert "what cannot be read whole has no hash: leave --hash-input out" in ran.err
    assert not (tmp_path / "out").exists()


def test_bad_blocks_outside_the_choice_do_not_matter(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What was not chosen is not read: bad blocks in it change nothing."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["inside"])}) as folder:
        dump = folder / "pid.4.dmp"
        ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--address", "0x40000000")
    assert ran.code == 0, ran.err
    assert binaries(tmp_path / "out") == named({0x40000000: noise(100)})


def exported(tmp_path: Path, capture: pytest.CaptureFixture[bytes], *options: str | Path) -> Path:
    """Export a dump with bad blocks inside its first segment; return what was written."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    out = tmp_path / "out"
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["inside"])}) as folder:
        ran = invoke(capture, "export", folder / "pid.4.dmp", "-o", out, *options)
        if os.path.exists("/proc/self/maps"):  # what is mapped is open
            with open("/proc/self/maps", encoding="utf-8") as maps:
                assert str(folder) not in maps.read()
    assert ran.code == 3, ran.err
    assert f"{3 * PAGE} bytes cannot be read" in ran.err
    return out


@pytest.mark.parametrize("to", ["minidump", "elfcore"])
def test_exports_give_the_rest(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], to: str) -> None:
    """A core or minidump of a dump with bad blocks holds what can be read, and says that it is not complete."""
    out = exported(tmp_path, capfdbinary, "--to", to)
    with memcarve.open(out) as container:
        process = container.process()
        assert {segment.start: process.read(segment.start, segment.size) for segment in process.segments()} == model(
            without(ROWS, ranges_of(BAD["inside"]))
        )
        assert process.incomplete


def test_a_memmap_lists_what_cannot_be_read(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """In a map what cannot be read is among the rows that were not written."""
    out = exported(tmp_path, capfdbinary, "--to", "memmap")
    with memcarve.open(out / "pid.4.dmp") as container:
        process = container.process()
        gone = [(gap.start, gap.end) for gap in process.space.missing]
        assert gone == lost(ROWS, ranges_of(BAD["inside"]))


def test_a_flat_file_is_filled_where_bytes_cannot_be_read(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A flat file has the fill byte where the input cannot be read, and counts these bytes as missing."""
    out = exported(tmp_path, capfdbinary, "--to", "flat", "--address", "0x10000000-0x10258000", "--fill", "aa")
    expected = bytearray(noise(1, 600 * PAGE))
    for begin, end in ranges_of(BAD["inside"]):
        expected[begin:end] = b"\xaa" * (end - begin)
    assert out.read_bytes() == expected
    assert json.loads((tmp_path / "out.json").read_text())["missing_bytes"] == 3 * PAGE


def test_scripts_of_what_can_be_read(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Scripts copy nothing; they are made of an input with bad blocks too, and recognise it by the others."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["everywhere"])}) as folder:
        ran = invoke(capfdbinary, "export", folder / "pid.4.dmp", "-o", tmp_path / "out", "--to", "scripts")
    assert ran.code in (0, 3), ran.err
    assert (tmp_path / "out" / "memory.json").exists()


def test_extract_gives_the_rest(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Of a module with a bad block all else is written, zeros in its place, and what is not there is listed."""
    (tmp_path / "good").mkdir()
    code = noise(7, 3 * PAGE)
    write_dump(tmp_path / "good", [(0x400000, dll_page([(1, 3, TEXT)], size=4) + code)])
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of([2])}) as folder:
        ran = invoke(capfdbinary, "extract", folder / "pid.4.dmp", "-o", tmp_path / "out", "--layout", "memory")
    assert ran.code == 3, ran.err
    (path,) = (tmp_path / "out").glob("0x*.bin")
    assert path.read_bytes()[PAGE:] == code[:PAGE] + bytes(PAGE) + code[2 * PAGE :]
    (module,) = json.loads((tmp_path / "out" / "modules.json").read_text())["modules"]
    assert module["missing_bytes"] == PAGE


def test_split_past_bad_blocks(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Segments end where regions change and where bytes cannot be read."""
    (tmp_path / "good").mkdir()
    rows: list[Piece] = [(0x10000, noise(1, 6 * PAGE))]
    write_dump(tmp_path / "good", rows)
    regions = tmp_path / "regions.csv"
    regions.write_bytes(listings.csv([listings.vad(0x10000, 0x13FFF), listings.vad(0x14000, 0x15FFF)], VADINFO))
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of([1])}) as folder:
        dump = folder / "pid.4.dmp"
        ran = invoke(capfdbinary, "carve", dump, "-o", tmp_path / "out", "--split", "region", "--regions", regions)
    assert ran.code == 3, ran.err
    content = noise(1, 6 * PAGE)
    cuts = [(0, 1), (2, 4), (4, 6)]
    assert binaries(tmp_path / "out") == named(
        {0x10000 + low * PAGE: content[low * PAGE : high * PAGE] for low, high in cuts}
    )


def test_a_carved_folder_gives_the_rest(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Bad blocks in the files of a carved folder are missing, and so is nothing else."""
    dump = write_dump(tmp_path, ROWS)
    assert invoke(capfdbinary, "carve", dump, "-o", tmp_path / "good").code == 0
    name = "0x0000000010000000-0x0000000010258000.bin"
    with unreadable(tmp_path / "good", {name: ranges_of(BAD["inside"])}) as folder:
        ran = invoke(capfdbinary, "carve", folder, "-o", tmp_path / "out")
        assert ran.code == 3, ran.err
        assert binaries(tmp_path / "out") == named(model(without(ROWS, ranges_of(BAD["inside"]))))
        checked = invoke(capfdbinary, "verify", folder)
        assert checked.code == 1
        assert f"{folder / name}: cannot be read at offset 0x{300 * PAGE:x}" in checked.err


def test_segments_look_past_bad_blocks(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """`segments` that looks at content lists what can be read, and exits 3."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    bad = ranges_of(BAD["inside"])
    with unreadable(tmp_path / "good", {"pid.4.dmp": bad}) as folder:
        dump = folder / "pid.4.dmp"
        ran = invoke(capfdbinary, "segments", dump, "--content", "headers", "--format", "json")
    assert ran.code == 3, ran.err
    rows = json.loads(ran.out)["segments"]
    assert {int(row["start"], 16): row["size"] for row in rows} == {
        start: len(data) for start, data in model(without(ROWS, bad)).items()
    }
    assert f"{3 * PAGE} bytes cannot be read" in ran.err


@pytest.mark.parametrize("side", ["before", "after"])
def test_diff_compares_past_bad_blocks(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], side: str) -> None:
    """What cannot be read of one side is unknown; all other differences are found, each once."""
    other = [(address, content) for address, content in ROWS if isinstance(content, bytes)]
    changed = bytearray(other[0][1])
    changed[5] ^= 1  # before the bad blocks, and behind them
    changed[500 * PAGE] ^= 1
    other[0] = other[0][0], bytes(changed)
    last = other[-1][1]
    other[-1] = other[-1][0], bytes([last[0] ^ 1]) + last[1:]
    for name, rows in (("good", ROWS), ("other", other)):
        (tmp_path / name).mkdir()
        write_dump(tmp_path / name, rows)
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["inside"])}) as folder:
        sides = [folder / "pid.4.dmp", tmp_path / "other" / "pid.4.dmp"][:: 1 if side == "before" else -1]
        ran = invoke(capfdbinary, "diff", *sides, "--changed-pages", "--format", "json")
    assert ran.code == 3, ran.err
    pages = [int(row["start"], 16) for row in json.loads(ran.out)["pages"]]
    assert pages == [0x10000000, 0x10000000 + 500 * PAGE, 0x50000000]
    assert f"{3 * PAGE} bytes cannot be read" in ran.err


def test_read_names_the_address_that_cannot_be_read(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """`read` gives exactly the bytes, or says which of them cannot be read, and prints none."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    with unreadable(tmp_path / "good", {"pid.4.dmp": ranges_of(BAD["inside"])}) as folder:
        dump = folder / "pid.4.dmp"
        good = invoke(capfdbinary, "read", dump, "0x10000000", str(300 * PAGE), "--raw")
        assert (good.code, good.out) == (0, noise(1, 300 * PAGE))
        ran = invoke(capfdbinary, "read", dump, hex(0x10000000 + 299 * PAGE), str(2 * PAGE), "--raw")
        assert (ran.code, ran.out) == (1, b"")
        assert f"0x{0x10000000 + 300 * PAGE:x}: mapped but missing (unreadable)" in ran.err


def test_the_library_says_what_helps(tmp_path: Path) -> None:
    """From the library a carve raises UnreadableError, and the process without what cannot be read is carved."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    bad = ranges_of(BAD["edges"])
    with (
        unreadable(tmp_path / "good", {"pid.4.dmp": bad}) as folder,
        memcarve.open(folder / "pid.4.dmp") as container,
    ):
        process = container.process()
        with pytest.raises(memcarve.UnreadableError, match="cannot be read at offset 0x0") as caught:
            memcarve.carve(process, process.segments(), tmp_path / "out")
        assert (caught.value.subject, caught.value.offset) == (str(folder / "pid.4.dmp"), 0)
        there = process.readable()
        result = memcarve.carve(there, there.segments(), tmp_path / "out")
        assert not result.complete
        assert process.space.missing.total == 0  # which stays as it was
    assert binaries(tmp_path / "out") == named(model(without(ROWS, bad)))


@pytest.mark.parametrize("begin", [0, 1, 511, 512, 4095, 1 << 18, (1 << 20) - 777])
def test_what_cannot_be_read_is_found_to_the_sector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int
) -> None:
    """A medium of 512-byte sectors loses no more than the sectors that are bad."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 21))
    bad = [(0, 512), (3 * 512, 5 * 512), (1 << 20, (1 << 20) + 512), ((1 << 21) - 512, 1 << 21)]
    true = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        end = offset + sum(map(len, buffers))
        first = min((low for low, high in bad if low < end and offset < high), default=end)
        if first <= offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true(fd, [memoryview(buffers[0])[: first - offset]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with FileBacking(path) as file:
        found = unreadable_in(file, Intervals.of([(begin, file.size - begin)]))
    assert list(found.bounds()) == [(max(low, begin), high) for low, high in bad if high > begin]


def test_blocks_that_fail_now_and_then_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose errors come and go ends the work with what cannot be read, or with an error: not never."""
    write_dump(tmp_path, ROWS)
    true, calls = os.preadv, 0

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true(fd, buffers, offset)

    with memcarve.open(tmp_path / "pid.4.dmp") as container:
        process = container.process()
        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr(FileBacking, "read_into", _read_once)
        with pytest.raises(memcarve.UnreadableError):
            process.past_unreadable(lambda there: [there.space.read(0x10000000, PAGE) for _ in range(10)])


def _read_once(file: FileBacking, offset: int, buffer: memoryview) -> None:
    """Read as `read_into` does, but do not try a second time."""
    assert file.read_some(offset, buffer) == len(buffer)


def test_a_file_that_is_gone_as_a_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If hardly anything can be read, that is said instead of a list of sectors."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(4 << 30)

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr("memcarve.unreadable._MOST", 1000)
    with FileBacking(path) as backing, pytest.raises(memcarve.SourceReadError, match="is what it lies on still there"):
        unreadable_in(backing, Intervals.of([(0, backing.size)]))


def test_a_program_of_its_own_survives(tmp_path: Path) -> None:
    """Bad blocks are no signal that ends the program."""
    (tmp_path / "good").mkdir()
    write_dump(tmp_path / "good", ROWS)
    bad = ranges_of(range(600, 680, 7))
    with unreadable(tmp_path / "good", {"pid.4.dmp": bad}) as folder:
        ran = run("carve", folder / "pid.4.dmp", "-o", tmp_path / "out", "--hash", "none")
    assert ran.code == 3, ran.err
    assert binaries(tmp_path / "out") == named(model(without(ROWS, bad)))
