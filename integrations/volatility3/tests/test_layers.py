# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The same machine in the containers that Volatility opens: the same segments, and how their bytes were moved."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import containers
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Machine

PID = 1624


def lime(machine: Machine, folder: Path) -> Path:
    """Return the machine's memory as LiME writes it: two ranges behind each other, each with a header."""
    size = machine.truth.size
    middle = size // 2
    ranges = [
        (0, containers.Slice(machine.truth.path, 0, middle)),
        (middle, containers.Slice(machine.truth.path, middle, size - middle)),
    ]
    return _path(containers.write_lime(folder / "mem.lime", ranges), folder)


def elf(machine: Machine, folder: Path) -> Path:
    """Return the machine's memory as an ELF core."""
    ranges = [(0, containers.Slice(machine.truth.path, 0, machine.truth.size))]
    return _path(containers.write_elf_core(folder / "mem.elf", ranges), folder)


def packed(machine: Machine, folder: Path) -> Path:
    """Return the machine's memory compressed: no file holds its bytes as they are."""
    path = folder / "mem.raw.gz"
    with open(machine.truth.path, "rb") as raw, gzip.open(path, "wb", compresslevel=1) as made:
        shutil.copyfileobj(raw, made)
    return path


def _path(_: str, folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lime, "LimeLayer"),
        pytest.param(elf, "Elf64Layer", marks=pytest.mark.newest),
        pytest.param(packed, "raw image", marks=pytest.mark.newest),
    ],
)
def test_containers(machine: Machine, tmp_path: Path, write: object, kind: str) -> None:
    """Rows are those of the raw image, files have the planned contents, and the manifest tells the container."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    vol = machine.vol.of(write(machine, source))  # type: ignore[operator]
    columns = ("Start", "End", "Extents", "Protection", "File")
    rows = vol.rows("windows.segments", "--pid", str(PID), "--dump", given=("-q", "-o", str(out)))
    expected = machine.vol.rows("windows.segments", "--pid", str(PID))
    assert [[row[name] for name in columns] for row in rows] == [[row[name] for name in columns] for row in expected]
    planned = {start: digest for start, _, digest in machine.truth.segments(PID, "user")}
    found = {row["Start"]: hashlib.sha256((out / row["File output"]).read_bytes()).hexdigest() for row in rows}
    assert {start: found[start] for start in planned} == planned
    image = json.loads((out / "segments.json").read_text())["inputs"]["image"]
    assert kind in image["format"]
