"""Verifying a folder of several processes: the list vouches for each, and the source for who is in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import winimage
from cli import invoke, run
from dumps import write_several
from memory import PAGE, noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli import Ran

PROCESSES = {
    4: [(0x10000, noise(1)), (0x20000, noise(2))],
    88: [(0x10000, noise(3)), (0x30000, bytes(PAGE))],
    91: [(0x40000, noise(4))],
}
CHOICES = (["--all"], ["--pid", "4", "--pid", "88", "--pid", "91"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a map of several processes, beside their dumps."""
    folder = tmp_path / "source"
    folder.mkdir()
    return write_several(folder, PROCESSES)


@pytest.fixture(params=CHOICES, ids=lambda words: words[0])
def carved(
    tmp_path: Path, table: Path, request: pytest.FixtureRequest, capfdbinary: pytest.CaptureFixture[bytes]
) -> Path:
    """Return the folder of all of them."""
    ran = invoke(capfdbinary, "carve", table, *request.param, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    return tmp_path / "out"


@pytest.fixture
def verified(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Ran]:
    """Return what runs the command."""

    def run(*words: object) -> Ran:
        ran = invoke(capfdbinary, "verify", *map(str, words))
        assert "bug in memcarve" not in ran.err
        return ran

    return run


def reseal(top: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the list of processes, and make its hashes and the file of checksums fit what lies there."""
    path = top / "processes.json"
    document = json.loads(path.read_text())
    change(document)
    for row in document["processes"]:
        for name in row.get("sha256", ()):
            if (top / name).is_file():
                row["sha256"][name] = hashlib.sha256((top / name).read_bytes()).hexdigest()
    rows = document.pop("processes")
    text = (
        json.dumps(document, indent=1)[:-2] + ',\n "processes": [' + ",".join(f"\n  {json.dumps(row)}" for row in rows)
    )
    path.write_text(text + "\n ]\n}\n")
    inner = {str(file.parent.relative_to(top)): file.read_text().splitlines() for file in top.glob("*/SHA256SUMS")}
    lines = []
    for row in sorted(rows, key=lambda row: f"{row['files'][0]}/"):
        folder = row["files"][0]
        lines += [f"{line[:66]}{folder}/{line[66:]}\n" for line in inner.get(folder, [])]
    lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  processes.json\n")
    (top / "SHA256SUMS").write_text("".join(lines))


def test_well(carved: Path, table: Path, verified: Callable[..., Ran]) -> None:
    """A folder that nobody touched is well, and so is each in it; the seal is that of the list."""
    for path in (carved, carved / "88"):
        assert verified(path).code == 0
        ran = verified(path, "--source", table)
        assert ran.code == 0, ran.err
    seal = hashlib.sha256((carved / "processes.json").read_bytes()).hexdigest()
    assert verified(carved, "--seal", seal).code == 0
    assert "the seal is" in verified(carved, "--seal", seal[::-1]).err
    reseal(carved, dict)
    ran = verified(carved, "--source", table)
    assert ran.code == 0, ran.err


def test_one_of_them(carved: Path, table: Path, verified: Callable[..., Ran]) -> None:
    """With --pid only that process is compared with the source."""
    ran = verified(carved, "--source", table, "--pid", 88)
    assert (ran.code, "88:" in ran.err, "91:" in ran.err) == (0, True, False), ran.err


def test_process_removed(carved: Path, table: Path, verified: Callable[..., Ran]) -> None:
    """A process that was taken out, with its row and all sums, is found by the source."""

    def change(document: dict[str, Any]) -> None:
        document["processes"] = [row for row in document["processes"] if row["pid"] != 88]

    shutil.rmtree(carved / "88")
    reseal(carved, change)
    assert verified(carved).code == 0
    ran = verified(carved, "--source", table)
    assert (ran.code, "process 88" in ran.err) == (1, True), ran.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", 5), ("name", "x"), ("count", 7), ("bytes", PAGE), ("complete", False), ("files", []), ("files", ["91"]),
        ("error", "could not be read"), ("sha256", {}), ("sha256", {"88/../4/segments.json": "0" * 64}), ("pid", 88.0),
        ("what", "segmentx"), ("what", None), ("what", "range"),
    ],
)  # fmt: skip
def test_row_changed(carved: Path, verified: Callable[..., Ran], name: str, value: object) -> None:
    """A row that says anything else of a process than its own document is a fault without the source, too."""

    def change(document: dict[str, Any]) -> None:
        next(row for row in document["processes"] if row["pid"] == 88)[name] = value

    reseal_or_not = reseal if name != "files" else _rewrite
    reseal_or_not(carved, change)
    assert verified(carved).code == 1


@pytest.fixture(scope="module")
def of_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an image, and two processes that were carved from it."""
    folder = tmp_path_factory.mktemp("image")
    winimage.build(folder / "image.raw")
    assert run("carve", folder / "image.raw", "--pid", 388, "--pid", 1624, "-o", folder / "out").code in (0, 3)
    return folder


@pytest.mark.parametrize("change", ["doubts", "parent", "exited", "lacks", "more"])
def test_facts_changed(of_image: Path, tmp_path: Path, verified: Callable[..., Ran], change: str) -> None:
    """What a row says of a process in an image is what the image says: as many facts, of the same kind."""
    image = of_image / "image.raw"
    shutil.copytree(of_image / "out", tmp_path / "out")

    def forge(document: dict[str, Any]) -> None:
        row = document["processes"][0]
        if change == "lacks":
            del row["doubts"]
        else:
            row[change] = {"doubts": ["x"], "parent": float(row["parent"]), "exited": 0}.get(change, 7)

    reseal(tmp_path / "out", dict)
    assert verified(tmp_path / "out", "--source", image).code == 0
    reseal(tmp_path / "out", forge)
    assert verified(tmp_path / "out", "--source", image).code == 1


@pytest.mark.parametrize(
    "again",
    ['"processes": [],\n "tool"', '"tool": NaN,\n "tool"', '"time": "x",\n "tool"', '"more": Infinity,\n "tool"'],
)
def test_json_that_readers_differ_on(carved: Path, verified: Callable[..., Ran], again: str) -> None:
    """A member that is there twice, or a number that is not JSON, is refused: some readers would see something else."""
    path = carved / "processes.json"
    path.write_text(path.read_text().replace('"tool"', again, 1))
    reseal_sums(carved)
    assert verified(carved).code == 1


def reseal_sums(top: Path) -> None:
    """Make the file of checksums fit the list of processes."""
    sums = top / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("  processes.json")]
    lines.append(f"{hashlib.sha256((top / 'processes.json').read_bytes()).hexdigest()}  processes.json")
    sums.write_text("".join(f"{line}\n" for line in lines))


def _rewrite(top: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = top / "processes.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_order_and_choice_changed(carved: Path, table: Path, verified: Callable[..., Ran]) -> None:
    """Another order of processes, or another recorded choice, is found by the source."""
    before = (carved / "processes.json").read_bytes(), (carved / "SHA256SUMS").read_bytes()

    def turn(document: dict[str, Any]) -> None:
        document["processes"].reverse()

    def narrow(document: dict[str, Any]) -> None:
        document["selected"] = {"all": False, "pid": [4, 91], "name": None}

    for change in (turn, narrow):
        reseal(carved, change)
        assert verified(carved, "--source", table).code == 1
        (carved / "processes.json").write_bytes(before[0])
        (carved / "SHA256SUMS").write_bytes(before[1])


def test_folder_resealed_alone(carved: Path, verified: Callable[..., Ran]) -> None:
    """A folder in which everything fits, but not the list above it, is a fault: the list has the manifest's hash."""
    path = carved / "88" / "segments.json"
    path.write_text(path.read_text().replace('"pid": 88', '"pid": 89'))
    sums = carved / "88" / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    lines[-1] = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  segments.json"
    sums.write_text("".join(f"{line}\n" for line in lines))
    assert verified(carved / "88").code == 0
    ran = verified(carved)
    assert (ran.code, "88/segments.json: its SHA-256 is not the one in processes.json" in ran.err) == (1, True)


def test_all_faults_are_told(carved: Path, verified: Callable[..., Ran]) -> None:
    """Every process is checked, also behind one that is wrong."""
    for name in ("4", "91"):
        next((carved / name).glob("0x*.bin")).write_bytes(noise(99))
    (carved / "notes").write_text("")
    ran = verified(carved)
    assert ran.code == 1
    for words in ("fault: 4: 0x", "fault: 91: 0x", "fault: notes: lies there, and is not listed"):
        assert words in ran.err


@pytest.mark.parametrize("kind", ["elfcore", "minidump", "memmap", "modules"])
def test_other_outputs(
    tmp_path: Path, table: Path, verified: Callable[..., Ran], kind: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Exports and modules of several processes are checked likewise, each against its own process."""
    out = tmp_path / kind
    words = ["extract", table] if kind == "modules" else ["export", table, "--to", kind]
    assert invoke(capfdbinary, *words, "--all", "-o", out).code == 0
    assert verified(out).code == 0
    ran = verified(out, "--source", table)
    assert ran.code == 0, ran.err
    list_of_all = out / "processes.json"
    whole = list_of_all.read_text()
    for name in ("count", "bytes", "what", *(["of"] if kind == "modules" else [])):
        document = json.loads(whole)
        document["processes"][1][name] = "x" if name == "what" else document["processes"][1][name] + 1
        list_of_all.write_text(json.dumps(document))
        reseal_sums(out)
        assert f": {name}: is " in verified(out, "--source", table).err
    list_of_all.write_text(whole)
    reseal_sums(out)
    assert verified(out).code == 0
    if kind != "modules":
        file = next(path for path in sorted(out.iterdir()) if path.suffix in (".core", ".mdmp", ".dmp"))
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert verified(out, "--source", table).code == 1
