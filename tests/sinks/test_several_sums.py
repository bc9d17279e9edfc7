"""One file of checksums over several processes: sha256sum accepts it, and every file stands in it once."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

import memcarve
import sinking
from cli import invoke
from dumps import write_several
from memory import PAGE, noise

if TYPE_CHECKING:
    from pathlib import Path

    from dumps import Piece

Capture = pytest.CaptureFixture[bytes]

ROWS: dict[int, list[Piece]] = {
    4: [(0x10000, noise(1, 2 * PAGE)), (0x20000, noise(2))],
    40: [(0x10000, noise(3))],
    1624: [(0x30000, noise(4)), (0x50000, bytes(PAGE))],
}
COMMANDS = {
    "carve": ["carve"],
    "labelled": ["carve", "--label-names", "--hash", "sha256", "--hash", "md5"],
    "minidump": ["export", "--to", "minidump"],
    "elfcore": ["export", "--to", "elfcore"],
    "flat": ["export", "--to", "flat"],
    "scripts": ["export", "--to", "scripts"],
    "memmap": ["export", "--to", "memmap"],
    "extract": ["extract"],
    "zip": ["extract", "--zip"],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a map of several dumps."""
    (tmp_path / "source").mkdir()
    return write_several(tmp_path / "source", ROWS)


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_file_stands_there_once(kind: str, source: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """All files but those of checksums are listed, by sorted names, with their hashes; sha256sum agrees."""
    if kind == "zip":
        pytest.importorskip("pyzipper")
    out = tmp_path / "out"
    assert invoke(capfdbinary, *COMMANDS[kind], source, "--all", "-o", out).code == 0
    lines = (out / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    there = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file() and "SUMS" not in path.name}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
    names = [line.split("  ", 1)[1] for line in lines]
    assert names == sorted(names)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=out, check=True)
    assert (out / "MD5SUMS").exists() == (kind == "labelled")


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind != "zip"])
def test_the_chain(kind: str, source: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """processes.json has the hash of what stands for each process's files, and the seal is its own."""
    out = tmp_path / "out"
    ran = invoke(capfdbinary, *COMMANDS[kind], source, "--all", "-o", out)
    digest = hashlib.sha256((out / "processes.json").read_bytes()).hexdigest()
    assert ran.err.splitlines()[-1] == f"seal (SHA-256 of processes.json): {digest}"
    for row in json.loads((out / "processes.json").read_bytes())["processes"]:
        assert {name.partition("/")[0] for name in row["sha256"]} == set(row["files"])
        for name, value in row["sha256"].items():
            assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value


def test_hashes_are_not_taken_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of carved folders the checksums are put together without a file being read."""

    def refuse(path: str, kind: str) -> str:
        raise AssertionError(path, kind)

    monkeypatch.setattr("memcarve.sinks.several_sums._hash", refuse)
    with memcarve.open(source) as container:
        sinking.carve_several(container, [0, 1, 2], tmp_path / "out")
    assert len((tmp_path / "out" / "SHA256SUMS").read_bytes().splitlines()) == 5 + 3 + 1


def test_without_hashes(source: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """Without hashes there is no file of checksums; with others it is of these."""
    assert invoke(capfdbinary, "carve", source, "--all", "--hash", "none", "-o", tmp_path / "none").code == 0
    assert not list((tmp_path / "none").glob("*SUMS"))
    assert invoke(capfdbinary, "carve", source, "--all", "--hash", "sha1", "-o", tmp_path / "one").code == 0
    assert [path.name for path in (tmp_path / "one").glob("*SUMS")] == ["SHA1SUMS"]
    if shutil.which("sha1sum"):
        subprocess.run(["sha1sum", "-c", "--quiet", "--strict", "SHA1SUMS"], cwd=tmp_path / "one", check=True)
    for folder in ("none", "one"):
        assert invoke(capfdbinary, "verify", tmp_path / folder).code == 0
        assert invoke(capfdbinary, "carve", source, "--all", "-o", tmp_path / folder, "--force").code == 0


def test_names_that_must_be_escaped(tmp_path: Path, capfdbinary: Capture) -> None:
    """A name with a backslash or a line's end is written as sha256sum reads it."""
    source = write_several(tmp_path, ROWS, "a\\b\nc.map")
    out = tmp_path / "out"
    assert invoke(capfdbinary, "export", "--to", "minidump", source, "--all", "-o", out).code == 0
    text = (out / "SHA256SUMS").read_bytes()
    assert text.count(b"\n") == 4
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=out, check=True)
    assert invoke(capfdbinary, "export", "--to", "minidump", source, "--all", "-o", out, "--force").code == 0


@pytest.mark.parametrize("text", [b"my notes\n", b"0" * 64 + b"  elsewhere/file\n", b"0" * 64 + b"  4/x"])
def test_other_sums_are_not_replaced(source: Path, tmp_path: Path, capfdbinary: Capture, text: bytes) -> None:
    """A file of that name which is not about what lies there stays, with --force too."""
    out = tmp_path / "out"
    assert invoke(capfdbinary, "carve", source, "--all", "-o", out).code == 0
    (out / "SHA256SUMS").write_bytes(text)
    ran = invoke(capfdbinary, "carve", source, "--all", "-o", out, "--force")
    assert (ran.code, (out / "SHA256SUMS").read_bytes()) == (1, text)
    assert "SHA256SUMS, which memcarve did not write" in ran.err
