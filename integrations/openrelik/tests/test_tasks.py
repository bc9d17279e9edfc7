"""The tasks, each through a real Redis and a real worker, against what the images are known to hold."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

import memcarve
from conftest import HOSTILE, WITH_MEMORY, Relik

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Server


@pytest.fixture(scope="module")
def steady(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relik]:
    """Return OpenRelik's part with a worker that all tests here use."""
    made = Relik(redis_server, tmp_path_factory.mktemp("steady"))
    made.work(2)
    yield made
    made.close()


def unpacked(path: Path, folder: Path) -> Path:
    """Unpack an archive as anybody would."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_processes_are_listed_as_the_library_lists_them(steady: Relik, image: Path) -> None:
    """Number, name and parent of every process are in processes.json, and all of them in the report."""
    told = steady.get(steady.send("processes", image, command_lines=True))
    with memcarve.open(image) as container:
        expected = [(entry.pid, entry.name, entry.parent) for entry in container.processes()]
    rows = told.json("processes.json")["processes"]
    assert [(row["pid"], row["name"], row["parent"]) for row in rows] == expected
    assert next(row for row in rows if row["pid"] == 1624)["command_line"]
    assert told.document["task_report"]["summary"] == f"{len(expected)} processes"
    assert [file["data_type"] for file in told.files] == [
        f"worker:memcarve:processes:{kind}" for kind in ("processes", "report")
    ]


def test_a_hostile_name_is_text_in_the_report(steady: Relik, image: Path) -> None:
    """A process's name neither marks up a report nor ends a cell of its table."""
    told = steady.get(steady.send("processes", image))
    content = told.document["task_report"]["content"]
    assert "\x1b" not in content
    assert "<b>" not in content
    (line,) = [line for line in content.splitlines() if "|3004|" in line]
    assert line.count("|") == 5
    assert told.path(".md").read_text().rstrip("\n") == content.rstrip("\n")
    (row,) = [row for row in told.json("processes.json")["processes"] if row["pid"] == 3004]
    assert row["name"].endswith(HOSTILE[1:].decode())


def test_each_process_is_an_archive_that_verifies(steady: Relik, image: Path, tmp_path: Path) -> None:
    """What `carve` gives of a process is a carved folder, whole, and the same as the source."""
    told = steady.get(steady.send("carve", image, processes="1624, smss*", case_id="7-b"))
    assert told.names() == [
        "machine.1624-program.exe.tar",
        "machine.388-smss.exe.tar",
        "processes.json",
        "carve-report.md",
    ]
    folder = unpacked(told.path("program.exe.tar"), tmp_path)
    with memcarve.open(image) as container:
        checked = memcarve.verify(folder / "1624-program.exe", container.process(1624, half="user"))
    assert checked.compared
    (row, _) = told.json("processes.json")["processes"]
    assert (row["pid"], row["count"], row["error"]) == (1624, checked.count, None)
    assert "7-b" in (folder / "1624-program.exe" / "segments.json").read_text()
    assert steady.leftovers() == []


@pytest.mark.parametrize("fan_out", [False, True])
def test_all_processes_of_an_image_are_one_archive(
    steady: Relik, image: Path, tmp_path: Path, *, fan_out: bool
) -> None:
    """One archive of all is as memcarve writes it of several processes, whoever wrote which of them."""
    if fan_out:
        steady = Relik(steady.server, tmp_path)
        steady.work(2, MEMCARVE_FAN_OUT_MIB="1")
    told = steady.get(steady.send("carve", image, archive="all"))
    folder = unpacked(told.path("machine.carve.tar"), tmp_path) / "machine.carve"
    done = subprocess.run(
        [sys.executable, "-m", "memcarve", "verify", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(row["pid"] for row in told.json("processes.json")["processes"]) == WITH_MEMORY
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert steady.leftovers() == []
    if fan_out:
        steady.close()
