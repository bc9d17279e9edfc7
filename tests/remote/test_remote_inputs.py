"""Every kind of input gives the same memory from a server as from disk."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

import containers
import contracts
import memcarve
import winimage
from cli import invoke, run
from memcarve.errors import CounterpartError
from packing import PACKERS
from ranged_server import MODIFIED, serving
from s3_server import bucket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Capture = pytest.CaptureFixture[bytes]

PID = 388


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the memory of a machine with a small process."""
    path = tmp_path_factory.mktemp("machine") / "mem.raw"
    winimage.build(path, processes=[winimage.Plan(PID, b"small.exe")])
    return path.read_bytes()


def _saved(data: bytes) -> bytes:
    size, pages = containers.main_memory([(0, data)])
    stream = b"".join(containers.migration_parts([(b"pc.ram", size)], pages))
    return b"".join(containers.libvirt_parts([PACKERS["gzip"](stream)], number=1))


IMAGES: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "raw": lambda data: {"mem.raw": data},
    "raw, gzip": lambda data: {"mem.raw.gz": PACKERS["gzip"](data)},
    "raw, zstd": lambda data: {"mem.raw.zst": PACKERS["zstd"](data)},
    "LiME": lambda data: {"mem.lime": containers.lime([(0, data)])},
    "AVML": lambda data: {"mem.avml": containers.avml([(0, data)])},
    "crash dump": lambda data: {"memory.dmp": containers.crash_dump([(0, data)], kind="full")},
    "ELF core": lambda data: {"mem.core": containers.elf_core([(0, data)])},
    "kdump": lambda data: {"vmcore": containers.kdump([(0, data)])},
    "flattened kdump": lambda data: {
        "vmcore.flat": containers.flattened(containers.in_pieces(containers.kdump([(0, data)]), size=1 << 20))
    },
    "libvirt, compressed": lambda data: {"mem.save": _saved(data)},
}


def content(path: Any, pid: int | None, **options: Any) -> list[tuple[int, int, str]]:
    """Return start, size and hash of each segment of a process."""
    with memcarve.open(path, **options) as container:
        process = container.process(pid)
        return [
            (each.start, each.size, hashlib.sha256(process.read(each.start, each.size)).hexdigest())
            for each in process.segments()
        ]


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str, machine: bytes, tmp_path: Path) -> None:
    """An image in any container, compressed or not, holds the same memory there as here."""
    files = IMAGES[kind](machine)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    name = next(iter(files))
    here = content(tmp_path / name, PID)
    assert len(here) > 5
    with serving(files) as server:
        assert content(server.url(name), PID) == here
        assert server.sent() <= len(files[name]) + (1 << 22)


@pytest.mark.parametrize("kind", ["core", "minidump"])
def test_processes(kind: str, tmp_path: Path) -> None:
    """A core or a minidump of one process holds what was written into it."""
    with contracts.MAKERS[kind](tmp_path) as given, serving({"x": given.path.read_bytes()}) as server:
        found = content(server.url("x"), given.pid)
    assert found == [(start, len(data), hashlib.sha256(data).hexdigest()) for start, data in given.memory.items()]


def test_a_dump_with_its_map(tmp_path: Path) -> None:
    """A dump and its map are given as two locations; without the map it is said that it was not looked for."""
    with contracts.MAKERS["dump"](tmp_path) as given:
        dump, memory_map = given.path.read_bytes(), given.path.with_suffix(".map").read_bytes()
    with serving({"pid.1624.dmp": dump, "m.gz": PACKERS["gzip"](memory_map)}) as server:
        url = server.url("pid.1624.dmp")
        found = content(url, 1624, memory_map=server.url("m.gz"))
        assert content(server.url("m.gz"), 1624, dump=url) == found
        assert content(given.path.with_suffix(".map"), 1624, dump=url) == found
        with pytest.raises(CounterpartError, match="not looked for"):
            memcarve.open(url)
    assert found == [(start, len(data), hashlib.sha256(data).hexdigest()) for start, data in given.memory.items()]


def test_what_lies_beside_in_a_bucket(machine: bytes, tmp_path: Path) -> None:
    """In S3 the map beside a dump is found, lists of regions beside it, and the memory beside a state of VMware's."""
    with contracts.MAKERS["dump"](tmp_path) as given:
        dump, memory_map = given.path.read_bytes(), given.path.with_suffix(".map").read_bytes()
    maps = "00010000-00013000 rw-p 00000000 00:00 0                          [heap]\n"
    state, memory = containers.vmware([(0, machine)])
    objects = {
        "case/pid.1624.dmp.gz": PACKERS["gzip"](dump),
        "case/pid.1624.map": memory_map,
        "case/pid.1624.maps": maps.encode(),
        "vm/box.vmss": state,
        "vm/box.vmem": memory,
    }
    with bucket(objects):
        found = content("s3://evidence/case/pid.1624.dmp.gz", 1624)
        with memcarve.open("s3://evidence/case/pid.1624.map") as container:
            regions = container.process(1624).metadata.regions
        assert len(content("s3://evidence/vm/box.vmss", PID)) > 5
    assert found == [(start, len(data), hashlib.sha256(data).hexdigest()) for start, data in given.memory.items()]
    assert [each.source for each in regions] == ["/proc/PID/maps (pid.1624.maps)"]


def test_carving(machine: bytes, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is carved lies in this folder by the object's name, says where it comes from, and holds no secret of it."""
    monkeypatch.chdir(tmp_path)
    with serving({"big%20mem.raw": machine}) as server:
        secret = server.url("big%20mem.raw?X-Amz-Signature=5ecret").replace("//", "//me:pa55word@")
        shown = server.url("big%20mem.raw")
        ran = invoke(capfdbinary, "carve", secret, "--pid", PID, "--log", "log.jsonl")
        assert ran.code == 0
        assert all("Authorization" in each.headers and "5ecret" in each.path for each in server.asked)
        again = invoke(capfdbinary, "verify", f"big mem.{PID}-small.exe.segments", "--source", shown)
    assert again.code == 0
    folder = tmp_path / f"big mem.{PID}-small.exe.segments"
    document = json.loads((folder / "segments.json").read_text())
    given = document["inputs"]["image"]
    assert (given["path"], given["size"], given["modified"]) == (shown, len(machine), "2026-11-07T10:20:30Z")
    assert MODIFIED.startswith("Sat, 07 Nov 2026 10:20:30")
    assert given["etag"] == '"' + given["etag"].strip('"') + '"'
    assert given["fetched"] >= sum(each["size"] for each in document["segments"])
    said = f"{shown}: read "
    assert said in ran.err
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (ran.out, ran.err.encode(), *written):
        assert b"5ecret" not in text
        assert b"pa55word" not in text


def test_several_processes(machine: bytes, tmp_path: Path, capfdbinary: Capture) -> None:
    """Copies of the program ask with connections of their own, and what they fetch is counted."""
    (tmp_path / "mem.raw").write_bytes(machine)
    with serving({"mem.raw": machine}) as server:
        ran = invoke(capfdbinary, "carve", server.url("mem.raw"), "--all", "-o", tmp_path / "there")
        asked, sent = len(server.asked), server.sent()
    assert ran.code == 0
    assert invoke(capfdbinary, "carve", tmp_path / "mem.raw", "--all", "-o", tmp_path / "here").code == 0
    for path in (tmp_path / "here").rglob("*.bin"):
        assert path.read_bytes() == (tmp_path / "there" / path.relative_to(tmp_path / "here")).read_bytes()
    counted = int(ran.err.rpartition(" in ")[2].split()[0])
    assert asked - 3 <= counted <= asked  # looking at it first, and in the end, is not counted
    assert sent < 3 * len(machine)


def test_secrets_reach_what_a_batch_runs(machine: bytes, tmp_path: Path) -> None:
    """Each request for an input of a batch has the signature it was named with, and no file that is written has."""
    with serving({"mem.raw": machine, "other.raw": machine}) as server:
        urls = [f"{server.url(name)}?X-Amz-Signature=5ecret" for name in ("mem.raw", "other.raw")]
        words = ["batch", "segments", *urls, "--pid", str(PID)]
        ran = run(*words, "-o", tmp_path / "out", "--log", tmp_path / "log")
        assert ran.code == 0, ran.err
        assert {each.path.partition("?")[2] for each in server.asked} == {"X-Amz-Signature=5ecret"}
    rows = json.loads((tmp_path / "out" / "batch.json").read_text())["inputs"]
    assert [row["folder"] for row in rows] == ["mem.raw", "other.raw"]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not [path for path in written if b"5ecret" in path.read_bytes()]


def test_each_run_tells_its_own(machine: bytes, tmp_path: Path, capfdbinary: Capture) -> None:
    """A command says nothing of what was read elsewhere before it ran in the same program."""
    (tmp_path / "mem.raw").write_bytes(machine)
    with serving({"mem.raw": machine}) as server, memcarve.open(server.url("mem.raw")) as memory:
        memory.process(PID)
    ran = invoke(capfdbinary, "processes", tmp_path / "mem.raw", "--search", "lists")
    assert ran.code == 0
    assert "read" not in ran.err
