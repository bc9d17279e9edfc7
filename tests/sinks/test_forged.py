"""Folders forged by somebody who can recompute every sum: what verify finds, and what only the seal can tell."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import memcarve
from dumps import write_dump
from forging import is_founded, others, places, put, taken
from listings import VADINFO, csv, vad
from memcarve import Labelling, SinkOptions
from memcarve.formats import manifest
from memory import PAGE, noise
from sweeps import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dumps import Piece

#: a page of zeros, a run of two extents whose places are exchanged, a gap in the dump's rows
ROWS: list[Piece] = [
    (0x10000, noise(1, 2 * PAGE)), (0x20000, bytes(PAGE)), (0x41000, noise(3)), (0x40000, noise(4)),
    (0x50000, 3 * PAGE), (0x60000, noise(6)), (0x7FFF00000000, noise(7)),
]  # fmt: skip


class Carved(NamedTuple):
    """A folder and what it was carved from."""

    folder: Path
    source: Path
    regions: Path


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory) -> Carved:
    """Return a folder with labels, parts, zero pages, missing ranges and what was left out."""
    path = tmp_path_factory.mktemp("forged")
    dump = write_dump(path, ROWS)
    regions = path / "regions.csv"
    rows = [vad(0x10000, 0x10FFF, file="\\a.dll"), vad(0x11000, 0x11FFF), vad(0x40000, 0x41FFF)]
    regions.write_bytes(csv(rows, VADINFO))
    with memcarve.open(dump, hashed=True, regions=regions) as container:
        process = container.process()
        segments = process.segments(address=[(0, 0x70000)], split="region", labeller=Labelling("full"))
        memcarve.carve(process, segments, path / "out", SinkOptions(hashes=("sha256", "md5"), hash_input=True))
    return Carved(path / "out", dump, regions)


def verified(carved: Carved, folder: Path, *, source: bool) -> list[str]:
    """Return the faults that verify finds; a folder that cannot be read has one."""
    try:
        if not source:
            memcarve.verify(folder)
            return []
        with memcarve.open(carved.source, hashed=True, regions=carved.regions) as container:
            memcarve.verify(folder, container.process(), labelling=Labelling)
    except memcarve.VerificationError as error:
        return list(error.faults)
    except (memcarve.InputError, memcarve.UsageError) as error:
        return [str(error)]
    return []


def read(folder: Path) -> dict[str, Any]:
    """Return a manifest."""
    found: dict[str, Any] = json.loads((folder / "segments.json").read_text())
    return found


def reseal(folder: Path, document: dict[str, Any]) -> None:
    """Write a manifest as the program lays it out, and files of sums that fit it."""
    header = {name: value for name, value in document.items() if name not in ("missing", "segments")}
    parts = [json.dumps(header, indent=1)[:-2]]
    for name in ("missing", "segments"):
        rows = document.get(name)
        elements = [json.dumps(row) for row in rows] if isinstance(rows, list) else []
        parts.append(f',\n "{name}": [' + ",".join(f"\n  {row}" for row in elements) + "\n ]")
    text = "".join(parts) + "\n}\n"
    (folder / "segments.json").write_text(text)
    for kind in ("sha256", "md5"):
        names = [str(row.get("file")) for row in document.get("segments", ()) if isinstance(row, dict)]
        lines = [
            f"{hashlib.new(kind, (folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in names
            if manifest.FILE_NAME.fullmatch(name) and (folder / name).is_file()
        ]
        lines.append(f"{hashlib.new(kind, text.encode()).hexdigest()}  segments.json\n")
        (folder / f"{kind.upper()}SUMS").write_text("".join(lines))


@pytest.fixture
def copied(tmp_path: Path, carved: Carved) -> Path:
    """Return a copy of the folder, to be forged."""
    return shutil.copytree(carved.folder, tmp_path / "copy")


def test_what_is_forged_is_well_before(carved: Carved, copied: Path) -> None:
    """The folder is well by itself and against its source, and so it is when it is written again as it is."""
    assert verified(carved, copied, source=True) == verified(carved, copied, source=False) == []
    document = read(copied)
    reseal(copied, document)
    assert verified(carved, copied, source=True) == verified(carved, copied, source=False) == []
    assert read(copied) == document
    assert document["left_out"]
    assert document["missing"]
    assert any(row["extents"] > 1 for row in document["segments"])
    assert any(row["zero"] for row in document["segments"])
    assert all("part_of" in row for row in document["segments"])


# each value of the manifest, changed


def changes(document: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str, dict[str, Any]]]:
    """Yield documents in which one value is another, lacks, or is there twice.

    Without the long sweep each value is changed in one way, by turns in all of them.
    """
    for number, place in enumerate(places(document)):
        value = taken(document, place)
        different = [other for other in others(value) if other != value or type(other) is not type(value)]
        chosen = number % (len(different) + 1)
        for way, other in enumerate(different):
            if LONG or way == chosen:
                changed = copy.deepcopy(document)
                put(changed, place, other)
                yield place, f"{json.dumps(value)[:40]} -> {json.dumps(other)[:40]}", changed
        if LONG or chosen == len(different):
            changed = copy.deepcopy(document)
            where = taken(changed, place[:-1])
            del where[place[-1]]
            yield place, "removed", changed


def test_every_value_changed(carved: Carved, copied: Path) -> None:
    """Whatever follows from the source is found when it is another, gone, or more, though all sums fit."""
    document = read(copied)
    unseen, told, alone = [], 0, 0
    for number, (place, how, changed) in enumerate(changes(document)):
        reseal(copied, changed)
        if changed == document:
            continue
        found = verified(carved, copied, source=True)
        if is_founded(place) and not found:
            unseen.append((place, how))
        told += bool(found)
        alone += number % 4 == 0 and bool(verified(carved, copied, source=False))
        reseal(copied, document)
    assert not unseen, "\n".join(map(str, unseen))
    assert told > (600 if LONG else 200)
    assert alone > (60 if LONG else 20)


@pytest.mark.parametrize(
    "choice", [{"address": [["0x20000", "0x70000"]]}, {"half": "kernel"}, {"min_size": 2 * PAGE}, {"max_size": 1}]
)
def test_another_choice(carved: Carved, copied: Path, choice: dict[str, Any]) -> None:
    """A recorded choice that chooses anything else is a fault."""
    document = read(copied)
    document["choice"] |= choice
    reseal(copied, document)
    assert verified(carved, copied, source=True)


def test_faults_name_the_place(carved: Carved, copied: Path) -> None:
    """Each difference is told in one line, with its place, what stands there and what should."""
    document = read(copied)
    document["process"]["pid"] = 5
    document["segments"][1]["offset"] += PAGE
    reseal(copied, document)
    found = verified(carved, copied, source=True)
    row = document["segments"][1]
    assert found == [
        f"{row['file']}: offset: is {row['offset']}, and should be {row['offset'] - PAGE}",
        "segments.json: process.pid: is 5, and should be 4",
    ]


# rows, and everything that depends on them, changed by somebody who is careful


def total(document: dict[str, Any]) -> None:
    """Make the totals fit what is listed."""
    rows = document["segments"]
    document["totals"] |= {
        "segments": len(rows),
        "bytes": sum(row["size"] for row in rows),
        "extents": sum(row["extents"] for row in rows),
        "missing_bytes": sum(row["size"] for row in document["missing"]),
    }
    document["totals"]["input_bytes"] = document["totals"]["bytes"] + sum(row["bytes"] for row in document["left_out"])


def fill(document: dict[str, Any], reason: str, segments: int) -> None:
    """Put what lacks in the sum into what was left out."""
    gone = document["totals"]["input_bytes"] - sum(row["size"] for row in document["segments"])
    gone -= sum(row["bytes"] for row in document["left_out"])
    row = next((row for row in document["left_out"] if row["reason"] == reason), None)
    if row is None:
        row = {"reason": reason, "segments": 0, "bytes": 0}
        document["left_out"].append(row)
    row["segments"] += segments
    row["bytes"] += gone
    total(document)


def remove(folder: Path, document: dict[str, Any], number: int) -> dict[str, Any]:
    """Remove a segment's row and file."""
    row: dict[str, Any] = document["segments"].pop(number)
    (folder / row["file"]).unlink()
    return row


def _one(folder: Path, document: dict[str, Any]) -> None:
    remove(folder, document, 0)
    total(document)


def _one_said_to_be_left_out(folder: Path, document: dict[str, Any]) -> None:
    remove(folder, document, 1)
    fill(document, "outside --address", 1)


def _all(folder: Path, document: dict[str, Any]) -> None:
    while document["segments"]:
        remove(folder, document, 0)
    total(document)


def _all_said_to_be_left_out(folder: Path, document: dict[str, Any]) -> None:
    count = len(document["segments"])
    while document["segments"]:
        remove(folder, document, 0)
    fill(document, "zero throughout", count)


def _one_said_to_be_missing(folder: Path, document: dict[str, Any]) -> None:
    row = remove(folder, document, 2)
    gap = {"start": row["start"], "end": row["end"], "size": row["size"], "reason": "not written to the dump"}
    document["missing"] = sorted([*document["missing"], gap], key=lambda each: str(each["start"]))
    total(document)


def _shrunk(folder: Path, document: dict[str, Any]) -> None:
    row = document["segments"][-1]
    data = (folder / row["file"]).read_bytes()[:-16]
    (folder / row["file"]).unlink()
    end = int(row["start"], 16) + len(data)
    row |= {"end": f"0x{end:016x}", "size": len(data), "file": manifest.file_name(int(row["start"], 16), end)}
    row |= {kind: hashlib.new(kind, data).hexdigest() for kind in ("sha256", "md5")}
    (folder / row["file"]).write_bytes(data)
    total(document)


def _another_byte(folder: Path, document: dict[str, Any]) -> None:
    row = document["segments"][0]
    data = bytearray((folder / row["file"]).read_bytes())
    data[100] ^= 1
    (folder / row["file"]).write_bytes(data)
    row |= {kind: hashlib.new(kind, data).hexdigest() for kind in ("sha256", "md5")}


def _zeros(folder: Path, document: dict[str, Any]) -> None:
    row = document["segments"][0]
    data = bytes(row["size"])
    (folder / row["file"]).write_bytes(data)
    row |= {kind: hashlib.new(kind, data).hexdigest() for kind in ("sha256", "md5")} | {"zero": True}


def _exchanged(folder: Path, document: dict[str, Any]) -> None:
    one, other = [row for row in document["segments"] if row["size"] == PAGE and not row["zero"]][:2]
    first, second = folder / one["file"], folder / other["file"]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    for kind in ("sha256", "md5"):
        one[kind], other[kind] = other[kind], one[kind]


def _one_more(folder: Path, document: dict[str, Any]) -> None:
    row = {**document["segments"][-1], "start": "0x0000000000068000", "end": "0x0000000000069000", "size": PAGE}
    row["file"] = manifest.file_name(0x68000, 0x69000)
    row["part_of"] = {"start": row["start"], "end": row["end"]}
    (folder / row["file"]).write_bytes((folder / document["segments"][-1]["file"]).read_bytes())
    document["segments"].append(row)
    total(document)


def _less_missing(_: Path, document: dict[str, Any]) -> None:
    document["missing"] = []
    document["complete"] = True
    total(document)


def _complete(_: Path, document: dict[str, Any]) -> None:
    document["complete"] = True


def _another_process(_: Path, document: dict[str, Any]) -> None:
    document["process"] |= {"pid": 88, "name": "other.exe"}


def _another_input(_: Path, document: dict[str, Any]) -> None:
    document["inputs"]["dump"]["sha256"] = "00" * 32


def _no_hash_of_the_input(_: Path, document: dict[str, Any]) -> None:
    document["inputs"]["map"]["sha256"] = "11" * 32


def _another_table(_: Path, document: dict[str, Any]) -> None:
    document["inputs"]["evidence"][0]["sha256"] = "22" * 32


def _said_to_be_a_programs_choice(folder: Path, document: dict[str, Any]) -> None:
    remove(folder, document, 0)
    fill(document, "outside --address", 1)
    document["choice"]["address"] = [["0x20000", "0x70000"]]
    document["left_out"][0]["bytes"] -= PAGE
    total(document)


CAREFUL: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    name.removeprefix("_"): change for name, change in list(globals().items())
    if name in {
        "_one", "_one_said_to_be_left_out", "_all", "_all_said_to_be_left_out", "_one_said_to_be_missing", "_shrunk",
        "_another_byte", "_zeros", "_exchanged", "_one_more", "_less_missing", "_complete", "_another_process",
        "_another_input", "_no_hash_of_the_input", "_another_table", "_said_to_be_a_programs_choice",
    }
}  # fmt: skip


@pytest.mark.parametrize("how", CAREFUL)
def test_careful(carved: Carved, copied: Path, how: str) -> None:
    """Somebody who makes every sum and total fit is found out by the source, and by the seal without it."""
    seal = hashlib.sha256((copied / "segments.json").read_bytes()).hexdigest()
    memcarve.verify(copied, seal=seal)
    document = read(copied)
    CAREFUL[how](copied, document)
    reseal(copied, document)
    assert verified(carved, copied, source=True)
    with pytest.raises(memcarve.VerificationError, match="the seal is"):
        memcarve.verify(copied, seal=seal.upper())


def test_labels_removed(carved: Carved, copied: Path) -> None:
    """A folder without any label says nothing that is not so; a note says that it has none, and the seal tells."""
    seal = hashlib.sha256((copied / "segments.json").read_bytes()).hexdigest()
    document = read(copied)
    del document["labels"]
    for row in document["segments"]:
        row.pop("labels", None)
    reseal(copied, document)
    with memcarve.open(carved.source, hashed=True, regions=carved.regions) as container:
        found = memcarve.verify(copied, container.process(), labelling=Labelling)
    assert any("no labels" in note for note in found.notes)
    with pytest.raises(memcarve.VerificationError, match="the seal is"):
        memcarve.verify(copied, seal=seal)


@pytest.mark.parametrize("content", ["none", "headers"])
@pytest.mark.parametrize("options", [{}, {"label_names": True}, {"label_names": True, "hashes": ()}], ids=str)
def test_labels_that_are_not_compared(carved: Carved, tmp_path: Path, content: str, options: dict[str, Any]) -> None:
    """Without what makes labels, a folder that has some is held against its source in all else, names of files too."""
    with memcarve.open(carved.source, hashed=True, regions=carved.regions) as container:
        process = container.process()
        segments = process.segments(labeller=Labelling(content=content))
        memcarve.carve(process, segments, tmp_path / "out", SinkOptions(**options))
    with memcarve.open(carved.source, hashed=True, regions=carved.regions) as container:
        found = memcarve.verify(tmp_path / "out", container.process())
        assert any("labels are not compared" in note for note in found.notes)
        file = max((tmp_path / "out").glob("*.bin"))
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        with pytest.raises(memcarve.VerificationError, match=f"{re.escape(file.name)}: differs from the source at 0x"):
            memcarve.verify(tmp_path / "out", container.process())


def test_what_another_program_read(carved: Carved, copied: Path) -> None:
    """Of what another program read, by its own account, its labels, words in names and facts of the process are noted.

    Every byte, every row and the process's number are compared all the same.
    """
    document = read(copied)
    next(iter(document["inputs"].values()))["read_by"] = "Another 1.0"
    document["process"]["name"] = "another"
    for row in document["segments"]:
        row["labels"] = {}
        before, row["file"] = row["file"], row["file"].replace(".bin", ".pid.7.bin")
        (copied / before).rename(copied / row["file"])
    reseal(copied, document)
    with memcarve.open(carved.source, hashed=True, regions=carved.regions) as container:
        found = memcarve.verify(copied, container.process(), labelling=Labelling)
    assert any("was read by Another 1.0" in note for note in found.notes)
    (copied / row["file"]).write_bytes(bytes(row["size"]))
    for name, hashed in (("sha256", hashlib.sha256), ("md5", hashlib.md5)):
        row[name] = hashed(bytes(row["size"])).hexdigest()
    reseal(copied, document)
    assert any("differs from the source at 0x" in fault for fault in verified(carved, copied, source=True))
    document["process"]["pid"] = 5
    document["segments"].pop(0)
    reseal(copied, document)
    faults = verified(carved, copied, source=True)
    assert any("process.pid" in fault for fault in faults)
    assert any("is in the source, and not in segments.json" in fault for fault in faults)


@pytest.mark.parametrize("seal", ["", "12", "x" * 64, "0" * 63, "0" * 65, "sha256:" + "0" * 64])
def test_seal_that_is_none(copied: Path, seal: str) -> None:
    """What cannot be a SHA-256 is refused, with what to give."""
    with pytest.raises(memcarve.UsageError, match="is not a seal; give the 64 hexadecimal digits"):
        memcarve.verify(copied, seal=seal)
