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
from memcarve.hashing import hash_alone, hash_of, new_digest

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


#: of the test vectors that BLAKE3's authors publish (test_vectors.json), by length: of bytes 0 to 250, again and again
BLAKE3 = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}


@pytest.mark.parametrize("size", [*BLAKE3])
def test_blake3(tmp_path: Path, size: int) -> None:
    """BLAKE3 is that of the published vectors, at once and in blocks."""
    pytest.importorskip("blake3")
    data = bytes(place % 251 for place in range(size))
    (tmp_path / "file").write_bytes(data)
    assert new_digest("blake3", data).digest().hex() == BLAKE3[size]
    with FileBacking(tmp_path / "file") as file:
        assert hash_of(file, "blake3") == BLAKE3[size]


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """A file that was cut has no hash, and nobody goes on reading."""
    path, threads = tmp_path / "file", {*threading.enumerate()}
    path.write_bytes(bytes(100_000))
    with FileBacking(path) as file:
        os.truncate(path, 50_500)
        with pytest.raises(SourceReadError, match="ends at offset 0xc544"):
            hash_alone(file)
    assert {*threading.enumerate()} <= threads


def test_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If hashing is broken off, so is reading: of a file of which 100 blocks are left, it has read no more than fit."""
    path, threads, read = tmp_path / "file", {*threading.enumerate()}, list[int]()
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
    assert {*threading.enumerate()} <= threads
    assert len(read) <= 4
