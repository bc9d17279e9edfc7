# This file is Copyright 2026 the memcarve authors and licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""linux.segments on a real machine's memory, against what the running machine saw of itself."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

import memcarve
from conftest import SHARED

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Vol

PAGE = 0x1000
PID, ROOT = 114, 0x2AD0000
THREAD = 2  # kthreadd
CLOCK = 0x7FFE0000  # a page that holds the time of day


def cut(linux: Vol) -> list[dict[str, Any]]:
    """Return the rows of a process, cut at regions, and of a thread of the kernel: one run for both."""
    return linux.rows("linux.segments", "--pid", str(PID), str(THREAD), "--split", "region")


@pytest.fixture(scope="module")
def dumped(linux: Vol, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder that a process was dumped into, and the rows that were printed."""
    folder = tmp_path_factory.mktemp("out")
    rows = linux.rows("linux.segments", "--pid", str(PID), "--dump", given=("-q", "-o", str(folder)))
    return folder, rows


def test_every_page_is_what_the_system_saw(dumped: tuple[Path, list[dict[str, Any]]]) -> None:
    """Each page has the CRC-32 that the running system saw, but the one that holds a running clock."""
    folder, rows = dumped
    found = {}
    for row in rows:
        data = (folder / row["File output"]).read_bytes()
        assert len(data) == row["Size"] == row["End"] - row["Start"]
        found |= {row["Start"] + at: zlib.crc32(data[at : at + PAGE]) for at in range(0, len(data), PAGE)}
    lines = (line.split() for line in (SHARED / "real" / "114.pages").read_text().splitlines())
    seen = {int(line[0], 16): int(line[2], 16) for line in lines if not {"err", "swap"} & set(line)}
    assert seen.keys() <= found.keys()
    assert [address for address, crc in seen.items() if found[address] != crc] == [CLOCK]


def test_the_segments_are_memcarves(linux: Vol, dumped: tuple[Path, list[dict[str, Any]]]) -> None:
    """What Volatility led to is what the page tables' root leads to; the manifest holds the same."""
    folder, rows = dumped
    with memcarve.open(linux.image, dtb=ROOT) as image:
        expected = [(one.start, one.end, one.extents) for one in image.process().segments()]
    assert [(row["Start"], row["End"], row["Extents"]) for row in rows] == expected
    document = json.loads((folder / "segments.json").read_text())
    assert [(int(row["start"], 16), int(row["end"], 16), row["extents"]) for row in document["segments"]] == expected
    assert document["process"]["pid"] == PID


def test_protections_and_files_are_those_of_the_maps(linux: Vol) -> None:
    """Cut at regions, each segment has the protection and the file that the running system had."""
    maps = {}
    for line in (SHARED / "real" / "114.maps").read_text().splitlines():
        bounds, flags, _, _, inode, *name = line.split(None, 5)
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        maps[start] = end, flags[:3], name[0].strip() if name and inode != "0" else None
    rows = [row for row in cut(linux) if row["PID"] == PID]
    for row in rows:
        (region,) = [start for start, (end, *_) in maps.items() if start <= row["Start"] and row["End"] <= end]
        _, flags, file = maps[region]
        assert row["Protection"] == flags
        # a file that was removed is called otherwise by the kernel's own listing
        assert file is None or "(deleted)" in file or row["File"] == file
    assert len(rows) > 160


def test_threads_of_the_kernel_have_no_memory(linux: Vol) -> None:
    """A task without memory of its own is passed over."""
    assert {row["PID"] for row in cut(linux)} == {PID}
