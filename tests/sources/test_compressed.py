"""Compressed inputs of every kind: what they hold is what the same input holds as it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from cli import invoke, run
from contracts import MAKERS, MEMORY
from dumps import write_dump
from files import listing, put
from memcarve.errors import InputError, LimitError, NoSpaceError, NotRecognisedError, OutputError, UsageError
from memory import PAGE, noise
from mounts import tmpfs
from packing import ENDINGS, PACKERS

if TYPE_CHECKING:
    from pathlib import Path

    from contracts import Given
    from memcarve.process import ProcessMemory

    Capture = pytest.CaptureFixture[bytes]

KINDS = sorted(PACKERS)
FILES = ["dump", "image", "LiME image", "core", "minidump"]


def pack(path: Path, kind: str, *, ending: bool = True) -> Path:
    """Compress a file in its place; return its path, which need not have an ending that tells."""
    data = path.read_bytes()
    path.unlink()
    packed = path.with_name(path.name + (ENDINGS[kind] if ending else ""))
    packed.write_bytes(PACKERS[kind](data))
    return packed


def held(process: ProcessMemory) -> dict[int, str]:
    """Return the segments of a process: where they start, and the hash of their bytes."""
    return {
        each.start: hashlib.sha256(process.space.read(each.start, each.size)).hexdigest() for each in process.segments()
    }


def folder_of(process: ProcessMemory) -> str:
    """Return the folder that a note says the input was decoded in."""
    note: Any = process.notes[-1]
    return str(note.more.removeprefix(" in "))


def carved(folder: Path) -> dict[str, str]:
    """Return the hashes of the segments in a carved folder, by file."""
    return {row["file"]: row["sha256"] for row in json.loads((folder / "segments.json").read_bytes())["segments"]}


def open_files() -> int:
    """Return how many files this program has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Given]:
    """Return an input of each kind."""
    found = {}
    for kind in FILES:
        with MAKERS[kind](tmp_path_factory.mktemp("given")) as given:
            found[kind] = given
    return found


@pytest.mark.parametrize("compression", KINDS)
@pytest.mark.parametrize("kind", FILES)
def test_the_same_memory(kind: str, compression: str, inputs: dict[str, Given], tmp_path: Path) -> None:
    """A compressed input has the segments, the bytes and the pid that it has as it is, whatever it is called."""
    given = inputs[kind]
    for file in given.files:
        shutil.copy(file, tmp_path)
    with given.opened() as process:
        expected = held(process), process.pid, process.input_bytes, process.incomplete
    path = pack(tmp_path / given.path.name, compression, ending=kind == "dump")
    with memcarve.open(path) as container:
        process = container.process(given.pid)
        assert (held(process), process.pid, process.input_bytes, process.incomplete) == expected
        name = "image" if process.is_image else "dump"
        described = process.inputs[name]
        assert described["path"] == str(path)
        assert described["size"] == path.stat().st_size
        assert described["compression"] == compression
        assert described["decoded_size"] == given.path.stat().st_size
        assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"{path}: is compressed ({compression}): decoded to {given.path.stat().st_size} bytes" in process.notes


@pytest.mark.parametrize("kind", FILES)
def test_commands(kind: str, inputs: dict[str, Given], tmp_path: Path, capfdbinary: Capture) -> None:
    """Commands print and write the same of a compressed input, and say that it is one; verify compares with it."""
    given = inputs[kind]
    for file in given.files:
        shutil.copy(file, tmp_path)
    plain = invoke(capfdbinary, "segments", tmp_path / given.path.name, *given.choice, "--format", "csv")
    invoke(capfdbinary, "carve", tmp_path / given.path.name, *given.choice, "-o", tmp_path / "one")
    path = pack(tmp_path / given.path.name, "zstd")
    ran = invoke(capfdbinary, "segments", path, *given.choice, "--format", "csv")
    assert (ran.code, ran.out) == (plain.code, plain.out)
    assert f"note: {path}: is compressed (zstd): decoded to" in ran.err
    ran = invoke(capfdbinary, "carve", path, *given.choice, "-o", tmp_path / "other")
    assert ran.code == 0
    assert f" bytes in {tmp_path}\n" in ran.err  # beside the output
    assert carved(tmp_path / "other") == carved(tmp_path / "one")
    assert invoke(capfdbinary, "verify", tmp_path / "other", "--source", path).code == 0
    assert listing(tmp_path) == sorted(
        [*(file.name for file in given.files if file != given.path), path.name, "one", "other"]
    )


def test_pairs(tmp_path: Path) -> None:
    """A dump and its map find each other, whichever of them is compressed, and however; listings are found, too."""
    rows = [(start, data) for start, data in MEMORY.items() if len(data) % PAGE == 0]
    maps = "TreeDepth,PID,Process,Base,Size,Name,Path\n0,4,System,0x10000,0x1000,a.dll,a.dll\n"
    for number, (dump, table) in enumerate([("xz", None), (None, "lz4"), ("zstd", "bzip2"), ("bzip2", "gzip")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_dump(folder, rows, 4)
        memory_map = path.with_suffix(".map")
        put(folder / "pid.4.dlllist.csv", maps.encode())
        path = pack(path, dump) if dump else path
        memory_map = pack(memory_map, table) if table else memory_map
        pack(folder / "pid.4.dlllist.csv", "bzip2")
        for each in (path, memory_map):
            with memcarve.open(each) as container:
                process = container.process()
                assert process.pid == 4
                assert process.space.total == sum(len(data) for _, data in rows)
                assert process.read(0x10000, PAGE) == MEMORY[0x10000][:PAGE]
                assert [module.name for module in process.modules] == ["a.dll"]
        named = folder / "moved"
        os.rename(memory_map, named)
        with memcarve.open(path, memory_map=named) as container:
            assert container.process().pid == 4
        with memcarve.open(named, dump=path) as container:
            assert container.process().read(0x10000, PAGE) == MEMORY[0x10000][:PAGE]


def test_default_names(tmp_path: Path) -> None:
    """What is written is named after the input without the ending of its compression."""
    path = pack(write_dump(tmp_path, [(0x1000, noise(1))], 4), "bzip2")
    assert run("carve", path, cwd=tmp_path).code == 0
    assert run("export", path, "--to", "elfcore", cwd=tmp_path).code == 0
    assert listing(tmp_path) == ["pid.4.core", "pid.4.dmp.bz2", "pid.4.map", "pid.4.segments"]


def test_the_temporary_file(tmp_path: Path) -> None:
    """Content lies in a file that only its owner may read, has no name, and is gone with the container."""
    if sys.platform == "win32":
        pytest.skip("modes and unlinked files are of Unix")
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "gzip")
    (tmp_path / "there").mkdir()
    with memcarve.open(path, temp=tmp_path / "there") as container:
        assert listing(tmp_path / "there") == []
        file: Any = container.process().space.backing
        status = os.fstat(file.fd)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert (status.st_nlink, status.st_dev) == (0, (tmp_path / "there").stat().st_dev)
    assert file.fd == -1
    with pytest.raises(OutputError, match="temp=DIR names another folder"):
        memcarve.open(path, temp=tmp_path / "nowhere")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a list of open files")
def test_an_interruption_leaves_no_file_open(tmp_path: Path) -> None:
    """Whatever ends the decoding, the temporary file is closed, and with that gone."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "gzip")

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        memcarve.open(path, temp=tmp_path, progress=interrupt)
    assert open_files() == before
    assert listing(tmp_path) == [path.name]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a file system in memory")  # noqa: S108
def test_never_in_memory_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder in memory is passed over, unless it is named; if no other is left, that is an error."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "gzip")
    shared = "/dev/shm"  # noqa: S108
    monkeypatch.setattr(tempfile, "tempdir", shared)
    with memcarve.open(path) as container:
        assert folder_of(container.process()) == "/var/tmp"  # noqa: S108
    with memcarve.open(path, temp=shared) as container:
        assert folder_of(container.process()) == shared
    monkeypatch.setattr(os, "access", lambda folder, _: folder == shared)
    with pytest.raises(OutputError, match=r"lie in memory.*temp=DIR names a folder"):
        memcarve.open(path)


def test_zeros_are_holes(tmp_path: Path) -> None:
    """Zeros of the content take no room."""
    if sys.platform != "linux":
        pytest.skip("needs holes in files")
    path = write_dump(tmp_path, [(0x1000, noise(1)), (0x10000, bytes(64 << 20)), (0x8000000, noise(2))], 4)
    path = pack(path, "zstd")
    with memcarve.open(path, temp=tmp_path) as container:
        process = container.process()
        file: Any = process.space.backing
        assert os.fstat(file.fd).st_blocks * 512 < 1 << 20
        assert file.size == (64 << 20) + 2 * PAGE
        assert process.read(0x8000000, PAGE) == noise(2)
        assert process.read(0x10000, 1 << 20) == bytes(1 << 20)


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    """A disk is never filled to the brim: decoding ends with an error, and nothing is left."""
    path = pack(write_dump(tmp_path, [(0x10000, noise(1, 12 << 20))], 4), "zstd")
    with tmpfs(tmp_path, "size=8m") as small:
        with pytest.raises(NoSpaceError, match=r"too little room in .*small.*temp=DIR names another folder"):
            memcarve.open(path, temp=small)
        usage = shutil.disk_usage(small)
        assert usage.used == 0
        with memcarve.open(
            pack(write_dump(tmp_path, [(0x10000, noise(1, 2 << 20))], 5), "zstd"), temp=small
        ) as container:
            assert container.process().read(0x10000, 2 << 20) == noise(1, 2 << 20)


@pytest.mark.parametrize("compression", [kind for kind in KINDS if kind != "lzma"])
def test_cut_off(compression: str, tmp_path: Path, capfdbinary: Capture) -> None:
    """Of an input that is cut off in its compressed form what was decoded is used: exit 3, and the rest is missing."""
    whole = noise(1, 3 << 20)
    path = pack(write_dump(tmp_path, [(0x10000, whole)], 4), compression)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with memcarve.open(path) as container:
        process = container.process()
        assert process.incomplete
        (segment,) = process.segments()
        assert whole.startswith(process.read(0x10000, segment.size))
        (gap,) = process.space.missing
        assert (gap.start, gap.end) == (segment.end, 0x10000 + len(whole))
    ran = invoke(capfdbinary, "segments", path)
    assert ran.code == 3
    assert f"data ends early, near offset 0x{len(data) * 2 // 3:x}" in ran.err
    path.write_bytes(data[: 8 if compression == "zstd" else 11])
    with pytest.raises(InputError, match=r"ends early.*nothing could be decoded"):
        memcarve.open(path)


@pytest.mark.parametrize("kind", ["image", "dump", "minidump"])
def test_an_end_that_is_missing_is_known_to_be(kind: str, inputs: dict[str, Given], tmp_path: Path) -> None:
    """Whatever the input is, one whose compressed form is cut off is incomplete, even if only a checksum is missing."""
    given = inputs[kind]
    for file in given.files:
        shutil.copy(file, tmp_path)
    path = pack(tmp_path / given.path.name, "gzip")
    path.write_bytes(path.read_bytes()[:-6])
    with memcarve.open(path) as container:
        process = container.process(given.pid)
        assert process.incomplete
        assert any("ends early" in note for note in process.notes)


def test_what_follows_the_data_is_said(tmp_path: Path) -> None:
    """Bytes behind compressed data are passed over with a note."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "xz")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"rubbish" * 100)
    with memcarve.open(path) as container:
        process = container.process()
        assert f"at offset 0x{size:x} is something else, and not used" in process.notes[-1]
        assert not process.incomplete


def test_bounds(tmp_path: Path, capfdbinary: Capture) -> None:
    """More than the bound is refused with the option that raises it, in the library and on the command line."""
    path = pack(write_dump(tmp_path, [(0x10000, noise(1, 1 << 20))], 4), "zstd")
    with pytest.raises(LimitError, match="limit_decoded=SIZE"):
        memcarve.open(path, limit_decoded=1 << 19)
    ran = invoke(capfdbinary, "segments", path, "--limit-decoded", "512k")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "--limit-decoded SIZE" in ran.err
    with memcarve.open(path, limit_decoded=1 << 20) as container:
        assert container.process().space.total == 1 << 20


def test_a_bomb_of_one_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is 150 times as large as its file and not zeros is refused beyond what any file may decode to."""
    monkeypatch.setattr("memcarve.formats.compression._NEVER_TOO_MUCH", 8 << 20)
    path = tmp_path / "mem.raw"
    path.write_bytes(b"".join([PACKERS["zstd"](bytes([7]) * (1 << 20))] * 9))
    with pytest.raises(LimitError, match=r"more than 8388608 bytes, \d+ times its size"):
        memcarve.open(path, input_type="image")
    path.write_bytes(b"".join([PACKERS["zstd"](bytes(1 << 20))] * 9))
    memcarve.open(path, input_type="image").close()


def test_cut_off_and_not_recognised(tmp_path: Path) -> None:
    """If nothing is recognised in what was decoded of a file that is cut off, the message says that it is."""
    path = tmp_path / "mem.raw.gz"
    path.write_bytes(PACKERS["gzip"](noise(1, 9 * PAGE + 7))[:-PAGE])
    with pytest.raises(
        InputError, match="compressed data are cut off or damaged, which may be why: get the whole file"
    ):
        memcarve.open(path)
    path.write_bytes(PACKERS["gzip"](noise(1, 9 * PAGE + 7)))
    with pytest.raises(InputError) as caught:
        memcarve.open(path)
    assert "cut off" not in str(caught.value)


def test_twice_compressed(tmp_path: Path) -> None:
    """A file that was compressed twice is refused with what to do, and so is an archive in one."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(pack(given.path, "xz"), "gzip")
    with pytest.raises(InputError, match=r"compressed twice; decompress it \(unxz\)"):
        memcarve.open(path)
    shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, path.name)
    with pytest.raises(InputError, match="archive; unpack"):
        memcarve.open(tmp_path / "a.tar.gz")


def test_changed_while_it_is_decoded(tmp_path: Path) -> None:
    """A file that changes while it is decoded is refused."""
    path = pack(write_dump(tmp_path, [(0x10000, noise(1, 9 << 20))], 4), "gzip")

    def grow(*_: int) -> None:
        with path.open("ab") as file:
            file.write(b"\0")

    with pytest.raises(InputError, match="was changed while it was read"):
        memcarve.open(path, progress=grow)


def test_progress(tmp_path: Path) -> None:
    """Who asks for it is told how much of the compressed file was read, up to its end."""
    path = pack(write_dump(tmp_path, [(0x10000, noise(1, 9 << 20))], 4), "gzip")
    told: list[tuple[int, int]] = []
    memcarve.open(path, progress=lambda *done: told.append(done)).close()
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


def test_what_is_no_memory_stays_refused(tmp_path: Path) -> None:
    """Compressed content that is neither an image nor a dump is refused as it is uncompressed."""
    for kind in KINDS:
        path = put(tmp_path / "notes.txt", PACKERS[kind](b"Dear diary,\n" * 5000))
        with pytest.raises(NotRecognisedError):
            memcarve.open(path)


def test_scripts(tmp_path: Path, capfdbinary: Capture) -> None:
    """Scripts, which map a file as it lies, are not written for a compressed one."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "xz")
    ran = invoke(capfdbinary, "export", path, "--to", "scripts", "-o", tmp_path / "scripts")
    assert ran.code == 2
    assert "so nothing can map them" in ran.err


def test_several_processes(tmp_path: Path, inputs: dict[str, Given], capfdbinary: Capture) -> None:
    """All processes of a compressed image are carved as those of the image, and its hash is the file's."""
    shutil.copy(inputs["image"].path, tmp_path / "mem.raw")
    first = invoke(capfdbinary, "carve", tmp_path / "mem.raw", "--all", "-o", tmp_path / "one")
    path = pack(tmp_path / "mem.raw", "gzip")
    ran = invoke(capfdbinary, "carve", path, "--all", "--hash-input", "-o", tmp_path / "other")
    assert ran.code == first.code
    folders = [folder.name for folder in sorted((tmp_path / "one").iterdir()) if folder.is_dir()]
    assert folders
    for name in folders:
        assert carved(tmp_path / "other" / name) == carved(tmp_path / "one" / name)
        document = json.loads((tmp_path / "other" / name / "segments.json").read_bytes())
        assert document["inputs"]["image"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_vmware(tmp_path: Path, inputs: dict[str, Given]) -> None:
    """A compressed .vmem is told by what it is called without the ending of its compression."""
    shutil.copy(inputs["image"].path, tmp_path / "mem.vmem")
    with memcarve.open(pack(tmp_path / "mem.vmem", "gzip")) as container:
        assert container.process(inputs["image"].pid).is_image


def test_an_unknown_type_stays_a_usage_error(tmp_path: Path) -> None:
    """What a user says of a compressed file is about its content."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "xz")
    memcarve.open(path, input_type="core").close()
    with pytest.raises((NotRecognisedError, UsageError)):
        memcarve.open(path, input_type="minidump")


def test_a_stated_hash(tmp_path: Path, capfdbinary: Capture) -> None:
    """A hash that is stated is held against that of the compressed file, which is always taken."""
    with MAKERS["core"](tmp_path) as given:
        path = pack(given.path, "xz")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert invoke(capfdbinary, "carve", path, "-o", tmp_path / "one", "--input-sha256", digest).code == 0
    described = json.loads((tmp_path / "one" / "segments.json").read_bytes())["inputs"]["dump"]
    assert (described["sha256"], described["sha256_is"], described["sha256_stated"]) == (digest, "computed", digest)
    ran = invoke(capfdbinary, "carve", path, "-o", tmp_path / "two", "--input-sha256", "0" * 64)
    assert ran.code == 1
    assert "was stated" in ran.err
    assert not (tmp_path / "two").exists()
