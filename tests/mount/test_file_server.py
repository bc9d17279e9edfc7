"""A tree that is really mounted: what programs see of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from contracts import MAKERS
from dumps import write_dump
from memcarve.errors import MountError, TargetExistsError
from memcarve.mount import file_server, mount_point
from memcarve.mount.file_server import serve
from memcarve.mount.mounted_tree import MountedTree
from memcarve.mount.virtual_file import Folder, MadeFolder, Text
from memcarve.process import Container, ProcessEntry
from memory import PAGE, noise
from mounted import content_of, files_in, mounted, need_fuse, tree_of, unmount

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = [(0x10000 + 0x10000 * number, noise(number, PAGE * (1 + number % 3))) for number in range(40)]


def test_programs_see_files(tmp_path: Path) -> None:
    """Names, sizes, modes and bytes are those of the segments; nothing can be written; many may read at once."""
    path = write_dump(tmp_path, ROWS, 1624)
    with memcarve.open(path) as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        assert sorted(os.listdir(folder)) == ["by-name", "processes"]
        assert os.readlink(folder / "by-name" / "1624") == "../processes/1624"
        segments = folder / "by-name" / "1624" / "segments"
        with os.scandir(segments) as entries:
            seen = {entry.name: entry.stat().st_size for entry in entries}
        assert seen == {f"0x{a:016x}-0x{a + len(data):016x}.bin": len(data) for a, data in ROWS}
        status = os.stat(segments / next(iter(seen)))
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, os.getuid())
        assert stat.S_IMODE(os.stat(segments).st_mode) == 0o500
        assert os.statvfs(folder).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == (
            os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
        )
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda name: (segments / name).read_bytes(), sorted(seen))]
        assert found == [data for _, data in ROWS]
        for name in ("absent", "../x", f"{next(iter(seen))[:-4]}.BIN", "0x0-0x1.bin"):
            assert not (segments / name).exists()
        with pytest.raises(OSError, match="Read-only") as refused:
            (folder / "new").write_bytes(b"")
        assert refused.value.errno == errno.EROFS


def test_files_are_not_opened_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that once was told that files need not be opened does not ask for it again: each is only read."""
    asked = Counter[str]()

    class Counted(file_server._Server):
        def _guarded(self, work: Callable[..., int | None]) -> Callable[..., int]:
            inner = super()._guarded(work)

            def counted(*arguments: object) -> int:
                asked[work.__name__] += 1
                return inner(*arguments)

            return counted

    monkeypatch.setattr(file_server, "_Server", Counted)
    path = write_dump(tmp_path, ROWS, 1624)
    with memcarve.open(path) as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        if mount_point.fuse_library().fuse_version_major == 2:
            pytest.skip("libfuse 2 cannot tell whether the kernel does without opening")
        segments = folder / "processes" / "1624" / "segments"
        assert [(segments / name).read_bytes() for name in sorted(os.listdir(segments))] == [data for _, data in ROWS]
    assert (asked["open"], asked["read"]) == (1, len(ROWS))
    assert asked["getattr"] < len(ROWS)  # attributes came with the names


def test_an_input_with_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of it is opened when it is read is found: the current folder stays what it is."""
    monkeypatch.chdir(tmp_path)
    write_dump(tmp_path, ROWS[:2], 1624)
    with memcarve.open("pid.1624.dmp") as container:
        sinking.carve(container.process(), tmp_path / "carved")
    with memcarve.open("carved") as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        assert os.getcwd() == str(tmp_path)
        segments = sorted((folder / "processes" / "1624" / "segments").iterdir())
        assert [path.read_bytes() for path in segments] == [data for _, data in ROWS[:2]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
def test_leaving_it(number: signal.Signals | None, tmp_path: Path) -> None:
    """The command says where it is mounted and how to leave; a signal unmounts it, even while a file is open."""
    need_fuse()
    path, folder = write_dump(tmp_path, ROWS, 1624), tmp_path / "mnt"
    folder.mkdir()
    words = [sys.executable, "-m", "memcarve", "mount", path, folder]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            line = program.stderr.readline()
            assert line.startswith(f"1 process mounted on {folder}; leave it with Ctrl-C, or fusermount3 -u {folder}")
            if number is None:
                unmount(folder)
                assert program.wait(20) == 0
                return
            held = os.open(next((folder / "processes" / "1624" / "segments").iterdir()), os.O_RDONLY)
            program.send_signal(number)
            assert program.wait(20) == 128 + number
            with contextlib.suppress(OSError):  # whoever held a file is told that it is gone
                os.close(held)
            assert not os.path.ismount(folder)
            assert os.listdir(folder) == []
        finally:
            program.kill()
            unmount(folder)


def test_the_library_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It frees what it is told with as soon as it ends; but it is woken until it does."""
    need_fuse()
    told, woken = list[object](), list[int]()
    server = file_server._Server(None, mount_point.fuse_library(), list, allow_other=False)  # type: ignore[arg-type]
    server.session, server.library = 1, SimpleNamespace(fuse_exit=told.append)
    monkeypatch.setattr(file_server, "_POLL", 0.001)
    before = signal.signal(signal.SIGUSR1, lambda *_: woken.append(1))
    try:
        with server._signals():
            signal.raise_signal(signal.SIGUSR1)
            while len(woken) < 5:
                time.sleep(0.001)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 1


class _Waiting:
    """A tree of a file, and of folders that are made when `may` is set."""

    def __init__(self, folders: int) -> None:
        self.may = threading.Event()
        self.asked = threading.Semaphore(0)
        slow = {str(number): MadeFolder(self.make) for number in range(folders)}
        self.root = Folder({"file": Text(b"there"), **slow})

    def make(self) -> Folder:
        self.asked.release()
        self.may.wait(20)
        return Folder({})

    find = MountedTree.find


def test_who_waits_is_not_in_the_way(tmp_path: Path) -> None:
    """While readers wait for what is being made, others read what is there; all folders may be made at once."""
    tree = _Waiting(8)
    with mounted(tree, tmp_path / "mnt") as folder, ThreadPoolExecutor(8) as pool:  # type: ignore[arg-type]
        waiting = [pool.submit((folder / str(number) / "absent").exists) for number in range(8)]
        try:
            assert all(tree.asked.acquire(timeout=5) for _ in waiting)
            assert (folder / "file").read_bytes() == b"there"
            assert not any(each.done() for each in waiting)
        finally:
            tree.may.set()
        assert [each.result(20) for each in waiting] == [False] * 8


class _Read(Text):
    """A file whose reads are kept in `asked`, and wait until `may` is set."""

    def __init__(self, data: bytes, may: threading.Event) -> None:
        super().__init__(data)
        self.may = may
        self.begun = threading.Semaphore(0)
        self.asked = list[int]()

    def read_into(self, offset: int, view: memoryview) -> None:
        self.asked.append(len(view))
        self.begun.release()
        self.may.wait(20)
        super().read_into(offset, view)


def test_a_small_file_is_one_request_however_many_are_read(tmp_path: Path) -> None:
    """While the kernel waits for pieces of many files, it does not ask for another page by page."""
    may, at_once = threading.Event(), threading.Event()
    at_once.set()
    slow = {str(number): _Read(noise(number, PAGE), may) for number in range(10)}
    small = _Read(noise(10, 11 * PAGE), at_once)
    tree = SimpleNamespace(root=Folder({"small": small, **slow}))
    tree.find = lambda path: tree.root.find(path[1:]) if path != "/" else tree.root
    with mounted(tree, tmp_path / "mnt") as folder, ThreadPoolExecutor(10) as pool:  # type: ignore[arg-type]
        if mount_point.fuse_library().fuse_version_major == 2:
            pytest.skip("libfuse 2 cannot say how many requests may wait")
        waiting = [pool.submit((folder / name).read_bytes) for name in slow]
        try:
            assert all(file.begun.acquire(timeout=5) for file in slow.values())
            assert (folder / "small").read_bytes() == small.data
        finally:
            may.set()
        assert [each.result(20) for each in waiting] == [file.data for file in slow.values()]
    assert small.asked == [11 * PAGE]


def test_root_has_more_read_ahead(tmp_path: Path) -> None:
    """Who may say how much the kernel reads ahead has it read more, of what is mounted alone."""
    path, own = write_dump(tmp_path, ROWS, 1624), os.stat(tmp_path).st_dev
    with memcarve.open(path) as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        if mount_point.fuse_library().fuse_version_major == 2:
            pytest.skip("libfuse 2 cannot tell whether the kernel does without opening")
        device = os.stat(folder).st_dev
        assert device != own
        setting = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        with open(setting, encoding="ascii") as file:
            before = int(file.read())
        next((folder / "processes" / "1624" / "segments").iterdir()).read_bytes()
        with open(setting, encoding="ascii") as file:
            assert int(file.read()) == (512 if os.access(setting, os.W_OK) else before)


def test_tools_take_the_files(tmp_path: Path) -> None:
    """Sums, a search in all files and a debugger take what is mounted for files; a hole is found without reading."""
    rows = [*ROWS, (0x900000, b"needle in memory".ljust(PAGE, b"\1"))]
    path = write_dump(tmp_path, rows, 1624)
    with memcarve.open(path) as container, mounted(tree_of(container), tmp_path / "mnt") as folder:
        process = folder / "processes" / "1624"
        names = sorted(os.listdir(process / "segments"))
        sums = subprocess.run(["sha256sum", *names], cwd=process / "segments", capture_output=True, check=True).stdout
        assert [line.split()[0] for line in sums.decode().splitlines()] == [
            hashlib.sha256(data).hexdigest() for _, data in rows
        ]
        found = subprocess.run(
            ["grep", "-rlF", "needle in mem", "."], cwd=process, capture_output=True, check=True
        ).stdout
        assert sorted(found.decode().split()) == sorted(
            ["./core", "./flat", "./minidump.dmp", f"./segments/{names[-1]}"]
        )
        with open(process / "flat", "rb") as flat:
            assert os.lseek(flat.fileno(), 0, os.SEEK_HOLE) == len(ROWS[0][1])
            assert os.lseek(flat.fileno(), PAGE, os.SEEK_DATA) == 0x10000
            assert os.fstat(flat.fileno()).st_blocks * 512 == sum(len(data) for _, data in rows)
        if shutil.which("gdb") is None:
            pytest.skip("gdb is not installed: the core was not opened by it")
        words = ["gdb", "-nx", "-batch", "-ex", "x/s 0x900000", "-c", process / "core"]
        assert "needle in memory" in subprocess.run(words, capture_output=True, check=False, text=True).stdout


def test_what_cannot_be_read_is_an_error_of_its_file(tmp_path: Path) -> None:
    """Reading it fails and is told once; other files, and other processes, can be read."""
    path = write_dump(tmp_path, ROWS, 1624)
    with memcarve.open(path) as container:
        tree = tree_of(container)
        with mounted(tree, tmp_path / "mnt") as folder:
            segments = folder / "processes" / "1624" / "segments"
            names = sorted(os.listdir(segments))
            os.truncate(path, os.path.getsize(path) - PAGE)  # the rows are in the dump in their order
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output error"):
                    (segments / names[-1]).read_bytes()
            assert (segments / names[0]).read_bytes() == ROWS[0][1]
        assert [line.partition(": ")[0] for line in tree.told] == [f"/processes/1624/segments/{names[-1]}"]
        assert "ends at offset" in tree.told[0]


def test_a_process_that_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder has a file with the reason, and nothing else."""
    path = write_dump(tmp_path, ROWS, 1624)
    with memcarve.open(path) as container:
        tree = tree_of(container)

        def fail(**_: object) -> None:
            raise memcarve.InputError("its page tables are damaged\x1b", subject="1624 bad")

        monkeypatch.setattr(container, "process", fail)
        with mounted(tree, tmp_path / "mnt") as folder:
            assert os.listdir(folder / "processes" / "1624") == ["error.txt"]
            text = (folder / "processes" / "1624" / "error.txt").read_text()
        assert text == "1624 bad: its page tables are damaged\\x1b\n"
        assert tree.told == [f"1624: {text[:-1]}"]


class _Named(Container):
    """Processes that have names and nothing else."""

    def __init__(self, names: list[str]) -> None:
        pids = [4, 5, 6, 7, 7, 9, 10, 10]
        self.entries = [ProcessEntry(pid, name) for pid, name in zip(pids, names, strict=True)]

    def processes(self) -> list[ProcessEntry]:
        return self.entries

    def _process(self, index: int) -> memcarve.ProcessMemory:
        raise AssertionError(index)

    def close(self) -> None:
        pass


def test_names_of_processes_are_plain() -> None:
    """Names that come from the machine hold no slash, control character or dots alone, and none stands twice."""
    names = [b"../../etc/passwd", b"a\nb\x1b[1m", b"..", b"same", b"same", "é/\u202e".encode(), b"-rf", b"_rf"]
    container = _Named([name.decode("utf-8", "replace") for name in names])
    tree = tree_of(container)
    assert [*tree.indexes] == ["4-_.._etc_passwd", "5-a_b_1m", "6", "7-same", "7-same+2", "9-_", "10--rf", "10-_rf"]
    links = files_in(tree.root.entries["by-name"])
    assert {target.decode() for target in links.values()} == {f"../processes/{name}" for name in tree.indexes}
    assert len(links) == len(tree.indexes)
    assert {"_.._etc_passwd-4", "same-7", "6", "_rf-10", "10-_rf"} <= {*links}
    assert all(name.isprintable() and not name.startswith(("-", ".")) and "/" not in name for name in links)


def test_where_it_cannot_be_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a folder or the system is said with what to do about it, before anything is opened."""
    need_fuse()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, kind, problem in (
        ("absent", MountError, "absent: is not there; make it"),
        ("full", TargetExistsError, "full: is not empty; give an empty folder"),
        ("full/x", MountError, "x: is not a folder"),
    ):
        with pytest.raises(kind, match=problem):
            mount_point.check_mount_point(str(tmp_path / name))
    with pytest.raises(TargetExistsError, match="something is mounted there already; leave that"):
        mount_point.check_mount_point("/proc")
    fuse = mount_point.fuse_library()
    monkeypatch.setattr(mount_point, "_DEVICE", str(tmp_path / "no-fuse"))
    with pytest.raises(MountError, match="no-fuse: is not there: the kernel, or the container"):
        mount_point.check_system(fuse)
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # noqa: ARG005
    with pytest.raises(MountError, match=r"fusermount3? is not installed.*apt install fuse3"):
        mount_point.check_system(fuse)


def test_what_a_killed_program_left(tmp_path: Path) -> None:
    """A mount whose program was killed is said to be one, with the command that leaves it."""
    need_fuse()
    path, folder = write_dump(tmp_path, ROWS[:1], 1624), tmp_path / "mnt"
    folder.mkdir()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "memcarve", "mount", path, folder], stderr=subprocess.PIPE
        ) as program:
            assert program.stderr is not None
            program.stderr.readline()
            program.kill()
        with pytest.raises(MountError, match="what is left of a mount whose program has ended; leave it: fuser"):
            mount_point.check_mount_point(str(folder))
    finally:
        subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mfusepy, or without FUSE's own library, the error says what to install."""
    for error, kind, remedy in (
        (ModuleNotFoundError("no"), memcarve.MissingExtraError, "memcarve\\[mount\\]"),
        (OSError("Unable to find libfuse"), MountError, "apt install fuse3"),
    ):

        def fail(name: str, error: Exception = error) -> None:  # noqa: ARG001
            raise error

        monkeypatch.setattr(mount_point.importlib, "import_module", fail)
        with pytest.raises(kind, match=remedy):
            serve(None, str(tmp_path))  # type: ignore[arg-type]


def test_many_readers_at_once(tmp_path: Path) -> None:
    """Whatever is read first, and by how many, all files of all processes of an image are the same."""
    with MAKERS["image"](tmp_path) as given, memcarve.open(given.path) as container:
        tree = tree_of(container)
        with mounted(tree, tmp_path / "mnt") as folder, ThreadPoolExecutor(8) as pool:
            names = os.listdir(folder / "processes")
            assert len(names) > 1
            kinds = ["core", "flags.json", "minidump.dmp", "regions.csv", "segments.json"]
            paths = [f"processes/{name}/{kind}" for kind in kinds for name in names] * 2
            seen = [*pool.map(lambda path: (folder / path).read_bytes(), paths)]
            assert (folder / "image.raw").read_bytes() == given.path.read_bytes()
        assert tree.told == []
        known = {path: content_of(tree.find(f"/{path}")) for path in {*paths}}
    assert seen == [known[path] for path in paths]
