"""What is recorded of the work in everything that is written: the machine, the case, the inputs and their hash."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memcarve
import sinking
import winimage
from cli import invoke
from dumps import write_dump, write_several
from files import listing
from memcarve.errors import InputError, UsageError
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dumps import Piece

Capture = pytest.CaptureFixture[bytes]

ROWS: list[Piece] = [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2)), (0x21000, noise(3))]


def _inside(path: Path) -> dict[str, Any]:
    """Return the document that a file holds: it begins with its schema, wherever that is."""
    data = path.read_bytes()
    found, _ = json.JSONDecoder().raw_decode(data[data.index(b'{"schema"') :].decode("latin-1"))
    return dict(found)


#: by sink, where its document is found
DOCUMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "segments": lambda path: json.loads((path / "segments.json").read_bytes()),
    "minidump": _inside,
    "elfcore": _inside,
    "flat": lambda path: json.loads(path.with_name(path.name + ".json").read_bytes()),
    "scripts": lambda path: json.loads((path / "memory.json").read_bytes()),
}


@pytest.fixture(params=DOCUMENTS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return each sink that writes a document."""
    return str(request.param)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump, beside its map."""
    (tmp_path / "source").mkdir()
    return write_dump(tmp_path / "source", ROWS, 1624)


def written(kind: str, dump: Path, **options: Any) -> dict[str, Any]:
    """Write a dump's process, and return the document about it."""
    out = dump.parent.parent / "out"
    with memcarve.open(dump) as container:
        sinking.write(kind, container.process(), out, **options)
    return DOCUMENTS[kind](out)


def test_the_run(kind: str, dump: Path) -> None:
    """Every document says when the work began and ended, on what machine, by whom, and with which programs."""
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    said = written(kind, dump)
    after = dt.datetime.now(dt.UTC)
    run = said["run"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run[name]) for name in ("begin", "end"))
    begin, end = (dt.datetime.fromisoformat(run[name]) for name in ("begin", "end"))
    assert before <= begin <= end <= after
    assert said["time"] == run["end"]
    assert run["host"] == platform.node()
    assert platform.release() in run["system"]
    assert run["python"].endswith(platform.python_version())
    assert run["libraries"]["numpy"] == np.__version__
    assert run["memcarve"] == memcarve.__version__
    if sys.platform == "linux":
        assert run["user"] == pytest.importorskip("pwd").getpwuid(os.getuid()).pw_name
        assert run["clock_synchronised"] in (True, False, None)


def test_a_beginning_that_is_given(kind: str, dump: Path) -> None:
    """A caller whose work began before it called a sink says when."""
    begin = dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert written(kind, dump, begin=begin)["run"]["begin"] == "2026-02-03T03:05:06Z"


def test_case_and_operator(kind: str, dump: Path) -> None:
    """What the user says of the case stands in every document, as it was said; null if nothing was."""
    said = written(kind, dump, case_id="K 1/2026", operator='Ö. "M" </script>')
    assert (said["case_id"], said["operator"]) == ("K 1/2026", 'Ö. "M" </script>')
    assert written(kind, dump, force=True)["case_id"] is None


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "\x1b[2J", "\u202egnp", "\udcff", "x" * 1001])
@pytest.mark.parametrize("name", ["case_id", "operator"])
def test_text_that_is_refused(name: str, text: str) -> None:
    """Text about a case is visible characters on one line, of bounded length, and not empty."""
    with pytest.raises(UsageError, match=name):
        memcarve.SinkOptions(**{name: text})  # type: ignore[arg-type]


def test_inputs_before_and_after(kind: str, dump: Path) -> None:
    """Of each input its length, time of modification and identity stand there, and the first two as they are now."""
    os.utime(dump, ns=(1, 1_700_000_000_123_456_789))
    said = written(kind, dump)["inputs"]
    for name, path in (("dump", dump), ("map", dump.with_suffix(".map"))):
        status = path.stat()
        assert said[name]["size"] == said[name]["size_after"] == status.st_size
        assert said[name]["modified"] == said[name]["modified_after"]
        assert (said[name]["device"], said[name]["inode"]) == (status.st_dev, status.st_ino)
    assert said["dump"]["modified"] == "2023-11-14T22:13:20.123456789Z"


def test_a_map_that_changes(dump: Path, tmp_path: Path) -> None:
    """A map that is written to after it was read is recorded as it was and as it is."""
    memory_map = dump.with_suffix(".map")
    length = memory_map.stat().st_size
    with memcarve.open(dump) as container:
        process = container.process()
        with memory_map.open("a") as file:
            file.write("more\n")
        sinking.carve(process, tmp_path / "out")
    said = DOCUMENTS["segments"](tmp_path / "out")["inputs"]["map"]
    assert (said["size"], said["size_after"]) == (length, length + 5)
    assert said["modified"] != said["modified_after"]


# the input's hash


def test_the_hash_of_the_input(kind: str, dump: Path) -> None:
    """On request the SHA-256 of the whole dump is taken, and the document says that and when."""
    said = written(kind, dump, hash_input=True)["inputs"]
    assert said["dump"]["sha256"] == hashlib.sha256(dump.read_bytes()).hexdigest()
    assert (said["dump"]["sha256_is"], said["dump"]["sha256_pass"]) == ("computed", "beside the copying")
    assert "sha256_is" not in said["map"]
    assert "sha256" not in written(kind, dump, force=True)["inputs"]["dump"]


def test_a_hash_that_is_stated(kind: str, dump: Path) -> None:
    """A hash that the user knows is recorded as stated, not as computed; nothing is read for it."""
    said = written(kind, dump, input_sha256="AB" * 32)["inputs"]["dump"]
    assert (said["sha256"], said["sha256_is"]) == ("ab" * 32, "stated")
    assert not {"sha256_pass", "sha256_stated"} & said.keys()


def test_a_hash_that_is_compared(kind: str, dump: Path) -> None:
    """With both, the one that is stated is compared; if they differ, nothing is kept."""
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    said = written(kind, dump, hash_input=True, input_sha256=digest.upper())["inputs"]["dump"]
    assert (said["sha256"], said["sha256_is"], said["sha256_stated"]) == (digest, "computed", digest)
    before = listing(dump.parent.parent)
    with memcarve.open(dump) as container, pytest.raises(InputError, match=f"pid.1624.dmp: has the SHA-256 {digest}"):
        sinking.write(kind, container.process(), dump.parent.parent / "two", hash_input=True, input_sha256="00" * 32)
    assert listing(dump.parent.parent) == before


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "0x" + "0" * 62, "0" * 65, "0" * 64 + "\n"])
def test_no_hash(text: str) -> None:
    """What is not a SHA-256 is refused."""
    with pytest.raises(UsageError, match="is not a SHA-256"):
        memcarve.SinkOptions(input_sha256=text)


def test_modules(dump: Path, tmp_path: Path) -> None:
    """What extract writes records the same."""
    with memcarve.open(dump) as container:
        sinking.extract(container.process(), tmp_path / "out", [], hash_input=True, case_id="K7", operator="me")
    said = json.loads((tmp_path / "out" / "modules.json").read_bytes())
    assert (said["case_id"], said["operator"]) == ("K7", "me")
    assert said["run"]["begin"] <= said["run"]["end"]
    assert said["inputs"]["dump"]["sha256"] == hashlib.sha256(dump.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "command", [["carve"], ["export", "--to", "minidump"], ["export", "--to", "flat"], ["extract"]]
)
def test_commands(command: list[str], dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Every command that writes has the options; the map is hashed as it is read, unasked."""
    out = tmp_path / "out"
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    options = ["--case-id", "K7", "--operator", "me", "--hash-input", "--input-sha256", digest]
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    assert invoke(capfdbinary, *command, dump, "-o", out, *options).code == 0
    places = [out / "segments.json", out / "modules.json", tmp_path / "out.json", out]
    said = (
        _inside(out) if command[-1] == "minidump" else json.loads(next(p for p in places if p.is_file()).read_bytes())
    )
    assert (said["case_id"], said["operator"]) == ("K7", "me")
    assert dt.datetime.fromisoformat(said["run"]["begin"]) >= before
    assert said["inputs"]["dump"]["sha256_stated"] == digest
    expected = hashlib.sha256(dump.with_suffix(".map").read_bytes()).hexdigest()
    assert said["inputs"]["map"]["sha256"] == expected


def test_a_map_cannot_record(dump: Path, tmp_path: Path) -> None:
    """A map and its dump have no document: notes say the hash, and that the case is not recorded."""
    with memcarve.open(dump) as container:
        result = sinking.export_memmap(container.process(), tmp_path, hash_input=True, case_id="K7")
        assert (result.seal, result.sealed) == (
            hashlib.sha256((tmp_path / "pid.1624.map").read_bytes()).hexdigest(),
            "pid.1624.map",
        )
        unhashed = sinking.export_memmap(container.process(), tmp_path, stem="unhashed", hashes=())
        assert (unhashed.seal, list(unhashed.notes)) == (None, [])
        with pytest.raises(InputError, match="was stated"):
            sinking.export_memmap(container.process(), tmp_path, stem="two", hash_input=True, input_sha256="00" * 32)
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    assert list(result.notes) == [
        f"the input's SHA-256 is {digest} (computed); the map cannot record it",
        "a map and its dump have no place for the case and the operator: they are not recorded in them",
        f"{tmp_path}/pid.1624.dmp: its SHA-256 is {digest}; the map cannot record it, and the seal is the map's",
    ]
    assert not list(tmp_path.glob("two*"))


# the seal

#: by sink, the file whose hash the seal is
SEALED: dict[str, Callable[[Path], Path]] = {
    "segments": lambda path: path / "segments.json",
    "minidump": lambda path: path,
    "elfcore": lambda path: path,
    "flat": lambda path: path.with_name(path.name + ".json"),
    "scripts": lambda path: path / "memory.json",
}


def test_the_seal(kind: str, dump: Path, tmp_path: Path) -> None:
    """The seal is the SHA-256 of the file that it names, of which every other file's hash can be had."""
    out = tmp_path / "out"
    with memcarve.open(dump) as container:
        result = sinking.write(kind, container.process(), out, hash_input=True)
    sealed = SEALED[kind](out)
    assert result.sealed == sealed.name
    assert result.seal == hashlib.sha256(sealed.read_bytes()).hexdigest()
    text = sealed.read_bytes()
    for path in [*out.rglob("*"), out] if out.is_dir() else [*tmp_path.glob("out*")]:
        if path.is_file() and path != sealed and "SUMS" not in path.name:
            assert hashlib.sha256(path.read_bytes()).hexdigest().encode() in text, path


@pytest.mark.parametrize("name", ["minidump", "elfcore", "flat", "scripts"])
def test_no_seal_without_hashes(name: str, dump: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """With --hash none nothing is hashed, and there is no seal; other hashes than SHA-256 are for folders alone."""
    ran = invoke(capfdbinary, "export", dump, "--to", name, "--hash", "none", "-o", tmp_path / "out")
    assert (ran.code, "seal (" in ran.err) == (0, False)
    with memcarve.open(dump) as container, pytest.raises(UsageError, match="SHA-256 alone"):
        sinking.write(name, container.process(), tmp_path / "two", hashes=["md5"])


def test_many_holes_are_not_hashed(dump: Path, tmp_path: Path) -> None:
    """A flat file with gigabytes of holes has no hash: reading them would take for ever."""
    with memcarve.open(dump) as container:
        process = container.process()
        few = sinking.export_flat(process, tmp_path / "few", sinking.How(sparse=True))
        many = sinking.export_flat(
            process, tmp_path / "many", sinking.How(sparse=True), address=(0x10000, 0x10000 + (5 << 30))
        )
    for result, path in ((few, tmp_path / "few"), (many, tmp_path / "many")):
        said = DOCUMENTS["flat"](path)["sha256"]
        assert said == (hashlib.sha256(path.read_bytes()).hexdigest() if result is few else None)
        assert result.seal is not None


# of several processes


def test_several_processes_of_one_image(tmp_path: Path, capfdbinary: Capture) -> None:
    """What all processes lie in is hashed once, before them; each document and the list of them has the case."""
    image = tmp_path / "win.raw"
    winimage.build(image, processes=winimage.USERLAND)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    options = ["--case-id", "K7", "--operator", "me", "--input-sha256", digest]
    pids = ["--pid", "388", "--pid", "1624"]
    assert invoke(capfdbinary, "carve", image, *pids, *options, "-o", tmp_path / "a").code in (0, 3)
    assert invoke(capfdbinary, "carve", image, *pids, *options, "--hash-input", "-o", tmp_path / "b").code in (0, 3)
    for folder, how in (("a", "stated"), ("b", "computed")):
        documents = sorted((tmp_path / folder).glob("*/segments.json"))
        assert len(documents) == 2
        for path in documents:
            said = json.loads(path.read_bytes())
            given = said["inputs"]["image"]
            assert (said["case_id"], given["sha256"], given["sha256_is"]) == ("K7", digest, how)
            assert given.get("sha256_pass") == (None if how == "stated" else "before the copying")
            assert given.get("sha256_stated") == (None if how == "stated" else digest)
        listed = json.loads((tmp_path / folder / "processes.json").read_bytes())
        assert (listed["case_id"], listed["operator"]) == ("K7", "me")
        assert listed["run"]["begin"] <= listed["run"]["end"]
    wrong = invoke(capfdbinary, "carve", image, *pids, "--hash-input", "--input-sha256", "0" * 64, "-o", tmp_path / "c")
    assert (wrong.code, (tmp_path / "c").exists()) == (1, False)
    assert "was stated" in wrong.err


def test_one_hash_for_several_files(tmp_path: Path, capfdbinary: Capture) -> None:
    """Of a map of several dumps, one stated hash is of none of them."""
    dump = write_several(tmp_path, {4: ROWS, 8: ROWS})
    ran = invoke(capfdbinary, "carve", dump, "--all", "--input-sha256", "0" * 64, "-o", tmp_path / "out")
    assert (ran.code, (tmp_path / "out").exists()) == (2, False)
    assert "--input-sha256" in ran.err
