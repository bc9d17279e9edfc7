"""Tables that lie beside a dump are found by their names, and taken as evidence if they can be used."""

from __future__ import annotations

import gzip
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

import listings
import maps
import memcarve
from files import put
from listings import BOTH, DLLLIST, LINUX, THREADS, VADINFO, dll, thread, vad, vma
from maps import Row, dump_of, written
from memcarve.errors import MemcarveError, SourceReadError
from memcarve.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROWS = written([(0x1000, 0x2000), (0x5000, 0x1000)])
TABLE = [vad(0x1000, 0x5FFF)]


def dump(folder: Path, name: str = "pid.4", rows: Sequence[Row] = ROWS) -> str:
    """Write a dump and its map; return the dump's path."""
    put(folder / f"{name}.map", maps.quick(rows))
    return put(folder / f"{name}.dmp", dump_of(rows))


def metadata(path: str, **options: Any) -> tuple[Metadata, dict[str, Any]]:
    """Return what is known of the only process of a dump, and its inputs after that."""
    with memcarve.open(path, **options) as container:
        process = container.process()
        assert "evidence" not in process.used_inputs
        return process.metadata, process.used_inputs


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pid.4.vadinfo.csv", listings.csv(TABLE, VADINFO)),
        ("pid.4.vadinfo.txt", listings.quick(TABLE, VADINFO)),
        ("pid.4.vadinfo", listings.quick(TABLE, VADINFO)),
        ("pid.4.vadinfo.jsonl", listings.json_lines(TABLE, VADINFO)),
        ("pid.4.vadinfo.parquet", listings.parquet(TABLE, VADINFO)),
        ("pid.4.maps", b"00001000-00006000 rw-p 00000000 00:00 0\n"),
        ("pid.4.maps.txt", b"00001000-00006000 rw-p 00000000 00:00 0\n"),
        ("pid.4.maps.json", listings.json_array([vma(0x1000, 0x6000, None)], LINUX)),
    ],
)
def test_regions_are_found_beside_the_dump(name: str, data: bytes, tmp_path: Path) -> None:
    """A table that lies beside the dump under its name is taken, noted, and recorded with the inputs."""
    path = put(tmp_path / name, data)
    found, inputs = metadata(dump(tmp_path))
    assert [(row.start, row.end) for row in found.regions[0]] == [(0x1000, 0x6000)]
    assert found.regions[0].source.endswith(f" ({name})")
    assert any(note.startswith(f"regions: {path}, ") for note in found.notes)
    (file,) = inputs["evidence"]
    assert (file["kind"], file["path"], file["size"]) == ("regions", path, len(data))
    assert file["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("stem", ["pid.4", "case 7", "pid.4-1"])
def test_all_kinds_are_found_beside_a_dump_of_any_name(stem: str, tmp_path: Path) -> None:
    """The dump's own name counts, and so does pid.N where the pid is known; nothing else does."""
    put(tmp_path / f"{stem}.vadinfo.csv.gz", gzip.compress(listings.csv(TABLE, VADINFO)))
    put(tmp_path / f"{stem}.dlllist.json", listings.json_array([dll(0x1000, 1, "a", "b")], DLLLIST))
    put(tmp_path / "pid.4.threads.txt", listings.quick([thread(8, 1, 2)], THREADS))
    put(tmp_path / "pid.5.vadinfo.csv", listings.csv(TABLE, VADINFO))
    put(tmp_path / "vadinfo.csv", listings.csv(TABLE, VADINFO))
    found, inputs = metadata(dump(tmp_path, stem))
    assert [len(found.regions), len(found.modules), len(found.threads)] == [1, 1, 1]
    assert [file["kind"] for file in inputs["evidence"]] == ["regions", "modules", "threads"]


def test_nothing_beside_the_dump_is_nothing_known(tmp_path: Path) -> None:
    """Without such files there is no source, no note, no input."""
    found, inputs = metadata(dump(tmp_path))
    assert found == Metadata()
    assert inputs.keys() == {"map", "dump"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"nonsense\n", "does not hold a known table"),
        (maps.quick(ROWS), "is a memory map"),
        (listings.csv([dll(0, 1, "a", "a")], DLLLIST), "holds modules"),
        (listings.csv([vad(9, 1)], VADINFO), "line 2"),
        (listings.csv([vad(1, 9, pid=7)], VADINFO), "no row of process 4"),
    ],
)
def test_what_lies_beside_the_dump_and_cannot_be_used_is_noted(data: bytes, why: str, tmp_path: Path) -> None:
    """A file that was found and not asked for is no error: a note says why it is not used, and the next is tried."""
    path = put(tmp_path / "pid.4.vadinfo.csv", data)
    found, inputs = metadata(dump(tmp_path))
    assert found.regions == ()
    assert [note for note in found.notes if note.startswith(path) and why in note and "not used" in note]
    assert "evidence" not in inputs
    put(tmp_path / "pid.4.vadinfo.json", listings.json_array(TABLE, VADINFO))
    found, inputs = metadata(dump(tmp_path))
    assert [each.source for each in found.regions] == ["windows.vadinfo (pid.4.vadinfo.json)"]
    with pytest.raises(MemcarveError, match=re.escape(path)):
        metadata(dump(tmp_path), regions=path)


def test_the_map_itself_is_no_evidence(tmp_path: Path) -> None:
    """A map that was given under a name that evidence has is not read as such."""
    put(tmp_path / "pid.4.dmp", dump_of(ROWS))
    path = put(tmp_path / "pid.4.maps.txt", maps.quick(ROWS))
    assert metadata(str(tmp_path / "pid.4.dmp"), memory_map=path)[0] == Metadata()


def test_evidence_is_not_taken_for_the_map(tmp_path: Path) -> None:
    """What lies beside a dump as evidence does not stand in the way of the map, under whatever ending that is."""
    for ending in ("map", "txt", "csv", "json"):
        folder = tmp_path / ending
        folder.mkdir()
        put(folder / "pid.4.vadinfo.csv", listings.csv(TABLE, VADINFO))
        put(folder / "pid.4.maps.txt", b"00001000-00006000 rw-p 00000000 00:00 0\n")
        put(folder / f"pid.4.{ending}", maps.quick(ROWS))
        found, inputs = metadata(put(folder / "pid.4.dmp", dump_of(ROWS)))
        assert inputs["map"]["path"] == str(folder / f"pid.4.{ending}")
        assert len(found.regions) == 2


def test_what_is_given_takes_the_place_of_what_is_found(tmp_path: Path) -> None:
    """Files are looked for only of the kinds of which none was given; one path or several may be."""
    put(tmp_path / "pid.4.vadinfo.csv", listings.csv(TABLE, VADINFO))
    put(tmp_path / "pid.4.dlllist.csv", listings.csv([dll(0x1000, 1, "a", "b")], DLLLIST))
    given = tmp_path / "given.csv"
    put(given, listings.csv([vad(0x9000, 0x9FFF)], VADINFO))
    for regions_given in (given, str(given), [given]):
        found, _ = metadata(dump(tmp_path), regions=regions_given)
        assert [row.start for each in found.regions for row in each] == [0x9000]
        assert len(found.modules) == 1
    found, _ = metadata(dump(tmp_path), regions=[given, given])
    assert len(found.regions) == 2


def test_a_given_file_that_is_not_there_is_an_error_when_it_is_needed(tmp_path: Path) -> None:
    """A wrong path is said when evidence is asked for; the process can be opened without."""
    with memcarve.open(dump(tmp_path), threads=tmp_path / "none") as container:
        process = container.process()
        assert process.segments().total == 0x3000
        with pytest.raises(SourceReadError, match="none"):
            _ = process.metadata


def test_a_map_of_several_processes(tmp_path: Path) -> None:
    """Each process has what is named after its pid; what has the map's name is of all of them and taken for none."""
    both = [*written([(0x1000, 0x1000)], "pid.4.dmp"), *written([(0x5000, 0x1000)], "pid.8.dmp")]
    put(tmp_path / "pid.4.dmp", dump_of(both[:1]))
    path = put(tmp_path / "all.map", maps.quick(both))
    put(tmp_path / "all.maps", b"00001000-00006000 rw-p 00000000 00:00 0\n")
    put(tmp_path / "pid.8.vadinfo.csv", listings.csv([vad(0x5000, 0x5FFF, pid=8)], VADINFO))
    with memcarve.open(path) as container:
        assert container.process(4).metadata == Metadata()
        assert [row.start for row in container.process(8).metadata.regions[0]] == [0x5000]
    table = put(tmp_path / "table", listings.csv(BOTH, VADINFO))
    with memcarve.open(path, regions=table) as container:
        assert [len(container.process(pid).metadata.regions[0]) for pid in (4, 8)] == [2, 1]
