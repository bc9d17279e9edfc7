"""Every sink passes the same tests, and what can be read back is the same whatever source it came from."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pytest

import memcarve
import sinking
from contracts import MAKERS
from dumps import write_dump
from files import listing
from memcarve.errors import InputError, NoSpaceError, OutputError, SourceReadError, TargetExistsError
from memcarve.sinks import SINKS
from memcarve.space import AddressSpace
from memcarve.vocabulary import OutputType
from memory import PAGE, Memory, noise
from processes import process_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumps import Piece
    from memcarve.process import ProcessMemory

ROWS: list[Piece] = [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2)), (0x21000, noise(3)), (0x40000, bytes(PAGE))]


class Write(Protocol):
    """Writes a process to a place."""

    def __call__(self, process: ProcessMemory, path: Path, *, force: bool = False, **more: Any) -> object:
        """Write it."""


class Sink(NamedTuple):
    """A sink: how it is called; whether it makes a folder of its own, moves bytes, and can be read back as input."""

    write: Write
    makes_folder: bool = False
    moves: bool = True
    reopens: bool = True
    name: str = "written"

    def place(self, folder: Path) -> Path:
        """Return where to write, in a folder."""
        return folder / self.name


def _sink(name: str, **options: Any) -> Write:
    def write(process: ProcessMemory, path: Path, *, force: bool = False, **more: Any) -> object:
        return sinking.write(name, process, path, force=force, **options, **more)

    return write


TESTED = {
    "segments": Sink(_sink("segments", hashes=()), makes_folder=True),
    "memmap": Sink(_sink("memmap"), name="written/pid.1624.dmp"),
    "minidump": Sink(_sink("minidump")),
    "elfcore": Sink(_sink("elfcore")),
    "flat": Sink(_sink("flat"), reopens=False),
    "scripts": Sink(_sink("scripts"), makes_folder=True, moves=False, reopens=False),
}
MOVING = [name for name, sink in TESTED.items() if sink.moves]
REOPENED = [name for name, sink in TESTED.items() if sink.reopens]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the content of everything below a folder, links as their target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = (status.st_mode, content)
    return found


def failing(at: int = 3 * PAGE) -> ProcessMemory:
    """Return a process whose source breaks at an offset."""

    class Broken(Memory):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset + len(buffer) > at:
                raise SourceReadError("broken: cannot be read")
            super().read_into(offset, buffer)

    data = b"".join(content for _, content in ROWS if isinstance(content, bytes))
    start = np.array([address for address, _ in ROWS], np.uint64)
    size = np.array([len(content) for _, content in ROWS if isinstance(content, bytes)], np.uint64)
    return process_with(AddressSpace(start, size, np.cumsum(size) - size, Broken(data)), pid=1624)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ProcessMemory]:
    """Return a process of a dump."""
    (tmp_path / "source").mkdir()
    path = write_dump(tmp_path / "source", ROWS, 1624)
    before = tree(tmp_path / "source")
    with memcarve.open(path) as container:
        yield container.process()
    assert tree(tmp_path / "source") == before


@pytest.fixture(params=TESTED)
def sink(request: pytest.FixtureRequest) -> Sink:
    """Return each sink."""
    return TESTED[request.param]


@pytest.fixture(params=MOVING)
def moving(request: pytest.FixtureRequest) -> Sink:
    """Return each sink that moves bytes."""
    return TESTED[request.param]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a file system with room for four pages."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("must be allowed to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_every_sink_has_its_tests() -> None:
    """All sinks are tested here."""
    assert TESTED.keys() == SINKS.keys() == set(OutputType)


# what is written


def test_modes(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """Files are for their owner alone, and so are folders that are made for them."""
    before = os.umask(0)
    try:
        sink.write(process, sink.place(tmp_path / "out"))
    finally:
        os.umask(before)
    found = tree(tmp_path / "out")
    modes = {name: stat.S_IMODE(mode) for name, (mode, _) in found.items() if stat.S_ISREG(mode)}
    assert modes
    assert set(modes.values()) == {0o600}
    if sink.makes_folder:
        assert stat.S_IMODE(sink.place(tmp_path / "out").stat().st_mode) == 0o700
    assert not [name for name in found if name.startswith(".") or "incomplete" in name]


def test_progress(process: ProcessMemory, moving: Sink, tmp_path: Path) -> None:
    """Progress grows, and reaches the total."""
    told: list[tuple[int, int]] = []
    moving.write(process, moving.place(tmp_path / "out"), progress=lambda done, total: told.append((done, total)))
    done = [count for count, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] >= 5 * PAGE


def test_the_same_again(process: ProcessMemory, moving: Sink, tmp_path: Path) -> None:
    """What is written twice is the same, but for when and by which command."""
    moving.write(process, moving.place(tmp_path / "one"))
    moving.write(process, moving.place(tmp_path / "two"))
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [len(content) for _, content in one.values()] == [len(content) for _, content in two.values()]


# what is there already


def test_nothing_is_replaced_unasked(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """What exists stays as it is; with force what memcarve wrote is replaced by the same."""
    place = sink.place(tmp_path / "out")
    sink.write(process, place)
    before = tree(tmp_path / "out")
    with pytest.raises(TargetExistsError, match="force"):
        sink.write(process, place)
    assert tree(tmp_path / "out") == before
    sink.write(process, place, force=True)
    assert tree(tmp_path / "out").keys() == before.keys()


def test_nothing_of_others_is_replaced(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """What somebody else wrote stays as it is, with force too, and nothing is left beside it."""
    place = sink.place(tmp_path / "out")
    sink.write(process, place)
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            path.write_bytes(b"of somebody else")
    before = tree(tmp_path / "out")
    for force in (False, True):
        with pytest.raises(TargetExistsError):
            sink.write(process, place, force=force)
        assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("there", [True, False])
def test_links_are_not_followed(process: ProcessMemory, sink: Sink, tmp_path: Path, there: bool, force: bool) -> None:  # noqa: FBT001
    """Where a link has the name of what is to be written, what it leads to stays as it is."""
    place = sink.place(tmp_path / "out")
    sink.write(process, place)
    (tmp_path / "other").mkdir()
    written = [place] if sink.makes_folder else [path for path in place.parent.iterdir() if path.is_file()]
    for path in written:
        if there:
            path.rename(tmp_path / "other" / path.name)
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(tmp_path / "other" / path.name)
    before = tree(tmp_path / "other"), tree(tmp_path / "out")
    with contextlib.suppress(TargetExistsError):
        sink.write(process, place, force=force)
        assert force  # or it must be refused
    assert tree(tmp_path / "other") == before[0]


def test_the_input_is_never_replaced(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """The input cannot be the output, with force either."""
    path = tmp_path / "source" / "pid.1624.dmp"
    for force in (False, True):
        with pytest.raises(TargetExistsError):
            sink.write(process, path, force=force)
    assert listing(tmp_path / "source") == ["pid.1624.dmp", "pid.1624.map"]


@pytest.mark.parametrize("name", REOPENED)
def test_what_it_wrote_is_an_input(process: ProcessMemory, name: str, tmp_path: Path) -> None:
    """What memcarve wrote is not replaced by what is read from it."""
    sink = TESTED[name]
    place = sink.place(tmp_path / "out")
    sink.write(process, place)
    before = tree(tmp_path / "out")
    with memcarve.open(place) as container, pytest.raises(TargetExistsError):
        sink.write(container.process(), place, force=True)
    assert tree(tmp_path / "out") == before


# what goes wrong


def test_no_room(process: ProcessMemory, sink: Sink, small: Path) -> None:
    """Where there is no room for the output nothing of it is left, and the error says that."""
    with pytest.raises(NoSpaceError):
        sink.write(process, sink.place(small))
    assert listing(small) == []


def test_a_disk_that_fills(process: ProcessMemory, sink: Sink, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk turns out to be full while it is written to, nothing is left, and the error says so."""
    usage = shutil.disk_usage(small)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
    with pytest.raises(NoSpaceError):
        sink.write(process, sink.place(small))
    assert listing(small) == []


def test_an_input_that_breaks(moving: Sink, tmp_path: Path) -> None:
    """Where the input cannot be read to its end nothing is left."""
    with pytest.raises(InputError, match="broken: cannot be read"):
        moving.write(failing(), moving.place(tmp_path / "out"))
    assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


def test_interrupted(process: ProcessMemory, moving: Sink, tmp_path: Path) -> None:
    """Where it is interrupted nothing is left."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt(done, total)

    with pytest.raises(KeyboardInterrupt):
        moving.write(process, moving.place(tmp_path / "out"), progress=interrupt)
    assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


def test_a_place_that_cannot_be(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """Where nothing can be written, that is an error of the output which names the place."""
    (tmp_path / "file").write_bytes(b"a file")
    with pytest.raises(OutputError, match="file"):
        sink.write(process, sink.place(tmp_path / "file" / "deeper"))
    assert (tmp_path / "file").read_bytes() == b"a file"


def test_no_folders_are_left(process: ProcessMemory, sink: Sink, tmp_path: Path) -> None:
    """Folders that were made for it are removed if one of them cannot be made."""
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        sink.write(process, sink.place(tmp_path / "new" / "deeper" / ("x" * 300) / "deepest"))
    assert listing(tmp_path) == before


def test_an_input_that_changed(sink: Sink, tmp_path: Path) -> None:
    """Where the input has changed since it was opened nothing is written."""
    with memcarve.open(write_dump(tmp_path, ROWS, 1624)) as container:
        process = container.process()
        os.utime(tmp_path / "pid.1624.dmp", (1, 1))
        with pytest.raises(InputError, match="was changed while it was read"):
            sink.write(process, sink.place(tmp_path / "out"))
    assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


def test_a_map_alone(sink: Sink, tmp_path: Path) -> None:
    """Where there is a map and no dump, what is missing is said before anything is written."""
    dump = write_dump(tmp_path, ROWS, 1624)
    dump.unlink()
    with memcarve.open(dump.with_suffix(".map")) as container, pytest.raises(memcarve.CounterpartError):
        sink.write(container.process(), sink.place(tmp_path / "out"))
    assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


# there and back


def contents(process: ProcessMemory) -> dict[int, bytes]:
    """Return start and content of each segment."""
    return {part.start: process.space.read(part.start, part.size) for part in process.segments()}


@pytest.mark.parametrize("name", REOPENED)
@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip(kind: str, name: str, tmp_path: Path) -> None:
    """From whatever source, what was written opens with the same segments, bytes and process."""
    sink, place = TESTED[name], TESTED[name].place(tmp_path / "out")
    (tmp_path / "given").mkdir()
    with MAKERS[kind](tmp_path / "given") as given, memcarve.open(given.path) as container:
        (index,) = [place for place, entry in enumerate(container.processes()) if entry.pid == given.pid]
        process = container.process(index=index, half=container.default_half)
        expected = contents(process)
        sink.write(process, place)
        with memcarve.open(place) as again:
            found = again.process()
            assert contents(found) == expected
            assert found.pid == (given.pid if name != "memmap" else 1624)
            if name not in ("memmap", "segments"):
                _same_regions(process, found)


def _same_regions(one: ProcessMemory, other: ProcessMemory) -> None:
    """Hold the regions of which bytes are there against each other: bounds, protection, and where a file is mapped."""

    def known(process: ProcessMemory) -> set[tuple[object, ...]]:
        regions = process.metadata.regions[0] if process.metadata.regions else ()
        touched = process.segments()
        return {
            (row.start, row.size, row.collapsed)
            for row in regions
            if row.collapsed is not None and touched.touching(row.start, row.end).any()
        }

    assert known(other) >= known(one)
