"""``memcarve extract`` of several processes: a folder or an archive each, and what is said of those that fail."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

import winimage
from cli import invoke
from dumps import write_several
from files import listing
from headers import BASE, pe_page
from memcarve.sinks import extract as sink
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran

    Invoke = Callable[..., Ran]

FOLDERS = ["1624-explorer.exe", "388-smss.exe", "4-System"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of three processes, one of which has modules in memory."""
    path = tmp_path_factory.mktemp("few") / "mem.raw"
    plans = (winimage.Plan(388, b"smss.exe"), winimage.Plan(1624, b"explorer.exe", 388, winimage.MIXED))
    winimage.build(path, processes=plans)
    return path


@pytest.fixture
def go(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return what runs the program in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke(capfdbinary, *map(str, arguments))


def contents(folder: Path) -> dict[str, Any]:
    """Return the files of an extracted folder; of modules.json what does not depend on the run."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "SHA256SUMS"}
    document = json.loads(found.pop("modules.json"))
    return found | {name: document[name] for name in ("process", "totals", "modules", "complete")}


def test_all(go: Invoke, image: Path, tmp_path: Path) -> None:
    """--all writes a folder for each process, of the same content as one of it alone, and how each ended."""
    ran = go("extract", image, "--all")
    assert ran.code == 0, ran.err
    assert listing(tmp_path / "mem.modules") == [*FOLDERS, "SHA256SUMS", "processes.json"]
    assert stat.S_IMODE((tmp_path / "mem.modules").stat().st_mode) == 0o700
    assert ran.err.splitlines()[-2] == "3 of 3 processes: mem.modules"
    document = json.loads((tmp_path / "mem.modules" / "processes.json").read_text())
    assert sorted(name for row in document["processes"] for name in row["files"]) == FOLDERS
    for row in document["processes"]:
        assert go("extract", image, "--pid", row["pid"], "-o", "one", "--force", "-q").code == 0
        alone = contents(tmp_path / "one")
        assert contents(tmp_path / "mem.modules" / row["files"][0]) == alone
        assert (row["of"], row["count"], row["bytes"]) == tuple(
            alone["totals"][name] for name in ("modules", "files", "bytes")
        )
        assert (row["complete"], row["error"], row["object"] is not None) == (True, None, True)
    assert sum(row["count"] for row in document["processes"]) > 0


def test_some(go: Invoke, image: Path, tmp_path: Path) -> None:
    """Several --pid, and a --name that several have, choose some; what one choice leaves is written as ever."""
    assert go("extract", image, "--pid", "388", "--pid", "1624", "-o", "two").code == 0
    assert listing(tmp_path / "two") == [*FOLDERS[:2], "SHA256SUMS", "processes.json"]
    assert go("extract", image, "--name", "*S*", "-o", "named").code == 0
    assert listing(tmp_path / "named") == [*FOLDERS[1:], "SHA256SUMS", "processes.json"]
    assert go("extract", image, "--name", "expl*").code == 0
    assert "modules.json" in listing(tmp_path / "mem.1624-explorer.exe.modules")
    ran = go("extract", image)
    assert ran.code == 2
    assert "; --all takes every one" in ran.err


def test_archives(go: Invoke, image: Path, tmp_path: Path) -> None:
    """With --zip each process gets an archive of its own."""
    pyzipper = pytest.importorskip("pyzipper")
    assert go("extract", image, "--all", "--zip", "-o", "out").code == 0
    assert listing(tmp_path / "out") == [*(f"{name}.zip" for name in FOLDERS), "SHA256SUMS", "processes.json"]
    with pyzipper.AESZipFile(tmp_path / "out" / "1624-explorer.exe.zip") as archive:
        archive.setpassword(b"infected")
        assert json.loads(archive.read("modules.json"))["process"]["pid"] == 1624
    assert go("extract", image, "--all", "--force", "-o", "out").code == 0
    assert listing(tmp_path / "out") == [*FOLDERS, "SHA256SUMS", "processes.json"]


def of_two(tmp_path: Path) -> Path:
    """Return the map of two processes, each of one module."""
    rows = [(BASE, bytes(pe_page())), (BASE + PAGE, noise(1))]
    return write_several(tmp_path, {4: rows, 5: rows})


def test_one_that_fails(go: Invoke, tmp_path: Path) -> None:
    """One process that fails is told of by exit status 3 and in processes.json; the others are written."""
    table = of_two(tmp_path)
    (tmp_path / "pid.5.dmp").unlink()
    ran = go("extract", table, "--all", "-o", "out")
    assert ran.code == 3, ran.err
    assert "memcarve: 5: " in ran.err
    assert "1 of 2 processes: out" in ran.err
    assert listing(tmp_path / "out") == ["4", "SHA256SUMS", "processes.json"]
    rows = json.loads((tmp_path / "out" / "processes.json").read_text())["processes"]
    assert [(row["pid"], row["files"], row["count"], row["complete"]) for row in rows] == [
        (4, ["4"], 1, True),
        (5, [], None, False),
    ]
    assert "pid.5.dmp" in rows[1]["error"]


def test_all_that_fail(go: Invoke, tmp_path: Path) -> None:
    """Where every process fails that is an error, and nothing is kept."""
    table = of_two(tmp_path)
    for pid in (4, 5):
        (tmp_path / f"pid.{pid}.dmp").unlink()
    ran = go("extract", table, "--all", "-o", "out")
    assert ran.code == 1
    assert ran.err.count("nothing was kept") == 1
    assert "incomplete" not in ran.err
    assert listing(tmp_path) == ["all.map"]


def test_a_full_disk(go: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the whole run; the message has the folder's own name, and nothing is kept."""
    table = of_two(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "write_sparse", full)
    ran = go("extract", table, "--all", "-o", "out")
    assert ran.code == 1
    assert ran.err.startswith("memcarve: out/4/0x00007ff612340000.")
    assert ran.err.endswith("No space left on device; nothing was kept\n")
    assert listing(tmp_path) == ["all.map", "pid.4.dmp", "pid.5.dmp"]


def test_only_own_are_replaced(go: Invoke, tmp_path: Path) -> None:
    """What several processes were extracted into is replaced on request, unless anything else lies in it."""
    table = of_two(tmp_path)
    assert go("extract", table, "--all", "-o", "out").code == 0
    assert "--force replaces it" in go("extract", table, "--all", "-o", "out").err
    assert go("extract", table, "--all", "-o", "out", "--force").code == 0
    for name in ("notes.txt", "4/notes.txt", "5.zip"):
        (tmp_path / "out" / name).write_text("mine")
        ran = go("extract", table, "--all", "-o", "out", "--force")
        assert ran.code == 1
        assert "holds" in ran.err
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "processes.json").unlink()
    ran = go("extract", table, "--all", "-o", "out", "--force")
    assert (ran.code, "holds no processes.json" in ran.err) == (1, True)
