"""A carved folder opens as the memory it was carved from, and one that was tampered with does not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import memcarve
import sinking
import winimage
from carved import binaries, file_name, manifest, model
from cli import invoke
from dumps import write_dump, write_several
from files import EXAMPLE, listing
from memcarve import backing as backing_module
from memcarve.backing import FileBacking, FolderBacking
from memcarve.errors import (
    AddressError,
    InputError,
    MemcarveError,
    NotRecognisedError,
    OverlapError,
    SourceReadError,
    TruncatedError,
    UsageError,
)
from memcarve.metadata import Parameters
from memcarve.missing import CUT_OFF, NOT_WRITTEN
from memcarve.sources.opening import OpenOptions
from memcarve.sources.recognised import CARVED
from memory import PAGE, noise
from opening import opened_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dumps import Piece
    from memcarve.process import ProcessMemory
    from memcarve.sources.folder.carved import FolderContainer
    from winimage import Truth

    Capture = pytest.CaptureFixture[bytes]

TOP = 1 << 64
ROWS: list[Piece] = [
    (0x20000, noise(1)),
    (0x40000, noise(2)),
    (0x21000, noise(3)),
    (0x60000, noise(4, 3 * PAGE)),
    (0xF80000000000, bytes(PAGE)),
    (0xFFFFFFFFF000, noise(5)),
]


def carved(folder: Path, rows: list[Piece] = ROWS, **options: Any) -> Path:
    """Carve a dump of some rows; return the folder."""
    with memcarve.open(write_dump(folder, rows)) as dump:
        sinking.carve(dump.process(), folder / "carved", **options)
    return folder / "carved"


def opened(path: str | Path) -> FolderContainer:
    """Open a folder as the registry of sources does."""
    return opened_as(CARVED, path)


def contents(process: ProcessMemory) -> dict[int, bytes]:
    """Return start and content of each segment."""
    return {part.start: process.space.read(part.start, part.size) for part in process.segments()}


# what a folder holds


@pytest.mark.parametrize("options", [{}, {"hashes": ()}, {"sparse": True}, {"hashes": ("md5", "sha1")}])
def test_as_the_dump(tmp_path: Path, options: dict[str, Any]) -> None:
    """Segments, bytes and what is known of the process are those that were carved; the files lie end to end."""
    folder = carved(tmp_path, **options)
    with opened(folder) as container:
        (entry,) = container.processes()
        process = container.process(4)
        assert (entry.pid, entry.name, process.pid, process.name) == (4, None, 4, None)
        assert contents(process) == model(ROWS)
        place = 0
        for segment, record in zip(process.segments(), manifest(folder)["segments"], strict=True):
            assert (segment.name + ".bin", segment.offset, segment.extents) == (record["file"], place, 1)
            place += segment.size
        assert process.space.backing.size == process.input_bytes == place
        digest = hashlib.sha256((folder / "segments.json").read_bytes()).hexdigest()
        assert process.inputs == {"folder": {"path": str(folder), "size": place, "manifest_sha256": digest}}
        assert process.notes[0] == f"{folder}: carved from {tmp_path / 'pid.4.dmp'}"
        assert set(manifest(folder)["notes"]) <= set(process.notes)
        assert not process.incomplete
        assert str(container) == str(folder)


def test_the_example(tmp_path: Path) -> None:
    """Every segment of the example reads the same from its folder as from its dump, and is found and located there."""
    with memcarve.open(EXAMPLE) as dump:
        process = dump.process()
        sinking.carve(process, tmp_path / "carved")
        with opened(tmp_path / "carved") as container:
            again = container.process()
            assert contents(again) == contents(process)
            hits = [(hit.address, hit.segment.start) for hit in again.space.find([b"MZ", b"\0\0\x01"])]
            assert hits == [(hit.address, hit.segment.start) for hit in process.space.find([b"MZ", b"\0\0\x01"])]
            for segment in again.segments():
                where, extent = again.space.locate(segment.end - 1)
                assert (where.start, extent.start) == (segment.start, segment.start)
                assert again.space.addresses_of(segment.offset) == [segment.start]


@pytest.mark.parametrize("hashes", [("sha256",), ()])
def test_carved_again(tmp_path: Path, hashes: tuple[str, ...]) -> None:
    """A folder carved from a folder holds the same files, and every byte of it is accounted for."""
    folder = carved(tmp_path, hashes=hashes)
    with opened(folder) as container:
        result = sinking.carve(container.process(), tmp_path / "again", hashes=hashes)
        found = memcarve.verify(tmp_path / "again", container.process())
    assert binaries(tmp_path / "again") == binaries(folder)
    assert listing(tmp_path / "again") == listing(folder)
    assert (result.bytes, result.input_bytes, result.left_out) == (8 * PAGE, 8 * PAGE, [])
    assert found.compared
    assert found.count == len(binaries(folder))
    assert manifest(tmp_path / "again")["inputs"]["folder"]["path"] == str(folder)
    assert manifest(tmp_path / "again")["process"] == manifest(folder)["process"]
    if sys.platform == "linux" and not hashes:
        assert not any("read" in way for way in result.moved)


def test_exported_again(tmp_path: Path) -> None:
    """A folder exports as the memory map and dump of a process, whose segments are the same."""
    rows = ROWS[:-1]  # what such maps print of the very last page is one byte short
    with opened(carved(tmp_path, rows)) as container:
        (tmp_path / "out").mkdir()
        result = sinking.export_memmap(container.process(), tmp_path / "out")
    with memcarve.open(result.files[1]) as dump:
        assert contents(dump.process()) == model(rows)


def test_labelled_names(tmp_path: Path) -> None:
    """Files whose names have words after the addresses are the same segments."""
    folder = carved(tmp_path)
    text = (folder / "segments.json").read_text()
    for number, name in enumerate(binaries(folder)):
        words = (".r-x.ntdll.dll", ".rw-", ".---.a_b-c", ".x", "")[number]
        (folder / name).rename(folder / name.replace(".bin", f"{words}.bin"))
        text = text.replace(name, name.replace(".bin", f"{words}.bin"))
    (folder / "segments.json").write_text(text)
    with opened(folder) as container:
        assert contents(container.process()) == model(ROWS)


def test_missing_and_cut_off(tmp_path: Path) -> None:
    """What the dump lacked the folder lacks for the same reasons; a dump that was cut off is so for its folder, too."""
    rows: list[Piece] = [(0x1000, noise(1)), (0x2000, PAGE), (0x3000, noise(2)), (0x8000, noise(3))]
    dump = write_dump(tmp_path, rows)
    with dump.open("r+b") as file:
        file.truncate(2 * PAGE + 5)
    with memcarve.open(dump, trust="sum") as container:
        sinking.carve(container.process(), tmp_path / "carved", partial=True)
        expected = list(container.process().space.missing)
    with opened(tmp_path / "carved") as container:
        process = container.process()
        assert list(process.space.missing) == expected
        rewritten(tmp_path / "carved", lambda document: document["missing"].reverse())
        assert list(container.process().space.missing) == expected
        rewritten(tmp_path / "carved", lambda document: document["missing"].reverse())
        assert {gap.reason for gap in expected} == {NOT_WRITTEN, CUT_OFF}
        assert (process.incomplete, process.first_cut_off) == (True, 0x8005)
        with pytest.raises(AddressError, match="mapped but missing"):
            process.space.read(0x2000, 1)
        with pytest.raises(TruncatedError):
            sinking.carve(process, tmp_path / "again")
        assert not sinking.carve(process, tmp_path / "again", partial=True).complete
    assert manifest(tmp_path / "again")["missing"] == manifest(tmp_path / "carved")["missing"]


def test_left_out(tmp_path: Path) -> None:
    """What was left out when the folder was carved is remarked upon; the half it is about is known."""
    selection = memcarve.Selection(half="user", min_size=2 * PAGE)
    with opened(carved(tmp_path, selection=selection)) as container:
        process = container.process()
        assert process.half == "user"
        assert process.warnings == [
            f"{2 * PAGE} bytes were left out when it was carved: outside --range user",
            f"{PAGE} bytes were left out when it was carved: below --min-size",
        ]
        assert sorted(contents(process)) == [0x20000, 0x60000]


def test_several_processes(tmp_path: Path) -> None:
    """The folder above several holds each of them, and each reads as its own."""
    rows = {4: ROWS[:2], 8: ROWS[2:4], 15: ROWS[4:]}
    with memcarve.open(write_several(tmp_path, rows)) as container:
        sinking.carve_several(container, [2, 0, 1], tmp_path / "carved")
    with opened(tmp_path / "carved") as container:
        assert sorted(entry.pid or 0 for entry in container.processes()) == [4, 8, 15]
        for pid, own in rows.items():
            assert contents(container.process(pid)) == model(own)
        with pytest.raises(UsageError, match="holds 3 processes"):
            container.process()
        sinking.carve_several(container, [0, 1, 2], tmp_path / "again")
    for pid, own in rows.items():
        assert binaries(tmp_path / "again" / str(pid)) == {
            file_name(start, len(data)): data for start, data in model(own).items()
        }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return an image."""
    return winimage.build(tmp_path_factory.mktemp("image") / "mem.raw")


@pytest.mark.parametrize("split", ["none", "permissions"])
@pytest.mark.parametrize("half", ["user", "kernel", "all"])
def test_as_the_image(tmp_path: Path, image: Truth, half: str, split: str) -> None:
    """What an image told of a process its folder tells, too; what was split is whole again."""
    with memcarve.open(image.path) as container:
        process = container.process(1624, half=half)
        sinking.carve(process, tmp_path / "carved", split=split, selection=memcarve.Selection(half))
        with opened(tmp_path / "carved") as folder:
            again = folder.process()
            assert (again.entry, again.pid, again.name) == (process.entry, process.pid, process.name)
            assert (again.architecture, again.address_bits) == (process.architecture, process.address_bits)
            assert (again.half, again.kernel_half, again.pages) == (half, process.kernel_half, None)
            assert list(again.space.missing) == list(process.space.missing)
            assert again.incomplete == process.incomplete
            found = [(start, len(data), hashlib.sha256(data).hexdigest()) for start, data in contents(again).items()]
    assert found == [tuple(segment) for segment in image.segments(1624, half)]


def test_wide_addresses(tmp_path: Path) -> None:
    """Addresses of five levels of page tables are known to be wide, those of four are not."""
    for number, (address, bits) in enumerate([(0x7FFFFFFFF000, 48), (1 << 47, 57), (0xFFFFFFFFF000, 57)]):
        (tmp_path / str(number)).mkdir()
        rows: list[Piece] = [(0xFF000000000000, noise(1))] if bits > 48 else []
        with memcarve.open(write_dump(tmp_path / str(number), [*rows, (address, noise(2))])) as dump:
            process = dump.process()
            sinking.carve(process, tmp_path / str(number) / "carved")
            with opened(tmp_path / str(number) / "carved") as container:
                assert (container.process().address_bits, process.address_bits) == (bits, bits)
                assert contents(container.process()) == contents(process)


def test_commands(tmp_path: Path, capfdbinary: Capture) -> None:
    """Every command that takes an input takes a folder, and prints what it prints of the dump."""
    folder = carved(tmp_path)
    dump = tmp_path / "pid.4.dmp"
    for words in (
        ["read", "0x20fff", "2", "--raw"],
        ["processes", "--format", "jsonl"],
        ["segments", "--min-size", "0x3000", "--format", "csv"],
    ):
        ran = invoke(capfdbinary, words[0], folder, *words[1:])
        expected = invoke(capfdbinary, words[0], dump, *words[1:]).out
        assert (ran.code, ran.out) == (0, expected)
    needle = noise(4, 3 * PAGE)[PAGE - 8 : PAGE + 8].hex()
    hits = invoke(capfdbinary, "find", folder, "--hex", needle, "--format", "jsonl")
    assert [json.loads(line)["address"] for line in hits.out.splitlines()] == [f"0x{0x61000 - 8:016x}"]
    places = invoke(capfdbinary, "locate", folder, "0x60001", "--format", "jsonl")
    assert json.loads(places.out)["offset"] == 3 * PAGE + 1
    assert invoke(capfdbinary, "verify", folder, "--source", dump).code == 0


def test_evidence(tmp_path: Path) -> None:
    """Files that list regions say of a folder what they say of the dump, and are recorded."""
    (tmp_path / "maps").write_text("00020000-00022000 r-xp 00000000 08:01 17    /bin/true\n")
    folder = carved(tmp_path)
    with opened_as(CARVED, folder, OpenOptions(regions=(str(tmp_path / "maps"),))) as container:
        process = container.process()
        ((region,),) = process.metadata.regions
        assert (region.start, region.end, region.file, region.collapsed) == (0x20000, 0x22000, "/bin/true", "r-x")
        (recorded,) = process.used_inputs["evidence"]
        assert recorded["sha256"] == hashlib.sha256((tmp_path / "maps").read_bytes()).hexdigest()
    with opened(folder) as container:
        assert container.process().metadata == memcarve.Metadata()


def test_what_processes_say_of_themselves(tmp_path: Path) -> None:
    """A folder of a process of an image keeps what it was started with and unloaded; the environment on request."""
    truth = winimage.build(tmp_path / "mem.raw", processes=winimage.USERLAND)
    with memcarve.open(truth.path) as machine:
        for pid in (4, 1624, 2036):
            process = machine.process(pid)
            for environment in (False, True):
                folder = tmp_path / f"{pid}-{environment}"
                sinking.carve(process, folder, environment=environment)
                with opened(folder) as container:
                    again = container.process().metadata
                # but for halves of characters
                assert again.parameters == tuple(
                    Parameters(
                        f"{one.source}, as segments.json has it",
                        *((text or "").replace("\ud800", r"\ud800") for text in one[1:4]),
                        tuple(text.replace("\ud800", r"\ud800") for text in one.environment or ())
                        if environment
                        else None,
                    )
                    for one in process.metadata.parameters
                )
                assert [(one.source, list(one.rows)) for one in again.unloaded] == [
                    (
                        f"{one.source}, as segments.json has it",
                        [row._replace(name=(row.name or "").replace("\ud800", r"\ud800")) for row in one.rows],
                    )
                    for one in process.metadata.unloaded
                ]
                if pid != 4:
                    assert "VARIABLE_79" in (folder / "segments.json").read_text() or not environment
                # and once more
                with opened(folder) as container:
                    sinking.carve(container.process(), tmp_path / "again", labeller=memcarve.Labelling(), force=True)
                with opened(tmp_path / "again") as container:
                    assert container.process().metadata.unloaded == again.unloaded


# what a folder is not


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a folder, in the layout that memcarve writes."""
    document = manifest(folder)
    change(document)
    arrays = {name: document.pop(name) for name in ("missing", "segments")}
    text = json.dumps(document, indent=1)[:-2]
    for name, rows in arrays.items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        text += f',\n "{name}": [\n{lines}' + ("\n ]" if rows else " ]")
    (folder / "segments.json").write_text(f"{text}\n}}\n")


def test_rewritten_alike(tmp_path: Path) -> None:
    """The helper of these tests changes nothing but what it is told to."""
    folder = carved(tmp_path, [*ROWS, (0x90000, PAGE)])
    before = (folder / "segments.json").read_text()
    rewritten(folder, lambda _: None)
    assert (folder / "segments.json").read_text() == before


def second(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """Return what changes members of the second segment, which is that of 0x40000."""
    return lambda document: document["segments"][1].update(changes)


def renamed(start: int, end: int) -> Callable[[dict[str, Any]], object]:
    """Return what gives the second segment other addresses, and its file the name that goes with them."""
    return second(
        start=f"0x{start:016x}", end=f"0x{end:016x}", size=end - start, file=f"0x{start:016x}-0x{end:016x}.bin"
    )


def gap(start: int, end: int, reason: str = NOT_WRITTEN) -> Callable[[dict[str, Any]], object]:
    """Return what adds a missing range."""
    row = {"start": f"0x{start:016x}", "end": f"0x{end:016x}", "size": end - start, "reason": reason}
    return lambda document: document["missing"].append(row)


OWN = file_name(0x40000, PAGE)
MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], type[MemcarveError], str]] = {
    "a path": (second(file=f"../{OWN}"), InputError, "is not the file name of the segment 0x40000-0x41000"),
    "an absolute path": (second(file="/etc/passwd"), InputError, "is not the file name"),
    "a name with a slash": (second(file=OWN.replace(".bin", ".a/b.bin")), InputError, "is not the file name"),
    "a name with an escape": (second(file=OWN.replace(".bin", ".\x1b[31m.bin")), InputError, "is not the file name"),
    "a name with a newline": (second(file=OWN + "\n"), InputError, "is not the file name"),
    "no file of memory": (second(file="SHA256SUMS"), InputError, "is not the file name"),
    "another one's name": (second(file=file_name(0x60000, 3 * PAGE)), InputError, "is not the file name"),
    "another zero": (second(file=OWN.replace("-0x", "-0x0")), InputError, "is not the file name"),
    "no addresses": (second(start="0x41000", size=0), InputError, "is not the file name"),
    "turned around": (second(start="0x41000", end="0x40000", size=-PAGE), InputError, "damaged"),
    "a negative address": (second(start="-0x40000", size=0x81000), InputError, "is not the file name"),
    "beyond the top": (renamed(TOP - PAGE, TOP + PAGE), InputError, "is not the file name"),
    "everything": (renamed(0, TOP), InputError, r"not in order|claim"),
    "another size": (second(size=PAGE + 1), InputError, "damaged"),
    "a size as text": (second(size="4096"), InputError, "damaged"),
    "an address as number": (second(start=0x40000), InputError, "damaged"),
    "no segment": (lambda document: document["segments"].__setitem__(1, None), InputError, "damaged"),
    "twice": (
        lambda document: document["segments"].insert(1, document["segments"][1]),
        OverlapError,
        "two segments claim the address 0x40000",
    ),
    "an overlap": (renamed(0x21000, 0x23000), OverlapError, "two segments claim the address 0x21000"),
    "another order": (lambda document: document["segments"].reverse(), InputError, "not in order of addresses"),
    "a file that is not there": (renamed(0x40000, 0x42000), InputError, r"0x[0-9a-f]*42000\.bin: is missing"),
    "missing and there": (gap(0x40000, 0x41000), OverlapError, "segments.json: two rows claim the address 0x40000"),
    "missing twice": (
        lambda document: [gap(0x90000, 0x92000)(document), gap(0x91000, 0x93000)(document)],
        OverlapError,
        "0x91000",
    ),
    "missing for no reason": (gap(0x90000, 0x91000, "because"), InputError, "what is missing is damaged"),
    "missing beyond the top": (gap(TOP, TOP + 1), InputError, "what is missing is damaged"),
    "missing nothing": (gap(0x90000, 0x90000), InputError, "what is missing is damaged"),
    "missing everything": (gap(0, TOP), InputError, "what is missing is damaged"),
    "missing rubbish": (lambda document: document["missing"].append(17), InputError, "what is missing is damaged"),
    "missing depths": (
        lambda document: document["missing"].append({"start": "0x" + "f" * 5000, "end": "0x0", "reason": []}),
        InputError,
        "what is missing is damaged",
    ),
    "another schema": (lambda document: document.update(schema=99), InputError, "has schema 99"),
    "another tool": (lambda document: document.update(tool="else"), InputError, "is not a manifest"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests(tmp_path: Path, name: str) -> None:
    """A manifest that says what cannot be is refused by an error that says where and what."""
    folder = carved(tmp_path)
    change, kind, message = MANIFESTS[name]
    rewritten(folder, change)
    with pytest.raises(kind, match=message) as caught, opened(folder) as container:
        container.process()
    assert not isinstance(caught.value, NotRecognisedError)  # it is a folder, and no other source is to try
    assert str(folder) in str(caught.value)


def test_the_top_of_the_address_space(tmp_path: Path) -> None:
    """A segment that ends at 2**64 is read to its last byte."""
    with opened(carved(tmp_path)) as container:
        space = container.process().space
        assert space.read(TOP - PAGE, PAGE) == noise(5)
        with pytest.raises(AddressError):
            space.read(TOP - 1, 2)


def a_link(path: Path) -> None:
    """Put a link to the same bytes in a file's place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_pipe(path: Path) -> None:
    """Put a named pipe in a file's place."""
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    """Cut off a file's last byte."""
    os.truncate(path, path.stat().st_size - 1)


def grown(path: Path) -> None:
    """Add a byte to a file."""
    os.truncate(path, path.stat().st_size + 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither pipes nor plain links in folders")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (a_link, "is a symbolic link, not a regular file"),
        (a_pipe, "is a named pipe, not a regular file"),
        (a_folder, "is a folder, not a regular file"),
        (cut, "is 4095 bytes long and must be 4096"),
        (grown, "is 4097 bytes long and must be 4096"),
        (os.unlink, "is missing; put it back, or carve it again"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    """A file that is not as the manifest says is named, and nothing is read from it; no pipe is waited for."""
    folder = carved(tmp_path)
    damage(folder / OWN)
    with opened(folder) as container, pytest.raises(InputError, match=message) as caught:
        container.process()
    assert str(caught.value).startswith(f"{folder / OWN}: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither pipes nor plain links in folders")
@pytest.mark.parametrize("damage", [a_link, a_pipe, a_folder, os.unlink])
def test_manifest_that_is_no_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A manifest that is no regular file is not opened."""
    folder = carved(tmp_path)
    damage(folder / "segments.json")
    with pytest.raises(InputError, match=r"not a folder that memcarve carved|not a regular file"):
        opened(folder)


def test_other_inputs(tmp_path: Path) -> None:
    """A bare folder and a file are other sources', options for others are wrong."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / OWN).write_bytes(bytes(PAGE))
    for path in (tmp_path / "bare", EXAMPLE, tmp_path / "nothing"):
        with pytest.raises(NotRecognisedError, match="not a folder that memcarve carved"):
            opened(path)
    folder = carved(tmp_path)
    for options in (OpenOptions(trust="sum"), OpenOptions(dtb=0x1000), OpenOptions(limit=1)):
        with pytest.raises(UsageError, match=r"leave .* out"):
            opened_as(CARVED, folder, options)


@pytest.mark.parametrize("name", ["..", "../carved", "/etc", "4/..", ".", "", "4\n", "elsewhere", "4"])
def test_hostile_lists_of_processes(tmp_path: Path, name: str) -> None:
    """A list of processes leads to folders beside it only, to each once, and through no link."""
    rows = {4: ROWS[:2], 8: ROWS[2:4]}
    with memcarve.open(write_several(tmp_path, rows)) as container:
        sinking.carve_several(container, [0, 1], tmp_path / "carved")
    path = tmp_path / "carved" / "processes.json"
    document = json.loads(path.read_text())
    document["processes"][1]["files"] = [name]
    path.write_text(json.dumps(document))
    (tmp_path / "carved" / "elsewhere").symlink_to(tmp_path / "carved" / "8")
    with pytest.raises(InputError, match=r"not the name of a folder|is not a folder|lists a folder twice"):
        opened(tmp_path / "carved")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"tool": "memcarve"}', "[" * 100_000, '{"tool": "memcarve", "processes": []}']
)
def test_lists_of_processes_that_are_none(tmp_path: Path, text: str) -> None:
    """A list of processes that memcarve did not write, or that names none, is refused."""
    (tmp_path / "processes.json").write_text(text)
    with pytest.raises(InputError, match=r"processes\.json: is not what memcarve writes|holds no process"):
        opened(tmp_path)


def test_changed_after_it_was_opened(tmp_path: Path) -> None:
    """A file that changes after the folder was opened is noticed when it is read, and at the end of a carve."""
    folder = carved(tmp_path)
    with opened(folder) as container:
        process = container.process()
        os.utime(folder / OWN, ns=(1, 1))
        with pytest.raises(InputError, match=r"40000-.*: was changed while it was read"):
            process.space.read(0x40000, 1)
        assert process.space.read(0x20000, PAGE) == noise(1)
        selection = memcarve.Selection(address=[(0x20000, 0x20001)])
        with pytest.raises(InputError, match=r"40000-.*: was changed while it was read"):
            sinking.carve(process, tmp_path / "again", selection=selection)
        (folder / OWN).unlink()
        (folder / OWN).symlink_to(folder / file_name(0x20000, 2 * PAGE))
        with pytest.raises(MemcarveError, match="40000-"):
            process.space.read(0x40000, 1)
    with pytest.raises(SourceReadError, match="has been closed"):
        process.space.read(0x20000, 1)


def test_header_of_anything(tmp_path: Path) -> None:
    """Members of the header that are not what memcarve writes are not known; none of them does harm."""
    folder = carved(tmp_path)
    odd: list[Any] = [None, 17, -1, 1 << 70, "\x1b[31m", "0x" + "f" * 99, [], [None], {}, {"a": [1]}, True, 0.5]
    names = ["inputs", "process", "left_out", "notes", "complete", "positions", "totals", "hashes"]
    for value in odd:
        for name in names:
            rewritten(folder, lambda document, name=name, value=value: document.update({name: value}))
            with opened(folder) as container:
                assert contents(container.process()) == model(ROWS)
        members = ["pid", "name", "architecture", "parent", "created", "exited", "state", "root", "wow64", "object"]
        known = dict.fromkeys(members, value) | {"root": "0x1000"}
        rewritten(
            folder,
            lambda document, known=known, value=value: document.update(
                process=known, inputs={"image": {"paging": value, "os": value, "path": value}}
            ),
        )
        with opened(folder) as container:
            process = container.process()
            assert process.entry.root == 0x1000
            json.dumps(process.entry.facts())
        rows = ["source", "command_line", "image_path", "current_directory", "environment"]
        rows += ["base", "size", "name", "timestamp", "checksum", "sequence"]
        lists = {name: [value] for name in rows} | {"base": "0x1000"}
        for row in (value, [value], [dict.fromkeys(rows, value)], [lists]):
            said = {"parameters": row, "unloaded": row, "command_line": value}
            rewritten(folder, lambda document, said=said: document.update(process=said))
            with opened(folder) as container:
                metadata = container.process().metadata
            json.dumps(metadata.told(environment=True))
            texts = [each for one in metadata.parameters for each in (*one[:4], *(one.environment or ()))]
            texts += [each.name for one in metadata.unloaded for each in one.rows]
            assert all(each is None or isinstance(each, str) for each in texts)
            numbers = [number for one in metadata.unloaded for each in one.rows for number in (*each[:2], *each[3:])]
            assert all(number is None or 0 <= number < 1 << 64 for number in numbers)
        rewritten(folder, lambda document: document.update(process={}, inputs={}, left_out=[], notes=[]))


def test_mutated_manifests(tmp_path: Path) -> None:
    """A damaged manifest opens with files that are there and bytes that are theirs, or not at all."""
    folder = carved(tmp_path, [*ROWS, (0x90000, PAGE)])
    path, chance = folder / "segments.json", random.Random(7)  # noqa: S311 - damage needs no secrecy
    whole = path.read_bytes()
    files = set(binaries(folder).values())
    survived, messages = 0, []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data))
            how = chance.randrange(3)
            if how == 0:
                data[place] = chance.choice(b'0f",:{}[] \n\x00\xff')
            elif how == 1:
                del data[place : place + chance.randint(1, 40)]
            else:
                data[place:place] = data[place : place + chance.randint(1, 300)]
        path.write_bytes(data)
        try:
            with opened(folder) as container:
                for process in (container.process(index=index) for index in range(len(container.processes()))):
                    survived += 1
                    assert set(contents(process).values()) <= files
        except MemcarveError as error:
            messages.append(str(error))
    assert all(message.isprintable() for message in messages)
    assert survived > 20


# the backing


def filled(folder: Path, sizes: list[int]) -> tuple[FolderBacking, bytes]:
    """Write files of some sizes; return them end to end, and what they hold."""
    for number, size in enumerate(sizes):
        (folder / f"{number}.bin").write_bytes(noise(number, size))
    backing = FolderBacking(folder, [(f"{number}.bin", size) for number, size in enumerate(sizes)])
    return backing, b"".join(noise(number, size) for number, size in enumerate(sizes))


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=10),
)
def test_end_to_end(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], ranges: list[tuple[float, float]]
) -> None:
    """Any range of a folder reads as of its files end to end; the places the kernel is given hold the same bytes."""
    backing, data = filled(tmp_path_factory.mktemp("files"), sizes)
    assert backing.size == len(data)
    for low, high in ranges:
        start, end = sorted((round(low * len(data)), round(high * len(data))))
        buffer = bytearray(end - start)
        backing.read_into(start, memoryview(buffer))
        assert bytes(buffer) == data[start:end]
        spans = backing.spans(start, end - start)
        if spans is not None:
            assert b"".join(os.pread(span.file.fd, span.length, span.offset) for span in spans) == data[start:end]
            assert all(span.length for span in spans)
        else:
            assert end - start > backing_module._SPANS
    for start, size in ((-1, 1), (0, len(data) + 1), (len(data), 1)):
        with pytest.raises(SourceReadError, match="end at offset"):
            backing.read_into(start, memoryview(bytearray(size)))
    backing.check()
    backing.close()
    backing.close()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="Windows has no O_NOFOLLOW")
def test_links_are_not_followed(tmp_path: Path) -> None:
    """A file that must not be reached through a link is not, however late the link appears."""
    (tmp_path / "file").write_bytes(bytes(8))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with FileBacking(tmp_path / "link") as file:
        assert file.size == 8
    with pytest.raises(InputError, match="link: is a symbolic link, not a regular file"):
        FileBacking(tmp_path / "link", follow=False)


def test_few_files_are_open(tmp_path: Path) -> None:
    """However many files are read, few of them are open; one that somebody still holds stays open."""
    backing, data = filled(tmp_path, [10] * 200)
    (held,) = backing.spans(0, 10) or []
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for start in range(0, len(data), 7):
        size = min(9, len(data) - start)
        buffer = bytearray(size)
        backing.read_into(start, memoryview(buffer))
        assert bytes(buffer) == data[start : start + size]
        if sys.platform == "linux":
            assert len(os.listdir("/proc/self/fd")) <= before + backing_module._OPEN
    assert os.pread(held.file.fd, 10, 0) == data[:10]
    backing.close()
    assert os.pread(held.file.fd, 10, 0) == data[:10]
    fd = held.file.fd
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_from_several_threads(tmp_path: Path) -> None:
    """Threads that read here and there at once all get the right bytes."""
    backing, data = filled(tmp_path, [97] * 100)
    wrong: list[object] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        for _ in range(1500):
            start = chance.randrange(len(data))
            size = chance.randint(1, min(400, len(data) - start))
            buffer = bytearray(size)
            try:
                backing.read_into(start, memoryview(buffer))
                spans = backing.spans(start, min(size, 50)) or []
                parts = b"".join(os.pread(span.file.fd, span.length, span.offset) for span in spans)
            except (OSError, MemcarveError) as error:
                wrong.append(error)
            else:
                if bytes(buffer) != data[start : start + size] or parts != data[start : start + min(size, 50)]:
                    wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """A folder of 500 segments is read, searched and carved where a program may open 64 files."""
    pytest.importorskip("resource")
    rows: list[Piece] = [(0x10000 + 2 * PAGE * number, noise(number)) for number in range(500)]
    folder = carved(tmp_path, rows)
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import memcarve
with memcarve.open(sys.argv[1]) as container:
    process = container.process()
    for hashes in ((), ("sha256",)):
        options = memcarve.SinkOptions(hashes=hashes, threads=4)
        memcarve.carve(process, process.segments(), f"{sys.argv[2]}{len(hashes)}", options)
    print(len(list(process.space.find(process.space.read(0x10000, 32)))))
"""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(folder), str(tmp_path / "again")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "1\n", "")
    for again in (tmp_path / "again0", tmp_path / "again1"):
        assert binaries(again) == binaries(folder)


def test_the_input_is_never_replaced(tmp_path: Path, capfdbinary: Capture) -> None:
    """A folder is not carved onto itself, around itself or into itself, whatever is forced."""
    folder = carved(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for out in (folder, folder / "within", tmp_path):
        ran = invoke(capfdbinary, "carve", str(folder), "--force", "-o", str(out))
        assert (ran.code, ran.out) == (1, b""), ran.err
        assert "the input" in ran.err
        assert "-o" in ran.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
