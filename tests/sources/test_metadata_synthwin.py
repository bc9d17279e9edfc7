"""Regions and modules of Windows processes from images that another generator made, held against its own truth.

The generator is not in the repository; it lies beside the real files, see test_real.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import memcarve
from memcarve import Module
from real import REAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memcarve.metadata import Metadata

PAGE = 4096
PRESETS = ("small", "default")
HALVES = ("user", "kernel", "all")


class Found(NamedTuple):
    """What the generator planned of a machine, and what was found of its processes, by which half was opened."""

    truth: dict[str, Any]
    found: dict[str, dict[int, Metadata]]


@pytest.fixture(scope="module", params=PRESETS)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """Return what was planned, and what was found."""
    generator = REAL.parent / "synthwin" / "synthwin.py"
    if not generator.is_file():
        pytest.skip(f"{generator} is missing")
    folder: Path = tmp_path_factory.mktemp("synthwin")
    words = [sys.executable, generator, folder, "--preset", request.param]
    subprocess.run(words, check=True, capture_output=True)
    found: dict[str, dict[int, Metadata]] = {half: {} for half in HALVES}
    with memcarve.open(folder / "mem.raw") as image:
        for index, entry in enumerate(image.processes()):
            assert entry.pid is not None
            for half in HALVES:
                found[half][entry.pid] = image.process(index=index, half=half).metadata
    yield Found(json.loads((folder / "truth.json").read_text()), found)
    shutil.rmtree(folder)


def test_every_process_is_there(machine: Found) -> None:
    """Evidence is asked of all processes that were planned, and there is some to be found."""
    planned = {process["pid"]: len(process["vads"]) for process in machine.truth["processes"]}
    assert set(machine.found["user"]) == set(planned)
    assert sum(planned.values()) > 20


def test_regions(machine: Found) -> None:
    """Every region has the addresses, the protection, the file, the tag that were planned, and no other is there."""
    for process in machine.truth["processes"]:
        planned = sorted(
            (vad["start"], vad["end"] + 1, vad["protection"], vad["file"], vad["tag"], bool(vad["private"]))
            for vad in process["vads"]
        )
        regions = machine.found["user"][process["pid"]].regions
        assert [one.source for one in regions] == ["VAD tree"] * (not process["exit_filetime"])
        rows = [row for one in regions for row in one.rows]
        assert [(row.start, row.end, row.protection, row.file, row.tag, row.private) for row in rows] == planned
        assert not any(one.overlapping for one in regions)


def test_kinds(machine: Found) -> None:
    """A region is an image where a module was planned, else private or mapped."""
    for process in machine.truth["processes"]:
        modules = {module["base"]: module["size"] for module in process["modules"]}
        for regions in machine.found["user"][process["pid"]].regions:
            images = {row.start: row.size for row in regions if row.kind == "image"}
            assert images == modules
            others = [row for row in regions if row.kind != "image"]
            assert all(row.kind == ("private" if row.private else "mapped") for row in others)


def test_modules(machine: Found) -> None:
    """Modules are those planned, in the order of loading, to every letter of name and path."""
    for process in machine.truth["processes"]:
        planned = [Module(row["base"], row["size"], row["name"], row["path"]) for row in process["modules"]]
        modules = machine.found["user"][process["pid"]].modules
        assert [one.source for one in modules] == ["PEB"] * bool(planned)
        # they stand in each of the loader's lists
        assert [row for one in modules for row in one.rows] == [row._replace(missing=()) for row in planned]


def test_what_processes_were_started_with(machine: Found) -> None:
    """Command line, image path and environment are those that the generator writes; it writes no current directory."""
    environment = ("OS=Windows_NT", "SystemRoot=C:\\Windows")
    for process in machine.truth["processes"]:
        found = machine.found["user"][process["pid"]].parameters
        path = process["modules"][0]["path"] if process["modules"] else None
        planned = ("PEB", f'"{path}" --synthetic {process["pid"]}', path, "", environment)
        assert [tuple(one) for one in found] == ([planned] if process["modules"] else [])


def test_areas(machine: Found) -> None:
    """The PEB is where it was planned, and the page tables see themselves where the root has its own address."""
    tables = (0xFFFF << 48) | machine.truth["selfmap_index"] << 39
    for process in machine.truth["processes"]:
        areas = machine.found["user"][process["pid"]].areas
        rows = [(row.start, row.size, row.kind) for one in areas for row in one.rows]
        planned = [(process["peb"], PAGE, "PEB")] * bool(process["peb"])
        assert rows == planned + [(tables, 1 << 39, "page tables")] * bool(process["dtb"] and rows)
        assert bool(rows) != bool(process["exit_filetime"])


def test_threads(machine: Found) -> None:
    """The lists of threads that were planned are empty; they are known to be."""
    for metadata in machine.found["user"].values():
        assert [(one.source, list(one.rows)) for one in metadata.threads] == [("thread list", [])]


def test_nothing_to_remark(machine: Found) -> None:
    """What is sound gives no notes."""
    assert {metadata.notes for metadata in machine.found["user"].values()} == {()}


def test_whichever_half_was_opened(machine: Found) -> None:
    """What is known does not depend on which half of the memory was asked for."""
    for half in HALVES[1:]:
        for pid, metadata in machine.found[half].items():
            other = machine.found["user"][pid]
            assert [list(one) for one in metadata.regions] == [list(one) for one in other.regions]
            assert metadata._replace(regions=()) == other._replace(regions=())


def test_nothing_is_known_where_only_a_root_is_given(tmp_path: Path) -> None:
    """With a page-table root alone there is no system whose structures could be read."""
    image = tmp_path / "mem.raw"
    root = bytearray(PAGE)
    root[:8] = (0x3000 | 0x67).to_bytes(8, "little")
    tables = [((number << 12) | 0x67).to_bytes(8, "little") + bytes(PAGE - 8) for number in (4, 5, 6)]
    image.write_bytes(bytes(2 * PAGE) + root + b"".join(tables) + b"x" * PAGE)
    with memcarve.open(image, dtb=0x2000) as opened:
        metadata = opened.process().metadata
    assert metadata == memcarve.Metadata()
