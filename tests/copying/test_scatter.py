"""Scattered pieces read and written together: the bytes against a model, and each failure on the way."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import memcarve
from files import ROOT
from memcarve import backing as backing_module
from memcarve.backing import Composite, FileBacking, Zeros, read_pieces
from memcarve.copying import copier
from memcarve.copying.copier import BUFFERED, GATHERED, Copier, StoppedError
from memcarve.copying.output_file import BUFFER, Target
from memcarve.copying.scatter import blocks
from memory import Memory, noise
from mounts import tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Piece = tuple[int, int]

PAGE = 4096
SIZE = 3 * BUFFER + 777
CONTENT = noise(1, PAGE) + bytes(2 * PAGE) + noise(2, SIZE - 4 * PAGE) + bytes(PAGE)
#: a size up to which pieces are gathered
SMALL = copier.SMALL_PIECE
SCATTERED = [(at * PAGE, PAGE) for at in (7, 3, 4, 5, 90, 1, 2, 2, 60)] + [(SIZE - 5, 5), (123, 4567), (0, SMALL)]
COMPILED = backing_module._read_many
EACH = ["compiled", "Python"]


def collected(pieces: Sequence[Piece], content: bytes = CONTENT) -> bytes:
    """Return what pieces come to."""
    return b"".join(content[offset : offset + size] for offset, size in pieces)


@pytest.fixture(autouse=True)
def no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a `Copier` gather small pieces and move large ones through its buffer."""
    monkeypatch.setattr(copier, "_ways_here", list)


@pytest.fixture(params=EACH)
def each(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the compiled way to read pieces, and with that in Python."""
    use(request.param, monkeypatch)


def use(way: str, patch: pytest.MonkeyPatch) -> None:
    """Read pieces in one way or the other."""
    if way == "compiled" and COMPILED is None:
        pytest.skip("no C compiler was there when memcarve was installed")
    patch.setattr(backing_module, "_read_many", COMPILED if way == "compiled" else None)


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


#: pieces as they come: of all sizes, some beyond a page's edge, overlapping, in no order, some of no size
PIECES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, SIZE // PAGE - 1).map(lambda page: page * PAGE), st.just(PAGE)),
        st.tuples(st.integers(0, SIZE), st.sampled_from([0, 1, 7, 4095, 4097, SMALL - 1, SMALL, BUFFER, 2 * BUFFER])),
        st.tuples(st.integers(0, SIZE), st.integers(0, 3 * PAGE)),
    ).map(lambda piece: (piece[0], min(piece[1], SIZE - piece[0]))),
    max_size=60,
)


# bytes


@pytest.mark.parametrize("mode", ["plain", "observed", "sparse", "both", "in memory"])
@pytest.mark.parametrize("way", EACH)
@given(pieces=PIECES, place=st.sampled_from([0, 1, PAGE, 12345]))
def test_model(path: Path, mode: str, way: str, pieces: list[Piece], place: int) -> None:
    """Whatever the pieces, what is written is their bytes one after the other, and all is shown and counted once."""
    shown, done = bytearray(), list[int]()
    options: dict[str, Any] = {"sparse": mode in {"sparse", "both"}}
    if mode not in {"plain", "sparse"}:
        options["observe"] = shown.extend
    copier = Copier()
    with tempfile.TemporaryFile() as file, FileBacking(path) as source, pytest.MonkeyPatch.context() as patch:
        use(way, patch)
        target = Target(file.fileno(), "the target")
        os.write(target.fd, b"x" * place)
        backing = Memory(CONTENT) if mode == "in memory" else source
        copier.copy(backing, pieces, target, place=place, progress=done.append, **options)
        assert content(target) == b"x" * place + collected(pieces)
    assert not options.get("observe") or bytes(shown) == collected(pieces)
    assert sum(done) == sum(copier.moved.values()) == len(collected(pieces))
    assert copier.moved.keys() <= {GATHERED, BUFFERED}


@given(
    pieces=st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0, 1, 5, 6, 7, 8, 14, 21, 22])), max_size=12),
    most=st.sampled_from([1, 7]),
)
def test_blocks(pieces: list[Piece], most: int) -> None:
    """Blocks have every byte of the pieces in order, and all but the last are full."""
    found = list(blocks(pieces, most))
    bytes_of = [(offset + at) for offset, size in pieces for at in range(size)]
    assert [offset + at for block, _ in found for offset, size in block for at in range(size)] == bytes_of
    assert [size for _, size in found] == [sum(size for _, size in block) for block, _ in found]
    assert all(size == most for _, size in found[:-1])
    assert all(0 < size <= most for block, size in found for _, size in [*block, (0, size)])


@pytest.mark.usefixtures("each")
def test_thousands_of_pieces(source: FileBacking) -> None:
    """Thousands of tiny pieces, some of no size at all, are read together."""
    pieces = [(at * 37 % SIZE, at % 3) for at in range(5000)]
    pieces = [(at, min(size, SIZE - at)) for at, size in pieces]
    buffer = bytearray(len(collected(pieces)) + 9)
    read_pieces(source, iter(pieces), memoryview(buffer)[:-9])
    assert buffer == collected(pieces) + bytes(9)


@pytest.mark.skipif(COMPILED is None, reason="no C compiler was there when memcarve was installed")
def test_calls_are_few(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer's worth of pages is read by one call."""
    calls = []

    def read_many(fd: int, pieces: list[Piece], buffer: memoryview) -> int:
        calls.append(len(pieces))
        return COMPILED(fd, pieces, buffer)

    monkeypatch.setattr(backing_module, "_read_many", read_many)
    monkeypatch.setattr(source, "read_into", None)
    pieces = [(at * PAGE, PAGE) for at in range(128, 0, -1)]
    Copier().copy(source, pieces, target)
    assert calls == [64, 64]
    assert content(target) == collected(pieces)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="what is cached cannot be told here")
@pytest.mark.usefixtures("each")
def test_what_is_not_cached(tmp_path: Path) -> None:
    """Pages that must come from the disk are the same."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    pieces = [(at * PAGE, PAGE) for at in range(150, 0, -3)] + [(SIZE - 5, 5)]
    buffer = bytearray(len(collected(pieces)))
    with FileBacking(path) as source:
        os.fsync(source.fd)
        os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        read_pieces(source, pieces, memoryview(buffer))
    assert buffer == collected(pieces)


@pytest.mark.usefixtures("each")
def test_pieces_of_several_files(source: FileBacking, target: Target, tmp_path: Path) -> None:
    """Pieces of files that lie one behind the other, and of what is no file, come in their order."""
    other, last = noise(5, 9 * PAGE + 11), 5 * PAGE
    (tmp_path / "other").write_bytes(other)
    with FileBacking(tmp_path / "other") as more:
        whole = Composite(source, [more, Zeros("zeros", last)])
        begins, contents = [0, *whole.begins], [CONTENT, other, bytes(last)]
        where = [
            (1, 3, PAGE), (0, 7 * PAGE, PAGE), (0, PAGE, PAGE), (1, 9 * PAGE, 11), (2, 0, PAGE), (1, 0, PAGE),
            (2, PAGE, 7), (0, 1, 9),
        ]  # fmt: skip
        Copier().copy(whole, [(begins[part] + at, size) for part, at, size in where], target)
        assert content(target) == b"".join(contents[part][at : at + size] for part, at, size in where)


@pytest.mark.usefixtures("each")
def test_a_file_whose_bytes_lie_elsewhere(source: FileBacking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is not as it lies on disk, each piece is read as it reads one."""
    monkeypatch.setattr(source, "direct", False)
    monkeypatch.setattr(source, "read_into", lambda offset, view: view.__setitem__(slice(None), b"%c" % offset * 9))
    buffer = bytearray(18)
    read_pieces(source, [(65, 9), (66, 9)], memoryview(buffer))
    assert buffer == b"A" * 9 + b"B" * 9


def test_systems_without(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without positioned reads has its pieces read and written, too."""
    use("Python", monkeypatch)
    for name in ("preadv", "pread"):
        monkeypatch.delattr(os, name, raising=False)
    Copier().copy(source, SCATTERED, target)
    assert content(target) == collected(SCATTERED)


@pytest.mark.usefixtures("each")
def test_empty_file(tmp_path: Path, target: Target) -> None:
    """An empty file gives nothing, and a piece of it is an error that names it."""
    empty = tmp_path / "empty"
    empty.touch()
    with FileBacking(empty) as source:
        Copier().copy(source, [(0, 0), (0, 0)], target)
        assert content(target) == b""
        with pytest.raises(memcarve.SourceReadError, match=f"{empty.name}: ends at offset 0x0"):
            Copier().copy(source, [(0, 1), (0, 1)], target)


@pytest.mark.skipif(COMPILED is None, reason="no C compiler was there when memcarve was installed")
@pytest.mark.parametrize(
    ("piece", "error"),
    [
        ((0, 10), ValueError),
        ((-1, 1), ValueError),
        ((0, -1), ValueError),
        ((1 << 64, 1), OverflowError),
        ((0, 1 << 64), OverflowError),
        ((0, 1, 2), TypeError),
        (("a", 1), TypeError),
        ([0, 1], TypeError),
    ],
)
def test_arguments_that_make_no_sense(source: FileBacking, piece: Any, error: type[Exception]) -> None:
    """The compiled way writes within the buffer, and takes nothing but pieces."""
    assert COMPILED is not None
    buffer = bytearray(16)
    with pytest.raises(error):
        COMPILED(source.fd, [(0, 3), piece, (0, 3)], memoryview(buffer)[:12])
    assert buffer[12:] == bytes(4)


@pytest.mark.skipif(COMPILED is None, reason="no C compiler was there when memcarve was installed")
def test_no_sum_overflows(path: Path, tmp_path: Path) -> None:
    """Offsets that no file has are like others behind its end: nothing that C leaves undefined is done with them."""
    program, include = shutil.which("gcc"), sysconfig.get_paths()["include"]
    if program is None or not os.path.exists(os.path.join(include, "Python.h")):
        pytest.skip("needs gcc and Python's headers, to build it with a sanitizer")
    library = tmp_path / "_read_pieces.so"
    options = ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC", "-I", include]
    source = ROOT / "src" / "memcarve" / "_read_pieces.c"
    built = subprocess.run([program, *options, source, "-o", library], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip("needs gcc's sanitizer of undefined behaviour")
    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('memcarve._read_pieces', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "last = 2**63 - 1\n"
        "pieces = [(0, 5), (last, 1), (last - 32768, 70000), (last - 1, 9)]\n"
        "with open(sys.argv[2], 'rb') as file:\n"
        "    print(module.read_pieces(file.fileno(), pieces, bytearray(80000)))\n"
    )
    command = [sys.executable, "-c", script, library, path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("5\n", "")


# partial writes and reads


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("most", [1, 4095, 4097, 3 * PAGE])
def test_partial_writes(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A call that writes less than it was asked to is made up for; all is shown once, in order."""
    true, pieces, shown = os.write, SCATTERED[: 4 if most == 1 else None], bytearray()
    monkeypatch.setattr(os, "write", lambda fd, data: true(fd, data[:most]))
    Copier().copy(source, pieces, target, observe=shown.extend)
    assert content(target) == shown == collected(pieces)


@pytest.mark.parametrize("most", [0, 1, 4095, 4096, 4097, 3 * PAGE, 12345, BUFFER - 1])
def test_partial_reads(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What did not come by one call is read piece by piece, from wherever it stopped."""

    def read_many(fd: int, pieces: list[Piece], buffer: memoryview) -> int:
        del fd
        count = min(most, len(buffer))
        buffer[:count] = collected(pieces)[:count]
        return count

    monkeypatch.setattr(backing_module, "_read_many", read_many)
    Copier().copy(source, SCATTERED * 9, target)
    assert content(target) == collected(SCATTERED * 9)


# failures


def fail_with(number: int) -> Callable[..., Any]:
    """Return a function that fails with an error of the operating system."""

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def test_source_is_bad(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a piece did not come, and reading it fails, the error names the source and the place."""
    monkeypatch.setattr(backing_module, "_read_many", lambda *_: PAGE)
    monkeypatch.setattr(os, "preadv", fail_with(errno.EIO), raising=False)
    with pytest.raises(memcarve.SourceReadError, match=f"{source.path}: cannot be read at offset 0x1000: Input"):
        Copier().copy(source, [(3 * PAGE, PAGE), (PAGE, PAGE)], target)


def test_target_is_bad(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails the error names the target."""
    monkeypatch.setattr(os, "write", fail_with(errno.EIO))
    with pytest.raises(memcarve.OutputError, match=r"^the target: cannot be written: Input") as caught:
        Copier().copy(source, SCATTERED, target)
    assert not isinstance(caught.value, memcarve.NoSpaceError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)])
def test_full_disk(source: FileBacking, target: Target, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A full disk is told as such."""
    monkeypatch.setattr(os, "write", fail_with(number))
    with pytest.raises(memcarve.NoSpaceError, match=r"^the target: cannot be written: "):
        Copier().copy(source, SCATTERED, target)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_disk_that_runs_full(source: FileBacking, tmp_path: Path) -> None:
    """A disk that runs full in the midst of a call is told as such; the call had written a part."""
    with tmpfs(tmp_path, f"size={10 * PAGE}") as where:
        fd = os.open(where / "target", os.O_RDWR | os.O_CREAT)
        try:
            with pytest.raises(memcarve.NoSpaceError, match=r"^the target: "):
                Copier().copy(source, [(at * PAGE, PAGE) for at in range(30, 0, -1)], Target(fd, "the target"))
            assert os.pread(fd, PAGE, 0) == CONTENT[30 * PAGE : 31 * PAGE]
        finally:
            os.close(fd)


@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("piece", [(SIZE, 1), (SIZE - 1, 2), (SIZE + PAGE, PAGE), (1 << 40, 1)])
def test_pieces_beyond_the_end(source: FileBacking, target: Target, piece: Piece) -> None:
    """A piece that the source does not have is an error of it, not fewer bytes."""
    with pytest.raises(memcarve.SourceReadError, match="ends at offset"):
        Copier().copy(source, [(0, PAGE), piece, (0, PAGE)], target)


def test_stopped(source: FileBacking, target: Target) -> None:
    """A copy that is to stop does so when the next pieces are written."""
    copier = Copier()
    copier.stop.set()
    with pytest.raises(StoppedError):
        copier.copy(source, SCATTERED, target)


@pytest.mark.usefixtures("each")
def test_closed_source(source: FileBacking, target: Target) -> None:
    """Collecting from a file that was closed says so."""
    source.close()
    with pytest.raises(memcarve.SourceReadError, match="has been closed"):
        Copier().copy(source, SCATTERED, target)


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be cut there")
@pytest.mark.usefixtures("each")
@pytest.mark.parametrize("size", [0, 1, PAGE, 20 * PAGE, 20 * PAGE + 123, 63 * PAGE, 64 * PAGE - 100])
def test_cut_meanwhile(tmp_path: Path, target: Target, size: int) -> None:
    """A source that becomes shorter is an error that says where it ends, within a page, too: no zeros are written."""
    path = tmp_path / "source"
    path.write_bytes(noise(3, 64 * PAGE))
    with FileBacking(path) as source:
        os.truncate(path, size)
        end = max(size, 63 * PAGE)  # where the first piece begins, if it does not end within that
        with pytest.raises(memcarve.SourceReadError, match=f"source: ends at offset 0x{end:x}, before"):
            Copier().copy(source, [(at * PAGE, PAGE) for at in range(63, -1, -1)], target)


@pytest.mark.skipif(COMPILED is None or sys.platform == "win32", reason="nothing is compiled, or there are no signals")
def test_interrupted(tmp_path: Path) -> None:
    """A signal is noticed between the pieces of one call."""
    path = tmp_path / "source"
    path.write_bytes(bytes(PAGE))
    program = (
        "import signal, sys\n"
        "from memcarve._read_pieces import read_pieces\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, stop)\n"
        "pieces = [(0, 4096)] * 1025 + [(0, 0)] * 2_000_000\n"
        "file, buffer = open(sys.argv[1], 'rb'), bytearray(1025 * 4096)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001)\n"
        "try: read_pieces(file.fileno(), pieces, buffer)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (ran.stdout, ran.stderr) == ("interrupted\n", "")


# threads


@pytest.mark.usefixtures("each")
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
