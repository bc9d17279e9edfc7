"""What --force may replace: a list that claims other people's files does not make them memcarve's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
import sinking
from carved import file_name
from cli import invoke
from dumps import write_dump
from files import EXAMPLE
from memcarve.sinks import final_name
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a dump with its map."""
    return write_dump(tmp_path, [(0x10000, noise(1)), (0x20000, noise(2))])


@pytest.fixture
def folder(tmp_path: Path, dump: Path) -> Path:
    """Return its carved folder."""
    carve(dump, tmp_path / "out")
    return tmp_path / "out"


def carve(dump: Path, out: Path, *, force: bool = False) -> None:
    """Carve a dump."""
    with memcarve.open(dump) as container:
        sinking.carve(container.process(), out, force=force)


def claim(folder: Path, name: str, start: int, end: int) -> None:
    """Have the manifest of a folder list one more file, without anything else that belongs to it."""
    path = folder / "segments.json"
    row = {"start": f"0x{start:016x}", "end": f"0x{end:016x}", "size": end - start, "file": name, "offset": 0}
    row |= {"extents": 1, "sha256": "0" * 64, "zero": False}
    path.write_text(re.sub(r"\n \]\n\}\n$", f",\n  {json.dumps(row)}\n ]\n}}\n", path.read_text()))


def resealed(folder: Path) -> None:
    """Make the file of checksums fit the manifest."""
    digest = hashlib.sha256((folder / "segments.json").read_bytes()).hexdigest()
    file = folder / "SHA256SUMS"
    file.write_text(re.sub(r"(?m)^\w+(?=  segments\.json$)", digest, file.read_text()))


def test_of_another_length(folder: Path, dump: Path) -> None:
    """A file that is listed and has another length is not memcarve's, though all sums were made to fit."""
    name = file_name(0x90000, PAGE)
    (folder / name).write_bytes(b"somebody's only copy")
    claim(folder, name, 0x90000, 0x90000 + PAGE)
    resealed(folder)
    with pytest.raises(memcarve.TargetExistsError, match=f"holds {name}, which is not as long as segments.json says"):
        carve(dump, folder, force=True)
    assert (folder / name).read_bytes() == b"somebody's only copy"


def test_of_another_name(folder: Path, dump: Path) -> None:
    """A file that is listed with addresses other than its name's is not memcarve's."""
    name = file_name(0x90000, PAGE)
    (folder / name).write_bytes(bytes(20))
    claim(folder, name, 0x90000, 0x90014)
    resealed(folder)
    with pytest.raises(memcarve.TargetExistsError, match=f"holds {name}, which memcarve did not write"):
        carve(dump, folder, force=True)
    assert (folder / name).exists()


def test_sums_of_something_else(folder: Path, dump: Path) -> None:
    """Checksums that are not about the manifest beside them show that somebody wrote one of the two."""
    claim(folder, file_name(0x90000, PAGE), 0x90000, 0x90000 + PAGE)
    with pytest.raises(memcarve.TargetExistsError, match=r"holds SHA256SUMS, which is not about its segments\.json"):
        carve(dump, folder, force=True)


def test_modules_of_another_length(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The same holds of modules' files."""
    out = tmp_path / "modules"
    assert invoke(capfdbinary, "extract", EXAMPLE, "-o", out).code == 0
    row = '{"file": "0x0000000000001000.a.bin", "bytes": 7}'
    text = (out / "modules.json").read_text()
    text = re.sub(r'"modules": \[\n.*?\n? \]', f'"modules": [\n  {row}\n ]', text, flags=re.DOTALL)
    (out / "modules.json").write_text(text)
    file = out / "0x0000000000001000.a.bin"
    file.write_bytes(b"somebody's only copy")
    ran = invoke(capfdbinary, "extract", EXAMPLE, "-o", out, "--force")
    assert (ran.code, file.exists(), f"holds {file.name}" in ran.err) == (1, True, True)


def test_what_came_late(tmp_path: Path, folder: Path, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes into a folder after it was looked at, and before it is moved aside, is found and put back."""
    rename: Callable[..., None] = os.rename

    def late(source: str, target: str) -> None:
        if source == str(folder):
            (folder / "late").write_bytes(b"somebody's only copy")
        rename(source, target)

    monkeypatch.setattr(final_name.os, "rename", late)
    with pytest.raises(memcarve.TargetExistsError, match="holds late, which memcarve did not write"):
        carve(dump, folder, force=True)
    assert (folder / "late").read_bytes() == b"somebody's only copy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pid.4.dmp", "pid.4.map"]


def test_what_was_exchanged_late(tmp_path: Path, folder: Path, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that takes the place of the one that was looked at is not removed."""
    rename: Callable[..., None] = os.rename

    def late(source: str, target: str) -> None:
        if source == str(folder) and not (tmp_path / "aside").exists():
            rename(folder, tmp_path / "aside")
            folder.mkdir()
            (folder / "mine").write_bytes(b"1")
        rename(source, target)

    monkeypatch.setattr(final_name.os, "rename", late)
    with pytest.raises(memcarve.TargetExistsError, match=r"holds no .*segments\.json"):
        carve(dump, folder, force=True)
    assert (folder / "mine").read_bytes() == b"1"


@pytest.mark.parametrize("replaced", [True, False])
def test_what_another_run_replaces(
    tmp_path: Path, folder: Path, dump: Path, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    """If another run takes the folder away while it is looked through, what is there then is looked at."""
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "out"
    carve(write_dump(tmp_path / "other", [(0x90000, noise(3))]), other)
    true = os.scandir

    @contextlib.contextmanager
    def scandir(path: Any) -> Any:
        with true(path) as entries:
            yield entries if isinstance(path, int) else list(entries)  # removing lists by descriptor
        if path == str(folder) and other.exists():
            shutil.rmtree(folder)
            other.rename(folder) if replaced else shutil.rmtree(other)

    monkeypatch.setattr(os, "scandir", scandir)
    carve(dump, folder, force=True)
    assert not other.exists()
    assert (folder / file_name(0x10000, PAGE)).exists()
    memcarve.verify(folder)
