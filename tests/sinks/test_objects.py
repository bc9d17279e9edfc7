"""What is written to a bucket: the bytes of a folder of files, the list last; and what is left if anything fails."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import memcarve
import sinking
from buckets import CUT, Bucket, Request, Store, set_credentials
from cli import command, invoke
from dumps import write_dump, write_several
from memcarve.errors import MissingExtraError, NoSpaceError, OutputError, TargetExistsError, UsageError
from memcarve.formats import manifest
from memcarve.process import ProcessEntry
from memcarve.remote import objects as objects_module
from memcarve.sinks.object_mirror import is_plain
from memcarve.sinks.object_ownership import LISTS, MARKS
from memcarve.sinks.several import folder_name
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumps import Piece

Capture = pytest.CaptureFixture[bytes]

ROWS: dict[int, list[Piece]] = {
    4: [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2))],
    40: [(0x10000, noise(3))],
    1624: [(0x30000, noise(4)), (0x50000, bytes(PAGE))],
}
PART = 1 << 18
#: commands whose output of several processes lies in a bucket as it does on a disk
COMMANDS = {
    "carve": ["carve"],
    "labelled": ["carve", "--label-names", "--hash", "sha256", "--hash", "md5"],
    "unhashed": ["carve", "--hash", "none"],
    "minidump": ["export", "--to", "minidump"],
    "elfcore": ["export", "--to", "elfcore"],
    "flat": ["export", "--to", "flat"],
    "memmap": ["export", "--to", "memmap"],
    "extract": ["extract"],
    "zip": ["extract", "--zip"],
}
#: what differs between two runs: times, the command, what archives and documents are encrypted or laid out with
_VARYING = re.compile(rb'"(?:time|begin|end|command|run|sha256|host|id)": ?(?:"[^"]*"|\[[^]]*\]|\{[^}]*\}|null)')


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """Return a server."""
    with Store().running() as found:
        yield found


_NUMBERS = iter(range(1, 1 << 20))


@pytest.fixture
def bucket(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Return a new bucket of the server that the environment names."""
    set_credentials(monkeypatch, store.url)
    monkeypatch.setattr(objects_module, "ATTEMPTS", 3)
    monkeypatch.setattr(objects_module, "PART", PART)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    yield Bucket(store, f"evidence-{next(_NUMBERS)}")
    store.fault, store.meanwhile = lambda _: None, lambda _: None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a map of several dumps."""
    (tmp_path / "source").mkdir()
    return write_several(tmp_path / "source", ROWS)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[memcarve.ProcessMemory]:
    """Return a process whose largest segment takes three parts."""
    rows: list[Piece] = [(0x10000, noise(1)), (0x20000, bytes(PAGE)), (0x1000000, noise(2, 5 * PART // 2))]
    with memcarve.open(write_dump(tmp_path, rows)) as container:
        yield container.process()


def carve(process: memcarve.ProcessMemory, out: str, **options: Any) -> Any:
    """Carve a process."""
    return sinking.carve(process, out, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def settled(name: str, data: bytes) -> bytes:
    """Return what of a file is the same in every run."""
    return _VARYING.sub(b"", data) if name.endswith(".json") else data


@pytest.mark.parametrize("kind", COMMANDS)
def test_same_as_files(kind: str, source: Path, bucket: Bucket, tmp_path: Path, capfdbinary: Capture) -> None:
    """Of several processes the same lies in a bucket as in a folder, under the same names."""
    if kind == "zip":
        pytest.importorskip("pyzipper")
    out = tmp_path / "out"
    assert invoke(capfdbinary, *COMMANDS[kind], source, "--all", "-o", out).code == 0
    ran = invoke(capfdbinary, *COMMANDS[kind], source, "--all", "-o", f"{bucket.url}/case/out")
    assert ran.code == 0, ran.err
    there, files = bucket.objects("case/out/"), files_of(out)
    assert there.keys() == files.keys()
    for name, data in files.items():
        if name.endswith((".bin", ".dmp", ".map")):
            assert there[name] == data
    sums = [line.split(b"  ", 1)[1] for line in there.get("SHA256SUMS", b"").splitlines()]
    assert sums == [line.split(b"  ", 1)[1] for line in files.get("SHA256SUMS", b"").splitlines()]
    for name, data in there.items():  # what the store holds agrees with itself
        (path := tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if kind != "unhashed":
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "fetched", check=True)
    assert invoke(capfdbinary, "verify", tmp_path / "fetched").code == 0
    verified = invoke(capfdbinary, "verify", f"{bucket.url}/case/out")
    assert verified.code == 0, verified.err
    assert f"{bucket.url}/case/out: 3 processes, all well" in verified.err


def test_parts(process: memcarve.ProcessMemory, bucket: Bucket, tmp_path: Path) -> None:
    """A large segment is sent in parts, and is there as a whole; nothing of its rights is set."""
    carve(process, str(tmp_path / "out"))
    carve(process, f"{bucket.url}/out")
    there, files = bucket.objects("out/"), files_of(tmp_path / "out")
    assert {name: settled(name, data) for name, data in there.items() if name != "SHA256SUMS"} == {
        name: settled(name, data) for name, data in files.items() if name != "SHA256SUMS"
    }
    assert sum("partNumber" in each.query for each in bucket.store.ended) == 3
    assert bucket.unfinished == []
    name = "out/0x0000000001000000-0x00000000010a0000.bin"
    assert bucket.head(name)["ContentType"] == "application/octet-stream"
    assert not any("acl" in each.query for each in bucket.store.begun)


@pytest.mark.parametrize("kind", ["carve", "extract", "minidump", "flat"])
def test_the_list_comes_last(kind: str, source: Path, bucket: Bucket, capfdbinary: Capture) -> None:
    """When a list begins to be written all else is there, of each process and of all of them."""
    lists = ("segments.json", "modules.json", "processes.json")

    def look(request: Request) -> None:
        if request.writes and request.path.endswith(lists):
            folder = request.path.rpartition("/")[0]
            begun = [each for each in bucket.store.begun if each.writes and each.path.startswith(folder)]
            ended = [each for each in bucket.store.ended if each.writes and each.path.startswith(folder)]
            assert Counter(begun) - Counter(ended) == Counter([request]), "something else is under way"
            seen.append(request.path)

    seen: list[str] = []
    failed: list[AssertionError] = []

    def guarded(request: Request) -> None:
        try:
            look(request)
        except AssertionError as error:
            failed.append(error)

    bucket.store.meanwhile = guarded
    assert invoke(capfdbinary, *COMMANDS[kind], source, "--all", "-o", f"{bucket.url}/out").code == 0
    assert not failed
    assert seen[-1].endswith("/out/processes.json")
    assert len(seen) == (4 if kind in ("carve", "extract") else 1)
    last = [each for each in bucket.store.ended if each.writes][-1]
    assert last.path == seen[-1]


def test_interrupted_runs_leave_nothing(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """Whatever part of the work the store refuses for good, nothing is left: no list, no object, no part."""
    carve(process, f"{bucket.url}/whole")
    writing = [each for each in bucket.store.begun if each.method in ("PUT", "POST") and "delete" not in each.query]
    bucket.put("out-beside", b"somebody's")
    for number in range(len(writing)):
        count = iter(range(1 << 20))

        def fault(request: Request, number: int = number, count: Iterator[int] = count) -> int | None:
            is_write = request.method in ("PUT", "POST") and "delete" not in request.query
            return 403 if is_write and next(count) == number else None

        bucket.store.fault = fault
        with pytest.raises(OutputError, match=r"access is refused: AccessDenied.*nothing was kept") as caught:
            carve(process, f"{bucket.url}/out")
        assert "secret" not in str(caught.value)
        assert bucket.objects("out") == {"-beside": b"somebody's"}
        assert bucket.unfinished == []


@pytest.mark.parametrize("fault", [CUT, 503, 500])
def test_faults_that_pass(process: memcarve.ProcessMemory, bucket: Bucket, fault: str | int) -> None:
    """Requests that fail once are sent again: connections that are cut, a store that has too much to do."""
    failed: set[Request] = set()

    def once(request: Request) -> str | int | None:
        if request in failed:
            return None
        failed.add(request)
        return fault

    carve(process, f"{bucket.url}/whole")
    bucket.store.fault = once
    carve(process, f"{bucket.url}/out")
    bucket.store.fault = lambda _: None
    there, whole = bucket.objects("out/"), bucket.objects("whole/")
    assert there.keys() == whole.keys()
    assert {name: data for name, data in there.items() if name.endswith(".bin")} == {
        name: data for name, data in whole.items() if name.endswith(".bin")
    }


@pytest.mark.parametrize("large", ["small", "large"])
def test_a_lost_answer_is_no_other_run(
    source: Path, bucket: Bucket, large: str, process: memcarve.ProcessMemory
) -> None:
    """An object that must be new, whose answer was lost, is not taken for that of another run."""
    lost: set[Request] = set()
    answer = bucket.store._app

    def losing(environ: dict[str, Any], start: Any) -> Any:
        request = bucket.store.begun[-1]
        data = list(answer(environ, start))
        if request.writes and request not in lost:
            lost.add(request)
            environ["werkzeug.socket"].shutdown(2)
            return []
        return data

    bucket.store._app = losing
    try:
        if large == "large":
            carve(process, f"{bucket.url}/out")
        else:
            with memcarve.open(source) as container:
                carve(container.process(40), f"{bucket.url}/out")
    finally:
        bucket.store._app = answer
    assert any(each.path.endswith("segments.json") for each in lost)
    assert "segments.json" in bucket.objects("out/")


def test_a_store_that_dies(process: memcarve.ProcessMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is gone in the middle is an error, which says that objects may be left and no list."""
    monkeypatch.setattr(objects_module, "ATTEMPTS", 2)
    monkeypatch.setattr(objects_module, "PART", PART)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    with Store().running() as mortal:
        set_credentials(monkeypatch, mortal.url)
        bucket = Bucket(mortal, "mortal")

        died = threading.Event()

        def dead(request: Request) -> str | None:
            if "partNumber" in request.query:
                died.set()
            return CUT if died.is_set() else None

        mortal.fault = dead
        with pytest.raises(OutputError, match="could not be removed: s3://mortal/out holds objects, and no segm"):
            carve(process, f"{bucket.url}/out")
        mortal.fault = lambda _: None
        assert "segments.json" not in bucket.objects("out/")
        with pytest.raises(TargetExistsError, match="is partial: another run writes it, or was killed"):
            carve(process, f"{bucket.url}/out")
        carve(process, f"{bucket.url}/out", force=True)
        assert len(bucket.objects("out/")) == 5


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_signals(name: str, process: memcarve.ProcessMemory, bucket: Bucket, tmp_path: Path) -> None:
    """A run that is stopped leaves nothing; one that is killed no list, and --force begins anew."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if "partNumber" in request.query:
            reached.set()
            go_on.wait(20)

    bucket.store.meanwhile = wait
    small = f"import memcarve.remote.objects; memcarve.remote.objects.PART = {PART}"
    line = command("carve", process.file.path, "-o", f"{bucket.url}/out", before=small)
    with subprocess.Popen(line, stderr=subprocess.PIPE, cwd=tmp_path) as child:
        assert reached.wait(60)
        child.send_signal(getattr(signal, name))
        if name == "SIGKILL":
            child.wait(20)
        threading.Timer(0.5, go_on.set).start()
        said = child.communicate(timeout=60)[1].decode()
    bucket.store.meanwhile = lambda _: None
    if name == "SIGKILL":
        left = bucket.objects("out/")
        assert "segments.json" not in left
        assert json.loads(left["segments.json.partial"])["state"] == "partial"
    else:
        assert child.returncode == 128 + getattr(signal, name)
        assert "nothing was kept" in said
        assert bucket.objects("out/") == {}
        assert bucket.unfinished == []
    carve(process, f"{bucket.url}/out", force=name == "SIGKILL")
    assert len(bucket.objects("out/")) == 5


def test_a_store_that_hangs(process: memcarve.ProcessMemory, bucket: Bucket, tmp_path: Path) -> None:
    """Whoever stops a run whose store answers nothing any more waits for a while, and is told what is left."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if "partNumber" in request.query or reached.is_set():
            reached.set()
            go_on.wait(60)

    bucket.store.meanwhile = wait
    small = f"import memcarve.remote.objects as objects; objects.PART, objects.PATIENCE = {PART}, 1.0"
    line = command("carve", process.file.path, "-o", f"{bucket.url}/out", before=small)
    with subprocess.Popen(line, stderr=subprocess.PIPE, cwd=tmp_path) as child:
        assert reached.wait(60)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=50)[1].decode()
    go_on.set()
    assert child.returncode == 130
    assert "could not be removed: s3://" in said


def test_what_exists_is_not_overwritten(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """What lies there is replaced by force alone, and only what memcarve wrote; objects beside it are not touched."""
    bucket.put("outside", b"not in it")
    carve(process, f"{bucket.url}/out")
    before = bucket.objects("out/")
    with pytest.raises(TargetExistsError, match=r"s3://evidence-\d+/out: exists; force=True replaces it"):
        carve(process, f"{bucket.url}/out")
    assert bucket.objects("out/") == before
    bucket.put("out/mine.txt", b"somebody's")
    with pytest.raises(TargetExistsError, match=r"holds mine\.txt, which memcarve did not write; force=True replaces"):
        carve(process, f"{bucket.url}/out", force=True)
    assert bucket.objects("out/") == {**before, "mine.txt": b"somebody's"}
    bucket.remove("out/mine.txt")
    carve(process, f"{bucket.url}/out", force=True, selection=memcarve.Selection(address=((0x10000, 0x11000),)))
    assert sorted(bucket.objects("out/")) == [
        "0x0000000000010000-0x0000000000011000.bin",
        "SHA256SUMS",
        "segments.json",
    ]
    assert bucket.objects("outside") == {"": b"not in it"}


def test_what_is_not_ours_is_not_replaced(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """Lists that somebody else wrote, or that name other objects than ours, make nothing ours."""
    for name, data in {
        "segments.json": b"{}",
        "segments.json.partial": b'{"tool": "other", "state": "partial"}',
        "0x0000000000010000-0x0000000000011000.bin": b"",
        "a/b/c": b"",
        "x\\..\\y": b"",
    }.items():
        bucket.put(f"out/{name}", data)
        for force in (False, True):
            with pytest.raises(TargetExistsError):
                carve(process, f"{bucket.url}/out", force=force)
        assert bucket.objects("out/") == {name: data}, name
        bucket.remove(f"out/{name}")


def test_a_killed_run_is_replaced_by_what_is_called_as_its_own(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """Objects below our mark without a list are replaced, if every one of them is called as memcarve calls them."""
    mark = json.dumps({"tool": "memcarve", "state": "partial"}).encode()
    bucket.put("out/segments.json.partial", mark)
    bucket.put("out/0x0000000000abc000-0x0000000000abd000.bin", bytes(10))
    bucket.put("out/other", b"")
    with pytest.raises(TargetExistsError, match="holds other, which memcarve did not write"):
        carve(process, f"{bucket.url}/out", force=True)
    bucket.remove("out/other")
    carve(process, f"{bucket.url}/out", force=True)
    assert "0x0000000000abc000-0x0000000000abd000.bin" not in bucket.objects("out/")


def test_lists_are_removed_first(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """By force, the list is gone before anything else of the folder is."""
    carve(process, f"{bucket.url}/out")
    whole = bucket.objects("out/")
    seen: list[dict[str, bytes]] = []

    def look(request: Request) -> None:
        if "delete" in request.query:
            seen.append(bucket.objects("out/"))

    bucket.store.meanwhile = look
    carve(process, f"{bucket.url}/out", force=True)
    assert seen[0].keys() - {"segments.json.partial"} == whole.keys()  # all is there until it is
    assert seen[1].keys() - {"segments.json.partial"} == whole.keys() - {"segments.json"}  # by a request of its own


def test_lists_are_removed_first_if_writing_fails(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """If the mark of a run cannot be removed, its list is the first to go, by a request of its own."""
    seen: list[dict[str, bytes]] = []

    def look(request: Request) -> None:
        if "delete" in request.query:
            seen.append(bucket.objects("out/"))

    count = itertools.count()
    bucket.store.fault = lambda request: 403 if "delete" in request.query and not next(count) else None
    bucket.store.meanwhile = look
    with pytest.raises(OutputError, match="nothing was kept"):
        carve(process, f"{bucket.url}/out")
    there = seen[-3].keys()
    assert seen[-2].keys() == there - {"segments.json"}
    assert seen[-1].keys() == {"segments.json.partial"}
    assert not bucket.objects("out/")


def test_a_run_that_is_replaced_while_it_writes_its_list(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """A run whose folder another takes while it writes its list takes the list back, and nothing of the other's."""

    def take(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("/segments.json"):
            bucket.put("out/segments.json.partial", b"another's")

    bucket.store.meanwhile = take
    with pytest.raises(OutputError, match="is written by another run, too"):
        carve(process, f"{bucket.url}/out")
    there = bucket.objects("out/")
    assert "segments.json" not in there
    assert there["segments.json.partial"] == b"another's"


def test_two_runs_at_once(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """Of two runs that write the same folder at once the second is refused, and the first is whole."""
    results: list[BaseException | None] = []
    inside = threading.Event()

    def wait(request: Request) -> None:
        if "partNumber" in request.query and not inside.is_set():
            inside.set()
            try:
                with memcarve.open(process.file.path) as container:
                    carve(container.process(), f"{bucket.url}/out")
            except TargetExistsError as error:
                results.append(error)

    bucket.store.meanwhile = wait
    carve(process, f"{bucket.url}/out")
    assert "is partial: another run writes it" in str(results[0])
    assert len(bucket.objects("out/")) == 5


def test_a_run_that_is_replaced_writes_no_list(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """A run whose folder another takes by force meanwhile writes no list, and takes nothing of the other's away."""
    inside = threading.Event()

    def wait(request: Request) -> None:
        if "partNumber" in request.query and not inside.is_set():
            inside.set()
            with memcarve.open(process.file.path) as container:
                carve(container.process(), f"{bucket.url}/out", force=True)

    bucket.store.meanwhile = wait
    with pytest.raises(OutputError, match="is written by another run, too"):
        carve(process, f"{bucket.url}/out")
    there = bucket.objects("out/")
    assert len(there) == 5
    assert "segments.json" in there


def test_several_keep_what_is_whole(source: Path, bucket: Bucket, capfdbinary: Capture) -> None:
    """Of several processes those that are whole stay if the store refuses more, and the error says which are not."""
    bucket.store.fault = lambda request: 403 if request.path.endswith("/1624/segments.json") else None
    assert invoke(capfdbinary, "carve", source, "--all", "-o", f"{bucket.url}/out").code == 3
    bucket.store.fault = lambda request: 403 if request.path.endswith("/all/processes.json") else None
    ran = invoke(capfdbinary, "carve", source, "--all", "-o", f"{bucket.url}/all")
    assert ran.code == 1
    assert "s3://" in ran.err
    assert "is partial: 3 of 3 processes are whole, and only processes.json is not there" in ran.err
    there = bucket.objects("all/")
    assert "processes.json.partial" in there
    assert "processes.json" not in there
    assert {"4/segments.json", "40/segments.json", "1624/segments.json"} < there.keys()
    bucket.store.fault = lambda _: None
    assert invoke(capfdbinary, "carve", source, "--all", "-o", f"{bucket.url}/all").code == 1
    assert invoke(capfdbinary, "carve", source, "--all", "-o", f"{bucket.url}/all", "--force").code == 0
    assert "processes.json.partial" not in bucket.objects("all/")


@pytest.mark.parametrize("sink", ["minidump", "elfcore", "flat", "memmap"])
def test_single_files(sink: str, process: memcarve.ProcessMemory, bucket: Bucket, tmp_path: Path) -> None:
    """A file that another program opens is one object, the same as on a disk; its description comes after it."""
    name = "pid.4.dmp" if sink == "memmap" else f"x.{sink}"
    again = {"time": "2026-01-01T00:00:00Z"}
    (files := tmp_path / "files").mkdir()
    local = sinking.write(sink, process, files / name, again=again)
    told = sinking.write(sink, process, f"{bucket.url}/deep/{name}", again=again)
    there = bucket.objects("deep/")
    assert [os.path.basename(file) for file in told.files] == [os.path.basename(file) for file in local.files]
    assert sorted(told.files) == sorted(f"{bucket.url}/deep/{each}" for each in there)
    for each, data in there.items():
        if sink in ("flat", "memmap") and not each.endswith(".json"):
            assert data == (files / each).read_bytes()
        assert abs(len(data) - (files / each).stat().st_size) < 2000
    with pytest.raises(TargetExistsError, match="exists; force=True replaces it"):
        sinking.write(sink, process, f"{bucket.url}/deep/{name}")
    sinking.write(sink, process, f"{bucket.url}/deep/{name}", force=True)
    if sink == "memmap":  # whose map vouches for any dump
        bucket.put("deep/pid.4.map", b"somebody's")
    bucket.put(f"deep/{name}", b"somebody's")
    with pytest.raises(TargetExistsError, match="does not say that memcarve wrote it"):
        sinking.write(sink, process, f"{bucket.url}/deep/{name}", force=True)
    assert bucket.get(f"deep/{name}") == b"somebody's"
    assert bucket.unfinished == []


def test_no_room_to_build(process: memcarve.ProcessMemory, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no room to build a file before it is sent, the error says where that is and what to do."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(NoSpaceError, match="TMPDIR names a folder with more room"):
        sinking.write("minidump", process, f"{bucket.url}/x.dmp")
    carve(process, f"{bucket.url}/out")  # which needs none


REFUSED = {
    "gs://bucket/x": "memcarve writes to s3:// alone; write to a folder of this machine, and copy that",
    "https://someone:secret@host/x?sig=secret": "a web server takes no files",
    "s3://bucket": "names a bucket, and nothing in it",
    "s3://bucket/": "names a bucket, and nothing in it",
    "s3://bucket//x": "has parts that are empty",
    "s3://bucket/a/../b": "has parts that are empty, . or ..",
    "s3://bucket/./b": "has parts that are empty, . or ..",
    "s3://bucket/a\nb": "control characters",
    "s3://bucket/a\x1b[2Jb": "control characters",
    "s3://bucket/a\udcffb": "control characters",
    "s3://bucket/a?versionId=1": "is not a name that memcarve writes to",
    "ftp://host/x": "is not where memcarve can write",
    "s3:///x": "is not where memcarve can write",
    "s3:/x": "is not where memcarve can write",
    f"s3://bucket/{'a' * 900}": "is too long a name",
    f"s3://bucket/{'ü' * 450}": "is too long a name",
}


@pytest.mark.parametrize("out", REFUSED)
def test_refused_names(
    out: str, process: memcarve.ProcessMemory, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written, the error says why; nothing is made on the disk, and no secret is told."""
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    with pytest.raises((UsageError, OutputError), match=re.escape(REFUSED[out])) as caught:
        carve(process, out)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert sorted(os.listdir()) == before
    assert not bucket.store.begun


@pytest.mark.parametrize(
    "name", ["a b", "ü", "u\u0308", "a%20b", "a+b#c", "a?b=c&d", "{x}", "漢字", "'\"<&>", "~", "a:b"]
)
def test_odd_names(name: str, process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """A key is what the user wrote, character by character: nothing is normalised, and nothing has another meaning."""
    few = memcarve.Selection(address=((0x10000, 0x11000),))
    carve(process, f"{bucket.url}/{name}/x", selection=few)
    assert sorted({key.rpartition("/")[0] for key in bucket.objects()}) == [f"{name}/x"]
    carve(process, f"{bucket.url}/{name}/x", selection=few, force=True)
    assert len(bucket.objects(f"{name}/x/")) == 3


def test_options_that_a_bucket_has_not(
    process: memcarve.ProcessMemory, source: Path, bucket: Bucket, capfdbinary: Capture
) -> None:
    """Holes, going on and scripts are refused, with what to do."""
    with pytest.raises(UsageError, match="objects have no holes; leave sparse=True out: zeros are written"):
        carve(process, f"{bucket.url}/out", sparse=True)
    with pytest.raises(UsageError, match="scripts map a file of this machine"):
        sinking.write("scripts", process, f"{bucket.url}/out")
    for out in (f"{bucket.url}/out", "s3:/x", "https://someone:secret@host/x"):
        ran = invoke(capfdbinary, "batch", "segments", source, "-o", out)
        assert (ran.code, "a batch keeps what it knows in files of this machine" in ran.err) == (2, True)
        assert "secret" not in ran.err
    with memcarve.open(source) as container, pytest.raises(UsageError, match="cannot be gone on with"):
        sinking.carve_several(container, [0, 1], f"{bucket.url}/out", resume=True)
    assert not bucket.store.begun


def test_what_the_store_says(process: memcarve.ProcessMemory, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket, no rights and no credentials are told apart, each with what to do, and no key is told."""
    with pytest.raises(OutputError, match="is not there: The specified bucket does not exist; is the bucket"):
        carve(process, "s3://nosuch/out")
    bucket.store.fault = lambda _: 403
    with pytest.raises(OutputError, match="access is refused: AccessDenied; it takes the rights"):
        carve(process, f"{bucket.url}/out")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(OutputError, match=r"redentials.*give credentials as for the AWS tools"):
        carve(process, f"{bucket.url}/out")
    monkeypatch.setattr(objects_module, "_known", {})
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"memcarve\[cloud\]"):
        carve(process, f"{bucket.url}/out")


def test_evidence_in_a_bucket_is_not_written_over(process: memcarve.ProcessMemory, bucket: Bucket) -> None:
    """A folder that would hold the input, or an object that is it, is refused before anything is asked."""
    process.inputs["dump"]["path"] = f"{bucket.url}/case/mem.dmp"
    for force in (False, True):
        with pytest.raises(TargetExistsError, match="is the input, or holds it"):
            carve(process, f"{bucket.url}/case", force=force)
        with pytest.raises(TargetExistsError, match="is the input, or holds it"):
            sinking.write("minidump", process, f"{bucket.url}/case/mem.dmp", force=force)


def test_verify_reads_every_byte(
    process: memcarve.ProcessMemory, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in a bucket is verified there: objects that are gone, other, longer, or not listed are faults."""
    monkeypatch.setattr("memcarve.sinks.verify.fetched_objects._WINDOW", PART)
    told = carve(process, f"{bucket.url}/out")
    found = memcarve.verify(f"{bucket.url}/out", seal=told.seal)
    assert (found.count, found.bytes, found.files) == (3, told.bytes, (f"{bucket.url}/out",))
    name = "0x0000000001000000-0x00000000010a0000.bin"
    good = bucket.get(f"out/{name}")
    for number in range(0, len(good), PART):
        bucket.put(f"out/{name}", good[:number] + bytes([good[number] ^ 1]) + good[number + 1 :])
        with pytest.raises(
            memcarve.VerificationError, match=f"/out: 1 fault; {name}: its sha256 is not the one in the manifest"
        ):
            memcarve.verify(f"{bucket.url}/out")
    bucket.put(f"out/{name}", good + b"x")
    with pytest.raises(memcarve.VerificationError, match=f"is {len(good) + 1} bytes long, not {len(good)}"):
        memcarve.verify(f"{bucket.url}/out")
    bucket.remove(f"out/{name}")
    with pytest.raises(memcarve.VerificationError, match=f"{name}: is missing"):
        memcarve.verify(f"{bucket.url}/out")
    bucket.put(f"out/{name}", good)
    bucket.put("out/mine", b"")
    with pytest.raises(memcarve.VerificationError, match="mine: is not in the manifest"):
        memcarve.verify(f"{bucket.url}/out")
    bucket.remove("out/mine")
    bucket.put("out/segments.json", bucket.get("out/segments.json").replace(b'"case_id": null', b'"case_id": "x"'))
    with pytest.raises(memcarve.VerificationError, match=f"evidence-.*out: .*the seal is {told.seal}"):
        memcarve.verify(f"{bucket.url}/out", seal=told.seal)


def test_verify_with_the_source(process: memcarve.ProcessMemory, bucket: Bucket, capfdbinary: Capture) -> None:
    """With the source, every byte in the bucket is compared with it."""
    carve(process, f"{bucket.url}/out")
    dump = process.file.path
    ran = invoke(capfdbinary, "verify", f"{bucket.url}/out", "--source", dump)
    assert ran.code == 0, ran.err
    assert "every byte compared with the source" in ran.err
    sinking.write("minidump", process, f"{bucket.url}/x.dmp")
    assert invoke(capfdbinary, "verify", f"{bucket.url}/x.dmp", "--source", dump).code == 0
    sinking.write("flat", process, f"{bucket.url}/x.bin")
    for name in ("x.bin", "x.bin.json"):
        ran = invoke(capfdbinary, "verify", f"{bucket.url}/{name}")
        assert ran.code == 0, ran.err
        assert f"{bucket.url}/{name}" in ran.err


def test_verify_says_what_is_not_whole(process: memcarve.ProcessMemory, bucket: Bucket, capfdbinary: Capture) -> None:
    """A folder without its list is not whole; nothing is fetched of one that memcarve did not write."""
    carve(process, f"{bucket.url}/out")
    bucket.put("out/segments.json.partial", b"{}")  # killed between the last two requests
    assert invoke(capfdbinary, "verify", f"{bucket.url}/out").code == 0
    bucket.remove("out/segments.json")
    ran = invoke(capfdbinary, "verify", f"{bucket.url}/out")
    assert (ran.code, "is partial: another run writes it, or was killed" in ran.err) == (1, True)
    bucket.put("case/image.raw", bytes(100))
    bucket.store.begun.clear()
    assert "holds no segments.json" in invoke(capfdbinary, "verify", f"{bucket.url}/case").err
    assert not any(each.path.endswith("image.raw") for each in bucket.store.begun)
    assert "is not there" in invoke(capfdbinary, "verify", f"{bucket.url}/nothing").err
    assert invoke(capfdbinary, "verify", "s3://nosuchbucket/nothing").code == 1


_HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "..",
            ".",
            "/etc/passwd",
            "../../up",
            "a/b",
            "\\\\server",
            "\x1b[2J",
            "\n",
            "\0",
            "u\u0308" * 200,
            "\udc80",
            " ",
        ]
    ),
    st.text(alphabet="./\\\x00\x1f é漢", max_size=300),
)


@given(_HOSTILE, st.one_of(st.none(), st.integers(0, 1 << 64)))
def test_names_of_processes_and_modules_lead_nowhere(name: str, pid: int | None) -> None:
    """Whatever processes and modules of a hostile machine are called, a key stays in its folder, and is no other's."""
    entry = ProcessEntry(pid, name)
    taken: Counter[str] = Counter()
    folders = [folder_name(entry, index, taken) for index in range(3)]
    assert len({folder.lower() for folder in folders}) == 3
    for made in [*folders, manifest.module_file_name(pid or 0, name)]:
        assert is_plain(made)
        assert "/" not in made
        assert made.isascii()
        assert len(made) < 200
        assert made not in {*LISTS, *(each + MARKS for each in LISTS), *manifest.SUMS.values()}
