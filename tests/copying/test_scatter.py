"""Scattered pieces collected and written together: the bytes against a model, and each failure on the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import memcarve
from files import ROOT
from memcarve.backing import Composite, FileBacking, Zeros
from memcarve.copying import copier, scatter
from memcarve.copying.copier import BUFFERED, Copier, StoppedError
from memcarve.copying.output_file import BUFFER, Target
from memcarve.copying.scatter import GATHERED, Gathered, GatheredByKernel, gatherer
from memory import Memory, noise
from mounts import tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Piece = tuple[int, int]

PAGE = 4096
SIZE = 3 * BUFFER + 777
CONTENT = noise(1, PAGE) + bytes(2 * PAGE) + noise(2, SIZE - 4 * PAGE) + bytes(PAGE)
#: what fits into a buffer, and is collected by a `Copier`
SMALL = copier._SMALL
SCATTERED = [(at * PAGE, PAGE) for at in (7, 3, 4, 5, 90, 1, 2, 2, 60)] + [(SIZE - 5, 5), (123, 4567), (0, SMALL)]
BY_KERNEL = pytest.mark.skipif(not hasattr(os, "preadv"), reason="there is no writev or preadv here")


def collected(pieces: Sequence[Piece], content: bytes = CONTENT) -> bytes:
    """Return what pieces come to."""
    return b"".join(content[offset : offset + size] for offset, size in pieces)


@pytest.fixture(autouse=True)
def no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a `Copier` collect small pieces and move large ones through its buffer."""
    monkeypatch.setattr(copier, "_ways_here", list)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file to copy from, which nothing changes."""
    path = tmp_path_factory.mktemp("source") / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def source(path: Path) -> Iterator[FileBacking]:
    """Return that file, open."""
    with FileBacking(path) as file:
        yield file


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Return an open, empty file to copy to."""
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    yield Target(fd, "the target")
    os.close(fd)


def content(target: Target) -> bytes:
    """Return all of a file."""
    os.lseek(target.fd, 0, os.SEEK_SET)
    return os.read(target.fd, 1 << 24)


def gather(
    backing: Any, target: Target, pieces: Sequence[Piece], *, place: int = 0, kernel: bool | None = None, **options: Any
) -> list[int]:
    """Write pieces in the better way, which is `kernel`'s where that is said; return what was told of."""
    told: list[int] = []
    buffer = memoryview(bytearray(BUFFER))
    way = gatherer(
        backing, target, buffer, place, options.get("observe"), told.append, sparse=options.get("sparse", False)
    )
    assert kernel is None or isinstance(way, GatheredByKernel if kernel else Gathered)
    for piece in pieces:
        way.add(*piece)
    end = place + sum(size for _, size in pieces)
    assert way.flush() == way.flush() == way.place == end
    assert sum(told) == end - place
    return told


#: pieces as they come: of all sizes, some beyond a page's edge, overlapping, in no order, some of no size
PIECES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, SIZE // PAGE - 1).map(lambda page: page * PAGE), st.just(PAGE)),
        st.tuples(st.integers(0, SIZE), st.sampled_from([0, 1, 7, 4095, 4097, SMALL - 1, SMALL])),
        st.tuples(st.integers(0, SIZE), st.integers(0, 3 * PAGE)),
    ).map(lambda piece: (piece[0], min(piece[1], SIZE - piece[0]))),
    max_size=60,
)


# bytes


@pytest.mark.parametrize("mode", ["kernel", "buffer", "sparse", "in memory"])
@given(pieces=PIECES, place=st.sampled_from([0, 1, PAGE, 12345]))
def test_model(path: Path, mode: str, pieces: list[Piece], place: int) -> None:
    """Whatever the pieces, what is written is their bytes one after the other, from the place on, and all is shown."""
    shown = bytearray()
    with tempfile.TemporaryFile() as file, FileBacking(path) as source:
        target = Target(file.fileno(), "the target")
        os.write(target.fd, b"x" * place)
        options: dict[str, Any] = {"observe": shown.extend, "sparse": mode == "sparse"}
        kernel = mode == "kernel" and hasattr(os, "preadv")
        backing = {"buffer": Memory(CONTENT), "in memory": Memory(CONTENT)}.get(mode, source)
        gather(backing, target, pieces, place=place, kernel=kernel, **options)
        wanted = collected(pieces)
        if mode == "sparse":
            # the holes at its end are the caller's
            os.ftruncate(target.fd, place + len(wanted))
        assert content(target) == b"x" * place + wanted
    assert bytes(shown) == wanted


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, SIZE), st.sampled_from([1, PAGE, SMALL, SMALL + 1, BUFFER, 2 * BUFFER + 3])).map(
            lambda piece: (piece[0], min(piece[1], SIZE - piece[0]))
        ),
        max_size=12,
    ),
    place=st.sampled_from([0, PAGE, 77]),
    mode=st.sampled_from(["plain", "observed", "sparse", "both"]),
)
def test_small_among_large(path: Path, pieces: list[Piece], place: int, mode: str) -> None:
    """Pieces that are collected and pieces that are not come in their order, are shown and counted once."""
    shown, done = bytearray(), [0]
    options: dict[str, Any] = {"sparse": mode in {"sparse", "both"}}
    if mode in {"observed", "both"}:
        options["observe"] = shown.extend

    def advance(count: int) -> None:
        done[0] += count

    copier = Copier()
    with tempfile.TemporaryFile() as file, FileBacking(path) as source:
        target = Target(file.fileno(), "the target")
        os.ftruncate(target.fd, place)
        copier.copy(source, pieces, target, place=place, progress=advance, **options)
        wanted = collected(pieces)
        assert content(target) == bytes(place) + wanted
    assert not options.get("observe") or bytes(shown) == wanted
    assert done[0] == sum(copier.moved.values()) == len(wanted)
    assert copier.moved.keys() <= {GATHERED, BUFFERED}


def test_more_pieces_than_one_call_takes(source: FileBacking, target: Target) -> None:
    """Thousands of tiny pieces, some of no size at all, take several calls."""
    pieces = [(at * 37 % SIZE, at % 3) for at in range(5000)]
    pieces = [(at, min(size, SIZE - at)) for at, size in pieces]
    gather(source, target, pieces)
    assert content(target) == collected(pieces)


@BY_KERNEL
def test_calls_are_few(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer's worth of pages is one call, and no byte of it is read here."""
    calls = []
    true = os.writev

    def writev(fd: int, parts: Sequence[memoryview]) -> int:
        calls.append(len(parts))
        return true(fd, parts)

    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(source, "read_into", None)
    pieces = [(at * PAGE, PAGE) for at in range(128, 0, -1)]
    assert gather(source, target, pieces, kernel=True) == [BUFFER, BUFFER]
    assert calls == [64, 64]
    assert content(target) == collected(pieces)


@BY_KERNEL
@pytest.mark.parametrize("bad", ["", "source", "other"])
def test_pieces_of_several_files(
    source: FileBacking, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    """Of files that lie one behind the other the kernel takes pieces of all, and what is no file is read.

    A file that cannot be mapped is read as well; if it is the first, all are.
    """
    other, last = noise(5, 9 * PAGE + 11), 5 * PAGE
    (tmp_path / "other").write_bytes(other)
    with FileBacking(tmp_path / "other") as more:
        whole = Composite(source, [more, Zeros("zeros", last)])
        begins = [0, *whole.begins]
        read: list[int] = []
        true = whole.read_into

        def read_into(offset: int, view: memoryview) -> None:
            read.append(offset)
            true(offset, view)

        monkeypatch.setattr(whole, "read_into", read_into)
        if bad:
            monkeypatch.setattr({"source": source, "other": more}[bad], "_unmappable", True)
        contents = [CONTENT, other, bytes(last)]
        where = [
            (1, 3, PAGE),
            (0, 7 * PAGE, PAGE),
            (1, 9 * PAGE, 11),
            (2, 0, PAGE),
            (1, 0, PAGE),
            (2, PAGE, 7),
            (0, 1, 9),
        ]
        gather(whole, target, [(begins[part] + at, size) for part, at, size in where], kernel=bad != "source")
        assert content(target) == b"".join(contents[part][at : at + size] for part, at, size in where)
        by_hand = {"": [2], "other": [1, 2], "source": [0, 1, 2]}[bad]
        assert read == [begins[part] + at for part, at, _ in where if part in by_hand]


@pytest.mark.parametrize("missing", ["writev", "preadv"])
def test_systems_without(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """A system without one of the calls has its pieces read and written."""
    monkeypatch.delattr(os, missing, raising=False)
    gather(source, target, SCATTERED, kernel=False)
    assert content(target) == collected(SCATTERED)


def test_unmappable_file(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be mapped has its pieces read and written, and mapping it is not tried again."""
    calls = []

    def refused(*arguments: object, **_: object) -> None:
        calls.append(arguments)
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", refused)
    for _ in range(2):
        os.ftruncate(target.fd, 0)
        gather(source, target, SCATTERED, kernel=False)
        assert content(target) == collected(SCATTERED)
    assert len(calls) == 1


def test_empty_file(tmp_path: Path, target: Target) -> None:
    """An empty file has no mapping, gives nothing, and a piece of it is an error that names it."""
    empty = tmp_path / "empty"
    empty.touch()
    with FileBacking(empty) as source:
        assert source.mapping is None
        assert gather(source, target, [(0, 0), (0, 0)], kernel=False) == []
        assert content(target) == b""
        with pytest.raises(memcarve.SourceReadError, match=f"{empty.name}: ends at offset 0x0"):
            gather(source, target, [(0, 1)])


# partial writes


@BY_KERNEL
@pytest.mark.parametrize("most", [0, 1, 4095, 4096, 4097, 3 * PAGE, 12345, BUFFER - 1])
@pytest.mark.parametrize("observed", [False, True])
def test_partial_writes(
    source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, most: int, *, observed: bool
) -> None:
    """A call that writes less than it was asked to is made up for, wherever it stopped; all is shown once, in order."""
    shown = bytearray()

    def writev(fd: int, parts: Sequence[memoryview]) -> int:
        return os.write(fd, b"".join(parts)[:most])

    monkeypatch.setattr(os, "writev", writev)
    gather(source, target, SCATTERED * 9, kernel=True, observe=shown.extend if observed else None)
    assert content(target) == collected(SCATTERED * 9)
    assert bytes(shown) == (collected(SCATTERED * 9) if observed else b"")


@pytest.mark.parametrize("most", [1, 4095])
def test_partial_writes_of_a_buffer(path: Path, target: Target, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The other way goes on as well."""
    true = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: true(fd, data[:most]))
    pieces = SCATTERED[:6]
    gather(Memory(path.read_bytes()), target, pieces, kernel=False)
    assert content(target) == collected(pieces)


# failures


def fail_with(number: int) -> Callable[..., Any]:
    """Return a function that fails with an error of the operating system."""

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


@BY_KERNEL
@pytest.mark.parametrize("number", [errno.EFAULT, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP])
def test_call_fails(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the call fails, but reading and writing work, that is done, and the bytes are right."""
    monkeypatch.setattr(os, "writev", fail_with(number))
    gather(source, target, SCATTERED * 3, kernel=True)
    assert content(target) == collected(SCATTERED * 3)


@BY_KERNEL
@pytest.mark.parametrize("number", [errno.EFAULT, errno.EIO])
def test_source_is_bad(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the call fails and reading does, too, the error names the source and the place."""
    monkeypatch.setattr(os, "writev", fail_with(number))
    monkeypatch.setattr(os, "preadv", fail_with(errno.EIO))
    with pytest.raises(memcarve.SourceReadError, match=f"{source.path}: cannot be read at offset 0x3000: Input"):
        gather(source, target, [(3 * PAGE, PAGE), (PAGE, PAGE)], kernel=True)


@BY_KERNEL
@pytest.mark.parametrize("number", [errno.EFAULT, errno.EIO, errno.EROFS])
def test_target_is_bad(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the call fails and writing does, too, the error names the target."""
    monkeypatch.setattr(os, "writev", fail_with(number))
    monkeypatch.setattr(os, "write", fail_with(errno.EIO))
    with pytest.raises(memcarve.OutputError, match=r"^the target: cannot be written: Input") as caught:
        gather(source, target, SCATTERED, kernel=True)
    assert not isinstance(caught.value, memcarve.NoSpaceError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)])
@pytest.mark.parametrize("kernel", [pytest.param(True, marks=BY_KERNEL), False])
def test_full_disk(
    source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, number: int, *, kernel: bool
) -> None:
    """A full disk is told as such, in both ways."""
    monkeypatch.setattr(os, "writev" if kernel else "write", fail_with(number))
    with pytest.raises(memcarve.NoSpaceError, match=r"^the target: cannot be written: "):
        gather(source if kernel else Memory(CONTENT), target, SCATTERED, kernel=kernel)


@BY_KERNEL
def test_disk_that_runs_full(source: FileBacking, tmp_path: Path) -> None:
    """A disk that runs full in the midst of a call is told as such; the call had written a part."""
    with tmpfs(tmp_path, f"size={10 * PAGE}") as where:
        fd = os.open(where / "target", os.O_RDWR | os.O_CREAT)
        try:
            with pytest.raises(memcarve.NoSpaceError, match=r"^the target: "):
                gather(source, Target(fd, "the target"), [(at * PAGE, PAGE) for at in range(30, 0, -1)], kernel=True)
            assert os.pread(fd, PAGE, 0) == CONTENT[30 * PAGE : 31 * PAGE]
        finally:
            os.close(fd)


@BY_KERNEL
def test_reading_back_less(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where less comes back than was written, nobody is shown something else: that is an error."""
    shown = bytearray()
    monkeypatch.setattr(os, "preadv", lambda *_: 17)
    with pytest.raises(memcarve.MemcarveError, match="the target: reading back what was written gave 17 of"):
        gather(source, target, SCATTERED, kernel=True, observe=shown.extend)
    assert not shown


@BY_KERNEL
def test_reading_back_fails(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was written cannot be read back, the error is a declared one and names the target."""
    monkeypatch.setattr(os, "preadv", fail_with(errno.EIO))
    with pytest.raises(memcarve.MemcarveError, match="the target: "):
        gather(source, target, SCATTERED, kernel=True, observe=lambda _: None)


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=BY_KERNEL), False])
@pytest.mark.parametrize("piece", [(SIZE, 1), (SIZE - 1, 2), (SIZE + PAGE, PAGE), (1 << 40, 1)])
def test_pieces_beyond_the_end(path: Path, source: FileBacking, target: Target, piece: Piece, *, kernel: bool) -> None:
    """A piece that the source does not have is an error of it, not fewer bytes."""
    del path
    with pytest.raises(memcarve.SourceReadError, match="ends at offset"):
        gather(source if kernel else Memory(CONTENT), target, [(0, PAGE), piece, (0, PAGE)], kernel=kernel)


def test_stopped(source: FileBacking, target: Target) -> None:
    """A copy that is to stop does so when the next pieces are written."""
    copier = Copier()
    copier.stop.set()
    with pytest.raises(StoppedError):
        copier.copy(source, SCATTERED, target)


# sources that change meanwhile

#: copies pieces of a file, which is cut in between; prints how that ended, and of what sizes the parts were
CUT = """
import os, sys
import memcarve
from memcarve.copying import copier
from memcarve.backing import FileBacking
from memcarve.copying.copier import Copier, Target
path, out, size, observed = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "observed"
copier._ways_here = list
pieces = [(at * 4096, 4096) for at in range(63, -1, -1)]
with FileBacking(path) as source:
    fd = os.open(out, os.O_RDWR | os.O_CREAT)
    view = source.mapping
    os.truncate(path, size)
    shown = bytearray()
    try:
        Copier().copy(source, pieces[: int(sys.argv[5])], Target(fd, out), observe=shown.extend if observed else None)
    except memcarve.InputError as error:
        print(type(error).__name__, error)
    else:
        print("no error")
    finally:
        os.close(fd)
"""


def cut_meanwhile(tmp_path: Path, size: int, observed: str, pieces: int = 64) -> str:
    """Return what a program of its own says, that copies pages of a file, the last first, which is cut meanwhile."""
    path = tmp_path / "source"
    path.write_bytes(noise(3, 64 * PAGE))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", CUT, path, tmp_path / "out", str(size), observed, str(pieces)],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is mapped cannot be cut there")
@pytest.mark.parametrize("observed", ["observed", "not"])
@pytest.mark.parametrize("size", [0, 1, PAGE, 20 * PAGE, 20 * PAGE + 123, 63 * PAGE])
def test_cut_meanwhile(tmp_path: Path, size: int, observed: str) -> None:
    """A source that becomes shorter while it is mapped is an error that names it, and no signal."""
    said = cut_meanwhile(tmp_path, size, observed)
    assert said.startswith(f"SourceReadError {tmp_path}/source: ends at offset 0x"), said
    assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is mapped cannot be cut there")
@pytest.mark.parametrize("observed", ["observed", "not"])
def test_cut_within_a_page(tmp_path: Path, observed: str) -> None:
    """A source that loses but the end of its last page is an error, too: zeros would be written in its place."""
    said = cut_meanwhile(tmp_path, 64 * PAGE - 100, observed, pieces=8)
    assert said.startswith(f"InputError {tmp_path}/source: was changed while it was read"), said


# closing


def test_no_mapping_after_closing(path: Path) -> None:
    """A closed file has no mapping, whether there was one before or not; closing twice is fine."""
    for asked in (False, True):
        source = FileBacking(path)
        if asked:
            source.mapping  # noqa: B018 - it is made when it is asked for
        source.close()
        source.close()
        assert source.mapping is None


def test_what_is_held_stays_readable(path: Path, target: Target) -> None:
    """A mapping that somebody holds when the file is closed can still be copied from."""
    source = FileBacking(path)
    view = source.mapping
    if view is None:
        pytest.skip("files are not mapped here")
    source.close()
    os.write(target.fd, view[:PAGE])
    assert content(target) == CONTENT[:PAGE]


def test_no_mapping_after_closing_what_is_held(path: Path) -> None:
    """Reading again after closing is an error, also while somebody holds the mapping: there is none any more."""
    source = FileBacking(path)
    view = source.mapping
    source.close()
    again = source.mapping
    del view
    assert again is None


def test_closed_source(path: Path, target: Target) -> None:
    """Collecting from a file that was closed says so."""
    source = FileBacking(path)
    source.close()
    with pytest.raises(memcarve.SourceReadError, match="has been closed"):
        gather(source, target, SCATTERED)


# threads


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("count", [2, 8])
def test_threads(path: Path, tmp_path: Path, count: int, *, observed: bool) -> None:
    """Several threads with one copier and one source, each with its own target, or all with places of one, agree."""
    copier, shown, failed = Copier(), [bytearray() for _ in range(count)], []
    parts = [
        [((at * 7919 + number * 31) % (SIZE - PAGE), PAGE - at % 5) for at in range(300)] for number in range(count)
    ]
    sizes = [len(collected(part)) for part in parts]
    shared = tmp_path / "shared"
    shared.touch()

    def work(number: int) -> None:
        try:
            observe = shown[number].extend if observed else None
            for name, place in ((tmp_path / f"{number}", 0), (shared, sum(sizes[:number]))):
                shown[number].clear()
                fd = os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
                copier.copy(source, parts[number], Target(fd, str(name)), place=place, observe=observe)
                os.close(fd)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    with FileBacking(path) as source:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failed
    wanted = [collected(part) for part in parts]
    assert [(tmp_path / f"{number}").read_bytes() for number in range(count)] == wanted
    assert shared.read_bytes() == b"".join(wanted)
    assert not observed or [bytes(one) for one in shown] == wanted
    assert copier.moved == {GATHERED: 2 * sum(sizes)}


def test_name() -> None:
    """What is said of the way is one name, whichever of the two it was."""
    assert scatter.GATHERED == "gathering scattered pages"
