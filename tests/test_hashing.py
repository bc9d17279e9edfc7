"""Hashes of backings, against hashlib's of the same bytes."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from memcarve import hashing
from memcarve.backing import FileBacking
from memcarve.errors import SourceReadError
from memcarve.hashing import hash_alone, hash_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks of some bytes, and a thread that reads ahead from the first one on."""
    monkeypatch.setattr(hashing, "_BLOCK", 500)
    monkeypatch.setattr(hashing, "_LARGE", 1)
    monkeypatch.setattr(hashing, "_AHEAD", 1000)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4000, 123_456])
def test_hashes(tmp_path: Path, size: int) -> None:
    """A hash is of all bytes in order, of one thread or of two; each block is announced before it is read."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    ends: list[int] = []
    with FileBacking(tmp_path / "file") as file:
        assert hash_alone(file) == hashlib.sha256(data).hexdigest()
        assert hash_of(file, "md5", ends.append) == hashlib.md5(data).hexdigest()
    assert ends == [*range(500, size, 500), *([size] if size else [])]


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """A file that was cut has no hash, and nobody goes on reading."""
    path, threads = tmp_path / "file", threading.active_count()
    path.write_bytes(bytes(100_000))
    with FileBacking(path) as file:
        os.truncate(path, 50_500)
        with pytest.raises(SourceReadError, match="ends at offset 0xc544"):
            hash_alone(file)
    assert threading.active_count() == threads


def test_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If hashing is broken off, so is reading: of a file of which 100 blocks are left, it has read no more than fit."""
    path, threads, read = tmp_path / "file", threading.active_count(), list[int]()
    path.write_bytes(bytes(100_000))

    class Hash:
        def __init__(self, **_: object) -> None:
            pass

        def update(self, _: memoryview) -> None:
            raise KeyboardInterrupt

    class Counted(FileBacking):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            read.append(offset)
            super().read_into(offset, buffer)

    monkeypatch.setattr(hashlib, "sha256", Hash)
    with Counted(path) as file, pytest.raises(KeyboardInterrupt):
        hash_alone(file)
    assert threading.active_count() == threads
    assert len(read) <= 4
