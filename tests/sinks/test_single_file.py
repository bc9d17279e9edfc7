"""A file that several threads write, and that is hashed behind them: against the file itself, and a model of it."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from memcarve.backing import FileBacking
from memcarve.copying.copier import BUFFERED, IN_KERNEL, Copier, StoppedError
from memcarve.errors import InputError, NoSpaceError, SourceReadError
from memcarve.process import ProcessMemory
from memcarve.sinks import single_file
from memcarve.sinks.single_file import Mover
from memcarve.space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.process import Progress

_PART = 1000
_SIZE = 64 * _PART
_HASHED: list[Any] = [pytest.param(True, id="hashed"), pytest.param(False, id="not")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small parts, and several threads that write them, also if they are hashed."""
    monkeypatch.setattr(single_file, "_PART", _PART)
    monkeypatch.setattr(single_file, "THREADS", 3)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileBacking]:
    """Return a source, and make an empty target."""
    others = {*threading.enumerate()}  # what servers of other tests may have left
    (tmp_path / "source").write_bytes(os.urandom(_SIZE))
    (tmp_path / "target").touch()
    with FileBacking(tmp_path / "source") as backing:
        yield backing
    assert {*threading.enumerate()} <= others


def mover_of(backing: FileBacking, progress: Progress | None = None) -> Mover:
    """Return what moves a source's bytes."""
    return Mover(ProcessMemory(AddressSpace(*(np.zeros(0, np.uint64),) * 3, backing)), progress)


def moved(mover: Mover, folder: Path, rows: list[tuple[int, int, int]], **how: Any) -> str | None:
    """Move pieces (place, offset, size) into the target; return its hash."""
    columns = [np.array([row[index] for row in rows], np.uint64) for index in range(3)]
    return mover.move(str(folder / "target"), "target", *columns, **{"length": _SIZE, **how})


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000), st.integers(0, 2000)), max_size=12),
    st.sampled_from([{}, {"sparse": True}, {"fill": 0}, {"fill": 0xC3}]),
)
def test_model(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, int, int]], how: dict[str, Any]
) -> None:
    """Pieces come to their places, what lies between is filled, and the hash is that of the file."""
    folder = tmp_path_factory.mktemp("moved")
    data, model, rows = os.urandom(4096) + bytes(4096), bytearray(), []
    byte = bytes([how.get("fill", 0)])
    for offset, size, gap in wanted:
        model += byte * gap
        rows.append((len(model), offset, size))
        model += data[offset : offset + size]
    model += byte * 100
    (folder / "source").write_bytes(data)
    (folder / "target").touch()
    told: list[tuple[int, int]] = []
    with FileBacking(folder / "source") as backing:
        mover = mover_of(backing, lambda done, total: told.append((done, total)))
        digest = moved(mover, folder, rows, length=len(model), hashed=True, **how)
    assert (folder / "target").read_bytes() == model
    assert digest == hashlib.sha256(model).hexdigest()
    assert told[-1] == (len(model) if "fill" in how else sum(size for _, _, size in rows),) * 2


def test_nothing_is_hashed_before_it_is_there(
    source: FileBacking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written ahead of a slower thread's part is hashed after that."""
    true, ahead = Copier.copy, threading.Event()

    def copy(self: Copier, backing: Any, pieces: Any, target: Any, *, place: int, **how: Any) -> None:
        if place == 2 * _PART:
            assert ahead.wait(60)
        true(self, backing, pieces, target, place=place, **how)
        if place == _SIZE - _PART:
            ahead.set()

    monkeypatch.setattr(Copier, "copy", copy)
    digest = moved(mover_of(source), tmp_path, [(0, 0, _SIZE)], hashed=True)
    assert digest == hashlib.sha256((tmp_path / "source").read_bytes()).hexdigest()


@pytest.mark.parametrize("hashed", _HASHED)
def test_a_disk_that_runs_full(
    source: FileBacking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hashed: bool
) -> None:
    """A thread that finds the disk full ends the others, also the one that waits for its part."""
    true = os.write

    def write(fd: int, data: Any) -> int:
        if os.lseek(fd, 0, os.SEEK_CUR) + len(data) > _SIZE // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true(fd, data)

    monkeypatch.setattr(os, "write", write)
    for how in ({}, {"fill": 1}):
        with pytest.raises(NoSpaceError, match=r"^target: cannot be written: No space left on device"):
            moved(
                mover_of(source),
                tmp_path,
                [(0, 0, 2000), (2000, 2000, 1 if how else _SIZE - 2000)],
                hashed=hashed,
                **how,
            )


@pytest.mark.parametrize("hashed", _HASHED)
def test_a_source_that_shrinks(source: FileBacking, tmp_path: Path, *, hashed: bool) -> None:
    """A source that is cut before it is read ends too early; one that changes after that is told in the end."""
    os.truncate(tmp_path / "source", _SIZE // 2)
    with pytest.raises(SourceReadError, match="ends at offset"):
        moved(mover_of(source), tmp_path, [(0, 0, _SIZE)], hashed=hashed)
    with pytest.raises(InputError, match="was changed while it was read"):
        moved(mover_of(source), tmp_path, [(0, 0, _SIZE // 2)], hashed=hashed)


@pytest.mark.parametrize("hashed", _HASHED)
@pytest.mark.parametrize("how", [{}, {"fill": 1}, {"sparse": True}], ids=["pieces", "gap", "sparse"])
def test_stopped(source: FileBacking, tmp_path: Path, how: dict[str, Any], *, hashed: bool) -> None:
    """A signal, raised where progress is told, ends all threads."""

    def signalled(*_: int) -> None:
        raise KeyboardInterrupt

    rows = [(0, 0, 1)] if "fill" in how else [(0, 0, _SIZE)]
    with pytest.raises(KeyboardInterrupt):
        moved(mover_of(source, signalled), tmp_path, rows, hashed=hashed, **how)
    mover = mover_of(source)
    mover.copier.stop.set()
    with pytest.raises(StoppedError):
        moved(mover, tmp_path, rows, hashed=hashed, **how)


def test_what_is_done_beside(source: FileBacking, tmp_path: Path) -> None:
    """Something else is done meanwhile; if that fails, all of it does."""
    called: list[int] = []

    def fails() -> None:
        raise ValueError("beside")

    moved(mover_of(source), tmp_path, [(0, 0, _SIZE)], beside=lambda: called.append(threading.get_ident()))
    assert called != [threading.get_ident()]
    assert len(called) == 1
    with pytest.raises(ValueError, match="beside"):
        moved(mover_of(source), tmp_path, [(0, 0, _SIZE)], beside=fails, hashed=True)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_calls_that_read_and_write(
    source: FileBacking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, elsewhere: bool
) -> None:
    """Threads read and write by themselves, unless a server may copy."""
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux alone copies in the kernel")
    monkeypatch.setattr(single_file, "may_copy_elsewhere", lambda _: elsewhere)
    mover = mover_of(source)
    monkeypatch.setattr(mover.copier, "_ways", [IN_KERNEL])
    moved(mover, tmp_path, [(0, 0, _SIZE)])
    assert set(mover.copier.moved) == ({IN_KERNEL} if elsewhere else {BUFFERED})
