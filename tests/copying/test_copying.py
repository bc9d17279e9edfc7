"""Moving bytes: every way of doing it, with every kind of failure, on every system."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import sinking
from carved import binaries, model, named
from cli import invoke, run
from dumps import write_dump
from files import EXAMPLE
from memcarve import backing
from memcarve.backing import FileBacking
from memcarve.copying import copier as copier_module
from memcarve.copying.copier import BUFFERED, GATHERED, IN_KERNEL, REFLINK, Copier, StoppedError, Target
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dumps import Piece

SENDFILE = f"{IN_KERNEL} (sendfile)"
CONTENT = noise(1, 3 * PAGE) + bytes(5 * PAGE) + noise(2, 600_001)
PIECES = [(0, 8 * PAGE), (9 * PAGE, 333_333), (PAGE, 1), (0, 0), (len(CONTENT) - 7, 7)]
COPIED = b"".join(CONTENT[offset : offset + size] for offset, size in PIECES)
ELSEWHERE = [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTTY]
MODES: list[dict[str, Any]] = [{}, {"sparse": True}, {"observe": lambda _: None}]


def fail_with(number: int) -> Callable[..., int]:
    """Return a function that fails with an error of the operating system."""

    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return failing


def by_hand(span: backing.Span, target: Target, place: int, limit: int = 1 << 40) -> int:
    """Do what a kernel's copy does, up to `limit` bytes."""
    data = os.pread(span.file.fd, min(span.length, limit), span.offset)
    return os.pwrite(target.fd, data, place)


@pytest.fixture(autouse=True)
def each_piece_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pieces collected: what is tested here is how one moves."""
    monkeypatch.setattr(copier_module, "SMALL_PIECE", 0)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileBacking]:
    """Return an open file to copy from."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    with FileBacking(path) as file:
        yield file


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Return an open, empty file to copy to."""
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield Target(fd, "the target")
    os.close(fd)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the ways of copying this system has, by name."""

    def set_ways(**functions: Callable[..., int]) -> None:
        monkeypatch.setattr(copier_module, "_WAYS", functions)
        monkeypatch.setattr(copier_module, "_ways_here", lambda: list(functions))

    return set_ways


def content(target: Target) -> bytes:
    """Return all of a file."""
    return os.pread(target.fd, 1 << 24, 0)


# the ways


@pytest.mark.parametrize("names", [(), (SENDFILE,), (IN_KERNEL,), (REFLINK,), (REFLINK, IN_KERNEL, SENDFILE)])
@pytest.mark.parametrize("mode", MODES)
def test_every_way_copies(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    mode: dict[str, Any],
) -> None:
    """Each way alone, and all together, copy the pieces one after the other, and every byte is counted once."""
    monkeypatch.setattr(copier_module, "_ways_here", lambda: list(names))
    copier = Copier()
    copier.copy(source, PIECES, target, **mode)
    copier.close()
    assert content(target) == COPIED
    assert sum(copier.moved.values()) == len(COPIED)
    assert set(copier.moved) <= {*names, BUFFERED, GATHERED}


@pytest.mark.parametrize("number", ELSEWHERE)
def test_ways_that_do_not_work_here(
    source: FileBacking, target: Target, ways: Callable[..., None], number: int
) -> None:
    """A way that the file system refuses is given up for the next one, and in the end for reading and writing."""
    ways(one=fail_with(number), other=fail_with(number))
    copier = Copier()
    copier.copy(source, PIECES, target)
    assert content(target) == COPIED
    assert copier.moved == {BUFFERED: len(COPIED)}


def test_a_way_given_up_is_not_tried_again(source: FileBacking, target: Target, ways: Callable[..., None]) -> None:
    """A way that was refused once is not tried for the next range."""
    calls = []

    def refused(*arguments: object) -> int:
        calls.append(arguments)
        return fail_with(errno.EXDEV)()

    ways(one=refused, other=by_hand)
    copier = Copier()
    copier.copy(source, PIECES, target)
    assert content(target) == COPIED
    assert len(calls) == 1
    assert copier.moved == {"other": len(COPIED)}


@pytest.mark.parametrize("limit", [1, 4095, 65536])
def test_short_counts(source: FileBacking, target: Target, ways: Callable[..., None], limit: int) -> None:
    """A kernel that copies less than it was asked for is asked again for the rest."""
    ways(short=lambda span, to, place: by_hand(span, to, place, limit))
    copier = Copier()
    copier.copy(source, [(PAGE, 20_000), (0, 5)], target)
    assert content(target) == CONTENT[PAGE : PAGE + 20_000] + CONTENT[:5]
    assert copier.moved == {"short": 20_005}


def test_refused_half_way(source: FileBacking, target: Target, ways: Callable[..., None]) -> None:
    """A way that is refused in the middle of a range leaves the rest to the next."""
    calls = []

    def once(span: backing.Span, to: Target, place: int) -> int:
        calls.append(place)
        return by_hand(span, to, place, 12_345) if len(calls) == 1 else fail_with(errno.EINVAL)()

    ways(once=once, then=lambda span, to, place: by_hand(span, to, place, 50_000))
    copier = Copier()
    copier.copy(source, PIECES, target)
    assert content(target) == COPIED
    assert copier.moved == {"once": 12_345, "then": len(COPIED) - 12_345}


def test_nothing_copied_is_read(source: FileBacking, target: Target, ways: Callable[..., None]) -> None:
    """A kernel that copies no bytes, as some file systems do without an error, leaves them to be read."""
    ways(nothing=lambda *_: 0)
    copier = Copier()
    copier.copy(source, PIECES, target)
    assert content(target) == COPIED
    assert copier.moved == {BUFFERED: len(COPIED)}


def test_reflink_of_the_aligned_part(source: FileBacking, target: Target, ways: Callable[..., None]) -> None:
    """Where a file system shares the beginning of a range only, the rest is copied, and both are observed in order."""

    def share(span: backing.Span, to: Target, place: int) -> int:
        return by_hand(span, to, place, 2 * PAGE) if span.offset % PAGE == 0 and span.length >= 2 * PAGE else 0

    ways(reflink=share)
    copier, seen = Copier(), io.BytesIO()
    copier.copy(source, PIECES, target, observe=seen.write)
    assert content(target) == seen.getvalue() == COPIED
    assert copier.moved[REFLINK] == 4 * PAGE
    assert sum(copier.moved.values()) == len(COPIED)


def test_probe(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a probe fails reflinks are not tried again."""
    monkeypatch.setattr(copier_module, "_clone", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(copier_module, "_ways_here", lambda: [REFLINK, IN_KERNEL])
    copier = Copier()
    assert copier.reflinks
    assert not copier.probe_reflink(backing.Span(source, 0, PAGE), target)
    assert not copier.reflinks


# errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_disk_full_in_the_kernel(source: FileBacking, target: Target, ways: Callable[..., None], number: int) -> None:
    """A full disk, an exhausted quota and a file that may not grow are lack of space, named by the target."""
    ways(kernel=fail_with(number))
    with pytest.raises(memcarve.NoSpaceError, match="the target"):
        Copier().copy(source, PIECES, target)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("mode", MODES)
def test_disk_full_while_writing(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    ways: Callable[..., None],
    number: int,
    mode: dict[str, Any],
) -> None:
    """Lack of space is told as such when bytes are written through a buffer, too."""
    ways()
    monkeypatch.setattr(copier_module.os, "write", fail_with(number))
    with pytest.raises(memcarve.NoSpaceError, match="the target"):
        Copier().copy(source, PIECES, target, **mode)


@pytest.mark.parametrize("mode", MODES)
def test_target_fails(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    ways: Callable[..., None],
    mode: dict[str, Any],
) -> None:
    """A target that cannot be written to is an OutputError that names it."""
    ways(kernel=fail_with(errno.EIO))
    monkeypatch.setattr(copier_module.os, "write", fail_with(errno.EIO))
    with pytest.raises(memcarve.OutputError, match="the target") as caught:
        Copier().copy(source, PIECES, target, **mode)
    assert not isinstance(caught.value, memcarve.NoSpaceError)


@pytest.mark.parametrize("mode", MODES)
def test_source_fails(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    ways: Callable[..., None],
    mode: dict[str, Any],
) -> None:
    """A source that cannot be read is a SourceReadError that names it and the offset."""
    ways(kernel=fail_with(errno.EIO))
    monkeypatch.setattr(backing.os, "preadv", fail_with(errno.EIO))
    with pytest.raises(memcarve.SourceReadError, match=r"source.*offset 0x1000") as caught:
        Copier().copy(source, [(PAGE, PAGE)], target, **mode)
    assert source.path in str(caught.value)


@pytest.mark.parametrize("names", [(), (SENDFILE,), (IN_KERNEL,), (REFLINK, IN_KERNEL, SENDFILE)])
@pytest.mark.parametrize("mode", MODES)
def test_source_shorter_than_promised(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    mode: dict[str, Any],
) -> None:
    """A source that ends before the range does is an error that says where it ends, whatever the way."""
    monkeypatch.setattr(copier_module, "_ways_here", lambda: list(names))
    with pytest.raises(memcarve.SourceReadError, match=f"ends at offset 0x{len(CONTENT):x}"):
        Copier().copy(source, [(len(CONTENT) - PAGE, 2 * PAGE)], target, **mode)


@pytest.mark.parametrize("mode", MODES)
def test_closed_source(source: FileBacking, target: Target, mode: dict[str, Any]) -> None:
    """Copying from a file that was closed says so."""
    source.close()
    source.close()
    with pytest.raises(memcarve.SourceReadError, match="has been closed"):
        Copier().copy(source, PIECES, target, **mode)


# observing


@pytest.mark.parametrize("large", [1, 1 << 40])
@pytest.mark.parametrize("sparse", [False, True])
def test_observer_sees_every_byte_in_order(
    source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, large: int, *, sparse: bool
) -> None:
    """The observer is shown every byte once and in order, beside the writing where ranges are large."""
    monkeypatch.setattr(copier_module, "_LARGE", large)
    monkeypatch.setattr(copier_module, "_ways_here", list)
    copier, seen, told = Copier(), io.BytesIO(), []
    copier.copy(source, PIECES, target, observe=seen.write, sparse=sparse, progress=told.append)
    copier.close()
    assert seen.getvalue() == content(target) == COPIED
    assert sum(told) == len(COPIED)


def test_large_ranges_are_observed_in_another_thread(
    source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a certain size on another thread looks at the bytes while they are written."""
    monkeypatch.setattr(copier_module, "_LARGE", 100_000)
    monkeypatch.setattr(copier_module, "_ways_here", list)
    copier = Copier()
    threads: set[int] = set()
    copier.copy(source, [(0, 99_999)], target, observe=lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}
    threads.clear()
    copier.copy(source, [(0, 100_000)], target, observe=lambda _: threads.add(threading.get_ident()))
    copier.close()
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_observer_fails(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """What goes wrong in the observer is raised by the copying, from the other thread, too."""
    monkeypatch.setattr(copier_module, "_LARGE", large)

    def failing(_: memoryview) -> None:
        raise ValueError("on purpose")

    copier = Copier()
    with pytest.raises(ValueError, match="on purpose"):
        copier.copy(source, PIECES, target, observe=failing)
    copier.close()


def test_write_fails_beside_the_observer(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing fails while another thread looks at the bytes, that thread is done before the error is raised."""
    monkeypatch.setattr(copier_module, "_LARGE", 1)
    monkeypatch.setattr(copier_module, "_ways_here", list)
    monkeypatch.setattr(copier_module.os, "write", fail_with(errno.ENOSPC))
    begun, ended = [], []

    def observe(view: memoryview) -> None:
        begun.append(len(view))
        threading.Event().wait(0.05)
        ended.append(len(view))

    copier = Copier()
    with pytest.raises(memcarve.NoSpaceError):
        copier.copy(source, PIECES, target, observe=observe)
    assert begun == ended
    copier.close()


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_carving_with_the_helper_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """Segments carved with hashing beside the writing are the same, and so are their hashes."""
    monkeypatch.setattr(copier_module, "_LARGE", large)
    rows: list[Piece] = [(0x100000 * at, noise(at, 150 * PAGE)) for at in range(1, 9)]
    with memcarve.open(write_dump(tmp_path, rows)) as dump:
        sinking.carve(dump.process(), tmp_path / "out", hashes=["sha256", "md5"])
        memcarve.verify(tmp_path / "out", dump.process())
    assert binaries(tmp_path / "out") == named(model(rows))


# stopping


@pytest.mark.parametrize("mode", [*MODES, {"observe": lambda _: None, "sparse": True}])
def test_stop_before(source: FileBacking, target: Target, mode: dict[str, Any]) -> None:
    """A copier that was told to stop copies nothing."""
    copier = Copier()
    copier.stop.set()
    with pytest.raises(StoppedError):
        copier.copy(source, PIECES, target, **mode)
    assert content(target) == b""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [(), (IN_KERNEL,)])
def test_stop_between(
    source: FileBacking,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    mode: dict[str, Any],
) -> None:
    """A copier that is told to stop while it copies stops after the block at hand."""
    monkeypatch.setattr(copier_module, "_ways_here", lambda: list(names))
    monkeypatch.setattr(copier_module, "_STEP", 1 << 16)
    copier = Copier()
    with pytest.raises(StoppedError):
        copier.copy(source, [(0, len(CONTENT))], target, progress=lambda _: copier.stop.set(), **mode)
    assert len(content(target)) < len(CONTENT)


def test_stop_while_reading(source: FileBacking) -> None:
    """Reading stops, too."""
    copier = Copier()
    with pytest.raises(StoppedError):
        copier.read(source, 0, len(CONTENT), lambda _: copier.stop.set())


# other systems


def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what Windows does not have."""
    for name in ("preadv", "pread", "copy_file_range", "sendfile"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(copier_module, "_ways_here", list)


@pytest.mark.parametrize("gone", [["preadv"], ["preadv", "pread"]])
def test_reading_elsewhere(source: FileBacking, monkeypatch: pytest.MonkeyPatch, gone: list[str]) -> None:
    """Without preadv, and without pread, the same bytes are read, and the end of the file is an error."""
    for name in gone:
        monkeypatch.delattr(os, name)
    buffer = bytearray(70_000)
    source.read_into(PAGE, memoryview(buffer))
    assert buffer == CONTENT[PAGE : PAGE + 70_000]
    source.read_into(0, memoryview(buffer)[:10])
    assert buffer[:10] == CONTENT[:10]
    with pytest.raises(memcarve.SourceReadError, match="ends at"):
        source.read_into(len(CONTENT) - 5, memoryview(buffer))


def test_one_file_position_for_many_threads(source: FileBacking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file has one position only, threads that read at the same time do not get each other's bytes."""
    windows(monkeypatch)
    wrong = []

    def read(seed: int) -> None:
        buffer = bytearray(1000)
        for at in range(300):
            offset = (seed * 7919 + at * 104_729) % (len(CONTENT) - 1000)
            source.read_into(offset, memoryview(buffer))
            if buffer != CONTENT[offset : offset + 1000]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("mode", [*MODES, {"observe": lambda _: None, "sparse": True}])
def test_copying_as_on_windows(
    source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    """With nothing but seek, read and write the same bytes are copied."""
    with monkeypatch.context() as patch:
        windows(patch)
        Copier().copy(source, PIECES, target, **mode)
    assert content(target) == COPIED


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_ways_of_other_systems(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Windows and macOS have no way but reading and writing."""
    monkeypatch.setattr(copier_module.sys, "platform", platform)
    assert copier_module._ways_here() == []


def test_carving_without_folder_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Where files cannot be opened relative to a folder's descriptor, as on Windows, carving is the same."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    windows(monkeypatch)
    assert invoke(capfdbinary, "carve", EXAMPLE, "-o", tmp_path / "out").code == 0
    monkeypatch.undo()
    assert invoke(capfdbinary, "verify", tmp_path / "out", "--source", EXAMPLE).code == 0


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_without_linux_modules(tmp_path: Path, platform: str) -> None:
    """Without the modules that only Unix has, memcarve is imported and carves."""
    gone = ("fcntl", "resource", "termios", "pwd", "grp")
    before = f"import sys\nfor name in {gone}: sys.modules[name] = None\n"
    if platform != "linux":  # what the standard library needs of the true platform is imported first
        before += f"import click, memcarve.sinks.carved_folder\nsys.platform = {platform!r}\n"
    ran = run("carve", EXAMPLE, "-o", tmp_path / "out", before=before)
    assert (ran.code, ran.out) == (0, b""), ran.err
    assert memcarve.verify(tmp_path / "out").count == 114


def test_broken_pipe_without_sigpipe() -> None:
    """Where there is no SIGPIPE, as on Windows, a reader that went away is no crash."""
    before = (
        "import signal, sys, memcarve.cli.program\n"
        "del signal.SIGPIPE\n"
        "def gone(*_, **__): raise BrokenPipeError(32, 'Broken pipe')\n"
        "memcarve.cli.program.cli.invoke = gone\n"
    )
    ran = run("segments", EXAMPLE, before=before)
    assert ran.code != 0
    assert ran.err == ""


def test_signals_without_hangup() -> None:
    """Where there is no SIGHUP, as on Windows, the program starts, and sees to the two other signals."""
    before = (
        "import atexit, signal\n"
        "if hasattr(signal, 'SIGHUP'): del signal.SIGHUP\n"
        "usual, seen = signal.signal, set()\n"
        "signal.signal = lambda number, handler: (seen.add(number), usual(number, handler))\n"
        "atexit.register(lambda: print(len(seen)))\n"
    )
    ran = run("--version", before=before)
    assert (ran.code, ran.out.split()[-1]) == (0, b"2"), ran
