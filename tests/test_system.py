"""What only a real system shows: reflinks, full disks, signals, kills. Some of it needs root and file system tools."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from carved import binaries, manifest, model, named
from cli import command, invoke, run
from dumps import write_dump
from files import listing
from memcarve.copying.copier import REFLINK
from memory import PAGE, noise
from mounts import mounted, only_on_linux_as_root, tmpfs
from sweeps import LONG
from vanishing import present

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumps import Piece

    Capture = pytest.CaptureFixture[bytes]

MIB = 1 << 20
IMAGE = 320 * MIB
DUMP = 32 * MIB
KILLS = 50 if LONG else 8


@pytest.fixture(scope="module")
def rows() -> list[Piece]:
    """Return rows of a few tens of MiB in a thousand segments, some of several rows, some not page sized."""
    sizes = random.Random(4)  # noqa: S311 - sizes of test data
    block = noise(1, MIB)
    found: list[Piece] = []
    address = 0x10000
    left = DUMP
    while left > 0:
        size = min(sizes.choice([1, 2, 3, 8, 16, 40]) * PAGE, left)
        place = sizes.randrange(0, MIB - size)
        found.append((address, block[place : place + size]))
        address += size + sizes.choice([0, PAGE, 16 * PAGE])
        left -= size
    return found


# reflinks


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def reflinking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder on a freshly made file system that can reflink."""
    kind = request.param
    make = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q", "-f", "--mixed"]}[kind]
    only_on_linux_as_root(make[0], "mount", "umount", "losetup")
    folder = tmp_path_factory.mktemp(kind)
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE)
    try:
        subprocess.run([*make, image], capture_output=True, check=True)
        with mounted(folder / "mounted", "-o", "loop", image) as where:
            yield where
    finally:
        image.unlink()


@pytest.fixture
def place(reflinking: Path, tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder on that file system, which is removed again."""
    folder = reflinking / tmp_path.name
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)
    subprocess.run(["sync", "-f", reflinking], check=True)  # Btrfs gives room back when it commits


def used(where: Path) -> int:
    """Return the bytes in use on a file system, once everything is written."""
    subprocess.run(["sync", "-f", where], check=True)
    status = os.statvfs(where)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("hashes", [[], ["sha256"]])
def test_reflinks(place: Path, rows: list[Piece], hashes: list[str]) -> None:
    """Where the file system can share blocks, carving shares them all: no data is written, and all bytes are equal."""
    dump = write_dump(place, rows)
    before = used(place)
    with memcarve.open(dump) as container:
        result = sinking.carve(container.process(), place / "out", hashes=hashes)
        after = used(place)
        memcarve.verify(place / "out", container.process())
    assert after - before < DUMP // 8  # inodes, directories, segments.json
    assert binaries(place / "out") == named(model(rows))
    assert manifest(place / "out")["totals"]["bytes"] == DUMP
    assert result.moved == {REFLINK: DUMP}


def test_reflinks_need_no_room(place: Path) -> None:
    """Where blocks are shared, the dump can be carved on a file system that has no room for a second one."""
    block = noise(1, 4 * MIB)
    size = 3 * DUMP
    dump = write_dump(place, [(at << 24, block) for at in range(1, size // len(block) + 1)])
    used(place)
    with (place / "filler").open("wb") as file:
        while shutil.disk_usage(place).free > size * 3 // 4:  # the rest is for the file system's own records
            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), 4 * MIB)
            used(place)  # Btrfs counts what was allocated only once it is committed
    ran = run("carve", dump, "-o", place / "out", "--hash", "none")
    assert ran.code == 0, ran.err
    assert "by reflink" in ran.err


def test_reflinks_of_odd_sizes(place: Path) -> None:
    """Segments that do not end with a block, in the middle of the dump and at its end, are right on such a system."""
    odd: list[Piece] = [(0x10000, noise(1, 5 * PAGE)), (0xFFFFFFFFE000, noise(2)), (0xFFFFFFFFF000, noise(3, PAGE - 1))]
    middle: list[Piece] = [(0x10000, noise(1, PAGE + 100)), (0x20000, noise(2, 7 * PAGE + 5)), (0x30000, noise(3, 99))]
    for name, layout in (("end", odd), ("middle", middle)):
        (place / name).mkdir()
        with memcarve.open(write_dump(place / name, layout)) as container:
            sinking.carve(container.process(), place / name / "out")
            memcarve.verify(place / name / "out", container.process())
        assert binaries(place / name / "out") == named(model(layout))


def test_other_file_system(place: Path, rows: list[Piece], tmp_path: Path) -> None:
    """From one file system to another nothing can be shared; the bytes are copied and equal."""
    with memcarve.open(write_dump(tmp_path, rows)) as container:
        result = sinking.carve(container.process(), place / "out", hashes=[])
    assert REFLINK not in result.moved
    assert sum(result.moved.values()) == DUMP
    assert binaries(place / "out") == named(model(rows))


# full disks


def test_too_little_room_is_told_before(tmp_path: Path, rows: list[Piece]) -> None:
    """A file system with too little room is found out before anything is written there."""
    dump = write_dump(tmp_path, rows)
    with tmpfs(tmp_path, "size=4m") as where:
        ran = run("carve", "-q", dump, "-o", where / "out")
        assert listing(where) == []
    assert (ran.code, ran.out) == (1, b"")
    assert re.fullmatch(rf"memcarve: {re.escape(str(where))}/out: needs \d+ bytes.* has \d+ free.*\n", ran.err)


@pytest.mark.parametrize("options", [["--sparse"], ["--hash", "none"], ["--hash", "md5"]])
def test_disk_runs_full(tmp_path: Path, rows: list[Piece], options: list[str]) -> None:
    """A disk that runs full while segments are written is told in one line, and nothing is left on it."""
    before = "" if options == ["--sparse"] else (
        "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1 << 60)"
    )  # fmt: skip
    dump = write_dump(tmp_path, rows)
    with tmpfs(tmp_path, "size=4m") as where:
        ran = run("carve", "-q", dump, "-o", where / "out", *options, before=before)
        assert listing(where) == []
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.count("\n") == 1
    assert "No space left on device" in ran.err
    assert "nothing was kept" in ran.err
    assert f"{where}/out" in ran.err


@pytest.mark.parametrize("inodes", [20, 1030])
def test_no_inodes_left(tmp_path: Path, inodes: int) -> None:
    """A file system that can hold no more files is told like a full one: within the segments or with the manifest."""
    many: list[Piece] = [(0x10000 + at * 2 * PAGE, noise(at % 7)) for at in range(1027)]  # 1029 with root, folder
    dump = write_dump(tmp_path, many)
    with tmpfs(tmp_path, f"size=40m,nr_inodes={inodes}") as where:
        ran = run("carve", "-q", dump, "-o", where / "out")
        assert listing(where) == []
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "No space left on device" in ran.err
    assert "nothing was kept" in ran.err


def test_full_disk_keeps_the_old_folder(tmp_path: Path, rows: list[Piece]) -> None:
    """With --force on a disk that runs full, the old folder stays as it was."""
    dump = write_dump(tmp_path, rows)
    (tmp_path / "first").mkdir()
    few = write_dump(tmp_path / "first", rows[:3])
    with tmpfs(tmp_path, "size=4m") as where:
        assert run("carve", few, "-o", where / "out").code == 0
        ran = run("carve", "-q", "--force", dump, "-o", where / "out", "--sparse")
        assert ran.code == 1
        assert listing(where) == ["out"]
        assert binaries(where / "out") == named(model(rows[:3]))
        memcarve.verify(where / "out")


def test_file_size_limit(tmp_path: Path, rows: list[Piece]) -> None:
    """A limit on the size of files is told like a full disk, and nothing is left behind."""
    pytest.importorskip("resource", reason="limits on files are for Unix")
    dump = write_dump(tmp_path, [(0x10000, noise(1, 4 * MIB)), *[(at + 0x1000000, data) for at, data in rows[:5]]])
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))"
    ran = run("carve", "-q", dump, "-o", tmp_path / "out", before=before)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "nothing was kept" in ran.err
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


# inputs that fail


def test_input_that_is_shorter_than_it_says(tmp_path: Path) -> None:
    """A file of which less can be read than its size promises, as under /sys, is an error that names it."""
    source = next((path for path in ("/sys/kernel/uevent_seqnum", "/sys/kernel/fscaps") if os.path.exists(path)), None)
    if source is None or os.stat(source).st_size < PAGE:
        pytest.skip("there is no file under /sys whose size is more than what can be read of it")
    table = tmp_path / "rows.map"
    write_dump(tmp_path, [(0x1000, noise(1))])
    (tmp_path / "pid.4.map").rename(table)
    ran = run("carve", "-q", source, "--map", table, "-o", tmp_path / "out")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert source in ran.err
    assert listing(tmp_path) == ["pid.4.dmp", "rows.map"]


def test_input_that_cannot_be_read(tmp_path: Path, rows: list[Piece]) -> None:
    """Read errors from the middle of the input on are told with the file and the offset; what is before is carved."""
    dump = write_dump(tmp_path, rows)
    before = (
        "import errno, os\n"
        "true = os.preadv\n"
        "def preadv(fd, buffers, offset):\n"
        f"    if offset >= {DUMP // 2}: raise OSError(errno.EIO, 'Input/output error')\n"
        "    return true(fd, buffers, offset)\n"
        "os.preadv = preadv\n"
    )
    ran = run("carve", "-q", dump, "-o", tmp_path / "out", before=before)
    assert ran.code == 3
    assert run("carve", dump, "-o", tmp_path / "again", before=before).err.count(
        f"{dump}: {DUMP - DUMP // 2} bytes cannot be read, at one place, at offset 0x{DUMP // 2:x}: they are missing"
    )
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.bin")) == DUMP // 2


# signals


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a dump that takes long to carve and no room: 64 GiB of nothing."""
    dump = tmp_path / "pid.4.dmp"
    with dump.open("wb") as file:
        file.truncate(64 << 30)
    head = "Virtual\tPhysical\tSize\tOffset in File\tFile output\n\n"
    table = "".join(f"0x{at << 31:x}\t0x0\t0x40000000\t0x{at << 30:x}\tpid.4.dmp\n" for at in range(64))
    (tmp_path / "pid.4.map").write_text(head + table)
    return dump


@contextlib.contextmanager
def running(tmp_path: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a run and wait until its folder is being built; end it in any case."""
    process = subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not any(path.name.endswith(".bin") for path in present(tmp_path, ".out.*.incomplete/*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])],
    ids=lambda number: number.name,
)
def test_signals(tmp_path: Path, slow: Path, number: signal.Signals, *, force: bool) -> None:
    """A run stopped by a signal says that nothing was kept, leaves nothing, and ends with 128 and its number."""
    (tmp_path / "first").mkdir()
    before = ["first", "pid.4.dmp", "pid.4.map"]
    if force:
        few = write_dump(tmp_path / "first", [(0x1000, noise(1))])
        assert run("carve", few, "-o", tmp_path / "out").code == 0
        before.insert(1, "out")
    options = ["--force"] if force else []
    with running(tmp_path, "carve", slow, "-o", tmp_path / "out", "--sparse", "-q", *options) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == ""
    assert err.count("\n") == 1
    assert "nothing was kept" in err
    assert listing(tmp_path) == before
    if force:
        memcarve.verify(tmp_path / "out")


def test_exit_statuses_of_signals() -> None:
    """The exit statuses after SIGINT and SIGTERM are 130 and 143."""
    assert (128 + signal.SIGINT, 128 + signal.SIGTERM) == (130, 143)


def test_signal_while_the_input_is_hashed(tmp_path: Path, slow: Path) -> None:
    """A run that hashes its input stops as well."""
    with running(tmp_path, "carve", slow, "-o", tmp_path / "out", "--sparse", "--hash-input") as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing was kept" in err
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


def test_signal_while_reading_for_zeros(tmp_path: Path, slow: Path) -> None:
    """A run that looks for zero segments, before it writes anything, stops as well."""
    process = subprocess.Popen(
        command("carve", slow, "-o", tmp_path / "out", "--skip-zero"), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        process.stderr.readline()  # which map was taken: it is on its way
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert "Traceback" not in err
    assert listing(tmp_path) == ["pid.4.dmp", "pid.4.map"]


@pytest.mark.parametrize("arguments", [["verify"], ["find"]])
def test_signal_while_reading(tmp_path: Path, slow: Path, arguments: list[str]) -> None:
    """The commands that only read stop in one line, too."""
    out = tmp_path / "out"
    if arguments == ["verify"]:
        assert run("carve", slow, "-o", out, "--address", "0x80000000", "--hash", "none").code == 0
        words: list[str | Path] = ["verify", out, "--source", slow]
    else:
        words = ["find", slow, "x"]
    before = (
        "import memcarve.backing as b, os, signal\n"
        "true, calls = b.FileBacking.read_into, []\n"
        "def read_into(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 20: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return true(*arguments)\n"
        "b.FileBacking.read_into = read_into\n"
    )
    ran = run(*words, before=before)
    assert ran.code == 130
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err


#: segments of which nothing is looked at are copied one by one
_COPIED = ("--hash", "none", "--content", "none")


def test_second_signal(tmp_path: Path, rows: list[Piece]) -> None:
    """A second Ctrl-C, while the first one is being cleaned up after, leaves nothing behind unsaid."""
    dump = write_dump(tmp_path, rows)
    before = (
        "import os, shutil, signal, memcarve.copying.copier as c\n"
        "true, sent = shutil.rmtree, []\n"
        "def rmtree(path, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    true(path, **options)\n"
        "def copy(self, *_, **__):\n"
        "    sent.append(1)\n"
        "    if len(sent) == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "    self.stop.wait()\n"
        "    raise c.StoppedError\n"
        "shutil.rmtree, c.Copier.copy = rmtree, copy\n"
    )
    ran = run("carve", "-q", dump, "-o", tmp_path / "out", *_COPIED, before=before)
    assert ran.code == 130
    assert "Traceback" not in ran.err
    left = [name for name in listing(tmp_path) if name.startswith(".")]
    assert all(name in ran.err for name in left), (ran.err, left)
    assert left or "nothing was kept" in ran.err, ran.err


def test_ignored_signals_stay_ignored(tmp_path: Path, rows: list[Piece]) -> None:
    """A signal that was ignored when the program started, as nohup does it, does not stop it."""
    dump = write_dump(tmp_path, rows)
    before = (
        "import os, signal, memcarve.copying.copier as c\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "true = c.Copier.copy\n"
        "def copy(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return true(*arguments, **options)\n"
        "c.Copier.copy = copy\n"
    )
    assert run("carve", "-q", dump, "-o", tmp_path / "out", *_COPIED, before=before).code == 0
    memcarve.verify(tmp_path / "out")


# kills


def killed(seconds: float, folder: Path | None, *arguments: str | Path) -> None:
    """Start a run and kill it after some time, if it has not ended by itself; count from where it begins to write."""
    process = subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while folder and process.poll() is None and not any(folder.glob(".out.*.incomplete")):
            time.sleep(0.005)
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, rows: list[Piece], capfdbinary: Capture) -> None:
    """Killed at any moment, a folder that has its final name is whole; the next run succeeds and names what is left."""
    dump = write_dump(tmp_path, rows)
    out = tmp_path / "out"
    begun = time.monotonic()
    assert run("carve", dump, "-o", out).code == 0
    whole = time.monotonic() - begun
    shutil.rmtree(out)
    moments = random.Random(50)  # noqa: S311 - moments of a test
    interrupted = 0
    for number in range(KILLS):
        force = ["--force"] if number % 5 == 4 and out.exists() else []
        if not force:
            shutil.rmtree(out, ignore_errors=True)
        if number % 2:
            killed(moments.uniform(0, 0.7) * whole, tmp_path, "carve", dump, "-o", out, *force)
        else:
            killed(moments.uniform(0, 1.1) * whole, None, "carve", dump, "-o", out, *force)
        left = [path for path in tmp_path.iterdir() if path.name.startswith(".out.")]
        if out.exists():
            memcarve.verify(out)
        elif force:
            assert [path for path in left if path.name.endswith(".replaced")]
        if left or number % 4 == 3:
            interrupted += bool(left)
            ran = invoke(capfdbinary, "carve", dump, "-o", out, "--force")
            assert ran.code == 0, ran.err
            assert all(str(path) in ran.err for path in left)
            memcarve.verify(out)
            for path in left:
                shutil.rmtree(path)
        assert set(listing(tmp_path)) <= {"out", "pid.4.dmp", "pid.4.map"}
    assert interrupted


@pytest.mark.parametrize("step", ["first rename", "second rename", "removal"])
def test_killed_while_replacing(tmp_path: Path, rows: list[Piece], step: str) -> None:
    """Killed at any step of replacing a folder, the next run succeeds and names what is left of the old one."""
    dump = write_dump(tmp_path, rows)
    out = tmp_path / "out"
    assert run("carve", dump, "-o", out, "--hash", "md5").code == 0
    at = {"first rename": 1, "second rename": 2, "removal": 3}[step]
    before = (
        "import os, shutil, signal\n"
        "calls = []\n"
        "def counted(function):\n"
        "    def inner(*arguments, **options):\n"
        "        calls.append(1)\n"
        f"        if len(calls) == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return function(*arguments, **options)\n"
        "    return inner\n"
        "os.rename, shutil.rmtree = counted(os.rename), counted(shutil.rmtree)\n"
    )
    assert run("carve", dump, "-o", out, "--force", before=before).code == -signal.SIGKILL
    if out.exists():
        memcarve.verify(out)
    left = [name for name in listing(tmp_path) if name.startswith(".out.")]
    assert left
    ran = run("carve", dump, "-o", out, "--force")
    assert ran.code == 0
    assert all(name in ran.err for name in left)
    memcarve.verify(out)


def test_two_runs_at_once(tmp_path: Path, rows: list[Piece]) -> None:
    """Of two runs for one folder at the same time one wins; the other fails, and what is there is whole."""
    dump = write_dump(tmp_path, rows)
    runs = [
        subprocess.Popen(
            command("carve", dump, "-o", tmp_path / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 1, 1, 1], errors
    assert not any("Traceback" in error for error in errors)
    memcarve.verify(tmp_path / "out")
    assert listing(tmp_path) == ["out", "pid.4.dmp", "pid.4.map"]


def test_manifest_is_read_by_others(tmp_path: Path, rows: list[Piece]) -> None:
    """The manifest of a thousand segments is read by a JSON reader of another make, and holds one of each."""
    program = shutil.which("jq")
    dump = write_dump(tmp_path, rows)
    assert run("carve", dump, "-o", tmp_path / "out").code == 0
    if program is None:
        pytest.skip("jq is not installed")
    found = subprocess.run(
        [program, "[.segments[].size] | add", tmp_path / "out" / "segments.json"], capture_output=True, check=True
    )
    assert json.loads(found.stdout) == DUMP
