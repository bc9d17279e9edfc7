"""Verifying what export and extract wrote: by itself, by the seal, and against the source."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli import invoke
from dumps import write_dump
from files import EXAMPLE
from forging import is_founded, others, places, put, taken
from headers import elf_page, pe_page
from memcarve import temporary_folders
from memory import PAGE, noise

if TYPE_CHECKING:
    from cli import Ran

KINDS = ("minidump", "elfcore", "flat", "scripts", "modules", "archive", "memmap")
NAMES = {
    "minidump": "x.mdmp", "elfcore": "x.core", "flat": "x.bin", "scripts": "scripts", "modules": "modules",
    "archive": "x.zip", "memmap": "pid.4.dmp",
}  # fmt: skip
#: the file that the seal is about
SEALED = {
    "minidump": "x.mdmp", "elfcore": "x.core", "flat": "x.bin.json", "scripts": "scripts/memory.json",
    "modules": "modules/modules.json",
}  # fmt: skip


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump that holds a program."""
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [(0x10000, noise(1)), (0x20000, bytes(PAGE)), (0x21000, noise(2)), (0x400000, bytes(pe_page()))]
    return write_dump(folder, rows)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return what is written."""
    return str(request.param)


@pytest.fixture
def written(tmp_path: Path, dump: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Path:
    """Write it from the dump; return its path."""
    out = tmp_path / "out"
    out.mkdir()
    path = out / NAMES[kind]
    if kind in ("modules", "archive"):
        words = ["extract", dump, "-o", path, *(["--zip"] if kind == "archive" else [])]
    elif kind == "memmap":
        words = ["export", dump, "--to", kind, "-o", out]
    else:
        more = ["--address", "0x10000-0x22000"] if kind == "flat" else []
        words = ["export", dump, "--to", kind, "-o", path, *more]
    if kind == "archive":
        pytest.importorskip("pyzipper")
    ran = invoke(capfdbinary, *words)
    assert ran.code == 0, ran.err
    return path


def verified(capture: pytest.CaptureFixture[bytes], path: Path, *more: object) -> Ran:
    """Run the command; it ends without a traceback."""
    ran = invoke(capture, "verify", path, *map(str, more))
    assert "bug in memcarve" not in ran.err
    return ran


def test_well(written: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What nobody touched is well, against its source too, wherever that lies now."""
    assert verified(capfdbinary, written).code == 0
    ran = verified(capfdbinary, written, "--source", dump)
    assert (ran.code, "every byte compared" in ran.err) == (0, True), ran.err
    moved = shutil.copytree(dump.parent, dump.parent.parent / "elsewhere") / dump.name
    ran = verified(capfdbinary, written, "--source", moved)
    assert ran.code == 0, ran.err


def test_words(written: Path, dump: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What has no hashes is checked by names and sizes alone, unless there is a source; each is said as it is."""
    alone = verified(capfdbinary, written).err.splitlines()[-1]
    with_source = verified(capfdbinary, written, "--source", dump).err.splitlines()[-1]
    if kind in ("minidump", "elfcore", "memmap"):
        assert alone.endswith("all well (no hashes recorded: names and sizes only)")
        assert with_source.endswith("all well (no hashes recorded, every byte compared with the source)")
    else:
        assert alone.endswith("all well (hashes sha256)")
        assert with_source.endswith("all well (hashes sha256, every byte compared with the source)")


@pytest.mark.parametrize("how", [[], ["--source"]])
def test_a_folder_of_a_map_and_its_dump(
    tmp_path: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes], how: list[str]
) -> None:
    """Of a map and its dump the folder is not what is checked, and the message says what is."""
    out = tmp_path / "out"
    assert invoke(capfdbinary, "export", dump, "--to", "memmap", "-o", out).code == 0
    ran = verified(capfdbinary, out, *how, *([dump] if how else []))
    assert ran.code == 1
    assert "holds no segments.json; give what memcarve carved" in ran.err
    assert ran.err.endswith("of a memory map and its dump, the map\n")


@pytest.mark.parametrize("kind", ["modules", "minidump", "elfcore", "carved"], indirect=True)
@pytest.mark.parametrize("used", ["then", "now"])
def test_tables_of_only_one_side(
    tmp_path: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes], used: str
) -> None:
    """If a table was used only then, or is used only now, that is one fault, and what differs for it is not told."""
    dump, table, path = EXAMPLE, EXAMPLE.parent / "vadinfo.txt", tmp_path / "written"
    words = {"modules": ["extract"], "carved": ["carve"]}.get(kind, ["export", "--to", kind])
    given = ["--regions", table]
    then, now = (given, []) if used == "then" else ([], given)
    ran = invoke(capfdbinary, words[0], dump, *words[1:], "-o", path, *then)
    assert ran.code == 0, ran.err
    assert verified(capfdbinary, path, "--source", dump, *then).code == 0
    ran = verified(capfdbinary, path, "--source", dump, *now)
    said = "regions came from {}, which is not used now: give it with --regions" if then else "{} is used now, and was"
    (line,) = [line for line in ran.err.splitlines() if line.startswith("memcarve: ")]
    assert ran.code == 1
    assert f"{path}: 1 fault; " in line
    assert f"inputs.evidence: {said.format(table)}" in line


def test_each_fault_has_a_line(tmp_path: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Each of several faults stands in a line of its own, once, also with -q; the last line has their number."""
    path = tmp_path / "carved"
    assert invoke(capfdbinary, "carve", dump, "-o", path).code == 0
    names = sorted(each.name for each in path.glob("0x*.bin"))[:2]
    for name in names:
        (path / name).unlink()
    ran = verified(capfdbinary, path, "-q")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        *(f"fault: {name}: is missing" for name in names),
        f"memcarve: {path}: 2 faults",
    ]


@pytest.mark.parametrize("kind", SEALED)
def test_seal(written: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The seal that was printed is that of the file that tells of all others; another one is a fault."""
    seal = hashlib.sha256((written.parent / SEALED[kind]).read_bytes()).hexdigest()
    assert verified(capfdbinary, written, "--seal", seal.upper()).code == 0
    ran = verified(capfdbinary, written, "--seal", "0" * 64)
    assert (ran.code, "the seal is" in ran.err) == (1, True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("scripts", "archive")])
def test_every_byte(written: Path, dump: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A byte that is another one, anywhere in memory that was written, is found with the source; it is named.

    Scripts hold no memory, and an archive is encrypted and authenticated.
    """
    path = next(written.glob("0x*.bin")) if kind == "modules" else written
    data = path.read_bytes()
    for place in (len(data) - 1, len(data) - PAGE, len(data) // 2):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        ran = verified(capfdbinary, written, "--source", dump)
        assert (ran.code, path.name in ran.err) == (1, True)
        path.write_bytes(data)
    path.write_bytes(data + b"x")
    assert verified(capfdbinary, written, "--source", dump).code == 1


def test_where_it_is_written_again(
    written: Path,
    dump: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """What is compared is written again into the folder that was named, or on disk, and nothing of it stays."""
    room = tmp_path / "room"
    room.mkdir()
    made: list[str] = []
    make = tempfile.mkdtemp

    def mkdtemp(*words: Any, **named: Any) -> str:
        made.append(make(*words, **named))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    assert verified(capfdbinary, written, "--source", dump, "--temp", room).code == 0
    assert any(Path(path).parent == room for path in made)
    assert not any(os.path.lexists(path) for path in made)
    monkeypatch.setattr(temporary_folders, "on_disk", lambda *_: None)
    ran = verified(capfdbinary, written, "--source", dump)
    assert (ran.code, "--temp DIR names a folder" in ran.err) == (1, True)


def test_another_source(written: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A source that differs in one byte is a fault."""
    data = bytearray(dump.read_bytes())
    data[50] ^= 1
    data[-50] ^= 1
    dump.write_bytes(data)
    assert verified(capfdbinary, written, "--source", dump).code == 1


@pytest.mark.parametrize("kind", ["flat", "scripts", "modules"], indirect=False)
def test_document_changed(written: Path, kind: str, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Whatever in the document follows from the source is found when it is another, though all sums fit."""
    path = written.parent / SEALED[kind]
    whole = path.read_bytes()
    document = json.loads(whole)
    unseen = []
    for place in places(document):
        if not is_founded(place) or (place[0] == "original" and place[-1] in ("path", "relative")):
            continue
        if place[0] == "options" or place in (("files",), ("notes",)):
            continue
        changed = copy.deepcopy(document)
        put(changed, place, others(taken(document, place))[0])
        reseal(written, kind, whole, changed)
        if verified(capfdbinary, written, "--source", dump).code == 0:
            unseen.append((place, taken(document, place)))
    assert not unseen, "\n".join(map(str, unseen))
    path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["flat"], indirect=False)
@pytest.mark.parametrize("fill", ["=1+1", "", "0x0", "000", "FF", 0, [0]], ids=str)
def test_what_is_no_byte(written: Path, kind: str, fill: object, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What gaps are said to be filled with must be a byte as it is written; anything else is a fault."""
    path = written.parent / SEALED[kind]
    document = json.loads(path.read_bytes()) | {"fill": fill, "sha256": None}
    path.write_bytes(json.dumps(document).encode())
    ran = verified(capfdbinary, written)
    assert (ran.code, "fill: is " in ran.err) == (1, True)


@pytest.mark.parametrize(
    "head",
    [b"MDMP", b"PK\3\4", bytes(elf_page(kind=4)[:64]), b"{", b"Volatility 3 Framework"],
    ids=["minidump", "archive", "core", "document", "map"],
)
def test_flat_file_that_looks_like_another(
    tmp_path: Path, head: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A flat file is known by the document beside it, whatever the memory in it begins with."""
    source = write_dump(tmp_path, [(0x5000, noise(1)), (0x10000, head.ljust(PAGE, b"\0"))])
    out = tmp_path / "x.bin"
    words = ["--to", "flat", "--address", "0x10000-0x11000", "-o", out]
    assert invoke(capfdbinary, "export", source, *words).code == 0
    assert verified(capfdbinary, out).code == 0
    assert verified(capfdbinary, out, "--source", source).code == 0


def reseal(written: Path, kind: str, whole: bytes, document: dict[str, Any]) -> None:
    """Write a document in the place of one, and sums that fit it."""
    path = written.parent / SEALED[kind]
    text = json.dumps(document).encode()
    if kind == "scripts":  # by whose beginning it is recognised
        text = whole[: whole.index(b' "version"')] + json.dumps(document, indent=1).encode().split(b' "what"', 1)[-1]
        text = json.dumps(document, indent=1).encode()
    path.write_bytes(text)
    if kind == "modules":
        sums = written / "SHA256SUMS"
        lines = sums.read_text().splitlines()
        lines[-1] = f"{hashlib.sha256(text).hexdigest()}  modules.json"
        sums.write_text("".join(f"{line}\n" for line in lines))


def test_something_else(tmp_path: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What memcarve did not write is refused, with what to give."""
    (tmp_path / "x.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "x.json").write_text('{"tool": "other"}')
    (tmp_path / "x.core").write_bytes(b"\x7fELF" + bytes(100))
    for path in (dump, tmp_path / "x.zip", tmp_path / "x.json", tmp_path / "x.core"):
        ran = verified(capfdbinary, path)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert str(path) in ran.err


def test_modules_without_sources(tmp_path: Path, dump: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A file of a module that lacks, is another or is one more is found without the source."""
    out = tmp_path / "mods"
    assert invoke(capfdbinary, "extract", dump, "-o", out).code == 0
    file = next(out.glob("0x*.bin"))
    data = file.read_bytes()
    for change in (file.unlink, lambda: file.write_bytes(data[:-1]), lambda: file.write_bytes(b"y" + data[1:])):
        change()
        ran = verified(capfdbinary, out)
        assert (ran.code, file.name in ran.err) == (1, True)
        file.write_bytes(data)
    (out / "more").write_bytes(b"")
    assert "more: is not in modules.json" in verified(capfdbinary, out).err
